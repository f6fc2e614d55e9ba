"""Threads that spend their time in a library's native code, by their names.

Nobody waits for them when a process ends. But one that comes back while Python ends itself takes the process down by
SIGABRT: Python ends such a thread by an exception, and code in Rust lets none through. So who ends a process asks here.
"""

from __future__ import annotations

import threading

HASHES = "gibramdb-auth"
LEIDEN = "gibramdb-detect"


def are_any_alive() -> bool:
    """Whether Python may not be left to end itself."""
    return any(thread.name in {HASHES, LEIDEN} for thread in threading.enumerate())
