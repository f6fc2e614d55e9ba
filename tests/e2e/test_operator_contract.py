"""What an operator is promised, tried as an operator would: a configuration file, the real server, its exit code, its words."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.server import RefusedError, Server
from support.strace import needs_strace, strace
from support.timing import TIMED
from support.tree import tree_hash

from gibramdb import NewDocument, NewEntity, NewTextUnit, Session, Store
from gibramdb.storage import wal
from gibramdb.storage.files import OsFileSystem

MINIMUM = """
server:
  data_dir: "{data}"
session_store:
  mode: "durable"
  wal_dir: "{data}/session_wal"
  wal_sync_policy: "every_write"
  wal_sync_interval: 1s
  snapshot_dir: "{data}/session_snapshots"
  snapshot_interval: {interval}
  snapshot_wal_size_bytes: {wal_bytes}
"""
VECTOR = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


def configured(folder: Path, interval: str = "5m", wal_bytes: int = 67_108_864, more: str = "") -> list[str]:
    """Flags for a server with the minimum durable configuration."""
    path = folder / "gibramdb.yaml"
    path.write_text(MINIMUM.format(data=folder / "data", interval=interval, wal_bytes=wal_bytes) + more)
    return ["--config", str(path)]


def fill(session: Session) -> None:
    """Some of each kind, with embeddings."""
    session.add_documents([NewDocument("d1", "one.txt")])
    session.add_textunits([NewTextUnit("t1", 1, "a text", VECTOR)])
    session.add_entities([NewEntity(f"e{n}", f"e{n}", embedding=[n, *VECTOR[1:]]) for n in range(1, 9)])
    session.add_relationship(1, 2, "knows")
    session.link(1, 1)


def found_by(session: Session) -> list[tuple[int, float, int]]:
    """What a query gives, scores included."""
    return [(hit.entity.id, hit.score, hit.hop) for hit in session.query(VECTOR, top_k=3, hops=2).entities]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`gibramdb` with these arguments."""
    return subprocess.run([sys.executable, "-m", "gibramdb", *arguments], capture_output=True, text=True, timeout=180)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- setting up -------------------------------------------------------------------------------------------------------


@TIMED
def test_the_minimum_configuration_keeps_everything_and_answers_the_same_after_a_kill(tmp_path: Path) -> None:
    flags = configured(tmp_path)
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        fill(db.session("s"))
        digest, found = db.digest(), found_by(db.session("s"))
        # Each directory holds what it is for.
        assert [path.name[:4] for path in (tmp_path / "data" / "session_wal").glob("*.log")] == ["wal-"]
        db.checkpoint()
        assert len(list((tmp_path / "data" / "session_snapshots").glob("snapshot-*.json"))) == 1
        db.session("s").add_document("d2")
        digest = db.digest()
        server.kill()
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        assert db.digest() == digest
        # Indexes are made anew from the embeddings: the same question has the same answer, to the last bit.
        assert found_by(db.session("s")) == found
        health = db.health().components
        assert health["retrieval_ready"] == "true"
        assert server.stop() < 5


def test_a_healthy_store_looks_healthy(tmp_path: Path) -> None:
    flags = configured(tmp_path, interval="300ms", wal_bytes=200_000)
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        counts = []
        for turn in range(3):
            session = db.session(f"s{turn}")
            fill(session)
            before = int(db.health().components["snapshot_count"])
            until(lambda before=before: int(db.health().components["snapshot_count"]) > before)  # type: ignore[misc]
            health = db.health()
            counts.append(int(health.components["snapshot_count"]))
            assert health.status == "ok"
            assert health.components["durable_state"] == "serving"
            assert health.components["wal_flush_lag_bytes"] == "0"
            assert int(health.components["wal_bytes_since_snapshot"]) < 200_000
            assert health.components["resource_pressure"] == "ok"
            assert health.components["retrieval_ready"] == "true"
            assert health.components["empty_seed_indexes"] == "community"
        assert counts == sorted(set(counts))
        server.kill()


@pytest.mark.parametrize(
    ("interval", "wal_bytes", "more", "words"),
    [
        ("0", 0, "", "Neither session_store.snapshot_interval nor session_store.snapshot_wal_size_bytes is set"),
        ("5m", 0, "", ""),
        ("0", 1_000_000, "", ""),
        ("5m", 0, "  wal_sync_policy: never\n", "session_store.wal_sync_policy is never"),
    ],
    ids=["no trigger", "by time", "by size", "never"],
)
def test_what_is_warned_of_at_the_start(tmp_path: Path, interval: str, wal_bytes: int, more: str, words: str) -> None:
    flags = configured(tmp_path, interval, wal_bytes)
    if more:
        path = Path(flags[1])
        path.write_text(path.read_text().replace('  wal_sync_policy: "every_write"\n', more))
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        assert words in db.health().components["warnings"]
        assert words in "".join(server.lines)
        if not words:
            assert db.health().components["warnings"] == ""
            assert "warning" not in "".join(server.lines).lower()
        server.kill()


def test_a_log_beyond_the_trigger_is_degraded_in_words_until_a_snapshot_has_caught_up(tmp_path: Path) -> None:
    flags = configured(tmp_path, interval="0", wal_bytes=50_000)
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        entities = [NewEntity(f"e{number}", f"e{number}", "kind", "x" * 300, VECTOR) for number in range(1_000)]
        in_the_way = tmp_path / "data" / "session_snapshots" / "pack-00000000000000000001.bin.tmp"
        in_the_way.mkdir()  # no snapshot comes about
        db.session("s").add_entities(entities)  # one change is more than the trigger
        health = db.health()
        since = int(health.components["wal_bytes_since_snapshot"])
        assert since > 50_000
        assert (health.status, health.components["durable_state"]) == ("degraded", "degraded")
        reason = health.components["durable_state_reason"]
        assert f"replay {since} bytes of log, session_store.snapshot_wal_size_bytes is 50000" in reason
        in_the_way.rmdir()
        db.checkpoint()
        health = db.health()
        assert (health.status, health.components["durable_state_reason"]) == ("ok", "")
        assert int(health.components["wal_bytes_since_snapshot"]) < 50_000
        server.kill()


def test_a_trigger_by_size_bounds_what_a_start_replays(tmp_path: Path) -> None:
    flags = configured(tmp_path, interval="0", wal_bytes=50_000)
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        for number in range(400):
            db.session("s").add_entity(f"e{number}", f"e{number}", "kind", "x" * 300, VECTOR)
        assert int(db.health().components["snapshot_count"]) >= 2
        until(lambda: int(db.health().components["wal_bytes_since_snapshot"]) < 50_000)
        digest = db.digest()
        server.kill()
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        assert db.digest() == digest
        assert int(db.health().components["recovery_records_replayed"]) < 200
        server.kill()


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_copy_is_the_operators_and_a_snapshot_is_published_beside_it(tmp_path: Path) -> None:
    flags = configured(tmp_path)
    snapshots = tmp_path / "data" / "session_snapshots"
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        fill(db.session("s"))
        for number, save in enumerate((db.save, db.save_in_background, db.save), 1):
            save(f"backup-{number}")
            until(lambda: not db.backup_status().in_progress)
            assert (tmp_path / "data" / f"backup-{number}").exists()
            assert len(list(snapshots.glob("snapshot-*.json"))) == number
            assert db.last_save().path.endswith(f"backup-{number}")
        last = db.last_save()
        # The store needs no copy: without them it starts.
        for number in (1, 2, 3):
            (tmp_path / "data" / f"backup-{number}").unlink()
        digest = db.digest()
        server.kill()
    with Server(tmp_path / "data", *flags) as server, server.connect() as db:
        assert db.digest() == digest
        assert db.last_save() == last
        server.kill()


@needs_strace
def test_a_checkpoint_is_published_when_it_answers_and_leaves_an_empty_log_of_the_next_generation(
    tmp_path: Path,
) -> None:
    config = tmp_path / "gibramdb.yaml"
    config.write_text("session_store:\n  snapshot_retention_count: 1\n")
    slow = strace("inject=fsync:delay_enter=100000", trace="fsync")
    logs, snapshots = tmp_path / "data" / "session_wal", tmp_path / "data" / "session_snapshots"
    with Server(tmp_path / "data", "--config", str(config), prefix=slow) as server, server.connect() as db:
        fill(db.session("s"))
        for number in (1, 2):
            db.session("s").add_document(f"more {number}")
            db.checkpoint()
            # At once: a snapshot is published after four syncs at the least, and none takes less than 100 ms here.
            assert (snapshots / f"snapshot-{number:020}.json").exists()
            until(lambda number=number: db.health().components["wal_generation"] == str(number + 1))  # type: ignore[misc]
            successor = logs / f"wal-{number + 1:020}.log"
            assert db.health().components["wal_path"] == str(successor)
            assert wal.read_header(OsFileSystem(), successor).generation == number + 1
            assert list(wal.read_log(OsFileSystem(), successor)) == []
        # What was logged behind a cut stays until the next snapshot covers it; then it goes.
        until(lambda: not (logs / f"wal-{1:020}.log").exists())
        digest = db.digest()
        server.kill()
    with Server(tmp_path / "data") as server, server.connect() as db:
        assert db.digest() == digest
        assert db.health().components["recovery_records_replayed"] == "0"
        server.kill()


@needs_strace
def test_a_server_connects_to_nobody(tmp_path: Path) -> None:
    """One node: what it does not send, no other has."""
    trace = tmp_path / "connections"
    flags = configured(tmp_path, interval="200ms")
    watched = strace(trace="connect,execve", output=str(trace))
    with Server(tmp_path / "data", *flags, prefix=watched) as server, server.connect() as db:
        fill(db.session("s"))
        db.save("copy")
        db.restore_in_background("copy")
        until(lambda: not db.backup_status().in_progress)
        until(lambda: int(db.health().components["snapshot_count"]) >= 2)
        server.stop()
    calls = trace.read_text()
    assert "execve(" in calls, "the server was watched"
    assert "AF_INET" not in calls


# --- what refuses a start ---------------------------------------------------------------------------------------------


def newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern))


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(bytes(content))


def corrupt_snapshot(data: Path) -> None:
    flip(newest(data / "session_snapshots", "snapshot-*.json"), 100)


def corrupt_pack(data: Path) -> None:
    flip(newest(data / "session_snapshots", "pack-*.bin"), 300)


def corrupt_log(data: Path) -> None:
    flip(newest(data / "session_wal", "wal-*.log"), 600)


def other_generation(data: Path) -> None:
    """A log of a generation that follows none."""
    last = newest(data / "session_wal", "wal-*.log")
    last.rename(last.with_name(f"wal-{9:020}.log"))


def missing_log_directory(data: Path) -> None:
    shutil.rmtree(data / "session_wal")


def missing_snapshot_directory(data: Path) -> None:
    shutil.rmtree(data / "session_snapshots")


FAILURES: list[tuple[Callable[[Path], None], list[str], int, list[str]]] = [
    (corrupt_snapshot, [], 65, ["snapshot-", "offset", "expected the checksum", "found", "next:", "store repair"]),
    (corrupt_pack, [], 65, ["pack-", "offset", "expected the checksum", "found", "next:", "store repair"]),
    (corrupt_log, [], 65, ["wal-", "offset", "LSN", "expected the checksum", "found", "next:", "store repair"]),
    (other_generation, [], 65, ["expected generation 9", "wal-", "found generation 3", "store repair"]),
    (missing_log_directory, [], 66, ["session_wal", "store adopt"]),
    (missing_snapshot_directory, [], 66, ["session_snapshots", "store adopt"]),
    (
        lambda _data: None,
        ["--dim", "9"],
        65,
        ["session_snapshots", "dimension 8", "server.vector_dim is 9", "next: set server.vector_dim to 8"],
    ),
]
FAILED_BY = [
    "corrupt snapshot", "corrupt pack", "corrupt log", "generation", "no log directory", "no snapshot directory", "dimension",
]  # fmt: skip


@pytest.mark.parametrize(("damage", "flags", "status", "words"), FAILURES, ids=FAILED_BY)
def test_a_start_is_refused_by_its_code_and_in_words_and_changes_nothing(
    tmp_path: Path, damage: Callable[[Path], None], flags: list[str], status: int, words: list[str]
) -> None:
    data = tmp_path / "data"
    with Server(data) as server, server.connect() as db:
        for name in ("a", "b"):
            fill(db.session(name))
            db.checkpoint()
        fill(db.session("c"))
        assert server.stop() < 5
    damage(data)
    before = tree_hash(data)
    with pytest.raises(RefusedError) as refusal:
        Server(data, *flags).kill()
    assert refusal.value.status == status
    for word in words:
        assert word in refusal.value.output, f"{word!r} is not said: {refusal.value.output}"
    assert tree_hash(data) == before


# --- remedies, as they are written ------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A store with a copy in its data directory, a snapshot, and a log behind it whose newest generation is corrupt."""
    data = tmp_path / "data"
    with Server(data) as server, server.connect() as db:
        fill(db.session("copied"))
        db.save("backup.gibram")
        fill(db.session("snapshotted"))
        db.checkpoint()
        fill(db.session("logged"))
        assert server.stop() < 5
    corrupt_log(data)
    return data


def names(db: Store) -> list[str]:
    return [each.session_id for each in db.sessions()]


def test_what_is_preserved_before_a_repair_can_be_put_back(broken: Path, tmp_path: Path) -> None:
    shutil.copytree(broken, tmp_path / "preserved")
    done = command("store", "repair", str(broken), "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(broken)
    shutil.copytree(tmp_path / "preserved", broken)
    with pytest.raises(RefusedError, match="offset"):
        Server(broken).kill()


def test_the_failing_artifact_is_named_where_an_operator_looks(broken: Path) -> None:
    damaged = newest(broken / "session_wal", "wal-*.log").name
    with pytest.raises(RefusedError) as refusal:
        Server(broken).kill()
    assert damaged in refusal.value.output
    for offline in ("inspect", "verify"):
        done = command("store", offline, str(broken))
        assert done.returncode == 65, done.stderr
        assert damaged in done.stdout + done.stderr


def test_restoring_from_a_backup_under_the_data_directory(broken: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    with Server(fresh) as server, server.connect() as db:
        shutil.copy(broken / "backup.gibram", fresh / "backup.gibram")
        db.restore_in_background("backup.gibram")
        until(lambda: not db.backup_status().in_progress)
        assert db.backup_status().error == ""
        assert names(db) == ["copied"]
        digest = db.digest()
        server.kill()
    with Server(fresh) as server, server.connect() as db:
        assert db.digest() == digest
        server.kill()


def test_a_corrupt_log_moved_aside_and_the_snapshot_is_the_recovery_point(broken: Path, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    for path in (broken / "session_wal").glob("wal-*.log"):
        path.rename(aside / path.name)
    with Server(broken) as server, server.connect() as db:
        assert names(db) == ["copied", "snapshotted"]
        assert "took the snapshot alone" in db.health().components["warnings"], "loudly, also in HEALTH"
        fill(db.session("after"))
        digest = db.digest()
        server.kill()
    with Server(broken) as server, server.connect() as db:
        assert db.digest() == digest
        server.kill()


def test_repair_says_what_it_would_do_before_it_does_it(broken: Path) -> None:
    before = tree_hash(broken)
    said = command("store", "repair", str(broken))
    assert "--yes" in said.stdout
    assert tree_hash(broken) == before
    done = command("store", "repair", str(broken), "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    with Server(broken) as server, server.connect() as db:
        assert names(db)[:2] == ["copied", "snapshotted"]
        server.kill()
    assert list(broken.glob("**/set-aside-*"))


# --- settings that nothing else tries on the real server --------------------------------------------------------------


def test_directories_lie_where_they_are_told_to(tmp_path: Path) -> None:
    path = tmp_path / "gibramdb.yaml"
    path.write_text(
        f'server:\n  data_dir: "{tmp_path}/data"\nsession_store:\n  mode: durable\n'
        f'  wal_dir: "{tmp_path}/fast/wal"\n  snapshot_dir: "{tmp_path}/large/snapshots"\n  snapshot_retention_count: 2\n'
    )
    (tmp_path / "fast").mkdir()
    (tmp_path / "large").mkdir()
    with Server(tmp_path / "data", "--config", str(path)) as server, server.connect() as db:
        for number in range(4):
            db.session("s").add_document(f"d{number}")
            db.checkpoint()
        assert len(list((tmp_path / "large" / "snapshots").glob("snapshot-*.json"))) == 2
        assert db.health().components["snapshots_retained"] == "2"
        assert list((tmp_path / "fast" / "wal").glob("wal-*.log"))
        assert not (tmp_path / "data" / "session_wal").exists()
        assert not (tmp_path / "data" / "session_snapshots").exists()
        assert server.stop() < 5


def test_in_memory_the_same_fields_are_told(tmp_path: Path) -> None:
    with Server(tmp_path / "memory", mode="ephemeral") as server, server.connect() as db:
        fill(db.session("s"))
        memory = db.health()
        server.kill()
    with Server(tmp_path / "disk") as server, server.connect() as db:
        fill(db.session("s"))
        durable = db.health()
        server.kill()
    assert list(memory.components) == list(durable.components)
    assert (memory.status, memory.components["durable_state"]) == ("ok", "serving")
    modes = [health.components["session_store_mode"] for health in (memory, durable)]
    assert modes == ["ephemeral", "durable"]
    assert durable.components["snapshot_status"] == "configured"
    zeros = [
        name
        for name in memory.components
        if name.startswith(("wal_", "snapshot_")) and name.endswith(("lsn", "bytes", "count"))
    ]
    assert {memory.components[name] for name in zeros} == {"0"}
    assert memory.components["snapshot_status"] == "not_configured"
    assert not list((tmp_path / "memory").glob("**/*")), "nothing is kept"
