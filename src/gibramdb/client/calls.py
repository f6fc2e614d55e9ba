"""A call on a server, from commands to answers: everything about it except the bytes' way in and out.

The blocking and the asynchronous client run the same generators. What has to wait is asked of an `Io` and a `Stream`:
theirs is the only code that differs. A blocking one has waited when it returns; an asynchronous one returns something
to await, which `yield` hands to whoever runs the generator.

Owns: the pool of connections, request ids, AUTH, pipelines, what is tried again and when.
Never: touches a socket; knows what a command means.

Invariants:
- A connection serves one call at a time, and is closed after any fault: its next bytes would answer somebody else.
- An answer is taken only if it names the request that was sent last on its connection.
- A write is sent again only where the server can not have carried it out (it was refused, or never left whole), or will
  not carry it out twice: it is marked with a token, and the server remembers tokens.
- An outcome that became unknown stays so until the same write has been answered: no later refusal takes its place.
- A call ends within its time, whatever it waits for: a place in the pool, the addresses of a name, a connection, TLS,
  AUTH, an answer, the next try. For a batch that time begins anew whenever some of it has been answered.
- The error of a call for which there is no connection is held by no frame that it holds itself: only the collector of
  garbage would free the two, and with thousands of such calls at once all of them would end seconds late.
- A batch that the rate holds up goes on at the rate, in order; what was answered is never sent again, nor lost with an
  error.

One module, because what may be tried again rests on all of it: connections, request ids, times and pipelines.
"""

from __future__ import annotations

import os
import random
import ssl
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from gibramdb.client.address import Address
from gibramdb.client.greeting import decode_welcome, encode_auth
from gibramdb.clock import SystemClock
from gibramdb.core.limits import PIPELINE_OBJECTS_MAX
from gibramdb.errors import (
    AuthenticationError,
    CallerError,
    ClosedError,
    ConnectionFailedError,
    GibramError,
    InvalidArgumentError,
    OutcomeUnknownError,
    PermissionDeniedError,
    PipelineFullError,
    ProtocolError,
    RateLimitedError,
    StartingError,
    UnavailableError,
    in_brief,
)
from gibramdb.model.commands import Command, GetHealth, ReadCommand, WriteCommand, only_asks
from gibramdb.model.field_types import checked, checked_batch
from gibramdb.model.results import Health
from gibramdb.session import check_timeout_s, ended_early
from gibramdb.wire.codec import (
    Reply,
    decode_pipeline_reply,
    decode_reply,
    encode_command,
    encode_pipeline,
    objects_asked,
    read_reply,
)
from gibramdb.wire.framing import HEADER, FrameReader

TIMEOUT_S = 30.0
CONNECTIONS_MAX = 16
"""One client's connections, unless told otherwise; a server lets in 50 from one address by default."""
PIPELINE_COMMANDS_MAX = 5_000
PIPELINE_BYTES_MAX = 2 * 1024 * 1024
"""Commands in one pipeline, and about their bytes: half of what a server takes by default."""
REPLY_BYTES_MAX = 256 * 1024 * 1024
"""A longer answer is refused: it can only come from something that is not this protocol."""
OWN_TOKEN_BYTES = 16
"""Of random: no two writes ever have the same."""
TRIES_MAX = 4
"""How often a connection to a server that is not waited for is tried, a read asked, or a write under which connections
break while the server is there, before its error is raised."""
FRAME_BYTES_LARGE = 16 * 1024
"""A server may have been told to refuse such a one; it does so by closing the connection."""
FRAME_BYTES_GREETING = 4_096
"""The longest frame a server reads of somebody who has not shown a key."""
PAUSE_S_FIRST = 0.05
PAUSE_S_MAX = 1.0
"""Before the second try at most the first; it doubles with each. Half of it is random, so that many clients spread."""
PAUSE_S_PACED = 0.01
"""The first one of a batch that the rate lets through piece by piece: shorter than what a bucket takes to fill, or the
rate that it grants meanwhile is lost."""

_steady_us = SystemClock().steady_us

T = TypeVar("T")
Steps = Generator[Any, Any, T]
"""What a call does, step by step; it ends with a T."""


class Deadline:
    """When a call has to be over, however many waits it is made of."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end_us = _steady_us() + int(timeout_s * 1e6)

    def remaining_s(self, parts: int = 1) -> float:
        """Above 0; of what remains, one of so many equal parts. Raises TimeoutError."""
        remaining_us = self._end_us - _steady_us()
        if remaining_us <= 0:
            raise self.passed()
        return remaining_us / 1e6 / parts

    def passed(self) -> TimeoutError:
        """The error that says so."""
        return TimeoutError(f"timed out after {self._timeout_s:g} s")


class Stream(Protocol):
    """The bytes of one connection. Every failure is an OSError, a deadline that has passed a TimeoutError."""

    knows_what_left: bool
    """Whether a `send` that fails has certainly not sent everything."""

    def is_stale(self) -> bool:
        """Whether the server has closed it since the last answer, or says something that nobody asked for."""
        ...

    def send(self, data: bytes, deadline: Deadline) -> Any:
        """Send all of it."""
        ...

    def receive(self, deadline: Deadline) -> Any:
        """The next bytes; none at the end."""
        ...

    def close(self) -> None:
        """Close it without waiting."""
        ...


class Io(Protocol):
    """What a call waits for beside its stream."""

    def enter(self, deadline: Deadline) -> Any:
        """Wait for one of the places that the pool has, and answer it. Raises TimeoutError."""
        ...

    def leave(self, place: Any, /) -> None:
        """Give the place back."""
        ...

    def open(self, address: Address, deadline: Deadline) -> Any:
        """A stream to the server, past the TLS handshake. Raises OSError, UnicodeError.

        Of the addresses of a name that are still to be tried, each has an equal part of the time that remains.
        """
        ...

    def pause(self, seconds: float) -> Any:
        """Wait."""
        ...


S = TypeVar("S", bound=Stream)


class Connection(Generic[S]):
    """A stream, and what has been said on it."""

    def __init__(self, address: Address, stream: S, pool: Pool[S]) -> None:
        self._address = address
        self.stream = stream
        self._pool = pool
        self._reader = FrameReader(REPLY_BYTES_MAX)
        self._request_id = 0

    def ask(
        self,
        encode: Callable[[int], bytes],
        deadline: Deadline,
        *,
        only_asks: bool = False,
        is_greeting: bool = False,
    ) -> Steps[Reply]:
        """Send the frame that `encode` makes for a request id, and wait for the answer to it.

        only_asks: nothing in the frame changes anything.
        is_greeting: the frame is AUTH: it changes nothing, and an answer that names request 0, as GibRAM's, will do.

        Raises:
            ConnectionFailedError: the frame did not leave whole, so nothing was carried out; or it only asks.
            OutcomeUnknownError: something may have been carried out.
            ProtocolError: what came is no answer to it.
        """
        request_id = self._request_id = self._request_id + 1
        frame = encode(request_id)
        try:
            yield self.stream.send(frame, deadline)
        except OSError as error:
            was_sent = not self.stream.knows_what_left
            raise self._broken(
                error, len(frame), was_sent=was_sent, only_asks=only_asks, is_greeting=is_greeting
            ) from error
        try:
            while (body := self._reader.next_frame()) is None:
                data = yield self.stream.receive(deadline)
                if not data:
                    raise ConnectionResetError("the server closed it")
                self._reader.feed(data)
        except OSError as error:
            raise self._broken(
                error, len(frame), was_sent=True, only_asks=only_asks, is_greeting=is_greeting
            ) from error
        except ProtocolError as error:
            raise ProtocolError(
                f"{self._address} answered with bytes that are no frame: {error}{self._tls_hint()}"
            ) from None
        reply = read_reply(body)
        self._pool.was_answered = True
        self._pool.unreachable_why = ""
        if reply.request_id != request_id and (reply.request_id or not is_greeting):
            raise ProtocolError(f"expected the answer to request {request_id}, got one to {reply.request_id}")
        return reply

    def _tls_hint(self) -> str:
        """What it may be, where no answer has ever come."""
        is_likely = self._address.tls is None and not self._pool.was_answered
        return "; if it speaks TLS, connect with gibrams:// or tls=" if is_likely else ""

    def _broken(
        self, error: OSError, frame_bytes: int, *, was_sent: bool, only_asks: bool, is_greeting: bool
    ) -> GibramError:
        hint = self._tls_hint()
        if not isinstance(error, TimeoutError):
            if self._request_id == 1:
                hint += "; a server closes a new connection at once if it has as many as its security.max_connections "
                hint += "and security.max_conns_per_ip allow"
            if is_greeting and frame_bytes - HEADER.size > FRAME_BYTES_GREETING:
                hint = f"; the API key makes a frame of {frame_bytes - HEADER.size} bytes, and a server closes the "
                hint += f"connection of one above {FRAME_BYTES_GREETING}"
            elif frame_bytes >= FRAME_BYTES_LARGE:
                hint = (
                    f"; the request has {frame_bytes - HEADER.size} bytes, and a server closes the connection of one "
                )
                hint += "above its security.max_frame_size"
        if is_greeting:
            return ConnectionFailedError(f"{self._address} did not answer AUTH: {error}{hint}; nothing was carried out")
        why = f"the connection to {self._address} broke: {error}{hint}"
        if only_asks:
            return ConnectionFailedError(f"{why}; nothing was to be changed")
        if was_sent:
            return OutcomeUnknownError(f"{why}; what was under way may or may not have been carried out")
        return ConnectionFailedError(f"{why}; the request had not left, so nothing was carried out")


def check_connections_max(connections_max: int) -> int:
    """The number. Raises InvalidArgumentError if it is none, or leaves no connection."""
    if type(connections_max) is not int or connections_max < 1:
        raise InvalidArgumentError(
            f"connections_max must be a whole number of at least 1, got {in_brief(connections_max)}"
        )
    return connections_max


Ask = Callable[[Connection[Any], Sequence[Command], Deadline], Steps[list[Any]]]
"""Asks for commands on a connection, and waits for the answers."""


class Pool(Generic[S]):
    """The connections that no call uses at the moment. Safe between threads."""

    def __init__(self) -> None:
        self._idle: list[Connection[S]] = []
        self._lock = threading.Lock()
        self._owner_pid = os.getpid()
        self._is_closed = False
        self.was_answered = False
        """Whether the server has ever said anything on any connection."""
        self.unreachable_why = ""
        """Of the last connection that could not be opened, if none has been opened or answered since."""

    def take(self) -> Connection[S] | None:
        """The one used last, or None. Raises ClosedError."""
        with self._lock:
            if self._is_closed:
                raise ClosedError("the client is closed")
            if os.getpid() != self._owner_pid:
                # A forked child shares its parent's sockets: answers would reach the wrong one. It opens its own.
                self._idle, self._owner_pid = [], os.getpid()
            return self._idle.pop() if self._idle else None

    def give_back(self, connection: Connection[S]) -> None:
        """Keep it for the next call."""
        with self._lock:
            if not self._is_closed:
                self._idle.append(connection)
                return
        connection.stream.close()

    def close(self) -> None:
        """Close those that are here now, and each of the others when it comes back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.stream.close()


class Caller(Generic[S]):
    """Makes calls on one server: each on a connection of its own out of the pool."""

    def __init__(
        self, address: Address, io: Io, pool: Pool[S], timeout_s: float, *, retries_writes: bool = False
    ) -> None:
        self._address = address
        self._io = io
        self._pool = pool
        self._timeout_s = check_timeout_s(timeout_s)
        self._retries_writes = retries_writes

    def with_timeout(self, timeout_s: float) -> Caller[S]:
        """Another over the same connections."""
        return Caller(self._address, self._io, self._pool, timeout_s, retries_writes=self._retries_writes)

    def _marked(self, command: Command) -> Command:
        if not self._retries_writes or not isinstance(command, WriteCommand) or command.token:
            return command
        return msgspec.structs.replace(command, token=os.urandom(OWN_TOKEN_BYTES))

    def call(self, command: Command) -> Steps[Any]:
        """The command's result. Raises the error it was refused with."""
        command = checked(command)
        results: list[Any] = []
        yield from self._run((self._marked(command),), _ask_one, results)
        return results[0]

    def call_batch(self, batch: Sequence[Command]) -> Steps[list[Any]]:
        """Results in order, by pipelines, of which the next goes out when the last is answered.

        Each has the time of a call. Raises the first error, with the results of what ran before it.
        """
        batch = checked_batch(batch)
        results: list[Any] = []
        try:
            for part in pipelines([self._marked(command) for command in batch]):
                yield from self._run(part, _ask_many, results)
        except GibramError as error:
            if not results:
                raise
            told = f"{len(results)} of {len(batch)} commands were answered before it"
            raise ended_early(error, results, told) from error
        return results

    def _run(self, batch: Sequence[Command], ask: Ask, results: list[Any]) -> Steps[None]:
        """Add their results to `results`; what may be tried again is. Raises the first error that stays."""
        deadline = Deadline(self._timeout_s)
        done, width = 0, len(batch)
        failures = breaks = 0  # since something was answered; of the connection
        broke_alone = 0  # breaks of a write in a row at which the server was there all the same
        unknown: OutcomeUnknownError | None = None  # of a write: then only an answer ends the call before its time
        unknown_end = 0  # where those end whose outcome it is
        while done < len(batch):
            asked = batch[done : done + width]
            pause_s_first = PAUSE_S_FIRST
            try:
                answers = yield from self._one_try(asked, ask, deadline)
            except (OutcomeUnknownError, ConnectionFailedError) as error:
                failures += 1
                if not self._is_waited_for(error):
                    breaks += 1
                if isinstance(error, OutcomeUnknownError):
                    if not is_repeatable(asked):
                        raise
                    unknown, unknown_end = unknown or error, max(unknown_end, done + len(asked))
                if unknown is None:
                    if breaks >= TRIES_MAX or is_lasting(error.__cause__):
                        raise
                else:
                    tries = yield from self._tries_until_remembering(deadline)
                    if not tries:
                        raise unknown from error.__cause__
                    broke_alone = broke_alone + 1 if tries == 1 else 0  # one that was away may just have been restarted
                    if broke_alone >= TRIES_MAX:
                        told = f"{unknown}; it broke {broke_alone} times, though the server answers otherwise"
                        raise OutcomeUnknownError(told) from error.__cause__
                refusal: GibramError = unknown or error
            except GibramError as error:
                # No answer to this write: AUTH was refused on the way to it, or what came is no answer.
                if unknown is None:
                    raise
                if isinstance(error, ClosedError):
                    raise unknown from error
                failures += 1
                refusal = unknown
            else:
                refused = answers.pop() if isinstance(answers[-1], GibramError) else None
                if answers:
                    results += answers
                    done += len(answers)
                    failures = breaks = broke_alone = 0
                    deadline = Deadline(self._timeout_s)
                    if done >= unknown_end:
                        unknown = None
                if refused is None:
                    width *= 2
                    continue
                if answers and isinstance(refused, PipelineFullError):
                    width = len(answers)  # what follows will hardly weigh less
                    continue
                if unknown is not None and isinstance(refused, AuthenticationError | PermissionDeniedError):
                    raise unknown from refused  # the server has not looked at the write this time
                if not isinstance(refused, (RateLimitedError, StartingError) if unknown is None else UnavailableError):
                    raise self._explained(refused)
                # Refused before it was carried out, and those before it in a pipeline were: go on from there.
                failures += 1
                if isinstance(refused, RateLimitedError):
                    # About as much as may pass: what is refused has been encoded, sent and decoded for nothing.
                    width = 2 * len(answers) or max(1, len(asked) // 2)
                    if results:
                        pause_s_first = PAUSE_S_PACED
                refusal = unknown or refused
            try:
                yield from self._pause(pause_s_first, failures, deadline, refusal)
            finally:
                del refusal  # see the invariants

    def _is_waited_for(self, error: GibramError) -> bool:
        """Whether the server has answered before, is away, and this client's calls are to outlast its restarts."""
        is_away = isinstance(error, ConnectionFailedError) and not error.was_connected
        return is_away and self._retries_writes and self._pool.was_answered

    def _pause(self, first_s: float, failures: int, deadline: Deadline, refusal: GibramError) -> Steps[None]:
        """Wait before the next try. Raises the refusal if there is no time for one."""
        pause_s = min(first_s * 2 ** min(failures - 1, 10), PAUSE_S_MAX) * random.uniform(0.5, 1)  # noqa: S311
        try:
            remaining_s = deadline.remaining_s()
        except TimeoutError:
            remaining_s = 0
        if pause_s >= remaining_s:
            try:
                raise refusal
            finally:
                del refusal  # see the invariants
        yield self._io.pause(pause_s)

    def _tries_until_remembering(self, deadline: Deadline) -> Steps[int]:
        """How often it took to ask until a server says that it remembers tokens; 0 if it says that it does not.

        GibRAM 0.3.0 would carry the write out a second time.
        """
        tries = 0
        while True:
            tries += 1
            try:
                answer = (yield from self._one_try((GetHealth(),), _ask_one, deadline))[0]
            except ClosedError:
                return 0
            except GibramError:  # not let in just now, for example
                answer = None
            if isinstance(answer, Health):
                return tries if "tokens" in answer.components else 0
            if isinstance(answer, CallerError):
                return 0
            try:
                yield self._io.pause(min(PAUSE_S_MAX, deadline.remaining_s()))
            except TimeoutError:
                return 0

    def _one_try(
        self,
        asked: Sequence[Command],
        ask: Ask,
        deadline: Deadline,
    ) -> Steps[list[Any]]:
        """Answers to at least the first; only the last can be an error, and is if there are fewer than commands."""
        try:
            place = yield self._io.enter(deadline)
        except TimeoutError as error:
            if self._pool.unreachable_why:
                why = f"{self._pool.unreachable_why}; other calls met that, and behind them this one {error}"
            else:
                why = f"all connections to {self._address} were in use, and no other may be opened: {error}"
            raise ConnectionFailedError(why) from error
        try:
            connection = self._take() or (yield from self._welcomed(deadline))
            try:
                answers = yield from ask(connection, asked, deadline)
            except CallerError:  # by us, before anything was sent: a server's are values
                self._pool.give_back(connection)
                raise
            except BaseException:
                connection.stream.close()
                raise
            if answers and isinstance(answers[-1], AuthenticationError):
                connection.stream.close()  # the server does so in a moment; what is sent meanwhile would be in doubt
            else:
                self._pool.give_back(connection)
            return answers
        finally:
            self._io.leave(place)

    def _take(self) -> Connection[S] | None:
        while (connection := self._pool.take()) is not None:
            if not connection.stream.is_stale():
                return connection
            connection.stream.close()
        return None

    def _welcomed(self, deadline: Deadline) -> Steps[Connection[S]]:
        """A connection on which the server has let us in; while it is too busy to say, it is asked again."""
        tries = 0
        while True:
            connection = yield from self._open(deadline)
            busy = (yield from self._greet(connection, deadline)) if self._address.api_key else ""
            if not busy:
                return connection
            connection.stream.close()
            tries += 1
            refusal = UnavailableError(f"{self._address} does not let us in now: {busy}; nothing was carried out")
            yield from self._pause(PAUSE_S_FIRST, tries, deadline, refusal)

    def _open(self, deadline: Deadline) -> Steps[Connection[S]]:
        address = self._address
        try:
            stream: S = yield self._io.open(address, deadline)
        except (OSError, UnicodeError) as error:  # a host name that can not be one is a UnicodeError
            if isinstance(error, ssl.SSLCertVerificationError):
                why = f"{address} is not trusted: {error.verify_message}; tls= or --tls takes a file with the "
                why += "certificate to trust, tls_server_name= the name in it"
            elif isinstance(error, ssl.SSLError):
                why = f"no TLS with {address}: {error.reason or error}; if it speaks none, connect with gibram://"
            else:
                why = f"no server answers at {address}: {error}; start one with `gibramdb serve`"
            if not (isinstance(error, TimeoutError) and self._pool.unreachable_why):  # which says more
                self._pool.unreachable_why = why
            failed = ConnectionFailedError(why)
            failed.was_connected = False
            try:
                raise failed from error
            finally:
                del failed  # see the invariants
        self._pool.unreachable_why = ""
        return Connection(address, stream, self._pool)

    def _greet(self, connection: Connection[S], deadline: Deadline) -> Steps[str]:
        """Show the key; see `decode_welcome`."""
        try:
            reply = yield from connection.ask(
                lambda request_id: encode_auth(self._address.api_key, request_id), deadline, is_greeting=True
            )
            return decode_welcome(reply)
        except BaseException:
            connection.stream.close()
            raise

    def _explained(self, error: GibramError) -> GibramError:
        """What a server refused with, and what to do where we know it."""
        if isinstance(error, AuthenticationError) and not self._address.api_key:
            return AuthenticationError(f"{error}; give the API key in the address, gibram://KEY@host, or as api_key=")
        return error

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()


def _ask_one(connection: Connection[Any], asked: Sequence[Command], deadline: Deadline) -> Steps[list[Any]]:
    """The answer to the one command there is."""
    (command,) = asked
    reply = yield from connection.ask(
        lambda request_id: encode_command(command, request_id), deadline, only_asks=only_asks(asked)
    )
    return [decode_reply(reply.number, reply.payload, command)]


def _ask_many(connection: Connection[Any], asked: Sequence[Command], deadline: Deadline) -> Steps[list[Any]]:
    """The answers to a pipeline."""
    reply = yield from connection.ask(
        lambda request_id: encode_pipeline(asked, request_id), deadline, only_asks=only_asks(asked)
    )
    return decode_pipeline_reply(reply.number, reply.payload, asked)


def is_lasting(cause: BaseException | None) -> bool:
    """Whether it will be the same in a moment: who is not trusted now will not be, what is no host's name stays none.

    A handshake that only ended may be that of a server that was stopped. Early releases of Python 3.11 call that end a
    close that was announced.
    """
    only_ended = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return isinstance(cause, ssl.SSLError | UnicodeError) and not only_ended


def is_repeatable(batch: Sequence[Command]) -> bool:
    """Whether carrying it out twice changes nothing twice, at a server that remembers tokens."""
    return all(
        isinstance(command, ReadCommand)
        or (isinstance(command, WriteCommand) and command.is_remembered and bool(command.token))
        for command in batch
    )


def pipelines(batch: Sequence[Command]) -> Iterator[Sequence[Command]]:
    """The batch in parts that a server takes in one frame."""
    start = size_bytes = objects = 0
    for index, command in enumerate(batch):
        command_bytes, command_objects = len(encode_command(command, index)), max(1, objects_asked(command))
        if index > start and (
            index - start == PIPELINE_COMMANDS_MAX
            or size_bytes + command_bytes > PIPELINE_BYTES_MAX
            or objects + command_objects > PIPELINE_OBJECTS_MAX
        ):
            yield batch[start:index]
            start, size_bytes, objects = index, 0, 0
        size_bytes += command_bytes
        objects += command_objects
    if start < len(batch):
        yield batch[start:]
