"""What GibRAM 0.3.0's own schema writes we read, and what we answer it reads, both loaded in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gibram.proto import gibram_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from hypothesis import given, settings
from hypothesis import strategies as st
from support.wire_values import COMMANDS, results_of

from gibramdb.errors import NotFoundError
from gibramdb.model import commands as c
from gibramdb.model.knowledge import Community, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.model.results import Detected, Page, Result, SessionInfo, SessionPage
from gibramdb.wire import gibramdb_pb2 as ours
from gibramdb.wire.codec import (
    BY_NUMBER,
    CommandNumber,
    decode_command,
    decode_reply,
    decode_request,
    encode_command,
    encode_error,
    encode_reply,
    encode_result,
)

theirs: Any = gibram_pb2
"""The official client's messages; they come without types."""

N = CommandNumber
ROOT = Path(__file__).resolve().parents[2]

# number: request message or "", number of the reply, its message or ""
CATALOGUE: dict[N, tuple[str, int, str]] = {
    N.PING: ("", 2, ""),
    N.INFO: ("", 4, "InfoResponse"),
    N.HEALTH: ("", 8, "HealthResponse"),
    N.ADD_DOCUMENT: ("AddDocumentRequest", 6, "OkWithID"),
    N.GET_DOCUMENT: ("GetByIDRequest", 13, "Document"),
    N.DELETE_DOCUMENT: ("DeleteByIDRequest", 6, "OkWithID"),
    N.ADD_TEXTUNIT: ("AddTextUnitRequest", 6, "OkWithID"),
    N.GET_TEXTUNIT: ("GetByIDRequest", 24, "TextUnit"),
    N.DELETE_TEXTUNIT: ("DeleteByIDRequest", 6, "OkWithID"),
    N.LINK_TEXTUNIT_ENTITY: ("LinkTextUnitEntityRequest", 6, "OkWithID"),
    N.ADD_ENTITY: ("AddEntityRequest", 6, "OkWithID"),
    N.GET_ENTITY: ("GetByIDRequest", 35, "Entity"),
    N.GET_ENTITY_BY_TITLE: ("GetEntityByTitleRequest", 35, "Entity"),
    N.UPDATE_ENTITY_DESC: ("UpdateEntityDescRequest", 6, "OkWithID"),
    N.DELETE_ENTITY: ("DeleteByIDRequest", 6, "OkWithID"),
    N.ADD_RELATIONSHIP: ("AddRelationshipRequest", 6, "OkWithID"),
    N.GET_RELATIONSHIP: ("GetByIDRequest", 43, "Relationship"),
    N.DELETE_RELATIONSHIP: ("DeleteByIDRequest", 6, "OkWithID"),
    N.ADD_COMMUNITY: ("AddCommunityRequest", 6, "OkWithID"),
    N.GET_COMMUNITY: ("GetByIDRequest", 56, "Community"),
    N.DELETE_COMMUNITY: ("DeleteByIDRequest", 6, "OkWithID"),
    N.COMPUTE_COMMUNITIES: ("ComputeCommunitiesRequest", 57, "ComputeCommunitiesResponse"),
    N.HIERARCHICAL_LEIDEN: ("HierarchicalLeidenRequest", 57, "HierarchicalLeidenResponse"),
    N.REBUILD_INDEX: ("", 6, "OkWithID"),
    N.QUERY: ("QueryRequest", 61, "QueryResponse"),
    N.EXPLAIN: ("ExplainRequest", 63, "ExplainResponse"),
    N.BGSAVE: ("SaveRequest", 6, "OkWithID"),
    N.SAVE: ("SaveRequest", 6, "OkWithID"),
    N.LASTSAVE: ("", 119, "LastSaveResponse"),
    N.BGRESTORE: ("RestoreRequest", 6, "OkWithID"),
    N.BACKUP_STATUS: ("", 119, "BackupStatusResponse"),
    N.WAL_CHECKPOINT: ("", 6, "OkWithID"),
    N.WAL_TRUNCATE: ("WALTruncateRequest", 6, "OkWithID"),
    N.WAL_ROTATE: ("", 6, "OkWithID"),
    N.WAL_STATUS: ("", 119, "WALStatusResponse"),
    N.LIST_SESSIONS: ("", 6, "ListSessionsResponse"),
    N.DELETE_SESSION: ("", 6, "OkWithID"),
    N.SESSION_INFO: ("", 6, "SessionInfo"),
    N.SET_SESSION_TTL: ("SetSessionTTLRequest", 6, "OkWithID"),
    N.TOUCH_SESSION: ("", 6, "OkWithID"),
    N.MSET_ENTITIES: ("MSetEntitiesRequest", 88, "EntitiesResponse"),
    N.MGET_ENTITIES: ("MGetEntitiesRequest", 88, "EntitiesResponse"),
    N.MSET_DOCUMENTS: ("MSetDocumentsRequest", 89, "DocumentsResponse"),
    N.MGET_DOCUMENTS: ("MGetDocumentsRequest", 89, "DocumentsResponse"),
    N.MSET_TEXTUNITS: ("MSetTextUnitsRequest", 90, "TextUnitsResponse"),
    N.MGET_TEXTUNITS: ("MGetTextUnitsRequest", 90, "TextUnitsResponse"),
    N.MSET_RELATIONSHIPS: ("MSetRelationshipsRequest", 91, "RelationshipsResponse"),
    N.MGET_RELATIONSHIPS: ("MGetRelationshipsRequest", 91, "RelationshipsResponse"),
    N.LIST_ENTITIES: ("ListEntitiesRequest", 88, "EntitiesResponse"),
    N.LIST_RELATIONSHIPS: ("ListRelationshipsRequest", 91, "RelationshipsResponse"),
}
EVERY_COMMAND = pytest.mark.parametrize("number", CATALOGUE, ids=lambda number: number.name)

OURS_ALONE = {number for number in N if number >= 200}

EMBEDDING_FIELDS = {
    ("AddTextUnitRequest", "embedding"),
    ("AddEntityRequest", "embedding"),
    ("UpdateEntityDescRequest", "embedding"),
    ("AddCommunityRequest", "embedding"),
    ("QueryRequest", "query_vector"),
}
ADDED_FIELDS = {
    ("AuthResponse", "code"),
    ("Community", "origin"),
    ("Community", "parent_id"),
    ("DocumentsResponse", "next_cursor"),
    ("EntityResult", "score"),
    ("Envelope", "token"),
    ("ListSessionsResponse", "next_cursor"),
    ("TextUnitResult", "score"),
    ("TextUnitsResponse", "next_cursor"),
}
ADDED_MESSAGES = {
    "ListDocumentsRequest",
    "ListSessionsRequest",
    "ListTextUnitsRequest",
    "DigestResponse",
    "GetByExternalIDRequest",
    "ListCommunitiesRequest",
    "CommunityListResponse",
    "GetEmbeddingsRequest",
    "EmbeddingsResponse",
}


def fields_of(descriptor: Any) -> dict[str, FieldDescriptorProto]:
    message = DescriptorProto()
    descriptor.CopyToProto(message)
    return {field.name: field for field in message.field}


def form(field: FieldDescriptorProto) -> tuple[int, int, int, str]:
    return field.number, field.type, field.label, field.type_name.rpartition(".")[2]


def test_our_schema_is_theirs_but_for_what_is_named_here() -> None:
    their_messages = theirs.DESCRIPTOR.message_types_by_name
    for name, descriptor in ours.DESCRIPTOR.message_types_by_name.items():
        if name in ADDED_MESSAGES:
            assert name not in their_messages
            continue
        our_fields, their_fields = fields_of(descriptor), fields_of(their_messages[name])
        added = set(our_fields) - set(their_fields)
        assert {(name, field) for field in added} == {pair for pair in ADDED_FIELDS if pair[0] == name}
        assert set(their_fields) <= set(our_fields)
        for field_name, their_field in their_fields.items():
            number, kind, label, message_name = form(their_field)
            if (name, field_name) in EMBEDDING_FIELDS:
                assert kind == FieldDescriptorProto.TYPE_FLOAT
                kind = FieldDescriptorProto.TYPE_BYTES
            elif (name, field_name) == ("Envelope", "cmd_type"):
                kind, message_name = FieldDescriptorProto.TYPE_INT32, ""
            elif (name, field_name) == ("PipelineRequest", "commands"):
                kind, message_name = FieldDescriptorProto.TYPE_BYTES, ""
            assert form(our_fields[field_name]) == (number, kind, label, message_name), (name, field_name)


def test_our_numbers_are_theirs_but_for_ours_alone() -> None:
    their_numbers = {value.name: value.number for value in theirs.CommandType.DESCRIPTOR.values}
    for number in CommandNumber:
        if number not in OURS_ALONE:
            assert their_numbers[f"CMD_{number.name}"] == number.value


def test_the_catalogue_has_every_row_that_is_not_ours_alone() -> None:
    assert set(CATALOGUE) == set(BY_NUMBER) - OURS_ALONE


@EVERY_COMMAND
@settings(max_examples=25)
@given(data=st.data())
def test_a_request_written_by_their_schema_is_the_same_command(number: N, data: st.DataObject) -> None:
    # Their client asks for no page of this list; what ours says of one is tested with the codec.
    command = c.ListSessions() if number == N.LIST_SESSIONS else data.draw(COMMANDS[number])
    envelope = theirs.Envelope.FromString(encode_command(command, 5)[5:])
    request_name, _, _ = CATALOGUE[number]
    if request_name:
        message = getattr(theirs, request_name).FromString(envelope.payload)
        message.DiscardUnknownFields()
        envelope.payload = message.SerializeToString()
    else:
        assert envelope.payload == b""
    envelope.DiscardUnknownFields()
    received = decode_request(envelope.SerializeToString())
    # A float may lose the payload of a NaN on its way through a Python number, so the vectors are compared as numbers.
    assert repr(ours_again(decode_command(received))) == repr(ours_again(command))


def ours_again(command: c.Command) -> Any:
    """The request as their schema sees it, where any NaN is as good as another."""
    envelope = theirs.Envelope.FromString(encode_command(command, 5)[5:])
    request_name, _, _ = CATALOGUE[N(envelope.cmd_type)]
    return envelope.session_id, getattr(theirs, request_name).FromString(envelope.payload) if request_name else None


def without_what_they_do_not_know(result: Result) -> Result:
    def known(community: Community) -> Community:
        return Community(*[getattr(community, name) for name in Community.__struct_fields__[:9]])

    if isinstance(result, Community):
        return known(result)
    if isinstance(result, Detected):
        return Detected(tuple(map(known, result.communities)))
    if isinstance(result, SessionPage):
        return SessionPage(result.items)
    return result


@EVERY_COMMAND
@settings(max_examples=25)
@given(data=st.data())
def test_a_reply_of_ours_has_the_same_values_in_their_schema(number: N, data: st.DataObject) -> None:
    command = data.draw(COMMANDS[number])
    result = data.draw(results_of(command, number))
    request = decode_request(encode_command(command, 5)[5:])
    envelope = theirs.Envelope.FromString(encode_reply(5, *encode_result(result, request))[5:])
    _, reply_number, reply_name = CATALOGUE[number]
    assert (envelope.version, envelope.request_id, envelope.cmd_type) == (1, 5, reply_number)
    if not reply_name:
        assert envelope.payload == b""
        return
    message = getattr(theirs, reply_name).FromString(envelope.payload)
    message.DiscardUnknownFields()
    again = decode_reply(envelope.cmd_type, message.SerializeToString(), command)
    assert not isinstance(again, Exception)
    expected = decode_reply(envelope.cmd_type, envelope.payload, command)
    assert expected == result
    if number == N.QUERY:
        assert message.HasField("stats")
        assert result_as_theirs(again) == result_as_theirs(result)
    else:
        assert again == without_what_they_do_not_know(result)


def result_as_theirs(result: Any) -> Any:
    textunits = tuple((hit.textunit, hit.similarity, hit.hop) for hit in result.textunits)
    entities = tuple((hit.entity, hit.similarity, hit.hop) for hit in result.entities)
    hits = tuple((without_what_they_do_not_know(hit.community), hit.similarity) for hit in result.communities)
    return result.query_id, textunits, entities, hits, result.relationships, result.stats


SENT_BY_THE_SDK: list[tuple[int, Any, c.Command]] = [
    (1, None, c.Ping()),
    (3, None, c.GetInfo("s")),
    (
        10,
        theirs.AddDocumentRequest(external_id="d", filename="f"),
        c.AddDocuments("s", (NewDocument("d", "f"),), bulk=False),
    ),
    (
        20,
        theirs.AddTextUnitRequest(external_id="t", document_id=3, content="text", embedding=[0.5, -1.0], token_count=9),
        c.AddTextUnits("s", (NewTextUnit("t", 3, "text", (0.5, -1.0), 9),), bulk=False),
    ),
    (23, theirs.LinkTextUnitEntityRequest(textunit_id=1, entity_id=2), c.LinkTextUnitEntity("s", 1, 2)),
    (
        30,
        theirs.AddEntityRequest(external_id="e", title="T", type="p", description="d", embedding=[0.1] * 384),
        c.AddEntities("s", (NewEntity("e", "T", "p", "d", (0.1,) * 384),), bulk=False),
    ),
    (
        40,
        theirs.AddRelationshipRequest(
            external_id="r", source_id=1, target_id=2, type="K", description="d", weight=0.25
        ),
        c.AddRelationships("s", (NewRelationship(1, 2, "K", "d", 0.25, "r"),), bulk=False),
    ),
    (53, theirs.ComputeCommunitiesRequest(resolution=1.5), c.DetectCommunities("s", 1.5, 0)),
    (
        60,
        theirs.QueryRequest(query_vector=[1.0, 2.0], search_types=["entity"], top_k=4),
        c.Query("s", (1.0, 2.0), ("entity",), 4),
    ),
    (92, theirs.ListEntitiesRequest(cursor=3, limit=10), c.ListEntities("s", 3, 10)),
    (93, theirs.ListRelationshipsRequest(limit=1000), c.ListRelationships("s", 0, 1000)),
]


@pytest.mark.parametrize(("number", "message", "command"), SENT_BY_THE_SDK)
def test_what_the_sdk_sends_is_understood(number: int, message: Any, command: c.Command) -> None:
    payload = message.SerializeToString() if message is not None else b""
    for version in (1, 2):
        body = theirs.Envelope(
            version=version, request_id=8, cmd_type=number, payload=payload, session_id="s"
        ).SerializeToString()
        assert decode_command(decode_request(body)) == command


def test_an_error_is_read_by_their_schema_with_its_code() -> None:
    error = theirs.Error.FromString(encode_error(NotFoundError("entity not found")))
    assert (error.message, error.code) == ("entity not found", 1002)


def test_times_of_a_session_travel_in_nanoseconds_and_its_ttls_in_seconds() -> None:
    session = SessionInfo("s", 1_700_000_000_123, 1_700_000_000_456, 60, 5, 1, 2, 3, 4, 5)
    request = decode_request(encode_command(c.GetSession("s"), 1)[5:])
    message = theirs.SessionInfo.FromString(encode_result(session, request)[1])
    assert (message.created_at, message.last_access) == (1_700_000_000_123_000_000, 1_700_000_000_456_000_000)
    assert (message.ttl, message.idle_ttl) == (60, 5)
    ttl = theirs.SetSessionTTLRequest(session_id="other", ttl=-1, idle_ttl=30).SerializeToString()
    body = theirs.Envelope(cmd_type=73, session_id="s", payload=ttl).SerializeToString()
    assert decode_command(decode_request(body)) == c.SetSessionTtl("s", -1, 30)


def test_what_we_added_to_their_messages_is_skipped_by_them() -> None:
    community = Community(1, "", "T", "", "", 0, (1,), (2,), 5000, "detected", 9)
    request = decode_request(encode_command(c.GetCommunity("s", 1), 1)[5:])
    message = theirs.Community.FromString(encode_result(community, request)[1])
    assert (message.id, message.title, list(message.entity_ids), message.created_at) == (1, "T", [1], 5)
    listing = decode_request(encode_command(c.ListDocuments("s"), 1)[5:])
    number, payload = encode_result(Page((), 6), listing)
    assert number == 89
    assert len(theirs.DocumentsResponse.FromString(payload).documents) == 0


@pytest.mark.parametrize("first", ["gibram.proto.gibram_pb2", "gibramdb.wire.gibramdb_pb2"])
def test_both_schemas_load_in_one_process_in_either_order(first: str) -> None:
    code = f"import {first}, gibramdb.wire.gibramdb_pb2, gibram.proto.gibram_pb2"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180)


def test_the_generated_code_is_what_the_schema_gives() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "generate_wire.py", "--check"], check=True, timeout=180)
