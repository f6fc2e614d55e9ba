"""What the disk changes or loses while the store runs, and memory still has: the next snapshots write it anew."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest
from support.owned_store import ROOT, OwnedStore

from gibramdb import NewDocument, NewEntity
from gibramdb.database import snapshots
from gibramdb.database.snapshot_files import SnapshotFiles
from gibramdb.errors import CorruptSnapshotError, DiskFullError, GibramError
from gibramdb.model import commands as c
from gibramdb.model.results import Health
from gibramdb.storage import snapshot, wal

SNAPSHOTS, LOGS = ROOT / "data/session_snapshots", ROOT / "data/session_wal"
TRIGGER = {"session_store.snapshot_interval": "60s"}
INTERVAL_MS = 60_000


@pytest.fixture
def store() -> Iterator[OwnedStore]:
    store = OwnedStore(flags={"session_store.snapshot_interval": "0", "session_store.snapshot_wal_size_bytes": "0"})
    yield store
    store.close()


def fill(store: OwnedStore, name: str, count: int = 60) -> None:
    store.run(c.AddEntities(name, tuple(NewEntity(f"{name}{n}", f"{n}", "kind", "said" * 9) for n in range(count))))


def checkpoint(store: OwnedStore) -> None:
    answer = store.run(c.Checkpoint())
    assert not isinstance(answer, GibramError), answer


def health(store: OwnedStore) -> dict[str, str]:
    answer = store.run(c.GetHealth())
    assert isinstance(answer, Health)
    return answer.components


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: list[Callable[[bytes], bytes | None]] = [
    flipped,
    lambda content: content[:-1],
    lambda content: content[:10],
    lambda content: content + b"\0",
    lambda _content: b"",
    lambda _content: None,
]


def damage(store: OwnedStore, number: int, how: Callable[[bytes], bytes | None] = flipped) -> None:
    path = snapshot.pack_path(SNAPSHOTS, number)
    content = how(store.disk.read(path))
    store.disk.unlink(path)
    if content is not None:
        store.disk.put(path, content)


@pytest.mark.parametrize("how", DAMAGES)
def test_what_a_damaged_pack_held_is_written_anew_and_nothing_is_lost(
    store: OwnedStore, how: Callable[[bytes], bytes | None]
) -> None:
    fill(store, "still")
    checkpoint(store)
    damage(store, 1, how)
    for number in range(4):
        store.run(c.AddDocuments("busy", (NewDocument(f"d{number}"),)))
        checkpoint(store)
        told = health(store)
        assert (told["durable_state"], told["snapshot_files_damaged"]) == ("serving", "1")
    digest = store.digest()
    store.kill()
    assert store.digest() == digest


@pytest.mark.parametrize("how", DAMAGES)
def test_each_snapshot_looks_at_all_sizes_and_the_contents_are_read_in_turn(
    store: OwnedStore, how: Callable[[bytes], bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "SYNC_BYTES", 1_000)
    monkeypatch.setattr(snapshots, "LOOK_BYTES", 2_000)
    for number in range(5):
        fill(store, f"s{number}", 40)
        checkpoint(store)
    pack_bytes = sum(len(store.disk.read(path)) for _, path in snapshot.list_packs(store.disk, SNAPSHOTS))
    assert pack_bytes > 5 * 2_000
    for number in range(5):
        damage(store, number + 1, how)
        for taken in range(1, 2 * (pack_bytes // 2_000 + 2)):
            store.run(c.AddDocuments("busy", (NewDocument(f"{number}.{taken}"),)))
            checkpoint(store)
            if health(store)["snapshot_files_damaged"] == str(number + 1):
                break
        else:
            pytest.fail(f"the damage to pack {number + 1} was not seen in {taken} snapshots")
        assert how is flipped or taken == 1
    digest = store.digest()
    store.kill()
    assert store.digest() == digest


def test_between_snapshots_an_unchanged_store_is_read_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SYNC_BYTES", 1_000)
    monkeypatch.setattr(snapshots, "LOOK_BYTES_AT_REST", 2_000)
    store = OwnedStore(flags=TRIGGER)
    fill(store, "still", 100)
    checkpoint(store)
    manifest_path = snapshot.snapshot_path(SNAPSHOTS, 2)

    def damage_the_manifest() -> None:
        store.disk.put(manifest_path, flipped(store.disk.read(manifest_path)))

    def damage_the_pack() -> None:
        damage(store, 1)

    for count, harm in ((2, damage_the_pack), (3, damage_the_manifest)):
        harm()
        for _ in range(40):
            store.clock.ms += 30_000
            store.database.snapshots.tick()  # type: ignore[union-attr]
            until_rest(store)
            if health(store)["snapshot_count"] == str(count):
                break
        told = health(store)
        assert told["snapshot_count"] == str(count), "one more was published though nothing had changed"
        assert told["snapshot_files_damaged"] == "1"
        digest = store.digest()
        store.kill()
        assert store.digest() == digest
    store.close()


def test_the_snapshot_thread_looks_by_itself() -> None:
    store = OwnedStore(flags=TRIGGER)
    fill(store, "still")
    checkpoint(store)
    damage(store, 1)
    store.clock.ms += snapshots.LOOK_EVERY_MS
    while health(store)["snapshot_count"] == "1":
        store.turn()
    assert health(store)["snapshot_files_damaged"] == "1"
    digest = store.digest()
    store.kill()
    assert store.digest() == digest
    store.close()


def until_rest(store: OwnedStore) -> None:
    """Until the snapshot thread has told all, and runs nothing."""
    asked = store.start(c.TruncateLog())
    while not asked:
        store.turn()


def test_a_change_behind_the_cut_that_was_given_up_is_in_the_next(store: OwnedStore) -> None:
    fill(store, "still")
    checkpoint(store)
    damage(store, 1)
    answers = store.start(c.Checkpoint())
    store.run(c.AddDocuments("still", (NewDocument("meanwhile"),)))
    while not answers:
        store.turn()
    assert not isinstance(answers[0], GibramError)
    assert health(store)["snapshot_files_damaged"] == "1"
    digest = store.digest()
    store.kill()
    assert store.digest() == digest


def test_damage_that_can_not_be_mended_yet_is_told_until_it_is() -> None:
    store = OwnedStore(flags=TRIGGER)
    fill(store, "still")
    checkpoint(store)
    damage(store, 1)
    store.run(c.AddDocuments("busy", (NewDocument("d"),)))
    store.disk.fail_below(SNAPSHOTS, "open_write(create)", errno.ENOSPC)
    assert isinstance(store.run(c.Checkpoint()), GibramError)
    told = health(store)
    assert told["durable_state"] == "degraded"
    assert "is damaged, and is written anew: " in told["durable_state_reason"]
    assert "No space left" in told["durable_state_reason"]
    store.clock.ms += snapshots.RETRY_MS
    store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    told = health(store)
    assert (told["durable_state"], told["snapshot_count"], told["snapshot_files_damaged"]) == ("serving", "2", "1")
    digest = store.digest()
    store.kill()
    assert store.digest() == digest
    store.close()


@pytest.mark.parametrize("operation", ["open_read", "pread"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_pack_that_can_not_be_read_is_written_anew_if_that_is_the_disks_fault(
    store: OwnedStore, error: int, operation: str
) -> None:
    fill(store, "still")
    checkpoint(store)
    store.run(c.AddDocuments("busy", (NewDocument("d"),)))
    store.disk.fail_below(SNAPSHOTS, operation, error)
    checkpoint(store)
    told = health(store)
    if error == errno.EIO:
        assert (told["durable_state"], told["snapshot_files_damaged"]) == ("serving", "1")
    else:
        assert (told["durable_state"], told["snapshot_files_damaged"]) == ("degraded", "0")
        assert "can not be read again" in told["durable_state_reason"]
        checkpoint(store)
        assert health(store)["durable_state"] == "serving"
    digest = store.digest()
    store.kill()
    assert store.digest() == digest


def test_what_can_not_be_looked_at_hides_no_damage_that_was_seen_before_it() -> None:
    store = OwnedStore(flags=TRIGGER)
    for name in ("one", "two"):
        fill(store, name)
        checkpoint(store)
    damage(store, 1, lambda content: content[:-1])
    store.disk.fail_below(SNAPSHOTS, "open_read", errno.EMFILE, at=3)  # behind the manifest and the first pack
    store.clock.ms += snapshots.LOOK_EVERY_MS
    for _ in range(2):  # the first finds that no snapshot is due, since nothing has changed
        store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    told = health(store)
    assert (told["durable_state"], told["snapshot_files_damaged"]) == ("degraded", "1")
    assert "can not be read again" in told["durable_state_reason"]
    store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    told = health(store)
    assert (told["durable_state"], told["snapshot_count"]) == ("serving", "3")
    store.close()


def test_a_damaged_header_of_the_log_holds_up_no_truncation_for_longer_than_it_is_needed(store: OwnedStore) -> None:
    for number in range(3):
        store.run(c.AddDocuments("s", (NewDocument(f"d{number}"),)))
        checkpoint(store)
    _, path = wal.list_logs(store.disk, LOGS)[1]
    content = store.disk.read(path)
    store.disk.put(path, bytes([content[0] ^ 1]) + content[1:])
    states = []
    for number in range(8):
        store.run(c.AddDocuments("s", (NewDocument(f"e{number}"),)))
        checkpoint(store)
        told = health(store)
        states.append(told["durable_state"])
        assert (path.name in told["durable_state_reason"]) == (states[-1] == "degraded")
    assert "degraded" in states[:3], "while a kept snapshot needs it"
    assert set(states[3:]) == {"serving"}
    assert len(wal.list_logs(store.disk, LOGS)) <= 4
    digest = store.digest()
    store.kill()
    assert store.digest() == digest


def test_what_can_not_be_removed_is_told_until_it_is(store: OwnedStore) -> None:
    for number in range(3):
        store.run(c.AddDocuments("s", (NewDocument(f"d{number}"),)))
        checkpoint(store)
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    store.disk.fail_below(LOGS, "unlink", errno.EACCES)
    checkpoint(store)
    told = health(store)
    assert told["durable_state"] == "degraded"
    assert "superfluous could not all be removed" in told["durable_state_reason"]
    assert told["snapshot_error"] == ""
    store.run(c.TruncateLog())
    assert health(store)["durable_state"] == "serving"


def test_what_else_fails_keeps_no_snapshot_from_being_taken_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    store = OwnedStore(flags=TRIGGER)
    store.run(c.AddDocuments("s", (NewDocument("d"),)))

    def refuse(*_: object) -> None:
        raise CorruptSnapshotError("provoked")

    with monkeypatch.context() as broken:
        broken.setattr(SnapshotFiles, "write_copy", refuse)
        for _ in range(4):
            store.clock.ms += INTERVAL_MS // 4
            assert isinstance(store.run(c.Save("copy")), GibramError)
    store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    assert health(store)["snapshot_count"] == "1"
    store.run(c.AddDocuments("s", (NewDocument("e"),)))
    store.clock.ms += INTERVAL_MS
    store.disk.fail_below(SNAPSHOTS, "open_write(create)", errno.ENOSPC)
    store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    assert health(store)["snapshot_failures"] == "1", "a copy is no snapshot"
    store.clock.ms += snapshots.RETRY_MS
    store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    assert health(store)["snapshot_count"] == "2", "not a whole interval later"
    store.close()


def test_what_the_disk_refuses_of_a_pack_is_told_with_its_file(
    store: OwnedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As real systems do, the refusal of a call on an open file names none."""
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    for operation in ("pwrite", "fsync"):
        real = getattr(store.disk, operation)

        def refuse(fd: int, *arguments: object, real: Callable[..., None] = real) -> None:
            if store.disk._open[fd][0].is_relative_to(SNAPSHOTS):
                raise OSError(errno.ENOSPC, "No space left on device")
            real(fd, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(store.disk, operation, refuse)
            answer = store.run(c.Checkpoint())
        assert isinstance(answer, DiskFullError)
        assert f"{snapshot.pack_path(SNAPSHOTS, 1)}: No space left on device" in str(answer)


def test_a_store_that_is_restarted_more_often_than_the_interval_gets_its_snapshots() -> None:
    store = OwnedStore(flags=TRIGGER)
    for count in ("0", "1"):  # from the beginning of the log on; then from the newest snapshot on
        for number in range(3):
            store.run(c.AddDocuments("s", (NewDocument(f"{count}.{number}"),)))
            store.database.snapshots.tick()  # type: ignore[union-attr]
            assert health(store)["snapshot_count"] == count
            store.clock.ms += INTERVAL_MS // 3
            store.kill()
        assert health(store)["snapshot_count"] == count, "not before it serves"
        store.database.snapshots.tick()  # type: ignore[union-attr]
        until_rest(store)
        assert health(store)["snapshot_count"] == str(int(count) + 1)
    store.clock.ms -= 10 * INTERVAL_MS  # between two processes the wall clock was set back
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    store.kill()
    store.clock.ms += INTERVAL_MS
    store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    assert health(store)["snapshot_count"] == "3"
    store.close()


def test_a_checkpoint_that_failed_is_taken_again_though_nothing_has_changed() -> None:
    store = OwnedStore(flags=TRIGGER)
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    checkpoint(store)
    store.disk.fail_below(SNAPSHOTS, "open_write(create)", errno.ENOSPC)
    assert isinstance(store.run(c.Checkpoint()), DiskFullError)
    store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    assert "No space left" in health(store)["durable_state_reason"]
    store.clock.ms += snapshots.RETRY_MS
    store.database.snapshots.tick()  # type: ignore[union-attr]
    until_rest(store)
    told = health(store)
    assert (told["snapshot_count"], told["snapshot_error"], told["durable_state"]) == ("2", "", "serving")
    store.close()


def test_what_a_kill_left_is_not_counted(store: OwnedStore) -> None:
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    checkpoint(store)
    store.disk.put(snapshot.pack_path(SNAPSHOTS, 2), b"published, and its manifest was not")
    store.kill()
    store.run(c.AddDocuments("s", (NewDocument("e"),)))
    checkpoint(store)
    assert health(store)["snapshot_count"] == "2"
    digest = store.digest()
    store.kill()
    assert store.digest() == digest


def test_a_truncation_is_seen_while_it_runs(store: OwnedStore) -> None:
    asked = store.start(c.TruncateLog())
    assert health(store)["snapshot_running"] == "truncate"
    while not asked:
        store.turn()
    assert health(store)["snapshot_running"] == ""
