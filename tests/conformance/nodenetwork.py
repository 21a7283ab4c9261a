"""The adapter of the area `node_network`: gateway and resolver of a node that is no gateway."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from ipaddress import IPv4Address
from typing import Any

from appliance.context import Context
from appliance.decision import parse_for_role
from appliance.errors import ParameterProblems
from appliance.facts import Facts
from appliance.parameters import build_view
from appliance.paths import packaged_services
from appliance.service import Service, load_services
from roles.common.nameserver import AnswersQuestions
from roles.common.nodenetwork import (
    NetworkParams,
    NodeDnsParams,
    build_node_network,
    check_node_network,
    node_network_facts,
)
from roles.common.opennebula import OpenNebulaParams
from roles.common.rke2params import VipParams
from tests.conformance.vectors import Inputs


@dataclass(frozen=True)
class _Params:
    opennebula: OpenNebulaParams
    keepalived: VipParams
    dns: NodeDnsParams
    network: NetworkParams


@cache
def _services() -> dict[str, Service]:
    used = {field.name for field in fields(_Params)}
    services = load_services([packaged_services()])
    return {name: service for name, service in services.items() if name in used}


def decide_node_network(inputs: Inputs) -> dict[str, Any]:
    """Tell gateway and name server, where a name server that is asked answers."""
    parsed, _ = parse_for_role("master", Context(inputs.context, "vector"), _services())
    params = build_view(_Params, parsed.values)
    problems = (*parsed.problems, *check_node_network(params).problems)
    if problems:
        raise ParameterProblems(problems)
    wanted = node_network_facts(params)
    probes = [*wanted.probes, *wanted.lasting]
    seen = {probe: True for probe in probes if isinstance(probe, AnswersQuestions)}
    network = build_node_network(params, Facts(seen=seen))
    return {
        "default_gateway": _text(network.gateway),
        "nameserver": _text(network.nameserver),
    }


def _text(address: IPv4Address | None) -> str | None:
    return str(address) if address else None
