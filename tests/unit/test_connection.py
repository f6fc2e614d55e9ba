"""What no socket can be made to show at will: moments between two turns of the event loop."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.connection_fuzzing import Line
from support.gate import config_file, entry
from support.owned_store import FakeClock

from gibramdb import NewDocument
from gibramdb.api_keys import parse_api_keys
from gibramdb.clock import SystemClock
from gibramdb.config import load_config
from gibramdb.errors import AuthenticationError
from gibramdb.model.commands import AddDocuments
from gibramdb.server import app, auth
from gibramdb.server.admission import TokenBucket
from gibramdb.server.connection import Connection
from gibramdb.wire.codec import encode_command
from gibramdb.wire.codec.envelope import decode_request
from gibramdb.wire.framing import HEADER, FrameReader


def test_a_slow_client_whose_encrypted_socket_is_gone_already_can_be_looked_at(tmp_path: Path) -> None:
    async def looked() -> None:
        server = app.Server(load_config(flags={"server.data_dir": str(tmp_path)}))
        assert server.admission.enter("127.0.0.1")
        connection = Connection(server, "127.0.0.1", SystemClock().steady_us())
        line = Line(connection, None, is_encrypted=True)  # type: ignore[arg-type]
        connection.connection_made(line)
        connection.pause_writing()
        connection.check(SystemClock().steady_us())

    asyncio.run(looked())


def test_a_key_whose_time_ends_during_a_pipeline_does_no_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A detection, which comes first, may take minutes."""
    ends_at = datetime(2030, 1, 1, tzinfo=UTC)
    clock = FakeClock()
    clock.ms = int(ends_at.timestamp() * 1000) - 1
    monkeypatch.setattr(auth, "_clock", clock)
    (key,) = parse_api_keys(json.dumps([entry("short", "write", expires_at=ends_at.isoformat())]))

    async def asked() -> None:
        server = app.Server(load_config(flags={"server.data_dir": str(tmp_path)}))
        assert server.admission.enter("127.0.0.1")
        connection = Connection(server, "127.0.0.1", SystemClock().steady_us())
        connection._principal = auth.Principal(key, TokenBucket(1_000, 1_000))
        frames = [encode_command(AddDocuments("s", (NewDocument(name),)), 1)[HEADER.size :] for name in "ab"]
        commands = connection._commands_of([decode_request(frame) for frame in frames])
        assert isinstance(next(commands), AddDocuments)
        clock.ms += 1
        refused = next(commands)
        assert isinstance(refused, AuthenticationError)
        assert str(refused) == "api key expired"
        assert connection._is_leaving, "once it has been answered"

    asyncio.run(asked())


def test_who_sends_a_large_frame_or_takes_a_large_answer_is_not_idle_until_it_is_over(tmp_path: Path) -> None:
    path = config_file(
        tmp_path, [entry("app", "write")], security={"idle_timeout": "3s", "stall_timeout": "30s"},
        server={"data_dir": str(tmp_path / "data")},
    )  # fmt: skip

    async def looked() -> None:
        server = app.Server(load_config(path))
        assert server.admission.enter("127.0.0.1")
        now_us = SystemClock().steady_us()
        connection = Connection(server, "127.0.0.1", now_us)
        assert connection._gate is not None
        line = Line(connection, None, is_encrypted=False)  # type: ignore[arg-type]
        connection.connection_made(line)
        (key,) = parse_api_keys(json.dumps([entry("app", "write")]))
        connection._principal = auth.Principal(key, TokenBucket(1_000, 1_000))
        connection._reader.frame_bytes_max = server.frame_bytes_max
        connection._heard_us = now_us
        frame = encode_command(AddDocuments("s", (NewDocument("d", "x" * 1_000_000),)), 1)
        for second in range(1, 11):
            line.deliver(frame[(second - 1) * 80_000 : second * 80_000])
            connection.check(now_us + second * 1_000_000)
            assert not line.is_closing(), second
        connection._reader = FrameReader(server.frame_bytes_max)
        connection.pause_writing()
        for second in range(11, 21):
            line._buffered_bytes = (21 - second) * 100_000
            connection.check(now_us + second * 1_000_000)
            assert not line.is_closing(), second
        line.take()
        connection.resume_writing()
        connection.check(now_us + 22_500_000)
        assert not line.is_closing(), "idle since not so long"
        connection.check(now_us + 23_500_000)
        assert line.is_closing()

    asyncio.run(looked())


def test_looks_go_on_after_one_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    looks = 0

    async def watched() -> None:
        server = app.Server(load_config(flags={"security.stall_timeout": "1s"}))

        def look() -> None:
            nonlocal looks
            looks += 1
            raise ZeroDivisionError

        server.check_connections = look  # type: ignore[method-assign]
        watching = asyncio.get_running_loop().create_task(app._watch(server))
        while looks < 2:
            assert not watching.done()
            await asyncio.sleep(0.01)
        watching.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(asyncio.wait_for(watched(), 20))
    assert "defect of ours" in caplog.text
