"""Where commands print what people read: a terminal, or a pipe or file that has no width."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPE_WIDTH = 10_000


def screen() -> Console:
    """On standard output; on a terminal as wide as that is, elsewhere so wide that no value is cut short."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
