"""The caller's face: a store and its sessions, one short method per command.

The same classes stand before a store in this process and before a server; they differ in the executor beneath. The
async twin in `async_session.py` is generated from this file by `tools/generate_async.py`.

Errors are raised as they were decided: `gibramdb.errors` says what each class means. A method that adds several objects
sends them in chunks; each chunk is all or nothing.

One long module, because a reader looks for a method in one place, and the twin is made of one file.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence, Sized
from numbers import Real
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from gibramdb.errors import GibramError, InvalidArgumentError, in_brief
from gibramdb.model import commands
from gibramdb.model.commands import Command, WriteCommand
from gibramdb.model.field_types import check_iterable, links_of, search_types_of, several
from gibramdb.model.knowledge import (
    Community,
    Document,
    Embedding,
    Entity,
    NewCommunity,
    NewDocument,
    NewEntity,
    NewRelationship,
    NewTextUnit,
    Relationship,
    TextUnit,
    float32_array,
    to_float32,
)
from gibramdb.model.results import (
    BackupStatus,
    Created,
    Digest,
    Done,
    Explanation,
    Health,
    Hierarchy,
    Info,
    LogStatus,
    Page,
    QueryResult,
    Saved,
    SessionInfo,
    SessionPage,
    StoredEmbeddings,
)

CHUNK_OBJECTS_MAX = 5_000
CHUNK_BYTES_MAX = 2 * 1024 * 1024
"""Bulk adds are cut into chunks of this many objects and about this many bytes: half of the default frame limit."""
EMBEDDINGS_ASKED_FIRST = 250
"""Before the dimension is known: at the highest there is, as much as one answer may hold."""
SESSIONS_PER_PAGE = 1_000
TIMEOUT_S_MAX = 1_000_000
"""More than eleven days: for no limit at all."""
_OBJECT_BYTES = 64
"""What an object costs on the wire beside its texts and its vector, generously."""

T = TypeVar("T")
New = TypeVar("New", NewDocument, NewTextUnit, NewEntity, NewRelationship)
Embedded = TypeVar("Embedded", NewTextUnit, NewEntity)
Embeddings = NDArray[np.floating] | Iterable[Embedding]
"""A row for each object: shape (objects, vector_dim), or the rows one by one."""
Progress = Callable[[int, int | None], None]
"""Told after each chunk how many objects are stored so far, and of how many: None where nobody knows yet."""


class Executor(Protocol):
    """Takes commands to a store."""

    def execute(self, command: Command) -> Any:
        """The command's result. Raises the error that it was refused with."""
        ...

    def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """Run in order; raises the first error, with the results of what ran before it, which stays."""
        ...

    def with_timeout(self, timeout_s: float) -> Self:
        """One that takes commands to the same store, and waits no longer than this for each."""
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class Marking:
    """Marks the writes that pass, but for those marked already, each with the next token of one piece of work."""

    def __init__(self, executor: Executor, tokens: Tokens) -> None:
        self._executor = executor
        self._tokens = tokens

    def execute(self, command: Command) -> Any:
        """See Executor."""
        return self._executor.execute(self._marked(command))

    def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See Executor."""
        return self._executor.execute_batch([self._marked(command) for command in batch])

    def _marked(self, command: Command) -> Command:
        if not isinstance(command, WriteCommand) or command.token:
            return command
        return msgspec.structs.replace(command, token=self._tokens.take())

    def with_timeout(self, timeout_s: float) -> Self:
        """See Executor. The two share their tokens: one that both gave would be answered and not carried out."""
        return type(self)(self._executor.with_timeout(timeout_s), self._tokens)

    def close(self) -> None:
        """See Executor."""
        self._executor.close()


class Store:
    """A store: its sessions, its figures. Use it as a context manager, or call `close`."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Make durable what was accepted and let go. A second call does nothing."""
        self._executor.close()

    def with_timeout(self, timeout_s: float) -> Self:
        """The same store, whose calls, and those of its sessions, take no longer than `timeout_s` seconds each.

        A call whose time is over raises OutcomeUnknownError if it may have changed something, and ConnectionFailedError
        or UnavailableError if it has not. Closing either closes both.
        """
        return type(self)(self._executor.with_timeout(check_timeout_s(timeout_s)))

    def session(self, session_id: str) -> Session:
        """A session by name. Nothing is asked of the store: the first write creates it."""
        return Session(self._executor, session_id)

    def execute(self, command: Command) -> Any:
        """The result of any command of `gibramdb.commands`; the other methods say the same in words."""
        return self._executor.execute(command)

    def execute_many(self, batch: Iterable[Command]) -> list[Any]:
        """Results of commands, run in order in few round trips.

        Raises the first error; what ran before it stays, and is answered by the error's `results`.
        """
        return self._executor.execute_batch(several("batch", batch))

    def sessions(self) -> list[SessionInfo]:
        """All sessions that are alive, by name; asked for page by page."""
        found: list[SessionInfo] = []
        cursor = ""
        while True:
            page = cast("SessionPage", self._executor.execute(commands.ListSessions(cursor, SESSIONS_PER_PAGE)))
            found += page.items
            cursor = page.next_cursor
            if not cursor:
                return found

    def ping(self) -> None:
        """Return if the store answers."""
        self._executor.execute(commands.Ping())

    def info(self) -> Info:
        """Counts over all sessions, and how the store is set up."""
        return cast("Info", self._executor.execute(commands.GetInfo()))

    def health(self) -> Health:
        """How the store is; the operator's page explains each field."""
        return cast("Health", self._executor.execute(commands.GetHealth()))

    def digest(self) -> Digest:
        """A checksum over everything canonical. Reads it all: about 2 s for a million entities."""
        return cast("Digest", self._executor.execute(commands.GetDigest()))

    # --- snapshots and the log ----------------------------------------------------------------------------------------

    def save(self, path: str = "") -> None:
        """Write a copy of everything to `path` (relative to the data directory), and publish a snapshot."""
        self._executor.execute(commands.Save(path))

    def save_in_background(self, path: str = "") -> None:
        """As `save`; returns at once, `backup_status` tells how it goes."""
        self._executor.execute(commands.BackgroundSave(path))

    def last_save(self) -> Saved:
        """When and where the last copy was written."""
        return cast("Saved", self._executor.execute(commands.GetLastSave()))

    def restore_in_background(self, path: str) -> None:
        """Put a copy, or an older snapshot, in the place of everything; `backup_status` tells how it goes.

        Until it is done the store holds what it held, and if it fails, from then on too.
        """
        self._executor.execute(commands.Restore(path))

    def backup_status(self) -> BackupStatus:
        """The save or restore that runs, or the last one."""
        return cast("BackupStatus", self._executor.execute(commands.GetBackupStatus()))

    def checkpoint(self) -> int:
        """Publish a snapshot and begin the next generation of the log. Returns the LSN that the snapshot covers."""
        return cast("Done", self._executor.execute(commands.Checkpoint())).id

    def rotate_log(self) -> int:
        """Begin the next generation of the log. Returns how many generations are on disk."""
        return cast("Done", self._executor.execute(commands.RotateLog())).id

    def truncate_log(self, target_lsn: int = 0) -> int:
        """Drop what every kept snapshot covers, up to `target_lsn` if given. Returns the LSN up to which it is gone."""
        return cast("Done", self._executor.execute(commands.TruncateLog(target_lsn))).id

    def log_status(self) -> LogStatus:
        """Where the log stands."""
        return cast("LogStatus", self._executor.execute(commands.GetLogStatus()))


class Session:
    """One session: documents, text units, entities, relationships, communities, and queries over them."""

    def __init__(self, executor: Executor, session_id: str) -> None:
        self._executor = executor
        self.id = session_id

    def __repr__(self) -> str:
        return f"Session({self.id!r})"

    def with_timeout(self, timeout_s: float) -> Self:
        """The same session, whose calls take no longer than `timeout_s` seconds each; see Store.with_timeout."""
        return type(self)(self._executor.with_timeout(check_timeout_s(timeout_s)), self.id)

    def once(self, token: bytes) -> Self:
        """The same session for one piece of work that is written once, however often it is asked for.

        Every write through it is marked with the token, or one that follows from it. Whoever does the same work again,
        after a timeout or a crash on either side, takes `once` with the same token again and makes the same calls in
        the same order: what was carried out is answered as it was then, the rest is carried out now.

        token: 1 to 64 bytes that no other work in this session uses.

        Raises:
            InvalidArgumentError: it is empty; and when writing: it is too long, or was used for another write.
        """
        if type(token) is not bytes or not token:
            raise InvalidArgumentError(f"a token is 1 to 64 bytes, got {in_brief(token)}")
        return type(self)(Marking(self._executor, Tokens(token)), self.id)

    # --- the session itself -------------------------------------------------------------------------------------------

    def info(self) -> SessionInfo:
        """Its times and counts. Raises SessionNotFoundError, SessionExpiredError."""
        return cast("SessionInfo", self._executor.execute(commands.GetSession(self.id)))

    def delete(self) -> None:
        """Remove it with all it holds. Raises SessionNotFoundError."""
        self._executor.execute(commands.DeleteSession(self.id))

    def set_ttl(self, ttl_s: int = 0, idle_ttl_s: int = 0) -> None:
        """Seconds after creation, and after the last use, at which it ends. 0 leaves a value, negative clears it."""
        self._executor.execute(commands.SetSessionTtl(self.id, ttl_s, idle_ttl_s))

    def touch(self) -> None:
        """Count as a use."""
        self._executor.execute(commands.TouchSession(self.id))

    def digest(self) -> Digest:
        """A checksum over everything canonical in it."""
        return cast("Digest", self._executor.execute(commands.GetDigest(self.id)))

    def rebuild_indexes(self) -> None:
        """Build what is derived anew from what is canonical."""
        self._executor.execute(commands.RebuildIndexes(self.id))

    # --- documents ----------------------------------------------------------------------------------------------------

    def add_document(self, external_id: str, filename: str = "") -> int:
        """Add one; returns its id."""
        new = (NewDocument(external_id, filename),)
        return cast("Created", self._executor.execute(commands.AddDocuments(self.id, new, bulk=False))).ids[0]

    def add_documents(self, documents: Iterable[NewDocument], *, on_progress: Progress | None = None) -> list[int]:
        """Add many; returns their ids in order. Up to 5,000 (and 2 MiB) are all or nothing; more go in such chunks."""
        check_iterable("documents", documents)
        return self._add(documents, commands.AddDocuments, _document_bytes, total_of(documents), on_progress)

    def get_document(self, id: int) -> Document:
        """One document, with the ids of its text units. Raises NotFoundError."""
        return cast("Document", self._executor.execute(commands.GetDocument(self.id, id)))

    def get_documents(self, ids: Iterable[int]) -> list[Document]:
        """Those that are there, in the order of `ids`; of more than 5,000, in such chunks."""
        return self._get(ids, commands.GetDocuments)

    def documents(self) -> Iterator[Document]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[Document]", self._executor.execute(commands.ListDocuments(self.id, cursor)))
            for item in page.items:  # noqa: UP028 (the async twin can not delegate)
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    def delete_document(self, id: int) -> None:
        """Raises StillReferencedError while text units belong to it."""
        self._executor.execute(commands.DeleteDocument(self.id, id))

    def get_document_by_external_id(self, external_id: str) -> Document:
        """One document by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetDocumentByExternalId(self.id, external_id)
        return cast("Document", self._executor.execute(command))

    def cascade_delete_document(self, id: int) -> None:
        """Delete it with its text units and their links, all at once. Raises NotFoundError."""
        self._executor.execute(commands.CascadeDeleteDocument(self.id, id))

    # --- text units ---------------------------------------------------------------------------------------------------

    def add_textunit(
        self, external_id: str, document_id: int, content: str, embedding: Embedding = b"", token_count: int = 0
    ) -> int:
        """Add one; returns its id. embedding: shape (vector_dim,)."""
        new = (NewTextUnit(external_id, document_id, content, embedding, token_count),)
        return cast("Created", self._executor.execute(commands.AddTextUnits(self.id, new, bulk=False))).ids[0]

    def add_textunits(
        self,
        textunits: Iterable[NewTextUnit],
        *,
        embeddings: Embeddings | None = None,
        on_progress: Progress | None = None,
    ) -> list[int]:
        """Add many; returns their ids in order. Up to 5,000 (and 2 MiB) are all or nothing; more go in such chunks.

        embeddings: a row for each of them, in place of those that they carry themselves.
        """
        check_iterable("textunits", textunits)
        items = _with_embeddings(textunits, embeddings)
        return self._add(items, commands.AddTextUnits, _textunit_bytes, total_of(textunits), on_progress)

    def get_textunit(self, id: int) -> TextUnit:
        """One text unit, with the ids of the entities linked to it. Raises NotFoundError."""
        return cast("TextUnit", self._executor.execute(commands.GetTextUnit(self.id, id)))

    def get_textunits(self, ids: Iterable[int]) -> list[TextUnit]:
        """Those that are there, in the order of `ids`; of more than 5,000, in such chunks."""
        return self._get(ids, commands.GetTextUnits)

    def textunits(self) -> Iterator[TextUnit]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[TextUnit]", self._executor.execute(commands.ListTextUnits(self.id, cursor)))
            for item in page.items:  # noqa: UP028 (the async twin can not delegate)
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    def link(self, textunit_id: int, entity_id: int) -> None:
        """Say that a text unit speaks of an entity; saying it again changes nothing."""
        self._executor.execute(commands.LinkTextUnitEntity(self.id, textunit_id, entity_id))

    def link_many(self, pairs: Iterable[tuple[int, int]], *, on_progress: Progress | None = None) -> None:
        """Many links, each (text unit, entity), in few round trips. Stops at the first that fails."""
        check_iterable("pairs", pairs)
        total, done = total_of(pairs), 0
        try:
            for chunk in _even_chunks(pairs):
                self._executor.execute_batch(links_of(self.id, chunk, done))
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, total)
        except GibramError as error:
            if not done:
                raise
            told = f"counted from pair {done}: those before it are linked"
            raise ended_early(error, error.results, told) from error

    def delete_textunit(self, id: int) -> None:
        """Raises StillReferencedError while entities are linked to it."""
        self._executor.execute(commands.DeleteTextUnit(self.id, id))

    def unlink(self, textunit_id: int, entity_id: int) -> None:
        """Take a link back; where there is none, nothing changes."""
        self._executor.execute(commands.UnlinkTextUnitEntity(self.id, textunit_id, entity_id))

    def get_textunit_by_external_id(self, external_id: str) -> TextUnit:
        """One text unit by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetTextUnitByExternalId(self.id, external_id)
        return cast("TextUnit", self._executor.execute(command))

    def cascade_delete_textunit(self, id: int) -> None:
        """Delete it with its links to entities, all at once. Raises NotFoundError."""
        self._executor.execute(commands.CascadeDeleteTextUnit(self.id, id))

    # --- entities -----------------------------------------------------------------------------------------------------

    def add_entity(
        self, external_id: str, title: str, type: str = "", description: str = "", embedding: Embedding = b""
    ) -> int:
        """Add one; returns its id. The title is stored trimmed and upper-cased. embedding: shape (vector_dim,)."""
        new = (NewEntity(external_id, title, type, description, embedding),)
        return cast("Created", self._executor.execute(commands.AddEntities(self.id, new, bulk=False))).ids[0]

    def add_entities(
        self,
        entities: Iterable[NewEntity],
        *,
        embeddings: Embeddings | None = None,
        on_progress: Progress | None = None,
    ) -> list[int]:
        """Add many; returns their ids in order. Up to 5,000 (and 2 MiB) are all or nothing; more go in such chunks.

        embeddings: a row for each of them, in place of those that they carry themselves.
        """
        check_iterable("entities", entities)
        items = _with_embeddings(entities, embeddings)
        return self._add(items, commands.AddEntities, _entity_bytes, total_of(entities), on_progress)

    def get_entity(self, id: int) -> Entity:
        """One entity, with the ids of the text units linked to it. Raises NotFoundError."""
        return cast("Entity", self._executor.execute(commands.GetEntity(self.id, id)))

    def get_entity_by_title(self, title: str) -> Entity:
        """One entity by its title, however it is written in upper and lower case. Raises NotFoundError."""
        return cast("Entity", self._executor.execute(commands.GetEntityByTitle(self.id, title)))

    def get_entities(self, ids: Iterable[int]) -> list[Entity]:
        """Those that are there, in the order of `ids`; of more than 5,000, in such chunks."""
        return self._get(ids, commands.GetEntities)

    def entities(self) -> Iterator[Entity]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[Entity]", self._executor.execute(commands.ListEntities(self.id, cursor)))
            for item in page.items:  # noqa: UP028 (the async twin can not delegate)
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    def update_entity_description(self, id: int, description: str, embedding: Embedding = b"") -> None:
        """Replace the description and, if one is given, the embedding."""
        self._executor.execute(commands.UpdateEntityDescription(self.id, id, description, embedding))

    def delete_entity(self, id: int) -> None:
        """Raises StillReferencedError while text units, relationships or communities refer to it."""
        self._executor.execute(commands.DeleteEntity(self.id, id))

    def get_entity_by_external_id(self, external_id: str) -> Entity:
        """One entity by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetEntityByExternalId(self.id, external_id)
        return cast("Entity", self._executor.execute(command))

    def cascade_delete_entity(self, id: int) -> None:
        """Delete it with its links, its relationships, their place in communities, at once. Raises NotFoundError."""
        self._executor.execute(commands.CascadeDeleteEntity(self.id, id))

    # --- relationships ------------------------------------------------------------------------------------------------

    def add_relationship(
        self,
        source_id: int,
        target_id: int,
        type: str = "",
        description: str = "",
        weight: float = 1.0,
        external_id: str = "",
    ) -> int:
        """Add one; returns its id. Unique by (source, target, type). A weight of 0 means 1.0."""
        new = (NewRelationship(source_id, target_id, type, description, weight, external_id),)
        return cast("Created", self._executor.execute(commands.AddRelationships(self.id, new, bulk=False))).ids[0]

    def add_relationships(
        self, relationships: Iterable[NewRelationship], *, on_progress: Progress | None = None
    ) -> list[int]:
        """Add many; returns their ids in order. Up to 5,000 (and 2 MiB) are all or nothing; more go in such chunks."""
        check_iterable("relationships", relationships)
        total = total_of(relationships)
        return self._add(relationships, commands.AddRelationships, _relationship_bytes, total, on_progress)

    def get_relationship(self, id: int) -> Relationship:
        """One relationship. Raises NotFoundError."""
        return cast("Relationship", self._executor.execute(commands.GetRelationship(self.id, id)))

    def get_relationships(self, ids: Iterable[int]) -> list[Relationship]:
        """Those that are there, in the order of `ids`; of more than 5,000, in such chunks."""
        return self._get(ids, commands.GetRelationships)

    def relationships(self) -> Iterator[Relationship]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[Relationship]", self._executor.execute(commands.ListRelationships(self.id, cursor)))
            for item in page.items:  # noqa: UP028 (the async twin can not delegate)
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    def delete_relationship(self, id: int) -> None:
        """Raises StillReferencedError while communities refer to it."""
        self._executor.execute(commands.DeleteRelationship(self.id, id))

    def get_relationship_by_external_id(self, external_id: str) -> Relationship:
        """One relationship by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetRelationshipByExternalId(self.id, external_id)
        return cast("Relationship", self._executor.execute(command))

    def cascade_delete_relationship(self, id: int) -> None:
        """Delete it with its place in communities, all at once. Raises NotFoundError."""
        self._executor.execute(commands.CascadeDeleteRelationship(self.id, id))

    # --- communities --------------------------------------------------------------------------------------------------

    def add_community(self, community: NewCommunity) -> int:
        """Add one made by hand; returns its id. Detection leaves it alone."""
        return cast("Created", self._executor.execute(commands.AddCommunity(self.id, community))).ids[0]

    def get_community(self, id: int) -> Community:
        """One community. Raises NotFoundError."""
        return cast("Community", self._executor.execute(commands.GetCommunity(self.id, id)))

    def delete_community(self, id: int) -> None:
        """Raises NotFoundError."""
        self._executor.execute(commands.DeleteCommunity(self.id, id))

    def detect_communities(self, resolution: float = 1.0, iterations: int = 10) -> list[Community]:
        """Leiden over the whole graph; replaces what was detected before. Higher resolution, smaller communities."""
        command = commands.DetectCommunities(self.id, resolution, iterations)
        return list(self._executor.execute(command).communities)

    def detect_hierarchy(self, levels_max: int = 5, resolution: float = 1.0) -> Hierarchy:
        """Leiden in levels, the coarsest first; replaces what was detected before."""
        command = commands.DetectHierarchy(self.id, levels_max, resolution)
        return cast("Hierarchy", self._executor.execute(command))

    def get_community_by_external_id(self, external_id: str) -> Community:
        """One community by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetCommunityByExternalId(self.id, external_id)
        return cast("Community", self._executor.execute(command))

    def communities(self) -> Iterator[Community]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[Community]", self._executor.execute(commands.ListCommunities(self.id, cursor)))
            for item in page.items:  # noqa: UP028 (the async twin can not delegate)
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    # --- retrieval ----------------------------------------------------------------------------------------------------

    def query(
        self,
        vector: Embedding = b"",
        *,
        top_k: int = 10,
        hops: int = 2,
        search_types: Iterable[str] = (),
        entities_max: int = 50,
        textunits_max: int = 10,
        communities_max: int = 5,
        seed_entity_ids: Iterable[int] = (),
        entity_types: Iterable[str] = (),
        relationship_types: Iterable[str] = (),
    ) -> QueryResult:
        """Nearest neighbours of `vector`, what is linked to them, and what lies within `hops` relationships.

        Args:
            vector: shape (vector_dim,); may be empty when `seed_entity_ids` is given.
            top_k: how many neighbours of each kind begin the walk. Of this and the three below, 0 means the default.
            hops: how far to walk; 0 gives the neighbours alone.
            search_types: "textunit", "entity", "community"; all of them unless told otherwise.
            entities_max: most entities to answer, and to visit.
            textunits_max: most text units to answer.
            communities_max: most communities to answer.
            seed_entity_ids: entities to begin at, beside those found by vector.
            entity_types: keep to entities of these types.
            relationship_types: follow and answer relationships of these types only.

        Raises:
            RetrievalNotReadyError: nothing that could be searched holds a vector, and no seeds are given.
            DimensionMismatchError: the vector has another length than the store's.
            InvalidArgumentError: a number is negative or not finite, or a value is of a wrong type or word.
            NotFoundError: a seed, or the session, is not there.
        """
        command = commands.Query(
            self.id,
            vector=vector,
            search_types=search_types_of(search_types),
            top_k=top_k,
            hops=hops or -1,
            entities_max=entities_max,
            textunits_max=textunits_max,
            communities_max=communities_max,
            seed_entity_ids=several("seed_entity_ids", seed_entity_ids),
            entity_types=several("entity_types", entity_types),
            relationship_types=several("relationship_types", relationship_types),
        )
        return cast("QueryResult", self._executor.execute(command))

    def explain(self, query_id: int) -> Explanation:
        """How an earlier query of this session came to its answer. Raises NotFoundError."""
        return cast("Explanation", self._executor.execute(commands.Explain(self.id, query_id)))

    def get_embeddings(self, kind: str, ids: Iterable[int]) -> tuple[list[int], NDArray[np.float32]]:
        """Embeddings bit by bit as they were given: the ids that have one, in the order of `ids`, and a row for each.

        The rows have shape (ids found, vector_dim). They are asked for in chunks of 5,000 ids or 2 MiB.

        kind: "textunit", "entity", "community".
        """
        check_iterable("ids", ids)
        found: list[StoredEmbeddings] = []
        size = EMBEDDINGS_ASKED_FIRST
        for chunk in _even_chunks(ids):
            while chunk:
                command = commands.GetEmbeddings(self.id, kind, tuple(chunk[:size]))
                found.append(self._executor.execute(command))
                del chunk[:size]
                size = max(1, CHUNK_BYTES_MAX // (4 * found[-1].vector_dim))
        if not found:  # so that also then the kind is checked, and the rows have their length
            found.append(self._executor.execute(commands.GetEmbeddings(self.id, kind, ())))
        found_ids = [int(id) for each in found for id in each.ids]  # those of a numpy array are answered as they came
        return found_ids, np.concatenate([each.matrix() for each in found])

    # --- bulk ---------------------------------------------------------------------------------------------------------

    def _get(self, ids: Iterable[int], make: Callable[[str, tuple[int, ...]], Command]) -> list[Any]:
        check_iterable("ids", ids)
        found: list[Any] = []
        for chunk in _even_chunks(ids):
            found += self._executor.execute(make(self.id, tuple(chunk))).items
        return found

    def _add(
        self,
        items: Iterable[New],
        make: Callable[[str, tuple[New, ...]], Command],
        weigh: Callable[[New], int],
        total: int | None,
        on_progress: Progress | None,
    ) -> list[int]:
        ids: list[int] = []
        try:
            for chunk in _chunks(items, weigh):
                ids += cast("Created", self._executor.execute(make(self.id, chunk))).ids
                if on_progress is not None:
                    on_progress(len(ids), total)
        except GibramError as error:
            if not ids:
                raise
            raise ended_early(error, ids, f"counted from object {len(ids)}: those before it are stored") from error
        return ids


def _chunks(items: Iterable[New], weigh: Callable[[New], int]) -> Iterator[tuple[New, ...]]:
    chunk: list[New] = []
    chunk_bytes = 0
    for item in items:
        try:
            item_bytes = weigh(item)
        except (AttributeError, TypeError):  # not what it should be: that is told, with its place, where it is added
            item_bytes = 0
        if chunk and (len(chunk) == CHUNK_OBJECTS_MAX or chunk_bytes + item_bytes > CHUNK_BYTES_MAX):
            yield tuple(chunk)
            chunk, chunk_bytes = [], 0
        chunk.append(item)
        chunk_bytes += item_bytes
    if chunk:
        yield tuple(chunk)


def _even_chunks(items: Iterable[T]) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK_OBJECTS_MAX:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _with_embeddings(items: Iterable[Embedded], embeddings: Embeddings | None) -> Iterator[Embedded]:
    """The objects, each with its row; a row never becomes Python numbers."""
    if embeddings is None:
        for item in items:
            yield item
        return
    check_iterable("embeddings", embeddings)
    if isinstance(embeddings, np.ndarray):
        if embeddings.ndim != 2:
            raise InvalidArgumentError(f"embeddings must have two dimensions, got shape {embeddings.shape}")
        embeddings = float32_array("embeddings", embeddings)
    expected, found = total_of(items), total_of(embeddings)
    if expected is not None and found is not None and expected != found:
        raise InvalidArgumentError(f"{found} embeddings are given for {expected} objects")
    rows = iter(embeddings)
    taken = 0
    for item in items:
        try:
            row = next(rows)
        except StopIteration:
            raise InvalidArgumentError(f"{taken} embeddings are given for more objects") from None
        taken += 1  # noqa: SIM113 (the async twin can not enumerate)
        # One that is none is told of, with its place, where it is added.
        is_right = isinstance(item, NewTextUnit | NewEntity)
        yield msgspec.structs.replace(item, embedding=to_float32(row)) if is_right else item
    if next(rows, None) is not None:
        raise InvalidArgumentError("more embeddings are given than objects")


class Tokens:
    """The tokens of one piece of work: the one given, then ones that follow from it and nobody else comes upon."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self._numbers = itertools.count()  # threads may share it

    def take(self) -> bytes:
        """The next one."""
        number = next(self._numbers)
        if number == 0:
            return self._first
        return hashlib.blake2b(self._first + number.to_bytes(8, "big"), digest_size=16).digest()


def ended_early(error: GibramError, results: Iterable[Any], told: str) -> GibramError:
    """The error of a call that is made of many, with what was answered before it and words that say so."""
    ended = type(error)(f"{error}; {told}")  # not the same one: the store may raise it elsewhere too
    ended.results = tuple(results)
    return ended


def total_of(items: object) -> int | None:
    """How many they are, where that is known without going through them."""
    return len(items) if isinstance(items, Sized) else None


async def each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """The items one by one, whichever way they come: the async twin takes both."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def check_timeout_s(timeout_s: float) -> float:
    """The timeout. Raises InvalidArgumentError if nobody can wait so long."""
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, Real) or not 0 < timeout_s <= TIMEOUT_S_MAX:
        raise InvalidArgumentError(f"timeout_s must be above 0 and at most {TIMEOUT_S_MAX}, got {in_brief(timeout_s)}")
    return timeout_s


def _text_bytes(*texts: str) -> int:
    return _OBJECT_BYTES + sum(len(text) if text.isascii() else 4 * len(text) for text in texts)


def _document_bytes(new: NewDocument) -> int:
    return _text_bytes(new.external_id, new.filename)


def _textunit_bytes(new: NewTextUnit) -> int:
    return _text_bytes(new.external_id, new.content) + len(new.vector)


def _entity_bytes(new: NewEntity) -> int:
    return _text_bytes(new.external_id, new.title, new.type, new.description) + len(new.vector)


def _relationship_bytes(new: NewRelationship) -> int:
    return _text_bytes(new.external_id, new.type, new.description)
