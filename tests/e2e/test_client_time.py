"""A call ends within its time at every step of connecting and sending, whoever it is that does not answer."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from support.peer import Peer, pong
from support.timing import TIMED, slowness
from support.tls import Authority
from support.ways import ways

import gibramdb
from gibramdb.errors import ConnectionFailedError, GibramError, OutcomeUnknownError
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import Request

TIMEOUT_S = 0.6
LATE_S = 0.5
"""How much later than its time a call may end here: the machine has other work."""
NAME = "store.example"

pytestmark = TIMED


def ended(way: str, url: str, textunit: str = "", **options: Any) -> tuple[GibramError | None, float]:
    """What comes of connecting, or of a write then, and after how many seconds."""
    options = {"timeout_s": TIMEOUT_S, **options}
    if way == "blocking":
        began = time.monotonic()
        try:
            with gibramdb.connect(url, **options) as db:
                began = time.monotonic()
                if textunit:
                    db.session("s").add_textunit("t", 1, textunit)
        except GibramError as error:
            return error, time.monotonic() - began
        return None, time.monotonic() - began

    async def run() -> tuple[GibramError | None, float]:
        began = time.monotonic()
        try:
            async with gibramdb.connect_async(url, **options) as db:
                began = time.monotonic()
                if textunit:
                    await db.session("s").add_textunit("t", 1, textunit)
        except GibramError as error:
            return error, time.monotonic() - began
        return None, time.monotonic() - began

    return asyncio.run(run())


def in_time(way: str, url: str, textunit: str = "", **options: Any) -> GibramError:
    """The error that it ended with, when its time was over."""
    error, took_s = ended(way, url, textunit, **options)
    assert error is not None
    assert f"timed out after {TIMEOUT_S:g} s" in str(error)
    assert TIMEOUT_S - 0.1 < took_s < TIMEOUT_S + LATE_S * slowness(time.monotonic)
    return error


@contextmanager
def silence(port: int = 0) -> Iterator[int]:
    """A port whose queue is full: nobody is refused and nobody gets through."""
    with socket.create_server(("127.0.0.1", port), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        yield port
        for each in waiting:
            each.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """See silence."""
    with silence() as port:
        yield port


Resolve = Callable[..., list[tuple[Any, ...]]]


def resolving(monkeypatch: pytest.MonkeyPatch, resolve: Callable[[], list[int]]) -> None:
    """NAME has an address for each of the ports that `resolve` gives."""
    real: Resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> list[tuple[Any, ...]]:
        if host != NAME or options.get("flags", 0) & socket.AI_NUMERICHOST:
            return real(host, *arguments, **options)
        tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*tcp, ("127.0.0.1", port)) for port in resolve()]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@ways
def test_a_name_whose_addresses_are_all_silent(way: str, silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, lambda: [silent] * 3)
    assert type(in_time(way, f"gibram://{NAME}")) is ConnectionFailedError


@ways
def test_an_address_that_is_silent_leaves_time_for_the_others(
    way: str, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed: int = listener.getsockname()[1]
    with Peer(pong) as peer:
        resolving(monkeypatch, lambda: [closed, silent, peer.port])
        assert ended(way, f"gibram://{NAME}")[0] is None
        assert peer.numbers == [N.PING]


@ways
def test_a_name_that_is_not_found(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve() -> list[int]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolving(monkeypatch, resolve)
    error, _ = ended(way, f"gibram://{NAME}", timeout_s=5)
    assert type(error) is ConnectionFailedError
    assert "Name or service not known" in str(error)


@ways
def test_a_resolver_that_does_not_answer(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer = threading.Event()

    def resolve() -> list[int]:
        may_answer.wait(TIMEOUT_S + 2 * LATE_S)
        return [1]

    resolving(monkeypatch, resolve)
    if way == "blocking":
        in_time(way, f"gibram://{NAME}")
        may_answer.set()
        return

    async def run() -> tuple[GibramError, float]:
        began = time.monotonic()
        try:
            await gibramdb.connect_async(f"gibram://{NAME}", timeout_s=TIMEOUT_S)
        except GibramError as error:
            return error, time.monotonic() - began
        finally:
            may_answer.set()  # the loop's end waits for its threads
        raise AssertionError

    error, took_s = asyncio.run(run())
    assert "timed out" in str(error)
    assert took_s < TIMEOUT_S + LATE_S * slowness(time.monotonic)


class Mute:
    """Takes connections and says a few bytes from time to time: nothing that is whole."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self._is_over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._trickle, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _trickle(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            for byte in self._said:
                connection.sendall(bytes((byte,)))
                if self._is_over.wait(0.1):
                    return
            self._is_over.wait(60)


@ways
@pytest.mark.parametrize(
    "said", [b"", b"\x16\x03\x03\x01\x00" + bytes(300)], ids=["nothing", "a record that never ends"]
)
def test_a_tls_handshake_that_never_ends(way: str, said: bytes) -> None:
    with Mute(said) as mute:
        assert type(in_time(way, f"gibrams://127.0.0.1:{mute.port}")) is ConnectionFailedError


@ways
@pytest.mark.parametrize(
    "said", [b"", b"\x01\x00\x00\x03\xe8" + bytes(300)], ids=["nothing", "a frame that never ends"]
)
def test_an_auth_that_is_never_answered(way: str, said: bytes) -> None:
    with Mute(said) as mute:
        error = in_time(way, f"gibram://127.0.0.1:{mute.port}", api_key="k")
        assert type(error) is ConnectionFailedError
        assert "did not answer AUTH" in str(error)


class Slow:
    """Answers PING, and takes what comes next a megabyte at a time, with a pause after each."""

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def __call__(self, request: Request, connection: socket.socket) -> bool:
        pong(request, connection)
        with suppress(OSError):
            while not self.is_over.wait(0.1):
                for _ in range(64):
                    if not connection.recv(16_384):
                        return False
        return False


@ways
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_a_server_that_takes_a_large_write_bit_by_bit(way: str, is_tls: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.context("127.0.0.1") if is_tls else None
    options = {"tls": authority.file} if is_tls else {}
    slow = Slow()
    with Peer(slow, tls=context) as peer:
        error = in_time(way, peer.url, "x" * 50_000_000, **options)
        slow.is_over.set()
    # Only a blocking socket can tell that not everything has left.
    assert type(error) is (ConnectionFailedError if way == "blocking" else OutcomeUnknownError)


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_what_a_call_had_not_sent_when_its_time_was_over_is_not_sent_later(is_tls: bool, tmp_path: Path) -> None:
    size = 50_000_000
    call_is_over, is_taken = threading.Event(), threading.Event()
    taken: list[int] = []

    def answer(request: Request, connection: socket.socket) -> bool:
        pong(request, connection)
        call_is_over.wait(60)
        taken.append(0)
        with suppress(OSError):
            while data := connection.recv(1 << 20):
                taken[0] += len(data)
        is_taken.set()
        return False

    async def run() -> None:
        async with gibramdb.connect_async(peer.url, timeout_s=TIMEOUT_S, **options) as db:
            with pytest.raises(OutcomeUnknownError, match="timed out"):
                await db.session("s").add_textunit("t", 1, "x" * size)
            call_is_over.set()
            await asyncio.to_thread(is_taken.wait, 10)

    authority = Authority(tmp_path)
    context = authority.context("127.0.0.1") if is_tls else None
    options: dict[str, Any] = {"tls": authority.file} if is_tls else {}
    with Peer(answer, tls=context) as peer:
        asyncio.run(run())
    assert 0 < taken[0] < size


def test_a_call_that_waits_behind_others_says_why_they_do_not_get_through() -> None:
    async def run() -> tuple[int, str, str]:
        async def refused(call: Awaitable[Any]) -> str:
            with pytest.raises(ConnectionFailedError) as error:
                await call
            return str(error.value)

        with Peer(pong) as peer:
            db = await gibramdb.connect_async(peer.url, connections_max=1)
        assert "other calls" not in await refused(db.ping())
        with silence(peer.port):  # now a connection is neither made nor refused, and takes the only place
            first = asyncio.ensure_future(refused(db.with_timeout(1).ping()))
            await asyncio.sleep(0.05)
            waited = await refused(db.with_timeout(0.2).ping())
            return peer.port, waited, await first

    port, waited, first = asyncio.run(run())
    assert f"no server answers at 127.0.0.1:{port}: [Errno {errno.ECONNREFUSED}]" in waited
    assert "other calls met that, and behind them this one timed out after 0.2 s" in waited
    assert "timed out after 1 s" in first


def test_calls_that_meet_no_server_leave_nothing_to_a_collector_which_would_make_the_others_late() -> None:
    async def run() -> int:
        with Peer(pong) as peer:
            db = await gibramdb.connect_async(peer.url, connections_max=1)

        async def ends(timeout_s: float) -> None:
            with suppress(ConnectionFailedError):
                await db.with_timeout(timeout_s).ping()
                pytest.fail("there is no server")

        await ends(10)
        gc.collect()
        gc.disable()
        try:
            await asyncio.gather(*(ends(10) for _ in range(100)))
            with silence(peer.port):
                await asyncio.gather(*(ends(0.2) for _ in range(100)))
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(run()) < 100, "there were 20,000 once"
