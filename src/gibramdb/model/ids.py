"""Numbers that must not be mixed up."""

from __future__ import annotations

from typing import NewType

Lsn = NewType("Lsn", int)
"""Record bytes logged since the store began, just past a record. Only grows, across generations."""

Generation = NewType("Generation", int)
"""Which log file this is; the first is 1."""

NO_LSN = Lsn(0)
