"""What the operating system sees: when answers leave, how a sync that fails is met, a full disk, and a stop."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server

import gibramdb
from gibramdb import NewEntity
from gibramdb.errors import AlreadyExistsError, DiskFullError, HaltedError, OutcomeUnknownError, UnavailableError

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
DELAY_S = 0.2


def strace(*expressions: str, trace: str = "fdatasync", output: str = "/dev/null") -> list[str]:
    arguments = ["strace", "-f", "-qq", "-o", output, "-e", f"trace={trace}", "-e", "signal=none"]
    for expression in expressions:
        arguments += ["-e", expression]
    return arguments


def figure(store: gibramdb.Store, name: str) -> int:
    return int(store.health().components[name])


@needs_strace
def test_nothing_that_a_crash_could_take_back_is_shown_before_its_sync(tmp_path: Path) -> None:
    slow_disk = strace(f"inject=fdatasync:delay_enter={int(DELAY_S * 1e6)}")
    with Server(tmp_path / "data", prefix=slow_disk) as server, server.connect() as writer, server.connect() as reader:
        writer.session("s").add_entity("first", "first")
        began = time.monotonic()
        thread = threading.Thread(target=lambda: writer.session("s").add_entity("slow", "slow"))
        thread.start()
        while reader.health().components["wal_pending_bytes"] == "0" and time.monotonic() - began < DELAY_S / 2:
            time.sleep(0.002)
        with pytest.raises(AlreadyExistsError):  # says that it is kept, so it must wait until it is
            reader.session("s").add_entity("slow", "slow")
        assert time.monotonic() - began >= DELAY_S
        thread.join()
        began = time.monotonic()
        thread = threading.Thread(target=lambda: writer.session("s").add_entity("slow 2", "slow 2"))
        thread.start()
        time.sleep(DELAY_S / 4)
        assert reader.session("s").get_entity_by_title("slow 2").external_id == "slow 2"
        assert time.monotonic() - began >= DELAY_S
        thread.join()
        began = time.monotonic()
        reader.ping()
        assert reader.health().components["wal_flush_lag_bytes"] == "0"
        assert time.monotonic() - began < DELAY_S / 2, "PING and HEALTH wait for nothing"


@needs_strace
def test_one_sync_serves_many_writers(tmp_path: Path) -> None:
    with Server(tmp_path / "data", prefix=strace("inject=fdatasync:delay_enter=50000")) as server:
        stores = [server.connect() for _ in range(40)]
        syncs = figure(stores[0], "wal_sync_count")
        threads = [
            threading.Thread(
                target=lambda number=number, store=store: [
                    store.session("s").add_entity(f"{number}-{turn}", f"{number}-{turn}") for turn in range(4)
                ]
            )
            for number, store in enumerate(stores)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stores[0].session("s").info().entity_count == 160
        assert figure(stores[0], "wal_sync_count") - syncs < 160 / 8
        for store in stores:
            store.close()


@needs_strace
@pytest.mark.parametrize("failing", [3, 6, 11])
def test_a_sync_that_failed_is_final(tmp_path: Path, failing: int) -> None:
    trace = tmp_path / "trace"
    command = strace(f"inject=fdatasync:error=EIO:when={failing}", output=str(trace))
    acknowledged = []
    with Server(tmp_path / "data", prefix=command) as server, server.connect() as store:
        session = store.session("s")
        with pytest.raises(OutcomeUnknownError, match="sync"):
            for number in range(40):
                acknowledged.append(session.add_entity(f"e{number}", f"e{number}"))
        health = store.health()
        assert health.status == "error"
        assert health.components["durable_state"] == "unhealthy"
        assert "Input/output error" in health.components["durable_state_reason"]
        flushed = health.components["wal_flushed_lsn"]
        for refused in (lambda: session.add_entity("x", "x"), lambda: session.info(), store.sessions):
            with pytest.raises(HaltedError, match="unhealthy"):
                refused()
        store.ping()
        assert store.info().session_store_mode == "durable"
        assert store.health().components["wal_flushed_lsn"] == flushed
        server.kill()
    calls = [line for line in trace.read_text().splitlines() if "fdatasync(" in line]
    assert "EIO" in calls[-1], "a sync was tried after the one that failed"
    with Server(tmp_path / "data") as server, server.connect() as store:
        found = {entity.id for entity in store.session("s").entities()} if acknowledged else set()
        assert set(acknowledged) <= found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount_point)], check=False)
    if done.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


def test_a_full_disk_refuses_writes_answers_reads_and_recovers_by_itself(small_disk: Path) -> None:
    filler = small_disk / "filler"
    text = "x" * 20_000
    with Server(small_disk / "data") as server, server.connect() as store:
        session = store.session("s")
        session.add_entity("first", "first", "", text)
        filler.write_bytes(bytes(500_000))
        kept = 1
        with pytest.raises(DiskFullError, match="free space on its disk"):
            for number in range(500):
                session.add_entity(f"e{number}", f"e{number}", "", text)
                kept += 1
        assert session.info().entity_count == kept
        assert session.get_entity_by_title("first").description == text
        health = store.health()
        assert health.status == "degraded"
        assert "disk is full" in health.components["durable_state_reason"]
        server.kill()

        with Server(small_disk / "data") as again, again.connect() as full:
            assert full.session("s").info().entity_count == kept, "starting needs no space, and loses nothing"
            with pytest.raises(DiskFullError):
                full.session("s").add_entity("no", "no", "", text)
            filler.unlink()
            full.session("s").add_entity("yes", "yes", "", text)
            assert full.health().status == "ok"
            assert again.stop() < 5
    with Server(small_disk / "data") as server, server.connect() as store:
        assert store.session("s").info().entity_count == kept + 1


def test_a_stop_answers_what_was_accepted_and_ends_within_5_s(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        idle[0].sendall(b"\x01\x00\x00")  # half a header
        acknowledged: list[int] = []

        def write() -> None:
            try:
                with server.connect() as store:
                    for number in range(100_000):
                        acknowledged.append(store.session("s").add_entity(f"e{number}", f"e{number}"))
            except UnavailableError:
                pass

        writer = threading.Thread(target=write)
        writer.start()
        while len(acknowledged) < 200:
            time.sleep(0.005)
        assert server.stop() < 5
        writer.join()
        for each in idle:
            assert each.recv(1) == b""
            each.close()
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert {entity.id for entity in store.session("s").entities()} >= set(acknowledged)
        assert figure(store, "recovery_bytes_truncated") == 0
        assert "torn_bytes=0" in "".join(server.lines)
        os.kill(server.pid, signal.SIGINT)
        assert server.wait() == 0, "Ctrl-C is a stop like any other"


def test_periodic_syncs_within_its_interval_and_never_only_at_the_end(tmp_path: Path) -> None:
    with Server(tmp_path / "periodic", "--wal-sync-policy", "periodic") as server, server.connect() as store:
        for number in range(300):
            store.session("s").add_entity(f"e{number}", f"e{number}")
        assert figure(store, "wal_sync_count") < 30
        time.sleep(1.1)  # wal_sync_interval is 1s
        assert figure(store, "wal_flush_lag_bytes") == 0
        assert figure(store, "wal_current_lsn") > 0
        server.kill()
    with Server(tmp_path / "periodic") as server, server.connect() as store:
        assert store.session("s").info().entity_count == 300
    with Server(tmp_path / "never", "--wal-sync-policy", "never") as server, server.connect() as store:
        for number in range(50):
            store.session("s").add_entity(f"e{number}", f"e{number}")
        time.sleep(0.3)
        assert figure(store, "wal_sync_count") == 0
        assert figure(store, "wal_flush_lag_bytes") > 0
        assert server.stop() < 5
    with Server(tmp_path / "never") as server, server.connect() as store:
        assert store.session("s").info().entity_count == 50


def test_an_idle_log_leaves_a_witness_so_damage_to_its_last_record_is_never_taken_for_a_torn_tail(
    tmp_path: Path,
) -> None:
    with Server(tmp_path / "data") as server, server.connect() as store:
        store.session("s").add_entity("e", "the last one written")
        time.sleep(0.5)
        server.kill()
    log = next((tmp_path / "data" / "session_wal").glob("wal-*.log"))
    content = bytearray(log.read_bytes())
    content[content.index(b"THE LAST ONE")] ^= 1
    log.write_bytes(content)
    command = [sys.executable, "-m", "gibramdb", "store", "verify", "--data", str(tmp_path / "data"), "--dim", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 65
    assert re.search(rf"{re.escape(str(log))}: offset \d+", done.stderr), done.stderr


def test_bytes_that_are_no_protocol_cost_only_their_own_connection(tmp_path: Path) -> None:
    with Server(tmp_path / "data", mode="ephemeral") as server, server.connect() as store:
        store.session("s").add_entities([NewEntity("e", "kept")])
        for sent in (
            b"\x00\x00\x00\x00\x01x",
            b"\x01\xff\xff\xff\xff",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x01\x00\x00\x00\x02\xff\xff",
        ):
            with socket.create_connection(("127.0.0.1", server.port)) as stranger:
                stranger.sendall(sent)
                assert stranger.recv(100) == b"", "a framing fault is answered by closing, without a frame"
        half = socket.create_connection(("127.0.0.1", server.port))
        half.sendall(b"\x01\x00\x00\x00\x10half")
        half.close()
        crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        time.sleep(0.2)
        closed = 0
        for each in crowd:
            each.setblocking(False)
            try:
                closed += each.recv(1) == b""
            except BlockingIOError:
                pass
            except ConnectionResetError:
                closed += 1
            each.close()
        assert 10 <= closed <= 12, "one address holds 50 connections at most"
        assert store.session("s").info().entity_count == 1
