"""One client: bytes in, commands to the store, answers out in the order of the requests.

Owns: the frames that have arrived, a slot for each answer that has not left.
Never: decides anything; touches the state.

Invariants:
- Answers leave in the order in which their requests came, each when the store lets go of it.
- A command that has to wait (for room in the log, for a computation) holds up those behind it on this connection only.
- Reading stops while too many answers are outstanding or the client does not take them: no queue grows without bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from gibramdb.database.database import Answer
from gibramdb.errors import (
    CallerError,
    GibramError,
    InternalError,
    LimitExceededError,
    ProtocolError,
    UnknownCommandError,
)
from gibramdb.model.commands import Command
from gibramdb.wire.codec import (
    REPLY_PAYLOAD_BYTES_MAX,
    CommandNumber,
    Request,
    decode_command,
    decode_pipeline,
    decode_request,
    encode_auth_accepted,
    encode_error,
    encode_pipeline_response,
    encode_result,
)
from gibramdb.wire.framing import FrameReader, encode_reply

if TYPE_CHECKING:
    from gibramdb.server.app import Server

log = logging.getLogger(__name__)

OUTSTANDING_ANSWERS_MAX = 1024
"""On one connection; beyond it the server stops reading until some have left."""
PIPELINE_REPLY_BYTES = 64
"""What stands around each reply in a pipeline's answer, at most; one error fits in beside it."""
HELD_BYTES_MAX = 256 * 1024
"""Answers are sent together, up to this size; then the client has to take them before more are made."""


class _Slot:
    """The place of one answer; `frame` is None until it is there."""

    __slots__ = ("frame",)

    def __init__(self) -> None:
        self.frame: bytes | None = None


class Connection(asyncio.Protocol):
    """The server's end of one client's connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._reader = FrameReader(server.frame_bytes_max)
        self._slots: deque[_Slot] = deque()
        self._transport: asyncio.Transport | None = None
        self._waits_for: _Slot | None = None  # its command has not run yet
        self._is_pumping = False
        self._is_peer_slow = False
        self._is_reading = True
        self._held_bytes = 0
        self._is_leaving = False
        self.peer = ""

    # --- the event loop's calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; the server may send it away."""
        # uvloop's transports do not inherit from asyncio's, so this can not be asserted.
        self._transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")
        self.peer = peername[0] if peername else "?"
        if not self._server.admit(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; answers that come now have nobody to go to, and no more of its commands are run."""
        del exc
        self._is_leaving = True
        self._transport = None
        self._slots.clear()
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._reader.feed(data)
        self._pump()

    def pause_writing(self) -> None:
        """The client takes its answers too slowly."""
        self._is_peer_slow = True
        self._regulate()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._is_peer_slow = False
        self._pump()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Run every command that has arrived and may run, then send what may leave."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._may_take_more():
                body = self._reader.next_frame()
                if body is None:
                    break
                self._serve(decode_request(body))
                if self._held_bytes > HELD_BYTES_MAX:
                    self._flush()
        except ProtocolError as error:
            log.info(
                "closing a connection that does not speak the protocol", extra={"peer": self.peer, "why": str(error)}
            )
            self._is_leaving = True
            self._reader = FrameReader(0)
        finally:
            self._is_pumping = False
        self._flush()
        self._regulate()

    def _may_take_more(self) -> bool:
        return (
            self._waits_for is None
            and not self._is_leaving
            and not self._is_peer_slow
            and len(self._slots) < OUTSTANDING_ANSWERS_MAX
        )

    def _regulate(self) -> None:
        """Read from the socket only while what comes can be worked on."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        may_read = self._may_take_more()
        if may_read and not self._is_reading:
            transport.resume_reading()
        elif not may_read and self._is_reading:
            transport.pause_reading()
        self._is_reading = may_read

    def _serve(self, request: Request) -> None:
        slot = _Slot()
        self._slots.append(slot)
        if not request.request_id:
            request = request._replace(request_id=self._server.next_request_id())
        if request.number == CommandNumber.PIPELINE:
            self._serve_pipeline(request, slot)
            return
        if request.number == CommandNumber.AUTH:
            slot.frame = encode_reply(request.request_id, *encode_auth_accepted())
            return
        try:
            command = decode_command(request)
        except GibramError as error:
            slot.frame = encode_reply(request.request_id, *_reply(request, error))
            return

        def done(answer: Answer) -> None:
            self._fill(slot, encode_reply(request.request_id, *_reply(request, answer)))

        if not self._server.database.submit(command, done) and slot.frame is None:
            self._waits_for = slot

    def _serve_pipeline(self, request: Request, slot: _Slot) -> None:
        try:
            inner = [
                each if each.request_id else each._replace(request_id=self._server.next_request_id())
                for each in decode_pipeline(request.payload, request.session_id)
            ]
        except GibramError as error:
            slot.frame = encode_reply(request.request_id, *_reply(request, error))
            return

        def done(answers: list[Answer]) -> None:
            payload = encode_pipeline_response(_pipeline_replies(inner, answers))
            self._fill(slot, encode_reply(request.request_id, CommandNumber.PIPELINE_RESPONSE, payload))

        self._waits_for = slot
        self._server.database.submit_batch([self._decoded(each) for each in inner], done)

    def _decoded(self, request: Request) -> Command | CallerError:
        if request.number == CommandNumber.AUTH:
            return UnknownCommandError(f"unknown command: {request.number}")
        try:
            return decode_command(request)
        except CallerError as error:
            return error

    # --- answers ------------------------------------------------------------------------------------------------------

    def _fill(self, slot: _Slot, frame: bytes) -> None:
        slot.frame = frame
        self._held_bytes += len(frame)
        if self._waits_for is slot:
            self._waits_for = None
            self._pump()
        elif not self._is_pumping:
            self._flush()
            if not self._is_reading:
                self._pump()

    def _flush(self) -> None:
        """Send every answer that is next in order and there."""
        slots = self._slots
        frames: list[bytes] = []
        self._held_bytes = 0
        while slots and (frame := slots[0].frame) is not None:
            frames.append(frame)
            slots.popleft()
        transport = self._transport
        if transport is None:
            return
        if frames:
            transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
        if self._is_leaving and not slots:
            transport.close()

    def leave(self) -> None:
        """Take no more requests; close when the last answer has left."""
        self._is_leaving = True
        self._regulate()
        self._flush()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def _pipeline_replies(requests: list[Request], answers: list[Answer]) -> Iterator[tuple[int, int, bytes]]:
    """Replies to the commands that ran, in order, as far as one answer can hold them."""
    total_bytes = 0
    for request, answer in zip(requests, answers, strict=False):
        number, payload = _reply(request, answer)
        total_bytes += len(payload) + PIPELINE_REPLY_BYTES
        if total_bytes > REPLY_PAYLOAD_BYTES_MAX:
            refusal = LimitExceededError(
                f"answer too large: the replies of this pipeline exceed {REPLY_PAYLOAD_BYTES_MAX} bytes from here on; "
                "its commands have been carried out"
            )
            yield request.request_id, *_reply(request, refusal)
            return
        yield request.request_id, number, payload


def _reply(request: Request, answer: Answer) -> tuple[int, bytes]:
    """Number and payload of the answer."""
    if not isinstance(answer, GibramError):
        try:
            return encode_result(answer, request)
        except GibramError as error:
            answer = error
        except Exception:  # the edge of one answer: a defect in it must not cost the connection's other answers
            log.exception("an answer could not be encoded", extra={"command": request.number})
            answer = InternalError("internal error while encoding the answer; the command itself was carried out")
    return CommandNumber.ERROR, encode_error(answer)
