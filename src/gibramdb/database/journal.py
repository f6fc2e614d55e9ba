"""Where mutations go on their way to the disk: the one object in which ephemeral and durable mode differ.

A journal numbers what it is given. `released_lsn` says how far replies may go: to what is synced under `every_write`,
to what the kernel holds under `periodic` and `never`, to everything in a store that keeps nothing.

One module, because its two halves, what the owner calls and what the log thread does, are understood only together.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Protocol

import msgspec

from gibramdb.clock import Clock
from gibramdb.errors import ClosedError, DiskFullError, GibramError, StorageError
from gibramdb.model.ids import Lsn
from gibramdb.storage.files import next_step, refused
from gibramdb.storage.snapshot import Cut
from gibramdb.storage.wal import MARKER_BYTES, NO_ROOM, BasedOnSnapshot, LogWriter, Origin, Successor, framed_size

log = logging.getLogger(__name__)

IDLE_BEFORE_MARKER_MS = 100
"""How long a log rests before its last group gets a witness that it was synced."""
RESERVE_LOW_BYTES = 4 * 1024 * 1024
"""The reserve is grown in the background from here on, so that writers seldom wait for it."""
QUEUED_BYTES_MAX = 64 * 1024 * 1024
"""What may wait for the disk; beyond it writers wait before they decide anything."""
GROUP_BYTES_MAX = 16 * 1024 * 1024
LOOK_AGAIN_MS = 1_000
"""Whoever asks for figures of the disk that are older than this lets the log thread look again."""

RoomAnswer = Callable[[GibramError | None], None]
CutAnswer = Callable[[Cut | GibramError], None]


class Base(Protocol):
    """A snapshot that is ready but for the place in the log where it begins."""

    def at(self, cut: Cut) -> BasedOnSnapshot:
        """What the log's header says of it, once it is known where it lies."""
        ...

    def publish(self) -> None:
        """Make it discoverable. Raises OSError."""
        ...

    def is_published(self) -> bool:
        """Whether it can be found."""
        ...


class JournalFacts(msgspec.Struct, frozen=True):
    """What health tells about a journal. LSNs and sizes in bytes, ages in milliseconds; all 0 where nothing is kept."""

    released_lsn: int = 0
    flushed_lsn: int = 0
    pending_bytes: int = 0
    wal_size_bytes: int = 0
    generation: int = 0
    reserved_bytes: int = 0
    last_sync_age_ms: int = 0
    last_sync_duration_ms: int = 0
    sync_count: int = 0
    path: str = ""
    disk_full: bool = False
    disk_free_bytes: int = -1
    disk_bytes: int = -1


class Journal(Protocol):
    """Used by the thread that owns the store; `failure` is set by whoever notices it."""

    @property
    def released_lsn(self) -> Lsn:
        """Replies that depend on this LSN or a lower one may leave."""
        ...

    @property
    def failure(self) -> GibramError | None:
        """Why nothing can be logged any more, or None."""
        ...

    def lsn_after(self, payload_bytes: int) -> Lsn:
        """The LSN that the next record will end at, given its size."""
        ...

    def enqueue_marker(self, *, always: bool = False) -> None:
        """Leave a witness for what was logged last, if that makes sense here. `always`: even if there is one."""
        ...

    def has_room(self, payload_bytes: int) -> bool:
        """Whether a record of this size can be enqueued now."""
        ...

    def request_room(self, payload_bytes: int, answer: RoomAnswer) -> None:
        """Make room; `answer` is called from another thread, with None or with why there is none."""
        ...

    def enqueue(self, payload: bytes) -> Lsn:
        """Hand over a record for which there is room; returns the LSN at its end."""
        ...

    def cut(self, answer: CutAnswer) -> None:
        """Sync all that was enqueued before; `answer` is called from another thread, with where that ends, or why not.

        May be called from any thread, as may the two below.
        """
        ...

    def rotate(self, answer: RoomAnswer) -> None:
        """Begin the next generation, unless this one is empty."""
        ...

    def rebase(self, base: Base, answer: CutAnswer) -> None:
        """Begin the next generation on a snapshot instead of on what was logged so far."""
        ...

    def look_at_disk(self) -> None:
        """See to it that what `facts` tells of the disk is not old."""
        ...

    def facts(self) -> JournalFacts:
        """Figures for health."""
        ...

    def close(self) -> None:
        """Make durable what was enqueued, and stop."""
        ...

    def abandon(self) -> None:
        """Let go of the files without touching them: this process is a forked child and does not own them."""
        ...


class NullJournal:
    """Keeps nothing, and numbers what it is given all the same."""

    def __init__(self) -> None:
        self._lsn = 0

    @property
    def released_lsn(self) -> Lsn:
        """Everything: nothing is waited for."""
        return Lsn(self._lsn)

    @property
    def failure(self) -> GibramError | None:
        """Nothing can fail."""
        return None

    def lsn_after(self, payload_bytes: int) -> Lsn:
        """As if it were logged."""
        return Lsn(self._lsn + framed_size(payload_bytes))

    def has_room(self, payload_bytes: int) -> bool:
        """Always."""
        del payload_bytes
        return True

    def request_room(self, payload_bytes: int, answer: RoomAnswer) -> None:
        """There is room already."""
        del payload_bytes
        answer(None)

    def enqueue(self, payload: bytes) -> Lsn:
        """Count it."""
        self._lsn += framed_size(len(payload))
        return Lsn(self._lsn)

    def cut(self, answer: CutAnswer) -> None:
        """There is no log: only the LSN means something."""
        answer(Cut(0, 0, self._lsn, 0))

    def rotate(self, answer: RoomAnswer) -> None:
        """Nothing to rotate."""
        answer(None)

    def rebase(self, base: Base, answer: CutAnswer) -> None:
        """Nothing is kept, so nothing has to agree with it."""
        del base
        self.cut(answer)

    def enqueue_marker(self, *, always: bool = False) -> None:
        """Nothing to witness."""

    def look_at_disk(self) -> None:
        """There is none."""

    def facts(self) -> JournalFacts:
        """Nothing is kept, so all are 0."""
        return JournalFacts()

    def close(self) -> None:
        """Nothing to do."""

    def abandon(self) -> None:
        """Nothing to do."""


class _RoomRequest(msgspec.Struct, frozen=True):
    payload_bytes: int
    answer: RoomAnswer | None


class _Marker(msgspec.Struct, frozen=True):
    pass


class _CutRequest(msgspec.Struct, frozen=True):
    answer: CutAnswer


class _RotateRequest(msgspec.Struct, frozen=True):
    answer: RoomAnswer


class _RebaseRequest(msgspec.Struct, frozen=True):
    base: Base
    answer: CutAnswer


class _Stop(msgspec.Struct, frozen=True):
    pass


_Request = _RoomRequest | _Marker | _CutRequest | _RotateRequest | _RebaseRequest | _Stop


class Gathering(Protocol):
    """Where what is handed in gathers until the log thread takes it: a queue. The log waits for time nowhere else."""

    def put(self, item: bytes | _Request, /) -> None:
        """Hand in. Does not wait."""
        ...

    def get(self, *, timeout: float | None) -> bytes | _Request:
        """Take the oldest; waits for it for so many seconds, or for ever. Raises queue.Empty."""
        ...

    def get_nowait(self) -> bytes | _Request:
        """Take the oldest, if there is one. Raises queue.Empty."""
        ...


class WalJournal:
    """The write-ahead log behind one thread, which makes every system call on it.

    The thread writes all that has gathered and syncs once; while one sync runs, the next group gathers.

    The owner of the store numbers all that is logged, markers included, so that an LSN is known before it is written.
    A marker says how far the log was synced when it was written; itself synced, it is a witness for the group before
    it: damage to that group can then never pass for a torn tail. When the log rests, its thread asks the owner for one.

    Owns: the log thread, and through it the writer.
    Invariants:
    - flushed <= written <= enqueued; none goes back.
    - After a failed write or sync nothing is tried again: `failure` is set, and the owner is told.
    """

    def __init__(
        self,
        writer: LogWriter,
        torn_offset: int,
        sync_policy: str,
        sync_interval_ms: int,
        clock: Clock,
        on_progress: Callable[[], None],
        on_rest: Callable[[], None],
        gathering: Gathering | None = None,
        require_place: Callable[[], None] = lambda: None,
    ) -> None:
        """`require_place` raises OSError where the log's directory is not the one any more in which this log lies."""
        self._writer = writer
        self._torn_offset = torn_offset
        self._sync_policy = sync_policy
        # Half the promised interval: what is written just after a sync began must be durable before it is too old.
        self._sync_every_ms = max(1, sync_interval_ms // 2)
        self._clock = clock
        self._on_progress = on_progress
        self._on_rest = on_rest
        self._require_place = require_place
        self._queue = queue.SimpleQueue() if gathering is None else gathering
        self._enqueued_lsn = int(writer.end_lsn)
        self._written_lsn = int(writer.end_lsn)
        self._flushed_lsn = int(writer.end_lsn)  # recovery has synced all that it found
        self._marked_lsn = int(writer.end_lsn)  # the owner's: where the last marker ends
        self._is_witnessed = True  # the log thread's: nothing but a marker has been written since the last one
        self._reserved_lsn = int(writer.reserved_lsn)
        self._growing = True
        self._in_hand: _Request | None = None  # the log thread's: taken from the queue, not answered yet
        self._disk_full = False
        self._refused_bytes = 0  # what it was full for
        self._disk_room = (-1, -1)  # not known yet
        self._looked_at_ms = clock.steady_ms()  # the owner's: when the disk was last asked about
        self._is_looking = False
        self._unsynced_since_ms = 0
        self._last_sync_ms = clock.steady_ms()
        self._last_sync_duration_ms = 0
        self._sync_count = 0
        self._failure: GibramError | None = None
        self._queue.put(_RoomRequest(0, None))
        self._thread = threading.Thread(target=self._run, name="gibramdb-log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system gives no more threads
            writer.close()
            raise

    # --- the owner's side ---------------------------------------------------------------------------------------------

    @property
    def released_lsn(self) -> Lsn:
        """How far replies may go, by policy."""
        return Lsn(self._flushed_lsn if self._sync_policy == "every_write" else self._written_lsn)

    @property
    def failure(self) -> GibramError | None:
        """Why nothing can be logged any more, or None."""
        return self._failure

    def lsn_after(self, payload_bytes: int) -> Lsn:
        """The LSN that the next record will end at."""
        return Lsn(self._enqueued_lsn + framed_size(payload_bytes))

    def has_room(self, payload_bytes: int) -> bool:
        """Whether the record fits in what is reserved on the disk, markers included, and in the queue."""
        end = self._enqueued_lsn + framed_size(payload_bytes) + MARKER_BYTES
        reserved = self._reserved_lsn
        if reserved - end < RESERVE_LOW_BYTES and not self._growing:
            self._growing = True
            self._queue.put(_RoomRequest(payload_bytes, None))
        return end <= reserved and self._enqueued_lsn - self._written_lsn <= QUEUED_BYTES_MAX

    def request_room(self, payload_bytes: int, answer: RoomAnswer) -> None:
        """The log thread reserves space on the disk, after what it has to write first."""
        self._request(_RoomRequest(payload_bytes, answer))

    def cut(self, answer: CutAnswer) -> None:
        """The log thread writes and syncs what is before it in the queue."""
        self._request(_CutRequest(answer))

    def rotate(self, answer: RoomAnswer) -> None:
        """The log thread syncs this generation, makes the next one, and goes on in it."""
        self._request(_RotateRequest(answer))

    def rebase(self, base: Base, answer: CutAnswer) -> None:
        """As rotate; the snapshot is published between making the next generation and going on in it."""
        self._request(_RebaseRequest(base, answer))

    def _request(self, request: _Request) -> None:
        self._queue.put(request)
        if self._failure is not None:
            # The log thread has ended, perhaps just now: then nobody else takes it.
            self._refuse_waiting()

    def enqueue(self, payload: bytes) -> Lsn:
        """Hand a record to the log thread."""
        self._enqueued_lsn += framed_size(len(payload))
        self._queue.put(payload)
        return Lsn(self._enqueued_lsn)

    def enqueue_marker(self, *, always: bool = False) -> None:
        """Leave a witness for the last group, if there is one without and there is room."""
        if self._failure is not None or (self._enqueued_lsn == self._marked_lsn and not always):
            return
        if self._enqueued_lsn + MARKER_BYTES > self._reserved_lsn:
            return
        self._enqueued_lsn += MARKER_BYTES
        self._marked_lsn = self._enqueued_lsn
        self._queue.put(_Marker())

    def facts(self) -> JournalFacts:
        """Read without a lock: each figure is right for a moment, and none goes back.

        Those of the disk are what the log thread saw last: a disk that hangs must not hold up whoever wants to know.
        """
        self.look_at_disk()
        released, flushed = int(self.released_lsn), self._flushed_lsn
        return JournalFacts(
            released_lsn=released,
            flushed_lsn=min(flushed, released),
            pending_bytes=max(0, self._enqueued_lsn - self._written_lsn),
            wal_size_bytes=max(0, released - self._writer.header.base_lsn),
            generation=int(self._writer.header.generation),
            reserved_bytes=max(0, self._reserved_lsn - self._enqueued_lsn),
            last_sync_age_ms=self._clock.steady_ms() - self._last_sync_ms,
            last_sync_duration_ms=self._last_sync_duration_ms,
            sync_count=self._sync_count,
            path=str(self._writer.path),
            disk_full=self._disk_full,
            disk_free_bytes=self._disk_room[0],
            disk_bytes=self._disk_room[1],
        )

    def look_at_disk(self) -> None:
        """Have the log thread see how much room there is, unless it did lately."""
        now_ms = self._clock.steady_ms()
        if now_ms - self._looked_at_ms >= LOOK_AGAIN_MS and self._failure is None and not self._is_looking:
            self._looked_at_ms = now_ms
            self._is_looking = True
            self._queue.put(_RoomRequest(0, None))

    def close(self) -> None:
        """Write and sync what is enqueued, leave a witness, end the thread, close the file."""
        self.enqueue_marker()
        self._queue.put(_Stop())
        self._thread.join()
        with contextlib.suppress(OSError):
            self._writer.close()  # all is synced by now
        if self._failure is None:
            self._failure = ClosedError("the store is closed")
        self._refuse_waiting()

    def abandon(self) -> None:
        """Close the descriptor; the log thread does not exist in a forked child."""
        self._failure = ClosedError("this store belongs to the process that opened it, not to its forked child")
        self._writer.close()

    # --- the log thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            log.critical("the log failed, the store is halted: %s", error)
            self._failure = (
                error
                if isinstance(error, StorageError)
                else StorageError(f"the log failed: {error!r}; next: start it again")
            )
            _refuse(self._in_hand, self._failure)
            self._refuse_waiting()
        self._on_progress()

    def _turn(self) -> bool:
        """Wait for work and do all that has gathered. False after a stop."""
        payloads: list[bytes] = []
        group_bytes = 0
        last: _Request | None = None
        try:
            item = self._queue.get(timeout=self._rest_s())
            while isinstance(item, bytes):
                payloads.append(item)
                group_bytes += len(item)
                if group_bytes > GROUP_BYTES_MAX:
                    break
                item = self._queue.get_nowait()
            else:
                last = self._in_hand = item
        except queue.Empty:
            if not payloads and not self._is_sync_due(stopping=False):
                self._on_rest()
                self._is_witnessed = True  # asked for once; the owner answers with a marker if there is room for one
        if payloads:
            self._write(payloads)
            self._is_witnessed = False
        if self._is_sync_due(stopping=last is not None and not isinstance(last, _RoomRequest)):
            self._sync()
        if payloads:
            self._on_progress()
        if isinstance(last, _RoomRequest):
            self._grow(last)
        elif isinstance(last, _Marker):
            self._written_lsn = int(self._writer.append_marker(Lsn(self._flushed_lsn), self._clock.now_ms()))
            self._sync()
            self._on_progress()
        elif isinstance(last, _CutRequest):
            self._on_progress()
            last.answer(self._here())
        elif isinstance(last, _RotateRequest):
            last.answer(self._begin_next())
        elif isinstance(last, _RebaseRequest):
            last.answer(self._begin_on(last.base))
        self._in_hand = None
        return not isinstance(last, _Stop)

    def _here(self) -> Cut:
        header = self._writer.header
        offset = self._written_lsn - header.base_lsn
        return Cut(header.generation, offset, self._written_lsn, self._writer.last_checksum if offset else 0)

    def _begin_next(self) -> GibramError | None:
        """Everything is synced. What was admitted into this generation's reserve must find room in the next."""
        header = self._writer.header
        if self._written_lsn == header.base_lsn:
            return None
        origin = Successor(header.generation, Lsn(self._written_lsn), self._writer.last_checksum)
        try:
            self._switch_to(self._successor(origin))
        except OSError as error:
            return self._not_begun(error)
        return None

    def _begin_on(self, base: Base) -> Cut | GibramError:
        cut = Cut(self._writer.header.generation + 1, 0, self._written_lsn, 0)
        try:
            successor = self._successor(base.at(cut))
        except OSError as error:
            return self._not_begun(error)
        try:
            base.publish()
        except OSError as error:
            if base.is_published():
                raise  # perhaps not durably: what a start would find is not known, so the log ends here
            self._writer.take_back(successor)
            return refused("the snapshot can not be published, nothing was changed", error)
        self._switch_to(successor)
        return cut

    def _successor(self, origin: Origin) -> LogWriter:
        self._require_place()  # this generation is an open file, wherever it lies by now; the next is found by its path
        self._writer.discard_tail(self._torn_offset)
        admitted = max(0, self._reserved_lsn - self._written_lsn)
        return self._writer.begin_successor(origin, os.urandom(16), self._clock.now_ms(), admitted)

    def _switch_to(self, successor: LogWriter) -> None:
        old, self._writer = self._writer, successor
        self._reserved_lsn = int(successor.reserved_lsn)
        try:
            old.end()
        finally:
            with contextlib.suppress(OSError):  # everything in it is synced; the next generation is what counts
                old.close()

    def _not_begun(self, error: OSError) -> GibramError:
        if error.errno in NO_ROOM:
            # No room is more than a full disk: a file may have become as large as it may.
            return DiskFullError(
                f"{self._writer.path}: the next generation of the log has no room: {error.strerror}; {next_step(error)}"
            )
        where = error.filename or self._writer.path.parent
        what = f"{where}: the log can not begin its next generation, and goes on in {self._writer.path}"
        return refused(what, error)

    def _rest_s(self) -> float | None:
        """How long to wait for work before something else is due."""
        if self._sync_policy == "periodic" and self._flushed_lsn < self._written_lsn:
            return max(0.0, (self._unsynced_since_ms + self._sync_every_ms - self._clock.steady_ms()) / 1000)
        if self._sync_policy != "never" and not self._is_witnessed:
            return IDLE_BEFORE_MARKER_MS / 1000
        return None

    def _write(self, payloads: list[bytes]) -> None:
        if self._flushed_lsn == self._written_lsn:
            self._unsynced_since_ms = self._clock.steady_ms()
        self._written_lsn = int(self._writer.append(payloads, Lsn(self._flushed_lsn), self._clock.now_ms()))

    def _is_sync_due(self, *, stopping: bool) -> bool:
        if self._flushed_lsn == self._written_lsn:
            return False
        if stopping or self._sync_policy == "every_write":
            return True
        if self._sync_policy == "never":
            return False
        return self._clock.steady_ms() - self._unsynced_since_ms >= self._sync_every_ms

    def _sync(self) -> None:
        began_ms = self._clock.steady_ms()
        self._writer.sync()
        self._flushed_lsn = self._written_lsn
        self._last_sync_ms = self._clock.steady_ms()
        self._last_sync_duration_ms = self._last_sync_ms - began_ms
        self._sync_count += 1

    def _grow(self, request: _RoomRequest) -> None:
        needed = framed_size(request.payload_bytes) + MARKER_BYTES
        if request.answer is None and self._disk_full:
            needed = max(needed, self._refused_bytes)  # less than what was refused is no news
        refusal: GibramError | None = None
        try:
            # Where the generation that followed is missing, the sign of that stays until something is to be logged.
            if request.payload_bytes or not self._writer.is_ended():
                # The first thing this process changes in the log: what was never acknowledged is put aside.
                self._writer.discard_tail(self._torn_offset)
                self._reserve(needed)
        except OSError as error:
            self._refused_bytes = needed
            refusal = DiskFullError(
                f"the log can not grow: {error.strerror} ({self._writer.path}); "
                "free space on its disk, writes are then accepted again by themselves"
            )
        self._disk_full = refusal is not None
        with contextlib.suppress(OSError):  # for health only
            self._disk_room = self._writer.room()
        self._reserved_lsn = int(self._writer.reserved_lsn)
        if not request.payload_bytes:
            self._is_looking = False
        if request.answer is not None:
            self._growing = False
            request.answer(refusal)
        elif refusal is None:
            self._growing = False
        # Otherwise nothing is asked for in the background again, until a writer needs room and asks itself.

    def _reserve(self, needed_bytes: int) -> None:
        try:
            self._writer.reserve(RESERVE_LOW_BYTES + needed_bytes)
        except OSError:
            self._writer.reserve(needed_bytes)

    def _refuse_waiting(self) -> None:
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            assert self._failure is not None
            _refuse(item, self._failure)


def _refuse(item: bytes | _Request | None, failure: GibramError) -> None:
    """Answer what nobody will do any more."""
    if isinstance(item, _RoomRequest | _CutRequest | _RotateRequest | _RebaseRequest):
        answer: Callable[[GibramError], None] | None = item.answer
        if answer is not None:
            answer(failure)
