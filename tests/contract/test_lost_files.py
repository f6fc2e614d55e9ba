"""Stores of which a part is not there, or is another's: what a start says of it, and what `gibramdb store` does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.gate import config_file
from support.server import Server

import gibramdb
from gibramdb.database.snapshots import TICK_S
from gibramdb.errors import CorruptLogError


def store(command: str, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "gibramdb", "store", command, str(data), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=180, check=False)


def warnings_of(db: gibramdb.Store) -> str:
    return db.health().components["warnings"]


@pytest.mark.parametrize("begun_by", ["checkpoint", "rotate_log"])
def test_the_newest_generation_alone_may_be_missing_and_that_is_said(tmp_path: Path, begun_by: str) -> None:
    data = tmp_path / "data"
    with gibramdb.open(data, vector_dim=4) as db:
        for number in range(3):
            db.session("s").add_document(f"d{number}")
            getattr(db, begun_by)()
        left = db.digest()
        db.session("s").add_document("in the newest alone")
        whole = db.digest()
    newest = max((data / "session_wal").glob("wal-*.log"))
    aside = newest.rename(tmp_path / newest.name)
    behind = max((data / "session_wal").glob("wal-*.log")).name
    for command in ("verify", "repair"):
        said = store(command, data)
        assert said.returncode == 0
        assert f"no log behind {behind}" in " ".join(said.stdout.split())
    aside.rename(newest)
    assert "no log behind" not in store("verify", data).stdout
    with gibramdb.open(data, vector_dim=4) as again:
        assert again.digest() == whole
        assert "no log behind" not in warnings_of(again)
    newest.unlink()
    with gibramdb.open(data, vector_dim=4) as again:
        assert again.digest() == left
        assert f"no log behind {behind}" in warnings_of(again)
        again.session("s").add_document("goes on")
        after = again.digest()
    assert "no log behind" in (data / "recovery-report.json").read_text()
    with gibramdb.open(data, vector_dim=4) as again:
        assert again.digest() == after
        assert "no log behind" not in warnings_of(again), "it goes on from there"


@pytest.mark.parametrize(
    ("is_snapshot_there", "is_all_lost"),
    [(False, False), (True, False), (True, True)],
    ids=["newest generation", "newest generation, with a snapshot", "whole log"],
)
def test_what_is_missing_of_the_log_can_be_put_back_until_something_new_is_logged(
    tmp_path: Path, *, is_snapshot_there: bool, is_all_lost: bool
) -> None:
    """Every start tells of it, and none puts something in its place: no generation, and no snapshot unasked."""
    data, aside = tmp_path / "data", tmp_path / "aside"
    with gibramdb.open(data, vector_dim=8) as db:
        db.session("s").add_document("d1")
        if is_snapshot_there:
            db.checkpoint()
        db.session("s").add_document("d2")
        db.rotate_log()
        db.session("s").add_document("in the newest alone")
        whole = db.digest()
    logs = sorted((data / "session_wal").glob("wal-*.log"))
    lost = logs if is_all_lost else logs[-1:]
    aside.mkdir()
    for path in lost:
        path.rename(aside / path.name)
    unasked = {"snapshot_interval": "100ms", "snapshot_on_stop": True}
    config = config_file(tmp_path, [], session_store=unasked)
    for _ in range(2):
        with Server(data, "--config", config) as server:
            with server.connect() as db:
                assert "no log behind" in warnings_of(db)
                time.sleep(2 * TICK_S)  # a snapshot would be due
                assert db.digest() != whole
            server.stop()
        said = store("verify", data)
        assert said.returncode == 0
        assert "no log behind" in " ".join(said.stdout.split())
    for path in lost:
        (aside / path.name).rename(path)
    with gibramdb.open(data, vector_dim=8) as again:
        assert again.digest() == whole
        assert "no log behind" not in warnings_of(again)


def test_what_is_logged_in_the_place_of_a_missing_generation_gets_its_snapshots(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with gibramdb.open(data, vector_dim=8) as db:
        db.session("s").add_document("d1")
        db.rotate_log()
        db.session("s").add_document("in the newest alone")
    max((data / "session_wal").glob("wal-*.log")).unlink()
    config = config_file(tmp_path, [], session_store={"snapshot_on_stop": True})
    with Server(data, "--config", config) as server:
        with server.connect() as db:
            db.session("s").add_document("goes on")
        server.stop()
    with gibramdb.open(data, vector_dim=8) as again:
        assert again.health().components["snapshot_count"] == "1"
        assert "no log behind" not in warnings_of(again)


def test_a_lost_log_is_told_by_verify_too(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with gibramdb.open(data, vector_dim=4) as db:
        db.session("s").add_document("d")
        db.checkpoint()
    for path in (data / "session_wal").glob("wal-*.log"):
        path.unlink()
    said = store("verify", data)
    assert said.returncode == 0
    assert "took the snapshot alone" in " ".join(said.stdout.split())


@pytest.mark.parametrize("is_covered", [False, True], ids=["from the first record", "behind a snapshot"])
def test_a_generation_of_another_history_is_refused(tmp_path: Path, is_covered: bool) -> None:
    """Two copies of one store have gone on for themselves, and each has a generation that begins at the same LSN."""
    one, other = tmp_path / "one", tmp_path / "other"
    with gibramdb.open(one, vector_dim=4) as db:
        db.session("s").add_document("both")
        if is_covered:
            db.checkpoint()
    shutil.copytree(one, other)
    digests = []
    for data, name in ((one, "this"), (other, "that")):
        with gibramdb.open(data, vector_dim=4) as db:
            db.session("s").add_document(name)
            db.rotate_log()
            db.session("s").add_document("later")
            digests.append(db.digest().sha256)
    assert digests[0] != digests[1]
    newest = max((one / "session_wal").glob("wal-*.log"))
    its_own = newest.read_bytes()
    foreign = (other / "session_wal" / newest.name).read_bytes()
    assert its_own[40:48] == foreign[40:48], "the same base LSN"
    newest.write_bytes(foreign)
    with pytest.raises(CorruptLogError, match="does not join the one before it") as refused:
        gibramdb.open(one, vector_dim=4)
    assert newest.name in str(refused.value)
    newest.write_bytes(its_own)
    with gibramdb.open(one, vector_dim=4) as db:
        assert db.digest().sha256 == digests[0]
