"""Threads that spend their time in a library's native code, by their names.

One that comes back while Python ends itself takes the process down by SIGABRT: Python ends such a thread by an
exception, and code in Rust lets none through. So a program of ours asks here whether there is one, and then ends at
once; somebody else's, which has a store in its process, waits for them a while.
"""

from __future__ import annotations

import threading
import time

HASHES = "gibramdb-auth"
LEIDEN = "gibramdb-detect"


def are_any_alive() -> bool:
    """Whether Python may not be left to end itself."""
    return bool(_alive())


def wait_for(seconds_max: float) -> None:
    """Let them end, where it is not for us to end the process."""
    ends_at = time.monotonic() + seconds_max
    for thread in _alive():
        thread.join(max(0.0, ends_at - time.monotonic()))


def _alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in {HASHES, LEIDEN}]
