"""What has been read of one session: its objects, each tied to what it refers to.

GibRAM checks nothing when it loads a snapshot; here every reference is followed, and every name held to be unique, as
it was when the objects were made. So whatever comes out can be applied.

Invariants:
- Every id that an object names is there, links aside, which `check_links` follows once all is read.
- `counters` is never below the highest id seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

from gibramdb.model.knowledge import Community, Document, Entity, Relationship, TextUnit
from gibramdb.storage.gibram.forms import (
    KINDS,
    NOUNS,
    CommunityForm,
    DocumentForm,
    EntityForm,
    Kind,
    RelationshipForm,
    TextUnitForm,
    UnfitError,
)

Held = Document | TextUnit | Entity | Relationship | Community


class SessionHoldings:
    """One session.

    `created_at_ms` and `last_access_ms` are None for a session that only the log knows. `vectors` are kept of text
    units, entities and communities. `entity_ids` and `textunit_ids` are the links, as either side has them.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.created_at_ms: int | None = None
        self.last_access_ms: int | None = None
        self.ttl_ms = 0
        self.idle_ttl_ms = 0
        self.documents: dict[int, Document] = {}
        self.textunits: dict[int, TextUnit] = {}
        self.entities: dict[int, Entity] = {}
        self.relationships: dict[int, Relationship] = {}
        self.communities: dict[int, Community] = {}
        self._tables: dict[Kind, dict[int, Any]] = {  # the same five, to delete from
            "document": self.documents,
            "textunit": self.textunits,
            "entity": self.entities,
            "relationship": self.relationships,
            "community": self.communities,
        }
        self.entity_ids: dict[int, tuple[int, ...]] = {}  # by text unit
        self.textunit_ids: dict[int, tuple[int, ...]] = {}  # by entity
        self.vectors: dict[Kind, dict[int, bytes]] = {kind: {} for kind in KINDS}
        self.counters: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.first_made_ms: int | None = None
        self.last_made_ms: int | None = None
        self._names: set[tuple[Kind, str, Hashable]] = set()
        self._references: Counter[tuple[Kind, int, Kind]] = Counter()  # to what, and from which kind

    def table(self, kind: Kind) -> Mapping[int, Held]:
        """The objects of a kind, by id."""
        return self._tables[kind]

    def add_document(self, form: DocumentForm) -> None:
        """See the module."""
        self._admit("document", form.id, form.created_at_ms)
        self._name("document", "external_id", form.external_id)
        self.documents[form.id] = form.value()

    def add_textunit(self, form: TextUnitForm, vector: bytes) -> None:
        """See the module."""
        self._admit("textunit", form.id, form.created_at_ms)
        self._refer("textunit", "document", (form.document_id,))
        self._name("textunit", "external_id", form.external_id)
        self.textunits[form.id] = form.value()
        self._take_links(self.entity_ids, form.id, form.entity_ids)
        self._take_vector("textunit", form.id, vector)

    def add_entity(self, form: EntityForm, vector: bytes) -> None:
        """See the module."""
        self._admit("entity", form.id, form.created_at_ms)
        self._name("entity", "external_id", form.external_id)
        self._name("entity", "title", form.title)
        self.entities[form.id] = form.value()
        self._take_links(self.textunit_ids, form.id, form.textunit_ids)
        self._take_vector("entity", form.id, vector)

    def add_relationship(self, form: RelationshipForm) -> None:
        """See the module."""
        self._admit("relationship", form.id, form.created_at_ms)
        self._refer("relationship", "entity", (form.source_id, form.target_id))
        self._name("relationship", "external_id", form.external_id)
        self._name("relationship", "source, target and type", (form.source_id, form.target_id, form.type))
        self.relationships[form.id] = form.value()

    def add_community(self, form: CommunityForm, vector: bytes) -> None:
        """See the module."""
        self._admit("community", form.id, form.created_at_ms)
        self._refer("community", "entity", form.entity_ids)
        self._refer("community", "relationship", form.relationship_ids)
        self._name("community", "external_id", form.external_id)
        self.communities[form.id] = form.value(vector)
        self._take_vector("community", form.id, vector)

    def delete(self, kind: Kind, id: int) -> None:
        """Remove an object that nothing refers to.

        Raises:
            UnfitError: it is not there, or something does.
        """
        held = self.table(kind).get(id)
        if held is None:
            raise UnfitError(f"a delete of a {NOUNS[kind]} that is there", f"one of id {id}, which is not")
        if self.entity_ids.get(id) if kind == "textunit" else self.textunit_ids.get(id) if kind == "entity" else ():
            raise UnfitError(f"a delete of a {NOUNS[kind]} without links", f"one of id {id}, which has some")
        for other in KINDS:
            if self._references[kind, id, other]:
                raise UnfitError(
                    f"a delete of a {NOUNS[kind]} that nothing refers to", f"one of id {id}, named by a {NOUNS[other]}"
                )
        self._remove(kind, held)

    def delete_communities(self) -> None:
        """Remove them all, as a detection of GibRAM's does."""
        for community in list(self.communities.values()):
            self._remove("community", community)

    def count_to(self, kind: Kind, id: int) -> None:
        """Take note that ids of a kind were given out up to this one."""
        self.counters[kind] = max(self.counters[kind], id)

    def check_links(self) -> None:
        """Follow every link from both of its sides.

        Raises:
            UnfitError: one side does not know of it, or is not there.
        """
        from_textunits = {(textunit, entity) for textunit, ids in self.entity_ids.items() for entity in ids}
        from_entities = {(textunit, entity) for entity, ids in self.textunit_ids.items() for textunit in ids}
        for textunit, entity in sorted(from_textunits ^ from_entities):
            side = "text unit" if (textunit, entity) in from_textunits else "entity"
            raise UnfitError(
                "every link in the text unit and in the entity",
                f"that of text unit {textunit} and entity {entity} only in the {side}",
            )

    def check_vectors(self, kind: Kind, ids: dict[int, bytes]) -> None:
        """Every embedding belongs to an object.

        Raises:
            UnfitError: one does not.
        """
        for id in sorted(ids.keys() - self.table(kind).keys()):
            raise UnfitError("embeddings of objects that are there", f"one of {NOUNS[kind]} {id}, which is not")

    # --- one step of each -------------------------------------------------------------------------------------------

    def _admit(self, kind: Kind, id: int, created_at_ms: int) -> None:
        if id in self.table(kind):
            raise UnfitError(f"a {NOUNS[kind]} of a new id", f"one of id {id}, which is taken")
        self.count_to(kind, id)
        if created_at_ms:
            earlier, later = self.first_made_ms, self.last_made_ms
            self.first_made_ms = created_at_ms if earlier is None else min(earlier, created_at_ms)
            self.last_made_ms = created_at_ms if later is None else max(later, created_at_ms)

    def _name(self, kind: Kind, what: str, name: Hashable) -> None:
        if what == "external_id" and name == "":
            return
        if (kind, what, name) in self._names:
            raise UnfitError(f"a {NOUNS[kind]} of a new {what}", f"a second one of {name!r}")
        self._names.add((kind, what, name))

    def _refer(self, source: Kind, target: Kind, ids: tuple[int, ...]) -> None:
        table = self.table(target)
        for id in ids:
            if id not in table:
                raise UnfitError(f"a {NOUNS[source]} of what is there", f"one of {NOUNS[target]} {id}, which is not")
        for id in ids:
            self._references[target, id, source] += 1

    def _take_links(self, side: dict[int, tuple[int, ...]], id: int, ids: tuple[int, ...]) -> None:
        if len(set(ids)) != len(ids):
            raise UnfitError("each link once", f"one twice in {list(ids)}")
        if ids:
            side[id] = ids

    def _take_vector(self, kind: Kind, id: int, vector: bytes) -> None:
        if vector:
            self.vectors[kind][id] = vector

    def _remove(self, kind: Kind, held: Held) -> None:
        del self._tables[kind][held.id]
        self.vectors[kind].pop(held.id, None)
        self._names.discard((kind, "external_id", held.external_id))
        references: tuple[tuple[Kind, tuple[int, ...]], ...] = ()
        if isinstance(held, TextUnit):
            references = (("document", (held.document_id,)),)
        elif isinstance(held, Entity):
            self._names.discard((kind, "title", held.title))
        elif isinstance(held, Relationship):
            triple = (held.source_id, held.target_id, held.type)
            self._names.discard((kind, "source, target and type", triple))
            references = (("entity", (held.source_id, held.target_id)),)
        elif isinstance(held, Community):
            references = (("entity", held.entity_ids), ("relationship", held.relationship_ids))
        for target, ids in references:
            for id in ids:
                self._references[target, id, kind] -= 1
