"""`store repair` and `store inspect`: what is said to be lost is lost, and not a record more; nothing is thrown away."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.tree import tree_hash

import gibramdb
from gibramdb.errors import FatalError


def run(command: str, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "gibramdb", "store", command, "--data", str(data), *arguments]
    if command == "repair":
        line += ["--dim", "3"]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


def made(data: Path) -> dict[int, str]:
    """A store with three snapshots; the digest of its state after so many documents."""
    digests = {}
    with gibramdb.open(data, vector_dim=3) as db:
        for number in range(1, 9):
            db.session("s").add_document(f"d{number}")
            digests[number] = db.digest().sha256
            if number in (2, 4, 6):
                db.checkpoint()
    return digests


def opened(data: Path) -> str:
    with gibramdb.open(data, vector_dim=3) as db:
        return db.digest().sha256


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def logs(data: Path) -> list[Path]:
    return sorted((data / "session_wal").glob("wal-*.log"))


def snapshots(data: Path) -> list[Path]:
    return sorted((data / "session_snapshots").glob("snapshot-*.json"))


def test_a_whole_store_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path / "data")
    before = tree_hash(tmp_path / "data")
    said = run("repair", tmp_path / "data")
    assert (said.returncode, "Nothing is wrong" in said.stdout) == (0, True)
    looked = run("inspect", tmp_path / "data")
    assert looked.returncode == 0
    assert looked.stdout.count("snapshot-") == 3
    assert run("repair", tmp_path / "elsewhere").returncode == 66
    assert tree_hash(tmp_path / "data") == before


@pytest.mark.parametrize("what", ["manifest", "pack", "two manifests"])
def test_a_damaged_snapshot_costs_nothing_while_an_older_one_and_the_log_are_there(tmp_path: Path, what: str) -> None:
    data = tmp_path / "data"
    digests = made(data)
    if what == "pack":
        flip(max((data / "session_snapshots").glob("pack-*.bin")), 100)
    else:
        for path in snapshots(data)[-2 if what == "two manifests" else -1 :]:
            flip(path, 200)
    with pytest.raises(FatalError):
        opened(data)
    before = tree_hash(data)
    assert run("inspect", data).returncode == 65
    said = run("repair", data)
    assert said.returncode == 0, said.stderr
    assert re.search(r"lost +nothing", said.stdout)
    assert "Nothing has been changed" in said.stdout
    assert tree_hash(data) == before
    done = run("repair", data, "--yes")
    assert done.returncode == 0, done.stderr
    assert digests[8] in done.stdout
    assert opened(data) == digests[8]
    assert list(data.glob("*/set-aside-*/snapshot-*.json"))


def test_a_damaged_log_is_cut_where_it_is_damaged_and_says_what_that_costs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    digests = made(data)
    newest = logs(data)[-1]
    whole = newest.read_bytes()
    first_record_bytes = whole.index(b"\xe3\xa5\xb1\xd7", 520) - 512  # where the second record begins
    flip(newest, 512 + first_record_bytes + 50)
    with pytest.raises(FatalError):
        opened(data)
    said = run("repair", data)
    assert re.search(r"lost +what was logged behind LSN [0-9]+", said.stdout), said.stdout
    assert run("repair", data, "--yes").returncode == 0
    assert opened(data) == digests[7]
    (aside,) = data.glob("*/set-aside-*")
    assert len((aside / newest.name).read_bytes()) == len(whole)


def test_without_any_of_the_log_behind_it_the_snapshot_alone_remains(tmp_path: Path) -> None:
    data = tmp_path / "data"
    digests = made(data)
    flip(logs(data)[-1], 20)
    said = run("repair", data)
    assert "alone" in said.stdout, said.stdout
    assert run("repair", data, "--yes").returncode == 0
    assert opened(data) == digests[6]


def test_where_nothing_is_left_it_says_so_and_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made(data)
    for path in snapshots(data):
        flip(path, 200)
    for path in logs(data)[:-1]:
        path.unlink()
    before = tree_hash(data)
    refused = run("repair", data, "--yes")
    assert refused.returncode == 66
    assert "nothing can be repaired" in refused.stderr
    assert tree_hash(data) == before


def test_what_is_no_damage_is_not_repaired(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with gibramdb.open(data, vector_dim=4) as db:
        db.session("s").add_entity("e", "e", embedding=[1.0] * 4)
        db.checkpoint()
        db.session("s").add_document("behind it")
    before = tree_hash(data)
    refused = run("repair", data, "--yes")
    assert refused.returncode == 65
    assert "dimension 4" in refused.stderr
    assert tree_hash(data) == before


def test_an_older_snapshot_does_not_count_as_lossless_where_the_log_is_shorter_than_a_newer_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    made(data)
    flip(max((data / "session_snapshots").glob("pack-*.bin")), 100)
    for path in logs(data)[-2:]:
        path.unlink()
    said = run("repair", data)
    assert not re.search(r"lost +nothing", said.stdout), said.stdout


def test_a_lost_log_is_accepted_with_the_snapshot(tmp_path: Path) -> None:
    data = tmp_path / "data"
    digests = made(data)
    for path in (data / "session_wal").iterdir():
        path.unlink()
    said = run("adopt", data)
    assert "starts from that snapshot" in said.stdout, said.stdout
    assert run("adopt", data, "--yes").returncode == 0
    with gibramdb.open(data, vector_dim=3) as db:
        assert db.digest().sha256 == digests[6]
        assert "took the snapshot alone" in db.health().components["warnings"]
