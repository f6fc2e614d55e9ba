"""What a snapshot, a copy and a restore do on the disk, one step each; the order is that of `database/snapshots`.

Owns: the files in the snapshot directory.
Never: decides when; changes the store's state; touches the log, but for removing generations that nothing needs.

Everything here runs on the snapshot thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from gibramdb.core.dump import FrozenSession
from gibramdb.core.state import StoreState
from gibramdb.database import memory, recovery
from gibramdb.database.journal import Base
from gibramdb.database.pack_watch import PackWatch
from gibramdb.errors import GibramError, IncompatibleStoreError, UnavailableError
from gibramdb.model.ids import Lsn
from gibramdb.storage import operator_path, record, snapshot, wal
from gibramdb.storage.files import TEMPORARY_SUFFIX, FileSystem, OsFileSystem, named
from gibramdb.storage.identity import Directories, Locks, make_directories
from gibramdb.storage.snapshot import Cut, LastSave, Manifest, PackWriter, Section
from gibramdb.storage.wal import BasedOnSnapshot

T = TypeVar("T")


class StoppedError(Exception):
    """The store is being closed; what is half written is left as a temporary file."""


class Work:
    """How far something is: objects written or read back, each session counting as one more. May be stopped."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.is_over = False
        self._is_stopped = False

    @property
    def percent(self) -> int:
        """100 only once it is over, and well."""
        return 100 if self.is_over else 99 * min(self.done, self.total) // max(1, self.total)

    def stop(self) -> None:
        """From any thread: it goes no further than to its next item."""
        self._is_stopped = True

    def through(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until it is stopped.

        Raises:
            StoppedError: it is.
        """
        for item in items:
            if self._is_stopped:
                raise StoppedError
            yield item

    def counting(self, sections: Iterable[Section]) -> Iterator[Section]:
        """As `through`; each is done when the next is asked for."""
        for section in self.through(sections):
            yield section
            self.done += weight([section])


def weight(sessions: Sequence[FrozenSession | Section]) -> int:
    """What sessions count in `Work`."""
    return sum(each.objects for each in sessions) + len(sessions)


def with_sections(manifest: Manifest, sections: Iterable[Section]) -> Manifest:
    """The manifest of what these hold together."""
    in_order = sorted(sections, key=lambda each: each.session_id)
    return msgspec.structs.replace(manifest, sections=tuple(in_order))


class SnapshotFiles:
    """The files of one store's snapshots; `store_id` None: nothing but copies is written."""

    def __init__(self, fs: FileSystem, directories: Directories, store_id: bytes | None, locks: Locks) -> None:
        """`locks`: held on the directories; before anything is published or removed, it is seen that they still are."""
        self._fs = fs
        self._directories = directories
        self._locks = locks
        self._store_id = store_id
        self.packs = PackWatch(fs, directories.snapshots)

    # --- writing ------------------------------------------------------------------------------------------------------

    def next_number(self, above: int) -> int:
        """Above all snapshots that lie there, so that it is also how many were ever published.

        A pack beyond them is what a kill has left; nothing names it, and the next one takes its place.
        """
        if self._store_id is None:
            return 1
        self._locks.require_same(self._directories.snapshots)
        found = snapshot.list_snapshots(self._fs, self._directories.snapshots)
        return max(above, *(number for number, _ in found), 0) + 1

    def manifest(
        self, number: int, created_at_ms: int, cut: Cut, vector_dim: int, last_save: LastSave | None
    ) -> Manifest:
        """One that has no sections yet."""
        return Manifest(
            store_id=(self._store_id or bytes(16)).hex(),
            number=number,
            created_at_ms=created_at_ms,
            cut=cut,
            vector_dim=vector_dim,
            last_save=last_save,
            sections=(),
        )

    def write_pack(self, manifest: Manifest, frozen: Sequence[FrozenSession], work: Work) -> list[Section]:
        """Sessions into the pack of this manifest's number, read back; no file where there are none."""
        if not frozen:
            return []
        fs, directory, number = self._fs, self._directories.snapshots, manifest.number
        store_id = bytes.fromhex(manifest.store_id)
        with named(snapshot.pack_path(directory, number)):
            fd, writer = snapshot.write_pack(fs, directory, number, store_id, manifest.created_at_ms)
            try:
                sections = _write_sections(writer, frozen, work)
                writer.finish()
            finally:
                fs.close(fd)
            snapshot.publish_pack(fs, directory, number, work.counting(sections))
        self.packs.add(number, writer.bytes_so_far)
        return sections

    def publish(self, manifest: Manifest) -> None:
        """From here on it is the newest."""
        self._locks.require_same(self._directories.snapshots)
        snapshot.publish_manifest(self._fs, self._directories.snapshots, manifest)

    def is_published(self, number: int) -> bool:
        """Whether the snapshot of this number can be found."""
        return self._fs.exists(snapshot.snapshot_path(self._directories.snapshots, number))

    def write_copy(self, path: str, manifest: Manifest, frozen: Sequence[FrozenSession], work: Work) -> LastSave:
        """Sessions into an operator's file, read back before it gets its name."""
        disk = OsFileSystem()
        data = self._directories.data
        if self._store_id is None:
            make_directories(disk, Directories(data, data, data))  # a store in memory has not needed it so far
        else:
            self._locks.require_same(data)
        with (
            operator_path.open_for_writing(self._directories, path, snapshot.is_copy) as writing,
            named(writing.resolved),
        ):
            writer = PackWriter(disk, writing.fd, 0, bytes.fromhex(manifest.store_id), manifest.created_at_ms)
            writer.write_manifest(with_sections(manifest, _write_sections(writer, frozen, work)))
            disk.drop_cache(writing.fd)
            found = snapshot.read_copy(disk, writing.fd, writing.resolved)
            for section in work.counting(found.sections):
                snapshot.verify_section(disk, writing.resolved, section, writing.fd)
            writing.publish()
        return LastSave(manifest.created_at_ms // 1000, str(writing.resolved))

    def discard(self, number: int) -> bool:
        """Remove what a failed snapshot has left; `number` 0: it had not come so far.

        Returns False if it is there all the same, though the system said that it failed: then its pack is needed.
        """
        if self._store_id is None or not number:
            return True
        with contextlib.suppress(OSError):
            self._locks.require_same(self._directories.snapshots)
            if self.is_published(number):
                return False
            self.packs.forget(number)
            snapshot.discard_pack(self._fs, self._directories.snapshots, number)
        return True

    def prune(self, retention_count: int, target_lsn: int, current_log: Path) -> int:
        """Drop what no kept snapshot needs. Returns the LSN up to which the log is gone.

        `current_log` is being written: it stays; what lies behind it is of a restore that was cut short, and says
        nothing.

        In an order that leaves every kept snapshot whole, whenever it ends: manifests, then packs, then generations.

        Raises:
            GibramError: something that is kept is damaged.
            OSError: the disk refused.
        """
        fs, directories = self._fs, self._directories
        self._locks.require_same(directories.snapshots)
        found = snapshot.list_snapshots(fs, directories.snapshots)
        kept = found[-retention_count:]
        manifests = [snapshot.read_manifest(fs, path)[0] for _, path in kept]
        for _, path in found[:-retention_count]:
            fs.unlink(path)
        fs.sync_dir(directories.snapshots)
        needed = {section.pack for manifest in manifests for section in manifest.sections}
        for number, path in snapshot.list_packs(fs, directories.snapshots):
            if number not in needed:
                fs.unlink(path)
                self.packs.forget(number)
        for name in fs.list_dir(directories.snapshots):
            if name.endswith(TEMPORARY_SUFFIX):
                fs.unlink(directories.snapshots / name)
        fs.sync_dir(directories.snapshots)
        covered_lsn = min([manifest.cut.lsn for manifest in manifests] or [0])
        return self._drop_generations(min(covered_lsn, target_lsn), current_log)

    def _drop_generations(self, covered_lsn: int, current_log: Path) -> int:
        """Those that end by this LSN, as the beginning of a later one says: their own headers need not be whole."""
        fs, directory = self._fs, self._directories.wal
        self._locks.require_same(directory)
        logs = wal.list_logs(fs, directory)
        first_kept = gone_lsn = 0
        damage: GibramError | None = None
        for index, (_, path) in enumerate(logs):
            if path > current_log:
                break
            try:
                base_lsn = int(wal.read_header(fs, path).base_lsn)
            except GibramError as error:
                damage = error
                continue
            if index and base_lsn > covered_lsn:
                break
            first_kept, gone_lsn, damage = index, base_lsn, None
        for _, path in logs[:first_kept]:
            fs.unlink(path)
        fs.sync_dir(directory)
        if damage is not None:
            raise damage  # of one that is kept
        return gone_lsn

    # --- restoring ----------------------------------------------------------------------------------------------------

    def load(self, path: str, vector_dim: int, lsn: Lsn, work: Work) -> tuple[StoreState, int]:
        """What an operator's file holds, a copy or a snapshot of this store, as a state, and its vectors' dimension.

        Args:
            path: as the operator gave it.
            vector_dim: the store's.
            lsn: of the last change in the store's log; all sessions get it.
            work: how far it is. A third of it, since what is read is then written and read back.

        Raises:
            GibramError: it can not be restored, or there is no memory for it.
        """
        disk = OsFileSystem()
        fd = operator_path.open_for_reading(self._directories, path)
        try:
            shown = Path(path)
            with named(shown):
                is_copy = disk.pread(fd, len(snapshot.MANIFEST_BEGINNING), 0) != snapshot.MANIFEST_BEGINNING
                manifest = snapshot.read_copy(disk, fd, shown) if is_copy else self._read_own(disk, fd, shown)
            _check(path, manifest, vector_dim)
            state = StoreState(vector_dim)
            work.total = 3 * weight(manifest.sections)
            for section in work.counting(manifest.sections):
                if is_copy:
                    payloads = snapshot.read_section(disk, shown, section, fd)
                else:
                    pack = snapshot.pack_path(self._directories.snapshots, section.pack)
                    payloads = snapshot.read_section(self._fs, pack, section)
                # In this log nothing later can have this LSN: what counts is that each change has another.
                here = msgspec.structs.replace(section, changed_lsn=lsn)
                recovery.load_section(state, shown, here, work.through(payloads))
        finally:
            os.close(fd)
        return state, manifest.vector_dim

    def _read_own(self, disk: FileSystem, fd: int, path: Path) -> Manifest:
        manifest = snapshot.parse_manifest(path, snapshot.manifest_bytes(disk, fd))
        if self._store_id is None or manifest.store_id != self._store_id.hex():
            raise IncompatibleStoreError(
                f"{path}: it is a snapshot of store {manifest.store_id}, whose packs lie elsewhere; next: make a copy "
                "of that store with SAVE, and restore the copy"
            )
        return manifest


class RestoredSnapshot(Base):
    """A snapshot whose pack is on the disk, and whose manifest waits for its place in the log."""

    def __init__(self, files: SnapshotFiles, manifest: Manifest) -> None:
        """manifest: whole but for its cut."""
        self._files = files
        self.manifest = manifest

    def at(self, cut: Cut) -> BasedOnSnapshot:
        """See Base."""
        self.manifest = msgspec.structs.replace(self.manifest, cut=cut)
        return BasedOnSnapshot(self.manifest.number, snapshot.manifest_checksum(self.manifest))

    def publish(self) -> None:
        """See Base."""
        self._files.publish(self.manifest)

    def is_published(self) -> bool:
        """See Base."""
        return self._files.is_published(self.manifest.number)


def _write_sections(writer: PackWriter, frozen: Iterable[FrozenSession], work: Work) -> list[Section]:
    sections = []
    for each in frozen:
        payloads = map(record.encode, work.through(each.dump()))
        sections.append(writer.write_section(each.session_id, each.changed_lsn, each.objects, payloads))
        work.done += weight([each])
    return sections


def _check(path: str, manifest: Manifest, vector_dim: int) -> None:
    if manifest.vector_dim not in (0, vector_dim):
        raise IncompatibleStoreError(
            f"{path}: it holds vectors of dimension {manifest.vector_dim}, server.vector_dim is {vector_dim}; "
            f"nothing was changed; next: restore it into a store whose server.vector_dim is {manifest.vector_dim}"
        )
    needed, available = memory.needed_bytes(manifest.sections), memory.available_bytes()
    if available is not None and needed > available:
        raise UnavailableError(
            f"{path}: a restore builds what it reads beside what is served: expected about {needed:,} bytes of memory, "
            f"found {available:,} available; nothing was changed; next: delete sessions that are not needed, or "
            "restore into a new, empty store on a machine with more"
        )
