"""The thread that detects communities, one view at a time, on copies.

Whose turn it is: that of the asker for whom the thread has computed least. Who comes anew counts as one who has had as
much as the one that is computed for now, so nobody saves up. Of one asker's, small ones come before large ones.

A daemon thread and not a pool: a stop never waits for a computation, whose outcome nobody could store any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gibramdb import native_threads
from gibramdb.clock import SystemClock
from gibramdb.errors import GibramError, InternalError
from gibramdb.model.commands import ReplaceCommunities
from gibramdb.retrieval.detection import DetectionView

log = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], None]
"""Brings a call to the thread that owns the store, from any thread."""
SIZE_PER_PLACE = 1_000
"""So much larger is as good as submitted one place later: what is large is overtaken often, and not for ever."""
Found = Callable[[ReplaceCommunities | GibramError], None]

_steady_us = SystemClock().steady_us


class Job:
    """A view that waits or is computed on."""

    def __init__(self, view: DetectionView, found: Found, order: tuple[int, int]) -> None:
        self.view = view
        self.found = found
        self.order = order


class Detector:
    """Takes views, gives back what was found in them, on the owner's thread."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._changed = threading.Condition()  # guards what follows
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._computed_us: dict[str, int] = {}  # for each asker
        self._computed_us_least = 0  # what the one has had that is computed for now
        self._is_closed = False
        self._submitted = 0
        threading.Thread(target=self._run, name=native_threads.LEIDEN, daemon=True).start()

    def submit(self, view: DetectionView, found: Found) -> Job:
        """Compute when it is this asker's turn, after its own that are smaller or came well before; then call it."""
        self._submitted += 1
        job = Job(view, found, (self._submitted + view.size // SIZE_PER_PLACE, self._submitted))
        with self._changed:
            if all(each.view.asker != view.asker for each in self._waiting):
                had_us = self._computed_us.get(view.asker, 0)
                self._computed_us[view.asker] = max(had_us, self._computed_us_least)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def withdraw(self, job: Job) -> None:
        """Nobody waits for it: do not begin it; one under way ends as soon as it can, and what it found is dropped."""
        with self._changed:
            if job is self._running:
                job.view.stop()
            elif job in self._waiting:
                self._waiting.remove(job)

    def close(self) -> None:
        """End after the computation that runs now, if any; nobody waits for it."""
        with self._changed:
            self._is_closed = True
            if self._running is not None:
                self._running.view.stop()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
                job = min(self._waiting, key=lambda each: (self._computed_us[each.view.asker], each.order))
                self._waiting.remove(job)
                self._running = job
                self._computed_us_least = self._computed_us[job.view.asker]
            began_us = _steady_us()
            self._compute(job.view, job.found)
            with self._changed:
                self._computed_us[job.view.asker] += _steady_us() - began_us

    def _compute(self, view: DetectionView, found: Found) -> None:
        outcome: ReplaceCommunities | GibramError
        try:
            outcome = view.find()
        except GibramError as error:
            outcome = error
        except BaseException:  # the edge of the thread; a panic of the library is no Exception, and must not end it
            log.exception("detecting communities failed")
            outcome = InternalError("internal error while detecting communities; nothing was changed")
        try:
            self._post(lambda: found(outcome))
        except RuntimeError:
            log.info("communities were found after the store had been closed")
