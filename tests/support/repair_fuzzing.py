"""Random stores, damaged at random, and what must hold of `store repair` whatever the damage is.

A store's history is kept beside it: the LSN and the digest of every acknowledged state. So what a repair says that it keeps
can be compared with what a start then gives, and what it says is lost with what was logged behind that.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import msgspec
from crash.test_restore_kills import Driven
from support.tree import tree_hash

from gibramdb import NewDocument, NewEntity
from gibramdb.config import Config, load_config
from gibramdb.database.opening import verify
from gibramdb.database.repair import Repair, inspect, propose, repair
from gibramdb.errors import FatalError, GibramError, MissingStoreError
from gibramdb.model import commands as c
from gibramdb.storage import wal
from gibramdb.storage.files import OsFileSystem

SESSIONS = ("a", "b", "c", "d")


class Moment(msgspec.Struct, frozen=True):
    """A state that was acknowledged, and the LSN of the last change in it."""

    lsn: int
    digest: str
    is_restored: bool


def config_of(data: Path, retention: int) -> Config:
    flags = {
        "server.data_dir": str(data),
        "session_store.mode": "durable",
        "server.vector_dim": "3",
        "session_store.snapshot_retention_count": str(retention),
    }
    return load_config(None, flags=flags)


class RepairFuzz:
    """One store after the other, each damaged and repaired in several ways; `told` counts how it went."""

    def __init__(self, folder: Path) -> None:
        self.told: Counter[str] = Counter()
        self._folder = folder
        self._fs = OsFileSystem()

    def run(self, seed: int, rounds: int = 3, damages: int = 6) -> None:
        """One store through several damages and repairs.

        Raises:
            AssertionError: something that must hold does not; it names the seed.
        """
        chance = random.Random(seed)
        home = self._folder / f"store-{seed}"
        home.mkdir()
        data, history = home / "data", list[Moment]()
        retention = chance.choice([1, 2, 3, 3, 4])
        for number in range(rounds):
            data = self._lived(chance, data, home / f"image-{number}", history, retention)
            for damage in range(damages):
                case = home / f"damaged-{number}-{damage}"
                shutil.copytree(data, case)
                what = _damage(chance, case)
                try:
                    kept = self._repaired(case, data, history, retention)
                except AssertionError as error:
                    error.add_note(f"seed {seed}, round {number}, damage {damage}: {'; '.join(what)}; see {case}")
                    raise
                if damage + 1 < damages or kept is None:
                    shutil.rmtree(case)
                else:
                    data, history = case, kept
        shutil.rmtree(home)

    def _lived(self, chance: random.Random, data: Path, image: Path, history: list[Moment], retention: int) -> Path:
        """The store after more of its life; where it lies is as a stop has left it, or a kill."""
        store = Driven(config_of(data, retention))
        copies: list[str] = sorted(path.name for path in data.glob("copy-*"))
        if not history:
            history.append(Moment(0, store.digest(), is_restored=False))
        assert store.digest() == history[-1].digest
        for _ in range(chance.randint(1, 25)):
            match chance.choice("wwwwwwwwwwddcccrsbko"):
                case "w":
                    store.run(_write(chance))
                case "d":
                    store.run(c.DeleteSession(chance.choice(SESSIONS)))
                case "c":
                    assert not isinstance(store.run(c.Checkpoint()), GibramError)
                case "r":
                    store.run(c.RotateLog())
                case "s":
                    copies.append(f"copy-{chance.randint(0, 2)}")
                    assert not isinstance(store.run(c.Save(copies[-1])), GibramError)
                case "b" if copies:
                    status = store.restore(chance.choice(copies))
                    assert status is not None
                    assert status.error == ""
                    history.append(Moment(history[-1].lsn, store.digest(), is_restored=True))
                    continue
                case "o":
                    store.store.close()
                    store = Driven(config_of(data, retention))
                case _:
                    continue
            if store.digest() != history[-1].digest:
                lsn = int(store.store.database.state.last_lsn)
                history.append(Moment(lsn, store.digest(), is_restored=False))
        end = chance.choice(["stop", "kill", "die"])
        if end == "stop":
            store.store.close()
            shutil.copytree(data, image)
        elif end == "kill":
            shutil.copytree(data, image)
            store.store.close()
        else:
            # In the middle of a change of the disk: what was asked for last may be there, or not.
            store.disk.stop_at = store.disk.changes + chance.randint(1, 40)
            asked = chance.choice(["checkpoint", "restore"])
            if asked == "restore" and copies:
                store.restore(chance.choice(copies))
            else:
                store.run(c.Checkpoint())
            store.disk.die()
            shutil.copytree(data, image)
            recovered, digest = verify(config_of(image, retention))
            if digest != history[-1].digest:
                history.append(Moment(history[-1].lsn, digest, is_restored=True))
            assert recovered.end_lsn >= history[-1].lsn
        self.told[f"ended by {end}"] += 1
        return image

    def _repaired(self, case: Path, whole: Path, history: list[Moment], retention: int) -> list[Moment] | None:
        """What is left of the history behind repair and start; None where nothing could be done."""
        config = config_of(case, retention)
        before, files = tree_hash(case), _files(case)
        inspect(config)
        try:
            proposal = propose(config)
        except FatalError as error:
            assert tree_hash(case) == before
            self._check_refusal(case, config, error)
            assert tree_hash(case) == before
            return None
        assert tree_hash(case) == before
        if proposal is None:
            return self._starts(config, history)
        try:
            verify(config)
        except FatalError:
            pass
        else:
            raise AssertionError(f"it starts, and yet is repaired: {proposal}")
        aside, digest = repair(config)
        _, started = verify(config)
        assert started == digest, f"{started} after {digest}: {proposal}"
        self._check_files(case, files, aside, proposal)
        assert propose(config) is None
        store = Driven(config)
        assert store.digest() == digest
        found = f"{len(store.store.database.state.sessions)} sessions, "
        found += f"{sum(each.object_count() for each in store.store.database.state.sessions.values())} objects"
        assert proposal.keeps.endswith(found), f"{proposal.keeps} and not {found}"
        store.store.close()
        kept = _kept(history, int(_only(r"up to LSN ([0-9]+)", proposal.keeps)), digest, proposal)
        self._check_loss(whole, history, kept, proposal)
        return kept

    def _check_refusal(self, case: Path, config: Config, refusal: FatalError) -> None:
        assert isinstance(refusal, MissingStoreError), refusal
        assert "nothing can be repaired" in str(refusal), refusal
        for attempt in (verify, repair):
            try:
                attempt(config)
            except FatalError:
                pass
            else:
                raise AssertionError(f"it can be done all the same: {refusal}")
        for found in inspect(config)[0]:
            assert found.error, f"{found.path} can be read: {refusal}"
        for _, path in wal.list_logs(self._fs, case / "session_wal")[:1]:
            with contextlib.suppress(FatalError):
                assert not isinstance(wal.read_header(self._fs, path).origin, wal.FirstLog), refusal
        self.told["nothing can be done"] += 1

    def _starts(self, config: Config, history: list[Moment]) -> list[Moment]:
        recovered, digest = verify(config)
        store = Driven(config)
        assert store.digest() == digest
        store.store.close()
        kept = _kept(history, int(recovered.end_lsn), digest, None)
        self.told["starts" if digest == history[-1].digest else "starts with less"] += 1
        return kept

    def _check_files(self, case: Path, files: dict[Path, str], aside: str, proposal: Repair) -> None:
        """Every file lies where it lay or in the folder beside it, as it was; but for what was cut, a beginning."""
        cut = None if proposal.cut is None else proposal.cut[0].relative_to(case)
        after = _files(case)
        for path, content in files.items():
            put_aside = path.parent / aside / path.name
            is_taken = case / path in proposal.set_aside or path == cut
            assert (put_aside in after) == is_taken, f"{path}: {proposal}"
            if is_taken:
                assert after[put_aside] == content, path
                assert (path in after) == (path == cut), path
            else:
                assert after[path] == content, path
        new = set(after) - set(files)
        assert all(path.parent.name == aside for path in new), new

    def _check_loss(self, whole: Path, history: list[Moment], kept: list[Moment], proposal: Repair) -> None:
        """Of records: no more than there were; where all could be read, as many. Of restores: each that is undone."""
        said, end_lsn = proposal.loses, kept[-1].lsn
        is_all_there = kept[-1].digest == history[-1].digest and len(kept) == len(history)
        if said == "nothing":
            assert is_all_there, f"not nothing: {proposal}"
            self.told["nothing is lost"] += 1
            return
        if said.startswith("nothing"):
            self.told["nothing is lost, if, " + ("truly" if is_all_there else "and yet more was")] += 1
            return
        if "if anything was: no log is there" in said:
            self.told["no log is there"] += 1
            return
        logs = {path.name: _records(self._fs, path) for _, path in wal.list_logs(self._fs, whole / "session_wal")}
        behind = int(_only(r"behind LSN ([0-9]+)", said))
        lost = sum(lsn > behind for lsns in logs.values() for lsn in lsns)
        told = 0
        for name, digits, up_to in re.findall(r"(wal-[0-9]+.log): ([0-9,]+) records up to LSN ([0-9]+)", said):
            count = int(digits.replace(",", ""))
            there = sum(behind < lsn <= int(up_to) for lsn in logs[name])
            assert count == there or not logs[name], f"{there} records of {name} are lost: {proposal}"
            told += count
        vague = (
            "not be believed",
            "not even the header",
            "missing",
            "the end of",
            "what it held",
            "all that",
            "if anything did",
        )
        if not any(words in said for words in vague):
            assert told == lost > 0, f"{lost} records are lost: {proposal}"
            self.told["each lost record is told"] += 1
        elif is_all_there:
            self.told["something is said to be lost, and nothing was"] += 1
        else:
            self.told["something is lost, and told"] += 1
        undone = [moment for moment in history[len(kept) :] if moment.is_restored]
        if undone and undone[0].lsn == end_lsn:
            telling = ("restore", "not even the header", "missing", "what it held", "if anything did")
            assert any(words in said for words in telling), f"a restore is undone: {proposal}"
            self.told["an undone restore is told" if "restore" in said else "an undone restore is not seen"] += 1


def _kept(history: list[Moment], end_lsn: int, digest: str, proposal: Repair | None) -> list[Moment]:
    """The history up to the state that is there: that of this LSN, before or after a restore that came there."""
    lsn = max(moment.lsn for moment in history if moment.lsn <= end_lsn)
    for index in range(len(history) - 1, -1, -1):
        if history[index].lsn == lsn and history[index].digest == digest:
            return history[: index + 1]
    raise AssertionError(f"no state of LSN {lsn} has the digest {digest}: {proposal}")


def _only(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, f"{pattern!r} in {text!r}"
    return found[1]


def _records(fs: OsFileSystem, path: Path) -> list[int]:
    """None where it can not be read: what lies before a snapshot's cut can be damaged in a store that starts."""
    with contextlib.suppress(FatalError):
        return [int(lsn) for lsn, _, _ in wal.read_log(fs, path)]
    return []


def _files(root: Path) -> dict[Path, str]:
    """What lies below it, without the locks, which are made by who takes them."""
    found = (path for path in root.rglob("*") if path.is_file() and path.name != "LOCK")
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _write(chance: random.Random) -> c.Command:
    session, name = chance.choice(SESSIONS), f"n{chance.randint(0, 10**9)}"
    if chance.random() < 0.5:
        return c.AddDocuments(session, (NewDocument(name, "x" * chance.choice([0, 10, 2_000])),))
    return c.AddEntities(session, (NewEntity(name, name, embedding=[1.0, 2.0, chance.random() + 0.1]),))


# --- damages ----------------------------------------------------------------------------------------------------------


def _damage(chance: random.Random, data: Path) -> list[str]:
    """Between one and four files; what was done, in words."""
    return [_damage_one(chance, data) for _ in range(chance.choice([1, 1, 1, 2, 2, 3, 4]))]


def _damage_one(chance: random.Random, data: Path) -> str:
    kind = chance.choice(["wal-*.log", "wal-*.log", "snapshot-*.json", "pack-*.bin"])
    paths = sorted(data.glob(f"session_*/{kind}"))
    if not paths:
        return f"no {kind}"
    path = paths[-1] if chance.random() < 0.5 else chance.choice(paths)
    content = path.read_bytes()
    written = len(content.rstrip(b"\0"))
    match chance.choice(["flip", "flip", "flip", "cut", "delete", "delete", "number", "swap", "double"]):
        case "flip" if written:
            at = chance.randrange(min(written + 8, len(content)) if chance.random() < 0.9 else len(content))
            changed = bytearray(content)
            changed[at] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            return f"{path.name}: byte {at} of {written} flipped"
        case "cut":
            at = chance.randrange(max(1, written))
            path.write_bytes(content[:at])
            return f"{path.name}: cut at {at} of {written}"
        case "number":
            digits = int(_only(r"([0-9]{20})", path.name)) + chance.choice([-1, 1, 2, 7])
            target = path.with_name(re.sub(r"[0-9]{20}", f"{max(0, digits):020}", path.name))
            path.replace(target)
            return f"{path.name}: now {target.name}"
        case "swap":
            other = chance.choice(paths)
            path.write_bytes(other.read_bytes())
            other.write_bytes(content)
            return f"{path.name}: swapped with {other.name}"
        case "double":
            other = chance.choice(paths)
            other.write_bytes(content)
            return f"{other.name}: now what {path.name} holds"
        case _:
            path.unlink()
            return f"{path.name}: gone"
