"""The run, readable from top to bottom.

context -> parameters -> facts -> role.plan(stage) -> plan -> (print | apply) -> wait until ready ->
report
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from appliance import __version__, paths
from appliance.apply import Journal, Outcome, apply, open_journal, preflight, preview
from appliance.context import Context
from appliance.contextfile import gather_context
from appliance.daemon import Cycle
from appliance.errors import (
    OneGateError,
    OnekeError,
    ParameterProblems,
    Problem,
    UnknownRole,
)
from appliance.facts import Facts, gather_facts
from appliance.firstroute import build_first_route
from appliance.identity import Identity, keep_identity, read_identity
from appliance.logs import Logger
from appliance.parameters import (
    ParsedParameters,
    build_view,
    compile_name,
    find_near_misses,
    parse_parameters,
)
from appliance.plan import Plan, Stage
from appliance.registry import make_role
from appliance.report import CONFIGURING, WAITING, Reporter
from appliance.role import AnyRole
from appliance.secret import Secret
from appliance.service import Service, all_names, find_legacy_mark, load_services
from appliance.system import System
from appliance.system.onegate import Vm
from appliance.waiting import (
    Deadline,
    Failed,
    Readiness,
    Ready,
    hold_lock,
    retry,
    wait_until,
)

_IDENTITY_TIMEOUT_S = 600
_DRY_IDENTITY_TIMEOUT_S = 20
_READY_EVERY_S = 0.5
_PREREQUISITES_TIMEOUT_S = 120
_CHANGE_LOCK_TIMEOUT_S = 60
_BASE = "opennebula"
_CA_FILE = paths.RUN_DIR / "onegate-ca.pem"


@dataclass(frozen=True)
class Options:
    """What the caller asks for.

    Attributes:
        role: The role, where OneGate is not to be asked.
        context_path: The context, where it is not the VM's own.
        service_folders: Where drop-ins are, the one that wins first.
    """

    role: str | None = None
    context_path: PurePosixPath | None = None
    dry_run: bool = False
    service_folders: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Decided:
    """Parameters that were found sound, with the role that reads them."""

    role_name: str
    role: AnyRole
    params: Any
    warnings: tuple[str, ...]


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


def read_services(options: Options) -> dict[str, Service]:
    """Read the drop-ins, the administrator's winning over the packaged ones."""
    folders = options.service_folders or (
        Path(paths.ADMINISTRATOR_SERVICES),
        paths.packaged_services(),
    )
    return load_services(folders)


def decide(role_name: str, context: Context, services: Mapping[str, Service]) -> Decided:
    """Parse and check every parameter of a role.

    Raises:
        ParameterProblems: All that is wrong, at once.
        UnknownRole: No handler exists for the role.
    """
    role = make_role(role_name, services)
    parsed, legacy = parse_for_role(role_name, context, services)
    used = {field.name: parsed.values[field.name] for field in fields(role.params_type)}
    params = build_view(role.params_type, used)
    findings = role.check(params)
    problems = parsed.problems + tuple(
        problem for problem in findings.problems if not is_consequence(problem, parsed.bad_keys)
    )
    if problems:
        raise ParameterProblems([replace(one, source=context.source) for one in problems])
    generation = (
        (
            (
                f"{legacy} marks a template of the 1.24 generation: what it leaves unset means what"
                " it meant then"
            ),
        )
        if legacy
        else ()
    )
    near = find_near_misses(all_names(services.values()), context)
    warnings = (*context.warnings, *generation, *parsed.warnings, *near, *findings.warnings)
    return Decided(role_name, role, params, warnings)


def is_consequence(problem: Problem, bad_keys: frozenset[str]) -> bool:
    """Say whether a finding only follows from a key that is wrong itself."""
    rests_on = [compile_name(name) for name in (problem.key, *problem.depends_on)]
    return any(name.match(key) for name in rests_on for key in bad_keys)


def parse_for_role(
    role_name: str | None, context: Context, services: Mapping[str, Service]
) -> tuple[ParsedParameters, str | None]:
    """Parse the parameters of every drop-in the role uses.

    Returns:
        The parameters, and the key that marks a template of the 1.24 generation, if any.
    """
    legacy = find_legacy_mark(services.values(), context, role_name)
    entries = {
        name: service.entries
        for name, service in services.items()
        if role_name is None or not service.roles or role_name in service.roles
    }
    return parse_parameters(entries, context, legacy=legacy is not None, role=role_name), legacy


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
        parsed = _parse_base(context, services)
        base: Mapping[str, Any] = parsed.values[_BASE]
        log = log.bind(vm_id=base["vm_id"])
        system = connect(system, base, log, keep_certificates=not options.dry_run)
        identity = read_identity(system, base["vm_id"])
        identity = _find_role(system, options, context, identity, parsed.problems, log, tell)
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
    reporter = Reporter(system, identity, role_name, log, tell)
    journal, cut_in = open_journal(system, uuid.uuid4().hex[:12])
    if cut_in:
        log.warning("run.resumed", reason=f"the run before was cut: {cut_in}")
    journal.record("run.start", role=role_name, version=__version__, cut=cut_in)
    try:
        _wait_for_prerequisites(system, decided, reporter, log)
        result = _converge(system, decided, journal, reporter, log)
        reporter.ready(report_ready=bool(base["report_ready"]))
    except OnekeError as error:
        reporter.failed(str(error))
        journal.record("run.end", state="FAILED", error=str(error))
        raise
    journal.record("run.end", state="READY", changes=result.changes)
    log.info("run.ended", changed=result.changes, waited_s=round(result.waited_s or 0, 1))
    return result


def _parse_base(context: Context, services: Mapping[str, Service]) -> ParsedParameters:
    """Parse what tells who this VM is and where OneGate is.

    Problems come up again with all others, once the role is known.
    """
    return parse_parameters({_BASE: services[_BASE].entries}, context, legacy=False)


def connect(
    system: System, base: Mapping[str, Any], log: Logger, *, keep_certificates: bool = True
) -> System:
    """Give the system its OneGate, where the context tells of one."""
    endpoint, vm_id, token = base["onegate_endpoint"], base["vm_id"], base["onegate_token"]
    if (
        system.onegate is not None
        or endpoint is None
        or vm_id is None
        or not isinstance(token, Secret)
    ):
        return system
    from appliance.system.onegatehttp import HttpOneGate  # requests takes 0.1 s to import

    verify: bool | str = True
    certificates = base["onegate_ca"]
    if not base["onegate_tls_verify"]:
        verify = False
        log.warning(
            "onegate.unverified", reason="ONEAPP_ONEGATE_TLS_VERIFY=NO: anyone can play OneGate"
        )
    elif certificates and certificates.startswith("/"):
        verify = system.files.real(PurePosixPath(certificates))
    elif certificates and keep_certificates:
        system.files.write(_CA_FILE, certificates)
        verify = system.files.real(_CA_FILE)
    return replace(system, onegate=HttpOneGate(endpoint, vm_id, token, verify=verify))


def _find_role(
    system: System,
    options: Options,
    context: Context,
    identity: Identity,
    problems: Sequence[Problem],
    log: Logger,
    tell: Callable[[str], None],
) -> Identity:
    """Return role and service: as asked for, as known since an earlier boot, or from OneGate."""
    if options.role is not None:
        return _with_known_service(replace(identity, role=options.role), context, system, log)
    if identity.role is not None:
        return identity
    onegate = system.onegate
    if onegate is None:
        if problems:
            raise ParameterProblems(problems)
        raise UnknownRole(
            "the role of this VM is unknown: the context has no ONEGATE_ENDPOINT, VMID or token",
            hint=(
                "set TOKEN=YES in the VM template's CONTEXT, or give the role: oneke-agent"
                " configure --role vnf"
            ),
        )
    _ensure_first_route(system, options, context, log)
    timeout_s = _DRY_IDENTITY_TIMEOUT_S if options.dry_run else _IDENTITY_TIMEOUT_S
    deadline = Deadline.after(system.clock, timeout_s)
    # OneGate is what is waited for, so that only the console and the file can be told.
    reporter = Reporter(replace(system, onegate=None), identity, "node", log, tell)

    def report(reason: str) -> None:
        if not options.dry_run:
            reporter.progress(WAITING, f"OneGate to tell this VM's role: {reason}")

    what = "asking OneGate for this VM's role"
    vm = retry(what, onegate.own_vm, deadline, log=log, on_reason=report)
    role_name = vm.text("ROLE_NAME")
    if role_name is None:
        raise UnknownRole(
            f"OneGate knows no ROLE_NAME of VM {vm.vm_id}: it is in no OneFlow service",
            hint="give the role: oneke-agent configure --role vnf",
        )
    return replace(identity, role=role_name, service_id=_service_of(vm))


def _service_of(vm: Vm) -> int | None:
    text = vm.text("SERVICE_ID") or ""
    return int(text) if text.isdecimal() else None


def _with_known_service(
    identity: Identity, context: Context, system: System, log: Logger
) -> Identity:
    """Ask once for the service where neither context nor memory tells it.

    Siblings derive common values from it, such as the router id of a gateway pair.
    """
    onegate = system.onegate
    if identity.service_id is not None or context.get("SERVICE_ID") or onegate is None:
        return identity
    try:
        return replace(identity, service_id=_service_of(onegate.own_vm()))
    except OneGateError as error:
        log.warning("service.unknown", reason=str(error))
        return identity


def with_service(context: Context, identity: Identity) -> Context:
    """Add the service's id to a context that lacks it."""
    if identity.service_id is None or context.get("SERVICE_ID"):
        return context
    values = {**context.values, "SERVICE_ID": str(identity.service_id)}
    return replace(context, values=values)


def _ensure_first_route(system: System, options: Options, context: Context, log: Logger) -> None:
    route = build_first_route(context, system.network.links())
    if route is None or route.check(system, frozenset()) is None or options.dry_run:
        return
    route.apply(system)
    log.info("route.set", gateway=str(route.gateway), link=route.link, reason="the way to OneGate")


def _plan(system: System, decided: Decided, stage: Stage) -> Plan:
    plan: Plan = decided.role.plan(stage, decided.params, _facts(system, decided))
    return plan


def _facts(system: System, decided: Decided) -> Facts:
    return gather_facts(system, decided.role.facts_wanted(decided.params))


def look(system: System, decided: Decided) -> Readiness:
    """Say how ready the node is right now."""
    readiness: Readiness = decided.role.readiness(decided.params, _facts(system, decided))
    return readiness


def _preview_run(system: System, decided: Decided) -> RunResult:
    stages = (Stage.CONFIGURE, Stage.BOOTSTRAP)
    outcomes = tuple(preview(_plan(system, decided, stage), system) for stage in stages)
    readiness = look(system, decided)
    return RunResult(decided.role_name, outcomes, decided.warnings, readiness, None)


def _converge(
    system: System, decided: Decided, journal: Journal, reporter: Reporter, log: Logger
) -> RunResult:
    outcomes = []
    for stage in (Stage.CONFIGURE, Stage.BOOTSTRAP):
        # A daemon that changes the same things holds the lock while it does.
        deadline = Deadline.after(system.clock, _CHANGE_LOCK_TIMEOUT_S)
        with hold_lock(system, paths.CHANGE_LOCK, deadline):
            plan = _plan(system, decided, stage)
            differing = [step.action for step in preview(plan, system).steps if step.change]
            if differing:
                preflight(differing, system)
                step = f"{stage.value}: {len(differing)} of {len(plan.actions)} to do"
                reporter.progress(CONFIGURING, step)
            outcome = apply(plan, system, journal, log.bind(stage=stage.value))
        log.info("stage.ended", stage=stage.value, changed=len(outcome.changes))
        outcomes.append(outcome)
    waited_s = _wait_until_ready(system, decided, reporter, log)
    return RunResult(decided.role_name, tuple(outcomes), decided.warnings, Ready(), waited_s)


def _wait_for_prerequisites(
    system: System, decided: Decided, reporter: Reporter, log: Logger
) -> None:
    wait_until(
        "what this node builds upon",
        lambda: decided.role.prerequisites(decided.params, _facts(system, decided)),
        Deadline.after(system.clock, _PREREQUISITES_TIMEOUT_S),
        every_s=_READY_EVERY_S,
        log=log,
        on_reason=lambda reason: reporter.progress(WAITING, reason),
    )


def _wait_until_ready(system: System, decided: Decided, reporter: Reporter, log: Logger) -> float:
    return wait_until(
        f"the {decided.role_name} node to be ready",
        lambda: look(system, decided),
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
    services = read_services(options)
    context = gather_context(system, options.context_path)
    base: Mapping[str, Any] = _parse_base(context, services).values[_BASE]
    identity = read_identity(system, base["vm_id"])
    role_name = options.role or identity.role
    if role_name is None:
        raise UnknownRole(
            "the role of this VM is not known yet", hint="oneke-agent configure finds it out"
        )
    decided = decide(role_name, with_service(context, identity), services)
    log = log.bind(vm_id=base["vm_id"], role=role_name)
    system = connect(system, base, log)
    reporter = Reporter(system, identity, role_name, log, lambda line: None)
    cycle: Cycle = decided.role.make_cycle(daemon, system, decided.params, reporter, log)
    return cycle


def read_identity_of(system: System, context: Context, services: Mapping[str, Service]) -> Identity:
    """Return what is kept about the VM that the context belongs to."""
    vm_id = _parse_base(context, services).values[_BASE]["vm_id"]
    return read_identity(system, vm_id if isinstance(vm_id, int) else None)


def describe_readiness(readiness: Readiness) -> str:
    """Say in words how ready a node is."""
    if isinstance(readiness, Ready):
        return "ready"
    return f"{'failed' if isinstance(readiness, Failed) else 'not yet'}: {readiness.reason}"
