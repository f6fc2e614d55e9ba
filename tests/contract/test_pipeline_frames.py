"""PIPELINE as frames on a socket: in order, up to the first error, nothing rolled back."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server
from support.timing import TIMED

from gibramdb import NewDocument, NewEntity, NewTextUnit
from gibramdb.errors import AnswerTooLargeError, LimitExceededError, PipelineFullError
from gibramdb.model import commands as c
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import encode_command
from gibramdb.wire.framing import FrameReader, encode_envelope, encode_frame, varint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(Path(tmp_path_factory.mktemp("pipeline")) / "data") as server:
        yield server


def exchange(server: Server, sent: bytes, count: int = 1) -> list[pb.Envelope]:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(sent)
        reader = FrameReader(1 << 26)
        answers: list[pb.Envelope] = []
        while len(answers) < count:
            data = connection.recv(65_536)
            assert data, "the server closed the connection"
            reader.feed(data)
            while (body := reader.next_frame()) is not None:
                answers.append(pb.Envelope.FromString(body))
    return answers


def inner(command: c.Command, request_id: int) -> bytes:
    return encode_command(command, request_id)[5:]


def pipeline(server: Server, bodies: list[bytes], session_id: str = "") -> list[pb.Envelope]:
    payload = pb.PipelineRequest(commands=bodies).SerializeToString()
    (answer,) = exchange(server, encode_frame(encode_envelope(7, N.PIPELINE, payload, session_id)))
    assert (answer.cmd_type, answer.request_id) == (N.PIPELINE_RESPONSE, 7)
    return [pb.Envelope.FromString(body) for body in pb.PipelineRequest.FromString(answer.payload).commands]


def add(session_id: str, external_id: str) -> c.Command:
    return c.AddDocuments(session_id, (NewDocument(external_id),), bulk=False)


def test_it_stops_at_the_first_error_and_keeps_what_ran(server: Server) -> None:
    replies = pipeline(server, [inner(add("p1", "a"), 1), inner(add("p1", "a"), 2), inner(add("p1", "b"), 3)])
    assert [(reply.request_id, reply.cmd_type) for reply in replies] == [(1, N.OK), (2, N.ERROR)]
    assert "already exists" in pb.Error.FromString(replies[1].payload).message
    with server.connect() as store:
        assert store.session("p1").info().document_count == 1


def test_inner_commands_inherit_the_outer_session_unless_they_name_one(server: Server) -> None:
    bodies = [encode_envelope(0, N.ADD_DOCUMENT, pb.AddDocumentRequest(external_id="x").SerializeToString(), session)
              for session in ("", "p3")]  # fmt: skip
    replies = pipeline(server, bodies, "p2")
    assert [reply.cmd_type for reply in replies] == [N.OK, N.OK]
    assert all(reply.request_id for reply in replies), "a request id of 0 asks the server for one"
    with server.connect() as store:
        assert [store.session(name).info().document_count for name in ("p2", "p3")] == [1, 1]


def test_a_long_name_is_not_inherited_by_so_many_that_a_small_frame_fills_the_log(server: Server) -> None:
    bodies = [encode_envelope(0, N.TOUCH_SESSION, b"")] * 10_000
    payload = pb.PipelineRequest(commands=bodies).SerializeToString()
    (reply,) = exchange(server, encode_frame(encode_envelope(7, N.PIPELINE, payload, "x" * 500)))
    assert reply.cmd_type == N.ERROR
    assert "session_id too long" in pb.Error.FromString(reply.payload).message
    assert len(pipeline(server, bodies[:100], "x" * 500)) == 1, "there is no such session"


def test_no_pipeline_inside_a_pipeline_and_no_auth(server: Server) -> None:
    (reply,) = pipeline(server, [encode_envelope(1, N.PIPELINE, b"")])
    assert "pipeline can not hold a pipeline" in pb.Error.FromString(reply.payload).message
    (reply,) = pipeline(server, [encode_envelope(1, N.AUTH, b"")])
    assert pb.Error.FromString(reply.payload).message == "unknown command: 120"
    assert pipeline(server, []) == []


def test_a_long_pipeline_and_one_with_a_computation_in_it(server: Server) -> None:
    replies = pipeline(server, [inner(add("p4", f"d{number}"), number + 1) for number in range(1_000)])
    assert [reply.cmd_type for reply in replies] == [N.OK] * 1_000
    assert [pb.OkWithID.FromString(reply.payload).id for reply in replies] == list(range(1, 1_001))
    detect = [inner(c.DetectCommunities("p4"), 1), inner(c.GetSession("p4"), 2)]
    assert [reply.cmd_type for reply in pipeline(server, detect)] == [N.COMMUNITIES_RESPONSE, N.OK]


def test_the_answer_of_a_pipeline_is_bounded_whatever_it_asks_for(server: Server) -> None:
    with server.connect() as store:
        session = store.session("p6")
        session.add_document("d")
        session.add_textunit("t", 1, "x" * 1_000_000)
    forty_megabytes = c.GetTextUnits("p6", (1,) * 40)
    replies = pipeline(server, [inner(forty_megabytes, number) for number in range(1, 9)])
    assert [reply.cmd_type for reply in replies] == [N.TEXTUNITS_RESPONSE, N.ERROR]
    assert "answer too large" in pb.Error.FromString(replies[1].payload).message
    (refused,) = pipeline(server, [inner(c.GetTextUnits("p6", (1,) * 4_000), 1)])
    assert "answer too large" in pb.Error.FromString(refused.payload).message


def test_no_more_is_run_once_its_answers_tell_of_too_much(server: Server) -> None:
    with server.connect() as store:
        store.session("p7").add_entities(NewEntity(f"e{number}", f"e{number}") for number in range(10_000))
    lists = [inner(c.ListEntities("p7", limit=10_000), number) for number in range(1, 31)]
    replies = pipeline(server, [*lists, inner(add("p7", "late"), 99)])
    assert [reply.cmd_type for reply in replies] == [N.ENTITIES_RESPONSE] * 10 + [N.ERROR]
    refusal = pb.Error.FromString(replies[-1].payload)
    assert (refusal.code, refusal.message[:16]) == (PipelineFullError.code, "answers too many")
    with server.connect() as store:
        assert store.session("p7").info().document_count == 0
    # Our client goes on with the rest in the next, whatever the batch is made of.
    batches: list[list[c.Command]] = [
        [*[c.ListEntities("p7", 0, 10_000)] * 10, add("p7", "first")],
        [*[c.ListEntities("p7", 0, 9_999)] * 10, *(add("p7", f"d{number}") for number in range(20))],
        [*[c.GetEntities("p7", tuple(range(1, 1_001)))] * 99, *[c.GetEntity("p7", 1)] * 1_500, add("p7", "last")],
    ]
    with server.connect() as store:
        for batch in batches:
            assert len(store.execute_many(batch)) == len(batch)
        assert store.session("p7").info().document_count == 22


def test_no_more_is_run_once_its_answers_name_too_many_links(server: Server) -> None:
    with server.connect() as store:
        session = store.session("links")
        session.add_document("d")
        session.add_textunits(NewTextUnit(f"t{number}", 1, "") for number in range(20_000))
    gets = [inner(c.GetDocument("links", 1), number) for number in range(1, 301)]
    replies = pipeline(server, [*gets, inner(add("links", "late"), 999)])
    assert [reply.cmd_type for reply in replies] == [N.DOCUMENT_RESPONSE] * 100 + [N.ERROR]
    refusal = pb.Error.FromString(replies[-1].payload)
    assert refusal.code == PipelineFullError.code
    assert "answered 2000000 links (max: 2000000)" in refusal.message


def test_replies_that_do_not_fit_say_that_all_was_carried_out(server: Server) -> None:
    with server.connect() as store:
        session = store.session("p8")
        session.add_document("d")
        session.add_textunit("t", 1, "x" * 1_000_000)
    forty_megabytes = c.GetTextUnits("p8", (1,) * 40)
    replies = pipeline(server, [*(inner(forty_megabytes, number) for number in (1, 2)), inner(add("p8", "late"), 3)])
    assert [reply.cmd_type for reply in replies] == [N.TEXTUNITS_RESPONSE, N.ERROR]
    assert pb.Error.FromString(replies[1].payload).code == AnswerTooLargeError.code
    with server.connect() as store:
        assert store.session("p8").info().document_count == 2


@TIMED
def test_a_client_that_has_left_has_no_more_of_its_pipeline_run(server: Server) -> None:
    with server.connect() as store:
        store.session("p9").add_entities(NewEntity(f"e{number}", f"e{number}") for number in range(20_000))
    slow = [inner(c.GetDigest("p9"), number) for number in range(1, 31)]
    began_s = time.monotonic()
    assert len(pipeline(server, slow)) == 30
    took_s = time.monotonic() - began_s
    payload = pb.PipelineRequest(commands=[*slow, inner(add("p9", "late"), 99)]).SerializeToString()
    with socket.create_connection(("127.0.0.1", server.port)) as leaving:
        leaving.sendall(encode_frame(encode_envelope(7, N.PIPELINE, payload)))
        time.sleep(took_s / 10)
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(2 * took_s)
    with server.connect() as store:
        assert store.session("p9").info().document_count == 0


def test_more_items_than_one_command_may_name_are_refused_before_they_are_read(server: Server) -> None:
    for number, field in ((N.MSET_ENTITIES, b"\x0a\x00"), (N.MGET_ENTITIES, b"\x08\x01")):
        frame = encode_frame(encode_envelope(1, number, field * 100_001, "p10"))
        (answer,) = exchange(server, frame)
        assert pb.Error.FromString(answer.payload).code == LimitExceededError.code
        assert "too many: 100001 (max: 100000)" in pb.Error.FromString(answer.payload).message
    many = b"".join((varint(100_001), b"\x01" * 100_001))  # packed
    for number, tag, noun in (
        (N.QUERY, b"\x42", "seed_entity_ids"),
        (N.ADD_COMMUNITY, b"\x32", "entity_ids"),
        (N.ADD_COMMUNITY, b"\x3a", "relationship_ids"),
    ):
        (answer,) = exchange(server, encode_frame(encode_envelope(1, number, tag + many, "p10")))
        assert pb.Error.FromString(answer.payload).message.startswith(f"{noun} too many: 100001 (max: 100000)")
    for tag, noun in (
        (b"\x12\x00", "search_types"),
        (b"\x4a\x00", "filter_entity_types"),
        (b"\x52\x00", "filter_rel_types"),
    ):
        (answer,) = exchange(server, encode_frame(encode_envelope(1, N.QUERY, tag * 100_001, "p10")))
        assert pb.Error.FromString(answer.payload).message.startswith(f"{noun} too many: 100001 (max: 100000)")


def test_an_answer_that_is_too_large_is_never_sent(server: Server) -> None:
    with server.connect() as store:
        session = store.session("p11")
        session.add_entities(NewEntity(f"e{number}", f"{number:02}" + "T" * 1_000_000) for number in range(70))
    (answer,) = exchange(server, encode_command(c.DetectCommunities("p11"), 1))
    assert pb.Error.FromString(answer.payload).code == AnswerTooLargeError.code
    with server.connect() as store:
        assert store.session("p11").info().community_count == 70


def test_frames_sent_together_are_answered_in_order(server: Server) -> None:
    sent = b"".join(
        [
            encode_command(add("p5", "a"), 11),
            encode_command(c.DetectCommunities("p5"), 12),
            encode_command(c.Ping(), 13),
            encode_frame(encode_envelope(14, 999, b"", "p5")),
            encode_frame(encode_envelope(15, N.AUTH, b"\x0a\x01k")),
            encode_command(c.GetDocument("p5", 1), 16),
        ]
    )
    answers = exchange(server, sent, 6)
    assert [answer.request_id for answer in answers] == [11, 12, 13, 14, 15, 16]
    assert [answer.cmd_type for answer in answers] == [
        N.OK, N.COMMUNITIES_RESPONSE, N.PONG, N.ERROR, N.AUTH_RESPONSE, N.DOCUMENT_RESPONSE,
    ]  # fmt: skip
    assert pb.Error.FromString(answers[3].payload).message == "unknown command: 999"
    assert pb.AuthResponse.FromString(answers[4].payload).success
