"""The `gibramdb` program, and `python -m gibramdb`."""

import gc
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO, cast

from gibramdb import native_threads
from gibramdb.cli.main import main
from gibramdb.errors import StorageError


class _Output(io.FileIO):
    """The file of the standard output, whose errors say that they are its own. A reader that has gone is none."""

    def write(self, data: Any, /) -> int:
        if not data:
            return 0  # somebody tries out whether this takes bytes; a full device would refuse none, too
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StorageError(f"the output can not be written: {error.strerror or error}") from error


def run() -> int:
    """Run one command and answer its exit code.

    What is there then is not searched for rings of objects once more: a fifth of a short command's time.
    """
    _set_up_streams()
    code = 1
    try:
        code = main()
    finally:
        _give_up_output()
        if native_threads.are_any_alive():
            logging.shutdown()
            sys.stderr.flush()
            os._exit(code)
        gc.freeze()
    return code


def _give_up_output() -> None:
    """What can not be written is tried no more: Python would at its end, and then end as if by a defect."""
    try:
        sys.stdout.flush()
    except (StorageError, OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _set_up_streams() -> None:
    """Make them take every text, and give what is no text in the form that arguments have, to be refused by name."""
    # Of one that was closed (`>&-`) Python makes None.
    nothing = Path(os.devnull)
    sys.stdin = sys.stdin or nothing.open(encoding="utf-8")
    sys.stdout = sys.stdout or nothing.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nothing.open("w", encoding="utf-8")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__:
        told = sys.stdout
        output = _Output(told.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            cast("BinaryIO", output) if told.write_through else io.BufferedWriter(output),
            told.encoding, "backslashreplace", line_buffering=told.line_buffering, write_through=told.write_through,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run())
