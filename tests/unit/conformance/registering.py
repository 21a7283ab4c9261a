"""Made-up answers of OneGate to a gateway that looks for servers, good ones and garbage."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.conformance.reference import floating_addresses, own_addresses, split
from tests.conformance.vectors import Inputs

SETTINGS: Mapping[str, Sequence[str]] = {
    "ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": ("YES", "1", "true", "NO", "", " YES", "perhaps"),
    "SERVICE_ID": ("7", "7", "", "07", "8", "abc", " 7 "),
    "VROUTER_ID": ("31", "", "", "031"),
    "ONEAPP_VNF_LB_ONEGATE_API": ("auto", "service", "vrouter", "VRouter", "", "oneflow", " auto"),
    "ONEAPP_VNF_ONEGATE_LB_API": ("", "vrouter", "service"),
    "ONEAPP_K8S_LOADBALANCER_RANGE": ("",),
    "VMID": ("60", "", "64"),
}
_ADDRESSES = (
    "",
    "<ETH0_EP0>",
    "<ETH0_VIP0>",
    "<ETH1_IP0>",
    "<eth0_vip0>",
    "<ETH9_IP0>",
    "<ETH0_VIP0>/24",
    "<ONEAPP_VROUTER_ETH0_VIP0>",
    "198.51.100.10",
    "198.51.100.200",
    "198.51.100.200/24",
    " 198.51.100.200",
    "198.51.100.200 ",
    "10.77.0.10",
    "198.51.100.99",
    "host",
)
_PORTS = ("", "443", "6443", "06443", " 443 ", "443 ", "7443", "https", "9345")
_HOSTS = (
    "",
    "10.77.1.64",
    "10.77.1.65",
    "10.77.1.1",
    "198.51.100.200",
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.5",
    "239.255.255.255",
    "255.255.255.255",
    "10.77.1.064",
    "10.77.1.256",
    "10.77.1.64/24",
    " 10.77.1.64",
    "10.77.1.64 backup",
    "10.77.1.64\n    bind *:1",
    "node-1.example",
    "fd00::64",
)
_SERVER_PORTS = ("", "32443", "6443", "443", "0", "65535", "65536", "032443", " 32443", "32443 ")
_IDS = ("", "7", "8", "07", "31", "031", " 7", "99")
_PLACEHOLDERS = re.compile(r"<(.+)>")


def with_answers(base: Inputs, chance: random.Random) -> Inputs:
    """Let a gateway follow OneGate, and make up what OneGate answers."""
    context = dict(base.context)
    context.setdefault("ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED", "YES")
    if chance.random() < 0.9:
        kind = chance.choice(("service", "service", "vrouter"))
        name, number = {"service": ("SERVICE_ID", "7"), "vrouter": ("VROUTER_ID", "31")}[kind]
        context.setdefault(name, number)
    for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):
        key = chance.choice(sorted(SETTINGS))
        context[key] = chance.choice(SETTINGS[key])
    documents: dict[str, Any] = {}
    is_router = bool(context.get("VROUTER_ID"))
    if not is_router or chance.random() < 0.4:
        documents |= _service(context, chance)
    if is_router or chance.random() < 0.1:
        documents |= _router(context, chance)
    if chance.random() < 0.04:
        documents.pop(chance.choice(sorted(documents)))
    return Inputs(context, base.call, documents, base.previous)


def _service(context: Mapping[str, str], chance: random.Random) -> dict[str, Any]:
    roles, vms = [], []
    number = 60
    for name in ("vnf", "master", "worker")[: chance.choice((1, 2, 2, 3))]:
        nodes: list[dict[str, Any]] = []
        for _ in range(chance.choice((0, 1, 1, 2, 2))):
            number += 1
            info: dict[str, Any] = {"VM": {"ID": str(number), "NAME": f"{name}_{number}"}}
            nodes.append({"deploy_id": number, "vm_info": info})
            vm: dict[str, Any] = {"ID": str(number), "NAME": name, "STATE": "3", "LCM_STATE": "3"}
            vm["USER_TEMPLATE"] = _attributes(context, chance) | {"ROLE_NAME": name}
            _disturb_vm(vm, nodes[-1], chance)
            if chance.random() > 0.05:
                vms.append({"VM": vm})
        role: dict[str, Any] = {"name": name, "cardinality": len(nodes), "nodes": nodes}
        if chance.random() < 0.06:
            role["nodes"] = chance.choice((None, [], nodes[0] if nodes else {}))
        roles.append(role)
    service: dict[str, Any] = {"id": "7", "name": "oneke", "state": 2, "roles": roles}
    if chance.random() < 0.06:
        changes: Sequence[dict[str, Any]] = (
            {"id": 7},
            {"id": "x"},
            {"id": "8"},
            {"roles": []},
            {"roles": None},
        )
        service |= chance.choice((*changes, {"roles": roles[0]}, {"roles": {}}, {"id": "-1"}))
    return {"service": {"SERVICE": service}, "vms": vms}


def _disturb_vm(vm: dict[str, Any], node: dict[str, Any], chance: random.Random) -> None:
    change = chance.randrange(40)
    if change <= 1:
        vm["LCM_STATE"] = "12"
    elif change == 2:
        vm["USER_TEMPLATE"] = {}
    elif change == 3:
        del vm["USER_TEMPLATE"]
    elif change == 4:
        node["vm_info"] = {}
    elif change == 5:
        node.pop("deploy_id")
    elif change == 6:
        node["vm_info"] = chance.choice((None, {"VM": {"ID": int(vm["ID"])}}))


def _router(context: Mapping[str, str], chance: random.Random) -> dict[str, Any]:
    nics = [{"NETWORK_ID": "3", "NIC_ID": "0"}, {"NETWORK_ID": "4", "NIC_ID": "1"}]
    nics = nics[: chance.choice((1, 2))]
    networks = [_network(number, context, chance) for number in ("3", "4", "9")]
    if chance.random() < 0.08:
        networks.pop(chance.randrange(3))
    template: dict[str, Any] = {"NIC": nics}
    if chance.random() < 0.04:
        template["NIC"] = chance.choice((nics[0], [], None, {}, [{"NIC_ID": "0"}]))
    return {"vrouter": {"VROUTER": {"ID": "31", "TEMPLATE": template}}, "vnets": networks}


def _network(number: str, context: Mapping[str, str], chance: random.Random) -> dict[str, Any]:
    leases: list[dict[str, Any]] = []
    for host in range(chance.choice((0, 1, 1, 2))):
        backend = {"BACKEND": chance.choice(("YES", "YES", "YES", "YES", "NO", "yes"))}
        leases.append({"IP": f"10.77.{number}.{host}", **backend, **_attributes(context, chance)})
    if number == "3" and chance.random() < 0.3:
        reserved = chance.choice(("9", "9", "9", 9, "8", "", "3"))
        leases.append({"IP": "10.77.3.99", "VNET": reserved})
    held: Any = {"LEASE": leases}
    blocks: Any = [{"AR_ID": "0", "LEASES": held}]
    if chance.random() < 0.06:
        held = chance.choice(({}, {"LEASE": leases[0] if leases else {}}, {"LEASE": None}))
        blocks = [{"AR_ID": "0", "LEASES": held}]
    elif chance.random() < 0.03:
        blocks = chance.choice((blocks[0], [], None))
    return {"VNET": {"ID": number, "AR_POOL": chance.choice(({"AR": blocks},) * 30 + ({},))}}


def _attributes(context: Mapping[str, str], chance: random.Random) -> dict[str, Any]:
    """Return what a VM or a lease registers: mostly right, or with a slip here and there."""
    numbers = sorted({m[1] for key in context if (m := re.match(r"\w+_HAPROXY_LB(\d+)_", key))})
    found: dict[str, Any] = {}
    for _ in range(chance.choice((0, 1, 1, 1, 2))):
        number = chance.choice((*numbers, *numbers, *numbers, "0", "1", "4", "00"))
        stem = f"ONEGATE_HAPROXY_LB{number}_"
        declared = f"ONEAPP_VNF_HAPROXY_LB{number}_"
        said: dict[str, Any] = {
            "IP": _resolved(context, context.get(f"{declared}IP", "198.51.100.200"), chance),
            "PORT": context.get(f"{declared}PORT", "6443"),
            "SERVER_HOST": chance.choice(("10.77.1.64", "10.77.1.65", "10.77.1.1", "10.77.1.66")),
            "SERVER_PORT": chance.choice(("32443", "6443", "443")),
        }
        pools = {"IP": _ADDRESSES, "PORT": _PORTS, "SERVER_HOST": _HOSTS, "ID": _IDS}
        pools |= {"SERVER_PORT": _SERVER_PORTS, "SERVER_WEIGHT": ("1",)}
        for _ in range(chance.choice((0, 0, 0, 1, 1, 2))):
            key = chance.choice(sorted(pools))
            said[key] = chance.choice(pools[key])
        if chance.random() < 0.05:
            said.pop(chance.choice(sorted(said)))
        if chance.random() < 0.02:
            said[chance.choice(sorted(said))] = chance.choice(({}, {"A": "1"}))
        found |= {f"{stem}{key}": value for key, value in said.items()}
    return found


def _resolved(context: Mapping[str, str], text: str, chance: random.Random) -> str:
    """Return a balancer's address as VMs write it: the placeholder's, mostly."""
    name = _PLACEHOLDERS.fullmatch(text)
    if not name or chance.random() < 0.2:
        return text
    try:
        own, floating = own_addresses(context), floating_addresses(context)
    except Exception:  # an address that is none
        return text
    known = {f"{nic.upper()}_{kind}0": one for nic, one in own.items() for kind in ("IP", "EP")}
    for nic, by_index in floating.items():
        for index, one in by_index.items():
            known |= {f"{nic.upper()}_{kind}{index}": one for kind in ("VIP", "EP")}
    return (split(known.get(name[1], text), "/") or [""])[0]
