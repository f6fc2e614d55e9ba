"""Automatic snapshots of a real server whose snapshot directory fails: told everywhere, tried again, and no write stops."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server

from gibramdb import NewDocument, Store
from gibramdb.errors import InvalidArgumentError, StorageError

WAITING_SECONDS_MAX = 120.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount_point)], check=False)
    if done.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield mount_point
    subprocess.run(["umount", str(mount_point)], check=True)


def health_with(db: Store, field: str, value: str) -> dict[str, str]:
    until = time.monotonic() + WAITING_SECONDS_MAX
    while (components := db.health().components)[field] != value:
        assert time.monotonic() < until, (components[field], value)
        time.sleep(0.05)
    return components


def test_a_full_snapshot_directory_and_then_one_with_something_in_the_way(tmp_path: Path, small_disk: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"session_store:\n  snapshot_interval: 1s\n  snapshot_dir: {small_disk}\n")
    with Server(tmp_path / "data", "--config", str(config)) as server, server.connect() as db:
        documents = [NewDocument(f"d{number}", "x" * 1_000) for number in range(1_000)]
        db.session("s").add_documents(documents)
        components = health_with(db, "snapshot_failures", "1")
        assert "No space left on device" in components["snapshot_error"]
        assert components["durable_state"] == "degraded"
        assert "No space left on device" in components["durable_state_reason"]
        assert "No space left on device" in db.backup_status().error
        assert server.says("snapshot failed")
        assert any("snapshot failed" in line and "No space left on device" in line for line in server.lines)
        db.session("s").add_document("meanwhile")
        assert not [path for path in small_disk.iterdir() if path.name.startswith(("snapshot-", "pack-"))]

        subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
        components = health_with(db, "snapshot_count", "1")
        assert components["durable_state"] == "serving"
        failures = int(components["snapshot_failures"])
        assert failures >= 1, "it was tried more than once if mounting took long"
        assert (components["snapshot_error"], db.backup_status().error) == ("", "")

        in_the_way = small_disk / "pack-00000000000000000002.bin.tmp"
        in_the_way.mkdir()
        db.session("s").add_document("again")
        components = health_with(db, "snapshot_failures", str(failures + 1))
        assert "Is a directory" in components["snapshot_error"]
        assert str(in_the_way) in db.backup_status().error
        with pytest.raises(StorageError, match="Is a directory"):
            db.save("copy")
        assert int(db.health().components["snapshot_failures"]) >= failures + 2
        assert (db.backup_status().kind, db.last_save().path) == ("save", ""), "not a successful one"
        with pytest.raises(InvalidArgumentError):
            db.save("../elsewhere")
        db.session("s").add_document("and again")
        digest = db.digest()
        server.kill()
    with Server(tmp_path / "data", "--config", str(config)) as server, server.connect() as db:
        assert db.digest() == digest
