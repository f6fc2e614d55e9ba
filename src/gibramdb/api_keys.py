"""API keys as an operator writes them: who may do what, in which sessions, until when.

Owns: the form of an entry of `auth.keys`, and every reason for which one can not work.
Never: keeps a key. Of a key written out only a digest is left, under a secret that ends with this process.

Invariants:
- No message shows anything of an entry but its place and its id: a key may have been put into the wrong field.
- An entry that could never let anybody in, or let in more than was meant, is refused.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from gibramdb.errors import MissingExtraError

KEY_BYTES_MAX = 72
"""bcrypt reads no further; a longer key would be another one to a server that was given its hash."""
HASH_COST_MAX = 15
"""One check of this cost takes some 2 s. A connection has 10 s to authenticate, and others want the same."""
PERMISSIONS = ("read", "write", "admin")

_IMPLIED = {
    "read": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "admin": frozenset({"read", "write", "admin"}),
}
_FIELDS = {"id", "key", "key_hash", "permissions", "expires_at", "sessions", "max_sessions"}
_HASH = re.compile(r"\$2[ab]\$(\d\d)\$[./A-Za-z0-9]{53}")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")
_ID = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
_NUMBER_CHARACTERS_MAX = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_secret = secrets.token_bytes(32)


class EntryError(ValueError):
    """An entry can not work: where, what was found there, and what is allowed. Shows nothing secret."""

    def __init__(self, where: str, found: str, allowed: str) -> None:
        super().__init__(found)
        self.where = where
        self.found = found
        self.allowed = allowed


class ApiKey(msgspec.Struct, frozen=True):
    """One entry. It has a `digest` or a `bcrypt_hash`; no `expires_at_ms` is 0, no `sessions` means all of them.

    sessions_max: how many of its sessions there may be before it begins no more; 0 for as many as the store takes.
    """

    id: str
    permissions: frozenset[str]
    digest: bytes = b""
    bcrypt_hash: bytes = b""
    expires_at_ms: int = 0
    sessions: tuple[str, ...] = ()
    sessions_max: int = 0

    def __repr__(self) -> str:
        """Its id alone: values are printed where nobody thought of it."""
        return f"ApiKey({self.id!r})"

    @property
    def granted(self) -> frozenset[str]:
        """What its permissions come to: admin implies all, write implies read."""
        return frozenset().union(*(_IMPLIED[each] for each in self.permissions))


def digest_of(key: bytes) -> bytes:
    """What is kept of a key: it can be recognised by it in this process, and found out by nobody."""
    return hmac.digest(_secret, key, "sha256")


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """The keys in a JSON list of entries.

    Raises:
        EntryError: an entry can not work.
        ValueError, RecursionError: the text is no JSON list of entries.
        MissingExtraError: there is a `key_hash`, and bcrypt is not installed.
    """
    entries = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(entries, list):
        raise ValueError  # noqa: TRY004 -- the caller says what is allowed, for this and for what is no JSON at all
    ids: set[str] = set()
    proofs: set[tuple[bytes, bytes]] = set()
    return tuple(_Entry(index, entry).key(ids, proofs) for index, entry in enumerate(entries))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise EntryError("", "an entry that has a field twice (not shown, it may hold a key)", "each field once")
    return fields


class _Entry:
    def __init__(self, index: int, fields: object) -> None:
        self._where = f"[{index}]"
        if not isinstance(fields, Mapping):
            raise self._refusal("", "no entry (not shown, it may hold a key)", "fields, each with a value")
        self._fields: Mapping[str, object] = fields

    def _refusal(self, field: str, found: str, allowed: str) -> EntryError:
        return EntryError(f"{self._where}.{field}" if field else self._where, found, allowed)

    def key(self, ids: set[str], proofs: set[tuple[bytes, bytes]]) -> ApiKey:
        """The entry, if it can work beside those before it, whose ids and keys these are; adds its own."""
        if not self._fields.keys() <= _FIELDS:
            found = "a field that is none of an entry's (not shown, it may hold a key)"
            allowed = "id, key or key_hash, permissions, and perhaps expires_at, sessions and max_sessions"
            raise self._refusal("", found, allowed)
        id = self._fields.get("id")
        if not isinstance(id, str) or not _ID.fullmatch(id):
            found = "no id" if id is None or id == "" else "something that is no id"
            raise self._refusal("id", found, "1 to 128 printable ASCII characters, to be named by in logs and answers")
        if id in {self._fields.get(field) for field in ("key", "key_hash") if isinstance(self._fields.get(field), str)}:
            raise self._refusal(
                "id", "the key itself (not shown)", "a name: it is logged, and told to who shows the key"
            )
        self._where += f" {id!r}"
        if id in ids:
            raise self._refusal("id", "an id that an earlier entry has", "a different id for each key")
        ids.add(id)
        proof = self._proof()
        if proof in proofs:
            raise self._refusal("key", "the key of an earlier entry", "a different key for each entry")
        proofs.add(proof)
        return ApiKey(id, self._permissions(), *proof, self._expires_at_ms(), self._sessions(), self._sessions_max())

    def _proof(self) -> tuple[bytes, bytes]:
        key, key_hash = self._fields.get("key"), self._fields.get("key_hash")
        if (key is None) == (key_hash is None):
            found = "neither key nor key_hash" if key is None else "both key and key_hash"
            raise self._refusal("", found, "one of them")
        if key_hash is not None:
            return b"", self._hash(key_hash)
        if not isinstance(key, str) or not key:
            raise self._refusal("key", "no text, or an empty one", f"a text of 1 to {KEY_BYTES_MAX} bytes")
        try:
            encoded = key.encode()
        except UnicodeEncodeError:
            raise self._refusal("key", "text that has no UTF-8 form", f"a text of 1 to {KEY_BYTES_MAX} bytes") from None
        if len(encoded) > KEY_BYTES_MAX or b"\0" in encoded:
            found = "a zero byte" if b"\0" in encoded else f"{len(encoded)} bytes"
            raise self._refusal("key", found, f"a text of 1 to {KEY_BYTES_MAX} bytes, as bcrypt reads them")
        return digest_of(encoded), b""

    def _hash(self, key_hash: object) -> bytes:
        allowed = f"a bcrypt hash, $2a$ or $2b$, of a cost from 04 to {HASH_COST_MAX}"
        match = _HASH.fullmatch(key_hash) if isinstance(key_hash, str) else None
        if match is None or not 4 <= int(match[1]) <= HASH_COST_MAX:
            found = "something that is no bcrypt hash" if match is None else f"a cost of {match[1]}"
            raise self._refusal("key_hash", found, allowed)
        try:
            import bcrypt  # noqa: PLC0415 -- of the extra `server`: who embeds a store has no keys
        except ModuleNotFoundError as missing:
            raise MissingExtraError("auth.keys: a key_hash needs bcrypt: pip install 'gibramdb[server]'") from missing
        encoded = match[0].encode()
        try:
            bcrypt.checkpw(b"", encoded[:4] + b"04" + encoded[6:])  # at the least cost: whether its salt can be read
        except ValueError:
            raise self._refusal("key_hash", "something that is no bcrypt hash", allowed) from None
        return encoded

    def _permissions(self) -> frozenset[str]:
        words = self._words("permissions")
        if not words or not words <= set(PERMISSIONS):
            found = "a word that is no permission" if words else "none"
            raise self._refusal("permissions", found, "a list of at least one of " + ", ".join(PERMISSIONS))
        return frozenset(words)

    def _sessions(self) -> tuple[str, ...]:
        if "sessions" not in self._fields:
            return ()
        names = self._words("sessions")
        if not names or names & {"", "*"}:
            found = "an empty name, or * alone" if names else "none"
            allowed = "a list of names and of prefixes that end in *; for all sessions leave `sessions` out"
            raise self._refusal("sessions", found, allowed)
        return tuple(sorted(names))

    def _sessions_max(self) -> int:
        if "max_sessions" not in self._fields:
            return 0
        given = self._fields["max_sessions"]
        text = "" if isinstance(given, bool) else str(given)  # a text where it comes from a file
        most = int(text) if text.isascii() and text.isdecimal() and len(text) < _NUMBER_CHARACTERS_MAX else 0
        if most < 1:
            raise self._refusal("max_sessions", "something that is no such number", "a whole number of at least 1")
        if "sessions" not in self._fields:
            raise self._refusal("max_sessions", "it without sessions", "sessions beside it, of which it says how many")
        return most

    def _words(self, field: str) -> set[str]:
        words = self._fields.get(field, [])
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise self._refusal(field, "something else than a list of words", "a list of words")
        return set(words)

    def _expires_at_ms(self) -> int:
        if "expires_at" not in self._fields:
            return 0
        text = self._fields["expires_at"]
        match = _TIME.fullmatch(text) if isinstance(text, str) else None
        if match is not None:
            offset = "+00:00" if match[4] in "Zz" else match[4]
            try:
                until = datetime.fromisoformat(f"{match[1]}T{match[2]}{offset}")
                return max(1, (until - _EPOCH) // timedelta(milliseconds=1))
            except (ValueError, OverflowError):
                pass  # the thirtieth of February
        allowed = "a time with its zone as in RFC 3339, such as 2030-01-31T00:00:00Z"
        raise self._refusal("expires_at", "something that is no such time", allowed)
