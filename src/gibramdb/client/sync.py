"""A server through blocking sockets. Thread-safe."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from gibramdb.client.address import DEFAULT_URL, Address, Tls, parse_address
from gibramdb.client.calls import CONNECTIONS_MAX, TIMEOUT_S, Caller, Deadline, Pool, Steps, T, check_connections_max
from gibramdb.model.commands import Command
from gibramdb.session import Store

_RECEIVE_BYTES = 256 * 1024
LOOK_EVERY_S = 0.05
"""Who waits for a place looks so often too: one that was given up by an interrupted call rings no bell."""


def _run(steps: Steps[T]) -> T:
    """To the end: each step has waited when it is yielded."""
    value: Any = None
    try:
        while True:
            value = steps.send(value)
    except StopIteration as ended:
        result: T = ended.value
        return result


class SocketStream:
    """See calls.Stream."""

    knows_what_left = True

    def __init__(self, address: Address, deadline: Deadline) -> None:
        self._socket = _connected(address, deadline)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.tls is not None:
                self._socket.settimeout(deadline.remaining_s())
                self._socket = address.tls.wrap_socket(self._socket, server_hostname=address.tls_server_name)
        except TimeoutError:
            self._socket.close()
            raise deadline.passed() from None
        except BaseException:
            self._socket.close()
            raise

    def is_stale(self) -> bool:
        """See calls.Stream."""
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            pass
        return True

    def send(self, data: bytes, deadline: Deadline) -> None:
        """See calls.Stream."""
        self._socket.settimeout(deadline.remaining_s())
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise deadline.passed() from None

    def receive(self, deadline: Deadline) -> bytes:
        """See calls.Stream."""
        self._socket.settimeout(deadline.remaining_s())
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except TimeoutError:
            raise deadline.passed() from None

    def close(self) -> None:
        """See calls.Stream."""
        self._socket.close()


def _connected(address: Address, deadline: Deadline) -> socket.socket:
    """A socket to the first of the name's addresses that answers."""
    places = _resolved(address, deadline)
    failed: OSError = OSError("the name has no address")
    for index, (family, kind, protocol, _, place) in enumerate(places):
        try:
            connecting = socket.socket(family, kind, protocol)
        except OSError as error:  # the system knows the family's names and not the family
            failed = error
            continue
        try:
            connecting.settimeout(deadline.remaining_s(len(places) - index))
            connecting.connect(place)
        except OSError as error:
            connecting.close()
            failed = error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    deadline.remaining_s()  # if that is why
    raise failed


def _resolved(address: Address, deadline: Deadline) -> Sequence[tuple[Any, ...]]:
    """As socket.getaddrinfo, which has no end of its own: so it is left to a thread that may outlast the call."""
    if places := address.places():
        return places
    found: queue.SimpleQueue[Sequence[tuple[Any, ...]] | Exception] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            found.put(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))
        except Exception as error:  # raised where it was asked for
            found.put(error)

    threading.Thread(target=resolve, name="gibramdb-resolve", daemon=True).start()
    try:
        answer = found.get(timeout=deadline.remaining_s())
    except queue.Empty:
        raise deadline.passed() from None
    if isinstance(answer, Exception):
        raise answer
    return answer


class _Place:
    """One call's, until it says so, or is gone."""

    is_left = False


class _SocketIo:
    """See calls.Io.

    A Ctrl-C may end a call between any two steps, so nothing counts on a last step being taken: places that nobody
    refers to any more are free, and the locks are the interpreter's own, which `with` can not leave behind. Python's
    semaphore, interrupted at the wrong moment, stays locked for good.
    """

    def __init__(self, connections_max: int) -> None:
        self._connections_max = check_connections_max(connections_max)
        self._begin()

    def _begin(self) -> None:
        self._taken: list[weakref.ref[_Place]] = []
        self._lock = threading.Lock()
        self._bell = threading.Lock()  # released when a place has become free: one of those who wait looks then
        self._owner_pid = os.getpid()

    def enter(self, deadline: Deadline) -> _Place:
        if os.getpid() != self._owner_pid:
            # The places that other threads held when this process was forked off: nobody here would give them back.
            self._begin()
        place = _Place()
        while not self._takes(place):
            self._bell.acquire(timeout=min(LOOK_EVERY_S, deadline.remaining_s()))
        return place

    def _takes(self, place: _Place) -> bool:
        with self._lock:
            self._taken = [each for each in self._taken if (held := each()) is not None and not held.is_left]
            if len(self._taken) == self._connections_max:
                return False
            self._taken.append(weakref.ref(place))
            return True

    def leave(self, place: _Place, /) -> None:
        place.is_left = True
        with contextlib.suppress(RuntimeError):  # it rings already
            self._bell.release()

    def open(self, address: Address, deadline: Deadline) -> SocketStream:
        return SocketStream(address, deadline)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


class RemoteExecutor:
    """Takes commands to a server."""

    def __init__(self, caller: Caller[SocketStream]) -> None:
        self._caller = caller

    def execute(self, command: Command) -> Any:
        """See session.Executor. Raises ConnectionFailedError, OutcomeUnknownError, ProtocolError too."""
        return _run(self._caller.call(command))

    def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See session.Executor."""
        return _run(self._caller.call_batch(batch))

    def with_timeout(self, timeout_s: float) -> RemoteExecutor:
        """See session.Executor."""
        return RemoteExecutor(self._caller.with_timeout(timeout_s))

    def close(self) -> None:
        """See session.Executor."""
        self._caller.close()


def connect(
    url: str = DEFAULT_URL,
    *,
    api_key: str | None = None,
    tls: Tls | None = None,
    tls_server_name: str | None = None,
    timeout_s: float = TIMEOUT_S,
    connections_max: int = CONNECTIONS_MAX,
    retry_writes: bool = False,
) -> Store:
    """A server's store, with the same methods as an embedded one. docs/client.md has it all.

    Args:
        url: `gibram://[key@]host[:port]`, or `gibrams://` for TLS.
        api_key: the key, if the server asks for one and it is not in the address.
        tls: True for TLS by the system's roots; the path of a file with the certificates to trust instead, an
            authority's or the server's own; or a context of your own.
        tls_server_name: the name to expect in the certificate, where it is another than the host's.
        timeout_s: how long each call may take, connecting included; one of many commands as long as it waits for the
            next answer.
        connections_max: how many connections to keep at most; further calls wait for one.
        retry_writes: mark each write with a token of its own, and ask again when its answer is lost, as long as the
            call's time lasts; the server carries it out once. Every call then waits as long for a server that has
            answered before and is away. Costs some 40 bytes a write in the log and in memory.

    Raises:
        ConfigError: the address is not one, or the certificates can not be read.
        InvalidArgumentError: `timeout_s` or `connections_max` is not above 0.
        ConnectionFailedError: no server answers there, or it is not trusted.
        AuthenticationError: it does not accept the key, or asks for one.
    """
    address = parse_address(url, api_key=api_key, tls=tls, tls_server_name=tls_server_name)
    store = Store(
        RemoteExecutor(Caller(address, _SocketIo(connections_max), Pool(), timeout_s, retries_writes=retry_writes))
    )
    store.ping()
    return store
