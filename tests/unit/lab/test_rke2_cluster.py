"""The double's cluster: objects, who may touch them, and the controllers, over etcd in memory."""

from __future__ import annotations

import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.rke2.double import controllers, pki
from tests.lab.rke2.double.access import MIRROR, Asked, authorize, restrict_node
from tests.lab.rke2.double.apiserver import kubeconfig
from tests.lab.rke2.double.client import go_words
from tests.lab.rke2.double.controllers import EtcdController, NodeControllers, taints
from tests.lab.rke2.double.etcd import Etcd, EtcdError, Member
from tests.lab.rke2.double.kinds import KINDS, ApiError, Kind, parse_path
from tests.lab.rke2.double.knobs import Knobs
from tests.lab.rke2.double.objects import (
    apply_patch,
    check_precondition,
    field_terms,
    keep_apart,
    matches_fields,
    matches_labels,
)
from tests.lab.rke2.double.store import (
    ETCD_FINALIZER,
    Conflict,
    Election,
    NotFound,
    Object,
    Store,
    condition,
    set_condition,
)
from tests.lab.rke2.double.supervisor import keep_node_password, list_api_servers
from tests.lab.rke2.double.tools import follow_path
from tests.unit.lab.rke2_memory import MemoryEtcd

LEASES = "coordination.k8s.io/v1"


@pytest.fixture
def etcd() -> MemoryEtcd:
    return MemoryEtcd()


@pytest.fixture
def store(etcd: MemoryEtcd) -> Store:
    return Store(etcd)


@pytest.fixture
def knobs(tmp_path: Path) -> Knobs:
    file = tmp_path / "knobs.yaml"
    file.write_text("delays: {ccm: 0}\nintervals: {node_grace: 0.05, controller_lease: 0.05}\n")
    return Knobs([file])


def node(name: str, **more: Any) -> Object:
    return {"metadata": {"name": name, **more}, "spec": {}, "status": {}}


def server(name: str, member: str) -> Object:
    return node(
        name,
        labels={"node-role.kubernetes.io/etcd": "true"},
        annotations={controllers.ETCD_NODE_NAME: member},
        finalizers=[ETCD_FINALIZER],
    )


def member(number: int, name: str, *, is_learner: bool = False) -> Member:
    return Member(number, name, f"http://10.0.0.{number}:2380", "", is_learner)


# --- objects -------------------------------------------------------------------------------------


def test_an_object_that_was_changed_meanwhile_is_not_overwritten(store: Store) -> None:
    first = store.create("nodes", "", node("a"))
    store.replace("nodes", "", first | {"spec": {"unschedulable": True}})
    with pytest.raises(Conflict):
        store.replace("nodes", "", first)
    with pytest.raises(Conflict):
        store.create("nodes", "", node("a"))
    assert store.get("nodes", "", "a")["spec"] == {"unschedulable": True}


def test_an_object_with_a_finalizer_only_starts_to_die(store: Store) -> None:
    store.create("nodes", "", server("a", "a-1"))
    dying = store.delete("nodes", "", "a")
    assert dying["metadata"]["deletionTimestamp"]
    dying["metadata"]["finalizers"] = []
    store.replace("nodes", "", dying)
    with pytest.raises(NotFound):
        store.get("nodes", "", "a")


def test_a_nodes_password_goes_with_the_node(store: Store) -> None:
    store.create("nodes", "", node("a"))
    assert keep_node_password(store, "a", "first")
    assert keep_node_password(store, "a", "first")
    assert not keep_node_password(store, "a", "second")
    store.delete("nodes", "", "a")
    assert keep_node_password(store, "a", "second")


def test_a_namespace_is_told_from_another_that_begins_alike(store: Store) -> None:
    for namespace in ("kube", "kube-system"):
        store.create("secrets", namespace, {"metadata": {"name": "x"}})
    assert [each["metadata"]["namespace"] for each in store.all("secrets", "kube")] == ["kube"]
    assert len(store.all("secrets")) == 2


def test_the_transition_time_moves_with_the_status_only() -> None:
    obj: Object = {}
    set_condition(obj, "Ready", "False", "A", "a")
    obj["status"]["conditions"][0]["lastTransitionTime"] = "then"
    set_condition(obj, "Ready", "False", "B", "b")
    assert obj["status"]["conditions"][0]["lastTransitionTime"] == "then"
    set_condition(obj, "Ready", "True", "C", "c")
    assert obj["status"]["conditions"][0]["lastTransitionTime"] != "then"


def test_an_office_is_taken_only_from_who_is_silent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("tests.lab.rke2.double.store.time.monotonic", lambda: now)
    first, second = Election(store, "x", "one"), Election(store, "x", "two")
    assert first.holds(5)
    assert not second.holds(5)
    now = 104.0
    assert first.holds(5)
    assert not second.holds(5)
    now = 109.5
    assert second.holds(5)
    assert not first.holds(5)


# --- the API -------------------------------------------------------------------------------------


def find_kind(resource: str, version: str) -> Kind | None:
    return KINDS.get(resource) if version == "v1" else None


@pytest.mark.parametrize(
    ("path", "resource", "namespace", "name", "subresource"),
    [
        ("/api/v1/nodes", "nodes", "", "", ""),
        ("/api/v1/nodes/a/status", "nodes", "", "a", "status"),
        ("/api/v1/namespaces", "namespaces", "", "", ""),
        ("/api/v1/namespaces/x", "namespaces", "", "x", ""),
        ("/api/v1/namespaces/x/secrets/y", "secrets", "x", "y", ""),
        (
            "/apis/helm.cattle.io/v1/namespaces/kube-system/helmcharts/c",
            *("helmcharts.helm.cattle.io", "kube-system", "c", ""),
        ),
    ],
)
def test_paths_name_objects(
    path: str, resource: str, namespace: str, name: str, subresource: str
) -> None:
    target = parse_path(path, find_kind)
    assert (target.kind.resource, target.namespace) == (resource, namespace)
    assert (target.name, target.subresource) == (name, subresource)


@pytest.mark.parametrize("path", ["/", "/api", "/apis/metallb.io/v1/x", "/api/v1/gadgets"])
def test_an_unknown_kind_is_not_found(path: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_path(path, find_kind)
    assert caught.value.status == 404


NODE_A = ("system:node:a", ("system:nodes",))
CLUSTER_ADMIN = ("system:admin", ("system:masters",))
ROLE = "rbac.authorization.k8s.io"


def ask(sender: tuple[str, tuple[str, ...]], method: str, path: str) -> Asked:
    where, _, query = path.partition("?fieldSelector=")
    return Asked(*sender, method, parse_path(where, find_kind), field_terms(query))


def is_allowed(store: Store, asked: Asked) -> bool:
    try:
        authorize(asked, store)
    except ApiError as refused:
        assert refused.status == 403
        return False
    return True


@pytest.mark.parametrize(
    ("sender", "method", "path", "allowed"),
    [
        (CLUSTER_ADMIN, "DELETE", "/api/v1/nodes/a", True),
        (NODE_A, "GET", "/api/v1/nodes/a", True),
        (NODE_A, "GET", "/api/v1/nodes/b", False),
        (NODE_A, "GET", "/api/v1/nodes", False),
        (NODE_A, "GET", "/api/v1/nodes?fieldSelector=metadata.name=a", True),
        (NODE_A, "PATCH", "/api/v1/nodes/a/status", True),
        (NODE_A, "DELETE", "/api/v1/nodes/a", False),
        (NODE_A, "GET", "/api/v1/pods", False),
        (NODE_A, "GET", "/api/v1/pods?fieldSelector=spec.nodeName=a", True),
        (NODE_A, "GET", "/api/v1/pods?fieldSelector=spec.nodeName=b", False),
        (NODE_A, "POST", "/api/v1/namespaces/x/pods/p/eviction", True),
        (NODE_A, "GET", "/api/v1/secrets", False),
        (NODE_A, "PUT", f"/apis/{LEASES}/namespaces/kube-node-lease/leases/a", True),
        (NODE_A, "PUT", f"/apis/{LEASES}/namespaces/kube-node-lease/leases/b", False),
        (NODE_A, "PUT", f"/apis/{LEASES}/namespaces/kube-system/leases/a", False),
        (("somebody", ()), "GET", "/api/v1/nodes", False),
    ],
)
def test_kubelets_may_what_is_theirs(
    store: Store, sender: tuple[str, tuple[str, ...]], method: str, path: str, allowed: bool
) -> None:
    assert is_allowed(store, ask(sender, method, path)) is allowed


def test_a_cluster_role_lets_kubelets_delete_nodes_and_admission_only_their_own(
    store: Store,
) -> None:
    own, other = (ask(NODE_A, "DELETE", f"/api/v1/nodes/{name}") for name in ("a", "b"))
    assert not is_allowed(store, own)
    rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete"]}
    store.create(f"clusterroles.{ROLE}", "", {"metadata": {"name": "leaving"}, "rules": [rule]})
    binding = {
        "metadata": {"name": "leaving"},
        "roleRef": {"kind": "ClusterRole", "name": "leaving"},
        "subjects": [{"kind": "Group", "name": "system:nodes"}],
    }
    store.create(f"clusterrolebindings.{ROLE}", "", binding)
    assert is_allowed(store, own)
    restrict_node(own, node("a"), None)
    with pytest.raises(ApiError, match='node "a" is not allowed to modify node "b"'):
        restrict_node(other, node("b"), None)


def test_a_kubelet_cordons_its_node_and_leaves_taints_alone() -> None:
    asked = ask(NODE_A, "PATCH", "/api/v1/nodes/a")
    restrict_node(asked, node("a"), node("a") | {"spec": {"unschedulable": True}})
    with pytest.raises(ApiError, match="not allowed to modify taints"):
        restrict_node(asked, node("a"), node("a") | {"spec": {"taints": [{"key": "x"}]}})


def test_a_kubelet_evicts_its_own_pods_only() -> None:
    asked = ask(NODE_A, "POST", "/api/v1/namespaces/x/pods/p/eviction")
    restrict_node(asked, {"metadata": {}, "spec": {"nodeName": "a"}}, None)
    with pytest.raises(ApiError, match="can only evict pods"):
        restrict_node(asked, {"metadata": {}, "spec": {"nodeName": "b"}}, None)


def test_a_kubelet_makes_mirror_pods_only() -> None:
    asked = ask(NODE_A, "POST", "/api/v1/namespaces/x/pods")
    mirror = {"metadata": {"annotations": {MIRROR: "x"}}, "spec": {"nodeName": "a"}}
    restrict_node(asked, None, mirror)
    with pytest.raises(ApiError, match="mirror"):
        restrict_node(asked, None, mirror | {"metadata": {}})


def test_a_precondition_protects_a_node_that_was_made_anew() -> None:
    old = node("a", uid="new", resourceVersion="7")
    check_precondition(old, {"metadata": {"uid": "new"}})
    for wanted in ({"uid": "old"}, {"resourceVersion": "6"}):
        with pytest.raises(ApiError) as caught:
            check_precondition(old, {"metadata": wanted})
        assert caught.value.status == 409


@pytest.mark.parametrize(
    ("kind", "patch", "expected"),
    [
        ("merge-patch", {"a": None, "b": {"c": 2}}, {"b": {"c": 2, "d": 1}, "l": [1]}),
        ("merge-patch", {"l": [2]}, {"a": 1, "b": {"d": 1}, "l": [2]}),
        (
            "json-patch",
            [{"op": "add", "path": "/l/-", "value": 2}, {"op": "remove", "path": "/a"}],
            {"b": {"d": 1}, "l": [1, 2]},
        ),
    ],
)
def test_patches(kind: str, patch: Any, expected: Object) -> None:
    old: Object = {"a": 1, "b": {"d": 1}, "l": [1]}
    assert apply_patch(old, patch, f"application/{kind}+json") == expected


def test_a_strategic_patch_merges_conditions_by_their_type() -> None:
    old: Object = {"status": {"conditions": [{"type": "A", "status": "1"}, {"type": "B"}]}}
    patch = {"status": {"conditions": [{"type": "A", "status": "2"}]}}
    merged = apply_patch(old, patch, "application/strategic-merge-patch+json")
    assert merged["status"]["conditions"] == [{"type": "A", "status": "2"}, {"type": "B"}]


def test_status_is_changed_by_its_own_path_only() -> None:
    old: Object = {"metadata": {}, "spec": {"a": 1}, "status": {"b": 1}}
    new: Object = {"metadata": {}, "spec": {"a": 2}, "status": {"b": 2}}
    assert keep_apart(old, new, "") == {"metadata": {}, "spec": {"a": 2}, "status": {"b": 1}}
    assert keep_apart(old, new, "status") == {"metadata": {}, "spec": {"a": 1}, "status": {"b": 2}}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("a=1", True),
        ("a==1,b", True),
        ("a!=1", False),
        ("!c", True),
        ("a in (1, 2),!c", True),
        ("a notin (1)", False),
        ("c", False),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    assert matches_labels(node("x", labels={"a": "1", "b": ""}), selector) == matches


def test_field_selectors() -> None:
    obj = node("x") | {"spec": {"nodeName": "n"}}
    assert matches_fields(obj, "metadata.name=x,spec.nodeName=n")
    assert not matches_fields(obj, "spec.nodeName!=n")


# --- controllers ---------------------------------------------------------------------------------


def test_a_silent_node_becomes_unknown_and_is_well_again_when_heard(
    store: Store, knobs: Knobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 10.0
    monkeypatch.setattr("tests.lab.rke2.double.controllers.time.monotonic", lambda: now)
    monkeypatch.setattr("tests.lab.rke2.double.controllers.event", lambda *_, **__: None)
    office = NodeControllers(store, knobs, "one")
    new = node("a")
    new["spec"]["taints"] = [{"key": controllers.UNINITIALIZED, "effect": "NoSchedule"}]
    set_condition(new, "Ready", "True", "KubeletReady", "")
    store.create("nodes", "", new)
    leases = "leases.coordination.k8s.io"
    lease = store.create(
        leases, "kube-node-lease", {"metadata": {"name": "a"}, "spec": {"renewTime": "1"}}
    )
    office._tick()
    seen = store.get("nodes", "", "a")
    assert (taints(seen), seen["spec"]["providerID"]) == ([], "rke2://a")
    now = 11.0
    office._tick()
    seen = store.get("nodes", "", "a")
    assert condition(seen, "Ready") == "Unknown"
    keys = [(taint["key"], taint["effect"]) for taint in taints(seen)]
    assert keys == [(controllers.UNREACHABLE, effect) for effect in ("NoSchedule", "NoExecute")]
    store.replace(leases, "kube-node-lease", lease | {"spec": {"renewTime": "2"}})
    set_condition(seen, "Ready", "True", "KubeletReady", "")
    store.replace("nodes", "", seen)
    office._tick()
    assert taints(store.get("nodes", "", "a")) == []


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("event", "info", "warning"):
        monkeypatch.setattr(f"tests.lab.rke2.double.controllers.{name}", lambda *_, **__: None)
    monkeypatch.setattr(controllers, "lacks_quorum", lambda *_, **__: False)


@pytest.mark.usefixtures("quiet")
def test_a_learner_is_promoted_and_its_node_votes(
    store: Store, etcd: MemoryEtcd, knobs: Knobs
) -> None:
    etcd.listed = [member(1, "a-1"), member(2, "b-2", is_learner=True), member(3, "")]
    for name in ("a-1", "b-2", "c-9"):
        store.create("nodes", "", server(name[0], name))
    EtcdController(store, knobs, "one")._tick()
    assert [each.is_learner for each in etcd.listed] == [False, False, False]
    EtcdController(store, knobs, "one")._tick()
    votes = {
        each["metadata"]["name"]: condition(each, "EtcdIsVoter") for each in store.all("nodes")
    }
    assert votes == {"a": "True", "b": "True", "c": "False"}


@pytest.mark.usefixtures("quiet")
def test_deleting_a_node_takes_its_member_out_first(
    store: Store, etcd: MemoryEtcd, knobs: Knobs
) -> None:
    etcd.listed = [member(1, "a-1"), member(2, "b-2")]
    store.create("nodes", "", server("b", "b-2"))
    store.delete("nodes", "", "b")
    assert store.find("nodes", "", "b") is not None
    EtcdController(store, knobs, "one")._tick()
    assert [each.name for each in etcd.listed] == ["a-1"]
    assert store.find("nodes", "", "b") is None


@pytest.mark.usefixtures("quiet")
def test_without_quorum_a_deleted_node_stays(
    store: Store, etcd: MemoryEtcd, knobs: Knobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controllers, "lacks_quorum", lambda *_, **__: True)
    etcd.listed = [member(1, "a-1"), member(2, "b-2")]
    store.create("nodes", "", server("b", "b-2"))
    store.delete("nodes", "", "b")
    EtcdController(store, knobs, "one")._tick()
    assert len(etcd.listed) == 2
    assert store.get("nodes", "", "b")["metadata"]["finalizers"] == [ETCD_FINALIZER]


@pytest.mark.usefixtures("quiet")
def test_an_annotation_takes_the_member_out_and_keeps_the_node(
    store: Store, etcd: MemoryEtcd, knobs: Knobs
) -> None:
    etcd.listed = [member(1, "a-1"), member(2, "b-2")]
    marked = server("b", "b-2")
    marked["metadata"]["annotations"][controllers.ETCD_REMOVE] = "true"
    store.create("nodes", "", marked)
    EtcdController(store, knobs, "one")._tick()
    assert [each.name for each in etcd.listed] == ["a-1"]
    annotations = store.get("nodes", "", "b")["metadata"]["annotations"]
    assert annotations == {controllers.ETCD_REMOVED: "b-2"}


def test_api_servers_are_the_addresses_of_servers(store: Store) -> None:
    for name, labels in (("a", {"node-role.kubernetes.io/control-plane": "true"}), ("w", {})):
        made = node(name, labels=labels)
        made["status"]["addresses"] = [{"type": "InternalIP", "address": f"10.0.0.{ord(name)}"}]
        store.create("nodes", "", made)
    assert list_api_servers(store) == ["10.0.0.97:6443"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, ""), "dial tcp a:1: connect: connection refused"),
        (ConnectionResetError(104, ""), "EOF"),
        (TimeoutError(), "context deadline exceeded"),
        (OSError(113, ""), "dial tcp a:1: connect: no route to host"),
    ],
)
def test_trouble_with_connections_reads_as_in_go(error: Exception, words: str) -> None:
    assert words in go_words(error, "a:1")


def test_a_member_that_is_down_is_an_etcd_error() -> None:
    with pytest.raises(EtcdError):
        Etcd(["http://127.0.0.1:9"], 0.2).members()


# --- certificates --------------------------------------------------------------------------------


def test_certificates_pass_the_strictest_checks_and_have_small_keys(tmp_path: Path) -> None:
    pki.make_ca(tmp_path / "ca.crt", "server-ca")
    leaf = tmp_path / "leaf.crt"
    names = ["localhost", "10.0.0.1"]
    pki.issue(leaf, tmp_path / "ca.crt", "rke2", organization="o", names=names, server=True)
    verify = ["openssl", "verify", "-x509_strict", "-CAfile", str(tmp_path / "ca.crt"), str(leaf)]
    subprocess.run(verify, check=True, capture_output=True)
    key = leaf.with_suffix(".key")
    assert key.stat().st_mode & 0o777 == 0o600
    shown = subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-noout", "-text"], check=True, capture_output=True
    )
    assert b"prime256v1" in shown.stdout


def test_a_kubeconfig_holds_all_that_a_client_needs(tmp_path: Path) -> None:
    for name in ("ca.crt", "admin.crt", "admin.key"):
        (tmp_path / name).write_text(name)
    text = kubeconfig("https://10.0.0.1:6443", tmp_path / "ca.crt", tmp_path / "admin.crt")
    parsed = yaml.safe_load(text)
    assert parsed["clusters"][0]["cluster"]["server"] == "https://10.0.0.1:6443"
    user = parsed["users"][0]["user"]
    assert b64decode(user["client-key-data"]) == b"admin.key"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("{.metadata.name}", "a"),
        ('{.status.conditions[?(@.type=="Ready")].status}', "True"),
        ("{.status.conditions[*].type}", "Ready EtcdIsVoter"),
        ("{.spec.taints[0].key}", ""),
    ],
)
def test_kubectl_follows_a_path(path: str, expected: str) -> None:
    obj = node("a")
    set_condition(obj, "Ready", "True", "", "")
    set_condition(obj, "EtcdIsVoter", "False", "", "")
    assert follow_path(obj, f"jsonpath={path}") == expected
