"""GibRAM's log: a header line, then one JSON object a line, without lengths and without checksums.

So damage inside a text or a number can not be seen; damage to the form can, and so can what does not fit to what came
before. A last line that lost its newline was cut by a crash: if it is a whole object it is taken, as GibRAM itself
takes it, and if not it is torn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Raw

from gibramdb.errors import CorruptLogError, IncompatibleStoreError
from gibramdb.storage.gibram import forms
from gibramdb.storage.gibram.forms import Kind, UnfitError
from gibramdb.storage.gibram.holdings import SessionHoldings
from gibramdb.storage.wal import RECORD_BYTES_MAX

LINE_BYTES_MAX = RECORD_BYTES_MAX
"""The longest line that is read. GibRAM writes what came in a frame of at most 64 MiB at about three times its size."""

FORMAT = "gibram-session-wal"
_VERSION = 1
_HEADER_BYTES_MAX = 4096
_HEADER_FIELDS = ("format", "version", "generation")


class Log(msgspec.Struct, frozen=True):
    """A log file. Generation 0 has no header; `record_bytes` is all behind the header, whatever it is."""

    path: Path
    generation: int
    header_bytes: int
    record_bytes: int


class LogReading:
    """The lines from an offset on, each with its place in the file. Once gone through, `torn_bytes` is known.

    `start` counts from the end of the header, as GibRAM's own offsets do.

    Raises:
        CorruptLogError: `start` is not where a line begins, or a line is too long.
    """

    def __init__(self, log: Log, start: int) -> None:
        self._log = log
        self._start = start
        self.torn_bytes = 0
        self.newline_missing = False

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        log = self._log
        offset = log.header_bytes + self._start
        with log.path.open("rb") as file:
            if self._start:
                self._check_boundary(offset)
                file.seek(offset - 1)
                if file.read(1) != b"\n":
                    raise CorruptLogError(
                        f"{log.path}: offset {offset}: expected the beginning of a record, which is where the snapshot "
                        "says that the log goes on, found the middle of one; next: put the log back that belongs to "
                        "the snapshot, or move the log aside to take the snapshot alone"
                    )
            else:
                file.seek(offset)
            while line := file.readline(LINE_BYTES_MAX + 1):
                if len(line) > LINE_BYTES_MAX:
                    raise CorruptLogError(
                        f"{log.path}: offset {offset}: expected a record of at most {LINE_BYTES_MAX} bytes, found no "
                        "end of it; next: move the log aside to take the snapshot alone, if there is one"
                    )
                if line.endswith(b"\n"):
                    yield offset, line
                elif _is_whole(line):
                    self.newline_missing = True
                    yield offset, line
                else:
                    self.torn_bytes = len(line)
                offset += len(line)

    def _check_boundary(self, offset: int) -> None:
        log = self._log
        if self._start > log.record_bytes:
            raise CorruptLogError(
                f"{log.path}: offset {offset}: expected the log to reach here, because the snapshot covers "
                f"{self._start} bytes of its records, found {log.record_bytes}; next: put the log back that belongs to "
                "the snapshot, or move the log aside to take the snapshot alone"
            )


def open_log(path: Path) -> Log:
    """What the first line says.

    Raises:
        IncompatibleStoreError: it is a header, but of another format or version.
        CorruptLogError: it is a header without a sound generation.
    """
    with path.open("rb") as file:
        first = file.readline(_HEADER_BYTES_MAX)
        size = file.seek(0, 2)
    header = _header(first)
    if header is None:
        return Log(path, 0, 0, size)
    try:
        found = forms.fields(first, _HEADER_FIELDS, _HEADER_FIELDS)
        format_name = forms.decoded(found["format"], str)
        version = forms.decoded(found["version"], int)
        generation = forms.decoded(found["generation"], int)
        if generation < 1:
            raise UnfitError("a generation from 1", str(generation))  # noqa: TRY301  one place makes the refusal
    except UnfitError as unfit:
        raise CorruptLogError(
            f"{path}: offset 0: the log's header is damaged: {unfit}; next: put the original log back, or move it "
            "aside to take the snapshot alone"
        ) from None
    if format_name != FORMAT or version != _VERSION:
        raise IncompatibleStoreError(
            f"{path}: offset 0: expected a log of format {FORMAT} version {_VERSION}, found {format_name} version "
            f"{version}; next: only directories of GibRAM 0.3.0 can be read"
        )
    return Log(path, generation, len(first), size - len(first))


def take_records(log: Log, start: int, sessions: dict[str, SessionHoldings]) -> tuple[int, LogReading]:
    """Replay the log, from an offset on, into the sessions; answers how many records there were.

    Raises:
        CorruptLogError: a record is damaged, or does not fit to what came before it.
    """
    reading = LogReading(log, start)
    records = 0
    for offset, line in reading:
        try:
            _take(line, sessions)
        except UnfitError as unfit:
            raise CorruptLogError(
                f"{log.path}: offset {offset}: record {records + 1} of the replay: {unfit}; next: keep the file as it "
                "is. GibRAM logs no deleted or expired sessions, links, descriptions and hand-made communities, so a "
                "later record can contradict what is here; where a snapshot is acceptable as the recovery point, move "
                "the log aside and read again"
            ) from None
        records += 1
    return records, reading


def _header(first: bytes) -> dict[str, Raw] | None:
    try:
        values = msgspec.json.decode(first, type=dict[str, Raw])
    except forms.NOT_JSON:
        return None
    return values if any(forms.folded(name) == "format" for name in values) else None


def _is_whole(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=dict[str, Raw])
    except forms.NOT_JSON:
        return False
    return True


# --- records ----------------------------------------------------------------------------------------------------------


def _take(line: bytes, sessions: dict[str, SessionHoldings]) -> None:
    head = forms.fields(line, _ALL_FIELDS, ("op", "sessionid"))
    op, session_id = forms.decoded(head["op"], str), forms.decoded(head["sessionid"], str)
    if op not in _OPS:
        raise UnfitError(f"one of the operations {', '.join(_OPS)}", op)
    if not session_id:
        raise UnfitError("a session id", "an empty one")
    known, required, take = _OPS[op]
    content = {name: value for name, value in head.items() if name in known or not forms.is_empty(value)}
    for name in content.keys() - {"op", "sessionid", *known}:
        raise UnfitError(f"only the fields of {op}: {', '.join(known)}", f"the field {name}")
    for name in required:
        if name not in content:
            raise UnfitError(f"the field {name} of {op}", "none")
    session = sessions.get(session_id)
    if session is None:
        if op.startswith("delete_"):
            raise UnfitError(f"a session that is there for {op}", f"{session_id!r}, which is not")
        session = sessions[session_id] = SessionHoldings(session_id)
    take(session, content)


def _textunit(session: SessionHoldings, raw: Raw, vector: bytes) -> None:
    form = forms.form(raw, forms.TextUnitForm)
    if form.entity_ids:
        raise UnfitError("a new text unit without links", f"text unit {form.id} with some")
    session.add_textunit(form, vector)


def _entity(session: SessionHoldings, raw: Raw, vector: bytes) -> None:
    form = forms.form(raw, forms.EntityForm)
    if form.textunit_ids:
        raise UnfitError("a new entity without links", f"entity {form.id} with some")
    session.add_entity(form, vector)


def _community(session: SessionHoldings, raw: Raw, vector: bytes) -> None:
    session.add_community(forms.form(raw, forms.CommunityForm), vector)


def _add_document(session: SessionHoldings, content: dict[str, Raw]) -> None:
    session.add_document(forms.form(content["document"], forms.DocumentForm))


def _add_textunit(session: SessionHoldings, content: dict[str, Raw]) -> None:
    _textunit(session, content["textunit"], forms.vector(content.get("textunitembedding")))


def _add_entity(session: SessionHoldings, content: dict[str, Raw]) -> None:
    _entity(session, content["entity"], forms.vector(content.get("entityembedding")))


def _add_relationship(session: SessionHoldings, content: dict[str, Raw]) -> None:
    session.add_relationship(forms.form(content["relationship"], forms.RelationshipForm))


def _set_documents(session: SessionHoldings, content: dict[str, Raw]) -> None:
    for _, raw in forms.objects(content.get("documents")):
        session.add_document(forms.form(raw, forms.DocumentForm))


def _set_textunits(session: SessionHoldings, content: dict[str, Raw]) -> None:
    _take_all(session, content.get("textunits"), content.get("textunitembeddings"), _textunit)


def _set_entities(session: SessionHoldings, content: dict[str, Raw]) -> None:
    _take_all(session, content.get("entities"), content.get("entityembeddings"), _entity)


def _set_relationships(session: SessionHoldings, content: dict[str, Raw]) -> None:
    for _, raw in forms.objects(content.get("relationships")):
        session.add_relationship(forms.form(raw, forms.RelationshipForm))


def _replace_communities(session: SessionHoldings, content: dict[str, Raw]) -> None:
    session.delete_communities()
    _take_all(session, content.get("communities"), content.get("communityembeddings"), _community)


def _take_all(
    session: SessionHoldings,
    held: Raw | None,
    vectors: Raw | None,
    take: Callable[[SessionHoldings, Raw, bytes], None],
) -> None:
    items = [raw for _, raw in forms.objects(held)]
    ids = [forms.id_of(raw) for raw in items]
    rows = forms.vectors_beside(vectors, ids)
    for id, raw in zip(ids, items, strict=True):
        take(session, raw, rows.get(id, b""))


def _delete(kind: Kind) -> Callable[[SessionHoldings, dict[str, Raw]], None]:
    def take(session: SessionHoldings, content: dict[str, Raw]) -> None:
        session.delete(kind, forms.decoded(content["id"], int))

    return take


_OPS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[SessionHoldings, dict[str, Raw]], None]]] = {
    "add_document": (("document",), ("document",), _add_document),
    "add_textunit": (("textunit", "textunitembedding"), ("textunit",), _add_textunit),
    "add_entity": (("entity", "entityembedding"), ("entity",), _add_entity),
    "add_relationship": (("relationship",), ("relationship",), _add_relationship),
    "mset_documents": (("documents",), (), _set_documents),
    "mset_textunits": (("textunits", "textunitembeddings"), (), _set_textunits),
    "mset_entities": (("entities", "entityembeddings"), (), _set_entities),
    "mset_relationships": (("relationships",), (), _set_relationships),
    "replace_communities": (("communities", "communityembeddings"), (), _replace_communities),
    "delete_document": (("id",), ("id",), _delete("document")),
    "delete_textunit": (("id",), ("id",), _delete("textunit")),
    "delete_entity": (("id",), ("id",), _delete("entity")),
    "delete_relationship": (("id",), ("id",), _delete("relationship")),
}
_ALL_FIELDS = frozenset(("op", "sessionid", *(name for known, _, _ in _OPS.values() for name in known)))
