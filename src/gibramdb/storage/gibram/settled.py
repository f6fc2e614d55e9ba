"""What has been read becomes mutations, from which an empty state grows to the same.

Each session begins at the time it was made, takes its objects in the order of their ids, and ends with its last use, so
that the times come out as they were. Ids that were given out to objects since deleted are used up first, by one object
of the highest such id, made and deleted while the session is still empty: nothing can be in its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import TypeVar

from gibramdb.model import mutations as m
from gibramdb.model.knowledge import DETECTED, Community, Document, Entity, Relationship, TextUnit
from gibramdb.model.mutations import Mutation
from gibramdb.storage.gibram.forms import KINDS, NOUNS, Kind
from gibramdb.storage.gibram.holdings import Held, SessionHoldings
from gibramdb.storage.wal import RECORD_BYTES_MAX

T = TypeVar("T", Document, TextUnit, Entity, Relationship, Community)

BATCH_BYTES_MAX = 8 * 1024 * 1024
"""How much is put into one mutation, as far as it consists of more than one object."""
assert BATCH_BYTES_MAX <= RECORD_BYTES_MAX

_NUMBER_BYTES = 9
_HEAD_BYTES = 256
_TEXT_BYTES = 5
_AT_MOST_A_CHARACTER = 4


class Mutations:
    """The mutations of all sessions, made anew each time they are gone through."""

    def __init__(self, sessions: Sequence[SessionHoldings]) -> None:
        self._sessions = sessions

    def __iter__(self) -> Iterator[Mutation]:
        for session in self._sessions:
            yield from _session(session)


def weight(held: Held, vector_bytes: int) -> int:
    """No less than the object takes in a mutation, its embedding included."""
    total = _HEAD_BYTES + _NUMBER_BYTES + vector_bytes
    for name in held.__struct_fields__:
        value = getattr(held, name)
        if isinstance(value, str):
            length = len(value) if value.isascii() else _AT_MOST_A_CHARACTER * len(value)
            total += _TEXT_BYTES + length
        elif isinstance(value, tuple):
            total += _TEXT_BYTES + _NUMBER_BYTES * len(value)
        else:
            total += _NUMBER_BYTES
    return total


def weights(session: SessionHoldings) -> Iterator[tuple[str, int]]:
    """What each object is called, and no less than the mutation takes that holds it alone."""
    name_bytes = _AT_MOST_A_CHARACTER * len(session.session_id)
    for kind in KINDS:
        vectors = session.vectors[kind]
        for held in session.table(kind).values():
            yield f"{NOUNS[kind]} {held.id}", _HEAD_BYTES + name_bytes + weight(held, len(vectors.get(held.id, b"")))


def link_order(session: SessionHoldings) -> tuple[list[tuple[int, int]], bool]:
    """The links in one order that agrees with that of every text unit and every entity.

    GibRAM keeps two lists of each link and no order of all. False: the lists contradict each other, and the order is
    that of the text units.
    """
    followers: dict[tuple[int, int], list[tuple[int, int]]] = {}
    waits_for: dict[tuple[int, int], int] = {}
    plain = [(textunit, entity) for textunit in sorted(session.entity_ids) for entity in session.entity_ids[textunit]]
    chains = [[(textunit, entity) for entity in ids] for textunit, ids in session.entity_ids.items()]
    chains += [[(textunit, entity) for textunit in ids] for entity, ids in session.textunit_ids.items()]
    for chain in chains:
        for before, after in pairwise(chain):
            followers.setdefault(before, []).append(after)
            waits_for[after] = waits_for.get(after, 0) + 1
    ready = [link for link in reversed(plain) if link not in waits_for]
    ordered: list[tuple[int, int]] = []
    while ready:
        link = ready.pop()
        ordered.append(link)
        for after in reversed(followers.get(link, ())):
            waits_for[after] -= 1
            if not waits_for[after]:
                ready.append(after)
    return (ordered, True) if len(ordered) == len(plain) else (plain, False)


def session_times(session: SessionHoldings) -> tuple[int, int]:
    """When a session was made and last used, in milliseconds.

    The log says neither; there, the times of the objects do. 0: nothing does.
    """
    made_ms = session.created_at_ms
    if made_ms is None:
        made_ms = session.first_made_ms or 0
    used_ms = max(made_ms if session.last_access_ms is None else session.last_access_ms, session.last_made_ms or 0)
    return made_ms, used_ms


def _session(session: SessionHoldings) -> Iterator[Mutation]:
    name = session.session_id
    made_ms, used_ms = session_times(session)
    yield m.SessionTouched(name, made_ms, opens=True)
    yield from _used_up_ids(session, made_ms)
    for documents, _ in _batches(session.documents, {}):
        yield m.DocumentsAdded(name, made_ms, opens=False, documents=documents)
    for textunits, vectors in _batches(session.textunits, session.vectors["textunit"]):
        ids, rows = tuple(vectors), b"".join(vectors.values())
        yield m.TextUnitsAdded(name, made_ms, opens=False, textunits=textunits, vector_ids=ids, vectors=rows)
    for entities, vectors in _batches(session.entities, session.vectors["entity"]):
        ids, rows = tuple(vectors), b"".join(vectors.values())
        yield m.EntitiesAdded(name, made_ms, opens=False, entities=entities, vector_ids=ids, vectors=rows)
    for relationships, _ in _batches(session.relationships, {}):
        yield m.RelationshipsAdded(name, made_ms, opens=False, relationships=relationships)
    yield from _communities(session, made_ms)
    for textunit_id, entity_id in link_order(session)[0]:
        yield m.TextUnitLinked(name, made_ms, opens=False, textunit_id=textunit_id, entity_id=entity_id)
    if session.ttl_ms or session.idle_ttl_ms:
        yield m.SessionTtlSet(name, used_ms, opens=False, ttl_ms=session.ttl_ms, idle_ttl_ms=session.idle_ttl_ms)
    else:
        yield m.SessionTouched(name, used_ms, opens=False)


def _communities(session: SessionHoldings, at_ms: int) -> Iterator[Mutation]:
    name, vectors = session.session_id, session.vectors["community"]
    in_order = [session.communities[id] for id in sorted(session.communities)]
    for detected, run in groupby(in_order, key=lambda community: community.origin == DETECTED):
        if detected:
            for communities, _ in _batches({community.id: community for community in run}, {}):
                yield m.CommunitiesReplaced(name, at_ms, opens=False, removed_ids=(), communities=communities)
        else:
            for community in run:
                row = vectors.get(community.id, b"")
                yield m.CommunityAdded(name, at_ms, opens=False, community=community, vector=row)


def _batches(held: dict[int, T], vectors: dict[int, bytes]) -> Iterator[tuple[tuple[T, ...], dict[int, bytes]]]:
    batch: list[T] = []
    rows: dict[int, bytes] = {}
    batch_bytes = _HEAD_BYTES
    for id in sorted(held):
        row = vectors.get(id, b"")
        added = weight(held[id], len(row))
        if batch and batch_bytes + added > BATCH_BYTES_MAX:
            yield tuple(batch), rows
            batch, rows, batch_bytes = [], {}, _HEAD_BYTES
        batch.append(held[id])
        if row:
            rows[id] = row
        batch_bytes += added
    if batch:
        yield tuple(batch), rows


def _used_up_ids(session: SessionHoldings, at_ms: int) -> Iterator[Mutation]:
    name, last = session.session_id, session.counters
    spent = [kind for kind in KINDS if last[kind] > max(session.table(kind), default=0)]
    for kind in spent:
        yield _MADE[kind](name, at_ms, last)
    for kind in reversed(spent):
        yield _DELETED[kind](name, at_ms, False, last[kind])


def _document(name: str, at_ms: int, last: dict[Kind, int]) -> Mutation:
    return m.DocumentsAdded(name, at_ms, opens=False, documents=(Document(last["document"], "", "", at_ms),))


def _textunit(name: str, at_ms: int, last: dict[Kind, int]) -> Mutation:
    textunit = TextUnit(last["textunit"], "", last["document"], "", 0, at_ms)
    return m.TextUnitsAdded(name, at_ms, opens=False, textunits=(textunit,), vector_ids=(), vectors=b"")


def _entity(name: str, at_ms: int, last: dict[Kind, int]) -> Mutation:
    entity = Entity(last["entity"], "", "", "", "", at_ms)
    return m.EntitiesAdded(name, at_ms, opens=False, entities=(entity,), vector_ids=(), vectors=b"")


def _relationship(name: str, at_ms: int, last: dict[Kind, int]) -> Mutation:
    relationship = Relationship(last["relationship"], "", last["entity"], last["entity"], "", "", 1.0, at_ms)
    return m.RelationshipsAdded(name, at_ms, opens=False, relationships=(relationship,))


def _community(name: str, at_ms: int, last: dict[Kind, int]) -> Mutation:
    community = Community(last["community"], "", "", "", "", 0, (), (), at_ms)
    return m.CommunityAdded(name, at_ms, opens=False, community=community, vector=b"")


_MADE: dict[Kind, Callable[[str, int, dict[Kind, int]], Mutation]] = {
    "document": _document,
    "textunit": _textunit,
    "entity": _entity,
    "relationship": _relationship,
    "community": _community,
}
_DELETED: dict[Kind, Callable[[str, int, bool, int], Mutation]] = {
    "document": m.DocumentDeleted,
    "textunit": m.TextUnitDeleted,
    "entity": m.EntityDeleted,
    "relationship": m.RelationshipDeleted,
    "community": m.CommunityDeleted,
}
