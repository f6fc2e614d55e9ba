"""Records by id, in blocks.

Ids are given out in rising order and never reused, so a record's place follows from its id: iterating by id and paging
cost nothing extra. A block is the unit that a snapshot shares with the table: whoever writes to a shared block first
copies it, so that freezing costs a list of blocks and no record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

BLOCK_RECORDS = 1024


class Table(Generic[T]):
    """Records of one kind. Ids begin at 1; `next_id` is the one to give out next."""

    __slots__ = ("_blocks", "_count", "_counts", "_shared", "next_id")

    def __init__(self) -> None:
        self._blocks: list[list[T | None] | None] = []
        self._count = 0
        self._counts: list[int] = []  # of each block
        self._shared: set[int] = set()  # numbers of the blocks that somebody else reads
        self.next_id = 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All records by rising id."""
        return _records(self._blocks)

    def items(self) -> Iterator[tuple[int, T]]:
        """All records with their ids, by rising id."""
        for number, block in enumerate(self._blocks):
            for place, record in enumerate(block or ()):
                if record is not None:
                    yield number * BLOCK_RECORDS + place, record

    def freeze(self) -> Iterable[T]:
        """All records by rising id as they are now, whatever happens later; for any thread, and repeatedly."""
        if not self._count:
            return ()
        self._shared.update(range(len(self._blocks)))
        return _FrozenTable(self._blocks.copy())

    def get(self, id: int) -> T | None:
        """The record, or None."""
        number = id // BLOCK_RECORDS
        if not 0 <= number < len(self._blocks):
            return None
        block = self._blocks[number]
        place = id % BLOCK_RECORDS
        return None if block is None or place >= len(block) else block[place]

    def __contains__(self, id: int) -> bool:
        return self.get(id) is not None

    def put(self, id: int, record: T) -> None:
        """Add or replace; `next_id` moves past the id."""
        number, place = divmod(id, BLOCK_RECORDS)
        blocks = self._blocks
        if number < len(blocks) and number not in self._shared:
            last = blocks[number]
            if last is not None and place == len(last):  # the next one: what millions of a start are
                last.append(record)
                self._count += 1
                self._counts[number] += 1
                if id >= self.next_id:
                    self.next_id = id + 1
                return
        while number >= len(self._blocks):
            self._blocks.append(None)
            self._counts.append(0)
        block = self._blocks[number]
        if block is None:
            block = self._blocks[number] = []
        elif number in self._shared:
            block = self._own(number, block)
        # A block grows with what is in it: there may be ten thousand sessions with a handful of records each.
        while place >= len(block):
            block.append(None)
        if block[place] is None:
            self._count += 1
            self._counts[number] += 1
        block[place] = record
        self.next_id = max(self.next_id, id + 1)

    def remove(self, id: int) -> None:
        """Forget a record that is there; a block without records is dropped."""
        number = id // BLOCK_RECORDS
        block = self._blocks[number]
        assert block is not None
        assert block[id % BLOCK_RECORDS] is not None
        self._count -= 1
        self._counts[number] -= 1
        if not self._counts[number]:
            self._blocks[number] = None
            self._shared.discard(number)
            return
        if number in self._shared:
            block = self._own(number, block)
        block[id % BLOCK_RECORDS] = None

    def dismantle(self) -> Iterator[None]:
        """Forget everything, a block at a time; nobody may look at it any more."""
        while self._blocks:
            self._blocks.pop()
            yield

    def _own(self, number: int, block: list[T | None]) -> list[T | None]:
        self._shared.remove(number)
        copy = self._blocks[number] = block.copy()
        return copy

    def after(self, cursor: int, limit: int) -> tuple[list[T], bool]:
        """Up to `limit` records with ids above `cursor`, by rising id, and whether more remain."""
        found: list[T] = []
        first = max(cursor, 0) + 1
        for number in range(first // BLOCK_RECORDS, len(self._blocks)):
            block = self._blocks[number]
            if block is None:
                continue
            offset = first % BLOCK_RECORDS if number == first // BLOCK_RECORDS else 0
            for record in block[offset:]:
                if record is not None:
                    if len(found) == limit:
                        return found, True
                    found.append(record)
        return found, False


class _FrozenTable(Generic[T]):
    """Blocks that nobody writes to."""

    __slots__ = ("_blocks",)

    def __init__(self, blocks: list[list[T | None] | None]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[T]:
        return _records(self._blocks)


def _records(blocks: list[list[T | None] | None]) -> Iterator[T]:
    for block in blocks:
        if block is not None:
            for record in block:
                if record is not None:
                    yield record
