"""The run, readable from top to bottom.

context -> parameters -> facts -> role.plan(stage) -> plan -> (print | apply) -> wait until ready ->
report
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance import __version__, paths
from appliance.apply import Journal, Outcome, apply, open_journal, preflight, preview
from appliance.contextfile import context_in_force, gather_context, keep_context
from appliance.daemon import Cycle
from appliance.decision import BASE, Decided, decide, parse_base, read_services, with_service
from appliance.errors import (
    NotReady,
    OneGateError,
    OnekeError,
    StillDifferent,
    UnknownRole,
)
from appliance.facts import Facts, gather_facts, look_outside
from appliance.identify import connect, find_role
from appliance.identity import Identity, keep_identity, read_identity
from appliance.logs import Logger
from appliance.options import Options
from appliance.plan import Action, GiveUp, Pause, Plan, Stage, Step
from appliance.report import CONFIGURING, WAITING, Reporter
from appliance.role import PatientTask, Task, TaskResult
from appliance.siblings import SiblingWatch
from appliance.system import System
from appliance.waiting import (
    Deadline,
    Failed,
    Readiness,
    Ready,
    hold_lock,
    wait_until,
)

_READY_EVERY_S = 0.25
_AFTER_CHANGE_S = 0.1
_SHORTEST_PAUSE_S = 0.05
# A snapshot this old is looked at again without a new one, unless something was changed since.
_FRESH_S = 0.2
_MOST_ROUNDS_ON_END = 50
_ONEGATE_TIMEOUT_S = 900
_ONEGATE_LONGEST_PAUSE_S = 15.0
_ONEGATE = "OneGate to answer"
_PREREQUISITES_TIMEOUT_S = 120
_CHANGE_LOCK_TIMEOUT_S = 60


@dataclass(frozen=True)
class RunResult:
    """What a run did, or in a dry run would do.

    Attributes:
        waited_s: How long it took from the last action to being ready; None in a dry run.
    """

    role: str
    outcomes: tuple[Outcome, ...]
    warnings: tuple[str, ...]
    readiness: Readiness
    waited_s: float | None

    @property
    def changes(self) -> int:
        """How many actions changed something, or would."""
        return sum(len(outcome.changes) for outcome in self.outcomes)


def run(system: System, options: Options, log: Logger, tell: Callable[[str], None]) -> RunResult:
    """Converge this machine, or find out what that would change.

    Args:
        system: The machine.
        options: What is asked for.
        log: Where data goes.
        tell: Where lines for people go, such as the console.

    Raises:
        OnekeError: What ended the run; it was reported to OneGate and the console as far as they
            were there.
    """
    if options.dry_run:
        return _run_locked(system, options, log, tell)
    system.files.ensure_folder(paths.RUN_DIR, mode=0o700)
    with system.files.lock(paths.LOCK):
        return _run_locked(system, options, log, tell)


def _run_locked(
    system: System, options: Options, log: Logger, tell: Callable[[str], None]
) -> RunResult:
    identity, known_as = Identity(), options.role or "node"
    try:
        services = read_services(options)
        context = gather_context(system, options.context_path)
        parsed = parse_base(context, services)
        base: Mapping[str, Any] = parsed.values[BASE]
        log = log.bind(vm_id=base["vm_id"])
        system = connect(system, base, log, keep_certificates=not options.dry_run)
        identity = read_identity(system, base["vm_id"])
        identity = find_role(system, options, context, identity, parsed.problems, log, tell)
        role_name = known_as = identity.role or known_as
        decided = decide(role_name, with_service(context, identity), services)
    except OnekeError as error:
        if not options.dry_run:
            # A role without a handler or sound parameters is not kept, but asked for again.
            kept = read_identity(system, identity.vm_id)
            Reporter(system, kept, known_as, log, tell).failed(str(error))
        raise
    log = log.bind(role=role_name)
    for warning in decided.warnings:
        log.warning("context.warning", reason=warning)
    if options.dry_run:
        return _preview_run(system, decided)
    keep_identity(system, identity)
    keep_context(system, context)
    reporter = Reporter(system, identity, role_name, log, tell)
    journal, cut_in = open_journal(system, uuid.uuid4().hex[:12])
    if cut_in:
        log.warning("run.resumed", reason=f"the run before was cut: {cut_in}")
    journal.record("run.start", role=role_name, version=__version__, cut=cut_in)
    try:
        lookout = Lookout(system, decided)
        _wait_for_prerequisites(system, lookout, reporter, log)
        result = _converge(system, decided, lookout, journal, reporter, log)
        reporter.ready(report_ready=bool(base["report_ready"]))
    except OnekeError as error:
        reporter.failed(str(error))
        journal.record("run.end", state="FAILED", error=str(error))
        raise
    except Exception as error:
        # A bug must not leave a node that says nothing; what it is goes to the log alone, for its
        # text may hold anything.
        bug = f"a bug in the agent ({type(error).__name__}): journalctl -u oneke-agent"
        reporter.failed(bug)
        journal.record("run.end", state="FAILED", error=bug)
        raise
    journal.record("run.end", state="READY", changes=result.changes)
    log.info("run.ended", changed=result.changes, waited_s=round(result.waited_s or 0, 1))
    return result


class Lookout:
    """Looks at the machine and, at OneGate's pace, at the service, for as long as a run takes."""

    def __init__(self, system: System, decided: Decided) -> None:
        """Look for one role."""
        self._system = system
        self._decided = decided
        vm_id = decided.params.opennebula.vm_id
        self._watch = SiblingWatch(system, vm_id, decided.role.sibling_roles)
        self._last: Facts | None = None
        self._fresh_until = 0.0

    def facts(self, *, outside: bool = False) -> Facts:
        """Return what is so now, here and, where that matters, outside."""
        wanted = self._decided.role.facts_wanted(self._decided.params)
        clock = self._system.clock
        facts = self._last
        if facts is None or clock.monotonic() >= self._fresh_until:
            facts = gather_facts(self._system, wanted, known=facts.seen if facts else None)
            self._fresh_until = clock.monotonic() + _FRESH_S
        if outside:
            siblings = self._watch.look() if wanted.siblings else None
            facts = look_outside(self._system, wanted, facts, siblings)
        self._last = facts
        return facts

    @property
    def next_look_s(self) -> float:
        """How long it is until others are asked again."""
        return self._watch.due_in_s

    def has_changed(self) -> None:
        """Look at this machine anew next time: something was just done to it."""
        self._fresh_until = 0.0

    @property
    def has_outside(self) -> bool:
        """Whether the role looks at other machines at all."""
        wanted = self._decided.role.facts_wanted(self._decided.params)
        return wanted.siblings or bool(wanted.outside)

    def plan(self, stage: Stage, *, outside: bool) -> Plan:
        """Return what the role decides now."""
        facts = self.facts(outside=outside)
        plan: Plan = self._decided.role.plan(stage, self._decided.params, facts)
        return plan

    def readiness(self) -> Readiness:
        """Say how ready the node is right now."""
        facts = self.facts()
        readiness: Readiness = self._decided.role.readiness(self._decided.params, facts)
        return readiness

    def prerequisites(self) -> Readiness:
        """Say whether others did what the role builds upon."""
        facts = self.facts()
        readiness: Readiness = self._decided.role.prerequisites(self._decided.params, facts)
        return readiness

    def has_published(self) -> None:
        """Look at the service anew next time: this node has just told it something."""
        self._watch.forget()


def _preview_run(system: System, decided: Decided) -> RunResult:
    stages = (Stage.CONFIGURE, Stage.BOOTSTRAP)
    lookout = Lookout(system, decided)
    outcomes = tuple(
        preview(lookout.plan(stage, outside=stage is Stage.BOOTSTRAP), system) for stage in stages
    )
    readiness = lookout.readiness()
    return RunResult(decided.role_name, outcomes, decided.warnings, readiness, None)


def _converge(
    system: System,
    decided: Decided,
    lookout: Lookout,
    journal: Journal,
    reporter: Reporter,
    log: Logger,
) -> RunResult:
    outcomes = []
    for stage in (Stage.CONFIGURE, Stage.BOOTSTRAP):
        outcome = _StageRun(system, lookout, stage, journal, reporter, log).run()
        log.info("stage.ended", stage=stage.value, changed=len(outcome.changes))
        outcomes.append(outcome)
    waited_s = _wait_until_ready(system, decided, lookout, reporter, log)
    return RunResult(decided.role_name, tuple(outcomes), decided.warnings, Ready(), waited_s)


@dataclass
class _Waited:
    """How long something was waited for so far, and how often it was looked."""

    seconds: float = 0.0
    looks: int = 0


class _StageRun:
    """One stage: plan, apply, and where something has to happen elsewhere first, plan anew."""

    def __init__(
        self,
        system: System,
        lookout: Lookout,
        stage: Stage,
        journal: Journal,
        reporter: Reporter,
        log: Logger,
    ) -> None:
        """Run one stage of one role."""
        self._system = system
        self._stage = stage
        self._journal = journal
        self._reporter = reporter
        self._log = log.bind(stage=stage.value)
        self._lookout = lookout
        self._pause: Pause | None = None
        self._told = ("", "")
        self._is_first_round = True
        self._paused_at = 0.0
        # What comes up again goes on where it was: two waits that take turns end as well.
        self._waited: dict[str, _Waited] = {}
        self._failures = 0
        self._changes: list[Step] = []
        self._rounds_on_end = 0

    def run(self) -> Outcome:
        """Go on until the plan says that nothing is left to do or to wait for.

        Raises:
            NotReady: What was waited for did not happen in time, or can not happen any more.
            OnekeError: What an action failed with.
        """
        while True:
            try:
                then, steps = self._round()
            except OneGateError as error:
                if not error.retryable or self._stage is not Stage.BOOTSTRAP:
                    raise
                self._failures += 1
                then, steps = Pause(_ONEGATE, str(error), _ONEGATE_TIMEOUT_S), ()
            else:
                self._failures = 0
                self._waited.pop(_ONEGATE, None)
            changed = [step for step in steps if step.change]
            self._changes += changed
            if then is None:
                unchanged = [step for step in steps if not step.change]
                return Outcome(self._stage, (*self._changes, *unchanged))
            if isinstance(then, GiveUp):
                raise self._not_ready(then.what, then.reason, final=True, hint=then.hint)
            self._wait(then, has_changed=bool(changed))

    def _round(self) -> tuple[Pause | GiveUp | None, tuple[Step, ...]]:
        system = self._system
        # A daemon that changes the same things holds the lock while it does.
        deadline = Deadline.after(system.clock, _CHANGE_LOCK_TIMEOUT_S)
        with hold_lock(system, paths.CHANGE_LOCK, deadline):
            plan, differing = self._plan()
            if differing:
                preflight(differing, system)
                step = f"{self._stage.value}: {len(differing)} of {len(plan.actions)} to do"
                self._reporter.progress(CONFIGURING, step)
                self._lookout.has_published()
            outcome = apply(plan, system, self._journal, self._log)
            if outcome.changes:
                self._lookout.has_changed()
        return plan.then, outcome.steps

    def _plan(self) -> tuple[Plan, list[Action]]:
        """Plan; in the first round what needs nobody else is done before anybody is asked."""
        asks = self._stage is Stage.BOOTSTRAP and self._lookout.has_outside
        if not asks or self._is_first_round:
            self._is_first_round = False
            plan = self._lookout.plan(self._stage, outside=False)
            differing = self._find_differing(plan)
            if differing or not asks:
                return plan, differing
        plan = self._lookout.plan(self._stage, outside=True)
        return plan, self._find_differing(plan)

    def _find_differing(self, plan: Plan) -> list[Action]:
        return [step.action for step in preview(plan, self._system).steps if step.change]

    def _wait(self, pause: Pause, *, has_changed: bool) -> None:
        clock = self._system.clock
        if self._pause is not None and self._pause.what in self._waited:
            self._waited[self._pause.what].seconds += clock.monotonic() - self._paused_at
        waited = self._waited.setdefault(pause.what, _Waited())
        waited.looks += 1
        self._pause, self._paused_at = pause, clock.monotonic()
        # After a change the reason is of the time before it; the next round, at once, knows better.
        if not has_changed and self._told != (pause.what, pause.reason):
            self._told = (pause.what, pause.reason)
            elapsed = round(waited.seconds, 1)
            self._log.info("wait.reason", what=pause.what, reason=pause.reason, elapsed_s=elapsed)
            self._reporter.progress(WAITING, pause.reason)
        if waited.seconds + _READY_EVERY_S >= pause.timeout_s:
            raise self._not_ready(pause.what, pause.reason, final=False)
        self._rounds_on_end = self._rounds_on_end + 1 if has_changed else 0
        if self._rounds_on_end > _MOST_ROUNDS_ON_END:
            raise StillDifferent(
                f"stage {self._stage.value}: finds something to do every time: {pause.reason}"
            )
        clock.sleep(self._pause_s(has_changed=has_changed))

    def _pause_s(self, *, has_changed: bool) -> float:
        if has_changed:
            return _AFTER_CHANGE_S
        if self._failures:
            return min(_READY_EVERY_S * 2.0 ** min(self._failures, 10), _ONEGATE_LONGEST_PAUSE_S)
        due_s = self._lookout.next_look_s or _READY_EVERY_S
        return max(_SHORTEST_PAUSE_S, min(_READY_EVERY_S, due_s))

    def _not_ready(
        self, what: str, reason: str, *, final: bool, hint: str | None = None
    ) -> NotReady:
        waited = self._waited.get(what, _Waited())
        error = NotReady(what, reason, elapsed_s=waited.seconds, attempts=waited.looks, final=final)
        error.hint = hint
        return error


def _wait_for_prerequisites(
    system: System, lookout: Lookout, reporter: Reporter, log: Logger
) -> None:
    wait_until(
        "what this node builds upon",
        lookout.prerequisites,
        Deadline.after(system.clock, _PREREQUISITES_TIMEOUT_S),
        every_s=_READY_EVERY_S,
        log=log,
        on_reason=lambda reason: reporter.progress(WAITING, reason),
    )


def _wait_until_ready(
    system: System, decided: Decided, lookout: Lookout, reporter: Reporter, log: Logger
) -> float:
    return wait_until(
        f"the {decided.role_name} node to be ready",
        lookout.readiness,
        Deadline.after(system.clock, decided.role.ready_timeout_s),
        every_s=_READY_EVERY_S,
        log=log,
        on_reason=lambda reason: reporter.progress(WAITING, reason),
    )


def begin_cycle(system: System, options: Options, daemon: str, log: Logger) -> Cycle:
    """Read context and parameters anew, and return the work of one of the role's daemons.

    Raises:
        OnekeError: They are not sound, or the role is not known.
    """
    system, identity, decided, log = _begin(system, options, log)
    reporter = Reporter(system, identity, decided.role_name, log, lambda line: None)
    cycle: Cycle = decided.role.make_cycle(daemon, system, decided.params, reporter, log)
    return cycle


def begin_task(
    system: System, options: Options, name: str, log: Logger, tell: Callable[[str], None]
) -> Task:
    """Read context and parameters, and return one of the role's tasks.

    Args:
        system: The machine.
        options: What is asked for.
        name: Of the task.
        log: Where data goes.
        tell: Where lines for people go while the task is at work.

    Raises:
        OnekeError: They are not sound, the role is not known, or it has no such task.
    """
    system, identity, decided, log = _begin(system, options, log)
    reporter = Reporter(system, identity, decided.role_name, log, tell)
    task: Task = decided.role.make_task(
        name, system, decided.params, reporter, log, options.argument
    )
    return task


def run_task(
    system: System, options: Options, name: str, log: Logger, tell: Callable[[str], None]
) -> TaskResult:
    """Have one of the role's tasks done, or tell what it would do; see `begin_task`.

    Raises:
        AlreadyRunning: It is being done already, and it does not wait, or not any longer.
    """
    task = begin_task(system, options, name, log, tell)
    if options.dry_run:
        return task.run(dry_run=True)
    system.files.ensure_folder(paths.RUN_DIR, mode=0o700)
    patience = task.deadline if isinstance(task, PatientTask) else Deadline.after(system.clock, 0)
    with hold_lock(system, paths.RUN_DIR / f"{name}.lock", patience):
        return task.run(dry_run=False)


def _begin(
    system: System, options: Options, log: Logger
) -> tuple[System, Identity, Decided, Logger]:
    services = read_services(options)
    context = context_in_force(system, options.context_path)
    base: Mapping[str, Any] = parse_base(context, services).values[BASE]
    identity = read_identity(system, base["vm_id"])
    role_name = options.role or identity.role
    if role_name is None:
        raise UnknownRole(
            "the role of this VM is not known yet", hint="oneke-agent configure finds it out"
        )
    decided = decide(role_name, with_service(context, identity), services)
    log = log.bind(vm_id=base["vm_id"], role=role_name)
    system = connect(system, base, log, longest_s=options.onegate_timeout_s)
    return system, identity, decided, log


def describe_readiness(readiness: Readiness) -> str:
    """Say in words how ready a node is."""
    if isinstance(readiness, Ready):
        return "ready"
    return f"{'failed' if isinstance(readiness, Failed) else 'not yet'}: {readiness.reason}"
