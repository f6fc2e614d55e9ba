"""Whatever bytes arrive: a value, a ProtocolError or a CallerError, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.wire_values import COMMANDS, RESULTS

from gibramdb.errors import CallerError, GibramError, ProtocolError
from gibramdb.model.commands import Command, Ping
from gibramdb.wire.codec import (
    TABLE,
    CommandNumber,
    FrameReader,
    Request,
    Row,
    decode_command,
    decode_pipeline,
    decode_reply,
    decode_request,
    encode_command,
    encode_error,
    encode_result,
    read_reply,
)
from gibramdb.wire.framing import encode_frame

EVERY_ROW = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
# Each example is damaged in every place, so a few examples go a long way.
DAMAGED = settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def damaged(good: bytes) -> Iterator[bytes]:
    """Every prefix, and the whole with each single bit flipped."""
    for end in range(len(good)):
        yield good[:end]
    for index in range(len(good)):
        for bit in range(8):
            yield good[:index] + bytes((good[index] ^ 1 << bit,)) + good[index + 1 :]


def serve(body: bytes) -> Command | GibramError:
    """What a server makes of a body; anything raised that is no answer to the peer comes through."""
    try:
        request = decode_request(body)
        if request.number == CommandNumber.PIPELINE:
            for inner in decode_pipeline(request.payload, request.session_id):
                decode_command(inner)
        return decode_command(request)
    except (ProtocolError, CallerError) as error:
        return error


@EVERY_ROW
@DAMAGED
@given(data=st.data())
def test_a_damaged_request_is_refused_or_read_and_never_a_crash(row: Row, data: st.DataObject) -> None:
    good = encode_command(data.draw(COMMANDS[row.number]), 1)[5:]
    for body in damaged(good):
        answer = serve(body)
        assert isinstance(answer, Command | ProtocolError | CallerError)


@EVERY_ROW
@DAMAGED
@given(data=st.data())
def test_what_was_read_from_damaged_bytes_is_a_command_that_can_be_sent(row: Row, data: st.DataObject) -> None:
    command = data.draw(COMMANDS[row.number])
    payload = decode_request(encode_command(command, 1)[5:]).payload
    for variant in damaged(payload):
        try:
            read = decode_command(Request(1, 1, row.number, "s", variant))
        except CallerError:
            continue
        sent = encode_command(read, 1)
        again = decode_command(decode_request(sent[5:]))
        # By their text: a weight that became NaN does not equal itself.
        assert repr(again) == repr(read)


@EVERY_ROW
@DAMAGED
@given(data=st.data())
def test_a_damaged_reply_is_a_result_an_error_or_a_fault_of_the_peer(row: Row, data: st.DataObject) -> None:
    command = data.draw(COMMANDS[row.number])
    request = decode_request(encode_command(command, 1)[5:])
    number, payload = encode_result(data.draw(RESULTS[row.number]), request)
    for variant in damaged(payload):
        try:
            decode_reply(number, variant, command)
        except ProtocolError:
            continue


def test_a_damaged_error_reply_is_an_error_or_a_fault_of_the_peer() -> None:
    for variant in damaged(encode_error(CallerError("what was wrong, in words"))):
        try:
            assert isinstance(decode_reply(CommandNumber.ERROR, variant, Ping()), GibramError)
        except ProtocolError:
            continue


@settings(max_examples=500)
@given(st.binary(max_size=80))
def test_random_bodies_are_refused_or_read(body: bytes) -> None:
    assert isinstance(serve(body), Command | ProtocolError | CallerError)
    try:
        read_reply(body)
    except ProtocolError:
        pass


@EVERY_ROW
@settings(max_examples=50)
@given(payload=st.binary(max_size=60))
def test_random_payloads_are_refused_or_read(row: Row, payload: bytes) -> None:
    try:
        assert isinstance(decode_command(Request(1, 1, row.number, "s", payload)), Command)
    except CallerError:
        pass
    try:
        decode_pipeline(payload)
    except CallerError:
        pass


def drain(reader: FrameReader) -> tuple[list[bytes], str]:
    """All frames that are there, and the fault behind them if there is one."""
    bodies: list[bytes] = []
    try:
        while (body := reader.next_frame()) is not None:
            bodies.append(body)
    except ProtocolError as error:
        return bodies, str(error)
    return bodies, ""


@settings(max_examples=300)
@given(
    bodies=st.lists(st.binary(max_size=40), max_size=6),
    tail=st.binary(max_size=20),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
)
def test_a_stream_cut_anywhere_gives_the_same_frames_and_the_same_fault(
    bodies: list[bytes], tail: bytes, sizes: list[int]
) -> None:
    stream = b"".join(map(encode_frame, bodies)) + tail
    whole = FrameReader(40)
    whole.feed(stream)
    expected = drain(whole)
    assert expected[0][: len(bodies)] == bodies

    reader = FrameReader(40)
    found: list[bytes] = []
    fault = ""
    position = turn = 0
    while position < len(stream) and not fault:
        size = sizes[turn % len(sizes)]
        reader.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
        more, fault = drain(reader)
        found += more
    assert (found, fault) == expected
    if not fault:
        assert reader.pending_bytes == whole.pending_bytes
