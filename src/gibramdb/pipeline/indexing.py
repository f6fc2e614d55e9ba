"""Texts into a session: split, extract, embed, store.

Owns: the order of the work, and by what a later run recognises what is there.
Never: changes or removes what the session holds already.

- A document is known by its external id.
- A text unit is known by `<document>#<hash of its text>`: a passage that has moved is the same, one that has changed is
  new. The old one stays, and is counted as outdated.
- An entity is known by its normalised title, a relationship by (source, target, type). Both keep their first
  description, vector and weight. The external id of an entity is made as that of a text unit, `<title>#<hash>`, so that
  it is nobody else's: the title alone may be that of another entity.

Invariants:
- What is stored refers only to what was stored before it, so a run may stop anywhere and another go on from there.
- The same sources and parts give the same calls in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from gibramdb.errors import DimensionMismatchError
from gibramdb.model.knowledge import NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.pipeline.corpus import Corpus, Passage, Progress, read, tagged
from gibramdb.pipeline.embedding import SentenceEncoder
from gibramdb.pipeline.extraction import PhraseExtractor
from gibramdb.pipeline.protocols import Embedder, ExtractedEntity, Extractor, Source, Splitter
from gibramdb.pipeline.splitting import SemanticSplitter
from gibramdb.session import Session

EMBED_BATCH = 64
"""Text units and entities embedded and stored at a time: half a second of work, which is what a stop can lose."""
STORE_BATCH = 1024
"""Documents and relationships stored at a time, so that progress shows."""

T = TypeVar("T")


class Tally(msgspec.Struct, frozen=True, gc=False):
    """How many were added, and how many were there already."""

    added: int = 0
    skipped: int = 0


class IndexReport(msgspec.Struct, frozen=True, gc=False):
    """What a run stored. `textunits_outdated`: stored by an earlier run, no longer in the text of their document."""

    documents: Tally
    textunits: Tally
    entities: Tally
    relationships: Tally
    links: Tally
    textunits_outdated: int
    duration_ms: int

    @property
    def added(self) -> int:
        """How much is new in the session, over all kinds."""
        tallies = (self.documents, self.textunits, self.entities, self.relationships, self.links)
        return sum(tally.added for tally in tallies)


def index(
    session: Session,
    sources: Iterable[Source],
    *,
    splitter: Splitter | None = None,
    extractor: Extractor | None = None,
    embedder: Embedder | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> IndexReport:
    """Stores the sources, and what they speak of, in the session; skips what is there already.

    First everything is split and extracted, which is quick and tells what recurs; then it is embedded and stored in
    batches. Text units come last, each batch with its links: embedding them takes nearly all of the time.

    Raises:
        InvalidArgumentError: if two sources have the same external id, or one is blank.
        DimensionMismatchError: if the vectors do not have the store's dimension.
        MissingExtraError: if a part is not given and the one used in its place is not installed.
    """
    begun = time.monotonic()
    embedder = embedder or SentenceEncoder()
    corpus = read(tuple(sources), splitter or SemanticSplitter(), extractor or PhraseExtractor(), progress)
    document_ids, documents = _store_documents(session, corpus, progress)
    entity_ids, entities = _store_entities(session, corpus, embedder, progress)
    relationships = _store_relationships(session, corpus, entity_ids, progress)
    textunits, links, outdated = _store_textunits(
        session, corpus, document_ids, entity_ids, embedder=embedder, progress=progress
    )
    return IndexReport(
        documents=documents,
        textunits=textunits,
        entities=entities,
        relationships=relationships,
        links=links,
        textunits_outdated=outdated,
        duration_ms=round((time.monotonic() - begun) * 1000),
    )


def _store_documents(
    session: Session, corpus: Corpus, progress: Callable[[Progress], None]
) -> tuple[dict[str, int], Tally]:
    """The ids of the session's documents by external id, the new ones among them."""
    ids = {document.external_id: document.id for document in session.documents()}
    new = [
        NewDocument(external_id=source.external_id, filename=source.filename)
        for source in corpus.sources
        if source.external_id not in ids
    ]
    for batch in _batches(new, STORE_BATCH, "documents", progress):
        ids.update(zip((document.external_id for document in batch), session.add_documents(batch), strict=True))
    return ids, Tally(len(new), len(corpus.sources) - len(new))


def _store_entities(
    session: Session, corpus: Corpus, embedder: Embedder, progress: Callable[[Progress], None]
) -> tuple[dict[str, int], Tally]:
    """The ids of the session's entities by normalised title, the new ones among them."""
    ids = {entity.title: entity.id for entity in session.entities()}
    new = [(title, entity) for title, entity in corpus.entities.items() if title not in ids]
    for batch in _batches(new, EMBED_BATCH, "entities", progress):
        vectors = _embed(embedder, [_entity_text(entity) for _, entity in batch])
        stored = session.add_entities(
            NewEntity(tagged(title, title), entity.title, entity.type, entity.description, vector)
            for (title, entity), vector in zip(batch, vectors, strict=True)
        )
        ids.update(zip((title for title, _ in batch), stored, strict=True))
    return ids, Tally(len(new), len(corpus.entities) - len(new))


def _store_relationships(
    session: Session, corpus: Corpus, entity_ids: dict[str, int], progress: Callable[[Progress], None]
) -> Tally:
    there = {(each.source_id, each.target_id, each.type) for each in session.relationships()}
    new: list[NewRelationship] = []
    skipped = 0
    for (source, target, type_), each in corpus.relationships.items():
        if source not in entity_ids or target not in entity_ids:
            continue
        relationship = NewRelationship(entity_ids[source], entity_ids[target], type_, each.description, each.weight)
        if (relationship.source_id, relationship.target_id, type_) in there:
            skipped += 1
        else:
            new.append(relationship)
    for batch in _batches(new, STORE_BATCH, "relationships", progress):
        session.add_relationships(batch)
    return Tally(len(new), skipped)


def _store_textunits(
    session: Session,
    corpus: Corpus,
    document_ids: dict[str, int],
    entity_ids: dict[str, int],
    *,
    embedder: Embedder,
    progress: Callable[[Progress], None],
) -> tuple[Tally, Tally, int]:
    """Text units and links; and how many stored text units of these documents are outdated."""
    ours = {document_ids[source.external_id] for source in corpus.sources}
    there = {
        textunit.external_id: (textunit.id, frozenset(textunit.entity_ids))
        for textunit in session.textunits()
        if textunit.document_id in ours
    }
    outdated = len(there.keys() - {passage.external_id for passage in corpus.passages})
    added = links_added = links = 0
    for batch in _batches(corpus.passages, EMBED_BATCH, "textunits", progress):
        new = [passage for passage in batch if passage.external_id not in there]
        if new:
            for passage, id_ in zip(new, _add_textunits(session, new, document_ids, embedder), strict=True):
                there[passage.external_id] = (id_, frozenset())
        added += len(new)
        pairs = []
        for passage in batch:
            textunit_id, linked = there[passage.external_id]
            speaks_of = [entity_ids[title] for title in passage.titles if title in entity_ids]
            links += len(speaks_of)
            pairs += [(textunit_id, entity_id) for entity_id in speaks_of if entity_id not in linked]
        if pairs:
            session.link_many(pairs)
        links_added += len(pairs)
    return Tally(added, len(corpus.passages) - added), Tally(links_added, links - links_added), outdated


def _add_textunits(
    session: Session, passages: Sequence[Passage], document_ids: dict[str, int], embedder: Embedder
) -> list[int]:
    vectors = _embed(embedder, [passage.text for passage in passages])
    return session.add_textunits(
        NewTextUnit(passage.external_id, document_ids[passage.document], passage.text, vector)
        for passage, vector in zip(passages, vectors, strict=True)
    )


def _entity_text(entity: ExtractedEntity) -> str:
    about = entity.description or entity.type
    # The title twice, or all the names of one sentence would have nearly the same vector.
    return f"{entity.title}. {entity.title}: {about}" if about else entity.title


def _embed(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    vectors = np.asarray(embedder.embed(texts), dtype=np.float32)
    if vectors.shape != (len(texts), embedder.dim):
        raise DimensionMismatchError(
            f"the embedder answered an array of shape {vectors.shape}, expected {(len(texts), embedder.dim)}"
        )
    return vectors


def _batches(items: Sequence[T], size: int, stage: str, progress: Callable[[Progress], None]) -> Iterator[Sequence[T]]:
    """The items in stretches of `size`; tells the progress after each, when the caller comes for the next."""
    progress(Progress(stage, 0, len(items)))
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        yield batch
        progress(Progress(stage, start + len(batch), len(items)))
