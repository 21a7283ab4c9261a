"""What a kubelet may do in a real cluster, and so what a leaving worker's agent may rely on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from appliance.errors import KubernetesConflict, KubernetesRefused, KubernetesUnavailable
from appliance.system import kuberneteshttp
from appliance.system.files import RealFiles
from appliance.system.kubernetes import Pod
from appliance.system.kuberneteshttp import HttpKubernetes
from appliance.system.kubernetestexts import parse_pod, write_eviction
from tests.api.apiserver import ApiServer
from tests.manifests.rendered import files_of

pytestmark = pytest.mark.api

OWN, OTHER = "oneke-own", "oneke-other"
RIGHTS = "one-leaving.yaml"
PODS = "/api/v1/namespaces/default/pods"
CLIENT = HttpKubernetes(RealFiles())


def node(name: str, **labels: str) -> dict[str, Any]:
    """Return a node as a kubelet registers it."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def pod(name: str, on: str) -> dict[str, Any]:
    """Return a pod that was scheduled to a node."""
    container = {"name": "main", "image": "busybox"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"on": on}},
        "spec": {"nodeName": on, "containers": [container], "terminationGracePeriodSeconds": 0},
    }


@pytest.fixture(autouse=True)
def two_nodes(api: ApiServer) -> Iterator[None]:
    """Two nodes with a pod each, whatever a test left behind."""
    for name in (OWN, OTHER):
        registered = api.ask(api.kubelet(name), "POST", "/api/v1/nodes", node(name))
        assert registered.status == 201, registered.message
        assert api.ask(api.admin, "POST", PODS, pod(f"on-{name}", name)).status == 201
    yield
    for name in (OWN, OTHER):
        api.ask(api.admin, "DELETE", f"{PODS}/on-{name}?gracePeriodSeconds=0")
        api.ask(api.admin, "DELETE", f"/api/v1/nodes/{name}")


@pytest.fixture(autouse=True)
def earlier_evictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for evictions in the earlier version, of the same shape: this server knows no other."""

    def write(pod: Pod) -> dict[str, Any]:
        return {**write_eviction(pod), "apiVersion": "policy/v1beta1"}

    monkeypatch.setattr(kuberneteshttp, "write_eviction", write)


def pod_of(api: ApiServer, name: str) -> Pod:
    """Return the pod of a node."""
    return parse_pod(api.ask(api.admin, "GET", f"{PODS}/on-{name}").body)


def test_nobody_registers_by_anothers_name(api: ApiServer) -> None:
    refused = api.ask(api.kubelet(OWN), "POST", "/api/v1/nodes", node("oneke-third"))
    assert refused.status == 403
    assert "not allowed" in refused.message


def test_a_kubelet_cordons_its_own_node_and_no_other(api: ApiServer) -> None:
    CLIENT.cordon(api.kubelet(OWN), OWN)
    own = CLIENT.node(api.kubelet(OWN), OWN)
    assert own is not None
    assert own.is_cordoned
    with pytest.raises(KubernetesRefused):
        CLIENT.cordon(api.kubelet(OWN), OTHER)


def test_a_kubelet_sees_the_nodes_of_the_cluster(api: ApiServer) -> None:
    assert {OWN, OTHER} <= {one.name for one in CLIENT.nodes(api.kubelet(OWN))}


def test_a_kubelet_lists_its_own_pods(api: ApiServer) -> None:
    (one,) = CLIENT.pods(api.kubelet(OWN), OWN)
    assert one.name == f"on-{OWN}"


def test_a_kubelet_evicts_its_own_pods_and_no_other(api: ApiServer) -> None:
    mine, theirs = pod_of(api, OWN), pod_of(api, OTHER)
    assert CLIENT.evict(api.kubelet(OWN), mine)
    assert not CLIENT.evict(api.kubelet(OWN), mine), "it is gone"
    with pytest.raises(KubernetesRefused) as refused:
        CLIENT.evict(api.kubelet(OWN), theirs)
    assert refused.value.status == 403
    assert api.ask(api.admin, "GET", f"{PODS}/on-{OTHER}").status == 200


def test_a_pod_that_bears_the_name_of_an_earlier_one_stays(api: ApiServer) -> None:
    earlier = replace(pod_of(api, OWN), uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(KubernetesConflict):
        CLIENT.evict(api.kubelet(OWN), earlier)
    assert CLIENT.pods(api.kubelet(OWN), OWN) == (pod_of(api, OWN),)


def test_a_budget_for_disruptions_says_try_again(api: ApiServer) -> None:
    """Nobody counts what the budget lets go here, and so it lets nothing go."""
    budget = {
        "apiVersion": "policy/v1beta1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "none", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"on": OWN}}},
    }
    assert api.put(budget).status == 201
    # What has not begun yet is let go in any case.
    runs, kind = {"status": {"phase": "Running"}}, "application/merge-patch+json"
    assert api.ask(api.kubelet(OWN), "PATCH", f"{PODS}/on-{OWN}/status", runs, kind).status == 200
    try:
        with pytest.raises(KubernetesUnavailable) as later:
            CLIENT.evict(api.kubelet(OWN), pod_of(api, OWN))
        assert later.value.status == 429
    finally:
        assert api.ask(api.admin, "DELETE", api.path_of(budget)).status == 200


def test_a_kubelet_deletes_its_own_pods_and_no_other(api: ApiServer) -> None:
    kubelet = api.kubelet(OWN)
    assert api.ask(kubelet, "DELETE", f"{PODS}/on-{OTHER}").status == 403
    assert api.ask(kubelet, "DELETE", f"{PODS}/on-{OWN}").status == 200


def leaving_rights() -> list[Mapping[str, Any]]:
    """Return what masters have RKE2 deploy, so that nodes can delete their own when they leave."""
    files = {one.name: one.text for one in files_of()}
    return [one for one in yaml.safe_load_all(files[RIGHTS]) if one]


def wait_until_allowed(api: ApiServer, *, is_allowed: bool) -> None:
    """Wait until the authorizers have taken notice of a change."""
    attributes = {"verb": "delete", "resource": "nodes", "name": OWN}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = api.ask(api.kubelet(OWN), "POST", path, review)
        if found.body["status"].get("allowed", False) is is_allowed:
            return
        time.sleep(0.1)
    raise AssertionError("the authorizers take no notice")


def delete_own_and_other(api: ApiServer) -> tuple[int, int]:
    """Have a kubelet delete its own node and another; return the statuses of the answers."""
    statuses = []
    for name in (OWN, OTHER):
        found = CLIENT.node(api.kubelet(OWN), name)
        assert found is not None
        try:
            CLIENT.delete_node(api.kubelet(OWN), found)
            statuses.append(200)
        except KubernetesRefused as refused:
            statuses.append(refused.status or 0)
    return statuses[0], statuses[1]


def take_rights_away(api: ApiServer) -> None:
    """Have a cluster whose masters deploy no such rights."""
    for document in leaving_rights():
        assert api.ask(api.admin, "DELETE", api.path_of(document)).status in (200, 404)
    wait_until_allowed(api, is_allowed=False)


def test_a_kubelet_deletes_no_node_by_itself(api: ApiServer) -> None:
    take_rights_away(api)
    assert delete_own_and_other(api) == (403, 403)


def test_where_the_right_is_given_a_kubelet_deletes_its_own_node_and_no_other(
    api: ApiServer,
) -> None:
    take_rights_away(api)
    for document in leaving_rights():
        assert api.put(document).status == 201
    wait_until_allowed(api, is_allowed=True)
    assert delete_own_and_other(api) == (200, 403)
    again = api.ask(api.kubelet(OWN), "POST", "/api/v1/nodes", node(OWN))
    assert again.status == 201, "one that did not leave after all registers anew"
