"""`gibramdb index`: text files into a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gibramdb.cli.main import INTERRUPTED
from gibramdb.cli.screen import Screen, screen
from gibramdb.cli.target import DEFAULT_SERVER, DataDirectory, Server, SessionName, Timeout, Tls, open_session
from gibramdb.errors import InvalidArgumentError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from gibramdb.pipeline import IndexReport, Progress, Source
    from gibramdb.pipeline.sources import Found, Skipped

SKIPPED_SHOWN_MAX = 10

STAGES = {
    "read": "files read",
    "split": "documents split",
    "extract": "text units searched for names",
    "documents": "documents stored",
    "entities": "entities embedded and stored",
    "relationships": "relationships stored",
    "textunits": "text units embedded and stored",
}


def index(
    paths: Annotated[list[Path], typer.Argument(help="Text and Markdown files, or directories that hold some.")],
    *,
    session: SessionName,
    server: Server = DEFAULT_SERVER,
    tls: Tls = None,
    timeout: Timeout = None,
    data: DataDirectory = None,
) -> None:
    """Read text and Markdown files, find what they speak of, and store all of it, searchable, in a session.

    The models that it needs run on this machine. Stop it at any time and run it again: what is stored already is
    skipped.
    """
    from gibramdb.pipeline import SemanticSplitter, SentenceEncoder
    from gibramdb.pipeline import index as index_sources
    from gibramdb.pipeline.sources import find

    # Both before anything else: what is missing should be said before any work is done.
    splitter, embedder = SemanticSplitter(), SentenceEncoder()
    files, skipped = find(paths)
    with (
        open_session(session, server, tls, timeout, data, vector_dim=embedder.dim, may_begin=True) as target,
        _bars() as bars,
    ):
        try:
            sources = _load(files, skipped, bars)
            if not sources:
                raise InvalidArgumentError(_nothing_to_read(paths, skipped))
            report = index_sources(
                target, sources, splitter=splitter, embedder=embedder, progress=lambda step: _show(bars, step)
            )
        except KeyboardInterrupt:
            bars.stop()
            typer.echo("stopped; what is stored stays. Run the same command again to go on.", err=True)
            raise typer.Exit(INTERRUPTED) from None
    _print_report(report, skipped, session)


@contextmanager
def _bars() -> Iterator[Bars]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    # On standard error, so that what the command prints can be piped.
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Screen(stderr=True),
    ) as bars:
        yield bars


def _load(files: list[Found], skipped: list[Skipped], bars: Bars) -> list[Source]:
    from gibramdb.pipeline import Progress, Source
    from gibramdb.pipeline.sources import load

    sources: list[Source] = []
    for done, file in enumerate(files, 1):
        loaded = load(file)
        if isinstance(loaded, Source):
            sources.append(loaded)
        else:
            skipped.append(loaded)
        _show(bars, Progress("read", done, len(files)))
    return sources


def _show(bars: Bars, step: Progress) -> None:
    if not step.total:
        return
    description = STAGES[step.stage]
    task = next((task for task in bars.tasks if task.description == description), None)
    task_id = bars.add_task(description, total=step.total) if task is None else task.id
    bars.update(task_id, completed=step.done)


def _nothing_to_read(paths: list[Path], skipped: list[Skipped]) -> str:
    from gibramdb.pipeline.sources import KINDS

    where = ", ".join(map(str, paths))
    passed_over = "".join(f"\n  {each.path}: {each.reason}" for each in skipped[:SKIPPED_SHOWN_MAX])
    return f"no text found in {where}; files that end in {', '.join(KINDS)} are read{passed_over}"


def _print_report(report: IndexReport, skipped: list[Skipped], session: str) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("stored")
    table.add_column("new", justify="right")
    table.add_column("there already", justify="right")
    for name, tally in (
        ("documents", report.documents),
        ("text units", report.textunits),
        ("entities", report.entities),
        ("relationships", report.relationships),
        ("links", report.links),
    ):
        table.add_row(name, f"{tally.added:,}", f"{tally.skipped:,}")
    console = screen()
    console.print(f"session {session}", style="italic")
    console.print(table)
    took = f"{report.duration_ms / 1000:.1f} s"
    if report.added:
        console.print(f"done in {took}")
    else:
        console.print(f"nothing new: all of it was stored already (looked at in {took})")
    if report.textunits_outdated:
        console.print(
            f"{report.textunits_outdated:,} text units are no longer in their files; they stay in the session"
        )
    for each in skipped[:SKIPPED_SHOWN_MAX]:
        console.print(f"skipped {each.path}: {each.reason}")
    if len(skipped) > SKIPPED_SHOWN_MAX:
        console.print(f"and {len(skipped) - SKIPPED_SHOWN_MAX:,} more files skipped")
