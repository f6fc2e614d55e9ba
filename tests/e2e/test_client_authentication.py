"""AUTH from the client's side: against the real server with keys, and against peers that answer it otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.gate import config_file, entry, hash_of
from support.peer import Peer, pong
from support.server import Server
from support.timing import TIMED, slowness
from support.tls import Authority
from support.ways import connected, told, ways

import gibramdb
from gibramdb import NewEntity
from gibramdb.errors import (
    AuthenticationError,
    ConnectionFailedError,
    GibramError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitedError,
    UnavailableError,
)
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import Request, encode_error
from gibramdb.wire.framing import encode_reply

KEY = "s3cret/key?with@all#of:it%"
IN_URL = "s3cret%2Fkey%3Fwith%40all%23of%3Ait%25"
KEYS = [
    entry("writer", "write", key=KEY),
    entry("hashed", "write", key_hash=hash_of("key-hashed")),
    entry("reader", "read"),
    entry("operator", "admin"),
    entry("bound", "admin", sessions=["a-*", "shared"]),
    entry("late", "write", expires_at="2001-01-01T00:00:00Z"),
]


def started(directory: Path, keys: list[dict[str, object]], **more: Any) -> Server:
    """A durable server that asks for one of these keys."""
    arguments = more.pop("arguments", ())
    path = config_file(directory, keys, security={"rate_limit": 100_000, "rate_burst": 100_000}, **more)
    return Server(directory / "data", "--config", path, *arguments)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with started(tmp_path_factory.mktemp("keys"), KEYS) as server:
        yield server
        assert KEY not in "".join(server.lines)


def url(server: Server, key_in_url: str = "") -> str:
    return f"gibram://{key_in_url}{'@' if key_in_url else ''}127.0.0.1:{server.port}"


# --- the real server --------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize(("in_url", "api_key"), [("", KEY), (IN_URL, None), ("", "key-hashed"), ("key-hashed", None)])
def test_a_right_key_is_let_in_on_every_connection(
    server: Server, way: str, in_url: str, api_key: str | None, request: pytest.FixtureRequest
) -> None:
    async def run() -> None:
        async with connected(way, url(server, in_url), api_key=api_key) as store:
            session = store.session(request.node.name)
            ids = await told(session.add_entities([NewEntity(f"e{n}", f"e{n}") for n in range(3)]))
            if way == "async":  # so many calls at once open connections of their own
                await asyncio.gather(*(session.touch() for _ in range(20)))
            assert [each.id for each in await told(session.entities())] == ids

    asyncio.run(run())


@ways
def test_a_key_that_is_not_accepted_is_told_so_and_tried_once(tmp_path: Path, way: str) -> None:
    async def outcome(server: Server, key: str | None) -> str:
        with pytest.raises(AuthenticationError) as caught:
            async with connected(way, url(server), api_key=key):
                pass
        return str(caught.value)

    async def run(server: Server) -> None:
        # Whoever has shown five wrong keys has to pause, and is told so: each of these four was shown once.
        assert [await outcome(server, "wrong") for _ in range(4)] == ["invalid api key"] * 4
        assert await outcome(server, "key-late") == "api key expired"
        assert "api_key=" in await outcome(server, None), "who gives none is told how"
        async with connected(way, url(server), api_key=KEY) as store:
            await told(store.ping())

    with started(tmp_path, KEYS) as server:
        asyncio.run(run(server))


@TIMED
@ways
def test_a_key_whose_time_ends_during_a_connection(tmp_path: Path, way: str) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=4 * slowness(time.monotonic))

    async def run(server: Server) -> None:
        async with connected(way, url(server), api_key="key-brief") as store:
            assert await told(store.session("s").add_entity("e", "e")) == 1
            await asyncio.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()) + 0.1)
            for _ in range(3):  # on the connection that there is, and on new ones: none is in doubt about a write
                with pytest.raises(AuthenticationError, match="api key expired"):
                    await told(store.session("s").add_entity("f", "f"))
        async with connected(way, url(server), api_key="key-operator") as store:
            assert (await told(store.session("s").info())).entity_count == 1

    brief = entry("brief", "write", expires_at=ends.isoformat().replace("+00:00", "Z"))
    with started(tmp_path, [brief, entry("operator", "admin")]) as server:
        asyncio.run(run(server))


@ways
def test_a_bound_key_sees_its_sessions_and_is_told_of_the_others_nothing(server: Server, way: str) -> None:
    mine = [f"a-{way}", f"a-{way}-2"]

    async def run() -> None:
        async with connected(way, url(server), api_key="key-operator") as store:
            for name in (f"b-{way}", *mine):
                await told(store.session(name).add_entity("e", "e"))
        async with connected(way, url(server, "key-bound")) as store:
            listed = [each.session_id for each in await told(store.sessions())]
            assert [name for name in listed if way in name] == mine
            assert all(name.startswith("a-") for name in listed)
            assert (await told(store.info())).session_count == len(listed)
            await told(store.session(mine[0]).add_entity("f", "f"))
            other = store.session(f"b-{way}")
            for refused in (other.info, other.touch, other.delete, lambda: other.add_entity("g", "g"), store.save):
                with pytest.raises(PermissionDeniedError):
                    await told(refused())
            pairs = [(1, 1)]
            with pytest.raises(PermissionDeniedError):
                await told(other.link_many(pairs))
            await told(store.session(mine[0]).delete())
        async with connected(way, url(server), api_key="key-operator") as store:
            assert (await told(store.session(f"b-{way}").info())).entity_count == 1
            await told(store.session(mine[1]).delete())

    asyncio.run(run())


@ways
def test_what_a_key_may_not_do_is_refused_and_the_connection_goes_on(server: Server, way: str) -> None:
    async def run() -> None:
        async with connected(way, url(server), api_key=KEY) as store:
            await told(store.session(f"r {way}").add_entity("e", "e"))
            with pytest.raises(PermissionDeniedError, match="requires 'admin' permission"):
                await told(store.checkpoint())
        async with connected(way, url(server), api_key="key-reader") as store:
            session = store.session(f"r {way}")
            for method, arguments in ((session.add_entity, ("f", "f")), (session.link_many, ([(1, 1)],))):
                with pytest.raises(PermissionDeniedError, match="requires 'write' permission"):
                    await told(method(*arguments))
                assert [each.external_id for each in await told(session.entities())] == ["e"]

    asyncio.run(run())


@ways
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_restarted_server_is_shown_the_key_again(tmp_path: Path, way: str, encrypted: bool) -> None:
    authority = Authority(tmp_path)
    more = {"tls": authority.issue("localhost", "127.0.0.1")} if encrypted else {}

    def again(server: Server, keys: list[dict[str, object]]) -> Server:
        server.kill()
        return started(tmp_path, keys, arguments=("--addr", f"127.0.0.1:{server.port}"), **more)

    async def run(server: Server) -> Server:
        where = f"{'gibrams' if encrypted else 'gibram'}://{IN_URL}@127.0.0.1:{server.port}"
        tls = authority.file if encrypted else None
        async with connected(way, where, tls=tls) as store:
            session = store.session("s")
            await told(session.add_entity("e1", "e1"))
            server = again(server, KEYS)
            await told(session.add_entity("e2", "e2"))
            server = again(server, KEYS)
            assert [each.id for each in await told(session.entities())] == [1, 2]
            server = again(server, [entry("another", "write")])
            with pytest.raises(AuthenticationError, match="invalid api key"):
                await told(session.add_entity("e3", "e3"))
        return server

    server = started(tmp_path, KEYS, **more)
    try:
        server = asyncio.run(run(server))
    finally:
        server.kill()


# --- other servers ----------------------------------------------------------------------------------------------------


class Gibram:
    """Lets in who says KEY first, and answers AUTH with a request id of 0, as GibRAM 0.3.0 does."""

    def __init__(self) -> None:
        self._let_in: set[int] = set()

    def __call__(self, request: Request, connection: socket.socket) -> bool:
        if request.number == N.AUTH:
            is_right = request.payload[2:].decode() == KEY
            message = "authenticated" if is_right else "invalid api key"
            answer = pb.AuthResponse(success=is_right, message=message, key_id="k", permissions=["read"])
            connection.sendall(encode_reply(0, N.AUTH_RESPONSE, answer.SerializeToString()))
            self._let_in.add(id(connection))
            return is_right
        return id(connection) in self._let_in and pong(request, connection)


def outcome(way: str, url: str, api_key: str | None = None, timeout_s: float = 30) -> GibramError | None:
    """What comes of connecting and asking PING twice more."""

    async def run() -> None:
        async with connected(way, url, api_key=api_key, timeout_s=timeout_s) as store:
            await told(store.ping())
            await told(store.ping())

    try:
        asyncio.run(run())
    except GibramError as error:
        return error
    return None


@ways
def test_the_key_goes_first_and_once_on_a_connection(way: str) -> None:
    with Peer(Gibram()) as peer:
        assert outcome(way, peer.url, KEY) is None
        assert outcome(way, peer.url.replace("://", f"://{IN_URL}@")) is None
        assert peer.numbers == [N.AUTH, N.PING, N.PING, N.PING] * 2
        assert type(outcome(way, peer.url, "wrong")) is AuthenticationError


def answering(number: int, payload: bytes) -> Callable[[Request, socket.socket], bool]:
    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number != N.AUTH:
            return pong(request, connection)
        connection.sendall(encode_reply(request.request_id, number, payload))
        return True

    return answer


@ways
def test_a_server_of_gibram_without_keys_lets_everybody_in(way: str) -> None:
    with Peer(answering(N.ERROR, pb.Error(message="unknown command: 120", code=-1).SerializeToString())) as peer:
        assert outcome(way, peer.url, KEY) is None


@ways
@pytest.mark.parametrize(
    ("number", "payload", "expected"),
    [
        (N.ERROR, encode_error(RateLimitedError("too many wrong keys from 127.0.0.1")), RateLimitedError),
        (N.AUTH_RESPONSE, b"", AuthenticationError),
        (N.AUTH_RESPONSE, b"\xff", ProtocolError),
        (N.PONG, b"", ProtocolError),
    ],
)
def test_other_answers(way: str, number: int, payload: bytes, expected: type[GibramError]) -> None:
    with Peer(answering(number, payload)) as peer:
        assert type(outcome(way, peer.url, KEY)) is expected
        assert peer.numbers == [N.AUTH]


@TIMED
@ways
def test_a_server_that_is_too_busy_to_check_a_key_is_asked_again(way: str) -> None:
    tries = 0

    def answer(request: Request, connection: socket.socket) -> bool:
        nonlocal tries
        tries += request.number == N.AUTH
        if request.number != N.AUTH or tries > 3:
            return answering(N.AUTH_RESPONSE, pb.AuthResponse(success=True).SerializeToString())(request, connection)
        busy = pb.AuthResponse(success=False, message="busy, try again", code=UnavailableError.code)
        connection.sendall(encode_reply(request.request_id, N.AUTH_RESPONSE, busy.SerializeToString()))
        return False

    with Peer(answer) as peer:
        assert outcome(way, peer.url, KEY) is None
        assert peer.numbers[:4] == [N.AUTH] * 4, "on connections of their own"
        tries = -1_000
        began = time.monotonic()
        error = outcome(way, peer.url, KEY, timeout_s=1)
        assert type(error) is UnavailableError, "which says nothing of the key"
        assert "busy, try again; nothing was carried out" in str(error)
        assert time.monotonic() - began < 1.5 * slowness(time.monotonic)


def test_many_who_show_one_hashed_key_at_once_are_all_let_in(tmp_path: Path) -> None:
    """As when the processes of one host meet a server that has just been started."""
    hashed = entry("hashed", "write", key_hash=hash_of("key-hashed", cost=12))

    async def run(server: Server) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stores = await asyncio.gather(
                *(stack.enter_async_context(connected("async", url(server), api_key="key-hashed")) for _ in range(10))
            )
            await asyncio.gather(*(told(store.ping()) for store in stores))

    with started(tmp_path, [hashed]) as server:
        asyncio.run(run(server))


@ways
def test_a_server_that_closes_at_once_has_carried_nothing_out(way: str) -> None:
    with Peer(lambda _request, _connection: False) as peer:
        error = outcome(way, peer.url, KEY)
        assert type(error) is ConnectionFailedError
        assert "did not answer AUTH" in str(error)
        assert peer.numbers == [N.AUTH] * 4, "which is tried again"


@ways
def test_a_key_of_a_length_that_no_server_reads_is_said_to_be_it(server: Server, way: str) -> None:
    error = outcome(way, url(server), "k" * 5_000)
    assert type(error) is ConnectionFailedError
    assert re.search(r"the API key makes a frame of 5\d{3} bytes, and a server closes .* above 4096", str(error))


@ways
def test_a_connection_on_which_a_key_has_ended_is_not_used_again(way: str) -> None:
    """The server closes it a moment after it said so; a write sent meanwhile would be in doubt."""

    def ended(request: Request, connection: socket.socket) -> bool:
        if request.number != N.ADD_ENTITY:
            return answering(N.AUTH_RESPONSE, pb.AuthResponse(success=True).SerializeToString())(request, connection)
        error = encode_error(AuthenticationError("api key expired"))
        connection.sendall(encode_reply(request.request_id, N.ERROR, error))
        time.sleep(0.2)
        return False

    async def run(url: str) -> None:
        async with connected(way, url, api_key=KEY) as store:
            for _ in range(2):
                with pytest.raises(AuthenticationError, match="api key expired"):
                    await told(store.session("s").add_entity("e", "e"))

    with Peer(ended) as peer:
        asyncio.run(run(peer.url))
        assert peer.connections == 2


@pytest.mark.parametrize("answer", [Gibram(), lambda _request, _connection: False, answering(N.PONG, b"")])
@pytest.mark.parametrize("key", [KEY, "wrong key"])
def test_nothing_shows_the_key(answer: Callable[[Request, socket.socket], bool], key: str) -> None:
    shown = ""
    with Peer(answer) as peer:
        try:
            db = gibramdb.connect(peer.url, api_key=key)
            shown += repr(db) + repr(vars(db)) + repr(vars(db._executor)) + repr(vars(db._executor._caller))  # type: ignore[attr-defined]
            db.close()
        except GibramError:
            shown += traceback.format_exc()
    assert shown
    assert key not in shown
