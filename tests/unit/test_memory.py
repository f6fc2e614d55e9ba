"""What memory there is, as the kernel tells it, and what a state takes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.owned_store import OwnedStore

from gibramdb import NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.core.dump import FrozenSession
from gibramdb.core.state import StoreState
from gibramdb.database import recovery
from gibramdb.database.memory import available_bytes, needed_bytes
from gibramdb.model import commands as c
from gibramdb.storage import record
from gibramdb.storage.snapshot import Section

MIB = 1024 * 1024


def kernel(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


MACHINE = {"proc/meminfo": "MemTotal: 9999999 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\nCached: 7 kB"}
UNIFIED = {
    "proc/self/cgroup": "0::/a/b",
    "sys/fs/cgroup/a/memory.max": str(3 * MIB),
    "sys/fs/cgroup/a/memory.current": str(2 * MIB),
    "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 100\nactive_file 9",
    "sys/fs/cgroup/a/b/memory.max": "max",
    "sys/fs/cgroup/a/b/memory.current": str(MIB),
}
FIRST_VERSION = {
    "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/not/seen/from/here\n0::/",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": str(MIB),
    "sys/fs/cgroup/memory/memory.usage_in_bytes": str(2 * MIB),
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        (MACHINE, 2 * MIB),
        (UNIFIED, MIB + 100),
        (MACHINE | UNIFIED, MIB + 100),
        (MACHINE | FIRST_VERSION, 0),
    ],
)
def test_the_least_that_anybody_leaves(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    assert available_bytes(kernel(tmp_path, files)) == expected


def test_the_estimate_is_near_what_a_state_takes() -> None:
    store = OwnedStore(durable=False, flags={"server.vector_dim": "128"})
    row = np.arange(128, dtype="<f4").tobytes()
    for number in range(3):
        name = f"s{number}"
        store.run(c.AddDocuments(name, (NewDocument("d"),)))
        for begin in range(0, 4_000, 1_000):
            numbers = range(begin, begin + 1_000)
            store.run(c.AddTextUnits(name, tuple(NewTextUnit(f"t{n}", 1, "text " * 50, row) for n in numbers)))
            store.run(c.AddEntities(name, tuple(NewEntity(f"e{n}", f"e{n}", "k", "said", row) for n in numbers)))
            store.run(c.AddRelationships(name, tuple(NewRelationship(n + 1, n + 1, f"r{n}") for n in numbers)))
    held = []
    for session in store.state.sessions.values():
        frozen = FrozenSession(session)
        payloads = [record.encode(mutation) for mutation in frozen.dump()]
        length = sum(map(len, payloads)) + 8 * len(payloads)
        held.append((Section(frozen.session_id, 1, 0, 0, length, 0, len(payloads), frozen.objects), payloads))
    store.close()
    state = StoreState(128)
    tracemalloc.start()
    try:
        for section, payloads in held:
            recovery.load_section(state, Path("pack"), section, payloads)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    estimate = needed_bytes(section for section, _ in held)
    print(f"estimated {estimate:,}, taken {taken:,}")
    assert 0.8 * taken <= estimate <= 1.5 * taken
