"""Coverage-guided fuzzing of what comes over the wire, of the server's end of a connection, of heavy frames, and of the
configuration.

    python tools/fuzz.py wire|connection|heavy|config [--seconds 300] [--corpus DIR]

Needs atheris: pip install 'gibramdb[fuzz]'. Prints executions and crashes, then runs the corpus once more and prints
the coverage it gives. What crashes is written to DIR/crash-...; a small one belongs, as hex, into
tests/fuzz/wire_corpus.txt or connection_corpus.txt, which a test replays.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
MEASURED = {
    "wire": "*/gibramdb/wire/*",
    "connection": "*/gibramdb/server/connection.py,*/gibramdb/server/auth.py,*/gibramdb/wire/*",
    "heavy": "*/gibramdb/server/connection.py,*/gibramdb/wire/*",
    "config": "*/gibramdb/config*.py",
}

SLACK = 2.5
"""By how much Python is slower while a fuzzer watches it."""


def fuzz(target: str, seconds: int, corpus: Path, artifacts: Path, folder: Path) -> None:
    """Does not return: the fuzzer ends the process."""
    import atheris  # noqa: PLC0415 -- an extra of its own

    with atheris.instrument_imports(include=["gibramdb", "yaml"]):
        run = target_in(target, folder).run
    options = [
        f"-max_total_time={seconds}", f"-artifact_prefix={artifacts}/", "-max_len=4096", "-len_control=0",
        "-timeout=60", "-rss_limit_mb=2048", "-print_final_stats=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], str(corpus), *options], lambda data: run(data) and None)
    atheris.Fuzz()


def target_in(target: str, folder: Path) -> Any:
    """What is run; imported here, to be instrumented or measured."""
    from support import connection_fuzzing, fuzzing, heavy_frames  # noqa: PLC0415 -- see above

    targets: dict[str, Callable[[Path], Any]] = {
        "wire": fuzzing.WireTarget, "connection": connection_fuzzing.ConnectionTarget, "config": fuzzing.ConfigTarget,
        "heavy": partial(heavy_frames.HeavyTarget, slack=SLACK),
    }  # fmt: skip
    return targets[target](folder)


def plant(target: str, corpus: Path) -> None:
    """Something for a fuzzer to begin with, the same each time."""
    from support import connection_fuzzing, fuzzing, heavy_frames  # noqa: PLC0415 -- as above

    seeds = {
        "wire": fuzzing.wire_seeds, "connection": connection_fuzzing.connection_seeds, "config": fuzzing.config_seeds,
        "heavy": heavy_frames.heavy_seeds,
    }  # fmt: skip
    kept = ROOT / "tests" / "fuzz" / f"{target}_corpus.txt"
    lines = kept.read_text().split() if kept.exists() else []
    inputs = itertools.chain(seeds[target](), map(bytes.fromhex, lines))
    for number, content in enumerate(inputs):
        (corpus / f"seed-{number:04}").write_bytes(content)


def replay(target: str, corpus: Path, folder: Path) -> None:
    """Run every file of a corpus once."""
    one = target_in(target, folder)
    for file in sorted(corpus.iterdir()):
        one.run(file.read_bytes())


def _fuzz_and_measure(target: str, seconds: int, corpus: Path) -> int:
    from support.fuzzing import quick_directory  # noqa: PLC0415 -- as above

    data_file = corpus.parent / f"{target}.coverage"
    environment = {**os.environ, "COVERAGE_FILE": str(data_file), "COVERAGE_CORE": "ctrace"}
    measured = [sys.executable, "-m", "coverage"]
    with quick_directory() as folder:
        again = [
            __file__, target, "--corpus", str(corpus), "--seconds", str(seconds), "--folder", str(folder), "--only",
        ]  # fmt: skip
        status = subprocess.run([sys.executable, *again, "fuzz"], check=False).returncode
        subprocess.run(
            [*measured, "run", "--branch", f"--include={MEASURED[target]}", "--omit=*_pb2.py", *again, "replay"],
            check=True, env=environment,
        )  # fmt: skip
    subprocess.run([*measured, "report"], check=True, env=environment)
    return status


def main() -> int:
    """Fuzz in a process of its own, then measure."""
    logging.disable(logging.CRITICAL)
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(MEASURED))
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["fuzz", "replay"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    corpus: Path = asked.corpus or ROOT / "build" / "fuzz" / asked.target
    artifacts = corpus.parent / f"{asked.target}-crashes"
    for folder in (corpus, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    if asked.only == "fuzz":
        fuzz(asked.target, asked.seconds, corpus, artifacts, asked.folder)
    if asked.only == "replay":
        replay(asked.target, corpus, asked.folder)
        return 0
    plant(asked.target, corpus)
    status = _fuzz_and_measure(asked.target, asked.seconds, corpus)
    crashes = sorted(file.name for file in artifacts.iterdir())
    print(f"{len(crashes)} files in {artifacts}: {' '.join(crashes)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
