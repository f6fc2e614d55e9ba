"""Envelopes read: a request as a server sees it, a reply as a client does, and several of them in a pipeline.

A pipeline holds commands and no pipelines: `decode_command` refuses a PIPELINE, and the server, which runs one, calls
`decode_pipeline` for the outer envelope only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from gibramdb.errors import InvalidArgumentError, LimitExceededError, ProtocolError
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.framing import encode_envelope, varint

PIPELINE_COMMANDS_MAX = 10_000
"""Commands in one pipeline."""
INHERITED_BYTES_MAX = 4 * 1024 * 1024
"""The name of a session that commands of a pipeline inherit, for all of them: each record of the log has it."""

_RESPONSES = b"\x0a"
_parse_envelope = pb.Envelope.FromString


class Request(NamedTuple):
    """One request, its payload not yet read. A `request_id` of 0 asks the server to assign one."""

    version: int
    request_id: int
    number: int
    session_id: str
    payload: bytes
    token: bytes = b""


class Reply(NamedTuple):
    """One reply, its payload not yet read."""

    request_id: int
    number: int
    payload: bytes


def decode_request(body: bytes) -> Request:
    """The envelope in the body of a frame.

    Raises:
        ProtocolError: if it is no envelope.
    """
    try:
        envelope = _parse_envelope(body)
    except DecodeError as error:
        raise ProtocolError(f"undecodable envelope: {error}") from None
    return Request(
        envelope.version,
        envelope.request_id,
        envelope.cmd_type,
        envelope.session_id,
        envelope.payload,
        envelope.token,
    )


def read_reply(body: bytes) -> Reply:
    """The reply in the body of a frame; `decode_reply` reads its payload.

    Raises:
        ProtocolError: if it is no envelope.
    """
    request = decode_request(body)
    return Reply(request.request_id, request.number, request.payload)


def decode_pipeline(payload: bytes, session_id: str = "") -> list[Request]:
    """The requests in a pipeline, all of them or none.

    session_id: of the envelope around the pipeline; those that name no session inherit it.

    Raises:
        InvalidArgumentError: if the payload or one of the envelopes in it is undecodable.
        LimitExceededError: if there are more than PIPELINE_COMMANDS_MAX, or the session that they inherit has so long a
            name that all together they would be told more than INHERITED_BYTES_MAX.
    """
    try:
        commands = pb.PipelineRequest.FromString(payload).commands
    except DecodeError as error:
        raise InvalidArgumentError(f"PIPELINE: undecodable payload: {error}") from None
    if len(commands) > PIPELINE_COMMANDS_MAX:
        raise LimitExceededError(f"commands too many: {len(commands)} (max: {PIPELINE_COMMANDS_MAX})")
    requests = []
    for index, body in enumerate(commands):
        try:
            request = decode_request(body)
        except ProtocolError as error:
            raise InvalidArgumentError(f"PIPELINE: commands[{index}]: {error}") from None
        requests.append(request if request.session_id else request._replace(session_id=session_id))
    inherited_bytes = len(session_id.encode()) * sum(request.session_id is session_id for request in requests)
    if inherited_bytes > INHERITED_BYTES_MAX:
        raise LimitExceededError(
            f"session_id too long: all commands of the pipeline that inherit it would be told {inherited_bytes} bytes "
            f"(max: {INHERITED_BYTES_MAX}); send fewer of them in one"
        )
    return requests


def encode_pipeline_response(replies: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The payload of a PIPELINE_RESPONSE from (request_id, number, payload) of each reply, in order."""
    parts: list[bytes] = []
    for request_id, number, payload in replies:
        envelope = encode_envelope(request_id, number, payload)
        parts += (_RESPONSES, varint(len(envelope)), envelope)
    return b"".join(parts)
