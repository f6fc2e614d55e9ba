"""Commands that read, change, delete and detect: from payload and to payload. What adds is in `adding.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from google.protobuf.message import DecodeError

from gibramdb.model.commands import (
    BackgroundSave,
    Command,
    DetectCommunities,
    DetectHierarchy,
    Explain,
    GetEmbeddings,
    GetEntityByTitle,
    LinkTextUnitEntity,
    ListSessions,
    Query,
    Restore,
    Save,
    SetSessionTtl,
    TruncateLog,
    UnlinkTextUnitEntity,
    UpdateEntityDescription,
)
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec.embeddings import float_chunks, floats_of, parser_of
from gibramdb.wire.codec.row import RequestCodec, check_bulk, check_count

_RAW_LSN_BYTES = 8


def bare(command: type[Command]) -> RequestCodec:
    """A command that says nothing but its number; whatever its payload holds is not read."""
    make = cast("Callable[[], Command]", command)
    return RequestCodec(command, lambda _session_id, _payload: make(), lambda _command: b"")


def of_session(command: type[Command]) -> RequestCodec:
    """A command that names its session and nothing else; whatever its payload holds is not read."""
    make = cast("Callable[[str], Command]", command)
    return RequestCodec(command, lambda session_id, _payload: make(session_id), lambda _command: b"")


def by_id(command: type[Command]) -> RequestCodec:
    """A command on one object. GetByIDRequest and DeleteByIDRequest are the same bytes."""
    make = cast("Callable[[str, int], Command]", command)
    return RequestCodec(
        command,
        lambda session_id, payload: make(session_id, pb.GetByIDRequest.FromString(payload).id),
        lambda sent: pb.GetByIDRequest(id=sent.id).SerializeToString(),
    )


def by_external_id(command: type[Command]) -> RequestCodec:
    """A command on the object that its caller named so."""
    make = cast("Callable[[str, str], Command]", command)
    return RequestCodec(
        command,
        lambda session_id, payload: make(session_id, pb.GetByExternalIDRequest.FromString(payload).external_id),
        lambda sent: pb.GetByExternalIDRequest(external_id=sent.external_id).SerializeToString(),
    )


def by_ids(command: type[Command], message_class: type[Any]) -> RequestCodec:
    """A command on the objects of a list of ids."""
    make = cast("Callable[[str, tuple[int, ...]], Command]", command)

    def decode(session_id: str, payload: bytes) -> Command:
        ids = message_class.FromString(payload).ids
        check_bulk("ids", len(ids))
        return make(session_id, tuple(ids))

    return RequestCodec(command, decode, lambda sent: message_class(ids=sent.ids).SerializeToString())


def by_cursor(command: type[Command], message_class: type[Any]) -> RequestCodec:
    """A command that asks for a page of a list."""
    make = cast("Callable[[str, int, int], Command]", command)

    def decode(session_id: str, payload: bytes) -> Command:
        message = message_class.FromString(payload)
        return make(session_id, message.cursor, message.limit)

    return RequestCodec(
        command, decode, lambda sent: message_class(cursor=sent.cursor, limit=sent.limit).SerializeToString()
    )


def _decode_title(session_id: str, payload: bytes) -> GetEntityByTitle:
    return GetEntityByTitle(session_id, pb.GetEntityByTitleRequest.FromString(payload).title)


def _decode_get_embeddings(session_id: str, payload: bytes) -> GetEmbeddings:
    message = pb.GetEmbeddingsRequest.FromString(payload)
    check_bulk("ids", len(message.ids))
    return GetEmbeddings(session_id, message.kind, tuple(message.ids))


def _of_link(command: type[Command]) -> RequestCodec:
    make = cast("Callable[[str, int, int], Command]", command)

    def decode(session_id: str, payload: bytes) -> Command:
        message = pb.LinkTextUnitEntityRequest.FromString(payload)
        return make(session_id, message.textunit_id, message.entity_id)

    return RequestCodec(
        command,
        decode,
        lambda sent: pb.LinkTextUnitEntityRequest(
            textunit_id=sent.textunit_id, entity_id=sent.entity_id
        ).SerializeToString(),
    )


_parse_update = parser_of(pb.UpdateEntityDescRequest)


def _decode_update(session_id: str, payload: bytes) -> UpdateEntityDescription:
    message = _parse_update(payload)
    return UpdateEntityDescription(session_id, message.id, message.description, floats_of(message.embedding))


def _encode_update(command: UpdateEntityDescription) -> bytes:
    return pb.UpdateEntityDescRequest(
        id=command.id, description=command.description, embedding=float_chunks(cast("bytes", command.embedding))
    ).SerializeToString()


def _decode_ttl(session_id: str, payload: bytes) -> SetSessionTtl:
    message = pb.SetSessionTTLRequest.FromString(payload)
    return SetSessionTtl(session_id, message.ttl, message.idle_ttl)


def _encode_ttl(command: SetSessionTtl) -> bytes:
    return pb.SetSessionTTLRequest(ttl=command.ttl_s, idle_ttl=command.idle_ttl_s).SerializeToString()


def _decode_list_sessions(session_id: str, payload: bytes) -> ListSessions:
    del session_id
    message = pb.ListSessionsRequest.FromString(payload)
    return ListSessions(message.cursor, message.limit)


def _encode_list_sessions(command: ListSessions) -> bytes:
    return pb.ListSessionsRequest(cursor=command.cursor, limit=command.limit).SerializeToString()


def _decode_detect(session_id: str, payload: bytes) -> DetectCommunities:
    message = pb.ComputeCommunitiesRequest.FromString(payload)
    return DetectCommunities(session_id, message.resolution, message.iterations)


def _encode_detect(command: DetectCommunities) -> bytes:
    return pb.ComputeCommunitiesRequest(
        resolution=command.resolution, iterations=command.iterations
    ).SerializeToString()


def _decode_hierarchy(session_id: str, payload: bytes) -> DetectHierarchy:
    message = pb.HierarchicalLeidenRequest.FromString(payload)
    return DetectHierarchy(session_id, message.max_levels, message.resolution)


def _encode_hierarchy(command: DetectHierarchy) -> bytes:
    return pb.HierarchicalLeidenRequest(
        max_levels=command.levels_max, resolution=command.resolution
    ).SerializeToString()


def _check_query(message: pb.QueryRequest) -> None:
    check_count("seed_entity_ids", len(message.seed_entity_ids))
    check_count("search_types", len(message.search_types))
    check_count("filter_entity_types", len(message.filter_entity_types))
    check_count("filter_rel_types", len(message.filter_rel_types))


_parse_query = parser_of(pb.QueryRequest, _check_query)


def _decode_query(session_id: str, payload: bytes) -> Query:
    message = _parse_query(payload)
    return Query(
        session_id,
        vector=floats_of(message.query_vector),
        search_types=tuple(message.search_types),
        top_k=message.top_k,
        hops=message.k_hops,
        entities_max=message.max_entities,
        textunits_max=message.max_textunits,
        communities_max=message.max_communities,
        seed_entity_ids=tuple(message.seed_entity_ids),
        entity_types=tuple(message.filter_entity_types),
        relationship_types=tuple(message.filter_rel_types),
    )


def _encode_query(command: Query) -> bytes:
    return pb.QueryRequest(
        query_vector=float_chunks(cast("bytes", command.vector)),
        search_types=command.search_types,
        top_k=command.top_k,
        k_hops=command.hops,
        max_entities=command.entities_max,
        max_textunits=command.textunits_max,
        max_communities=command.communities_max,
        seed_entity_ids=command.seed_entity_ids,
        filter_entity_types=command.entity_types,
        filter_rel_types=command.relationship_types,
    ).SerializeToString()


def _decode_explain(session_id: str, payload: bytes) -> Explain:
    return Explain(session_id, pb.ExplainRequest.FromString(payload).query_id)


def _by_path(command: type[Command], message_class: type[Any]) -> RequestCodec:
    make = cast("Callable[[str], Command]", command)
    return RequestCodec(
        command,
        lambda _session_id, payload: make(message_class.FromString(payload).path),
        lambda sent: message_class(path=sent.path).SerializeToString(),
    )


def _decode_truncate(session_id: str, payload: bytes) -> TruncateLog:
    del session_id
    try:
        return TruncateLog(pb.WALTruncateRequest.FromString(payload).target_lsn)
    except DecodeError:
        if len(payload) != _RAW_LSN_BYTES:
            raise
        return TruncateLog(int.from_bytes(payload, "big"))  # what GibRAM's own server reads


GET_ENTITY_BY_TITLE = RequestCodec(
    GetEntityByTitle,
    _decode_title,
    lambda command: pb.GetEntityByTitleRequest(title=command.title).SerializeToString(),
)
GET_EMBEDDINGS = RequestCodec(
    GetEmbeddings,
    _decode_get_embeddings,
    lambda command: pb.GetEmbeddingsRequest(kind=command.kind, ids=command.ids).SerializeToString(),
)
LINK = _of_link(LinkTextUnitEntity)
UNLINK = _of_link(UnlinkTextUnitEntity)
UPDATE = RequestCodec(UpdateEntityDescription, _decode_update, _encode_update)
SET_TTL = RequestCodec(SetSessionTtl, _decode_ttl, _encode_ttl)
LIST_SESSIONS = RequestCodec(ListSessions, _decode_list_sessions, _encode_list_sessions)
DETECT = RequestCodec(DetectCommunities, _decode_detect, _encode_detect)
DETECT_HIERARCHY = RequestCodec(DetectHierarchy, _decode_hierarchy, _encode_hierarchy)
QUERY = RequestCodec(Query, _decode_query, _encode_query)
EXPLAIN = RequestCodec(
    Explain,
    _decode_explain,
    lambda command: pb.ExplainRequest(query_id=command.query_id).SerializeToString(),
)
SAVE = _by_path(Save, pb.SaveRequest)
BACKGROUND_SAVE = _by_path(BackgroundSave, pb.SaveRequest)
RESTORE = _by_path(Restore, pb.RestoreRequest)
TRUNCATE = RequestCodec(
    TruncateLog,
    _decode_truncate,
    lambda command: pb.WALTruncateRequest(target_lsn=command.target_lsn).SerializeToString(),
)
