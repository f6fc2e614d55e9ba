"""Stores that are not all there: what may not be read, and `store adopt`, ended at every change it makes."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import pytest
from support.faulty_disk import FaultyDisk, Stopped
from support.owned_store import ROOT, FakeClock, OwnedStore

from gibramdb import NewDocument
from gibramdb.config import Config, load_config
from gibramdb.core.digest import state_digest
from gibramdb.database.importing import read_gibram
from gibramdb.database.opening import adopt, open_store, verify
from gibramdb.errors import (
    ConfigError,
    DiskFullError,
    FatalError,
    IncompatibleStoreError,
    MissingStoreError,
    StorageError,
)
from gibramdb.model import commands as c
from gibramdb.storage import identity

CONFIG: Config = load_config(
    None,
    flags={"server.data_dir": str(ROOT / "data"), "session_store.mode": "durable", "server.vector_dim": "3"},
)


FOLDERS = (ROOT / "data", ROOT / "data/session_wal", ROOT / "data/session_snapshots")


def without_its_log() -> FaultyDisk:
    disk = FaultyDisk(ROOT)
    open_store(CONFIG, FakeClock(), lambda call: None, disk).close()
    wal_directory = ROOT / "data" / "session_wal"
    for name in disk.list_dir(wal_directory):
        if name.endswith(".log"):
            disk.unlink(wal_directory / name)
    disk.sync_dir(wal_directory)
    return disk


def test_a_lost_log_is_accepted_whenever_the_first_try_ends() -> None:
    whole = without_its_log()
    changes = whole.changing_calls
    adopt(CONFIG, whole, accept=True)
    steps = whole.changing_calls - changes
    assert steps > 10
    for step in range(1, steps + 1):
        disk = without_its_log()
        disk.stop_at(step)
        with pytest.raises(Stopped):
            adopt(CONFIG, disk, accept=True)
        left = disk.after_kill()
        with contextlib.suppress(ConfigError):  # nothing is missing any more, where it ended at its last change
            adopt(CONFIG, left, accept=True)
        open_store(CONFIG, FakeClock(), lambda call: None, left).close()


def test_where_it_fails_it_says_what_of_and_leaves_no_part_of_a_file() -> None:
    whole = without_its_log()
    calls = whole.calls.copy()
    adopt(CONFIG, whole, accept=True)
    calls = whole.calls - calls
    failures = 0
    for operation in ("exists", "list_dir", "lock", "open_write(create)", "pwrite", "fsync", "replace", "sync_dir"):
        for at in range(1, calls[operation] + 1):
            disk = without_its_log()
            error = (errno.ENOSPC, errno.EROFS)[at % 2]
            disk.fail(operation, error, at=at)
            with pytest.raises(
                (StorageError, DiskFullError, MissingStoreError), match=r"/stores/data.*; next: "
            ) as told:
                adopt(CONFIG, disk, accept=True)
            assert isinstance(
                told.value, MissingStoreError | (DiskFullError if error == errno.ENOSPC else StorageError)
            )
            assert not [name for folder in FOLDERS for name in disk.list_dir(folder) if name.endswith(".tmp")]
            failures += 1
            with contextlib.suppress(ConfigError):  # nothing is missing any more, where it failed at its last change
                adopt(CONFIG, disk, accept=True)
            open_store(CONFIG, FakeClock(), lambda call: None, disk).close()
    assert failures > 30


@pytest.mark.parametrize("what", ["", "session_wal", "session_snapshots"])
def test_a_file_where_a_directory_should_be_is_named(tmp_path: Path, what: str) -> None:
    flags = {"server.data_dir": str(tmp_path / "data"), "session_store.mode": "durable", "server.vector_dim": "3"}
    config = load_config(None, flags=flags)
    path = tmp_path / "data" / what
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    for accept in (False, True):
        with pytest.raises(StorageError, match=rf"{path}.*: Not a directory; next: check the path"):
            adopt(config, accept=accept)
    with pytest.raises(FatalError, match=str(path)):
        open_store(config, FakeClock(), lambda call: None)
    with pytest.raises(FatalError, match=f"{tmp_path}/data"):
        verify(config)
    with pytest.raises(FatalError, match=str(path)):
        read_gibram(tmp_path, config)


@pytest.mark.parametrize("free_bytes", [0, 300, 600])
def test_a_first_start_on_a_full_disk_says_so_and_succeeds_once_there_is_space(free_bytes: int) -> None:
    disk = FaultyDisk(ROOT, free_bytes=free_bytes)
    with pytest.raises(DiskFullError, match=r"/stores/data.*: No space left on device; next: free space") as refusal:
        open_store(CONFIG, FakeClock(), lambda call: None, disk)
    assert refusal.value.exit_code == 75
    disk.free_bytes = None
    open_store(CONFIG, FakeClock(), lambda call: None, disk).close()


@pytest.mark.parametrize("content", [b"", bytes(80), b"{}", b'{"format":1,"store_id":"STORE","role":"ROLE"}'])
@pytest.mark.parametrize("damaged", [*[(folder,) for folder in FOLDERS], FOLDERS])
def test_a_damaged_marker_is_mended_as_the_refusal_says(damaged: tuple[Path, ...], content: bytes) -> None:
    store = OwnedStore()
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    store.run(c.Checkpoint())
    store.run(c.AddDocuments("s", (NewDocument("behind the snapshot"),)))
    digest = store.digest()
    store.close()
    disk = store.disk
    for folder in damaged:
        role = identity.SNAPSHOTS if "snapshots" in folder.name else identity.WAL if "wal" in folder.name else "data"
        disk.put(folder / identity.MARKER_NAME, content.replace(b"STORE", b"x" * 32).replace(b"ROLE", role.encode()))
    says = "move it away, and `gibramdb store adopt DIR` says"
    with pytest.raises(IncompatibleStoreError, match=says):
        open_store(CONFIG, FakeClock(), lambda call: None, disk)
    with pytest.raises(IncompatibleStoreError, match=says):
        verify(CONFIG, disk)
    for _ in damaged:
        with pytest.raises(IncompatibleStoreError, match=says) as refusal:
            adopt(CONFIG, disk, accept=True)
        disk.unlink(Path(str(refusal.value).partition(":")[0]))
    assert any("all that it holds is kept" in said for said in adopt(CONFIG, disk, accept=True))
    again = open_store(CONFIG, FakeClock(), lambda call: None, disk)
    assert state_digest(again.database.state.sessions.values())[0] == digest
    again.close()


def test_the_folder_that_mkfs_makes_is_nothing_foreign() -> None:
    disk = FaultyDisk(ROOT)
    for folder in FOLDERS:
        disk.make_dir(folder)
        disk.make_dir(folder / "lost+found")
    open_store(CONFIG, FakeClock(), lambda call: None, disk).close()
    open_store(CONFIG, FakeClock(), lambda call: None, disk).close()


def test_a_store_whose_markers_and_log_disagree_says_so_and_can_be_accepted() -> None:
    disk = without_its_log()
    adopt(CONFIG, disk, accept=True)
    identity.write_marker(disk, ROOT / "data", identity.DATA, bytes(16))
    with pytest.raises(FatalError, match="expected store"):
        open_store(CONFIG, FakeClock(), lambda call: None, disk)
    said = adopt(CONFIG, disk, accept=False)
    assert any("names another store than the log" in sentence for sentence in said)
    adopt(CONFIG, disk, accept=True)
    open_store(CONFIG, FakeClock(), lambda call: None, disk).close()


@pytest.mark.parametrize("operation", ["open_read", "list_dir", "sync_dir", "open_write", "lock"])
def test_what_may_not_be_read_or_written_is_no_first_start(operation: str) -> None:
    disk = FaultyDisk(ROOT)
    open_store(CONFIG, FakeClock(), lambda call: None, disk).close()
    before = {
        name: disk.read(ROOT / "data" / "session_wal" / name) for name in disk.list_dir(ROOT / "data/session_wal")
    }
    after = disk.after_kill()
    after.fail(operation, errno.EACCES, times=None)
    with pytest.raises(FatalError, match="Permission denied") as refusal:
        open_store(CONFIG, FakeClock(), lambda call: None, after)
    assert str(ROOT) in str(refusal.value)
    assert {name: after.read(ROOT / "data" / "session_wal" / name) for name in before} == before
    open_store(CONFIG, FakeClock(), lambda call: None, after.after_kill()).close()
