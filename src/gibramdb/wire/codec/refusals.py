"""An error as it arrived: by its code, or by the words of GibRAM 0.3.0, which sends -1 for everything.

A message holds what a caller wrote, titles for example, so the words count only where the server itself puts them: at
the beginning, or around the whole.
"""

from __future__ import annotations

import re

from gibramdb import errors
from gibramdb.errors import BY_CODE, CallerError, GibramError
from gibramdb.wire import gibramdb_pb2 as pb

_KIND = "(document|textunit|entity|relationship|community)"
_BULK = re.compile(r"atomic bulk \w+ failed at index \d+: (.*); no items committed", re.DOTALL)

_WORDS: tuple[tuple[re.Pattern[str], type[GibramError]], ...] = tuple(
    (re.compile(pattern, re.DOTALL), error)
    for pattern, error in (
        ("session_id is required", errors.InvalidArgumentError),
        ("session not found", errors.SessionNotFoundError),
        ("session expired", errors.SessionExpiredError),
        (f"({_KIND}|query) not found", errors.NotFoundError),
        ("link failed.*", errors.NotFoundError),
        (rf"{_KIND} \w+_id \d+ does not exist", errors.NotFoundError),
        (rf"{_KIND} (with|from) .* already exists.*", errors.AlreadyExistsError),
        (rf"{_KIND} (with|from) .* in bulk request", errors.AlreadyExistsError),
        (rf"{_KIND} \d+ (has dependent|is linked|is referenced) .*", errors.StillReferencedError),
        (rf"{_KIND} external_id is required", errors.InvalidArgumentError),
        (rf"{_KIND} embedding dimension mismatch.*", errors.DimensionMismatchError),
        (rf"{_KIND} embedding contains non-finite value.*", errors.InvalidArgumentError),
        (r"\S+ too large: \d+ bytes .*", errors.LimitExceededError),
        (r"\w+ quota exceeded.*", errors.LimitExceededError),
        ("max sessions limit reached.*", errors.LimitExceededError),
        ("retrieval ready error.*", errors.RetrievalNotReadyError),
        (r"unknown command.*", errors.UnknownCommandError),
        ("permission denied.*", errors.PermissionDeniedError),
        ("rate limit exceeded", errors.RateLimitedError),
        ("authentication required", errors.AuthenticationError),
        ("(backup|restore|WAL) not configured", errors.UnavailableError),
        ("(backup|operation) already in progress", errors.UnavailableError),
        ("(checkpoint|checkpoint snapshot|truncate|rotate) failed.*", errors.UnavailableError),
        ("restore path is required", errors.InvalidArgumentError),
        ("(path|symlink) escapes base directory.*", errors.InvalidArgumentError),
        ("durable session store is unhealthy.*", errors.HaltedError),
    )
)


def read_error(payload: bytes) -> GibramError:
    """The error in the payload of an ERROR reply: of the class that has its code, or else its words; else CallerError.

    Raises:
        DecodeError: if the payload holds none.
    """
    error = pb.Error.FromString(payload)
    message = error.message
    by_code = BY_CODE.get(error.code)
    return (by_code or _by_words(message))(message)


def _by_words(message: str) -> type[GibramError]:
    bulk = _BULK.fullmatch(message)
    cause = bulk[1] if bulk else message
    return next((error for words, error in _WORDS if words.fullmatch(cause)), CallerError)
