"""Which store a command works on: a server, or a data directory opened in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gibramdb.config import SERVER_VARIABLE
from gibramdb.errors import DimensionMismatchError, InvalidArgumentError
from gibramdb.session import Session

DEFAULT_SERVER = "gibram://127.0.0.1:6161"

SessionName = Annotated[str, typer.Option("--session", "-s", help="The session to work in.")]
Server = Annotated[str, typer.Option("--server", help="The server to talk to.", envvar=SERVER_VARIABLE)]
DataDirectory = Annotated[
    Path | None,
    typer.Option("--data", help="A durable store to open in this process instead of talking to a server."),
]


@contextmanager
def open_session(name: str, server: str, data: Path | None, *, vector_dim: int) -> Iterator[Session]:
    """The session, in a store whose vectors have `vector_dim` numbers.

    Raises:
        DimensionMismatchError: if they have another number.
        GibramError: if the store can not be opened or the server not be reached.
    """
    import gibramdb

    if not name.strip():
        raise InvalidArgumentError("--session must not be blank")
    with gibramdb.open(data, vector_dim=vector_dim) if data else gibramdb.connect(server) as db:
        found = db.info().vector_dim
        if found != vector_dim:
            where = data or server
            raise DimensionMismatchError(
                f"the store at {where} holds vectors of {found} numbers, the local embedding model makes {vector_dim}; "
                f"start the server with: gibramdb serve --dim {vector_dim}"
            )
        yield db.session(name)
