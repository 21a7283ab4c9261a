"""A model of the reference for the areas about the cluster's nodes; see `oracle`."""

from __future__ import annotations

from typing import Any

from tests.conformance.reference import ReferenceFails, dig
from tests.conformance.vectors import Inputs

Decision = dict[str, Any]


def cleaner(inputs: Inputs) -> Decision:
    names = []
    for node in inputs.call.get("nodes") or []:
        name = node["metadata"].get("name") if isinstance(node, dict) else node
        names += [name] if name is not None and name.startswith("oneke-ip-") else []
    if not inputs.call.get("nodes"):
        raise ReferenceFails("exit status 1")
    alive = set()
    for vm in _all_vms(inputs):
        name = dig(vm, "VM", "USER_TEMPLATE", "ONEGATE_K8S_NODE_NAME")
        if not isinstance(name, str | None):
            raise ReferenceFails("NoMethodError")
        alive.add(name)
    return {"delete": [name for name in names if name not in alive]}


def _all_vms(inputs: Inputs) -> list[Any]:
    """Return every VM of the service; one that can not be read ends it."""
    roles = (inputs.onegate.get("service") or {}).get("SERVICE", {}).get("roles")
    nodes = [node for role in roles or [] for node in role.get("nodes") or []]
    found = [vm_show(inputs, dig(node, "vm_info", "VM", "ID")) for node in nodes]
    if not found:
        raise ReferenceFails("exit status 1")
    return found


def vm_show(inputs: Inputs, vm_id: object) -> Any:
    """Return one VM's document."""
    for vm in inputs.onegate.get("vms") or []:
        if str(vm["VM"].get("ID")) == str(vm_id):
            return vm
    raise ReferenceFails("RuntimeError")


def detect_node(inputs: Inputs) -> Decision:
    own = inputs.onegate.get("vm")
    if not own:
        raise ReferenceFails("RuntimeError")
    own_id, attributes = own["VM"]["ID"], own["VM"].get("USER_TEMPLATE") or {}
    role, ready = attributes.get("ROLE_NAME"), attributes.get("READY") == "YES"
    ids = _master_ids(inputs)
    chosen = vm_show(inputs, ids[0])
    is_first = own_id == chosen["VM"]["ID"]
    if not is_first:
        chosen = _any_master(inputs, [vm_show(inputs, one) for one in ids])
    token = dig(chosen, "VM", "USER_TEMPLATE", "ONEGATE_K8S_TOKEN")
    action = "none"
    if not ready:
        if role == "master" and is_first and token is None:
            action = "init_master"
        elif role in ("master", "worker", "storage") and not is_first and token is not None:
            action = f"join_{role}"
    service = "rke2-server" if role == "master" else "rke2-agent"
    return {"action": action, "service": service, "token": token}


def _master_ids(inputs: Inputs) -> list[Any]:
    roles = (inputs.onegate.get("service") or {}).get("SERVICE", {}).get("roles") or []
    nodes = next((role["nodes"] for role in roles if role["name"] == "master"), None)
    if not nodes:
        raise ReferenceFails("exit status 1")
    return [dig(node, "vm_info", "VM", "ID") for node in nodes]


def _any_master(inputs: Inputs, masters: list[Any]) -> Any:
    for vm in masters:
        said = vm["VM"].get("USER_TEMPLATE") or {}
        address = said.get("ONEGATE_K8S_MASTER")
        if said.get("READY") == "YES" and address in (inputs.call.get("reachable_masters") or []):
            return vm
    raise ReferenceFails("exit status 1")
