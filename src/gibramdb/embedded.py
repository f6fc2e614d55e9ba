"""A store inside this process: one thread owns it, callers wait.

The owner is a thread of its own because a signal reaches only the main thread: a Ctrl-C there can interrupt a caller
that waits, never a change half made. Calls from any thread, and from any event loop, go through the same queue.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from gibramdb import native_threads
from gibramdb.async_opening import Opening
from gibramdb.async_session import AsyncStore
from gibramdb.clock import SystemClock
from gibramdb.config import Config, load_config
from gibramdb.database.answers import Answer
from gibramdb.database.opening import OpenStore, open_store
from gibramdb.errors import ClosedError, ConfigError, GibramError, OutcomeUnknownError, UnavailableError, in_brief
from gibramdb.model.commands import Command, only_asks
from gibramdb.model.field_types import checked, checked_batch
from gibramdb.session import Store, ended_early

log = logging.getLogger(__name__)

T = TypeVar("T")

DETECTION_SECONDS_MAX = 5.0
"""So long the end of a process waits for a detection that nobody waits for, and that could take it down."""
atexit.register(native_threads.wait_for, DETECTION_SECONDS_MAX)


class Asked(NamedTuple, Generic[T]):
    """What has been handed to an engine."""

    answer: Future[T]
    commands: Sequence[Command]
    stop: Callable[[], None]
    """Run of it no more than runs already. For the engine's thread."""


class Engine:
    """The thread that owns a store, and the queue that leads to it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.opened: Future[OpenStore] = Future()
        """Done when the store is open, or could not be opened."""
        self.opened.set_running_or_notify_cancel()  # from here on nobody can cancel it
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="gibramdb-engine", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            store = open_store(self._config, SystemClock(), self._queue.put)
        except BaseException as error:
            self.opened.set_exception(error)
            return
        self._store = store
        atexit.register(self.close)
        self.opened.set_result(store)
        clock = SystemClock()
        sweep_every_ms = self._config.server.session_cleanup_interval_ms
        sweep_at_ms = clock.steady_ms() + sweep_every_ms
        while True:
            # A busy queue never runs empty, so whether a sweep is due is asked each time.
            if clock.steady_ms() >= sweep_at_ms:
                self._call(store.database.expire_sessions)
                sweep_at_ms = clock.steady_ms() + sweep_every_ms
            try:
                call = self._queue.get(timeout=max(0, sweep_at_ms - clock.steady_ms()) / 1000)
            except queue.Empty:
                continue
            if call is None:
                break
            self._call(call)
        self._call(store.close)
        # What came in after the end is answered too: by the closed store, with a refusal.
        while not self._queue.empty():
            call = self._queue.get()
            if call is not None:
                self._call(call)

    @staticmethod
    def _call(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # the edge of the thread: the database has halted itself where that was called for
            log.exception("a call on the engine thread failed")

    def submit(self, command: Command) -> Asked[Answer]:
        """Run a command; its answer is its result, or the error it was refused with, as a value.

        Raises InvalidArgumentError if it is none, or a field holds what it can not.
        """
        command = _of_one_call(checked(command))
        answer: Future[Answer] = Future()

        def run() -> None:
            # Cancelled before its turn, it never runs; from here on nobody can cancel it. Setting the result of a
            # cancelled future would raise where the answers of others are waiting to be given out.
            if answer.set_running_or_notify_cancel():
                self._store.database.submit(command, answer.set_result)

        self._post(run)
        return Asked(answer, (command,), lambda: self._store.database.give_up(command))

    def submit_batch(self, batch: Sequence[Command]) -> Asked[list[Answer]]:
        """Run commands in order, up to the first that fails. Raises as `submit`, before any of them is run."""
        batch = [_of_one_call(command) for command in checked_batch(batch)]
        answers: Future[list[Answer]] = Future()
        stop_pipeline: Callable[[], None] | None = None

        def run() -> None:
            nonlocal stop_pipeline
            if answers.set_running_or_notify_cancel():
                stop_pipeline = self._store.database.submit_batch(batch, answers.set_result)

        def stop() -> None:
            if stop_pipeline is not None:
                stop_pipeline()

        self._post(run)
        return Asked(answers, batch, stop)

    def withdraw(self, asked: Asked[Any]) -> bool:
        """Nobody waits for it any more. Returns whether its turn had not come, and so none of it is carried out."""
        if asked.answer.cancel():
            return True
        with contextlib.suppress(ClosedError):
            self._post(asked.stop)
        return False

    def _post(self, call: Callable[[], None]) -> None:
        if os.getpid() != self._owner_pid:
            raise ClosedError("this store belongs to the process that opened it, not to its forked child")
        with self._lock:
            if self._is_closed:
                raise ClosedError("the store is closed")
            self._queue.put(call)

    def close(self) -> None:
        """Make durable what was accepted and end the thread. A second call does nothing."""
        if os.getpid() != self._owner_pid:
            return
        self.close_soon()
        self._thread.join()
        atexit.unregister(self.close)

    def close_soon(self) -> None:
        """As `close`, without waiting."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._queue.put(None)


def _value(answer: Answer) -> Any:
    if isinstance(answer, GibramError):
        raise answer
    return answer


def _values(answers: list[Answer], count: int) -> list[Any]:
    error = answers[-1] if answers else None
    if isinstance(error, GibramError) and len(answers) > 1:
        told = f"{len(answers) - 1} of {count} commands were answered before it"
        raise ended_early(error, answers[:-1], told) from error
    return [_value(answer) for answer in answers]


def _late(asked: Asked[Any], timeout_s: float | None, *, never_run: bool) -> UnavailableError:
    """What a caller is told who waits no longer."""
    if never_run:
        return UnavailableError(f"timed out after {timeout_s:g} s: its turn had not come, and nothing was carried out")
    if only_asks(asked.commands):
        return UnavailableError(f"timed out after {timeout_s:g} s; nothing was to be changed")
    return OutcomeUnknownError(f"timed out after {timeout_s:g} s; what was under way may or may not be kept")


def _of_one_call(command: Command) -> Command:
    """A detection is withdrawn by what asked for it, and a caller can hand in one command in several calls."""
    return msgspec.structs.replace(command) if command.handler == "detect" else command


class EmbeddedExecutor:
    """Takes commands to an engine, and waits."""

    def __init__(self, engine: Engine, timeout_s: float | None = None) -> None:
        self._engine = engine
        self._timeout_s = timeout_s

    def execute(self, command: Command) -> Any:
        """See session.Executor."""
        return _value(self._wait(self._engine.submit(command)))

    def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See session.Executor."""
        return _values(self._wait(self._engine.submit_batch(batch)), len(batch))

    def _wait(self, asked: Asked[T]) -> T:
        try:
            return asked.answer.result(self._timeout_s)
        except BaseException as error:  # Ctrl-C too
            never_run = self._engine.withdraw(asked)
            if isinstance(error, TimeoutError):
                raise _late(asked, self._timeout_s, never_run=never_run) from None
            raise

    def with_timeout(self, timeout_s: float) -> EmbeddedExecutor:
        """See session.Executor."""
        return EmbeddedExecutor(self._engine, timeout_s)

    def close(self) -> None:
        """See session.Executor."""
        self._engine.close()


class AsyncEmbeddedExecutor:
    """The same for an event loop."""

    def __init__(self, engine: Engine, timeout_s: float | None = None) -> None:
        self._engine = engine
        self._timeout_s = timeout_s

    async def execute(self, command: Command) -> Any:
        """See session.Executor."""
        return _value(await self._wait(self._engine.submit(command)))

    async def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See session.Executor."""
        return _values(await self._wait(self._engine.submit_batch(batch)), len(batch))

    async def _wait(self, asked: Asked[T]) -> T:
        waited_for = asyncio.wrap_future(asked.answer)
        # Not wait_for: that would cancel before it can be told whether the command had begun.
        try:
            done, _ = await asyncio.wait([waited_for], timeout=self._timeout_s)
        except BaseException:  # it is cancelled, or closed
            self._engine.withdraw(asked)
            raise
        if not done:
            raise _late(asked, self._timeout_s, never_run=self._engine.withdraw(asked))
        return waited_for.result()

    def with_timeout(self, timeout_s: float) -> AsyncEmbeddedExecutor:
        """See session.Executor."""
        return AsyncEmbeddedExecutor(self._engine, timeout_s)

    async def close(self) -> None:
        """See session.Executor."""
        await asyncio.to_thread(self._engine.close)


SNAPSHOT_WAL_SIZE_BYTES = 64 * 1024 * 1024


def _config(
    path: str | os.PathLike[str] | None,
    vector_dim: int,
    wal_sync_policy: str,
    wal_sync_interval: str,
    snapshot_wal_size_bytes: int,
    data_dir: str | os.PathLike[str] | None,
    require_existing: bool,
) -> Config:
    flags = {"server.vector_dim": _text(vector_dim), "server.addr": "127.0.0.1:0"}
    if require_existing:
        flags["session_store.require_existing"] = "true"
    if data_dir is not None:
        flags["server.data_dir"] = _path_text("data_dir", data_dir)
    if path is not None:
        flags["server.data_dir"] = _path_text("path", path)
        flags["session_store.mode"] = "durable"
        flags["session_store.wal_sync_policy"] = _text(wal_sync_policy)
        flags["session_store.wal_sync_interval"] = _text(wal_sync_interval)
        flags["session_store.snapshot_wal_size_bytes"] = _text(snapshot_wal_size_bytes)
    return load_config(None, flags=flags)


def _text(setting: object) -> str:
    try:
        return str(setting)
    except ValueError:  # a number that Python does not write
        return in_brief(setting)


def _path_text(name: str, given: object) -> str:
    text = os.fspath(given) if isinstance(given, os.PathLike) else given
    if not isinstance(text, str):
        raise ConfigError(f"{name} must be a text or a path, got {in_brief(given)}")
    return text


def open(
    path: str | os.PathLike[str] | None = None,
    *,
    vector_dim: int = 1536,
    wal_sync_policy: str = "every_write",
    wal_sync_interval: str = "1s",
    snapshot_wal_size_bytes: int = SNAPSHOT_WAL_SIZE_BYTES,
    data_dir: str | os.PathLike[str] | None = None,
    require_existing: bool = False,
) -> Store:
    """Open a store in this process: in memory, or durable in the directory `path`.

    The directory is laid out as a server's; one process at a time may have it open.

    Args:
        path: the data directory; made at the first start. None keeps everything in memory only.
        vector_dim: how many numbers each embedding has.
        wal_sync_policy: "every_write" (acknowledged means on disk), "periodic", or "never".
        wal_sync_interval: with "periodic", how much may be lost: `1s`, `500ms`.
        snapshot_wal_size_bytes: a snapshot is taken when the log behind the newest has 3/4 of this; 0 is off.
        data_dir: where a store in memory writes and finds the copies of `save`; one on disk has its own.
        require_existing: do not begin a store where there is none, as at a mistyped path.

    Raises:
        ConfigError: a setting can not be used.
        MissingStoreError: there is no store at `path`, and one is required; or a part of it is missing.
        StoreLockedError: another process has it open.
        FatalError: the store can not be recovered; the message says what was found and what to do.
    """
    engine = Engine(
        _config(
            path,
            vector_dim,
            wal_sync_policy,
            wal_sync_interval,
            snapshot_wal_size_bytes,
            data_dir,
            require_existing,
        )
    )
    try:
        engine.opened.result()
    except BaseException:  # Ctrl-C too: the thread would go on to open the store, and hold it
        engine.close_soon()
        raise
    return Store(EmbeddedExecutor(engine))


def open_async(
    path: str | os.PathLike[str] | None = None,
    *,
    vector_dim: int = 1536,
    wal_sync_policy: str = "every_write",
    wal_sync_interval: str = "1s",
    snapshot_wal_size_bytes: int = SNAPSHOT_WAL_SIZE_BYTES,
    data_dir: str | os.PathLike[str] | None = None,
    require_existing: bool = False,
) -> Opening:
    """As `open`, for an event loop; recovery runs beside it.

    `async with open_async(...) as db`, or `db = await open_async(...)`.
    """
    settings = (
        path,
        vector_dim,
        wal_sync_policy,
        wal_sync_interval,
        snapshot_wal_size_bytes,
        data_dir,
        require_existing,
    )

    async def opened() -> AsyncStore:
        engine = Engine(_config(*settings))
        try:
            await asyncio.wrap_future(engine.opened)
        except BaseException:  # cancelled, too
            engine.close_soon()
            raise
        return AsyncStore(AsyncEmbeddedExecutor(engine))

    return Opening(opened())
