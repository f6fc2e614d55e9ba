"""The server: puts the parts together, starts and stops them in order.

start   listen, answer PING and HEALTH -> open the store (recovery) -> answer everything
stop    stop listening -> take no more requests -> make durable what was accepted -> answer it -> close
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
from threadpoolctl import threadpool_limits

from gibramdb.clock import SystemClock
from gibramdb.config import Address, Config
from gibramdb.database import health
from gibramdb.database.answers import Answer, Weigh
from gibramdb.database.database import Database
from gibramdb.database.opening import OpenStore, directories_of, facts_of, open_store, unserved
from gibramdb.errors import GibramError, StartingError
from gibramdb.model.commands import Checkpoint, Command, GetHealth, Ping
from gibramdb.model.results import Pong
from gibramdb.model.scope import SessionScope
from gibramdb.server.admission import Admission, Seldom
from gibramdb.server.auth import Gate
from gibramdb.server.connection import Connection
from gibramdb.server.listener import Listener, listen
from gibramdb.storage.files import FileSystem, OsFileSystem
from gibramdb.storage.identity import Directories, Locks, make_directories

if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

STOP_SECONDS_MAX = 4.0
"""How long clients may take to receive their last answers; a supervisor is promised an end within 5 s."""
GOODBYE_SECONDS_MAX = 0.25
"""How long those that have all their answers may take to say goodbye, as TLS asks of them; idle ones do not hear it."""
SWITCH_INTERVAL_S = 0.0005
"""A busy worker thread gives the interpreter back after this time; Python's own 5 ms would be felt by every request."""
STARTING = "the store is starting: it recovers, try again in a moment"
DESCRIPTORS_KEPT = 64
"""For the store's files, the log and what listens; connections get the rest."""
FULL_COLLECTION = 2
"""The collector's number for one of everything that is not frozen."""
CHECK_S_MAX = 1.0
CHECKS_PER_TIMEOUT = 8
"""Connections are looked at this often within the shortest of their timeouts, and at least every second."""


class _Recovering:
    """Stands where the store will be, while it recovers: PING and HEALTH are answered, everything else is refused."""

    def __init__(self, config: Config) -> None:
        self._facts = facts_of(config)

    def submit(self, command: Command, done: Callable[[Answer], None], weigh: Weigh | None = None) -> bool:
        """As Database."""
        del weigh
        done(self._answer(command))
        return True

    def submit_batch(
        self,
        items: Iterable[Command | GibramError],
        done: Callable[[list[Answer]], None],
        weigh: Weigh | None = None,
        *,
        is_bounded: bool = False,
    ) -> None:
        """As Database; but it runs none, or a small pipeline of HEALTHs would be answered with megabytes."""
        del items, weigh, is_bounded
        done([StartingError(STARTING)])

    def may_begin(self, session_id: str, scope: SessionScope, most: int) -> bool:
        """As Database. What asks is refused because the store is starting."""
        del session_id, scope, most
        return True

    def give_up(self, command: Command) -> None:
        """As Database. Nothing waits here."""

    def _answer(self, command: Command) -> Answer:
        if isinstance(command, Ping):
            return Pong()
        if isinstance(command, GetHealth):
            report = health.starting(self._facts, SystemClock().now_ms())
            return report if command.scope is None else health.of_nobody(report)
        return StartingError(STARTING)


class Server:
    """A store and those who are connected to it. Runs on one event loop, which owns the store."""

    def __init__(self, config: Config) -> None:
        self.database: Database | _Recovering = _Recovering(config)
        security = config.security
        self.frame_bytes_max = security.frame_bytes_max
        self.unauth_timeout_us = security.unauth_timeout_ms * 1000
        self.idle_timeout_us = security.idle_timeout_ms * 1000
        self.gate = Gate(config.auth.keys, security.rate_per_second, security.rate_burst) if config.auth.keys else None
        self._store: OpenStore | None = None
        self._snapshot_on_stop = config.session_store.mode == "durable" and config.session_store.snapshot_on_stop
        self.admission = Admission(_connections_max(security.connections_max), security.connections_per_ip_max)
        self.nonsense = Seldom(log.info)
        self.stalls = Seldom(log.info)
        self._overfull = Seldom(log.warning)
        self._connections: set[Connection] = set()
        self.stall_timeout_us = security.stall_timeout_ms * 1000
        self._buffered_bytes_max = security.buffered_bytes_max
        self._buffered_bytes = 0
        self._frees = 0
        self.is_round_over = False
        self._is_round_due = False
        self._waiting: dict[str, dict[Connection, None]] = {}  # for the next rounds, by who asks; both in order
        self._last_request_id = 0
        self._is_stopping = False
        self._all_gone: asyncio.Event | None = None  # while stopping

    def begin(self, store: OpenStore) -> None:
        """The store is open: everything is answered from now on."""
        self.database = store.database
        self._store = store

    def begin_with(self, connection: Connection) -> bool:
        """A connection has been made; whether it may go on, which it may not while the server stops."""
        self._connections.add(connection)
        return not self._is_stopping

    def forget(self, connection: Connection) -> None:
        """A connection that had been made is gone."""
        self._connections.remove(connection)
        self.admission.forget(connection)
        self.admission.leave(connection.peer)
        if self._all_gone is not None and not self._connections:
            self._all_gone.set()

    def count_held(self, change_bytes: int) -> None:
        """What connections hold has changed; beyond what they may hold together, whoever holds most has to go."""
        self._buffered_bytes += change_bytes
        if change_bytes <= 0 or self._buffered_bytes <= self._buffered_bytes_max:
            return
        for connection in self._connections:
            self._buffered_bytes += connection.recount()  # what a client has taken since may count still
        while self._buffered_bytes > self._buffered_bytes_max:
            heaviest = max(self._connections, key=lambda connection: connection.held_bytes)
            self._overfull.tell(
                "closing the connection that holds most: all together hold too much",
                peer=heaviest.peer, bytes=heaviest.held_bytes, bytes_of_all=self._buffered_bytes,
            )  # fmt: skip
            heaviest.abort()
            self._frees += 1
            loop = asyncio.get_running_loop()
            # Lost in the loop's next round; its memory is given back when that ends.
            loop.call_soon(loop.call_soon, self._freed)

    def _freed(self) -> None:
        self._frees -= 1

    @property
    def is_freeing(self) -> bool:
        """Whether connections have had to go whose memory is not free yet: until then no more is taken for answers."""
        return self._frees > 0

    def end_round(self) -> None:
        """One connection has had a long turn: whoever may have another waits for the loop's next round."""
        self.is_round_over = True
        self._begin_round_soon()

    def take_turn_next(self, connection: Connection) -> None:
        """In one of the next rounds, behind those of the same asker that wait already, and one of each other."""
        self._waiting.setdefault(connection.asker, {})[connection] = None
        self._begin_round_soon()

    def _begin_round_soon(self) -> None:
        if not self._is_round_due:
            self._is_round_due = True
            asyncio.get_running_loop().call_soon(self._begin_round)

    def _begin_round(self) -> None:
        self.is_round_over = self._is_round_due = False
        while self._waiting and not self.is_round_over:
            asker = next(iter(self._waiting))
            of_asker = self._waiting.pop(asker)
            connection = next(iter(of_asker))
            del of_asker[connection]
            if of_asker:
                self._waiting[asker] = of_asker
            connection.take_turn()

    def next_request_id(self) -> int:
        """For a request that asks for one: server-wide, from 1."""
        self._last_request_id += 1
        return self._last_request_id

    def check_connections(self) -> None:
        """End those whose time is over."""
        now_us = SystemClock().steady_us()
        for connection in list(self._connections):
            connection.check(now_us)

    def look_at_disk(self) -> None:
        """So that the first HEALTH after a long time tells what is so now."""
        if self._store is not None:
            self._store.database.journal.look_at_disk()

    async def stop(self) -> None:
        """Answer what was accepted, then close. Bounded in time, whatever clients do."""
        self._is_stopping = True
        if self.gate is not None:
            self.gate.close()
        for connection in list(self._connections):
            connection.leave()
        assert self._store is not None
        snapshots = self._store.database.snapshots
        if self._snapshot_on_stop and snapshots is not None and snapshots.is_wanted:
            await self._take_snapshot()
        self._store.close()
        if self._connections:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), GOODBYE_SECONDS_MAX)
            for connection in list(self._connections):
                if connection.has_given_all():
                    connection.abort()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), STOP_SECONDS_MAX)
            for connection in list(self._connections):
                connection.abort()

    async def _take_snapshot(self) -> None:
        taken: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.database.submit(Checkpoint(), taken.set_result)
        answer = await taken
        if isinstance(answer, GibramError):
            log.warning("no snapshot before the stop, the log has everything: %s", answer)


def _connections_max(asked: int) -> int:
    """As many as were asked for, or as descriptors allow, of which this process takes as many as it may."""
    if sys.platform == "win32":
        return asked
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = asked + DESCRIPTORS_KEPT
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < wanted:
            possible = max(1, soft - DESCRIPTORS_KEPT)
            log.warning(
                "security.max_connections is %s, and the limit on open files allows %s: raise it (ulimit -n)",
                asked, possible,
            )  # fmt: skip
            return possible
    return asked


def serve(config: Config) -> None:
    """Run a server until SIGTERM or SIGINT; a second signal ends the process at once.

    Raises:
        FatalError: the store can not be opened, or the address can not be listened on.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # A scan is over before a second core would help, and that core has the log and the clients to serve.
    with threadpool_limits(1), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 (where it is not installed, the standard loop serves)
    except ImportError:
        return asyncio.new_event_loop
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


async def _serve(config: Config) -> None:
    loop = asyncio.get_running_loop()
    # A stop asked for during recovery ends the process at once: there is nothing to answer, and nothing half done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    server = Server(config)
    door = _Door(config, server, await listen(config.server.addr))  # before anything on disk is touched
    watcher = loop.create_task(_watch(server))
    opening: asyncio.Future[OpenStore] = loop.create_future()
    threading.Thread(target=_open, args=(config, loop, opening, door), name="gibramdb-recovery", daemon=True).start()
    try:
        store = await opening
    except BaseException:
        if server.gate is not None:
            server.gate.close()
        raise
    stop_asked = asyncio.Event()

    def on_signal() -> None:
        stop_asked.set()
        # What was acknowledged is in the log already, so the next signal may end the process. That is left to the
        # kernel: a stop that waits for a disk which hangs does not come back to this loop.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    for warning in store.database.facts.warnings:
        log.warning(warning)
    gc.callbacks.append(_leave_alone_what_stays)
    gc.collect()
    server.begin(store)
    _say_ready(config, door.port)
    sweeper = loop.create_task(_sweep(store.database, config.server.session_cleanup_interval_ms / 1000))
    await stop_asked.wait()
    log.info("stopping")
    door.close()
    sweeper.cancel()
    await server.stop()
    watcher.cancel()
    log.info("stopped")


class _Door:
    """Opens as soon as the server can prove itself: at once, or when it owns the directory its certificate lies in."""

    def __init__(self, config: Config, server: Server, sockets: list[socket.socket]) -> None:
        self.port = sockets[0].getsockname()[1]
        self._config = config
        self._server = server
        self._sockets = sockets
        self._listener: Listener | None = None
        self._needs_certificate = config.tls.auto_cert and not config.tls.cert_file
        if not self._needs_certificate:
            self._open(self._context_from_files())

    def _context_from_files(self) -> ssl.SSLContext | None:
        if not self._config.tls.cert_file:
            return None
        from gibramdb.server import tls  # noqa: PLC0415 (who uses no TLS does not wait for what it needs)

        return tls.context_from_files(self._config, SystemClock().now_ms())

    def owned(self, loop: asyncio.AbstractEventLoop, fs: FileSystem) -> None:
        """On the thread that opens the store: the data directory is ours."""
        if self._needs_certificate:
            from gibramdb.server import tls  # noqa: PLC0415 (as above)

            context = tls.auto_context(Path(self._config.server.data_dir), fs, SystemClock())
            _post(loop, partial(self._open, context))

    def owned_briefly(self, loop: asyncio.AbstractEventLoop) -> None:
        """The same for a store in memory, which owns no directory but for as long as this takes."""
        if not self._needs_certificate:
            return
        fs = OsFileSystem()
        directories = directories_of(self._config)
        alone = Directories(directories.data, directories.data, directories.data)
        make_directories(fs, alone)
        locks = Locks(fs)
        locks.take_data(directories)
        try:
            self.owned(loop, fs)
        finally:
            locks.release()

    def _open(self, context: ssl.SSLContext | None) -> None:
        server = self._server
        self._listener = Listener(
            self._sockets, context, server.unauth_timeout_us / 1_000_000, server.admission, partial(Connection, server)
        )

    def close(self) -> None:
        """Let nobody in any more."""
        if self._listener is not None:
            self._listener.close()


def _open(config: Config, loop: asyncio.AbstractEventLoop, opening: asyncio.Future[OpenStore], door: _Door) -> None:
    """In a thread of its own, so that HEALTH is answered meanwhile; from then on the store belongs to the loop."""
    try:
        if config.session_store.mode == "ephemeral":
            door.owned_briefly(loop)
        config = msgspec.structs.replace(config, warnings=(*config.warnings, *unserved(config)))
        store = open_store(config, SystemClock(), lambda call: _post(loop, call), on_owned=partial(door.owned, loop))
    except BaseException as error:
        _post(loop, partial(opening.set_exception, error))
    else:
        _post(loop, partial(opening.set_result, store))


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(call)


def _leave_alone_what_stays(phase: str, about: dict[str, int]) -> None:
    """After a full collection: what it has left are records, which the next need not walk again.

    Millions of them would take it a quarter of a second. They are freed when nothing names them any more; only rings
    of objects would stay for good, and neither records nor connections nor answers are in any.
    """
    if phase == "stop" and about["generation"] == FULL_COLLECTION:
        gc.freeze()


def _say_ready(config: Config, port: int) -> None:
    told: dict[str, object] = {"address": str(Address(config.server.addr.host, port)), "pid": os.getpid()}
    told["vector_dim"] = config.server.vector_dim
    told["mode"] = config.session_store.mode
    if config.session_store.mode == "durable":
        told["data_dir"] = config.server.data_dir
        told["wal_sync_policy"] = config.session_store.wal_sync_policy
    log.info("serving", extra=told)


async def _watch(server: Server) -> None:
    shortest_s = min(server.unauth_timeout_us, server.idle_timeout_us, server.stall_timeout_us) / 1_000_000
    while True:
        await asyncio.sleep(min(CHECK_S_MAX, shortest_s / CHECKS_PER_TIMEOUT))
        _look(server.check_connections)
        _look(server.look_at_disk)


async def _sweep(database: Database, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        _look(database.expire_sessions)


def _look(look: Callable[[], None]) -> None:
    try:
        look()
    except Exception:  # the edge of one look: a defect in it must not be the last that anybody sees of the others
        log.exception("a look that is taken from time to time failed in a way that is a defect of ours")
