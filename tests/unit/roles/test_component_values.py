"""What the packaged components ask of the cluster: ports, places, and what they get along with."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from roles.common.registration import registration_of_worker
from roles.common.rke2config import STORAGE_LABEL, STORAGE_TAINT
from tests.manifests.rendered import files_of
from tests.unit.roles.nodes import node_of

K8S = "ONEAPP_K8S_"
PLUG_INS = ("cilium", "calico", "canal", "flannel")


def texts(**changes: str) -> dict[str, str]:
    """Return the files of a master, by name; keys are those of Kubernetes."""
    return {file.name: file.text for file in files_of(**{K8S + k: v for k, v in changes.items()})}


def values(file: str, **changes: str) -> Any:
    """Return the values in the last document of a file."""
    document = list(yaml.safe_load_all(texts(**changes)[file]))[-1]
    return yaml.safe_load(document["spec"]["valuesContent"])


def kinds(file: str, **changes: str) -> list[tuple[str, str]]:
    """Return kind and name of each document of a file."""
    found = yaml.safe_load_all(texts(**changes)[file])
    return [(one["kind"], one["metadata"]["name"]) for one in found]


def test_traefik_listens_where_workers_register_for_the_balancers() -> None:
    ports = values("one-traefik.yaml", TRAEFIK_ENABLED="YES")["ports"]
    registered = registration_of_worker(node_of("worker"))
    assert registered["ONEGATE_HAPROXY_LB2_SERVER_PORT"] == str(ports["websecure"]["nodePort"])
    assert registered["ONEGATE_HAPROXY_LB3_SERVER_PORT"] == str(ports["web"]["nodePort"])


def test_traefiks_two_pods_are_on_two_nodes_and_one_goes_before_the_next_comes() -> None:
    made = values("one-traefik.yaml", TRAEFIK_ENABLED="YES")
    assert made["deployment"]["replicas"] == 2
    (rule,) = made["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    assert made["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_longhorn_keeps_to_the_storage_nodes_by_the_label_and_taint_they_join_with() -> None:
    made = values("one-longhorn.yaml", LONGHORN_ENABLED="YES")
    label, _, value = STORAGE_LABEL.partition("=")
    toleration = {
        "key": label,
        "operator": "Equal",
        "value": value,
        "effect": STORAGE_TAINT.rpartition(":")[2],
    }
    assert made["defaultSettings"]["taintToleration"] == STORAGE_TAINT
    assert made["defaultSettings"]["createDefaultDiskLabeledNodes"] is True
    for part in ("longhornManager", "longhornDriver", "longhornUI"):
        assert made[part]["tolerations"] == [toleration]
    for part in ("longhornDriver", "longhornUI"):
        assert made[part]["nodeSelector"] == {label: value}


def test_components_ask_nobody_outside_for_news_and_tell_nobody_of_themselves() -> None:
    longhorn = values("one-longhorn.yaml", LONGHORN_ENABLED="YES")["defaultSettings"]
    traefik = values("one-traefik.yaml", TRAEFIK_ENABLED="YES")["global"]
    assert longhorn["upgradeChecker"] is False
    assert longhorn["allowCollectingLonghornUsageMetrics"] is False
    assert traefik == {"checkNewVersion": False, "sendAnonymousUsage": False}


@pytest.mark.parametrize(
    ("file", "switch", "namespace"),
    [
        ("one-longhorn.yaml", "LONGHORN_ENABLED", "longhorn-system"),
        ("one-traefik.yaml", "TRAEFIK_ENABLED", "traefik-system"),
        ("one-metallb.yaml", "METALLB_ENABLED", "metallb-system"),
    ],
)
def test_a_chart_comes_with_its_namespace_at_the_version_that_is_asked_for(
    file: str, switch: str, namespace: str
) -> None:
    assert [kind for kind, _ in kinds(file, **{switch: "YES"})] == ["Namespace", "HelmChart"]
    version = switch.replace("ENABLED", "CHART_VERSION")
    chosen = texts(**{switch: "YES", version: "9.8.7"})[file]
    own, chart = yaml.safe_load_all(chosen)
    assert own["metadata"]["name"] == chart["spec"]["targetNamespace"] == namespace
    assert chart["spec"]["version"] == "9.8.7"
    assert chart["metadata"]["namespace"] == "kube-system"


@pytest.mark.parametrize("chosen", PLUG_INS)
def test_each_plug_in_has_its_own_settings_and_those_of_no_other(chosen: str) -> None:
    made = {name for name in texts(CNI_PLUGIN=chosen) if name.startswith("rke2-")}
    assert made == {f"rke2-{chosen}-config.yaml"}
    file = f"rke2-{chosen}-config.yaml"
    assert kinds(file, CNI_PLUGIN=chosen) == [("HelmChartConfig", f"rke2-{chosen}")]


def test_cilium_asks_for_the_api_where_every_node_finds_it() -> None:
    made = values("rke2-cilium-config.yaml")
    endpoint = build_endpoints_of_a_master()
    assert made["kubeProxyReplacement"] is True
    assert (made["k8sServiceHost"], made["k8sServicePort"]) == endpoint


def build_endpoints_of_a_master() -> tuple[str, str]:
    """Return host and port of the balanced API."""
    endpoint = node_of("master").endpoints.control_plane
    assert endpoint is not None
    return endpoint.host, str(endpoint.port)


def test_multus_stands_beside_any_plug_in_and_alone() -> None:
    for chosen in (*PLUG_INS, "none"):
        made = {n for n in texts(CNI_PLUGIN=chosen, MULTUS_ENABLED="YES") if n.startswith("rke2-")}
        assert "rke2-multus-config.yaml" in made
        assert "rke2-multus-config.yaml" not in texts(CNI_PLUGIN=chosen)
