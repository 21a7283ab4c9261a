"""RKE2's supervisor on a server (port 9345): what is asked of it before a node has joined."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Answer(Enum):
    """How a supervisor answers when it is only asked whether it is there."""

    PONG = "serves"
    STARTING = "is starting"
    NONE = "does not answer"


@dataclass(frozen=True)
class Ping:
    """An answer, and where there is none what lies at the bottom of it."""

    answer: Answer
    cause: str = ""


class Supervisor(Protocol):
    """Asks the supervisor of a server."""

    def ping(self, host: str, port: int) -> Ping:
        """Ask whether it is there; nobody being there is an answer, too."""
