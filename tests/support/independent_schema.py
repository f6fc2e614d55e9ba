"""The messages of the wire from a table of their own, so that a wrong field number in ours is seen.

Built from the text below with protobuf's descriptors, and from nothing that the server uses. An embedding is
`repeated float` here, as clients of GibRAM 0.3.0 write it; in our schema it is `repeated bytes`.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELDS = """
Envelope: 1 version u32, 2 request_id u64, 3 cmd_type i32, 4 payload bytes, 5 session_id string
Error: 1 message string, 2 code i32
OkWithID: 1 id u64
InfoResponse: 1 version string, 2 document_count u64, 3 textunit_count u64, 4 entity_count u64, 5 relationship_count u64, 6 community_count u64, 7 vector_dim i32, 8 session_count i32, 9 session_store_mode string, 10 wal_sync_policy string, 11 wal_sync_interval_ms i64
Component: 1 key string, 2 value string
HealthResponse: 1 status string, 2 components r Component
SessionInfo: 1 session_id string, 2 created_at i64, 3 last_access i64, 4 ttl i64, 5 idle_ttl i64, 6 document_count u64, 7 textunit_count u64, 8 entity_count u64, 9 relationship_count u64, 10 community_count u64
ListSessionsRequest: 100 cursor string, 101 limit i32
ListSessionsResponse: 1 sessions r SessionInfo, 100 next_cursor string
SetSessionTTLRequest: 1 session_id string, 2 ttl i64, 3 idle_ttl i64
Document: 1 id u64, 2 external_id string, 3 filename string, 4 status string, 5 textunit_ids r u64, 6 created_at i64
AddDocumentRequest: 1 external_id string, 2 filename string
TextUnit: 1 id u64, 2 external_id string, 3 document_id u64, 4 content string, 5 token_count i32, 6 entity_ids r u64, 7 created_at i64
AddTextUnitRequest: 1 external_id string, 2 document_id u64, 3 content string, 4 embedding r float, 5 token_count i32
Entity: 1 id u64, 2 external_id string, 3 title string, 4 type string, 5 description string, 6 textunit_ids r u64, 7 created_at i64
AddEntityRequest: 1 external_id string, 2 title string, 3 type string, 4 description string, 5 embedding r float
GetEntityByTitleRequest: 1 title string
UpdateEntityDescRequest: 1 id u64, 2 description string, 3 embedding r float
Relationship: 1 id u64, 2 external_id string, 3 source_id u64, 4 target_id u64, 5 type string, 6 description string, 7 weight float, 8 created_at i64
AddRelationshipRequest: 1 external_id string, 2 source_id u64, 3 target_id u64, 4 type string, 5 description string, 6 weight float
Community: 1 id u64, 2 external_id string, 3 title string, 4 summary string, 5 full_content string, 6 level i32, 7 entity_ids r u64, 8 relationship_ids r u64, 9 created_at i64, 100 origin string, 101 parent_id u64
AddCommunityRequest: 1 external_id string, 2 title string, 3 summary string, 4 full_content string, 5 level i32, 6 entity_ids r u64, 7 relationship_ids r u64, 8 embedding r float
LinkTextUnitEntityRequest: 1 textunit_id u64, 2 entity_id u64
ById: 1 id u64
ByExternalId: 1 external_id string
QueryRequest: 1 query_vector r float, 2 search_types r string, 3 top_k i32, 4 k_hops i32, 5 max_entities i32, 6 max_textunits i32, 7 max_communities i32, 8 seed_entity_ids r u64, 9 filter_entity_types r string, 10 filter_rel_types r string
TextUnitResult: 1 textunit TextUnit, 2 similarity float, 3 hop i32, 100 score double
EntityResult: 1 entity Entity, 2 similarity float, 3 hop i32, 100 score double
CommunityResult: 1 community Community, 2 similarity float
RelationshipResult: 1 relationship Relationship, 2 source_title string, 3 target_title string
QueryStats: 1 duration_micros i64, 2 vector_searches i32, 3 graph_traversals i32, 4 skipped_seed_indexes r string
QueryResponse: 1 query_id u64, 2 textunits r TextUnitResult, 3 entities r EntityResult, 4 communities r CommunityResult, 5 relationships r RelationshipResult, 6 stats QueryStats
ExplainRequest: 1 query_id u64
SeedInfo: 1 type string, 2 id u64, 3 external_id string, 4 similarity float
TraversalStep: 1 from_entity_id u64, 2 to_entity_id u64, 3 relationship_id u64, 4 rel_type string, 5 weight float, 6 hop i32
ExplainResponse: 1 query_id u64, 2 seeds r SeedInfo, 3 traversal r TraversalStep
ComputeCommunitiesRequest: 1 resolution double, 2 iterations i32
ComputeCommunitiesResponse: 1 count i32, 2 communities r Community
HierarchicalLeidenRequest: 1 max_levels i32, 2 resolution double
LevelCount: 1 key i32, 2 value i32
HierarchicalLeidenResponse: 1 level_counts r LevelCount, 2 total_communities i32
ListRequest: 1 cursor u64, 2 limit i32
MSetEntitiesRequest: 1 entities r AddEntityRequest
MSetDocumentsRequest: 1 documents r AddDocumentRequest
MSetTextUnitsRequest: 1 textunits r AddTextUnitRequest
MSetRelationshipsRequest: 1 relationships r AddRelationshipRequest
MGetRequest: 1 ids r u64
EntitiesResponse: 1 entities r Entity, 2 created_ids r u64, 3 next_cursor u64
DocumentsResponse: 1 documents r Document, 2 created_ids r u64, 3 next_cursor u64
TextUnitsResponse: 1 textunits r TextUnit, 2 created_ids r u64, 3 next_cursor u64
RelationshipsResponse: 1 relationships r Relationship, 2 created_ids r u64, 3 next_cursor u64
PipelineRequest: 1 commands r Envelope
PipelineResponse: 1 responses r Envelope
PathRequest: 1 path string
BackupStatusResponse: 1 in_progress bool, 2 type string, 3 start_time i64, 4 progress_percent i32, 5 error string, 6 last_save_time i64, 7 last_save_path string
LastSaveResponse: 1 timestamp i64, 2 path string
WALStatusResponse: 1 current_lsn u64, 2 flushed_lsn u64, 3 segment_count i32, 4 total_size_bytes i64
WALTruncateRequest: 1 target_lsn u64
AuthRequest: 1 api_key string
AuthResponse: 1 success bool, 2 message string, 3 key_id string, 4 permissions r string
CommunityListResponse: 1 communities r Community, 3 next_cursor u64
GetEmbeddingsRequest: 1 kind string, 2 ids r u64
EmbeddingsResponse: 1 ids r u64, 2 vector_dim u32, 3 vectors r float
DigestResponse: 1 sha256 string, 2 object_count u64
"""
_TYPES = {
    "u32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "u64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
    "i32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "i64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
}
_PACKAGE = "independent.of.ours"


def _built() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="independent.proto", package=_PACKAGE, syntax="proto3")
    for line in _FIELDS.strip().splitlines():
        name, _, fields = line.partition(": ")
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            found = re.fullmatch(r"(\d+) (\w+) (r )?(\w+)", field)
            assert found is not None, field
            number, field_name, repeated, kind = found.groups()
            added = message.field.add(name=field_name, number=int(number), label=3 if repeated else 1)
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
                added.type_name = f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
        for message in file.message_type
    }


MESSAGES: dict[str, Any] = _built()
"""Message classes by name. GetByIDRequest and DeleteByIDRequest are ById, the requests of all lists ListRequest."""
