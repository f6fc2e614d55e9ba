"""docs/operations.md says what HEALTH has, and each promise on it names a test that exists."""

from __future__ import annotations

import ast
from pathlib import Path

import gibramdb

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "operations.md").read_text()


def rows(name: str) -> list[list[str]]:
    table = PAGE.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_page_has_every_field_of_health() -> None:
    with gibramdb.open(vector_dim=2) as db:
        fields = list(db.health().components)
    assert [name.strip("`") for name, _ in rows("health")] == fields


def test_every_promise_names_a_test_that_exists() -> None:
    promises = rows("promises")
    assert len(promises) > 30
    for promise, test in promises:
        path, _, name = test.partition("::")
        tree = ast.parse((PROJECT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, promise
