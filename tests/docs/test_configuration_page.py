"""docs/configuration.md says what the program does. Run as a program, this file renews the page's table."""

from __future__ import annotations

import re
from pathlib import Path

from gibramdb.config import DATA_DIR_FORBIDDEN, FRAME_BYTES_BUILT_IN, FRAME_BYTES_LIMIT, SETTINGS, load_config
from gibramdb.errors import BY_CODE

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "configuration.md"
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->"


def settings_table() -> str:
    rows = ["| Setting | Default | Allowed | What it does | Flag |", "|---|---|---|---|---|"]
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default else "nothing"
        flag = f"`{setting.flag}`" if setting.flag else ""
        rows.append(f"| `{setting.name}` | {default} | {setting.kind.allowed} | {setting.doc} | {flag} |")
    return "\n".join(rows) + "\n"


def test_the_table_is_the_programs_own() -> None:
    page = PAGE.read_text()
    table = page[page.index(BEGIN) + len(BEGIN) : page.index(END)]
    assert table == settings_table(), "run: python tests/docs/test_configuration_page.py"


def test_every_setting_named_in_the_text_exists() -> None:
    sections = {setting.section for setting in SETTINGS}
    names = {
        f"{section}.{key}"
        for section, key in re.findall(r"`(\w+)\.(\w+)(?:: \w+)?`", PAGE.read_text())
        if section in sections
    }
    assert len(names) >= len(SETTINGS)
    assert names - {setting.name for setting in SETTINGS} == set()


def test_numbers_and_directories_are_the_programs_own() -> None:
    page = PAGE.read_text()
    assert str(FRAME_BYTES_LIMIT) in page
    assert f"`max_frame_size` is {FRAME_BYTES_BUILT_IN}" in page
    listed = re.search(r"must not be exactly (.*?), whichever", page, re.DOTALL)
    assert listed
    assert set(re.findall(r"`(.+?)`", listed[1])) == DATA_DIR_FORBIDDEN


def test_every_exit_code_of_an_error_is_explained() -> None:
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}
    # 1 belongs to the two roots of the errors, which are never raised themselves.
    assert {error.exit_code for error in BY_CODE.values()} - {1} == explained - {0, 2, 130}


def test_the_example_file_is_accepted_and_durable() -> None:
    config = load_config(PROJECT / "examples" / "gibramdb.yaml")
    assert config.session_store.mode == "durable"
    assert config.session_store.snapshot_interval_ms == 300_000


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + settings_table() + text[text.index(END) :])
