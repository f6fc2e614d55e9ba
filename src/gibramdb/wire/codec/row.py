"""What one row of the table is made of: how a command travels, and how its result does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gibramdb.core.limits import BULK_ITEMS_MAX
from gibramdb.errors import LimitExceededError
from gibramdb.model.commands import Command
from gibramdb.model.results import Result
from gibramdb.wire.codec.numbers import CommandNumber

CommandDecoder = Callable[[str, bytes], Command]
"""(session_id, payload) to the command. Raises DecodeError, InvalidArgumentError, LimitExceededError."""


def check_bulk(noun: str, count: int) -> None:
    """Refuse more items than one command may name, before any of them is looked at."""
    check_count(noun, count, "; send them in several commands")


def check_count(noun: str, count: int, advice: str = "") -> None:
    """As `check_bulk`, of what can not be sent in several commands."""
    if count > BULK_ITEMS_MAX:
        raise LimitExceededError(f"{noun} too many: {count} (max: {BULK_ITEMS_MAX}){advice}")


@dataclass(frozen=True, slots=True)
class RequestCodec:
    """A command class, from payload and to payload. The session travels in the envelope."""

    command: type[Command]
    decode: CommandDecoder
    encode: Callable[[Any], bytes]


@dataclass(frozen=True, slots=True)
class ResultCodec:
    """A result and the number its reply carries, to payload and from payload."""

    reply: CommandNumber
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Result]


@dataclass(frozen=True, slots=True)
class Row:
    """One command: its number, and everything that hangs on it."""

    number: CommandNumber
    request: RequestCodec
    result: ResultCodec

    @property
    def name(self) -> str:
        """The command's name in GibRAM's schema, or in ours from 200 up."""
        return self.number.name

    @property
    def permission(self) -> str:
        """What the caller must be allowed: read, write, admin or none."""
        return self.request.command.permission

    @property
    def session_rule(self) -> str:
        """What the command needs of its session: unused, required, created or optional."""
        return self.request.command.session_rule

    @property
    def handler(self) -> str:
        """Which of the database's ways carries it out."""
        return self.request.command.handler

    @property
    def needs_session_id(self) -> bool:
        """Whether an empty session id is refused."""
        return self.session_rule in {"required", "created"}
