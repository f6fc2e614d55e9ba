"""Writes src/gibramdb/async_session.py from session.py beside it; with --check, only says whether it is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "gibramdb" / "session.py"
TARGET = SOURCE.with_name("async_session.py")

HEAD = (
    '"""The async face of a store and its sessions.\n\n'
    'Generated from session.py: change that one, then run `python tools/generate_async.py`.\n"""\n'
)

# What stays synchronous in the twin: it asks nothing of the store.
SYNCHRONOUS = {"__init__", "__repr__", "_marked", "once", "session", "with_timeout"}

WORDS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\bStore\b", "AsyncStore"),
    (r"\bSession\b", "AsyncSession"),
    (r"\bExecutor\b", "AsyncExecutor"),
    (r"  # noqa: (UP028|SIM113).*$", ""),
    (r"__enter__", "__aenter__"),
    (r"__exit__", "__aexit__"),
    (r"(self\._executor\.(?:execute|execute_batch|close)\()", r"await \1"),
    (r"(?<!def )(self\.(?:_add|_get|close)\()", r"await \1"),
    (r"await (self\._executor\.execute\([^\n]*\))\.(items|communities)", r"(await \1).\2"),
    (r"-> Iterator\[(Document|TextUnit|Entity|Relationship|Community)\]", r"-> AsyncIterator[\1]"),
    # Bulk adds take asynchronous iterables too.
    (r"\bfor (\w+) in (items|pairs):", r"async for \1 in each(\2):"),
    (r"\bfor chunk in (_\w+\()", r"async for chunk in \1"),
    (r"\bcheck_iterable\b", "check_iterable_or_async"),
    (r"\biter\(", "each("),
    (r"\bnext\(", "await anext("),
    (r"\bStopIteration\b", "StopAsyncIteration"),
    (r"\bIterable\[(New\w*|Embedded|tuple\[int, int\]|T)\]", r"Iterable[\1] | AsyncIterable[\1]"),
    (r"\bids: Iterable\[int\]", "ids: Iterable[int] | AsyncIterable[int]"),
    (r"\bembeddings: Embeddings\b", "embeddings: Embeddings | AsyncIterable[Embedding]"),
    (r"-> Iterator\[(tuple\[New|list\[T|Embedded)", r"-> AsyncIterator[\1"),
    (r"^def (\w+)\(", r"async def \1("),
    (r"^    def (\w+)\(", lambda match: match[0] if match[1] in SYNCHRONOUS else f"    async def {match[1]}("),
]


def generated() -> str:
    """The twin's text, formatted."""
    body = SOURCE.read_text().split('"""', 2)[2]
    # What the two share is imported rather than written twice.
    shared_from = body.index("\nclass Tokens:")
    sizes = ("_document_bytes", "_textunit_bytes", "_entity_bytes", "_relationship_bytes")
    limits = ("CHUNK_BYTES_MAX", "CHUNK_OBJECTS_MAX", "EMBEDDINGS_ASKED_FIRST", "SESSIONS_PER_PAGE")
    types = ("Embedded", "Embeddings", "New", "Progress", "T", "Tokens")
    names = (*limits, *types, "check_timeout_s", "each", "ended_early", "total_of", *sizes)
    constants = re.search(r"\nCHUNK_OBJECTS_MAX = .*?(?=\n\nclass Executor)", body, re.DOTALL)
    assert constants is not None
    body = body[:shared_from].replace(constants[0], "")
    for pattern, replacement in WORDS:
        body = re.sub(pattern, replacement, body, flags=re.MULTILINE)
    imports = f"from gibramdb.session import {', '.join(names)}\n"
    body = body.replace("\n\n\nclass AsyncExecutor", f"\n{imports}\n\nclass AsyncExecutor", 1)
    text = HEAD + body
    for command in (("check", "--select", "I,F401", "--fix", "--quiet"), ("format", "--quiet")):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> int:
    """Write the file, or compare."""
    text = generated()
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text() != text:
            print(f"{TARGET.name} is not what {SOURCE.name} gives: run `python tools/generate_async.py`")
            return 1
        return 0
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
