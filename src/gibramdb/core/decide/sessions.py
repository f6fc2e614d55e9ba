"""Decisions about sessions themselves."""

from __future__ import annotations

from gibramdb.core.decide.admission import Decision, Moment, require_session_id
from gibramdb.core.limits import TTL_MS_MAX
from gibramdb.errors import SessionNotFoundError
from gibramdb.model.commands import DeleteSession, ExpireSession, SetSessionTtl, TouchSession
from gibramdb.model.mutations import SessionDeleted, SessionExpired, SessionTouched, SessionTtlSet
from gibramdb.model.results import Done


def delete(moment: Moment, command: DeleteSession) -> Decision:
    """An expired session can be deleted like any other."""
    if require_session_id(command.session_id) not in moment.state.sessions:
        raise SessionNotFoundError(f"session not found: {command.session_id}")
    return SessionDeleted(command.session_id, moment.now_ms, opens=False), Done()


def expire(moment: Moment, command: ExpireSession) -> Decision:
    """Only if its time is really over: the sweep chose it a moment ago, and a write may have begun a new one since."""
    session = moment.state.sessions.get(command.session_id)
    if session is None or not moment.state.is_expired(session, moment.now_ms):
        return None, Done()
    return SessionExpired(command.session_id, moment.now_ms, opens=False), Done()


def set_ttl(moment: Moment, command: SetSessionTtl) -> Decision:
    """Each value: positive sets it, 0 leaves it, negative clears it."""
    session = moment.session(command.session_id)
    mutation = SessionTtlSet(
        command.session_id,
        moment.now_ms,
        opens=False,
        ttl_ms=_new_ttl_ms(session.ttl_ms, command.ttl_s),
        idle_ttl_ms=_new_ttl_ms(session.idle_ttl_ms, command.idle_ttl_s),
    )
    return mutation, Done()


def _new_ttl_ms(old_ms: int, wanted_s: int) -> int:
    if wanted_s == 0:
        return old_ms
    return 0 if wanted_s < 0 else min(wanted_s * 1000, TTL_MS_MAX)


def touch(moment: Moment, command: TouchSession) -> Decision:
    """A use of the session."""
    moment.session(command.session_id)
    return SessionTouched(command.session_id, moment.now_ms, opens=False), Done()
