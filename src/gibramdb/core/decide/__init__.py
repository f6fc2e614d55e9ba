"""A command and the state of now become a mutation and an answer, or a refusal. Changes nothing.

`decide` returns (mutation, result). The mutation is None where the command is right and nothing has to change. A
refusal is a `CallerError`; a refused command leaves no trace, so it does not create its session either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gibramdb.core.decide import cascades, communities, documents, entities, once, relationships, sessions, textunits
from gibramdb.core.decide.admission import Decision, Moment
from gibramdb.core.limits import Limits
from gibramdb.core.state import StoreState
from gibramdb.model import commands
from gibramdb.model.commands import WriteCommand

# Any: each function takes its own command; the table is what ties the two, and a test that none is missing.
_DECIDE: dict[type[WriteCommand], Callable[[Moment, Any], Decision]] = {
    commands.AddEntities: entities.add,
    commands.AddRelationships: relationships.add,
    commands.AddTextUnits: textunits.add,
    commands.AddDocuments: documents.add,
    commands.AddCommunity: communities.add,
    commands.LinkTextUnitEntity: textunits.link,
    commands.UnlinkTextUnitEntity: textunits.unlink,
    commands.UpdateEntityDescription: entities.describe,
    commands.DeleteDocument: documents.delete,
    commands.DeleteTextUnit: textunits.delete,
    commands.DeleteEntity: entities.delete,
    commands.DeleteRelationship: relationships.delete,
    commands.DeleteCommunity: communities.delete,
    commands.CascadeDeleteDocument: cascades.document,
    commands.CascadeDeleteTextUnit: cascades.textunit,
    commands.CascadeDeleteEntity: cascades.entity,
    commands.CascadeDeleteRelationship: cascades.relationship,
    commands.ReplaceCommunities: communities.replace,
    commands.DeleteSession: sessions.delete,
    commands.ExpireSession: sessions.expire,
    commands.SetSessionTtl: sessions.set_ttl,
    commands.TouchSession: sessions.touch,
}


def decide(state: StoreState, command: WriteCommand, now_ms: int, limits: Limits) -> Decision:
    """What the command changes and what it answers.

    Raises:
        CallerError: the command is refused.
    """
    moment = Moment(state, now_ms, limits)
    if command.token and command.is_remembered:
        return once.decide(moment, command, _DECIDE[type(command)])
    return _DECIDE[type(command)](moment, command)
