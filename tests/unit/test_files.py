"""The operating system's files keep the contract that the disk in memory keeps."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support.faulty_disk import FaultyDisk, Stopped

from gibramdb.storage.files import FileSystem, OsFileSystem, publish


@pytest.fixture(params=["the system", "in memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileSystem, Path]:
    if request.param == "the system":
        return OsFileSystem(), tmp_path
    return FaultyDisk(tmp_path), tmp_path


def test_bytes_come_back_as_they_were_written(place: tuple[FileSystem, Path]) -> None:
    fs, folder = place
    fd = fs.open_write(folder / "a", create=True)
    fs.pwrite(fd, b"hello", 3)
    fs.pwrite(fd, bytearray(b"HE"), 3)
    fs.pwrite(fd, memoryview(b"!"), 9)
    fs.fdatasync(fd)
    fs.fsync(fd)
    fs.drop_cache(fd)
    assert fs.size(fd) == 10
    assert fs.pread(fd, 100, 0) == b"\0\0\0HEllo\0!"
    assert fs.pread(fd, 2, 4) == b"El"
    assert fs.pread(fd, 2, 10) == b""
    fs.allocate(fd, 8, 20)
    assert fs.size(fd) == 28
    fs.allocate(fd, 0, 4)
    assert fs.pread(fd, 100, 8) == b"\0!" + bytes(18)
    fs.truncate(fd, 5)
    fs.truncate(fd, 6)
    assert fs.pread(fd, 100, 0) == b"\0\0\0HE\0"
    fs.close(fd)


def test_a_new_file_must_be_new_and_an_old_one_there(place: tuple[FileSystem, Path]) -> None:
    fs, folder = place
    fs.close(fs.open_write(folder / "a", create=True))
    with pytest.raises(FileExistsError):
        fs.open_write(folder / "a", create=True)
    for missing in (fs.open_write, fs.open_read, fs.unlink):
        with pytest.raises(FileNotFoundError):
            missing(folder / "b")
    with pytest.raises(FileNotFoundError):
        fs.list_dir(folder / "b")
    fd = fs.open_read(folder / "a")
    with pytest.raises(OSError, match=rf"Errno {errno.EBADF}"):
        fs.pwrite(fd, b"x", 0)
    fs.close(fd)


def test_names_are_made_replaced_and_removed(place: tuple[FileSystem, Path]) -> None:
    fs, folder = place
    inner = folder / "inner"
    fs.make_dir(inner)
    with pytest.raises(FileExistsError):
        fs.make_dir(inner)
    publish(fs, inner / "a", b"1")
    publish(fs, inner / "a", b"22")
    publish(fs, inner / "b", b"3")
    fs.replace(inner / "b", inner / "c")
    fs.sync_dir(inner)
    assert fs.list_dir(inner) == ["a", "c"]
    assert fs.exists(inner / "a")
    fs.unlink(inner / "a")
    assert not fs.exists(inner / "a")
    assert not fs.exists(folder / "nowhere" / "a")
    assert fs.exists(inner)


def test_a_lock_has_one_owner_until_its_descriptor_is_closed(place: tuple[FileSystem, Path]) -> None:
    fs, folder = place
    first = fs.lock(folder / "LOCK")
    with pytest.raises(BlockingIOError):
        fs.lock(folder / "LOCK")
    with pytest.raises(BlockingIOError):
        fs.lock(folder / "LOCK", create=False)
    fs.close(first)
    readers = [fs.lock(folder / "LOCK", create=False) for _ in range(2)]
    with pytest.raises(BlockingIOError):
        fs.lock(folder / "LOCK")
    for reader in readers:
        fs.close(reader)
    fs.close(fs.lock(folder / "LOCK"))


def test_files_and_folders_are_their_owners_alone(tmp_path: Path) -> None:
    fs = OsFileSystem()
    previous = os.umask(0)
    try:
        fs.make_dir(tmp_path / "folder")
        publish(fs, tmp_path / "file", b"")
        fs.close(fs.lock(tmp_path / "LOCK"))
    finally:
        os.umask(previous)
    assert [(p.name, p.stat().st_mode & 0o777) for p in sorted(tmp_path.iterdir())] == [
        ("LOCK", 0o600),
        ("file", 0o600),
        ("folder", 0o700),
    ]


def test_a_descriptor_is_not_inherited(tmp_path: Path) -> None:
    fs = OsFileSystem()
    for fd in (
        fs.open_write(tmp_path / "a", create=True),
        fs.open_read(tmp_path / "a"),
        fs.lock(tmp_path / "L"),
    ):
        assert not os.get_inheritable(fd)
        fs.close(fd)


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, bytes(data)[:7], offset))
    fs = OsFileSystem()
    fd = fs.open_write(tmp_path / "a", create=True)
    fs.pwrite(fd, bytes(range(100)), 5)
    assert fs.pread(fd, 200, 0) == bytes(5) + bytes(range(100))
    fs.close(fd)


def test_a_short_read_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: whole(fd, min(length, 7), offset))
    fs = OsFileSystem()
    publish(fs, tmp_path / "a", bytes(range(100)))
    fd = fs.open_read(tmp_path / "a")
    assert fs.pread(fd, 50, 10) == bytes(range(10, 60))
    assert fs.pread(fd, 500, 10) == bytes(range(10, 100))
    fs.close(fd)


def test_a_write_that_the_system_cuts_short_raises_what_stopped_it(tmp_path: Path) -> None:
    # In a process of its own, because the limit can not be lifted again.
    script = """
import resource, sys
from pathlib import Path
from gibramdb.storage.files import OsFileSystem
fs = OsFileSystem()
fd = fs.open_write(Path(sys.argv[1]), create=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    fs.pwrite(fd, bytes(3000), 0)
except OSError as error:
    print(error.errno, fs.size(fd))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG), "1000"]


@pytest.mark.parametrize("seed", range(10))
def test_publishing_gives_the_old_file_or_the_new_one(seed: int) -> None:
    rng = random.Random(seed)
    folder = Path("/store")
    outcomes = set()
    for call in range(1, 9):
        disk = FaultyDisk(folder, seed=seed)
        publish(disk, folder / "a", b"old")
        disk.stop_at(call)
        published = False
        try:
            publish(disk, folder / "a", b"new")
            published = True
        except Stopped:
            pass
        found = disk.after_power_cut(rng).read(folder / "a")
        assert found == b"new" if published else found in {b"old", b"new"}
        outcomes.add((found, published))
    assert {(b"old", False), (b"new", True)} <= outcomes
