from __future__ import annotations

from demo import factbook


def test_the_fields_of_a_profile_become_stated_facts() -> None:
    facts = factbook.read()
    assert len(facts.sources) > 250
    germany = next(source for source in facts.sources if source.subject == "Germany")
    stated = {(each.type, each.target): each.weight for each in germany.relationships}
    assert stated[factbook.BORDERS, "France"] == 418
    assert stated[factbook.SELLS_TO, "United States"] == 10
    assert (factbook.MEMBER_OF, "NATO") in stated
    assert sum(len(source.relationships) for source in facts.sources) > 12_000
    assert sum(facts.unresolved.values()) < 20
    assert "<p>" not in germany.text
    assert "&nbsp;" not in germany.text


def test_the_small_demo_takes_part_of_each_profile() -> None:
    whole, small = factbook.read(5), factbook.read(5, factbook.SMALL_FIRST)
    assert [source.subject for source in whole.sources] == [source.subject for source in small.sources]
    assert sum(len(source.text) for source in small.sources) < sum(len(source.text) for source in whole.sources)
