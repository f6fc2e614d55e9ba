"""What GibRAM writes, as values: JSON to objects, one at a time, each checked for its form.

Field names are compared as GibRAM's own reader compares them, without regard to case, and without underscores besides.
`null` is an absent field. A field that is not known is refused and not passed over: it could hold data.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Collection, Iterator
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Raw

from gibramdb.model.knowledge import DETECTED, MADE_BY_HAND, Community, Document, Entity, Relationship, TextUnit

T = TypeVar("T")

Kind = Literal["document", "textunit", "entity", "relationship", "community"]
KINDS: tuple[Kind, ...] = ("document", "textunit", "entity", "relationship", "community")
NOUNS: dict[Kind, str] = {
    "document": "document",
    "textunit": "text unit",
    "entity": "entity",
    "relationship": "relationship",
    "community": "community",
}

ID_MAX = 2**31 - 1
"""Ids count what a session ever held, and place is kept by id: a larger one is damage, and would cost the memory."""

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoder raises; the last is for brackets within brackets, thousands deep."""

_SECONDS_MAX = 10**11
"""The year 5138. Nanoseconds or milliseconds in the place of seconds lie far beyond it."""

_FLOAT32 = struct.Struct("<f")
_NULL = frozenset((b"null",))
_EMPTY = _NULL | {b"[]", b"{}", b'""', b"0", b"false"}
_LITERAL_BYTES_MAX = 5
# Searched in this order, because "entity" is only told from "document" and "community" once these are ruled out.
_COUNTER_WORDS: tuple[tuple[str, Kind], ...] = (
    ("doc", "document"),
    ("comm", "community"),
    ("unit", "textunit"),
    ("rel", "relationship"),
    ("ent", "entity"),
)

_Id = Annotated[int, Meta(ge=1, le=ID_MAX)]
_Seconds = Annotated[int, Meta(ge=0, lt=_SECONDS_MAX)]
_Int32 = Annotated[int, Meta(ge=-(2**31), lt=2**31)]


class UnfitError(Exception):
    """What was expected and what is there; whoever knows the file and the place makes the refusal of it."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")


@functools.lru_cache(maxsize=1024)
def folded(name: str) -> str:
    """A field name in the form in which names are compared."""
    return name.replace("_", "").lower()


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=folded, gc=False):
    """Base of the five kinds as GibRAM writes them."""

    id: _Id
    created_at: _Seconds = 0

    @property
    def created_at_ms(self) -> int:
        return self.created_at * 1000


F = TypeVar("F", bound=_Form)


class DocumentForm(_Form, frozen=True, kw_only=True):
    """`textunit_ids` says nothing that the text units do not say."""

    external_id: Annotated[str, Meta(min_length=1)]
    filename: str = ""
    status: str = ""
    textunit_ids: tuple[int, ...] = ()

    def value(self) -> Document:
        """The document, without what has no place here."""
        return Document(self.id, self.external_id, self.filename, self.created_at_ms)


class TextUnitForm(_Form, frozen=True, kw_only=True):
    """`entity_ids`: its links, in the order of linking."""

    external_id: Annotated[str, Meta(min_length=1)]
    document_id: _Id
    content: str = ""
    token_count: _Int32 = 0
    entity_ids: tuple[_Id, ...] = ()

    def value(self) -> TextUnit:
        """The text unit; links are facts of their own."""
        return TextUnit(self.id, self.external_id, self.document_id, self.content, self.token_count, self.created_at_ms)


class EntityForm(_Form, frozen=True, kw_only=True):
    """`textunit_ids`: its links, in the order of linking."""

    external_id: Annotated[str, Meta(min_length=1)]
    title: str = ""
    type: str = ""
    description: str = ""
    textunit_ids: tuple[_Id, ...] = ()

    def value(self) -> Entity:
        """The entity; links are facts of their own."""
        return Entity(self.id, self.external_id, self.title, self.type, self.description, self.created_at_ms)


class RelationshipForm(_Form, frozen=True, kw_only=True):
    """A weight is a float32 written in decimals; 0 means 1.0, as everywhere in GibRAM."""

    source_id: _Id
    target_id: _Id
    external_id: str = ""
    type: str = ""
    description: str = ""
    weight: float = 0.0

    def value(self) -> Relationship:
        """The relationship, with the weight that was meant by the decimals."""
        try:
            weight: float = _FLOAT32.unpack(_FLOAT32.pack(self.weight))[0]
        except OverflowError:
            weight = math.inf
        if not math.isfinite(weight):
            raise UnfitError("a weight that fits in a 32-bit float", str(self.weight))
        return Relationship(
            self.id,
            self.external_id,
            self.source_id,
            self.target_id,
            self.type,
            self.description,
            weight or 1.0,
            self.created_at_ms,
        )


class CommunityForm(_Form, frozen=True, kw_only=True):
    """GibRAM does not say which communities were detected; what only a detection leaves empty tells."""

    external_id: str = ""
    title: str = ""
    summary: str = ""
    full_content: str = ""
    level: _Int32 = 0
    entity_ids: tuple[_Id, ...] = ()
    relationship_ids: tuple[_Id, ...] = ()

    def value(self, vector: bytes) -> Community:
        """The community, with its origin."""
        by_hand = self.created_at or self.external_id or self.summary or self.full_content or vector
        return Community(
            self.id,
            self.external_id,
            self.title,
            self.summary,
            self.full_content,
            self.level,
            self.entity_ids,
            self.relationship_ids,
            self.created_at_ms,
            MADE_BY_HAND if by_hand else DETECTED,
        )


def decoded(raw: bytes | Raw, type_: type[T]) -> T:
    """A JSON value of a type.

    Raises:
        UnfitError: it is not JSON, or of another type.
    """
    try:
        return msgspec.json.decode(raw, type=type_)
    except NOT_JSON as error:
        raise UnfitError("JSON of the documented form", str(error)) from None


def form(raw: Raw, type_: type[T]) -> T:
    """One object.

    Raises:
        UnfitError: a field is missing, unknown, there twice, or out of its range.
    """
    values = _folded_once(decoded(raw, dict[str, object]))
    try:
        return msgspec.convert({name: value for name, value in values.items() if value is not None}, type_)
    except msgspec.ValidationError as error:
        raise UnfitError("an object of the documented form", str(error)) from None


def fields(raw: bytes | Raw, known: Collection[str], required: Collection[str] = ()) -> dict[str, Raw]:
    """The fields of an object, still as JSON, by folded name; those that are `null` are absent.

    `known` and `required` are folded names. A field that is not known may be there if it is empty.

    Raises:
        UnfitError: it is not an object, or has not these fields.
    """
    found = _folded_once(decoded(raw, dict[str, Raw]))
    for name, value in list(found.items()):
        if _is_one_of(value, _NULL) or (name not in known and is_empty(value)):
            del found[name]
    for name in found:
        if name not in known:
            raise UnfitError(f"only the fields {', '.join(sorted(known))}", f"the field {name}")
    for name in required:
        if name not in found:
            raise UnfitError(f"the field {name}", f"the fields {', '.join(sorted(found)) or '(none)'}")
    return found


def is_empty(value: Raw) -> bool:
    """Whether a field says no more than if it were absent."""
    return _is_one_of(value, _EMPTY)


def objects(raw: Raw | None) -> list[tuple[int | None, Raw]]:
    """The objects of one kind: a list of them, or a map by id. With each, the id it must have, where that is known.

    Raises:
        UnfitError: it is neither.
    """
    if raw is None:
        return []
    if bytes(memoryview(raw)[:1]) == b"{":
        return [(id, value) for id, value in decoded(raw, dict[int, Raw]).items()]
    return [(None, value) for value in decoded(raw, list[Raw])]


def id_of(raw: Raw) -> int:
    """The id of one object, before all of it is looked at.

    Raises:
        UnfitError: it has none.
    """
    id = _folded_once(decoded(raw, dict[str, Raw])).get("id")
    if id is None:
        raise UnfitError("an object with an id", "one without")
    return decoded(id, int)


def vector(raw: Raw | None) -> bytes:
    """One embedding as float32 bytes; empty where there is none.

    Raises:
        UnfitError: it does not consist of numbers that are finite as float32.
    """
    if raw is None:
        return b""
    with np.errstate(over="ignore"):
        array = np.array(() if _is_one_of(raw, _NULL) else decoded(raw, list[float]), dtype="<f4")
    finite = np.isfinite(array)
    if not finite.all():
        raise UnfitError("an embedding of finite numbers", f"one that is not at index {int(np.argmin(finite))}")
    return array.tobytes()


def vectors_by_id(raw: Raw | None) -> dict[int, bytes]:
    """Embeddings by id; those that are empty are none.

    Raises:
        UnfitError: it is not a map of ids to embeddings.
    """
    if raw is None:
        return {}
    found = ((id, vector(value)) for id, value in decoded(raw, dict[int, Raw]).items())
    return {id: row for id, row in found if row}


def vectors_beside(raw: Raw | None, ids: list[int]) -> dict[int, bytes]:
    """Embeddings given beside a list of objects: one for each, in their order, or a map by id.

    Raises:
        UnfitError: they are not as many, or are for other objects.
    """
    if raw is None or bytes(memoryview(raw)[:1]) == b"{":
        found = vectors_by_id(raw)
        for id in found.keys() - set(ids):
            raise UnfitError("embeddings for the objects of the same record", f"one for id {id}")
        return found
    rows = decoded(raw, list[Raw])
    if rows and len(rows) != len(ids):
        raise UnfitError(f"{len(ids)} embeddings, one for each object", str(len(rows)))
    return {id: row for id, row in zip(ids, map(vector, rows), strict=False) if row}


def counters(raw: Raw | None) -> Iterator[tuple[Kind, int]]:
    """How far the ids of each kind had been given out.

    Raises:
        UnfitError: it is not a map of names to numbers, or a name speaks of no kind.
    """
    if raw is None:
        return
    for name, number in _folded_once(decoded(raw, dict[str, int])).items():
        kind = next((kind for word, kind in _COUNTER_WORDS if word in name), None)
        if kind is None:
            if "query" in name:
                continue  # numbers answers to queries; those are gone with the process
            raise UnfitError("id counters of the five kinds", f"the counter {name}")
        if not 0 <= number <= ID_MAX:
            raise UnfitError(f"an id counter from 0 to {ID_MAX}", f"{number} for {name}")
        yield kind, number


def _is_one_of(value: Raw, literals: frozenset[bytes]) -> bool:
    view = memoryview(value)  # a value can be most of the file: it is not copied to be compared
    return len(view) <= _LITERAL_BYTES_MAX and bytes(view) in literals


def _folded_once(values: dict[str, T]) -> dict[str, T]:
    result = {folded(name): value for name, value in values.items()}
    if len(result) != len(values):
        raise UnfitError("each field once", f"two spellings of one among {', '.join(values)}")
    return result
