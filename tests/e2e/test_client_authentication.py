"""AUTH from the client's side, against a peer that asks for a key: first on each connection, and nowhere to be read."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import Callable

import pytest
from support.peer import Peer, pong

import gibramdb
from gibramdb.errors import AuthenticationError, ConnectionFailedError, GibramError, ProtocolError, RateLimitedError
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import Request, encode_error
from gibramdb.wire.framing import encode_reply

KEY = "s3cret/key?with@all#of:it%"
IN_URL = "s3cret%2Fkey%3Fwith%40all%23of%3Ait%25"


class Guarded:
    """Lets in who says KEY first; answers AUTH with the request's id, or with 0 as GibRAM 0.3.0 does."""

    def __init__(self, *, names_request: bool = True) -> None:
        self._names_request = names_request
        self._let_in: set[int] = set()

    def __call__(self, request: Request, connection: socket.socket) -> bool:
        if request.number == N.AUTH:
            key = request.payload[2:].decode()
            is_right = key == KEY
            answer = pb.AuthResponse(
                success=is_right,
                message="authenticated" if is_right else "invalid api key",
                key_id="k",
                permissions=["read"],
            )
            request_id = request.request_id if self._names_request else 0
            connection.sendall(encode_reply(request_id, N.AUTH_RESPONSE, answer.SerializeToString()))
            self._let_in.add(id(connection))
            return is_right
        if id(connection) not in self._let_in:
            error = pb.Error(message="authentication required", code=-1).SerializeToString()
            connection.sendall(encode_reply(request.request_id, N.ERROR, error))
            return False
        return pong(request, connection)


def outcome(way: str, url: str, api_key: str | None = None) -> GibramError | None:
    """What comes of connecting and asking PING twice more."""

    async def run() -> None:
        async with gibramdb.connect_async(url, api_key=api_key) as db:
            await db.ping()
            await db.ping()

    try:
        if way == "async":
            asyncio.run(run())
        else:
            with gibramdb.connect(url, api_key=api_key) as db:
                db.ping()
                db.ping()
    except GibramError as error:
        return error
    return None


ways = pytest.mark.parametrize("way", ["blocking", "async"])


@ways
@pytest.mark.parametrize("names_request", [True, False])
def test_the_key_goes_first_and_once_on_a_connection(way: str, names_request: bool) -> None:
    with Peer(Guarded(names_request=names_request)) as peer:
        assert outcome(way, peer.url, KEY) is None
        assert outcome(way, peer.url.replace("://", f"://{IN_URL}@")) is None
        assert peer.numbers == [N.AUTH, N.PING, N.PING, N.PING] * 2


@ways
def test_a_key_that_is_not_accepted_is_tried_once(way: str) -> None:
    with Peer(Guarded()) as peer:
        error = outcome(way, peer.url, "wrong")
        assert type(error) is AuthenticationError
        assert str(error) == "invalid api key"
        assert peer.numbers == [N.AUTH]


@ways
def test_no_key_where_one_is_asked_for(way: str) -> None:
    with Peer(Guarded()) as peer:
        error = outcome(way, peer.url)
        assert type(error) is AuthenticationError
        assert "api_key=" in str(error)


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


@ways
def test_a_server_that_closes_at_once_has_carried_nothing_out(way: str) -> None:
    with Peer(lambda _request, _connection: False) as peer:
        error = outcome(way, peer.url, KEY)
        assert type(error) is ConnectionFailedError
        assert "did not answer AUTH" in str(error)
        assert peer.numbers == [N.AUTH] * 4, "which is tried again"


@pytest.mark.parametrize("answer", [Guarded(), lambda _request, _connection: False, answering(N.PONG, b"")])
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
