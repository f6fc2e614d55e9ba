"""A server through a blocking socket. Thread-safe: each call takes a connection of its own out of a pool."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from gibramdb.client.address import REPLY_BYTES_MAX, Address, parse_address
from gibramdb.clock import SystemClock
from gibramdb.errors import ClosedError, ConnectionFailedError, GibramError, OutcomeUnknownError, ProtocolError
from gibramdb.model.commands import Command, ReadCommand
from gibramdb.session import Store
from gibramdb.wire.codec import (
    Reply,
    decode_pipeline_reply,
    decode_reply,
    encode_command,
    encode_pipeline,
    read_reply,
)
from gibramdb.wire.framing import FrameReader

PIPELINE_COMMANDS_MAX = 5_000
PIPELINE_BYTES_MAX = 2 * 1024 * 1024
"""Commands in one pipeline, and about their bytes: half of what a server takes by default."""
_RECEIVE_BYTES = 256 * 1024
_steady_us = SystemClock().steady_us


def pipelines(batch: Sequence[Command]) -> Iterator[Sequence[Command]]:
    """The batch in parts that a server takes in one frame."""
    start = size_bytes = 0
    for index, command in enumerate(batch):
        command_bytes = len(encode_command(command, index))
        if index - start == PIPELINE_COMMANDS_MAX or (
            index > start and size_bytes + command_bytes > PIPELINE_BYTES_MAX
        ):
            yield batch[start:index]
            start, size_bytes = index, 0
        size_bytes += command_bytes
    if start < len(batch):
        yield batch[start:]


def broken(address: Address, why: str) -> OutcomeUnknownError:
    """The connection ended between a request and its answer."""
    return OutcomeUnknownError(
        f"the connection to {address} broke: {why}; what was under way may or may not have been carried out"
    )


def checked(reply: Reply, request_id: int) -> Reply:
    """The reply, which must be the one to this request."""
    if reply.request_id != request_id:
        raise ProtocolError(f"expected the answer to request {request_id}, got one to {reply.request_id}")
    return reply


def value(answer: Any) -> Any:
    """The answer, or raised if it is an error."""
    if isinstance(answer, GibramError):
        raise answer
    return answer


def is_read(batch: Sequence[Command]) -> bool:
    """Whether asking twice changes nothing."""
    return all(isinstance(command, ReadCommand) for command in batch)


class Deadline:
    """When a call has to be over, however many waits it is made of."""

    def __init__(self, timeout_s: float) -> None:
        self._end_us = _steady_us() + int(timeout_s * 1e6)

    def remaining_s(self) -> float:
        """Above 0. Raises TimeoutError."""
        remaining_us = self._end_us - _steady_us()
        if remaining_us <= 0:
            raise TimeoutError("timed out")
        return remaining_us / 1e6


class Connection:
    """One socket, used by one call at a time. After any fault it is closed: its next bytes answer somebody else."""

    def __init__(self, address: Address, deadline: Deadline) -> None:
        try:
            self._socket = socket.create_connection(address, deadline.remaining_s())
        except OSError as error:
            raise ConnectionFailedError(
                f"no server answers at {address}: {error}; start one with `gibramdb serve`"
            ) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._address = address
        self._reader = FrameReader(REPLY_BYTES_MAX)
        self._request_id = 0
        self.broke_unanswered = False
        """The server ended it before the first byte of an answer: a read may be asked again elsewhere."""

    def is_stale(self) -> bool:
        """Whether the server has closed it since the last answer, or says something that nobody asked for."""
        try:
            self._socket.settimeout(0)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def ask(self, command: Command, deadline: Deadline) -> Any:
        """Send one command; the error that it was refused with is a value."""
        request_id = self._next_request_id()
        reply = self._exchange(encode_command(command, request_id), request_id, deadline)
        return decode_reply(reply.number, reply.payload, command)

    def ask_pipeline(self, batch: Sequence[Command], deadline: Deadline) -> list[Any]:
        """Send commands in one frame; what is answered ends at the first that is refused."""
        request_id = self._next_request_id()
        reply = self._exchange(encode_pipeline(batch, request_id), request_id, deadline)
        return decode_pipeline_reply(reply.number, reply.payload, batch)

    def _next_request_id(self) -> int:
        self._request_id += 1
        return self._request_id

    def _exchange(self, frame: bytes, request_id: int, deadline: Deadline) -> Reply:
        has_answer_begun = False
        try:
            self._socket.settimeout(deadline.remaining_s())
            self._socket.sendall(frame)
            while (body := self._reader.next_frame()) is None:
                self._socket.settimeout(deadline.remaining_s())
                data = self._socket.recv(_RECEIVE_BYTES)
                if not data:
                    raise ConnectionResetError("the server closed it")
                has_answer_begun = True
                self._reader.feed(data)
        except OSError as error:
            self.broke_unanswered = not has_answer_begun and not isinstance(error, TimeoutError)
            raise broken(self._address, str(error)) from error
        return checked(read_reply(body), request_id)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class RemoteExecutor:
    """Takes commands to a server."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._owner_pid = os.getpid()
        self._is_closed = False

    def execute(self, command: Command) -> Any:
        """See session.Executor. Raises ConnectionFailedError, OutcomeUnknownError, ProtocolError too."""
        return value(self._ask((command,), lambda connection, deadline: connection.ask(command, deadline)))

    def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        """See session.Executor. Sent as pipelines, of which the next goes out when the last is answered."""
        answers: list[Any] = []
        for part in pipelines(batch):
            answers += map(value, self._ask(part, partial(_ask_pipeline, part)))
        return answers

    def _ask(self, batch: Sequence[Command], call: Callable[[Connection, Deadline], Any]) -> Any:
        deadline = Deadline(self._timeout_s)
        connection = self._take(deadline)
        try:
            return self._finish(connection, call, deadline)
        except OutcomeUnknownError:
            if not connection.broke_unanswered or not is_read(batch):
                raise
        return self._finish(Connection(self._address, deadline), call, deadline)

    def _finish(self, connection: Connection, call: Callable[[Connection, Deadline], Any], deadline: Deadline) -> Any:
        try:
            answer = call(connection, deadline)
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)
        return answer

    def _take(self, deadline: Deadline) -> Connection:
        while (connection := self._take_idle()) is not None:
            if not connection.is_stale():
                return connection
            connection.close()
        return Connection(self._address, deadline)

    def _take_idle(self) -> Connection | None:
        with self._lock:
            if self._is_closed:
                raise ClosedError("the client is closed")
            if os.getpid() != self._owner_pid:
                # A forked child shares its parent's sockets: answers would reach the wrong one. It opens its own.
                self._idle, self._owner_pid = [], os.getpid()
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """See session.Executor."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _ask_pipeline(batch: Sequence[Command], connection: Connection, deadline: Deadline) -> list[Any]:
    return connection.ask_pipeline(batch, deadline)


def connect(url: str = "gibram://127.0.0.1:6161", *, timeout_s: float = 30.0) -> Store:
    """A server's store, with the same methods as an embedded one.

    Args:
        url: `gibram://host:port`.
        timeout_s: how long each call may take, connecting included; where one sends several pipelines, each of them.

    Raises:
        ConfigError: the address is not one.
        ConnectionFailedError: no server answers there.
    """
    store = Store(RemoteExecutor(parse_address(url), timeout_s))
    store.ping()
    return store
