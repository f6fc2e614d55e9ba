"""Keys, and a connection of frames to a server that asks for them."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import bcrypt

from gibramdb.model.commands import Command
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import encode_command
from gibramdb.wire.framing import FrameReader, encode_envelope, encode_frame


def hash_of(key: str, cost: int = 4) -> str:
    """As an operator writes it in place of the key."""
    return bcrypt.hashpw(key.encode(), bcrypt.gensalt(cost)).decode()


def entry(id: str, *permissions: str, **more: object) -> dict[str, object]:
    """An entry of auth.keys; its key is its id behind `key-`, unless there is a hash."""
    proof = {} if "key_hash" in more else {"key": f"key-{id}"}
    return {"id": id, "permissions": permissions, **proof, **more}


def config_file(directory: Path, keys: Sequence[dict[str, object]], **sections: Mapping[str, object]) -> str:
    """The path of a configuration with these keys. JSON is YAML."""
    path = directory / "gibramdb.yaml"
    path.write_text(json.dumps({"auth": {"keys": keys}, **sections}))
    return str(path)


def encode_auth(key: str, request_id: int = 7) -> bytes:
    """The frame that says who it is."""
    return encode_frame(encode_envelope(request_id, N.AUTH, pb.AuthRequest(api_key=key).SerializeToString()))


class Frames:
    """A connection that says what it is told to, and hears what the server says."""

    def __init__(self, port: int, key: str = "", timeout_s: float = 60.0, tls: ssl.SSLContext | None = None) -> None:
        """key: what to authenticate with, which must succeed; nothing for not yet."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self._reader = FrameReader(1 << 27)
        if key:
            assert self.auth(key).success

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, number: int, payload: bytes = b"", session_id: str = "", request_id: int = 7) -> None:
        """One request."""
        self.socket.sendall(encode_frame(encode_envelope(request_id, number, payload, session_id)))

    def ask(self, number: int, payload: bytes = b"", session_id: str = "", request_id: int = 7) -> pb.Envelope:
        """One request and its reply."""
        self.send(number, payload, session_id, request_id)
        return self.reply()

    def run(self, command: Command) -> pb.Envelope:
        """One command and its reply."""
        self.socket.sendall(encode_command(command, 7))
        return self.reply()

    def reply(self, bytes_at_once: int = 1 << 20, pause_s: float = 0.0) -> pb.Envelope:
        """The next reply, taken bit by bit."""
        while (body := self._reader.next_frame()) is None:
            time.sleep(pause_s)
            data = self.socket.recv(bytes_at_once)
            assert data, "the server closed the connection"
            self._reader.feed(data)
        return pb.Envelope.FromString(body)

    def auth(self, key: str, request_id: int = 7) -> pb.AuthResponse:
        """Say who it is."""
        reply = self.ask(N.AUTH, pb.AuthRequest(api_key=key).SerializeToString(), request_id=request_id)
        assert (reply.cmd_type, reply.request_id) == (N.AUTH_RESPONSE, request_id)
        return pb.AuthResponse.FromString(reply.payload)

    def is_closed(self) -> bool:
        """Whether nothing more comes: waits for the end, or for a byte."""
        try:
            return not self.socket.recv(1)
        except ConnectionResetError:
            return True


def error_of(reply: pb.Envelope) -> tuple[int, str]:
    """Code and message of a refusal; (0, "") of any other reply."""
    if reply.cmd_type != N.ERROR:
        return 0, ""
    error = pb.Error.FromString(reply.payload)
    return error.code, error.message
