"""docs/operations.md: every field of HEALTH, every setting of durable mode, every promise, each with a test that exists."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import gibramdb
from gibramdb.config import SETTINGS
from gibramdb.database import health

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "operations.md").read_text()


def rows(name: str) -> list[list[str]]:
    table = PAGE.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def source_of(test: str) -> str:
    """What the test does; it must exist."""
    path, _, name = test.partition("::")
    text = (PROJECT / path).read_text()
    tests = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert name in tests, test
    return ast.get_source_segment(text, tests[name]) or ""


def test_the_page_has_every_field_of_health_and_the_test_that_moves_it() -> None:
    with gibramdb.open(vector_dim=2) as db:
        fields = list(db.health().components)
    assert [name.strip("`") for name, _, _ in rows("health")] == fields
    for name, _, test in rows("health"):
        assert name.strip("`") in source_of(test), f"{test} does not look at {name}"


STATEMENTS = {1: 4, 2: 5, 3: 3, 4: 7, 5: 7, 6: 6, 7: 4, 8: 3, 9: 8, 10: 5, 11: 6, 12: 4, 13: 7}
"""How many statements each section of the contract with operators makes."""


def test_every_statement_of_the_contract_has_a_row() -> None:
    numbers = [number for cell, _, _ in rows("promises") for number in cell.split(", ") if number]
    assert set(numbers) == {f"{section}.{at}" for section, count in STATEMENTS.items() for at in range(1, count + 1)}
    for cell, promise, test in rows("promises"):
        assert bool(test) is not promise.startswith("**")
        assert test or not cell


def test_every_promise_names_a_test_that_exists() -> None:
    promises = [(promise, test) for _, promise, test in rows("promises") if not promise.startswith("**")]
    assert len(promises) > 70
    assert len({promise for promise, _ in promises}) == len(promises)
    for _, test in promises:
        assert source_of(test)


def test_every_setting_of_durable_mode_names_the_test_that_tries_it() -> None:
    named = [name.strip("`") for name, _ in rows("settings")]
    assert named == [
        setting.name for setting in SETTINGS if setting.name == "server.data_dir" or setting.section == "session_store"
    ]
    for name, test in rows("settings"):
        assert source_of(test)
        key = name.strip("`").partition(".")[2]
        source = (PROJECT / test.partition("::")[0]).read_text()
        assert key in source or key.replace("_", "-") in source, f"{test} does not set {name}"


def test_every_state_names_the_test_that_brings_it_about() -> None:
    states = [(state.strip("`"), test) for state, _, test in rows("states")]
    # In the order of the code: what HEALTH says of a start, and what it may say later.
    assert list(dict.fromkeys(state for state, _ in states)) == ["starting", "serving", "degraded", "unhealthy"]
    source = inspect.getsource(health)
    for state, test in states:
        assert source_of(test)
        assert f'"{state}"' in source
        assert f'"{state}"' in (PROJECT / test.partition("::")[0]).read_text(), f"{test} does not look at {state}"
