"""The unmodified Python client of GibRAM 0.3.0 against this server: each command it sends, and its indexer end to end."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gibram
import pytest
from gibram import ExtractedEntity, ExtractedRelationship, GibRAMIndexer
from gibram._client import _Client
from gibram.chunkers.base import BaseChunker
from gibram.embedders.base import BaseEmbedder
from gibram.extractors.base import BaseExtractor
from support.server import Server

from gibramdb import NewEntity

TEXTS = [
    "Ada wrote about the Engine. Charles built the Engine.",
    "Ada met Charles. Mary knew Ada.",
    "The Loom inspired Charles. Jacquard built the Loom.",
]


class Sentences(BaseChunker):
    def chunk(self, text: str) -> list[str]:
        return [f"{sentence.strip()}." for sentence in text.split(".") if sentence.strip()]


class Capitals(BaseExtractor):
    def extract(self, text: str) -> tuple[list[Any], list[Any]]:
        titles = [word.strip(".") for word in text.split() if word[0].isupper() and word != "The"]
        entities = [ExtractedEntity(title=title, type="name", description=f"{title} is named") for title in titles]
        relationships = [
            ExtractedRelationship(
                source_title=source, target_title=target, relationship_type="NEAR", description=text, weight=0.5
            )
            for source, target in itertools.pairwise(titles)
        ]
        return entities, relationships


class Hashes(BaseEmbedder):
    def embed(self, texts: list[str]) -> list[list[float]]:
        return [[byte / 255 for byte in hashlib.sha256(text.encode()).digest()[:8]] for text in texts]

    def embed_single(self, text: str) -> list[float]:
        return self.embed([text])[0]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data") as server:
        yield server


def test_it_is_the_released_client() -> None:
    assert importlib.metadata.version("gibram") == "0.3.0"


def test_every_command_it_sends(server: Server) -> None:
    with _Client("127.0.0.1", server.port, "sdk") as client:
        assert client.ping()
        assert client.get_server_info()["entity_count"] == 0
        document = client.add_document("d1", "one.txt")
        vector = [0.5] * 8
        units = [client.add_text_unit(f"t{index}", document, f"text {index}", vector, 2) for index in range(3)]
        entities = [client.add_entity(f"e{index}", f"Title {index}", "kind", "said", vector) for index in range(5)]
        assert (document, units, entities) == (1, [1, 2, 3], [1, 2, 3, 4, 5])
        edges = [client.add_relationship(f"r{index}", index, index + 1, "NEXT", "said", 0.5) for index in range(1, 5)]
        assert edges == [1, 2, 3, 4]
        client.link_text_unit_entity(1, 1)
        first = client.list_entities(cursor=0, limit=2)
        assert [entity["title"] for entity in first["entities"]] == ["TITLE 0", "TITLE 1"]
        second = client.list_entities(cursor=first["next_cursor"], limit=3)
        assert [entity["id"] for entity in second["entities"]] == [3, 4, 5]
        assert second["next_cursor"] == 0
        listed = client.list_relationships(cursor=0, limit=10)
        assert [each["id"] for each in listed["relationships"]] == [1, 2, 3, 4]
        found = client.query(vector, ["textunit", "entity", "community"], 3)
        assert len(found["textunits"]) == 3
        assert len(found["entities"]) >= 3
        assert client.compute_communities(1.0) >= 1
        with pytest.raises(gibram.ServerError, match="already exists"):
            client.add_document("d1", "again.txt")
        info = client.get_server_info()
        assert (info["document_count"], info["entity_count"], info["relationship_count"]) == (1, 5, 4)


def test_its_indexer_end_to_end_and_after_a_kill(tmp_path: Path) -> None:
    def indexer(server: Server) -> GibRAMIndexer:
        return GibRAMIndexer(
            session_id="indexed",
            host="127.0.0.1",
            port=server.port,
            chunker=Sentences(),
            extractor=Capitals(),
            embedder=Hashes(),
        )

    def ask(indexed: GibRAMIndexer) -> list[tuple[str, float]]:
        answer = indexed.query("Ada", mode="local", top_k=5)
        return [(entity.title, entity.score) for entity in answer.entities]

    with Server(tmp_path / "data") as server:
        with indexer(server) as indexed:
            stats = indexed.index_documents(
                [{"id": f"doc-{number}", "text": text} for number, text in enumerate(TEXTS)], show_progress=False
            )
            assert (stats.documents_indexed, stats.text_units_created) == (3, 6)
            assert stats.entities_extracted == 6
            assert stats.relationships_extracted > 0
            assert 0 < stats.communities_detected < stats.entities_extracted
            before = ask(indexed)
        assert before
        server.kill()
    with Server(tmp_path / "data") as server, indexer(server) as indexed:
        assert ask(indexed) == before
        with server.connect() as store:
            session = store.session("indexed")
            assert {entity.title for entity in session.entities()} == {
                "ADA", "ENGINE", "CHARLES", "MARY", "LOOM", "JACQUARD",
            }  # fmt: skip
            assert all(entity.textunit_ids for entity in session.entities())


def test_its_indexer_goes_on_where_an_earlier_one_stopped(server: Server) -> None:
    """A second indexer lists what the session holds, page by page, and adds to it."""
    with server.connect() as store:  # more than the client lists at once
        store.session("indexed").add_entities(NewEntity(f"old-{n}", f"Old {n}") for n in range(1_500))

    def index(texts: list[str]) -> Any:
        with GibRAMIndexer(
            session_id="indexed",
            host="127.0.0.1",
            port=server.port,
            chunker=Sentences(),
            extractor=Capitals(),
            embedder=Hashes(),
            community_resolution=2.0,
        ) as indexed:
            stats = indexed.index_documents(texts, show_progress=False)
            answer = indexed.query("Ada", top_k=3, include_communities=True)
        return stats, answer

    first, _ = index([TEXTS[0]])
    second, answer = index(TEXTS[1:])
    assert first.documents_indexed + second.documents_indexed == 3
    assert answer.entities
    assert answer.text_units
    with server.connect() as store:
        session = store.session("indexed")
        titles = [entity.title for entity in session.entities()]
        assert len(titles) == len(set(titles)) == 1_506
        info = session.info()
        assert (info.document_count, info.textunit_count) == (3, 6)
        assert info.community_count > 0
