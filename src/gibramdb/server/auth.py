"""Who is asking, and may they: from an API key to a Principal, and from a Principal to what it may do.

Owns: the keys, what has been found out about them, the threads that check hashes.
Never: keeps a key that was presented; blocks the event loop; says more of a failure than that it failed.

Invariants:
- A key is looked up by a digest under a secret of this process, so how long that takes tells nothing about any key.
- What is in no table is refused: a command without a row, or one over all sessions for a key bound to some of them.
- Checks of hashes are bounded: so many at once, so many waiting, so many for one address, and of addresses that wait
  each has one in turn. One key is checked once: who shows it meanwhile waits for the same check, which costs nothing
  and is bounded by the connections there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from gibramdb import native_threads
from gibramdb.api_keys import KEY_BYTES_MAX, ApiKey, digest_of
from gibramdb.clock import SystemClock
from gibramdb.errors import LimitExceededError, PermissionDeniedError
from gibramdb.model.commands import Command, Ping
from gibramdb.model.scope import SessionScope
from gibramdb.server.admission import Seldom, Throttle, TokenBucket, site_of
from gibramdb.wire.codec import TABLE

log = logging.getLogger(__name__)

CHECK_THREADS = 2
CHECKS_WAITING_MAX = 64
"""Keys that wait to be checked against the hashes, of all connections together; beyond it, one for each address."""
CHECKS_OF_ADDRESS_MAX = 4
"""That it has caused, and that have not ended."""

INVALID = "invalid api key"
EXPIRED = "api key expired"
BUSY = "too many keys are being checked, try again"

_clock = SystemClock()


class _Needs(NamedTuple):
    name: str
    permission: str
    session_rule: str
    is_scoped: bool  # it can be answered for some of the sessions only


_NEEDS = {
    row.number.value: _Needs(
        row.name,
        row.permission,
        row.session_rule,
        "scope" in row.request.command.__struct_fields__ or row.request.command is Ping,
    )
    for row in TABLE
}


class Principal:
    """Whoever has shown one key, on all of their connections."""

    def __init__(self, key: ApiKey, bucket: TokenBucket) -> None:
        self.key_id = key.id
        self.permissions = sorted(key.permissions)
        self.bucket = bucket
        self._expires_at_ms = key.expires_at_ms
        self._granted = key.granted
        self._sessions_max = key.sessions_max
        self._scope: SessionScope | None = None
        if key.sessions:
            prefixes = [name[:-1] for name in key.sessions if name.endswith("*")]
            names = [name for name in key.sessions if not name.endswith("*")]
            self._scope = SessionScope(frozenset(names), tuple(prefixes))

    def is_expired(self) -> bool:
        """Whether the key's time is over."""
        return bool(self._expires_at_ms) and _clock.now_ms() >= self._expires_at_ms

    def refusal(self, number: int, session_id: str) -> PermissionDeniedError | None:
        """Why a command may not be run, before its payload is looked at; None if it may, or is no command at all."""
        needs = _NEEDS.get(number)
        if needs is None:
            return None  # the codec refuses it
        if needs.permission not in self._granted:
            return PermissionDeniedError(f"permission denied: requires '{needs.permission}' permission")
        scope = self._scope
        if scope is None:
            return None
        if needs.session_rule == "unused" or not session_id:
            if needs.is_scoped or needs.session_rule in {"required", "created"}:
                return None  # it sees its own; or names no session, which the codec refuses
            return PermissionDeniedError(f"permission denied: {needs.name} is about all sessions, this key is not")
        if scope.holds(session_id):
            return None
        return PermissionDeniedError("permission denied: this key is not for this session")

    def refusal_to_begin(
        self, number: int, session_id: str, may_begin: Callable[[str, SessionScope, int], bool]
    ) -> LimitExceededError | None:
        """Why it may not begin that session, which the command would; None if it may, or that is there already.

        may_begin: whether fewer than so many of the scope's sessions are there, or this one.
        """
        needs, most = _NEEDS.get(number), self._sessions_max
        if not most or self._scope is None or needs is None or needs.session_rule != "created" or not session_id:
            return None
        if may_begin(session_id, self._scope, most):
            return None
        return LimitExceededError(f"max sessions limit reached ({most}) for this key")

    def signed(self, command: Command) -> Command:
        """The command, if need be for as much as this key may see, or in its name."""
        if self._scope is not None and "scope" in command.__struct_fields__:
            return msgspec.structs.replace(command, scope=self._scope)
        if "asker" in command.__struct_fields__:
            return msgspec.structs.replace(command, asker=self.key_id)
        return command


Found = Callable[[Principal | str], None]
"""Gets who it is, or why nobody."""
Leave = Callable[[], object]


class _Check:
    """A key that is being checked: for whom it was begun, and who has shown it meanwhile, each by a place of theirs."""

    def __init__(self, peer: str, found: Found) -> None:
        self.peer = peer
        self.found = found
        self.others: dict[object, tuple[str, Found]] = {}


class Gate:
    """All keys of a server."""

    def __init__(self, keys: Sequence[ApiKey], rate_per_second: int, rate_burst: int) -> None:
        self._throttle = Throttle()
        self._expired = Seldom(log.warning)
        self._none_of_ours = Seldom(log.warning)
        self._known: dict[bytes, Principal] = {}
        self._hashed: list[tuple[bytes, Principal]] = []
        for key in keys:
            principal = Principal(key, TokenBucket(rate_per_second, rate_burst))
            if key.digest:
                self._known[key.digest] = principal
            else:
                self._hashed.append((key.bcrypt_hash, principal))
        self._checks: dict[bytes, _Check] = {}
        self._checks_of: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[bytes, bytes]]] = {}  # digests and keys, by the site they came from
        self._running = 0
        self._is_closed = False

    def identify(self, peer: str, api_key: str, found: Found) -> Leave | None:
        """Find out whose key it is; `found` is told, perhaps before this returns, on the thread of the event loop.

        Returns what to call if whoever asks goes before that. A check that was begun for them goes on, and what it
        finds counts: else it would cost nothing to ask and to go.
        """
        key = api_key.encode()
        pause_us = self._throttle.pause_us(peer, _clock.steady_us())
        if pause_us:
            found(f"too many failed attempts from this address, try again in {pause_us // 1_000_000 + 1} s")
            return None
        digest = digest_of(key)
        principal = self._known.get(digest)
        if principal is not None or not self._hashed or not 0 < len(key) <= KEY_BYTES_MAX:
            self._tell(principal, peer, found)
            return None
        check = self._checks.get(digest)
        if check is not None:
            place = object()
            check.others[place] = (peer, found)
            return partial(check.others.pop, place, None)
        site = site_of(peer)
        waiting_max = 1 if len(self._checks) >= CHECKS_WAITING_MAX else CHECKS_OF_ADDRESS_MAX
        if self._checks_of[site] >= waiting_max:
            found(BUSY)
            return None
        self._checks_of[site] += 1
        self._checks[digest] = _Check(peer, found)
        self._waiting.setdefault(site, deque()).append((digest, key))
        self._check_next()
        return None

    def _check_next(self) -> None:
        """One of each site in turn: whoever shows many keys keeps the others waiting for one of them."""
        while self._waiting and self._running < CHECK_THREADS and not self._is_closed:
            site = next(iter(self._waiting))
            of_site = self._waiting.pop(site)
            digest, key = of_site.popleft()
            if of_site:
                self._waiting[site] = of_site
            self._running += 1
            # A daemon: a stop waits for no check.
            check = partial(self._check, asyncio.get_running_loop(), digest, key)
            try:
                threading.Thread(target=check, name=native_threads.HASHES, daemon=True).start()
            except RuntimeError:  # the system gives no more threads
                self._running -= 1
                self._end_check(digest, BUSY)

    def close(self) -> None:
        """Check no more keys; who waits is told."""
        self._is_closed = True
        self._waiting.clear()
        for digest in list(self._checks):
            self._end_check(digest, BUSY)

    def _check(self, loop: asyncio.AbstractEventLoop, digest: bytes, key: bytes) -> None:
        """On a thread of its own."""
        principal = None
        try:
            principal = self._match(key)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._checked, digest, principal)

    def _match(self, key: bytes) -> Principal | None:
        """Bcrypt lets go of the interpreter meanwhile."""
        import bcrypt  # noqa: PLC0415 -- the entry could not be read without it, and without a hash nobody needs it

        for bcrypt_hash, principal in self._hashed:
            if self._is_closed:
                return None
            try:
                if bcrypt.checkpw(key, bcrypt_hash):
                    return principal
            except ValueError:  # a zero byte in it: the key of nobody
                return None
        return None

    def _checked(self, digest: bytes, principal: Principal | None) -> None:
        if self._is_closed:
            return
        self._running -= 1
        self._check_next()
        if principal is not None:
            self._known[digest] = principal
        self._end_check(digest, principal)

    def _end_check(self, digest: bytes, principal: Principal | str | None) -> None:
        """Tell all who wait for it what was found, or why nothing was."""
        check = self._checks.pop(digest)
        site = site_of(check.peer)
        self._checks_of[site] -= 1
        if not self._checks_of[site]:
            del self._checks_of[site]
        self._tell(principal, check.peer, check.found)
        while check.others:  # telling one may end another
            _, (peer, found) = check.others.popitem()
            self._tell(principal, peer, found)

    def _tell(self, principal: Principal | str | None, peer: str, found: Found) -> None:
        if isinstance(principal, str):
            found(principal)
        elif principal is None:
            self._throttle.failed(peer, _clock.steady_us())
            self._none_of_ours.tell("a connection showed a key that is none of ours", peer=peer)
            found(INVALID)
        elif principal.is_expired():
            self._expired.tell("a connection showed a key whose time is over", peer=peer, key=principal.key_id)
            found(EXPIRED)
        else:
            found(principal)
