"""The `gibramdb` program, and `python -m gibramdb`."""

import gc
import io
import os
import sys
from pathlib import Path

from gibramdb.cli.main import main


def run() -> int:
    """Run one command and answer its exit code.

    What is there then is not searched for rings of objects once more: a fifth of a short command's time.
    """
    _set_up_streams()
    try:
        return main()
    finally:
        gc.freeze()


def _set_up_streams() -> None:
    """Make them take every text, and give what is no text in the form that arguments have, to be refused by name."""
    # Of one that was closed (`>&-`) Python makes None.
    nothing = Path(os.devnull)
    sys.stdin = sys.stdin or nothing.open(encoding="utf-8")
    sys.stdout = sys.stdout or nothing.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nothing.open("w", encoding="utf-8")
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


if __name__ == "__main__":
    sys.exit(run())
