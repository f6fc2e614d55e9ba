"""`gibramdb store`: what can be done with a store's files while no server runs on them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Column, Table

from gibramdb.cli import flags
from gibramdb.cli.screen import screen
from gibramdb.config import Config
from gibramdb.errors import ConfigError

Directory = Annotated[
    str | None, typer.Argument(metavar="DIR", help="The data directory; as --data.", show_default=False)
]

app = typer.Typer(no_args_is_help=True, help="Work on a store's directories while no server runs on them.")


@app.command()
def verify(
    directory: Directory = None,
    config: flags.ConfigFile = None,
    data: flags.Data = None,
    dim: flags.Dim = None,
) -> None:
    """Read a store as a start would, change nothing, and say what is in it."""
    settings = _settings(directory, config, data, dim)
    from gibramdb.database.opening import verify as verify_store

    recovered, digest = verify_store(settings)
    torn = recovered.torn_bytes
    table = Table(show_header=False, box=None)
    for name, value in (
        ("snapshot", "none" if recovered.snapshot is None else str(recovered.snapshot.number)),
        ("log", "none" if recovered.last is None else str(recovered.last[0])),
        ("generations", str(recovered.generations)),
        ("records", f"{recovered.records:,}"),
        ("log bytes", f"{recovered.log_bytes:,}"),
        ("end LSN", f"{recovered.end_lsn:,}"),
        ("torn bytes", f"{torn:,}" + (", never acknowledged; the next start puts them aside" if torn else "")),
        ("sessions", f"{len(recovered.state.sessions):,}"),
        ("objects", f"{sum(each.object_count() for each in recovered.state.sessions.values()):,}"),
        ("state digest", digest),
    ):
        table.add_row(name, value)
    console = screen()
    console.print(table)
    if recovered.missing:
        console.print(recovered.missing)


@app.command()
def inspect(directory: Directory = None, config: flags.ConfigFile = None, data: flags.Data = None) -> None:
    """List snapshots and log generations, each read and checked by itself. Exit code 65 if any is damaged."""
    settings = _settings(directory, config, data)
    from gibramdb.database.repair import inspect as inspect_store

    snapshots, logs = inspect_store(settings)
    console = screen()
    # A name that is cut short helps nobody.
    table = Table(Column("snapshot", overflow="fold"), "created (UTC)", "cut LSN", "sessions", "objects", box=None)
    for each in snapshots:
        created = dt.datetime.fromtimestamp(each.created_at_ms / 1000, dt.UTC)
        when = f"{created:%Y-%m-%d %H:%M:%S}" if each.created_at_ms else ""
        row = (f"{each.cut_lsn:,}", f"{each.sessions:,}", f"{each.objects:,}")
        table.add_row(each.path.name, when, *(("", "", "damaged") if each.error else row))
    console.print(table)
    table = Table(Column("log", overflow="fold"), "from LSN", "to LSN", "records", "torn bytes", box=None)
    for log in logs:
        figures = (log.base_lsn, log.end_lsn, log.records)  # of one that is damaged: as far as it can be read
        torn = "damaged" if log.error else f"{log.torn_bytes:,}"
        table.add_row(log.path.name, *(f"{figure:,}" for figure in figures), torn)
    console.print(table)
    errors = [each.error for each in snapshots if each.error] + [each.error for each in logs if each.error]
    for error in errors:
        console.print(error)
    if errors:
        raise typer.Exit(65)


@app.command()
def repair(
    directory: Directory = None,
    config: flags.ConfigFile = None,
    data: flags.Data = None,
    dim: flags.Dim = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what it would mean.")] = False,
) -> None:
    """Make a store start that does not; say first what would be lost. What is taken out is kept in a folder."""
    settings = _settings(directory, config, data, dim)
    from gibramdb.database.repair import propose
    from gibramdb.database.repair import repair as repair_store

    console = screen()
    proposal = propose(settings)
    if proposal is None:
        console.print("Nothing is wrong with this store: it starts.")
        from gibramdb.database.opening import verify as verify_store

        if missing := verify_store(settings)[0].missing:
            console.print(missing)
        return
    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(overflow="fold")  # a path that is cut short helps nobody
    table.add_row("wrong", proposal.why)
    table.add_row("kept", proposal.keeps)
    table.add_row("lost", proposal.loses)
    for path in proposal.set_aside:
        table.add_row("set aside", str(path))
    for path in proposal.shared:
        table.add_row("stays", f"{path}, which a snapshot set aside needs too")
    if proposal.cut is not None:
        table.add_row("cut", f"{proposal.cut[0]} after {proposal.cut[1]:,} bytes; the whole file is set aside first")
    console.print(table)
    if not yes:
        console.print("Nothing has been changed. To do this, run the same command with --yes.")
        return
    aside, digest = repair_store(settings)
    console.print(
        f"Done; what was taken out lies in folders named {aside}, beside what is left. State digest: {digest}"
    )


@app.command()
def adopt(
    directory: Directory = None,
    config: flags.ConfigFile = None,
    data: flags.Data = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what it would mean.")] = False,
) -> None:
    """Accept that a directory or marker of a store is gone for good."""
    settings = _settings(directory, config, data)
    from gibramdb.database.opening import adopt as adopt_store

    said = adopt_store(settings, accept=yes)
    console = screen()
    for sentence in said:
        console.print(sentence)
    if yes:
        console.print("Done. Start the server again.")
    else:
        console.print("Nothing has been changed. To accept this, run the same command with --yes.")


def _settings(directory: str | None, config: Path | None, data: str | None, dim: str | None = None) -> Config:
    if directory is not None and data is not None:
        raise ConfigError(f"the data directory is given twice: {directory} and --data {data}")
    settings = flags.config_from(config, insecure=False, data=directory or data, dim=dim, mode="durable")
    if settings.origins["server.vector_dim"] == "default":
        # Only the operator's words could contradict the store: 0 is whatever its embeddings have.
        settings = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, vector_dim=0))
    return settings
