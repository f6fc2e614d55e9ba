"""Frames and envelopes: what stands around a payload on a connection.

A frame is one codec byte (0x01), the length of the body as four bytes big-endian, and the body. The body is one
Envelope. Envelopes are written here by hand, since a reply is a handful of small fields around bytes that exist
already, and read by protobuf in `codec/envelope.py`.

Owns: the bytes of a connection that are not a whole frame yet.
Never: knows what a payload means; gives back a frame after a fault.

Invariants:
- However a stream is cut into chunks, the same frames come out, then the same fault.
- Memory grows with the bytes that have arrived, never with the length that a header announces.
- What is written here, protobuf reads as the Envelope with those values.
"""

from __future__ import annotations

import struct

from gibramdb.errors import ProtocolError

HEADER = struct.Struct(">BI")
"""Codec byte and body length; the length does not count these five bytes."""

CODEC_PROTOBUF = 0x01

REPLY_PAYLOAD_BYTES_MAX = 67_108_864 - 64
"""The largest payload a reply carries: the Go client of GibRAM 0.3.0 refuses bodies above 64 MiB, and the fields of the
envelope around the payload take less than 64 bytes."""

_UINT64_MAX = 0xFFFF_FFFF_FFFF_FFFF
_SHORT_VARINTS = tuple(bytes((value,)) for value in range(128))

# Tags of the Envelope's fields, and its version, which is always 1.
_VERSION = b"\x08\x01"
_REQUEST_ID = b"\x10"
_NUMBER = b"\x18"
_PAYLOAD = b"\x22"
_SESSION_ID = b"\x2a"
_TOKEN = b"\xa2\x06"


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, as protobuf writes an unsigned integer.

    Raises:
        ValueError: if the value is negative or needs more than 64 bits.
    """
    if 0 <= value < 128:
        return _SHORT_VARINTS[value]
    if not 0 <= value <= _UINT64_MAX:
        raise ValueError(f"{value} is not an unsigned 64-bit integer")
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_frame(body: bytes) -> bytes:
    """A body with its header in front. A length has four bytes; protobuf builds no message above 2 GiB."""
    return HEADER.pack(CODEC_PROTOBUF, len(body)) + body


def encode_envelope(request_id: int, number: int, payload: bytes, session_id: str = "", token: bytes = b"") -> bytes:
    """The bytes of one Envelope; fields that hold their default are left out.

    Raises:
        ValueError: if `request_id` is no unsigned 64-bit integer, `number` is negative, or `session_id` has no UTF-8
            form.
    """
    parts = [_VERSION]
    if request_id:
        parts += (_REQUEST_ID, varint(request_id))
    if number:
        parts += (_NUMBER, varint(number))
    if payload:
        parts += (_PAYLOAD, varint(len(payload)), payload)
    if session_id:
        session = session_id.encode()
        parts += (_SESSION_ID, varint(len(session)), session)
    if token:
        parts += (_TOKEN, varint(len(token)), token)
    return b"".join(parts)


def encode_reply(request_id: int, number: int, payload: bytes) -> bytes:
    """A whole frame that answers a request."""
    return encode_frame(encode_envelope(request_id, number, payload))


class FrameReader:
    """Takes the bytes of one connection as they come and gives the bodies of its frames.

    Feed a chunk, then call `next_frame` until it answers None.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        """A reader that refuses bodies above `frame_bytes_max` bytes, which may be set anew between frames."""
        self.frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._start = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes that have arrived and belong to no frame given back so far; 0 where a connection may end cleanly."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._start:
            # Once a chunk and not once a frame, so that many small frames in one chunk cost one move.
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """The body of the next frame, or None until more bytes have arrived.

        Raises:
            ProtocolError: if the codec byte is not 0x01 or the announced length is above the limit. The stream can not
                be read any further; every later call raises the same.
        """
        buffer, start = self._buffer, self._start
        end_of_data = len(buffer)
        if start < end_of_data and buffer[start] != CODEC_PROTOBUF:
            raise ProtocolError(f"codec byte is 0x{buffer[start]:02x}, expected 0x{CODEC_PROTOBUF:02x}")
        body_start = start + HEADER.size
        if end_of_data < body_start:
            return None
        length: int = HEADER.unpack_from(buffer, start)[1]
        if length > self.frame_bytes_max:
            raise ProtocolError(f"frame too large: {length} bytes (max: {self.frame_bytes_max})")
        end = body_start + length
        if end > end_of_data:
            return None
        # Through a view: slicing the bytearray itself would copy a large body twice.
        body = bytes(memoryview(buffer)[body_start:end])
        if end == end_of_data:
            # Gives the memory of a large frame back while the connection idles.
            buffer.clear()
            self._start = 0
        else:
            self._start = end
        return body
