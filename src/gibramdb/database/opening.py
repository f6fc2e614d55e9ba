"""Opening a store: directories, locks, recovery, the journal, and only then a database that serves.

look (reads only) -> lock -> recover -> log thread -> Database
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import weakref
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

import msgspec

from gibramdb.clock import Clock, SystemClock
from gibramdb.config import Config
from gibramdb.core.digest import state_digest
from gibramdb.core.limits import Limits
from gibramdb.core.state import StoreState
from gibramdb.database.database import Database, Facts
from gibramdb.database.detector import Post
from gibramdb.database.journal import Journal, NullJournal, WalJournal
from gibramdb.database.recovery import Recovered, collector_paused, recover
from gibramdb.database.snapshots import Snapshots, Triggers
from gibramdb.errors import ConfigError, CorruptLogError, FatalError, IncompatibleStoreError, MissingStoreError
from gibramdb.model.ids import NO_LSN, Generation
from gibramdb.storage import gibram, identity, snapshot, wal
from gibramdb.storage.files import FileSystem, OsFileSystem, publish, refusals_of, refused
from gibramdb.storage.identity import Directories, Locks
from gibramdb.storage.wal import BasedOnSnapshot, FirstLog, LogHeader, LogTail, LogWriter
from gibramdb.version import __version__

log = logging.getLogger(__name__)

REPORT_NAME = "recovery-report.json"
SCRATCH_FILE_SYSTEMS = {"tmpfs", "ramfs", "overlay"}
_ESCAPED = re.compile(r"\\([0-7]{3})")  # how the kernel writes a blank in a mount point


_IMPORT = (
    "`gibramdb import-gibram OLD_DATA_DIR --into NEW_DATA_DIR` makes a store of them; its --wal-dir and --snapshot-dir "
    "name what does not lie in OLD_DATA_DIR"
)
_SETTING_OF = {identity.WAL: "session_store.wal_dir", identity.SNAPSHOTS: "session_store.snapshot_dir"}


class OpenStore:
    """An open database together with what it holds on to. Close it once; then its directories are free again."""

    def __init__(self, database: Database, locks: Locks | None) -> None:
        self.database = database
        self._locks = locks
        _OPEN.add(self)

    def close(self) -> None:
        """Make durable what was accepted, then let go of the directories. On the owner's thread."""
        self.database.close()
        _OPEN.discard(self)
        if self._locks is not None:
            self._locks.release()

    def abandon(self) -> None:
        """In a forked child: close the inherited descriptors, for they belong to the parent."""
        self.database.abandon()


_OPEN: weakref.WeakSet[OpenStore] = weakref.WeakSet()
_LOCKS: weakref.WeakSet[Locks] = weakref.WeakSet()  # of stores that are open, and of those that recover just now


def _abandon_all() -> None:
    for locks in list(_LOCKS):
        locks.release()  # otherwise a dead parent's locks would live on in its child
    _LOCKS.clear()
    for store in list(_OPEN):
        store.abandon()
    _OPEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


def open_store(
    config: Config,
    clock: Clock,
    post: Post,
    fs: FileSystem | None = None,
    on_owned: Callable[[FileSystem], None] = lambda _fs: None,
) -> OpenStore:
    """Open the store that the configuration describes. `post` brings a call to the thread that will own it.

    `on_owned` is called in a durable start once the directories are this process's own, before anything is recovered.

    Raises:
        FatalError: one of its kinds, with file, expected, found and the next step. Nothing on disk has been changed,
            but for directories and files that a first start made.
        DiskFullError: the same, where the disk is full.
    """
    limits = Limits(
        content_bytes_max=config.security.content_bytes_max,
        sessions_max=config.security.sessions_max,
        session_documents_max=config.security.session_documents_max,
        session_entities_max=config.security.session_entities_max,
        session_relationships_max=config.security.session_relationships_max,
        session_memory_bytes_max=config.security.session_memory_bytes_max,
        total_memory_bytes_max=config.security.total_memory_bytes_max,
    )
    if config.session_store.mode == "ephemeral":
        database = Database(
            StoreState(config.server.vector_dim), NullJournal(), limits, clock, facts_of(config, None, 0), post
        )
        fs = fs or OsFileSystem()
        database.snapshots = Snapshots(
            database,
            database.journal,
            fs,
            directories_of(config),
            None,
            Triggers(),
            clock,
            post,
            None,
            Locks(fs),
            0,
            is_covered=False,
            is_incomplete=False,
        )
        return OpenStore(database, None)
    return _open_durable(config, limits, clock, post, fs or OsFileSystem(), on_owned)


def facts_of(config: Config, recovered: Recovered | None = None, duration_ms: int = 0) -> Facts:
    """What INFO and HEALTH tell of the configuration and of the start."""
    return Facts(
        __version__,
        config.session_store.mode,
        config.session_store.wal_sync_policy,
        config.session_store.wal_sync_interval_ms,
        duration_ms,
        0 if recovered is None else recovered.records,
        0 if recovered is None else recovered.torn_bytes,
        config.warnings,
    )


def directories_of(config: Config) -> Directories:
    """Where the configured store lies."""
    store = config.session_store
    return Directories(Path(config.server.data_dir), Path(store.wal_dir), Path(store.snapshot_dir))


def _open_durable(
    config: Config, limits: Limits, clock: Clock, post: Post, fs: FileSystem, on_owned: Callable[[FileSystem], None]
) -> OpenStore:
    began_ms = clock.steady_ms()
    directories = directories_of(config)
    require_distinct(directories)
    config = msgspec.structs.replace(config, warnings=(*config.warnings, *_scratch_warnings(directories)))
    locks = Locks(fs)
    _LOCKS.add(locks)
    with contextlib.ExitStack() as undo:
        undo.callback(locks.release)
        try:
            store_id = identity.established_id(fs, directories)
            if store_id is None:
                store_id = _first_start(config, fs, directories, locks, clock)
            else:
                locks.take(directories)
            _require_writable(fs, directories)
            on_owned(fs)
            with collector_paused():
                recovered = recover(fs, directories, store_id, config.server.vector_dim)
            duration_ms = clock.steady_ms() - began_ms
            writer = _writer(fs, directories, recovered, store_id, clock)
        except OSError as error:
            raise refused(str(error.filename or directories.data), error) from error
        _tell(fs, directories, recovered, store_id, duration_ms)
        if recovered.missing:
            config = msgspec.structs.replace(config, warnings=(*config.warnings, recovered.missing))
        database: Database | None = None

        def on_progress() -> None:
            if database is not None:
                post(database.progress)

        def on_rest() -> None:
            if database is not None:
                post(database.rest)

        journal: Journal = WalJournal(
            writer,
            0 if recovered.last is None else recovered.last[2].torn_offset,
            config.session_store.wal_sync_policy,
            config.session_store.wal_sync_interval_ms,
            clock,
            on_progress,
            on_rest,
            require_place=partial(locks.require_same, directories.wal),
        )
        undo.callback(journal.close)
        database = Database(recovered.state, journal, limits, clock, facts_of(config, recovered, duration_ms), post)
        store = config.session_store
        database.snapshots = Snapshots(
            database,
            journal,
            fs,
            directories,
            store_id,
            Triggers(store.snapshot_interval_ms, store.snapshot_wal_size_bytes, store.snapshot_retention_count),
            clock,
            post,
            recovered.snapshot,
            locks,
            recovered.interval_began_at_ms,
            is_covered=recovered.records == 0 and (recovered.snapshot is not None or not recovered.end_lsn),
            is_incomplete=bool(recovered.missing),
        )
        undo.pop_all()
        return OpenStore(database, locks)


def require_distinct(directories: Directories) -> None:
    """The settings have seen to it that the paths differ; by a link or a mount they may still lead to one folder."""
    for (role, directory), (other, same) in combinations(directories.by_role(), 2):
        with contextlib.suppress(OSError):  # what is missing is said by who needs it
            if directory.samefile(same):
                raise ConfigError(
                    f"{directory}: the {role} directory is the same folder as the {other} directory {same}; "
                    "allowed: three distinct directories"
                )


def _require_writable(fs: FileSystem, directories: Directories) -> None:
    """Without that no snapshot could be published and the log would only grow: better known now than then."""
    for role, directory in directories.by_role()[1:]:
        try:
            fs.require_writable(directory)
        except OSError as error:
            raise refused(f"{directory}: the {role} directory can not be written", error) from error


def unserved(config: Config) -> list[str]:
    """A warning where a store in memory is begun beside one on the disk, of which nothing will be served."""
    if config.session_store.mode == "durable":
        return []
    for _, directory in directories_of(config).by_role():
        what = ""
        with contextlib.suppress(OSError, FatalError):  # what can not be looked at is not served in any case
            if any((directory / name).exists() for name in (identity.MARKER_NAME, identity.IMPORT_NAME)):
                what = "a durable store: to serve it, set session_store.mode to durable (--mode durable)"
            elif gibram.looks_like_gibram(directory):
                what = f"files of GibRAM 0.3.0: {_IMPORT}. Serve that store with session_store.mode durable"
        if what:
            nothing = f"nothing of what lies in {directory} is served, and nothing will be kept"
            return [f"session_store.mode is ephemeral, so {nothing}. It holds {what}."]
    return []


def _scratch_warnings(directories: Directories) -> list[str]:
    """A directory on storage that does not outlive its machine or container, as the kernel tells it."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return []  # not Linux: nobody to ask
    kinds: dict[Path, str] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split()[4]  # id, parent, device, root, mount point; behind the dash: type
        kinds[Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), mount))] = after.split()[0]
    warnings = []
    for role, directory in directories.by_role():
        place = directory.resolve()
        kind = next((kinds[each] for each in (place, *place.parents) if each in kinds), "")
        if kind in SCRATCH_FILE_SYSTEMS:
            warnings.append(
                f"The {role} directory {directory} lies on {kind}, which does not outlive this machine or container: "
                "put it on persistent storage."
            )
    return warnings


def _writer(fs: FileSystem, directories: Directories, recovered: Recovered, store_id: bytes, clock: Clock) -> LogWriter:
    """The end of the log; where there is no log, a new generation on the snapshot, for every start to tell of it."""
    if recovered.before is not None and not recovered.before[2].is_ended:
        _end(fs, *recovered.before)
    if recovered.last is not None:
        path, header, tail = recovered.last
        writer = LogWriter.reopen(fs, path, header, tail.end_lsn, tail.last_checksum, recovered.unfinished)
        writer.write_again(recovered.proven_lsn)
        return writer
    assert recovered.snapshot is not None
    based_on = BasedOnSnapshot(recovered.snapshot.number, recovered.snapshot_checksum)
    header = LogHeader(store_id, recovered.next_generation, recovered.end_lsn, os.urandom(16), clock.now_ms(), based_on)
    return LogWriter.create(fs, directories.wal, header, is_ended=True)


def _end(fs: FileSystem, path: Path, header: LogHeader, tail: LogTail) -> None:
    """What a crash behind the beginning of the next generation has left to do."""
    try:
        writer = LogWriter.reopen(fs, path, header, tail.end_lsn, tail.last_checksum)
    except OSError as error:  # it may be read and not written: that takes nothing from what is served
        log.warning("%s could not be marked as ended: %s", path, error.strerror)
        return
    try:
        writer.end()
    finally:
        writer.close()


def _first_start(config: Config, fs: FileSystem, directories: Directories, locks: Locks, clock: Clock) -> bytes:
    """Make the store's directories, its first log and its markers, the data directory's marker last.

    May find what an earlier first start left when it was cut short; nothing can have been stored then.
    """
    try:
        require_unused(fs, directories)
    except FatalError:
        if not fs.exists(directories.data / identity.LOCK_NAME):
            raise
        # What was seen may be another process's first start, half done: whoever holds the lock sees it whole.
        locks.take_data(directories)
        try:
            if identity.established_id(fs, directories) is None:
                require_unused(fs, directories)
        finally:
            locks.release()
    # The last look, since the others tell more of what is wrong.
    if config.session_store.require_existing and identity.established_id(fs, directories) is None:
        raise MissingStoreError(
            f"{directories.data}: there is no store here, and one that exists is required; next: correct the path, or "
            "mount the volume; to begin one, start without session_store.require_existing, or use `gibramdb index`"
        )
    locks.take_existing(directories)
    identity.make_directories(fs, directories)
    locks.take(directories)
    established = identity.established_id(fs, directories)
    if established is not None:
        return established  # by another process, which had the locks a moment ago
    store_id = _unfinished_id(fs, directories)
    if store_id is None:
        store_id = os.urandom(16)
        header = LogHeader(store_id, Generation(1), NO_LSN, os.urandom(16), clock.now_ms(), FirstLog())
        LogWriter.create(fs, directories.wal, header).close()
    for role, directory in reversed(directories.by_role()):
        identity.write_marker(fs, directory, role, store_id)
    log.info("first start: a new store", extra={"store_id": store_id.hex(), "data_dir": str(directories.data)})
    return store_id


def id_of_store(fs: FileSystem, directories: Directories) -> bytes:
    """The id of the store that must lie here. Reads only.

    Raises:
        MissingStoreError: there is none, or it lost a part.
        IncompatibleStoreError: the directories belong to different stores.
        StorageError: the system refused.
    """
    with refusals_of(directories.data):
        store_id = identity.established_id(fs, directories)
        if store_id is None:
            _refuse_gibram(directories)
            _unfinished_id(fs, directories)  # it may be one that lost its first marker
    if store_id is None:
        raise MissingStoreError(
            f"{directories.data}: expected the marker {identity.MARKER_NAME}, found no store here; next: name the data "
            "directory of a store"
        )
    return store_id


def require_unused(fs: FileSystem, directories: Directories) -> None:
    """Nothing lies in the directories but what an unfinished first start leaves. Reads only.

    Raises:
        MissingStoreError, IncompatibleStoreError: a store or something foreign is there.
    """
    _refuse_gibram(directories)
    _unfinished_id(fs, directories)  # a store that lost a part is told from what is foreign by its markers
    own = {identity.WAL: (wal.log_path(directories.wal, Generation(1)).name,)}
    for role, directory in directories.by_role()[1:]:
        if fs.exists(directory):
            names = (identity.LOCK_NAME, identity.MARKER_NAME, *own.get(role, ()))
            identity.refuse_foreign_files(fs, directory, names)


def _refuse_gibram(directories: Directories) -> None:
    for _, directory in directories.by_role():
        if gibram.looks_like_gibram(directory):
            raise MissingStoreError(
                f"{directory}: expected a store of gibramdb or an empty directory, found files of GibRAM 0.3.0; next: "
                f"{_IMPORT}"
            )


def _unfinished_id(fs: FileSystem, directories: Directories) -> bytes | None:
    """The id that a first start which was cut short had chosen, or None if it had not come to its log.

    The log is there before the first marker, and holds no record before the last: anything else was a store.

    Raises:
        MissingStoreError: a store was here and part of it is gone.
        IncompatibleStoreError: a directory belongs to another store.
    """
    first_log = wal.log_path(directories.wal, Generation(1))
    store_id = None
    if fs.exists(first_log):
        try:
            reading = wal.read_log(fs, first_log)
            is_used = any(True for _ in reading) or reading.tail.torn_bytes > 0
        except CorruptLogError as error:
            damage = str(error).partition("; next: ")[0]
            raise MissingStoreError(
                f"{directories.data}: expected the marker {identity.MARKER_NAME}, found none, and what lies in the log "
                f"directory is damaged ({damage}); is the right volume mounted? If the marker is lost for good, "
                f"`{identity.ADOPT}` accepts that; then `gibramdb store repair` says what can be kept"
            ) from error
        if is_used:
            raise MissingStoreError(
                f"{directories.data}: expected the marker {identity.MARKER_NAME}, found none, but {first_log} holds "
                f"records; is the right volume mounted there? If it is lost for good, `{identity.ADOPT}` accepts it"
            )
        store_id = wal.read_header(fs, first_log).store_id
    for role, directory in directories.by_role()[1:]:
        marker = identity.read_marker(fs, directory, role)
        if marker is None:
            continue
        if store_id is None:
            raise MissingStoreError(
                f"{directories.data}: expected the marker {identity.MARKER_NAME}, found none, but {directory} belongs "
                f"to store {marker.store_id}; are the right volumes mounted? If one is lost for good, "
                f"`{identity.ADOPT}` says what would be kept and accepts it"
            )
        if marker.store_id != store_id.hex():
            raise IncompatibleStoreError(
                f"{directory}: expected store {store_id.hex()}, found store {marker.store_id}; "
                "next: correct the directories in the configuration"
            )
    return store_id


def _tell(fs: FileSystem, directories: Directories, recovered: Recovered, store_id: bytes, duration_ms: int) -> None:
    """Log how recovery went, and leave it in a file; that file is best effort."""
    state = recovered.state
    told = {
        "store_id": store_id.hex(),
        "snapshot": None if recovered.snapshot is None else recovered.snapshot.number,
        "log": None if recovered.last is None else str(recovered.last[0]),
        "generations": recovered.generations,
        "records_replayed": recovered.records,
        "log_bytes": recovered.log_bytes,
        "end_lsn": recovered.end_lsn,
        "torn_bytes": recovered.torn_bytes,
        "torn_offset": recovered.last[2].torn_offset if recovered.last and recovered.torn_bytes else None,
        "sessions": len(state.sessions),
        "objects": sum(session.object_count() for session in state.sessions.values()),
        "duration_ms": duration_ms,
        "missing": recovered.missing or None,
    }
    log.info("recovered", extra=told)
    if recovered.torn_bytes:
        log.warning(
            "the log ended in bytes that were never acknowledged; they are put aside and cut before the first write",
            extra={key: told[key] for key in ("log", "torn_offset", "torn_bytes")},
        )
    try:
        publish(fs, directories.data / REPORT_NAME, msgspec.json.format(msgspec.json.encode(told), indent=2) + b"\n")
    except OSError as error:
        log.warning("the recovery report could not be written: %s", error)


def verify(config: Config, fs: FileSystem | None = None) -> tuple[Recovered, str]:
    """Read a store as a start would, and change nothing: what was recovered, and the digest of its state.

    Raises:
        FatalError: what a start would raise.
    """
    fs = fs or OsFileSystem()
    directories = directories_of(config)
    store_id = id_of_store(fs, directories)
    locks = Locks(fs)
    with refusals_of(directories.data):
        locks.take_to_read(directories)
        try:
            recovered = recover(fs, directories, store_id, config.server.vector_dim)
            return recovered, state_digest(recovered.state.sessions.values())[0]
        finally:
            locks.release()


def adopt(config: Config, fs: FileSystem | None = None, *, accept: bool) -> list[str]:
    """What is missing of a store, and what accepting that means; with `accept`, it is done.

    A missing marker or snapshot directory is made again. A missing log can not be: then the store begins anew, empty,
    with a new identity. The log says whose store it is, so a run that was cut short is finished by the next.

    Raises:
        ConfigError: the store is not durable, or nothing is missing.
        MissingStoreError: what is left could not start, or is what remains of an import.
        StoreLockedError, StorageError, DiskFullError: as their names say.
    """
    if config.session_store.mode != "durable":
        raise ConfigError("session_store.mode is ephemeral: there is no store on disk to adopt")
    directories = directories_of(config)
    require_distinct(directories)
    with refusals_of(directories.data):
        return _adopt(config, directories, fs or OsFileSystem(), accept=accept)


def _adopt(config: Config, directories: Directories, fs: FileSystem, *, accept: bool) -> list[str]:
    identity.refuse_unfinished_import(fs, directories)
    markers = {role: identity.read_marker(fs, path, role) for role, path in directories.by_role()}
    logs = wal.list_logs(fs, directories.wal) if fs.exists(directories.wal) else []
    if not logs:
        _refuse_gibram(directories)
    snapshots = snapshot.list_snapshots(fs, directories.snapshots) if fs.exists(directories.snapshots) else []
    if logs:
        store_id = wal.read_header(fs, logs[-1][1]).store_id
    elif snapshots:
        store_id = bytes.fromhex(snapshot.read_manifest(fs, snapshots[-1][1])[0].store_id)
    else:
        store_id = os.urandom(16)
    said = []
    for role, path in directories.by_role():
        marker = markers[role]
        if marker is None:
            said.append(f"{path}: its marker is missing and is made anew")
            if config.origins.get(_SETTING_OF.get(role, "")) == "default":
                said.append(
                    f"{path} is where {_SETTING_OF[role]} is by default; if it lies elsewhere, name it: --config"
                )
        elif (logs or snapshots) and marker.store_id != store_id.hex():
            said.append(f"{path}: its marker names another store than the log ({marker.store_id}) and is made anew")
    if (logs or snapshots) and not said:
        raise ConfigError(f"{directories.data}: nothing is missing of this store; `gibramdb serve` says what is wrong")
    if logs and not snapshots:
        origin = wal.read_header(fs, logs[0][1]).origin
        if not isinstance(origin, FirstLog):
            raise MissingStoreError(
                f"{directories.snapshots}: there is no snapshot, and the log alone can not start the store: "
                f"{logs[0][1]} goes on from {origin}; next: mount the right volume, name it with --config, or restore "
                "a backup"
            )
    if logs:
        said.append(f"{directories.wal}: the log is there ({len(logs)} files); all that it holds is kept")
    elif snapshots:
        said.append(
            f"{directories.wal}: the log is lost, and with it what was logged behind {snapshots[-1][1].name}; the "
            "store starts from that snapshot"
        )
    else:
        said.append(
            f"{directories.wal}: the log is lost, and with it ALL data; an empty store begins, with a new identity"
        )
    if accept:
        identity.make_directories(fs, directories)
        locks = Locks(fs)
        locks.take(directories)
        try:
            if not logs and not snapshots:
                header = LogHeader(store_id, Generation(1), NO_LSN, os.urandom(16), SystemClock().now_ms(), FirstLog())
                LogWriter.create(fs, directories.wal, header).close()
            for role, directory in reversed(directories.by_role()):
                identity.write_marker(fs, directory, role, store_id)
        finally:
            locks.release()
    return said
