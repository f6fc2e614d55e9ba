"""What comes of a command, in the words that the database shares with the rooms beside it.

Never: decides when an answer may leave; that is the database's matter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from gibramdb.core import limits as bounds
from gibramdb.errors import GibramError
from gibramdb.model.ids import Lsn
from gibramdb.model.results import Result, links_in, objects_in

log = logging.getLogger(__name__)

Answer = Result | GibramError
Done_ = Callable[[Answer], None]
Finish = Callable[[Answer, Lsn], None]
"""Is told the answer of a command, and the LSN at which it may leave."""
Weigh = Callable[[int], None]
"""Is told, as soon as a command has run, what its answer takes beside what it shares with the state."""


class Executed(NamedTuple):
    """A command has run; its answer may leave at `lsn`."""

    answer: Answer
    lsn: Lsn


def told_in(answer: Answer) -> tuple[int, int]:
    """Objects and links."""
    return (1, 0) if isinstance(answer, GibramError) else (objects_in(answer), links_in(answer))


def taken_bytes(objects: int, links: int) -> int:
    """By an answer that waits, beside what it shares with the state."""
    return bounds.ANSWERED_OBJECT_BYTES * objects + bounds.ANSWERED_LINK_BYTES * links


def give(taker: Callable[..., None], *answer: Answer | Lsn) -> None:
    """Tell one of those who wait, while others wait to be told."""
    try:
        taker(*answer)
    except Exception:  # one caller's trouble in taking its answer costs the others nothing
        log.exception("an answer could not be given")
