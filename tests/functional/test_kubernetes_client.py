"""The clients of API server and supervisor against real TLS with EC certificates.

What holds for the client holds for the fake too, as far as both can: the contract tests run on
either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any
from urllib.parse import parse_qsl

import pytest

from appliance.errors import (
    KubernetesConflict,
    KubernetesError,
    KubernetesMalformed,
    KubernetesRefused,
    KubernetesUnavailable,
)
from appliance.system.files import RealFiles
from appliance.system.kubernetes import Access, Condition, Health, Kubernetes, Lease, Taint
from appliance.system.kuberneteshttp import HttpKubernetes
from appliance.system.supervisor import Answer as Said
from appliance.system.supervisorhttp import HttpSupervisor
from roles.common.probes import SupervisorAnswers
from tests.fakes import FakeKubernetes, make_node, make_pod, make_system
from tests.functional.tlsserver import (
    Answer,
    Pair,
    Request,
    TlsServer,
    make_authority,
    make_certificate,
    serving,
)


@dataclass(frozen=True)
class Certificates:
    """Those of a cluster, as RKE2 makes them, and a stranger's."""

    server_ca: Pair
    client_ca: Pair
    server: Pair
    admin: Pair
    stranger_ca: Pair
    stranger: Pair
    elsewhere: Pair


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    server_ca, client_ca, stranger_ca = (
        make_authority(folder, name) for name in ("server-ca", "client-ca", "stranger-ca")
    )
    return Certificates(
        server_ca,
        client_ca,
        make_certificate(folder, "serving", server_ca),
        make_certificate(folder, "client-admin", client_ca),
        stranger_ca,
        make_certificate(folder, "stranger", stranger_ca),
        make_certificate(folder, "elsewhere", server_ca, address="192.0.2.1"),
    )


def node_document(name: str, **changes: Any) -> dict[str, Any]:
    """Return a node as the API server writes it."""
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-21T07:00:00Z",
            "labels": {"oneke.opennebula.io/vm-id": "61", "node-role.kubernetes.io/etcd": "true"},
            "annotations": {"etcd.rke2.cattle.io/node-name": f"{name}-1a2b3c4d"},
            **changes,
        },
        "spec": {"taints": [{"key": "CriticalAddonsOnly", "value": "true", "effect": "NoExecute"}]},
        "status": {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "kubelet is posting ready status",
                    "lastTransitionTime": "2026-11-21T07:01:00Z",
                    "lastHeartbeatTime": "2026-11-21T07:05:00Z",
                },
                {"type": "EtcdIsVoter", "status": "False", "reason": "MemberIsLearner"},
            ]
        },
    }


def refusal(status: int, reason: str, message: str) -> Answer:
    """Return a failure as the API server writes it."""
    document = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": status,
    }
    return Answer(status, json.dumps(document).encode())


def pod_document(name: str, node: str = "a") -> dict[str, Any]:
    """Return a pod as the API server writes it."""
    owner = {"kind": "ReplicaSet", "name": "web", "controller": True}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "namespace": "default",
            "name": name,
            "uid": f"uid-of-{name}",
            "ownerReferences": [{"kind": "Other", "name": "x"}, owner],
        },
        "spec": {"nodeName": node},
        "status": {"phase": "Running"},
    }


class Api:
    """The part of an API server that the client needs.

    Attributes:
        nodes: Name to document; `pods` and `leases` likewise.
        guarded: The pods that no budget lets go.
        page: How many objects it lists at once at most.
        next: Answers to give instead of its own, one each.
    """

    def __init__(self, *names: str) -> None:
        self.nodes = {name: node_document(name) for name in names}
        self.pods: dict[str, dict[str, Any]] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.guarded: set[str] = set()
        self.page = 2
        self.next: list[Answer] = []

    def answer(self, request: Request) -> Answer:
        """Answer."""
        if self.next:
            return self.next.pop(0)
        path, _, query = request.path.partition("?")
        name = path.removeprefix("/api/v1/nodes").removeprefix("/")
        if path == "/readyz":
            return Answer(200, b"ok")
        if path == "/api/v1/pods":
            return self._pods(query)
        if path.endswith("/eviction"):
            return self._evict(path.split("/")[-2], json.loads(request.body))
        if path.startswith("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"):
            return self._lease(request, path)
        if not path.startswith("/api/v1/nodes"):
            return Answer(404, b"404 page not found")
        if not name:
            return self._list(query)
        if name not in self.nodes:
            return refusal(404, "NotFound", f'nodes "{name}" not found')
        if request.method == "DELETE":
            return self._delete(name, json.loads(request.body))
        if request.method == "PATCH":
            assert request.headers["Content-Type"] == "application/merge-patch+json"
            self.nodes[name]["spec"] |= json.loads(request.body)["spec"]
        return Answer(200, json.dumps(self.nodes[name]).encode())

    def _pods(self, query: str) -> Answer:
        selected = dict(parse_qsl(query))["fieldSelector"]
        node = selected.removeprefix("spec.nodeName=")
        items = [pod for pod in self.pods.values() if pod["spec"]["nodeName"] == node]
        return self._list(query, "Pod", items)

    def _evict(self, name: str, eviction: dict[str, Any]) -> Answer:
        assert (eviction["apiVersion"], eviction["kind"]) == ("policy/v1", "Eviction")
        if name not in self.pods:
            return refusal(404, "NotFound", f'pods "{name}" not found')
        uid = self.pods[name]["metadata"]["uid"]
        if eviction["deleteOptions"]["preconditions"]["uid"] != uid:
            return refusal(409, "Conflict", "the UID in the precondition does not match")
        if name in self.guarded:
            return refusal(429, "TooManyRequests", "Cannot evict pod: disruption budget")
        del self.pods[name]
        return Answer(201, b'{"kind": "Status", "status": "Success"}')

    def _lease(self, request: Request, path: str) -> Answer:
        name = path.partition("/leases")[2].removeprefix("/")
        body = json.loads(request.body) if request.body else {}
        if request.method == "POST":
            return self._keep(body["metadata"]["name"], body, is_new=True)
        if name not in self.leases:
            return refusal(404, "NotFound", f'leases "{name}" not found')
        if request.method == "PUT":
            return self._keep(name, body, is_new=False)
        found = self.leases[name]
        if request.method == "DELETE":
            wanted = {key: found["metadata"][key] for key in ("uid", "resourceVersion")}
            if body["preconditions"] != wanted:
                return refusal(409, "Conflict", "Precondition failed")
            del self.leases[name]
            return Answer(200, b'{"kind": "Status", "status": "Success"}')
        return Answer(200, json.dumps(found).encode())

    def _keep(self, name: str, lease: dict[str, Any], *, is_new: bool) -> Answer:
        found = self.leases.get(name)
        if is_new and found:
            return refusal(409, "AlreadyExists", f'leases "{name}" already exists')
        version = found["metadata"]["resourceVersion"] if found else "0"
        if not is_new and lease["metadata"].get("resourceVersion") != version:
            return refusal(409, "Conflict", "the object has been modified")
        lease["metadata"] |= {"uid": "u1", "resourceVersion": str(int(version) + 1)}
        self.leases[name] = lease
        return Answer(201 if is_new else 200, json.dumps(lease).encode())

    def _list(self, query: str, kind: str = "Node", found: list[Any] | None = None) -> Answer:
        given = dict(parse_qsl(query))
        start, size = int(given.get("continue", 0)), min(self.page, int(given["limit"]))
        items = list(self.nodes.values()) if found is None else found
        more = {"continue": str(start + size)} if start + size < len(items) else {}
        # As in every list, items do not tell their kind.
        page = [
            {key: one[key] for key in one if key not in ("kind", "apiVersion")}
            for one in items[start : start + size]
        ]
        document = {"kind": f"{kind}List", "apiVersion": "v1", "metadata": more, "items": page}
        return Answer(200, json.dumps(document).encode())

    def _delete(self, name: str, options: dict[str, Any]) -> Answer:
        assert options["kind"] == "DeleteOptions"
        metadata = self.nodes[name]["metadata"]
        wanted = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        if options["preconditions"] != wanted:
            return refusal(409, "Conflict", f"Precondition failed on {name}")
        del self.nodes[name]
        return Answer(200, b'{"kind": "Status", "status": "Success"}')


@dataclass(frozen=True)
class Site:
    """An API server and a client with an administrator's certificate."""

    api: Api
    server: TlsServer
    client: HttpKubernetes
    access: Access


@pytest.fixture
def site(certificates: Certificates) -> Iterator[Site]:
    api = Api("a", "b", "c")
    with serving(certificates.server, api.answer, clients=certificates.client_ca) as server:
        yield Site(api, server, client(), access_to(server, certificates))


def client() -> HttpKubernetes:
    """Return a client."""
    return HttpKubernetes(RealFiles("/"))


def access_to(server: TlsServer, certificates: Certificates, **changes: Path) -> Access:
    """Return an administrator's access, with other files where they are given."""
    files = {
        "ca": certificates.server_ca.certificate,
        "certificate": certificates.admin.certificate,
        "key": certificates.admin.key,
        **changes,
    }
    return Access(server.url, **{name: PurePosixPath(path) for name, path in files.items()})


# --- the same for client and fake -----------------------------------------------------------------

Either = tuple[Kubernetes, Access]


@pytest.fixture(params=["http", "fake"])
def either(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Either]:
    """The real client, or the fake that unit tests use.

    Nodes a, b and c; pods p1, p2 and p3 on a, of which no budget lets p3 go, and p4 on b.
    """
    if request.param == "fake":
        path = PurePosixPath("/x")
        fake = FakeKubernetes([make_node(name) for name in "abc"])
        fake.place("a", make_pod("p1"), make_pod("p2"), make_pod("p3"))
        fake.place("b", make_pod("p4"))
        fake.guarded = {"p3"}
        yield fake, Access("https://127.0.0.1:6443", path, path, path)
    else:
        api = Api("a", "b", "c")
        api.pods = {name: pod_document(name) for name in ("p1", "p2", "p3")}
        api.pods["p4"] = pod_document("p4", "b")
        api.guarded = {"p3"}
        with serving(certificates.server, api.answer, clients=certificates.client_ca) as server:
            yield client(), access_to(server, certificates)


def test_an_api_server_says_that_it_is_ready(either: Either) -> None:
    kubernetes, access = either
    assert kubernetes.health(access) == Health(is_ok=True)


def test_a_node_is_read_by_its_name(either: Either) -> None:
    kubernetes, access = either
    node = kubernetes.node(access, "b")
    assert node is not None
    assert (node.name, node.uid, node.resource_version) == ("b", "uid-of-b", "1")
    assert node.is_ready


def test_a_node_that_is_not_there_is_none(either: Either) -> None:
    kubernetes, access = either
    assert kubernetes.node(access, "z") is None


def test_all_nodes_are_listed(either: Either) -> None:
    kubernetes, access = either
    assert [node.name for node in kubernetes.nodes(access)] == ["a", "b", "c"]


def test_a_node_that_is_as_it_was_read_is_deleted_once(either: Either) -> None:
    kubernetes, access = either
    node = kubernetes.node(access, "b")
    assert node is not None
    assert kubernetes.delete_node(access, node) is True
    assert kubernetes.node(access, "b") is None
    assert kubernetes.delete_node(access, node) is False
    assert [one.name for one in kubernetes.nodes(access)] == ["a", "c"]


@pytest.mark.parametrize("change", [{"uid": "another"}, {"resource_version": "0"}])
def test_a_node_that_is_not_as_it_was_read_stays(either: Either, change: dict[str, str]) -> None:
    kubernetes, access = either
    node = kubernetes.node(access, "b")
    assert node is not None
    with pytest.raises(KubernetesConflict, match="status 409") as caught:
        kubernetes.delete_node(access, replace(node, **change))
    assert not caught.value.retryable
    assert kubernetes.node(access, "b") == node


def test_a_node_is_cordoned_as_often_as_one_likes(either: Either) -> None:
    kubernetes, access = either
    for _ in range(2):
        kubernetes.cordon(access, "b")
        assert [node.is_cordoned for node in kubernetes.nodes(access)] == [False, True, False]


def test_a_node_that_is_not_there_can_not_be_cordoned(either: Either) -> None:
    kubernetes, access = either
    with pytest.raises(KubernetesRefused, match="status 404"):
        kubernetes.cordon(access, "z")


def test_the_pods_of_a_node_are_those_and_no_others(either: Either) -> None:
    kubernetes, access = either
    pods = kubernetes.pods(access, "a")
    assert [pod.name for pod in pods] == ["p1", "p2", "p3"]
    assert pods[0] == make_pod("p1")
    assert kubernetes.pods(access, "z") == ()


def test_a_pod_is_evicted_once(either: Either) -> None:
    kubernetes, access = either
    pod = kubernetes.pods(access, "a")[0]
    assert kubernetes.evict(access, pod) is True
    assert [pod.name for pod in kubernetes.pods(access, "a")] == ["p2", "p3"]
    assert kubernetes.evict(access, pod) is False


def test_a_pod_that_no_budget_lets_go_stays_for_now(either: Either) -> None:
    kubernetes, access = either
    pod = kubernetes.pods(access, "a")[2]
    with pytest.raises(KubernetesUnavailable, match="disruption budget") as caught:
        kubernetes.evict(access, pod)
    assert caught.value.status == 429
    assert caught.value.retryable


def test_another_pod_of_the_same_name_is_not_evicted(either: Either) -> None:
    kubernetes, access = either
    pod = replace(kubernetes.pods(access, "a")[0], uid="another")
    with pytest.raises(KubernetesConflict, match="UID"):
        kubernetes.evict(access, pod)
    assert len(kubernetes.pods(access, "a")) == 3


NEW = Lease("kube-system", "turn", "m1", 20.0, 1_795_244_400.25)


def test_a_lease_is_made_once(either: Either) -> None:
    kubernetes, access = either
    assert kubernetes.lease(access, "kube-system", "turn") is None
    made = kubernetes.put_lease(access, NEW)
    assert made == replace(NEW, uid=made.uid, resource_version="1")
    assert made.uid
    assert kubernetes.lease(access, "kube-system", "turn") == made
    with pytest.raises(KubernetesConflict):
        kubernetes.put_lease(access, replace(NEW, holder="m2"))


def test_a_lease_is_changed_only_by_who_knows_it_as_it_is(either: Either) -> None:
    kubernetes, access = either
    made = kubernetes.put_lease(access, NEW)
    changed = kubernetes.put_lease(access, replace(made, holder="m2"))
    assert (changed.holder, changed.resource_version) == ("m2", "2")
    with pytest.raises(KubernetesConflict):
        kubernetes.put_lease(access, replace(made, holder="m3"))
    with pytest.raises(KubernetesConflict):
        kubernetes.delete_lease(access, made)
    assert kubernetes.lease(access, "kube-system", "turn") == changed


def test_a_lease_is_deleted_once(either: Either) -> None:
    kubernetes, access = either
    made = kubernetes.put_lease(access, NEW)
    assert kubernetes.delete_lease(access, made) is True
    assert kubernetes.lease(access, "kube-system", "turn") is None
    assert kubernetes.delete_lease(access, made) is False


# --- what the client reads ------------------------------------------------------------------------


def test_a_node_is_read_with_all_that_matters(site: Site) -> None:
    site.api.nodes["a"]["metadata"]["deletionTimestamp"] = "2026-11-21T07:05:00Z"
    node = site.client.node(site.access, "a")
    assert node is not None
    assert node.labels["oneke.opennebula.io/vm-id"] == "61"
    assert node.annotations == {"etcd.rke2.cattle.io/node-name": "a-1a2b3c4d"}
    assert node.taints == (Taint("CriticalAddonsOnly", "true", "NoExecute"),)
    assert node.condition("Ready") == Condition(
        "Ready", "True", "KubeletReady", "kubelet is posting ready status", 1795244460.0
    )
    assert node.condition("EtcdIsVoter") == Condition("EtcdIsVoter", "False", "MemberIsLearner")
    assert not node.is_true("EtcdIsVoter")
    assert not node.is_true("DiskPressure")
    assert node.created_s == 1795244400.0
    assert node.is_going


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5])
def test_every_page_of_a_list_is_read(site: Site, size: int) -> None:
    site.api.nodes = {f"n{number}": node_document(f"n{number}") for number in range(size)}
    assert [one.name for one in site.client.nodes(site.access)] == list(site.api.nodes)
    assert len(site.server.requests) == max(1, (size + 1) // 2)


def test_a_list_that_expired_between_its_pages_is_read_anew(site: Site) -> None:
    whole = site.api._list("limit=2")
    site.api.next = [whole, refusal(410, "Expired", "the continue token is too old")]
    assert [one.name for one in site.client.nodes(site.access)] == ["a", "b", "c"]
    site.api.next = [whole, refusal(410, "Expired", "too old")] * 2
    with pytest.raises(KubernetesRefused, match="status 410"):
        site.client.nodes(site.access)


def test_a_failure_on_a_later_page_is_an_error_and_no_shorter_list(site: Site) -> None:
    site.api.next = [site.api._list("limit=2"), Answer(503, b"leader changed")]
    with pytest.raises(KubernetesUnavailable, match="status 503: leader changed"):
        site.client.nodes(site.access)


def test_a_list_without_an_end_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.system.kuberneteshttp._MOST_PAGES", 3)
    page = json.dumps({"kind": "NodeList", "metadata": {"continue": "x"}, "items": []})
    site.api.next = [Answer(200, page.encode())] * 3
    with pytest.raises(KubernetesMalformed, match="has no end"):
        site.client.nodes(site.access)


def test_a_name_is_one_part_of_the_path_whatever_is_in_it(site: Site) -> None:
    assert site.client.node(site.access, "../secrets?x=1") is None
    assert site.server.requests[-1].path == "/api/v1/nodes/..%2Fsecrets%3Fx%3D1"


def test_health_names_the_checks_that_fail(site: Site) -> None:
    said = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/x failed\nreadyz failed\n"
    site.api.next = [Answer(500, said.encode())]
    assert site.client.health(site.access) == Health(False, ("etcd", "poststarthook/x"))


# --- errors ---------------------------------------------------------------------------------------

_GARBAGE = [b"", b"\x00\x01", b"[1, 2]", b"null", b"{}", b"[" * 100_000, b"9" * 5000, b"\xff\xfe{"]


@pytest.mark.parametrize("verb", ["node", "nodes", "delete", "pods", "evict", "lease"])
@pytest.mark.parametrize(
    ("answer", "error", "words", "retryable"),
    [
        (refusal(401, "Unauthorized", "Unauthorized"), KubernetesRefused, "status 401", False),
        (refusal(403, "Forbidden", "nodes is forbidden"), KubernetesRefused, "forbidden", False),
        (Answer(404, b"404 page not found"), KubernetesRefused, "page not found", False),
        (refusal(409, "Conflict", "it changed"), KubernetesConflict, "it changed", False),
        (refusal(422, "Invalid", "two\nlines"), KubernetesRefused, "two lines", False),
        (Answer(302), KubernetesRefused, "status 302: no text", False),
        (refusal(429, "TooManyRequests", "busy"), KubernetesUnavailable, "busy", True),
        (Answer(500, b"x" * 100_000), KubernetesUnavailable, "status 500: x+$", True),
        (Answer(503, b"starting"), KubernetesUnavailable, "starting", True),
        (Answer(200, b'{"kind": "NodeLi', cut=True), KubernetesUnavailable, "Kubernetes", True),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else None,
)
def test_errors_are_told_apart(
    site: Site,
    verb: str,
    answer: Answer,
    error: type[KubernetesError],
    words: str,
    retryable: bool,
) -> None:
    site.api.next = [answer]
    with pytest.raises(error, match=words) as caught:
        ask(site, verb)
    assert type(caught.value) is error
    assert caught.value.retryable == retryable
    assert caught.value.exit_code == 75
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def ask(site: Site, verb: str) -> object:
    """Ask something."""
    calls: dict[str, Callable[[], object]] = {
        "health": lambda: site.client.health(site.access),
        "node": lambda: site.client.node(site.access, "a"),
        "nodes": lambda: site.client.nodes(site.access),
        "delete": lambda: site.client.delete_node(site.access, make_node("a")),
        "pods": lambda: site.client.pods(site.access, "a"),
        "evict": lambda: site.client.evict(site.access, make_pod("p")),
        "lease": lambda: site.client.put_lease(site.access, NEW),
    }
    return calls[verb]()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("verb", ["node", "nodes", "pods", "lease"])
@pytest.mark.parametrize("body", _GARBAGE, ids=lambda body: repr(body[:5]))
def test_garbage_is_no_answer(site: Site, verb: str, body: bytes) -> None:
    site.api.next = [Answer(200, body)]
    with pytest.raises(KubernetesMalformed) as caught:
        ask(site, verb)
    assert caught.value.retryable


def test_a_node_in_a_list_without_what_tells_it_from_others_is_no_answer(site: Site) -> None:
    del site.api.nodes["c"]["metadata"]["uid"]
    with pytest.raises(KubernetesMalformed, match="without name, uid or resourceVersion"):
        site.client.nodes(site.access)


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_health_that_can_not_be_told_is_an_error(site: Site, status: int) -> None:
    site.api.next = [Answer(status, b"no")]
    with pytest.raises(KubernetesError, match=f"/readyz: status {status}"):
        site.client.health(site.access)


@pytest.mark.parametrize("answer", [Answer(delay_s=2), Answer(body=b"x" * 50, drip_s=0.1)])
def test_an_answer_that_does_not_come_in_time_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr("appliance.system.kubernetescalls.TIMEOUT_S", 0.3)
    site.api.next = [answer]
    with pytest.raises(KubernetesUnavailable, match="in time") as caught:
        site.client.health(site.access)
    assert caught.value.retryable
    assert site.client.health(site.access).is_ok


def test_who_has_little_time_waits_no_longer(site: Site) -> None:
    site.api.next = [Answer(delay_s=2)]
    with pytest.raises(KubernetesUnavailable, match="in time"):
        site.client.health(replace(site.access, longest_s=0.3))


def test_who_has_time_up_to_a_point_waits_up_to_it_and_asks_nobody_after_it(site: Site) -> None:
    site.api.next = [Answer(delay_s=2)]
    access = replace(site.access, until_s=monotonic() + 0.3)
    with pytest.raises(KubernetesUnavailable, match="in time"):
        site.client.health(access)
    assert monotonic() < access.until_s + 1.5
    with pytest.raises(KubernetesUnavailable, match="no time is left to ask"):
        site.client.health(replace(site.access, until_s=monotonic()))


def test_an_answer_without_bounds_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.system.kubernetescalls.MAX_ANSWER_BYTES", 100)
    site.api.next = [Answer(body=b" " * 20_000)]
    with pytest.raises(KubernetesUnavailable, match="larger than 100 bytes"):
        site.client.nodes(site.access)


def test_nobody_there_is_unavailable(certificates: Certificates) -> None:
    with serving(certificates.server, Api().answer) as server:
        gone = access_to(server, certificates)
    with pytest.raises(KubernetesUnavailable, match="Connection refused") as caught:
        client().health(gone)
    assert caught.value.retryable


# --- TLS ------------------------------------------------------------------------------------------


def test_a_server_of_another_cluster_is_not_trusted(site: Site, certificates: Certificates) -> None:
    other = access_to(site.server, certificates, ca=certificates.stranger_ca.certificate)
    with pytest.raises(KubernetesUnavailable, match="certificate verify failed") as caught:
        site.client.health(other)
    assert "does not vouch" in str(caught.value.hint)
    assert site.server.requests == []


def test_the_certificates_of_the_system_are_not_trusted(
    site: Site, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.server_ca.certificate))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.server_ca.certificate))
    other = access_to(site.server, certificates, ca=certificates.stranger_ca.certificate)
    with pytest.raises(KubernetesUnavailable, match="certificate verify failed"):
        site.client.health(other)


def test_a_certificate_for_another_address_is_not_trusted(certificates: Certificates) -> None:
    with serving(certificates.elsewhere, Api().answer) as server:
        with pytest.raises(KubernetesUnavailable, match=r"127\.0\.0\.1"):
            client().health(access_to(server, certificates))
        assert server.requests == []


def test_a_client_of_another_cluster_is_turned_away(site: Site, certificates: Certificates) -> None:
    stranger = access_to(
        site.server,
        certificates,
        certificate=certificates.stranger.certificate,
        key=certificates.stranger.key,
    )
    with pytest.raises(KubernetesUnavailable):
        site.client.health(stranger)
    assert site.server.requests == []


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
@pytest.mark.parametrize("text", [None, "", "no PEM"])
def test_certificates_that_are_not_there_yet_are_named(
    site: Site, certificates: Certificates, tmp_path: Path, name: str, text: str | None
) -> None:
    path = tmp_path / "made-later.pem"
    if text is not None:
        path.write_text(text)
    access = access_to(site.server, certificates, **{name: path})
    expected = "not there yet" if text is None else "can not be used"
    with pytest.raises(KubernetesUnavailable, match=rf"made-later\.pem.*{expected}"):
        site.client.health(access)


def test_a_key_of_another_certificate_can_not_be_used(
    site: Site, certificates: Certificates
) -> None:
    access = access_to(site.server, certificates, key=certificates.stranger.key)
    with pytest.raises(KubernetesUnavailable, match="can not be used"):
        site.client.health(access)


def test_certificates_are_read_anew_for_every_request(
    site: Site, certificates: Certificates, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_bytes(certificates.stranger_ca.certificate.read_bytes())
    access = access_to(site.server, certificates, ca=ca)
    with pytest.raises(KubernetesUnavailable):
        site.client.health(access)
    ca.write_bytes(certificates.server_ca.certificate.read_bytes())
    assert site.client.health(access).is_ok


def test_proxies_of_the_environment_are_left_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert site.client.health(site.access).is_ok


# --- the supervisor -------------------------------------------------------------------------------


class Supervising:
    """A supervisor.

    Attributes:
        is_starting: Whether it only says that it is.
        next: Answers to give instead of its own, one each.
    """

    def __init__(self) -> None:
        self.is_starting = False
        self.next: list[Answer] = []

    def answer(self, request: Request) -> Answer:
        """Answer."""
        if self.next:
            return self.next.pop(0)
        if self.is_starting:
            return Answer(503, b"starting")
        assert request.path == "/ping"
        return Answer(200, b"pong")


@dataclass(frozen=True)
class Outpost:
    """A supervisor and a client of it."""

    supervising: Supervising
    server: TlsServer
    client: HttpSupervisor


@pytest.fixture
def outpost(certificates: Certificates) -> Iterator[Outpost]:
    supervising = Supervising()
    with serving(certificates.server, supervising.answer) as server:
        yield Outpost(supervising, server, HttpSupervisor())


def test_a_supervisor_says_pong_or_that_it_is_starting(outpost: Outpost) -> None:
    port = outpost.server.port
    assert outpost.client.ping("127.0.0.1", port).answer is Said.PONG
    outpost.supervising.is_starting = True
    assert outpost.client.ping("127.0.0.1", port).answer is Said.STARTING


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (Answer(404, b"not here"), "status 404: not here"),
        (Answer(200, b"<html>hello"), "status 200: <html>hello"),
        (Answer(200, b"pong" * 10, cut=True), "/ping"),
    ],
    ids=["404", "html", "cut"],
)
def test_who_answers_otherwise_is_no_supervisor(
    outpost: Outpost, answer: Answer, cause: str
) -> None:
    outpost.supervising.next = [answer]
    ping = outpost.client.ping("127.0.0.1", outpost.server.port)
    assert ping.answer is Said.NONE
    assert cause in ping.cause


def test_a_supervisor_that_is_not_there_or_slow_does_not_answer(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.system.supervisorhttp.TIMEOUT_S", 0.3)
    with serving(certificates.server, lambda request: Answer(delay_s=2)) as server:
        ping = HttpSupervisor().ping("127.0.0.1", server.port)
        assert (ping.answer, "in time" in ping.cause) == (Said.NONE, True)
    seen = SupervisorAnswers("127.0.0.1", server.port).look(
        make_system(supervisor=HttpSupervisor())
    )
    assert not seen.serves
    assert "Connection refused" in seen.reason
