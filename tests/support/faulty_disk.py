"""A file system in memory that forgets what was not synced, as a disk may at a power cut, and fails when told to.

What the kernel holds and what the disk holds are told apart, for pages of 4 KiB and for the names in each folder:

    after_kill        the process is gone, the kernel is not: all that was written is there, still not synced
    after_power_cut   each page that was not synced is in any state that it ever had since; each folder too; each length too;
                      with `piece_bytes` 512 each sector by itself
    fail              the k-th call of an operation fails; a failed sync drops the dirty pages, as Linux does:
                      the next sync succeeds, and the bytes are gone all the same
    stop_at           the process dies at the k-th call that changes something

Every choice comes from the generator handed in, so a seed repeats a run.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Self

from gibramdb.storage.files import FILE_MODE

PAGE_BYTES = 4096

CHANGING = frozenset(
    {
        "open_write(create)",
        "pwrite",
        "fdatasync",
        "fsync",
        "allocate",
        "truncate",
        "make_dir",
        "replace",
        "unlink",
        "remove_dir",
        "sync_dir",
        "lock",
    }
)


class Stopped(BaseException):
    """The process has died here: nothing may catch this but the test."""


class _File:
    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        # States that a page, or the length, had since the last sync, oldest first; the disk may hold any of them.
        self.old_pages: dict[int, list[bytes]] = {}
        self.old_sizes: list[int] = []
        # What the disk holds of pages whose write-back failed; the kernel calls them clean.
        self.lost_pages: dict[int, bytes] = {}

    def remember(self, offset: int, length: int) -> None:
        self.old_sizes.append(len(self.content))
        for page in range(offset // PAGE_BYTES, (offset + length + PAGE_BYTES - 1) // PAGE_BYTES):
            lost = self.lost_pages.pop(page, None)
            states = self.old_pages.setdefault(page, [] if lost is None else [lost])
            states.append(bytes(self.content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]))

    def write(self, data: bytes, offset: int) -> None:
        self.remember(offset, len(data))
        if offset > len(self.content):
            self.content.extend(bytes(offset - len(self.content)))
        self.content[offset : offset + len(data)] = data

    def resize(self, size_bytes: int) -> None:
        if size_bytes < len(self.content):
            self.remember(size_bytes, len(self.content) - size_bytes)
            del self.content[size_bytes:]
        else:
            self.old_sizes.append(len(self.content))
            self.content.extend(bytes(size_bytes - len(self.content)))

    def synced(self) -> None:
        self.old_pages.clear()
        self.old_sizes.clear()

    def sync_failed(self) -> None:
        for page, states in self.old_pages.items():
            self.lost_pages.setdefault(page, states[0])
        self.synced()

    def forget_cache(self) -> None:
        for page, state in self.lost_pages.items():
            self._put(self.content, page * PAGE_BYTES, state, PAGE_BYTES)
        self.lost_pages.clear()

    def after_power_cut(self, rng: random.Random, piece_bytes: int) -> _File:
        content = bytearray(self.content)
        for page, states in self.old_pages.items():
            for at in range(0, PAGE_BYTES, piece_bytes):
                chosen = rng.randrange(len(states) + 1)
                if chosen < len(states):
                    self._put(content, page * PAGE_BYTES + at, states[chosen][at : at + piece_bytes], piece_bytes)
        for page, state in self.lost_pages.items():
            self._put(content, page * PAGE_BYTES, state, PAGE_BYTES)
        size_bytes = rng.choice([*self.old_sizes, len(self.content)])
        del content[size_bytes:]
        content.extend(bytes(size_bytes - len(content)))
        return _File(bytes(content))

    @staticmethod
    def _put(content: bytearray, start: int, state: bytes, length: int) -> None:
        content.extend(bytes(max(0, start + len(state) - len(content))))
        stop = max(start, min(start + length, len(content)))
        content[start:stop] = state.ljust(stop - start, b"\0")


class _Folder:
    def __init__(self, names: dict[str, _File | None] | None = None) -> None:
        self.names: dict[str, _File | None] = names or {}  # None: a folder
        self.old_names: list[dict[str, _File | None]] = []

    def remember(self) -> None:
        self.old_names.append(dict(self.names))


class FaultyDisk:
    """A FileSystem; see the module. `free_bytes`, if set, is what files may still grow by."""

    def __init__(self, *folders: Path, free_bytes: int | None = None, seed: int = 0) -> None:
        self.free_bytes = free_bytes
        self.calls: Counter[str] = Counter()
        self.changing_calls = 0
        self._rng = random.Random(seed)
        self._folders = {folder: _Folder() for folder in folders}
        self._open: dict[int, tuple[Path, _File, bool]] = {}
        self._next_fd = 1000  # no number that the process has open, so that a mix-up is noticed
        self._locks: dict[int, tuple[_File, bool]] = {}  # and whether against everybody
        self._faults: list[tuple[str, int, int | None, int, int]] = []
        self._faults_below: list[list[Any]] = []
        self._stop_at: int | None = None
        self._lock = threading.RLock()  # the log has one thread, snapshots another

    # --- what a test orders and asks ---

    def fail(self, operation: str, error: int, *, at: int = 1, times: int | None = 1, written_bytes: int = 0) -> None:
        """From the `at`-th call on, counted from now, `times` calls fail (None: all); a pwrite writes a part first."""
        first = self.calls[operation] + at
        self._faults.append((operation, first, None if times is None else first + times, error, written_bytes))

    def fail_below(self, folder: Path, operation: str, error: int, *, at: int = 1) -> None:
        """The `at`-th call on something in this folder fails, counted from now, and no other."""
        self._faults_below.append([folder, operation, at, error])

    def forgive(self) -> None:
        """No more faults below folders."""
        self._faults_below.clear()

    @property
    def is_stopped(self) -> bool:
        """Whether the process has died."""
        return self._stop_at is not None and self.changing_calls >= self._stop_at

    def stop_at(self, call: int) -> None:
        """Dies at the `call`-th changing call, counted from now: before it, or in the middle of a pwrite."""
        self._stop_at = self.changing_calls + call

    def read(self, path: Path) -> bytes:
        """What the kernel would give."""
        return bytes(self._file(path).content)

    def put(self, path: Path, content: bytes) -> None:
        """Replaces a file, durably and without a fault: damage, or an operator's doing."""
        self._folders[path.parent].names[path.name] = _File(content)
        for names in self._folders[path.parent].old_names:
            names[path.name] = self._folders[path.parent].names[path.name]

    def unsynced(self) -> list[Path]:
        """Files and folders of which something is not yet on the disk."""
        dirty = [path for path, folder in self._folders.items() if folder.old_names]
        for path, folder in self._folders.items():
            dirty += [path / n for n, file in folder.names.items() if file and (file.old_pages or file.old_sizes)]
        return dirty

    def after_kill(self) -> Self:
        """The disk as the next process finds it, of the same class. Descriptors and locks are gone, and so are faults."""
        disk = self._successor()
        disk._folders = self._folders
        return disk

    def after_power_cut(self, rng: random.Random, *, piece_bytes: int = PAGE_BYTES) -> Self:
        """The disk as the machine finds it when it comes up again."""
        disk = self._successor()
        pending = [(path, rng.choice([*folder.old_names, folder.names])) for path, folder in self._folders.items()]
        copies: dict[int, _File] = {}
        for path, names in sorted(pending):
            parent = disk._folders.get(path.parent)
            if path.parent in self._folders and (parent is None or path.name not in parent.names):
                continue  # the folder itself was not yet a durable name
            kept: dict[str, _File | None] = {}
            for name, file in names.items():
                if file is not None and id(file) not in copies:
                    copies[id(file)] = file.after_power_cut(rng, piece_bytes)
                kept[name] = None if file is None else copies[id(file)]
            disk._folders[path] = _Folder(kept)
        return disk

    # --- FileSystem ---

    def open_read(self, path: Path) -> int:
        self._begin("open_read", path)
        return self._opened(path, self._file(path), writable=False)

    def open_write(self, path: Path, *, create: bool = False, mode: int = FILE_MODE) -> int:
        self._begin("open_write(create)" if create else "open_write", path)
        if create:
            self._create(path)
        return self._opened(path, self._file(path), writable=True)

    def close(self, fd: int) -> None:
        self._begin("close", self._open[fd][0])
        del self._open[fd]
        self._locks.pop(fd, None)

    def size(self, fd: int) -> int:
        self._begin("size", self._open[fd][0])
        return len(self._open[fd][1].content)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self._begin("pread", self._open[fd][0])
        return bytes(memoryview(self._open[fd][1].content)[offset : offset + length])

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        file = self._writable(fd)
        taken = bytes(data)
        try:
            self._begin("pwrite", self._open[fd][0])
            self._grow(max(0, offset + len(taken) - len(file.content)))
        except _PartialError as fault:
            file.write(taken[: fault.written_bytes], offset)
            raise OSError(fault.error, os.strerror(fault.error)) from None
        except Stopped:
            # A signal ends a write only between two pages.
            borders = [b - offset for b in range(offset - offset % PAGE_BYTES, offset + len(taken), PAGE_BYTES)]
            file.write(taken[: max(0, self._rng.choice(borders))], offset)
            raise
        file.write(taken, offset)

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        file = self._writable(fd)
        self._begin("allocate", self._open[fd][0])
        missing = offset + length - len(file.content)
        if missing > 0:
            self._grow(missing)
            file.resize(offset + length)

    def truncate(self, fd: int, size_bytes: int) -> None:
        file = self._writable(fd)
        self._begin("truncate", self._open[fd][0])
        self._grow(size_bytes - len(file.content))
        file.resize(size_bytes)

    def room(self, fd: int) -> tuple[int, int]:
        self._begin("room", self._open[fd][0])
        return (2**40, 2**41) if self.free_bytes is None else (self.free_bytes, 2**41)

    def drop_cache(self, fd: int) -> None:
        self._begin("drop_cache", self._open[fd][0])
        self._open[fd][1].forget_cache()

    def exists(self, path: Path) -> bool:
        self._begin("exists", path)
        return path in self._folders or (path.parent in self._folders and path.name in self._folders[path.parent].names)

    def is_at(self, fd: int, path: Path) -> bool:
        self._begin("is_at", path)
        folder = self._folders.get(path.parent)
        return folder is not None and folder.names.get(path.name) is self._open[fd][1]

    def require_writable(self, path: Path) -> None:
        with self._lock:
            self._begin("require_writable", path)
            self._folder(path)

    def list_dir(self, path: Path) -> list[str]:
        self._begin("list_dir", path)
        return sorted(self._folder(path).names)

    def make_dir(self, path: Path) -> None:
        self._begin("make_dir", path)
        parent = self._folder(path.parent)
        if path.name in parent.names or path in self._folders:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        parent.remember()
        parent.names[path.name] = None
        self._folders[path] = _Folder()

    def replace(self, source: Path, target: Path) -> None:
        self._begin("replace", source)
        assert source.parent == target.parent, "only within one folder is a rename one step"
        file, folder = self._file(source), self._folder(source.parent)
        folder.remember()
        del folder.names[source.name]
        folder.names[target.name] = file

    def unlink(self, path: Path) -> None:
        self._begin("unlink", path)
        file, folder = self._file(path), self._folder(path.parent)
        folder.remember()
        del folder.names[path.name]
        self._grow(-len(file.content))

    def remove_dir(self, path: Path) -> None:
        self._begin("remove_dir", path)
        if self._folder(path).names:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        parent = self._folder(path.parent)
        parent.remember()
        del parent.names[path.name]
        del self._folders[path]

    def sync_dir(self, path: Path) -> None:
        self._begin("sync_dir", path)
        self._folder(path).old_names.clear()

    def lock(self, path: Path, *, create: bool = True) -> int:
        self._begin("lock", path)
        if create and path.name not in self._folder(path.parent).names:
            self._create(path)
        file = self._file(path)
        if any(held is file and (is_exclusive or create) for held, is_exclusive in self._locks.values()):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
        fd = self._opened(path, file, writable=True)
        self._locks[fd] = file, create
        return fd

    # --- inside ---

    def _begin(self, operation: str, path: Path) -> None:
        if self._stop_at is not None and self.changing_calls >= self._stop_at:
            raise Stopped
        with self._lock:
            self.calls[operation] += 1
            if operation in CHANGING:
                self.changing_calls += 1
                if self.changing_calls == self._stop_at:
                    raise Stopped
        for fault in self._faults_below:
            folder, name, left, error = fault
            if name == operation and path.is_relative_to(folder) and left:
                fault[2] = left - 1
                if left == 1:
                    raise OSError(error, os.strerror(error), str(path))
        for name, first, stop, error, written_bytes in self._faults:
            if name == operation and self.calls[name] >= first and (stop is None or self.calls[name] < stop):
                if written_bytes:
                    raise _PartialError(error, written_bytes)
                raise OSError(error, os.strerror(error))

    def _sync(self, operation: str, fd: int) -> None:
        file = self._open[fd][1]
        try:
            self._begin(operation, self._open[fd][0])
        except OSError:
            file.sync_failed()
            raise
        file.synced()

    def _create(self, path: Path) -> None:
        folder = self._folder(path.parent)
        if path.name in folder.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        folder.remember()
        folder.names[path.name] = _File()

    def _opened(self, path: Path, file: _File, *, writable: bool) -> int:
        with self._lock:
            self._next_fd += 1
            self._open[self._next_fd] = (path, file, writable)
            return self._next_fd

    def _writable(self, fd: int) -> _File:
        path, file, writable = self._open[fd]
        if not writable:
            raise OSError(errno.EBADF, "not open for writing", str(path))
        return file

    def _folder(self, path: Path) -> _Folder:
        if path not in self._folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._folders[path]

    def _file(self, path: Path) -> _File:
        file = self._folder(path.parent).names.get(path.name)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return file

    def _grow(self, by_bytes: int) -> None:
        if self.free_bytes is None:
            return
        if by_bytes > self.free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.free_bytes -= by_bytes

    def _successor(self) -> Self:
        return type(self)(free_bytes=self.free_bytes, seed=self._rng.getrandbits(32))


class _PartialError(OSError):
    def __init__(self, error: int, written_bytes: int) -> None:
        super().__init__(error, os.strerror(error))
        self.error = error
        self.written_bytes = written_bytes
