"""Our client and a server of GibRAM 0.3.0: a peer that answers in its forms, by the schema of its own Python client."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from gibram.proto import gibram_pb2
from support.peer import Peer

import gibramdb
from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.errors import AlreadyExistsError, HaltedError, NotFoundError, UnknownCommandError
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import Request
from gibramdb.wire.framing import encode_reply

theirs: Any = gibram_pb2
"""The official client's messages; they come without types."""

VECTORS = {
    1: "01 00000006 08 01 10 01 18 02",
    2: "01 0000000a 08 01 10 02 18 06 22 02 08 01",
    3: "01 00000027 08 01 10 03 18 05 22 1f 0a 12" + b"document not found".hex() + "10 ff ff ff ff ff ff ff ff ff 01",
    4: "01 00000006 08 01 10 04 18 02",
    5: "01 00000006 08 01 10 05 18 06",
    6: "01 00000006 08 01 10 06 18 58",
}
"""Frames as its server sends them, by the request they answer."""


def test_its_own_bytes_are_understood() -> None:
    def answer(request: Request, connection: socket.socket) -> bool:
        connection.sendall(bytes.fromhex(VECTORS[request.request_id]))
        return True

    with Peer(answer) as peer, gibramdb.connect(peer.url) as db:
        session = db.session("s")
        assert session.add_document("d1", "a.txt") == 1
        with pytest.raises(NotFoundError, match=r"^document not found$"):
            session.get_document(9)
        db.ping()
        session.touch()
        assert list(session.entities()) == []
        assert peer.connections == 1, "a refusal costs no connection"


def entity(id: int) -> Any:
    return theirs.Entity(
        id=id, external_id=f"e{id}", title=f"E{id}", type="t", textunit_ids=[1], created_at=1_700_000_000
    )


RELATIONSHIP = theirs.Relationship(id=1, source_id=1, target_id=2, type="r", weight=1.5)
COMMUNITY = theirs.Community(id=3, title="E1, E2", entity_ids=[1, 2])
TEXTUNIT = theirs.TextUnit(id=1, external_id="t", document_id=1, content="text", entity_ids=[1])
DOCUMENT = theirs.Document(id=1, external_id="d", filename="f", status="uploaded")
SESSION = theirs.SessionInfo(
    session_id="s", created_at=1_700_000_000_000_000_000, ttl=3_600_000_000_000, entity_count=2
)


def error(message: str) -> tuple[int, Any]:
    return 5, theirs.Error(message=message, code=-1)


OK = (6, theirs.OkWithID(id=1))
DONE = (6, theirs.OkWithID())

FORMS: dict[int, tuple[int, Any]] = {
    1: (2, theirs.Empty()),
    3: (4, theirs.InfoResponse(version="0.3.0", vector_dim=2, session_store_mode="ephemeral", session_count=1)),
    7: (8, theirs.HealthResponse(status="ok", components={"engine": "ok"})),
    10: OK, 11: (13, DOCUMENT), 12: OK, 20: OK, 21: (24, TEXTUNIT), 22: OK, 23: DONE, 30: OK, 31: (35, entity(1)),
    32: (35, entity(1)), 33: OK, 34: OK, 40: OK, 41: (43, RELATIONSHIP), 42: OK, 50: OK, 51: (56, COMMUNITY), 52: OK,
    53: (57, theirs.ComputeCommunitiesResponse(count=1, communities=[COMMUNITY])),
    54: (57, theirs.HierarchicalLeidenResponse(level_counts={0: 1}, total_communities=1)),
    55: DONE,
    60: (61, theirs.QueryResponse(query_id=7, stats=theirs.QueryStats(),
             entities=[theirs.EntityResult(entity=entity(1), similarity=0.5)],
             relationships=[theirs.RelationshipResult(relationship=RELATIONSHIP, source_title="E1", target_title="E2")])),
    62: (63, theirs.ExplainResponse(query_id=7, seeds=[theirs.SeedInfo(type="entity", id=1, similarity=0.5)])),
    70: (6, theirs.ListSessionsResponse(sessions=[SESSION])),
    71: DONE, 72: (6, SESSION), 73: DONE, 74: DONE,
    80: (88, theirs.EntitiesResponse(created_ids=[1, 2])), 81: (88, theirs.EntitiesResponse(entities=[entity(1)])),
    82: (89, theirs.DocumentsResponse(created_ids=[1])), 83: (89, theirs.DocumentsResponse(documents=[DOCUMENT])),
    84: (90, theirs.TextUnitsResponse(created_ids=[1])), 85: (90, theirs.TextUnitsResponse(textunits=[TEXTUNIT])),
    86: (91, theirs.RelationshipsResponse(created_ids=[1])),
    87: (91, theirs.RelationshipsResponse(relationships=[RELATIONSHIP])),
    93: (91, theirs.RelationshipsResponse(relationships=[RELATIONSHIP])),
    110: DONE, 111: DONE, 112: (119, theirs.LastSaveResponse(timestamp=5, path="p")), 113: DONE,
    114: (119, theirs.BackupStatusResponse(type="save", start_time=4)),
    115: DONE, 116: DONE, 117: (6, theirs.OkWithID(id=2)),
    118: (119, theirs.WALStatusResponse(segment_count=1)),
}  # fmt: skip
"""What its server answers to each command, as if each had gone well."""


def reference(request: Request, connection: socket.socket) -> bool:
    if request.number == N.PIPELINE:
        inner = theirs.PipelineRequest.FromString(request.payload).commands
        assert all(each.session_id for each in inner), "it does not inherit the session of the envelope around them"
        replies = [theirs.Envelope(version=1, request_id=each.request_id, cmd_type=6) for each in inner]
        number, message = 101, theirs.PipelineResponse(responses=replies)
    elif request.number == N.LIST_ENTITIES:
        cursor = theirs.ListEntitiesRequest.FromString(request.payload).cursor
        pages = {0: ([1, 2], 2), 2: ([3], 0)}
        ids, next_cursor = pages[cursor]
        number, message = 88, theirs.EntitiesResponse(entities=map(entity, ids), next_cursor=next_cursor)
    else:
        number, message = FORMS.get(request.number) or error(f"unknown command: {request.number}")
    connection.sendall(encode_reply(request.request_id, number, message.SerializeToString()))
    return True


def everything(db: gibramdb.Store) -> None:
    assert db.info().version == "0.3.0"
    assert db.health().components == {"engine": "ok"}
    (listed,) = db.sessions()
    assert (listed.created_at_ms, listed.ttl_s) == (1_700_000_000_000, 3_600_000_000_000), "its TTLs are nanoseconds"
    session = db.session("s")
    assert session.add_documents([NewDocument("d")]) == [session.add_document("d")] == [1]
    assert session.get_document(1).filename == "f"
    assert [each.id for each in session.get_documents([1])] == [1]
    assert session.add_textunits([NewTextUnit("t", 1, "x", [1, 2])]) == [session.add_textunit("t", 1, "x")] == [1]
    assert session.get_textunit(1).entity_ids == session.get_textunits([1])[0].entity_ids == (1,)
    assert session.add_entities([NewEntity("e", "e"), NewEntity("f", "f")], embeddings=[[1, 2], [3, 4]]) == [1, 2]
    assert session.add_entity("e", "e") == session.get_entity(1).id == session.get_entity_by_title("e").id == 1
    assert [each.id for each in session.entities()] == [1, 2, 3]
    assert session.get_entities([1])[0].created_at_ms == 1_700_000_000_000
    session.update_entity_description(1, "x", [1, 2])
    session.link(1, 1)
    session.link_many([(1, 1), (1, 2)])
    assert session.add_relationships([NewRelationship(1, 2)]) == [session.add_relationship(1, 2)] == [1]
    assert session.get_relationship(1).weight == session.get_relationships([1])[0].weight == 1.5
    assert [each.id for each in session.relationships()] == [1]
    assert session.add_community(NewCommunity("c")) == 1
    assert session.get_community(3).entity_ids == (1, 2)
    assert [each.id for each in session.detect_communities()] == [3]
    assert session.detect_hierarchy().level_counts == {0: 1}
    session.rebuild_indexes()
    answer = session.query([1, 0])
    assert [(hit.entity.id, hit.similarity) for hit in answer.entities] == [(1, 0.5)]
    assert answer.relationships[0].target_title == "E2"
    assert session.explain(answer.query_id).seeds[0].id == 1
    session.touch()
    assert session.info().entity_count == 2
    session.set_ttl(5)
    for delete in (session.delete_document, session.delete_textunit, session.delete_entity,
                   session.delete_relationship, session.delete_community):  # fmt: skip
        delete(1)
    session.delete()
    db.save()
    db.save_in_background()
    assert db.last_save().at_s == 5
    db.restore_in_background("p")
    assert db.backup_status().kind == "save"
    db.checkpoint()
    db.truncate_log()
    assert db.rotate_log() == 2
    assert db.log_status().generations == 1


def test_everything_that_it_has_works() -> None:
    with Peer(reference) as peer, gibramdb.connect(peer.url) as db:
        everything(db)
        assert set(FORMS) | {N.LIST_ENTITIES, N.PIPELINE} == set(peer.numbers)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("documents", ()), ("textunits", ()), ("digest", ()), ("get_embeddings", ("entity", [1]))],
)
def test_what_it_lacks_is_said(method: str, arguments: tuple[object, ...]) -> None:
    with (
        Peer(reference) as peer,
        gibramdb.connect(peer.url) as db,
        pytest.raises(UnknownCommandError, match="unknown command"),
    ):
        list(getattr(db.session("s"), method)(*arguments))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("entity with title Ada already exists", AlreadyExistsError),
        ("durable session store is unhealthy", HaltedError),
    ],
)
def test_its_errors_have_a_class_and_cost_one_request(message: str, expected: type[Exception]) -> None:
    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == N.PING:
            return reference(request, connection)
        number, refusal = error(message)
        connection.sendall(encode_reply(request.request_id, number, refusal.SerializeToString()))
        return True

    with Peer(answer) as peer, gibramdb.connect(peer.url) as db:
        with pytest.raises(expected, match=f"^{message}$"):
            db.session("s").add_entity("e", "Ada")
        assert (peer.numbers, peer.connections) == ([N.PING, N.ADD_ENTITY], 1)
