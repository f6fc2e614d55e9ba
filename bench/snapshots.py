"""How long a snapshot takes, what a writer feels of it, and how long a start takes: from the log alone, and from both.

python bench/snapshots.py                                        20,000 entities with 384 numbers, 60,000 relationships
python bench/snapshots.py --entities 1000000 --relationships 1000000 --sessions 100

A server of its own on a fresh directory, one client that fills it, one that writes single entities while SAVE and
WAL_CHECKPOINT run. Starts are timed from the start of the process to its answer to the first PING, after SIGKILL.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import gibramdb
from gibramdb import NewEntity, NewRelationship, Store

VECTOR_DIM = 384
BATCH = 2_000


class Server:
    """`gibramdb serve` in durable mode on `directory`."""

    def __init__(self, directory: Path) -> None:
        began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gibramdb", "serve", "--mode", "durable", "--dim", str(VECTOR_DIM),
             "--data", str(directory), "--addr", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"serving.*127\.0\.0\.1:(\d+)", line):
                self.url = f"gibram://127.0.0.1:{found[1]}"
                break
        else:
            raise SystemExit("the server did not start")
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        with self.connect() as store:
            store.ping()
        self.start_s = time.monotonic() - began

    def connect(self) -> Store:
        """A client."""
        return gibramdb.connect(self.url, timeout_s=600)

    def peak_mb(self) -> float:
        """The most memory it has held, in megabytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def forget_peak(self) -> float:
        """Megabytes now; the peak counts from here."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        return self.peak_mb()

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()


def fill(store: Store, entities: int, relationships: int, sessions: int) -> None:
    """Random vectors and edges, evenly over the sessions."""
    rng = np.random.default_rng(1)
    for number in range(sessions):
        session = store.session(f"s{number}")
        count, edges = entities // sessions, relationships // sessions
        for begin in range(0, count, BATCH):
            rows = rng.standard_normal((min(BATCH, count - begin), VECTOR_DIM), np.float32)
            session.add_entities(
                NewEntity(f"e{begin + n}", f"entity {begin + n}", "kind", "described", row)
                for n, row in enumerate(rows)
            )
        ends = rng.integers(1, count + 1, (edges, 2))
        session.add_relationships(NewRelationship(int(a), int(b), f"r{n}") for n, (a, b) in enumerate(ends))


class Writer:
    """One connection that adds one entity after the other, and the longest that one took."""

    def __init__(self, server: Server) -> None:
        self.longest_s = 0.0
        self.count = 0
        self._stop = threading.Event()
        self._server = server
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._server.connect() as store:
            session = store.session("writer")
            while not self._stop.is_set():
                began = time.monotonic()
                session.add_entity(f"w{time.monotonic_ns()}", f"w{time.monotonic_ns()}")
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.count += 1

    def stop(self) -> None:
        """End, and wait for the last write."""
        self._stop.set()
        self._thread.join()


def timed(server: Server, call: str) -> tuple[float, float]:
    """Seconds that a save or checkpoint took, and the longest write meanwhile."""
    writer = Writer(server)
    time.sleep(0.3)
    writer.longest_s = 0.0
    with server.connect() as store:
        began = time.monotonic()
        store.save("copy.gibram") if call == "save" else store.checkpoint()
        took = time.monotonic() - began
    writer.stop()
    return took, writer.longest_s


def size_mb(directory: Path) -> float:
    """Of all files below, in megabytes."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--relationships", type=int, default=60_000)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where to make the store; removed at the end")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir=arguments.directory)) / "data"

    def tell(what: str, figure: str) -> None:
        print(f"{what:<58} {figure}", flush=True)

    try:
        server = Server(directory)
        with server.connect() as store:
            began = time.monotonic()
            fill(store, arguments.entities, arguments.relationships, arguments.sessions)
            tell("filled", f"{time.monotonic() - began:.1f} s")
        tell("log", f"{size_mb(directory / 'session_wal'):.0f} MB")
        server.kill()
        server = Server(directory)
        tell("from kill -9 to serving, from the log alone", f"{server.start_s:.2f} s, peak {server.peak_mb():.0f} MB")
        before_mb = server.forget_peak()
        took, longest = timed(server, "save")
        peak = server.peak_mb() / before_mb
        tell(
            "SAVE: a copy and a full snapshot", f"{took:.2f} s, longest write {longest * 1e3:.0f} ms, peak {peak:.2f}x"
        )
        copy = directory / "copy.gibram"
        tell("the copy", f"{copy.stat().st_size / 1e6:.0f} MB")
        tell("snapshots", f"{size_mb(directory / 'session_snapshots'):.0f} MB")
        with server.connect() as store:
            for number in range(max(1, arguments.sessions // 100)):
                store.session(f"s{number}").touch()
        took, longest = timed(server, "checkpoint")
        tell("WAL_CHECKPOINT, 1 % of the sessions changed", f"{took:.3f} s, longest write {longest * 1e3:.0f} ms")
        server.kill()
        server = Server(directory)
        tell(
            "from kill -9 to serving, from snapshot and log", f"{server.start_s:.2f} s, peak {server.peak_mb():.0f} MB"
        )
        server.kill()
    finally:
        shutil.rmtree(directory.parent)


if __name__ == "__main__":
    main()
