"""Results that are not objects alone: the server's state, sessions, detections, queries.

Session times are milliseconds inside and nanoseconds on the wire; TTLs are seconds in both places.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from gibramdb.errors import LimitExceededError
from gibramdb.model.results import (
    BackupStatus,
    CommunityHit,
    Detected,
    Digest,
    EntityHit,
    Explanation,
    Health,
    Hierarchy,
    Info,
    LogStatus,
    Pong,
    QueryResult,
    QueryStats,
    RelationshipHit,
    Saved,
    Seed,
    SessionInfo,
    SessionPage,
    Step,
    StoredEmbeddings,
    TextUnitHit,
)
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec.numbers import CommandNumber
from gibramdb.wire.codec.objects import (
    encode_items,
    fill_community,
    fill_entity,
    fill_relationship,
    fill_textunit,
    read_community,
    read_entity,
    read_relationship,
    read_textunit,
)
from gibramdb.wire.codec.row import ResultCodec
from gibramdb.wire.framing import REPLY_PAYLOAD_BYTES_MAX, varint

_NS_PER_MS = 1_000_000
_VECTORS = b"\x1a"
"""The tag of field 3 of EmbeddingsResponse."""


def printable(text: str) -> str:
    """The text with what has no UTF-8 form spelled out: a file name may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _within_a_reply(payload: bytes) -> bytes:
    """The payload of an answer to a read, if any client takes it."""
    if len(payload) > REPLY_PAYLOAD_BYTES_MAX:
        raise LimitExceededError(f"reply too large: {len(payload)} bytes (max: {REPLY_PAYLOAD_BYTES_MAX})")
    return payload


def _encode_info(info: Info) -> bytes:
    return pb.InfoResponse(
        version=info.version,
        document_count=info.document_count,
        textunit_count=info.textunit_count,
        entity_count=info.entity_count,
        relationship_count=info.relationship_count,
        community_count=info.community_count,
        vector_dim=info.vector_dim,
        session_count=info.session_count,
        session_store_mode=info.session_store_mode,
        wal_sync_policy=info.wal_sync_policy,
        wal_sync_interval_ms=info.wal_sync_interval_ms,
    ).SerializeToString()


def _decode_info(payload: bytes) -> Info:
    message = pb.InfoResponse.FromString(payload)
    return Info(
        version=message.version,
        document_count=message.document_count,
        textunit_count=message.textunit_count,
        entity_count=message.entity_count,
        relationship_count=message.relationship_count,
        community_count=message.community_count,
        vector_dim=message.vector_dim,
        session_count=message.session_count,
        session_store_mode=message.session_store_mode,
        wal_sync_policy=message.wal_sync_policy,
        wal_sync_interval_ms=message.wal_sync_interval_ms,
    )


def _encode_health(health: Health) -> bytes:
    components = {name: printable(value) for name, value in health.components.items()}
    return pb.HealthResponse(status=health.status, components=components).SerializeToString()


def _decode_health(payload: bytes) -> Health:
    message = pb.HealthResponse.FromString(payload)
    return Health(message.status, dict(message.components))


def _encode_digest(digest: Digest) -> bytes:
    return pb.DigestResponse(sha256=digest.sha256, object_count=digest.object_count).SerializeToString()


def _decode_digest(payload: bytes) -> Digest:
    message = pb.DigestResponse.FromString(payload)
    return Digest(message.sha256, message.object_count)


def _session_message(session: SessionInfo) -> pb.SessionInfo:
    return pb.SessionInfo(
        session_id=session.session_id,
        created_at=session.created_at_ms * _NS_PER_MS,
        last_access=session.last_access_ms * _NS_PER_MS,
        ttl=session.ttl_s,
        idle_ttl=session.idle_ttl_s,
        document_count=session.document_count,
        textunit_count=session.textunit_count,
        entity_count=session.entity_count,
        relationship_count=session.relationship_count,
        community_count=session.community_count,
    )


def _read_session(message: pb.SessionInfo) -> SessionInfo:
    return SessionInfo(
        session_id=message.session_id,
        created_at_ms=message.created_at // _NS_PER_MS,
        last_access_ms=message.last_access // _NS_PER_MS,
        ttl_s=message.ttl,
        idle_ttl_s=message.idle_ttl,
        document_count=message.document_count,
        textunit_count=message.textunit_count,
        entity_count=message.entity_count,
        relationship_count=message.relationship_count,
        community_count=message.community_count,
    )


def _encode_sessions(page: SessionPage) -> bytes:
    fields = encode_items(page.items, lambda session: _session_message(session).SerializeToString())
    end = _end_of_sessions(page, len(fields))
    while len(fields) > 1 and sum(map(len, fields)) + len(end) > REPLY_PAYLOAD_BYTES_MAX:
        fields.pop()  # the cursor is a name, and names may be long
        end = _end_of_sessions(page, len(fields))
    return b"".join((*fields, end))


def _end_of_sessions(page: SessionPage, count: int) -> bytes:
    """What follows so many sessions; where the page ends early, the next one begins there."""
    next_cursor = page.next_cursor if count == len(page.items) else page.items[count - 1].session_id
    return pb.ListSessionsResponse(next_cursor=next_cursor).SerializeToString()


def _decode_sessions(payload: bytes) -> SessionPage:
    message = pb.ListSessionsResponse.FromString(payload)
    return SessionPage(tuple(map(_read_session, message.sessions)), message.next_cursor)


def _encode_detected(detected: Detected) -> bytes:
    message = pb.ComputeCommunitiesResponse(count=len(detected.communities))
    for community in detected.communities:
        fill_community(message.communities.add(), community)
    return message.SerializeToString()


def _decode_detected(payload: bytes) -> Detected:
    message = pb.ComputeCommunitiesResponse.FromString(payload)
    return Detected(tuple(map(read_community, message.communities)))


def _encode_hierarchy(hierarchy: Hierarchy) -> bytes:
    return pb.HierarchicalLeidenResponse(
        level_counts=hierarchy.level_counts, total_communities=hierarchy.total
    ).SerializeToString()


def _decode_hierarchy(payload: bytes) -> Hierarchy:
    message = pb.HierarchicalLeidenResponse.FromString(payload)
    return Hierarchy(dict(sorted(message.level_counts.items())), message.total_communities)


def _encode_query_result(result: QueryResult) -> bytes:
    message = pb.QueryResponse(query_id=result.query_id)
    add_textunit = message.textunits.add
    for textunit_hit in result.textunits:
        textunit = add_textunit(similarity=textunit_hit.similarity, hop=textunit_hit.hop, score=textunit_hit.score)
        fill_textunit(textunit.textunit, textunit_hit.textunit)
    add_entity = message.entities.add
    for entity_hit in result.entities:
        entity = add_entity(similarity=entity_hit.similarity, hop=entity_hit.hop, score=entity_hit.score)
        fill_entity(entity.entity, entity_hit.entity)
    add_community = message.communities.add
    for community_hit in result.communities:
        fill_community(add_community(similarity=community_hit.similarity).community, community_hit.community)
    add_relationship = message.relationships.add
    for relationship_hit in result.relationships:
        relationship = add_relationship(
            source_title=relationship_hit.source_title, target_title=relationship_hit.target_title
        )
        fill_relationship(relationship.relationship, relationship_hit.relationship)
    # Assigning makes `stats` present even when every figure is 0: GibRAM's clients do not ask whether it is there.
    message.stats.duration_micros = result.stats.duration_us
    message.stats.vector_searches = result.stats.vector_searches
    message.stats.graph_traversals = result.stats.graph_traversals
    message.stats.skipped_seed_indexes.extend(result.stats.skipped_seed_indexes)
    return _within_a_reply(message.SerializeToString())


def _decode_query_result(payload: bytes) -> QueryResult:
    message = pb.QueryResponse.FromString(payload)
    stats = message.stats
    return QueryResult(
        query_id=message.query_id,
        textunits=tuple(
            [TextUnitHit(read_textunit(hit.textunit), hit.similarity, hit.hop, hit.score) for hit in message.textunits]
        ),
        entities=tuple(
            [EntityHit(read_entity(hit.entity), hit.similarity, hit.hop, hit.score) for hit in message.entities]
        ),
        communities=tuple([CommunityHit(read_community(hit.community), hit.similarity) for hit in message.communities]),
        relationships=tuple(
            [
                RelationshipHit(read_relationship(hit.relationship), hit.source_title, hit.target_title)
                for hit in message.relationships
            ]
        ),
        stats=QueryStats(
            stats.duration_micros, stats.vector_searches, stats.graph_traversals, tuple(stats.skipped_seed_indexes)
        ),
    )


def _encode_explanation(explanation: Explanation) -> bytes:
    message = pb.ExplainResponse(query_id=explanation.query_id)
    for seed in explanation.seeds:
        message.seeds.add(type=seed.kind, id=seed.id, external_id=seed.external_id, similarity=seed.similarity)
    for step in explanation.steps:
        message.traversal.add(
            from_entity_id=step.from_entity_id,
            to_entity_id=step.to_entity_id,
            relationship_id=step.relationship_id,
            rel_type=step.relationship_type,
            weight=step.weight,
            hop=step.hop,
        )
    return message.SerializeToString()


def _decode_explanation(payload: bytes) -> Explanation:
    message = pb.ExplainResponse.FromString(payload)
    return Explanation(
        query_id=message.query_id,
        seeds=tuple([Seed(seed.type, seed.id, seed.external_id, seed.similarity) for seed in message.seeds]),
        steps=tuple(
            [
                Step(
                    from_entity_id=step.from_entity_id,
                    to_entity_id=step.to_entity_id,
                    relationship_id=step.relationship_id,
                    relationship_type=step.rel_type,
                    weight=step.weight,
                    hop=step.hop,
                )
                for step in message.traversal
            ]
        ),
    )


def _encode_embeddings(found: StoredEmbeddings) -> bytes:
    head = pb.EmbeddingsResponse(ids=found.ids, vector_dim=found.vector_dim).SerializeToString()
    vectors = found.rows.tobytes()
    # By hand: protobuf would copy a block of many megabytes twice.
    return _within_a_reply(b"".join((head, _VECTORS, varint(len(vectors)), vectors)) if vectors else head)


def _decode_embeddings(payload: bytes) -> StoredEmbeddings:
    message = pb.EmbeddingsResponse.FromString(payload)
    ids, vectors, vector_dim = tuple(message.ids), message.vectors, message.vector_dim
    if vector_dim == 0 or len(vectors) != 4 * vector_dim * len(ids):
        raise DecodeError(f"{len(vectors)} bytes are not {len(ids)} embeddings of dimension {vector_dim}")
    return StoredEmbeddings(ids, memoryview(vectors), vector_dim)


PONG = ResultCodec(CommandNumber.PONG, lambda _pong: b"", lambda _payload: Pong())
INFO = ResultCodec(CommandNumber.INFO_RESPONSE, _encode_info, _decode_info)
HEALTH = ResultCodec(CommandNumber.HEALTH_RESPONSE, _encode_health, _decode_health)
DIGEST = ResultCodec(CommandNumber.DIGEST_RESPONSE, _encode_digest, _decode_digest)
# GibRAM's schema declares 75 and 76 for these two, and its server answers 6 all the same.
SESSIONS = ResultCodec(CommandNumber.OK, _encode_sessions, _decode_sessions)
SESSION = ResultCodec(
    CommandNumber.OK,
    lambda session: _session_message(session).SerializeToString(),
    lambda payload: _read_session(pb.SessionInfo.FromString(payload)),
)
DETECTED = ResultCodec(CommandNumber.COMMUNITIES_RESPONSE, _encode_detected, _decode_detected)
HIERARCHY = ResultCodec(CommandNumber.COMMUNITIES_RESPONSE, _encode_hierarchy, _decode_hierarchy)
QUERY_RESULT = ResultCodec(CommandNumber.QUERY_RESPONSE, _encode_query_result, _decode_query_result)
EXPLANATION = ResultCodec(CommandNumber.EXPLAIN_RESPONSE, _encode_explanation, _decode_explanation)
EMBEDDINGS = ResultCodec(CommandNumber.EMBEDDINGS_RESPONSE, _encode_embeddings, _decode_embeddings)


def _encode_backup_status(status: BackupStatus) -> bytes:
    return pb.BackupStatusResponse(
        in_progress=status.in_progress,
        type=status.kind,
        start_time=status.started_at_s,
        progress_percent=status.progress_percent,
        error=printable(status.error),
        last_save_time=status.last_save_at_s,
        last_save_path=printable(status.last_save_path),
    ).SerializeToString()


def _decode_backup_status(payload: bytes) -> BackupStatus:
    message = pb.BackupStatusResponse.FromString(payload)
    return BackupStatus(
        message.in_progress,
        message.type,
        message.start_time,
        message.progress_percent,
        message.error,
        message.last_save_time,
        message.last_save_path,
    )


def _decode_saved(payload: bytes) -> Saved:
    message = pb.LastSaveResponse.FromString(payload)
    return Saved(message.timestamp, message.path)


def _decode_log_status(payload: bytes) -> LogStatus:
    message = pb.WALStatusResponse.FromString(payload)
    return LogStatus(message.current_lsn, message.flushed_lsn, message.segment_count, message.total_size_bytes)


BACKUP_STATUS = ResultCodec(CommandNumber.BACKUP_RESPONSE, _encode_backup_status, _decode_backup_status)
SAVED = ResultCodec(
    CommandNumber.BACKUP_RESPONSE,
    lambda saved: pb.LastSaveResponse(timestamp=saved.at_s, path=printable(saved.path)).SerializeToString(),
    _decode_saved,
)
LOG_STATUS = ResultCodec(
    CommandNumber.BACKUP_RESPONSE,
    lambda status: pb.WALStatusResponse(
        current_lsn=status.current_lsn,
        flushed_lsn=status.flushed_lsn,
        segment_count=status.generations,
        total_size_bytes=status.size_bytes,
    ).SerializeToString(),
    _decode_log_status,
)
