"""What a `gibram://` address says: where the server is, the key it asks for, and whom to believe that it is."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from gibramdb.errors import ConfigError

DEFAULT_PORT = 6161
DEFAULT_URL = f"gibram://127.0.0.1:{DEFAULT_PORT}"

Tls = bool | str | os.PathLike[str] | ssl.SSLContext
"""True: the system's roots. A path: a file with the certificates to trust, an authority's or the server's own, and
nothing else. A context: as it is."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and how to be let in. Its text names host and port and never the key."""

    host: str
    port: int
    api_key: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    tls_server_name: str = ""
    """The name that the server's certificate must have."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def places(self) -> Sequence[tuple[Any, ...]]:
        """What socket.getaddrinfo says without asking anybody: nothing for a name. Raises UnicodeError."""
        try:
            return socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            return ()


def parse_address(
    url: str, *, api_key: str | None = None, tls: Tls | None = None, tls_server_name: str | None = None
) -> Address:
    """Read `gibram://[key@]host[:port]`, or `gibrams://` for TLS; the port is 6161 unless given.

    Args:
        url: a key in it is percent-encoded where it holds `@`, `/`, `?`, `#`, `%` or `:`.
        api_key: the key, if it is not in the address.
        tls: see Tls; None means what the scheme says.
        tls_server_name: the name to expect in the certificate, where it is another than the host's.

    Raises:
        ConfigError: it is something else, a key is given twice or empty, or the certificates can not be read.
    """
    _require_text("the address", url)
    for name, option in (("api_key", api_key), ("tls_server_name", tls_server_name)):
        if option is not None:
            _require_text(name, option)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed
        raise _no_address(url) from None
    has_more = parts.path.strip("/") or parts.query or parts.fragment or parts.password is not None
    if parts.scheme not in {"gibram", "gibrams"} or not host or not port or has_more:
        raise _no_address(url)
    context = _context(parts.scheme == "gibrams", tls)
    if tls_server_name is not None and context is None:
        raise ConfigError("tls_server_name is given and TLS is not asked for: use gibrams:// or tls=")
    return Address(host, port, _key(parts, api_key), context, tls_server_name or host)


def _require_text(name: str, given: object) -> None:
    if not isinstance(given, str):  # what it is may be a key: it is not shown
        raise ConfigError(f"{name} must be a text, got a value of type {type(given).__name__}")


def _no_address(url: str) -> ConfigError:
    # Up to the last @ could be a key, wherever in it the address broke.
    shown = re.sub(r"^(\w*://)?.*@", r"\1***@", url, flags=re.DOTALL)
    return ConfigError(
        f"expected gibram://[key@]host[:port], or gibrams:// for TLS, got {shown!r}; what a key holds of @ / ? # % : "
        "is percent-encoded, or the key given as api_key="
    )


def _key(parts: SplitResult, api_key: str | None) -> str:
    if parts.username is not None and api_key is not None:
        raise ConfigError("the API key is given twice: in the address and as api_key=")
    if parts.username is None and api_key is None:
        return ""
    try:
        key = unquote(parts.username, errors="strict") if api_key is None and parts.username else api_key or ""
        key.encode()
    except UnicodeError:
        raise ConfigError("the API key is no UTF-8 text") from None
    if not key:
        raise ConfigError("the API key is empty")
    return key


def _context(scheme_says_tls: bool, tls: Tls | None) -> ssl.SSLContext | None:
    if tls is False and scheme_says_tls:
        raise ConfigError("gibrams:// asks for TLS and tls=False for none")
    if isinstance(tls, ssl.SSLContext):
        return tls
    if tls is None or isinstance(tls, bool):
        return ssl.create_default_context() if tls or scheme_says_tls else None
    file = Path(tls)
    try:
        context = ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise ConfigError(f"tls: {file} holds no certificate in PEM form") from None
    except OSError as error:
        raise ConfigError(f"tls: {file} can not be read: {error.strerror}") from None
    # What the file names is trusted as it stands: a server's own certificate as well as an authority's.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
