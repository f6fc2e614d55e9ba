"""How many durable single adds a second: entities with 384-d embeddings, `every_write`, over TCP on this machine.

Starts a server of its own on a fresh directory, encodes every frame before the clock starts, and then keeps one request
outstanding on each connection. Beside it, in the same minute, a plain loop that appends 2 KB and syncs says what the
disk gives.

    python bench/durable_adds.py [--dir DIR] [--requests N] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gibramdb
from gibramdb.model.commands import AddEntities
from gibramdb.model.knowledge import NewEntity
from gibramdb.wire.codec import encode_command

VECTOR_DIM = 384
READY = re.compile(r"serving.*?127\.0\.0\.1:(\d+)")


def start_server(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """A durable server on a free port."""
    server = subprocess.Popen(
        [sys.executable, "-m", "gibramdb", "serve", "--data", str(data_dir), "--mode", "durable",
         "--dim", str(VECTOR_DIM), "--addr", "127.0.0.1:0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    for line in server.stdout:
        if found := READY.search(line):
            return server, int(found[1])
    raise SystemExit(f"the server did not start: exit status {server.wait()}")


def frames(session_id: str, count: int) -> list[bytes]:
    """Requests, ready to send."""
    vectors = np.random.default_rng(7).normal(size=(count, VECTOR_DIM)).astype("<f4")
    return [
        encode_command(
            AddEntities(
                session_id,
                (
                    NewEntity(
                        f"{session_id}-{index}", f"Entity {session_id} {index}", "thing", "measured", row.tobytes()
                    ),
                ),
                bulk=False,
            ),
            index + 1,
        )
        for index, row in enumerate(vectors)
    ]


def load(port: int, connection_count: int, requests: int, label: str) -> tuple[float, list[float]]:
    """Seconds it took, and each request's latency in milliseconds."""
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connection_count)]
    waiting = [frames(f"{label}-{index}", requests // connection_count)[::-1] for index in range(connection_count)]
    poll = select.epoll()
    by_fd = {}
    for index, each in enumerate(sockets):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(each.fileno(), select.EPOLLIN)
        by_fd[each.fileno()] = index
    sent_at = [0.0] * connection_count
    latencies: list[float] = []
    clock = time.perf_counter
    began = clock()
    for index, each in enumerate(sockets):
        sent_at[index] = clock()
        each.sendall(waiting[index].pop())
    left = connection_count
    while left:
        for fd, _ in poll.poll():
            index = by_fd[fd]
            reply = sockets[index].recv(4096)
            now = clock()
            assert reply[:1] == b"\x01", reply
            assert b"already" not in reply, reply
            latencies.append((now - sent_at[index]) * 1000)
            if waiting[index]:
                sent_at[index] = now
                sockets[index].sendall(waiting[index].pop())
            else:
                left -= 1
    seconds = clock() - began
    for each in sockets:
        each.close()
    return seconds, latencies


def plain_loop(folder: Path, count: int = 3000) -> float:
    """Appends of 2 KB and syncs a second, by nothing but write and fdatasync."""
    path = folder / "plain.bin"
    block = os.urandom(2048)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    began = time.perf_counter()
    for _ in range(count):
        os.write(fd, block)
        os.fdatasync(fd)
    seconds = time.perf_counter() - began
    os.close(fd)
    path.unlink()
    return count / seconds


def percentile(values: list[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=None, help="where the data goes; a temporary directory otherwise")
    parser.add_argument("--requests", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{'connections':>11} {'adds/s':>8} {'p50 ms':>7} {'p99 ms':>7} {'syncs/s':>8} {'plain loop/s':>12} {'ratio':>6}"
    )
    for connection_count in (1, 16):
        ratios = []
        for turn in range(options.rounds):
            with tempfile.TemporaryDirectory(dir=options.dir) as folder:
                server, port = start_server(Path(folder) / "data")
                try:
                    db = gibramdb.connect(f"gibram://127.0.0.1:{port}")
                    load(port, connection_count, 1600, "warm")
                    plain_before = plain_loop(Path(folder))
                    syncs = int(db.health().components["wal_sync_count"])
                    seconds, latencies = load(
                        port, connection_count, options.requests // (1 if connection_count > 1 else 4), "run"
                    )
                    syncs = int(db.health().components["wal_sync_count"]) - syncs
                    plain = statistics.mean((plain_before, plain_loop(Path(folder))))
                    db.close()
                finally:
                    server.send_signal(signal.SIGTERM)
                    server.wait()
            rate = len(latencies) / seconds
            ratios.append(rate / plain)
            print(
                f"{connection_count:>11} {rate:>8.0f} {percentile(latencies, 0.5):>7.2f} {percentile(latencies, 0.99):>7.2f} "
                f"{syncs / seconds:>8.0f} {plain:>12.0f} {rate / plain:>6.2f}   round {turn + 1}"
            )
        print(f"{connection_count:>11} median ratio to the plain loop: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
