"""The agent's own client and a real API server, which is to do what the fake does."""

from __future__ import annotations

import dataclasses

import pytest

from appliance.errors import KubernetesConflict, KubernetesRefused
from appliance.system.files import RealFiles
from appliance.system.kubernetes import Access, Lease
from appliance.system.kuberneteshttp import HttpKubernetes
from tests.api.apiserver import ApiServer, whole_definition

pytestmark = pytest.mark.api

CLIENT = HttpKubernetes(RealFiles())
NODES = "/api/v1/nodes"
MANY = 450
"""More than the client asks for at once, twice."""


def register(api: ApiServer, name: str, **labels: str) -> None:
    """Have a node."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    made = api.ask(api.admin, "POST", NODES, body)
    assert made.status == 201, made.message


def test_it_is_ready(api: ApiServer) -> None:
    assert CLIENT.health(api.admin).is_ok


def test_a_node_that_is_not_there_is_none(api: ApiServer) -> None:
    assert CLIENT.node(api.admin, "nobody") is None


def test_a_certificate_of_another_cluster_is_refused(api: ApiServer) -> None:
    stranger = api.access("stranger")
    with pytest.raises(KubernetesRefused) as refused:
        CLIENT.nodes(stranger)
    assert refused.value.status == 403


def test_a_node_is_read_with_all_that_decisions_rest_on(api: ApiServer) -> None:
    register(api, "read", **{"oneke.opennebula.io/vm-id": "61"})
    taint = {"key": "CriticalAddonsOnly", "value": "true", "effect": "NoExecute"}
    body = {"spec": {"taints": [taint]}}
    kind = "application/merge-patch+json"
    assert api.ask(api.admin, "PATCH", f"{NODES}/read", body, kind).status == 200
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "posting",
        "lastTransitionTime": "2026-11-21T07:01:00Z",
    }
    status = {"status": {"conditions": [ready]}}
    assert api.ask(api.admin, "PATCH", f"{NODES}/read/status", status, kind).status == 200
    node = CLIENT.node(api.admin, "read")
    assert node is not None
    assert node.labels["oneke.opennebula.io/vm-id"] == "61"
    # The server itself adds what says that the node is not ready for pods yet.
    assert "CriticalAddonsOnly" in {one.key for one in node.taints}
    assert node.is_ready
    assert node.created_s is not None
    assert not node.is_going
    assert CLIENT.delete_node(api.admin, node)
    assert CLIENT.node(api.admin, "read") is None
    assert not CLIENT.delete_node(api.admin, node)


def test_a_node_that_changed_since_it_was_read_stays(api: ApiServer) -> None:
    register(api, "changing")
    before = CLIENT.node(api.admin, "changing")
    assert before is not None
    CLIENT.cordon(api.admin, "changing")
    with pytest.raises(KubernetesConflict):
        CLIENT.delete_node(api.admin, before)
    after = CLIENT.node(api.admin, "changing")
    assert after is not None
    assert after.is_cordoned
    other = dataclasses.replace(after, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(KubernetesConflict):
        CLIENT.delete_node(api.admin, other)
    assert CLIENT.delete_node(api.admin, after)


def test_a_node_that_something_holds_is_going(api: ApiServer) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "held", "finalizers": ["wrangler.cattle.io/managed-etcd-controller"]},
    }
    assert api.ask(api.admin, "POST", NODES, body).status == 201
    node = CLIENT.node(api.admin, "held")
    assert node is not None
    assert CLIENT.delete_node(api.admin, node)
    going = CLIENT.node(api.admin, "held")
    assert going is not None
    assert going.is_going
    kind = "application/merge-patch+json"
    let_go = api.ask(api.admin, "PATCH", f"{NODES}/held", {"metadata": {"finalizers": None}}, kind)
    assert let_go.status == 200
    assert CLIENT.node(api.admin, "held") is None


def test_no_node_is_left_out_of_a_long_list(api: ApiServer) -> None:
    names = {f"one-of-many-{number}" for number in range(MANY)}
    for name in names:
        register(api, name)
    found = [one.name for one in CLIENT.nodes(api.admin)]
    assert len(found) == len(set(found))
    assert names <= set(found)
    for name in names:
        assert api.ask(api.admin, "DELETE", f"{NODES}/{name}").status == 200


# --- leases ---------------------------------------------------------------------------------------


def lease_of(access: Access) -> Lease | None:
    """Read the lease of these tests."""
    return CLIENT.lease(access, "kube-system", "oneke-leaving")


def test_of_two_that_make_a_lease_one_gets_it(api: ApiServer) -> None:
    assert lease_of(api.admin) is None
    wanted = Lease("kube-system", "oneke-leaving", "first", 60.0, 1795000000.25)
    made = CLIENT.put_lease(api.admin, wanted)
    assert (made.holder, made.duration_s, made.renewed_s) == ("first", 60.0, 1795000000.25)
    with pytest.raises(KubernetesConflict):
        CLIENT.put_lease(api.admin, dataclasses.replace(wanted, holder="second"))
    assert lease_of(api.admin) == made
    renewed = CLIENT.put_lease(api.admin, dataclasses.replace(made, renewed_s=1795000030.0))
    with pytest.raises(KubernetesConflict):
        CLIENT.put_lease(api.admin, dataclasses.replace(made, holder="second"))
    with pytest.raises(KubernetesConflict):
        CLIENT.delete_lease(api.admin, made)
    assert CLIENT.delete_lease(api.admin, renewed)
    assert lease_of(api.admin) is None
    assert not CLIENT.delete_lease(api.admin, renewed)


# --- snapshots ------------------------------------------------------------------------------------


def test_what_rke2_keeps_about_snapshots_is_read(api: ApiServer) -> None:
    kind = {
        "group": "k3s.cattle.io",
        "names": {"kind": "ETCDSnapshotFile"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    }
    api.define(whole_definition({"spec": kind}, namespaced=False))
    assert CLIENT.etcd_snapshots(api.admin) == ()
    snapshot = {
        "apiVersion": "k3s.cattle.io/v1",
        "kind": "ETCDSnapshotFile",
        "metadata": {"name": "local-on-demand-master0-1-abcdef"},
        "spec": {"snapshotName": "on-demand-master0-1", "nodeName": "master0", "location": "file"},
        "status": {"size": "5k", "creationTime": "2026-11-21T07:00:00Z", "readyToUse": True},
    }
    assert api.put(snapshot).status == 201
    (found,) = CLIENT.etcd_snapshots(api.admin)
    assert (found.name, found.node, found.size_bytes) == ("on-demand-master0-1", "master0", 5000)
    assert found.is_good
