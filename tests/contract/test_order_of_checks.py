"""Where several things are wrong, the first in the documented order is said; and what no caller may hand in at all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import gibramdb
from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit, Session, Store, commands
from gibramdb.errors import (
    AlreadyExistsError,
    DimensionMismatchError,
    GibramError,
    InvalidArgumentError,
    LimitExceededError,
    NotFoundError,
    StillReferencedError,
)

V = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
NAN = [*V[:7], math.nan]
BIG = "x" * 1_048_577

Refused = tuple[Callable[[Session], object], type[GibramError], str]


def furnish(session: Session) -> None:
    """Entity 1 is linked, an end and a member; 2 an end and a member; 3 a member; 4 free."""
    session.add_documents([NewDocument("d1")])
    session.add_textunits([NewTextUnit("t1", 1, "text", V)])
    session.add_entities([NewEntity(f"e{number}", f"Title {number}", embedding=V) for number in range(1, 5)])
    session.add_relationships([NewRelationship(1, 2, "knows", external_id="r1")])
    session.add_community(NewCommunity("one", (1, 2, 3), (1,), external_id="c1"))
    session.link(1, 1)


IN_ORDER: list[Refused] = [
    # one text unit: size, blank, document, embedding, taken
    (lambda s: s.add_textunit("", 9, BIG, NAN), LimitExceededError, "content too large"),
    (lambda s: s.add_textunit("", 9, "", NAN), InvalidArgumentError, "textunit external_id is required"),
    (lambda s: s.add_textunit("t1", 9, "", NAN), NotFoundError, "textunit document_id 9 does not exist"),
    (lambda s: s.add_textunit("t1", 1, "", NAN), InvalidArgumentError, "non-finite value at index 7"),
    (lambda s: s.add_textunit("t1", 1, "", [math.nan]), DimensionMismatchError, "expected 8, got 1"),
    # several: size of all, then blank, taken, repeated, document, embedding, item by item
    (
        lambda s: s.add_textunits([NewTextUnit("", 9, ""), NewTextUnit("", 9, BIG)]),
        LimitExceededError,
        "textunits[1].content too large",
    ),
    (
        lambda s: s.add_textunits([NewTextUnit("t1", 9, "", NAN), NewTextUnit("", 9, "")]),
        AlreadyExistsError,
        "failed at index 0: textunit with external_id t1 already exists; no items committed",
    ),
    (
        lambda s: s.add_textunits([NewTextUnit("n", 1, ""), NewTextUnit("n", 9, "", NAN)]),
        AlreadyExistsError,
        "failed at index 1: textunit with external_id n already exists in bulk request; no items committed",
    ),
    (
        lambda s: s.add_textunits([NewTextUnit("n", 1, ""), NewTextUnit("m", 9, "", NAN)]),
        NotFoundError,
        "atomic bulk textunits failed at index 1: textunit document_id 9 does not exist; no items committed",
    ),
    # entities: size, blank, title taken, title repeated, external id taken, repeated, embedding
    (lambda s: s.add_entity(" ", "title 1", "", BIG), LimitExceededError, "description too large"),
    (lambda s: s.add_entity(" ", "title 1", "", "", NAN), InvalidArgumentError, "entity external_id is required"),
    (lambda s: s.add_entity("e1", "title 1", "", "", NAN), AlreadyExistsError, "entity with title title 1 already"),
    (lambda s: s.add_entity("e1", "n", "", "", NAN), AlreadyExistsError, "entity with external_id e1 already exists"),
    (
        lambda s: s.add_entities([NewEntity("n", "N"), NewEntity("e1", " n ", embedding=NAN)]),
        AlreadyExistsError,
        "failed at index 1: entity with title  n  already exists in bulk request",
    ),
    (
        lambda s: s.add_entities([NewEntity("n", "N"), NewEntity("n", "M", embedding=[1.0])]),
        AlreadyExistsError,
        "failed at index 1: entity with external_id n already exists in bulk request",
    ),
    (
        lambda s: s.add_entities([NewEntity("n", "N"), NewEntity("m", "M", embedding=[1.0]), NewEntity("", "")]),
        DimensionMismatchError,
        "atomic bulk entities failed at index 1: entity embedding dimension mismatch: expected 8, got 1; no items",
    ),
    # relationships: size, source, target, triple, external id
    (lambda s: s.add_relationship(9, 8, "", BIG), LimitExceededError, "description too large"),
    (lambda s: s.add_relationship(9, 8), NotFoundError, "relationship source_id 9 does not exist"),
    (lambda s: s.add_relationship(1, 8, external_id="r1"), NotFoundError, "relationship target_id 8 does not exist"),
    (
        lambda s: s.add_relationship(1, 2, "knows", external_id="r1", weight=math.nan),
        AlreadyExistsError,
        "relationship from 1 to 2 with type knows already exists",
    ),
    (
        lambda s: s.add_relationship(2, 1, external_id="r1"),
        AlreadyExistsError,
        "relationship with external_id r1 already exists",
    ),
    (
        lambda s: s.add_relationships([NewRelationship(1, 3, external_id="r"), NewRelationship(1, 4, external_id="r")]),
        AlreadyExistsError,
        "failed at index 1: relationship with external_id r already exists in bulk request",
    ),
    (lambda s: s.add_relationship(1, 3, weight=1e39), InvalidArgumentError, "relationship weight"),
    # communities: sizes, external id, entities, relationships, embedding
    (
        lambda s: s.add_community(NewCommunity("", (9,), summary=BIG, external_id="c1")),
        LimitExceededError,
        "summary too large",
    ),
    (lambda s: s.add_community(NewCommunity("", full_content=BIG)), LimitExceededError, "full_content too large"),
    (
        lambda s: s.add_community(NewCommunity("", (9,), external_id="c1")),
        AlreadyExistsError,
        "community with external_id c1 already exists",
    ),
    (lambda s: s.add_community(NewCommunity("", (1, 9), (9,))), NotFoundError, "community entity_id 9 does not exist"),
    (
        lambda s: s.add_community(NewCommunity("", (1,), (1, 9), embedding=NAN)),
        NotFoundError,
        "community relationship_id 9 does not exist",
    ),
    (lambda s: s.add_community(NewCommunity("", embedding=NAN)), InvalidArgumentError, "community embedding contains"),
    # updates: size, entity, embedding
    (lambda s: s.update_entity_description(9, BIG, NAN), LimitExceededError, "description too large"),
    (lambda s: s.update_entity_description(9, "", NAN), NotFoundError, "update failed: entity not found"),
    # deletes of an entity: text units, relationships, communities
    (lambda s: s.delete_entity(1), StillReferencedError, "entity 1 is linked to text units"),
    (lambda s: s.delete_entity(2), StillReferencedError, "entity 2 is linked to relationships"),
    (lambda s: s.delete_entity(3), StillReferencedError, "entity 3 is referenced by communities"),
    # numbers that the wire could not carry
    (lambda s: s.add_textunit("n", 1, "", token_count=2**31), InvalidArgumentError, ""),
    (lambda s: s.add_community(NewCommunity("", level=-(2**31) - 1)), InvalidArgumentError, ""),
    (lambda s: s.add_document("\ud800"), InvalidArgumentError, "external_id must be a text that UTF-8 can hold"),
    (lambda s: s.detect_communities(iterations=-1), InvalidArgumentError, "iterations must not be negative"),
]


def test_the_first_thing_wrong_is_the_one_that_is_said(session: Session) -> None:
    furnish(session)
    for refused, error, words in IN_ORDER:
        before = session.digest()
        with pytest.raises(error) as refusal:
            refused(session)
        assert type(refusal.value) is error, words
        assert words in str(refusal.value)
        assert session.digest() == before, words


def test_what_holds_something_back_can_go_once_that_is_gone(session: Session) -> None:
    furnish(session)
    session.delete_community(1)
    session.delete_relationship(1)
    for id in (2, 3, 4):
        session.delete_entity(id)
    assert [entity.id for entity in session.entities()] == [1]
    assert session.add_relationship(1, 1, "knows", external_id="r1") == 2
    assert session.add_entity("e2", "title 2") == 5
    assert session.add_community(NewCommunity("again", (5,), (2,), external_id="c1")) == 2


def test_the_largest_text_is_taken_and_counted_in_bytes(session: Session) -> None:
    session.add_document("d")
    session.add_textunit("t", 1, "é" * 524_288)
    with pytest.raises(LimitExceededError, match=r"content too large: 1048577 bytes \(max: 1048576\)"):
        session.add_textunit("u", 1, "é" * 524_288 + "x")
    assert len(session.get_textunit(1).content) == 524_288


def test_a_vector_without_length_is_kept_and_similar_to_nothing(session: Session) -> None:
    session.add_entities([NewEntity("zero", "zero", embedding=[0.0] * 8), NewEntity("some", "some", embedding=V)])
    hits = session.query(V, hops=0).entities
    assert [(hit.entity.id, round(hit.similarity, 6)) for hit in hits] == [(2, 1.0), (1, 0.0)]
    assert [(hit.entity.id, hit.similarity) for hit in session.query([0.0] * 8, hops=0).entities] == [
        (1, 0.0),
        (2, 0.0),
    ]
    opposite = session.query([-number for number in V], hops=0).entities
    assert [(hit.entity.id, round(hit.similarity, 6)) for hit in opposite] == [(1, 0.0), (2, -1.0)]


def test_rebuilding_changes_nothing_that_can_be_seen(session: Session) -> None:
    furnish(session)
    before = (session.digest(), session.query(V).entities, session.get_entity(1), list(session.relationships()))
    session.rebuild_indexes()
    assert (session.digest(), session.query(V).entities, session.get_entity(1), list(session.relationships())) == before


def test_numbers_of_numpy_are_numbers(session: Session) -> None:
    session.add_document("d")
    ids = session.add_textunits([NewTextUnit("t", np.int64(1), "x", np.ones(8), np.int32(3))])  # type: ignore[arg-type]
    session.add_entities([NewEntity(f"e{n}", f"e{n}", embedding=np.full(8, n + 1.0)) for n in range(3)])
    ends = np.array([1, 2])
    session.add_relationship(ends[0], ends[1], weight=np.float32(0.5))  # type: ignore[arg-type]
    session.add_community(NewCommunity("c", tuple(ends)))
    session.link(np.int64(ids[0]), ends[1])  # type: ignore[arg-type]
    assert session.get_textunit(1).entity_ids == (2,)
    assert session.get_textunit(1).token_count == 3
    assert session.get_relationship(1).weight == 0.5
    assert session.get_community(1).entity_ids == (1, 2)


def test_texts_and_weights_of_other_libraries_are_stored_as_pythons_own(session: Session) -> None:
    texts = np.array(["e1", "Ada", "person", "wrote"])
    session.add_entity(texts[0], texts[1], texts[2], texts[3])
    session.add_relationship(1, 1, texts[3], weight=np.float64(0.25))
    entity, relationship = session.get_entity(1), session.get_relationship(1)
    assert (entity.external_id, entity.title, entity.type, entity.description) == ("e1", "ADA", "person", "wrote")
    assert (relationship.type, relationship.weight) == ("wrote", 0.25)
    assert {type(entity.title), type(entity.type), type(relationship.type)} == {str}
    once = session.once(b"token")
    assert once.add_entity(texts[1], texts[2]) == session.once(b"token").add_entity("Ada", "person") == 2


WRONG_TYPES: list[tuple[Callable[[Any], object], str]] = [
    (lambda s: s.add_document(7), "external_id must be a text, got 7"),
    (lambda s: s.add_entity("e", None), "title must be a text, got None"),
    (lambda s: s.add_entity("e", "n\ud800"), "title must be a text that UTF-8 can hold, got 'n\\ud800'"),
    (lambda s: s.get_entity_by_title("é\udfff"), "title must be a text that UTF-8 can hold, got "),
    (
        lambda s: s.add_entities([NewEntity("e", "t"), NewEntity("f\ud800", "u")]),
        "entities[1].external_id must be a text that UTF-8 can hold, got 'f\\ud800'",
    ),
    (lambda s: s.add_entities([NewEntity("e", "t"), NewEntity("f", 5)]), "entities[1].title must be a text, got 5"),  # type: ignore[arg-type]
    (lambda s: s.add_entities(["e"]), "entities[0] must be a NewEntity, got 'e'"),
    (lambda s: s.add_entities(["x"], embeddings=np.ones((1, 8))), "entities[0] must be a NewEntity, got 'x'"),
    (lambda s: s.link_many([(1, 2), (1, "2")]), "commands[1].entity_id must be a whole number, got '2'"),
    (
        lambda s: s.add_textunits([NewTextUnit("t", "d", "x")]),  # type: ignore[arg-type]
        "textunits[0].document_id must be a whole number, got 'd'",
    ),
    (lambda s: s.add_relationship("a", "b"), "source_id must be a whole number, got 'a'"),
    (lambda s: s.add_relationship(1, 1, weight="heavy"), "weight must be a number, got 'heavy'"),
    (lambda s: s.add_relationship(1, 1, weight=10**400), "weight must be a number, got 1000"),
    (lambda s: s.add_community(NewCommunity("c", ["1"])), "entity_ids[0] must be a whole number, got '1'"),  # type: ignore[arg-type]
    (
        lambda s: s.add_community(NewCommunity("c", "12")),  # type: ignore[arg-type]
        "entity_ids must be a tuple or list, each item a whole number, got '12'",
    ),
    (lambda s: s.get_entity("1"), "id must be a whole number, got '1'"),
    (lambda s: s.delete_entity(1.0), "id must be a whole number, got 1.0"),
    (lambda s: s.get_entities(["1"]), "ids[0] must be a whole number, got '1'"),
    (lambda s: s.get_entity(2**64), "id must be a whole number of at most 64 bits, got 18446744073709551616"),
    (lambda s: s.get_entity(10**5000), "id must be a whole number of at most 64 bits, got a number of 16610 bits"),
    (lambda s: s.add_entity(10**5000, "t"), "external_id must be a text, got a number of 16610 bits"),
    (lambda s: s.add_textunit("t", -(10**5000), "x"), "document_id must be a whole number of at most 64 bits, got a"),
    (lambda s: s.add_relationship(1, 1, weight=10**5000), "weight must be a number, got a number of 16610 bits"),
    (lambda s: s.get_embeddings(10**5000, [1]), "kind must be a text, got a number of 16610 bits"),
    (lambda s: s.once(10**5000), "a token is 1 to 64 bytes, got a number of 16610 bits"),
    (lambda s: s.with_timeout(True), "timeout_s must be above 0 and at most"),
    (lambda s: s.get_entity_by_title(b"A"), "title must be a text, got b'A'"),
    (lambda s: s.query([1.0] * 8, top_k="5"), "top_k must be a whole number, got '5'"),
    (lambda s: s.query([1.0] * 8, entity_types=[5]), "entity_types[0] must be a text, got 5"),
    (lambda s: s.query([1.0] * 8, entity_types="k"), "entity_types must be a list, or another iterable, got 'k'"),
    (lambda s: s.query([1.0] * 8, relationship_types="k"), "relationship_types must be a list, or another iterable"),
    (lambda s: s.query([1.0] * 8, seed_entity_ids=1), "seed_entity_ids must be a list, or another iterable, got 1"),
    (lambda s: s.query([1.0] * 8, search_types="entity"), "search_types must be a list, or another iterable"),
    (
        lambda s: s.query([1.0] * 8, search_types=["entity", "entities"]),
        "search_types[1] must be one of textunit, entity, community, got 'entities'",
    ),
    (lambda s: s.link_many([(1, 2), (1, 2, 3)]), "pairs[1] must be (text unit id, entity id), got (1, 2, 3)"),
    (lambda s: s.link_many([5]), "pairs[0] must be (text unit id, entity id), got 5"),
    (lambda s: s.add_entity("n", "n", embedding=[10**400]), "embedding must consist of finite numbers, got one"),
    (lambda s: s.link_many(5), "pairs must be a list, or another iterable, got 5"),
    (lambda s: s.get_entities("12"), "ids must be a list, or another iterable, got '12'"),
    (lambda s: s.get_embeddings("entity", None), "ids must be a list, or another iterable, got None"),
    (lambda s: s.add_documents(None), "documents must be a list, or another iterable, got None"),
    (lambda s: s.add_textunits("t"), "textunits must be a list, or another iterable, got 't'"),
    (lambda s: s.add_relationships(1), "relationships must be a list, or another iterable, got 1"),
    (
        lambda s: s.add_entities([NewEntity("n", "n")], embeddings=5),
        "embeddings must be a list, or another iterable, got 5",
    ),
    (
        lambda s: s.add_entities([NewEntity("n", "n")], embeddings=np.ones((1, 8), complex)),
        "embeddings must consist of real numbers, got array([[1.+0.",
    ),
    (
        lambda s: s.add_entities([NewEntity("n", "n")], embeddings=np.full((1, 8), "1")),
        "embeddings must consist of real numbers, got array([['1'",
    ),
    (
        lambda s: s.add_entities([NewEntity("n", "n")], embeddings=np.full((1, 8), 10**400, dtype=object)),
        "embeddings must consist of finite numbers, got one too large",
    ),
    (
        lambda s: s.add_entity("n", "n", embedding=np.ones(8, complex)),
        "embedding must consist of real numbers, got array([1.+0.",
    ),
    (lambda s: s.query(["1"] * 8), "embedding must consist of real numbers, got ['1', '1'"),
    (lambda s: s.query([1.0] * 7 + [{}]), "embedding is not a sequence of numbers: "),
    (lambda s: s.query([Decimal("sNaN")] * 8), "embedding is not a sequence of numbers: "),
    (lambda s: s.query(["x" * 10**8] + [""] * 10**5), "embedding must consist of real numbers, got ['xxx"),
    (lambda s: s.query(np.zeros(8, "M8[s]")), "embedding must consist of real numbers, got array(['1970"),
    (
        lambda s: s.query(np.ma.masked_equal(np.arange(8.0), 3)),
        "embedding must consist of real numbers, got some that a mask hides",
    ),
    (lambda s: s.get_entities(np.array(3)), "ids must be a list, or another iterable, got array(3)"),
    (
        lambda s: s.add_entity("n", "n", embedding=b"123"),
        "embedding must have four bytes for each number, got 3 bytes",
    ),
    (
        lambda s: s.add_entity("n", "n", embedding=None),
        "embedding must be a sequence of numbers, empty for none; got None",
    ),
    (
        lambda s: s.add_relationship(1, 1, weight=1e-300),
        "weight 1e-300 is too small for a 32-bit float, and 0 means 1.0",
    ),
    (lambda s: s.set_ttl("1h"), "ttl_s must be a whole number, got '1h'"),
]


@pytest.mark.parametrize(("ask", "words"), WRONG_TYPES, ids=[words.split(",")[0] for _, words in WRONG_TYPES])
def test_a_value_of_a_wrong_type_is_refused_by_its_name_and_nothing_is_changed(
    session: Session, ask: Callable[[Any], object], words: str
) -> None:
    furnish(session)
    before = session.digest()
    with pytest.raises(InvalidArgumentError, match=f"^{re.escape(words)}"):
        ask(session)
    assert session.digest() == before


def test_of_many_commands_with_one_of_a_wrong_type_none_is_carried_out(store: Store) -> None:
    batch = [commands.AddDocuments("s", (NewDocument("d"),)), commands.GetDocument("s", "1")]  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"^commands\[1\]\.id must be a whole number, got '1'$"):
        store.execute_many(batch)
    with pytest.raises(InvalidArgumentError, match=r"^not a command"):
        store.execute_many(["PING"])  # type: ignore[list-item]
    with pytest.raises(InvalidArgumentError, match=r"^session_id must be a text, got 5$"):
        store.session(5).add_document("d")  # type: ignore[arg-type]
    assert store.sessions() == []


@pytest.mark.parametrize("given", [np.array, list, set, frozenset, iter], ids=lambda each: str(each.__name__))
def test_the_ids_of_a_community_may_come_as_anything_that_gives_them(session: Session, given: Any) -> None:
    furnish(session)
    made = session.add_community(NewCommunity("two", given([1, 2]), external_id="c2"))
    assert session.get_community(made).entity_ids == (1, 2)


@pytest.mark.parametrize("token_count", [2**70, 7])
def test_what_can_not_be_stored_is_refused_with_a_token_as_without_one(session: Session, token_count: int) -> None:
    furnish(session)
    new = NewTextUnit("t2", 1, "x" if token_count > 7 else "\ud800", token_count=token_count)
    before = session.digest()
    with pytest.raises(InvalidArgumentError):
        session.add_textunits([new])
    with pytest.raises(InvalidArgumentError):
        session.once(b"token").add_textunits([new])
    assert session.digest() == before


def test_the_smallest_weight_that_the_wire_can_hold_is_kept_and_none_below_it(session: Session) -> None:
    session.add_entities([NewEntity("e", "e")])
    session.add_relationship(1, 1, weight=2.0**-149)
    assert session.get_relationship(1).weight == 2.0**-149
    with pytest.raises(InvalidArgumentError, match="too small for a 32-bit float"):
        session.add_relationship(1, 1, "again", weight=-(2.0**-150))


IMPOSSIBLE: list[Callable[[Session, int], object]] = [
    lambda s, number: s.get_entity(number),
    lambda s, number: s.delete_entity(number),
    lambda s, number: s.get_document(number),
    lambda s, number: s.delete_document(number),
    lambda s, number: s.add_textunit("t", number, "x"),
    lambda s, number: s.add_relationship(number, 1),
    lambda s, number: s.link(number, 1),
    lambda s, number: s.query(seed_entity_ids=[number]),
]


def test_an_id_that_can_not_be_is_not_there(session: Session) -> None:
    session.add_entities(NewEntity(f"e{n}", f"e{n}") for n in range(1_023))  # a whole block of the table
    session.add_document("d")
    for id in (-1, -1_024, 0, 2**63, 2**70):
        for refused in IMPOSSIBLE:
            with pytest.raises((NotFoundError, InvalidArgumentError)):
                refused(session, id)
    assert session.info().entity_count == 1_023
    assert session.info().textunit_count == 0


WRONG: list[Callable[[Any], object]] = [
    lambda s: s.add_textunit("t", 1, "x", token_count=2.0),
    lambda s: s.add_textunit("t", 1, "x", token_count=True),
    lambda s: s.add_textunit("t", True, "x"),
    lambda s: s.add_textunit("t", 1, b"x"),
    lambda s: s.add_document("e", None),
    lambda s: s.add_document("e", b"f"),
    lambda s: s.add_entity("e", "t", None),
    lambda s: s.add_entity("e", "t", b"kind"),
    lambda s: s.add_entity("e", "t", embedding="text"),
    lambda s: s.add_relationship(1, 1, type=5),
    lambda s: s.add_community(NewCommunity("c", level=1.5)),  # type: ignore[arg-type]
    lambda s: s.set_ttl(1.5),
    lambda s: s.set_ttl(0.0, 60.0),
    lambda s: s.update_entity_description(1, None),
    lambda s: s.add_documents([NewDocument("x", b"f")]),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_value_of_a_wrong_type_never_costs_the_store(number: int, tmp_path: Any) -> None:
    """It is refused, or taken as what it stands for; the store goes on, and starts again with the same contents."""
    with gibramdb.open(tmp_path / "data", vector_dim=8) as store:
        session = store.session("s")
        session.add_document("d")
        session.add_entity("first", "first")
        before = store.digest()
        with pytest.raises(GibramError) as refusal:
            WRONG[number](session)
        assert not isinstance(refusal.value, gibramdb.errors.UnavailableError)
        assert store.digest() == before
        assert store.health().status == "ok"
        session.add_document("after")
        after = store.digest()
    with gibramdb.open(tmp_path / "data", vector_dim=8) as store:
        assert store.digest() == after


def test_a_session_must_have_a_name(store: Store) -> None:
    nameless = store.session("")
    for asked in (
        lambda: nameless.add_document("d"),
        nameless.info,
        nameless.touch,
        nameless.delete,
        lambda: nameless.get_entities([1]),
        lambda: list(nameless.entities()),
        lambda: nameless.query(V),
        nameless.detect_communities,
    ):
        with pytest.raises(InvalidArgumentError, match="session_id is required"):
            asked()
    assert store.sessions() == []


def test_a_whole_number_that_is_too_large_for_a_weight_is_refused_as_any_other() -> None:
    with gibramdb.open(vector_dim=8) as db:
        session = db.session("s")
        session.add_entity("n", "n")
        for weight in (10**39, 1e39):
            with pytest.raises(InvalidArgumentError, match="relationship weight does not fit in a 32-bit float: 1"):
                session.add_relationship(1, 1, weight=weight)
