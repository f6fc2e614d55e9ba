"""Admission arithmetic: what one session may hold, and what its content weighs.

The weights are estimates in bytes, the same as GibRAM 0.3.0's, so that a quota means the same here. Links, which it
does not count, weigh `LINK_BYTES`. Of the store as a whole, sessions have a weight too, whatever is in them.
"""

from __future__ import annotations

import msgspec

from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit

LINK_BYTES = 32
MEMBER_BYTES = 8
SESSION_BYTES = 8 * 1024
"""What a session takes that holds nothing, but for its name."""
BULK_ITEMS_MAX = 100_000
"""Objects, or ids, in one command; to read and check them takes a turn that nobody else gets."""
ANSWERED_LINK_BYTES = 8
ANSWERED_OBJECT_BYTES = 128
"""What an object takes in an answer that waits, beside what it shares with the state; its links are added."""
SESSIONS_MAX_DEFAULT = 10_000
CONTENT_BYTES_MAX_DEFAULT = 1_048_576

TOKEN_BYTES_MAX = 64
TOKENS_KEPT_MAX = 100_000
"""What one session remembers of writes marked with a token: so many, and none for longer than the next figure says."""
TOKEN_AGE_MS_MAX = 3_600_000
KEPT_TOKEN_BYTES = 160
"""What one of them weighs, as an estimate."""

LIST_LIMIT_DEFAULT = 1_000
LIST_LIMIT_MAX = 10_000
PIPELINE_OBJECTS_MAX = 100_000
PIPELINE_LINKS_MAX = 2_000_000
"""What the answers of one pipeline may tell of before no more of its commands is run; they are held until the last."""
TOP_K_DEFAULT = 10
TOP_K_MAX = 10_000
HOPS_DEFAULT = 2
HOPS_MAX = 32
ENTITIES_MAX_DEFAULT = 50
TEXTUNITS_MAX_DEFAULT = 10
COMMUNITIES_MAX_DEFAULT = 5
QUERY_ITEMS_MAX = 10_000
"""The most entities, text units or communities, each, that one answer can hold."""
QUERY_RELATIONSHIPS_MAX = 10_000
QUERY_LOG_BYTES_MAX = 64 * 1024 * 1024
"""What EXPLAIN can look back on, all queries together; a seed or step weighs EXPLAINED_STEP_BYTES and its text."""
EXPLAINED_STEP_BYTES = 128
DETECTIONS_WAITING_MAX = 64
DETECTIONS_OF_KEY_MAX = 16
DETECTIONS_OF_SESSION_MAX = 4
"""Of one session; those of others, if they are smaller, come first."""
RESOLUTION_DEFAULT = 1.0
RESOLUTION_MIN, RESOLUTION_MAX = 1e-6, 1e6
"""Far beyond them everything is one cluster, or each entity its own; near the ends of a float the library panics."""
ITERATIONS_DEFAULT = 10
ITERATIONS_MAX = 100
"""Leiden seldom finds anything after ten; each takes a tenth of a second for 80,000 relationships, and others wait."""
ITERATED_RELATIONSHIPS_MAX = 8_000_000
"""Iterations times relationships, once the iterations are more than the default: a computation under way can not be cut
short, so nobody may ask for minutes of it."""
HIERARCHY_LEVELS_MAX = 5
GET_BYTES_MAX = 64 * 1024 * 1024
"""The most text, or embeddings, that one bulk read answers; ids may repeat, so a small request could ask for more."""
TTL_MS_MAX = 2**53
"""About 285,000 years: longer TTLs mean this."""


class Limits(msgspec.Struct, frozen=True):
    """What a store admits. Quotas are per session, but for `total_memory_bytes_max`; 0 is none."""

    content_bytes_max: int = CONTENT_BYTES_MAX_DEFAULT
    sessions_max: int = SESSIONS_MAX_DEFAULT
    session_documents_max: int = 0
    session_entities_max: int = 0
    session_relationships_max: int = 0
    session_memory_bytes_max: int = 0
    total_memory_bytes_max: int = 0

    @property
    def weighs(self) -> bool:
        """Whether it matters what an object weighs."""
        return bool(self.session_memory_bytes_max or self.total_memory_bytes_max)


def _length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def document_bytes(document: Document) -> int:
    """Estimated weight in bytes."""
    return 128 + _length(document.external_id) + _length(document.filename)


def textunit_bytes(textunit: TextUnit, vector_bytes: int) -> int:
    """Estimated weight in bytes, embedding included."""
    return 160 + _length(textunit.external_id) + _length(textunit.content) + vector_bytes


def entity_bytes(entity: Entity, vector_bytes: int) -> int:
    """Estimated weight in bytes, embedding included."""
    # As one text: a start weighs millions of them.
    return 192 + _length(f"{entity.external_id}{entity.title}{entity.type}{entity.description}") + vector_bytes


def relationship_bytes(relationship: Relationship) -> int:
    """Estimated weight in bytes."""
    return 160 + _length(f"{relationship.external_id}{relationship.type}{relationship.description}")


def community_bytes(community: Community, vector_bytes: int) -> int:
    """Estimated weight in bytes, embedding and member ids included."""
    texts = (community.external_id, community.title, community.summary, community.full_content)
    return 192 + sum(map(_length, texts)) + MEMBER_BYTES * member_count(community) + vector_bytes


def member_count(community: Community) -> int:
    """Entities and relationships in it."""
    return len(community.entity_ids) + len(community.relationship_ids)


def session_bytes(session_id: str) -> int:
    """Estimated weight in bytes of a session that holds nothing."""
    return SESSION_BYTES + _length(session_id)


def content_length(text: str) -> int:
    """Length in UTF-8 bytes."""
    return _length(text)
