"""What every decision asks: is the session there, is the text short enough, is the vector sound, is there room?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gibramdb.core import limits as weights
from gibramdb.core.limits import Limits
from gibramdb.core.state import SessionState, StoreState
from gibramdb.errors import (
    CallerError,
    DimensionMismatchError,
    InvalidArgumentError,
    LimitExceededError,
    NotFoundError,
    SessionExpiredError,
    SessionNotFoundError,
)
from gibramdb.model.ids import NO_LSN
from gibramdb.model.mutations import Mutation
from gibramdb.model.results import Result

Decision = tuple[Mutation | None, Result]

_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1


class Moment(NamedTuple):
    """What a decision is made on: the state, the time, and what the store admits."""

    state: StoreState
    now_ms: int
    limits: Limits

    def session(self, session_id: str) -> SessionState:
        """A session that must be alive."""
        return live_session(self.state, session_id, self.now_ms)

    def session_or_new(self, session_id: str) -> tuple[SessionState, bool]:
        """A live session, or an empty one to decide against, and whether the mutation begins it."""
        session = self.state.sessions.get(require_session_id(session_id))
        if session is not None and not self.state.is_expired(session, self.now_ms):
            return session, False
        if session is None and len(self.state.sessions) >= self.limits.sessions_max:
            raise LimitExceededError(f"max sessions limit reached ({self.limits.sessions_max})")
        if session is None:
            _check_store_memory(self.limits, self.state.memory_bytes + weights.session_bytes(session_id))
        return SessionState(session_id, NO_LSN, self.now_ms, self.state.vector_dim), True


def require_session_id(session_id: str) -> str:
    """The session id, which must say something."""
    if not session_id:
        raise InvalidArgumentError("session_id is required")
    return session_id


def live_session(state: StoreState, session_id: str, now_ms: int) -> SessionState:
    """The session, which must be there and not expired."""
    session = state.sessions.get(require_session_id(session_id))
    if session is None:
        raise SessionNotFoundError(f"session not found: {session_id}")
    if state.is_expired(session, now_ms):
        raise SessionExpiredError(f"session expired: {session_id}")
    return session


def check_content(name: str, text: str, limits: Limits) -> None:
    """Refuse text that is too long; the limit is in UTF-8 bytes."""
    # No character takes more than 4 bytes, so most text needs no counting.
    if len(text) * 4 > limits.content_bytes_max:
        length = weights.content_length(text)
        if length > limits.content_bytes_max:
            raise LimitExceededError(f"{name} too large: {length} bytes (max: {limits.content_bytes_max})")


def check_int32(name: str, value: int) -> None:
    """Refuse what the wire could not carry back."""
    if not _INT32_MIN <= value <= _INT32_MAX:
        raise InvalidArgumentError(f"{name} must fit in 32 bits, got {value}")


def check_vector(kind: str, vector: bytes, vector_dim: int) -> None:
    """Refuse an embedding of the wrong length, or with a number that is not finite. Empty is none, and right."""
    if not vector:
        return
    if len(vector) != 4 * vector_dim:
        # Rounded up, so that half a number never reads as the right length.
        raise DimensionMismatchError(
            f"{kind} embedding dimension mismatch: expected {vector_dim}, got {-(-len(vector) // 4)}"
        )
    finite = np.isfinite(np.frombuffer(vector, "<f4"))
    if not finite.all():
        index = int(np.flatnonzero(~finite)[0])
        raise InvalidArgumentError(f"{kind} embedding contains non-finite value at index {index}")


def check_memory(moment: Moment, session: SessionState, added_bytes: int, freed_bytes: int = 0) -> None:
    """Refuse what would exceed the session's memory, or the store's; whatever frees more than it adds is welcome."""
    if added_bytes <= freed_bytes:
        return
    limits, state = moment.limits, moment.state
    check_quota(session.memory_bytes - freed_bytes, added_bytes, limits.session_memory_bytes_max, "memory")
    held = state.sessions.get(session.session_id)
    if held is None:
        added_bytes += weights.session_bytes(session.session_id)
    elif held is not session:
        freed_bytes += held.memory_bytes  # its time is over, and this takes its place
    _check_store_memory(limits, state.memory_bytes - freed_bytes + added_bytes)


def _check_store_memory(limits: Limits, wanted_bytes: int) -> None:
    if limits.total_memory_bytes_max and wanted_bytes > limits.total_memory_bytes_max:
        # No figures: whoever asks may be allowed to know of some sessions only. HEALTH tells them to the others.
        raise LimitExceededError("store memory quota exceeded: the store has no memory left for this")


def check_quota(used: int, added: int, allowed: int, noun: str) -> None:
    """Refuse what would exceed a session's quota; 0 is no quota."""
    if allowed and used + added > allowed:
        raise LimitExceededError(f"{noun} quota exceeded: {used} used, {added} more wanted, {allowed} allowed")


def in_bulk(noun: str, index: int, cause: CallerError) -> CallerError:
    """The same refusal, saying which item of the bulk command it is about."""
    return type(cause)(f"atomic bulk {noun} failed at index {index}: {cause}; no items committed")


def require_found(record: object | None, noun: str, id: int) -> None:
    """Refuse when the object is missing."""
    if record is None:
        raise NotFoundError(f"{noun} not found: {id}")


def joined(vectors: Sequence[bytes], first_id: int) -> tuple[tuple[int, ...], bytes]:
    """Ids of the objects that have a vector, and their rows; the objects are numbered from `first_id`."""
    ids = tuple(first_id + index for index, vector in enumerate(vectors) if vector)
    return ids, b"".join(vectors)
