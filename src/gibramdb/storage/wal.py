"""The write-ahead log: framed records in one append-only file, one generation at a time. Bytes: docs/formats/wal.md.

Owns: the open file, where it ends, the chain of checksums, what counts as torn and what as corrupt.
Never: knows what a record means; decides when to sync or to begin the next generation; retries a sync.

Invariants:
- Records are contiguous; each begins where the last one ended, and its header says so.
- A record's header is verified before its length is believed.
- Nothing is written outside reserved space, so a full disk shows before a record is admitted and not in its middle.
- Behind the end of the log lie zeros only, before the first record is appended there.
- After a failed write or sync the writer refuses everything; only opening the log again helps.

One module, because the writer and the reader have to agree on every constant in it.
"""

from __future__ import annotations

import contextlib
import errno
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import assert_never

import msgspec
from google_crc32c import extend, value

from gibramdb.config import FRAME_BYTES_LIMIT
from gibramdb.errors import CorruptLogError, IncompatibleStoreError, LimitExceededError, StorageError
from gibramdb.model.ids import NO_LSN, Generation, Lsn
from gibramdb.storage.files import FileSystem, next_step, publish, refused

RECORD_BYTES_MAX = 2 * FRAME_BYTES_LIMIT
"""The largest payload of a record: twice the largest frame. A command that needs a larger one is refused and changes
nothing; writer and reader hold to the same number."""

RESERVE_BYTES = 8 * 1024 * 1024
"""How far ahead of its end the log reserves space, where there is enough."""

FORMAT_VERSION = 1
READER_VERSION = 1

FILE_HEADER_BYTES = 512
RECORD_HEADER_BYTES = 44
TRAILER_BYTES = 8
ALIGNMENT_BYTES = 8
SECTOR_BYTES = 512

_ENDED_BYTES = 1
"""How much longer than its records an ended generation is. Of any other a multiple of ALIGNMENT_BYTES lies there."""

_WRITE_BYTES = 16 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_ZEROS = bytes(_READ_BYTES)

_FILE_MAGIC = b"\x93gibwal\n"
# magic, format version, minimal reader version, store id, generation, base LSN, nonce, created at (ms), then the
# origin: kind, checksum, number, end LSN.
_FILE_HEADER = struct.Struct("<8sII16sQQ16sQIIQQ")
_ORIGIN_FIRST, _ORIGIN_SUCCESSOR, _ORIGIN_SNAPSHOT = 1, 2, 3

_RECORD_MAGIC = 0xD7B1A5E3
_RECORD_MAGIC_BYTES = struct.pack("<I", _RECORD_MAGIC)
_TRAILER_MAGIC = 0xE9C6935D
_MUTATION, _MARKER = _KINDS = 1, 2
# magic, kind, payload length, previous checksum, start LSN, synced LSN, wall time (ms)
_HEADER = struct.Struct("<IBxxxIIQQQ")
_HEADER_READ = struct.Struct("<IB3sIIQQQI")
_U32 = struct.Struct("<I")
_TRAILER = struct.Struct("<II")
_PADDING = tuple(bytes(count) for count in range(ALIGNMENT_BYTES))
_PADDED_TRAILER = tuple(struct.Struct(f"<{count}xII") for count in range(ALIGNMENT_BYTES))

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""How the system says that the disk is full, for this user or this file."""
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
"""A name could not be opened or changed, for this process or its user: no sign that the disk fails."""
_NAME = re.compile(r"wal-([0-9]{20})\.log")

_NEXT = "keep a copy of it as it is; `gibramdb store repair DIR` says what can be kept and what would be lost"


class FirstLog(msgspec.Struct, frozen=True, gc=False):
    """The store began with this log."""

    def __str__(self) -> str:
        return "nothing, as a store's first log does"


class Successor(msgspec.Struct, frozen=True, gc=False):
    """The log goes on where the generation named ended; `checksum` is that of its last record."""

    generation: Generation
    end_lsn: Lsn
    checksum: int

    def __str__(self) -> str:
        return f"generation {self.generation}, which ended at LSN {self.end_lsn} with the checksum {self.checksum:08x}"


class BasedOnSnapshot(msgspec.Struct, frozen=True, gc=False):
    """The log goes on from a snapshot alone; what earlier generations hold is no part of it."""

    number: int
    checksum: int

    def __str__(self) -> str:
        return f"snapshot {self.number}, whose file has the checksum {self.checksum:08x}"


Origin = FirstLog | Successor | BasedOnSnapshot


class LogHeader(msgspec.Struct, frozen=True, gc=False):
    """What a log file says of itself. `store_id` and `nonce` are 16 bytes; the nonce is random, new for every file."""

    store_id: bytes
    generation: Generation
    base_lsn: Lsn
    nonce: bytes
    created_at_ms: int
    origin: Origin


class LogTail(msgspec.Struct, frozen=True, gc=False):
    """Where a log ends.

    `last_checksum` is the last record's, or the file header's if there is none. `torn_offset` is where the last record
    ends in the file, `torn_bytes` how far something that was never acknowledged lies behind it (0: nothing).
    `synced_lsn` is the highest that a record or marker noted. `is_ended`: it was followed by a next generation.
    """

    end_lsn: Lsn
    last_checksum: int
    torn_offset: int
    torn_bytes: int
    records: int
    markers: int
    synced_lsn: Lsn
    is_ended: bool


def framed_size(payload_bytes: int) -> int:
    """How many bytes of log a payload of this many bytes takes."""
    unpadded = RECORD_HEADER_BYTES + payload_bytes + TRAILER_BYTES
    return unpadded + -unpadded % ALIGNMENT_BYTES


MARKER_BYTES = SECTOR_BYTES + framed_size(0)
"""What a marker takes; reserve it together with the records that it will witness."""


def log_path(directory: Path, generation: Generation) -> Path:
    """Where a generation lies."""
    return directory / f"wal-{generation:020}.log"


def list_logs(fs: FileSystem, directory: Path) -> list[tuple[Generation, Path]]:
    """The generations in a folder, oldest first, by their names alone. Other files are passed over."""
    names = ((_NAME.fullmatch(name), name) for name in fs.list_dir(directory))
    return sorted((Generation(int(match[1])), directory / name) for match, name in names if match)


# --- the file header --------------------------------------------------------------------------------------------------


def _header_bytes(header: LogHeader) -> bytes:
    assert len(header.store_id) == len(header.nonce) == 16
    origin: tuple[int, int, int, int]
    match header.origin:
        case FirstLog():
            assert header.base_lsn == NO_LSN
            origin = (_ORIGIN_FIRST, 0, 0, 0)
        case Successor(generation, end_lsn, checksum):
            assert generation < header.generation
            assert end_lsn == header.base_lsn
            origin = (_ORIGIN_SUCCESSOR, checksum, generation, end_lsn)
        case BasedOnSnapshot(number, checksum):
            origin = (_ORIGIN_SNAPSHOT, checksum, number, 0)
        case _:
            assert_never(header.origin)
    data = _FILE_HEADER.pack(
        _FILE_MAGIC,
        FORMAT_VERSION,
        READER_VERSION,
        header.store_id,
        header.generation,
        header.base_lsn,
        header.nonce,
        header.created_at_ms,
        *origin,
    ).ljust(FILE_HEADER_BYTES - _U32.size, b"\0")
    return data + _U32.pack(value(data))


def _parse_header(path: Path, data: bytes) -> LogHeader:
    def corrupt(offset: int, expected: str, found: str) -> CorruptLogError:
        return CorruptLogError(
            f"{path}: offset {offset}: the file header is damaged: expected {expected}, found {found}; next: {_NEXT}"
        )

    # A header is published whole (temporary, sync, rename): a part of one is damage, not a crash.
    if len(data) < FILE_HEADER_BYTES:
        raise corrupt(len(data), f"{FILE_HEADER_BYTES} bytes", f"the end of the file after {len(data)}")
    fields = _FILE_HEADER.unpack_from(data)
    magic, version, reader_version, store_id, number, base_lsn, nonce, created_at_ms = fields[:8]
    kind, origin_checksum, origin_number, origin_lsn = fields[8:]
    if magic != _FILE_MAGIC:
        raise corrupt(0, f"the bytes {_FILE_MAGIC.hex()}", magic.hex())
    (stored,) = _U32.unpack_from(data, FILE_HEADER_BYTES - _U32.size)
    if stored != (computed := value(data[: -_U32.size])):
        raise corrupt(
            FILE_HEADER_BYTES - _U32.size, f"the checksum {computed:08x} of what precedes it", f"{stored:08x}"
        )
    # Magic, both versions and the checksum keep their places in every version, so that a newer file is told from rot.
    if reader_version > READER_VERSION:
        raise IncompatibleStoreError(
            f"{path}: offset 12: the log has format version {version} and needs a reader of version {reader_version} "
            f"or later; this gibramdb reads up to {READER_VERSION}; next: start the newer gibramdb that wrote it"
        )
    named = _NAME.fullmatch(path.name)
    if named and int(named[1]) != number:
        raise corrupt(32, f"generation {int(named[1])}, as its name says", f"generation {number}: a renamed file")
    origin: Origin
    if kind == _ORIGIN_FIRST and base_lsn == NO_LSN:
        origin = FirstLog()
    elif kind == _ORIGIN_SUCCESSOR and origin_lsn == base_lsn and 0 < origin_number < number:
        origin = Successor(Generation(origin_number), Lsn(origin_lsn), origin_checksum)
    elif kind == _ORIGIN_SNAPSHOT:
        origin = BasedOnSnapshot(origin_number, origin_checksum)
    else:
        raise corrupt(72, "an origin that agrees with the base LSN", f"{kind, origin_number, origin_lsn}")
    return LogHeader(store_id, Generation(number), Lsn(base_lsn), nonce, created_at_ms, origin)


def read_header(fs: FileSystem, path: Path) -> LogHeader:
    """What the file says of itself.

    Raises:
        CorruptLogError: if the header is damaged, or is of another generation than the name of the file.
        IncompatibleStoreError: if a newer version wrote it.
        StorageError, DiskFullError: if it can not be read.
    """
    return _parse_header(path, _read_header_bytes(fs, path))


def _read_header_bytes(fs: FileSystem, path: Path) -> bytes:
    try:
        fd = fs.open_read(path)
        try:
            return fs.pread(fd, FILE_HEADER_BYTES, 0)
        finally:
            fs.close(fd)
    except OSError as error:
        raise refused(f"{path}: the log can not be read", error) from error


# --- reading ----------------------------------------------------------------------------------------------------------


def _verified_header(data: bytes, at: int, lsn: int, salt: int) -> tuple[int, int, int, int, int, int] | str:
    """Kind, payload length, previous checksum, synced LSN, wall time, own checksum; or what is wrong, in words."""
    magic, kind, reserved, length, previous, start, synced, wall_ms, stored = _HEADER_READ.unpack_from(data, at)
    if magic != _RECORD_MAGIC:
        return f"expected the record magic {_RECORD_MAGIC:08x}, found {magic:08x}"
    if (computed := extend(salt, data[at : at + _HEADER.size])) != stored:
        return f"expected the header checksum {computed:08x}, found {stored:08x}"
    if start != lsn:
        return f"expected a record that begins at LSN {lsn}, found one that began at {start}"
    if reserved != b"\0\0\0" or kind not in _KINDS:
        return f"expected a mutation or a marker, found kind {kind} of {length} bytes"
    if length > RECORD_BYTES_MAX or synced > start:
        return f"expected at most {RECORD_BYTES_MAX} bytes and LSN {start}, found {length} bytes and LSN {synced}"
    return kind, length, previous, synced, wall_ms, stored


class LogReading:
    """One pass over the records of a log file, then its `tail`.

    Iterating yields (LSN just past the record, wall time in ms, payload) of each mutation; markers are only counted.
    The file is synced first, and then read from the disk and not from the system's cache: what an earlier process wrote
    and did not sync, or failed to, must not be served and then be lost.
    Reads 1 MiB at a time, or one record if it is larger. Changes no file.

    Raises, while iterating:
        CorruptLogError: with file, offset and LSN, if the log is damaged where it can have been acknowledged.
        StorageError, DiskFullError: if the file can not be read or synced.
    """

    def __init__(
        self,
        fs: FileSystem,
        path: Path,
        header_bytes: bytes,
        proven_lsn: Lsn,
        *,
        is_last: bool,
        after: tuple[int, int] | None,
    ) -> None:
        """Use `read_log`."""
        self.header = _parse_header(path, header_bytes)
        header_checksum: int
        (header_checksum,) = _U32.unpack_from(header_bytes, FILE_HEADER_BYTES - _U32.size)
        self._begin, self._begin_checksum = after or (0, header_checksum)
        self._fs = fs
        self._path = path
        self._proven_lsn = proven_lsn
        self._is_last = is_last
        self._salt = value(self.header.nonce)
        self._tail: LogTail | None = None

    @property
    def tail(self) -> LogTail:
        """Where the log ends; known once the records have been read to the end."""
        assert self._tail is not None, "read the records to the end first"
        return self._tail

    def place_of(self, lsn: Lsn) -> str:
        """Where the record that ends with this LSN ends, for messages."""
        return f"the record before offset {lsn - self.header.base_lsn + FILE_HEADER_BYTES}, LSN {lsn}"

    def __iter__(self) -> Iterator[tuple[Lsn, int, bytes]]:
        try:
            fd = self._fs.open_read(self._path)
            try:
                self._fs.fdatasync(fd)
                if self._is_last:
                    # After a sync that failed the system calls pages clean which the disk does not have, and shows
                    # them to the next process all the same. Where a later generation is, this one's last sync did not.
                    self._fs.drop_cache(fd)
                yield from self._records(fd)
            finally:
                self._fs.close(fd)
        except OSError as error:
            raise refused(f"{self._path}: the log can not be read", error) from error

    def _records(self, fd: int) -> Iterator[tuple[Lsn, int, bytes]]:
        to_lsn = self.header.base_lsn - FILE_HEADER_BYTES  # offset + this = LSN
        salt = self._salt
        last_checksum = self._begin_checksum
        records = markers = highest_synced = 0
        offset = FILE_HEADER_BYTES + self._begin
        if self._begin:
            self._check_begin(fd, offset)
        damage, extent = "", 0
        chunk, at = b"", 0  # chunk[at] is the byte at `offset`
        while True:
            if at + RECORD_HEADER_BYTES > len(chunk):
                chunk, at = self._fs.pread(fd, _READ_BYTES, offset), 0
                if len(chunk) < RECORD_HEADER_BYTES:
                    damage, extent = "expected a whole record header, found the end of the file", RECORD_HEADER_BYTES
                    break
            head = _verified_header(chunk, at, to_lsn + offset, salt)
            if isinstance(head, str):
                damage, extent = head, RECORD_HEADER_BYTES
                break
            kind, length, previous, synced, wall_ms, head_checksum = head
            size = framed_size(length)
            if at + size > len(chunk):
                chunk, at = self._fs.pread(fd, max(size, _READ_BYTES), offset), 0
                if len(chunk) < size:
                    damage, extent = f"expected a record of {size} bytes, found the end of the file", size
                    break
            checksum, magic = _TRAILER.unpack_from(chunk, at + size - TRAILER_BYTES)
            body = chunk[at + RECORD_HEADER_BYTES : at + size - TRAILER_BYTES]
            if (computed := extend(head_checksum, body)) != checksum or magic != _TRAILER_MAGIC:
                damage = f"expected the checksum {computed:08x} {_TRAILER_MAGIC:08x}, found {checksum:08x} {magic:08x}"
                extent = size
                break
            if previous != last_checksum:
                # Not a matter of writing: a record that is whole and yet follows another one is from another history.
                found = f"expected a record that follows {last_checksum:08x}, found one that follows {previous:08x}"
                raise self._corrupt(offset, found, "both are whole, so they are of different histories")
            last_checksum = checksum
            highest_synced = max(highest_synced, synced)
            offset += size
            at += size
            if kind == _MARKER:
                markers += 1
            else:
                records += 1
                yield Lsn(to_lsn + offset), wall_ms, body if len(body) == length else body[:length]
        torn_bytes = self._torn_bytes(fd, offset, extent, damage)
        is_ended = not torn_bytes and self._fs.size(fd) == offset + _ENDED_BYTES
        self._tail = LogTail(
            Lsn(to_lsn + offset), last_checksum, offset, torn_bytes, records, markers, Lsn(highest_synced), is_ended
        )

    def _check_begin(self, fd: int, offset: int) -> None:
        """Where reading begins behind a snapshot's cut, the record that ended there must be there, and be that one."""
        found = self._fs.pread(fd, TRAILER_BYTES, offset - TRAILER_BYTES)
        expected = _TRAILER.pack(self._begin_checksum, _TRAILER_MAGIC)
        if found != expected:
            damage = f"expected the end of a record, {expected.hex()}, found {found.hex() or 'the end of the file'}"
            raise self._corrupt(offset - TRAILER_BYTES, damage, "the newest snapshot was cut here")

    def _torn_bytes(self, fd: int, offset: int, extent_bytes: int, damage: str) -> int:
        """Decides what the first bad record is: the clean end (0), torn (how many bytes), or corrupt."""
        lsn = self._lsn_at(offset)
        content_end = written_end(self._fs, fd, offset)
        if lsn < self._proven_lsn:
            raise self._corrupt(offset, damage, f"the log is proven to have been durable up to LSN {self._proven_lsn}")
        if content_end == offset:
            return 0
        if not self._is_last:
            raise self._corrupt(offset, damage, "a later generation exists, so this one was synced to its end")
        if (noted_at := self._noted_durable(fd, offset)) is not None:
            raise self._corrupt(offset, damage, f"the record at offset {noted_at} notes that this one was synced")
        if not self._looks_unwritten(fd, offset, offset + extent_bytes, content_end):
            raise self._corrupt(offset, damage, "no part of it looks unwritten, as a crash would leave it")
        return content_end - offset

    def _noted_durable(self, fd: int, offset: int) -> int | None:
        """Where, behind the damage at `offset`, a whole record lies that says that what was there had been synced."""
        lsn = self._lsn_at(offset)
        start = offset + ALIGNMENT_BYTES
        while window := self._fs.pread(fd, _READ_BYTES, start):
            at = window.find(_RECORD_MAGIC_BYTES)
            while 0 <= at <= len(window) - RECORD_HEADER_BYTES:
                if at % ALIGNMENT_BYTES == 0:
                    head = _verified_header(window, at, self._lsn_at(start + at), self._salt)
                    if not isinstance(head, str) and head[3] > lsn and self._is_whole(fd, start + at, head[1], head[5]):
                        return start + at
                at = window.find(_RECORD_MAGIC_BYTES, at + 1)
            if len(window) < _READ_BYTES:
                break
            # A header may lie across two windows: let them overlap by more than one.
            start += _READ_BYTES - SECTOR_BYTES
        return None

    def _is_whole(self, fd: int, offset: int, length: int, head_checksum: int) -> bool:
        body_bytes = framed_size(length) - RECORD_HEADER_BYTES - TRAILER_BYTES
        data = self._fs.pread(fd, body_bytes + TRAILER_BYTES, offset + RECORD_HEADER_BYTES)
        return data[body_bytes:] == _TRAILER.pack(extend(head_checksum, data[:body_bytes]), _TRAILER_MAGIC)

    def _looks_unwritten(self, fd: int, offset: int, end: int, content_end: int) -> bool:
        # What was written ends inside the record, whose last byte is never zero. The zeros of the reserve do not count
        # as written, so a write cut short at any byte is recognised.
        if content_end < end:
            return True
        data = self._fs.pread(fd, end - offset, offset)
        first_border = SECTOR_BYTES - offset % SECTOR_BYTES
        starts = [0, *range(first_border, len(data), SECTOR_BYTES)]
        pieces = (data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data)], strict=True))
        return any(piece == _ZEROS[: len(piece)] for piece in pieces)

    def _lsn_at(self, offset: int) -> Lsn:
        return Lsn(self.header.base_lsn + offset - FILE_HEADER_BYTES)

    def _corrupt(self, offset: int, damage: str, proof: str) -> CorruptLogError:
        where = f"{self._path}: offset {offset}, LSN {self._lsn_at(offset)}"
        return CorruptLogError(f"{where}: {damage}; {proof}; next: {_NEXT}")


def read_log(
    fs: FileSystem,
    path: Path,
    proven_lsn: Lsn = NO_LSN,
    *,
    is_last: bool = True,
    after: tuple[int, int] | None = None,
) -> LogReading:
    """Begins to read a log from its first record, or from where a snapshot was cut.

    Args:
        fs: the disk.
        path: the log file.
        proven_lsn: the highest LSN that something outside this file proves to have been durable in it: a snapshot's
            cut, or where its successor says that it ended.
        is_last: whether it is the newest generation; only that can be torn.
        after: so many record bytes are passed over, and the last record among them has this checksum.

    Raises:
        CorruptLogError, IncompatibleStoreError, StorageError: as read_header.
    """
    return LogReading(fs, path, _read_header_bytes(fs, path), proven_lsn, is_last=is_last, after=after)


def written_end(fs: FileSystem, fd: int, offset: int) -> int:
    """Just past the last byte from `offset` on that is not zero; `offset` if all are."""
    end = start = offset
    while window := fs.pread(fd, _READ_BYTES, start):
        if window != _ZEROS[: len(window)]:
            end = start + len(window.rstrip(b"\0"))
        start += len(window)
    return end


# --- writing ----------------------------------------------------------------------------------------------------------


class LogWriter:
    """The end of the newest generation. One thread uses it.

    An OSError while writing or syncing is final: it is raised as StorageError, and so is every later call.
    """

    def __init__(
        self,
        fs: FileSystem,
        path: Path,
        fd: int,
        header: LogHeader,
        *,
        end_lsn: Lsn,
        last_checksum: int,
        torn_bytes: int,
        unfinished: Path | None = None,
    ) -> None:
        """Use `create` or `reopen`."""
        self.path = path
        self.header = header
        self._fs = fs
        self._fd = fd
        self._base_lsn = header.base_lsn
        self._salt = value(header.nonce)
        self._end_lsn = end_lsn
        self._last_checksum = last_checksum
        self._torn_bytes = torn_bytes
        self._unfinished = unfinished
        # What a copied or restored file had reserved is not believed; reserving it again costs next to nothing.
        self._reserved_lsn = end_lsn
        self._failure: str | None = None

    @classmethod
    def create(cls, fs: FileSystem, directory: Path, header: LogHeader, *, is_ended: bool = False) -> LogWriter:
        """Publishes an empty log and opens it. `is_ended`: with the sign that what was logged behind it is not here.

        Raises:
            StorageError: if the generation is there already.
            OSError: if it can not be made; what was there before is as it was.
        """
        path = log_path(directory, header.generation)
        if fs.exists(path):
            raise StorageError(
                f"{path}: expected no such file, found one; next: keep it and run `gibramdb store inspect DIR`"
            )
        data = _header_bytes(header)
        publish(fs, path, data + bytes(_ENDED_BYTES if is_ended else 0))
        return cls.reopen(fs, path, header, header.base_lsn, value(data[: -_U32.size]))

    @classmethod
    def reopen(
        cls,
        fs: FileSystem,
        path: Path,
        header: LogHeader,
        end_lsn: Lsn,
        last_checksum: int,
        unfinished: Path | None = None,
    ) -> LogWriter:
        """Goes on where a reading ended. If that left something torn, `discard_tail` comes before the first append.

        Args:
            fs: the disk.
            path: the log file.
            header: of the file.
            end_lsn: as the reading's tail has it.
            last_checksum: as the reading's tail has it.
            unfinished: a later generation, empty, of a restore that was cut short; it goes with the torn tail.

        Raises:
            OSError: if the file can not be opened or read. Nothing is changed.
        """
        fd = fs.open_write(path)
        try:
            offset = end_lsn - header.base_lsn + FILE_HEADER_BYTES
            torn_bytes = written_end(fs, fd, offset) - offset
        except OSError:
            fs.close(fd)
            raise
        return cls(
            fs,
            path,
            fd,
            header,
            end_lsn=end_lsn,
            last_checksum=last_checksum,
            torn_bytes=torn_bytes,
            unfinished=unfinished,
        )

    def begin_successor(self, origin: Origin, nonce: bytes, now_ms: int, bytes_ahead_min: int) -> LogWriter:
        """The next generation, empty, with room for this many bytes; this one must be synced. It is not closed.

        Raises:
            OSError: there is no room for it, or no permission, or too many files are open. It is not there, and this
                one can go on.
            StorageError: if the system failed otherwise: whether the next generation is there is not known.
        """
        generation = Generation(self.header.generation + 1)
        header = LogHeader(self.header.store_id, generation, self._end_lsn, nonce, now_ms, origin)
        directory = self.path.parent
        writer = None
        try:
            writer = LogWriter.create(self._fs, directory, header)
            writer.reserve(bytes_ahead_min)
        except OSError as error:
            if error.errno not in NO_ROOM + _NOT_ALLOWED:
                raise self._fail("beginning the next generation", error) from error
            self._take_back(writer, log_path(directory, generation))
            raise
        return writer

    def take_back(self, successor: LogWriter) -> None:
        """Remove the next generation, into which nothing has been written: this one goes on.

        Raises:
            StorageError: the system failed; whether it is there is not known.
        """
        self._take_back(successor, successor.path)

    def _take_back(self, successor: LogWriter | None, path: Path) -> None:
        try:
            if successor is not None:
                successor.close()
            if self._fs.exists(path):
                self._fs.unlink(path)
            self._fs.sync_dir(path.parent)
        except OSError as error:
            raise self._fail("taking back the next generation", error) from error

    def end(self) -> None:
        """Gives the reserve back, and says by the file's length, durably, that the next generation is there.

        Before that one takes a record: should it be lost, this one must not pass for the newest.

        Raises:
            StorageError: the sync failed.
        """
        with contextlib.suppress(OSError):  # nothing has changed then; a start ends it
            self._fs.truncate(self._fd, self._offset + _ENDED_BYTES)
        try:
            self._fs.fdatasync(self._fd)
        except OSError as error:
            raise self._fail("ending the generation", error) from error

    @property
    def end_lsn(self) -> Lsn:
        """Just past the last record handed to the system."""
        return self._end_lsn

    @property
    def reserved_lsn(self) -> Lsn:
        """Up to where appends fit without asking the disk for space."""
        return self._reserved_lsn

    @property
    def last_checksum(self) -> int:
        """Of the last record, or of the file header: what the next record or generation chains to."""
        return self._last_checksum

    @property
    def torn_bytes(self) -> int:
        """What lies behind the end and must be discarded before the first append."""
        return self._torn_bytes

    def is_ended(self) -> bool:
        """Whether the file says that a next generation was begun. Reserving takes that back. Raises OSError."""
        return self._torn_bytes == 0 and self._fs.size(self._fd) == self._offset + _ENDED_BYTES

    @property
    def failed(self) -> bool:
        """Whether a write or a sync has failed; then nothing but closing is left."""
        return self._failure is not None

    def write_again(self, proven_lsn: Lsn) -> None:
        """Writes what was found behind `proven_lsn` once more, as it is, and syncs it.

        After a sync that failed, in this process or in one before it, the system may show bytes that the disk does not
        have, call them clean and sync nothing. Written again they are its business again.

        Raises:
            StorageError: if the system failed; the bytes are what they were.
        """
        self._refuse_if_failed()
        offset = max(0, proven_lsn - self._base_lsn) + FILE_HEADER_BYTES
        if offset >= self._offset:
            return
        try:
            for at in range(offset, self._offset, _READ_BYTES):
                self._fs.pwrite(self._fd, self._fs.pread(self._fd, min(_READ_BYTES, self._offset - at), at), at)
            self._fs.fdatasync(self._fd)
        except OSError as error:
            raise self._fail("writing the end of the log again", error) from error

    def append(self, payloads: Sequence[bytes], synced_lsn: Lsn, wall_ms: int) -> Lsn:
        """Frames the payloads and hands them to the system, in order. Returns the LSN just past the last.

        `synced_lsn` is how far the log is known to be durable now.

        Raises:
            LimitExceededError: if a payload is larger than RECORD_BYTES_MAX. Nothing has been written.
            StorageError: if the system failed, now or before; how much was written is unknown.
        """
        for payload in payloads:
            if len(payload) > RECORD_BYTES_MAX:
                raise LimitExceededError(f"a record of {len(payload)} bytes; the log takes up to {RECORD_BYTES_MAX}")
        return self._append(_MUTATION, payloads, synced_lsn, wall_ms)

    def append_marker(self, synced_lsn: Lsn, wall_ms: int) -> Lsn:
        """Writes MARKER_BYTES of witness to how far the log was synced; then sync it too.

        Raises:
            StorageError: as append.
        """
        # A sector that rots must not take the last record and its witness together, so a sector of filling comes
        # first; being a record, it is a witness too.
        filling = bytes(SECTOR_BYTES - framed_size(0))
        return self._append(_MARKER, (filling, b""), synced_lsn, wall_ms)

    def _append(self, kind: int, payloads: Sequence[bytes], synced_lsn: Lsn, wall_ms: int) -> Lsn:
        self._refuse_if_failed()
        framed_bytes = sum([framed_size(len(payload)) for payload in payloads])
        assert self._end_lsn + framed_bytes <= self._reserved_lsn, "reserve before appending"
        assert self._torn_bytes == 0, "discard the torn tail before appending"
        assert synced_lsn <= self._end_lsn
        salt, previous, lsn = self._salt, self._last_checksum, int(self._end_lsn)
        pieces: list[bytes] = []
        pieces_bytes, offset = 0, self._offset
        for payload in payloads:
            length = len(payload)
            head = _HEADER.pack(_RECORD_MAGIC, kind, length, previous, lsn, synced_lsn, wall_ms)
            head_checksum = extend(salt, head)
            padding_bytes = -(RECORD_HEADER_BYTES + length) % ALIGNMENT_BYTES
            previous = extend(head_checksum, payload)
            if padding_bytes:
                previous = extend(previous, _PADDING[padding_bytes])
            trailer = _PADDED_TRAILER[padding_bytes].pack(previous, _TRAILER_MAGIC)
            pieces += (head, _U32.pack(head_checksum), payload, trailer)
            size = RECORD_HEADER_BYTES + length + padding_bytes + TRAILER_BYTES
            lsn += size
            pieces_bytes += size
            if pieces_bytes >= _WRITE_BYTES:
                self._write(b"".join(pieces), offset)
                offset += pieces_bytes
                pieces, pieces_bytes = [], 0
        if pieces:
            self._write(b"".join(pieces), offset)
        self._end_lsn = Lsn(lsn)
        self._last_checksum = previous
        return self._end_lsn

    def sync(self) -> None:
        """Makes durable what has been appended.

        Raises:
            StorageError: if it failed, now or before. It is not tried again: the system may have dropped the bytes.
        """
        self._refuse_if_failed()
        try:
            self._fs.fdatasync(self._fd)
        except OSError as error:
            raise self._fail("sync", error) from error

    def reserve(self, bytes_ahead_min: int) -> None:
        """Sees to it that appends of this many bytes fit; asks for RESERVE_BYTES ahead, and less if there is less.

        Costs nothing while enough is reserved.

        Raises:
            OSError: ENOSPC, EDQUOT or EFBIG if not even `bytes_ahead_min` can be had. Nothing has changed; try later.
            StorageError: if the system failed otherwise, now or before.
        """
        self._refuse_if_failed()
        if self._end_lsn + bytes_ahead_min <= self._reserved_lsn:
            return
        ahead = max(RESERVE_BYTES, bytes_ahead_min)
        while True:
            try:
                self._fs.allocate(self._fd, self._offset, ahead)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise self._fail("reserving space", error) from error
                if ahead == bytes_ahead_min:
                    raise
                ahead = max(ahead // 2, bytes_ahead_min)
            else:
                self._reserved_lsn = Lsn(self._end_lsn + ahead)
                return

    def room(self) -> tuple[int, int]:
        """Bytes that the log's disk still has, and that it has in all. Raises OSError."""
        return self._fs.room(self._fd)

    def discard_tail(self, offset_bytes: int) -> None:
        """Puts the torn bytes aside in a file of their own, durably, and cuts the log where it ends.

        Does nothing where nothing is torn.

        Args:
            offset_bytes: where the reading found the torn bytes to begin.

        Raises:
            OSError: ENOSPC, EDQUOT or EFBIG if there is no room to put them aside. Nothing has changed; try later.
            StorageError: if the system failed otherwise, now or before.
        """
        self._refuse_if_failed()
        if self._unfinished is not None:
            self._take_back(None, self._unfinished)
            self._unfinished = None
        if self._torn_bytes == 0:
            return
        try:
            assert offset_bytes == self._offset, "a log is cut only where its last record ends"
            self._put_aside()
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise self._fail("putting the torn tail aside", error) from error
        try:
            self._fs.truncate(self._fd, self._offset)
            self._fs.fdatasync(self._fd)
        except OSError as error:
            raise self._fail("cutting the torn tail", error) from error
        self._torn_bytes = 0
        # The cut took the reserve with it.
        self._reserved_lsn = self._end_lsn

    def close(self) -> None:
        """Closes the file; nothing is written or synced."""
        self._fs.close(self._fd)

    @property
    def _offset(self) -> int:
        return self._end_lsn - self._base_lsn + FILE_HEADER_BYTES

    def _put_aside(self) -> None:
        fs = self._fs
        number = 0
        path = aside = self.path.with_name(f"wal-{self.header.generation:020}.torn-{self._offset}")
        while fs.exists(path):
            # A start that was cut short here has left a copy, whole or not.
            fd = fs.open_read(path)
            try:
                if fs.size(fd) == self._torn_bytes and all(
                    fs.pread(fd, len(piece), at) == piece for at, piece in self._torn_pieces()
                ):
                    fs.fsync(fd)
                    fs.sync_dir(path.parent)
                    return
            finally:
                fs.close(fd)
            number += 1
            path = aside.with_name(f"{aside.name}.{number}")
        fd = fs.open_write(path, create=True)
        try:
            for at, piece in self._torn_pieces():
                fs.pwrite(fd, piece, at)
            fs.fsync(fd)
        except OSError:
            # Else every try on a full disk would leave another part behind.
            with contextlib.suppress(OSError):
                fs.unlink(path)
            raise
        finally:
            fs.close(fd)
        fs.sync_dir(path.parent)

    def _torn_pieces(self) -> Iterator[tuple[int, bytes]]:
        for at in range(0, self._torn_bytes, _READ_BYTES):
            yield at, self._fs.pread(self._fd, min(_READ_BYTES, self._torn_bytes - at), self._offset + at)

    def _write(self, data: bytes, offset: int) -> None:
        try:
            self._fs.pwrite(self._fd, data, offset)
        except OSError as error:
            raise self._fail("write", error) from error

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise StorageError(self._failure)

    def _fail(self, what: str, error: OSError) -> StorageError:
        self._failure = (
            f"{self.path}: offset {self._offset}, LSN {self._end_lsn}: {what} failed: {error}; "
            f"the log takes nothing more; {next_step(error)}, then start it again"
        )
        return StorageError(self._failure)
