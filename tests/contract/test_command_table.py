"""The command table of docs/formats/wire.md, walked over a socket with a schema of its own.

For each row of the page: a success with its reply's number and message, the session rule, an undecodable payload; then
every refusal that the page of errors has a code for and the command can meet, with its words. A refusal changes nothing.
"""

from __future__ import annotations

import math
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.independent_schema import MESSAGES
from support.server import Server

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats" / "wire.md").read_text()
V = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
BIG = "x" * 1_048_577
OK, ERROR = 6, 5


class Row(NamedTuple):
    number: int
    name: str
    session: str
    permission: str
    reply: int


def _rows() -> dict[str, Row]:
    section = PAGE.partition("\n## Commands\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (\d+) \| (\w+) \| (\w+) \| (\w+) \| (\d+) \w+ \|$", section, re.MULTILINE)
    return {
        name: Row(int(number), name, rule, permission, int(reply)) for number, name, rule, permission, reply in found
    }


ROWS = _rows()

SUCCESS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "PING": ("", {}, "", {}),
    "INFO": ("", {}, "InfoResponse", {"entity_count": 4, "vector_dim": 8, "session_count": 1, "wal_sync_policy": "every_write"}),
    "HEALTH": ("", {}, "HealthResponse", {"status": "ok"}),
    "ADD_DOCUMENT": ("AddDocumentRequest", {"external_id": "n", "filename": "f"}, "OkWithID", {"id": 3}),
    "GET_DOCUMENT": ("ById", {"id": 1}, "Document", {"id": 1, "external_id": "d1", "filename": "f1", "status": "uploaded", "textunit_ids": [1, 2]}),
    "DELETE_DOCUMENT": ("ById", {"id": 2}, "OkWithID", {"id": 2}),
    "ADD_TEXTUNIT": ("AddTextUnitRequest", {"external_id": "n", "document_id": 1, "content": "c", "embedding": V, "token_count": -3}, "OkWithID", {"id": 3}),
    "GET_TEXTUNIT": ("ById", {"id": 1}, "TextUnit", {"external_id": "t1", "document_id": 1, "content": "one", "token_count": 7, "entity_ids": [1]}),
    "DELETE_TEXTUNIT": ("ById", {"id": 2}, "OkWithID", {"id": 2}),
    "LINK_TEXTUNIT_ENTITY": ("LinkTextUnitEntityRequest", {"textunit_id": 2, "entity_id": 1}, "OkWithID", {"id": 0}),
    "ADD_ENTITY": ("AddEntityRequest", {"external_id": "n", "title": "n", "type": "k", "description": "s", "embedding": V}, "OkWithID", {"id": 5}),
    "GET_ENTITY": ("ById", {"id": 1}, "Entity", {"external_id": "e1", "title": "TITLE 1", "type": "kind", "description": "said", "textunit_ids": [1]}),
    "GET_ENTITY_BY_TITLE": ("GetEntityByTitleRequest", {"title": " title 2\u3000"}, "Entity", {"id": 2}),
    "UPDATE_ENTITY_DESC": ("UpdateEntityDescRequest", {"id": 1, "description": "", "embedding": V}, "OkWithID", {"id": 1}),
    "DELETE_ENTITY": ("ById", {"id": 4}, "OkWithID", {"id": 4}),
    "ADD_RELATIONSHIP": ("AddRelationshipRequest", {"external_id": "n", "source_id": 1, "target_id": 1, "type": "k", "description": "s", "weight": 0.5}, "OkWithID", {"id": 3}),
    "GET_RELATIONSHIP": ("ById", {"id": 1}, "Relationship", {"external_id": "r1", "source_id": 1, "target_id": 2, "type": "knows", "description": "well", "weight": 0.5}),
    "DELETE_RELATIONSHIP": ("ById", {"id": 2}, "OkWithID", {"id": 2}),
    "ADD_COMMUNITY": ("AddCommunityRequest", {"external_id": "n", "title": "t", "summary": "s", "full_content": "f", "level": 2, "entity_ids": [1, 2], "relationship_ids": [1], "embedding": V}, "OkWithID", {"id": 2}),
    "GET_COMMUNITY": ("ById", {"id": 1}, "Community", {"external_id": "c1", "title": "one", "summary": "sum", "full_content": "all", "level": 3, "entity_ids": [1], "relationship_ids": [1], "origin": "caller"}),
    "DELETE_COMMUNITY": ("ById", {"id": 1}, "OkWithID", {"id": 1}),
    "COMPUTE_COMMUNITIES": ("ComputeCommunitiesRequest", {"resolution": 1.0, "iterations": 5}, "ComputeCommunitiesResponse", {"count": 2}),
    "HIERARCHICAL_LEIDEN": ("HierarchicalLeidenRequest", {"max_levels": 2, "resolution": 1.0}, "HierarchicalLeidenResponse", {}),
    "REBUILD_INDEX": ("", {}, "OkWithID", {"id": 0}),
    "QUERY": ("QueryRequest", {"query_vector": V, "search_types": ["entity"], "top_k": 2, "k_hops": 1}, "QueryResponse", {}),
    "EXPLAIN": ("ExplainRequest", {"query_id": -1}, "ExplainResponse", {}),  # the id is that of a query just asked
    "LIST_SESSIONS": ("ListSessionsRequest", {"cursor": "done-LIST_SESSION", "limit": 1}, "ListSessionsResponse", {"sessions.session_id": ["done-LIST_SESSIONS"]}),
    "DELETE_SESSION": ("", {}, "OkWithID", {"id": 0}),
    "SESSION_INFO": ("", {}, "SessionInfo", {"document_count": 2, "textunit_count": 2, "entity_count": 4, "relationship_count": 2, "community_count": 1}),
    "SET_SESSION_TTL": ("SetSessionTTLRequest", {"session_id": "another", "ttl": 60, "idle_ttl": 30}, "OkWithID", {"id": 0}),
    "TOUCH_SESSION": ("", {}, "OkWithID", {"id": 0}),
    "MSET_ENTITIES": ("MSetEntitiesRequest", {"entities": [{"external_id": "m", "title": "m"}, {"external_id": "n", "title": "n", "embedding": V}]}, "EntitiesResponse", {"created_ids": [5, 6]}),
    "MGET_ENTITIES": ("MGetRequest", {"ids": [3, 9, 1, 3]}, "EntitiesResponse", {"entities.id": [3, 1, 3]}),
    "MSET_DOCUMENTS": ("MSetDocumentsRequest", {"documents": [{"external_id": "m"}, {"external_id": "n"}]}, "DocumentsResponse", {"created_ids": [3, 4]}),
    "MGET_DOCUMENTS": ("MGetRequest", {"ids": [2, 9, 1]}, "DocumentsResponse", {"documents.id": [2, 1]}),
    "MSET_TEXTUNITS": ("MSetTextUnitsRequest", {"textunits": [{"external_id": "m", "document_id": 1}, {"external_id": "n", "document_id": 2}]}, "TextUnitsResponse", {"created_ids": [3, 4]}),
    "MGET_TEXTUNITS": ("MGetRequest", {"ids": [2, 1]}, "TextUnitsResponse", {"textunits.id": [2, 1]}),
    "MSET_RELATIONSHIPS": ("MSetRelationshipsRequest", {"relationships": [{"source_id": 1, "target_id": 4}, {"source_id": 4, "target_id": 1}]}, "RelationshipsResponse", {"created_ids": [3, 4]}),
    "MGET_RELATIONSHIPS": ("MGetRequest", {"ids": [2, 2]}, "RelationshipsResponse", {"relationships.id": [2, 2]}),
    "LIST_ENTITIES": ("ListRequest", {"cursor": 1, "limit": 2}, "EntitiesResponse", {"entities.id": [2, 3], "next_cursor": 3}),
    "LIST_RELATIONSHIPS": ("ListRequest", {"limit": -1}, "RelationshipsResponse", {"relationships.id": [1, 2], "next_cursor": 0}),
    "LIST_DOCUMENTS": ("ListRequest", {"cursor": 1, "limit": 1}, "DocumentsResponse", {"documents.id": [2], "next_cursor": 0}),
    "LIST_TEXTUNITS": ("ListRequest", {"limit": 1}, "TextUnitsResponse", {"textunits.id": [1], "next_cursor": 1}),
    "GET_DIGEST": ("", {}, "DigestResponse", {"object_count": 11}),
    "UNLINK_TEXTUNIT_ENTITY": ("LinkTextUnitEntityRequest", {"textunit_id": 1, "entity_id": 1}, "OkWithID", {"id": 0}),
    "CASCADE_DELETE_DOCUMENT": ("ById", {"id": 1}, "OkWithID", {"id": 1}),
    "CASCADE_DELETE_TEXTUNIT": ("ById", {"id": 1}, "OkWithID", {"id": 1}),
    "CASCADE_DELETE_ENTITY": ("ById", {"id": 1}, "OkWithID", {"id": 1}),
    "CASCADE_DELETE_RELATIONSHIP": ("ById", {"id": 1}, "OkWithID", {"id": 1}),
    "LIST_COMMUNITIES": ("ListRequest", {"limit": 1}, "CommunityListResponse", {"communities.id": [1], "communities.title": ["one"], "next_cursor": 0}),
    "GET_DOCUMENT_BY_EXTERNAL_ID": ("ByExternalId", {"external_id": "d2"}, "Document", {"id": 2}),
    "GET_TEXTUNIT_BY_EXTERNAL_ID": ("ByExternalId", {"external_id": "t2"}, "TextUnit", {"id": 2}),
    "GET_ENTITY_BY_EXTERNAL_ID": ("ByExternalId", {"external_id": "e2"}, "Entity", {"id": 2}),
    "GET_RELATIONSHIP_BY_EXTERNAL_ID": ("ByExternalId", {"external_id": "r1"}, "Relationship", {"id": 1}),
    "GET_COMMUNITY_BY_EXTERNAL_ID": ("ByExternalId", {"external_id": "c1"}, "Community", {"id": 1}),
    "GET_EMBEDDINGS": ("GetEmbeddingsRequest", {"kind": "entity", "ids": [3, 9, 1, 3]}, "EmbeddingsResponse", {"ids": [3, 1, 3], "vectors": V * 3, "vector_dim": 8}),
    "SAVE": ("PathRequest", {"path": "copy"}, "OkWithID", {"id": 0}),
    "BGSAVE": ("PathRequest", {"path": "copy"}, "OkWithID", {"id": 0}),
    "LASTSAVE": ("", {}, "LastSaveResponse", {}),
    "BGRESTORE": ("PathRequest", {"path": "saved"}, "OkWithID", {"id": 0}),
    "BACKUP_STATUS": ("", {}, "BackupStatusResponse", {}),
    "WAL_CHECKPOINT": ("", {}, "OkWithID", {}),
    "WAL_TRUNCATE": ("WALTruncateRequest", {}, "OkWithID", {}),
    "WAL_ROTATE": ("", {}, "OkWithID", {}),
    "WAL_STATUS": ("", {}, "WALStatusResponse", {}),
}  # fmt: skip
"""By command: the request's message and fields, the reply's message and fields that it must have."""

BACKUP = {"SAVE", "BGSAVE", "BGRESTORE", "WAL_CHECKPOINT", "WAL_TRUNCATE", "WAL_ROTATE"}

E, D, T, R, C = (
    "AddEntityRequest",
    "AddDocumentRequest",
    "AddTextUnitRequest",
    "AddRelationshipRequest",
    "AddCommunityRequest",
)
NAN = [math.nan, *V[1:]]
INFINITE = [*V[:7], math.inf]
REFUSALS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("ADD_DOCUMENT", D, {"external_id": " \u00a0\u3000"}, 1001, "document external_id is required"),
    ("ADD_DOCUMENT", D, {"external_id": "d1"}, 1003, "document with external_id d1 already exists"),
    ("ADD_TEXTUNIT", T, {"document_id": 1}, 1001, "textunit external_id is required"),
    ("ADD_TEXTUNIT", T, {"external_id": "n", "document_id": 9}, 1002, "textunit document_id 9 does not exist"),
    ("ADD_TEXTUNIT", T, {"external_id": "t1", "document_id": 1}, 1003, "textunit with external_id t1 already exists"),
    ("ADD_TEXTUNIT", T, {"external_id": "n", "document_id": 1, "embedding": [1.0]}, 1005, "textunit embedding dimension mismatch: expected 8, got 1"),
    ("ADD_TEXTUNIT", T, {"external_id": "n", "document_id": 1, "embedding": NAN}, 1001, "textunit embedding contains non-finite value at index 0"),
    ("ADD_TEXTUNIT", T, {"external_id": "n", "document_id": 1, "content": BIG}, 1006, "content too large: 1048577 bytes (max: 1048576)"),
    ("ADD_ENTITY", E, {"title": "n"}, 1001, "entity external_id is required"),
    ("ADD_ENTITY", E, {"external_id": "n", "title": " tiTLE 1 "}, 1003, "entity with title  tiTLE 1  already exists"),
    ("ADD_ENTITY", E, {"external_id": "e1", "title": "n"}, 1003, "entity with external_id e1 already exists"),
    ("ADD_ENTITY", E, {"external_id": "n", "title": "n", "embedding": [*V, 1.0]}, 1005, "entity embedding dimension mismatch: expected 8, got 9"),
    ("ADD_ENTITY", E, {"external_id": "n", "title": "n", "embedding": INFINITE}, 1001, "entity embedding contains non-finite value at index 7"),
    ("ADD_ENTITY", E, {"external_id": "n", "title": "n", "description": BIG}, 1006, "description too large: 1048577 bytes (max: 1048576)"),
    ("UPDATE_ENTITY_DESC", "UpdateEntityDescRequest", {"id": 9}, 1002, "update failed"),
    ("UPDATE_ENTITY_DESC", "UpdateEntityDescRequest", {"id": 1, "embedding": [1.0]}, 1005, "update failed"),
    ("UPDATE_ENTITY_DESC", "UpdateEntityDescRequest", {"id": 1, "embedding": NAN}, 1001, "update failed"),
    ("UPDATE_ENTITY_DESC", "UpdateEntityDescRequest", {"id": 1, "description": BIG}, 1006, "description too large"),
    ("ADD_RELATIONSHIP", R, {"source_id": 9, "target_id": 8}, 1002, "relationship source_id 9 does not exist"),
    ("ADD_RELATIONSHIP", R, {"source_id": 1, "target_id": 8}, 1002, "relationship target_id 8 does not exist"),
    ("ADD_RELATIONSHIP", R, {"source_id": 1, "target_id": 2, "type": "knows"}, 1003, "relationship from 1 to 2 with type knows already exists"),
    ("ADD_RELATIONSHIP", R, {"source_id": 1, "target_id": 1, "external_id": "r1"}, 1003, "relationship with external_id r1 already exists"),
    ("ADD_RELATIONSHIP", R, {"source_id": 1, "target_id": 1, "weight": math.nan}, 1001, "relationship weight must be finite"),
    ("ADD_RELATIONSHIP", R, {"source_id": 1, "target_id": 1, "description": BIG}, 1006, "description too large"),
    ("ADD_COMMUNITY", C, {"external_id": "c1"}, 1003, "community with external_id c1 already exists"),
    ("ADD_COMMUNITY", C, {"entity_ids": [1, 9]}, 1002, "community entity_id 9 does not exist"),
    ("ADD_COMMUNITY", C, {"relationship_ids": [9]}, 1002, "community relationship_id 9 does not exist"),
    ("ADD_COMMUNITY", C, {"embedding": [1.0]}, 1005, "community embedding dimension mismatch: expected 8, got 1"),
    ("ADD_COMMUNITY", C, {"embedding": NAN}, 1001, "community embedding contains non-finite value at index 0"),
    ("ADD_COMMUNITY", C, {"summary": BIG}, 1006, "summary too large"),
    ("ADD_COMMUNITY", C, {"full_content": BIG}, 1006, "full_content too large"),
    ("DELETE_DOCUMENT", "ById", {"id": 1}, 1004, "document 1 has dependent text units"),
    ("DELETE_TEXTUNIT", "ById", {"id": 1}, 1004, "textunit 1 is linked to entities"),
    ("DELETE_ENTITY", "ById", {"id": 1}, 1004, "entity 1 is linked to text units"),
    ("DELETE_ENTITY", "ById", {"id": 2}, 1004, "entity 2 is linked to relationships"),
    ("DELETE_RELATIONSHIP", "ById", {"id": 1}, 1004, "relationship 1 is referenced by communities"),
    ("GET_ENTITY_BY_TITLE", "GetEntityByTitleRequest", {"title": "nobody"}, 1002, "entity not found"),
    ("MSET_DOCUMENTS", "MSetDocumentsRequest", {"documents": [{"external_id": "n"}, {"external_id": "d1"}]}, 1003, "atomic bulk documents failed at index 1: document with external_id d1 already exists; no items committed"),
    ("MSET_DOCUMENTS", "MSetDocumentsRequest", {"documents": [{"external_id": "n"}, {"external_id": "n"}]}, 1003, "document with external_id n already exists in bulk request"),
    ("MSET_DOCUMENTS", "MSetDocumentsRequest", {"documents": [{}]}, 1001, "atomic bulk documents failed at index 0: document external_id is required"),
    ("MSET_TEXTUNITS", "MSetTextUnitsRequest", {"textunits": [{"external_id": "n", "document_id": 1}, {"external_id": "m", "document_id": 9}]}, 1002, "atomic bulk textunits failed at index 1: textunit document_id 9 does not exist; no items committed"),
    ("MSET_TEXTUNITS", "MSetTextUnitsRequest", {"textunits": [{"external_id": "n", "document_id": 1}, {"content": BIG}]}, 1006, "textunits[1].content too large"),
    ("MSET_TEXTUNITS", "MSetTextUnitsRequest", {"textunits": [{"external_id": "n", "document_id": 1}, {"external_id": "n", "document_id": 1}]}, 1003, "textunit with external_id n already exists in bulk request"),
    ("MSET_ENTITIES", "MSetEntitiesRequest", {"entities": [{"external_id": "n", "title": "n"}, {"external_id": "m", "title": " N"}]}, 1003, "atomic bulk entities failed at index 1: entity with title  N already exists in bulk request"),
    ("MSET_ENTITIES", "MSetEntitiesRequest", {"entities": [{"external_id": "n", "title": "n"}, {"external_id": "n", "title": "m"}]}, 1003, "entity with external_id n already exists in bulk request"),
    ("MSET_ENTITIES", "MSetEntitiesRequest", {"entities": [{"external_id": "n", "title": "n", "embedding": [1.0]}]}, 1005, "atomic bulk entities failed at index 0: entity embedding dimension mismatch"),
    ("MSET_ENTITIES", "MSetEntitiesRequest", {"entities": [{"description": BIG}]}, 1006, "entities[0].description too large"),
    ("MSET_RELATIONSHIPS", "MSetRelationshipsRequest", {"relationships": [{"source_id": 4, "target_id": 4}, {"source_id": 4, "target_id": 4}]}, 1003, "atomic bulk relationships failed at index 1: relationship from 4 to 4 with type  already exists in bulk request"),
    ("MSET_RELATIONSHIPS", "MSetRelationshipsRequest", {"relationships": [{"source_id": 4, "target_id": 9}]}, 1002, "atomic bulk relationships failed at index 0: relationship target_id 9 does not exist"),
    ("QUERY", "QueryRequest", {"query_vector": [1.0]}, 1005, "expected 8, got 1"),
    ("QUERY", "QueryRequest", {}, 1005, "expected 8, got 0"),
    ("QUERY", "QueryRequest", {"query_vector": NAN}, 1001, "query vector contains non-finite value at index 0"),
    ("QUERY", "QueryRequest", {"query_vector": V, "search_types": ["nothing"]}, 1010, "retrieval ready error"),
    ("QUERY", "QueryRequest", {"query_vector": V, "search_types": ["nothing"]}, 1010, "skipped=[]"),
    ("QUERY", "QueryRequest", {"query_vector": V, "seed_entity_ids": [9]}, 1002, "entity not found: seed 9"),
    *[("QUERY", "QueryRequest", {"query_vector": V, field: -1}, 1001, "must not be negative") for field in ("top_k", "max_entities", "max_textunits", "max_communities")],
    *[("GET_EMBEDDINGS", "GetEmbeddingsRequest", {"kind": kind, "ids": [1]}, 1001, f"kind must be one of textunit, entity, community, got '{kind}'") for kind in ("", "document", "Entity")],
    ("EXPLAIN", "ExplainRequest", {"query_id": 999_999}, 1002, "query not found"),
    ("COMPUTE_COMMUNITIES", "ComputeCommunitiesRequest", {"iterations": -1}, 1001, "iterations must not be negative"),
    ("COMPUTE_COMMUNITIES", "ComputeCommunitiesRequest", {"resolution": math.nan}, 1001, "resolution"),
    ("HIERARCHICAL_LEIDEN", "HierarchicalLeidenRequest", {"resolution": -1.0}, 1001, "resolution"),
    *[
        (f"{command}_TEXTUNIT_ENTITY", "LinkTextUnitEntityRequest", {"textunit_id": textunit, "entity_id": entity}, 1002, f"{command.lower()} failed")
        for command in ("LINK", "UNLINK") for textunit, entity in ((9, 1), (1, 9))
    ],
    *[
        (f"{verb}_{noun.upper()}", "ById", {"id": id}, 1002, f"{noun} not found")
        for verb in ("GET", "DELETE") for noun in ("document", "textunit", "entity", "relationship", "community")
        for id in (0, 9, 2**64 - 1)
    ],
    *[
        (f"CASCADE_DELETE_{noun.upper()}", "ById", {"id": id}, 1002, f"{noun} not found")
        for noun in ("document", "textunit", "entity", "relationship") for id in (0, 9, 2**64 - 1)
    ],
    *[
        (f"GET_{noun.upper()}_BY_EXTERNAL_ID", "ByExternalId", {"external_id": name}, 1002, f"{noun} not found")
        for noun in ("document", "textunit", "entity", "relationship", "community") for name in ("", "nobody")
    ],
    ("SAVE", "PathRequest", {"path": "../copy"}, 1001, "path escapes base directory"),
    ("SAVE", "PathRequest", {"path": "/tmp/copy"}, 1001, "path escapes base directory"),
    ("BGSAVE", "PathRequest", {"path": "a/../../copy"}, 1001, "path escapes base directory"),
    ("BGRESTORE", "PathRequest", {}, 1001, "restore path is required"),
    ("BGRESTORE", "PathRequest", {"path": "../copy"}, 1001, "path escapes base directory"),
    ("BGRESTORE", "PathRequest", {"path": "nowhere"}, 1002, "nowhere"),
]  # fmt: skip


EMPTY_WITHOUT_SESSION = {name: b"" for name in ROWS if name.startswith(("MGET_", "LIST_")) and name != "LIST_SESSIONS"}
EMPTY_WITHOUT_SESSION["GET_EMBEDDINGS"] = bytes(MESSAGES["EmbeddingsResponse"](vector_dim=8).SerializeToString())
"""An unknown or expired session answers them with nothing, as these bytes, and no error."""


class Wire:
    """Frames on a socket, written and read with the independent schema."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)

    def close(self) -> None:
        self._socket.close()

    def exchange(self, body: bytes) -> Any:
        self._socket.sendall(b"\x01" + len(body).to_bytes(4, "big") + body)
        header = self._exactly(5)
        assert header[0] == 1
        return MESSAGES["Envelope"].FromString(self._exactly(int.from_bytes(header[1:], "big")))

    def _exactly(self, size: int) -> bytes:
        read = bytearray()
        while len(read) < size:
            data = self._socket.recv(size - len(read))
            assert data, "the server closed the connection"
            read += data
        return bytes(read)

    def ask(self, number: int, session: str, payload: bytes = b"", request_id: int = 7, version: int = 1) -> Any:
        envelope = MESSAGES["Envelope"](
            version=version, request_id=request_id, cmd_type=number, payload=payload, session_id=session
        )
        answer = self.exchange(envelope.SerializeToString())
        assert (answer.version, answer.session_id) == (1, "")
        if request_id:
            assert answer.request_id == request_id
        return answer

    def error(self, number: int, session: str, payload: bytes = b"") -> tuple[int, str]:
        answer = self.ask(number, session, payload)
        assert answer.cmd_type == ERROR, f"answered with {answer.cmd_type}"
        error = MESSAGES["Error"].FromString(answer.payload)
        return error.code, error.message

    def digest(self, session: str) -> str:
        payload = self.ask(ROWS["GET_DIGEST"].number, session).payload
        return str(MESSAGES["DigestResponse"].FromString(payload).sha256)

    def sessions(self) -> set[str]:
        payload = self.ask(ROWS["LIST_SESSIONS"].number, "").payload
        return {each.session_id for each in MESSAGES["ListSessionsResponse"].FromString(payload).sessions}

    def furnish(self, session: str) -> None:
        furniture: list[tuple[str, str, dict[str, Any]]] = [
            ("ADD_DOCUMENT", D, {"external_id": "d1", "filename": "f1"}),
            ("ADD_DOCUMENT", D, {"external_id": "d2"}),
            ("ADD_TEXTUNIT", T, {"external_id": "t1", "document_id": 1, "content": "one", "embedding": V, "token_count": 7}),
            ("ADD_TEXTUNIT", T, {"external_id": "t2", "document_id": 1}),
            *[("ADD_ENTITY", E, {"external_id": f"e{n}", "title": f"Title {n}", "type": "kind", "description": "said", "embedding": V}) for n in range(1, 5)],
            ("ADD_RELATIONSHIP", R, {"external_id": "r1", "source_id": 1, "target_id": 2, "type": "knows", "description": "well", "weight": 0.5}),
            ("ADD_RELATIONSHIP", R, {"source_id": 2, "target_id": 3}),
            ("ADD_COMMUNITY", C, {"external_id": "c1", "title": "one", "summary": "sum", "full_content": "all", "level": 3, "entity_ids": [1], "relationship_ids": [1], "embedding": V}),
            ("LINK_TEXTUNIT_ENTITY", "LinkTextUnitEntityRequest", {"textunit_id": 1, "entity_id": 1}),
        ]  # fmt: skip
        for name, message, fields in furniture:
            assert self.ask(ROWS[name].number, session, encoded(message, fields)).cmd_type == OK

    def expire_later(self, session: str) -> None:
        payload = encoded("SetSessionTTLRequest", {"ttl": 1})
        assert self.ask(ROWS["SET_SESSION_TTL"].number, session, payload).cmd_type == OK


def encoded(message: str, fields: dict[str, Any]) -> bytes:
    return bytes(MESSAGES[message](**fields).SerializeToString()) if message else b""


def good(name: str) -> bytes:
    message, fields, _, _ = SUCCESS[name]
    return encoded(message, {} if name == "EXPLAIN" else fields)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("table") / "data"
    with Server(directory) as server:
        yield server


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    wire = Wire(server.port)
    yield wire
    wire.close()


@pytest.fixture(scope="module")
def expired(server: Server) -> str:
    """The beginning of the names of sessions whose time is over, one for each command."""
    wire = Wire(server.port)
    for name in ROWS:
        wire.furnish(f"over-{name}")
        wire.expire_later(f"over-{name}")
    wire.close()
    time.sleep(1.1)
    return "over-"


def test_the_page_has_all_rows_and_each_has_its_case() -> None:
    assert set(ROWS) == set(SUCCESS)
    assert {refusal[0] for refusal in REFUSALS} <= set(ROWS)
    cases = 4 * len(ROWS) + len(REFUSALS)
    print(f"{cases} cases over {len(ROWS)} commands")


@pytest.mark.parametrize("name", ROWS)
def test_the_command_is_done_and_answered_as_the_page_says(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if name in BACKUP:
        with Server(tmp_path / "data") as server:
            _walk(Wire(server.port), name)
    else:
        _walk(Wire(request.getfixturevalue("server").port), name)


def _walk(wire: Wire, name: str) -> None:
    row = ROWS[name]
    session = f"done-{name}"
    wire.furnish(session)
    payload = good(name)
    if name == "EXPLAIN":
        asked = wire.ask(ROWS["QUERY"].number, session, good("QUERY"))
        payload = encoded("ExplainRequest", {"query_id": MESSAGES["QueryResponse"].FromString(asked.payload).query_id})
    if name == "BGRESTORE":
        assert wire.ask(ROWS["SAVE"].number, "", encoded("PathRequest", {"path": "saved"})).cmd_type == OK
    answer = wire.ask(row.number, session, payload, version=2)
    _, _, reply, expected = SUCCESS[name]
    said = MESSAGES["Error"].FromString(answer.payload).message if answer.cmd_type == ERROR else ""
    assert answer.cmd_type == row.reply, said
    if not reply:
        assert answer.payload == b""
        return
    message = MESSAGES[reply].FromString(answer.payload)
    for field, value in expected.items():
        assert read(message, field) == value, field
    assert message.SerializeToString(deterministic=True) == known(message), "fields that the page does not know"
    _look_closer(name, wire, session, message)
    wire.close()


def read(message: Any, field: str) -> Any:
    outer, _, inner = field.partition(".")
    value = getattr(message, outer)
    if inner:
        return [getattr(each, inner) for each in value]
    return list(value) if hasattr(value, "extend") else value


def known(message: Any) -> bytes:
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    return bytes(copy.SerializeToString(deterministic=True))


def _look_closer(name: str, wire: Wire, session: str, message: Any) -> None:
    """What a table of fields can not say."""
    if name == "HEALTH":
        assert len({each.key for each in message.components}) >= 20
    elif name == "LIST_SESSIONS":
        assert session in wire.sessions(), "without a payload, as GibRAM's clients ask"
    elif name == "SESSION_INFO":
        assert abs(message.created_at - time.time_ns()) < 60 * 10**9
    elif name == "COMPUTE_COMMUNITIES":
        assert sorted(id for each in message.communities for id in each.entity_ids) == [1, 2, 3, 4]
        assert all(each.created_at and each.id > 1 for each in message.communities)
        assert wire.ask(ROWS["GET_COMMUNITY"].number, session, encoded("ById", {"id": 1})).cmd_type == 56
    elif name == "HIERARCHICAL_LEIDEN":
        assert sum(each.value for each in message.level_counts) == message.total_communities > 0
    elif name == "QUERY":
        assert message.HasField("stats")
        assert [(hit.entity.id, hit.hop) for hit in message.entities] == [(1, 0), (2, 0), (3, 1)]
        assert [hit.textunit.id for hit in message.textunits] == [1]
        assert [(each.relationship.id, each.source_title) for each in message.relationships] == [
            (1, "TITLE 1"), (2, "TITLE 2"),
        ]  # fmt: skip
    elif name == "EXPLAIN":
        assert [(seed.type, seed.id, seed.external_id) for seed in message.seeds] == [
            ("entity", 1, "e1"),
            ("entity", 2, "e2"),
        ]
        assert [(step.from_entity_id, step.to_entity_id, step.relationship_id) for step in message.traversal] == [
            (2, 3, 2)
        ]
    elif name == "SET_SESSION_TTL":
        told = MESSAGES["SessionInfo"].FromString(wire.ask(ROWS["SESSION_INFO"].number, session).payload)
        assert (told.ttl, told.idle_ttl) == (60, 30)
    elif name == "BGRESTORE":
        told = _backup_status(wire)
        until = time.monotonic() + 60
        while told.in_progress and time.monotonic() < until:
            time.sleep(0.01)
            told = _backup_status(wire)
        assert (told.type, told.error) == ("restore", "")


def _backup_status(wire: Wire) -> Any:
    return MESSAGES["BackupStatusResponse"].FromString(wire.ask(ROWS["BACKUP_STATUS"].number, "").payload)


@pytest.mark.parametrize("name", ROWS)
def test_the_session_rule_of_the_page_holds(name: str, wire: Wire) -> None:
    row = ROWS[name]
    unknown = f"unknown-{name}"
    if row.session in {"required", "created"}:
        assert wire.error(row.number, "", good(name)) == (1001, "session_id is required")
    if row.session == "required" and name in EMPTY_WITHOUT_SESSION:
        answer = wire.ask(row.number, unknown, good(name))
        assert (answer.cmd_type, answer.payload) == (row.reply, EMPTY_WITHOUT_SESSION[name])
    elif row.session == "required":
        code, message = wire.error(row.number, unknown, good(name))
        assert (code, "session not found" in message) == (1007, True), message
    elif row.session == "optional":
        assert wire.ask(row.number, "").cmd_type == row.reply
    elif row.session == "unused" and name not in BACKUP:
        assert wire.ask(row.number, unknown, good(name)).cmd_type == row.reply
    assert not {"", unknown} & wire.sessions(), "it made a session"


@pytest.mark.parametrize(
    "name", [name for name, row in ROWS.items() if row.session in {"required", "created", "optional"}]
)
def test_what_an_expired_session_answers(name: str, wire: Wire, expired: str) -> None:
    row = ROWS[name]
    payload = good(name)
    if name in EMPTY_WITHOUT_SESSION:
        answer = wire.ask(row.number, expired + name, payload)
        assert (answer.cmd_type, answer.payload) == (row.reply, EMPTY_WITHOUT_SESSION[name])
    elif name == "INFO":
        told = MESSAGES["InfoResponse"].FromString(wire.ask(row.number, expired + name).payload)
        assert (told.entity_count, told.session_count) == (0, 0)
    elif name == "DELETE_SESSION":
        assert wire.ask(row.number, expired + name).cmd_type == row.reply
    elif name in {"ADD_DOCUMENT", "ADD_ENTITY", "MSET_DOCUMENTS", "MSET_ENTITIES"}:
        assert wire.ask(row.number, expired + name, payload).cmd_type == row.reply, "it begins a new session"
        told = MESSAGES["SessionInfo"].FromString(wire.ask(ROWS["SESSION_INFO"].number, expired + name).payload)
        assert told.ttl == 0
        assert told.document_count + told.entity_count == (2 if name.startswith("MSET") else 1)
    elif row.session == "created":
        code, message = wire.error(row.number, expired + name, payload)
        assert (code, "does not exist" in message) == (1002, True), "the new session would be empty"
    else:
        code, message = wire.error(row.number, expired + name, payload)
        assert (code, "session expired" in message) == (1008, True), message


@pytest.mark.parametrize("name", [name for name, case in SUCCESS.items() if case[0]])
def test_an_undecodable_payload_is_refused_and_the_connection_goes_on(name: str, wire: Wire) -> None:
    wire.furnish(f"bad-{name}")
    before = wire.digest(f"bad-{name}")
    for payload in (b"\xff", b"\x0a\x05ab", b"\x0b" * 300, good(name) + b"\x00"):
        code, message = wire.error(ROWS[name].number, f"bad-{name}", payload)
        assert (code, message.startswith(f"{name}: undecodable payload")) == (1001, True), message
    assert wire.digest(f"bad-{name}") == before


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case[0]}-{case[3]}")
def test_a_refusal_has_its_words_and_code_and_changes_nothing(
    case: tuple[str, str, dict[str, Any], int, str], wire: Wire, request: pytest.FixtureRequest
) -> None:
    name, message, fields, code, words = case
    session = request.node.name
    wire.furnish(session)
    before = wire.digest(session)
    said_code, said = wire.error(ROWS[name].number, session, encoded(message, fields))
    assert words in said
    assert said_code == code
    assert wire.digest(session) == before
    if ROWS[name].session == "created" and code != 1003:
        wire.error(ROWS[name].number, f"{session}-new", encoded(message, fields))
        assert wire.error(ROWS["SESSION_INFO"].number, f"{session}-new")[0] == 1007, "a refused command made a session"


@pytest.mark.parametrize("number", sorted(set(range(-1, 130)) | set(range(198, 230)) | {2**31 - 1}))
def test_every_other_number_is_unknown(number: int, wire: Wire) -> None:
    if number in {row.number for row in ROWS.values()} | {100, 120}:
        assert wire.ask(number, "s").cmd_type != ERROR or number != 120
        return
    assert wire.error(number, "s") == (1009, f"unknown command: {number}")


VECTORS = [
    ("0801 1001 1801 2a0173", "0801 1001 1802"),
    ("0801 1002 180a 220b 0a026431 1205612e747874 2a0173", "0801 1002 1806 2202 0801"),
    ("0801 1005 184a 2a0173", "0801 1005 1806"),
    ("0801 1003 180b 2202 0809 2a0173", None),
    ("0801 1009 185c 2a0475736564", "0801 1009 1858"),
    ("0801 1001 1878 2203 0a016b", None),
]
"""PING; ADD_DOCUMENT d1, a.txt; TOUCH_SESSION; GET_DOCUMENT 9, not there; LIST_ENTITIES in no session; AUTH with key k."""


def test_frames_known_byte_for_byte(tmp_path: Path) -> None:
    with Server(tmp_path / "data", mode="ephemeral") as server:
        wire = Wire(server.port)
        answers = [wire.exchange(bytes.fromhex(sent)) for sent, _ in VECTORS]
        wire.close()
    for (_, expected), answer in zip(VECTORS, answers, strict=True):
        if expected is not None:
            assert answer.SerializeToString(deterministic=True) == bytes.fromhex(expected)
    error = MESSAGES["Error"].FromString(answers[3].payload)
    assert (answers[3].cmd_type, error.message[:18], error.code) == (ERROR, "document not found", 1002)
    assert MESSAGES["AuthResponse"].FromString(answers[5].payload).success


def test_request_ids_are_echoed_and_zero_asks_for_one(wire: Wire) -> None:
    for request_id in (1, 2**32, 2**64 - 1):
        assert wire.ask(1, "", request_id=request_id).request_id == request_id
    assigned = [wire.ask(1, "", request_id=0, version=version).request_id for version in (0, 1, 2, 2**32 - 1)]
    assert assigned == list(range(assigned[0], assigned[0] + 4))
    assert assigned[0] > 0


def test_links_out_of_the_data_directory_are_refused(server: Server, wire: Wire, tmp_path: Path) -> None:
    """Entry by entry: a folder that is a link, a link to nothing, and beside a link that looks unfinished."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (server.directory / "away").symlink_to(outside)
    (server.directory / "dangling").symlink_to(outside / "not there")
    for path in ("away/copy", "dangling"):
        code, said = wire.error(ROWS["SAVE"].number, "", encoded("PathRequest", {"path": path}))
        assert (code, "symlink escapes base directory" in said) == (1001, True), said
    (server.directory / "held.tmp").symlink_to(outside / "held")
    wire.ask(ROWS["SAVE"].number, "", encoded("PathRequest", {"path": "held"}))
    assert list(outside.iterdir()) == []


def test_without_a_log_its_commands_say_so(tmp_path: Path) -> None:
    with Server(tmp_path / "data", mode="ephemeral") as server:
        wire = Wire(server.port)
        for name in ("WAL_CHECKPOINT", "WAL_TRUNCATE", "WAL_ROTATE"):
            code, said = wire.error(ROWS[name].number, "")
            assert (code, "WAL not configured" in said) == (2000, True)
        wire.close()


def test_quotas_and_the_session_cap_have_their_words(tmp_path: Path) -> None:
    file = tmp_path / "gibramdb.yaml"
    file.write_text(
        "security:\n  max_session_documents: 2\n  max_session_entities: 4\n  max_session_relationships: 2\n"
        "  max_sessions: 1\n"
    )
    with Server(tmp_path / "data", "--config", str(file)) as server:
        wire = Wire(server.port)
        wire.furnish("s")
        before = wire.digest("s")
        for name, message, fields, words in (
            ("ADD_DOCUMENT", D, {"external_id": "n"}, "document quota exceeded"),
            ("ADD_ENTITY", E, {"external_id": "n", "title": "n"}, "entity quota exceeded"),
            ("ADD_RELATIONSHIP", R, {"source_id": 1, "target_id": 1}, "relationship quota exceeded"),
            (
                "MSET_DOCUMENTS",
                "MSetDocumentsRequest",
                {"documents": [{"external_id": "n"}]},
                "at index 0: document quota",
            ),
        ):
            code, said = wire.error(ROWS[name].number, "s", encoded(message, fields))
            assert (code, words in said) == (1006, True), said
        code, said = wire.error(ROWS["ADD_DOCUMENT"].number, "second", encoded(D, {"external_id": "n"}))
        assert (code, "max sessions limit reached (1)" in said) == (1006, True), said
        assert wire.digest("s") == before
        wire.close()
