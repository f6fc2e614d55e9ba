"""A snapshot, ended at every change it makes to the disk: each start gives what was there, and the next one succeeds."""

from __future__ import annotations

import errno
import os
import queue
import random
import re
import threading
from collections.abc import Callable

import msgspec
import pytest
from support.faulty_disk import FaultyDisk, Stopped
from support.owned_store import ROOT, FakeClock

from gibramdb import NewCommunity, NewDocument, NewEntity, NewTextUnit
from gibramdb.config import load_config
from gibramdb.core.digest import state_digest
from gibramdb.database.answers import Answer
from gibramdb.database.opening import OpenStore, open_store
from gibramdb.errors import DiskFullError, FatalError, GibramError, HaltedError, IncompatibleStoreError, StorageError
from gibramdb.model import commands as c
from gibramdb.model.results import Health
from gibramdb.storage import snapshot, wal

CONFIG = load_config(
    None,
    flags={
        "server.data_dir": str(ROOT / "data"),
        "session_store.mode": "durable",
        "server.vector_dim": "3",
        "session_store.snapshot_retention_count": "2",
    },
)
SNAPSHOTS, LOGS = ROOT / "data/session_snapshots", ROOT / "data/session_wal"


class Driven:
    """A store whose owner is this thread, on a disk that may stop the process at any change."""

    def __init__(self, disk: FaultyDisk) -> None:
        self.disk = disk
        self.ends: dict[int, str] = {}  # the digest at the end of each generation
        self._posted: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.store: OpenStore = open_store(CONFIG, FakeClock(), self._posted.put, disk)

    def run(self, command: c.Command) -> Answer | None:
        """The answer; None if the process died first."""
        answers: list[Answer] = []
        self.store.database.submit(command, answers.append)
        while not answers:
            try:
                call = self._posted.get(timeout=0.05)
            except queue.Empty:
                if self.disk.is_stopped:
                    return None
                continue
            assert callable(call)
            call()
        self.ends[self.store.database.journal.facts().generation] = self.digest()
        return answers[0]

    def digest(self) -> str:
        return state_digest(self.store.database.state.sessions.values())[0]

    def missing(self) -> str:
        """What the start said is not here."""
        return "".join(each for each in self.store.database.facts.warnings if each.startswith("This start found no"))


def prepared() -> Driven:
    """Two snapshots are there, and changes behind them in one of two sessions."""
    driven = Driven(FaultyDisk(ROOT))
    for name in ("still", "busy"):
        driven.run(
            c.AddEntities(name, tuple(NewEntity(f"e{n}", f"e{n}", embedding=[1.0, 2.0, 3.0]) for n in range(20)))
        )
    for number in range(2):
        assert not isinstance(driven.run(c.Checkpoint()), GibramError)
        driven.run(c.AddDocuments("busy", (NewDocument(f"d{number}"),)))
    return driven


def changes_of(command: c.Command) -> int:
    driven = prepared()
    before = driven.disk.changing_calls
    assert not isinstance(driven.run(command), GibramError)
    driven.store.close()
    return driven.disk.changing_calls - before


@pytest.fixture(autouse=True)
def quiet_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that dies of the stop is what is wanted here."""

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is not Stopped:
            threading.__excepthook__(arguments)

    monkeypatch.setattr(threading, "excepthook", hook)


@pytest.mark.parametrize("ending", ["kill", "power cut"])
def test_every_start_gives_what_was_there_and_goes_on(ending: str) -> None:
    steps = changes_of(c.Checkpoint())
    assert steps > 20
    for step in range(1, steps + 1):
        driven = prepared()
        digest = driven.digest()
        driven.disk.stop_at(step)
        driven.run(c.Checkpoint())
        left = driven.disk.after_kill()
        if ending == "power cut":
            left = driven.disk.after_power_cut(random.Random(step))
        again = Driven(left)
        assert again.digest() == digest, f"step {step} of {steps}"
        assert not again.missing(), "a crash is no loss"
        assert not isinstance(again.run(c.AddDocuments("busy", (NewDocument("goes on"),))), GibramError)
        assert not isinstance(again.run(c.Checkpoint()), GibramError)
        assert len(snapshot.list_snapshots(left, SNAPSHOTS)) <= 2
        assert not [name for name in left.list_dir(SNAPSHOTS) if name.endswith(".tmp")]
        after = again.digest()
        again.store.close()
        third = Driven(left.after_kill())
        assert third.digest() == after
        assert not third.missing()
        third.store.close()


@pytest.mark.parametrize("ending", ["kill", "power cut"])
@pytest.mark.parametrize("command", [c.Checkpoint(), c.RotateLog()])
def test_a_newest_generation_that_is_lost_is_missed_wherever_the_process_ended_before(
    command: c.Command, ending: str
) -> None:
    steps = changes_of(command)
    for step in range(1, steps + 2):  # and once not at all
        driven = prepared()
        driven.disk.stop_at(step)
        driven.run(command)
        cut = random.Random(step)
        left = driven.disk.after_kill() if ending == "kill" else driven.disk.after_power_cut(cut)
        again = Driven(left)
        assert not again.missing(), f"step {step} of {steps}"
        assert not isinstance(again.run(c.AddDocuments("busy", (NewDocument("acknowledged"),))), GibramError)
        left = left.after_kill() if ending == "kill" else left.after_power_cut(cut)
        (_, newest) = wal.list_logs(left, LOGS)[-1]
        left.unlink(newest)
        left.sync_dir(LOGS)
        try:
            third = Driven(left)
        except FatalError:
            continue
        assert "what was logged behind LSN" in third.missing(), f"step {step} of {steps}"
        third.store.close()
        left = left.after_kill() if ending == "kill" else left.after_power_cut(cut)
        third = Driven(left)
        assert "what was logged behind LSN" in third.missing(), "nothing has been logged since"
        assert not isinstance(third.run(c.AddDocuments("busy", (NewDocument("goes on"),))), GibramError)
        third.store.close()
        fourth = Driven(left.after_kill())
        assert not fourth.missing(), "what goes on is the newest again"
        fourth.store.close()


@pytest.mark.parametrize(
    "operation", ["open_write(create)", "pwrite", "fsync", "fdatasync", "replace", "unlink", "sync_dir"]
)
def test_a_snapshot_that_fails_stops_no_writes_and_is_tried_again(operation: str) -> None:
    for at in range(1, 4):
        driven = prepared()
        driven.disk.fail_below(SNAPSHOTS, operation, 28, at=at)  # ENOSPC
        answer = driven.run(c.Checkpoint())
        assert not isinstance(driven.run(c.AddDocuments("busy", (NewDocument("meanwhile"),))), GibramError)
        health = driven.run(c.GetHealth())
        if isinstance(answer, GibramError):
            assert str(answer).startswith("checkpoint failed: ")
            assert health.components["snapshot_failures"] == "1"  # type: ignore[union-attr]
            assert health.components["durable_state"] == "degraded"  # type: ignore[union-attr]
            assert "No space left" in health.components["durable_state_reason"]  # type: ignore[union-attr]
        driven.disk.forgive()
        assert not isinstance(driven.run(c.Checkpoint()), GibramError)
        assert driven.run(c.GetHealth()).components["durable_state"] == "serving"  # type: ignore[union-attr]
        digest = driven.digest()
        driven.store.close()
        again = Driven(driven.disk.after_kill())
        assert again.digest() == digest
        again.store.close()


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOSPC])
@pytest.mark.parametrize("operation", ["open_write(create)", "open_write", "replace"])
def test_a_generation_that_may_not_be_begun_stops_no_writes_and_is_tried_again(operation: str, error: int) -> None:
    """A permission taken away, or too many open files, is no sign of a disk that fails: the log goes on as it was."""
    driven = prepared()
    driven.disk.fail_below(LOGS, operation, error)
    assert not isinstance(driven.run(c.Checkpoint()), GibramError), "the snapshot itself is published"
    assert not isinstance(driven.run(c.AddDocuments("busy", (NewDocument("meanwhile"),))), GibramError)
    health = driven.run(c.GetHealth())
    assert health.components["durable_state"] == "degraded"  # type: ignore[union-attr]
    assert os.strerror(error) in health.components["durable_state_reason"]  # type: ignore[union-attr]
    driven.disk.fail_below(LOGS, operation, error)
    refused = driven.run(c.RotateLog())
    assert isinstance(refused, DiskFullError if error == errno.ENOSPC else StorageError)
    assert os.strerror(error) in str(refused)
    assert not isinstance(driven.run(c.AddDocuments("busy", (NewDocument("and again"),))), GibramError)
    digest = driven.digest()
    left = Driven(driven.disk.after_kill())
    assert left.digest() == digest
    left.store.close()
    assert not isinstance(driven.run(c.RotateLog()), GibramError)
    assert driven.run(c.GetHealth()).components["durable_state"] == "serving"  # type: ignore[union-attr]
    driven.store.close()
    again = Driven(driven.disk.after_kill())
    assert again.digest() == digest
    again.store.close()


def test_generations_and_snapshots_of_any_age_give_the_same_state_or_are_refused_by_name() -> None:
    """Every combination of what lies there: the newest snapshot with what follows it, never less and never a guess."""
    driven = prepared()
    driven.run(c.RotateLog())
    driven.run(c.AddDocuments("still", (NewDocument("d9"),)))
    digest = driven.digest()
    driven.store.close()
    disk = driven.disk.after_kill()
    logs = [path for _, path in wal.list_logs(disk, LOGS)]
    snapshots = [path for _, path in snapshot.list_snapshots(disk, SNAPSHOTS)]
    assert (len(logs), len(snapshots)) == (3, 2) or len(logs) > 3
    contents = {path: disk.read(path) for path in (*logs, *snapshots)}
    cuts = {path: snapshot.read_manifest(disk, path)[0].cut for path in snapshots}
    same = refused = older = 0
    for chosen in range(2 ** len(contents)):
        present = {path for index, path in enumerate(contents) if chosen >> index & 1}
        for path, content in contents.items():
            if path in present:
                disk.put(path, content)
            elif disk.exists(path):
                disk.unlink(path)
        try:
            again = Driven(disk)
        except FatalError:
            refused += 1
            continue
        found = again.digest()
        assert bool(again.missing()) == (logs[-1] not in present), "the end is gone, and that is said; or neither"
        again.store.close()
        newest = max((cuts[path].generation for path in present & set(snapshots)), default=0)
        there = [generation for generation, path in wal.list_logs(disk, LOGS) if path in present]
        behind = [generation for generation in there if generation >= newest]
        assert behind or not there, f"the end of the log is missing, and was not missed: {present}"
        assert found == driven.ends[max(behind, default=newest)], (
            f"all that lies there, and not a record less: {present}"
        )
        same += found == digest
        older += found != digest
        for path in [path for _, path in wal.list_logs(disk, LOGS) if path not in contents]:
            disk.unlink(path)  # the generation that a start on a snapshot alone has made
    assert same >= 2
    assert refused > older > 0


@pytest.mark.parametrize("token", [b"", b"asked for once"])
@pytest.mark.parametrize(
    "write",
    [
        lambda token: c.AddTextUnits("s", (NewTextUnit("t", 1, "x", [1.0, 2.0, 3.0]),), token=token),
        lambda token: c.AddEntities("s", (NewEntity("e", "e", embedding=[1.0, 2.0, 3.0]),), token=token),
        lambda token: c.AddCommunity("s", NewCommunity("c", (), embedding=[1.0, 2.0, 3.0]), token=token),
    ],
)
def test_a_log_with_vectors_of_another_dimension_is_refused_by_both_numbers(
    write: Callable[[bytes], c.WriteCommand], token: bytes
) -> None:
    driven = Driven(FaultyDisk(ROOT))
    driven.run(c.AddDocuments("s", (NewDocument("d"),)))
    assert not isinstance(driven.run(write(token)), GibramError)
    driven.store.close()
    server = msgspec.structs.replace(CONFIG.server, vector_dim=4)
    with pytest.raises(IncompatibleStoreError, match=r"dimension 3, server.vector_dim is 4; next: set"):
        open_store(
            msgspec.structs.replace(CONFIG, server=server), FakeClock(), lambda _: None, driven.disk.after_kill()
        )


def test_a_halted_store_says_once_what_to_do() -> None:
    driven = Driven(FaultyDisk(ROOT))
    driven.disk.fail_below(LOGS, "fdatasync", errno.EIO)
    driven.run(c.AddDocuments("s", (NewDocument("d"),)))
    refused = driven.run(c.AddDocuments("s", (NewDocument("e"),)))
    assert isinstance(refused, HaltedError)
    assert re.search(r"next: .*start it again$", str(refused))
    assert len(re.findall("start (it )?again", str(refused))) == 1
    driven.store.close()


def test_a_disk_that_is_nearly_full_is_told_while_everything_is_still_taken() -> None:
    driven = Driven(FaultyDisk(ROOT, free_bytes=40_000_000))
    assert not isinstance(driven.run(c.AddDocuments("s", (NewDocument("d"),))), GibramError)
    health = driven.run(c.GetHealth())
    assert health.components["durable_state"] == "degraded"  # type: ignore[union-attr]
    assert "nearly full" in health.components["durable_state_reason"]  # type: ignore[union-attr]
    driven.store.close()


def test_a_snapshot_that_is_there_although_the_system_said_that_it_failed_keeps_its_pack() -> None:
    for at in range(1, 8):
        driven = prepared()
        driven.disk.fail_below(SNAPSHOTS, "sync_dir", 5, at=at)  # EIO
        driven.run(c.Checkpoint())
        driven.disk.forgive()
        driven.run(c.AddDocuments("busy", (NewDocument("acknowledged"),)))
        digest = driven.digest()
        driven.store.close()
        again = Driven(driven.disk.after_kill())
        assert again.digest() == digest
        again.store.close()


def test_a_later_snapshot_never_counts_on_a_pack_that_is_gone() -> None:
    """What a snapshot that came through in spite of an error has made superfluous may be removed before the next."""
    there = 0
    for at in range(1, 8):
        driven = Driven(FaultyDisk(ROOT))
        driven.run(c.AddEntities("still", (NewEntity("e", "e"),)))
        driven.run(c.AddEntities("busy", tuple(NewEntity(f"e{n}", f"e{n}") for n in range(60))))
        assert not isinstance(driven.run(c.Checkpoint()), GibramError)
        for number in range(2):
            driven.run(c.AddDocuments("busy", (NewDocument(f"d{number}"),)))
            driven.disk.fail_below(SNAPSHOTS, "sync_dir", errno.EIO, at=at)
            is_refused = isinstance(driven.run(c.Checkpoint()), GibramError)
            driven.disk.forgive()
            found = snapshot.list_snapshots(driven.disk, SNAPSHOTS)[-1][0]
            there += is_refused and found == number + 2
            health = driven.run(c.GetHealth())
            assert isinstance(health, Health)
            assert health.components["snapshot_count"] == str(found)
            on_disk = snapshot.list_snapshots(driven.disk, SNAPSHOTS)
            assert health.components["snapshots_retained"] == str(len(on_disk)), at
        driven.run(c.TruncateLog())
        driven.run(c.AddDocuments("busy", (NewDocument("last"),)))
        assert not isinstance(driven.run(c.Checkpoint()), GibramError)
        digest = driven.digest()
        driven.store.close()
        again = Driven(driven.disk.after_kill())
        assert again.digest() == digest
        again.store.close()
    assert there, "some of them were refused and there all the same"
