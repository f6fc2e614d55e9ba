"""Stores that are not all there: what may not be read, and `store adopt`, ended at every change it makes."""

from __future__ import annotations

import contextlib
import errno

import pytest
from support.faulty_disk import FaultyDisk, Stopped
from support.owned_store import ROOT, FakeClock

from gibramdb.config import Config, load_config
from gibramdb.database.opening import adopt, open_store
from gibramdb.errors import ConfigError, FatalError
from gibramdb.storage import identity

CONFIG: Config = load_config(
    None,
    flags={"server.data_dir": str(ROOT / "data"), "session_store.mode": "durable", "server.vector_dim": "3"},
)


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
