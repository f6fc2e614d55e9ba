"""An import from GibRAM, ended at every change it makes, and failing at each: a whole store, or none that serves."""

from __future__ import annotations

import errno
import random

import pytest
from support.faulty_disk import FaultyDisk, Stopped
from support.owned_store import ROOT, FakeClock
from unit.test_gibram_directory import document, entity, session, write_snapshot

from gibramdb.config import Config, load_config
from gibramdb.database.importing import store_gibram
from gibramdb.database.opening import adopt, open_store
from gibramdb.errors import ConfigError, DiskFullError, FatalError, MissingStoreError, StorageError
from gibramdb.storage.files import FileSystem
from gibramdb.storage.gibram import Import, read_directory

DATA = ROOT / "data"


def config(**more: str) -> Config:
    flags = {"server.data_dir": str(DATA), "session_store.mode": "durable", "server.vector_dim": "3", **more}
    return load_config(None, flags=flags)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Import:
    old = tmp_path_factory.mktemp("old")
    vectors = {"entity_vectors": {"1": [1.0, 2.0, 3.0]}}
    write_snapshot(old, [session("s", documents=[document()], entities=[entity()], **vectors), session("t")])
    return read_directory(old)


def sessions_served(disk: FileSystem) -> list[str]:
    store = open_store(config(), FakeClock(), lambda call: None, disk)
    try:
        return sorted(store.database.state.sessions)
    finally:
        store.close()


def steps_of(imported: Import, disk: FaultyDisk) -> int:
    before = disk.changing_calls
    store_gibram(imported, config(), disk)
    assert sessions_served(disk.after_kill()) == ["s", "t"]
    return disk.changing_calls - before


def test_ended_anywhere_it_is_told_from_a_store_and_the_next_import_begins_anew(imported: Import) -> None:
    steps = steps_of(imported, FaultyDisk(ROOT))
    assert steps > 30
    rng = random.Random(1)
    refused = 0
    for step in range(1, steps + 1):
        disk = FaultyDisk(ROOT)
        disk.stop_at(step)
        with pytest.raises(Stopped):
            store_gibram(imported, config(), disk)
        for left in (disk.after_power_cut(rng), disk.after_power_cut(rng), disk.after_kill()):
            has_begun = left.exists(DATA) and "gibramdb-import.json" in left.list_dir(DATA)
            is_there = left.exists(DATA) and "gibramdb-store.json" in left.list_dir(DATA)
            if not has_begun and is_there:
                assert sessions_served(left) == ["s", "t"]
                continue
            if has_begun:
                refused += 1
                for start in (sessions_served, lambda disk: adopt(config(), disk, accept=True)):
                    with pytest.raises(MissingStoreError, match=r"an import into .* has not ended.*import-gibram"):
                        start(left)
            store_gibram(imported, config(), left)
            assert sessions_served(left.after_kill()) == ["s", "t"]
    assert refused > steps


@pytest.mark.parametrize("is_made_before", [False, True])
def test_failed_anywhere_it_leaves_nothing(imported: Import, is_made_before: bool) -> None:
    def new() -> FaultyDisk:
        disk = FaultyDisk(ROOT)
        if is_made_before:
            disk.make_dir(DATA)
        return disk

    whole = new()
    calls = whole.calls.copy()
    steps_of(imported, whole)
    calls = whole.calls - calls
    failures = 0
    for operation in ("make_dir", "lock", "open_write(create)", "pwrite", "fsync", "replace", "sync_dir", "unlink"):
        for at in range(1, calls[operation] + 1):
            for error in (errno.ENOSPC, errno.EIO):
                disk = new()
                disk.fail(operation, error, at=at)
                with pytest.raises(DiskFullError if error == errno.ENOSPC else StorageError, match=str(ROOT)):
                    store_gibram(imported, config(), disk)
                failures += 1
                assert disk.list_dir(ROOT) == (["data"] if is_made_before else []), (operation, at)
                assert not is_made_before or disk.list_dir(DATA) == [], (operation, at)
                store_gibram(imported, config(), disk)
                assert sessions_served(disk.after_kill()) == ["s", "t"]
    assert failures > 50


def test_a_disk_that_stays_full_is_said_so_and_what_could_not_be_removed_is_told_from_a_store(
    imported: Import,
) -> None:
    disk = FaultyDisk(ROOT, free_bytes=600)
    with pytest.raises(DiskFullError, match=r"No space left on device; next: free space on its disk"):
        store_gibram(imported, config(), disk)
    assert disk.list_dir(ROOT) == []
    disk = FaultyDisk(ROOT)
    disk.fail("fsync", errno.EIO, at=3)
    disk.fail("unlink", errno.EROFS, times=None)
    with pytest.raises(StorageError):
        store_gibram(imported, config(), disk)
    left = disk.after_kill()
    with pytest.raises(MissingStoreError, match="has not ended"):
        sessions_served(left)
    store_gibram(imported, config(), left)
    assert sessions_served(left) == ["s", "t"]


def test_what_lies_there_already_is_left_alone(imported: Import) -> None:
    """A store, another import that runs, one that was told of other directories, somebody's files."""
    disk = FaultyDisk(ROOT)
    store_gibram(imported, config(), disk)
    with pytest.raises(ConfigError, match="found one"):
        store_gibram(imported, config(), disk)
    assert sessions_served(disk) == ["s", "t"]

    disk = FaultyDisk(ROOT)
    disk.stop_at(20)
    with pytest.raises(Stopped):
        store_gibram(imported, config(), disk)
    left = disk.after_kill()
    elsewhere = config(**{"session_store.wal_dir": str(ROOT / "elsewhere")})
    with pytest.raises(ConfigError, match=f"expected an import into {ROOT}/elsewhere.*session_wal"):
        store_gibram(imported, elsewhere, left)
    lock = left.lock(DATA / "LOCK")
    before = left.list_dir(DATA)
    with pytest.raises(FatalError, match="in use"):
        store_gibram(imported, config(), left)
    assert left.list_dir(DATA) == before
    left.close(lock)

    for folder, name in ((DATA / "session_wal", "notes.txt"), (DATA / "session_snapshots", "notes.txt")):
        disk = FaultyDisk(ROOT)
        disk.make_dir(DATA)
        disk.make_dir(folder)
        disk.put(folder / name, b"mine")
        disk.put(DATA / "mine.tmp", b"mine")
        with pytest.raises(MissingStoreError, match="expected an empty directory"):
            store_gibram(imported, config(), disk)
        assert (disk.read(folder / name), disk.read(DATA / "mine.tmp")) == (b"mine", b"mine")
        assert "LOCK" not in disk.list_dir(DATA)
