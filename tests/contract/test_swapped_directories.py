"""Another directory where the store's snapshots or log were: nothing is published there, and nothing is cut meanwhile.

Moved aside and replaced, which to the store is the same as a volume mounted over it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tree import tree_hash

import gibramdb
from gibramdb import NewDocument, Store
from gibramdb.database import snapshots
from gibramdb.database.snapshot_files import SnapshotFiles
from gibramdb.errors import GibramError, StorageError

NEXT = "next: put back what was there"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    with gibramdb.open(tmp_path / "data", vector_dim=2) as store:
        store.session("still").add_documents([NewDocument(f"d{number}") for number in range(30)])
        for number in range(3):
            store.session("s").add_document(f"d{number}")
            store.checkpoint()
        store.session("s").add_document("behind them")
        yield store


@contextlib.contextmanager
def another_at(directory: Path, *, is_missing: bool = False) -> Iterator[Path]:
    """Where the directory really lies while another, or none, is in its place; nothing is written to that other."""
    aside = directory.with_name(directory.name + ".aside")
    directory.rename(aside)
    if not is_missing:
        directory.mkdir()
        (directory / "LOCK").touch()
        (directory / "pack-00000000000000000004.bin").write_text("another store's")
    before = None if is_missing else tree_hash(directory)
    yield aside
    assert (tree_hash(directory) if directory.exists() else None) == before, "nothing was written or removed there"
    if not is_missing:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    aside.rename(directory)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def assert_degraded(db: Store, directory: Path) -> None:
    components = db.health().components
    assert components["durable_state"] == "degraded"
    for expected in (f"{directory}: ", NEXT):
        assert expected in components["durable_state_reason"]


@pytest.mark.parametrize("is_missing", [False, True])
def test_no_snapshot_is_published_in_another_directory_and_no_log_is_cut(
    db: Store, tmp_path: Path, is_missing: bool
) -> None:
    directory, logs = tmp_path / "data/session_snapshots", tmp_path / "data/session_wal"
    with another_at(directory, is_missing=is_missing) as aside:
        before = names(aside), names(logs)
        with pytest.raises(StorageError, match=f"{directory}: .*{NEXT}"):
            db.checkpoint()
        with pytest.raises(StorageError, match=NEXT):
            db.truncate_log()
        assert_degraded(db, directory)
        assert db.health().components["snapshot_files_damaged"] == "0", "they are whole, where they are"
        with pytest.raises(StorageError, match=NEXT):
            db.save("copy")
        db.session("s").add_document("meanwhile")
        assert (names(aside), names(logs)) == before
        db.restore_in_background("copy")
        while db.backup_status().in_progress:
            pass
        assert NEXT in db.backup_status().error
        assert (names(aside), names(logs)) == before
    db.checkpoint()
    assert db.health().components["durable_state"] == "serving"
    assert_kept(db, tmp_path)


def test_swapped_while_a_snapshot_is_written(db: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "data/session_snapshots"
    write_pack = SnapshotFiles.write_pack
    with contextlib.ExitStack() as swapped, monkeypatch.context() as patch:

        def write_then_swap(*arguments: Any) -> Any:
            sections = write_pack(*arguments)
            swapped.enter_context(another_at(directory))
            return sections

        patch.setattr(SnapshotFiles, "write_pack", write_then_swap)
        with pytest.raises(StorageError, match=NEXT):
            db.checkpoint()
        assert_degraded(db, directory)
    assert_kept(db, tmp_path)


@pytest.mark.parametrize("is_missing", [False, True])
def test_no_generation_of_the_log_is_begun_in_another_directory(db: Store, tmp_path: Path, is_missing: bool) -> None:
    directory = tmp_path / "data/session_wal"
    with another_at(directory, is_missing=is_missing) as aside:
        before = names(aside), names(tmp_path / "data/session_snapshots")
        with pytest.raises(StorageError, match=f"{directory}: .*{NEXT}"):
            db.rotate_log()
        db.session("s").add_document("meanwhile")
        with contextlib.suppress(GibramError):
            db.truncate_log()
        db.checkpoint()
        assert_degraded(db, directory)
        db.session("s").add_document("behind the snapshot")
        assert names(aside) == before[0]
        published = names(tmp_path / "data/session_snapshots") - before[1]
        assert any(name.startswith("snapshot-") for name in published), "which needs no other generation"
        db.save("copy")
        db.restore_in_background("copy")
        while db.backup_status().in_progress:
            pass
        assert NEXT in db.backup_status().error
        db.session("s").add_document("after the restore that was none")
    db.rotate_log()
    db.truncate_log()
    assert db.health().components["durable_state"] == "serving"
    assert_kept(db, tmp_path)


def test_no_copy_is_made_where_the_data_directory_was(db: Store, tmp_path: Path) -> None:
    """Else the folder is there again, and who moves the directory back moves it into that."""
    data = tmp_path / "data"
    data.rename(tmp_path / "aside")
    with pytest.raises(StorageError, match=f"{data}: .*{NEXT}"):
        db.save("copy")
    assert not data.exists()
    (tmp_path / "aside").rename(data)
    db.save("copy")
    assert_kept(db, tmp_path)


def test_a_look_at_the_packs_that_fails_is_told_of_once(
    db: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshots, "LOOK_BYTES_AT_REST", 1)  # so that a round takes many ticks
    monkeypatch.setattr(snapshots, "RETRY_MS", 0)
    engine: Any = db
    engine._executor._engine._store.database.snapshots._look_due_ms = 0
    packs = engine._executor._engine._store.database.snapshots._files.packs
    until = time.monotonic() + 60
    while not packs.is_reading:
        assert time.monotonic() < until
        time.sleep(0.01)
    directory = tmp_path / "data/session_snapshots"
    with another_at(directory):
        while NEXT not in db.health().components["durable_state_reason"]:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(3 * snapshots.TICK_S)
    told = [each for each in caplog.messages if "can not be read again" in each]
    assert len(told) == 1
    while db.health().components["durable_state"] != "serving":
        assert time.monotonic() < until
        time.sleep(0.01)
    assert_kept(db, tmp_path)


def test_a_snapshot_that_fails_is_named_and_tried_again_without_any_trigger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshots, "RETRY_MS", 100)
    with gibramdb.open(tmp_path / "data", vector_dim=2, snapshot_wal_size_bytes=0) as db:
        db.session("s").add_document("d")
        with pytest.raises(GibramError):
            db.save("../x")
        with another_at(tmp_path / "data/session_snapshots"), pytest.raises(StorageError):
            db.save("copy")
        assert [each.levelname for each in caplog.records if " failed: " in each.getMessage()] == ["WARNING", "ERROR"]
        until = time.monotonic() + 60
        while db.health().components["durable_state"] != "serving":
            assert time.monotonic() < until
            time.sleep(0.01)
        assert db.health().components["snapshot_count"] == "1"


def test_packs_are_looked_at_again_without_any_trigger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gibramdb.open(tmp_path / "data", vector_dim=2, snapshot_wal_size_bytes=0) as db:
        db.session("s").add_documents([NewDocument(f"d{number}") for number in range(30)])
        db.checkpoint()
    monkeypatch.setattr(snapshots, "LOOK_EVERY_MS", 0)
    with gibramdb.open(tmp_path / "data", vector_dim=2, snapshot_wal_size_bytes=0) as db:
        (pack,) = (tmp_path / "data/session_snapshots").glob("pack-*.bin")
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
        until = time.monotonic() + 60
        while True:
            health = db.health().components
            if health["snapshot_files_damaged"] != "0" and health["durable_state"] == "serving":
                break  # written anew
            assert time.monotonic() < until
            time.sleep(0.01)
        assert_kept(db, tmp_path)


def assert_kept(db: Store, tmp_path: Path) -> None:
    db.session("s").add_document("and on")
    digest = db.digest()
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=2) as again:
        assert again.digest() == digest
