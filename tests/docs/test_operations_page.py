"""docs/operations.md: every field of HEALTH, every setting of durable mode, every promise, each with a test that exists."""

from __future__ import annotations

import ast
from pathlib import Path

import gibramdb
from gibramdb.config import SETTINGS

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "operations.md").read_text()


def rows(name: str) -> list[list[str]]:
    table = PAGE.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def assert_exists(test: str) -> None:
    path, _, name = test.partition("::")
    tree = ast.parse((PROJECT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_the_page_has_every_field_of_health_and_the_test_that_moves_it() -> None:
    with gibramdb.open(vector_dim=2) as db:
        fields = list(db.health().components)
    assert [name.strip("`") for name, _, _ in rows("health")] == fields
    for name, _, test in rows("health"):
        assert_exists(test)
        assert name.strip("`") in (PROJECT / test.partition("::")[0]).read_text(), f"{test} does not look at {name}"


def test_every_promise_names_a_test_that_exists() -> None:
    promises = [(promise, test) for promise, test in rows("promises") if not promise.startswith("**")]
    assert len(promises) > 70
    assert len({promise for promise, _ in promises}) == len(promises)
    for _, test in promises:
        assert_exists(test)


def test_every_setting_of_durable_mode_names_the_test_that_tries_it() -> None:
    named = [name.strip("`") for name, _ in rows("settings")]
    assert named == [
        setting.name for setting in SETTINGS if setting.name == "server.data_dir" or setting.section == "session_store"
    ]
    for name, test in rows("settings"):
        assert_exists(test)
        key = name.strip("`").partition(".")[2]
        source = (PROJECT / test.partition("::")[0]).read_text()
        assert key in source or key.replace("_", "-") in source, f"{test} does not set {name}"
