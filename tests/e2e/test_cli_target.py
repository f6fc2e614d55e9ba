"""`cli`, `index` and `query` find a server, trust it and are let in by it in the same way."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support.gate import config_file, entry
from support.server import Server
from support.tree import tree_hash

import gibramdb
from gibramdb.cli.main import main

COMMANDS = {
    "cli": ["cli", "--session", "s", "SESSION_INFO"],
    "index": ["index", "{notes}", "--session", "s"],
    "query": ["query", "who met the mayor?", "--session", "s"],
}
KEY, WRONG = "key-app", "key-nobody"

each_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("target")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    (directory / "notes.txt").write_text("The Council of Oslo met the Mayor of Bergen about salt fish.")
    return directory


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Server]:
    """With keys and TLS, and a session that all three commands can work on."""
    file = str(directory / "server.pem")
    config = config_file(directory, [entry("app", "write")], tls={"cert_file": file, "key_file": file})
    with Server(directory / "data", "--config", config, "--dim", "512") as server:
        with gibramdb.connect(address(server), api_key=KEY, tls=directory / "ca.pem") as db:
            db.session("s").add_document("d")
        yield server


@pytest.fixture(autouse=True)
def no_key_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIBRAMDB_API_KEY", raising=False)
    monkeypatch.delenv("GIBRAMDB_SERVER", raising=False)


def address(server: Server, key: str = "", scheme: str = "gibrams") -> str:
    return f"{scheme}://{key}@localhost:{server.port}" if key else f"{scheme}://localhost:{server.port}"


def run(command: str, directory: Path, *options: str) -> int:
    words = [word.format(notes=directory / "notes.txt") for word in COMMANDS[command]]
    return main([words[0], *options, *words[1:]])


@each_command
@pytest.mark.parametrize("scheme", ["gibram", "gibrams"])
def test_the_key_in_the_environment_and_a_certificate_let_it_in(
    command: str, scheme: str, server: Server, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIBRAMDB_API_KEY", KEY)
    monkeypatch.setenv("GIBRAMDB_SERVER", address(server, scheme=scheme))
    assert run(command, directory, "--tls", str(directory / "ca.pem")) == 0


@each_command
def test_the_key_in_the_address_goes_before_the_one_in_the_environment(
    command: str, server: Server, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIBRAMDB_API_KEY", WRONG)
    assert run(command, directory, "--server", address(server, KEY), "--tls", str(directory / "ca.pem")) == 0


@pytest.mark.parametrize(
    ("command", "in_environment", "in_address", "said"),
    [  # of wrong keys not many: a server makes an address wait that has sent five
        ("cli", WRONG, "", "refuses the API key in GIBRAMDB_API_KEY: invalid api key"),
        ("index", WRONG, "", "refuses the API key in GIBRAMDB_API_KEY: invalid api key"),
        ("query", WRONG, "", "refuses the API key in GIBRAMDB_API_KEY: invalid api key"),
        ("cli", "", WRONG, "refuses the API key in the address: invalid api key"),
        ("cli", "", "", "asks for an API key: set GIBRAMDB_API_KEY to it"),
        ("index", "", "", "asks for an API key: set GIBRAMDB_API_KEY to it"),
        ("query", "", "", "asks for an API key: set GIBRAMDB_API_KEY to it"),
    ],
)
def test_without_the_right_key_it_is_told_so_in_one_line(
    command: str,
    in_environment: str,
    in_address: str,
    said: str,
    server: Server,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GIBRAMDB_API_KEY", in_environment)
    status = run(command, directory, "--server", address(server, in_address), "--tls", str(directory / "ca.pem"))
    assert status == 77
    shown = capsys.readouterr()
    assert shown.err == f"gibramdb: error: localhost:{server.port} {said}\n"
    assert shown.out == ""


@each_command
@pytest.mark.parametrize(
    ("tls", "status", "said"),
    [
        ([], 69, "certificate"),
        (["--tls", "system"], 69, "certificate"),
        (["--tls", "none.pem"], 78, "none.pem can not be read"),
        (["--tls", ""], 78, "tls: "),
    ],
    ids=["not asked for", "system", "no such file", "blank"],
)
def test_a_server_that_is_not_trusted_learns_no_key(
    command: str,
    tls: list[str],
    status: int,
    said: str,
    server: Server,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GIBRAMDB_API_KEY", KEY)
    assert run(command, directory, "--server", address(server), *tls) == status
    error = capsys.readouterr().err
    assert said in error
    assert KEY not in error


@each_command
def test_a_server_that_does_not_answer_is_waited_for_as_long_as_was_said(
    command: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"gibram://127.0.0.1:{silent.getsockname()[1]}"
        run(
            command, directory, "--server", "gibram://127.0.0.1:1", "--timeout", "0.3"
        )  # what is loaded once, is loaded
        capsys.readouterr()
        began = time.monotonic()
        assert run(command, directory, "--server", url, "--timeout", "0.3") == 69
        assert 0.3 <= time.monotonic() - began < 10
    assert "timed out after 0.3 s" in capsys.readouterr().err
    assert run(command, directory, "--timeout", "0") == 64


@pytest.mark.parametrize("command", ["index", "query"])
@pytest.mark.parametrize("option", [["--tls", "system"], ["--timeout", "5"]])
def test_what_is_about_a_server_is_not_said_of_a_store_in_this_process(
    command: str, option: list[str], directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, directory, "--data", str(tmp_path / "store"), *option) == 64
    assert "--tls and --timeout are about a server" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_an_address_in_a_message_has_no_key(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(tmp_path, [entry("app", "write")])
    with Server(tmp_path / "data", "--config", config) as server:
        assert run("query", directory, "--server", address(server, KEY, scheme="gibram")) == 64
    error = capsys.readouterr().err
    assert f"the store at localhost:{server.port} holds vectors of 8 numbers" in error
    assert KEY not in error


@pytest.mark.parametrize("there", ["nothing", "an empty directory", "other files"])
def test_a_question_begins_no_store_at_a_mistyped_path(
    there: str, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "some" / "sotre"
    if there != "nothing":
        data.mkdir(parents=True)
    if there == "other files":
        (data / "thesis.txt").write_text("five years of work")
    before = tree_hash(tmp_path)
    assert run("query", directory, "--data", str(data)) == 66
    error = capsys.readouterr().err
    assert f"{data}: there is no store here" in error
    assert "correct the path" in error
    assert tree_hash(tmp_path) == before


def test_what_index_has_begun_can_be_asked(directory: Path, tmp_path: Path) -> None:
    assert run("index", directory, "--data", str(tmp_path / "store")) == 0
    assert run("query", directory, "--data", str(tmp_path / "store")) == 0
