"""The data directory of GibRAM 0.3.0, read once to bring its content over. Bytes: docs/formats/gibram.md.

Owns: nothing; every file is opened for reading and left as it is.
Never: guesses. What does not fit is refused with its place; what has no place here is put into words in the report.
"""

from gibramdb.storage.gibram.directory import Import, Report, looks_like_gibram, read_directory
from gibramdb.storage.gibram.settled import Mutations

__all__ = ["Import", "Mutations", "Report", "looks_like_gibram", "read_directory"]
