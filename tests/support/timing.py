"""For tests that measure seconds, on a machine that others use too and that may be slower than the one they were made on."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

TIMED = pytest.mark.flaky(reruns=3, reruns_delay=2)
"""Of a test that measures seconds by the clock: a busy neighbour can spoil one try. What takes long for a reason of its own
does so each time."""

_TURNS = 500_000
_REFERENCE_S = 0.016
"""The thread's own time for `_TURNS` on the machine that bounds of such time were chosen on."""


def slowness(clock: Callable[[], float] = time.thread_time) -> float:
    """By how much this machine is slower just now than the one that bounds were chosen on; 1 at least.

    clock: a thread's own time, or one that goes on while others have the processor, as `time.monotonic` does.
    """
    began_s = clock()
    total = 0
    for number in range(_TURNS):
        total += number
    return max(1.0, (clock() - began_s) / _REFERENCE_S)
