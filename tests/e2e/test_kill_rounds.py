"""A server killed with SIGKILL at random moments under load from eight connections, again and again on the same store."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from support.ledger import VECTOR_DIM, Ledger
from support.server import Server

CONNECTIONS = 8


def rounds(directory: Path, count: int, seed: int) -> Ledger:
    chance = random.Random(seed)
    ledger = Ledger()
    torn_starts = 0
    slowest_start_s = 0.0
    for turn in range(count):
        began = time.monotonic()
        with Server(directory, "--dim", str(VECTOR_DIM)) as server:  # raises if the start is refused
            slowest_start_s = max(slowest_start_s, time.monotonic() - began)
            torn_starts += any("never acknowledged" in line for line in server.lines)
            with server.connect() as store:
                assert ledger.settle(store) == [], f"seed {seed}, round {turn}"
                stop = threading.Event()
                writers = [
                    threading.Thread(
                        target=ledger.write, args=(store, f"{turn}-{number}", chance.randrange(2**32), stop)
                    )
                    for number in range(CONNECTIONS)
                ]
                for writer in writers:
                    writer.start()
                time.sleep(chance.uniform(0.02, 0.5))
                server.kill()
                stop.set()
                for writer in writers:
                    writer.join()
    with Server(directory, "--dim", str(VECTOR_DIM)) as server, server.connect() as store:
        assert ledger.settle(store) == [], f"seed {seed}, after the last round"
        assert server.stop() < 5
    print(
        f"\n{count} rounds of kill -9 under {CONNECTIONS} connections, seed {seed}: {ledger.acknowledged} changes "
        f"acknowledged, 0 lost, 0 starts refused, {torn_starts} starts cut a torn tail, "
        f"slowest start {slowest_start_s:.2f} s with {len(ledger.entities)} entities"
    )
    return ledger


def test_nothing_acknowledged_is_lost_in_five_rounds(tmp_path: Path) -> None:
    assert rounds(tmp_path / "data", 5, random.randrange(2**32)).acknowledged > 500


@pytest.mark.sweep
def test_nothing_acknowledged_is_lost_in_a_hundred_rounds(tmp_path: Path) -> None:
    assert rounds(tmp_path / "data", 100, random.randrange(2**32)).acknowledged > 10_000
