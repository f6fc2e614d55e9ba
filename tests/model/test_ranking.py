"""The ranking of a query, held against one that looks at every seed and everything it reaches."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from support.owned_store import OwnedStore

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.core.state import SessionState
from gibramdb.model import commands as c
from gibramdb.model.knowledge import Relationship
from gibramdb.model.results import QueryResult
from gibramdb.retrieval import query as query_module

Ranking = dict[int, tuple[float, int]]
"""Score and hop by id."""


class Graph(NamedTuple):
    """Angles are those between an object's embedding and the query; None is no embedding."""

    entities: list[tuple[str, float | None]]
    textunits: list[float | None]
    communities: list[tuple[float | None, list[int]]]
    relationships: list[tuple[int, int, str]]
    links: list[tuple[int, int]]


class Asked(NamedTuple):
    """What varies in a query, beside its hops."""

    top_k: int
    search_types: tuple[str, ...]
    seed_ids: tuple[int, ...]
    entity_types: tuple[str, ...]
    relationship_types: tuple[str, ...]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to eight entities, sparse enough for long ways."""
    angle = st.sampled_from([None, None, None, 0.0, 0.3, 0.8, 1.2, 1.4, 1.5, 1.7, 2.4, 3.0])
    entity_count, textunit_count = draw(st.integers(2, 8)), draw(st.integers(1, 4))
    ids = st.integers(1, entity_count)
    end = st.tuples(ids, ids, st.sampled_from("rs"))
    link = st.tuples(st.integers(1, textunit_count), ids)
    return Graph(
        draw(st.lists(st.tuples(st.sampled_from("aab"), angle), min_size=entity_count, max_size=entity_count)),
        draw(st.lists(angle, min_size=textunit_count, max_size=textunit_count)),
        draw(st.lists(st.tuples(angle, st.lists(ids, max_size=4)), max_size=3)),
        draw(st.lists(end, max_size=2 * entity_count, unique=True)),
        draw(st.lists(link, max_size=6, unique=True)),
    )


ASKED = st.builds(
    Asked,
    top_k=st.integers(1, 6),
    search_types=st.sampled_from([(), (), ("textunit",), ("entity",), ("textunit", "community")]),
    seed_ids=st.sampled_from([(), (), (1,), (2, 1)]),
    entity_types=st.sampled_from([(), (), ("a",)]),
    relationship_types=st.sampled_from([(), (), ("r",)]),
)


def embedding(angle: float | None) -> list[float]:
    return [] if angle is None else [math.cos(angle), math.sin(angle), 0.0]


def filled(graph: Graph) -> OwnedStore:
    store = OwnedStore(durable=False)
    textunits = [NewTextUnit(f"t{n}", 1, "", embedding(angle)) for n, angle in enumerate(graph.textunits)]
    entities = [NewEntity(f"e{n}", f"e{n}", kind, "", embedding(a)) for n, (kind, a) in enumerate(graph.entities)]
    for command in (
        c.AddDocuments("s", (NewDocument("d"),)),
        c.AddEntities("s", tuple(entities)),
        c.AddTextUnits("s", tuple(textunits)),
        c.AddRelationships("s", tuple(NewRelationship(*each) for each in graph.relationships)),
        *(c.LinkTextUnitEntity("s", *each) for each in graph.links),
        *(
            c.AddCommunity("s", NewCommunity(f"c{n}", tuple(ids), embedding=embedding(angle)))
            for n, (angle, ids) in enumerate(graph.communities)
        ),
    ):
        answer = store.run(command)
        assert not isinstance(answer, Exception), answer
    return store


def score(seed_score: float, steps: int) -> float:
    return seed_score / (1 + steps) if seed_score >= 0 else seed_score * (1 + steps)


def ranked(graph: Graph, asked: Asked, hops: int, hits: dict[str, dict[int, float]]) -> tuple[Ranking, Ranking]:
    """Entities and text units by the rule's own words: from each seed by itself, over all that it reaches."""
    own = hits["entity"] | dict.fromkeys(asked.seed_ids, 1.0)
    entities = {id: (value, 0) for id, value in own.items()}
    textunits = {id: (value, 0) for id, value in hits["textunit"].items()}
    if hops == 0:
        return entities, textunits
    neighbours = defaultdict(set)
    for source_id, target_id, kind in graph.relationships:
        if not asked.relationship_types or kind in asked.relationship_types:
            neighbours[source_id].add(target_id)
            neighbours[target_id].add(source_id)
    admitted = {
        id for id, (kind, _) in enumerate(graph.entities, 1) if not asked.entity_types or kind in asked.entity_types
    } | set(own)
    starts = [(id, value, 0) for id, value in own.items()]
    starts += [(id, hits["textunit"][each], 1) for each, id in graph.links if each in hits["textunit"]]
    starts += [(id, value, 1) for each, value in hits["community"].items() for id in graph.communities[each - 1][1]]
    for start, value, steps_before in starts:
        level, seen = {start} & admitted, set[int]()
        for hop in range(hops + 1):
            for id in level:
                best, least_hop = entities.get(id, (-math.inf, hop))
                best = own.get(id, max(best, score(value, steps_before + hop)))
                entities[id] = best, min(least_hop, hop)
                for textunit_id in (each for each, other in graph.links if other == id):
                    if textunit_id not in hits["textunit"]:
                        best, least_hop = textunits.get(textunit_id, (-math.inf, hop + 1))
                        found = score(value, steps_before + hop + 1)
                        textunits[textunit_id] = max(best, found), min(least_hop, hop + 1)
            seen |= level
            level = {other for id in level for other in neighbours[id]} & admitted - seen
    return entities, textunits


def asked_of(store: OwnedStore, asked: Asked, hops: int, seed_ids: tuple[int, ...]) -> QueryResult:
    vector = np.array([1, 0, 0], "<f4").tobytes()
    kinds = asked.search_types, asked.entity_types, asked.relationship_types
    command = c.Query("s", vector, kinds[0], asked.top_k, hops or -1, 100, 100, 100, seed_ids, *kinds[1:])
    answer = store.run(command)
    assert isinstance(answer, QueryResult), answer
    return answer


def in_order(ranking: Ranking) -> list[tuple[int, float, int]]:
    ordered = sorted(ranking.items(), key=lambda item: (-item[1][0], item[0]))
    return [(id, value, hop) for id, (value, hop) in ordered]


# A seed that is far and good beside one that is near and poor; one that is too far, beside one that is near and good;
# a link beside a relationship; two that are linked and as far; a hit that is linked to a better one; a
# text unit that is linked to two entities, and a good community beside a poor text unit.
WAY = [(2, 4, "r"), (1, 3, "r"), (3, 4, "r")]
FAR = Graph([("a", 0.0), ("a", 1.4), ("a", None), ("a", None)], [None], [], WAY, [(1, 4)])
TOO_FAR = Graph([("a", 0.0), ("a", 0.3), ("a", None), ("a", None)], [None], [], WAY, [(1, 4)])
LINKED = Graph([("a", 0.0), ("a", None)], [1.4, None], [], [(1, 2, "r")], [(1, 2), (2, 2)])
BOTH_LINKED = Graph([("a", None)] * 3, [1.4, 0.0], [(1.5, [1])], [(1, 3, "r"), (2, 3, "r")], [(1, 1), (2, 2)])
LINKED_HIT = Graph([("a", 1.4), ("a", None)], [0.0], [], [(1, 2, "r")], [(1, 1)])
TWO_OF_A_TEXT = Graph([("a", 0.0), ("a", 1.4), ("a", None)], [None], [], [(1, 3, "r")], [(1, 2), (1, 3)])
MEMBER = Graph([("a", None)], [1.4], [(0.0, [1])], [], [(1, 1)])
ALL = Asked(6, (), (), (), ())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(), asked=ASKED)
@example(graph=FAR, asked=ALL)
@example(graph=TOO_FAR, asked=ALL)
@example(graph=LINKED, asked=ALL)
@example(graph=BOTH_LINKED, asked=ALL)
@example(graph=LINKED_HIT, asked=ALL)
@example(graph=TWO_OF_A_TEXT, asked=ALL)
@example(graph=MEMBER, asked=ALL)
def test_each_score_is_the_best_over_all_seeds_that_reach_it(graph: Graph, asked: Asked) -> None:
    angles = {
        "entity": [angle for _, angle in graph.entities],
        "textunit": graph.textunits,
        "community": [angle for angle, _ in graph.communities],
    }
    has_index = any(angle is not None for kind in asked.search_types or angles for angle in angles[kind])
    assume(has_index or asked.seed_ids)
    store = filled(graph)
    hits: dict[str, dict[int, float]] = {kind: {} for kind in angles}
    if has_index:
        alone = asked_of(store, asked, 0, ())
        hits["entity"] = {hit.entity.id: hit.similarity for hit in alone.entities}
        hits["textunit"] = {hit.textunit.id: hit.similarity for hit in alone.textunits}
        hits["community"] = {hit.community.id: hit.similarity for hit in alone.communities}
    for hops in range(5):
        entities, textunits = ranked(graph, asked, hops, hits)
        result = asked_of(store, asked, hops, asked.seed_ids)
        assert [(hit.entity.id, hit.score, hit.hop) for hit in result.entities] == in_order(entities)
        assert [(hit.textunit.id, hit.score, hit.hop) for hit in result.textunits] == in_order(textunits)
    store.close()


def test_a_graph_in_which_a_better_seed_comes_at_every_hop_is_not_walked_once_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind entity 1 are chains of every length; the further its end, the better a hit it is."""
    entities: list[tuple[str, float | None]] = [("a", None)]
    relationships: list[tuple[int, int, str]] = []
    first = 2
    for length in range(1, 9):
        ids = [1, *range(first, first + length)]
        relationships += [(one, other, "r") for one, other in pairwise(ids)]
        entities += [("a", None)] * (length - 1) + [("a", 1.5 - 0.15 * length)]
        first += length
    store = filled(Graph(entities, [], [], relationships, []))
    turns: Counter[int] = Counter()
    edges = query_module._edges

    def counted(session: SessionState, asked: query_module.Plan, id: int) -> Iterator[tuple[Relationship, int]]:
        turns[id] += 1
        return edges(session, asked, id)

    monkeypatch.setattr(query_module, "_edges", counted)
    for most, again in ((1_000_000, 7), (3 * 8, 3), (0, 0)):  # entity 1 has eight relationships
        monkeypatch.setattr(query_module, "EDGES_AGAIN_MAX", most)
        turns.clear()
        result = asked_of(store, Asked(100, ("entity",), (), (), ()), 32, ())
        assert len(result.entities) == len(entities)
        assert turns[1] <= 1 + again
        assert (turns[1] == 1 + again) == (most != 3 * 8)
        assert sum(count - 1 for count in turns.values()) <= most
