"""Bytes of any kind, and valid messages with extreme values, against a store: an error or an answer, and nothing else.

What must hold for each run is in `support/fuzzing.py`; `make fuzz` runs the same with a coverage-guided fuzzer.
"""

from __future__ import annotations

import gc
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.fuzzing import WRITES_FILES, ConfigTarget, WireTarget, config_seeds, wire_seeds

from gibramdb.wire.codec import TABLE, CommandNumber, read_reply
from gibramdb.wire.framing import HEADER, encode_envelope, encode_frame

SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CORPUS = Path(__file__).parent / "wire_corpus.txt"
MODES = (0, 1, 2, 2, 3)
# A vector of three ordinary numbers, everything else left out, not damaged, request id 0, session `s`.
QUERY_CHOICES = bytes((3, 128, 192, 0)) + bytes((0,) * 9) + bytes((0, 0, 0))


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> WireTarget:
    return WireTarget(tmp_path_factory.mktemp("wire"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ConfigTarget:
    return ConfigTarget(tmp_path_factory.mktemp("config"))


@SETTINGS
@given(mode=st.sampled_from(MODES), data=st.binary(max_size=300))
def test_whatever_arrives_is_answered_or_refused_and_a_refusal_changes_nothing(
    wire: WireTarget, mode: int, data: bytes
) -> None:
    wire.run(bytes((mode,)) + data)


@SETTINGS
@given(seed=st.integers(0, 2**32), size=st.integers(20, 1_500), mode=st.sampled_from((2, 3)))
def test_long_runs_of_extreme_values_leave_the_store_well(wire: WireTarget, seed: int, size: int, mode: int) -> None:
    wire.run(bytes((mode,)) + random.Random(seed).randbytes(size))


@pytest.mark.parametrize(
    "place",
    [place for place, row in enumerate(TABLE) if row.number not in WRITES_FILES],
    ids=lambda place: TABLE[place].name,
)
def test_every_command_is_carried_out_by_some_bytes(wire: WireTarget, place: int) -> None:
    """Otherwise the fuzzing would stop at the door."""
    row, source = TABLE[place], random.Random(place)
    # EXPLAIN needs a query before it, which is the first one of its store.
    query = next(place for place, each in enumerate(TABLE) if each.number == CommandNumber.QUERY)
    for _ in range(3_000):
        first = bytes((query,)) + QUERY_CHOICES if row.number == CommandNumber.EXPLAIN else b""
        exchanges = wire.run(bytes((2,)) + first + bytes((place,)) + source.randbytes(60))
        if any(
            request.number == row.number and read_reply(frame[HEADER.size :]).number != CommandNumber.ERROR
            for request, frame in exchanges
        ):
            return
    pytest.fail(f"{row.name} was always refused")


@SETTINGS
@given(mode=st.sampled_from((0, 1, 2, 3)), data=st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
@example(0, b"a: &a [1, *a]\n")
@example(0, b"[" * 20_000)
@example(0, b"a: " + b"{b: " * 5_000)
@example(1, b"\xff\xfe")
def test_a_configuration_is_taken_or_refused(config: ConfigTarget, mode: int, data: bytes) -> None:
    config.run(bytes((mode,)) + data)


def test_the_defaults_are_a_configuration_by_every_source(config: ConfigTarget) -> None:
    assert sum(map(config.run, config_seeds())) > 60


@pytest.mark.parametrize("depth", [10, 100, 1_000, 30_000])
def test_a_pipeline_in_a_pipeline_however_deep_is_refused_at_the_second(wire: WireTarget, depth: int) -> None:
    body = b""
    for _ in range(depth):
        body = encode_envelope(1, CommandNumber.PIPELINE, b"\x0a" + _varint(len(body)) + body if body else b"", "s")
    ((_, frame),) = wire.serve(encode_frame(body))
    assert b"a pipeline can not hold a pipeline" in frame


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def test_what_a_fuzzer_kept_is_served_as_ever(wire: WireTarget) -> None:
    """One input for each command and way of answering it that coverage-guided runs came upon, the shortest."""
    for line in CORPUS.read_text().splitlines():
        wire.run(bytes.fromhex(line))


def test_nothing_is_left_in_memory_by_what_was_refused(wire: WireTarget) -> None:
    inputs = list(wire_seeds())[::3]

    def objects_after_a_round() -> int:
        for data in inputs:
            wire.run(data)
        gc.collect()
        return len(gc.get_objects())

    objects_after_a_round()
    before = objects_after_a_round()
    after = min(objects_after_a_round() for _ in range(2))
    assert after - before < len(inputs), f"{after - before} objects more after {len(inputs)} inputs"
