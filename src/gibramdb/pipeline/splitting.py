"""The splitter that is used unless another is given."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gibramdb.errors import MissingExtraError
from gibramdb.pipeline.protocols import Kind

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

PASSAGE_CHARS_MIN = 400
PASSAGE_CHARS_MAX = 1200
"""A passage is closed at the first good place between the two. The local model reads a paragraph best; a page blurs."""

BLOCK_CHARS_MAX = 65_536
"""The library takes the square of a long line, and of a long Markdown text, and Ctrl-C can not end it meanwhile."""

_HEADING = re.compile(r" {0,3}#{1,6}(?P<title>[ \t].*)?")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(?:`{3,}[^`]*|~{3,}.*)")
_FENCE_MARK = re.compile(r" *(`{3,}|~{3,})")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}")


class SemanticSplitter:
    """Cuts at headings, paragraphs and sentences, in this order of preference.

    Of Markdown, a heading that would be a passage alone goes with what follows it, or, where nothing follows, with what
    is before it, if there is room; rules and fences around nothing are left out.
    """

    def __init__(self, passage_chars_min: int = PASSAGE_CHARS_MIN, passage_chars_max: int = PASSAGE_CHARS_MAX) -> None:
        """Loads the library.

        Raises:
            MissingExtraError: if it is not installed.
        """
        try:
            from semantic_text_splitter import MarkdownSplitter, TextSplitter  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise MissingExtraError(
                "splitting text needs the package semantic-text-splitter: pip install 'gibramdb[index]'"
            ) from error
        self._chars_min, self._chars_max = passage_chars_min, passage_chars_max
        self._text: TextSplitter = TextSplitter((passage_chars_min, passage_chars_max))
        self._markdown: type[MarkdownSplitter] = MarkdownSplitter

    def split(self, text: str, kind: Kind) -> list[str]:
        """Passages of at most `passage_chars_max` characters, trimmed."""
        if kind == "markdown":
            return self._split_markdown(text)
        return [passage for block in _blocks(text, kind) for passage in self._text.chunks(block)]

    def _split_markdown(self, text: str) -> list[str]:
        passages: list[str] = []
        above = ""  # headings that have not met their text yet
        chunks = deque(chunk for block in _blocks(text, "markdown") for chunk in self._cut(block, self._chars_max))
        while chunks:
            chunk = chunks.popleft()
            headings = _headings_alone(chunk)
            if headings is not None:
                together = _below(above, headings)
                if len(together) <= self._chars_max // 2 - len(_GAP):
                    above = together
                    continue
                # So many headings, an outline perhaps, are a text of their own.
            room = self._chars_max - (len(above) + len(_GAP) if above else 0)
            if len(chunk) > room:
                chunks.extendleft(reversed(self._cut(chunk, room)))
                continue
            passages.append(_below(above, chunk))
            above = ""
        if above and passages and len(_below(passages[-1], above)) <= self._chars_max:
            passages[-1] = _below(passages[-1], above)  # nothing follows; still somebody may look for its words
        elif above:
            passages.append(above)
        return passages

    def _cut(self, text: str, chars_max: int) -> list[str]:
        return self._markdown((min(self._chars_min, chars_max), chars_max)).chunks(text)


_GAP = "\n\n"
_BEFORE_HEADING, _BEHIND_PARAGRAPH, _BEHIND_LINE = range(3)


def _blocks(text: str, kind: Kind) -> Iterator[str]:
    """The text in pieces, none longer than a block."""
    begin, fence = 0, ""
    while len(text) - begin > BLOCK_CHARS_MAX:
        end, fence = _block_end(text, begin, kind, fence)
        yield text[begin:end]
        begin = end
    yield text[begin:]


def _block_end(text: str, begin: int, kind: Kind, open_fence: str) -> tuple[int, str]:
    """Where a block that begins here ends best, in its second half if it can, and the fence that is open there.

    That is only one that is longer than a block. Where the block begins in such a one, it ends behind that.
    """
    most, half = begin + BLOCK_CHARS_MAX, begin + BLOCK_CHARS_MAX // 2
    places: dict[int, int] = {}  # the last of each rank outside a fence
    at, fence, fenced_line_end = begin, open_fence, 0
    while line_end := text.find("\n", at, most) + 1:
        line = text[at:line_end].rstrip("\r\n")
        was_fenced = bool(fence)
        if kind == "markdown":
            fence = _fence_behind(line, fence)
        if open_fence and not fence:
            return line_end, ""
        if fence:
            fenced_line_end = line_end
        elif kind == "markdown" and not was_fenced and at > begin and _HEADING.fullmatch(line):
            places[_BEFORE_HEADING] = at
        else:
            places[_BEHIND_LINE if line.strip() else _BEHIND_PARAGRAPH] = line_end
        at = line_end
    for candidates in ({rank: place for rank, place in places.items() if place > half}, places):
        if candidates:
            return candidates[min(candidates)], ""
    if fenced_line_end:
        return fenced_line_end, fence
    for mark in (". ", " "):
        found = text.rfind(mark, half, most)
        if found >= 0:
            return found + len(mark), fence
    return most, fence


def _fence_behind(line: str, fence: str) -> str:
    """The fence that is open behind the line, if one is; `fence` was before it."""
    if not fence:
        opens = _FENCE_MARK.match(line) if _FENCE.fullmatch(line) else None
        return opens[1] if opens else ""
    closes = (
        len(line) - len(line.lstrip(" ")) <= 3 and line.strip().startswith(fence) and not line.strip().strip(fence[0])
    )
    return "" if closes else fence


def _below(above: str, text: str) -> str:
    return f"{above}{_GAP}{text}" if above and text else above or text


def _headings_alone(chunk: str) -> str | None:
    """The headings of a chunk that has nothing else but rules and empty fences; None if it has some text."""
    headings: list[str] = []
    is_fenced = False
    lines = deque(chunk.split("\n"))
    while lines:
        line = lines.popleft()
        if not line.strip():
            continue
        if _FENCE.fullmatch(line):
            is_fenced = not is_fenced
        elif is_fenced:
            return None
        elif heading := _HEADING.fullmatch(line):
            headings += [line] if (heading["title"] or "").strip() else []
        elif _RULE.fullmatch(line):
            continue
        elif lines and _UNDERLINE.fullmatch(lines[0]):
            headings.append(f"{line}\n{lines.popleft()}")
        else:
            return None
    return _GAP.join(headings)
