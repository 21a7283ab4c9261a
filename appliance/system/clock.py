"""Time: what passes, what it is, and waiting for it to pass."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time as the agent sees it."""

    def monotonic(self) -> float:
        """Return seconds that only ever grow."""

    def now(self) -> float:
        """Return the time of day in seconds since 1970, for people and journals."""

    def uptime(self) -> float:
        """Return seconds since boot, as /proc/uptime has them."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class RealClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        """Return seconds since some point that only ever grow."""
        return time.monotonic()

    def now(self) -> float:
        """Return the time of day in seconds since 1970."""
        return time.time()

    def uptime(self) -> float:
        """Return seconds since boot, as /proc/uptime has them."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)
