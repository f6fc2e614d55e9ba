"""A write that was marked with a token and acknowledged is not carried out twice, whatever happened in between."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from support.gate import config_file
from support.peer import Peer, pong
from support.server import Server

import gibramdb
from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit, Session
from gibramdb.async_opening import Opening
from gibramdb.errors import ConnectionFailedError, InvalidArgumentError, OutcomeUnknownError
from gibramdb.model import commands as c
from gibramdb.model.results import Created, Health
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import (
    CommandNumber,
    Reply,
    Request,
    encode_command,
    encode_pipeline,
    encode_result,
    read_reply,
)
from gibramdb.wire.framing import FrameReader, encode_reply

VECTOR = [1.0] * 8
WRITERS = 6
# In this order each is right; ids are those that a fresh session gives out.
WRITES: list[c.WriteCommand] = [
    c.AddDocuments("s", (NewDocument("d1"),), bulk=False),
    c.AddDocuments("s", (NewDocument("d2"), NewDocument("d3"))),
    c.AddTextUnits("s", (NewTextUnit("t1", 1, "one", VECTOR), NewTextUnit("t2", 1, "two"))),
    c.AddEntities("s", tuple(NewEntity(f"e{n}", f"e{n}", embedding=VECTOR) for n in range(4))),
    c.AddRelationships("s", (NewRelationship(1, 2, "knows"), NewRelationship(2, 3, "knows"))),
    c.AddRelationships("s", (NewRelationship(1, 3),), bulk=False),
    c.AddCommunity("s", NewCommunity("by hand", (1,), embedding=VECTOR)),
    c.LinkTextUnitEntity("s", 1, 1),
    c.UpdateEntityDescription("s", 2, "said otherwise", [2.0] * 8),
    c.SetSessionTtl("s", 3_600),
    c.TouchSession("s"),
    c.DeleteRelationship("s", 3),
    c.DeleteCommunity("s", 1),
    c.DeleteEntity("s", 4),
    c.DeleteTextUnit("s", 2),
    c.DeleteDocument("s", 3),
]


def marked(command: c.WriteCommand, token: bytes) -> c.WriteCommand:
    """The same command with a token."""
    return type(command)(**{**{name: getattr(command, name) for name in command.__struct_fields__}, "token": token})


def ask(server: Server, *frames: bytes) -> list[Reply]:
    """The replies, in order."""
    reader = FrameReader(1 << 20)
    replies: list[Reply] = []
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        for frame in frames:
            connection.sendall(frame)
            while (body := reader.next_frame()) is None:
                data = connection.recv(65_536)
                assert data, "the server closed the connection"
                reader.feed(data)
            replies.append(read_reply(body))
    return replies


@pytest.mark.parametrize("checkpoint", [False, True], ids=["from the log", "from a snapshot"])
def test_every_marked_write_is_answered_again_and_not_done_again_after_kill_9(tmp_path: Path, checkpoint: bool) -> None:
    frames = [encode_command(marked(command, b"w%d" % index), 7) for index, command in enumerate(WRITES)]
    with Server(tmp_path) as server:
        first = ask(server, *frames)
        assert all(reply.number != CommandNumber.ERROR for reply in first)
        with server.connect() as db:
            digest = db.digest()
            if checkpoint:
                db.checkpoint()
        assert ask(server, *frames) == first
        server.kill()
    with Server(tmp_path) as server:
        assert ask(server, *frames) == first
        with server.connect() as db:
            assert db.digest() == digest
            assert db.session("s").info().document_count == 2
        # Without its token the same write is a new one, and refused for what is there.
        (again,) = ask(server, encode_command(WRITES[1], 7))
        assert again.number == CommandNumber.ERROR
        assert b"already exists" in again.payload


def test_in_a_full_session_the_newest_token_takes_the_oldest_ones_place_after_kill_9_too(tmp_path: Path) -> None:
    settings = ("--config", config_file(tmp_path, [], security={"max_memory_bytes": 1_000}))
    first, *ends = (encode_command(c.SetSessionTtl("s", 900 + n, token=b"%d" % n), 7) for n in range(5))
    with Server(tmp_path / "data", *settings) as server:
        with server.connect() as db:
            db.session("s").add_document("d", filename="x" * 700)
        assert all(reply.number != CommandNumber.ERROR for reply in ask(server, first, *ends))
        assert server.connect().session("s").info().ttl_s == 904
        server.kill()
    with Server(tmp_path / "data", *settings) as server:
        ask(server, ends[-1])
        assert server.connect().session("s").info().ttl_s == 904
        ask(server, first)
        assert server.connect().session("s").info().ttl_s == 900, "it was forgotten, and is carried out again"
        server.kill()


def test_commands_in_a_pipeline_carry_their_own(tmp_path: Path) -> None:
    batch = [marked(command, b"p%d" % index) for index, command in enumerate(WRITES[:4])]
    with Server(tmp_path) as server:
        (first,) = ask(server, encode_pipeline(batch, 9))
        server.kill()
    with Server(tmp_path) as server:
        assert ask(server, encode_pipeline(batch, 9)) == [first]
        # One that was cut short is carried on where it ended.
        longer = [*batch, marked(WRITES[4], b"p4")]
        (whole,) = ask(server, encode_pipeline(longer, 9))
        assert whole.payload.startswith(first.payload)
        assert server.connect().session("s").info().relationship_count == 2


def test_writers_who_ask_again_notice_nothing_of_a_server_that_is_killed(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    address = f"127.0.0.1:{server.port}"
    failures: list[Exception] = []
    ids: list[int] = []
    is_over = threading.Event()
    has_begun = threading.Barrier(1 + WRITERS)

    def write(number: int) -> None:
        try:
            with gibramdb.connect(f"gibram://{address}", retry_writes=True, timeout_s=120) as db:
                has_begun.wait(60)
                session = db.session("s")
                turn = 0
                while not is_over.is_set():
                    turn += 1
                    ids.append(session.add_entity(f"{number}-{turn}", f"{number}-{turn}"))
                    ids.extend(session.add_entities([NewEntity(f"{number}-{turn}-b", f"{number}-{turn}-b")]))
        except gibramdb.GibramError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    try:
        for thread in threads:
            thread.start()
        has_begun.wait(60)
        for _ in range(4):
            time.sleep(0.4)
            server.kill()
            server = Server(server.directory, "--addr", address)
        time.sleep(0.2)
        is_over.set()
        for thread in threads:
            thread.join(120)
        assert not failures
        with server.connect() as db:
            kept = sorted(entity.id for entity in db.session("s").entities())
        assert sorted(ids) == kept, "each was answered, and each was written once"
        assert len(kept) > 100
    finally:
        is_over.set()
        server.kill()


def test_a_client_that_asks_again_waits_for_a_server_that_was_there_and_no_other_client_does(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    address = f"127.0.0.1:{server.port}"
    with (
        gibramdb.connect(f"gibram://{address}", retry_writes=True, timeout_s=120) as patient,
        gibramdb.connect(f"gibram://{address}", timeout_s=120) as hasty,
    ):
        session = patient.session("s")
        session.add_document("d1")
        server.kill()
        began = time.monotonic()
        with pytest.raises(ConnectionFailedError, match="no server answers"):
            hasty.session("s").info()
        with pytest.raises(ConnectionFailedError, match="no server answers"):
            gibramdb.connect(f"gibram://{address}", retry_writes=True, timeout_s=120)
        with pytest.raises(ConnectionFailedError, match="no server answers"):
            patient.with_timeout(0.5).session("s").info()
        assert time.monotonic() - began < 60
        with ThreadPoolExecutor(2) as pool:
            written, read = pool.submit(session.add_document, "d2"), pool.submit(session.get_document, 1)
            time.sleep(1.5)  # four tries take less
            with Server(tmp_path / "data", "--addr", address):
                assert written.result(120) == 2
                assert read.result(120).external_id == "d1"
                assert hasty.session("s").info().document_count == 2


@pytest.mark.parametrize("remembers", [True, False])
def test_a_write_is_asked_for_again_only_where_tokens_are_remembered(remembers: bool) -> None:
    writes: list[bytes] = []

    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == CommandNumber.HEALTH:
            told = {"tokens": "remembered"} if remembers else {"engine": "ok"}
            reply = encode_result(Health("ok", told), request)
        elif request.number == CommandNumber.ADD_DOCUMENT:
            writes.append(request.token)
            if len(writes) < 3:
                return False  # the connection ends without an answer
            reply = encode_result(Created((7,), bulk=False), request)
        else:
            return pong(request, connection)
        connection.sendall(encode_reply(request.request_id, *reply))
        return True

    with Peer(answer) as peer, gibramdb.connect(peer.url, retry_writes=True) as db:
        if remembers:
            assert db.session("s").add_document("d") == 7
            assert len(writes) == 3
        else:
            with pytest.raises(OutcomeUnknownError):
                db.session("s").add_document("d")
            assert len(writes) == 1
        assert len(set(writes)) == 1, "one write has one token"
        assert len(writes[0]) == 16


@pytest.mark.parametrize("is_let_in_again", [True, False])
def test_an_outcome_that_is_unknown_is_not_replaced_by_a_refusal_at_the_door(is_let_in_again: bool) -> None:
    auths: list[int] = []
    writes: list[bytes] = []

    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == CommandNumber.AUTH:
            auths.append(request.request_id)
            is_welcome = len(auths) == 1 or (is_let_in_again and len(auths) > 2)
            payload = pb.AuthResponse(success=is_welcome, message="try again").SerializeToString()
            connection.sendall(encode_reply(request.request_id, CommandNumber.AUTH_RESPONSE, payload))
            return is_welcome
        if request.number == CommandNumber.HEALTH:
            reply = encode_result(Health("ok", {"tokens": "remembered"}), request)
        elif request.number == CommandNumber.ADD_DOCUMENT:
            writes.append(request.token)
            if len(writes) == 1:
                return False
            reply = encode_result(Created((7,), bulk=False), request)
        else:
            return pong(request, connection)
        connection.sendall(encode_reply(request.request_id, *reply))
        return True

    with Peer(answer) as peer, gibramdb.connect(peer.url, api_key="k", retry_writes=True, timeout_s=3) as db:
        if is_let_in_again:
            assert db.session("s").add_document("d") == 7
        else:
            with pytest.raises(OutcomeUnknownError):
                db.session("s").add_document("d")
        assert len(auths) > 2


def test_the_token_of_a_job_and_what_follows_from_it(tmp_path: Path) -> None:
    new = [NewEntity(f"e{number}", f"e{number}") for number in range(12_000)]
    with Server(tmp_path, "--mode", "durable") as server:
        with server.connect() as db:
            ids = db.session("s").once(b"import-17").add_entities(new[:6_000])
        server.kill()
    with Server(tmp_path) as server, server.connect() as db:
        job = db.session("s").once(b"import-17")
        # The first chunk is the same as before; the second was smaller then, and is now another write.
        with pytest.raises(InvalidArgumentError, match="token was used for another write"):
            job.add_entities(new)
        assert db.session("s").info().entity_count == 6_000
        again = db.session("s").once(b"import-17")
        assert again.add_entities(new[:6_000]) == ids
        assert len(again.add_entities(new[6_000:])) == 6_000
        assert db.session("s").info().entity_count == 12_000


def test_the_async_face_and_the_store_in_this_process() -> None:
    async def run() -> None:
        async with gibramdb.open_async(vector_dim=8) as db:
            first = await db.session("s").once(b"j").add_documents([NewDocument("d1"), NewDocument("d2")])
            assert await db.session("s").once(b"j").add_documents([NewDocument("d1"), NewDocument("d2")]) == first
            hasty = db.session("s").with_timeout(5).once(b"k")
            assert await hasty.add_document("d3") == await db.session("s").once(b"k").add_document("d3")

    asyncio.run(run())
    with gibramdb.open(vector_dim=8) as db:
        for wrong in (b"", 5, "text"):
            with pytest.raises(InvalidArgumentError, match="1 to 64 bytes"):
                db.session("s").once(wrong)  # type: ignore[arg-type]
        session = db.session("numbers")
        session.add_entities([NewEntity("e1", "e1"), NewEntity("e2", "e2")])
        first = session.once(b"n").add_relationship(np.int64(1), np.int64(2), weight=np.float32(0.5))  # type: ignore[arg-type]
        assert session.once(b"n").add_relationship(1, 2, weight=0.5) == first
        with pytest.raises(InvalidArgumentError, match="token too large: 65 bytes"):
            db.session("s").once(bytes(65)).add_document("d")


def test_a_job_that_goes_on_over_the_wire_is_the_same_job(tmp_path: Path) -> None:
    def work(session: Session) -> list[object]:
        job = session.once(b"import-17")
        ids = [
            job.add_document("d", "file"),
            job.add_textunit("t", 1, "text", [0.1] * 8, 3),
            job.add_entities([NewEntity("e1", "e1", embedding=[0.1] * 8), NewEntity("e2", "e2")]),
            *(job.add_relationship(1, 2, f"{weight!r}", weight=weight) for weight in (0.1, 2, 0, 1.0)),
            job.add_relationships([NewRelationship(2, 1, f"r{n}", weight=n / 7) for n in range(9)]),
            job.add_community(NewCommunity("by hand", (1, 2), embedding=[0.1] * 8)),
        ]
        job.link(1, 1)
        job.update_entity_description(1, "said otherwise", [0.3] * 8)
        job.set_ttl(3_600)
        job.touch()
        return ids

    with gibramdb.open(tmp_path, vector_dim=8) as db:
        first = work(db.session("s"))
    with Server(tmp_path) as server, server.connect() as db:
        assert work(db.session("s")) == first
        other = work(db.session("other"))
    with gibramdb.open(tmp_path, vector_dim=8) as db:
        assert work(db.session("other")) == other
        job = db.session("s").once(b"weights")
        first_id = job.add_relationship(1, 2, "new", weight=2)
        assert db.session("s").once(b"weights").add_relationship(1, 2, "new", weight=2.0) == first_id
        with pytest.raises(InvalidArgumentError, match="token was used for another write"):
            db.session("s").once(b"weights").add_relationship(1, 2, "new", weight=2.5)
        for wrong in (1e300, float("nan")):
            with pytest.raises(InvalidArgumentError, match="relationship weight"):
                db.session("s").once(b"wrong").add_relationship(2, 1, weight=wrong)


Marked = tuple[Session, Session]
VIEWS: dict[str, Callable[[Session], Marked]] = {
    "first, then the view": lambda job: (job, job.with_timeout(60)),
    "the view, then first": lambda job: (job.with_timeout(60), job),
    "two views": lambda job: (job.with_timeout(60), job.with_timeout(50)),
    "a view of a view": lambda job: (job.with_timeout(60), job.with_timeout(50).with_timeout(40)),
}


@pytest.mark.parametrize("way", ["embedded", "over the wire"])
@pytest.mark.parametrize("order", VIEWS)
def test_views_of_a_job_never_give_the_same_token_twice(way: str, order: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if way == "embedded":
            db = stack.enter_context(gibramdb.open(vector_dim=8))
        else:
            db = stack.enter_context(stack.enter_context(Server(tmp_path, mode="ephemeral")).connect())
        for attempt in (1, 2):
            first, second = VIEWS[order](db.session("s").once(b"j"))
            document = first.add_document("d")
            first.delete_document(document)
            again = second.add_document("d")
            assert again != document, f"attempt {attempt}"
            assert [each.id for each in db.session("s").documents()] == [again], "the same calls, carried out once"


@pytest.mark.parametrize("way", ["embedded", "over the wire"])
def test_views_of_a_job_on_the_event_loop(way: str, tmp_path: Path) -> None:
    async def run(opening: Opening) -> None:
        async with opening as db:
            for swap in (False, True):
                session = db.session(f"s{swap}")
                job = session.once(b"j")
                first, second = (job.with_timeout(60), job) if swap else (job, job.with_timeout(60))
                document = await first.add_document("d")
                await first.delete_document(document)
                again = await second.add_document("d")
                assert [each.id async for each in session.documents()] == [again]

    with ExitStack() as stack:
        if way == "embedded":
            opening = gibramdb.open_async(vector_dim=8)
        else:
            server = stack.enter_context(Server(tmp_path, mode="ephemeral"))
            opening = gibramdb.connect_async(f"gibram://127.0.0.1:{server.port}")
        asyncio.run(run(opening))


def test_a_job_within_a_job_has_its_own_tokens() -> None:
    with gibramdb.open(vector_dim=8) as db:
        outer = db.session("s").once(b"outer")
        document = outer.once(b"inner").add_document("d")
        assert outer.once(b"inner").add_document("d") == document
        assert outer.add_document("d2") != document
