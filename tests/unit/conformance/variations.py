"""Variations of the vectors: plausible changes of what they ask, the same ones at every run."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from tests.conformance.vectors import Inputs
from tests.unit.conformance import components
from tests.unit.conformance.cluster_nodes import vary_endpoints, vary_node
from tests.unit.conformance.cluster_variations import vary_cleaner, vary_detect_node
from tests.unit.conformance.node_network import POOL as NODE_NETWORK
from tests.unit.conformance.registering import with_answers

Pool = Mapping[str, Sequence[str]]

_ADDRESSES: Pool = {
    "ETH{n}_IP": (
        "",
        "198.51.100.10",
        "10.77.0.10",
        "10.77.0.10/22",
        "10.77.0.10/0",
        "192.168.3.4",
        "172.31.9.9",
        "10.77.0.10/33",
        "10.77.0.10/abc",
        "10.77.0.10/",
        " 10.77.0.10",
        "dhcp",
        "dhcp/24",
        "10.077.0.10",
        "fd00::1",
        "300.1.1.1",
        "10.77.0.10/24/8",
        "10.77.0.10/08",
        "203.0.113.9",
    ),
    "ETH{n}_MASK": (
        "",
        "255.255.255.0",
        "255.255.0.0",
        "255.254.0.0",
        "20",
        "08",
        "33",
        "255.0.255.0",
        "255.255",
        "0.0.0.0",
        "0",
        "255.255.255.255",
        "0.0.0.255",
        " 255.255.0.0",
        "/24",
        "255.255.255.000",
    ),
    "ETH{n}_NETWORK": (
        "",
        "10.77.0.0",
        "10.0.0.0",
        "198.51.100.64",
        "0.0.0.0",
        "abc",
        "10.77.0.0/16",
        "10.20",
    ),
    "ONEAPP_VROUTER_ETH{n}_VIP0": (
        "",
        "198.51.100.200",
        "10.77.0.200",
        "10.77.0.200/16",
        "10.77.0.200/40",
        "vip",
        "10.77.0.10",
        "203.0.113.5/",
    ),
    "ONEAPP_VROUTER_ETH{n}_VIP1": ("", "198.51.100.201", "10.77.0.201/32", "10.77.0.200"),
    "ETH{n}_VROUTER_IP": ("", "198.51.100.210", "10.77.0.210", "x"),
    "ETH{n}_GATEWAY": ("", "198.51.100.1", "10.77.0.1", "gw"),
    "ETH{n}_VROUTER_MANAGEMENT": ("", "YES", "NO", "1", "yes", "true", "on", "maybe", "0", " YES"),
    "ONEAPP_VROUTER_ETH{n}_MANAGEMENT": ("", "YES", "NO"),
}
_LISTS = (
    "",
    "eth0",
    "eth1",
    "eth0 eth1",
    "eth1,eth0",
    "!eth0",
    "!eth1;!eth0",
    "eth0 !eth0",
    "eth7",
    "eth1 eth7 !eth7",
    "lan",
    "eth0 lan",
    "!lan",
    "198.51.100.10",
    "10.77.0.10",
    "10.77.0.200",
    "!198.51.100.200",
    "eth0/198.51.100.10",
    "eth0@53",
    "eth0@dns",
    "eth0@053",
    "eth0@0",
    "eth0@70000",
    "10.77.0.10@53",
    "eth0/10.0.0.1@53",
    "eth0@53/10.0.0.1",
    "eth0/",
    "eth0@",
    "/10.77.0.10",
    "@53",
    "eth0/a/b",
    "eth1/10.77.0.10 eth0",
    "10.77.0.10 eth0",
    "eth1 eth0 eth1",
    "eth0 eth0",
    "eth0\teth1",
    "eth0\neth1",
    " eth1 ",
    "!!eth0",
    "ETH0",
    "!",
    "! ;,",
    "eth2 eth10 eth1",
    "eth0\n",
    "10.77.0.10/22",
    "203.0.113.1",
)
_PORTS = (
    "",
    "443",
    "0",
    "65536",
    "08443",
    "010",
    "0x1F90",
    "+8443",
    "-5",
    "1_000",
    "8443-8450",
    "https",
    " 443 ",
    "65535",
)
_BALANCER_IPS = (
    "",
    "<ETH0_VIP0>",
    "<ETH0_EP0>",
    "<ETH1_EP0>",
    "<ETH1_IP0>",
    "<eth0_vip0>",
    "<ETH9_IP0>",
    "<ETH0_EP0>/24",
    "<ONEAPP_VROUTER_ETH0_VIP0>",
    "198.51.100.10",
    "198.51.100.200",
    "198.51.100.200/24",
    "10.77.0.10",
    "10.77.0.200",
    "198.51.100.99",
    " 198.51.100.10",
    "host",
    "<ETH0_IP0>",
    "<ETH1_VIP0>",
)
_HOSTS = (
    "",
    "10.77.1.1",
    "10.77.1.2",
    "api.example",
    "10.77.1.2 backup",
    "10.77.1",
    " 10.77.1.1",
    "a_b",
    "10.77.1.1",
)
_FORWARDS = (
    "",
    "  ",
    "8443:10.77.1.5:443",
    "8443:10.77.1.6:443",
    "2222:10.77.1.6",
    "8443:10.77.1.5:",
    "8443:10.77.1.5: ",
    "8443:10.77.1.5::",
    "198.51.100.10:8443:10.77.1.5:443",
    "198.51.100.10:8443:10.77.1.9",
    "<ETH0_EP0>:8443:10.77.1.5:443",
    "<ETH0_VIP0>:8443:10.77.1.5",
    "<ETH9_EP0>:8443:10.77.1.5",
    "<eth0_ep0>:1:10.77.1.5",
    "198.51.100.10",
    "8443",
    "198.51.100.10:8443",
    "70000:10.77.1.6:443",
    "-5:10.77.1.6:443",
    "0:10.77.1.6",
    "08443:10.77.1.6",
    "010:10.77.1.6",
    "0x1F90:10.77.1.6",
    "+80:10.77.1.6",
    "1_000:10.77.1.6",
    "8000-8010:10.77.1.6",
    "8443:10.77.1.6/24:443",
    "198.51.100.0/24:8443:10.77.1.6",
    "8443:10.77.1.6:99999",
    "8443:10.77.1.6:0",
    "8443:10.77.1.6:443:1",
    "8443:host:443",
    "8443:<ETH1_IP0>:443",
    "<ONEAPP_VROUTER_ETH0_VIP0>:8443:10.77.1.5",
    " 8443 : 10.77.1.5 : 443 ",
    "8443:10.77.1.6:0443",
    "8443:10.77.1.6:https",
    ":8443:10.77.1.5",
    "a:b:c:d:e",
    "<ETH1_IP0>:8443:10.77.1.5:443",
)
_NUMBERS = ("", "1", "42", "042", "43", "255", "256", "0", "abc", "-1", "1.5", "+42", " 42 ")
_SECONDS = ("", "1", "3", "0.5", "1.0", "50", "0", "300", ".5", "1e1", "45.5")

_POOLS: Mapping[str, Pool] = {
    "metallb": components.METALLB,
    "cilium": components.CILIUM,
    "addresses": {**_ADDRESSES, "ONEAPP_VNF_LB0_IP": ("", "198.51.100.220:6443", "198.51.100.221")},
    "interfaces": {
        **_ADDRESSES,
        **{
            f"ONEAPP_VNF_{name}": _LISTS
            for name in (
                "HAPROXY_INTERFACES",
                "KEEPALIVED_INTERFACES",
                "LB_INTERFACES",
                "NAT4_INTERFACES_OUT",
                "DNS_INTERFACES",
                "DHCP4_INTERFACES",
                "ROUTER4_INTERFACES",
                "SDNAT4_INTERFACES",
            )
        },
    },
    "keepalived": {
        **_ADDRESSES,
        "ONEAPP_VNF_KEEPALIVED_INTERFACES": _LISTS,
        "ONEAPP_VNF_KEEPALIVED_VRID": _NUMBERS,
        "VROUTER_KEEPALIVED_ID": _NUMBERS,
        "ONEAPP_VNF_KEEPALIVED_ETH{n}_VRID": _NUMBERS,
        "ONEAPP_VNF_KEEPALIVED_ETH{n}_PRIORITY": _NUMBERS,
        "ONEAPP_VNF_KEEPALIVED_PRIORITY": _NUMBERS,
        "ONEAPP_VNF_KEEPALIVED_INTERVAL": _SECONDS,
        "ONEAPP_VNF_KEEPALIVED_ETH{n}_INTERVAL": _SECONDS,
        "ONEAPP_VNF_KEEPALIVED_PASSWORD": (
            "",
            "secret",
            "two words",
            "a}#!b",
            'qu"ote',
            "back\\slash",
            "longer than eight",
        ),
        "ONEAPP_VNF_KEEPALIVED_ETH{n}_PASSWORD": ("", "other", "12345678"),
        "VROUTER_KEEPALIVED_PASSWORD": ("", "older"),
        "ONEAPP_VNF_KEEPALIVED_ETH{n}_SKIP": ("", "YES", "NO", "true", "1", "perhaps"),
        "SERVICE_ID": ("", "23", "278", "255", "0", "abc", "41"),
        "VMID": ("", "990", "41", "x"),
        "VM_ID": ("", "17"),
        "ONEAPP_K8S_LOADBALANCER_RANGE": ("",),
    },
    "haproxy": {
        **_ADDRESSES,
        "ONEAPP_VNF_HAPROXY_INTERFACES": _LISTS,
        "ONEAPP_VNF_HAPROXY_LB{b}_IP": _BALANCER_IPS,
        "ONEAPP_VNF_HAPROXY_LB{b}_PORT": _PORTS,
        "ONEAPP_VNF_HAPROXY_LB{b}_SERVER{s}_HOST": _HOSTS,
        "ONEAPP_VNF_HAPROXY_LB{b}_SERVER{s}_PORT": _PORTS,
        "ONEAPP_VNF_HAPROXY_LB{b}_SERVER{s}_WEIGHT": ("", "1"),
        "ONEAPP_VNF_HAPROXY_LB{b}_PROTOCOL": ("", "TCP"),
        "ONEAPP_VNF_HAPROXY_ENABLED": ("", "YES", "NO", "true", "perhaps"),
        "ONEAPP_VNF_HAPROXY_REFRESH_RATE": ("", "30", "often"),
        "ONEAPP_K8S_PORT": ("", "6443"),
    },
    "nat4": {
        **_ADDRESSES,
        "ONEAPP_VNF_NAT4_INTERFACES_OUT": _LISTS,
        "ONEAPP_VNF_NAT4_ENABLED": ("", "YES", "NO", "1", "true", "perhaps"),
        "ONEAPP_VNF_NAT4_PORT_FWD0": _FORWARDS,
        "ONEAPP_VNF_NAT4_PORT_FWD1": _FORWARDS,
        "ONEAPP_VNF_NAT4_PORT_FWD10": _FORWARDS,
    },
    "node_network": NODE_NETWORK,
    "router4": {
        **_ADDRESSES,
        "ONEAPP_VNF_ROUTER4_INTERFACES": _LISTS,
        "ONEAPP_VNF_ROUTER4_ENABLED": ("", "YES", "NO", "1", "on", "perhaps", " YES"),
        "VROUTER_ID": ("", "31", "x"),
    },
}
_PIECES = (
    "\\n",
    "\\t",
    "\\x41",
    "\\u0042",
    "\\u{43 44}",
    "\\#",
    "\\q",
    "\\\\",
    '\\"',
    '"',
    "\\",
    "é",
    "\n",
    "\\\n",
    "$HOME",
    "\\x4",
    "\\u12",
    "\\ud800",
    "\\x00",
    "\0",
    "\r\n",
    '\nexport INNER="x"\n',
    '\nexport A B="y"\n',
    "#",
    "",
    "=",
    "\\e",
    "'",
    '\nexport OPEN="z\n',
)


def variations(area: str, vectors: Sequence[Inputs], count: int) -> Iterator[Inputs]:
    """Yield changed inputs: of every vector about equally many, `count` together."""
    for number in range(count):
        chance = random.Random(f"{area} {number}")
        base = vectors[number % len(vectors)]
        if area == "one_env":
            yield _vary_text(base, chance)
        elif area == "external_ipv4s":
            yield _vary_answer(base, chance)
        elif area == "detect_node":
            yield vary_detect_node(base, chance)
        elif area == "oneke_endpoints":
            yield vary_endpoints(base, chance)
        elif area in ("node_config", "backend_registration"):
            yield vary_node(base, chance)
        elif area == "cleaner":
            yield vary_cleaner(base, chance)
        elif area == "haproxy" and chance.random() < 0.6:
            yield _vary_registrations(base, chance)
        else:
            yield _vary(area, base, chance)


def _vary(area: str, base: Inputs, chance: random.Random) -> Inputs:
    context = dict(base.context)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        key = chance.choice(sorted(_POOLS[area]))
        name = key.format(
            n=chance.choice("0001112"), b=chance.choice("00001124"), s=chance.choice("0001")
        )
        if chance.random() < 0.1:
            context.pop(name, None)
        else:
            context[name] = chance.choice(_POOLS[area][key])
    if chance.random() < 0.15 and context:
        context.pop(chance.choice(sorted(context)))
    call: dict[str, Any] = dict(base.call)
    previous = base.previous
    if area == "interfaces" and chance.random() < 0.6:
        call = {"spec": chance.choice(_LISTS)}
    if area in ("nat4", "router4") and chance.random() < 0.1:
        call["action"] = "stop"
    if area == "nat4" and chance.random() < 0.3:
        earlier = _vary("nat4", replace(base, previous=()), random.Random(chance.random()))
        previous = (*previous, earlier)
    onegate = base.onegate
    if area == "keepalived":
        told = chance.choice(("41", "41", 41, "x", "255"))
        onegate = {"service": {"SERVICE": {"id": told}}} if chance.random() < 0.15 else {}
    return Inputs(context, call, onegate, previous)


def _vary_registrations(base: Inputs, chance: random.Random) -> Inputs:
    """Let OneGate answer, with or without a change of the context."""
    return with_answers(_vary("haproxy", base, chance) if chance.random() < 0.3 else base, chance)


def _vary_text(base: Inputs, chance: random.Random) -> Inputs:
    text = str(base.call["text"])
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = [match.end() for match in re.finditer(r'="|"|\w', text)] or [0]
        at = chance.choice(places)
        text = text[:at] + chance.choice(_PIECES) + text[at:]
    if chance.random() < 0.1:
        at = chance.randrange(len(text) + 1)
        text = text[:at] + text[at + 1 :]
    return Inputs(call={"text": text})


def _vary_answer(base: Inputs, chance: random.Random) -> Inputs:
    """Change local interfaces and OneGate's answer about this VM."""
    links, onegate = deepcopy(base.call["ip_addr"]), deepcopy(dict(base.onegate))
    for _ in range(chance.choice((1, 1, 2, 3))):
        template = onegate.get("vm", {}).get("VM", {}).get("TEMPLATE", {})
        nics = template.get("NIC", [])
        listed = nics if isinstance(nics, list) else [nics]
        nic = chance.choice(listed) if listed else {}
        link = chance.choice(links) if links else {}
        change = chance.randrange(12)
        if change == 0:
            nic.pop(chance.choice(("MAC", "IP")), None)
        elif change == 1:
            nic["MAC"] = str(nic.get("MAC", "")).upper()
        elif change == 2:
            nic["IP"] = chance.choice(("10.77.1.64", "10.77.1.65", "172.22.5.64"))
        elif change == 3:
            link.pop(chance.choice(("ifname", "address", "addr_info")), None)
        elif change == 4:
            template["NIC"] = [*listed, dict(nic)]
        elif change == 5:
            template["NIC"] = chance.choice(([], {}, dict(nic)))
        elif change == 6:
            links = chance.choice(([], [*links, deepcopy(link)], list(reversed(links))))
        elif change == 7:
            onegate = chance.choice(({}, onegate))
        elif change == 8:
            links.append({"ifname": "tun0", "addr_info": []})
        elif change == 9:
            link["addr_info"] = [{"family": "inet", "local": nic.get("IP") or "10.0.0.1"}]
        elif change == 10:
            link["address"] = nic.get("MAC") or ""
        else:
            onegate.get("vm", {}).get("VM", {}).pop("ID", None)
    return Inputs(call={"ip_addr": links}, onegate=onegate)
