"""Whether what the newest snapshot lies on is still what was written.

A section that does not change is written once and named by every later snapshot: after a while it is the session's
only copy on the disk, and a disk may change or lose what it has. While the store runs, memory has it all the same. So
the packs in use are looked at again, and one that is not as it was counts as gone: the next cut freezes what it held,
and it is written anew.

Owns: how large each pack is, and how far the reading has come.
Never: changes anything on the disk.

Everything here runs on the snapshot thread, but for `sparse` and `is_reading`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from pathlib import Path

from google_crc32c import extend

from gibramdb.errors import CorruptSnapshotError, StorageError
from gibramdb.storage import snapshot
from gibramdb.storage.files import FileSystem
from gibramdb.storage.snapshot import Manifest, Section

_NOT_THE_DISKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM})
"""What keeps a file from being read, and says nothing of what lies in it."""


class PackWatch:
    """The packs of one store."""

    def __init__(self, fs: FileSystem, directory: Path) -> None:
        self._fs = fs
        self._directory = directory
        self._bytes: dict[int, int] = {}
        self._left: list[Section] = []  # what this round has still to read, the next one last
        self._at = 0  # so much of the next one is read, with this checksum
        self._checksum = 0

    def find(self) -> None:
        """Look how large the packs are that lie there."""
        for number, path in snapshot.list_packs(self._fs, self._directory):
            self._bytes[number] = self._size(path)

    def add(self, number: int, size_bytes: int) -> None:
        """A pack has been published."""
        self._bytes[number] = size_bytes

    def forget(self, number: int) -> None:
        """It is removed, or must not be counted on."""
        self._bytes.pop(number, None)

    def sparse(self, kept: Iterable[Section]) -> set[int]:
        """Packs of which less than half would still be read, or that must not be counted on."""
        alive: dict[int, int] = {}
        for section in kept:
            alive[section.pack] = alive.get(section.pack, 0) + section.length
        return {pack for pack, length in alive.items() if 2 * length < self._bytes.get(pack, 2 * length + 1)}

    @property
    def is_reading(self) -> bool:
        """Whether a round has begun and not ended."""
        return bool(self._left)

    def look(self, sections: Sequence[Section], bytes_max: int, found: list[str]) -> None:
        """Compare the sizes of all packs in use, and read about so many bytes of them, from where the last look ended.

        A round ends with the last of them. Where all are no more than `bytes_max`, this is a round.

        Args:
            sections: all that are in use.
            bytes_max: how much to read.
            found: takes what is damaged, in words, whatever this ends with. It is not counted on from here on.

        Raises:
            OSError: for a reason that is not the disk's, something could not be looked at.
        """
        used = {section.pack for section in sections}
        for number in sorted(used & self._bytes.keys()):
            self._compare_size(number, found)
        if not self._left or sum(section.length for section in sections) <= bytes_max:
            self._left = sorted(sections, key=lambda each: (each.pack, each.offset), reverse=True)
            self._at = self._checksum = 0
        while self._left and bytes_max > 0:
            number = self._left[-1].pack
            if number in used and number in self._bytes:
                bytes_max -= self._read_on(number, bytes_max, found)
            else:
                self._go_to_next()

    def manifest_damage(self, manifest: Manifest) -> str:
        """What is wrong with the manifest's file, in words. Raises as `look`."""
        try:
            snapshot.read_manifest(self._fs, snapshot.snapshot_path(self._directory, manifest.number))
        except (CorruptSnapshotError, StorageError) as error:
            if isinstance(error.__cause__, OSError):
                _refuse_to_judge(error.__cause__)
            return str(error)
        return ""

    def _compare_size(self, number: int, found: list[str]) -> None:
        path, expected = snapshot.pack_path(self._directory, number), self._bytes[number]
        try:
            size = self._size(path)
        except FileNotFoundError:
            found.append(self._damaged(number, "the pack is missing"))
        except OSError as error:
            _refuse_to_judge(error)
            found.append(self._damaged(number, f"the pack can not be read: {error.strerror}"))
        else:
            if size != expected:
                wrong = f"the pack has another size: expected {expected} bytes, found {size}"
                found.append(self._damaged(number, wrong))

    def _read_on(self, number: int, bytes_max: int, found: list[str]) -> int:
        """In one pack, from the next section on, to its end or its first damage. Returns how many bytes were read."""
        read = 0
        try:
            fd = self._fs.open_read(snapshot.pack_path(self._directory, number))
            try:
                self._fs.drop_cache(fd)
                while read < bytes_max and self._left and self._left[-1].pack == number:
                    section = self._left[-1]
                    wanted = min(snapshot.SYNC_BYTES, section.length - self._at)
                    data = self._fs.pread(fd, wanted, section.offset + self._at)
                    self._checksum = extend(self._checksum, data)
                    self._at += wanted
                    read += wanted
                    if self._at >= section.length:
                        checksum = self._checksum
                        self._go_to_next()
                        if checksum != section.checksum:
                            where = f"offset {section.offset}: session {section.session_id!r}"
                            wrong = f"expected the checksum {section.checksum:08x}, found {checksum:08x}"
                            found.append(self._damaged(number, f"{where}: {wrong}"))
                            break
            finally:
                self._fs.close(fd)
        except OSError as error:
            _refuse_to_judge(error)
            found.append(self._damaged(number, f"the pack can not be read: {error.strerror}"))
        return read

    def _go_to_next(self) -> None:
        self._left.pop()
        self._at = self._checksum = 0

    def _damaged(self, number: int, how: str) -> str:
        self.forget(number)
        return f"{snapshot.pack_path(self._directory, number)}: {how}"

    def _size(self, path: Path) -> int:
        fd = self._fs.open_read(path)
        try:
            return self._fs.size(fd)
        finally:
            self._fs.close(fd)


def _refuse_to_judge(error: OSError) -> None:
    if error.errno in _NOT_THE_DISKS:
        raise error
