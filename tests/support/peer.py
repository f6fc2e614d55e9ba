"""A server that is told what to answer: real sockets, real frames, and nothing behind them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from gibramdb.wire.codec import CommandNumber, Request, decode_request
from gibramdb.wire.framing import FrameReader, encode_reply

Answer = Callable[[Request, socket.socket], bool]
"""Answers one request on its socket; whether the connection goes on."""


def pong(request: Request, connection: socket.socket) -> bool:
    """What a server says to PING."""
    connection.sendall(encode_reply(request.request_id, CommandNumber.PONG, b""))
    return True


class Peer:
    """Listens on a free port of the loopback, a thread for each connection, until `__exit__`."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._answer = answer
        self._tls = tls
        self.requests: list[Request] = []
        self.connections = 0
        """How many there have been."""
        self.connections_peak = 0
        """How many there were at a time."""
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"gibram://127.0.0.1:{self.port}"
        self.is_over = threading.Event()
        self._threads = [threading.Thread(target=self._listen)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # the client may have gone
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(60)

    @property
    def numbers(self) -> list[int]:
        """Of the commands that have come."""
        return [request.number for request in self.requests]

    def _listen(self) -> None:
        while not self.is_over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        with self._lock:
            self._open.append(plain)
            self.connections += 1
            self.connections_peak = max(self.connections_peak, len(self._open))
        connection = plain
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(plain, server_side=True)
                with self._lock:
                    self._open[self._open.index(plain)] = connection
            self._answer_all(connection)
        except OSError:
            pass  # the client is gone, does not trust us, or speaks no TLS
        finally:
            with self._lock:
                self._open = [each for each in self._open if each is not plain and each is not connection]
            connection.close()
            plain.close()

    def _answer_all(self, connection: socket.socket) -> None:
        reader = FrameReader(1 << 24)
        while True:
            while (body := reader.next_frame()) is None:
                data = connection.recv(65_536)
                if not data:
                    return
                reader.feed(data)
            request = decode_request(body)
            with self._lock:
                self.requests.append(request)
            if not self._answer(request, connection):
                return
