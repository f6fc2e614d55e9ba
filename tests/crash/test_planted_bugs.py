"""Bugs planted one at a time into a whole store: the harness that finds none in ours finds each of them.

`outlived` is the harness: a store lives and dies several times on a disk that forgets, fails and stops, and keeps a ledger
of its digest after each write and of what was acknowledged. Each start must give one of the digests from the last
acknowledged write on; the rest of the life is built on it.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.faulty_disk import PAGE_BYTES, FaultyDisk, Stopped
from support.owned_store import ROOT, VECTOR_DIM, FakeClock

from gibramdb import NewEntity
from gibramdb.config import load_config
from gibramdb.core.digest import state_digest
from gibramdb.database import journal as journals
from gibramdb.database.journal import WalJournal
from gibramdb.database.opening import OpenStore, open_store
from gibramdb.database.snapshot_files import SnapshotFiles
from gibramdb.errors import GibramError
from gibramdb.model import commands as c
from gibramdb.model.ids import Lsn
from gibramdb.storage import snapshot, wal
from gibramdb.storage.files import TEMPORARY_SUFFIX, publish
from gibramdb.storage.snapshot import PACK_HEADER_BYTES, Manifest
from gibramdb.storage.wal import LogWriter

WITHIN = 20
"""How many seeds may pass before each planted bug must have been seen."""
LIVES = 16
CONFIG = load_config(
    None,
    flags={
        "server.data_dir": str(ROOT / "data"),
        "server.vector_dim": str(VECTOR_DIM),
        "session_store.mode": "durable",
        "session_store.snapshot_interval": "0",
        "session_store.snapshot_wal_size_bytes": "0",
        "session_store.snapshot_retention_count": "2",
    },
)
NOISE = random.Random(1).randbytes(64 * 1024).hex()


class Life:
    """A store whose owner is this thread, from a start to its death, and the ledger of both."""

    def __init__(self, disk: FaultyDisk, rng: random.Random) -> None:
        self.disk = disk
        self._rng = rng
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._store: OpenStore = open_store(CONFIG, FakeClock(), self._posted.put, disk)
        self.digests = [self._digest()]
        """After the start, and after each write."""
        self.misses = [each for each in self._store.database.facts.warnings if each.startswith("This start found no")]
        self.acknowledged = 0
        """Of those, the last one that somebody was told of. What a start shows can be read at once."""
        self._unanswered = 0

    def write(self, *entities: int) -> None:
        """For each number a command that adds so many entities in one record; wait for none."""
        for count in entities:
            session = self._rng.choice(("a", "b"))
            self._submit(c.AddEntities(session, tuple(self._entity() for _ in range(count))))

    def write_some(self) -> None:
        """A few small commands, and wait for them."""
        self.write(*[1] * self._rng.randrange(1, 4))
        self.settle()

    def checkpoint(self) -> None:
        """From its cut to the last file removed, if the disk lives so long."""
        answers: list[object] = []
        self._store.database.submit(c.Checkpoint(), answers.append)
        while not answers and self._turn():
            pass

    def settle(self) -> None:
        """Until nothing is heard any more: all is answered, or the log has failed, or the process has died."""
        while self._unanswered and self._turn():
            pass

    def die(self, *, power_fails: bool) -> FaultyDisk:
        """What the next start finds: what the kernel held, or what the disk held when the power failed."""
        self.disk.stop_at(0)
        with contextlib.suppress(Stopped):
            self._store.close()  # ends its threads; none of them reaches the disk any more
        if not power_fails:
            return self.disk.after_kill()
        return self.disk.after_power_cut(self._rng, piece_bytes=self._rng.choice((4096, 512)))

    def _entity(self) -> NewEntity:
        start, length = self._rng.randrange(len(NOISE) - 8000), self._rng.choice((10, 700, 5000, 8000))
        title = f"{self._rng.getrandbits(64):x}"
        return NewEntity(title, title, description=NOISE[start : start + length])

    def _submit(self, command: c.WriteCommand) -> None:
        """Returns when it has run, and the ledger has its digest; or when it never will."""
        place = len(self.digests)
        answers: list[object] = []

        def done(answer: object) -> None:
            answers.append(answer)
            self._unanswered -= 1
            if not isinstance(answer, GibramError):
                self.acknowledged = max(self.acknowledged, place)

        self._unanswered += 1
        self._store.database.submit(command, done)
        while (digest := self._digest()) == self.digests[-1] and not answers and self._turn():
            pass  # it waits for room in the log
        if digest != self.digests[-1]:
            self.digests.append(digest)

    def _turn(self) -> bool:
        """One call of another thread; False once nothing can come any more."""
        while True:
            try:
                self._posted.get(timeout=0.02)()
            except queue.Empty:
                if self.disk.is_stopped:
                    return False
            else:
                return True

    def _digest(self) -> str:
        return state_digest(self._store.database.state.sessions.values())[0]


def _live_and_die(life: Life, rng: random.Random) -> FaultyDisk:
    for _ in range(rng.randrange(3)):
        life.write_some()
        if rng.random() < 0.3:
            life.checkpoint()
    match rng.choice(
        ("in a write", "in a write", "in a checkpoint", "in a checkpoint", "of a sync", "of a short write")
    ):
        case "in a write":
            # One record of many pages, as a group of many writers is: its parts reach the disk in any order.
            life.write_some()
            life.disk.stop_at(rng.choice((1, 2, 2, 3)))
            life.write(rng.choice((2, 20)))
        case "in a checkpoint":
            life.write_some()
            life.disk.stop_at(rng.randrange(1, 40))
            life.checkpoint()
        case "of a sync":
            life.disk.fail("fdatasync", errno.EIO)
        case "of a short write":
            life.disk.fail("pwrite", errno.ENOSPC, written_bytes=rng.choice((1, 100, 4096)))
    life.write_some()
    return life.die(power_fails=rng.random() < 0.7)


def outlived(seed: int, disk_type: type[FaultyDisk] = FaultyDisk) -> str:
    """Lives and dies several times, and says in words what was wrong at a start, or nothing."""
    rng = random.Random(seed)
    life = Life(disk_type(ROOT, seed=seed), rng)
    for number in range(1, LIVES + 1):
        disk = _live_and_die(life, rng)
        try:
            again = Life(disk, rng)
        except Exception as refusal:  # whatever it is: a store that does not start again after a crash
            return f"seed {seed}, death {number}: the start was refused: {refusal!r}"
        if again.misses:
            again.die(power_fails=False)
            return f"seed {seed}, death {number}: a crash is taken for a loss: {again.misses}"
        found, kept = again.digests[0], life.digests[life.acknowledged :]
        if found not in kept:
            again.die(power_fails=False)
            return f"seed {seed}, death {number}: " + (
                "acknowledged writes are lost" if found in life.digests else "what is there was not sent so"
            )
        life = again
    life.die(power_fails=False)
    return ""


@pytest.fixture(autouse=True)
def _world(monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk in memory pays for every byte that is reserved.
    monkeypatch.setattr(wal, "RESERVE_BYTES", 256 * 1024)
    monkeypatch.setattr(journals, "RESERVE_LOW_BYTES", 32 * 1024)

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is not Stopped:  # a thread that dies of the stop is what is wanted here
            threading.__excepthook__(arguments)

    monkeypatch.setattr(threading, "excepthook", hook)


class KeepsItsCache(FaultyDisk):
    """After a failed sync it shows what it does not have, whoever asks for the cache to be dropped: that is a wish."""

    def drop_cache(self, fd: int) -> None:
        pass


@pytest.mark.parametrize("disk_type", [FaultyDisk, KeepsItsCache])
@pytest.mark.parametrize("seeds", [range(WITHIN), pytest.param(range(WITHIN, 500), marks=pytest.mark.sweep)])
def test_without_a_bug_every_life_is_outlived(seeds: range, disk_type: type[FaultyDisk]) -> None:
    assert [found for seed in seeds if (found := outlived(seed, disk_type))] == []


# --- the bugs ---------------------------------------------------------------------------------------------------------


class NeverSyncs(FaultyDisk):
    def fdatasync(self, fd: int) -> None:
        pass


class NeverSyncsFolders(FaultyDisk):
    def sync_dir(self, path: Path) -> None:
        pass


class IgnoresShortWrites(FaultyDisk):
    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        with contextlib.suppress(OSError):
            super().pwrite(fd, data, offset)


class TriesAFailedSyncAgain(FaultyDisk):
    def fdatasync(self, fd: int) -> None:
        try:
            super().fdatasync(fd)
        except OSError:
            super().fdatasync(fd)


class RenamesBeforeItSyncs(FaultyDisk):
    """The name is durable first; the bytes come when the system finds time for them, which is never in so short a life."""

    def fdatasync(self, fd: int) -> None:
        if not self._is_temporary(fd):
            super().fdatasync(fd)

    def fsync(self, fd: int) -> None:
        if not self._is_temporary(fd):
            super().fsync(fd)

    def _is_temporary(self, fd: int) -> bool:
        return self._open[fd][0].name.endswith(TEMPORARY_SUFFIX)


BUGS_OF_THE_DISK = [
    NeverSyncs,
    NeverSyncsFolders,
    IgnoresShortWrites,
    TriesAFailedSyncAgain,
    RenamesBeforeItSyncs,
]


def answers_before_the_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WalJournal, "released_lsn", property(lambda journal: Lsn(journal._enqueued_lsn)))


def drops_the_log_before_the_snapshot_is_durable(patch: pytest.MonkeyPatch) -> None:
    publish, prune = SnapshotFiles.publish, SnapshotFiles.prune
    due: list[Manifest] = []

    def remember(_files: SnapshotFiles, manifest: Manifest) -> None:
        due.append(manifest)

    def drop_then_publish(files: SnapshotFiles, retention_count: int, target_lsn: int, log: Path) -> int:
        for _, path in wal.list_logs(files._fs, files._directories.wal)[:-1]:
            files._fs.unlink(path)
        publish(files, due.pop())
        return prune(files, retention_count, target_lsn, log)

    patch.setattr(SnapshotFiles, "publish", remember)
    patch.setattr(SnapshotFiles, "prune", drop_then_publish)


def leaves_the_torn_tail(patch: pytest.MonkeyPatch) -> None:
    def leave(writer: LogWriter, _offset_bytes: int) -> None:
        writer._torn_bytes = 0

    patch.setattr(LogWriter, "discard_tail", leave)


def ignores_the_checksum(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wal, "extend", lambda _checksum, _data: 0)


def believes_the_cache(patch: pytest.MonkeyPatch) -> None:
    """Ours once."""
    patch.setattr(LogWriter, "write_again", lambda _writer, _proven_lsn: None)


BUGS_OF_THE_CODE = [
    answers_before_the_sync,
    drops_the_log_before_the_snapshot_is_durable,
    leaves_the_torn_tail,
    ignores_the_checksum,
    believes_the_cache,
]


@pytest.mark.parametrize("disk_type", BUGS_OF_THE_DISK)
def test_a_bug_in_how_the_disk_is_used_is_seen(disk_type: type[FaultyDisk]) -> None:
    assert any(outlived(seed, disk_type) for seed in range(WITHIN))


@pytest.mark.parametrize("plant", BUGS_OF_THE_CODE)
def test_a_bug_in_the_order_of_steps_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(outlived(seed, disk_type) for disk_type in (FaultyDisk, KeepsItsCache) for seed in range(WITHIN))


# --- reading back -----------------------------------------------------------------------------------------------------


class ChangesPacks(FaultyDisk):
    """Of some files a byte is another on the disk than in the cache, which shows what was written until it is dropped."""

    NAMED = "pack-"

    def fsync(self, fd: int) -> None:
        super().fsync(fd)
        path, file, _ = self._open[fd]
        if path.name.startswith(self.NAMED) and self._rng.random() < 0.3:
            at = self._rng.randrange(PACK_HEADER_BYTES, len(file.content))
            page = at - at % PAGE_BYTES
            state = file.content[page : page + PAGE_BYTES]
            state[at - page] ^= 1
            file.lost_pages[page // PAGE_BYTES] = bytes(state)


class ChangesManifests(ChangesPacks):
    NAMED = "snapshot-"


def never_reads_packs_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(snapshot, "verify_section", lambda *_: None)


def never_reads_manifests_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(snapshot, "publish", lambda fs, path, data, read_back: publish(fs, path, data))


def reads_the_cache_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FaultyDisk, "drop_cache", lambda _disk, _fd: None)


@pytest.mark.parametrize("disk_type", [ChangesPacks, ChangesManifests])
def test_what_the_disk_changes_on_the_way_down_is_never_published(disk_type: type[FaultyDisk]) -> None:
    assert [found for seed in range(WITHIN) if (found := outlived(seed, disk_type))] == []


@pytest.mark.parametrize(
    ("plant", "disk_type"),
    [
        (never_reads_packs_back, ChangesPacks),
        (never_reads_manifests_back, ChangesManifests),
        (reads_the_cache_back, ChangesPacks),
        (reads_the_cache_back, ChangesManifests),
    ],
)
def test_a_snapshot_that_is_not_read_back_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], disk_type: type[FaultyDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(outlived(seed, disk_type) for seed in range(WITHIN))
