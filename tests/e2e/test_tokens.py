"""A write that was marked with a token and acknowledged is not carried out twice, whatever happened in between."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support.server import Server

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.model import commands as c
from gibramdb.wire.codec import CommandNumber, Reply, encode_command, encode_pipeline, read_reply
from gibramdb.wire.framing import FrameReader

VECTOR = [1.0] * 8
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
