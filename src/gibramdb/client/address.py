"""What a `gibram://` address says, and what client and server agree on beside the protocol."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from gibramdb.errors import ConfigError

DEFAULT_PORT = 6161
REPLY_BYTES_MAX = 256 * 1024 * 1024
"""A longer answer is refused: it can only come from something that is not this protocol."""


class Address(NamedTuple):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """`gibram://host:port`; the port is 6161 unless given.

    Raises:
        ConfigError: it is something else.
    """
    parts = urlsplit(url)
    try:
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    if parts.scheme != "gibram" or not parts.hostname or not port or parts.path.strip("/") or parts.username:
        raise ConfigError(f"expected gibram://host:port, got {url!r}")
    return Address(parts.hostname, port)
