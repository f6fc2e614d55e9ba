"""gibramdb: a session-scoped GraphRAG store in memory that gives back every acknowledged write after a crash.

    import gibramdb

    with gibramdb.open("memory", vector_dim=384) as db:          # durable, in this process
        session = db.session("case-42")
        session.add_entities([gibramdb.NewEntity("e1", "Ada Lovelace", embedding=vector)])
        answer = session.query(vector, top_k=5, hops=2)

    with gibramdb.connect("gibram://localhost:6161") as db:      # the same methods, on a server
        ...

`open_async` and `connect_async` are the same for an event loop.
"""

from gibramdb import errors
from gibramdb.async_session import AsyncSession, AsyncStore
from gibramdb.client.aio import connect_async
from gibramdb.client.sync import connect
from gibramdb.embedded import open, open_async  # noqa: A004 (gibramdb.open is what a reader expects)
from gibramdb.errors import GibramError
from gibramdb.model import commands
from gibramdb.model.knowledge import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit
from gibramdb.session import Session, Store
from gibramdb.version import __version__

__all__ = [
    "AsyncSession",
    "AsyncStore",
    "GibramError",
    "NewCommunity",
    "NewDocument",
    "NewEntity",
    "NewRelationship",
    "NewTextUnit",
    "Session",
    "Store",
    "__version__",
    "commands",
    "connect",
    "connect_async",
    "errors",
    "open",
    "open_async",
]
