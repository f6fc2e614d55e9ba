"""Indexing stores what the sources hold, stores nothing twice, and goes on after a stop at any write."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

import gibramdb
from gibramdb.errors import DimensionMismatchError
from gibramdb.pipeline import (
    ExtractedEntity,
    ExtractedRelationship,
    IndexReport,
    Kind,
    Progress,
    Source,
    Tally,
    index,
)
from gibramdb.session import Session, Store

DIM = 8


class Lines:
    def split(self, text: str, kind: Kind) -> list[str]:
        return text.split("\n")


class Hashed:
    """Unit vectors that depend on the text alone."""

    dim = DIM

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        rows = np.array([list(hashlib.sha256(text.encode()).digest()[:DIM]) for text in texts], dtype=np.float32)
        return cast("NDArray[np.float32]", rows / np.linalg.norm(rows, axis=1, keepdims=True))


class StoppedError(Exception):
    """Stands for the plug."""


class StoppingSession:
    """A session that ends the program before its n-th write."""

    WRITES = frozenset({"add_documents", "add_entities", "add_relationships", "add_textunits", "link_many"})

    def __init__(self, session: Session, writes_max: int) -> None:
        self._session = session
        self._writes_left = writes_max

    def __getattr__(self, name: str) -> Any:
        if name in self.WRITES:
            if not self._writes_left:
                raise StoppedError
            self._writes_left -= 1
        return getattr(self._session, name)


SOURCES = (
    Source(
        "no.md",
        "It is Norway and it borders Sweden.\nThere is crude oil near Norway.\nIt is cold.",
        "markdown",
        filename="no.md",
        subject="Norway",
        relationships=(ExtractedRelationship("Norway", "Sweden", "borders", "a land border of 1,666 km", 1666.0),),
    ),
    Source(
        "se.md",
        "It is Sweden and it borders Norway.\nThere is crude oil for Sweden.",
        "markdown",
        entities=(ExtractedEntity("Sweden", "country", "A kingdom in the north."),),
    ),
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    with gibramdb.open(tmp_path / "store", vector_dim=DIM) as opened:
        yield opened


def run(session: Session, *sources: Source, embedder: Hashed | None = None) -> IndexReport:
    return index(session, sources or SOURCES, splitter=Lines(), embedder=embedder or Hashed())


def contents(session: Session) -> dict[str, object]:
    """All that the session holds, by name and not by id."""
    documents = {each.id: each.external_id for each in session.documents()}
    titles = {each.id: each.title for each in session.entities()}
    return {
        "documents": {(each.external_id, each.filename) for each in session.documents()},
        "textunits": {
            (each.external_id, documents[each.document_id], each.content, frozenset(map(titles.get, each.entity_ids)))
            for each in session.textunits()
        },
        "entities": {(each.external_id, each.title, each.type, each.description) for each in session.entities()},
        "relationships": {
            (titles[each.source_id], titles[each.target_id], each.type, each.description, each.weight)
            for each in session.relationships()
        },
    }


def test_what_the_sources_hold_is_stored_with_links(db: Store) -> None:
    session = db.session("s")
    report = run(session)
    held = contents(session)
    assert held["documents"] == {("no.md", "no.md"), ("se.md", "")}
    assert held["entities"] == {
        ("NORWAY#cd73844dc24b", "NORWAY", "name", "It is Norway and it borders Sweden."),
        ("SWEDEN#67a9a556da3a", "SWEDEN", "country", "A kingdom in the north."),
        ("CRUDE OIL#50b2a4f760ce", "CRUDE OIL", "phrase", "There is crude oil near Norway."),
    }
    assert held["relationships"] == {
        ("NORWAY", "SWEDEN", "borders", "a land border of 1,666 km", 1666.0),
        ("NORWAY", "SWEDEN", "related to", "", 2.0),
    }
    assert {(content, titles) for _, _, content, titles in cast("set[Any]", held["textunits"])} == {
        ("It is Norway and it borders Sweden.", frozenset({"NORWAY", "SWEDEN"})),
        ("There is crude oil near Norway.", frozenset({"CRUDE OIL", "NORWAY"})),
        ("It is cold.", frozenset({"NORWAY"})),
        ("It is Sweden and it borders Norway.", frozenset({"NORWAY", "SWEDEN"})),
        ("There is crude oil for Sweden.", frozenset({"CRUDE OIL", "SWEDEN"})),
    }
    assert (report.documents, report.textunits, report.entities) == (Tally(2), Tally(5), Tally(3))
    assert (report.relationships, report.links, report.textunits_outdated) == (Tally(2), Tally(9), 0)


def test_a_text_unit_is_found_by_its_own_vector(db: Store) -> None:
    session = db.session("s")
    run(session)
    hit = session.query(Hashed().embed(["It is cold."])[0], top_k=1, hops=0).textunits[0]
    assert hit.textunit.content == "It is cold."
    assert hit.similarity == pytest.approx(1.0, abs=1e-5)


def test_a_second_run_stores_and_embeds_nothing_and_says_so(db: Store) -> None:
    session = db.session("s")
    first = run(session)
    held = contents(session)
    embedder = Hashed()
    second = run(session, embedder=embedder)
    assert contents(session) == held
    assert embedder.texts == []
    assert second.added == 0
    assert second.links == Tally(0, first.links.added)
    assert second.textunits == Tally(0, first.textunits.added)


def test_a_stop_before_any_write_leaves_what_the_next_run_completes(db: Store) -> None:
    whole = db.session("whole")
    run(whole)
    expected = contents(whole)
    stopped_runs = 0
    for writes_max in range(100):
        session = db.session(f"stopped after {writes_max}")
        try:
            run(cast("Session", StoppingSession(session, writes_max)))
        except StoppedError:
            stopped_runs += 1
        else:
            break
        run(session)
        assert contents(session) == expected
    # Documents, entities, relationships, text units and links: one write each for so few.
    assert stopped_runs == 5


def test_it_goes_on_where_a_stop_left_it_instead_of_embedding_again(db: Store) -> None:
    lines = "\n".join(f"it is line {number}" for number in range(200))
    session = db.session("s")
    with pytest.raises(StoppedError):  # documents, then text units by 64 (without entities there is nothing to link)
        run(cast("Session", StoppingSession(session, 3)), Source("d", lines))
    embedder = Hashed()
    report = run(session, Source("d", lines), embedder=embedder)
    assert report.textunits == Tally(200 - 128, 128)
    assert len(embedder.texts) == 200 - 128


def test_a_changed_passage_is_added_and_the_old_one_counted(db: Store) -> None:
    session = db.session("s")
    run(session, Source("d", "it is one\nit is two"))
    report = run(session, Source("d", "it is new\nit is one\nit is two!"))
    assert (report.documents, report.textunits) == (Tally(0, 1), Tally(2, 1))
    assert report.textunits_outdated == 1
    assert {each.content for each in session.textunits()} == {"it is one", "it is two", "it is new", "it is two!"}


def test_a_later_source_joins_entities_that_are_there(db: Store) -> None:
    session = db.session("s")
    run(session, SOURCES[0])
    # A single name at the start of a sentence would not be stored, but it is linked to what is.
    report = run(session, Source("d", "Norway is far."))
    assert (report.entities.added, report.links) == (0, Tally(1, 0))


def test_entities_that_others_added_are_in_nobodys_way(db: Store) -> None:
    session = db.session("s")
    session.add_entity("NORWAY", "The north way")  # has the external id of another title
    session.add_entity("SWEDEN", "SWEDEN")  # as earlier versions indexed it
    report = run(session)
    assert (report.entities, report.textunits) == (Tally(2, 1), Tally(5))
    assert session.get_entity_by_title("Norway").external_id != "NORWAY"
    assert session.get_entity_by_title("Sweden").id == 2
    session.add_entity("CRUDE OIL", "crude oil, the first")
    assert run(session).added == 0


def test_sessions_do_not_mix(db: Store) -> None:
    run(db.session("one"))
    assert run(db.session("two")).textunits == Tally(5)


def test_an_embedder_of_another_dimension_is_refused(db: Store) -> None:
    class Wide(Hashed):
        dim = DIM + 1

        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.ones((len(texts), self.dim), dtype=np.float32)

    class Lying(Wide):
        dim = DIM

        def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
            return np.ones((len(texts), DIM + 1), dtype=np.float32)

    with pytest.raises(DimensionMismatchError):
        run(db.session("wide"), embedder=Wide())
    with pytest.raises(DimensionMismatchError, match=r"shape \(3, 9\), expected \(3, 8\)"):
        run(db.session("lying"), embedder=Lying())


def test_progress_ends_every_stage_at_its_total(db: Store) -> None:
    last: dict[str, Progress] = {}

    def note(step: Progress) -> None:
        assert step.done <= step.total
        last[step.stage] = step

    index(db.session("s"), SOURCES, splitter=Lines(), embedder=Hashed(), progress=note)
    assert list(last) == ["split", "extract", "documents", "entities", "relationships", "textunits"]
    assert [step.done for step in last.values()] == [step.total for step in last.values()] == [2, 5, 2, 3, 2, 5]
