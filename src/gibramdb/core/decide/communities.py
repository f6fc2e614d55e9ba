"""Decisions about communities, made by hand or detected."""

from __future__ import annotations

from collections import Counter

from gibramdb.core import limits as weights
from gibramdb.core.decide.admission import (
    Decision,
    Moment,
    check_content,
    check_int32,
    check_memory,
    check_vector,
    require_found,
)
from gibramdb.core.state import SessionState
from gibramdb.errors import AlreadyExistsError, NotFoundError, SessionNotFoundError
from gibramdb.model.commands import AddCommunity, DeleteCommunity, ReplaceCommunities
from gibramdb.model.knowledge import DETECTED, MADE_BY_HAND, Community
from gibramdb.model.mutations import CommunitiesReplaced, CommunityAdded, CommunityDeleted
from gibramdb.model.results import Created, Detected, Done, Hierarchy

_TITLE_MEMBERS = 3


def add(moment: Moment, command: AddCommunity) -> Decision:
    """External id free if given, then members there, then the embedding sound, then the quota."""
    new = command.community
    check_content("summary", new.summary, moment.limits)
    check_content("full_content", new.full_content, moment.limits)
    session, opens = moment.session_or_new(command.session_id)
    if new.external_id and new.external_id in session.communities_by_external_id:
        raise AlreadyExistsError(f"community with external_id {new.external_id} already exists")
    for id in new.entity_ids:
        if id not in session.entities:
            raise NotFoundError(f"community entity_id {id} does not exist")
    for id in new.relationship_ids:
        if id not in session.relationships:
            raise NotFoundError(f"community relationship_id {id} does not exist")
    check_int32("community level", new.level)
    check_vector("community", new.vector, moment.state.vector_dim)
    community = Community(
        session.communities.next_id,
        new.external_id,
        new.title,
        new.summary,
        new.full_content,
        new.level,
        tuple(new.entity_ids),
        tuple(new.relationship_ids),
        moment.now_ms,
        MADE_BY_HAND,
    )
    check_memory(moment, session, weights.community_bytes(community, len(new.vector)))
    mutation = CommunityAdded(command.session_id, moment.now_ms, opens, community, new.vector)
    return mutation, Created((community.id,), bulk=False)


def delete(moment: Moment, command: DeleteCommunity) -> Decision:
    """Never refused."""
    session = moment.session(command.session_id)
    require_found(session.communities.get(command.id), "community", command.id)
    return CommunityDeleted(command.session_id, moment.now_ms, opens=False, id=command.id), Done(command.id)


def replace(moment: Moment, command: ReplaceCommunities) -> Decision:
    """What was detected on an earlier view takes the place of what was detected before that.

    The clusters were found while the session went on changing: members that are gone since are dropped, and so is a
    cluster that has none left. Communities made by hand stay.
    """
    session = moment.session(command.session_id)
    if session.incarnation != command.incarnation:
        raise SessionNotFoundError(f"session not found: {command.session_id} was replaced by another meanwhile")
    removed = [community for community in session.communities if community.origin == DETECTED]
    ids: list[int] = []  # of each cluster; 0 where nothing is left of it
    communities: list[Community] = []
    next_id = session.communities.next_id
    for cluster in command.clusters:
        entity_ids = tuple(id for id in cluster.entity_ids if id in session.entities)
        if not entity_ids:
            ids.append(0)
            continue
        ids.append(next_id + len(communities))
        communities.append(
            Community(
                ids[-1],
                "",
                _title(session, entity_ids),
                "",
                "",
                cluster.level,
                entity_ids,
                tuple(id for id in cluster.relationship_ids if id in session.relationships),
                moment.now_ms,
                DETECTED,
                ids[cluster.parent] if cluster.parent >= 0 else 0,
            )
        )
    added = sum(weights.community_bytes(community, 0) for community in communities)
    freed = sum(weights.community_bytes(community, 0) for community in removed)
    check_memory(moment, session, added, freed)
    removed_ids = tuple(community.id for community in removed)
    mutation = CommunitiesReplaced(
        command.session_id, moment.now_ms, opens=False, removed_ids=removed_ids, communities=tuple(communities)
    )
    if command.hierarchy:
        counts = Counter(community.level for community in communities)
        return mutation, Hierarchy(dict(sorted(counts.items())), len(communities))
    return mutation, Detected(tuple(communities))


def _title(session: SessionState, entity_ids: tuple[int, ...]) -> str:
    members = (session.entities.get(id) for id in entity_ids[:_TITLE_MEMBERS])
    return ", ".join(member.title for member in members if member is not None)
