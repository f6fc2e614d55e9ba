"""What a start does before it serves: read the log, generation by generation, into an empty state.

Reads, and changes no file. Whatever does not fit is refused by name, never guessed.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gibramdb.core.apply import apply
from gibramdb.core.state import StoreState
from gibramdb.errors import CorruptLogError, IncompatibleStoreError, MissingStoreError, StorageError
from gibramdb.model import mutations
from gibramdb.model.ids import NO_LSN, Generation
from gibramdb.model.mutations import Mutation
from gibramdb.storage import record, wal
from gibramdb.storage.files import FileSystem
from gibramdb.storage.identity import ADOPT
from gibramdb.storage.wal import LogHeader, LogTail


class Recovered(msgspec.Struct, frozen=True):
    """The state as the log has it, and where the log ends."""

    state: StoreState
    header: LogHeader
    path: Path
    tail: LogTail
    generations: int
    records: int
    log_bytes: int


def recover(fs: FileSystem, wal_directory: Path, store_id: bytes, vector_dim: int) -> Recovered:
    """Replay every generation of the log.

    Raises:
        CorruptLogError: a log is damaged, or the generations do not join.
        IncompatibleStoreError: a log is another store's, or holds vectors of another dimension.
        MissingStoreError: there is no log.
        StorageError: the disk does not sync or read it.
    """
    logs = wal.list_logs(fs, wal_directory)
    if not logs:
        raise MissingStoreError(
            f"{wal_directory}: the store's log is missing, and there is no snapshot to start from; next: put the log "
            f"back, or restore a backup. If it is lost for good, `{ADOPT}` accepts an empty store"
        )
    try:
        fs.sync_dir(wal_directory)
    except OSError as error:
        raise StorageError(
            f"{wal_directory}: the log's directory can not be synced: {error.strerror}; next: check the disk"
        ) from error
    state = StoreState(vector_dim)
    headers = [wal.read_header(fs, path) for _, path in logs]
    for (generation, path), header in zip(logs, headers, strict=True):
        _check_identity(path, generation, header, store_id)
    _check_first(logs[0][1], headers[0])
    tail: LogTail | None = None
    records = log_bytes = 0
    for index, (_, path) in enumerate(logs):
        successor = headers[index + 1] if index + 1 < len(logs) else None
        if tail is not None:
            _check_joint(path, headers[index], headers[index - 1], tail)
        reading = wal.read_log(fs, path, NO_LSN if successor is None else successor.base_lsn, is_last=successor is None)
        for lsn, _, payload in reading:
            mutation = _decoded(path, lsn, payload)
            _check_dimension(path, lsn, mutation, vector_dim)
            try:
                apply(state, mutation, lsn)
            except Exception as error:
                raise CorruptLogError(
                    f"{path}: LSN {lsn}: the record is whole, but does not fit what came before it ({error!r}); next: "
                    "keep the files as they are and report this, it is a defect"
                ) from error
        tail = reading.tail
        records += tail.records
        log_bytes += tail.end_lsn - headers[index].base_lsn
    assert tail is not None
    state.last_lsn = tail.end_lsn
    return Recovered(state, headers[-1], logs[-1][1], tail, len(logs), records, log_bytes)


def _check_identity(path: Path, generation: Generation, header: LogHeader, store_id: bytes) -> None:
    if header.store_id != store_id:
        raise IncompatibleStoreError(
            f"{path}: expected a log of store {store_id.hex()}, found one of store {header.store_id.hex()}; "
            "next: move it out of the log directory"
        )
    if header.generation != generation:
        raise CorruptLogError(
            f"{path}: expected generation {generation} by its name, found {header.generation}; next: restore its name"
        )


def _check_first(path: Path, header: LogHeader) -> None:
    if not isinstance(header.origin, wal.FirstLog):
        raise MissingStoreError(
            f"{path}: the log goes on from something that is not there: {header.origin}; next: put the earlier "
            "generations back beside it, or restore a backup"
        )


def _check_joint(path: Path, header: LogHeader, before: LogHeader, tail: LogTail) -> None:
    expected = wal.Successor(before.generation, tail.end_lsn, tail.last_checksum)
    if header.origin != expected or header.base_lsn != tail.end_lsn:
        raise CorruptLogError(
            f"{path}: the log does not join the one before it: expected {expected}, found {header.origin} at LSN "
            f"{header.base_lsn}; next: put the missing or original generation back"
        )


def _decoded(path: Path, lsn: int, payload: bytes) -> Mutation:
    try:
        return record.decode(payload)
    except CorruptLogError as error:
        raise CorruptLogError(
            f"{path}: LSN {lsn}: {error}; next: a newer version may have written it, start that one"
        ) from error


def _check_dimension(path: Path, lsn: int, mutation: Mutation, vector_dim: int) -> None:
    if isinstance(mutation, mutations.TextUnitsAdded | mutations.EntitiesAdded):
        if not mutation.vector_ids:
            return
        found = len(mutation.vectors) // 4 // len(mutation.vector_ids)
    elif isinstance(mutation, mutations.CommunityAdded | mutations.EntityDescribed) and mutation.vector:
        found = len(mutation.vector) // 4
    else:
        return
    if found != vector_dim:
        raise IncompatibleStoreError(
            f"{path}: LSN {lsn}: the store holds vectors of dimension {found}, server.vector_dim is {vector_dim}; "
            f"next: set server.vector_dim to {found}"
        )
