"""The door: sockets that listen, and what becomes of a connection before it can say anything.

Where an address or the server has too many connections, a new one is closed at once, before a handshake costs anything;
or, of the server's, one that has shown no key so far.

Owns: the listening sockets, handshakes under way.
Never: reads what a client says.

Invariants:
- Each connection that was counted in is counted out once, whether its handshake succeeds or not.
- When no descriptor is left, accepting pauses: it neither spins nor floods the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from gibramdb.clock import SystemClock
from gibramdb.config import Address
from gibramdb.errors import StorageError
from gibramdb.server.admission import Admission
from gibramdb.server.connection import Connection

log = logging.getLogger(__name__)

BACKLOG_CONNECTIONS = 1024
ACCEPT_US_MAX = 2_000
LET_IN_MAX = 16
"""So long, and so many, at once: neither may a crowd at the door keep those inside waiting, nor their long turns the
crowd. Who is turned away costs next to nothing, and counts by time alone."""
ACCEPT_PAUSE_S_FIRST, ACCEPT_PAUSE_S_MAX = 0.05, 1.0
TLS_SHUTDOWN_S_MAX = 4.0
"""How long a client may take to receive its last answer and to say goodbye."""

NewConnection = Callable[[str, int], Connection]
"""(address, steady microseconds when it was accepted)."""


async def listen(address: Address) -> list[socket.socket]:
    """Sockets that listen on every address that the host means; who knocks now waits until a Listener accepts.

    Raises:
        StorageError: one of them can not be had.
    """
    sockets: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, where in dict.fromkeys(found):
            try:
                bound = socket.socket(family, kind, protocol)
            except OSError:
                continue  # this machine has no IPv6, say
            sockets.append(bound)
            if sys.platform != "win32":  # there it means that somebody else may listen too
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setblocking(False)
            bound.bind(where)
            bound.listen(BACKLOG_CONNECTIONS)
    except OSError as error:
        for each in sockets:
            each.close()
        raise StorageError(f"server.addr {address}: can not listen there: {error.strerror or error}") from error
    if not sockets:
        raise StorageError(f"server.addr {address}: can not listen there: no such family of addresses here")
    return sockets


class Listener:
    """Accepts until it is closed."""

    def __init__(
        self,
        sockets: list[socket.socket],
        tls: ssl.SSLContext | None,
        handshake_s_max: float,
        admission: Admission,
        new_connection: NewConnection,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._tls = tls
        self._handshake_s_max = handshake_s_max
        self._admission = admission
        self._new_connection = new_connection
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = [loop.create_task(self._accept(each)) for each in sockets]

    def close(self) -> None:
        """Accept no more; handshakes under way are given up."""
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        for each in self._sockets:
            each.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        pause_s = ACCEPT_PAUSE_S_FIRST
        while True:
            try:
                self._enter(*await loop.sock_accept(listening))
                self._enter_more(listening)
            except OSError as error:
                # No descriptor, no memory; or it went away before it was accepted, which can wait as well.
                log.warning("can not accept connections for a moment: %s", error.strerror or error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, ACCEPT_PAUSE_S_MAX)
                continue
            pause_s = ACCEPT_PAUSE_S_FIRST
            await asyncio.sleep(0)

    def _enter_more(self, listening: socket.socket) -> None:
        """Those who have knocked already, as many as one turn takes."""
        until_us = SystemClock().steady_us() + ACCEPT_US_MAX
        let_in = 1
        while let_in < LET_IN_MAX and SystemClock().steady_us() < until_us:
            try:
                accepted, where = listening.accept()
            except BlockingIOError:
                return
            let_in += self._enter(accepted, where)

    def _enter(self, accepted: socket.socket, where: tuple[Any, ...]) -> bool:
        """Returns whether it was let in."""
        peer: str = where[0]
        if not self._admission.enter(peer):
            accepted.close()
            return False
        accepted.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._begin(accepted, peer))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)
        return True

    async def _begin(self, accepted: socket.socket, peer: str) -> None:
        connection = self._new_connection(peer, SystemClock().steady_us())
        if connection.needs_key:
            self._admission.wait_for_key(connection, partial(_drop, connection, asyncio.current_task()))
        try:
            _keep_alive(accepted)
            if self._tls is None:
                await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
            else:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._handshake_s_max,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_S_MAX,
                )
        except asyncio.CancelledError:
            if connection.was_made:
                connection.connection_lost(None)  # uvloop ends it without a word
            raise
        except (OSError, EOFError) as error:  # ssl's errors are of these too; a client that goes away is one of many
            log.debug("a connection was not made", extra={"peer": peer, "why": str(error)})
        finally:
            if not connection.was_made:
                connection.is_given_up = True
                self._admission.forget(connection)
                self._admission.leave(peer)
                with contextlib.suppress(OSError):
                    accepted.close()


def _drop(connection: Connection, handshake: asyncio.Task[None] | None) -> None:
    if connection.was_made:
        connection.abort()
    elif handshake is not None:
        handshake.cancel()


def _keep_alive(accepted: socket.socket) -> None:
    """Have the kernel find out about a machine that is gone without a word; who is only silent answers by itself."""
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        option = getattr(socket, name, None)  # not every system has them all
        if option is not None:
            accepted.setsockopt(socket.IPPROTO_TCP, option, value)
