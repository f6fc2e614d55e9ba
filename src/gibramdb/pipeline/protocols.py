"""What the parts of the pipeline say to each other: a source, what is found in it, and the three parts to replace.

A splitter, an extractor and an embedder are any objects with these methods; they need not inherit from anything here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

Kind = Literal["text", "markdown"]
"""How a source is marked up."""


class ExtractedEntity(msgspec.Struct, frozen=True, gc=False):
    """Something that a text speaks of.

    `title` is normalised by the store, so "Oslo" and "OSLO" are one. `description` is what the entity's vector is made
    from, beside the title; the first that is not empty stays. `textunits_min`: in how many text units of the run it
    must occur before it is stored; of several mentions the one that asks for least decides, and gives the type.
    """

    title: str
    type: str = ""
    description: str = ""
    textunits_min: int = 1


class ExtractedRelationship(msgspec.Struct, frozen=True, gc=False):
    """A directed, typed edge between two entities named by title; it is dropped where an end is not stored.

    Weights of one (source, target, type) add up over the text units. `textunits_min`: as for entities.
    """

    source: str
    target: str
    type: str = ""
    description: str = ""
    weight: float = 1.0
    textunits_min: int = 1


class Extraction(msgspec.Struct, frozen=True, gc=False):
    """What one text unit speaks of."""

    entities: tuple[ExtractedEntity, ...] = ()
    relationships: tuple[ExtractedRelationship, ...] = ()


class Source(msgspec.Struct, frozen=True, gc=False):
    """A document to index.

    external_id: names the document in the session; what is indexed already is recognised by it.
    subject: the title of what the whole document is about, if one thing; every text unit is linked to it.
    entities, relationships: what is known about the document without reading it. They are stored as stated: no minimum,
        no added weights. A stated entity is linked to the document's text units that contain its title.
    """

    external_id: str
    text: str
    kind: Kind = "text"
    filename: str = ""
    subject: str = ""
    entities: tuple[ExtractedEntity, ...] = ()
    relationships: tuple[ExtractedRelationship, ...] = ()


class Splitter(Protocol):
    """Cuts a document into passages."""

    def split(self, text: str, kind: Kind) -> Sequence[str]:
        """The passages in the order of the text; blank ones are left out by the pipeline."""
        ...


class Extractor(Protocol):
    """Finds what a passage speaks of. The same text must give the same answer, or a second run stores it again."""

    def extract(self, text: str) -> Extraction:
        """Entities, and relationships between them."""
        ...


class Embedder(Protocol):
    """Turns text into vectors."""

    @property
    def dim(self) -> int:
        """How many numbers a vector has; the store's vector dimension must be the same."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row for each text, shape (len(texts), dim)."""
        ...
