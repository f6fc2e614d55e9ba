"""What HEALTH tells: every field of the operator's page, and ours beside them, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gibramdb.core.limits import Limits
from gibramdb.core.state import StoreState
from gibramdb.database.journal import JournalFacts
from gibramdb.database.snapshots import SnapshotFacts
from gibramdb.errors import GibramError
from gibramdb.model.commands import SEED_KINDS
from gibramdb.model.results import Health
from gibramdb.model.scope import SessionScope

if TYPE_CHECKING:
    from gibramdb.database.database import Facts

PRESSURE_WARNING = 0.75
PRESSURE_CRITICAL = 0.90
DISK_FREE_BYTES_LOW = 64 * 1024 * 1024
DISK_FREE_SHARE_LOW = 0.10
"""Nearly full is below both: eight times what the log reserves ahead is time to do something."""

TOLD_TO_ALL = (
    "engine",
    "backup",
    "session_store_mode",
    "session_store",
    "durable_state",
    "resource_pressure",
    "tokens",
)
"""What says how the store is, and nothing of what others have in it, or where it lies."""


def report(
    state: StoreState,
    journal: JournalFacts,
    snapshots: SnapshotFacts,
    facts: Facts,
    limits: Limits,
    failure: GibramError | None,
    now_ms: int,
    scope: SessionScope | None = None,
) -> Health:
    """All fields, as text. `status` is error, degraded or ok; `durable_state_reason` says why in words.

    scope: of which sessions it may be told, where that is not all: then it is `of_nobody`, and no other session's
    memory shows in it.
    """
    is_durable = facts.mode == "durable"
    pressure = resource_pressure(state, limits, scope, now_ms)
    reasons: list[str] = []
    if failure is not None:
        reasons.append(str(failure))
    if pressure != "ok":
        reasons.append(f"a session, or the store, uses much of the memory that it may ({pressure})")
    if journal.disk_full:
        reasons.append("the log can not grow: its disk is full")
    is_low = 0 <= journal.disk_free_bytes < min(DISK_FREE_BYTES_LOW, journal.disk_bytes * DISK_FREE_SHARE_LOW)
    is_nearly_full = is_low and not journal.disk_full
    if is_nearly_full:
        reasons.append(f"the log's disk is nearly full: {journal.disk_free_bytes} bytes are free")
    if snapshots.error:
        reasons.append(f"the last snapshot failed, the log is kept meanwhile: {snapshots.error}")
    is_snapshot_wrong = bool(snapshots.error or snapshots.troubles)
    wal_bytes_since_snapshot = max(0, journal.released_lsn - snapshots.cut_lsn) if is_durable else 0
    is_behind = 0 < snapshots.wal_bytes_max < wal_bytes_since_snapshot
    if is_behind:
        reasons.append(
            f"writers are faster than the snapshots: a start would replay {wal_bytes_since_snapshot} bytes of log, "
            f"session_store.snapshot_wal_size_bytes is {snapshots.wal_bytes_max}"
        )
    reasons += snapshots.troubles
    if state.expiry_paused:
        reasons.append("wall clock and steady clock disagree by more than 60 s: nothing expires meanwhile")
    if failure is not None:
        durable_state = "unhealthy"
    elif is_durable and (pressure != "ok" or journal.disk_full or is_nearly_full or is_behind or is_snapshot_wrong):
        durable_state = "degraded"
    else:
        durable_state = "serving"
    ready = {kind: _has_vectors(state, kind) for kind in SEED_KINDS}
    components = {
        "engine": "ok" if failure is None else "halted",
        "backup": "in_progress" if snapshots.operation in {"save", "restore"} else "ok",
        "session_store_mode": facts.mode,
        "session_store": "ok" if failure is None else "unhealthy",
        "durable_state": durable_state,
        "wal_current_lsn": str(journal.released_lsn),
        "wal_flushed_lsn": str(journal.flushed_lsn),
        "wal_flush_lag_bytes": str(journal.released_lsn - journal.flushed_lsn),
        "wal_size_bytes": str(journal.wal_size_bytes),
        "snapshot_status": "configured" if is_durable else "not_configured",
        "snapshot_count": str(snapshots.count),
        "last_snapshot_unix_nano": str(snapshots.published_at_ms * 1_000_000),
        "wal_bytes_since_snapshot": str(wal_bytes_since_snapshot),
        "recovery_duration_ms": str(facts.recovery_duration_ms),
        "resource_pressure": pressure,
        "retrieval_ready": _truth(any(ready.values())),
        "textunit_index_ready": _truth(ready["textunit"]),
        "entity_index_ready": _truth(ready["entity"]),
        "community_index_ready": _truth(ready["community"]),
        "empty_seed_indexes": ",".join(kind for kind in SEED_KINDS if not ready[kind]),
        # Ours.
        "durable_state_reason": "; ".join(reasons),
        "memory_bytes": str(state.memory_bytes),
        "expiry": "paused" if state.expiry_paused else "on",
        "wal_sync_policy": facts.sync_policy if is_durable else "none",
        "wal_generation": str(journal.generation),
        "wal_path": journal.path,
        "wal_pending_bytes": str(journal.pending_bytes),
        "wal_reserved_bytes": str(journal.reserved_bytes),
        "disk_free_bytes": str(journal.disk_free_bytes),
        "wal_sync_count": str(journal.sync_count),
        "wal_last_sync_age_ms": str(journal.last_sync_age_ms),
        "wal_last_sync_duration_ms": str(journal.last_sync_duration_ms),
        "snapshots_retained": str(snapshots.retained),
        "snapshot_running": snapshots.operation,
        "snapshot_failures": str(snapshots.failures),
        "snapshot_error": snapshots.error,
        "snapshot_files_damaged": str(snapshots.files_damaged),
        "last_snapshot_age_ms": str(max(0, now_ms - snapshots.published_at_ms) if snapshots.published_at_ms else 0),
        "recovery_records_replayed": str(facts.recovered_records),
        "recovery_bytes_truncated": str(facts.torn_bytes),
        "warnings": " ".join(facts.warnings),
        "tokens": "remembered",
    }
    status = "ok"
    if failure is not None:
        status = "error"
    elif pressure != "ok" or durable_state == "degraded":
        status = "degraded"
    health = Health(status, components)
    return health if scope is None else of_nobody(health)


def of_nobody(health: Health) -> Health:
    """As much of it as one may see who may not see all sessions."""
    return Health(health.status, {name: health.components[name] for name in TOLD_TO_ALL})


def starting(facts: Facts, now_ms: int) -> Health:
    """The same fields while the store recovers, before there is anything to tell."""
    report_ = report(StoreState(1), JournalFacts(), SnapshotFacts(), facts, Limits(), None, now_ms)
    told = {"durable_state": "starting", "durable_state_reason": "the store recovers; nothing else is answered yet"}
    return Health("degraded", report_.components | told)


def resource_pressure(state: StoreState, limits: Limits, scope: SessionScope | None, now_ms: int) -> str:
    """Of what may be used, by the worst session of the scope that is alive, or by all sessions together.

    ok, warning from 0.75, critical from 0.90.
    """
    worst = 0.0
    if limits.session_memory_bytes_max:
        seen = (each for each in state.sessions.values() if scope is None or scope.holds(each.session_id))
        alive = (each.memory_bytes for each in seen if not state.is_expired(each, now_ms))
        worst = max(alive, default=0) / limits.session_memory_bytes_max
    if limits.total_memory_bytes_max:
        worst = max(worst, state.memory_bytes / limits.total_memory_bytes_max)
    if worst >= PRESSURE_CRITICAL:
        return "critical"
    return "warning" if worst >= PRESSURE_WARNING else "ok"


def _has_vectors(state: StoreState, kind: str) -> bool:
    sessions = state.sessions.values()
    if kind == "textunit":
        return any(len(session.textunit_vectors) for session in sessions)
    if kind == "entity":
        return any(len(session.entity_vectors) for session in sessions)
    return any(len(session.community_vectors) for session in sessions)


def _truth(value: bool) -> str:
    return "true" if value else "false"
