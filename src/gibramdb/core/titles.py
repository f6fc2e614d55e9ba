"""How names are compared: which are blank, and the one form in which a title is stored."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import numpy.typing as npt

# The white space that GibRAM trims. Python's own `strip()` also takes U+001C to U+001F, which GibRAM keeps.
WHITE_SPACE = (
    "\t\n\v\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


def is_blank(text: str) -> bool:
    """Whether nothing is left after trimming."""
    return not text.strip(WHITE_SPACE)


def normalise_title(title: str) -> str:
    """Trimmed, and upper-cased letter by letter with the one-to-one mapping.

    `str.upper` alone would expand some letters (one sharp s becomes two letters), and titles that GibRAM keeps apart
    would become equal. The stored form is what counts: a newer Unicode table never touches it again.
    """
    trimmed = title.strip(WHITE_SPACE)
    upper = trimmed.upper()
    if len(upper) == len(trimmed):
        return upper  # no letter was expanded, and none ever shrinks
    # By numbers, because a title may have two million letters, and everybody waits.
    letters = np.frombuffer(trimmed.encode("utf-32-le", "surrogatepass"), "<u4")
    return str(_one_to_one()[letters].tobytes(), "utf-32-le", "surrogatepass")


@cache
def _one_to_one() -> npt.NDArray[np.uint32]:
    """What each code point becomes; made once, in some 20 ms."""
    table = np.arange(sys.maxunicode + 1, dtype="<u4")
    everything = table.tobytes().decode("utf-32-le", "surrogatepass")
    for start in range(0, len(everything), 256):
        block = everything[start : start + 256]
        if block.upper() != block:
            table[start : start + 256] = [ord(_upper_one_to_one(letter)) for letter in block]
    return table


def _upper_one_to_one(letter: str) -> str:
    upper = letter.upper()
    if len(upper) == 1:
        return upper
    titled = letter.title()
    return titled if len(titled) == 1 else letter
