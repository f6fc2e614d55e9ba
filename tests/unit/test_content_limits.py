from __future__ import annotations

import pytest

from gibramdb.core.decide import decide
from gibramdb.core.limits import Limits
from gibramdb.core.state import StoreState
from gibramdb.errors import CallerError, LimitExceededError
from gibramdb.model import commands as c
from gibramdb.model.knowledge import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit

BIG = "ß" * 6
"""12 bytes of UTF-8."""


def refusal_of(command: c.WriteCommand, content_bytes_max: int) -> CallerError | None:
    try:
        decide(StoreState(4), command, 0, Limits(content_bytes_max=content_bytes_max))
    except CallerError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (c.AddTextUnits("s", (NewTextUnit("e", 1, BIG),), bulk=False), "content"),
        (c.AddTextUnits("s", (NewTextUnit("e", 1, ""), NewTextUnit("e", 1, BIG))), "textunits[1].content"),
        (c.AddEntities("s", (NewEntity("e", "t", "", BIG),), bulk=False), "description"),
        (c.AddEntities("s", (NewEntity("e", "t", "", BIG),)), "entities[0].description"),
        (c.AddRelationships("s", (NewRelationship(1, 2, "", BIG),), bulk=False), "description"),
        (c.AddRelationships("s", (NewRelationship(1, 2, "", BIG),)), "relationships[0].description"),
        (c.UpdateEntityDescription("s", 1, BIG), "description"),
        (c.AddCommunity("s", NewCommunity("t", summary=BIG)), "summary"),
        (c.AddCommunity("s", NewCommunity("t", full_content=BIG)), "full_content"),
    ],
)
def test_a_text_above_the_limit_is_refused_by_field(command: c.WriteCommand, field: str) -> None:
    refusal = refusal_of(command, 11)
    assert isinstance(refusal, LimitExceededError)
    assert str(refusal) == f"{field} too large: 12 bytes (max: 11)"
    assert not isinstance(refusal_of(command, 12), LimitExceededError)


def test_titles_types_names_and_external_ids_have_no_limit_of_their_own() -> None:
    assert refusal_of(c.AddEntities("s" * 50, (NewEntity(BIG, BIG, BIG),), bulk=False), 1) is None
    assert refusal_of(c.AddDocuments("s", (NewDocument(BIG, BIG),)), 1) is None
