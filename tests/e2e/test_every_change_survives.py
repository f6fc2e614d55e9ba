"""Every command of the wire that changes state: done, the server killed with SIGKILL, started again, the digest compared.

GibRAM 0.3.0 has 22 such commands and loses 8 of them in a crash. 21 of its 22 are here: ADD and DELETE of a document, a
text unit, an entity, a relationship and a community, LINK_TEXTUNIT_ENTITY, UPDATE_ENTITY_DESC, COMPUTE_COMMUNITIES,
HIERARCHICAL_LEIDEN, DELETE_SESSION, SET_SESSION_TTL, TOUCH_SESSION and the four MSET; and five of ours alone. The 22nd of
GibRAM's, BGRESTORE, has a test of its own below. SAVE, BGSAVE, WAL_CHECKPOINT, WAL_TRUNCATE and WAL_ROTATE change files only. PIPELINE, which holds others, is
walked beside the 21.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from support.server import Server

from gibramdb import NewCommunity, NewDocument, NewEntity, NewRelationship, NewTextUnit, Session
from gibramdb.errors import CorruptLogError, SessionExpiredError, SessionNotFoundError
from gibramdb.model import mutations
from gibramdb.storage import record, wal
from gibramdb.storage.files import OsFileSystem
from gibramdb.wire.codec import TABLE, CommandNumber

N = CommandNumber
VECTOR = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
OTHER_VECTOR = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]


def furnish(session: Session) -> None:
    """Something of each kind, with ids 1 and 2; what has number 2 is referred to by nothing."""
    session.add_documents([NewDocument("d1", "one.txt"), NewDocument("d2", "two.txt")])
    session.add_textunits([NewTextUnit(f"t{index}", 1, f"text {index}", VECTOR, index) for index in (1, 2)])
    session.add_entities([NewEntity(f"e{index}", f"Title {index}", "kind", "said", VECTOR) for index in range(1, 7)])
    session.add_relationships([NewRelationship(1, 3, "knows", "well", 0.5), NewRelationship(3, 4, "knows")])
    session.add_community(NewCommunity("first", (1,), (1,), "summary", "content", 1, "c1", VECTOR))
    session.add_community(NewCommunity("second"))
    session.link(1, 1)
    session.set_ttl(ttl_s=86_400)


CHANGES: dict[CommandNumber, Callable[[Session], object]] = {
    N.ADD_DOCUMENT: lambda session: session.add_document("new", "new.txt"),
    N.ADD_TEXTUNIT: lambda session: session.add_textunit("new", 1, "said", VECTOR, 7),
    N.ADD_ENTITY: lambda session: session.add_entity("new", "ß ﬁn", "kind", "said", VECTOR),
    N.ADD_RELATIONSHIP: lambda session: session.add_relationship(5, 6, "new", "said", 0.25, "r-new"),
    N.ADD_COMMUNITY: lambda session: session.add_community(NewCommunity("new", (1, 2), (1,), embedding=VECTOR)),
    N.MSET_DOCUMENTS: lambda session: session.add_documents([NewDocument("m1"), NewDocument("m2", "m.txt")]),
    N.MSET_TEXTUNITS: lambda session: session.add_textunits(
        [NewTextUnit("m1", 2, "a", VECTOR), NewTextUnit("m2", 2, "b")]
    ),
    N.MSET_ENTITIES: lambda session: session.add_entities(
        [NewEntity("m1", "M1"), NewEntity("m2", "M2", embedding=VECTOR)]
    ),
    N.MSET_RELATIONSHIPS: lambda session: session.add_relationships(
        [NewRelationship(5, 5), NewRelationship(6, 5, "x")]
    ),
    N.LINK_TEXTUNIT_ENTITY: lambda session: session.link(1, 3),
    N.CASCADE_DELETE_DOCUMENT: lambda session: session.cascade_delete_document(1),
    N.CASCADE_DELETE_TEXTUNIT: lambda session: session.cascade_delete_textunit(1),
    N.CASCADE_DELETE_ENTITY: lambda session: session.cascade_delete_entity(1),
    N.CASCADE_DELETE_RELATIONSHIP: lambda session: session.cascade_delete_relationship(1),
    N.UNLINK_TEXTUNIT_ENTITY: lambda session: session.unlink(1, 1),
    N.UPDATE_ENTITY_DESC: lambda session: session.update_entity_description(1, "said otherwise", OTHER_VECTOR),
    N.DELETE_DOCUMENT: lambda session: session.delete_document(2),
    N.DELETE_TEXTUNIT: lambda session: session.delete_textunit(2),
    N.DELETE_ENTITY: lambda session: session.delete_entity(2),
    N.DELETE_RELATIONSHIP: lambda session: session.delete_relationship(2),
    N.DELETE_COMMUNITY: lambda session: session.delete_community(2),
    N.COMPUTE_COMMUNITIES: lambda session: session.detect_communities(),
    N.HIERARCHICAL_LEIDEN: lambda session: session.detect_hierarchy(),
    N.SET_SESSION_TTL: lambda session: session.set_ttl(ttl_s=-1, idle_ttl_s=7_200),
    N.TOUCH_SESSION: lambda session: session.touch(),
    N.DELETE_SESSION: lambda session: session.delete(),
    N.PIPELINE: lambda session: session.link_many([(1, 2), (2, 3)]),
}
"""Each command that changes what is kept."""

CHANGES_NOTHING_KEPT = {
    N.REBUILD_INDEX, N.GET_DIGEST, N.BGSAVE, N.SAVE, N.WAL_CHECKPOINT, N.WAL_TRUNCATE, N.WAL_ROTATE,
}  # fmt: skip
"""Commands that need more than to read, and change nothing that is canonical."""


def test_every_command_that_may_change_state_is_walked_here() -> None:
    may_change = {row.number for row in TABLE if row.permission in {"write", "admin"}} | {N.PIPELINE}
    assert may_change == set(CHANGES) | CHANGES_NOTHING_KEPT | {N.BGRESTORE}


def test_each_change_is_there_after_a_kill(tmp_path: Path) -> None:
    """One life of the server for each, and in each a look at all that those before it left."""
    directory = tmp_path / "data"
    after, last = None, ""
    for number, change in CHANGES.items():
        with Server(directory) as server, server.connect() as db:
            assert after is None or db.digest() == after, f"{last} is not there"
            session = db.session(number.name)
            furnish(session)
            before = db.digest()
            change(session)
            after, last = db.digest(), number.name
            assert after != before, f"{last} changed nothing"
            server.kill()
    for _ in range(2):  # what a start has recovered survives the next kill too
        with Server(directory) as server, server.connect() as db:
            assert db.digest() == after, f"{last} is not there"
            server.kill()


BY_TIME = (mutations.SessionExpired, mutations.SessionReadNoted, mutations.SessionEnded)
"""What no command asks for: the clock does."""


def logged(directory: Path) -> set[type]:
    """The kinds of mutation in a store's log."""
    disk = OsFileSystem()
    logs = wal.list_logs(disk, directory / "session_wal")
    return {type(record.decode(payload)) for _, path in logs for _, _, payload in wal.read_log(disk, path)}


def logged_so_far(directory: Path) -> set[type]:
    """The same of a log that is being written: what is read in the middle of a write is looked at again."""
    try:
        return logged(directory)
    except CorruptLogError:
        return set()


def test_what_the_clock_changes_is_there_after_a_kill(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Server(directory, "--session-cleanup-interval", "1s") as server, server.connect() as db:
        for name in ("over", "told", "read"):
            furnish(db.session(name))
        db.session("over").set_ttl(ttl_s=1)
        db.session("told").set_ttl(ttl_s=1)
        db.session("read").set_ttl(idle_ttl_s=4)
        until = time.monotonic() + 60
        while set(BY_TIME) - logged_so_far(directory) and time.monotonic() < until:
            time.sleep(0.05)
            db.session("read").info()
            with contextlib.suppress(SessionExpiredError, SessionNotFoundError):
                db.session("told").info()
        assert [each.session_id for each in db.sessions()] == ["read"]
        db.session("read").digest()  # may be noted as a read, just after it was computed; then the next is not
        after = db.session("read").digest()
        server.kill()
    assert set(BY_TIME) <= logged(directory)
    with Server(directory) as server, server.connect() as db:
        assert [each.session_id for each in db.sessions()] == ["read"]
        assert db.session("read").digest() == after
        server.kill()


def test_that_a_session_was_said_to_be_over_is_there_after_a_kill(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Server(directory) as server, server.connect() as db:
        furnish(db.session("told"))
        db.session("told").set_ttl(ttl_s=1)
        time.sleep(1.1)
        with pytest.raises(SessionExpiredError):
            db.session("told").info()
        after = db.digest()
        server.kill()
    assert mutations.SessionEnded in logged(directory)
    with Server(directory) as server, server.connect() as db:
        assert db.digest() == after
        server.kill()


def test_every_kind_of_mutation_is_walked_here(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Server(directory) as server, server.connect() as db:
        for number, change in CHANGES.items():
            furnish(db.session(number.name))
            change(db.session(number.name))
        before = db.digest()
        server.kill()
    marked = {mutations.WrittenOnce, mutations.WrittenOnceInPlace}  # in test_tokens.py
    walked = logged(directory) | set(BY_TIME) | marked
    assert walked == set(get_args(mutations.Mutation)) - set(mutations.IN_SNAPSHOTS_ONLY)
    with Server(directory) as server, server.connect() as db:
        assert db.digest() == before
        server.kill()


def test_a_restore_is_there_after_a_kill(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with Server(directory) as server, server.connect() as db:
        furnish(db.session("s"))
        db.save("copy.gibram")
        saved = db.digest()
        db.session("s").delete()
        furnish(db.session("later"))
        db.restore_in_background("copy.gibram")
        until = time.monotonic() + 60
        while db.backup_status().in_progress and time.monotonic() < until:
            time.sleep(0.01)
        assert db.backup_status().error == ""
        assert db.digest() == saved
        server.kill()
    with Server(directory) as server, server.connect() as db:
        assert db.digest() == saved
        furnish(db.session("on it goes"))
        after = db.digest()
        server.kill()
    with Server(directory) as server, server.connect() as db:
        assert db.digest() == after
        assert db.last_save().path == str(directory / "copy.gibram")
        server.kill()
