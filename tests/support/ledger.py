"""What a server has acknowledged, written down by its clients at the moment each answer is read, outside of the store."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field

from gibramdb import NewEntity, NewTextUnit, Session, Store
from gibramdb.errors import UnavailableError

VECTOR_DIM = 8
CHECK_CHUNK = 2_000


@dataclass
class Kept:
    """An entity that was acknowledged. While a change of it is under way, either state may be found."""

    session_id: str
    id: int
    external_id: str
    descriptions: tuple[str, ...]
    may_be_gone: bool = False


@dataclass
class Ledger:
    """Acknowledged entities, links and deleted sessions. Thread-safe: each writer has keys of its own."""

    entities: dict[str, Kept] = field(default_factory=dict)
    deleted: dict[str, tuple[str, int]] = field(default_factory=dict)
    links: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    deleted_sessions: set[str] = field(default_factory=set)
    acknowledged: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, store: Store, writer: str, seed: int, stop: threading.Event) -> None:
        """Change the store at random until told to stop, or until the server is gone."""
        try:
            self._write(store, writer, random.Random(seed), stop)
        except UnavailableError:
            return  # the server was killed; what was under way counts as unknown

    def _write(self, store: Store, writer: str, chance: random.Random, stop: threading.Event) -> None:
        session = store.session(f"s{chance.randrange(3)}")
        document = session.add_document(f"doc-{writer}")
        textunit = session.add_textunits([NewTextUnit(f"t-{writer}", document, "text")])[0]
        own: list[Kept] = []
        number = 0
        while not stop.is_set():
            number += 1
            key = f"{writer}-{number}"
            move = chance.randrange(10)
            if move < 4 or not own:
                own.append(
                    self._added(session, key, session.add_entity(key, key, "kind", "first", self._vector(chance)))
                )
            elif move < 6:
                news = [
                    NewEntity(f"{key}.{index}", f"{key}.{index}", "kind", "first", self._vector(chance))
                    for index in range(chance.randint(1, 60))
                ]
                ids = session.add_entities(news)
                own += [self._added(session, new.external_id, id) for new, id in zip(news, ids, strict=True)]
            elif move == 6:
                self._describe(session, chance.choice(own), key)
            elif move == 7:
                kept = own.pop(chance.randrange(len(own)))
                kept.may_be_gone = True
                session.delete_entity(kept.id)
                self._deleted(kept)
            elif move == 8:
                kept = own.pop(chance.randrange(len(own)))  # linked: nobody may delete it any more
                session.link(textunit, kept.id)
                with self._lock:
                    self.links.setdefault((session.id, textunit), set()).add(kept.id)
                    self.acknowledged += 1
            else:
                passing = store.session(f"passing-{key}")
                passing.add_document("d")
                passing.set_ttl(ttl_s=3_600)
                passing.delete()
                with self._lock:
                    self.deleted_sessions.add(passing.id)
                    self.acknowledged += 3

    @staticmethod
    def _vector(chance: random.Random) -> list[float]:
        return [chance.uniform(-1, 1) for _ in range(VECTOR_DIM)]

    def _added(self, session: Session, external_id: str, id: int) -> Kept:
        kept = Kept(session.id, id, external_id, ("first",))
        with self._lock:
            self.entities[external_id] = kept
            self.acknowledged += 1
        return kept

    def _describe(self, session: Session, kept: Kept, text: str) -> None:
        kept.descriptions = (*kept.descriptions[-1:], text)
        session.update_entity_description(kept.id, text)
        kept.descriptions = (text,)
        with self._lock:
            self.acknowledged += 1

    def _deleted(self, kept: Kept) -> None:
        with self._lock:
            del self.entities[kept.external_id]
            self.deleted[kept.external_id] = (kept.session_id, kept.id)
            self.acknowledged += 1

    def settle(self, store: Store) -> list[str]:
        """What is lost: acknowledged and not there, or there and acknowledged as gone. What was unknown is known now."""
        lost: list[str] = []
        by_session: dict[str, list[Kept]] = {}
        for kept in self.entities.values():
            by_session.setdefault(kept.session_id, []).append(kept)
        for session_id, those in by_session.items():
            for start in range(0, len(those), CHECK_CHUNK):
                part = those[start : start + CHECK_CHUNK]
                found = {
                    entity.id: entity for entity in store.session(session_id).get_entities(each.id for each in part)
                }
                for kept in part:
                    entity = found.get(kept.id)
                    if entity is None:
                        if not kept.may_be_gone:
                            lost.append(f"entity {kept} is gone")
                        del self.entities[kept.external_id]
                    elif entity.external_id != kept.external_id or entity.description not in kept.descriptions:
                        lost.append(f"entity {kept} is {entity}")
                    else:
                        kept.descriptions, kept.may_be_gone = (entity.description,), False
        gone_by_session: dict[str, list[int]] = {}
        for session_id, id in self.deleted.values():
            gone_by_session.setdefault(session_id, []).append(id)
        for session_id, gone_ids in gone_by_session.items():
            there = store.session(session_id).get_entities(gone_ids)
            lost += [f"entity {entity.id} of {session_id} was deleted and is there" for entity in there]
        for (session_id, textunit), ids in self.links.items():
            gone = ids - set(store.session(session_id).get_textunit(textunit).entity_ids)
            lost += [f"link {textunit}-{id} of {session_id} is gone" for id in gone]
        for session_id in self.deleted_sessions & {session.session_id for session in store.sessions()}:
            lost.append(f"session {session_id} was deleted and is there")
        return lost
