"""docs/formats/wire.md says what the code does: every command, every error code, every limit."""

from __future__ import annotations

import re
from pathlib import Path

from gibramdb.errors import BY_CODE
from gibramdb.wire.codec import PIPELINE_COMMANDS_MAX, REPLY_PAYLOAD_BYTES_MAX, TABLE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats" / "wire.md").read_text()


def rows_below(heading: str) -> list[tuple[str, ...]]:
    """The cells of the table in one section, without its head."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


def test_every_command_stands_on_the_page_as_it_is_in_the_table() -> None:
    expected = [
        (str(row.number.value), row.name, row.session_rule, row.permission, f"{reply.value} {reply.name}")
        for row in sorted(TABLE, key=lambda row: row.number)
        for reply in [row.result.reply]
    ]
    assert rows_below("Commands") == expected


def test_those_that_answer_nothing_for_a_session_that_is_not_there_are_named() -> None:
    named = re.search(r"Those that read many, (.*?),\s+must name one too", PAGE, re.DOTALL)
    assert named is not None
    many = {row.number.value for row in TABLE if row.session_rule == "required" and row.name[:5] in {"MGET_", "LIST_"}}
    assert {int(number) for number in re.findall(r"\d+", named[1])} == many


def test_every_test_that_the_page_names_exists() -> None:
    root = Path(__file__).resolve().parents[2]
    rows = rows_below("Conformance")
    assert len(rows) >= 16
    for what, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
        assert named, f"no test holds: {what}"
        assert len(named) == tests.count("`") // 2, f"not the name of a test: {tests}"
        for file, test in named:
            assert re.search(rf"^def {test}\(", (root / file).read_text(), re.MULTILINE), f"{file}::{test}"


def test_every_error_code_stands_on_the_page_with_its_class_and_meaning() -> None:
    expected = [
        (str(code), BY_CODE[code].__name__, (BY_CODE[code].__doc__ or "").strip().splitlines()[0])
        for code in sorted(BY_CODE)
    ]
    assert rows_below("Errors") == expected


def test_the_limits_on_the_page_are_the_ones_in_the_code() -> None:
    figures = {name: re.sub(r"\D", "", value) for name, value in rows_below("Limits")}
    assert figures["commands in one pipeline"] == str(PIPELINE_COMMANDS_MAX)
    assert figures["payload of a reply"].startswith(str(REPLY_PAYLOAD_BYTES_MAX))
