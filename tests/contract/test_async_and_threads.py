"""The async twin, embedded and over TCP; one embedded store under many threads; a Ctrl-C while a caller waits."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.server import Server

import gibramdb
from gibramdb import AsyncStore, NewDocument, NewEntity, NewTextUnit
from gibramdb.database.recovery import recover
from gibramdb.errors import AlreadyExistsError, ClosedError, ConnectionFailedError, NotFoundError, StoreLockedError


async def everything(store: AsyncStore) -> None:
    session = store.session("async")
    document = await session.add_document("d")
    textunits = await session.add_textunits([NewTextUnit(f"t{n}", document, "text") for n in range(3)])
    entities = await session.add_entities(
        [NewEntity(f"e{n}", f"e{n}", embedding=[float(n + 1)] * 8) for n in range(1_200)]
    )
    await session.link_many([(textunits[n], entities[n]) for n in range(3)])
    assert [entity.id async for entity in session.entities()] == entities
    with pytest.raises(AlreadyExistsError):
        await session.add_document("d")
    with pytest.raises(NotFoundError, match="link failed"):
        await session.link_many([(textunits[0], entities[5]), (99, 1), (textunits[1], entities[6])])
    assert (await session.get_textunit(textunits[0])).entity_ids == (entities[0], entities[5])
    assert (await session.get_textunit(textunits[1])).entity_ids == (entities[1],), "a batch stops at its first error"
    answer = await session.query([1.0] * 8, top_k=2, hops=0)
    assert [hit.entity.id for hit in answer.entities] == entities[:2]
    assert len(await session.detect_communities()) == 1_200
    counts = await asyncio.gather(*(session.info() for _ in range(50)))
    assert {info.entity_count for info in counts} == {1_200}
    tasks = [asyncio.ensure_future(session.add_document(f"task {number}")) for number in range(40)]
    for number, task in enumerate(tasks):
        if number % 2:
            await asyncio.sleep(0)
            task.cancel()
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    kept = [answer for answer in answers[::2] if isinstance(answer, int)]
    assert len(kept) == 20, "cancelling some calls costs the others nothing"
    assert (await store.health()).status == "ok", "a cancelled call leaves nothing behind on its connection"
    assert [each.session_id for each in await store.sessions()] == ["async"]


def test_the_async_twin_in_this_process(tmp_path: Path) -> None:
    async def run() -> None:
        async with await gibramdb.open_async(tmp_path / "data", vector_dim=8) as store:
            await everything(store)
        with pytest.raises(ClosedError):
            await store.info()
        async with await gibramdb.open_async(tmp_path / "data", vector_dim=8) as store:
            assert (await store.info()).entity_count == 1_200

    asyncio.run(run())


def test_the_async_twin_over_tcp(tmp_path: Path) -> None:
    async def run(server: Server) -> None:
        async with await gibramdb.connect_async(f"gibram://127.0.0.1:{server.port}") as store:
            await everything(store)

    with Server(tmp_path / "data") as server:
        asyncio.run(run(server))


def test_nobody_there() -> None:
    with pytest.raises(ConnectionFailedError, match="gibramdb serve"):
        gibramdb.connect("gibram://127.0.0.1:1")
    with pytest.raises(ConnectionFailedError, match="gibramdb serve"):
        asyncio.run(gibramdb.connect_async("gibram://127.0.0.1:1"))


def test_many_threads_share_one_embedded_store(tmp_path: Path) -> None:
    with gibramdb.open(tmp_path / "data", vector_dim=8) as store:
        session = store.session("s")

        def write(writer: int) -> None:
            for number in range(100):
                session.add_documents([NewDocument(f"{writer}-{number}-{part}") for part in range(2)])
                assert session.info().document_count >= 2 * number

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session.info().document_count == 1_600
        assert [document.id for document in session.documents()] == list(range(1, 1_601))
        syncs = int(store.health().components["wal_sync_count"])
        assert syncs < 800, "threads that wait together share a sync"
        lsn = int(store.health().components["wal_current_lsn"])
    with gibramdb.open(tmp_path / "data", vector_dim=8) as store:
        assert store.session("s").info().document_count == 1_600
        assert int(store.health().components["wal_current_lsn"]) >= lsn, "an LSN never goes back"


def test_ctrl_c_interrupts_the_waiting_and_not_the_change(tmp_path: Path) -> None:
    program = f"""
import os, signal, threading, gibramdb
db = gibramdb.open({str(tmp_path / "data")!r}, vector_dim=8)
acknowledged = 0
timer = threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT))
timer.start()
try:
    while True:
        db.session("s").add_document(f"d{{acknowledged}}")
        acknowledged += 1
except KeyboardInterrupt:
    pass
print(acknowledged, db.session("s").info().document_count, db.health().status)
db.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=True)
    acknowledged, there, status = done.stdout.split()
    assert status == "ok"
    assert int(there) - int(acknowledged) in {0, 1}
    with gibramdb.open(tmp_path / "data", vector_dim=8) as store:
        assert store.session("s").info().document_count == int(there)


def hold_up(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Makes a start wait in the middle of recovery; returns what says that it waits, and what lets it go on."""
    waits, may_go_on = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Any:
        waits.set()
        assert may_go_on.wait(60)
        return recover(*arguments)

    monkeypatch.setattr("gibramdb.database.opening.recover", slowly)
    return waits, may_go_on


def opened_again(path: Path) -> None:
    """The store is free, at the latest after a moment."""
    until = time.monotonic() + 60
    while True:
        try:
            gibramdb.open(path, vector_dim=8).close()
        except StoreLockedError:
            assert time.monotonic() < until
            time.sleep(0.01)
        else:
            return


def test_an_opening_that_is_cancelled_leaves_the_store_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, may_go_on = hold_up(monkeypatch)

    async def open_and_cancel() -> None:
        task = asyncio.ensure_future(gibramdb.open_async(tmp_path / "data", vector_dim=8))
        await asyncio.to_thread(waits.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(open_and_cancel())
    may_go_on.set()
    opened_again(tmp_path / "data")


def test_an_opening_interrupted_by_ctrl_c_leaves_the_store_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, may_go_on = hold_up(monkeypatch)

    def interrupt() -> None:
        waits.wait(60)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        may_go_on.set()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        gibramdb.open(tmp_path / "data", vector_dim=8)
    opened_again(tmp_path / "data")
