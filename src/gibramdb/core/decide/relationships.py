"""Decisions about relationships."""

from __future__ import annotations

import math
import struct

from gibramdb.core import limits as weights
from gibramdb.core.decide.admission import (
    Decision,
    Moment,
    check_content,
    check_memory,
    check_quota,
    in_bulk,
    require_found,
)
from gibramdb.core.state import SessionState
from gibramdb.errors import AlreadyExistsError, CallerError, InvalidArgumentError, NotFoundError, StillReferencedError
from gibramdb.model.commands import AddRelationships, DeleteRelationship
from gibramdb.model.knowledge import NewRelationship, Relationship
from gibramdb.model.mutations import RelationshipDeleted, RelationshipsAdded
from gibramdb.model.results import Created, Done

_FLOAT32 = struct.Struct("<f")


def add(moment: Moment, command: AddRelationships) -> Decision:
    """All or none; per item: both ends there, the triple free, the external id free if given; then the quotas."""
    for index, new in enumerate(command.relationships):
        name = f"relationships[{index}].description" if command.bulk else "description"
        check_content(name, new.description, moment.limits)
    session, opens = moment.session_or_new(command.session_id)
    first_id = session.relationships.next_id
    relationships: list[Relationship] = []
    triples: set[tuple[int, int, str]] = set()
    external_ids: set[str] = set()
    index = 0
    try:
        for index, new in enumerate(command.relationships):
            _check_free(session, new, triples, external_ids)
            weight = stored_weight(new.weight)
            triples.add((new.source_id, new.target_id, new.type))
            external_ids.add(new.external_id)
            relationships.append(_numbered(new, first_id + index, weight, moment.now_ms))
        index = 0
        limits = moment.limits
        check_quota(len(session.relationships), len(relationships), limits.session_relationships_max, "relationship")
        if limits.weighs:
            check_memory(moment, session, sum(map(weights.relationship_bytes, relationships)))
    except CallerError as cause:
        raise (in_bulk("relationships", index, cause) if command.bulk else cause) from None
    mutation = RelationshipsAdded(command.session_id, moment.now_ms, opens, tuple(relationships))
    return mutation, Created(tuple(relationship.id for relationship in relationships), command.bulk)


def _check_free(
    session: SessionState, new: NewRelationship, triples: set[tuple[int, int, str]], external_ids: set[str]
) -> None:
    if new.source_id not in session.entities:
        raise NotFoundError(f"relationship source_id {new.source_id} does not exist")
    if new.target_id not in session.entities:
        raise NotFoundError(f"relationship target_id {new.target_id} does not exist")
    triple = (new.source_id, new.target_id, new.type)
    said = f"relationship from {new.source_id} to {new.target_id} with type {new.type} already exists"
    if triple in session.relationships_by_triple:
        raise AlreadyExistsError(said)
    if triple in triples:
        raise AlreadyExistsError(f"{said} in bulk request")
    if new.external_id:
        said = f"relationship with external_id {new.external_id} already exists"
        if new.external_id in session.relationships_by_external_id:
            raise AlreadyExistsError(said)
        if new.external_id in external_ids:
            raise AlreadyExistsError(f"{said} in bulk request")


def stored_weight(weight: float) -> float:
    """As the wire can carry it: float32, and 1.0 where none was given.

    Raises InvalidArgumentError if it is none that can be stored.
    """
    if weight == 0:
        return 1.0
    if not math.isfinite(weight):
        raise InvalidArgumentError(f"relationship weight must be finite, got {weight}")
    try:
        stored: float = _FLOAT32.unpack(_FLOAT32.pack(weight))[0]
    except (OverflowError, struct.error):
        raise InvalidArgumentError(f"relationship weight does not fit in a 32-bit float: {weight}") from None
    return stored or 1.0  # what is too small for 32 bits would have come over the wire as 0


def _numbered(new: NewRelationship, id: int, weight: float, now_ms: int) -> Relationship:
    return Relationship(id, new.external_id, new.source_id, new.target_id, new.type, new.description, weight, now_ms)


def delete(moment: Moment, command: DeleteRelationship) -> Decision:
    """Refused while communities refer to it."""
    session = moment.session(command.session_id)
    require_found(session.relationships.get(command.id), "relationship", command.id)
    if command.id in session.communities_by_relationship:
        raise StillReferencedError(f"relationship {command.id} is referenced by communities")
    return RelationshipDeleted(command.session_id, moment.now_ms, opens=False, id=command.id), Done(command.id)
