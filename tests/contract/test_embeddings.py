"""Embeddings come out as they went in, to the bit, in the order asked for; whoever has none is left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from support.embeddings import any_finite

import gibramdb
from gibramdb import NewCommunity, NewEntity, NewTextUnit, Session, commands
from gibramdb.errors import DimensionMismatchError, InvalidArgumentError, LimitExceededError
from gibramdb.session import EMBEDDINGS_ASKED_FIRST

GIVEN = any_finite(1_000)


def test_each_kind_has_its_own_and_they_are_the_same_bits(session: Session) -> None:
    session.add_document("d")
    session.add_textunits([NewTextUnit(f"t{n}", 1, "") for n in range(3)], embeddings=GIVEN[:3])
    session.add_entities([NewEntity(f"e{n}", f"e{n}") for n in range(2)], embeddings=GIVEN[3:5])
    session.add_community(NewCommunity("c", embedding=GIVEN[5]))
    for kind, given in (("textunit", GIVEN[:3]), ("entity", GIVEN[3:5]), ("community", GIVEN[5:6])):
        ids, vectors = session.get_embeddings(kind, range(10))
        assert ids == list(range(1, len(given) + 1))
        assert (vectors.shape, vectors.dtype.str, vectors.tobytes()) == (given.shape, "<f4", given.tobytes())


def test_they_keep_order_skip_what_is_missing_and_repeat(session: Session) -> None:
    session.add_entities([NewEntity("a", "a", embedding=GIVEN[0]), NewEntity("b", "b")])
    session.add_entity("c", "c", embedding=GIVEN[1])
    for asked in ([3, 2, 9, 1, 3, 0, 2**64 - 1], iter([3, 1, 3]), np.array([3, 1, 4, 3])):
        ids, vectors = session.get_embeddings("entity", asked)
        assert (ids, {type(id) for id in ids}) == ([3, 1, 3], {int})
        assert vectors.tobytes() == GIVEN[[1, 0, 1]].tobytes()
        vectors[:] = 0  # they are the caller's own
    session.delete_entity(3)
    assert session.get_embeddings("entity", [3, 1])[0] == [1]


def test_an_update_replaces_only_a_given_one(session: Session) -> None:
    session.add_entity("a", "a", embedding=GIVEN[0])
    session.update_entity_description(1, "otherwise")
    assert session.get_embeddings("entity", [1])[1].tobytes() == GIVEN[0].tobytes()
    session.update_entity_description(1, "once more", GIVEN[1])
    assert session.get_embeddings("entity", [1])[1].tobytes() == GIVEN[1].tobytes()
    with pytest.raises(DimensionMismatchError):
        session.update_entity_description(1, "", [1.0])
    assert session.get_embeddings("entity", [1])[1].tobytes() == GIVEN[1].tobytes()


@pytest.mark.parametrize("asked", [[], [1], range(6_000)], ids=len)
def test_where_there_is_none_the_matrix_has_no_rows_and_its_columns(session: Session, asked: list[int]) -> None:
    ids, vectors = session.get_embeddings("textunit", asked)
    assert (ids, vectors.shape, vectors.dtype.str) == ([], (0, 8), "<f4")


@pytest.mark.parametrize("kind", ["", "document", "Entity"])
def test_other_kinds_are_refused(session: Session, kind: str) -> None:
    for asked in ([], [1]):
        with pytest.raises(
            InvalidArgumentError, match=f"kind must be one of textunit, entity, community, got '{kind}'"
        ):
            session.get_embeddings(kind, asked)


def test_any_number_comes_in_chunks_and_in_order(session: Session) -> None:
    session.add_entities([NewEntity(f"e{n}", f"e{n}") for n in range(1_000)], embeddings=GIVEN)
    asked = np.random.default_rng(3).integers(1, 1_001, 12_000)
    ids, vectors = session.get_embeddings("entity", asked)
    assert ids == asked.tolist()
    assert vectors.tobytes() == GIVEN[asked - 1].tobytes()


def test_an_event_loop_gets_the_same_from_a_store_in_this_process() -> None:
    async def run() -> None:
        async def asked() -> AsyncIterator[int]:
            for id in (600, 9_999, 1):
                yield id

        async with gibramdb.open_async(None, vector_dim=8) as db:
            session = db.session("s")
            await session.add_entities([NewEntity(f"e{n}", f"e{n}") for n in range(1_000)], embeddings=GIVEN)
            ids, vectors = await session.get_embeddings("entity", asked())
            assert (ids, vectors.tobytes()) == ([600, 1], GIVEN[[599, 0]].tobytes())
            assert (await session.get_embeddings("entity", range(1, 1_001)))[1].tobytes() == GIVEN.tobytes()

    asyncio.run(run())


def test_too_much_for_one_answer_is_refused_before_it_is_made_and_comes_in_chunks() -> None:
    """At the highest dimension there is, where one answer holds the fewest."""
    given = np.random.default_rng(1).standard_normal((2, 65_536)).astype(np.float32)
    with gibramdb.open(None, vector_dim=65_536) as db:
        session = db.session("s")
        session.add_entities([NewEntity("a", "a"), NewEntity("b", "b")], embeddings=given)
        with pytest.raises(LimitExceededError, match="257 embeddings of 262144 bytes each"):
            db.execute(commands.GetEmbeddings("s", "entity", (1,) * 257))
        assert len(db.execute(commands.GetEmbeddings("s", "entity", (1,) * 256 + (3,) * 1_000)).ids) == 256
        asked = [1] * (EMBEDDINGS_ASKED_FIRST + 9) + [2]
        ids, vectors = session.get_embeddings("entity", asked)
        assert ids == asked
        assert vectors[-2:].tobytes() == given.tobytes()


def test_ids_and_scores_of_hits_come_as_arrays(session: Session) -> None:
    session.add_document("d")
    session.add_textunits([NewTextUnit("t", 1, "", [1.0] * 8)])
    session.add_entities([NewEntity(f"e{n}", f"e{n}", embedding=[1.0] * n + [0.0] * (8 - n)) for n in range(1, 4)])
    session.add_community(NewCommunity("c", embedding=[-1.0] * 8))
    answer = session.query(np.ones(8), hops=0)
    ids, scores = answer.arrays("entity")
    assert (ids.dtype.str, scores.dtype.str) == ("<i8", "<f8")
    assert (ids.tolist(), scores.tolist()) == ([3, 2, 1], [hit.score for hit in answer.entities])
    assert [each.tolist() for each in answer.arrays("textunit")] == [[1], [1.0]]
    assert [each.tolist() for each in answer.arrays("community")] == [[1], [-1.0]]
    assert [each.shape for each in session.query(np.ones(8), search_types=["entity"], hops=0).arrays("textunit")] == [
        (0,), (0,),
    ]  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="kind must be one of"):
        answer.arrays("relationship")
