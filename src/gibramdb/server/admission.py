"""How many and how often: connections, tokens for each key, pauses after wrong keys, lines that anybody can cause.

Whatever is counted for an address is counted for its `site_of`.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable

from gibramdb.clock import SystemClock

log = logging.getLogger(__name__)

ADDRESSES_MAX = 10_000
"""Addresses that are remembered for failing; the one that has been quiet longest is forgotten first."""
FAILURES_FREE = 5
"""Failed attempts before an address has to pause: a typing error costs nobody anything."""
PAUSE_US_FIRST = 500_000
PAUSE_US_MAX = 30_000_000
FORGOTTEN_AFTER_US = 120_000_000
"""An address without a failure for so long begins anew."""
TOLD_EVERY_US = 10_000_000
"""Of what anybody can cause as often as they like, one line of the log in so long."""
_IPV6_SITE_BITS = 64


class TokenBucket:
    """Fills at `per_second`, holds `burst`; who finds it empty has asked too often."""

    def __init__(self, per_second: int, burst: int) -> None:
        self._per_us = per_second / 1_000_000
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled_us = 0

    def take(self, now_us: int) -> bool:
        """Take a token, if there is one."""
        self._tokens = min(self._burst, self._tokens + (now_us - self._filled_us) * self._per_us)
        self._filled_us = now_us
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Seldom:
    """Says at once what has happened, and then not again for a while: who causes it often must not fill the log."""

    def __init__(self, say: Callable[..., None]) -> None:
        """say: a method of a logger."""
        self._say = say
        self._times = 0
        self._told_us = -TOLD_EVERY_US

    def tell(self, what: str, **facts: object) -> None:
        """It has happened once more; what is said tells how often it has since the last time, as `times`."""
        self._times += 1
        now_us = SystemClock().steady_us()
        if now_us - self._told_us >= TOLD_EVERY_US:
            self._say(what, extra={**facts, "times": self._times})
            self._told_us = now_us
            self._times = 0


class Throttle:
    """Pauses for addresses that fail to authenticate: each failure beyond the free ones doubles the next pause."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, tuple[int, int]] = OrderedDict()  # site: failures, time of the last

    def pause_us(self, peer: str, now_us: int) -> int:
        """How long this address has still to wait; 0 if it may try."""
        failures, last_us = self._failed.get(site_of(peer), (0, 0))
        if failures < FAILURES_FREE:
            return 0
        pause_us = min(PAUSE_US_MAX, PAUSE_US_FIRST << min(failures - FAILURES_FREE, 16))
        return max(0, last_us + pause_us - now_us)

    def failed(self, peer: str, now_us: int) -> None:
        """An attempt from this address has failed."""
        site = site_of(peer)
        failures, last_us = self._failed.pop(site, (0, now_us))
        if now_us - last_us > FORGOTTEN_AFTER_US:
            failures = 0
        self._failed[site] = (failures + 1, now_us)
        if len(self._failed) > ADDRESSES_MAX:
            self._failed.popitem(last=False)


def site_of(peer: str) -> str:
    """What one party can be told by: of IPv6 the network, since whoever has one address has 2^64 of them."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(int(address) >> _IPV6_SITE_BITS)


class Admission:
    """How many are connected: in all, and from each address.

    Where there are too many in all, the one that has been waited for longest to show a key makes room: whoever opens
    many connections and shows none keeps nobody out who has one.
    """

    def __init__(self, connections_max: int, per_address_max: int) -> None:
        self._connections_max = connections_max
        self._per_address_max = per_address_max
        self._count = 0
        self._of_site: Counter[str] = Counter()
        self._without_key: dict[object, Callable[[], None]] = {}  # the oldest first
        self._refusals = Seldom(log.warning)

    def enter(self, peer: str) -> bool:
        """Count a connection in, unless there are too many."""
        site = site_of(peer)
        if self._of_site.get(site, 0) >= self._per_address_max:
            self._refusals.tell("too many from one address", peer=peer, connections=self._count)
            return False
        if self._count >= self._connections_max:
            what = "too many connections"
            if not self._without_key:
                self._refusals.tell(what, peer=peer, connections=self._count)
                return False
            what += ": the oldest that has shown no key makes room"
            self._refusals.tell(what, peer=peer, connections=self._count)
            self._without_key.pop(next(iter(self._without_key)))()
        self._count += 1
        self._of_site[site] += 1
        return True

    def wait_for_key(self, connection: object, drop: Callable[[], None]) -> None:
        """It has to show a key; `drop` ends it, and may be called until it has, or is forgotten."""
        self._without_key[connection] = drop

    def forget(self, connection: object) -> None:
        """It has shown its key, or is gone."""
        self._without_key.pop(connection, None)

    def leave(self, peer: str) -> None:
        """Count one out again."""
        self._count -= 1
        site = site_of(peer)
        self._of_site[site] -= 1
        if not self._of_site[site]:
            del self._of_site[site]
