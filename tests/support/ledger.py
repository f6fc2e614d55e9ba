"""What a server has acknowledged, written down by its clients at the moment each answer is read, outside of the store.

Each writer changes only what it made itself, so it knows what must be there: after an answer exactly one content, while
a request is under way the content before it or after it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gibramdb import NewCommunity, NewEntity, NewTextUnit, Session, Store
from gibramdb.errors import NotFoundError, UnavailableError

VECTOR_DIM = 8
CHECK_CHUNK = 2_000
OWN_COMMUNITIES_MAX = 2
"""Of each writer; they are read one at a time, so that many would make checking slow."""
SHARED_SESSIONS = 3

Content = tuple[object, ...]


class Key(NamedTuple):
    """One object."""

    kind: str
    session_id: str
    id: int


@dataclass
class Kept:
    """An object that was acknowledged: what it may hold, and whether its deletion is under way."""

    key: Key
    contents: tuple[Content, ...]
    may_be_gone: bool = False


@dataclass
class Ledger:
    """Acknowledged objects, links, sessions and deletions. Thread-safe: each writer has keys of its own."""

    kept: dict[Key, Kept] = field(default_factory=dict)
    deleted: set[Key] = field(default_factory=set)
    links: dict[Key, set[int]] = field(default_factory=dict)
    ttls: dict[str, tuple[int, ...]] = field(default_factory=dict)
    deleted_sessions: set[str] = field(default_factory=set)
    acknowledged: int = 0
    found: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, store: Store, writer: str, seed: int, stop: threading.Event) -> None:
        """Change the store at random until told to stop, or until the server is gone."""
        try:
            _Writer(self, store, writer, random.Random(seed)).run(stop)
        except UnavailableError:
            return  # the server was killed; what was under way counts as unknown

    def note(self, *kept: Kept, gone: Kept | None = None) -> None:
        """An answer has been read."""
        with self._lock:
            for each in kept:
                self.kept[each.key] = each
            if gone is not None:
                del self.kept[gone.key]
                self.deleted.add(gone.key)
            self.acknowledged += max(1, len(kept))

    def note_links(self, textunit: Key, entity_ids: Sequence[int]) -> None:
        """Links have been acknowledged."""
        with self._lock:
            self.links.setdefault(textunit, set()).update(entity_ids)
            self.acknowledged += len(entity_ids)

    def note_ttl(self, session_id: str, *ttl_s: int) -> None:
        """A session's TTL is one of these; a single one was acknowledged."""
        with self._lock:
            self.ttls[session_id] = ttl_s
            self.acknowledged += len(ttl_s) == 1

    def note_deleted_session(self, session_id: str) -> None:
        """A session that was made, used and deleted: three answers."""
        with self._lock:
            self.deleted_sessions.add(session_id)
            self.acknowledged += 3

    def settle(self, store: Store) -> list[str]:
        """What is lost: acknowledged and not there, or there and acknowledged as gone. What was unknown is known now."""
        lost: list[str] = []
        self.found = 0
        there = dict(_read(store, self.kept))
        for key, kept in list(self.kept.items()):
            content = there.get(key)
            if content is None:
                if not kept.may_be_gone:
                    lost.append(f"{key} is gone")
                del self.kept[key]
            elif content not in kept.contents:
                lost.append(f"{key} is {content}, not one of {kept.contents}")
            else:
                kept.contents, kept.may_be_gone = (content,), False
                self.found += 1
        lost += [f"{key} was deleted and is there" for key, _ in _read(store, self.deleted)]
        for textunit, ids in self.links.items():
            linked = store.session(textunit.session_id).get_textunit(textunit.id).entity_ids
            lost += [f"link of {textunit} to {id} is gone" for id in ids - set(linked)]
            self.found += len(ids & set(linked))
        sessions = {session.session_id: session for session in store.sessions()}
        for session_id, ttls_s in self.ttls.items():
            found = sessions.get(session_id)
            if found is None or found.ttl_s not in ttls_s:
                lost.append(f"session {session_id} is {found}, its TTL was set to one of {ttls_s}")
            else:
                self.ttls[session_id] = (found.ttl_s,)
                self.found += 1
        lost += [
            f"session {session_id} was deleted and is there" for session_id in self.deleted_sessions & set(sessions)
        ]
        return lost


def _read(store: Store, keys: dict[Key, Kept] | set[Key]) -> Iterator[tuple[Key, Content]]:
    """The contents of those of the objects that are there."""
    groups: dict[tuple[str, str], list[int]] = {}
    for key in keys:
        groups.setdefault((key.kind, key.session_id), []).append(key.id)
    for (kind, session_id), ids in groups.items():
        for start in range(0, len(ids), CHECK_CHUNK):
            for id, content in READERS[kind](store.session(session_id), ids[start : start + CHECK_CHUNK]):
                yield Key(kind, session_id, id), content


def _entities(session: Session, ids: list[int]) -> Iterator[tuple[int, Content]]:
    return ((each.id, (each.external_id, each.description)) for each in session.get_entities(ids))


def _relationships(session: Session, ids: list[int]) -> Iterator[tuple[int, Content]]:
    found = session.get_relationships(ids)
    return ((each.id, (each.external_id, each.source_id, each.target_id)) for each in found)


def _communities(session: Session, ids: list[int]) -> Iterator[tuple[int, Content]]:
    for id in ids:
        try:
            found = session.get_community(id)
        except NotFoundError:
            continue
        yield id, (found.title, found.entity_ids)


READERS: dict[str, Callable[[Session, list[int]], Iterator[tuple[int, Content]]]] = {
    "entity": _entities, "relationship": _relationships, "community": _communities,
}  # fmt: skip


class _Writer:
    """One client's random changes, of every kind."""

    def __init__(self, ledger: Ledger, store: Store, name: str, chance: random.Random) -> None:
        self._ledger = ledger
        self._store = store
        self._name = name
        self._chance = chance
        self._session = store.session(f"s{chance.randrange(SHARED_SESSIONS)}")
        self._entities: list[Kept] = []  # that nothing refers to
        self._relationships: list[Kept] = []
        self._communities: list[Kept] = []
        self._ttl_s = 100_000

    def run(self, stop: threading.Event) -> None:
        """Until told to stop, or an UnavailableError."""
        document = self._session.add_document(f"doc-{self._name}")
        (id,) = self._session.add_textunits([NewTextUnit(f"t-{self._name}", document, "text")])
        textunit = Key("textunit", self._session.id, id)
        moves: list[Callable[[str], None]] = [
            self._add, self._add, self._add, self._add_many, self._add_many, self._describe, self._delete,
            self._relate, self._unrelate, self._group, lambda _: self._link(textunit), self._set_ttl, self._pass_by,
        ]  # fmt: skip
        number = 0
        while not stop.is_set():
            number += 1
            key = f"{self._name}-{number}"
            if len(self._entities) < 4:
                self._add_many(key)
            else:
                self._chance.choice(moves)(key)

    def _new(self, key: str) -> NewEntity:
        return NewEntity(key, key, "kind", "first", [self._chance.uniform(-1, 1) for _ in range(VECTOR_DIM)])

    def _kept(self, kind: str, id: int, *content: object) -> Kept:
        return Kept(Key(kind, self._session.id, id), (content,))

    def _take(self, those: list[Kept]) -> Kept:
        return those.pop(self._chance.randrange(len(those)))

    def _add(self, key: str) -> None:
        new = self._new(key)
        id = self._session.add_entity(key, key, "kind", "first", new.embedding)
        self._entities.append(self._kept("entity", id, key, "first"))
        self._ledger.note(self._entities[-1])

    def _add_many(self, key: str) -> None:
        news = [self._new(f"{key}.{index}") for index in range(self._chance.randint(5, 60))]
        ids = self._session.add_entities(news)
        kept = [self._kept("entity", id, new.external_id, "first") for new, id in zip(news, ids, strict=True)]
        self._entities += kept
        self._ledger.note(*kept)

    def _describe(self, key: str) -> None:
        kept = self._chance.choice(self._entities)
        (before,) = kept.contents
        after = (before[0], key)
        kept.contents = (before, after)
        self._session.update_entity_description(kept.key.id, key)
        kept.contents = (after,)
        self._ledger.note(kept)

    def _delete(self, key: str) -> None:
        del key
        kept = self._take(self._entities)
        kept.may_be_gone = True
        self._session.delete_entity(kept.key.id)
        self._ledger.note(gone=kept)

    def _relate(self, key: str) -> None:
        source, target = self._take(self._entities).key.id, self._take(self._entities).key.id
        id = self._session.add_relationship(source, target, "near", "said", 0.5, key)
        self._relationships.append(self._kept("relationship", id, key, source, target))
        self._ledger.note(self._relationships[-1])

    def _unrelate(self, key: str) -> None:
        del key
        if self._relationships:
            kept = self._take(self._relationships)
            kept.may_be_gone = True
            self._session.delete_relationship(kept.key.id)
            self._ledger.note(gone=kept)

    def _group(self, key: str) -> None:
        if len(self._communities) == OWN_COMMUNITIES_MAX:
            kept = self._take(self._communities)
            kept.may_be_gone = True
            self._session.delete_community(kept.key.id)
            self._ledger.note(gone=kept)
        members = (self._take(self._entities).key.id,)
        id = self._session.add_community(NewCommunity(key, members))
        self._communities.append(self._kept("community", id, key, members))
        self._ledger.note(self._communities[-1])

    def _link(self, textunit: Key) -> None:
        ids = [self._take(self._entities).key.id for _ in range(2)]
        self._session.link_many([(textunit.id, id) for id in ids])
        self._ledger.note_links(textunit, ids)

    def _set_ttl(self, key: str) -> None:
        del key
        own = self._store.session(f"own-{self._name}")
        if own.id not in self._ledger.ttls:
            own.add_document("d")
            self._ledger.note_ttl(own.id, 0)
        before, self._ttl_s = self._ledger.ttls[own.id][0], self._ttl_s + 1
        self._ledger.note_ttl(own.id, before, self._ttl_s)
        own.set_ttl(ttl_s=self._ttl_s)
        self._ledger.note_ttl(own.id, self._ttl_s)

    def _pass_by(self, key: str) -> None:
        passing = self._store.session(f"passing-{key}")
        passing.add_document("d")
        passing.set_ttl(ttl_s=3_600)
        passing.delete()
        self._ledger.note_deleted_session(passing.id)
