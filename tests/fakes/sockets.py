"""Control sockets in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from appliance.errors import SocketError

Daemon = Callable[[str], str]


class FakeSockets:
    """Daemons that answer questions, and a service manager that is told.

    Attributes:
        daemons: Path to what answers there; may be changed, as daemons come and go.
        asked: Path and question of every call.
        notified: What the service manager was told.
    """

    def __init__(self, daemons: Mapping[str, Daemon] | None = None) -> None:
        """Begin with some daemons."""
        self.daemons = dict(daemons or {})
        self.asked: list[tuple[str, str]] = []
        self.notified: list[str] = []

    def ask(self, path: PurePosixPath, question: str, *, timeout_s: float = 5) -> str:
        """Have a daemon answer."""
        assert "\n" not in question, "one question is one line"
        assert timeout_s > 0, "every question has a time-out"
        self.asked.append((str(path), question))
        daemon = self.daemons.get(str(path))
        if daemon is None:
            raise SocketError(f"{path}: No such file or directory")
        return daemon(question)

    def notify(self, state: str) -> None:
        """Keep what the service manager is told."""
        self.notified.append(state)
