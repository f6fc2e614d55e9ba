"""Bytes of any kind to the server's end of a connection, and the operator's commands on files of a temporary directory.

What must hold for each run is in `support/connection_fuzzing.py`; `make fuzz` runs the same with a coverage-guided fuzzer.
"""

from __future__ import annotations

import asyncio
import gc
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.connection_fuzzing import SHOWN, ConnectionTarget, Line, connection_seeds
from support.fuzzing import quick_directory

from gibramdb.clock import SystemClock
from gibramdb.config import load_config
from gibramdb.database.opening import open_store
from gibramdb.errors import GibramError
from gibramdb.model import commands as c
from gibramdb.server.app import Server
from gibramdb.server.auth import Gate
from gibramdb.server.connection import Connection
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.framing import FrameReader, encode_envelope, encode_frame

CORPUS = Path(__file__).parent / "connection_corpus.txt"
SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MODES = st.integers(0, 15)


@pytest.fixture(scope="module")
def connection() -> Iterator[ConnectionTarget]:
    with quick_directory() as folder:
        target = ConnectionTarget(folder)
        yield target
        target.close()


@SETTINGS
@given(mode=MODES, data=st.binary(max_size=300))
def test_whatever_arrives_is_answered_or_ends_the_connection(
    connection: ConnectionTarget, mode: int, data: bytes
) -> None:
    connection.run(bytes((mode,)) + data)


@SETTINGS
@given(mode=MODES, shown=st.integers(0, len(SHOWN) - 1), seed=st.integers(0, 2**32), size=st.integers(20, 900))
def test_whoever_shows_a_key_gets_what_it_may_and_no_more(
    connection: ConnectionTarget, mode: int, shown: int, seed: int, size: int
) -> None:
    connection.run(bytes((mode, 7, shown, 0, 1)) + random.Random(seed).randbytes(size))


def test_every_command_of_the_operators_is_carried_out_and_refused_by_some_bytes(connection: ConnectionTarget) -> None:
    """Otherwise the fuzzing would stop at the door."""
    found: Counter[tuple[type[c.Command], bool]] = Counter()
    for number, data in enumerate(connection_seeds()):
        if number % 5 in {0, 1} and data[0] & 4 == 0:
            for command, answer in connection.run(data):
                found[type(command), isinstance(answer, GibramError)] += 1
    for kind in (c.Save, c.BackgroundSave, c.Restore, c.Checkpoint, c.RotateLog, c.TruncateLog):
        assert found[kind, False], f"{kind.__name__} was always refused"
        assert found[kind, True], f"{kind.__name__} was never refused"


@pytest.mark.parametrize("has_key", [False, True], ids=["no keys", "a key"])
def test_what_can_not_be_decoded_leaves_no_ring_of_objects(tmp_path: Path, has_key: bool) -> None:
    """A server's collector leaves alone what has stayed once: there a ring would stay for good."""
    nonsense = [
        encode_envelope(1, N.ADD_ENTITY, b"\xff", "s"),
        encode_envelope(2, N.GET_ENTITY, b"", ""),
        encode_envelope(3, 9_999, b"", "s"),
        encode_envelope(4, N.PIPELINE, b"\xff"),
        encode_envelope(5, N.AUTH, b"\xff"),
    ]
    pipelines = [pb.PipelineRequest(commands=[each]).SerializeToString() for each in nonsense]
    frames = [encode_frame(each) for each in nonsense]
    frames += [encode_frame(encode_envelope(6, N.PIPELINE, payload)) for payload in pipelines]
    environment = {"GIBRAMDB_AUTH__KEYS": '[{"id": "k", "key": "secret", "permissions": ["admin"]}]'} if has_key else {}
    config = load_config(environment=environment, flags={"server.data_dir": str(tmp_path)})

    async def counted() -> int:
        loop = asyncio.get_running_loop()

        def post(call: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(call)

        store = open_store(config, SystemClock(), post)
        server = Server(config)
        server.database = store.database
        server.gate = Gate(config.auth.keys, 10**6, 10**6) if has_key else None
        assert server.admission.enter("127.0.0.1")
        connection = Connection(server, "127.0.0.1", SystemClock().steady_us())
        line = Line(connection, socket.socket(), is_encrypted=False)
        connection.connection_made(line)
        if has_key:
            line.deliver(encode_frame(encode_envelope(9, N.AUTH, pb.AuthRequest(api_key="secret").SerializeToString())))
        gc.disable()
        try:
            for _ in range(2):  # whatever is made once only is there after the first time
                gc.collect()
                for frame in frames:
                    line.deliver(frame)
                    await asyncio.sleep(0)
            rings = gc.collect()
        finally:
            gc.enable()
            store.close()
        answers = FrameReader(1 << 20)
        answers.feed(bytes(line.written))
        replies = [pb.Envelope.FromString(body) for body in iter(answers.next_frame, None)]
        assert sum(reply.cmd_type in (N.ERROR, N.PIPELINE_RESPONSE) for reply in replies) == 2 * len(frames)
        return rings

    assert asyncio.run(counted()) == 0


def test_what_a_fuzzer_kept_is_served_as_ever(connection: ConnectionTarget) -> None:
    """Inputs that a coverage-guided run came upon, the shortest that together reached what it reached."""
    for line in CORPUS.read_text().split():
        connection.run(bytes.fromhex(line))
