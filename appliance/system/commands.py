"""Processes: an argument list, never a shell, always a time-out."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from appliance.errors import CommandError

_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "LANG": "C",
    # All units here have files of their own: what Debian keeps for scripts of old takes systemctl
    # enable half a second for nothing.
    "SYSTEMCTL_SKIP_SYSV": "1",
}
_TAIL = 4000


@dataclass(frozen=True)
class Completed:
    """What a command left behind."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str


class Commands(Protocol):
    """Runs commands."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 30,
        stdin: str | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a command to its end in a clean environment.

        Args:
            argv: The command; no secret may be in it.
            timeout_s: After this long the command's whole process group is killed.
            stdin: What it reads; nothing if None.
            check: Whether an exit status other than 0 is an error.

        Raises:
            CommandError: It is not there, failed (with `check`), or took too long.
        """


class RealCommands:
    """Runs commands on this machine."""

    def __init__(self, passed_on: Sequence[str] = ()) -> None:
        """Give commands, beside the clean environment, these variables as they are here.

        Args:
            passed_on: The names of variables; those that are not set are not given.
        """
        own = {name: os.environ[name] for name in passed_on if name in os.environ}
        self._environment = {**_ENVIRONMENT, **own}
        self._running: set[int] = set()

    def end_all(self) -> None:
        """End the commands that other threads have running."""
        for pid in tuple(self._running):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 30,
        stdin: str | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a command to its end; see `Commands.run`."""
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,
                text=True,
                errors="replace",
            )
        except OSError as error:
            reason = f"could not be started ({error.strerror})"
            raise CommandError(argv, None, "", "", reason) from error
        self._running.add(process.pid)
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            reason = f"took longer than {timeout_s:g} s and was ended"
            raise CommandError(argv, None, stdout[-_TAIL:], stderr[-_TAIL:], reason) from None
        finally:
            self._running.discard(process.pid)
        if check and process.returncode != 0:
            reason = f"exit status {process.returncode}"
            raise CommandError(argv, process.returncode, stdout[-_TAIL:], stderr[-_TAIL:], reason)
        return Completed(tuple(argv), process.returncode, stdout, stderr)
