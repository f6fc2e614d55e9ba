"""Detections of communities that wait for each other: whose turn it is, and what becomes of those nobody waits for."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.owned_store import OwnedStore

import gibramdb
from gibramdb import NewEntity, NewRelationship
from gibramdb.database.answers import Answer
from gibramdb.errors import ClosedError, OutcomeUnknownError, UnavailableError
from gibramdb.model import commands as c
from gibramdb.model.results import Detected, Hierarchy
from gibramdb.retrieval import leiden
from gibramdb.retrieval.detection import DetectionView
from gibramdb.retrieval.leiden import Graph, hierarchy


class HeldDetections:
    """Detections of a store that begin to compute only when they may; whose they were, as they were computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go_on = threading.Event()
        self.has_begun = threading.Event()
        self.computed: list[str] = []
        find = DetectionView.find

        def held_up(view: DetectionView) -> c.ReplaceCommunities:
            self.has_begun.set()
            assert self.may_go_on.wait(60)
            self.computed.append(view.asker)
            return find(view)

        monkeypatch.setattr(DetectionView, "find", held_up)


def test_of_detections_that_wait_the_smallest_comes_first_and_one_session_takes_few_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = OwnedStore(durable=False)
    for name, count in (("large", 6_000), ("small", 2)):
        store.run(c.AddEntities(name, tuple(NewEntity(f"e{n}", f"e{n}") for n in range(count))))
    held = HeldDetections(monkeypatch)
    order: list[str] = []
    for name in ("large", "large", "large", "large", "small"):
        store.database.submit(c.DetectCommunities(name), lambda _answer, name=name: order.append(name))  # type: ignore[misc]
    refused = store.start(c.DetectCommunities("large"))
    assert [type(each) for each in refused] == [UnavailableError]
    held.may_go_on.set()
    while len(order) < 5:
        store.turn()
    assert order.index("small") <= 1, "at most the one that ran already comes before it"
    store.close()


def test_a_large_detection_is_overtaken_by_some_and_not_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    store = OwnedStore(durable=False)
    for name, count in (("first", 2), ("large", 6_000), *((f"s{number}", 2) for number in range(20))):
        store.run(c.AddEntities(name, tuple(NewEntity(f"e{n}", f"e{n}") for n in range(count))))
    held = HeldDetections(monkeypatch)
    order: list[str] = []
    for name in ("first", "large", *(f"s{number}" for number in range(20))):
        store.database.submit(c.DetectCommunities(name), lambda _answer, name=name: order.append(name))  # type: ignore[misc]
    held.may_go_on.set()
    while len(order) < 22:
        store.turn()
    assert order.index("large") == 6, "a place later for each thousand of its entities"
    store.close()


def test_detections_are_shared_out_by_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends many first keeps nobody waiting for more than the one that runs."""
    store = OwnedStore(durable=False)
    for number in range(17):
        store.run(c.AddEntities(f"s{number}", tuple(NewEntity(f"e{n}", f"e{n}") for n in range(3))))
    store.run(c.AddEntities("large", tuple(NewEntity(f"e{n}", f"e{n}") for n in range(6_000))))
    held = HeldDetections(monkeypatch)
    answers: list[Answer] = []
    for number in range(16):
        store.database.submit(c.DetectCommunities(f"s{number}", asker="many"), answers.append)
    (refused,) = store.start(c.DetectCommunities("s16", asker="many"))
    assert isinstance(refused, UnavailableError)
    assert "16 computations of communities for this key wait already" in str(refused)
    for asker in ("two", "two", "three"):
        store.database.submit(c.DetectHierarchy("large", asker=asker), answers.append)
    assert held.has_begun.wait(60)
    held.may_go_on.set()
    while len(answers) < 19:
        store.turn()
    assert all(isinstance(answer, Detected | Hierarchy) for answer in answers)
    assert held.computed[0] == "many"
    assert set(held.computed[1:3]) == {"two", "three"}, "each has had nothing yet, though what they ask for is larger"
    assert held.computed.count("many") == 16
    store.close()


def test_nobody_saves_up_turns_of_detecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes late has its turn next, and then takes turns with those that were there."""
    store = OwnedStore(durable=False)
    for number in range(8):
        store.run(c.AddEntities(f"s{number}", (NewEntity("e", "e"),)))
    held = HeldDetections(monkeypatch)
    monkeypatch.setattr("gibramdb.database.detector._steady_us", itertools.count(0, 1_000_000).__next__)
    held.may_go_on.set()
    answers: list[Answer] = []
    for _ in range(20):
        store.run(c.DetectCommunities("s0", asker="early"))
    held.computed.clear()
    held.may_go_on.clear()
    held.has_begun.clear()
    for asker in ("early", "late"):
        for number in range(4):
            store.database.submit(c.DetectCommunities(f"s{number}", asker=asker), answers.append)
            assert held.has_begun.wait(60)
    held.may_go_on.set()
    while len(answers) < 8:
        store.turn()
    assert held.computed in (["early", *["late", "early"] * 3, "late"], ["early", "late", *["late", "early"] * 3])
    store.close()


@pytest.mark.parametrize("where", ["waiting", "running", "held back"])
def test_a_detection_that_nobody_waits_for_ends(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    store = OwnedStore(durable=False)
    for name in ("first", "s"):
        store.run(c.AddEntities(name, tuple(NewEntity(f"{name}{n}", f"e{n}") for n in range(5))))
    held = HeldDetections(monkeypatch)
    given_up = c.DetectHierarchy("s", asker="gone")
    answers: list[Answer] = []
    if where == "waiting":
        store.database.submit(c.DetectCommunities("first", asker="first"), answers.append)
        assert held.has_begun.wait(60)
    elif where == "held back":
        store.database.pause()
    assert not store.database.submit(given_up, answers.append)
    if where == "running":
        assert held.has_begun.wait(60)
    store.database.give_up(given_up)
    if where == "held back":
        store.database.resume(None)
    assert [type(answer) for answer in answers] == [ClosedError], "it is answered at once, by who calls"
    held.may_go_on.set()
    detected = store.run(c.DetectCommunities("s", asker="second"))
    assert isinstance(detected, Detected)
    assert held.computed == {
        "waiting": ["first", "second"], "running": ["gone", "second"], "held back": ["second"]
    }[where]  # fmt: skip
    told = [type(answer) for answer in answers]
    assert told == [ClosedError, Detected] if where == "waiting" else told == [ClosedError]
    store.close()


def test_a_hierarchy_under_way_ends_at_its_next_split() -> None:
    whole = Graph(
        np.arange(60), np.arange(60), np.roll(np.arange(60), -1), np.where(np.arange(60) % 10 == 9, 0.01, 1.0)
    )
    assert len(hierarchy(whole, 5, 1.0)) > 6
    wanted = iter([True, False])
    assert {each.level for each in hierarchy(whole, 5, 1.0, is_wanted=lambda: next(wanted))} == {0}


def test_iterations_beyond_the_default_are_bounded_by_what_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noted(graph: Graph, resolution: float, iterations: int) -> list[tuple[int, ...]]:
        asked.append(iterations)
        return leiden.partition(graph, resolution, 1)

    monkeypatch.setattr("gibramdb.retrieval.detection.partition", noted)
    monkeypatch.setattr("gibramdb.core.limits.ITERATED_RELATIONSHIPS_MAX", 60)
    store = OwnedStore(durable=False)
    for name, count in (("none", 0), ("two", 2), ("four", 4)):
        store.run(c.AddEntities(name, tuple(NewEntity(f"e{n}", f"e{n}") for n in range(5))))
        store.run(c.AddRelationships(name, tuple(NewRelationship(n, n + 1) for n in range(1, count + 1))))
        store.run(c.DetectCommunities(name, iterations=1_000))
        store.run(c.DetectCommunities(name, iterations=3))
    store.run(c.DetectCommunities("four"))
    assert asked == [60, 3, 30, 3, 15, 3, 10]
    store.close()


COMPUTES_AND_ENDS = """
import threading, time
import bcrypt
import gibramdb
from gibramdb import native_threads

key_hash = bcrypt.hashpw(b"key", bcrypt.gensalt(4))
ends_at = time.monotonic() + 0.5

def compute():  # as a detection does: again and again it comes back from native code
    while time.monotonic() < ends_at:
        bcrypt.checkpw(b"guess", key_hash)

threading.Thread(target=compute, name=native_threads.LEIDEN, daemon=True).start()
gibramdb.open().close()
"""


def test_a_detection_that_still_computes_does_not_take_a_process_down_that_ends() -> None:
    subprocess.run([sys.executable, "-c", COMPUTES_AND_ENDS], check=True)


def test_a_detection_whose_embedded_caller_has_gone_stores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled() -> None:
        async with gibramdb.open_async(vector_dim=8) as db:
            await db.session("s").add_entities(NewEntity(f"e{n}", f"e{n}") for n in range(3))
            held = HeldDetections(monkeypatch)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(db.session("s").detect_communities(), 0.2)
            await db.ping()  # what was withdrawn is off the list when this is answered
            held.may_go_on.set()
            await db.session("t").add_entity("e", "e")
            assert len(await db.session("t").detect_communities()) == 1, "computed behind the other"
            assert (await db.session("s").info()).community_count == 0

    with gibramdb.open(vector_dim=8) as db, monkeypatch.context() as patch:
        for name in "st":
            db.session(name).add_entities(NewEntity(f"e{n}", f"e{n}") for n in range(3))
        held = HeldDetections(patch)
        with pytest.raises(OutcomeUnknownError):
            db.session("s").with_timeout(0.2).detect_communities()
        again = [c.DetectCommunities("s"), c.DeleteSession("t")]
        for _ in range(2):  # in a pipeline, and not begun yet; whoever hands in the same once more withdraws their own
            with pytest.raises(OutcomeUnknownError):
                db.with_timeout(0.2).execute_many(again)
        db.ping()  # what was withdrawn is off the list when this is answered
        held.may_go_on.set()
        assert len(db.session("t").detect_communities()) == 3, "computed behind the others"
        assert db.session("s").info().community_count == 0
        assert len(held.computed) <= 2, "those whose turn had not come were not computed"
    asyncio.run(cancelled())


def test_who_gives_up_withdraws_no_detection_but_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though several hand in one and the same command."""
    detect = c.DetectCommunities("s")
    with gibramdb.open(vector_dim=8) as db:
        db.session("s").add_entities(NewEntity(f"e{n}", f"e{n}") for n in range(3))
        held = HeldDetections(monkeypatch)
        with ThreadPoolExecutor(1) as another:
            waits = another.submit(db.execute, detect)
            assert held.has_begun.wait(60)
            with pytest.raises(OutcomeUnknownError):
                db.with_timeout(0.2).execute(detect)
            db.ping()
            held.may_go_on.set()
            assert isinstance(waits.result(60), Detected)
