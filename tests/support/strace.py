"""Delays and faults of system calls, put into a real process by strace."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def _why_not() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fdatasync:delay_enter=1", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=180, check=False)
    return "" if done.returncode == 0 else f"strace can not trace here: {done.stderr.strip()}"


WHY_NOT = _why_not()
needs_strace = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def strace(*expressions: str, trace: str = "fdatasync", output: str = "/dev/null") -> list[str]:
    """A command to put before another. `when=` in an expression counts the calls of each thread by itself."""
    arguments = ["strace", "-f", "-qq", "-o", output, "-e", f"trace={trace}", "-e", "signal=none"]
    for expression in expressions:
        arguments += ["-e", expression]
    return arguments
