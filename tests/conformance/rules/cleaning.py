"""The rules of the area `cleaner`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.conformance.reference import ReferenceFails, dig, each
from tests.conformance.rules.base import Rule, whole
from tests.conformance.vectors import Inputs

_AREA = "cleaner"
_PREFIX = "oneke-ip-"
_KEY = "ONEGATE_K8S_NODE_NAME"


def published_names(inputs: Inputs) -> list[str]:
    """Return the names that the service's VMs publish, as the reference collects them.

    Raises:
        ReferenceFails: It ends here: a VM can not be read, or nothing is there to be read.
    """
    roles = dig(_service(inputs), "roles")
    if not roles:
        raise ReferenceFails("no roles")
    answers = {str(dig(vm, "VM", "ID")): vm for vm in reversed(inputs.onegate.get("vms") or [])}
    ids = [
        dig(node, "vm_info", "VM", "ID")
        for role in each(roles)
        if dig(role, "nodes") is not None
        for node in each(dig(role, "nodes"))
    ]
    if not ids or not all(str(one) in answers for one in ids):
        raise ReferenceFails("a VM can not be read, or there is none")
    names = [dig(answers[str(one)], "VM", "USER_TEMPLATE", _KEY) for one in ids]
    if not all(isinstance(name, str | None) for name in names):
        raise ReferenceFails("NoMethodError: a name that is no text")
    return [name for name in names if name]


def _service(inputs: Inputs) -> Any:
    document = inputs.onegate.get("service")
    if not document:
        raise ReferenceFails("no answer about the service")
    return dig(document, "SERVICE")


def node_names(inputs: Inputs) -> list[str]:
    """Return the nodes that the reference looks at.

    Raises:
        ReferenceFails: There are none at all.
    """
    given = inputs.call.get("nodes") or []
    if not given:
        raise ReferenceFails("no nodes")
    names = [dig(one, "metadata", "name") if isinstance(one, Mapping) else one for one in given]
    return [name for name in names if name is not None and name.startswith(_PREFIX)]


def _theirs(inputs: Inputs) -> set[str] | None:
    """Return what the reference deletes; None where it has no result."""
    try:
        return set(node_names(inputs)) - set(published_names(inputs))
    except ReferenceFails:
        return None


def _is_whole(inputs: Inputs) -> bool:
    """Say whether the agent takes the answer for the whole truth."""
    document = inputs.onegate.get("service")
    service = document.get("SERVICE") if isinstance(document, Mapping) else None
    if not isinstance(service, Mapping) or whole(service.get("id")) is None:
        return False
    vms = {whole(dig(vm, "VM", "ID")): vm for vm in inputs.onegate.get("vms") or ()}
    listed: list[int | None] = []
    for role in service.get("roles") or ():
        ids = [whole(dig(node, "vm_info", "VM", "ID")) for node in role.get("nodes") or ()]
        wanted = whole(role.get("cardinality"))
        going = [one for one in ids if str(dig(vms.get(one), "VM", "LCM_STATE")) == "12"]
        staying = len(ids) if role.get("name") == "vnf" else len(ids) - len(going)
        if staying < (wanted or 0) or not set(ids) <= set(vms):
            return False
        if wanted is None and role.get("name") != "vnf":
            return False
        listed += ids
    return bool(listed) and len(listed) == len(set(listed))


def _living(inputs: Inputs) -> set[str]:
    """Return the names that stand for a VM of the service by its address or number."""
    roles = dig(_service(inputs), "roles")
    ids = {
        whole(dig(node, "vm_info", "VM", "ID")) for role in roles for node in role["nodes"] or ()
    }
    vms = [vm for vm in inputs.onegate["vms"] if whole(dig(vm, "VM", "ID")) in ids]
    nics = [nic for vm in vms for nic in _nics(vm)]
    addressed = {_PREFIX + str(nic.get("IP", "")).replace(".", "-") for nic in nics}
    return addressed | {name for name in node_names(inputs) if _number(name) in ids}


def _nics(vm: Any) -> list[Any]:
    nics = (dig(vm, "VM", "TEMPLATE") or {}).get("NIC") or []
    return [nics] if isinstance(nics, Mapping) else nics


def _number(name: str) -> int | None:
    return whole(name.rpartition("-")[2])


def _ready(inputs: Inputs) -> set[str]:
    """Return the nodes of which a document says that they are Ready."""
    found = set()
    for node in inputs.call.get("nodes") or ():
        conditions = (dig(node, "status", "conditions") or []) if isinstance(node, Mapping) else []
        if any((one.get("type"), one.get("status")) == ("Ready", "True") for one in conditions):
            found.add(dig(node, "metadata", "name"))
    return found


def _deletes(inputs: Inputs) -> set[str]:
    """Return what the reference deletes although the agent has a result of its own."""
    theirs = _theirs(inputs)
    return (theirs or set()) if _is_whole(inputs) else set()


def _masters(inputs: Inputs) -> list[str]:
    """Return the masters that it deletes; in a service without workers all nodes are masters."""
    deleted = _deletes(inputs)
    if any(role.get("name") == "worker" for role in dig(_service(inputs), "roles") or ()):
        return []
    return [name for name in node_names(inputs) if name in deleted]


def _stumbles(inputs: Inputs) -> bool:
    return _theirs(inputs) is None and _is_whole(inputs) and bool(inputs.call.get("nodes"))


def cleaner_rules() -> Iterator[Rule]:
    """Yield the rules."""
    yield Rule(
        _AREA,
        "living-vm",
        "deletes the node of a VM that is there and publishes no name, or another, just now",
        "go by the label that a node carries of its VM: the VM is there, and so the node stays",
        "A VM publishes its name when it boots, and any sibling can overwrite it; a node that is"
        " deleted while its VM lives is torn out of the cluster with all that runs on it.",
        lambda inputs: bool(_deletes(inputs)) and bool(_deletes(inputs) & _living(inputs)),
    )
    yield Rule(
        _AREA,
        "node-is-ready",
        "deletes a node whose name no VM publishes although it is Ready",
        "keep a node that is Ready, and one that has not been out of it for a minute",
        "Whoever is Ready lives, whatever OneGate tells.",
        lambda inputs: bool(_deletes(inputs) & _ready(inputs)),
    )
    yield Rule(
        _AREA,
        "answer-not-whole",
        "takes every answer that it can read for the whole truth, a role without a list of VMs"
        " for an empty one",
        "delete nothing, and say why, where a role has fewer VMs than it should, or nobody tells"
        " how many it should have",
        "VMs that an answer leaves out are not gone; while the service changes the next answer"
        " is soon there.",
        lambda inputs: _theirs(inputs) is not None and not _is_whole(inputs),
    )
    yield Rule(
        _AREA,
        "masters-at-once",
        "deletes several masters at once",
        "delete one, the longest dead, and the next when etcd has let go of it",
        "Each takes a member out of etcd, which has to agree on that every time.",
        lambda inputs: bool(_deletes(inputs)) and len(_masters(inputs)) > 1,
    )
    yield Rule(
        _AREA,
        "reference-stumbles",
        "ends with an error over an attribute that is no text",
        "leave it out",
        "Any sibling can write any attribute, and one of them must not keep the cluster from"
        " being cleaned.",
        _stumbles,
    )


def _example(name: object, *nodes_beside: object) -> Inputs:
    """Return a service of one VM that publishes a name, its node, and others."""
    vm = {"ID": "61", "USER_TEMPLATE": {_KEY: name}}
    nodes = [{"deploy_id": 61, "vm_info": {"VM": {"ID": "61"}}}]
    role = {"name": "master", "cardinality": 1, "nodes": nodes}
    documents = {"service": {"SERVICE": {"id": "7", "roles": [role]}}, "vms": [{"VM": vm}]}
    return Inputs(call={"nodes": ["oneke-ip-10-77-1-61", *nodes_beside]}, onegate=documents)


EXAMPLES: Mapping[str, Inputs] = {
    "node-is-ready": _example(
        "oneke-ip-10-77-1-61",
        {
            "metadata": {"name": "oneke-ip-10-77-1-99"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        },
    ),
    "masters-at-once": _example(
        "oneke-ip-10-77-1-61", "oneke-ip-10-77-1-98", "oneke-ip-10-77-1-99"
    ),
    "reference-stumbles": _example(["twice", "given"], "oneke-ip-10-77-1-99"),
}
