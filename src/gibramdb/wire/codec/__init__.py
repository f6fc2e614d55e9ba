"""Commands, results and errors as bytes, for both ends of a connection.

A server goes `decode_request` -> `decode_command` -> ... -> `encode_result` or `encode_error` -> `encode_reply`; a
client goes `encode_command` -> ... -> `read_reply` -> `decode_reply`. One table (`registry.TABLE`) serves both.
"""

from gibramdb.wire.codec.asked import objects_asked
from gibramdb.wire.codec.envelope import (
    PIPELINE_COMMANDS_MAX,
    Reply,
    Request,
    decode_pipeline,
    decode_request,
    encode_pipeline_response,
    read_reply,
)
from gibramdb.wire.codec.numbers import CommandNumber
from gibramdb.wire.codec.registry import (
    BY_NUMBER,
    TABLE,
    decode_auth,
    decode_command,
    decode_pipeline_reply,
    decode_reply,
    encode_auth_accepted,
    encode_auth_refused,
    encode_command,
    encode_error,
    encode_pipeline,
    encode_result,
    row_of,
)
from gibramdb.wire.codec.row import Row
from gibramdb.wire.framing import REPLY_PAYLOAD_BYTES_MAX, FrameReader, encode_reply

__all__ = [
    "BY_NUMBER",
    "PIPELINE_COMMANDS_MAX",
    "REPLY_PAYLOAD_BYTES_MAX",
    "TABLE",
    "CommandNumber",
    "FrameReader",
    "Reply",
    "Request",
    "Row",
    "decode_auth",
    "decode_command",
    "decode_pipeline",
    "decode_pipeline_reply",
    "decode_reply",
    "decode_request",
    "encode_auth_accepted",
    "encode_auth_refused",
    "encode_command",
    "encode_error",
    "encode_pipeline",
    "encode_pipeline_response",
    "encode_reply",
    "encode_result",
    "objects_asked",
    "read_reply",
    "row_of",
]
