"""The one table of commands, and what both ends of a connection do with it.

Each row ties a number to a command class (which carries its permission, session rule and handler), to the form of its
payload both ways, and to the number and form of its reply. A number that has no row is refused.

PIPELINE and AUTH have numbers and no rows: the server runs a pipeline command by command, and answers AUTH itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import msgspec
from google.protobuf.message import DecodeError, EncodeError

from gibramdb.errors import (
    GibramError,
    InvalidArgumentError,
    LimitExceededError,
    ProtocolError,
    UnavailableError,
    UnknownCommandError,
)
from gibramdb.model import commands
from gibramdb.model.commands import Command, WriteCommand
from gibramdb.model.results import Created, Result
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import objects, requests, results
from gibramdb.wire.codec.adding import ADD_COMMUNITY, ADD_DOCUMENTS, ADD_ENTITIES, ADD_RELATIONSHIPS, ADD_TEXTUNITS
from gibramdb.wire.codec.asked import objects_created
from gibramdb.wire.codec.envelope import Request, read_reply
from gibramdb.wire.codec.numbers import CommandNumber as Number
from gibramdb.wire.codec.objects import DOCUMENTS, DONE, ENTITIES, ONE_CREATED, RELATIONSHIPS, TEXTUNITS
from gibramdb.wire.codec.refusals import read_error
from gibramdb.wire.codec.requests import bare, by_cursor, by_external_id, by_id, by_ids, of_session
from gibramdb.wire.codec.row import Row
from gibramdb.wire.framing import HEADER, encode_envelope, encode_frame, varint

TABLE: tuple[Row, ...] = (
    Row(Number.PING, bare(commands.Ping), results.PONG),
    Row(Number.INFO, of_session(commands.GetInfo), results.INFO),
    Row(Number.HEALTH, bare(commands.GetHealth), results.HEALTH),
    Row(Number.GET_DIGEST, of_session(commands.GetDigest), results.DIGEST),
    # sessions
    Row(Number.LIST_SESSIONS, requests.LIST_SESSIONS, results.SESSIONS),
    Row(Number.DELETE_SESSION, of_session(commands.DeleteSession), DONE),
    Row(Number.SESSION_INFO, of_session(commands.GetSession), results.SESSION),
    Row(Number.SET_SESSION_TTL, requests.SET_TTL, DONE),
    Row(Number.TOUCH_SESSION, of_session(commands.TouchSession), DONE),
    # documents
    Row(Number.ADD_DOCUMENT, ADD_DOCUMENTS.single, ONE_CREATED),
    Row(Number.GET_DOCUMENT, by_id(commands.GetDocument), DOCUMENTS.one),
    Row(Number.GET_DOCUMENT_BY_EXTERNAL_ID, by_external_id(commands.GetDocumentByExternalId), DOCUMENTS.one),
    Row(Number.DELETE_DOCUMENT, by_id(commands.DeleteDocument), DONE),
    Row(Number.CASCADE_DELETE_DOCUMENT, by_id(commands.CascadeDeleteDocument), DONE),
    Row(Number.MSET_DOCUMENTS, ADD_DOCUMENTS.bulk, DOCUMENTS.created),
    Row(Number.MGET_DOCUMENTS, by_ids(commands.GetDocuments, pb.MGetDocumentsRequest), DOCUMENTS.several),
    Row(Number.LIST_DOCUMENTS, by_cursor(commands.ListDocuments, pb.ListDocumentsRequest), DOCUMENTS.page),
    # text units
    Row(Number.ADD_TEXTUNIT, ADD_TEXTUNITS.single, ONE_CREATED),
    Row(Number.GET_TEXTUNIT, by_id(commands.GetTextUnit), TEXTUNITS.one),
    Row(Number.GET_TEXTUNIT_BY_EXTERNAL_ID, by_external_id(commands.GetTextUnitByExternalId), TEXTUNITS.one),
    Row(Number.DELETE_TEXTUNIT, by_id(commands.DeleteTextUnit), DONE),
    Row(Number.CASCADE_DELETE_TEXTUNIT, by_id(commands.CascadeDeleteTextUnit), DONE),
    Row(Number.LINK_TEXTUNIT_ENTITY, requests.LINK, DONE),
    Row(Number.UNLINK_TEXTUNIT_ENTITY, requests.UNLINK, DONE),
    Row(Number.MSET_TEXTUNITS, ADD_TEXTUNITS.bulk, TEXTUNITS.created),
    Row(Number.MGET_TEXTUNITS, by_ids(commands.GetTextUnits, pb.MGetTextUnitsRequest), TEXTUNITS.several),
    Row(Number.LIST_TEXTUNITS, by_cursor(commands.ListTextUnits, pb.ListTextUnitsRequest), TEXTUNITS.page),
    # entities
    Row(Number.ADD_ENTITY, ADD_ENTITIES.single, ONE_CREATED),
    Row(Number.GET_ENTITY, by_id(commands.GetEntity), ENTITIES.one),
    Row(Number.GET_ENTITY_BY_TITLE, requests.GET_ENTITY_BY_TITLE, ENTITIES.one),
    Row(Number.GET_ENTITY_BY_EXTERNAL_ID, by_external_id(commands.GetEntityByExternalId), ENTITIES.one),
    Row(Number.UPDATE_ENTITY_DESC, requests.UPDATE, DONE),
    Row(Number.DELETE_ENTITY, by_id(commands.DeleteEntity), DONE),
    Row(Number.CASCADE_DELETE_ENTITY, by_id(commands.CascadeDeleteEntity), DONE),
    Row(Number.MSET_ENTITIES, ADD_ENTITIES.bulk, ENTITIES.created),
    Row(Number.MGET_ENTITIES, by_ids(commands.GetEntities, pb.MGetEntitiesRequest), ENTITIES.several),
    Row(Number.LIST_ENTITIES, by_cursor(commands.ListEntities, pb.ListEntitiesRequest), ENTITIES.page),
    # relationships
    Row(Number.ADD_RELATIONSHIP, ADD_RELATIONSHIPS.single, ONE_CREATED),
    Row(Number.GET_RELATIONSHIP, by_id(commands.GetRelationship), RELATIONSHIPS.one),
    Row(
        Number.GET_RELATIONSHIP_BY_EXTERNAL_ID, by_external_id(commands.GetRelationshipByExternalId), RELATIONSHIPS.one
    ),
    Row(Number.DELETE_RELATIONSHIP, by_id(commands.DeleteRelationship), DONE),
    Row(Number.CASCADE_DELETE_RELATIONSHIP, by_id(commands.CascadeDeleteRelationship), DONE),
    Row(Number.MSET_RELATIONSHIPS, ADD_RELATIONSHIPS.bulk, RELATIONSHIPS.created),
    Row(
        Number.MGET_RELATIONSHIPS,
        by_ids(commands.GetRelationships, pb.MGetRelationshipsRequest),
        RELATIONSHIPS.several,
    ),
    Row(
        Number.LIST_RELATIONSHIPS,
        by_cursor(commands.ListRelationships, pb.ListRelationshipsRequest),
        RELATIONSHIPS.page,
    ),
    # communities
    Row(Number.ADD_COMMUNITY, ADD_COMMUNITY, ONE_CREATED),
    Row(Number.GET_COMMUNITY, by_id(commands.GetCommunity), objects.COMMUNITY),
    Row(Number.GET_COMMUNITY_BY_EXTERNAL_ID, by_external_id(commands.GetCommunityByExternalId), objects.COMMUNITY),
    Row(Number.DELETE_COMMUNITY, by_id(commands.DeleteCommunity), DONE),
    Row(
        Number.LIST_COMMUNITIES,
        by_cursor(commands.ListCommunities, pb.ListCommunitiesRequest),
        objects.COMMUNITY_PAGE,
    ),
    Row(Number.COMPUTE_COMMUNITIES, requests.DETECT, results.DETECTED),
    Row(Number.HIERARCHICAL_LEIDEN, requests.DETECT_HIERARCHY, results.HIERARCHY),
    # retrieval
    Row(Number.REBUILD_INDEX, of_session(commands.RebuildIndexes), DONE),
    Row(Number.QUERY, requests.QUERY, results.QUERY_RESULT),
    Row(Number.EXPLAIN, requests.EXPLAIN, results.EXPLANATION),
    Row(Number.GET_EMBEDDINGS, requests.GET_EMBEDDINGS, results.EMBEDDINGS),
    # snapshots and the log
    Row(Number.BGSAVE, requests.BACKGROUND_SAVE, DONE),
    Row(Number.SAVE, requests.SAVE, DONE),
    Row(Number.LASTSAVE, bare(commands.GetLastSave), results.SAVED),
    Row(Number.BGRESTORE, requests.RESTORE, DONE),
    Row(Number.BACKUP_STATUS, bare(commands.GetBackupStatus), results.BACKUP_STATUS),
    Row(Number.WAL_CHECKPOINT, bare(commands.Checkpoint), DONE),
    Row(Number.WAL_TRUNCATE, requests.TRUNCATE, DONE),
    Row(Number.WAL_ROTATE, bare(commands.RotateLog), DONE),
    Row(Number.WAL_STATUS, bare(commands.GetLogStatus), results.LOG_STATUS),
)

_SINGLE_ADDS = {Number.ADD_DOCUMENT, Number.ADD_TEXTUNIT, Number.ADD_ENTITY, Number.ADD_RELATIONSHIP}

BY_NUMBER: dict[int, Row] = {row.number: row for row in TABLE}
_BY_COMMAND = {row.request.command: row for row in TABLE if row.number not in _SINGLE_ADDS}
_SINGLE_BY_COMMAND = {row.request.command: row for row in TABLE if row.number in _SINGLE_ADDS}

# What every request needs, taken apart once: the properties of a row are looked up anew on each use.
_STEPS = {row.number.value: (row.name, row.needs_session_id, row.request.decode) for row in TABLE}


class _OfSession(Protocol):
    """A command whose session rule is other than unused."""

    @property
    def session_id(self) -> str: ...


def row_of(command: Command) -> Row:
    """The row by which a command travels.

    Raises:
        UnknownCommandError: if the command is one of the store's own, which do not travel.
    """
    command_class = type(command)
    adds = (commands.AddDocuments, commands.AddTextUnits, commands.AddEntities, commands.AddRelationships)
    single = isinstance(command, adds) and not command.bulk
    row = (_SINGLE_BY_COMMAND if single else _BY_COMMAND).get(command_class)
    if row is None:
        raise UnknownCommandError(f"{command_class.__name__} has no number on the wire")
    return row


# --- the server's end -------------------------------------------------------------------------------------------------


def decode_command(request: Request) -> Command:
    """The command that a request carries.

    Raises:
        UnknownCommandError: if its number is not in the table.
        InvalidArgumentError: if it needs a session and names none, or its payload is undecodable.
        LimitExceededError: if it is a pipeline inside of a pipeline.
    """
    steps = _STEPS.get(request.number)
    if steps is None:
        if request.number == Number.PIPELINE:
            raise LimitExceededError("pipeline too deep: a pipeline can not hold a pipeline")
        raise UnknownCommandError(f"unknown command: {request.number}")
    name, needs_session_id, decode = steps
    session_id = request.session_id
    if needs_session_id and not session_id:
        raise InvalidArgumentError("session_id is required")
    try:
        command = decode(session_id, request.payload)
    except DecodeError as error:
        raise InvalidArgumentError(f"{name}: undecodable payload: {error}") from None
    if request.token and isinstance(command, WriteCommand):
        return msgspec.structs.replace(command, token=request.token)
    return command


def encode_result(result: Result, request: Request) -> tuple[int, bytes]:
    """Number and payload of the reply to a request that `decode_command` has read.

    Raises:
        LimitExceededError: if the payload would be larger than any client takes. Pages are cut short instead.
    """
    codec = BY_NUMBER[request.number].result
    return codec.reply, codec.encode(result)


def encode_error(error: GibramError) -> bytes:
    """The payload of an ERROR reply: the message and the positive code of the error's class."""
    return pb.Error(message=results.printable(str(error)), code=error.code).SerializeToString()


def decode_auth(payload: bytes) -> str:
    """The API key in the payload of an AUTH request.

    Raises:
        InvalidArgumentError: if it is undecodable.
    """
    try:
        return pb.AuthRequest.FromString(payload).api_key
    except DecodeError:
        raise InvalidArgumentError("invalid auth request") from None


def encode_auth_accepted(key_id: str = "", permissions: Sequence[str] = ()) -> tuple[int, bytes]:
    """Number and payload of the welcome that answers AUTH; a server without keys names no key and no permissions."""
    accepted = pb.AuthResponse(success=True, message="authenticated", key_id=key_id, permissions=permissions)
    return Number.AUTH_RESPONSE, accepted.SerializeToString()


def encode_auth_refused(message: str, *, is_busy: bool = False) -> tuple[int, bytes]:
    """Number and payload of the refusal that answers AUTH; where it says nothing about the key, its code tells so."""
    code = UnavailableError.code if is_busy else 0
    return Number.AUTH_RESPONSE, pb.AuthResponse(success=False, message=message, code=code).SerializeToString()


# --- the client's end -------------------------------------------------------------------------------------------------


def encode_command(command: Command, request_id: int) -> bytes:
    """A whole frame that asks for a command.

    Raises:
        InvalidArgumentError: if a value has no form on the wire: an integer out of range, text that is no UTF-8, more
            than 2 GiB in one command.
        UnknownCommandError: if the command is one of the store's own.
    """
    row = row_of(command)
    session_id = "" if row.session_rule == "unused" else cast("_OfSession", command).session_id
    token = command.token if isinstance(command, WriteCommand) else b""
    try:
        return encode_frame(encode_envelope(request_id, row.number, row.request.encode(command), session_id, token))
    except (EncodeError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{row.name}: {error}") from None


def encode_pipeline(batch: Sequence[Command], request_id: int) -> bytes:
    """A whole frame that asks for several commands, to be run in order up to the first that fails.

    Raises:
        InvalidArgumentError, UnknownCommandError: as `encode_command`.
    """
    parts: list[bytes] = []
    for index, command in enumerate(batch):
        envelope = encode_command(command, index + 1)[HEADER.size :]
        parts += (b"\x0a", varint(len(envelope)), envelope)
    return encode_frame(encode_envelope(request_id, Number.PIPELINE, b"".join(parts)))


def decode_pipeline_reply(number: int, payload: bytes, batch: Sequence[Command]) -> list[Result | GibramError]:
    """What the server answered to a pipeline: results up to the first error, which is the last; or all of them.

    Raises:
        ProtocolError: if the reply is no answer to this pipeline, or undecodable.
    """
    try:
        if number == Number.ERROR:
            return [read_error(payload)]
        if number != Number.PIPELINE_RESPONSE:
            raise ProtocolError(f"PIPELINE was answered with {number}, expected {Number.PIPELINE_RESPONSE.value}")
        replies = [read_reply(body) for body in pb.PipelineRequest.FromString(payload).commands]
    except DecodeError as error:
        raise ProtocolError(f"undecodable reply to PIPELINE: {error}") from None
    if len(replies) > len(batch):
        raise ProtocolError(f"a pipeline of {len(batch)} commands was answered with {len(replies)} replies")
    for expected, reply in enumerate(replies, 1):  # as `encode_pipeline` numbers them
        if reply.request_id != expected:
            raise ProtocolError(f"in a pipeline, expected the answer to request {expected}, got {reply.request_id}")
    answers = [
        decode_reply(reply.number, reply.payload, command) for reply, command in zip(replies, batch, strict=False)
    ]
    ran = next((index for index, answer in enumerate(answers) if isinstance(answer, GibramError)), len(batch))
    # What was left out, or ran behind an error, can not be told from what was not carried out.
    if len(answers) != min(ran + 1, len(batch)):
        raise ProtocolError(
            f"a pipeline of {len(batch)} commands was answered with {len(answers)} replies, and not up to an error"
        )
    return answers


def decode_reply(number: int, payload: bytes, command: Command) -> Result | GibramError:
    """What the server answered: the result, or the error it refused with, as a value to be raised or kept.

    The error is of the class that `refusals.read_error` finds; the message is the server's.

    Raises:
        ProtocolError: if the reply is no answer to this command, or undecodable.
    """
    row = row_of(command)
    try:
        if number == Number.ERROR:
            return read_error(payload)
        if number != row.result.reply:
            raise ProtocolError(f"{row.name} was answered with {number}, expected {row.result.reply.value}")
        result = row.result.decode(payload)
    except DecodeError as error:
        raise ProtocolError(f"undecodable reply to {row.name}: {error}") from None
    if isinstance(result, Created) and len(result.ids) != (created := objects_created(command)):
        raise ProtocolError(f"{row.name} of {created} objects was answered with {len(result.ids)} ids")
    return result
