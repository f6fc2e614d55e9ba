"""A store that is being opened: to be awaited, or entered at once."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any

from gibramdb.async_session import AsyncStore


class Opening(Coroutine[Any, Any, AsyncStore]):
    """What `open_async` and `connect_async` answer.

    `db = await opening` gives the store; `async with opening as db` gives it and closes it at the end.
    """

    def __init__(self, opened: Coroutine[Any, Any, AsyncStore]) -> None:
        self._opened = opened
        self._store: AsyncStore | None = None

    def __await__(self) -> Generator[Any, Any, AsyncStore]:
        return self._opened.__await__()

    async def __aenter__(self) -> AsyncStore:
        self._store = await self._opened
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._store.close()

    # What else a coroutine has, so that `asyncio.run` and `create_task` take this for one.

    def send(self, value: Any) -> Any:
        """As a coroutine's."""
        return self._opened.send(value)

    def throw(self, *error: Any) -> Any:
        """As a coroutine's."""
        return self._opened.throw(*error)

    def close(self) -> None:
        """As a coroutine's."""
        self._opened.close()
