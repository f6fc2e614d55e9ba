"""A write that is marked with a token is carried out once; asked for again, it is answered from what is remembered.

What is remembered is part of the same record as the change, so that no crash can keep the one without the other.

A session that is full can still be emptied, or told when to end, by callers who mark their writes too. So that it does
not grow by their tokens, such a write is remembered in the place of the session's oldest token where it frees less than
its own weighs; only the first of them, where there is none, is kept beyond what the session may hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from gibramdb.core.decide.admission import Decision, Moment, check_memory
from gibramdb.core.decide.relationships import stored_weight
from gibramdb.core.limits import KEPT_TOKEN_BYTES, LINK_BYTES, TOKEN_BYTES_MAX, document_bytes
from gibramdb.core.state import SessionState
from gibramdb.errors import InvalidArgumentError, LimitExceededError
from gibramdb.model import mutations
from gibramdb.model.commands import AddRelationships, WriteCommand
from gibramdb.model.field_types import plain
from gibramdb.model.knowledge import NewRelationship
from gibramdb.model.mutations import KeptToken, WrittenOnce, WrittenOnceInPlace
from gibramdb.model.results import Created, Done, Result

_FREEING = (
    mutations.DocumentDeleted,
    mutations.TextUnitDeleted,
    mutations.EntityDeleted,
    mutations.RelationshipDeleted,
    mutations.CommunityDeleted,
    mutations.CascadeDeleted,
    mutations.TextUnitUnlinked,
    mutations.SessionTtlSet,
)
"""What a session that is full is not refused."""

_encode = msgspec.msgpack.Encoder(enc_hook=plain).encode


def decide(moment: Moment, command: WriteCommand, first: Callable[[Moment, Any], Decision]) -> Decision:
    """What was answered to this token, or what `first` decides, to be remembered.

    Raises:
        InvalidArgumentError: the token is too long, or was used for another write.
        CallerError: the command is refused; nothing is remembered of that, so it may be asked for again.
    """
    token = command.token
    if len(token) > TOKEN_BYTES_MAX:
        raise InvalidArgumentError(f"token too large: {len(token)} bytes (max: {TOKEN_BYTES_MAX})")
    fingerprint = _fingerprint(command)
    session = moment.state.sessions.get(command.session_id)
    if session is not None and not moment.state.is_expired(session, moment.now_ms):
        kept = session.kept_token(token)
        if kept is not None:
            if kept.fingerprint != fingerprint:
                raise InvalidArgumentError(
                    "token was used for another write in this session; a new write needs its own"
                )
            return None, _answer(kept, command)
    change, result = first(moment, command)
    if isinstance(result, Created):
        kept = KeptToken(token, moment.now_ms, fingerprint, result.ids[0] if result.ids else 0, len(result.ids))
    else:
        assert isinstance(result, Done), "a command that is remembered answers ids, or nothing"
        kept = KeptToken(token, moment.now_ms, fingerprint, result.id, None)
    written = WrittenOnce
    holder, _ = moment.session_or_new(command.session_id)
    try:
        check_memory(moment, holder, KEPT_TOKEN_BYTES, _freed_bytes(holder, change))
    except LimitExceededError:
        if not isinstance(change, _FREEING):
            raise
        if len(holder.tokens):
            written = WrittenOnceInPlace
    opens = change is not None and change.opens
    # What `first` decides for a caller is a Change; the record's reader holds it to that before it is applied.
    return written(command.session_id, moment.now_ms, opens, kept, change), result  # type: ignore[arg-type]


def _freed_bytes(session: SessionState, change: mutations.Mutation | None) -> int:
    """What the change frees, at least; all but a few free more than a token weighs."""
    if not isinstance(change, _FREEING) or isinstance(change, mutations.SessionTtlSet):
        return 0
    if isinstance(change, mutations.TextUnitUnlinked):
        return LINK_BYTES
    if isinstance(change, mutations.DocumentDeleted):
        return _document_bytes(session, (change.id,))
    if isinstance(change, mutations.CascadeDeleted) and not (
        change.textunit_ids or change.entity_ids or change.relationship_ids
    ):
        return _document_bytes(session, change.document_ids)
    return KEPT_TOKEN_BYTES


def _document_bytes(session: SessionState, ids: tuple[int, ...]) -> int:
    return sum(document_bytes(document) for id in ids if (document := session.documents.get(id)) is not None)


def _fingerprint(command: WriteCommand) -> bytes:
    if isinstance(command, AddRelationships):
        relationships = tuple(map(_as_stored, command.relationships))
        command = msgspec.structs.replace(command, relationships=relationships)
    try:
        whole = _encode((type(command).__name__, msgspec.structs.replace(command, token=b"")))
    except (UnicodeEncodeError, OverflowError) as error:  # as the record of the write would be refused
        raise InvalidArgumentError(f"this can not be stored: {error}") from None
    return hashlib.blake2b(whole, digest_size=8).digest()


def _as_stored(new: NewRelationship) -> NewRelationship:
    # The same call gives another weight in Python than over the wire, which has float32 only.
    try:
        weight = stored_weight(new.weight)
    except InvalidArgumentError:  # refused in its turn
        return new
    if type(new.weight) is float and new.weight == weight:
        return new
    return msgspec.structs.replace(new, weight=weight)


def _answer(kept: KeptToken, command: WriteCommand) -> Result:
    if kept.created_count is None:
        return Done(kept.answer_id)
    # Ids of one write follow each other.
    return Created(tuple(range(kept.answer_id, kept.answer_id + kept.created_count)), getattr(command, "bulk", False))
