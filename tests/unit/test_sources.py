"""Which files are read, what they are called, and why others are not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gibramdb.errors import InvalidArgumentError
from gibramdb.pipeline import Source
from gibramdb.pipeline.sources import FILE_BYTES_MAX, Skipped, find, load


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "notes"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".git").mkdir()
    for name in ("b.txt", "a.MD", "deep/er/c.markdown", "deep/z.text", ".hidden.txt", ".git/d.txt", "photo.jpg"):
        (root / name).write_text("text")
    return root


def test_files_in_a_directory_are_named_after_it_in_order(tree: Path) -> None:
    found, skipped = find([tree])
    assert [(file.external_id, file.kind) for file in found] == [
        ("notes/a.MD", "markdown"),
        ("notes/b.txt", "text"),
        ("notes/deep/z.text", "text"),
        ("notes/deep/er/c.markdown", "markdown"),
    ]
    assert [each.path.name for each in skipped] == ["photo.jpg"]


def test_names_do_not_depend_on_where_the_command_is_run(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absolute, _ = find([tree])
    monkeypatch.chdir(tree)
    assert [file.external_id for file in find([Path()])[0]] == [file.external_id for file in absolute]


def test_a_file_by_itself_is_called_by_its_name(tree: Path) -> None:
    assert [file.external_id for file in find([tree / "b.txt"])[0]] == ["b.txt"]


def test_the_same_file_twice_is_one(tree: Path) -> None:
    assert len(find([tree, tree])[0]) == 4


def test_two_files_of_one_name_are_refused(tree: Path) -> None:
    (tree / "deep" / "b.txt").write_text("other")
    with pytest.raises(InvalidArgumentError, match=r"both be the document 'b\.txt'"):
        find([tree / "b.txt", tree / "deep" / "b.txt"])


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="does not exist"):
        find([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\xff\xfe", "not UTF-8 at byte 0"), (b"ok \x80", "not UTF-8 at byte 3"), (b" \n", "empty")],
)
def test_what_can_not_be_read_is_skipped_with_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    assert load(find([tmp_path / "x.txt"])[0][0]) == Skipped(tmp_path / "x.txt", reason)


def test_a_path_that_can_not_be_looked_at_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ring").symlink_to("ring")
    for path in (tmp_path / "ring", tmp_path / ("long" * 100)):
        with pytest.raises(InvalidArgumentError, match="can not be read: "):
            find([path])


def test_a_file_whose_name_is_no_text_is_skipped(tree: Path) -> None:
    """No document can be called so."""
    (tree / os.fsdecode(b"\xff.txt")).write_text("text")
    found, skipped = find([tree])
    assert len(found) == 4
    assert [each.reason for each in skipped if each.path.suffix == ".txt"] == ["its name is not UTF-8"]


def test_directories_that_are_not_looked_into_are_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "linked").symlink_to(tree.parent, target_is_directory=True)
    (tree / "shut").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:  # who runs the tests may be allowed to read everything
        if path == str(tree.resolve() / "shut"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found, skipped = find([tree])
    assert len(found) == 4
    told = {(each.path.name, each.reason) for each in skipped}
    assert told >= {("linked", "a link to a directory"), ("shut", "Permission denied")}


def test_a_huge_file_is_skipped_unread(tmp_path: Path) -> None:
    with (tmp_path / "x.txt").open("wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    assert load(find([tmp_path / "x.txt"])[0][0]) == Skipped(tmp_path / "x.txt", "larger than 64 MiB")


def test_a_pipe_is_skipped_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.md")
    (given,) = find([tmp_path])[0]
    assert load(given) == Skipped(given.path, "not a file but a pipe, a socket or a device")


def test_a_file_removed_meanwhile_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("text")
    found, _ = find([tmp_path / "x.txt"])
    (tmp_path / "x.txt").unlink()
    assert load(found[0]) == Skipped(tmp_path / "x.txt", "No such file or directory")


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.md").write_bytes(b"\xef\xbb\xbf# Titel\r\n")
    assert load(find([tmp_path / "x.md"])[0][0]) == Source("x.md", "# Titel\r\n", "markdown", filename="x.md")
