"""Variations of what OneGate tells of a cluster's VMs, and of the cluster's nodes."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

from tests.conformance.vectors import Inputs

_NAMES = ("oneke-ip-10-77-1-61", "oneke-ip-10-77-1-64", "oneke-ip-10-77-1-99", "worker-1", "")
_ATTRIBUTE = "ONEGATE_K8S_NODE_NAME"


def vary_cleaner(base: Inputs, chance: random.Random) -> Inputs:
    """Change the nodes, the VMs, and how much of them is told."""
    nodes = deepcopy(list(base.call.get("nodes") or []))
    onegate = deepcopy(dict(base.onegate))
    for _ in range(chance.choice((1, 1, 2, 3))):
        change = chance.randrange(14)
        if change < 5:
            _vary_nodes(nodes, chance, change)
        elif change < 10:
            _vary_vm(onegate, chance, change)
        elif chance.random() < 0.6:
            _vary_service(onegate, chance, change)
    return Inputs(base.context, {"nodes": nodes}, onegate)


def _vary_nodes(nodes: list[Any], chance: random.Random, change: int) -> None:
    name = chance.choice(_NAMES[:4])
    if change == 0 and nodes:
        nodes.pop(chance.randrange(len(nodes)))
    elif change == 1:
        nodes.append({"metadata": {"name": name, "labels": {"any": "label"}}})
    elif change == 2:
        status = chance.choice(("True", "True", "False", "Unknown"))
        condition = {
            "type": "Ready",
            "status": status,
            "lastTransitionTime": "2023-11-01T00:00:00Z",
        }
        document = {"metadata": {"name": name}, "status": {"conditions": [condition]}}
        nodes.append(document)
    elif change == 3:
        nodes.clear() if chance.random() < 0.2 else nodes.append({"metadata": {}})
    else:
        nodes.append(f"oneke-ip-10-77-1-{chance.choice((60, 61, 62, 64, 65, 66, 98))}")


def _vary_vm(onegate: dict[str, Any], chance: random.Random, change: int) -> None:
    vms = onegate.get("vms") or []
    if not vms:
        return
    vm = chance.choice(vms)["VM"]
    attributes = vm.setdefault("USER_TEMPLATE", {})
    if change == 5:
        attributes[_ATTRIBUTE] = chance.choice(_NAMES)
    elif change == 6:
        attributes.pop(_ATTRIBUTE, None)
    elif change == 7:
        vm["STATE"], vm["LCM_STATE"] = chance.choice((("8", "0"), ("3", "12"), ("3", "36")))
    elif change == 8:
        vm["ID"] = chance.choice((str(vm["ID"]), int(vm["ID"])))
    elif chance.random() < 0.3:
        attributes[_ATTRIBUTE] = chance.choice((["a", "b"], {"x": "y"}))


def _vary_service(onegate: dict[str, Any], chance: random.Random, change: int) -> None:
    roles = (onegate.get("service") or {}).get("SERVICE", {}).get("roles") or []
    if not roles:
        return
    role = chance.choice(roles)
    if change == 10:
        role["cardinality"] = chance.choice((0, 1, 2, "1", None))
    elif change == 11 and onegate.get("vms"):
        onegate["vms"].pop(chance.randrange(len(onegate["vms"])))
    elif change == 12:
        role["nodes"] = chance.choice(([], None))
        role["cardinality"] = chance.choice((0, role.get("cardinality")))
    elif chance.random() < 0.3:
        onegate.pop("service")
    else:
        roles.append({"name": "storage", "cardinality": 0, "nodes": []})


_SAID = {
    "READY": ("YES", "YES", "NO", "yes", ""),
    "ONEGATE_K8S_TOKEN": ("K10beef::server:beef", "K10cafe::server:cafe", "x y", "", "short"),
    "ONEGATE_K8S_MASTER": ("10.77.1.61", "10.77.1.62", "10.77.1.63", ""),
    "ONEGATE_K8S_AGENT_TOKEN": ("K10beef::node:agents", ""),
    "ONEKE_CLUSTER_ID": ("beef", "cafe", ""),
    "ONEKE_FOUNDER": ("YES", ""),
    "ROLE_NAME": ("master", "worker", "storage", "Worker", "vnf"),
}


def vary_detect_node(base: Inputs, chance: random.Random) -> Inputs:
    """Change who asks, what the masters publish, and how much of them is told."""
    call, onegate = deepcopy(dict(base.call)), deepcopy(dict(base.onegate))
    if chance.random() < 0.4:
        _let_another_ask(onegate, chance)
    for _ in range(chance.choice((1, 1, 2, 3))):
        change = chance.randrange(12)
        if change < 6:
            _vary_said(onegate, chance)
        elif change == 6:
            call["reachable_masters"] = chance.choice(
                ([], ["10.77.1.61"], ["10.77.1.62"], ["10.77.1.61", "10.77.1.62", "10.77.1.63"])
            )
        elif change == 7 and onegate.get("vms") and chance.random() < 0.5:
            onegate["vms"].pop(chance.randrange(len(onegate["vms"])))
        elif change == 8 and onegate.get("vms"):
            vm = chance.choice(onegate["vms"])["VM"]
            vm["STATE"], vm["LCM_STATE"] = chance.choice((("8", "0"), ("3", "12"), ("3", "3")))
        elif change > 8:
            _vary_masters(onegate, chance)
    return Inputs(base.context, call, onegate)


def _let_another_ask(onegate: dict[str, Any], chance: random.Random) -> None:
    if onegate.get("vms"):
        onegate["vm"] = deepcopy(chance.choice(onegate["vms"]))


def _vary_said(onegate: dict[str, Any], chance: random.Random) -> None:
    """Change an attribute of a VM, wherever it is shown."""
    if not onegate.get("vms") or not onegate.get("vm"):
        return
    own = onegate["vm"]["VM"]
    vm = chance.choice([own, *(one["VM"] for one in onegate["vms"])])
    key = chance.choice(sorted(_SAID if vm is own else set(_SAID) - {"ROLE_NAME"}))
    value = chance.choice(_SAID[key])
    for shown in (own, *(one["VM"] for one in onegate["vms"])):
        if shown["ID"] == vm["ID"]:
            shown["USER_TEMPLATE"] = {**shown.get("USER_TEMPLATE", {}), key: value}


def _vary_masters(onegate: dict[str, Any], chance: random.Random) -> None:
    roles = (onegate.get("service") or {}).get("SERVICE", {}).get("roles") or []
    for role in roles:
        if role["name"] == "master":
            change = chance.randrange(4)
            if change == 0:
                role["cardinality"] = chance.choice((1, 2, 3, "3"))
            elif change == 1:
                role["nodes"] = list(reversed(role["nodes"]))
            elif change == 2 and len(role["nodes"]) > 1:
                role["nodes"].pop(0)
                role["cardinality"] = len(role["nodes"])
