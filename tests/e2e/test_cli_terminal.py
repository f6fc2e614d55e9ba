"""`gibramdb cli` on a real terminal, with a server that wants a key: what it asks, shows, completes and keeps."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trustme
from support.gate import config_file, entry
from support.peer import Peer, pong
from support.server import Server
from support.terminal import PASTE_MARKS_ON, Terminal

import gibramdb
from gibramdb.wire.codec import CommandNumber, Request

KEY = "key-app"
CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("terminal")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    return directory


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Server]:
    """With keys and TLS."""
    file = str(directory / "server.pem")
    config = config_file(directory, [entry("app", "write")], tls={"cert_file": file, "key_file": file})
    with Server(directory / "data", "--config", config) as server:
        with gibramdb.connect(f"gibrams://localhost:{server.port}", api_key=KEY, tls=directory / "ca.pem") as db:
            db.session("talk").add_document("d1")
        yield server


class Console:
    """Begins `gibramdb cli` with that server's address and certificate, in a home of its own."""

    def __init__(self, server: Server, directory: Path, home: Path) -> None:
        self.where = f"localhost:{server.port}"
        self.history = home / ".gibramdb_history"
        self._options = ["--server", f"gibrams://{self.where}", "--tls", str(directory / "ca.pem")]
        kept = {name: text for name, text in os.environ.items() if not name.startswith("GIBRAMDB_")}
        self._environment = {**kept, "HOME": str(home)}

    def on_terminal(self, *words: str, key: str = "", pipe_output: bool = False) -> AbstractContextManager[Terminal]:
        environment = {**self._environment, "GIBRAMDB_API_KEY": key} if key else self._environment
        command = [sys.executable, "-m", "gibramdb", "cli", *self._options, *words]
        return Terminal(command, environment, pipe_output=pipe_output)


@pytest.fixture
def console(server: Server, directory: Path, tmp_path: Path) -> Console:
    return Console(server, directory, tmp_path)


def test_a_key_that_is_wanted_is_asked_for_and_neither_shown_nor_kept(console: Console) -> None:
    with console.on_terminal() as terminal:
        terminal.see(f"API key for {console.where}: ")
        assert not terminal.echoes()
        terminal.type(f"{KEY}\r")
        terminal.see_prompt("no session>")
        terminal.type("use talk\r")
        terminal.see_prompt("talk>")
        terminal.type("LIST_DOCUMENTS\r")
        terminal.see("d1")
        terminal.type("exit\r")
        assert terminal.wait() == 0
        assert terminal.echoes()
        assert KEY not in terminal.screen
    assert "LIST_DOCUMENTS" in console.history.read_text()
    assert KEY not in console.history.read_text()


def test_what_is_no_command_is_not_kept(console: Console) -> None:
    console.history.write_text("")
    console.history.chmod(0o644)
    with console.on_terminal(key=KEY) as terminal:
        terminal.see_prompt("no session>")
        for line in ("PING", f"AUTH {KEY}", KEY, f"api_key={KEY}", "", "list-sessions", "use talk"):
            terminal.type(f"{line}\r")
            terminal.see_prompt("talk>" if line == "use talk" else "no session>")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0
    kept = [line[1:] for line in console.history.read_text().splitlines() if line.startswith("+")]
    assert kept == ["PING", "list-sessions", "use talk"]
    assert stat.S_IMODE(console.history.stat().st_mode) == 0o600


def test_the_history_is_its_owners_from_the_start_and_comes_back(console: Console) -> None:
    old = os.umask(0)
    try:
        terminal = console.on_terminal(key=KEY)
    finally:
        os.umask(old)
    with terminal as first:
        first.see_prompt("no session>")
        assert stat.S_IMODE(console.history.stat().st_mode) == 0o600
        first.type("help ADD_ENTITY\r")
        first.see("external_id")
        first.see_prompt("no session>")
        first.type(CTRL_D)
        assert first.wait() == 0
    with console.on_terminal(key=KEY) as again:
        again.see_prompt("no session>")
        again.type("\x1b[A")  # up
        again.see("help ADD_ENTITY")
        again.type(CTRL_C)
        again.see_prompt("no session>")
        again.type(CTRL_D)
        assert again.wait() == 0


def test_a_home_that_takes_no_history_takes_nothing_else(console: Console) -> None:
    console.history.mkdir()  # which no one can append to; root could to a file without permissions
    with console.on_terminal(key=KEY) as terminal:
        terminal.see("what is typed is not kept")
        terminal.see_prompt("no session>")
        terminal.type("PING\r")
        terminal.see("done")
        terminal.see_prompt("no session>")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


def test_ctrl_c_gives_up_the_line_and_ctrl_d_ends(console: Console) -> None:
    with console.on_terminal("--session", "talk", key=KEY) as terminal:
        terminal.see_prompt("talk>")
        terminal.type("ADD_DOCUMENT given-up")
        terminal.see("given-up")
        terminal.type(CTRL_C)
        terminal.see_prompt("talk>")
        terminal.type("LIST_DOCUMENTS\r")
        terminal.see("external_id")
        assert "given-up" not in terminal.see(PASTE_MARKS_ON)
        terminal.see("talk>")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0
        assert "Traceback" not in terminal.screen


def test_ctrl_c_gives_up_a_command_that_is_not_answered(tmp_path: Path) -> None:
    has_come = threading.Event()

    def answer(request: Request, connection: socket.socket) -> bool:
        if request.number == CommandNumber.PING:
            return pong(request, connection)
        has_come.set()
        return True

    environment = {**os.environ, "HOME": str(tmp_path), "GIBRAMDB_API_KEY": ""}
    with Peer(answer) as peer:
        command = [sys.executable, "-m", "gibramdb", "cli", "--server", peer.url, "--session", "slow"]
        with Terminal(command, environment) as terminal:
            terminal.see_prompt("slow>")
            terminal.type("ADD_DOCUMENT d\r")
            assert has_come.wait(60)
            terminal.type(CTRL_C)
            terminal.see("given up; the server may carry it out all the same")
            terminal.see_prompt("slow>")
            terminal.type("PING\r")
            terminal.see("done")
            terminal.see_prompt("slow>")
            terminal.type(CTRL_D)
            assert terminal.wait() == 0
    assert peer.connections == 2, "an answer that comes late must not be taken for that of another command"


def test_commands_what_they_take_and_sessions_are_completed(console: Console) -> None:
    with console.on_terminal(key=KEY) as terminal:
        terminal.see_prompt("no session>")
        terminal.type("use ta")
        terminal.see("talk")  # offered
        terminal.type("\t\r")
        terminal.see_prompt("talk>")
        terminal.type("use 'my talk'\r")
        terminal.see_prompt("my talk>")
        terminal.type("ADD_DOCUMENT d1\r")
        terminal.see_prompt("my talk>")
        terminal.type("use talk\r")
        terminal.see_prompt("talk>")
        terminal.type("use my")
        terminal.see("my talk")
        terminal.type("\t\r")
        terminal.see_prompt("my talk>")
        terminal.type("LIST_DOC")
        terminal.see("LIST_DOCUMENTS")
        terminal.type("\t lim")
        terminal.see("limit=")
        terminal.type("\t1\r")
        terminal.see("external_id")
        terminal.see("d1")
        terminal.see_prompt("my talk>")
        terminal.type("help LIST_DOC")
        terminal.see("LIST_DOCUMENTS")
        terminal.type("\t\r")
        terminal.see("takes")
        terminal.see("limit")
        terminal.see_prompt("my talk>")
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


def test_one_command_and_its_json_alone_on_standard_output(console: Console) -> None:
    for key in (KEY, ""):
        words = ("--session", "talk", "--json", "LIST_DOCUMENTS")
        with console.on_terminal(*words, key=key, pipe_output=True) as terminal:
            if not key:
                terminal.see("API key for")
                terminal.type(f"{KEY}\r")
            assert terminal.wait() == 0, terminal.screen
            assert terminal.process.stdout is not None
            assert [each["external_id"] for each in json.loads(terminal.process.stdout.read())["items"]] == ["d1"]


@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [
        ("key-nobody\r", 77, "gibramdb: error: {where} refuses the API key that was typed: invalid api key"),
        ("\r", 77, "gibramdb: error: {where} asks for an API key: set GIBRAMDB_API_KEY to it"),
        (CTRL_D, 77, "gibramdb: error: {where} asks for an API key: set GIBRAMDB_API_KEY to it"),
        (CTRL_C, 130, ""),
    ],
    ids=["wrong", "none", "Ctrl-D", "Ctrl-C"],
)
def test_who_gives_no_right_key_is_told_so_in_one_line(console: Console, typed: str, status: int, said: str) -> None:
    with console.on_terminal() as terminal:
        terminal.see("API key for")
        terminal.see(": ")
        terminal.type(typed)
        assert terminal.wait() == status
        assert terminal.screen.partition(": ")[2].strip() == said.format(where=console.where)
        assert terminal.echoes()
