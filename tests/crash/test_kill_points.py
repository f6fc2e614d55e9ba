"""A process that saves, checkpoints or restores, killed at each of its system calls on files: nothing kept is lost.

strace ends the process on entering a call of one of the two threads that touch the disk, for every such call. Then the store
is opened again: after a checkpoint or a save it holds what it held, after a restore the old state or the new one and never
a mixture; and it takes the next write, and the next checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.strace import needs_strace

import gibramdb
from gibramdb import NewDocument, NewEntity, NewTextUnit, Session

ON_FILES = "%file,%desc"
SAMPLES = 4
"""In the short run: so many calls of each thread in each operation, from its first to its last."""

PROGRAM = """
import json, sys, threading, time
import numpy.ma  # which numpy takes in when it is first needed
import gibramdb

db = gibramdb.open(sys.argv[1], vector_dim=8)
db.truncate_log()  # begins the snapshots' thread, and changes nothing
print(json.dumps({thread.name: thread.native_id for thread in threading.enumerate()}), flush=True)
sys.stdin.readline()
match sys.argv[2]:
    case "checkpoint":
        db.checkpoint()
    case "save":
        db.save("new-copy")
    case "restore":
        db.restore_in_background("copy")
        while db.backup_status().in_progress:
            time.sleep(0.002)
        assert not db.backup_status().error, db.backup_status().error
print("done", flush=True)
sys.stdin.readline()
"""


def furnish(session: Session) -> None:
    """Some of each kind."""
    session.add_documents([NewDocument("d1"), NewDocument("d2")])
    session.add_entities([NewEntity(f"e{n}", f"e{n}", embedding=[float(n)] * 8) for n in range(1, 6)])
    session.add_relationship(1, 2, "knows")
    session.add_textunits([NewTextUnit("t", 1, "text", [1.0] * 8)])
    session.link(1, 1)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three snapshots, so that the next drops one, a copy of what it held once, and a log behind."""
    data = tmp_path_factory.mktemp("template") / "data"
    with gibramdb.open(data, vector_dim=8) as db:
        for name in ("a", "b", "c"):
            furnish(db.session(name))
            db.checkpoint()
        db.save("copy")
        furnish(db.session("d"))
        db.session("a").delete_relationship(1)
    return data


def digest_of(data: Path) -> Any:
    """What a start gives; it must then go on: a write, a checkpoint, and all of that again."""
    with gibramdb.open(data, vector_dim=8) as db:
        found = db.digest()
        assert "This start found no" not in db.health().components["warnings"], "a crash is no loss"
        furnish(db.session("after"))
        db.checkpoint()
        after = db.digest()
    with gibramdb.open(data, vector_dim=8) as db:
        assert db.digest() == after
    return found


class Run:
    """The program, and strace on one of its threads."""

    def __init__(self, data: Path, operation: str, thread: str, *strace: str) -> None:
        self.program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(data), operation],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.program.stdout is not None
        ids: dict[str, int] = json.loads(self.program.stdout.readline())
        self.tracer = subprocess.Popen(
            ["strace", "-p", str(ids[thread]), "-e", f"trace={ON_FILES}", "-e", "signal=none", *strace],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.tracer.stderr is not None
        assert "attached" in self.tracer.stderr.readline()

    def go(self) -> bool:
        """Whether it came to its end. It is killed there too, so that no stop tidies up."""
        assert self.program.stdin is not None
        assert self.program.stdout is not None
        try:
            self.program.stdin.write("go\n")
            self.program.stdin.flush()
            return self.program.stdout.readline() == "done\n"
        finally:
            self.program.kill()
            self.program.wait(60)
            self.tracer.wait(60)
            self.program.stdin.close()
            self.program.stdout.close()
            assert self.tracer.stderr is not None
            self.tracer.stderr.close()


def calls_made(template: Path, folder: Path, operation: str, thread: str) -> tuple[list[tuple[str, int]], Any]:
    """Name of each call, and how many of that name it makes up; and what the store holds afterwards."""
    data, output = folder / "whole", folder / "calls"
    shutil.copytree(template, data)
    assert Run(data, operation, thread, "-o", str(output)).go()
    seen: Counter[str] = Counter()
    calls = []
    for line in output.read_text().splitlines():
        if found := re.match(r"(\w+)\(", line):
            seen[found[1]] += 1
            calls.append((found[1], seen[found[1]]))
    return calls, digest_of(data)


def sweep(template: Path, folder: Path, operation: str, thread: str, samples: int | None = None) -> int:
    """Kills at every call, or at some between the first and the last; returns how many were."""
    shutil.copytree(template, folder / "before")
    before = digest_of(folder / "before")
    calls, whole = calls_made(template, folder, operation, thread)
    assert (whole == before) == (operation != "restore")
    killed = 0
    for call, number in calls if samples is None else calls[:: max(1, (len(calls) - 1) // (samples - 1))]:
        data = folder / f"{call}-{number}"
        shutil.copytree(template, data)
        # strace counts the calls of each name by themselves.
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        killed += not Run(data, operation, thread, "-o", "/dev/null", "-e", inject).go()
        assert digest_of(data) in (before, whole), f"{operation}, {call} {number} of {thread}"
        shutil.rmtree(data)
    return killed


OPERATIONS = pytest.mark.parametrize("operation", ["checkpoint", "save", "restore"])
THREADS = pytest.mark.parametrize("thread", ["gibramdb-snapshot", "gibramdb-log"])


@needs_strace
@OPERATIONS
@THREADS
def test_killed_at_some_system_calls(template: Path, tmp_path: Path, operation: str, thread: str) -> None:
    assert sweep(template, tmp_path, operation, thread, SAMPLES) >= SAMPLES - 1


@needs_strace
@pytest.mark.sweep
@OPERATIONS
@THREADS
def test_killed_at_every_system_call(
    template: Path, tmp_path: Path, operation: str, thread: str, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = sweep(template, tmp_path, operation, thread)
    with capsys.disabled():
        print(f"\n{operation}: killed at {killed} system calls of {thread}, nothing lost")
    assert killed > 5
