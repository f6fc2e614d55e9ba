"""Bytes of any kind against a store and against the configuration, with what must hold whatever they are.

Bytes choose: raw frames, a payload for a command of the table, or a valid message with extreme values in its fields. The
same bytes make the same run, so that what a fuzzer finds is a file, and the file is a test.
"""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor

from gibramdb.config import SETTINGS, load_config
from gibramdb.config_file import CONFIG_FILE_BYTES_MAX
from gibramdb.core.digest import state_digest
from gibramdb.database.answers import Answer
from gibramdb.database.opening import open_store
from gibramdb.errors import BY_CODE, CallerError, ConfigError, GibramError, ProtocolError
from gibramdb.model import commands as c
from gibramdb.model.commands import Command
from gibramdb.model.knowledge import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import (
    TABLE,
    CommandNumber,
    FrameReader,
    Request,
    decode_command,
    decode_pipeline,
    decode_pipeline_reply,
    decode_reply,
    decode_request,
    encode_command,
    encode_error,
    encode_pipeline_response,
    encode_reply,
    encode_result,
    read_reply,
)
from gibramdb.wire.framing import HEADER, encode_envelope, encode_frame

FRAME_BYTES_MAX = 1 << 20
VECTOR_DIM = 3

_V = struct.pack("<3f", 1, 2, 3)
FURNITURE: tuple[Command, ...] = (
    c.AddDocuments("s", (NewDocument("d1"), NewDocument("d2"))),
    c.AddTextUnits("s", (NewTextUnit("t1", 1, "one", _V), NewTextUnit("t2", 1, "two"))),
    c.AddEntities("s", tuple(NewEntity(f"e{n}", f"e{n}", "k", "", _V) for n in range(1, 5))),
    c.AddRelationships(
        "s", (NewRelationship(1, 2, "k"), NewRelationship(2, 3), NewRelationship(3, 1, external_id="r3"))
    ),
    c.AddCommunity("s", NewCommunity("c", (1, 2), (1,), external_id="c1", embedding=_V)),
    c.LinkTextUnitEntity("s", 1, 1),
)
WRITES_FILES = {
    CommandNumber.SAVE, CommandNumber.BGSAVE, CommandNumber.BGRESTORE, CommandNumber.WAL_CHECKPOINT,
    CommandNumber.WAL_TRUNCATE, CommandNumber.WAL_ROTATE,
}  # fmt: skip
"""Read like any other and not carried out here, but in `connection_fuzzing.py`."""

_SESSIONS = ("s", "s", "s", "t", "", "\U0010ffff", "\x00", "x" * 300)
_INTEGERS = (0, 1, 1, 2, 2, 3, 3, 4, 5, -1, 10_001, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
_FLOATS = (0.0, 0.5, 1.0, -1.0, 1e-45, 3.4e38, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"), -0.0)
_TEXTS = (
    "",
    "d1",
    "t1",
    "e1",
    "r3",
    "c1",
    "k",
    "a",
    "b",
    "A",
    " a ",
    "entity",
    "textunit",
    "\u00df",
    "\ufb01",
    "\x1c",
    "\u3000",
    "\x00",
    "\U0010ffff",
    "y" * 2_000,
)
_FLOAT32 = struct.Struct("<f")


@contextmanager
def quick_directory() -> Iterator[Path]:
    """A directory for a while; in memory, where there is such a place: nothing here pulls the plug, and syncs cost."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="gibramdb-fuzz-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class StillTime:
    """A clock that stands still: nothing expires by itself, and a run depends on its bytes alone."""

    def now_ms(self) -> int:
        return 1_700_000_000_000

    def steady_ms(self) -> int:
        return 1_000

    def steady_us(self) -> int:
        return 1_000_000


class Choices:
    """Takes choices from bytes; from none left it takes zeros, so every run ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def byte(self) -> int:
        at, self._at = self._at, self._at + 1
        return self._data[at] if at < len(self._data) else 0

    def one_of(self, options: Any) -> Any:
        return options[self.byte() % len(options)]

    def take(self, count: int) -> bytes:
        at, self._at = self._at, self._at + count
        return self._data[at : at + count]

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def embedding(self) -> list[bytes]:
        kind = self.byte() % 10
        if kind < 3:
            return []
        if kind == 9:
            return [self.take(self.byte() % 16)]  # perhaps no whole number of floats, perhaps in the second chunk
        length = VECTOR_DIM if kind < 8 else self.byte() % 8
        number = (lambda: self.byte() / 64 - 2) if kind < 7 else (lambda: self.one_of(_FLOATS))
        return [b"".join(_float32(number()) for _ in range(length))]

    def value(self, field: FieldDescriptor) -> Any:
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return self.take(self.byte() % 32)
            picked = self.one_of(_TEXTS)
            return picked if self.byte() % 4 else picked + chr(self.byte())
        if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
            return self.one_of(_FLOATS)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return bool(self.byte() & 1)
        low, high = _BOUNDS[kind]
        return min(max(self.one_of(_INTEGERS), low), high)

    def message(self, message: Any) -> Any:
        """Fill a message with whatever its fields can hold."""
        for field in message.DESCRIPTOR.fields:
            name = field.name
            if field.type == FieldDescriptor.TYPE_BYTES and name in {"embedding", "query_vector"}:
                getattr(message, name).extend(self.embedding())
            elif hasattr(getattr(message, name), "extend"):
                for _ in range(self.byte() % 4):
                    if field.message_type is None:
                        getattr(message, name).append(self.value(field))
                    else:
                        self.message(getattr(message, name).add())
            elif self.byte() % 8:
                setattr(message, name, self.value(field))
        return message


def _float32(number: float) -> bytes:
    try:
        return _FLOAT32.pack(number)
    except OverflowError:
        return _FLOAT32.pack(float("inf"))


_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}

REQUESTS: dict[CommandNumber, type[Any] | None] = {}
for _row in TABLE:
    _name = {
        "GET_DOCUMENT": "GetByIDRequest", "DELETE_DOCUMENT": "DeleteByIDRequest", "ADD_DOCUMENT": "AddDocumentRequest",
        "ADD_TEXTUNIT": "AddTextUnitRequest", "ADD_ENTITY": "AddEntityRequest", "ADD_COMMUNITY": "AddCommunityRequest",
        "ADD_RELATIONSHIP": "AddRelationshipRequest", "LINK_TEXTUNIT_ENTITY": "LinkTextUnitEntityRequest",
        "UNLINK_TEXTUNIT_ENTITY": "LinkTextUnitEntityRequest",
        "GET_ENTITY_BY_TITLE": "GetEntityByTitleRequest", "UPDATE_ENTITY_DESC": "UpdateEntityDescRequest",
        "COMPUTE_COMMUNITIES": "ComputeCommunitiesRequest", "HIERARCHICAL_LEIDEN": "HierarchicalLeidenRequest",
        "QUERY": "QueryRequest", "GET_EMBEDDINGS": "GetEmbeddingsRequest", "EXPLAIN": "ExplainRequest", "SET_SESSION_TTL": "SetSessionTTLRequest",
        "WAL_TRUNCATE": "WALTruncateRequest", "SAVE": "SaveRequest", "BGSAVE": "SaveRequest", "BGRESTORE": "RestoreRequest",
    }.get(_row.name)  # fmt: skip
    if _name is None and _row.name.startswith("GET_") and _row.name.endswith("_BY_EXTERNAL_ID"):
        _name = "GetByExternalIDRequest"
    if _name is None and _row.name.startswith(("MSET_", "MGET_")):
        _kind = {"DOCUMENTS": "Documents", "TEXTUNITS": "TextUnits", "ENTITIES": "Entities"}.get(
            _row.name[5:], "Relationships"
        )
        _name = ("MSet" if _row.name.startswith("MSET") else "MGet") + _kind + "Request"
    if _name is None and _row.name.startswith("LIST_"):
        _name = "ListSessionsRequest" if _row.name == "LIST_SESSIONS" else "ListEntitiesRequest"
    if (
        _name is None
        and _row.name.startswith(("GET_", "DELETE_", "CASCADE_"))
        and _row.name not in {"GET_DIGEST", "DELETE_SESSION"}
    ):
        _name = "GetByIDRequest"
    REQUESTS[_row.number] = None if _name is None else getattr(pb, _name)


class Exchange(NamedTuple):
    """One request, and the frame that answers it."""

    request: Request
    frame: bytes


class WireTarget:
    """A store in memory and what stands between it and a socket, without the socket."""

    def __init__(self, directory: Path) -> None:
        self._config = load_config(flags={"server.vector_dim": str(VECTOR_DIM), "server.data_dir": str(directory)})
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def _furnish(self) -> None:
        """A new store with a little of everything in the session `s`."""
        self._database = open_store(self._config, StillTime(), self._posted.put).database
        for command in FURNITURE:
            answer = self._execute(command)
            assert not isinstance(answer, GibramError), answer
        self._digest = self._digest_now()

    def _digest_now(self) -> str:
        return state_digest(self._database.state.sessions.values())[0]

    def run(self, data: bytes) -> list[Exchange]:
        """Serve what the bytes choose. Raises AssertionError, or whatever comes through, for a defect."""
        choices = Choices(data)
        mode = choices.byte() % 4
        if mode == 0:
            stream = choices.rest()
        elif mode == 1:
            row = choices.one_of(TABLE)
            session_id = choices.one_of(_SESSIONS)
            stream = encode_frame(encode_envelope(choices.byte(), row.number, choices.rest(), session_id))
        else:
            parts: list[bytes] = []
            while not choices.is_empty and len(parts) < 60:
                parts.append(chosen_envelope(choices))
            if mode == 3:
                parts = [
                    encode_envelope(
                        1, CommandNumber.PIPELINE, pb.PipelineRequest(commands=parts).SerializeToString(), "s"
                    )
                ]
            stream = b"".join(map(encode_frame, parts))
        return self.serve(stream)

    def serve(self, stream: bytes) -> list[Exchange]:
        """Every frame up to a fault of the framing or of an envelope, which ends a connection."""
        self._furnish()
        reader = FrameReader(FRAME_BYTES_MAX)
        reader.feed(stream)
        exchanges: list[Exchange] = []
        try:
            while (body := reader.next_frame()) is not None:
                request = decode_request(body)
                exchanges.append(Exchange(request, self._answer(request)))
        except ProtocolError:
            pass
        finally:
            self._database.close()
        return exchanges

    def _answer(self, request: Request) -> bytes:
        if request.number == CommandNumber.PIPELINE:
            return self._answer_pipeline(request)
        command = _decoded(request)
        answer: Answer = command if isinstance(command, GibramError) else self._execute(command)
        number, payload = _reply(request, answer)
        frame = encode_reply(request.request_id, number, payload)
        if not isinstance(command, GibramError):
            reply = read_reply(frame[HEADER.size :])
            assert reply == (request.request_id, number, payload)
            sent = decode_request(encode_command(command, request.request_id)[HEADER.size :])
            assert repr(decode_command(sent)) == repr(command)  # by their text: NaN is not equal to itself
            read = decode_reply(number, payload, command)
            assert isinstance(read, GibramError) == (number == CommandNumber.ERROR)
        self._check([answer])
        return frame

    def _answer_pipeline(self, request: Request) -> bytes:
        try:
            inner = decode_pipeline(request.payload, request.session_id)
        except GibramError as error:
            return encode_reply(request.request_id, CommandNumber.ERROR, encode_error(error))
        items = [_decoded(each) for each in inner]
        box: list[list[Answer]] = []
        self._database.submit_batch(items, box.append)
        self._pump(box)
        replies = [(each.request_id, *_reply(each, answer)) for each, answer in zip(inner, box[0], strict=False)]
        payload = encode_pipeline_response(replies)
        run = [item for item in items if isinstance(item, Command)]
        if len(run) == len(items):
            numbered = encode_pipeline_response([(id, *reply[1:]) for id, reply in enumerate(replies, 1)])
            assert len(decode_pipeline_reply(CommandNumber.PIPELINE_RESPONSE, numbered, run)) == len(replies)
        assert not any(number == CommandNumber.ERROR for _, number, _ in replies[:-1])
        self._check(box[0])
        return encode_reply(request.request_id, CommandNumber.PIPELINE_RESPONSE, payload)

    def _execute(self, command: Command) -> Answer:
        box: list[Answer] = []
        self._database.submit(command, box.append)
        self._pump(box)
        assert len(box) == 1, "answered more than once"
        return box[0]

    def _pump(self, box: list[Any]) -> None:
        while not box:
            self._posted.get(timeout=60)()

    def _check(self, answers: list[Answer]) -> None:
        """What is refused is refused for what the caller did, and changes nothing; the store stays well."""
        for answer in answers:
            if isinstance(answer, GibramError):
                assert isinstance(answer, CallerError), repr(answer)
                assert type(answer) in BY_CODE.values()
        before, self._digest = self._digest, self._digest_now()
        if all(isinstance(answer, GibramError) for answer in answers):
            assert self._digest == before, answers
        assert self._database.health().status == "ok"


def chosen_envelope(choices: Choices) -> bytes:
    """A request of any command of the table, with whatever its fields can hold; perhaps damaged."""
    row = choices.one_of(TABLE)
    message_class = REQUESTS[row.number]
    payload = b"" if message_class is None else choices.message(message_class()).SerializeToString()
    if choices.byte() == 255 and payload:  # damaged in one place
        at = choices.byte() % len(payload)
        payload = payload[:at] + bytes((choices.byte(),)) + payload[at + 1 :]
    return encode_envelope(choices.byte(), row.number, payload, choices.one_of(_SESSIONS))


def _decoded(request: Request) -> Command | CallerError:
    if request.number in WRITES_FILES:
        try:
            decode_command(request)
        except CallerError as error:
            return error
        return CallerError(f"{request.number} is read and not carried out here")
    try:
        return decode_command(request)
    except CallerError as error:
        return error


def _reply(request: Request, answer: Answer) -> tuple[int, bytes]:
    if isinstance(answer, GibramError):
        return CommandNumber.ERROR, encode_error(answer)
    return encode_result(answer, request)


class ConfigTarget:
    """The configuration's file, environment and flags."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "gibramdb.yaml"

    def run(self, data: bytes) -> bool:
        """Whether the configuration was taken. Raises whatever is no ConfigError."""
        choices = Choices(data)
        mode = choices.byte() % 4
        environment: dict[str, str] = {}
        flags: dict[str, str] = {}
        path = None
        if mode & 1:
            setting = choices.one_of(SETTINGS)
            text = choices.rest().decode("utf-8", "surrogateescape")
            if mode == 1:
                environment[setting.variable] = text
            else:
                flags[setting.name] = text
        else:
            path = os.fspath(self._path)
            content = choices.rest()
            if mode == 2:  # a place where a value may stand, and anything for the value
                setting = Choices(content).one_of(SETTINGS)
                content = f"{setting.section}:\n  {setting.key}: ".encode() + content[1:]
            assert len(content) < CONFIG_FILE_BYTES_MAX
            self._path.write_bytes(content)
        try:
            config = load_config(path, environment=environment, flags=flags, insecure=not data or data[-1] & 1 == 1)
        except ConfigError:
            return False
        for setting in SETTINGS:
            setting.text_in(config)
        return True


def wire_seeds() -> Iterator[bytes]:
    """Inputs of each mode: every command as a frame, a bare payload of each, and long runs of chosen messages."""
    source = random.Random(1)
    for number in range(len(TABLE)):
        envelope = chosen_envelope(Choices(bytes((number,)) + source.randbytes(100)))
        yield b"\x00" + encode_frame(envelope)
        yield bytes((1, number, 0, 1)) + decode_request(envelope).payload
        yield bytes((2, number)) + source.randbytes(60)
    for size in (50, 100, 200, 400, 800):
        for _ in range(30):
            yield bytes((2 + source.randrange(2),)) + source.randbytes(size)


def config_seeds() -> Iterator[bytes]:
    """Each setting at its default by every source, and a whole file."""
    sections: dict[str, list[str]] = {}
    for number, setting in enumerate(SETTINGS):
        text = json.dumps(setting.default) if setting.default else "x"
        sections.setdefault(setting.section, []).append(f"  {setting.key}: {text}")
        for mode in (1, 3, 2):
            yield bytes((mode, number)) + setting.default.encode()
    whole = "\n".join(f"{section}:\n" + "\n".join(lines) for section, lines in sections.items())
    yield b"\x00" + whole.encode()
    yield b"\x00auth:\n  keys:\n    - id: a\n      key: k\n      permissions: [read]\n"
    yield b"\x00server: {addr: ':6161', vector_dim: 8}\n---\n"
    yield b"\x00a: &a [1, *a]\n? [x]\n: !!binary aGk=\n<<: *a\n"
