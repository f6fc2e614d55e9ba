"""What a client makes of connections that end: pooled ones, those that break under a call, those that never finish."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.peer import Peer, pong
from support.server import Server
from support.timing import TIMED
from support.ways import connected, told, ways

import gibramdb
from gibramdb import NewEntity
from gibramdb.client.calls import Deadline
from gibramdb.client.sync import _SocketIo
from gibramdb.errors import (
    ConnectionFailedError,
    GibramError,
    InvalidArgumentError,
    OutcomeUnknownError,
    ProtocolError,
    RateLimitedError,
)
from gibramdb.model import commands as c
from gibramdb.model.results import Created, Health
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import (
    Request,
    decode_pipeline,
    decode_request,
    encode_error,
    encode_pipeline_response,
    encode_result,
)
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
                barrier.wait(60)
                try:
                    store.session("s").add_entity(f"e{number}-{turn}", f"e{number}-{turn}")
                except gibramdb.GibramError as error:
                    failures.append(error)

            for turn in range(2):
                threads = [threading.Thread(target=add, args=(number, turn)) for number in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
                if not turn:
                    server = restarted(server)
            assert not failures
            assert store.session("s").info().entity_count == 16
    finally:
        server.kill()


def test_the_async_client_meets_a_restarted_server_at_the_first_call(tmp_path: Path) -> None:
    async def run(server: Server) -> Server:
        async with gibramdb.connect_async(f"gibram://127.0.0.1:{server.port}") as store:
            session = store.session("s")
            first = await session.add_entity("e1", "e1")
            server = await asyncio.to_thread(restarted, server)
            second = await session.add_entity("e2", "e2")
            server = await asyncio.to_thread(restarted, server)
            assert [entity.id async for entity in session.entities()] == [first, second]
            server = restarted(server)  # the event loop has no time to notice
            assert (await session.info()).entity_count == 2
            server = restarted(server)
            await session.add_entity("e3", "e3")  # a write, which is not asked twice
        return server

    server = Server(tmp_path / "data")
    try:
        server = asyncio.run(run(server))
    finally:
        server.kill()


class Script:
    """Meets the n-th request by the n-th word: answer, close, half (of an answer, then close), trickle, stale, busy."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._is_over = threading.Event()

    def __call__(self, request: Request, connection: socket.socket) -> bool:
        word = self._words.pop(0)
        number = N.OK if request.number == N.TOUCH_SESSION else N.PONG
        frame = encode_reply(request.request_id, number, b"")
        if word == "trickle":
            return self._trickle(connection)
        busy = encode_reply(request.request_id, N.ERROR, encode_error(RateLimitedError("rate limit exceeded")))
        stale = encode_reply(request.request_id - 1, number, b"")
        connection.sendall({"answer": frame, "half": frame[:4], "close": b"", "stale": stale, "busy": busy}[word])
        return word in {"answer", "stale", "busy"}

    def _trickle(self, connection: socket.socket) -> bool:
        """A frame of 1,000 bytes, one at a time."""
        for byte in b"\x01\x00\x00\x03\xe8" + b"\x08\x01" * 500:
            try:
                connection.sendall(bytes((byte,)))
            except OSError:
                break
            if self._is_over.wait(TRICKLE_S):
                break
        return False


def call(way: str, url: str, command: c.Command, timeout_s: float = 10) -> None:
    """Connects, which asks PING once, and then asks for the command."""
    if way == "blocking":
        with gibramdb.connect(url, timeout_s=timeout_s) as store:
            store.execute(command)
        return

    async def run() -> None:
        async with gibramdb.connect_async(url, timeout_s=timeout_s) as store:
            await store.execute(command)

    asyncio.run(run())


@ways
@pytest.mark.parametrize(
    ("script", "command"),
    [
        pytest.param(["answer", "close", "answer"], c.Ping(), id="a read"),
        pytest.param(["answer", "half", "answer"], c.Ping(), id="a read whose answer had begun"),
        pytest.param(["answer", "close", "half", "close", "answer"], c.Ping(), id="a read, three times"),
        pytest.param(
            ["answer", "busy", "busy", "answer"], c.TouchSession("s"), id="a write that was refused as too many"
        ),
        pytest.param(
            ["answer", *["busy"] * 6, "answer"], c.Ping(), id="a read that was refused as too many, at length"
        ),
    ],
)
def test_what_can_do_no_harm_is_asked_again(way: str, script: list[str], command: c.Command) -> None:
    with Peer(Script(script)) as peer:
        call(way, peer.url, command)
        assert peer.numbers[1:] == [peer.numbers[1]] * (len(script) - 1)


@ways
@pytest.mark.parametrize(
    ("script", "command"),
    [
        pytest.param(["answer", "close"], c.TouchSession("s"), id="a write"),
        pytest.param(["answer", "half"], c.TouchSession("s"), id="a write whose answer had begun"),
        pytest.param(["answer", "close", "close", "close", "close"], c.Ping(), id="a read that was asked four times"),
        pytest.param(
            ["answer", *["busy"] * 4, *["close"] * 4], c.Ping(), id="a read, refused as too many before it broke"
        ),
    ],
)
def test_nothing_else_is_asked_again(way: str, script: list[str], command: c.Command) -> None:
    with Peer(Script([*script, "answer"])) as peer:
        with pytest.raises(ConnectionFailedError if command == c.Ping() else OutcomeUnknownError):
            call(way, peer.url, command)
        assert len(peer.requests) == len(script)


@TIMED
@ways
def test_a_server_that_goes_on_refusing_is_given_up_within_the_calls_time(way: str) -> None:
    with Peer(Script(["answer"] + ["busy"] * 100)) as peer:
        began = time.monotonic()
        with pytest.raises(RateLimitedError):
            call(way, peer.url, c.TouchSession("s"), timeout_s=0.7)
        assert time.monotonic() - began < 2
        assert 3 < len(peer.requests) < 20


@TIMED
@ways
@pytest.mark.parametrize("command", [c.Ping(), c.TouchSession("s")])
def test_an_answer_that_trickles_in_holds_a_call_no_longer_than_its_time(way: str, command: c.Command) -> None:
    with Peer(Script(["answer", "trickle"])) as peer:
        began = time.monotonic()
        with pytest.raises(ConnectionFailedError if command == c.Ping() else OutcomeUnknownError, match="timed out"):
            call(way, peer.url, command, timeout_s=0.5)
        assert 0.4 < time.monotonic() - began < 2
        assert len(peer.requests) == 2


@TIMED
@ways
def test_a_write_under_which_every_connection_breaks_is_given_up_before_the_calls_time_is_over(way: str) -> None:
    """Where the server answers otherwise: one that is restarted breaks connections too, and is waited for."""
    away = 2

    def answer(request: Request, connection: socket.socket) -> bool:
        nonlocal away
        if request.number == N.HEALTH:
            away -= 1
            if away >= 0:
                return False
            reply = encode_result(Health("ok", {"tokens": "remembered"}), request)
            connection.sendall(encode_reply(request.request_id, *reply))
            return True
        return request.number != N.TOUCH_SESSION and pong(request, connection)

    async def run(url: str) -> None:
        async with connected(way, url, retry_writes=True, timeout_s=20) as store:
            await told(store.session("s").touch())

    with Peer(answer) as peer:
        began = time.monotonic()
        with pytest.raises(OutcomeUnknownError, match="it broke 4 times, though the server answers otherwise"):
            asyncio.run(run(peer.url))
        assert time.monotonic() - began < 10
        assert peer.numbers.count(N.TOUCH_SESSION) == 1 + 4
        assert peer.numbers.count(N.HEALTH) == 3 + 4


@ways
def test_a_request_above_the_servers_limit_is_told_from_a_server_that_speaks_tls(way: str, tmp_path: Path) -> None:
    async def run(url: str, **options: Any) -> list[str]:
        said: list[str] = []
        async with connected(way, url, **options) as store:
            session = store.session("s")
            document = await told(session.add_document(str(options)))
            for _ in range(2):  # on a connection that was there, and on one made for this
                with pytest.raises(GibramError) as caught:
                    await told(session.add_textunit("t", document, "x" * 100_000))
                said.append(str(caught.value))
        return said

    config = tmp_path / "gibramdb.yaml"
    config.write_text("security: {max_frame_size: 65536}")
    with Server(tmp_path / "data", "--config", str(config), mode="ephemeral") as server:
        for retries in (False, True):
            said = asyncio.run(run(f"gibram://127.0.0.1:{server.port}", retry_writes=retries))
            for each in said:
                assert "the request has 1000" in each
                assert "security.max_frame_size" in each
                assert "TLS" not in each


@ways
def test_a_connection_that_breaks_after_an_earlier_one_was_answered_is_not_said_to_be_tls(way: str) -> None:
    async def run(url: str) -> str:
        async with connected(way, url) as store:
            with pytest.raises(ConnectionFailedError) as caught:
                await told(store.ping())
        return str(caught.value)

    with Peer(Script(["answer", *["close"] * 4])) as peer:
        assert "TLS" not in asyncio.run(run(peer.url))
    with Peer(Script(["close"] * 4)) as peer, pytest.raises(ConnectionFailedError, match="if it speaks TLS"):
        asyncio.run(run(peer.url))


@ways
def test_what_only_asks_is_never_said_to_have_changed_something(way: str) -> None:
    async def run(url: str) -> None:
        async with connected(way, url) as store:
            for ask in (
                store.session("s").info,
                lambda: store.execute_many([c.GetEntity("s", 1), c.GetDigest("s"), c.Query("s", b"")]),
            ):
                with pytest.raises(ConnectionFailedError, match="; nothing was to be changed"):
                    await told(ask())
            with pytest.raises(OutcomeUnknownError, match="may or may not have been carried out"):
                await told(store.execute_many([c.GetEntity("s", 1), c.TouchSession("s")]))

    with Peer(Script(["answer", *["close"] * 9])) as peer:
        asyncio.run(run(peer.url))


@ways
def test_who_is_one_connection_too_many_is_told_what_it_may_be(way: str, tmp_path: Path) -> None:
    config = tmp_path / "gibramdb.yaml"
    config.write_text("security: {max_conns_per_ip: 1}")
    with (
        Server(tmp_path / "data", "--config", str(config), mode="ephemeral") as server,
        server.connect(),
        pytest.raises(ConnectionFailedError, match=r"security\.max_conns_per_ip allow"),
    ):
        call(way, f"gibram://127.0.0.1:{server.port}", c.Ping())


@ways
@pytest.mark.parametrize("count", [1, 3])
def test_an_answer_with_other_than_an_id_for_each_object_is_not_taken(way: str, count: int) -> None:
    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number != N.MSET_ENTITIES:
            return pong(request, connection)
        payload = encode_result(Created(tuple(range(1, count + 1)), bulk=True), request)
        connection.sendall(encode_reply(request.request_id, *payload))
        return True

    with Peer(answer) as peer, pytest.raises(ProtocolError, match=f"of 2 objects was answered with {count} ids"):
        call(way, peer.url, c.AddEntities("s", (NewEntity("a", "a"), NewEntity("b", "b"))))


@ways
def test_an_answer_to_another_request_is_not_taken(way: str) -> None:
    with Peer(Script(["answer", "stale"])) as peer:
        with pytest.raises(ProtocolError, match="expected the answer to request 2, got one to 1"):
            call(way, peer.url, c.Ping())
        assert len(peer.requests) == 2


def test_an_answer_that_comes_too_late_reaches_nobody() -> None:
    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == N.GET_ENTITY:
            time.sleep(0.4)
        payload = pb.Entity(id=pb.GetByIDRequest.FromString(request.payload).id).SerializeToString()
        number = N.PONG if request.number == N.PING else N.ENTITY_RESPONSE
        connection.sendall(encode_reply(request.request_id, number, b"" if number == N.PONG else payload))
        return True

    with Peer(answer) as peer, gibramdb.connect(peer.url) as store:
        session = store.session("s")
        with pytest.raises(ConnectionFailedError, match=r"timed out after 0\.1 s"):
            session.with_timeout(0.1).get_entity(1)
        time.sleep(0.5)  # by now the late answer has been sent
        assert session.get_entity(2).id == 2
        assert store.session("s").with_timeout(5).get_entity(3).id == 3


def test_a_pipeline_goes_on_from_the_command_that_was_refused_as_too_many() -> None:
    carried_out: list[int] = []

    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == N.PING:
            return pong(request, connection)
        replies: list[tuple[int, int, bytes]] = []
        commands = decode_pipeline(request.payload)
        for inner in commands[:3]:
            carried_out.append(pb.LinkTextUnitEntityRequest.FromString(inner.payload).entity_id)
            replies.append((inner.request_id, N.OK, b""))
        if len(commands) > 3:
            replies.append((commands[3].request_id, N.ERROR, encode_error(RateLimitedError("rate limit exceeded"))))
        connection.sendall(encode_reply(request.request_id, N.PIPELINE_RESPONSE, encode_pipeline_response(replies)))
        return True

    with Peer(answer) as peer, gibramdb.connect(peer.url) as store:
        told: list[tuple[int, int | None]] = []
        store.session("s").link_many(
            [(1, number) for number in range(8)], on_progress=lambda done, total: told.append((done, total))
        )
        assert carried_out == list(range(8)), "each once, in order"
        assert peer.numbers == [N.PING, N.PIPELINE, N.PIPELINE, N.PIPELINE]
        assert told == [(8, 8)]


def test_no_more_connections_than_asked_for_and_who_finds_none_free_in_time_is_told() -> None:
    may_answer = threading.Event()

    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == N.TOUCH_SESSION:
            assert may_answer.wait(60)
            connection.sendall(encode_reply(request.request_id, N.OK, b""))
            return True
        return pong(request, connection)

    with Peer(answer) as peer, gibramdb.connect(peer.url, connections_max=3) as store:
        threads = [threading.Thread(target=store.session("s").touch) for _ in range(12)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        while len(peer.requests) < 4 and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(ConnectionFailedError, match=r"in use.*timed out after 0\.2 s"):
            store.with_timeout(0.2).ping()
        may_answer.set()
        for thread in threads:
            thread.join(60)
        assert peer.numbers.count(N.TOUCH_SESSION) == 12
        assert peer.connections_peak == peer.connections == 3


def test_a_place_that_nobody_holds_any_more_is_free() -> None:
    io = _SocketIo(1)
    held = io.enter(Deadline(10))
    with pytest.raises(TimeoutError):
        io.enter(Deadline(0.01))
    del held  # by a call that was interrupted before it could give the place back
    io.leave(io.enter(Deadline(10)))
    io.leave(io.enter(Deadline(10)))


INTERRUPTED = """
import faulthandler, random, signal, sys, time
import gibramdb

faulthandler.dump_traceback_later(120, exit=True)
db = gibramdb.connect(sys.argv[1], connections_max=2, timeout_s=20)
session = db.session("s")
ids = session.add_documents([gibramdb.NewDocument(f"d{number}") for number in range(50)])
is_on = False

def interrupt(*_):
    if is_on:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
calls = interrupts = 0
until = time.monotonic() + 6
while time.monotonic() < until:
    calls += 1
    try:
        is_on = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.0006))
        document = session.get_document(ids[calls % 50])
        is_on = False
        assert document.external_id == f"d{calls % 50}"
    except KeyboardInterrupt:
        interrupts += 1
    is_on = False
for number in range(50):
    assert session.get_document(ids[number]).external_id == f"d{number}"
print(interrupts)
"""


def test_a_client_that_is_interrupted_anywhere_goes_on(tmp_path: Path) -> None:
    with Server(tmp_path / "data", mode="ephemeral") as server:
        command = [sys.executable, "-c", INTERRUPTED, f"gibram://127.0.0.1:{server.port}"]
        child = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) > 50


def test_the_async_client_opens_no_more_either() -> None:
    def answer(request: Request, connection: socket.socket) -> bool:
        time.sleep(0.01)
        return pong(request, connection)

    async def run(url: str) -> None:
        async with gibramdb.connect_async(url, connections_max=3) as store:
            await asyncio.gather(*(store.ping() for _ in range(50)))
            quick = store.with_timeout(0.05)
            answers = await asyncio.gather(*(quick.ping() for _ in range(50)), return_exceptions=True)
            assert {type(answer) for answer in answers} <= {type(None), ConnectionFailedError, OutcomeUnknownError}
            assert any("in use" in str(answer) for answer in answers)
            await asyncio.gather(*(store.ping() for _ in range(10)))

    with Peer(answer) as peer:
        asyncio.run(run(peer.url))
        assert peer.connections_peak <= 6, "three, and those that they replace: the peer may not have noticed the end"


@ways
def test_a_refused_argument_costs_no_connection(way: str) -> None:
    async def run(url: str) -> None:
        async with gibramdb.connect_async(url) as store:
            with pytest.raises(InvalidArgumentError):
                await store.session("s").get_entity(-1)
            await store.ping()

    with Peer(pong) as peer:
        if way == "blocking":
            with gibramdb.connect(peer.url) as store:
                with pytest.raises(InvalidArgumentError):
                    store.session("s").get_entity(-1)
                store.ping()
        else:
            asyncio.run(run(peer.url))
        assert (peer.numbers, peer.connections) == ([N.PING, N.PING], 1)


@pytest.mark.parametrize("connections_max", [0, -1, True, 1.5, "2", None])
@ways
def test_a_number_of_connections_that_is_none_is_refused(way: str, connections_max: Any) -> None:
    async def connect() -> None:
        async with connected(way, "gibram://127.0.0.1:1", connections_max=connections_max):
            pass

    with pytest.raises(InvalidArgumentError, match="connections_max must be a whole number of at least 1, got"):
        asyncio.run(connect())


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "2", None])
def test_a_timeout_that_is_none_is_refused(timeout_s: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="timeout_s"):
        gibramdb.connect(timeout_s=timeout_s)
    with gibramdb.open(vector_dim=2) as store, pytest.raises(InvalidArgumentError, match="timeout_s"):
        store.session("s").with_timeout(timeout_s)


def test_a_connection_that_is_refused_is_tried_again_while_a_server_comes_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    def come_up() -> None:
        with socket.create_server(("127.0.0.1", port)) as late:
            connection, _ = late.accept()
            with connection:
                reader = FrameReader(100)
                reader.feed(connection.recv(100))
                body = reader.next_frame()
                assert body is not None
                pong(decode_request(body), connection)

    timer = threading.Timer(0.06, come_up)
    timer.start()
    gibramdb.connect(f"gibram://127.0.0.1:{port}").close()
    timer.join(60)
