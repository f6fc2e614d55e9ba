"""`gibramdb cli`: every command of the wire, one at a time or in a dialogue, on any session."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table
from typer.core import TyperCommand

from gibramdb.cli import grammar
from gibramdb.cli.screen import screen
from gibramdb.cli.target import DEFAULT_SERVER, Server, Timeout, Tls, open_server, without_key
from gibramdb.cli.visible import visible
from gibramdb.errors import GibramError, InvalidArgumentError
from gibramdb.model.results import StoredEmbeddings
from gibramdb.session import Store

HISTORY = Path("~/.gibramdb_history")
DIALOGUE_WORDS = ("use", "pipeline", "help", "exit")
SHOWN_NUMBERS_MAX = 8
COMPLETION_TIMEOUT_S = 1.0
"""Names of sessions are asked for while somebody types, who does not want to wait for a server that is not there."""

_NEGATIVE = re.compile(r"-\d+(\.\d+)?([eE][+-]?\d+)?")
_HIDDEN = "\0"
"""Stands in no argument of a process."""

CommandWords = Annotated[
    list[str] | None,
    typer.Argument(metavar="[COMMAND [VALUE]... [NAME=VALUE]...]", help="Without it a dialogue begins; - reads lines."),
]
SessionOption = Annotated[str, typer.Option("--session", "-s", help="The session that commands are about.")]
Json = Annotated[bool, typer.Option("--json", help="Answers as JSON, one document a command.")]


def cli(
    words: CommandWords = None,
    server: Server = DEFAULT_SERVER,
    tls: Tls = None,
    timeout: Timeout = None,
    session: SessionOption = "",
    as_json: Json = False,
) -> None:
    """Speak to a server: any command, any session."""
    with open_server(server, tls, timeout) as db:
        talk = Talk(db, session, as_json=as_json)
        if words == ["-"] or (not words and not sys.stdin.isatty()):
            for line in sys.stdin:
                talk.answer(_split(line))
        elif words:
            talk.answer(words)
        else:
            _converse(talk, server)


class CommandOfWords(TyperCommand):
    """`cli`, among whose words a negative number is a value and no option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As for any command, but that nothing takes such a number for an option meanwhile."""
        taking = {name for each in self.params if not getattr(each, "is_flag", True) for name in each.opts}
        hidden = [
            _HIDDEN + word if _NEGATIVE.fullmatch(word) and before not in taking else word
            for before, word in itertools.pairwise(["", *args])
        ]
        rest: list[str] = super().parse_args(ctx, hidden)
        ctx.params["words"] = [word.removeprefix(_HIDDEN) for word in ctx.params["words"] or ()]
        return rest


class Talk:
    """What has been agreed on so far: the store, the session, the form of answers."""

    def __init__(self, db: Store, session_id: str, *, as_json: bool) -> None:
        self._db = db
        self.session_id = session_id
        self._as_json = as_json
        self._console = screen()
        self.is_over = False

    def answer(self, words: list[str]) -> None:
        """Do what one line asks for, and print what comes of it. Raises GibramError."""
        match [word.lower() for word in words[:1]]:
            case []:
                return
            case ["exit"] | ["quit"]:
                self.is_over = True
            case ["use"]:
                if len(words) != 2:
                    raise InvalidArgumentError("use takes the name of a session")
                self.session_id = words[1]
            case ["help"]:
                self._help(words[1:])
            case ["pipeline"]:
                self._pipeline([_split(word) for word in words[1:]])
            case _:
                self._show(self._db.execute(grammar.command_from(words, self.session_id)))

    def sessions(self) -> list[str]:
        """Names to complete; none where they may not be listed."""
        try:
            return [each.session_id for each in self._db.with_timeout(COMPLETION_TIMEOUT_S).sessions()]
        except GibramError:
            return []

    def _pipeline(self, lines: list[list[str]]) -> None:
        if not lines or not all(lines):
            raise InvalidArgumentError("pipeline takes commands, each in quotes: pipeline 'PING' 'GET_ENTITY 1'")
        try:
            results = self._db.execute_many([grammar.command_from(line, self.session_id) for line in lines])
        except GibramError as error:
            for result in error.results:
                self._show(result)
            raise
        for result in results:
            self._show(result)

    def _help(self, words: list[str]) -> None:
        if not words:
            table = Table("command", "session", "permission", "what it does", box=None)
            for name, row in grammar.ROWS.items():
                table.add_row(name, row.session_rule, row.permission, _summary(row.request.command))
            self._console.print(table)
            self._console.print("use SESSION sets the session, help COMMAND says what it takes, exit ends")
            self._console.print("pipeline 'COMMAND ...' 'COMMAND ...' asks for several at once, up to one that fails")
            return
        row = grammar.row_named(words[0])
        self._console.print(f"{row.name}: {_summary(row.request.command)}")
        table = Table("name", "", "takes", box=None)
        for field in grammar.fields_of(row):
            table.add_row(field.name, "required" if field.is_required else "", field.said)
        self._console.print(table if table.row_count else "It takes nothing.")

    def _show(self, result: Any) -> None:
        value = msgspec.to_builtins(_named(result))
        if self._as_json:
            typer.echo(msgspec.json.encode(value))  # bytes: JSON is UTF-8, whatever the terminal is
            return
        if isinstance(value, dict) and not value:
            self._console.print("done")
        for title, table in _tables(value):
            if title:
                self._console.print(title, style="bold")
            self._console.print(table)


def _named(value: Any) -> Any:
    """Structs as objects with names, whatever their form on disk."""
    if isinstance(value, StoredEmbeddings):
        pairs = zip(value.ids, value.matrix().tolist(), strict=True)
        return {"items": [{"id": id, "embedding": embedding} for id, embedding in pairs]}
    if isinstance(value, msgspec.Struct):
        return {name: _named(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    return value


def _summary(command: type[Any]) -> str:
    return (command.__doc__ or "").strip().splitlines()[0]


def _tables(value: Any) -> Iterator[tuple[str, Table]]:
    """What a result holds, for people: its own figures first, then each list of objects."""
    if isinstance(value, list):
        value = {"": value}
    lists = {
        name: items for name, items in value.items() if isinstance(items, list) and items and isinstance(items[0], dict)
    }
    own = {name: item for name, item in value.items() if name not in lists}
    if own:
        table = Table(show_header=False, box=None)
        for name, item in own.items():
            for each, shown in sorted(item.items()) if isinstance(item, dict) else [(name, item)]:
                table.add_row(str(each), _shown(shown))
        yield "", table
    for name, items in lists.items():
        rows = [_flat(item) for item in items]
        columns = [column for column in rows[0] if any(row[column] not in ("", []) for row in rows)]
        table = Table(*columns, box=None)
        for row in rows:
            table.add_row(*(_shown(row[column]) for column in columns))
        yield name, table


def _flat(item: dict[str, Any]) -> dict[str, Any]:
    """A hit beside what it hits."""
    flat: dict[str, Any] = {}
    for name, value in item.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        more = f" and {len(value) - SHOWN_NUMBERS_MAX} more" if len(value) > SHOWN_NUMBERS_MAX else ""
        return ", ".join(map(str, value[:SHOWN_NUMBERS_MAX])) + more
    return str(value)


def _split(line: str) -> list[str]:
    """The words of a line, quoted as for a shell; none of one that begins with #. Further on it is a letter: C#."""
    if line.lstrip().startswith("#"):
        return []
    try:
        return shlex.split(line)
    except ValueError as error:
        raise InvalidArgumentError(f"{line.strip()}: {error}") from None


def _quoted(word: str) -> str:
    """As it has to be typed to be one word."""
    try:
        return word if _split(word) == [word] else shlex.quote(word)
    except InvalidArgumentError:  # half a quotation
        return shlex.quote(word)


def _converse(talk: Talk, server: str) -> None:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class Commands(FileHistory):
        """Only commands reach the file: whatever else was typed could be a key."""

        def store_string(self, string: str) -> None:
            if _is_command(string):
                super().store_string(string)

    def history() -> History:
        file = HISTORY
        try:
            file = HISTORY.expanduser()
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)  # one that was there already may be open to others
            os.close(descriptor)
        except (OSError, RuntimeError) as error:  # no home, or none to write in, takes nothing else from the dialogue
            why = error.strerror if isinstance(error, OSError) else error
            print(f"what is typed is not kept: {file}: {why}", file=sys.stderr)
            return InMemoryHistory()
        return Commands(str(file))

    class Words(Completer):
        """Names of commands first, then of what they take; of sessions behind `use`."""

        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            del complete_event
            before = document.text_before_cursor
            said, current = (
                before.split()[: -1 if before[-1:].strip() else None],
                document.get_word_before_cursor(WORD=True),
            )
            for candidate in _candidates(talk, said):
                if candidate.lower().startswith(current.lower()):
                    yield Completion(_quoted(candidate), -len(current), display=candidate)

    prompt: PromptSession[str] = PromptSession(history=history(), completer=Words())
    print(f"{without_key(server)}: help lists the commands, use SESSION sets the session, exit or Ctrl-D ends")
    while not talk.is_over:
        try:
            line = prompt.prompt(f"{talk.session_id or 'no session'}> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            continue  # the line is given up, not the dialogue
        try:
            talk.answer(_split(line))
        except KeyboardInterrupt:
            print("given up; the server may carry it out all the same", file=sys.stderr)
        except GibramError as error:
            print(f"error: {visible(str(error))}", file=sys.stderr)


def _is_command(line: str) -> bool:
    word = line.split(maxsplit=1)[0] if line.strip() else ""
    try:
        return word.lower() in DIALOGUE_WORDS or bool(grammar.row_named(word))
    except GibramError:
        return False


def _candidates(talk: Talk, said: list[str]) -> list[str]:
    if not said:
        return [*DIALOGUE_WORDS, *grammar.ROWS]
    if said[0].lower() == "use":
        return talk.sessions()
    if said[0].lower() == "help":
        return list(grammar.ROWS)
    try:
        return [f"{field.name}=" for field in grammar.fields_of(grammar.row_named(said[0]))]
    except GibramError:
        return []
