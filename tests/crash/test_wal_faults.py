"""A disk that is full is waited for; a disk that fails ends the log; what is torn is put aside before it is cut."""

from __future__ import annotations

import errno
import random
import threading
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.faulty_disk import FaultyDisk
from support.logs import FOLDER, HEADER, PATH, WALL_MS, disk_with, ends, make_log, read_all, write_group
from support.owned_store import ROOT, OwnedStore

from gibramdb import NewDocument, NewEntity
from gibramdb.database.answers import Answer
from gibramdb.database.snapshot_files import SnapshotFiles
from gibramdb.errors import HaltedError, LimitExceededError, OutcomeUnknownError, StorageError
from gibramdb.model import commands as c
from gibramdb.model.ids import NO_LSN
from gibramdb.storage import wal
from gibramdb.storage.files import OsFileSystem
from gibramdb.storage.snapshot import Manifest
from gibramdb.storage.wal import MARKER_BYTES, RESERVE_BYTES, LogWriter, framed_size, log_path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _reopened(disk: FaultyDisk) -> LogWriter:
    _payloads, tail = read_all(disk)
    return LogWriter.reopen(disk, PATH, HEADER, tail.end_lsn, tail.last_checksum)


def _started(disk: FaultyDisk) -> LogWriter:
    """As a start does it: read, opened, and what is torn put aside."""
    _payloads, tail = read_all(disk)
    writer = LogWriter.reopen(disk, PATH, HEADER, tail.end_lsn, tail.last_checksum)
    writer.discard_tail(tail.torn_offset)
    return writer


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_the_reserve_halves_down_to_what_is_needed() -> None:
    disk = FaultyDisk(FOLDER, free_bytes=3_000_000)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    writer.reserve(100_000)
    assert writer.reserved_lsn == RESERVE_BYTES // 4
    writer.reserve(RESERVE_BYTES // 4)
    assert disk.calls["allocate"] == 3


def test_a_write_that_finds_no_room_has_changed_nothing_and_succeeds_when_there_is_some() -> None:
    disk = FaultyDisk(FOLDER, free_bytes=20_000)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    write_group(writer, [b"kept"], NO_LSN)
    writer.sync()
    for _ in range(3):
        with pytest.raises(OSError, match="No space left") as refused:
            writer.reserve(50_000)
        assert refused.value.errno == errno.ENOSPC
    assert not writer.failed
    # Whatever fits in the old reserve is still taken.
    writer.append([b"small"], writer.end_lsn, WALL_MS)
    disk.free_bytes = 10_000_000
    write_group(writer, [b"x" * 49_000], writer.end_lsn)
    writer.sync()
    assert read_all(disk)[0] == [b"kept", b"small", b"x" * 49_000]


@pytest.mark.parametrize("error", NO_ROOM)
def test_every_way_of_being_full_is_a_state(error: int) -> None:
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    disk.fail("allocate", error, times=None)
    with pytest.raises(OSError, match=rf"Errno {error}"):
        writer.reserve(100)
    assert not writer.failed


def test_what_is_not_reserved_is_not_written() -> None:
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    with pytest.raises(AssertionError, match="reserve before"):
        writer.append([b"x"], NO_LSN, WALL_MS)
    writer.reserve(RESERVE_BYTES)
    fits = RESERVE_BYTES - framed_size(0)
    writer.append([bytes(fits)], NO_LSN, WALL_MS)
    assert writer.end_lsn == writer.reserved_lsn
    with pytest.raises(AssertionError, match="reserve before"):
        writer.append_marker(NO_LSN, WALL_MS)
    assert disk.calls["allocate"] == 1


def test_a_log_on_a_full_disk_is_read_and_opened_without_any_space() -> None:
    disk = disk_with(make_log([[b"a"], [b"b"]]) + b"torn")
    disk.free_bytes = 0
    writer = _reopened(disk)
    with pytest.raises(OSError, match="No space left"):
        writer.discard_tail(writer.end_lsn + 512)
    assert not writer.failed
    assert disk.list_dir(FOLDER) == [PATH.name], "a part that was put aside is taken away again"
    disk.free_bytes = 100_000
    writer.discard_tail(writer.end_lsn + 512)
    write_group(writer, [b"c"], writer.end_lsn)
    assert read_all(disk)[0] == [b"a", b"b", b"c"]


# --- a disk that fails ------------------------------------------------------------------------------------------------

GROUPS: Sequence[Sequence[bytes]] = [[b"g%d" % group * 300 for _ in range(8)] for group in range(6)]
SENT = [payload for group in GROUPS for payload in group]


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync", "allocate"])
@pytest.mark.parametrize("at", range(1, 7))
def test_the_first_failure_is_the_last_word(operation: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "RESERVE_BYTES", 1)  # every group asks for space
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    disk.fail(operation, errno.EIO, at=at, written_bytes=(at * 997) % 7000 if operation == "pwrite" else 0)
    synced, acknowledged = writer.end_lsn, 0

    def write_all() -> None:
        nonlocal synced, acknowledged
        for group in GROUPS:
            end = write_group(writer, group, synced)
            writer.sync()
            synced, acknowledged = end, acknowledged + len(group)

    with pytest.raises(StorageError, match=rf"{PATH}: offset [0-9]+, LSN [0-9]+: .* failed: .*Errno 5"):
        write_all()
    assert acknowledged == (at - 1) * 8
    assert writer.failed
    calls = dict(disk.calls)
    for again in (
        writer.sync,
        lambda: writer.reserve(1),
        lambda: writer.append([b"x"], synced, WALL_MS),
        lambda: writer.append_marker(synced, WALL_MS),
        lambda: writer.discard_tail(0),
    ):
        with pytest.raises(StorageError, match="the log takes nothing more"):
            again()
    assert disk.calls == calls, "a log that failed leaves the disk alone"
    writer.close()
    # Whatever the failure left behind, the next start has all that was acknowledged, and goes on.
    for seed in range(5):
        after = disk.after_power_cut(random.Random(seed))
        payloads, _tail = read_all(after)
        assert payloads == SENT[: len(payloads)]
        assert len(payloads) >= acknowledged
        started = _started(after)
        write_group(started, [b"goes on"], started.end_lsn)
        started.sync()
        assert read_all(after.after_power_cut(random.Random(seed)))[0] == [*payloads, b"goes on"]


@pytest.mark.parametrize("written_bytes", range(1, 600, 7))
def test_a_write_cut_short_at_any_byte_within_the_reserve_is_torn(written_bytes: int) -> None:
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    write_group(writer, [b"kept"], NO_LSN)
    writer.sync()
    disk.fail("pwrite", errno.EIO, written_bytes=written_bytes)
    with pytest.raises(StorageError):
        write_group(writer, [b"y" * 100, b"z" * 400, b"w" * 60], writer.end_lsn)
    after = disk.after_kill()
    payloads, tail = read_all(after)
    whole = bisect_right(ends([b"kept", b"y" * 100, b"z" * 400]), ends([b"kept"])[0] + written_bytes)
    assert payloads == [b"kept", b"y" * 100, b"z" * 400][:whole]
    assert tail.torn_bytes == len(after.read(PATH)[tail.torn_offset :].rstrip(b"\0"))


def test_a_failed_sync_while_reading_is_no_success() -> None:
    disk = disk_with(make_log([[b"a"]]))
    disk.fail("fdatasync", errno.EIO)
    with pytest.raises(StorageError, match="can not be read"):
        read_all(disk)


@pytest.mark.parametrize("seed", range(20))
def test_what_only_the_cache_holds_after_a_failed_sync_is_not_taken_for_kept(seed: int) -> None:
    """The process halts and is started again; the machine goes on, and shows it pages that never came to the disk."""
    rng = random.Random(seed)
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    synced = write_group(writer, GROUPS[0], NO_LSN)
    writer.sync()
    write_group(writer, [rng.randbytes(rng.randrange(5000)) for _ in range(rng.randrange(1, 12))], synced)
    disk.fail("fdatasync", errno.EIO)
    with pytest.raises(StorageError):
        writer.sync()
    after = disk.after_kill()
    again = _started(after)
    payloads, _tail = read_all(after)
    write_group(again, [b"acknowledged"], again.end_lsn)
    again.sync()
    assert read_all(after.after_power_cut(rng))[0] == [*payloads, b"acknowledged"]


def test_what_a_dead_process_left_unsynced_is_durable_once_it_has_been_read() -> None:
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    write_group(writer, [b"never synced"], NO_LSN)
    after = disk.after_kill()
    assert after.unsynced() == [PATH]
    assert read_all(after)[0] == [b"never synced"]
    assert after.unsynced() == []


# --- limits -----------------------------------------------------------------------------------------------------------


def test_the_writer_refuses_what_the_reader_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "RECORD_BYTES_MAX", 1000)
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    writer.reserve(5000)
    writer.append([b"a" * 1000], NO_LSN, WALL_MS)
    with pytest.raises(LimitExceededError, match="1001 bytes; the log takes up to 1000"):
        writer.append([b"b", b"a" * 1001], NO_LSN, WALL_MS)
    assert not writer.failed
    writer.append([b"c"], NO_LSN, WALL_MS)
    assert read_all(disk)[0] == [b"a" * 1000, b"c"]


def test_a_generation_is_created_once() -> None:
    disk = disk_with(make_log([[b"a"]]))
    with pytest.raises(StorageError, match="expected no such file"):
        LogWriter.create(disk, FOLDER, HEADER)
    assert read_all(disk)[0] == [b"a"]


# --- the torn tail ----------------------------------------------------------------------------------------------------


def _torn_disk() -> tuple[FaultyDisk, int, bytes]:
    log = make_log([[b"one", b"two"], [b"three" * 300, b"four"]], closed=False)
    end = ends([b"one", b"two"])[-1]
    torn = log[: end + 1000] + bytes(5000)
    return disk_with(torn), end, torn[end : end + 1000]


def test_torn_bytes_are_put_aside_then_cut() -> None:
    disk, end, torn = _torn_disk()
    writer = _reopened(disk)
    with pytest.raises(AssertionError, match="discard the torn tail"):
        write_group(writer, [b"too early"], writer.end_lsn)
    assert writer.torn_bytes == len(torn) == 1000
    writer.discard_tail(end)
    assert disk.read(FOLDER / f"wal-00000000000000000001.torn-{end}") == torn
    assert len(disk.read(PATH)) == end
    assert disk.unsynced() == []
    assert writer.reserved_lsn == writer.end_lsn
    write_group(writer, [b"in its place"], writer.end_lsn)
    assert read_all(disk)[0] == [b"one", b"two", b"in its place"]


def test_a_copy_put_aside_before_is_used_and_another_is_kept() -> None:
    disk, end, torn = _torn_disk()
    aside = FOLDER / f"wal-00000000000000000001.torn-{end}"
    disk.put(aside, torn[:500])
    _reopened(disk).discard_tail(end)
    assert disk.read(aside) == torn[:500]
    assert disk.read(aside.with_name(f"{aside.name}.1")) == torn
    disk, end, torn = _torn_disk()
    disk.put(aside, torn)
    _reopened(disk).discard_tail(end)
    assert disk.list_dir(FOLDER) == [PATH.name, aside.name]


def test_where_nothing_is_torn_nothing_is_changed() -> None:
    disk = disk_with(make_log([[b"a"]]) + bytes(4096))
    before = disk.read(PATH)
    writer = _reopened(disk)
    writer.discard_tail(writer.end_lsn + 512)
    assert disk.read(PATH) == before
    assert disk.list_dir(FOLDER) == [PATH.name]


# --- the operating system's own files ---------------------------------------------------------------------------------


def test_on_a_real_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "_WRITE_BYTES", 100_000)  # so that one group takes several writes
    fs = OsFileSystem()
    rng = random.Random(4)
    payloads = [rng.randbytes(rng.randrange(9000)) for _ in range(300)]
    writer = LogWriter.create(fs, tmp_path, HEADER)
    path = log_path(tmp_path, HEADER.generation)
    write_group(writer, payloads[:1], NO_LSN)
    writer.sync()
    write_group(writer, payloads[1:], writer.end_lsn)
    writer.sync()
    writer.reserve(MARKER_BYTES)
    writer.append_marker(writer.end_lsn, WALL_MS)
    writer.sync()
    writer.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size >= RESERVE_BYTES
    read, tail = read_all(fs, path=path)
    assert read == payloads
    assert tail.torn_bytes == 0
    with path.open("r+b") as file:
        file.seek(tail.torn_offset)
        file.write(b"torn")
    _read, torn = read_all(fs, path=path)
    assert torn.torn_bytes == 4
    again = LogWriter.reopen(fs, path, HEADER, torn.end_lsn, torn.last_checksum)
    again.discard_tail(torn.torn_offset)
    write_group(again, [b"more"], again.end_lsn)
    again.sync()
    again.close()
    assert read_all(fs, path=path)[0] == [*payloads, b"more"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.stem}.torn-{torn.torn_offset}"]


@pytest.mark.parametrize(("last", "is_changed"), [("b2", True), ("a", True), ("", False)])
def test_of_a_pipeline_whose_writes_may_be_kept_the_outcome_is_unknown_also_if_its_end_was_refused(
    last: str, is_changed: bool
) -> None:
    def add(name: str) -> c.AddDocuments:
        return c.AddDocuments("s", (NewDocument(name),), bulk=False)

    store = OwnedStore()
    store.run(add("a"))
    store.disk.fail("fdatasync", errno.EIO, times=None)
    answers: list[list[Answer]] = []
    pending = store.start(add("pending"))  # what a refusal depends on
    items = [add("b"), add(last)] if last else [add("a")]
    store.database.submit_batch(items, answers.append)
    while not answers:
        store.turn()
    assert isinstance(pending[0], OutcomeUnknownError)
    assert isinstance(answers[0][0], OutcomeUnknownError) == is_changed
    assert isinstance(answers[0][0], HaltedError)
    store.close()


@pytest.mark.parametrize("publishes", [False, True])
def test_a_log_whose_close_reports_an_error_lets_go_of_the_store_all_the_same(
    publishes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is synced by then. A snapshot that is being published must not wait for a log that is gone."""
    store = OwnedStore()
    store.run(c.AddEntities("s", (NewEntity("e", "e"),)))
    if publishes:
        publish, is_there, may_go_on = SnapshotFiles.publish, threading.Event(), threading.Event()

        def slowly(files: SnapshotFiles, manifest: Manifest) -> None:
            is_there.set()
            assert may_go_on.wait(60)
            publish(files, manifest)

        monkeypatch.setattr(SnapshotFiles, "publish", slowly)
        store.start(c.Checkpoint())
        assert is_there.wait(60)
        threading.Timer(0.3, may_go_on.set).start()
    digest = store.digest()
    store.disk.fail_below(ROOT / "data" / "session_wal", "close", errno.EIO, at=1)
    closing = threading.Thread(target=store.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    store.disk.forgive()
    store._store = store._open()
    assert store.digest() == digest
    store.close()
