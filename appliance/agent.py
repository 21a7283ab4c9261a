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
from appliance.apply import Journal, Outcome, open_journal, preview
from appliance.contextfile import context_in_force, gather_context, keep_context
from appliance.daemon import Cycle
from appliance.decision import BASE, Decided, decide, parse_base, read_services, with_service
from appliance.errors import OnekeError, UnknownRole
from appliance.identify import connect, find_role
from appliance.identity import Identity, keep_identity, read_identity
from appliance.logs import Logger
from appliance.options import Options
from appliance.plan import Stage
from appliance.report import WAITING, Reporter
from appliance.role import PatientTask, Task, TaskResult
from appliance.stageloop import Lookout, StageRun
from appliance.system import System
from appliance.waiting import Deadline, Failed, Readiness, Ready, hold_lock, wait_until

_PREREQUISITES_TIMEOUT_S = 120


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
        outcome = StageRun(system, lookout, stage, journal, reporter, log).run()
        log.info("stage.ended", stage=stage.value, changed=len(outcome.changes))
        outcomes.append(outcome)
    waited_s = _wait_until_ready(system, decided, lookout, reporter, log)
    return RunResult(decided.role_name, tuple(outcomes), decided.warnings, Ready(), waited_s)


def _wait_for_prerequisites(
    system: System, lookout: Lookout, reporter: Reporter, log: Logger
) -> None:
    wait_until(
        "what this node builds upon",
        lookout.prerequisites,
        Deadline.after(system.clock, _PREREQUISITES_TIMEOUT_S),
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
