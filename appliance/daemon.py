"""The skeleton of a daemon: one cycle after another, whatever a cycle ends with."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from appliance.errors import OnekeError, SocketError
from appliance.logs import Logger
from appliance.system import System
from appliance.system.signals import Interrupted, Signals

_JITTER = 0.3
_FIRST_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 15.0
# Shorter than the watchdog's time by far; a cycle whose time has not come does little.
_LONGEST_PAUSE_S = 15.0


@dataclass(frozen=True)
class CycleOutcome:
    """What a cycle did.

    Attributes:
        pause_s: How long to wait before the next; some jitter is put on top.
        summary: One sentence for the service manager.
    """

    pause_s: float
    summary: str


class Cycle(Protocol):
    """One daemon's work, made anew when its settings are read anew."""

    def run(self, signals: Signals) -> CycleOutcome:
        """Look, decide, act.

        Raises:
            OnekeError: The cycle failed; the next may succeed.
            Interrupted: A signal came while only looking.
        """

    def failed(self, error: str) -> None:
        """Remember for others why a cycle failed."""


def run_daemon(
    system: System,
    signals: Signals,
    log: Logger,
    begin: Callable[[], Cycle],
    *,
    jitter: Callable[[float, float], float] = random.uniform,
) -> None:
    """Run cycles until asked to stop; a cycle that fails is followed by another, later.

    Args:
        system: Where the service manager and the clock are.
        signals: What it is asked to do.
        log: Where failures go, once each as long as they stay the same.
        begin: Reads the settings and makes the cycle.
        jitter: Draws a number between two others.

    Raises:
        OnekeError: The settings can not be read at the start.
    """
    cycle = begin()
    _notify(system, log, "READY=1")
    failures = 0
    said = ""
    while not signals.stop_requested:
        if signals.take_reload():
            cycle = _begin_anew(cycle, begin, system, log)
        try:
            outcome = cycle.run(signals)
            failures, said = 0, ""
        except Interrupted:
            continue
        except Exception as error:  # a daemon outlives every cycle; what is no OnekeError is a bug
            failures += 1
            text = (
                str(error)
                if isinstance(error, OnekeError)
                else f"a bug in the agent ({type(error).__name__})"
            )
            if text != said:
                said = text
                log.error("cycle.failed", reason=text, exc_info=not isinstance(error, OnekeError))
            cycle.failed(text)
            pause = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(failures - 1, 10))
            outcome = CycleOutcome(pause, f"failed {failures} times: {text}")
        _notify(system, log, f"WATCHDOG=1\nSTATUS={outcome.summary}")
        pause = min(_LONGEST_PAUSE_S, outcome.pause_s)
        signals.wait(jitter(pause, (1 + _JITTER) * pause))
    _notify(system, log, "STOPPING=1")
    log.info("daemon.stopped")


def _begin_anew(cycle: Cycle, begin: Callable[[], Cycle], system: System, log: Logger) -> Cycle:
    _notify(system, log, "RELOADING=1")
    try:
        fresh = begin()
        log.info("daemon.reloaded")
    except OnekeError as error:
        log.error("daemon.not_reloaded", reason=f"{error}; going on with the settings as they were")
        fresh = cycle
    _notify(system, log, "READY=1")
    return fresh


def _notify(system: System, log: Logger, state: str) -> None:
    try:
        system.sockets.notify(state)
    except SocketError as error:
        log.warning("daemon.unheard", reason=str(error))
