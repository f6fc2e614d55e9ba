"""GibRAM's snapshots: one JSON object with all sessions, versions 1 and 2.

The newest is the one of the greatest name, and the only one that GibRAM would look at. It carries no checksum and no
vector dimension.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Raw

from gibramdb.errors import CorruptLogError, IncompatibleStoreError
from gibramdb.storage.gibram import forms
from gibramdb.storage.gibram.forms import Kind, UnfitError, is_empty
from gibramdb.storage.gibram.holdings import SessionHoldings

NAME = re.compile(r"snapshot-[0-9]{20}\.json")

_NS_PER_MS = 1_000_000
_HEAD_FIELDS = ("version", "createdat", "walgeneration", "waloffset", "walsize", "sessions")
_SESSION_FIELDS = (
    "sessionid",
    "session",
    "documents",
    "textunits",
    "entities",
    "relationships",
    "communities",
    "idgeneratorstate",
    "textunitvectors",
    "entityvectors",
    "communityvectors",
)
_TIMES = ("createdat", "lastaccess", "ttl", "idlettl")
# A session's times are nanoseconds since 1970; in any other unit the years from 1973 on would be smaller numbers.
_NS_MIN, _NS_MAX = 10**17, 2**63 - 1
_TTL_SUSPECT_NS = 10**9


class SnapshotHead(msgspec.Struct, frozen=True):
    """What a snapshot says of the log. Version 1 says how large it was, version 2 which it was and how far it is in."""

    version: int
    wal_generation: int
    wal_offset: int
    wal_size: int


class Snapshot:
    """A snapshot read whole. `notes`: what has no place here, in words.

    Raises:
        CorruptLogError: it is damaged, or contradicts itself.
        IncompatibleStoreError: it is of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.read_bytes()
        self._status_count = 0
        self._other: dict[str, int] = {}
        self._short_ttls: list[str] = []
        self.sessions: dict[str, SessionHoldings] = {}
        try:
            fields = forms.fields(self._data, _HEAD_FIELDS, ("version",))
            self.head = self._head(fields)
            items = [raw for _, raw in forms.objects(fields.get("sessions"))]
        except UnfitError as unfit:
            raise self._refusal(0, unfit) from None
        for raw in items:
            self._take(raw)
        del self._data

    @property
    def notes(self) -> Sequence[str]:
        """What has no place here, or a place that asks for a word."""
        notes = [
            f"the sessions' field {name!r} has no place here ({count} sessions): quotas are settings of the whole store"
            for name, count in sorted(self._other.items())
        ]
        if self._status_count:
            notes.append(
                f"the status of {self._status_count} documents is not 'uploaded'; documents have no other here"
            )
        notes += self._short_ttls
        return notes

    def _head(self, fields: dict[str, Raw]) -> SnapshotHead:
        version = forms.decoded(fields["version"], int)
        if version not in (1, 2):
            raise IncompatibleStoreError(
                f"{self.path}: expected a snapshot of version 1 or 2, found version {version}; next: only directories "
                "of GibRAM 0.3.0 can be read"
            )
        numbers = {name: forms.decoded(fields[name], int) for name in _HEAD_FIELDS[2:5] if name in fields}
        for name, number in numbers.items():
            if number < 0:
                raise UnfitError(f"{name} of 0 or more", str(number))
        if version == 2 and "walgeneration" not in numbers:
            raise UnfitError("the generation of the log in a snapshot of version 2", "none")
        generation, offset = numbers.get("walgeneration", 0), numbers.get("waloffset", 0)
        if version == 1:
            if "walsize" not in numbers:
                raise UnfitError("the size of the log in a snapshot of version 1", "none")
            if generation or offset:
                raise UnfitError("only the log's size in a snapshot of version 1", "its generation or offset")
        return SnapshotHead(version, generation, offset, numbers.get("walsize", 0))

    def _take(self, raw: Raw) -> None:
        at = raw
        session_id = ""
        try:
            if bytes(raw) == b"null":
                raise UnfitError("a session", "null")  # noqa: TRY301  one place makes the refusal
            fields = forms.fields(raw, _SESSION_FIELDS, ("sessionid", "session"))
            session_id = forms.decoded(fields["sessionid"], str)
            if not session_id or session_id in self.sessions:
                raise UnfitError("a session id that no other session has", repr(session_id))  # noqa: TRY301
            session = SessionHoldings(session_id)
            at = fields["session"]
            self._take_times(session, at)
            at = fields.get("idgeneratorstate", raw)
            for kind, number in forms.counters(fields.get("idgeneratorstate")):
                session.count_to(kind, number)
            at = fields.get("textunitvectors", raw)
            textunit_vectors = forms.vectors_by_id(fields.get("textunitvectors"))
            at = fields.get("entityvectors", raw)
            entity_vectors = forms.vectors_by_id(fields.get("entityvectors"))
            at = fields.get("communityvectors", raw)
            community_vectors = forms.vectors_by_id(fields.get("communityvectors"))
            for id, at in forms.objects(fields.get("documents")):
                document = _identified(id, forms.form(at, forms.DocumentForm))
                self._status_count += document.status not in {"", "uploaded"}
                session.add_document(document)
            for id, at in forms.objects(fields.get("textunits")):
                textunit = _identified(id, forms.form(at, forms.TextUnitForm))
                session.add_textunit(textunit, textunit_vectors.get(textunit.id, b""))
            for id, at in forms.objects(fields.get("entities")):
                entity = _identified(id, forms.form(at, forms.EntityForm))
                session.add_entity(entity, entity_vectors.get(entity.id, b""))
            for id, at in forms.objects(fields.get("relationships")):
                session.add_relationship(_identified(id, forms.form(at, forms.RelationshipForm)))
            for id, at in forms.objects(fields.get("communities")):
                community = _identified(id, forms.form(at, forms.CommunityForm))
                session.add_community(community, community_vectors.get(community.id, b""))
            at = raw
            session.check_links()
            rows: tuple[tuple[Kind, dict[int, bytes]], ...] = (
                ("textunit", textunit_vectors),
                ("entity", entity_vectors),
                ("community", community_vectors),
            )
            for kind, vectors in rows:
                session.check_vectors(kind, vectors)
        except UnfitError as unfit:
            raise self._refusal(self._offset(at), unfit, f"session {session_id!r}: " if session_id else "") from None
        self.sessions[session_id] = session

    def _take_times(self, session: SessionHoldings, raw: Raw) -> None:
        fields = {forms.folded(name): value for name, value in forms.decoded(raw, dict[str, Raw]).items()}
        id = fields.pop("id", None)
        if id is not None and forms.decoded(id, str) != session.session_id:
            raise UnfitError(f"the session id {session.session_id!r}", forms.decoded(id, str))
        fields.pop("usage", None)  # follows from the objects
        if "createdat" not in fields:
            raise UnfitError("the session's created_at", "none")
        times = {name: forms.decoded(fields.pop(name), int) for name in _TIMES if name in fields}
        created_ns = times["createdat"]
        used_ns = times.get("lastaccess", created_ns)
        for name, moment_ns in (("created_at", created_ns), ("last_access", used_ns)):
            if not _NS_MIN <= moment_ns <= _NS_MAX:
                raise UnfitError(f"the session's {name} in nanoseconds since 1970", str(moment_ns))
        session.created_at_ms, session.last_access_ms = created_ns // _NS_PER_MS, used_ns // _NS_PER_MS
        session.ttl_ms = self._ttl_ms(session.session_id, "TTL", times.get("ttl", 0), created_ns)
        session.idle_ttl_ms = self._ttl_ms(session.session_id, "idle TTL", times.get("idlettl", 0), used_ns)
        for name, value in fields.items():
            if not is_empty(value) and not _is_hollow(value):
                self._other[name] = self._other.get(name, 0) + 1

    def _ttl_ms(self, session_id: str, what: str, ttl_ns: int, from_ns: int) -> int:
        if not 0 <= ttl_ns <= _NS_MAX:
            raise UnfitError(f"the session's {what} in nanoseconds", str(ttl_ns))
        if 0 < ttl_ns < _TTL_SUSPECT_NS:
            self._short_ttls.append(
                f"session {session_id!r} has the {what} of {ttl_ns} ns, so it ends at once, here as in GibRAM, which "
                "counted in nanoseconds what callers give in seconds; if seconds were meant, keep these files: its "
                "content will be nowhere else"
            )
        elif ttl_ns and from_ns + ttl_ns > _NS_MAX:
            self._short_ttls.append(
                f"session {session_id!r} has the {what} of {ttl_ns} ns, which overflowed in GibRAM, so that it had "
                "ended there; here it lives on"
            )
        return -(-ttl_ns // _NS_PER_MS)  # rounded up: one that is set must not become one that is not

    def _offset(self, raw: Raw) -> int:
        """Where a value lies in the file: it is a view of what was read."""
        return int(_address(raw) - _address(self._data))

    def _refusal(self, offset: int, unfit: UnfitError, where: str = "") -> CorruptLogError:
        return CorruptLogError(
            f"{self.path}: offset {offset}: {where}{unfit}; next: put the original snapshot back; an older one can "
            "only be read with the log of its time, or without any log"
        )


def _identified(id: int | None, form: forms.F) -> forms.F:
    if id is not None and id != form.id:
        raise UnfitError(f"an object of id {id} under this key", str(form.id))
    return form


def _is_hollow(value: Raw) -> bool:
    """Whether an object, or a list, consists of nothing that says anything."""
    stack = [forms.decoded(value, object)]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            stack.extend(each.values())
        elif isinstance(each, list):
            stack.extend(each)
        elif each:
            return False
    return True


def _address(data: bytes | Raw) -> int:
    return np.frombuffer(data, np.uint8).ctypes.data
