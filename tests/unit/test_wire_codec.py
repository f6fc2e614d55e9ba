"""Every command and every result comes back as it went, and what can not travel is refused by name."""

from __future__ import annotations

import inspect
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.wire_values import COMMANDS, RESULTS, results_of

from gibramdb import errors
from gibramdb.errors import (
    CallerError,
    GibramError,
    InvalidArgumentError,
    LimitExceededError,
    NotFoundError,
    ProtocolError,
    UnknownCommandError,
)
from gibramdb.model import commands as c
from gibramdb.model.ids import Lsn
from gibramdb.model.knowledge import NewDocument, NewEntity, NewTextUnit, TextUnit
from gibramdb.model.results import (
    Created,
    Done,
    Health,
    Objects,
    Page,
    QueryResult,
    QueryStats,
    SessionInfo,
    SessionPage,
    StoredEmbeddings,
    TextUnitHit,
)
from gibramdb.wire import gibramdb_pb2 as pb
from gibramdb.wire.codec import (
    BY_NUMBER,
    PIPELINE_COMMANDS_MAX,
    REPLY_PAYLOAD_BYTES_MAX,
    TABLE,
    CommandNumber,
    Request,
    Row,
    decode_command,
    decode_pipeline,
    decode_reply,
    decode_request,
    encode_auth_accepted,
    encode_command,
    encode_error,
    encode_pipeline_response,
    encode_reply,
    encode_result,
    read_reply,
    row_of,
)

INTERNAL = {c.ExpireSession, c.ReplaceCommunities}
"""The store's own: they have no number, and no caller can ask for them."""
BASES = {c.Command, c.RepeatableCommand, c.WriteCommand, c.ReadCommand, c.AdminCommand}

EVERY_ROW = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def body_of(command: c.Command, request_id: int = 7) -> bytes:
    return encode_command(command, request_id)[5:]


def request(number: int, payload: bytes = b"", session_id: str = "s") -> Request:
    return Request(1, 1, number, session_id, payload)


def decoded(number: int, payload: bytes) -> c.Command:
    return decode_command(request(number, payload))


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_command_is_in_the_table_or_the_stores_own() -> None:
    everything = {
        cls for _, cls in inspect.getmembers(c, inspect.isclass) if issubclass(cls, c.Command) and cls not in BASES
    }
    in_table = {row.request.command for row in TABLE}
    assert in_table | INTERNAL == everything
    assert not in_table & INTERNAL


def test_every_number_has_one_row_and_every_row_is_tested() -> None:
    assert len(BY_NUMBER) == len(TABLE)
    assert set(COMMANDS) == set(RESULTS) == set(BY_NUMBER)


def test_a_command_names_its_session_unless_its_rule_says_that_it_has_none() -> None:
    for row in TABLE:
        names_session = "session_id" in row.request.command.__struct_fields__
        assert names_session == (row.session_rule != "unused"), row.name


def test_no_reply_number_is_answered_as_a_command() -> None:
    replies = {row.result.reply for row in TABLE} | {CommandNumber.ERROR, CommandNumber.AUTH_RESPONSE}
    assert not replies & set(BY_NUMBER)


@pytest.mark.parametrize("command", [c.ExpireSession("s"), c.ReplaceCommunities("s", Lsn(1), (), False)])
def test_the_stores_own_commands_do_not_travel(command: c.Command) -> None:
    with pytest.raises(UnknownCommandError, match=type(command).__name__):
        encode_command(command, 1)


# --- there and back ---------------------------------------------------------------------------------------------------


@EVERY_ROW
@settings(max_examples=40)
@given(data=st.data(), request_id=st.integers(0, 2**64 - 1))
def test_a_command_comes_back_as_it_went(row: Row, data: st.DataObject, request_id: int) -> None:
    command = data.draw(COMMANDS[row.number])
    received = decode_request(body_of(command, request_id))
    assert (received.version, received.request_id, received.number) == (1, request_id, row.number)
    assert decode_command(received) == command
    assert row_of(command) is row


@EVERY_ROW
@settings(max_examples=40)
@given(data=st.data())
def test_a_result_comes_back_as_it_went(row: Row, data: st.DataObject) -> None:
    command = data.draw(COMMANDS[row.number])
    result = data.draw(results_of(command, row.number))
    number, payload = encode_result(result, request(row.number))
    reply = read_reply(encode_reply(9, number, payload)[5:])
    assert reply.request_id == 9
    assert decode_reply(reply.number, reply.payload, command) == result


@pytest.mark.parametrize("error_class", [errors.BY_CODE[code] for code in sorted(errors.BY_CODE)])
def test_an_error_comes_back_with_its_class_and_message(error_class: type[GibramError]) -> None:
    answer = decode_reply(CommandNumber.ERROR, encode_error(error_class("why, exactly")), c.Ping())
    assert type(answer) is error_class
    assert str(answer) == "why, exactly"


@pytest.mark.parametrize("code", [-1, 0, 999_999])
def test_an_error_without_a_code_of_ours_is_the_callers_and_keeps_its_message(code: int) -> None:
    answer = decode_reply(CommandNumber.ERROR, pb.Error(message="m", code=code).SerializeToString(), c.Ping())
    assert type(answer) is CallerError
    assert str(answer) == "m"


def test_every_code_is_positive_and_has_one_class() -> None:
    def below(cls: type[GibramError]) -> list[type[GibramError]]:
        return [cls, *[found for child in cls.__subclasses__() for found in below(child)]]

    assert set(errors.BY_CODE.values()) == set(below(GibramError))
    assert min(errors.BY_CODE) > 0


def test_text_that_has_no_utf8_form_is_spelled_out_in_errors_and_health() -> None:
    name = b"caf\xe9.json".decode("utf-8", "surrogateescape")
    answer = decode_reply(CommandNumber.ERROR, encode_error(NotFoundError(name)), c.Ping())
    assert str(answer) == r"caf\udce9.json"
    _, payload = encode_result(Health("ok", {"reason": name}), request(CommandNumber.HEALTH))
    assert decode_reply(CommandNumber.HEALTH_RESPONSE, payload, c.GetHealth()) == Health(
        "ok", {"reason": r"caf\udce9.json"}
    )


# --- the bytes of GibRAM 0.3.0 ----------------------------------------------------------------------------------------


def hexed(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize(
    ("frame", "request_id", "command"),
    [
        (hexed("01 00000009 08 01 10 01 18 01 2a 01 73"), 1, c.Ping()),
        (
            hexed("01 00000016 08 01 10 02 18 0a 22 0b 0a 02 64 31 12 05 61 2e 74 78 74 2a 01 73"),
            2,
            c.AddDocuments("s", (NewDocument("d1", "a.txt"),), bulk=False),
        ),
    ],
)
def test_request_vectors(frame: bytes, request_id: int, command: c.Command) -> None:
    received = decode_request(frame[5:])
    assert int.from_bytes(frame[1:5], "big") == len(frame) - 5
    assert received.request_id == request_id
    assert received.session_id == "s"
    assert decode_command(received) == command


def test_a_request_of_ours_is_the_vector_byte_for_byte() -> None:
    command = c.AddDocuments("s", (NewDocument("d1", "a.txt"),), bulk=False)
    assert encode_command(command, 2) == hexed(
        "01 00000016 08 01 10 02 18 0a 22 0b 0a 02 64 31 12 05 61 2e 74 78 74 2a 01 73"
    )


@pytest.mark.parametrize(
    ("number", "request_id", "result", "frame"),
    [
        (CommandNumber.ADD_DOCUMENT, 2, Created((1,), bulk=False), "01 0000000a 08 01 10 02 18 06 22 02 08 01"),
        (CommandNumber.TOUCH_SESSION, 5, Done(), "01 00000006 08 01 10 05 18 06"),
        (CommandNumber.LIST_ENTITIES, 9, Page(()), "01 00000006 08 01 10 09 18 58"),
    ],
)
def test_reply_vectors(number: int, request_id: int, result: Any, frame: str) -> None:
    assert encode_reply(request_id, *encode_result(result, request(number))) == hexed(frame)


def test_the_not_found_vector_differs_in_its_code_alone() -> None:
    reference = hexed("01 00000027 08 01 10 03 18 05 22 1f 0a 12") + b"document not found"
    reference += hexed("10 ff ff ff ff ff ff ff ff ff 01")
    theirs = read_reply(reference[5:])
    assert (theirs.request_id, theirs.number) == (3, CommandNumber.ERROR)
    assert pb.Error.FromString(theirs.payload) == pb.Error(message="document not found", code=-1)
    ours = encode_error(NotFoundError("document not found"))
    assert pb.Error.FromString(ours) == pb.Error(message="document not found", code=1002)


def test_auth_without_keys_is_a_welcome() -> None:
    auth = hexed("01 0000000b 08 01 10 01 18 78 22 03 0a 01 6b")
    assert decode_request(auth[5:]) == Request(1, 1, CommandNumber.AUTH, "", b"\x0a\x01k")
    number, payload = encode_auth_accepted()
    assert number == 121
    assert pb.AuthResponse.FromString(payload) == pb.AuthResponse(success=True, message="authenticated")


def test_a_truncation_is_read_as_the_message_and_as_eight_raw_bytes() -> None:
    for payload in (pb.WALTruncateRequest(target_lsn=4_096).SerializeToString(), (4_096).to_bytes(8, "big")):
        assert decoded(CommandNumber.WAL_TRUNCATE, payload) == c.TruncateLog(4_096)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 2, 5, 6, 13, 57, 75, 88, 109, 119, 120, 121, 203, 299, 2**31 - 1, -1])
def test_a_number_outside_the_table_is_refused_in_decimal(number: int) -> None:
    with pytest.raises(UnknownCommandError, match=f"^unknown command: {number}$"):
        decoded(number, b"")


def test_an_unknown_number_in_an_envelope_stays_that_number() -> None:
    assert decode_request(pb.Envelope(cmd_type=-5).SerializeToString()).number == -5


@EVERY_ROW
def test_a_missing_session_id_is_refused_where_the_rule_needs_one(row: Row) -> None:
    empty = request(row.number, session_id="")
    if row.session_rule in {"required", "created"}:
        with pytest.raises(InvalidArgumentError, match=r"^session_id is required$"):
            decode_command(empty)
    else:
        assert isinstance(decode_command(empty), row.request.command)


def test_an_undecodable_payload_names_its_command() -> None:
    with pytest.raises(InvalidArgumentError, match=r"^ADD_ENTITY: undecodable payload"):
        decoded(CommandNumber.ADD_ENTITY, b"\x0a\xff")
    with pytest.raises(InvalidArgumentError, match=r"^GET_ENTITY_BY_TITLE: undecodable payload"):
        decoded(CommandNumber.GET_ENTITY_BY_TITLE, b"\x0a\x01\xff")


def test_an_undecodable_envelope_is_a_fault_of_the_peer() -> None:
    with pytest.raises(ProtocolError, match="undecodable envelope"):
        decode_request(b"\x2a\x01\xff")


BIG = "é" * 6
"""12 bytes of UTF-8 in 6 characters."""


@pytest.mark.parametrize(
    "command",
    [
        c.GetDocument("s", -1),
        c.GetDocument("s", 2**64),
        c.SetSessionTtl("s", 2**63),
        c.AddTextUnits("s", (NewTextUnit("e", 1, "", token_count=2**31),)),
        c.GetEntityByTitle("s", "\ud800"),
        c.TouchSession("\ud800"),
    ],
)
def test_a_value_without_a_form_on_the_wire_is_refused_before_it_is_sent(command: c.Command) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{row_of(command).name}: "):
        encode_command(command, 1)


def test_a_request_id_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="PING"):
        encode_command(c.Ping(), -1)


@pytest.mark.parametrize("count", [0, 2])
def test_a_command_for_one_object_holds_one(count: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{count} documents in a command for one"):
        encode_command(c.AddDocuments("s", (NewDocument("d"),) * count, bulk=False), 1)


def test_a_reply_to_another_command_is_a_fault_of_the_peer() -> None:
    with pytest.raises(ProtocolError, match="PING was answered with 6, expected 2"):
        decode_reply(CommandNumber.OK, b"", c.Ping())
    with pytest.raises(ProtocolError, match="undecodable reply to GET_ENTITY"):
        decode_reply(CommandNumber.ENTITY_RESPONSE, b"\xff", c.GetEntity("s", 1))


# --- embeddings -------------------------------------------------------------------------------------------------------

VALUES = (1.5, -0.0, 3.25e-38)
PACKED = struct.pack("<3f", *VALUES)

EMBEDDED = [
    (CommandNumber.ADD_TEXTUNIT, 4, lambda command: command.textunits[0].embedding),
    (CommandNumber.ADD_ENTITY, 5, lambda command: command.entities[0].embedding),
    (CommandNumber.UPDATE_ENTITY_DESC, 3, lambda command: command.embedding),
    (CommandNumber.ADD_COMMUNITY, 8, lambda command: command.community.embedding),
    (CommandNumber.QUERY, 1, lambda command: command.vector),
]
EVERY_EMBEDDING = pytest.mark.parametrize(("number", "field", "vector_of"), EMBEDDED)


def packed_field(field: int, chunk: bytes) -> bytes:
    return bytes((field << 3 | 2, len(chunk))) + chunk


def unpacked_field(field: int, value: bytes) -> bytes:
    return bytes((field << 3 | 5,)) + value


@EVERY_EMBEDDING
def test_packed_floats_in_one_chunk_or_several_are_one_vector(number: int, field: int, vector_of: Any) -> None:
    assert vector_of(decoded(number, packed_field(field, PACKED))) == PACKED
    halves = packed_field(field, PACKED[:4]) + packed_field(field, b"") + packed_field(field, PACKED[4:])
    assert vector_of(decoded(number, halves)) == PACKED


@EVERY_EMBEDDING
def test_unpacked_floats_are_the_same_vector(number: int, field: int, vector_of: Any) -> None:
    payload = b"".join(unpacked_field(field, PACKED[i : i + 4]) for i in range(0, 12, 4))
    assert vector_of(decoded(number, payload)) == PACKED


@EVERY_EMBEDDING
def test_unknown_fields_are_not_taken_for_floats(number: int, field: int, vector_of: Any) -> None:
    stranger = bytes.fromhex("e50701020304")  # field 124, also of four bytes
    assert vector_of(decoded(number, packed_field(field, PACKED) + stranger)) == PACKED
    assert vector_of(decoded(number, stranger)) == b""


@EVERY_EMBEDDING
@pytest.mark.parametrize("chunks", [[3], [5], [2, 2], [4, 1], [6, 2]])
def test_a_chunk_cut_inside_a_float_is_refused(number: int, field: int, vector_of: Any, chunks: list[int]) -> None:
    payload = b"".join(packed_field(field, bytes(size)) for size in chunks)
    with pytest.raises(InvalidArgumentError, match=r"undecodable payload: .*'gibramdb\.wire\.v1\."):
        decoded(number, payload)


@EVERY_EMBEDDING
def test_a_mixture_of_both_forms_is_read_in_the_order_in_which_it_came(number: int, field: int, vector_of: Any) -> None:
    one, *rest = (PACKED[i : i + 4] for i in range(0, 12, 4))
    for sent in (
        packed_field(field, one + rest[0]) + unpacked_field(field, rest[1]),
        unpacked_field(field, one) + packed_field(field, b"".join(rest)),
        unpacked_field(field, one) + packed_field(field, rest[0]) + unpacked_field(field, rest[1]),
    ):
        assert vector_of(decoded(number, sent)) == PACKED


@EVERY_EMBEDDING
def test_no_bit_of_a_float_changes(number: int, field: int, vector_of: Any) -> None:
    odd = bytes.fromhex("010080ff 0100c0ff 00000080 01000000".replace(" ", ""))  # NaNs of two kinds, -0.0, a subnormal
    assert vector_of(decoded(number, packed_field(field, odd))) == odd
    unpacked = b"".join(unpacked_field(field, odd[i : i + 4]) for i in range(0, 16, 4))
    assert vector_of(decoded(number, unpacked)) == odd


def test_unpacked_floats_inside_a_bulk_request_are_read() -> None:
    item = b"\x0a\x01e" + unpacked_field(5, PACKED[:4])
    command = decoded(CommandNumber.MSET_ENTITIES, packed_field(1, item) * 2)
    assert command == c.AddEntities("s", (NewEntity("e", "", embedding=PACKED[:4]),) * 2)


def test_an_embedding_is_sent_as_one_packed_chunk() -> None:
    command = c.AddEntities("s", (NewEntity("", "", embedding=VALUES),), bulk=False)
    assert decode_request(body_of(command)).payload == packed_field(5, PACKED)


# --- large replies ----------------------------------------------------------------------------------------------------

LARGE = tuple(TextUnit(id, "", 1, "x" * 1_000_000, 0, 0) for id in range(11, 81))


def test_a_page_too_large_for_a_reply_ends_early_and_says_where_to_go_on() -> None:
    _, payload = encode_result(Page(LARGE, next_cursor=999), request(CommandNumber.LIST_TEXTUNITS))
    assert len(payload) <= REPLY_PAYLOAD_BYTES_MAX
    page = decode_reply(CommandNumber.TEXTUNITS_RESPONSE, payload, c.ListTextUnits("s"))
    assert isinstance(page, Page)
    assert page.items == LARGE[: len(page.items)]
    assert len(page.items) == 67
    assert page.next_cursor == page.items[-1].id


@pytest.mark.parametrize(("count", "following", "fit"), [(70, "", 15), (16, "", 16), (16, "z", 16), (16, "long", 15)])
def test_sessions_too_large_for_a_reply_are_cut_with_room_for_the_cursor(count: int, following: str, fit: int) -> None:
    """16 such names fit, and no 17th, be it a session's or the cursor."""
    names = [f"{number:02}".ljust(4_194_000, "x") for number in range(count)]
    sessions = tuple(SessionInfo(name, 0, 0, 0, 0, 0, 0, 0, 0, 0) for name in names)
    following = names[-1] if following == "long" else following
    _, payload = encode_result(SessionPage(sessions, following), request(CommandNumber.LIST_SESSIONS))
    assert len(payload) <= REPLY_PAYLOAD_BYTES_MAX
    page = decode_reply(CommandNumber.OK, payload, c.ListSessions())
    assert isinstance(page, SessionPage)
    assert page.items == sessions[:fit]
    assert page.next_cursor == (following if fit == count else names[fit - 1])


def test_objects_too_large_for_a_reply_are_refused_and_not_left_out() -> None:
    with pytest.raises(LimitExceededError, match="reply too large: 70 objects, of which the first 67 fit"):
        encode_result(Objects(LARGE), request(CommandNumber.MGET_TEXTUNITS))


def test_a_query_result_too_large_for_a_reply_is_refused() -> None:
    hits = tuple(TextUnitHit(textunit, 0.5, 0) for textunit in LARGE)
    with pytest.raises(LimitExceededError, match="reply too large: 70"):
        encode_result(QueryResult(1, hits, (), (), (), QueryStats()), request(CommandNumber.QUERY))


def test_embeddings_too_large_for_a_reply_are_refused() -> None:
    found = StoredEmbeddings((1, 2), memoryview(bytes(REPLY_PAYLOAD_BYTES_MAX)), REPLY_PAYLOAD_BYTES_MAX // 8)
    with pytest.raises(LimitExceededError, match="reply too large: 67108"):
        encode_result(found, request(CommandNumber.GET_EMBEDDINGS))


@pytest.mark.parametrize(("ids", "size_bytes", "vector_dim"), [((1,), 4, 2), ((1, 2), 8, 2), ((), 4, 1), ((), 0, 0)])
def test_embeddings_that_are_not_one_for_each_id_are_no_answer(
    ids: tuple[int, ...], size_bytes: int, vector_dim: int
) -> None:
    reply = pb.EmbeddingsResponse(ids=ids, vectors=bytes(size_bytes), vector_dim=vector_dim).SerializeToString()
    with pytest.raises(ProtocolError, match=f"{size_bytes} bytes are not {len(ids)} embeddings"):
        decode_reply(CommandNumber.EMBEDDINGS_RESPONSE, reply, c.GetEmbeddings("s", "entity", ids))


def test_query_stats_are_present_even_when_they_are_empty() -> None:
    _, payload = encode_result(QueryResult(0, (), (), (), (), QueryStats()), request(CommandNumber.QUERY))
    assert pb.QueryResponse.FromString(payload).HasField("stats")


# --- pipelines --------------------------------------------------------------------------------------------------------


def pipeline(*bodies: bytes) -> bytes:
    return pb.PipelineRequest(commands=bodies).SerializeToString()


def test_a_pipeline_holds_requests_which_inherit_the_session_if_they_name_none() -> None:
    inner = pb.Envelope(request_id=4, cmd_type=CommandNumber.TOUCH_SESSION).SerializeToString()
    named = body_of(c.TouchSession("mine"))
    requests = decode_pipeline(pipeline(inner, named), "outer")
    assert [decode_command(each) for each in requests] == [
        c.TouchSession("outer"),
        c.TouchSession("mine"),
    ]
    assert [each.request_id for each in requests] == [4, 7]
    with pytest.raises(InvalidArgumentError, match="session_id is required"):
        decode_command(decode_pipeline(pipeline(inner))[0])


def test_a_pipeline_inside_of_a_pipeline_is_refused_and_so_is_auth() -> None:
    nested = pb.Envelope(cmd_type=CommandNumber.PIPELINE, payload=pipeline(body_of(c.Ping()))).SerializeToString()
    auth = pb.Envelope(cmd_type=CommandNumber.AUTH).SerializeToString()
    first, second = decode_pipeline(pipeline(nested, auth))
    with pytest.raises(LimitExceededError, match="pipeline too deep"):
        decode_command(first)
    with pytest.raises(UnknownCommandError, match="unknown command: 120"):
        decode_command(second)


def test_a_pipeline_holds_as_many_commands_as_its_limit_and_no_more() -> None:
    ping = body_of(c.Ping())
    assert len(decode_pipeline(pipeline(*[ping] * PIPELINE_COMMANDS_MAX))) == PIPELINE_COMMANDS_MAX
    with pytest.raises(LimitExceededError, match=r"commands too many: 10001 \(max: 10000\)"):
        decode_pipeline(pipeline(*[ping] * (PIPELINE_COMMANDS_MAX + 1)))


def test_an_undecodable_pipeline_is_refused_whole() -> None:
    with pytest.raises(InvalidArgumentError, match="PIPELINE: undecodable payload"):
        decode_pipeline(b"\xff")
    with pytest.raises(InvalidArgumentError, match=r"PIPELINE: commands\[1\]: undecodable envelope"):
        decode_pipeline(pipeline(body_of(c.Ping()), b"\xff"))


def test_the_replies_of_a_pipeline_stand_in_order() -> None:
    replies = [(1, 2, b""), (2**63, 6, b"\x08\x01"), (0, 5, b"x" * 300)]
    assert pb.PipelineResponse.FromString(encode_pipeline_response(replies)) == pb.PipelineResponse(
        responses=[
            pb.Envelope(version=1, request_id=request_id, cmd_type=number, payload=payload)
            for request_id, number, payload in replies
        ]
    )
