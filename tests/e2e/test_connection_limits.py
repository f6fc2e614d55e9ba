"""What one client leaves half done costs the server bounded memory and time, and costs the others nothing."""

from __future__ import annotations

import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from support.gate import Frames, config_file, encode_auth, entry
from support.server import Server
from support.strace import needs_strace, strace
from support.timing import TIMED
from support.tls import Authority

from gibramdb import NewDocument, NewEntity, NewTextUnit
from gibramdb.clock import SystemClock
from gibramdb.model import commands as c
from gibramdb.server.admission import TOLD_EVERY_US, Seldom
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import encode_command, encode_pipeline

MIB = 1 << 20


def resident_bytes(server: Server) -> int:
    return int(Path(f"/proc/{server.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def resident_bytes_peak(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def cpu_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def serving(directory: Path, **security: object) -> Server:
    """In memory and without keys."""
    return Server(directory / "data", "--config", config_file(directory, [], security=security), mode="ephemeral")


def with_texts(server: Server) -> None:
    """Three megabytes in a session, to be asked for."""
    with server.connect() as store:
        session = store.session("s")
        session.add_document("d")
        session.add_textunits([NewTextUnit(f"t{number}", 1, "x" * 1_000_000) for number in range(3)])


ALL_TEXTS = encode_command(c.GetTextUnits("s", (1, 2, 3)), 7)


@TIMED
def test_a_frame_that_does_not_go_on_is_given_up_and_silence_between_frames_is_not(tmp_path: Path) -> None:
    with serving(tmp_path, stall_timeout="800ms") as server:
        began = time.monotonic()
        with Frames(server.port) as silent, Frames(server.port) as half, Frames(server.port) as dripping:
            half.socket.sendall(b"\x01\x00\x00")
            dripping.socket.sendall(b"\x01\x00\x10\x00\x00")

            def drip() -> None:
                try:
                    while True:
                        dripping.socket.sendall(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass

            dripper = threading.Thread(target=drip)
            dripper.start()
            assert half.is_closed()
            assert dripping.is_closed()
            assert 0.7 < time.monotonic() - began < 2
            dripper.join()
            time.sleep(1)
            assert silent.ask(N.PING).cmd_type == N.PONG


@TIMED
def test_a_frame_that_goes_on_slowly_is_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, stall_timeout="500ms") as server, Frames(server.port) as frames:
        frame = encode_command(c.AddDocuments("s", (NewDocument("d", "x" * 300_000),), bulk=False), 7)
        began = time.monotonic()
        for start in range(0, len(frame), 10_000):
            frames.socket.sendall(frame[start : start + 10_000])
            time.sleep(0.06)
        assert frames.reply().cmd_type == N.OK
        assert time.monotonic() - began > 1.5, "too quick for this test to mean anything"


def taken(frames: Frames, bytes_max: int) -> int:
    data = frames.socket.recv(bytes_max)
    assert data, "the server closed the connection"
    return len(data)


@TIMED
def test_a_client_that_does_not_take_its_answers_is_sent_away_and_a_slow_one_is_not(tmp_path: Path) -> None:
    with serving(tmp_path, stall_timeout="1s") as server:
        with_texts(server)
        with Frames(server.port) as idle, Frames(server.port) as slow:
            idle.socket.sendall(ALL_TEXTS * 20)
            slow.socket.sendall(ALL_TEXTS * 2)
            received, began = 0, time.monotonic()
            while time.monotonic() - began < 3.5:
                received += taken(slow, 20_000)
                time.sleep(0.05)
            assert received > 300_000
            while received < 6_000_000:
                received += taken(slow, MIB)
            left = 0
            with pytest.raises((ConnectionError, AssertionError)):
                while True:
                    data = idle.socket.recv(MIB)
                    assert data, "closed"
                    left += len(data)
            assert left < 20 * 3_000_000, "all of it came: nobody was sent away"


def test_what_a_client_took_quickly_gives_it_no_time_later(tmp_path: Path) -> None:
    with serving(tmp_path, stall_timeout="500ms") as server:
        with_texts(server)
        with Frames(server.port) as frames:
            frames.socket.sendall(encode_command(c.GetTextUnits("s", (1, 2, 3) * 20), 7))  # one answer of 60 MB
            received = 0
            while received < 20_000_000:
                received += taken(frames, MIB)
            time.sleep(2.5)
            with pytest.raises((ConnectionError, AssertionError)):
                while received < 60_000_000:
                    received += taken(frames, MIB)


def test_half_sent_frames_hold_no_more_than_they_may_together(tmp_path: Path) -> None:
    limit_mib = 16
    with serving(tmp_path, max_buffered_bytes=limit_mib * MIB, max_conns_per_ip=100) as server:
        with server.connect() as store:
            store.ping()
            before = resident_bytes(server)
            half = b"\x01" + (4 * MIB).to_bytes(4, "big") + b"x" * (3 * MIB)
            crowd = [Frames(server.port) for _ in range(40)]
            for each in crowd:
                try:
                    each.socket.sendall(half)
                except OSError:
                    pass  # sent away already
            store.ping()
            assert resident_bytes(server) - before < (limit_mib + 12) * MIB
            wait_for(lambda: sum(are_closed(crowd, 0.05)) >= 40 - limit_mib / 3 - 2)
            assert sum(are_closed(crowd, 0.05)) < 40
            for each in crowd:
                each.socket.close()
        with Frames(server.port) as frames:  # and all of it is given back
            whole = encode_command(c.AddDocuments("s", (NewDocument("d", "x" * (4 * MIB - 100)),), bulk=False), 7)
            frames.socket.sendall(whole)
            assert frames.reply().cmd_type == N.OK


def test_answers_that_nobody_takes_hold_no_more_than_they_may_together(tmp_path: Path) -> None:
    with serving(tmp_path, max_buffered_bytes=16 * MIB, max_conns_per_ip=100) as server:
        with_texts(server)
        with server.connect() as store:
            store.ping()
            before = resident_bytes(server)
            crowd = [Frames(server.port) for _ in range(30)]
            for each in crowd:
                each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                each.socket.sendall(ALL_TEXTS)
            for _ in range(20):
                store.ping()
                time.sleep(0.02)
            assert resident_bytes(server) - before < 40 * MIB
            for each in crowd:
                each.socket.close()
            assert len(store.session("s").get_textunits([1, 2, 3])) == 3


@pytest.mark.parametrize(
    "asked",
    [
        encode_pipeline([c.GetTextUnit("s", number % 1_000 + 1) for number in range(4_000)], 7),
        encode_command(c.GetTextUnits("s", tuple(range(1, 1_001)) * 4), 7),
    ],
    ids=["pipelines", "single answers"],
)
def test_answers_that_are_made_at_once_hold_no_more_than_they_may_together(tmp_path: Path, asked: bytes) -> None:
    """Each of 40 asks for 24 MB, which take many turns to make, or one long one, and takes nothing."""
    with serving(tmp_path, max_buffered_bytes=32 * MIB, max_conns_per_ip=100) as server, server.connect() as store:
        session = store.session("s")
        session.add_document("d")
        session.add_textunits(NewTextUnit(f"t{number}", 1, "x" * 6_000) for number in range(1_000))
        before = resident_bytes(server)
        crowd = [Frames(server.port) for _ in range(40)]
        for each in crowd:
            each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for each in crowd:
            each.socket.sendall(asked)
        for _ in range(100):
            store.ping()
            time.sleep(0.02)
        assert resident_bytes_peak(server) - before < 160 * MIB, "more than the limit and an answer being made"
        for each in crowd:
            each.socket.close()
        assert len(session.get_textunits([1, 2, 3])) == 3


@needs_strace
def test_answers_that_wait_for_a_slow_disk_hold_no_more_than_they_may_together(tmp_path: Path) -> None:
    """Each of 20 asks for as much as one connection may, behind a write."""
    settings = ("--config", config_file(tmp_path, [], security={"max_buffered_bytes": 32 * MIB}))
    with Server(tmp_path / "data") as server, server.connect() as store:
        store.session("r").add_entities([NewEntity(f"e{number}", f"e{number}") for number in range(10_000)])
        server.stop()
    sent = [encode_command(c.ListEntities("r", limit=10_000), number) for number in range(2, 30)]
    slow_disk = strace("inject=fdatasync:delay_enter=2000000")
    with Server(tmp_path / "data", *settings, prefix=slow_disk) as server:
        before = resident_bytes(server)
        crowd = [Frames(server.port) for _ in range(20)]
        for number, each in enumerate(crowd):
            with suppress(OSError):  # sent away already
                each.socket.sendall(encode_command(c.AddDocuments(f"w{number}", (NewDocument("d"),)), 1))
                each.socket.sendall(b"".join(sent))
        time.sleep(1)
        assert resident_bytes_peak(server) - before < 160 * MIB
        for each in crowd:
            each.socket.close()
        wait_for(lambda: _is_let_in(server))
        assert server.says("all together hold too much"), server.lines


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("does not speak the protocol", b"GET / HTTP/1.1\r\n\r\n"),
        ("stands still in the middle of a frame", b"\x01\x00\x00"),
        ("showed a key that is none of ours", encode_auth("key-of-nobody")),
        ("showed a key whose time is over", encode_auth("key-late")),
        ("holds most", b"\x01" + MIB.to_bytes(4, "big") + b"x" * (MIB - 1)),
    ],
    ids=["nonsense", "stall", "wrong key", "expired key", "too much"],
)
def test_who_misbehaves_often_does_not_fill_the_log(tmp_path: Path, said: str, sent: bytes) -> None:
    keys = [entry("late", "read", expires_at="2001-01-01T00:00:00Z")] if b"key-" in sent else []
    security = {"stall_timeout": "300ms", "max_frame_size": MIB, "max_buffered_bytes": MIB, "max_conns_per_ip": 100}
    path = config_file(tmp_path, keys, security=security)
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        began_s = time.monotonic()
        for _ in range(5):
            crowd = [Frames(server.port) for _ in range(5)]
            for each in crowd:
                with suppress(ConnectionError):  # sent away while it was at it
                    each.socket.sendall(sent)
            if said == "holds most":
                wait_for(lambda: any(are_closed(crowd, 0.05)))  # noqa: B023 (called at once)
            else:
                for each in crowd:
                    while not each.is_closed():
                        pass  # an answer to AUTH comes first
            for each in crowd:
                each.socket.close()
        server.stop()
        lines = [line for line in server.lines if said in line]
        assert 1 <= len(lines) <= 1 + (time.monotonic() - began_s) * 1_000_000 / TOLD_EVERY_US, lines
        assert "times=1" in lines[0]


def test_what_happens_often_is_counted_until_it_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    now_us = 0
    monkeypatch.setattr(SystemClock, "steady_us", lambda _: now_us)
    seldom = Seldom(lambda what, extra: told.append((what, extra)))
    for now_us in range(0, 2 * TOLD_EVERY_US + 1, TOLD_EVERY_US // 4):
        seldom.tell("again", at_us=now_us)
    assert told == [
        ("again", {"at_us": 0, "times": 1}),
        ("again", {"at_us": TOLD_EVERY_US, "times": 4}),
        ("again", {"at_us": 2 * TOLD_EVERY_US, "times": 4}),
    ]


def test_connections_are_counted_in_all(tmp_path: Path) -> None:
    with serving(tmp_path, max_connections=5) as server:
        inside = [Frames(server.port) for _ in range(5)]
        assert all(each.ask(N.PING).cmd_type == N.PONG for each in inside)
        with Frames(server.port) as sixth:
            assert sixth.is_closed()
        inside[0].socket.close()
        wait_for(lambda: _is_let_in(server))
        assert inside[1].ask(N.PING).cmd_type == N.PONG


def guarded(directory: Path, tls: dict[str, str] | None = None, **security: object) -> Server:
    """In memory, with a key, and with room for five."""
    limits = {"max_connections": 5, "max_conns_per_ip": 100, "unauth_timeout": "60s", **security}
    path = config_file(directory, [entry("app", "write")], security=limits, **({"tls": tls} if tls else {}))
    return Server(directory / "data", "--config", path, mode="ephemeral")


def are_closed(connections: list[Frames], timeout_s: float = 1.0) -> list[bool]:
    found = []
    for each in connections:
        each.socket.settimeout(timeout_s)
        try:
            found.append(each.is_closed())
        except TimeoutError:
            found.append(False)
        each.socket.settimeout(60)
    return found


@TIMED
def test_the_oldest_that_has_shown_no_key_makes_room_and_nobody_who_has(tmp_path: Path) -> None:
    with guarded(tmp_path) as server:
        inside = [Frames(server.port, "key-app") for _ in range(2)]
        silent = [Frames(server.port) for _ in range(3)]
        time.sleep(0.2)
        inside.append(Frames(server.port, "key-app"))
        assert are_closed(silent) == [True, False, False]
        assert silent[1].auth("key-app").success, "who takes long to say it may still do so"
        inside += [silent[1], Frames(server.port, "key-app")]
        assert are_closed(silent[2:]) == [True]
        for _ in range(2):
            with Frames(server.port) as another:
                assert another.is_closed(), "all who are inside have shown a key"
        assert all(each.ask(N.PING).cmd_type == N.PONG for each in inside)
        inside.pop().socket.close()
        wait_for(lambda: _is_let_in(server, "key-app"))
        assert all(each.ask(N.PING).cmd_type == N.PONG for each in inside)
        for each in (*inside, *silent):
            each.socket.close()
        server.stop()
        assert not [line for line in server.lines if "Traceback" in line], server.lines


@TIMED
def test_a_handshake_that_does_not_end_makes_room_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(cafile=str(authority.file))
    with guarded(tmp_path, authority.issue("localhost")) as server:
        handshakes = [Frames(server.port) for _ in range(3)]
        time.sleep(0.2)
        strangers = [Frames(server.port, tls=context) for _ in range(2)]
        inside = [Frames(server.port, "key-app", tls=context) for _ in range(4)]
        assert are_closed([*handshakes, *strangers]) == [True, True, True, True, False]
        inside.append(Frames(server.port, "key-app", tls=context))
        assert are_closed(strangers) == [True, True]
        with Frames(server.port) as another:
            assert another.is_closed()
        assert all(each.ask(N.PING).cmd_type == N.PONG for each in inside)
        for each in (*inside, *handshakes, *strangers):
            each.socket.close()
        server.stop()
        assert not [line for line in server.lines if "Traceback" in line], server.lines


@TIMED
def test_an_operator_gets_in_while_a_crowd_without_keys_knocks(tmp_path: Path) -> None:
    with guarded(tmp_path, max_connections=50, max_conns_per_ip=1_000) as server:
        is_over = threading.Event()
        crowd: list[socket.socket] = []

        def knock() -> None:
            while not is_over.is_set():
                crowd.append(socket.create_connection(("127.0.0.1", server.port)))
                time.sleep(0.0005)
                if len(crowd) > 400:
                    crowd.pop(0).close()

        knocking = threading.Thread(target=knock)
        knocking.start()
        try:
            wait_for(lambda: len(crowd) > 100)
            for _ in range(20):
                with Frames(server.port, "key-app") as frames:
                    time.sleep(0.02)
                    assert frames.ask(N.PING).cmd_type == N.PONG
        finally:
            is_over.set()
            knocking.join(60)
            for each in crowd:
                each.close()


def _is_let_in(server: Server, key: str = "") -> bool:
    try:
        with Frames(server.port, key) as frames:
            return frames.ask(N.PING).cmd_type == N.PONG
    except (AssertionError, ConnectionError):
        return False


def wait_for(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


@TIMED
def test_without_descriptors_accepting_pauses_and_the_others_are_served(tmp_path: Path) -> None:
    with serving(tmp_path) as server, Frames(server.port) as inside:
        assert inside.ask(N.PING).cmd_type == N.PONG
        limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
        with Frames(server.port, timeout_s=0.3) as waiting:
            waiting.send(N.PING)
            before_s = cpu_seconds(server)
            for _ in range(15):
                time.sleep(0.1)
                assert inside.ask(N.PING).cmd_type == N.PONG
            assert cpu_seconds(server) - before_s < 0.5, "it spins"
            with pytest.raises(TimeoutError):
                waiting.reply()
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
            waiting.socket.settimeout(60)
            assert waiting.reply().cmd_type == N.PONG
        server.stop()
        said = [line for line in server.lines if "can not accept connections for a moment" in line]
        assert 1 <= len(said) < 15


def test_a_server_takes_as_many_descriptors_as_it_may_and_says_when_they_are_few(tmp_path: Path) -> None:
    path = config_file(tmp_path, [])
    few = ["prlimit", "--nofile=100:200"]
    with Server(tmp_path / "data", "--config", path, mode="ephemeral", prefix=few) as server:
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE) == (200, 200)
        server.stop()
        assert any(
            "security.max_connections is 4096, and the limit on open files allows 136" in each for each in server.lines
        )


def test_a_client_that_goes_away_in_the_middle_of_an_answer_costs_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        with_texts(server)
        with server.connect() as store:
            peaks = []
            for _ in range(3):
                for _ in range(30):
                    with Frames(server.port) as frames:
                        frames.socket.sendall(ALL_TEXTS * 5)
                        frames.socket.recv(1_000)
                        frames.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                store.ping()
                peaks.append(resident_bytes(server))
            assert peaks[2] - peaks[0] < 16 * MIB, peaks
        server.stop()
        assert not [line for line in server.lines if "Traceback" in line], server.lines
