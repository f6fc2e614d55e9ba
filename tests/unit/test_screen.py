"""What people are shown of data is the data: no markup, no emoji codes, and no orders to the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.table import Table

import gibramdb
from gibramdb.cli import index, query
from gibramdb.cli.console import Talk
from gibramdb.cli.grammar import GOT_CHARS_MAX
from gibramdb.cli.main import main
from gibramdb.cli.screen import Screen
from gibramdb.cli.visible import visible
from gibramdb.errors import InvalidArgumentError
from gibramdb.model.knowledge import NewCommunity, NewEntity, NewRelationship
from gibramdb.pipeline.indexing import IndexReport, Tally
from gibramdb.pipeline.sources import Skipped

LITERAL = ("list[int]", "report[draft].txt", "[/x]", "[bold]", ":smile:", "a\\[b]", "[link=e.org]x", "ünïcode")
SPELLED = {
    "\x1b[2J": "\\x1b[2J",
    "\x9b2J": "\\x9b2J",
    "a\rb": "a\\rb",
    "\a\b\v\f\0\x7f": "\\x07\\x08\\x0b\\x0c\\x00\\x7f",
    "bad\udcff": "bad\\udcff",
}
SHOWN = {**{text: text for text in LITERAL}, **SPELLED}
STORABLE = [text for text in SHOWN if "\udcff" not in text]


def test_lines_and_tables_show_what_they_are_given() -> None:
    for text, shown in SHOWN.items():
        assert visible(text) == shown
        screen = Screen(width=200)
        screen.file = io.StringIO()
        table = Table(text, title=text)
        table.add_row(text)
        screen.print(text)
        screen.print(text, style="bold")
        screen.print(table)
        assert screen.file.getvalue().count(shown) == 5, text
        with screen.status(text):
            pass
    assert visible("one\n\ttwo\r\nthree") == "one\n\ttwo\r\nthree", "lines stay lines"


def test_every_answer_of_the_console_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with gibramdb.open(vector_dim=2) as db:
        for number, text in enumerate(STORABLE, 1):
            talk = Talk(db, text, as_json=False)
            for words, column in (
                (["ADD_DOCUMENT", "-", f"filename={text}"], ""),
                (["ADD_TEXTUNIT", "-", "1", f"content={text}"], ""),
                (["ADD_ENTITY", "-", f"title={text}", f"type={text}", f"description={text}", "embedding=[1,2]"], ""),
                (["ADD_ENTITY", "-2", "other"], ""),
                (["ADD_RELATIONSHIP", "1", "2", f"type={text}"], ""),
                (["ADD_COMMUNITY", f"title={text}", "entity_ids=[1]"], ""),
                (["GET_DOCUMENT", "1"], "filename"),
                (["LIST_DOCUMENTS"], "filename"),
                (["LIST_TEXTUNITS"], "content"),
                (["GET_ENTITY", "1"], "title"),
                (["LIST_ENTITIES"], "title"),
                (["MGET_ENTITIES", "[1]"], "title"),
                (["LIST_RELATIONSHIPS"], "type"),
                (["GET_COMMUNITY", "1"], "title"),
                (["COMPUTE_COMMUNITIES"], ""),
                (["SESSION_INFO"], ""),
                (["QUERY", "[1,2]"], "title"),
            ):
                capsys.readouterr()
                talk.answer(words)
                out = capsys.readouterr().out
                assert not column or SHOWN[text].lower() in out.lower(), (words, out)  # titles are upper-cased
                assert "\x1b" not in out
            talk.answer(["LIST_SESSIONS"])
            assert SHOWN[text] in capsys.readouterr().out
            assert len(list(db.sessions())) == number


def test_reports_of_indexing_and_of_a_question_are_shown_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    report = IndexReport(Tally(), Tally(), Tally(), Tally(), Tally(), textunits_outdated=0, duration_ms=0)
    for text, shown in SHOWN.items():
        index._print_report(report, [Skipped(Path(text), "empty")], text)
        out = capsys.readouterr().out
        assert f"session {shown}\n" in out
        assert f"skipped {shown}: empty\n" in out
    with gibramdb.open(vector_dim=2) as db:
        for text in STORABLE:
            session = db.session(text)
            document = session.add_document("d")
            one, two = session.add_entities(
                [NewEntity("1", text, type=text, description=text, embedding=[1, 2]), NewEntity("2", "two")]
            )
            session.add_relationships([NewRelationship(one, two, text, description=text)])
            textunit = session.add_textunit(text, document, text, embedding=[1, 2])
            session.link(textunit, one)
            session.add_community(NewCommunity(text, summary=text, entity_ids=(one,), embedding=[1, 2]))
            query._print(session.query([1, 2]), query.Timing(1, 1, 1), full=True)
            out = capsys.readouterr().out.lower()
            # title, type, description; source, type and description of the relationship; id and text; title and summary
            assert out.count(SHOWN[text].lower()) >= 10, (text, out)
            assert "\x1b" not in out


def test_an_error_gives_a_terminal_no_orders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cli", "--server", "gibram://127.0.0.1:1", "--session", "s", "PING"]) == 69
    assert main(["index", "/no\x1b[2J[/x]/such", "--session", "s"]) == 64
    err = capsys.readouterr().err
    assert "/no\\x1b[2J[/x]/such does not exist" in err
    assert "\x1b" not in err


def test_a_configuration_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["check-config", "--data", f"{tmp_path}/[bold]:smile:", "--dim", "8"]) == 0
    assert "[bold]:smile:" in capsys.readouterr().out


def test_files_of_a_store_are_named_as_they_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = tmp_path / "[bold]data[x]:smile:\x1b[2J"
    with gibramdb.open(data, vector_dim=2) as db:
        for number in range(9):
            db.session("s").add_document(f"d{number}")
    named = visible(str(data))
    (log,) = data.glob("session_wal/wal-*.log")
    content = bytearray(log.read_bytes())
    content[700] ^= 1
    log.write_bytes(content)
    assert main(["store", "inspect", str(data)]) == 65
    assert named in capsys.readouterr().out
    assert main(["store", "repair", str(data)]) == 0
    assert named in capsys.readouterr().out
    assert main(["store", "verify", str(data)]) != 0
    assert named in capsys.readouterr().err


def test_a_value_nested_too_deeply_is_a_wrong_value_of_its_field(capsys: pytest.CaptureFixture[str]) -> None:
    with gibramdb.open(vector_dim=2) as db:
        talk = Talk(db, "s", as_json=False)
        for words, name in (
            (["MGET_ENTITIES", "[" * 3_000], "ids"),
            (["MGET_ENTITIES", "[" * 100_000 + "]" * 100_000], "ids"),
            (["MSET_ENTITIES", '[{"title":' * 3_000 + "1" + "}]" * 3_000], "entities"),
            (["ADD_ENTITY", "e", "t", "embedding=" + "[" * 3_000], "embedding"),
            (["pipeline", f"GET_ENTITY {'[' * 3_000}"], "id"),
        ):
            with pytest.raises(InvalidArgumentError, match=rf"{name} takes a .*: nested too deeply$") as refused:
                talk.answer(words)
            assert len(str(refused.value)) < 2 * GOT_CHARS_MAX
        talk.answer(["PING"])
    assert capsys.readouterr().out == "done\n"
