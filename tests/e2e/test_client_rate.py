"""What a client makes of a key's rate: a batch goes on as fast as it may, each command once, and tells how far it came."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.gate import config_file, entry
from support.peer import Peer, pong
from support.server import Server
from support.timing import TIMED

import gibramdb
from gibramdb import NewDocument, NewEntity
from gibramdb.errors import (
    GibramError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitedError,
)
from gibramdb.model import commands as c
from gibramdb.model.results import Created, Health
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import Request, decode_pipeline, encode_error, encode_pipeline_response, encode_result
from gibramdb.wire.framing import encode_reply

ENTITIES = 50
KEYS = [entry("a", "write"), entry("b", "write")]  # each has its own rate

ways = pytest.mark.parametrize("way", ["blocking", "async"])


def execute_many(way: str, url: str, batch: Sequence[c.Command], **options: Any) -> list[Any]:
    """By a client of its own."""
    if way == "blocking":
        with gibramdb.connect(url, **options) as db:
            return db.execute_many(batch)

    async def run() -> list[Any]:
        async with gibramdb.connect_async(url, **options) as db:
            return await db.execute_many(batch)

    return asyncio.run(run())


def link_many(way: str, url: str, pairs: Sequence[tuple[int, int]], **options: Any) -> None:
    """By a client of its own."""
    if way == "blocking":
        with gibramdb.connect(url, **options) as db:
            db.session("s").link_many(pairs)
        return

    async def run() -> None:
        async with gibramdb.connect_async(url, **options) as db:
            await db.session("s").link_many(pairs)

    asyncio.run(run())


# --- the real server --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With keys, and the limits that it has unless told otherwise: 1,000 a second, 100 at once."""
    directory = tmp_path_factory.mktemp("default")
    path = config_file(directory, KEYS)
    with Server(directory / "data", "--config", path, mode="ephemeral") as server:
        with gibramdb.connect(f"gibram://127.0.0.1:{server.port}", api_key="key-a") as db:
            db.session("s").add_entities([NewEntity(f"e{number}", f"e{number}") for number in range(ENTITIES)])
        yield server


@TIMED
@ways
def test_a_batch_far_beyond_the_burst_takes_what_the_rate_says(way: str, default: Server) -> None:
    count = 6_000
    batch = [c.GetEntity("s", 1 + number % ENTITIES) for number in range(count)]
    began = time.monotonic()
    found = execute_many(way, f"gibram://127.0.0.1:{default.port}", batch, api_key="key-a")
    took_s = time.monotonic() - began
    assert [entity.id for entity in found] == [command.id for command in batch]
    assert (count - 100) / 1_000 - 0.5 < took_s < 9


@TIMED
def test_two_who_share_a_key_share_its_rate(default: Server) -> None:
    batch = [c.GetEntity("s", 1)] * 1_500

    async def run() -> None:
        async with gibramdb.connect_async(f"gibram://127.0.0.1:{default.port}", api_key="key-a") as db:
            answers = await asyncio.gather(*(db.execute_many(batch) for _ in range(2)))
            assert [len(each) for each in answers] == [1_500] * 2

    began = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began < 5


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """40 commands a second, 10 at once."""
    directory = tmp_path_factory.mktemp("slow")
    path = config_file(directory, KEYS, security={"rate_limit": 40, "rate_burst": 10})
    with Server(directory / "data", "--config", path, mode="ephemeral") as server:
        yield server


@TIMED
@ways
def test_a_batch_that_goes_on_is_given_more_than_the_time_of_one_call(way: str, slow: Server) -> None:
    key = {"blocking": "key-a", "async": "key-b"}[way]
    session_id = f"{way}-writes"
    url = f"gibram://127.0.0.1:{slow.port}"
    batch = [c.AddDocuments(session_id, (NewDocument(f"d{number}"),), bulk=False) for number in range(90)]
    began = time.monotonic()
    created = execute_many(way, url, batch, api_key=key, timeout_s=1)
    took_s = time.monotonic() - began
    assert [answer.ids for answer in created] == [(number + 1,) for number in range(90)], "each once, in order"
    assert 1.5 < took_s < 4
    time.sleep(0.1)
    with gibramdb.connect(url, api_key=key) as db:
        assert db.session(session_id).info().document_count == 90


@TIMED
def test_a_bucket_that_holds_little_is_emptied_before_it_is_full(tmp_path: Path) -> None:
    path = config_file(tmp_path, KEYS, security={"rate_limit": 400, "rate_burst": 8})
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        began = time.monotonic()
        execute_many("blocking", f"gibram://127.0.0.1:{server.port}", [c.Ping()] * 800, api_key="key-a")
        assert time.monotonic() - began < 3, "at 400 a second they are two"


@ways
def test_an_error_in_a_batch_has_the_results_before_it(way: str, default: Server) -> None:
    batch = [c.GetEntity("s", number) for number in (3, 1, 2, 99_999, 4)]
    with pytest.raises(NotFoundError, match="; 3 of 5 commands were answered before it") as caught:
        execute_many(way, f"gibram://127.0.0.1:{default.port}", batch, api_key="key-b")
    assert [entity.id for entity in caught.value.results] == [3, 1, 2]


# --- a peer that says what it is told to ------------------------------------------------------------------------------


class Paced:
    """Carries out marked writes, each token once. Each pipeline has a word: how many it lets through before it refuses
    the next for the rate, behind `lost` if it closes the connection in place of an answer; or the error for the next."""

    def __init__(self, words: Sequence[int | str | tuple[int, GibramError]]) -> None:
        self._words = list(words)
        self.carried_out: list[str] = []
        self.widths: list[int] = []
        self._ids: dict[bytes, int] = {}

    def __call__(self, request: Request, connection: socket.socket) -> bool:
        if request.number == N.HEALTH:
            reply = encode_result(Health("ok", {"tokens": "remembered"}), request)
            connection.sendall(encode_reply(request.request_id, *reply))
            return True
        if request.number != N.PIPELINE:
            return pong(request, connection)
        word = self._words.pop(0) if self._words else 0
        error: GibramError = RateLimitedError("rate limit exceeded")
        is_lost = False
        if isinstance(word, tuple):
            word, error = word
        elif isinstance(word, str):
            word, is_lost = int(word.removeprefix("lost ")), True
        inner = decode_pipeline(request.payload)
        self.widths.append(len(inner))
        replies = [(each.request_id, *encode_result(self._carry_out(each), each)) for each in inner[:word]]
        if len(inner) > word:
            replies.append((inner[word].request_id, N.ERROR, encode_error(error)))
        if is_lost:
            return False
        connection.sendall(encode_reply(request.request_id, N.PIPELINE_RESPONSE, encode_pipeline_response(replies)))
        return True

    def _carry_out(self, request: Request) -> Created:
        token = request.token or request.payload
        if token not in self._ids:
            self.carried_out.append(pb.AddDocumentRequest.FromString(request.payload).external_id)
            self._ids[token] = len(self.carried_out)
        return Created((self._ids[token],), bulk=False)


def documents(count: int) -> list[c.Command]:
    return [c.AddDocuments("s", (NewDocument(f"d{number}"),), bulk=False) for number in range(count)]


@TIMED
@ways
def test_who_is_no_longer_let_through_is_told_how_far_it_came(way: str) -> None:
    answer = Paced([3, 2])
    with Peer(answer) as peer:
        began = time.monotonic()
        with pytest.raises(RateLimitedError, match="; 5 of 40 commands were answered before it") as caught:
            execute_many(way, peer.url, documents(40), timeout_s=0.7)
        assert time.monotonic() - began < 2
        assert [created.ids for created in caught.value.results] == [(number + 1,) for number in range(5)]
        assert answer.carried_out == [f"d{number}" for number in range(5)]


@ways
def test_what_is_refused_is_not_sent_whole_again_and_again(way: str) -> None:
    answer = Paced([20, 30, 50, *[1_000] * 20])
    with Peer(answer) as peer:
        created = execute_many(way, peer.url, documents(400))
        assert [each.ids for each in created] == [(number + 1,) for number in range(400)]
        assert answer.carried_out == [f"d{number}" for number in range(400)]
        assert answer.widths == [400, 40, 60, 100, 200], "about twice of what passed; more where all of it does"


@ways
@pytest.mark.parametrize("lost", ["lost 2", "lost 6", "lost 0"])
def test_a_connection_that_breaks_in_the_middle_costs_nothing_and_does_nothing_twice(way: str, lost: str) -> None:
    answer = Paced([5, lost, 1, *[1_000] * 20])
    with Peer(answer) as peer:
        created = execute_many(way, peer.url, documents(20), retry_writes=True)
        assert [each.ids for each in created] == [(number + 1,) for number in range(20)]
        assert answer.carried_out == [f"d{number}" for number in range(20)]


@ways
def test_an_outcome_stays_unknown_until_all_that_was_under_way_is_answered(way: str) -> None:
    denied = PermissionDeniedError("permission denied")
    with Peer(Paced([5, "lost 4", 2, (1, denied)])) as peer:
        with pytest.raises(OutcomeUnknownError, match="; 8 of 20 commands were answered before it") as caught:
            execute_many(way, peer.url, documents(20), retry_writes=True)
        assert len(caught.value.results) == 8
    # Ten were under way when the connection broke; the eleventh never was.
    with (
        Peer(Paced([5, "lost 4", 10, (0, denied)])) as peer,
        pytest.raises(PermissionDeniedError, match="; 15 of 20 commands"),
    ):
        execute_many(way, peer.url, documents(20), retry_writes=True)


@ways
def test_a_write_that_is_not_marked_is_not_sent_again_after_progress_either(way: str) -> None:
    answer = Paced([5, "lost 2"])
    with Peer(answer) as peer:
        with pytest.raises(OutcomeUnknownError, match="; 5 of 20 commands were answered before it") as caught:
            execute_many(way, peer.url, documents(20))
        assert len(caught.value.results) == 5
        assert len(answer.widths) == 2


@ways
def test_links_say_how_many_are_made(way: str) -> None:
    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == N.PING:
            return pong(request, connection)
        inner = decode_pipeline(request.payload)
        replies = [(each.request_id, int(N.OK), b"") for each in inner]
        if len(inner) < 5_000:
            replies[-1] = (inner[-1].request_id, N.ERROR, encode_error(NotFoundError("link failed: no such entity")))
        connection.sendall(encode_reply(request.request_id, N.PIPELINE_RESPONSE, encode_pipeline_response(replies)))
        return True

    told = "link failed: no such entity; 2 of 3 commands were answered before it; counted from pair 5000"
    with Peer(answer) as peer, pytest.raises(NotFoundError, match=told):
        link_many(way, peer.url, [(1, number) for number in range(5_003)])


@ways
def test_replies_in_another_order_than_the_commands_of_a_pipeline_are_no_answer(way: str) -> None:
    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == N.PING:
            return pong(request, connection)
        payload = encode_pipeline_response([(2, N.OK, b""), (1, N.OK, b"")])
        connection.sendall(encode_reply(request.request_id, N.PIPELINE_RESPONSE, payload))
        return True

    with Peer(answer) as peer, pytest.raises(ProtocolError, match="expected the answer to request 1, got 2"):
        link_many(way, peer.url, [(1, 1), (1, 2)])


@ways
@pytest.mark.parametrize("replies", [[], [True], [True, False, True], [False, True, True]])
def test_a_pipeline_that_is_answered_in_part_is_not_taken_for_carried_out(way: str, replies: list[bool]) -> None:
    error = encode_error(NotFoundError("link failed"))
    inner = [(id, N.OK, b"") if is_ok else (id, N.ERROR, error) for id, is_ok in enumerate(replies, 1)]

    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == N.PING:
            return pong(request, connection)
        payload = encode_pipeline_response(inner)
        connection.sendall(encode_reply(request.request_id, N.PIPELINE_RESPONSE, payload))
        return True

    with Peer(answer) as peer:
        with pytest.raises(ProtocolError, match=f"a pipeline of 3 commands was answered with {len(replies)} replies"):
            link_many(way, peer.url, [(1, 1), (1, 2), (1, 3)])
        assert peer.numbers.count(N.PIPELINE) == 1
