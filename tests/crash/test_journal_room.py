"""A caller who waits for room in the log is answered, whatever happens to the log meanwhile."""

from __future__ import annotations

import errno
import queue

import pytest
from support.faulty_disk import FaultyDisk
from support.logs import FOLDER, HEADER
from support.owned_store import FakeClock

from gibramdb.database.journal import LOOK_AGAIN_MS, WalJournal
from gibramdb.errors import DiskFullError, GibramError, StorageError
from gibramdb.storage.wal import LogWriter


def journal_on(disk: FaultyDisk) -> WalJournal:
    writer = LogWriter.create(disk, FOLDER, HEADER)
    return WalJournal(writer, 0, "every_write", 1000, FakeClock(), lambda: None, lambda: None)


def test_a_full_disk_is_called_so_until_there_is_room_for_what_was_refused() -> None:
    disk = FaultyDisk(FOLDER, free_bytes=3_000_000)
    clock = FakeClock()
    journal = WalJournal(
        LogWriter.create(disk, FOLDER, HEADER), 0, "every_write", 1000, clock, lambda: None, lambda: None
    )
    answers: queue.SimpleQueue[GibramError | None] = queue.SimpleQueue()

    def is_full_when_looked_at_again() -> bool:
        clock.ms += LOOK_AGAIN_MS
        journal.facts()
        journal.cut(lambda _cut: answers.put(None))  # behind the look
        assert answers.get(timeout=60) is None
        return journal.facts().disk_full

    journal.request_room(6_000_000, answers.put)
    assert isinstance(answers.get(timeout=60), DiskFullError)
    assert is_full_when_looked_at_again()
    assert is_full_when_looked_at_again(), "what is left of the reserve is no news"
    disk.free_bytes = 50_000_000
    assert not is_full_when_looked_at_again()
    journal.close()


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync", "allocate"])
def test_who_waits_for_room_hears_of_a_log_that_fails_in_the_same_turn(operation: str) -> None:
    for _ in range(20):
        disk = FaultyDisk(FOLDER)
        journal = journal_on(disk)
        while not journal.has_room(100):
            pass
        disk.fail(operation, errno.EIO)
        answers: queue.SimpleQueue[GibramError | None] = queue.SimpleQueue()
        journal.enqueue(b"x" * 100)
        journal.request_room(64 * 1024 * 1024, answers.put)
        answer = answers.get(timeout=60)
        assert isinstance(answer, StorageError), answer
        journal.request_room(100, answers.put)
        assert isinstance(answers.get(timeout=60), StorageError)
        journal.close()
