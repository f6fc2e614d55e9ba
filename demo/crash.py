"""Writers that keep a ledger of what was acknowledged, and the comparison of that ledger with the store."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from demo.server import DemoServer
from gibramdb import NewEntity, Store
from gibramdb.errors import UnavailableError

CONNECTIONS = 6
LOAD_SESSION = "under-load"
VECTOR_DIM = 512


class Entry(NamedTuple):
    """One acknowledged entity."""

    id: int
    external_id: str
    description: str
    vector_seed: int


class Ledger:
    """Acknowledged entities and relationships, in memory and, a line each, in a file outside of the store."""

    def __init__(self, path: Path) -> None:
        self.entities: list[Entry] = []
        self.relationships: list[tuple[int, int, int]] = []  # id, source, target
        self._file = path.open("w")
        self._lock = threading.Lock()

    def acknowledge(self, entities: list[Entry], relationships: list[tuple[int, int, int]]) -> None:
        """Called when the answer has been read, and not a moment earlier."""
        with self._lock:
            self.entities += entities
            self.relationships += relationships
            self._file.writelines(f"entity {entry.id} {entry.external_id}\n" for entry in entities)
            self._file.writelines(f"relationship {id} {source} {target}\n" for id, source, target in relationships)

    def __len__(self) -> int:
        return len(self.entities) + len(self.relationships)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_until_killed(server: DemoServer, ledger: Ledger, seconds: float) -> None:
    """Write from several connections at once, and kill the server in the midst of it."""
    with server.connect() as store:
        writers = [threading.Thread(target=_write, args=(store, ledger, number)) for number in range(CONNECTIONS)]
        for writer in writers:
            writer.start()
        threading.Event().wait(seconds)
        server.kill()
        for writer in writers:
            writer.join()
    ledger.close()


def _vector(seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=VECTOR_DIM).astype(np.float32)


def _write(store: Store, ledger: Ledger, writer: int) -> None:
    session = store.session(LOAD_SESSION)
    number = 0
    before: Entry | None = None
    try:
        while True:
            number += 1
            key = f"w{writer}-{number}"
            if number % 10:
                seed = writer * 1_000_000 + number
                entry = Entry(0, key, f"written by connection {writer}", seed)
                id = session.add_entity(key, key, "load", entry.description, _vector(seed))
                entry = entry._replace(id=id)
                ledger.acknowledge([entry], [])
                if before is not None and number % 3 == 0:
                    relationship = session.add_relationship(before.id, entry.id, "then")
                    ledger.acknowledge([], [(relationship, before.id, entry.id)])
                before = entry
            else:
                news = [NewEntity(f"{key}.{index}", f"{key}.{index}", "load", "in bulk") for index in range(20)]
                ids = session.add_entities(news)
                added = [Entry(id, new.external_id, "in bulk", -1) for id, new in zip(ids, news, strict=True)]
                ledger.acknowledge(added, [])
    except UnavailableError:
        return  # the server is gone; what was under way was not acknowledged


class Comparison(NamedTuple):
    """What became of what was acknowledged."""

    acknowledged: int
    found: int

    @property
    def lost(self) -> int:
        """Must be 0."""
        return self.acknowledged - self.found


def compare(store: Store, ledger: Ledger) -> Comparison:
    """Look every acknowledged object up, and compare what it holds."""
    session = store.session(LOAD_SESSION)
    entities = {entity.id: entity for entity in session.entities()}
    relationships = {each.id: each for each in session.relationships()}
    found = sum(
        1
        for entry in ledger.entities
        if (entity := entities.get(entry.id)) is not None
        and (entity.external_id, entity.description) == (entry.external_id, entry.description)
    )
    found += sum(
        1
        for id, source, target in ledger.relationships
        if (each := relationships.get(id)) is not None and (each.source_id, each.target_id) == (source, target)
    )
    return Comparison(len(ledger), found)


def nearest_is_itself(store: Store, ledger: Ledger, samples: int = 50) -> int:
    """Of so many acknowledged embeddings, how many are found again as their own nearest neighbour."""
    session = store.session(LOAD_SESSION)
    with_vector = [entry for entry in ledger.entities if entry.vector_seed >= 0]
    step = max(1, len(with_vector) // samples)
    sampled = with_vector[::step][:samples]
    hits = 0
    for entry in sampled:
        answer = session.query(_vector(entry.vector_seed), top_k=1, hops=0, search_types=["entity"])
        hits += answer.entities[0].entity.id == entry.id and answer.entities[0].similarity > 0.999
    return hits if len(sampled) == samples else samples * (hits == len(sampled))
