"""The service that is measured: its gateways, and workers that exist in OneGate only."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.gateway.farm import server_address
from tests.lab.basics import LabError
from tests.lab.context import PRIVATE, common_context, nic_attributes, nic_context
from tests.lab.gateway_node import agent
from tests.lab.lab import Lab
from tests.lab.node import Node

DEPLOYING, RUNNING = 1, 2
INGRESS_PORTS = {2: ("443", "32443"), 3: ("80", "32080")}
FOLLOW: Mapping[str, Any] = {"ONEAPP_VNF_HAPROXY_REFRESH_RATE": "1"}


def registration(number: int, balancers: Sequence[int] = (2, 3)) -> dict[str, str]:
    """What worker number `number` writes to be behind the ingress balancers, as real ones do."""
    values: dict[str, str] = {}
    for balancer in balancers:
        port, server_port = INGRESS_PORTS[balancer]
        stem = f"ONEGATE_HAPROXY_LB{balancer}_"
        values |= {
            f"{stem}IP": "<ETH0_EP0>",
            f"{stem}PORT": port,
            f"{stem}SERVER_HOST": server_address(number),
            f"{stem}SERVER_PORT": server_port,
        }
    return values


def worker_template(number: int) -> dict[str, str]:
    """A user template as big as real ones: inputs of the service, the node's own words, a token."""
    noise = random.Random(number)  # the same at every run
    return {
        "HYPERVISOR": "kvm",
        "INPUTS_ORDER": "",
        "LOGO": "images/logos/linux.png",
        "LXD_SECURITY_PRIVILEGED": "true",
        "MEMORY_UNIT_COST": "MB",
        **_inputs(),
        "ONEGATE_K8S_HASH": noise.randbytes(16).hex(),
        "ONEGATE_K8S_MASTER": "172.20.0.101",
        "ONEGATE_K8S_NODE_NAME": f"oneke-ip-{server_address(number).replace('.', '-')}",
        "ONEGATE_K8S_TOKEN": f"K10{noise.randbytes(32).hex()}::server:{noise.randbytes(16).hex()}",
        "ONEGATE_VXLAN_NOTE": base64.b64encode(noise.randbytes(384)).decode(),
        "READY": "YES",
    }


def _inputs() -> dict[str, str]:
    values = {
        "ONEAPP_K8S_EXTRA_SANS": "localhost,127.0.0.1,k8s.yourdomain.it",
        "ONEAPP_K8S_LOADBALANCER_CONFIG": "",
        "ONEAPP_K8S_LOADBALANCER_RANGE": "172.20.0.87-172.20.0.88",
        "ONEAPP_STORAGE_DEVICE": "/dev/vdb",
        "ONEAPP_STORAGE_FILESYSTEM": "xfs",
        "ONEAPP_VNF_HAPROXY_CONFIG": "",
        "ONEAPP_VNF_HAPROXY_INTERFACES": "eth0",
        "ONEAPP_VNF_HAPROXY_REFRESH_RATE": "30",
        "ONEAPP_VNF_KEEPALIVED_VRID": "1",
        "ONEAPP_VNF_NAT4_ENABLED": "YES",
        "ONEAPP_VNF_NAT4_INTERFACES_OUT": "eth0",
        "ONEAPP_VNF_ROUTER4_ENABLED": "YES",
        "ONEAPP_VNF_ROUTER4_INTERFACES": "eth0,eth1",
        "ONEAPP_VROUTER_ETH0_VIP0": "10.2.11.86",
        "ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.86",
    }
    for number, port in enumerate((9345, 6443, 443, 80)):
        values[f"ONEAPP_VNF_HAPROXY_LB{number}_IP"] = "<ETH0_EP0>"
        values[f"ONEAPP_VNF_HAPROXY_LB{number}_PORT"] = str(port)
    return values


@dataclass
class Workers:
    """The workers of the service, by number."""

    lab: Lab
    vms: dict[int, str] = field(default_factory=dict)

    def add(self, number: int, registered: Mapping[str, str] | None = None) -> None:
        """Let a worker be, with what it registers; with both ingress balancers if None."""
        address = server_address(number)
        values = registration(number) if registered is None else registered
        made = self.lab.onegate.add_vm(
            role="worker",
            service_id=self.lab.service_id,
            nics=[nic_attributes(PRIVATE, address)],
            user_template=worker_template(number) | dict(values),
            context=common_context(self.lab.service_id)
            | nic_context(0, PRIVATE, address)
            | _inputs(),
        )
        self.vms[number] = made["id"]

    def register(self, number: int, balancers: Sequence[int] = (2, 3)) -> None:
        """Let a worker register."""
        self.lab.onegate.set_user_template(self.vms[number], registration(number, balancers))

    def withdraw(self, number: int) -> None:
        """Let a worker take back all it registered."""
        nothing: dict[str, Any] = dict.fromkeys(registration(number))
        self.lab.onegate.set_user_template(self.vms[number], nothing)

    def remove(self, number: int) -> None:
        """Let a worker's VM go, as OneFlow does: out of its role, the cardinality lowered."""
        self.lab.onegate.remove_vm(self.vms.pop(number))
        self.lab.onegate.set_service(
            self.lab.service_id, roles={"worker": {"cardinality": len(self.vms)}}
        )


def wait_well(nodes: Sequence[Node], timeout_s: float = 90) -> None:
    """Wait until the agent of each node finds everything as it should be."""
    for node in nodes:

        def well(node: Node = node) -> bool:
            done = agent(node, "status")
            if done.returncode != 0:
                raise LabError(f"status {done.returncode}: {done.stdout[-1500:]}{done.stderr}")
            return True

        node.wait_until(well, timeout_s, "to be well")


def server_statistics(node: Node) -> dict[str, tuple[str, int]]:
    """Status and number of connections of each server of HAProxy, as `backend/name`."""
    shown = node.run(["socat", "-t5", "-", "/run/haproxy/admin.sock"], input="show stat\n").stdout
    lines = [line.split(",") for line in shown.splitlines() if line.strip()]
    names = {name.lstrip("# "): number for number, name in enumerate(lines[0])}
    return {
        f"{line[names['pxname']]}/{line[names['svname']]}": (
            line[names["status"]],
            int(line[names["scur"]] or 0),
        )
        for line in lines[1:]
        if line[names["type"]] == "2"
    }


def versions_of(node: Node) -> str:
    """The programs measured."""
    script = "haproxy -v | head -1; keepalived --version 2>&1 | head -1; /opt/oneke/bin/python -V"
    lines = node.run(["bash", "-c", script]).stdout.splitlines()
    haproxy = lines[0].split()[2].partition("-")[0]
    keepalived = lines[1].split()[1].lstrip("v")
    return f"HAProxy {haproxy}, keepalived {keepalived}, {lines[2]}"
