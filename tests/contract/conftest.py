"""Four ways in: in memory, durable, durable and reopened before each look, and over TCP to a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.server import Server

import gibramdb
from gibramdb import Session, Store


class Reopening:
    """Stands for a session of a durable store that is closed and opened again before each call."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = gibramdb.open(directory, vector_dim=8)

    def __getattr__(self, name: str) -> object:
        self._store.close()
        self._store = gibramdb.open(self._directory, vector_dim=8)
        return getattr(self._store.session("s"), name)

    def close(self) -> None:
        self._store.close()


@pytest.fixture(params=["in memory", "durable", "reopened", "over TCP"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("contract") / "data") as server:
        yield server


@pytest.fixture
def session(way: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    """An empty session named `s`, or on the shared server one named after the test."""
    if way == "over TCP":
        server: Server = request.getfixturevalue("shared_server")
        with server.connect() as store:
            yield store.session(request.node.name)
    elif way == "reopened":
        reopening = Reopening(tmp_path / "data")
        yield reopening  # type: ignore[misc]
        reopening.close()
    else:
        with gibramdb.open(tmp_path / "data" if way == "durable" else None, vector_dim=8) as store:
            yield store.session("s")


@pytest.fixture(params=["in memory", "over TCP"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with nothing else in it."""
    if request.param == "in memory":
        with gibramdb.open(None, vector_dim=8) as store:
            yield store
    else:
        with Server(tmp_path / "data", mode="ephemeral") as server, server.connect() as store:
            yield store
