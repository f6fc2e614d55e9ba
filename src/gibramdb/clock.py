"""The only reader of time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: the wall's, which may jump, and a steady one, which only goes on."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    def steady_ms(self) -> int:
        """Milliseconds on a clock that never jumps; its zero means nothing."""
        ...

    def steady_us(self) -> int:
        """The same in microseconds, for short durations."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000

    def steady_ms(self) -> int:
        """Milliseconds since an arbitrary moment."""
        return time.monotonic_ns() // 1_000_000

    def steady_us(self) -> int:
        """Microseconds since an arbitrary moment."""
        return time.monotonic_ns() // 1_000
