"""Decisions about entities."""

from __future__ import annotations

from typing import cast

from gibramdb.core import limits as weights
from gibramdb.core.decide.admission import (
    Decision,
    Moment,
    check_content,
    check_memory,
    check_quota,
    check_vector,
    in_bulk,
    joined,
    require_found,
)
from gibramdb.core.state import SessionState
from gibramdb.core.titles import is_blank, normalise_title
from gibramdb.errors import AlreadyExistsError, CallerError, InvalidArgumentError, StillReferencedError
from gibramdb.model.commands import AddEntities, DeleteEntity, UpdateEntityDescription
from gibramdb.model.knowledge import Entity, NewEntity
from gibramdb.model.mutations import EntitiesAdded, EntityDeleted, EntityDescribed
from gibramdb.model.results import Created, Done


def add(moment: Moment, command: AddEntities) -> Decision:
    """All or none; per item: external id given, title free, external id free, embedding sound; then the quotas."""
    for index, new in enumerate(command.entities):
        check_content(
            f"entities[{index}].description" if command.bulk else "description", new.description, moment.limits
        )
    session, opens = moment.session_or_new(command.session_id)
    vector_dim = moment.state.vector_dim
    first_id = session.entities.next_id
    entities: list[Entity] = []
    vectors: list[bytes] = []
    titles: set[str] = set()
    external_ids: set[str] = set()
    index = 0
    try:
        for index, new in enumerate(command.entities):
            title = normalise_title(new.title)
            _check_free(session, new, title, titles, external_ids)
            check_vector("entity", new.vector, vector_dim)
            titles.add(title)
            external_ids.add(new.external_id)
            entities.append(Entity(first_id + index, new.external_id, title, new.type, new.description, moment.now_ms))
            vectors.append(new.vector)
        index = 0
        limits = moment.limits
        check_quota(len(session.entities), len(entities), limits.session_entities_max, "entity")
        if limits.weighs:
            check_memory(moment, session, sum(map(weights.entity_bytes, entities, map(len, vectors))))
    except CallerError as cause:
        raise (in_bulk("entities", index, cause) if command.bulk else cause) from None
    vector_ids, rows = joined(vectors, first_id)
    mutation = EntitiesAdded(command.session_id, moment.now_ms, opens, tuple(entities), vector_ids, rows)
    return mutation, Created(tuple(entity.id for entity in entities), command.bulk)


def _check_free(session: SessionState, new: NewEntity, title: str, titles: set[str], external_ids: set[str]) -> None:
    if is_blank(new.external_id):
        raise InvalidArgumentError("entity external_id is required")
    if title in session.entities_by_title:
        raise AlreadyExistsError(f"entity with title {new.title} already exists")
    if title in titles:
        raise AlreadyExistsError(f"entity with title {new.title} already exists in bulk request")
    if new.external_id in session.entities_by_external_id:
        raise AlreadyExistsError(f"entity with external_id {new.external_id} already exists")
    if new.external_id in external_ids:
        raise AlreadyExistsError(f"entity with external_id {new.external_id} already exists in bulk request")


def describe(moment: Moment, command: UpdateEntityDescription) -> Decision:
    """Always replaces the description, also by an empty one; the vector only if one is given."""
    check_content("description", command.description, moment.limits)
    vector = cast("bytes", command.embedding)
    try:
        session = moment.session(command.session_id)
        old = session.entities.get(command.id)
        require_found(old, "entity", command.id)
        assert old is not None
        check_vector("entity", vector, moment.state.vector_dim)
        more_text = weights.content_length(command.description) - weights.content_length(old.description)
        more_vector = len(vector) if command.id not in session.entity_vectors else 0
        check_memory(moment, session, more_text + more_vector)
    except CallerError as cause:
        raise type(cause)(f"update failed: {cause}") from None
    mutation = EntityDescribed(
        command.session_id, moment.now_ms, opens=False, id=command.id, description=command.description, vector=vector
    )
    return mutation, Done(command.id)


def delete(moment: Moment, command: DeleteEntity) -> Decision:
    """Refused while text units, relationships or communities refer to it, asked in this order."""
    session = moment.session(command.session_id)
    require_found(session.entities.get(command.id), "entity", command.id)
    if command.id in session.textunits_by_entity:
        raise StillReferencedError(f"entity {command.id} is linked to text units")
    if command.id in session.outgoing or command.id in session.incoming:
        raise StillReferencedError(f"entity {command.id} is linked to relationships")
    if command.id in session.communities_by_entity:
        raise StillReferencedError(f"entity {command.id} is referenced by communities")
    return EntityDeleted(command.session_id, moment.now_ms, opens=False, id=command.id), Done(command.id)
