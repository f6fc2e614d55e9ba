"""Pipelines: commands that run one after the other, up to the first that fails, and are answered together.

Owns: the pipelines whose turn has been long, in the order in which they go on.
Never: runs a command but by the owner's `start`; rolls back what has run.

Invariants:
- Every method runs on the owner's thread.
- Of one pipeline no command is started before the one before it has run.
- However many pipelines are under way, others wait for one turn of one of them.
- The answers leave exactly once, together, when the owner lets the last of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from gibramdb.clock import Clock
from gibramdb.core import limits as bounds
from gibramdb.database.answers import Answer, Done_, Executed, Finish, Weigh, taken_bytes, told_in
from gibramdb.database.detector import Post
from gibramdb.errors import GibramError, PipelineFullError
from gibramdb.model.commands import Command, WriteCommand
from gibramdb.model.ids import NO_LSN, Lsn
from gibramdb.model.results import Done

COMMANDS_TURN_US = 5_000
"""So long commands that follow one another run in one turn; then others get theirs."""


class Owner(Protocol):
    """The store, as far as pipelines are concerned."""

    def start(self, command: Command, finish: Finish) -> Executed | None:
        """Run it, or arrange that it runs later and then calls `finish`."""
        ...

    def answer(self, answer: Answer, lsn: Lsn, done: Done_, *, has_changed: bool) -> None:
        """Call `done` once what the answer depends on may be shown."""
        ...

    def give_up(self, command: Command) -> None:
        """Nobody waits for this command any more."""
        ...


class Pipelines:
    """One store's pipelines."""

    def __init__(self, owner: Owner, clock: Clock, post: Post) -> None:
        self._owner = owner
        self._clock = clock
        self._post = post
        self._going_on: deque[_Pipeline] = deque()
        self._is_posted = False

    def begin(
        self,
        items: Iterable[Command | GibramError],
        done: Callable[[list[Answer]], None],
        weigh: Weigh | None,
        *,
        is_bounded: bool,
    ) -> Callable[[], None]:
        """As `Database.submit_batch`."""
        pipeline = _Pipeline(self._owner, self._clock, self._go_on_later, items, done, weigh, is_bounded=is_bounded)
        pipeline.advance()
        return pipeline.stop

    def _go_on_later(self, pipeline: _Pipeline) -> None:
        """In one of the next turns, behind those that wait for theirs."""
        self._going_on.append(pipeline)
        self._go_on_soon()

    def _go_on_soon(self) -> None:
        if self._going_on and not self._is_posted:
            self._is_posted = True
            self._post(self._go_on)

    def _go_on(self) -> None:
        self._is_posted = False
        try:
            self._going_on.popleft().advance()
        finally:
            self._go_on_soon()


class _Pipeline:
    """A pipeline on its way."""

    def __init__(
        self,
        owner: Owner,
        clock: Clock,
        go_on_later: Callable[[_Pipeline], None],
        items: Iterable[Command | GibramError],
        done: Callable[[list[Answer]], None],
        weigh: Weigh | None,
        *,
        is_bounded: bool,
    ) -> None:
        self._owner = owner
        self._clock = clock
        self._go_on_later = go_on_later
        self._items = iter(items)
        self._done = done
        self._answers: list[Answer] = []
        self._weigh = weigh
        self._is_bounded = is_bounded
        self._objects = self._links = 0
        self._is_stopped = False
        self._command: Command | None = None  # that is under way
        self._is_write = False
        self._has_changed = False
        self._lsn = NO_LSN

    def stop(self) -> None:
        """Run no further command."""
        self._is_stopped = True
        if self._command is not None:
            self._owner.give_up(self._command)

    def advance(self) -> None:
        """Run what can run in this turn."""
        ends_us = self._clock.steady_us() + COMMANDS_TURN_US
        while True:
            item = None if self._is_stopped else next(self._items, None)
            if item is None:
                self._finish()
                return
            refusal = self._refusal() if self._is_bounded else None
            if refusal is not None:
                self._answers.append(refusal)
                self._finish()
                return
            if isinstance(item, GibramError):
                self._answers.append(item)
                self._finish()
                return
            self._command = item
            self._is_write = isinstance(item, WriteCommand)
            executed = self._owner.start(item, self._resume)
            if executed is None:
                return
            if not self._take(*executed):
                return
            if self._clock.steady_us() > ends_us:
                break
        self._go_on_later(self)

    def _refusal(self) -> GibramError | None:
        for noun, answered, most in (
            ("objects", self._objects, bounds.PIPELINE_OBJECTS_MAX),
            ("links", self._links, bounds.PIPELINE_LINKS_MAX),
        ):
            if answered >= most:
                return PipelineFullError(
                    f"answers too many: this pipeline has been answered {answered} {noun} (max: {most}); nothing was "
                    "run from here on, send it in another"
                )
        return None

    def _resume(self, answer: Answer, lsn: Lsn) -> None:
        if self._take(answer, lsn):
            self.advance()

    def _take(self, answer: Answer, lsn: Lsn) -> bool:
        self._answers.append(answer)
        self._lsn = max(self._lsn, lsn)
        objects, links = told_in(answer)
        self._objects += objects
        self._links += links
        if self._weigh is not None:
            self._weigh(taken_bytes(objects, links))
        if isinstance(answer, GibramError):
            self._finish()
            return False
        self._has_changed |= self._is_write
        return True

    def _finish(self) -> None:
        answers = self._answers

        def release(answer: Answer) -> None:
            # Where the log failed under a pipeline, the last answer says so; those before it share its fate.
            if isinstance(answer, GibramError) and answer is not answers[-1]:
                self._done([answer])
            else:
                self._done(answers)

        last = answers[-1] if answers else Done()
        self._owner.answer(last, self._lsn, release, has_changed=self._has_changed)
