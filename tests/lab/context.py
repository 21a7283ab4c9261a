"""Context of a VM as values: what OpenNebula would write on its CONTEXT disc."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tests.lab.basics import LabError

Generation = Literal["current", "1.24"]
"""Of which templates a context is: those of today, or those of the 1.24 appliances."""

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Every NIC of a VM has all of these, mostly empty. Source: context.sh as oned 7.4 writes it.
_NIC_KEYS = (
    *("DNS", "EXTERNAL", "GATEWAY", "IP", "IP6", "IP6_GATEWAY", "IP6_METHOD", "IP6_METRIC"),
    *("IP6_PREFIX_LENGTH", "IP6_ULA", "MAC", "MASK", "METHOD", "METRIC", "MTU", "NETWORK"),
    *("ROUTES", "SEARCH_DOMAIN", "VLAN_ID", "VROUTER_IP", "VROUTER_IP6", "VROUTER_MANAGEMENT"),
)


@dataclass(frozen=True)
class Network:
    """A virtual network of the cloud, as far as a VM's context tells of it."""

    name: str
    subnet: ipaddress.IPv4Network
    gateway: str
    dns: str


PUBLIC = Network("Public", ipaddress.IPv4Network("10.2.11.0/24"), "10.2.11.1", "10.2.11.1")
PRIVATE = Network("Private", ipaddress.IPv4Network("172.20.0.0/24"), "", "10.2.11.1")

PUBLIC_VIP = "10.2.11.86"
PRIVATE_VIP = "172.20.0.86"
ONEGATE_ENDPOINT = "http://203.0.113.40:5030"


def mac_of(address: str) -> str:
    """The MAC that OpenNebula gives to the NIC with this address."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *ipaddress.IPv4Address(address).packed))


def nic_context(index: int, network: Network, address: str) -> dict[str, str]:
    """All `ETH<index>_*` keys of a NIC.

    Args:
        index: Its number.
        network: Where it is.
        address: Its address; empty for a NIC without one.
    """
    values = dict.fromkeys(_NIC_KEYS, "")
    values |= {
        "MAC": mac_of(address) if address else f"02:00:00:00:00:{index:02x}",
        "DNS": network.dns,
        "NETWORK": str(network.subnet.network_address),
        "MASK": str(network.subnet.netmask),
        "GATEWAY": network.gateway,
        "IP": address,
    }
    return {f"ETH{index}_{key}": value for key, value in values.items()}


def nic_attributes(network: Network, address: str) -> dict[str, str]:
    """A NIC as OneGate shows it."""
    return {"IP": address, "MAC": mac_of(address), "NETWORK": network.name}


def common_context(service_id: int | None) -> dict[str, str]:
    """What the context of every VM of the service holds, but VMID."""
    values = {
        "DISK_ID": "0",
        "NETWORK": "YES",
        "ONEGATE_ENDPOINT": ONEGATE_ENDPOINT,
        "REPORT_READY": "YES",
        "SSH_PUBLIC_KEY": "",
        "TARGET": "hda",
        "TOKEN": "YES",
    }
    return values if service_id is None else values | {"SERVICE_ID": str(service_id)}


def vnf_addresses(index: int) -> tuple[str, str]:
    """Public and private address of gateway number `index`, from 0."""
    return f"10.2.11.{200 + index}", f"172.20.0.{100 + index}"


def vnf_context(index: int, service_id: int | None) -> dict[str, str]:
    """Context of gateway number `index` of the service, but VMID."""
    public, private = vnf_addresses(index)
    values = common_context(service_id)
    values |= nic_context(0, PUBLIC, public) | nic_context(1, PRIVATE, private)
    return values | gateway_inputs()


def gateway_inputs() -> dict[str, str]:
    """What today's templates give a gateway."""
    values = {
        "ONEAPP_VROUTER_ETH0_VIP0": PUBLIC_VIP,
        "ONEAPP_VROUTER_ETH1_VIP0": PRIVATE_VIP,
        "ONEAPP_VNF_HAPROXY_ENABLED": "YES",
        "ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": "YES",
        "ONEAPP_VNF_HAPROXY_REFRESH_RATE": "30",
        "ONEAPP_VNF_NAT4_ENABLED": "YES",
        "ONEAPP_VNF_NAT4_INTERFACES_OUT": "eth0",
        "ONEAPP_VNF_ROUTER4_ENABLED": "YES",
        "ONEAPP_VNF_ROUTER4_INTERFACES": "eth0,eth1",
    }
    for number, port in enumerate((9345, 6443, 443, 80)):
        values[f"ONEAPP_VNF_HAPROXY_LB{number}_IP"] = "<ETH0_EP0>"
        values[f"ONEAPP_VNF_HAPROXY_LB{number}_PORT"] = str(port)
    return values


def role_context(role: str, generation: Generation = "current") -> dict[str, str]:
    """Context of a VM of a role, but for VMID and what its NICs are given.

    Templates of the 1.24 generation give all VMs the same. Source: the recordings 001 and 002 of
    OneGate.
    """
    if generation == "1.24":
        return common_context(None) | _INPUTS_1_24
    inputs = {
        "ONEAPP_VROUTER_ETH0_VIP0": PUBLIC_VIP,
        "ONEAPP_VROUTER_ETH1_VIP0": PRIVATE_VIP,
        **(_vnf_inputs() if role == "vnf" else _NODE_INPUTS),
        **_ROLE_INPUTS.get(role, {}),
    }
    return common_context(None) | inputs


def _vnf_inputs() -> dict[str, str]:
    """The gateway answers for ep0.eth0.vr, which nodes join under."""
    return gateway_inputs() | {
        "ONEAPP_VNF_DNS_ENABLED": "YES",
        "ONEAPP_VNF_DNS_INTERFACES": "eth1",
        "ONEAPP_VNF_DNS_NAMESERVERS": "10.2.11.1",
    }


_INPUTS_1_24 = {
    "ONEAPP_K8S_EXTRA_SANS": "localhost,127.0.0.1,k8s.yourdomain.it",
    "ONEAPP_K8S_LOADBALANCER_CONFIG": "",
    "ONEAPP_K8S_LOADBALANCER_RANGE": "172.20.0.87-172.20.0.88",
    "ONEAPP_STORAGE_DEVICE": "/dev/vdb",
    "ONEAPP_STORAGE_FILESYSTEM": "xfs",
    "ONEAPP_VNF_HAPROXY_CONFIG": "",
    "ONEAPP_VNF_HAPROXY_INTERFACES": "eth0",
    "ONEAPP_VNF_HAPROXY_LB0_IP": PUBLIC_VIP,
    "ONEAPP_VNF_HAPROXY_LB0_PORT": "9345",
    "ONEAPP_VNF_HAPROXY_LB1_IP": PUBLIC_VIP,
    "ONEAPP_VNF_HAPROXY_LB1_PORT": "6443",
    "ONEAPP_VNF_HAPROXY_LB2_IP": PUBLIC_VIP,
    "ONEAPP_VNF_HAPROXY_LB2_PORT": "443",
    "ONEAPP_VNF_HAPROXY_LB3_IP": PUBLIC_VIP,
    "ONEAPP_VNF_HAPROXY_LB3_PORT": "80",
    "ONEAPP_VNF_HAPROXY_REFRESH_RATE": "30",
    "ONEAPP_VNF_KEEPALIVED_VRID": "1",
    "ONEAPP_VNF_NAT4_ENABLED": "YES",
    "ONEAPP_VNF_NAT4_INTERFACES_OUT": "eth0",
    "ONEAPP_VNF_ROUTER4_ENABLED": "YES",
    "ONEAPP_VNF_ROUTER4_INTERFACES": "eth0,eth1",
    "ONEAPP_VROUTER_ETH0_VIP0": PUBLIC_VIP,
    "ONEAPP_VROUTER_ETH1_VIP0": PRIVATE_VIP,
}
_NODE_INPUTS = {
    "ONEAPP_RKE2_SUPERVISOR_EP": "ep0.eth0.vr:9345",
    "ONEAPP_K8S_CONTROL_PLANE_EP": "ep0.eth0.vr:6443",
}
_ROLE_INPUTS = {
    "master": {
        "ONEAPP_K8S_EXTRA_SANS": "localhost,127.0.0.1,ep0.eth0.vr",
        "ONEAPP_K8S_CNI_PLUGIN": "cilium",
        "ONEAPP_K8S_LONGHORN_ENABLED": "YES",
        "ONEAPP_K8S_METALLB_ENABLED": "NO",
        "ONEAPP_K8S_MULTUS_ENABLED": "NO",
        "ONEAPP_K8S_TRAEFIK_ENABLED": "YES",
    },
    "worker": {
        "ONEAPP_VNF_HAPROXY_LB2_IP": "<ETH0_EP0>",
        "ONEAPP_VNF_HAPROXY_LB2_PORT": "443",
        "ONEAPP_VNF_HAPROXY_LB3_IP": "<ETH0_EP0>",
        "ONEAPP_VNF_HAPROXY_LB3_PORT": "80",
    },
    "storage": {
        "ONEAPP_K8S_LONGHORN_ENABLED": "YES",
        "ONEAPP_STORAGE_DEVICE": "/dev/vdb",
        "ONEAPP_STORAGE_FILESYSTEM": "xfs",
    },
}


def override(context: Mapping[str, str], changes: Mapping[str, object]) -> dict[str, str]:
    """The context with keys set (as text) or, where the value is None, taken away."""
    changed = dict(context)
    for key, value in changes.items():
        if value is None:
            changed.pop(key, None)
        else:
            changed[key] = str(value)
    return changed


def context_text(context: Mapping[str, str]) -> str:
    """Text of context.sh: sorted, each value in single quotes, as the shell reads them.

    Raises:
        LabError: If a key can not be a variable's name.
    """
    lines = ["# Context variables generated by OpenNebula"]
    for key in sorted(context):
        if not _KEY.fullmatch(key):
            raise LabError(f"context key {key!r}: expected letters, digits and underscores")
        value = context[key].replace("'", "'\\''")
        lines.append(f"{key}='{value}'")
    return "\n".join(lines) + "\n"
