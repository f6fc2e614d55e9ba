"""Whose files these are: the three directories of a store, their locks and their markers.

A durable store lies in a data directory, a log directory and a snapshot directory. Each carries a marker with the id of
the store and the directory's role, and a lock file that its owner holds. The data directory's marker is written last of
all at the first start, so its absence beside an empty log means that the first start did not finish. While an import is
under way the data directory carries its sign: as long as that is there, nothing else there is a store.

Owns: the locks, and by them whether a directory is still the one that was locked.
Never: reads a log; decides what is recovered.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from gibramdb.errors import ConfigError, IncompatibleStoreError, MissingStoreError, StoreLockedError
from gibramdb.storage.files import TEMPORARY_SUFFIX, FileSystem, publish, refused

MARKER_NAME = "gibramdb-store.json"
IMPORT_NAME = "gibramdb-import.json"
LOCK_NAME = "LOCK"
DATA, WAL, SNAPSHOTS = "data", "wal", "snapshots"
_FORMAT = 1
_MARKER_BYTES_MAX = 64 * 1024
_LOST_AND_FOUND = "lost+found"
"""In the root of each ext file system, also of one that is new."""
ADOPT = "gibramdb store adopt DIR"
"""The one command that accepts a missing directory or marker."""


class Marker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a directory says of itself."""

    format: int
    store_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    role: str


class Directories(msgspec.Struct, frozen=True):
    """Where a store lies; all absolute."""

    data: Path
    wal: Path
    snapshots: Path

    def by_role(self) -> tuple[tuple[str, Path], ...]:
        """In the order in which they are made: the data directory first, because the others may lie in it."""
        return ((DATA, self.data), (WAL, self.wal), (SNAPSHOTS, self.snapshots))


def read_marker(fs: FileSystem, directory: Path, role: str) -> Marker | None:
    """The marker of a directory, or None if the directory or the marker is missing.

    Raises:
        MissingStoreError: the directory or the marker can not be read.
        IncompatibleStoreError: the marker is not one, or is for another role, or of a newer format.
    """
    path = directory / MARKER_NAME
    data = _content(fs, path, "the store's marker")
    if data is None:
        return None
    try:
        marker = msgspec.json.decode(data, type=Marker)
    except msgspec.DecodeError as error:
        raise IncompatibleStoreError(
            f"{path}: expected a store's marker, found something else ({error}); next: restore the file from a backup, "
            f"or move it away, and `{ADOPT}` says what would be kept and makes it anew"
        ) from error
    if marker.format > _FORMAT:
        raise IncompatibleStoreError(
            f"{path}: format {marker.format} is newer than this version reads ({_FORMAT}); next: use a newer gibramdb"
        )
    if marker.role != role:
        raise IncompatibleStoreError(
            f"{path}: expected the {role} directory of a store, found its {marker.role} directory; "
            "next: correct the directories in the configuration"
        )
    return marker


def _content(fs: FileSystem, path: Path, what: str) -> bytes | None:
    try:
        if not fs.exists(path):
            return None
        fd = fs.open_read(path)
        try:
            return fs.pread(fd, _MARKER_BYTES_MAX, 0)
        finally:
            fs.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise MissingStoreError(
            f"{path}: {what} can not be read: {error.strerror}; next: give this user read access to it"
        ) from error
    except OSError as error:
        raise refused(f"{path}: {what} can not be read", error) from error


def write_marker(fs: FileSystem, directory: Path, role: str, store_id: bytes) -> None:
    """Publish a directory's marker."""
    publish(fs, directory / MARKER_NAME, msgspec.json.encode(Marker(_FORMAT, store_id.hex(), role)) + b"\n")


def established_id(fs: FileSystem, directories: Directories) -> bytes | None:
    """The id of the store that lies here, or None if none was ever finished here.

    Raises:
        MissingStoreError: a directory or marker of the store is gone or can not be read, or an import has not ended.
        IncompatibleStoreError: the directories belong to different stores.
    """
    data_marker = read_marker(fs, directories.data, DATA)
    refuse_unfinished_import(fs, directories)
    if data_marker is None:
        return None
    for role, directory in directories.by_role()[1:]:
        if not fs.exists(directory):
            raise MissingStoreError(
                f"{directory}: the store's {role} directory is missing; is its volume mounted? If it lies elsewhere, "
                f"name it with --config; if it is lost for good, `{ADOPT}` says what would be kept and accepts it"
            )
        marker = read_marker(fs, directory, role)
        if marker is None:
            raise MissingStoreError(
                f"{directory}: expected the marker {MARKER_NAME} of store {data_marker.store_id}, found none; "
                "is the right volume mounted? If it lies elsewhere, name it with --config; if it is lost for good, "
                f"`{ADOPT}` says what would be kept and accepts it"
            )
        if marker.store_id != data_marker.store_id:
            raise IncompatibleStoreError(
                f"{directory}: expected store {data_marker.store_id}, found store {marker.store_id}; "
                "next: correct the directories in the configuration"
            )
    return bytes.fromhex(data_marker.store_id)


def refuse_unfinished_import(fs: FileSystem, directories: Directories) -> None:
    """What an import has made so far is no store.

    Raises:
        MissingStoreError: its sign is there.
    """
    if _import_sign(fs, directories) is not None:
        raise MissingStoreError(
            f"{directories.data / IMPORT_NAME}: an import into this directory has not ended: if none is running, this "
            "is what remains of it, and no store; next: run `gibramdb import-gibram OLD_DATA_DIR --into "
            f"{directories.data}` again, which begins anew"
        )


def is_import_unfinished(fs: FileSystem, directories: Directories) -> bool:
    """Whether everything of a store that lies here was made by an import that has not ended.

    Raises:
        ConfigError: that import was told to use other directories.
        MissingStoreError: its sign can not be read.
    """
    found = _import_sign(fs, directories)
    if found not in (None, _sign_of(directories)):
        raise ConfigError(
            f"{directories.data / IMPORT_NAME}: expected an import into {directories.wal} and {directories.snapshots}, "
            f"found one that did not end and named others: {found!r}; next: name the same again, or remove what it "
            "made there, then this file"
        )
    return found is not None


def sign_import(fs: FileSystem, directories: Directories) -> None:
    """Say durably that from here on an import makes what lies here; `unsign_import` says that all of it is there."""
    publish(fs, directories.data / IMPORT_NAME, _sign_of(directories))


def unsign_import(fs: FileSystem, directories: Directories) -> None:
    """See `sign_import`. Everything else must be durable before."""
    fs.unlink(directories.data / IMPORT_NAME)
    fs.sync_dir(directories.data)


def _import_sign(fs: FileSystem, directories: Directories) -> bytes | None:
    return _content(fs, directories.data / IMPORT_NAME, "the sign of an import")


def _sign_of(directories: Directories) -> bytes:
    return msgspec.json.encode({WAL: str(directories.wal), SNAPSHOTS: str(directories.snapshots)}) + b"\n"


def missing_folders(fs: FileSystem, directory: Path) -> list[Path]:
    """This one and those above it, as far as they are not there, the uppermost first."""
    missing = []
    while not fs.exists(directory):
        missing.append(directory)
        directory = directory.parent
    return missing[::-1]


def make_directories(fs: FileSystem, directories: Directories) -> None:
    """Make those of the three that are missing, and make durable that they are there.

    Raises:
        StorageError, DiskFullError: the system refused.
    """
    for _, directory in directories.by_role():
        try:
            for each in missing_folders(fs, directory):
                with contextlib.suppress(FileExistsError):  # another first start, a moment ago: the locks decide
                    fs.make_dir(each)
                fs.sync_dir(each.parent)
        except OSError as error:
            raise refused(f"{directory}: the directory can not be made", error) from error


def refuse_foreign_files(fs: FileSystem, directory: Path, own: Sequence[str]) -> None:
    """A first start takes only a directory that is empty, but for what an unfinished first start or mkfs leaves.

    Raises:
        MissingStoreError: something else lies there.
    """
    for name in fs.list_dir(directory):
        if name not in own and name != _LOST_AND_FOUND and not name.endswith(TEMPORARY_SUFFIX):
            raise MissingStoreError(
                f"{directory}: expected an empty directory or the marker {MARKER_NAME}, found {name}; "
                f"next: give the store a directory of its own, or, if this is a store that lost its marker, `{ADOPT}`"
            )


class Locks:
    """The exclusive locks on a store's directories, held until `release`."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._fds: dict[Path, int] = {}

    def take_existing(self, directories: Directories) -> None:
        """Lock those of the three that somebody can hold, as `take` does: who is refused has made nothing."""
        self._take([directory for _, directory in directories.by_role() if self._fs.exists(directory / LOCK_NAME)])

    def take(self, directories: Directories) -> None:
        """Lock all three, but for what is held already, or none.

        Raises:
            StoreLockedError: another process, or another store of this one, holds one of them.
            StorageError, DiskFullError: the system refused.
        """
        self._take([directory for _, directory in directories.by_role()])

    def _take(self, paths: Sequence[Path]) -> None:
        try:
            for directory in paths:
                self._lock(directory / LOCK_NAME)
        except BaseException:
            self.release()
            raise

    def take_to_read(self, directories: Directories) -> None:
        """Lock all three for who changes nothing, lock files included: where one is missing, nobody holds it.

        Raises:
            StoreLockedError, StorageError, DiskFullError: as `take`.
        """
        try:
            for _, directory in directories.by_role():
                if self._fs.exists(directory / LOCK_NAME):
                    self._lock(directory / LOCK_NAME, create=False)
        except BaseException:
            self.release()
            raise

    def take_data(self, directories: Directories) -> None:
        """Lock the data directory alone, for what a store in memory leaves there, or before the others are made.

        Raises:
            StoreLockedError, StorageError, DiskFullError: as `take`.
        """
        self._lock(directories.data / LOCK_NAME)

    def _lock(self, path: Path, *, create: bool = True) -> None:
        if path in self._fds:
            return
        try:
            self._fds[path] = self._fs.lock(path, create=create)
        except BlockingIOError as error:
            raise StoreLockedError(f"{path}: the store is in use by {_holder(path)}") from error
        except OSError as error:
            raise refused(f"{path}: the store can not be locked", error) from error

    def require_same(self, directory: Path) -> None:
        """See that the path still leads to the directory that is locked, and not to what was mounted or moved there.

        What is written goes by the path: in another directory no start would find it, or another store's would.

        Raises:
            OSError: it leads elsewhere (ESTALE), or the system does not say.
        """
        path = directory / LOCK_NAME
        if not self._fs.is_at(self._fds[path], path):
            found = "expected the directory in which this process holds LOCK, found another, or none"
            raise OSError(errno.ESTALE, found, str(directory))

    def release(self) -> None:
        """Let go. In a forked child: of its copies, so that the locks end with their owner and not with the child."""
        while self._fds:
            self._fs.close(self._fds.popitem()[1])


def _holder(path: Path) -> str:
    """Who holds a lock, as the kernel tells it, and what to do: nothing is written for this.

    So a refused start changes nothing.
    """
    holder = "another process"
    try:
        inode = f":{path.stat().st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].endswith(inode):  # number, kind, .., pid, device
                if fields[4] == str(os.getpid()):
                    return "this process itself; next: go on with the store open here, or close() that one first"
                holder = f"process {fields[4]}"
    except OSError:
        pass  # not Linux, or not allowed to look: the refusal itself is what counts
    return f"{holder}; next: stop that one, or talk to it as a client"
