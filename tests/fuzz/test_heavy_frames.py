"""Frames filled up to the limit, whatever with: none may keep the others waiting, or take memory that is not explained.

What must hold for each, and by how much, is in `support/heavy_frames.py`; `python tools/fuzz.py heavy` runs the same with a
coverage-guided fuzzer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.fuzzing import quick_directory
from support.heavy_frames import FRAME_BYTES_MAX, HeavyTarget, heavy_seeds, known_heavy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
KNOWN = dict(known_heavy(FRAME_BYTES_MAX))


@pytest.fixture(scope="module")
def heavy() -> Iterator[HeavyTarget]:
    with quick_directory() as folder:
        target = HeavyTarget(folder)
        yield target
        target.close()


@pytest.mark.parametrize("name", KNOWN)
def test_the_heaviest_frames_that_are_known_keep_nobody_waiting(heavy: HeavyTarget, name: str) -> None:
    heavy.serve(KNOWN[name])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=set(Phase) - {Phase.shrink, Phase.explain},  # what is heavy is slow, and as short as it will get
)
@given(st.binary(min_size=4, max_size=60))
def test_whatever_is_repeated_up_to_the_limit_keeps_nobody_waiting(heavy: HeavyTarget, data: bytes) -> None:
    heavy.run(data)


def test_chosen_frames_fill_what_they_may(heavy: HeavyTarget) -> None:
    """Otherwise nothing would be heavy."""
    sizes = sorted(len(heavy.body(data)) for data in heavy_seeds())
    assert sizes[-1] <= FRAME_BYTES_MAX
    assert sizes[len(sizes) // 2] > FRAME_BYTES_MAX // 2
