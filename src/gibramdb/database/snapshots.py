"""When a snapshot is taken, and the way it takes: cut -> freeze -> write -> publish -> rotate -> prune.

    cut        one turn of the owner: the moment is marked, and the log is asked to sync and to say where it stands
    freeze     some sessions a turn; one that is about to change before its turn is frozen first
    look       a thread of its own: at the packs that go on being used; where one is damaged, back to the cut
    write      changed sessions into one pack, read back; an operator's copy, if one was asked for
    publish    the manifest: from its rename on, this is the newest snapshot
    rotate     the log goes on in its next generation
    prune      snapshots beyond the retention count, packs that nothing names, generations that every snapshot covers

A failure at any step costs a message: snapshots and log lie there as they did. Between snapshots the look goes on,
where there is a trigger, and asks for a snapshot if something is damaged. A restore loads and writes everything on the
side; only then is admission stopped, for as long as it takes to begin a generation on the new snapshot.

One module, because each step leads to the next, and what happens when it fails is said in one place; what a step does
on the disk is in `snapshot_files`.

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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from gibramdb.clock import Clock
from gibramdb.core.dump import FrozenSession
from gibramdb.core.state import SessionState, StoreState
from gibramdb.database import recovery
from gibramdb.database.answers import Finish
from gibramdb.database.detector import Post
from gibramdb.database.journal import Journal
from gibramdb.database.snapshot_files import RestoredSnapshot, SnapshotFiles, StoppedError, Work, weight, with_sections
from gibramdb.errors import (
    CallerError,
    GibramError,
    InternalError,
    InvalidArgumentError,
    LimitExceededError,
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
from gibramdb.storage import operator_path, snapshot, wal
from gibramdb.storage.files import FileSystem, refused
from gibramdb.storage.identity import Directories, Locks
from gibramdb.storage.snapshot import Cut, Manifest, Section

log = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_COPY = "snapshot.gibram"
TICK_S = 0.5
"""How often it is asked whether a snapshot is due."""
RETRY_MS = 10_000
"""After a failure, the next automatic one is tried no sooner."""
TOLD_EVERY_MS = 10_000
"""In so long, the log gets at most `TOLD_LINES_MAX` lines on failures of one kind."""
TOLD_LINES_MAX = 10
SIZE_TRIGGER_SHARE = 0.75
"""Of `snapshot_wal_size_bytes`, where a snapshot is begun: while it is written, most stores stay below the whole."""
LOOK_BYTES = 32 * 1024 * 1024
"""So much of the packs is read again by each snapshot."""
LOOK_BYTES_AT_REST = 4 * 1024 * 1024
"""And so much with each tick between them: no writer feels it, and a gigabyte takes two minutes."""
LOOK_EVERY_MS = 600_000
"""From the beginning of a round to that of the next, where no snapshot begins one."""
TURN_US = 2_000
"""So long sessions are frozen in one turn; then others get theirs."""
WAITING_MAX = 16
NEVER_LSN = 2**63

_ROTATE, _PRUNE, _LOOK, _DAMAGE = "rotate", "prune", "look", "damage"


class Triggers(msgspec.Struct, frozen=True):
    """When a snapshot is taken unasked, 0 for never; how many are kept."""

    interval_ms: int = 0
    wal_bytes: int = 0
    retention_count: int = 3


class SnapshotFacts(msgspec.Struct, frozen=True):
    """What health tells about snapshots. `cut_lsn`: what the newest covers; times in Unix milliseconds, 0 for never.

    `wal_bytes_max`: so much log may lie behind the newest, 0 for no limit. `troubles`: what is not as it should be,
    though the last snapshot may have been published. `files_damaged`: found damaged or missing while they were used.
    """

    count: int = 0
    retained: int = 0
    cut_lsn: int = 0
    published_at_ms: int = 0
    failures: int = 0
    error: str = ""
    operation: str = ""
    wal_bytes_max: int = 0
    troubles: tuple[str, ...] = ()
    files_damaged: int = 0


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
        self.work = Work()
        self.started_at_s = 0
        self.error = ""
        self.is_done = False  # the copy is there, or what was restored: what fails from here on is a snapshot beside it
        self.target_lsn = NEVER_LSN  # of a truncation


class _Told:
    """Failures of one kind: since when lines are counted, how many there were, and what happened since the last."""

    def __init__(self) -> None:
        self.since_ms = -TOLD_EVERY_MS
        self.lines = 0
        self.failures = 0


class _Freezing:
    """A snapshot that has been cut and whose sessions are being frozen.

    `changed`: the names of those that go into its pack. `kept`: where the others lie already.
    """

    def __init__(self, job: _Job, covered_lsn: int, vector_dim: int, kept: list[Section], changed: list[str]) -> None:
        self.job = job
        self.covered_lsn = covered_lsn
        self.vector_dim = vector_dim
        self.kept = kept
        self.changed = changed
        self.cuts: queue.SimpleQueue[Cut | GibramError] = queue.SimpleQueue()
        self.frozen: dict[str, FrozenSession] = {}


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
        locks: Locks,
        interval_began_at_ms: int,
        *,
        is_covered: bool,
        is_incomplete: bool,
    ) -> None:
        """`store_id` None: nothing but copies is written, and nothing is locked.

        `interval_began_at_ms`: in Unix milliseconds, however often the store was started since.
        `is_covered`: nothing was replayed behind `newest`.
        `is_incomplete`: what was logged last is missing, and may be put back.
        """
        self._owner = owner
        self._journal = journal
        self._fs = fs
        self._directories = directories
        self._store_id = store_id
        self._locks = locks
        self._files = SnapshotFiles(fs, directories, store_id, locks)
        self._triggers = triggers
        self._clock = clock
        self._post = post
        self._newest = newest
        self._number = 0 if newest is None else newest.number
        self._sections = {} if newest is None else {each.session_id: each for each in newest.sections}
        self._covered_lsn = int(owner.state.last_lsn) if is_covered else -1
        self._incomplete_lsn = int(owner.state.last_lsn) if is_incomplete else -1
        self._last_save = None if newest is None else newest.last_save
        self._running: _Job | None = None
        self._freezing: _Freezing | None = None
        self.unfrozen: dict[str, SessionState] = {}
        """What `freeze` must be called for before it changes."""
        self._waiting: deque[_Job] = deque()
        self._looking: list[Finish] = []  # who waits for a look at the disk
        self._last_backup: _Job | None = None  # a save or restore; the one that runs, if one does
        self._failures = 0
        self._snapshot_error = ""
        self._troubles: dict[str, str] = {}  # by step, until it succeeds: what failed at rotate, prune, look; damage
        self._files_damaged = 0
        # By kind, and whether it was the caller's fault.
        self._failures_told: dict[tuple[str, bool], _Told] = {}
        self._is_looking = False
        self._look_due_ms = clock.steady_ms() + LOOK_EVERY_MS
        self._look_again_ms = 0  # where one of a round has failed
        self._retained = 0
        self._retry_at_ms = 0
        self._has_failed = False  # the last snapshot, of whatever kind: another is due then, though nothing has changed
        # What the wall clock says between two processes is believed for one interval at most.
        age_ms = min(max(0, clock.now_ms() - interval_began_at_ms), triggers.interval_ms)
        self._interval_began_ms = clock.steady_ms() - age_ms
        self._is_stopping = False
        self._stop_reason: GibramError | None = None
        self.due_lsn = NEVER_LSN
        """When the log gets so far, `tick` is due."""
        self._set_due_lsn()
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        if store_id is not None:
            self._count_retained()
            self._files.packs.find()
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
                check = partial(self._check_for_writing, path or DEFAULT_COPY)
                self._aside(check, partial(self._ask_alone, "save", path or DEFAULT_COPY, "backup"), finish)
            case Checkpoint():
                self._require_log()
                self._ask("checkpoint", None, finish)
            case Restore(path):
                if not path:
                    raise InvalidArgumentError("restore path is required")
                self._refuse_second("operation")
                check = partial(self._check_for_reading, path)
                self._aside(check, partial(self._ask_alone, "restore", path, "operation"), finish)
            case GetLastSave():
                return Saved(0, "") if self._last_save is None else Saved(self._last_save.at_s, self._last_save.path)
            case GetBackupStatus():
                return self._status()
            case GetLogStatus():
                self._aside(self._log_status, _itself, finish)
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

    def freeze(self, session_id: str) -> None:
        """This session is about to change: if the cut that was made last still needs it as it is, now is the time."""
        session = self.unfrozen.pop(session_id, None)
        if session is None or self._freezing is None:
            return
        try:
            self._freezing.frozen[session_id] = FrozenSession(session)
        except Exception as error:  # the snapshot fails; who changes the session is not touched
            job, self._freezing = self._freezing.job, None
            self.unfrozen.clear()
            # In a turn of its own: this one is between a decision and its change, and neither the next cut nor anybody
            # who is told may come in between.
            self._post(partial(self._finished, job, self._refusal_of(error)))

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
            self._triggers.wal_bytes,
            tuple(self._troubles.values()),
            self._files_damaged,
        )

    @property
    def is_wanted(self) -> bool:
        """Whether one may be taken unasked: there is something that the newest snapshot does not hold.

        Where the end of the log is missing, it could not be put back behind a newer snapshot: so not before something
        new is logged, behind which it does not fit anyhow.
        """
        return int(self._owner.state.last_lsn) not in {self._covered_lsn, self._incomplete_lsn}

    def tick(self) -> None:
        """Begin a snapshot if one is due; else go on looking at the packs, if that is."""
        if self._running is not None or self._is_stopping or self._store_id is None:
            return
        now_ms = self._clock.steady_ms()
        state_lsn = int(self._owner.state.last_lsn)
        interval_ms = self._triggers.interval_ms
        is_due = bool(interval_ms) and now_ms - self._interval_began_ms >= interval_ms
        is_due |= state_lsn >= self._size_due_lsn() or _DAMAGE in self._troubles or self._has_failed
        if not is_due or now_ms < self._retry_at_ms:
            self._look_at_rest(now_ms)
        elif not self.is_wanted and not self._has_failed:
            self._interval_began_ms = now_ms  # nothing has changed: the next interval begins
        else:
            self._ask("snapshot", None, _nobody)

    def stop(self, reason: GibramError) -> None:
        """No more from now on; what runs is stopped at its next step. `join` waits for that."""
        self._is_stopping, self._stop_reason = True, reason
        self.due_lsn = NEVER_LSN
        self._freezing = None
        self.unfrozen.clear()
        running, self._running = self._running, None
        if running is not None:
            running.work.stop()
        for job in [*([running] if running else []), *self._waiting]:
            if job.path is not None and not job.is_done:
                log.warning("%s of %s was still running when the store stopped: %s", job.kind, job.path, reason)
            for finish in job.finishes:
                finish(reason, NO_LSN)
        self._waiting.clear()
        looking, self._looking = self._looking, []
        for finish in looking:
            finish(reason, NO_LSN)
        self._jobs.put(None)

    def join(self) -> None:
        """Wait until nothing of it touches the disk any more. After the journal has been closed."""
        if self._thread is not None:
            self._thread.join()

    def _aside(
        self, look: Callable[[], Result | GibramError], then: Callable[[Result], Result], finish: Finish
    ) -> None:
        """Look at the disk, which may hang, in a thread of its own; then go on here with what was found."""
        if self._stop_reason is not None:
            finish(self._stop_reason, NO_LSN)
            return
        self._looking.append(finish)

        def looked(found: Result | GibramError) -> None:
            if finish not in self._looking:
                return  # stopped meanwhile, and the caller told
            self._looking.remove(finish)
            try:
                outcome = found if isinstance(found, GibramError) else then(found)
            except GibramError as error:
                outcome = error.as_answer()
            finish(outcome, NO_LSN)

        def run() -> None:
            try:
                found = look()
            except Exception as error:  # the edge of the thread
                found = self._refusal_of(error)
            self._tell(partial(looked, found))

        try:
            threading.Thread(target=run, name="gibramdb-look", daemon=True).start()
        except RuntimeError:
            run()  # no thread is to be had: late is better than never

    def _check_for_writing(self, path: str) -> Result:
        with contextlib.suppress(OSError):  # the save itself meets it too, and BACKUP_STATUS tells
            operator_path.check_for_writing(self._directories, path, snapshot.is_copy)
        return Done()

    def _check_for_reading(self, path: str) -> Result:
        os.close(operator_path.open_for_reading(self._directories, path))
        return Done()

    def _ask_alone(self, kind: str, path: str, noun: str, found: Result) -> Result:
        self._refuse_second(noun)  # another may have come meanwhile
        self._ask(kind, path, _nobody)
        return found

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
            self._last_backup, job.started_at_s = job, self._clock.now_ms() // 1000
        self.due_lsn = NEVER_LSN
        try:
            if job.kind == "truncate":
                self._in_thread(partial(self._truncate, job))
            elif job.kind == "restore":
                assert job.path is not None
                state = self._owner.state
                load = partial(self._files.load, job.path, state.vector_dim, state.last_lsn, job.work)
                self._in_thread(partial(self._restore, job, load))
            else:
                self._cut(job)
        except Exception as error:  # who asked is told; whoever has a turn here besides is not touched
            self._give_up(job, error)

    def _cut(self, job: _Job) -> None:
        """One turn: what was applied up to here, and nothing later, is what the snapshot will hold."""
        state = self._owner.state
        kept: list[Section] = []
        changed: list[str] = []
        holds_vectors = False
        for name, session in state.sessions.items():
            holds_vectors = holds_vectors or session.holds_vectors()
            section = self._sections.get(name)
            if section is not None and section.changed_lsn == session.changed_lsn:
                kept.append(section)
            else:
                changed.append(name)
        if self._store_id is None:
            kept, changed = [], []
        sparse = self._files.packs.sparse(kept)
        if sparse:
            changed += [each.session_id for each in kept if each.pack in sparse]
            kept = [each for each in kept if each.pack not in sparse]
        vector_dim = state.vector_dim if holds_vectors else 0
        freezing = _Freezing(job, int(state.last_lsn), vector_dim, kept, changed)
        # What a copy holds includes what the pack does: each session is frozen once.
        self.unfrozen = {name: state.sessions[name] for name in (changed if job.path is None else state.sessions)}
        self._freezing = freezing
        self._journal.cut(freezing.cuts.put)
        self._freeze_some()

    def _freeze_some(self) -> None:
        freezing = self._freezing
        if freezing is None:
            return  # given up
        ends_us = self._clock.steady_us() + TURN_US
        try:
            while self.unfrozen:
                name, session = self.unfrozen.popitem()
                freezing.frozen[name] = FrozenSession(session)
                if self.unfrozen and self._clock.steady_us() >= ends_us:
                    self._post(self._freeze_some)
                    return
            self._freezing = None
            self._in_thread(partial(self._write, freezing))
        except Exception as error:  # as where it began
            self._give_up(freezing.job, error)

    def _give_up(self, job: _Job, error: Exception) -> None:
        self._freezing = None
        self.unfrozen.clear()
        self._finished(job, self._refusal_of(error))

    def _cut_again(self, job: _Job) -> None:
        """What was to be kept is damaged: the sessions in it are frozen too, as they are now."""
        if self._running is not job:
            return
        try:
            self._cut(job)
        except Exception as error:  # as where it began
            self._give_up(job, error)

    def _look_at_rest(self, now_ms: int) -> None:
        """Nothing is asked for: read on in the packs, if a round has begun, or is due."""
        newest, packs = self._newest, self._files.packs
        if newest is None or self._is_looking or _DAMAGE in self._troubles:
            return
        if not packs.is_reading:
            if now_ms < self._look_due_ms:
                return
            self._look_due_ms = now_ms + LOOK_EVERY_MS
        elif _LOOK in self._troubles:
            if now_ms < self._look_again_ms:
                return
            self._look_again_ms = now_ms + RETRY_MS
        self._is_looking = True
        self._in_thread(partial(self._look, newest.sections, LOOK_BYTES_AT_REST, newest))

    def _looked(self, damages: list[str]) -> None:
        """Damaged files are not counted on from here on, and a snapshot that does not need them is due."""
        self._is_looking = False
        if damages:
            self._files_damaged += len(damages)
            self._covered_lsn = self._incomplete_lsn = -1  # it can be lost now; what is missing may be lost already
            more = f" (and {len(damages) - 1} more)" if damages[1:] else ""
            self._note(_DAMAGE, f"a snapshot on the disk is damaged, and is written anew: {damages[0]}{more}")

    def _note(self, step: str, trouble: str) -> None:
        """How the step ended; empty for well."""
        if trouble:
            self._troubles[step] = trouble
        else:
            self._troubles.pop(step, None)

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
        if isinstance(outcome, GibramError):
            self._log_failure("snapshot" if job.is_done else job.kind, outcome)
            if job.kind in {"save", "restore"}:
                job.error = str(outcome)
            if job.kind == "save" and not job.is_done:  # of a copy that fails BACKUP_STATUS tells
                self._has_failed |= not isinstance(outcome, CallerError)  # the snapshot beside it is taken all the same
            elif job.kind in {"snapshot", "checkpoint", "save"}:
                self._failures += 1
                self._snapshot_error = str(outcome)
                self._retry_at_ms = self._clock.steady_ms() + RETRY_MS
                self._has_failed = True
        elif job.kind != "truncate":
            job.work.is_over = True
            self._snapshot_error = ""
            self._has_failed = False
        self._set_due_lsn()
        if isinstance(outcome, GibramError) and job.kind in {"checkpoint", "truncate"}:
            outcome = _failed(job.kind, outcome)
        for finish in job.finishes:
            finish(outcome, NO_LSN)
        self._begin_next()

    def _log_failure(self, kind: str, error: GibramError) -> None:
        """Clients can have commands fail as often as they like: some lines of each kind. Each is answered."""
        now_ms = self._clock.steady_ms()
        is_callers = isinstance(error, CallerError)
        told = self._failures_told.setdefault((kind, is_callers), _Told())
        if now_ms - told.since_ms >= TOLD_EVERY_MS:
            told.since_ms, told.lines = now_ms, 0
        told.failures += 1
        if told.lines < TOLD_LINES_MAX:
            level = logging.WARNING if is_callers else logging.ERROR
            log.log(level, "%s failed: %s", kind, error, extra={"times": told.failures})
            told.failures, told.lines = 0, told.lines + 1

    def _published(self, manifest: Manifest, covered_lsn: int) -> None:
        self._newest = manifest
        self._number = manifest.number
        self._sections = {each.session_id: each for each in manifest.sections}
        self._covered_lsn = covered_lsn
        if covered_lsn >= 0:
            # From here on; what is tidied up behind it may take its time.
            self._snapshot_error = ""
            self._interval_began_ms = self._clock.steady_ms()
            self._note(_DAMAGE, "")

    def _rotated(self, finish: Finish, refusal: GibramError | None) -> None:
        """On the log thread."""
        if refusal is None:
            self._tell(partial(self._note, _ROTATE, ""))
            self._tell(partial(self._aside, lambda: Done(len(self._generations())), _itself, finish))
        else:
            self._tell(lambda: finish(_failed("rotate", refusal), NO_LSN))

    def _status(self) -> BackupStatus:
        backup = self._backup()
        shown = backup or self._last_backup or _Job("", None)
        last = self._last_save
        return BackupStatus(
            backup is not None,
            shown.kind,
            shown.started_at_s,
            shown.work.percent,
            shown.error if backup is not None else shown.error or self._snapshot_error,
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

    def _in_thread(self, work: Callable[[], object]) -> None:
        self._begin_thread()
        self._jobs.put(work)

    def _begin_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="gibramdb-snapshot", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        tick_s = None if self._store_id is None else TICK_S
        while True:
            try:
                work = self._jobs.get(timeout=tick_s)
            except queue.Empty:
                self._tell(self.tick)
                continue
            if work is None:
                return
            with contextlib.suppress(StoppedError):
                work()
            work = None  # it holds what was frozen

    def _tell(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the owner's loop has ended: nobody is left to be told
            self._post(call)

    def _write(self, freezing: _Freezing) -> None:
        job, files, last_save = freezing.job, self._files, self._last_save
        outcome: Result | GibramError
        number = 0
        manifest: Manifest | None = None
        try:
            cut = freezing.cuts.get()
            if isinstance(cut, GibramError):
                raise cut  # noqa: TRY301 (the refusal of another thread)
            self._look(freezing.kept, LOOK_BYTES)
            if files.packs.sparse(freezing.kept):
                self._tell(partial(self._cut_again, job))
                return
            now_ms = self._clock.now_ms()
            copied = [] if job.path is None else list(freezing.frozen.values())
            packed = [freezing.frozen[name] for name in freezing.changed]
            job.work.total = 2 * (weight(copied) + weight(packed))
            if job.path is not None:
                manifest = files.manifest(0, now_ms, cut, freezing.vector_dim, last_save)
                last_save = files.write_copy(job.path, manifest, copied, job.work)
                _note_done(job)
            if self._store_id is not None:
                number = files.next_number(self._number)
                manifest = files.manifest(number, now_ms, cut, freezing.vector_dim, last_save)
                sections = files.write_pack(manifest, packed, job.work)
                manifest = with_sections(manifest, [*freezing.kept, *sections])
                files.publish(manifest)
                log.info("snapshot published", extra={"number": number, "lsn": cut.lsn, "sessions": len(sections)})
                self._tell(partial(self._published, manifest, freezing.covered_lsn))
                self._tidy_up()
            self._last_save = last_save
            outcome = Done(0 if job.kind == "save" else cut.lsn)
        except StoppedError:
            raise
        except Exception as error:  # the edge of the job: whatever it was, who asked is told, and the next one runs
            outcome = self._refusal_of(error)
        if isinstance(outcome, GibramError) and not files.discard(number) and manifest is not None:
            # What lies there counts, whatever the system said: the next one goes on from it. Perhaps it is not durable,
            # so it covers nothing yet, and the next one is due.
            self._tell(partial(self._published, manifest, -1))
        self._end(job, outcome)

    def _refusal_of(self, error: Exception) -> GibramError:
        if isinstance(error, GibramError):
            return error.as_answer()
        if isinstance(error, OSError):
            return refused(str(error.filename or self._directories.snapshots), error)
        log.error("a snapshot or restore failed in a way that is a defect of ours", exc_info=error)
        return InternalError(f"internal error: {error!r}; nothing was changed")

    def _look(self, sections: Sequence[Section], bytes_max: int, manifest: Manifest | None = None) -> None:
        """At the packs that hold these sections; and at the manifest's file, when a round begins."""
        packs = self._files.packs
        damages: list[str] = []
        trouble = None
        try:
            if self._store_id is not None:  # in another directory everything is missing, and nothing damaged
                self._locks.require_same(self._directories.snapshots)
            if manifest is not None and not packs.is_reading and (damage := packs.manifest_damage(manifest)):
                damages.append(damage)
            packs.look(sections, bytes_max, damages)
        except Exception as error:  # the edge of the step: of the rest nothing is known, and what waits for it goes on
            trouble = f"snapshots on the disk can not be read again: {self._refusal_of(error)}"
        for damage in damages:
            log.error("%s; it is not needed any more once the next snapshot is published", damage)
        self._tell_of(_LOOK, trouble)
        self._tell(partial(self._looked, damages))

    def _tidy_up(self) -> None:
        """The snapshot counts already; what fails here is done by the next one, and HEALTH tells until it is."""
        answers: queue.SimpleQueue[GibramError | None] = queue.SimpleQueue()
        self._journal.rotate(answers.put)
        refusal = answers.get()
        self._tell_of(_ROTATE, None if refusal is None else str(refusal))
        self._prune_behind()

    def _prune_behind(self) -> None:
        trouble = None
        try:
            self._prune(NEVER_LSN)
        except (GibramError, OSError) as error:
            trouble = f"what the snapshots make superfluous could not all be removed: {self._refusal_of(error)}"
        self._tell_of(_PRUNE, trouble)

    def _prune(self, target_lsn: int) -> int:
        return self._files.prune(self._triggers.retention_count, target_lsn, Path(self._journal.facts().path))

    def _tell_of(self, step: str, trouble: str | None) -> None:
        if trouble and self._troubles.get(step) != trouble:
            log.warning(trouble)
        self._tell(partial(self._note, step, trouble or ""))

    def _end(self, job: _Job, outcome: Result | GibramError) -> None:
        """The last step of a job: however far it came, what is on disk now is counted."""
        self._count_retained()
        self._tell(partial(self._finished, job, outcome))

    def _count_retained(self) -> None:
        if self._store_id is not None:
            with contextlib.suppress(OSError):
                self._retained = len(snapshot.list_snapshots(self._fs, self._directories.snapshots))

    def _truncate(self, job: _Job) -> None:
        outcome: Result | GibramError
        try:
            outcome = Done(self._prune(job.target_lsn))
            self._tell_of(_PRUNE, None)
        except Exception as error:  # as above
            outcome = self._refusal_of(error)
        self._end(job, outcome)

    # --- restoring ----------------------------------------------------------------------------------------------------

    def _restore(self, job: _Job, load: Callable[[], tuple[StoreState, int]]) -> None:
        """On the side: load, verify, write. Then the owner swaps."""
        files = self._files
        number = 0
        try:
            with recovery.collector_paused():
                state, vector_dim = load()
            number = files.next_number(self._number)
            manifest = files.manifest(number, self._clock.now_ms(), Cut(0, 0, 0, 0), vector_dim, self._last_save)
            if self._store_id is not None:
                frozen = [FrozenSession(session) for session in state.sessions.values()]
                manifest = with_sections(manifest, files.write_pack(manifest, frozen, job.work))
        except StoppedError:
            raise
        except Exception as error:  # as above
            files.discard(number)
            self._end(job, self._refusal_of(error))
        else:
            self._tell(partial(self._swap, job, state, RestoredSnapshot(files, manifest)))

    def _swap(self, job: _Job, state: StoreState, base: RestoredSnapshot) -> None:
        """On the owner's thread: nothing is admitted until the log stands on the new snapshot."""
        if self._running is not job:
            return
        self._owner.pause()
        self._journal.rebase(base, lambda cut: self._tell(partial(self._swapped, job, state, base, cut)))

    def _swapped(self, job: _Job, state: StoreState, base: RestoredSnapshot, cut: Cut | GibramError) -> None:
        if isinstance(cut, GibramError):
            self._owner.resume(None)
            self._in_thread(partial(self._files.discard, base.manifest.number))
            self._finished(job, cut)
            return
        state.last_lsn = Lsn(cut.lsn)
        if self._store_id is not None:
            self._published(base.manifest, cut.lsn)
        self._owner.resume(state)
        _note_done(job)
        if self._store_id is None:
            self._finished(job, Done())
        else:
            self._in_thread(partial(self._tidy_up_behind, job))

    def _tidy_up_behind(self, job: _Job) -> None:
        """A restore publishes a snapshot too, and makes others superfluous."""
        self._prune_behind()
        self._end(job, Done())


def _note_done(job: _Job) -> None:
    job.is_done = True
    log.info("%s done", job.kind, extra={"path": job.path})


def _itself(found: Result) -> Result:
    return found


def _nobody(outcome: Result | GibramError, lsn: Lsn) -> None:
    del outcome, lsn  # asked for in the background: BACKUP_STATUS, health and the log tell


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _failed(what: str, error: GibramError) -> GibramError:
    """The same error in words that GibRAM's operators know."""
    return type(error)(f"{what} failed: {error}")
