"""One client: bytes in, commands to the store, answers out in the order of the requests.

Owns: the frames that have arrived, a slot for each answer that has not left.
Never: decides anything; touches the state.

Invariants:
- Answers leave in the order in which their requests came, each when the store lets go of it.
- A command that has to wait (for room in the log, for a computation) holds up those behind it on this connection only.
- Reading stops while too much is outstanding or the client does not take its answers: no queue grows without bound.
- An answer becomes bytes when it is the next to leave and the client takes it. Until then it is a value, which shares
  what it tells with the state.
- A turn ends when its time is over, whatever this client still wants; then the others have theirs.
- Where there are keys, nothing but AUTH is looked at before one has been shown, and nothing after its time is over.

One module, because reading, waiting, answering and giving up decide on each other at every step.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from gibramdb.clock import SystemClock
from gibramdb.core import limits
from gibramdb.database.answers import Answer
from gibramdb.errors import (
    AnswerTooLargeError,
    AuthenticationError,
    CallerError,
    GibramError,
    InternalError,
    InvalidArgumentError,
    ProtocolError,
    RateLimitedError,
    UnknownCommandError,
)
from gibramdb.model.commands import Command
from gibramdb.server.admission import site_of
from gibramdb.server.auth import BUSY, EXPIRED, Leave, Principal
from gibramdb.wire.codec import (
    REPLY_PAYLOAD_BYTES_MAX,
    CommandNumber,
    Request,
    decode_auth,
    decode_command,
    decode_pipeline,
    decode_request,
    encode_auth_accepted,
    encode_auth_refused,
    encode_error,
    encode_pipeline_response,
    encode_result,
)
from gibramdb.wire.framing import FrameReader, encode_reply

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    from gibramdb.server.app import Server

log = logging.getLogger(__name__)

OUTSTANDING_ANSWERS_MAX = 1024
"""On one connection; beyond it the server stops reading until some have left."""
OUTSTANDING_BYTES_MAX = 32 * 1024 * 1024
"""What those answers may take beside the state, all together, before the server stops reading."""
PIPELINE_REPLY_BYTES = 64
"""What stands around each reply in a pipeline's answer, at most; one error fits in beside it."""
HELD_BYTES_MAX = 256 * 1024
"""Answers are sent together, up to this size; then the client has to take them before more are made."""
READ_AHEAD_BYTES = 64 * 1024
"""What is read of a client whose command has to wait; beyond it the rest stays in the kernel."""
BYTES_PER_SECOND_MIN = 16 * 1024
"""What a frame under way, in either direction, has to move on average of `stall_timeout`."""
TLS_WRITE_BYTES = 128 * 1024
"""What is handed to an encrypted connection at once. It takes all that it is given, and tells only from the next write
on that the client is slow; a large answer would lie in it uncounted."""
UNCOUNTED_BYTES = 16 * 1024
"""Less than this in a transport whose client is not slow is on its way, and counts for nothing."""
UNCOUNTED_ANSWER_BYTES = 256 * 1024
"""While a pipeline runs, what its answers take is counted in steps of this."""
AUTH_FRAME_BYTES_MAX = 4_096
"""Nobody needs a longer one to say who they are."""
TURN_US_MAX = 5_000
"""So long one connection may keep the loop; what it still wants is done after the others had their turn."""
LARGE_FRAME_BYTES = 16 * 1024
"""What may take long to read. Once a turn has been long, no other of these is begun in the same round of the loop: who
wants little waits for one of them, and not for one of every connection."""
COSTLY_US = 1_000_000
"""For so long after a long turn what the same client asks for is treated as a large frame, however small it is: a query
of eight bytes may go through a whole session."""

RATE_LIMITED = "rate limit exceeded"

_steady_us = SystemClock().steady_us


class _Slot:
    """The place of one answer, which is None until it is there; bytes are a frame made already.

    Of the request it keeps what the answer needs: a payload may be large.
    """

    __slots__ = ("answer", "inner", "number", "request_id", "taken_bytes")

    def __init__(self, request_id: int, number: int) -> None:
        self.request_id = request_id
        self.number = number
        self.taken_bytes = 0  # by the answer, or the answers of a pipeline, until it is bytes
        self.inner: Sequence[tuple[int, int]] = ()  # a pipeline's: request id and number of each command
        self.answer: Answer | _Replies | bytes | None = None


class _Replies:
    """The answers of a pipeline, which become bytes one at a time: all at once would keep the others waiting."""

    def __init__(self, requests: Sequence[tuple[int, int]], answers: Sequence[Answer]) -> None:
        self._left = deque(zip(requests, answers, strict=False))
        self._replies: list[tuple[int, int, bytes]] = []
        self.encoded_bytes = 0

    def encode_one(self) -> bool:
        """Returns whether that was the last. As many as one answer can hold; then it says that there were more."""
        if not self._left:
            return True
        (request_id, command_number), answer = self._left.popleft()
        number, payload = _reply(command_number, answer)
        self.encoded_bytes += len(payload) + PIPELINE_REPLY_BYTES
        if self.encoded_bytes > REPLY_PAYLOAD_BYTES_MAX:
            refusal = AnswerTooLargeError(
                f"answer too large: the replies of this pipeline exceed {REPLY_PAYLOAD_BYTES_MAX} bytes from here on; "
                "its commands have been carried out"
            )
            number, payload = _reply(command_number, refusal)
            self._left.clear()
        self._replies.append((request_id, number, payload))
        return not self._left

    def frame(self, request_id: int) -> bytes:
        """All of them; ends its use."""
        payload = encode_pipeline_response(self._replies)
        self._replies.clear()  # before it is copied into the frame
        return encode_reply(request_id, CommandNumber.PIPELINE_RESPONSE, payload)


class _Mark(NamedTuple):
    """Where a frame under way stood, so that it can be seen later whether it has got any further."""

    since_us: int
    frames_taken: int
    left_bytes: int


class Connection(asyncio.Protocol):
    """The server's end of one client's connection."""

    def __init__(self, server: Server, peer: str, accepted_us: int) -> None:
        self._server = server
        self._gate = server.gate
        self._principal: Principal | None = None
        self._accepted_us = self._heard_us = accepted_us
        self._reader = FrameReader(server.frame_bytes_max if self._gate is None else AUTH_FRAME_BYTES_MAX)
        self._frames_taken = 0
        self._coming: _Mark | None = None  # a half-sent frame, since the server looked
        self._going: _Mark | None = None  # answers that the client does not take
        self._taken: _Mark | None = None  # what lay with the kernel of them at the last look
        self._may_lie_there = False
        self.held_bytes = 0  # of requests and answers, as the server counts them
        self._slots: deque[_Slot] = deque()
        self._transport: asyncio.Transport | None = None
        self._waits_for: _Slot | None = None  # its command has not run yet
        self._waiting_bytes = 0  # of that request
        self._waiting_command: Command | None = None  # of it, unless it is a pipeline
        self._stop_pipeline: Callable[[], None] | None = None  # of the one that has not ended yet
        self._leave_check: Leave | None = None  # of the key that was shown
        self._outstanding_bytes = 0  # taken by the answers in the slots
        self._frames: list[bytes] = []  # encoded in this turn
        self._frames_bytes = 0
        self._is_encrypted = False
        self._unsent = memoryview(b"")  # of an encrypted connection, whose client is slow
        self._is_pumping = False
        self._is_turn_due = False
        self._ran_out_of_time = False
        self._is_peer_slow = False
        self._is_reading = True
        self._has_heard_all = False
        self._is_leaving = False
        self._costly_until_us = 0
        self._is_over = False
        self.peer = peer
        self.was_made = False
        self.is_given_up = False
        """It was to be made, and is not waited for any more."""

    # --- the event loop's calls ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there, its handshake done; a server that stops sends it away."""
        # uvloop's transports do not inherit from asyncio's, so this can not be asserted.
        self._transport = cast("asyncio.Transport", transport)
        if self.is_given_up:
            self._transport.abort()  # the loop had it made all the same, and may never say that it is lost
            return
        self.was_made = True
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        if not self._server.begin_with(self):
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone; answers that come now have nobody to go to, and no more of its commands are run."""
        del exc
        if self._transport is None:
            return  # it was said already
        self._transport = None
        self._let_go()
        if self.was_made:
            self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._reader.feed(data)
        self._pump()

    def eof_received(self) -> bool:
        """The client sends no more; whether the connection stays open until what it has asked for is answered.

        Most have left. So it does not where a command has yet to run, which may take long and be for nobody; and not
        under TLS, which has no such thing as half an end.
        """
        if self._is_encrypted or self._waits_for is not None or not (self._slots or self._reader.pending_bytes):
            return False
        self._has_heard_all = True
        self._pump()
        return True

    def pause_writing(self) -> None:
        """The client takes its answers too slowly."""
        self._is_peer_slow = True
        self._regulate()
        self._hold()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._is_peer_slow = False
        self._going = None
        self._write_unsent()
        self._pump()

    def recount(self) -> int:
        """Find out how much it holds; by how much that is more than it was. Whoever asks tells the server."""
        held_bytes = 0
        transport = self._transport
        if transport is not None and not self._is_over:
            going_bytes = transport.get_write_buffer_size()
            if self._is_peer_slow or going_bytes >= UNCOUNTED_BYTES:
                held_bytes += going_bytes + len(self._unsent)
            held_bytes += self._reader.pending_bytes + self._outstanding_bytes
            if self._waits_for is not None:
                held_bytes += self._waiting_bytes
            first = self._slots[0].answer if self._slots else None
            if isinstance(first, _Replies):
                held_bytes += first.encoded_bytes
        more_bytes = held_bytes - self.held_bytes
        self.held_bytes = held_bytes
        return more_bytes

    def _hold(self) -> None:
        """Tell the server how much this connection holds; it may be the one that has to go."""
        more_bytes = self.recount()
        if more_bytes:
            self._server.count_held(more_bytes)

    def _let_go(self) -> None:
        """Hold nothing more."""
        self._is_leaving = self._is_over = True
        self._slots.clear()
        if self._stop_pipeline is not None:
            self._stop_pipeline()
        if self._waits_for is not None and self._waiting_command is not None:
            self._server.database.give_up(self._waiting_command)
        if self._leave_check is not None:
            self._leave_check()
        self._frames.clear()
        self._unsent = memoryview(b"")
        self._reader = FrameReader(0)
        self._hold()

    # --- who it is ----------------------------------------------------------------------------------------------------

    @property
    def asker(self) -> str:
        """Among whom turns are shared out: the key's owner, or else whoever has the address."""
        return site_of(self.peer) if self._principal is None else f"key {self._principal.key_id}"

    @property
    def needs_key(self) -> bool:
        """Whether nothing is answered before a key is shown."""
        return self._gate is not None and self._principal is None

    def _may_go_on(self, request: Request, slot: _Slot) -> bool:
        """Whether the request may be looked at; if not, it is answered, or the key that it shows is being checked."""
        principal = self._principal
        if principal is None:
            self._authenticate(request, slot)
            return False
        if principal.is_expired():
            slot.answer = AuthenticationError(EXPIRED)
            self._is_leaving = True
            return False
        now_us = _steady_us()
        if not principal.bucket.take(now_us):
            slot.answer = RateLimitedError(RATE_LIMITED)
            return False
        self._heard_us = now_us
        if request.number == CommandNumber.AUTH:
            slot.answer = UnknownCommandError(f"unknown command: {request.number}")
            return False
        slot.answer = self._refusal(principal, request)
        return slot.answer is None

    def _refusal(self, principal: Principal, request: Request) -> GibramError | None:
        number, session_id = request.number, request.session_id
        return principal.refusal(number, session_id) or principal.refusal_to_begin(
            number, session_id, self._server.database.may_begin
        )

    def _authenticate(self, request: Request, slot: _Slot) -> None:
        if request.number != CommandNumber.AUTH:
            slot.answer = AuthenticationError("authentication required")
            self._is_leaving = True
            return
        assert self._gate is not None
        self._waits_for = slot
        try:
            found = partial(self._identified, slot)
            self._leave_check = self._gate.identify(self.peer, decode_auth(request.payload), found)
        except InvalidArgumentError as error:
            self._identified(slot, str(error))

    def _identified(self, slot: _Slot, found: Principal | str) -> None:
        self._leave_check = None
        if isinstance(found, Principal):
            self._principal = found
            self._server.admission.forget(self)
            self._heard_us = _steady_us()
            self._reader.frame_bytes_max = self._server.frame_bytes_max
            self._fill(slot, encode_reply(slot.request_id, *encode_auth_accepted(found.key_id, found.permissions)))
        else:
            self._is_leaving = True
            self._fill(slot, encode_reply(slot.request_id, *encode_auth_refused(found, is_busy=found is BUSY)))

    def check(self, now_us: int) -> None:
        """End it where its time is over; the server calls this from time to time."""
        if self._is_stalled(now_us):
            self._server.stalls.tell("closing a connection that stands still in the middle of a frame", peer=self.peer)
            self.abort()
        elif self._gate is None:
            pass  # who is silent between two frames may stay: clients of GibRAM are, for as long as they like
        elif self._principal is None:
            if now_us - self._accepted_us > self._server.unauth_timeout_us:
                self.abort()
        elif self._slots or self._reader.pending_bytes or self._unsent or self._is_peer_slow or self._is_taken(now_us):
            # Who waits for an answer, takes one or is in the middle of a frame is not idle; whoever does too little of
            # it stands still.
            self._heard_us = now_us
        elif now_us - self._heard_us > self._server.idle_timeout_us:
            self.abort()
        elif self._principal.is_expired():
            self.leave()
        self._hold()  # what the client has taken since the last look

    def _is_taken(self, now_us: int) -> bool:
        """Whether the client still takes, fast enough, what lies with the kernel of answers that have left."""
        assert self._transport is not None
        if not self._may_lie_there:
            return False  # the kernel is not asked about thousands that ask nothing
        left_bytes = _untaken_bytes(self._transport)
        before, self._taken = self._taken, _Mark(now_us, self._frames_taken, left_bytes) if left_bytes else None
        self._may_lie_there = left_bytes > 0
        if not left_bytes or before is None:
            return left_bytes > 0
        return _is_fast_enough(before.left_bytes - left_bytes, now_us - before.since_us)

    def _is_stalled(self, now_us: int) -> bool:
        """Whether a half-sent frame, or answers not taken, have moved too little since the server began to look."""
        coming_bytes = self._reader.pending_bytes
        if not coming_bytes or not self._is_reading or self._waits_for is not None:
            self._coming = None
        elif self._coming is None or self._coming.frames_taken != self._frames_taken:
            self._coming = _Mark(now_us, self._frames_taken, -coming_bytes)
        elif self._has_stood_still(self._coming, -coming_bytes, now_us):
            return True
        if not self._is_peer_slow or self._transport is None:
            return False
        left_bytes = _untaken_bytes(self._transport) + len(self._unsent)
        if self._going is None:
            self._going = _Mark(now_us, self._frames_taken, left_bytes)
        return self._has_stood_still(self._going, left_bytes, now_us)

    def _has_stood_still(self, mark: _Mark, left_bytes: int, now_us: int) -> bool:
        period_us = now_us - mark.since_us
        if period_us < self._server.stall_timeout_us:
            return False
        moved = _Mark(now_us, mark.frames_taken, left_bytes)
        if mark is self._coming:
            self._coming = moved
        else:
            self._going = moved
        return not _is_fast_enough(mark.left_bytes - left_bytes, period_us)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """One turn: run every command that has arrived and may run, send every answer that may leave."""
        if self._is_pumping:
            return
        if self._server.is_round_over and self._may_take_long():
            self._server.take_turn_next(self)
            self._ran_out_of_time = True
            self._regulate()
            self._hold()
            return
        self._is_pumping = True
        is_unfinished = False
        frames_taken = self._frames_taken
        try:
            until_us = _steady_us() + TURN_US_MAX
            while self._step():
                if _steady_us() > until_us:
                    is_unfinished = True
                    break
        except ProtocolError as error:
            self._server.nonsense.tell(
                "closing a connection that does not speak the protocol", peer=self.peer, why=str(error)
            )
            self._is_leaving = True
            self._reader = FrameReader(0)
        finally:
            self._is_pumping = False
        self._send()
        self._ran_out_of_time = is_unfinished
        if is_unfinished:
            if self._frames_taken != frames_taken:
                self._costly_until_us = _steady_us() + COSTLY_US
            self._server.end_round()
            # Behind those who come in this round.
            asyncio.get_running_loop().call_soon(self._server.take_turn_next, self)
        self._regulate()
        self._hold()

    def _may_take_long(self) -> bool:
        """What lies there, by its size, or by what this client has asked for lately."""
        pending_bytes = self._reader.pending_bytes
        return pending_bytes >= LARGE_FRAME_BYTES or (pending_bytes > 0 and _steady_us() < self._costly_until_us)

    def _step(self) -> bool:
        """Run the next command, unless an answer may leave; whether there was either."""
        slots = self._slots
        if not slots or slots[0].answer is None:
            if not self._may_take_more():
                return False
            body = self._reader.next_frame()
            if body is None:
                self._is_leaving |= self._has_heard_all
                return False
            self._frames_taken += 1
            self._serve(decode_request(body))
            self._waiting_bytes = len(body)
            if not slots or slots[0].answer is None:
                return True
        if self._is_peer_slow:
            return False
        if self._server.is_freeing:
            self._take_turn_soon()
            return False
        answer = slots[0].answer
        if not isinstance(answer, _Replies) or answer.encode_one():
            self._encode_next()
        return True

    def _take_turn_soon(self) -> None:
        if not self._is_turn_due:
            self._is_turn_due = True
            asyncio.get_running_loop().call_soon(self.take_turn)

    def take_turn(self) -> None:
        """Go on where time had run out; the server calls this when it is this connection's turn."""
        self._is_turn_due = False
        self._ran_out_of_time = False
        self._pump()

    def _may_take_more(self) -> bool:
        return (
            self._waits_for is None
            and not self._is_leaving
            and not self._is_peer_slow
            and len(self._slots) < OUTSTANDING_ANSWERS_MAX
            and self._outstanding_bytes < OUTSTANDING_BYTES_MAX
        )

    def _listens_while_it_waits(self) -> bool:
        """Whoever does not read does not hear that the client has gone, and that nobody wants its pipeline any more."""
        is_waiting = self._waits_for is not None and not self._is_leaving and not self._is_peer_slow
        return is_waiting and self._reader.pending_bytes < READ_AHEAD_BYTES

    def _regulate(self) -> None:
        """Read from the socket only while what comes can be worked on."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        may_read = not self._ran_out_of_time and (self._may_take_more() or self._listens_while_it_waits())
        if may_read and not self._is_reading:
            transport.resume_reading()
        elif not may_read and self._is_reading:
            transport.pause_reading()
        self._is_reading = may_read

    def _serve(self, request: Request) -> None:
        slot = _Slot(request.request_id or self._server.next_request_id(), request.number)
        self._slots.append(slot)
        principal = self._principal
        if self._gate is not None and not self._may_go_on(request, slot):
            return
        if request.number == CommandNumber.PIPELINE:
            self._serve_pipeline(request, slot)
            return
        try:
            if request.number == CommandNumber.AUTH:
                decode_auth(request.payload)  # whatever key it is, nobody asks for one
                slot.answer = encode_reply(slot.request_id, *encode_auth_accepted())
                return
            command = decode_command(request)
        except GibramError as error:
            slot.answer = error.as_answer()
            return
        if principal is not None:
            command = principal.signed(command)
        has_run = self._server.database.submit(command, partial(self._fill, slot), partial(self._weigh, slot))
        if not has_run and slot.answer is None:
            self._waits_for, self._waiting_command = slot, command

    def _serve_pipeline(self, request: Request, slot: _Slot) -> None:
        try:
            inner = decode_pipeline(request.payload, request.session_id)
        except GibramError as error:
            slot.answer = error.as_answer()
            return
        slot.inner = [(each.request_id or self._server.next_request_id(), each.number) for each in inner]
        self._weigh(slot, limits.ANSWERED_OBJECT_BYTES * len(inner))  # the commands and their numbers
        self._waits_for = slot
        answered, weigh = partial(self._answered, slot), partial(self._weigh, slot)
        stop = self._server.database.submit_batch(self._commands_of(inner), answered, weigh, is_bounded=True)
        if slot.answer is None:
            self._stop_pipeline = stop

    def _answered(self, slot: _Slot, answers: list[Answer]) -> None:
        self._stop_pipeline = None
        self._fill(slot, _Replies(slot.inner, answers))

    def _weigh(self, slot: _Slot, taken_bytes: int) -> None:
        slot.taken_bytes += taken_bytes
        self._outstanding_bytes += taken_bytes
        if not self._is_pumping and self._outstanding_bytes > self.held_bytes + UNCOUNTED_ANSWER_BYTES:
            self._hold()  # otherwise the turn does it at its end

    def _commands_of(self, inner: Sequence[Request]) -> Iterator[Command | GibramError]:
        """Each is decoded when it is to run: a small payload may hold a hundred thousand items, and so may the next."""
        for index, request in enumerate(inner):
            yield self._decoded(request, is_first=index == 0)

    def _decoded(self, request: Request, *, is_first: bool) -> Command | GibramError:
        """A command of a pipeline, or why there is none; the first is paid for by the frame around them."""
        if request.number == CommandNumber.AUTH:
            return UnknownCommandError(f"unknown command: {request.number}")
        principal = self._principal
        if principal is None:
            try:
                return decode_command(request)
            except CallerError as error:
                return error.as_answer()
        if principal.is_expired():  # those before it may have taken long
            self._is_leaving = True
            return AuthenticationError(EXPIRED)
        if not is_first and not principal.bucket.take(_steady_us()):
            return RateLimitedError(RATE_LIMITED)
        try:
            return self._refusal(principal, request) or principal.signed(decode_command(request))
        except CallerError as error:
            return error.as_answer()

    # --- answers ------------------------------------------------------------------------------------------------------

    def _fill(self, slot: _Slot, answer: Answer | _Replies | bytes) -> None:
        slot.answer = answer
        was_waited_for = self._waits_for is slot
        if was_waited_for:
            self._waits_for = self._waiting_command = None
        slots = self._slots
        if self._is_pumping or not slots:
            return  # the turn under way comes to it; or the client is gone
        if len(slots) > 1:
            # The store lets go of many answers at once: they leave together, within the time of a turn.
            if was_waited_for or slots[0] is slot:
                self._take_turn_soon()
        elif self._is_reading and not was_waited_for and not self._server.is_freeing:
            self._encode_next()
            self._send()
            self._hold()
        else:
            self._pump()

    def _encode_next(self) -> None:
        """Turn the first answer, which is there, into bytes."""
        slot = self._slots.popleft()
        self._outstanding_bytes -= slot.taken_bytes
        frame = _frame(slot)
        self._frames.append(frame)
        self._frames_bytes += len(frame)
        if self._frames_bytes > HELD_BYTES_MAX:
            self._send()

    def _send(self) -> None:
        """Hand over what is encoded; the transport may say at once that the client is slow."""
        transport = self._transport
        frames = self._frames
        if frames:
            self._frames = []
            self._frames_bytes = 0
            self._may_lie_there = True
            if transport is not None and not transport.is_closing():
                data = frames[0] if len(frames) == 1 else b"".join(frames)
                if self._is_encrypted and len(data) > TLS_WRITE_BYTES:
                    assert not self._unsent, "an answer was made for a client that is slow"
                    self._unsent = memoryview(data)
                    self._write_unsent()
                else:
                    transport.write(data)
        if self._is_leaving and not self._slots and not self._unsent and transport is not None:
            transport.close()

    def _write_unsent(self) -> None:
        """Write until the client is slow; what is left is written when it has caught up, and nothing before it."""
        while self._unsent and not self._is_peer_slow and self._transport is not None:
            if self._transport.is_closing():
                self._unsent = memoryview(b"")
                return
            piece, self._unsent = self._unsent[:TLS_WRITE_BYTES], self._unsent[TLS_WRITE_BYTES:]
            self._transport.write(piece)

    def leave(self) -> None:
        """Take no more requests; close when the last answer has left."""
        self._is_leaving = True
        self._pump()

    def has_given_all(self) -> bool:
        """Whether the client has taken every answer, as far as the system tells."""
        transport = self._transport
        if sys.platform != "linux" or transport is None:
            return False
        return not self._slots and not self._unsent and not _untaken_bytes(transport)

    def abort(self) -> None:
        """Close at once, and hold nothing more."""
        self._let_go()
        if self._transport is not None:
            self._transport.abort()


def _is_fast_enough(moved_bytes: int, period_us: int) -> bool:
    return moved_bytes * 1_000_000 >= BYTES_PER_SECOND_MIN * period_us


def _untaken_bytes(transport: asyncio.Transport) -> int:
    """What the client has still to take. The kernel's part counts: it lets us go on only in steps of a megabyte."""
    left_bytes = transport.get_write_buffer_size()
    peer = transport.get_extra_info("socket") if sys.platform == "linux" else None
    if peer is not None:  # with TLS it is gone a turn before the connection is told
        queued = fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(4))
        left_bytes += int.from_bytes(queued, sys.byteorder)
    return left_bytes


def _frame(slot: _Slot) -> bytes:
    answer = slot.answer
    if isinstance(answer, _Replies):
        return answer.frame(slot.request_id)
    if isinstance(answer, bytes):
        return answer
    assert answer is not None
    return encode_reply(slot.request_id, *_reply(slot.number, answer))


def _reply(command_number: int, answer: Answer) -> tuple[int, bytes]:
    """Number and payload of the answer."""
    if not isinstance(answer, GibramError):
        try:
            number, payload = encode_result(answer, Request(1, 0, command_number, "", b""))
            if len(payload) <= REPLY_PAYLOAD_BYTES_MAX:
                return number, payload
            answer = AnswerTooLargeError(
                f"answer too large: {len(payload)} bytes (max: {REPLY_PAYLOAD_BYTES_MAX}); the command was carried out"
            )
        except GibramError as error:
            answer = error
        except Exception:  # the edge of one answer: a defect in it must not cost the connection's other answers
            log.exception("an answer could not be encoded", extra={"command": command_number})
            answer = InternalError("internal error while encoding the answer; the command itself was carried out")
    return CommandNumber.ERROR, encode_error(answer)
