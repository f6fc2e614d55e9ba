"""`gibramdb import-gibram`: a directory of GibRAM 0.3.0, written here as documented, is served by us afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.tree import tree_hash
from unit.test_gibram_directory import document, entity, session, textunit, write_log, write_snapshot

import gibramdb


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gibramdb", "import-gibram", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


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


def test_our_own_copies_are_no_files_of_gibram(tmp_path: Path) -> None:
    with gibramdb.open(vector_dim=3, data_dir=tmp_path / "data") as db:
        db.session("s").add_document("d")
        db.save()
    assert (tmp_path / "data/snapshot.gibram").exists()
    with gibramdb.open(tmp_path / "data", vector_dim=3) as db:
        db.restore_in_background("snapshot.gibram")
