"""Texts into a session, without a key and without a network; each part can be replaced."""

from gibramdb.pipeline.corpus import Progress
from gibramdb.pipeline.embedding import SentenceEncoder
from gibramdb.pipeline.extraction import PhraseExtractor
from gibramdb.pipeline.indexing import IndexReport, Tally, index
from gibramdb.pipeline.protocols import (
    Embedder,
    ExtractedEntity,
    ExtractedRelationship,
    Extraction,
    Extractor,
    Kind,
    Source,
    Splitter,
)
from gibramdb.pipeline.splitting import SemanticSplitter

__all__ = [
    "Embedder",
    "ExtractedEntity",
    "ExtractedRelationship",
    "Extraction",
    "Extractor",
    "IndexReport",
    "Kind",
    "PhraseExtractor",
    "Progress",
    "SemanticSplitter",
    "SentenceEncoder",
    "Source",
    "Splitter",
    "Tally",
    "index",
]
