"""What takes long is done in turns: PING and HEALTH are answered in between, everything else waits its turn and is right."""

from __future__ import annotations

import gc
import queue
import time
from collections.abc import Callable
from functools import partial

import pytest
from support.owned_store import VECTOR_DIM, OwnedStore, SteppingClock
from support.timing import TIMED

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship
from gibramdb.core import limits
from gibramdb.core.state import StoreState
from gibramdb.database import journal
from gibramdb.database.answers import Answer
from gibramdb.errors import AlreadyExistsError, ClosedError, DiskFullError, GibramError, PipelineFullError
from gibramdb.model import commands as c
from gibramdb.model.knowledge import Entity
from gibramdb.model.results import Created, Detected, Digest, Done, Health, Pong, links_in
from gibramdb.storage import wal

ENTITIES = 60


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A marker in the log of one store, and not in that of the other, would move its LSNs, and with them its digest."""
    monkeypatch.setattr(journal, "IDLE_BEFORE_MARKER_MS", 1_000_000)


def filled(clock: SteppingClock | None = None) -> OwnedStore:
    store = OwnedStore(clock=clock)
    entities = tuple(NewEntity(f"e{n}", f"e{n}", embedding=[1.0, float(n), 0.5]) for n in range(ENTITIES))
    store.run(c.AddEntities("s", entities))
    chain = tuple(NewRelationship(n, n + 1, "NEXT") for n in range(1, ENTITIES))
    assert not isinstance(store.run(c.AddRelationships("s", chain)), GibramError)
    store.run(c.AddEntities("other", entities))
    return store


LONG: list[c.Command] = [
    c.GetDigest(),
    c.GetDigest("s"),
    c.RebuildIndexes("s"),
    c.DetectCommunities("s"),
    c.DetectHierarchy("s"),
]


def without_times(answer: Answer) -> object:
    """The two stores' clocks differ by then."""
    return [(each.title, each.entity_ids) for each in answer.communities] if isinstance(answer, Detected) else answer


@pytest.mark.parametrize("command", LONG, ids=lambda command: type(command).__name__)
def test_others_are_asked_after_their_health_while_it_runs_and_served_behind_it(command: c.Command) -> None:
    at_once, in_turns = filled(), filled(SteppingClock())
    expected = at_once.run(command)
    answers = in_turns.start(command)
    change = in_turns.start(c.AddEntities("s", (NewEntity("later", "later"),)))
    turns = 0
    while not answers:
        if not change:
            assert [type(each) for each in in_turns.start(c.Ping())] == [Pong]
            assert [type(each) for each in in_turns.start(c.GetHealth())] == [Health]
        in_turns.turn()
        turns += 1
    assert turns >= ENTITIES
    assert [without_times(each) for each in answers] == [without_times(expected)]
    while not change:
        in_turns.turn()
    at_once.run(c.AddEntities("s", (NewEntity("later", "later"),)))
    if isinstance(command, c.RebuildIndexes):
        found = in_turns.run(c.GetEntityByExternalId("s", "later"))
        assert isinstance(found, Entity)
        assert found.id == ENTITIES + 1
        assert in_turns.state.memory_bytes == at_once.state.memory_bytes
    for store in (at_once, in_turns):
        store.close()


@pytest.mark.parametrize("command", LONG, ids=lambda command: type(command).__name__)
def test_a_stop_meanwhile_answers_it_and_what_waits_behind_it(command: c.Command) -> None:
    store = filled(SteppingClock())
    answers = store.start(command)
    change = store.start(c.DeleteSession("s"))
    for _ in range(5):
        store.turn()
    store.close()
    assert [type(each) for each in (*answers, *change)] == [ClosedError, ClosedError]


@pytest.mark.parametrize("command", LONG, ids=lambda command: type(command).__name__)
def test_a_restore_meanwhile_answers_it_and_serves_what_waits_behind_it(command: c.Command) -> None:
    store = filled(SteppingClock())
    answers = store.start(command)
    change = store.start(c.AddEntities("s", (NewEntity("later", "later"),)))
    store.database.pause()
    store.database.resume(StoreState(VECTOR_DIM))
    assert [type(each) for each in answers] == [ClosedError]
    while not change:
        store.turn()
    assert list(store.state.sessions) == ["s"]
    store.close()


def test_a_digest_that_ends_while_a_restore_swaps_leaves_nothing_in_the_new_log() -> None:
    """The note that a session was read would lie behind a snapshot that does not know the session."""
    store = filled(SteppingClock())
    store.run(c.SetSessionTtl("s", idle_ttl_s=40))
    store.clock.ms += 10_000
    restored = store.start_restore()

    def next_call_but(name: str) -> Callable[[], None] | None:
        call = store._posted.get(timeout=60)
        is_named = isinstance(call, partial) and call.func.__name__ == name
        later.append(call) if is_named else call()
        return call if is_named else None

    later: list[Callable[[], None]] = []
    while not later:
        next_call_but("_swap")
    digest = store.start(c.GetDigest("s"))
    for _ in range(20):
        store.turn()
    swap = later.pop()
    swap()
    while not digest:
        next_call_but("_swapped")
    assert isinstance(digest[0], Digest)
    for call in later:
        call()
    while not restored:
        store.turn()
    store.run(c.AddEntities("new", (NewEntity("e", "e"),)))
    store.reopen()
    assert list(store.state.sessions) == ["new"]
    store.close()


def test_what_was_held_back_runs_in_turns_and_in_order() -> None:
    store = filled(SteppingClock())
    long = store.start(c.GetDigest())
    held = [store.start(c.AddEntities("s", (NewEntity(f"h{n}", f"h{n}"),))) for n in range(40)]
    while not long:
        store.turn()
    turns = 0
    late = store.start(c.GetEntityByExternalId("s", "h39"))
    while not late:
        assert [type(each) for each in store.start(c.Ping())] == [Pong]
        store.turn()
        turns += 1
    assert turns >= 20
    assert isinstance(late[0], Entity), "it came last, and saw all that came before it"
    assert all(not isinstance(each[0], GibramError) for each in held)
    store.close()


def expiring(count: int, flags: dict[str, str] | None = None) -> OwnedStore:
    """So many small sessions whose time is over, and a large one."""
    store = OwnedStore(clock=SteppingClock(), flags=flags)
    store.run(c.AddEntities("big", tuple(NewEntity(f"e{n}", f"e{n}") for n in range(ENTITIES))))
    for number in range(count):
        store.run(c.AddEntities(f"s{number}", (NewEntity("e", "e"),)))
        store.run(c.SetSessionTtl(f"s{number}", ttl_s=1))
    store.clock.ms += 5_000
    return store


def settled(store: OwnedStore) -> None:
    """Nothing is left to be done; fails if work makes more work."""
    for _ in range(200):
        try:
            store._posted.get(timeout=0.3)()
        except queue.Empty:
            return
    pytest.fail("there is always more to do")


@pytest.mark.parametrize("reason", ["closed", "halted", "disk full", "held back"])
def test_a_sweep_that_can_not_go_on_waits_for_the_next(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "RESERVE_BYTES", 64 * 1024)
    monkeypatch.setattr(journal, "RESERVE_LOW_BYTES", 8 * 1024)
    store = expiring(30)
    if reason == "held back":
        store.database.pause()
    elif reason == "disk full":
        store.disk.free_bytes = 0
        number = 0
        while not isinstance(store.run(c.AddDocuments("full", (NewDocument(f"d{number}"),))), DiskFullError):
            number += 1
    store.sweep()
    if reason == "closed":
        store.database.close()
    elif reason == "halted":
        store.database._halt(ZeroDivisionError("provoked"))
    store.sweep()
    settled(store)
    if reason == "held back":
        store.database.resume(None)
        store.sweep()
        while len(store.state.sessions) > 1:
            store.turn()
    store.close()


def test_sessions_end_while_somebody_always_asks_for_more_behind_a_long_command() -> None:
    store = expiring(4)
    long = store.start(c.RebuildIndexes("big"))
    assert not long
    asked = 0

    def ask_again(answer: Answer) -> None:
        nonlocal asked
        assert not isinstance(answer, GibramError)
        asked += 1
        if asked < 500:
            store.database.submit(c.GetEntity("big", 1), ask_again)

    store.database.submit(c.GetEntity("big", 1), ask_again)
    while asked < 100:
        store.turn()
    assert store.database._held_of["big"], "there is always something held back"
    store.sweep()
    while set(store.state.sessions) > {"big"}:
        assert asked < 500
        store.turn()
    store.close()


def test_other_sessions_are_served_while_something_long_runs_on_one() -> None:
    """However much of it one tenant asks for."""
    store = filled(SteppingClock())
    store.run(c.AddEntities("small", (NewEntity("e", "e"),)))
    before = store.digest()
    commands = [c.RebuildIndexes("s"), c.GetDigest("s"), c.DetectCommunities("other"), c.RebuildIndexes("s")]
    long = [store.start(command) for command in commands]
    write = store.start(c.AddEntities("s", (NewEntity("later", "later"),)))
    store.turn()
    (read,) = store.start(c.GetEntity("small", 1))
    assert isinstance(read, Entity), "at once"
    store.start(c.AddDocuments("small", (NewDocument("d"),)))
    assert len(store.state.sessions["small"].documents) == 1
    assert not any(long)
    assert not write
    whole = store.start(c.GetDigest())
    behind = store.start(c.AddDocuments("small", (NewDocument("behind"),)))
    assert len(store.state.sessions["small"].documents) == 1, "all is held back for a digest of all"
    for answers in (*long, write, whole, behind):
        while not answers:
            store.turn()
        assert not isinstance(answers[0], GibramError)
    assert [len(store.state.sessions["s"].entities), len(store.state.sessions["small"].documents)] == [ENTITIES + 1, 2]
    assert store.digest() != before
    assert not store.database._held_of
    store.close()


def test_a_restore_ends_what_is_computed_on_sessions_and_runs_what_was_held_back_for_it() -> None:
    store = filled(SteppingClock())
    long = [store.start(c.RebuildIndexes("s")), store.start(c.GetDigest("other"))]
    held = [store.start(c.AddEntities(name, (NewEntity("later", "later"),))) for name in ("s", "other", "new", "s")]
    assert [len(store.state.sessions[name].entities) for name in ("s", "other", "new")] == [ENTITIES, ENTITIES, 1]
    store.database.pause()
    store.database.resume(StoreState(VECTOR_DIM))
    for answers in (*long, *held):
        while not answers:
            store.turn()
    assert [type(answers[0]) for answers in long] == [ClosedError, ClosedError]
    assert [type(answers[0]) for answers in held] == [Created, Created, Created, AlreadyExistsError]
    assert list(store.state.sessions) == ["s", "other"]
    assert not store.database._held_of
    store.close()


def test_a_write_behind_a_long_command_finds_the_room_that_sessions_leave_which_are_over() -> None:
    store = expiring(4, flags={"security.max_sessions": "5"})
    assert not store.start(c.RebuildIndexes("big"))
    assert isinstance(store.run(c.AddEntities("new", (NewEntity("e", "e"),))), Created)
    store.close()


def test_sessions_that_are_deleted_during_a_sweep_of_a_full_store_are_passed_over() -> None:
    store = expiring(300, flags={"security.max_sessions": "301"})
    store.sweep()
    for name in store.database._over[-250:]:
        store.start(c.DeleteSession(name))
    begun = [
        store.start(c.AddEntities(f"new{n}", (NewEntity("e", "e"),))) for n in range(301 - len(store.state.sessions))
    ]
    while not all(begun):
        store.turn()
    assert {type(answers[0]) for answers in begun} == {Created}
    while {name[:3] for name in store.state.sessions} != {"new", "big"}:
        store.turn()
    store.close()


def test_members_of_communities_that_the_next_detection_replaces_count_in_a_pipeline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PIPELINE_LINKS_MAX", 5 * ENTITIES)
    store = filled()
    told: list[list[Answer]] = []
    store.database.submit_batch([c.DetectCommunities("s")] * 10, told.append, is_bounded=True)
    while not told:
        store.turn()
    detected, refused = told[0][:-1], told[0][-1]
    assert isinstance(refused, PipelineFullError)
    found = [each for each in detected if isinstance(each, Detected)]
    assert 1 < len(found) == len(detected) <= 5
    assert sum(links_in(each) for each in found) >= 5 * ENTITIES
    store.close()


def test_a_session_is_let_go_in_turns_and_its_namesake_is_new() -> None:
    store = filled(SteppingClock())
    gone = store.state.sessions["s"]
    answers = store.start(c.DeleteSession("s"))
    assert "s" not in store.state.sessions
    assert gone.entities_by_external_id, "freed in the turn of the deletion"
    while not answers:
        store.turn()
    assert [type(each) for each in answers] == [Done]
    store.run(c.AddEntities("s", (NewEntity("e1", "new"),)))
    while gone.entities_by_external_id or gone.textunit_vectors._blocks:
        store.turn()
    digest = store.run(c.GetDigest())
    assert isinstance(digest, Digest)
    assert digest.object_count == 1 + ENTITIES
    store.close()


def test_sessions_whose_time_is_over_end_in_turns() -> None:
    store = OwnedStore(clock=SteppingClock())
    for number in range(30):
        store.run(c.AddEntities(f"s{number}", (NewEntity("e", "e"),)))
        store.run(c.SetSessionTtl(f"s{number}", ttl_s=1))
    store.clock.ms += 5_000
    store.sweep()
    assert len(store.state.sessions) == 29
    while store.state.sessions:
        store.turn()
    store.close()


@TIMED
def test_deleting_a_hub_with_all_that_refers_to_it_takes_time_in_proportion() -> None:
    def taken_s(count: int) -> float:
        store = OwnedStore(durable=False)
        store.run(c.AddEntities("s", tuple(NewEntity(f"e{n}", f"e{n}") for n in range(count + 1))))
        store.run(c.AddRelationships("s", tuple(NewRelationship(1, n + 2, "R") for n in range(count))))
        began_s = time.thread_time()
        assert isinstance(store.run(c.CascadeDeleteEntity("s", 1)), Done)
        taken = time.thread_time() - began_s
        assert not store.state.sessions["s"].relationships
        store.close()
        return taken

    taken_s(1_000)
    assert taken_s(80_000) < 40 * taken_s(10_000) / 2


def test_an_entity_of_many_large_communities_is_deleted_without_indexing_their_members_anew() -> None:
    members = tuple(range(1, 20_001))
    store = OwnedStore()
    store.run(c.AddEntities("s", tuple(NewEntity(f"e{n}", f"e{n}") for n in members)))
    began_s = time.thread_time()
    for number in range(10):
        store.run(c.AddCommunity("s", NewCommunity(f"c{number}", members)))
    indexed_s = time.thread_time() - began_s
    log_bytes = store.state.last_lsn
    began_s = time.thread_time()
    assert isinstance(store.run(c.CascadeDeleteEntity("s", 7)), Done)
    assert time.thread_time() - began_s < indexed_s / 2
    assert store.state.last_lsn - log_bytes < 1_000, "nor does its record hold them"
    session = store.state.sessions["s"]
    assert {community.entity_ids for community in session.communities} == {(*members[:6], *members[7:])}
    store.close()


def test_neither_answers_nor_refusals_wait_for_the_garbage_collector() -> None:
    """Where a server's collector leaves alone what has stayed once, a ring of objects would stay for good."""
    store = filled()
    asked: list[c.Command] = [
        c.GetEntity("s", 99), c.GetEntity("s", 1), c.GetEntity("none", 1), c.AddEntities("s", (NewEntity("e1", "e1"),)),
        c.Query("other", top_k=1, vector=[1.0, 2.0]), c.DeleteSession("none"), c.DetectCommunities("s"),
        c.GetDigest(), c.RebuildIndexes("s"), c.Restore("none"), c.Checkpoint(),
    ]  # fmt: skip
    for command in asked:
        store.run(command)
    gc.collect()
    gc.disable()
    try:
        for command in asked:
            store.run(command)
        assert gc.collect() == 0
    finally:
        gc.enable()
    store.close()
