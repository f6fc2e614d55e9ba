"""Certificates made for a test, and a server's front that speaks TLS with them and hands everything on."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme


class Authority:
    """An authority of its own, and certificates of it, in files."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))
        self._directory = directory

    def issue(self, *names: str) -> tuple[Path, ssl.SSLContext]:
        """The file of a server's certificate for these names, and the context that serves it."""
        certificate = self._ca.issue_cert(*names)
        file = self._directory / f"{names[0]}.pem"
        certificate.cert_chain_pems[0].write_to_path(str(file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return file, context


class TlsFront:
    """Listens with TLS on a free port of the loopback and hands everything on to another."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._target = ("127.0.0.1", port)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen)]
        self.handshakes = 0
        """How many were begun."""
        self.versions: list[str | None] = []
        """Of the protocol, as each client agreed to."""

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            _end(each)
        for thread in self._threads:
            thread.join(10)

    def _listen(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.handshakes += 1
            self._start(self._serve, plain)

    def _start(self, target: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _serve(self, plain: socket.socket) -> None:
        try:
            near = self._context.wrap_socket(plain, server_side=True)
        except OSError:
            plain.close()  # it does not trust us, or speaks no TLS
            return
        self.versions.append(near.version())
        far = socket.create_connection(self._target)
        self._sockets += (near, far)
        self._start(_pump, far, near)
        _pump(near, far)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    _end(source)
    _end(target)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
