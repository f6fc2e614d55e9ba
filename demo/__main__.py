"""gibramdb at work: index the World Factbook, ask it, kill the server under load, and count what was lost.

python -m demo            about a minute
python -m demo --all      all of it, whole: 254 different profiles under 256 codes
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.rule import Rule
from rich.table import Table

from demo import crash, factbook
from demo.questions import QUESTIONS, ask
from demo.server import DemoServer
from gibramdb.cli.index import STAGES
from gibramdb.cli.screen import Screen
from gibramdb.pipeline import Progress, SentenceEncoder, index
from gibramdb.pipeline.indexing import IndexReport

COUNTRIES_BY_DEFAULT = 120
LOAD_SECONDS = 3.0
SESSION = "factbook"
SAMPLES = 50


def main() -> int:
    """Tell the story; the exit status is 0 only if nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="gibramdb at work on the World Factbook")
    parser.add_argument("--all", action="store_true", help="all profiles, whole; several minutes")
    parser.add_argument("--countries", type=int, default=COUNTRIES_BY_DEFAULT, help="how many profiles otherwise")
    parser.add_argument("--data", type=Path, default=Path("demo-data"), help="a directory for the demo; emptied first")
    options = parser.parse_args()
    console = Screen(width=None if sys.stdout.isatty() else 100)
    data: Path = options.data
    if data.exists() and any(data.iterdir()) and not (data / "server.log").exists():
        console.print(f"{data} is not empty and not from an earlier demo: choose another directory with --data")
        return 64
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    began = time.monotonic()
    server = DemoServer(data / "store", data / "server.log")
    servers = [server]
    try:
        return _tell(console, data, servers, None if options.all else options.countries)
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 130
    finally:
        for each in servers:
            each.stop()
        command = os.path.relpath(Path(sys.executable).with_name("gibramdb"))
        console.print(f"\n{time.monotonic() - began:.0f} s in all. To look around:", style="dim")
        console.print(f"  {command} serve --mode durable --dim 512 --data {data / 'store'}", soft_wrap=True)
        console.print(f'  {command} query "which countries border Germany?" --session {SESSION}', soft_wrap=True)


def _tell(console: Screen, data: Path, servers: list[DemoServer], country_count: int | None) -> int:
    server = servers[0]
    console.print(Rule("1. A durable server on a fresh directory"))
    console.print(f"Serving on 127.0.0.1:{server.port}, every write synced before it is acknowledged.")
    console.print(f"Its data: {data / 'store'}   its log: {data / 'server.log'}")

    console.print(Rule("2. The World Factbook becomes a graph, without a key and without a network"))
    embedder = SentenceEncoder()
    report = _index(console, server, embedder, country_count)
    _print_report(console, report)

    console.print(Rule("3. Questions whose answers need a hop"))
    vectors = embedder.embed([question.text for question in QUESTIONS])
    with server.connect() as store:
        over_hops = ask(store.session(SESSION), console, list(zip(QUESTIONS, vectors, strict=True)))
        digest_before = store.session(SESSION).digest().sha256

    console.print(Rule("4. Writing from several connections, and then SIGKILL"))
    console.print(
        f"{crash.CONNECTIONS} connections write; each acknowledgement goes into {data / 'ledger.txt'} when it is read. "
        f"After {LOAD_SECONDS:.0f} seconds the server is killed in the middle of it.",
        soft_wrap=True,
    )
    ledger = crash.Ledger(data / "ledger.txt")
    crash.write_until_killed(server, ledger, LOAD_SECONDS)
    console.print(f"Killed, after {len(ledger):,} acknowledged changes.")

    console.print(Rule("5. The same directory, a new process"))
    restarted = DemoServer(data / "store", data / "server.log")
    servers.append(restarted)
    with restarted.connect() as store:
        comparison = crash.compare(store, ledger)
        nearest = crash.nearest_is_itself(store, ledger, SAMPLES)
        is_same = store.session(SESSION).digest().sha256 == digest_before
        digest = store.digest()
    recovery = json.loads((data / "store" / "recovery-report.json").read_text())
    table = Table(show_header=False)
    for name, value in (
        ("acknowledged before the kill", f"{comparison.acknowledged:,}"),
        ("found after it, each compared", f"{comparison.found:,}"),
        ("lost", f"{comparison.lost:,}"),
        ("embeddings found as their own nearest", f"{nearest} of {SAMPLES}"),
        ("torn bytes cut", f"{recovery['torn_bytes']:,}"),
        ("log replayed", f"{recovery['records_replayed']:,} records, {recovery['log_bytes'] / 1e6:.1f} MB"),
        ("recovery time", f"{recovery['duration_ms'] / 1000:.2f} s"),
        ("from start of the process to serving", f"{restarted.starting_s:.2f} s"),
        ("digest of the factbook session", "as before the kill" if is_same else "DIFFERENT"),
        ("state digest", f"{digest.sha256[:32]}… over {digest.object_count:,} objects"),
    ):
        bad = (name == "lost" and comparison.lost > 0) or value == "DIFFERENT"
        table.add_row(name, value, style="bold red" if bad else "bold" if name == "lost" else "")
    console.print(table)
    kept = comparison.lost == 0 and comparison.acknowledged > 0 and is_same and nearest == SAMPLES and over_hops > 0
    if kept:
        console.print("Nothing was lost.", style="bold green")
    else:
        console.print("Something was lost: see above.", style="bold red")
    return 0 if kept else 1


def _index(console: Screen, server: DemoServer, embedder: SentenceEncoder, country_count: int | None) -> IndexReport:
    if country_count is None:
        facts = factbook.read()
        console.print(f"All {len(facts.sources)} profiles, whole.")
    else:
        facts = factbook.read(country_count, factbook.SMALL_FIRST)
        console.print(
            f"The {len(facts.sources)} countries with the most stated neighbours and partners, and of each profile "
            f"{', '.join(factbook.SMALL_FIRST)}; `make demo ARGS=--all` takes everything.",
            soft_wrap=True,
        )
    stated = sum(len(source.relationships) for source in facts.sources)
    console.print(f"{stated:,} relationships stand in its fields: borders, trade partners, memberships.")
    if facts.unresolved:
        names = ", ".join(name for name, _ in facts.unresolved.most_common(5))
        console.print(
            f"{sum(facts.unresolved.values())} mentions of partners that no profile answers to are left out ({names}).",
            style="dim",
            soft_wrap=True,
        )
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with server.connect() as store, Bars(*columns, console=console) as bars:
        tasks = {}

        def show(step: Progress) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = bars.add_task(STAGES[step.stage], total=step.total)
            bars.update(tasks[step.stage], completed=step.done)

        return index(store.session(SESSION), facts.sources, embedder=embedder, progress=show)


def _print_report(console: Screen, report: IndexReport) -> None:
    console.print(
        f"Stored in {report.duration_ms / 1000:.1f} s: {report.documents.added:,} documents, "
        f"{report.textunits.added:,} text units, {report.entities.added:,} entities, "
        f"{report.relationships.added:,} relationships, {report.links.added:,} links.",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
