"""The settings: one table of what may be set, and one frozen value of what was.

Sources, later wins: the defaults, a YAML file, environment variables, flags. Every source yields text, and the one
parser a setting has reads it, so a value means the same wherever it comes from.

Owns: every default, every limit a setting has, the words in which a bad setting is refused.
Never: touches a file other than the YAML one, resolves symbolic links, guesses what was meant.

Invariants:
- Every value given is checked, also one that a later source replaces.
- A key, section or GIBRAMDB_ variable that names no setting is refused, as is a key given twice.
- What depends on another setting is derived after all sources have spoken.
- Inside, time is integer milliseconds and size is bytes; paths are absolute.
- Of an API key only its id is shown; the key itself reaches no value and no message.

Half of this module is the table and the classes of what it yields; they stay beside the parsers and the checks, so that
a new setting is one row, one field and nothing else.
"""

from __future__ import annotations

import difflib
import ipaddress
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import PurePath
from typing import Literal, NamedTuple, TypeVar

import msgspec

from gibramdb.api_keys import ApiKey, EntryError, parse_api_keys
from gibramdb.errors import ConfigError, MissingExtraError

FRAME_BYTES_LIMIT = 256 * 1024 * 1024
"""No configuration admits a larger frame: the log's record limit derives from it."""
FRAME_BYTES_BUILT_IN = 64 * 1024 * 1024
"""What GibRAM 0.3.0 takes a `max_frame_size` of 0 to mean; its default, when the key is absent, is smaller."""
VECTOR_DIM_MAX = 65_536
DURATION_MS_MAX = 365 * 24 * 3_600_000
WHOLE_NUMBER_MAX = 2**53
DATA_DIR_FORBIDDEN = frozenset({"/", "/etc", "/usr", "/bin", "/sbin", "/var", "/tmp", "/root"})  # noqa: S108 -- refused
DURABLE_PLATFORMS = ("linux", "darwin")

VARIABLE_PREFIX = "GIBRAMDB_"
SERVER_VARIABLE = "GIBRAMDB_SERVER"
API_KEY_VARIABLE = "GIBRAMDB_API_KEY"
OTHER_VARIABLES = {SERVER_VARIABLE, API_KEY_VARIABLE}
"""Read by commands that talk to a server; no settings of one."""
# A cluster that has a service named gibramdb puts these into every container beside it; nobody set them.
_SERVICE_LINK = re.compile(r"GIBRAMDB_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)")
_UNIT_MS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


# --- what was set -----------------------------------------------------------------------------------------------------


class Address(msgspec.Struct, frozen=True):
    """Where the server listens. An empty host is every interface; port 0 is any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def beyond_this_machine(self) -> bool:
        """Whether others than this machine may reach it; a name other than localhost may mean anything, so yes."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `server`. `data_dir` is absolute."""

    addr: Address
    data_dir: str
    vector_dim: int
    session_cleanup_interval_ms: int


class SessionStoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `session_store`. Directories are absolute; 0 switches an automatic snapshot off."""

    mode: Literal["ephemeral", "durable"]
    wal_dir: str
    wal_sync_policy: Literal["every_write", "periodic", "never"]
    wal_sync_interval_ms: int
    snapshot_dir: str
    snapshot_interval_ms: int
    snapshot_wal_size_bytes: int
    snapshot_retention_count: int
    snapshot_on_stop: bool
    require_existing: bool


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `tls`. An empty path is none."""

    cert_file: str
    key_file: str
    auto_cert: bool


class AuthSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `auth`."""

    keys: tuple[ApiKey, ...]


class SecuritySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `security`. Quotas are per session, but for the total, and 0 is none."""

    frame_bytes_max: int
    content_bytes_max: int
    sessions_max: int
    session_memory_bytes_max: int
    total_memory_bytes_max: int
    session_documents_max: int
    session_entities_max: int
    session_relationships_max: int
    rate_per_second: int
    rate_burst: int
    idle_timeout_ms: int
    unauth_timeout_ms: int
    stall_timeout_ms: int
    connections_per_ip_max: int
    connections_max: int
    buffered_bytes_max: int


class LoggingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `logging`. `file` is absolute; it is there when `output` is `file`."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["text", "json"]
    output: Literal["stdout", "stderr", "file"]
    file: str


class Config(msgspec.Struct, frozen=True):
    """All settings, checked against each other.

    `origins` tells for each full name (`session_store.mode`) where its value comes from. `warnings` are sentences for
    the operator. `insecure` is whether `--insecure` was given; keys and certificates are gone then.
    """

    server: ServerSettings
    session_store: SessionStoreSettings
    tls: TlsSettings
    auth: AuthSettings
    security: SecuritySettings
    logging: LoggingSettings
    insecure: bool
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


# --- how a value is read ----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A way to read text. `parse` raises ValueError; `allowed` says in words what it takes.

    `entries`: the value is a list of entries (JSON, where a source has no lists), and never shown: it may hold secrets.
    """

    parse: Callable[[str], object]
    allowed: str
    entries: bool = False


def _whole_number(text: str) -> int:
    # A leading zero is refused: YAML 1.1 reads 0750 as octal, a person may not.
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text) or abs(int(text)) > WHOLE_NUMBER_MAX:
        raise ValueError(text)
    return int(text)


def _duration_ms(text: str) -> int:
    match = re.fullmatch(r"(-?)((?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ms|h|m|s)){1,4})", text)
    if match is None and text != "0":
        raise ValueError(text)
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", match[2]) if match else []
    total_ms = sum(Decimal(number) * _UNIT_MS[unit] for number, unit in parts)
    if total_ms != int(total_ms) or total_ms > DURATION_MS_MAX:
        raise ValueError(text)
    return -int(total_ms) if match and match[1] else int(total_ms)


def duration_text(duration_ms: int) -> str:
    """Milliseconds as an operator writes them, in the largest unit that divides them."""
    unit = next(unit for unit, unit_ms in _UNIT_MS.items() if duration_ms % unit_ms == 0)
    return f"{duration_ms // _UNIT_MS[unit]}{unit}" if duration_ms else "0"


def _within(parse: Callable[[str], int], low: int, high: int) -> Callable[[str], int]:
    def parse_within(text: str) -> int:
        value = parse(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse_within


def _between(low: int, high: int = WHOLE_NUMBER_MAX) -> Kind:
    return Kind(_within(_whole_number, low, high), f"a whole number from {low} to {high}")


def _or_built_in(built_in: int, high: int = WHOLE_NUMBER_MAX) -> Kind:
    """A number that can not be switched off: 0 and less mean the built-in default."""

    def parse(text: str) -> int:
        value = _whole_number(text)
        if value > high:
            raise ValueError(text)
        return value if value > 0 else built_in

    return Kind(parse, f"a whole number up to {high}; 0 or less means {built_in}")


_DURATION_WORDS = f"a duration such as 300ms, 1s, 5m or 1h30m, up to {duration_text(DURATION_MS_MAX)}"


def _duration(low_ms: int) -> Kind:
    low = "0 is off" if low_ms == 0 else f"at least {duration_text(low_ms)}"
    return Kind(_within(_duration_ms, low_ms, DURATION_MS_MAX), f"{_DURATION_WORDS}; {low}")


def _duration_or_built_in(built_in_ms: int) -> Kind:
    """A duration that can not be switched off: 0 and less mean the built-in default."""

    def parse(text: str) -> int:
        value_ms = _duration_ms(text)
        return value_ms if value_ms > 0 else built_in_ms

    return Kind(parse, f"{_DURATION_WORDS}; 0 or less means {duration_text(built_in_ms)}")


def _one_of(*words: str, also: Mapping[str, str] | None = None) -> Kind:
    meanings = {word: word for word in words} | dict(also or {})

    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in meanings:
            raise ValueError(text)
        return meanings[word]

    return Kind(parse, ", ".join(words[:-1]) + " or " + words[-1])


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word not in {"true", "yes", "on", "1", "false", "no", "off", "0"}:
        raise ValueError(text)
    return word in {"true", "yes", "on", "1"}


def _path(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError(text)
    # Not Path.resolve: it would follow links, which are for the store to judge. And abspath leaves two leading slashes
    # alone, as POSIX allows them a meaning of their own; here //etc is /etc.
    return re.sub(r"^/+", "/", os.path.abspath(text))  # noqa: PTH100


def _address(text: str) -> Address:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([A-Za-z0-9._-]*)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        raise ValueError(text)
    if match[1]:
        ipaddress.IPv6Address(match[1])
    return Address(match[1] or match[2], int(match[3]))


_QUOTA = Kind(
    lambda text: max(0, _whole_number(text)), f"a whole number up to {WHOLE_NUMBER_MAX}; 0 or less means no limit"
)
_SYNC_POLICY = _one_of("every_write", "periodic", "never")
_FRAME_BYTES = _or_built_in(FRAME_BYTES_BUILT_IN, FRAME_BYTES_LIMIT)
_TRUTH = Kind(_truth, "true or false")
_PATH = Kind(_path, "the path of a directory")
_PATH_OR_EMPTY = Kind(lambda text: _path(text) if text else "", "a path, or nothing")
_ADDRESS = Kind(_address, "HOST:PORT, or :PORT for every interface, with a port from 0 to 65535; IPv6 as [::1]:6161")
_API_KEYS = Kind(
    parse_api_keys,
    "a list of entries with id, key or key_hash, permissions, and perhaps expires_at and sessions",
    entries=True,
)


# --- the table --------------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One thing that may be set. `default` is text, read by the same parser as what an operator writes."""

    name: str
    attribute: str
    kind: Kind
    default: str
    doc: str
    flag: str = ""

    @property
    def section(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def key(self) -> str:
        """The part of the name after the dot."""
        return self.name.partition(".")[2]

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"{VARIABLE_PREFIX}{self.section}__{self.key}".upper()

    def text_in(self, config: Config) -> str:
        """Its value in `config`, as an operator writes it; `auth.keys` gives the ids only."""
        value: object = getattr(getattr(config, self.section), self.attribute)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int) and self.attribute.endswith("_ms"):
            return duration_text(value)
        return ", ".join(key.id for key in value) if isinstance(value, tuple) else str(value)


SETTINGS: tuple[Setting, ...] = (
    Setting("server.addr", "addr", _ADDRESS, "127.0.0.1:6161",
            "Where the server listens; beyond this machine only with keys or TLS, or with `--insecure`.", "--addr"),
    Setting("server.data_dir", "data_dir", _PATH, "./data",
            "Where the store lies, and the trust boundary: operator copies and restores stay inside it.", "--data"),
    Setting("server.vector_dim", "vector_dim", _between(1, VECTOR_DIM_MAX), "1536",
            "How many numbers an embedding has; one value per store, fixed while it holds one.", "--dim"),
    Setting("server.session_cleanup_interval", "session_cleanup_interval_ms", _duration(1), "60s",
            "How often expired sessions are looked for.", "--session-cleanup-interval"),
    Setting("session_store.mode", "mode", _one_of("ephemeral", "durable"), "ephemeral",
            "Whether sessions outlive the process.", "--mode"),
    Setting("session_store.wal_dir", "wal_dir", _PATH_OR_EMPTY, "",
            "Holds the write-ahead log, for one process alone; nothing means `session_wal` inside the data directory."),
    Setting("session_store.wal_sync_policy", "wal_sync_policy", _SYNC_POLICY, "every_write",
            "When the log is synced: before each acknowledgement, every interval, or never (development only).",
            "--wal-sync-policy"),
    Setting("session_store.wal_sync_interval", "wal_sync_interval_ms", _duration(1), "1s",
            "How far the disk may lag behind acknowledgements under `periodic`."),
    Setting("session_store.snapshot_dir", "snapshot_dir", _PATH_OR_EMPTY, "",
            "Holds the snapshots; nothing means `session_snapshots` inside the data directory."),
    Setting("session_store.snapshot_interval", "snapshot_interval_ms", _duration(0), "0",
            "Takes a snapshot each time this much time has passed and something has changed."),
    Setting("session_store.snapshot_wal_size_bytes", "snapshot_wal_size_bytes", _between(0), "0",
            "Takes a snapshot when the log behind the newest has three quarters of this many bytes, so that a start "
            "replays about so much; who writes faster than a snapshot is written goes beyond it. 0 is off."),
    Setting("session_store.snapshot_retention_count", "snapshot_retention_count", _between(1), "3",
            "How many snapshots are kept, each with the log from its cut on."),
    Setting("session_store.snapshot_on_stop", "snapshot_on_stop", _TRUTH, "false",
            "Takes a snapshot before a clean stop, if something has changed; the stop takes as long as that, and the "
            "next start replays nothing."),
    Setting("session_store.require_existing", "require_existing", _TRUTH, "false",
            "Refuses a first start, because a volume that is not mounted looks like one."),
    Setting("tls.cert_file", "cert_file", _PATH_OR_EMPTY, "",
            "The server's certificate in PEM form, with those between it and its root behind it."),
    Setting("tls.key_file", "key_file", _PATH_OR_EMPTY, "",
            "The certificate's private key in PEM form, without a password."),
    Setting("tls.auto_cert", "auto_cert", _TRUTH, "false",
            "Makes a self-signed certificate in the data directory, for development."),
    Setting("auth.keys", "keys", _API_KEYS, "[]",
            "Who may connect, and what each may do; without any, whoever can connect may do everything."),
    Setting("security.max_frame_size", "frame_bytes_max", _FRAME_BYTES, "4194304",
            "The longest frame in bytes that is read from a client."),
    Setting("security.max_content_bytes", "content_bytes_max", _or_built_in(1_048_576, FRAME_BYTES_LIMIT), "1048576",
            "The longest content, description or summary, in UTF-8 bytes."),
    Setting("security.max_sessions", "sessions_max", _or_built_in(10_000), "10000",
            "How many sessions are held at once."),
    Setting("security.max_memory_bytes", "session_memory_bytes_max", _QUOTA, "0",
            "How many bytes one session may hold, by estimate."),
    Setting("security.max_total_memory_bytes", "total_memory_bytes_max", _QUOTA, "0",
            "How many bytes all sessions may hold together, by estimate."),
    Setting("security.max_session_documents", "session_documents_max", _QUOTA, "0",
            "How many documents one session may hold."),
    Setting("security.max_session_entities", "session_entities_max", _QUOTA, "0",
            "How many entities one session may hold."),
    Setting("security.max_session_relationships", "session_relationships_max", _QUOTA, "0",
            "How many relationships one session may hold."),
    Setting("security.rate_limit", "rate_per_second", _or_built_in(1_000), "1000",
            "How many commands a second one API key may send, those in pipelines too; without keys there is no limit."),
    Setting("security.rate_burst", "rate_burst", _or_built_in(100), "100",
            "How many commands one API key may send at once; without keys there is no limit."),
    Setting("security.idle_timeout", "idle_timeout_ms", _duration_or_built_in(300_000), "300s",
            "How long an authenticated connection may be silent; without keys there is no limit."),
    Setting("security.unauth_timeout", "unauth_timeout_ms", _duration_or_built_in(10_000), "10s",
            "How long a connection may take for the handshake and to authenticate."),
    Setting("security.stall_timeout", "stall_timeout_ms", _duration_or_built_in(30_000), "30s",
            "How long a half-sent frame, or answers that are not taken, may move fewer than 16 KiB a second."),
    Setting("security.max_conns_per_ip", "connections_per_ip_max", _or_built_in(50), "50",
            "How many connections one address may hold open; of IPv6, one /64 network."),
    Setting("security.max_connections", "connections_max", _or_built_in(4_096), "4096",
            "How many connections are held open in all."),
    Setting("security.max_buffered_bytes", "buffered_bytes_max", _or_built_in(1_073_741_824), "1073741824",
            "How many bytes of requests and of answers under way are held, of all connections together."),
    Setting("logging.level", "level", _one_of("debug", "info", "warning", "error", also={"warn": "warning"}), "info",
            "The least severity that is logged.", "--log-level"),
    Setting("logging.format", "format", _one_of("text", "json"), "text",
            "Lines for people, or one JSON object a line."),
    Setting("logging.output", "output", _one_of("stdout", "stderr", "file"), "stdout",
            "Where the log lines go."),
    Setting("logging.file", "file", _PATH_OR_EMPTY, "",
            "The file for `output: file`; it is reopened when it has been moved away."),
)  # fmt: skip
"""Every setting, in the order of the documents."""

BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}
SECTIONS: tuple[str, ...] = tuple(dict.fromkeys(setting.section for setting in SETTINGS))


# --- refusals ---------------------------------------------------------------------------------------------------------


def _refusal(name: str, found: str, origin: str, allowed: str) -> ConfigError:
    return ConfigError(f"{name}: found {found} ({origin}); allowed: {allowed}")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "...")


def _unknown(name: str, origin: str, candidates: Iterable[str], allowed: str) -> ConfigError:
    # Names are compared without the case and without the separators: those are what people get wrong in variables.
    plain = {re.sub(r"[._]+", "_", candidate).lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(re.sub(r"[._]+", "_", name).lower(), plain, n=1)
    hint = f"; did you mean {plain[near[0]]}?" if near else ""
    return _refusal(name, f"a name that is no setting{hint}", origin, allowed)


# --- sources ----------------------------------------------------------------------------------------------------------


class _Given(NamedTuple):
    name: str
    text: str
    origin: str


def _read_file(path: str) -> Iterator[_Given]:
    try:
        from gibramdb.config_file import read_config_file  # noqa: PLC0415 -- it needs PyYAML, and most callers have no file
    except ModuleNotFoundError as missing:
        raise MissingExtraError(f"{path}: reading it needs PyYAML: pip install 'gibramdb[server]'") from missing
    for section, section_origin, entries in read_config_file(path):
        if section not in SECTIONS:
            raise _unknown(section, section_origin, [*SECTIONS, *BY_NAME], "the sections " + ", ".join(SECTIONS))
        for entry in entries:
            name = f"{section}.{entry.key}"
            if name not in BY_NAME:
                keys = ", ".join(setting.key for setting in SETTINGS if setting.section == section)
                raise _unknown(name, entry.origin, BY_NAME, f"in {section}: {keys}")
            if isinstance(entry.value, str):
                yield _Given(name, entry.value, entry.origin)
            elif BY_NAME[name].kind.entries:
                yield _Given(name, json.dumps(list(entry.value)), entry.origin)
            else:
                raise _refusal(name, "a list", entry.origin, BY_NAME[name].kind.allowed)


def _read_environment(environment: Mapping[str, str]) -> Iterator[_Given]:
    by_variable = {setting.variable: setting.name for setting in SETTINGS}
    for variable, text in environment.items():
        if not variable.startswith(VARIABLE_PREFIX) or variable in OTHER_VARIABLES or _SERVICE_LINK.fullmatch(variable):
            continue
        if variable not in by_variable:
            allowed = f"{VARIABLE_PREFIX}SECTION__KEY, with two underscores between a section and its key"
            raise _unknown(variable, "environment", by_variable, allowed)
        yield _Given(by_variable[variable], text, f"environment variable {variable}")


def _read_flags(flags: Mapping[str, str]) -> Iterator[_Given]:
    for name, text in flags.items():
        if name not in BY_NAME:
            raise _unknown(name, "argument", BY_NAME, ", ".join(BY_NAME))
        yield _Given(name, text, f"flag {BY_NAME[name].flag}" if BY_NAME[name].flag else "argument")


# --- putting it together ----------------------------------------------------------------------------------------------


def load_config(
    path: str | os.PathLike[str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    insecure: bool = False,
    platform: str = sys.platform,
    now_ms: int = 0,
) -> Config:
    """Read and check every setting.

    Args:
        path: the YAML file, or None for none.
        environment: where GIBRAMDB_ variables are looked for; None for nowhere.
        flags: full name (`server.data_dir`) to text, as an operator would write it.
        insecure: drop keys and certificates, and allow listening beyond this machine.
        platform: as `sys.platform`.
        now_ms: the time, for warnings about keys whose own is over; 0 for none of them.

    Raises:
        ConfigError: a setting is unknown, malformed, or contradicts another; names it, what was found and where, and
            what is allowed.
        MissingExtraError: a file is given and PyYAML is not installed, or a hash of a key and bcrypt is not.
    """
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for given in itertools.chain(
        (_Given(setting.name, setting.default, "default") for setting in SETTINGS),
        _read_file(os.fspath(path)) if path is not None else (),
        _read_environment(environment or {}),
        _read_flags(flags or {}),
    ):
        setting = BY_NAME[given.name]
        try:
            values[given.name] = setting.kind.parse(given.text)
        except EntryError as error:
            raise _refusal(given.name + error.where, error.found, given.origin, error.allowed) from None
        except (ValueError, RecursionError):
            found = "something else (not shown, it may hold a key)" if setting.kind.entries else _quoted(given.text)
            raise _refusal(given.name, found, given.origin, setting.kind.allowed) from None
        origins[given.name] = given.origin

    warnings: list[str] = []
    if insecure:
        dropped = [name for name in ("tls.cert_file", "tls.key_file", "tls.auto_cert", "auth.keys") if values[name]]
        for name in dropped:
            warnings.append(f"--insecure drops {name} ({origins[name]}).")
            values[name] = BY_NAME[name].kind.parse(BY_NAME[name].default)
            origins[name] = "dropped by --insecure"

    data_dir = PurePath(str(values["server.data_dir"]))
    for name, directory in (("wal_dir", "session_wal"), ("snapshot_dir", "session_snapshots")):
        values[f"session_store.{name}"] = values[f"session_store.{name}"] or str(data_dir / directory)
    config = Config(
        server=_section("server", values, ServerSettings),
        session_store=_section("session_store", values, SessionStoreSettings),
        tls=_section("tls", values, TlsSettings),
        auth=_section("auth", values, AuthSettings),
        security=_section("security", values, SecuritySettings),
        logging=_section("logging", values, LoggingSettings),
        insecure=insecure,
        origins=origins,
    )
    _check_directories(config)
    _check_exposure(config)
    _check_buffers(config)
    _check_store_and_logging(config, platform)
    return msgspec.structs.replace(config, warnings=(*warnings, *_exposures(config, now_ms), *_warnings(config)))


_SectionT = TypeVar("_SectionT")


def _section(section: str, values: Mapping[str, object], kind: type[_SectionT]) -> _SectionT:
    # convert() holds the table and the class together: a field too many, too few or of another type fails every load.
    fields = {setting.attribute: values[setting.name] for setting in SETTINGS if setting.section == section}
    return msgspec.convert(fields, kind)


def _check_directories(config: Config) -> None:
    origins = config.origins
    if config.server.data_dir in DATA_DIR_FORBIDDEN:
        allowed = "a directory of its own, such as /var/lib/gibramdb"
        raise _refusal("server.data_dir", _quoted(config.server.data_dir), origins["server.data_dir"], allowed)
    data = ("server.data_dir", config.server.data_dir)
    wal = ("session_store.wal_dir", config.session_store.wal_dir)
    snapshot = ("session_store.snapshot_dir", config.session_store.snapshot_dir)
    for (name, path), (other, outer) in ((wal, snapshot), (snapshot, wal), (data, wal), (data, snapshot)):
        if PurePath(path).is_relative_to(outer):
            relation = "the same as" if path == outer else "inside"
            found = f"{_quoted(path)}, {relation} {other} {_quoted(outer)} ({origins[other]})"
            allowed = "three distinct directories, of which wal_dir and snapshot_dir may lie inside data_dir"
            raise _refusal(name, found, origins[name], allowed)


def _check_exposure(config: Config) -> None:
    """Refuse what would be served with less protection than was asked for."""
    tls, origins = config.tls, config.origins
    for name, other in (("tls.cert_file", "tls.key_file"), ("tls.key_file", "tls.cert_file")):
        if BY_NAME[name].text_in(config) and not BY_NAME[other].text_in(config):
            raise _refusal(name, f"a path, but no {other}", origins[name], "both, or neither")
    addr = config.server.addr
    is_open = not config.auth.keys and not tls.cert_file and not tls.auto_cert
    if addr.beyond_this_machine and is_open and not config.insecure:
        found = f"'{addr}', which others than this machine may reach, and neither auth.keys nor a certificate"
        allowed = (
            f"127.0.0.1:{addr.port} or another loopback address, or auth.keys, best together with TLS. "
            "Or start with --insecure to let in whoever can connect"
        )
        raise _refusal("server.addr", found, origins["server.addr"], allowed)


def _check_buffers(config: Config) -> None:
    name, frame = "security.max_buffered_bytes", config.security.frame_bytes_max
    if config.security.buffered_bytes_max < frame:
        found = f"{config.security.buffered_bytes_max}, less than one frame of security.max_frame_size"
        raise _refusal(name, found, config.origins[name], f"a whole number from {frame}")


def _check_store_and_logging(config: Config, platform: str) -> None:
    store, origins = config.session_store, config.origins
    if store.mode == "durable" and platform not in DURABLE_PLATFORMS:
        found = f"durable on {platform}"
        allowed = "durable on " + " or ".join(DURABLE_PLATFORMS) + "; ephemeral anywhere"
        raise _refusal("session_store.mode", found, origins["session_store.mode"], allowed)
    if store.mode == "ephemeral" and store.require_existing:
        name = "session_store.require_existing"
        raise _refusal(name, "true while session_store.mode is ephemeral", origins[name], "true with mode durable")
    if config.logging.output == "file" and not config.logging.file:
        raise _refusal(
            "logging.output", "file, but no logging.file", origins["logging.output"], "file with a logging.file"
        )


def _exposures(config: Config, now_ms: int) -> Iterator[str]:
    addr, keys, tls = config.server.addr, config.auth.keys, config.tls
    if config.insecure:
        yield (
            f"--insecure: nothing is encrypted and nobody is asked who they are; "
            f"whoever can reach {addr} may read and change everything."
        )
    elif addr.beyond_this_machine and keys and not tls.cert_file and not tls.auto_cert:
        yield f"{addr} is reached without TLS: keys and data travel readable for whoever is on the way."
    elif addr.beyond_this_machine and not keys:
        yield f"auth.keys is empty: whoever can reach {addr} may read and change everything."
    if tls.cert_file and tls.auto_cert:
        yield "tls.cert_file is set, so tls.auto_cert has no effect."
    for key in keys:
        if 0 < key.expires_at_ms <= now_ms:
            yield f"auth.keys {key.id!r}: its time is over, nobody can use it any more."


def _warnings(config: Config) -> Iterator[str]:
    store = config.session_store
    if config.logging.file and config.logging.output != "file":
        yield f"logging.output is {config.logging.output}, so logging.file has no effect."
    if store.mode == "ephemeral":
        given = [name for name, origin in config.origins.items() if origin != "default"]
        idle = [name for name in given if name.startswith("session_store.") and name != "session_store.mode"]
        if idle:
            yield f"session_store.mode is ephemeral, so these have no effect: {', '.join(idle)}."
        return
    if store.wal_sync_policy == "never":
        yield (
            "session_store.wal_sync_policy is never: what was acknowledged may be lost when the machine fails. "
            "This is for development only."
        )
    if not store.snapshot_interval_ms and not store.snapshot_wal_size_bytes:
        yield (
            "Neither session_store.snapshot_interval nor session_store.snapshot_wal_size_bytes is set: "
            "set at least one in production, so that what a restart must replay stays bounded."
        )
