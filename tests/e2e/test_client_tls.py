"""TLS from the client's side: a server is believed only if its certificate says so, and then everything works."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.gate import config_file, entry
from support.peer import Peer, pong
from support.server import Server
from support.tls import Authority
from support.ways import connected, told, ways

import gibramdb
from gibramdb import NewEntity
from gibramdb.client.address import Tls
from gibramdb.client.calls import TRIES_MAX
from gibramdb.errors import AuthenticationError, ConfigError, ConnectionFailedError, ProtocolError


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> dict[str, str]:
    return authority.issue("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def server(certificate: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With TLS and keys."""
    directory = tmp_path_factory.mktemp("tls")
    path = config_file(
        directory, [entry("app", "write")], tls=certificate, security={"rate_limit": 100_000, "rate_burst": 100_000}
    )
    with Server(directory / "data", "--config", path, mode="ephemeral") as server:
        yield server
        assert not [line for line in server.lines if "Traceback" in line], server.lines


def by_authority(authority: Authority, _certificate: str) -> Tls:
    return authority.file


def by_certificate(_authority: Authority, certificate: str) -> Tls:
    return certificate


def by_context(authority: Authority, _certificate: str) -> Tls:
    return ssl.create_default_context(cafile=authority.file)


@ways
@pytest.mark.parametrize("trust", [by_authority, by_certificate, by_context])
def test_everything_works_through_it(
    server: Server, authority: Authority, certificate: dict[str, str], trust: Callable[[Authority, str], Tls], way: str
) -> None:
    tls = trust(authority, certificate["cert_file"])

    async def run() -> None:
        async with connected(way, f"gibrams://key-app@localhost:{server.port}", tls=tls) as store:
            session = store.session(f"{way} {trust.__name__}")
            ids = await told(session.add_entities([NewEntity(f"e{n}", "x" * 1_000 + str(n)) for n in range(1_000)]))
            assert [entity.id for entity in await told(session.entities())] == ids
            textunit = await told(session.add_textunit("t", await told(session.add_document("d")), "text"))
            await told(session.link_many([(textunit, id) for id in ids]))
            assert (await told(session.get_textunit(textunit))).entity_ids == tuple(ids)
            if way == "async":
                await asyncio.gather(*(session.touch() for _ in range(50)))

    asyncio.run(run())


@ways
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_key_is_asked_for_behind_it(server: Server, authority: Authority, way: str, host: str) -> None:
    async def run() -> None:
        url = f"gibram://{host}:{server.port}"
        with pytest.raises(AuthenticationError, match="invalid api key"):
            async with connected(way, url, tls=authority.file, api_key="key-apple"):
                pass
        with pytest.raises(AuthenticationError, match="api_key="):
            async with connected(way, url, tls=authority.file):
                pass
        async with connected(way, url, tls=authority.file, api_key="key-app") as store:
            await told(store.ping())

    asyncio.run(run())


def refused(url: str, error: type[Exception] | tuple[type[Exception], ...], words: str, **options: object) -> None:
    with pytest.raises(error, match=words):
        gibramdb.connect(url, **options)  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        asyncio.run(gibramdb.connect_async(url, **options))  # type: ignore[arg-type]


def test_nobody_else_is_believed(server: Server, authority: Authority, tmp_path: Path) -> None:
    url = f"gibrams://key-app@localhost:{server.port}"
    refused(url, ConnectionFailedError, "not trusted")
    refused(url, ConnectionFailedError, "not trusted", tls=True)
    stranger = Authority(tmp_path)
    refused(url, ConnectionFailedError, "not trusted", tls=stranger.file)
    refused(url, ConnectionFailedError, "not trusted", tls=stranger.issue("localhost")["cert_file"])
    refused(url, ConnectionFailedError, "(?i)hostname", tls=authority.file, tls_server_name="db.example")
    gibramdb.connect(url, tls=authority.file).close()


def test_a_certificate_of_another_name_is_taken_where_that_name_is_expected(
    authority: Authority, tmp_path: Path
) -> None:
    path = config_file(tmp_path, [entry("app", "write")], tls=authority.issue("db.example"))
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        for host in ("localhost", "127.0.0.1"):
            url = f"gibrams://key-app@{host}:{server.port}"
            refused(url, ConnectionFailedError, "(?i)hostname|IP address", tls=authority.file)
            gibramdb.connect(url, tls=authority.file, tls_server_name="db.example").close()


def test_a_certificate_that_the_server_made_is_trusted_by_its_file(tmp_path: Path) -> None:
    path = config_file(tmp_path, [entry("app", "write")], tls={"auto_cert": True})
    with Server(tmp_path / "data", "--config", path) as server:
        url = f"gibrams://key-app@localhost:{server.port}"
        refused(url, ConnectionFailedError, "not trusted")
        gibramdb.connect(url, tls=tmp_path / "data" / "auto_cert.pem").close()


def test_who_is_not_believed_is_asked_nothing_and_tried_once(authority: Authority) -> None:
    with Peer(pong, authority.context("localhost")) as peer:
        refused(f"gibrams://key@localhost:{peer.port}", ConnectionFailedError, "not trusted")
        assert (peer.connections, peer.numbers) == (2, []), "one try of each client, and no key"


def test_a_handshake_that_only_ends_is_tried_again() -> None:
    """It may be that of a server that is being stopped."""
    seen = 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            nonlocal seen
            with suppress(OSError):  # the listener is closed
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        seen += 1

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"gibrams://localhost:{listener.getsockname()[1]}"
        refused(url, ConnectionFailedError, "no TLS with|no server answers")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)
    assert seen == 2 * TRIES_MAX, "of each client as many as for any connection that can not be made"


@ways
def test_a_connection_is_used_again(authority: Authority, way: str) -> None:
    """A session ticket, which comes unasked, is not taken for the end of it."""

    async def run(port: int) -> None:
        async with connected(way, f"gibrams://localhost:{port}", tls=authority.file) as store:
            for _ in range(20):
                await told(store.ping())

    with Peer(pong, authority.context("localhost")) as peer:
        asyncio.run(run(peer.port))
        assert peer.connections == 1


def test_old_versions_are_refused(authority: Authority) -> None:
    old = authority.context("localhost")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with Peer(pong, old) as peer:
        refused(f"gibrams://localhost:{peer.port}", ConnectionFailedError, "no TLS with", tls=authority.file)


def test_one_end_speaks_it_and_the_other_does_not(server: Server, tmp_path: Path) -> None:
    refused(f"gibram://127.0.0.1:{server.port}", (ProtocolError, ConnectionFailedError), "connect with gibrams://")
    with_key = f"gibram://key-app@127.0.0.1:{server.port}"
    refused(with_key, (ProtocolError, ConnectionFailedError), "connect with gibrams://")
    with Server(tmp_path / "data", mode="ephemeral") as plain:
        refused(f"gibrams://127.0.0.1:{plain.port}", ConnectionFailedError, "no TLS with|no server answers")


def test_files_that_hold_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.pem can not be read"):
        gibramdb.connect(tls=tmp_path / "nowhere.pem")
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=re.escape("text.pem holds no certificate")):
        gibramdb.connect(tls=tmp_path / "text.pem")
