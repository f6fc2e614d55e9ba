from __future__ import annotations

import gibramdb
from demo.factbook import BORDERS, SELLS_TO
from demo.questions import Question, answers, sources
from gibramdb import NewEntity, NewRelationship


def test_of_text_units_with_the_same_score_the_one_is_shown_that_speaks_of_the_answer() -> None:
    """The lowest id may be of a country that mentions the subject in passing."""
    with gibramdb.open(vector_dim=1) as db:
        session = db.session("s")
        subject, *neighbours = session.add_entities([NewEntity(title, title) for title in "GABC"])
        far = session.add_entity("far", "far")
        for neighbour in neighbours:
            session.add_relationship(subject, neighbour, "borders")
        session.add_relationship(neighbours[0], far, "borders")
        document = session.add_document("d")
        speaks_of = {
            "in passing": [subject],
            "of what is far": [subject, neighbours[0], far],
            "of the neighbours": [subject, *neighbours],
            "of one": [subject, neighbours[1]],
            "not of the subject": [*neighbours, far],
        }
        for external_id, entities in speaks_of.items():
            textunit = session.add_textunit(external_id, document, external_id)
            session.link_many((textunit, entity) for entity in entities)
        result = session.query(seed_entity_ids=[subject], hops=2, textunits_max=100)
    assert result.textunits[0].textunit.external_id == "in passing"
    assert [hit.textunit.external_id for hit in sources(result)] == [
        "of the neighbours",
        "of what is far",
        "of one",
        "in passing",
    ]


def test_an_answer_without_text_has_no_source() -> None:
    with gibramdb.open(vector_dim=1) as db:
        session = db.session("s")
        entity = session.add_entity("e", "E")
        assert sources(session.query(seed_entity_ids=[entity])) == []


def test_what_is_shown_is_said_of_what_lies_a_hop_before() -> None:
    with gibramdb.open(vector_dim=1) as db:
        session = db.session("s")
        ids = session.add_entities([NewEntity(title, title) for title in "CNMB"])
        chad, niger, mali, buyer = ids
        session.add_relationships(
            [
                NewRelationship(chad, niger, BORDERS),
                NewRelationship(mali, chad, BORDERS),
                NewRelationship(chad, buyer, SELLS_TO),
                NewRelationship(niger, buyer, SELLS_TO),
                NewRelationship(mali, niger, SELLS_TO),
            ]
        )
        question = Question("?", ("C",), (BORDERS, SELLS_TO), 2)
        result = session.query(seed_entity_ids=[chad], hops=2, relationship_types=question.relationship_types)
        explained = session.explain(result.query_id)
    assert answers(question, result, explained) == {"N": ["B"], "M": ["N"]}, "not what Chad itself sells"
    direct = Question("?", ("C",), (BORDERS,), 1)
    assert answers(direct, result, explained) == {"C": ["N"]}
