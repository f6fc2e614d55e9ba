"""A program on a terminal of its own: what is typed into it, and what it shows."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

SECONDS_MAX = 120.0
PASTE_MARKS_ON = "\x1b[?2004h"
"""What prompt_toolkit tells a terminal once, each time that it begins to ask for a line."""

OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Becomes the command, once standard input is its controlling terminal."""


class Terminal:
    """The program has it as its controlling terminal, so that Ctrl-C reaches it as a signal where it should."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, pipe_output: bool = False) -> None:
        """pipe_output: standard output goes into a pipe and not to the screen."""
        self._ours, theirs = pty.openpty()
        self._theirs = os.dup(theirs)  # held, so that it can be asked after the program's end
        self.screen = ""
        """All that has been shown."""
        self._seen = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *command], stdin=theirs, stdout=subprocess.PIPE if pipe_output else theirs, stderr=theirs, text=True,
            env={**environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "120", "LINES": "40"},
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(SECONDS_MAX)
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._ours)
        os.close(self._theirs)

    def see(self, text: str) -> str:
        """Wait until this has been shown, behind what was seen last; all that was shown up to its end."""
        end = time.monotonic() + SECONDS_MAX
        while text not in self.screen[self._seen :]:
            assert time.monotonic() < end, self.screen[self._seen :]
            self._read(0.1)
        begin, self._seen = self._seen, self.screen.index(text, self._seen) + len(text)
        return self.screen[begin : self._seen]

    def see_prompt(self, text: str) -> None:
        """Wait until a line is asked for anew: with raw keys, so that Ctrl-C and Ctrl-D are keys like others."""
        self.see(PASTE_MARKS_ON)
        self.see(text)

    def type(self, text: str) -> None:
        """As on its keyboard."""
        os.write(self._ours, text.encode())

    def echoes(self) -> bool:
        """Whether it shows what is typed by itself."""
        return bool(termios.tcgetattr(self._theirs)[3] & termios.ECHO)

    def wait(self) -> int:
        """The exit status; everything it has shown is on the screen then."""
        end = time.monotonic() + SECONDS_MAX
        while self.process.poll() is None:
            assert time.monotonic() < end, self.screen
            self._read(0.1)
        while self._read(0):
            pass
        return self.process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        self.screen += os.read(self._ours, 65_536).decode(errors="replace")
        return True
