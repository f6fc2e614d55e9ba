"""What no socket can be made to show at will: moments between two turns of the event loop."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from support.connection_fuzzing import Line

from gibramdb.clock import SystemClock
from gibramdb.config import load_config
from gibramdb.server import app
from gibramdb.server.connection import Connection


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
