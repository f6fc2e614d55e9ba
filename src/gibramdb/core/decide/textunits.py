"""Decisions about text units and their links to entities."""

from __future__ import annotations

from gibramdb.core import limits as weights
from gibramdb.core.decide.admission import (
    Decision,
    Moment,
    check_content,
    check_int32,
    check_memory,
    check_vector,
    in_bulk,
    joined,
    require_found,
)
from gibramdb.core.state import SessionState
from gibramdb.core.titles import is_blank
from gibramdb.errors import AlreadyExistsError, CallerError, InvalidArgumentError, NotFoundError, StillReferencedError
from gibramdb.model.commands import AddTextUnits, DeleteTextUnit, LinkTextUnitEntity, UnlinkTextUnitEntity
from gibramdb.model.knowledge import NewTextUnit, TextUnit
from gibramdb.model.mutations import TextUnitDeleted, TextUnitLinked, TextUnitsAdded, TextUnitUnlinked
from gibramdb.model.results import Created, Done


def add(moment: Moment, command: AddTextUnits) -> Decision:
    """All or none. The order of checks differs between one and many, as it does in GibRAM."""
    for index, new in enumerate(command.textunits):
        check_content(f"textunits[{index}].content" if command.bulk else "content", new.content, moment.limits)
    session, opens = moment.session_or_new(command.session_id)
    vector_dim = moment.state.vector_dim
    first_id = session.textunits.next_id
    textunits: list[TextUnit] = []
    vectors: list[bytes] = []
    seen: set[str] = set()
    index = 0
    try:
        for index, new in enumerate(command.textunits):
            if is_blank(new.external_id):
                raise InvalidArgumentError("textunit external_id is required")
            if command.bulk:
                _check_free(session, new.external_id, seen)
            if new.document_id not in session.documents:
                raise NotFoundError(f"textunit document_id {new.document_id} does not exist")
            check_int32("textunit token_count", new.token_count)
            check_vector("textunit", new.vector, vector_dim)
            if not command.bulk:
                _check_free(session, new.external_id, seen)
            seen.add(new.external_id)
            textunits.append(_numbered(new, first_id + index, moment.now_ms))
            vectors.append(new.vector)
        index = 0
        if moment.limits.weighs:
            check_memory(moment, session, sum(map(weights.textunit_bytes, textunits, map(len, vectors))))
    except CallerError as cause:
        raise (in_bulk("textunits", index, cause) if command.bulk else cause) from None
    vector_ids, rows = joined(vectors, first_id)
    mutation = TextUnitsAdded(command.session_id, moment.now_ms, opens, tuple(textunits), vector_ids, rows)
    return mutation, Created(tuple(textunit.id for textunit in textunits), command.bulk)


def _check_free(session: SessionState, external_id: str, seen: set[str]) -> None:
    if external_id in session.textunits_by_external_id:
        raise AlreadyExistsError(f"textunit with external_id {external_id} already exists")
    if external_id in seen:
        raise AlreadyExistsError(f"textunit with external_id {external_id} already exists in bulk request")


def _numbered(new: NewTextUnit, id: int, now_ms: int) -> TextUnit:
    return TextUnit(id, new.external_id, new.document_id, new.content, new.token_count, now_ms)


def link(moment: Moment, command: LinkTextUnitEntity) -> Decision:
    """Both must be there; an existing link is left as it is."""
    try:
        session = moment.session(command.session_id)
        require_found(session.textunits.get(command.textunit_id), "textunit", command.textunit_id)
        require_found(session.entities.get(command.entity_id), "entity", command.entity_id)
        if command.entity_id in session.entities_by_textunit.get(command.textunit_id, {}):
            return None, Done()
        check_memory(moment, session, weights.LINK_BYTES)
    except CallerError as cause:
        raise type(cause)(f"link failed: {cause}") from None
    mutation = TextUnitLinked(
        command.session_id, moment.now_ms, opens=False, textunit_id=command.textunit_id, entity_id=command.entity_id
    )
    return mutation, Done()


def unlink(moment: Moment, command: UnlinkTextUnitEntity) -> Decision:
    """Both must be there; where they are not linked, nothing changes."""
    try:
        session = moment.session(command.session_id)
        require_found(session.textunits.get(command.textunit_id), "textunit", command.textunit_id)
        require_found(session.entities.get(command.entity_id), "entity", command.entity_id)
    except CallerError as cause:
        raise type(cause)(f"unlink failed: {cause}") from None
    if command.entity_id not in session.entities_by_textunit.get(command.textunit_id, {}):
        return None, Done()
    mutation = TextUnitUnlinked(
        command.session_id, moment.now_ms, opens=False, textunit_id=command.textunit_id, entity_id=command.entity_id
    )
    return mutation, Done()


def delete(moment: Moment, command: DeleteTextUnit) -> Decision:
    """Refused while entities are linked to it."""
    session = moment.session(command.session_id)
    require_found(session.textunits.get(command.id), "textunit", command.id)
    if command.id in session.entities_by_textunit:
        raise StillReferencedError(f"textunit {command.id} is linked to entities")
    return TextUnitDeleted(command.session_id, moment.now_ms, opens=False, id=command.id), Done(command.id)
