"""Each field of each command takes what it is declared as, and refuses anything else by its name."""

from __future__ import annotations

import array
import enum
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import pytest

from gibramdb.errors import InvalidArgumentError
from gibramdb.model import commands
from gibramdb.model.commands import Command
from gibramdb.model.field_types import checked, plain
from gibramdb.model.knowledge import Embedding, NewCommunity, NewEntity, NewRelationship, to_float32
from gibramdb.model.scope import SessionScope

CONCRETE = [
    each
    for each in vars(commands).values()
    if isinstance(each, type) and issubclass(each, Command) and each.__struct_fields__ and each.__doc__
    if not each.__subclasses__()
]


class Word(str):
    """A text of somebody else's."""

    __slots__ = ()


class Colour(enum.StrEnum):
    RED = "red"


def a_right_one(hint: Any) -> Any:
    simple = {str: "x", bytes: b"x", bool: True, int: 1, float: 0.5, SessionScope | None: None}
    if hint in simple:
        return simple[hint]
    if hint == Embedding:
        return b""
    if get_origin(hint) is tuple:
        return (a_right_one(get_args(hint)[0]),)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint(**{name: a_right_one(each) for name, each in hints_of(hint).items()})
    return a_right_one(hint.__supertype__)


def hints_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    hints = get_type_hints(struct)
    return {name: hints[name] for name in struct.__struct_fields__}


@pytest.mark.parametrize("command", CONCRETE, ids=lambda each: each.__name__)
def test_each_field_refuses_what_it_is_not_and_says_its_name(command: type[Command]) -> None:
    right = a_right_one(command)
    assert checked(right) is right
    for name, hint in hints_of(command).items():
        for wrong in (object(), 1.5j, [None], {"a": 1}, None):
            if wrong is None and hint == (SessionScope | None):
                continue
            broken = a_right_one(command)
            msgspec.structs.force_setattr(broken, name, wrong)  # past what converts embeddings
            with pytest.raises(InvalidArgumentError, match=rf"^{name}(\[0\])? must be .*, got "):
                checked(broken)


def test_what_is_wrong_inside_is_named_with_its_place() -> None:
    entities = (NewEntity("a", "A"), NewEntity("b", None))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"^entities\[1\]\.title must be a text, got None$"):
        checked(commands.AddEntities("s", entities))
    with pytest.raises(InvalidArgumentError, match=r"^title must be a text, got None$"):
        checked(commands.AddEntities("s", entities[1:], bulk=False))
    with pytest.raises(InvalidArgumentError, match=r"^entities\[0\] must be a NewEntity, got 'a'$"):
        checked(commands.AddEntities("s", ("a",)))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"^entity_ids\[1\] must be a whole number, got '2'$"):
        checked(commands.AddCommunity("s", NewCommunity("c", (1, "2"))))  # type: ignore[arg-type]
    with pytest.raises(
        InvalidArgumentError, match=r"^ids must be a tuple or list, each item a whole number, got \{1\}$"
    ):
        checked(commands.GetEntities("s", {1}))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"^not a command of gibramdb\.commands: 'PING'$"):
        checked("PING")


@pytest.mark.parametrize("wrong", ["0.5", True, None, 1j, 10**400])
def test_a_number_is_nothing_that_is_not_one_and_fits(wrong: Any) -> None:
    command = commands.AddRelationships("s", (NewRelationship(1, 2, weight=wrong),))
    with pytest.raises(InvalidArgumentError, match=r"^relationships\[0\]\.weight must be a number, got "):
        checked(command)


@pytest.mark.parametrize("wrong", ["1", 1.0, np.float64(1), True, np.bool_(True), np.array([1])])
def test_a_whole_number_is_nothing_that_is_not_one(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^id must be a whole number, got "):
        checked(commands.GetEntity("s", wrong))


@pytest.mark.parametrize("number", [1, np.float32(0.5), np.float64(0.5), np.int64(2), Fraction(1, 2)])
def test_numbers_of_others_are_numbers_and_become_pythons_own(number: Any) -> None:
    new = NewRelationship(np.int32(1), np.uint8(2), np.str_("r"), weight=number)  # type: ignore[arg-type]
    own = checked(commands.AddRelationships(Word("s"), (NewRelationship(1, 3), new)))
    assert isinstance(own, commands.AddRelationships)
    values = msgspec.structs.astuple(own.relationships[1])
    assert values == (1, 2, "r", "", float(number), "")
    assert [type(value) for value in values] in ([int, int, str, str, kind, str] for kind in (int, float))
    assert type(own.session_id) is str


@pytest.mark.parametrize("number", [np.uint8(200), np.int16(200), np.uint64(200)])
def test_small_numbers_of_others_do_not_overflow(number: Any) -> None:
    for command in (
        commands.SetSessionTtl("s", number, number),
        commands.GetEntities("s", [number]),  # type: ignore[arg-type]
        commands.Query("s", b"", top_k=number, seed_entity_ids=(number,)),
    ):
        own = checked(command)
        assert msgspec.structs.astuple(own) == msgspec.structs.astuple(command) or isinstance(own, commands.GetEntities)
        assert "np." not in repr(own)
        assert "200" in repr(own)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (np.str_("x"), "x"),
        (Word("x"), "x"),
        (Colour.RED, "red"),
        (np.bytes_(b"x"), b"x"),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (Fraction(1, 4), 0.25),
    ],
)
def test_what_is_stored_is_pythons_own(given: Any, stored: Any) -> None:
    assert plain(given) == stored
    assert type(plain(given)) is type(stored)


@pytest.mark.parametrize("wrong", [object(), 1j, None, [1], np.bool_(True)])
def test_nothing_else_is_made_plain(wrong: Any) -> None:
    with pytest.raises(TypeError):
        plain(wrong)


class Their(NewEntity, frozen=True):
    """One with more in it than is stored."""

    more: dict[str, int] = msgspec.field(default_factory=dict)


def test_what_somebody_has_added_to_an_object_of_ours_is_nobodys_business() -> None:
    entities = (Their("a", "A", more={"x": 1}), Their(np.str_("b"), "B", more={"x": 2}))
    own = checked(commands.AddEntities("s", entities))
    assert isinstance(own, commands.AddEntities)
    assert own.entities == entities
    assert type(own.entities[1].external_id) is str


def test_a_list_is_copied_since_its_owner_may_change_it() -> None:
    ids = [1, 2]
    own = checked(commands.GetEntities("s", ids))  # type: ignore[arg-type]
    ids.append(3)
    assert isinstance(own, commands.GetEntities)
    assert own.ids == (1, 2)


def test_a_set_is_no_tuple_since_it_has_no_order() -> None:
    with pytest.raises(InvalidArgumentError, match=r"^ids must be a tuple or list, each item a whole number, got "):
        checked(commands.GetEntities("s", frozenset({1})))  # type: ignore[arg-type]


def test_whole_numbers_stand_where_numbers_are_asked_for() -> None:
    command = commands.AddRelationships("s", (NewRelationship(1, 2, weight=2),))
    assert checked(command) is command, "nothing is gained by making them floats one by one"


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ([1, 0.5], [1, 0.5]),
        ([np.float16(1), np.True_], [1, 1]),
        ((Decimal(1), Fraction(1, 2), 3), [1, 0.5, 3]),
        (np.array([np.True_, 2, Decimal(3)], object), [1, 2, 3]),
        (np.array([1, 2], ">f8"), [1, 2]),
        (memoryview(array.array("f", [1, 2])), [1, 2]),
        (np.ma.masked_equal(np.array([1.0, 2.0]), 3), [1, 2]),
        (np.array([], "U1"), []),
        ((), []),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_embedding_may_come_as_any_numbers(given: Any, numbers: list[float]) -> None:
    assert to_float32(given) == np.array(numbers, "<f4").tobytes()
