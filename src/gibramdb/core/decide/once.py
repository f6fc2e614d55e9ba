"""A write that is marked with a token is carried out once; asked for again, it is answered from what is remembered.

What is remembered is part of the same record as the change, so that no crash can keep the one without the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from gibramdb.core.decide.admission import Decision, Moment, check_memory
from gibramdb.core.limits import KEPT_TOKEN_BYTES, TOKEN_BYTES_MAX
from gibramdb.errors import InvalidArgumentError
from gibramdb.model import mutations
from gibramdb.model.commands import WriteCommand
from gibramdb.model.mutations import KeptToken, WrittenOnce
from gibramdb.model.results import Created, Done, Result


def _plain(value: Any) -> Any:
    """Numbers of other libraries, numpy's for example, as what they are."""
    if hasattr(value, "item"):
        return value.item()
    raise InvalidArgumentError(f"this can not be stored: {value!r}")


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
"""A session that is full can still be emptied, or told when to end, by callers who mark their writes too."""

_encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode


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
    if not isinstance(change, _FREEING):
        holder, _ = moment.session_or_new(command.session_id)
        check_memory(moment, holder, KEPT_TOKEN_BYTES)
    opens = change is not None and change.opens
    # What `first` decides for a caller is a Change; the record's reader holds it to that before it is applied.
    return WrittenOnce(command.session_id, moment.now_ms, opens, kept, change), result  # type: ignore[arg-type]


def _fingerprint(command: WriteCommand) -> bytes:
    whole = _encode((type(command).__name__, msgspec.structs.replace(command, token=b"")))
    return hashlib.blake2b(whole, digest_size=8).digest()


def _answer(kept: KeptToken, command: WriteCommand) -> Result:
    if kept.created_count is None:
        return Done(kept.answer_id)
    # Ids of one write follow each other.
    return Created(tuple(range(kept.answer_id, kept.answer_id + kept.created_count)), getattr(command, "bulk", False))
