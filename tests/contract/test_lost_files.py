"""Stores of which a part is not there, or is another's: what a start says of it, and what `gibramdb store` does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gibramdb
from gibramdb.errors import CorruptLogError


def store(command: str, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "gibramdb", "store", command, str(data), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


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
