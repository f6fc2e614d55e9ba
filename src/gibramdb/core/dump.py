"""A session as the mutations that make it anew: what a snapshot holds.

Freezing happens in one turn of the owner and copies no record; the mutations are made as they are asked for, in any
thread, while the session goes on changing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from gibramdb.core.state import SessionState
from gibramdb.model import mutations
from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit
from gibramdb.model.mutations import Mutation

T = TypeVar("T")

BATCH_RECORDS_MAX = 2_000
BATCH_VECTOR_BYTES_MAX = 1024 * 1024
"""A C call that encodes or copies more than this keeps all other threads waiting for longer than they notice."""
BATCH_CHARACTERS_MAX = 2 * 1024 * 1024
"""So that a batch with its texts is far below the largest record."""


class FrozenSession:
    """A session as it was at one moment; can be dumped in any thread, several times."""

    __slots__ = (
        "_communities",
        "_community_vectors",
        "_documents",
        "_entities",
        "_entity_vectors",
        "_first_token_id",
        "_head",
        "_links",
        "_relationships",
        "_row_bytes",
        "_textunit_vectors",
        "_textunits",
        "_tokens",
        "changed_lsn",
        "objects",
        "session_id",
    )

    def __init__(self, session: SessionState) -> None:
        self.session_id = session.session_id
        self.changed_lsn = session.changed_lsn
        self.objects = session.object_count()
        self._head = mutations.SessionRestored(
            session.session_id,
            session.touched_at_ms,
            opens=True,
            incarnation=session.incarnation,
            created_at_ms=session.created_at_ms,
            read_noted_at_ms=session.read_noted_at_ms,
            ttl_ms=session.ttl_ms,
            idle_ttl_ms=session.idle_ttl_ms,
            is_ended=session.is_ended,
            next_ids=_six([table.next_id for table in session.tables()]),
        )
        self._documents = session.documents.freeze()
        self._textunits = session.textunits.freeze()
        self._entities = session.entities.freeze()
        self._relationships = session.relationships.freeze()
        self._communities = session.communities.freeze()
        self._links = session.links.freeze()
        self._first_token_id = session.tokens.next_id - len(session.tokens)
        self._tokens = session.tokens.freeze()
        self._textunit_vectors = session.textunit_vectors.freeze()
        self._entity_vectors = session.entity_vectors.freeze()
        self._community_vectors = session.community_vectors.freeze()
        self._row_bytes = session.entity_vectors.row_bytes

    def dump(self) -> Iterator[Mutation]:
        """The mutations that give this session, applied in order."""
        head = self._head
        name, at_ms = head.session_id, head.at_ms
        yield head
        rows_max = max(1, BATCH_VECTOR_BYTES_MAX // self._row_bytes)
        for documents in _batches(self._documents, _document_characters, BATCH_RECORDS_MAX):
            yield mutations.DocumentsAdded(name, at_ms, False, documents)
        for textunits in _batches(self._textunits, _textunit_characters, rows_max):
            ids, rows = self._textunit_vectors.between(textunits[0].id, textunits[-1].id)
            yield mutations.TextUnitsAdded(name, at_ms, False, textunits, ids, rows)
        for entities in _batches(self._entities, _entity_characters, rows_max):
            ids, rows = self._entity_vectors.between(entities[0].id, entities[-1].id)
            yield mutations.EntitiesAdded(name, at_ms, False, entities, ids, rows)
        for relationships in _batches(self._relationships, _relationship_characters, BATCH_RECORDS_MAX):
            yield mutations.RelationshipsAdded(name, at_ms, False, relationships)
        for communities in _batches(self._communities, _community_characters, rows_max):
            ids, rows = self._community_vectors.between(communities[0].id, communities[-1].id)
            yield mutations.CommunitiesAdded(name, at_ms, False, communities, ids, rows)
        first_id = 1
        for links in _batches(self._links, lambda _link: 16, BATCH_RECORDS_MAX):
            yield mutations.TextUnitsLinked(name, at_ms, False, first_id, links)
            first_id += len(links)
        first_id = self._first_token_id
        for tokens in _batches(self._tokens, lambda kept: len(kept.token), BATCH_RECORDS_MAX):
            yield mutations.TokensKept(name, at_ms, False, first_id, tokens)
            first_id += len(tokens)


def _six(ids: list[int]) -> Any:
    return tuple(ids)  # as many as there are tables, which the struct checks when it is read


def _batches(records: Iterable[T], characters: Callable[[T], int], records_max: int) -> Iterator[tuple[T, ...]]:
    batch: list[T] = []
    total = 0
    limit = min(records_max, BATCH_RECORDS_MAX)
    for record in records:
        batch.append(record)
        total += characters(record)
        if len(batch) >= limit or total > BATCH_CHARACTERS_MAX:
            yield tuple(batch)
            batch, total = [], 0
    if batch:
        yield tuple(batch)


def _document_characters(each: Document) -> int:
    return len(each.external_id) + len(each.filename)


def _textunit_characters(each: TextUnit) -> int:
    return len(each.external_id) + len(each.content)


def _entity_characters(each: Entity) -> int:
    return len(each.external_id) + len(each.title) + len(each.type) + len(each.description)


def _relationship_characters(each: Relationship) -> int:
    return len(each.external_id) + len(each.type) + len(each.description)


def _community_characters(each: Community) -> int:
    texts = len(each.external_id) + len(each.title) + len(each.summary) + len(each.full_content)
    return texts + 4 * (len(each.entity_ids) + len(each.relationship_ids))
