"""What can be done about a store that does not start: looked for without changing anything, and done on request.

Each snapshot that can be read, and the very beginning, is followed as far as the log behind it is whole and joins. What
reaches furthest is proposed; an older snapshot that reaches as far as the log ever went loses nothing. That the store
would start, and with what, is seen before anything is changed: by the same recovery, on the disk as it would be.

Nothing is thrown away: what is taken out of the store is moved into a folder beside it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gibramdb.clock import SystemClock
from gibramdb.config import Config
from gibramdb.core.digest import state_digest
from gibramdb.database.opening import directories_of, id_of_store
from gibramdb.database.recovery import Plan, Recovered, readings, recover, replay_plan
from gibramdb.errors import ConfigError, CorruptLogError, CorruptSnapshotError, FatalError, MissingStoreError
from gibramdb.model.ids import NO_LSN, Generation, Lsn
from gibramdb.storage import snapshot, wal
from gibramdb.storage.files import TEMPORARY_SUFFIX, OsFileSystem, named, refusals_of, removed_if_failed
from gibramdb.storage.identity import Directories, Locks
from gibramdb.storage.snapshot import Manifest
from gibramdb.storage.wal import BasedOnSnapshot, LogHeader, Successor

_COPY_BYTES = 1024 * 1024


class SnapshotFound(msgspec.Struct, frozen=True):
    """A snapshot on disk. `error` says why it can not be used, in words; then the figures are 0."""

    path: Path
    created_at_ms: int
    cut_lsn: int
    sessions: int
    objects: int
    error: str


class LogFound(msgspec.Struct, frozen=True):
    """A generation on disk, as far as it can be read. `error` says what is wrong behind that, in words.

    `first_ms`, `last_ms`: when the first and the last record were written. `torn_bytes`: of something at its end that
    was never acknowledged, which is no damage.
    """

    path: Path
    base_lsn: int
    end_lsn: int
    records: int
    first_ms: int
    last_ms: int
    torn_bytes: int
    error: str


class Repair(msgspec.Struct, frozen=True):
    """What is proposed. `cut`: of one generation only so many bytes of the file are kept.

    `shared`: packs that a snapshot set aside needs too, and that stay because one that stays needs them.
    """

    why: str
    keeps: str
    loses: str
    set_aside: tuple[Path, ...]
    cut: tuple[Path, int] | None
    shared: tuple[Path, ...]


class _Reach(msgspec.Struct, frozen=True):
    """How far one snapshot leads, or the beginning, which has the number 0.

    `kept`: the generations that are replayed behind it. `cut`: the last of them is damaged behind so many bytes.
    `has_reserve`: the last of them has, so nothing was cut from its end, and no other generation was begun behind it. A
    copy may have lost it.
    """

    end_lsn: int
    number: int
    kept: tuple[Path, ...] = ()
    cut: tuple[Path, int] | None = None
    has_reserve: bool = False


class _Found(msgspec.Struct, frozen=True):
    """What lies in the directories. A manifest or header that can not be read is None."""

    directories: Directories
    manifests: dict[int, tuple[Path, Manifest | None, int]]
    logs: dict[Generation, tuple[Path, LogHeader | None]]


def inspect(config: Config) -> tuple[list[SnapshotFound], list[LogFound]]:
    """Every snapshot and every generation, each read and checked, and whether the generations join. Changes nothing.

    Raises:
        FatalError: the directories are not those of a store, or another process owns it: what is being written has no
            end that could be told from damage.
    """
    fs = OsFileSystem()
    directories = directories_of(config)
    with refusals_of(directories.data):
        id_of_store(fs, directories)
        locks = Locks(fs)
        locks.take_to_read(directories)
        try:
            return _inspect(fs, directories)
        finally:
            locks.release()


def _inspect(fs: OsFileSystem, directories: Directories) -> tuple[list[SnapshotFound], list[LogFound]]:
    found = _find(fs, directories)
    snapshots = [_look_at_snapshot(fs, path) for path, _, _ in found.manifests.values()]
    logs: list[LogFound] = []
    headers = [*(header for _, header in found.logs.values()), None]
    before: Generation | None = None
    for (generation, (path, header)), following in zip(found.logs.items(), headers[1:], strict=True):
        is_last = following is None or _predecessor(following) != generation
        seen = _look_at_log(fs, path, NO_LSN if following is None or is_last else following.base_lsn, is_last=is_last)
        predecessor = None if header is None else _predecessor(header)
        if predecessor is not None and before not in (None, predecessor) and not seen.error:
            seen = msgspec.structs.replace(
                seen, error=f"{path}: it goes on from generation {predecessor}, which is not there"
            )
        logs.append(seen)
        before = generation
    return snapshots, logs


def _look_at_snapshot(fs: OsFileSystem, path: Path) -> SnapshotFound:
    try:
        manifest, _ = snapshot.read_manifest(fs, path)
        for section in manifest.sections:
            snapshot.verify_section(fs, snapshot.pack_path(path.parent, section.pack), section)
    except FatalError as error:
        return SnapshotFound(path, 0, 0, 0, 0, str(error))
    objects = sum(section.objects for section in manifest.sections)
    return SnapshotFound(path, manifest.created_at_ms, manifest.cut.lsn, len(manifest.sections), objects, "")


def _look_at_log(
    fs: OsFileSystem, path: Path, proven_lsn: Lsn = NO_LSN, *, is_last: bool = True, behind_lsn: int = -1
) -> LogFound:
    """`records` and their times: only of those behind `behind_lsn`."""
    base_lsn = end_lsn = records = first_ms = last_ms = torn_bytes = 0
    error = ""
    try:
        reading = wal.read_log(fs, path, proven_lsn, is_last=is_last)
        base_lsn = end_lsn = int(reading.header.base_lsn)
        for lsn, wall_ms, _ in reading:
            end_lsn = lsn
            if lsn > behind_lsn:
                records += 1
                first_ms, last_ms = first_ms or wall_ms, wall_ms
        end_lsn, torn_bytes = int(reading.tail.end_lsn), reading.tail.torn_bytes
    except FatalError as fault:
        error = str(fault)
    return LogFound(path, base_lsn, end_lsn, records, first_ms, last_ms, torn_bytes, error)


def propose(config: Config) -> Repair | None:
    """What could be done; None where nothing is wrong. Changes nothing.

    Raises:
        FatalError: nothing can be done, or another process owns the store.
    """
    fs = OsFileSystem()
    directories = directories_of(config)
    with refusals_of(directories.data):
        store_id = id_of_store(fs, directories)
        locks = Locks(fs)
        locks.take_to_read(directories)
        try:
            return _propose(fs, directories, store_id, config.server.vector_dim)
        finally:
            locks.release()


def _propose(fs: OsFileSystem, directories: Directories, store_id: bytes, vector_dim: int) -> Repair | None:
    try:
        recover(fs, directories, store_id, vector_dim)
    except (CorruptLogError, CorruptSnapshotError, MissingStoreError) as error:
        refusal: FatalError = error  # anything else is no damage: a wrong setting, a newer version, the disk
    else:
        return None
    found = _find(fs, directories)
    for reach in sorted(_reaches(fs, found), key=lambda each: (each.end_lsn, each.number, each.kept), reverse=True):
        proposal = _proposal(fs, found, reach, str(refusal))
        try:
            recovered = recover(_AsRepaired(proposal), directories, store_id, vector_dim)
        except FatalError:
            continue  # whole by its checksums, and yet it does not fit together
        return msgspec.structs.replace(proposal, keeps=f"{proposal.keeps}: {_size(recovered)}")
    damage, _, next_ = str(refusal).partition("; next: ")
    if not next_ or not isinstance(refusal, MissingStoreError):  # what is damaged sends to this command
        next_ = "start with a new directory, put a copy made by SAVE into it, and BGRESTORE"
    raise MissingStoreError(
        f"{directories.data}: nothing can be repaired: no snapshot can be read, and the log does not begin at the "
        f"first record ({damage}); next: {next_}"
    ) from refusal


def _find(fs: OsFileSystem, directories: Directories) -> _Found:
    manifests: dict[int, tuple[Path, Manifest | None, int]] = {}
    for number, path in snapshot.list_snapshots(fs, directories.snapshots):
        try:
            manifests[number] = path, *snapshot.read_manifest(fs, path)
        except FatalError:
            manifests[number] = path, None, 0
    logs: dict[Generation, tuple[Path, LogHeader | None]] = {}
    for generation, path in wal.list_logs(fs, directories.wal):
        try:
            logs[generation] = path, wal.read_header(fs, path)
        except FatalError:
            logs[generation] = path, None
    return _Found(directories, manifests, logs)


def _predecessor(header: LogHeader) -> Generation | None:
    return header.origin.generation if isinstance(header.origin, Successor) else None


# --- how far each snapshot leads --------------------------------------------------------------------------------------


def _reaches(fs: OsFileSystem, found: _Found) -> Iterator[_Reach]:
    starts: list[tuple[int, Manifest | None, int]] = [(0, None, 0)]
    for number, (path, manifest, checksum) in found.manifests.items():
        if manifest is not None and not _look_at_snapshot(fs, path).error:
            starts.append((number, manifest, checksum))
            yield _Reach(manifest.cut.lsn, number)
    logs = [(generation, path) for generation, (path, header) in found.logs.items() if header is not None]
    headers = [header for _, header in found.logs.values() if header is not None]
    for number, manifest, checksum in starts:
        for count in range(len(logs), 0, -1):
            try:
                plan = replay_plan(found.directories.wal, logs[:count], headers[:count], manifest, checksum)
            except FatalError:
                continue
            yield _follow(fs, plan, logs, headers, number, manifest)
            break


def _follow(
    fs: OsFileSystem,
    plan: Plan,
    logs: list[tuple[Generation, Path]],
    headers: list[LogHeader],
    number: int,
    manifest: Manifest | None,
) -> _Reach:
    end_lsn = 0 if manifest is None else manifest.cut.lsn
    kept: list[Path] = []
    cut: tuple[Path, int] | None = None
    has_reserve = False
    with contextlib.suppress(CorruptLogError):  # the next one does not join; those before it are whole
        for index, _, reading in readings(fs, plan, logs, headers, manifest):
            path = logs[index][1]
            kept.append(path)
            try:
                for lsn, _, _ in reading:
                    end_lsn = lsn
                end_lsn = reading.tail.end_lsn
                has_reserve = not reading.tail.torn_bytes and _has_reserve(fs, path)
            except CorruptLogError:
                cut = path, wal.FILE_HEADER_BYTES + end_lsn - headers[index].base_lsn
                has_reserve = _has_reserve(fs, path)
                break
    return _Reach(end_lsn, number, tuple(kept), cut, has_reserve)


def _has_reserve(fs: OsFileSystem, path: Path) -> bool:
    fd = fs.open_read(path)
    try:
        return fs.size(fd) - wal.written_end(fs, fd, 0) >= wal.ALIGNMENT_BYTES
    finally:
        fs.close(fd)


def _proposal(fs: OsFileSystem, found: _Found, reach: _Reach, why: str) -> Repair:
    kept = [generation for generation, (path, _) in found.logs.items() if path in reach.kept]
    # What lies before the first that is kept serves older snapshots. Without any, the log begins anew on the snapshot.
    logs = [
        path
        for generation, (path, header) in reversed(found.logs.items())
        if header is None or not kept or (generation > kept[0] and generation not in kept)
    ]
    gone = {n for n, (_, manifest, _) in found.manifests.items() if n > reach.number or manifest is None}
    named = {n: _packs(manifest) for n, (_, manifest, _) in found.manifests.items()}
    needed = set().union(*(packs for n, packs in named.items() if n not in gone))
    packs = snapshot.list_packs(fs, found.directories.snapshots)
    set_aside = [
        *logs,
        *(path for n, (path, _, _) in reversed(found.manifests.items()) if n in gone),
        *(path for pack, path in packs if pack not in needed),
    ]
    wanted = set().union(*(packs for n, packs in named.items() if n in gone))
    whence = f"snapshot {reach.number}" if reach.number else "the first record"
    if not reach.kept:
        keeps = f"{whence} alone, up to LSN {reach.end_lsn}"
    elif reach.cut is not None:
        keeps = f"{whence}, and the log up to LSN {reach.end_lsn}, where {reach.cut[0].name} is damaged"
    else:
        keeps = f"{whence} and every generation since, without a gap, up to LSN {reach.end_lsn}"
    return Repair(
        why,
        keeps,
        _loss(fs, found, reach, logs, gone),
        tuple(set_aside),
        reach.cut,
        tuple(path for pack, path in packs if pack in needed & wanted),
    )


def _packs(manifest: Manifest | None) -> set[int]:
    return set() if manifest is None else {section.pack for section in manifest.sections}


def _loss(fs: OsFileSystem, found: _Found, reach: _Reach, taken: list[Path], gone: set[int]) -> str:
    """What was logged and will not be there, as far as it can be known; "nothing" where no file tells otherwise."""
    start = found.manifests[reach.number][1] if reach.number else None
    kept = [generation for generation, (path, _) in found.logs.items() if path in reach.kept]
    first = kept[0] if kept else Generation(start.cut.generation if start else 0)
    lost = [
        *_lost_logs(fs, found, reach, first, kept, taken),
        *_lost_snapshots(found, reach, max(kept, default=first), gone),
    ]
    newest = max(found.logs, default=None)
    is_open = newest is None or (
        reach.has_reserve if kept and newest == kept[-1] else _has_reserve(fs, found.logs[newest][0])
    )
    if lost:
        if newest is not None and not is_open:
            lost.append(f"and what came behind the end of {found.logs[newest][0].name}, if anything did")
        return f"what was logged behind LSN {reach.end_lsn}: " + "; ".join(lost)
    if not kept:
        return f"what was logged behind LSN {reach.end_lsn}, if anything was: no log is there that tells"
    assert newest is not None
    path = found.logs[newest][0]
    doubts = []
    if path in taken and _may_be_unfinished(fs, found, newest):
        doubts.append(f"if the restore that began generation {newest} was cut short: its snapshot is not there")
    if not is_open:
        doubts.append(f"if nothing came behind the end of {path.name}")
    origins = [header.origin for _, header in found.logs.values() if header is not None]
    restored = {origin.number for origin in origins if isinstance(origin, BasedOnSnapshot)}
    for number, (manifest_path, manifest, _) in found.manifests.items():
        if manifest is None and number > reach.number and number not in restored:
            # A restore was cut short where the generation before its own does not say yet that it has ended.
            doubts.append(f"if {manifest_path.name}, which can not be read, is not of a restore whose log is gone")
    return ", ".join(["nothing", ", and ".join(doubts)] if doubts else ["nothing"])


def _lost_logs(
    fs: OsFileSystem,
    found: _Found,
    reach: _Reach,
    first: Generation,
    kept: list[Generation],
    taken: list[Path],
) -> Iterator[str]:
    """From the generation `first` on; the snapshot holds all that earlier ones do."""
    reached = dict.fromkeys(kept[-1:], reach.end_lsn)
    for generation, (path, header) in found.logs.items():
        if generation < first:
            continue
        if header is None:
            yield f"{path.name}, of which not even the header can be read: {_content_bytes(fs, path):,} bytes"
            continue
        before = _predecessor(header)
        if before is not None and header.base_lsn > reach.end_lsn:
            if before not in found.logs:
                yield f"generation {before}, which is missing and ended at LSN {header.base_lsn}"
            elif header.base_lsn > reached.get(before, header.base_lsn):
                yield f"the end of {found.logs[before][0].name}, which reached to LSN {header.base_lsn}"
        if path in taken:
            number = header.origin.number if isinstance(header.origin, BasedOnSnapshot) else 0
            if number > reach.number and not _may_be_unfinished(fs, found, generation):
                began = f"the restore, or the start without a log, that began generation {generation}"
                yield f"{began}: all that snapshot {number} held"
            seen = _look_at_log(fs, path, behind_lsn=reach.end_lsn)
            reached[generation] = seen.end_lsn
            if seen.records:
                times = f"logged from {_time(seen.first_ms)} to {_time(seen.last_ms)}"
                yield f"{path.name}: {seen.records:,} records up to LSN {seen.end_lsn}, {times}"
            whole_bytes = wal.FILE_HEADER_BYTES + seen.end_lsn - seen.base_lsn + seen.torn_bytes
        elif reach.cut is not None and path == reach.cut[0]:
            whole_bytes = reach.cut[1]
        else:
            continue
        unread_bytes = _content_bytes(fs, path) - whole_bytes
        if unread_bytes > 0:
            yield f"{path.name}: {unread_bytes:,} bytes that can not be read, or not be believed"


def _lost_snapshots(found: _Found, reach: _Reach, last: Generation, gone: set[int]) -> Iterator[str]:
    for number in sorted(gone):
        path, manifest, _ = found.manifests[number]
        if manifest is None:
            continue
        cut, made = manifest.cut, _time(manifest.created_at_ms)
        if cut.lsn > reach.end_lsn:
            yield f"{path.name}: what it held up to LSN {cut.lsn}, as of {made}"
        elif cut.offset == 0 and cut.generation > last and _header(found, cut.generation) is None:
            # Cut where that generation begins, it is a restore's, or another in which nothing was logged yet.
            tells = f"which generation {cut.generation} could tell"
            yield f"{path.name}: all that it held as of {made}, if a restore made it, {tells}"


def _may_be_unfinished(fs: OsFileSystem, found: _Found, generation: Generation) -> bool:
    """Whether it looks as a restore that was cut short leaves it: the newest, empty, and its snapshot is not there."""
    path, header = found.logs[generation]
    if header is None or not isinstance(header.origin, BasedOnSnapshot) or header.origin.number in found.manifests:
        return False
    seen = _look_at_log(fs, path)
    is_empty = seen.end_lsn == seen.base_lsn and not seen.torn_bytes and not seen.error
    return generation == max(found.logs) and is_empty


def _header(found: _Found, generation: int) -> LogHeader | None:
    return found.logs[Generation(generation)][1] if generation in found.logs else None


def _time(unix_ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(unix_ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


class _AsRepaired(OsFileSystem):
    """The disk as it would be after a repair, to read from."""

    def __init__(self, proposal: Repair) -> None:
        self._gone = frozenset(proposal.set_aside)
        self._cut = proposal.cut
        self._cut_fds: set[int] = set()

    def list_dir(self, path: Path) -> list[str]:
        """Without what is set aside."""
        return [name for name in super().list_dir(path) if path / name not in self._gone]

    def open_read(self, path: Path) -> int:
        """What is set aside is not there."""
        if path in self._gone:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        fd = super().open_read(path)
        if self._cut is not None and path == self._cut[0]:
            self._cut_fds.add(fd)
        return fd

    def close(self, fd: int) -> None:
        """See FileSystem."""
        self._cut_fds.discard(fd)
        super().close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """What is cut ends where it will end."""
        if self._cut is not None and fd in self._cut_fds:
            length = max(0, min(length, self._cut[1] - offset))
        return super().pread(fd, length, offset)


# --- doing it ---------------------------------------------------------------------------------------------------------


def repair(config: Config, fs: OsFileSystem | None = None) -> tuple[str, str]:
    """Do what `propose` says. Returns the name of the folders with what was set aside, and the digest of what remains.

    Ended in its middle, it leaves a store that starts with what was proposed, or that does not start and is proposed
    the same for. Where the system refuses before anything was taken out, it leaves no more than there was.

    Raises:
        ConfigError: nothing is wrong.
        FatalError: as `propose`; or what remains can not be read either, and everything lies in the folder.
        DiskFullError: there is no space for what is set aside.
    """
    fs = fs or OsFileSystem()
    directories = directories_of(config)
    with refusals_of(directories.data):
        store_id = id_of_store(fs, directories)
        locks = Locks(fs)
        locks.take(directories)
        try:
            proposal = _propose(fs, directories, store_id, config.server.vector_dim)
            if proposal is None:
                raise ConfigError(f"{directories.data}: nothing is wrong with this store")
            aside = _do(fs, proposal)
            recovered = recover(fs, directories, store_id, config.server.vector_dim)
            return aside, state_digest(recovered.state.sessions.values())[0]
        finally:
            locks.release()


def _do(fs: OsFileSystem, proposal: Repair) -> str:
    aside = f"set-aside-{SystemClock().now_ms()}"  # beside each file: a rename does not cross file systems
    taken_out = [*([proposal.cut[0]] if proposal.cut else []), *proposal.set_aside]
    folders = sorted({path.parent / aside for path in taken_out})
    try:
        for folder in folders:
            fs.make_dir(folder)
            fs.sync_dir(folder.parent)
        if proposal.cut is not None:
            _cut(fs, *proposal.cut, aside)
        for path in proposal.set_aside:
            fs.replace(path, path.parent / aside / path.name)
            fs.sync_dir(path.parent / aside)
            fs.sync_dir(path.parent)
    except OSError:
        for folder in folders:
            with contextlib.suppress(OSError):  # not empty: something was taken out already
                fs.remove_dir(folder)
        raise
    return aside


def _cut(fs: OsFileSystem, path: Path, kept_bytes: int, aside: str) -> None:
    """The whole file is durable in the folder before less than it has its name."""
    whole = path.parent / aside / path.name
    _copy(fs, path, whole)
    with removed_if_failed(fs, whole):
        fs.sync_dir(whole.parent)
        _copy(fs, path, path, kept_bytes)
    fs.sync_dir(path.parent)


def _copy(fs: OsFileSystem, source: Path, target: Path, length: int | None = None) -> None:
    """A file, or its first bytes, under a name, in one step; the folder has to be synced then."""
    temporary = target.with_name(target.name + TEMPORARY_SUFFIX)
    if fs.exists(temporary):
        fs.unlink(temporary)
    source_fd = fs.open_read(source)
    try:
        with named(temporary), removed_if_failed(fs, temporary):
            fd = fs.open_write(temporary, create=True)
            try:
                length = fs.size(source_fd) if length is None else length
                for offset in range(0, length, _COPY_BYTES):
                    fs.pwrite(fd, fs.pread(source_fd, min(_COPY_BYTES, length - offset), offset), offset)
                fs.fsync(fd)
            finally:
                fs.close(fd)
            fs.replace(temporary, target)
    finally:
        fs.close(source_fd)


def _size(recovered: Recovered) -> str:
    sessions = recovered.state.sessions.values()
    return f"{len(sessions)} sessions, {sum(session.object_count() for session in sessions)} objects"


def _content_bytes(fs: OsFileSystem, path: Path) -> int:
    """How long a log is, without the zeros of its reserve."""
    fd = fs.open_read(path)
    try:
        return wal.written_end(fs, fd, 0)
    finally:
        fs.close(fd)
