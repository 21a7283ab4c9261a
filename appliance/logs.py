"""Logging: few, complete lines; JSON for the journal, readable on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from structlog.typing import Processor


class Logger(Protocol):
    """What the agent logs through.

    The event is a constant, data goes into keys.
    """

    def info(self, event: str, **data: Any) -> Any:
        """Say that something happened."""

    def warning(self, event: str, **data: Any) -> Any:
        """Say that something is doubtful."""

    def error(self, event: str, **data: Any) -> Any:
        """Say that something failed."""

    def bind(self, **data: Any) -> Logger:
        """Return a logger that adds these keys to every line."""


def make_logger(stream: TextIO | None = None, *, as_json: bool | None = None) -> Logger:
    """Return the logger of a run.

    Args:
        stream: Where lines go; standard error if None.
        as_json: JSON or readable; None takes readable on a terminal and JSON elsewhere.
    """
    import structlog  # a tenth of a second, which the verbs that only look can do without

    out = stream or sys.stderr
    json_wanted = not out.isatty() if as_json is None else as_json
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if json_wanted
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    logger: Logger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
    )
    return logger
