"""Whether a command is made of what its fields are declared as.

What comes over the wire is read into the right types. A caller in Python can hand in anything, and frozen values do not
check theirs: so commands are checked where they are handed in, and everything behind that may count on it.
"""

from __future__ import annotations

import operator
from collections.abc import AsyncIterable, Callable, Iterable
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, NamedTuple, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from gibramdb.errors import InvalidArgumentError, in_brief
from gibramdb.model.commands import SEED_KINDS, Command, LinkTextUnitEntity
from gibramdb.model.knowledge import Embedding

T = TypeVar("T")

WHOLE_MIN, WHOLE_MAX = -(2**63), 2**64 - 1
"""What the log and the wire can hold, signed or unsigned."""


def checked_batch(batch: Iterable[object]) -> list[Command]:
    """As `checked`, all of them before any is carried out; the field is named as `commands[1].id`."""
    return [checked(command, f"commands[{index}].") for index, command in enumerate(batch)]


def checked(command: object, place: str = "") -> Command:
    """The command, if each of its fields holds what it can.

    Numbers and texts of other libraries, numpy's for example, are Python's own in what is returned: theirs overflow.

    place: what the field's name begins with.

    Raises:
        InvalidArgumentError: it names the field, as `entities[3].title`, what it must be and what was found.
    """
    if not isinstance(command, Command):
        raise InvalidArgumentError(f"not a command of gibramdb.commands: {in_brief(command)}")
    expected = _expected(type(command))
    if expected.is_exactly(command):
        return command
    if not expected.is_met_by(command):
        path, noun, found = _first_fault(command, type(command), "")
        # A single object's field has the name that the caller knows it by.
        name = path if getattr(command, "bulk", False) else path.rpartition(".")[2]
        raise InvalidArgumentError(f"{place}{name} must be {noun}, got {in_brief(found)}")
    own: Command = _as_own(command)
    return own


@cache
def _is_declared(struct: type[msgspec.Struct]) -> bool:
    """Whether it is one of ours, and not somebody's own with fields that nothing is known of."""
    return struct.__module__.startswith("gibramdb.model.")


def _as_own(value: Any) -> Any:
    """The value, with Python's own in the place of what only counts as such."""
    if isinstance(value, msgspec.Struct):
        if _is_declared(type(value)) and _expected(type(value)).is_exactly(value):
            return value
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        changed = {name: own for name, each in fields.items() if (own := _as_own(each)) is not each}
        return msgspec.structs.replace(value, **changed) if changed else value
    if isinstance(value, tuple | list):
        return tuple(map(_as_own, value))
    if type(value) in _SCALARS or not isinstance(value, str | bytes | Real):
        return value
    return plain(value)


def several(name: str, given: Iterable[T]) -> tuple[T, ...]:
    """What an argument gives one by one. A text would do so letter by letter, which nobody means.

    Raises:
        InvalidArgumentError: it is a text, or gives nothing.
    """
    check_iterable(name, given)
    return tuple(given)


def check_iterable_or_async(name: str, given: object) -> None:
    """As `check_iterable`, and it may come asynchronously."""
    if not isinstance(given, AsyncIterable):
        check_iterable(name, given)


def check_iterable(name: str, given: object) -> None:
    """As `several`, of what is not to be gone through yet. Raises InvalidArgumentError."""
    is_single = getattr(given, "ndim", 1) == 0  # an array without a dimension has the method, and gives nothing
    if isinstance(given, str | bytes) or not isinstance(given, Iterable) or is_single:
        raise InvalidArgumentError(f"{name} must be a list, or another iterable, got {in_brief(given)}")


def search_types_of(given: Iterable[str]) -> tuple[str, ...]:
    """The same of words that say what to search. On the wire, unknown ones are ignored; here they are mistakes."""
    types = several("search_types", given)
    for index, word in enumerate(types):
        if word not in SEED_KINDS:
            raise InvalidArgumentError(
                f"search_types[{index}] must be one of {', '.join(SEED_KINDS)}, got {in_brief(word)}"
            )
    return types


def links_of(session_id: str, pairs: Iterable[tuple[int, int]], first: int) -> list[LinkTextUnitEntity]:
    """The commands that link them. `first`: which of all pairs is the first here, to name one that is none."""
    links = []
    for index, pair in enumerate(pairs, first):
        try:
            textunit_id, entity_id = pair
        except (TypeError, ValueError):
            found = in_brief(pair)
            raise InvalidArgumentError(f"pairs[{index}] must be (text unit id, entity id), got {found}") from None
        links.append(LinkTextUnitEntity(session_id, textunit_id, entity_id))
    return links


def plain(value: Any) -> str | bytes | float:
    """A text, bytes or number of another library as Python's own; an `enc_hook` of msgspec.

    Raises:
        TypeError: it is none of them.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value)
    return operator.index(value)


class _Expected(NamedTuple):
    """What a field is declared as: in words, as a question, and as a stricter one, with no types but Python's own."""

    noun: str
    is_met_by: Callable[[Any], bool]
    is_exactly: Callable[[Any], bool]


def _is_unicode(text: str) -> bool:
    """Not with half of a surrogate pair, which a Python text can have, and neither the log nor the wire."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _is_whole_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return WHOLE_MIN <= int(value) <= WHOLE_MAX


def _is_exact_whole_number(value: object) -> bool:
    return type(value) is int and WHOLE_MIN <= value <= WHOLE_MAX


def _is_number(value: object) -> bool:
    if type(value) is float:
        return True
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _is_exact_as_float(value: object) -> bool:
    return type(value) is int and abs(value) <= _FLOAT_INTEGER_MAX


_FLOAT_INTEGER_MAX = 2**53
_SCALARS = {
    str: _Expected(
        "a text",
        lambda value: isinstance(value, str) and _is_unicode(value),
        lambda value: type(value) is str and _is_unicode(value),
    ),
    bytes: _Expected("bytes", lambda value: isinstance(value, bytes), lambda value: type(value) is bytes),
    bool: _Expected("True or False", lambda value: isinstance(value, bool), lambda value: type(value) is bool),
    int: _Expected("a whole number", _is_whole_number, _is_exact_whole_number),
    float: _Expected("a number", _is_number, lambda value: type(value) is float or _is_exact_as_float(value)),
    NoneType: _Expected("None", lambda value: value is None, lambda value: value is None),
}


@cache
def _expected(hint: Any) -> _Expected:
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint == Embedding:
        return _SCALARS[bytes]  # whatever was given has been converted when its holder was made
    if isinstance(hint, NewType):
        return _expected(hint.__supertype__)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _Expected(f"a {hint.__name__}", *_questions_of(hint))
    if get_origin(hint) in {tuple, frozenset}:
        kinds, noun = ((tuple, list), "a tuple or list") if get_origin(hint) is tuple else (frozenset, "a frozenset")
        item = _expected(get_args(hint)[0])
        # A list is copied: its owner may go on changing it.
        exact_kind = get_origin(hint)
        return _Expected(
            f"{noun}, each item {item.noun}",
            lambda value: isinstance(value, kinds) and all(map(item.is_met_by, value)),
            lambda value: type(value) is exact_kind and all(map(item.is_exactly, value)),
        )
    if get_origin(hint) in {Union, UnionType}:
        either = [_expected(part) for part in get_args(hint)]
        return _Expected(
            " or ".join(each.noun for each in either),
            lambda value: any(each.is_met_by(value) for each in either),
            lambda value: any(each.is_exactly(value) for each in either),
        )
    raise TypeError(f"a field of a command is declared as {hint}, of which nothing is known here")


def _questions_of(struct: type[msgspec.Struct]) -> tuple[Callable[[Any], bool], Callable[[Any], bool]]:
    names = [name for name, _ in _fields(struct)]
    hints = [hint for _, hint in _fields(struct)]
    are_met = [_expected(hint).is_met_by for hint in hints]
    are_exact = [_expected(hint).is_exactly for hint in hints]
    exact = [hint if hint in _SCALARS else bytes if hint == Embedding else None for hint in hints]
    whole = [place for place, hint in enumerate(hints) if _expected(hint) is _SCALARS[int]]
    texts = [place for place, hint in enumerate(hints) if _expected(hint) is _SCALARS[str]]

    def are_plainly_exact(values: list[Any]) -> bool:
        # Thousands of objects come in one command, and nearly all of them are exactly what is declared.
        if list(map(type, values)) != exact:
            return False
        for place in whole:
            if not WHOLE_MIN <= values[place] <= WHOLE_MAX:
                return False
        for place in texts:  # noqa: SIM110 (all() takes twice the time)
            if not values[place].isascii() and not _is_unicode(values[place]):
                return False
        return True

    def is_met_by(value: Any) -> bool:
        if not isinstance(value, struct):
            return False
        values = [getattr(value, name) for name in names]
        return are_plainly_exact(values) or all(map(operator.call, are_met, values))

    def is_exactly(value: Any) -> bool:
        if type(value) is not struct:
            return False
        values = [getattr(value, name) for name in names]
        return are_plainly_exact(values) or all(map(operator.call, are_exact, values))

    return is_met_by, is_exactly


def _fields(struct: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    hints = get_type_hints(struct)
    return [(name, hints[name]) for name in struct.__struct_fields__]


def _first_fault(value: Any, hint: Any, path: str) -> tuple[str, str, Any]:
    """Where it is, what is expected there, and what was found."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct) and isinstance(value, hint):
        parts = [(f"{path}.{name}" if path else name, getattr(value, name), type_) for name, type_ in _fields(hint)]
    elif get_origin(hint) is tuple and isinstance(value, tuple | list):
        parts = [(f"{path}[{index}]", each, get_args(hint)[0]) for index, each in enumerate(value)]
    else:
        noun = _expected(hint).noun
        if _expected(hint) is _SCALARS[int] and isinstance(value, Integral) and not isinstance(value, bool):
            noun += " of at most 64 bits"
        elif _expected(hint) is _SCALARS[str] and isinstance(value, str):
            noun += " that UTF-8 can hold"
        return path, noun, value
    return next(_first_fault(part, type_, at) for at, part, type_ in parts if not _expected(type_).is_met_by(part))
