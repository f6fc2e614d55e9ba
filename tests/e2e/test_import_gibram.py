"""`gibramdb import-gibram`: a directory of GibRAM 0.3.0, written here as documented, is served by us afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tree import tree_hash
from unit.test_gibram_directory import document, entity, full_session, session, textunit, write_log, write_snapshot

import gibramdb
from gibramdb.clock import SystemClock
from gibramdb.config import load_config
from gibramdb.database.opening import adopt, open_store, unserved
from gibramdb.errors import MissingStoreError, NotFoundError


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gibramdb", "import-gibram", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def old_directory(path: Path) -> None:
    vectors = {"entity_vectors": {"1": [1.0, 2.0, 3.0]}}
    content = session("s", documents=[document()], text_units=[textunit()], entities=[entity()], **vectors)
    write_snapshot(path, [content])
    write_log(path, [{"op": "add_document", "session_id": "s", "document": document(2)}])


def test_what_was_there_is_served_and_survives(tmp_path: Path) -> None:
    old_directory(tmp_path / "old")
    before = tree_hash(tmp_path / "old")
    done = run(tmp_path / "old", "--into", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert "--dim 3" in done.stdout
    assert tree_hash(tmp_path / "old") == before
    for count in (2, 3):
        with gibramdb.open(tmp_path / "new", vector_dim=3) as db:
            info = db.session("s").info()
            assert (info.document_count, info.textunit_count, info.entity_count) == (count, 1, 1)
            assert db.session("s").query([1, 2, 3], hops=0).entities[0].entity.id == 1
            db.session("s").add_document(f"goes on {count}")


def test_what_can_not_be_taken_makes_no_store(tmp_path: Path) -> None:
    old_directory(tmp_path / "old")
    assert run(tmp_path / "old", "--into", tmp_path / "new", "--dim", 4).returncode == 65
    assert run(tmp_path / "nothing", "--into", tmp_path / "new").returncode == 66
    log = tmp_path / "old/session_wal/session.wal"
    log.write_bytes(log.read_bytes()[:-30] + b"}\n")
    refused = run(tmp_path / "old", "--into", tmp_path / "new")
    assert refused.returncode == 65
    assert str(log) in refused.stderr
    assert not (tmp_path / "new").exists()
    old_directory(tmp_path / "old")
    assert run(tmp_path / "old", "--into", tmp_path / "new").returncode == 0
    again = run(tmp_path / "old", "--into", tmp_path / "new")
    assert again.returncode == 78
    assert "found one" in again.stderr


def test_directories_that_were_configured_elsewhere_are_named(tmp_path: Path) -> None:
    old_directory(tmp_path / "old")
    (tmp_path / "data").mkdir()
    logs, snapshots = tmp_path / "old/session_wal", tmp_path / "old/session_snapshots"
    lost = run(tmp_path / "data", "--into", tmp_path / "new")
    assert (lost.returncode, "--wal-dir, --snapshot-dir" in lost.stderr) == (66, True)
    for wrong in (("--wal-dir", tmp_path / "typo"), ("--wal-dir", logs, "--snapshot-dir", tmp_path / "typo")):
        refused = run(tmp_path / "data", "--into", tmp_path / "new", *wrong)
        assert (refused.returncode, f"{tmp_path}/typo: expected a directory" in refused.stderr) == (66, True)
    done = run(tmp_path / "data", "--into", tmp_path / "new", "--wal-dir", logs, "--snapshot-dir", snapshots)
    assert done.returncode == 0, done.stderr
    with gibramdb.open(tmp_path / "new", vector_dim=3) as db:
        assert db.session("s").info().document_count == 2


def test_everything_of_a_session_is_served_as_it_was(tmp_path: Path) -> None:
    """Times, TTLs, embeddings, links in their order, communities of both origins, ids that are used up."""
    content = full_session("s")
    content["session"] |= {"ttl": 10**18, "idle_ttl": 10**18}
    content["session"]["created_at"] = content["session"]["last_access"] = time.time_ns() - 5 * 10**9
    content["id_generator_state"]["entity"] = 40
    write_snapshot(tmp_path / "old", [content], wal_size=0)
    log = [{"op": "add_entity", "session_id": "s", "entity": entity(41), "entity_embedding": [3.0, 4.0]}]
    write_log(tmp_path / "old", log, generation=9)
    done = run(tmp_path / "old", "--into", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "version 1 log 1 records from offset 0 torn bytes 0 sessions 1 documents 1" in told
    assert "text units 2 entities 3 relationships 2 communities 2 links 3" in told
    with gibramdb.open(tmp_path / "new", vector_dim=2) as db:
        s = db.session("s")
        info = s.info()
        assert (info.ttl_s, info.idle_ttl_s) == (10**9, 10**9)
        assert info.created_at_ms == content["session"]["created_at"] // 10**6
        assert [s.get_community(id).title for id in (1, 2)] == ["c", "c"]
        found = s.query([3.0, 4.0], hops=0, top_k=1).entities[0]
        assert (found.entity.id, round(found.score, 6)) == (41, 1.0)
        assert s.add_entity("next", "next") == 42
        s.detect_communities()
        assert s.get_community(2).summary == "by hand", "so it stays"
        with pytest.raises(NotFoundError):
            s.get_community(1)  # detected, so it is replaced


def test_our_own_copies_are_no_files_of_gibram(tmp_path: Path) -> None:
    with gibramdb.open(vector_dim=3, data_dir=tmp_path / "data") as db:
        db.session("s").add_document("d")
        db.save()
    assert (tmp_path / "data/snapshot.gibram").exists()
    with gibramdb.open(tmp_path / "data", vector_dim=3) as db:
        db.restore_in_background("snapshot.gibram")


@pytest.mark.parametrize("lies_in", ["data", "wal", "snapshots"])
@pytest.mark.parametrize("kind", ["log", "snapshot"])
def test_a_directory_of_it_is_known_wherever_it_is_configured(tmp_path: Path, lies_in: str, kind: str) -> None:
    """Its snapshots have the names of ours, and each directory may be elsewhere, alone."""
    old = tmp_path / lies_in
    if kind == "log":
        write_log(tmp_path / "old", [])
        (tmp_path / "old/session_wal").rename(old)
    else:
        write_snapshot(tmp_path / "old", [session("s", documents=[document()])])
        (tmp_path / "old/session_snapshots").rename(old)
    flags = {
        "server.data_dir": str(tmp_path / "data"), "session_store.wal_dir": str(tmp_path / "wal"),
        "session_store.snapshot_dir": str(tmp_path / "snapshots"),
    }  # fmt: skip
    config = load_config(None, flags={**flags, "session_store.mode": "durable"})
    before = tree_hash(tmp_path)
    for attempt in (
        lambda: open_store(config, SystemClock(), lambda call: None).close(),
        lambda: adopt(config, accept=False),
        lambda: adopt(config, accept=True),
    ):
        with pytest.raises(MissingStoreError, match=rf"{old}: .*found files of GibRAM 0.3.0; next: `gibramdb import-g"):
            attempt()
    assert tree_hash(tmp_path) == before
    (warning,) = unserved(load_config(None, flags=flags))
    assert f"nothing of what lies in {old} is served" in warning
    assert "gibramdb import-gibram" in warning
