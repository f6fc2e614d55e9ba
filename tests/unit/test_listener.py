"""Who knocks is let in, or turned away, many in one round of the event loop: a round may be long."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

from gibramdb.config import Address, load_config
from gibramdb.server.app import Server
from gibramdb.server.connection import Connection
from gibramdb.server.listener import LET_IN_MAX, Listener, listen

ROUNDS = 12


def test_a_crowd_that_has_knocked_is_dealt_with_in_a_few_rounds() -> None:
    async def run() -> None:
        server = Server(load_config(flags={"security.max_conns_per_ip": str(3 * LET_IN_MAX)}))
        (listening,) = await listen(Address("127.0.0.1", 0))
        made: list[Connection] = []

        def new_connection(peer: str, accepted_us: int) -> Connection:
            made.append(Connection(server, peer, accepted_us))
            return made[-1]

        with ExitStack() as clients:
            for _ in range(200):
                clients.enter_context(socket.create_connection(listening.getsockname()))
            listener = Listener([listening], None, 1.0, server.admission, new_connection)
            for _ in range(ROUNDS):
                await asyncio.sleep(0)
            assert len(made) == 3 * LET_IN_MAX
            for _ in range(ROUNDS):
                await asyncio.sleep(0)
            late = clients.enter_context(socket.create_connection(listening.getsockname()))
            late.setblocking(False)
            for _ in range(ROUNDS):
                await asyncio.sleep(0)
            assert late.recv(1) == b"", "and so are those that are turned away"
            listener.close()
            for connection in made:
                connection.abort()
            await asyncio.sleep(0.05)

    asyncio.run(run())
