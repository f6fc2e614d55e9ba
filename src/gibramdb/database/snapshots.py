"""When a snapshot is taken, and the way it takes: cut -> write -> publish -> rotate -> prune.

    cut        one turn of the owner: sessions are frozen, the log is asked to sync and to say where it stands
    write      a thread of its own: changed sessions into one pack, read back; an operator's copy, if one was asked for
    publish    the manifest: from its rename on, this is the newest snapshot
    rotate     the log goes on in its next generation
    prune      snapshots beyond the retention count, packs that nothing names, generations that every snapshot covers

A failure at any step costs a message: snapshots and log lie there as they did. A restore loads and writes everything on
the side; only then is admission stopped, for as long as it takes to begin a generation on the new snapshot.

Owns: the snapshot thread; which sections the newest snapshot has; what BACKUP_STATUS and LASTSAVE tell.
Never: changes the state; touches the log but through the journal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from gibramdb.clock import Clock
from gibramdb.core.dump import FrozenSession
from gibramdb.core.state import SessionState, StoreState
from gibramdb.database import recovery
from gibramdb.database.detector import Post
from gibramdb.database.journal import Base, Journal
from gibramdb.errors import (
    GibramError,
    IncompatibleStoreError,
    InternalError,
    InvalidArgumentError,
    LimitExceededError,
    StorageError,
    UnavailableError,
)
from gibramdb.model.commands import (
    AdminCommand,
    BackgroundSave,
    Checkpoint,
    GetBackupStatus,
    GetLastSave,
    GetLogStatus,
    Restore,
    RotateLog,
    Save,
    TruncateLog,
)
from gibramdb.model.ids import NO_LSN, Lsn
from gibramdb.model.results import BackupStatus, Done, LogStatus, Result, Saved
from gibramdb.storage import operator_path, record, snapshot, wal
from gibramdb.storage.files import TEMPORARY_SUFFIX, FileSystem, OsFileSystem
from gibramdb.storage.identity import Directories
from gibramdb.storage.snapshot import Cut, LastSave, Manifest, PackWriter, Section
from gibramdb.storage.wal import BasedOnSnapshot

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_COPY = "snapshot.gibram"
TICK_S = 0.5
"""How often it is asked whether a snapshot is due."""
RETRY_MS = 10_000
"""After a failure, the next automatic one is tried no sooner."""
SIZE_TRIGGER_SHARE = 0.75
"""Of `snapshot_wal_size_bytes`, where a snapshot is begun: the log stays below the whole while it is written."""
WAITING_MAX = 16
NEVER_LSN = 2**63

Finish = Callable[[Result | GibramError, Lsn], None]


class Triggers(msgspec.Struct, frozen=True):
    """When a snapshot is taken unasked, 0 for never; how many are kept."""

    interval_ms: int = 0
    wal_bytes: int = 0
    retention_count: int = 3


class SnapshotFacts(msgspec.Struct, frozen=True):
    """What health tells about snapshots. `cut_lsn`: what the newest covers; times in Unix milliseconds, 0 for never."""

    count: int = 0
    retained: int = 0
    cut_lsn: int = 0
    published_at_ms: int = 0
    failures: int = 0
    error: str = ""
    operation: str = ""


class Owner(Protocol):
    """The store, as far as snapshots are concerned."""

    state: StoreState

    def pause(self) -> None:
        """Hold commands back from now on."""
        ...

    def resume(self, state: StoreState | None) -> None:
        """Go on with what was held back; with `state`, in that one."""
        ...


class _Job:
    """One snapshot or restore that somebody asked for; `path` is None where no copy is wanted."""

    def __init__(self, kind: str, path: str | None) -> None:
        self.kind = kind
        self.path = path
        self.finishes: list[Finish] = []
        self.load: Callable[[], tuple[StoreState, int]] | None = None  # of a restore: the state, and its dimension
        self.target_lsn = NEVER_LSN  # of a truncation


class _StoppingError(Exception):
    """The store is being closed; what is half written is left as a temporary file."""


class Snapshots:
    """One store's snapshots. Every method but those of the snapshot thread runs on the owner's."""

    def __init__(
        self,
        owner: Owner,
        journal: Journal,
        fs: FileSystem,
        directories: Directories,
        store_id: bytes | None,
        triggers: Triggers,
        clock: Clock,
        post: Post,
        newest: Manifest | None,
        *,
        is_covered: bool,
    ) -> None:
        """`store_id` None: nothing but copies is written. `is_covered`: nothing was replayed behind `newest`."""
        self._owner = owner
        self._journal = journal
        self._fs = fs
        self._directories = directories
        self._store_id = store_id
        self._triggers = triggers
        self._clock = clock
        self._post = post
        self._newest = newest
        self._number = 0 if newest is None else newest.number
        self._sections = {} if newest is None else {each.session_id: each for each in newest.sections}
        self._covered_lsn = int(owner.state.last_lsn) if is_covered else -1
        self._pack_bytes: dict[int, int] = {}
        self._last_save = None if newest is None else newest.last_save
        self._running: _Job | None = None
        self._waiting: deque[_Job] = deque()
        self._operation, self._started_at_s, self._progress_percent, self._error = "", 0, 0, ""
        self._failures = 0
        self._snapshot_error = ""
        self._retained = 0
        self._retry_at_ms = 0
        self._interval_began_ms = clock.steady_ms()
        self._is_stopping = False
        self.due_lsn = NEVER_LSN
        """When the log gets so far, `tick` is due."""
        self._set_due_lsn()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if store_id is not None:
            self._retained = len(snapshot.list_snapshots(fs, directories.snapshots))
            for number, path in snapshot.list_packs(fs, directories.snapshots):
                self._pack_bytes[number] = _size(fs, path)
            if triggers.interval_ms or triggers.wal_bytes:
                self._begin_thread()

    # --- the owner's side ---------------------------------------------------------------------------------------------

    def execute(self, command: AdminCommand, finish: Finish) -> Result | None:
        """Answer at once, or arrange that `finish` is called.

        Raises:
            GibramError: the command is refused.
        """
        match command:
            case Save(path):
                self._ask("save", path or DEFAULT_COPY, finish)
            case BackgroundSave(path):
                self._refuse_second("backup")
                with contextlib.suppress(OSError):  # the save itself meets it too, and BACKUP_STATUS tells
                    operator_path.check_for_writing(self._directories, path or DEFAULT_COPY, snapshot.COPY_MAGIC)
                self._ask("save", path or DEFAULT_COPY, _nobody)
                return Done()
            case Checkpoint():
                self._require_log()
                self._ask("checkpoint", None, finish)
            case Restore(path):
                if not path:
                    raise InvalidArgumentError("restore path is required")
                self._refuse_second("operation")
                os.close(operator_path.open_for_reading(self._directories, path))
                self._ask("restore", path, _nobody)
                return Done()
            case GetLastSave():
                return Saved(0, "") if self._last_save is None else Saved(self._last_save.at_s, self._last_save.path)
            case GetBackupStatus():
                return self._status()
            case GetLogStatus():
                return self._log_status()
            case RotateLog():
                self._require_log()
                self._journal.rotate(partial(self._rotated, finish))
            case TruncateLog(target_lsn):
                self._require_log()
                job = _Job("truncate", None)
                job.target_lsn = target_lsn or NEVER_LSN
                job.finishes.append(finish)
                self._waiting.append(job)
                self._begin_next()
        return None

    def take_in(self, state: StoreState, vector_dim: int, finish: Finish) -> None:
        """Put a state that was built elsewhere in the place of everything, as a restore does.

        `vector_dim` is 0 if it holds no vector. All LSNs in it must be ones that this store has released.
        """
        job = _Job("restore", None)
        job.load = lambda: (state, vector_dim)
        job.finishes.append(finish)
        self._waiting.append(job)
        self._begin_next()

    def facts(self) -> SnapshotFacts:
        """Figures for health."""
        newest = self._newest
        return SnapshotFacts(
            self._number if newest is None else newest.number,
            self._retained,
            0 if newest is None else newest.cut.lsn,
            0 if newest is None else newest.created_at_ms,
            self._failures,
            self._snapshot_error,
            "" if self._running is None else self._running.kind,
        )

    def tick(self) -> None:
        """Begin a snapshot if one is due."""
        if self._running is not None or self._is_stopping or self._store_id is None:
            return
        now_ms = self._clock.steady_ms()
        state_lsn = int(self._owner.state.last_lsn)
        interval_ms = self._triggers.interval_ms
        is_due = bool(interval_ms) and now_ms - self._interval_began_ms >= interval_ms
        is_due |= state_lsn >= self._size_due_lsn()
        if not is_due or now_ms < self._retry_at_ms:
            return
        if state_lsn == self._covered_lsn:
            self._interval_began_ms = now_ms  # nothing has changed: the next interval begins
            return
        self._ask("snapshot", None, _nobody)

    def stop(self, reason: GibramError) -> None:
        """No more from now on; what runs is stopped at its next step. `join` waits for that."""
        self._is_stopping = True
        self.due_lsn = NEVER_LSN
        running, self._running = self._running, None
        for job in [*([running] if running else []), *self._waiting]:
            for finish in job.finishes:
                finish(reason, NO_LSN)
        self._waiting.clear()
        self._jobs.put(None)

    def join(self) -> None:
        """Wait until nothing of it touches the disk any more. After the journal has been closed."""
        if self._thread is not None:
            self._thread.join()

    def _ask(self, kind: str, path: str | None, finish: Finish) -> None:
        for job in self._waiting:
            if (job.kind, job.path) == (kind, path):
                job.finishes.append(finish)  # it has not been cut yet, so it serves both
                return
        if len(self._waiting) >= WAITING_MAX:
            raise LimitExceededError(f"{WAITING_MAX} snapshots wait already; try again later")
        job = _Job(kind, path)
        job.finishes.append(finish)
        self._waiting.append(job)
        self._begin_next()

    def _require_log(self) -> None:
        if self._store_id is None:
            raise UnavailableError("WAL not configured: session_store.mode is ephemeral")

    def _backup(self) -> _Job | None:
        """The save or restore that runs, or waits for a snapshot that does."""
        jobs = [*([] if self._running is None else [self._running]), *self._waiting]
        return next((job for job in jobs if job.kind in {"save", "restore"}), None)

    def _refuse_second(self, noun: str) -> None:
        if self._backup() is not None:
            raise UnavailableError(f"{noun} already in progress")

    def _begin_next(self) -> None:
        if self._running is not None or not self._waiting or self._is_stopping:
            return
        job = self._running = self._waiting.popleft()
        if job.kind in {"save", "restore"}:
            self._operation, self._started_at_s = job.kind, self._clock.now_ms() // 1000
            self._progress_percent, self._error = 0, ""
        self.due_lsn = NEVER_LSN
        if job.kind == "truncate":
            self._in_thread(partial(self._truncate, job))
        elif job.kind == "restore":
            if job.load is None:
                assert job.path is not None
                job.load = partial(self._load, job.path, self._owner.state.last_lsn)
            self._in_thread(partial(self._restore, job, job.load))
        else:
            try:
                self._cut(job)
            except Exception as error:  # who asked is told; the write in whose turn this may be is not touched
                self._finished(job, self._refusal_of(error))

    def _cut(self, job: _Job) -> None:
        """One turn: what was applied up to here, and nothing later, is what the snapshot will hold."""
        state = self._owner.state
        kept: list[Section] = []
        changed: list[SessionState] = []
        for session in state.sessions.values():
            section = self._sections.get(session.session_id)
            if section is not None and section.changed_lsn == session.changed_lsn:
                kept.append(section)
            else:
                changed.append(session)
        if self._store_id is None:
            kept, changed = [], []
        sparse = self._sparse_packs(kept)
        if sparse:
            changed += [state.sessions[each.session_id] for each in kept if each.pack in sparse]
            kept = [each for each in kept if each.pack not in sparse]
        frozen = [FrozenSession(session) for session in changed]
        copied = [] if job.path is None else [FrozenSession(session) for session in state.sessions.values()]
        holds_vectors = any(
            len(vectors)
            for session in state.sessions.values()
            for vectors in (session.textunit_vectors, session.entity_vectors, session.community_vectors)
        )
        vector_dim = state.vector_dim if holds_vectors else 0
        cuts: queue.SimpleQueue[Cut | GibramError] = queue.SimpleQueue()
        self._journal.cut(cuts.put)
        self._in_thread(partial(self._write, job, int(state.last_lsn), vector_dim, kept, frozen, copied, cuts))

    def _sparse_packs(self, kept: list[Section]) -> set[int]:
        """Packs of which less than half would still be read."""
        alive: dict[int, int] = {}
        for section in kept:
            alive[section.pack] = alive.get(section.pack, 0) + section.length
        return {pack for pack, length in alive.items() if 2 * length < self._pack_bytes.get(pack, 0)}

    def _size_due_lsn(self) -> int:
        if not self._triggers.wal_bytes or self._store_id is None:
            return NEVER_LSN
        cut_lsn = 0 if self._newest is None else self._newest.cut.lsn
        return cut_lsn + int(self._triggers.wal_bytes * SIZE_TRIGGER_SHARE)

    def _set_due_lsn(self) -> None:
        is_waiting = self._clock.steady_ms() < self._retry_at_ms
        self.due_lsn = NEVER_LSN if is_waiting else self._size_due_lsn()

    def _finished(self, job: _Job, outcome: Result | GibramError) -> None:
        """The job is over, well or not."""
        if self._running is not job:
            return  # closed meanwhile, and the caller told
        self._running = None
        if job.kind != "truncate":
            self._interval_began_ms = self._clock.steady_ms()
        if isinstance(outcome, GibramError):
            log.error("%s failed: %s", job.kind, outcome)
            if job.kind in {"save", "restore"}:
                self._error = str(outcome)
            if job.kind in {"snapshot", "checkpoint"}:
                self._failures += 1
                self._snapshot_error = str(outcome)
                self._retry_at_ms = self._clock.steady_ms() + RETRY_MS
        elif job.kind != "truncate":
            if job.kind in {"save", "restore"}:
                self._progress_percent = 100
            self._snapshot_error = ""
        self._set_due_lsn()
        for finish in job.finishes:
            finish(outcome, NO_LSN)
        self._begin_next()

    def _published(self, manifest: Manifest, covered_lsn: int, pack_bytes: int) -> None:
        self._newest = manifest
        self._number = manifest.number
        self._sections = {each.session_id: each for each in manifest.sections}
        self._covered_lsn = covered_lsn
        self._pack_bytes[manifest.number] = pack_bytes

    def _rotated(self, finish: Finish, refusal: GibramError | None) -> None:
        """On the log thread."""
        self._tell(lambda: finish(refusal or self._counted(), NO_LSN))

    def _counted(self) -> Result | GibramError:
        try:
            return Done(len(self._generations()))
        except OSError as error:
            return _storage_error(error, self._directories.wal)

    def _status(self) -> BackupStatus:
        backup = self._backup()
        is_waiting = backup is not None and backup is not self._running
        last = self._last_save
        return BackupStatus(
            backup is not None,
            self._operation if backup is None else backup.kind,
            0 if is_waiting else self._started_at_s,
            0 if is_waiting else self._progress_percent,
            "" if is_waiting else self._error,
            0 if last is None else last.at_s,
            "" if last is None else last.path,
        )

    def _log_status(self) -> LogStatus:
        facts = self._journal.facts()
        return LogStatus(
            facts.released_lsn, facts.flushed_lsn, len(self._generations()), sum(map(_bytes_of, self._generations()))
        )

    def _generations(self) -> list[Path]:
        if self._store_id is None:
            return []
        return [path for _, path in wal.list_logs(self._fs, self._directories.wal)]

    # --- the snapshot thread ------------------------------------------------------------------------------------------

    def _in_thread(self, work: Callable[[], None]) -> None:
        self._begin_thread()
        self._jobs.put(work)

    def _begin_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gibramdb-snapshot", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        tick_s = TICK_S if self._triggers.interval_ms or self._triggers.wal_bytes else None
        while True:
            try:
                work = self._jobs.get(timeout=tick_s)
            except queue.Empty:
                self._tell(self.tick)
                continue
            if work is None:
                return
            with contextlib.suppress(_StoppingError):
                work()
            work = None  # it holds what was frozen

    def _tell(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the owner's loop has ended: nobody is left to be told
            self._post(call)

    def _write(
        self,
        job: _Job,
        covered_lsn: int,
        vector_dim: int,
        kept: list[Section],
        frozen: list[FrozenSession],
        copied: list[FrozenSession],
        cuts: queue.SimpleQueue[Cut | GibramError],
    ) -> None:
        outcome: Result | GibramError
        number = 0
        try:
            cut = cuts.get()
            number = self._next_number()
            if isinstance(cut, GibramError):
                raise cut  # noqa: TRY301 (the refusal of another thread)
            created_at_ms = self._clock.now_ms()
            if job.path is not None:
                self._write_copy(job.path, cut, created_at_ms, vector_dim, copied)
            if self._store_id is not None:
                sections, pack_bytes = self._write_pack(number, created_at_ms, frozen)
                manifest = self._manifest(number, created_at_ms, cut, vector_dim, [*kept, *sections])
                snapshot.publish_manifest(self._fs, self._directories.snapshots, manifest)
                log.info("snapshot published", extra={"number": number, "lsn": cut.lsn, "written_bytes": pack_bytes})
                self._tell(partial(self._published, manifest, covered_lsn, pack_bytes))
                self._tidy_up()
            outcome = Done(0 if job.kind == "save" else cut.lsn)
        except _StoppingError:
            raise
        except Exception as error:  # the edge of the job: whatever it was, who asked is told, and the next one runs
            outcome = self._refusal_of(error)
        if isinstance(outcome, GibramError):
            self._discard(number)
        self._tell(partial(self._finished, job, outcome))

    def _refusal_of(self, error: Exception) -> GibramError:
        if isinstance(error, GibramError):
            return error
        if isinstance(error, OSError):
            return _storage_error(error, self._directories.snapshots)
        log.error("a snapshot or restore failed in a way that is a defect of ours", exc_info=error)
        return InternalError(f"internal error: {error!r}; nothing was changed")

    def _next_number(self) -> int:
        """Above all that lies there, also what a failed attempt has left: a name is never given twice."""
        if self._store_id is None:
            return 1
        directory = self._directories.snapshots
        found = (*snapshot.list_snapshots(self._fs, directory), *snapshot.list_packs(self._fs, directory))
        return max(self._number, *(number for number, _ in found), 0) + 1

    def _tidy_up(self) -> None:
        """The snapshot counts already; what fails here is done by the next one."""
        try:
            self._rotate()
            self._prune()
        except (GibramError, OSError) as error:
            log.warning("what the new snapshot makes superfluous could not all be removed: %s", error)

    def _write_pack(self, number: int, created_at_ms: int, frozen: list[FrozenSession]) -> tuple[list[Section], int]:
        if not frozen:
            return [], 0
        assert self._store_id is not None
        directory = self._directories.snapshots
        fd, writer = snapshot.write_pack(self._fs, directory, number, self._store_id, created_at_ms)
        try:
            sections = self._write_sections(writer, frozen)
            writer.finish()
        finally:
            self._fs.close(fd)
        snapshot.publish_pack(self._fs, directory, number, self._stopping_between(sections))
        return sections, writer.bytes_so_far

    def _write_sections(self, writer: PackWriter, frozen: list[FrozenSession]) -> list[Section]:
        total = max(1, sum(each.object_count for each in frozen))
        done = 0
        sections = []
        for each in frozen:
            payloads = map(record.encode, self._stopping_between(each.dump()))
            sections.append(writer.write_section(each.session_id, each.changed_lsn, each.object_count, payloads))
            done += each.object_count
            self._progress_percent = 99 * done // total
        return sections

    def _write_copy(
        self, path: str, cut: Cut, created_at_ms: int, vector_dim: int, copied: list[FrozenSession]
    ) -> None:
        disk = OsFileSystem()
        if not disk.exists(self._directories.data):
            disk.make_dir(self._directories.data)  # a store in memory has not needed it so far
        with operator_path.open_for_writing(self._directories, path, snapshot.COPY_MAGIC) as writing:
            writer = PackWriter(disk, writing.fd, 0, self._store_id or bytes(16), created_at_ms)
            sections = self._write_sections(writer, copied)
            resolved = str(writing.resolved)
            writer.write_manifest(self._manifest(0, created_at_ms, cut, vector_dim, sections))
            disk.drop_cache(writing.fd)
            manifest = snapshot.read_copy(disk, writing.fd, writing.resolved)
            for section in self._stopping_between(manifest.sections):
                snapshot.verify_section(disk, writing.resolved, section, writing.fd)
            writing.publish()
        self._last_save = LastSave(created_at_ms // 1000, resolved)

    def _manifest(
        self, number: int, created_at_ms: int, cut: Cut, vector_dim: int, sections: list[Section]
    ) -> Manifest:
        return Manifest(
            store_id=(self._store_id or bytes(16)).hex(),
            number=number,
            created_at_ms=created_at_ms,
            cut=cut,
            vector_dim=vector_dim,
            last_save=self._last_save,
            sections=tuple(sorted(sections, key=lambda each: each.session_id)),
        )

    def _stopping_between(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self._is_stopping:
                raise _StoppingError
            yield item

    def _rotate(self) -> None:
        answers: queue.SimpleQueue[GibramError | None] = queue.SimpleQueue()
        self._journal.rotate(answers.put)
        refusal = answers.get()
        if refusal is not None:
            log.warning("the log could not begin its next generation: %s", refusal)

    def _discard(self, number: int) -> None:
        if self._store_id is None or not number:
            return
        directory = self._directories.snapshots
        with contextlib.suppress(OSError):
            if self._fs.exists(snapshot.snapshot_path(directory, number)):
                return  # published after all, though the system said that it failed: the pack is needed
            snapshot.discard_pack(self._fs, self._directories.snapshots, number)

    def _prune(self, target_lsn: int = NEVER_LSN) -> int:
        """Drop what no kept snapshot needs. Returns the LSN up to which the log is gone.

        In an order that leaves every kept snapshot whole, whenever it ends: manifests, then packs, then generations.
        """
        fs, directories = self._fs, self._directories
        found = snapshot.list_snapshots(fs, directories.snapshots)
        kept = found[-self._triggers.retention_count :]
        manifests = [snapshot.read_manifest(fs, path)[0] for _, path in kept]
        for _, path in found[: -self._triggers.retention_count]:
            fs.unlink(path)
        fs.sync_dir(directories.snapshots)
        named = {section.pack for manifest in manifests for section in manifest.sections}
        for number, path in snapshot.list_packs(fs, directories.snapshots):
            if number not in named:
                fs.unlink(path)
                self._pack_bytes.pop(number, None)
        for name in fs.list_dir(directories.snapshots):
            if name.endswith(TEMPORARY_SUFFIX):
                fs.unlink(directories.snapshots / name)
        fs.sync_dir(directories.snapshots)
        self._retained = len(kept)
        covered_lsn = min([manifest.cut.lsn for manifest in manifests] or [0])
        logs = wal.list_logs(fs, directories.wal)
        bases = [wal.read_header(fs, path).base_lsn for _, path in logs]
        gone_lsn = int(bases[0])
        for (_, path), next_base in zip(logs, bases[1:], strict=False):
            if next_base > min(covered_lsn, target_lsn):
                break
            fs.unlink(path)
            gone_lsn = int(next_base)
        fs.sync_dir(directories.wal)
        return gone_lsn

    def _truncate(self, job: _Job) -> None:
        outcome: Result | GibramError
        try:
            outcome = Done(self._prune(job.target_lsn))
        except Exception as error:  # as above
            outcome = self._refusal_of(error)
        self._tell(partial(self._finished, job, outcome))

    # --- restoring ----------------------------------------------------------------------------------------------------

    def _restore(self, job: _Job, load: Callable[[], tuple[StoreState, int]]) -> None:
        """On the side: load, verify, write. Then the owner swaps."""
        number = 0
        try:
            state, vector_dim = load()
            number = self._next_number()
            created_at_ms = self._clock.now_ms()
            sections: list[Section] = []
            pack_bytes = 0
            if self._store_id is not None:
                frozen = [FrozenSession(session) for session in state.sessions.values()]
                sections, pack_bytes = self._write_pack(number, created_at_ms, frozen)
        except _StoppingError:
            raise
        except Exception as error:  # as above
            self._discard(number)
            self._tell(partial(self._finished, job, self._refusal_of(error)))
        else:
            base = _RestoredSnapshot(
                self._fs,
                self._directories.snapshots,
                lambda cut: self._manifest(number, created_at_ms, cut, vector_dim, sections),
            )
            self._tell(partial(self._swap, job, state, base, pack_bytes))

    def _load(self, path: str, lsn: Lsn) -> tuple[StoreState, int]:
        disk = OsFileSystem()
        fd = operator_path.open_for_reading(self._directories, path)
        try:
            shown = Path(path)
            beginning = disk.pread(fd, len(snapshot.COPY_MAGIC), 0)
            is_copy = beginning == snapshot.COPY_MAGIC
            if is_copy:
                manifest = snapshot.read_copy(disk, fd, shown)
            else:
                manifest = snapshot.parse_manifest(shown, disk.pread(fd, snapshot.MANIFEST_BYTES_MAX, 0))
                if self._store_id is None or manifest.store_id != self._store_id.hex():
                    raise IncompatibleStoreError(
                        f"{path}: it is a snapshot of store {manifest.store_id}, whose packs lie elsewhere; next: make "
                        "a copy of that store with SAVE, and restore the copy"
                    )
            if manifest.vector_dim not in (0, self._owner.state.vector_dim):
                raise IncompatibleStoreError(
                    f"{path}: it holds vectors of dimension {manifest.vector_dim}, server.vector_dim is "
                    f"{self._owner.state.vector_dim}"
                )
            state = StoreState(self._owner.state.vector_dim)
            for done, section in enumerate(self._stopping_between(manifest.sections)):
                self._progress_percent = 49 * done // len(manifest.sections)
                if is_copy:
                    payloads = snapshot.read_section(disk, shown, section, fd)
                else:
                    payloads = snapshot.read_section(
                        self._fs, snapshot.pack_path(self._directories.snapshots, section.pack), section
                    )
                # In this log nothing later can have this LSN: what counts is that each change has another.
                here = msgspec.structs.replace(section, changed_lsn=lsn)
                recovery.load_section(state, shown, here, self._stopping_between(payloads))
        finally:
            os.close(fd)
        return state, manifest.vector_dim

    def _swap(self, job: _Job, state: StoreState, base: _RestoredSnapshot, pack_bytes: int) -> None:
        """On the owner's thread: nothing is admitted until the log stands on the new snapshot."""
        if self._running is not job:
            return
        self._owner.pause()
        self._journal.rebase(base, lambda cut: self._tell(partial(self._swapped, job, state, base, pack_bytes, cut)))

    def _swapped(
        self, job: _Job, state: StoreState, base: _RestoredSnapshot, pack_bytes: int, cut: Cut | GibramError
    ) -> None:
        if isinstance(cut, GibramError):
            self._owner.resume(None)
            if base.manifest is not None:
                self._in_thread(partial(self._discard, base.manifest.number))
            self._finished(job, cut)
            return
        state.last_lsn = Lsn(cut.lsn)
        if base.manifest is not None:
            self._published(base.manifest, cut.lsn, pack_bytes)
            self._retained += 1
        self._owner.resume(state)
        self._finished(job, Done())


class _RestoredSnapshot(Base):
    """A snapshot whose pack is on the disk, and whose manifest waits for its place in the log."""

    def __init__(self, fs: FileSystem, directory: Path, make: Callable[[Cut], Manifest]) -> None:
        self._fs = fs
        self._directory = directory
        self._make = make
        self.manifest: Manifest | None = None

    def at(self, cut: Cut) -> BasedOnSnapshot:
        """See Base."""
        self.manifest = self._make(cut)
        return BasedOnSnapshot(self.manifest.number, snapshot.manifest_checksum(self.manifest))

    def publish(self) -> None:
        """See Base."""
        assert self.manifest is not None
        snapshot.publish_manifest(self._fs, self._directory, self.manifest)

    def is_published(self) -> bool:
        """See Base."""
        assert self.manifest is not None
        return self._fs.exists(snapshot.snapshot_path(self._directory, self.manifest.number))


def _nobody(outcome: Result | GibramError, lsn: Lsn) -> None:
    del outcome, lsn  # asked for in the background: BACKUP_STATUS, health and the log tell


def _storage_error(error: OSError, directory: Path) -> StorageError:
    return StorageError(f"{error.filename or directory}: {error.strerror or error}")


def _size(fs: FileSystem, path: Path) -> int:
    fd = fs.open_read(path)
    try:
        return fs.size(fd)
    finally:
        fs.close(fd)


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
