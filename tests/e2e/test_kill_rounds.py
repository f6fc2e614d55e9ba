"""A server killed with SIGKILL at random moments under load from eight connections, again and again on the same store.

In some rounds the next start is killed too, before or just after it serves: recovery must stand being cut short.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.ledger import Ledger
from support.server import RefusedError, Server, command

CONNECTIONS = 8
START_SECONDS = 0.6
"""About how long a start takes; the kill of a start falls anywhere in it."""


@dataclass
class Tally:
    """What a run of rounds came to."""

    ledger: Ledger = field(default_factory=Ledger)
    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    starts_killed: int = 0
    torn_bytes: int = 0
    slowest_start_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.ledger.acknowledged} changes acknowledged, {self.ledger.found} present at the end as they must be, "
            f"{len(self.lost)} lost, {len(self.refused)} starts refused, {self.starts_killed} starts killed, "
            f"{self.torn_bytes} torn bytes cut, slowest start {self.slowest_start_s:.2f} s"
        )


def kill_a_start(directory: Path, seconds: float) -> None:
    starting = subprocess.Popen(command(directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    starting.kill()
    starting.wait(60)


def load_and_kill(server: Server, ledger: Ledger, turn: int, chance: random.Random) -> None:
    with server.connect() as store:
        stop = threading.Event()
        writers = [
            threading.Thread(target=ledger.write, args=(store, f"{turn}-{number}", chance.randrange(2**32), stop))
            for number in range(CONNECTIONS)
        ]
        for writer in writers:
            writer.start()
        time.sleep(chance.uniform(0.02, 0.5))
        server.kill()
        stop.set()
        for writer in writers:
            writer.join()


def rounds(directory: Path, count: int, seed: int) -> Tally:
    chance = random.Random(seed)
    tally = Tally()
    print(f"\n{count} rounds of kill -9 under {CONNECTIONS} connections, seed {seed}")
    for turn in range(count + 1):
        began = time.monotonic()
        try:
            server = Server(directory)
        except RefusedError as error:
            tally.refused.append(f"round {turn}: {error}")
            break
        tally.slowest_start_s = max(tally.slowest_start_s, time.monotonic() - began)
        with server:
            with server.connect() as store:
                tally.torn_bytes += int(store.health().components["recovery_bytes_truncated"])
                tally.lost += [f"round {turn}: {what}" for what in tally.ledger.settle(store)]
            if turn == count:
                assert server.stop() < 5
                break
            load_and_kill(server, tally.ledger, turn, chance)
        if chance.random() < 0.3:
            kill_a_start(directory, chance.uniform(0.1, 2 * START_SECONDS))
            tally.starts_killed += 1
    print(tally)
    assert tally.lost == []
    assert tally.refused == []
    return tally


def test_nothing_acknowledged_is_lost_in_five_rounds(tmp_path: Path) -> None:
    assert rounds(tmp_path / "data", 5, random.randrange(2**32)).ledger.acknowledged > 500


@pytest.mark.sweep
def test_nothing_acknowledged_is_lost_in_a_hundred_rounds(tmp_path: Path) -> None:
    assert rounds(tmp_path / "data", 100, random.randrange(2**32)).ledger.acknowledged > 10_000
