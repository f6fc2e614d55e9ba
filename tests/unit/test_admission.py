"""What one party is: failures, checks of hashes and connections are counted for the same."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import weakref
from collections import Counter

import pytest
from support.gate import encode_auth, entry, hash_of

from gibramdb.api_keys import parse_api_keys
from gibramdb.clock import SystemClock
from gibramdb.config import load_config
from gibramdb.server.admission import FAILURES_FREE, Admission, Throttle
from gibramdb.server.app import Server
from gibramdb.server.auth import BUSY, CHECK_THREADS, CHECKS_OF_ADDRESS_MAX, CHECKS_WAITING_MAX, Gate, Principal
from gibramdb.server.connection import Connection

# Two addresses of one party, and one of another's.
PARTIES = [
    ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
    ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:3::1"),
    ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"),
    ("fe80::1%eth0", "fe80::2%eth0", "2001:db8::1"),
]
parties = pytest.mark.parametrize(("first", "second", "stranger"), PARTIES)


@parties
def test_failures_are_counted_for_one_party(first: str, second: str, stranger: str) -> None:
    throttle = Throttle()
    for number in range(FAILURES_FREE):
        throttle.failed((first, second)[number % 2], 1)
    assert (throttle.pause_us(first, 2) > 0, throttle.pause_us(second, 2) > 0) == (True, True)
    assert throttle.pause_us(stranger, 2) == 0


@parties
def test_connections_are_counted_for_one_party(first: str, second: str, stranger: str) -> None:
    admission = Admission(100, 2)
    assert (admission.enter(first), admission.enter(second)) == (True, True)
    assert (admission.enter(first), admission.enter(second)) == (False, False)
    assert admission.enter(stranger)
    admission.leave(second)
    assert admission.enter(first)
    assert not admission.enter(second)


@parties
def test_checks_of_hashes_are_counted_for_one_party(first: str, second: str, stranger: str) -> None:
    keys = parse_api_keys(json.dumps([entry("k", "read", key_hash=hash_of("key-k", cost=8))]))

    async def answers_at_once() -> list[Principal | str | None]:
        gate = Gate(keys, 1, 1)
        told: list[asyncio.Future[Principal | str]] = []

        def ask(peer: str) -> Principal | str | None:
            told.append(asyncio.get_running_loop().create_future())
            gate.identify(peer, f"guess {len(told)}", told[-1].set_result)
            return told[-1].result() if told[-1].done() else None

        at_once = [ask((first, second)[number % 2]) for number in range(CHECKS_OF_ADDRESS_MAX + 2)]
        at_once.append(ask(stranger))
        await asyncio.gather(*told)
        at_once.append(ask(first))
        await told[-1]
        gate.close()
        return at_once

    waits = None
    expected = [*[waits] * CHECKS_OF_ADDRESS_MAX, BUSY, BUSY, waits, waits]
    assert asyncio.run(answers_at_once()) == expected, "and each is counted out again"


def test_addresses_have_their_keys_checked_in_turn_and_one_is_always_let_wait() -> None:
    keys = parse_api_keys(json.dumps([entry("k", "read", key_hash=hash_of("key-k", cost=6))]))
    crowd = [f"198.51.100.{number}" for number in range(CHECKS_WAITING_MAX // CHECKS_OF_ADDRESS_MAX)]

    async def run() -> None:
        gate = Gate(keys, 1, 1)
        told: list[tuple[str, Principal | str]] = []
        for peer in crowd:
            for number in range(CHECKS_OF_ADDRESS_MAX):
                gate.identify(peer, f"guess {number} of {peer}", lambda who, peer=peer: told.append((peer, who)))  # type: ignore[misc]
        assert told == []
        found = asyncio.get_running_loop().create_future()
        before: Counter[str] = Counter()

        def let_in(who: Principal | str) -> None:
            before.update(peer for peer, _ in told)
            found.set_result(who)

        gate.identify("192.0.2.1", "key-k", let_in)
        busy: list[Principal | str] = []
        gate.identify("192.0.2.1", "another key", busy.append)
        assert busy == [BUSY], "with a place taken, the bound of all counts"
        assert isinstance(await found, Principal)
        most = len(crowd) + CHECK_THREADS + 1  # those that run, one of each, and one that was begun beside it
        assert sum(before.values()) <= most < CHECKS_WAITING_MAX / 2
        gate.close()

    asyncio.run(run())


def test_who_shows_a_key_that_is_being_checked_waits_for_that_check_and_counts_for_nothing() -> None:
    keys = parse_api_keys(json.dumps([entry("k", "read", key_hash=hash_of("key-k", cost=8))]))

    async def run() -> None:
        gate = Gate(keys, 1, 1)
        told: list[list[Principal | str]] = [[] for _ in range(20)]
        for number in range(1, CHECKS_OF_ADDRESS_MAX):
            gate.identify("192.0.2.1", f"guess {number}", told[number].append)
        first = asyncio.get_running_loop().create_future()
        assert gate.identify("192.0.2.1", "key-k", first.set_result) is None, "a check goes on, whoever leaves"
        leaves = [gate.identify("192.0.2.1", "key-k", each.append) for each in told[CHECKS_OF_ADDRESS_MAX:]]
        gate.identify("192.0.2.1", "one guess more", told[0].append)
        assert told[0] == [BUSY]
        assert leaves[0] is not None
        leaves[0]()
        principal = await first
        assert isinstance(principal, Principal)
        assert told[CHECKS_OF_ADDRESS_MAX] == [], "who has left is told nothing, and held by nothing"
        assert told[CHECKS_OF_ADDRESS_MAX + 1 :] == [[principal]] * (20 - CHECKS_OF_ADDRESS_MAX - 1)
        gate.close()

    asyncio.run(run())


def test_a_wrong_key_shown_by_many_at_once_is_as_many_failures() -> None:
    keys = parse_api_keys(json.dumps([entry("k", "read", key_hash=hash_of("key-k", cost=8))]))

    async def run() -> None:
        gate = Gate(keys, 1, 1)
        told: list[Principal | str] = []
        last = asyncio.get_running_loop().create_future()
        for _ in range(FAILURES_FREE - 1):
            gate.identify("192.0.2.1", "guess", told.append)
        gate.identify("192.0.2.1", "guess", last.set_result)
        await last
        await asyncio.sleep(0)
        gate.identify("192.0.2.1", "key-k", told.append)
        assert "too many failed attempts" in str(told[-1])
        gate.close()

    asyncio.run(run())


def test_without_a_thread_a_key_is_not_checked_and_the_next_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = parse_api_keys(json.dumps([entry("k", "read", key_hash=hash_of("key-k"))]))

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> None:
        gate = Gate(keys, 1, 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            for number in range(2 * CHECK_THREADS):
                told: list[Principal | str] = []
                gate.identify("192.0.2.1", f"guess {number}", told.append)
                assert told == [BUSY]
        found = asyncio.get_running_loop().create_future()
        gate.identify("192.0.2.1", "key-k", found.set_result)
        assert isinstance(await found, Principal)
        gate.close()

    asyncio.run(run())


def test_a_connection_that_is_gone_is_not_held_by_the_check_of_its_key() -> None:
    """Else whoever shows one key and goes, again and again, fills memory for as long as a check takes."""
    keys = json.dumps([entry("k", "read", key_hash=hash_of("key-k", cost=13))])
    config = load_config(None, environment={"GIBRAMDB_AUTH__KEYS": keys}, flags={}, insecure=False, now_ms=0)

    async def run() -> None:
        server = Server(config)

        async def shown() -> tuple[weakref.ref[Connection], socket.socket]:
            theirs, ours = socket.socketpair()
            connection = Connection(server, "192.0.2.1", SystemClock().steady_us())
            server.admission.enter("192.0.2.1")
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
            theirs.sendall(encode_auth("key-k"))
            await asyncio.sleep(0.01)
            return weakref.ref(connection), theirs

        first, first_socket = await shown()
        second, second_socket = await shown()
        second_socket.close()
        await asyncio.sleep(0.01)
        gc.collect()
        there = first()
        assert there is not None
        assert there.needs_key, "the check goes on"
        assert second() is None
        await asyncio.to_thread(first_socket.recv, 100)
        assert not there.needs_key
        there.abort()
        first_socket.close()
        assert server.gate is not None
        server.gate.close()

    asyncio.run(run())
