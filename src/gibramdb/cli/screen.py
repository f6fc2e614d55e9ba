"""Where commands print what people read: a terminal, or a pipe or file that has no width."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from gibramdb.cli.visible import visible

_PIPE_WIDTH = 10_000


class Screen(Console):
    """Prints text as it is, wherever it stands: no markup, no emoji, no highlights, and no orders to the terminal.

    Nearly all that we print has data in it. What should look otherwise is given a style, and is text from
    `render_str` where it is put together; a `Text` made elsewhere would carry orders past us.
    """

    def __init__(self, *, width: int | None = None, soft_wrap: bool = False, stderr: bool = False) -> None:
        super().__init__(width=width, soft_wrap=soft_wrap, stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Every str that is printed comes by here: lines, cells, headings, titles."""
        return super().render_str(visible(text), **how)

    def status(self, status: RenderableType, **how: Any) -> Status:
        """As a Console's, which would take a str for markup whatever it was told."""
        return super().status(self.render_str(status) if isinstance(status, str) else status, **how)


def screen() -> Screen:
    """On standard output; on a terminal as wide as that is, elsewhere so wide that no value is cut short."""
    return Screen(soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
