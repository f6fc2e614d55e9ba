"""Embeddings on the wire: packed or unpacked floats in, little-endian float32 bytes out.

Our schema declares them `repeated bytes`, so packed floats arrive as chunks, normally one. Floats written one by one
have another wire type, so protobuf puts them among the unknown fields; looking there costs 0.1 us. No encoder writes
both forms in one message, and protobuf does not say how the two were interleaved, so a mixture is refused rather than
put together in an order that may be wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

UNKNOWN_FIELDS_MAX = 100_000
"""Far more than any embedding has numbers; to look through millions would keep everybody waiting."""

_FLOAT_BYTES = 4
_WIRE_TYPE_FIXED32 = 5


def read_floats(message: Message, chunks: Sequence[bytes], field_number: int) -> bytes:
    """The floats of one field as float32 bytes, in order; empty if there are none.

    message: where the field stands; chunks: what it holds there, from packed floats.

    Raises:
        DecodeError: if a chunk is cut inside a float, packed and unpacked floats are mixed, or there are too many.
    """
    packed = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if len(packed) % _FLOAT_BYTES or len(chunks) > 1:
        for chunk in chunks:
            if len(chunk) % _FLOAT_BYTES:
                raise DecodeError(f"{len(chunk)} bytes of packed floats are not a whole number of floats")
    unknown = UnknownFieldSet(message)
    if len(unknown) == 0:
        return packed
    if len(unknown) > UNKNOWN_FIELDS_MAX:
        raise DecodeError(f"{len(unknown)} fields that are not known, or numbers that are not packed")
    fields = [unknown[index] for index in range(len(unknown))]
    unpacked = [
        field.data for field in fields if field.field_number == field_number and field.wire_type == _WIRE_TYPE_FIXED32
    ]
    if unpacked and packed:
        raise DecodeError("packed and unpacked floats are mixed in one field")
    return struct.pack(f"<{len(unpacked)}I", *unpacked) if unpacked else packed


def float_chunks(vector: bytes) -> list[bytes]:
    """What the field holds for these float32 bytes: one packed chunk, or nothing."""
    return [vector] if vector else []
