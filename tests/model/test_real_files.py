"""The embedded store on a real file system: whatever was done, under each sync policy, a new start holds the same."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.write_commands import OFTEN, VECTOR_DIM, WRITES

import gibramdb
from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.embedded import EmbeddedExecutor
from gibramdb.errors import CallerError
from gibramdb.model import commands as c

# The store's own commands can not be asked for from outside.
COMMANDS: dict[Any, st.SearchStrategy[Any]] = {
    **WRITES,
    # None ends between two looks, on the slowest machine.
    c.SetSessionTtl: WRITES[c.SetSessionTtl].map(
        lambda each: c.SetSessionTtl(each.session_id, _far(each.ttl_s), _far(each.idle_ttl_s))
    ),
}
KINDS: list[Any] = [kind for kind in (*OFTEN * 3, *WRITES) if kind not in {c.ReplaceCommunities, c.ExpireSession}]
STEPS = st.lists(st.sampled_from(KINDS).flatmap(COMMANDS.__getitem__), min_size=20, max_size=50)
FIRST = (
    c.AddDocuments("a", (NewDocument("d"),)),
    c.AddTextUnits("a", (NewTextUnit("t", 1, "x", (1.0, 0.0, 0.0)),)),
    c.AddEntities("a", tuple(NewEntity(f"e{n}", f"e{n}", embedding=(0.0, 1.0, n)) for n in range(4))),
    c.AddRelationships("a", (NewRelationship(1, 2), NewRelationship(2, 3, weight=0.5))),
    c.AddCommunity("a", NewCommunity("by hand", (1, 2), (1,), embedding=(1.0, 1.0, 1.0))),
    c.LinkTextUnitEntity("a", 1, 3),
)


def _far(seconds: int) -> int:
    return seconds if seconds <= 0 else seconds + 10_000


def contents(store: gibramdb.Store) -> Any:
    """All that can be read, but for the times of reading."""
    held = []
    for info in store.sessions():
        session = store.session(info.session_id)
        held.append(
            (
                info.session_id,
                info.created_at_ms,
                info.ttl_s,
                info.idle_ttl_s,
                [session.get_document(document.id) for document in session.documents()],
                list(session.textunits()),
                list(session.entities()),
                list(session.relationships()),
                [hit.community for hit in _communities(session)],
            )
        )
    return held


def _communities(session: gibramdb.Session) -> Any:
    try:
        return session.query([1.0, 2.0, 3.0], hops=0, search_types=["community"], communities_max=100).communities
    except CallerError:
        return ()


def _executor(store: gibramdb.Store) -> EmbeddedExecutor:
    assert isinstance(store._executor, EmbeddedExecutor)
    return store._executor


@pytest.mark.parametrize("policy", ["every_write", "periodic", "never"])
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_a_start_holds_what_the_stop_left(policy: str, steps: list[c.Command], seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    directory = Path(tempfile.mkdtemp(dir=tmp_path))

    def opened() -> gibramdb.Store:
        return gibramdb.open(directory, vector_dim=VECTOR_DIM, wal_sync_policy=policy)

    store = opened()
    for first in FIRST:
        _executor(store).execute(first)
    for command in steps:
        try:
            _executor(store).execute(command)
        except CallerError:
            pass
        if rng.random() < 0.1:
            before = (store.digest(), contents(store))
            store.close()
            store = opened()
            assert (store.digest(), contents(store)) == before
    if rng.random() < 0.5 and store.sessions():
        store.session(store.sessions()[0].session_id).detect_communities()
    before = (store.digest(), contents(store))
    store.close()
    with opened() as store:
        assert (store.digest(), contents(store)) == before
        health = store.health()
        assert health.status == "ok"
        assert int(health.components["wal_flush_lag_bytes"]) == 0
