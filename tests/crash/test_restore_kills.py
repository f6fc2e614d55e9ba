"""A restore, ended at every change it makes to the disk: the start gives the old state or the new one, never a mixture."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
from functools import partial
from pathlib import Path

import pytest
from support.faulty_disk import Stopped
from support.owned_store import FakeClock

from gibramdb import NewDocument, NewEntity
from gibramdb.config import Config, load_config
from gibramdb.core.digest import state_digest
from gibramdb.database.answers import Answer
from gibramdb.database.opening import OpenStore, open_store
from gibramdb.errors import GibramError
from gibramdb.model import commands as c
from gibramdb.model.results import BackupStatus, Health
from gibramdb.storage.files import FILE_MODE, OsFileSystem


class StoppingDisk(OsFileSystem):
    """The real disk, until the process dies at the k-th change, counted from `stop_at`."""

    def __init__(self) -> None:
        self.changes = 0
        self.stop_at: int | None = None
        self._locks: list[int] = []

    @property
    def is_stopped(self) -> bool:
        return self.stop_at is not None and self.changes >= self.stop_at

    def _change(self) -> None:
        self.changes += 1
        if self.is_stopped:
            raise Stopped

    def open_write(self, path: Path, *, create: bool = False, mode: int = FILE_MODE) -> int:
        self._change()
        return super().open_write(path, create=create, mode=mode)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._change()
        super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        self._change()
        super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        self._change()
        super().fsync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._change()
        super().truncate(fd, size_bytes)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        self._change()
        super().allocate(fd, offset, length)

    def replace(self, source: Path, target: Path) -> None:
        self._change()
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._change()
        super().unlink(path)

    def lock(self, path: Path, *, create: bool = True) -> int:
        self._locks.append(super().lock(path, create=create))
        return self._locks[-1]

    def die(self) -> None:
        """What the kernel does with the locks of a dead process."""
        for fd in self._locks:
            with contextlib.suppress(OSError):  # let go of already
                os.close(fd)


class Driven:
    def __init__(self, config: Config) -> None:
        self.disk = StoppingDisk()
        self._posted: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.store: OpenStore = open_store(config, FakeClock(), self._posted.put, self.disk)

    def run(self, command: c.Command) -> Answer | None:
        answers: list[Answer] = []
        self.store.database.submit(command, answers.append)
        while not answers and self.turn():
            pass
        return answers[0] if answers else None

    def turn(self) -> bool:
        """One call of another thread; False once the process has died."""
        try:
            call = self._posted.get(timeout=0.02)
        except queue.Empty:
            return not self.disk.is_stopped
        assert callable(call)
        call()
        return True

    def restore(self, path: str) -> BackupStatus | None:
        """How it ended; None if the process died first."""
        if self.run(c.Restore(path)) is None:
            return None
        while True:
            status = self.run(c.GetBackupStatus())
            if not isinstance(status, BackupStatus):
                return None
            if not status.in_progress:
                return status
            if not self.turn():
                return None

    def digest(self) -> str:
        return state_digest(self.store.database.state.sessions.values())[0]


@pytest.fixture(autouse=True)
def quiet_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is not Stopped:
            threading.__excepthook__(arguments)

    monkeypatch.setattr(threading, "excepthook", hook)


def prepared(directory: Path) -> tuple[Config, Driven, str, str]:
    """A store with a copy of an earlier state; the digests of that state and of the present one."""
    config = load_config(
        None,
        flags={"server.data_dir": str(directory), "session_store.mode": "durable", "server.vector_dim": "3"},
    )
    driven = Driven(config)
    driven.run(c.AddEntities("s", tuple(NewEntity(f"e{n}", f"e{n}", embedding=[1.0, 2.0, 3.0]) for n in range(20))))
    assert not isinstance(driven.run(c.Save("copy.gibram")), GibramError)
    copied = driven.digest()
    driven.run(c.AddDocuments("s", (NewDocument("later"),)))
    driven.run(c.AddDocuments("t", (NewDocument("later"),)))
    return config, driven, copied, driven.digest()


@pytest.mark.parametrize("command", [c.TruncateLog(0), c.Checkpoint()], ids=["truncate", "checkpoint"])
def test_what_is_written_after_a_restore_was_ended_where_the_log_had_been_moved_aside(
    tmp_path: Path, command: c.AdminCommand
) -> None:
    """The generation that such a restore has begun lies behind one that is empty, and covered by the snapshot."""
    for step in itertools.count(1):
        config, driven, _, _ = prepared(tmp_path / f"at {step}")
        driven.store.close()
        for path in Path(config.session_store.wal_dir).glob("wal-*.log"):
            path.rename(tmp_path / path.name)
        driven = Driven(config)
        driven.disk.stop_at = driven.disk.changes + step
        if driven.restore("copy.gibram") is not None:
            driven.store.close()
            break
        driven.disk.die()
        again = Driven(config)
        assert not isinstance(again.run(command), GibramError)
        assert not isinstance(again.run(c.AddDocuments("s", (NewDocument("acknowledged"),))), GibramError)
        health = again.run(c.GetHealth())
        assert isinstance(health, Health)
        assert Path(health.components["wal_path"]).exists(), step
        acknowledged = again.digest()
        again.disk.stop_at = again.disk.changes
        again.disk.die()
        last = Driven(config)
        assert last.digest() == acknowledged, step
        last.store.close()
    assert step > 15


def test_a_restore_ended_anywhere_gives_the_old_state_or_the_new(tmp_path: Path) -> None:
    _, driven, copied, _ = prepared(tmp_path / "whole")
    changes = driven.disk.changes
    status = driven.restore("copy.gibram")
    assert status is not None
    assert status.error == ""
    assert driven.digest() == copied
    driven.store.close()
    steps = driven.disk.changes - changes
    assert steps > 15
    found_old = found_new = 0
    for step in range(1, steps + 1):
        config, driven, copied, before = prepared(tmp_path / f"at {step}")
        driven.disk.stop_at = driven.disk.changes + step
        driven.restore("copy.gibram")
        driven.disk.die()
        again = Driven(config)
        found = again.digest()
        assert found in (before, copied), f"step {step} of {steps}: a mixture"
        found_old += found == before
        found_new += found == copied
        assert not any("This start found no" in each for each in again.store.database.facts.warnings)
        assert not isinstance(again.run(c.AddDocuments("u", (NewDocument("goes on"),))), GibramError)
        assert not isinstance(again.run(c.Checkpoint()), GibramError)
        after = again.digest()
        again.store.close()
        third = Driven(config)
        assert third.digest() == after
        third.store.close()
    assert found_old > 10
    assert found_new >= 1


def test_a_restore_that_waits_for_a_snapshot_is_in_progress_and_keeps_a_second_one_out(tmp_path: Path) -> None:
    _, driven, copied, _ = prepared(tmp_path / "data")
    driven.store.database.submit(c.Checkpoint(), lambda answer: None)  # runs, and is not heard of before the next turn
    asked: list[Answer] = []
    driven.store.database.submit(c.Restore("copy.gibram"), asked.append)
    later = []
    while not asked:  # the path is looked at in a thread
        call = driven._posted.get(timeout=60)
        if isinstance(call, partial) and call.func.__name__ == "looked":
            call()
        else:
            later.append(call)
    for call in later:
        driven._posted.put(call)
    answers: list[Answer] = []
    for command in (c.GetBackupStatus(), c.Restore("copy.gibram"), c.BackgroundSave("other.gibram")):
        driven.store.database.submit(command, answers.append)
    assert isinstance(answers[0], BackupStatus)
    assert (answers[0].in_progress, answers[0].kind) == (True, "restore")
    assert all("already in progress" in str(refused) for refused in answers[1:])
    while driven.run(c.GetBackupStatus()).in_progress:  # type: ignore[union-attr]
        driven.turn()
    assert driven.digest() == copied
    driven.store.close()
