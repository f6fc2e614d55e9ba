"""The two clients from one test: blocking calls and asynchronous ones, written once."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import gibramdb

ways = pytest.mark.parametrize("way", ["blocking", "async"])


@asynccontextmanager
async def connected(way: str, url: str, **options: Any) -> AsyncIterator[Any]:
    """A store through the client of this way; what its methods return goes through `told`."""
    if way == "async":
        async with gibramdb.connect_async(url, **options) as store:
            yield store
    else:
        with gibramdb.connect(url, **options) as store:
            yield store


async def told(answer: Any) -> Any:
    """What a method of either client answers; of a list, its items."""
    if inspect.isawaitable(answer):
        return await answer
    if hasattr(answer, "__anext__"):
        return [item async for item in answer]
    return list(answer) if hasattr(answer, "__next__") else answer
