"""Bytes of any kind to the server's end of a connection, and the operator's commands on files of a temporary directory.

What must hold for each run is in `support/connection_fuzzing.py`; `make fuzz` runs the same with a coverage-guided fuzzer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.connection_fuzzing import SHOWN, ConnectionTarget, connection_seeds
from support.fuzzing import quick_directory

from gibramdb.errors import GibramError
from gibramdb.model import commands as c

CORPUS = Path(__file__).parent / "connection_corpus.txt"
SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MODES = st.integers(0, 15)


@pytest.fixture(scope="module")
def connection() -> Iterator[ConnectionTarget]:
    with quick_directory() as folder:
        target = ConnectionTarget(folder)
        yield target
        target.close()


@SETTINGS
@given(mode=MODES, data=st.binary(max_size=300))
def test_whatever_arrives_is_answered_or_ends_the_connection(
    connection: ConnectionTarget, mode: int, data: bytes
) -> None:
    connection.run(bytes((mode,)) + data)


@SETTINGS
@given(mode=MODES, shown=st.integers(0, len(SHOWN) - 1), seed=st.integers(0, 2**32), size=st.integers(20, 900))
def test_whoever_shows_a_key_gets_what_it_may_and_no_more(
    connection: ConnectionTarget, mode: int, shown: int, seed: int, size: int
) -> None:
    connection.run(bytes((mode, 7, shown, 0, 1)) + random.Random(seed).randbytes(size))


def test_every_command_of_the_operators_is_carried_out_and_refused_by_some_bytes(connection: ConnectionTarget) -> None:
    """Otherwise the fuzzing would stop at the door."""
    found: Counter[tuple[type[c.Command], bool]] = Counter()
    for number, data in enumerate(connection_seeds()):
        if number % 5 in {0, 1} and data[0] & 4 == 0:
            for command, answer in connection.run(data):
                found[type(command), isinstance(answer, GibramError)] += 1
    for kind in (c.Save, c.BackgroundSave, c.Restore, c.Checkpoint, c.RotateLog, c.TruncateLog):
        assert found[kind, False], f"{kind.__name__} was always refused"
        assert found[kind, True], f"{kind.__name__} was never refused"


def test_what_a_fuzzer_kept_is_served_as_ever(connection: ConnectionTarget) -> None:
    """Inputs that a coverage-guided run came upon, the shortest that together reached what it reached."""
    for line in CORPUS.read_text().split():
        connection.run(bytes.fromhex(line))
