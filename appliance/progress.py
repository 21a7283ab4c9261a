"""How far downloads are, for people: one line that moves on a terminal, else a line per file."""

from __future__ import annotations

from threading import Lock
from typing import TextIO

from appliance.system.clock import Clock

_EVERY_S = 0.2
_MB = 1_000_000


class ProgressBoard:
    """Shows several downloads at once; told by several threads."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        """Write there."""
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._mutex = Lock()
        self._done: dict[str, int] = {}
        self._total: dict[str, int | None] = {}
        self._since: dict[str, float] = {}
        self._shown_at = 0.0
        self._width = 0

    def moved(self, name: str, done: int, total: int | None) -> None:
        """Show how many bytes of a file are there."""
        with self._mutex:
            now = self._clock.monotonic()
            self._since.setdefault(name, now)
            self._done[name], self._total[name] = done, total
            if self._is_terminal and now >= self._shown_at + _EVERY_S:
                self._shown_at = now
                self._show(self._line())

    def ended(self, name: str) -> None:
        """Say that no more of a file will come."""
        with self._mutex:
            if name not in self._since:
                return
            elapsed_s = self._clock.monotonic() - self._since.pop(name)
            done, total = self._done.pop(name), self._total.pop(name)
            self._show("")
            if not done and total is None:
                return
            is_whole = total is None or done >= total
            verb = "came" if is_whole else f"ended at {done / _MB:.1f} of"
            size = done if is_whole else total or 0
            self._stream.write(f"{name}: {verb} {size / _MB:.1f} MB in {elapsed_s:.0f} s\n")
            self._stream.flush()

    def _line(self) -> str:
        parts = [
            f"{name} {done * 100 // total} %"
            if (total := self._total[name])
            else f"{name} {done / _MB:.1f} MB"
            for name, done in sorted(self._done.items())
        ]
        return "  ".join(parts)

    def _show(self, line: str) -> None:
        """Replace the moving line."""
        if self._is_terminal:
            shown = line[:118]
            self._stream.write("\r" + shown.ljust(self._width) + ("" if shown else "\r"))
            self._stream.flush()
            self._width = len(shown)
