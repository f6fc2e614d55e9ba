"""TLS, by certificates of the operator's and by the one a server makes itself: over sockets, against the real server."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
import socket
import ssl
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.gate import Frames, config_file, entry, error_of
from support.server import RefusedError, Server
from support.timing import TIMED

from gibramdb import NewDocument, NewEntity, NewTextUnit
from gibramdb.clock import SystemClock
from gibramdb.model import commands as c
from gibramdb.server.tls import auto_context
from gibramdb.storage.files import OsFileSystem
from gibramdb.wire.codec import CommandNumber as N
from gibramdb.wire.codec import encode_command

DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def files(
    directory: Path, authority: trustme.CA, begins: dt.datetime | None = None, ends: dt.datetime | None = None
) -> dict[str, object]:
    """The section `tls` with a certificate for localhost."""
    cert = authority.issue_cert("localhost", "127.0.0.1", not_before=begins, not_after=ends)
    cert_path, key_path = directory / "server.pem", directory / "server.key"
    cert_path.unlink(missing_ok=True)
    for blob in cert.cert_chain_pems:
        blob.write_to_path(cert_path, append=True)
    cert.private_key_pem.write_to_path(key_path)
    return {"cert_file": str(cert_path), "key_file": str(key_path)}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_commands_travel_encrypted_with_and_without_keys(
    tmp_path: Path, authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    keys = [entry("app", "write")]
    path = config_file(tmp_path, keys, tls=files(tmp_path, authority), security={"rate_burst": 1000})
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    with Server(tmp_path / "data", "--config", path) as server:
        with Frames(server.port, "key-app", tls=context) as frames:
            assert frames.run(c.AddDocuments("s", (NewDocument("d"),), bulk=False)).cmd_type == N.OK
            long = c.AddTextUnits("s", (NewTextUnit("t", 1, "x" * 1_000_000),))
            assert frames.run(long).cmd_type == N.TEXTUNITS_RESPONSE
            for _ in range(20):  # much more than a socket holds
                frames.run(c.GetTextUnits("s", (1,) * 10))
        with Frames(server.port, tls=context) as frames:
            assert error_of(frames.ask(N.PING)) == (1012, "authentication required")
        server.stop()


@pytest.mark.parametrize(
    "security", [{"stall_timeout": "500ms"}, {"max_buffered_bytes": 8 << 20}], ids=["in time", "by what it holds"]
)
def test_a_client_that_does_not_take_its_answers_is_sent_away(
    tmp_path: Path, authority: trustme.CA, security: dict[str, object]
) -> None:
    path = config_file(tmp_path, [], tls=files(tmp_path, authority), security=security)
    context = trusting(authority)
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        with Frames(server.port, tls=context) as frames:
            frames.run(c.AddDocuments("s", (NewDocument("d"),), bulk=False))
            frames.run(c.AddTextUnits("s", (NewTextUnit("t", 1, "x" * 1_000_000),)))
            frames.socket.sendall(encode_command(c.GetTextUnits("s", (1,) * 30), 7))
            time.sleep(2.5)
            received = 0
            with pytest.raises((OSError, AssertionError)):
                while received < 30_000_000:
                    data = frames.socket.recv(1 << 20)
                    assert data, "closed"
                    received += len(data)
        with Frames(server.port, tls=context) as frames:
            assert frames.run(c.GetTextUnits("s", (1,) * 5)).cmd_type == N.TEXTUNITS_RESPONSE


@TIMED
def test_an_idle_client_that_says_no_goodbye_holds_up_no_stop(tmp_path: Path, authority: trustme.CA) -> None:
    config = config_file(tmp_path, [], tls=files(tmp_path, authority))
    with Server(tmp_path / "data", "--config", str(config)) as server:
        idle = trusting(authority).wrap_socket(
            socket.create_connection(("127.0.0.1", server.port)), server_hostname="localhost"
        )
        idle.sendall(encode_command(c.Ping(), 1))
        assert idle.recv(1 << 16), "it has its answer"
        assert server.stop() < 2
        idle.close()


def test_who_asks_for_much_and_goes_fills_no_log(tmp_path: Path, authority: trustme.CA) -> None:
    config = config_file(tmp_path, [], tls=files(tmp_path, authority))
    with Server(tmp_path / "data", "--config", str(config)) as server:
        connect = partial(socket.create_connection, ("127.0.0.1", server.port))
        with trusting(authority).wrap_socket(connect(), server_hostname="localhost") as writer:
            units = tuple(NewEntity(f"e{n}", f"e{n}", description="d" * 500) for n in range(6_000))
            writer.sendall(encode_command(c.AddEntities("s", units), 1))
            assert writer.recv(1 << 16)
        said = len(server.lines)
        for _ in range(10):
            with trusting(authority).wrap_socket(connect(), server_hostname="localhost") as asking:
                asking.sendall(encode_command(c.ListEntities("s", 0, 6_000), 1) * 20)
                asking.settimeout(0.2)
                with contextlib.suppress(OSError):
                    asking.unwrap()
        time.sleep(1)
        assert not [line for line in server.lines[said:] if "closed" in line], server.lines[said:]
        server.kill()


def test_an_address_that_is_taken_is_refused_before_anything_is_made(tmp_path: Path, authority: trustme.CA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        for tls in ({"auto_cert": True}, files(tmp_path, authority)):
            path = config_file(tmp_path, [], tls=tls)
            with pytest.raises(RefusedError) as caught:
                Server(tmp_path / "data", "--config", path, "--addr", address).kill()
            assert caught.value.status == 74
            assert f"server.addr {address}: can not listen there" in caught.value.output
            assert not (tmp_path / "data").exists()


def test_older_versions_plain_frames_and_strangers_are_not_let_in(tmp_path: Path, authority: trustme.CA) -> None:
    path = config_file(tmp_path, [], tls=files(tmp_path, authority))
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        old = trusting(authority)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            Frames(server.port, tls=old)
        with pytest.raises(ssl.SSLCertVerificationError):
            Frames(server.port, tls=ssl.create_default_context())
        with Frames(server.port) as plain:
            plain.send(N.PING)
            heard = b""
            try:
                while data := plain.socket.recv(4096):
                    heard += data
            except ConnectionError:
                pass
            assert not heard.startswith(b"\x01"), "an answer in the clear"
        with Frames(server.port, tls=trusting(authority)) as frames:
            assert frames.ask(N.PING).cmd_type == N.PONG
        assert not [line for line in server.lines if "Traceback" in line or "error" in line.lower()], server.lines


@TIMED
def test_a_handshake_has_a_deadline_and_counts_as_a_connection(tmp_path: Path, authority: trustme.CA) -> None:
    security = {"unauth_timeout": "1s", "max_conns_per_ip": 3}
    path = config_file(tmp_path, [entry("app", "read")], tls=files(tmp_path, authority), security=security)
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        began = time.monotonic()
        silent = [Frames(server.port) for _ in range(3)]
        with Frames(server.port) as fourth:
            assert fourth.is_closed()
            assert time.monotonic() - began < 0.9, "closed at once, and without a handshake"
        for each in silent:
            assert each.is_closed()
            each.socket.close()
        assert 0.8 < time.monotonic() - began < 2.5
        with Frames(server.port, "key-app", tls=trusting(authority)) as frames:
            assert frames.ask(N.PING).cmd_type == N.PONG, "who was sent away is not counted any more"


@TIMED
def test_the_deadline_runs_on_over_handshake_and_auth(tmp_path: Path, authority: trustme.CA) -> None:
    security = {"unauth_timeout": "1600ms"}
    path = config_file(tmp_path, [entry("app", "read")], tls=files(tmp_path, authority), security=security)
    with Server(tmp_path / "data", "--config", path, mode="ephemeral") as server:
        began = time.monotonic()
        raw = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        time.sleep(1)
        with trusting(authority).wrap_socket(raw, server_hostname="localhost") as late:
            assert not _received(late)
        assert 1.4 < time.monotonic() - began < 2.3


def _received(connection: ssl.SSLSocket) -> bytes:
    try:
        return connection.recv(1)
    except OSError:
        return b""


def _without_time(said: str) -> str:
    return re.sub("; it is [0-9: -]+", "", said)


def refused(directory: Path, tls: dict[str, object]) -> str:
    path = config_file(directory, [], tls=tls)
    with pytest.raises(RefusedError) as caught:
        Server(directory / "data", "--config", path).kill()
    assert caught.value.status == 78
    assert not (directory / "data").exists(), "something was made before it was refused"
    checked = subprocess.run(
        [sys.executable, "-m", "gibramdb", "check-config", path], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 78
    assert _without_time(checked.stderr) in _without_time(caught.value.output)
    return caught.value.output


def test_a_certificate_that_can_not_be_used_stops_the_start(tmp_path: Path, authority: trustme.CA) -> None:
    now = dt.datetime.now(dt.UTC)
    good = files(tmp_path, authority)
    (tmp_path / "other").mkdir()
    other = files(tmp_path / "other", authority)
    assert "is not the key of tls.cert_file" in refused(tmp_path, good | {"key_file": other["key_file"]})
    assert "can not be read: No such file" in refused(tmp_path, good | {"cert_file": str(tmp_path / "none.pem")})
    assert "can not be read: Is a directory" in refused(tmp_path, good | {"key_file": str(tmp_path)})
    assert "holds no certificate" in refused(tmp_path, good | {"cert_file": good["key_file"]})
    assert "can not be used with it" in refused(tmp_path, good | {"key_file": good["cert_file"]})
    assert "both, or neither" in refused(tmp_path, {"cert_file": good["cert_file"]})
    past = files(tmp_path, authority, begins=now - 30 * DAY, ends=now - DAY)
    assert "tls.cert_file: found" in (said := refused(tmp_path, past))
    assert "valid from" in said
    future = files(tmp_path, authority, begins=now + DAY, ends=now + 30 * DAY)
    assert "allowed: certificates that are valid now" in refused(tmp_path, future)
    good = files(tmp_path, authority)
    with Path(str(good["cert_file"])).open("ab") as file:
        file.write(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "or one that can not be read" in refused(tmp_path, good)
    good = files(tmp_path, authority)
    key_path = Path(str(good["key_file"]))
    key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"s3cret")
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, locked)
    )
    assert "asks for a password" in refused(tmp_path, good)


@pytest.mark.parametrize("begins_days", [-30, 5])
def test_each_certificate_of_a_chain_must_be_valid_now(tmp_path: Path, authority: trustme.CA, begins_days: int) -> None:
    between = certificate_between(begins_days)
    good = files(tmp_path, authority)
    with Path(str(good["cert_file"])).open("ab") as file:
        file.write(between)
    said = refused(tmp_path, good)
    assert "whose certificate 2 of 2 is valid from" in said
    assert "allowed: certificates that are valid now" in said


def certificate_between(begins_days: int) -> bytes:
    """One that lies behind a server's in its file, valid for twenty days from then."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "between")])
    begins_at = dt.datetime.now(dt.UTC) + begins_days * DAY
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins_at)
        .not_valid_after(begins_at + 20 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def test_a_certificate_that_ends_soon_is_said_so(tmp_path: Path, authority: trustme.CA) -> None:
    now = dt.datetime.now(dt.UTC)
    soon = files(tmp_path, authority, begins=now - DAY, ends=now + 3 * DAY)
    with Server(tmp_path / "data", "--config", config_file(tmp_path, [], tls=soon), mode="ephemeral") as server:
        server.stop()
        assert any("the certificate ends soon" in line for line in server.lines)


@pytest.mark.parametrize("mode", ["ephemeral", "durable"])
def test_a_server_makes_a_certificate_for_itself_and_keeps_it(tmp_path: Path, mode: str) -> None:
    path = config_file(tmp_path, [], tls={"auto_cert": True})
    cert_path, key_path = tmp_path / "data" / "auto_cert.pem", tmp_path / "data" / "auto_key.pem"
    made: list[bytes] = []
    for _ in range(2):
        with Server(tmp_path / "data", "--config", path, mode=mode) as server:
            context = ssl.create_default_context(cafile=str(cert_path))
            with Frames(server.port, tls=context) as frames:
                assert frames.ask(N.PING).cmd_type == N.PONG
            server.stop()
            said = [line for line in server.lines if "tls.auto_cert" in line]
            assert len(said) == 1
            assert "sha256=" in said[0]
        made.append(cert_path.read_bytes() + key_path.read_bytes())
    assert made[0] == made[1]
    assert (cert_path.stat().st_mode & 0o777, key_path.stat().st_mode & 0o777) == (0o644, 0o600)
    cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert cert.not_valid_after_utc - dt.datetime.now(dt.UTC) > 364 * DAY


class ClockAt(SystemClock):
    def __init__(self, now: dt.datetime) -> None:
        self._now = now

    def now_ms(self) -> int:
        return int(self._now.timestamp() * 1000)


def test_a_certificate_of_ours_is_made_anew_once_it_can_not_be_used(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    cert_path, key_path = tmp_path / "auto_cert.pem", tmp_path / "auto_key.pem"

    def start(at: dt.datetime) -> bytes:
        context = auto_context(tmp_path, OsFileSystem(), ClockAt(at))
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        return cert_path.read_bytes()

    first = start(now)
    assert start(now + 364 * DAY) == first
    second = start(now + 366 * DAY)
    assert second != first
    key_path.write_bytes(key_path.read_bytes()[:-40])
    third = start(now + 366 * DAY)
    assert third != second
    cert_path.write_bytes(first)  # a certificate and a key of two makings: cut off between the two
    assert start(now) not in {first, third}
    key_path.unlink()
    fourth = start(now)
    assert fourth == cert_path.read_bytes()


def test_a_refused_start_makes_no_certificate(tmp_path: Path) -> None:
    path = config_file(tmp_path, [], tls={"auto_cert": True})
    with Server(tmp_path / "data") as owner:
        with pytest.raises(RefusedError):
            Server(tmp_path / "data", "--config", path).kill()
        with pytest.raises(RefusedError):
            Server(tmp_path / "data", "--config", path, mode="ephemeral").kill()
        assert not (tmp_path / "data" / "auto_cert.pem").exists()
        owner.stop()
