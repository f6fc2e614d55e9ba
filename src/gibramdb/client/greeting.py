"""AUTH, the first frame of a connection that has a key."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from gibramdb.errors import AuthenticationError, ProtocolError, UnavailableError, UnknownCommandError
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber, Reply
from gibramdb.wire.codec.refusals import read_error
from gibramdb.wire.framing import encode_envelope, encode_frame, varint


def encode_auth(api_key: str, request_id: int) -> bytes:
    """A whole frame that says who asks."""
    key = api_key.encode()
    payload = b"\x0a" + varint(len(key)) + key
    return encode_frame(encode_envelope(request_id, CommandNumber.AUTH, payload))


def decode_welcome(reply: Reply) -> str:
    """Nothing if the server lets us in, or why it can not say now and would be asked again.

    Raises:
        AuthenticationError: it does not.
        GibramError: it says something else than yes or no: that it has been asked too often, for example.
        ProtocolError: it is no answer to AUTH.
    """
    try:
        if reply.number == CommandNumber.ERROR:
            error = read_error(reply.payload)
            if isinstance(error, UnknownCommandError):
                return ""  # GibRAM 0.3.0 without keys does not know AUTH, and lets everybody in
            raise error
        if reply.number != CommandNumber.AUTH_RESPONSE:
            raise ProtocolError(f"AUTH was answered with {reply.number}, expected {CommandNumber.AUTH_RESPONSE.value}")
        answer = pb.AuthResponse.FromString(reply.payload)
    except DecodeError as error:
        raise ProtocolError(f"undecodable reply to AUTH: {error}") from None
    if answer.success:
        return ""
    if answer.code == UnavailableError.code:
        return answer.message
    raise AuthenticationError(answer.message or "the server does not accept this API key")
