"""Sockets: a question to a daemon on this machine or in the network, a word to systemd."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address
from pathlib import PurePosixPath
from typing import Protocol

from appliance.errors import SocketError

_MOST_BYTES = 64 * 1024 * 1024
_MOST_DATAGRAM_BYTES = 65535


class Sockets(Protocol):
    """Talks to daemons."""

    def ask(self, path: PurePosixPath, question: str, *, timeout_s: float = 5) -> str:
        """Send a line to a daemon's socket and return all it answers until it closes.

        Raises:
            SocketError: Nobody listens there, or the answer does not come to its end in time.
        """

    def exchange(
        self, server: IPv4Address, port: int, datagram: bytes, *, timeout_s: float = 1
    ) -> bytes:
        """Send a UDP datagram and return the first that comes back from there.

        Raises:
            SocketError: None comes in time, or the network says that none will.
        """

    def notify(self, state: str) -> None:
        """Tell the service manager, in the words of sd_notify(3); nothing if it does not listen."""


class RealSockets:
    """The sockets of this machine."""

    def ask(self, path: PurePosixPath, question: str, *, timeout_s: float = 5) -> str:
        """Send a line and return the answer; see `Sockets.ask`."""
        chunks: list[bytes] = []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout_s)
                connection.connect(str(path))
                connection.sendall(f"{question}\n".encode())
                while chunk := connection.recv(65536):
                    chunks.append(chunk)
                    if sum(map(len, chunks)) > _MOST_BYTES:
                        raise SocketError(f"{path}: the answer is larger than {_MOST_BYTES} bytes")
        except OSError as error:
            reason = error.strerror or "no answer in time"
            raise SocketError(f"{path}: {reason}") from error
        return b"".join(chunks).decode("utf-8", errors="replace")

    def exchange(
        self, server: IPv4Address, port: int, datagram: bytes, *, timeout_s: float = 1
    ) -> bytes:
        """Send a datagram and return the answer; see `Sockets.exchange`."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
                connection.settimeout(timeout_s)
                # Connected, so that the kernel lets nobody else's datagram through.
                connection.connect((str(server), port))
                connection.send(datagram)
                return connection.recv(_MOST_DATAGRAM_BYTES)
        except OSError as error:
            reason = error.strerror or "no answer in time"
            raise SocketError(f"{server} port {port}: {reason}") from error

    def notify(self, state: str) -> None:
        """Tell the service manager; see `Sockets.notify`."""
        address = os.environ.get("NOTIFY_SOCKET", "")
        if not address:
            return
        name = f"\0{address[1:]}" if address.startswith("@") else address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.connect(name)
                connection.sendall(state.encode())
        except OSError as error:
            raise SocketError(f"{address}: {error.strerror}") from error
