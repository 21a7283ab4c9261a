"""Plans: what should be, in order, as a value; and how a difference is shown to a person."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import Protocol

from appliance.system import System

_MOST_DIFF_LINES = 200


class Stage(Enum):
    """When something is done.

    Attributes:
        INSTALL: At image build.
        CONFIGURE: At every boot, local state only.
        BOOTSTRAP: At every boot, what needs siblings.
    """

    INSTALL = "install"
    CONFIGURE = "configure"
    BOOTSTRAP = "bootstrap"


@dataclass(frozen=True)
class Change:
    """One difference between what is and what should be.

    Attributes:
        summary: What will be done, in one line.
        detail: More lines, such as a diff; never a secret.
        paths: The files it changes, for actions that follow from them.
    """

    summary: str
    detail: str = ""
    paths: tuple[PurePosixPath, ...] = ()


class Action(Protocol):
    """One effect: it can tell what it would change, and change it."""

    @property
    def name(self) -> str:
        """What it is about, unique in a plan."""

    def preflight(self, system: System) -> None:
        """Have what is to come judged before anything is changed.

        Raises:
            ConfigurationRefused: It would not be accepted.
        """

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare what is with what should be.

        Args:
            system: The machine; it is only looked at.
            pending: Files that earlier actions of the plan are about to change (in a dry run).
        """

    def apply(self, system: System) -> None:
        """Bring about what should be."""


@dataclass(frozen=True)
class Pause:
    """What has to happen elsewhere before the next decision can be made.

    Attributes:
        what: To complete "waiting for ..."; it stays the same while the same thing is waited for.
        reason: What is missing right now.
        timeout_s: How long this may take in all.
    """

    what: str
    reason: str
    timeout_s: float


@dataclass(frozen=True)
class GiveUp:
    """Why it is of no use to go on, and what a person can do about it."""

    what: str
    reason: str
    hint: str | None = None


@dataclass(frozen=True)
class Plan:
    """The actions of one stage, in order.

    Attributes:
        then: What follows on them: None where the stage is done then, a pause where a new plan is
            to be made when something has happened elsewhere.
    """

    stage: Stage
    actions: tuple[Action, ...] = ()
    then: Pause | GiveUp | None = None


@dataclass(frozen=True)
class Step:
    """An action of a plan with the difference it found, if any."""

    action: Action
    change: Change | None


def diff_texts(old: str | None, new: str) -> str:
    """Return a unified diff without file headers, cut where it gets long."""
    lines = list(
        difflib.unified_diff((old or "").splitlines(), new.splitlines(), lineterm="", n=2)
    )[2:]
    if len(lines) > _MOST_DIFF_LINES:
        rest = len(lines) - _MOST_DIFF_LINES
        lines = [*lines[:_MOST_DIFF_LINES], f"... and {rest} more lines"]
    return "\n".join(lines)


def describe(steps: Iterable[Step], *, unchanged: bool = True) -> Iterator[str]:
    """Yield the lines that show a plan to a person: `~` a change, `=` what is so already."""
    for step in steps:
        if step.change is not None:
            yield f"~ {step.action.name}: {step.change.summary}"
            yield from (f"    {line}" for line in step.change.detail.splitlines())
        elif unchanged:
            yield f"= {step.action.name}"
