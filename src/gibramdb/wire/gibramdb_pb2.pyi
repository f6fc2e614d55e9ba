# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("version", "request_id", "cmd_type", "payload", "session_id", "token")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CMD_TYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    version: int
    request_id: int
    cmd_type: int
    payload: bytes
    session_id: str
    token: bytes
    def __init__(self, version: _Optional[int] = ..., request_id: _Optional[int] = ..., cmd_type: _Optional[int] = ..., payload: _Optional[bytes] = ..., session_id: _Optional[str] = ..., token: _Optional[bytes] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("message", "code")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    message: str
    code: int
    def __init__(self, message: _Optional[str] = ..., code: _Optional[int] = ...) -> None: ...

class OkWithID(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("version", "document_count", "textunit_count", "entity_count", "relationship_count", "community_count", "vector_dim", "session_count", "session_store_mode", "wal_sync_policy", "wal_sync_interval_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    TEXTUNIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENTITY_COUNT_FIELD_NUMBER: _ClassVar[int]
    RELATIONSHIP_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMMUNITY_COUNT_FIELD_NUMBER: _ClassVar[int]
    VECTOR_DIM_FIELD_NUMBER: _ClassVar[int]
    SESSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    SESSION_STORE_MODE_FIELD_NUMBER: _ClassVar[int]
    WAL_SYNC_POLICY_FIELD_NUMBER: _ClassVar[int]
    WAL_SYNC_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    version: str
    document_count: int
    textunit_count: int
    entity_count: int
    relationship_count: int
    community_count: int
    vector_dim: int
    session_count: int
    session_store_mode: str
    wal_sync_policy: str
    wal_sync_interval_ms: int
    def __init__(self, version: _Optional[str] = ..., document_count: _Optional[int] = ..., textunit_count: _Optional[int] = ..., entity_count: _Optional[int] = ..., relationship_count: _Optional[int] = ..., community_count: _Optional[int] = ..., vector_dim: _Optional[int] = ..., session_count: _Optional[int] = ..., session_store_mode: _Optional[str] = ..., wal_sync_policy: _Optional[str] = ..., wal_sync_interval_ms: _Optional[int] = ...) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("status", "components")
    class ComponentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    STATUS_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    status: str
    components: _containers.ScalarMap[str, str]
    def __init__(self, status: _Optional[str] = ..., components: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SessionInfo(_message.Message):
    __slots__ = ("session_id", "created_at", "last_access", "ttl", "idle_ttl", "document_count", "textunit_count", "entity_count", "relationship_count", "community_count")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_ACCESS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    TEXTUNIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENTITY_COUNT_FIELD_NUMBER: _ClassVar[int]
    RELATIONSHIP_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMMUNITY_COUNT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    created_at: int
    last_access: int
    ttl: int
    idle_ttl: int
    document_count: int
    textunit_count: int
    entity_count: int
    relationship_count: int
    community_count: int
    def __init__(self, session_id: _Optional[str] = ..., created_at: _Optional[int] = ..., last_access: _Optional[int] = ..., ttl: _Optional[int] = ..., idle_ttl: _Optional[int] = ..., document_count: _Optional[int] = ..., textunit_count: _Optional[int] = ..., entity_count: _Optional[int] = ..., relationship_count: _Optional[int] = ..., community_count: _Optional[int] = ...) -> None: ...

class ListSessionsResponse(_message.Message):
    __slots__ = ("sessions", "next_cursor")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[SessionInfo]
    next_cursor: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[SessionInfo, _Mapping]]] = ..., next_cursor: _Optional[str] = ...) -> None: ...

class SetSessionTTLRequest(_message.Message):
    __slots__ = ("session_id", "ttl", "idle_ttl")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    IDLE_TTL_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    ttl: int
    idle_ttl: int
    def __init__(self, session_id: _Optional[str] = ..., ttl: _Optional[int] = ..., idle_ttl: _Optional[int] = ...) -> None: ...

class AuthRequest(_message.Message):
    __slots__ = ("api_key",)
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    api_key: str
    def __init__(self, api_key: _Optional[str] = ...) -> None: ...

class AuthResponse(_message.Message):
    __slots__ = ("success", "message", "key_id", "permissions", "code")
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    success: bool
    message: str
    key_id: str
    permissions: _containers.RepeatedScalarFieldContainer[str]
    code: int
    def __init__(self, success: bool = ..., message: _Optional[str] = ..., key_id: _Optional[str] = ..., permissions: _Optional[_Iterable[str]] = ..., code: _Optional[int] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("id", "external_id", "filename", "status", "textunit_ids", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TEXTUNIT_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: int
    external_id: str
    filename: str
    status: str
    textunit_ids: _containers.RepeatedScalarFieldContainer[int]
    created_at: int
    def __init__(self, id: _Optional[int] = ..., external_id: _Optional[str] = ..., filename: _Optional[str] = ..., status: _Optional[str] = ..., textunit_ids: _Optional[_Iterable[int]] = ..., created_at: _Optional[int] = ...) -> None: ...

class AddDocumentRequest(_message.Message):
    __slots__ = ("external_id", "filename")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    filename: str
    def __init__(self, external_id: _Optional[str] = ..., filename: _Optional[str] = ...) -> None: ...

class TextUnit(_message.Message):
    __slots__ = ("id", "external_id", "document_id", "content", "token_count", "entity_ids", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENTITY_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: int
    external_id: str
    document_id: int
    content: str
    token_count: int
    entity_ids: _containers.RepeatedScalarFieldContainer[int]
    created_at: int
    def __init__(self, id: _Optional[int] = ..., external_id: _Optional[str] = ..., document_id: _Optional[int] = ..., content: _Optional[str] = ..., token_count: _Optional[int] = ..., entity_ids: _Optional[_Iterable[int]] = ..., created_at: _Optional[int] = ...) -> None: ...

class AddTextUnitRequest(_message.Message):
    __slots__ = ("external_id", "document_id", "content", "embedding", "token_count")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    document_id: int
    content: str
    embedding: _containers.RepeatedScalarFieldContainer[bytes]
    token_count: int
    def __init__(self, external_id: _Optional[str] = ..., document_id: _Optional[int] = ..., content: _Optional[str] = ..., embedding: _Optional[_Iterable[bytes]] = ..., token_count: _Optional[int] = ...) -> None: ...

class Entity(_message.Message):
    __slots__ = ("id", "external_id", "title", "type", "description", "textunit_ids", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TEXTUNIT_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: int
    external_id: str
    title: str
    type: str
    description: str
    textunit_ids: _containers.RepeatedScalarFieldContainer[int]
    created_at: int
    def __init__(self, id: _Optional[int] = ..., external_id: _Optional[str] = ..., title: _Optional[str] = ..., type: _Optional[str] = ..., description: _Optional[str] = ..., textunit_ids: _Optional[_Iterable[int]] = ..., created_at: _Optional[int] = ...) -> None: ...

class AddEntityRequest(_message.Message):
    __slots__ = ("external_id", "title", "type", "description", "embedding")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    title: str
    type: str
    description: str
    embedding: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, external_id: _Optional[str] = ..., title: _Optional[str] = ..., type: _Optional[str] = ..., description: _Optional[str] = ..., embedding: _Optional[_Iterable[bytes]] = ...) -> None: ...

class GetEntityByTitleRequest(_message.Message):
    __slots__ = ("title",)
    TITLE_FIELD_NUMBER: _ClassVar[int]
    title: str
    def __init__(self, title: _Optional[str] = ...) -> None: ...

class UpdateEntityDescRequest(_message.Message):
    __slots__ = ("id", "description", "embedding")
    ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    id: int
    description: str
    embedding: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, id: _Optional[int] = ..., description: _Optional[str] = ..., embedding: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Relationship(_message.Message):
    __slots__ = ("id", "external_id", "source_id", "target_id", "type", "description", "weight", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: int
    external_id: str
    source_id: int
    target_id: int
    type: str
    description: str
    weight: float
    created_at: int
    def __init__(self, id: _Optional[int] = ..., external_id: _Optional[str] = ..., source_id: _Optional[int] = ..., target_id: _Optional[int] = ..., type: _Optional[str] = ..., description: _Optional[str] = ..., weight: _Optional[float] = ..., created_at: _Optional[int] = ...) -> None: ...

class AddRelationshipRequest(_message.Message):
    __slots__ = ("external_id", "source_id", "target_id", "type", "description", "weight")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    source_id: int
    target_id: int
    type: str
    description: str
    weight: float
    def __init__(self, external_id: _Optional[str] = ..., source_id: _Optional[int] = ..., target_id: _Optional[int] = ..., type: _Optional[str] = ..., description: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class Community(_message.Message):
    __slots__ = ("id", "external_id", "title", "summary", "full_content", "level", "entity_ids", "relationship_ids", "created_at", "origin", "parent_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    FULL_CONTENT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    ENTITY_IDS_FIELD_NUMBER: _ClassVar[int]
    RELATIONSHIP_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    external_id: str
    title: str
    summary: str
    full_content: str
    level: int
    entity_ids: _containers.RepeatedScalarFieldContainer[int]
    relationship_ids: _containers.RepeatedScalarFieldContainer[int]
    created_at: int
    origin: str
    parent_id: int
    def __init__(self, id: _Optional[int] = ..., external_id: _Optional[str] = ..., title: _Optional[str] = ..., summary: _Optional[str] = ..., full_content: _Optional[str] = ..., level: _Optional[int] = ..., entity_ids: _Optional[_Iterable[int]] = ..., relationship_ids: _Optional[_Iterable[int]] = ..., created_at: _Optional[int] = ..., origin: _Optional[str] = ..., parent_id: _Optional[int] = ...) -> None: ...

class AddCommunityRequest(_message.Message):
    __slots__ = ("external_id", "title", "summary", "full_content", "level", "entity_ids", "relationship_ids", "embedding")
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    FULL_CONTENT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    ENTITY_IDS_FIELD_NUMBER: _ClassVar[int]
    RELATIONSHIP_IDS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    title: str
    summary: str
    full_content: str
    level: int
    entity_ids: _containers.RepeatedScalarFieldContainer[int]
    relationship_ids: _containers.RepeatedScalarFieldContainer[int]
    embedding: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, external_id: _Optional[str] = ..., title: _Optional[str] = ..., summary: _Optional[str] = ..., full_content: _Optional[str] = ..., level: _Optional[int] = ..., entity_ids: _Optional[_Iterable[int]] = ..., relationship_ids: _Optional[_Iterable[int]] = ..., embedding: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LinkTextUnitEntityRequest(_message.Message):
    __slots__ = ("textunit_id", "entity_id")
    TEXTUNIT_ID_FIELD_NUMBER: _ClassVar[int]
    ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    textunit_id: int
    entity_id: int
    def __init__(self, textunit_id: _Optional[int] = ..., entity_id: _Optional[int] = ...) -> None: ...

class GetByIDRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class DeleteByIDRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class QueryRequest(_message.Message):
    __slots__ = ("query_vector", "search_types", "top_k", "k_hops", "max_entities", "max_textunits", "max_communities", "seed_entity_ids", "filter_entity_types", "filter_rel_types")
    QUERY_VECTOR_FIELD_NUMBER: _ClassVar[int]
    SEARCH_TYPES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    K_HOPS_FIELD_NUMBER: _ClassVar[int]
    MAX_ENTITIES_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXTUNITS_FIELD_NUMBER: _ClassVar[int]
    MAX_COMMUNITIES_FIELD_NUMBER: _ClassVar[int]
    SEED_ENTITY_IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_ENTITY_TYPES_FIELD_NUMBER: _ClassVar[int]
    FILTER_REL_TYPES_FIELD_NUMBER: _ClassVar[int]
    query_vector: _containers.RepeatedScalarFieldContainer[bytes]
    search_types: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    k_hops: int
    max_entities: int
    max_textunits: int
    max_communities: int
    seed_entity_ids: _containers.RepeatedScalarFieldContainer[int]
    filter_entity_types: _containers.RepeatedScalarFieldContainer[str]
    filter_rel_types: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, query_vector: _Optional[_Iterable[bytes]] = ..., search_types: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., k_hops: _Optional[int] = ..., max_entities: _Optional[int] = ..., max_textunits: _Optional[int] = ..., max_communities: _Optional[int] = ..., seed_entity_ids: _Optional[_Iterable[int]] = ..., filter_entity_types: _Optional[_Iterable[str]] = ..., filter_rel_types: _Optional[_Iterable[str]] = ...) -> None: ...

class TextUnitResult(_message.Message):
    __slots__ = ("textunit", "similarity", "hop", "score")
    TEXTUNIT_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    HOP_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    textunit: TextUnit
    similarity: float
    hop: int
    score: float
    def __init__(self, textunit: _Optional[_Union[TextUnit, _Mapping]] = ..., similarity: _Optional[float] = ..., hop: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class EntityResult(_message.Message):
    __slots__ = ("entity", "similarity", "hop", "score")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    HOP_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    entity: Entity
    similarity: float
    hop: int
    score: float
    def __init__(self, entity: _Optional[_Union[Entity, _Mapping]] = ..., similarity: _Optional[float] = ..., hop: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class CommunityResult(_message.Message):
    __slots__ = ("community", "similarity")
    COMMUNITY_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    community: Community
    similarity: float
    def __init__(self, community: _Optional[_Union[Community, _Mapping]] = ..., similarity: _Optional[float] = ...) -> None: ...

class RelationshipResult(_message.Message):
    __slots__ = ("relationship", "source_title", "target_title")
    RELATIONSHIP_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TITLE_FIELD_NUMBER: _ClassVar[int]
    TARGET_TITLE_FIELD_NUMBER: _ClassVar[int]
    relationship: Relationship
    source_title: str
    target_title: str
    def __init__(self, relationship: _Optional[_Union[Relationship, _Mapping]] = ..., source_title: _Optional[str] = ..., target_title: _Optional[str] = ...) -> None: ...

class QueryStats(_message.Message):
    __slots__ = ("duration_micros", "vector_searches", "graph_traversals", "skipped_seed_indexes")
    DURATION_MICROS_FIELD_NUMBER: _ClassVar[int]
    VECTOR_SEARCHES_FIELD_NUMBER: _ClassVar[int]
    GRAPH_TRAVERSALS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_SEED_INDEXES_FIELD_NUMBER: _ClassVar[int]
    duration_micros: int
    vector_searches: int
    graph_traversals: int
    skipped_seed_indexes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, duration_micros: _Optional[int] = ..., vector_searches: _Optional[int] = ..., graph_traversals: _Optional[int] = ..., skipped_seed_indexes: _Optional[_Iterable[str]] = ...) -> None: ...

class QueryResponse(_message.Message):
    __slots__ = ("query_id", "textunits", "entities", "communities", "relationships", "stats")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    TEXTUNITS_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    COMMUNITIES_FIELD_NUMBER: _ClassVar[int]
    RELATIONSHIPS_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    textunits: _containers.RepeatedCompositeFieldContainer[TextUnitResult]
    entities: _containers.RepeatedCompositeFieldContainer[EntityResult]
    communities: _containers.RepeatedCompositeFieldContainer[CommunityResult]
    relationships: _containers.RepeatedCompositeFieldContainer[RelationshipResult]
    stats: QueryStats
    def __init__(self, query_id: _Optional[int] = ..., textunits: _Optional[_Iterable[_Union[TextUnitResult, _Mapping]]] = ..., entities: _Optional[_Iterable[_Union[EntityResult, _Mapping]]] = ..., communities: _Optional[_Iterable[_Union[CommunityResult, _Mapping]]] = ..., relationships: _Optional[_Iterable[_Union[RelationshipResult, _Mapping]]] = ..., stats: _Optional[_Union[QueryStats, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("query_id",)
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    def __init__(self, query_id: _Optional[int] = ...) -> None: ...

class SeedInfo(_message.Message):
    __slots__ = ("type", "id", "external_id", "similarity")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    type: str
    id: int
    external_id: str
    similarity: float
    def __init__(self, type: _Optional[str] = ..., id: _Optional[int] = ..., external_id: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...

class TraversalStep(_message.Message):
    __slots__ = ("from_entity_id", "to_entity_id", "relationship_id", "rel_type", "weight", "hop")
    FROM_ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    TO_ENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    RELATIONSHIP_ID_FIELD_NUMBER: _ClassVar[int]
    REL_TYPE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    HOP_FIELD_NUMBER: _ClassVar[int]
    from_entity_id: int
    to_entity_id: int
    relationship_id: int
    rel_type: str
    weight: float
    hop: int
    def __init__(self, from_entity_id: _Optional[int] = ..., to_entity_id: _Optional[int] = ..., relationship_id: _Optional[int] = ..., rel_type: _Optional[str] = ..., weight: _Optional[float] = ..., hop: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("query_id", "seeds", "traversal")
    QUERY_ID_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    TRAVERSAL_FIELD_NUMBER: _ClassVar[int]
    query_id: int
    seeds: _containers.RepeatedCompositeFieldContainer[SeedInfo]
    traversal: _containers.RepeatedCompositeFieldContainer[TraversalStep]
    def __init__(self, query_id: _Optional[int] = ..., seeds: _Optional[_Iterable[_Union[SeedInfo, _Mapping]]] = ..., traversal: _Optional[_Iterable[_Union[TraversalStep, _Mapping]]] = ...) -> None: ...

class ComputeCommunitiesRequest(_message.Message):
    __slots__ = ("resolution", "iterations")
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    resolution: float
    iterations: int
    def __init__(self, resolution: _Optional[float] = ..., iterations: _Optional[int] = ...) -> None: ...

class ComputeCommunitiesResponse(_message.Message):
    __slots__ = ("count", "communities")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    COMMUNITIES_FIELD_NUMBER: _ClassVar[int]
    count: int
    communities: _containers.RepeatedCompositeFieldContainer[Community]
    def __init__(self, count: _Optional[int] = ..., communities: _Optional[_Iterable[_Union[Community, _Mapping]]] = ...) -> None: ...

class HierarchicalLeidenRequest(_message.Message):
    __slots__ = ("max_levels", "resolution")
    MAX_LEVELS_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    max_levels: int
    resolution: float
    def __init__(self, max_levels: _Optional[int] = ..., resolution: _Optional[float] = ...) -> None: ...

class HierarchicalLeidenResponse(_message.Message):
    __slots__ = ("level_counts", "total_communities")
    class LevelCountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    LEVEL_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COMMUNITIES_FIELD_NUMBER: _ClassVar[int]
    level_counts: _containers.ScalarMap[int, int]
    total_communities: int
    def __init__(self, level_counts: _Optional[_Mapping[int, int]] = ..., total_communities: _Optional[int] = ...) -> None: ...

class ListEntitiesRequest(_message.Message):
    __slots__ = ("cursor", "limit")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    limit: int
    def __init__(self, cursor: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListRelationshipsRequest(_message.Message):
    __slots__ = ("cursor", "limit")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    limit: int
    def __init__(self, cursor: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class MSetEntitiesRequest(_message.Message):
    __slots__ = ("entities",)
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    entities: _containers.RepeatedCompositeFieldContainer[AddEntityRequest]
    def __init__(self, entities: _Optional[_Iterable[_Union[AddEntityRequest, _Mapping]]] = ...) -> None: ...

class MSetDocumentsRequest(_message.Message):
    __slots__ = ("documents",)
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[AddDocumentRequest]
    def __init__(self, documents: _Optional[_Iterable[_Union[AddDocumentRequest, _Mapping]]] = ...) -> None: ...

class MSetTextUnitsRequest(_message.Message):
    __slots__ = ("textunits",)
    TEXTUNITS_FIELD_NUMBER: _ClassVar[int]
    textunits: _containers.RepeatedCompositeFieldContainer[AddTextUnitRequest]
    def __init__(self, textunits: _Optional[_Iterable[_Union[AddTextUnitRequest, _Mapping]]] = ...) -> None: ...

class MSetRelationshipsRequest(_message.Message):
    __slots__ = ("relationships",)
    RELATIONSHIPS_FIELD_NUMBER: _ClassVar[int]
    relationships: _containers.RepeatedCompositeFieldContainer[AddRelationshipRequest]
    def __init__(self, relationships: _Optional[_Iterable[_Union[AddRelationshipRequest, _Mapping]]] = ...) -> None: ...

class MGetEntitiesRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class MGetDocumentsRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class MGetTextUnitsRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class MGetRelationshipsRequest(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class EntitiesResponse(_message.Message):
    __slots__ = ("entities", "created_ids", "next_cursor")
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    CREATED_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    entities: _containers.RepeatedCompositeFieldContainer[Entity]
    created_ids: _containers.RepeatedScalarFieldContainer[int]
    next_cursor: int
    def __init__(self, entities: _Optional[_Iterable[_Union[Entity, _Mapping]]] = ..., created_ids: _Optional[_Iterable[int]] = ..., next_cursor: _Optional[int] = ...) -> None: ...

class DocumentsResponse(_message.Message):
    __slots__ = ("documents", "created_ids", "next_cursor")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    CREATED_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    created_ids: _containers.RepeatedScalarFieldContainer[int]
    next_cursor: int
    def __init__(self, documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., created_ids: _Optional[_Iterable[int]] = ..., next_cursor: _Optional[int] = ...) -> None: ...

class TextUnitsResponse(_message.Message):
    __slots__ = ("textunits", "created_ids", "next_cursor")
    TEXTUNITS_FIELD_NUMBER: _ClassVar[int]
    CREATED_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    textunits: _containers.RepeatedCompositeFieldContainer[TextUnit]
    created_ids: _containers.RepeatedScalarFieldContainer[int]
    next_cursor: int
    def __init__(self, textunits: _Optional[_Iterable[_Union[TextUnit, _Mapping]]] = ..., created_ids: _Optional[_Iterable[int]] = ..., next_cursor: _Optional[int] = ...) -> None: ...

class RelationshipsResponse(_message.Message):
    __slots__ = ("relationships", "created_ids", "next_cursor")
    RELATIONSHIPS_FIELD_NUMBER: _ClassVar[int]
    CREATED_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    relationships: _containers.RepeatedCompositeFieldContainer[Relationship]
    created_ids: _containers.RepeatedScalarFieldContainer[int]
    next_cursor: int
    def __init__(self, relationships: _Optional[_Iterable[_Union[Relationship, _Mapping]]] = ..., created_ids: _Optional[_Iterable[int]] = ..., next_cursor: _Optional[int] = ...) -> None: ...

class PipelineRequest(_message.Message):
    __slots__ = ("commands",)
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    commands: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, commands: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PipelineResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[Envelope]
    def __init__(self, responses: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ...) -> None: ...

class SaveRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class BackupStatusResponse(_message.Message):
    __slots__ = ("in_progress", "type", "start_time", "progress_percent", "error", "last_save_time", "last_save_path")
    IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_PERCENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LAST_SAVE_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SAVE_PATH_FIELD_NUMBER: _ClassVar[int]
    in_progress: bool
    type: str
    start_time: int
    progress_percent: int
    error: str
    last_save_time: int
    last_save_path: str
    def __init__(self, in_progress: bool = ..., type: _Optional[str] = ..., start_time: _Optional[int] = ..., progress_percent: _Optional[int] = ..., error: _Optional[str] = ..., last_save_time: _Optional[int] = ..., last_save_path: _Optional[str] = ...) -> None: ...

class LastSaveResponse(_message.Message):
    __slots__ = ("timestamp", "path")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    timestamp: int
    path: str
    def __init__(self, timestamp: _Optional[int] = ..., path: _Optional[str] = ...) -> None: ...

class WALStatusResponse(_message.Message):
    __slots__ = ("current_lsn", "flushed_lsn", "segment_count", "total_size_bytes")
    CURRENT_LSN_FIELD_NUMBER: _ClassVar[int]
    FLUSHED_LSN_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    current_lsn: int
    flushed_lsn: int
    segment_count: int
    total_size_bytes: int
    def __init__(self, current_lsn: _Optional[int] = ..., flushed_lsn: _Optional[int] = ..., segment_count: _Optional[int] = ..., total_size_bytes: _Optional[int] = ...) -> None: ...

class WALTruncateRequest(_message.Message):
    __slots__ = ("target_lsn",)
    TARGET_LSN_FIELD_NUMBER: _ClassVar[int]
    target_lsn: int
    def __init__(self, target_lsn: _Optional[int] = ...) -> None: ...

class ListDocumentsRequest(_message.Message):
    __slots__ = ("cursor", "limit")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    limit: int
    def __init__(self, cursor: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListTextUnitsRequest(_message.Message):
    __slots__ = ("cursor", "limit")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    limit: int
    def __init__(self, cursor: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListSessionsRequest(_message.Message):
    __slots__ = ("cursor", "limit")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    limit: int
    def __init__(self, cursor: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class DigestResponse(_message.Message):
    __slots__ = ("sha256", "object_count")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OBJECT_COUNT_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    object_count: int
    def __init__(self, sha256: _Optional[str] = ..., object_count: _Optional[int] = ...) -> None: ...

class GetByExternalIDRequest(_message.Message):
    __slots__ = ("external_id",)
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    external_id: str
    def __init__(self, external_id: _Optional[str] = ...) -> None: ...

class ListCommunitiesRequest(_message.Message):
    __slots__ = ("cursor", "limit")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    limit: int
    def __init__(self, cursor: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class CommunityListResponse(_message.Message):
    __slots__ = ("communities", "next_cursor")
    COMMUNITIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_CURSOR_FIELD_NUMBER: _ClassVar[int]
    communities: _containers.RepeatedCompositeFieldContainer[Community]
    next_cursor: int
    def __init__(self, communities: _Optional[_Iterable[_Union[Community, _Mapping]]] = ..., next_cursor: _Optional[int] = ...) -> None: ...

class GetEmbeddingsRequest(_message.Message):
    __slots__ = ("kind", "ids")
    KIND_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kind: _Optional[str] = ..., ids: _Optional[_Iterable[int]] = ...) -> None: ...

class EmbeddingsResponse(_message.Message):
    __slots__ = ("ids", "vector_dim", "vectors")
    IDS_FIELD_NUMBER: _ClassVar[int]
    VECTOR_DIM_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    vector_dim: int
    vectors: bytes
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., vector_dim: _Optional[int] = ..., vectors: _Optional[bytes] = ...) -> None: ...
