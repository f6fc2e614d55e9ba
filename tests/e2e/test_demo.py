"""The demo, small: the whole story, and the exit status that `make demo` stands for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_demo_loses_nothing_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo", "--countries", "8", "--data", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing was lost." in done.stdout
    lines = [line for line in done.stdout.splitlines() if "│ lost" in line]
    assert len(lines) == 1
    assert lines[0].split("│")[2].strip() == "0"
    assert " borders " in done.stdout
    assert " is a member of " in done.stdout
    assert (tmp_path / "demo" / "ledger.txt").stat().st_size > 1_000


def test_it_does_not_empty_a_directory_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("five years of work")
    command = [sys.executable, "-m", "demo", "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 64
    assert (tmp_path / "thesis.txt").read_text() == "five years of work"
