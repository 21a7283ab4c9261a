"""Nodes of a cluster that tests start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.context import Context
from appliance.decision import parse_for_role
from appliance.errors import Problem
from appliance.parameters import build_view
from roles.common.endpoints import ClusterNode, build_node
from roles.common.opennebula import OpenNebulaParams
from roles.common.rke2params import (
    AirgapParams,
    BalancerParams,
    RegistryParams,
    Rke2Params,
    VipParams,
)
from tests.contexts import SERVICES

NODE: Mapping[str, str] = {
    "VMID": "367",
    "SERVICE_ID": "23",
    "ONEGATE_ENDPOINT": "http://203.0.113.40:5030",
    "ETH0_IP": "172.20.0.101",
    "ETH0_MASK": "255.255.255.0",
    "ETH0_NETWORK": "172.20.0.0",
    "ETH0_MAC": "02:00:ac:14:00:65",
    "ONEAPP_VROUTER_ETH0_VIP0": "10.2.11.86",
    "ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.86",
}


@dataclass(frozen=True)
class Params:
    """What the modules about RKE2 read."""

    opennebula: OpenNebulaParams
    keepalived: VipParams
    haproxy: BalancerParams
    rke2: Rke2Params
    registries: RegistryParams
    airgap: AirgapParams


def parse_node(context: Context, role: str = "worker") -> tuple[Params, tuple[Problem, ...]]:
    """Parse a node's parameters, with the problems of single ones."""
    parsed, _ = parse_for_role(role, context, SERVICES)
    return build_view(Params, parsed.values), parsed.problems


def params_of(role: str = "worker", /, **changes: str | None) -> Params:
    """Return the sound parameters of a node whose context differs so from the usual one."""
    values = {key: value for key, value in {**NODE, **changes}.items() if value is not None}
    params, problems = parse_node(Context(values, "test"), role)
    assert problems == ()
    return params


def node_of(role: str = "worker", /, **changes: str | None) -> ClusterNode:
    """Return the node whose context differs so from the usual one."""
    return build_node(params_of(role, **changes))
