"""`gibramdb serve`: read the settings, set up logging, run the server until it is told to stop."""

from __future__ import annotations

import sys

from gibramdb.cli import flags
from gibramdb.cli.logging_setup import set_up_logging
from gibramdb.cli.visible import visible


def serve(
    config: flags.ConfigFile = None,
    addr: flags.Addr = None,
    data: flags.Data = None,
    dim: flags.Dim = None,
    mode: flags.Mode = None,
    wal_sync_policy: flags.WalSyncPolicy = None,
    session_cleanup_interval: flags.SessionCleanupInterval = None,
    log_level: flags.LogLevel = None,
    insecure: flags.Insecure = False,
) -> None:
    """Run the server until SIGTERM or SIGINT."""
    settings = flags.config_from(
        config,
        insecure,
        addr=addr,
        data=data,
        dim=dim,
        session_cleanup_interval=session_cleanup_interval,
        mode=mode,
        wal_sync_policy=wal_sync_policy,
        log_level=log_level,
    )
    if settings.insecure:
        # Beside the log, which may be a file, or be told to leave warnings out.
        said = [warning for warning in settings.warnings if warning.startswith("--insecure")]
        print(*(f"gibramdb: warning: {visible(each)}" for each in said), sep="\n", file=sys.stderr, flush=True)
    set_up_logging(settings.logging)

    # Imported here: `gibramdb --help` and a refused setting need not wait for the engine.
    from gibramdb.server import app

    app.serve(settings)
