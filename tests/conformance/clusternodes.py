"""The areas about a node of the cluster: its endpoints, RKE2's settings, what it publishes.

A node's interfaces are told by OneGate's document about its VM, for the contexts name none.
RKE2's settings name the files that tokens are in; what is in them then stands in their place.
`node-ip` and the VM's label, which the reference has not, are left out, and so is the agents' own
token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from appliance.context import Context
from appliance.decision import parse_for_role
from appliance.errors import OneGateUnavailable, OnekeError, ParameterProblems
from appliance.parameters import build_view
from appliance.paths import packaged_services
from appliance.service import Service, load_services
from appliance.system.network import parse_links
from appliance.system.onegate import parse_vm
from roles.common.clusterstate import AGENT_TOKEN, SERVER_TOKEN
from roles.common.election import MASTER_KEY, TOKEN_KEY
from roles.common.endpoints import (
    ClusterEndpoint,
    ClusterNode,
    Endpoints,
    build_endpoints,
    build_node,
    build_tls_sans,
    find_node_nic,
)
from roles.common.opennebula import OpenNebulaParams
from roles.common.registration import (
    registration_of_node,
    registration_of_server,
    registration_of_worker,
)
from roles.common.rke2check import check_rke2
from roles.common.rke2config import (
    SERVICE_LABEL,
    VM_LABEL,
    build_agent_config,
    build_server_config,
    published_kubeconfig,
)
from roles.common.rke2environment import build_environment
from roles.common.rke2params import (
    AirgapParams,
    BalancerParams,
    RegistryParams,
    Rke2Params,
    VipParams,
)
from tests.conformance.ownaddresses import configured_addresses
from tests.conformance.vectors import Inputs

_ROLES = {
    "init_master": "master",
    "join_master": "master",
    "join_worker": "worker",
    "join_storage": "storage",
}
_NODE_TOKEN = "K10feed::server:feed"
_KUBECONFIG = "clusters:\n- cluster:\n    server: https://127.0.0.1:6443\n"


@dataclass(frozen=True)
class _Params:
    opennebula: OpenNebulaParams
    keepalived: VipParams
    haproxy: BalancerParams
    rke2: Rke2Params
    registries: RegistryParams
    airgap: AirgapParams


@cache
def _services() -> dict[str, Service]:
    used = {field.name for field in fields(_Params)}
    services = load_services([packaged_services()])
    return {name: service for name, service in services.items() if name in used}


def _parse(context: Mapping[str, str], role: str) -> _Params:
    parsed, _ = parse_for_role(role, Context(context, "vector"), _services())
    if parsed.problems:
        raise ParameterProblems(parsed.problems)
    return build_view(_Params, parsed.values)


def decide_endpoints(inputs: Inputs) -> dict[str, Any]:
    """Tell by which addresses the cluster is reached, as a node knows it before any other is up."""
    params = _parse(inputs.context, "master")
    found = build_endpoints(params)
    return {
        "supervisor_endpoint": _text(found.supervisor),
        "control_plane_endpoint": _text(found.control_plane),
        "supervisor_url": found.supervisor.url if found.supervisor else None,
        "load_balancers": [
            {
                "index": one.number,
                "ip": None if one.address is None else str(one.address),
                "port": one.port,
            }
            for one in found.balancers
        ],
        "tls_sans": list(build_tls_sans(params, found)),
    }


def _text(endpoint: ClusterEndpoint | None) -> str | None:
    return str(endpoint) if endpoint else None


@dataclass(frozen=True)
class _Node:
    """A node that was decided on: `action` is what it does to come into the cluster."""

    action: str
    params: _Params
    node: ClusterNode

    @property
    def role(self) -> str:
        return _ROLES[self.action]

    @property
    def endpoints(self) -> Endpoints:
        return self.node.endpoints


def _decide_node(inputs: Inputs) -> _Node:
    action = inputs.call["role"]
    params = _parse({**_interfaces(inputs), **inputs.context}, _ROLES[action])
    problems, _ = check_rke2(params)
    if problems:
        raise ParameterProblems(problems)
    own = str(find_node_nic(params).address.ip)
    node = build_node(params, first_master=own if action == "init_master" else "")
    if node.endpoints.supervisor is None:
        raise OnekeError("no master is known yet, and no gateway")
    return _Node(action, params, node)


def _interfaces(inputs: Inputs) -> dict[str, str]:
    """Return what the context would say of the interfaces that are configured."""
    document = inputs.onegate.get("vm")
    if not document:
        raise OneGateUnavailable("no answer about this VM")
    nics = parse_vm(document).nics
    told = inputs.call.get("ip_addr")
    configured = {nic.ip for nic in nics}
    if told is not None:
        configured = set(map(str, configured_addresses(nics, parse_links(told))))
    return {f"ETH{number}_IP": nic.ip for number, nic in enumerate(nics) if nic.ip in configured}


def decide_config(inputs: Inputs) -> dict[str, Any]:
    """Tell RKE2's settings in the end, and those of the founder's very first start."""
    found = _decide_node(inputs)
    is_master = found.role == "master"
    unit = f"rke2-{'server' if is_master else 'agent'}"
    environment = build_environment(found.params, found.node)
    founds = found.action == "init_master"
    token = _NODE_TOKEN if founds else inputs.call["token"]
    decision: dict[str, Any] = {
        "node_name": found.node.node_name,
        "config": _config(found, str(found.endpoints.supervisor), token),
        "unit": f"{unit}.service",
        "environment_file": (
            {"path": f"/etc/default/{unit}", "vars": dict(environment)} if environment else None
        ),
    }
    if founds:
        decision["first_start_config"] = _config(found, "", "<generated>")
    if is_master:
        published = published_kubeconfig(_KUBECONFIG, found.node)
        decision["published_kubeconfig_server"] = published.split("server: ")[1].strip()
    return decision


def _config(found: _Node, server: str, token: str) -> dict[str, Any]:
    params, node = found.params, found.node
    config = (
        build_server_config(params, node, server=server)
        if found.role == "master"
        else build_agent_config(params, node, server=server, is_storage=found.role == "storage")
    )
    file = SERVER_TOKEN if found.role == "master" else AGENT_TOKEN
    assert config.pop("token-file") == str(file)
    config.pop("agent-token-file", None)
    config.pop("node-ip")
    labels = config.pop("node-label", [])
    assert isinstance(labels, list)
    own = (VM_LABEL, SERVICE_LABEL)
    others = [label for label in labels if label.partition("=")[0] not in own]
    return {**config, "token": token, **({"node-label": others} if others else {})}


def decide_registration(inputs: Inputs) -> dict[str, Any]:
    """Tell what the node has published once it is a part of the cluster."""
    found = _decide_node(inputs)
    published = registration_of_node(found.node)
    if found.role == "worker":
        published |= registration_of_worker(found.node)
    elif found.role == "master":
        token = _NODE_TOKEN if found.action == "init_master" else inputs.call["token"]
        own = {MASTER_KEY: str(found.node.address), TOKEN_KEY: token}
        published |= registration_of_server(found.node) | own
    return {"published": published}
