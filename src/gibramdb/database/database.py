"""The store as one thing: what it holds, the journal, and the one road that every change takes.

    decide -> encode -> apply -> enqueue -> (sync) -> answer

The first four happen in one turn of the thread that owns the store. An answer carries the LSN it depends on, and leaves
when the journal has released it: results, refusals and empty answers alike, since each of them tells what is kept.

Owns: the state, the journal, the queries that can be explained, answers that wait for the log. Detections and pipelines
that have not ended are owned by rooms beside it; what they run takes the same road, by `start`.
Never: opens a socket; knows who asked; knows whether it keeps anything (that is the journal's matter).

Invariants:
- Every method but `close` runs on the owner's thread; `post` brings a call there from anywhere.
- An exception between the end of decide and the end of enqueue halts the store: memory and log may differ.
- `done` is called exactly once for each command, on the owner's thread.

One module, because the order of these steps is what the promises rest on, and it can be read here from end to end.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

from gibramdb.clock import Clock
from gibramdb.core import limits as bounds
from gibramdb.core.apply import apply
from gibramdb.core.decide import decide
from gibramdb.core.decide.admission import live_session
from gibramdb.core.digest import digest_steps
from gibramdb.core.limits import Limits
from gibramdb.core.state import SessionState, StoreState
from gibramdb.database import health
from gibramdb.database.answers import Answer, Done_, Executed, Finish, Weigh, give, taken_bytes, told_in
from gibramdb.database.detections import Detections
from gibramdb.database.detector import Post
from gibramdb.database.journal import Journal
from gibramdb.database.pipelines import COMMANDS_TURN_US, Pipelines
from gibramdb.database.reads import READS
from gibramdb.database.snapshots import NEVER_LSN, SnapshotFacts, Snapshots
from gibramdb.errors import (
    CallerError,
    ClosedError,
    GibramError,
    HaltedError,
    InternalError,
    LimitExceededError,
    NotFoundError,
    OutcomeUnknownError,
    UnavailableError,
)
from gibramdb.model import commands
from gibramdb.model.commands import AdminCommand, Command, ReadCommand, WriteCommand
from gibramdb.model.ids import NO_LSN, Lsn
from gibramdb.model.mutations import SessionEnded, SessionReadNoted
from gibramdb.model.results import (
    Digest,
    Done,
    Explanation,
    Health,
    Info,
    Pong,
    QueryResult,
    Result,
)
from gibramdb.model.scope import SessionScope
from gibramdb.retrieval import query
from gibramdb.storage import record
from gibramdb.storage.wal import RECORD_BYTES_MAX

log = logging.getLogger(__name__)

T = TypeVar("T")

TURN_US = 2_000
"""So long the steps of one long command run, or objects are freed, in one turn; then others get theirs."""
CLOCK_DISAGREEMENT_MAX_MS = 60_000
"""Beyond this, wall clock and steady clock contradict each other, and nothing expires."""
READ_NOTES_PER_IDLE_TTL = 8


class Facts(NamedTuple):
    """How the store is set up, as INFO and HEALTH tell it."""

    version: str
    mode: str
    sync_policy: str
    sync_interval_ms: int
    recovery_duration_ms: int
    recovered_records: int
    torn_bytes: int
    warnings: tuple[str, ...]


class _Waiting(NamedTuple):
    lsn: Lsn
    done: Done_
    answer: Answer
    has_changed: bool
    """Whether something was logged for it, of which nobody knows whether it is kept if the log fails now."""


class _Long(NamedTuple):
    """A command whose steps take more than one turn, and what becomes of what they give. `session_id`: "" for all."""

    session_id: str
    steps: Generator[None, None, Any]
    then: Callable[[Any], Executed | None]
    finish: Finish


class _NoRoomError(Exception):
    """Nothing has changed; the command is decided anew when the log has room for this many bytes."""

    def __init__(self, payload_bytes: int) -> None:
        super().__init__(payload_bytes)
        self.payload_bytes = payload_bytes


class Database:
    """One store. `database.opening` builds it."""

    def __init__(
        self, state: StoreState, journal: Journal, limits: Limits, clock: Clock, facts: Facts, post: Post
    ) -> None:
        self.state = state
        self.journal = journal
        self.facts = facts
        self._limits = limits
        self._clock = clock
        self._post = post
        self._waiting: list[_Waiting] = []
        self._explanations: OrderedDict[int, tuple[str, Lsn, Explanation]] = OrderedDict()
        self._explained_bytes = 0
        self._last_query_id = 0
        self._halted_because: GibramError | None = None
        self._is_closed = False
        self._wall_minus_steady_ms = clock.now_ms() - clock.steady_ms()
        self._detections = Detections(self, post)
        self._pipelines = Pipelines(self, clock, post)
        self._names_in: dict[SessionScope, set[str]] = {}  # of the sessions there are, for the scopes asked about
        # While there are pauses, and until what came meanwhile has run.
        self._held: deque[tuple[Command, Finish]] | None = None
        self._pauses = 0
        self._over: list[str] = []  # sessions that the last sweep has found, and that have not ended yet
        self._expires_later = False
        self._goes_on = False
        self._longs: dict[str, _Long] = {}  # by session, the one whose turn it is first; "" for all sessions
        # Of sessions on which something long runs, and until what came meanwhile has run.
        self._held_of: dict[str, deque[tuple[Command, Finish]]] = {}
        self.snapshots: Snapshots | None = None
        state.serving_since_ms = clock.now_ms()

    # --- asking -------------------------------------------------------------------------------------------------------

    def submit(self, command: Command, done: Done_, weigh: Weigh | None = None) -> bool:
        """Run a command; `done` gets the answer once it may be shown, perhaps before this returns.

        Returns whether the command has run. If not, it waits for room in the log or for a computation, and who needs
        commands to run in order waits for `done` before submitting the next.
        """
        is_write = isinstance(command, WriteCommand)

        def finish(answer: Answer, lsn: Lsn) -> None:
            if weigh is not None:
                weigh(taken_bytes(*told_in(answer)))
            self.answer(answer, lsn, done, has_changed=is_write and not isinstance(answer, GibramError))

        executed = self.start(command, finish)
        if executed is None:
            return False
        finish(executed.answer, executed.lsn)
        return True

    def submit_batch(
        self,
        items: Iterable[Command | GibramError],
        done: Callable[[list[Answer]], None],
        weigh: Weigh | None = None,
        *,
        is_bounded: bool = False,
    ) -> Callable[[], None]:
        """Run commands one after the other, up to the first that fails; an error in `items` is one that has failed.

        Each is taken out of `items` when it is to run.

        is_bounded: once the answers tell of as much as those of one pipeline may, the next command is refused:
        PipelineFullError.

        Nothing is rolled back. `done` gets the answers of those that ran, once the last of them may be shown. What is
        returned may be called when nobody waits any more: then no further command is run.
        """
        return self._pipelines.begin(items, done, weigh, is_bounded=is_bounded)

    def give_up(self, command: Command) -> None:
        """Nobody waits for it any more: if it computes, or is to compute, communities, it need not. Others run."""
        if command.handler != "detect":
            return
        finish = self._detections.withdraw(command) or self._withdraw_held(command)
        if finish is not None:
            finish(ClosedError("nobody waits for these communities any more; nothing was changed"), NO_LSN)

    def _withdraw_held(self, command: Command) -> Finish | None:
        for held in (*self._held_of.values(), self._held or deque()):
            for place, (waiting, finish) in enumerate(held):
                if waiting is command:
                    del held[place]
                    return finish
        return None

    def start(self, command: Command, finish: Finish) -> Executed | None:
        """Run it, or arrange that it runs later and then calls `finish`."""
        held = self._queue_for(command)
        if held is not None and self._refusal() is None:
            held.append((command, finish))
            return None
        return self._run(command, finish)

    def _queue_for(self, command: Command) -> deque[tuple[Command, Finish]] | None:
        """Where it has to wait, if it has to."""
        if command.handler == "exempt":
            return None
        return self._held_of.get(getattr(command, "session_id", ""), self._held)

    def _run(self, command: Command, finish: Finish) -> Executed | None:
        """As `start`, of a command whose turn it is."""
        refusal = self._refusal()
        if refusal is not None:
            if command.handler == "exempt" and not self._is_closed:
                return self._read_exempt(command)
            return Executed(refusal, NO_LSN)
        try:
            try:
                return self._HANDLERS[command.handler](self, command, finish)
            except CallerError as error:
                return Executed(error.as_answer(), self._lsn_seen(getattr(command, "session_id", "")))
        except _NoRoomError as need:
            self._wait_for_room(command, need.payload_bytes, finish)
            return None
        except GibramError as error:
            return Executed(error.as_answer(), NO_LSN)
        except Exception:  # the edge of one command: a defect met while nothing has changed costs only this command
            log.exception("a command failed in a way that is a defect of ours: %s", type(command).__name__)
            halted = self._refusal()
            if halted is not None:
                return Executed(halted, NO_LSN)  # it was a note of this read that could not be applied
            return Executed(InternalError(f"internal error in {type(command).__name__}; nothing was changed"), NO_LSN)

    def _refusal(self) -> GibramError | None:
        if self._is_closed:
            return ClosedError("the store is closed")
        failure = self._halted_because or self.journal.failure
        if failure is None:
            return None
        return HaltedError(f"durable session store is unhealthy: {failure}")

    # --- writing ------------------------------------------------------------------------------------------------------

    def _write(self, command: WriteCommand) -> Executed:
        assert not self._pauses, "nothing is logged while a restore may be taking the log's place"
        now_ms = self.now_ms()
        sessions = self.state.sessions
        if len(sessions) >= self._limits.sessions_max and command.session_id not in sessions:
            self.expire_sessions()  # those whose time is over need not keep a new one out until the next sweep
        mutation, result = decide(self.state, command, now_ms, self._limits)
        if mutation is None:
            return Executed(result, self._lsn_seen(command.session_id))
        payload, mutation = record.settle(mutation)
        if len(payload) > RECORD_BYTES_MAX:
            raise LimitExceededError(f"record too large: {len(payload)} bytes (max: {RECORD_BYTES_MAX})")
        if not self.journal.has_room(len(payload)):
            raise _NoRoomError(len(payload))
        if self.snapshots is not None and self.snapshots.unfrozen:
            self.snapshots.freeze(command.session_id)
        before = sessions.get(command.session_id)
        try:
            lsn = self.journal.lsn_after(len(payload))
            apply(self.state, mutation, lsn)
            self.journal.enqueue(payload)
        except BaseException as error:
            self._halt(error)
            raise OutcomeUnknownError(f"the store is halted, this write may or may not be kept: {error!r}") from error
        if self.snapshots is not None and lsn >= self.snapshots.due_lsn:
            self.snapshots.due_lsn = NEVER_LSN
            self._post(self.snapshots.tick)  # in a turn of its own: this write is done, whatever comes of that
        if sessions.get(command.session_id) is not before:
            self._note_name(command.session_id)
            if before is not None:
                self._let_go([before])
        return Executed(result, lsn)

    def _halt(self, error: BaseException) -> None:
        log.critical("applying a change failed, the store is halted", exc_info=error)
        self._halted_because = InternalError(
            f"internal apply failure: {error!r}; memory may differ from the log; next: send no more traffic, keep what "
            "the server has logged, and start it again once the cause is mended"
        )
        if self.snapshots is not None:
            # Memory is not what the log says any more: none of it may become a snapshot.
            self.snapshots.stop(HaltedError(f"durable session store is unhealthy: {self._halted_because}"))
        self.progress()

    def _wait_for_room(self, command: Command, payload_bytes: int, finish: Finish) -> None:
        def answered(refusal: GibramError | None) -> None:
            self._post(lambda: retry(refusal))

        def retry(refusal: GibramError | None) -> None:
            if refusal is not None and isinstance(command, WriteCommand):
                finish(refusal, NO_LSN)
                return
            executed = self.start(command, finish)
            if executed is not None:
                finish(*executed)

        self.journal.request_room(payload_bytes, answered)

    # --- what takes longer than anybody should wait -------------------------------------------------------------------

    def in_turns(
        self,
        session_id: str,
        steps: Generator[None, None, T],
        then: Callable[[T], Executed | None],
        finish: Finish,
    ) -> Executed | None:
        """Take the steps, and run what `then` makes of what they give, in turns that others do not feel.

        If one turn is not enough, all that is asked of this session is held back until the end; "" is all sessions, and
        then everything but PING and HEALTH. Neither the steps nor `then` may log anything: a restore may be putting its
        snapshot in the log's place then. Returns as `start`.
        """
        end = self._turn(steps)
        if end is not None:
            return then(*end)
        if session_id:
            self._held_of.setdefault(session_id, deque())
        else:
            self.pause()
        self._longs[session_id] = _Long(session_id, steps, then, finish)
        self._go_on_later()
        return None

    def _turn(self, steps: Generator[None, None, T]) -> tuple[T] | None:
        """Take steps until they end, which gives what they give; or until it is the turn of others: then None."""
        ends_us = self._clock.steady_us() + TURN_US
        try:
            while True:
                next(steps)
                if self._clock.steady_us() >= ends_us:
                    return None
        except StopIteration as end:
            return (end.value,)

    def _go_on(self) -> None:
        """One turn of one of those that take long: however many there are, others wait for one turn of them."""
        self._goes_on = False
        if not self._longs:
            return  # closed meanwhile, or replaced by a restore, and the callers told
        session_id = next(iter(self._longs))
        long = self._longs.pop(session_id)
        executed: Executed | None
        try:
            end = self._turn(long.steps)
            if end is None:
                self._longs[session_id] = long
            else:
                executed = long.then(*end)
        except Exception as error:  # the edge of one command, as in `start`: nothing has been changed
            log.exception("a command failed in a way that is a defect of ours")
            failure = self._refusal() or InternalError(f"internal error: {error!r}; nothing was changed")
            end, executed = (None,), Executed(failure, NO_LSN)
        self._go_on_later()
        if end is None:
            return
        if executed is not None:
            give(long.finish, *executed)
        if not session_id:
            self.resume(None)
        elif session_id in self._held_of:
            self._run_held_of(session_id, self._held_of[session_id])

    def _go_on_later(self) -> None:
        if self._longs and not self._goes_on:
            self._goes_on = True
            self._post(self._go_on)

    def _run_held_of(self, session_id: str, held: deque[tuple[Command, Finish]]) -> None:
        """Run what was held back of a session, some a turn; what comes meanwhile is held too."""
        if self._held_of.get(session_id) is not held:
            return  # closed meanwhile, or a restore has taken it over
        ends_us = self._clock.steady_us() + COMMANDS_TURN_US
        while held and session_id not in self._longs and not self._pauses:
            self._run_one(*held.popleft())
            if held and self._clock.steady_us() >= ends_us:
                self._post(partial(self._run_held_of, session_id, held))
                return
        if session_id in self._longs:
            return
        del self._held_of[session_id]
        if held:  # they came before those that everything is held back for
            assert self._held is not None
            self._held.extendleft(reversed(held))

    def _run_one(self, command: Command, finish: Finish) -> None:
        executed = self._run(command, finish)
        if executed is not None:
            give(finish, *executed)

    def _end_longs(self, reason: GibramError) -> None:
        """Answer those that take long; what was held back for them is left."""
        longs, self._longs = self._longs, {}
        for long in longs.values():
            if not long.session_id:
                self._pauses -= 1
            give(long.finish, reason, NO_LSN)

    def _rebuild(self, command: commands.RebuildIndexes, finish: Finish) -> Executed | None:
        session = live_session(self.state, command.session_id, self.now_ms())
        return self.in_turns(
            command.session_id, session.rebuild(), lambda _: Executed(Done(), session.last_lsn), finish
        )

    def _digest(self, command: commands.GetDigest, finish: Finish) -> Executed | None:
        session_id, now_ms = command.session_id, self.now_ms()
        sessions = [live_session(self.state, session_id, now_ms)] if session_id else list(self.state.sessions.values())
        if session_id:
            sessions[0].read_at_ms = now_ms  # a note of it in the log would be part of the next digest
        lsn = self._lsn_seen("")  # it covers even the notes of reads, which no other answer about a session waits for
        return self.in_turns(session_id, digest_steps(sessions), lambda digest: Executed(Digest(*digest), lsn), finish)

    def _let_go(self, sessions: list[SessionState]) -> None:
        """Free them, some objects a turn."""
        self._free_some(_dismantle(sessions))

    def _free_some(self, steps: Generator[None, None, None]) -> None:
        if self._turn(steps) is None and not self._is_closed:
            self._post(partial(self._free_some, steps))

    # --- snapshots, and what a restore puts in the place of everything ------------------------------------------------

    def _administer(self, command: AdminCommand, finish: Finish) -> Executed | None:
        if self.snapshots is None:
            raise UnavailableError("backup not configured")
        answer = self.snapshots.execute(command, finish)
        return None if answer is None else Executed(answer, NO_LSN)

    def pause(self) -> None:
        """Hold back all commands but PING and HEALTH until `resume` has been called as often as this."""
        self._pauses += 1
        if self._held is None:
            self._held = deque()

    def resume(self, state: StoreState | None) -> None:
        """Run what was held back; with `state`, that is what the store holds from now on."""
        if state is not None:
            state.serving_since_ms = self._clock.now_ms()
            state.expiry_paused = self.state.expiry_paused
            replaced, self.state = self.state, state
            self._names_in.clear()
            self._warn_beyond_limits(state)
            self._explanations.clear()
            self._explained_bytes = 0
            gone = ClosedError("a restore took the place of what this was computed on")
            self._end_longs(gone)
            self._detections.end_all(gone)
            held = [*itertools.chain(*self._held_of.values()), *(self._held or ())]
            self._held_of, self._held = {}, deque()
            for command, finish in held:
                if isinstance(command, commands.ReplaceCommunities):
                    give(finish, gone, NO_LSN)
                else:
                    self._held.append((command, finish))
            self.journal.enqueue_marker(always=True)
            sessions = list(replaced.sessions.values())
            replaced.sessions.clear()
            self._let_go(sessions)
        self._pauses -= 1
        self._run_held()

    def _run_held(self) -> None:
        """Run what was held back, some a turn; what comes meanwhile is held too, and so keeps its place."""
        ends_us = self._clock.steady_us() + COMMANDS_TURN_US
        while self._held and not self._pauses:
            command, finish = self._held.popleft()
            held_of = self._held_of.get(getattr(command, "session_id", ""))
            if held_of is not None:
                held_of.append((command, finish))
            else:
                self._run_one(command, finish)
            if self._held and self._clock.steady_us() >= ends_us:
                self._post(self._run_held)
                return
        if not self._pauses:
            self._held = None

    def _warn_beyond_limits(self, state: StoreState) -> None:
        """Limits are of admission: what comes back by a restore is kept, as it is by a start, and that is said."""
        limits = self._limits
        beyond = sum(
            any(
                allowed and held > allowed
                for held, allowed in (
                    (len(session.documents), limits.session_documents_max),
                    (len(session.entities), limits.session_entities_max),
                    (len(session.relationships), limits.session_relationships_max),
                    (session.memory_bytes, limits.session_memory_bytes_max),
                )
            )
            for session in state.sessions.values()
        )
        warnings = []
        if len(state.sessions) > limits.sessions_max:
            warnings.append(
                f"A restore brought {len(state.sessions)} sessions, security.max_sessions is {limits.sessions_max}: "
                "all are kept, and no new one begins until there are fewer."
            )
        if beyond:
            warnings.append(
                f"A restore brought {beyond} sessions that hold more than their quota in security.max_session_* or "
                "security.max_memory_bytes: all is kept, and nothing is added to them until they hold less."
            )
        for warning in warnings:
            log.warning(warning)
        kept = (each for each in self.facts.warnings if not each.startswith("A restore brought "))
        self.facts = self.facts._replace(warnings=(*kept, *warnings))

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self, command: Command) -> Executed:
        now_ms = self.now_ms()
        session_id: str = getattr(command, "session_id", "")
        result: Result
        if isinstance(command, commands.GetInfo):
            result = self._info(command, now_ms)
        elif isinstance(command, commands.Query):
            result = self._query(command, now_ms)
        elif isinstance(command, commands.Explain):
            result = self._explain(command, now_ms)
        else:
            assert isinstance(command, ReadCommand)
            result = READS[type(command)](self.state, command, now_ms)
        lsn = self._lsn_seen(session_id)
        if session_id:
            self._note_read(session_id, now_ms)
        return Executed(result, lsn)

    def _read_exempt(self, command: Command) -> Executed:
        """What is answered at once, whatever the log does."""
        if isinstance(command, commands.Ping):
            return Executed(Pong(), NO_LSN)
        assert isinstance(command, commands.GetHealth)
        return Executed(self.health(command.scope), NO_LSN)

    def _note_read(self, session_id: str, now_ms: int) -> None:
        session = self.state.sessions.get(session_id)
        if session is None or self.state.is_expired(session, now_ms):
            return
        session.read_at_ms = now_ms
        if session.idle_ttl_ms and now_ms - session.last_noted_ms > session.idle_ttl_ms // READ_NOTES_PER_IDLE_TTL:
            note = SessionReadNoted(session_id, now_ms, opens=False)
            if self.journal.has_room(len(record.encode(note))):
                self._log_note(note)  # otherwise the next read tries again: nobody waits for it

    def _log_note(self, mutation: SessionReadNoted | SessionEnded) -> None:
        assert not self._pauses, "nothing is logged while a restore may be taking the log's place"
        payload = record.encode(mutation)
        if self.snapshots is not None and self.snapshots.unfrozen:
            self.snapshots.freeze(mutation.session_id)
        try:
            apply(self.state, mutation, self.journal.lsn_after(len(payload)))
            self.journal.enqueue(payload)
        except BaseException as error:
            self._halt(error)
            raise

    def _query(self, command: commands.Query, now_ms: int) -> QueryResult:
        self._last_query_id += 1
        query_id = self._last_query_id
        session = live_session(self.state, command.session_id, now_ms)
        began_us = self._clock.steady_us()
        result, explanation = query.run(session, command, self.state.vector_dim, query_id)
        self._explanations[query_id] = (session.session_id, session.incarnation, explanation)
        self._explained_bytes += _weight(explanation)
        while self._explained_bytes > bounds.QUERY_LOG_BYTES_MAX:
            self._explained_bytes -= _weight(self._explanations.popitem(last=False)[1][2])
        return query.timed(result, self._clock.steady_us() - began_us)

    def _explain(self, command: commands.Explain, now_ms: int) -> Explanation:
        session = live_session(self.state, command.session_id, now_ms)
        known = self._explanations.get(command.query_id)
        if known is None or known[:2] != (session.session_id, session.incarnation):
            raise NotFoundError(f"query not found: {command.query_id}")
        return known[2]

    def _info(self, command: commands.GetInfo, now_ms: int) -> Info:
        scope = command.scope
        seen = [each for each in self.state.sessions.values() if scope is None or scope.holds(each.session_id)]
        held = len(seen)
        sessions = [session for session in seen if not self.state.is_expired(session, now_ms)]
        if command.session_id:
            sessions = [session for session in sessions if session.session_id == command.session_id]
            held = len(sessions)
        return Info(
            self.facts.version,
            sum(len(session.documents) for session in sessions),
            sum(len(session.textunits) for session in sessions),
            sum(len(session.entities) for session in sessions),
            sum(len(session.relationships) for session in sessions),
            sum(len(session.communities) for session in sessions),
            self.state.vector_dim,
            held,
            self.facts.mode,
            self.facts.sync_policy,
            self.facts.sync_interval_ms,
        )

    def may_begin(self, session_id: str, scope: SessionScope, most: int) -> bool:
        """Whether fewer than `most` sessions of the scope are alive, or this one is."""
        now_ms, sessions = self.now_ms(), self.state.sessions
        session = sessions.get(session_id)
        if session is not None and not self.state.is_expired(session, now_ms):
            return True
        names = self._names_in.get(scope)
        if names is None:
            names = self._names_in[scope] = {name for name in sessions if scope.holds(name)}
        if len(names) < most:
            return True
        found = (sessions.get(name) for name in names)
        return sum(each is not None and not self.state.is_expired(each, now_ms) for each in found) < most

    def _note_name(self, session_id: str) -> None:
        """A session of this name has begun, or is gone."""
        for scope, names in self._names_in.items():
            if session_id not in self.state.sessions:
                names.discard(session_id)
            elif scope.holds(session_id):
                names.add(session_id)

    def health(self, scope: SessionScope | None = None) -> Health:
        """How the store is, for one who may know of these sessions. Waits for nothing."""
        self.now_ms()
        failure = self._halted_because or self.journal.failure
        snapshots = None if self.snapshots is None else self.snapshots.facts()
        return health.report(
            self.state,
            self.journal.facts(),
            snapshots or SnapshotFacts(),
            self.facts,
            self._limits,
            failure,
            self._clock.now_ms(),
            scope,
        )

    # --- time ---------------------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """The time by which sessions expire; whether they may is settled anew with it."""
        now_ms = self._clock.now_ms()
        drift_ms = now_ms - self._clock.steady_ms() - self._wall_minus_steady_ms
        self.state.expiry_paused = abs(drift_ms) > CLOCK_DISAGREEMENT_MAX_MS
        return now_ms

    def expire_sessions(self) -> None:
        """End every session whose time is over, some a turn; the owner calls this from time to time."""
        if not self._over:
            now_ms = self.now_ms()
            sessions = self.state.sessions.items()
            self._over = [name for name, session in sessions if self.state.is_expired(session, now_ms)]
        self._expire_some()

    def _expire_some(self) -> None:
        ends_us = self._clock.steady_us() + COMMANDS_TURN_US
        while self._over:
            if self._pauses or self._refusal() is not None:
                self._over.clear()  # not now: the next sweep finds them again
                return
            name = self._over.pop()
            if name not in self.state.sessions or name in self._held_of:
                continue  # deleted meanwhile; or not now, the next sweep finds it again
            # Past the others that were held back: it changes nothing that they could see.
            executed = self._run(commands.ExpireSession(name), self._expired)
            if executed is None:
                self._over.clear()  # there is no room for it in the log
                return
            self._expired(*executed)
            if self._over and self._clock.steady_us() >= ends_us:
                if not self._expires_later:
                    self._expires_later = True
                    self._post(self._expire_later)
                return

    def _expired(self, answer: Answer, lsn: Lsn) -> None:
        self.answer(answer, lsn, _log_refusal, has_changed=not isinstance(answer, GibramError))

    def _expire_later(self) -> None:
        self._expires_later = False
        self._expire_some()

    # --- answers that wait for the log --------------------------------------------------------------------------------

    def _lsn_seen(self, session_id: str) -> Lsn:
        """What an answer about this session depends on; about all of them, or one that is not there: everything.

        That a session's time is over is logged with the first answer that shows it, so that no crash takes it back.
        """
        session = self.state.sessions.get(session_id)
        now_ms = self.now_ms()
        shown = () if session is None else (session,)
        for each in shown if session_id else self.state.sessions.values():
            if not each.is_ended and self.state.is_expired(each, now_ms):
                ended = SessionEnded(each.session_id, now_ms, opens=False)
                payload_bytes = len(record.encode(ended))
                if self.journal.has_room(payload_bytes):
                    self._log_note(ended)
                elif not self.journal.facts().disk_full:  # there, reads are answered all the same
                    raise _NoRoomError(payload_bytes)
        return self.state.last_lsn if session is None else session.last_lsn

    def answer(self, answer: Answer, lsn: Lsn, done: Done_, *, has_changed: bool) -> None:
        """Call `done` once the answer may leave, at once or later; if the log fails before, with that instead."""
        if lsn <= self.journal.released_lsn:
            done(answer)
        else:
            self._waiting.append(_Waiting(lsn, done, answer, has_changed))
            # The log may have failed, and said so, just before this answer began to wait.
            if self.journal.failure is not None:
                self.progress()

    def progress(self) -> None:
        """The journal got further, or failed: let go of what need not wait any more."""
        released_lsn = self.journal.released_lsn
        failure = self._halted_because or self.journal.failure
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if each.lsn <= released_lsn:
                give(each.done, each.answer)
            elif failure is None:
                self._waiting.append(each)
            elif each.has_changed:
                unknown = OutcomeUnknownError(f"outcome unknown, this write may or may not be kept: {failure}")
                give(each.done, unknown)
            else:
                give(each.done, HaltedError(f"durable session store is unhealthy: {failure}"))

    def rest(self) -> None:
        """The log has nothing to do: leave a witness for what it wrote last."""
        if not self._is_closed:
            self.journal.enqueue_marker()

    def close(self) -> None:
        """Refuse what comes from now on, make durable what was accepted, and answer it."""
        if self._is_closed:
            return
        self._is_closed = True
        self._detections.close(ClosedError("the store was closed while communities were computed; nothing was changed"))
        self._end_longs(ClosedError("the store was closed before this had been computed; nothing was changed"))
        held = [*itertools.chain(*self._held_of.values()), *(self._held or ())]
        self._held_of, self._held = {}, None
        for _, refused in held:
            give(refused, ClosedError("the store is closed"), NO_LSN)
        if self.snapshots is not None:
            self.snapshots.stop(ClosedError("the store was closed; the newest snapshot and the log hold everything"))
        try:
            self.journal.close()
        finally:
            self.progress()
            if self.snapshots is not None:
                self.snapshots.join()

    def abandon(self) -> None:
        """This process is a forked child of the owner: let go without touching anything."""
        self._is_closed = True
        self.journal.abandon()

    # Any: each takes the commands whose classes name it, and a test that none is missing.
    _HANDLERS: ClassVar[dict[str, Callable[[Database, Any, Finish], Executed | None]]] = {
        "exempt": lambda self, command, _: self._read_exempt(command),
        "read": lambda self, command, _: self._read(command),
        "write": lambda self, command, _: self._write(command),
        "digest": _digest,
        "rebuild": _rebuild,
        "detect": lambda self, command, finish: self._detections.begin(command, finish),
        "snapshots": _administer,
    }


def _weight(explanation: Explanation) -> int:
    characters = sum([len(seed.external_id) for seed in explanation.seeds])
    characters += sum([len(step.relationship_type) for step in explanation.steps])
    return characters + bounds.EXPLAINED_STEP_BYTES * (1 + len(explanation.seeds) + len(explanation.steps))


def _dismantle(sessions: list[SessionState]) -> Generator[None, None, None]:
    while sessions:
        yield from sessions.pop().dismantle()
        yield


def _log_refusal(answer: Answer) -> None:
    if isinstance(answer, GibramError):
        log.warning("a session could not be expired now: %s", answer)
