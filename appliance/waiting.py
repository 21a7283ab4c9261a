"""Waiting: always with a deadline, a reason, and a way to know that waiting on is of no use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from appliance.errors import AlreadyRunning, NotReady, OneGateError
from appliance.logs import Logger
from appliance.system import System
from appliance.system.clock import Clock

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

LOOK_EVERY_S = 0.25
_LOOK_LONGEST_S = 1.0
_LOOK_SHARE = 0.05
_LOCK_EVERY_S = 0.05


@dataclass(frozen=True)
class Ready:
    """What was waited for is there."""


@dataclass(frozen=True)
class NotYet:
    """It is not there yet, and this is what is missing."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """It will not come by waiting."""

    reason: str


Readiness = Ready | NotYet | Failed


@dataclass(frozen=True)
class Deadline:
    """A point in time up to which something may take.

    Attributes:
        at: On the clock's monotonic scale.
    """

    clock: Clock
    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """Return the point `seconds` from now."""
        return cls(clock, clock.monotonic() + seconds)

    def share(self, seconds: float) -> Deadline:
        """Return the point `seconds` from now, or this one where that is earlier."""
        return Deadline(self.clock, min(self.at, self.clock.monotonic() + seconds))

    def remaining_s(self) -> float:
        """Return the seconds that are left; never less than 0."""
        return max(0.0, self.at - self.clock.monotonic())


def look_every_s(waited_s: float) -> float:
    """Return the pause before the next look: the longer something takes, the less often.

    A look takes tens of milliseconds of a processor that RKE2 needs to come up. The pause makes a
    wait a twentieth longer at most, and never more than a second.
    """
    return min(max(LOOK_EVERY_S, waited_s * _LOOK_SHARE), _LOOK_LONGEST_S)


def wait_until(
    what: str,
    probe: Callable[[], Readiness],
    deadline: Deadline,
    *,
    log: Logger,
    every_s: float | None = None,
    on_reason: Callable[[str], None] = lambda reason: None,
) -> float:
    """Look again and again until it is ready.

    A reason is logged when it changes, not at every look.

    Args:
        what: What is waited for, to complete "waiting for ...".
        probe: Looks once; it does not raise to mean "later".
        deadline: When to give up.
        log: Where reasons go.
        every_s: Pause between looks; None for the one of `look_every_s`.
        on_reason: Told each new reason too.

    Returns:
        How long it took, in seconds.

    Raises:
        NotReady: The deadline passed, or the probe says that it has failed.
    """
    clock = deadline.clock
    started = clock.monotonic()
    attempts = 0
    last = ""
    while True:
        attempts += 1
        found = probe()
        elapsed = clock.monotonic() - started
        if isinstance(found, Ready):
            if last:
                log.info("wait.ended", what=what, elapsed_s=round(elapsed, 1), attempt=attempts)
            return elapsed
        if isinstance(found, Failed):
            raise NotReady(what, found.reason, elapsed_s=elapsed, attempts=attempts, final=True)
        if found.reason != last:
            last = found.reason
            log.info("wait.reason", what=what, reason=last, elapsed_s=round(elapsed, 1))
            on_reason(last)
        pause_s = look_every_s(elapsed) if every_s is None else every_s
        if deadline.remaining_s() <= pause_s:
            raise NotReady(what, last, elapsed_s=elapsed, attempts=attempts)
        clock.sleep(pause_s)


@contextmanager
def hold_lock(system: System, path: PurePosixPath, deadline: Deadline) -> Iterator[None]:
    """Hold a lock that others hold for moments only.

    Raises:
        AlreadyRunning: It was still held at the deadline.
    """
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(system.files.lock(path))
                break
            except AlreadyRunning:
                if deadline.remaining_s() <= 0:
                    raise
            system.clock.sleep(_LOCK_EVERY_S)
        yield


def retry(
    what: str,
    call: Callable[[], T],
    deadline: Deadline,
    *,
    log: Logger,
    on_reason: Callable[[str], None] = lambda reason: None,
    first_pause_s: float = 0.5,
    longest_pause_s: float = 15,
) -> T:
    """Make a OneGate call, and again while its error says that this may help.

    Pauses grow and have jitter.

    Raises:
        OneGateError: What the last try ended with, at the deadline or because trying on is of no
            use.
    """
    import tenacity  # only where OneGate is asked

    clock = deadline.clock
    pause = tenacity.wait_exponential_jitter(
        multiplier=first_pause_s, max=longest_pause_s, jitter=first_pause_s
    )
    said = ""

    def is_retryable(error: BaseException) -> bool:
        return isinstance(error, OneGateError) and error.retryable

    def is_over(state: RetryCallState) -> bool:
        return deadline.remaining_s() <= (state.upcoming_sleep or 0)

    def report(state: RetryCallState) -> None:
        nonlocal said
        reason = str(state.outcome.exception()) if state.outcome else ""
        if reason != said:
            said = reason
            log.warning("onegate.retried", what=what, reason=reason, attempt=state.attempt_number)
            on_reason(reason)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_retryable),
        wait=pause,
        stop=is_over,
        sleep=clock.sleep,
        before_sleep=report,
        reraise=True,
    )(call)
