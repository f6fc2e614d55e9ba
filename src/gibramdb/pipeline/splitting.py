"""The splitter that is used unless another is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gibramdb.errors import MissingExtraError
from gibramdb.pipeline.protocols import Kind

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

PASSAGE_CHARS_MIN = 400
PASSAGE_CHARS_MAX = 1200
"""A passage is closed at the first good place between the two. The local model reads a paragraph best; a page blurs."""


class SemanticSplitter:
    """Cuts at headings, paragraphs and sentences, in this order of preference."""

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
        capacity = (passage_chars_min, passage_chars_max)
        self._text: TextSplitter = TextSplitter(capacity)
        self._markdown: MarkdownSplitter = MarkdownSplitter(capacity)

    def split(self, text: str, kind: Kind) -> list[str]:
        """Passages of at most `passage_chars_max` characters, trimmed."""
        return (self._markdown if kind == "markdown" else self._text).chunks(text)
