"""What a server proves itself with: a certificate of the operator's, or one that it makes itself for development.

Owns: the files `auto_cert.pem` and `auto_key.pem` in the data directory.
Never: serves with what a client would refuse; asks a terminal for a password.

Invariants:
- A certificate is refused whose time is over or has not begun, that is not its key's, or that can not be read; of those
  behind it in its file too the time and the form are looked at.
- A certificate of ours is made by who owns the data directory, and anew at a start once it can not be used.
- TLS 1.2 or newer.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import logging
import ssl
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gibramdb.clock import Clock
from gibramdb.config import Config
from gibramdb.errors import ConfigError
from gibramdb.storage.files import FILE_MODE, FileSystem, publish, refused

log = logging.getLogger(__name__)

AUTO_CERT_NAME = "auto_cert.pem"
AUTO_KEY_NAME = "auto_key.pem"
AUTO_CERT_MODE = 0o644
AUTO_DAYS = 365
ENDS_SOON_DAYS = 14
PEM_BYTES_MAX = 1024 * 1024


def context_from_files(config: Config, now_ms: int) -> ssl.SSLContext | None:
    """What the configured certificate and key come to; None if there are none.

    Raises:
        ConfigError: they can not be used; says which, why, and what is allowed.
    """
    tls = config.tls
    if not tls.cert_file:
        return None
    cert_pem = _read(config, "tls.cert_file", tls.cert_file)
    _read(config, "tls.key_file", tls.key_file)
    try:
        chain = x509.load_pem_x509_certificates(cert_pem)
    except ValueError:
        found = "which holds no certificate, or one that can not be read"
        _refuse(config, "tls.cert_file", tls.cert_file, found, "certificates in PEM form")
    now = _time(now_ms)
    for number, cert in enumerate(chain, start=1):
        begins_at, ends_at = cert.not_valid_before_utc, cert.not_valid_after_utc
        which = f"certificate {number} of {len(chain)}"
        if not begins_at <= now <= ends_at:
            valid = f"valid from {begins_at:%Y-%m-%d %H:%M} to {ends_at:%Y-%m-%d %H:%M} UTC"
            found = f"whose {which} is {valid}; it is {now:%Y-%m-%d %H:%M}"
            _refuse(config, "tls.cert_file", tls.cert_file, found, "certificates that are valid now")
        if ends_at - now < dt.timedelta(days=ENDS_SOON_DAYS):
            told = {"file": tls.cert_file, "which": which, "ends_at": ends_at.isoformat()}
            log.warning("the certificate ends soon", extra=told)
    context = _new_context()
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file, _no_password)
    except ConfigError:
        _refuse(config, "tls.key_file", tls.key_file, "which asks for a password", "a key without one")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            found = f"which is not the key of tls.cert_file {tls.cert_file!r}"
            _refuse(config, "tls.key_file", tls.key_file, found, "the key that the certificate was made for")
        found = f"which can not be used with it: {error.reason or error}"
        _refuse(config, "tls.key_file", tls.key_file, found, "the certificate's private key in PEM form")
    return context


def auto_context(directory: Path, fs: FileSystem, clock: Clock) -> ssl.SSLContext:
    """What the certificate in the data directory comes to, made anew where it can not be used.

    Who calls this owns the directory.

    Raises:
        StorageError, DiskFullError: the system refused to read or to write the files.
    """
    cert_path, key_path = directory / AUTO_CERT_NAME, directory / AUTO_KEY_NAME
    try:
        if not _is_usable(cert_path, key_path, clock.now_ms()):
            cert_pem, key_pem = _make(clock.now_ms())
            publish(fs, key_path, key_pem, FILE_MODE)
            publish(fs, cert_path, cert_pem, AUTO_CERT_MODE)
            log.info("made a self-signed certificate, for development", extra={"file": str(cert_path)})
        context = _new_context()
        context.load_cert_chain(cert_path, key_path)
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
    except OSError as error:
        raise refused(str(error.filename or cert_path), error) from error
    digest = hashlib.sha256(cert.public_bytes(serialization.Encoding.DER)).hexdigest()
    log.warning(
        "tls.auto_cert: a self-signed certificate, for development; clients know it by this file or its fingerprint",
        extra={"file": str(cert_path), "sha256": digest, "ends_at": cert.not_valid_after_utc.isoformat()},
    )
    return context


def _is_usable(cert_path: Path, key_path: Path, now_ms: int) -> bool:
    try:
        cert = x509.load_pem_x509_certificate(cert_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        return False  # not there yet, cut short by a crash, or changed by somebody: the names are ours
    public = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    is_pair = key.public_key().public_bytes(*public) == cert.public_key().public_bytes(*public)
    return is_pair and cert.not_valid_before_utc <= _time(now_ms) <= cert.not_valid_after_utc


def _make(now_ms: int) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "localhost"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "gibramdb self-signed"),
        ]
    )
    addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in ("127.0.0.1", "::1")]
    now = _time(now_ms)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = dict.fromkeys(
        (
            "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
            "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # the client's clock may be behind
        .not_valid_after(now + dt.timedelta(days=AUTO_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(own, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return cert.public_bytes(serialization.Encoding.PEM), key_pem


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _no_password() -> str:
    # Without this, the library would ask on the terminal, and a server without one would wait for ever.
    raise ConfigError("asks for a password")


def _read(config: Config, name: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(PEM_BYTES_MAX)
    except OSError as error:
        _refuse(config, name, path, f"which can not be read: {error.strerror}", "a file that this user may read")


def _refuse(config: Config, name: str, path: str, found: str, allowed: str) -> NoReturn:
    raise ConfigError(f"{name}: found {path!r}, {found} ({config.origins[name]}); allowed: {allowed}")


def _time(now_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)
