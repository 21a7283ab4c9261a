"""A clock that jumps when it is asked to sleep."""

from __future__ import annotations

from collections.abc import Callable


class FakeClock:
    """Time that passes only by sleeping.

    Attributes:
        slept: How long each sleep was.
    """

    def __init__(self, monotonic: float = 1000.0, now: float = 1_700_000_000.0) -> None:
        """Begin at some time."""
        self._monotonic = monotonic
        self._now = now
        self.slept: list[float] = []
        self._due: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        """Return seconds that only ever grow."""
        return self._monotonic

    def now(self) -> float:
        """Return the time of day."""
        return self._now

    def uptime(self) -> float:
        """Return seconds since boot: the same as the monotonic scale."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """Jump, and let happen what is due by then."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self.slept.append(seconds)
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """Let time pass although nobody sleeps."""
        self._monotonic += seconds
        self._now += seconds
        due = [happens for at, happens in self._due if at <= self._monotonic]
        self._due = [(at, happens) for at, happens in self._due if at > self._monotonic]
        for happens in due:
            happens()

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        """Have something happen once that much time has passed."""
        self._due.append((self._monotonic + seconds, happens))
