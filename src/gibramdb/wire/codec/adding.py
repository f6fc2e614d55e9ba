"""Commands that add: one object or many, from payload and to payload.

A single add and its bulk form are the same command with `bulk` off and on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from gibramdb.errors import InvalidArgumentError
from gibramdb.model.commands import (
    AddCommunity,
    AddDocuments,
    AddEntities,
    AddRelationships,
    AddTextUnits,
    WriteCommand,
)
from gibramdb.model.knowledge import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec.embeddings import counter_of, float_chunks, floats_of, parser_of
from gibramdb.wire.codec.row import RequestCodec, check_bulk, check_count


def _read_document(message: pb.AddDocumentRequest) -> NewDocument:
    return NewDocument(message.external_id, message.filename)


def _document_message(new: NewDocument) -> pb.AddDocumentRequest:
    return pb.AddDocumentRequest(external_id=new.external_id, filename=new.filename)


def _read_textunit(message: pb.AddTextUnitRequest) -> NewTextUnit:
    return NewTextUnit(
        message.external_id,
        message.document_id,
        message.content,
        floats_of(message.embedding),
        message.token_count,
    )


def _textunit_message(new: NewTextUnit) -> pb.AddTextUnitRequest:
    return pb.AddTextUnitRequest(
        external_id=new.external_id,
        document_id=new.document_id,
        content=new.content,
        embedding=float_chunks(new.vector),
        token_count=new.token_count,
    )


def _read_entity(message: pb.AddEntityRequest) -> NewEntity:
    return NewEntity(
        message.external_id,
        message.title,
        message.type,
        message.description,
        floats_of(message.embedding),
    )


def _entity_message(new: NewEntity) -> pb.AddEntityRequest:
    return pb.AddEntityRequest(
        external_id=new.external_id,
        title=new.title,
        type=new.type,
        description=new.description,
        embedding=float_chunks(new.vector),
    )


def _read_relationship(message: pb.AddRelationshipRequest) -> NewRelationship:
    return NewRelationship(
        source_id=message.source_id,
        target_id=message.target_id,
        type=message.type,
        description=message.description,
        weight=message.weight,
        external_id=message.external_id,
    )


def _relationship_message(new: NewRelationship) -> pb.AddRelationshipRequest:
    return pb.AddRelationshipRequest(
        external_id=new.external_id,
        source_id=new.source_id,
        target_id=new.target_id,
        type=new.type,
        description=new.description,
        weight=new.weight,
    )


def _check_members(message: pb.AddCommunityRequest) -> None:
    check_count("entity_ids", len(message.entity_ids))
    check_count("relationship_ids", len(message.relationship_ids))


_parse_community = parser_of(pb.AddCommunityRequest, _check_members)


def _decode_community(session_id: str, payload: bytes) -> AddCommunity:
    message = _parse_community(payload)
    new = NewCommunity(
        title=message.title,
        entity_ids=tuple(message.entity_ids),
        relationship_ids=tuple(message.relationship_ids),
        summary=message.summary,
        full_content=message.full_content,
        level=message.level,
        external_id=message.external_id,
        embedding=floats_of(message.embedding),
    )
    return AddCommunity(session_id, new)


def _encode_community(command: AddCommunity) -> bytes:
    new = command.community
    return pb.AddCommunityRequest(
        external_id=new.external_id,
        title=new.title,
        summary=new.summary,
        full_content=new.full_content,
        level=new.level,
        entity_ids=new.entity_ids,
        relationship_ids=new.relationship_ids,
        embedding=float_chunks(new.vector),
    ).SerializeToString()


class _Adding:
    """The two request codecs of one kind: a single object, and many."""

    def __init__(
        self,
        *,
        command: type[WriteCommand],
        parse_single: Callable[[bytes], Any],
        parse_bulk: Callable[[bytes], Any],
        bulk_class: type[Any],
        bulk_field: str,
        items_of: Callable[[Any], Sequence[Any]],
        read: Callable[..., Any],
        message_of: Callable[[Any], Any],
    ) -> None:
        """items_of: takes what is added out of a command, and its messages out of a bulk request alike."""
        make = cast("Callable[[str, tuple[Any, ...], bool], WriteCommand]", command)
        count = counter_of(bulk_class, items_of)

        def decode_single(session_id: str, payload: bytes) -> WriteCommand:
            return make(session_id, (read(parse_single(payload)),), False)

        def encode_single(added: WriteCommand) -> bytes:
            items = items_of(added)
            if len(items) != 1:
                raise InvalidArgumentError(f"{len(items)} {bulk_field} in a command for one; set bulk to send several")
            encoded: bytes = message_of(items[0]).SerializeToString()
            return encoded

        def decode_bulk(session_id: str, payload: bytes) -> WriteCommand:
            check_bulk(bulk_field, count(payload))
            return make(session_id, tuple(map(read, items_of(parse_bulk(payload)))), True)

        def encode_bulk(added: WriteCommand) -> bytes:
            encoded: bytes = bulk_class(**{bulk_field: map(message_of, items_of(added))}).SerializeToString()
            return encoded

        self.single = RequestCodec(command, decode_single, encode_single)
        self.bulk = RequestCodec(command, decode_bulk, encode_bulk)


ADD_DOCUMENTS = _Adding(
    command=AddDocuments,
    parse_single=pb.AddDocumentRequest.FromString,
    parse_bulk=pb.MSetDocumentsRequest.FromString,
    bulk_class=pb.MSetDocumentsRequest,
    bulk_field="documents",
    items_of=lambda holder: holder.documents,
    read=_read_document,
    message_of=_document_message,
)
ADD_TEXTUNITS = _Adding(
    command=AddTextUnits,
    parse_single=parser_of(pb.AddTextUnitRequest),
    parse_bulk=parser_of(pb.MSetTextUnitsRequest),
    bulk_class=pb.MSetTextUnitsRequest,
    bulk_field="textunits",
    items_of=lambda holder: holder.textunits,
    read=_read_textunit,
    message_of=_textunit_message,
)
ADD_ENTITIES = _Adding(
    command=AddEntities,
    parse_single=parser_of(pb.AddEntityRequest),
    parse_bulk=parser_of(pb.MSetEntitiesRequest),
    bulk_class=pb.MSetEntitiesRequest,
    bulk_field="entities",
    items_of=lambda holder: holder.entities,
    read=_read_entity,
    message_of=_entity_message,
)
ADD_RELATIONSHIPS = _Adding(
    command=AddRelationships,
    parse_single=pb.AddRelationshipRequest.FromString,
    parse_bulk=pb.MSetRelationshipsRequest.FromString,
    bulk_class=pb.MSetRelationshipsRequest,
    bulk_field="relationships",
    items_of=lambda holder: holder.relationships,
    read=_read_relationship,
    message_of=_relationship_message,
)
ADD_COMMUNITY = RequestCodec(AddCommunity, _decode_community, _encode_community)
