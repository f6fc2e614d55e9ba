"""The thread that detects communities, one view at a time, on copies.

A daemon thread and not a pool: a stop never waits for a computation, whose outcome nobody could store any more.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from gibramdb.errors import GibramError, InternalError
from gibramdb.model.commands import ReplaceCommunities
from gibramdb.retrieval.detection import DetectionView

log = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], None]
"""Brings a call to the thread that owns the store, from any thread."""
Found = Callable[[ReplaceCommunities | GibramError], None]


class Detector:
    """Takes views, gives back what was found in them, on the owner's thread."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._queue: queue.SimpleQueue[tuple[DetectionView, Found] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="gibramdb-detect", daemon=True).start()

    def submit(self, view: DetectionView, found: Found) -> None:
        """Compute after those submitted before; then `found` is called."""
        self._queue.put((view, found))

    def close(self) -> None:
        """End after the computation that runs now, if any; nobody waits for it."""
        self._queue.put(None)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            self._compute(*job)

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
