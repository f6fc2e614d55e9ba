"""`gibramdb store`: what can be done with a store's files while no server runs on them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gibramdb.cli import flags

app = typer.Typer(no_args_is_help=True, help="Work on a store's directories while no server runs on them.")


@app.command()
def verify(config: flags.ConfigFile = None, data: flags.Data = None, dim: flags.Dim = None) -> None:
    """Read a store as a start would, change nothing, and say what is in it."""
    settings = flags.config_from(config, insecure=False, data=data, dim=dim, mode="durable")
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
    Console(highlight=False, soft_wrap=True).print(table)


@app.command()
def adopt(
    config: flags.ConfigFile = None,
    data: flags.Data = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this, only say what it would mean.")] = False,
) -> None:
    """Accept that a directory or marker of a store is gone for good."""
    settings = flags.config_from(config, insecure=False, data=data, mode="durable")
    from gibramdb.database.opening import adopt as adopt_store

    said = adopt_store(settings, accept=yes)
    console = Console()
    for sentence in said:
        console.print(sentence, soft_wrap=True, highlight=False)
    if yes:
        console.print("Done. Start the server again.")
    else:
        console.print("Nothing has been changed. To accept this, run the same command with --yes.")
