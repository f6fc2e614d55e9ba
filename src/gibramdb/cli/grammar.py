"""Words to commands, for people: every command of the wire by its name, its fields as `name=value`.

The grammar follows from the table of commands and the fields of their classes, so that a command added there can be
asked for here. One that adds an object takes that object's fields; one that adds several takes a JSON list of objects.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gibramdb.errors import InvalidArgumentError, UnknownCommandError
from gibramdb.model.commands import Command
from gibramdb.model.knowledge import Embedding
from gibramdb.wire.codec import TABLE, CommandNumber, Row

_NOT_ASKED_FOR = {"session_id", "token", "bulk", "scope", "asker"}
_ADDS_ONE = {
    CommandNumber.ADD_DOCUMENT, CommandNumber.ADD_TEXTUNIT, CommandNumber.ADD_ENTITY, CommandNumber.ADD_RELATIONSHIP,
}  # fmt: skip

GOT_CHARS_MAX = 500
"""Of a value that is refused: enough to know it again. A list may have millions."""

ROWS: dict[str, Row] = {row.name: row for row in TABLE}
"""Every command that can be asked for, by name."""


class Field(NamedTuple):
    """Something that a command is told."""

    name: str
    type: Any
    is_required: bool

    @property
    def said(self) -> str:
        """Its type, as a person writes it."""
        if self.type in _WORDS:
            return _WORDS[self.type]
        item = _item_of(self.type)
        if item is not None and issubclass(item, msgspec.Struct):
            return "JSON list of {" + ", ".join(each.name for each in _fields_of(item)) + "}"
        return "JSON list of " + _WORDS[item]


_WORDS = {
    int: "whole number", float: "number", str: "text", bool: "true or false", Embedding: "JSON list of numbers",
}  # fmt: skip


def row_named(word: str) -> Row:
    """The command of this name; case and dashes do not matter.

    Raises:
        UnknownCommandError: there is none.
    """
    name = word.upper().replace("-", "_")
    row = ROWS.get(name)
    if row is None:
        near = difflib.get_close_matches(name, ROWS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownCommandError(f"unknown command: {word}; {hint}`help` lists them all")
    return row


def fields_of(row: Row) -> list[Field]:
    """What a command takes, in the order in which it may be given without names."""
    inner = _object_of(row)
    return _fields_of(row.request.command if inner is None else inner)


def needs_session(row: Row) -> bool:
    """Whether it is about one session."""
    return row.session_rule in {"required", "created"}


def command_from(words: Sequence[str], session_id: str) -> Command:
    """The command that these words ask for: its name, then values in order, or as `name=value`.

    A word with another name before its `=` is a value like any other, where a text is due: E=mc2.

    Raises:
        UnknownCommandError: there is no command of this name.
        InvalidArgumentError: it needs a session; or a value is missing, unknown, given twice, or not of its type.
    """
    row = row_named(words[0])
    if needs_session(row) and not session_id:
        raise InvalidArgumentError(f"{row.name} is about one session: name it with --session, or `use NAME`")
    values = _values(row, words[1:])
    inner = _object_of(row)
    command: type[Any] = row.request.command
    if inner is not None:
        made = inner(**values)
        values = (
            {_holder(row): made}
            if row.number == CommandNumber.ADD_COMMUNITY
            else {_holder(row): (made,), "bulk": False}
        )
    if "session_id" in command.__struct_fields__:
        values["session_id"] = session_id
    result: Command = command(**values)
    return result


def _values(row: Row, words: Sequence[str]) -> dict[str, Any]:
    fields = fields_of(row)
    by_name = {field.name: field for field in fields}
    values: dict[str, Any] = {}
    in_order = iter(fields)
    for word in words:
        name, equals, text = word.partition("=")
        if equals and name in by_name:
            field = by_name[name]
        else:
            text = word
            following = next((each for each in in_order if each.name not in values), None)
            if equals and name.isidentifier() and (following is None or following.type is not str):
                known = ", ".join(by_name) or "nothing"
                raise InvalidArgumentError(f"{row.name} takes no {name}, as in {_quoted(word)}; it takes {known}")
            if following is None:
                raise InvalidArgumentError(f"{row.name} takes {len(fields)} values; {_quoted(word)} is one more")
            field = following
        if field.name in values:
            raise InvalidArgumentError(f"{row.name}: {field.name} is given twice")
        values[field.name] = _read(row.name, field, text)
    missing = [field.name for field in fields if field.is_required and field.name not in values]
    if missing:
        raise InvalidArgumentError(f"{row.name}: missing {', '.join(missing)}; `help {row.name}` says what it takes")
    return values


def _read(command: str, field: Field, text: str) -> Any:
    if field.type is str:
        return text
    try:
        value = json.loads(text)
        item = _item_of(field.type)
        if item is not None and issubclass(item, msgspec.Struct):
            return tuple(_made(item, each) for each in msgspec.convert(value, tuple[dict[str, Any], ...]))
        return _converted(field, value)
    except RecursionError:
        why = "nested too deeply"
    except (ValueError, TypeError) as error:
        why = str(error)
    raise InvalidArgumentError(f"{command}: {field.name} takes a {field.said}, got {_quoted(text)}: {why}")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= GOT_CHARS_MAX else f"{text[:GOT_CHARS_MAX]} …")


def _made(item: type[Any], values: dict[str, Any]) -> Any:
    fields = {field.name: field for field in _fields_of(item)}
    unknown = values.keys() - fields.keys()
    if unknown:
        raise ValueError(f"{min(unknown)} is none of {', '.join(fields)}")
    return item(**{name: _converted(fields[name], value) for name, value in values.items()})


def _converted(field: Field, value: Any) -> Any:
    try:
        return msgspec.convert(value, tuple[float, ...] if field.type is Embedding else field.type)
    except msgspec.ValidationError as error:
        raise ValueError(f"{field.name}: {error}") from None


def _fields_of(struct: type[Any]) -> list[Field]:
    hints = typing.get_type_hints(struct)
    return [
        Field(each.name, Embedding if _is_embedding(hints[each.name]) else hints[each.name], each.required)
        for each in msgspec.structs.fields(struct)
        if each.name not in _NOT_ASKED_FOR
    ]


def _is_embedding(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and bytes in typing.get_args(hint)


def _item_of(hint: Any) -> type[Any] | None:
    """Of what a tuple is made."""
    arguments = typing.get_args(hint)
    return arguments[0] if typing.get_origin(hint) is tuple else None


def _holder(row: Row) -> str:
    """The one field that holds the object which a command adds."""
    return next(name for name in row.request.command.__struct_fields__ if name not in _NOT_ASKED_FOR)


def _object_of(row: Row) -> type[Any] | None:
    """The class whose fields a command is told in place of its own."""
    if row.number not in _ADDS_ONE and row.number != CommandNumber.ADD_COMMUNITY:
        return None
    hint = typing.get_type_hints(row.request.command)[_holder(row)]
    return _item_of(hint) or hint
