"""The area `detect_node`: what a node does to come into the cluster, and with which token.

A vector shows OneGate and not the machine. Who reported READY, or published what only a running
server has, still has its data. Documents never change, so a master that is waited for has been
quiet for as long as it takes to be passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.errors import OneGateError, OneGateUnavailable, OnekeError
from appliance.siblings import Siblings
from appliance.system.onegate import Vm, parse_vm
from roles.common.election import (
    CLUSTER_KEY,
    MASTER_KEY,
    STALLED_S,
    TOKEN_KEY,
    Agents,
    Announce,
    Found,
    Join,
    decide_agent,
    decide_server,
)
from tests.conformance.documents import service_of
from tests.conformance.vectors import Inputs

_UNITS: Mapping[str, str] = {
    "master": "rke2-server",
    "worker": "rke2-agent",
    "storage": "rke2-agent",
}


def decide_detect_node(inputs: Inputs) -> dict[str, Any]:
    """Tell what the node does; a wait that does not end is no result."""
    own = _own_vm(inputs)
    role = own.text("ROLE_NAME") or ""
    if role not in _UNITS:
        raise OnekeError(f"no node of the cluster: {role}")
    siblings = _siblings(inputs)
    if _has_begun(own, role):
        token = own.text(TOKEN_KEY) or _token_of(decide_agent(siblings))
        return _decision("none", role, token)
    found = decide_server(own.vm_id, siblings) if role == "master" else decide_agent(siblings)
    if isinstance(found, Found | Announce):
        return _decision("init_master", role, None)
    token = _token_of(found)
    if token is None:
        raise OnekeError(getattr(found, "reason", "another master goes first"))
    if not inputs.call.get("reachable_masters"):
        raise OnekeError("the cluster's supervisor does not answer")
    return _decision(f"join_{role}", role, token)


def _own_vm(inputs: Inputs) -> Vm:
    document = inputs.onegate.get("vm")
    if not document:
        raise OneGateUnavailable("no answer about this VM")
    return parse_vm(document)


def _has_begun(own: Vm, role: str) -> bool:
    serves = any(own.text(key) for key in (MASTER_KEY, TOKEN_KEY, CLUSTER_KEY))
    return own.text("READY") == "YES" or (role == "master" and serves)


def _siblings(inputs: Inputs) -> Siblings:
    try:
        service = service_of(inputs.onegate)
    except OneGateError as error:
        return Siblings(error=str(error))
    every = {vm.vm_id: STALLED_S for role in service.roles for vm in role.vms}
    return Siblings(service, None, "", every)


def _token_of(found: object) -> str | None:
    return found.token.reveal() if isinstance(found, Join | Agents) else None


def _decision(action: str, role: str, token: str | None) -> dict[str, Any]:
    return {"action": action, "service": _UNITS[role], "token": token}
