"""Add-ons of the double: files become objects, charts become pods and kinds, and both go again.

One server and one worker for all tests, which run in the order they are written.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.lab import Lab
from tests.lab.rke2.control import DATA, Rke2
from tests.lab.rke2.nodes import boot_bare

pytestmark = pytest.mark.lab

ADDRESSES = {"s0": "172.20.0.110", "w0": "172.20.0.120"}
MANIFESTS = f"{DATA}/server/manifests"
TIMEOUT_S = 90
CRD = "customresourcedefinitions"
POOL = {
    "apiVersion": "metallb.io/v1beta1",
    "kind": "IPAddressPool",
    "metadata": {"name": "default", "namespace": "metallb-system"},
    "spec": {"addresses": ["198.51.100.0/24"]},
}
METALLB_NAMESPACE = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "metallb-system"},
}


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def machines(lab: Lab) -> dict[str, Rke2]:
    """A server that no pod may run on but those that tolerate it; the worker is not started."""
    made = boot_bare(lab, ADDRESSES)
    for machine in made.values():
        machine.turn(intervals={"manifest_scan": 0.5})
    server = made["s0"]
    config = {"token": "secret", "node-name": "s0", "node-ip": ADDRESSES["s0"]}
    server.configure(config | {"node-taint": ["CriticalAddonsOnly=true:NoExecute"]})
    write(server, "rke2-canal-config", tuned("rke2-canal", "flannel: {iface: eth0}"))
    server.start("server")
    server.wait_active("server")
    server.wait_condition(["s0"])
    return made


@pytest.fixture
def server(machines: dict[str, Rke2]) -> Rke2:
    return machines["s0"]


def write(server: Rke2, name: str, *objects: Mapping[str, Any]) -> None:
    server.node.write(f"{MANIFESTS}/{name}.yaml", yaml.safe_dump_all(objects))


def config_map(name: str, **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def chart(name: str, target: str, values: str = "", **spec: Any) -> dict[str, Any]:
    own = {"chart": name.removeprefix("one-"), "repo": "https://charts.example", "version": "1.2.3"}
    return {
        "apiVersion": "helm.cattle.io/v1",
        "kind": "HelmChart",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"targetNamespace": target, "valuesContent": values, **own, **spec},
    }


def tuned(name: str, values: str) -> dict[str, Any]:
    return {
        "apiVersion": "helm.cattle.io/v1",
        "kind": "HelmChartConfig",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"valuesContent": values},
    }


def find(server: Rke2, kind: str, name: str, namespace: str = "kube-system") -> dict[str, Any]:
    """An object; empty if there is none."""
    told = server.kubectl(
        "get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found", check=False
    )
    parsed: dict[str, Any] = json.loads(told or "{}")
    return parsed if parsed.get("metadata") else {}


def wait(server: Rke2, met: Callable[[], object], what: str) -> None:
    def is_met() -> bool:
        if not met():
            raise LabError(str(server.events()[-5:]))
        return True

    server.node.wait_until(is_met, TIMEOUT_S, what)


def is_true(obj: dict[str, Any], kind: str) -> bool:
    conditions = obj.get("status", {}).get("conditions") or []
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def is_installed(server: Rke2, name: str) -> bool:
    return is_true(find(server, "job", f"helm-install-{name}"), "Complete")


def values_of(server: Rke2, name: str, namespace: str = "kube-system") -> dict[str, Any]:
    """What the last revision of a release was installed with."""
    listed = server.kubectl(
        *("get", "secrets", "-n", namespace, "-l", f"owner=helm,name={name},status=deployed"),
        *("-o", "json"),
    )
    secret = json.loads(listed)["items"][0]
    told: dict[str, Any] = json.loads(b64decode(secret["data"]["release"]))
    return dict(told["config"])


# --- what is there by itself ---------------------------------------------------------------------


def test_the_cni_and_dns_come_before_any_worker_and_nothing_else_does(server: Rke2) -> None:
    wait(server, lambda: is_installed(server, "rke2-canal"), "the CNI's chart")
    wait(server, lambda: is_installed(server, "rke2-coredns"), "the chart of DNS")
    deployment = "rke2-coredns-rke2-coredns"
    wait(
        server,
        lambda: find(server, "deployment", deployment).get("status", {}).get("readyReplicas"),
        "DNS",
    )
    told = server.kubectl("get", "pods", "-n", "kube-system", "-o", "json")
    waiting = [
        pod["metadata"]["name"]
        for pod in json.loads(told)["items"]
        if pod["status"]["phase"] == "Pending" and not pod["spec"].get("nodeName")
    ]
    assert any(name.startswith("helm-install-rke2-metrics-server") for name in waiting)
    assert any(name.startswith("helm-install-rke2-ingress-nginx") for name in waiting)
    assert not find(server, "job", "helm-install-rke2-traefik")


def test_a_config_that_was_there_before_the_chart_is_in_its_values(server: Rke2) -> None:
    assert values_of(server, "rke2-canal") == {"flannel": {"iface": "eth0"}}
    assert find(server, "addon", "rke2-canal")["spec"]["checksum"]


def test_other_charts_come_with_the_first_worker(server: Rke2, machines: dict[str, Rke2]) -> None:
    worker = machines["w0"]
    config = {"server": f"https://{ADDRESSES['s0']}:9345", "token": server.token()}
    worker.configure(config | {"node-name": "w0", "node-ip": ADDRESSES["w0"]})
    worker.start("agent")
    worker.wait_active("agent")
    server.wait_condition(["w0"])
    wait(server, lambda: is_installed(server, "rke2-metrics-server"), "the metrics' chart")
    wait(server, lambda: is_installed(server, "rke2-ingress-nginx"), "the ingress's chart")
    wait(
        server,
        lambda: (
            find(server, "daemonset", "rke2-ingress-nginx-controller")
            .get("status", {})
            .get("numberReady")
        ),
        "the ingress",
    )


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_applied_and_what_leaves_it_is_pruned(server: Rke2) -> None:
    write(server, "two", config_map("first", a="1"), config_map("second", b="1"))
    wait(server, lambda: find(server, "configmap", "second", "default"), "the second object")
    write(server, "two", config_map("first", a="2"))
    wait(server, lambda: not find(server, "configmap", "second", "default"), "it to be pruned")
    assert find(server, "configmap", "first", "default")["data"] == {"a": "2"}


def test_a_file_that_is_deleted_leaves_its_objects(server: Rke2) -> None:
    server.node.run(["rm", f"{MANIFESTS}/two.yaml"])
    write(server, "later", config_map("later"))
    wait(server, lambda: find(server, "configmap", "later", "default"), "another scan")
    assert find(server, "configmap", "first", "default")


def test_a_skipped_file_is_as_good_as_none(server: Rke2) -> None:
    server.node.write(f"{MANIFESTS}/skipped.yaml.skip", "")
    write(server, "skipped", config_map("skipped"))
    server.node.write(f"{MANIFESTS}/.hidden.yaml", yaml.safe_dump(config_map("hidden")))
    server.node.write(f"{MANIFESTS}/deep/er/nested.json", json.dumps(config_map("nested")))
    wait(server, lambda: find(server, "configmap", "nested", "default"), "the one in a folder")
    assert not find(server, "configmap", "skipped", "default")
    assert not find(server, "configmap", "hidden", "default")
    assert not find(server, "addon", "skipped")


def test_a_change_behind_a_link_is_not_seen_before_a_restart(server: Rke2) -> None:
    server.node.write("/srv/linked.yaml", yaml.safe_dump(config_map("linked", a="1")))
    server.node.run(["ln", "-s", "/srv/linked.yaml", f"{MANIFESTS}/linked.yaml"])
    wait(server, lambda: find(server, "configmap", "linked", "default"), "the object")
    server.node.write("/srv/linked.yaml", yaml.safe_dump(config_map("linked", a="2")))
    write(server, "seen", config_map("seen"))
    wait(server, lambda: find(server, "configmap", "seen", "default"), "another scan")
    assert find(server, "configmap", "linked", "default")["data"] == {"a": "1"}
    server.restart("server")
    wait(
        server,
        lambda: find(server, "configmap", "linked", "default")["data"] == {"a": "2"},
        "the first scan after a start",
    )


@pytest.mark.parametrize(
    ("name", "text", "reason", "words"),
    [
        ("no-yaml", "a: [", "ParseManifestFailed", "error parsing"),
        (
            "no-kind",
            json.dumps(POOL | {"apiVersion": "nobody.example/v1"}),
            "ApplyManifestFailed",
            'no matches for kind "IPAddressPool" in version "nobody.example/v1"',
        ),
    ],
)
def test_a_file_that_can_not_be_applied_is_told_of_and_tried_again(
    server: Rke2, name: str, text: str, reason: str, words: str
) -> None:
    server.node.write(f"{MANIFESTS}/{name}.yaml", text)

    def told() -> bool:
        listed = server.kubectl("get", "events", "-n", "kube-system", "-o", "json")
        return any(
            each["involvedObject"]["name"] == name
            and each["reason"] == reason
            and words in each["message"]
            and each["count"] > 1
            for each in json.loads(listed)["items"]
        )

    wait(server, told, f"the event {reason}, twice")
    server.node.run(["rm", f"{MANIFESTS}/{name}.yaml"])


def test_a_name_that_is_no_object_name_is_refused(server: Rke2) -> None:
    write(server, "Not_A_Name", config_map("unnamed"))
    server.wait_journal("server", r"Addon.k3s.cattle.io \"Not_A_Name\" is invalid")
    assert not find(server, "configmap", "unnamed", "default")
    server.node.run(["rm", f"{MANIFESTS}/Not_A_Name.yaml"])


# --- charts --------------------------------------------------------------------------------------


def test_kinds_of_a_chart_are_waited_for_by_the_file_that_uses_them(server: Rke2) -> None:
    server.fail("manifest-crd-missing", "metallb")
    write(server, "one-metallb-config", POOL)
    write(server, "one-metallb", METALLB_NAMESPACE, chart("one-metallb", "metallb-system"))
    wait(server, lambda: is_installed(server, "one-metallb"), "the chart")
    wait(
        server,
        lambda: any(
            each["addon"] == "one-metallb-config" for each in server.events("addon.failed")
        ),
        "the file to fail",
    )
    assert not find(server, CRD, "ipaddresspools.metallb.io")
    server.heal("manifest-crd-missing")
    wait(server, lambda: find(server, "addon", "one-metallb-config"), "its AddOn")
    pools = "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools/default"
    wait(server, lambda: server.ask_as_admin(pools)[0] == 200, "the pool")


def test_a_chart_is_upgraded_when_its_values_change_and_not_else(server: Rke2) -> None:
    installed = [each for each in server.events("helm.installed") if each["chart"] == "one-metallb"]
    assert [each["revision"] for each in installed] == [1]
    write(server, "one-metallb-tuned", tuned("one-metallb", "speaker: {logLevel: debug}"))
    wait(
        server,
        lambda: (
            values_of(server, "one-metallb", "metallb-system") == {"speaker": {"logLevel": "debug"}}
        ),
        "the new values",
    )
    chart_object = find(server, "helmchart", "one-metallb")
    assert chart_object["status"]["jobName"] == "helm-install-one-metallb"


def test_a_chart_whose_job_fails_is_tried_again_until_its_limit(server: Rke2) -> None:
    server.fail("helm-job-fail", "one-broken")
    write(server, "one-broken", chart("one-broken", "default", backOffLimit=2))
    wait(server, lambda: is_true(find(server, "helmchart", "one-broken"), "Failed"), "the failure")
    assert len([each for each in server.events("helm.failed")]) >= 3
    server.heal("helm-job-fail")


def test_a_chart_that_is_deleted_is_uninstalled_and_its_namespace_stays(server: Rke2) -> None:
    assert find(server, "deployment", "metallb-controller", "metallb-system")
    for name in ("one-metallb", "one-metallb-tuned", "one-metallb-config"):
        server.node.run(["rm", f"{MANIFESTS}/{name}.yaml"])
    server.kubectl("delete", "helmchart", "one-metallb", "-n", "kube-system", "--timeout=30s")
    assert not find(server, "deployment", "metallb-controller", "metallb-system")
    assert find(server, "namespace", "metallb-system")
    assert not find(server, "job", "helm-delete-one-metallb")


def test_what_is_disabled_is_taken_away_with_its_file(server: Rke2) -> None:
    write(server, "one-extra", config_map("extra"))
    wait(server, lambda: find(server, "configmap", "extra", "default"), "the extra object")
    config = {"token": "secret", "node-name": "s0", "node-ip": ADDRESSES["s0"]}
    server.configure(config | {"disable": ["rke2-metrics-server", "one-extra"]})
    server.restart("server")
    wait(server, lambda: not find(server, "helmchart", "rke2-metrics-server"), "the chart to go")
    wait(server, lambda: not find(server, "configmap", "extra", "default"), "the object to go")
    wait(server, lambda: not find(server, "deployment", "rke2-metrics-server"), "its deployment")
    for name in ("rke2-metrics-server", "one-extra"):
        assert not server.node.exists(f"{MANIFESTS}/{name}.yaml")
        assert not find(server, "addon", name)
