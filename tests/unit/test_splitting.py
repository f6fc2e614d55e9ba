"""A passage of Markdown says something: a heading goes with its text, and marks around nothing are nothing."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.timing import TIMED, slowness

from gibramdb.pipeline import SemanticSplitter
from gibramdb.pipeline.protocols import Kind
from gibramdb.pipeline.splitting import BLOCK_CHARS_MAX, PASSAGE_CHARS_MAX, _blocks

LONG = "The council of the town met the mayor of the port about salt fish. " * 30
"""Longer than a passage may be, so that the library cuts a heading off from it."""


def passages(text: str) -> list[str]:
    return SemanticSplitter().split(text, "markdown")


@pytest.mark.parametrize(
    "headings",
    ["# One", "### One ###", "# One\n\n## Two\n\n### Three", "One\n===", "One\n---", "   ## One", "# One\n\nTwo\n---"],
)
def test_a_heading_goes_with_what_follows_it(headings: str) -> None:
    first, *others = passages(f"{headings}\n\n{LONG}")
    assert first.lstrip().startswith(f"{headings.strip()}\n\nThe council")
    assert not [each for each in others if "One" in each]


def test_a_heading_goes_with_its_own_section() -> None:
    found = passages(f"# One\n\n{LONG}\n\n## Two\n\n{LONG}")
    assert [each.partition("\n")[0] for each in found if each.startswith("#")] == ["# One", "## Two"]
    assert not [each for each in found if each.endswith("Two")]


@pytest.mark.parametrize(
    "marks", ["```\n```", "```python\n\n```", "~~~\n~~~", "---", "* * *", "___", "#", "```\n\n```\n\n---"]
)
def test_marks_around_nothing_are_nothing(marks: str) -> None:
    assert not [each for each in passages(f"{LONG}\n\n{marks}\n\n{LONG}\n\n{marks}") if "fish" not in each]
    assert passages(marks) == []


@pytest.mark.parametrize("code", ["# a comment", "x = 1", "---", "One\n---"])
def test_a_fence_that_holds_something_is_kept_whole(code: str) -> None:
    fenced = f"```python\n{code}\n```"
    assert fenced in "\n\n".join(passages(f"{LONG}\n\n{fenced}\n\n{LONG}"))


def test_a_long_fence_leaves_no_passage_of_its_mark_alone() -> None:
    found = passages("```python\n" + "print('salt fish')\n" * 200 + "```")
    assert len(found) > 1
    assert sum(each.count("print") for each in found) == 200
    assert not [each for each in found if "print" not in each]


def test_headings_that_nothing_follows_are_kept() -> None:
    assert passages("# One\n\n## Two") == ["# One\n\n## Two"]
    assert passages(f"{LONG}\n\n## Two")[-1].endswith("fish.\n\n## Two")
    outline = [f"## Chapter {number}" for number in range(300)]
    assert re.findall(r"## Chapter \d+", "\n".join(passages("\n\n".join(outline)))) == outline


def test_plain_text_is_left_as_it_is() -> None:
    assert SemanticSplitter().split("# no heading\n\n---\n", "text") == ["# no heading\n\n---"]


blocks = st.one_of(
    st.builds(
        lambda level, word: f"{'#' * level} {word}", st.integers(1, 6), st.text("abc ", min_size=1, max_size=300)
    ),
    st.builds(lambda count: " ".join(f"word{number}" for number in range(count)), st.integers(1, 300)),
    st.builds(lambda count: "```\n" + "x = 1\n" * count + "```", st.integers(0, 400)),
    st.sampled_from(["---", "Title\n===", "```", "#", "- a\n- b"]),
)


@given(st.lists(blocks, max_size=8).map("\n\n".join), st.integers(2, PASSAGE_CHARS_MAX))
def test_no_word_is_lost_and_no_passage_is_too_long(text: str, chars_max: int) -> None:
    found = SemanticSplitter(min(400, chars_max), chars_max).split(text, "markdown")
    assert all(each and len(each) <= chars_max for each in found)
    assert re.findall(r"\w", "".join(found)) == re.findall(r"\w", text)


@TIMED
@pytest.mark.parametrize("kind", ["text", "markdown"])
def test_a_long_line_takes_no_longer_than_many_short_ones(kind: Kind) -> None:
    """A picture inside a page, or a log without line ends. Its length squared would be 4 s."""
    line = "x" * 500_000
    began = time.monotonic()
    found = SemanticSplitter().split(line, kind)
    assert time.monotonic() - began < 2 * slowness(time.monotonic)
    assert "".join(found) == line
    assert max(map(len, found)) <= PASSAGE_CHARS_MAX


@pytest.mark.parametrize(("between", "kind"), [("\n\n## Next\n\n", "markdown"), ("\n\n", "text"), ("\n", "text")])
def test_a_large_document_is_cut_where_a_small_one_would_be(between: str, kind: Kind) -> None:
    parts = [f"{number}: {LONG[:1_000].rstrip()}" for number in range(200)]
    found = SemanticSplitter().split(between.join(parts), kind)
    begins = [each.removeprefix("## Next\n\n") for each in found]
    numbered = [each for each in begins if each[:1].isdigit()]
    assert numbered[:-1] == parts[:-1], "none is cut in two, none is lost; the library cuts the last in another way"


def test_of_a_text_without_paragraphs_whole_sentences_and_words_are_kept() -> None:
    for sentence in ("The council met the mayor of the port. ", "council "):
        found = SemanticSplitter().split(sentence * 10_000, "text")
        assert all(each.endswith(sentence.strip()[-3:]) and each.startswith(sentence[:3]) for each in found)
        assert sum(each.count("council") for each in found) == 10_000


@pytest.mark.parametrize(("opens", "closes"), [("```", "```"), ("```sh", "````"), ("  ~~~", "~~~~"), ("````", "````")])
def test_a_large_document_is_not_cut_inside_a_fence(opens: str, closes: str) -> None:
    """A comment in a script looks like a heading."""
    code = f"{opens}\n# first\nmake setup\n\n# then\nmake test\n{closes}"
    sections = [f"## Section {number}\n\n{LONG[: 400 + number % 97].rstrip()}\n\n{code}" for number in range(400)]
    found = passages("\n\n".join(sections))
    assert sum(each.count(code.strip()) for each in found) == 400
    assert [each for each in found if "## Section" in each] == [each for each in found if each.startswith("## Section")]


def test_a_fence_longer_than_a_block_loses_no_line_and_confuses_none_behind_it() -> None:
    lines = [f"value_{number} = {number}" for number in range(10_000)]
    code = "```\n# first\n\n# then\n```"
    sections = [f"## Section {number}\n\n{LONG[:500].rstrip()}\n\n{code}\n" for number in range(300)]
    found = passages("\n".join(["# One", "```", *lines, "```", "", *sections]))
    assert [line for each in found for line in each.split("\n") if line.startswith("value_")] == lines
    assert sum(each.startswith("## Section") for each in found) >= 299
    assert sum(each.count(code) for each in found) >= 299


@given(
    st.lists(st.sampled_from(["x" * 3_000, "word. " * 500, "# h", "```", "```sh", "  ~~~~", "text", "", "- a", "\r"])),
    st.sampled_from(["text", "markdown"]),
)
def test_pieces_are_the_whole_text_and_none_is_longer_than_a_block(lines: list[str], kind: Kind) -> None:
    text = "\n".join(lines * 60)
    pieces = list(_blocks(text, kind))
    assert "".join(pieces) == text
    assert all(len(each) <= BLOCK_CHARS_MAX for each in pieces)
    assert len(pieces) <= 1 + 8 * len(text) // BLOCK_CHARS_MAX
