"""What recurs is counted over all sources; what is stated needs no text; a passage is named by its document and text."""

from __future__ import annotations

import itertools

import pytest

from gibramdb.errors import InvalidArgumentError
from gibramdb.pipeline import ExtractedEntity, ExtractedRelationship, Extraction, Kind, Progress, Source
from gibramdb.pipeline.corpus import Corpus, read


class Lines:
    def split(self, text: str, kind: Kind) -> list[str]:
        return text.split("\n")


class Words:
    """Each word is an entity; a word in capitals is sure, any other must occur twice. Neighbours are related."""

    def extract(self, text: str) -> Extraction:
        words = text.split()
        return Extraction(
            entities=tuple(
                ExtractedEntity(word, "word", f"about {word}", 1 if word.isupper() else 2) for word in words
            ),
            relationships=tuple(
                ExtractedRelationship(one, other, "before", weight=2.0, textunits_min=2)
                for one, other in itertools.pairwise(words)
            ),
        )


def corpus_of(*sources: Source) -> Corpus:
    return read(sources, Lines(), Words(), lambda _: None)


def test_what_must_recur_is_kept_only_where_it_does() -> None:
    corpus = corpus_of(Source("1", "SURE once twice"), Source("2", "twice"))
    assert list(corpus.entities) == ["SURE", "TWICE"]


def test_repetition_within_one_passage_does_not_count() -> None:
    corpus = corpus_of(Source("1", "twice again twice again twice"))
    assert corpus.entities == {}
    assert corpus.relationships == {}


def test_weights_add_up_over_passages() -> None:
    corpus = corpus_of(Source("1", "A B\nA B C\nB A"), Source("2", "A B"))
    assert {triple: each.weight for triple, each in corpus.relationships.items()} == {("A", "B", "before"): 6.0}


def test_the_mention_that_asks_for_least_gives_spelling_and_type_and_others_fill_in() -> None:
    class Two:
        def extract(self, text: str) -> Extraction:
            weak = ExtractedEntity("oslo", "phrase", "a place", 9)
            return Extraction((weak if text == "weak" else ExtractedEntity("Oslo", "name", "", 1),))

    corpus = read([Source("1", "weak\nsure")], Lines(), Two(), lambda _: None)
    assert corpus.entities == {"OSLO": ExtractedEntity("Oslo", "name", "a place", 1)}


def test_what_is_stated_is_kept_as_stated_and_so_are_its_ends() -> None:
    borders = ExtractedRelationship("Norway", "Sweden", "borders", "1,666 km", 1666.0)
    corpus = corpus_of(
        Source(
            "no",
            "x\nit is next to sweden.",
            entities=(ExtractedEntity("Norway", "country", "in the north", textunits_min=7),),
            relationships=(borders,),
        ),
        Source("se", "x", relationships=(ExtractedRelationship("NORWAY", "sweden", "borders", "", 12.0),)),
    )
    assert corpus.relationships == {
        ("NORWAY", "SWEDEN", "borders"): ExtractedRelationship("NORWAY", "SWEDEN", "borders", "1,666 km", 1666.0)
    }
    assert (corpus.entities["NORWAY"].type, corpus.entities["NORWAY"].description) == ("country", "in the north")
    assert "SWEDEN" in corpus.entities
    assert ["SWEDEN" in passage.titles for passage in corpus.passages] == [False, True, False]


def test_a_stated_weight_is_not_added_to() -> None:
    stated = ExtractedRelationship("A", "B", "before", weight=5.0)
    corpus = corpus_of(Source("1", "A B\nA B", relationships=(stated,)))
    assert corpus.relationships[("A", "B", "before")].weight == 5.0


def test_a_stated_title_is_found_as_whole_words_only() -> None:
    corpus = corpus_of(Source("1", "the nigeria plain\nit is niger's\nNew York-based", entities=(
        ExtractedEntity("Niger"), ExtractedEntity("New York"),
    )))  # fmt: skip
    named = [{"NIGER", "NEW YORK"} & set(passage.titles) for passage in corpus.passages]
    assert named == [set(), {"NIGER"}, {"NEW YORK"}]


def test_every_passage_speaks_of_the_subject() -> None:
    corpus = corpus_of(Source("1", "x\ny", subject="Norway"))
    assert [passage.titles[0] for passage in corpus.passages] == ["NORWAY", "NORWAY"]
    assert corpus.entities["NORWAY"].title == "Norway"


def test_a_passage_keeps_its_name_when_it_moves_and_gets_another_when_it_changes() -> None:
    before = corpus_of(Source("d", "one\ntwo")).passages
    after = corpus_of(Source("d", "zero\ntwo\none!")).passages
    assert before[1].external_id == after[1].external_id
    assert before[0].external_id != after[2].external_id
    assert all(passage.external_id.startswith("d#") for passage in before)


def test_blank_and_repeated_passages_of_a_document_are_left_out() -> None:
    corpus = corpus_of(Source("d", "one\n\n  \none"), Source("e", "one"))
    assert [(passage.document, passage.text) for passage in corpus.passages] == [("d", "one"), ("e", "one")]


@pytest.mark.parametrize("external_ids", [("a", "a"), (" ",)])
def test_external_ids_are_checked_first(external_ids: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="external id"):
        corpus_of(*(Source(each, "x") for each in external_ids))


def test_progress_is_told() -> None:
    steps: list[Progress] = []
    read([Source("1", "a\nb"), Source("2", "c")], Lines(), Words(), steps.append)
    assert [(step.stage, step.done, step.total) for step in steps] == [
        ("split", 1, 2), ("split", 2, 2), ("extract", 1, 3), ("extract", 2, 3), ("extract", 3, 3),
    ]  # fmt: skip
