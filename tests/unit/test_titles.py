"""Titles, letter by letter: the quick way is the plain one."""

from __future__ import annotations

import sys
import time

from hypothesis import given
from hypothesis import strategies as st
from support.timing import TIMED, slowness

from gibramdb.core.titles import WHITE_SPACE, normalise_title

EXPANDING = [chr(n) for n in range(sys.maxunicode + 1) if len(chr(n).upper()) > 1]


def upper_one_to_one(letter: str) -> str:
    return next((each for each in (letter.upper(), letter.title()) if len(each) == 1), letter)


def test_each_letter_of_all_alone_and_beside_one_that_expands() -> None:
    assert len(EXPANDING) > 100
    for number in range(sys.maxunicode + 1):
        stored = f".{upper_one_to_one(chr(number))}."
        assert normalise_title(f".{chr(number)}.") == stored, hex(number)
    letters = "".join(map(chr, range(sys.maxunicode + 1)))
    assert normalise_title(f".{letters}.") == f".{''.join(map(upper_one_to_one, letters))}."


@given(st.text(st.one_of(st.sampled_from(EXPANDING), st.characters(exclude_categories=[]))))
def test_a_title_is_its_letters(title: str) -> None:
    assert normalise_title(title) == "".join(map(upper_one_to_one, title.strip(WHITE_SPACE)))


@TIMED
def test_two_million_letters_are_no_work() -> None:
    normalise_title("\u00df")
    began_s = time.thread_time()
    assert len(normalise_title("\u00df" * 2_000_000)) == 2_000_000
    assert time.thread_time() - began_s < 0.3 * slowness()
