"""A server through an event loop's streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from gibramdb.async_session import AsyncStore
from gibramdb.client.address import REPLY_BYTES_MAX, Address, parse_address
from gibramdb.client.sync import broken, checked, pipelines, value
from gibramdb.errors import ClosedError, ConnectionFailedError
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

    @classmethod
    async def open(cls, address: Address, timeout_s: float) -> AsyncConnection:
        """Connect. Raises ConnectionFailedError."""
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(address.host, address.port)
        except (OSError, TimeoutError) as error:
            raise ConnectionFailedError(
                f"no server answers at {address}: {error}; start one with `gibramdb serve`"
            ) from error
        return cls(address, reader, writer)

    async def ask(self, command: Command, timeout_s: float) -> Any:
        """As the synchronous one."""
        request_id = self._next_request_id()
        reply = await self._exchange(encode_command(command, request_id), request_id, timeout_s)
        return decode_reply(reply.number, reply.payload, command)

    async def ask_pipeline(self, batch: Sequence[Command], timeout_s: float) -> list[Any]:
        """As the synchronous one."""
        request_id = self._next_request_id()
        reply = await self._exchange(encode_pipeline(batch, request_id), request_id, timeout_s)
        return decode_pipeline_reply(reply.number, reply.payload, batch)

    def _next_request_id(self) -> int:
        self._request_id += 1
        return self._request_id

    async def _exchange(self, frame: bytes, request_id: int, timeout_s: float) -> Reply:
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(frame)
                await self._writer.drain()
                while (body := self._frames.next_frame()) is None:
                    data = await self._stream.read(_RECEIVE_BYTES)
                    if not data:
                        raise ConnectionResetError("the server closed it")
                    self._frames.feed(data)
        except (OSError, TimeoutError) as error:
            raise broken(self._address, str(error) or "timed out") from error
        return checked(read_reply(body), request_id)

    def close(self) -> None:
        """Close the stream."""
        self._writer.close()


class AsyncRemoteExecutor:
    """Takes commands to a server, each call on a connection of its own out of a pool."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._idle: list[AsyncConnection] = []
        self._is_closed = False

    async def execute(self, command: Command) -> Any:
        """See session.Executor. Raises ConnectionFailedError, OutcomeUnknownError, ProtocolError too."""
        return value(await self._with_connection(lambda connection: connection.ask(command, self._timeout_s)))

    async def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See session.Executor. Sent as pipelines, of which the next goes out when the last is answered."""
        answers: list[Any] = []
        for part in pipelines(batch):
            replies = await self._with_connection(
                partial(AsyncConnection.ask_pipeline, batch=part, timeout_s=self._timeout_s)
            )
            answers += map(value, replies)
        return answers

    async def _with_connection(self, call: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
        if self._is_closed:
            raise ClosedError("the client is closed")
        connection = self._idle.pop() if self._idle else await AsyncConnection.open(self._address, self._timeout_s)
        try:
            answer = await call(connection)
        except BaseException:
            connection.close()
            raise
        if self._is_closed:
            connection.close()
        else:
            self._idle.append(connection)
        return answer

    async def close(self) -> None:
        """See session.Executor."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()


async def connect_async(url: str = "gibram://127.0.0.1:6161", *, timeout_s: float = 30.0) -> AsyncStore:
    """As `connect`, for an event loop."""
    store = AsyncStore(AsyncRemoteExecutor(parse_address(url), timeout_s))
    await store.ping()
    return store
