"""`gibramdb query`: a question, and what a session knows about it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from gibramdb.cli.screen import Screen
from gibramdb.cli.target import DEFAULT_SERVER, DataDirectory, Server, SessionName, Timeout, Tls, open_session
from gibramdb.errors import InvalidArgumentError

if TYPE_CHECKING:
    from gibramdb.model.results import EntityHit, QueryResult, RelationshipHit, TextUnitHit

ENTITIES_SHOWN_MAX = 20
RELATIONSHIPS_SHOWN_MAX = 20
TEXT_CHARS_SHOWN_MAX = 500
"""Without --full: what fits a screen, and the beginning of a text unit, which mostly tells whether it is the one."""


class Timing(msgspec.Struct, frozen=True, gc=False):
    """Where the time went. `embedding_ms` includes loading the model, `query_ms` the way to the server and back."""

    embedding_ms: float
    query_ms: float
    store_ms: float


def query(
    text: Annotated[str, typer.Argument(help="What to look for, in plain words.")],
    *,
    session: SessionName,
    server: Server = DEFAULT_SERVER,
    tls: Tls = None,
    timeout: Timeout = None,
    data: DataDirectory = None,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many of each kind to find by similarity.")] = 10,
    hops: Annotated[int, typer.Option("--hops", min=0, help="How far to walk along relationships from there.")] = 2,
    full: Annotated[bool, typer.Option("--full", help="Show all of the answer, and text units whole.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for another program.")] = False,
) -> None:
    """Ask a session, and print what it knows: entities, how they are related, and the text that says so."""
    from gibramdb.pipeline import SentenceEncoder

    if not text.strip():
        raise InvalidArgumentError("the question is blank")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidArgumentError(f"the question is no UTF-8 text: {text}")
    embedder = SentenceEncoder()
    with open_session(session, server, tls, timeout, data, vector_dim=embedder.dim, may_begin=False) as target:
        begun = time.perf_counter()
        vector = embedder.embed([text])[0]
        embedded = time.perf_counter()
        result = target.query(vector, top_k=top_k, hops=hops)
        ended = time.perf_counter()
    timing = Timing(
        embedding_ms=round((embedded - begun) * 1000, 3),
        query_ms=round((ended - embedded) * 1000, 3),
        store_ms=result.stats.duration_us / 1000,
    )
    if as_json:
        typer.echo(msgspec.json.encode(_plain(text, result, timing)))
    else:
        _print(result, timing, full=full)


def _plain(text: str, result: QueryResult, timing: Timing) -> dict[str, object]:
    """The answer with a name for every value: the structs of the model are arrays, which suits a disk."""
    return {
        "query": text,
        "query_id": result.query_id,
        "entities": [
            {
                "id": hit.entity.id,
                "title": hit.entity.title,
                "type": hit.entity.type,
                "description": hit.entity.description,
                "score": hit.score,
                "similarity": hit.similarity,
                "hop": hit.hop,
            }
            for hit in result.entities
        ],
        "relationships": [
            {
                "id": hit.relationship.id,
                "source": hit.source_title,
                "target": hit.target_title,
                "type": hit.relationship.type,
                "description": hit.relationship.description,
                "weight": hit.relationship.weight,
            }
            for hit in _heaviest_first(result)
        ],
        "textunits": [
            {
                "id": hit.textunit.id,
                "external_id": hit.textunit.external_id,
                "document_id": hit.textunit.document_id,
                "content": hit.textunit.content,
                "score": hit.score,
                "similarity": hit.similarity,
                "hop": hit.hop,
            }
            for hit in result.textunits
        ],
        "communities": [
            {
                "id": hit.community.id,
                "title": hit.community.title,
                "summary": hit.community.summary,
                "similarity": hit.similarity,
            }
            for hit in result.communities
        ],
        "timing": timing,
    }


def _heaviest_first(result: QueryResult) -> list[RelationshipHit]:
    return sorted(result.relationships, key=lambda hit: (-hit.relationship.weight, hit.relationship.id))


def _print(result: QueryResult, timing: Timing, *, full: bool) -> None:
    console = Screen()
    _print_entities(console, result.entities, full=full)
    _print_relationships(console, _heaviest_first(result), full=full)
    _print_textunits(console, result.textunits, full=full)
    for hit in result.communities:
        summary = hit.community.summary or "no summary"
        console.print(f"community {hit.community.title} ({hit.similarity:.3f}): {summary}", soft_wrap=True)
    console.print(
        f"{timing.embedding_ms:.1f} ms to load the model and embed the question, {timing.query_ms:.1f} ms to ask "
        f"(of which {timing.store_ms:.1f} ms in the store); query {result.query_id}",
        style="dim",
    )


def _print_entities(console: Screen, hits: tuple[EntityHit, ...], *, full: bool) -> None:
    from rich.table import Table

    if not hits:
        console.print("no entities found")
        return
    # The description takes what is left of the line.
    table = Table(title="Entities", title_justify="left", expand=True)
    for name in ("#", "score", "hop"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("title")
    table.add_column("type", no_wrap=True)
    table.add_column("description", no_wrap=not full, overflow="ellipsis", ratio=1, min_width=16)
    shown = hits if full else hits[:ENTITIES_SHOWN_MAX]
    for rank, hit in enumerate(shown, 1):
        entity = hit.entity
        table.add_row(
            str(rank),
            f"{hit.score:.3f}",
            str(hit.hop),
            console.render_str(entity.title, style="bold"),
            entity.type,
            entity.description,
        )
    console.print(table)
    if len(shown) < len(hits):
        console.print(f"  and {len(hits) - len(shown):,} more; --full shows them", style="dim")


def _print_relationships(console: Screen, hits: list[RelationshipHit], *, full: bool) -> None:
    from rich.text import Text

    if not hits:
        return
    console.print("\nRelationships", style="italic")
    shown = hits if full else hits[:RELATIONSHIPS_SHOWN_MAX]
    for hit in shown:
        relationship = hit.relationship
        line = Text.assemble(
            "  ",
            console.render_str(hit.source_title, style="bold"),
            console.render_str(f" {relationship.type or 'is connected with'} "),
            console.render_str(hit.target_title, style="bold"),
            f"  (weight {relationship.weight:g})",
        )
        if relationship.description:
            line.append(console.render_str(f"  {relationship.description}", style="dim"))
        console.print(line, soft_wrap=True)
    if len(shown) < len(hits):
        console.print(f"  and {len(hits) - len(shown):,} lighter ones; --full shows them", style="dim")


def _print_textunits(console: Screen, hits: tuple[TextUnitHit, ...], *, full: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    if not hits:
        return
    console.print("\nSource text", style="italic")
    for rank, hit in enumerate(hits, 1):
        textunit = hit.textunit
        content = textunit.content if full else _shortened(textunit.content)
        where = Text.assemble(
            f"  {rank}. ",
            console.render_str(textunit.external_id, style="bold"),
            f"  score {hit.score:.3f}, hop {hit.hop}",
        )
        console.print(where, soft_wrap=True)
        console.print(Padding(content, (0, 0, 1, 5)))


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= TEXT_CHARS_SHOWN_MAX else flat[:TEXT_CHARS_SHOWN_MAX].rstrip() + " …"
