"""Decisions to delete an object together with what refers to it: one mutation, so that no crash leaves half of it."""

from __future__ import annotations

from gibramdb.core.decide.admission import Decision, Moment, require_found
from gibramdb.model.commands import (
    CascadeDeleteDocument,
    CascadeDeleteEntity,
    CascadeDeleteRelationship,
    CascadeDeleteTextUnit,
)
from gibramdb.model.mutations import CascadeDeleted
from gibramdb.model.results import Done


def document(moment: Moment, command: CascadeDeleteDocument) -> Decision:
    """The document, its text units, their links. Entities stay."""
    session = moment.session(command.session_id)
    require_found(session.documents.get(command.id), "document", command.id)
    textunit_ids = tuple(session.textunits_by_document.get(command.id, ()))
    return _mutation(moment, command.session_id, textunit_ids=textunit_ids, document_ids=(command.id,)), Done(
        command.id
    )


def textunit(moment: Moment, command: CascadeDeleteTextUnit) -> Decision:
    """The text unit and its links."""
    session = moment.session(command.session_id)
    require_found(session.textunits.get(command.id), "textunit", command.id)
    return _mutation(moment, command.session_id, textunit_ids=(command.id,)), Done(command.id)


def entity(moment: Moment, command: CascadeDeleteEntity) -> Decision:
    """The entity, its links, its relationships, and their places in communities. Communities stay, even empty ones."""
    session = moment.session(command.session_id)
    require_found(session.entities.get(command.id), "entity", command.id)
    # A relationship of an entity with itself stands in both directions.
    edges = tuple(dict.fromkeys((*session.edges_from(command.id), *session.edges_to(command.id))))
    return _mutation(moment, command.session_id, relationship_ids=edges, entity_ids=(command.id,)), Done(command.id)


def relationship(moment: Moment, command: CascadeDeleteRelationship) -> Decision:
    """The relationship and its places in communities."""
    session = moment.session(command.session_id)
    require_found(session.relationships.get(command.id), "relationship", command.id)
    return _mutation(moment, command.session_id, relationship_ids=(command.id,)), Done(command.id)


def _mutation(
    moment: Moment,
    session_id: str,
    *,
    relationship_ids: tuple[int, ...] = (),
    entity_ids: tuple[int, ...] = (),
    textunit_ids: tuple[int, ...] = (),
    document_ids: tuple[int, ...] = (),
) -> CascadeDeleted:
    session = moment.session(session_id)
    links = [(textunit_id, linked) for textunit_id in textunit_ids for linked in session.linked_entities(textunit_id)]
    links += [(linked, entity_id) for entity_id in entity_ids for linked in session.linked_textunits(entity_id)]
    return CascadeDeleted(
        session_id,
        moment.now_ms,
        opens=False,
        links=tuple(links),
        communities=(),
        relationship_ids=relationship_ids,
        entity_ids=entity_ids,
        textunit_ids=textunit_ids,
        document_ids=document_ids,
    )
