"""What every part of the lab uses: its error, starting a command, and waiting for a condition."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

POLL_S = 0.2
TAIL_CHARS = 2000

REPOSITORY = Path(__file__).resolve().parents[2]
"""The working tree this lab belongs to."""

_T = TypeVar("_T")


class LabError(Exception):
    """Something in the lab is not as it should be; the text says what and what to do."""


class CommandFailed(LabError):
    """A command ended with another status than 0.

    Attributes:
        argv: The command as it was asked for.
        rc: Its exit status; None if it did not end in time.
        stdout: All it printed.
        stderr: All it complained.
    """

    def __init__(
        self, argv: Sequence[str], rc: int | None, stdout: str, stderr: str, where: str = ""
    ) -> None:
        self.argv = tuple(argv)
        self.rc = rc
        self.stdout = stdout
        self.stderr = stderr
        ended = "did not end in time" if rc is None else f"ended with status {rc}"
        lines = [f"{where + ': ' if where else ''}`{' '.join(argv)}` {ended}"]
        lines += [
            f"{name}: {text[-TAIL_CHARS:].rstrip()}"
            for name, text in (("stdout", stdout), ("stderr", stderr))
            if text.strip()
        ]
        super().__init__("\n".join(lines))


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout_s: float = 60,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    where: str = "",
    shown: Sequence[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it said.

    Args:
        argv: The command; never a shell.
        check: Whether a status other than 0 is an error.
        timeout_s: After this long the command is killed, which always is an error.
        input: Text for its standard input, which is empty otherwise.
        env: Its whole environment; that of this process if None.
        where: Put before an error, for example the node's name.
        shown: What an error shows as the command, where `argv` is mostly wrapping.

    Raises:
        CommandFailed: On a bad status (with `check`) or when the time is over.
    """
    shown = argv if shown is None else shown
    stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=None if env is None else dict(env),
            check=False,
            **stdin,
        )
    except subprocess.TimeoutExpired as expired:
        raise CommandFailed(
            shown, None, _text(expired.stdout), _text(expired.stderr), where
        ) from None
    if check and done.returncode != 0:
        raise CommandFailed(shown, done.returncode, done.stdout, done.stderr, where)
    return done


def wait_until(
    probe: Callable[[], _T | None], timeout_s: float, what: str, *, every_s: float = POLL_S
) -> _T:
    """Ask `probe` until it answers something true, and return that.

    Args:
        probe: An answer that is not true, or a `LabError`, means "not yet".
        timeout_s: How long to try.
        what: What is waited for, as the error should say it.
        every_s: Pause between two tries.

    Raises:
        LabError: When the time is over, with the last answer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            answer = probe()
        except LabError as error:
            answer, told = None, f"{error}"
        else:
            told = repr(answer)
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise LabError(f"waited {timeout_s:g} s for {what}; last state: {told}")
        time.sleep(every_s)


def inside_box() -> bool:
    """Whether this process runs in the lab's throw-away namespaces."""
    return os.environ.get("ONEKE_LAB_BOX") == "1"


def without_dashes(command: list[str]) -> list[str]:
    """Return what stands behind the `--` of a command line; all of it where there is none."""
    return command[1:] if command[:1] == ["--"] else command


def _text(output: str | bytes | None) -> str:
    if output is None:
        return ""
    return output if isinstance(output, str) else output.decode(errors="replace")
