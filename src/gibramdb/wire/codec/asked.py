"""What a request says of how many objects its answer tells: what fits into a pipeline, whether an answer is whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gibramdb.core import limits
from gibramdb.model import commands


def objects_asked(command: object) -> int:
    """The most that its answer can tell of; 0 for those whose number only the answer shows."""
    count = _OBJECTS_ASKED.get(type(command))
    return 0 if count is None else count(command)


def objects_created(command: object) -> int:
    """How many ids answer a command that adds objects."""
    count = _OBJECTS_CREATED.get(type(command))
    return 1 if count is None else count(command)


def _page(command: commands.ListDocuments) -> int:
    return limits.LIST_LIMIT_DEFAULT if command.limit <= 0 else min(command.limit, limits.LIST_LIMIT_MAX)


def _hits(command: commands.Query) -> int:
    entities = _at_most(command.entities_max, limits.ENTITIES_MAX_DEFAULT)
    textunits = _at_most(command.textunits_max, limits.TEXTUNITS_MAX_DEFAULT)
    communities = _at_most(command.communities_max, limits.COMMUNITIES_MAX_DEFAULT)
    return entities + textunits + communities + min(entities * entities, limits.QUERY_RELATIONSHIPS_MAX)


def _at_most(asked: int, default: int) -> int:
    return min(max(0, asked) or default, limits.QUERY_ITEMS_MAX)


_HEALTH_FIELDS_MAX = 64
# Any: each takes its own command.
_OBJECTS_CREATED: dict[type, Callable[[Any], int]] = {
    commands.AddDocuments: lambda command: len(command.documents),
    commands.AddTextUnits: lambda command: len(command.textunits),
    commands.AddEntities: lambda command: len(command.entities),
    commands.AddRelationships: lambda command: len(command.relationships),
}
_OBJECTS_ASKED: dict[type, Callable[[Any], int]] = {
    commands.GetHealth: lambda _: _HEALTH_FIELDS_MAX,
    commands.GetDocuments: lambda command: len(command.ids),
    commands.GetTextUnits: lambda command: len(command.ids),
    commands.GetEntities: lambda command: len(command.ids),
    commands.GetRelationships: lambda command: len(command.ids),
    commands.GetEmbeddings: lambda command: len(command.ids),
    commands.ListDocuments: _page,
    commands.ListTextUnits: _page,
    commands.ListEntities: _page,
    commands.ListRelationships: _page,
    commands.ListCommunities: _page,
    commands.ListSessions: lambda command: _at_most(command.limit, limits.SESSIONS_MAX_DEFAULT),
    commands.Query: _hits,
}
