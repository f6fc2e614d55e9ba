"""What comes out of a server is bit by bit what went in: by both clients, after SIGKILL, an update, a restore."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.embeddings import any_finite
from support.server import Server
from support.ways import connected, told, ways

from gibramdb import NewCommunity, NewEntity, NewTextUnit

COUNT = 600
GIVEN = any_finite(3 * COUNT + 1)
TEXTUNITS, ENTITIES, COMMUNITY, OTHER = GIVEN[:COUNT], GIVEN[COUNT : 2 * COUNT], GIVEN[2 * COUNT], GIVEN[2 * COUNT + 1]


async def furnish(session: Any) -> None:
    await told(session.add_document("d"))
    new = [NewTextUnit(f"t{number}", 1, "") for number in range(COUNT)]
    await told(session.add_textunits(new, embeddings=TEXTUNITS))
    entities = [NewEntity(f"e{number}", f"e{number}") for number in range(COUNT)]
    await told(session.add_entities(entities, embeddings=ENTITIES))
    await told(session.add_community(NewCommunity("c", embedding=COMMUNITY)))


async def assert_all_come_out(session: Any, entities: NDArray[np.float32] = ENTITIES) -> None:
    for kind, given in (("textunit", TEXTUNITS), ("entity", entities), ("community", COMMUNITY[None])):
        order = np.random.default_rng(len(kind)).permutation(len(given))
        ids, vectors = await told(session.get_embeddings(kind, order + 1))
        assert ids == (order + 1).tolist()
        assert vectors.tobytes() == given[order].tobytes(), kind


async def assert_restored(db: Any) -> None:
    for _ in range(2_000):
        status = await told(db.backup_status())
        if not status.in_progress:
            assert (status.kind, status.error) == ("restore", "")
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the restore does not end")


@ways
def test_the_same_bits_after_kills_an_update_and_a_restore(way: str, tmp_path: Path) -> None:
    asyncio.run(all_the_way(way, tmp_path / "data"))


async def all_the_way(way: str, directory: Path) -> None:
    moved = ENTITIES.copy()
    moved[6] = OTHER
    with Server(directory) as server:
        async with connected(way, f"gibram://127.0.0.1:{server.port}") as db:
            await furnish(db.session("s"))
            await assert_all_come_out(db.session("s"))
            server.kill()
    with Server(directory) as server:
        async with connected(way, f"gibram://127.0.0.1:{server.port}") as db:
            session = db.session("s")
            await assert_all_come_out(session)  # from the log
            await told(db.save("copy"))
            await told(session.update_entity_description(7, "moved", OTHER))
            await assert_all_come_out(session, moved)
            server.kill()
    with Server(directory) as server:
        async with connected(way, f"gibram://127.0.0.1:{server.port}") as db:
            session = db.session("s")
            await assert_all_come_out(session, moved)  # from the snapshot and the log behind it
            await told(db.restore_in_background("copy"))
            await assert_restored(db)
            await assert_all_come_out(session)
            server.kill()
    with Server(directory) as server:
        async with connected(way, f"gibram://127.0.0.1:{server.port}") as db:
            await assert_all_come_out(db.session("s"))
            server.kill()
