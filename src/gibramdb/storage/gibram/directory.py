"""A GibRAM directory as a whole: which files count, from where the log is replayed, and what was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from gibramdb.errors import CorruptLogError, IncompatibleStoreError, MissingStoreError
from gibramdb.storage.gibram.forms import NOUNS
from gibramdb.storage.gibram.holdings import SessionHoldings
from gibramdb.storage.gibram.log import Log, open_log, take_records
from gibramdb.storage.gibram.settled import Mutations, link_order, session_times, weights
from gibramdb.storage.gibram.snapshot import NAME, Snapshot, SnapshotHead
from gibramdb.storage.identity import MARKER_NAME
from gibramdb.storage.snapshot import PACK_HEADER_BYTES, is_copy
from gibramdb.storage.wal import RECORD_BYTES_MAX

T = TypeVar("T")

LOG_NAME = "session.wal"
LOG_FOLDERS = (".", "session_wal")
SNAPSHOT_FOLDERS = (".", "session_snapshots")
"""Where GibRAM puts its files if nothing else is configured, and where they lie if a directory of its own is given."""

_EXPORT_SUFFIX = ".gibram"
_HEAD_BYTES = 4096
_SNAPSHOT_HEAD = re.compile(rb'\s*\{\s*"version"\s*:\s*[0-9]+\s*,(?s:.*)"(?:wal_generation|wal_size)"\s*:')

_NEVER_LOGGED = (
    "links, new descriptions, hand-made communities, deleted communities, TTLs, and deleted or expired sessions stand "
    "in no record of GibRAM's log: what happened of these after the snapshot, or without one ever, is not in the files"
)


class Report(msgspec.Struct, frozen=True):
    """What was read, and what of it could not be taken.

    `snapshot_version` is 0 without a snapshot. `replay_offset` counts record bytes, from the end of the log's header.
    `notes` are sentences for people, each about something that is not the same here as it was there.
    """

    snapshot_path: Path | None
    snapshot_version: int
    log_path: Path | None
    log_generation: int
    replay_offset: int
    records: int
    torn_bytes: int
    sessions: int
    documents: int
    textunits: int
    entities: int
    relationships: int
    communities: int
    links: int
    notes: tuple[str, ...]


class Import(msgspec.Struct, frozen=True):
    """The content of a directory.

    Applied in order to an empty state, `mutations` give the same sessions. `vector_dim` is None if there is no
    embedding.
    """

    mutations: Mutations
    vector_dim: int | None
    report: Report


def looks_like_gibram(path: Path) -> bool:
    """Whether a directory holds files of GibRAM's: its log, a snapshot, or an export.

    Raises:
        MissingStoreError: it can not be read.
    """
    names = _names(path)
    if names is None or MARKER_NAME in names:
        return False
    if any(LOG_NAME in (_names(path / folder) or ()) for folder in LOG_FOLDERS):
        return True
    if any(_is_snapshot(each) for folder in SNAPSHOT_FOLDERS for each in _snapshots(path / folder)):
        return True
    return bool(_exports(path))


def read_directory(path: Path, *, log_directory: Path | None = None, snapshot_directory: Path | None = None) -> Import:
    """Everything that a data directory of GibRAM 0.3.0 holds, by its newest snapshot and its log.

    Args:
        path: its `server.data_dir`.
        log_directory: its `session_store.wal_dir`, if it does not lie in `path` under its usual name.
        snapshot_directory: its `session_store.snapshot_dir`, if it does not lie in `path` under its usual name.

    Raises:
        MissingStoreError: there is nothing to read, or it can not be read, or the log goes on from a missing snapshot.
        IncompatibleStoreError: snapshot and log are not of one history, or of another version, or hold embeddings of
            more than one length, or something larger than a record can be.
        CorruptLogError: a file is damaged, or contradicts itself or the other.
    """
    names = _names(path)
    if names is None:
        raise MissingStoreError(
            f"{path}: expected a data directory of GibRAM 0.3.0, found none; next: correct the path"
        )
    if MARKER_NAME in names:
        raise IncompatibleStoreError(
            f"{path}: expected a data directory of GibRAM 0.3.0, found a store of gibramdb; next: correct the path"
        )
    for named in (log_directory, snapshot_directory):
        if named is not None and _names(named) is None:
            raise MissingStoreError(f"{named}: expected a directory of GibRAM's, found none; next: correct the path")
    log_folders = [path / folder for folder in LOG_FOLDERS] if log_directory is None else [log_directory]
    snapshot_folders = (
        [path / folder for folder in SNAPSHOT_FOLDERS] if snapshot_directory is None else [snapshot_directory]
    )
    log_path = _only(path, [each / LOG_NAME for each in log_folders if LOG_NAME in (_names(each) or ())])
    newest = [found[-1] for found in map(_snapshots, snapshot_folders) if found]
    snapshot_path = _only(path, newest)
    if log_path is None and snapshot_path is None:
        raise _nothing_found(path)
    snapshot = None if snapshot_path is None else _readable(snapshot_path, Snapshot)
    log = None if log_path is None else _readable(log_path, open_log)
    start = _replay_offset(snapshot, log)
    sessions = {} if snapshot is None else snapshot.sessions
    notes = [] if snapshot is None else list(snapshot.notes)
    records = torn_bytes = 0
    if log is None:
        assert snapshot is not None
        notes.append(f"the log {LOG_NAME} is not there: what was written after {snapshot.path.name} is missing")
    else:
        records, reading = _readable(log.path, lambda _: take_records(log, start, sessions))
        torn_bytes = reading.torn_bytes
        if snapshot is None and not log.generation and not records:
            raise CorruptLogError(
                f"{log.path}: offset 0: expected a log's header or a record, found neither ({log.record_bytes} bytes), "
                "and there is no snapshot: nothing here says that it was a store; next: put the original log back, or "
                "name the directory of the snapshots (--snapshot-dir)"
            )
        if reading.newline_missing:
            notes.append("the last record of the log lost its newline in a crash; it is whole, and was taken")
        if torn_bytes:
            notes.append(
                f"the last {torn_bytes} bytes of the log are a record cut short in a crash; they were not taken"
            )
    held = tuple(sessions.values())
    _check_sizes(path, held)
    exports = _exports(path)
    if exports:
        notes.append(f"exports of GibRAM's are not read: {', '.join(map(str, exports))}")
    notes += _notes_on(held)
    notes.append(_NEVER_LOGGED)
    report = Report(
        snapshot_path=snapshot_path,
        snapshot_version=0 if snapshot is None else snapshot.head.version,
        log_path=log_path,
        log_generation=0 if log is None else log.generation,
        replay_offset=start,
        records=records,
        torn_bytes=torn_bytes,
        sessions=len(held),
        documents=sum(len(each.documents) for each in held),
        textunits=sum(len(each.textunits) for each in held),
        entities=sum(len(each.entities) for each in held),
        relationships=sum(len(each.relationships) for each in held),
        communities=sum(len(each.communities) for each in held),
        links=sum(map(len, (ids for each in held for ids in each.entity_ids.values()))),
        notes=tuple(notes),
    )
    return Import(Mutations(held), _dimension(path, held), report)


# --- which files ------------------------------------------------------------------------------------------------------


def _names(directory: Path) -> list[str] | None:
    try:
        return sorted(each.name for each in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(directory, error) from error


def _snapshots(directory: Path) -> list[Path]:
    return [directory / name for name in _names(directory) or () if NAME.fullmatch(name)]


def _is_snapshot(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _SNAPSHOT_HEAD.match(file.read(_HEAD_BYTES)) is not None
    except OSError as error:
        raise _unreadable(path, error) from error


def _exports(path: Path) -> list[Path]:
    folders = (path, path / "snapshots")
    found = [folder / name for folder in folders for name in _names(folder) or () if name.endswith(_EXPORT_SUFFIX)]
    return [each for each in found if not _is_our_copy(each)]


def _is_our_copy(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return is_copy(file.read(PACK_HEADER_BYTES))
    except OSError as error:
        raise _unreadable(path, error) from error


def _only(path: Path, found: list[Path]) -> Path | None:
    if len(found) > 1:
        raise IncompatibleStoreError(
            f"{path}: expected one of each file, found {' and '.join(map(str, found))}; next: move aside what does not "
            "belong to the store"
        )
    return found[0] if found else None


def _readable(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> MissingStoreError:
    return MissingStoreError(f"{path}: it can not be read: {error.strerror}; next: give this user read access to it")


def _nothing_found(path: Path) -> MissingStoreError:
    exports = _exports(path)
    if exports:
        return MissingStoreError(
            f"{path}: expected {LOG_NAME} or a snapshot-*.json, found only exports ({exports[0]}), which are not read; "
            "next: start GibRAM 0.3.0 in durable mode, restore the export with BGRESTORE, SAVE, stop it, and read again"
        )
    return MissingStoreError(
        f"{path}: expected {LOG_NAME} or a snapshot-*.json of GibRAM 0.3.0, here or under {LOG_FOLDERS[1]} and "
        f"{SNAPSHOT_FOLDERS[1]}, found neither; next: correct the path, or name the directories that "
        "were configured (--wal-dir, --snapshot-dir)"
    )


# --- how they join ----------------------------------------------------------------------------------------------------


def _replay_offset(snapshot: Snapshot | None, log: Log | None) -> int:
    if log is None:
        return 0
    if snapshot is None:
        if log.generation > 1:
            raise MissingStoreError(
                f"{log.path}: offset 0: expected a log of generation 1, because there is no snapshot, found generation "
                f"{log.generation}, which goes on from one; next: put the snapshots back"
            )
        return 0
    head: SnapshotHead = snapshot.head
    if head.version == 1:
        if head.wal_size and log.record_bytes:
            raise IncompatibleStoreError(
                f"{snapshot.path}: ambiguous version 1 offset: the snapshot says that the log had {head.wal_size} "
                "bytes and not which log that was; expected 0, or an empty log, found "
                f"{log.record_bytes} bytes of records in {log.path}; next: move the log aside, to take the snapshot "
                "alone"
            )
        return 0
    if log.generation == head.wal_generation:
        return head.wal_offset
    if log.generation == head.wal_generation + 1:
        return 0
    raise IncompatibleStoreError(
        f"{log.path}: offset 0: expected generation {head.wal_generation} or {head.wal_generation + 1}, which "
        f"{snapshot.path} goes on with, found generation {log.generation}; next: put the log or the snapshot back that "
        "belongs to the other, or move the log aside to take the snapshot alone"
    )


# --- what was found ---------------------------------------------------------------------------------------------------


def _dimension(path: Path, sessions: tuple[SessionHoldings, ...]) -> int | None:
    found: dict[int, str] = {}
    for session in sessions:
        for kind, vectors in session.vectors.items():
            for id, row in vectors.items():
                found.setdefault(len(row) // 4, f"{NOUNS[kind]} {id} of session {session.session_id!r}")
    if len(found) > 1:
        places = " and ".join(f"{dimension} ({place})" for dimension, place in found.items())
        raise IncompatibleStoreError(
            f"{path}: expected embeddings of one length, found lengths {places}; next: a store holds one only, so "
            "these files are not of one store, or are damaged: put the originals back"
        )
    return next(iter(found), None)


def _check_sizes(path: Path, sessions: tuple[SessionHoldings, ...]) -> None:
    for session in sessions:
        for what, size_bytes in weights(session):
            if size_bytes > RECORD_BYTES_MAX:
                raise IncompatibleStoreError(
                    f"{path}: session {session.session_id!r}: expected objects of at most {RECORD_BYTES_MAX} bytes, "
                    f"found {what} with {size_bytes}; next: make it smaller in GibRAM, or leave its session out"
                )


def _notes_on(sessions: tuple[SessionHoldings, ...]) -> list[str]:
    notes = []
    for session in sessions:
        if not link_order(session)[1]:
            notes.append(
                f"session {session.session_id!r}: the order of links differs between text units and entities; it is "
                "that of the text units here"
            )
        if session.created_at_ms is None:
            made_ms = session_times(session)[0]
            words = "the time of its first object" if made_ms else "1970, as its objects carry none either"
            notes.append(
                f"session {session.session_id!r} is only in the log, which does not say when it began: it has {words}"
            )
    return notes
