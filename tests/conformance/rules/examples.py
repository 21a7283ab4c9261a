"""An example for every rule that no vector of the data falls under."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.conformance.rules import cleaning, cluster, clusterexamples, components, electing
from tests.conformance.vectors import Inputs

_KEEPALIVED = "ONEAPP_VNF_KEEPALIVED_"
_BALANCER = "ONEAPP_VNF_HAPROXY_LB0_"
_FORWARD = "ONEAPP_VNF_NAT4_PORT_FWD0"

_NICS = {
    "ETH0_IP": "198.51.100.10",
    "ETH0_MASK": "255.255.255.0",
    "ETH1_IP": "10.77.0.10",
    "ETH1_MASK": "255.255.0.0",
}
_VIP = {"ONEAPP_VROUTER_ETH0_VIP0": "198.51.100.200"}
_SERVED = {
    f"{_BALANCER}IP": "198.51.100.10",
    f"{_BALANCER}PORT": "6443",
    f"{_BALANCER}SERVER0_HOST": "10.77.1.1",
    f"{_BALANCER}SERVER0_PORT": "6443",
}
_BASES: Mapping[str, Mapping[str, str]] = {
    "interfaces": _NICS,
    "addresses": _NICS,
    "keepalived": _NICS | _VIP | {f"{_KEEPALIVED}VRID": "42"},
    "haproxy": _NICS | _VIP | _SERVED | {"ONEAPP_VNF_HAPROXY_ENABLED": "YES"},
    "nat4": _NICS | {"ONEAPP_VNF_NAT4_ENABLED": "YES", "ONEAPP_VNF_NAT4_INTERFACES_OUT": "eth0"},
    "router4": _NICS | {"ONEAPP_VNF_ROUTER4_ENABLED": "YES"},
    "node_network": {"ONEAPP_VROUTER_ETH1_VIP0": "10.77.0.200"},
}
_LISTS = {
    "interfaces": "",
    "keepalived": f"{_KEEPALIVED}INTERFACES",
    "haproxy": "ONEAPP_VNF_HAPROXY_INTERFACES",
    "nat4": "ONEAPP_VNF_NAT4_INTERFACES_OUT",
    "router4": "ONEAPP_VNF_ROUTER4_INTERFACES",
}
_OLDER_NAME_FIRST = {"ETH1_VROUTER_IP": "10.77.0.300", "ONEAPP_VROUTER_ETH1_VIP0": "10.77.0.200"}

# Changes to the base, by area and rule.
_CHANGES: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("addresses", "blanks-around"): {
        "ETH0_IP": " 198.51.100.10",
        "ETH0_MASK": "",
        "ETH0_NETWORK": "198.51.100.0",
    },
    ("addresses", "older-control-plane-address"): {"ONEAPP_VNF_LB0_IP": "198.51.100.220:6443"},
    ("addresses", "reference-stumbles"): {"ETH0_IP": "198.51.100.10/"},
    ("interfaces", "switch-words"): {"ETH1_VROUTER_MANAGEMENT": "true"},
    ("keepalived", "password-not-writable"): {f"{_KEEPALIVED}PASSWORD": 'a"b'},
    ("keepalived", "interval-beyond-vrrp-3"): {
        f"{_KEEPALIVED}ETH1_VRID": "43",
        f"{_KEEPALIVED}ETH0_INTERVAL": "0.5",
        f"{_KEEPALIVED}ETH1_INTERVAL": "60",
    },
    ("keepalived", "no-password-in-vrrp-3"): {
        f"{_KEEPALIVED}INTERVAL": "0.5",
        f"{_KEEPALIVED}PASSWORD": "secret",
    },
    ("keepalived", "switch-words"): {f"{_KEEPALIVED}ETH0_SKIP": "true"},
    ("keepalived", "speaker-order"): {f"{_KEEPALIVED}INTERFACES": "eth1/10.77.0.10 eth0"},
    ("keepalived", "router-id-text"): {f"{_KEEPALIVED}ETH1_VRID": "042"},
    ("keepalived", "router-id-source"): {f"{_KEEPALIVED}VRID": "", "VM_ID": "17"},
    ("keepalived", "reference-stumbles"): _OLDER_NAME_FIRST,
    ("haproxy", "unknown-source"): {"ONEAPP_VNF_LB_ONEGATE_API": "oneflow"},
    ("haproxy", "malformed-number"): {"ONEAPP_VNF_HAPROXY_REFRESH_RATE": "often"},
    ("haproxy", "balancer-incomplete"): {"ONEAPP_VNF_HAPROXY_LB4_IP": "198.51.100.10"},
    ("haproxy", "server-incomplete"): {f"{_BALANCER}SERVER1_HOST": "10.77.1.2"},
    ("haproxy", "balancers-share-endpoint"): {
        key.replace("LB0", "LB1"): text for key, text in _SERVED.items()
    },
    ("haproxy", "address-by-value"): {"ETH0_IP": "198.51.100.10/24"},
    ("haproxy", "texts-as-written"): {f"{_BALANCER}PORT": "06443"},
    ("nat4", "forward-reading"): {_FORWARD: "8443:<ETH1_IP0>:443"},
    ("nat4", "switch-words"): {"ONEAPP_VNF_NAT4_ENABLED": "true"},
    ("router4", "switch-words"): {"ONEAPP_VNF_ROUTER4_ENABLED": "on"},
    ("node_network", "unclear-switch"): {"ONEAPP_VNF_DNS_ENABLED": "maybe"},
    ("node_network", "gateway-out-of-reach"): {"ETH0_IP": "198.51.100.10"},
    ("node_network", "address-text"): {"ONEAPP_VROUTER_ETH1_VIP0": "10.77.0.200/16"},
    ("router4", "reference-stumbles"): {
        "ONEAPP_VNF_ROUTER4_INTERFACES": "198.51.100.200",
        "ETH0_VROUTER_IP": "vip",
        "ONEAPP_VROUTER_ETH0_VIP0": "198.51.100.200",
    },
}
# The same change in every area that has the rule.
_EVERYWHERE: Mapping[str, Mapping[str, str]] = {
    "malformed-address": {"ETH1_NETWORK": "10.77.0.0/16"},
    "malformed-number": {"VMID": "first"},
    "unclear-switch": {"ETH1_VROUTER_MANAGEMENT": "maybe"},
    "floating-address-without-nic": {"ONEAPP_VROUTER_ETH5_VIP0": "203.0.113.5"},
}
_EXAMPLE_LISTS = {
    "list-unknown-item": "eth0 lan0",
    "list-port": "eth0@dns",
    "list-missing-nic": "eth0 eth7",
    "list-reading": "eth0\teth1",
}
_REGISTRATION = "ONEGATE_HAPROXY_LB0_"
_FOLLOWS = {"ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": "YES", "SERVICE_ID": "7"}


def _followed(
    context: Mapping[str, str] | None = None,
    registration: Mapping[str, str] | None = None,
    lcm_state: str = "3",
) -> Inputs:
    """Return a gateway that follows OneGate, where one VM registers a server."""
    attributes = {
        f"{_REGISTRATION}IP": "198.51.100.10",
        f"{_REGISTRATION}PORT": "6443",
        f"{_REGISTRATION}SERVER_HOST": "10.77.1.61",
        f"{_REGISTRATION}SERVER_PORT": "6443",
        **(registration or {}),
    }
    vm = {"ID": "61", "LCM_STATE": lcm_state, "USER_TEMPLATE": attributes}
    roles = [{"name": "master", "nodes": [{"vm_info": {"VM": {"ID": "61"}}}]}]
    service = {"SERVICE": {"id": "7", "roles": roles}}
    documents = {"service": service, "vms": [{"VM": vm}]}
    return Inputs({**_BASES["haproxy"], **_FOLLOWS, **(context or {})}, onegate=documents)


def _half_answered() -> Inputs:
    """Return a router of two networks, of which one can not be read."""
    lease = {
        "BACKEND": "YES",
        f"{_REGISTRATION}IP": "198.51.100.10",
        f"{_REGISTRATION}PORT": "6443",
        f"{_REGISTRATION}SERVER_HOST": "10.77.1.61",
        f"{_REGISTRATION}SERVER_PORT": "6443",
    }
    nics = [{"NETWORK_ID": "3"}, {"NETWORK_ID": "4"}]
    network = {"ID": "3", "AR_POOL": {"AR": [{"LEASES": {"LEASE": [lease]}}]}}
    router = {"VROUTER": {"ID": "31", "TEMPLATE": {"NIC": nics}}}
    return Inputs(
        {**_BASES["haproxy"], **_FOLLOWS, "SERVICE_ID": "", "VROUTER_ID": "31"},
        onegate={"vrouter": router, "vnets": [{"VNET": network}]},
    )


_OTHERS: Mapping[tuple[str, str], Inputs] = {
    **{("cleaner", rule): example for rule, example in cleaning.EXAMPLES.items()},
    **{("detect_node", rule): example for rule, example in electing.EXAMPLES.items()},
    ("haproxy", "discovery-switch"): _followed({"ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": "true"}),
    ("haproxy", "discovery-source"): _followed({"VROUTER_ID": "31"}),
    ("haproxy", "half-an-answer"): _half_answered(),
    ("haproxy", "leaving-vm"): _followed(lcm_state="12"),
    ("haproxy", "registration-id"): _followed({"SERVICE_ID": "07"}, {f"{_REGISTRATION}ID": "7"}),
    ("haproxy", "registration-address"): _followed(
        registration={f"{_REGISTRATION}IP": "<ONEAPP_VROUTER_ETH0_VIP0>"},
        context={f"{_BALANCER}IP": "198.51.100.200"},
    ),
    ("haproxy", "registration-server"): _followed(
        registration={f"{_REGISTRATION}SERVER_HOST": "127.0.0.1"}
    ),
    ("interfaces", "reference-stumbles"): Inputs(
        {**_NICS, **_OLDER_NAME_FIRST}, {"spec": "10.77.0.200"}
    ),
    ("one_env", "no-export-at-all"): Inputs(call={"text": "ALPHA=1\n"}),
    ("one_env", "escapes"): Inputs(call={"text": 'export SHARE="\\\\nas\\new"\n'}),
    ("one_env", "otherwise-refused"): Inputs(call={"text": 'export A="1"\nexport B C="2"\n'}),
}


def example_of(area: str, rule: str) -> Inputs | None:
    """Return inputs that a rule concerns, where the vectors show none."""
    if area == "external_ipv4s":
        return _external_example(rule)
    if area in ("metallb", "cilium"):
        return components.example_of_component(area, rule)
    if area in cluster.OUTCOMES:
        return clusterexamples.example_of_node(area, rule)
    if area not in _BASES or (area, rule) in _OTHERS:
        return _OTHERS.get((area, rule))
    changes = dict(_CHANGES.get((area, rule)) or _EVERYWHERE.get(rule) or {})
    spec = _EXAMPLE_LISTS.get(rule)
    call: dict[str, Any] = {"spec": spec or ""} if area == "interfaces" else {}
    if spec is not None and area != "interfaces":
        changes[_LISTS[area]] = spec
    return Inputs({**_BASES[area], **changes}, call) if changes or spec is not None else None


def _external_example(rule: str) -> Inputs | None:
    if rule != "not-of-this-machine":
        return None
    nic = {"IP": "10.77.1.64", "MAC": "02:00:0a:4d:01:40"}
    link = {
        "ifname": "eth0",
        "address": nic["MAC"],
        "addr_info": [{"family": "inet", "local": nic["IP"], "prefixlen": 24}],
    }
    document = {"VM": {"ID": "64", "TEMPLATE": {"NIC": [nic, nic]}}}
    return Inputs(call={"ip_addr": [link]}, onegate={"vm": document})
