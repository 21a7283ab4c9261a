"""What a role is to the framework: it reads parameters and facts, decides, does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from appliance.daemon import Cycle
from appliance.errors import Problem
from appliance.facts import Facts, FactsWanted
from appliance.logs import Logger
from appliance.plan import Plan, Stage
from appliance.report import Reporter
from appliance.service import Service
from appliance.system import System
from appliance.waiting import Deadline, Readiness

P = TypeVar("P")


@dataclass(frozen=True)
class Findings:
    """What is wrong or doubtful about parameters that are well formed each by itself."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class StatusLine:
    """One line of `status`: a subject and what is so.

    Attributes:
        is_well: Whether it is as it should be.
        is_vital: Whether the node is not ready while it is not well.
    """

    subject: str
    state: str
    is_well: bool = True
    is_vital: bool = True


@dataclass(frozen=True)
class TaskLine:
    """One thing that a task looked at, what became of it, and why.

    Attributes:
        verdict: In one word.
        hint: What a person can do about it; empty where nothing needs to be done.
        is_usual: Whether it is as it should be, so that nothing need be told.
    """

    subject: str
    verdict: str
    reason: str
    hint: str = ""
    is_usual: bool = False


@dataclass(frozen=True)
class TaskResult:
    """What a task did.

    Attributes:
        trouble: Why it could not do all of its work and is worth another try; empty where it did.
        document: What it made, to be used elsewhere; empty where that is not its work.
    """

    lines: tuple[TaskLine, ...]
    trouble: str = ""
    document: str = ""


class Task(Protocol):
    """Work of a role that is done when it is asked for."""

    def run(self, *, dry_run: bool) -> TaskResult:
        """Do it, or only find out what that would do.

        Raises:
            OnekeError: It can not be done here, or not now.
        """


@runtime_checkable
class PatientTask(Task, Protocol):
    """A task that takes its turn while it is being done already."""

    @property
    def deadline(self) -> Deadline:
        """Up to when it works, and waits before it does."""


class Role(Protocol[P]):
    """A role of the service.

    Attributes:
        params_type: The typed view of its parameters: a frozen dataclass with a field per drop-in
            it uses.
        ready_timeout_s: How long it may take from the last action until it is ready.
        sibling_roles: The roles whose VMs it looks at in OneGate.
    """

    params_type: type[P]
    ready_timeout_s: float
    sibling_roles: tuple[str, ...]

    def __init__(self, services: Mapping[str, Service]) -> None:
        """Keep the drop-ins, whose templates it renders."""

    def check(self, params: P) -> Findings:
        """Find what does not fit together. Pure."""

    def facts_wanted(self, params: P) -> FactsWanted:
        """Name the facts that plan, readiness and status need. Pure."""

    def plan(self, stage: Stage, params: P, facts: Facts) -> Plan:
        """Decide what should be.

        Pure: the same input gives the same plan.
        """

    def readiness(self, params: P, facts: Facts) -> Readiness:
        """Say whether the node does its job. Pure."""

    def status(self, params: P, facts: Facts) -> tuple[StatusLine, ...]:
        """Describe the node for a person. Pure."""

    def prerequisites(self, params: P, facts: Facts) -> Readiness:
        """Say whether others did what this role builds upon, such as addresses. Pure."""

    def make_cycle(
        self, daemon: str, system: System, params: P, reporter: Reporter, log: Logger
    ) -> Cycle:
        """Return the work of one of the role's daemons.

        Raises:
            UnknownRole: The role has no daemon of this name, or its parameters switch it off.
        """

    def make_task(
        self,
        name: str,
        system: System,
        params: P,
        reporter: Reporter,
        log: Logger,
        argument: str = "",
    ) -> Task:
        """Return one of the role's tasks.

        Args:
            name: Of the task.
            system: The machine.
            params: What its context says.
            reporter: Tells OneGate and the console.
            log: Where data goes.
            argument: What the task is told besides, such as a version.

        Raises:
            UnknownRole: The role has no task of this name.
        """


AnyRole = Role[Any]
