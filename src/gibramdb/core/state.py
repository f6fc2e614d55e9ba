"""What the store holds: sessions, and in each its objects, links and embeddings.

Every field says what it is:

    canonical   in a snapshot and in the log; the digest covers it
    derived     follows from the canonical fields; `SessionState.rebuild` makes it anew
    ephemeral   may vanish with the process

Only `core.apply` changes canonical and derived fields.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator
from copy import copy
from typing import Any

from gibramdb.core import limits
from gibramdb.core.table import BLOCK_RECORDS, Table
from gibramdb.core.vectors import VectorIndex
from gibramdb.model.ids import NO_LSN, Lsn
from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit
from gibramdb.model.mutations import KeptToken

_NO_IDS: dict[int, int] = {}
_NO_EDGES: array[int] = array("Q")


class SessionState:
    """One session. Maps keyed by object id hold other ids in the order in which they came."""

    __slots__ = (
        "changed_lsn",
        "communities",
        "communities_by_entity",
        "communities_by_external_id",
        "communities_by_relationship",
        "community_vectors",
        "created_at_ms",
        "documents",
        "documents_by_external_id",
        "entities",
        "entities_by_external_id",
        "entities_by_textunit",
        "entities_by_title",
        "entity_vectors",
        "idle_ttl_ms",
        "incarnation",
        "incoming",
        "is_ended",
        "last_lsn",
        "links",
        "memory_bytes",
        "outgoing",
        "read_at_ms",
        "read_noted_at_ms",
        "relationships",
        "relationships_by_external_id",
        "relationships_by_triple",
        "session_id",
        "textunit_vectors",
        "textunits",
        "textunits_by_document",
        "textunits_by_entity",
        "textunits_by_external_id",
        "tokens",
        "tokens_by_value",
        "touched_at_ms",
        "ttl_ms",
    )

    def __init__(self, session_id: str, incarnation: Lsn, created_at_ms: int, vector_dim: int) -> None:
        # canonical
        self.session_id = session_id
        self.incarnation = incarnation  # the LSN that began it: a namesake has another
        self.created_at_ms = created_at_ms
        self.touched_at_ms = created_at_ms
        self.read_noted_at_ms = created_at_ms
        self.ttl_ms = 0
        self.idle_ttl_ms = 0
        self.is_ended = False  # its time is over, and an answer has shown it
        self.documents: Table[Document] = Table()
        self.textunits: Table[TextUnit] = Table()
        self.entities: Table[Entity] = Table()
        self.relationships: Table[Relationship] = Table()
        self.communities: Table[Community] = Table()
        self.links: Table[tuple[int, int]] = Table()  # (text unit, entity), numbered in the order of linking
        self.tokens: Table[KeptToken] = Table()  # of writes that are carried out once, oldest first, without a gap
        self.textunit_vectors = VectorIndex(vector_dim)
        self.entity_vectors = VectorIndex(vector_dim)
        self.community_vectors = VectorIndex(vector_dim)
        # ephemeral
        self.last_lsn = NO_LSN
        self.changed_lsn = NO_LSN  # of the last record about it, of whatever kind
        self.read_at_ms = created_at_ms
        # derived
        self._clear_derived()

    def _clear_derived(self) -> None:
        self.documents_by_external_id: dict[str, int] = {}
        self.textunits_by_external_id: dict[str, int] = {}
        self.entities_by_external_id: dict[str, int] = {}
        self.relationships_by_external_id: dict[str, int] = {}
        self.communities_by_external_id: dict[str, int] = {}
        self.entities_by_title: dict[str, int] = {}
        self.relationships_by_triple: dict[tuple[int, int, str], int] = {}
        self.textunits_by_document: dict[int, dict[int, None]] = {}
        self.entities_by_textunit: dict[int, dict[int, int]] = {}  # to the number of the link
        self.textunits_by_entity: dict[int, dict[int, None]] = {}
        self.communities_by_entity: dict[int, dict[int, None]] = {}
        self.communities_by_relationship: dict[int, dict[int, None]] = {}
        self.outgoing: dict[int, array[int]] = {}
        self.incoming: dict[int, array[int]] = {}
        self.tokens_by_value: dict[bytes, int] = {}
        self.memory_bytes = 0

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def all_bytes(self) -> int:
        """What it weighs in the store as a whole: `memory_bytes` is what its quota counts."""
        return self.memory_bytes + limits.session_bytes(self.session_id)

    @property
    def last_access_ms(self) -> int:
        """When it was last written, touched or read."""
        return max(self.touched_at_ms, self.read_at_ms, self.read_noted_at_ms)

    @property
    def last_noted_ms(self) -> int:
        """The last use that the log knows of."""
        return max(self.touched_at_ms, self.read_noted_at_ms)

    def tables(self) -> tuple[Table[Any], ...]:
        """The tables, in the order in which their next ids are written down."""
        return (self.documents, self.textunits, self.entities, self.relationships, self.communities, self.links)

    def object_count(self) -> int:
        """Documents, text units, entities, relationships and communities together."""
        entities_and_edges = len(self.entities) + len(self.relationships)
        return len(self.documents) + len(self.textunits) + entities_and_edges + len(self.communities)

    def kept_token(self, token: bytes) -> KeptToken | None:
        """What is remembered of the write that was marked with a token."""
        number = self.tokens_by_value.get(token)
        return None if number is None else self.tokens.get(number)

    def oldest_token(self) -> KeptToken | None:
        """The one to be forgotten first."""
        return self.tokens.get(self.tokens.next_id - len(self.tokens))

    def holds_vectors(self) -> bool:
        """Whether any of its objects has an embedding."""
        return bool(self.entity_vectors or self.textunit_vectors or self.community_vectors)

    def linked_entities(self, textunit_id: int) -> Iterable[int]:
        """Entities that a text unit speaks of, in the order of linking."""
        return self.entities_by_textunit.get(textunit_id, _NO_IDS)

    def linked_textunits(self, entity_id: int) -> Iterable[int]:
        """Text units that speak of an entity, in the order of linking."""
        return self.textunits_by_entity.get(entity_id, _NO_IDS)

    def edges_from(self, entity_id: int) -> Collection[int]:
        """Ids of the relationships that begin at an entity, oldest first."""
        return self.outgoing.get(entity_id, _NO_EDGES)

    def edges_to(self, entity_id: int) -> Collection[int]:
        """Ids of the relationships that end at an entity, oldest first."""
        return self.incoming.get(entity_id, _NO_EDGES)

    # --- what is derived, kept up one object at a time ----------------------------------------------------------------

    def index_document(self, document: Document) -> None:
        """Follow an addition."""
        self.documents_by_external_id[document.external_id] = document.id
        self.memory_bytes += limits.document_bytes(document)

    def forget_document(self, document: Document) -> None:
        """Follow a deletion."""
        del self.documents_by_external_id[document.external_id]
        self.textunits_by_document.pop(document.id, None)
        self.memory_bytes -= limits.document_bytes(document)

    def index_textunit(self, textunit: TextUnit, vector_bytes: int) -> None:
        """Follow an addition."""
        self.textunits_by_external_id[textunit.external_id] = textunit.id
        self.textunits_by_document.setdefault(textunit.document_id, {})[textunit.id] = None
        self.memory_bytes += limits.textunit_bytes(textunit, vector_bytes)

    def forget_textunit(self, textunit: TextUnit, vector_bytes: int) -> None:
        """Follow a deletion."""
        del self.textunits_by_external_id[textunit.external_id]
        siblings = self.textunits_by_document[textunit.document_id]
        del siblings[textunit.id]
        if not siblings:
            del self.textunits_by_document[textunit.document_id]
        self.memory_bytes -= limits.textunit_bytes(textunit, vector_bytes)

    def index_entity(self, entity: Entity, vector_bytes: int) -> None:
        """Follow an addition."""
        self.entities_by_external_id[entity.external_id] = entity.id
        self.entities_by_title[entity.title] = entity.id
        self.memory_bytes += limits.entity_bytes(entity, vector_bytes)

    def forget_entity(self, entity: Entity, vector_bytes: int) -> None:
        """Follow a deletion."""
        del self.entities_by_external_id[entity.external_id]
        del self.entities_by_title[entity.title]
        self.memory_bytes -= limits.entity_bytes(entity, vector_bytes)

    def index_relationship(self, relationship: Relationship) -> None:
        """Follow an addition."""
        if relationship.external_id:
            self.relationships_by_external_id[relationship.external_id] = relationship.id
        source_id, target_id = relationship.source_id, relationship.target_id
        self.relationships_by_triple[source_id, target_id, relationship.type] = relationship.id
        # An array of numbers is nothing that the garbage collector has to walk, a list is.
        outgoing = self.outgoing.get(source_id)
        if outgoing is None:
            outgoing = self.outgoing[source_id] = array("Q")
        outgoing.append(relationship.id)
        incoming = self.incoming.get(target_id)
        if incoming is None:
            incoming = self.incoming[target_id] = array("Q")
        incoming.append(relationship.id)
        self.memory_bytes += limits.relationship_bytes(relationship)

    def forget_relationships(self, relationships: Collection[Relationship]) -> None:
        """Follow their deletion."""
        from_ends: defaultdict[int, list[int]] = defaultdict(list)
        to_ends: defaultdict[int, list[int]] = defaultdict(list)
        for relationship in relationships:
            if relationship.external_id:
                del self.relationships_by_external_id[relationship.external_id]
            source_id, target_id = relationship.source_id, relationship.target_id
            del self.relationships_by_triple[source_id, target_id, relationship.type]
            from_ends[source_id].append(relationship.id)
            to_ends[target_id].append(relationship.id)
            self.memory_bytes -= limits.relationship_bytes(relationship)
        for edges, ends in ((self.outgoing, from_ends), (self.incoming, to_ends)):
            for end, ids in ends.items():
                _without(edges, end, ids)

    def index_community(self, community: Community, vector_bytes: int) -> None:
        """Follow an addition."""
        if community.external_id:
            self.communities_by_external_id[community.external_id] = community.id
        for entity_id in community.entity_ids:
            self.communities_by_entity.setdefault(entity_id, {})[community.id] = None
        for relationship_id in community.relationship_ids:
            self.communities_by_relationship.setdefault(relationship_id, {})[community.id] = None
        self.memory_bytes += limits.community_bytes(community, vector_bytes)

    def forget_community(self, community: Community, vector_bytes: int) -> None:
        """Follow a deletion."""
        if community.external_id:
            del self.communities_by_external_id[community.external_id]
        for references, ids in (
            (self.communities_by_entity, community.entity_ids),
            (self.communities_by_relationship, community.relationship_ids),
        ):
            for id in dict.fromkeys(ids):
                del references[id][community.id]
                if not references[id]:
                    del references[id]
        self.memory_bytes -= limits.community_bytes(community, vector_bytes)

    def index_link(self, number: int, textunit_id: int, entity_id: int) -> None:
        """Follow a link."""
        self.entities_by_textunit.setdefault(textunit_id, {})[entity_id] = number
        self.textunits_by_entity.setdefault(entity_id, {})[textunit_id] = None
        self.memory_bytes += limits.LINK_BYTES

    def forget_link(self, textunit_id: int, entity_id: int) -> None:
        """Follow the end of a link."""
        for references, holder, held in (
            (self.entities_by_textunit, textunit_id, entity_id),
            (self.textunits_by_entity, entity_id, textunit_id),
        ):
            del references[holder][held]
            if not references[holder]:
                del references[holder]
        self.memory_bytes -= limits.LINK_BYTES

    def index_token(self, number: int, kept: KeptToken) -> None:
        """Follow an addition."""
        self.tokens_by_value[kept.token] = number
        self.memory_bytes += limits.KEPT_TOKEN_BYTES

    def forget_token(self, kept: KeptToken) -> None:
        """Follow a deletion."""
        del self.tokens_by_value[kept.token]
        self.memory_bytes -= limits.KEPT_TOKEN_BYTES

    def rebuild(self) -> Generator[None, None, None]:
        """Make all derived fields anew from the canonical ones, on the side; they take their places at the end.

        Yields between one object and the next; until it has ended nothing may change what is in the session.
        """
        new = copy(self)
        new._clear_derived()  # noqa: SLF001 (its own class)
        for document in self.documents:
            new.index_document(document)
            yield
        for textunit in self.textunits:
            new.index_textunit(textunit, self.textunit_vectors.stored_bytes(textunit.id))
            yield
        for entity in self.entities:
            new.index_entity(entity, self.entity_vectors.stored_bytes(entity.id))
            yield
        for relationship in self.relationships:
            new.index_relationship(relationship)
            yield
        for community in self.communities:
            new.index_community(community, self.community_vectors.stored_bytes(community.id))
            yield
        for number, (textunit_id, entity_id) in self.links.items():
            new.index_link(number, textunit_id, entity_id)
            yield
        for number, kept in enumerate(self.tokens, self.tokens.next_id - len(self.tokens)):
            new.index_token(number, kept)
            yield
        old = copy(self)
        for name in DERIVED:
            setattr(self, name, getattr(new, name))
        for name in DERIVED:
            held = getattr(old, name)
            if isinstance(held, dict):
                yield from _emptied(held)

    def dismantle(self) -> Iterator[None]:
        """Give its memory back piece by piece; nobody may look at it any more.

        Yields between one piece, of up to about a thousand objects, and the next.
        """
        for name in self.__slots__:
            held = getattr(self, name)
            if isinstance(held, Table | VectorIndex):
                yield from held.dismantle()
            elif isinstance(held, dict):
                yield from _emptied(held)


DERIVED = (
    "documents_by_external_id",
    "textunits_by_external_id",
    "entities_by_external_id",
    "relationships_by_external_id",
    "communities_by_external_id",
    "entities_by_title",
    "relationships_by_triple",
    "textunits_by_document",
    "entities_by_textunit",
    "textunits_by_entity",
    "communities_by_entity",
    "communities_by_relationship",
    "outgoing",
    "incoming",
    "tokens_by_value",
    "memory_bytes",
)
"""The fields of a session that `rebuild` makes anew."""


def _emptied(held: dict[Any, Any]) -> Iterator[None]:
    """Free a thousand entries at a time: all at once takes longer than anybody should wait."""
    while held:
        for _ in range(min(len(held), BLOCK_RECORDS)):
            held.popitem()
        yield


def _without(edges: dict[int, array[int]], end: int, ids: list[int]) -> None:
    if len(ids) == 1:
        edges[end].remove(ids[0])
    else:  # each removal moves what lies behind it: of many, that would be a second and more
        gone = set(ids)
        edges[end] = array("Q", [id for id in edges[end] if id not in gone])
    if not edges[end]:
        del edges[end]


class StoreState:
    """All sessions, and the LSN of the last mutation applied."""

    __slots__ = ("expiry_paused", "last_lsn", "memory_bytes", "serving_since_ms", "sessions", "vector_dim")

    def __init__(self, vector_dim: int) -> None:
        self.vector_dim = vector_dim
        self.sessions: dict[str, SessionState] = {}  # canonical
        self.last_lsn = NO_LSN  # canonical
        self.memory_bytes = 0  # derived: of all sessions, by estimate
        self.serving_since_ms = 0  # ephemeral
        self.expiry_paused = False  # ephemeral: the clock can not be believed just now

    def holds_vectors(self) -> bool:
        """Whether any session does."""
        return any(session.holds_vectors() for session in self.sessions.values())

    def take_dimension(self, vector_dim: int) -> None:
        """From here on embeddings have this many numbers.

        Raises:
            ValueError: there are some, of another dimension.
        """
        if self.holds_vectors():
            raise ValueError(f"expected vectors of dimension {self.vector_dim}, found some of {vector_dim}")
        self.vector_dim = vector_dim
        for session in self.sessions.values():
            session.textunit_vectors = VectorIndex(vector_dim)
            session.entity_vectors = VectorIndex(vector_dim)
            session.community_vectors = VectorIndex(vector_dim)

    def is_expired(self, session: SessionState, now_ms: int) -> bool:
        """Whether a session's time is over. Idle time counts from when the store began to serve, at the earliest."""
        if session.is_ended:
            return True
        if self.expiry_paused:
            return False
        if session.ttl_ms and session.created_at_ms + session.ttl_ms < now_ms:
            return True
        idle_since_ms = max(session.last_access_ms, self.serving_since_ms)
        return bool(session.idle_ttl_ms) and idle_since_ms + session.idle_ttl_ms < now_ms
