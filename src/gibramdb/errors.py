"""Every error gibramdb raises, in three families; each class knows its wire code and its exit code.

    CallerError        the caller's doing; the same call fails the same way again; no state has changed
    UnavailableError   not now; the same call may succeed later or elsewhere
    FatalError         the disk's, the operator's or our own; the store does not start, or stops

Two stand alone: the peer does not speak the protocol, and an answer that is too large to be sent.

Wire codes are positive and never reused. GibRAM 0.3.0 sent -1 for everything; its clients accept any number.
Exit codes follow sysexits.h where it has a word for the case.
"""

from __future__ import annotations

import reprlib
from typing import Any, ClassVar, Self


class _Brief(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python writes no number of thousands of digits
            return f"a number of {x.bit_length()} bits"


in_brief = _Brief().repr
"""A value as an error tells it: as Python writes it, cut where that is long."""


class GibramError(Exception):
    """Base of every error raised on purpose by gibramdb."""

    code: ClassVar[int] = 1
    exit_code: ClassVar[int] = 1

    results: tuple[Any, ...] = ()
    """Where it ended a call that is made of many: what was answered before it, in order."""

    def as_answer(self) -> Self:
        """The same, without where it was raised: that names what will hold it, and such a ring is not freed at once."""
        each: BaseException | None = self
        while each is not None:
            each.__traceback__ = None
            each = each.__cause__ or each.__context__
        return self


# --- the caller's -----------------------------------------------------------------------------------------------------


class CallerError(GibramError):
    """The request is wrong; nothing has changed, and repeating it changes nothing."""

    code = 1000
    exit_code = 64


class InvalidArgumentError(CallerError):
    """A field holds something that can not be meant: blank, not finite, out of range, undecodable."""

    code = 1001


class NotFoundError(CallerError):
    """The named object is not there."""

    code = 1002


class AlreadyExistsError(CallerError):
    """An object with this external id, title or triple is there already."""

    code = 1003


class StillReferencedError(CallerError):
    """The object can not be deleted while others refer to it."""

    code = 1004


class DimensionMismatchError(CallerError):
    """An embedding has another length than the store's vector dimension."""

    code = 1005


class LimitExceededError(CallerError):
    """A size, a count or a quota would be exceeded."""

    code = 1006


class SessionNotFoundError(NotFoundError):
    """There is no session of this name."""

    code = 1007


class SessionExpiredError(CallerError):
    """The session's TTL or idle TTL has passed."""

    code = 1008


class UnknownCommandError(CallerError):
    """The command number is not one that this server answers."""

    code = 1009


class RetrievalNotReadyError(CallerError):
    """No index that the query may use holds a vector."""

    code = 1010


class PermissionDeniedError(CallerError):
    """The API key may not do this, or not in this session."""

    code = 1011
    exit_code = 77


class AuthenticationError(CallerError):
    """The server asks for an API key, and got none, a wrong one, or one whose time is over."""

    code = 1012
    exit_code = 77


# --- not now ----------------------------------------------------------------------------------------------------------


class UnavailableError(GibramError):
    """The request may be right; it can not be served now."""

    code = 2000
    exit_code = 69


class HaltedError(UnavailableError):
    """The store has stopped because its log can no longer be trusted. Start it again."""

    code = 2001


class OutcomeUnknownError(HaltedError):
    """The write was under way when the log failed or the connection broke: it may or may not be kept."""

    code = 2002


class DiskFullError(UnavailableError):
    """The disk has no space. Reads go on; writes are accepted again, or a start succeeds, as soon as there is some."""

    code = 2003
    exit_code = 75


class ClosedError(UnavailableError):
    """The store or the client has been closed, or belongs to another process (a forked child)."""

    code = 2004


class ConnectionFailedError(UnavailableError):
    """The server can not be reached, or the connection broke before the request was sent."""

    code = 2005

    was_connected: bool = True
    """False where no connection, its TLS handshake included, could be made."""


class MissingExtraError(UnavailableError):
    """A part that is installed separately is missing; the message says how to get it."""

    code = 2006


class RateLimitedError(UnavailableError):
    """This API key has asked too often; the request was not carried out, and may be asked again a little later."""

    code = 2007
    exit_code = 75


class PipelineFullError(UnavailableError):
    """Enough has been answered in one pipeline; nothing was carried out from here on, and may go in the next."""

    code = 2008


class StartingError(UnavailableError):
    """The server listens and its store still recovers; nothing was carried out, and all will be in a moment."""

    code = 2009
    exit_code = 75


# --- fatal ------------------------------------------------------------------------------------------------------------


class FatalError(GibramError):
    """The store must not go on: what it would serve could be wrong."""

    code = 3000


class InternalError(FatalError):
    """A defect in gibramdb. The request had no effect."""

    code = 3001
    exit_code = 70


class ConfigError(FatalError):
    """A setting is unknown, malformed, or contradicts another."""

    code = 3002
    exit_code = 78


class CorruptLogError(FatalError):
    """A log file is damaged where its records had been made durable."""

    code = 3003
    exit_code = 65


class IncompatibleStoreError(FatalError):
    """What lies on disk is of another version, store, or vector dimension."""

    code = 3004
    exit_code = 65


class MissingStoreError(FatalError):
    """A directory, marker or log that must be there is not, or can not be read."""

    code = 3005
    exit_code = 66


class StoreLockedError(FatalError):
    """Another process owns this store."""

    code = 3006
    exit_code = 73


class CorruptSnapshotError(FatalError):
    """A snapshot, or an operator's copy of one, is damaged or incomplete."""

    code = 3008
    exit_code = 65


class StorageError(FatalError):
    """The operating system refused an operation on a file of the store."""

    code = 3007
    exit_code = 74


class AnswerTooLargeError(GibramError):
    """The answer is larger than a reply may be. What was asked for has been carried out."""

    code = 5000
    exit_code = 69


class ProtocolError(GibramError):
    """The peer sent bytes that are not the protocol."""

    code = 4000
    exit_code = 76


def _subclasses(root: type[GibramError]) -> list[type[GibramError]]:
    found = [root]
    for child in root.__subclasses__():
        found += _subclasses(child)
    return found


BY_CODE: dict[int, type[GibramError]] = {cls.code: cls for cls in _subclasses(GibramError)}
"""Wire code to class, for clients. Filled from the classes above, so none can be forgotten."""
