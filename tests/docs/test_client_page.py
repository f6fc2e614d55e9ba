"""The examples on the client's page run as they stand, on a real server with and without TLS."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from support.gate import config_file
from support.server import Server
from support.tls import Authority

from gibramdb.client import calls
from gibramdb.session import CHUNK_BYTES_MAX, CHUNK_OBJECTS_MAX

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
SHOWN = [
    ["['ADA LOVELACE', 'ANALYTICAL ENGINE']"],
    ["['ADA LOVELACE', 'ANALYTICAL ENGINE']"],
    [],
    [],
    ["2"],
    ["5000 of 12000", "10000 of 12000", "12000 of 12000", "ENTITY 7 1.0"],
    ["(100, 8) float32 True", "True"],
    ["[1, 2]"],
    ["[1, 2, 3]"],
    ["entity with title Ada Lovelace already exists"],
]
"""What each example prints, in order."""


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == len(SHOWN)
    monkeypatch.chdir(tmp_path)
    tls = Authority(tmp_path).issue("localhost")
    (tmp_path / "server.pem").symlink_to(tls["cert_file"])
    path = config_file(tmp_path, [{"id": "k", "key": "my key", "permissions": ["read"]}], tls=tls)
    with Server(tmp_path / "data") as server, Server(tmp_path / "tls", "--config", path, mode="ephemeral") as guarded:
        for example, expected in zip(examples, SHOWN, strict=True):
            code = example.replace("127.0.0.1:6161", f"127.0.0.1:{server.port}")
            code = code.replace("localhost:6162", f"localhost:{guarded.port}")
            with contextlib.redirect_stdout(io.StringIO()) as shown:
                exec(compile(code, "client.md", "exec"), {"__name__": "example"})
            assert shown.getvalue().splitlines() == expected, example


def test_its_figures_are_the_codes() -> None:
    assert (calls.TIMEOUT_S, calls.CONNECTIONS_MAX, calls.TRIES_MAX) == (30, 16, 4)
    assert "A call takes 30 s at most" in PAGE
    assert "at most 16 (`connections_max=`)" in PAGE
    assert "up to four times" in PAGE
    assert (calls.PAUSE_S_FIRST, calls.PAUSE_S_MAX) == (0.05, 1.0)
    assert "50 ms at first, doubling up to a second" in PAGE
    assert calls.PAUSE_S_PACED == 0.01
    assert "after 10 ms at first" in PAGE
    assert (CHUNK_OBJECTS_MAX, CHUNK_BYTES_MAX) == (5_000, 2 * 1024 * 1024)
    assert "chunks of 5,000 objects or 2 MiB" in PAGE
