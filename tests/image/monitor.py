"""What is asked of QEMU and of the guest agent in the machine: JSON lines over Unix sockets.

Sources: QEMU 7.2, "QEMU Machine Protocol Specification" (docs/interop/qmp-spec) and "QEMU Guest
Agent Protocol Reference" (guest-sync-delimited, guest-exec, guest-exec-status).
"""

from __future__ import annotations

import base64
import itertools
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.basics import LabError

_ANSWER_S = 30.0
_POLL_S = 0.05
_SENTINEL = b"\xff"
_ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
    "HOME=/root",
    "TERM=dumb",
)

_sync_ids = itertools.count(1)


@dataclass(frozen=True)
class Finished:
    """A command of the guest that ended."""

    status: int
    stdout: str
    stderr: str


class Monitor:
    """QEMU's own socket: power button, discs, plugs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def execute(self, command: str, **arguments: object) -> Any:
        """Run one command and return what it returns.

        Raises:
            LabError: QEMU is not there, or refuses.
        """
        with _connected(self._path, _ANSWER_S) as lines:
            lines.receive()
            lines.call("qmp_capabilities", {})
            return lines.call(command, arguments)


class GuestAgent:
    """The guest agent's socket: commands in the machine, as root."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(
        self, argv: Sequence[str], input: str | None, timeout_s: float, answer_s: float = _ANSWER_S
    ) -> Finished:
        """Run a command to its end.

        Args:
            argv: The command; never a shell.
            input: Text for its standard input.
            timeout_s: How long to wait for its end.
            answer_s: How long to wait for the agent to answer at all.

        Raises:
            LabError: The agent does not answer, or the command can not be started or does not end.
        """
        arguments: dict[str, object] = {
            "path": argv[0],
            "arg": list(argv[1:]),
            "env": list(_ENVIRONMENT),
            "capture-output": True,
        }
        if input is not None:
            arguments["input-data"] = base64.b64encode(input.encode()).decode()
        with _connected(self._path, answer_s) as lines:
            lines.synchronize()
            lines.limit(_ANSWER_S)
            pid = lines.call("guest-exec", arguments)["pid"]
            deadline = time.monotonic() + timeout_s
            while True:
                told = lines.call("guest-exec-status", {"pid": pid})
                if told["exited"]:
                    status = told.get("exitcode", -told.get("signal", 0))
                    return Finished(status, _text(told, "out-data"), _text(told, "err-data"))
                if time.monotonic() >= deadline:
                    raise LabError(f"`{' '.join(argv)}` did not end within {timeout_s:g} s")
                time.sleep(_POLL_S)


class _Lines:
    """One connection of either kind."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def limit(self, timeout_s: float) -> None:
        """Wait so long for each answer from now on."""
        self._connection.settimeout(timeout_s)

    def synchronize(self) -> None:
        """Skip what was meant for somebody before us, who did not wait for it."""
        number = next(_sync_ids)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        self._connection.sendall(_SENTINEL + json.dumps(request).encode() + b"\n")
        while True:
            line = self._line().rpartition(_SENTINEL)[2]
            try:
                if json.loads(line).get("return") == number:
                    return
            except ValueError:
                continue

    def call(self, command: str, arguments: dict[str, object]) -> Any:
        """Ask and return the answer; what QEMU tells of itself in between is skipped."""
        request = {"execute": command, "arguments": arguments}
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        while True:
            answer = self.receive()
            if "error" in answer:
                raise LabError(f"{command}: {answer['error'].get('desc', answer['error'])}")
            if "return" in answer:
                return answer["return"]

    def receive(self) -> dict[str, Any]:
        """Return the next object."""
        return dict(json.loads(self._line()))

    def _line(self) -> bytes:
        while b"\n" not in self._rest:
            received = self._connection.recv(65536)
            if not received:
                raise LabError("the other end of the socket is gone")
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@contextmanager
def _connected(path: Path, timeout_s: float) -> Iterator[_Lines]:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    with closing(connection):
        try:
            connection.connect(str(path))
            yield _Lines(connection)
        except OSError as error:
            raise LabError(f"{path.name}: {error or 'no answer in time'}") from None


def _text(told: dict[str, Any], name: str) -> str:
    return base64.b64decode(told.get(name, "")).decode(errors="replace")
