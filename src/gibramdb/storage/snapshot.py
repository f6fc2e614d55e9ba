"""Snapshots on disk: packs of immutable sections, and manifests that name them. Bytes: docs/formats/snapshot.md.

A section holds one session, as the same records that the log knows. A pack holds sections. A manifest says which
sections, in which packs, are the store at one cut of the log. An operator's copy is a pack that ends in a manifest of
its own, and needs no other file.

Owns: the bytes; what is published, and in which order.
Never: knows what a record means; decides when a snapshot is taken or which are kept.

Invariants:
- Nothing that a manifest names is changed, nor is a manifest. A name ending in `.tmp` was never published.
- A manifest is published after everything it names is durable and has been read back.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from google_crc32c import extend, value

from gibramdb.errors import CorruptSnapshotError, IncompatibleStoreError, StorageError
from gibramdb.storage.files import TEMPORARY_SUFFIX, FileSystem, next_step, publish

FORMAT_VERSION = 1
READER_VERSION = 1

PACK_MAGIC = b"\x93gibpck\n"
"""How every pack and every operator's copy begins; the pack has a number."""
PACK_HEADER_BYTES = 64
_END_MAGIC = b"\x93gibend\n"
# magic, format version, minimal reader version, store id, number, created at (ms); the last four bytes: checksum
_PACK_HEADER = struct.Struct("<8sII16sQQ")
_RECORD = struct.Struct("<II")  # length, checksum
# manifest offset, manifest length, manifest checksum, zero, magic
_TRAILER = struct.Struct("<QQII8s")
_U32 = struct.Struct("<I")

SYNC_BYTES = 1024 * 1024
"""Written and synced in pieces of this size: one sync of much more would keep the log's own syncs waiting."""
_RECORD_BYTES_MAX = 256 * 1024 * 1024
_MANIFEST_BYTES_MAX = 1024 * 1024 * 1024
MANIFEST_BEGINNING = b'{\n  "checksum": "'
_NO_CHECKSUM = b"00000000"
_ABOUT = "one snapshot of a gibramdb store: this file and the packs it names, which lie beside it; keep them together"

_SNAPSHOT_NAME = re.compile(r"snapshot-([0-9]{20})\.json")
_PACK_NAME = re.compile(r"pack-([0-9]{20})\.bin")
NEXT = (
    "`gibramdb store verify DIR` says what can be read, `gibramdb store repair DIR` what an older snapshot would give"
)


class Cut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place in the log: so many record bytes into a generation, which is this LSN; the log was synced up to there.

    `checksum` is that of the last record before it, to which the next one is chained; 0 at the offset 0.
    """

    generation: int
    offset: int
    lsn: int
    checksum: int


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one session lies. `pack` is the number of a pack; 0 is the file that holds the manifest itself.

    `changed_lsn` is that of the last record about the session: while it is the same, so is the section.
    """

    session_id: str
    changed_lsn: int
    pack: int
    offset: int
    length: int
    checksum: int
    records: int
    objects: int


class LastSave(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last operator's copy: when (seconds since 1970) and where."""

    at_s: int
    path: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one snapshot holds. `vector_dim` is 0 where there is no embedding. `checksum` is filled in on writing."""

    checksum: str = _NO_CHECKSUM.decode()
    about: str = _ABOUT
    format: int = FORMAT_VERSION
    min_reader_version: int = READER_VERSION
    store_id: str
    number: int
    created_at_ms: int
    cut: Cut
    vector_dim: int
    last_save: LastSave | None
    sections: tuple[Section, ...]


class _Version(msgspec.Struct, frozen=True):
    min_reader_version: int


def snapshot_path(directory: Path, number: int) -> Path:
    """Where a manifest lies."""
    return directory / f"snapshot-{number:020}.json"


def pack_path(directory: Path, number: int) -> Path:
    """Where a pack lies. It has the number of the snapshot that it was written for."""
    return directory / f"pack-{number:020}.bin"


def is_copy(beginning: bytes) -> bool:
    """Whether a file that begins so is an operator's copy. `beginning`: PACK_HEADER_BYTES, if it has so many."""
    if len(beginning) < PACK_HEADER_BYTES or not beginning.startswith(PACK_MAGIC):
        return False
    number: int = _PACK_HEADER.unpack_from(beginning)[4]
    return number == 0


def list_snapshots(fs: FileSystem, directory: Path) -> list[tuple[int, Path]]:
    """The manifests in a folder, oldest first."""
    return _listed(fs, directory, _SNAPSHOT_NAME)


def list_packs(fs: FileSystem, directory: Path) -> list[tuple[int, Path]]:
    """The packs in a folder, oldest first."""
    return _listed(fs, directory, _PACK_NAME)


def _listed(fs: FileSystem, directory: Path, name: re.Pattern[str]) -> list[tuple[int, Path]]:
    found = ((name.fullmatch(each), each) for each in fs.list_dir(directory))
    return sorted((int(match[1]), directory / each) for match, each in found if match)


# --- writing ----------------------------------------------------------------------------------------------------------


class PackWriter:
    """Sections, one after the other, into a file that is open and empty. The caller closes and publishes it."""

    def __init__(self, fs: FileSystem, fd: int, number: int, store_id: bytes, created_at_ms: int) -> None:
        self._fs = fs
        self._fd = fd
        self._number = number
        self._pending = bytearray(
            _PACK_HEADER.pack(PACK_MAGIC, FORMAT_VERSION, READER_VERSION, store_id, number, created_at_ms)
        )
        self._pending += bytes(PACK_HEADER_BYTES - _U32.size - len(self._pending))
        self._pending += _U32.pack(value(bytes(self._pending)))
        self._written_bytes = 0

    @property
    def bytes_so_far(self) -> int:
        """How long the file is, what is about to be written included."""
        return self._written_bytes + len(self._pending)

    def write_section(self, session_id: str, changed_lsn: int, objects: int, records: Iterable[bytes]) -> Section:
        """Append a section. Returns where it lies, as part of a pack.

        Raises:
            OSError: the disk refused; the file is of no use then.
        """
        offset = self.bytes_so_far
        checksum = count = 0
        for payload in records:
            head = _RECORD.pack(len(payload), value(payload))
            checksum = extend(extend(checksum, head), payload)
            self._pending += head
            self._pending += payload
            count += 1
            if len(self._pending) >= SYNC_BYTES:
                self._flush()
        length = self.bytes_so_far - offset
        return Section(session_id, changed_lsn, self._number, offset, length, checksum, count, objects)

    def write_manifest(self, manifest: Manifest) -> None:
        """Append a manifest and the trailer that leads to it: the file is an operator's copy, and complete."""
        data = encode_manifest(manifest)
        offset = self.bytes_so_far
        self._pending += data
        self._pending += _TRAILER.pack(offset, len(data), value(data), 0, _END_MAGIC)
        self.finish()

    def finish(self) -> None:
        """Write and sync what is left."""
        self._flush()
        self._fs.fsync(self._fd)

    def _flush(self) -> None:
        if self._pending:
            self._fs.pwrite(self._fd, bytes(self._pending), self._written_bytes)
            self._fs.fdatasync(self._fd)
            self._written_bytes += len(self._pending)
            self._pending.clear()


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's file, its checksum filled in."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    assert data.startswith(MANIFEST_BEGINNING + _NO_CHECKSUM)
    digits = f"{value(data):08x}".encode()
    return MANIFEST_BEGINNING + digits + data[len(MANIFEST_BEGINNING) + len(digits) :]


def write_pack(
    fs: FileSystem, directory: Path, number: int, store_id: bytes, created_at_ms: int
) -> tuple[int, PackWriter]:
    """Begin a pack under a temporary name. Returns the open file and its writer; `publish_pack` ends it."""
    temporary = _temporary(pack_path(directory, number))
    if fs.exists(temporary):
        fs.unlink(temporary)
    fd = fs.open_write(temporary, create=True)
    return fd, PackWriter(fs, fd, number, store_id, created_at_ms)


def publish_pack(fs: FileSystem, directory: Path, number: int, sections: Iterable[Section]) -> None:
    """Read a finished pack back from the disk, and give it its name.

    Raises:
        CorruptSnapshotError: the disk does not give back what was written.
        OSError: the disk refused.
    """
    path = pack_path(directory, number)
    temporary = _temporary(path)
    fd = fs.open_read(temporary)
    try:
        fs.drop_cache(fd)
    finally:
        fs.close(fd)
    for section in sections:
        verify_section(fs, temporary, section)
    fs.replace(temporary, path)
    fs.sync_dir(directory)


def discard_pack(fs: FileSystem, directory: Path, number: int) -> None:
    """Remove what a failed snapshot has left of its pack."""
    for path in (_temporary(pack_path(directory, number)), pack_path(directory, number)):
        if fs.exists(path):
            fs.unlink(path)


def publish_manifest(fs: FileSystem, directory: Path, manifest: Manifest) -> None:
    """Read the manifest back from the disk, and make it discoverable: from the rename on, it is the newest.

    Raises:
        OSError: the disk refused, or does not give back what was written. The snapshot is there, or not; never a part
            of it.
    """
    publish(fs, snapshot_path(directory, manifest.number), encode_manifest(manifest), read_back=True)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + TEMPORARY_SUFFIX)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_manifest(fs: FileSystem, path: Path) -> tuple[Manifest, int]:
    """A manifest, and the checksum of its whole file.

    Raises:
        CorruptSnapshotError: it is damaged.
        IncompatibleStoreError: a newer version wrote it.
        StorageError: it can not be read.
    """
    try:
        fd = fs.open_read(path)
        try:
            data = manifest_bytes(fs, fd)
        finally:
            fs.close(fd)
    except OSError as error:
        raise StorageError(f"{path}: the snapshot can not be read: {error.strerror}; {next_step(error)}") from error
    manifest = parse_manifest(path, data)
    named = _SNAPSHOT_NAME.fullmatch(path.name)
    if named and int(named[1]) != manifest.number:
        raise CorruptSnapshotError(
            f"{path}: expected snapshot {int(named[1])}, as its name says, found {manifest.number}; next: restore its "
            "name"
        )
    return manifest, value(data)


def manifest_bytes(fs: FileSystem, fd: int) -> bytes:
    """What lies in a manifest's file. No more is asked for than is there: memory for all of it would be made ready."""
    return fs.pread(fd, min(fs.size(fd), _MANIFEST_BYTES_MAX), 0)


def manifest_checksum(manifest: Manifest) -> int:
    """Of the whole file that `publish_manifest` would write."""
    return int(value(encode_manifest(manifest)))


def parse_manifest(path: Path, data: bytes) -> Manifest:
    """The manifest that these bytes are; `path` is for messages. Raises as `read_manifest`."""
    digits = data[len(MANIFEST_BEGINNING) : len(MANIFEST_BEGINNING) + len(_NO_CHECKSUM)]
    covered = MANIFEST_BEGINNING + _NO_CHECKSUM + data[len(MANIFEST_BEGINNING) + len(digits) :]
    computed = f"{value(covered):08x}".encode()
    if not data.startswith(MANIFEST_BEGINNING) or digits != computed:
        raise CorruptSnapshotError(
            f"{path}: offset {len(MANIFEST_BEGINNING)}: the snapshot's JSON is damaged: expected the checksum "
            f"{computed.decode()}, found {digits.decode(errors='replace')!r}; next: {NEXT}"
        )
    try:
        version = msgspec.json.decode(data, type=_Version).min_reader_version
        if version > READER_VERSION:
            raise IncompatibleStoreError(
                f"{path}: the snapshot needs a reader of version {version} or later; this gibramdb reads up to "
                f"{READER_VERSION}; next: start the newer gibramdb that wrote it"
            )
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise CorruptSnapshotError(f"{path}: the snapshot's JSON is not a manifest: {error}; next: {NEXT}") from error


def read_section(fs: FileSystem, path: Path, section: Section, fd: int | None = None) -> Iterator[bytes]:
    """The records of a section. Reads 1 MiB at a time, or one record if it is larger.

    Args:
        fs: the disk.
        path: the pack; for messages only, if `fd` is given.
        section: where it lies.
        fd: the pack, open already; stays open.

    Raises:
        CorruptSnapshotError: with file and offset, where the bytes are not those that were written. At the latest
            after the last record, so nothing that was read may be believed before the end.
        StorageError: the pack can not be read.
    """
    is_own = fd is None
    try:
        if fd is None:
            fd = fs.open_read(path)
        try:
            yield from _section_records(fs, fd, path, section)
        finally:
            if is_own:
                fs.close(fd)
    except FileNotFoundError as error:
        raise CorruptSnapshotError(
            f"{path}: the pack is missing, and session {section.session_id!r} lies in it; next: {NEXT}"
        ) from error
    except OSError as error:
        raise StorageError(f"{path}: the pack can not be read: {error.strerror}; {next_step(error)}") from error


def _section_records(fs: FileSystem, fd: int, path: Path, section: Section) -> Iterator[bytes]:
    next_ = NEXT if section.pack else "use another copy"  # a copy has its sections in itself, and no number

    def corrupt(offset: int, expected: str, found: str) -> CorruptSnapshotError:
        where = f"{path}: offset {offset}: session {section.session_id!r}"
        return CorruptSnapshotError(f"{where}: expected {expected}, found {found}; next: {next_}")

    offset, end = section.offset, section.offset + section.length
    checksum = count = 0
    chunk, at = b"", 0  # chunk[at] is the byte at `offset`
    while offset < end:
        if at + _RECORD.size > len(chunk):
            chunk, at = fs.pread(fd, min(SYNC_BYTES, end - offset), offset), 0
            if len(chunk) < _RECORD.size:
                raise corrupt(offset, "a record", "the end of the file")
        length, stored = _RECORD.unpack_from(chunk, at)
        size = _RECORD.size + length
        if length > _RECORD_BYTES_MAX or offset + size > end:
            raise corrupt(offset, f"a record that ends before {end}", f"one of {length} bytes")
        if at + size > len(chunk):
            chunk, at = fs.pread(fd, min(max(size, SYNC_BYTES), end - offset), offset), 0
            if len(chunk) < size:
                raise corrupt(offset, f"a record of {length} bytes", "the end of the file")
        payload = chunk[at + _RECORD.size : at + size]
        if (computed := value(payload)) != stored:
            raise corrupt(offset, f"the checksum {computed:08x}", f"{stored:08x}")
        checksum = extend(checksum, chunk[at : at + size])
        at += size
        offset += size
        count += 1
        yield payload
    if checksum != section.checksum or count != section.records:
        raise corrupt(
            section.offset,
            f"{section.records} records with the checksum {section.checksum:08x}",
            f"{count} with {checksum:08x}",
        )


def verify_section(fs: FileSystem, path: Path, section: Section, fd: int | None = None) -> None:
    """Read a section and throw it away. Raises as `read_section`."""
    for _ in read_section(fs, path, section, fd):
        pass


def read_copy(fs: FileSystem, fd: int, path: Path) -> Manifest:
    """The manifest at the end of an operator's copy, which is open as `fd`.

    Raises:
        CorruptSnapshotError: it is none, or damaged, or cut short.
        IncompatibleStoreError: a newer version wrote it.
        OSError: it can not be read.
    """
    size = fs.size(fd)
    head = fs.pread(fd, PACK_HEADER_BYTES, 0)
    if not head.startswith(PACK_MAGIC) or len(head) < PACK_HEADER_BYTES:
        raise CorruptSnapshotError(
            f"{path}: offset 0: expected a copy made by SAVE, or a snapshot, found neither; next: name another file"
        )
    reader_version: int = _PACK_HEADER.unpack_from(head)[2]
    (stored,) = _U32.unpack_from(head, PACK_HEADER_BYTES - _U32.size)
    if stored != value(head[: -_U32.size]):
        raise CorruptSnapshotError(f"{path}: offset 0: the header is damaged; next: use another copy")
    if reader_version > READER_VERSION:
        raise IncompatibleStoreError(
            f"{path}: the copy needs a reader of version {reader_version} or later; this gibramdb reads up to "
            f"{READER_VERSION}; next: start the newer gibramdb that wrote it"
        )
    end = fs.pread(fd, _TRAILER.size, max(0, size - _TRAILER.size))
    if len(end) == _TRAILER.size:
        offset, length, checksum, zero, magic = _TRAILER.unpack(end)
        if magic == _END_MAGIC and zero == 0 and offset + length + _TRAILER.size == size:
            data = fs.pread(fd, length, offset)
            if value(data) == checksum:
                return parse_manifest(path, data)
    raise CorruptSnapshotError(
        f"{path}: offset {max(0, size - _TRAILER.size)}: the end of the copy is missing or damaged; next: use another "
        "copy"
    )
