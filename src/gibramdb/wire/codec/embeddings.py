"""Embeddings on the wire: packed or unpacked floats in, little-endian float32 bytes out.

Our schema declares them `repeated bytes`: packed floats arrive as one chunk, and no number becomes an object. An
encoder may also write several chunks, floats one by one, or both. So a message is first read in another form of the
schema, in which they are numbers, and written again without the fields that are not known: what is read then holds one
chunk at most. All of that is protobuf's own code; Python must not look at what a peer can send millions of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gibramdb.core.limits import BULK_ITEMS_MAX
from gibramdb.wire import gibramdb_pb2 as pb

_EMBEDDINGS = {"embedding", "query_vector"}
_ITEM_BYTES_MIN = 2


def _schema_with(change: Callable[[FieldDescriptorProto], None]) -> DescriptorPool:
    """Our schema with its fields changed, under the names that errors tell."""
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        for field in message.field:
            change(field)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _embedding_as_numbers(field: FieldDescriptorProto) -> None:
    if field.name in _EMBEDDINGS:
        field.type = FieldDescriptorProto.TYPE_FIXED32  # and not float: no bit of a NaN may change


def _message_as_bytes(field: FieldDescriptorProto) -> None:
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        field.type = FieldDescriptorProto.TYPE_BYTES
        field.ClearField("type_name")


_NUMBERS = _schema_with(_embedding_as_numbers)
_SHALLOW = _schema_with(_message_as_bytes)


def _parser(schema: DescriptorPool, message_class: type[Message]) -> Callable[[bytes], Any]:
    return GetMessageClass(schema.FindMessageTypeByName(message_class.DESCRIPTOR.full_name)).FromString


def parser_of(message_class: type[Message], check: Callable[[Any], None] | None = None) -> Callable[[bytes], Any]:
    """How messages of a class are read in which embeddings stand: each is one chunk of whole floats, or none.

    check: may refuse what came before it is read any further.

    What the parser returns raises DecodeError for what is no such message.
    """
    parse_numbers = _parser(_NUMBERS, message_class)
    parse = message_class.FromString

    def read(payload: bytes) -> Any:
        message = parse_numbers(payload)
        if check is not None:
            check(message)
        message.DiscardUnknownFields()
        return parse(message.SerializeToString())

    return read


def counter_of(message_class: type[Message], items_of: Callable[[Any], Sequence[Any]]) -> Callable[[bytes], int]:
    """How the messages in a bulk request are counted before they are read, which takes a hundred bytes for each.

    Where they can not be too many, as so few bytes hold them, the counter returns 0. It raises DecodeError as a parser
    does.
    """
    parse = _parser(_SHALLOW, message_class)

    def count(payload: bytes) -> int:
        return len(items_of(parse(payload))) if len(payload) > _ITEM_BYTES_MIN * BULK_ITEMS_MAX else 0

    return count


def floats_of(chunks: Sequence[bytes]) -> bytes:
    """The float32 bytes of an embedding in a message that such a parser has read; empty if there is none."""
    return chunks[0] if chunks else b""


def float_chunks(vector: bytes) -> list[bytes]:
    """What the field holds for these float32 bytes: one packed chunk, or nothing."""
    return [vector] if vector else []
