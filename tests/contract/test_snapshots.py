"""Snapshots, copies and restores of an embedded store on a real disk: what comes back is what was there.

One module, because snapshot, copy and restore are one job of the store, and most tests here need two of them.
"""

from __future__ import annotations

import array
import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.owned_store import OwnedStore
from support.server import Server
from support.tree import tree_hash

import gibramdb
from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit, Session, Store
from gibramdb.database import snapshots
from gibramdb.errors import (
    CorruptSnapshotError,
    DiskFullError,
    FatalError,
    GibramError,
    HaltedError,
    IncompatibleStoreError,
    InternalError,
    InvalidArgumentError,
    LimitExceededError,
    MissingStoreError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from gibramdb.model import commands as c
from gibramdb.storage.files import OsFileSystem

VECTOR = [1.0, 2.0, 3.0, 4.0]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    with gibramdb.open(tmp_path / "data", vector_dim=4) as store:
        yield store


def fill(session: Session, count: int = 3_000) -> None:
    """Some of everything, with deletions, replacements and ids that are no more."""
    session.add_documents([NewDocument(f"d{n}") for n in range(10)])
    session.add_textunits([NewTextUnit(f"t{n}", 1 + n % 10, f"text {n}", VECTOR if n % 3 else b"") for n in range(50)])
    session.add_entities(
        [NewEntity(f"e{n}", f"e{n}", "kind", "said", [float(n + 1)] * 4 if n % 5 else b"") for n in range(count)]
    )
    session.add_relationships([NewRelationship(n + 1, n + 2, "next", weight=0.5) for n in range(count - 1)])
    session.link_many([(n + 1, n + 2) for n in range(40)])
    session.add_community(NewCommunity("by hand", (1, 2), (1,), "summary", embedding=VECTOR))
    session.add_entity("gone", "gone", embedding=VECTOR)
    session.add_relationship(1, count + 1, "gone")
    session.delete_relationship(count)
    session.delete_entity(count + 1)
    session.detect_communities()
    session.update_entity_description(3, "said anew", [9.0] * 4)
    session.set_ttl(ttl_s=86_400)


def waited(store: Store) -> str:
    """The error of the backup or restore that runs, once it is over."""
    until = time.monotonic() + 60
    while store.backup_status().in_progress:
        assert time.monotonic() < until
        time.sleep(0.01)
    return store.backup_status().error


def files(tmp_path: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in (tmp_path / "data").glob(pattern))


def test_a_start_from_a_snapshot_gives_the_same_state(db: Store, tmp_path: Path) -> None:
    for name in ("one", "two"):
        fill(db.session(name))
    before = db.digest()
    assert db.checkpoint() > 0
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == before
        health = again.health().components
        assert health["recovery_records_replayed"] == "0"
        assert health["snapshot_count"] == "1"
        assert int(health["wal_bytes_since_snapshot"]) < 2_000
        assert again.session("one").add_entity("new", "new") == 3_002, "an id is never given out twice"
        after = again.digest()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == after
        assert again.health().components["recovery_records_replayed"] == "1"


def test_only_changed_sessions_are_written_and_sparse_packs_are_rewritten(db: Store, tmp_path: Path) -> None:
    for number in range(10):
        db.session(f"s{number}").add_entities([NewEntity(f"e{n}", f"e{n}", "", "x" * 100) for n in range(100)])
    db.checkpoint()
    directory = tmp_path / "data/session_snapshots"
    whole = (directory / "pack-00000000000000000001.bin").stat().st_size
    db.session("s0").touch()
    db.checkpoint()
    assert (directory / "pack-00000000000000000002.bin").stat().st_size < whole / 5
    for number in range(1, 9):
        db.session(f"s{number}").touch()
        db.checkpoint()
    assert len(files(tmp_path, "session_snapshots/snapshot-*")) == 3
    assert not (directory / "pack-00000000000000000001.bin").exists()
    digest = db.digest()
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == digest


@pytest.mark.parametrize("cycles", [100, pytest.param(1_000, marks=pytest.mark.sweep)])
def test_files_stay_bounded_over_many_cycles(db: Store, tmp_path: Path, cycles: int) -> None:
    session = db.session("s")
    fill(db.session("large"), 500)
    bytes_max = 0
    for cycle in range(cycles):
        session.add_document(f"d{cycle}")
        if cycle:
            session.delete_document(cycle)
        db.checkpoint()
        assert len(files(tmp_path, "session_snapshots/*")) <= 3 * 2 + 1 + 2  # one pack more holds what never changes
        assert len(files(tmp_path, "session_wal/wal-*")) <= 4
        held_bytes = sum(path.stat().st_blocks * 512 for path in (tmp_path / "data").rglob("*"))
        if cycle < 10:
            bytes_max = max(bytes_max, held_bytes)
        assert held_bytes <= 1.5 * bytes_max, f"more on disk in cycle {cycle} than ever in the first ten"
    assert db.health().components["snapshot_count"] == str(cycles)
    assert db.health().components["snapshots_retained"] == "3"


def test_files_stay_bounded_over_many_restores(db: Store, tmp_path: Path) -> None:
    fill(db.session("s"), 200)
    db.save("copy")
    for _ in range(8):
        db.restore_in_background("copy")
        assert waited(db) == ""
    assert db.health().components["snapshots_retained"] == "3"
    assert len(files(tmp_path, "session_snapshots/snapshot-*.json")) == 3
    assert len(files(tmp_path, "session_wal/wal-*")) <= 4
    digest = db.digest()
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == digest


def test_a_start_from_a_snapshot_after_links_were_taken_back(db: Store, tmp_path: Path) -> None:
    session = db.session("s")
    document = session.add_document("d")
    units = [session.add_textunit(f"t{n}", document, "text") for n in range(4)]
    entities = [session.add_entity(f"e{n}", f"e{n}") for n in range(4)]
    session.link_many([(unit, entity) for unit in units for entity in entities])
    session.unlink(units[0], entities[0])
    session.unlink(units[2], entities[1])
    db.checkpoint()
    session.unlink(units[3], entities[3])
    session.link(units[0], entities[0])
    digest = db.digest()
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == digest
        session = again.session("s")
        assert session.get_textunit(units[0]).entity_ids == (2, 3, 4, 1)
        session.unlink(units[0], entities[0])
        session.unlink(units[1], entities[3])
        assert session.get_entity(entities[3]).textunit_ids == (1, 3)
        again.checkpoint()
        digest = again.digest()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == digest


def test_a_copy_is_one_moment_and_writers_go_on_meanwhile(db: Store, tmp_path: Path) -> None:
    fill(db.session("s"), 20_000)
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        while not stop.is_set():
            written.append(db.session("s").add_entity(f"w{len(written)}", f"w{len(written)}"))

    writer = threading.Thread(target=write)
    writer.start()
    before = 0
    for _ in range(5):
        before = len(written)
        db.save("copy.gibram")
        assert len(written) > before, "nobody could write meanwhile"
    stop.set()
    writer.join()
    digest = db.digest()
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == digest
        again.restore_in_background("copy.gibram")
        assert waited(again) == ""
        held = {entity.external_id for entity in again.session("s").entities() if entity.external_id[0] == "w"}
        assert held == {f"w{n}" for n in range(len(held))}
        assert before <= len(held) <= len(written)


def test_automatic_snapshots_by_size(tmp_path: Path) -> None:
    with gibramdb.open(tmp_path / "data", vector_dim=4, snapshot_wal_size_bytes=200_000) as db:
        for number in range(200):
            db.session("s").add_document(f"d{number}", "x" * 5_000)
        until = time.monotonic() + 60
        while int(db.health().components["snapshot_count"]) < 3 and time.monotonic() < until:
            time.sleep(0.02)
        assert int(db.health().components["snapshot_count"]) >= 3


def test_automatic_snapshots_by_time(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("session_store:\n  snapshot_interval: 1s\n")
    with Server(tmp_path / "data", "--config", str(config)) as server, server.connect() as db:
        time.sleep(2)
        assert db.health().components["snapshot_count"] == "0", "there is nothing to keep"
        db.session("s").add_document("d")
        until = time.monotonic() + 60
        while db.health().components["snapshot_count"] == "0" and time.monotonic() < until:
            time.sleep(0.05)
        assert db.health().components["snapshot_count"] == "1"
        time.sleep(2.5)
        assert db.health().components["snapshot_count"] == "1", "nothing has changed"
        db.session("s").add_document("e")
        until = time.monotonic() + 60
        while db.health().components["snapshot_count"] == "1" and time.monotonic() < until:
            time.sleep(0.05)
        assert db.health().components["snapshot_count"] == "2"


def test_a_snapshot_before_a_clean_stop_on_request(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("session_store:\n  snapshot_on_stop: true\n")
    with Server(tmp_path / "data", "--config", str(config)) as server:
        server.stop()
    assert not list((tmp_path / "data" / "session_snapshots").glob("snapshot-*")), "there is nothing to keep"
    with Server(tmp_path / "data", "--config", str(config)) as server, server.connect() as db:
        db.session("s").add_document("d")
        server.stop()
    for _ in range(3):
        with Server(tmp_path / "data", "--config", str(config)) as server, server.connect() as db:
            health = db.health().components
            assert health["recovery_records_replayed"] == "0"
            assert health["snapshot_count"] == "1", "an unchanged store pushes out no older snapshot"
            server.stop()
    with Server(tmp_path / "data") as server, server.connect() as db:
        assert db.session("s").info().document_count == 1


def test_a_change_that_can_not_be_applied_halts_the_store(
    db: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.session("s").add_document("kept")
    with monkeypatch.context() as broken:

        def fail(*arguments: object) -> None:
            raise ZeroDivisionError("provoked")

        broken.setattr("gibramdb.database.database.apply", fail)
        with pytest.raises(OutcomeUnknownError, match="provoked"):
            db.session("s").add_document("not applied")
    health = db.health()
    assert (health.status, health.components["durable_state"]) == ("error", "unhealthy")
    assert (health.components["engine"], health.components["session_store"]) == ("halted", "unhealthy")
    assert "internal apply failure" in health.components["durable_state_reason"]
    for refused in (db.sessions, db.info, db.checkpoint, db.save, lambda: db.session("s").add_document("x")):
        with pytest.raises(HaltedError):
            refused()
    db.close()
    assert files(tmp_path, "session_snapshots/snapshot-*") == [], "memory is not what the log says any more"
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert [each.external_id for each in again.session("s").documents()] == ["kept"]


def test_a_note_of_a_read_that_can_not_be_applied_halts_the_store_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    store = OwnedStore()
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    store.run(c.SetSessionTtl("s", idle_ttl_s=8))
    store.clock.ms += 2_000

    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("provoked")

    monkeypatch.setattr("gibramdb.database.database.apply", fail)
    answer = store.run(c.GetDocument("s", 1))
    assert isinstance(answer, HaltedError)
    assert "provoked" in str(answer)
    store.close()


def open_in(tmp_path: Path, durable: bool) -> Store:
    if durable:
        return gibramdb.open(tmp_path / "data", vector_dim=4)
    return gibramdb.open(vector_dim=4, data_dir=tmp_path / "data")


@pytest.mark.parametrize("durable", [True, False])
def test_a_copy_restores_what_was_saved(tmp_path: Path, durable: bool) -> None:
    with open_in(tmp_path, durable) as db:
        fill(db.session("s"))
        saved = db.digest()
        db.save("copy.gibram")
        assert db.last_save().path == str(tmp_path / "data" / "copy.gibram")
        db.session("s").delete()
        db.session("later").add_document("d")
        db.restore_in_background("copy.gibram")
        assert waited(db) == ""
        assert db.digest() == saved
        assert db.session("s").add_entity("new", "new") == 3_002
        after = db.digest()
        status = db.backup_status()
        assert (status.kind, status.progress_percent) == ("restore", 100)
    if durable:
        with open_in(tmp_path, durable) as db:
            assert db.digest() == after
            assert db.last_save().path.endswith("copy.gibram"), "it survives a restart"


@pytest.mark.parametrize("where", ["header", "session", "manifest", "end"])
def test_a_copy_that_the_disk_does_not_give_back_as_written_gets_no_name(
    db: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Changing(OsFileSystem):
        """What is on the disk is not what the cache has shown."""

        def drop_cache(self, fd: int) -> None:
            super().drop_cache(fd)
            data = self.pread(fd, self.size(fd), 0)
            places = {"header": 20, "session": 200, "manifest": data.index(b'"cut"'), "end": len(data) - 1}
            os.pwrite(fd, bytes([data[places[where]] ^ 1]), places[where])

    fill(db.session("s"), 100)
    db.save("copy.gibram")
    good = (tmp_path / "data/copy.gibram").read_bytes()
    db.session("s").touch()
    with monkeypatch.context() as broken:
        broken.setattr("gibramdb.database.snapshot_files.OsFileSystem", Changing)
        with pytest.raises(CorruptSnapshotError, match=r"copy\.gibram: "):
            db.save("copy.gibram")
    assert (tmp_path / "data/copy.gibram").read_bytes() == good, "the copy that is there is left alone"
    assert "copy.gibram" in db.backup_status().error
    db.save("copy.gibram")


def test_a_copy_that_the_disk_refuses_is_named_and_is_no_snapshot_that_failed(
    db: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshots may lie on another disk, on which nothing is wrong."""

    class Failing(OsFileSystem):
        def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def pread(self, fd: int, length: int, offset: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    fill(db.session("s"), 100)
    db.save("good.gibram")
    with monkeypatch.context() as broken:
        broken.setattr("gibramdb.database.snapshot_files.OsFileSystem", Failing)
        with pytest.raises(DiskFullError, match=rf"^{tmp_path}/data/copy\.gibram: No space left"):
            db.save("copy.gibram")
        health = db.health().components
        told = ("snapshot_failures", "snapshot_error", "durable_state")
        assert [health[name] for name in told] == ["0", "", "serving"], "the last snapshot did not fail"
        until = time.monotonic() + 60
        while db.health().components["snapshot_count"] != "2":  # the one that the save would have taken too
            assert time.monotonic() < until
            time.sleep(0.01)
        assert "copy.gibram: No space left" in db.backup_status().error
        with pytest.raises(InvalidArgumentError):
            db.save("session_wal/copy.gibram")
        assert "session_wal/copy.gibram" in db.backup_status().error
        db.restore_in_background("good.gibram")
        assert waited(db).startswith("good.gibram: Input/output error")
    db.save("copy.gibram")
    assert db.backup_status().error == ""


def test_refused_copies_do_not_fill_the_log(
    db: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client may ask as often as it likes, and with paths of 4 KiB."""
    for number in range(50):
        with pytest.raises(GibramError) as refused:
            db.save("/".join(["n" * 200] * 20) + f"/{number}")
        assert len(str(refused.value)) < 2_000
    lines = [record for record in caplog.records if "save failed" in record.getMessage()]
    assert [(line.levelname, line.times) for line in lines] == [("WARNING", 1)] * 10  # type: ignore[attr-defined]
    assert all(len(line.getMessage()) < 2_000 for line in lines)
    monkeypatch.setattr(snapshots, "TOLD_EVERY_MS", 0)
    with pytest.raises(GibramError):
        db.save("../later")
    assert caplog.records[-1].times == 41, "so often since the last line"  # type: ignore[attr-defined]


def test_the_log_tells_of_each_copy_what_became_of_it(
    db: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gibramdb.database.snapshots")
    db.session("s").add_document("d")
    db.save("good.gibram")
    for name in ("bad1", "bad2"):
        (tmp_path / "data" / name).write_bytes(b"no copy")
        db.restore_in_background(name)
        assert name in waited(db)
    db.restore_in_background("good.gibram")
    assert waited(db) == ""
    told = [record for record in caplog.records if "snapshot published" not in record.getMessage()]
    done = [(record.getMessage(), getattr(record, "path", "")) for record in told if record.levelname == "INFO"]
    assert done == [("save done", "good.gibram"), ("restore done", "good.gibram")]
    failed = [record.getMessage().partition(" failed: ") for record in told if record.levelname != "INFO"]
    assert [(kind, name in cause) for (kind, _, cause), name in zip(failed, ("bad1", "bad2"), strict=True)] == [
        ("restore", True), ("restore", True),
    ]  # fmt: skip
    caplog.clear()
    fill(db.session("s"), 2_000)
    db.save_in_background("late.gibram")
    db.close()
    late = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(late) == 1
    assert late[0].startswith("save of late.gibram was still running when the store stopped: the store was closed")


def test_a_save_replaces_copies_and_nothing_else(db: Store, tmp_path: Path) -> None:
    """The packs of another store below the data directory begin as copies do."""
    with gibramdb.open(tmp_path / "data/other", vector_dim=4) as other:
        fill(other.session("s"), 100)
        other.save("copy.gibram")
        digest = other.digest()
    db.session("s").add_document("d")
    folder = "other/session_snapshots"
    packs = [path.name for path in (tmp_path / "data" / folder).iterdir()]
    assert {name.partition("-")[0] for name in packs} > {"pack", "snapshot"}
    (tmp_path / "data/short").write_bytes((tmp_path / "data/other/copy.gibram").read_bytes()[:50])
    for path in (*(f"{folder}/{name}" for name in packs), "other/gibramdb-store.json", "short"):
        with pytest.raises(InvalidArgumentError, match=r"no copy made by SAVE or BGSAVE, which alone .* another name"):
            db.save(path)
        with pytest.raises(InvalidArgumentError, match="no copy made by SAVE or BGSAVE"):
            db.save_in_background(path)
    db.save("other/copy.gibram")
    with gibramdb.open(tmp_path / "data/other", vector_dim=4) as other:
        assert other.digest() == digest


def test_progress_goes_up_once_and_a_later_snapshot_leaves_it_alone(db: Store) -> None:
    for number in range(4):
        fill(db.session(f"s{number}"), 5_000)
    begins: list[Callable[[], object]] = [
        lambda: db.save_in_background("copy"),
        lambda: db.restore_in_background("copy"),
    ]
    for begin in begins:
        begin()
        seen = []
        until = time.monotonic() + 60
        while (status := db.backup_status()).in_progress:
            assert time.monotonic() < until
            seen.append(status.progress_percent)
        assert seen == sorted(seen)
        assert len(set(seen)) > 3
        assert max(seen) < 100
        db.checkpoint()
        assert db.backup_status().progress_percent == 100


def test_a_copy_of_another_store_and_an_older_snapshot_can_be_restored(db: Store, tmp_path: Path) -> None:
    with gibramdb.open(tmp_path / "other", vector_dim=4) as other:
        fill(other.session("s"))
        theirs = other.digest()
        other.save("copy.gibram")
    shutil.copy(tmp_path / "other/copy.gibram", tmp_path / "data/theirs.gibram")
    db.session("mine").add_document("d")
    mine = db.digest()
    db.checkpoint()
    db.restore_in_background("theirs.gibram")
    assert waited(db) == ""
    assert db.digest() == theirs
    db.session("s").add_document("more")
    db.restore_in_background("session_snapshots/snapshot-00000000000000000001.json")
    assert waited(db) == ""
    assert db.digest() == mine
    db.session("mine").add_document("e")
    now = db.digest()
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == now


def test_what_can_not_be_restored_changes_nothing(db: Store, tmp_path: Path) -> None:
    fill(db.session("s"), 100)
    before = db.digest()
    db.save("copy.gibram")
    good = (tmp_path / "data/copy.gibram").read_bytes()
    with gibramdb.open(tmp_path / "wide", vector_dim=8) as wide:
        wide.session("s").add_entity("e", "e", embedding=[1.0] * 8)
        wide.save("copy.gibram")
    bad = {
        "cut": good[: len(good) // 2],
        "flipped": good[:3_000] + bytes([good[3_000] ^ 1]) + good[3_001:],
        "empty": b"",
        "text": b"not a copy" * 100,
        "wide": (tmp_path / "wide/copy.gibram").read_bytes(),
    }
    for name, content in bad.items():
        (tmp_path / "data" / name).write_bytes(content)
        db.restore_in_background(name)
        assert waited(db) != "", name
        assert "next: " in db.backup_status().error, name
        assert "gibramdb store" not in db.backup_status().error, "the store is whole"
        if name == "wide":
            assert "vectors of dimension 8, server.vector_dim is 4" in db.backup_status().error
        assert db.digest() == before
    for refused in ("", "../elsewhere", "/etc/passwd", "nothing", "session_wal"):
        with pytest.raises((InvalidArgumentError, NotFoundError)):
            db.restore_in_background(refused)
    for refused in ("../elsewhere", "/etc/x", "session_wal/x", "session_snapshots/x", "gibramdb-store.json"):
        with pytest.raises(InvalidArgumentError):
            db.save(refused)
    assert db.digest() == before
    db.session("s").add_document("goes on")


def test_a_copy_is_written_and_read_in_pieces(tmp_path: Path) -> None:
    """What a save needs beside the store, and a restore beside the new state, is the same for four times as much."""
    needed: dict[int, tuple[int, int]] = {}
    for sessions in (1, 4):
        with gibramdb.open(tmp_path / str(sessions), vector_dim=384) as db:
            row = array.array("f", [0.5] * 384).tobytes()
            for number in range(sessions):
                for begin in range(0, 5_000, 1_000):
                    new = [NewEntity(f"e{n}", f"e{n}", "k", "x" * 1_000, row) for n in range(begin, begin + 1_000)]
                    db.session(f"s{number}").add_entities(new)
            tracemalloc.start()
            try:
                before = tracemalloc.get_traced_memory()[0]
                db.save("copy")
                for_save = tracemalloc.get_traced_memory()[1] - before
                for number in range(sessions):
                    db.session(f"s{number}").delete()
                tracemalloc.reset_peak()
                db.restore_in_background("copy")
                assert waited(db) == ""
                after, peak = tracemalloc.get_traced_memory()
                needed[sessions] = for_save, peak - after
            finally:
                tracemalloc.stop()
    print(needed)
    assert (tmp_path / "4/copy").stat().st_size > 50_000_000
    for once, four_times in zip(needed[1], needed[4], strict=True):
        assert four_times < 16_000_000
        assert four_times < 1.5 * once + 2_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells how much memory there is on Linux")
def test_a_restore_for_which_there_is_no_memory_is_refused_before_it_begins(tmp_path: Path) -> None:
    script = f"""
import resource
from pathlib import Path
import gibramdb
from contract.test_snapshots import waited
with gibramdb.open({str(tmp_path / "data")!r}, vector_dim=512) as db:
    db.session("s").add_entities([gibramdb.NewEntity(f"e{{n}}", f"e{{n}}", embedding=[1.0] * 512) for n in range(2_000)])
    db.save("copy")
    db.session("s").add_document("kept")
    before = db.digest()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 3_000_000, -1))
    db.restore_in_background("copy")
    print(waited(db))
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    assert db.digest() == before
    db.restore_in_background("copy")
    assert waited(db) == ""
    assert db.session("s").info().document_count == 0
"""
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=180, check=False,
        env=os.environ | {"PYTHONPATH": str(tests)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"copy: a restore .* expected about [0-9,]+ bytes of memory, found [0-9,]+ available", done.stdout)


def test_a_restore_beyond_the_limits_of_admission_is_kept_and_said(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with gibramdb.open(data, vector_dim=8) as db:
        for number in range(4):
            db.session(f"s{number}").add_documents([NewDocument(f"d{n}") for n in range(number + 1)])
        digest = db.digest()
        db.save("copy")
    config = tmp_path / "config.yaml"
    config.write_text("security:\n  max_sessions: 2\n  max_session_documents: 3\n")
    with Server(data, "--config", str(config)) as server, server.connect() as db:
        db.restore_in_background("copy")
        assert waited(db) == ""
        assert db.digest() == digest
        warnings = db.health().components["warnings"]
        assert "brought 4 sessions, security.max_sessions is 2" in warnings
        assert "brought 1 sessions that hold more than their quota" in warnings
        with pytest.raises(LimitExceededError, match="max sessions"):
            db.session("new").add_document("d")
        for number in range(3):
            db.session(f"s{number}").delete()
        db.session("s3").delete_document(1)
        db.save("smaller")
        db.restore_in_background("smaller")
        assert waited(db) == ""
        assert "A restore brought" not in db.health().components["warnings"]
        server.stop()


def test_every_flipped_byte_of_a_snapshot_refuses_the_start(db: Store, tmp_path: Path) -> None:
    db.session("s").add_entity("e", "e", embedding=VECTOR)
    db.checkpoint()
    db.close()
    directory = tmp_path / "data/session_snapshots"
    for name in ("snapshot-00000000000000000001.json", "pack-00000000000000000001.bin"):
        good = (directory / name).read_bytes()
        # The header of a pack says what the file is, for people and for a restore: nothing is read by it.
        for offset in range(64 if name.startswith("pack") else 0, len(good)):
            (directory / name).write_bytes(good[:offset] + bytes([good[offset] ^ 0x41]) + good[offset + 1 :])
            before = tree_hash(directory)
            with pytest.raises((CorruptSnapshotError, IncompatibleStoreError), match=name):
                gibramdb.open(tmp_path / "data", vector_dim=4)
            assert tree_hash(directory) == before
        (directory / name).write_bytes(good)
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.session("s").info().entity_count == 1


def test_nothing_depends_on_the_header_of_a_pack(db: Store, tmp_path: Path) -> None:
    """Nobody looks at it while the store runs, so damage there may not cost what lies behind it."""
    db.session("s").add_entity("e", "e", embedding=VECTOR)
    db.checkpoint()
    digest = db.digest()
    db.close()
    pack = tmp_path / "data/session_snapshots/pack-00000000000000000001.bin"
    good = pack.read_bytes()
    for offset in range(0, 64, 4):
        pack.write_bytes(good[:offset] + bytes([good[offset] ^ 0x41]) + good[offset + 1 :])
        with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
            assert again.digest() == digest


def test_a_snapshot_of_a_log_in_which_nothing_stands_behind_its_snapshot_yet_starts_again(
    db: Store, tmp_path: Path
) -> None:
    """Two snapshots are cut at the beginning of one generation, which stands on the first of them."""
    db.session("s").add_document("kept")
    db.checkpoint()
    db.close()
    for log in files(tmp_path, "session_wal/wal-*.log"):
        (tmp_path / "data/session_wal" / log).rename(tmp_path / log)
    for _ in range(3):
        with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
            again.checkpoint()
            assert again.session("s").info().document_count == 1


def test_a_restore_that_loses_its_witness_with_the_power_can_be_saved_and_started_again() -> None:
    store = OwnedStore()
    store.run(c.AddDocuments("old", (NewDocument("d"),)))
    answers = store.start_restore()
    while not answers:
        store.turn()
    store.cut_the_power(0)
    assert not isinstance(store.run(c.Checkpoint()), GibramError)
    store.reopen()
    assert not store.state.sessions
    store.close()


def test_the_log_moved_aside_the_snapshot_is_the_recovery_point(db: Store, tmp_path: Path) -> None:
    db.session("s").add_document("covered")
    db.checkpoint()
    covered = db.digest()
    db.session("s").add_document("in the log only")
    db.close()
    directory = tmp_path / "data/session_wal"
    (log,) = sorted(directory.glob("wal-*.log"))[-1:]
    damaged = bytearray(log.read_bytes())
    damaged[600] ^= 1
    log.write_bytes(damaged)
    with pytest.raises(FatalError, match="offset"):
        gibramdb.open(tmp_path / "data", vector_dim=4)
    aside = tmp_path / "aside"
    aside.mkdir()
    for each in directory.glob("wal-*.log"):
        each.rename(aside / each.name)
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == covered
        again.session("s").add_document("goes on")
        after = again.digest()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == after
    shutil.copy(aside / log.name, directory / log.name)
    with pytest.raises(FatalError):
        gibramdb.open(tmp_path / "data", vector_dim=4)


def test_a_missing_generation_or_pack_is_named(db: Store, tmp_path: Path) -> None:
    db.session("s").add_document("a")
    db.checkpoint()
    for name in ("b", "c"):
        db.session("s").add_document(name)
        assert db.rotate_log() >= 2
    db.session("s").add_document("d")
    db.close()
    logs = sorted((tmp_path / "data/session_wal").glob("wal-*.log"))
    middle = logs[-2].read_bytes()
    logs[-2].unlink()
    with pytest.raises(MissingStoreError, match="goes on from"):
        gibramdb.open(tmp_path / "data", vector_dim=4)
    logs[-2].write_bytes(middle)
    pack = tmp_path / "data/session_snapshots/pack-00000000000000000001.bin"
    pack.rename(tmp_path / "pack")
    with pytest.raises(CorruptSnapshotError, match="the pack is missing"):
        gibramdb.open(tmp_path / "data", vector_dim=4)
    (tmp_path / "pack").rename(pack)
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.session("s").info().document_count == 4


def test_truncating_never_drops_what_a_kept_snapshot_needs(db: Store) -> None:
    db.session("s").add_document("a")
    db.rotate_log()
    db.session("s").add_document("b")
    db.rotate_log()
    assert db.truncate_log() == 0, "no snapshot covers it"
    assert db.log_status().generations == 3
    for name in "cdef":
        db.checkpoint()
        db.session("s").add_document(name)
    status = db.log_status()
    assert status.generations <= 4
    assert status.current_lsn == status.flushed_lsn > 0
    assert 0 < db.truncate_log() < status.current_lsn


def test_without_a_log_there_is_nothing_to_rotate() -> None:
    with gibramdb.open(vector_dim=4) as db:
        for refused in (db.checkpoint, db.rotate_log, db.truncate_log):
            with pytest.raises(UnavailableError, match="WAL not configured"):
                refused()
        assert db.log_status().generations == 0
        assert db.last_save().at_s == 0


def test_another_dimension_is_refused_by_both_numbers_unless_nothing_has_vectors(db: Store, tmp_path: Path) -> None:
    db.session("s").add_document("no vectors")
    db.checkpoint()
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=6) as wider:
        wider.session("s").add_entity("e", "e", embedding=[1.0] * 6)
        wider.checkpoint()
    with pytest.raises(IncompatibleStoreError, match=r"dimension 6, server.vector_dim is 4"):
        gibramdb.open(tmp_path / "data", vector_dim=4)


@pytest.mark.parametrize("is_covered", [False, True], ids=["in the log", "in a snapshot"])
@pytest.mark.parametrize("is_session_deleted", [False, True], ids=["an entity", "a session"])
def test_another_dimension_is_taken_once_the_last_vector_is_deleted(
    db: Store, tmp_path: Path, is_session_deleted: bool, is_covered: bool
) -> None:
    data = tmp_path / "data"
    db.session("kept").add_document("no vectors")
    added = db.session("s").add_entity("e", "first", embedding=[1.0] * 4)
    if is_covered:
        db.checkpoint()
    db.close()
    with pytest.raises(IncompatibleStoreError, match=r"dimension 4, server.vector_dim is 6"):
        gibramdb.open(data, vector_dim=6)
    with gibramdb.open(data, vector_dim=4) as again:
        if is_session_deleted:
            again.session("s").delete()
        else:
            again.session("s").delete_entity(added)
    for dim in (4, 6):  # the earlier one is no worse for it
        with gibramdb.open(data, vector_dim=dim) as other:
            assert other.session("kept").info().document_count == 1
    with gibramdb.open(data, vector_dim=6) as wider:
        session = wider.session("s")
        session.add_entity("e2", "second", embedding=[1.0] * 6)
        assert [found.entity.title for found in session.query([1.0] * 6).entities] == ["SECOND"]
        digest = wider.digest().sha256
    with pytest.raises(IncompatibleStoreError, match=r"wal-.*LSN .*dimension 6, server.vector_dim is 4"):
        gibramdb.open(data, vector_dim=4)
    verified = subprocess.run(
        [sys.executable, "-m", "gibramdb", "store", "verify", str(data)], capture_output=True, text=True, check=False
    )
    assert digest in verified.stdout, verified.stderr
    with gibramdb.open(data, vector_dim=6) as wider:
        assert wider.digest().sha256 == digest
        wider.checkpoint()
    with gibramdb.open(data, vector_dim=6) as wider:
        assert wider.digest().sha256 == digest


def test_a_truncation_asked_for_during_a_restore_waits_for_it(db: Store, tmp_path: Path) -> None:
    fill(db.session("s"), 20_000)
    db.save("copy.gibram")
    db.session("s").delete()
    db.restore_in_background("copy.gibram")
    for _ in range(3):
        db.truncate_log()
    assert waited(db) == ""
    db.session("t").add_document("acknowledged")
    digest = db.digest()
    db.close()
    with gibramdb.open(tmp_path / "data", vector_dim=4) as again:
        assert again.digest() == digest


def test_where_no_thread_can_be_started_it_is_told_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_in(tmp_path, durable=False) as db:
        db.session("s").add_document("d")
        db.save("copy")
    with open_in(tmp_path, durable=False) as db:
        with monkeypatch.context() as broken:

            def fail(thread: threading.Thread) -> None:
                raise RuntimeError(f"can't start new thread {thread.name}")

            broken.setattr(threading.Thread, "start", fail)
            with pytest.raises(InternalError, match="can't start"):
                db.save("other")
            db.restore_in_background("copy")
            assert "can't start" in waited(db)
        db.restore_in_background("copy")
        assert waited(db) == ""
        assert db.session("s").info().document_count == 1


def test_a_defect_in_a_snapshot_is_told_and_the_next_one_succeeds(db: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    db.session("s").add_document("d")
    calls: list[Callable[[], object]] = [db.checkpoint, db.save]
    with monkeypatch.context() as broken:

        def fail(*arguments: object) -> None:
            raise MemoryError("provoked")

        broken.setattr("gibramdb.storage.snapshot.value", fail)
        for call in calls:
            with pytest.raises(InternalError, match="provoked"):
                call()
    assert db.checkpoint() > 0
