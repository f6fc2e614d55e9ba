"""The thread that detects communities, one view at a time, on copies; of those that wait, small ones before large ones.

A daemon thread and not a pool: a stop never waits for a computation, whose outcome nobody could store any more.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from gibramdb.errors import GibramError, InternalError
from gibramdb.model.commands import ReplaceCommunities
from gibramdb.retrieval.detection import DetectionView

log = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], None]
"""Brings a call to the thread that owns the store, from any thread."""
SIZE_PER_PLACE = 1_000
"""So much larger is as good as submitted one place later: what is large is overtaken often, and not for ever."""
Found = Callable[[ReplaceCommunities | GibramError], None]


class _Job(NamedTuple):
    """`order` is another for each, so that the rest is never compared. Without a view: the end."""

    order: tuple[int, int]
    view: DetectionView | None
    found: Found | None


class Detector:
    """Takes views, gives back what was found in them, on the owner's thread."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._queue: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._submitted = 0
        threading.Thread(target=self._run, name="gibramdb-detect", daemon=True).start()

    def submit(self, view: DetectionView, found: Found) -> None:
        """Compute after those that are smaller, or were submitted well before; then `found` is called."""
        self._submitted += 1
        place = self._submitted + view.size // SIZE_PER_PLACE
        self._queue.put(_Job((place, self._submitted), view, found))

    def close(self) -> None:
        """End after the computation that runs now, if any; nobody waits for it."""
        self._queue.put(_Job((-1, 0), None, None))

    def _run(self) -> None:
        while True:
            job = self._queue.get()
            if job.view is None or job.found is None:
                return
            self._compute(job.view, job.found)

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
