"""A data directory of GibRAM 0.3.0 becomes a store of ours: all of it, or nothing.

read (changes nothing) -> a state on the side -> a new store -> taken in as a restore is
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from pathlib import Path

import msgspec

from gibramdb.clock import SystemClock
from gibramdb.config import Config
from gibramdb.core.apply import apply
from gibramdb.core.state import StoreState
from gibramdb.database.opening import directories_of, open_store
from gibramdb.errors import ConfigError, GibramError, IncompatibleStoreError
from gibramdb.model.ids import NO_LSN, Lsn
from gibramdb.model.results import Result
from gibramdb.storage import gibram, identity
from gibramdb.storage.files import OsFileSystem


def read_gibram(
    source: Path, config: Config, log_directory: Path | None = None, snapshot_directory: Path | None = None
) -> tuple[gibram.Import, Config]:
    """What GibRAM's directory holds, and the configuration with the dimension of its embeddings.

    `log_directory`, `snapshot_directory`: where they lie, if not in `source`.

    Raises:
        ConfigError: there is a store already where the new one would be.
        FatalError: the directory can not be read, or does not fit together; nothing was changed.
    """
    directories = directories_of(config)
    if identity.established_id(OsFileSystem(), directories) is not None:
        raise ConfigError(f"{directories.data}: expected no store yet, found one; next: name another directory")
    imported = gibram.read_directory(source, log_directory=log_directory, snapshot_directory=snapshot_directory)
    if imported.vector_dim is not None:
        if config.origins["server.vector_dim"] != "default" and config.server.vector_dim != imported.vector_dim:
            raise IncompatibleStoreError(
                f"{source}: it holds vectors of dimension {imported.vector_dim}, server.vector_dim is "
                f"{config.server.vector_dim}; next: set server.vector_dim to {imported.vector_dim}"
            )
        server = msgspec.structs.replace(config.server, vector_dim=imported.vector_dim)
        config = msgspec.structs.replace(config, server=server)
    return imported, config


def store_gibram(imported: gibram.Import, config: Config) -> None:
    """Make the new store, and put everything into it in one step: a crash leaves it empty, or whole.

    Raises:
        FatalError: the store can not be made, or what was read does not fit together.
    """
    state = StoreState(config.server.vector_dim)
    for mutation in imported.mutations:
        # No record of this store's log stands for any of it: the snapshot does.
        apply(state, mutation, NO_LSN)
    posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    store = open_store(config, SystemClock(), posted.put)
    try:
        outcomes: list[Result | GibramError] = []

        def finish(outcome: Result | GibramError, lsn: Lsn) -> None:
            del lsn
            outcomes.append(outcome)

        assert store.database.snapshots is not None
        store.database.snapshots.take_in(state, imported.vector_dim or 0, finish)
        while not outcomes:
            posted.get()()
        if isinstance(outcomes[0], GibramError):
            raise outcomes[0]
    finally:
        store.close()
