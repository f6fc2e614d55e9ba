"""One owner, and never empty by mistake: second processes, missing volumes, first starts cut short."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.server import RefusedError, Server
from support.strace import needs_strace, strace
from support.timing import TIMED, slowness

import gibramdb
from gibramdb.clock import SystemClock
from gibramdb.config import load_config
from gibramdb.database.opening import open_store, unserved
from gibramdb.errors import ClosedError, MissingStoreError, StorageError, StoreLockedError
from gibramdb.storage.files import OsFileSystem


def tree_hash(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(f"{path.relative_to(directory)} {path.stat().st_mtime_ns}".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def filled(directory: Path) -> None:
    with gibramdb.open(directory, vector_dim=8) as db:
        db.session("s").add_entity("e", "kept")


@TIMED
def test_a_second_server_is_refused_at_once_and_changes_nothing(tmp_path: Path) -> None:
    data, link = tmp_path / "data", tmp_path / "link"
    with Server(data) as owner:
        link.symlink_to(data)
        time.sleep(0.3)  # the owner's log comes to rest
        before = tree_hash(data)
        for again in (data, link, Path(os.path.relpath(data))):
            began = time.monotonic()
            with pytest.raises(RefusedError) as refusal:
                Server(again).kill()
            assert time.monotonic() - began < 3 * slowness(time.monotonic)
            assert refusal.value.status == 73
            assert f"process {owner.pid}" in refusal.value.output
        with pytest.raises(StoreLockedError):
            gibramdb.open(data, vector_dim=8)
        assert tree_hash(data) == before
        owner.kill()
    with Server(data) as successor:
        assert successor.stop() < 5


def test_of_servers_started_together_on_an_empty_directory_one_serves(tmp_path: Path) -> None:
    serving: list[Server] = []
    refused: list[int] = []

    def start() -> None:
        try:
            serving.append(Server(tmp_path / "data"))
        except RefusedError as refusal:
            refused.append(refusal.status)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert len(serving) == 1
        assert refused == [73] * 3
        with serving[0].connect() as store:
            store.session("s").add_entity("e", "kept")
    finally:
        for server in serving:
            server.kill()
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert store.session("s").info().entity_count == 1


def test_directories_shared_between_two_stores_are_refused(tmp_path: Path) -> None:
    filled(tmp_path / "one")
    shared = tmp_path / "config.yaml"
    shared.write_text(f"session_store:\n  wal_dir: {tmp_path / 'one' / 'session_wal'}\n")
    with pytest.raises(RefusedError) as refusal:
        Server(tmp_path / "two", "--config", str(shared)).kill()
    assert refusal.value.status in {65, 66}
    filled_again = gibramdb.open(tmp_path / "one", vector_dim=8)
    assert filled_again.session("s").info().entity_count == 1
    filled_again.close()


def test_a_first_start_in_a_directory_that_another_store_has_makes_none(tmp_path: Path) -> None:
    with Server(tmp_path / "one") as owner:
        time.sleep(0.3)  # the owner's log comes to rest
        before = tree_hash(tmp_path)
        config = tmp_path.parent / f"{tmp_path.name}.yaml"
        config.write_text(f"session_store:\n  wal_dir: {tmp_path / 'one' / 'session_wal'}\n")
        with pytest.raises(RefusedError) as refusal:
            Server(tmp_path / "two", "--config", str(config)).kill()
        assert refusal.value.status == 73
        assert tree_hash(tmp_path) == before
        owner.kill()


def test_a_forked_child_can_do_nothing_and_does_not_outlive_its_parents_lock(tmp_path: Path) -> None:
    program = f"""
import os, sys, time, gibramdb
db = gibramdb.open({str(tmp_path / "data")!r}, vector_dim=8)
db.session("s").add_entity("e", "kept")
child = os.fork()
if child == 0:
    try:
        db.session("s").add_entity("e2", "not kept")
    except gibramdb.errors.ClosedError as error:
        os.write(1, f"refused: {{error}}\\n".encode())  # each line in one piece, however output is buffered
    time.sleep(60)
    os._exit(0)
os.write(1, f"{{child}}\\n".encode())
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = [parent.stdout.readline(), parent.stdout.readline()]
    child = next(int(line) for line in lines if line.strip().isdigit())
    try:
        assert any("refused: this store belongs to the process that opened it" in line for line in lines)
        parent.kill()
        parent.wait(60)
        with gibramdb.open(tmp_path / "data", vector_dim=8) as db:
            assert [entity.title for entity in db.session("s").entities()] == ["KEPT"]
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_a_child_forked_during_recovery_does_not_outlive_its_parents_lock(tmp_path: Path) -> None:
    program = f"""
import os, time, gibramdb
from gibramdb.database import opening
recover = opening.recover
def forking(*arguments):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    return recover(*arguments)
opening.recover = forking
db = gibramdb.open({str(tmp_path / "data")!r}, vector_dim=8)
db.session("s").add_entity("e", "kept")
print("kept", flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert parent.stdout.readline() == "kept\n"
        parent.kill()
        parent.wait(60)
        with gibramdb.open(tmp_path / "data", vector_dim=8) as db:
            assert [entity.title for entity in db.session("s").entities()] == ["KEPT"]
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    db = gibramdb.open(tmp_path / "data", vector_dim=8)
    db.close()
    db.close()
    with pytest.raises(ClosedError):
        db.info()


def put_a_file_in_place_of(directory: Path) -> None:
    directory.rename(directory.with_name("gone"))
    directory.write_text("not a directory")


MISSING: dict[str, Callable[[Path], object]] = {
    "the log directory": lambda data: shutil.rmtree(data / "session_wal"),
    "the snapshot directory": lambda data: shutil.rmtree(data / "session_snapshots"),
    "a file in place of the log directory": lambda data: put_a_file_in_place_of(data / "session_wal"),
    "the log's marker": lambda data: (data / "session_wal" / "gibramdb-store.json").unlink(),
    "the snapshots' marker": lambda data: (data / "session_snapshots" / "gibramdb-store.json").unlink(),
    "the data directory's marker": lambda data: (data / "gibramdb-store.json").unlink(),
    "the log": lambda data: next((data / "session_wal").glob("wal-*.log")).unlink(),
    "the end of a marker": lambda data: (data / "gibramdb-store.json").write_text("{"),
}


@pytest.mark.parametrize("what", MISSING)
def test_what_is_missing_stops_the_start_and_nothing_is_changed(tmp_path: Path, what: str) -> None:
    data = tmp_path / "data"
    filled(data)
    MISSING[what](data)
    before = tree_hash(data)
    with pytest.raises(RefusedError) as refusal:
        Server(data).kill()
    assert refusal.value.status in {65, 66, 74}
    assert str(data) in refusal.value.output
    assert "Traceback" not in refusal.value.output
    assert tree_hash(data) == before


def put_an_empty_directory_in_place_of(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


@pytest.mark.parametrize("lose", [shutil.rmtree, put_an_empty_directory_in_place_of], ids=["gone", "empty"])
@pytest.mark.parametrize(
    "lost",
    [("data",), ("wal",), ("snapshots",), ("data", "wal"), ("data", "snapshots"), ("wal", "snapshots")],
    ids="+".join,
)
@pytest.mark.parametrize("checkpoints", [0, 2])
def test_volumes_that_are_not_mounted_are_no_first_start(
    tmp_path: Path, lost: tuple[str, ...], lose: Callable[[Path], object], checkpoints: int
) -> None:
    store = tmp_path / "store"
    config = tmp_path / "config.yaml"
    config.write_text(
        f"session_store:\n  wal_dir: {store / 'wal'}\n  snapshot_dir: {store / 'snapshots'}\n"
        "  snapshot_retention_count: 1\n"
    )
    with Server(store / "data", "--config", str(config)) as server, server.connect() as db:
        db.session("s").add_entity("e", "kept")
        for number in range(checkpoints):
            db.checkpoint()
            db.session("s").add_entity(f"e{number}", f"kept too {number}")
        server.stop()
    for name in lost:
        lose(store / name)
    before = tree_hash(store)
    with pytest.raises(RefusedError) as refusal:
        Server(store / "data", "--config", str(config)).kill()
    assert refusal.value.status == 66
    assert any(str(store / name) in refusal.value.output for name in lost), "it names what is missing"
    assert "gibramdb store adopt" in refusal.value.output
    assert "mounted" in refusal.value.output
    assert tree_hash(store) == before


def test_two_directories_that_are_one_folder_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").symlink_to(tmp_path / "one")
    config = tmp_path / "config.yaml"
    config.write_text(f"session_store:\n  wal_dir: {tmp_path / 'one'}\n  snapshot_dir: {tmp_path / 'other'}\n")
    before = tree_hash(tmp_path)
    with pytest.raises(
        RefusedError, match=r"the wal directory is the same folder as the snapshots directory"
    ) as refusal:
        Server(tmp_path / "data", "--config", str(config)).kill()
    assert refusal.value.status == 78
    assert tree_hash(tmp_path) == before


def adopt(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gibramdb", "store", "adopt", "--data", str(data), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize(
    ("what", "kept"), [("the snapshots' marker", 1), ("the data directory's marker", 1), ("the log", 0)]
)
def test_the_one_command_that_accepts_a_loss(tmp_path: Path, what: str, kept: int) -> None:
    data = tmp_path / "data"
    filled(data)
    MISSING[what](data)
    before = tree_hash(data)
    said = adopt(data)
    assert said.returncode == 0, said.stderr
    assert ("ALL data" in said.stdout) == (kept == 0)
    assert tree_hash(data) == before
    assert adopt(data, "--yes").returncode == 0
    with gibramdb.open(data, vector_dim=8) as db:
        assert db.info().entity_count == kept
    assert adopt(data, "--yes").returncode == 78


def test_a_damaged_marker_is_mended_as_the_refusal_says(tmp_path: Path) -> None:
    """The commands; each marker and each damage: tests/crash/test_adopt.py."""
    data = tmp_path / "data"
    filled(data)
    marker = data / "session_wal" / "gibramdb-store.json"
    marker.write_bytes(b"")
    with pytest.raises(RefusedError) as refusal:
        Server(data).kill()
    assert refusal.value.status == 65
    assert f"{marker}: " in refusal.value.output
    assert "move it away, and `gibramdb store adopt DIR` says" in refusal.value.output
    assert "move it away" in adopt(data).stderr
    marker.rename(tmp_path / "aside")
    assert adopt(data, "--yes").returncode == 0
    with gibramdb.open(data, vector_dim=8) as db:
        assert db.info().entity_count == 1


def test_what_could_not_start_is_not_accepted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    filled(data)
    with gibramdb.open(data, vector_dim=8) as db:
        for number in range(5):  # the first generation is gone with the snapshots that needed it
            db.session("s").add_document(f"d{number}")
            db.checkpoint()
    shutil.rmtree(data / "session_snapshots")
    before = tree_hash(data)
    for arguments in ((), ("--yes",)):
        said = adopt(data, *arguments)
        assert said.returncode == 66
        assert "the log alone can not start the store" in said.stderr
        assert tree_hash(data) == before


def test_a_directory_that_lies_elsewhere_is_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "data"
    config = tmp_path / "config.yaml"
    config.write_text(f"session_store:\n  wal_dir: {tmp_path / 'wal'}\n")
    with Server(data, "--config", str(config)) as server, server.connect() as db:
        db.session("s").add_entity("e", "kept")
        server.stop()
    verify = [sys.executable, "-m", "gibramdb", "store", "verify", str(data)]
    said = subprocess.run(verify, capture_output=True, text=True, timeout=180, check=False)
    assert said.returncode == 66
    assert "If it lies elsewhere, name it with --config" in said.stderr
    assert "is where session_store.wal_dir is by default" in " ".join(adopt(data).stdout.split())
    said = subprocess.run([*verify, "--config", str(config)], capture_output=True, text=True, timeout=180, check=False)
    assert said.returncode == 0
    assert adopt(data, "--config", str(config)).returncode == 78, "nothing is missing"


def test_a_store_in_memory_beside_one_on_the_disk_is_warned_of(tmp_path: Path) -> None:
    data, new = tmp_path / "data", tmp_path / "new"
    filled(data)
    before = tree_hash(data)
    with Server(data, mode="ephemeral") as server, server.connect() as db:
        assert db.info().session_count == 0
        warnings = db.health().components["warnings"]
        said = [line for line in server.lines if "nothing of what lies in" in line]
        server.kill()
    for words in (f"nothing of what lies in {data} is served", "set session_store.mode to durable (--mode durable)"):
        assert words in warnings
        assert [words in line for line in said] == [True]
    assert tree_hash(data) == before
    for name in ("session_wal", "session_snapshots"):  # alone too, as where the data directory's volume is not mounted
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(data / name, new / name)
        (warning,) = unserved(load_config(None, flags={"server.data_dir": str(new)}))
        assert str(new / name) in warning
    assert unserved(load_config(None, flags={"server.data_dir": str(data), "session_store.mode": "durable"})) == []
    for nothing in (tmp_path, tmp_path / "missing", data / "LOCK"):
        assert unserved(load_config(None, flags={"server.data_dir": str(nothing)})) == []


def test_a_first_start_can_be_forbidden(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("session_store:\n  mode: durable\n  require_existing: true\n")
    with pytest.raises(RefusedError) as refusal:
        Server(tmp_path / "data", "--config", str(config)).kill()
    assert refusal.value.status == 66
    assert not (tmp_path / "data").exists()


def test_a_store_that_must_be_there_is_not_begun_in_this_process(tmp_path: Path) -> None:
    with pytest.raises(MissingStoreError, match="correct the path"):
        gibramdb.open(tmp_path / "data", vector_dim=4, require_existing=True)

    async def opened() -> None:
        await gibramdb.open_async(tmp_path / "data", vector_dim=4, require_existing=True)

    with pytest.raises(MissingStoreError, match="correct the path"):
        asyncio.run(opened())
    assert not (tmp_path / "data").exists()
    gibramdb.open(tmp_path / "data", vector_dim=4).close()
    gibramdb.open(tmp_path / "data", vector_dim=4, require_existing=True).close()


def test_a_store_that_is_open_here_already_is_said_to_be(tmp_path: Path) -> None:
    with gibramdb.open(tmp_path / "data", vector_dim=4):
        with pytest.raises(StoreLockedError) as refusal:
            gibramdb.open(tmp_path / "data", vector_dim=4)
        assert "in use by this process itself; next: go on with the store open here" in str(refusal.value)
    gibramdb.open(tmp_path / "data", vector_dim=4).close()


def test_a_directory_of_gibram_is_not_taken(tmp_path: Path) -> None:
    log = tmp_path / "data" / "session_wal" / "session.wal"
    log.parent.mkdir(parents=True)
    log.write_text('{"format":"gibram-session-wal","version":1,"generation":1}\n')
    before = tree_hash(tmp_path / "data")
    with pytest.raises(RefusedError, match=r"GibRAM 0\.3\.0; next: `gibramdb import-gibram"):
        Server(tmp_path / "data").kill()
    assert tree_hash(tmp_path / "data") == before


def test_another_vector_dimension_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with gibramdb.open(tmp_path / "data", vector_dim=4) as db:
        db.session("s").add_entity("e", "kept", embedding=[1, 2, 3, 4])
    with pytest.raises(RefusedError, match=r"vectors of dimension 4, server\.vector_dim is 8") as refusal:
        Server(tmp_path / "data").kill()
    assert refusal.value.status == 65


def killed_at(call: str, number: int, data: Path) -> bool:
    """Open and close the store in a process that is killed on entering the call; whether it ended by itself."""
    program = f"import gibramdb; gibramdb.open({str(data)!r}, vector_dim=8).close(); print('came up')"
    command = [*strace(f"inject={call}:signal=SIGKILL:when={number}", trace=call), sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    return "came up" in done.stdout


CHANGES_A_DIRECTORY = [
    "mkdir",
    "rename",
    pytest.param("fsync", marks=pytest.mark.sweep),
    pytest.param("pwrite64", marks=pytest.mark.sweep),
]


@needs_strace
@pytest.mark.parametrize("call", CHANGES_A_DIRECTORY)
def test_a_first_start_cut_short_anywhere_leaves_a_directory_that_starts(tmp_path: Path, call: str) -> None:
    """Killed on entering each system call that changes a directory, one after the other, until it comes up."""
    for number in range(1, 60):
        data = tmp_path / f"{call}-{number}"
        came_up = killed_at(call, number, data)
        with gibramdb.open(data, vector_dim=8) as db:
            assert db.info().session_count == 0
        if came_up:
            assert number > 2, "no call was killed"
            return
    pytest.fail("it never came up")


@needs_strace
@pytest.mark.sweep
@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_first_start_cut_short_twice_leaves_a_directory_that_starts(tmp_path: Path, call: str) -> None:
    for first in range(1, 60):
        template = tmp_path / f"{call}-{first}"
        if killed_at(call, first, template):
            assert first > 2, "no call was killed"
            return
        for second in range(1, 60):
            data = tmp_path / f"{call}-{first}-{second}"
            if template.exists():
                shutil.copytree(template, data)
            second_came_up = killed_at(call, second, data)
            with gibramdb.open(data, vector_dim=8) as db:
                assert db.info().session_count == 0
            if second_came_up:
                break
    pytest.fail("it never came up")


@needs_strace
@pytest.mark.parametrize("call", ["rename", "fallocate", *CHANGES_A_DIRECTORY[2:]])
def test_a_later_start_cut_short_anywhere_loses_nothing(tmp_path: Path, call: str) -> None:
    data = tmp_path / "data"
    filled(data)
    for number in range(1, 60):
        came_up = killed_at(call, number, data)
        with gibramdb.open(data, vector_dim=8) as db:
            assert [entity.title for entity in db.session("s").entities()] == ["KEPT"]
        if came_up:
            assert number > 1, "no call was killed"
            return
    pytest.fail("it never came up")


def test_a_start_whose_address_is_taken_has_touched_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(RefusedError, match="can not listen there") as refusal:
            Server(tmp_path / "data", "--addr", f"127.0.0.1:{taken.getsockname()[1]}").kill()
        assert refusal.value.status == 74
    assert not (tmp_path / "data").exists()


class _PausedDisk:
    """The real disk, of a process that is stopped before its call of the given number."""

    def __init__(self, stops_before: int) -> None:
        self._disk = OsFileSystem()
        self._calls_left = stops_before
        self.stopped, self.goes_on = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        if self._calls_left == 0:
            self.stopped.set()
            assert self.goes_on.wait(60)
        self._calls_left -= 1
        return getattr(self._disk, name)


def test_a_first_start_stopped_anywhere_by_another_gives_one_owner_and_one_store(tmp_path: Path) -> None:
    """At each call to the disk of one first start, another runs: both refusals name the lock, whoever comes first."""
    refusals = 0
    for number in range(1_000):
        data = str(tmp_path / str(number) / "data")
        config = load_config(flags={"server.data_dir": data, "session_store.mode": "durable"})
        disk = _PausedDisk(number)
        with ThreadPoolExecutor(1) as one:
            first = one.submit(open_store, config, SystemClock(), lambda call: None, disk)
            try:
                while not disk.stopped.wait(0.001) and not first.done():
                    pass
                was_whole = not disk.stopped.is_set()
                try:
                    second = open_store(config, SystemClock(), lambda call: None)
                except StoreLockedError:
                    refusals += 1
                    disk.goes_on.set()
                    owner = first.result(60)
                else:
                    owner = second
                    disk.goes_on.set()
                    with pytest.raises(StoreLockedError):
                        first.result(60)
                owner.close()
            finally:
                disk.goes_on.set()
        open_store(config, SystemClock(), lambda call: None).close()
        if was_whole:
            break
    assert number > refusals > 10


@pytest.mark.parametrize("missing", ["gibramdb-log", "gibramdb-snapshot"])
def test_a_store_for_which_the_system_gives_no_thread_is_not_left_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    with gibramdb.open(tmp_path, vector_dim=8) as store:
        store.session("s").add_document("kept")
    start = threading.Thread.start

    def start_some(thread: threading.Thread) -> None:
        if thread.name == missing:
            raise RuntimeError("can't start new thread")  # as Python says it
        start(thread)

    descriptors = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_some)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            gibramdb.open(tmp_path, vector_dim=8)
    if sys.platform == "linux":
        assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
    with gibramdb.open(tmp_path, vector_dim=8) as store:
        assert store.session("s").info().document_count == 1


def test_a_marker_that_the_disk_does_not_give_is_told_as_that(tmp_path: Path) -> None:
    with gibramdb.open(tmp_path, vector_dim=8) as store:
        store.session("s").add_document("kept")
    config = load_config(flags={"server.data_dir": str(tmp_path), "session_store.mode": "durable"})

    class Faulty(OsFileSystem):
        def pread(self, fd: int, count: int, offset: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(StorageError, match=r"gibramdb-store.json: .*Input/output error; next: check the disk"):
        open_store(config, SystemClock(), lambda call: None, Faulty())
    with gibramdb.open(tmp_path, vector_dim=8) as store:
        assert store.session("s").info().document_count == 1
