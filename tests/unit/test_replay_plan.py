"""Which generations belong behind a snapshot: every cut with every choice of four generations, against the rule in words."""

from __future__ import annotations

from itertools import chain, combinations
from pathlib import Path

import pytest

from gibramdb.database.recovery import replay_plan
from gibramdb.errors import FatalError, MissingStoreError
from gibramdb.model.ids import NO_LSN, Generation, Lsn
from gibramdb.storage.snapshot import Cut, Manifest
from gibramdb.storage.wal import BasedOnSnapshot, FirstLog, LogHeader, Origin, Successor, log_path

STORE = b"the store's id.."
LOGS = Path("/store/wal")
BYTES = 100
"""Record bytes in each generation."""
GENERATIONS = range(1, 5)
ENDS = (0, 40, BYTES)


def base(generation: int) -> int:
    return BYTES * (generation - 1)


def header(generation: int, restored_at: int | None = None) -> LogHeader:
    origin: Origin = FirstLog()
    if generation == restored_at:
        origin = BasedOnSnapshot(7, 77)
    elif generation > 1:
        origin = Successor(Generation(generation - 1), Lsn(base(generation)), 5)
    return LogHeader(STORE, Generation(generation), Lsn(base(generation)), bytes(16), 0, origin)


def manifest(generation: int, offset: int) -> Manifest:
    cut = Cut(generation, offset, base(generation) + offset, 5 if offset else 0)
    return Manifest(store_id=STORE.hex(), number=7, created_at_ms=0, cut=cut, vector_dim=0, last_save=None, sections=())


CHOICES = list(chain.from_iterable(combinations(GENERATIONS, count) for count in range(5)))
CUTS = [None, *((generation, offset) for generation in GENERATIONS for offset in ENDS)]


def planned(present: tuple[int, ...], cut: tuple[int, int] | None, restored_at: int | None = None) -> list[int]:
    logs = [(Generation(each), log_path(LOGS, Generation(each))) for each in present]
    headers = [header(each, restored_at) for each in present]
    plan = replay_plan(LOGS, logs, headers, None if cut is None else manifest(*cut), 77)
    assert plan.unfinished is None
    return [present[index] for index in plan.replayed]


@pytest.mark.parametrize("cut", CUTS)
def test_every_choice_of_generations(cut: tuple[int, int] | None) -> None:
    for present in CHOICES:
        generation, offset = cut or (1, 0)
        behind = [each for each in present if each >= generation]
        joins = bool(behind) and behind == list(range(behind[0], behind[-1] + 1))
        # From the cut's own generation, or from the next one if the cut is where that begins.
        joins &= generation in behind or (cut is not None and offset == BYTES and generation + 1 in behind)
        if joins or (cut is not None and not present):
            assert planned(present, cut) == behind, present
        else:
            with pytest.raises(FatalError) as refused:
                planned(present, cut)
            # Whoever follows the message and moves what it names away can start from the snapshot.
            if cut is not None and isinstance(refused.value, MissingStoreError):
                left = tuple(
                    each for each in present if log_path(LOGS, Generation(each)).name not in str(refused.value)
                )
                assert planned(left, cut) == [each for each in left if each >= generation], (present, left)


@pytest.mark.parametrize("cut", CUTS)
def test_a_generation_that_a_restore_began_follows_its_snapshot_alone(cut: tuple[int, int] | None) -> None:
    for present in CHOICES:
        if 3 not in present:
            continue
        if cut == (3, 0) or (cut is not None and cut[0] == 3 and cut[1]):
            behind = [each for each in present if each >= 3]
            assert planned(present, cut, restored_at=3) == behind
        elif cut is not None and cut[0] == 4:
            if 4 in present:
                assert planned(present, cut, restored_at=3) == [4]
        elif cut == (2, BYTES) and 2 not in present:
            # Snapshot 7 is the one that it names, and its LSN is where the generation begins.
            assert planned(present, cut, restored_at=3) == [each for each in present if each >= 3]
        elif 4 in present:
            with pytest.raises(FatalError):
                planned(present, cut, restored_at=3)


def test_another_lsn_than_the_cuts_is_refused() -> None:
    for generation in GENERATIONS:
        path = log_path(LOGS, Generation(generation))
        other = LogHeader(STORE, Generation(generation), NO_LSN, bytes(16), 0, BasedOnSnapshot(7, 77))
        if generation > 1:
            with pytest.raises(FatalError):
                replay_plan(LOGS, [(Generation(generation), path)], [other], manifest(generation, 40), 77)
