"""A data directory of GibRAM 0.3.0 becomes a store of ours: all of it, or nothing.

read (changes nothing) -> a state on the side -> a sign -> its snapshot, a log behind that, the markers -> no sign

Until the sign is gone no server starts there, and another import begins anew.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gibramdb.clock import SystemClock
from gibramdb.config import Config
from gibramdb.core.apply import apply
from gibramdb.core.dump import FrozenSession
from gibramdb.core.state import StoreState
from gibramdb.database.opening import directories_of, require_distinct, require_unused
from gibramdb.database.snapshot_files import RestoredSnapshot, SnapshotFiles, Work, with_sections
from gibramdb.errors import ConfigError, IncompatibleStoreError
from gibramdb.model.ids import NO_LSN, Generation
from gibramdb.storage import gibram, identity, snapshot, wal
from gibramdb.storage.files import TEMPORARY_SUFFIX, FileSystem, OsFileSystem, refusals_of
from gibramdb.storage.identity import Directories, Locks
from gibramdb.storage.snapshot import Cut
from gibramdb.storage.wal import LogHeader, LogWriter

_GENERATION = Generation(2)
"""As behind a restore: the first one alone, empty, is what a first start leaves that was cut short."""


def read_gibram(
    source: Path, config: Config, log_directory: Path | None = None, snapshot_directory: Path | None = None
) -> tuple[gibram.Import, Config]:
    """What GibRAM's directory holds, and the configuration with the dimension of its embeddings.

    `log_directory`, `snapshot_directory`: where they lie, if not in `source`.

    Raises:
        ConfigError: there is a store already where the new one would be.
        FatalError: the directory can not be read, or does not fit together; nothing was changed.
    """
    _require_no_store(OsFileSystem(), directories_of(config))
    imported = gibram.read_directory(source, log_directory=log_directory, snapshot_directory=snapshot_directory)
    if imported.vector_dim is not None:
        if config.origins["server.vector_dim"] != "default" and config.server.vector_dim != imported.vector_dim:
            raise IncompatibleStoreError(
                f"{source}: it holds vectors of dimension {imported.vector_dim}, server.vector_dim is "
                f"{config.server.vector_dim}; next: set server.vector_dim to {imported.vector_dim}"
            )
        server = msgspec.structs.replace(config.server, vector_dim=imported.vector_dim)
        config = msgspec.structs.replace(config, server=server)
    return imported, config


def store_gibram(imported: gibram.Import, config: Config, fs: FileSystem | None = None) -> None:
    """Make the new store, whole or not at all.

    What it made is removed if it fails. Killed, or where that fails too, it leaves its sign: no server starts there,
    and the next import begins anew.

    Raises:
        ConfigError: there is a store already.
        FatalError: the store can not be made, or what was read does not fit together.
        DiskFullError: there is no space for it.
    """
    state = StoreState(config.server.vector_dim)
    for mutation in imported.mutations:
        # No record of this store's log stands for any of it: the snapshot does.
        apply(state, mutation, NO_LSN)
    fs = fs or OsFileSystem()
    directories = directories_of(config)
    require_distinct(directories)
    _require_no_store(fs, directories)
    locks = Locks(fs)
    try:
        with refusals_of(directories.data), _folders_taken_back(fs, directories):
            identity.make_directories(fs, Directories(directories.data, directories.data, directories.data))
            locks.take_data(directories)
            _require_no_store(fs, directories)  # another process may have made one meanwhile
            with _files_taken_back(fs, directories):
                identity.sign_import(fs, directories)
                identity.make_directories(fs, directories)
                locks.take(directories)
                _remove(fs, _made_by_imports(fs, directories))
                _write(fs, directories, locks, state, imported.vector_dim or 0)
                identity.unsign_import(fs, directories)
    finally:
        locks.release()


def _require_no_store(fs: FileSystem, directories: Directories) -> None:
    with refusals_of(directories.data):
        if identity.is_import_unfinished(fs, directories):
            return
        if identity.established_id(fs, directories) is not None:
            raise ConfigError(f"{directories.data}: expected no store yet, found one; next: name another directory")
        require_unused(fs, directories)


def _write(fs: FileSystem, directories: Directories, locks: Locks, state: StoreState, vector_dim: int) -> None:
    store_id, now_ms = os.urandom(16), SystemClock().now_ms()
    files = SnapshotFiles(fs, directories, store_id, locks)
    manifest = files.manifest(1, now_ms, Cut(0, 0, 0, 0), vector_dim, None)
    frozen = [FrozenSession(session) for session in state.sessions.values()]
    base = RestoredSnapshot(files, with_sections(manifest, files.write_pack(manifest, frozen, Work())))
    origin = base.at(Cut(_GENERATION, 0, NO_LSN, 0))
    base.publish()
    header = LogHeader(store_id, _GENERATION, NO_LSN, os.urandom(16), now_ms, origin)
    LogWriter.create(fs, directories.wal, header).close()
    for role, directory in reversed(directories.by_role()):
        identity.write_marker(fs, directory, role, store_id)


# --- taking it back ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folders_taken_back(fs: FileSystem, directories: Directories) -> Iterator[None]:
    """Should what happens inside fail, the folders that it made go, if they are empty."""
    folders = [each for _, directory in directories.by_role() for each in identity.missing_folders(fs, directory)]
    try:
        yield
    except BaseException:
        for folder in reversed(folders):
            with contextlib.suppress(OSError):
                fs.remove_dir(folder)
                fs.sync_dir(folder.parent)
        raise


@contextlib.contextmanager
def _files_taken_back(fs: FileSystem, directories: Directories) -> Iterator[None]:
    """Should what happens inside fail, all that it made goes, the sign last. The locks must be held."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            _remove(fs, _made_by_imports(fs, directories))
            # Whoever has opened the first of these meanwhile finds the others gone, and makes them anew for everybody.
            _remove(fs, [directory / identity.LOCK_NAME for _, directory in directories.by_role()])
            _remove(fs, [directories.data / identity.IMPORT_NAME])
        raise


def _made_by_imports(fs: FileSystem, directories: Directories) -> list[Path]:
    """All that one makes but its sign and the locks; where it began, nothing else of a store was there."""
    data = directories.data
    made = [data / identity.MARKER_NAME]
    made += [data / (name + TEMPORARY_SUFFIX) for name in (identity.MARKER_NAME, identity.IMPORT_NAME)]
    for _, directory in directories.by_role()[1:]:
        if fs.exists(directory):
            made += [path for _, path in wal.list_logs(fs, directory)]
            made += [path for _, path in snapshot.list_snapshots(fs, directory) + snapshot.list_packs(fs, directory)]
            made += [directory / name for name in fs.list_dir(directory) if name.endswith(TEMPORARY_SUFFIX)]
            made += [directory / identity.MARKER_NAME]
    return made


def _remove(fs: FileSystem, paths: list[Path]) -> None:
    there = [path for path in paths if fs.exists(path)]
    for path in there:
        fs.unlink(path)
    for folder in sorted({path.parent for path in there}):
        fs.sync_dir(folder)
