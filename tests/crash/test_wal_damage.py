"""A damaged log is refused with file, offset and reason, or cut where nothing had been acknowledged; never different data."""

from __future__ import annotations

import random
import re
import struct
from bisect import bisect_right
from pathlib import Path

import pytest
from google_crc32c import value
from support.logs import FOLDER, HEADER, OTHER_NONCE, PATH, WALL_MS, disk_with, ends, make_log, read_all

from gibramdb.errors import CorruptLogError, IncompatibleStoreError, StorageError
from gibramdb.model.ids import Generation, Lsn
from gibramdb.storage.wal import (
    BasedOnSnapshot,
    LogHeader,
    Successor,
    framed_size,
    list_logs,
    log_path,
    read_header,
)

GROUP = 5


def _payloads() -> list[bytes]:
    """200 records: small ones of every padding, some that hold three sectors of zeros, some larger than a page."""
    rng = random.Random(5)
    payloads = [rng.randbytes(rng.randrange(1, 24)) for _ in range(200)]
    for index in (20, 140, 199):
        payloads[index] = rng.randbytes(30) + bytes(1536) + rng.randbytes(9)
    for index in (50, 197):
        payloads[index] = rng.randbytes(4200)
    return payloads


PAYLOADS = _payloads()
GROUPS = [PAYLOADS[start : start + GROUP] for start in range(0, len(PAYLOADS), GROUP)]
ENDS = ends(PAYLOADS)
CLOSED = make_log(GROUPS)
OPEN = make_log(GROUPS, closed=False)
MARKER_AT = ENDS[-1]
DISK = disk_with(CLOSED)


def _record_start(offset: int) -> int:
    index = bisect_right(ENDS, offset)
    return ENDS[index - 1] if index else 512


def test_the_log_that_is_damaged_below_is_read_whole() -> None:
    payloads, tail = read_all(disk_with(CLOSED))
    assert payloads == PAYLOADS
    assert (tail.end_lsn, tail.torn_offset, tail.torn_bytes) == (len(CLOSED) - 512, len(CLOSED), 0)
    assert (tail.records, tail.markers, tail.synced_lsn) == (200, 2, MARKER_AT - 512)


@pytest.mark.parametrize("mask", ["one bit", pytest.param("all bits", marks=pytest.mark.sweep)])
def test_every_flipped_byte_is_refused(mask: str) -> None:
    damaged = bytearray(CLOSED)
    told = re.compile(rf"{PATH}: offset ([0-9]+)(, LSN [0-9]+)?: .*expected .*found .*; next: ", re.DOTALL)
    for offset in range(len(CLOSED)):
        flip = 0xFF if mask == "all bits" else 1 << (offset * 5 % 8)
        damaged[offset] ^= flip
        try:
            payloads, _tail = read_all(disk_with(bytes(damaged)))
        except CorruptLogError as error:
            refusal = str(error)
        else:
            assert offset >= MARKER_AT, f"a flip at {offset} went unnoticed"
            assert payloads == PAYLOADS
            refusal = ""
        if offset < MARKER_AT:
            match = told.match(refusal)
            assert match, refusal
            assert offset < 512 or int(match[1]) == _record_start(offset), refusal
        damaged[offset] ^= flip


@pytest.mark.parametrize("filled", [False, True], ids=["the file ends", "zeros to the old end"])
@pytest.mark.parametrize(
    "log",
    [pytest.param(CLOSED, id="idle"), pytest.param(OPEN, id="before its witness", marks=pytest.mark.sweep)],
)
def test_a_log_cut_at_any_byte_gives_the_records_before_the_cut(log: bytes, filled: bool) -> None:
    ends_of_records = (
        [*ENDS, MARKER_AT + 512] if log is CLOSED else ENDS
    )  # a marker is two records: filling, and a mark
    whole = 0
    for cut in range(len(log)):
        content = log[:cut]
        disk = disk_with(content + bytes(len(log) - cut) if filled else content)
        if cut < 512:
            if not filled or log[cut:512].strip(b"\0"):
                with pytest.raises(CorruptLogError, match="the file header is damaged"):
                    read_all(disk)
            continue
        whole += whole < len(ends_of_records) and cut == ends_of_records[whole]
        payloads, tail = read_all(disk)
        assert payloads == PAYLOADS[:whole], cut
        end = ends_of_records[whole - 1] if whole else 512
        assert (tail.torn_offset, tail.end_lsn) == (end, end - 512)
        assert tail.torn_bytes == len(log[end:cut].rstrip(b"\0"))


def test_a_cut_below_what_was_proven_durable_is_refused() -> None:
    for index in (0, 57, 199):
        proven = Lsn(ENDS[index] - 512)
        with pytest.raises(CorruptLogError, match=f"durable up to LSN {proven}"):
            read_all(disk_with(OPEN[: ENDS[index] - 1]), proven)
        with pytest.raises(CorruptLogError, match=f"durable up to LSN {proven}"):
            read_all(disk_with(OPEN[: _record_start(ENDS[index] - 1)]), proven)
        payloads, _tail = read_all(disk_with(OPEN[: ENDS[index]]), proven)
        assert payloads == PAYLOADS[: index + 1]


def test_a_generation_that_has_a_successor_is_never_torn() -> None:
    end = Lsn(ENDS[-1] - 512)
    assert read_all(disk_with(OPEN + bytes(4096)), end, is_last=False)[0] == PAYLOADS
    torn = OPEN + OPEN[ENDS[-2] : ENDS[-2] + 100]
    assert read_all(disk_with(OPEN[: ENDS[-1] - 9]))[1].torn_bytes > 0
    for content, proven in ((torn, Lsn(0)), (OPEN[: ENDS[-1] - 9], Lsn(0)), (OPEN[: ENDS[-2]], end)):
        with pytest.raises(CorruptLogError):
            read_all(disk_with(content), proven, is_last=False)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("filling", ["zeros", "an older generation"])
def test_a_replaced_sector_is_refused_or_cuts_what_was_not_proven(filling: str, closed: bool) -> None:
    good = CLOSED if closed else OPEN
    older = [[bytes(255 - byte for byte in payload) for payload in group] for group in GROUPS]
    other = bytes(len(good)) if filling == "zeros" else make_log(older, header=OTHER_NONCE, closed=closed)
    # The last record of the last group but one is the last that something later in the file calls synced.
    proven = len(PAYLOADS) if closed else len(PAYLOADS) - GROUP
    refused = cut = 0
    for start in range(0, len(good), 512):
        damaged = good[:start] + other[start : start + 512] + good[start + 512 :]
        if damaged == good:
            continue  # in the midst of a record's own zeros
        try:
            payloads, _tail = read_all(disk_with(damaged))
        except CorruptLogError:
            refused += 1
        else:
            assert payloads == PAYLOADS[: len(payloads)]
            assert len(payloads) >= proven
            assert start + 512 > ENDS[proven - 1]
            cut += 1
    assert refused > 30
    if filling == "zeros" and not closed:
        assert cut > 0


def test_a_record_of_another_history_is_refused_though_it_is_whole() -> None:
    one = make_log([[b"first", b"common"]], closed=False)
    two = make_log([[b"other", b"common"]], closed=False)
    assert len(one) == len(two)
    border = 512 + framed_size(5)
    with pytest.raises(CorruptLogError, match=f"offset {border}, LSN {border - 512}: .*different histories"):
        read_all(disk_with(one[:border] + two[border:]))


def test_records_that_changed_places_are_refused() -> None:
    log = make_log([[b"aaaa", b"bbbb", b"cccc"]], closed=False)
    size = framed_size(4)
    swapped = log[:512] + log[512 + size : 512 + 2 * size] + log[512 : 512 + size] + log[512 + 2 * size :]
    with pytest.raises(CorruptLogError, match="expected a record that begins at LSN 0, found one that began at"):
        read_all(disk_with(swapped))


def test_stale_bytes_behind_the_end_are_refused_and_never_read() -> None:
    stale = make_log([[b"first", b"second"]], header=OTHER_NONCE, closed=False)
    now = make_log([[b"first"]], closed=False)
    with pytest.raises(CorruptLogError, match="header checksum"):
        read_all(disk_with(now + stale[len(now) :]))


def _frame_at(lsn: int, nonce: bytes) -> bytes:
    """A whole record for this position, which notes that everything before it is synced."""
    header = LogHeader(HEADER.store_id, Generation(9), Lsn(lsn), nonce, WALL_MS, BasedOnSnapshot(1, 1))
    return make_log([[b"forged"]], header=header, closed=False)[512:]


@pytest.mark.parametrize("nonce_known", [False, True])
def test_a_stored_text_that_holds_a_record_is_no_witness(nonce_known: bool) -> None:
    # The first record is torn off; the second, whole, holds a record that lies: "all before me was synced".
    first = b"x" * 1100
    inner_at = framed_size(len(first)) + 44
    inner_at += -inner_at % 8
    lie = _frame_at(inner_at, HEADER.nonce if nonce_known else OTHER_NONCE.nonce)
    padding = bytes(inner_at - framed_size(len(first)) - 44)
    log = make_log([[first, padding + lie]], closed=False)
    assert log[512 + inner_at :].startswith(lie)
    torn = disk_with(log[:1024] + bytes(512) + log[1536:])
    if nonce_known:
        # The control: this is what the nonce, which no client ever learns, is for.
        with pytest.raises(CorruptLogError, match="notes that this one was synced"):
            read_all(torn)
    else:
        payloads, tail = read_all(torn)
        assert (payloads, tail.torn_offset) == ([], 512)


def test_a_copy_of_the_log_stored_in_the_log_is_no_witness() -> None:
    early = make_log([[b"a"], [b"b"], [b"c"]])[512:]
    log = make_log([[b"a"], [b"b"], [b"c"], [b"x" * 1100, bytes(4) + early]], closed=False)
    start = ends([b"a", b"b", b"c"])[-1]
    payloads, tail = read_all(disk_with(log[: start + 600 & ~511] + bytes(512) + log[(start + 600 & ~511) + 512 :]))
    assert (payloads, tail.torn_offset) == ([b"a", b"b", b"c"], start)


@pytest.mark.parametrize("content", [b"", b"\x93gib", CLOSED[:511], bytes(512), bytes(8192), b"not a log" * 100])
def test_what_has_no_header_is_refused(content: bytes) -> None:
    with pytest.raises(CorruptLogError, match=rf"{PATH}: offset [0-9]+: the file header is damaged"):
        read_header(disk_with(content), PATH)


def _rewritten(offset: int, layout: str, number: int) -> bytes:
    header = bytearray(CLOSED[:508])
    struct.pack_into(layout, header, offset, number)
    return bytes(header) + struct.pack("<I", value(bytes(header))) + CLOSED[512:]


def test_a_newer_format_is_refused_by_name_and_a_readable_one_is_read() -> None:
    with pytest.raises(IncompatibleStoreError, match=r"version 2 or later.*start the newer gibramdb"):
        read_header(disk_with(_rewritten(12, "<I", 2)), PATH)
    # A later version that says that this reader will do.
    assert read_header(disk_with(_rewritten(8, "<I", 2)), PATH) == HEADER


def test_contradictions_in_the_header_are_refused() -> None:
    for offset, layout, number in ((40, "<Q", 8), (72, "<I", 2), (72, "<I", 9), (32, "<Q", 2)):
        with pytest.raises(CorruptLogError):
            read_header(disk_with(_rewritten(offset, layout, number)), PATH)


def test_a_log_under_another_generations_name_is_refused() -> None:
    second = log_path(FOLDER, Generation(2))
    with pytest.raises(CorruptLogError, match="expected generation 2, as its name says, found generation 1"):
        read_header(disk_with(CLOSED, second), second)
    # An operator's copy may be called anything.
    copy = FOLDER / "copy.log"
    assert read_header(disk_with(CLOSED, copy), copy) == HEADER


def test_a_later_generation_continues_the_lsn_and_the_chain() -> None:
    _payloads, tail = read_all(disk_with(CLOSED))
    header = LogHeader(
        HEADER.store_id,
        Generation(2),
        tail.end_lsn,
        OTHER_NONCE.nonce,
        WALL_MS,
        Successor(Generation(1), tail.end_lsn, tail.last_checksum),
    )
    path = log_path(FOLDER, Generation(2))
    disk = disk_with(make_log([[b"one"], [b"two"]], header=header), path)
    assert read_header(disk, path) == header
    payloads, after = read_all(disk, path=path)
    assert payloads == [b"one", b"two"]
    assert (after.synced_lsn, after.records) == (tail.end_lsn + 2 * framed_size(3), 2)


def test_generations_are_found_by_their_names() -> None:
    disk = disk_with(CLOSED)
    for name in ("wal-00000000000000000010.log", "wal-7.log", "wal-00000000000000000002.log.tmp", "LOCK"):
        disk.put(FOLDER / name, b"")
    assert list_logs(disk, FOLDER) == [(1, PATH), (10, FOLDER / "wal-00000000000000000010.log")]


def test_a_log_that_is_not_there_is_named() -> None:
    with pytest.raises(StorageError, match=r"absent\.log"):
        read_header(disk_with(CLOSED), Path("/store/wal/absent.log"))


def test_records_larger_than_a_read_and_across_its_border_are_read() -> None:
    rng = random.Random(3)
    payloads = [rng.randbytes(n) for n in (700_000, 1_048_576 - 44 - 8, 1_500_000, 3, 2_500_001, 340_000, 1)]
    log = make_log([payloads[:3], payloads[3:]])
    assert read_all(disk_with(log))[0] == payloads
    # A witness behind the damage is found wherever the windows of the search happen to end.
    damaged = bytearray(log)
    damaged[600] ^= 1
    with pytest.raises(CorruptLogError, match="notes that this one was synced"):
        read_all(disk_with(bytes(damaged)))
