"""`gibramdb index` and `gibramdb query` as a user runs them: real processes, the real model, a real server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import gibramdb
from gibramdb.errors import ConnectionFailedError

STARTING_S = 120.0
"""How long a server may take to answer on a busy machine."""

NORWAY = """# Norway

Norway borders Sweden and Finland. It sells crude oil and natural gas to Germany.

## History

In 1905 the union of Norway and Sweden ended. Fridtjof Nansen spoke for Norway in Germany.
"""
SWEDEN = "The kingdom lies between Norway and Finland. It buys crude oil, and its forests give wood and paper.\n"


def gibramdb_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gibramdb", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@contextmanager
def serving(directory: Path, dim: int) -> Iterator[str]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "gibramdb", "serve", "--insecure", "--addr", address]
    with (directory / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "--dim", str(dim), "--data", str(directory / "data")], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        give_up_at = time.monotonic() + STARTING_S
        while True:
            try:
                with gibramdb.connect(f"gibram://{address}") as db:
                    db.info()
                break
            except ConnectionFailedError:
                assert server.poll() is None, (directory / "server.log").read_text()
                assert time.monotonic() < give_up_at, "the server did not answer in time"
                time.sleep(0.05)
        yield f"gibram://{address}"
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server"), dim=512) as url:
        yield url


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    directory = tmp_path / "notes"
    directory.mkdir()
    (directory / "norway.md").write_text(NORWAY, encoding="utf-8")
    (directory / "sweden.txt").write_text(SWEDEN, encoding="utf-8")
    (directory / "map.png").write_bytes(b"\x89PNG")
    return directory


def stored(output: str, kind: str) -> tuple[int, int]:
    """New and skipped, from the table that the command prints."""
    (row,) = (line for line in output.splitlines() if f" {kind} " in line and "│" in line)
    new, there = row.replace(",", "").strip("│ ").split("│")[1:]
    return int(new), int(there)


def test_index_then_query(server: str, notes: Path) -> None:
    indexed = gibramdb_command("index", notes, "--session", "north", "--server", server)
    assert indexed.returncode == 0, indexed.stderr
    assert stored(indexed.stdout, "documents") == (2, 0)
    assert stored(indexed.stdout, "links")[0] > 0
    assert f"skipped {notes.resolve() / 'map.png'}: not one of" in indexed.stdout

    asked = gibramdb_command("query", "which countries border Norway?", "--session", "north", "--server", server)
    assert asked.returncode == 0, asked.stderr
    assert "NORWAY" in asked.stdout
    assert "NORWAY related to SWEDEN" in asked.stdout
    assert "notes/norway.md#" in asked.stdout
    assert "Norway borders Sweden and Finland." in asked.stdout

    as_json = gibramdb_command("query", "crude oil", "--session", "north", "--server", server, "--json", "--top-k", "1")
    answer = json.loads(as_json.stdout)
    assert answer["entities"][0]["title"] == "CRUDE OIL"
    assert {"source", "target", "type", "weight"} <= answer["relationships"][0].keys()
    assert any("crude oil" in textunit["content"] for textunit in answer["textunits"])
    assert answer["timing"]["query_ms"] > 0

    again = gibramdb_command("index", notes, "--session", "north", "--server", server)
    assert "nothing new" in again.stdout
    assert stored(again.stdout, "text units") == (0, stored(indexed.stdout, "text units")[0])


def test_a_durable_directory_works_without_a_server(tmp_path: Path, notes: Path) -> None:
    indexed = gibramdb_command("index", notes, "--session", "s", "--data", tmp_path / "store")
    assert indexed.returncode == 0, indexed.stderr
    asked = gibramdb_command("query", "Nansen", "--session", "s", "--data", tmp_path / "store", "--json", "--hops", "0")
    assert "FRIDTJOF NANSEN" in [each["title"] for each in json.loads(asked.stdout)["entities"]]


def test_stopped_in_the_middle_and_run_again_it_is_as_if_never_stopped(server: str, tmp_path: Path) -> None:
    text = "\n\n".join(
        f"In year {number} the Council of Town{number} met the Mayor of Port{number % 40} about salt fish. "
        + "They spoke for a long time of many things. " * 8
        for number in range(300)
    )
    (tmp_path / "years.txt").write_text(text, encoding="utf-8")
    arguments = ["index", str(tmp_path / "years.txt"), "--server", server, "--session"]

    running = subprocess.Popen(
        [sys.executable, "-m", "gibramdb", *arguments, "stopped"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with gibramdb.connect(server) as db:
        give_up_at = time.monotonic() + STARTING_S
        while not list(db.session("stopped").textunits()):
            assert time.monotonic() < give_up_at
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=120)
        assert running.returncode == 130
        assert b"Run the same command again" in errors
        kept = len(list(db.session("stopped").textunits()))

        resumed = gibramdb_command(*arguments, "stopped")
        whole = gibramdb_command(*arguments, "whole")
        assert stored(resumed.stdout, "text units") == (stored(whole.stdout, "text units")[0] - kept, kept)
        assert stored(resumed.stdout, "text units")[0] > 0

        one, other = db.session("stopped"), db.session("whole")
        assert list(map(len, map(list, (one.entities(), one.relationships())))) == list(
            map(len, map(list, (other.entities(), other.relationships())))
        )
        assert {(each.external_id, each.entity_ids) for each in one.textunits()} == {
            (each.external_id, each.entity_ids) for each in other.textunits()
        }


def test_a_server_of_another_dimension_is_refused_with_the_way_out(tmp_path: Path, notes: Path) -> None:
    with serving(tmp_path, dim=8) as url:
        refused = gibramdb_command("index", notes, "--session", "s", "--server", url)
        with gibramdb.connect(url) as db:
            assert db.info().session_count == 0
    assert refused.returncode == 64
    assert "gibramdb serve --dim 512" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("index", "{notes}/map.png", "--session", "s"), 64, ".txt, .text, .md, .markdown"),
        (("index", "{notes}/none.txt", "--session", "s"), 64, "none.txt does not exist"),
        (("index", "{notes}", "--session", " "), 64, "--session"),
        (("query", " ", "--session", "s"), 64, "blank"),
        (("query", "who\udcff?", "--session", "s"), 64, "the question is no UTF-8 text: who\\udcff?"),
        (("query", "x", "--session", "nobody"), 64, "session not found"),
        (("index", "{notes}"), 2, "--session"),
    ],
)
def test_what_is_wrong_is_said(server: str, notes: Path, arguments: tuple[str, ...], exit_code: int, says: str) -> None:
    filled = [argument.format(notes=notes) for argument in arguments]
    refused = gibramdb_command(*filled, "--server", server)
    assert refused.returncode == exit_code
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr


def test_without_a_server_it_says_so(notes: Path) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        refused = gibramdb_command(
            "index", notes, "--session", "s", "--server", f"gibram://127.0.0.1:{unused.getsockname()[1]}"
        )
    assert refused.returncode == 69
    assert "127.0.0.1" in refused.stderr
