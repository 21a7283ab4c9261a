"""Who this VM is: its OneGate, its role and its service, as asked for, remembered or told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from appliance import paths
from appliance.context import Context
from appliance.decision import BASE, parse_base
from appliance.errors import (
    ConfigurationRefused,
    OneGateError,
    ParameterProblems,
    Problem,
    UnknownRole,
)
from appliance.firstroute import build_first_route
from appliance.identity import Identity, read_identity
from appliance.logs import Logger
from appliance.options import Options
from appliance.report import WAITING, Reporter
from appliance.secret import Secret
from appliance.service import Service
from appliance.system import System
from appliance.system.onegate import Vm
from appliance.waiting import (
    Deadline,
    retry,
)

_IDENTITY_TIMEOUT_S = 600
_DRY_IDENTITY_TIMEOUT_S = 20
_SYSTEM_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt",)
_CA_FILE = paths.RUN_DIR / "onegate-ca.pem"


def connect(
    system: System,
    base: Mapping[str, Any],
    log: Logger,
    *,
    keep_certificates: bool = True,
    longest_s: float | None = None,
) -> System:
    """Give the system its OneGate, where the context tells of one.

    Args:
        system: The machine.
        base: What the context says of OneGate.
        log: Where data goes.
        keep_certificates: Whether certificates that the context gives may be written.
        longest_s: The longest an answer may take; None for as long as is usual.
    """
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
    elif certificates:
        verify = _trusted(system, certificates, keep=keep_certificates)
    else:
        verify = next(
            (path for path in _SYSTEM_CERTIFICATES if system.files.state(PurePosixPath(path))), True
        )
    onegate = HttpOneGate(endpoint, vm_id, token, verify=verify, longest_s=longest_s)
    return replace(system, onegate=onegate)


def _trusted(system: System, given: str, *, keep: bool) -> bool | str:
    """Put the certificates given beside the system's, and return the file of both.

    Raises:
        ConfigurationRefused: What was given holds no certificate.
    """
    text = system.files.read(PurePosixPath(given)) if given.startswith("/") else given
    if "-----BEGIN CERTIFICATE-----" not in (text or ""):
        raise ConfigurationRefused(
            "ONEAPP_ONEGATE_CA: expected certificates (PEM, plain or base64), or the absolute path"
            " of a file with them"
        )
    if not keep:
        return system.files.real(PurePosixPath(given)) if given.startswith("/") else True
    own = [system.files.read(PurePosixPath(path)) or "" for path in _SYSTEM_CERTIFICATES]
    system.files.write(_CA_FILE, "\n".join([text or "", *own]))
    return system.files.real(_CA_FILE)


def find_role(
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
        return _with_known_service(identity, context, system, log)
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


def _ensure_first_route(system: System, options: Options, context: Context, log: Logger) -> None:
    route = build_first_route(context, system.network.links())
    if route is None or route.check(system, frozenset()) is None or options.dry_run:
        return
    route.apply(system)
    log.info("route.set", gateway=str(route.gateway), link=route.link, reason="the way to OneGate")


def read_identity_of(system: System, context: Context, services: Mapping[str, Service]) -> Identity:
    """Return what is kept about the VM that the context belongs to."""
    vm_id = parse_base(context, services).values[BASE]["vm_id"]
    return read_identity(system, vm_id if isinstance(vm_id, int) else None)
