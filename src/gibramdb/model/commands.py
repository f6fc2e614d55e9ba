"""What a caller may ask for: a closed set of frozen values.

`session_id` is the name of a session, any non-empty text. Class attributes say what the command needs:

    permission     "read", "write", "admin", or "none"
    session_rule   "unused", "required" (must be alive), "created" (made if absent), "optional"
    handler        which of the database's ways carries it out: "read", "write", "snapshots", or one of its own

One long module, because the set is closed: who adds a command sees all the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from gibramdb.errors import InvalidArgumentError, in_brief
from gibramdb.model.ids import Lsn
from gibramdb.model.knowledge import (
    Embedding,
    NewCommunity,
    NewDocument,
    NewEntity,
    NewRelationship,
    NewTextUnit,
    to_float32,
)
from gibramdb.model.scope import SessionScope

SEED_KINDS = ("textunit", "entity", "community")
"""What has embeddings; a query searches them in this order unless told otherwise."""


def only_asks(batch: Sequence[Command]) -> bool:
    """Whether nothing in it changes anything."""
    return all(isinstance(command, ReadCommand) for command in batch)


def check_kind(kind: str) -> str:
    """The kind. Raises InvalidArgumentError if it is none that has embeddings."""
    if kind not in SEED_KINDS:
        raise InvalidArgumentError(f"kind must be one of {', '.join(SEED_KINDS)}, got {in_brief(kind)}")
    return kind


class Command(msgspec.Struct, frozen=True, gc=False):
    """Base of all commands."""

    permission: ClassVar[str] = "read"
    session_rule: ClassVar[str] = "required"
    handler: ClassVar[str] = "read"


class RepeatableCommand(Command, frozen=True, gc=False, kw_only=True):
    """`token`: what the caller marks a write with, so that asked for twice it is carried out once; empty is none."""

    token: bytes = b""


class WriteCommand(RepeatableCommand, frozen=True, gc=False):
    """May change the state; goes through decide.

    A write with a `token` that its session remembers is answered as it was the first time, and changes nothing.
    `is_remembered`: whether a token means anything here.
    """

    permission: ClassVar[str] = "write"
    handler: ClassVar[str] = "write"
    is_remembered: ClassVar[bool] = True
    session_id: str


class ReadCommand(Command, frozen=True, gc=False):
    """Changes nothing that a crash could be asked to give back."""


class AdminCommand(Command, frozen=True, gc=False):
    """About snapshots and the log; changes no object."""

    permission: ClassVar[str] = "admin"
    session_rule: ClassVar[str] = "unused"
    handler: ClassVar[str] = "snapshots"


# --- the server -------------------------------------------------------------------------------------------------------


class Ping(ReadCommand, frozen=True, gc=False):
    """Answers Pong. Depends on nothing."""

    session_rule: ClassVar[str] = "unused"
    handler: ClassVar[str] = "exempt"


class GetHealth(ReadCommand, frozen=True, gc=False):
    """Answers Health. Depends on nothing. Within a `scope`, only what does not tell of others; not on the wire."""

    session_rule: ClassVar[str] = "unused"
    handler: ClassVar[str] = "exempt"
    scope: SessionScope | None = None


class GetInfo(ReadCommand, frozen=True, gc=False):
    """Answers Info: of one session, or of the store when `session_id` is empty, as far as `scope` goes.

    `scope` is set by the server and not on the wire.
    """

    session_rule: ClassVar[str] = "optional"
    session_id: str = ""
    scope: SessionScope | None = None


class GetDigest(ReadCommand, frozen=True, gc=False):
    """Answers Digest: a checksum over the canonical state of one session, or of the whole store.

    Reads everything once: some seconds for a million entities, during which the store answers PING and HEALTH alone.
    """

    permission: ClassVar[str] = "admin"
    session_rule: ClassVar[str] = "optional"
    handler: ClassVar[str] = "digest"
    session_id: str = ""


# --- sessions ---------------------------------------------------------------------------------------------------------


class ListSessions(ReadCommand, frozen=True, gc=False):
    """Answers a SessionPage: unexpired sessions with names above `cursor`, as far as `scope` goes.

    A `limit` of 0 or less means all that one answer can hold, since clients of GibRAM ask for no page. `scope` is set
    by the server and not on the wire.
    """

    session_rule: ClassVar[str] = "unused"
    cursor: str = ""
    limit: int = 0
    scope: SessionScope | None = None


class GetSession(ReadCommand, frozen=True, gc=False):
    """Answers one SessionInfo."""

    session_id: str


class DeleteSession(WriteCommand, frozen=True, gc=False):
    """Removes a session and all it holds; works on an expired one too."""

    is_remembered: ClassVar[bool] = False
    permission: ClassVar[str] = "admin"


class SetSessionTtl(WriteCommand, frozen=True, gc=False):
    """Sets when a session ends. Seconds; 0 leaves a value as it is, a negative one clears it."""

    ttl_s: int = 0
    idle_ttl_s: int = 0


class TouchSession(WriteCommand, frozen=True, gc=False):
    """Counts as a use of the session."""


class ExpireSession(WriteCommand, frozen=True, gc=False):
    """The store's own: ends a session whose time is over. Not on the wire."""

    is_remembered: ClassVar[bool] = False


# --- snapshots and the log --------------------------------------------------------------------------------------------


class Save(AdminCommand, frozen=True, gc=False):
    """Writes a copy of everything to `path`, inside the data directory, and publishes a snapshot; answers when done."""

    path: str = ""


class BackgroundSave(AdminCommand, frozen=True, gc=False):
    """As SAVE, answered at once; BACKUP_STATUS tells how it goes."""

    path: str = ""


class GetLastSave(AdminCommand, frozen=True, gc=False):
    """Answers Saved: when and where the last copy was written."""

    permission: ClassVar[str] = "read"


class Restore(AdminCommand, frozen=True, gc=False):
    """Puts a copy, or an older snapshot, in the place of everything; answered at once, BACKUP_STATUS tells the rest."""

    path: str


class GetBackupStatus(AdminCommand, frozen=True, gc=False):
    """Answers BackupStatus."""

    permission: ClassVar[str] = "read"


class Checkpoint(AdminCommand, frozen=True, gc=False):
    """Publishes a snapshot and begins the next generation of the log; answers Done with the LSN that it covers."""


class TruncateLog(AdminCommand, frozen=True, gc=False):
    """Drops generations of the log up to an LSN (0: as far as may be), never one that a kept snapshot needs.

    Answers Done with the LSN up to which the log is gone.
    """

    target_lsn: int = 0


class RotateLog(AdminCommand, frozen=True, gc=False):
    """Begins the next generation of the log; answers Done with the number of generations on disk."""


class GetLogStatus(AdminCommand, frozen=True, gc=False):
    """Answers LogStatus."""

    permission: ClassVar[str] = "read"


# --- adding -----------------------------------------------------------------------------------------------------------


class AddDocuments(WriteCommand, frozen=True, gc=False):
    """Adds all of the documents, or none."""

    session_rule: ClassVar[str] = "created"
    documents: tuple[NewDocument, ...]
    bulk: bool = True


class AddTextUnits(WriteCommand, frozen=True, gc=False):
    """Adds all of the text units, or none."""

    session_rule: ClassVar[str] = "created"
    textunits: tuple[NewTextUnit, ...]
    bulk: bool = True


class AddEntities(WriteCommand, frozen=True, gc=False):
    """Adds all of the entities, or none."""

    session_rule: ClassVar[str] = "created"
    entities: tuple[NewEntity, ...]
    bulk: bool = True


class AddRelationships(WriteCommand, frozen=True, gc=False):
    """Adds all of the relationships, or none."""

    session_rule: ClassVar[str] = "created"
    relationships: tuple[NewRelationship, ...]
    bulk: bool = True


class AddCommunity(WriteCommand, frozen=True, gc=False):
    """Adds one community made by hand."""

    session_rule: ClassVar[str] = "created"
    community: NewCommunity


# --- changing and deleting --------------------------------------------------------------------------------------------


class LinkTextUnitEntity(WriteCommand, frozen=True, gc=False):
    """Says that a text unit speaks of an entity. Saying it twice changes nothing."""

    textunit_id: int
    entity_id: int


class UnlinkTextUnitEntity(WriteCommand, frozen=True, gc=False):
    """Takes a link back. Where there is none between the two, nothing changes."""

    textunit_id: int
    entity_id: int


class UpdateEntityDescription(WriteCommand, frozen=True, gc=False):
    """Replaces a description and, if an embedding is given, the vector."""

    id: int
    description: str
    embedding: Embedding = b""

    def __post_init__(self) -> None:
        if not isinstance(self.embedding, bytes) or len(self.embedding) % 4:
            msgspec.structs.force_setattr(self, "embedding", to_float32(self.embedding))


class DeleteDocument(WriteCommand, frozen=True, gc=False):
    """Refused while text units belong to it."""

    id: int


class DeleteTextUnit(WriteCommand, frozen=True, gc=False):
    """Refused while entities are linked to it."""

    id: int


class DeleteEntity(WriteCommand, frozen=True, gc=False):
    """Refused while text units, relationships or communities refer to it."""

    id: int


class DeleteRelationship(WriteCommand, frozen=True, gc=False):
    """Refused while communities refer to it."""

    id: int


class DeleteCommunity(WriteCommand, frozen=True, gc=False):
    """Never refused."""

    id: int


class CascadeDeleteDocument(WriteCommand, frozen=True, gc=False):
    """Deletes a document with its text units and their links, all at once."""

    id: int


class CascadeDeleteTextUnit(WriteCommand, frozen=True, gc=False):
    """Deletes a text unit with its links."""

    id: int


class CascadeDeleteEntity(WriteCommand, frozen=True, gc=False):
    """Deletes an entity with its links, its relationships, and the place of all these in communities."""

    id: int


class CascadeDeleteRelationship(WriteCommand, frozen=True, gc=False):
    """Deletes a relationship with its place in communities."""

    id: int


class DetectedCluster(msgspec.Struct, frozen=True, gc=False):
    """One cluster that an algorithm found; `parent` is an index to an earlier one of the same list, -1 at the top."""

    level: int
    entity_ids: tuple[int, ...]
    parent: int = -1
    relationship_ids: tuple[int, ...] = ()


class DetectCommunities(WriteCommand, frozen=True, gc=False):
    """Finds communities with Leiden and replaces those detected before. Answers them.

    resolution: above 0; 0 means 1.0. iterations: full Leiden passes; 0 means 10. `asker` is whoever it is computed for,
    since computations are shared out among them; set by the server and not on the wire.
    """

    handler: ClassVar[str] = "detect"
    is_remembered: ClassVar[bool] = False
    resolution: float = 1.0
    iterations: int = 10
    asker: str = ""


class DetectHierarchy(WriteCommand, frozen=True, gc=False):
    """The same in levels: each community of three or more members is split again, one level down.

    levels_max: 1 to 5; anything else means 5. asker: as in DetectCommunities.
    """

    handler: ClassVar[str] = "detect"
    is_remembered: ClassVar[bool] = False
    levels_max: int = 5
    resolution: float = 1.0
    asker: str = ""


class ReplaceCommunities(WriteCommand, frozen=True, gc=False):
    """The store's own: the second half of a detection, decided against the state of now. Not on the wire."""

    is_remembered: ClassVar[bool] = False
    incarnation: Lsn
    clusters: tuple[DetectedCluster, ...]
    hierarchy: bool


class RebuildIndexes(WriteCommand, frozen=True, gc=False):
    """Builds what is derived anew from what is canonical."""

    handler: ClassVar[str] = "rebuild"
    is_remembered: ClassVar[bool] = False
    permission: ClassVar[str] = "admin"


# --- reading ----------------------------------------------------------------------------------------------------------


class GetDocument(ReadCommand, frozen=True, gc=False):
    """Answers one Document."""

    session_id: str
    id: int


class GetTextUnit(ReadCommand, frozen=True, gc=False):
    """Answers one TextUnit."""

    session_id: str
    id: int


class GetEntity(ReadCommand, frozen=True, gc=False):
    """Answers one Entity."""

    session_id: str
    id: int


class GetEntityByTitle(ReadCommand, frozen=True, gc=False):
    """Answers one Entity; the title is normalised first."""

    session_id: str
    title: str


class GetRelationship(ReadCommand, frozen=True, gc=False):
    """Answers one Relationship."""

    session_id: str
    id: int


class GetCommunity(ReadCommand, frozen=True, gc=False):
    """Answers one Community."""

    session_id: str
    id: int


class GetDocumentByExternalId(ReadCommand, frozen=True, gc=False):
    """Answers one Document by the name that its caller gave it."""

    session_id: str
    external_id: str


class GetTextUnitByExternalId(ReadCommand, frozen=True, gc=False):
    """Answers one TextUnit by the name that its caller gave it."""

    session_id: str
    external_id: str


class GetEntityByExternalId(ReadCommand, frozen=True, gc=False):
    """Answers one Entity by the name that its caller gave it."""

    session_id: str
    external_id: str


class GetRelationshipByExternalId(ReadCommand, frozen=True, gc=False):
    """Answers one Relationship by the name that its caller gave it."""

    session_id: str
    external_id: str


class GetCommunityByExternalId(ReadCommand, frozen=True, gc=False):
    """Answers one Community by the name that its caller gave it."""

    session_id: str
    external_id: str


class GetDocuments(ReadCommand, frozen=True, gc=False):
    """Answers those that are there, in the order asked for."""

    session_id: str
    ids: tuple[int, ...]


class GetTextUnits(ReadCommand, frozen=True, gc=False):
    """Answers those that are there, in the order asked for."""

    session_id: str
    ids: tuple[int, ...]


class GetEntities(ReadCommand, frozen=True, gc=False):
    """Answers those that are there, in the order asked for."""

    session_id: str
    ids: tuple[int, ...]


class GetRelationships(ReadCommand, frozen=True, gc=False):
    """Answers those that are there, in the order asked for."""

    session_id: str
    ids: tuple[int, ...]


class GetEmbeddings(ReadCommand, frozen=True, gc=False):
    """Answers StoredEmbeddings: of those that are there and have one, in the order asked for. `kind`: of SEED_KINDS."""

    session_id: str
    kind: str
    ids: tuple[int, ...]


class ListDocuments(ReadCommand, frozen=True, gc=False):
    """Answers a Page of documents with ids above `cursor`."""

    session_id: str
    cursor: int = 0
    limit: int = 0


class ListTextUnits(ReadCommand, frozen=True, gc=False):
    """Answers a Page of text units with ids above `cursor`."""

    session_id: str
    cursor: int = 0
    limit: int = 0


class ListEntities(ReadCommand, frozen=True, gc=False):
    """Answers a Page of entities with ids above `cursor`."""

    session_id: str
    cursor: int = 0
    limit: int = 0


class ListRelationships(ReadCommand, frozen=True, gc=False):
    """Answers a Page of relationships with ids above `cursor`."""

    session_id: str
    cursor: int = 0
    limit: int = 0


class ListCommunities(ReadCommand, frozen=True, gc=False):
    """Answers a Page of communities with ids above `cursor`."""

    session_id: str
    cursor: int = 0
    limit: int = 0


class Query(ReadCommand, frozen=True, gc=False):
    """Vector seeds, then a walk along relationships, then ranking. Answers a QueryResult.

    vector: shape (vector_dim,); may be empty when `seed_entity_ids` is given. A limit of 0 means its default; `hops`
    below 0 means no walk, and 0 means the default of 2.
    """

    session_id: str
    vector: Embedding = b""
    search_types: tuple[str, ...] = ()
    top_k: int = 0
    hops: int = 0
    entities_max: int = 0
    textunits_max: int = 0
    communities_max: int = 0
    seed_entity_ids: tuple[int, ...] = ()
    entity_types: tuple[str, ...] = ()
    relationship_types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.vector, bytes) or len(self.vector) % 4:
            msgspec.structs.force_setattr(self, "vector", to_float32(self.vector))


class Explain(ReadCommand, frozen=True, gc=False):
    """Answers the Explanation of an earlier query of the same session."""

    session_id: str
    query_id: int
