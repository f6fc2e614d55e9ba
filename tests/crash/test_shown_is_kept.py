"""What was shown is kept: an answer from which a change can be told leaves once the change is synced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.owned_store import OwnedStore

from gibramdb import NewDocument
from gibramdb.errors import GibramError
from gibramdb.model import commands as c

DELETE = c.DeleteSession("gone")
CHANGES: list[c.WriteCommand] = [DELETE, c.AddDocuments("new", (NewDocument("d"),))]
QUESTIONS: list[c.Command] = [
    c.ListSessions(),
    c.GetInfo(),
    c.GetSession("gone"),
    c.GetInfo("gone"),
    c.GetDocument("gone", 1),
    c.ListDocuments("gone"),
    c.DeleteDocument("gone", 1),
    DELETE,
]


@contextmanager
def no_sync_ends(store: OwnedStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The disk takes its time for as long as this lasts."""
    may_end = threading.Event()
    fdatasync = store.disk.fdatasync

    def slow(fd: int) -> None:
        assert may_end.wait(60)
        fdatasync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(store.disk, "fdatasync", slow)
        try:
            yield
        finally:
            may_end.set()


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: type(each).__name__)
def test_what_is_said_of_all_sessions_or_of_one_that_is_gone_waits_for_the_sync(
    change: c.WriteCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [each for each in QUESTIONS if change is DELETE or not getattr(each, "session_id", "")]
    store = OwnedStore()
    for name in ("gone", "still"):
        store.run(c.AddDocuments(name, (NewDocument("d"),)))
    with no_sync_ends(store, monkeypatch):
        changed = store.start(change)
        answers = [store.start(question) for question in questions]
        assert not changed
        told = [question for question, answer in zip(questions, answers, strict=True) if answer]
        assert not told, "before the disk has the change of which they tell"
        assert store.start(c.Ping())
        assert store.start(c.GetHealth())
    while not all(answers):
        store.turn()
    assert changed
    assert not isinstance(changed[0], GibramError)
    assert any(isinstance(answer[0], GibramError) for answer in answers) == (change is DELETE)
    store.close()
