"""The server of the demo: a real `gibramdb serve` in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gibramdb
from gibramdb import Store

READY = re.compile(r"serving.*127\.0\.0\.1:(\d+)")
SECONDS_MAX = 120.0


class DemoServer:
    """Started on a data directory; its log goes to a file beside it."""

    def __init__(self, data_dir: Path, log: Path) -> None:
        self._began = time.monotonic()
        with log.open("ab") as output:
            offset = output.tell()
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gibramdb", "serve", "--mode", "durable"),
                    *("--wal-sync-policy", "every_write", "--data", str(data_dir)),
                    *("--dim", "512", "--addr", "127.0.0.1:0"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.port = self._wait_until_ready(log, offset)
        self.starting_s = time.monotonic() - self._began

    def _wait_until_ready(self, log: Path, offset: int) -> int:
        while time.monotonic() - self._began < SECONDS_MAX:
            said = log.read_bytes()[offset:].decode(errors="replace")
            if found := READY.search(said):
                return int(found[1])
            if self._process.poll() is not None:
                raise SystemExit(f"the server refused to start:\n{said}")
            time.sleep(0.02)
        self.kill()
        raise SystemExit(f"the server did not start within {SECONDS_MAX:.0f} s; see {log}")

    def connect(self) -> Store:
        """A client."""
        return gibramdb.connect(f"gibram://127.0.0.1:{self.port}")

    def kill(self) -> None:
        """SIGKILL: no line of the server runs any more."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """As an operator would."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(SECONDS_MAX)
