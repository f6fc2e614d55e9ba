"""What a command answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from gibramdb.model.commands import check_kind
from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit

T = TypeVar("T")


class Pong(msgspec.Struct, frozen=True, gc=False):
    """Answer to Ping."""


class Done(msgspec.Struct, frozen=True, gc=False):
    """Success; `id` is the object's, or 0 where there is none."""

    id: int = 0


class Created(msgspec.Struct, frozen=True, gc=False):
    """New ids, in the order in which the objects were given."""

    ids: tuple[int, ...]
    bulk: bool = True


class Objects(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """Those of the objects asked for that are there."""

    items: tuple[T, ...]


class Page(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """A stretch of a list; `next_cursor` is 0 at its end."""

    items: tuple[T, ...]
    next_cursor: int = 0


class Rows(Protocol):
    """Embeddings, put together when their bytes are asked for: an answer that waits for the log holds none of them."""

    def tobytes(self) -> bytes:
        """All of them, as little-endian float32."""
        ...


class StoredEmbeddings(msgspec.Struct, frozen=True, gc=False):
    """Those of the embeddings asked for that are there: `rows` holds one for each of `ids`."""

    ids: tuple[int, ...]
    rows: Rows
    vector_dim: int

    def matrix(self) -> NDArray[np.float32]:
        """Shape (len(ids), vector_dim), read-only."""
        return np.frombuffer(self.rows.tobytes(), "<f4").reshape(len(self.ids), self.vector_dim)


class Info(msgspec.Struct, frozen=True, gc=False):
    """Counts, of one session or of the store, and how the store is set up."""

    version: str
    document_count: int
    textunit_count: int
    entity_count: int
    relationship_count: int
    community_count: int
    vector_dim: int
    session_count: int
    session_store_mode: str
    wal_sync_policy: str
    wal_sync_interval_ms: int


class Health(msgspec.Struct, frozen=True, gc=False):
    """`status` is ok, degraded or error; `components` has the fields of the operator's page, all as text."""

    status: str
    components: dict[str, str]


class Digest(msgspec.Struct, frozen=True, gc=False):
    """SHA-256 over the canonical state, in hexadecimal, and how many objects it covers."""

    sha256: str
    object_count: int


class SessionInfo(msgspec.Struct, frozen=True, gc=False):
    """One session. Times are Unix milliseconds; TTLs are seconds, 0 for none."""

    session_id: str
    created_at_ms: int
    last_access_ms: int
    ttl_s: int
    idle_ttl_s: int
    document_count: int
    textunit_count: int
    entity_count: int
    relationship_count: int
    community_count: int


class SessionPage(msgspec.Struct, frozen=True, gc=False):
    """A stretch of the list of sessions, by name; `next_cursor` is empty at its end."""

    items: tuple[SessionInfo, ...]
    next_cursor: str = ""


class Detected(msgspec.Struct, frozen=True, gc=False):
    """The communities that a detection stored."""

    communities: tuple[Community, ...]


class Hierarchy(msgspec.Struct, frozen=True, gc=False):
    """How many communities a detection stored on each level."""

    level_counts: dict[int, int]
    total: int


class TextUnitHit(msgspec.Struct, frozen=True, gc=False):
    """`similarity`: cosine, 0 where it was reached and not found by vector. `hop`: steps from the seeds.

    `score` is what the answer is sorted by: how it comes about stands in `retrieval/query.py`.
    """

    textunit: TextUnit
    similarity: float
    hop: int
    score: float = 0.0


class EntityHit(msgspec.Struct, frozen=True, gc=False):
    """As TextUnitHit."""

    entity: Entity
    similarity: float
    hop: int
    score: float = 0.0


class CommunityHit(msgspec.Struct, frozen=True, gc=False):
    """As TextUnitHit; communities are only ever found by vector."""

    community: Community
    similarity: float


class RelationshipHit(msgspec.Struct, frozen=True, gc=False):
    """A relationship between two entities of the answer."""

    relationship: Relationship
    source_title: str
    target_title: str


class QueryStats(msgspec.Struct, frozen=True, gc=False):
    """What a query cost. `skipped_seed_indexes` names the kinds that hold no vector."""

    duration_us: int = 0
    vector_searches: int = 0
    graph_traversals: int = 0
    skipped_seed_indexes: tuple[str, ...] = ()


class QueryResult(msgspec.Struct, frozen=True, gc=False):
    """Hits of each kind, best first; ties by ascending id."""

    query_id: int
    textunits: tuple[TextUnitHit, ...]
    entities: tuple[EntityHit, ...]
    communities: tuple[CommunityHit, ...]
    relationships: tuple[RelationshipHit, ...]
    stats: QueryStats

    def arrays(self, kind: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids and scores of the hits of one kind, as they stand here. The score of a community is its similarity."""
        hits = {
            "textunit": [(hit.textunit.id, hit.score) for hit in self.textunits],
            "entity": [(hit.entity.id, hit.score) for hit in self.entities],
            "community": [(hit.community.id, hit.similarity) for hit in self.communities],
        }[check_kind(kind)]
        return np.array([id for id, _ in hits], np.int64), np.array([score for _, score in hits], np.float64)


class Seed(msgspec.Struct, frozen=True, gc=False):
    """Where a query began: what it found by vector, or was given."""

    kind: str
    id: int
    external_id: str
    similarity: float


class Step(msgspec.Struct, frozen=True, gc=False):
    """One step of the walk, from an entity to one not seen before."""

    from_entity_id: int
    to_entity_id: int
    relationship_id: int
    relationship_type: str
    weight: float
    hop: int


class Explanation(msgspec.Struct, frozen=True, gc=False):
    """How a query came to its answer."""

    query_id: int
    seeds: tuple[Seed, ...]
    steps: tuple[Step, ...]


class Saved(msgspec.Struct, frozen=True, gc=False):
    """When (Unix seconds, 0 for never) and where the last copy was written."""

    at_s: int
    path: str


class BackupStatus(msgspec.Struct, frozen=True, gc=False):
    """The save or restore that runs, or the last one. `kind`: save, restore or nothing; times are Unix seconds.

    `error` says why the last one failed, in words; empty while it runs and where it succeeded.
    """

    in_progress: bool
    kind: str
    started_at_s: int
    progress_percent: int
    error: str
    last_save_at_s: int
    last_save_path: str


class LogStatus(msgspec.Struct, frozen=True, gc=False):
    """Where the log stands, how many generations of it there are, and their bytes on disk."""

    current_lsn: int
    flushed_lsn: int
    generations: int
    size_bytes: int


Result = (
    Pong
    | Done
    | Created
    | Objects[Document]
    | Objects[TextUnit]
    | Objects[Entity]
    | Objects[Relationship]
    | Page[Document]
    | Page[TextUnit]
    | Page[Entity]
    | Page[Relationship]
    | Page[Community]
    | StoredEmbeddings
    | Document
    | TextUnit
    | Entity
    | Relationship
    | Community
    | Info
    | Health
    | Digest
    | SessionInfo
    | SessionPage
    | Detected
    | Hierarchy
    | QueryResult
    | Explanation
    | Saved
    | BackupStatus
    | LogStatus
)


def objects_in(result: Result) -> int:
    """How many objects a result tells of."""
    count = _OBJECTS.get(type(result))
    return 1 if count is None else count(result)


def links_in(result: Result) -> int:
    """How many ids the objects of a result name, but for the members of communities, which it shares with the state.

    Those that a detection found count: the next one replaces them, and then they are in its answer alone.
    """
    count = _LINKS.get(type(result))
    return 0 if count is None else count(result)


def _links_of_all(records: Sequence[Any]) -> int:
    """Of records of one kind."""
    count = _LINKS.get(type(records[0])) if records else None
    return 0 if count is None else sum(map(count, records))


# Any: each takes its own kind of result.
_OBJECTS: dict[type, Callable[[Any], int]] = {
    Objects: lambda result: len(result.items),
    Page: lambda result: len(result.items),
    SessionPage: lambda result: len(result.items),
    StoredEmbeddings: lambda result: len(result.ids),
    QueryResult: lambda result: (
        len(result.textunits) + len(result.entities) + len(result.communities) + len(result.relationships)
    ),
    Detected: lambda result: len(result.communities),
    Explanation: lambda result: len(result.seeds) + len(result.steps),
    Health: lambda result: len(result.components),
}
_LINKS: dict[type, Callable[[Any], int]] = {
    Document: lambda document: len(document.textunit_ids),
    TextUnit: lambda textunit: len(textunit.entity_ids),
    Entity: lambda entity: len(entity.textunit_ids),
    Objects: lambda result: _links_of_all(result.items),
    Page: lambda result: _links_of_all(result.items),
    QueryResult: lambda result: (
        sum(len(hit.textunit.entity_ids) for hit in result.textunits)
        + sum(len(hit.entity.textunit_ids) for hit in result.entities)
    ),
    Detected: lambda result: sum(len(each.entity_ids) + len(each.relationship_ids) for each in result.communities),
}
