"""What the agent refuses as a label or a taint of a node, and what a real API server does."""

from __future__ import annotations

from typing import Any

import pytest

from roles.common.rke2check import check_rke2
from tests.api.apiserver import ApiServer
from tests.unit.roles.nodes import params_of

pytestmark = pytest.mark.api

NODE = "oneke-named"
LONG = "x" * 63

LABELS = [
    "example.org/rack=r7",
    "rack=r7",
    "rack=",
    "rack=Row_7.b-2",
    f"{LONG}={LONG}",
    f"{LONG}x=r7",
    f"rack={LONG}x",
    "-rack=r7",
    "rack=-r7",
    "rack=r7.",
    "Example.org/rack=r7",
    "example..org/rack=r7",
    "example.org/=r7",
    "example.org/a/b=r7",
    "a b=r7",
    "rack=r 7",
    "räck=r7",
    "topology.kubernetes.io/zone=z1",
    "node.kubernetes.io/instance-type=large",
    "kubernetes.io/os=linux",
    "kubernetes.io/rack=r7",
    "node-role.kubernetes.io/worker=true",
    "node-restriction.kubernetes.io/rack=r7",
    "example.node-restriction.kubernetes.io/rack=r7",
    "node.longhorn.io/create-default-disk=true",
    "example.k8s.io/rack=r7",
    "kubelet.kubernetes.io/rack=r7",
]
TAINTS = [
    ("example.org/gpu", "true", "NoSchedule"),
    ("gpu", "", "NoExecute"),
    ("gpu", "true", "PreferNoSchedule"),
    ("gpu", "true", "Never"),
    ("-gpu", "true", "NoSchedule"),
    ("gpu", "tr ue", "NoSchedule"),
    ("gpu", LONG, "NoSchedule"),
    ("gpu", f"{LONG}x", "NoSchedule"),
    ("CriticalAddonsOnly", "true", "NoExecute"),
]


def is_taken_by_server(api: ApiServer, metadata: dict[str, Any], spec: dict[str, Any]) -> bool:
    """Register a node as its kubelet does, and take it away again."""
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE, **metadata},
        "spec": spec,
    }
    made = api.ask(api.kubelet(NODE), "POST", "/api/v1/nodes", body)
    assert made.status in (201, 403, 422), made.message
    if made.status == 201:
        assert api.ask(api.admin, "DELETE", f"/api/v1/nodes/{NODE}").status == 200
    return made.status == 201


def is_taken_by_agent(key: str, text: str) -> bool:
    """Say whether the agent's check lets it pass."""
    problems, _ = check_rke2(params_of("worker", **{key: text}))
    return not problems


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_refused_where_a_real_server_would(api: ApiServer, label: str) -> None:
    key, _, value = label.partition("=")
    taken = is_taken_by_server(api, {"labels": {key: value}}, {})
    # The agent's list ends a word at a blank, so that is no label it could be given.
    assert " " in label or is_taken_by_agent("ONEAPP_RKE2_NODE_LABELS", label) == taken


@pytest.mark.parametrize(("key", "value", "effect"), TAINTS)
def test_a_taint_is_refused_where_a_real_server_would(
    api: ApiServer, key: str, value: str, effect: str
) -> None:
    taint = {"key": key, "value": value, "effect": effect}
    taken = is_taken_by_server(api, {}, {"taints": [taint]})
    text = f"{key}={value}:{effect}"
    assert " " in text or is_taken_by_agent("ONEAPP_RKE2_NODE_TAINTS", text) == taken
