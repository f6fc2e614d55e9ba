"""TLS from the client's side: a server is believed only if its certificate says so, and then everything works."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.server import Server
from support.tls import Authority, TlsFront

import gibramdb
from gibramdb import NewEntity
from gibramdb.client.address import Tls
from gibramdb.errors import ConfigError, ConnectionFailedError, ProtocolError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("tls") / "data", mode="ephemeral") as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> tuple[Path, ssl.SSLContext]:
    return authority.issue("localhost", "127.0.0.1")


@pytest.fixture
def front(server: Server, certificate: tuple[Path, ssl.SSLContext]) -> Iterator[TlsFront]:
    with TlsFront(server.port, certificate[1]) as front:
        yield front


def by_authority(authority: Authority, _certificate: Path) -> Tls:
    return authority.file


def by_certificate(_authority: Authority, certificate: Path) -> Tls:
    return str(certificate)


def by_context(authority: Authority, _certificate: Path) -> Tls:
    return ssl.create_default_context(cafile=authority.file)


trusted = pytest.mark.parametrize("trust", [by_authority, by_certificate, by_context])


@trusted
def test_everything_works_through_it(
    trust: Callable[[Authority, Path], Tls],
    authority: Authority,
    certificate: tuple[Path, ssl.SSLContext],
    front: TlsFront,
) -> None:
    tls = trust(authority, certificate[0])
    with gibramdb.connect(f"gibrams://localhost:{front.port}", tls=tls) as db:
        session = db.session(f"tls {trust.__name__}")
        ids = session.add_entities([NewEntity(f"e{n}", "x" * 1_000 + str(n)) for n in range(1_000)])
        assert [entity.id for entity in session.entities()] == ids
        textunit = session.add_textunit("t", session.add_document("d"), "text")
        session.link_many([(textunit, id) for id in ids])
        assert session.get_textunit(textunit).entity_ids == tuple(ids)

    async def run() -> None:
        async with gibramdb.connect_async(f"gibram://127.0.0.1:{front.port}", tls=tls) as db:
            session = db.session(f"async {trust.__name__}")
            ids = await session.add_entities([NewEntity(f"e{n}", "x" * 1_000 + str(n)) for n in range(1_000)])
            assert [entity.id async for entity in session.entities()] == ids
            await asyncio.gather(*(session.touch() for _ in range(50)))

    asyncio.run(run())
    assert set(front.versions) <= {"TLSv1.2", "TLSv1.3"}
    assert len(front.versions) < 20, "connections are used again: a session ticket is not taken for the end of one"


def refused(url: str, error: type[Exception], words: str, **options: object) -> None:
    with pytest.raises(error, match=words):
        gibramdb.connect(url, **options)  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        asyncio.run(gibramdb.connect_async(url, **options))  # type: ignore[arg-type]


def test_nobody_else_is_believed(
    server: Server, front: TlsFront, authority: Authority, tmp_path: Path, certificate: tuple[Path, ssl.SSLContext]
) -> None:
    url = f"gibrams://localhost:{front.port}"
    refused(url, ConnectionFailedError, "not trusted")
    assert front.handshakes == 2, "who is not believed now will not be in a moment: one try of each client"
    refused(url, ConnectionFailedError, "not trusted", tls=True)
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger")
    refused(url, ConnectionFailedError, "not trusted", tls=stranger.file)
    refused(url, ConnectionFailedError, "not trusted", tls=stranger.issue("localhost")[0])
    _, elsewhere = authority.issue("db.example")
    with TlsFront(server.port, elsewhere) as other:
        refused(f"gibrams://localhost:{other.port}", ConnectionFailedError, "(?i)hostname", tls=authority.file)
        gibramdb.connect(f"gibrams://localhost:{other.port}", tls=authority.file, tls_server_name="db.example").close()
    assert front.versions == [], "no request has been sent to a server that is not believed"
    gibramdb.connect(url, tls=certificate[0]).close()


def test_old_versions_are_refused(server: Server, authority: Authority) -> None:
    _, old = authority.issue("localhost")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with TlsFront(server.port, old) as front:
        refused(f"gibrams://localhost:{front.port}", ConnectionFailedError, "no TLS with", tls=authority.file)


def test_one_end_speaks_it_and_the_other_does_not(server: Server, front: TlsFront) -> None:
    refused(f"gibrams://127.0.0.1:{server.port}", ConnectionFailedError, "no TLS with|no server answers")
    with pytest.raises((ProtocolError, gibramdb.errors.OutcomeUnknownError), match="connect with gibrams://"):
        gibramdb.connect(f"gibram://127.0.0.1:{front.port}")


def test_files_that_hold_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.pem can not be read"):
        gibramdb.connect(tls=tmp_path / "nowhere.pem")
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=re.escape("text.pem holds no certificate")):
        gibramdb.connect(tls=tmp_path / "text.pem")
