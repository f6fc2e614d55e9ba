"""What has been read becomes mutations, from which an empty state grows to the same.

As in a snapshot of ours, a session begins with its times, its settings and the ids to give out next; then come its
objects in the order of their ids, and its links.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from gibramdb.model import mutations as m
from gibramdb.model.ids import NO_LSN
from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit
from gibramdb.model.mutations import Mutation
from gibramdb.storage.gibram.forms import KINDS, NOUNS
from gibramdb.storage.gibram.holdings import Held, SessionHoldings
from gibramdb.storage.wal import RECORD_BYTES_MAX

T = TypeVar("T", Document, TextUnit, Entity, Relationship, Community)

BATCH_BYTES_MAX = 8 * 1024 * 1024
"""How much is put into one mutation, as far as it consists of more than one object."""
assert BATCH_BYTES_MAX <= RECORD_BYTES_MAX
BATCH_LINKS_MAX = 100_000

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
    counters = session.counters
    yield m.SessionRestored(
        name,
        used_ms,
        opens=True,
        incarnation=NO_LSN,
        created_at_ms=made_ms,
        read_noted_at_ms=made_ms,
        ttl_ms=session.ttl_ms,
        idle_ttl_ms=session.idle_ttl_ms,
        is_ended=False,
        next_ids=(
            counters["document"] + 1,
            counters["textunit"] + 1,
            counters["entity"] + 1,
            counters["relationship"] + 1,
            counters["community"] + 1,
            1,
        ),
    )
    for documents, _, _ in _batches(session.documents, {}):
        yield m.DocumentsAdded(name, used_ms, False, documents)
    for textunits, ids, rows in _batches(session.textunits, session.vectors["textunit"]):
        yield m.TextUnitsAdded(name, used_ms, False, textunits, ids, rows)
    for entities, ids, rows in _batches(session.entities, session.vectors["entity"]):
        yield m.EntitiesAdded(name, used_ms, False, entities, ids, rows)
    for relationships, _, _ in _batches(session.relationships, {}):
        yield m.RelationshipsAdded(name, used_ms, False, relationships)
    for communities, ids, rows in _batches(session.communities, session.vectors["community"]):
        yield m.CommunitiesAdded(name, used_ms, False, communities, ids, rows)
    links = link_order(session)[0]
    for begin in range(0, len(links), BATCH_LINKS_MAX):
        yield m.TextUnitsLinked(name, used_ms, False, begin + 1, tuple(links[begin : begin + BATCH_LINKS_MAX]))


def _batches(held: dict[int, T], vectors: dict[int, bytes]) -> Iterator[tuple[tuple[T, ...], tuple[int, ...], bytes]]:
    """Objects by rising id; of those that have an embedding the ids, and the rows, one after the other."""
    batch: list[T] = []
    rows: dict[int, bytes] = {}
    batch_bytes = _HEAD_BYTES
    for id in sorted(held):
        row = vectors.get(id, b"")
        added = weight(held[id], len(row))
        if batch and batch_bytes + added > BATCH_BYTES_MAX:
            yield tuple(batch), tuple(rows), b"".join(rows.values())
            batch, rows, batch_bytes = [], {}, _HEAD_BYTES
        batch.append(held[id])
        if row:
            rows[id] = row
        batch_bytes += added
    if batch:
        yield tuple(batch), tuple(rows), b"".join(rows.values())
