"""What can go wrong, as types, each with the exit status the service manager acts upon.

OnekeError
    ContextError            78  what was read is no context, or none was found
    ParameterProblems       78  one or more parameters are wrong; every problem at once
    ServiceDefinitionError  78  a drop-in under service.d is not well formed
    ConfigurationRefused    78  a daemon refuses what the parameters lead to
    UnknownRole             78  this VM has a role that no handler exists for
    UpgradeRefused          78  a cluster must not go to another release the way it was asked for
    RenderError             70  a template names what its model does not have
    CommandError            75  a command failed or took too long
    UnitFailed              75  a systemd unit did not start or reload
    FileError               75  a file could not be read or written (NotText: no UTF-8 text)
    SocketError             75  a daemon's control socket does not answer
    NotReady                75  a deadline passed; says what was waited for
    StillDifferent          75  an action was carried out and its effect is not there
    AlreadyRunning          75  another run holds the lock
    LockFileError           78  the lock file of artifacts is not well formed, or lacks a sum
    ArtifactRefused         78  a server has no such artifact, or gives another one than is pinned
    ArtifactUnavailable     75  a server does not give a whole artifact now
    SeveralErrors       78, 75  more than one of these, all found before they were told
    RequestError            75  somebody who was asked over HTTP did not do it
        OneGateError        75  OneGateUnavailable, -Refused, -Passing, -Malformed
        KubernetesError     75  KubernetesUnavailable, -Refused, -Conflict, -Malformed

Exit statuses are those of sysexits.h: 78 configuration (a person must act), 75 temporary (worth
another try), 70 an internal error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EXIT_INTERNAL = 70
EXIT_TEMPORARY = 75
EXIT_CONFIGURATION = 78


class OnekeError(Exception):
    """The root of all errors the agent reports in words of its own.

    Attributes:
        hint: What the reader can do about it, or None.
        exit_code: The exit status of a command that ends with it.
    """

    exit_code = EXIT_INTERNAL

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep a one-line message and an optional hint."""
        super().__init__(message)
        self.hint = hint


class ContextError(OnekeError):
    """The VM's context was not found or is not a context."""

    exit_code = EXIT_CONFIGURATION


class ServiceDefinitionError(OnekeError):
    """A file under service.d does not have the form a drop-in must have."""

    exit_code = EXIT_CONFIGURATION


class UnknownRole(OnekeError):
    """The VM's role has no handler, or no role could be found out."""

    exit_code = EXIT_CONFIGURATION


class UpgradeRefused(OnekeError):
    """A cluster must not go to another release the way it was asked for.

    Attributes:
        reasons: Each of them.
    """

    exit_code = EXIT_CONFIGURATION

    def __init__(self, reasons: Sequence[str]) -> None:
        """Keep the reasons."""
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons), hint="nothing was changed")


class RenderError(OnekeError):
    """A template could not be rendered from its model."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one parameter.

    Attributes:
        key: The context key as it was written, an alias if an alias was used.
        found: The value as found, already masked where it is secret; None if the key is missing.
        accepted: What would have been accepted, or what is wrong and why.
        source: Where the value came from, such as a file.
        depends_on: Other keys, or families of keys, this finding rests on. If one of them is wrong
            itself, this is only a consequence.
    """

    key: str
    found: str | None
    accepted: str
    source: str = "VM context"
    depends_on: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in one line: key, value, what is accepted, where it came from."""
        value = "" if self.found is None else f"={self.found}"
        return f"{self.key}{value}: {self.accepted} ({self.source})"


class ParameterProblems(OnekeError):
    """All that is wrong with the parameters, found before anything was changed."""

    exit_code = EXIT_CONFIGURATION

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep the problems in the order of their keys."""
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.key, problem.accepted)))
        count = len(self.problems)
        lines = "; ".join(str(problem) for problem in self.problems)
        super().__init__(
            f"{count} parameter{'s are' if count != 1 else ' is'} wrong: {lines}",
            hint=(
                "correct the VM template or the service's attributes; nothing was changed on this"
                " machine"
            ),
        )


class ConfigurationRefused(OnekeError):
    """A daemon, asked beforehand, refuses the configuration that the parameters lead to."""

    exit_code = EXIT_CONFIGURATION


class CommandError(OnekeError):
    """A command could not be started, failed, or took longer than it may.

    Attributes:
        argv: The command; it never holds a secret.
        rc: Its exit status, or None if it did not end by itself.
        stdout: The end of what it printed.
        stderr: The end of what it complained of.
    """

    exit_code = EXIT_TEMPORARY

    def __init__(
        self, argv: Sequence[str], rc: int | None, stdout: str, stderr: str, reason: str
    ) -> None:
        """Keep the facts; the message is made of the command, the reason and its last line."""
        self.argv = tuple(argv)
        self.rc = rc
        self.stdout = stdout
        self.stderr = stderr
        said = (stderr.strip() or stdout.strip()).splitlines()
        tail = f": {said[-1].strip()}" if said else ""
        super().__init__(f"{' '.join(self.argv)}: {reason}{tail}")


class UnitFailed(OnekeError):
    """A systemd unit did not start or reload; the message holds what it said itself."""

    exit_code = EXIT_TEMPORARY


class FileError(OnekeError):
    """A file could not be read or written, for a reason that may pass (a full disk)."""

    exit_code = EXIT_TEMPORARY


class NotText(FileError):
    """A file holds bytes that are no UTF-8 text, as after a disk error."""


class SocketError(OnekeError):
    """A daemon's control socket is not there or does not answer."""

    exit_code = EXIT_TEMPORARY


class NotReady(OnekeError):
    """A deadline passed, or it became certain that waiting on is of no use.

    Attributes:
        what: What was waited for.
        reason: The last state seen.
        elapsed_s: How long it was waited.
        attempts: How often it was looked.
    """

    exit_code = EXIT_TEMPORARY

    def __init__(
        self, what: str, reason: str, *, elapsed_s: float, attempts: int, final: bool = False
    ) -> None:
        """Keep the facts of the wait."""
        self.what = what
        self.reason = reason
        self.elapsed_s = elapsed_s
        self.attempts = attempts
        ended = "gave up waiting for" if final else "time ran out waiting for"
        # The cause comes first: OneGate and consoles show the beginning of long texts.
        super().__init__(f"{reason} ({ended} {what} after {elapsed_s:.0f} s and {attempts} tries)")


class StillDifferent(OnekeError):
    """An action was carried out without error, yet what it should bring about is not there."""

    exit_code = EXIT_TEMPORARY


class AlreadyRunning(OnekeError):
    """Another run of the agent is changing this machine."""

    exit_code = EXIT_TEMPORARY


class LockFileError(OnekeError):
    """The lock file of artifacts can not be used as it is."""

    exit_code = EXIT_CONFIGURATION


class ArtifactRefused(OnekeError):
    """A server has no such artifact, or what it gives is not the one that is pinned."""

    exit_code = EXIT_CONFIGURATION


class ArtifactUnavailable(OnekeError):
    """A server does not give a whole artifact; what came of it is kept for another try."""

    exit_code = EXIT_TEMPORARY


class SeveralErrors(OnekeError):
    """More than one thing is wrong; a person must act if that is so of any of them.

    Attributes:
        errors: Each of them, in the order of what they are about.
    """

    def __init__(self, errors: Sequence[OnekeError]) -> None:
        """Keep them."""
        self.errors = tuple(errors)
        self.exit_code = max(error.exit_code for error in self.errors)
        super().__init__(f"{len(self.errors)} errors: {'; '.join(map(str, self.errors))}")


def raise_all(errors: Sequence[OnekeError]) -> None:
    """Raise one error as it is, and several as one; nothing where there is none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SeveralErrors(errors)


class RequestError(OnekeError):
    """Somebody who was asked over HTTP did not do it.

    Attributes:
        status: The HTTP status, or None if there was no answer.
        retryable: Whether the same request may succeed later.
    """

    exit_code = EXIT_TEMPORARY
    retryable = False

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        """Keep the status beside the message."""
        super().__init__(message, hint=hint)
        self.status = status


class OneGateError(RequestError):
    """OneGate did not do what was asked."""


class OneGateUnavailable(OneGateError):
    """No answer: refused connection, time-out, broken transfer, TLS that does not verify."""

    retryable = True


class OneGateRefused(OneGateError):
    """OneGate answered that it will not do this; asking again unchanged is of no use."""


class OneGatePassing(OneGateError):
    """A 401 or 404 that may also mean that oned or OneFlow is down, or a 5xx of a gateway.

    Source: recordings of OpenNebula 6.4 and 7.4: every request is a 401 while oned is down, every
    request about the service or a peer is a 404 while OneFlow is down.
    """

    retryable = True


class OneGateMalformed(OneGateError):
    """The answer is not what OneGate sends: not JSON, cut short, or of another shape."""

    retryable = True


class KubernetesError(RequestError):
    """The cluster's API server did not do what was asked."""


class KubernetesUnavailable(KubernetesError):
    """No answer, one that says it can not be given now, or no certificates to ask with yet."""

    retryable = True


class KubernetesRefused(KubernetesError):
    """The server answered that it will not do this for who asks."""


class KubernetesConflict(KubernetesRefused):
    """What was to be changed is not any more what it was when it was read."""


class KubernetesMalformed(KubernetesError):
    """The answer is not what the server sends: not JSON, cut short, or of another shape."""

    retryable = True
