"""Who is let in, for how long, how often: over sockets, against the real server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.gate import Frames, config_file, encode_auth, entry, error_of, hash_of
from support.server import Server, command
from support.timing import TIMED, slowness

from gibramdb import NewDocument, NewTextUnit
from gibramdb.core.limits import session_bytes
from gibramdb.errors import ConfigError
from gibramdb.model import commands as c
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import encode_command, encode_pipeline
from gibramdb.wire.framing import encode_envelope, encode_frame

KEYS = [
    entry("plain", "write"),
    entry("hashed", "admin", key_hash=hash_of("key-hashed", cost=11)),
    entry("go", "read", key_hash=hash_of("key-go").replace("$2b$", "$2a$")),
    entry("reader", "read"),
    entry("late", "read", expires_at="2001-01-01T00:00:00Z"),
    entry("a", "write", sessions=["a-*", "shared"]),
    entry("a-admin", "admin", sessions=["a-*", "shared"]),
    entry("a-few", "write", sessions=["a-*", "shared"], max_sessions=4),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = Path(tmp_path_factory.mktemp("gate"))
    path = config_file(
        directory, KEYS, security={"rate_limit": 100_000, "rate_burst": 100_000, "max_conns_per_ip": 500}
    )
    with Server(directory / "data", "--config", path, mode="ephemeral") as server:
        yield server
        output = "".join(server.lines)
        assert "key-" not in output, "a key was logged"
        assert "$2" not in output, "a hash was logged"


@pytest.mark.parametrize(("id", "permissions"), [("plain", ["write"]), ("hashed", ["admin"]), ("go", ["read"])])
def test_a_right_key_is_let_in(server: Server, id: str, permissions: list[str]) -> None:
    for _ in range(2):  # the second time, a hash need not be computed
        with Frames(server.port) as frames:
            answer = frames.auth(f"key-{id}", request_id=91)
            assert (answer.success, answer.message) == (True, "authenticated")
            assert (answer.key_id, list(answer.permissions)) == (id, permissions)
            assert frames.ask(N.PING).cmd_type == N.PONG


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (pb.AuthRequest(api_key="key-plainer").SerializeToString(), "invalid api key"),
        (pb.AuthRequest(api_key="plain").SerializeToString(), "invalid api key"),
        (pb.AuthRequest(api_key="x" * 3_000).SerializeToString(), "invalid api key"),
        (pb.AuthRequest(api_key="key-hashed\0").SerializeToString(), "invalid api key"),
        (b"", "invalid api key"),
        (pb.AuthRequest(api_key="key-late").SerializeToString(), "api key expired"),
        (b"\x0a\x02\xff\xfe", "invalid auth request"),
        (b"\x0a", "invalid auth request"),
    ],
)
def test_a_wrong_key_is_told_so_and_sent_away(tmp_path: Path, payload: bytes, message: str) -> None:
    path = config_file(tmp_path, KEYS)
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server, Frames(server.port) as frames:
        reply = frames.ask(N.AUTH, payload)
        answer = pb.AuthResponse.FromString(reply.payload)
        assert reply.cmd_type == N.AUTH_RESPONSE
        assert (answer.success, answer.message, answer.key_id, list(answer.permissions)) == (False, message, "", [])
        assert frames.is_closed()


def test_a_server_without_keys_lets_any_key_in_and_refuses_what_it_can_not_decode(tmp_path: Path) -> None:
    with Server(tmp_path / "data", mode="ephemeral") as server, Frames(server.port) as frames:
        for payload in (b"\xff", b"\x0a", b"\x0a\x02\xff\xfe"):
            assert error_of(frames.ask(N.AUTH, payload)) == (1001, "invalid auth request")
        answer = frames.auth("key-of-nobody")
        assert (answer.success, answer.message, answer.key_id, list(answer.permissions)) == (
            True,
            "authenticated",
            "",
            [],
        )
        assert frames.ask(N.PING).cmd_type == N.PONG


@pytest.mark.parametrize("number", [N.PING, N.HEALTH, N.ADD_DOCUMENT, N.PIPELINE, 999])
def test_whatever_comes_before_auth_is_refused_and_sent_away(server: Server, number: int) -> None:
    with Frames(server.port) as frames:
        frames.socket.sendall(
            encode_frame(encode_envelope(31, number, b"", "s"))
            + encode_frame(encode_envelope(32, N.AUTH, pb.AuthRequest(api_key="key-plain").SerializeToString()))
        )
        reply = frames.reply()
        assert (reply.request_id, error_of(reply)) == (31, (1012, "authentication required"))
        assert frames.is_closed()


def test_a_long_frame_before_auth_is_not_waited_for(server: Server) -> None:
    with Frames(server.port) as frames:
        frames.socket.sendall(b"\x01" + (4097).to_bytes(4, "big"))
        assert frames.is_closed()
    with Frames(server.port, "key-plain") as frames:
        long = c.AddDocuments("long", (NewDocument("d", "x" * 1_000_000),), bulk=False)
        assert frames.run(long).cmd_type == N.OK


def test_what_is_sent_together_with_a_right_key_is_answered_in_order(server: Server) -> None:
    with Frames(server.port) as frames:
        auth = encode_envelope(1, N.AUTH, pb.AuthRequest(api_key="key-hashed").SerializeToString())
        frames.socket.sendall(encode_frame(auth) + b"".join(encode_command(c.Ping(), n) for n in range(2, 50)))
        assert [frames.reply().request_id for _ in range(49)] == list(range(1, 50))


def test_a_second_auth_and_one_in_a_pipeline_are_no_commands(server: Server) -> None:
    with Frames(server.port, "key-plain") as frames:
        again = pb.AuthRequest(api_key="key-hashed").SerializeToString()
        assert error_of(frames.ask(N.AUTH, again)) == (1009, "unknown command: 120")
        inner = encode_envelope(1, N.AUTH, again)
        reply = frames.ask(N.PIPELINE, pb.PipelineRequest(commands=[inner]).SerializeToString())
        (refused,) = map(pb.Envelope.FromString, pb.PipelineRequest.FromString(reply.payload).commands)
        assert error_of(refused) == (1009, "unknown command: 120")
        assert error_of(frames.ask(N.SAVE))[0] == 1011, "and it still is who it was"


@TIMED
def test_checking_a_key_holds_nobody_up(tmp_path: Path) -> None:
    keys = [entry("plain", "read"), entry("slow", "read", key_hash=hash_of("key-slow", cost=14))]
    path = config_file(tmp_path, keys, security={"rate_limit": 100_000, "rate_burst": 100_000})
    with (
        Server(tmp_path / "data", "--config", path, mode="ephemeral") as server,
        Frames(server.port, "key-plain") as one,
    ):
        took: list[float] = []

        def come_in() -> None:
            began = time.monotonic()
            with Frames(server.port, "key-slow"):
                took.append(time.monotonic() - began)

        waiting = [threading.Thread(target=come_in) for _ in range(4)]
        for each in waiting:
            each.start()
        longest_s, pings = 0.0, 0
        while any(each.is_alive() for each in waiting):
            began = time.monotonic()
            assert one.ask(N.PING).cmd_type == N.PONG
            longest_s = max(longest_s, time.monotonic() - began)
            pings += 1
        assert len(took) == 4, "they ask for the same, which is computed once"
        assert min(took) > 0.2, "too quick for this test to mean anything"
        assert longest_s < min(took) / 2
        assert pings > 10


@TIMED
def test_an_address_that_keeps_failing_has_to_pause_and_then_may_try_again(tmp_path: Path) -> None:
    path = config_file(tmp_path, KEYS)
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        with Frames(server.port, "key-plain") as inside:
            messages = []
            for _ in range(7):
                with Frames(server.port) as frames:
                    messages.append(frames.auth("guess").message)
            assert messages[:5] == ["invalid api key"] * 5
            assert all("too many failed attempts from this address, try again in" in each for each in messages[5:])
            with Frames(server.port) as frames:
                assert not frames.auth("key-plain").success, "a right guess is not told from a wrong one meanwhile"
            assert inside.ask(N.PING).cmd_type == N.PONG, "who is in already stays in"
        time.sleep(0.6)
        with Frames(server.port, "key-plain") as frames:
            assert frames.ask(N.PING).cmd_type == N.PONG


@TIMED
def test_nobody_stays_longer_than_their_key(tmp_path: Path) -> None:
    until = datetime.now(UTC) + timedelta(seconds=6 * slowness(time.monotonic))
    path = config_file(tmp_path, [entry("short", "read", expires_at=until.isoformat())])
    with (
        Server(tmp_path / "data", "--config", path, mode="ephemeral") as server,
        Frames(server.port, "key-short") as silent,
        Frames(server.port, "key-short") as busy,
    ):
        while (reply := busy.ask(N.PING)).cmd_type == N.PONG:
            assert datetime.now(UTC) < until + timedelta(seconds=1)
            time.sleep(0.02)
        assert datetime.now(UTC) >= until - timedelta(seconds=1)
        assert error_of(reply) == (1012, "api key expired")
        assert busy.is_closed()
        assert silent.is_closed()
        with Frames(server.port) as frames:
            assert frames.auth("key-short").message == "api key expired"


@TIMED
def test_deadlines_for_who_does_not_authenticate_and_who_is_idle(tmp_path: Path) -> None:
    security = {"unauth_timeout": "800ms", "idle_timeout": "1500ms"}
    path = config_file(tmp_path, KEYS, security=security)
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        began = time.monotonic()
        with Frames(server.port) as silent, Frames(server.port) as dripping, Frames(server.port, "key-plain") as inside:
            half = encode_frame(encode_envelope(1, N.AUTH, pb.AuthRequest(api_key="key-plain").SerializeToString()))
            dripping.socket.sendall(half[:-1])
            assert silent.is_closed()
            assert dripping.is_closed()
            assert 0.7 < time.monotonic() - began < 1.5
            assert inside.ask(N.PING).cmd_type == N.PONG
            heard = time.monotonic()
            for _ in range(4):
                time.sleep(0.7)  # each accepted frame renews it
                assert inside.ask(N.PING).cmd_type == N.PONG
            assert time.monotonic() - heard > 2
            heard = time.monotonic()
            assert inside.is_closed()
            assert 1.3 < time.monotonic() - heard < 2.5


@TIMED
def test_each_key_has_a_rate_of_its_own_for_all_its_connections(tmp_path: Path) -> None:
    path = config_file(tmp_path, KEYS, security={"rate_limit": 1, "rate_burst": 20})
    with (
        Server(tmp_path / "data", "--config", path, mode="ephemeral") as server,
        Frames(server.port, "key-plain") as one,
        Frames(server.port, "key-plain") as two,
        Frames(server.port, "key-reader") as other,
    ):
        for frames in (one, two):
            assert [frames.ask(N.PING).cmd_type for _ in range(10)] == [N.PONG] * 10
        for frames in (one, two):
            assert error_of(frames.ask(N.PING)) == (2007, "rate limit exceeded")
        pings = [encode_command(c.Ping(), number)[5:] for number in range(1, 31)]
        reply = other.ask(N.PIPELINE, pb.PipelineRequest(commands=pings).SerializeToString())
        replies = [pb.Envelope.FromString(body) for body in pb.PipelineRequest.FromString(reply.payload).commands]
        assert [each.cmd_type for each in replies] == [N.PONG] * 20 + [N.ERROR]
        assert error_of(replies[-1]) == (2007, "rate limit exceeded")
        assert error_of(other.ask(N.PIPELINE))[0] == 2007
        time.sleep(1.1)
        assert one.ask(N.PING).cmd_type == N.PONG, "it fills again"


@TIMED
def test_frames_beyond_the_rate_do_not_keep_a_connection_from_being_idle(tmp_path: Path) -> None:
    path = config_file(tmp_path, KEYS, security={"rate_limit": 1, "rate_burst": 1, "idle_timeout": "600ms"})
    with (
        Server(tmp_path / "data", "--config", path, mode="ephemeral") as server,
        Frames(server.port, "key-plain") as frames,
    ):
        assert frames.ask(N.PING).cmd_type == N.PONG
        began = time.monotonic()
        with pytest.raises((AssertionError, ConnectionError), match=r"closed|reset|pipe"):
            while True:
                assert error_of(frames.ask(N.PING))[0] == 2007
                time.sleep(0.05)
        assert 0.5 < time.monotonic() - began < 0.95


@TIMED
def test_a_stop_waits_for_no_check_and_tells_those_who_wait_for_one(tmp_path: Path) -> None:
    one = hash_of("key-one", cost=11)  # a sixth of a second and more
    keys = [entry(f"k{number}", "read", key_hash=f"{one[:-2]}{number:02}") for number in range(60)]
    with (
        Server(tmp_path / "data", "--config", config_file(tmp_path, keys), mode="ephemeral") as server,
        Frames(server.port) as running,
        Frames(server.port) as second,
        Frames(server.port) as waiting,
    ):
        for number, frames in enumerate((running, second, waiting)):
            frames.socket.sendall(encode_auth(f"guess {number}"))
        time.sleep(0.3)
        began = time.monotonic()
        server.terminate()
        for frames in (running, second, waiting):
            answer = pb.AuthResponse.FromString(frames.reply().payload)
            assert (answer.success, answer.message) == (False, "too many keys are being checked, try again")
        assert server.wait() == 0
        assert time.monotonic() - began < 3


def test_no_check_under_way_takes_the_process_down_when_it_ends(tmp_path: Path) -> None:
    """It comes back from native code while Python ends; in about every second try, were it let."""
    one = hash_of("key-one", cost=9)
    keys = [entry(f"k{number}", "read", key_hash=f"{one[:-2]}{number:02}") for number in range(60)]
    path = config_file(tmp_path, keys)
    for number in range(6):
        with (
            Server(tmp_path / "data", "--config", path, mode="ephemeral") as server,
            Frames(server.port) as one_key,
            Frames(server.port) as another,
        ):
            one_key.socket.sendall(encode_auth("guess"))
            another.socket.sendall(encode_auth("another"))
            time.sleep(0.05 + 0.01 * number)
            server.terminate()
            assert server.wait() == 0


CHECKS_AND_FAILS = """
import sys, threading, bcrypt
from gibramdb import native_threads
from gibramdb.__main__ import run

key_hash = bcrypt.hashpw(b"key", bcrypt.gensalt(4))

def check():
    while True:
        bcrypt.checkpw(b"guess", key_hash)

threading.Thread(target=check, name=native_threads.HASHES, daemon=True).start()
sys.argv = ["gibramdb", "check-config", "nowhere.yaml"]
sys.exit(run())
"""


def test_what_a_command_ends_with_is_its_exit_status_whatever_runs_in_native_code() -> None:
    """As where a start is refused while a key is checked."""
    ended = subprocess.run([sys.executable, "-c", CHECKS_AND_FAILS], capture_output=True, text=True, check=False)
    assert ended.returncode == ConfigError.exit_code, ended.stderr


@TIMED
@pytest.mark.skipif(sys.platform != "linux", reason="only there a server sees what lies with the kernel")
def test_who_takes_the_end_of_a_large_answer_slowly_is_not_idle_meanwhile(tmp_path: Path) -> None:
    path = config_file(tmp_path, KEYS, security={"idle_timeout": "700ms"})
    with (
        Server(tmp_path / "data", "--config", path, mode="ephemeral") as server,
        Frames(server.port, "key-plain") as frames,
    ):
        frames.run(c.AddDocuments("s", (NewDocument("d"),)))
        texts = tuple(NewTextUnit(f"t{number}", 1, "x" * 1_000_000) for number in range(3))
        frames.run(c.AddTextUnits("s", texts))
        frames.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        frames.socket.sendall(encode_command(c.GetTextUnits("s", (1, 2, 3)), 7))
        began = time.monotonic()
        assert frames.reply(65_536, 0.05).cmd_type == N.TEXTUNITS_RESPONSE
        assert time.monotonic() - began > 2
        assert frames.ask(N.PING).cmd_type == N.PONG
        assert frames.is_closed(), "and then it is"


@pytest.mark.parametrize("output", ["stdout", "file"])
def test_insecure_says_on_stderr_what_it_switched_off_however_little_is_logged(tmp_path: Path, output: str) -> None:
    logging = {"output": output, "file": str(tmp_path / "log"), "level": "error"}
    path = config_file(tmp_path, KEYS, logging=logging)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that it ends by itself, after what it says first
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        arguments = command(tmp_path / "data", "--config", path, "--insecure", "--addr", address, mode="ephemeral")
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=180, check=False)
    told = ended.stderr.splitlines()
    assert told[0] == f"gibramdb: warning: --insecure drops auth.keys ({path}, line 1)."
    assert "nothing is encrypted and nobody is asked who they are" in told[1]
    assert (ended.stdout, len(told), "can not listen there" in told[2]) == ("", 3, True)


# --- keys bound to sessions -------------------------------------------------------------------------------------------


@pytest.fixture
def populated(server: Server) -> Server:
    with Frames(server.port, "key-hashed") as frames:
        for name in ("a-1", "a-2", "shared", "b-1", "a"):
            frames.run(c.AddDocuments(name, (NewDocument("d"),), bulk=False))
    return server


@pytest.mark.parametrize("id", ["a", "a-admin"])
def test_a_bound_key_sees_its_sessions_and_no_others(populated: Server, id: str) -> None:
    with Frames(populated.port, f"key-{id}") as frames:
        listed = pb.ListSessionsResponse.FromString(frames.ask(N.LIST_SESSIONS).payload).sessions
        assert [each.session_id for each in listed] == ["a-1", "a-2", "shared"]
        page = pb.ListSessionsResponse.FromString(frames.run(c.ListSessions("a-1", 1)).payload)
        assert ([each.session_id for each in page.sessions], page.next_cursor) == (["a-2"], "a-2")
        page = pb.ListSessionsResponse.FromString(frames.run(c.ListSessions("a-2", 1)).payload)
        assert ([each.session_id for each in page.sessions], page.next_cursor) == (["shared"], "")
        info = pb.InfoResponse.FromString(frames.ask(N.INFO).payload)
        assert (info.session_count, info.document_count) == (3, 3)
        assert set(pb.HealthResponse.FromString(frames.ask(N.HEALTH).payload).components) == {
            "engine", "backup", "session_store_mode", "session_store", "durable_state", "resource_pressure", "tokens",
        }  # fmt: skip
        for name in ("b-1", "a", "A-1", "shared2", "*"):
            refused = error_of(frames.ask(N.SESSION_INFO, session_id=name))
            assert refused == (1011, "permission denied: this key is not for this session"), name
        fresh = c.AddDocuments("a-new", (NewDocument("d"),), bulk=False)
        assert frames.run(fresh).cmd_type == N.OK
    with Frames(populated.port, "key-hashed") as frames:
        listed = pb.ListSessionsResponse.FromString(frames.ask(N.LIST_SESSIONS).payload).sessions
        assert {"a-1", "a-2", "shared", "b-1", "a", "a-new"} <= {each.session_id for each in listed}
        assert "wal_path" in pb.HealthResponse.FromString(frames.ask(N.HEALTH).payload).components
        frames.ask(N.DELETE_SESSION, session_id="a-new")


def test_a_bound_key_begins_no_more_sessions_than_it_may(populated: Server) -> None:
    def add(name: str) -> c.Command:
        return c.AddDocuments(name, (NewDocument(f"d of {time.monotonic()}"),), bulk=False)

    refused = (1006, "max sessions limit reached (4) for this key")
    with Frames(populated.port, "key-a-few") as frames, Frames(populated.port, "key-hashed") as admin:
        assert frames.run(add("a-new")).cmd_type == N.OK, "the fourth: two others are its own, and the shared one"
        assert error_of(frames.run(add("a-newer"))) == refused
        assert frames.run(add("a-1")).cmd_type == N.OK, "what is there already is no new one"
        assert error_of(frames.run(c.GetDocument("a-none", 1)))[0] == 1007, "and what begins none is not counted"
        inner = [encode_command(each, 9)[5:] for each in (add("a-new"), add("a-newer"))]
        reply = frames.ask(N.PIPELINE, pb.PipelineRequest(commands=inner).SerializeToString())
        replies = [pb.Envelope.FromString(body) for body in pb.PipelineRequest.FromString(reply.payload).commands]
        assert [error_of(each) for each in replies] == [(0, ""), refused]
        assert admin.run(add("b-new")).cmd_type == N.OK, "others go on"
        admin.ask(N.DELETE_SESSION, session_id="a-new")
        assert frames.run(add("a-newer")).cmd_type == N.OK
        for name in ("a-newer", "b-new"):
            admin.ask(N.DELETE_SESSION, session_id=name)


def health_of(port: int, key: str) -> tuple[str, str, str]:
    with Frames(port, key) as frames:
        health = pb.HealthResponse.FromString(frames.ask(N.HEALTH).payload)
    return health.status, health.components["durable_state"], health.components["resource_pressure"]


def test_a_bound_key_learns_nothing_of_how_much_others_hold(tmp_path: Path) -> None:
    total = 140_000 + 2 * session_bytes("a-1")
    path = config_file(tmp_path, KEYS, security={"max_memory_bytes": 100_000, "max_total_memory_bytes": total})
    with Server(tmp_path / "data", "--config", path) as server, Frames(server.port, "key-plain") as frames:
        well, filling = ("ok", "serving", "ok"), ("degraded", "degraded", "critical")
        frames.run(c.AddDocuments("b-1", (NewDocument("d", "x" * 95_000),), bulk=False))
        assert health_of(server.port, "key-plain") == filling
        assert health_of(server.port, "key-a") == well, "another's session is full"
        with Frames(server.port, "key-a") as bound:
            long = c.AddDocuments("a-1", (NewDocument("d", "x" * 60_000),), bulk=False)
            code, message = error_of(bound.run(long))
            assert (code, message) == (1006, "store memory quota exceeded: the store has no memory left for this")
            assert health_of(server.port, "key-a") == well
            bound.run(c.AddDocuments("a-1", (NewDocument("d", "x" * 40_000),), bulk=False))
        assert health_of(server.port, "key-a") == filling, "all together are"
        with Frames(server.port, "key-hashed") as admin:
            admin.ask(N.DELETE_SESSION, session_id="b-1")
        assert health_of(server.port, "key-a") == well
        with Frames(server.port, "key-a") as bound:
            bound.run(c.AddDocuments("a-1", (NewDocument("e", "x" * 55_000),), bulk=False))
        assert health_of(server.port, "key-a") == filling, "its own session is"
        server.stop()


def test_a_bound_key_is_bound_inside_of_a_pipeline_too(populated: Server) -> None:
    for outer, inner in (("a-1", "b-1"), ("b-1", "")):
        with Frames(populated.port, "key-a") as frames:
            body = encode_envelope(1, N.SESSION_INFO, b"", inner)
            payload = pb.PipelineRequest(commands=[body]).SerializeToString()
            reply = frames.ask(N.PIPELINE, payload, session_id=outer)
            (refused,) = map(pb.Envelope.FromString, pb.PipelineRequest.FromString(reply.payload).commands)
            assert error_of(refused)[0] == 1011
    with Frames(populated.port, "key-a") as frames:
        frames.socket.sendall(encode_pipeline([c.ListSessions(), c.GetSession("a-1")], 3))
        replies = [
            pb.Envelope.FromString(body) for body in pb.PipelineRequest.FromString(frames.reply().payload).commands
        ]
        names = [each.session_id for each in pb.ListSessionsResponse.FromString(replies[0].payload).sessions]
        assert names == ["a-1", "a-2", "shared"]
        assert replies[1].cmd_type == N.OK


def test_a_pipeline_needs_what_its_commands_need(populated: Server) -> None:
    with Frames(populated.port, "key-reader") as frames:
        frames.socket.sendall(encode_pipeline([c.GetSession("a-1"), c.TouchSession("a-1"), c.Ping()], 3))
        replies = [
            pb.Envelope.FromString(body) for body in pb.PipelineRequest.FromString(frames.reply().payload).commands
        ]
        assert [each.cmd_type for each in replies] == [N.OK, N.ERROR]
        assert error_of(replies[1]) == (1011, "permission denied: requires 'write' permission")
