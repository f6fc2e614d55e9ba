"""What holds for every change: decided means applicable, refused means untouched, replayed means the same."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.write_commands import ANY_WRITE, VECTOR_DIM, WRITES

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.core.apply import apply
from gibramdb.core.decide import _DECIDE, decide
from gibramdb.core.digest import state_digest
from gibramdb.core.limits import KEPT_TOKEN_BYTES, SESSION_BYTES, TOKEN_AGE_MS_MAX, TOKEN_BYTES_MAX, Limits
from gibramdb.core.state import DERIVED as REBUILT
from gibramdb.core.state import SessionState, StoreState
from gibramdb.core.table import BLOCK_RECORDS, Table
from gibramdb.errors import (
    CallerError,
    InvalidArgumentError,
    LimitExceededError,
    SessionNotFoundError,
    StillReferencedError,
)
from gibramdb.model import commands as c
from gibramdb.model.ids import Lsn
from gibramdb.model.mutations import (
    IN_SNAPSHOTS_ONLY,
    CascadeDeleted,
    EntityDescribed,
    Mutation,
    SessionDeleted,
    SessionEnded,
    SessionReadNoted,
    WrittenOnce,
    WrittenOnceInPlace,
)
from gibramdb.storage import record

CANONICAL_OR_EPHEMERAL = {
    "session_id", "incarnation", "created_at_ms", "touched_at_ms", "read_noted_at_ms", "ttl_ms", "idle_ttl_ms", "is_ended",
    "documents", "textunits", "entities", "relationships", "communities", "links", "tokens", "textunit_vectors",
    "entity_vectors", "community_vectors", "last_lsn", "changed_lsn", "read_at_ms",
}  # fmt: skip
DERIVED = sorted(set(SessionState.__slots__) - CANONICAL_OR_EPHEMERAL)
TOKENS = st.sampled_from([b"t1", b"t2", b"t3", b"t4"])
MARKED = st.builds(
    lambda command, token: msgspec.structs.replace(command, token=token),
    ANY_WRITE.filter(lambda command: not isinstance(command, c.ExpireSession | c.ReplaceCommunities)),
    TOKENS,
)
STEPS = st.lists(st.tuples(ANY_WRITE | MARKED, st.sampled_from([0, 0, 0, 1, 3_000])), min_size=30, max_size=60)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
QUOTAS = Limits(
    content_bytes_max=12,
    sessions_max=2,
    session_documents_max=4,
    session_entities_max=6,
    session_relationships_max=4,
    session_memory_bytes_max=4_000,
    total_memory_bytes_max=6_000 + 2 * SESSION_BYTES,
)


class Run:
    """A state, the records of everything that has happened to it, and the time."""

    def __init__(self, limits: Limits) -> None:
        self.state = StoreState(VECTOR_DIM)
        self.records: list[bytes] = []
        self.limits = limits
        self.now_ms = 1_000_000

    def digest(self) -> str:
        return state_digest(self.state.sessions.values())[0]

    def take(self, command: Any) -> CallerError | None:
        session = self.state.sessions.get(command.session_id)
        if isinstance(command, c.ReplaceCommunities) and session is not None and command.incarnation:
            command = msgspec.structs.replace(command, incarnation=session.incarnation)
        before, sessions = self.digest(), set(self.state.sessions)
        try:
            mutation, _ = decide(self.state, command, self.now_ms, self.limits)
        except CallerError as refusal:
            assert (self.digest(), set(self.state.sessions)) == (before, sessions), (
                "a refused command changed something"
            )
            return refusal
        assert self.digest() == before, "deciding changed something"
        if mutation is not None:
            data, settled = record.settle(mutation)
            assert settled == mutation
            self.records.append(data)
            apply(self.state, settled, self.lsn)
        return None

    @property
    def lsn(self) -> Lsn:
        return Lsn(sum(map(len, self.records)))

    def replayed(self) -> StoreState:
        state = StoreState(VECTOR_DIM)
        lsn = 0
        for data in self.records:
            lsn += len(data)
            apply(state, record.decode(data), Lsn(lsn))
        return state


def derived(session: SessionState) -> dict[str, Any]:
    return {name: getattr(session, name) for name in DERIVED}


def filled() -> Run:
    """A session in which nothing is empty."""
    run = Run(Limits())
    vector = (1.0, 2.0, 3.0)
    for command in (
        c.AddDocuments("a", (NewDocument("d"), NewDocument("free"))),
        c.AddTextUnits("a", (NewTextUnit("t", 1, "x", vector), NewTextUnit("u", 1, "y"))),
        c.AddEntities("a", tuple(NewEntity(f"e{n}", f"e{n}", embedding=vector) for n in range(1, 5))),
        c.AddRelationships("a", (NewRelationship(1, 2, "r", external_id="r1"), NewRelationship(2, 1, "r"))),
        c.LinkTextUnitEntity("a", 1, 3),
        c.AddCommunity("a", NewCommunity("by hand", (1,), (1,), external_id="c1", embedding=vector)),
        c.ReplaceCommunities("a", Lsn(1), (c.DetectedCluster(0, (1, 2), -1, (1,)),), hierarchy=False),
        c.SetSessionTtl("a", 50, 20),
        c.TouchSession("a", token=b"touched"),
    ):
        assert run.take(command) is None
    return run


@pytest.mark.parametrize("limits", [Limits(), QUOTAS], ids=["without quotas", "with quotas"])
@SETTINGS
@given(steps=STEPS)
def test_whatever_happens_replaying_and_rebuilding_give_the_same(
    limits: Limits, steps: list[tuple[c.WriteCommand, int]]
) -> None:
    run = filled()
    run.limits = limits
    for command, pause_ms in steps:
        run.now_ms += pause_ms
        run.take(command)
    again = run.replayed()
    assert state_digest(again.sessions.values())[0] == run.digest()
    assert again.last_lsn == run.state.last_lsn
    assert again.memory_bytes == run.state.memory_bytes
    assert run.state.memory_bytes == sum(session.all_bytes for session in run.state.sessions.values())
    assert sorted(REBUILT) == DERIVED
    for name, session in run.state.sessions.items():
        followed = copy.deepcopy(derived(session))
        assert derived(again.sessions[name]) == followed
        deque(session.rebuild(), 0)
        assert derived(session) == followed


# One change of each kind that is right in the filled session; most kinds of change must show in the digest.
CHANGES: dict[type[c.WriteCommand], c.WriteCommand] = {
    c.AddDocuments: c.AddDocuments("a", (NewDocument("new"),)),
    c.AddTextUnits: c.AddTextUnits("a", (NewTextUnit("new", 1, ""),)),
    c.AddEntities: c.AddEntities("a", (NewEntity("new", "new"),)),
    c.AddRelationships: c.AddRelationships("a", (NewRelationship(3, 4),)),
    c.AddCommunity: c.AddCommunity("a", NewCommunity("new")),
    c.LinkTextUnitEntity: c.LinkTextUnitEntity("a", 2, 3),
    c.CascadeDeleteDocument: c.CascadeDeleteDocument("a", 1),
    c.CascadeDeleteTextUnit: c.CascadeDeleteTextUnit("a", 1),
    c.CascadeDeleteEntity: c.CascadeDeleteEntity("a", 1),
    c.CascadeDeleteRelationship: c.CascadeDeleteRelationship("a", 1),
    c.UnlinkTextUnitEntity: c.UnlinkTextUnitEntity("a", 1, 3),
    c.UpdateEntityDescription: c.UpdateEntityDescription("a", 1, "", (3.0, 2.0, 1.0)),
    c.DeleteDocument: c.DeleteDocument("a", 2),
    c.DeleteTextUnit: c.DeleteTextUnit("a", 2),
    c.DeleteEntity: c.DeleteEntity("a", 4),
    c.DeleteRelationship: c.DeleteRelationship("a", 2),
    c.DeleteCommunity: c.DeleteCommunity("a", 1),
    c.ReplaceCommunities: c.ReplaceCommunities("a", Lsn(1), (), hierarchy=False),
    c.DeleteSession: c.DeleteSession("a"),
    c.ExpireSession: c.ExpireSession("a"),
    c.SetSessionTtl: c.SetSessionTtl("a", -1),
    c.TouchSession: c.TouchSession("a"),
}


@pytest.mark.parametrize("command", CHANGES.values(), ids=lambda command: type(command).__name__)
def test_each_kind_of_change_shows_in_the_digest_and_comes_back_from_its_record(command: c.WriteCommand) -> None:
    run = filled()
    before = run.digest()
    run.now_ms += 60_000 if isinstance(command, c.ExpireSession) else 1
    assert run.take(command) is None
    assert run.digest() != before
    assert state_digest(run.replayed().sessions.values())[0] == run.digest()


def test_the_digest_tells_in_which_index_an_embedding_lies() -> None:
    digests = set()
    for kind in ("textunit", "entity", "community", "none"):
        run = Run(Limits())
        vectors = dict.fromkeys(("textunit", "entity", "community"), ()) | {kind: (1.0, 2.0, 3.0)}
        for command in (
            c.AddDocuments("a", (NewDocument("d"),)),
            c.AddTextUnits("a", (NewTextUnit("t", 1, "x", vectors["textunit"]),)),
            c.AddEntities("a", (NewEntity("e", "e", embedding=vectors["entity"]),)),
            c.AddCommunity("a", NewCommunity("by hand", embedding=vectors["community"])),
        ):
            assert run.take(command) is None
        digests.add(run.digest())
    assert len(digests) == 4


def test_a_cascade_of_an_older_log_which_names_the_communities_comes_to_the_same() -> None:
    run = filled()
    assert run.take(c.CascadeDeleteEntity("a", 1)) is None
    session = run.state.sessions["a"]
    cascade = record.decode(run.records[-1])
    assert isinstance(cascade, CascadeDeleted)
    assert [(each.entity_ids, each.relationship_ids) for each in session.communities] == [((), ()), ((2,), ())]
    run.records[-1] = record.encode(msgspec.structs.replace(cascade, communities=tuple(session.communities)))
    again = run.replayed().sessions["a"]
    assert state_digest([again])[0] == run.digest()
    assert derived(again) == derived(session)


@pytest.mark.parametrize("command", CHANGES.values(), ids=lambda command: type(command).__name__)
def test_a_write_with_a_token_is_carried_out_once_also_after_replay(command: c.WriteCommand) -> None:
    marked = msgspec.structs.replace(command, token=b"once")
    run = filled()
    if isinstance(command, c.ExpireSession | c.ReplaceCommunities):
        return  # the store's own
    mutation, first = decide(run.state, marked, run.now_ms, run.limits)
    assert run.take(marked) is None
    if isinstance(mutation, SessionDeleted):
        assert isinstance(run.take(marked), SessionNotFoundError), "what the session remembered went with it"
        return
    for state in (run.state, run.replayed()):
        before = state_digest(state.sessions.values())
        assert decide(state, marked, run.now_ms + 5, run.limits) == (None, first)
        assert state_digest(state.sessions.values()) == before
        other = c.AddDocuments("a", (NewDocument("quite another"),), token=b"once")
        with pytest.raises(InvalidArgumentError, match="token was used for another write in this session"):
            decide(state, other, run.now_ms, run.limits)
        anew, _ = decide(state, c.AddDocuments("b", (NewDocument("d"),), token=b"once"), run.now_ms, run.limits)
        assert anew is not None, "each session remembers its own"


def test_a_write_that_changes_nothing_or_is_refused() -> None:
    run = filled()
    linked = c.LinkTextUnitEntity("a", 1, 3, token=b"again")
    assert run.take(linked) is None
    kept = record.decode(run.records[-1])
    assert isinstance(kept, WrittenOnce)
    assert kept.change is None, "it was linked before"
    count = len(run.records)
    assert run.take(linked) is None
    assert len(run.records) == count
    refused = c.DeleteEntity("a", 1, token=b"refused")
    assert isinstance(run.take(refused), StillReferencedError)
    assert run.state.sessions["a"].kept_token(b"refused") is None, "it may be asked for again"
    for size in (TOKEN_BYTES_MAX, TOKEN_BYTES_MAX + 1):
        answer = run.take(c.TouchSession("a", token=bytes(size)))
        assert (answer is None) == (size == TOKEN_BYTES_MAX)


def test_tokens_are_forgotten_by_age_and_by_number_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gibramdb.core.limits.TOKENS_KEPT_MAX", 1_500)  # the figure, not the rule
    run = filled()
    run.take(c.SetSessionTtl("a", -1, -1))
    before = run.state.sessions["a"].memory_bytes
    for number in range(2_000):
        run.take(c.TouchSession("a", token=number.to_bytes(2)))
    for session in (run.state.sessions["a"], run.replayed().sessions["a"]):
        assert len(session.tokens) == len(session.tokens_by_value) == 1_500
        assert session.kept_token((499).to_bytes(2)) is None
        assert session.kept_token((500).to_bytes(2)) is not None
        assert session.memory_bytes == before + 1_499 * KEPT_TOKEN_BYTES, "one was there before"
    run.now_ms += TOKEN_AGE_MS_MAX
    run.take(c.TouchSession("a", token=b"just in time"))
    assert len(run.state.sessions["a"].tokens) == 1_500
    run.now_ms += 1
    run.take(c.TouchSession("a", token=b"too late for the others"))
    assert len(run.state.sessions["a"].tokens) == 2
    assert state_digest(run.replayed().sessions.values())[0] == run.digest()


@pytest.mark.parametrize("full", ["session_memory_bytes_max", "total_memory_bytes_max"])
def test_what_a_full_session_is_not_refused_does_not_fill_it_further(full: str) -> None:
    run = filled()
    for number in range(40):
        assert run.take(c.AddDocuments("a", (NewDocument(f"e{number}"),))) is None
        assert run.take(c.LinkTextUnitEntity("a", 2, 3)) is None
    session = run.state.sessions["a"]
    held = session.memory_bytes if full == "session_memory_bytes_max" else run.state.memory_bytes
    run.limits = msgspec.structs.replace(run.limits, **{full: held})
    most = session.memory_bytes
    assert isinstance(run.take(c.TouchSession("a", token=b"touch")), LimitExceededError)

    for number in range(50):
        ending = c.SetSessionTtl("a", 1_000 + number, token=b"end-%d" % number)
        assert run.take(ending) is None
        assert session.memory_bytes <= most
        count = len(run.records)
        assert run.take(ending) is None, "asked for again it is answered"
        assert len(run.records) == count, "and not done again"
    assert session.kept_token(b"touched") is None, "of the filled session"
    assert len(session.tokens) == 1
    assert run.take(c.UnlinkTextUnitEntity("a", 2, 3, token=b"unlink")) is None
    assert session.memory_bytes <= most
    for number in range(40):
        id = session.documents_by_external_id[f"e{number}"]
        deletion = c.CascadeDeleteDocument if number % 2 else c.DeleteDocument
        assert run.take(deletion("a", id, token=b"delete-%d" % number)) is None
        assert session.memory_bytes <= most
    assert session.kept_token(b"delete-39") is not None
    assert state_digest(run.replayed().sessions.values())[0] == run.digest()
    assert derived(run.replayed().sessions["a"]) == derived(session)


def test_a_full_session_remembers_its_last_marked_write_if_nothing_else() -> None:
    run = Run(Limits())
    run.take(c.AddDocuments("a", (NewDocument("d"),)))
    run.take(c.AddEntities("a", (NewEntity("e", "e"),)))
    session = run.state.sessions["a"]
    most = session.memory_bytes
    run.limits = msgspec.structs.replace(run.limits, session_memory_bytes_max=most)
    for number in range(3):
        assert run.take(c.SetSessionTtl("a", 1_000 + number, token=b"%d" % number)) is None
        assert session.kept_token(b"%d" % number) is not None
        assert session.memory_bytes == most + KEPT_TOKEN_BYTES
    entity = c.DeleteEntity("a", 1, token=b"entity")
    assert run.take(entity) is None
    assert session.kept_token(b"2") is not None, "what frees more than its token weighs takes no other's place"


def test_no_kind_of_change_is_left_out_here() -> None:
    assert set(CHANGES) == set(WRITES) == set(_DECIDE)
    made: set[type] = {SessionReadNoted, SessionEnded, WrittenOnce, WrittenOnceInPlace}
    for kind, command in CHANGES.items():
        run = filled()
        run.now_ms += 60_000 if kind is c.ExpireSession else 1
        run.take(command)
        made.add(type(record.decode(run.records[-1])))
    assert made | set(IN_SNAPSHOTS_ONLY) == set(get_args(Mutation)), "every mutation is decided by some command"


def test_a_note_of_reading_comes_back_and_delays_the_end() -> None:
    run = filled()
    note = SessionReadNoted("a", run.now_ms + 15_000, opens=False)
    data, settled = record.settle(note)
    run.records.append(data)
    before = run.state.sessions["a"].last_lsn
    apply(run.state, settled, run.lsn)
    assert run.state.sessions["a"].last_lsn == before, "no answer waits for it"
    again = run.replayed()
    assert state_digest(again.sessions.values())[0] == run.digest()
    for state in (run.state, again):
        assert not state.is_expired(state.sessions["a"], note.at_ms + 20_000)
        assert state.is_expired(state.sessions["a"], note.at_ms + 20_001)


def test_what_the_reader_would_refuse_is_refused_by_the_writer() -> None:
    for wrong in (None, 5, b"text", 1.5, "\ud800", ["text"]):
        mutation = EntityDescribed("a", 1, opens=False, id=1, description=wrong, vector=b"")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match=r"^this can not be stored: "):
            record.settle(mutation)
    for wrong in (True, 1.0, "1", 2**70, None):
        with pytest.raises(InvalidArgumentError, match=r"^this can not be stored: "):
            record.settle(EntityDescribed("a", 1, opens=False, id=wrong, description="", vector=b""))  # type: ignore[arg-type]


def test_ids_below_0_are_not_there_even_where_a_block_is_full() -> None:
    table: Table[int] = Table()
    for id in range(1, 2 * BLOCK_RECORDS):
        table.put(id, id)
    assert [table.get(id) for id in (-1, -BLOCK_RECORDS, -2 * BLOCK_RECORDS)] == [None] * 3
    assert -1 not in table
    assert table.after(-1, 3) == table.after(-5 * BLOCK_RECORDS, 3) == ([1, 2, 3], True)


def test_the_digest_covers_every_canonical_field() -> None:
    def spoilt(change: Any) -> str:
        run = filled()
        change(run.state.sessions["a"])
        return run.digest()

    def other_vector(index: Any) -> None:
        index.replace(1, bytes(12))

    scalars = ("incarnation", "created_at_ms", "touched_at_ms", "read_noted_at_ms", "ttl_ms", "idle_ttl_ms", "is_ended")
    tables = ("documents", "textunits", "entities", "relationships", "communities", "links", "tokens")
    changes: dict[str, Any] = {
        "session_id": lambda session: setattr(session, "session_id", "b"),
        **{name: lambda session, name=name: setattr(session, name, getattr(session, name) + 1) for name in scalars},
        **{name: lambda session, name=name: getattr(session, name).remove(1) for name in tables},
        **{
            f"{name}, next id": lambda session, name=name: setattr(getattr(session, name), "next_id", 99)
            for name in tables
        },
        "textunit_vectors": lambda session: other_vector(session.textunit_vectors),
        "entity_vectors": lambda session: other_vector(session.entity_vectors),
        "community_vectors": lambda session: other_vector(session.community_vectors),
    }
    assert {name for name in changes if "," not in name} == CANONICAL_OR_EPHEMERAL - {
        "last_lsn",
        "changed_lsn",
        "read_at_ms",
    }
    digests = {name: spoilt(change) for name, change in changes.items()}
    digests["unchanged"] = filled().digest()
    assert len(set(digests.values())) == len(digests)
