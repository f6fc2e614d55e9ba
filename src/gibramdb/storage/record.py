"""Mutation to bytes and back: the only disk serializer, for the log and for snapshots alike.

A mutation is one MessagePack array: its tag, then its fields in the order in which model/mutations.py declares them.
Framing, checksums and limits are the log's (wal.py); nothing here knows of files.
"""

from __future__ import annotations

import msgspec

from gibramdb.errors import CorruptLogError, InvalidArgumentError
from gibramdb.model.field_types import plain
from gibramdb.model.mutations import Mutation

_encoder = msgspec.msgpack.Encoder(enc_hook=plain)
_decoder: msgspec.msgpack.Decoder[Mutation] = msgspec.msgpack.Decoder(Mutation)


def encode(mutation: Mutation) -> bytes:
    """The mutation as bytes; equal mutations give equal bytes."""
    return _encoder.encode(mutation)


def settle(mutation: Mutation) -> tuple[bytes, Mutation]:
    """The mutation as bytes, and as these bytes will be read again.

    What a caller hands in has the types that are declared, and may still be what no reader takes, a lone surrogate or a
    number beyond 64 bits, or not Python's own, a text of numpy's. It would be written, acknowledged, and refused by the
    next start, or be something else then. So the writer reads first what it wrote.

    Raises:
        InvalidArgumentError: a value is of a type, or a size, that can not be stored.
    """
    try:
        data = _encoder.encode(mutation)
        return data, _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError, OverflowError, TypeError) as error:
        raise InvalidArgumentError(f"this can not be stored: {error}") from None


def decode(data: bytes) -> Mutation:
    """The mutation that these bytes are.

    Raises:
        CorruptLogError: if they are none. It names the reason; the caller knows the file and the offset.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptLogError(f"the record's {len(data)} bytes are not a mutation: {error}") from error
