"""What one connection asks for costs the server little memory, and the other connections little time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support.server import Server
from support.strace import needs_strace, strace
from support.timing import TIMED

from gibramdb import NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.model import commands as c
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import encode_command, encode_pipeline, read_reply
from gibramdb.wire.framing import FrameReader

DELAY_S = 1.0
ANSWERS = 300
GROWTH_BYTES_MAX = 150_000_000


def resident_bytes_peak(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def replies(connection: socket.socket, count: int) -> Iterator[tuple[int, int]]:
    """Request id and number of each, as they come."""
    reader = FrameReader(1 << 28)
    while count:
        data = connection.recv(1 << 20)
        assert data, "the server closed the connection"
        reader.feed(data)
        while (body := reader.next_frame()) is not None:
            reply = read_reply(body)
            yield reply.request_id, reply.number
            count -= 1


TEXTS = c.GetTextUnits("r", tuple(range(1, 31)))  # 3 MB
ENTITIES = c.ListEntities("r", limit=10_000)
EMBEDDINGS = c.GetEmbeddings("r", "entity", (10_001,) * 500)  # 2 MB
MANY_LINKS = c.GetDocument("r", 2)


@needs_strace
@pytest.mark.parametrize(
    ("written", "asked", "answered"),
    [
        pytest.param("w", [encode_command(TEXTS, n) for n in range(2, ANSWERS + 2)], N.TEXTUNITS_RESPONSE, id="texts"),
        pytest.param(
            "w",
            [encode_pipeline([TEXTS], n) for n in range(2, ANSWERS + 2)],
            N.PIPELINE_RESPONSE,
            id="pipelines",
            marks=pytest.mark.sweep,
        ),
        pytest.param("w", [encode_command(ENTITIES, n) for n in range(2, ANSWERS + 102)], None, id="many objects"),
        pytest.param(
            "w", [encode_command(EMBEDDINGS, n) for n in range(2, ANSWERS + 2)], N.EMBEDDINGS_RESPONSE, id="embeddings"
        ),
        pytest.param(
            "w", [encode_command(MANY_LINKS, n) for n in range(2, ANSWERS + 702)], N.DOCUMENT_RESPONSE, id="many links"
        ),
        pytest.param(
            "r",
            [encode_command(ENTITIES, n) for n in range(2, ANSWERS + 102)],
            None,
            id="many objects with the store",
            marks=pytest.mark.sweep,
        ),
    ],
)
def test_answers_behind_a_slow_write_are_not_held_as_bytes(
    tmp_path: Path, written: str, asked: list[bytes], answered: N | None
) -> None:
    with Server(tmp_path / "data", "--dim", "1024") as server, server.connect() as store:
        session = store.session("r")
        session.add_document("d")
        for number in range(30):
            session.add_textunits([NewTextUnit(f"t{number}", 1, "x" * 100_000)])
        session.add_entities([NewEntity(f"e{number}", f"e{number}") for number in range(10_000)])
        session.add_entity("embedded", "embedded", embedding=[1.0] * 1024)
        session.add_document("many")
        session.add_textunits([NewTextUnit(f"m{number}", 2, "") for number in range(30_000)])
        server.stop()
    slow_disk = strace(f"inject=fdatasync:delay_enter={int(DELAY_S * 1e6)}")
    with (
        Server(tmp_path / "data", "--dim", "1024", prefix=slow_disk) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        before = resident_bytes_peak(server)
        slow_write = encode_command(c.AddEntities(written, (NewEntity("slow", "slow"),)), 1)
        connection.sendall(slow_write + b"".join(asked))
        time.sleep(DELAY_S * 1.5)  # the write is answered meanwhile, and nobody takes the answers behind it
        assert resident_bytes_peak(server) - before < GROWTH_BYTES_MAX
        came = list(replies(connection, len(asked) + 1))
        assert [request_id for request_id, _ in came] == list(range(1, len(asked) + 2))
        assert {number for _, number in came[1:]} <= {answered or came[1][1]}
        assert N.ERROR not in {number for _, number in came}
        assert resident_bytes_peak(server) - before < GROWTH_BYTES_MAX


@TIMED
def test_one_connection_with_much_to_do_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    with Server(tmp_path / "data", mode="ephemeral") as server, server.connect() as store:
        store.session("s").add_entities([NewEntity(f"e{number}", f"e{number}") for number in range(10_000)])
        came: list[tuple[int, int]] = []
        with socket.create_connection(("127.0.0.1", server.port)) as busy:
            busy.sendall(b"".join(encode_command(c.GetDigest(), number) for number in range(1, 1_001)))

            def take(answers: Iterable[tuple[int, int]]) -> None:
                came.extend(answers)

            taker = threading.Thread(target=take, args=(replies(busy, 1_000),))
            began = time.monotonic()
            taker.start()
            longest_s = 0.0
            pings = 0
            while taker.is_alive():
                asked = time.monotonic()
                store.ping()
                longest_s = max(longest_s, time.monotonic() - asked)
                pings += 1
            taker.join()
            took_s = time.monotonic() - began
        assert [request_id for request_id, _ in came] == list(range(1, 1_001))
        assert took_s > 0.4, "not enough to do for this test to mean anything"
        assert pings > 20
        assert longest_s < took_s / 4


def test_a_stop_closes_after_the_last_answer_also_where_the_client_is_slow(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server, server.connect() as store:
        session = store.session("r")
        session.add_document("d")
        for number in range(30):
            session.add_textunits([NewTextUnit(f"t{number}", 1, "x" * 100_000)])
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"".join(encode_command(TEXTS, number) for number in range(1, 21)))
            time.sleep(0.5)
            server.terminate()
            time.sleep(0.5)
            reader = FrameReader(1 << 28)
            came = []
            while data := connection.recv(1 << 20):
                reader.feed(data)
                while (body := reader.next_frame()) is not None:
                    came.append(read_reply(body).request_id)
            assert not reader.pending_bytes, "an answer was cut short"
            assert came
            assert came == list(range(1, len(came) + 1))
        assert server.wait() == 0


def until_closed(connection: socket.socket) -> list[int]:
    """The request ids of all answers that still come."""
    reader, ids = FrameReader(1 << 28), []
    while data := connection.recv(1 << 20):
        reader.feed(data)
        while (body := reader.next_frame()) is not None:
            ids.append(read_reply(body).request_id)
    return ids


def document(number: int) -> bytes:
    return encode_command(c.AddDocuments("half", (NewDocument(f"d{number}"),), bulk=False), number)


def test_who_closes_only_the_sending_side_gets_what_was_asked_for(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        for number in range(1, 21):
            with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
                connection.sendall(document(number))
                connection.shutdown(socket.SHUT_WR)
                assert until_closed(connection) == [number], "an answer that waits for its sync"
        with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
            asked = [document(number) if number % 10 == 0 else encode_command(c.Ping(), number)
                     for number in range(100, 5_100)]  # fmt: skip
            connection.sendall(b"".join(asked))
            connection.shutdown(socket.SHUT_WR)
            assert until_closed(connection) == list(range(100, 5_100)), "of more than one turn"
        with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
            connection.sendall(document(9_999) + b"\x01\x00\x00")
            connection.shutdown(socket.SHUT_WR)
            assert until_closed(connection) == [9_999], "and nothing is waited for"
        with server.connect() as db:
            assert db.session("half").info().document_count == 20 + 500 + 1


def test_who_ends_while_a_command_has_still_to_run_is_taken_to_have_left(tmp_path: Path) -> None:
    with Server(tmp_path / "data", mode="ephemeral") as server, server.connect() as db:
        session = db.session("s")
        ids = session.add_entities([NewEntity(f"e{number}", f"e{number}") for number in range(20_000)])
        session.add_relationships([NewRelationship(one, (one * 7) % 20_000 + 1, "near") for one in ids])
        with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
            connection.sendall(encode_command(c.DetectCommunities("s"), 1))
            connection.shutdown(socket.SHUT_WR)
            assert until_closed(connection) == []


def test_what_a_client_that_has_gone_wanted_computed_takes_no_place(tmp_path: Path) -> None:
    """Four detections of a session may wait; of those whose clients have gone none does."""
    with Server(tmp_path / "data", mode="ephemeral") as server, server.connect() as db:
        session = db.session("s")
        ids = session.add_entities([NewEntity(f"e{number}", f"e{number}") for number in range(20_000)])
        session.add_relationships([NewRelationship(one, (one * 7) % 20_000 + 1, "near") for one in ids])
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
                connection.sendall(encode_command(c.DetectHierarchy("s"), 1))
                connection.shutdown(socket.SHUT_WR)
                assert until_closed(connection) == []
        assert len(session.detect_communities()) > 1
