"""Each figure of HEALTH moves with what it tells of, on the real server."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

from support.server import Server
from support.strace import needs_strace, strace
from support.timing import TIMED

from gibramdb import Store
from gibramdb.storage import wal
from gibramdb.storage.files import OsFileSystem

VECTOR = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


def told(db: Store) -> dict[str, str]:
    return dict(db.health().components)


def figures(health: dict[str, str]) -> dict[str, int]:
    return {name: int(value) for name, value in health.items() if value.lstrip("-").isdigit()}


@TIMED
@needs_strace
def test_health_waits_for_no_look_that_an_operator_takes_at_a_disk_that_hangs(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.connect(timeout_s=60) as db, server.connect() as other:
        db.session("s").add_document("d")
        db.save("copy")
        slow = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(server.pid), "-e", "trace=getdents64,openat"]
        slow += ["-e", "inject=getdents64,openat:delay_enter=400000", "-e", "signal=none"]
        tracer = subprocess.Popen(slow)
        try:
            took_s = 0.0
            while took_s < 0.3:  # until it is attached
                asked_s = time.monotonic()
                db.log_status()
                took_s = time.monotonic() - asked_s
            for ask in (db.log_status, db.rotate_log, lambda: db.save_in_background("other")):
                asking = threading.Thread(target=ask)
                asking.start()
                longest_s = 0.0
                while asking.is_alive():
                    asked_s = time.monotonic()
                    told(other)
                    longest_s = max(longest_s, time.monotonic() - asked_s)
                assert longest_s < 0.3, ask
        finally:
            tracer.terminate()
            tracer.wait(60)
        server.kill()


@TIMED
def test_the_figures_of_the_log(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.connect() as db:
        assert told(db)["wal_current_lsn"] == "0"
        db.session("s").add_document("d1")
        time.sleep(0.3)  # the log comes to rest, and leaves its witness
        before = figures(told(db))
        for number in range(20):
            db.session("s").add_document(f"more {number}")
        health = told(db)
        after = figures(health)
        logged = after["wal_current_lsn"] - before["wal_current_lsn"]
        assert logged > 20 * 40
        assert after["wal_flushed_lsn"] == after["wal_current_lsn"]
        assert after["wal_flush_lag_bytes"] == after["wal_pending_bytes"] == 0
        for name in ("wal_size_bytes", "wal_bytes_since_snapshot"):
            assert after[name] - before[name] == logged
        assert 20 <= after["wal_sync_count"] - before["wal_sync_count"] <= 22
        assert before["wal_reserved_bytes"] - after["wal_reserved_bytes"] >= logged
        assert after["wal_last_sync_age_ms"] < 5_000
        assert after["disk_free_bytes"] > 0
        assert health["wal_generation"] == "1"
        assert health["wal_path"] == str(tmp_path / "session_wal" / f"wal-{1:020}.log")
        assert (health["wal_sync_policy"], health["session_store_mode"]) == ("every_write", "durable")
        time.sleep(0.4)
        assert figures(told(db))["wal_last_sync_age_ms"] >= 250
        server.kill()


def test_the_figures_of_snapshots_and_of_the_last_start(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.connect() as db:
        health = told(db)
        assert (health["snapshot_status"], health["snapshot_count"], health["snapshots_retained"]) == (
            "configured",
            "0",
            "0",
        )
        assert (health["last_snapshot_unix_nano"], health["last_snapshot_age_ms"]) == ("0", "0")
        for number in range(5):
            db.session("s").add_document(f"d{number}")
            db.checkpoint()
        health, now_ns = told(db), time.time_ns()
        assert (health["snapshot_count"], health["snapshots_retained"]) == ("5", "3")
        assert abs(now_ns - int(health["last_snapshot_unix_nano"])) < 30 * 10**9
        assert int(health["last_snapshot_age_ms"]) < 30_000
        assert int(health["wal_bytes_since_snapshot"]) < 1_000
        assert health["wal_generation"] == "6"
        assert (health["snapshot_running"], health["snapshot_failures"], health["snapshot_error"]) == ("", "0", "")
        assert (health["recovery_records_replayed"], health["recovery_bytes_truncated"]) == ("0", "0")
        for number in range(7):
            db.session("s").add_document(f"after {number}")
        server.kill()
    with Server(tmp_path) as server, server.connect() as db:
        health = told(db)
        assert (health["snapshot_count"], health["snapshots_retained"]) == ("5", "3")
        assert health["recovery_records_replayed"] == "7"
        assert 0 <= int(health["recovery_duration_ms"]) < 30_000
        server.kill()


def test_what_a_crash_cut_short_is_counted(tmp_path: Path) -> None:
    config = tmp_path / "gibramdb.yaml"
    config.write_text("session_store:\n  wal_sync_policy: never\n")  # so that no witness follows the last record
    with Server(tmp_path / "data", "--config", str(config)) as server, server.connect() as db:
        for name in ("d1", "d2", "d3"):
            db.session("s").add_document(name)
        path = Path(told(db)["wal_path"])
        server.kill()
    reading = wal.read_log(OsFileSystem(), path)
    *_, (_, _, last) = reading
    os.truncate(path, reading.tail.torn_offset - 3)
    with Server(tmp_path / "data", "--config", str(config)) as server, server.connect() as db:
        health = told(db)
        assert int(health["recovery_bytes_truncated"]) == wal.framed_size(len(last)) - 3
        assert health["recovery_records_replayed"] == "2"
        assert [each.external_id for each in db.session("s").documents()] == ["d1", "d2"]
        server.kill()


def test_what_is_ready_and_what_it_weighs(tmp_path: Path) -> None:
    def ready(db: Store) -> tuple[str, ...]:
        health = told(db)
        kinds = (health[name] for name in ("textunit_index_ready", "entity_index_ready", "community_index_ready"))
        return (health["retrieval_ready"], health["empty_seed_indexes"], *kinds)

    with Server(tmp_path) as server, server.connect() as db:
        session = db.session("s")
        assert ready(db) == ("false", "textunit,entity,community", "false", "false", "false")
        session.add_entity("e1", "e1")
        assert ready(db)[0] == "false", "without an embedding nothing is found"
        before = int(told(db)["memory_bytes"])
        session.add_entity("e2", "e2", embedding=VECTOR)
        assert int(told(db)["memory_bytes"]) - before == 192 + 4 + 32
        assert ready(db) == ("true", "textunit,community", "false", "true", "false")
        session.add_textunit("t", session.add_document("d"), "text", VECTOR)
        assert ready(db) == ("true", "community", "true", "true", "false")
        assert told(db)["tokens"] == "remembered"
        session.delete()
        assert ready(db)[:2] == ("false", "textunit,entity,community")
        assert told(db)["memory_bytes"] == "0"
        server.kill()


@TIMED
def test_how_far_the_disk_is_behind(tmp_path: Path) -> None:
    path = tmp_path / "gibramdb.yaml"
    path.write_text("session_store:\n  wal_sync_policy: periodic\n  wal_sync_interval: 10m\n")
    with Server(tmp_path / "data", "--config", str(path)) as server, server.connect() as db:
        before = figures(told(db))
        # No pause in which the log would rest, and sync with its witness.
        db.session("s").add_documents([])
        db.session("s").add_document("d")
        health = told(db)
        after = figures(health)
        assert health["wal_sync_policy"] == "periodic"
        assert after["wal_current_lsn"] > before["wal_current_lsn"]
        assert after["wal_flush_lag_bytes"] == after["wal_current_lsn"] - after["wal_flushed_lsn"] > 0
        server.kill()


@needs_strace
def test_what_takes_long_is_seen_while_it_does(tmp_path: Path) -> None:
    slow = strace("inject=fdatasync:delay_enter=200000", "inject=fsync:delay_enter=200000", trace="fdatasync,fsync")
    with Server(tmp_path, prefix=slow) as server, server.connect() as db:
        db.session("s").add_document("d")
        assert figures(told(db))["wal_last_sync_duration_ms"] >= 190
        db.save_in_background("copy")
        health = told(db)
        assert (health["snapshot_running"], health["backup"]) == ("save", "in_progress")
        assert health["durable_state"] == "serving"
        end = time.monotonic() + 60
        while told(db)["backup"] == "in_progress":
            assert time.monotonic() < end
            time.sleep(0.05)
        assert told(db)["snapshot_running"] == ""
        db.restore_in_background("copy")
        health = told(db)
        assert (health["snapshot_running"], health["backup"]) == ("restore", "in_progress")
        server.kill()
