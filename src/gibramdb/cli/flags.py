"""The flags that set settings: `serve` and `check-config` take the same ones and read them here.

Flags are text until `config` reads them, so that `--dim many` is refused in the same words as in a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gibramdb.clock import SystemClock
from gibramdb.config import BY_NAME, SETTINGS, Config, load_config

GIBRAM_FLAGS = frozenset({"config", "addr", "data", "dim", "insecure", "log-level", "session-cleanup-interval"})
"""What GibRAM 0.3.0's server takes with one dash or with two."""


def _setting(name: str, metavar: str) -> typer.models.OptionInfo:
    setting = BY_NAME[name]
    option: typer.models.OptionInfo = typer.Option(
        setting.flag, help=setting.doc, metavar=metavar, show_default=False, rich_help_panel="Settings"
    )
    return option


ConfigFile = Annotated[Path | None, typer.Option("--config", help="The YAML file.", metavar="FILE", show_default=False)]
Addr = Annotated[str | None, _setting("server.addr", "HOST:PORT")]
Data = Annotated[str | None, _setting("server.data_dir", "DIR")]
Dim = Annotated[str | None, _setting("server.vector_dim", "NUMBER")]
SessionCleanupInterval = Annotated[str | None, _setting("server.session_cleanup_interval", "DURATION")]
Mode = Annotated[str | None, _setting("session_store.mode", "MODE")]
WalSyncPolicy = Annotated[str | None, _setting("session_store.wal_sync_policy", "POLICY")]
LogLevel = Annotated[str | None, _setting("logging.level", "LEVEL")]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Drop keys and certificates, and allow an address beyond this machine: whoever connects is let in.",
        rich_help_panel="Settings",
    ),
]


def config_from(file: Path | None, insecure: bool, **flags: str | None) -> Config:
    """The settings of this process: defaults, `file`, its environment, and those of its flags that were given.

    `flags` are named as in Python: `wal_sync_policy` for `--wal-sync-policy`.

    Raises:
        ConfigError: as `load_config`.
        MissingExtraError: as `load_config`.
    """
    names = {setting.flag.removeprefix("--").replace("-", "_"): setting.name for setting in SETTINGS if setting.flag}
    given = {names[flag]: text for flag, text in flags.items() if text is not None}
    return load_config(file, environment=os.environ, flags=given, insecure=insecure, now_ms=SystemClock().now_ms())


def with_two_dashes(arguments: list[str]) -> list[str]:
    """GibRAM's single-dash flags as ours: `-addr :6161` becomes `--addr :6161`."""
    return [
        f"-{argument}" if argument[:1] == "-" and argument[1:].partition("=")[0] in GIBRAM_FLAGS else argument
        for argument in arguments
    ]
