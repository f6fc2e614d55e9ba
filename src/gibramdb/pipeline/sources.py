"""Files into sources: which files a path means, and what they are called in a session.

A file given by itself is called by its name; a file found in a directory is called by the directory's name and its path
in there, so the same command gives the same names wherever it is run.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gibramdb.errors import InvalidArgumentError
from gibramdb.pipeline.protocols import Kind, Source

KINDS: dict[str, Kind] = {".txt": "text", ".text": "text", ".md": "markdown", ".markdown": "markdown"}
"""What is read, by the ending of the file name, lower-cased."""
FILE_BYTES_MAX = 64 << 20
"""A larger file is hardly a text to read."""


class Found(msgspec.Struct, frozen=True, gc=False):
    """A file that will be read. `external_id` is what the document will be called."""

    path: Path
    external_id: str
    kind: Kind


class Skipped(msgspec.Struct, frozen=True, gc=False):
    """A file that will not be read, and why, in words."""

    path: Path
    reason: str


def find(paths: Sequence[Path]) -> tuple[list[Found], list[Skipped]]:
    """The files at and below the paths, in the order of their names; hidden ones are passed over.

    Raises:
        InvalidArgumentError: a path can not be found or looked at, or two files would have the same external id.
    """
    found: dict[str, Found] = {}
    skipped: list[Skipped] = []
    for given in paths:
        for path, external_id in _files(given, skipped):
            kind = KINDS.get(path.suffix.lower())
            if kind is None:
                skipped.append(Skipped(path, f"not one of {' '.join(KINDS)}"))
            elif not _is_text(external_id):
                skipped.append(Skipped(path, "its name is not UTF-8"))
            elif external_id not in found:
                found[external_id] = Found(path, external_id, kind)
            elif not found[external_id].path.samefile(path):
                raise InvalidArgumentError(
                    f"{found[external_id].path} and {path} would both be the document {external_id!r}; "
                    f"index them by a directory that holds both, or into two sessions"
                )
    return list(found.values()), skipped


def load(file: Found) -> Source | Skipped:
    """The file as a source, or why it can not be read."""
    try:
        found = file.path.stat()
        if not stat.S_ISREG(found.st_mode):
            return Skipped(file.path, "not a file but a pipe, a socket or a device")
        if found.st_size > FILE_BYTES_MAX:
            return Skipped(file.path, f"larger than {FILE_BYTES_MAX >> 20} MiB")
        text = file.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Skipped(file.path, f"not UTF-8 at byte {error.start}")
    except OSError as error:
        return Skipped(file.path, error.strerror or str(error))
    if not text.strip():
        return Skipped(file.path, "empty")
    return Source(file.external_id, text, file.kind, filename=file.path.name)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(given: Path, skipped: list[Skipped]) -> Iterator[tuple[Path, str]]:
    """Each with its external id; directories that are not looked into go to `skipped`."""

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(Path(error.filename), error.strerror or str(error)))

    try:
        is_directory = stat.S_ISDIR(given.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidArgumentError(f"{given} does not exist") from None
    except OSError as error:
        raise InvalidArgumentError(f"{given} can not be read: {error.strerror}") from None
    if is_directory:
        root = given.resolve()
        for directory, subdirectories, names in os.walk(root, onerror=unreadable):
            # Sorting in place makes the walk itself go in this order.
            subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
            links = [path for name in subdirectories if (path := Path(directory, name)).is_symlink()]
            skipped += (Skipped(path, "a link to a directory") for path in links)
            for name in sorted(name for name in names if not name.startswith(".")):
                path = Path(directory, name)
                yield path, path.relative_to(root.parent).as_posix()
    else:
        yield given, given.name
