"""Errors of GibRAM 0.3.0, which have no code: the class comes from the words, and only from the server's own."""

from __future__ import annotations

import pytest

from gibramdb import errors
from gibramdb.errors import CallerError, GibramError
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec.refusals import read_error

WORDS = {
    "session_id is required": errors.InvalidArgumentError,
    "session not found": errors.SessionNotFoundError,
    "session expired": errors.SessionExpiredError,
    "document not found": errors.NotFoundError,
    "textunit not found": errors.NotFoundError,
    "entity not found": errors.NotFoundError,
    "relationship not found": errors.NotFoundError,
    "community not found": errors.NotFoundError,
    "query not found": errors.NotFoundError,
    "link failed": errors.NotFoundError,
    "update failed": CallerError,
    "entity external_id is required": errors.InvalidArgumentError,
    "textunit with external_id t already exists": errors.AlreadyExistsError,
    "entity with title A\nB already exists": errors.AlreadyExistsError,
    "relationship from 1 to 2 with type T already exists": errors.AlreadyExistsError,
    "textunit document_id 9 does not exist": errors.NotFoundError,
    "relationship source_id 9 does not exist": errors.NotFoundError,
    "community relationship_id 9 does not exist": errors.NotFoundError,
    "entity embedding dimension mismatch: expected 8, got 2": errors.DimensionMismatchError,
    "entity embedding contains non-finite value at index 1": errors.InvalidArgumentError,
    "document 1 has dependent text units": errors.StillReferencedError,
    "textunit 1 is linked to entities": errors.StillReferencedError,
    "entity 1 is linked to relationships": errors.StillReferencedError,
    "entity 1 is referenced by communities": errors.StillReferencedError,
    "atomic bulk entities failed at index 3: entity with title A already exists; no items committed": (
        errors.AlreadyExistsError
    ),
    "atomic bulk entities failed at index 3: entity with title A in bulk request; no items committed": (
        errors.AlreadyExistsError
    ),
    "atomic bulk entities failed at index 0: entity quota exceeded; no items committed": errors.LimitExceededError,
    "textunits[3].content too large: 9 bytes (max: 8)": errors.LimitExceededError,
    "memory quota exceeded": errors.LimitExceededError,
    "max sessions limit reached (10000)": errors.LimitExceededError,
    "retrieval ready error: nothing there; skipped=[entity]": errors.RetrievalNotReadyError,
    "unknown command: 200": errors.UnknownCommandError,
    "permission denied: requires 'admin' permission": errors.PermissionDeniedError,
    "rate limit exceeded": errors.RateLimitedError,
    "authentication required": errors.AuthenticationError,
    "backup already in progress": errors.UnavailableError,
    "operation already in progress": errors.UnavailableError,
    "WAL not configured": errors.UnavailableError,
    "checkpoint failed: disk": errors.UnavailableError,
    "restore path is required": errors.InvalidArgumentError,
    "path escapes base directory: ../x": errors.InvalidArgumentError,
    "durable session store is unhealthy": errors.HaltedError,
    "something else": CallerError,
    "": CallerError,
}


@pytest.mark.parametrize("code", [-1, 0, 999_999])
@pytest.mark.parametrize(("message", "expected"), WORDS.items())
def test_words_name_a_class_where_no_code_does(message: str, expected: type[GibramError], code: int) -> None:
    error = read_error(pb.Error(message=message, code=code).SerializeToString())
    assert (type(error), str(error)) == (expected, message)


def test_a_code_of_ours_counts_whatever_the_words() -> None:
    payload = pb.Error(message="session not found", code=errors.DiskFullError.code).SerializeToString()
    assert type(read_error(payload)) is errors.DiskFullError


@pytest.mark.parametrize("title", ["rate limit exceeded", "session not found", "authentication required"])
def test_what_a_caller_wrote_is_not_taken_for_the_servers_words(title: str) -> None:
    for message in (f"entity with title {title} already exists", f"entity with external_id {title}"):
        error = read_error(pb.Error(message=message, code=-1).SerializeToString())
        assert type(error) in {CallerError, errors.AlreadyExistsError}
