"""What has been settled. This file is the disk schema.

A mutation holds every id, time and computed result, so that applying it asks nothing of the world. Structs are arrays
on disk: the tag, then the fields in the order below. Tags and positions are never reused; a field is only ever added at
the end, with a default.

`opens`: the session named did not exist, or had expired; this mutation begins it, at `at_ms`.
Vectors are rows of little-endian float32, one after the other, in the order of `vector_ids`.
"""

from __future__ import annotations

import msgspec

from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit


class MutationBase(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False, tag_field="tag"):
    """What every mutation says."""

    session_id: str
    at_ms: int
    opens: bool


class SessionDeleted(MutationBase, frozen=True, tag=1):
    """By command."""


class SessionExpired(MutationBase, frozen=True, tag=2):
    """By the clock."""


class SessionTtlSet(MutationBase, frozen=True, tag=3):
    """Both values as they are from now on, in milliseconds; 0 is none."""

    ttl_ms: int
    idle_ttl_ms: int


class SessionTouched(MutationBase, frozen=True, tag=4):
    """A use that the caller asked to be counted."""


class SessionReadNoted(MutationBase, frozen=True, tag=5):
    """Reads have happened; written at most eight times per idle TTL."""


class SessionEnded(MutationBase, frozen=True, tag=6):
    """Its time is over and somebody has been told so; it lies there until the sweep, and nothing brings it back."""


class SessionRestored(MutationBase, frozen=True, tag=7):
    """A session as a snapshot has it, still empty; the records of its content follow. Stands in snapshots only.

    `next_ids`: of documents, text units, entities, relationships, communities and links.
    """

    incarnation: int
    created_at_ms: int
    read_noted_at_ms: int
    ttl_ms: int
    idle_ttl_ms: int
    is_ended: bool
    next_ids: tuple[int, int, int, int, int, int]


class KeptToken(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What a session remembers of a write that was marked with a token: what it was, and how it was answered.

    `fingerprint`: of the command. `created_count`: the answer was so many ids from `answer_id` on; None: just that id.
    """

    token: bytes
    at_ms: int
    fingerprint: bytes
    answer_id: int
    created_count: int | None


class DocumentsAdded(MutationBase, frozen=True, tag=10):
    """New documents with their ids."""

    documents: tuple[Document, ...]


class TextUnitsAdded(MutationBase, frozen=True, tag=11):
    """New text units with their ids and vectors."""

    textunits: tuple[TextUnit, ...]
    vector_ids: tuple[int, ...]
    vectors: bytes


class EntitiesAdded(MutationBase, frozen=True, tag=12):
    """New entities with their ids and vectors."""

    entities: tuple[Entity, ...]
    vector_ids: tuple[int, ...]
    vectors: bytes


class RelationshipsAdded(MutationBase, frozen=True, tag=13):
    """New relationships with their ids."""

    relationships: tuple[Relationship, ...]


class CommunityAdded(MutationBase, frozen=True, tag=14):
    """A community made by hand."""

    community: Community
    vector: bytes


class CommunitiesReplaced(MutationBase, frozen=True, tag=15):
    """The outcome of a detection: which communities go and which come."""

    removed_ids: tuple[int, ...]
    communities: tuple[Community, ...]


class CommunitiesAdded(MutationBase, frozen=True, tag=16):
    """Communities with their vectors. Stands in snapshots only."""

    communities: tuple[Community, ...]
    vector_ids: tuple[int, ...]
    vectors: bytes


class TextUnitLinked(MutationBase, frozen=True, tag=20):
    """A text unit speaks of an entity."""

    textunit_id: int
    entity_id: int


class TextUnitsLinked(MutationBase, frozen=True, tag=22):
    """Many links, each of a text unit and an entity, numbered from `first_id`. Stands in snapshots only."""

    first_id: int
    links: tuple[tuple[int, int], ...]


class EntityDescribed(MutationBase, frozen=True, tag=21):
    """A new description; an empty vector leaves the old one."""

    id: int
    description: str
    vector: bytes


class TokensKept(MutationBase, frozen=True, tag=23):
    """Tokens that a session remembers, numbered from `first_id`. Stands in snapshots only."""

    first_id: int
    tokens: tuple[KeptToken, ...]


class TextUnitUnlinked(MutationBase, frozen=True, tag=24):
    """A text unit speaks of an entity no longer."""

    textunit_id: int
    entity_id: int


class DocumentDeleted(MutationBase, frozen=True, tag=30):
    """Gone."""

    id: int


class TextUnitDeleted(MutationBase, frozen=True, tag=31):
    """Gone, with its vector."""

    id: int


class EntityDeleted(MutationBase, frozen=True, tag=32):
    """Gone, with its vector."""

    id: int


class RelationshipDeleted(MutationBase, frozen=True, tag=33):
    """Gone."""

    id: int


class CommunityDeleted(MutationBase, frozen=True, tag=34):
    """Gone, with its vector."""

    id: int


class CascadeDeleted(MutationBase, frozen=True, tag=35):
    """Objects gone together with what referred to them: in this order, links, places in communities, objects.

    Which communities lose members follows from the rest. `communities` is empty: older logs hold those that did, as
    they were from then on, which came to nothing else.
    """

    links: tuple[tuple[int, int], ...]
    communities: tuple[Community, ...]
    relationship_ids: tuple[int, ...]
    entity_ids: tuple[int, ...]
    textunit_ids: tuple[int, ...]
    document_ids: tuple[int, ...]


Change = (
    SessionTtlSet
    | SessionTouched
    | DocumentsAdded
    | TextUnitsAdded
    | EntitiesAdded
    | RelationshipsAdded
    | CommunityAdded
    | TextUnitLinked
    | TextUnitUnlinked
    | EntityDescribed
    | DocumentDeleted
    | TextUnitDeleted
    | EntityDeleted
    | RelationshipDeleted
    | CommunityDeleted
    | CascadeDeleted
)
"""What a write that was marked with a token may come to."""


class WrittenOnce(MutationBase, frozen=True, tag=40):
    """A write that was marked with a token: what it changed, if anything, and what is remembered of it."""

    kept: KeptToken
    change: Change | None


class WrittenOnceInPlace(WrittenOnce, frozen=True, tag=41):
    """The same where memory had run out: the session's oldest token makes room for this one."""


Mutation = (
    Change
    | SessionDeleted
    | SessionExpired
    | SessionReadNoted
    | SessionEnded
    | SessionRestored
    | CommunitiesReplaced
    | CommunitiesAdded
    | TextUnitsLinked
    | TokensKept
    | WrittenOnce
    | WrittenOnceInPlace
)

IN_SNAPSHOTS_ONLY: tuple[type[MutationBase], ...] = (SessionRestored, CommunitiesAdded, TextUnitsLinked, TokensKept)
