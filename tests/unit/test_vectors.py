"""The exact index: what it answers is exact, and depends on the vectors alone."""

from __future__ import annotations

import math
import random
import threading
import tracemalloc
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gibramdb.core.vectors import BLOCK_ROWS, VectorIndex

FLOAT32_ULP_AT_ONE = 2.0**-23
EXTREMES = (
    0.0,
    -0.0,
    1e-45,
    -1e-45,
    1e-38,
    -3e-30,
    1e-19,
    1e-15,
    -1e-8,
    0.5,
    1.0,
    -1.0,
    7e15,
    1e19,
    -2e30,
    3.4e38,
    -3.4e38,
)


@pytest.fixture(autouse=True)
def warnings_are_failures() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def packed(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def random_rows(count: int, dim: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)


def filled(rows: NDArray[np.float32], first_id: int = 1) -> VectorIndex:
    index = VectorIndex(rows.shape[1])
    index.add(range(first_id, first_id + len(rows)), rows.tobytes())
    return index


def ranking(index: VectorIndex, query: bytes) -> list[tuple[int, float]]:
    """Every id with its similarity, best first: what a search must be the head of."""
    return sorted(((id, index.similarity(id, query)) for id in index.ids()), key=lambda hit: (-hit[1], hit[0]))


def cosine(a: bytes, b: bytes) -> float:
    """By the definition, every sum exactly rounded."""
    left, right = (np.frombuffer(each, "<f4").astype(float).tolist() for each in (a, b))
    norms = [math.sqrt(math.fsum(x * x for x in each)) for each in (left, right)]
    if 0.0 in norms:
        return 0.0
    return math.fsum(x * y for x, y in zip(left, right, strict=True)) / (norms[0] * norms[1])


def test_an_empty_index_finds_nothing() -> None:
    index = VectorIndex(2)
    index.add((), b"")
    assert index.search(packed(1, 0), 10) == []
    assert (len(index), index.ids(), list(index.items())) == (0, [], [])


@pytest.mark.parametrize(
    ("row", "query", "expected"),
    [
        ((1, 0), (5, 0), 1.0),
        ((1, 0), (0, 2), 0.0),
        ((1, 1), (-3, -3), -1.0),
        ((3, 4), (3, 0), 0.6),
        ((0, 0), (1, 2), 0.0),
        ((1, 2), (0, 0), 0.0),
        ((0, 0), (0, 0), 0.0),
        ((3.4e38, 3.4e38), (1e-45, 1e-45), 1.0),
        ((1e-45, 0), (3.4e38, 0), 1.0),
        ((1e-45, -1e-45), (1e-45, 1e-45), 0.0),
        ((3.4e38, -3.4e38), (3.4e38, 3.4e38), 0.0),
        ((1e-30, 0), (-1, 0), -1.0),
    ],
)
def test_similarity_is_the_cosine_whatever_the_lengths(
    row: tuple[float, ...], query: tuple[float, ...], expected: float
) -> None:
    index = VectorIndex(2)
    index.add((7,), packed(*row))
    found = index.similarity(7, packed(*query))
    assert found == pytest.approx(float(np.float32(expected)), abs=FLOAT32_ULP_AT_ONE)
    assert index.search(packed(*query), 1) == [(7, found)]


def test_of_an_absent_id_there_is_nothing() -> None:
    index = VectorIndex(2)
    index.add((7,), packed(1, 0))
    index.remove(8)
    assert (index.get(8), index.stored_bytes(8), 8 in index, index.similarity(8, packed(1, 0))) == (b"", 0, False, 0.0)
    assert (index.get(7), index.stored_bytes(7), 7 in index) == (packed(1, 0), 8, True)


def test_rows_come_back_byte_for_byte() -> None:
    row = np.array([0x80000000, 0x00000001, 0x7F7FFFFF, 0x3F800001], "<u4").tobytes()  # -0, subnormal, largest, 1 + ulp
    index = VectorIndex(4)
    index.add((1,), row)
    index.add((2, 3), row + row)
    index.replace(3, row)
    assert [index.get(id) for id in (1, 2, 3)] == [row] * 3
    assert list(index.items()) == [(1, row), (2, row), (3, row)]


@pytest.mark.parametrize("ids", [(5,), (5, 6), (6, 6)])
def test_ids_that_are_not_new_are_a_defect_of_the_caller(ids: tuple[int, ...]) -> None:
    index = VectorIndex(1)
    index.add((5,), packed(1))
    with pytest.raises(AssertionError, match="already, or was given twice"):
        index.add(ids, packed(1) * len(ids))


def test_a_row_of_another_length_is_never_stored() -> None:
    index = VectorIndex(3)
    for ids, rows in (((1,), packed(1)), ((1, 2), packed(1, 2, 3))):
        with pytest.raises((AssertionError, ValueError)):
            index.add(ids, rows)
    assert len(index) == 0


def test_ties_are_broken_by_ascending_id() -> None:
    index = VectorIndex(2)
    for id in (9, 3, 7, 1, 8):
        index.add((id,), packed(id, id))
    assert [id for id, _ in index.search(packed(1, 1), 4)] == [1, 3, 7, 8]
    assert index.search(packed(0, 0), 3) == [(1, 0.0), (3, 0.0), (7, 0.0)]


@pytest.mark.parametrize("top_k", [-1, 0, 1, 5, 6])
def test_top_k_bounds_the_answer(top_k: int) -> None:
    index = filled(random_rows(5, 3))
    assert index.search(packed(1, 2, 3), top_k) == ranking(index, packed(1, 2, 3))[: max(top_k, 0)]


@pytest.mark.parametrize("dim", [1, 2, 7, 384, 1_001])
def test_a_search_is_the_head_of_the_full_ranking(dim: int) -> None:
    index = filled(random_rows(3_000, dim))
    for query in random_rows(5, dim, seed=2):
        whole = ranking(index, query.tobytes())
        assert index.search(query.tobytes(), 25) == whole[:25]
        for id, score in whole[:50]:
            assert score == pytest.approx(cosine(index.get(id), query.tobytes()), abs=FLOAT32_ULP_AT_ONE)


def test_vectors_closer_than_float32_can_tell_are_still_ranked_exactly() -> None:
    near = np.ones((2_000, 384), np.float32) + random_rows(2_000, 384) * np.float32(3e-5)
    index = filled(near)
    for query in (np.ones(384, np.float32), near[77]):
        assert index.search(query.tobytes(), 10) == ranking(index, query.tobytes())[:10]


def test_rows_the_scan_can_not_rank_take_no_place_from_those_it_can() -> None:
    rows = random_rows(400, 8)
    rows[::2] *= np.float32(1e37)
    rows[1::4] *= np.float32(1e-42)
    index = filled(rows)
    for query in random_rows(10, 8, seed=3):
        assert index.search(query.tobytes(), 12) == ranking(index, query.tobytes())[:12]
        even = [hit for hit in ranking(index, query.tobytes()) if hit[0] % 2 == 0]
        assert index.search(query.tobytes(), 12, lambda each: each % 2 == 0) == even[:12]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_extreme_numbers_are_ranked_exactly_and_without_a_warning(data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, 4))
    rows = st.lists(st.sampled_from(EXTREMES), min_size=dim, max_size=dim).map(lambda numbers: packed(*numbers))
    stored = data.draw(st.lists(rows, min_size=1, max_size=12))
    query = data.draw(rows)
    index = VectorIndex(dim)
    index.add(range(len(stored)), b"".join(stored))
    top_k = data.draw(st.integers(1, 13))
    found = index.search(query, top_k)
    assert found == ranking(index, query)[:top_k]
    for id, score in found:
        assert -1.0 <= score <= 1.0
        assert math.copysign(1.0, score) == 1.0 or score < 0.0  # no negative zero
        assert score == pytest.approx(cosine(stored[id], query), abs=FLOAT32_ULP_AT_ONE)


def test_a_row_the_scan_can_not_rank_is_gone_when_removed() -> None:
    index = VectorIndex(2)
    index.add((1, 2, 3), packed(3e38, 0, 1, 1, 1e-40, 0))
    index.remove(1)
    assert [id for id, _ in index.search(packed(1, 0), 3)] == [3, 2]
    index.remove(3)
    assert [id for id, _ in index.search(packed(1, 0), 3)] == [2]


def test_a_filter_is_asked_only_as_far_as_needed() -> None:
    index = filled(random_rows(5_000, 16))
    query = packed(*range(16))
    asked: list[int] = []

    def admits(id: int) -> bool:
        asked.append(id)
        return id % 3 == 0

    wanted = [hit for hit in ranking(index, query) if hit[0] % 3 == 0][:10]
    assert index.search(query, 10, admits) == wanted
    assert len(asked) < 200
    assert index.search(query, 10, lambda _: False) == []
    assert index.search(packed(*[0] * 16), 2, lambda each: each > 40) == [(41, 0.0), (42, 0.0)]


@pytest.mark.parametrize("dim", [3, 8, 384, 777])
def test_an_answer_does_not_depend_on_where_rows_lie(dim: int) -> None:
    """Order of insertion, one by one or in bulk, dead rows between, blocks given up: the same numbers to the last bit."""
    count = 1_500
    rows = random_rows(count, dim)
    rows[100:200] = rows[0]
    chance = random.Random(dim)
    order = list(range(count))
    plain = filled(rows, first_id=0)

    shuffled = VectorIndex(dim)
    chance.shuffle(order)
    shuffled.add(order, rows[order].tobytes())

    churned = VectorIndex(dim)
    for id in order:
        churned.add((id,), rows[chance.randrange(count)].tobytes())
    for _ in range(3):
        chance.shuffle(order)
        for id in order:
            churned.replace(id, rows[id].tobytes())
        for id in order[: count // 3]:
            churned.remove(id)
        for id in sorted(order[: count // 3]):
            churned.add((id,), rows[id].tobytes())

    for query in [*random_rows(10, dim, seed=5), rows[0]]:
        expected = plain.search(query.tobytes(), 150)
        for other in (shuffled, churned):
            assert other.search(query.tobytes(), 150) == expected
            assert [other.similarity(id, query.tobytes()) for id in range(count)] == [
                plain.similarity(id, query.tobytes()) for id in range(count)
            ]


def test_it_agrees_with_a_dict_through_any_history() -> None:
    """Over enough rows that blocks fill, are given up and are taken again."""
    chance = random.Random(11)
    index, model = VectorIndex(2), dict[int, bytes]()
    next_id = 1
    for step in range(250):
        move = chance.choice(("add", "add one", "remove some", "remove run", "replace"))
        if move == "add":
            count = chance.choice((0, 2, 50, 3_000, 9_000))
            rows = random_rows(count, 2, seed=step)
            ids = list(range(next_id, next_id + count))
            chance.shuffle(ids)
            next_id += count
            index.add(ids, rows.tobytes())
            model.update({id: row.tobytes() for id, row in zip(ids, rows, strict=True)})
        elif move == "add one":
            index.add((next_id,), packed(step, 1))
            model[next_id] = packed(step, 1)
            next_id += 1
        elif move == "replace":
            for id in [*chance.sample(sorted(model), min(len(model), chance.choice((1, 700)))), next_id]:
                index.replace(id, packed(id, step))
                model[id] = packed(id, step)
            next_id += 1
        else:
            known = sorted(model)
            count = chance.choice((1, 500, 6_000))
            start = chance.randrange(len(known) + 1)
            gone = (
                known[start : start + count] if move == "remove run" else chance.sample(known, min(len(known), count))
            )
            for id in gone:
                index.remove(id)
                del model[id]
        assert len(index) == len(model)
        if step % 10 == 0:
            query = packed(chance.gauss(0, 1), chance.gauss(0, 1))
            assert index.search(query, 7) == ranking(index, query)[:7]
            assert list(index.items()) == sorted(model.items())
    assert index.ids() == sorted(model)
    assert all(index.get(id) == row for id, row in model.items())


def test_an_iterator_shows_the_moment_of_its_call_in_any_thread() -> None:
    rows = random_rows(2 * BLOCK_ROWS + 100, 3)
    index = filled(rows)
    expected = [(id, row.tobytes()) for id, row in enumerate(rows, start=1)]
    frozen = index.items()
    for id in range(1, len(rows) + 1):
        if id % 3:
            index.remove(id)
        else:
            index.replace(id, packed(0, 0, id))
    index.add((0,), packed(1, 1, 1))
    seen: list[tuple[int, bytes]] = []
    reader = threading.Thread(target=lambda: seen.extend(frozen))
    reader.start()
    reader.join()
    assert seen == expected
    assert next(index.items()) == (0, packed(1, 1, 1))


def bytes_held_after(change: str) -> tuple[int, int]:
    """What an index of 64 numbers a row holds, and what its living rows alone take."""
    dim, rows = 64, random_rows(3 * BLOCK_ROWS, 64).tobytes()
    tracemalloc.start()
    try:
        index = VectorIndex(dim)
        index.add(range(3 * BLOCK_ROWS), rows)
        match change:
            case "replace one for ever":
                for _ in range(10 * BLOCK_ROWS):
                    index.replace(5, rows[: dim * 4])
            case "remove most":
                for id in range(3 * BLOCK_ROWS):
                    if id % 50:
                        index.remove(id)
            case "remove all":
                for id in range(3 * BLOCK_ROWS):
                    index.remove(id)
            case "add while replacing":
                for id in range(3 * BLOCK_ROWS, 3 * BLOCK_ROWS + 1_000):
                    index.add((id,), rows[: dim * 4])
                    for _ in range(40):
                        index.replace(id, rows[: dim * 4])
        return tracemalloc.get_traced_memory()[0], len(index) * dim * 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("change", ["replace one for ever", "remove most", "remove all", "add while replacing"])
def test_the_dead_do_not_keep_memory(change: str) -> None:
    held, living = bytes_held_after(change)
    block = BLOCK_ROWS * (64 * 4 + 16)
    # Slots and ids, which are Python's, take up to 120 bytes a row beside the vectors.
    assert held < 2.2 * living * (1 + 120 / 256) + 1.5 * block


def test_an_emptied_index_gives_its_block_back() -> None:
    tracemalloc.start()
    try:
        index = VectorIndex(384)
        index.add(range(1_000), bytes(1_000 * 384 * 4))
        for id in range(1_000):
            index.remove(id)
        assert tracemalloc.get_traced_memory()[0] < 1_000 * 120
    finally:
        tracemalloc.stop()


def test_what_was_picked_stays_as_it_was_whatever_happens_later() -> None:
    count = 2 * BLOCK_ROWS + 100
    rows = np.random.default_rng(5).standard_normal((count, 3)).astype("<f4")
    index = VectorIndex(3)
    index.add(range(count), rows.tobytes())
    asked = [count - 1, 0, BLOCK_ROWS, 0, 7, BLOCK_ROWS - 1]
    picked = index.pick(asked)
    assert index.pick(()).tobytes() == b""
    for id in range(count):
        index.replace(id, bytes(12)) if id % 3 else index.remove(id)
    assert index.pick([7]).tobytes() == bytes(12)
    for _ in index.dismantle():
        pass
    assert picked.tobytes() == rows[asked].tobytes()


def test_blocks_given_up_are_taken_again() -> None:
    index = VectorIndex(1)
    for first in range(0, 40 * BLOCK_ROWS, BLOCK_ROWS):
        index.add(range(first, first + BLOCK_ROWS), packed(1.0) * BLOCK_ROWS)
        for id in range(first - 2 * BLOCK_ROWS, first - BLOCK_ROWS):
            index.remove(id)
    assert len(index._blocks) <= 6


def test_ten_thousand_small_indexes_are_small() -> None:
    tracemalloc.start()
    try:
        indexes = [VectorIndex(384) for _ in range(100)]
        empty = tracemalloc.get_traced_memory()[0] / 100
        for index in indexes:
            index.add((1,), bytes(384 * 4))
        one_row = tracemalloc.get_traced_memory()[0] / 100
    finally:
        tracemalloc.stop()
    assert empty < 2_000
    assert one_row < 16_000
