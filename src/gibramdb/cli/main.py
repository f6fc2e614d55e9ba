"""The `gibramdb` program: its commands, and the one place where an error becomes a message and an exit code.

Each command is a function in a module of its own, named in `_program` with one line. Such a module imports what its
arguments need, and the engine only when it runs.

Exit codes: 0 done; 1 whoever reads its output has gone; 2 arguments that are not understood; 70 a defect, with a
traceback; 130 interrupted; otherwise the `exit_code` of the GibramError, after its message.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gibramdb.cli.visible import visible
from gibramdb.errors import GibramError, InternalError, MissingExtraError
from gibramdb.version import __version__

if TYPE_CHECKING:
    import typer

SERVER_EXTRA = frozenset({"typer", "rich", "structlog", "threadpoolctl", "yaml", "uvloop", "prompt_toolkit"})
"""What `pip install 'gibramdb[server]'` brings and the core install lacks."""
UNREAD = 1
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's own arguments when none are given. Answers the exit code."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # at the process's end it would be too late to say that it failed
    except BrokenPipeError:
        return UNREAD
    except GibramError as error:
        print(f"gibramdb: error: {visible(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:  # the edge of the process: whatever was not foreseen ends here, in full
        traceback.print_exc()
        return InternalError.exit_code
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        from gibramdb.cli.flags import with_two_dashes

        command = list(arguments)
        if command[:1] in (["serve"], ["check-config"]):
            command = with_two_dashes(command)
        _program()(command, prog_name="gibramdb")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0  # typer ends with a number, or None for success
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in SERVER_EXTRA:
            raise
        raise MissingExtraError(
            f"the command line needs {missing.name}, which is not installed: pip install 'gibramdb[server]'"
        ) from missing
    return 0


def _program() -> typer.Typer:
    import typer

    from gibramdb.cli.check_config import check_config
    from gibramdb.cli.console import CommandOfWords, cli
    from gibramdb.cli.import_gibram import import_gibram
    from gibramdb.cli.index import index
    from gibramdb.cli.query import query
    from gibramdb.cli.serve import serve
    from gibramdb.cli.store import app as store

    program = typer.Typer(
        help="A session-scoped GraphRAG store in memory that gives back every acknowledged write after a crash.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @program.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", help="Show the version.", callback=_show_version, is_eager=True
        ),
    ) -> None: ...

    program.command("serve")(serve)
    program.command("check-config")(check_config)
    program.command("index")(index)
    program.command("query")(query)
    program.command("cli", cls=CommandOfWords)(cli)
    program.command("import-gibram")(import_gibram)
    program.add_typer(store, name="store")
    program.command("version")(version)
    return program


def version() -> None:
    """Show the version."""
    print(f"gibramdb {__version__}")


def _show_version(asked: bool) -> None:
    if asked:
        version()
        raise SystemExit
