"""Whatever path an operator sends, only regular files inside the data directory are opened, made or replaced."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gibramdb.database.opening import REPORT_NAME
from gibramdb.errors import CallerError, InvalidArgumentError, NotFoundError
from gibramdb.server.tls import AUTO_CERT_NAME, AUTO_KEY_NAME
from gibramdb.storage.files import TEMPORARY_SUFFIX
from gibramdb.storage.identity import IMPORT_NAME, LOCK_NAME, MARKER_NAME, Directories
from gibramdb.storage.operator_path import NAME_BYTES_MAX, OWN_NAMES, open_for_reading, open_for_writing

MAGIC = b"MAGIC\0"
SAVED = MAGIC + b" what was saved"


def is_ours(beginning: bytes) -> bool:
    return beginning.startswith(MAGIC)


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="saving is not offered there")


class Tree:
    """A store in a data directory, and a canary outside of it."""

    def __init__(self, base: Path) -> None:
        self.data, self.outside = base / "data", base / "outside"
        self.directories = Directories(self.data, self.data / "session_wal", self.data / "session_snapshots")
        for folder in (*(path for _, path in self.directories.by_role()), self.outside):
            folder.mkdir()
            (folder / MARKER_NAME).write_bytes(b"{}")
            (folder / LOCK_NAME).touch()
        (self.directories.wal / "1.log").write_bytes(SAVED)
        (self.directories.snapshots / "1.snapshot").write_bytes(SAVED)
        (self.outside / "secret").write_bytes(SAVED)
        (self.outside / "inner").mkdir()
        (self.data / "folder" / "inner").mkdir(parents=True)
        (self.data / "saved").write_bytes(SAVED)
        (self.data / "notes").write_bytes(b"not ours")
        (self.data / "empty").touch()
        for name, target in (
            ("to_outside", self.outside),
            ("to_folder", Path("folder")),
            ("to_secret", self.outside / "secret"),
            ("to_saved", Path("saved")),
            ("to_new", self.outside / "new"),
            ("to_itself", Path("to_itself")),
            ("to_wal", self.directories.wal),
        ):
            (self.data / name).symlink_to(target)
        (self.data / "folder" / "up").symlink_to("..")

    def canary(self) -> dict[str, object]:
        """All that no writing may change: what lies outside, and what is the store's own."""
        d = self.directories
        own = [d.data / MARKER_NAME, d.data / LOCK_NAME, d.data / "notes"]
        return {
            str(path): (os.lstat(path)[:4], os.lstat(path).st_mtime_ns, path.is_file() and path.read_bytes())
            for top in (self.outside, d.wal, d.snapshots)
            for path in (top, *sorted(top.rglob("*")), *own)
        }

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.data)) for path in self.data.rglob("*"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def temporaries(tree: Tree) -> list[Path]:
    return list(tree.data.rglob(f"*{TEMPORARY_SUFFIX}"))


def read(tree: Tree, path: str) -> bytes:
    fd = open_for_reading(tree.directories, path)
    try:
        return os.read(fd, 1000)
    finally:
        os.close(fd)


def write(tree: Tree, path: str, data: bytes = SAVED) -> Path:
    with open_for_writing(tree.directories, path, is_ours) as writing:
        os.write(writing.fd, data)
        writing.publish()
        return writing.resolved


Way = Callable[[Tree, str], object]
both = pytest.mark.parametrize("way", [read, write])


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@contextmanager
def unchanged(tree: Tree) -> Iterator[None]:
    """And no descriptor is left open."""
    canary, names, descriptors = tree.canary(), tree.names(), open_descriptors()
    yield
    assert tree.canary() == canary
    assert tree.names() == names
    assert open_descriptors() == descriptors


# --- what is allowed ---


@pytest.mark.parametrize(
    "path",
    ["new", "./new", "folder//inner/./new", "folder/ü \u202e.x", "saved", "folder/LOCK", "folder/..x", "...", "~"],
)
def test_a_file_in_the_data_directory_or_a_folder_of_it(tree: Tree, path: str) -> None:
    canary = tree.canary()
    resolved = write(tree, path, MAGIC + b"1")
    assert resolved.read_bytes() == MAGIC + b"1"
    assert resolved == tree.data.resolve() / path
    assert stat.S_IMODE(resolved.stat().st_mode) == 0o600
    write(tree, path, MAGIC + b"22")
    assert read(tree, path) == read(tree, str(tree.data / path)) == MAGIC + b"22"
    assert tree.canary() == canary
    assert not temporaries(tree)


def test_an_absolute_path_may_spell_the_data_directory_as_configured_or_as_resolved(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    configured = tmp_path / "link" / "data"
    (tmp_path / "disk" / "data").mkdir()
    directories = Directories(configured, configured / "wal", configured / "snapshots")
    for number, path in enumerate(("a", str(configured / "a"), str(configured.resolve() / "a"), f"/{configured}//a")):
        data = MAGIC + b"%d" % number
        with open_for_writing(directories, path, is_ours) as writing:
            os.write(writing.fd, data)
            writing.publish()
            assert writing.resolved == configured.resolve() / "a"
        assert (tmp_path / "disk" / "data" / "a").read_bytes() == data
    for path in (str(configured), str(configured.resolve())):
        with pytest.raises(InvalidArgumentError, match="without a file name"):
            open_for_writing(directories, path, is_ours)


def test_a_snapshot_may_be_read_and_not_written(tree: Tree) -> None:
    with unchanged(tree):
        assert read(tree, "session_snapshots/1.snapshot") == SAVED
        for path in ("session_snapshots/1.snapshot", "session_snapshots/new"):
            with pytest.raises(InvalidArgumentError, match="snapshot_dir"):
                write(tree, path)


# --- what is refused ---

LONGEST = "n" * NAME_BYTES_MAX
REFUSED = [
    ("", "empty path"),
    (" ", "empty path"),
    ("/", "an absolute path elsewhere"),
    (".", "without a file name"),
    ("folder/", "without a file name"),
    ("folder/.", "without a file name"),
    ("..", r"found '\.\.'"),
    ("../outside/secret", r"found '\.\.'"),
    ("folder/../saved", r"found '\.\.'"),
    ("nowhere/../../outside/secret", r"found '\.\.'"),
    ("saved/..", r"found '\.\.'"),
    ("/etc/passwd", "an absolute path elsewhere"),
    ("/dev/null", "an absolute path elsewhere"),
    ("a\0b", "a NUL byte"),
    ("\0", "a NUL byte"),
    ("\ud800", "not text"),
    ("\udcff", "not text"),
    (LONGEST + "n", "a name of more than"),
    ("n" * 256 + "/a", "a name of more than"),
    ("ü" * 128, "a name of more than"),
    ("a/" * 2048 + "a", "a path of 4097 bytes"),
    ("new" + TEMPORARY_SUFFIX, "unfinished"),
    ("folder/new" + TEMPORARY_SUFFIX.upper(), "unfinished"),
    (TEMPORARY_SUFFIX, "unfinished"),
    (MARKER_NAME, "own file"),
    (LOCK_NAME, "own file"),
    (REPORT_NAME, "own file"),
    ("./lock", "own file"),
    ("session_wal/1.log", "wal_dir"),
    ("session_wal/new", "wal_dir"),
    ("to_outside/secret", "a link at"),
    ("to_outside/new", "a link at"),
    ("to_folder/new", "a link at"),
    ("folder/up/saved", "a link at"),
    ("to_wal/1.log", "a link at"),
    ("to_itself/new", "a link at"),
    ("to_new/new", "a link at"),
    ("to_secret", "a link at"),
    ("to_saved", "a link at"),
    ("to_new", "a link at"),
    ("to_itself", "a link at"),
    ("folder", "a folder at"),
    ("session_wal", "a folder at"),
    ("session_snapshots", "a folder at"),
    ("saved/new", "a file at"),
]


@both
@pytest.mark.parametrize(("path", "found"), REFUSED)
def test_refused_with_the_path_what_was_found_and_what_is_allowed(tree: Tree, way: Way, path: str, found: str) -> None:
    with unchanged(tree), pytest.raises(InvalidArgumentError, match=found) as refused:
        way(tree, path)
    message = str(refused.value)
    assert message.startswith(repr(path)[:100])
    assert "allowed is a regular file in the data directory" in message
    assert len(message.encode()) < 2000  # and can be sent, whatever the path was


@both
def test_absolute_paths_beside_the_data_directory_are_refused(tree: Tree, way: Way) -> None:
    beside = tree.data.with_name("data2")
    beside.mkdir()
    (beside / "saved").write_bytes(SAVED)
    for path in (beside / "saved", tree.outside / "secret", tree.data.parent / "saved"):
        with unchanged(tree), pytest.raises(InvalidArgumentError, match="an absolute path elsewhere"):
            way(tree, str(path))
    for path in (tree.data / "to_outside" / "secret", tree.data / "to_secret"):
        with unchanged(tree), pytest.raises(InvalidArgumentError, match="a link at"):
            way(tree, str(path))


def test_the_longest_name_can_be_written_and_read(tree: Tree) -> None:
    write(tree, LONGEST)
    assert read(tree, LONGEST) == SAVED


def test_every_file_of_the_store_is_known() -> None:
    assert {MARKER_NAME, IMPORT_NAME, LOCK_NAME, REPORT_NAME, AUTO_CERT_NAME, AUTO_KEY_NAME} == OWN_NAMES


@both
def test_a_missing_folder_is_named_and_not_made(tree: Tree, way: Way) -> None:
    with unchanged(tree), pytest.raises(NotFoundError, match=rf"{tree.data}/folder/nowhere does not exist"):
        way(tree, "folder/nowhere/deeper/new")


def test_a_missing_file_is_not_found(tree: Tree) -> None:
    with unchanged(tree), pytest.raises(NotFoundError, match=f"there is no file {tree.data}/folder/new"):
        read(tree, "folder/new")


@both
def test_a_missing_data_directory_is_named(tree: Tree, way: Way) -> None:
    shutil.rmtree(tree.data)
    with pytest.raises(NotFoundError, match=f"{tree.data} does not exist"):
        way(tree, "new")


def test_a_data_directory_that_is_the_log_directory_by_another_name_takes_no_file(tree: Tree) -> None:
    other = tree.data.with_name("other")
    other.symlink_to(tree.directories.wal)
    directories = Directories(other, tree.directories.wal, tree.directories.snapshots)
    with unchanged(tree), pytest.raises(InvalidArgumentError, match="the store's wal_dir"):
        open_for_writing(directories, "new", is_ours)


@both
def test_sockets_and_devices_are_refused(
    tree: Tree, way: Way, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.data)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with unchanged(tree), pytest.raises(InvalidArgumentError, match="a socket at"):
            way(tree, "socket")
        with unchanged(tree), pytest.raises(InvalidArgumentError, match="a socket at"):
            way(tree, "socket/new")
    try:
        os.mknod(tree.data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        return  # only root makes devices
    for path in ("null", "null/new"):
        with unchanged(tree), pytest.raises(InvalidArgumentError, match="a device at"):
            way(tree, path)


@both
def test_a_pipe_is_refused_without_waiting_and_without_waking_its_writer(tree: Tree, way: Way) -> None:
    pipe = tree.data / "pipe"
    os.mkfifo(pipe)
    woken = threading.Event()

    def wait_for_a_reader() -> None:
        os.close(os.open(pipe, os.O_WRONLY))
        woken.set()

    writer = threading.Thread(target=wait_for_a_reader)
    writer.start()
    time.sleep(0.05)  # it waits in open by now
    try:
        for path in ("pipe", "pipe/new"):
            with pytest.raises(InvalidArgumentError, match="a pipe at"):
                way(tree, path)
        assert not woken.wait(0.1)
    finally:
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        writer.join()


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may open everything")
@both
def test_a_lack_of_rights_is_reported_with_the_place(tree: Tree, way: Way) -> None:
    folder = tree.data / "folder"
    for place, path in ((folder, "folder/new"), (folder / "inner", "folder/inner/new"), (tree.data / "saved", "saved")):
        mode = stat.S_IMODE(place.stat().st_mode)
        place.chmod(0)
        try:
            with pytest.raises(InvalidArgumentError, match=f"may not open {place}: Permission denied; next: give"):
                way(tree, path)
        finally:
            place.chmod(mode)
    folder.chmod(0o500)
    with unchanged(tree), pytest.raises(InvalidArgumentError, match=f"may not open {folder}/new.*Permission denied"):
        write(tree, "folder/new")
    folder.chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root mounts, on Linux")
@both
def test_a_mount_of_one_of_the_stores_directories_is_recognised(tree: Tree, way: Way) -> None:
    """In a mount namespace of its own, so that nothing stays mounted."""
    script = f"""
import sys
from pathlib import Path
sys.path[:0] = {[*sys.path, str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
from test_operator_path import *
class There(Tree):
    def __init__(self): self.data = Path({str(tree.data)!r}); \
self.directories = Directories(self.data, self.data / "session_wal", self.data / "session_snapshots")
refused = [("folder/inner/1.log", "wal_dir"), ("folder/inner/new", "wal_dir"), ("empty_data/LOCK", "own file")]
refused += [("empty_data/session_wal/new", "wal_dir")]
if {way.__name__} is write:
    refused += [("second/new", "snapshot_dir"), ("second/1.snapshot", "snapshot_dir")]
else:
    assert read(There(), "second/1.snapshot") == SAVED
for path, found in refused:
    try:
        {way.__name__}(There(), path)
    except InvalidArgumentError as error:
        assert found in str(error), str(error)
    else:
        raise AssertionError(path)
"""
    mounts = {
        tree.directories.wal: "folder/inner",
        tree.directories.snapshots: "second",
        tree.data: "empty_data",
    }
    for place in mounts.values():
        (tree.data / place).mkdir(exist_ok=True)
    mount = " && ".join(f"mount --bind '{what}' '{tree.data}/{place}'" for what, place in mounts.items())
    mount += ' || exit 77; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, sys.executable, script], capture_output=True, text=True, timeout=180
    )
    if done.returncode in {1, 77} and ("unshare" in done.stderr or "mount:" in done.stderr):
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def test_where_the_platform_lacks_the_walk_it_is_imported_and_refuses() -> None:
    script = """
import os
for name in ("O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY"):
    delattr(os, name)
from pathlib import Path
from gibramdb.errors import UnavailableError
from gibramdb.storage import operator_path
from gibramdb.storage.identity import Directories
there = Directories(*[Path("/nowhere")] * 3)
for call in (operator_path.open_for_reading, lambda *a: operator_path.open_for_writing(*a, bool)):
    try:
        call(there, "a")
    except UnavailableError as error:
        assert "platform" in str(error)
    else:
        raise AssertionError
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=180).returncode == 0


# --- a writing, from creation to its name ---


@pytest.mark.parametrize("name", ["notes", "empty"])
def test_an_existing_file_without_the_magic_stays(tree: Tree, name: str) -> None:
    with (
        unchanged(tree),
        pytest.raises(InvalidArgumentError, match="is there already, and is no copy made by SAVE"),
    ):
        write(tree, name)


def test_nothing_has_the_name_before_it_is_published_and_the_temporary_is_gone_when_discarded(tree: Tree) -> None:
    with unchanged(tree):
        with open_for_writing(tree.directories, "saved", is_ours) as writing:
            os.write(writing.fd, MAGIC + b"new")
            assert (tree.data / "saved").read_bytes() == SAVED
            assert len(temporaries(tree)) == 1
        writing.discard()
    assert (tree.data / "saved").read_bytes() == SAVED


def test_the_next_writing_removes_what_a_crash_has_left_and_nothing_of_the_operators(tree: Tree) -> None:
    for name in ("new", "saved", "other", "unfinished-copy-", "unfinished-copy-0123456789abcdeg", ".new"):
        (tree.data / f"{name}{TEMPORARY_SUFFIX}").write_bytes(SAVED)
    (tree.data / f"unfinished-copy-{0:016}{TEMPORARY_SUFFIX}").write_bytes(b"not ours")
    (tree.data / f"unfinished-copy-{1:016}{TEMPORARY_SUFFIX}").symlink_to(tree.outside / "secret")
    (tree.data / f"unfinished-copy-{2:016}{TEMPORARY_SUFFIX}").mkdir()
    operators, canary, descriptors = tree.names(), tree.canary(), open_descriptors()
    for content in (SAVED, b"", bytes(100)):
        (tree.data / f"unfinished-copy-{3:016}{TEMPORARY_SUFFIX}").write_bytes(content)
        with pytest.raises(InvalidArgumentError):
            write(tree, "notes")
        assert write(tree, "written").read_bytes() == SAVED
        (tree.data / "written").unlink()
        assert tree.names() == operators
    assert tree.canary() == canary
    assert open_descriptors() == descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a sync is asked for in another way")
def test_what_another_store_is_writing_stays(tree: Tree) -> None:
    """Of two stores in memory, say, with one data directory, which own no lock on it."""
    with open_for_writing(tree.directories, "one", is_ours) as one:
        os.write(one.fd, SAVED)
        for name in ("two", "three"):
            write(tree, name)
        one.publish()
    assert temporaries(tree) == []
    assert [read(tree, name) for name in ("one", "two", "three")] == [SAVED] * 3


def test_the_file_is_synced_before_it_has_its_name_and_its_folder_afterwards(tree: Tree) -> None:
    done: list[object] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        done.append(os.fstat(fd).st_ino)
        real_fsync(fd)

    def rename(*arguments: Any, **folders: Any) -> None:
        done.append("renamed")
        real_rename(*arguments, **folders)

    with patch.object(os, "fsync", fsync), patch.object(os, "rename", rename):
        written = write(tree, "folder/new")
    assert done == [written.stat().st_ino, "renamed", written.parent.stat().st_ino]


def test_a_long_path_is_cut_in_what_is_said(tree: Tree) -> None:
    folders = ["n" * 200] * 15
    there = tree.data.joinpath(*folders)
    there.mkdir(parents=True)
    (there / "link").symlink_to(tree.outside)
    for name in ("link", "link/new", "nowhere/new"):
        with pytest.raises(CallerError, match=name.partition("/")[0]) as refused:
            write(tree, "/".join([*folders, name]))
        assert len(str(refused.value)) < 1_500


def _link(tree: Tree) -> None:
    (tree.data / "folder" / "new").symlink_to(tree.outside / "secret")


def _foreign_file(tree: Tree) -> None:
    (tree.data / "folder" / "new").write_bytes(b"foreign")


def _folder(tree: Tree) -> None:
    (tree.data / "folder" / "new").mkdir()


def _folder_becomes_a_link(tree: Tree) -> None:
    (tree.data / "folder").rename(tree.data / "aside")
    (tree.data / "folder").symlink_to(tree.outside)


def _folder_becomes_another(tree: Tree) -> None:
    (tree.data / "folder").rename(tree.data / "aside")
    (tree.data / "folder").mkdir()


def _folder_moves_away(tree: Tree) -> None:
    (tree.data / "folder").rename(tree.data.parent / "aside")


def _temporary_is_replaced(tree: Tree) -> None:
    (temporary,) = temporaries(tree)
    temporary.rename(tree.data / "aside")
    temporary.symlink_to(tree.outside / "secret")


def _temporary_is_removed(tree: Tree) -> None:
    (temporary,) = temporaries(tree)
    temporary.unlink()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_link, "a link at"),
        (_foreign_file, "is there already"),
        (_folder, "a folder at"),
        (_folder_becomes_a_link, "a link at"),
        (_folder_becomes_another, "another folder"),
        (_folder_moves_away, "does not exist"),
        (_temporary_is_replaced, "temporary"),
        (_temporary_is_removed, "temporary"),
    ],
)
def test_what_changed_while_the_file_was_written_is_noticed(
    tree: Tree, change: Callable[[Tree], None], found: str
) -> None:
    writing = open_for_writing(tree.directories, "folder/new", is_ours)
    os.write(writing.fd, SAVED)
    change(tree)
    canary, names = tree.canary(), tree.names()
    with pytest.raises(CallerError, match=found):
        writing.publish()
    assert tree.canary() == canary
    gone = set(names) - set(tree.names())
    assert all(re.fullmatch(r"(folder|aside)/unfinished-copy-[0-9a-f]{16}\.tmp", name) for name in gone)
    assert set(tree.names()) <= set(names)


@contextmanager
def just_before_opening(name: str, change: Callable[[], None]) -> Iterator[None]:
    """Everything has been looked at by now; what is opened is another thing."""
    real_open = os.open

    def late_open(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == name:
            change()
        return real_open(path, flags, mode, dir_fd=dir_fd)

    with patch.object(os, "open", late_open):
        yield


def test_what_is_swapped_in_between_look_and_open_is_not_followed_and_not_waited_for(tree: Tree) -> None:
    saved, temporary = tree.data / "saved", f"unfinished-copy-{0:016}{TEMPORARY_SUFFIX}"
    canary, descriptors = tree.canary(), open_descriptors()

    def link() -> None:
        saved.unlink()
        saved.symlink_to(tree.outside / "secret")

    def pipe() -> None:
        saved.unlink()
        os.mkfifo(saved)

    for change, found in ((link, "a link at"), (pipe, "a pipe at")):
        with just_before_opening("saved", change), pytest.raises(InvalidArgumentError, match=found):
            read(tree, "saved")
        saved.unlink()
        saved.write_bytes(SAVED)
    for target in (tree.outside / "secret", tree.outside / "new"):
        with (
            patch("secrets.token_hex", lambda length: "00" * length),
            just_before_opening(temporary, lambda to=target: (tree.data / temporary).symlink_to(to)),  # type: ignore[misc]
            pytest.raises(InvalidArgumentError, match="a link at"),
        ):
            write(tree, "new")
        (tree.data / temporary).unlink()
    assert tree.canary() == canary
    assert open_descriptors() == descriptors


@both
def test_the_log_directory_swapped_in_for_a_folder_is_recognised(tree: Tree, way: Way) -> None:
    folder, aside = tree.data / "folder", tree.data / "aside"

    def swap() -> None:
        folder.rename(aside)
        tree.directories.wal.rename(folder)

    names = sorted(path.name for path in tree.directories.wal.iterdir())
    descriptors = open_descriptors()
    with just_before_opening("folder", swap), pytest.raises(InvalidArgumentError, match="the store's wal_dir"):
        way(tree, "folder/1.log")
    assert sorted(path.name for path in folder.iterdir()) == names
    assert open_descriptors() == descriptors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_swapped_in_between_look_and_open_is_refused(tree: Tree) -> None:
    saved = tree.data / "saved"

    def device() -> None:
        saved.unlink()
        os.mknod(saved, stat.S_IFCHR | 0o666, os.makedev(1, 5))

    for way in (read, write):
        with just_before_opening("saved", device), pytest.raises(InvalidArgumentError, match="a device at"):
            way(tree, "saved")
        saved.unlink()
        saved.write_bytes(SAVED)


def test_of_two_writings_of_one_name_the_one_that_ends_last_counts(tree: Tree) -> None:
    earlier = open_for_writing(tree.directories, "new", is_ours)
    later = open_for_writing(tree.directories, "new", is_ours)
    os.write(earlier.fd, MAGIC + b"1")
    os.write(later.fd, MAGIC + b"2")
    later.publish()
    earlier.publish()
    assert read(tree, "new") == MAGIC + b"1"
    assert temporaries(tree) == []


def test_a_temporary_that_is_removed_meanwhile_is_told_of(tree: Tree) -> None:
    writing = open_for_writing(tree.directories, "new", is_ours)
    os.write(writing.fd, SAVED)
    (temporary,) = temporaries(tree)
    temporary.unlink()
    with pytest.raises(InvalidArgumentError, match="temporary"):
        writing.publish()
    assert not (tree.data / "new").exists()


# --- any spelling, and a race ---


@contextmanager
def only_opened_in(data: Path) -> Iterator[None]:
    """Every descriptor that is opened meanwhile is, by the kernel's own account, the data directory or inside it."""
    real_open = os.open

    def spying_open(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = real_open(path, flags, mode, dir_fd=dir_fd)
        if Path("/proc/self/fd").exists():
            assert Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(data), (path, flags)
        return fd

    with patch.object(os, "open", spying_open):
        yield


@pytest.fixture(scope="module")
def lasting_tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("lasting").resolve())


KNOWN = [
    *("..", ".", "", "folder", "inner", "up", "saved", "notes", "secret", "new", "session_wal", "session_snapshots"),
    *(
        "1.log",
        "1.snapshot",
        "to_outside",
        "to_folder",
        "to_secret",
        "to_new",
        "to_wal",
        "to_itself",
        "outside",
        "data",
    ),
    *(
        MARKER_NAME,
        LOCK_NAME,
        "LO\u212a",
        "．．",
        "。。",
        "..\u200b",
        ".. ",
        "%2e%2e",
        "..\\..",
        "~",
        "\0",
        "\ud800",
        "ü",
    ),
]
PART = st.one_of(st.sampled_from(KNOWN), st.sampled_from(KNOWN), st.text(max_size=6), st.just("n" * 256))
PREFIX = st.sampled_from(
    ["", "", "/", "//", "DATA/", "DATA//", "DATA", "OUTSIDE/", "DATA/../outside/", "/proc/self/cwd/"]
)


@given(prefix=PREFIX, parts=st.lists(PART, max_size=6))
@example(prefix="DATA/", parts=["to_outside", "secret"])
@example(prefix="", parts=["folder", "up", "to_new"])
@example(prefix="DATA", parts=["", "..", "outside", "new"])
@example(prefix="", parts=["folder", "new"])
@settings(max_examples=600, deadline=None)
def test_no_spelling_leads_outside(lasting_tree: Tree, prefix: str, parts: list[str]) -> None:
    tree = lasting_tree
    prefix = prefix.replace("DATA", str(tree.data)).replace("OUTSIDE", str(tree.outside))
    path = prefix + "/".join(parts)
    canary, names = tree.canary(), tree.names()
    with only_opened_in(tree.data):
        try:
            fd = open_for_reading(tree.directories, path)
        except CallerError as error:
            str(error).encode()
        else:
            os.close(fd)
        try:
            with open_for_writing(tree.directories, path, is_ours) as writing:
                os.write(writing.fd, SAVED)
                writing.publish()
                made = writing.resolved
        except CallerError as error:
            str(error).encode()
            made = None
    assert tree.canary() == canary
    if made is not None:
        assert ".." not in path.split("/")
        assert made.resolve() == made  # no link on the way
        assert made.is_relative_to(tree.data)
        assert set(tree.names()) - set(names) <= {str(made.relative_to(tree.data))}
        assert made.read_bytes() == SAVED
        if made.name != "saved":
            made.unlink()
    else:
        assert tree.names() == names


def test_a_folder_swapped_with_a_link_all_the_time_never_leads_outside(tree: Tree) -> None:
    folder, aside = tree.data / "folder", tree.data / "aside"
    canary, descriptors = tree.canary(), open_descriptors()
    over = threading.Event()

    def swap() -> None:
        chance = random.Random(1)
        while not over.is_set():
            folder.rename(aside)
            folder.symlink_to(tree.outside)
            time.sleep(chance.random() / 10_000)
            folder.unlink()
            aside.rename(folder)
            time.sleep(
                chance.random() / 2_000
            )  # long enough that some are published, short enough to hit others midway

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = {"published": 0, "refused at once": 0, "refused at the end": 0}
    try:
        for number in range(2000):
            # Both names exist outside, too: whoever followed the link would replace the one or fill the other.
            path = ("folder/secret", "folder/inner/new")[number % 2]
            outcome = "refused at once"
            try:
                with open_for_writing(tree.directories, path, is_ours) as writing:
                    outcome = "refused at the end"
                    os.write(writing.fd, MAGIC + b"swapped")
                    writing.publish()
                outcome = "published"
            except CallerError:
                pass
            outcomes[outcome] += 1
            try:
                assert read(tree, path) == MAGIC + b"swapped"
            except CallerError:
                pass
    finally:
        over.set()
        swapper.join()
    assert tree.canary() == canary
    assert open_descriptors() == descriptors
    assert all(outcomes.values()), outcomes
    print(outcomes)
    assert not temporaries(tree)
