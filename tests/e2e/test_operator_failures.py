"""What an operator meets when something is wrong around the real server: rights, storage, paths, memory, a defect of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import RefusedError, Server
from support.tree import tree_hash

from gibramdb import NewDocument, Store
from gibramdb.errors import CallerError, HaltedError, OutcomeUnknownError, StorageError

NOBODY = 65_534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def _why_not() -> str:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return "only root can run a server as another user"
    done = subprocess.run([*AS_NOBODY, sys.executable, "-c", "import gibramdb"], capture_output=True, check=False)
    return "another user can not read this installation" if done.returncode else ""


WHY_NOT = _why_not()
may_change_user = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def documents(db: Store, session_id: str = "s") -> list[str]:
    return [each.external_id for each in db.session(session_id).documents()]


def restored(db: Store) -> str:
    """Waits for a restore; what it failed with, or nothing."""
    end = time.monotonic() + 60
    while db.backup_status().in_progress:
        assert time.monotonic() < end
        time.sleep(0.02)
    return db.backup_status().error


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def owned_by_nobody() -> Iterator[Path]:
    """A store with a snapshot and a log behind it, of a user without privileges."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies in one that is closed to others
        Path(folder).chmod(0o711)
        data = Path(folder) / "data"
        with Server(data) as server, server.connect() as db:
            db.session("s").add_document("d1")
            db.checkpoint()
            db.session("s").add_document("d2")
            server.stop()
        for path in (data, *data.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        yield data


@may_change_user
@pytest.mark.parametrize(
    ("what", "mode", "status", "words"),
    [
        ("session_wal", 0o000, 66, "can not be read"),
        ("session_snapshots", 0o000, 66, "can not be read"),
        ("session_wal", 0o600, 66, "can not be read"),
        ("session_wal", 0o500, 74, "the wal directory can not be written"),
        ("session_snapshots", 0o500, 74, "the snapshots directory can not be written"),
        ("session_wal/wal-*.log", 0o000, 74, "the log can not be read"),
        ("session_wal/wal-*.log", 0o400, 74, "Permission denied"),
        ("session_snapshots/snapshot-*.json", 0o000, 74, "the snapshot can not be read"),
        ("session_snapshots/pack-*.bin", 0o000, 74, "the pack can not be read"),
    ],
)
def test_what_this_user_may_not_read_or_write_refuses_the_start(
    owned_by_nobody: Path, what: str, mode: int, status: int, words: str
) -> None:
    data = owned_by_nobody
    before = tree_hash(data)
    path = max(data.glob(what))
    usual = path.stat().st_mode
    path.chmod(mode)
    with pytest.raises(RefusedError) as refusal:
        Server(data, prefix=AS_NOBODY).kill()
    assert refusal.value.status == status
    for word in (str(path), words, "Permission denied", "next: give"):
        assert word in refusal.value.output
    assert tree_hash(data) == before
    path.chmod(usual)
    with Server(data, prefix=AS_NOBODY) as server, server.connect() as db:
        assert documents(db) == ["d1", "d2"]
        server.kill()


@may_change_user
def test_rights_that_are_taken_away_while_it_runs_stop_no_writes(owned_by_nobody: Path) -> None:
    data = owned_by_nobody
    with Server(data, prefix=AS_NOBODY) as server, server.connect() as db:
        (data / "session_snapshots").chmod(0o500)
        with pytest.raises(StorageError, match=r"session_snapshots.*Permission denied; next: give the server's user"):
            db.checkpoint()
        health = db.health()
        assert (health.status, health.components["durable_state"]) == ("degraded", "degraded")
        assert "Permission denied; next: give" in health.components["snapshot_error"]
        assert server.says("Permission denied; next: give"), server.lines
        db.session("s").add_document("d3")
        (data / "session_snapshots").chmod(0o700)
        (data / "session_wal").chmod(0o500)
        db.checkpoint()
        db.session("s").add_document("d4")
        assert server.says("can not begin its next generation"), server.lines
        health = db.health()
        assert (health.components["durable_state"], health.components["snapshot_error"]) == ("degraded", "")
        assert "can not begin its next generation" in health.components["durable_state_reason"]
        (data / "session_wal").chmod(0o700)
        generation = int(db.health().components["wal_generation"])
        db.checkpoint()
        assert int(db.health().components["wal_generation"]) == generation + 1
        assert db.health().components["durable_state"] == "serving"
        server.kill()
    with Server(data, prefix=AS_NOBODY) as server, server.connect() as db:
        assert documents(db) == ["d1", "d2", "d3", "d4"]
        server.kill()


# --- storage that does not last ---------------------------------------------------------------------------------------


@pytest.fixture(params=["tmpfs", "overlay"])
def scratch(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, Path]]:
    kind = str(request.param)
    for name in ("lower", "upper", "work", "mounted here"):  # the kernel writes a blank as \\040
        (tmp_path / name).mkdir()
    layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    options = "size=64m" if kind == "tmpfs" else layers
    mounted = tmp_path / "mounted here"
    if subprocess.run(["mount", "-t", kind, "-o", options, kind, str(mounted)], check=False).returncode:
        pytest.skip(f"mounting {kind} is not allowed here")
    yield kind, mounted
    subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.parametrize("lies_there", ["data_dir", "wal_dir", "snapshot_dir"])
@pytest.mark.parametrize("is_linked", [False, True], ids=["there", "through a link"])
def test_each_directory_on_scratch_storage_is_warned_of(
    tmp_path: Path, scratch: tuple[str, Path], lies_there: str, is_linked: bool
) -> None:
    kind, mounted = scratch
    if is_linked:
        link = tmp_path / "link"
        link.symlink_to(mounted)
        mounted = link
    places = {
        name: (mounted if name == lies_there else tmp_path) / name for name in ("data_dir", "wal_dir", "snapshot_dir")
    }
    config = tmp_path / "gibramdb.yaml"
    config.write_text(
        f"session_store:\n  snapshot_interval: 5m\n"
        f"  wal_dir: {places['wal_dir']}\n  snapshot_dir: {places['snapshot_dir']}\n"
    )
    with Server(places["data_dir"], "--config", str(config)) as server, server.connect() as db:
        warnings = db.health().components["warnings"]
        warned = [line for line in server.lines if "warning" in line]
        server.kill()
    said = f"directory {places[lies_there]} lies on {kind}"
    assert said in warnings
    assert "put it on persistent storage" in warnings
    assert warnings.count("lies on") == 1
    assert len(warned) == 1
    assert said in warned[0]


# --- paths ------------------------------------------------------------------------------------------------------------


def test_paths_of_operators_stay_in_the_data_directory(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    outside.mkdir()
    with Server(data) as server, server.connect() as db:
        db.session("s").add_document("d1")
        db.save("folder-less")
        shutil.copy(data / "folder-less", outside / "copy")
        (data / "way-out").symlink_to(outside)
        (data / "link").symlink_to(outside / "copy")
        (data / "dangling").symlink_to(outside / "new")
        db.session("s").add_document("d2")
        before = tree_hash(outside)
        names = {path.name for path in data.iterdir()}
        for path in (
            "../outside/copy", str(outside / "copy"), "way-out/copy", "link", "dangling", "session_wal/copy",
            "session_snapshots/copy", "gibramdb-store.json",
        ):  # fmt: skip
            for refused in (db.save, db.save_in_background, db.restore_in_background):
                with pytest.raises(CallerError) as error:
                    refused(path)
                assert path in str(error.value)
        assert tree_hash(outside) == before
        assert {path.name for path in data.iterdir()} == names
        assert documents(db) == ["d1", "d2"]
        # What is to be restored is put there first.
        shutil.copy(outside / "copy", data / "brought.gibram")
        db.restore_in_background("brought.gibram")
        assert restored(db) == ""
        assert documents(db) == ["d1"]
        server.kill()


# --- what HEALTH says ----------------------------------------------------------------------------------------------------


def test_memory_that_runs_out_is_degraded_and_over_when_there_is_some(tmp_path: Path) -> None:
    config = tmp_path / "gibramdb.yaml"
    config.write_text("security:\n  max_memory_bytes: 100000\n")
    with Server(tmp_path / "data", "--config", str(config)) as server, server.connect() as db:
        seen = []
        for number in range(9):
            db.session("s").add_documents([NewDocument(f"d{number}", "x" * 10_000)])
            health = db.health()
            seen.append((health.status, health.components["durable_state"], health.components["resource_pressure"]))
            if seen[-1][2] != "ok":
                assert "memory" in health.components["durable_state_reason"]
        assert seen[0] == ("ok", "serving", "ok")
        assert ("degraded", "degraded", "warning") in seen
        assert seen[-1] == ("degraded", "degraded", "critical")
        db.session("s").delete()
        health = db.health()
        assert (health.status, health.components["durable_state"]) == ("ok", "serving")
        assert health.components["durable_state_reason"] == ""
        server.kill()


DEFECT = """
import gibramdb.database.database as database
import gibramdb.database.recovery as recovery

whole = database.apply

def apply(state, mutation, lsn):
    if "not applied" in repr(mutation):
        raise ZeroDivisionError("provoked")
    whole(state, mutation, lsn)

database.apply = recovery.apply = apply
"""


def test_a_defect_that_halts_the_store_is_told_and_mended_by_a_start_without_it(tmp_path: Path) -> None:
    """The server is the real one, but for a change that it can not apply."""
    data, broken = tmp_path / "data", tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(DEFECT)
    with Server(data, prefix=["env", f"PYTHONPATH={broken}"]) as server, server.connect() as db:
        db.session("s").add_document("kept")
        with pytest.raises(OutcomeUnknownError):
            db.session("s").add_document("not applied")
        health = db.health()
        assert (health.status, health.components["durable_state"]) == ("error", "unhealthy")
        assert (health.components["engine"], health.components["session_store"]) == ("halted", "unhealthy")
        for word in ("internal apply failure", "provoked", "next: send no more traffic"):
            assert word in health.components["durable_state_reason"]
        for word in ("the store is halted", "provoked"):
            assert server.says(word), server.lines
        for refused in (db.sessions, db.checkpoint, lambda: db.session("s").add_document("after")):
            with pytest.raises(HaltedError, match="unhealthy"):
                refused()
        db.ping()
        server.terminate()
        server.wait()
    with Server(data) as server, server.connect() as db:
        assert documents(db) == ["kept"]
        assert db.health().components["durable_state"] == "serving"
        db.session("s").add_document("not applied")
        server.kill()
    with Server(data) as server, server.connect() as db:
        assert documents(db) == ["kept", "not applied"]
        server.kill()
    with pytest.raises(RefusedError) as refusal:  # the record is in the log now
        Server(data, prefix=["env", f"PYTHONPATH={broken}"]).kill()
    assert refusal.value.status == 65
    for word in (
        ".log: the record before offset ",
        ", LSN ",
        "expected a record that fits",
        "found ",
        "provoked",
        "next: ",
    ):
        assert word in refusal.value.output
