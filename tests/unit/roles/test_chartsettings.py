"""A user's own text in place of a chart's settings: what is refused, and what is only said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from appliance.context import Context
from appliance.decision import decide
from appliance.errors import ParameterProblems
from roles.common.chartsettings import is_known_from_the_start
from tests.contexts import SERVICES
from tests.manifests.judge import KUBERNETES
from tests.unit.roles.nodes import NODE

OWN = "ONEAPP_K8S_CNI_CONFIG"
BGP = {
    "ONEAPP_K8S_CILIUM_BGP_ENABLED": "YES",
    "ONEAPP_K8S_CILIUM_RANGE": "203.0.113.0/28",
}
FULL = {
    "kubeProxyReplacement": True,
    "k8sServiceHost": "localhost",
    "k8sServicePort": 6443,
    "bgpControlPlane": {"enabled": False},
}


def document(version: str, kind: str, name: str = "edge", **more: Any) -> dict[str, Any]:
    """Return a document of Kubernetes."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}


def config(chart: str, values: object = None, **spec: Any) -> dict[str, Any]:
    """Return the settings of a chart."""
    metadata = {"name": chart, "namespace": "kube-system"}
    spec = {"valuesContent": yaml.safe_dump(values) if values else "", **spec}
    return document("helm.cattle.io/v1", "HelmChartConfig") | {"metadata": metadata, "spec": spec}


POOL = document(
    "cilium.io/v2", "CiliumLoadBalancerIPPool", spec={"blocks": [{"cidr": "10.43.0.0/24"}]}
)
PEERS = document("cilium.io/v2", "CiliumBGPClusterConfig")
POLICY = document("crd.projectcalico.org/v1", "GlobalNetworkPolicy")


def warnings(*documents: object, plugin: str = "cilium", **changes: str) -> list[str]:
    """Return what is said of own documents for the plug-in."""
    own = {"ONEAPP_K8S_CNI_PLUGIN": plugin, OWN: yaml.safe_dump_all(documents)}
    decided = decide("master", Context({**NODE, **own, **changes}, "test"), SERVICES)
    return [one for one in decided.warnings if OWN in one or "MULTUS_CONFIG" in one]


def problem(*documents: object, plugin: str = "cilium", **changes: str) -> str:
    """Return the one thing that is wrong."""
    with pytest.raises(ParameterProblems) as caught:
        warnings(*documents, plugin=plugin, **changes)
    (found,) = caught.value.problems
    return str(found)


# ---- what Cilium does not come up without


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([config("rke2-cilium", FULL), POOL], "give the addresses in ONEAPP_K8S_CILIUM_RANGE"),
        ([config("rke2-cilium", FULL), PEERS], "found CiliumBGPClusterConfig edge, of a kind that"),
        (
            [
                config("rke2-cilium", FULL),
                document("snapshot.storage.k8s.io/v1", "VolumeSnapshotClass"),
            ],
            "found VolumeSnapshotClass edge, of a kind that comes with a chart",
        ),
        (
            [config("rke2-canal")],
            "found HelmChartConfig kube-system/rke2-canal; ONEAPP_K8S_CNI_PLUGIN",
        ),
        (
            [document("v1", "ConfigMap")],
            "expected a HelmChartConfig rke2-cilium in namespace kube-",
        ),
        (
            [document("helm.cattle.io/v1", "HelmChartConfig", "rke2-cilium")],
            "found HelmChartConfig default/rke2-cilium",
        ),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_what_keeps_the_settings_of_cilium_away_is_refused(
    documents: list[dict[str, Any]], said: str, listed: bool
) -> None:
    given = [{"apiVersion": "v1", "kind": "List", "items": documents}] if listed else documents
    found = problem(*given)
    assert found.startswith(f"{OWN}: ")
    assert said in found


def test_the_example_of_the_parameter_is_taken_as_it_is() -> None:
    (entry,) = (one for one in SERVICES["rke2"].entries if one.name == OWN)
    assert warnings(yaml.safe_load(entry.example)) == []


def test_a_template_that_names_no_plug_in_is_held_against_cilium() -> None:
    with pytest.raises(ParameterProblems, match="expected a HelmChartConfig rke2-cilium"):
        own = yaml.safe_dump(config("rke2-canal"))
        decide("master", Context({**NODE, OWN: own}, "test"), SERVICES)


@pytest.mark.parametrize(
    "beside",
    [
        config("rke2-coredns", {"replicaCount": 3}),
        config("rke2-canal"),
        document("helm.cattle.io/v1", "HelmChart"),
        document("v1", "Namespace"),
        document("rbac.authorization.k8s.io/v1", "ClusterRole"),
        document("networking.k8s.io/v1", "NetworkPolicy"),
        document("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ],
)
def test_what_the_api_server_takes_from_the_start_may_be_beside_the_settings(
    beside: dict[str, Any],
) -> None:
    assert warnings(config("rke2-cilium", FULL), beside) == []


# ---- what comes up all the same


@pytest.mark.parametrize("plugin", ["canal", "calico", "flannel"])
def test_settings_of_another_plug_in_are_said_where_the_chosen_one_does_without(
    plugin: str,
) -> None:
    (warning,) = warnings(config("rke2-cilium", FULL), plugin=plugin)
    assert warning == (
        f"{OWN} sets nothing for rke2-{plugin}: expected a HelmChartConfig of this name in"
        " namespace kube-system, found HelmChartConfig kube-system/rke2-cilium"
    )
    assert warnings(config(f"rke2-{plugin}", {"mtu": 1400}), plugin=plugin) == []


def test_settings_that_wait_for_a_kind_are_said_where_the_plug_in_does_without() -> None:
    (warning,) = warnings(config("rke2-canal"), POLICY, plugin="canal")
    assert "settings of rke2-canal may come late" in warning
    assert "GlobalNetworkPolicy edge" in warning


def test_own_settings_of_multus_are_held_to_the_same() -> None:
    attachment = document("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition")
    multus = {"ONEAPP_K8S_MULTUS_ENABLED": "YES"}
    for own, said in (
        ([config("rke2-multus"), attachment], "settings of rke2-multus may come late"),
        ([config("rke2-canal")], "sets nothing for rke2-multus"),
    ):
        multus["ONEAPP_K8S_MULTUS_CONFIG"] = yaml.safe_dump_all(own)
        (warning,) = warnings(config("rke2-calico"), plugin="calico", **multus)
        assert warning.startswith("ONEAPP_K8S_MULTUS_CONFIG")
        assert said in warning


def test_without_a_plug_in_of_rke2_everything_is_the_users() -> None:
    assert warnings(POOL, PEERS, config("rke2-canal"), plugin="none") == []


# ---- what is left out


@pytest.mark.parametrize(
    ("values", "missed"),
    [
        (
            {},
            'kubeProxyReplacement: true, k8sServiceHost: "10.2.11.86", k8sServicePort: "6443",'
            " bgpControlPlane.enabled: true",
        ),
        ({**FULL, "bgpControlPlane": {}}, "bgpControlPlane.enabled: true"),
        (FULL, "bgpControlPlane.enabled: true"),
    ],
)
def test_settings_that_parameters_ask_for_and_own_ones_leave_out_are_said(
    values: Mapping[str, object], missed: str
) -> None:
    (warning,) = warnings(config("rke2-cilium", values), **BGP)
    assert warning == (
        f"{OWN} is given in place of what the other parameters set; it leaves out or turns round"
        f" {missed}"
    )


@pytest.mark.parametrize(
    "own",
    [
        config("rke2-cilium", {**FULL, "bgpControlPlane": {"enabled": True}}),
        config("rke2-cilium", values={**FULL, "bgpControlPlane": {"enabled": True}}),
        config("rke2-cilium", valuesSecrets=[{"name": "cilium"}]),
    ],
    ids=["text", "values", "of a Secret"],
)
def test_settings_that_are_there_or_can_not_be_seen_are_not_complained_of(
    own: dict[str, Any],
) -> None:
    assert warnings(own, **BGP) == []


def test_what_multus_needs_of_cilium_is_among_what_is_left_out() -> None:
    (warning,) = warnings(config("rke2-cilium", FULL), ONEAPP_K8S_MULTUS_ENABLED="YES")
    assert warning.endswith(" cni.exclusive: false")


def test_values_that_are_no_yaml_set_nothing() -> None:
    (warning,) = warnings(config("rke2-cilium", valuesContent="a: ["))
    assert "kubeProxyReplacement: true" in warning


# ---- kinds


def groups_of(release: str) -> Iterator[str]:
    """Yield the groups of a release's own kinds, as its published schemas have them."""
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
    for path in (folder / f"v{release}.0-local").glob("*.json"):
        for kind in json.loads(path.read_text()).get("x-kubernetes-group-version-kind", ()):
            yield kind["group"]


@pytest.mark.parametrize("release", KUBERNETES)
def test_all_groups_of_kubernetes_are_there_from_the_start(release: str) -> None:
    # What webhooks are sent is in these two; nobody serves it.
    groups = {*groups_of(release)} - {"admission.k8s.io", "imagepolicy.k8s.io"}
    assert len(groups) > 20
    assert [
        one for one in groups if not is_known_from_the_start(document(f"{one}/v1", "Any"))
    ] == []
