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
from support.server import RefusedError, Server, command
from support.strace import needs_strace, strace
from support.timing import TIMED

import gibramdb
from gibramdb import NewEntity
from gibramdb.errors import (
    AlreadyExistsError,
    ConnectionFailedError,
    DiskFullError,
    HaltedError,
    OutcomeUnknownError,
    StartingError,
    UnavailableError,
)
from gibramdb.model.commands import GetTextUnits, Ping
from gibramdb.wire.codec import encode_command

DELAY_S = 0.2


def figure(store: gibramdb.Store, name: str) -> int:
    return int(store.health().components[name])


@TIMED
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
    config = tmp_path / "config.yaml"
    config.write_text("security:\n  max_conns_per_ip: 100\n")
    slow_disk = strace("inject=fdatasync:delay_enter=50000")
    with Server(tmp_path / "data", "--config", str(config), prefix=slow_disk) as server:
        stores = [server.connect() for _ in range(64)]
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
        assert stores[0].session("s").info().entity_count == 256
        assert 4 <= figure(stores[0], "wal_sync_count") - syncs < 256 / 8
        for store in stores:
            store.close()


class Writers:
    """Clients that add one entity after the other until they are refused, and what they were told."""

    def __init__(self, server: Server, count: int) -> None:
        self.acknowledged: set[int] = set()
        self.refusals: list[UnavailableError] = []
        self._server = server
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _write(self, writer: int) -> None:
        try:
            with self._server.connect(timeout_s=60) as store:
                for number in range(100_000):
                    self.acknowledged.add(store.session("s").add_entity(f"{writer}-{number}", f"{writer}-{number}"))
        except UnavailableError as error:  # on a busy machine as early as with the connection
            self.refusals.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client was left waiting"


def assert_halted(store: gibramdb.Store) -> None:
    """PING and HEALTH are answered, nothing else, and the log stays where it was."""
    health = store.health()
    assert health.status == "error"
    assert health.components["durable_state"] == "unhealthy"
    assert "Input/output error" in health.components["durable_state_reason"]
    session = store.session("s")
    for refused in (lambda: session.add_entity("x", "x"), lambda: session.info(), store.sessions, store.info):
        with pytest.raises(HaltedError, match="unhealthy"):
            refused()
    store.ping()
    assert figure(store, "wal_flushed_lsn") == int(health.components["wal_flushed_lsn"])


def syncs_after_the_fault(trace: Path) -> list[str]:
    calls = [line for line in trace.read_text().splitlines() if re.search(r"f(data)?sync\(|EIO", line)]
    fault = next(index for index, line in enumerate(calls) if "EIO" in line)
    return calls[fault + 1 :]


@needs_strace
@pytest.mark.parametrize(
    ("call", "failing"), [*(("fdatasync", number) for number in (3, 4, 7, 12)), ("pwrite64", 4), ("pwrite64", 9)]
)
def test_a_sync_or_a_write_that_failed_is_final(tmp_path: Path, call: str, failing: int) -> None:
    with Server(tmp_path / "data") as server, server.connect() as store:
        kept = store.session("s").add_entity("before", "before")
        assert server.stop() < 5
    trace = tmp_path / "trace"
    prefix = strace(f"inject={call}:error=EIO:when={failing}", trace="fdatasync,fsync,pwrite64", output=str(trace))
    with Server(tmp_path / "data", prefix=prefix) as server, server.connect() as store:
        writers = Writers(server, 4)
        writers.join()
        assert len(writers.refusals) == 4
        assert all(isinstance(refusal, HaltedError) for refusal in writers.refusals)
        assert any(
            isinstance(refusal, OutcomeUnknownError) and re.search("sync|write", str(refusal))
            for refusal in writers.refusals
        )
        assert_halted(store)
        server.kill()
    assert syncs_after_the_fault(trace) == []
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert {kept} | writers.acknowledged <= {entity.id for entity in store.session("s").entities()}
        assert figure(store, "recovery_bytes_truncated") == 0


@needs_strace
@pytest.mark.parametrize(
    ("call", "failing"), [("fdatasync", 1), ("fdatasync", 2), ("pwrite64", 1), ("fsync", 1), ("pread64", 1)]
)
def test_a_start_on_a_failing_disk_is_refused_and_changes_nothing(tmp_path: Path, call: str, failing: int) -> None:
    """What cannot be synced, read, or written again as it is, is not believed."""
    with Server(tmp_path / "data") as server, server.connect() as store:
        store.session("s").add_entity("e", "kept")
        server.stop()
    log = next((tmp_path / "data" / "session_wal").glob("wal-*.log"))
    before = log.read_bytes()
    prefix = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(log), "-P", str(log.parent)]
    with pytest.raises(RefusedError, match="Input/output error") as refusal:
        Server(
            tmp_path / "data", prefix=[*prefix, "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={failing}"]
        ).kill()
    assert refusal.value.status == 74
    assert str(log.parent) in refusal.value.output
    assert log.read_bytes() == before
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert store.session("s").info().entity_count == 1


@needs_strace
def test_the_witness_of_an_idle_log_is_synced_and_may_fail_like_any_other(tmp_path: Path) -> None:
    prefix = strace("inject=fdatasync:error=EIO:when=2")
    with Server(tmp_path / "data", prefix=prefix) as server, server.connect() as store:
        kept = store.session("s").add_entity("e", "kept")
        until = time.monotonic() + 60
        while store.health().status == "ok" and time.monotonic() < until:
            time.sleep(0.02)
        assert_halted(store)
        server.kill()
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert [entity.id for entity in store.session("s").entities()] == [kept]


@pytest.fixture(params=["1m", "2m"])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(mount_point)], check=False
    )
    if done.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


@TIMED
def test_a_full_disk_refuses_writes_answers_reads_and_recovers_by_itself(small_disk: Path) -> None:
    filler, first_filler = small_disk / "filler", small_disk / "first filler"
    text = "x" * 20_000
    first_filler.write_bytes(bytes(100_000))
    with Server(small_disk / "data") as server, server.connect() as store:
        assert "lies on tmpfs" in store.health().components["warnings"]
        session = store.session("s")
        session.add_entity("first", "first", "", text)
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 10_000))
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
        free_bytes = int(health.components["disk_free_bytes"])
        first_filler.unlink()
        time.sleep(2.5)  # the server looks every second, whether somebody asks or not
        assert "disk is full" not in store.health().components["durable_state_reason"]
        assert free_bytes != int(store.health().components["disk_free_bytes"])
        with pytest.raises(DiskFullError):
            for number in range(500):
                session.add_entity(f"again{number}", f"again{number}", "", text)
                kept += 1
        server.kill()

        with Server(small_disk / "data") as again, again.connect() as full:
            assert full.session("s").info().entity_count == kept, "starting needs no space, and loses nothing"
            with pytest.raises(DiskFullError):
                full.session("s").add_entity("no", "no", "", text)
            filler.unlink()
            began = time.monotonic()
            full.session("s").add_entity("yes", "yes", "", text)
            assert time.monotonic() - began < 2
            assert full.health().status == "ok"
            assert again.stop() < 5
    with Server(small_disk / "data") as server, server.connect() as store:
        assert store.session("s").info().entity_count == kept + 1


@TIMED
def test_a_stop_answers_what_was_accepted_and_ends_within_5_s(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        idle[0].sendall(b"\x01\x00\x00")  # half a header
        writers = Writers(server, 2)
        until = time.monotonic() + 60
        while len(writers.acknowledged) < 200 and time.monotonic() < until:
            time.sleep(0.005)
        assert server.stop() < 5
        writers.join()
        assert len(writers.acknowledged) >= 200
        for each in idle:
            assert each.recv(1) == b""
            each.close()
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert {entity.id for entity in store.session("s").entities()} >= writers.acknowledged
        assert figure(store, "recovery_bytes_truncated") == 0
        assert "torn_bytes=0" in "".join(server.lines)
        os.kill(server.pid, signal.SIGINT)
        assert server.wait() == 0, "Ctrl-C is a stop like any other"


@TIMED
def test_a_client_that_comes_while_it_stops_is_not_waited_for(tmp_path: Path) -> None:
    for turn in range(6):
        with Server(tmp_path / f"data-{turn}") as server:
            late = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
            assert server.stop() < 2
            for each in late:
                each.close()


@TIMED
def test_a_client_that_does_not_read_holds_up_no_stop(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server, server.connect() as store:
        session = store.session("s")
        session.add_document("d")
        textunit = session.add_textunit("t", 1, "x" * 1_000_000)
        with socket.create_connection(("127.0.0.1", server.port)) as deaf:
            deaf.sendall(encode_command(GetTextUnits("s", (textunit,) * 30), 1))
            time.sleep(0.5)
            assert server.stop() < 5


@TIMED
@needs_strace
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_asked_for_during_recovery_is_not_kept_waiting(tmp_path: Path, number: signal.Signals) -> None:
    with Server(tmp_path / "data") as server, server.connect() as store:
        session = store.session("s")
        session.add_document("d")
        for index in range(30):
            session.add_textunit(f"t{index}", 1, "x" * 1_000_000)
        server.stop()
    log = next((tmp_path / "data" / "session_wal").glob("wal-*.log"))
    before = log.read_bytes()
    trace = tmp_path / "trace"
    slow_disk = strace("inject=pread64:delay_enter=300000", trace="pread64", output=str(trace))
    process = subprocess.Popen(
        [*slow_disk, "-P", str(log), *command(tmp_path / "data")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 60
        while not trace.exists() or "pread64" not in trace.read_text():
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(int(trace.read_text().split()[0]), number)
        assert process.wait(3) != 0
    finally:
        process.kill()
        process.wait(60)
    assert log.read_bytes() == before
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert store.session("s").info().textunit_count == 30


def is_answered(port: int) -> bool:
    try:
        gibramdb.connect(f"gibram://127.0.0.1:{port}").close()
    except ConnectionFailedError:
        return False
    return True


@TIMED
@needs_strace
def test_health_says_that_it_starts_while_it_recovers_and_nothing_else_is_answered(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server, server.connect() as store:
        session = store.session("s")
        session.add_document("d")
        for index in range(10):
            session.add_textunit(f"t{index}", 1, "x" * 1_000_000)
        fields = set(store.health().components)
        server.stop()
    log = next((tmp_path / "data" / "session_wal").glob("wal-*.log"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    slow_disk = strace("inject=pread64:delay_enter=300000", trace="pread64")
    line = [*slow_disk, "-P", str(log), *command(tmp_path / "data", "--addr", f"127.0.0.1:{port}")]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not is_answered(port):
            assert time.monotonic() < until
            time.sleep(0.02)
        with gibramdb.connect(f"gibram://127.0.0.1:{port}") as store:
            health = store.health()
            assert set(health.components) == fields
            assert health.components["durable_state"] == "starting"
            with pytest.raises(StartingError, match="starting"):
                store.with_timeout(1).session("s").info()
            with pytest.raises(StartingError, match="starting"):  # nothing in it could be answered with much
                store.with_timeout(1).execute_many([Ping()] * 100)
            assert store.health().components["durable_state"] == "starting"
            assert store.session("s").info().textunit_count == 10, "a call with more time waits for it"
            assert store.health().components["durable_state"] == "serving"
    finally:
        subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
        process.kill()
        process.wait(60)


@TIMED
@needs_strace
def test_a_second_signal_ends_it_at_once_even_while_the_disk_hangs(tmp_path: Path) -> None:
    hanging_disk = strace("inject=fdatasync:delay_enter=5000000:when=3+")
    with Server(tmp_path / "data") as server:
        server.stop()
    with Server(tmp_path / "data", prefix=hanging_disk) as server:
        with server.connect() as store:
            kept = store.session("s").add_entity("e", "kept")
            writers = Writers(server, 2)
            until = time.monotonic() + 4
            while figure(store, "wal_pending_bytes") == 0:
                assert time.monotonic() < until, "the disk does not hang"
                time.sleep(0.01)
            server.terminate()
            time.sleep(0.3)
            assert server.is_running()
            server.terminate()
            until = time.monotonic() + 1
            while server.is_running() and time.monotonic() < until:
                time.sleep(0.01)
            assert not server.is_running()
        assert server.wait() != 0, "not everything that was taken has been answered"
        writers.join()
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert {kept} | writers.acknowledged <= {entity.id for entity in store.session("s").entities()}


@TIMED
def test_periodic_answers_before_its_sync_and_syncs_within_its_interval(tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--wal-sync-policy", "periodic") as server, server.connect() as store:
        session = store.session("s")
        for number in range(300):
            session.add_entity(f"e{number}", f"e{number}")
        assert figure(store, "wal_sync_count") < 30
        time.sleep(1.1)  # wal_sync_interval is 1s
        assert figure(store, "wal_flush_lag_bytes") == 0
        session.add_entity("last", "last")
        written = time.monotonic()
        assert figure(store, "wal_flush_lag_bytes") > 0
        while figure(store, "wal_flush_lag_bytes") and time.monotonic() - written < 5:
            time.sleep(0.01)
        assert time.monotonic() - written <= 1
        session.add_entity("younger than a sync", "younger")
        server.kill()
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert store.session("s").info().entity_count == 302, "the death of the process alone takes nothing"


@TIMED
@needs_strace
def test_never_syncs_only_at_a_clean_stop(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        server.stop()
    trace = tmp_path / "trace"
    counting = strace(trace="fdatasync,fsync", output=str(trace))
    with Server(tmp_path / "data", "--wal-sync-policy", "never", prefix=counting) as server:
        starting = len(trace.read_text().splitlines())
        with server.connect() as store:
            for number in range(50):
                store.session("s").add_entity(f"e{number}", f"e{number}")
            time.sleep(1.1)  # wal_sync_interval is 1s
            store.session("s").add_entity("after an interval", "after an interval")
            time.sleep(0.2)
            assert figure(store, "wal_sync_count") == 0
            assert figure(store, "wal_flush_lag_bytes") > 0
        assert len(trace.read_text().splitlines()) == starting
        assert server.stop() < 5
    stopping = trace.read_text().splitlines()[starting:]
    assert stopping
    assert all("fdatasync(" in line for line in stopping), "the log, and nothing else"
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert store.session("s").info().entity_count == 51


def test_an_idle_log_leaves_a_witness_so_damage_to_its_last_record_is_never_taken_for_a_torn_tail(
    tmp_path: Path,
) -> None:
    with Server(tmp_path / "data") as server, server.connect() as store:
        store.session("s").add_entity("e", "the last one written")
        until = time.monotonic() + 60
        while figure(store, "wal_sync_count") < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        server.kill()
    log = next((tmp_path / "data" / "session_wal").glob("wal-*.log"))
    content = bytearray(log.read_bytes())
    content[content.index(b"THE LAST ONE")] ^= 1
    log.write_bytes(content)
    command = [sys.executable, "-m", "gibramdb", "store", "verify", "--data", str(tmp_path / "data"), "--dim", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
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


@pytest.mark.parametrize("policy", ["periodic", "never"])
def test_the_death_of_the_process_takes_nothing_under_any_policy(tmp_path: Path, policy: str) -> None:
    """What the kernel has, it writes."""
    with Server(tmp_path / "data", "--wal-sync-policy", policy) as server, server.connect() as store:
        kept = store.session("s").add_entities(NewEntity(f"e{number}", f"e{number}") for number in range(50))
        kept += [store.session("s").add_entity(f"f{number}", f"f{number}") for number in range(50)]
        server.kill()
    with Server(tmp_path / "data") as server, server.connect() as store:
        assert [entity.id for entity in store.session("s").entities()] == kept
