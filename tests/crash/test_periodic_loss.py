"""Under `periodic` a power cut takes nothing that was acknowledged longer than `wal_sync_interval` ago.

The log thread runs as it is, in a world whose time only moves when it waits, writes or syncs: what is handed in comes at
chosen moments, each write and each sync takes as long as the disk of that run is slow, and the power fails at any moment,
in the middle of a sync too. A sync may take up to half the interval: of a slower disk nobody can promise that.
"""

from __future__ import annotations

import queue
import random
import threading
from collections import deque
from typing import Any

import pytest
from support.faulty_disk import FaultyDisk, Stopped
from support.logs import FOLDER, HEADER, WALL_MS, read_all

from gibramdb.database import journal as journals
from gibramdb.database.journal import WalJournal
from gibramdb.errors import GibramError
from gibramdb.storage import wal
from gibramdb.storage.wal import LogWriter

INTERVAL_MS = 1_000


class World:
    """The clock, and the moment at which the power fails."""

    def __init__(self, cut_ms: int) -> None:
        self.elapsed_ms = 0
        self._cut_ms = cut_ms

    def now_ms(self) -> int:
        return WALL_MS + self.elapsed_ms

    def steady_ms(self) -> int:
        return self.elapsed_ms

    def steady_us(self) -> int:
        return self.elapsed_ms * 1_000

    def passes(self, duration_ms: int) -> None:
        """Time goes by, up to the cut."""
        self.elapsed_ms = min(self.elapsed_ms + duration_ms, self._cut_ms)
        if self.elapsed_ms == self._cut_ms:
            raise Stopped


class SlowDisk(FaultyDisk):
    """Takes time to write and to sync; a sync that the cut meets has done some of its work, or all, or none."""

    def __init__(self, world: World, rng: random.Random, sync_ms_max: int) -> None:
        super().__init__(FOLDER)
        self._world = world
        self._choices = rng
        self._sync_ms_max = sync_ms_max
        self.is_running = False

    def _successor(self) -> FaultyDisk:  # type: ignore[override]  # no time passes any more once the power has failed
        return FaultyDisk()

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        super().pwrite(fd, data, offset)
        if self.is_running:
            self._world.passes(self._choices.randrange(3))

    def fdatasync(self, fd: int) -> None:
        if self.is_running:
            self._world.passes(self._choices.randrange(self._sync_ms_max))
        super().fdatasync(fd)


class Clients:
    """A queue into which writers put records at moments of their own; waiting for them is what lets time pass."""

    def __init__(self, world: World, arrivals: list[tuple[int, bytes]]) -> None:
        self._world = world
        self._arrivals = deque(arrivals)
        self._waiting: deque[Any] = deque()
        self.journal: WalJournal | None = None
        self.is_set_up = threading.Event()
        self.sent: list[tuple[int, bytes]] = []
        """LSN and payload of each record that was admitted."""

    def put(self, item: Any, /) -> None:
        self._waiting.append(item)

    def get_nowait(self) -> Any:
        self._arrive()
        if not self._waiting:
            raise queue.Empty
        return self._waiting.popleft()

    def get(self, *, timeout: float | None) -> Any:
        self.is_set_up.wait(60)
        self._arrive()
        if not self._waiting:
            until_ms = self._world.elapsed_ms + (10**9 if timeout is None else round(timeout * 1000))
            next_ms = min(until_ms, self._arrivals[0][0] if self._arrivals else 10**9)
            self._world.passes(next_ms - self._world.elapsed_ms)
        return self.get_nowait()

    def _arrive(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self._world.elapsed_ms:
            _, payload = self._arrivals.popleft()
            assert self.journal is not None
            if self.journal.has_room(len(payload)):
                self.sent.append((int(self.journal.enqueue(payload)), payload))


def arrivals(rng: random.Random, until_ms: int) -> list[tuple[int, bytes]]:
    """Bursts, trickles and silences, in milliseconds."""
    found: list[tuple[int, bytes]] = []
    now_ms = 0
    while now_ms < until_ms:
        pause_ms = rng.choice((0, 1, 7, 100, INTERVAL_MS // 2, INTERVAL_MS))
        for _ in range(rng.choice((1, 1, 3, 40))):
            now_ms += rng.randrange(pause_ms + 1)
            found.append((now_ms, rng.randbytes(rng.choice((20, 300, 3_000)))))
        now_ms += rng.choice((0, 10, 450, 2_500))
    return found


def lost(seed: int, sync_ms_max: int = INTERVAL_MS // 2 - 20, configured_ms: int = INTERVAL_MS) -> str:
    """Runs one log until its power fails, and says in words what is wrong afterwards, or nothing."""
    rng = random.Random(seed)
    cut_ms = rng.randrange(1, 8 * INTERVAL_MS)
    world = World(cut_ms)
    disk = SlowDisk(world, rng, sync_ms_max)
    clients = Clients(world, arrivals(rng, cut_ms))
    acknowledged: list[tuple[int, int]] = []
    has_ended = threading.Event()

    def on_progress() -> None:
        assert clients.journal is not None
        if clients.journal.failure is not None:
            has_ended.set()
        else:
            acknowledged.append((world.elapsed_ms, int(clients.journal.released_lsn)))

    writer = LogWriter.create(disk, FOLDER, HEADER)
    disk.is_running = True
    journal = WalJournal(
        writer, 0, "periodic", configured_ms, world, on_progress, lambda: journal.enqueue_marker(), clients
    )
    clients.journal = journal
    clients.is_set_up.set()
    assert has_ended.wait(60)

    old_lsn = max((lsn for at_ms, lsn in acknowledged if at_ms < cut_ms - INTERVAL_MS), default=0)
    owed = [payload for lsn, payload in clients.sent if lsn <= old_lsn]
    try:
        payloads, _ = read_all(disk.after_power_cut(rng))
    except GibramError as refusal:
        return f"seed {seed}: {refusal}"
    if payloads != [payload for _, payload in clients.sent][: len(payloads)]:
        return f"seed {seed}: what is there was not sent so"
    missing = len(owed) - len(payloads)
    return f"seed {seed}: {missing} records acknowledged more than {INTERVAL_MS} ms ago are lost" if missing > 0 else ""


@pytest.fixture(autouse=True)
def _small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk in memory pays for every byte that is reserved.
    monkeypatch.setattr(wal, "RESERVE_BYTES", 64 * 1024)
    monkeypatch.setattr(journals, "RESERVE_LOW_BYTES", 32 * 1024)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("seeds", [range(500), pytest.param(range(500, 20_000), marks=pytest.mark.sweep)])
def test_a_power_cut_takes_nothing_older_than_the_interval(seeds: range) -> None:
    assert [found for seed in seeds if (found := lost(seed))] == []


def test_the_harness_sees_a_log_that_syncs_too_late() -> None:
    assert any("are lost" in lost(seed, configured_ms=4 * INTERVAL_MS) for seed in range(20))


def test_the_harness_sees_a_disk_that_is_slower_than_can_be_promised_for() -> None:
    assert any("are lost" in lost(seed, sync_ms_max=4 * INTERVAL_MS) for seed in range(40))
