"""A real server in a process of its own, for tests to stop, to kill and to start again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import gibramdb
from gibramdb import Store

SECONDS_MAX = 120.0
"""Far longer than anything here takes: beyond it something hangs."""
_READY = re.compile(r"serving.*127\.0\.0\.1:(\d+).* pid=(\d+)")


class RefusedError(Exception):
    """The server ended before it served. Says with which exit status, and everything it wrote.

    A test that expects this writes `Server(...).kill()`, so that a server which comes up all the same is not left behind.
    """

    def __init__(self, status: int, output: str) -> None:
        super().__init__(f"exit status {status}: {output}")
        self.status = status
        self.output = output


def command(directory: Path, *arguments: str, mode: str = "durable") -> list[str]:
    """What starts a server on a free port of the loopback."""
    return [
        sys.executable, "-m", "gibramdb", "serve",
        "--data", str(directory), "--mode", mode, "--dim", "8", "--addr", "127.0.0.1:0", *arguments,
    ]  # fmt: skip


class Server:
    """`gibramdb serve` on a free port of the loopback. Ended by `stop` or `kill`, and in any case by `__exit__`."""

    def __init__(self, directory: Path, *arguments: str, mode: str = "durable", prefix: Sequence[str] = ()) -> None:
        """prefix: a command to run it under, strace for example."""
        self.directory = directory
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [*prefix, *command(directory, *arguments, mode=mode)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._port: int | None = None
        self._pid = self._process.pid  # until the server says its own, which may run under another command
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._is_ready.wait(SECONDS_MAX):
            self._process.kill()
            raise TimeoutError("".join(self.lines))
        if self._port is None:
            raise RefusedError(self._process.wait(SECONDS_MAX), "".join(self.lines))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            if found := _READY.search(line):
                self._port, self._pid = int(found[1]), int(found[2])
                self._is_ready.set()
        self._is_ready.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()

    @property
    def pid(self) -> int:
        """Of the server itself."""
        return self._pid

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._port is not None
        return self._port

    def connect(self, timeout_s: float = SECONDS_MAX) -> Store:
        """A client of its own."""
        return gibramdb.connect(f"gibram://127.0.0.1:{self.port}", timeout_s=timeout_s)

    def says(self, words: str) -> bool:
        """Whether it has written this, also where that is still on its way."""
        until = time.monotonic() + SECONDS_MAX
        while words not in "".join(self.lines):
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def kill(self) -> None:
        """SIGKILL: nothing of the process runs any more."""
        os.kill(self._pid, signal.SIGKILL)
        self._process.wait(SECONDS_MAX)
        self._reader.join(SECONDS_MAX)

    def is_running(self) -> bool:
        """Whether the server itself still runs; what it was started under may end later."""
        try:
            state = Path(f"/proc/{self._pid}/stat").read_text().rpartition(") ")[2][0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in "ZX"

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        os.kill(self._pid, signal.SIGTERM)

    def wait(self, seconds: float = SECONDS_MAX) -> int:
        """The exit status."""
        status = self._process.wait(seconds)
        self._reader.join(SECONDS_MAX)
        return status

    def stop(self) -> float:
        """SIGTERM; returns the seconds it took to end, which it must do with status 0."""
        began = time.monotonic()
        self.terminate()
        assert self.wait() == 0, "".join(self.lines)
        return time.monotonic() - began
