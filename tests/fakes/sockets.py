"""Control sockets and UDP servers in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import PurePosixPath

from appliance.errors import SocketError

Daemon = Callable[[str], str]
Server = Callable[[bytes], bytes]


class FakeSockets:
    """Daemons that answer questions, and a service manager that is told.

    Attributes:
        daemons: Path to what answers there; may be changed, as daemons come and go.
        servers: Address and port to the UDP server there; likewise.
        asked: Path and question of every call.
        notified: What the service manager was told.
    """

    def __init__(self, daemons: Mapping[str, Daemon] | None = None) -> None:
        """Begin with some daemons."""
        self.daemons = dict(daemons or {})
        self.servers: dict[tuple[str, int], Server] = {}
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

    def exchange(
        self, server: IPv4Address, port: int, datagram: bytes, *, timeout_s: float = 1
    ) -> bytes:
        """Have a server answer."""
        assert timeout_s > 0, "every question has a time-out"
        answers = self.servers.get((str(server), port))
        if answers is None:
            raise SocketError(f"{server} port {port}: no answer in time")
        return answers(datagram)

    def notify(self, state: str) -> None:
        """Keep what the service manager is told."""
        self.notified.append(state)
