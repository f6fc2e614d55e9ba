"""Detections of communities: a copy taken in turns, clusters found elsewhere, and then a write like any other.

    begin      is there a place for it? -> the copy, in turns of the owner, while its session is held back
    compute    the Detector's thread, when it is this asker's turn
    found      one more command, decided against the state of that later moment

A detection ends once: by what was found, by a failure, because nobody waits for it any more, or because the store is
closed or restored. Whichever comes first takes it off the list, and what comes later finds it gone and tells nobody.

Owns: those that have not ended; the Detector, from the first one that gets so far.
Never: changes the state.

Invariants:
- Every method but `close` runs on the owner's thread.
- Who was to be told of a detection is told exactly once, by whoever has taken it off the list.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol, TypeVar

from gibramdb.core import limits as bounds
from gibramdb.core.state import StoreState
from gibramdb.database.answers import Answer, Executed, Finish, give
from gibramdb.database.detector import Detector, Job, Post
from gibramdb.errors import GibramError, UnavailableError
from gibramdb.model.commands import Command, DetectCommunities, DetectHierarchy, ReplaceCommunities
from gibramdb.model.ids import NO_LSN, Lsn
from gibramdb.retrieval import detection
from gibramdb.retrieval.detection import DetectionView

T = TypeVar("T")


class Owner(Protocol):
    """The store, as far as detections are concerned."""

    state: StoreState

    def now_ms(self) -> int:
        """The time by which sessions expire; whether they may is settled anew with it."""
        ...

    def in_turns(
        self, session_id: str, steps: Generator[None, None, T], then: Callable[[T], Executed | None], finish: Finish
    ) -> Executed | None:
        """Take the steps in turns that others do not feel, and run what `then` makes of what they give."""
        ...

    def start(self, command: Command, finish: Finish) -> Executed | None:
        """Run it, or arrange that it runs later and then calls `finish`."""
        ...


class _Detecting:
    """A detection that has not ended: what was asked, who is to be told, and its computation once that is queued."""

    def __init__(self, command: DetectCommunities | DetectHierarchy, finish: Finish) -> None:
        self.command = command
        self.finish = finish
        self.job: Job | None = None


class Detections:
    """One store's detections."""

    def __init__(self, owner: Owner, post: Post) -> None:
        self._owner = owner
        self._post = post
        self._detecting: list[_Detecting] = []
        self._detector: Detector | None = None

    def begin(self, command: DetectCommunities | DetectHierarchy, finish: Finish) -> Executed | None:
        """Arrange that the communities are found and stored, and that `finish` is called then.

        Returns as the owner's `start`.

        Raises:
            UnavailableError: so many wait already.
            CallerError: what is asked can not be meant, or the session is not there.
        """
        others = [each.command for each in self._detecting]
        of_session = sum(each.session_id == command.session_id for each in others)
        of_asker = sum(each.asker == command.asker for each in others) if command.asker else 0
        for count, most, whose in (
            (len(others), bounds.DETECTIONS_WAITING_MAX, ""),
            (of_asker, bounds.DETECTIONS_OF_KEY_MAX, " for this key"),
            (of_session, bounds.DETECTIONS_OF_SESSION_MAX, " of this session"),
        ):
            if count >= most:
                raise UnavailableError(f"{count} computations of communities{whose} wait already; try again later")
        detecting = _Detecting(command, finish)

        def finish_once(answer: Answer, lsn: Lsn) -> None:
            if self._end(detecting):
                finish(answer, lsn)

        def found(outcome: ReplaceCommunities | GibramError) -> None:
            if isinstance(outcome, GibramError):
                finish_once(outcome, NO_LSN)
            elif self._end(detecting):
                executed = self._owner.start(outcome, finish)
                if executed is not None:
                    finish(*executed)

        def seen(view: DetectionView) -> None:
            if detecting not in self._detecting:
                return
            if self._detector is None:
                self._detector = Detector(self._post)
            detecting.job = self._detector.submit(view, found)

        view = detection.view(self._owner.state, command, self._owner.now_ms())
        self._detecting.append(detecting)
        try:
            return self._owner.in_turns(command.session_id, view, seen, finish_once)
        except BaseException:
            self._end(detecting)
            raise

    def withdraw(self, command: Command) -> Finish | None:
        """Nobody waits for it: compute it no further. Returns who was to be told; None if it is none of these."""
        for detecting in self._detecting:
            if detecting.command is command:
                self._end(detecting)
                return detecting.finish
        return None

    def end_all(self, reason: GibramError) -> None:
        """What they were computed on is gone."""
        for each in list(self._detecting):
            self._end(each)
            give(each.finish, reason, NO_LSN)

    def close(self, reason: GibramError) -> None:
        """End all, and the Detector's thread after the computation that runs now; nobody waits for it."""
        if self._detector is not None:
            self._detector.close()
        self.end_all(reason)

    def _end(self, detecting: _Detecting) -> bool:
        """Returns whether somebody waits for it; not if it was withdrawn, or ended by a close or a restore."""
        if detecting not in self._detecting:
            return False
        self._detecting.remove(detecting)
        if detecting.job is not None and self._detector is not None:
            self._detector.withdraw(detecting.job)
        detecting.job = None  # which knows of this one: a cycle would be the collector's to find
        return True
