"""What a set of sources holds: passages, and the entities and relationships in them, counted over all of them.

Pure: splits and extracts, stores nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence

import msgspec

from gibramdb.core.titles import is_blank, normalise_title
from gibramdb.errors import InvalidArgumentError
from gibramdb.pipeline.protocols import ExtractedEntity, ExtractedRelationship, Extractor, Source, Splitter

HASH_CHARS = 12
"""Of a text's SHA-256 in an external id: 48 bits, compared within one document, or for one title, only."""
STATED = 0
"""`textunits_min` of what a source states: it needs no text unit at all."""

_GAPS = re.compile(r"\W+")

Triple = tuple[str, str, str]
"""Source and target by normalised title, and the type of a relationship."""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """How far a stage is: "split", "extract", "documents", "entities", "relationships", then "textunits"."""

    stage: str
    done: int
    total: int


class Passage(msgspec.Struct, frozen=True, gc=False):
    """A text unit to be. `titles`: normalised, of all that it speaks of, stored or not."""

    external_id: str
    document: str
    text: str
    titles: tuple[str, ...]


class Corpus(msgspec.Struct, frozen=True, gc=False):
    """The sources, what they are cut into, and what occurs in them often enough."""

    sources: tuple[Source, ...]
    passages: tuple[Passage, ...]
    entities: dict[str, ExtractedEntity]
    relationships: dict[Triple, ExtractedRelationship]


class _Counted(msgspec.Struct, gc=False):
    entity: ExtractedEntity
    textunits: int = 0


class _Edge(msgspec.Struct, gc=False):
    description: str
    weight: float
    textunits_min: int
    textunits: int = 0


def read(
    sources: Sequence[Source], splitter: Splitter, extractor: Extractor, progress: Callable[[Progress], None]
) -> Corpus:
    """Splits and extracts all of the sources.

    Raises:
        InvalidArgumentError: if two sources have the same external id, or one is blank.
    """
    _check(sources)
    cut: list[tuple[Source, str]] = []
    for done, source in enumerate(sources, 1):
        # A passage that a document repeats is one text unit.
        cut += [
            (source, text) for text in dict.fromkeys(splitter.split(source.text, source.kind)) if not is_blank(text)
        ]
        progress(Progress("split", done, len(sources)))
    counted: dict[str, _Counted] = {}
    edges: dict[Triple, _Edge] = {}
    stated_titles = {source.external_id: _state(source, counted, edges) for source in sources}
    passages: list[Passage] = []
    for done, (source, text) in enumerate(cut, 1):
        extraction = extractor.extract(text)
        titles = {normalise_title(source.subject): None} if source.subject else {}
        titles.update(_count_entities(extraction.entities, counted))
        _count_relationships(extraction.relationships, edges)
        titles.update(dict.fromkeys(_named_in(text, stated_titles[source.external_id])))
        passages.append(Passage(tagged(source.external_id, text), source.external_id, text, tuple(titles)))
        progress(Progress("extract", done, len(cut)))
    return Corpus(
        sources=tuple(sources),
        passages=tuple(passages),
        entities={title: each.entity for title, each in counted.items() if each.textunits >= each.entity.textunits_min},
        relationships={
            triple: ExtractedRelationship(*triple, edge.description, edge.weight)
            for triple, edge in edges.items()
            if edge.textunits >= edge.textunits_min
        },
    )


def tagged(name: str, text: str) -> str:
    """An external id with a hash of the text in it, which nobody else gives to anything by accident."""
    return f"{name}#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:HASH_CHARS]}"


def _check(sources: Sequence[Source]) -> None:
    seen: set[str] = set()
    for source in sources:
        if is_blank(source.external_id):
            raise InvalidArgumentError("a source has a blank external id")
        if source.external_id in seen:
            raise InvalidArgumentError(f"two sources have the external id {source.external_id!r}")
        seen.add(source.external_id)


def _state(source: Source, counted: dict[str, _Counted], edges: dict[Triple, _Edge]) -> tuple[str, ...]:
    """Notes what the source states, and answers the normalised titles of all its entities."""
    stated = list(source.entities)
    if source.subject:
        stated.append(ExtractedEntity(source.subject))
    for each in source.relationships:
        stated += (ExtractedEntity(each.source), ExtractedEntity(each.target))
        triple = (normalise_title(each.source), normalise_title(each.target), each.type)
        edge = edges.setdefault(triple, _Edge(each.description, each.weight, STATED))
        edge.weight = max(edge.weight, each.weight)
        edge.description = edge.description or each.description
    titles: dict[str, None] = {}
    for entity in stated:
        title = normalise_title(entity.title)
        titles[title] = None
        _note(title, msgspec.structs.replace(entity, textunits_min=STATED), counted)
    return tuple(titles)


def _count_entities(entities: Sequence[ExtractedEntity], counted: dict[str, _Counted]) -> dict[str, None]:
    titles: dict[str, None] = {}
    for entity in entities:
        title = normalise_title(entity.title)
        if title:
            titles[title] = None
            _note(title, entity, counted)
    for title in titles:
        counted[title].textunits += 1
    return titles


def _note(title: str, entity: ExtractedEntity, counted: dict[str, _Counted]) -> None:
    """The mention that asks for least gives the spelling and the type; what it leaves empty the others fill in."""
    known = counted.get(title)
    if known is None:
        counted[title] = _Counted(entity)
        return
    first, second = known.entity, entity
    if entity.textunits_min < known.entity.textunits_min:
        first, second = entity, known.entity
    if first is known.entity and first.type and first.description:
        return
    known.entity = ExtractedEntity(
        title=first.title,
        type=first.type or second.type,
        description=first.description or second.description,
        textunits_min=first.textunits_min,
    )


def _count_relationships(relationships: Sequence[ExtractedRelationship], edges: dict[Triple, _Edge]) -> None:
    met: set[Triple] = set()
    for each in relationships:
        triple = (normalise_title(each.source), normalise_title(each.target), each.type)
        edge = edges.get(triple)
        if edge is None:
            edge = edges[triple] = _Edge(each.description, 0.0, each.textunits_min)
        elif edge.textunits_min == STATED:
            continue
        edge.weight += each.weight
        edge.description = edge.description or each.description
        edge.textunits_min = min(edge.textunits_min, each.textunits_min)
        met.add(triple)
    for triple in met:
        edges[triple].textunits += 1


def _named_in(text: str, titles: Sequence[str]) -> Iterator[str]:
    """Those of the normalised titles that stand in the text as whole words."""
    if titles:
        words = _spaced(normalise_title(text))
        yield from (title for title in titles if _spaced(title) in words)


def _spaced(text: str) -> str:
    return f" {_GAPS.sub(' ', text).strip()} "
