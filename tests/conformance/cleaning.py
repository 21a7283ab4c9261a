"""The area `cleaner`: which nodes are deleted, after two looks at the same documents.

A vector names nodes and little else. What it leaves open is filled in as far as a node of ours has
it: a node by a name of ours carries the label of the VM that the name stands for, is not Ready for
long, and is a worker's, or a master's where the service has no workers; a document may say
otherwise. Who asks is one more master that serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.errors import OnekeError
from appliance.system.kubernetes import Node
from appliance.system.kubernetestexts import parse_node
from appliance.system.onegate import Service, Vm
from roles.common.cleaner import (
    APART_S,
    Cleaner,
    Look,
    Verdict,
    decide,
    doubt_about_onegate,
)
from roles.common.registration import NODE_NAME_KEY
from roles.common.rke2config import VM_LABEL
from tests.conformance.documents import service_of
from tests.conformance.vectors import Inputs

_PREFIX = "oneke-ip-"
_NOW_S = 1_700_000_000.0
_LONG_AGO = "2023-11-01T00:00:00Z"
_GONE = "999999999"
_MASTER = {"node-role.kubernetes.io/control-plane": "true"}
_SERVING = {
    "metadata": {"name": "who-asks", "labels": {"node-role.kubernetes.io/etcd": "true"}},
    "status": {
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": _LONG_AGO}
            for kind in ("Ready", "EtcdIsVoter")
        ]
    },
}


def decide_cleaner(inputs: Inputs) -> dict[str, Any]:
    """Tell which nodes would be deleted; a doubt about the answers is no result."""
    if not inputs.call.get("nodes"):
        raise OnekeError("the cluster has no nodes")
    service = service_of(inputs.onegate)
    looks = (Look(service, "", 0.0, 0.0), Look(service, "", APART_S, APART_S))
    asking = _node(_SERVING, {})
    us = Cleaner(asking.name, _own_vm(service), None, _NOW_S)
    doubt = doubt_about_onegate(looks, us)
    if doubt:
        raise OnekeError(doubt)
    found = decide((*_nodes(inputs, service), asking), looks, us)
    return {"delete": [one.node.name for one in found if one.verdict is Verdict.DELETE]}


def _own_vm(service: Service) -> int | None:
    masters = service.role("master")
    listed = [vm_id for role in service.roles for vm_id in role.vm_ids]
    return next(iter((*(masters.vm_ids if masters else ()), *listed)), None)


def _nodes(inputs: Inputs, service: Service) -> Iterator[Node]:
    vms = [vm for role in service.roles for vm in role.vms]
    kind = {} if service.role("worker") else _MASTER
    for given in inputs.call["nodes"]:
        document = given if isinstance(given, Mapping) else {"metadata": {"name": given}}
        name = (document.get("metadata") or {}).get("name")
        if isinstance(name, str) and name:
            label = _label_of(name, vms)
            yield _node(document, {**kind, **({VM_LABEL: label} if label else {})})


def _label_of(name: str, vms: list[Vm]) -> str | None:
    """Return the VM that a name of ours stands for.

    By what it publishes, else by its address; the vectors number addresses by VMs.
    """
    if not name.startswith(_PREFIX):
        return None
    publishing = [vm for vm in vms if vm.text(NODE_NAME_KEY) == name]
    addressed = [vm for vm in vms if any(name == _name_of(nic.ip) for nic in vm.nics)]
    numbered = [vm for vm in vms if name.rpartition("-")[2] == str(vm.vm_id)]
    return str(next((vm.vm_id for vm in (*publishing, *addressed, *numbered)), _GONE))


def _name_of(address: str) -> str:
    """Return the name of a node of ours by its address."""
    return _PREFIX + address.replace(".", "-")


def _node(document: Mapping[str, Any], labels: Mapping[str, str]) -> Node:
    """Read a node, what its document leaves open filled in."""
    metadata = dict(document["metadata"])
    metadata = {"uid": "uid", "resourceVersion": "1", "creationTimestamp": _LONG_AGO} | metadata
    metadata["labels"] = {**labels, **(metadata.get("labels") or {})}
    condition = {"type": "Ready", "status": "Unknown", "lastTransitionTime": _LONG_AGO}
    status = document.get("status") or {"conditions": [condition]}
    return parse_node({**document, "metadata": metadata, "status": status})
