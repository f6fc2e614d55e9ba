"""A GibRAM directory comes over as it is, or is refused with the place. The files are written here, as documented.

One module, because everything in it writes such a directory with the same dozen functions and reads it back.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.write_commands import ANY_WRITE, VECTOR_DIM

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.core.apply import apply
from gibramdb.core.decide import decide
from gibramdb.core.limits import Limits
from gibramdb.core.state import SessionState, StoreState
from gibramdb.errors import CallerError, CorruptLogError, FatalError, IncompatibleStoreError, MissingStoreError
from gibramdb.model import commands as c
from gibramdb.model import mutations as m
from gibramdb.model.ids import Lsn
from gibramdb.model.knowledge import DETECTED, MADE_BY_HAND
from gibramdb.storage import record
from gibramdb.storage.gibram import Import, looks_like_gibram, read_directory
from gibramdb.storage.gibram.settled import BATCH_BYTES_MAX, weight
from gibramdb.storage.identity import MARKER_NAME
from gibramdb.storage.wal import RECORD_BYTES_MAX

Json = dict[str, Any]

NOW_S = 1_700_000_000
NOW_MS = NOW_S * 1000
NOW_NS = NOW_S * 10**9
TTL_MS_MAX = 10**12  # what still is a number of nanoseconds in 63 bits
DOCUMENTED = "snapshot-00000000000000000007.json"


# --- writing as GibRAM does -------------------------------------------------------------------------------------------


def write_log(path: Path, records: Sequence[Json | bytes], generation: int = 1, tail: bytes = b"") -> list[int]:
    """Answers where each record begins, and where the last one ends, as offsets from the header's end."""
    header = {"format": "gibram-session-wal", "version": 1, "generation": generation}
    data = json.dumps(header).encode() + b"\n" if generation else b""
    offsets = [0]
    body = b""
    for each in records:
        body += (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n"
        offsets.append(len(body))
    folder = path / "session_wal"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "session.wal").write_bytes(data + body + tail)
    return offsets


def write_snapshot(path: Path, sessions: Sequence[Json | None], name: str = DOCUMENTED, **head: Any) -> Path:
    folder = path / "session_snapshots"
    folder.mkdir(parents=True, exist_ok=True)
    head = head or {"wal_generation": 1, "wal_offset": 0}
    version = 1 if "wal_size" in head else 2
    document = {"version": version, "created_at": NOW_NS, **head, "sessions": sessions}
    (folder / name).write_text(json.dumps(document, indent=2))
    return folder / name


def document(id: int = 1, **more: Any) -> Json:
    return {"id": id, "external_id": f"d{id}", "filename": "a.txt", "status": "uploaded", "created_at": NOW_S} | more


def textunit(id: int = 1, **more: Any) -> Json:
    fields = {"id": id, "external_id": f"t{id}", "document_id": 1, "content": "x", "token_count": 3}
    return fields | {"entity_ids": None, "created_at": NOW_S} | more


def entity(id: int = 1, **more: Any) -> Json:
    fields = {"id": id, "external_id": f"e{id}", "title": f"E{id}", "type": "t", "description": "d"}
    return fields | {"textunit_ids": None, "created_at": NOW_S} | more


def relationship(id: int = 1, source_id: int = 1, target_id: int = 2, **more: Any) -> Json:
    fields = {"id": id, "external_id": "", "source_id": source_id, "target_id": target_id, "type": f"r{id}"}
    return fields | {"description": "d", "weight": 0.1, "created_at": NOW_S} | more


def community(id: int = 1, **more: Any) -> Json:
    fields = {"id": id, "external_id": "", "title": "c", "summary": "", "full_content": "", "level": 0}
    return fields | {"entity_ids": [1], "relationship_ids": [], "created_at": 0} | more


def session(session_id: str = "s", **more: Any) -> Json:
    times = {"created_at": NOW_NS, "last_access": NOW_NS + 5 * 10**6, "ttl": 0, "idle_ttl": 0}
    return {"session_id": session_id, "session": {"id": session_id, **times}} | more


def full_session(session_id: str = "s") -> Json:
    """One of each kind at least, and two entities."""
    return session(
        session_id,
        documents=[document()],
        text_units=[textunit(entity_ids=[2, 1]), textunit(2, entity_ids=[1])],
        entities=[entity(textunit_ids=[1, 2]), entity(2, textunit_ids=[1])],
        relationships=[relationship(), relationship(2, 1, 1)],
        communities=[community(), community(2, summary="by hand", created_at=NOW_S)],
        id_generator_state={"document": 1, "text_unit": 2, "entity": 2, "relationship": 2, "community": 2},
        text_unit_vectors={"1": [0.5, 0.25]},
        entity_vectors={"2": [1, 2]},
        community_vectors={"2": [0.1, -0.2]},
    )


def add(op: str, session_id: str = "s", **content: Any) -> Json:
    return {"op": op, "session_id": session_id, **content}


# --- reading it back --------------------------------------------------------------------------------------------------


def applied(found: Import, vector_dim: int = 2) -> StoreState:
    """The state that the mutations give, each of them through the disk's form."""
    state = StoreState(found.vector_dim or vector_dim)
    lsn = 0
    for mutation in found.mutations:
        data = record.encode(mutation)
        assert len(data) <= RECORD_BYTES_MAX
        lsn += len(data)
        apply(state, record.decode(data), Lsn(lsn))
    for each in state.sessions.values():
        followed = everything(each)
        deque(each.rebuild(), 0)
        assert everything(each) == followed
    return state


def everything(session: SessionState) -> dict[str, Any]:
    """All that is canonical, but for the incarnation, and the order of links as either side sees it."""
    tables = ("documents", "textunits", "entities", "relationships", "communities")
    result: dict[str, Any] = {name: list(getattr(session, name)) for name in tables}
    result |= {f"{name}.next_id": getattr(session, name).next_id for name in tables}
    for name in ("textunit_vectors", "entity_vectors", "community_vectors"):
        result[name] = list(getattr(session, name).items())
    for name in ("session_id", "created_at_ms", "touched_at_ms", "ttl_ms", "idle_ttl_ms", "memory_bytes"):
        result[name] = getattr(session, name)
    result["links"] = {id: list(session.linked_entities(id)) for id in session.entities_by_textunit}
    result["links back"] = {id: list(session.linked_textunits(id)) for id in session.textunits_by_entity}
    result["edges"] = [(list(session.edges_from(e.id)), list(session.edges_to(e.id))) for e in session.entities]
    return result


def as_gibram(session: SessionState) -> Json:
    """A session of ours as GibRAM would have it in a snapshot."""

    def floats(index: Any) -> Json:
        return {str(id): [float(str(number)) for number in np.frombuffer(row, "<f4")] for id, row in index.items()}

    times = {"created_at": session.created_at_ms * 10**6, "last_access": session.touched_at_ms * 10**6}
    times |= {"ttl": session.ttl_ms * 10**6, "idle_ttl": session.idle_ttl_ms * 10**6}
    return {
        "session_id": session.session_id,
        "session": {"id": session.session_id, **times, "quotas": {"max_entities": 0}, "usage": {"entities": 7}},
        "documents": [document(d.id, external_id=d.external_id, filename=d.filename, created_at=d.created_at_ms // 1000)
                      for d in session.documents],
        "text_units": {str(t.id): {
            "id": t.id, "external_id": t.external_id, "document_id": t.document_id, "content": t.content,
            "token_count": t.token_count, "entity_ids": list(session.linked_entities(t.id)),
            "created_at": t.created_at_ms // 1000} for t in session.textunits},
        "entities": [{
            "id": e.id, "external_id": e.external_id, "title": e.title, "type": e.type, "description": e.description,
            "textunit_ids": list(session.linked_textunits(e.id)), "created_at": e.created_at_ms // 1000}
            for e in session.entities],
        "relationships": [{
            "id": r.id, "external_id": r.external_id, "source_id": r.source_id, "target_id": r.target_id,
            "type": r.type, "description": r.description, "weight": float(str(np.float32(r.weight))),
            "created_at": r.created_at_ms // 1000} for r in session.relationships],
        "communities": [{
            "id": k.id, "external_id": k.external_id, "title": k.title, "summary": k.summary,
            "full_content": k.full_content, "level": k.level, "entity_ids": k.entity_ids,
            "relationship_ids": k.relationship_ids, "created_at": 0 if k.origin == DETECTED else k.created_at_ms // 1000}
            for k in session.communities],
        "id_generator_state": {
            "document": session.documents.next_id - 1, "textunit": session.textunits.next_id - 1,
            "entity": session.entities.next_id - 1, "relationship": session.relationships.next_id - 1,
            "community": session.communities.next_id - 1},
        "text_unit_vectors": floats(session.textunit_vectors),
        "entity_vectors": floats(session.entity_vectors),
        "community_vectors": floats(session.community_vectors) or None,
    }  # fmt: skip


def without_what_gibram_forgets(session: SessionState) -> None:
    for each in list(session.communities):
        if each.origin == DETECTED:
            session.communities.put(each.id, msgspec.structs.replace(each, created_at_ms=0, parent_id=0))


def store_of(writes: Sequence[tuple[c.WriteCommand, int]]) -> StoreState:
    state = StoreState(VECTOR_DIM)
    now_ms, lsn = NOW_MS, 0
    for write, pause_ms in writes:
        now_ms += pause_ms
        command = write
        held = state.sessions.get(command.session_id)
        if isinstance(command, c.ReplaceCommunities) and held is not None:
            command = msgspec.structs.replace(command, incarnation=held.incarnation)
        try:
            mutation, _ = decide(state, command, now_ms, Limits())
        except CallerError:
            continue
        if isinstance(mutation, m.SessionTtlSet):
            mutation = msgspec.structs.replace(mutation, ttl_ms=min(mutation.ttl_ms, TTL_MS_MAX))
        if mutation is not None:
            lsn += 1
            apply(state, mutation, Lsn(lsn))
    return state


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(writes=st.lists(st.tuples(ANY_WRITE, st.sampled_from([0, 0, 1000])), min_size=20, max_size=80))
def test_whatever_a_store_holds_comes_over(tmp_path: Path, writes: list[tuple[c.WriteCommand, int]]) -> None:
    vector = (1.0, 0.1, 3.0)
    before: list[tuple[c.WriteCommand, int]] = [
        (c.AddDocuments("a", (NewDocument("d"), NewDocument("gone"))), 0),
        (c.AddTextUnits("a", tuple(NewTextUnit(f"t{n}", 1, "x", vector) for n in range(3))), 1000),
        (c.AddEntities("a", tuple(NewEntity(f"e{n}", f"e{n}", embedding=vector) for n in range(3))), 0),
        (c.AddRelationships("a", (NewRelationship(1, 2, "r"), NewRelationship(2, 2, "r", weight=0.1))), 0),
        (c.AddCommunity("a", NewCommunity("by hand", (1,), (1,), embedding=vector)), 0),
        (c.DeleteDocument("a", 2), 0),
    ]
    expected = store_of([*before, *writes])
    write_snapshot(tmp_path, [as_gibram(each) for each in expected.sessions.values()])
    found = read_directory(tmp_path)
    state = applied(found, VECTOR_DIM)
    assert list(state.sessions) == list(expected.sessions)
    for name, each in expected.sessions.items():
        without_what_gibram_forgets(each)
        deque(each.rebuild(), 0)
        assert everything(state.sessions[name]) == everything(each)
    counts = found.report
    assert counts.sessions == len(expected.sessions)
    objects = counts.documents + counts.textunits + counts.entities + counts.relationships + counts.communities
    assert objects == sum(each.object_count() for each in expected.sessions.values())
    assert counts.links == sum(len(each.links) for each in expected.sessions.values())


def test_a_full_snapshot_field_by_field(tmp_path: Path) -> None:
    snapshot_path = write_snapshot(tmp_path, [full_session()])
    found = read_directory(tmp_path)
    held = applied(found).sessions["s"]
    assert (held.created_at_ms, held.last_access_ms, held.ttl_ms) == (NOW_MS, NOW_MS + 5, 0)
    assert [(d.id, d.external_id, d.filename, d.created_at_ms) for d in held.documents] == [(1, "d1", "a.txt", NOW_MS)]
    first = held.textunits.get(1)
    assert first is not None
    assert (first.external_id, first.document_id, first.content, first.token_count) == ("t1", 1, "x", 3)
    assert list(held.linked_entities(1)) == [2, 1]
    assert list(held.linked_textunits(1)) == [1, 2]
    edge = held.relationships.get(2)
    assert edge is not None
    assert (edge.source_id, edge.target_id, edge.type, edge.weight) == (1, 1, "r2", float(np.float32(0.1)))
    assert [(k.id, k.origin, k.created_at_ms) for k in held.communities] == [
        (1, DETECTED, 0),
        (2, MADE_BY_HAND, NOW_MS),
    ]
    assert held.textunit_vectors.get(1) == np.array([0.5, 0.25], "<f4").tobytes()
    assert held.entity_vectors.get(2) == np.array([1, 2], "<f4").tobytes()
    assert held.community_vectors.get(2) == np.array([0.1, -0.2], "<f4").tobytes()
    assert found.vector_dim == 2
    report = found.report
    assert (report.snapshot_path, report.snapshot_version, report.log_path) == (snapshot_path, 2, None)
    counts = (report.documents, report.textunits, report.entities, report.relationships, report.communities)
    assert (report.sessions, *counts, report.links) == (1, 1, 2, 2, 2, 2, 3)
    assert list(found.mutations) == list(found.mutations), "they can be gone through twice"


# --- the log ----------------------------------------------------------------------------------------------------------


def test_every_operation_of_the_log(tmp_path: Path) -> None:
    records = [
        add("add_document", document=document()),
        add("mset_documents", documents=[document(2), document(3)]),
        add("add_textunit", text_unit=textunit(created_at=NOW_S + 9), text_unit_embedding=[1, 2]),
        add("mset_textunits", text_units=[textunit(2), textunit(3)], text_unit_embeddings=[None, [3, 4]]),
        add("add_entity", entity=entity(), entity_embedding=None),
        add("mset_entities", entities=[entity(2), entity(3)], entity_embeddings={"3": [5, 6]}),
        add("add_relationship", relationship=relationship()),
        add("mset_relationships", relationships=[relationship(2), relationship(3, 3, 3)]),
        add("replace_communities", communities=[community(), community(2)], community_embeddings=[]),
        add("replace_communities", communities=[community(3, entity_ids=[2], relationship_ids=[2])]),
        add("delete_relationship", id=3),
        add("delete_entity", id=3),
        add("delete_textunit", id=3),
        add("delete_document", id=3),
        add("mset_documents", "other", documents=None),
    ]
    write_log(tmp_path, records)
    found = read_directory(tmp_path)
    report = found.report
    assert (report.records, report.log_generation, report.replay_offset, report.torn_bytes) == (len(records), 1, 0, 0)
    assert (report.snapshot_path, report.snapshot_version) == (None, 0)
    state = applied(found)
    assert list(state.sessions) == ["s", "other"]
    held = state.sessions["s"]
    assert (held.created_at_ms, held.last_access_ms) == (NOW_MS, NOW_MS + 9_000)
    tables = (held.documents, held.textunits, held.entities, held.relationships, held.communities)
    assert [[each.id for each in table] for table in tables] == [[1, 2], [1, 2], [1, 2], [1, 2], [3]]
    assert [table.next_id for table in tables] == [4, 4, 4, 4, 4]
    assert list(held.textunit_vectors.items()) == [(1, np.array([1, 2], "<f4").tobytes())]
    assert len(held.entity_vectors) == 0
    assert found.vector_dim == 2
    notes = " ".join(report.notes)
    assert "'s' is only in the log" in notes
    assert "'other' is only in the log" in notes
    assert "in no record of GibRAM's log" in notes


def test_what_is_deleted_in_the_log_frees_its_names(tmp_path: Path) -> None:
    offsets = write_log(
        tmp_path,
        [
            add("delete_relationship", id=2),
            add("add_relationship", relationship=relationship(3, 1, 1, type="r2")),
            add("add_entity", entity=entity(3), entity_embedding=[7, 8]),
            add("delete_entity", id=3),
            add("add_entity", entity=entity(4, external_id="e3", title="E3")),
            add("add_textunit", text_unit=textunit(3), text_unit_embedding=[7, 8]),
            add("delete_textunit", id=3),
            add("add_textunit", text_unit=textunit(4, external_id="t3")),
            add("add_document", document=document(2)),
            add("delete_document", id=2),
            add("add_document", document=document(3, external_id="d2")),
        ],
    )
    write_snapshot(tmp_path, [full_session()])
    found = read_directory(tmp_path)
    assert (found.report.replay_offset, found.report.records, len(offsets)) == (0, 11, 12)
    held = applied(found).sessions["s"]
    tables = (held.documents, held.textunits, held.entities, held.relationships)
    assert [[each.id for each in table] for table in tables] == [[1, 3], [1, 2, 4], [1, 2, 4], [1, 3]]
    assert [table.next_id for table in tables] == [4, 5, 5, 4]
    assert (held.textunit_vectors.ids(), held.entity_vectors.ids()) == ([1], [2])


def test_links_come_in_an_order_that_both_sides_agree_with(tmp_path: Path) -> None:
    # Made as (3, 1), (1, 2), (2, 2), (2, 1), (1, 1), (3, 2): no order by number is right on either side.
    units = [textunit(1, entity_ids=[2, 1]), textunit(2, entity_ids=[2, 1]), textunit(3, entity_ids=[1, 2])]
    entities = [entity(1, textunit_ids=[3, 2, 1]), entity(2, textunit_ids=[1, 2, 3])]
    write_snapshot(tmp_path, [session(documents=[document()], text_units=units, entities=entities)])
    found = read_directory(tmp_path)
    held = applied(found).sessions["s"]
    assert {id: list(held.linked_entities(id)) for id in (1, 2, 3)} == {1: [2, 1], 2: [2, 1], 3: [1, 2]}
    assert {id: list(held.linked_textunits(id)) for id in (1, 2)} == {1: [3, 2, 1], 2: [1, 2, 3]}
    assert not any("order of links" in note for note in found.report.notes)


def test_an_embedding_that_was_deleted_leaves_no_trace(tmp_path: Path) -> None:
    write_log(tmp_path, [add("add_entity", entity=entity(), entity_embedding=[7, 8]), add("delete_entity", id=1)])
    assert read_directory(tmp_path).vector_dim is None


def test_objects_in_any_order(tmp_path: Path) -> None:
    one = full_session()
    for name in ("text_units", "entities", "relationships", "communities"):
        one[name].reverse()
    one["relationships"].insert(0, relationship(3, 1, 2))
    write_snapshot(tmp_path, [one])
    held = applied(read_directory(tmp_path)).sessions["s"]
    assert list(held.edges_from(1)) == [1, 2, 3]


def test_the_log_goes_on_from_the_snapshot(tmp_path: Path) -> None:
    offsets = write_log(tmp_path, [b"not read again", add("add_document", document=document(2))])
    write_snapshot(tmp_path, [full_session()], wal_generation=1, wal_offset=offsets[1])
    found = read_directory(tmp_path)
    assert (found.report.replay_offset, found.report.records) == (offsets[1], 1)
    held = applied(found).sessions["s"]
    assert [each.id for each in held.documents] == [1, 2]
    assert (held.created_at_ms, held.last_access_ms) == (NOW_MS, NOW_MS + 5)


@pytest.mark.parametrize(
    ("snapshot", "log", "replayed"),
    [
        ({"wal_generation": 4, "wal_offset": 999}, 5, 1),
        ({"wal_generation": 0, "wal_offset": 0}, 1, 1),
        ({"wal_generation": 0, "wal_offset": 0}, 0, 1),
        ({"wal_generation": 4}, 4, 1),
        ({"wal_size": 0}, 7, 1),
    ],
)
def test_where_the_replay_begins(tmp_path: Path, snapshot: Json, log: int, replayed: int) -> None:
    write_log(tmp_path, [add("add_document", document=document(2))], generation=log)
    write_snapshot(tmp_path, [full_session()], **snapshot)
    report = read_directory(tmp_path).report
    assert (report.replay_offset, report.records, report.documents) == (0, replayed, 2)
    assert report.snapshot_version == (1 if "wal_size" in snapshot else 2)


def test_version_1_with_an_empty_log(tmp_path: Path) -> None:
    write_log(tmp_path, [], generation=3)
    write_snapshot(tmp_path, [full_session()], wal_size=138)
    assert read_directory(tmp_path).report.entities == 2


@pytest.mark.parametrize("generation", [1, 0])
@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_tail_is_counted_and_left(tmp_path: Path, generation: int, cut: int) -> None:
    torn = json.dumps(add("add_document", document=document(2))).encode()[:-cut]
    write_log(tmp_path, [add("add_document", document=document())], generation, torn)
    report = read_directory(tmp_path).report
    assert (report.records, report.documents, report.torn_bytes) == (1, 1, len(torn))
    assert any("cut short" in note for note in report.notes)


def test_zeros_behind_the_log_are_torn(tmp_path: Path) -> None:
    write_log(tmp_path, [add("add_document", document=document())], tail=bytes(4096))
    assert read_directory(tmp_path).report.torn_bytes == 4096


def test_a_last_record_that_lost_only_its_newline_is_taken(tmp_path: Path) -> None:
    write_log(tmp_path, [], tail=json.dumps(add("add_document", document=document())).encode())
    report = read_directory(tmp_path).report
    assert (report.records, report.documents, report.torn_bytes) == (1, 1, 0)
    assert any("lost its newline" in note for note in report.notes)


def test_every_cut_of_a_log_is_read(tmp_path: Path) -> None:
    offsets = write_log(tmp_path, [add("add_document", document=document(n)) for n in (1, 2, 3)])
    path = tmp_path / "session_wal" / "session.wal"
    whole = path.read_bytes()
    header = len(whole) - offsets[-1]
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        if size < header - 1:
            with pytest.raises(CorruptLogError, match="expected a log's header or a record, found neither"):
                read_directory(tmp_path)
            continue
        report = read_directory(tmp_path).report
        # A record is taken with its newline or without it.
        taken = sum(size >= header + end - 1 for end in offsets[1:])
        assert report.records == taken
        if size >= header and not taken:
            assert report.torn_bytes == size - header


def test_a_log_that_is_nothing_but_its_header_is_an_empty_store(tmp_path: Path) -> None:
    write_log(tmp_path, [])
    found = read_directory(tmp_path)
    assert (list(found.mutations), found.vector_dim, found.report.log_generation) == ([], None, 1)


@pytest.mark.parametrize("content", [b"", bytes(5_000), b'{"format":'])
def test_where_nothing_says_that_it_was_a_store_none_is_made(tmp_path: Path, content: bytes) -> None:
    write_log(tmp_path, [])
    path = tmp_path / "session_wal" / "session.wal"
    path.write_bytes(content)
    with pytest.raises(CorruptLogError, match=f"{path}: offset 0: expected .*; next: "):
        read_directory(tmp_path)
    write_snapshot(tmp_path, [full_session()], wal_generation=0, wal_offset=0)
    assert read_directory(tmp_path).report.sessions == 1, "beside a snapshot it is a log in which nothing is yet"


# --- what comes over in another form ----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{"created_at": NOW_S}, {"external_id": "c"}, {"summary": "s"}, {"full_content": "f"}])
def test_what_only_a_caller_gives_makes_a_community_by_hand(tmp_path: Path, more: Json) -> None:
    one = full_session() | {"communities": [community(1), community(2), community(3, **more)]}
    write_snapshot(tmp_path, [one])
    held = applied(read_directory(tmp_path)).sessions["s"]
    # The second has an embedding, and nothing else.
    assert [each.origin for each in held.communities] == [DETECTED, MADE_BY_HAND, MADE_BY_HAND]


def test_ids_are_never_given_out_again(tmp_path: Path) -> None:
    counters = {"document": 5000, "text_unit": 6, "entity": 7, "relationship": 8, "community": 9, "query": 3}
    write_snapshot(tmp_path, [session(id_generator_state=counters), session("t", documents=[document(3)])])
    state = applied(read_directory(tmp_path))
    held = state.sessions["s"]
    tables = (held.documents, held.textunits, held.entities, held.relationships, held.communities)
    assert [table.next_id for table in tables] == [5001, 7, 8, 9, 10]
    assert held.object_count() == 0
    assert held.memory_bytes == 0
    assert state.sessions["t"].documents.next_id == 4


@pytest.mark.parametrize(
    "counters",
    [
        {"Document": 5, "TextUnit": 6, "Entity": 7, "Relationship": 8, "Community": 9},
        {"last_document_id": 5, "last_text_unit_id": 6, "last_entity_id": 7, "last_rel_id": 8, "last_community_id": 9},
        {"doc_id": 5, "textunit_id": 6, "ent_id": 7, "rel_id": 8, "comm_id": 9},
    ],
)
def test_names_of_counters(tmp_path: Path, counters: dict[str, int]) -> None:
    write_snapshot(tmp_path, [session(id_generator_state=counters)])
    held = applied(read_directory(tmp_path)).sessions["s"]
    tables = (held.documents, held.textunits, held.entities, held.relationships, held.communities)
    assert [table.next_id for table in tables] == [6, 7, 8, 9, 10]


def test_names_of_fields_are_compared_as_gibram_does(tmp_path: Path) -> None:
    spelled = {"ID": 1, "ExternalID": "x", "Filename": "f", "CreatedAt": NOW_S, "text_unit_ids": None}
    write_snapshot(tmp_path, [session(documents=[spelled])])
    held = applied(read_directory(tmp_path)).sessions["s"]
    assert [(each.external_id, each.filename) for each in held.documents] == [("x", "f")]


@pytest.mark.parametrize(
    ("ttl_ns", "ttl_ms", "note"),
    [
        (90 * 10**9, 90_000, None),
        (3600, 1, "if seconds were meant"),
        (2**63 - 1, -(-(2**63 - 1) // 10**6), "overflowed"),
        (0, 0, None),
    ],
)
@pytest.mark.parametrize("which", ["ttl", "idle_ttl"])
def test_ttls(tmp_path: Path, which: str, ttl_ns: int, ttl_ms: int, note: str | None) -> None:
    one = session()
    one["session"][which] = ttl_ns
    write_snapshot(tmp_path, [one])
    found = read_directory(tmp_path)
    held = applied(found).sessions["s"]
    assert (held.ttl_ms, held.idle_ttl_ms) == ((ttl_ms, 0) if which == "ttl" else (0, ttl_ms))
    assert (held.created_at_ms, held.touched_at_ms) == (NOW_MS, NOW_MS + 5)
    assert (note is None) == (len(found.report.notes) == 2)
    assert note is None or any(note in each for each in found.report.notes)


def test_what_has_no_place_is_said(tmp_path: Path) -> None:
    one = session(documents=[document(status="parsed")])
    one["session"] |= {"quotas": {"max_entities": 5}, "usage": {"entities": 7}, "max_memory": 0}
    write_snapshot(tmp_path, [one])
    (tmp_path / "snapshot.gibram").write_bytes(b"")
    notes = " ".join(read_directory(tmp_path).report.notes)
    for said in ("'quotas' has no place", "status of 1 documents", "exports of GibRAM's", "session.wal is not there"):
        assert said in notes
    assert "max_memory" not in notes
    assert "usage" not in notes


def test_lists_of_links_that_contradict_each_other_in_order(tmp_path: Path) -> None:
    units = [textunit(1, entity_ids=[1, 2]), textunit(2, entity_ids=[2, 1])]
    entities = [entity(1, textunit_ids=[2, 1]), entity(2, textunit_ids=[1, 2])]
    write_snapshot(tmp_path, [session(documents=[document()], text_units=units, entities=entities)])
    found = read_directory(tmp_path)
    held = applied(found).sessions["s"]
    assert {id: list(held.linked_entities(id)) for id in (1, 2)} == {1: [1, 2], 2: [2, 1]}
    assert any("order of links" in note for note in found.report.notes)


def test_large_content_comes_in_several_mutations(tmp_path: Path) -> None:
    units = [textunit(n, content="ü" * 600_000) for n in range(1, 21)]
    rows = {str(n): [0.1 * n] * 1536 for n in range(1, 21)}
    write_snapshot(tmp_path, [session(documents=[document()], text_units=units, text_unit_vectors=rows)])
    found = read_directory(tmp_path)
    batches = [each for each in found.mutations if isinstance(each, m.TextUnitsAdded)]
    assert len(batches) > 1
    assert all(len(record.encode(each)) <= BATCH_BYTES_MAX for each in batches)
    held = applied(found).sessions["s"]
    assert [each.id for each in held.textunits] == list(range(1, 21))
    assert found.vector_dim == 1536


def test_the_weight_of_an_object_is_never_below_what_it_takes(tmp_path: Path) -> None:
    more = session(
        "läng" * 50, documents=[document(external_id="d" * 70_000)], entities=[entity(n) for n in range(1, 400)],
        communities=[community(entity_ids=list(range(1, 400)), title="ü" * 500)],
    )  # fmt: skip
    write_snapshot(tmp_path, [full_session(), more])
    for mutation in read_directory(tmp_path).mutations:
        held: tuple[Any, ...] = ()
        if isinstance(mutation, m.DocumentsAdded):
            held = mutation.documents
        elif isinstance(mutation, m.CommunitiesAdded):
            held = mutation.communities
        elif isinstance(mutation, m.EntitiesAdded):
            held = mutation.entities
        if held:
            rows = mutation.vectors if isinstance(mutation, m.EntitiesAdded | m.CommunitiesAdded) else b""
            names = 4 * len(mutation.session_id) + len(rows)
            assert len(record.encode(mutation)) <= sum(weight(each, 0) for each in held) + names


def test_a_single_object_too_large_for_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gibramdb.storage.gibram.directory.RECORD_BYTES_MAX", 5_000)
    write_snapshot(tmp_path, [session(documents=[document(filename="x" * 6_000)])])
    with pytest.raises(IncompatibleStoreError, match=r"at most 5000 bytes, found document 1"):
        read_directory(tmp_path)


def test_the_directories_can_lie_elsewhere(tmp_path: Path) -> None:
    write_log(tmp_path / "a", [add("add_document", document=document(2))])
    write_snapshot(tmp_path / "b", [full_session()], wal_generation=0)
    (tmp_path / "data").mkdir()
    found = read_directory(
        tmp_path / "data",
        log_directory=tmp_path / "a" / "session_wal",
        snapshot_directory=tmp_path / "b" / "session_snapshots",
    )
    assert found.report.documents == 2
    assert read_directory(tmp_path / "a" / "session_wal").report.documents == 1
    assert read_directory(tmp_path / "b" / "session_snapshots").report.documents == 1


def test_the_greatest_name_is_the_snapshot(tmp_path: Path) -> None:
    write_snapshot(tmp_path, [full_session("old")])
    newest = write_snapshot(tmp_path, [full_session("new")], "snapshot-00000000000000000010.json")
    (newest.parent / "snapshot-00000000000000000011.json.tmp").write_bytes(b"{")
    found = read_directory(tmp_path)
    assert (found.report.snapshot_path, list(applied(found).sessions)) == (newest, ["new"])


def test_reading_leaves_every_file_as_it_is(tmp_path: Path) -> None:
    write_log(tmp_path, [add("add_document", document=document(2))], tail=b'{"op"')
    write_snapshot(tmp_path, [full_session()])
    before = {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in tmp_path.rglob("*.*")}
    list(read_directory(tmp_path).mutations)
    assert {each: (each.read_bytes(), each.stat().st_mtime_ns) for each in tmp_path.rglob("*.*")} == before


# --- refusals ---------------------------------------------------------------------------------------------------------

BAD_RECORDS: dict[str, tuple[Json | bytes, str]] = {
    "not JSON": (b"{]", "JSON of the documented form"),
    "two on one line": (b'{"op":"delete_document"}{"op":"delete_document"}', "trailing characters"),
    "an empty line": (b"", "JSON of the documented form"),
    "zeros": (bytes(100), "JSON of the documented form"),
    "a great depth": (b'{"op":"add_document","session_id":"s","document":' + b"[" * 100_000, "JSON of the documented"),
    "not an object": (b"7", "JSON of the documented form"),
    "not UTF-8": (b'{"op":"\xff","session_id":"s"}', "JSON of the documented form"),
    "no operation": ({"session_id": "s"}, "expected the field op"),
    "unknown operation": (add("link"), "expected one of the operations add_document"),
    "no session": ({"op": "delete_document", "id": 1}, "the field sessionid"),
    "an empty session": (add("delete_document", "", id=1), "expected a session id"),
    "a session that is not there": (add("delete_document", "nowhere", id=1), "'nowhere', which is not"),
    "a header again": ({"format": "gibram-session-wal", "version": 1, "generation": 2}, "expected only the fields"),
    "the content of another": (add("add_document", entity=entity(9)), "expected only the fields of add_document"),
    "no content": (add("add_document"), "expected the field document"),
    "unknown field": (add("add_document", document=document(9, pages=3)), "unknown field `pages`"),
    "a field twice": (add("add_document", document={"id": 9, "ID": 9, "external_id": "x"}), "each field once"),
    "id 0": (add("add_document", document=document(0)), "at `$.id`"),
    "a huge id": (add("add_document", document=document(2**31)), "at `$.id`"),
    "text for a number": (add("add_document", document=document(9) | {"id": "9"}), "at `$.id`"),
    "milliseconds": (add("add_document", document=document(9, created_at=NOW_MS)), "at `$.createdat`"),
    "an id taken": (add("add_document", document=document(1, external_id="n")), "id 1, which is taken"),
    "an external id taken": (add("add_document", document=document(9, external_id="d1")), "'d1'"),
    "no external id": (add("add_document", document=document(9, external_id="")), "at `$.externalid`"),
    "a title taken": (add("add_entity", entity=entity(9, title="E1")), "a second one of 'E1'"),
    "a triple taken": (
        add("add_relationship", relationship=relationship(9, type="r1")),
        "a second one of (1, 2, 'r1')",
    ),
    "no such document": (add("add_textunit", text_unit=textunit(9, document_id=5)), "document 5, which is not"),
    "no such source": (add("add_relationship", relationship=relationship(9, 7, 1)), "entity 7, which is not"),
    "no such target": (add("add_relationship", relationship=relationship(9, 1, 7)), "entity 7, which is not"),
    "no such member": (add("replace_communities", communities=[community(9, entity_ids=[7])]), "entity 7, which"),
    "no such edge": (add("replace_communities", communities=[community(9, relationship_ids=[7])]), "relationship 7, w"),
    "a large weight": (add("add_relationship", relationship=relationship(9, weight=1e300)), "32-bit float"),
    "tokens": (add("add_textunit", text_unit=textunit(9, token_count=2**31)), "at `$.tokencount`"),
    "a link": (add("add_textunit", text_unit=textunit(9, entity_ids=[1])), "without links"),
    "a link back": (add("add_entity", entity=entity(9, textunit_ids=[1])), "without links"),
    "not finite": (add("add_entity", entity=entity(9), entity_embedding=[1.0, 1e39]), "not at index 1"),
    "words for numbers": (add("add_entity", entity=entity(9), entity_embedding=["x"]), "JSON of the documented"),
    "too few embeddings": (add("mset_entities", entities=[entity(9), entity(8)], entity_embeddings=[[1, 2]]), "2 emb"),
    "a strange embedding": (add("mset_entities", entities=[entity(9)], entity_embeddings={"4": [1, 2]}), "for id 4"),
    "an object without id": (add("mset_entities", entities=[{"title": "x"}]), "one without"),
    "not there": (add("delete_document", id=9), "id 9, which is not"),
    "no id": (add("delete_document"), "expected the field id"),
    "has text units": (add("delete_document", id=1), "named by a text unit"),
    "has links": (add("delete_textunit", id=1), "has some"),
    "has links back": (add("delete_entity", id=1), "has some"),
    "has edges": (add("delete_entity", id=3), "named by a relationship"),
    "in a community": (add("delete_relationship", id=3), "named by a community"),
}


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_a_record_that_does_not_fit_is_refused_with_its_place(tmp_path: Path, kind: str) -> None:
    bad, words = BAD_RECORDS[kind]
    one = full_session()
    one["entities"].append(entity(3))
    one["relationships"].append(relationship(3, 3, 3))
    one["communities"].append(community(3, relationship_ids=[3], entity_ids=[]))
    write_snapshot(tmp_path, [one])
    offsets = write_log(tmp_path, [add("add_document", document=document(4)), bad, add("delete_document", id=4)])
    path = tmp_path / "session_wal" / "session.wal"
    place = path.stat().st_size - offsets[-1] + offsets[1]
    with pytest.raises(CorruptLogError) as refused:
        read_directory(tmp_path)
    message = str(refused.value)
    assert message.startswith(f"{path}: offset {place}: record 2 of the replay: expected ")
    assert words in message
    assert "next: " in message


def changed(**more: Any) -> Callable[[], list[Json | None]]:
    return lambda: [full_session() | more]


def in_session(**more: Any) -> Callable[[], list[Json | None]]:
    def make() -> list[Json | None]:
        one = full_session()
        one["session"] |= more
        return [one]

    return make


BAD_SNAPSHOTS: dict[str, tuple[Callable[[], list[Json | None]], str]] = {
    "a null session": (lambda: [None], "a session, found null"),
    "a session twice": (lambda: [session(), session()], "no other session has"),
    "without a name": (lambda: [session("")], "no other session has"),
    "another name inside": (in_session(id="other"), "the session id 's', found other"),
    "without a time": (in_session(created_at=None), "JSON of the documented form"),
    "seconds": (in_session(created_at=NOW_S), "in nanoseconds since 1970"),
    "a negative TTL": (in_session(ttl=-1), "TTL in nanoseconds"),
    "an unknown field": (changed(edges=[1]), "the field edges"),
    "a counter of what": (changed(id_generator_state={"edges": 1}), "the counter edges"),
    "a huge counter": (changed(id_generator_state={"entity": 2**40}), "an id counter from 0"),
    "a dangling document": (changed(documents=[]), "document 1, which is not"),
    "an id taken": (changed(documents=[document(), document()]), "id 1, which is taken"),
    "another key": (changed(documents={"2": document()}), "id 2 under this key"),
    "no vector's entity": (changed(entity_vectors={"9": [1, 2]}), "one of entity 9, which is not"),
    "a vector of words": (changed(entity_vectors={"1": "x"}), "JSON of the documented form"),
    "a vector by name": (changed(entity_vectors={"x": [1, 2]}), "JSON of the documented form"),
    "half a link": (changed(entities=[entity(), entity(2)]), "only in the text unit"),
    "a link twice": (changed(text_units=[textunit(entity_ids=[1, 1])]), "each link once"),
}


@pytest.mark.parametrize("kind", BAD_SNAPSHOTS)
def test_a_snapshot_that_does_not_fit_is_refused(tmp_path: Path, kind: str) -> None:
    sessions, words = BAD_SNAPSHOTS[kind]
    path = write_snapshot(tmp_path, [session("before"), *sessions()])
    with pytest.raises(CorruptLogError) as refused:
        read_directory(tmp_path)
    message = str(refused.value)
    assert message.startswith(f"{path}: offset ")
    assert words in message
    assert "next: " in message
    offset = int(message.removeprefix(f"{path}: offset ").split(":")[0])
    assert offset > path.read_text().index('"before"')


def test_the_offset_names_the_object(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path, [session(documents=[document(), document(2, pages=3)])])
    with pytest.raises(CorruptLogError, match=r"session 's': .*unknown field `pages`") as refused:
        read_directory(tmp_path)
    offset = int(str(refused.value).removeprefix(f"{path}: offset ").split(":")[0])
    at, _ = json.JSONDecoder().raw_decode(path.read_text(), offset)
    assert at["id"] == 2


@pytest.mark.parametrize(
    ("head", "error", "words"),
    [
        (b"", CorruptLogError, "expected JSON"),
        (b'{"version":2,"wal_generation":1,"sessions":[', CorruptLogError, "truncated"),
        (b'{"version":3,"sessions":[]}', IncompatibleStoreError, "found version 3"),
        (b'{"sessions":[]}', CorruptLogError, "the field version"),
        (b'{"version":2,"sessions":[]}', CorruptLogError, "the generation of the log"),
        (b'{"version":1,"sessions":[]}', CorruptLogError, "the size of the log"),
        (b'{"version":1,"wal_size":0,"wal_offset":7,"sessions":[]}', CorruptLogError, "its generation or offset"),
        (b'{"version":2,"wal_generation":-1,"sessions":[]}', CorruptLogError, "0 or more"),
        (b'{"version":2,"wal_generation":1,"sessions":[],"checksum":"ab"}', CorruptLogError, "the field checksum"),
    ],
)
def test_the_head_of_a_snapshot(tmp_path: Path, head: bytes, error: type[FatalError], words: str) -> None:
    path = write_snapshot(tmp_path, [])
    path.write_bytes(head)
    with pytest.raises(error, match=words) as refused:
        read_directory(tmp_path)
    assert str(refused.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("header", "error", "words"),
    [
        (b'{"format":"gibram-session-wal","version":2,"generation":1}\n', IncompatibleStoreError, "version 2"),
        (b'{"format":"other","version":1,"generation":1}\n', IncompatibleStoreError, "found other"),
        (b'{"format":"gibram-session-wal","version":1,"generation":0}\n', CorruptLogError, "a generation from 1"),
        (b'{"format":"gibram-session-wal","version":1}\n', CorruptLogError, "the field generation"),
        (b'{"format":7,"version":1,"generation":1}\n', CorruptLogError, "offset 0"),
        (b'{"format":"gibram-session-wal","version":1,"generation":1,"x":1}\n', CorruptLogError, "the field x"),
    ],
)
def test_the_header_of_a_log(tmp_path: Path, header: bytes, error: type[FatalError], words: str) -> None:
    write_log(tmp_path, [])
    (tmp_path / "session_wal" / "session.wal").write_bytes(header)
    with pytest.raises(error, match=words):
        read_directory(tmp_path)


def test_generations_that_do_not_join(tmp_path: Path) -> None:
    write_snapshot(tmp_path, [full_session()], wal_generation=3, wal_offset=0)
    for generation in (0, 1, 2, 5):
        write_log(tmp_path, [], generation)
        with pytest.raises(
            IncompatibleStoreError, match=rf"expected generation 3 or 4, .* found generation {generation}"
        ):
            read_directory(tmp_path)


def test_an_ambiguous_version_1_offset(tmp_path: Path) -> None:
    write_log(tmp_path, [add("add_document", document=document(2))])
    write_snapshot(tmp_path, [full_session()], wal_size=10)
    with pytest.raises(IncompatibleStoreError, match="ambiguous version 1 offset"):
        read_directory(tmp_path)
    (tmp_path / "session_wal" / "session.wal").unlink()
    report = read_directory(tmp_path).report
    assert (report.snapshot_version, report.documents) == (1, 1)


@pytest.mark.parametrize(("more", "words"), [(1, "middle of one"), (-1, "middle of one"), (10_000, "to reach here")])
def test_an_offset_that_is_no_boundary(tmp_path: Path, more: int, words: str) -> None:
    offsets = write_log(tmp_path, [add("add_document", document=document(n)) for n in (2, 3)])
    write_snapshot(tmp_path, [full_session()], wal_generation=1, wal_offset=offsets[1] + more)
    with pytest.raises(CorruptLogError, match=words):
        read_directory(tmp_path)


def test_a_log_whose_snapshot_is_missing(tmp_path: Path) -> None:
    write_log(tmp_path, [], generation=2)
    with pytest.raises(MissingStoreError, match="put the snapshots back"):
        read_directory(tmp_path)


def test_embeddings_of_two_lengths(tmp_path: Path) -> None:
    write_snapshot(tmp_path, [full_session(), full_session("t") | {"entity_vectors": {"1": [1, 2, 3]}}])
    with pytest.raises(IncompatibleStoreError, match=r"found lengths 2 \(.*\) and 3 \(entity 1 of session 't'\)"):
        read_directory(tmp_path)


def test_a_line_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gibramdb.storage.gibram.log.LINE_BYTES_MAX", 1000)
    write_log(tmp_path, [add("add_document", document=document(filename="x" * 2000))])
    with pytest.raises(CorruptLogError, match="at most 1000 bytes"):
        read_directory(tmp_path)


def test_two_of_a_file(tmp_path: Path) -> None:
    write_log(tmp_path, [])
    (tmp_path / "session.wal").write_bytes(b"")
    with pytest.raises(IncompatibleStoreError, match="one of each file"):
        read_directory(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(MissingStoreError, match="found neither"):
        read_directory(tmp_path)
    with pytest.raises(MissingStoreError, match="found none"):
        read_directory(tmp_path / "missing")
    (tmp_path / "snapshot.gibram").write_bytes(b"")
    with pytest.raises(MissingStoreError, match="only exports"):
        read_directory(tmp_path)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "session.wal").mkdir()
    with pytest.raises(MissingStoreError, match="can not be read"):
        read_directory(tmp_path)


def test_any_one_changed_byte_is_refused_or_is_inside_a_value(tmp_path: Path) -> None:
    """There is no checksum: what is refused is what damages the form, and nothing else can be known."""
    write_snapshot(tmp_path, [full_session()])
    write_log(tmp_path, [add("add_document", document=document(2))])
    for path in sorted(tmp_path.rglob("*.*")):
        whole = path.read_bytes()
        for place in range(0, len(whole), 3):
            path.write_bytes(whole[:place] + bytes((whole[place] ^ 0x80,)) + whole[place + 1 :])
            try:
                report = read_directory(tmp_path).report
            except FatalError as refused:
                assert str(path) in str(refused)  # noqa: PT017  which error it is does not matter
            else:
                assert path.name == "session.wal"
                assert report.torn_bytes
        path.write_bytes(whole)


# --- recognising one --------------------------------------------------------------------------------------------------


def test_looks_like_gibram(tmp_path: Path) -> None:
    assert not looks_like_gibram(tmp_path)
    assert not looks_like_gibram(tmp_path / "missing")
    write_log(tmp_path / "log", [])
    assert looks_like_gibram(tmp_path / "log")
    assert looks_like_gibram(tmp_path / "log" / "session_wal")
    heads: dict[str, Json] = {"v1": {"wal_size": 3}, "v2": {"wal_generation": 1}}
    for name, head in heads.items():
        write_snapshot(tmp_path / name, [], **head)
        assert looks_like_gibram(tmp_path / name)
        assert looks_like_gibram(tmp_path / name / "session_snapshots")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "snapshot.gibram").write_bytes(b"")
    assert looks_like_gibram(tmp_path / "export")


def test_a_store_of_ours_is_none(tmp_path: Path) -> None:
    write_log(tmp_path, [])
    (tmp_path / MARKER_NAME).write_text("{}")
    assert not looks_like_gibram(tmp_path)
    with pytest.raises(IncompatibleStoreError, match="a store of gibramdb"):
        read_directory(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / DOCUMENTED).write_text('{"format": 1, "min_reader_version": 1, "store_id": "ab"}')
    assert not looks_like_gibram(other)
