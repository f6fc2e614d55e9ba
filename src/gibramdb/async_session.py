"""The async face of a store and its sessions.

Generated from session.py: change that one, then run `python tools/generate_async.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from gibramdb.errors import GibramError, InvalidArgumentError, in_brief
from gibramdb.model import commands
from gibramdb.model.commands import Command, WriteCommand
from gibramdb.model.field_types import check_iterable_or_async, links_of, search_types_of, several
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
from gibramdb.session import (
    CHUNK_BYTES_MAX,
    CHUNK_OBJECTS_MAX,
    EMBEDDINGS_ASKED_FIRST,
    SESSIONS_PER_PAGE,
    Embedded,
    Embeddings,
    New,
    Progress,
    T,
    Tokens,
    _document_bytes,
    _entity_bytes,
    _relationship_bytes,
    _textunit_bytes,
    check_timeout_s,
    each,
    ended_early,
    total_of,
)


class AsyncExecutor(Protocol):
    """Takes commands to a store."""

    async def execute(self, command: Command) -> Any:
        """The command's result. Raises the error that it was refused with."""
        ...

    async def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """Run in order; raises the first error, with the results of what ran before it, which stays."""
        ...

    def with_timeout(self, timeout_s: float) -> Self:
        """One that takes commands to the same store, and waits no longer than this for each."""
        ...

    async def close(self) -> None:
        """Let go of the store."""
        ...


class Marking:
    """Marks the writes that pass, but for those marked already, each with the next token of one piece of work."""

    def __init__(self, executor: AsyncExecutor, tokens: Tokens) -> None:
        self._executor = executor
        self._tokens = tokens

    async def execute(self, command: Command) -> Any:
        """See AsyncExecutor."""
        return await self._executor.execute(self._marked(command))

    async def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See AsyncExecutor."""
        return await self._executor.execute_batch([self._marked(command) for command in batch])

    def _marked(self, command: Command) -> Command:
        if not isinstance(command, WriteCommand) or command.token:
            return command
        return msgspec.structs.replace(command, token=self._tokens.take())

    def with_timeout(self, timeout_s: float) -> Self:
        """See AsyncExecutor. The two share their tokens: one that both gave would be answered and not carried out."""
        return type(self)(self._executor.with_timeout(timeout_s), self._tokens)

    async def close(self) -> None:
        """See AsyncExecutor."""
        await self._executor.close()


class AsyncStore:
    """A store: its sessions, its figures. Use it as a context manager, or call `close`."""

    def __init__(self, executor: AsyncExecutor) -> None:
        self._executor = executor

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Make durable what was accepted and let go. A second call does nothing."""
        await self._executor.close()

    def with_timeout(self, timeout_s: float) -> Self:
        """The same store, whose calls, and those of its sessions, take no longer than `timeout_s` seconds each.

        A call whose time is over raises OutcomeUnknownError if it may have changed something, and ConnectionFailedError
        or UnavailableError if it has not. Closing either closes both.
        """
        return type(self)(self._executor.with_timeout(check_timeout_s(timeout_s)))

    def session(self, session_id: str) -> AsyncSession:
        """A session by name. Nothing is asked of the store: the first write creates it."""
        return AsyncSession(self._executor, session_id)

    async def execute(self, command: Command) -> Any:
        """The result of any command of `gibramdb.commands`; the other methods say the same in words."""
        return await self._executor.execute(command)

    async def execute_many(self, batch: Iterable[Command]) -> list[Any]:
        """Results of commands, run in order in few round trips.

        Raises the first error; what ran before it stays, and is answered by the error's `results`.
        """
        return await self._executor.execute_batch(several("batch", batch))

    async def sessions(self) -> list[SessionInfo]:
        """All sessions that are alive, by name; asked for page by page."""
        found: list[SessionInfo] = []
        cursor = ""
        while True:
            page = cast("SessionPage", await self._executor.execute(commands.ListSessions(cursor, SESSIONS_PER_PAGE)))
            found += page.items
            cursor = page.next_cursor
            if not cursor:
                return found

    async def ping(self) -> None:
        """Return if the store answers."""
        await self._executor.execute(commands.Ping())

    async def info(self) -> Info:
        """Counts over all sessions, and how the store is set up."""
        return cast("Info", await self._executor.execute(commands.GetInfo()))

    async def health(self) -> Health:
        """How the store is; the operator's page explains each field."""
        return cast("Health", await self._executor.execute(commands.GetHealth()))

    async def digest(self) -> Digest:
        """A checksum over everything canonical. Reads it all: about 2 s for a million entities."""
        return cast("Digest", await self._executor.execute(commands.GetDigest()))

    # --- snapshots and the log ----------------------------------------------------------------------------------------

    async def save(self, path: str = "") -> None:
        """Write a copy of everything to `path` (relative to the data directory), and publish a snapshot."""
        await self._executor.execute(commands.Save(path))

    async def save_in_background(self, path: str = "") -> None:
        """As `save`; returns at once, `backup_status` tells how it goes."""
        await self._executor.execute(commands.BackgroundSave(path))

    async def last_save(self) -> Saved:
        """When and where the last copy was written."""
        return cast("Saved", await self._executor.execute(commands.GetLastSave()))

    async def restore_in_background(self, path: str) -> None:
        """Put a copy, or an older snapshot, in the place of everything; `backup_status` tells how it goes.

        Until it is done the store holds what it held, and if it fails, from then on too.
        """
        await self._executor.execute(commands.Restore(path))

    async def backup_status(self) -> BackupStatus:
        """The save or restore that runs, or the last one."""
        return cast("BackupStatus", await self._executor.execute(commands.GetBackupStatus()))

    async def checkpoint(self) -> int:
        """Publish a snapshot and begin the next generation of the log. Returns the LSN that the snapshot covers."""
        return cast("Done", await self._executor.execute(commands.Checkpoint())).id

    async def rotate_log(self) -> int:
        """Begin the next generation of the log. Returns how many generations are on disk."""
        return cast("Done", await self._executor.execute(commands.RotateLog())).id

    async def truncate_log(self, target_lsn: int = 0) -> int:
        """Drop what every kept snapshot covers, up to `target_lsn` if given. Returns the LSN up to which it is gone."""
        return cast("Done", await self._executor.execute(commands.TruncateLog(target_lsn))).id

    async def log_status(self) -> LogStatus:
        """Where the log stands."""
        return cast("LogStatus", await self._executor.execute(commands.GetLogStatus()))


class AsyncSession:
    """One session: documents, text units, entities, relationships, communities, and queries over them."""

    def __init__(self, executor: AsyncExecutor, session_id: str) -> None:
        self._executor = executor
        self.id = session_id

    def __repr__(self) -> str:
        return f"AsyncSession({self.id!r})"

    def with_timeout(self, timeout_s: float) -> Self:
        """The same session, whose calls take no longer than `timeout_s` seconds each; see AsyncStore.with_timeout."""
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

    async def info(self) -> SessionInfo:
        """Its times and counts. Raises SessionNotFoundError, SessionExpiredError."""
        return cast("SessionInfo", await self._executor.execute(commands.GetSession(self.id)))

    async def delete(self) -> None:
        """Remove it with all it holds. Raises SessionNotFoundError."""
        await self._executor.execute(commands.DeleteSession(self.id))

    async def set_ttl(self, ttl_s: int = 0, idle_ttl_s: int = 0) -> None:
        """Seconds after creation, and after the last use, at which it ends. 0 leaves a value, negative clears it."""
        await self._executor.execute(commands.SetSessionTtl(self.id, ttl_s, idle_ttl_s))

    async def touch(self) -> None:
        """Count as a use."""
        await self._executor.execute(commands.TouchSession(self.id))

    async def digest(self) -> Digest:
        """A checksum over everything canonical in it."""
        return cast("Digest", await self._executor.execute(commands.GetDigest(self.id)))

    async def rebuild_indexes(self) -> None:
        """Build what is derived anew from what is canonical."""
        await self._executor.execute(commands.RebuildIndexes(self.id))

    # --- documents ----------------------------------------------------------------------------------------------------

    async def add_document(self, external_id: str, filename: str = "") -> int:
        """Add one; returns its id."""
        new = (NewDocument(external_id, filename),)
        return cast("Created", await self._executor.execute(commands.AddDocuments(self.id, new, bulk=False))).ids[0]

    async def add_documents(
        self, documents: Iterable[NewDocument] | AsyncIterable[NewDocument], *, on_progress: Progress | None = None
    ) -> list[int]:
        """Add many; returns their ids in order. Up to 5,000 (and 2 MiB) are all or nothing; more go in such chunks."""
        check_iterable_or_async("documents", documents)
        return await self._add(documents, commands.AddDocuments, _document_bytes, total_of(documents), on_progress)

    async def get_document(self, id: int) -> Document:
        """One document, with the ids of its text units. Raises NotFoundError."""
        return cast("Document", await self._executor.execute(commands.GetDocument(self.id, id)))

    async def get_documents(self, ids: Iterable[int] | AsyncIterable[int]) -> list[Document]:
        """Those that are there, in the order of `ids`; of more than 5,000, in such chunks."""
        return await self._get(ids, commands.GetDocuments)

    async def documents(self) -> AsyncIterator[Document]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[Document]", await self._executor.execute(commands.ListDocuments(self.id, cursor)))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    async def delete_document(self, id: int) -> None:
        """Raises StillReferencedError while text units belong to it."""
        await self._executor.execute(commands.DeleteDocument(self.id, id))

    async def get_document_by_external_id(self, external_id: str) -> Document:
        """One document by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetDocumentByExternalId(self.id, external_id)
        return cast("Document", await self._executor.execute(command))

    async def cascade_delete_document(self, id: int) -> None:
        """Delete it with its text units and their links, all at once. Raises NotFoundError."""
        await self._executor.execute(commands.CascadeDeleteDocument(self.id, id))

    # --- text units ---------------------------------------------------------------------------------------------------

    async def add_textunit(
        self, external_id: str, document_id: int, content: str, embedding: Embedding = b"", token_count: int = 0
    ) -> int:
        """Add one; returns its id. embedding: shape (vector_dim,)."""
        new = (NewTextUnit(external_id, document_id, content, embedding, token_count),)
        return cast("Created", await self._executor.execute(commands.AddTextUnits(self.id, new, bulk=False))).ids[0]

    async def add_textunits(
        self,
        textunits: Iterable[NewTextUnit] | AsyncIterable[NewTextUnit],
        *,
        embeddings: Embeddings | AsyncIterable[Embedding] | None = None,
        on_progress: Progress | None = None,
    ) -> list[int]:
        """Add many; returns their ids in order. Up to 5,000 (and 2 MiB) are all or nothing; more go in such chunks.

        embeddings: a row for each of them, in place of those that they carry themselves.
        """
        check_iterable_or_async("textunits", textunits)
        items = _with_embeddings(textunits, embeddings)
        return await self._add(items, commands.AddTextUnits, _textunit_bytes, total_of(textunits), on_progress)

    async def get_textunit(self, id: int) -> TextUnit:
        """One text unit, with the ids of the entities linked to it. Raises NotFoundError."""
        return cast("TextUnit", await self._executor.execute(commands.GetTextUnit(self.id, id)))

    async def get_textunits(self, ids: Iterable[int] | AsyncIterable[int]) -> list[TextUnit]:
        """Those that are there, in the order of `ids`; of more than 5,000, in such chunks."""
        return await self._get(ids, commands.GetTextUnits)

    async def textunits(self) -> AsyncIterator[TextUnit]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[TextUnit]", await self._executor.execute(commands.ListTextUnits(self.id, cursor)))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    async def link(self, textunit_id: int, entity_id: int) -> None:
        """Say that a text unit speaks of an entity; saying it again changes nothing."""
        await self._executor.execute(commands.LinkTextUnitEntity(self.id, textunit_id, entity_id))

    async def link_many(
        self, pairs: Iterable[tuple[int, int]] | AsyncIterable[tuple[int, int]], *, on_progress: Progress | None = None
    ) -> None:
        """Many links, each (text unit, entity), in few round trips. Stops at the first that fails."""
        check_iterable_or_async("pairs", pairs)
        total, done = total_of(pairs), 0
        try:
            async for chunk in _even_chunks(pairs):
                await self._executor.execute_batch(links_of(self.id, chunk, done))
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, total)
        except GibramError as error:
            if not done:
                raise
            told = f"counted from pair {done}: those before it are linked"
            raise ended_early(error, error.results, told) from error

    async def delete_textunit(self, id: int) -> None:
        """Raises StillReferencedError while entities are linked to it."""
        await self._executor.execute(commands.DeleteTextUnit(self.id, id))

    async def unlink(self, textunit_id: int, entity_id: int) -> None:
        """Take a link back; where there is none, nothing changes."""
        await self._executor.execute(commands.UnlinkTextUnitEntity(self.id, textunit_id, entity_id))

    async def get_textunit_by_external_id(self, external_id: str) -> TextUnit:
        """One text unit by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetTextUnitByExternalId(self.id, external_id)
        return cast("TextUnit", await self._executor.execute(command))

    async def cascade_delete_textunit(self, id: int) -> None:
        """Delete it with its links to entities, all at once. Raises NotFoundError."""
        await self._executor.execute(commands.CascadeDeleteTextUnit(self.id, id))

    # --- entities -----------------------------------------------------------------------------------------------------

    async def add_entity(
        self, external_id: str, title: str, type: str = "", description: str = "", embedding: Embedding = b""
    ) -> int:
        """Add one; returns its id. The title is stored trimmed and upper-cased. embedding: shape (vector_dim,)."""
        new = (NewEntity(external_id, title, type, description, embedding),)
        return cast("Created", await self._executor.execute(commands.AddEntities(self.id, new, bulk=False))).ids[0]

    async def add_entities(
        self,
        entities: Iterable[NewEntity] | AsyncIterable[NewEntity],
        *,
        embeddings: Embeddings | AsyncIterable[Embedding] | None = None,
        on_progress: Progress | None = None,
    ) -> list[int]:
        """Add many; returns their ids in order. Up to 5,000 (and 2 MiB) are all or nothing; more go in such chunks.

        embeddings: a row for each of them, in place of those that they carry themselves.
        """
        check_iterable_or_async("entities", entities)
        items = _with_embeddings(entities, embeddings)
        return await self._add(items, commands.AddEntities, _entity_bytes, total_of(entities), on_progress)

    async def get_entity(self, id: int) -> Entity:
        """One entity, with the ids of the text units linked to it. Raises NotFoundError."""
        return cast("Entity", await self._executor.execute(commands.GetEntity(self.id, id)))

    async def get_entity_by_title(self, title: str) -> Entity:
        """One entity by its title, however it is written in upper and lower case. Raises NotFoundError."""
        return cast("Entity", await self._executor.execute(commands.GetEntityByTitle(self.id, title)))

    async def get_entities(self, ids: Iterable[int] | AsyncIterable[int]) -> list[Entity]:
        """Those that are there, in the order of `ids`; of more than 5,000, in such chunks."""
        return await self._get(ids, commands.GetEntities)

    async def entities(self) -> AsyncIterator[Entity]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[Entity]", await self._executor.execute(commands.ListEntities(self.id, cursor)))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    async def update_entity_description(self, id: int, description: str, embedding: Embedding = b"") -> None:
        """Replace the description and, if one is given, the embedding."""
        await self._executor.execute(commands.UpdateEntityDescription(self.id, id, description, embedding))

    async def delete_entity(self, id: int) -> None:
        """Raises StillReferencedError while text units, relationships or communities refer to it."""
        await self._executor.execute(commands.DeleteEntity(self.id, id))

    async def get_entity_by_external_id(self, external_id: str) -> Entity:
        """One entity by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetEntityByExternalId(self.id, external_id)
        return cast("Entity", await self._executor.execute(command))

    async def cascade_delete_entity(self, id: int) -> None:
        """Delete it with its links, its relationships, their place in communities, at once. Raises NotFoundError."""
        await self._executor.execute(commands.CascadeDeleteEntity(self.id, id))

    # --- relationships ------------------------------------------------------------------------------------------------

    async def add_relationship(
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
        return cast("Created", await self._executor.execute(commands.AddRelationships(self.id, new, bulk=False))).ids[0]

    async def add_relationships(
        self,
        relationships: Iterable[NewRelationship] | AsyncIterable[NewRelationship],
        *,
        on_progress: Progress | None = None,
    ) -> list[int]:
        """Add many; returns their ids in order. Up to 5,000 (and 2 MiB) are all or nothing; more go in such chunks."""
        check_iterable_or_async("relationships", relationships)
        total = total_of(relationships)
        return await self._add(relationships, commands.AddRelationships, _relationship_bytes, total, on_progress)

    async def get_relationship(self, id: int) -> Relationship:
        """One relationship. Raises NotFoundError."""
        return cast("Relationship", await self._executor.execute(commands.GetRelationship(self.id, id)))

    async def get_relationships(self, ids: Iterable[int] | AsyncIterable[int]) -> list[Relationship]:
        """Those that are there, in the order of `ids`; of more than 5,000, in such chunks."""
        return await self._get(ids, commands.GetRelationships)

    async def relationships(self) -> AsyncIterator[Relationship]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[Relationship]", await self._executor.execute(commands.ListRelationships(self.id, cursor)))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    async def delete_relationship(self, id: int) -> None:
        """Raises StillReferencedError while communities refer to it."""
        await self._executor.execute(commands.DeleteRelationship(self.id, id))

    async def get_relationship_by_external_id(self, external_id: str) -> Relationship:
        """One relationship by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetRelationshipByExternalId(self.id, external_id)
        return cast("Relationship", await self._executor.execute(command))

    async def cascade_delete_relationship(self, id: int) -> None:
        """Delete it with its place in communities, all at once. Raises NotFoundError."""
        await self._executor.execute(commands.CascadeDeleteRelationship(self.id, id))

    # --- communities --------------------------------------------------------------------------------------------------

    async def add_community(self, community: NewCommunity) -> int:
        """Add one made by hand; returns its id. Detection leaves it alone."""
        return cast("Created", await self._executor.execute(commands.AddCommunity(self.id, community))).ids[0]

    async def get_community(self, id: int) -> Community:
        """One community. Raises NotFoundError."""
        return cast("Community", await self._executor.execute(commands.GetCommunity(self.id, id)))

    async def delete_community(self, id: int) -> None:
        """Raises NotFoundError."""
        await self._executor.execute(commands.DeleteCommunity(self.id, id))

    async def detect_communities(self, resolution: float = 1.0, iterations: int = 10) -> list[Community]:
        """Leiden over the whole graph; replaces what was detected before. Higher resolution, smaller communities."""
        command = commands.DetectCommunities(self.id, resolution, iterations)
        return list((await self._executor.execute(command)).communities)

    async def detect_hierarchy(self, levels_max: int = 5, resolution: float = 1.0) -> Hierarchy:
        """Leiden in levels, the coarsest first; replaces what was detected before."""
        command = commands.DetectHierarchy(self.id, levels_max, resolution)
        return cast("Hierarchy", await self._executor.execute(command))

    async def get_community_by_external_id(self, external_id: str) -> Community:
        """One community by the name that its caller gave it. Raises NotFoundError."""
        command = commands.GetCommunityByExternalId(self.id, external_id)
        return cast("Community", await self._executor.execute(command))

    async def communities(self) -> AsyncIterator[Community]:
        """All, by ascending id, page by page."""
        cursor = 0
        while True:
            page = cast("Page[Community]", await self._executor.execute(commands.ListCommunities(self.id, cursor)))
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if not cursor:
                return

    # --- retrieval ----------------------------------------------------------------------------------------------------

    async def query(
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
        return cast("QueryResult", await self._executor.execute(command))

    async def explain(self, query_id: int) -> Explanation:
        """How an earlier query of this session came to its answer. Raises NotFoundError."""
        return cast("Explanation", await self._executor.execute(commands.Explain(self.id, query_id)))

    async def get_embeddings(
        self, kind: str, ids: Iterable[int] | AsyncIterable[int]
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Embeddings bit by bit as they were given: the ids that have one, in the order of `ids`, and a row for each.

        The rows have shape (ids found, vector_dim). They are asked for in chunks of 5,000 ids or 2 MiB.

        kind: "textunit", "entity", "community".
        """
        check_iterable_or_async("ids", ids)
        found: list[StoredEmbeddings] = []
        size = EMBEDDINGS_ASKED_FIRST
        async for chunk in _even_chunks(ids):
            while chunk:
                command = commands.GetEmbeddings(self.id, kind, tuple(chunk[:size]))
                found.append(await self._executor.execute(command))
                del chunk[:size]
                size = max(1, CHUNK_BYTES_MAX // (4 * found[-1].vector_dim))
        if not found:  # so that also then the kind is checked, and the rows have their length
            found.append(await self._executor.execute(commands.GetEmbeddings(self.id, kind, ())))
        found_ids = [int(id) for each in found for id in each.ids]  # those of a numpy array are answered as they came
        return found_ids, np.concatenate([each.matrix() for each in found])

    # --- bulk ---------------------------------------------------------------------------------------------------------

    async def _get(
        self, ids: Iterable[int] | AsyncIterable[int], make: Callable[[str, tuple[int, ...]], Command]
    ) -> list[Any]:
        check_iterable_or_async("ids", ids)
        found: list[Any] = []
        async for chunk in _even_chunks(ids):
            found += (await self._executor.execute(make(self.id, tuple(chunk)))).items
        return found

    async def _add(
        self,
        items: Iterable[New] | AsyncIterable[New],
        make: Callable[[str, tuple[New, ...]], Command],
        weigh: Callable[[New], int],
        total: int | None,
        on_progress: Progress | None,
    ) -> list[int]:
        ids: list[int] = []
        try:
            async for chunk in _chunks(items, weigh):
                ids += cast("Created", await self._executor.execute(make(self.id, chunk))).ids
                if on_progress is not None:
                    on_progress(len(ids), total)
        except GibramError as error:
            if not ids:
                raise
            raise ended_early(error, ids, f"counted from object {len(ids)}: those before it are stored") from error
        return ids


async def _chunks(
    items: Iterable[New] | AsyncIterable[New], weigh: Callable[[New], int]
) -> AsyncIterator[tuple[New, ...]]:
    chunk: list[New] = []
    chunk_bytes = 0
    async for item in each(items):
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


async def _even_chunks(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[list[T]]:
    chunk: list[T] = []
    async for item in each(items):
        chunk.append(item)
        if len(chunk) == CHUNK_OBJECTS_MAX:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _with_embeddings(
    items: Iterable[Embedded] | AsyncIterable[Embedded], embeddings: Embeddings | AsyncIterable[Embedding] | None
) -> AsyncIterator[Embedded]:
    """The objects, each with its row; a row never becomes Python numbers."""
    if embeddings is None:
        async for item in each(items):
            yield item
        return
    check_iterable_or_async("embeddings", embeddings)
    if isinstance(embeddings, np.ndarray):
        if embeddings.ndim != 2:
            raise InvalidArgumentError(f"embeddings must have two dimensions, got shape {embeddings.shape}")
        embeddings = float32_array("embeddings", embeddings)
    expected, found = total_of(items), total_of(embeddings)
    if expected is not None and found is not None and expected != found:
        raise InvalidArgumentError(f"{found} embeddings are given for {expected} objects")
    rows = each(embeddings)
    taken = 0
    async for item in each(items):
        try:
            row = await anext(rows)
        except StopAsyncIteration:
            raise InvalidArgumentError(f"{taken} embeddings are given for more objects") from None
        taken += 1
        # One that is none is told of, with its place, where it is added.
        is_right = isinstance(item, NewTextUnit | NewEntity)
        yield msgspec.structs.replace(item, embedding=to_float32(row)) if is_right else item
    if await anext(rows, None) is not None:
        raise InvalidArgumentError("more embeddings are given than objects")
