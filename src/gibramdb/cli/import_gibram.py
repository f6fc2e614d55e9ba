"""`gibramdb import-gibram`: bring over what a GibRAM 0.3.0 server has stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gibramdb.cli import flags
from gibramdb.cli.screen import screen


def import_gibram(
    source: Annotated[Path, typer.Argument(help="GibRAM's data directory; it is only read.", metavar="OLD_DATA_DIR")],
    into: Annotated[Path, typer.Option("--into", help="The new store's data directory.", metavar="NEW_DATA_DIR")],
    dim: flags.Dim = None,
    wal_dir: Annotated[
        Path | None, typer.Option(help="Its session_store.wal_dir, where that is no folder of OLD_DATA_DIR.")
    ] = None,
    snapshot_dir: Annotated[
        Path | None, typer.Option(help="Its session_store.snapshot_dir, where that is no folder of OLD_DATA_DIR.")
    ] = None,
) -> None:
    """Make a durable store of what GibRAM 0.3.0 has in OLD_DATA_DIR, whole or not at all, and say what was taken."""
    from gibramdb.database.importing import read_gibram, store_gibram

    settings = flags.config_from(None, insecure=False, data=str(into), dim=dim, mode="durable")
    console = screen()
    with console.status(f"reading {source}"):
        imported, settings = read_gibram(source, settings, wal_dir, snapshot_dir)
    with console.status(f"writing {into}"):
        store_gibram(imported, settings)
    report = imported.report
    snapshot = log = "none"
    if report.snapshot_path is not None:
        snapshot = f"{report.snapshot_path.name}, version {report.snapshot_version}"
    if report.log_path is not None:
        log = f"{report.records:,} records from offset {report.replay_offset:,}"
    table = Table(show_header=False, box=None)
    for name, value in (
        ("snapshot", snapshot),
        ("log", log),
        ("torn bytes", f"{report.torn_bytes:,}"),
        ("sessions", f"{report.sessions:,}"),
        ("documents", f"{report.documents:,}"),
        ("text units", f"{report.textunits:,}"),
        ("entities", f"{report.entities:,}"),
        ("relationships", f"{report.relationships:,}"),
        ("communities", f"{report.communities:,}"),
        ("links", f"{report.links:,}"),
    ):
        table.add_row(name, value)
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}")
    console.print(f"Serve it: gibramdb serve --mode durable --dim {settings.server.vector_dim} --data {into}")
