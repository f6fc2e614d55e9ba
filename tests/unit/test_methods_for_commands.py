"""Every command of the table can be asked for by a method of its own, of the blocking face and of the asynchronous one.

Nothing here lists what belongs to what: each public method is called, with values made from its signature, on an executor
that notes what it is given. A command that is added without a method is missed; so is a method that asks for another.
"""

from __future__ import annotations

import asyncio
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest

from gibramdb import AsyncSession, AsyncStore, Session, Store
from gibramdb.model.commands import Command
from gibramdb.wire.codec import TABLE, row_of

ANY_COMMAND = {"execute", "execute_many"}
"""They take commands as they are, and so are a method for none."""


class Noted(Exception):  # noqa: N818 -- no error: a method need not be carried on once it has asked
    """The command has been taken down; there is nothing to answer."""


class Notes:
    """An executor that takes down what it is asked for."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def execute(self, command: Command) -> Any:
        self.commands.append(command)
        raise Noted

    def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        self.commands += batch
        raise Noted

    def with_timeout(self, timeout_s: float) -> Notes:
        return self

    def close(self) -> None:
        pass


class AsyncNotes:
    """The same for an event loop."""

    def __init__(self) -> None:
        self._notes = Notes()
        self.commands = self._notes.commands

    async def execute(self, command: Command) -> Any:
        return self._notes.execute(command)

    async def execute_batch(self, batch: Sequence[Command]) -> list[Any]:
        return self._notes.execute_batch(batch)

    def with_timeout(self, timeout_s: float) -> AsyncNotes:
        return self

    async def close(self) -> None:
        pass


def sample(hint: Any) -> Any:
    """A value of this type."""
    plain = {str: "x", int: 1, float: 1.0, bytes: b"x"}
    if hint in plain:
        return plain[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        return sample(arguments[0])
    if origin is tuple:
        return tuple(sample(each) for each in arguments if each is not Ellipsis)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return (sample(arguments[0]),)
    assert issubclass(hint, msgspec.Struct), f"no sample of a {hint}"
    hints = typing.get_type_hints(hint)
    return hint(**{field.name: sample(hints[field.name]) for field in msgspec.structs.fields(hint) if field.required})


def arguments_for(method: Callable[..., Any]) -> dict[str, Any]:
    """What it can not be called without."""
    hints = typing.get_type_hints(method)
    return {
        name: sample(hints[name])
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.default is parameter.empty
    }


async def finish(answer: Any) -> None:
    """As far as the first command."""
    if inspect.isawaitable(answer):
        await answer
    elif hasattr(answer, "__anext__"):
        await anext(answer)
    elif hasattr(answer, "__next__"):
        next(answer)


def asked_by(face: Store | Session | AsyncStore | AsyncSession, notes: Notes | AsyncNotes) -> dict[str, list[Command]]:
    """By method: what it asks for."""
    found: dict[str, list[Command]] = {}
    for name, method in inspect.getmembers(face, callable):
        if name.startswith("_") or name in ANY_COMMAND:
            continue
        notes.commands.clear()
        try:
            asyncio.run(finish(method(**arguments_for(method))))
        except Noted:
            pass
        found[name] = list(notes.commands)
    return found


@pytest.mark.parametrize(
    ("store", "session"), [(Store, Session), (AsyncStore, AsyncSession)], ids=["blocking", "asynchronous"]
)
def test_every_command_has_a_method(store: type[Any], session: type[Any]) -> None:
    notes: Notes | AsyncNotes = AsyncNotes() if store is AsyncStore else Notes()
    of_store, of_session = asked_by(store(notes), notes), asked_by(session(notes, "the session"), notes)
    asked_for = {
        row_of(command).name for found in (of_store, of_session) for each in found.values() for command in each
    }
    assert asked_for == {row.name for row in TABLE}
    for name, asked in of_session.items():
        assert all(command.session_id == "the session" for command in asked), name  # type: ignore[attr-defined]
    assert {name for name, asked in {**of_store, **of_session}.items() if not asked} == {
        "close", "once", "session", "with_timeout",
    }, "methods that ask for nothing"  # fmt: skip
