"""What a start does before it serves: the newest snapshot, then the log behind it, into an empty state.

Reads, and changes no file. Whatever does not fit is refused by name, never guessed.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from gibramdb.core.apply import apply
from gibramdb.core.state import StoreState
from gibramdb.errors import (
    CorruptLogError,
    CorruptSnapshotError,
    IncompatibleStoreError,
    MissingStoreError,
)
from gibramdb.model import mutations
from gibramdb.model.ids import NO_LSN, Generation, Lsn
from gibramdb.model.mutations import Mutation
from gibramdb.storage import record, snapshot, wal
from gibramdb.storage.files import FileSystem, refused
from gibramdb.storage.identity import ADOPT, Directories
from gibramdb.storage.snapshot import Manifest, Section
from gibramdb.storage.wal import LogHeader, LogTail


class Recovered(msgspec.Struct, frozen=True):
    """The state as snapshot and log have it, and where the log ends.

    `last` is the newest generation, in which the log goes on; None if there is none: then it begins anew on `snapshot`,
    as generation `next_generation`. `before` is the one before it, if that was read. `unfinished`: an empty generation
    of a restore that was cut short, to be removed before anything is logged. `log_began_at_ms`: the oldest generation.
    """

    state: StoreState
    before: tuple[Path, LogHeader, LogTail] | None
    last: tuple[Path, LogHeader, LogTail] | None
    unfinished: Path | None
    snapshot: Manifest | None
    snapshot_checksum: int
    next_generation: Generation
    generations: int
    records: int
    log_bytes: int
    log_began_at_ms: int

    @property
    def end_lsn(self) -> Lsn:
        """Where the log ends."""
        if self.last is not None:
            return self.last[2].end_lsn
        assert self.snapshot is not None
        return Lsn(self.snapshot.cut.lsn)

    @property
    def interval_began_at_ms(self) -> int:
        """When the interval to the next snapshot began: with the newest one, or with the log where there is none."""
        return self.log_began_at_ms if self.snapshot is None else self.snapshot.created_at_ms

    @property
    def proven_lsn(self) -> Lsn:
        """Up to where a sync is known to have succeeded: a record or marker notes it, or the snapshot's cut."""
        noted_lsn = NO_LSN if self.last is None else self.last[2].synced_lsn
        return noted_lsn if self.snapshot is None else max(noted_lsn, Lsn(self.snapshot.cut.lsn))

    @property
    def torn_bytes(self) -> int:
        """How much of the log was never acknowledged."""
        return 0 if self.last is None else self.last[2].torn_bytes

    @property
    def missing(self) -> str:
        """What was logged, or may have been, and is not here, in words: it was moved aside, or lost."""
        last = self.last
        if last is not None and not last[2].is_ended:
            return ""
        # Or begun anew by an earlier start that found none, and nothing was logged since.
        if last is None or (isinstance(last[1].origin, wal.BasedOnSnapshot) and last[2].end_lsn == last[1].base_lsn):
            assert self.snapshot is not None
            found = f"no log behind snapshot {self.snapshot.number}, and took the snapshot alone"
        else:
            found = f"no log behind {last[0].name}, which ended where a next generation began"
        advice = (
            "Unless it was moved aside on purpose, stop and put it back: once something new is logged, it fits no more."
        )
        return f"This start found {found}: what was logged behind LSN {self.end_lsn} is not here. {advice}"


class Plan(msgspec.Struct, frozen=True):
    """Which generations are replayed, in order, as indexes into the list of logs.

    The first from the cut, if it is the cut's own generation, the others from zero. `unfinished` as in `Recovered`.
    """

    replayed: tuple[int, ...]
    unfinished: int | None


def recover(fs: FileSystem, directories: Directories, store_id: bytes, vector_dim: int) -> Recovered:
    """Load the newest snapshot, if there is one, and replay the log behind its cut.

    Args:
        fs: the disk.
        directories: where the store lies.
        store_id: whose files they must be.
        vector_dim: what its embeddings must have, if it holds any; 0: whatever they have.

    Raises:
        CorruptSnapshotError, CorruptLogError: what lies there is damaged, or does not join.
        IncompatibleStoreError: it is another store's, or holds vectors of another dimension.
        MissingStoreError: there is neither snapshot nor log, or a generation is missing.
        StorageError, DiskFullError: the disk does not sync or read it.
    """
    for directory in (directories.wal, directories.snapshots):
        try:
            fs.sync_dir(directory)
        except OSError as error:
            raise refused(f"{directory}: the directory can not be synced", error) from error
    manifest_path, manifest, checksum = _newest(fs, directories.snapshots, store_id)
    dimension_from = str(manifest_path)
    # Embeddings may have had another dimension before the last of them was deleted: what remains is what counts.
    state = StoreState(vector_dim if manifest is None else manifest.vector_dim or vector_dim)
    logs = wal.list_logs(fs, directories.wal)
    headers = [wal.read_header(fs, path) for _, path in logs]
    for (generation, path), header in zip(logs, headers, strict=True):
        _check_identity(path, generation, header, store_id)
    plan = replay_plan(directories.wal, logs, headers, manifest, checksum)
    if manifest is not None:
        load(fs, directories.snapshots, manifest, state)
    before = last = None
    records = log_bytes = 0
    for index, begin, reading in readings(fs, plan, logs, headers, manifest):
        path, header = logs[index][1], headers[index]
        dimension_from = _replay(state, path, reading) or dimension_from
        before, last = last, (path, header, reading.tail)
        records += reading.tail.records
        log_bytes += reading.tail.end_lsn - header.base_lsn - begin
    if plan.unfinished is not None:
        _check_empty(fs, logs[plan.unfinished][1])
    if vector_dim and vector_dim != state.vector_dim:
        if state.holds_vectors():
            raise IncompatibleStoreError(
                f"{dimension_from}: the store holds vectors of dimension {state.vector_dim}, server.vector_dim is "
                f"{vector_dim}; next: set server.vector_dim to {state.vector_dim}"
            )
        state.take_dimension(vector_dim)
    recovered = Recovered(
        state,
        before,
        last,
        None if plan.unfinished is None else logs[plan.unfinished][1],
        manifest,
        checksum,
        Generation(max([generation for generation, _ in logs] + [manifest.cut.generation if manifest else 0]) + 1),
        len(plan.replayed),
        records,
        log_bytes,
        headers[0].created_at_ms if headers else 0,
    )
    if records:
        state.last_lsn = recovered.end_lsn
    return recovered


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """While millions of objects are made that stay: a full collection in the middle costs more than all the rest.

    In a process that has told the collector to leave its heap alone, it leaves the new objects alone too.
    """
    collects = gc.isenabled()
    is_frozen = gc.get_freeze_count() > 0
    if is_frozen:
        gc.collect()  # what is garbage now must not be left alone with the rest
    gc.disable()
    try:
        yield
        if is_frozen:
            gc.freeze()
    finally:
        if collects:
            gc.enable()


def _newest(fs: FileSystem, directory: Path, store_id: bytes) -> tuple[Path, Manifest | None, int]:
    snapshots = snapshot.list_snapshots(fs, directory)
    if not snapshots:
        return directory, None, 0
    path = snapshots[-1][1]
    manifest, checksum = snapshot.read_manifest(fs, path)
    if manifest.store_id != store_id.hex():
        raise IncompatibleStoreError(
            f"{path}: expected a snapshot of store {store_id.hex()}, found one of store {manifest.store_id}; next: "
            "move it out of the snapshot directory; a copy of another store is taken in by a restore"
        )
    return path, manifest, checksum


def replay_plan(
    directory: Path,
    logs: list[tuple[Generation, Path]],
    headers: list[LogHeader],
    manifest: Manifest | None,
    checksum: int,
) -> Plan:
    """What of the log belongs behind the snapshot. Guesses nothing.

    Args:
        directory: where the logs lie.
        logs: the generations found, oldest first.
        headers: what each says of itself.
        manifest: the newest snapshot, if any.
        checksum: of its file.

    Raises:
        MissingStoreError, CorruptLogError: something is missing, or does not follow from the snapshot.
    """
    if manifest is None:
        if not logs:
            raise MissingStoreError(
                f"{directory}: the store's log is missing, and there is no snapshot to start from; next: put the log "
                f"back, or restore a backup. If it is lost for good, `{ADOPT}` accepts an empty store"
            )
        cut, number = None, 0
        first = 0
    else:
        cut, number = manifest.cut, manifest.number
        first = next((index for index, (generation, _) in enumerate(logs) if generation >= cut.generation), len(logs))
        if not logs:
            return Plan((), None)  # the operator has moved the log aside: the snapshot alone
        if first == len(logs):
            # Whoever moves the log aside moves all of it. That some of it lies here and the newest does not is a loss.
            names = ", ".join(path.name for _, path in logs)
            raise MissingStoreError(
                f"{directory}: the end of the log is missing: expected generation {cut.generation}, in which snapshot "
                f"{number} was cut at LSN {cut.lsn}, or the one that follows it, found only earlier ones; next: put it "
                "back, or, to take the snapshot alone and give up what was logged behind it, move these out of the log "
                f"directory too: {names}"
            )
    replayed: list[int] = []
    for index in range(first, len(logs)):
        path, header = logs[index][1], headers[index]
        origin = header.origin
        is_based = isinstance(origin, wal.BasedOnSnapshot)
        if replayed:
            before = headers[replayed[-1]]
            if is_based and index + 1 == len(logs):
                return Plan(tuple(replayed), index)  # a restore that was cut short, if it is empty
            if header.generation != before.generation + 1 or is_based:
                raise _gap(path, header, f"generation {before.generation}", logs[index:])
        elif cut is None:
            if not isinstance(origin, wal.FirstLog):
                raise MissingStoreError(
                    f"{path}: the log goes on from something that is not there: {origin}; next: put the earlier "
                    "generations or the snapshot back, or restore a backup"
                )
        elif header.generation == cut.generation:
            if cut.offset == 0 and isinstance(origin, wal.BasedOnSnapshot):
                # Of a generation in which nothing was logged yet, later snapshots are cut at its beginning too.
                is_older = origin.number < number and header.base_lsn == cut.lsn
                if not is_older and origin != wal.BasedOnSnapshot(number, checksum):
                    raise _gap(path, header, f"snapshot {number}", logs)
            if header.base_lsn + cut.offset != cut.lsn:
                raise CorruptLogError(
                    f"{path}: the snapshot was cut at offset {cut.offset} and LSN {cut.lsn}; expected the base LSN "
                    f"{cut.lsn - cut.offset}, found {header.base_lsn}; next: put the log back that belongs to it"
                )
        elif isinstance(origin, wal.Successor):
            if header.generation != cut.generation + 1 or header.base_lsn != cut.lsn:
                raise _gap(path, header, f"snapshot {number}, cut at LSN {cut.lsn}", logs)
        elif origin != wal.BasedOnSnapshot(number, checksum) or header.base_lsn != cut.lsn:
            raise _gap(path, header, f"snapshot {number}, cut at LSN {cut.lsn}", logs)
        replayed.append(index)
    return Plan(tuple(replayed), None)


def readings(
    fs: FileSystem,
    plan: Plan,
    logs: list[tuple[Generation, Path]],
    headers: list[LogHeader],
    manifest: Manifest | None,
) -> Iterator[tuple[int, int, wal.LogReading]]:
    """The generations of a plan, one after the other; each has to be read to its end before the next is asked for.

    Yields the index of each, at which of its record bytes reading begins, and the reading.

    Raises:
        CorruptLogError: one does not join the one before it.
    """
    tail: LogTail | None = None
    for position, index in enumerate(plan.replayed):
        path, header = logs[index][1], headers[index]
        if tail is not None:
            _check_joint(path, header, headers[index - 1], tail)
        # A generation that a restore began and did not finish proves as much of the one before it as any other.
        successor = plan.unfinished if position + 1 == len(plan.replayed) else plan.replayed[position + 1]
        is_last = successor is None
        proven_lsn = NO_LSN if successor is None else headers[successor].base_lsn
        after = None
        if manifest is not None and header.generation == manifest.cut.generation and manifest.cut.offset:
            after = manifest.cut.offset, manifest.cut.checksum
            proven_lsn = max(proven_lsn, Lsn(manifest.cut.lsn))
        reading = wal.read_log(fs, path, proven_lsn, is_last=is_last, after=after)
        yield index, after[0] if after else 0, reading
        tail = reading.tail


def _gap(path: Path, header: LogHeader, expected: str, later: list[tuple[Generation, Path]]) -> MissingStoreError:
    names = ", ".join(each.name for _, each in later)
    return MissingStoreError(
        f"{path}: expected a log that goes on from {expected}, found generation {header.generation}, which begins at "
        f"LSN {header.base_lsn} and goes on from {header.origin}; next: put the missing generations back, or, to give "
        f"up what they hold, move these out of the log directory: {names}"
    )


def _check_empty(fs: FileSystem, path: Path) -> None:
    reading = wal.read_log(fs, path)
    if any(True for _ in reading) or reading.tail.markers or reading.tail.torn_bytes:
        raise MissingStoreError(
            f"{path}: the log goes on from {reading.header.origin}, which is not there, and holds records; next: put "
            "that snapshot back"
        )


def load(fs: FileSystem, directory: Path, manifest: Manifest, state: StoreState) -> None:
    """Build what a snapshot holds into an empty state.

    Raises:
        CorruptSnapshotError: a section is damaged or missing, or is not what the manifest says.
        StorageError: the disk refused.
    """
    for section in manifest.sections:
        path = snapshot.pack_path(directory, section.pack)
        load_section(state, path, section, snapshot.read_section(fs, path, section))
    state.last_lsn = Lsn(manifest.cut.lsn)


def load_section(state: StoreState, path: Path, section: Section, payloads: Iterable[bytes]) -> None:
    """Build one session. Raises CorruptSnapshotError."""
    lsn = Lsn(section.changed_lsn)
    try:
        for payload in payloads:
            apply(state, record.decode(payload), lsn)
        session = state.sessions.get(section.session_id)
        if session is None or session.object_count() != section.objects:
            raise CorruptSnapshotError(
                f"{path}: offset {section.offset}: expected session {section.session_id!r} with {section.objects} "
                f"objects, found {'none' if session is None else session.object_count()}; next: {snapshot.NEXT}"
            )
    except (CorruptLogError, LookupError, AssertionError, ValueError) as error:
        raise CorruptSnapshotError(
            f"{path}: offset {section.offset}: session {section.session_id!r} is whole, but its records do not fit "
            f"together ({error!r}); next: a newer version may have written it, start that one; otherwise report it"
        ) from error


def _replay(state: StoreState, path: Path, reading: wal.LogReading) -> str:
    """Returns where embeddings of another dimension than before began, or nothing."""
    dimension_from = ""
    for lsn, _, payload in reading:
        mutation = _decoded(path, reading, lsn, payload)
        try:
            dimension = _dimension_of(mutation)
            if dimension not in (0, state.vector_dim):
                state.take_dimension(dimension)
                dimension_from = f"{path}: LSN {lsn}"
            apply(state, mutation, lsn)
        except Exception as error:
            raise CorruptLogError(
                f"{path}: {reading.place_of(lsn)}: expected a record that fits what came before it, found one that is "
                f"whole and does not ({error!r}); next: "
                "keep the files as they are and report this, it is a defect"
            ) from error
    return dimension_from


def _check_identity(path: Path, generation: Generation, header: LogHeader, store_id: bytes) -> None:
    if header.store_id != store_id:
        raise IncompatibleStoreError(
            f"{path}: expected a log of store {store_id.hex()}, found one of store {header.store_id.hex()}; "
            "next: move it out of the log directory"
        )
    if header.generation != generation:
        raise CorruptLogError(
            f"{path}: expected generation {generation} by its name, found {header.generation}; next: restore its name"
        )


def _check_joint(path: Path, header: LogHeader, before: LogHeader, tail: LogTail) -> None:
    expected = wal.Successor(before.generation, tail.end_lsn, tail.last_checksum)
    if header.origin != expected or header.base_lsn != tail.end_lsn:
        raise CorruptLogError(
            f"{path}: the log does not join the one before it: expected one that goes on from {expected}, found "
            f"one that goes on from {header.origin} and begins at LSN {header.base_lsn}; next: put the missing or "
            "original generation back"
        )


def _decoded(path: Path, reading: wal.LogReading, lsn: Lsn, payload: bytes) -> Mutation:
    try:
        return record.decode(payload)
    except CorruptLogError as error:
        raise CorruptLogError(
            f"{path}: {reading.place_of(lsn)}: {error}; next: a newer version may have written it, start that one"
        ) from error


def _dimension_of(mutation: Mutation) -> int:
    """Of the embeddings in it; 0 where there is none."""
    change = mutation.change if isinstance(mutation, mutations.WrittenOnce) else mutation
    if isinstance(change, mutations.TextUnitsAdded | mutations.EntitiesAdded) and change.vector_ids:
        return len(change.vectors) // 4 // len(change.vector_ids)
    if isinstance(change, mutations.CommunityAdded | mutations.EntityDescribed):
        return len(change.vector) // 4
    return 0
