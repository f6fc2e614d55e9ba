"""Frames as heavy as the limit allows: what one of them may cost the connection's turn, and memory.

Bytes choose a command, a piece of its message (a field, an item, bytes of any kind, one letter of a text) or of a pipeline
(a member), and repeat it until the frame is full. The store holds objects with many links, so that small reads have large
answers.

What must hold: the frame is answered or ends the connection, and another client is served; no turn of the event loop takes
longer than a frame may, by the thread's own time, which busy neighbours do not lengthen; the process has not grown by more
than a frame and its answer explain.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVarTuple, Unpack

import msgspec
from google.protobuf.message import DecodeError
from support.connection_fuzzing import PEER, Line
from support.fuzzing import REQUESTS, VECTOR_DIM, Choices, StillTime, chosen_envelope
from support.timing import slowness

from gibramdb.clock import SystemClock
from gibramdb.config import Config, load_config
from gibramdb.database.opening import open_store
from gibramdb.errors import CallerError, GibramError, ProtocolError
from gibramdb.model import commands as c
from gibramdb.model.commands import Command
from gibramdb.model.knowledge import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.server.app import Server
from gibramdb.server.connection import Connection
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import TABLE, CommandNumber, Row, decode_command, decode_request
from gibramdb.wire.framing import HEADER, encode_envelope, encode_frame, varint

FRAME_BYTES_MAX = 1 << 20
PIECE_BYTES = 1 << 16
"""What arrives in one turn."""
LINKS = 700
"""Of each of the objects that have the id 1."""

TURN_MS_MAX = 80
"""For anything but what a single command lists: several times what it takes."""
ITEM_US_MAX = 3
"""For each object or id that a single command names, up to 100,000: what one command does is not cut."""
ANSWER_MS_PER_MB = 2
"""To put it together."""
TRIES = 4
"""Of a frame whose turn was long: a busy neighbour can spoil one. What is long for a reason of its own is so each time."""
GROWTH_BYTES_MAX = 96 << 20
"""Beside what the answer takes; 100,000 objects to add are 30 MB."""

_UNITS = (b"a", b"\x01", b"\x00", b"\xff", "\u00df".encode(), "\u3000".encode(), b"\x08\x01", b"\x0a\x00", b"\x80")
_RUNS = (1, 2, 20, 200, 5_000, 100_000)
_READS = tuple(row for row in TABLE if row.permission == "read")
_LISTS = tuple(
    row
    for row in TABLE
    if (message := REQUESTS[row.number]) is not None
    and any(hasattr(getattr(message(), field.name), "extend") for field in message.DESCRIPTOR.fields)
)
"""Whose messages hold something that may be repeated."""
_DETECTIONS = (CommandNumber.COMPUTE_COMMUNITIES, CommandNumber.HIERARCHICAL_LEIDEN)


Args = TypeVarTuple("Args")


class SteadyTime(StillTime):
    """Nothing expires, and turns end."""

    def steady_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def steady_us(self) -> int:
        return time.monotonic_ns() // 1_000


class WatchedLoop(asyncio.SelectorEventLoop):
    """Knows the longest of its turns, in the thread's own time."""

    def __init__(self) -> None:
        super().__init__()
        self.longest_s = 0.0

    def call_soon(
        self, callback: Callable[[Unpack[Args]], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        return super().call_soon(self._timed, callback, *args, context=context)

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Args]], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio."""
        return super().call_soon_threadsafe(self._timed, callback, *args, context=context)

    def _timed(self, callback: Callable[..., object], *args: object) -> None:
        began_s = time.thread_time()
        try:
            callback(*args)
        finally:
            self.longest_s = max(self.longest_s, time.thread_time() - began_s)


class LongTurnError(AssertionError):
    """One turn took longer than any may."""


class HeavyTarget:
    """A server without a socket and without keys, a new one for each run."""

    def __init__(self, directory: Path, frame_bytes_max: int = FRAME_BYTES_MAX, slack: float = 1) -> None:
        """slack: by how much everything is slower here."""
        flags = {
            "server.vector_dim": str(VECTOR_DIM),
            "server.data_dir": str(directory),
            "security.max_frame_size": str(frame_bytes_max),
        }
        self._config = load_config(flags=flags)
        self._frame_bytes_max = frame_bytes_max
        self._slack = slack
        self._loop = WatchedLoop()
        self._loop.set_exception_handler(self._note)
        self._raised: list[BaseException] = []
        self._sockets = socket.socketpair()
        gc.collect()
        gc.freeze()  # as a server does: its collector passes over what has stayed

    def close(self) -> None:
        """End its use."""
        gc.unfreeze()
        for each in self._sockets:
            each.close()
        self._loop.close()

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._raised.append(context.get("exception") or AssertionError(context["message"]))

    def run(self, data: bytes) -> None:
        """Serve the frame that the bytes choose. Raises AssertionError for a defect."""
        self.serve(self.body(data))

    def body(self, data: bytes) -> bytes:
        """The frame that the bytes choose."""
        return heavy_body(Choices(data), self._frame_bytes_max)

    def serve(self, body: bytes) -> None:
        """Serve one frame. Raises AssertionError, or what comes through, for a defect."""
        assert len(body) <= self._frame_bytes_max
        asyncio.set_event_loop(self._loop)
        for tries_left in reversed(range(TRIES)):
            try:
                self._loop.run_until_complete(self._serve(body, self._config))
            except LongTurnError:
                if not tries_left:
                    raise
            else:
                break
        if self._raised:
            raise self._raised.pop()

    async def _serve(self, body: bytes, config: Config) -> None:
        loop = self._loop

        def post(call: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(call)

        store = open_store(config, SteadyTime(), post)
        server = Server(config)
        server.database = store.database
        for command in _furniture():
            answered: asyncio.Future[Any] = loop.create_future()
            store.database.submit(command, answered.set_result)
            assert not isinstance(await answered, GibramError)
        try:
            line = self._connect(server)
            before_bytes = _begin_peak()
            await asyncio.sleep(0)
            loop.longest_s = 0.0
            await _deliver(line, encode_frame(body))
            longest_ms = loop.longest_s * 1000 / self._slack
            allowed_ms = TURN_MS_MAX + min(100_000, items_named(body)) * ITEM_US_MAX / 1000
            allowed_ms += len(line.written) / (1 << 20) * ANSWER_MS_PER_MB
            if longest_ms > allowed_ms:
                allowed_ms *= slowness()
            if longest_ms > allowed_ms:
                raise LongTurnError(f"a turn took {longest_ms:.0f} ms, more than {allowed_ms:.0f} ms")
            growth_bytes = _peak_bytes() - before_bytes
            allowed_bytes = GROWTH_BYTES_MAX + 4 * len(line.written)
            assert growth_bytes <= allowed_bytes, f"grown by {growth_bytes >> 20} MB, answer {len(line.written)} bytes"
            if not line.is_closing():
                assert pb.Envelope.FromString(bytes(line.written[HEADER.size :])).version == 1
            other = self._connect(server)
            await _deliver(other, encode_frame(encode_envelope(7, CommandNumber.PING, b"")))
            assert pb.Envelope.FromString(bytes(other.written[HEADER.size :])).cmd_type == CommandNumber.PONG
            for each in (line, other):
                each.reset()
            await asyncio.sleep(0)
        finally:
            store.close()

    def _connect(self, server: Server) -> Line:
        assert server.admission.enter(PEER)
        connection = Connection(server, PEER, SystemClock().steady_us())
        line = Line(connection, self._sockets[0], is_encrypted=False)
        connection.connection_made(line)
        return line


async def _deliver(line: Line, frame: bytes) -> None:
    """In pieces, each in a turn of its own; until the frame is answered or the connection closed."""
    for start in range(0, len(frame), PIECE_BYTES):
        if line.is_closing():
            return
        line.deliver(frame[start : start + PIECE_BYTES])
        await asyncio.sleep(0)
    until_s = time.monotonic() + 200
    while not line.written and not line.is_closing():
        assert time.monotonic() < until_s, "an answer does not come"
        await asyncio.sleep(0)


def _furniture() -> tuple[Command, ...]:
    """In the session `s`, objects with many links, each of them the first of its kind."""
    texts = tuple(NewTextUnit(f"t{n}", 1, "text") for n in range(LINKS))
    entities = tuple(NewEntity(f"e{n}", f"e{n}", embedding=bytes(4 * VECTOR_DIM)) for n in range(LINKS))
    return (
        c.AddDocuments("s", (NewDocument("d1"),)),
        c.AddTextUnits("s", texts),
        c.AddEntities("s", entities),
        c.AddRelationships("s", tuple(NewRelationship(1, n) for n in range(2, LINKS + 1))),
        c.AddCommunity("s", NewCommunity("c", tuple(range(1, LINKS + 1)), (), external_id="c1")),
        *(c.LinkTextUnitEntity("s", n, 1) for n in range(1, LINKS + 1)),
        *(c.LinkTextUnitEntity("s", 1, n) for n in range(2, LINKS + 1)),
    )


# --- what comes -------------------------------------------------------------------------------------------------------


def heavy_body(choices: Choices, bytes_max: int) -> bytes:
    """An envelope filled up to the limit."""
    kind = choices.byte() % 8
    room = bytes_max - 64
    if kind == 0:  # the envelope itself
        body = encode_envelope(1, choices.one_of(TABLE).number, b"", "s")
        return body + _filled(choices, room - len(body))
    if kind < 5:
        row = choices.one_of(choices.one_of((TABLE, _LISTS)))
        return encode_envelope(1, row.number, _payload(choices, row, room), "s")
    if kind == 5:  # many members of any kind
        member = chosen_envelope(choices)
    else:  # some that are heavy, or many that are a little
        row = choices.one_of(choices.one_of((_READS, _LISTS)))
        room_each = room // choices.one_of((1, 5, 50, 2_000, 9_000)) - 32
        member = encode_envelope(1, row.number, _payload(choices, row, room_each), "s")
    is_slow = _number_of(member) in _DETECTIONS
    member = b"\x0a" + varint(len(member)) + member
    count = min(room // len(member), choices.one_of((10_000, 10_000, 9_999, 1 << 30)))
    if is_slow:
        count = min(count, 300)  # each takes a while, in turns of its own: thousands would take minutes
    return encode_envelope(1, CommandNumber.PIPELINE, member * count, "s")


def _number_of(body: bytes) -> int:
    try:
        return decode_request(body).number
    except ProtocolError:
        return 0


def _payload(choices: Choices, row: Row, room: int) -> bytes:
    message_class = REQUESTS[row.number]
    if message_class is None:
        return _filled(choices, room)
    begun: bytes = b""
    if choices.byte() % 2:
        begun = choices.message(message_class()).SerializeToString()
    return begun + _filled(choices, max(0, room - len(begun)), message_class)


def _filled(choices: Choices, room: int, message_class: type[Any] = pb.Envelope) -> bytes:
    """A field again and again, or one that is long, or items of both kinds."""
    kind = choices.byte() % 8
    if kind == 0:
        piece = _known_field(choices, message_class) or b"\x08\x01"
    elif kind < 3:
        piece = _field(choices)
    elif kind < 5:
        content = choices.one_of(_UNITS) * max(0, (room - 8) // choices.one_of((1, 1, 2, 3, 10, 1_000)))
        content = content[: max(0, room - 8)]
        if choices.byte() % 4 == 0:
            content = content[: 100_000 * choices.one_of((1, 2))]
        piece = _tag(choices, 2) + varint(len(content)) + content
    elif kind < 7:
        item = (_field(choices) * choices.one_of(_RUNS))[: max(0, room - 8)]
        piece = b"\x0a" + varint(len(item)) + item
    else:
        piece = choices.take(1 + choices.byte() % 8) or b"\x08\x00"
    count = max(0, room) // len(piece)
    if choices.byte() % 4 == 0:
        count = min(count, choices.one_of((100_000, 99_999, 1_000, 10)))
    return piece * count


def _known_field(choices: Choices, message_class: type[Any]) -> bytes:
    """One that the message knows, with a value that it can have; what is counted or named is often the first."""
    field = choices.one_of(message_class.DESCRIPTOR.fields)
    message = message_class()
    holder = getattr(message, field.name)
    if field.message_type is not None:
        choices.message(holder.add())
    else:
        is_number = field.cpp_type in {field.CPPTYPE_UINT64, field.CPPTYPE_INT32}
        value = 1 if is_number and choices.byte() % 2 == 0 else choices.value(field)
        if hasattr(holder, "extend"):
            holder.append(value)
        else:
            setattr(message, field.name, value)
    piece: bytes = message.SerializeToString()
    return piece


def _field(choices: Choices) -> bytes:
    """One that a message may know, in as few bytes as it can have, or nearly."""
    wire_type = choices.one_of((0, 0, 1, 2, 2, 2, 3, 5, 5))
    tag = _tag(choices, wire_type)
    content: bytes
    if wire_type == 0:
        content = choices.one_of((b"\x00", b"\x01", b"\x02", b"\x7f", b"\xff" * 9 + b"\x01"))
    elif wire_type == 2:
        content = choices.one_of((b"", b"", b"a", b"e1", b"\x08\x01", bytes(4), bytes(4 * VECTOR_DIM), b"\xff"))
        content = varint(len(content)) + content
    elif wire_type == 3:
        depth = choices.one_of((1, 1, 50, 200))
        return b"".join((tag * depth, bytes((tag[0] + 1,)) * depth))
    else:
        content = bytes(8 if wire_type == 1 else 4)
    return tag + content


def _tag(choices: Choices, wire_type: int) -> bytes:
    number = choices.one_of((1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15))
    return bytes((number << 3 | wire_type,))


def items_named(body: bytes) -> int:
    """How many objects, ids or types the command names if it is one, and of a pipeline the command that names most."""
    try:
        request = decode_request(body)
        if request.number == CommandNumber.PIPELINE:
            return max(map(items_named, set(pb.PipelineRequest.FromString(request.payload).commands)), default=0)
        return _items_in(decode_command(request))
    except (DecodeError, CallerError, ProtocolError):
        return 0


def _items_in(struct: Any) -> int:
    values = msgspec.structs.asdict(struct).values()
    lists = [value for value in values if isinstance(value, tuple)]
    return sum(map(len, lists)) + sum(_items_in(value) for value in values if isinstance(value, NewCommunity))


def _begin_peak() -> int:
    """The memory that the process has now, from where its peak is measured."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # otherwise what an earlier run took is there for this one
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell the peak")


def known_heavy(bytes_max: int) -> Iterator[tuple[str, bytes]]:
    """The heaviest shapes that somebody thought of: name and body."""
    room = bytes_max - 100

    def one(number: CommandNumber, piece: bytes, head: bytes = b"") -> bytes:
        return encode_envelope(1, number, head + piece * ((room - len(head)) // len(piece)), "s")

    def long(number: CommandNumber, tag: bytes, unit: bytes, head: bytes = b"") -> bytes:
        content = unit * ((room - 8 - len(head)) // len(unit))
        return encode_envelope(1, number, head + tag + varint(len(content)) + content, "s")

    def many(member: bytes) -> bytes:
        piece = b"\x0a" + varint(len(member)) + member
        return one(CommandNumber.PIPELINE, piece * min(10_000, room // len(piece)))[:bytes_max]

    def item(content: bytes) -> bytes:
        return b"\x0a" + varint(len(content)) + content

    number = CommandNumber
    for each in (number.QUERY, number.MSET_ENTITIES):
        yield f"{each.name} of unknown numbers", one(each, b"\x78\x00")
        yield f"{each.name} of unknown groups", one(each, b"\x7b\x7c")
        yield f"{each.name} of deep groups", one(each, b"\x7b" * 90 + b"\x7c" * 90)
        yield f"{each.name} of unknown texts", one(each, b"\x7a\x00")
    yield "floats one by one", one(number.ADD_ENTITY, b"\x2d\x00\x00\x80\x3f")
    yield "empty chunks of floats", one(number.ADD_ENTITY, b"\x2a\x00")
    yield "chunks of one float", one(number.QUERY, b"\x0a\x04\x00\x00\x80\x3f")
    yield "empty items", one(number.MSET_ENTITIES, b"\x0a\x00")
    yield "items with unknown fields", one(number.MSET_ENTITIES, item(b"\x30\x00" * 20))
    yield "items with floats one by one", one(number.MSET_TEXTUNITS, item(b"\x25\x00\x00\x80\x3f" * 60))
    yield "one item of unknown fields", one(number.MSET_ENTITIES, item(b"\x30\x00" * (room // 2 - 20)))
    yield "members without anything", one(number.PIPELINE, b"\x0a\x00")
    yield "an envelope of unknown fields", (b"\x78\x00" * (room // 2))
    yield "a title of letters that expand", long(number.GET_ENTITY_BY_TITLE, b"\x0a", "\u00df".encode())
    yield "a new title of letters that expand", long(number.ADD_ENTITY, b"\x1a", "\u0149".encode(), b"\x0a\x01x")
    yield "a long name", long(number.GET_DOCUMENT_BY_EXTERNAL_ID, b"\x0a", b"x")
    yield "a blank name", long(number.ADD_DOCUMENT, b"\x0a", "\u3000".encode())
    yield "seeds", long(number.QUERY, b"\x42", b"\x01")
    yield "types", one(number.QUERY, b"\x12\x01a")
    yield "members of a community", long(number.ADD_COMMUNITY, b"\x32", b"\x01")
    yield "ids", long(number.MGET_ENTITIES, b"\x0a", b"\x01")
    head, limit = b"\x0a" + varint(100_000), b"\x01" * 100_000
    for each in (number.MGET_DOCUMENTS, number.MGET_TEXTUNITS, number.MGET_ENTITIES, number.MGET_RELATIONSHIPS):
        yield f"{each.name} of one with many links", encode_envelope(1, each, head + limit, "s")
    fitting = b"\x0a" + varint(6_900) + b"\x01" * 6_900
    for each in (number.MGET_TEXTUNITS, number.MGET_ENTITIES):
        alone = encode_envelope(1, each, fitting, "s")
        yield f"{each.name} of one with as many links as an answer holds", alone
        yield f"{each.name} of one with as many links as an answer holds, in a pipeline", many(alone)
    yield "ids of nobody", long(number.MGET_ENTITIES, b"\x0a", b"\xff\x7f")
    unknown = encode_envelope(1, number.QUERY, b"\x08\x00" * 195, "s")
    yield "members with unknown fields", many(unknown)
    bulk = encode_envelope(1, number.MSET_ENTITIES, b"\x0a\x00" * min(99_000, room // 6), "s")
    yield "bulk adds in a pipeline", many(bulk)
    linked = (number.GET_DOCUMENT, number.GET_TEXTUNIT, number.GET_ENTITY, number.GET_COMMUNITY)
    for each in linked:
        yield f"{each.name} in a pipeline", many(encode_envelope(1, each, b"\x08\x01", "s"))
    yield "MGET_ENTITIES in a pipeline", many(encode_envelope(1, number.MGET_ENTITIES, item(b"\x01" * 100), "s"))
    yield "QUERY in a pipeline", many(encode_envelope(1, number.QUERY, b"\x42\x01\x01\x20\x01", "s"))


def heavy_seeds() -> Iterator[bytes]:
    """For a fuzzer to begin with."""
    source = random.Random(1)
    for kind in range(8):
        for _ in range(8):
            yield bytes((kind,)) + source.randbytes(40)
