"""What a read answers: pure functions of the state, one for each command that needs nothing but the state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import msgspec

from gibramdb.core import limits
from gibramdb.core.decide.admission import live_session, require_found, require_session_id
from gibramdb.core.state import SessionState, StoreState
from gibramdb.core.table import Table
from gibramdb.core.titles import normalise_title
from gibramdb.errors import LimitExceededError, NotFoundError
from gibramdb.model import commands
from gibramdb.model.commands import ReadCommand, check_kind
from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit
from gibramdb.model.results import Objects, Page, Result, SessionInfo, SessionPage, StoredEmbeddings
from gibramdb.retrieval.query import (
    answered_entity_bytes,
    answered_textunit_bytes,
    entity_with_links,
    textunit_with_links,
    vector_indexes,
)

T = TypeVar("T")
R = TypeVar("R", TextUnit, Entity)


def _get_document(state: StoreState, command: commands.GetDocument, now_ms: int) -> Document:
    session = live_session(state, command.session_id, now_ms)
    document = session.documents.get(command.id)
    require_found(document, "document", command.id)
    assert document is not None
    textunit_ids = tuple(session.textunits_by_document.get(document.id, ()))
    return msgspec.structs.replace(document, textunit_ids=textunit_ids)


def _get_textunit(state: StoreState, command: commands.GetTextUnit, now_ms: int) -> TextUnit:
    session = live_session(state, command.session_id, now_ms)
    textunit = session.textunits.get(command.id)
    require_found(textunit, "textunit", command.id)
    assert textunit is not None
    return textunit_with_links(session, textunit)


def _get_entity(state: StoreState, command: commands.GetEntity, now_ms: int) -> Entity:
    session = live_session(state, command.session_id, now_ms)
    entity = session.entities.get(command.id)
    require_found(entity, "entity", command.id)
    assert entity is not None
    return entity_with_links(session, entity)


def _get_entity_by_title(state: StoreState, command: commands.GetEntityByTitle, now_ms: int) -> Entity:
    session = live_session(state, command.session_id, now_ms)
    title = normalise_title(command.title)
    entity = session.entities.get(session.entities_by_title.get(title, 0))
    if entity is None:
        raise NotFoundError(f"entity not found: {title}")
    return entity_with_links(session, entity)


def _get_relationship(state: StoreState, command: commands.GetRelationship, now_ms: int) -> Relationship:
    session = live_session(state, command.session_id, now_ms)
    relationship = session.relationships.get(command.id)
    require_found(relationship, "relationship", command.id)
    assert relationship is not None
    return relationship


def _get_community(state: StoreState, command: commands.GetCommunity, now_ms: int) -> Community:
    session = live_session(state, command.session_id, now_ms)
    community = session.communities.get(command.id)
    require_found(community, "community", command.id)
    assert community is not None
    return community


# --- one object by the name that its caller gave it -------------------------------------------------------------------


def _get_document_by_external_id(state: StoreState, command: commands.GetDocumentByExternalId, now_ms: int) -> Document:
    ids = live_session(state, command.session_id, now_ms).documents_by_external_id
    return _get_document(
        state, commands.GetDocument(command.session_id, _named(ids, "document", command.external_id)), now_ms
    )


def _get_textunit_by_external_id(state: StoreState, command: commands.GetTextUnitByExternalId, now_ms: int) -> TextUnit:
    ids = live_session(state, command.session_id, now_ms).textunits_by_external_id
    return _get_textunit(
        state, commands.GetTextUnit(command.session_id, _named(ids, "textunit", command.external_id)), now_ms
    )


def _get_entity_by_external_id(state: StoreState, command: commands.GetEntityByExternalId, now_ms: int) -> Entity:
    ids = live_session(state, command.session_id, now_ms).entities_by_external_id
    return _get_entity(
        state, commands.GetEntity(command.session_id, _named(ids, "entity", command.external_id)), now_ms
    )


def _get_relationship_by_external_id(
    state: StoreState, command: commands.GetRelationshipByExternalId, now_ms: int
) -> Relationship:
    ids = live_session(state, command.session_id, now_ms).relationships_by_external_id
    return _get_relationship(
        state, commands.GetRelationship(command.session_id, _named(ids, "relationship", command.external_id)), now_ms
    )


def _get_community_by_external_id(
    state: StoreState, command: commands.GetCommunityByExternalId, now_ms: int
) -> Community:
    ids = live_session(state, command.session_id, now_ms).communities_by_external_id
    return _get_community(
        state, commands.GetCommunity(command.session_id, _named(ids, "community", command.external_id)), now_ms
    )


def _named(ids: dict[str, int], noun: str, external_id: str) -> int:
    id = ids.get(external_id)
    if id is None:
        raise NotFoundError(f"{noun} not found: external_id {external_id}")
    return id


# --- many at once: an unknown or expired session answers nothing, without an error ------------------------------------


def _session_or_none(state: StoreState, session_id: str, now_ms: int) -> SessionState | None:
    session = state.sessions.get(require_session_id(session_id))
    return None if session is None or state.is_expired(session, now_ms) else session


def _found(table: Table[T], ids: Iterable[int], weigh: Callable[[T], int]) -> list[T]:
    found: list[T] = []
    total_bytes = 0
    for id in ids:
        record = table.get(id)
        if record is not None:
            total_bytes += weigh(record)
            if total_bytes > limits.GET_BYTES_MAX:
                raise LimitExceededError(
                    f"answer too large: over {limits.GET_BYTES_MAX} bytes after {len(found)} objects; ask for fewer"
                )
            found.append(record)
    return found


def _each_made_once(found: list[R], with_links: Callable[[R], R]) -> tuple[R, ...]:
    """With their links. One that was asked for many times is one object: its links may be many."""
    made: dict[int, R] = {}
    for record in found:
        if record.id not in made:
            made[record.id] = with_links(record)
    return tuple(made[record.id] for record in found)


def _get_documents(state: StoreState, command: commands.GetDocuments, now_ms: int) -> Objects[Document]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Objects(())
    return Objects(tuple(_found(session.documents, command.ids, limits.document_bytes)))


def _get_textunits(state: StoreState, command: commands.GetTextUnits, now_ms: int) -> Objects[TextUnit]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Objects(())
    found = _found(session.textunits, command.ids, partial(answered_textunit_bytes, session))
    return Objects(_each_made_once(found, partial(textunit_with_links, session)))


def _get_entities(state: StoreState, command: commands.GetEntities, now_ms: int) -> Objects[Entity]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Objects(())
    found = _found(session.entities, command.ids, partial(answered_entity_bytes, session))
    return Objects(_each_made_once(found, partial(entity_with_links, session)))


def _get_relationships(state: StoreState, command: commands.GetRelationships, now_ms: int) -> Objects[Relationship]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Objects(())
    return Objects(tuple(_found(session.relationships, command.ids, limits.relationship_bytes)))


def _get_embeddings(state: StoreState, command: commands.GetEmbeddings, now_ms: int) -> StoredEmbeddings:
    session = _session_or_none(state, command.session_id, now_ms)
    kind = check_kind(command.kind)
    if session is None:
        return StoredEmbeddings((), memoryview(b""), state.vector_dim)
    index = vector_indexes(session)[kind]
    ids = tuple([id for id in command.ids if id in index])
    if len(ids) * index.row_bytes > limits.GET_BYTES_MAX:
        raise LimitExceededError(
            f"answer too large: {len(ids)} embeddings of {index.row_bytes} bytes each "
            f"(max: {limits.GET_BYTES_MAX} bytes in all); ask for fewer"
        )
    return StoredEmbeddings(ids, index.pick(ids), state.vector_dim)


def _page(table: Table[T], cursor: int, limit: int, weigh: Callable[[T], int]) -> tuple[list[T], bool]:
    wanted = limits.LIST_LIMIT_DEFAULT if limit <= 0 else min(limit, limits.LIST_LIMIT_MAX)
    records, has_more = table.after(cursor, wanted)
    total_bytes = 0
    for index, record in enumerate(records):
        total_bytes += weigh(record)
        # A page ends early rather than growing past what an answer may weigh; the cursor takes the caller on.
        if total_bytes > limits.GET_BYTES_MAX and index:
            return records[:index], True
    return records, has_more


def _list_documents(state: StoreState, command: commands.ListDocuments, now_ms: int) -> Page[Document]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Page(())
    records, has_more = _page(session.documents, command.cursor, command.limit, limits.document_bytes)
    return Page(tuple(records), records[-1].id if has_more else 0)


def _list_textunits(state: StoreState, command: commands.ListTextUnits, now_ms: int) -> Page[TextUnit]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Page(())
    records, has_more = _page(
        session.textunits, command.cursor, command.limit, partial(answered_textunit_bytes, session)
    )
    answered = tuple(textunit_with_links(session, record) for record in records)
    return Page(answered, records[-1].id if has_more else 0)


def _list_entities(state: StoreState, command: commands.ListEntities, now_ms: int) -> Page[Entity]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Page(())
    records, has_more = _page(session.entities, command.cursor, command.limit, partial(answered_entity_bytes, session))
    answered = tuple(entity_with_links(session, record) for record in records)
    return Page(answered, records[-1].id if has_more else 0)


def _list_relationships(state: StoreState, command: commands.ListRelationships, now_ms: int) -> Page[Relationship]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Page(())
    records, has_more = _page(session.relationships, command.cursor, command.limit, limits.relationship_bytes)
    return Page(tuple(records), records[-1].id if has_more else 0)


def _list_communities(state: StoreState, command: commands.ListCommunities, now_ms: int) -> Page[Community]:
    session = _session_or_none(state, command.session_id, now_ms)
    if session is None:
        return Page(())
    records, has_more = _page(
        session.communities, command.cursor, command.limit, lambda each: limits.community_bytes(each, 0)
    )
    return Page(tuple(records), records[-1].id if has_more else 0)


# --- sessions and the store -------------------------------------------------------------------------------------------


def session_info(session: SessionState) -> SessionInfo:
    """A session's times and counts."""
    return SessionInfo(
        session.session_id,
        session.created_at_ms,
        session.last_access_ms,
        session.ttl_ms // 1000,
        session.idle_ttl_ms // 1000,
        len(session.documents),
        len(session.textunits),
        len(session.entities),
        len(session.relationships),
        len(session.communities),
    )


def _get_session(state: StoreState, command: commands.GetSession, now_ms: int) -> SessionInfo:
    return session_info(live_session(state, command.session_id, now_ms))


def _list_sessions(state: StoreState, command: commands.ListSessions, now_ms: int) -> SessionPage:
    found = sorted(
        name
        for name, session in state.sessions.items()
        if name > command.cursor
        and (command.scope is None or command.scope.holds(name))
        and not state.is_expired(session, now_ms)
    )
    page = found if command.limit <= 0 else found[: min(command.limit, limits.LIST_LIMIT_MAX)]
    infos = tuple(session_info(state.sessions[name]) for name in page)
    return SessionPage(infos, page[-1] if len(page) < len(found) else "")


# Any: each function takes its own command; the table ties the two, and a test that none is missing.
READS: dict[type[ReadCommand], Callable[[StoreState, Any, int], Result]] = {
    commands.GetDocument: _get_document,
    commands.GetTextUnit: _get_textunit,
    commands.GetEntity: _get_entity,
    commands.GetEntityByTitle: _get_entity_by_title,
    commands.GetRelationship: _get_relationship,
    commands.GetCommunity: _get_community,
    commands.GetDocumentByExternalId: _get_document_by_external_id,
    commands.GetTextUnitByExternalId: _get_textunit_by_external_id,
    commands.GetEntityByExternalId: _get_entity_by_external_id,
    commands.GetRelationshipByExternalId: _get_relationship_by_external_id,
    commands.GetCommunityByExternalId: _get_community_by_external_id,
    commands.GetDocuments: _get_documents,
    commands.GetTextUnits: _get_textunits,
    commands.GetEntities: _get_entities,
    commands.GetRelationships: _get_relationships,
    commands.GetEmbeddings: _get_embeddings,
    commands.ListDocuments: _list_documents,
    commands.ListTextUnits: _list_textunits,
    commands.ListEntities: _list_entities,
    commands.ListRelationships: _list_relationships,
    commands.ListCommunities: _list_communities,
    commands.GetSession: _get_session,
    commands.ListSessions: _list_sessions,
}
