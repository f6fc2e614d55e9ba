"""The five stored kinds as messages: alone, several, or a page of a list.

Inside, times are milliseconds; `created_at` of an object travels as whole seconds. `fill_...` writes into a message
that exists already, so that an object inside a larger reply is built where it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from gibramdb.errors import LimitExceededError
from gibramdb.model.knowledge import DOCUMENT_STATUS, MADE_BY_HAND, Community, Document, Entity, Relationship, TextUnit
from gibramdb.model.results import Created, Done, Objects, Page
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec.numbers import CommandNumber
from gibramdb.wire.codec.row import ResultCodec
from gibramdb.wire.framing import REPLY_PAYLOAD_BYTES_MAX, varint

_MS_PER_S = 1000

_ID = b"\x08"
"""Tag of OkWithID.id."""
_ITEMS = b"\x0a"
"""Tag of the objects in EntitiesResponse and every other message that holds a list of them."""
_NEXT_CURSOR = b"\x18"
"""Tag of `next_cursor` in the same four."""

Item = TypeVar("Item")


class _Identified(Protocol):
    """An object of a list."""

    @property
    def id(self) -> int: ...


def fill_document(message: pb.Document, document: Document) -> None:
    """Write a document."""
    message.id = document.id
    message.external_id = document.external_id
    message.filename = document.filename
    message.status = DOCUMENT_STATUS
    if document.textunit_ids:
        message.textunit_ids.extend(document.textunit_ids)
    message.created_at = document.created_at_ms // _MS_PER_S


def read_document(message: pb.Document) -> Document:
    """A document as it arrived."""
    return Document(
        id=message.id,
        external_id=message.external_id,
        filename=message.filename,
        created_at_ms=message.created_at * _MS_PER_S,
        textunit_ids=tuple(message.textunit_ids),
    )


def fill_textunit(message: pb.TextUnit, textunit: TextUnit) -> None:
    """Write a text unit."""
    message.id = textunit.id
    message.external_id = textunit.external_id
    message.document_id = textunit.document_id
    message.content = textunit.content
    message.token_count = textunit.token_count
    if textunit.entity_ids:
        message.entity_ids.extend(textunit.entity_ids)
    message.created_at = textunit.created_at_ms // _MS_PER_S


def read_textunit(message: pb.TextUnit) -> TextUnit:
    """A text unit as it arrived."""
    return TextUnit(
        id=message.id,
        external_id=message.external_id,
        document_id=message.document_id,
        content=message.content,
        token_count=message.token_count,
        created_at_ms=message.created_at * _MS_PER_S,
        entity_ids=tuple(message.entity_ids),
    )


def fill_entity(message: pb.Entity, entity: Entity) -> None:
    """Write an entity."""
    message.id = entity.id
    message.external_id = entity.external_id
    message.title = entity.title
    message.type = entity.type
    message.description = entity.description
    if entity.textunit_ids:
        message.textunit_ids.extend(entity.textunit_ids)
    message.created_at = entity.created_at_ms // _MS_PER_S


def read_entity(message: pb.Entity) -> Entity:
    """An entity as it arrived."""
    return Entity(
        id=message.id,
        external_id=message.external_id,
        title=message.title,
        type=message.type,
        description=message.description,
        created_at_ms=message.created_at * _MS_PER_S,
        textunit_ids=tuple(message.textunit_ids),
    )


def fill_relationship(message: pb.Relationship, relationship: Relationship) -> None:
    """Write a relationship; the weight travels as float32."""
    message.id = relationship.id
    message.external_id = relationship.external_id
    message.source_id = relationship.source_id
    message.target_id = relationship.target_id
    message.type = relationship.type
    message.description = relationship.description
    message.weight = relationship.weight
    message.created_at = relationship.created_at_ms // _MS_PER_S


def read_relationship(message: pb.Relationship) -> Relationship:
    """A relationship as it arrived."""
    return Relationship(
        id=message.id,
        external_id=message.external_id,
        source_id=message.source_id,
        target_id=message.target_id,
        type=message.type,
        description=message.description,
        weight=message.weight,
        created_at_ms=message.created_at * _MS_PER_S,
    )


def fill_community(message: pb.Community, community: Community) -> None:
    """Write a community."""
    message.id = community.id
    message.external_id = community.external_id
    message.title = community.title
    message.summary = community.summary
    message.full_content = community.full_content
    message.level = community.level
    message.entity_ids.extend(community.entity_ids)
    message.relationship_ids.extend(community.relationship_ids)
    message.created_at = community.created_at_ms // _MS_PER_S
    message.origin = community.origin
    message.parent_id = community.parent_id


def read_community(message: pb.Community) -> Community:
    """A community as it arrived; from a server that names no origin it counts as made by hand."""
    return Community(
        id=message.id,
        external_id=message.external_id,
        title=message.title,
        summary=message.summary,
        full_content=message.full_content,
        level=message.level,
        entity_ids=tuple(message.entity_ids),
        relationship_ids=tuple(message.relationship_ids),
        created_at_ms=message.created_at * _MS_PER_S,
        origin=message.origin or MADE_BY_HAND,
        parent_id=message.parent_id,
    )


# --- results made of them ---------------------------------------------------------------------------------------------


def _encode_ok(id: int) -> bytes:
    return _ID + varint(id) if id else b""


DONE = ResultCodec(
    CommandNumber.OK,
    lambda result: _encode_ok(result.id),
    lambda payload: Done(pb.OkWithID.FromString(payload).id),
)
"""Success, with the id of what it was done to."""

ONE_CREATED = ResultCodec(
    CommandNumber.OK,
    lambda result: _encode_ok(result.ids[0]),
    lambda payload: Created((pb.OkWithID.FromString(payload).id,), bulk=False),
)
"""The id of the one object that was added."""


class _Kind:
    """The result codecs of one stored kind."""

    def __init__(
        self,
        *,
        one: CommandNumber,
        many: CommandNumber,
        message_class: type[Any],
        response_class: type[Any],
        items_of: Callable[[Any], Iterable[Any]],
        fill: Callable[[Any, Any], None],
        read: Callable[[Any], Any],
    ) -> None:
        """message_class: one object; response_class: several of them, which `items_of` takes out of it."""

        def encode_object(item: object) -> bytes:
            message = message_class()
            fill(message, item)
            encoded: bytes = message.SerializeToString()
            return encoded

        def decode_page(payload: bytes) -> Page[Any]:
            response = response_class.FromString(payload)
            return Page(tuple(map(read, items_of(response))), response.next_cursor)

        parse = response_class.FromString
        self.one = ResultCodec(one, encode_object, lambda payload: read(message_class.FromString(payload)))
        self.created = ResultCodec(
            many,
            lambda result: response_class(created_ids=result.ids).SerializeToString(),
            lambda payload: Created(tuple(parse(payload).created_ids), bulk=True),
        )
        self.several = ResultCodec(
            many,
            lambda result: _encode_objects(result, encode_object),
            lambda payload: Objects(tuple(map(read, items_of(parse(payload))))),
        )
        self.page = ResultCodec(many, lambda result: _encode_page(result, encode_object), decode_page)


def encode_items(items: Sequence[Item], encode_object: Callable[[Item], bytes]) -> list[bytes]:
    """As many of the objects as fit a reply, and at least the first; each is one field.

    One that stands there many times is encoded once: asking for it so often is cheap, its links may be many.
    """
    fields: list[bytes] = []
    made: dict[int, bytes] = {}
    size_bytes = 0
    for item in items:
        field = made.get(id(item))
        if field is None:
            encoded = encode_object(item)
            field = made[id(item)] = b"".join((_ITEMS, varint(len(encoded)), encoded))
        size_bytes += len(field)
        if size_bytes > REPLY_PAYLOAD_BYTES_MAX and fields:
            break
        fields.append(field)
    return fields


def _encode_objects(result: Objects[Any], encode_object: Callable[[object], bytes]) -> bytes:
    # An id may be asked for many times in one request, so a small request can ask for far more than memory holds.
    fields = encode_items(result.items, encode_object)
    if len(fields) < len(result.items):
        raise LimitExceededError(
            f"reply too large: {len(result.items)} objects, of which the first {len(fields)} fit into "
            f"{REPLY_PAYLOAD_BYTES_MAX} bytes"
        )
    return b"".join(fields)


def _encode_page(result: Page[Any], encode_object: Callable[[object], bytes]) -> bytes:
    fields = encode_items(result.items, encode_object)
    next_cursor = result.next_cursor
    if len(fields) < len(result.items):
        # The page ends early, and the next one begins there: a caller that follows the cursor misses nothing.
        last: _Identified = result.items[len(fields) - 1]
        next_cursor = last.id
    if next_cursor:
        fields += (_NEXT_CURSOR, varint(next_cursor))
    return b"".join(fields)


DOCUMENTS = _Kind(
    one=CommandNumber.DOCUMENT_RESPONSE,
    many=CommandNumber.DOCUMENTS_RESPONSE,
    message_class=pb.Document,
    response_class=pb.DocumentsResponse,
    items_of=lambda response: response.documents,
    fill=fill_document,
    read=read_document,
)
TEXTUNITS = _Kind(
    one=CommandNumber.TEXTUNIT_RESPONSE,
    many=CommandNumber.TEXTUNITS_RESPONSE,
    message_class=pb.TextUnit,
    response_class=pb.TextUnitsResponse,
    items_of=lambda response: response.textunits,
    fill=fill_textunit,
    read=read_textunit,
)
ENTITIES = _Kind(
    one=CommandNumber.ENTITY_RESPONSE,
    many=CommandNumber.ENTITIES_RESPONSE,
    message_class=pb.Entity,
    response_class=pb.EntitiesResponse,
    items_of=lambda response: response.entities,
    fill=fill_entity,
    read=read_entity,
)
RELATIONSHIPS = _Kind(
    one=CommandNumber.RELATIONSHIP_RESPONSE,
    many=CommandNumber.RELATIONSHIPS_RESPONSE,
    message_class=pb.Relationship,
    response_class=pb.RelationshipsResponse,
    items_of=lambda response: response.relationships,
    fill=fill_relationship,
    read=read_relationship,
)


def _encode_community(community: Any) -> bytes:
    message = pb.Community()
    fill_community(message, community)
    return message.SerializeToString()


COMMUNITY = ResultCodec(
    CommandNumber.COMMUNITY_RESPONSE,
    _encode_community,
    lambda payload: read_community(pb.Community.FromString(payload)),
)
"""One community."""


def _decode_community_page(payload: bytes) -> Page[Community]:
    response = pb.CommunityListResponse.FromString(payload)
    return Page(tuple(map(read_community, response.communities)), response.next_cursor)


COMMUNITY_PAGE = ResultCodec(
    CommandNumber.COMMUNITY_LIST_RESPONSE,
    lambda result: _encode_page(result, _encode_community),
    _decode_community_page,
)
"""A page of the list of communities."""
