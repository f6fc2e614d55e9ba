"""A crowd of connections, opened and dropped in ways of every kind, while others are served. Prints what it cost."""

from __future__ import annotations

import itertools
import random
import resource
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.gate import Frames, config_file, entry, hash_of
from support.server import Server
from support.timing import TIMED

from gibramdb import NewDocument, NewTextUnit
from gibramdb.model import commands as c
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import encode_command
from gibramdb.wire.framing import encode_envelope, encode_frame

MIB = 1 << 20
KEYS = [entry("app", "write"), entry("hashed", "read", key_hash=hash_of("key-hashed"))]
RUDE_CLIENTS = 6
RESET = struct.pack("ii", 1, 0)


def auth(key: str) -> bytes:
    return encode_frame(encode_envelope(1, N.AUTH, pb.AuthRequest(api_key=key).SerializeToString()))


ASK = encode_command(c.GetTextUnits("s", (1, 2, 3)), 2)


def half_frame(rude: socket.socket) -> None:
    rude.sendall(b"\x01\x00\x00\x0f\xff" + b"x" * 100)


def half_frame_of_one_inside(rude: socket.socket) -> None:
    rude.sendall(auth("key-app") + b"\x01\x00\x30\x00\x00" + b"x" * 50_000)


def half_header_then_reset(rude: socket.socket) -> None:
    rude.sendall(b"\x01\x00")
    reset(rude)


def silence(rude: socket.socket) -> None:
    del rude


def no_auth(rude: socket.socket) -> None:
    rude.sendall(ASK)
    rude.recv(1_000)


def wrong_auth(rude: socket.socket) -> None:
    rude.sendall(auth("key-of-nobody"))
    rude.recv(1_000)


def wrong_auth_and_away(rude: socket.socket) -> None:
    rude.sendall(auth(f"key-{random.random()}"))
    reset(rude)


def noise(rude: socket.socket) -> None:
    rude.sendall(random.randbytes(300))


def too_long(rude: socket.socket) -> None:
    rude.sendall(b"\x01\xff\xff\xff\xff" + b"x" * 1_000)


def reset_in_an_answer(rude: socket.socket) -> None:
    rude.sendall(auth("key-app") + ASK * 3)
    rude.recv(500)
    reset(rude)


def reset_before_the_answers(rude: socket.socket) -> None:
    add = c.AddDocuments("rude", (NewDocument(f"{random.random()}"),), bulk=False)
    rude.sendall(auth("key-app") + encode_command(add, 3) * 50)
    reset(rude)


def slow_reading(rude: socket.socket) -> None:
    rude.sendall(auth("key-app") + ASK * 10)
    for _ in range(10):
        rude.recv(200)
        time.sleep(0.002)


def reset(rude: socket.socket) -> None:
    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


WAYS: tuple[Callable[[socket.socket], None], ...] = (
    half_frame, half_frame_of_one_inside, half_header_then_reset, silence, no_auth, wrong_auth, wrong_auth_and_away,
    noise, too_long, reset_in_an_answer, reset_before_the_answers, slow_reading,
)  # fmt: skip


class Crowd:
    """Rude clients on some threads, from many addresses, each holding a few connections open at a time."""

    def __init__(self, port: int, count: int, seed: int) -> None:
        self._port = port
        self._count = count
        self._seed = seed
        self.done = dict.fromkeys(WAYS, 0)
        self._lock = threading.Lock()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._behave, args=(-(-self._count // RUDE_CLIENTS), self._seed * 100 + number))
            for number in range(RUDE_CLIENTS)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def _behave(self, count: int, seed: int) -> None:
        held: list[socket.socket] = []
        for number, way in zip(range(count), itertools.cycle(WAYS), strict=False):
            # Every address its own failures: otherwise most would only be told to pause.
            address = f"127.{seed % 200 + 1}.{number // 250 % 250}.{number % 250 + 1}"
            rude = socket.create_connection(("127.0.0.1", self._port), timeout=20, source_address=(address, 0))
            try:
                way(rude)
            except ConnectionError:
                pass  # sent away while it was at it
            held.append(rude)
            with self._lock:
                self.done[way] += 1
            if len(held) > 20:
                held.pop(0).close()
        for rude in held:
            rude.close()


class Visitor(threading.Thread):
    """A client that behaves: writes and reads, and notes how long each takes."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__()
        self.took_s: list[float] = []
        self.failure = ""
        self._frames = Frames(port, "key-app")
        self._number = number
        self._is_over = threading.Event()

    def run(self) -> None:
        for number in itertools.count():
            if self._is_over.is_set():
                break
            began = time.monotonic()
            if number % 2:
                reply = self._frames.ask(N.SESSION_INFO, session_id="s")
            else:
                document = NewDocument(f"v{self._number}-{number}")
                reply = self._frames.run(c.AddDocuments("visitors", (document,), bulk=False))
            self.took_s.append(time.monotonic() - began)
            if reply.cmd_type != N.OK:
                self.failure = str(reply)
                break
            time.sleep(0.002)

    def stop(self) -> None:
        self._is_over.set()
        self.join()
        self._frames.socket.close()


def resident_bytes(server: Server) -> int:
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def connections_open(server: Server) -> int:
    return sum(1 for each in Path(f"/proc/{server.pid}/fd").iterdir() if "socket" in str(each.readlink()))


@TIMED
@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.sweep)])
def test_a_crowd_costs_no_memory_and_those_who_behave_are_served(tmp_path: Path, count: int) -> None:
    security = {
        "rate_limit": 1_000_000, "rate_burst": 1_000_000, "max_conns_per_ip": 200, "unauth_timeout": "2s",
        "stall_timeout": "2s",
    }  # fmt: skip
    path = config_file(tmp_path, KEYS, security=security)
    with Server(tmp_path / "data", "--config", path) as server:
        with Frames(server.port, "key-app") as frames:
            frames.run(c.AddDocuments("s", (NewDocument("d"),), bulk=False))
            frames.run(c.AddTextUnits("s", tuple(NewTextUnit(f"t{n}", 1, "x" * 200_000) for n in range(3))))
        Crowd(server.port, 300, 1).run()  # what an allocator keeps of a first crowd is no leak
        time.sleep(3)
        idle_sockets = connections_open(server)
        before_bytes = resident_bytes(server)
        visitors = [Visitor(server.port, number) for number in range(3)]
        for each in visitors:
            each.start()
        crowd = Crowd(server.port, count, 2)
        began = time.monotonic()
        crowd.run()
        took_s = time.monotonic() - began
        for each in visitors:
            each.stop()
        time.sleep(3)
        after_bytes = resident_bytes(server)
        took_ms = [1_000 * each for visitor in visitors for each in visitor.took_s]
        p50_ms, p99_ms = statistics.median(took_ms), statistics.quantiles(took_ms, n=100)[98]
        print(
            f"{sum(crowd.done.values())} connections of {len(WAYS)} kinds in {took_s:.1f} s; resident memory "
            f"{before_bytes / MIB:.1f} MiB before, {after_bytes / MIB:.1f} MiB after; {len(took_ms)} requests of "
            f"{len(visitors)} well-behaved clients, every one answered: p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, "
            f"longest {max(took_ms):.0f} ms"
        )
        assert not [each.failure for each in visitors if each.failure]
        assert min(crowd.done.values()) >= count // len(WAYS) - RUDE_CLIENTS
        assert after_bytes - before_bytes < 24 * MIB
        assert connections_open(server) == idle_sockets, "a connection was left behind"
        assert p99_ms < 1_000
        with Frames(server.port, "key-hashed") as frames:
            assert frames.ask(N.PING).cmd_type == N.PONG
        server.stop()
        assert not [line for line in server.lines if "Traceback" in line or "defect" in line]
