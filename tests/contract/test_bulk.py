"""Adding many: from any iterable, with rows of a matrix, told how far it is. And calls that have a time of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from support.server import Server

import gibramdb
from gibramdb import AsyncStore, NewDocument, NewEntity, NewRelationship, NewTextUnit, Session, Store
from gibramdb.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from gibramdb.session import CHUNK_OBJECTS_MAX

T = TypeVar("T")
MANY = CHUNK_OBJECTS_MAX + 7


class Told(list[tuple[int, int | None]]):
    """What a progress callback was told."""

    def __call__(self, done: int, total: int | None) -> None:
        self.append((done, total))


def entities(count: int) -> Iterator[NewEntity]:
    return (NewEntity(f"e{number}", f"e{number}") for number in range(count))


def test_progress_is_how_many_are_stored_of_how_many(session: Session) -> None:
    known, unknown = Told(), Told()
    documents = [NewDocument(f"d{number}") for number in range(MANY)]
    ids = session.add_documents(documents, on_progress=known)
    assert ids == list(range(1, MANY + 1))
    assert known == [(CHUNK_OBJECTS_MAX, MANY), (MANY, MANY)]
    session.add_entities(entities(MANY), on_progress=unknown)
    assert unknown == [(CHUNK_OBJECTS_MAX, None), (MANY, None)]
    textunit = session.add_textunit("t", 1, "text")
    known.clear()
    session.link_many([(textunit, number + 1) for number in range(MANY)], on_progress=known)
    assert known == [(CHUNK_OBJECTS_MAX, MANY), (MANY, MANY)]
    unknown.clear()
    session.add_relationships((NewRelationship(1, number + 2) for number in range(3)), on_progress=unknown)
    assert unknown == [(3, None)]
    assert session.add_entities([], on_progress=unknown) == []
    assert unknown == [(3, None)], "nothing to tell"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ">f4"])
def test_the_rows_of_a_matrix_are_the_embeddings(session: Session, dtype: str) -> None:
    rows = np.eye(8, dtype=dtype)
    ids = session.add_entities(entities(8), embeddings=rows[:, ::-1])  # which is not contiguous
    answer = session.query(rows[2], top_k=1, hops=0)
    assert [(hit.entity.id, hit.similarity) for hit in answer.entities] == [(ids[5], 1.0)]
    document = session.add_document("d")
    texts = [NewTextUnit(f"t{number}", document, "text") for number in range(8)]
    ids = session.add_textunits(texts, embeddings=(row for row in rows))
    answer = session.query(rows[2], top_k=1, hops=0, search_types=["textunit"])
    assert [(hit.textunit.id, hit.similarity) for hit in answer.textunits] == [(ids[2], 1.0)]


def test_rows_that_do_not_fit_the_objects_are_refused(session: Session) -> None:
    session.add_document("d")
    for embeddings in (np.eye(8), [[1.0] * 8] * 8):
        with pytest.raises(InvalidArgumentError, match="8 embeddings are given for 9 objects"):
            session.add_entities(list(entities(9)), embeddings=embeddings)
    with pytest.raises(InvalidArgumentError, match="8 embeddings are given for more objects"):
        session.add_entities(entities(9), embeddings=np.eye(8))
    with pytest.raises(InvalidArgumentError, match="more embeddings are given than objects"):
        session.add_entities(entities(7), embeddings=np.eye(8))
    with pytest.raises(InvalidArgumentError, match=r"two dimensions, got shape \(8,\)"):
        session.add_entities(entities(8), embeddings=np.ones(8))
    assert session.info().entity_count == 0
    rows = np.ones((MANY - 1, 8), dtype=np.float32)
    with pytest.raises(InvalidArgumentError, match=f"counted from object {CHUNK_OBJECTS_MAX}: those before it"):
        session.add_entities(entities(MANY), embeddings=rows)
    assert session.info().entity_count == CHUNK_OBJECTS_MAX


def test_what_was_stored_before_a_refusal_is_said(session: Session) -> None:
    def documents() -> Iterator[NewDocument]:
        yield from (NewDocument(f"d{number}") for number in range(MANY))
        yield NewDocument("d0")

    with pytest.raises(
        AlreadyExistsError, match=f"counted from object {CHUNK_OBJECTS_MAX}: those before it are stored"
    ):
        session.add_documents(documents())
    assert session.info().document_count == CHUNK_OBJECTS_MAX


async def coming(items: Iterable[T]) -> AsyncIterator[T]:
    """As from a model or a database that is asked over a network."""
    for item in items:
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize("over", ["in memory", "over TCP"])
def test_the_asynchronous_client_adds_from_asynchronous_iterables_as_from_others(over: str, tmp_path: Path) -> None:
    rows = np.eye(8, dtype=np.float32)

    async def run(store: AsyncStore) -> None:
        session = store.session("s")
        told = Told()
        documents = coming(NewDocument(f"d{number}") for number in range(MANY))
        assert await session.add_documents(documents, on_progress=told) == list(range(1, MANY + 1))
        assert told == [(CHUNK_OBJECTS_MAX, None), (MANY, None)]
        assert await session.add_entities(coming(entities(8)), embeddings=rows) == list(range(1, 9))
        texts = [NewTextUnit(f"t{number}", 1, "text") for number in range(8)]
        assert await session.add_textunits(texts, embeddings=coming(rows[::-1])) == list(range(1, 9))
        more = coming([NewTextUnit("t8", 1, "text", rows[3])])
        assert await session.add_textunits(more, embeddings=None) == [9]
        answer = await session.query(rows[3], top_k=3, hops=0, search_types=["entity", "textunit"])
        assert (answer.entities[0].entity.id, answer.entities[0].similarity) == (4, 1.0)
        assert {hit.textunit.id for hit in answer.textunits if hit.similarity == 1.0} == {5, 9}
        relationships = coming(NewRelationship(1, number + 2) for number in range(7))
        assert await session.add_relationships(relationships) == list(range(1, 8))
        await session.link_many(coming((1, number + 1) for number in range(8)))
        assert (await session.get_textunit(1)).entity_ids == tuple(range(1, 9))
        for items, given in ((entities(3), 2), (coming(entities(3)), 2), (coming(entities(2)), 3), (entities(2), 3)):
            for embeddings in (rows[:given], coming(rows[:given])):
                with pytest.raises(InvalidArgumentError, match="embeddings are given"):
                    await session.add_entities(items, embeddings=embeddings)
        assert (await session.info()).entity_count == 8

        async def failing() -> AsyncIterator[NewEntity]:
            for entity in [NewEntity(f"f{number}", f"f{number}") for number in range(CHUNK_OBJECTS_MAX + 1)]:
                yield entity
            raise ConnectionResetError("the source is gone")

        with pytest.raises(ConnectionResetError, match="the source is gone"):
            await session.add_entities(failing())
        assert (await session.info()).entity_count == 8 + CHUNK_OBJECTS_MAX, "the chunk that was whole is stored"

    async def both(url: str = "") -> None:
        async with gibramdb.connect_async(url) if url else gibramdb.open_async(vector_dim=8) as store:
            await run(store)

    if over == "in memory":
        asyncio.run(both())
    else:
        with Server(tmp_path / "data", mode="ephemeral") as server:
            asyncio.run(both(f"gibram://127.0.0.1:{server.port}"))


def test_other_calls_go_on_while_objects_are_still_coming() -> None:
    async def run() -> None:
        async with gibramdb.open_async(vector_dim=8) as store:
            session = store.session("s")
            more = asyncio.Event()

            async def slow() -> AsyncIterator[NewEntity]:
                yield NewEntity("e", "e")
                await more.wait()
                yield NewEntity("f", "f")

            adding = asyncio.create_task(session.add_entities(slow()))
            assert await session.add_document("d") == 1
            assert not adding.done()
            more.set()
            assert await adding == [1, 2]

    asyncio.run(run())


def test_commands_are_values_too(store: Store) -> None:
    c = gibramdb.commands
    added = store.execute(c.AddDocuments("s", (NewDocument("a"), NewDocument("b"))))
    assert added.ids == (1, 2)
    batch = (c.GetDocument("s", number) for number in added.ids)
    assert [document.external_id for document in store.execute_many(batch)] == ["a", "b"]


def test_what_ran_before_an_error_is_answered_by_it(store: Store) -> None:
    c = gibramdb.commands
    session = store.session("s")
    session.add_documents([NewDocument("a"), NewDocument("b")])
    with pytest.raises(
        NotFoundError, match=r"^document not found: 3; 2 of 4 commands were answered before it$"
    ) as caught:
        store.execute_many([c.GetDocument("s", number) for number in (2, 1, 3, 1)])
    assert [document.external_id for document in caught.value.results] == ["b", "a"]
    with pytest.raises(NotFoundError, match=r"^document not found: 3$") as first:
        store.execute_many([c.GetDocument("s", 3), c.GetDocument("s", 1)])
    assert first.value.results == ()
    new = [NewDocument(f"d{number}") for number in range(CHUNK_OBJECTS_MAX)]
    with pytest.raises(AlreadyExistsError) as stored:
        session.add_documents([*new, NewDocument("d0")])
    assert stored.value.results == tuple(range(3, CHUNK_OBJECTS_MAX + 3)), "their ids"


def hold_up(executor: object) -> threading.Event:
    """Keeps an embedded store's thread busy until the event is set."""
    may_go_on = threading.Event()
    executor._engine._post(lambda: may_go_on.wait(60))  # type: ignore[attr-defined]
    return may_go_on


def test_an_embedded_call_has_a_time_of_its_own() -> None:
    with gibramdb.open(vector_dim=8) as db:
        session = db.session("s")
        session.add_entities(entities(50_000))
        with pytest.raises(OutcomeUnknownError, match=r"timed out after 0\.05 s"):
            session.with_timeout(0.05).detect_communities()
        assert len(session.with_timeout(60).detect_communities()) == 50_000
        may_go_on = hold_up(db._executor)
        with pytest.raises(UnavailableError, match="its turn had not come") as late:
            db.with_timeout(0.05).session("s").add_document("never")
        assert not isinstance(late.value, OutcomeUnknownError)
        may_go_on.set()
        assert session.info().document_count == 0


def test_an_embedded_call_of_an_event_loop_has_too() -> None:
    async def run() -> None:
        async with gibramdb.open_async(vector_dim=8) as db:
            session = db.session("s")
            await session.add_entities(entities(50_000))
            with pytest.raises(OutcomeUnknownError, match=r"timed out after 0\.05 s"):
                await session.with_timeout(0.05).detect_communities()
            assert len(await session.with_timeout(60).detect_communities()) == 50_000
            may_go_on = hold_up(db._executor)
            with pytest.raises(UnavailableError, match="its turn had not come"):
                await db.with_timeout(0.05).session("s").add_document("never")
            may_go_on.set()
            assert (await session.info()).document_count == 0

    asyncio.run(run())


def test_an_opening_is_awaited_or_entered(tmp_path: Path) -> None:
    async def run(url: str) -> None:
        async with gibramdb.connect_async(url) as db:
            await db.ping()
        async with await gibramdb.connect_async(url) as db:
            await db.ping()
        db = await asyncio.create_task(gibramdb.connect_async(url))
        await db.close()
        async with gibramdb.open_async(vector_dim=2) as db:
            await db.ping()
        async with await gibramdb.open_async(vector_dim=2) as db:
            await db.ping()
        with pytest.raises(gibramdb.errors.ClosedError):
            await db.ping()

    with Server(tmp_path / "data", mode="ephemeral") as server:
        asyncio.run(run(f"gibram://127.0.0.1:{server.port}"))


def test_a_batch_of_long_lists_is_answered_whole(store: Store) -> None:
    """A server answers a pipeline of so many objects at once and no more; the client knows."""
    session = store.session("s")
    session.add_entities(NewEntity(f"e{number}", f"e{number}") for number in range(10_000))
    pages = store.execute_many([gibramdb.commands.ListEntities(session.id, limit=10_000)] * 15)
    assert [len(page.items) for page in pages] == [10_000] * 15
    *pages, info = store.execute_many(
        [*[gibramdb.commands.ListEntities(session.id, limit=10_000)] * 10, gibramdb.commands.GetSession(session.id)]
    )
    assert [len(page.items) for page in pages] == [10_000] * 10
    assert info.entity_count == 10_000
