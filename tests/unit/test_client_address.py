"""What a `gibram://` address may say."""

from __future__ import annotations

from typing import Any

import pytest

from gibramdb.client.address import parse_address
from gibramdb.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "host", "port", "key", "is_tls"),
    [
        ("gibram://db.example", "db.example", 6161, "", False),
        ("gibram://127.0.0.1:7000/", "127.0.0.1", 7000, "", False),
        ("gibram://[::1]:7000", "::1", 7000, "", False),
        ("gibrams://db.example", "db.example", 6161, "", True),
        ("gibrams://k@db.example:1", "db.example", 1, "k", True),
        ("gibram://a%40b%2Fc%3A%25@h", "h", 6161, "a@b/c:%", False),
        ("gibram://sk-%C3%A9@h", "h", 6161, "sk-é", False),
    ],
)
def test_addresses(url: str, host: str, port: int, key: str, is_tls: bool) -> None:
    address = parse_address(url)
    assert (address.host, address.port, address.api_key) == (host, port, key)
    assert (address.tls is not None) == is_tls
    assert not key or (key not in str(address) and key not in repr(address))


@pytest.mark.parametrize("wrong", [5, None, b"gibram://h"])
def test_what_is_no_text_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"^the address must be a text, got a value of type "):
        parse_address(wrong)
    if wrong is not None:
        with pytest.raises(ConfigError, match=r"^api_key must be a text, got a value of type "):
            parse_address("gibram://h", api_key=wrong)


def test_the_name_in_the_certificate_is_the_hosts_unless_given() -> None:
    assert parse_address("gibrams://h").tls_server_name == "h"
    assert parse_address("gibrams://h", tls_server_name="other").tls_server_name == "other"
    assert str(parse_address("gibram://[::1]")) == "[::1]:6161"


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:6161", "http://h", "gibram://", "gibram://:6161", "gibram://h:0", "gibram://h:99999",
        "gibram://h:port", "gibram://h/session", "gibram://h?x=1", "gibram://h#x", "gibram://[::1",
        "gibram://SECRET:@h", "gibram://name:SECRET@h", "gibram://SE/CRET@h", "gibram://SE?CRET@h",
        "gibram://SE#CRET@h", "gibram://SECRET@h/session", "SECRET@h", "gibram://SE\nCRET@h:x",
        "gibram://SEC@RET@h:x",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_shows_no_key(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(url)
    assert not any(part in str(refused.value) for part in ("SE", "CRET"))


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("gibram://k@h", {"api_key": "k"}, "twice"),
        ("gibram://@h", {}, "empty"),
        ("gibram://h", {"api_key": ""}, "empty"),
        ("gibram://%ff@h", {}, "UTF-8"),
        ("gibram://h", {"api_key": "\ud800"}, "UTF-8"),
        ("gibrams://h", {"tls": False}, "gibrams"),
        ("gibram://h", {"tls_server_name": "x"}, "TLS is not asked for"),
    ],
)
def test_contradictions_are_refused(url: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_address(url, **options)
