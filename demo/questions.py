"""Three questions whose answers are a hop or two away from what a vector search finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from demo.factbook import BORDERS, MEMBER_OF, SELLS_TO
from gibramdb import Session
from gibramdb.cli.screen import Screen
from gibramdb.errors import NotFoundError
from gibramdb.model.results import Explanation, QueryResult, TextUnitHit

HITS_SHOWN_PER_HOP = 3
SOURCES_SHOWN_MAX = 6
TARGETS_SHOWN_MAX = 6
SOURCES_COMPARED_MAX = 200
SOURCE_CHARS_SHOWN_MAX = 400


class Question(NamedTuple):
    """`subjects`: the countries it names. `relationship_types`: what the walk follows."""

    text: str
    subjects: tuple[str, ...]
    relationship_types: tuple[str, ...]
    hops: int


QUESTIONS = (
    Question("Which countries border Germany?", ("Germany",), (BORDERS,), 1),
    Question("Where do the countries around landlocked Chad sell their goods?", ("Chad",), (BORDERS, SELLS_TO), 2),
    Question("To which organisations do the neighbours of Austria belong?", ("Austria",), (BORDERS, MEMBER_OF), 2),
)


def ask(session: Session, console: Screen, questions: Sequence[tuple[Question, NDArray[np.float32]]]) -> int:
    """Ask, show what comes back; returns how many answers came over at least one hop."""
    over_hops = 0
    for question, vector in questions:
        console.print(f"\n“{question.text}”", style="bold")
        seeds = list(_seed_ids(session, question.subjects))
        result = session.query(
            vector,
            search_types=("entity",),
            top_k=1,
            hops=question.hops,
            seed_entity_ids=seeds,
            relationship_types=question.relationship_types,
            entities_max=200,
            textunits_max=SOURCES_COMPARED_MAX,
        )
        explanation = session.explain(result.query_id)
        over_hops += sum(1 for hit in result.entities if hit.hop)
        _print_hits(console, result)
        _print_answers(console, question, answers(question, result, explanation))
        _print_source(console, result)
    return over_hops


def _seed_ids(session: Session, titles: Sequence[str]) -> list[int]:
    found = []
    for title in titles:
        try:
            found.append(session.get_entity_by_title(title).id)
        except NotFoundError:
            continue  # a small part of the factbook may not speak of it
    return found


def _print_hits(console: Screen, result: QueryResult) -> None:
    by_vector = [hit for hit in result.entities if not hit.hop]
    walked = [hit for hit in result.entities if hit.hop]
    console.print(
        f"  begins at {len(by_vector)} entities, the nearest by vector and those that the question names, and reaches "
        f"{len(walked)} more over relationships ({result.stats.duration_us / 1000:.1f} ms):",
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 1), show_header=True, header_style="dim")
    for name, justify in (("score", "right"), ("hop", "right"), ("title", "left"), ("type", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    by_hop = [[hit for hit in walked if hit.hop == hop][:HITS_SHOWN_PER_HOP] for hop in (1, 2)]
    for hit in (*by_vector[:2], *by_hop[0], *by_hop[1]):
        table.add_row(f"{hit.score:.3f}", str(hit.hop), hit.entity.title, hit.entity.type)
    console.print(table)


def answers(question: Question, result: QueryResult, explanation: Explanation) -> dict[str, list[str]]:
    """What the question asks for, by whom it is said of: its last relation, of what lies a hop before the end."""
    before = {seed.id for seed in explanation.seeds if seed.kind == "entity"}
    if question.hops > 1:
        first_type = question.relationship_types[0]
        before = {
            step.to_entity_id
            for step in explanation.steps
            if step.hop == question.hops - 1 and step.relationship_type == first_type
        }
    found: dict[str, list[str]] = {}
    for hit in result.relationships:
        if hit.relationship.type == question.relationship_types[-1] and hit.relationship.source_id in before:
            found.setdefault(hit.source_title, []).append(hit.target_title)
    return found


def _print_answers(console: Screen, question: Question, found: dict[str, list[str]]) -> None:
    relation = question.relationship_types[-1]
    for source, targets in list(found.items())[:SOURCES_SHOWN_MAX]:
        more = f" and {len(targets) - TARGETS_SHOWN_MAX} more" if len(targets) > TARGETS_SHOWN_MAX else ""
        console.print(f"  {source} {relation} {', '.join(targets[:TARGETS_SHOWN_MAX])}{more}", soft_wrap=True)
    if len(found) > SOURCES_SHOWN_MAX:
        console.print(f"  and {len(found) - SOURCES_SHOWN_MAX} more", style="dim")


def sources(result: QueryResult) -> list[TextUnitHit]:
    """The text units with the best score, those first that speak of most of what is at most a hop away.

    Everything that mentions the subject has the same score; what names its neighbours too says why they are there.
    """
    best = [hit for hit in result.textunits if hit.score == result.textunits[0].score]
    return sorted(best, key=lambda hit: -_named_nearby(result, hit))


def _named_nearby(result: QueryResult, hit: TextUnitHit) -> int:
    return len({each.entity.id for each in result.entities if each.hop <= 1}.intersection(hit.textunit.entity_ids))


def _print_source(console: Screen, result: QueryResult) -> None:
    found = sources(result)
    if not found:
        return
    words = " ".join(found[0].textunit.content.split())
    shown = words if len(words) <= SOURCE_CHARS_SHOWN_MAX else f"{words[:SOURCE_CHARS_SHOWN_MAX]} …"
    console.print(
        f"  source: of {len(found)} text units with the score {found[0].score:.3f}, the one that speaks of most "
        f"entities of hops 0 and 1, {_named_nearby(result, found[0])} of them:",
        soft_wrap=True,
    )
    console.print(f"  {shown}", style="dim")
