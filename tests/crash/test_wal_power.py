"""Whenever the power fails or the process dies: all that was acknowledged is there, what is there was sent, and it goes on.

`outlived` is the harness: it runs one life of a log, stops it, and says in words what is wrong afterwards, or nothing.
The planted bugs at the end show that it can see.
"""

from __future__ import annotations

import random

import pytest
from support.faulty_disk import FaultyDisk, Stopped
from support.logs import FOLDER, HEADER, PATH, WALL_MS, read_all

from gibramdb.errors import GibramError
from gibramdb.model.ids import Lsn
from gibramdb.storage import wal
from gibramdb.storage.wal import MARKER_BYTES, LogTail, LogWriter, framed_size

RESERVE_BYTES = 64 * 1024
NOISE = random.Random(1).randbytes(64 * 1024)


@pytest.fixture(autouse=True)
def _small_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    # A disk in memory pays for every byte that is reserved; and a small reserve is renewed more often.
    monkeypatch.setattr(wal, "RESERVE_BYTES", RESERVE_BYTES)


def _payload(rng: random.Random) -> bytes:
    """Up to 8 KiB, mostly less; some with sectors of zeros in them."""
    size = rng.choice((rng.randrange(1, 100), rng.randrange(1, 1700), rng.randrange(1, 8193)))
    start = rng.randrange(len(NOISE) - size)
    payload = NOISE[start : start + size]
    if rng.random() < 0.1:
        zeros = bytes(min(1536, size))
        payload = payload[: (size - len(zeros)) // 2] + zeros + payload[(size + len(zeros)) // 2 :]
    return payload


class _Life:
    """What was sent to a log, and how much of it a completed sync covers."""

    def __init__(self, disk: FaultyDisk, writer: LogWriter, rng: random.Random, before: list[bytes]) -> None:
        self.disk = disk
        self.writer = writer
        self.sent = list(before)
        self.acknowledged = len(before)
        self._rng = rng
        self._synced_lsn = writer.end_lsn

    def append(self, records: int, *, dies: bool = False) -> None:
        payloads = [_payload(self._rng) for _ in range(records)]
        # The payloads of a group in flight may be there afterwards, or not.
        self.sent += payloads
        self.writer.reserve(sum(framed_size(len(payload)) for payload in payloads))
        if dies:
            self.disk.stop_at(1)
        self.writer.append(payloads, self._synced_lsn, WALL_MS)

    def sync(self) -> None:
        self.writer.sync()
        self._synced_lsn = self.writer.end_lsn
        self.acknowledged = len(self.sent)

    def mark(self) -> None:
        self.writer.reserve(MARKER_BYTES)
        self.writer.append_marker(self._synced_lsn, WALL_MS)
        self.sync()


def _recovered(disk: FaultyDisk, sent: list[bytes], acknowledged: int) -> tuple[list[bytes], LogTail]:
    payloads, tail = read_all(disk)
    assert payloads == sent[: len(payloads)], "what is there was not sent so"
    assert len(payloads) >= acknowledged, f"{acknowledged - len(payloads)} acknowledged records are lost"
    return payloads, tail


def _next_life(disk: FaultyDisk, writer: type[LogWriter], rng: random.Random, sent: list[bytes], n: int) -> _Life:
    payloads, tail = _recovered(disk, sent, n)
    reopened = writer.reopen(disk, PATH, HEADER, tail.end_lsn, tail.last_checksum)
    reopened.discard_tail(tail.torn_offset)
    life = _Life(disk, reopened, rng, payloads)
    life.append(10)
    life.sync()
    return life


def outlived(
    seed: int, *, writer: type[LogWriter] = LogWriter, disk: type[FaultyDisk] = FaultyDisk, pages_only: bool = False
) -> str:
    """Writes groups of 1 to 64 records, stops within the last, recovers, writes ten more, stops and recovers again.

    `pages_only`: every stop is a power cut, and what is written or not are pages of 4 KiB, never single sectors.
    """
    rng = random.Random(seed)
    try:
        first = disk(FOLDER, seed=seed)
        life = _Life(first, writer.create(first, FOLDER, HEADER), rng, [])
        for _ in range(rng.randrange(4)):
            life.append(rng.randrange(1, 65))
            if rng.random() < 0.8:  # else two groups share a sync, as they do when it is periodic
                life.sync()
                if rng.random() < 0.3:
                    life.mark()
        killed = not pages_only and rng.random() < 0.2
        try:
            life.append(rng.randrange(1, 65), dies=killed)
        except Stopped:
            assert killed
        piece_bytes = 4096 if pages_only else rng.choice((4096, 512))
        second = first.after_kill() if killed else first.after_power_cut(rng, piece_bytes=piece_bytes)
        again = _next_life(second, writer, rng, life.sent, life.acknowledged)
        third = second.after_power_cut(rng) if pages_only or rng.random() < 0.7 else second.after_kill()
        payloads, _tail = _recovered(third, again.sent, again.acknowledged)
        assert payloads[-10:] == again.sent[-10:]
    except (AssertionError, GibramError, OSError) as failure:
        return f"seed {seed}: {failure}"
    return ""


@pytest.mark.parametrize("seeds", [range(1000), pytest.param(range(1000, 50_000), marks=pytest.mark.sweep)])
@pytest.mark.parametrize("pages_only", [True, False], ids=["pages", "pages, sectors and kills"])
def test_a_thousand_power_cuts_lose_nothing_and_refuse_nothing(seeds: range, pages_only: bool) -> None:
    assert [found for seed in seeds if (found := outlived(seed, pages_only=pages_only))] == []


def test_stopped_at_any_call_that_changes_something() -> None:
    """Creation, reserve, append, sync, the cut of a torn tail: the process dies before each, then the power fails, or not."""
    call = 0
    finished = False
    while not finished:
        call += 1
        for seed in range(8):
            finished = _stopped_at(call, seed)
    assert call > 20


def _stopped_at(call: int, seed: int) -> bool:
    rng = random.Random(seed)
    disk = FaultyDisk(FOLDER, seed=seed)
    life = _Life(disk, LogWriter.create(disk, FOLDER, HEADER), rng, [])
    life.append(9)
    life.sync()
    life.append(30)
    sent, acknowledged = life.sent, life.acknowledged
    disk = disk.after_power_cut(rng)
    disk.stop_at(call)
    stopped: _Life | None = None
    try:
        payloads, tail = _recovered(disk, sent, acknowledged)
        writer = LogWriter.reopen(disk, PATH, HEADER, tail.end_lsn, tail.last_checksum)
        # What recovery served is durable: reading syncs first.
        sent, acknowledged = payloads, len(payloads)
        writer.discard_tail(tail.torn_offset)
        stopped = _Life(disk, writer, rng, payloads)
        for _ in range(4):
            stopped.append(7)
            stopped.sync()
            stopped.mark()
        finished = True
    except Stopped:
        finished = False
    if stopped is not None:
        sent, acknowledged = stopped.sent, stopped.acknowledged
    after = disk.after_kill() if seed % 2 else disk.after_power_cut(rng)
    _next_life(after, LogWriter, rng, sent, acknowledged)
    return finished


@pytest.mark.parametrize("seed", range(20))
def test_a_creation_that_was_stopped_leaves_nothing_or_an_empty_log(seed: int) -> None:
    rng = random.Random(seed)
    created = False
    for call in range(1, 12):
        disk = FaultyDisk(FOLDER, seed=seed)
        disk.stop_at(call)
        try:
            LogWriter.create(disk, FOLDER, HEADER)
            created = True
        except Stopped:
            pass
        after = disk.after_power_cut(rng)
        if created or after.exists(PATH):
            payloads, tail = read_all(after)
            assert (payloads, tail.end_lsn, tail.torn_bytes) == ([], 0, 0)
        else:
            # A temporary that was left does not stand in the way.
            LogWriter.create(after, FOLDER, HEADER)
    assert created


# --- planted bugs -----------------------------------------------------------------------------------------------------

WITHIN = 20
"""How many seeds may pass before each planted bug must have been seen."""


class _NeverSyncs(LogWriter):
    def sync(self) -> None:
        pass


class _LeavesTheTornTail(LogWriter):
    def discard_tail(self, offset_bytes: int) -> None:
        self._torn_bytes = 0


class _PromisesTooMuch(LogWriter):
    """Notes as synced what it is only about to write."""

    def append(self, payloads: list[bytes], synced_lsn: Lsn, wall_ms: int) -> Lsn:  # type: ignore[override]  # a bug
        end = self.end_lsn
        for payload in payloads:
            end = super().append([payload], self.end_lsn, wall_ms)
        return end


class _NoFolderSync(FaultyDisk):
    def sync_dir(self, path: object) -> None:
        pass


class _NoFileSync(FaultyDisk):
    """A new file is renamed before it is synced, in effect."""

    def fsync(self, fd: int) -> None:
        pass

    def fdatasync(self, fd: int) -> None:
        if self.size(fd) > 512:
            super().fdatasync(fd)


@pytest.mark.parametrize("writer", [_NeverSyncs, _LeavesTheTornTail, _PromisesTooMuch])
def test_the_harness_sees_a_bug_in_the_writer(writer: type[LogWriter]) -> None:
    assert any(outlived(seed, writer=writer) for seed in range(WITHIN))


@pytest.mark.parametrize("disk", [_NoFolderSync, _NoFileSync])
def test_the_harness_sees_a_bug_in_publishing(disk: type[FaultyDisk]) -> None:
    assert any(outlived(seed, disk=disk) for seed in range(WITHIN))


def test_the_harness_sees_an_ignored_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "extend", lambda _checksum, _data: 0)
    assert any("was not sent so" in outlived(seed) for seed in range(WITHIN))


def test_the_harness_sees_a_reader_that_refuses_what_was_only_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal.LogReading, "_looks_unwritten", lambda *_: False)
    assert any("offset" in outlived(seed) for seed in range(WITHIN))
