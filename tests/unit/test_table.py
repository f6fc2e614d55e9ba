from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from gibramdb.core.table import BLOCK_RECORDS, Table

IDS = st.one_of(
    st.integers(1, 20), st.integers(BLOCK_RECORDS - 3, BLOCK_RECORDS + 3), st.integers(1, 5 * BLOCK_RECORDS)
)


@given(
    st.lists(st.tuples(st.sampled_from(["put", "remove", "remove", "freeze"]), IDS, st.text(max_size=3))),
    IDS,
    st.integers(1, 30),
)
def test_a_table_is_a_dict_by_rising_id(moves: list[tuple[str, int, str]], cursor: int, limit: int) -> None:
    table: Table[str] = Table()
    model: dict[int, str] = {}
    frozen: list[tuple[Iterable[str], list[str]]] = []
    highest = 0
    for move, id, record in moves:
        if move == "put":
            table.put(id, record)
            model[id] = record
            highest = max(highest, id)
        elif move == "freeze":
            frozen.append((table.freeze(), [model[each] for each in sorted(model)]))
        elif id in model:
            table.remove(id)
            del model[id]
    assert len(table) == len(model)
    assert list(table) == [model[id] for id in sorted(model)]
    assert all(list(records) == then for records, then in frozen), "what was frozen stays as it was"
    assert table.next_id == highest + 1
    assert all(table.get(id) == model.get(id) for id in range(highest + 3))
    beyond = [id for id in sorted(model) if id > cursor]
    assert table.after(cursor, limit) == ([model[id] for id in beyond[:limit]], len(beyond) > limit)


def test_an_id_from_anywhere_is_simply_not_there() -> None:
    table: Table[str] = Table()
    table.put(1, "one")
    assert table.get(2**64 - 1) is None
    assert table.get(0) is None
    assert 2 not in table
    assert table.after(2**64 - 1, 10) == ([], False)
