"""The exact index: the vectors of one session and one kind, and the nearest of them by cosine similarity.

Owns: the embeddings, which stand nowhere else in memory; where each lies; their norms.
Never: approximates; knows what an id means; checks that numbers are finite or that lengths are right (its caller has).

Rows lie in blocks, raw as they were given. A row is written once: a replacement is a new row, and the old one is dead
until its block is given up and the living moved to another, which happens once a block is full and half of it dead. So
whoever holds a block from earlier still reads what it held then, no change ever moves more than half a full block, and
no more than half of what is held is waste, the newest block aside.

A search takes two steps. The scan ranks all rows with one float32 matrix product per block: quick, and off by no more
than a known margin. Whatever comes within the margin of the best is then scored in float64, each row by itself. That
step sees nothing but two vectors, so neither an answer nor its order depends on where a row lies and what lay beside
it, as the sums of a matrix product do.

Invariants:
- `_slots` names each live row once; a slot is block number * BLOCK_ROWS + row.
- A block other than the tail is full, of full size and more than half alive, or it is empty and listed in `_holes`.
- The bias of a dead row is -inf, that of a live row is not.

One owner uses an index, from one thread; but an iterator from `items` belongs to whoever holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 4_096
"""Rows of a full block: 6 MiB at 384 dimensions. Half of one is moved in about a millisecond."""

_FIRST_BLOCK_ROWS = 8
"""Where the first block begins; it doubles from there. There may be 10,000 sessions with a few vectors each."""

_RESCORED_ROWS_MAX = 1_024
"""Rows scored in float64 at a time, so that a great many ties make no great temporary."""

_SQUARED_NORM_MIN, _SQUARED_NORM_MAX = np.float32(1e-30), np.float32(1e30)
"""The scan ranks rows between these. One outside loses too much in float32, and is always scored in float64."""

_SCAN_QUERY_NORM = 2.0**-20
"""How long the query is made for the scan: short enough that its product with even the largest row is finite, long
enough that its product with the shortest row the scan ranks stays clear of float32's smallest numbers."""

_FLOAT32_ROUNDING = 2.0**-24

_BELOW_ALL = -2.0
"""Under every score that the scan gives to a live row, and above the -inf of a dead one."""


class VectorIndex:
    """Embeddings by id, and exact search among them.

    Args:
        vector_dim: numbers in an embedding, at least 1. Embeddings come and go as vector_dim * 4 bytes of
            little-endian float32.
    """

    def __init__(self, vector_dim: int) -> None:
        self._vector_dim = vector_dim
        self._row_bytes = vector_dim * 4
        # Each number is rounded once when multiplied and at most vector_dim times when summed, and so are the squares
        # of the norm, halved by the root; twice that, for the row and for the one it is compared with, and then some.
        self._margin = (3 * vector_dim + 32) * _FLOAT32_ROUNDING
        self._blocks = [_Block(0, vector_dim)]
        self._tail = 0
        self._holes: list[int] = []
        self._slots: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, id: int) -> bool:
        return id in self._slots

    @property
    def row_bytes(self) -> int:
        """The length of one embedding in bytes."""
        return self._row_bytes

    def ids(self) -> list[int]:
        """All ids, ascending."""
        return sorted(self._slots)

    def get(self, id: int) -> bytes:
        """The embedding exactly as it was given, or b"" if there is none."""
        slot = self._slots.get(id)
        if slot is None:
            return b""
        number, row = divmod(slot, BLOCK_ROWS)
        stored: bytes = self._blocks[number].rows[row].tobytes()
        return stored

    def pick(self, ids: Sequence[int]) -> PickedVectors:
        """The embeddings of ids that are here, one for each, as they are now, whatever happens later. Copies none."""
        numbers, places = np.divmod(np.array([self._slots[id] for id in ids], np.int64), BLOCK_ROWS)
        blocks = {number: self._blocks[number].rows for number in np.unique(numbers).tolist()}
        return PickedVectors(blocks, numbers, places, self._vector_dim)

    def stored_bytes(self, id: int) -> int:
        """The length of the embedding in bytes, or 0 if there is none."""
        return self._row_bytes if id in self._slots else 0

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Ids with their embeddings, by ascending id, as they are at the moment of the call, whatever happens later.

        The call itself copies 16 bytes a row; sorting and reading happen as the iterator is used, in any thread.
        """
        return self.freeze().items()

    def freeze(self) -> FrozenVectors:
        """What it holds now, whatever happens later. Copies 16 bytes a row, and no embedding."""
        if not self._slots:
            return FrozenVectors((), self._vector_dim)
        views = [(block.rows, *block.living()) for block in self._blocks if block.live_count]
        return FrozenVectors(views, self._vector_dim)

    def add(self, ids: Sequence[int], rows: bytes) -> None:
        """Adds embeddings under ids that are new.

        Args:
            ids: one for each row, none of them here already, none twice.
            rows: shape (len(ids), vector_dim), one row after the other.
        """
        live_count = len(self._slots)
        if len(ids) == 1:
            self._append_one(ids[0], rows)
        else:
            self._append(np.array(ids, np.int64), np.frombuffer(rows, "<f4").reshape(len(ids), self._vector_dim))
        assert len(self._slots) == live_count + len(ids), "an id is here already, or was given twice"

    def replace(self, id: int, row: bytes) -> None:
        """Puts `row`, shape (vector_dim,), in the place of what `id` had, if it had any."""
        self.remove(id)
        self._append_one(id, row)

    def remove(self, id: int) -> None:
        """Forgets an embedding; no matter if there is none."""
        slot = self._slots.pop(id, None)
        if slot is None:
            return
        number, row = divmod(slot, BLOCK_ROWS)
        block = self._blocks[number]
        block.bias[row] = -np.inf
        block.live_count -= 1
        if number == self._tail:
            if block.live_count == 0:
                self._blocks[number] = _Block(0, self._vector_dim)
        elif block.live_count <= BLOCK_ROWS // 2:
            self._blocks[number] = _Block(0, self._vector_dim)
            self._holes.append(number)
            living_ids, living = block.living()
            self._append(living_ids, block.rows[living])

    def dismantle(self) -> Iterator[None]:
        """Forget everything, a block at a time; nobody may look at it any more."""
        while self._blocks or self._slots:
            if self._blocks:
                self._blocks.pop()
            for _ in range(min(len(self._slots), BLOCK_ROWS)):
                self._slots.popitem()
            yield

    def search(self, query: bytes, top_k: int, admits: Callable[[int], bool] | None = None) -> list[tuple[int, float]]:
        """The nearest embeddings, all of them considered.

        Args:
            query: shape (vector_dim,).
            top_k: how many to answer at most.
            admits: whether an id may be in the answer; asked about the better ones only, as many as it takes.

        Returns:
            Ids with their cosine similarity, as `similarity` has it: highest first, then by ascending id.
        """
        if top_k < 1 or not self._slots:
            return []
        wide_query, query_norm = _widened(query)
        if query_norm == 0.0:
            admitted = (id for id in self.ids() if admits is None or admits(id))
            return [(id, 0.0) for id in islice(admitted, top_k)]
        blocks = [block for block in self._blocks if block.live_count]
        ends = np.cumsum([block.row_count for block in blocks])
        scores = np.empty(ends[-1], np.float32)
        scan_query = (wide_query * (_SCAN_QUERY_NORM / query_norm)).astype(np.float32)
        for block, end in zip(blocks, ends, strict=True):
            block.scan(scan_query, scores[end - block.row_count : end])
        if admits is None:
            candidates = self._best(scores, top_k)
        else:
            ids = np.concatenate([block.ids[: block.row_count] for block in blocks])
            candidates = self._best_admitted(scores, ids, top_k, admits)
        found_ids: list[NDArray[np.int64]] = []
        found_scores: list[NDArray[np.float32]] = []
        bounds = [0, *np.searchsorted(candidates, ends).tolist()]
        for number, block in enumerate(blocks):
            first_row = int(ends[number]) - block.row_count
            for begin in range(bounds[number], bounds[number + 1], _RESCORED_ROWS_MAX):
                rows = candidates[begin : min(begin + _RESCORED_ROWS_MAX, bounds[number + 1])] - first_row
                found_ids.append(block.ids[rows])
                found_scores.append(_cosines(block.rows[rows], wide_query, query_norm))
        if not found_ids:
            return []
        ids, scores = np.concatenate(found_ids), np.concatenate(found_scores)
        best = np.lexsort((ids, -scores))[:top_k]
        return list(zip(ids[best].tolist(), scores[best].tolist(), strict=True))

    def similarity(self, id: int, query: bytes) -> float:
        """The cosine of the angle between an embedding and `query`, shape (vector_dim,), rounded to float32.

        -1.0 to 1.0; 0.0 if one of the two has no length, or there is no embedding of this id.
        """
        slot = self._slots.get(id)
        if slot is None:
            return 0.0
        number, row = divmod(slot, BLOCK_ROWS)
        return float(_cosines(self._blocks[number].rows[row : row + 1], *_widened(query))[0])

    def _best(self, scores: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
        """Positions, ascending, of all that may be among the best: in the scan they come close, or can not be told."""
        # What the scan can not rank stands at the head with +inf, and must not take the place of one it can.
        wanted = top_k + int(np.count_nonzero(scores == np.inf))
        floor = _BELOW_ALL
        if wanted < len(scores):
            floor = max(floor, float(np.partition(scores, -wanted)[-wanted]) - self._margin)
        return np.flatnonzero(scores >= floor)

    def _best_admitted(
        self, scores: NDArray[np.float32], ids: NDArray[np.int64], top_k: int, admits: Callable[[int], bool]
    ) -> NDArray[np.int64]:
        """As `_best`, among those admitted."""
        chosen: list[int] = []
        ranked_count = 0
        floor = _BELOW_ALL
        best_first = np.argsort(scores)[::-1]
        for position, score, id in zip(best_first, scores[best_first], ids[best_first], strict=True):
            if score < floor:
                break
            if not admits(int(id)):
                continue
            chosen.append(position)
            if score < np.inf:
                ranked_count += 1
                if ranked_count == top_k:
                    floor = float(score) - self._margin
        return np.sort(np.array(chosen, np.int64))

    def _append_one(self, id: int, row: bytes) -> None:
        # `_append` for a single row, without its slices and its iterators: most additions are of this kind.
        assert len(row) == self._row_bytes, f"a row has {len(row)} bytes instead of {self._row_bytes}"
        block = self._blocks[self._tail]
        if block.row_count == block.capacity:
            block = self._make_room(1)
        at = block.row_count
        block.rows[at] = np.frombuffer(row, "<f4")
        block.ids[at] = id
        block.row_count += 1
        block.live_count += 1
        self._slots[id] = self._tail * BLOCK_ROWS + at

    def _append(self, ids: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        while len(ids):
            block = self._blocks[self._tail]
            if block.row_count == block.capacity:
                block = self._make_room(len(ids))
            taken = block.capacity - block.row_count
            self._place(ids[:taken], rows[:taken])
            ids, rows = ids[taken:], rows[taken:]

    def _place(self, ids: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Writes rows into the tail, where there is room for them."""
        block = self._blocks[self._tail]
        begin, end = block.row_count, block.row_count + len(ids)
        block.rows[begin:end] = rows
        block.ids[begin:end] = ids
        block.row_count = end
        block.live_count += len(ids)
        first_slot = self._tail * BLOCK_ROWS
        self._slots.update(zip(ids.tolist(), range(first_slot + begin, first_slot + end), strict=True))

    def _make_room(self, row_count: int) -> _Block:
        """Replaces a full tail by one that has room, for `row_count` rows if a block can hold them; answers it."""
        tail = self._blocks[self._tail]
        if tail.live_count > BLOCK_ROWS // 2:
            # Measured here, so that the first search after a recovery need not measure a whole session.
            tail.measure()
            if not self._holes:
                self._holes.append(len(self._blocks))
                self._blocks.append(tail)
            self._tail = self._holes.pop()
            self._blocks[self._tail] = _Block(BLOCK_ROWS, self._vector_dim)
        else:
            capacity = BLOCK_ROWS
            if len(self._blocks) - len(self._holes) == 1:
                needed = max(tail.live_count + max(tail.live_count, row_count), _FIRST_BLOCK_ROWS)
                capacity = min(BLOCK_ROWS, 1 << (needed - 1).bit_length())
            self._blocks[self._tail] = _Block(capacity, self._vector_dim)
            living_ids, living = tail.living()
            self._place(living_ids, tail.rows[living])
        return self._blocks[self._tail]


class PickedVectors:
    """Some embeddings as they were at one moment, in an order of their own. May be read in any thread."""

    def __init__(
        self,
        blocks: Mapping[int, NDArray[np.float32]],
        numbers: NDArray[np.int64],
        places: NDArray[np.int64],
        vector_dim: int,
    ) -> None:
        """blocks: rows by a block's number; numbers and places: for each embedding its block's number and its row."""
        self._blocks = blocks
        self._numbers = numbers
        self._places = places
        self._vector_dim = vector_dim

    def tobytes(self) -> bytes:
        """One row after the other, as they were given."""
        rows = np.empty((len(self._numbers), self._vector_dim), np.float32)
        for number in np.unique(self._numbers):
            here = self._numbers == number
            rows[here] = self._blocks[number][self._places[here]]
        return rows.tobytes()


class FrozenVectors:
    """Embeddings as they were at one moment. Sorted when first read; may be read in any thread, by one at a time."""

    def __init__(
        self, views: Sequence[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]], vector_dim: int
    ) -> None:
        """views: of each block its rows, the living ids, and in which rows they lie."""
        self._views = views
        self._vector_dim = vector_dim
        self._sorted: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return sum(len(ids) for _, ids, _ in self._views)

    def between(self, first: int, last: int) -> tuple[tuple[int, ...], bytes]:
        """Ids from `first` to `last`, both included, ascending, and their rows, one after the other."""
        ids, numbers, places = self._order()
        begin, end = np.searchsorted(ids, first), np.searchsorted(ids, last, "right")
        blocks = {number: rows for number, (rows, _, _) in enumerate(self._views)}
        picked = PickedVectors(blocks, numbers[begin:end], places[begin:end], self._vector_dim)
        return tuple(ids[begin:end].tolist()), picked.tobytes()

    def items(self) -> Iterator[tuple[int, bytes]]:
        """Ids with their embeddings, by ascending id."""
        for id, number, place in zip(*self._order(), strict=True):
            yield int(id), self._views[number][0][place].tobytes()

    def _order(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Ids ascending, and of each its block's number and its row."""
        if self._sorted is None:
            none = np.empty(0, np.int64)
            ids = np.concatenate([none, *(ids for _, ids, _ in self._views)])
            places = np.concatenate([none, *(places for _, _, places in self._views)])
            numbers = np.repeat(np.arange(len(self._views)), [len(ids) for _, ids, _ in self._views])
            order = np.argsort(ids)
            self._sorted = ids[order], numbers[order], places[order]
        return self._sorted


class _Block:
    """Rows, shape (capacity, vector_dim), of which the first `row_count` are written and `live_count` alive."""

    __slots__ = ("bias", "capacity", "ids", "inverse_norms", "live_count", "measured_count", "row_count", "rows")

    def __init__(self, capacity: int, vector_dim: int) -> None:
        self.capacity = capacity
        self.rows = np.empty((capacity, vector_dim), np.float32)
        self.ids = np.empty(capacity, np.int64)
        self.inverse_norms = np.zeros(capacity, np.float32)
        # Added to the scores of the scan: 0, or +inf where the scan can not rank the row, or -inf where it is dead.
        self.bias = np.zeros(capacity, np.float32)
        self.row_count = 0
        self.live_count = 0
        self.measured_count = 0

    def living(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids and rows of what is alive, both shape (live_count,), copied."""
        rows = np.flatnonzero(self.bias[: self.row_count] != -np.inf)
        return self.ids[rows], rows

    def scan(self, query: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        """Fills `scores`, shape (row_count,), with cosines within the margin, +inf and -inf. No score is NaN."""
        self.measure()
        np.dot(self.rows[: self.row_count], query, out=scores)
        scores *= self.inverse_norms[: self.row_count]
        scores += self.bias[: self.row_count]

    def measure(self) -> None:
        """Norms of the rows that came since the last time: not before they are needed, so that adding is a copy."""
        if self.measured_count == self.row_count:
            return
        new = slice(self.measured_count, self.row_count)
        rows, bias = self.rows[new], self.bias[new]
        squares = np.einsum("ij,ij->i", rows, rows)
        rankable = (squares >= _SQUARED_NORM_MIN) & (squares <= _SQUARED_NORM_MAX)
        self.inverse_norms[new][rankable] = 1.0 / (np.sqrt(squares[rankable]) * np.float32(_SCAN_QUERY_NORM))
        # A row of zeros keeps the inverse norm 0 and so scores exactly 0 in the scan. Many ids may have such a
        # placeholder, and they should cost no more than others.
        unrankable = np.flatnonzero(~rankable & (bias != -np.inf))
        bias[unrankable[rows[unrankable].any(axis=1)]] = np.inf
        self.measured_count = self.row_count


def _widened(query: bytes) -> tuple[NDArray[np.float64], float]:
    """The query in float64, where no product of two float32 numbers overflows or vanishes, and its norm."""
    wide = np.frombuffer(query, "<f4").astype(np.float64)
    return wide, float(np.sqrt((wide * wide).sum()))


def _cosines(rows: NDArray[np.float32], wide_query: NDArray[np.float64], query_norm: float) -> NDArray[np.float32]:
    """Cosine of each row, shape (n, vector_dim), with the query: a function of the two alone, whatever n is.

    Products first, then numpy's own sum along each contiguous row, whose order depends on the row's length only. A
    matrix product would be quicker, but it sums differently from place to place.
    """
    wide = rows.astype(np.float64)
    norms = np.sqrt((wide * wide).sum(axis=1)) * query_norm
    cosines = np.zeros(len(rows))
    np.divide((wide * wide_query).sum(axis=1), norms, out=cosines, where=norms > 0.0)
    # In float64 a cosine may step over 1 by far less than half of float32's last place, so this rounds it back. Adding
    # zero makes a negative zero a plain one.
    return cosines.astype(np.float32) + np.float32(0.0)
