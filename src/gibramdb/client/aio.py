"""A server through an event loop's streams."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gibramdb.async_opening import Opening
from gibramdb.async_session import AsyncStore
from gibramdb.client.address import DEFAULT_URL, Address, Tls, parse_address
from gibramdb.client.calls import CONNECTIONS_MAX, TIMEOUT_S, Caller, Deadline, Pool, Steps, T, check_connections_max
from gibramdb.model.commands import Command

_RECEIVE_BYTES = 256 * 1024


async def _run(steps: Steps[T]) -> T:
    """To the end: each step is awaited, and what it raises is raised where it was asked for."""
    try:
        waits_for = next(steps)
        while True:
            try:
                value = await waits_for
            except BaseException as error:  # a cancellation too: the steps clean up behind themselves
                waits_for = steps.throw(error)
            else:
                waits_for = steps.send(value)
    except StopIteration as ended:
        result: T = ended.value
        return result


class LoopStream:
    """See calls.Stream."""

    knows_what_left = False
    """The event loop takes the bytes, and says nothing of how far it came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, address: Address, deadline: Deadline) -> LoopStream:
        """Connect. Raises OSError, UnicodeError."""
        name = None if address.tls is None else address.tls_server_name
        async with _until(deadline):
            connected = await _connected(address, deadline)
            return cls(*await asyncio.open_connection(sock=connected, ssl=address.tls, server_hostname=name))

    def is_stale(self) -> bool:
        """See calls.Stream."""
        return self._reader.at_eof() or self._writer.transport.is_closing() or self._is_readable()

    def _is_readable(self) -> bool:
        """Whether something has come that the event loop had no time yet to take: nobody has asked for anything."""
        if not hasattr(select, "poll"):
            return False  # Windows
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    async def send(self, data: bytes, deadline: Deadline) -> None:
        """See calls.Stream."""
        async with _until(deadline):
            self._writer.write(data)
            await self._writer.drain()

    async def receive(self, deadline: Deadline) -> bytes:
        """See calls.Stream."""
        async with _until(deadline):
            return await self._reader.read(_RECEIVE_BYTES)

    def close(self) -> None:
        """See calls.Stream."""
        # Not close: behind a call that is over, the loop would go on sending what the server has not taken yet.
        self._writer.transport.abort()


async def _connected(address: Address, deadline: Deadline) -> socket.socket:
    """A socket to the first of the name's addresses that answers."""
    loop = asyncio.get_running_loop()
    places = address.places() or await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failed: OSError = OSError("the name has no address")
    for index, (family, kind, protocol, _, place) in enumerate(places):
        try:
            connecting = socket.socket(family, kind, protocol)
        except OSError as error:  # the system knows the family's names and not the family
            failed = error
            continue
        try:
            connecting.setblocking(False)
            async with asyncio.timeout(deadline.remaining_s(len(places) - index)):
                await loop.sock_connect(connecting, place)
        except OSError as error:
            connecting.close()
            failed = error
        except BaseException:  # a cancellation too
            connecting.close()
            raise
        else:
            return connecting
    try:
        deadline.remaining_s()  # if that is why
        raise failed
    finally:
        del failed  # see the invariants of `calls`


@asynccontextmanager
async def _until(deadline: Deadline) -> AsyncIterator[None]:
    """Raises the deadline's own error where it passes."""
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            yield
    except TimeoutError:
        raise deadline.passed() from None


class _LoopIo:
    """See calls.Io."""

    def __init__(self, connections_max: int) -> None:
        self._places = asyncio.BoundedSemaphore(check_connections_max(connections_max))

    async def enter(self, deadline: Deadline) -> None:
        if self._places.locked():
            async with _until(deadline):
                await self._places.acquire()
        else:
            await self._places.acquire()  # does not wait

    def leave(self, _: None, /) -> None:
        self._places.release()

    async def open(self, address: Address, deadline: Deadline) -> LoopStream:
        return await LoopStream.open(address, deadline)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class AsyncRemoteExecutor:
    """Takes commands to a server, from one event loop."""

    def __init__(self, caller: Caller[LoopStream]) -> None:
        self._caller = caller

    async def execute(self, command: Command) -> Any:
        """See session.Executor. Raises ConnectionFailedError, OutcomeUnknownError, ProtocolError too."""
        return await _run(self._caller.call(command))

    async def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See session.Executor."""
        return await _run(self._caller.call_batch(batch))

    def with_timeout(self, timeout_s: float) -> AsyncRemoteExecutor:
        """See session.Executor."""
        return AsyncRemoteExecutor(self._caller.with_timeout(timeout_s))

    async def close(self) -> None:
        """See session.Executor."""
        self._caller.close()


def connect_async(
    url: str = DEFAULT_URL,
    *,
    api_key: str | None = None,
    tls: Tls | None = None,
    tls_server_name: str | None = None,
    timeout_s: float = TIMEOUT_S,
    connections_max: int = CONNECTIONS_MAX,
    retry_writes: bool = False,
) -> Opening:
    """As `connect`, for an event loop.

    `async with connect_async(...) as db`, or `db = await connect_async(...)`.
    """

    async def opened() -> AsyncStore:
        address = parse_address(url, api_key=api_key, tls=tls, tls_server_name=tls_server_name)
        store = AsyncStore(
            AsyncRemoteExecutor(
                Caller(address, _LoopIo(connections_max), Pool(), timeout_s, retries_writes=retry_writes)
            )
        )
        await store.ping()
        return store

    return Opening(opened())
