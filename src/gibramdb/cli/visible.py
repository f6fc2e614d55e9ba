"""Text from elsewhere as it may be shown: spelled where it would give a terminal orders, or can not be encoded."""

from __future__ import annotations

import re

_ORDERS = re.compile("\r(?!\n)|[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters but tabs and ends of lines; and surrogates, which Python makes of bytes that are not UTF-8."""


def visible(text: str) -> str:
    r"""The same, with `\x1b` in place of an ESC. A backslash that was there stays as it is: this is for people."""
    return _ORDERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
