"""Adding, reading, changing and deleting: what is answered, what is refused, in which order, with which words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit, Session
from gibramdb.core.limits import BULK_ITEMS_MAX
from gibramdb.errors import (
    AlreadyExistsError,
    DimensionMismatchError,
    GibramError,
    InvalidArgumentError,
    LimitExceededError,
    NotFoundError,
    SessionNotFoundError,
    StillReferencedError,
)

V = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
BIG = "x" * 1_048_577


def furnish(session: Session) -> None:
    """Ids 1 and 2 of each kind; 1 is referred to, 2 is free. Entities 1 to 4."""
    session.add_documents([NewDocument("d1", "f"), NewDocument("d2")])
    session.add_textunits([NewTextUnit("t1", 1, "text", V, 3), NewTextUnit("t2", 1, "more")])
    session.add_entities([NewEntity(f"e{number}", f"Title {number}", "kind", "said", V) for number in range(1, 5)])
    session.add_relationships([NewRelationship(1, 3, "knows"), NewRelationship(3, 4, "knows")])
    session.add_community(NewCommunity("one", (4,), (1,), external_id="c1"))
    session.link(1, 1)


def test_what_is_added_is_read_back(session: Session) -> None:
    furnish(session)
    document = session.get_document(1)
    assert (document.external_id, document.filename, document.textunit_ids) == ("d1", "f", (1, 2))
    textunit = session.get_textunit(1)
    assert (textunit.content, textunit.document_id, textunit.token_count, textunit.entity_ids) == ("text", 1, 3, (1,))
    entity = session.get_entity(1)
    assert (entity.title, entity.type, entity.description, entity.textunit_ids) == ("TITLE 1", "kind", "said", (1,))
    assert session.get_entity_by_title(" title 2 ").id == 2
    relationship = session.get_relationship(1)
    assert (relationship.source_id, relationship.target_id, relationship.weight) == (1, 3, 1.0)
    community = session.get_community(1)
    assert (community.title, community.entity_ids, community.relationship_ids) == ("one", (4,), (1,))
    assert community.origin == "caller"
    info = session.info()
    assert (info.document_count, info.textunit_count, info.entity_count) == (2, 2, 4)
    assert (info.relationship_count, info.community_count) == (2, 1)
    assert document.created_at_ms > 1_600_000_000_000


REFUSALS: list[tuple[Callable[[Session], object], type[GibramError], str]] = [
    (lambda s: s.add_document(" \u3000"), InvalidArgumentError, "document external_id is required"),
    (lambda s: s.add_document("d1"), AlreadyExistsError, "document with external_id d1 already exists"),
    (lambda s: s.add_textunit("", 1, "x"), InvalidArgumentError, "textunit external_id is required"),
    (lambda s: s.add_textunit("t1", 9, "x"), NotFoundError, "textunit document_id 9 does not exist"),
    (
        lambda s: s.add_textunit("t1", 1, "x", [1.0]),
        DimensionMismatchError,
        "textunit embedding dimension mismatch: expected 8, got 1",
    ),
    (lambda s: s.add_textunit("t1", 1, "x"), AlreadyExistsError, "textunit with external_id t1 already exists"),
    (lambda s: s.add_textunit("new", 1, BIG), LimitExceededError, "content too large: 1048577 bytes (max: 1048576)"),
    (lambda s: s.add_entity("", "title 1"), InvalidArgumentError, "entity external_id is required"),
    (lambda s: s.add_entity("e1", "title 1"), AlreadyExistsError, "entity with title title 1 already exists"),
    (lambda s: s.add_entity("e1", "new"), AlreadyExistsError, "entity with external_id e1 already exists"),
    (
        lambda s: s.add_entity("new", "new", embedding=[*V, 9.0]),
        DimensionMismatchError,
        "entity embedding dimension mismatch: expected 8, got 9",
    ),
    (
        lambda s: s.add_entity("new", "new", embedding=[*V[:7], math.nan]),
        InvalidArgumentError,
        "entity embedding contains non-finite value at index 7",
    ),
    (
        lambda s: s.add_entity("new", "new", embedding=[math.inf, *V[1:]]),
        InvalidArgumentError,
        "entity embedding contains non-finite value at index 0",
    ),
    (lambda s: s.add_entity("new", "new", "", BIG), LimitExceededError, "description too large"),
    (lambda s: s.add_relationship(9, 8), NotFoundError, "relationship source_id 9 does not exist"),
    (lambda s: s.add_relationship(1, 9), NotFoundError, "relationship target_id 9 does not exist"),
    (
        lambda s: s.add_relationship(1, 3, "knows"),
        AlreadyExistsError,
        "relationship from 1 to 3 with type knows already exists",
    ),
    (lambda s: s.add_relationship(1, 2, weight=math.nan), InvalidArgumentError, "relationship weight must be finite"),
    (
        lambda s: s.add_community(NewCommunity("x", external_id="c1")),
        AlreadyExistsError,
        "community with external_id c1 already exists",
    ),
    (lambda s: s.add_community(NewCommunity("x", (9,))), NotFoundError, "community entity_id 9 does not exist"),
    (
        lambda s: s.add_community(NewCommunity("x", (1,), (9,))),
        NotFoundError,
        "community relationship_id 9 does not exist",
    ),
    (
        lambda s: s.add_community(NewCommunity("x", embedding=[1.0])),
        DimensionMismatchError,
        "community embedding dimension mismatch",
    ),
    (lambda s: s.get_document(9), NotFoundError, "document not found"),
    (lambda s: s.get_textunit(9), NotFoundError, "textunit not found"),
    (lambda s: s.get_entity(9), NotFoundError, "entity not found"),
    (lambda s: s.get_entity_by_title("nobody"), NotFoundError, "entity not found"),
    (lambda s: s.get_relationship(9), NotFoundError, "relationship not found"),
    (lambda s: s.get_community(9), NotFoundError, "community not found"),
    (lambda s: s.delete_document(1), StillReferencedError, "document 1 has dependent text units"),
    (lambda s: s.delete_textunit(1), StillReferencedError, "textunit 1 is linked to entities"),
    (lambda s: s.delete_entity(1), StillReferencedError, "entity 1 is linked to text units"),
    (lambda s: s.delete_entity(3), StillReferencedError, "entity 3 is linked to relationships"),
    (lambda s: s.delete_relationship(1), StillReferencedError, "relationship 1 is referenced by communities"),
    (lambda s: s.delete_document(9), NotFoundError, "document not found"),
    (lambda s: s.delete_community(9), NotFoundError, "community not found"),
    (lambda s: s.link(9, 1), NotFoundError, "link failed"),
    (lambda s: s.link(1, 9), NotFoundError, "link failed"),
    (lambda s: s.update_entity_description(9, "x"), NotFoundError, "update failed"),
    (lambda s: s.update_entity_description(1, "x", [1.0]), DimensionMismatchError, "update failed"),
    (lambda s: s.update_entity_description(1, "x", [math.nan, *V[1:]]), InvalidArgumentError, "update failed"),
    (
        lambda s: s.add_documents([NewDocument("n"), NewDocument("d1")]),
        AlreadyExistsError,
        "atomic bulk documents failed at index 1: document with external_id d1 already exists; no items committed",
    ),
    (
        lambda s: s.add_textunits([NewTextUnit("n", 1, ""), NewTextUnit("t1", 9, "")]),
        AlreadyExistsError,
        "atomic bulk textunits failed at index 1: textunit with external_id t1 already exists",
    ),
    (
        lambda s: s.add_textunits([NewTextUnit("n", 1, ""), NewTextUnit("m", 1, BIG)]),
        LimitExceededError,
        "textunits[1].content too large",
    ),
    (
        lambda s: s.add_entities([NewEntity("n", "N"), NewEntity("m", "n")]),
        AlreadyExistsError,
        "atomic bulk entities failed at index 1: entity with title n already exists in bulk request",
    ),
    (
        lambda s: s.add_entities([NewEntity("n", "N"), NewEntity("n", "M")]),
        AlreadyExistsError,
        "entity with external_id n already exists in bulk request",
    ),
    (
        lambda s: s.add_relationships([NewRelationship(1, 2), NewRelationship(1, 2)]),
        AlreadyExistsError,
        "atomic bulk relationships failed at index 1: relationship from 1 to 2 with type  already exists in bulk request",
    ),
]


def test_every_refusal_has_its_class_its_words_and_no_effect(session: Session) -> None:
    furnish(session)
    for refused, error, words in REFUSALS:
        before = session.digest()
        with pytest.raises(error) as refusal:
            refused(session)
        assert type(refusal.value) is error, words
        assert words in str(refusal.value)
        assert session.digest() == before, words


def test_ids_rise_are_never_reused_and_a_refused_command_takes_none(session: Session) -> None:
    furnish(session)
    with pytest.raises(AlreadyExistsError):
        session.add_entity("e1", "x")
    assert session.add_entity("free", "free") == 5
    session.delete_entity(5)
    assert session.add_entities([NewEntity("free", "free"), NewEntity("next", "next")]) == [6, 7]
    assert session.add_documents([]) == []


def test_a_refused_first_write_makes_no_session(session: Session) -> None:
    with pytest.raises(NotFoundError):
        session.add_textunit("t", 1, "no such document")
    with pytest.raises(SessionNotFoundError, match="session not found"):
        session.info()
    for refused in (
        lambda: session.get_entity(1),
        lambda: session.delete_entity(1),
        lambda: session.touch(),
        lambda: session.delete(),
    ):
        with pytest.raises(SessionNotFoundError, match="session not found"):
            refused()
    assert session.get_entities([1, 2]) == []
    assert list(session.entities()) == []


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("  a ", "A"),
        ("straße", "STRAßE"),
        ("ﬁn", "ﬁN"),
        ("ᾳ", "ᾼ"),
        ("ı", "I"),
        ("\u001ca", "\u001cA"),
        ("\u00a0x\u3000", "X"),
        ("", ""),
    ],
)
def test_titles_are_normalised_letter_by_letter(given: str, stored: str) -> None:
    from gibramdb.core.titles import normalise_title

    assert normalise_title(given) == stored


def test_titles_are_unique_once_normalised(session: Session) -> None:
    session.add_entity("1", "Straße")
    with pytest.raises(AlreadyExistsError):
        session.add_entity("2", " STRAßE ")
    assert session.get_entity_by_title("straße").title == "STRAßE"
    session.add_entity("3", "STRASSE")
    session.add_entity("4", "  ")
    with pytest.raises(AlreadyExistsError):
        session.add_entity("5", "")


def test_links_are_idempotent_and_keep_their_order(session: Session) -> None:
    furnish(session)
    for entity in (3, 2, 3, 1):
        session.link(2, entity)
    assert session.get_textunit(2).entity_ids == (3, 2, 1)
    assert session.get_entity(1).textunit_ids == (1, 2)


def test_a_link_can_be_taken_back_and_what_it_held_can_go(session: Session) -> None:
    session.add_document("d")
    session.add_textunits([NewTextUnit("t1", 1, ""), NewTextUnit("t2", 1, "")])
    session.add_entities([NewEntity("e1", "one"), NewEntity("e2", "two")])
    session.link_many([(1, 1), (1, 2), (2, 1)])
    session.unlink(1, 1)
    assert (session.get_textunit(1).entity_ids, session.get_entity(1).textunit_ids) == ((2,), (2,))
    before = session.digest()
    session.unlink(1, 1)
    assert session.digest() == before, "taking back what is not there changes nothing"
    for pair, words in (
        ((9, 1), "unlink failed: textunit not found: 9"),
        ((1, 9), "unlink failed: entity not found: 9"),
    ):
        with pytest.raises(NotFoundError, match=words):
            session.unlink(*pair)
    session.link(1, 1)
    assert session.get_textunit(1).entity_ids == (2, 1), "a new link is the last one"
    session.unlink(2, 1)
    session.delete_textunit(2)
    session.unlink(1, 1)
    session.delete_entity(1)
    assert session.get_textunit(1).entity_ids == (2,)


def test_a_cascade_takes_what_refers_to_an_object_and_nothing_else(session: Session) -> None:
    furnish(session)
    session.add_relationships([NewRelationship(1, 1, "self"), NewRelationship(2, 1), NewRelationship(3, 4)])
    session.add_community(NewCommunity("all", (1, 2, 3, 4, 1), (1, 2, 3, 4), embedding=V))
    session.link_many([(1, 2), (2, 1)])
    session.cascade_delete_relationship(2)
    assert session.get_community(2).relationship_ids == (1, 3, 4)
    session.cascade_delete_entity(1)
    assert [entity.id for entity in session.entities()] == [2, 3, 4]
    assert [each.id for each in session.relationships()] == [5]
    community = session.get_community(2)
    assert (community.entity_ids, community.relationship_ids, community.title) == ((2, 3, 4), (), "all")
    assert session.get_community(1).relationship_ids == ()
    assert session.get_textunit(1).entity_ids == (2,)
    assert [hit.community.id for hit in session.query(V, search_types=["community"]).communities] == [2]
    session.cascade_delete_textunit(1)
    assert session.get_entity(2).textunit_ids == ()
    assert [each.id for each in session.textunits()] == [2]
    session.link(2, 3)
    session.cascade_delete_document(1)
    assert [each.id for each in session.documents()] == [2]
    assert list(session.textunits()) == []
    assert session.get_entity(3).textunit_ids == ()
    before = session.digest()
    session.rebuild_indexes()
    assert session.digest() == before
    for noun in ("document", "textunit", "entity", "relationship"):
        with pytest.raises(NotFoundError, match=f"{noun} not found: 1"):
            getattr(session, f"cascade_delete_{noun}")(1)
    session.add_entity("e1", "title 1")
    assert session.get_entity_by_title("title 1").id == 5


def test_communities_are_listed_page_by_page(session: Session) -> None:
    session.add_entities([NewEntity(f"e{n}", f"e{n}") for n in range(3)])
    add = session.add_community  # asked for once: no start before each
    for number in range(1_002):
        add(NewCommunity(f"c{number}", (1, 2)))
    session.delete_community(2)
    listed = list(session.communities())
    assert [each.id for each in listed] == [1, *range(3, 1_003)]
    assert (listed[-1].title, listed[-1].entity_ids) == ("c1001", (1, 2))


def test_an_object_is_found_by_the_name_that_its_caller_gave_it(session: Session) -> None:
    session.add_documents([NewDocument("x"), NewDocument(" x")])
    session.add_textunit("x", 2, "said")
    session.add_entities([NewEntity("x", "one"), NewEntity("X", "two")])
    session.add_relationships([NewRelationship(1, 1), NewRelationship(1, 2, external_id="x")])
    session.add_community(NewCommunity("", external_id="x"))
    session.link(1, 2)
    assert session.get_document_by_external_id(" x") == session.get_document(2)
    assert session.get_document_by_external_id(" x").textunit_ids == (1,)
    assert session.get_textunit_by_external_id("x") == session.get_textunit(1)
    assert session.get_entity_by_external_id("X") == session.get_entity(2)
    assert session.get_entity_by_external_id("X").textunit_ids == (1,)
    assert session.get_relationship_by_external_id("x") == session.get_relationship(2)
    assert session.get_community_by_external_id("x") == session.get_community(1)
    for noun in ("document", "textunit", "entity", "relationship", "community"):
        for unknown in ("", "y"):
            with pytest.raises(NotFoundError, match=f"{noun} not found: external_id {unknown}"):
                getattr(session, f"get_{noun}_by_external_id")(unknown)
    session.delete_community(1)
    with pytest.raises(NotFoundError):
        session.get_community_by_external_id("x")


def test_an_update_replaces_the_description_and_only_a_given_vector(session: Session) -> None:
    furnish(session)
    session.update_entity_description(1, "")
    assert session.get_entity(1).description == ""
    other = [8.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert session.query(V, top_k=1, hops=0, search_types=["entity"]).entities[0].entity.id == 1
    session.update_entity_description(1, "moved", other)
    assert session.query(other, top_k=1, hops=0, search_types=["entity"]).entities[0].entity.id == 1
    assert session.query(V, top_k=1, hops=0, search_types=["entity"]).entities[0].entity.id == 2


def test_weights_are_float32_and_0_means_1(session: Session) -> None:
    furnish(session)
    for number, (given, stored) in enumerate([(0.0, 1.0), (-2.5, -2.5), (0.1, 0.10000000149011612)]):
        id = session.add_relationship(2, 4, f"w{number}", weight=given)
        assert session.get_relationship(id).weight == stored


def test_bulk_reads_keep_order_skip_what_is_missing_and_repeat(session: Session) -> None:
    furnish(session)
    assert [each.id for each in session.get_entities([3, 99, 1, 3])] == [3, 1, 3]
    assert [each.id for each in session.get_documents([2, 1])] == [2, 1]
    # More than one command may name, in chunks; and in order.
    many = [3, 1] * (BULK_ITEMS_MAX // 2 + 1)
    assert [each.id for each in session.get_entities(iter(many))] == many
    assert [each.id for each in session.get_textunits([2, 2])] == [2, 2]
    assert [each.id for each in session.get_relationships([9, 2])] == [2]
    # With the same links and contents as alone.
    assert session.get_entities([3, 1, 3]) == [session.get_entity(id) for id in (3, 1, 3)]
    assert session.get_textunits([2, 1, 2]) == [session.get_textunit(id) for id in (2, 1, 2)]
    assert session.get_entity(1).textunit_ids
    assert session.get_textunit(1).entity_ids


def test_lists_walk_all_pages(session: Session) -> None:
    session.add_entities(NewEntity(f"e{number}", f"e{number}") for number in range(2_500))
    assert [entity.id for entity in session.entities()] == list(range(1, 2_501))
    assert [document.id for document in session.documents()] == []


def test_a_bulk_add_in_several_chunks_says_which_object_failed_and_what_is_stored(session: Session) -> None:
    new = [NewDocument(f"chunk {index}") for index in range(5_003)]
    with pytest.raises(AlreadyExistsError, match=r"index 3: .*counted from object 5000: those before it are stored"):
        session.add_documents([*new, new[0]])
    assert session.info().document_count >= 5_000
