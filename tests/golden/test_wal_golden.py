"""A log of format 1, as it lies on disks that exist: it is read for ever, and today's writer writes the same bytes.

`python tests/golden/test_wal_golden.py` writes the file anew. A change of what is in it is a new format, with a new file
beside this one; the old one stays.
"""

from __future__ import annotations

from pathlib import Path

from support.faulty_disk import FaultyDisk
from support.logs import disk_with, read_all

from gibramdb.model.ids import Generation, Lsn
from gibramdb.model.knowledge import Document, Entity
from gibramdb.model.mutations import DocumentsAdded, EntitiesAdded, Mutation, SessionDeleted
from gibramdb.storage.files import OsFileSystem
from gibramdb.storage.record import decode, encode
from gibramdb.storage.wal import MARKER_BYTES, LogHeader, LogWriter, Successor, framed_size, log_path, read_log

FOLDER = Path(__file__).parent / "wal-format-1"
MS = 1_700_000_000_000
HEADER = LogHeader(
    store_id=bytes.fromhex("00112233445566778899aabbccddeeff"),
    generation=Generation(3),
    base_lsn=Lsn(1_000_000),
    nonce=bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
    created_at_ms=MS,
    origin=Successor(Generation(2), Lsn(1_000_000), 0x12345678),
)
PATH = log_path(FOLDER, HEADER.generation)
GROUPS: list[list[Mutation]] = [
    [DocumentsAdded("tale", MS, True, (Document(1, "doc", "tale.txt", MS),))],
    [
        EntitiesAdded("tale", MS + 1, False, (Entity(1, "e", "ANNA", "person", "", MS + 1),), (1,), bytes(16)),
        SessionDeleted("tale", MS + 2, False),
    ],
]


def _written() -> bytes:
    disk = FaultyDisk(FOLDER)
    writer = LogWriter.create(disk, FOLDER, HEADER)
    synced = writer.end_lsn
    for number, group in enumerate(GROUPS):
        payloads = [encode(mutation) for mutation in group]
        writer.reserve(sum(framed_size(len(payload)) for payload in payloads) + MARKER_BYTES)
        end = writer.append(payloads, synced, MS + 10 + number)
        writer.sync()
        synced = end
    writer.append_marker(synced, MS + 20)
    writer.sync()
    return disk.read(PATH)[: 512 + writer.end_lsn - HEADER.base_lsn]


def test_the_frozen_log_is_read() -> None:
    reading = read_log(OsFileSystem(), PATH)
    assert reading.header == HEADER
    records = list(reading)
    assert [decode(payload) for _lsn, _wall_ms, payload in records] == [
        mutation for group in GROUPS for mutation in group
    ]
    assert [wall_ms - MS for _lsn, wall_ms, _payload in records] == [10, 11, 11]
    tail = reading.tail
    assert (tail.records, tail.markers, tail.torn_bytes) == (3, 2, 0)
    assert records[-1][0] == tail.synced_lsn == tail.end_lsn - MARKER_BYTES
    assert tail.torn_offset == PATH.stat().st_size


def test_todays_writer_writes_the_frozen_bytes() -> None:
    assert _written() == PATH.read_bytes()
    assert (
        read_all(disk_with(_written(), Path("/store/wal") / PATH.name), path=Path("/store/wal") / PATH.name)[1].records
        == 3
    )


if __name__ == "__main__":
    PATH.write_bytes(_written())
