"""Which store a command works on, and how it is let in: a server, or a data directory opened in this process.

The options stand here once, so that all commands that work on a store take the same ones and mean the same by them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from gibramdb.config import API_KEY_VARIABLE, SERVER_VARIABLE
from gibramdb.errors import AuthenticationError, DimensionMismatchError, InvalidArgumentError
from gibramdb.session import Session, Store

DEFAULT_SERVER = "gibram://127.0.0.1:6161"
SYSTEM_ROOTS = "system"

SessionName = Annotated[str, typer.Option("--session", "-s", help="The session to work in.")]
Server = Annotated[
    str,
    typer.Option(
        "--server",
        help=f"The server to talk to. It is shown the API key in {API_KEY_VARIABLE}.",
        envvar=SERVER_VARIABLE,
    ),
]
Tls = Annotated[
    str | None,
    typer.Option(
        "--tls",
        metavar=f"FILE|{SYSTEM_ROOTS}",
        help=f"Talk TLS, and trust what FILE holds; {SYSTEM_ROOTS} for what this system trusts.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="How long the server may take for each call; 30 unless given.",
        show_default=False,
    ),
]
DataDirectory = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="A durable store to open in this process instead of talking to a server.",
        show_default=False,
    ),
]


@contextmanager
def open_server(server: str, tls: str | None, timeout_s: float | None) -> Iterator[Store]:
    """The store of a server, which has let us in. Where it wants a key, and nobody gave one, a person is asked.

    Raises:
        AuthenticationError: it does not accept the key, or wants one and there is nobody to ask.
        GibramError: it can not be reached, or an option says what can not be.
    """
    with _let_in(server, tls, timeout_s) as db:
        yield db


@contextmanager
def open_session(
    name: str,
    server: str,
    tls: str | None,
    timeout_s: float | None,
    data: Path | None,
    *,
    vector_dim: int,
    may_begin: bool,
) -> Iterator[Session]:
    """The session, in a store whose vectors have `vector_dim` numbers.

    may_begin: whether a data directory that holds no store gets one, or is taken for a mistyped path.

    Raises:
        DimensionMismatchError: if they have another number.
        MissingStoreError: if there is no store in the data directory, and none may begin.
        GibramError: if the store can not be opened, or as `open_server`.
    """
    import gibramdb

    if not name.strip():
        raise InvalidArgumentError("--session must not be blank")
    if data is not None and (tls is not None or timeout_s is not None):
        raise InvalidArgumentError(
            f"--tls and --timeout are about a server, and --data {data} is opened in this process: leave them out"
        )
    opening = (
        open_server(server, tls, timeout_s)
        if data is None
        else gibramdb.open(data, vector_dim=vector_dim, require_existing=not may_begin)
    )
    with opening as db:
        found = db.info().vector_dim
        if found != vector_dim:
            raise DimensionMismatchError(
                f"the store at {data or without_key(server)} holds vectors of {found} numbers, the local embedding "
                f"model makes {vector_dim}; start the server with: gibramdb serve --dim {vector_dim}"
            )
        yield db.session(name)


def without_key(server: str) -> str:
    """An address for people to read: host and port."""
    return server.rpartition("@")[2].rstrip("/").rpartition("/")[2]


def _let_in(server: str, tls: str | None, timeout_s: float | None) -> Store:
    where = without_key(server)
    # What is said for this call goes before what is said for all of them.
    is_in_address = "@" in server
    key = None if is_in_address else os.environ.get(API_KEY_VARIABLE) or None
    origin = "in the address" if is_in_address else f"in {API_KEY_VARIABLE}"
    if not is_in_address and key is None:
        try:
            return _connect(server, None, tls, timeout_s)
        except AuthenticationError:
            key, origin = _asked_for(where), "that was typed"
    try:
        return _connect(server, key, tls, timeout_s)
    except AuthenticationError as error:
        raise AuthenticationError(f"{where} refuses the API key {origin}: {error}") from None


def _connect(server: str, key: str | None, tls: str | None, timeout_s: float | None) -> Store:
    import gibramdb
    from gibramdb.client.calls import TIMEOUT_S

    return gibramdb.connect(
        server,
        api_key=key,
        tls=True if tls == SYSTEM_ROOTS else tls,
        timeout_s=TIMEOUT_S if timeout_s is None else timeout_s,
    )


def _asked_for(where: str) -> str:
    """The key as a person types it, unseen; an argument or a line of a dialogue would be kept somewhere."""
    wanted = AuthenticationError(f"{where} asks for an API key: set {API_KEY_VARIABLE} to it")
    if not sys.stdin.isatty():
        raise wanted
    try:
        key = getpass(f"API key for {where}: ")
    except EOFError:
        key = ""
    if not key:
        raise wanted
    return key
