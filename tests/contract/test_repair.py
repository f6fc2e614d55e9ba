"""`store repair` and `store inspect`: what is said to be lost is lost, and not a record more; nothing is thrown away."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crash.test_restore_kills import StoppingDisk
from support.faulty_disk import Stopped
from support.tree import tree_hash

import gibramdb
from gibramdb.config import load_config
from gibramdb.database import journal
from gibramdb.database.opening import verify
from gibramdb.database.repair import propose, repair
from gibramdb.errors import DiskFullError, FatalError, GibramError, MissingStoreError, StorageError
from gibramdb.storage.files import OsFileSystem


def run(command: str, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "gibramdb", "store", command, "--data", str(data), *arguments]
    if command == "repair":
        line += ["--dim", "3"]
    return subprocess.run(line, capture_output=True, text=True, timeout=180, check=False)


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
    assert "if anything did" not in said.stdout, said.stdout
    assert run("repair", data, "--yes").returncode == 0
    assert opened(data) == digests[7]
    (aside,) = data.glob("*/set-aside-*")
    assert len((aside / newest.name).read_bytes()) == len(whole)


def test_without_any_of_the_log_behind_it_the_snapshot_alone_remains(tmp_path: Path) -> None:
    data = tmp_path / "data"
    digests = made(data)
    for path in logs(data)[:-1]:
        path.unlink()
    flip(logs(data)[-1], 20)
    said = run("repair", data)
    assert "alone" in said.stdout, said.stdout
    assert "not even the header" in said.stdout, said.stdout
    assert run("repair", data, "--yes").returncode == 0
    assert opened(data) == digests[6]


def rotated(data: Path) -> dict[int, str]:
    """A store with one snapshot and five generations behind its cut, each of two documents; digests as `made`."""
    digests = {}
    with gibramdb.open(data, vector_dim=3) as db:
        for number in range(1, 11):
            db.session("s").add_document(f"d{number}")
            digests[number] = db.digest().sha256
            if number == 1:
                db.checkpoint()
            elif number % 2 == 1:
                db.rotate_log()
    return digests


def shorten(path: Path) -> None:
    """Its last record is gone, and nothing in the file tells."""
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\xe3\xa5\xb1\xd7")])


def damage_middle(path: Path) -> None:
    flip(path, path.read_bytes().rindex(b"\xe3\xa5\xb1\xd7") + 50)


@pytest.mark.parametrize(
    ("what", "kept", "told"),
    [
        (
            Path.unlink,
            5,
            r"generation 4, which is missing and ended at LSN [0-9]+; .*-05.log: 2 records up to LSN [0-9]+, l",
        ),
        (shorten, 6, r"the end of wal-.*04.log, which reached to LSN [0-9]+; .*-05.log: 2 records"),
        (damage_middle, 6, r"wal-.*04.log: [0-9]+ bytes that can not be read.*; .*05.log: 2 records"),
        (lambda path: flip(path, 20), 5, r"wal-.*04.log, of which not even the header can be read: [0-9]+ bytes; "),
    ],
)
def test_of_a_log_with_a_fault_in_its_middle_all_before_the_fault_is_kept(
    tmp_path: Path, what: Callable[[Path], object], kept: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "IDLE_BEFORE_MARKER_MS", 1_000_000)  # the last record of a log is no marker
    data = tmp_path / "data"
    digests = rotated(data)
    fourth = data / "session_wal/wal-00000000000000000004.log"
    what(fourth)
    with pytest.raises(FatalError):
        opened(data)
    before = tree_hash(data)
    looked = run("inspect", data)
    assert looked.returncode == 65
    assert re.search(r"wal-0*[45]\.log .* damaged", looked.stdout)
    (said,) = re.findall(r"lost +(.*?)set aside", run("repair", data).stdout, re.DOTALL)
    assert re.search(told.replace("-05", "-.*05"), " ".join(said.split())), said
    assert tree_hash(data) == before
    done = run("repair", data, "--yes")
    assert done.returncode == 0, done.stderr
    assert digests[kept] in done.stdout
    assert opened(data) == digests[kept]
    aside = next((data / "session_wal").glob("set-aside-*"))
    assert {path.name for path in aside.iterdir()} >= {path.name for path in aside.glob("wal-*0[56].log")} != set()


def test_a_torn_tail_is_no_damage(tmp_path: Path) -> None:
    data = tmp_path / "data"
    digests = made(data)
    newest = logs(data)[-1]
    content = newest.read_bytes()
    end = len(content.rstrip(b"\0"))
    newest.write_bytes(content[:end] + b"\xe3\xa5\xb1\xd7\x01" + bytes(1_000))
    looked = run("inspect", data)
    assert looked.returncode == 0, looked.stdout
    assert re.search(rf"{newest.name} .* 5 *\n", looked.stdout), looked.stdout
    assert "Nothing is wrong" in run("repair", data).stdout
    assert opened(data) == digests[8]


def test_a_damaged_generation_that_nothing_needs_costs_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    digests = made(data)
    assert len(logs(data)) > 2
    flip(logs(data)[0], 20)
    with pytest.raises(FatalError):
        opened(data)
    assert run("repair", data, "--yes").returncode == 0
    assert opened(data) == digests[8]


def test_a_restore_whose_snapshot_is_damaged_leaves_what_was_before_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with gibramdb.open(data, vector_dim=3) as db:
        db.session("s").add_document("before")
        before = db.digest().sha256
        db.save("copy")
        db.restore_in_background("copy")
        while db.backup_status().in_progress:
            time.sleep(0.01)
        db.session("s").add_document("behind")
    flip(snapshots(data)[-1], 200)
    assert len(snapshots(data)) == 2
    said = run("repair", data, "--yes")
    assert "1 records up to LSN" in " ".join(said.stdout.split()), said.stdout
    assert opened(data) == before


def undone(data: Path) -> tuple[str, str]:
    """A store with a restore that changed its state, and nothing logged behind it; the digests before and after."""
    with gibramdb.open(data, vector_dim=3) as db:
        db.session("good").add_document("g")
        db.save("copy")
        db.session("good").delete()
        db.session("junk").add_document("j")
        db.checkpoint()
        before = db.digest().sha256
        db.restore_in_background("copy")
        while db.backup_status().in_progress:
            time.sleep(0.01)
        after = db.digest().sha256
    assert before != after
    return before, after


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        (("pack",), r"the restore, .*, that began generation 4: all that snapshot 3 held"),
        (("manifest",), r"the restore, .*, that began generation 4: all that snapshot 3 held"),
        (("no manifest",), r"the restore, .*, that began generation 4: all that snapshot 3 held"),
        (("pack", "no log"), r"snapshot-.*3\.json: all that it held as of .*, if a restore made it"),
        (("pack", "log"), r"wal-.*4\.log, of which not even .*; snapshot-.*3\.json: all that it held"),
        (("manifest", "log"), r"wal-.*4\.log, of which not even the header can be read"),
        (("manifest", "no log"), r"nothing, if nothing came behind the end of wal-.*3\.log"),
    ],
    ids=str,
)
def test_a_restore_that_a_repair_undoes_is_named_as_lost(tmp_path: Path, damaged: tuple[str, ...], told: str) -> None:
    data = tmp_path / "data"
    before, _ = undone(data)
    assert logs(data)[-1].name.endswith("04.log")
    for what in damaged:
        match what:
            case "pack":
                flip(max((data / "session_snapshots").glob("pack-*.bin")), 100)
            case "manifest":
                flip(snapshots(data)[-1], 200)
            case "no manifest":
                snapshots(data)[-1].unlink()
            case "log":
                flip(logs(data)[-1], 20)
            case "no log":
                logs(data)[-1].unlink()
    (said,) = re.findall(r"lost +(.*?)set aside", run("repair", data).stdout, re.DOTALL)
    assert re.search(told, " ".join(said.split())), said
    assert run("repair", data, "--yes").returncode == 0
    assert opened(data) == before


def test_an_end_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    """The last generation that is left had been followed by another, which is gone: its records can not be counted."""
    data = tmp_path / "data"
    digests = rotated(data)
    damage_middle(data / "session_wal/wal-00000000000000000004.log")
    logs(data)[-1].unlink()
    (said,) = re.findall(r"lost +(.*?)set aside", run("repair", data).stdout, re.DOTALL)
    told = r"04.log: [0-9]+ bytes that .*05.log: 2 records .*; and what came behind the end of wal-0*5.log, if anything did"
    assert re.search(told, " ".join(said.split())), said
    assert run("repair", data, "--yes").returncode == 0
    assert opened(data) == digests[6]


def test_inspect_leaves_a_store_that_is_in_use_alone(tmp_path: Path) -> None:
    """What is being written right now looks damaged."""
    data = tmp_path / "data"
    with gibramdb.open(data, vector_dim=3) as db:
        db.session("s").add_document("d")
        looked = run("inspect", data)
        assert looked.returncode == 73, looked.stdout
        assert "in use by process" in looked.stderr
    assert run("inspect", data).returncode == 0


def test_the_end_of_the_log_is_missing_and_part_of_it_is_there(tmp_path: Path) -> None:
    """A log that was moved aside is gone as a whole: what lies behind the cut was lost, and that is not guessed away."""
    data = tmp_path / "data"
    digests = made(data)
    with gibramdb.open(data, vector_dim=3) as db:
        db.checkpoint()
    for path in logs(data)[-2:]:
        path.unlink()
    left = logs(data)
    before = tree_hash(data)
    with pytest.raises(MissingStoreError, match="move these out of the log directory") as refused:
        opened(data)
    assert all(path.name in str(refused.value) for path in left)
    assert tree_hash(data) == before
    said = run("repair", data)
    assert "alone" in said.stdout
    for path in left:
        path.rename(tmp_path / path.name)
    with gibramdb.open(data, vector_dim=3) as db:
        assert db.digest().sha256 == digests[8]
        assert "took the snapshot alone" in db.health().components["warnings"]


def test_a_snapshot_set_aside_takes_its_own_packs_along_and_leaves_those_that_another_needs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with gibramdb.open(data, vector_dim=3) as db:
        db.session("still").add_documents([gibramdb.NewDocument(f"d{n}") for n in range(100)])
        db.session("busy").add_document("a")
        db.checkpoint()
        db.session("busy").add_document("b")
        db.checkpoint()
        digest = db.digest().sha256
    flip(snapshots(data)[-1], 200)
    packs = sorted((data / "session_snapshots").glob("pack-*.bin"))
    assert len(packs) == 2
    assert run("repair", data, "--yes").returncode == 0
    (aside,) = (data / "session_snapshots").glob("set-aside-*")
    assert [path.name for path in sorted(aside.iterdir())] == [packs[1].name, "snapshot-00000000000000000002.json"]
    assert packs[0].exists()
    assert opened(data) == digest


def test_a_repair_ended_anywhere_can_be_done_again(tmp_path: Path) -> None:
    """At any change it makes to the disk; what it ends with is what it had proposed."""
    whole = tmp_path / "whole"
    digests = rotated(whole)
    with gibramdb.open(whole, vector_dim=3) as db:
        db.checkpoint()
    flip(snapshots(whole)[-1], 200)
    damage_middle(whole / "session_wal/wal-00000000000000000003.log")
    for step in range(1, 100):
        data = tmp_path / str(step)
        shutil.copytree(whole, data)
        config = load_config(
            None,
            flags={"server.data_dir": str(data), "session_store.mode": "durable", "server.vector_dim": "3"},
        )
        disk = StoppingDisk()
        disk.stop_at = step
        try:
            repair(config, disk)
        except Stopped:
            disk.die()
        else:
            break
        if propose(config) is not None:
            repair(config)
        assert opened(data) == digests[4], step
    assert step > 8


class FailingDisk(StoppingDisk):
    """The real disk, whose k-th change fails, and no other; the syncs of logs that are read do not count."""

    def __init__(self, fail_at: int, error: int) -> None:
        super().__init__()
        self._fail_at, self._error = fail_at, error

    def _change(self) -> None:
        super()._change()
        if self.changes == self._fail_at:
            raise OSError(self._error, os.strerror(self._error))

    def make_dir(self, path: Path) -> None:
        self._change()
        super().make_dir(path)

    def fdatasync(self, fd: int) -> None:
        OsFileSystem.fdatasync(self, fd)


def test_a_repair_that_fails_says_what_of_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    """At any change it makes to the disk. As long as nothing was taken out, it leaves things as they were."""
    whole = tmp_path / "whole"
    digests = rotated(whole)
    with gibramdb.open(whole, vector_dim=3) as db:
        db.checkpoint()
    flip(snapshots(whole)[-1], 200)
    damage_middle(whole / "session_wal/wal-00000000000000000003.log")
    before = tree_hash(whole)
    unchanged = 0
    for step in range(1, 100):
        error = (errno.ENOSPC, errno.EROFS)[step % 2]
        data = tmp_path / str(step)
        shutil.copytree(whole, data)
        config = load_config(
            None,
            flags={"server.data_dir": str(data), "session_store.mode": "durable", "server.vector_dim": "3"},
        )
        disk = FailingDisk(step, error)
        refusals: list[GibramError] = []
        try:
            repair(config, disk)
        except GibramError as refusal:
            refusals.append(refusal)
        if not refusals:
            break
        assert (type(refusals[0]), refusals[0].exit_code) == (
            (DiskFullError, 75) if error == errno.ENOSPC else (StorageError, 74)
        )
        assert str(data) in str(refusals[0])
        assert f"{os.strerror(error)}; next: " in str(refusals[0])
        is_taken_out = [path for folder in data.rglob("set-aside-*") for path in folder.iterdir()]
        assert is_taken_out or tree_hash(data) == before, step
        unchanged += not is_taken_out
        assert not [path for path in data.rglob("*") if path.name.endswith(".tmp")], step
        if propose(config) is not None:
            repair(config)
        assert opened(data) == digests[4], step
    assert step > 8
    assert unchanged > 8


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
    assert refused.stderr.count("next: ") == 1
    assert tree_hash(data) == before


@pytest.mark.parametrize("command", ["verify", "inspect", "repair"])
def test_a_store_that_lost_its_marker_and_one_of_gibram_are_named_as_such(tmp_path: Path, command: str) -> None:
    data, gibram, none = tmp_path / "data", tmp_path / "gibram", tmp_path / "none"
    made(data)
    (data / "gibramdb-store.json").unlink()
    gibram.mkdir()
    (gibram / "snapshot.gibram").write_bytes(b"")
    damaged = tmp_path / "damaged"
    with gibramdb.open(damaged, vector_dim=3) as db:
        db.session("s").add_document("d")
    (damaged / "gibramdb-store.json").unlink()
    flip(logs(damaged)[0], 512 + 60)
    for directory, words in (
        (data, "`gibramdb store adopt"),
        (damaged, "`gibramdb store adopt"),
        (gibram, "import-gibram"),
        (none, "found no store here"),
    ):
        said = run(command, directory)
        assert (said.returncode, said.stdout) == (66, "")
        assert words in said.stderr


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


def test_reading_a_copy_of_a_store_makes_no_file_in_it(tmp_path: Path) -> None:
    """Some tools that copy leave out files without content, as the locks are."""
    with gibramdb.open(tmp_path / "data", vector_dim=4) as db:
        db.session("s").add_document("d")
    for lock in (tmp_path / "data").rglob("LOCK"):
        lock.unlink()
    before = tree_hash(tmp_path)
    config = load_config(flags={"server.data_dir": str(tmp_path / "data"), "session_store.mode": "durable"})
    recovered, _ = verify(config)
    assert recovered.records == 1
    assert propose(config) is None
    assert tree_hash(tmp_path) == before
