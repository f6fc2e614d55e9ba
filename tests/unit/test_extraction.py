"""Names and phrases are found by their form, the same text gives the same answer, and the limits hold."""

from __future__ import annotations

import pytest

from gibramdb.pipeline.extraction import (
    ENTITIES_PER_TEXTUNIT_MAX,
    NAME,
    NEIGHBOURS_MAX,
    PAIR_TEXTUNITS_MIN,
    PHRASE,
    PHRASE_TEXTUNITS_MIN,
    RELATED,
    SENTENCE_START_TEXTUNITS_MIN,
    PhraseExtractor,
)


def sure_names(text: str) -> list[str]:
    return [each.title for each in PhraseExtractor().extract(text).entities if each.textunits_min == 1]


def phrases(text: str) -> list[str]:
    return [each.title for each in PhraseExtractor().extract(text).entities if each.type == PHRASE]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("It borders Norway and Sweden.", ["Norway", "Sweden"]),
        ("He came from the University of Oslo.", ["University of Oslo"]),
        ("She led the Ministry of Trade and Industry.", ["Ministry of Trade and Industry"]),
        ("They met the President of the United States.", ["President of the United States"]),
        ("The United Nations met.", ["United Nations"]),
        ("It joined NATO, and AT&T did not.", ["NATO", "AT&T"]),
        ("It is sold to the U.K. and Germany.", ["U.K.", "Germany"]),
        ("We read Mr. J. R. R. Tolkien aloud.", ["J. R. R. Tolkien"]),
        ("It was neutral in World War I. Nazi Germany was not.", ["World War I", "Nazi Germany"]),
        ("It lies on Norway's North Sea coast.", ["Norway", "North Sea"]),
        ("There is trade with Vincent van Gogh himself.", ["Vincent van Gogh"]),
        ("It is in São Tomé and in Reykjavík.", ["São Tomé", "Reykjavík"]),
        ("It is the Re\u0301union of islands.", ["Réunion"]),
        ("It ended in March 1945 on a Monday.", []),
        ("See the `Readable` class and [the Guide](https://Example.org/A).", ["Guide"]),
        ("It is in Malm&ouml; today, as I and A know.", ["Malmö"]),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    assert sure_names(text) == names


@pytest.mark.parametrize("text", ["Coal was found.", "* Coal was found", "# Natural gas", "fuel: Coal is used"])
def test_one_capital_at_the_start_of_a_sentence_proves_nothing(text: str) -> None:
    assert sure_names(text) == []


def test_it_counts_where_the_name_stands_elsewhere_in_a_sentence() -> None:
    assert sure_names("Norway is cold. It is north of Norway.") == ["Norway"]
    found = PhraseExtractor().extract("Norway is cold.").entities
    assert [(each.title, each.textunits_min) for each in found] == [("Norway", SENTENCE_START_TEXTUNITS_MIN)]


def test_a_heading_in_title_case_proves_nothing() -> None:
    found = PhraseExtractor().extract("Natural Resources and Energy Policy").entities
    assert {each.textunits_min for each in found} == {PHRASE_TEXTUNITS_MIN}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("there is crude oil and there is natural gas.", ["crude oil", "natural gas"]),
        ("Crude oil is there.", ["crude oil"]),
        ("it was quickly rising sea level", ["rising sea level", "sea level"]),
        ("the oil", []),
        ("the members were directly elected", []),
        ("old heavy crude oil barrels", ["oil barrels"]),
    ],
)
def test_phrases(text: str, found: list[str]) -> None:
    assert phrases(text) == found


def test_a_phrase_is_not_related_to_its_own_last_words() -> None:
    found = PhraseExtractor().extract("the rising sea level and the sea level").relationships
    assert found == ()


def test_a_phrase_must_recur() -> None:
    found = PhraseExtractor().extract("there is crude oil").entities
    assert [each.textunits_min for each in found] == [PHRASE_TEXTUNITS_MIN]


def test_the_description_is_the_first_sentence_of_the_mention() -> None:
    found = PhraseExtractor().extract("It rains. It borders *Norway* there.\n\nWe saw Norway.").entities
    assert [(each.title, each.type, each.description) for each in found] == [
        ("Norway", NAME, "It borders *Norway* there.")
    ]


def test_two_names_in_one_sentence_are_related_at_once_and_any_other_pair_must_recur() -> None:
    found = PhraseExtractor().extract("It borders Norway and Sweden. There is crude oil for Finland.").relationships
    minimum = {(each.source, each.target): each.textunits_min for each in found}
    assert minimum == {
        ("NORWAY", "SWEDEN"): 1,
        ("CRUDE OIL", "NORWAY"): PAIR_TEXTUNITS_MIN,
        ("FINLAND", "NORWAY"): PAIR_TEXTUNITS_MIN,
        ("CRUDE OIL", "SWEDEN"): PAIR_TEXTUNITS_MIN,
        ("FINLAND", "SWEDEN"): PAIR_TEXTUNITS_MIN,
        ("CRUDE OIL", "FINLAND"): PAIR_TEXTUNITS_MIN,
    }
    assert {(each.type, each.weight) for each in found} == {(RELATED, 1.0)}


def test_the_order_of_the_text_does_not_change_the_direction_of_a_pair() -> None:
    one = PhraseExtractor().extract("It is Norway and Sweden.").relationships
    other = PhraseExtractor().extract("It is Sweden and Norway.").relationships
    assert one == other
    assert len(one) == 1


def test_limits_hold_and_the_pairs_stay_linear() -> None:
    names = [f"Name{chr(65 + number // 26)}{chr(97 + number % 26)}" for number in range(600)]
    found = PhraseExtractor().extract(f"they are {', '.join(names)}.")
    assert [each.title for each in found.entities] == names[:ENTITIES_PER_TEXTUNIT_MAX]
    assert len(found.relationships) <= ENTITIES_PER_TEXTUNIT_MAX * NEIGHBOURS_MAX
    shouted = PhraseExtractor().extract("it is ALL OF US WHO MUST NEVER EVER STOP SHOUTING LOUDLY")
    assert shouted.entities == ()


@pytest.mark.parametrize("text", ["", " \n", "…", "123 456", "```\nCode Block\n```", "((((", "'s", "a" * 5000])
def test_text_without_names_gives_none(text: str) -> None:
    assert sure_names(text) == []
