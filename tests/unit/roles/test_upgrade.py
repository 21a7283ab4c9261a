"""Upgrades: which are refused and why, and what the plans of a cluster say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from appliance.context import Context
from appliance.decision import decide
from appliance.errors import KubernetesUnavailable, UpgradeRefused
from appliance.identity import Identity
from appliance.report import Reporter
from appliance.system.kubernetes import Node, Taint
from appliance.values import HostAndPort
from roles.common.probes import ADMIN
from roles.common.release import Release, parse_release
from roles.common.upgrade import Upgrade, plan_upgrade
from roles.common.upgrading import UpgradePlanning
from roles.master.role import MasterRole
from tests.contexts import SERVICES
from tests.fakes import FakeKubernetes, FakeLog, make_node, make_system
from tests.manifests.plans import shape
from tests.unit.roles.nodes import NODE

OLD, NEW = "v1.35.7+rke2r1", "v1.36.3+rke2r1"
REGISTRY = HostAndPort("registry.example.org", 5000)


def refusals(nodes: Iterable[Node], wanted: str = NEW) -> tuple[str, ...]:
    with pytest.raises(UpgradeRefused) as refused:
        plan_upgrade(tuple(nodes), wanted, None)
    return refused.value.reasons


def planned(nodes: Iterable[Node], registry: HostAndPort | None = None) -> list[Any]:
    kubernetes = FakeKubernetes(nodes)
    task = UpgradePlanning(
        make_system(kubernetes=kubernetes), ADMIN, NEW, registry, True, SERVICES["rke2"].folders
    )
    return list(yaml.safe_load_all(task.run(dry_run=True).document))


# --- releases -------------------------------------------------------------------------------------

IN_ORDER = [
    "v1.33.13+rke2r1",
    "v1.33.13+rke2r2",
    "v1.34.0+rke2r1",
    "v1.35.7+rke2r1",
    "v1.36.0-rc1+rke2r1",
    "v1.36.0-rc2+rke2r1",
    "v1.36.0+rke2r1",
    "v1.36.10+rke2r1",
]


def release(text: str) -> Release:
    found = parse_release(text)
    assert found is not None
    return found


def test_releases_are_in_order() -> None:
    assert sorted(map(release, reversed(IN_ORDER))) == list(map(release, IN_ORDER))


@pytest.mark.parametrize("text", IN_ORDER)
def test_a_release_is_written_as_rke2_does(text: str) -> None:
    assert str(release(text)) == text
    assert str(release(text.removeprefix("v"))) == text
    assert "+" not in release(text).tag


@pytest.mark.parametrize("text", ["", "1.36", "v1.36.3", "v1.36.3+k3s1", "latest", "v1.36.3+rke2r"])
def test_what_is_no_release_is_refused(text: str) -> None:
    assert parse_release(text) is None
    (reason,) = refusals(shape(), text)
    assert "expected one such as" in reason


# --- what is refused ------------------------------------------------------------------------------


def test_a_downgrade_is_refused_whichever_node_is_newer() -> None:
    for place in range(6):
        nodes = list(shape(masters=3, workers=2, storage=1, version=OLD))
        nodes[place] = replace(nodes[place], version=NEW)
        (reason,) = refusals(nodes, "v1.36.2+rke2r1")
        assert nodes[place].name in reason
        assert "downgrade" in reason


def test_a_minor_version_that_is_left_out_is_refused_and_named() -> None:
    reasons = refusals(shape(masters=1, workers=1, version="v1.34.10+rke2r1"))
    assert reasons == (
        f"master0 runs v1.34.10+rke2r1: {NEW} leaves out v1.35; go there first, minor version by"
        " minor version",
    )


def test_an_agent_that_stayed_behind_too_far_is_refused() -> None:
    nodes = [*shape(masters=1), *shape(masters=0, workers=1, version="v1.32.1+rke2r1")]
    (reason,) = refusals(nodes)
    assert reason.startswith("worker0 runs v1.32.1+rke2r1: servers of")


def test_an_upgrade_that_was_cut_is_gone_on_with() -> None:
    nodes = [*shape(masters=1, version=NEW), *shape(masters=0, workers=2, version=OLD)]
    assert plan_upgrade(nodes, NEW, None).model is not None


def test_another_major_version_is_refused() -> None:
    (reason,) = refusals(shape(masters=1), "v2.0.0+rke2r1")
    assert "major" in reason


@pytest.mark.parametrize("masters", [2, 3, 5])
def test_a_cluster_that_could_lose_its_majority_is_refused(masters: int) -> None:
    for wrong in (make_node("", ready="False"), make_node("", voter="False")):
        nodes = list(shape(masters=masters))
        nodes[-1] = replace(nodes[-1], conditions=wrong.conditions)
        (reason,) = refusals(nodes)
        assert "majority" in reason
        assert reason.startswith(f"master{masters - 1} ")


def test_what_is_not_rke2_is_refused() -> None:
    nodes = [*shape(masters=1), make_node("odd")]
    (reason,) = refusals(nodes)
    assert reason == "odd runs a version it does not tell, not RKE2"
    assert "no node of the cluster is a server" in refusals(shape(masters=0, workers=1))


def test_every_reason_is_told_at_once() -> None:
    nodes = list(shape(masters=3, version="v1.34.1+rke2r1"))
    nodes[0] = replace(nodes[0], conditions=make_node("", ready="Unknown").conditions)
    assert len(refusals(nodes)) == 4


@given(st.integers(30, 40), st.integers(30, 40), st.integers(30, 40))
def test_servers_never_skip_and_never_go_back(server: int, agent: int, target: int) -> None:
    nodes = [
        *shape(masters=1, version=f"v1.{server}.1+rke2r1"),
        *shape(masters=0, workers=1, version=f"v1.{agent}.1+rke2r1"),
    ]
    is_sound = target - server in (0, 1) and 0 <= target - agent <= 3
    try:
        plan_upgrade(nodes, f"v1.{target}.1+rke2r1", None)
    except UpgradeRefused:
        assert not is_sound
    else:
        assert is_sound


# --- what is planned ------------------------------------------------------------------------------


def test_servers_go_one_by_one_and_then_agents_each_drained() -> None:
    servers, agents = planned(shape(masters=3, workers=2, storage=2))
    assert servers["spec"]["concurrency"] == agents["spec"]["concurrency"] == 1
    assert servers["spec"]["cordon"] is True
    assert "drain" not in servers["spec"]
    assert agents["spec"]["prepare"]["args"] == ["prepare", servers["metadata"]["name"]]
    assert agents["spec"]["drain"]["ignoreDaemonSets"] is True
    assert agents["spec"]["postCompleteDelay"] == "5m"
    selectors = [one["spec"]["nodeSelector"]["matchExpressions"] for one in (servers, agents)]
    assert [one[0]["operator"] for one in selectors] == ["In", "DoesNotExist"]


def test_without_agents_there_is_no_plan_for_them() -> None:
    (only,) = planned(shape(masters=1))
    assert only["metadata"]["name"] == "one-servers"


def test_without_storage_nodes_nobody_waits_for_replicas() -> None:
    assert "postCompleteDelay" not in planned(shape(masters=1, workers=1))[1]["spec"]


def test_jobs_put_up_with_our_taints_and_the_clusters_own() -> None:
    nodes = list(shape(masters=1, workers=1))
    passing = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
    own = Taint("example.org/gpu", "true", "NoSchedule")
    nodes[1] = replace(nodes[1], taints=(passing, own))
    for plan in planned(nodes):
        assert [one["key"] for one in plan["spec"]["tolerations"]] == [
            "CriticalAddonsOnly",
            "example.org/gpu",
            "node.longhorn.io/create-default-disk",
        ]


def test_images_are_named_as_in_the_cluster() -> None:
    for plan in planned(shape(masters=1, workers=1), REGISTRY):
        spec = plan["spec"]
        assert spec["upgrade"]["image"] == "registry.example.org:5000/rancher/rke2-upgrade"
        assert spec.get("prepare", spec["upgrade"])["image"] == spec["upgrade"]["image"]
        assert spec["version"] == NEW


def test_where_every_node_has_the_release_there_is_nothing_to_plan() -> None:
    assert plan_upgrade(tuple(shape(version=NEW)), NEW, None) == Upgrade(None, ())


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (shape(masters=1, workers=2), "the API is away"),
        (shape(masters=2, workers=2), "etcd does not answer"),
        (shape(masters=3, workers=1), "nowhere to go"),
        (
            [*shape(masters=3, workers=2), *shape(masters=0, storage=1, ready="False")],
            "storage0 is not Ready",
        ),
    ],
)
def test_a_person_is_told_what_to_expect(nodes: Iterable[Node], said: str) -> None:
    assert any(said in doubt for doubt in plan_upgrade(tuple(nodes), NEW, None).doubts)


def test_a_cluster_that_is_well_gives_no_doubts() -> None:
    assert plan_upgrade(tuple(shape(masters=3, workers=2)), NEW, None).doubts == ()


@pytest.mark.parametrize(
    ("given", "is_doubtful"),
    [
        ({}, False),
        ({"ONEAPP_ONEKE_AIRGAPPED": "YES"}, True),
        ({"ONEAPP_ONEKE_AIRGAPPED": "YES", "ONEAPP_RKE2_REGISTRY_ENDPOINTS": "https://r"}, False),
    ],
)
def test_without_a_way_to_registries_the_images_are_told(
    given: dict[str, str], is_doubtful: bool
) -> None:
    system = make_system(kubernetes=FakeKubernetes(shape(masters=3, workers=2)))
    params = decide("master", Context({**NODE, **given}, "test"), SERVICES).params
    log = FakeLog()
    reporter = Reporter(system, Identity(), "master", log, lambda line: None)
    task = MasterRole(SERVICES).make_task("upgrade-plan", system, params, reporter, log, NEW)
    notes = [str(line) for line in task.run(dry_run=True).lines if "archives" in str(line)]
    assert bool(notes) is is_doubtful
    assert all("rancher/rke2-upgrade:v1.36.3-rke2r1" in note for note in notes)


def test_on_a_master_that_does_not_serve_nothing_is_planned() -> None:
    with pytest.raises(KubernetesUnavailable):
        planned([])
