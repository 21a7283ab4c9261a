"""How far downloads are, for people: one line that moves on a terminal, else a line per file."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TextIO

from appliance.system.clock import Clock

_EVERY_S = 0.2
_MB = 1_000_000
_WIDTH = 118
_LONGEST_NAME = 26


@dataclass
class _Coming:
    """A file that comes.

    Attributes:
        at_first: How much of it was there when it began to come.
    """

    since: float
    at_first: int
    done: int
    total: int | None


class ProgressBoard:
    """Shows several downloads at once; told by several threads."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        """Write there."""
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._mutex = Lock()
        self._coming: dict[str, _Coming] = {}
        self._began_at = clock.monotonic()
        self._came = 0
        self._shown_at = 0.0
        self._width = 0

    def moved(self, name: str, done: int, total: int | None) -> None:
        """Show how many bytes of a file are there."""
        with self._mutex:
            now = self._clock.monotonic()
            file = self._coming.setdefault(name, _Coming(now, done, done, total))
            self._came += max(0, done - file.done)
            file.done, file.total = done, total
            if self._is_terminal and now >= self._shown_at + _EVERY_S:
                self._shown_at = now
                self._show(self._line(now))

    def ended(self, name: str) -> None:
        """Say that no more of a file will come."""
        with self._mutex:
            file = self._coming.pop(name, None)
            self._show("")
            if file is None or (not file.done and file.total is None):
                return
            elapsed_s = self._clock.monotonic() - file.since
            is_whole = file.total is None or file.done >= file.total
            what = f"{file.done / _MB:.1f} MB in {elapsed_s:.0f} s"
            if not is_whole:
                what = f"{file.done / _MB:.1f} of {(file.total or 0) / _MB:.1f} MB, then no more"
            taken_up = f", {file.at_first / _MB:.1f} MB of it before" if file.at_first else ""
            self._stream.write(f"{name}: {what}{taken_up}\n")
            self._stream.flush()

    def _line(self, now: float) -> str:
        rate = self._came / max(now - self._began_at, 0.1) / _MB
        parts = [f"{_short(name)} {_share(file)}" for name, file in sorted(self._coming.items())]
        return f"{rate:.1f} MB/s  {'  '.join(parts)}"

    def _show(self, line: str) -> None:
        """Replace the moving line."""
        if self._is_terminal:
            shown = line[:_WIDTH]
            self._stream.write("\r" + shown.ljust(self._width) + ("" if shown else "\r"))
            self._stream.flush()
            self._width = len(shown)


def _share(file: _Coming) -> str:
    if file.total:
        return f"{file.done * 100 // file.total} %"
    return f"{file.done / _MB:.1f} MB" if file.done else "..."


def _short(name: str) -> str:
    """Return what tells one name from another on a narrow terminal."""
    last = name.rpartition("/")[2]
    return last if len(last) <= _LONGEST_NAME else f"{last[: _LONGEST_NAME - 2]}.."
