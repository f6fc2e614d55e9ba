"""Queries, their ranking, their explanation; communities."""

from __future__ import annotations

import math
import random

import msgspec
import numpy as np
import pytest
from support.owned_store import VECTOR_DIM, OwnedStore

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit, Session
from gibramdb.errors import (
    DimensionMismatchError,
    GibramError,
    InvalidArgumentError,
    LimitExceededError,
    NotFoundError,
    RetrievalNotReadyError,
)
from gibramdb.model import commands as c
from gibramdb.model.results import Detected, Explanation, Hierarchy, QueryResult


def axis(number: int, other: float = 0.0) -> list[float]:
    vector = [0.0] * 8
    vector[number] = 1.0
    vector[(number + 1) % 8] = other
    return vector


def chain(session: Session) -> None:
    """Entities 1-5 in a chain 1→2→3→4→5 of type next, 2→5 of type skip; 1 and 2 have vectors; text unit 1 names 4."""
    session.add_documents([NewDocument("d")])
    session.add_textunits([NewTextUnit("t1", 1, "about four", axis(2)), NewTextUnit("t2", 1, "about three")])
    vectors = {1: axis(0), 2: axis(0, 1.0)}
    session.add_entities(
        [NewEntity(f"e{n}", f"E{n}", "odd" if n % 2 else "even", embedding=vectors.get(n, b"")) for n in range(1, 6)]
    )
    session.add_relationships([NewRelationship(n, n + 1, "next") for n in range(1, 5)])
    session.add_relationships([NewRelationship(2, 5, "skip")])
    session.link(1, 4)
    session.link(2, 3)


def hits(result: QueryResult) -> list[tuple[int, int, float]]:
    return [(hit.entity.id, hit.hop, round(hit.score, 6)) for hit in result.entities]


def test_hits_alone_without_hops(session: Session) -> None:
    chain(session)
    result = session.query(axis(0), top_k=2, hops=0)
    assert hits(result) == [(1, 0, 1.0), (2, 0, 0.707107)]
    assert [hit.textunit.id for hit in result.textunits] == [1]
    assert [(hit.source_title, hit.target_title) for hit in result.relationships] == [("E1", "E2")]
    assert result.stats.vector_searches == 2
    assert result.stats.skipped_seed_indexes == ("community",)
    assert result.stats.graph_traversals == 0


def test_the_walk_scores_by_steps_and_ties_go_to_the_lower_id(session: Session) -> None:
    chain(session)
    result = session.query(axis(0), top_k=1, hops=2, search_types=["entity"])
    assert hits(result) == [(1, 0, 1.0), (2, 1, 0.5), (3, 2, 0.333333), (5, 2, 0.333333)]
    assert [(hit.textunit.id, hit.hop, round(hit.score, 6)) for hit in result.textunits] == [(2, 3, 0.25)]
    titles = {"E1", "E2", "E3", "E5"}
    assert {(hit.source_title, hit.target_title) for hit in result.relationships} == {
        ("E1", "E2"),
        ("E2", "E3"),
        ("E2", "E5"),
    }
    assert {title for hit in result.relationships for title in (hit.source_title, hit.target_title)} <= titles


def test_what_a_hit_text_unit_names_begins_the_walk_one_step_away(session: Session) -> None:
    chain(session)
    result = session.query(axis(2), top_k=1, hops=1, search_types=["textunit"])
    assert hits(result)[0] == (4, 0, 0.5)
    assert {hit[0] for hit in hits(result)} == {3, 4, 5}
    assert all(hit[2] == 0.333333 for hit in hits(result)[1:])
    assert result.textunits[0].similarity == 1.0


POOR = [7.0, 24.0, *[0.0] * 6]
"""An embedding that scores 0.28 where `axis(0)` is asked for."""


def test_a_far_seed_gives_the_score_where_it_is_better_than_a_near_one(session: Session) -> None:
    """4 is one relationship from a poor hit, and two from the best."""
    session.add_entities([NewEntity("good", "G", embedding=axis(0)), NewEntity("poor", "P", embedding=POOR)])
    session.add_entities([NewEntity("between", "B"), NewEntity("x", "X")])
    session.add_relationships([NewRelationship(2, 4), NewRelationship(1, 3), NewRelationship(3, 4)])
    result = session.query(axis(0), top_k=2, hops=2)
    assert hits(result) == [(1, 0, 1.0), (3, 1, 0.5), (4, 1, 0.333333), (2, 0, 0.28)]
    assert hits(session.query(axis(0), top_k=2, hops=1))[-1] == (4, 1, 0.14), "the best is out of reach"


def test_a_seed_gives_the_score_where_it_is_better_than_a_hit_that_is_linked(session: Session) -> None:
    session.add_documents([NewDocument("d")])
    session.add_textunits([NewTextUnit("t1", 1, "", POOR), NewTextUnit("t2", 1, "")])
    session.add_entities([NewEntity("good", "G", embedding=axis(0)), NewEntity("x", "X")])
    session.add_relationship(1, 2)
    session.link(1, 2)
    session.link(2, 2)
    result = session.query(axis(0), top_k=1, hops=1)
    assert hits(result) == [(1, 0, 1.0), (2, 0, 0.5)]
    texts = [(hit.textunit.id, hit.hop, round(hit.score, 6)) for hit in result.textunits]
    assert texts == [(2, 1, 0.333333), (1, 0, 0.28)]


def test_the_walk_goes_on_among_what_it_has_met_and_ends_at_the_first_that_is_one_too_many(session: Session) -> None:
    session.add_entities([NewEntity("e1", "E1", embedding=POOR), *(NewEntity(f"e{n}", f"E{n}") for n in range(2, 6))])
    session.add_relationships([NewRelationship(1, 3), NewRelationship(2, 3), NewRelationship(2, 4)])

    def asked(entities_max: int) -> list[tuple[int, int, float]]:
        return hits(session.query(axis(0), hops=1, entities_max=entities_max, seed_entity_ids=[2]))

    assert asked(4) == [(2, 0, 1.0), (3, 1, 0.5), (4, 1, 0.5), (1, 0, 0.28)]
    assert asked(3) == [(2, 0, 1.0), (3, 1, 0.5), (1, 0, 0.28)], "met from 1 at the limit, and then from 2, before 4"
    session.add_relationships([NewRelationship(1, 5)])
    assert asked(3) == [(2, 0, 1.0), (1, 0, 0.28), (3, 1, 0.14)], "it ends at 5, before it goes on from 2"


def test_seeds_and_filters(session: Session) -> None:
    chain(session)
    result = session.query(seed_entity_ids=[5], hops=1)
    assert hits(result) == [(5, 0, 1.0), (2, 1, 0.5), (4, 1, 0.5)]
    result = session.query(seed_entity_ids=[5], hops=3, relationship_types=["skip"])
    assert [hit[0] for hit in hits(result)] == [5, 2]
    assert {hit.relationship.type for hit in result.relationships} == {"skip"}
    result = session.query(axis(0), top_k=5, hops=3, entity_types=["odd"], search_types=["entity"])
    assert [hit[0] for hit in hits(result)] == [1]
    with pytest.raises(NotFoundError, match="seed 9"):
        session.query(seed_entity_ids=[9])


def test_limits_cut_after_ranking_and_stop_the_walk(session: Session) -> None:
    chain(session)
    assert [hit[0] for hit in hits(session.query(axis(0), top_k=2, hops=3, entities_max=1))] == [1]
    result = session.query(axis(0), top_k=1, hops=5, entities_max=3, search_types=["entity"])
    assert [hit[0] for hit in hits(result)] == [1, 2, 3]
    best = session.query(axis(0), top_k=1, hops=3, textunits_max=1).textunits
    assert [(hit.textunit.id, hit.score) for hit in best] == [(2, 0.25)]


def test_relationships_are_those_between_all_that_was_found_before_the_cut(session: Session) -> None:
    session.add_entities(NewEntity(f"e{n}", f"e{n}", embedding=axis(0, n / 10)) for n in range(1, 7))
    for source_id, target_id in ((1, 2), (5, 6)):
        session.add_relationship(source_id, target_id)
    result = session.query(axis(0), top_k=6, hops=1, entities_max=2)
    assert [hit[0] for hit in hits(result)] == [1, 2]
    ends = [(hit.relationship.source_id, hit.relationship.target_id) for hit in result.relationships]
    assert ends == [(1, 2), (5, 6)]
    assert result.relationships[1].target_title == "E6"


def test_an_answer_of_more_text_than_fits_is_refused_before_it_is_made(session: Session) -> None:
    """A title stands in each relationship's hit, so a hub's can be there thousands of times."""
    session.add_entity("hub", "H" * 500_000, embedding=axis(0))
    session.add_entities(NewEntity(f"e{n}", f"e{n}") for n in range(200))
    session.add_relationships(NewRelationship(1, n + 2) for n in range(200))
    with pytest.raises(LimitExceededError, match="answer too large"):
        session.query(axis(0), hops=1, entities_max=1_000)
    assert len(session.query(axis(0), hops=1, entities_max=50).entities) == 50


def test_links_and_members_are_weighed_before_they_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gibramdb.core.limits.GET_BYTES_MAX", 100_000)  # the figure, not the rule
    store = OwnedStore(durable=False)
    store.run(c.AddDocuments("s", (NewDocument("d"),)))
    store.run(c.AddEntities("s", (NewEntity("hub", "hub", embedding=[1, 0, 0]),)))
    for number in range(1, 31):
        store.run(c.AddCommunity("s", NewCommunity(f"c{number}", (1,) * 1_000, embedding=[0, 1, number])))
        store.run(c.AddTextUnits("s", tuple(NewTextUnit(f"t{number}-{n}", 1, "") for n in range(500))))
        for n in range(500):
            store.run(c.LinkTextUnitEntity("s", 500 * (number - 1) + n + 1, 1))

    def asked(search_type: str, top_k: int, hops: int = -1, **most: int) -> object:
        vector = [1.0, 0.0, 0.0] if search_type == "entity" else [0.0, 1.0, 0.0]
        return store.run(
            c.Query("s", np.array(vector, "<f4").tobytes(), (search_type,), top_k, hops, **most)  # type: ignore[arg-type]
        )

    few = asked("community", 5, communities_max=30)
    assert isinstance(few, QueryResult)
    assert len(few.communities) == 5
    for refused in (
        asked("community", 30, communities_max=30),
        asked("community", 30, hops=1, communities_max=1),  # it would start from all of them
        asked("entity", 1),  # linked 15,000 times
    ):
        assert isinstance(refused, LimitExceededError)
        assert "answer too large" in str(refused)
        assert "weighs over 100000 bytes" in str(refused)
    assert isinstance(asked("community", 30, communities_max=1), QueryResult)
    store.close()


def test_words_that_a_client_sends_for_kinds_that_are_none_are_passed_over() -> None:
    store = OwnedStore()
    store.run(c.AddEntities("s", (NewEntity("e", "e", embedding=[1.0] * VECTOR_DIM),)))
    asked = c.Query("s", vector=[1.0] * VECTOR_DIM, search_types=("nonsense", "entity"))
    answer = store.run(asked)
    assert isinstance(answer, QueryResult)
    assert len(answer.entities) == 1
    refused = store.run(msgspec.structs.replace(asked, search_types=("nonsense",)))
    assert isinstance(refused, RetrievalNotReadyError)
    assert str(refused).endswith("skipped=[]")
    store.close()


def test_what_can_not_be_asked(session: Session) -> None:
    with pytest.raises(GibramError):
        session.query(axis(0))
    session.add_entities([NewEntity("e", "e")])
    with pytest.raises(RetrievalNotReadyError, match=r"^retrieval ready error.*skipped=\[textunit entity community\]$"):
        session.query(axis(0))
    with pytest.raises(InvalidArgumentError, match=r"^search_types\[0\] must be one of"):
        session.query(axis(0), search_types=["nonsense"])
    session.add_entities([NewEntity("f", "f", embedding=axis(0))])
    for length in (1, 7, 9):
        with pytest.raises(DimensionMismatchError, match=f"expected 8, got {length}"):
            session.query([1.0] * length)
    with pytest.raises(DimensionMismatchError, match="got 0"):
        session.query()
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(InvalidArgumentError, match="non-finite value at index 3"):
            session.query([*axis(0)[:3], bad, *axis(0)[4:]])
    for name in ("top_k", "entities_max", "textunits_max", "communities_max"):
        with pytest.raises(InvalidArgumentError, match="must not be negative, got -1"):
            session.query(axis(0), **{name: -1})  # type: ignore[arg-type]
    huge = session.query(axis(0), top_k=2**31 - 1, hops=2**31 - 1, entities_max=2**31 - 1)
    assert [hit.entity.id for hit in huge.entities] == [2]


def test_exact_at_any_size_and_the_same_every_time(session: Session) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(3_000, 8)).astype(np.float32)
    session.add_entities(NewEntity(f"e{n}", f"e{n}", embedding=vector) for n, vector in enumerate(vectors))
    for query in rng.normal(size=(5, 8)).astype(np.float32):
        wide = vectors.astype(np.float64)
        cosines = wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query.astype(np.float64))
        expected = [int(index) + 1 for index in np.argsort(-cosines, kind="stable")[:10]]
        first = session.query(query, top_k=10, hops=0, search_types=["entity"])
        assert [hit.entity.id for hit in first.entities] == expected
        again = session.query(query, top_k=10, hops=0, search_types=["entity"])
        assert again.entities == first.entities


def test_a_walk_is_explained_step_by_step() -> None:
    store = OwnedStore(durable=False)
    store.run(c.AddEntities("s", tuple(NewEntity(f"e{n}", f"e{n}") for n in range(1, 5))))
    store.run(
        c.AddRelationships(
            "s", (NewRelationship(1, 2, "a"), NewRelationship(3, 2, "b", weight=0.5), NewRelationship(3, 4))
        )
    )
    result = store.run(c.Query("s", seed_entity_ids=(1,), hops=3))
    assert isinstance(result, QueryResult)
    steps = store.run(c.Explain("s", result.query_id)).steps  # type: ignore[union-attr]
    assert [(step.from_entity_id, step.to_entity_id, step.relationship_type, step.hop) for step in steps] == [
        (1, 2, "a", 1),
        (2, 3, "b", 2),
        (3, 4, "", 3),
    ]
    assert steps[1].weight == 0.5


def test_explain_belongs_to_its_session() -> None:
    store = OwnedStore(durable=False)
    for name in ("mine", "theirs"):
        store.run(c.AddEntities(name, (NewEntity("e", "e", embedding=[1.0, 0.0, 0.0]),)))
    result = store.run(c.Query("mine", vector=[1.0, 0.0, 0.0]))
    assert isinstance(result, QueryResult)
    assert result.query_id == 1
    seeds = store.run(c.Explain("mine", 1)).seeds  # type: ignore[union-attr]
    assert [(seed.kind, seed.id, seed.external_id) for seed in seeds] == [("entity", 1, "e")]
    for session_id, query_id in (("theirs", 1), ("mine", 99)):
        refusal = store.run(c.Explain(session_id, query_id))
        assert isinstance(refusal, NotFoundError)
        assert "query not found" in str(refusal)
    store.run(c.DeleteSession("mine"))
    store.run(c.AddDocuments("mine", (NewDocument("d"),)))
    assert isinstance(store.run(c.Explain("mine", 1)), NotFoundError), "a namesake is another session"


def test_what_can_be_explained_is_bounded_by_its_text_too() -> None:
    store = OwnedStore(durable=False)
    long = "x" * 1_000_000
    for number in range(100):
        store.run(c.AddEntities("s", (NewEntity(f"{number}{long}", "e", embedding=[1.0, 0.0, 0.0]),)))
        assert isinstance(store.run(c.Query("s", vector=[1.0, 0.0, 0.0])), QueryResult)
        store.run(c.DeleteEntity("s", number + 1))
    known = [isinstance(store.run(c.Explain("s", number)), Explanation) for number in range(1, 101)]
    assert known == [False] * (100 - sum(known)) + [True] * sum(known), "the oldest are forgotten first"
    assert 60 <= sum(known) <= 67


def cliques(session: Session, count: int, size: int) -> None:
    session.add_entities(NewEntity(f"e{n}", f"e{n}") for n in range(count * size))
    edges = [
        NewRelationship(group * size + a + 1, group * size + b + 1, "in")
        for group in range(count)
        for a in range(size)
        for b in range(a + 1, size)
    ]
    random.Random(1).shuffle(edges)
    session.add_relationships(edges)


def test_communities_are_found_replace_only_detected_ones_and_survive_as_they_are(session: Session) -> None:
    cliques(session, 6, 5)
    by_hand = session.add_community(NewCommunity("by hand", (1, 2), summary="costly", embedding=axis(0)))
    found = session.detect_communities()
    assert sorted(community.entity_ids for community in found) == [tuple(range(s, s + 5)) for s in range(1, 31, 5)]
    assert all(len(community.relationship_ids) == 10 for community in found)
    assert all(community.origin == "detected" and community.created_at_ms > 0 for community in found)
    assert found[0].title.count(", ") == 2
    again = session.detect_communities()
    assert [each.entity_ids for each in again] == [each.entity_ids for each in found]
    assert min(each.id for each in again) > max(each.id for each in found)
    with pytest.raises(NotFoundError):
        session.get_community(found[0].id)
    assert session.get_community(by_hand).summary == "costly"
    assert session.query(axis(0), hops=0).communities[0].community.id == by_hand
    hierarchy = session.detect_hierarchy()
    assert isinstance(hierarchy, Hierarchy)
    assert hierarchy.level_counts[0] == 6
    assert list(hierarchy.level_counts) == sorted(hierarchy.level_counts)
    assert session.info().community_count == hierarchy.total + 1
    for bad in (-1.0, math.nan, math.inf, 1e308, 5e-324):
        with pytest.raises(InvalidArgumentError, match="resolution"):
            session.detect_communities(resolution=bad)


def test_what_a_detection_replaces_is_no_part_of_the_quota_it_needs() -> None:
    store = OwnedStore(durable=False, flags={"security.max_memory_bytes": "4500"})
    store.run(c.AddEntities("s", tuple(NewEntity(f"e{n}", f"e{n}") for n in range(8))))
    for _ in range(3):
        answer = store.run(c.DetectCommunities("s"))
        assert isinstance(answer, Detected), answer


def test_a_detection_decides_on_the_state_of_its_end() -> None:
    """What is deleted while it computes is dropped; a session that is replaced meanwhile gets nothing."""
    store = OwnedStore(durable=False)
    store.run(c.AddEntities("s", tuple(NewEntity(f"e{n}", f"e{n}") for n in range(4))))
    store.run(c.AddRelationships("s", (NewRelationship(1, 2), NewRelationship(3, 4))))
    incarnation = store.state.sessions["s"].incarnation
    clusters = (
        c.DetectedCluster(0, (1, 2), -1, (1,)),
        c.DetectedCluster(0, (3, 4), -1, (2,)),
        c.DetectedCluster(1, (3,), 1),
    )
    store.run(c.DeleteRelationship("s", 2))
    store.run(c.DeleteEntity("s", 3))
    store.run(c.DeleteEntity("s", 4))
    answer = store.run(c.ReplaceCommunities("s", incarnation, clusters, hierarchy=False))
    assert [(each.entity_ids, each.relationship_ids) for each in answer.communities] == [((1, 2), (1,))]  # type: ignore[union-attr]
    store.run(c.DeleteSession("s"))
    store.run(c.AddEntities("s", (NewEntity("x", "x"),)))
    refusal = store.run(c.ReplaceCommunities("s", incarnation, clusters, hierarchy=False))
    assert isinstance(refusal, NotFoundError)
    assert len(store.state.sessions["s"].communities) == 0
