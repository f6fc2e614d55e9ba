"""Where an operator may save to and restore from: one file, inside the data directory.

A path that an operator sends is walked from the data directory's own descriptor, one folder at a time, each opened
relative to the one before it and never through a link. What was checked is therefore what is used: a link that is put
in place of a folder in the meantime leads nowhere. A path is not judged by how its spelling would resolve.

Owns: which paths are refused, and a temporary from its creation until it is published or discarded; one that a crash
has left, the next writing in its folder removes.
Never: knows what the file holds, but for the first bytes of one that is to be replaced; makes a folder; opens a device
or a pipe.

Invariants:
- Below the data directory no link is followed, whichever part of the path it is.
- The log's directory is never entered. That of the snapshots is entered only to read. Both are known by device and
  inode, so neither a link nor a mount hides them; only the mount of a folder inside one of them is not recognised.
- An existing file is replaced only if the caller says so of its beginning. Looking and replacing are two system calls:
  whoever may write in the folder himself can put another file there in between, and that one is then replaced.
- A temporary gets a name that no file has, and is locked while it is written; nothing of another name is ever removed,
  and nothing that is locked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from gibramdb.errors import CallerError, InvalidArgumentError, NotFoundError, UnavailableError
from gibramdb.storage.files import FILE_MODE, TEMPORARY_SUFFIX, OsFileSystem
from gibramdb.storage.identity import IMPORT_NAME, LOCK_NAME, MARKER_NAME, Directories

if sys.platform != "win32":
    import fcntl  # there, nothing is saved

OWN_NAMES = frozenset({MARKER_NAME, IMPORT_NAME, LOCK_NAME, "recovery-report.json", "auto_cert.pem", "auto_key.pem"})
"""The store's own files in the data directory itself; in a folder of it these names mean nothing."""

NAME_BYTES_MAX = 255
"""Of one part of a path."""
PATH_BYTES_MAX = 4096
BEGINNING_BYTES = 64
"""What is looked at of a file that is to be replaced."""
_SHOWN_CHARACTERS_MAX = 200
_TEMPORARY_PREFIX = "unfinished-copy-"
_TEMPORARY_HEX = 16
_TEMPORARY_NAME = re.compile(f"{_TEMPORARY_PREFIX}[0-9a-f]{{{_TEMPORARY_HEX}}}{re.escape(TEMPORARY_SUFFIX)}")
"""No operator's file has such a name by chance: half of it is random."""

MayReplace = Callable[[bytes], bool]

_NOT_A_FILE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EEXIST})
"""How systems say that something other than what was looked for lies under a name."""

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_CAN_WALK = hasattr(os, "O_NOFOLLOW") and {os.open, os.stat, os.unlink, os.rename} <= os.supports_dir_fd
"""Not on Windows, where a client is offered all the same: asked when a path is, not when this is imported."""

_SYSTEM = OsFileSystem()

_Identity = tuple[int, int]
"""Device and inode: what a folder or file is, however it is spelled or reached."""


def open_for_reading(directories: Directories, path: str) -> int:
    """A descriptor of the regular file that the operator means; the caller closes it.

    Raises:
        CallerError: the path is refused, or there is no such file.
        UnavailableError: this platform can not open it safely.
        OSError: the system failed for a reason that is not the path's.
    """
    asked = _ask(directories, path, writing=False)
    folder_fd = _open_folder(asked)
    try:
        fd = _open_file(asked, folder_fd)
    finally:
        os.close(folder_fd)
    if fd is None:
        raise NotFoundError(f"{asked.shown}: there is no file {_cut(asked.resolved)}")
    return fd


def open_for_writing(directories: Directories, path: str, may_replace: MayReplace) -> Writing:
    """A new file that will take the name the operator gave, once it is whole.

    Args:
        directories: where the store lies.
        path: as the operator gave it.
        may_replace: whether an existing file of this name may be, by its first BEGINNING_BYTES.

    Raises:
        CallerError: the path is refused, its folder is missing, or something else has this name.
        UnavailableError: this platform can not open it safely.
        OSError: the system failed for a reason that is not the path's.
    """
    asked = _ask(directories, path, writing=True)
    folder_fd = _open_folder(asked)
    try:
        _check_target(asked, folder_fd, may_replace)  # said before the work is done, not only after it
        _remove_left_behind(folder_fd, may_replace)
        temporary, fd = _create_temporary(asked, folder_fd)
    except BaseException:
        os.close(folder_fd)
        raise
    return Writing(asked, folder_fd, temporary, fd, may_replace)


def check_for_writing(directories: Directories, path: str, may_replace: MayReplace) -> None:
    """Refuse now what `open_for_writing` would refuse later; makes nothing.

    Raises:
        CallerError, UnavailableError, OSError: as `open_for_writing`.
    """
    asked = _ask(directories, path, writing=True)
    if not directories.data.exists():
        return  # a store in memory makes it with its first copy
    folder_fd = _open_folder(asked)
    try:
        _check_target(asked, folder_fd, may_replace)
    finally:
        os.close(folder_fd)


class Writing:
    """A file on its way to its name. `fd` is open for reading and writing until `publish` or `discard`.

    As a context manager it discards what was not published.
    """

    def __init__(self, asked: _Asked, folder_fd: int, temporary: str, fd: int, may_replace: MayReplace) -> None:
        self.fd = fd
        self.resolved = asked.resolved
        """Where the published file lies, free of links."""
        self._asked = asked
        self._folder_fd = folder_fd
        self._temporary = temporary
        self._may_replace = may_replace
        self._open = True

    def publish(self) -> None:
        """Make the file durable under its name. Whatever happens, this writing is over afterwards.

        Raises:
            CallerError: something that may not be replaced has the name by now, or the folder is not where it was.
            OSError: the system failed. The name then holds the old file or the new one, never a part.
        """
        assert self._open, "published or discarded before"
        try:
            _SYSTEM.fsync(self.fd)
            self._check_place()
            _check_target(self._asked, self._folder_fd, self._may_replace)
            try:
                os.rename(
                    self._temporary,
                    self._asked.name,
                    src_dir_fd=self._folder_fd,
                    dst_dir_fd=self._folder_fd,
                )
            except OSError as error:
                raise self._asked.explained(error, self.resolved, self._folder_fd) from error
            _SYSTEM.fsync(self._folder_fd)
        finally:
            self.discard()

    def discard(self) -> None:
        """Close, and remove the temporary if it is still there. Nothing is left to do after `publish`."""
        if not self._open:
            return
        self._open = False
        try:
            if self._is_ours():
                os.unlink(self._temporary, dir_fd=self._folder_fd)
        except OSError:
            pass  # it must not hide why we are here; the next writing removes one that is left behind
        finally:
            os.close(self.fd)
            os.close(self._folder_fd)

    def _check_place(self) -> None:
        """A save may take minutes, and the operator is told a place: folder and temporary must still be there."""
        folder_fd = _open_folder(self._asked)
        try:
            moved = _identity(os.fstat(folder_fd)) != _identity(os.fstat(self._folder_fd))
        finally:
            os.close(folder_fd)
        if moved:
            raise self._asked.refused(f"another folder at {_cut(self.resolved.parent)} than when the writing began")
        if not self._is_ours():
            raise self._asked.refused("that the temporary was removed or replaced while it was written")

    def _is_ours(self) -> bool:
        try:
            found = os.stat(self._temporary, dir_fd=self._folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return _identity(found) == _identity(os.fstat(self.fd))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class _Asked(msgspec.Struct, frozen=True):
    """A path whose spelling is in order: folders below the data directory, and a name. Nothing was opened yet."""

    shown: str
    writing: bool
    directories: Directories
    root: Path
    folders: tuple[str, ...]
    name: str

    @property
    def resolved(self) -> Path:
        return self.root.joinpath(*self.folders, self.name)

    def refused(self, found: str) -> InvalidArgumentError:
        return _refusal(self.shown, found, self.directories, writing=self.writing)

    def explained(self, error: OSError, where: Path, folder_fd: int | None = None) -> CallerError | OSError:
        """What an error of the system means for the operator; with the folder, also what lies there instead."""
        if isinstance(error, PermissionError):
            return InvalidArgumentError(
                f"{self.shown}: the server's user may not open {_cut(where)}: {error.strerror}; "
                "next: give it access, or choose another path"
            )
        if isinstance(error, FileNotFoundError):
            return NotFoundError(
                f"{self.shown}: {_cut(where)} does not exist; next: make this folder, or choose another path"
            )
        if error.errno == errno.ENAMETOOLONG:
            return self.refused(f"the name {_cut(where.name)!r}, which is too long for this file system")
        if error.errno in _NOT_A_FILE:
            return self.refused(_placed(_what_lies_there(where.name, folder_fd), where))
        return OSError(error.errno, error.strerror, _cut(where))


def _cut(path: str | Path) -> str:
    """Both ends of a long one: a message must not grow with what was sent."""
    text = str(path)
    half = _SHOWN_CHARACTERS_MAX // 2
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:half]}…{text[-half:]}"


def _refusal(shown: str, found: str, directories: Directories, *, writing: bool) -> InvalidArgumentError:
    but = "the store's own files, wal_dir and snapshot_dir" if writing else "the store's own files and wal_dir"
    return InvalidArgumentError(
        f"{shown}: found {found}; allowed is a regular file in the data directory {directories.data} or in a folder of "
        f"it, reached without links and without '..', but for {but}"
    )


def _what_lies_there(name: str, folder_fd: int | None) -> str:
    try:
        return _kind(os.stat(name, dir_fd=folder_fd, follow_symlinks=False)) if folder_fd is not None else "no folder"
    except OSError:
        return "something else"  # it went away again; the refusal stands


def _kind(found: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(found.st_mode), "something else")


def _placed(kind: str, where: Path) -> str:
    # No link is followed, wherever it leads; the words are GibRAM's, for who looks for them.
    return f"{kind} at {_cut(where)}" + (", symlink escapes base directory" if kind == _KINDS[stat.S_IFLNK] else "")


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _ask(directories: Directories, path: str, *, writing: bool) -> _Asked:
    """Judges the spelling alone.

    Raises:
        InvalidArgumentError: it can not mean a file inside the data directory.
        UnavailableError: this platform lacks what the walk needs.
    """
    if not _CAN_WALK:
        raise UnavailableError("this platform can not open a file safely inside a folder: saving needs Linux or macOS")
    shown = repr(_cut(path))

    def refused(found: str) -> InvalidArgumentError:
        return _refusal(shown, found, directories, writing=writing)

    if not path.strip():
        raise refused("an empty path")
    if "\0" in path:
        raise refused("a NUL byte")
    try:
        path.encode()  # an answer must be able to repeat it; a lone surrogate could not be sent
        size_bytes = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise refused("characters that are not text") from None
    if size_bytes > PATH_BYTES_MAX:
        raise refused(f"a path of {size_bytes} bytes, more than {PATH_BYTES_MAX}")
    spelled = path.split("/")
    if ".." in spelled:
        leaves = os.path.normpath(path).startswith("..")
        raise refused("'..'" + (f", path escapes base directory: {shown}" if leaves else ""))
    root = Path(os.path.realpath(directories.data))  # Path.resolve raises RuntimeError on a loop of links
    parts = [part for part in spelled if part not in {"", "."}]
    if path.startswith("/"):
        inside = _below(parts, directories.data)
        if inside is None:
            inside = _below(parts, root)
        if inside is None:
            raise refused(f"an absolute path elsewhere, path escapes base directory: {shown}")
        parts = inside
    if not parts or spelled[-1] in {"", "."}:
        raise refused("the path of a folder, without a file name")
    *folders, name = parts
    for part in parts:
        if len(os.fsencode(part)) > NAME_BYTES_MAX:
            raise refused(f"a name of more than {NAME_BYTES_MAX} bytes")
    # Compared without case, because the file system may not tell LOCK from lock either.
    if name.casefold().endswith(TEMPORARY_SUFFIX):
        raise refused(f"a name that ends in {TEMPORARY_SUFFIX}, as only unfinished files do")
    return _Asked(shown, writing, directories, root, tuple(folders), name)


def _below(parts: list[str], directory: Path) -> list[str] | None:
    """What comes after the directory in an absolute path; None if the path does not begin with it."""
    above = list(directory.parts[1:])
    return parts[len(above) :] if parts[: len(above)] == above else None


def _open_folder(asked: _Asked) -> int:
    """Walks to the folder of the file, from the data directory.

    The data directory itself may be reached by links: its path is the configuration's.
    """
    barred = _barred(asked)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    where = asked.root
    try:
        fd = os.open(asked.directories.data, flags)
    except OSError as error:
        raise asked.explained(error, asked.directories.data) from error
    try:
        home = here = _identity(os.fstat(fd))
        _refuse_barred(asked, here, barred, where)
        for part in asked.folders:
            where /= part
            try:
                inner_fd = os.open(part, flags | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                raise asked.explained(error, where, fd) from error
            outer_fd, fd = fd, inner_fd
            os.close(outer_fd)
            here = _identity(os.fstat(fd))
            _refuse_barred(asked, here, barred, where)
        if here == home:
            _refuse_own_name(asked)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _barred(asked: _Asked) -> dict[_Identity, str]:
    """The directories that must not be entered, by device and inode. One that is not there can not be entered."""
    directories = asked.directories
    closed = [("wal_dir", directories.wal)]
    if asked.writing:
        closed.append(("snapshot_dir", directories.snapshots))
    barred = {}
    for name, directory in closed:
        try:
            barred[_identity(directory.stat())] = name
        except (FileNotFoundError, NotADirectoryError):
            continue  # a store in memory has none
        except OSError as error:
            raise asked.explained(error, directory) from error
    return barred


def _refuse_barred(asked: _Asked, here: _Identity, barred: dict[_Identity, str], where: Path) -> None:
    if here in barred:
        raise asked.refused(f"the store's {barred[here]} at {_cut(where)}")


def _refuse_own_name(asked: _Asked) -> None:
    if asked.name.casefold() in {own.casefold() for own in OWN_NAMES}:
        raise asked.refused(f"the store's own file {_cut(asked.resolved)}")


def _refuse_irregular(asked: _Asked, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise asked.refused(_placed(_kind(found), asked.resolved))


def _open_file(asked: _Asked, folder_fd: int) -> int | None:
    """The regular file under the name, for reading; None if nothing has this name."""
    try:
        # Looked at before it is opened: to open a pipe would wake its writer, to open a device may do anything.
        found = os.stat(asked.name, dir_fd=folder_fd, follow_symlinks=False)
        _refuse_irregular(asked, found)
        # And should a pipe be swapped in just now, opening it does not wait.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(asked.name, flags, dir_fd=folder_fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise asked.explained(error, asked.resolved, folder_fd) from error
    try:
        _refuse_irregular(asked, os.fstat(fd))
        os.set_blocking(fd, True)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_target(asked: _Asked, folder_fd: int, may_replace: MayReplace) -> None:
    """The name is free, or a file that may be replaced has it.

    Raises:
        CallerError: something else has it.
    """
    fd = _open_file(asked, folder_fd)
    if fd is None:
        return
    try:
        beginning = _SYSTEM.pread(fd, BEGINNING_BYTES, 0)
    finally:
        os.close(fd)
    if not may_replace(beginning):
        raise InvalidArgumentError(
            f"{asked.shown}: the file {_cut(asked.resolved)} is there already, and is no copy made by SAVE or BGSAVE, "
            "which alone may be replaced; next: choose another name"
        )


def _create_temporary(asked: _Asked, folder_fd: int) -> tuple[str, int]:
    """A new, empty file beside the target, under a name that nobody has."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        name = f"{_TEMPORARY_PREFIX}{secrets.token_hex(_TEMPORARY_HEX // 2)}{TEMPORARY_SUFFIX}"
        try:
            fd = os.open(name, flags, FILE_MODE, dir_fd=folder_fd)
        except OSError as error:
            raise asked.explained(error, asked.resolved.with_name(name), folder_fd) from error
        # So that another store that saves into this folder sees that somebody is at it.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return name, fd
        os.close(fd)  # it was removed before it was locked


def _remove_left_behind(folder_fd: int, may_replace: MayReplace) -> None:
    """Temporaries of writings that a crash has ended: by their names, and what they hold is ours, or nothing yet.

    Best effort: whatever can not be looked at stays.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(folder_fd):
            if _TEMPORARY_NAME.fullmatch(name):
                with contextlib.suppress(OSError):
                    _remove_if_left(name, folder_fd, may_replace)


def _remove_if_left(name: str, folder_fd: int, may_replace: MayReplace) -> None:
    if not stat.S_ISREG(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode):
        return
    # For writing: network file systems give no other such lock.
    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # otherwise another store is writing it
        beginning = _SYSTEM.pread(fd, BEGINNING_BYTES, 0)
        if may_replace(beginning) or not any(beginning):  # a power cut leaves zeros
            os.unlink(name, dir_fd=folder_fd)
    finally:
        os.close(fd)
