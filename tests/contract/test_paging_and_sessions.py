"""Pages to the last item, sessions and their time, quotas, INFO and HEALTH."""

from __future__ import annotations

import pytest
from support.owned_store import OwnedStore

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit, Store
from gibramdb.core.limits import KEPT_TOKEN_BYTES, session_bytes
from gibramdb.errors import DiskFullError, GibramError, LimitExceededError, SessionExpiredError, SessionNotFoundError
from gibramdb.model import commands as c
from gibramdb.model.results import Created, Done, Page, SessionPage
from gibramdb.model.scope import SessionScope
from gibramdb.session import SESSIONS_PER_PAGE

HEALTH_FIELDS = {
    "engine", "backup", "session_store_mode", "session_store", "durable_state", "wal_current_lsn", "wal_flushed_lsn",
    "wal_flush_lag_bytes", "wal_size_bytes", "snapshot_status", "snapshot_count", "last_snapshot_unix_nano",
    "wal_bytes_since_snapshot", "recovery_duration_ms", "resource_pressure", "retrieval_ready", "textunit_index_ready",
    "entity_index_ready", "community_index_ready", "empty_seed_indexes",
}  # fmt: skip


def page(store: OwnedStore, cursor: int, limit: int) -> tuple[list[int], int]:
    answer = store.run(c.ListEntities("s", cursor, limit))
    assert isinstance(answer, Page)
    return [each.id for each in answer.items], answer.next_cursor


def test_pages_at_their_edges() -> None:
    store = OwnedStore(durable=False)
    store.run(c.AddEntities("s", tuple(NewEntity(f"e{number}", f"e{number}") for number in range(10_005))))
    assert page(store, 0, 2) == ([1, 2], 2)
    assert page(store, 10_003, 2) == ([10_004, 10_005], 0)
    assert page(store, 10_003, 1) == ([10_004], 10_004)
    assert page(store, 10_005, 5) == ([], 0)
    assert page(store, 2**63, 5) == ([], 0)
    for limit in (0, -1):
        assert len(page(store, 0, limit)[0]) == 1_000
    ids, cursor = page(store, 0, 10_001)
    assert (len(ids), cursor) == (10_000, 10_000)


def test_a_ttl_is_seconds_can_be_left_and_can_be_cleared(store: Store) -> None:
    session = store.session("s")
    session.add_document("d")
    session.set_ttl(ttl_s=3_600, idle_ttl_s=60)
    assert (session.info().ttl_s, session.info().idle_ttl_s) == (3_600, 60)
    session.set_ttl(idle_ttl_s=-1)
    assert (session.info().ttl_s, session.info().idle_ttl_s) == (3_600, 0)
    session.set_ttl(ttl_s=2**62)
    assert session.info().ttl_s > 10**12, "a very long TTL is a long one, and does not expire at once"
    session.set_ttl(ttl_s=-5)
    assert session.info().ttl_s == 0
    session.touch()


@pytest.mark.parametrize("durable", [True, False])
def test_what_an_expired_session_answers(durable: bool) -> None:
    store = OwnedStore(durable=durable)
    store.run(c.AddDocuments("s", (NewDocument("d1"), NewDocument("d2"))))
    store.run(c.SetSessionTtl("s", ttl_s=10))
    store.clock.ms += 10_000
    assert not isinstance(store.run(c.GetSession("s")), GibramError), "exactly at its end it is still there"
    store.clock.ms += 1
    for refused in (
        c.GetSession("s"),
        c.GetDocument("s", 1),
        c.DeleteDocument("s", 1),
        c.TouchSession("s"),
        c.Query("s"),
    ):
        assert isinstance(store.run(refused), SessionExpiredError), refused
    assert store.run(c.GetDocuments("s", (1,))).items == ()  # type: ignore[union-attr]
    assert store.run(c.ListSessions()) == SessionPage(())
    assert store.run(c.GetInfo("s")).document_count == 0  # type: ignore[union-attr]
    answer = store.run(c.AddDocuments("s", (NewDocument("d1"),)))
    assert isinstance(answer, Created)
    assert answer.ids == (1,), "the first write begins the new session at once"
    assert store.run(c.GetSession("s")).ttl_s == 0  # type: ignore[union-attr]
    store.run(c.SetSessionTtl("s", idle_ttl_s=10))
    for _ in range(5):
        store.clock.ms += 9_000
        assert not isinstance(store.run(c.GetDocument("s", 1)), GibramError), "reading counts as a use"
    store.clock.ms += 10_001
    store.sweep()
    assert isinstance(store.run(c.GetSession("s")), SessionNotFoundError)
    store.close()


def test_nothing_expires_while_the_clocks_disagree() -> None:
    store = OwnedStore(durable=False)
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    store.run(c.SetSessionTtl("s", ttl_s=10))
    store.clock.steady_ms = lambda: 1_700_000_000_000  # type: ignore[method-assign]
    store.clock.ms += 3_600_000
    store.sweep()
    assert not isinstance(store.run(c.GetSession("s")), GibramError)
    health = store.run(c.GetHealth()).components  # type: ignore[union-attr]
    assert health["expiry"] == "paused"
    assert "disagree" in health["durable_state_reason"]


def test_quotas_and_the_cap_on_sessions() -> None:
    store = OwnedStore(
        durable=False,
        flags={
            "security.max_session_documents": "2",
            "security.max_session_entities": "1",
            "security.max_memory_bytes": "2000",
            "security.max_sessions": "2",
        },
    )
    assert isinstance(store.run(c.AddDocuments("s", (NewDocument("a"), NewDocument("b")))), Created)
    third = store.run(c.AddDocuments("s", (NewDocument("c"),)))
    assert isinstance(third, LimitExceededError)
    assert "atomic bulk documents failed at index 0: document quota exceeded" in str(third)
    store.run(c.AddEntities("s", (NewEntity("e", "e"),)))
    assert "entity quota exceeded" in str(store.run(c.AddEntities("s", (NewEntity("f", "f"),), bulk=False)))
    text = str(store.run(c.UpdateEntityDescription("s", 1, "x" * 2_000)))
    assert "memory quota exceeded" in text
    store.run(c.UpdateEntityDescription("s", 1, "x" * 1_200))
    assert store.run(c.GetHealth()).components["resource_pressure"] == "warning"  # type: ignore[union-attr]
    store.run(c.AddDocuments("t", (NewDocument("a"),)))
    assert "max sessions limit reached (2)" in str(store.run(c.AddDocuments("u", (NewDocument("a"),))))
    # One whose time is over takes nothing from anybody.
    store.run(c.SetSessionTtl("s", ttl_s=1))
    store.clock.ms += 2_000
    assert "s" in store.state.sessions
    assert store.run(c.GetHealth()).components["resource_pressure"] == "ok"  # type: ignore[union-attr]


def test_the_memory_of_all_sessions_together() -> None:
    empty = session_bytes("a")
    room = 20_000 + 4 * empty
    store = OwnedStore(durable=False, flags={"security.max_total_memory_bytes": str(room)})
    assert store.run(c.GetHealth()).components["memory_bytes"] == "0"  # type: ignore[union-attr]
    document = NewDocument("d", "x" * 1_000)
    for name in ("a", "b", "c"):
        assert isinstance(store.run(c.AddDocuments(name, (document,))), Created)
        assert isinstance(store.run(c.AddEntities(name, (NewEntity("e", "e"), NewEntity("f", "f")))), Created)
        assert isinstance(store.run(c.AddTextUnits(name, (NewTextUnit("t", 1, "x" * 1_000),))), Created)
    long = "x" * room
    for command in (
        c.AddDocuments("a", (NewDocument("e", long),)),
        c.AddTextUnits("b", (NewTextUnit("u", 1, long),)),
        c.AddEntities("c", (NewEntity("g", "g", description=long),)),
        c.AddRelationships("a", (NewRelationship(1, 2, long),)),
        c.AddCommunity("b", NewCommunity(long, (1,))),
        c.UpdateEntityDescription("c", 1, long),
        c.AddDocuments("new", (NewDocument("e", long),)),
    ):
        refused = store.run(command)
        assert isinstance(refused, LimitExceededError), command
        assert "store memory quota exceeded: the store has no memory left for this" in str(refused)
    assert store.run(c.GetHealth()).components["resource_pressure"] == "ok"  # type: ignore[union-attr]
    free = room - int(store.run(c.GetHealth()).components["memory_bytes"])  # type: ignore[union-attr]
    assert isinstance(store.run(c.AddDocuments("d", (NewDocument("d", "x" * (free - empty - 500)),))), Created)
    health = store.run(c.GetHealth()).components  # type: ignore[union-attr]
    assert health["resource_pressure"] == "critical"
    assert "uses much of the memory that it may (critical)" in health["durable_state_reason"]
    links = [store.run(c.LinkTextUnitEntity("a", 1, entity_id)) for entity_id in (1, 2)]
    assert not any(isinstance(each, LimitExceededError) for each in links)
    assert isinstance(store.run(c.DeleteSession("d")), Done), "who frees memory is not refused"
    assert isinstance(store.run(c.SetSessionTtl("a", 1)), Done)
    store.clock.ms += 5_000
    held = int(store.run(c.GetHealth()).components["memory_bytes"])  # type: ignore[union-attr]
    fits = room - held + 1_000  # only because the session whose place it takes frees more than 1,000
    assert isinstance(store.run(c.AddDocuments("a", (NewDocument("d", "x" * fits),))), Created)
    assert held < int(store.run(c.GetHealth()).components["memory_bytes"]) <= room  # type: ignore[union-attr]


def test_a_session_weighs_something_and_so_do_its_name_and_its_tokens() -> None:
    store = OwnedStore(durable=False, flags={"security.max_total_memory_bytes": "1000000"})
    kept = 0
    while isinstance(answer := store.run(c.AddEntities("x" * 50_000 + str(kept), ())), Created):
        kept += 1
    assert isinstance(answer, LimitExceededError)
    assert "store memory quota exceeded" in str(answer)
    assert kept == 1_000_000 // session_bytes("x" * 50_001)

    store = OwnedStore(durable=False, flags={"security.max_memory_bytes": "16000"})
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    touched = 0
    while isinstance(answer := store.run(c.TouchSession("s", token=b"%d" % touched)), Done):
        touched += 1
    assert isinstance(answer, LimitExceededError)
    assert touched == (16_000 - 129) // KEPT_TOKEN_BYTES
    assert isinstance(store.run(c.SetSessionTtl("s", ttl_s=60, token=b"end")), Done), "it can be told when to end"
    assert isinstance(store.run(c.DeleteDocument("s", 1, token=b"out")), Done), "who is full can still make room"


def test_sessions_whose_time_is_over_keep_no_new_one_out() -> None:
    store = OwnedStore(flags={"security.max_sessions": "2"})
    for name in ("s", "t"):
        store.run(c.AddDocuments(name, (NewDocument("a"),)))
        store.run(c.SetSessionTtl(name, ttl_s=1))
    assert isinstance(store.run(c.AddDocuments("u", (NewDocument("a"),))), LimitExceededError)
    store.clock.ms += 1_001
    assert isinstance(store.run(c.AddDocuments("u", (NewDocument("a"),))), Created)
    assert set(store.state.sessions) == {"u"}
    store.close()


@pytest.mark.parametrize(
    "shown_by", [c.GetSession("s"), c.GetDocuments("s", (1,)), c.ListSessions(), c.TouchSession("s")]
)
def test_a_session_that_was_said_to_be_over_does_not_come_back(shown_by: c.Command) -> None:
    store = OwnedStore()
    store.run(c.AddDocuments("s", (NewDocument("a"),)))
    store.run(c.SetSessionTtl("s", idle_ttl_s=10))
    store.clock.ms += 9_000
    store.cut_the_power(1)
    store.clock.ms += 9_000
    assert not isinstance(store.run(c.TouchSession("s")), GibramError), "idle time counts from serving"
    store.clock.ms += 10_001
    store.run(shown_by)
    store.cut_the_power(2)
    assert isinstance(store.run(c.GetSession("s")), SessionExpiredError)
    store.clock.ms -= 3_600_000
    store.cut_the_power(3)
    assert isinstance(store.run(c.GetSession("s")), SessionExpiredError)
    store.sweep()
    assert isinstance(store.run(c.GetSession("s")), SessionNotFoundError)
    store.close()


def test_on_a_full_disk_the_end_of_a_session_is_told_all_the_same() -> None:
    store = OwnedStore()
    text = "x" * 1_000_000
    answer = store.run(c.AddDocuments("s", (NewDocument("a"),)))
    store.run(c.SetSessionTtl("s", ttl_s=10))
    store.disk.free_bytes = 0
    number = 0
    while not isinstance(answer, DiskFullError):
        number += 1
        answer = store.run(c.AddTextUnits("s", (NewTextUnit(f"t{number}", 1, text),)))
    while not isinstance(answer, GibramError) or number < 10_000:
        number += 1  # until not even a touch has room
        answer = store.run(c.TouchSession("s"))
        if isinstance(answer, DiskFullError):
            break
    assert isinstance(answer, DiskFullError)
    store.clock.ms += 10_001
    assert isinstance(store.run(c.GetSession("s")), SessionExpiredError)
    assert store.run(c.ListSessions()) == SessionPage(())
    store.disk.free_bytes = None
    store.close()


def test_sessions_are_listed_by_name_counted_and_deleted(store: Store) -> None:
    for name in ("b", "a", "c"):
        store.session(name).add_entities([NewEntity("e", name)])
    assert [each.session_id for each in store.sessions()] == ["a", "b", "c"]
    info = store.info()
    assert (info.session_count, info.entity_count, info.vector_dim) == (3, 3, 8)
    store.session("b").delete()
    assert [each.session_id for each in store.sessions()] == ["a", "c"]
    assert store.session("b").add_entity("e", "again") == 1


def named(page: SessionPage) -> list[str]:
    return [each.session_id for each in page.items]


def test_sessions_are_listed_page_by_page_in_an_order_that_stays(store: Store) -> None:
    names = ["B", "a", "a!", "a-1", "a-2", "b", "é", "\U0001f600"]
    for name in reversed(names):
        store.session(name).add_entity("e", "e")
    everything = store.execute(c.ListSessions())
    assert (named(everything), everything.next_cursor) == (names, ""), "no page is asked for: all of them"
    for limit in range(1, len(names) + 2):
        found: list[str] = []
        cursor = ""
        while True:
            page = store.execute(c.ListSessions(cursor, limit))
            assert len(page.items) <= limit
            found += named(page)
            if not page.next_cursor:
                break
            assert page.next_cursor == cursor or page.next_cursor == found[-1]
            cursor = page.next_cursor
        assert found == names, limit
    assert named(store.execute(c.ListSessions("a-1"))) == ["a-2", "b", "é", "\U0001f600"]
    assert named(store.execute(c.ListSessions("a-", -1))) == ["a-1", "a-2", "b", "é", "\U0001f600"]
    store.session("a-1").delete()
    store.session("a-0").add_entity("e", "e")
    store.session("a-3").add_entity("e", "e")
    page = store.execute(c.ListSessions("a-1", 2))
    assert (named(page), page.next_cursor) == (["a-2", "a-3"], "a-3"), "the cursor's own session need not be there"


def test_the_client_walks_every_page(store: Store) -> None:
    names = [f"s{number:04}" for number in range(SESSIONS_PER_PAGE + 3)]
    store.execute_many([c.AddDocuments(name, (NewDocument("d"),), bulk=False) for name in names])
    assert [each.session_id for each in store.sessions()] == names


def test_a_page_of_sessions_holds_those_of_a_scope_and_none_whose_time_is_over() -> None:
    store = OwnedStore(durable=False)
    for name in ("a-1", "a-2", "a-3", "a-4", "b", "c", "d"):
        store.run(c.AddDocuments(name, (NewDocument("d"),)))
    store.run(c.SetSessionTtl("a-2", ttl_s=1))
    store.run(c.SetSessionTtl("c", ttl_s=1))
    store.clock.ms += 1_001
    scope = SessionScope(frozenset({"c", "d"}), ("a-",))
    for cursor, limit, expected, following in (
        ("", 0, ["a-1", "a-3", "a-4", "d"], ""),
        ("", 2, ["a-1", "a-3"], "a-3"),
        ("a-3", 2, ["a-4", "d"], ""),
        ("a-4", 1, ["d"], ""),
        ("b", 1, ["d"], ""),
        ("d", 1, [], ""),
    ):
        page = store.run(c.ListSessions(cursor, limit, scope))
        assert isinstance(page, SessionPage)
        assert (named(page), page.next_cursor) == (expected, following), (cursor, limit)


def test_health_has_every_field_in_both_modes() -> None:
    for durable in (True, False):
        store = OwnedStore(durable=durable)
        health = store.run(c.GetHealth())
        assert set(health.components) >= HEALTH_FIELDS  # type: ignore[union-attr]
        assert all(isinstance(value, str) for value in health.components.values())  # type: ignore[union-attr]
        assert health.status == "ok"  # type: ignore[union-attr]
        assert health.components["empty_seed_indexes"] == "textunit,entity,community"  # type: ignore[union-attr]
        assert health.components["durable_state"] == "serving"  # type: ignore[union-attr]
        assert health.components["session_store_mode"] == ("durable" if durable else "ephemeral")  # type: ignore[union-attr]
        store.close()


def test_how_many_sessions_of_a_scope_there_are_is_known_whatever_becomes_of_them() -> None:
    store = OwnedStore(durable=False)
    scope = SessionScope(frozenset(), ("a-",))

    def add(name: str) -> None:
        store.run(c.AddDocuments(name, (NewDocument("d"),)))

    def may_begin(most: int) -> bool:
        return store.database.may_begin("a-new", scope, most)

    add("a-0")
    assert (may_begin(1), may_begin(2)) == (False, True)
    for number in range(1, 50):
        add(f"a-{number}")
        add(f"b-{number}")
        if number > 2:
            store.run(c.DeleteSession(f"a-{number}"))
    assert (may_begin(3), may_begin(4)) == (False, True)
    assert store.database.may_begin("a-1", scope, 1), "it is there"
    assert store.database._names_in == {scope: {"a-0", "a-1", "a-2"}}, "and not what has been"
    store.run(c.SetSessionTtl("a-1", 1, 0))
    store.clock.ms += 2_000
    assert (may_begin(2), may_begin(3)) == (False, True), "one whose time is over is none"
    add("a-1")
    assert (may_begin(3), may_begin(4)) == (False, True), "but it may begin anew"
    brought = OwnedStore(durable=False)
    for name in ("a-x", "a-y", "b-x"):
        brought.run(c.AddDocuments(name, (NewDocument("d"),)))
    store.database.pause()
    store.database.resume(brought.state)
    assert (may_begin(2), may_begin(3)) == (False, True), "what a restore has brought counts, and nothing else"
    store.close()
