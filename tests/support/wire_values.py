"""Any command and any result that can travel, by the number of the command, for hypothesis.

Only values that keep their form on the wire: times of objects are whole seconds, weights and similarities float32.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from gibramdb.model import commands as c
from gibramdb.model import knowledge as k
from gibramdb.model import results as r
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec.asked import objects_created

CONTENT_BYTES_MAX = 1_048_576

TEXT = st.text(max_size=8)
SESSION = st.text(min_size=1, max_size=8)
UINT64 = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
INT32 = st.one_of(st.integers(-3, 300), st.integers(-(2**31), 2**31 - 1))
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
SCORE = st.floats(allow_nan=False)
FLOAT64 = st.floats(allow_nan=False)
IDS = st.lists(UINT64, max_size=4).map(tuple)
WORDS = st.lists(TEXT, max_size=3).map(tuple)
# Any four bytes are a float32, also those that are not a number: the codec must hand them on as they are.
EMBEDDING = st.lists(st.binary(min_size=4, max_size=4), max_size=5).map(b"".join)
OBJECT_TIME_MS = st.integers(0, 2**40).map(lambda s: s * 1000)
# In nanoseconds it must still fit 63 bits.
SESSION_TIME_MS = st.integers(0, 2**43)

NEW_DOCUMENT = st.builds(k.NewDocument, TEXT, TEXT)
NEW_TEXTUNIT = st.builds(k.NewTextUnit, TEXT, UINT64, TEXT, EMBEDDING, INT32)
NEW_ENTITY = st.builds(k.NewEntity, TEXT, TEXT, TEXT, TEXT, EMBEDDING)
NEW_RELATIONSHIP = st.builds(k.NewRelationship, UINT64, UINT64, TEXT, TEXT, FLOAT32, TEXT)
NEW_COMMUNITY = st.builds(k.NewCommunity, TEXT, IDS, IDS, TEXT, TEXT, INT32, TEXT, EMBEDDING)

DOCUMENT = st.builds(k.Document, UINT64, TEXT, TEXT, OBJECT_TIME_MS, IDS)
TEXTUNIT = st.builds(k.TextUnit, UINT64, TEXT, UINT64, TEXT, INT32, OBJECT_TIME_MS, IDS)
ENTITY = st.builds(k.Entity, UINT64, TEXT, TEXT, TEXT, TEXT, OBJECT_TIME_MS, IDS)
RELATIONSHIP = st.builds(k.Relationship, UINT64, TEXT, UINT64, UINT64, TEXT, TEXT, FLOAT32, OBJECT_TIME_MS)
COMMUNITY = st.builds(
    k.Community,
    UINT64,
    TEXT,
    TEXT,
    TEXT,
    TEXT,
    INT32,
    IDS,
    IDS,
    OBJECT_TIME_MS,
    st.sampled_from((k.MADE_BY_HAND, k.DETECTED)),
    UINT64,
)
SESSION_INFO = st.builds(
    r.SessionInfo, TEXT, SESSION_TIME_MS, SESSION_TIME_MS, INT64, INT64, UINT64, UINT64, UINT64, UINT64, UINT64
)
QUERY_RESULT = st.builds(
    r.QueryResult,
    UINT64,
    st.lists(st.builds(r.TextUnitHit, TEXTUNIT, FLOAT32, INT32, SCORE), max_size=2).map(tuple),
    st.lists(st.builds(r.EntityHit, ENTITY, FLOAT32, INT32, SCORE), max_size=2).map(tuple),
    st.lists(st.builds(r.CommunityHit, COMMUNITY, FLOAT32), max_size=2).map(tuple),
    st.lists(st.builds(r.RelationshipHit, RELATIONSHIP, TEXT, TEXT), max_size=2).map(tuple),
    st.builds(r.QueryStats, INT64, INT32, INT32, WORDS),
)
EXPLANATION = st.builds(
    r.Explanation,
    UINT64,
    st.lists(st.builds(r.Seed, TEXT, UINT64, TEXT, FLOAT32), max_size=3).map(tuple),
    st.lists(st.builds(r.Step, UINT64, UINT64, UINT64, TEXT, FLOAT32, INT32), max_size=3).map(tuple),
)


def _single(command: Any, item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(command, SESSION, st.tuples(item), st.just(False))


def _bulk(command: Any, item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(command, SESSION, st.lists(item, max_size=4).map(tuple), st.just(True))


def _of_id(command: Any) -> st.SearchStrategy[Any]:
    return st.builds(command, SESSION, UINT64)


def _of_ids(command: Any) -> st.SearchStrategy[Any]:
    return st.builds(command, SESSION, IDS)


def _of_cursor(command: Any) -> st.SearchStrategy[Any]:
    return st.builds(command, SESSION, UINT64, INT32)


COMMANDS: dict[N, st.SearchStrategy[Any]] = {
    N.PING: st.just(c.Ping()),
    N.INFO: st.builds(c.GetInfo, TEXT),
    N.HEALTH: st.just(c.GetHealth()),
    N.GET_DIGEST: st.builds(c.GetDigest, TEXT),
    N.LIST_SESSIONS: st.builds(c.ListSessions, TEXT, INT32),
    N.DELETE_SESSION: st.builds(c.DeleteSession, SESSION),
    N.SESSION_INFO: st.builds(c.GetSession, SESSION),
    N.SET_SESSION_TTL: st.builds(c.SetSessionTtl, SESSION, INT64, INT64),
    N.TOUCH_SESSION: st.builds(c.TouchSession, SESSION),
    N.ADD_DOCUMENT: _single(c.AddDocuments, NEW_DOCUMENT),
    N.GET_DOCUMENT: _of_id(c.GetDocument),
    N.DELETE_DOCUMENT: _of_id(c.DeleteDocument),
    N.MSET_DOCUMENTS: _bulk(c.AddDocuments, NEW_DOCUMENT),
    N.MGET_DOCUMENTS: _of_ids(c.GetDocuments),
    N.LIST_DOCUMENTS: _of_cursor(c.ListDocuments),
    N.ADD_TEXTUNIT: _single(c.AddTextUnits, NEW_TEXTUNIT),
    N.GET_TEXTUNIT: _of_id(c.GetTextUnit),
    N.DELETE_TEXTUNIT: _of_id(c.DeleteTextUnit),
    N.LINK_TEXTUNIT_ENTITY: st.builds(c.LinkTextUnitEntity, SESSION, UINT64, UINT64),
    N.MSET_TEXTUNITS: _bulk(c.AddTextUnits, NEW_TEXTUNIT),
    N.MGET_TEXTUNITS: _of_ids(c.GetTextUnits),
    N.LIST_TEXTUNITS: _of_cursor(c.ListTextUnits),
    N.ADD_ENTITY: _single(c.AddEntities, NEW_ENTITY),
    N.GET_ENTITY: _of_id(c.GetEntity),
    N.GET_ENTITY_BY_TITLE: st.builds(c.GetEntityByTitle, SESSION, TEXT),
    N.CASCADE_DELETE_DOCUMENT: _of_id(c.CascadeDeleteDocument),
    N.CASCADE_DELETE_TEXTUNIT: _of_id(c.CascadeDeleteTextUnit),
    N.CASCADE_DELETE_ENTITY: _of_id(c.CascadeDeleteEntity),
    N.CASCADE_DELETE_RELATIONSHIP: _of_id(c.CascadeDeleteRelationship),
    N.LIST_COMMUNITIES: _of_cursor(c.ListCommunities),
    N.UNLINK_TEXTUNIT_ENTITY: st.builds(c.UnlinkTextUnitEntity, SESSION, UINT64, UINT64),
    N.GET_DOCUMENT_BY_EXTERNAL_ID: st.builds(c.GetDocumentByExternalId, SESSION, TEXT),
    N.GET_TEXTUNIT_BY_EXTERNAL_ID: st.builds(c.GetTextUnitByExternalId, SESSION, TEXT),
    N.GET_ENTITY_BY_EXTERNAL_ID: st.builds(c.GetEntityByExternalId, SESSION, TEXT),
    N.GET_RELATIONSHIP_BY_EXTERNAL_ID: st.builds(c.GetRelationshipByExternalId, SESSION, TEXT),
    N.GET_COMMUNITY_BY_EXTERNAL_ID: st.builds(c.GetCommunityByExternalId, SESSION, TEXT),
    N.UPDATE_ENTITY_DESC: st.builds(c.UpdateEntityDescription, SESSION, UINT64, TEXT, EMBEDDING),
    N.DELETE_ENTITY: _of_id(c.DeleteEntity),
    N.MSET_ENTITIES: _bulk(c.AddEntities, NEW_ENTITY),
    N.MGET_ENTITIES: _of_ids(c.GetEntities),
    N.LIST_ENTITIES: _of_cursor(c.ListEntities),
    N.ADD_RELATIONSHIP: _single(c.AddRelationships, NEW_RELATIONSHIP),
    N.GET_RELATIONSHIP: _of_id(c.GetRelationship),
    N.DELETE_RELATIONSHIP: _of_id(c.DeleteRelationship),
    N.MSET_RELATIONSHIPS: _bulk(c.AddRelationships, NEW_RELATIONSHIP),
    N.MGET_RELATIONSHIPS: _of_ids(c.GetRelationships),
    N.LIST_RELATIONSHIPS: _of_cursor(c.ListRelationships),
    N.ADD_COMMUNITY: st.builds(c.AddCommunity, SESSION, NEW_COMMUNITY),
    N.GET_COMMUNITY: _of_id(c.GetCommunity),
    N.DELETE_COMMUNITY: _of_id(c.DeleteCommunity),
    N.COMPUTE_COMMUNITIES: st.builds(c.DetectCommunities, SESSION, FLOAT64, INT32),
    N.HIERARCHICAL_LEIDEN: st.builds(c.DetectHierarchy, SESSION, INT32, FLOAT64),
    N.REBUILD_INDEX: st.builds(c.RebuildIndexes, SESSION),
    N.QUERY: st.builds(c.Query, SESSION, EMBEDDING, WORDS, INT32, INT32, INT32, INT32, INT32, IDS, WORDS, WORDS),
    N.EXPLAIN: _of_id(c.Explain),
    N.GET_EMBEDDINGS: st.builds(c.GetEmbeddings, SESSION, TEXT, IDS),
    N.BGSAVE: st.builds(c.BackgroundSave, TEXT),
    N.SAVE: st.builds(c.Save, TEXT),
    N.LASTSAVE: st.just(c.GetLastSave()),
    N.BGRESTORE: st.builds(c.Restore, TEXT),
    N.BACKUP_STATUS: st.just(c.GetBackupStatus()),
    N.WAL_CHECKPOINT: st.just(c.Checkpoint()),
    N.WAL_TRUNCATE: st.builds(c.TruncateLog, UINT64),
    N.WAL_ROTATE: st.just(c.RotateLog()),
    N.WAL_STATUS: st.just(c.GetLogStatus()),
}
"""A command of each row of the table."""

_DONE = st.builds(r.Done, UINT64)
_ONE_CREATED = st.builds(r.Created, st.tuples(UINT64), st.just(False))
_CREATED = st.builds(r.Created, IDS, st.just(True))


def _objects(item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(r.Objects, st.lists(item, max_size=3).map(tuple))


def _page(item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(r.Page, st.lists(item, max_size=3).map(tuple), UINT64)


@st.composite
def _stored_embeddings(draw: st.DrawFn) -> r.StoredEmbeddings:
    ids, vector_dim = draw(IDS), draw(st.integers(1, 3))
    size_bytes = 4 * vector_dim * len(ids)
    return r.StoredEmbeddings(ids, memoryview(draw(st.binary(min_size=size_bytes, max_size=size_bytes))), vector_dim)


RESULTS: dict[N, st.SearchStrategy[Any]] = {
    N.PING: st.just(r.Pong()),
    N.INFO: st.builds(r.Info, TEXT, UINT64, UINT64, UINT64, UINT64, UINT64, INT32, INT32, TEXT, TEXT, INT64),
    N.HEALTH: st.builds(r.Health, TEXT, st.dictionaries(TEXT, TEXT, max_size=4)),
    N.GET_DIGEST: st.builds(r.Digest, TEXT, UINT64),
    N.LIST_SESSIONS: st.builds(r.SessionPage, st.lists(SESSION_INFO, max_size=3).map(tuple), TEXT),
    N.DELETE_SESSION: _DONE,
    N.SESSION_INFO: SESSION_INFO,
    N.SET_SESSION_TTL: _DONE,
    N.TOUCH_SESSION: _DONE,
    N.ADD_DOCUMENT: _ONE_CREATED,
    N.GET_DOCUMENT: DOCUMENT,
    N.DELETE_DOCUMENT: _DONE,
    N.MSET_DOCUMENTS: _CREATED,
    N.MGET_DOCUMENTS: _objects(DOCUMENT),
    N.LIST_DOCUMENTS: _page(DOCUMENT),
    N.ADD_TEXTUNIT: _ONE_CREATED,
    N.GET_TEXTUNIT: TEXTUNIT,
    N.DELETE_TEXTUNIT: _DONE,
    N.LINK_TEXTUNIT_ENTITY: _DONE,
    N.MSET_TEXTUNITS: _CREATED,
    N.MGET_TEXTUNITS: _objects(TEXTUNIT),
    N.LIST_TEXTUNITS: _page(TEXTUNIT),
    N.ADD_ENTITY: _ONE_CREATED,
    N.GET_ENTITY: ENTITY,
    N.GET_ENTITY_BY_TITLE: ENTITY,
    N.LIST_COMMUNITIES: _page(COMMUNITY),
    N.UNLINK_TEXTUNIT_ENTITY: _DONE,
    N.CASCADE_DELETE_DOCUMENT: _DONE,
    N.CASCADE_DELETE_TEXTUNIT: _DONE,
    N.CASCADE_DELETE_ENTITY: _DONE,
    N.CASCADE_DELETE_RELATIONSHIP: _DONE,
    N.GET_DOCUMENT_BY_EXTERNAL_ID: DOCUMENT,
    N.GET_TEXTUNIT_BY_EXTERNAL_ID: TEXTUNIT,
    N.GET_ENTITY_BY_EXTERNAL_ID: ENTITY,
    N.GET_RELATIONSHIP_BY_EXTERNAL_ID: RELATIONSHIP,
    N.GET_COMMUNITY_BY_EXTERNAL_ID: COMMUNITY,
    N.UPDATE_ENTITY_DESC: _DONE,
    N.DELETE_ENTITY: _DONE,
    N.MSET_ENTITIES: _CREATED,
    N.MGET_ENTITIES: _objects(ENTITY),
    N.LIST_ENTITIES: _page(ENTITY),
    N.ADD_RELATIONSHIP: _ONE_CREATED,
    N.GET_RELATIONSHIP: RELATIONSHIP,
    N.DELETE_RELATIONSHIP: _DONE,
    N.MSET_RELATIONSHIPS: _CREATED,
    N.MGET_RELATIONSHIPS: _objects(RELATIONSHIP),
    N.LIST_RELATIONSHIPS: _page(RELATIONSHIP),
    N.ADD_COMMUNITY: _ONE_CREATED,
    N.GET_COMMUNITY: COMMUNITY,
    N.DELETE_COMMUNITY: _DONE,
    N.COMPUTE_COMMUNITIES: st.builds(r.Detected, st.lists(COMMUNITY, max_size=3).map(tuple)),
    N.HIERARCHICAL_LEIDEN: st.builds(r.Hierarchy, st.dictionaries(INT32, INT32, max_size=4), INT32),
    N.REBUILD_INDEX: _DONE,
    N.QUERY: QUERY_RESULT,
    N.EXPLAIN: EXPLANATION,
    N.GET_EMBEDDINGS: _stored_embeddings(),
    N.BGSAVE: _DONE,
    N.SAVE: _DONE,
    N.LASTSAVE: st.builds(r.Saved, INT64, TEXT),
    N.BGRESTORE: _DONE,
    N.BACKUP_STATUS: st.builds(r.BackupStatus, st.booleans(), TEXT, INT64, INT32, TEXT, INT64, TEXT),
    N.WAL_CHECKPOINT: _DONE,
    N.WAL_TRUNCATE: _DONE,
    N.WAL_ROTATE: _DONE,
    N.WAL_STATUS: st.builds(r.LogStatus, UINT64, UINT64, INT32, INT64),
}
"""What each row of the table may be answered with."""


def results_of(command: c.Command, number: N) -> st.SearchStrategy[Any]:
    """A result of that row which can be the answer to this command: with an id for each object that it adds."""
    count = objects_created(command)
    created = st.builds(r.Created, st.lists(UINT64, min_size=count, max_size=count).map(tuple), st.just(True))
    return created if RESULTS[number] is _CREATED else RESULTS[number]
