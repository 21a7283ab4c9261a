"""Signals of a daemon: SIGTERM and SIGINT ask it to stop, SIGHUP to read its settings anew."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Protocol


class Interrupted(BaseException):
    """A signal came while a call was under way that may be left at any point."""


class Signals(Protocol):
    """What a daemon was asked to do, and a wait that ends when it is asked something."""

    @property
    def stop_requested(self) -> bool:
        """Whether it was asked to stop."""

    def take_reload(self) -> bool:
        """Say whether it was asked to read its settings anew since the last call."""

    def wait(self, seconds: float) -> None:
        """Let time pass, until a signal comes."""

    def interruptible(self) -> AbstractContextManager[None]:
        """Return a context in which a signal raises `Interrupted`."""


class RealSignals:
    """The signals of this process; to be made in its main thread."""

    def __init__(self) -> None:
        """Take the signals over."""
        self._stop = False
        self._reload = False
        self._is_interruptible = False
        # A handler may run anywhere, so it takes no lock: it sets flags and writes to a pipe.
        self._wake, self._bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stop = True
        with suppress(BlockingIOError):
            os.write(self._bell, b"!")
        if self._is_interruptible:
            self._is_interruptible = False
            raise Interrupted

    @property
    def stop_requested(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop

    def take_reload(self) -> bool:
        """Say whether it was asked to read its settings anew since the last call."""
        asked, self._reload = self._reload, False
        return asked

    def wait(self, seconds: float) -> None:
        """Let time pass, until a signal comes."""
        select.select([self._wake], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._wake, 4096)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Enter a context in which a signal raises `Interrupted`."""
        self._is_interruptible = True
        try:
            if self._stop or self._reload:
                raise Interrupted
            yield
        finally:
            self._is_interruptible = False
