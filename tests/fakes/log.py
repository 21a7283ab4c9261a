"""A log that keeps its lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FakeLog:
    """Keeps every line as data.

    Attributes:
        lines: Level, event and keys of every line, those of the loggers bound to it included.
    """

    def __init__(
        self, lines: list[dict[str, Any]] | None = None, bound: Mapping[str, Any] | None = None
    ) -> None:
        """Begin empty, or write to another's lines."""
        self.lines: list[dict[str, Any]] = [] if lines is None else lines
        self._bound = dict(bound or {})

    def info(self, event: str, **data: Any) -> Any:
        """Keep a line."""
        self._keep("info", event, data)

    def warning(self, event: str, **data: Any) -> Any:
        """Keep a line."""
        self._keep("warning", event, data)

    def error(self, event: str, **data: Any) -> Any:
        """Keep a line."""
        self._keep("error", event, data)

    def bind(self, **data: Any) -> FakeLog:
        """Return a logger that adds these keys to every line."""
        return FakeLog(self.lines, {**self._bound, **data})

    def events(self) -> list[str]:
        """Return the events, in order."""
        return [str(line["event"]) for line in self.lines]

    def find(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of an event."""
        return [line for line in self.lines if line["event"] == event]

    def _keep(self, level: str, event: str, data: Mapping[str, Any]) -> None:
        self.lines.append({"level": level, "event": event, **self._bound, **data})
