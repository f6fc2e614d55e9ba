"""Every kind of change with small names and numbers, so that some succeed, and some are refused, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.model import commands as c
from gibramdb.model.ids import Lsn

VECTOR_DIM = 3
SESSIONS = st.sampled_from(["a", "a", "a", "b"])
NAMES = st.sampled_from(["", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "N7 "])
TEXTS = st.text(max_size=5)
IDS = st.integers(0, 5)
SEVERAL_IDS = st.lists(IDS, max_size=3).map(tuple)
NUMBERS = st.floats(width=32)
VECTORS = st.one_of(
    st.just(b""),
    st.lists(st.floats(-2, 2, width=32), min_size=VECTOR_DIM, max_size=VECTOR_DIM).map(tuple),
    st.lists(NUMBERS, max_size=VECTOR_DIM + 1).map(tuple),
)
CLUSTER = st.builds(c.DetectedCluster, st.integers(0, 2), SEVERAL_IDS, st.just(-1), SEVERAL_IDS)


def _add(command: Any, item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    single = st.builds(command, SESSIONS, st.tuples(item), st.just(False))
    return single | st.builds(command, SESSIONS, st.lists(item, max_size=3).map(tuple), st.just(True))


WRITES: dict[type[c.WriteCommand], st.SearchStrategy[Any]] = {
    c.AddDocuments: _add(c.AddDocuments, st.builds(NewDocument, NAMES, TEXTS)),
    c.AddTextUnits: _add(
        c.AddTextUnits,
        st.builds(NewTextUnit, NAMES, IDS, TEXTS, VECTORS, st.sampled_from([-(2**31) - 1, -1, 0, 7, 2**31])),
    ),
    c.AddEntities: _add(c.AddEntities, st.builds(NewEntity, NAMES, NAMES, TEXTS, TEXTS, VECTORS)),
    c.AddRelationships: _add(
        c.AddRelationships,
        st.builds(
            NewRelationship,
            IDS,
            IDS,
            NAMES,
            TEXTS,
            NUMBERS | st.floats().filter(lambda weight: not 0 < abs(weight) <= 2.0**-150),
            NAMES,
        ),
    ),
    c.AddCommunity: st.builds(
        c.AddCommunity,
        SESSIONS,
        st.builds(NewCommunity, NAMES, SEVERAL_IDS, SEVERAL_IDS, TEXTS, TEXTS, st.integers(-1, 3), NAMES, VECTORS),
    ),
    c.LinkTextUnitEntity: st.builds(c.LinkTextUnitEntity, SESSIONS, IDS, IDS),
    c.CascadeDeleteDocument: st.builds(c.CascadeDeleteDocument, SESSIONS, IDS),
    c.CascadeDeleteTextUnit: st.builds(c.CascadeDeleteTextUnit, SESSIONS, IDS),
    c.CascadeDeleteEntity: st.builds(c.CascadeDeleteEntity, SESSIONS, IDS),
    c.CascadeDeleteRelationship: st.builds(c.CascadeDeleteRelationship, SESSIONS, IDS),
    c.UnlinkTextUnitEntity: st.builds(c.UnlinkTextUnitEntity, SESSIONS, IDS, IDS),
    c.UpdateEntityDescription: st.builds(c.UpdateEntityDescription, SESSIONS, IDS, TEXTS, VECTORS),
    c.DeleteDocument: st.builds(c.DeleteDocument, SESSIONS, IDS),
    c.DeleteTextUnit: st.builds(c.DeleteTextUnit, SESSIONS, IDS),
    c.DeleteEntity: st.builds(c.DeleteEntity, SESSIONS, IDS),
    c.DeleteRelationship: st.builds(c.DeleteRelationship, SESSIONS, IDS),
    c.DeleteCommunity: st.builds(c.DeleteCommunity, SESSIONS, IDS),
    # The incarnation is filled in by who runs it: the session's own, or one that never was.
    c.ReplaceCommunities: st.builds(
        c.ReplaceCommunities,
        SESSIONS,
        st.sampled_from([Lsn(0), Lsn(1)]),
        st.lists(CLUSTER, max_size=3).map(tuple),
        st.booleans(),
    ),
    c.DeleteSession: st.builds(c.DeleteSession, SESSIONS),
    c.ExpireSession: st.builds(c.ExpireSession, SESSIONS),
    c.SetSessionTtl: st.builds(
        c.SetSessionTtl, SESSIONS, st.sampled_from([-1, 0, 1, 9, 2**62]), st.sampled_from([-1, 0, 2])
    ),
    c.TouchSession: st.builds(c.TouchSession, SESSIONS),
}
"""A strategy for each command that `decide` knows."""

OFTEN = (
    c.AddDocuments,
    c.AddTextUnits,
    c.AddEntities,
    c.AddRelationships,
    c.AddCommunity,
    c.LinkTextUnitEntity,
    c.ReplaceCommunities,
)
# Adding comes up more often than deleting, or there would seldom be anything to delete.
ANY_WRITE = st.one_of(*(WRITES[kind] for kind in OFTEN * 3), *WRITES.values())
