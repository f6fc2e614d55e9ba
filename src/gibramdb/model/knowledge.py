"""What a session holds, and what a caller hands in to be stored.

The five stored kinds carry their links (`textunit_ids`, `entity_ids`) only when they are answered to a caller; in the
store itself a link is a fact of its own, and these fields are empty.

Embeddings are bytes everywhere inside: little-endian float32, 4 bytes a number. Callers may hand in any sequence of
numbers or a numpy array; `New...` objects convert it once, when they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from gibramdb.errors import InvalidArgumentError, in_brief

Embedding = bytes | NDArray[np.floating] | Sequence[float]
"""A vector as a caller may give it; bytes are taken as little-endian float32."""

DOCUMENT_STATUS = "uploaded"
"""The only status a document has on the wire; no command changes it."""

DETECTED = "detected"
"""`Community.origin` of what an algorithm found; detection replaces only these."""
MADE_BY_HAND = "caller"
"""`Community.origin` of what a caller added; detection leaves it alone."""


class Document(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A source document. `textunit_ids` is filled when a single document is fetched."""

    id: int
    external_id: str
    filename: str
    created_at_ms: int
    textunit_ids: tuple[int, ...] = ()


class TextUnit(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A passage of a document."""

    id: int
    external_id: str
    document_id: int
    content: str
    token_count: int
    created_at_ms: int
    entity_ids: tuple[int, ...] = ()


class Entity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A thing the documents speak of. `title` is stored normalised: trimmed and upper-cased."""

    id: int
    external_id: str
    title: str
    type: str
    description: str
    created_at_ms: int
    textunit_ids: tuple[int, ...] = ()


class Relationship(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A directed, typed edge between two entities; unique by (source, target, type)."""

    id: int
    external_id: str
    source_id: int
    target_id: int
    type: str
    description: str
    weight: float
    created_at_ms: int


class Community(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A group of entities. Level 0 is the coarsest; `parent_id` is 0 at the top."""

    id: int
    external_id: str
    title: str
    summary: str
    full_content: str
    level: int
    entity_ids: tuple[int, ...]
    relationship_ids: tuple[int, ...]
    created_at_ms: int
    origin: str = MADE_BY_HAND
    parent_id: int = 0


_FLOAT32_ZERO_MAX = 2.0**-150
"""Up to here a number is nearer to 0 than to any other that a 32-bit float can hold."""


def to_float32(embedding: Embedding) -> bytes:
    """The embedding as little-endian float32 bytes.

    Raises:
        InvalidArgumentError: if it is not one-dimensional or does not consist of real numbers.
    """
    if isinstance(embedding, bytes):
        if len(embedding) % 4:
            raise InvalidArgumentError(f"embedding must have four bytes for each number, got {len(embedding)} bytes")
        return embedding
    if embedding is None:
        raise InvalidArgumentError("embedding must be a sequence of numbers, empty for none; got None")
    array = float32_array("embedding", embedding)
    if array.ndim != 1:
        raise InvalidArgumentError(f"embedding must have one dimension, got shape {array.shape}")
    return array.tobytes()


_NO_NUMBERS = (str, bytes, np.datetime64, np.timedelta64, np.complexfloating, np.void)
"""numpy makes floats of these all the same: of texts what they spell, of a complex number a part."""


def float32_array(name: str, given: Any) -> NDArray[np.float32]:
    """What is given under this name as an array of little-endian float32, of the shape that it has.

    Raises:
        InvalidArgumentError: it does not consist of real numbers.
    """
    types: set[type] = set()
    if isinstance(given, np.ndarray):
        types = set(map(type, given.flat)) if given.dtype.kind == "O" else {given.dtype.type} if given.size else types
    elif isinstance(given, list | tuple):
        types = set(map(type, given))
    if any(issubclass(each, _NO_NUMBERS) for each in types):
        raise InvalidArgumentError(f"{name} must consist of real numbers, got {in_brief(given)}")
    if np.ma.is_masked(given):
        raise InvalidArgumentError(f"{name} must consist of real numbers, got some that a mask hides")
    try:
        # A float too large for float32 becomes infinite here, and is then refused by name like any other infinity.
        with np.errstate(over="ignore"):
            return np.asarray(given, dtype="<f4")
    except OverflowError:  # a whole number is too large even for the float between
        raise InvalidArgumentError(f"{name} must consist of finite numbers, got one too large for a float") from None
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name} is not a sequence of numbers: {error}") from None


class NewDocument(msgspec.Struct, frozen=True, gc=False):
    """A document to add."""

    external_id: str
    filename: str = ""


class NewTextUnit(msgspec.Struct, frozen=True, gc=False):
    """A text unit to add. `embedding`: shape (vector_dim,), or empty for none."""

    external_id: str
    document_id: int
    content: str
    embedding: Embedding = b""
    token_count: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.embedding, bytes) or len(self.embedding) % 4:
            msgspec.structs.force_setattr(self, "embedding", to_float32(self.embedding))

    @property
    def vector(self) -> bytes:
        """The embedding as float32 bytes."""
        return cast("bytes", self.embedding)


class NewEntity(msgspec.Struct, frozen=True, gc=False):
    """An entity to add. `embedding`: shape (vector_dim,), or empty for none."""

    external_id: str
    title: str
    type: str = ""
    description: str = ""
    embedding: Embedding = b""

    def __post_init__(self) -> None:
        if not isinstance(self.embedding, bytes) or len(self.embedding) % 4:
            msgspec.structs.force_setattr(self, "embedding", to_float32(self.embedding))

    @property
    def vector(self) -> bytes:
        """The embedding as float32 bytes."""
        return cast("bytes", self.embedding)


class NewRelationship(msgspec.Struct, frozen=True, gc=False):
    """A relationship to add. A weight of 0 means 1.0, as on the wire."""

    source_id: int
    target_id: int
    type: str = ""
    description: str = ""
    weight: float = 1.0
    external_id: str = ""

    def __post_init__(self) -> None:
        weight: Any = self.weight  # whatever was given
        if isinstance(weight, float) and 0 < abs(weight) <= _FLOAT32_ZERO_MAX:
            raise InvalidArgumentError(f"weight {weight} is too small for a 32-bit float, and 0 means 1.0")


class NewCommunity(msgspec.Struct, frozen=True, gc=False):
    """A community to add by hand. `embedding`: shape (vector_dim,), or empty for none.

    The ids may come as anything that gives them one by one, a numpy array for example.
    """

    title: str
    entity_ids: tuple[int, ...] = ()
    relationship_ids: tuple[int, ...] = ()
    summary: str = ""
    full_content: str = ""
    level: int = 0
    external_id: str = ""
    embedding: Embedding = b""

    def __post_init__(self) -> None:
        for name in ("entity_ids", "relationship_ids"):
            ids = getattr(self, name)
            if not isinstance(ids, tuple | str | bytes) and isinstance(ids, Iterable):
                msgspec.structs.force_setattr(self, name, tuple(ids))
        if not isinstance(self.embedding, bytes) or len(self.embedding) % 4:
            msgspec.structs.force_setattr(self, "embedding", to_float32(self.embedding))

    @property
    def vector(self) -> bytes:
        """The embedding as float32 bytes."""
        return cast("bytes", self.embedding)
