"""Every setting is read the same way from every source, and whatever can not be meant is refused by name.

One module, because its table of settings is what file, environment and flags are each held against.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from support.timing import TIMED, slowness

import gibramdb.server
from gibramdb.api_keys import digest_of, parse_api_keys
from gibramdb.cli.flags import GIBRAM_FLAGS, with_two_dashes
from gibramdb.cli.logging_setup import set_up_logging
from gibramdb.cli.main import main
from gibramdb.config import BY_NAME, SETTINGS, Address, Config, LoggingSettings, load_config
from gibramdb.errors import ConfigError, StoreLockedError

OPERATORS_EXAMPLE = """
server:
  data_dir: "/var/lib/gibram/data"
session_store:
  mode: "durable"
  wal_dir: "/var/lib/gibram/data/session_wal"
  wal_sync_policy: "every_write"
  wal_sync_interval: 1s
  snapshot_dir: "/var/lib/gibram/data/session_snapshots"
  snapshot_interval: 5m
  snapshot_wal_size_bytes: 67108864
"""

# Name, what an operator writes, what the program makes of it. One row per setting that may be set in this version.
WRITTEN = [
    ("server.addr", "127.0.0.2:7000", Address("127.0.0.2", 7000)),
    ("server.data_dir", "/srv/g", "/srv/g"),
    ("server.vector_dim", "384", 384),
    ("server.session_cleanup_interval", "5s", 5_000),
    ("session_store.mode", " Durable ", "durable"),
    ("session_store.wal_dir", "/srv/wal", "/srv/wal"),
    ("session_store.wal_sync_policy", "PERIODIC", "periodic"),
    ("session_store.wal_sync_interval", "300ms", 300),
    ("session_store.snapshot_dir", "/srv/snap", "/srv/snap"),
    ("session_store.snapshot_interval", "1h30m", 5_400_000),
    ("session_store.snapshot_wal_size_bytes", "67108864", 67_108_864),
    ("session_store.snapshot_retention_count", "5", 5),
    ("session_store.snapshot_on_stop", "true", True),
    ("session_store.require_existing", "true", True),
    ("tls.cert_file", "", ""),
    ("tls.key_file", "", ""),
    ("tls.auto_cert", "No", False),
    ("auth.keys", "[]", ()),
    ("security.max_frame_size", "268435456", 268_435_456),
    ("security.max_content_bytes", "1000", 1_000),
    ("security.max_sessions", "3", 3),
    ("security.max_memory_bytes", "1000000", 1_000_000),
    ("security.max_total_memory_bytes", "9000000", 9_000_000),
    ("security.max_session_documents", "7", 7),
    ("security.max_session_entities", "8", 8),
    ("security.max_session_relationships", "9", 9),
    ("security.rate_limit", "5", 5),
    ("security.rate_burst", "6", 6),
    ("security.idle_timeout", "1.5s", 1_500),
    ("security.unauth_timeout", "2m", 120_000),
    ("security.stall_timeout", "20s", 20_000),
    ("security.max_conns_per_ip", "4", 4),
    ("security.max_connections", "77", 77),
    ("security.max_buffered_bytes", "500000000", 500_000_000),
    ("logging.level", "warn", "warning"),
    ("logging.format", "JSON", "json"),
    ("logging.output", "stderr", "stderr"),
    ("logging.file", "/srv/log", "/srv/log"),
]


def value(config: Config, name: str) -> object:
    return getattr(getattr(config, BY_NAME[name].section), BY_NAME[name].attribute)


def needed_by(name: str) -> dict[str, str]:
    """What must be set beside `name`, so that it contradicts nothing."""
    return {"session_store.mode": "durable"} if name == "session_store.require_existing" else {}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gibramdb.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str, *, insecure: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), insecure=insecure)
    return str(caught.value)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_operators_example_means_what_it_says(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, OPERATORS_EXAMPLE))
    store = config.session_store
    assert config.server.data_dir == "/var/lib/gibram/data"
    assert store.mode == "durable"
    assert store.wal_dir == "/var/lib/gibram/data/session_wal"
    assert store.wal_sync_policy == "every_write"
    assert store.wal_sync_interval_ms == 1_000
    assert store.snapshot_dir == "/var/lib/gibram/data/session_snapshots"
    assert store.snapshot_interval_ms == 300_000
    assert store.snapshot_wal_size_bytes == 67_108_864


def test_the_rows_below_cover_every_setting() -> None:
    assert [name for name, _, _ in WRITTEN] == [setting.name for setting in SETTINGS]


@pytest.mark.parametrize(("name", "text", "expected"), WRITTEN)
def test_every_source_reads_a_setting_alike(name: str, text: str, expected: object, tmp_path: Path) -> None:
    section, _, key = name.partition(".")
    file: dict[str, dict[str, object]] = {section: {key: text}} if name != "auth.keys" else {"auth": {"keys": []}}
    for other, other_text in needed_by(name).items():
        file.setdefault(other.partition(".")[0], {})[other.partition(".")[2]] = other_text
    path = write(tmp_path, json.dumps(file))  # JSON is YAML
    variable = f"GIBRAMDB_{section}__{key}".upper()
    for config, origin in (
        (load_config(path), f"{path}, line 1"),
        (load_config(environment={variable: text}, flags=needed_by(name)), f"environment variable {variable}"),
        (
            load_config(flags={**needed_by(name), name: text}),
            f"flag {BY_NAME[name].flag}" if BY_NAME[name].flag else "argument",
        ),
    ):
        assert value(config, name) == expected
        assert config.origins[name] == origin


def test_what_is_shown_can_be_written_again() -> None:
    config = load_config(flags={name: text for name, text, _ in WRITTEN if name != "auth.keys"})
    shown = {each.name: each.text_in(config) for each in SETTINGS if each.name != "auth.keys"}
    again = load_config(flags=shown)
    assert msgspec.structs.replace(again, origins={}) == msgspec.structs.replace(config, origins={})


def test_later_sources_win(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {vector_dim: 1, addr: '127.0.0.1:1', data_dir: /srv/file}")
    environment = {"GIBRAMDB_SERVER__VECTOR_DIM": "2", "GIBRAMDB_SERVER__ADDR": "127.0.0.1:2", "HOME": "/root"}
    config = load_config(path, environment=environment, flags={"server.vector_dim": "3"})
    assert (config.server.vector_dim, config.server.addr.port, config.server.data_dir) == (3, 2, "/srv/file")
    assert config.session_store.mode == "ephemeral"
    assert config.origins["session_store.mode"] == "default"


def test_directories_follow_the_data_dir_of_the_last_source(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "server: {data_dir: /srv/file}"), flags={"server.data_dir": "/srv/flag"})
    assert config.session_store.wal_dir == "/srv/flag/session_wal"
    assert config.session_store.snapshot_dir == "/srv/flag/session_snapshots"


def test_relative_paths_start_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config().server.data_dir == str(tmp_path / "data")


@pytest.mark.parametrize("text", ["", "# nothing\n", "session_store:\n  # mode: durable\nserver:\n"])
def test_a_file_may_leave_everything_at_its_default(text: str, tmp_path: Path) -> None:
    config = load_config(write(tmp_path, text))
    assert config.session_store.mode == "ephemeral"
    assert set(config.origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("security.max_frame_size", "0", 67_108_864),
        ("security.max_frame_size", "-1", 67_108_864),
        ("security.max_content_bytes", "0", 1_048_576),
        ("security.max_sessions", "-5", 10_000),
        ("security.rate_limit", "0", 1_000),
        ("security.rate_burst", "0", 100),
        ("security.max_conns_per_ip", "0", 50),
        ("security.idle_timeout", "-1s", 300_000),
        ("security.unauth_timeout", "0", 10_000),
        ("security.max_memory_bytes", "-1", 0),
        ("security.max_session_documents", "-1", 0),
        ("session_store.snapshot_interval", "0", 0),
        ("session_store.snapshot_interval", "0s", 0),
        ("server.addr", "[::1]:6161", Address("::1", 6161)),
        ("server.addr", "localhost:0", Address("localhost", 0)),
    ],
)
def test_special_values(name: str, text: str, expected: object) -> None:
    assert value(load_config(flags={name: text}), name) == expected


def test_variables_of_a_cluster_are_passed_over() -> None:
    config = load_config(
        environment={
            "GIBRAMDB_PORT": "tcp://10.0.0.1:6161",
            "GIBRAMDB_PORT_6161_TCP_ADDR": "10.0.0.1",
            "GIBRAMDB_SERVICE_HOST": "10.0.0.1",
            "GIBRAMDB_SERVICE_PORT_WIRE": "6161",
        }
    )
    assert set(config.origins.values()) == {"default"}


# --- refusing values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("server.addr", "6161"),
        ("server.addr", "127.0.0.1"),
        ("server.addr", "127.0.0.1:65536"),
        ("server.addr", "::1:6161"),
        ("server.addr", "[::g]:6161"),
        ("server.addr", "[1.2.3.4]:6161"),
        ("server.addr", "a b:6161"),
        ("server.data_dir", ""),
        ("server.data_dir", "a\0b"),
        ("server.vector_dim", "0"),
        ("server.vector_dim", "65537"),
        ("server.vector_dim", "many"),
        ("server.vector_dim", "0384"),
        ("server.vector_dim", "1_536"),
        ("server.vector_dim", "\u0661"),
        ("server.vector_dim", "9" * 5_000),
        ("server.session_cleanup_interval", "0"),
        ("session_store.mode", "durabel"),
        ("session_store.mode", ""),
        ("session_store.wal_sync_policy", "always"),
        ("session_store.wal_sync_interval", "1"),
        ("session_store.wal_sync_interval", "0"),
        ("session_store.wal_sync_interval", "1 s"),
        ("session_store.wal_sync_interval", "1.5ms"),
        ("session_store.wal_sync_interval", "9000h"),
        ("session_store.snapshot_interval", "-5m"),
        ("session_store.snapshot_interval", "300"),
        ("session_store.snapshot_interval", "s"),
        ("session_store.snapshot_wal_size_bytes", "64MiB"),
        ("session_store.snapshot_wal_size_bytes", "-1"),
        ("session_store.require_existing", "maybe"),
        ("tls.auto_cert", ""),
        ("auth.keys", "{}"),
        ("auth.keys", "["),
        ("auth.keys", "7"),
        ("security.max_frame_size", "268435457"),
        ("security.max_memory_bytes", str(2**53 + 1)),
        ("security.idle_timeout", "30"),
        ("logging.level", "loud"),
        ("logging.format", "xml"),
        ("logging.output", "syslog"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_its_origin_and_what_is_allowed(name: str, text: str) -> None:
    setting = BY_NAME[name]
    with pytest.raises(ConfigError) as caught:
        load_config(environment={setting.variable: text})
    message = str(caught.value)
    assert message.startswith(f"{name}: found ")
    assert f"(environment variable {setting.variable})" in message
    assert message.endswith(f"; allowed: {setting.kind.allowed}")
    if not setting.kind.entries:
        assert repr(text[:50])[1:-1] in message
    assert len(message) < 600


def test_a_bad_value_is_refused_although_a_flag_replaces_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gibramdb.yaml, line 1"):
        load_config(write(tmp_path, "server: {vector_dim: many}"), flags={"server.vector_dim": "3"})


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        (
            "session_stor:\n  mode: durable\n",
            ["session_stor: found", "line 1", "did you mean session_store?", "the sections server"],
        ),
        (
            "server:\n  data_dri: /x\n",
            ["server.data_dri: found", "line 2", "did you mean server.data_dir?", "in server: addr"],
        ),
        ("session_store.mode: durable\n", ["session_store.mode: found", "line 1", "the sections server"]),
        ("logging:\n  verbosity: 3\n", ["logging.verbosity: found", "in logging: level, format, output, file"]),
        (
            "server:\n  addr: 127.0.0.1:1\n  addr: 127.0.0.1:2\n",
            ["server: found the key addr again", "line 3", "line 2"],
        ),
        (
            "server:\n  vector_dim: 1\nlogging: {}\nserver:\n  addr: ':1'\n",
            ["found the key server again", "line 4", "line 1"],
        ),
        ("server:\n  data_dir:\n", ["server.data_dir: found no value", "line 2", "remove the line"]),
        ("server:\n  data_dir: [a]\n", ["server.data_dir: found a list", "line 2", "allowed: the path of a directory"]),
        ("session_store:\n  mode: [durable]\n", ["mode: found a list", "line 2", "allowed: ephemeral or durable"]),
        ("auth:\n  keys: [a]\n", ["auth.keys[0]: found a single value", "line 2", "allowed: keys, each with a value"]),
        ("server:\n  data_dir: [{id: a}]\n", ["server.data_dir: found a list", "line 2"]),
        ("server:\n  data_dir: {a: b}\n", ["server.data_dir: found keys below it", "line 2"]),
        ("server:\n  data_dir: !env HOME\n", ["server.data_dir: found the tag !env", "line 2"]),
        ("server: durable\n", ["server: found a single value", "line 1", "keys, each with a value"]),
        ("- server\n", ["found a list", "line 1"]),
        ("server:\n  ? [a]\n  : b\n", ["server: found a list or keys in the place of a key", "line 2"]),
        ("server: {\n", ["found what is not YAML", "line 2"]),
        ("a: 1\n---\nb: 2\n", ["found what is not YAML", "line 2"]),
        ("[" * 5_000, ["found what is not YAML"]),
        ("server: &a\n  <<: *a\n", ["server.<<: found"]),
        ("# " + "x" * 1024 * 1024, ["found more than 1048576 bytes"]),
    ],
)
def test_a_file_that_is_not_sections_of_known_keys_is_refused(text: str, fragments: list[str], tmp_path: Path) -> None:
    message = refusal(tmp_path, text)
    assert str(tmp_path / "gibramdb.yaml") in message
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"server: \x00", b"\x80abc", b"a: \xc3("])
def test_bytes_that_are_no_text_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "gibramdb.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="found what is not YAML"):
        load_config(path)


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="can not be read") as caught:
            load_config(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("GIBRAMDB_SESSION_STORE_WAL_DIR", "GIBRAMDB_SESSION_STORE__WAL_DIR"),
        ("GIBRAMDB_SERVER__DATADIR", "GIBRAMDB_SERVER__DATA_DIR"),
        ("GIBRAMDB_server__addr", "GIBRAMDB_SERVER__ADDR"),
    ],
)
def test_a_variable_that_names_no_setting_is_refused(variable: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environment={variable: "x"})
    assert str(caught.value).startswith(f"{variable}: found")
    assert f"did you mean {meant}?" in str(caught.value)
    assert "allowed: GIBRAMDB_SECTION__KEY" in str(caught.value)


def test_an_argument_that_names_no_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"server\.dim: found .* did you mean server\.\w+\?.*allowed: server\.addr"):
        load_config(flags={"server.dim": "4"})


# --- contradictions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/", "/bin", "/sbin", "/var/x/..", "//tmp", "///root"])
def test_a_system_directory_is_no_data_dir_whatever_the_source(path: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"server: {{data_dir: '{path}'}}")
    refused = r"^server\.data_dir: found .*allowed: a directory of its own"
    with pytest.raises(ConfigError, match=refused):
        load_config(flags={"server.data_dir": path})
    with pytest.raises(ConfigError, match=refused):
        load_config(environment={"GIBRAMDB_SERVER__DATA_DIR": path})
    with pytest.raises(ConfigError, match=refused):
        load_config(file)


@pytest.mark.parametrize(
    ("data", "wal", "snapshot", "named"),
    [
        ("/d", "/w", "/w", ["session_store.wal_dir", "the same as session_store.snapshot_dir"]),
        ("/d", "/w/../x", "/x/", ["session_store.wal_dir", "the same as session_store.snapshot_dir"]),
        ("/d", "/d", "/s", ["server.data_dir", "the same as session_store.wal_dir"]),
        ("/d", "/w", "/d", ["server.data_dir", "the same as session_store.snapshot_dir"]),
        ("/d", "/d/w", "/d/w/s", ["session_store.snapshot_dir", "inside session_store.wal_dir"]),
        ("/d", "/d/s/w", "/d/s", ["session_store.wal_dir", "inside session_store.snapshot_dir"]),
        ("/w/d", "/w", "/s", ["server.data_dir", "inside session_store.wal_dir"]),
        ("/s/d", "/w", "/s", ["server.data_dir", "inside session_store.snapshot_dir"]),
    ],
)
def test_directories_in_each_others_way_are_refused(data: str, wal: str, snapshot: str, named: list[str]) -> None:
    flags = {"server.data_dir": data, "session_store.wal_dir": wal, "session_store.snapshot_dir": snapshot}
    with pytest.raises(ConfigError) as caught:
        load_config(flags=flags)
    assert str(caught.value).startswith(f"{named[0]}: found")
    assert named[1] in str(caught.value)
    assert "allowed: three distinct directories" in str(caught.value)


@pytest.mark.parametrize(
    ("wal", "snapshot"), [("/d/w", "/d/s"), ("/w", "/d/s"), ("/d-wal", "/d-snapshots"), ("/d/a/b", "/d/a/c")]
)
def test_directories_beside_each_other_are_taken(wal: str, snapshot: str) -> None:
    flags = {"server.data_dir": "/d", "session_store.wal_dir": wal, "session_store.snapshot_dir": snapshot}
    store = load_config(flags=flags).session_store
    assert (store.wal_dir, store.snapshot_dir) == (wal, snapshot)


PROTECTED = [
    ("auth:\n  keys:\n    - {id: ci, key: s3cret, permissions: [read]}\n", "auth.keys"),
    ("tls: {cert_file: /c, key_file: /k}\n", "tls.cert_file"),
    ("tls: {auto_cert: true}\n", "tls.auto_cert"),
]


@pytest.mark.parametrize(("text", "name"), PROTECTED)
def test_insecure_drops_it_and_says_so(text: str, name: str, tmp_path: Path) -> None:
    asked = load_config(write(tmp_path, text))
    assert asked.auth.keys or asked.tls.cert_file or asked.tls.auto_cert
    config = load_config(write(tmp_path, text), insecure=True)
    assert config.auth.keys == ()
    assert (config.tls.cert_file, config.tls.key_file, config.tls.auto_cert) == ("", "", False)
    assert config.origins[name] == "dropped by --insecure"
    assert any(warning.startswith(f"--insecure drops {name} (") for warning in config.warnings)
    assert any("may read and change everything" in warning for warning in config.warnings)
    assert str(config.server.addr) == "127.0.0.1:6161", "unless an address is given"


@pytest.mark.parametrize(("text", "name"), PROTECTED)
def test_some_protection_is_enough_to_listen_beyond_this_machine(text: str, name: str, tmp_path: Path) -> None:
    config = load_config(write(tmp_path, text), flags={"server.addr": ":6161"})
    expected = "is reached without TLS" if name == "auth.keys" else "auth.keys is empty"
    assert [expected in warning for warning in config.warnings] == [True]


def test_less_than_a_frame_can_not_be_buffered() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(flags={"security.max_buffered_bytes": "1000000"})
    assert str(caught.value).startswith("security.max_buffered_bytes: found 1000000, less than one frame")
    assert str(caught.value).endswith("allowed: a whole number from 4194304")


@pytest.mark.parametrize(("given", "missing"), [("cert_file", "key_file"), ("key_file", "cert_file")])
def test_half_a_certificate_is_refused(given: str, missing: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"tls: {{{given}: /x}}")
    assert message.startswith(f"tls.{given}: found a path, but no tls.{missing}")
    assert message.endswith("allowed: both, or neither")


@pytest.mark.parametrize(
    "text",
    [
        "auth:\n  keys:\n    - {id: ci, key: s3cret}\n",
        "auth:\n  keys:\n    - {id: ci, key: s3cret, permissions: [s3cret]}\n",
        "auth:\n  keys:\n    - {id: ci, key: s3cret, permissions: s3cret}\n",
        "auth:\n  keys:\n    - {id: ci, key: s3cret, permissions: [read], expires_at: s3cret}\n",
        "auth:\n  keys:\n    - {id: ci, key: s3cret, permissions: [read], sessions: [s3cret, '']}\n",
        "auth:\n  keys:\n    - {id: ci, key_hash: $2b$s3cret, permissions: [read]}\n",
        "auth:\n  keys:\n    - {id: ci, key: !s3cret x}\n",
        "auth:\n  keys:\n    - {id: ci, key: {s3cret: x}}\n",
        "auth:\n  keys: s3cret\n",
        "auth:\n  keys: {id: s3cret}\n",
        "auth:\n  keys:\n    - s3cret\n",
        "auth:\n  keys:\n    - {id: ci, key: s3cret, colour: s3cret}\n",
        "auth:\n  keys:\n    - {id: ci, key: s3cret, key: s3cret}\n",
        "auth:\n  keys:\n    - {id: [s3cret], key: s3cret}\n",
        "auth:\n  keys:\n    - id: ci\n      key: 's3cret\n",
        "auth:\n  keys:\n    - {id: ci, key: s3cret} s3cret\n",
    ],
)
def test_no_message_shows_a_key(text: str, tmp_path: Path) -> None:
    assert "s3cret" not in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "text", ['[{"id": "ci", "key": "s3cret"}]', '"s3cret"', "s3cret", '[{"id": ["s3cret"]}]', '[{"s3cret": 1}]']
)
def test_no_message_shows_a_key_of_a_variable(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(environment={"GIBRAMDB_AUTH__KEYS": text})
    assert "s3cret" not in str(caught.value)
    assert str(caught.value).startswith("auth.keys")


HASH = "$2b$04$" + "a" * 21 + "e" + "b" * 31
WORKING: dict[str, object] = {"id": "ci", "key": "s3cret", "permissions": ["read"]}


def test_an_entry_is_fields_with_values() -> None:
    with pytest.raises(ConfigError, match=r"^auth\.keys\[0\]: found no entry"):
        with_keys("s3cret")


def with_keys(*entries: object) -> Config:
    return load_config(environment={"GIBRAMDB_AUTH__KEYS": json.dumps(entries)}, now_ms=1_600_000_000_000)


@pytest.mark.parametrize(
    ("change", "where", "found"),
    [
        ({"id": None}, "[0].id", "no id"),
        ({"id": ""}, "[0].id", "no id"),
        ({"id": 7}, "[0].id", "something that is no id"),
        ({"id": "a\nb"}, "[0].id", "something that is no id"),
        ({"id": "s3cret"}, "[0].id", "the key itself (not shown)"),
        ({"id": "x" * 129}, "[0].id", "something that is no id"),
        ({"key": None}, "[0] 'ci'", "neither key nor key_hash"),
        ({"key_hash": HASH}, "[0] 'ci'", "both key and key_hash"),
        ({"key": ""}, "[0] 'ci'.key", "no text, or an empty one"),
        ({"key": 5}, "[0] 'ci'.key", "no text, or an empty one"),
        ({"key": "k" * 73}, "[0] 'ci'.key", "73 bytes"),
        ({"key": "é" * 37}, "[0] 'ci'.key", "74 bytes"),
        ({"key": "a\0"}, "[0] 'ci'.key", "a zero byte"),
        ({"key": "\ud800"}, "[0] 'ci'.key", "text that has no UTF-8 form"),
        ({"key": None, "key_hash": "secret"}, "[0] 'ci'.key_hash", "something that is no bcrypt hash"),
        ({"key": None, "key_hash": "$2y$" + HASH[4:]}, "[0] 'ci'.key_hash", "something that is no bcrypt hash"),
        ({"key": None, "key_hash": HASH[:-1]}, "[0] 'ci'.key_hash", "something that is no bcrypt hash"),
        ({"key": None, "key_hash": "$2b$03$" + HASH[7:]}, "[0] 'ci'.key_hash", "a cost of 03"),
        ({"key": None, "key_hash": "$2b$31$" + HASH[7:]}, "[0] 'ci'.key_hash", "a cost of 31"),
        ({"permissions": None}, "[0] 'ci'.permissions", "none"),
        ({"permissions": []}, "[0] 'ci'.permissions", "none"),
        ({"permissions": ["read", "wirte"]}, "[0] 'ci'.permissions", "a word that is no permission"),
        ({"permissions": ["Read"]}, "[0] 'ci'.permissions", "a word that is no permission"),
        ({"permissions": "read"}, "[0] 'ci'.permissions", "something else than a list of words"),
        ({"max_sessions": 3}, "[0] 'ci'.max_sessions", "it without sessions"),
        ({"sessions": ["a"], "max_sessions": 0}, "[0] 'ci'.max_sessions", "something that is no such number"),
        ({"sessions": ["a"], "max_sessions": True}, "[0] 'ci'.max_sessions", "something that is no such number"),
        ({"sessions": ["a"], "max_sessions": "-3"}, "[0] 'ci'.max_sessions", "something that is no such number"),
        ({"expires_at": "2030-01-01"}, "[0] 'ci'.expires_at", "something that is no such time"),
        ({"expires_at": "2030-01-01T00:00:00"}, "[0] 'ci'.expires_at", "something that is no such time"),
        ({"expires_at": "2030-02-30T00:00:00Z"}, "[0] 'ci'.expires_at", "something that is no such time"),
        ({"expires_at": "never"}, "[0] 'ci'.expires_at", "something that is no such time"),
        ({"expires_at": ""}, "[0] 'ci'.expires_at", "something that is no such time"),
        ({"sessions": []}, "[0] 'ci'.sessions", "none"),
        ({"sessions": ["a", ""]}, "[0] 'ci'.sessions", "an empty name, or * alone"),
        ({"sessions": ["*"]}, "[0] 'ci'.sessions", "an empty name, or * alone"),
        ({"sessions": "a"}, "[0] 'ci'.sessions", "something else than a list of words"),
        ({"expires": "2030-01-01T00:00:00Z"}, "[0]", "a field that is none of an entry's"),
    ],
)
def test_a_key_that_can_not_work_stops_the_start(change: dict[str, object], where: str, found: str) -> None:
    changed = {field: value for field, value in (WORKING | change).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        with_keys(changed)
    assert str(caught.value).startswith(f"auth.keys{where}: found {found}"), str(caught.value)
    assert "(environment variable GIBRAMDB_AUTH__KEYS); allowed: " in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "where", "found"),
    [
        ({"key": "other"}, "[1] 'ci'.id", "an id that an earlier entry has"),
        ({"id": "other"}, "[1] 'other'.key", "the key of an earlier entry"),
    ],
)
def test_two_entries_are_told_apart_by_id_and_key(change: dict[str, object], where: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_keys(WORKING, WORKING | change)
    assert str(caught.value).startswith(f"auth.keys{where}"), str(caught.value)
    assert found in str(caught.value)


@TIMED
def test_as_many_keys_as_a_file_holds_are_compared_in_no_time() -> None:
    began_s = time.process_time()
    keys = parse_api_keys(json.dumps([WORKING | {"id": f"k{number}", "key": f"{number}"} for number in range(20_000)]))
    assert len(keys) == 20_000
    assert time.process_time() - began_s < 5 * slowness(), "each with each takes half a minute"


@pytest.mark.parametrize(
    ("text", "expires_at_ms"),
    [
        ("2030-01-31T00:00:00Z", 1_896_048_000_000),
        ("2030-01-31t01:30:00.5+01:30", 1_896_048_000_000),
        ("1969-01-01T00:00:00Z", 1),
    ],
)
def test_a_key_has_a_time(text: str, expires_at_ms: int) -> None:
    assert with_keys(WORKING | {"expires_at": text}).auth.keys[0].expires_at_ms == expires_at_ms


def test_a_key_whose_time_is_over_is_warned_of() -> None:
    config = with_keys(WORKING | {"expires_at": "2020-01-01T00:00:00Z"})
    assert [each for each in config.warnings if "'ci'" in each] == [
        "auth.keys 'ci': its time is over, nobody can use it any more."
    ]
    assert not any("'ci'" in each for each in with_keys(WORKING | {"expires_at": "2030-01-01T00:00:00Z"}).warnings)


def test_of_a_key_nothing_is_kept_that_shows_it(tmp_path: Path) -> None:
    entries = [WORKING | {"sessions": ["a", "b-*"]}, {"id": "h", "key_hash": HASH, "permissions": ["write", "admin"]}]
    config = with_keys(*entries)
    plain, hashed = config.auth.keys
    assert (plain.id, plain.sessions, plain.granted) == ("ci", ("a", "b-*"), frozenset({"read"}))
    assert (hashed.id, hashed.sessions, hashed.granted) == ("h", (), frozenset({"read", "write", "admin"}))
    assert plain.digest == digest_of(b"s3cret")
    assert b"s3cret" not in msgspec.msgpack.encode(plain)
    assert "s3cret" not in repr(config)
    assert HASH not in repr(config)
    assert BY_NAME["auth.keys"].text_in(config) == "ci, h"
    from_file = load_config(write(tmp_path, json.dumps({"auth": {"keys": entries}})))
    assert from_file.auth == config.auth


@pytest.mark.parametrize("addr", [":6161", "0.0.0.0:6161", "[::]:6161", "192.0.2.7:6161", "db.example.org:6161"])
def test_an_address_beyond_this_machine_needs_insecure(addr: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(flags={"server.addr": addr})
    assert str(caught.value).startswith(f"server.addr: found '{addr}', which others than this machine may reach")
    assert "(flag --addr); allowed: 127.0.0.1:6161 or another loopback address" in str(caught.value)
    config = load_config(flags={"server.addr": addr}, insecure=True)
    assert str(config.server.addr) == addr
    assert any(addr in warning for warning in config.warnings)


@pytest.mark.parametrize("addr", ["127.0.0.1:6161", "127.9.9.9:6161", "[::1]:6161", "localhost:6161"])
def test_a_loopback_address_needs_nothing(addr: str) -> None:
    config = load_config(flags={"server.addr": addr})
    assert str(config.server.addr) == addr
    assert config.warnings == ()


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32", "emscripten"])
def test_durable_mode_has_its_platforms(platform: str) -> None:
    assert load_config(platform=platform).session_store.mode == "ephemeral"
    flags = {"session_store.mode": "durable"}
    if platform in {"linux", "darwin"}:
        assert load_config(flags=flags, platform=platform).session_store.mode == "durable"
        return
    with pytest.raises(
        ConfigError, match=f"^session_store.mode: found durable on {platform} .*allowed: durable on linux"
    ):
        load_config(flags=flags, platform=platform)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (
            {"session_store.require_existing": "true"},
            "session_store.require_existing: found true while session_store.mode is ephemeral",
        ),
        ({"logging.output": "file"}, "logging.output: found file, but no logging.file"),
    ],
)
def test_other_contradictions(flags: dict[str, str], found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(flags=flags)
    assert str(caught.value).startswith(found)
    assert "; allowed: " in str(caught.value)


DURABLE = {"session_store.mode": "durable"}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, []),
        ({**DURABLE, "session_store.snapshot_interval": "5m"}, []),
        ({**DURABLE, "session_store.snapshot_wal_size_bytes": "1"}, []),
        (DURABLE, ["Neither session_store.snapshot_interval"]),
        (
            {**DURABLE, "session_store.snapshot_interval": "5m", "session_store.wal_sync_policy": "never"},
            ["wal_sync_policy is never"],
        ),
        (
            {"session_store.wal_dir": "/w"},
            ["session_store.mode is ephemeral, so these have no effect: session_store.wal_dir."],
        ),
        ({"logging.file": "/l"}, ["logging.output is stdout, so logging.file has no effect."]),
    ],
)
def test_warnings(flags: dict[str, str], expected: list[str]) -> None:
    warnings = load_config(flags=flags).warnings
    assert len(warnings) == len(expected)
    for warning, part in zip(warnings, expected, strict=True):
        assert part in warning


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("gibramdb")
    before = root.handlers[:], root.level, ours.level
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


# --- the command line -------------------------------------------------------------------------------------------------


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIBRAMDB_")}
    return subprocess.run(
        [sys.executable, "-m", "gibramdb", *arguments],
        cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def test_check_config_shows_every_setting_its_value_and_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path, OPERATORS_EXAMPLE)
    done = run(
        "check-config", str(path), "-dim=384", "--log-level", "debug", cwd=tmp_path, GIBRAMDB_SECURITY__MAX_SESSIONS="7"
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()}
    assert set(rows) >= {setting.name for setting in SETTINGS}
    assert rows["server.vector_dim"] == "384 flag --dim"
    assert rows["logging.level"] == "debug flag --log-level"
    assert rows["security.max_sessions"] == "7 environment variable GIBRAMDB_SECURITY__MAX_SESSIONS"
    assert rows["session_store.snapshot_interval"] == f"5m {path}, line 10"
    assert rows["session_store.require_existing"] == "false default"


@pytest.mark.parametrize("command", [["check-config"], ["serve", "--config"]])
def test_a_refused_configuration_is_a_message_and_exit_code_78(command: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, "session_store:\n  mode: durabel\n")
    done = run(*command, str(path), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert (
        done.stderr
        == f"gibramdb: error: session_store.mode: found 'durabel' ({path}, line 2); allowed: ephemeral or durable\n"
    )
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", [["check-config"], ["serve", "--config"]])
def test_a_log_that_can_not_be_written_is_refused_alike(command: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, f"logging:\n  output: file\n  file: {tmp_path}/none/log\n")
    done = run(*command, str(path), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert f"logging.file: found {tmp_path}/none/log, which can not be written; allowed: " in done.stderr
    assert sorted(tmp_path.iterdir()) == [path]


def test_each_flag_sets_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("GIBRAMDB_")]:
        monkeypatch.delenv(variable)
    texts = {name: text.strip() for name, text, _ in WRITTEN if BY_NAME[name].flag}
    arguments = [part for name, text in texts.items() for part in (BY_NAME[name].flag, text)]
    assert main(["check-config", *arguments]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    for name in texts:
        assert f"flag {BY_NAME[name].flag}" in rows[name]


def test_gibrams_flags_are_taken_with_one_dash() -> None:
    given = [
        "-addr",
        ":1",
        "-data=-x",
        "--dim",
        "4",
        "-insecure",
        "-config",
        "f",
        "-log-level",
        "info",
        "-h",
        "-session-cleanup-interval",
        "1s",
    ]
    taken = [
        "--addr",
        ":1",
        "--data=-x",
        "--dim",
        "4",
        "--insecure",
        "--config",
        "f",
        "--log-level",
        "info",
        "-h",
        "--session-cleanup-interval",
        "1s",
    ]
    assert with_two_dashes(given) == taken
    assert {f"--{flag}" for flag in GIBRAM_FLAGS} - {setting.flag for setting in SETTINGS} == {"--config", "--insecure"}


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version_is_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    installed = importlib.metadata.distribution("gibramdb")
    assert capsys.readouterr().out == f"gibramdb {installed.version}\n"
    assert gibramdb.__version__ == installed.version


@pytest.mark.parametrize("arguments", [["--version"], ["no-such-command"]])
def test_the_installed_program_is_the_one_that_python_runs(arguments: list[str], tmp_path: Path) -> None:
    installed = Path(sys.executable).with_name("gibramdb")
    one, other = (
        subprocess.run([*program, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
        for program in ([str(installed)], [sys.executable, "-m", "gibramdb"])
    )
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)
    assert one.returncode == (0 if arguments == ["--version"] else 2)


def test_arguments_that_are_not_understood_are_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--no-such-flag"]) == 2
    assert "--no-such-flag" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["typer", "rich", "structlog", "yaml"])
def test_the_core_install_says_how_to_get_the_rest(missing: str, tmp_path: Path) -> None:
    # A None in sys.modules makes the import fail just as a package that is not there does.
    program = f"import sys; sys.modules[{missing!r}] = None; from gibramdb.cli.main import main; sys.exit(main())"
    path = write(tmp_path, OPERATORS_EXAMPLE)
    done = subprocess.run(
        [sys.executable, "-c", program, "check-config", str(path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 69
    assert done.stderr.startswith("gibramdb: error: ")
    assert "pip install 'gibramdb[server]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_settings_need_no_package_of_the_server(tmp_path: Path) -> None:
    program = (
        "import sys\nfor name in ('yaml', 'typer', 'rich', 'structlog'): sys.modules[name] = None\n"
        "from gibramdb.config import load_config\nprint(load_config(flags={'session_store.mode': 'durable'}).session_store.mode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert (done.stdout, done.stderr) == ("durable\n", "")


@pytest.mark.usefixtures("untouched_logging")
@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (None, 0, ""),
        (StoreLockedError("owned by process 7"), 73, "gibramdb: error: owned by process 7\n"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("a defect"), 70, "RuntimeError: a defect\n"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 70, "ModuleNotFoundError: No module named 'x'\n"),
        (ModuleNotFoundError("No module named 'uvloop'", name="uvloop"), 69, "pip install 'gibramdb[server]'\n"),
    ],
)
def test_how_the_server_ends_is_the_exit_code(
    ending: BaseException | None,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served: list[Config] = []

    def serve(config: Config) -> None:
        served.append(config)
        if ending is not None:
            raise ending

    app = ModuleType("gibramdb.server.app")
    app.__dict__["serve"] = serve
    monkeypatch.setitem(sys.modules, "gibramdb.server.app", app)
    monkeypatch.setattr(gibramdb.server, "app", app, raising=False)
    monkeypatch.delenv("GIBRAMDB_SERVER__VECTOR_DIM", raising=False)
    assert main(["serve", "-dim", "4", "--mode", "durable", "-addr=:0", "-insecure"]) == code
    assert [config.server.vector_dim for config in served] == [4]
    written = capsys.readouterr().err
    assert written.endswith(said)
    assert written or not said
    assert ("Traceback" in written) == (code == 70)


# --- logging ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched_logging")
def test_json_lines_carry_the_fields_of_extra(tmp_path: Path) -> None:
    path = tmp_path / "log"
    set_up_logging(LoggingSettings(level="info", format="json", output="file", file=str(path)))
    assert not path.exists(), "the file is opened before there is anything to log"
    logger = logging.getLogger("gibramdb.database.recovery")
    logger.debug("too fine")
    logger.info("recovered %d records", 3, extra={"lsn": 12, "path": Path("/x")})
    try:
        int("out of order")
    except ValueError:
        logger.exception("gave up")
    logging.getLogger("asyncio").info("others are heard from warning on")
    first, second = map(json.loads, path.read_text().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "recovered 3 records", "level": "info", "logger": "gibramdb.database.recovery", "lsn": 12, "path": "PosixPath('/x')",
    }  # fmt: skip
    assert second["level"] == "error"
    assert "ValueError: invalid literal" in second["exception"]


@pytest.mark.usefixtures("untouched_logging")
def test_text_lines_show_the_fields_and_can_not_be_forged(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LoggingSettings(level="debug", format="text", output="stderr", file=""))
    logging.getLogger("gibramdb.server").debug("began", extra={"session_id": "a\nforged line", "count": 4})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for part in ("began", "debug", "gibramdb.server", r"session_id='a\nforged line'", "count=4"):
        assert part in captured.err


@pytest.mark.usefixtures("untouched_logging")
def test_lines_that_can_not_be_written_are_lost_and_cost_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("gibramdb.server")
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "log"
    set_up_logging(LoggingSettings(level="info", format="json", output="file", file=str(path)))
    logger.info("first")
    directory.rename(tmp_path / "moved")
    for _ in range(3):
        logger.info("lost")
    directory.mkdir()
    logger.info("again")
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["again"]
    shutil.rmtree(directory)
    logger.info("lost")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2, "once for each time that it begins"
    assert all(re.match(rf"gibramdb: the log can not be written, its lines are lost: .*{path}", line) for line in said)

    set_up_logging(LoggingSettings(level="info", format="text", output="file", file="/dev/full"))
    for _ in range(3):
        logger.warning("lost")
    assert "No space left" in capsys.readouterr().err
    with contextlib.suppress(OSError):
        logging.getLogger().handlers[0].close()


@pytest.mark.usefixtures("untouched_logging")
@pytest.mark.parametrize("file", ["none/log", "."])
def test_a_log_file_that_can_not_be_written_is_refused(file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^logging\.file: found .*allowed: "):
        set_up_logging(LoggingSettings(level="info", format="text", output="file", file=str(tmp_path / file)))


def test_what_clients_read_is_no_setting_of_a_server() -> None:
    load_config(None, environment={"GIBRAMDB_SERVER": "gibram://elsewhere:6161"})


@pytest.mark.parametrize("name", ["path", "data_dir"])
@pytest.mark.parametrize("wrong", [5, b"/a/path", True, ["a"]])
def test_a_directory_that_is_no_text_and_no_path_is_refused_by_its_name(name: str, wrong: Any) -> None:
    async def opened() -> None:
        await gibramdb.open_async(**{name: wrong})

    refused = rf"^{name} must be a text or a path, got {re.escape(repr(wrong))}$"
    with pytest.raises(ConfigError, match=refused):
        gibramdb.open(**{name: wrong})
    with pytest.raises(ConfigError, match=refused):
        asyncio.run(opened())


@pytest.mark.parametrize("name", ["vector_dim", "snapshot_wal_size_bytes", "wal_sync_interval"])
def test_a_number_that_python_does_not_write_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: found 'a number of 16610 bits'"):
        gibramdb.open("nowhere", **{name: 10**5000})  # type: ignore[arg-type]
