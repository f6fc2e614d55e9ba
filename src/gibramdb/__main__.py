"""`python -m gibramdb`: the command line."""

import sys

from gibramdb.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
