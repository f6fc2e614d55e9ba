"""A stream cut anywhere gives the same frames; what is written by hand is what protobuf reads."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gibramdb.errors import ProtocolError
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.framing import FrameReader, encode_envelope, encode_frame, encode_reply, varint

UINT64 = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))


def read_all(reader: FrameReader) -> list[bytes]:
    bodies = []
    while (body := reader.next_frame()) is not None:
        bodies.append(body)
    return bodies


@given(UINT64, st.integers(0, 2**31 - 1), st.binary(max_size=300), st.text(max_size=200))
def test_an_envelope_written_by_hand_is_the_one_protobuf_reads(
    request_id: int, number: int, payload: bytes, session_id: str
) -> None:
    encoded = encode_envelope(request_id, number, payload, session_id)
    expected = pb.Envelope(version=1, request_id=request_id, cmd_type=number, payload=payload, session_id=session_id)
    assert pb.Envelope.FromString(encoded) == expected
    assert len(encoded) == expected.ByteSize()


@given(UINT64, st.binary(max_size=300))
def test_a_reply_is_a_whole_frame(request_id: int, payload: bytes) -> None:
    frame = encode_reply(request_id, 6, payload)
    assert frame[0] == 1
    assert int.from_bytes(frame[1:5], "big") == len(frame) - 5
    expected = pb.Envelope(version=1, request_id=request_id, cmd_type=6, payload=payload)
    assert pb.Envelope.FromString(frame[5:]) == expected


@pytest.mark.parametrize("value", [-1, 2**64])
def test_a_varint_is_an_unsigned_64_bit_integer(value: int) -> None:
    with pytest.raises(ValueError, match="unsigned"):
        varint(value)


def test_a_stream_cut_at_any_byte_gives_the_same_frames() -> None:
    bodies = [b"", b"a", b"", b"bc" * 40, b"\x01" * 7]
    stream = b"".join(map(encode_frame, bodies))
    for cut in range(len(stream) + 1):
        reader = FrameReader(100)
        reader.feed(stream[:cut])
        first = read_all(reader)
        assert first == bodies[: len(first)]
        assert reader.pending_bytes == cut - sum(5 + len(body) for body in first)
        reader.feed(stream[cut:])
        assert first + read_all(reader) == bodies
        assert reader.pending_bytes == 0


def test_a_stream_fed_byte_by_byte_gives_the_same_frames() -> None:
    bodies = [b"", b"a" * 300, b"b"]
    reader = FrameReader(300)
    found = []
    for value in b"".join(map(encode_frame, bodies)):
        reader.feed(bytes((value,)))
        found += read_all(reader)
    assert found == bodies


def test_a_body_at_the_limit_passes_and_one_byte_more_is_refused_at_the_header() -> None:
    reader = FrameReader(10)
    reader.feed(encode_frame(bytes(10)) + b"\x01\x00\x00\x00\x0b")
    assert reader.next_frame() == bytes(10)
    with pytest.raises(ProtocolError, match=r"frame too large: 11 bytes \(max: 10\)"):
        reader.next_frame()


def test_frames_before_a_fault_come_out_and_none_after_it() -> None:
    reader = FrameReader(10)
    reader.feed(encode_frame(b"good") + b"\x00" + encode_frame(b"late"))
    assert reader.next_frame() == b"good"
    for _ in range(2):
        with pytest.raises(ProtocolError, match="codec byte is 0x00"):
            reader.next_frame()
        reader.feed(encode_frame(b"later"))


def test_a_wrong_codec_byte_is_refused_before_the_rest_of_the_header_arrives() -> None:
    # The first byte of a TLS greeting on a plain port.
    reader = FrameReader(10)
    reader.feed(b"\x16")
    with pytest.raises(ProtocolError, match="codec byte is 0x16"):
        reader.next_frame()


def test_memory_follows_what_arrived_and_not_what_a_header_announces() -> None:
    reader = FrameReader(2**32 - 1)
    reader.feed(b"\x01\xff\xff\xff\xff")
    assert reader.next_frame() is None
    assert sys.getsizeof(reader._buffer) < 1_000


def test_memory_of_a_large_frame_is_given_back() -> None:
    reader = FrameReader(10_000_000)
    frame = encode_frame(bytes(10_000_000))
    for start in range(0, len(frame), 65_536):
        reader.feed(frame[start : start + 65_536])
    assert reader.next_frame() == bytes(10_000_000)
    assert sys.getsizeof(reader._buffer) < 1_000
