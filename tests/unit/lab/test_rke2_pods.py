"""The double's pods, schedules, budgets and charts, without a node."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.lab.rke2.double import batch, charts, images, workloads
from tests.lab.rke2.double.batch import BatchControllers
from tests.lab.rke2.double.container import CAPABILITIES, USUAL, granted
from tests.lab.rke2.double.cron import is_due, last_due, parse_schedule
from tests.lab.rke2.double.eviction import BUDGETS, ask_budgets
from tests.lab.rke2.double.helm import job_of, release_of
from tests.lab.rke2.double.kinds import ApiError
from tests.lab.rke2.double.knobs import Knobs
from tests.lab.rke2.double.kubectlfiles import UsageError, documents, merge_three
from tests.lab.rke2.double.podspec import default_pod, end_gently, patience_s, tolerates, why_not
from tests.lab.rke2.double.store import Object, Store, set_condition, timestamp
from tests.lab.rke2.double.workloads import SETS, WorkloadControllers
from tests.unit.lab.rke2_memory import MemoryEtcd

MASTER_TAINT = {"key": "CriticalAddonsOnly", "value": "true", "effect": "NoExecute"}


@pytest.fixture
def store() -> Store:
    return Store(MemoryEtcd())


@pytest.fixture
def knobs(tmp_path: Path) -> Knobs:
    file = tmp_path / "knobs.yaml"
    file.write_text("intervals: {controller_lease: 0.05, minute: 1, pod_eviction: 0}\n")
    return Knobs([file])


@pytest.fixture
def controllers(store: Store, knobs: Knobs, monkeypatch: pytest.MonkeyPatch) -> WorkloadControllers:
    for module in (workloads, batch):
        monkeypatch.setattr(f"{module.__name__}.event", lambda *_, **__: None)
    return WorkloadControllers(store, knobs, "one")


def node(store: Store, name: str, *taints: dict[str, str], **labels: str) -> Object:
    marks = {"kubernetes.io/hostname": name, **labels}
    made = {"metadata": {"name": name, "labels": marks}, "spec": {"taints": list(taints)}}
    set_condition(made, "Ready", "True", "KubeletReady", "")
    return store.create("nodes", "", made)


def pod(name: str = "p", **spec: Any) -> Object:
    return default_pod({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": spec})


def owner(kind: str, name: str, **spec: Any) -> tuple[str, Object]:
    labels = {"app": "x"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main"}]}}
    body = {"template": template, "selector": {"matchLabels": labels}, **spec}
    return SETS[kind], {"metadata": {"name": name, "generation": 1}, "spec": body}


def run_all(store: Store) -> None:
    """Play the kubelets: pods that have a node run, those that are told to end are gone."""
    for one in store.all("pods"):
        metadata = one["metadata"]
        if metadata.get("deletionTimestamp"):
            store.delete("pods", metadata["namespace"], metadata["name"])
        elif one["spec"].get("nodeName"):

            def run(old: Object) -> Object:
                old["status"]["phase"] = "Running"
                set_condition(old, "Ready", "True", "", "")
                return old

            store.change("pods", metadata["namespace"], metadata["name"], run)


def places(store: Store) -> list[str]:
    return sorted(str(one["spec"].get("nodeName")) for one in store.all("pods"))


# --- where pods run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toleration", "taint", "expected"),
    [
        ({"operator": "Exists"}, MASTER_TAINT, True),
        ({"key": "CriticalAddonsOnly", "operator": "Exists"}, MASTER_TAINT, True),
        ({"key": "CriticalAddonsOnly", "value": "true"}, MASTER_TAINT, True),
        ({"key": "CriticalAddonsOnly", "value": "other"}, MASTER_TAINT, False),
        ({"key": "CriticalAddonsOnly"}, MASTER_TAINT, False),
        ({"operator": "Exists", "effect": "NoSchedule"}, MASTER_TAINT, False),
        ({"key": "other", "operator": "Exists"}, MASTER_TAINT, False),
        ({"key": "k"}, {"key": "k", "effect": "NoSchedule"}, True),
    ],
)
def test_tolerations(toleration: Any, taint: Any, expected: bool) -> None:
    assert tolerates(toleration, taint) is expected


def test_a_pod_says_what_keeps_it_from_a_node(store: Store) -> None:
    master = node(store, "m", MASTER_TAINT)
    worker = node(store, "w")
    assert "untolerated taint {CriticalAddonsOnly: true}" in why_not(pod(), master, [])
    assert why_not(pod(), worker, []) == ""
    assert "selector" in why_not(pod(nodeSelector={"a": "b"}), worker, [])
    worker["spec"]["unschedulable"] = True
    assert "unschedulable" in why_not(pod(), worker, [])
    assert why_not(pod(tolerations=[{"operator": "Exists"}]), worker, []) == ""


def test_a_pod_stays_on_a_tainted_node_as_long_as_it_tolerates() -> None:
    unreachable = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    assert patience_s(pod(), unreachable) == 300
    assert patience_s(pod(), MASTER_TAINT) == 0
    assert patience_s(pod(tolerations=[{"operator": "Exists"}]), MASTER_TAINT) is None


def test_pods_that_shun_each_other_are_on_different_nodes(
    store: Store, controllers: WorkloadControllers
) -> None:
    for name in ("a", "b"):
        node(store, name)
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "x"}},
    }
    shy = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    resource, made = owner("Deployment", "d", replicas=3)
    made["spec"]["template"]["spec"]["affinity"] = shy
    store.create(resource, "default", made)
    for _ in range(3):
        controllers.tick()
    assert places(store) == ["None", "a", "b"]


# --- controllers ---------------------------------------------------------------------------------


def test_a_deployment_has_as_many_pods_as_it_wants(
    store: Store, controllers: WorkloadControllers
) -> None:
    node(store, "a")
    store.create(SETS["Deployment"], "default", owner("Deployment", "d", replicas=2)[1])
    for _ in range(3):
        controllers.tick()
        run_all(store)
    controllers.tick()
    controllers.tick()
    status = store.get(SETS["Deployment"], "default", "d")["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)
    store.delete(SETS["Deployment"], "default", "d")
    for _ in range(3):
        controllers.tick()
        run_all(store)
    assert store.all("pods") == []
    assert store.all(SETS["ReplicaSet"]) == []


def test_daemons_are_on_each_node_they_may_be_on(
    store: Store, controllers: WorkloadControllers
) -> None:
    node(store, "m", MASTER_TAINT)
    for name in ("a", "b"):
        node(store, name)
    store.create(SETS["DaemonSet"], "default", owner("DaemonSet", "d")[1])
    controllers.tick()
    assert places(store) == ["a", "b"]
    store.change("nodes", "", "a", lambda old: old | {"spec": {"unschedulable": True}})
    for _ in range(2):
        run_all(store)
        controllers.tick()
    assert places(store) == ["a", "b"]


def test_a_pod_whose_node_is_gone_is_gone_too(
    store: Store, controllers: WorkloadControllers
) -> None:
    node(store, "a")
    store.create("pods", "default", pod("left", nodeName="other"))
    store.create("pods", "default", pod("kept", nodeName="a"))
    controllers.tick()
    assert [one["metadata"]["name"] for one in store.all("pods")] == ["kept"]


def test_a_pod_that_a_kubelet_has_is_only_told_to_end(store: Store) -> None:
    held = end_gently(store, store.create("pods", "default", pod("held", nodeName="a")), None)
    assert held["metadata"]["deletionGracePeriodSeconds"] == 30
    assert store.get("pods", "default", "held")["metadata"]["deletionTimestamp"]
    end_gently(store, store.create("pods", "default", pod("free")), None)
    end_gently(store, store.get("pods", "default", "held"), 0)
    assert store.all("pods") == []


# --- budgets -------------------------------------------------------------------------------------


def running(store: Store, name: str) -> Object:
    made = pod(name, nodeName="a")
    made["status"]["phase"] = "Running"
    set_condition(made, "Ready", "True", "", "")
    return store.create("pods", "default", made)


def budget(store: Store, name: str, **spec: Any) -> None:
    selector = {"matchLabels": {"app": "x"}}
    metadata = {"name": name, "generation": 1}
    store.create(BUDGETS, "default", {"metadata": metadata, "spec": {"selector": selector, **spec}})


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"minAvailable": 2}, 1),
        ({"minAvailable": 3}, 0),
        ({"maxUnavailable": 1}, 1),
        ({"minAvailable": "50%"}, 1),
        ({"maxUnavailable": "100%"}, 3),
    ],
)
def test_a_budget_allows_what_is_left_of_it(
    store: Store, controllers: WorkloadControllers, spec: dict[str, Any], allowed: int
) -> None:
    node(store, "a")
    pods = [running(store, name) for name in ("p", "q", "r")]
    budget(store, "b", **spec)
    with pytest.raises(ApiError, match="violate") as caught:
        ask_budgets(store, pods[0])
    assert caught.value.details["retryAfterSeconds"] == 10
    controllers.tick()
    for one in pods[:allowed]:
        ask_budgets(store, one)
    if allowed < len(pods):
        with pytest.raises(ApiError) as caught:
            ask_budgets(store, pods[allowed])
        assert caught.value.status == 429
        assert "healthy pods and has 3 currently" in json.dumps(caught.value.details)


def test_two_budgets_for_a_pod_are_an_error(store: Store) -> None:
    one = running(store, "p")
    for name in ("b", "c"):
        budget(store, name, minAvailable=0)
    with pytest.raises(ApiError) as caught:
        ask_budgets(store, one)
    assert caught.value.status == 500


# --- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "minute", "expected"),
    [
        ("* * * * *", 17, True),
        ("*/2 * * * *", 16, True),
        ("*/2 * * * *", 17, False),
        ("5-9/2 * * * *", 7, True),
        ("5-9/2 * * * *", 8, False),
        ("0 1 * * *", 60, True),
        ("0 1 * * *", 0, False),
        ("0 0 1 1 *", 0, True),
        ("0 0 * * 4", 0, True),  # the first of January 1970 was a Thursday
        ("0 0 * * 0,7", 0, False),
        ("0 0 2 * 4", 0, True),  # of two kinds of days either will do
        ("@hourly", 120, True),
    ],
)
def test_when_a_schedule_is_due(schedule: str, minute: int, expected: bool) -> None:
    assert is_due(parse_schedule(schedule), minute) is expected


@pytest.mark.parametrize("text", ["* * * *", "60 * * * *", "a * * * *", "5-1 * * * *"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_schedule(text)


def test_of_missed_runs_only_the_last_is_made_up_for() -> None:
    schedule = parse_schedule("*/5 * * * *")
    assert last_due(schedule, 0, 14) == 10
    assert last_due(schedule, 10, 14) is None


def cronjob(**spec: Any) -> Object:
    template = {"spec": {"containers": [{"name": "main"}], "restartPolicy": "Never"}}
    job = {"spec": {"template": template, "backoffLimit": 0}}
    made = timestamp(0)
    return {
        "metadata": {"name": "c", "creationTimestamp": made, "uid": "u"},
        "spec": {"schedule": "* * * * *", "jobTemplate": job, **spec},
    }


@pytest.mark.parametrize(("policy", "jobs"), [("Forbid", 1), ("Allow", 2), ("Replace", 1)])
def test_a_run_that_is_not_over_counts_by_its_policy(
    store: Store,
    knobs: Knobs,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    jobs: int,
) -> None:
    monkeypatch.setattr("tests.lab.rke2.double.batch.event", lambda *_, **__: None)
    controller = BatchControllers(store, knobs)
    store.create(batch.CRONJOBS, "default", cronjob(concurrencyPolicy=policy))
    for now in (1000.0, 1001.0):
        monkeypatch.setattr("tests.lab.rke2.double.batch.time.time", lambda now=now: now)
        controller.tick(store.all(batch.CRONJOBS), store.all(batch.JOBS), [])
    assert len(store.all(batch.JOBS)) == jobs


# --- containers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        ({}, USUAL),
        ({"privileged": True}, CAPABILITIES),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_CHROOT"]}}, ("SYS_CHROOT",)),
        ({"capabilities": {"drop": ["ALL"]}}, ()),
        ({"capabilities": {"add": ["CAP_SYS_ADMIN"]}}, (*USUAL, "SYS_ADMIN")),
    ],
)
def test_capabilities(security: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert granted(security) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("rancher/rke2:v1", "docker.io/rancher/rke2:v1"),
        ("localhost/oneke/busybox:static", "localhost/oneke/busybox:static"),
        ("registry.example:5000/a/b", "registry.example:5000/a/b:latest"),
    ],
)
def test_names_of_images(name: str, expected: str) -> None:
    assert images.full_name(name) == expected


def test_an_image_is_found_in_an_archive_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.lab.rke2.double.images.FOLDER", tmp_path)
    content = {
        "manifest.json": [{"Config": "c.json", "RepoTags": ["oneke/x:1"], "Layers": ["l.tar"]}],
        "c.json": {"config": {"Entrypoint": ["/bin/x"]}},
    }
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        for name, value in content.items():
            data = json.dumps(value).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (tmp_path / "broken.tar").write_text("nothing")
    found = images.find_image("docker.io/oneke/x:1")
    assert found is not None
    assert (found.layers, found.config) == (("l.tar",), {"Entrypoint": ["/bin/x"]})
    assert images.find_image("oneke/x:2") is None


# --- files and charts ----------------------------------------------------------------------------


def test_what_was_applied_and_is_no_longer_wanted_is_taken_away() -> None:
    before = {"a": 1, "b": {"c": 1, "d": 1}}
    now = {"a": 1, "b": {"c": 1, "d": 1, "foreign": 1}, "other": 1}
    assert merge_three(before, {"b": {"c": 2}}, now) == {"a": None, "b": {"c": 2, "d": None}}
    assert merge_three(before, before, now) == {}


@pytest.mark.parametrize("text", ["a: [", "just text", "a: 1"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        list(documents(text))


def chart(**spec: Any) -> Object:
    metadata = {"name": "one-x", "namespace": "kube-system", "uid": "u"}
    return {"metadata": metadata, "spec": {"chart": "x", **spec}}


def test_values_of_a_chart_are_those_of_who_comes_last() -> None:
    own = "a: 1\nb: {c: 1, d: 1}\n"
    config = {"spec": {"valuesContent": "b: {c: 2}\n"}}
    release = release_of(chart(valuesContent=own, set={"b.d": 3}, targetNamespace="t"), config)
    assert release.values == {"a": 1, "b": {"c": 2, "d": 3}}
    assert (release.name, release.namespace, release.chart) == ("one-x", "t", "x")
    with pytest.raises(ValueError, match="failed to parse values"):
        release_of(chart(valuesContent="a: ["), None)


def test_a_chart_in_an_archive_tells_its_name() -> None:
    packed = charts.pack("rke2-coredns", "1.2.3")
    assert charts.pack("rke2-coredns", "1.2.3") == packed
    release = release_of(chart(chart=None, chartContent=packed), None)
    assert (release.chart, release.version) == ("rke2-coredns", "1.2.3")
    with pytest.raises(ValueError, match="Chart"):
        release_of(chart(chartContent="bm90aGluZw=="), None)


def test_a_jobs_hash_changes_with_what_it_installs_only() -> None:
    def hash_of(*given: Any) -> str:
        return str(
            job_of(*given)["metadata"]["annotations"]["helmcharts.helm.cattle.io/configHash"]
        )

    assert hash_of(chart(), None) == hash_of(chart(), None)
    others = [
        hash_of(chart(version="2"), None),
        hash_of(chart(), {"spec": {"valuesContent": "a: 1"}}),
    ]
    assert hash_of(chart(), None) not in others


def test_only_a_bootstrap_job_runs_on_masters_without_a_network() -> None:
    first = job_of(chart(bootstrap=True), None)["spec"]["template"]["spec"]
    other = job_of(chart(), None)["spec"]["template"]["spec"]
    assert first["hostNetwork"]
    assert any(tolerates(one, MASTER_TAINT) for one in first["tolerations"])
    assert "hostNetwork" not in other
    assert "tolerations" not in other


@pytest.mark.parametrize(
    ("minor", "ingresses", "expected"),
    [
        (35, [], {"rke2-ingress-nginx"}),
        (36, [], {"rke2-traefik", "rke2-traefik-crd"}),
        (36, ["none"], set()),
        (35, ["traefik"], {"rke2-traefik", "rke2-traefik-crd"}),
    ],
)
def test_the_bundled_ingress_is_that_of_the_version(
    minor: int, ingresses: list[str], expected: set[str]
) -> None:
    found = charts.bundled(minor, ["canal"], ingresses)
    assert {name for name in found if "traefik" in name or "nginx" in name} == expected
