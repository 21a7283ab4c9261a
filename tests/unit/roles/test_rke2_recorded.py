"""The recorded context of a 1.24 master boots unchanged; other nodes' differ in addresses only."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.context import parse_context
from appliance.decision import decide
from appliance.parameters import find_near_misses
from appliance.service import all_names
from roles.common.components import build_manifests
from roles.common.endpoints import build_node
from roles.common.registration import registration_of_server
from roles.common.rke2check import check_rke2
from roles.common.rke2config import build_agent_config, build_server_config
from tests.contexts import SERVICES
from tests.unit.roles.nodes import parse_node

RECORDING = (
    Path(__file__).parents[2] / "data" / "onegate-recordings" / "7.4" / "002-context-master.txt"
)
CONTEXT = parse_context(RECORDING.read_text(encoding="utf-8"), "recording")


@pytest.mark.parametrize("role", ["master", "worker", "storage"])
def test_every_role_takes_it_without_a_problem_or_a_warning(role: str) -> None:
    params, problems = parse_node(CONTEXT, role)
    assert problems == ()
    assert check_rke2(params) == ([], [])
    assert find_near_misses(all_names(SERVICES.values()), CONTEXT) == ()


def test_a_master_becomes_what_a_1_24_master_was() -> None:
    params, _ = parse_node(CONTEXT, "master")
    node = build_node(params)
    assert build_server_config(params, node, server=str(node.endpoints.supervisor)) == {
        "server": "https://10.2.11.86:9345",
        "node-name": "oneke-ip-172-20-0-123",
        "node-ip": "172.20.0.123",
        "node-label": [
            "oneke.opennebula.io/vm-id=367",
            # The recorded context does not name its service; the agent learns it of OneGate.
            "oneke.opennebula.io/service-id=none",
        ],
        "node-taint": ["CriticalAddonsOnly=true:NoExecute"],
        "token-file": "/var/lib/oneke/server-token",
        "agent-token-file": "/var/lib/oneke/agent-token",
        "tls-san": ["localhost", "127.0.0.1", "k8s.yourdomain.it", "10.2.11.86"],
        "cni": ["canal"],
        "cluster-cidr": "10.42.0.0/16",
        "service-cidr": "10.43.0.0/16",
        "disable-kube-proxy": False,
        "disable-cloud-controller": False,
        "disable": ["rke2-ingress-nginx"],
    }
    registered = registration_of_server(node)
    assert registered["ONEGATE_HAPROXY_LB0_IP"] == "10.2.11.86"
    assert registered["ONEGATE_HAPROXY_LB0_SERVER_HOST"] == "172.20.0.123"


def test_a_cluster_has_the_components_that_a_1_24_cluster_always_had() -> None:
    files = build_manifests(decide("master", CONTEXT, SERVICES).params, SERVICES)
    # Any cluster cleans itself and lets its nodes leave, besides.
    of_any = {"cleaner", "leaving"}
    found = {file.component for file in files}
    assert found - of_any == {"canal", "longhorn", "metallb", "traefik"}
    assert of_any <= found
    (pools,) = [file.text for file in files if file.name == "one-metallb-config.yaml"]
    assert "172.20.0.87-172.20.0.88" in pools


def test_a_storage_node_becomes_what_a_1_24_storage_node_was() -> None:
    params, _ = parse_node(CONTEXT, "storage")
    config = build_agent_config(
        params, build_node(params), server="10.2.11.86:9345", is_storage=True
    )
    assert config["node-taint"] == ["node.longhorn.io/create-default-disk=true:NoSchedule"]
    assert config["server"] == "https://10.2.11.86:9345"
