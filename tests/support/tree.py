"""What lies in a directory, as one checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path


def tree_hash(directory: Path) -> str:
    """Names and contents of all that lies below."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        digest.update(str(path.relative_to(directory)).encode() + b"\0")
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()
