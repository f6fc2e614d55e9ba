"""A query: seeds found by vector or given by id, a walk along relationships, one ranking.

Score, by which each kind is sorted (descending; ties by ascending id) and cut:

    found by vector                    its cosine similarity
    given by the caller as a seed      1.0
    reached by links or relationships  the best, over the seeds that were seen to reach it, of score / (1 + steps)

A seed is a hit of any kind, or an entity given by the caller; it reaches what is within `hops` relationships of it. A
step is a link or a relationship; the link from a hit text unit or a hit community counts as the first one. A seed with
a negative similarity is multiplied instead of divided, so that what is reached never comes before its seed.

`hop` in the answer counts as GibRAM does: all entities the walk starts from have hop 0, and a text unit reached through
an entity has one more than that entity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import msgspec
import numpy as np

from gibramdb.core import limits
from gibramdb.core.state import SessionState
from gibramdb.core.vectors import VectorIndex
from gibramdb.errors import (
    DimensionMismatchError,
    InvalidArgumentError,
    LimitExceededError,
    NotFoundError,
    RetrievalNotReadyError,
)
from gibramdb.model.commands import SEED_KINDS, Query
from gibramdb.model.knowledge import Community, Entity, Relationship, TextUnit
from gibramdb.model.results import (
    CommunityHit,
    EntityHit,
    Explanation,
    QueryResult,
    QueryStats,
    RelationshipHit,
    Seed,
    Step,
    TextUnitHit,
)

EDGES_AGAIN_MAX = 250_000
"""Relationships that one walk goes along again, to hand on what better seeds bring late. A graph can be made in which
each hop brings one to everybody, and a walk must not take a time that grows with hops and relationships both."""
_NO_OFFER = -math.inf


class Visit:
    """An entity in the answer before the cut, and the best of the seeds that have reached it.

    A seed reaches it with an offer: the seed's score, and the steps from there, which are as many as the relationships,
    and one more where the seed is a hit text unit or community: that offer is `linked`, the others are `direct`. An
    offer is taken, and passed on, unless one is known that is as good and as near.

    Offers come hop by hop. So one of an earlier hop is as near as any that comes now, and what comes now must be of a
    better seed; and of one hop, the best offer of each of the two kinds is enough.
    """

    __slots__ = ("best", "direct", "handed_on", "has_own_score", "hop", "linked", "score", "score_beyond", "similarity")

    def __init__(self, hop: int, similarity: float = 0.0, own_score: float | None = None) -> None:
        """own_score: of a seed, which offers do not change."""
        self.hop = hop
        self.similarity = similarity
        self.has_own_score = own_score is not None
        self.score = _NO_OFFER if own_score is None else own_score
        """What it is sorted by."""
        self.score_beyond = _NO_OFFER
        """What a text unit that is linked to it is given."""
        self.best = _NO_OFFER
        """The best seed of those that had reached it by the hop before."""
        self.direct = self.score
        self.linked = _NO_OFFER
        self.handed_on = False

    def take_offers(self, hop: int) -> tuple[float, float]:
        """End a hop: what it passes on at the next, the scores of a direct and of a linked seed, if there is one."""
        direct = self.direct if self.direct > self.best else _NO_OFFER
        linked = self.linked if self.linked > max(self.best, self.direct) else _NO_OFFER
        for seed_score, steps in ((direct, hop), (linked, hop + 1)):
            if seed_score != _NO_OFFER:
                if not self.has_own_score:
                    self.score = max(self.score, _score(seed_score, steps))
                self.score_beyond = max(self.score_beyond, _score(seed_score, steps + 1))
        self.best = self.direct = self.linked = max(self.best, self.direct, self.linked)
        return direct, linked


def _score(seed_score: float, steps: int) -> float:
    return seed_score / (1 + steps) if seed_score >= 0 else seed_score * (1 + steps)


class Plan(NamedTuple):
    """A query with its defaults filled in and its bounds checked."""

    vector: bytes
    kinds: tuple[str, ...]
    skipped: tuple[str, ...]
    top_k: int
    hops: int
    entities_max: int
    textunits_max: int
    communities_max: int
    seed_entity_ids: tuple[int, ...]
    entity_types: frozenset[str]
    relationship_types: frozenset[str]


def plan(session: SessionState, command: Query, vector_dim: int) -> Plan:
    """Check a query and fill in what it leaves open.

    Raises:
        RetrievalNotReadyError: no index it may use holds a vector, and it names no seeds.
        DimensionMismatchError: the vector is not `vector_dim` long.
        InvalidArgumentError: a number is negative, too large, or not finite.
        NotFoundError: a seed entity is not there.
    """
    wanted = tuple(kind for kind in (command.search_types or SEED_KINDS) if kind in SEED_KINDS)
    indexes = vector_indexes(session)
    usable = tuple(dict.fromkeys(kind for kind in wanted if len(indexes[kind])))
    skipped = tuple(kind for kind in wanted if not len(indexes[kind]))
    seed_ids = tuple(dict.fromkeys(command.seed_entity_ids))
    if not usable and not seed_ids:
        raise RetrievalNotReadyError(
            f"retrieval ready error: no index to search holds a vector, skipped=[{' '.join(skipped)}]"
        )
    vector = cast("bytes", command.vector)
    if vector or not seed_ids:
        _check_vector(vector, vector_dim)
    for id in seed_ids:
        if id not in session.entities:
            raise NotFoundError(f"entity not found: seed {id}")
    return Plan(
        vector,
        usable if vector else (),
        skipped,
        _bounded("top_k", command.top_k, limits.TOP_K_DEFAULT, limits.TOP_K_MAX),
        0 if command.hops < 0 else _bounded("k_hops", command.hops, limits.HOPS_DEFAULT, limits.HOPS_MAX),
        _bounded("max_entities", command.entities_max, limits.ENTITIES_MAX_DEFAULT, limits.QUERY_ITEMS_MAX),
        _bounded("max_textunits", command.textunits_max, limits.TEXTUNITS_MAX_DEFAULT, limits.QUERY_ITEMS_MAX),
        _bounded("max_communities", command.communities_max, limits.COMMUNITIES_MAX_DEFAULT, limits.QUERY_ITEMS_MAX),
        seed_ids,
        frozenset(command.entity_types),
        frozenset(command.relationship_types),
    )


def vector_indexes(session: SessionState) -> dict[str, VectorIndex]:
    """By kind, as in SEED_KINDS."""
    return {
        "textunit": session.textunit_vectors,
        "entity": session.entity_vectors,
        "community": session.community_vectors,
    }


def _check_vector(vector: bytes, vector_dim: int) -> None:
    if len(vector) != 4 * vector_dim:
        raise DimensionMismatchError(
            f"query vector dimension mismatch: expected {vector_dim}, got {-(-len(vector) // 4)}"
        )
    finite = np.isfinite(np.frombuffer(vector, "<f4"))
    if not finite.all():
        index = int(np.flatnonzero(~finite)[0])
        raise InvalidArgumentError(f"query vector contains non-finite value at index {index}")


def _bounded(name: str, value: int, default: int, most: int) -> int:
    if value < 0:
        raise InvalidArgumentError(f"{name} must not be negative, got {value}")
    return min(value, most) or default


def run(session: SessionState, command: Query, vector_dim: int, query_id: int) -> tuple[QueryResult, Explanation]:
    """The answer, without its duration, and how it came about.

    Raises as `plan` does, and LimitExceededError if what it starts from or what it found is more than an answer holds.
    """
    asked = plan(session, command, vector_dim)
    hits = _search(session, asked)
    visits = {id: Visit(0, similarity, similarity) for id, similarity in hits["entity"]}
    for id in asked.seed_entity_ids:
        similarity = session.entity_vectors.similarity(id, asked.vector) if asked.vector else 0.0
        visits[id] = Visit(0, similarity, 1.0)
    textunits = {id: (similarity, 0, similarity) for id, similarity in hits["textunit"]}
    steps: list[Step] = []
    if asked.hops > 0:
        _start_from_links(session, asked, hits, visits)
        steps = _walk(session, asked, visits)
        _gather_textunits(session, visits, textunits)

    scales = _Scales("the answer")
    result = QueryResult(
        query_id,
        _ranked_textunits(session, textunits, asked.textunits_max, scales),
        _ranked_entities(session, visits, asked.entities_max, scales),
        _ranked_communities(session, hits["community"][: asked.communities_max], scales),
        _relationships_between(session, visits, asked.relationship_types, scales),
        QueryStats(0, len(asked.kinds), len(steps), asked.skipped),
    )
    return result, Explanation(query_id, _seeds(session, asked, hits), tuple(steps))


def timed(result: QueryResult, duration_us: int) -> QueryResult:
    """The same answer, saying how long it took."""
    stats = msgspec.structs.replace(result.stats, duration_us=duration_us)
    return msgspec.structs.replace(result, stats=stats)


class _Scales:
    """Weighs before anything is built: a few long texts, or lists of links, are soon many times in one query."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bytes = 0

    def add(self, added_bytes: int) -> None:
        """Raises LimitExceededError once it is too much in all."""
        self._bytes += added_bytes
        if self._bytes > limits.GET_BYTES_MAX:
            raise LimitExceededError(
                f"answer too large: {self._what} weighs over {limits.GET_BYTES_MAX} bytes; ask for fewer entities, "
                "text units, communities or hops"
            )


def _search(session: SessionState, asked: Plan) -> dict[str, list[tuple[int, float]]]:
    hits: dict[str, list[tuple[int, float]]] = {kind: [] for kind in SEED_KINDS}
    indexes = vector_indexes(session)

    def is_admitted(id: int) -> bool:
        return _entity(session, id).type in asked.entity_types

    for kind in asked.kinds:
        admits = is_admitted if kind == "entity" and asked.entity_types else None
        hits[kind] = indexes[kind].search(asked.vector, asked.top_k, admits)
    return hits


def _start_from_links(
    session: SessionState, asked: Plan, hits: dict[str, list[tuple[int, float]]], visits: dict[int, Visit]
) -> None:
    """Entities linked to hit text units and members of hit communities join the start, one step from their hit."""
    offered: dict[int, float] = {}
    for id, similarity in hits["textunit"]:
        _offer(offered, session.linked_entities(id), similarity)
    scales = _Scales("what its top_k starts from")  # links are the session's own; members may be the same ones again
    for id, similarity in hits["community"]:
        community = _community(session, id)
        scales.add(limits.ANSWERED_LINK_BYTES * len(community.entity_ids))
        _offer(offered, community.entity_ids, similarity)
    for id, similarity in offered.items():
        if id not in visits:
            if not _admits_entity(session, asked, id):
                continue
            visits[id] = Visit(0)
        visits[id].linked = similarity


def _offer(offered: dict[int, float], ids: Iterable[int], similarity: float) -> None:
    for id in ids:
        if similarity > offered.get(id, _NO_OFFER):
            offered[id] = similarity


def _walk(session: SessionState, asked: Plan, visits: dict[int, Visit]) -> list[Step]:
    """Breadth first, both directions, outgoing edges before incoming, each in the order of adding.

    Whoever took an offer hands it on at the next hop, also to those that were met before, as far as EDGES_AGAIN_MAX
    goes. Ends at the first entity that would be more than `entities_max`, the start included.
    """
    steps: list[Step] = []
    reached = visits
    edges_again = 0
    for hop in range(1, asked.hops + 1):
        frontier = []
        for id, taker in reached.items():
            offers = taker.take_offers(hop - 1)
            if taker.handed_on:
                edges_again += len(session.edges_from(id)) + len(session.edges_to(id))
                if edges_again > EDGES_AGAIN_MAX:
                    continue
            taker.handed_on = True
            frontier.append((id, *offers))
        reached = {}
        for from_id, direct, linked in frontier:
            for relationship, to_id in _edges(session, asked, from_id):
                visit = visits.get(to_id)
                if visit is None:
                    if not _admits_entity(session, asked, to_id):
                        continue
                    if len(visits) >= asked.entities_max:
                        _take_all(reached, hop)
                        return steps
                    visit = visits[to_id] = Visit(hop)
                    steps.append(Step(from_id, to_id, relationship.id, relationship.type, relationship.weight, hop))
                if direct > visit.direct:
                    visit.direct = direct
                    reached[to_id] = visit
                if linked > visit.linked:
                    visit.linked = linked
                    reached[to_id] = visit
    _take_all(reached, asked.hops)
    return steps


def _take_all(reached: dict[int, Visit], hop: int) -> None:
    for visit in reached.values():
        visit.take_offers(hop)


def _edges(session: SessionState, asked: Plan, entity_id: int) -> Iterator[tuple[Relationship, int]]:
    for outgoing, ids in ((True, session.edges_from(entity_id)), (False, session.edges_to(entity_id))):
        for id in ids:
            relationship = session.relationships.get(id)
            assert relationship is not None
            if not asked.relationship_types or relationship.type in asked.relationship_types:
                yield relationship, relationship.target_id if outgoing else relationship.source_id


def _gather_textunits(
    session: SessionState, visits: dict[int, Visit], textunits: dict[int, tuple[float, int, float]]
) -> None:
    """Text units linked to any visited entity join: one step further from the seed that ranks them best.

    They are one hop further than the nearest of these entities, whichever gave the score.
    """
    found = frozenset(textunits)
    for id, visit in visits.items():
        score = visit.score_beyond
        for textunit_id in session.linked_textunits(id):
            if textunit_id in found:
                continue
            _, hop, best = textunits.get(textunit_id, (0.0, visit.hop + 1, score))
            textunits[textunit_id] = (0.0, min(hop, visit.hop + 1), max(best, score))


def _admits_entity(session: SessionState, asked: Plan, id: int) -> bool:
    return not asked.entity_types or _entity(session, id).type in asked.entity_types


def _entity(session: SessionState, id: int) -> Entity:
    entity = session.entities.get(id)
    assert entity is not None
    return entity


def _community(session: SessionState, id: int) -> Community:
    community = session.communities.get(id)
    assert community is not None
    return community


def answered_entity_bytes(session: SessionState, entity: Entity) -> int:
    """What `entity_with_links` weighs."""
    links = session.textunits_by_entity.get(entity.id, ())
    return limits.entity_bytes(entity, 0) + limits.ANSWERED_LINK_BYTES * len(links)


def answered_textunit_bytes(session: SessionState, textunit: TextUnit) -> int:
    """What `textunit_with_links` weighs."""
    links = session.entities_by_textunit.get(textunit.id, ())
    return limits.textunit_bytes(textunit, 0) + limits.ANSWERED_LINK_BYTES * len(links)


def entity_with_links(session: SessionState, entity: Entity) -> Entity:
    """As it is answered to a caller."""
    return msgspec.structs.replace(entity, textunit_ids=tuple(session.linked_textunits(entity.id)))


def textunit_with_links(session: SessionState, textunit: TextUnit) -> TextUnit:
    """As it is answered to a caller."""
    return msgspec.structs.replace(textunit, entity_ids=tuple(session.linked_entities(textunit.id)))


def _ranked_entities(
    session: SessionState, visits: dict[int, Visit], most: int, scales: _Scales
) -> tuple[EntityHit, ...]:
    hits = []
    for id, visit in sorted(visits.items(), key=lambda item: (-item[1].score, item[0]))[:most]:
        entity = _entity(session, id)
        scales.add(answered_entity_bytes(session, entity))
        hits.append(EntityHit(entity_with_links(session, entity), visit.similarity, visit.hop, visit.score))
    return tuple(hits)


def _ranked_textunits(
    session: SessionState, textunits: dict[int, tuple[float, int, float]], most: int, scales: _Scales
) -> tuple[TextUnitHit, ...]:
    hits = []
    for id, (similarity, hop, score) in sorted(textunits.items(), key=lambda item: (-item[1][2], item[0]))[:most]:
        textunit = session.textunits.get(id)
        assert textunit is not None
        scales.add(answered_textunit_bytes(session, textunit))
        hits.append(TextUnitHit(textunit_with_links(session, textunit), similarity, hop, score))
    return tuple(hits)


def _ranked_communities(
    session: SessionState, found: list[tuple[int, float]], scales: _Scales
) -> tuple[CommunityHit, ...]:
    hits = []
    for id, similarity in found:
        community = _community(session, id)
        scales.add(limits.community_bytes(community, 0))
        hits.append(CommunityHit(community, similarity))
    return tuple(hits)


def _relationships_between(
    session: SessionState, found_ids: dict[int, Visit], types: frozenset[str], scales: _Scales
) -> tuple[RelationshipHit, ...]:
    """Each relationship whose two ends were both found, before the cut of the entities, by ascending id."""
    found: list[Relationship] = []
    for id in found_ids:
        for relationship_id in session.edges_from(id):
            relationship = session.relationships.get(relationship_id)
            assert relationship is not None
            if relationship.target_id in found_ids and (not types or relationship.type in types):
                found.append(relationship)
    found.sort(key=lambda relationship: relationship.id)
    hits = []
    for each in found[: limits.QUERY_RELATIONSHIPS_MAX]:
        source_title, target_title = _entity(session, each.source_id).title, _entity(session, each.target_id).title
        scales.add(limits.relationship_bytes(each) + len(source_title) + len(target_title))
        hits.append(RelationshipHit(each, source_title, target_title))
    return tuple(hits)


def _seeds(session: SessionState, asked: Plan, hits: dict[str, list[tuple[int, float]]]) -> tuple[Seed, ...]:
    seeds = [Seed("entity", id, _entity(session, id).external_id, 1.0) for id in asked.seed_entity_ids]
    for kind in asked.kinds:
        for id, similarity in hits[kind]:
            record: TextUnit | Entity | Community | None
            if kind == "textunit":
                record = session.textunits.get(id)
            elif kind == "entity":
                record = session.entities.get(id)
            else:
                record = session.communities.get(id)
            assert record is not None
            seeds.append(Seed(kind, id, record.external_id, similarity))
    return tuple(seeds)
