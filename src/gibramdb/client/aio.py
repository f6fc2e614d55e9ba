"""A server through an event loop's streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from gibramdb.async_session import AsyncStore
from gibramdb.client.address import REPLY_BYTES_MAX, Address, parse_address
from gibramdb.client.sync import broken, checked, is_read, pipelines, value
from gibramdb.errors import ClosedError, ConnectionFailedError, OutcomeUnknownError
from gibramdb.model.commands import Command
from gibramdb.wire.codec import (
    Reply,
    decode_pipeline_reply,
    decode_reply,
    encode_command,
    encode_pipeline,
    read_reply,
)
from gibramdb.wire.framing import FrameReader

_RECEIVE_BYTES = 256 * 1024


class AsyncConnection:
    """One stream, used by one call at a time; closed after any fault, a cancelled call among them."""

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._address = address
        self._stream = reader
        self._writer = writer
        self._frames = FrameReader(REPLY_BYTES_MAX)
        self._request_id = 0
        self.broke_unanswered = False
        """As the synchronous one."""

    @classmethod
    async def open(cls, address: Address, deadline_s: float) -> AsyncConnection:
        """Connect, before the loop's clock shows `deadline_s`. Raises ConnectionFailedError."""
        try:
            async with asyncio.timeout_at(deadline_s):
                reader, writer = await asyncio.open_connection(address.host, address.port)
        except OSError as error:
            raise ConnectionFailedError(
                f"no server answers at {address}: {str(error) or 'timed out'}; start one with `gibramdb serve`"
            ) from error
        return cls(address, reader, writer)

    def is_stale(self) -> bool:
        """As the synchronous one, as far as the event loop has noticed."""
        return self._stream.at_eof() or self._writer.transport.is_closing()

    async def ask(self, command: Command, deadline_s: float) -> Any:
        """As the synchronous one."""
        request_id = self._next_request_id()
        reply = await self._exchange(encode_command(command, request_id), request_id, deadline_s)
        return decode_reply(reply.number, reply.payload, command)

    async def ask_pipeline(self, batch: Sequence[Command], deadline_s: float) -> list[Any]:
        """As the synchronous one."""
        request_id = self._next_request_id()
        reply = await self._exchange(encode_pipeline(batch, request_id), request_id, deadline_s)
        return decode_pipeline_reply(reply.number, reply.payload, batch)

    def _next_request_id(self) -> int:
        self._request_id += 1
        return self._request_id

    async def _exchange(self, frame: bytes, request_id: int, deadline_s: float) -> Reply:
        has_answer_begun = False
        try:
            async with asyncio.timeout_at(deadline_s):
                self._writer.write(frame)
                await self._writer.drain()
                while (body := self._frames.next_frame()) is None:
                    data = await self._stream.read(_RECEIVE_BYTES)
                    if not data:
                        raise ConnectionResetError("the server closed it")
                    has_answer_begun = True
                    self._frames.feed(data)
        except OSError as error:
            self.broke_unanswered = not has_answer_begun and not isinstance(error, TimeoutError)
            raise broken(self._address, str(error) or "timed out") from error
        return checked(read_reply(body), request_id)

    def close(self) -> None:
        """Close the stream."""
        self._writer.close()


_Call = Callable[[AsyncConnection, float], Awaitable[Any]]


class AsyncRemoteExecutor:
    """Takes commands to a server, each call on a connection of its own out of a pool."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._idle: list[AsyncConnection] = []
        self._is_closed = False

    async def execute(self, command: Command) -> Any:
        """See session.Executor. Raises ConnectionFailedError, OutcomeUnknownError, ProtocolError too."""
        return value(await self._ask((command,), lambda connection, deadline_s: connection.ask(command, deadline_s)))

    async def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See session.Executor. Sent as pipelines, of which the next goes out when the last is answered."""
        answers: list[Any] = []
        for part in pipelines(batch):
            answers += map(value, await self._ask(part, partial(_ask_pipeline, part)))
        return answers

    async def _ask(self, batch: Sequence[Command], call: _Call) -> Any:
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        connection = await self._take(deadline_s)
        try:
            return await self._finish(connection, call, deadline_s)
        except OutcomeUnknownError:
            if not connection.broke_unanswered or not is_read(batch):
                raise
        return await self._finish(await AsyncConnection.open(self._address, deadline_s), call, deadline_s)

    async def _finish(self, connection: AsyncConnection, call: _Call, deadline_s: float) -> Any:
        try:
            answer = await call(connection, deadline_s)
        except BaseException:
            connection.close()
            raise
        if self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)
        return answer

    async def _take(self, deadline_s: float) -> AsyncConnection:
        if self._is_closed:
            raise ClosedError("the client is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()
        return await AsyncConnection.open(self._address, deadline_s)

    async def close(self) -> None:
        """See session.Executor."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()


async def _ask_pipeline(batch: Sequence[Command], connection: AsyncConnection, deadline_s: float) -> list[Any]:
    return await connection.ask_pipeline(batch, deadline_s)


async def connect_async(url: str = "gibram://127.0.0.1:6161", *, timeout_s: float = 30.0) -> AsyncStore:
    """As `connect`, for an event loop."""
    store = AsyncStore(AsyncRemoteExecutor(parse_address(url), timeout_s))
    await store.ping()
    return store
