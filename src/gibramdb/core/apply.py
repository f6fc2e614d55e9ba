"""A mutation becomes part of the state. The only code that changes it; live writes, replay and snapshots all pass here.

Reads no clock and no settings, refuses nothing: if `decide` said yes, this succeeds, and if it raises all the same the
store halts, because memory and log no longer agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import filterfalse
from typing import Any

import msgspec

from gibramdb.core import limits
from gibramdb.core.state import SessionState, StoreState
from gibramdb.model import mutations
from gibramdb.model.ids import Lsn
from gibramdb.model.knowledge import Relationship
from gibramdb.model.mutations import Mutation


def apply(state: StoreState, mutation: Mutation, lsn: Lsn) -> None:
    """Change the state by one mutation, whose record ends at `lsn`."""
    state.last_lsn = lsn
    if isinstance(mutation, mutations.SessionDeleted | mutations.SessionExpired):
        state.memory_bytes -= state.sessions.pop(mutation.session_id).all_bytes
        return
    if isinstance(mutation, mutations.WrittenOnce):
        apply(state, mutation.change or _use(mutation), lsn)
        session = state.sessions[mutation.session_id]
        before_bytes = session.memory_bytes
        if isinstance(mutation, mutations.WrittenOnceInPlace):
            _forget_oldest_token(session)
        _keep_token(session, mutation.kept)
        state.memory_bytes += session.memory_bytes - before_bytes
        return
    if mutation.opens:
        replaced = state.sessions.get(mutation.session_id)
        if replaced is not None:
            state.memory_bytes -= replaced.all_bytes
        session = SessionState(mutation.session_id, lsn, mutation.at_ms, state.vector_dim)
        state.memory_bytes += session.all_bytes
        state.sessions[mutation.session_id] = session
    else:
        session = state.sessions[mutation.session_id]
    session.changed_lsn = lsn
    if isinstance(mutation, mutations.SessionReadNoted):
        # Leaves `last_lsn` alone: no reply ever waits for the note that somebody has read.
        session.read_noted_at_ms = mutation.at_ms
        return
    session.last_lsn = lsn
    if isinstance(mutation, mutations.SessionEnded):
        session.is_ended = True
        return
    session.touched_at_ms = mutation.at_ms
    before_bytes = session.memory_bytes
    _APPLY[type(mutation)](session, mutation)
    state.memory_bytes += session.memory_bytes - before_bytes


def _use(mutation: mutations.WrittenOnce) -> mutations.SessionTouched:
    """Of a write that had nothing to change: all the same the session was used."""
    return mutations.SessionTouched(mutation.session_id, mutation.at_ms, mutation.opens)


def _keep_token(session: SessionState, kept: mutations.KeptToken) -> None:
    number = session.tokens.next_id
    session.tokens.put(number, kept)
    session.index_token(number, kept)
    while (oldest := session.oldest_token()) is not None and (
        len(session.tokens) > limits.TOKENS_KEPT_MAX or oldest.at_ms < kept.at_ms - limits.TOKEN_AGE_MS_MAX
    ):
        _forget_oldest_token(session)


def _forget_oldest_token(session: SessionState) -> None:
    oldest = session.oldest_token()
    assert oldest is not None
    session.tokens.remove(session.tokens.next_id - len(session.tokens))
    session.forget_token(oldest)


def _tokens_kept(session: SessionState, mutation: mutations.TokensKept) -> None:
    for number, kept in enumerate(mutation.tokens, mutation.first_id):
        session.tokens.put(number, kept)
        session.index_token(number, kept)


def _restored(session: SessionState, mutation: mutations.SessionRestored) -> None:
    session.incarnation = Lsn(mutation.incarnation)
    session.created_at_ms = session.read_at_ms = mutation.created_at_ms
    session.read_noted_at_ms = mutation.read_noted_at_ms
    session.ttl_ms = mutation.ttl_ms
    session.idle_ttl_ms = mutation.idle_ttl_ms
    session.is_ended = mutation.is_ended
    for table, next_id in zip(session.tables(), mutation.next_ids, strict=True):
        table.next_id = next_id


def _ttl_set(session: SessionState, mutation: mutations.SessionTtlSet) -> None:
    session.ttl_ms = mutation.ttl_ms
    session.idle_ttl_ms = mutation.idle_ttl_ms


def _touched(session: SessionState, mutation: mutations.SessionTouched) -> None:
    del session, mutation  # every mutation of a session counts as a use; this one does nothing else


def _documents_added(session: SessionState, mutation: mutations.DocumentsAdded) -> None:
    for document in mutation.documents:
        session.documents.put(document.id, document)
        session.index_document(document)


def _textunits_added(session: SessionState, mutation: mutations.TextUnitsAdded) -> None:
    session.textunit_vectors.add(mutation.vector_ids, mutation.vectors)
    for textunit in mutation.textunits:
        session.textunits.put(textunit.id, textunit)
        session.index_textunit(textunit, session.textunit_vectors.stored_bytes(textunit.id))


def _entities_added(session: SessionState, mutation: mutations.EntitiesAdded) -> None:
    session.entity_vectors.add(mutation.vector_ids, mutation.vectors)
    for entity in mutation.entities:
        session.entities.put(entity.id, entity)
        session.index_entity(entity, session.entity_vectors.stored_bytes(entity.id))


def _relationships_added(session: SessionState, mutation: mutations.RelationshipsAdded) -> None:
    for relationship in mutation.relationships:
        session.relationships.put(relationship.id, relationship)
        session.index_relationship(relationship)


def _community_added(session: SessionState, mutation: mutations.CommunityAdded) -> None:
    community = mutation.community
    if mutation.vector:
        session.community_vectors.add((community.id,), mutation.vector)
    session.communities.put(community.id, community)
    session.index_community(community, len(mutation.vector))


def _communities_replaced(session: SessionState, mutation: mutations.CommunitiesReplaced) -> None:
    for id in mutation.removed_ids:
        _remove_community(session, id)
    for community in mutation.communities:
        session.communities.put(community.id, community)
        session.index_community(community, 0)


def _communities_added(session: SessionState, mutation: mutations.CommunitiesAdded) -> None:
    session.community_vectors.add(mutation.vector_ids, mutation.vectors)
    for community in mutation.communities:
        session.communities.put(community.id, community)
        session.index_community(community, session.community_vectors.stored_bytes(community.id))


def _textunits_linked(session: SessionState, mutation: mutations.TextUnitsLinked) -> None:
    for index, (textunit_id, entity_id) in enumerate(mutation.links, mutation.first_id):
        session.links.put(index, (textunit_id, entity_id))
        session.index_link(index, textunit_id, entity_id)


def _textunit_linked(session: SessionState, mutation: mutations.TextUnitLinked) -> None:
    number = session.links.next_id
    session.links.put(number, (mutation.textunit_id, mutation.entity_id))
    session.index_link(number, mutation.textunit_id, mutation.entity_id)


def _textunit_unlinked(session: SessionState, mutation: mutations.TextUnitUnlinked) -> None:
    _remove_link(session, mutation.textunit_id, mutation.entity_id)


def _remove_link(session: SessionState, textunit_id: int, entity_id: int) -> None:
    session.links.remove(session.entities_by_textunit[textunit_id][entity_id])
    session.forget_link(textunit_id, entity_id)


def _entity_described(session: SessionState, mutation: mutations.EntityDescribed) -> None:
    old = session.entities.get(mutation.id)
    assert old is not None
    session.forget_entity(old, session.entity_vectors.stored_bytes(old.id))
    if mutation.vector:
        session.entity_vectors.replace(old.id, mutation.vector)
    new = msgspec.structs.replace(old, description=mutation.description)
    session.entities.put(new.id, new)
    session.index_entity(new, session.entity_vectors.stored_bytes(new.id))


def _document_deleted(session: SessionState, mutation: mutations.DocumentDeleted) -> None:
    _remove_document(session, mutation.id)


def _remove_document(session: SessionState, id: int) -> None:
    document = session.documents.get(id)
    assert document is not None
    session.documents.remove(document.id)
    session.forget_document(document)


def _textunit_deleted(session: SessionState, mutation: mutations.TextUnitDeleted) -> None:
    _remove_textunit(session, mutation.id)


def _remove_textunit(session: SessionState, id: int) -> None:
    textunit = session.textunits.get(id)
    assert textunit is not None
    session.textunits.remove(textunit.id)
    session.forget_textunit(textunit, session.textunit_vectors.stored_bytes(textunit.id))
    session.textunit_vectors.remove(textunit.id)


def _entity_deleted(session: SessionState, mutation: mutations.EntityDeleted) -> None:
    _remove_entity(session, mutation.id)


def _remove_entity(session: SessionState, id: int) -> None:
    entity = session.entities.get(id)
    assert entity is not None
    session.entities.remove(entity.id)
    session.forget_entity(entity, session.entity_vectors.stored_bytes(entity.id))
    session.entity_vectors.remove(entity.id)


def _relationship_deleted(session: SessionState, mutation: mutations.RelationshipDeleted) -> None:
    _remove_relationships(session, (mutation.id,))


def _remove_relationships(session: SessionState, ids: Iterable[int]) -> None:
    removed: list[Relationship] = []
    for id in ids:
        relationship = session.relationships.get(id)
        assert relationship is not None
        session.relationships.remove(id)
        removed.append(relationship)
    session.forget_relationships(removed)


def _community_deleted(session: SessionState, mutation: mutations.CommunityDeleted) -> None:
    _remove_community(session, mutation.id)


def _remove_community(session: SessionState, id: int) -> None:
    community = session.communities.get(id)
    assert community is not None
    session.communities.remove(id)
    session.forget_community(community, session.community_vectors.stored_bytes(id))
    session.community_vectors.remove(id)


def _cascade_deleted(session: SessionState, mutation: mutations.CascadeDeleted) -> None:
    for textunit_id, entity_id in mutation.links:
        _remove_link(session, textunit_id, entity_id)
    _take_out_of_communities(session, set(mutation.entity_ids), set(mutation.relationship_ids))
    _remove_relationships(session, mutation.relationship_ids)
    for remove, ids in (
        (_remove_entity, mutation.entity_ids),
        (_remove_textunit, mutation.textunit_ids),
        (_remove_document, mutation.document_ids),
    ):
        for id in ids:
            remove(session, id)


def _take_out_of_communities(session: SessionState, entity_ids: set[int], relationship_ids: set[int]) -> None:
    # Each community is made anew once, whatever it loses; a place in the index goes alone: there may be a hundred
    # communities of a hundred thousand members.
    community_ids: set[int] = set()
    for id in entity_ids:
        community_ids.update(session.communities_by_entity.pop(id, ()))
    for id in relationship_ids:
        community_ids.update(session.communities_by_relationship.pop(id, ()))
    for community_id in community_ids:
        old = session.communities.get(community_id)
        assert old is not None
        new = msgspec.structs.replace(
            old,
            entity_ids=tuple(filterfalse(entity_ids.__contains__, old.entity_ids)),
            relationship_ids=tuple(filterfalse(relationship_ids.__contains__, old.relationship_ids)),
        )
        session.communities.put(community_id, new)
        session.memory_bytes -= limits.MEMBER_BYTES * (limits.member_count(old) - limits.member_count(new))


# Keyed by class, because a chain of `case` tests costs more than the change itself; a test holds that none is missing.
# Any: each function takes its own mutation.
_APPLY: dict[type, Callable[[SessionState, Any], None]] = {
    mutations.SessionRestored: _restored,
    mutations.SessionTtlSet: _ttl_set,
    mutations.SessionTouched: _touched,
    mutations.DocumentsAdded: _documents_added,
    mutations.TextUnitsAdded: _textunits_added,
    mutations.EntitiesAdded: _entities_added,
    mutations.RelationshipsAdded: _relationships_added,
    mutations.CommunityAdded: _community_added,
    mutations.CommunitiesReplaced: _communities_replaced,
    mutations.CommunitiesAdded: _communities_added,
    mutations.TextUnitLinked: _textunit_linked,
    mutations.TextUnitsLinked: _textunits_linked,
    mutations.TokensKept: _tokens_kept,
    mutations.TextUnitUnlinked: _textunit_unlinked,
    mutations.EntityDescribed: _entity_described,
    mutations.DocumentDeleted: _document_deleted,
    mutations.TextUnitDeleted: _textunit_deleted,
    mutations.EntityDeleted: _entity_deleted,
    mutations.RelationshipDeleted: _relationship_deleted,
    mutations.CommunityDeleted: _community_deleted,
    mutations.CascadeDeleted: _cascade_deleted,
}
