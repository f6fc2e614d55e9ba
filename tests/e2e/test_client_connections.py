"""What a client makes of connections that end: pooled ones, those that break under a call, those that never finish."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from support.server import Server

import gibramdb
from gibramdb.errors import OutcomeUnknownError
from gibramdb.model import commands as c
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import decode_request
from gibramdb.wire.framing import FrameReader, encode_reply

TRICKLE_S = 0.1


def restarted(server: Server) -> Server:
    server.kill()
    return Server(server.directory, "--addr", f"127.0.0.1:{server.port}")


def test_a_restarted_server_is_met_at_the_first_call(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    try:
        with server.connect() as store:
            session = store.session("s")
            first = session.add_entity("e1", "e1")
            server = restarted(server)
            second = session.add_entity("e2", "e2")
            server = restarted(server)
            assert [entity.id for entity in session.entities()] == [first, second]
            server.stop()
            server = Server(server.directory, "--addr", f"127.0.0.1:{server.port}")
            session.link_many([(session.add_textunit("t", session.add_document("d"), "text"), first)])
    finally:
        server.kill()


def test_a_restarted_server_is_met_by_every_pooled_connection(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    try:
        with server.connect() as store:
            barrier = threading.Barrier(8)
            failures: list[Exception] = []

            def add(number: int, turn: int) -> None:
                barrier.wait(10)
                try:
                    store.session("s").add_entity(f"e{number}-{turn}", f"e{number}-{turn}")
                except gibramdb.GibramError as error:
                    failures.append(error)

            for turn in range(2):
                threads = [threading.Thread(target=add, args=(number, turn)) for number in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(30)
                if not turn:
                    server = restarted(server)
            assert not failures
            assert store.session("s").info().entity_count == 16
    finally:
        server.kill()


def test_the_async_client_meets_a_restarted_server_at_the_first_call(tmp_path: Path) -> None:
    async def run(server: Server) -> Server:
        async with await gibramdb.connect_async(f"gibram://127.0.0.1:{server.port}") as store:
            session = store.session("s")
            first = await session.add_entity("e1", "e1")
            server = await asyncio.to_thread(restarted, server)
            second = await session.add_entity("e2", "e2")
            server = await asyncio.to_thread(restarted, server)
            assert [entity.id async for entity in session.entities()] == [first, second]
            server = restarted(server)  # the event loop has no time to notice
            assert (await session.info()).entity_count == 2
        return server

    server = Server(tmp_path / "data")
    try:
        server = asyncio.run(run(server))
    finally:
        server.kill()


class Scripted:
    """A server that meets the n-th request by the n-th word: answer, close, half (of an answer, then close), trickle."""

    def __init__(self, script: Sequence[str]) -> None:
        self._script = list(script)
        self.requests: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"gibram://127.0.0.1:{self._listener.getsockname()[1]}"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        reader = FrameReader(1 << 20)
        while True:
            while (body := reader.next_frame()) is None:
                data = connection.recv(4096)
                if not data:
                    return
                reader.feed(data)
            request = decode_request(body)
            self.requests.append(request.number)
            word = self._script.pop(0)
            frame = encode_reply(request.request_id, N.PONG, b"")
            if word == "trickle":
                self._trickle(connection)
                return
            connection.sendall({"answer": frame, "half": frame[:4], "close": b""}[word])
            if word != "answer":
                return

    def _trickle(self, connection: socket.socket) -> None:
        """A frame of 1,000 bytes, one at a time."""
        for byte in b"\x01\x00\x00\x03\xe8" + b"\x08\x01" * 500:
            try:
                connection.sendall(bytes((byte,)))
            except OSError:
                return
            if self._is_over.wait(TRICKLE_S):
                return


def call(way: str, url: str, command: c.Command, timeout_s: float = 10) -> None:
    """Connects, which asks PING once, and then asks for the command."""
    if way == "blocking":
        with gibramdb.connect(url, timeout_s=timeout_s) as store:
            store._executor.execute(command)
        return

    async def run() -> None:
        async with await gibramdb.connect_async(url, timeout_s=timeout_s) as store:
            await store._executor.execute(command)

    asyncio.run(run())


ways = pytest.mark.parametrize("way", ["blocking", "async"])


@ways
def test_a_read_is_asked_once_more_where_the_connection_broke_before_its_answer(way: str) -> None:
    with Scripted(["answer", "close", "answer"]) as server:
        call(way, server.url, c.Ping())
        assert server.requests == [N.PING] * 3


@ways
@pytest.mark.parametrize(
    ("script", "command"),
    [
        pytest.param(["answer", "close"], c.TouchSession("s"), id="a write"),
        pytest.param(["answer", "half"], c.Ping(), id="a read whose answer had begun"),
        pytest.param(["answer", "close", "close"], c.Ping(), id="a read that was asked once more"),
    ],
)
def test_nothing_else_is_asked_again(way: str, script: list[str], command: c.Command) -> None:
    with Scripted([*script, "answer"]) as server:
        with pytest.raises(OutcomeUnknownError):
            call(way, server.url, command)
        assert len(server.requests) == len(script)


@ways
@pytest.mark.parametrize("command", [c.Ping(), c.TouchSession("s")])
def test_an_answer_that_trickles_in_holds_a_call_no_longer_than_its_time(way: str, command: c.Command) -> None:
    with Scripted(["answer", "trickle"]) as server:
        began = time.monotonic()
        with pytest.raises(OutcomeUnknownError, match="timed out"):
            call(way, server.url, command, timeout_s=0.5)
        assert 0.4 < time.monotonic() - began < 2
        assert len(server.requests) == 2
