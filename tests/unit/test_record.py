"""Decoding what was encoded gives it back; the bytes of each kind of mutation are frozen; anything else is refused."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gibramdb.errors import CorruptLogError
from gibramdb.model import mutations as m
from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit
from gibramdb.storage.record import decode, encode

KINDS: tuple[type[m.MutationBase], ...] = get_args(m.Mutation)

TEXT = st.text(max_size=12)
NUMBER = st.integers(0, 2**63 - 1)
IDS = st.lists(NUMBER, max_size=4).map(tuple)
VECTORS = st.binary(max_size=40)
OBJECTS = {
    Document: st.builds(Document, NUMBER, TEXT, TEXT, NUMBER, IDS),
    TextUnit: st.builds(TextUnit, NUMBER, TEXT, NUMBER, TEXT, NUMBER, NUMBER, IDS),
    Entity: st.builds(Entity, NUMBER, TEXT, TEXT, TEXT, TEXT, NUMBER, IDS),
    Relationship: st.builds(Relationship, NUMBER, TEXT, NUMBER, NUMBER, TEXT, TEXT, st.floats(allow_nan=False), NUMBER),
    m.KeptToken: st.builds(m.KeptToken, VECTORS, NUMBER, VECTORS, NUMBER, st.none() | NUMBER),
    Community: st.builds(Community, NUMBER, TEXT, TEXT, TEXT, TEXT, NUMBER, IDS, IDS, NUMBER, TEXT, NUMBER),
}


def _values(type_: object) -> st.SearchStrategy[object]:
    """Any value of a field's type, so that a new mutation is covered without anyone thinking of it."""
    simple: dict[object, st.SearchStrategy[object]] = {
        int: NUMBER,
        str: TEXT,
        bool: st.booleans(),
        bytes: VECTORS,
        tuple[int, ...]: IDS,
    }
    if type_ in simple:
        return simple[type_]
    if type_ in OBJECTS:
        return OBJECTS[type_]
    if isinstance(type_, type) and issubclass(type_, m.MutationBase):
        return _mutations(type_)
    items = get_args(type_)
    if items[-1] is type(None):
        return st.none() | st.one_of(*map(_values, items[:-1]))
    if items[-1] is ...:
        return st.lists(_values(items[0]), max_size=3).map(tuple)
    return st.tuples(*map(_values, items))


def _mutations(kind: type[m.MutationBase]) -> st.SearchStrategy[m.Mutation]:
    fields = {field.name: _values(field.type) for field in msgspec.structs.fields(kind)}
    return st.builds(kind, **fields)  # type: ignore[arg-type]  # each kind is a member of the union


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_decoding_what_was_encoded_gives_it_back(kind: type[m.MutationBase], data: st.DataObject) -> None:
    mutation = data.draw(_mutations(kind))
    assert decode(encode(mutation)) == mutation
    assert type(decode(encode(mutation))) is kind


BASE = ("tale", 1_700_000_000_000, False)
DOCUMENT = Document(1, "d", "f.txt", 2)
TEXTUNIT = TextUnit(2, "t", 1, "content", 3, 4)
ENTITY = Entity(3, "e", "TITLE", "type", "described", 5)
RELATIONSHIP = Relationship(4, "r", 3, 9, "knows", "well", 0.5, 6)
COMMUNITY = Community(5, "c", "title", "summary", "full", 1, (3, 9), (4,), 7, "detected", 8)
KEPT = m.KeptToken(b"once", 9, b"12345678", 3, 2)
VECTOR = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"

HEAD = "a474616c65cf0000018bcfe56800c2"
# The object as it lies inside a mutation.
K = "95c4046f6e636509c40831323334353637380302"
D = "9501a164a5662e7478740290"
T = "9702a17401a7636f6e74656e74030490"
E = "9703a165a55449544c45a474797065a96465736372696265640590"
R = "9804a1720309a56b6e6f7773a477656c6ccb3fe000000000000006"
C = "9b05a163a57469746c65a773756d6d617279a466756c6c019203099104" + "07a8646574656374656408"

FROZEN: list[tuple[m.Mutation, str]] = [
    (m.SessionDeleted(*BASE), f"9401{HEAD}"),
    (m.SessionExpired(*BASE), f"9402{HEAD}"),
    (m.SessionTtlSet(*BASE, 60_000, 0), f"9603{HEAD}cdea6000"),
    (m.SessionTouched(*BASE), f"9404{HEAD}"),
    (m.SessionReadNoted(*BASE), f"9405{HEAD}"),
    (m.SessionEnded(*BASE), f"9406{HEAD}"),
    (
        m.SessionRestored(*BASE, 7, 1, 2, 60_000, 0, True, (2, 3, 4, 5, 6, 7)),
        f"9b07{HEAD}070102cdea6000c396020304050607",
    ),
    (m.DocumentsAdded(*BASE, (DOCUMENT,)), f"950a{HEAD}91{D}"),
    (m.TextUnitsAdded(*BASE, (TEXTUNIT,), (2,), VECTOR), f"970b{HEAD}91{T}9102c4080000803f000000c0"),
    (m.EntitiesAdded(*BASE, (ENTITY,), (3,), VECTOR), f"970c{HEAD}91{E}9103c4080000803f000000c0"),
    (m.RelationshipsAdded(*BASE, (RELATIONSHIP,)), f"950d{HEAD}91{R}"),
    (m.CommunityAdded(*BASE, COMMUNITY, VECTOR), f"960e{HEAD}{C}c4080000803f000000c0"),
    (m.CommunitiesReplaced(*BASE, (1, 2), (COMMUNITY,)), f"960f{HEAD}92010291{C}"),
    (m.CommunitiesAdded(*BASE, (COMMUNITY,), (5,), VECTOR), f"9710{HEAD}91{C}9105c4080000803f000000c0"),
    (m.TextUnitLinked(*BASE, 2, 3), f"9614{HEAD}0203"),
    (m.TextUnitUnlinked(*BASE, 2, 3), f"9618{HEAD}0203"),
    (m.TextUnitsLinked(*BASE, 1, ((2, 3), (2, 4))), f"9616{HEAD}0192920203920204"),
    (m.EntityDescribed(*BASE, 3, "anew", b""), f"9715{HEAD}03a4616e6577c400"),
    (m.DocumentDeleted(*BASE, 1), f"951e{HEAD}01"),
    (m.TextUnitDeleted(*BASE, 2), f"951f{HEAD}02"),
    (m.EntityDeleted(*BASE, 3), f"9520{HEAD}03"),
    (m.RelationshipDeleted(*BASE, 4), f"9521{HEAD}04"),
    (m.CommunityDeleted(*BASE, 5), f"9522{HEAD}05"),
    (
        m.CascadeDeleted(*BASE, ((2, 3),), (COMMUNITY,), (4,), (3,), (2,), (1,)),
        f"9a23{HEAD}9192020391{C}9104910391029101",
    ),
    (m.TokensKept(*BASE, 8, (KEPT,)), f"9617{HEAD}0891{K}"),
    (m.WrittenOnce(*BASE, KEPT, m.DocumentDeleted(*BASE, 1)), f"9628{HEAD}{K}951e{HEAD}01"),
    (m.WrittenOnce(*BASE, msgspec.structs.replace(KEPT, created_count=None), None), f"9628{HEAD}{K[:-2]}c0c0"),
    (m.WrittenOnceInPlace(*BASE, KEPT, m.SessionTtlSet(*BASE, 60_000, 0)), f"9629{HEAD}{K}9603{HEAD}cdea6000"),
]
"""One of each kind, as it lies on disks that exist. A line here is added, never changed."""


@pytest.mark.parametrize(("mutation", "frozen"), FROZEN, ids=lambda value: type(value).__name__)
def test_the_layout_is_frozen(mutation: m.Mutation, frozen: str) -> None:
    assert encode(mutation).hex() == frozen
    assert decode(bytes.fromhex(frozen)) == mutation


def test_every_kind_is_frozen() -> None:
    assert {type(mutation) for mutation, _frozen in FROZEN} == set(KINDS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"\x80", "Expected `array`"),
        (bytes.fromhex("9463" + HEAD), "Invalid value 99"),
        (bytes.fromhex("9320" + HEAD[:-2]), "Expected `array`"),
        (bytes.fromhex("9401" + HEAD + "00"), "trailing"),
        (bytes.fromhex("9501" + HEAD + "00"), "at most"),
        (bytes.fromhex("9401a2ffff0000"), "(UTF|utf)-8"),
    ],
)
def test_what_is_no_mutation_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptLogError, match=rf"the record's {len(data)} bytes are not a mutation: .*{reason}"):
        decode(data)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_or_a_mutation(data: bytes) -> None:
    try:
        mutation = decode(data)
    except CorruptLogError:
        return
    assert isinstance(mutation, KINDS)
