"""Bytes of any kind to the server's end of a connection, with keys and without, and the operator's commands on real files.

The connection is the server's own, and so are the gate of keys and the store, which is in memory or in a temporary
directory. The socket alone is not there: a transport that does what an event loop's would, and is slow when told to.
Bytes choose what comes, in which pieces, and how the client takes its answers; the same bytes make the same run, as far
as threads allow.

What must hold: answers leave in the order of the requests, each an envelope of the protocol, or the connection is closed;
nothing runs before a key is shown, and nothing that its key may not do; the state is what the commands that succeeded make
of it, and what a start reads from the disk; nothing is written outside of the data directory; the store stays well, and
another client is served.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from support.fuzzing import FURNITURE, VECTOR_DIM, Choices, StillTime, chosen_envelope
from support.gate import hash_of

from gibramdb.api_keys import ApiKey
from gibramdb.clock import SystemClock
from gibramdb.config import Config, load_config
from gibramdb.core.digest import state_digest
from gibramdb.database.answers import Answer, Weigh
from gibramdb.database.database import Database
from gibramdb.database.opening import OpenStore, open_store
from gibramdb.errors import GibramError, ProtocolError
from gibramdb.model import commands as c
from gibramdb.model.commands import AdminCommand, Command
from gibramdb.model.ids import NO_LSN
from gibramdb.model.results import Health
from gibramdb.model.scope import SessionScope
from gibramdb.server.app import Server
from gibramdb.server.auth import Found, Gate, Leave
from gibramdb.server.connection import Connection
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import TABLE, CommandNumber, decode_request, encode_command, encode_pipeline, row_of
from gibramdb.wire.framing import HEADER, FrameReader, encode_envelope, encode_frame

SETTLED_S_MAX = 100.0
"""Far longer than anything here takes: beyond it something hangs."""
STEPS_MAX = 60
FRAME_BYTES_MAX = 1 << 16
WRITE_BUFFER_BYTES = 256
"""A slow client's, before the connection is told so."""
PEER = "127.0.0.1"

KEYS: tuple[dict[str, object], ...] = (
    {"id": "operator", "key": "key-operator", "permissions": ["admin"]},
    {"id": "hashed", "key_hash": hash_of("key-hashed"), "permissions": ["write"]},
    {"id": "reader", "key": "key-reader", "permissions": ["read"]},
    {"id": "bound", "key": "key-bound", "permissions": ["admin"], "sessions": ["s", "x*"]},
    {"id": "late", "key": "key-late", "permissions": ["admin"], "expires_at": "2001-01-01T00:00:00Z"},
)
SHOWN = (
    "key-operator",
    "key-operator",
    "key-operator",
    "key-hashed",
    "key-reader",
    "key-bound",
    "key-late",
    "wrong",
    "",
)
_MAY = {
    "key-operator": {"read", "write", "admin", "none"}, "key-hashed": {"read", "write", "none"}, "key-reader": {"read", "none"},
    "key-bound": {"read", "write", "admin", "none"},
}  # fmt: skip
PATHS = (
    "", "copy", "copy", "copy", "a/copy", "none", "../outside", "../../outside", "/outside", ".", "..", "a/../copy",
    "copy/inside", "wal", "snapshots", "LOCK", "x" * 300, "\x00", "c\u00f6py", "link/copy",
)  # fmt: skip
_ADMIN: tuple[Callable[[Choices], Command], ...] = (
    lambda choices: c.Save(choices.one_of(PATHS)),
    lambda choices: c.BackgroundSave(choices.one_of(PATHS)),
    lambda choices: c.Restore(choices.one_of(PATHS)),
    lambda _choices: c.Checkpoint(),
    lambda _choices: c.RotateLog(),
    lambda choices: c.TruncateLog(choices.one_of((0, 1, 500, 2**63, 2**64 - 1))),
    lambda _choices: c.GetBackupStatus(),
    lambda _choices: c.GetLastSave(),
    lambda _choices: c.GetLogStatus(),
)


_KEYS_TEXT = json.dumps(KEYS)
_REPLIES = {row.result.reply for row in TABLE} | {CommandNumber.PIPELINE_RESPONSE, CommandNumber.AUTH_RESPONSE}


class Told(NamedTuple):
    """A command that reached the store, and what the store answered."""

    command: Command
    answer: Answer


class Watched:
    """The database as a connection sees it, and a list of what it was asked and answered."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.told: list[Told] = []
        self.waiting = 0

    def submit(self, command: Command, done: Callable[[Answer], None], weigh: Weigh | None = None) -> bool:
        """As Database."""
        self.waiting += 1

        def answered(answer: Answer) -> None:
            self.waiting -= 1
            self.told.append(Told(command, answer))
            done(answer)

        return self._database.submit(command, answered, weigh)

    def give_up(self, command: Command) -> None:
        """As Database."""
        self._database.give_up(command)

    def may_begin(self, session_id: str, scope: SessionScope, most: int) -> bool:
        """As Database."""
        return self._database.may_begin(session_id, scope, most)

    def submit_batch(
        self,
        items: Iterable[Command | GibramError],
        done: Callable[[list[Answer]], None],
        weigh: Weigh | None = None,
        *,
        is_bounded: bool = False,
    ) -> Callable[[], None]:
        """As Database."""
        self.waiting += 1
        run: list[Command | GibramError] = []

        def noted() -> Iterator[Command | GibramError]:
            for item in items:
                run.append(item)
                yield item

        def answered(answers: list[Answer]) -> None:
            self.waiting -= 1
            for item, answer in zip(run, answers, strict=False):
                if isinstance(item, GibramError):
                    assert answer is item
                else:
                    self.told.append(Told(item, answer))
            done(answers)

        return self._database.submit_batch(noted(), answered, weigh, is_bounded=is_bounded)


class WatchedGate(Gate):
    """Counts the keys that are being checked."""

    def __init__(self, keys: Sequence[ApiKey], rate_burst: int) -> None:
        super().__init__(keys, rate_burst, rate_burst)
        self.waiting: set[Found] = set()

    def identify(self, peer: str, api_key: str, found: Found) -> Leave:
        """See Gate."""
        self.waiting.add(found)

        def told(who: Any) -> None:
            self.waiting.discard(found)
            found(who)

        leave = super().identify(peer, api_key, told)

        def left() -> None:
            self.waiting.discard(found)
            if leave is not None:
                leave()

        return left


class Line(asyncio.Transport):
    """A transport without a socket: what is written is kept, and a client that is slow is told to the connection."""

    def __init__(self, protocol: Connection, a_socket: socket.socket, *, is_encrypted: bool) -> None:
        super().__init__({"socket": a_socket, "sslcontext": object() if is_encrypted else None})
        self._protocol = protocol
        self._is_closing = False
        self._buffered_bytes = 0
        self._is_paused = False
        self.written = bytearray()
        self.is_slow = False
        self.may_read = True

    def deliver(self, data: bytes) -> None:
        """The client's bytes arrive."""
        assert self.may_read
        assert not self._is_closing
        self._protocol.data_received(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""
        assert self._protocol.was_made
        if self._is_closing:
            return
        self.written += data
        if self.is_slow:
            self._buffered_bytes += len(data)
            if self._buffered_bytes > WRITE_BUFFER_BYTES and not self._is_paused:
                self._is_paused = True
                self._protocol.pause_writing()

    def take(self) -> None:
        """The client has taken everything."""
        self._buffered_bytes = 0
        if self._is_paused:
            self._is_paused = False
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        """See asyncio.WriteTransport."""
        return self._buffered_bytes

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        assert self.may_read, "paused twice"
        self.may_read = False

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport."""
        assert not self.may_read, "resumed twice"
        self.may_read = True

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._is_closing

    def close(self) -> None:
        """See asyncio.BaseTransport: what is buffered would still be sent."""
        self._end(None)

    def abort(self) -> None:
        """See asyncio.WriteTransport."""
        self._end(None)

    def reset(self) -> None:
        """The client is gone without a word."""
        self._end(ConnectionResetError("reset"))

    def _end(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, error)


class ConnectionTarget:
    """A server without a socket, a new one for each run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._note)
        self._raised: list[BaseException] = []
        self._sockets = socket.socketpair()

    def close(self) -> None:
        """Let go of the loop and the sockets."""
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        for each in self._sockets:
            each.close()

    def run(self, data: bytes) -> list[Told]:
        """Serve what the bytes choose; what reached the store. Raises AssertionError, or what comes through."""
        root = Path(tempfile.mkdtemp(dir=self._directory))
        try:
            told = self._loop.run_until_complete(asyncio.wait_for(_Run(root, self._sockets[0]).run(data), 200))
        finally:
            shutil.rmtree(root)
        if self._raised:
            raise self._raised.pop()
        return told

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What was raised in a turn of the event loop, where nobody waits for it."""
        self._raised.append(context.get("exception") or AssertionError(context["message"]))


class _Run:
    def __init__(self, root: Path, a_socket: socket.socket) -> None:
        self._root = root
        self._socket = a_socket
        self._sent = bytearray()  # all that the connection was given
        self._shown: list[str] = []
        self._let_in: list[str] = []  # the ids of keys that were accepted
        (root / "data").mkdir()
        (root / "data" / "link").symlink_to(root)

    async def run(self, data: bytes) -> list[Told]:
        choices = Choices(data)
        mode = choices.byte()
        has_keys, is_durable, is_encrypted = bool(mode & 1), bool(mode & 2), bool(mode & 4)
        config = self._config(has_keys=has_keys, is_durable=is_durable)
        store = await self._opened(config)
        self._database = store.database
        for command in FURNITURE:
            assert not isinstance(await self._answer(command), GibramError)
        self._watched = Watched(self._database)
        self._server = Server(config)
        self._server.database = self._watched  # type: ignore[assignment]
        self._gate = WatchedGate(config.auth.keys, 2 if mode & 8 else 10**6) if has_keys else None
        self._server.gate = self._gate
        try:
            await self._serve(choices, is_encrypted=is_encrypted)
            await self._others_are_served()
            self._check_what_ran()
            restored = await self._rested()
            digest, made = self._digest(), self._digest_of_what_was_made()
        finally:
            if self._gate is not None:
                self._gate.close()
            store.close()
        if not restored:
            succeeded = await self._digest_of_what_succeeded()
            assert made == succeeded, f"not the state that these make: {self._watched.told}"
        if is_durable:
            store = await self._opened(config)
            self._database = store.database
            assert self._digest() == digest, "a start reads another state"
            store.close()
        assert {each.name for each in self._root.iterdir()} == {"data"}, "written outside of the data directory"
        return self._watched.told

    def _config(self, *, has_keys: bool, is_durable: bool) -> Config:
        flags = {
            "server.vector_dim": str(VECTOR_DIM),
            "server.data_dir": str(self._root / "data"),
            "session_store.mode": "durable" if is_durable else "ephemeral",
            "security.max_frame_size": str(FRAME_BYTES_MAX),
        }
        environment = {"GIBRAMDB_AUTH__KEYS": _KEYS_TEXT} if has_keys else {}
        return load_config(flags=flags, environment=environment, now_ms=1)

    async def _opened(self, config: Config) -> OpenStore:
        loop = asyncio.get_running_loop()
        return open_store(config, StillTime(), lambda call: _post(loop, call))

    async def _answer(self, command: Command) -> Answer:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._database.submit(command, answered.set_result)
        return await asyncio.wait_for(answered, SETTLED_S_MAX)

    def _digest(self) -> dict[str, str]:
        """Of each session by itself, so that it can be seen where two states differ."""
        sessions = self._database.state.sessions
        return {name: state_digest([session])[0] for name, session in sorted(sessions.items())}

    def _digest_of_what_was_made(self) -> dict[str, str]:
        """The same without the LSNs in it: a marker in a log that rests moves them, and a store in memory has none."""
        begun = {name: session.incarnation for name, session in self._database.state.sessions.items()}
        for name in begun:
            self._database.state.sessions[name].incarnation = NO_LSN
        digest = self._digest()
        for name, incarnation in begun.items():
            self._database.state.sessions[name].incarnation = incarnation
        return digest

    def _connect(self, *, is_encrypted: bool) -> tuple[Connection, Line]:
        assert self._server.admission.enter(PEER)
        connection = Connection(self._server, PEER, SystemClock().steady_us())
        line = Line(connection, self._socket, is_encrypted=is_encrypted)
        connection.connection_made(line)
        return connection, line

    # --- what comes ---------------------------------------------------------------------------------------------------

    async def _serve(self, choices: Choices, *, is_encrypted: bool) -> None:
        connection, line = self._connect(is_encrypted=is_encrypted)
        coming = bytearray()
        for _ in range(STEPS_MAX):
            if choices.is_empty or line.is_closing():
                break
            kind = choices.byte() % 16
            if kind < 5:
                coming += encode_frame(chosen_envelope(choices))
            elif kind < 7:
                coming += encode_command(choices.one_of(_ADMIN)(choices), choices.byte())
            elif kind < 9:
                coming += self._auth(choices)
            elif kind == 9:
                coming += _pipeline(choices)
            elif kind == 10:
                coming += choices.take(choices.byte())
            elif kind == 11:
                line.is_slow = True
            elif kind == 12:
                line.is_slow = bool(choices.byte() & 1)
                line.take()
            elif kind == 13:
                await self._give(line, coming, choices.byte())
            elif kind == 14:
                await self._give(line, coming, len(coming))
                await self._settle(line)
            else:
                self._look(connection, choices)
        await self._give(line, coming, len(coming))
        await self._settle(line)
        line.is_slow = False
        line.take()
        await self._give(line, coming, len(coming))
        await self._settle(line)
        self._check_answers(bytes(line.written), is_open=not line.is_closing())
        if not line.is_closing():
            assert connection.held_bytes == connection._reader.pending_bytes, "what has been taken counts still"
        assert self._server._buffered_bytes == connection.held_bytes
        if choices.byte() & 1:
            connection.leave()
        line.reset()
        await self._settle(line)
        assert connection.held_bytes == 0, "it holds something that nobody will take"

    def _auth(self, choices: Choices) -> bytes:
        key = choices.one_of(SHOWN)
        self._shown.append(key)
        payload = pb.AuthRequest(api_key=key).SerializeToString()
        if choices.byte() == 255:
            payload = payload[:-1] + b"\xff"
        return encode_frame(encode_envelope(choices.byte(), CommandNumber.AUTH, payload))

    def _look(self, connection: Connection, choices: Choices) -> None:
        """The server looks whether the connection's time is over: now, or at the end of each of its times."""
        times = (0, self._server.unauth_timeout_us, self._server.stall_timeout_us, self._server.idle_timeout_us)
        now_us = SystemClock().steady_us()
        for _ in range(2):
            connection.check(now_us + 2 * choices.one_of(times))

    async def _give(self, line: Line, coming: bytearray, count: int) -> None:
        """So many of the bytes that are to come arrive, as far as the connection reads."""
        while coming and count > 0:
            if line.is_closing():
                coming.clear()
                return
            if not line.may_read:
                await self._settle(line)
                if line.is_closing():
                    continue  # it ended meanwhile
                if not line.may_read:
                    return
            piece = bytes(coming[: min(count, 1 << 12)])
            del coming[: len(piece)]
            count -= len(piece)
            self._sent += piece
            line.deliver(piece)

    async def _settle(self, line: Line) -> None:
        """Until nothing more happens by itself."""
        until_us = SystemClock().steady_us() + int(SETTLED_S_MAX * 1e6)
        quiet = 0
        before = (-1, -1)
        while quiet < 4:
            assert SystemClock().steady_us() < until_us, "an answer does not come"
            is_waiting = self._watched.waiting or (self._gate is not None and self._gate.waiting)
            await asyncio.sleep(0.0002 if is_waiting else 0)
            now = (len(line.written), len(self._watched.told))
            quiet = 0 if is_waiting or now != before else quiet + 1
            before = now

    # --- what must hold -----------------------------------------------------------------------------------------------

    def _check_answers(self, written: bytes, *, is_open: bool) -> None:
        """Whole envelopes, in the order of what was asked; all of them, while the connection is open."""
        expected: list[int] = []
        reader = FrameReader(FRAME_BYTES_MAX)
        reader.feed(bytes(self._sent))
        is_sound = True
        try:
            while (body := reader.next_frame()) is not None:
                expected.append(decode_request(body).request_id)
        except ProtocolError:
            is_sound = False
        answers = FrameReader(1 << 27)
        answers.feed(written)
        found: list[int] = []
        while (body := answers.next_frame()) is not None:
            reply = pb.Envelope.FromString(body)
            assert reply.cmd_type == CommandNumber.ERROR or reply.cmd_type in _REPLIES, reply.cmd_type
            found.append(reply.request_id)
            if reply.cmd_type == CommandNumber.AUTH_RESPONSE:
                accepted = pb.AuthResponse.FromString(reply.payload)
                if accepted.success:
                    self._let_in.append(f"key-{accepted.key_id}")
        assert answers.pending_bytes == 0, "half an answer"
        assert len(found) <= len(expected)
        for asked, answered in zip(expected, found, strict=False):
            assert answered == asked or (asked == 0 and answered > 0)
        if is_open:
            assert is_sound, "it is open behind bytes that are not the protocol"
            assert len(found) == len(expected), "a request without an answer"

    def _check_what_ran(self) -> None:
        if self._gate is None:
            return
        assert len(self._let_in) <= 1, "one connection was let in twice"
        keys = set(self._let_in or self._shown)  # whom it took for whom is not told to a client that went away first
        allowed = {permission for key in keys for permission in _MAY.get(key, ())}
        for command, _ in self._watched.told:
            row = row_of(command)
            assert row.permission in allowed, f"{row.name} ran with {keys}"
            if keys == {"key-bound"}:
                session_id = getattr(command, "session_id", "s")
                is_of_many = row.session_rule == "unused" or isinstance(command, c.GetInfo)
                assert session_id == "s" or session_id.startswith("x") or is_of_many, (
                    f"{row.name} ran in {session_id!r}"
                )
                assert not isinstance(command, AdminCommand), f"{row.name} ran for a key that is bound"

    async def _others_are_served(self) -> None:
        self._server.gate = None  # an address that showed wrong keys has to pause, and so would this one
        _, line = self._connect(is_encrypted=False)
        line.deliver(encode_pipeline([c.Ping(), c.GetHealth(), c.ListSessions()], 7))
        await self._settle(line)
        reply = pb.Envelope.FromString(bytes(line.written[HEADER.size :]))
        assert (reply.request_id, reply.cmd_type) == (7, CommandNumber.PIPELINE_RESPONSE)
        assert len(pb.PipelineRequest.FromString(reply.payload).commands) == 3
        self._watched.told = self._watched.told[:-3]
        line.close()
        await self._settle(line)

    async def _rested(self) -> bool:
        """What runs in the background has ended; whether a restore was among it."""
        restores = any(
            isinstance(each.command, c.Restore) and not isinstance(each.answer, GibramError)
            for each in self._watched.told
        )
        until_us = SystemClock().steady_us() + int(SETTLED_S_MAX * 1e6)
        while True:
            status = await self._answer(c.GetBackupStatus())
            if isinstance(status, GibramError) or not status.in_progress:  # type: ignore[union-attr]
                break
            assert SystemClock().steady_us() < until_us, "a save or a restore does not end"
            await asyncio.sleep(0.001)
        health = await self._answer(c.GetHealth())
        assert isinstance(health, Health)
        assert health.status != "error", health
        return restores

    async def _digest_of_what_succeeded(self) -> dict[str, str]:
        """Of a store in memory that is told what succeeded, and nothing else."""
        (self._root / "data" / "twin").mkdir(exist_ok=True)
        flags = {"server.vector_dim": str(VECTOR_DIM), "server.data_dir": str(self._root / "data" / "twin")}
        twin = await self._opened(load_config(flags=flags))
        self._database = twin.database
        for command in FURNITURE:
            await self._answer(command)
        for command, answer in self._watched.told:
            if not isinstance(answer, GibramError) and not isinstance(command, AdminCommand):
                assert not isinstance(again := await self._answer(command), GibramError), (command, again)
        digest = self._digest_of_what_was_made()
        twin.close()
        return digest


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(call)


def _pipeline(choices: Choices) -> bytes:
    parts: list[bytes] = []
    for _ in range(choices.byte() % 6):
        kind = choices.byte() % 8
        if kind == 0:
            parts.append(encode_command(choices.one_of(_ADMIN)(choices), choices.byte())[HEADER.size :])
        elif kind == 1:
            number = choices.one_of((CommandNumber.AUTH, CommandNumber.PIPELINE, CommandNumber.OK, 9_999))
            parts.append(encode_envelope(choices.byte(), number, b"\x0a\x0ckey-operator"))
        else:
            parts.append(chosen_envelope(choices))
    payload = pb.PipelineRequest(commands=parts).SerializeToString()
    return encode_frame(encode_envelope(choices.byte(), CommandNumber.PIPELINE, payload, choices.one_of(("s", ""))))


def connection_seeds() -> Iterator[bytes]:
    """With and without keys, in memory and on disk: each of the operator's commands, and long runs of anything."""
    source = random.Random(1)
    for mode in range(8):
        begin = bytes((mode, 7, 0, 0, 1))  # shows the operator's key
        for number in range(len(_ADMIN)):
            for path in (1, 5, 6, 8, 11):
                save = bytes((5, 0, 1, 2))
                yield begin + save + bytes((5, number, path, 3, 14)) + source.randbytes(40)
        for size in (20, 60, 120, 300, 600):
            for shown in range(len(SHOWN)):
                yield bytes((mode, 7, shown, 0, 1)) + source.randbytes(size)
            yield bytes((mode,)) + source.randbytes(size)
