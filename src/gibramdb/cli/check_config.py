"""`gibramdb check-config`: what `serve` would run with, and where each setting comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gibramdb.cli import flags
from gibramdb.cli.logging_setup import check_log_file
from gibramdb.cli.screen import screen
from gibramdb.config import SETTINGS

ConfigFile = Annotated[Path | None, typer.Argument(help="The YAML file.", metavar="FILE", show_default=False)]


def check_config(
    file: ConfigFile = None,
    addr: flags.Addr = None,
    data: flags.Data = None,
    dim: flags.Dim = None,
    mode: flags.Mode = None,
    wal_sync_policy: flags.WalSyncPolicy = None,
    session_cleanup_interval: flags.SessionCleanupInterval = None,
    log_level: flags.LogLevel = None,
    insecure: flags.Insecure = False,
) -> None:
    """Check a configuration and show every setting, its value and its origin; nothing is started."""
    config = flags.config_from(
        file,
        insecure,
        addr=addr,
        data=data,
        dim=dim,
        session_cleanup_interval=session_cleanup_interval,
        mode=mode,
        wal_sync_policy=wal_sync_policy,
        log_level=log_level,
    )
    check_log_file(config.logging)
    if config.tls.cert_file:
        from gibramdb.clock import SystemClock
        from gibramdb.server import tls

        tls.context_from_files(config, SystemClock().now_ms())
    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "value", "origin"):
        table.add_column(heading, overflow="fold")
    for setting in SETTINGS:
        table.add_row(setting.name, setting.text_in(config), config.origins[setting.name])
    console = screen()
    console.print(table)
    for warning in config.warnings:
        console.print(f"warning: {warning}")
