"""A durable store driven step by step from one thread, on a disk that forgets and a clock that obeys."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable
from pathlib import Path

from support.faulty_disk import FaultyDisk

from gibramdb.config import load_config
from gibramdb.core.digest import state_digest
from gibramdb.core.state import StoreState
from gibramdb.database.answers import Answer
from gibramdb.database.database import Database
from gibramdb.database.opening import OpenStore, open_store
from gibramdb.model.commands import Command

ROOT = Path("/stores")
VECTOR_DIM = 3
ANSWER_SECONDS_MAX = 120.0


class FakeClock:
    """Both clocks, moved by hand, together."""

    def __init__(self) -> None:
        self.ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def steady_ms(self) -> int:
        return self.ms

    def steady_us(self) -> int:
        return self.ms * 1000


class SteppingClock(FakeClock):
    """Each look at the short time says that 10 ms have passed: whatever takes turns gets little done in each."""

    def steady_us(self) -> int:
        self.ms += 10
        return super().steady_us()


class OwnedStore:
    """A store and everything it stands on."""

    def __init__(
        self, *, durable: bool = True, flags: dict[str, str] | None = None, clock: FakeClock | None = None
    ) -> None:
        settings = {"server.data_dir": str(ROOT / "data"), "server.vector_dim": str(VECTOR_DIM), **(flags or {})}
        settings["session_store.mode"] = "durable" if durable else "ephemeral"
        self.clock = clock or FakeClock()
        self.disk = FaultyDisk(ROOT)
        self._config = load_config(None, flags=settings)
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._store = self._open()

    def _open(self) -> OpenStore:
        self._posted = queue.SimpleQueue()
        store = open_store(self._config, self.clock, self._posted.put, self.disk)
        said = store.database.facts.warnings
        assert not any(each.startswith("This start found no") for each in said), "no crash is taken for a loss"
        return store

    def run(self, command: Command) -> Answer:
        """The command's answer, once it may be shown."""
        answers = self.start(command)
        while not answers:
            self.turn()
        return answers[0]

    def start(self, command: Command) -> list[Answer]:
        """Hand a command in; the answer will be in the list, once enough turns have passed."""
        answers: list[Answer] = []
        self._store.database.submit(command, answers.append)
        return answers

    def start_restore(self) -> list[Answer]:
        """Restore a copy in which there is nothing; copies lie on real disks, and this store does not."""
        answers: list[Answer] = []
        snapshots = self.database.snapshots
        assert snapshots is not None
        snapshots._files.load = lambda *_: (StoreState(VECTOR_DIM), 0)  # type: ignore[method-assign]
        snapshots._ask("restore", "nothing", lambda answer, _lsn: answers.append(answer))
        return answers

    def turn(self) -> None:
        """One call that a thread of the store has posted to its owner."""
        self._posted.get(timeout=ANSWER_SECONDS_MAX)()

    def sweep(self) -> None:
        """End what is over."""
        self._store.database.expire_sessions()

    @property
    def database(self) -> Database:
        """The store as one thing."""
        return self._store.database

    @property
    def state(self) -> StoreState:
        """What it holds."""
        return self._store.database.state

    def digest(self) -> str:
        """Over all that is canonical."""
        return state_digest(self.state.sessions.values())[0]

    def reopen(self) -> None:
        """A clean stop and a start."""
        self._store.close()
        self._store = self._open()

    def cut_the_power(self, seed: int) -> None:
        """What was not synced is in any state; then a start on what is left."""
        left = self.disk.after_power_cut(random.Random(seed))
        self._store.close()  # on the old disk, which nobody looks at any more
        self.disk = left
        self._store = self._open()

    def kill(self) -> None:
        """The process is gone, the kernel is not."""
        left = self.disk.after_kill()
        self._store.close()
        self.disk = left
        self._store = self._open()

    def close(self) -> None:
        """The end."""
        self._store.close()
