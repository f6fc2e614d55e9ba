"""What can be done about a store that does not start: looked for without changing anything, and done on request.

In this order, and the first that works is proposed:

    an older snapshot, with every generation since: proves that nothing is lost
    the newest snapshot that can be read, with the log up to its damage
    that snapshot alone

Nothing is thrown away: what is taken out of the store is moved into a folder beside it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gibramdb.clock import SystemClock
from gibramdb.config import Config
from gibramdb.core.digest import state_digest
from gibramdb.database.opening import directories_of
from gibramdb.database.recovery import Recovered, recover
from gibramdb.errors import ConfigError, CorruptLogError, CorruptSnapshotError, FatalError, MissingStoreError
from gibramdb.storage import identity, snapshot, wal
from gibramdb.storage.files import FileSystem, OsFileSystem, publish
from gibramdb.storage.identity import Directories, Locks


class SnapshotFound(msgspec.Struct, frozen=True):
    """A snapshot on disk. `error` says why it can not be used, in words; then the figures are 0."""

    path: Path
    created_at_ms: int
    cut_lsn: int
    sessions: int
    objects: int
    error: str


class LogFound(msgspec.Struct, frozen=True):
    """A generation on disk, as far as it can be read. `error` says what is wrong behind that, in words."""

    path: Path
    base_lsn: int
    end_lsn: int
    records: int
    error: str


class Repair(msgspec.Struct, frozen=True):
    """What is proposed. `cut`: of one generation only so many bytes of the file are kept."""

    why: str
    keeps: str
    loses: str
    set_aside: tuple[Path, ...]
    cut: tuple[Path, int] | None


def inspect(config: Config, fs: FileSystem | None = None) -> tuple[list[SnapshotFound], list[LogFound]]:
    """Every snapshot and every generation, each read and checked by itself. Changes nothing.

    Raises:
        FatalError: the directories are not those of a store.
    """
    fs = fs or OsFileSystem()
    directories = directories_of(config)
    _store_id(fs, directories)
    snapshots = [_look_at_snapshot(fs, path) for _, path in snapshot.list_snapshots(fs, directories.snapshots)]
    return snapshots, [_look_at_log(fs, path) for _, path in wal.list_logs(fs, directories.wal)]


def _look_at_snapshot(fs: FileSystem, path: Path) -> SnapshotFound:
    try:
        manifest, _ = snapshot.read_manifest(fs, path)
        for section in manifest.sections:
            snapshot.verify_section(fs, snapshot.pack_path(path.parent, section.pack), section)
    except FatalError as error:
        return SnapshotFound(path, 0, 0, 0, 0, str(error))
    objects = sum(section.objects for section in manifest.sections)
    return SnapshotFound(path, manifest.created_at_ms, manifest.cut.lsn, len(manifest.sections), objects, "")


def _look_at_log(fs: FileSystem, path: Path) -> LogFound:
    base_lsn = end_lsn = records = 0
    try:
        reading = wal.read_log(fs, path)
        base_lsn = end_lsn = int(reading.header.base_lsn)
        for lsn, _, _ in reading:
            end_lsn = lsn
            records += 1
        torn_bytes = reading.tail.torn_bytes
    except FatalError as error:
        return LogFound(path, base_lsn, end_lsn, records, str(error))
    told = f"{torn_bytes} bytes at its end were never acknowledged" if torn_bytes else ""
    return LogFound(path, base_lsn, int(reading.tail.end_lsn), records, told)


def propose(config: Config, fs: FileSystem | None = None) -> Repair | None:
    """What could be done; None where nothing is wrong. Changes nothing.

    Raises:
        FatalError: nothing can be done, or another process owns the store.
    """
    fs = fs or OsFileSystem()
    directories = directories_of(config)
    store_id = _store_id(fs, directories)
    locks = Locks(fs)
    locks.take(directories)
    try:
        return _propose(fs, directories, store_id, config.server.vector_dim)
    finally:
        locks.release()


def _propose(fs: FileSystem, directories: Directories, store_id: bytes, vector_dim: int) -> Repair | None:
    try:
        recover(fs, directories, store_id, vector_dim)
    except (CorruptLogError, CorruptSnapshotError, MissingStoreError) as error:
        refusal: FatalError = error  # anything else is no damage: a wrong setting, a newer version, the disk
    else:
        return None
    found = snapshot.list_snapshots(fs, directories.snapshots)
    logs = wal.list_logs(fs, directories.wal)
    for index in range(len(found) - 1, -1, -1):
        older = 0 if index == 0 else found[index - 1][0]
        try:
            recovered = recover(fs, directories, store_id, vector_dim, older)
        except FatalError:
            continue
        if recovered.last is None:
            continue  # it would be that snapshot alone, without what the log holds since
        cuts = [_readable_cut(fs, path) for _, path in found[index:]]
        if any(cut is not None and cut.lsn > recovered.end_lsn for cut in cuts):
            continue  # the log does not reach as far as a snapshot that would be given up
        is_proven = None not in cuts
        whence = f"snapshot {older}" if older else "the first record"
        return Repair(
            str(refusal),
            f"{whence} and every generation since, without a gap, up to LSN {recovered.end_lsn}: {_size(recovered)}",
            "nothing" if is_proven else f"nothing, if {recovered.last[0].name} is the newest generation that there was",
            tuple(path for _, path in found[index:]),
            None,
        )
    usable = next((number for number, path in reversed(found) if not _look_at_snapshot(fs, path).error), 0)
    unusable = tuple(path for number, path in found if number > usable)
    cut = _cut_of(fs, directories, usable)
    behind = [path for generation, path in logs if generation >= (cut.generation if cut else 0)]
    for index, path in enumerate(behind):
        seen = _look_at_log(fs, path)
        if not seen.error or seen.end_lsn <= (cut.lsn if cut else 0):
            continue
        kept_bytes = wal.FILE_HEADER_BYTES + seen.end_lsn - seen.base_lsn
        lost_bytes = sum(_bytes(fs, each) for each in behind[index:]) - kept_bytes
        whence = f"snapshot {usable}, and the log" if usable else "the log"
        return Repair(
            str(refusal),
            f"{whence} up to LSN {seen.end_lsn}, where {path.name} is damaged",
            f"what was logged behind LSN {seen.end_lsn}: {lost_bytes} bytes of log",
            (*unusable, *behind[index + 1 :]),
            (path, kept_bytes),
        )
    if not usable:
        raise MissingStoreError(
            f"{directories.data}: nothing can be repaired: no snapshot can be read, and the log does not begin at the "
            f"first record ({refusal}); next: restore a backup of all three directories"
        ) from refusal
    assert cut is not None
    return Repair(
        str(refusal),
        f"snapshot {usable} alone, up to LSN {cut.lsn}",
        f"what was logged behind LSN {cut.lsn}: up to {sum(_bytes(fs, each) for each in behind)} bytes of log",
        (*unusable, *behind),
        None,
    )


def repair(config: Config, fs: FileSystem | None = None) -> tuple[str, str]:
    """Do what `propose` says. Returns the name of the folders with what was set aside, and the digest of what remains.

    Raises:
        ConfigError: nothing is wrong.
        FatalError: as `propose`; or what remains can not be read either, and everything lies in the folder.
    """
    fs = fs or OsFileSystem()
    directories = directories_of(config)
    store_id = _store_id(fs, directories)
    locks = Locks(fs)
    locks.take(directories)
    try:
        proposal = _propose(fs, directories, store_id, config.server.vector_dim)
        if proposal is None:
            raise ConfigError(f"{directories.data}: nothing is wrong with this store")
        aside = f"set-aside-{SystemClock().now_ms()}"  # beside each file: a rename does not cross file systems
        taken_out = [*reversed(proposal.set_aside), *([proposal.cut[0]] if proposal.cut else [])]
        for parent in {path.parent for path in taken_out}:
            fs.make_dir(parent / aside)
            fs.sync_dir(parent)
        for path in reversed(proposal.set_aside):
            fs.replace(path, path.parent / aside / path.name)
            fs.sync_dir(path.parent)
        if proposal.cut is not None:
            path, kept_bytes = proposal.cut
            fd = fs.open_read(path)
            try:
                whole = fs.pread(fd, fs.size(fd), 0)
            finally:
                fs.close(fd)
            publish(fs, path.parent / aside / path.name, whole)
            publish(fs, path, whole[:kept_bytes])
        for parent in {path.parent for path in taken_out}:
            fs.sync_dir(parent / aside)
        recovered = recover(fs, directories, store_id, config.server.vector_dim)
        return aside, state_digest(recovered.state.sessions.values())[0]
    finally:
        locks.release()


def _store_id(fs: FileSystem, directories: Directories) -> bytes:
    store_id = identity.established_id(fs, directories)
    if store_id is None:
        raise MissingStoreError(f"{directories.data}: expected a store, found none; next: correct the path")
    return store_id


def _cut_of(fs: FileSystem, directories: Directories, number: int) -> snapshot.Cut | None:
    if not number:
        return None
    return snapshot.read_manifest(fs, snapshot.snapshot_path(directories.snapshots, number))[0].cut


def _readable_cut(fs: FileSystem, path: Path) -> snapshot.Cut | None:
    try:
        return snapshot.read_manifest(fs, path)[0].cut
    except FatalError:
        return None


def _size(recovered: Recovered) -> str:
    sessions = recovered.state.sessions.values()
    return f"{len(sessions)} sessions, {sum(session.object_count() for session in sessions)} objects"


def _bytes(fs: FileSystem, path: Path) -> int:
    fd = fs.open_read(path)
    try:
        return fs.size(fd)
    finally:
        fs.close(fd)
