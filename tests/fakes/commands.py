"""Commands by script: an unexpected call fails, and so does one that is left over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from appliance.errors import CommandError
from appliance.system.commands import Completed


@dataclass(frozen=True)
class Call:
    """A call that is expected, and what comes of it.

    Attributes:
        argv: The whole command.
        rc: Its exit status; None for a command that could not be run to its end.
        reason: Why it could not.
        stdin: What it must be given; None for nothing.
    """

    argv: tuple[str, ...]
    rc: int | None = 0
    stdout: str = ""
    stderr: str = ""
    reason: str = "could not be started (No such file or directory)"
    stdin: str | None = None


class FakeCommands:
    """Answers calls in the order of a script.

    Attributes:
        ran: Every call, in order.
    """

    def __init__(
        self, script: Iterable[Call] = (), *, standing: Mapping[str, Call] | None = None
    ) -> None:
        """Take the script.

        Args:
            script: The calls expected, in order.
            standing: Program name to answer, for programs that may be called any number of times;
                the `argv` of such an answer is not compared.
        """
        self._script = list(script)
        self._standing = dict(standing or {})
        self.ran: list[tuple[str, ...]] = []

    def expect(self, *calls: Call) -> None:
        """Add calls to the end of the script."""
        self._script.extend(calls)

    def always(self, program: str, answer: Call) -> None:
        """Answer every call of a program so."""
        self._standing[program] = answer

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 30,
        stdin: str | None = None,
        check: bool = True,
    ) -> Completed:
        """Answer as the script has it.

        Raises:
            AssertionError: The script has another call here, or none.
        """
        assert not isinstance(argv, str), "a command is a list, never a line for a shell"
        assert timeout_s > 0, "every command has a time-out"
        given = tuple(argv)
        self.ran.append(given)
        answer = self._answer(given, stdin)
        if answer.rc is None:
            raise CommandError(given, None, answer.stdout, answer.stderr, answer.reason)
        if check and answer.rc != 0:
            reason = f"exit status {answer.rc}"
            raise CommandError(given, answer.rc, answer.stdout, answer.stderr, reason)
        return Completed(given, answer.rc, answer.stdout, answer.stderr)

    def _answer(self, argv: tuple[str, ...], stdin: str | None) -> Call:
        if argv[0] in self._standing:
            return self._standing[argv[0]]
        if not self._script:
            raise AssertionError(f"unexpected command: {argv}; the script is at its end")
        expected = self._script.pop(0)
        if (expected.argv, expected.stdin) != (argv, stdin):
            raise AssertionError(f"unexpected command: {argv}; the script has {expected}")
        return expected

    def assert_done(self) -> None:
        """Fail if the script has calls that were not made."""
        assert not self._script, f"commands that were expected and not run: {self._script}"
