"""Logging of the server process: records of the standard library, rendered as text or as JSON.

The code base logs with `logging.getLogger("gibramdb...")` and gives its facts in `extra`; each becomes a field. The
file is opened by the first record, which is written after the store's locks are held, and again when it has been moved.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import TextIO

import structlog

from gibramdb.config import LoggingSettings
from gibramdb.errors import ConfigError


def set_up_logging(settings: LoggingSettings) -> None:
    """Send records of `gibramdb` at `settings.level` and above, and warnings of everybody else, where they belong.

    Raises:
        ConfigError: `logging.file` can not be written.
    """
    handler = _handler(settings)
    handler.setFormatter(_formatter(settings, colors=settings.output != "file" and sys.stdout.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("gibramdb").setLevel(settings.level.upper())


def check_log_file(settings: LoggingSettings) -> None:
    """Raise ConfigError as `set_up_logging` does; nothing is made."""
    path = Path(settings.file)
    if settings.output != "file":
        return
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(
            f"logging.file: found {settings.file}, which can not be written; "
            "allowed: a file that this user may write, in a directory that exists"
        )


def _handler(settings: LoggingSettings) -> logging.Handler:
    check_log_file(settings)
    if settings.output == "file":
        return _LogFile(Path(settings.file), encoding="utf-8", delay=True)
    return _LogStream(sys.stdout if settings.output == "stdout" else sys.stderr)


class _Log(logging.Handler):
    """A line that can not be written is lost, and costs nobody anything else; standard error tells of the first."""

    _is_losing = False
    _failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """See Handler."""
        self._failed = False
        try:
            super().emit(record)
        except OSError:  # a file that has been moved is opened anew outside of what `handleError` is called for
            self.handleError(record)
        self._is_losing = self._failed

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (Handler's name)
        """See Handler; called where an error is being handled."""
        del record
        self._failed = True
        if not self._is_losing:
            with contextlib.suppress(OSError, ValueError):  # it may be closed, or the same that could not be written
                print(f"gibramdb: the log can not be written, its lines are lost: {sys.exc_info()[1]}", file=sys.stderr)


class _LogFile(_Log, logging.handlers.WatchedFileHandler):
    """A file."""


class _LogStream(_Log, logging.StreamHandler[TextIO]):
    """Standard output or standard error."""


def _formatter(settings: LoggingSettings, *, colors: bool) -> logging.Formatter:
    renderer: structlog.typing.Processor
    if settings.format == "json":
        renderer = structlog.processors.JSONRenderer(default=repr)
        exceptions = [structlog.processors.format_exc_info]
    else:
        # Quoted strings: a session id with a line break in it must not look like a record.
        renderer = structlog.dev.ConsoleRenderer(
            colors=colors, repr_native_str=True, exception_formatter=structlog.dev.plain_traceback
        )
        exceptions = []
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *exceptions, renderer],
    )
