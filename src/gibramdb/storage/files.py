"""The only door to the disk: opening for writing, replacing, locking, syncing.

Owns: how each operation is asked of the operating system, and on which platform.
Never: knows what a file means; retries anything that failed.

Everything that must survive a crash goes through a `FileSystem`, so that a test can hand in one that forgets. Paths are
`Path`, open files are plain descriptors; every failure is the OSError that the system gave, so a caller can tell a full
disk from a broken one. Calls that a signal interrupts are repeated by Python itself (PEP 475).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from gibramdb.errors import DiskFullError, StorageError

if sys.platform != "win32":
    import fcntl  # there, only a client and a store in memory are offered, and neither locks or syncs a file

FILE_MODE = 0o600
FOLDER_MODE = 0o700
# What a caller stored is nobody else's business: neither files nor folders are readable for others.

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says of a disk, or a share of one, that is full."""

TEMPORARY_SUFFIX = ".tmp"
"""A name that ends so was never published; whoever finds one may remove it."""


class FileSystem(Protocol):
    """What the store needs of a disk. Every method may raise OSError."""

    def open_read(self, path: Path) -> int:
        """A descriptor for reading."""
        ...

    def open_write(self, path: Path, *, create: bool = False, mode: int = FILE_MODE) -> int:
        """A descriptor for reading and writing; `create` makes the file, and it must not be there yet."""
        ...

    def close(self, fd: int) -> None:
        """Gives the descriptor back, and with it any lock."""
        ...

    def size(self, fd: int) -> int:
        """The file's length in bytes."""
        ...

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """`length` bytes from `offset`; fewer only where the file ends."""
        ...

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """All of `data` at `offset`. When it raises, any part of it may have been written."""
        ...

    def fdatasync(self, fd: int) -> None:
        """The file's bytes, and its length, are durable on return. Never repeat it after a failure."""
        ...

    def fsync(self, fd: int) -> None:
        """As fdatasync, and the times and rights too."""
        ...

    def allocate(self, fd: int, offset: int, length: int) -> None:
        """Makes room on the disk for these bytes, zero where nothing was written; the file grows if need be."""
        ...

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cuts the file; room reserved behind the cut is gone."""
        ...

    def room(self, fd: int) -> tuple[int, int]:
        """Bytes that the file's disk still has for this user, and that it has in all."""
        ...

    def drop_cache(self, fd: int) -> None:
        """Asks that the next read come from the disk. A wish: the system may ignore it."""
        ...

    def exists(self, path: Path) -> bool:
        """Whether the name is there. Not being allowed to know is an error, not a no."""
        ...

    def is_at(self, fd: int, path: Path) -> bool:
        """Whether the path leads to the very file that is open; not if it leads nowhere."""
        ...

    def list_dir(self, path: Path) -> list[str]:
        """The names in a folder, sorted."""
        ...

    def make_dir(self, path: Path) -> None:
        """A new folder, for its owner only."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Renames; an existing target is replaced in one step."""
        ...

    def unlink(self, path: Path) -> None:
        """Removes the name."""
        ...

    def remove_dir(self, path: Path) -> None:
        """Removes a folder, which must be empty."""
        ...

    def sync_dir(self, path: Path) -> None:
        """Names made, replaced and removed in this folder are durable on return."""
        ...

    def require_writable(self, path: Path) -> None:
        """Raises, as making a file in this folder would, if this user may not; tries nothing."""
        ...

    def lock(self, path: Path, *, create: bool = True) -> int:
        """Locks the file until the descriptor is closed; `create` makes it if needed, and needs the right to write.

        Without `create`, only against those with it: network file systems give no other lock to who may not write.

        Raises:
            BlockingIOError: if another open descriptor, here or in another process, holds it.
        """
        ...


class OsFileSystem:
    """The operating system's files."""

    def open_read(self, path: Path) -> int:
        """See FileSystem."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def open_write(self, path: Path, *, create: bool = False, mode: int = FILE_MODE) -> int:
        """See FileSystem."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return os.open(path, flags, mode)

    def close(self, fd: int) -> None:
        """See FileSystem."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """See FileSystem."""
        return os.fstat(fd).st_size

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """See FileSystem."""
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        # One call reads at most 2 GiB, and a network file system may give less; only an empty read means the end.
        pieces = [data]
        have = len(data)
        while have < length and (data := os.pread(fd, length - have, offset + have)):
            pieces.append(data)
            have += len(data)
        return b"".join(pieces)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """See FileSystem."""
        written = os.pwrite(fd, data, offset)
        if written == len(data):
            return
        # The system wrote less than asked: the next call either goes on or says what is wrong (a full disk, a limit).
        with memoryview(data) as view:
            while written < len(view):
                written += os.pwrite(fd, view[written:], offset + written)

    def fdatasync(self, fd: int) -> None:
        """See FileSystem."""
        if sys.platform == "darwin":
            # There, fsync reaches only the drive's cache.
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """See FileSystem."""
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fsync(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        """See FileSystem. On macOS, which is for development, the file grows without room being reserved."""
        if sys.platform == "darwin":
            if os.fstat(fd).st_size < offset + length:
                os.ftruncate(fd, offset + length)
        else:
            os.posix_fallocate(fd, offset, length)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """See FileSystem."""
        os.ftruncate(fd, size_bytes)

    def room(self, fd: int) -> tuple[int, int]:
        """See FileSystem."""
        figures = os.statvfs(fd)
        return figures.f_bavail * figures.f_frsize, figures.f_blocks * figures.f_frsize

    def drop_cache(self, fd: int) -> None:
        """See FileSystem."""
        if sys.platform != "darwin":
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def exists(self, path: Path) -> bool:
        """See FileSystem."""
        try:
            path.stat()
        except FileNotFoundError:
            return False
        return True

    def is_at(self, fd: int, path: Path) -> bool:
        """See FileSystem."""
        try:
            return os.path.samestat(os.fstat(fd), path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def list_dir(self, path: Path) -> list[str]:
        """See FileSystem."""
        return sorted(os.listdir(path))  # noqa: PTH208  names are wanted, not paths

    def make_dir(self, path: Path) -> None:
        """See FileSystem."""
        path.mkdir(mode=FOLDER_MODE)

    def replace(self, source: Path, target: Path) -> None:
        """See FileSystem."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """See FileSystem."""
        path.unlink()

    def remove_dir(self, path: Path) -> None:
        """See FileSystem."""
        path.rmdir()

    def sync_dir(self, path: Path) -> None:
        """See FileSystem."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def require_writable(self, path: Path) -> None:
        """See FileSystem."""
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            is_read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
            reason = errno.EROFS if is_read_only else errno.EACCES
            raise OSError(reason, os.strerror(reason), str(path))

    def lock(self, path: Path, *, create: bool = True) -> int:
        """See FileSystem."""
        fd = os.open(path, os.O_CLOEXEC | (os.O_RDWR | os.O_CREAT if create else os.O_RDONLY), FILE_MODE)
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if create else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd


def next_step(error: OSError) -> str:
    """What an operator can do about a refusal of the system, as the end of a message."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return "next: give the server's user access to it"
    if error.errno == errno.EROFS:
        return "next: mount its disk for writing; a system that has found the disk faulty takes that away by itself"
    if error.errno in FULL:
        return "next: free space on its disk"
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return "next: allow more open files (ulimit -n), or fewer connections (security.max_connections)"
    if error.errno == errno.ESTALE:
        return (
            "next: put back what was there (unmount what lies over it, or move it back); if only its LOCK was removed, "
            "start the store again"
        )
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}:
        return "next: check the path"
    return "next: check the disk"


def refused(what: str, error: OSError) -> StorageError | DiskFullError:
    """A refusal of the system as an error of ours: `what`, the reason, and what to do. A full disk has its own."""
    kind = DiskFullError if error.errno in FULL else StorageError
    return kind(f"{what}: {error.strerror or error}; {next_step(error)}")


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """What the system refuses inside tells of this file where it names none, as with a descriptor."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def removed_if_failed(fs: FileSystem, *paths: Path) -> Iterator[None]:
    """What the system refuses inside leaves none of these files, where it lets them be removed."""
    try:
        yield
    except OSError:
        for path in paths:
            with contextlib.suppress(OSError):
                if fs.exists(path):
                    fs.unlink(path)
        raise


@contextlib.contextmanager
def refusals_of(path: Path) -> Iterator[None]:
    """What the system refuses inside is raised as `refused`, with the file's name, or `path` if it gives none.

    Raises:
        StorageError, DiskFullError: the system refused.
    """
    try:
        yield
    except OSError as error:
        raise refused(str(error.filename or path), error) from error


def publish(fs: FileSystem, path: Path, data: bytes, mode: int = FILE_MODE, *, read_back: bool = False) -> None:
    """Puts a whole file under its name, or leaves what was there: temporary, sync, rename, sync the folder.

    A temporary left by a crash is replaced; one that fails is removed. On return the file is durable under its name.

    Args:
        fs: the disk.
        path: the name.
        data: what it is to hold.
        mode: the file's rights.
        read_back: see before the rename whether the disk gives back what was written.

    Raises:
        OSError: whatever failed. The name then holds the old file or the new one, never a part.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    if fs.exists(temporary):
        fs.unlink(temporary)
    with named(temporary), removed_if_failed(fs, temporary):
        fd = fs.open_write(temporary, create=True, mode=mode)
        try:
            fs.pwrite(fd, data, 0)
            fs.fsync(fd)
            if read_back:
                fs.drop_cache(fd)
                if fs.size(fd) != len(data) or fs.pread(fd, len(data), 0) != data:
                    raise OSError(errno.EIO, "the disk does not give back what was written", str(temporary))
        finally:
            fs.close(fd)
        fs.replace(temporary, path)
    fs.sync_dir(path.parent)
