"""Which sessions a caller may name and see, where that is not all of them."""

from __future__ import annotations

import msgspec


class SessionScope(msgspec.Struct, frozen=True):
    """The sessions of these names, and those whose names begin with one of these prefixes, now and later."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def holds(self, session_id: str) -> bool:
        """Whether the session of this name is one of them."""
        return session_id in self.names or session_id.startswith(self.prefixes)
