"""`gibramdb cli` speaks every command: one at a time, line by line, and in a dialogue on a terminal."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server
from support.terminal import Terminal

from gibramdb.cli.grammar import ROWS
from gibramdb.cli.main import main

VECTOR = "[1,2,3,4,5,6,7,8]"
# In this order each is right on a fresh store; ids are those that a fresh session gives out.
SAID: dict[str, list[str]] = {
    "PING": [], "INFO": [], "HEALTH": [], "LIST_SESSIONS": [],
    "ADD_DOCUMENT": ["d1", "filename=one two.txt"],
    "MSET_DOCUMENTS": ['[{"external_id": "d2"}, {"external_id": "d3"}]'],
    "ADD_TEXTUNIT": ["t1", "1", "some = text", f"embedding={VECTOR}"],
    "MSET_TEXTUNITS": [f'[{{"external_id": "t2", "document_id": 1, "content": "x", "embedding": {VECTOR}}}]'],
    "ADD_ENTITY": ["external_id=e1", "title=Ada", "type=person", f"embedding={VECTOR}"],
    "MSET_ENTITIES": ['[{"external_id": "e2", "title": "B"}, {"external_id": "e3", "title": "C"}]'],
    "ADD_RELATIONSHIP": ["1", "2", "knows", "weight=0.5", "external_id=r1"],
    "MSET_RELATIONSHIPS": ['[{"source_id": 2, "target_id": 3}]'],
    "ADD_COMMUNITY": ["by hand", "entity_ids=[1]", "external_id=c1"],
    "LINK_TEXTUNIT_ENTITY": ["1", "1"],
    "UPDATE_ENTITY_DESC": ["1", "said otherwise"],
    "SESSION_INFO": [], "TOUCH_SESSION": [], "SET_SESSION_TTL": ["ttl_s=3600"], "GET_DIGEST": [],
    "GET_DOCUMENT": ["1"], "GET_TEXTUNIT": ["1"], "GET_ENTITY": ["1"], "GET_RELATIONSHIP": ["1"], "GET_COMMUNITY": ["1"],
    "GET_ENTITY_BY_TITLE": ["ada"],
    "GET_DOCUMENT_BY_EXTERNAL_ID": ["d1"], "GET_TEXTUNIT_BY_EXTERNAL_ID": ["t1"], "GET_ENTITY_BY_EXTERNAL_ID": ["e1"],
    "GET_RELATIONSHIP_BY_EXTERNAL_ID": ["r1"], "GET_COMMUNITY_BY_EXTERNAL_ID": ["c1"],
    "MGET_DOCUMENTS": ["[1,2]"], "MGET_TEXTUNITS": ["[1]"], "MGET_ENTITIES": ["[1]"], "MGET_RELATIONSHIPS": ["[1]"],
    "LIST_DOCUMENTS": ["limit=2"], "LIST_TEXTUNITS": [], "LIST_ENTITIES": [], "LIST_RELATIONSHIPS": [], "LIST_COMMUNITIES": [],
    "QUERY": [VECTOR, "top_k=2", 'search_types=["entity"]'], "EXPLAIN": ["1"], "GET_EMBEDDINGS": ["entity", "[2,1]"],
    "COMPUTE_COMMUNITIES": ["resolution=1.5"], "HIERARCHICAL_LEIDEN": [], "REBUILD_INDEX": [],
    "UNLINK_TEXTUNIT_ENTITY": ["1", "1"],
    "DELETE_COMMUNITY": ["1"], "DELETE_RELATIONSHIP": ["2"], "DELETE_TEXTUNIT": ["2"], "DELETE_DOCUMENT": ["3"],
    "CASCADE_DELETE_RELATIONSHIP": ["1"], "CASCADE_DELETE_ENTITY": ["1"], "CASCADE_DELETE_TEXTUNIT": ["1"],
    "CASCADE_DELETE_DOCUMENT": ["1"], "DELETE_ENTITY": ["3"],
    "SAVE": ["copy"], "BGSAVE": [], "LASTSAVE": [], "BACKUP_STATUS": [], "WAL_CHECKPOINT": [], "WAL_ROTATE": [],
    "WAL_TRUNCATE": [], "WAL_STATUS": [], "BGRESTORE": ["copy"], "DELETE_SESSION": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("console") / "data") as server:
        yield server
        server.kill()


def said(server: Server, *words: str) -> list[str]:
    return ["cli", "--server", f"gibram://127.0.0.1:{server.port}", *words]


def test_every_command_can_be_asked_for_and_answers_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(SAID) == set(ROWS), "a command that this test does not ask for"
    with Server(tmp_path / "data") as server:
        for name, words in SAID.items():
            if name in {"DELETE_ENTITY", "DELETE_DOCUMENT"}:  # detection has put each entity into a community
                main(said(server, "--session", "s", "--json", "LIST_COMMUNITIES"))
                for each in json.loads(capsys.readouterr().out)["items"]:
                    assert main(said(server, "--session", "s", "DELETE_COMMUNITY", str(each["id"]))) == 0
                capsys.readouterr()
            if name in {
                "WAL_CHECKPOINT",
                "DELETE_SESSION",
            }:  # the save, or restore, before it goes on in the background
                time.sleep(0.5)
            assert main(said(server, "--session", "s", "--json", name, *words)) == 0, (name, capsys.readouterr())
            document = json.loads(capsys.readouterr().out)
            if name == "ADD_DOCUMENT":
                assert document == {"ids": [1], "bulk": False}
            if name == "GET_DOCUMENT":
                assert document["filename"] == "one two.txt"
            if name == "GET_TEXTUNIT":
                assert document["content"] == "some = text"
            if name == "QUERY":
                assert [hit["entity"]["title"] for hit in document["entities"]][:1] == ["ADA"]
            if name == "GET_EMBEDDINGS":
                assert document == {"items": [{"id": 1, "embedding": json.loads(VECTOR)}]}
        server.kill()


def test_people_are_shown_tables(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["add-document", "d1"], ["ADD_ENTITY", "e1", "Ada Lovelace", f"embedding={VECTOR}"]):
        assert main(said(server, "-s", "shown", *words)) == 0
    capsys.readouterr()
    assert main(said(server, "-s", "shown", "LIST_ENTITIES")) == 0
    shown = capsys.readouterr().out
    assert "external_id" in shown
    assert "ADA LOVELACE" in shown
    assert main(said(server, "-s", "shown", "query", VECTOR)) == 0
    shown = capsys.readouterr().out
    assert "LOVELACE" in shown
    assert "similarity" in shown
    assert "textunit_ids" not in shown, "a column in which nothing stands"
    assert main(said(server, "HEALTH")) == 0
    assert "durable_state" in capsys.readouterr().out
    assert main(said(server, "help", "ADD_ENTITY")) == 0
    assert "external_id" in capsys.readouterr().out
    assert main(said(server, "help", "COMPUTE_COMMUNITIES")) == 0
    assert "asker" not in capsys.readouterr().out, "the server says who asks"


def test_a_negative_number_is_a_value_and_options_stay_options(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    def info() -> tuple[int, int]:
        assert main(said(server, "SESSION_INFO", "--json", "-s", "negative")) == 0, "behind the words too"
        document = json.loads(capsys.readouterr().out)
        return document["ttl_s"], document["idle_ttl_s"]

    assert main(said(server, "-s", "negative", "ADD_DOCUMENT", "-5", "filename=-news")) == 0
    assert main(said(server, "-s", "negative", "SET_SESSION_TTL", "3600", "1800")) == 0
    capsys.readouterr()
    assert info() == (3600, 1800)
    assert main(said(server, "-s", "negative", "SET_SESSION_TTL", "-1", "--timeout", "5", "-1")) == 0
    capsys.readouterr()
    assert info() == (0, 0)
    assert main(said(server, "-s", "negative", "--json", "GET_DOCUMENT_BY_EXTERNAL_ID", "--", "-5")) == 0
    assert json.loads(capsys.readouterr().out)["filename"] == "-news", "a text comes as it was given"
    assert main(said(server, "-s", "-5", "ADD_DOCUMENT", "d")) == 0
    assert main(said(server, "LIST_SESSIONS")) == 0
    assert " -5 " in capsys.readouterr().out
    for wrong in (
        ["--jsn", "PING"],
        ["ADD_DOCUMENT", "-news"],
        ["ADD_DOCUMENT", "- news"],
        ["PING", "--timeout", "-x"],
    ):
        assert main(said(server, "-s", "negative", *wrong)) == 2, wrong


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["GET_ENTITY", "-1"], 64, "GET_ENTITY: Value out of range: -1"),
        (["COMPUTE_COMMUNITIES", "-1.5e3"], 64, "got -1500.0"),
        (["ADD_ENTTY"], 64, "unknown command: ADD_ENTTY; did you mean ADD_ENTITY? `help` lists them all"),
        (["xyz"], 64, "unknown command: xyz; `help` lists them all"),
        (["GET_ENTITY", "seven"], 64, "id takes a whole number, got 'seven'"),
        (["GET_ENTITY", "1.5"], 64, "id takes a whole number"),
        (["GET_ENTITY"], 64, "missing id"),
        (["GET_ENTITY", "1", "id=2"], 64, "id is given twice"),
        (["GET_ENTITY", "1", "2"], 64, "'2' is one more"),
        (["GET_ENTITY", "number=1"], 64, "takes no number, as in 'number=1'; it takes id"),
        (["GET_ENTITY", "1", "number=1"], 64, "takes no number, as in 'number=1'; it takes id"),
        (["LIST_ENTITIES", "limt=1"], 64, "takes no limt, as in 'limt=1'; it takes "),
        (
            ["ADD_ENTITY", "e", "t", "person", "d", "embeding=[1]"],
            64,
            "takes no embeding, as in 'embeding=[1]'; it takes ext",
        ),
        (["ADD_DOCUMENT", "d2", "f", "x=y"], 64, "takes no x, as in 'x=y'; it takes external_id, filename"),
        (["ADD_ENTITY", "e", "type=x"], 64, "missing title"),
        (["GET_ENTITY", "999"], 64, "entity not found"),
        (["ADD_ENTITY", "e", "t", "embedding=[1,2]"], 64, "expected 8, got 2"),
        (["ADD_ENTITY", "e", "t", "embedding=none"], 64, "embedding takes a JSON list of numbers"),
        (["MSET_ENTITIES", '[{"name": "x"}]'], 64, "JSON list of {external_id, title"),
        (["MSET_ENTITIES", '[{"external_id": "e", "title": 5}]'], 64, "title: Expected `str`, got `int`"),
        (["BGRESTORE", "no-such-copy"], 64, "no-such-copy"),
        (["use"], 64, "use takes the name of a session"),
        (["pipeline"], 64, "pipeline takes commands, each in quotes"),
        (["pipeline", "PING", ""], 64, "pipeline takes commands, each in quotes"),
        (["pipeline", "PING", "GET_ENTITY"], 64, "missing id"),
    ],
)
def test_what_is_wrong_is_said_and_the_exit_code_tells_the_family(
    server: Server, capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    main(said(server, "-s", "wrong", "ADD_DOCUMENT", "d"))
    capsys.readouterr()
    assert main(said(server, "-s", "wrong", *words)) == status, capsys.readouterr()
    assert message in capsys.readouterr().err


def test_a_text_with_an_equals_sign_is_a_value_unless_a_field_is_named(server: Server) -> None:
    for words in (
        ["e1", "E=mc2"],
        ["k=v", "title=type=x"],
        ["e3", "a b=c", "=="],
        ["title=x", "external_id=id=3", "y=z"],
    ):
        assert main(said(server, "-s", "equals", "ADD_ENTITY", *words)) == 0, words
    with server.connect() as db:
        assert [(each.external_id, each.title, each.type) for each in db.session("equals").entities()] == [
            ("e1", "E=MC2", ""),
            ("k=v", "TYPE=X", ""),
            ("e3", "A B=C", "=="),
            ("id=3", "X", "y=z"),
        ]


def test_a_session_has_to_be_named_and_a_server_has_to_be_there(
    capsys: pytest.CaptureFixture[str], server: Server
) -> None:
    assert main(said(server, "GET_ENTITY", "1")) == 64
    assert "name it with --session" in capsys.readouterr().err
    assert main(["cli", "--server", "gibram://127.0.0.1:1", "PING"]) == 69
    assert "no server answers at 127.0.0.1:1" in capsys.readouterr().err


def test_a_pipeline_is_answered_up_to_the_first_that_fails(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["ADD_ENTITY e1 'Ada Lovelace'", "GET_ENTITY 1", "GET_ENTITY 7", "ADD_ENTITY e2 Never"]
    assert main(said(server, "-s", "pipeline", "--json", "pipeline", *asked)) == 64
    told = capsys.readouterr()
    added, found = map(json.loads, told.out.splitlines())
    assert (added["ids"], found["title"]) == ([1], "ADA LOVELACE")
    assert "entity not found" in told.err
    assert main(said(server, "-s", "pipeline", "--json", "LIST_ENTITIES")) == 0
    assert "NEVER" not in capsys.readouterr().out


def test_lines_from_a_pipe_are_done_up_to_the_first_that_fails(server: Server) -> None:
    lines = "use piped\n# a comment\nADD_DOCUMENT d1 'filename=a file.txt'\n\nLIST_DOCUMENTS\nGET_DOCUMENT 9\nADD_DOCUMENT d2\n"
    done = subprocess.run(
        [sys.executable, "-m", "gibramdb", *said(server, "--json", "-")],
        input=lines, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 64
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0]["ids"] == [1]
    assert [each["filename"] for each in answers[1]["items"]] == ["a file.txt"]
    assert "document not found: 9" in done.stderr
    with server.connect() as db:
        assert db.session("piped").info().document_count == 1


def test_a_comment_is_a_whole_line_and_inside_one_the_sign_is_a_letter(server: Server) -> None:
    lines = "# one\n  # isn't two\nADD_ENTITY lang1 C# type=language\nADD_ENTITY f/b.md#ff60 '# 5'\nADD_ENTITY #3 F# #\nPING #\n"
    done = subprocess.run(
        [sys.executable, "-m", "gibramdb", *said(server, "-s", "sharp", "-")],
        input=lines, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert "PING takes 0 values; '#' is one more" in done.stderr, "said, and not cut off"
    assert (
        main(said(server, "-s", "sharp", "pipeline", "ADD_ENTITY e4 J#", "GET_ENTITY_BY_EXTERNAL_ID f/b.md#ff60")) == 0
    )
    with server.connect() as db:
        assert [(each.external_id, each.title, each.type) for each in db.session("sharp").entities()] == [
            ("lang1", "C#", "language"),
            ("f/b.md#ff60", "# 5", ""),
            ("#3", "F#", "#"),
            ("e4", "J#", ""),
        ]


def test_bytes_that_are_no_text_and_outputs_that_take_little_end_no_command_in_a_traceback(server: Server) -> None:
    with server.connect() as db:
        db.session("streams").add_entity("e", "ünïcode 😀")
    gibramdb = [sys.executable, "-m", "gibramdb", *said(server, "-s", "streams")]
    command = shlex.join(gibramdb)
    ascii_only, strict = {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8:strict"}
    table, document = "\\xdcN\\xcfCODE \\U0001f600", '"title":"ÜNÏCODE 😀"'
    for line, environment, status, shown in (
        (f"{command} LIST_ENTITIES", ascii_only, 0, table),
        (f"{command} --json LIST_ENTITIES", ascii_only, 0, document),
        (
            f"{command} ADD_DOCUMENT $'\\xff'",
            strict,
            64,
            "external_id must be a text that UTF-8 can hold, got '\\udcff'",
        ),
        (f"{command} $'\\xff\\x1b[2J'", strict, 64, "unknown command: \\udcff\\x1b[2J"),
        (f"echo $'ADD_DOCUMENT \\xff' | {command} -", strict, 64, "UTF-8 can hold, got '\\udcff'"),
        (f"{command} LIST_ENTITIES | true; exit ${{PIPESTATUS[0]}}", strict, 1, ""),
        (f"{command} --json LIST_ENTITIES | true; exit ${{PIPESTATUS[0]}}", strict, 1, ""),
        (f"{command} LIST_ENTITIES >/dev/full", strict, 74, "gibramdb: error: the output can not be written: No space"),
        (
            f"{command} --json LIST_ENTITIES >/dev/full",
            {**strict, "PYTHONUNBUFFERED": "1"},
            74,
            "the output can not be written",
        ),
        (f"{command} LIST_ENTITIES >&-", strict, 0, ""),
        (f"{command} <&-", strict, 0, ""),
    ):
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, timeout=180, env={**os.environ, **environment}, check=False
        )
        out = (done.stdout + done.stderr).decode()
        assert (done.returncode, shown in out) == (status, True), (line, out)
        assert shown or not out, (line, out)
        assert "Traceback" not in out
        assert "Exception" not in out


def test_a_dialogue_on_a_terminal(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gibramdb", *said(server)]
    with Terminal(command, {**os.environ, "HOME": str(tmp_path)}) as terminal:
        terminal.see_prompt("no session>")
        terminal.type("use talk\r")
        terminal.see_prompt("talk>")
        terminal.type("ADD_DOCUMENT d1\r")
        terminal.see("ids")
        terminal.see_prompt("talk>")
        terminal.type("GET_DOCUMENT 7\r")
        terminal.see("error: document not found: 7")
        terminal.see_prompt("talk>")
        terminal.type("ADD_DOCUMENT 'd2\r")
        terminal.see("No closing quotation")
        terminal.see_prompt("talk>")
        terminal.type(f"MGET_ENTITIES {'[' * 3_000}\r")
        terminal.see("nested too deeply")
        terminal.see_prompt("talk>")
        terminal.type("ADD_DOCUMENT '[/x]'\r")
        terminal.see_prompt("talk>")
        terminal.type("LIST_DOCUMENTS\r")
        terminal.see("external_id")
        terminal.see("d1")
        terminal.see("[/x]")
        terminal.see_prompt("talk>")
        terminal.type("exit\r")
        assert terminal.wait() == 0
