"""The store does what a few dictionaries do, for every sequence; restarts, kills and power cuts are moves like any other."""

from __future__ import annotations

from collections import deque
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.owned_store import VECTOR_DIM, OwnedStore

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.errors import (
    AlreadyExistsError,
    GibramError,
    NotFoundError,
    SessionExpiredError,
    SessionNotFoundError,
    StillReferencedError,
)
from gibramdb.model import commands as c
from gibramdb.model.mutations import Mutation
from gibramdb.model.results import SessionInfo

SESSIONS = st.sampled_from(["a", "b", "c"])
NAMES = st.sampled_from(["n1", "n2", "n3", "n4", "n5", "n6"])
IDS = st.integers(1, 6)
TYPES = st.sampled_from(["knows", "owns"])
VECTORS = st.one_of(
    st.just(b""), st.lists(st.floats(-1, 1, width=32), min_size=VECTOR_DIM, max_size=VECTOR_DIM).map(tuple)
)
KINDS = ("documents", "textunits", "entities", "relationships", "communities")


@dataclass
class ModelSession:
    """What one session holds, as plainly as can be."""

    created_ms: int
    used_ms: int
    read_ms: int = 0
    ttl_ms: int = 0
    idle_ttl_ms: int = 0
    is_ended: bool = False
    documents: dict[int, str] = field(default_factory=dict)
    textunits: dict[int, tuple[str, int, bytes]] = field(default_factory=dict)
    entities: dict[int, tuple[str, str, bytes]] = field(default_factory=dict)
    relationships: dict[int, tuple[int, int, str]] = field(default_factory=dict)
    communities: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    links: list[tuple[int, int]] = field(default_factory=list)
    next_ids: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 1))

    def give(self, kind: str) -> int:
        id = self.next_ids[kind]
        self.next_ids[kind] += 1
        return id


class StoreMachine(RuleBasedStateMachine):
    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.store = OwnedStore(durable=self.durable)
        self.sessions: dict[str, ModelSession] = {}
        self.serving_ms = self.store.clock.ms

    def teardown(self) -> None:
        self.store.close()

    # --- what the model says of sessions ------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        return self.store.clock.ms

    def over(self, session: ModelSession) -> bool:
        if session.is_ended:
            return True
        if session.ttl_ms and session.created_ms + session.ttl_ms < self.now:
            return True
        return (
            bool(session.idle_ttl_ms)
            and max(session.used_ms, session.read_ms, self.serving_ms) + session.idle_ttl_ms < self.now
        )

    def dead(self, name: str) -> type[GibramError] | None:
        session = self.sessions.get(name)
        if session is None:
            return SessionNotFoundError
        return SessionExpiredError if self.over(session) else None

    def candidate(self, name: str) -> ModelSession:
        """The live session, or the one that a write would begin."""
        session = self.sessions.get(name)
        return ModelSession(self.now, self.now) if session is None or self.over(session) else session

    def written(self, name: str, session: ModelSession) -> None:
        session.used_ms = self.now
        self.sessions[name] = session

    def tell_ends(self, name: str) -> None:
        """From the first answer that shows it on, a session's end is kept, whatever happens to the clock or the store."""
        session = self.sessions.get(name)
        if session is not None and self.over(session) and not session.is_ended:
            assert type(self.store.run(c.GetSession(name))) is SessionExpiredError
            session.is_ended = True

    def run(self, command: c.Command, refusal: type[GibramError] | None) -> Any:
        self.tell_ends(getattr(command, "session_id", ""))
        before = self.store.digest() if refusal else ""
        answer = self.store.run(command)
        if refusal is None:
            assert not isinstance(answer, GibramError), answer
        else:
            assert type(answer) is refusal, f"expected {refusal.__name__}, got {answer!r}"
            assert self.store.digest() == before, "a refused command changed something"
        return answer

    # --- adding -------------------------------------------------------------------------------------------------------

    @rule(name=SESSIONS, external_id=NAMES)
    def add_document(self, name: str, external_id: str) -> None:
        session = self.candidate(name)
        refusal = AlreadyExistsError if external_id in session.documents.values() else None
        answer = self.run(c.AddDocuments(name, (NewDocument(external_id),), bulk=False), refusal)
        if refusal is None:
            session.documents[session.give("documents")] = external_id
            assert answer.ids == (session.next_ids["documents"] - 1,)
            self.written(name, session)

    @rule(name=SESSIONS, external_id=NAMES, document=IDS, vector=VECTORS)
    def add_textunit(self, name: str, external_id: str, document: int, vector: Any) -> None:
        session = self.candidate(name)
        refusal: type[GibramError] | None = None
        if document not in session.documents:
            refusal = NotFoundError
        elif external_id in {each[0] for each in session.textunits.values()}:
            refusal = AlreadyExistsError
        new = NewTextUnit(external_id, document, "text", vector)
        self.run(c.AddTextUnits(name, (new,), bulk=False), refusal)
        if refusal is None:
            session.textunits[session.give("textunits")] = (external_id, document, new.vector)
            self.written(name, session)

    @rule(name=SESSIONS, titles=st.lists(NAMES, max_size=3), vector=VECTORS)
    def add_entities(self, name: str, titles: list[str], vector: Any) -> None:
        session = self.candidate(name)
        taken = {each[0] for each in session.entities.values()}
        clash = len(set(titles)) < len(titles) or taken & set(titles)
        news = tuple(NewEntity(title, title, embedding=vector) for title in titles)
        answer = self.run(c.AddEntities(name, news), AlreadyExistsError if clash else None)
        if not clash:
            ids = tuple(session.give("entities") for _ in news)
            session.entities.update({id: (new.external_id, "", new.vector) for id, new in zip(ids, news, strict=True)})
            assert answer.ids == ids
            self.written(name, session)

    @rule(name=SESSIONS, ends=st.tuples(IDS, IDS), type_=TYPES)
    def add_relationship(self, name: str, ends: tuple[int, int], type_: str) -> None:
        session = self.candidate(name)
        refusal: type[GibramError] | None = None
        if not set(ends) <= set(session.entities):
            refusal = NotFoundError
        elif (*ends, type_) in session.relationships.values():
            refusal = AlreadyExistsError
        self.run(c.AddRelationships(name, (NewRelationship(*ends, type_),)), refusal)
        if refusal is None:
            session.relationships[session.give("relationships")] = (*ends, type_)
            self.written(name, session)

    @rule(name=SESSIONS, entities=st.lists(IDS, max_size=3), relationships=st.lists(IDS, max_size=2))
    def add_community(self, name: str, entities: list[int], relationships: list[int]) -> None:
        session = self.candidate(name)
        missing = not (set(entities) <= set(session.entities) and set(relationships) <= set(session.relationships))
        new = NewCommunity("by hand", tuple(entities), tuple(relationships))
        self.run(c.AddCommunity(name, new), NotFoundError if missing else None)
        if not missing:
            session.communities[session.give("communities")] = (tuple(entities), tuple(relationships))
            self.written(name, session)

    # --- changing and deleting ----------------------------------------------------------------------------------------

    @rule(name=SESSIONS, textunit=IDS, entity=IDS)
    def link(self, name: str, textunit: int, entity: int) -> None:
        session = self.candidate(name)
        refusal = self.dead(name)
        if refusal is None and (textunit not in session.textunits or entity not in session.entities):
            refusal = NotFoundError
        self.run(c.LinkTextUnitEntity(name, textunit, entity), refusal)
        if refusal is None and (textunit, entity) not in session.links:
            session.links.append((textunit, entity))
            self.written(name, session)

    @rule(name=SESSIONS, textunit=IDS, entity=IDS)
    def unlink(self, name: str, textunit: int, entity: int) -> None:
        session = self.candidate(name)
        refusal = self.dead(name)
        if refusal is None and (textunit not in session.textunits or entity not in session.entities):
            refusal = NotFoundError
        self.run(c.UnlinkTextUnitEntity(name, textunit, entity), refusal)
        if refusal is None and (textunit, entity) in session.links:
            session.links.remove((textunit, entity))
            self.written(name, session)

    @rule(name=SESSIONS, entity=IDS, text=NAMES, vector=VECTORS)
    def describe(self, name: str, entity: int, text: str, vector: Any) -> None:
        refusal = self.dead(name)
        session = self.candidate(name)
        if refusal is None and entity not in session.entities:
            refusal = NotFoundError
        command = c.UpdateEntityDescription(name, entity, text, vector)
        self.run(command, refusal)
        if refusal is None:
            title, _, old = session.entities[entity]
            session.entities[entity] = (title, text, bytes(command.embedding) or old)  # type: ignore[arg-type]
            self.written(name, session)

    @rule(name=SESSIONS, kind=st.sampled_from(KINDS), id=IDS)
    def delete(self, name: str, kind: str, id: int) -> None:
        refusal = self.dead(name)
        session = self.candidate(name)
        objects: dict[int, Any] = getattr(session, kind)
        referenced = {
            "documents": any(each[1] == id for each in session.textunits.values()),
            "textunits": any(link[0] == id for link in session.links),
            "entities": any(link[1] == id for link in session.links)
            or any(id in each[:2] for each in session.relationships.values())
            or any(id in each[0] for each in session.communities.values()),
            "relationships": any(id in each[1] for each in session.communities.values()),
            "communities": False,
        }[kind]
        if refusal is None and id not in objects:
            refusal = NotFoundError
        elif refusal is None and referenced:
            refusal = StillReferencedError
        command = {
            "documents": c.DeleteDocument,
            "textunits": c.DeleteTextUnit,
            "entities": c.DeleteEntity,
            "relationships": c.DeleteRelationship,
            "communities": c.DeleteCommunity,
        }[kind](name, id)
        self.run(command, refusal)
        if refusal is None:
            del objects[id]
            self.written(name, session)

    @rule(name=SESSIONS, kind=st.sampled_from(KINDS[:-1]), id=IDS)
    def cascade_delete(self, name: str, kind: str, id: int) -> None:
        refusal = self.dead(name)
        session = self.candidate(name)
        if refusal is None and id not in getattr(session, kind):
            refusal = NotFoundError
        command = {
            "documents": c.CascadeDeleteDocument,
            "textunits": c.CascadeDeleteTextUnit,
            "entities": c.CascadeDeleteEntity,
            "relationships": c.CascadeDeleteRelationship,
        }[kind](name, id)
        self.run(command, refusal)
        if refusal is not None:
            return
        units = {id} if kind == "textunits" else set()
        if kind == "documents":
            units = {unit for unit, each in session.textunits.items() if each[1] == id}
            del session.documents[id]
        edges = {id} if kind == "relationships" else set()
        entities = {id} if kind == "entities" else set()
        if entities:
            edges = {edge for edge, each in session.relationships.items() if id in each[:2]}
            del session.entities[id]
        session.textunits = {unit: each for unit, each in session.textunits.items() if unit not in units}
        session.relationships = {edge: each for edge, each in session.relationships.items() if edge not in edges}
        session.links = [link for link in session.links if link[0] not in units and link[1] not in entities]
        session.communities = {
            community: (tuple(e for e in each[0] if e not in entities), tuple(r for r in each[1] if r not in edges))
            for community, each in session.communities.items()
        }
        self.written(name, session)

    @rule(name=SESSIONS)
    def delete_session(self, name: str) -> None:
        refusal = None if name in self.sessions else SessionNotFoundError
        self.run(c.DeleteSession(name), refusal)
        self.sessions.pop(name, None)

    # --- time ---------------------------------------------------------------------------------------------------------

    @rule(name=SESSIONS, ttl_s=st.sampled_from([-1, 0, 50]), idle_ttl_s=st.sampled_from([-1, 0, 20]))
    def set_ttl(self, name: str, ttl_s: int, idle_ttl_s: int) -> None:
        refusal = self.dead(name)
        self.run(c.SetSessionTtl(name, ttl_s, idle_ttl_s), refusal)
        if refusal is None:
            session = self.sessions[name]
            session.ttl_ms = max(ttl_s, 0) * 1000 if ttl_s else session.ttl_ms
            session.idle_ttl_ms = max(idle_ttl_s, 0) * 1000 if idle_ttl_s else session.idle_ttl_ms
            self.written(name, session)

    @rule(name=SESSIONS)
    def touch(self, name: str) -> None:
        refusal = self.dead(name)
        self.run(c.TouchSession(name), refusal)
        if refusal is None:
            self.written(name, self.sessions[name])

    @rule(name=SESSIONS)
    def read(self, name: str) -> None:
        self.tell_ends(name)
        refusal = self.dead(name)
        answer = self.store.run(c.GetSession(name))  # may note in the log that it was read, so the digest may change
        assert (type(answer) is refusal) if refusal else isinstance(answer, SessionInfo)
        if refusal is None:
            self.sessions[name].read_ms = self.now

    @rule(seconds=st.sampled_from([1, 10, 30]))
    def time_passes(self, seconds: int) -> None:
        self.store.clock.ms += seconds * 1000

    @rule()
    def sweep(self) -> None:
        self.store.sweep()
        self.sessions = {name: session for name, session in self.sessions.items() if not self.over(session)}
        assert set(self.store.state.sessions) == set(self.sessions)

    # --- restarts -----------------------------------------------------------------------------------------------------

    def settled(self) -> str:
        """The digest, when nothing is on its way to the log: a note that a session was read holds up no answer about
        that session, and may be lost, but a listing waits for it."""
        self.store.run(c.ListSessions())
        for session in self.sessions.values():
            session.is_ended |= self.over(session)
        return self.store.digest()

    def restarted(self, before: str) -> None:
        self.serving_ms = self.now
        assert self.store.digest() == before, "a start gave another state"

    @precondition(lambda self: self.durable)
    @rule()
    def stop_and_start(self) -> None:
        before = self.settled()
        self.store.reopen()
        self.restarted(before)

    @precondition(lambda self: self.durable)
    @rule(seed=st.integers(0, 2**16))
    def power_cut(self, seed: int) -> None:
        before = self.settled()
        self.store.cut_the_power(seed)
        self.restarted(before)

    @precondition(lambda self: self.durable)
    @rule()
    def kill(self) -> None:
        before = self.settled()
        self.store.kill()
        self.restarted(before)

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        held = self.store.state.sessions
        assert set(held) == set(self.sessions)
        for name, model in self.sessions.items():
            session = held[name]
            assert {each.id: each.external_id for each in session.documents} == model.documents
            assert {
                each.id: (each.external_id, each.document_id, session.textunit_vectors.get(each.id))
                for each in session.textunits
            } == model.textunits
            assert {
                each.id: (each.external_id, each.description, session.entity_vectors.get(each.id))
                for each in session.entities
            } == model.entities
            assert {
                each.id: (each.source_id, each.target_id, each.type) for each in session.relationships
            } == model.relationships
            assert {
                each.id: (each.entity_ids, each.relationship_ids) for each in session.communities
            } == model.communities
            assert list(session.links) == model.links
            assert (session.created_at_ms, session.touched_at_ms) == (model.created_ms, model.used_ms)
            assert (session.ttl_ms, session.idle_ttl_ms) == (model.ttl_ms, model.idle_ttl_ms)
            assert {kind: getattr(session, kind).next_id for kind in KINDS} == model.next_ids

    @invariant()
    def what_is_derived_is_what_a_rebuild_gives(self) -> None:
        for session in self.store.state.sessions.values():
            followed = {name: copy(getattr(session, name)) for name in DERIVED}
            deque(session.rebuild(), 0)
            assert {name: getattr(session, name) for name in DERIVED} == followed


DERIVED = (
    "communities_by_entity",
    "communities_by_external_id",
    "communities_by_relationship",
    "documents_by_external_id",
    "entities_by_external_id",
    "entities_by_textunit",
    "entities_by_title",
    "incoming",
    "memory_bytes",
    "outgoing",
    "relationships_by_external_id",
    "relationships_by_triple",
    "textunits_by_document",
    "textunits_by_entity",
    "textunits_by_external_id",
    "tokens_by_value",
)


class EphemeralMachine(StoreMachine):
    durable = False


CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.mark.parametrize("machine", [StoreMachine, EphemeralMachine])
def test_the_store_follows_the_model(machine: type[StoreMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=CHECKS),
    )


@pytest.mark.sweep
def test_the_store_follows_the_model_for_long(capsys: pytest.CaptureFixture[str]) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(max_examples=1_000, stateful_step_count=60, deadline=None, suppress_health_check=CHECKS),
    )


def test_every_slot_of_a_session_is_canonical_derived_or_ephemeral() -> None:
    from gibramdb.core.state import SessionState

    canonical = {
        "session_id", "incarnation", "created_at_ms", "touched_at_ms", "read_noted_at_ms", "ttl_ms", "idle_ttl_ms", "is_ended",
        "documents", "textunits", "entities", "relationships", "communities", "links", "tokens",
        "textunit_vectors", "entity_vectors", "community_vectors",
    }  # fmt: skip
    assert set(SessionState.__slots__) == canonical | set(DERIVED) | {"last_lsn", "changed_lsn", "read_at_ms"}


def test_tables_of_the_engine_have_no_gaps() -> None:
    from typing import get_args

    from gibramdb.core.apply import _APPLY
    from gibramdb.core.decide import _DECIDE
    from gibramdb.database.database import Database
    from gibramdb.database.reads import READS
    from gibramdb.model import mutations
    from gibramdb.wire.codec import TABLE

    def leaves(base: type[c.Command]) -> set[type[c.Command]]:
        children: list[type[c.Command]] = base.__subclasses__()
        return {leaf for child in children for leaf in (leaves(child) or {child})}

    in_place = {
        mutations.SessionDeleted, mutations.SessionExpired, mutations.SessionReadNoted, mutations.SessionEnded,
        mutations.WrittenOnce, mutations.WrittenOnceInPlace,
    }  # fmt: skip
    assert set(_APPLY) | in_place == set(get_args(Mutation))
    classes = leaves(c.Command)
    assert {each.handler for each in classes} == set(Database._HANDLERS)
    assert {each for each in classes if each.handler == "write"} == set(_DECIDE)
    in_the_database = {c.GetInfo, c.Query, c.Explain}
    assert {each for each in classes if each.handler == "read"} == set(READS) | in_the_database
    assert {row.handler for row in TABLE} == set(Database._HANDLERS)
