"""Large frames have their turns one in each round of the event loop, and small ones whenever they come."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.connection_fuzzing import PEER, Line

from gibramdb.clock import SystemClock
from gibramdb.config import load_config
from gibramdb.database.opening import open_store
from gibramdb.server import connection as connection_module
from gibramdb.server.app import Server
from gibramdb.server.connection import LARGE_FRAME_BYTES, Connection
from gibramdb.wire.codec import CommandNumber
from gibramdb.wire.framing import encode_envelope, encode_frame

LARGE = encode_frame(encode_envelope(1, CommandNumber.GET_ENTITY, bytes((0x78, 0)) * LARGE_FRAME_BYTES, "s"))
SMALL = encode_frame(encode_envelope(1, CommandNumber.PING, b""))


def test_who_wants_little_waits_for_one_large_frame_and_not_for_one_of_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "TURN_US_MAX", -1)  # every turn is a long one
    asyncio.run(_served(tmp_path))


def test_who_asked_for_much_with_few_bytes_waits_for_the_next_round_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "TURN_US_MAX", -1)
    asyncio.run(_served(tmp_path, SMALL))


def test_who_sends_one_large_frame_waits_for_one_of_somebody_else_and_not_for_all_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "TURN_US_MAX", -1)

    async def run() -> list[list[int]]:
        with serving(tmp_path) as connect:
            many, one = [connect() for _ in range(6)], connect("192.0.2.99")
            for line in many:
                line.deliver(LARGE * 3)
            one.deliver(LARGE * 2)
            answer_bytes = len(many[0].written)
            seen = []
            for _ in range(40):
                await asyncio.sleep(0)
                seen.append([len(line.written) // answer_bytes for line in (one, *many)])
            return seen

    seen = asyncio.run(run())
    assert seen[-1] == [2, *[3] * 6]
    first, second = (next(each for each in seen if each[0] == count) for count in (1, 2))
    assert sum(first[1:]) <= 2
    assert sum(second[1:]) <= 4


@contextmanager
def serving(folder: Path) -> Iterator[Callable[..., Line]]:
    """A server on the running loop; what it gives makes a connection, of an address of one's own if need be."""
    loop = asyncio.get_running_loop()
    config = load_config(flags={"server.data_dir": str(folder)})

    def post(call: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(call)

    store = open_store(config, SystemClock(), post)
    server = Server(config)
    server.database = store.database
    pair = socket.socketpair()
    lines: list[Line] = []

    def connect(peer: str = PEER) -> Line:
        assert server.admission.enter(peer)
        connection = Connection(server, peer, SystemClock().steady_us())
        lines.append(Line(connection, pair[0], is_encrypted=False))
        connection.connection_made(lines[-1])
        return lines[-1]

    yield connect
    for line in lines:
        line.reset()
    store.close()
    for each in pair:
        each.close()


async def _served(folder: Path, much: bytes = LARGE) -> None:
    with serving(folder) as connect:
        await _in_rounds(connect, much)


async def _in_rounds(connect: Callable[..., Line], much: bytes) -> None:
    small = connect()
    large = [connect() for _ in range(4)]
    if much == SMALL:
        for line in large:  # nobody can tell before the first
            line.deliver(much)
        answer_bytes = len(large[0].written)
        for line in large:
            line.written.clear()
        for _ in range(10):
            await asyncio.sleep(0)
    for line in large:
        line.deliver(much * 2)
    if much != SMALL:
        answer_bytes = len(large[0].written)

    def answered() -> list[int]:
        return [len(line.written) // answer_bytes for line in large]

    assert answered() == [1, 0, 0, 0]
    assert not large[1].may_read, "what has to wait is not read"
    small.deliver(SMALL)
    assert small.written, "who wants little is served in the same round"

    # The first of each has its turn before the second of any.
    seen = [answered()]
    for _ in range(30):
        await asyncio.sleep(0)
        if answered() != seen[-1]:
            seen.append(answered())
    assert seen[:4] == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert seen[-1] == [2, 2, 2, 2]
    assert len(seen) == 8
    assert all(line.may_read for line in large)
