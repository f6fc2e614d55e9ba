"""One checksum over everything canonical: two stores with the same digest hold the same state."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable

import msgspec

from gibramdb.core.state import SessionState

_encode = msgspec.msgpack.Encoder().encode


def state_digest(sessions: Iterable[SessionState]) -> tuple[str, int]:
    """SHA-256 in hexadecimal over the sessions, by name, and the number of objects in them."""
    steps = digest_steps(sessions)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            digest: tuple[str, int] = end.value
            return digest


def digest_steps(sessions: Iterable[SessionState]) -> Generator[None, None, tuple[str, int]]:
    """The same, yielding between one record and the next; until it has ended nothing may change the sessions."""
    digest = hashlib.sha256()
    object_count = 0
    for session in sorted(sessions, key=lambda each: each.session_id):
        object_count += session.object_count()
        tables = (*session.tables(), session.tokens)
        indexes = (session.textunit_vectors, session.entity_vectors, session.community_vectors)
        head = (
            session.session_id,
            session.incarnation,
            session.created_at_ms,
            session.touched_at_ms,
            session.read_noted_at_ms,
            session.ttl_ms,
            session.idle_ttl_ms,
            session.is_ended,
            [(table.next_id, len(table)) for table in tables],
            [len(vectors) for vectors in indexes],
        )
        digest.update(_encode(head))
        for table in tables:
            for record in table:
                digest.update(_encode(record))
                yield
        for vectors in indexes:
            for id, row in vectors.items():
                digest.update(_encode(id))
                digest.update(row)
                yield
    return digest.hexdigest(), object_count
