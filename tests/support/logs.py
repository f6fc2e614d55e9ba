"""Logs to damage: made by the writer, on a FaultyDisk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from support.faulty_disk import FaultyDisk

from gibramdb.model.ids import NO_LSN, Generation, Lsn
from gibramdb.storage.files import FileSystem
from gibramdb.storage.wal import (
    MARKER_BYTES,
    FirstLog,
    LogHeader,
    LogTail,
    LogWriter,
    framed_size,
    log_path,
    read_log,
)

FOLDER = Path("/store/wal")
WALL_MS = 1_700_000_000_000
HEADER = LogHeader(b"the store's id..", Generation(1), NO_LSN, bytes(range(1, 17)), WALL_MS, FirstLog())
OTHER_NONCE = LogHeader(b"the store's id..", Generation(1), NO_LSN, bytes(range(101, 117)), WALL_MS, FirstLog())
PATH = log_path(FOLDER, Generation(1))


def write_group(writer: LogWriter, payloads: Sequence[bytes], synced_lsn: Lsn) -> Lsn:
    """Reserves and appends."""
    writer.reserve(sum(framed_size(len(payload)) for payload in payloads))
    return writer.append(payloads, synced_lsn, WALL_MS)


def make_log(groups: Sequence[Sequence[bytes]], *, header: LogHeader = HEADER, closed: bool = True) -> bytes:
    """A log of groups, each synced but the last; `closed`: that too, with a marker. The reserve is cut off."""
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, header)
    synced = writer.end_lsn
    for group in groups:
        end = write_group(writer, group, synced)
        writer.sync()
        synced = end
    if closed:
        writer.reserve(MARKER_BYTES)
        writer.append_marker(synced, WALL_MS)
        writer.sync()
    return disk.read(writer.path)[: 512 + writer.end_lsn - header.base_lsn]


def disk_with(content: bytes, path: Path = PATH) -> FaultyDisk:
    """A disk with this log on it."""
    disk = FaultyDisk(FOLDER)
    disk.put(path, content)
    return disk


def read_all(
    fs: FileSystem, proven_lsn: Lsn = NO_LSN, *, is_last: bool = True, path: Path = PATH
) -> tuple[list[bytes], LogTail]:
    """The payloads and the tail."""
    reading = read_log(fs, path, proven_lsn, is_last=is_last)
    payloads = [payload for _lsn, _wall_ms, payload in reading]
    return payloads, reading.tail


def ends(payloads: Sequence[bytes]) -> list[int]:
    """The file offset just past each of these records, written from the start."""
    found, offset = [], 512
    for payload in payloads:
        offset += framed_size(len(payload))
        found.append(offset)
    return found
