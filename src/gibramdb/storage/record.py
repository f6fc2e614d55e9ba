"""Mutation to bytes and back: the only disk serializer, for the log and for snapshots alike.

A mutation is one MessagePack array: its tag, then its fields in the order in which model/mutations.py declares them.
Framing, checksums and limits are the log's (wal.py); nothing here knows of files.
"""

from __future__ import annotations

import msgspec

from gibramdb.errors import CorruptLogError
from gibramdb.model.mutations import Mutation

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Mutation] = msgspec.msgpack.Decoder(Mutation)


def encode(mutation: Mutation) -> bytes:
    """The mutation as bytes; equal mutations give equal bytes."""
    return _encoder.encode(mutation)


def decode(data: bytes) -> Mutation:
    """The mutation that these bytes are.

    Raises:
        CorruptLogError: if they are none. It names the reason; the caller knows the file and the offset.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptLogError(f"the record's {len(data)} bytes are not a mutation: {error}") from error
