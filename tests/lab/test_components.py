"""Every choice of components leads to a cluster that has what was chosen, and nothing else.

The agent founds each cluster from its context; a worker and a storage node join it, so that pods
find their places. All pairs of choices are there in some cluster; with ONEKE_EVERY_CHOICE=1 in the
environment all of their combinations are. A test is called after its cluster, so that `-k cilium`
runs those of one plug-in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, product
from typing import Any

import pytest
import yaml

from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.context import (
    PRIVATE,
    nic_attributes,
    nic_context,
    override,
    role_context,
)
from tests.lab.lab import PRIVATE_NIC, Lab
from tests.lab.node import Node
from tests.lab.rke2.control import Rke2
from tests.lab.rke2.nodes import boot_bare

pytestmark = pytest.mark.lab

COMES_UP_S = 240
SETTLES_S = 180
QUICK = {"delays": {"images": 0, "hooks": 0, "cni": 0.2, "ccm": 0, "job": 0.1, "pod": 0.1}}
HELPERS = {"worker": "172.20.0.190", "store": "172.20.0.191"}
STORAGE = "node.longhorn.io/create-default-disk=true"
METALLB_RANGE = "172.20.0.230-172.20.0.239"
CILIUM_RANGE = "172.20.0.240/29"
OWN_CNI = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "own-cni", "namespace": "kube-system"},
    "spec": {
        "selector": {"matchLabels": {"app": "own-cni"}},
        "template": {
            "metadata": {"labels": {"app": "own-cni"}},
            "spec": {
                "hostNetwork": True,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "cni", "image": "registry.example/cni:1"}],
                "volumes": [{"name": "cni", "hostPath": {"path": "/etc/cni/net.d"}}],
            },
        },
    },
}


COMPONENTS = ("multus", "longhorn", "traefik", "metallb", "cleaner")
SWITCHES = {name: f"ONEAPP_K8S_{name.upper()}_ENABLED" for name in COMPONENTS}
SWITCHES |= {"bgp": "ONEAPP_K8S_CILIUM_BGP_ENABLED"}


@dataclass(frozen=True)
class Choice:
    """What somebody asks for."""

    cni: str
    multus: bool = False
    longhorn: bool = False
    traefik: bool = False
    metallb: bool = False
    cleaner: bool = False
    bgp: bool = False

    @property
    def is_possible(self) -> bool:
        """Whether there is such a choice: the switch of BGP is Cilium's."""
        return self.cni == "cilium" or not self.bgp

    @property
    def context(self) -> dict[str, object]:
        """The parameters that say so."""
        asked: dict[str, object] = {"ONEAPP_K8S_CNI_PLUGIN": self.cni}
        for name, switch in SWITCHES.items():
            asked[switch] = "YES" if getattr(self, name) else "NO"
        if self.metallb:
            asked["ONEAPP_K8S_METALLB_RANGE"] = METALLB_RANGE
        if self.bgp:
            asked["ONEAPP_K8S_CILIUM_RANGE"] = CILIUM_RANGE
        if self.cni == "none":
            asked["ONEAPP_K8S_CNI_CONFIG"] = yaml.safe_dump(OWN_CNI)
        return asked

    def __str__(self) -> str:
        chosen = [one.name for one in fields(self) if getattr(self, one.name) is True]
        return "-".join([self.cni, *chosen])


BARE = Choice("none")
"""Nothing but a network plug-in of one's own."""
OLDER = Choice("canal", longhorn=True, traefik=True, metallb=True, cleaner=True)
"""What was there without a choice in the 1.24 generation."""


@dataclass(frozen=True)
class Contents:
    """What is in a cluster, by name."""

    charts: frozenset[str]
    configs: frozenset[str]
    namespaces: frozenset[str]
    workloads: frozenset[str]
    classes: frozenset[str]
    schedules: frozenset[str]


# --- what is expected ----------------------------------------------------------------------------

CNI_WORKLOADS = {
    "canal": ["DaemonSet kube-system/rke2-canal"],
    "flannel": ["DaemonSet kube-system/kube-flannel-ds"],
    "cilium": ["DaemonSet kube-system/cilium", "Deployment kube-system/cilium-operator"],
    "calico": [
        "Deployment tigera-operator/tigera-operator",
        "DaemonSet calico-system/calico-node",
        "Deployment calico-system/calico-kube-controllers",
    ],
    "none": ["DaemonSet kube-system/own-cni"],
}


def expected(choice: Choice) -> Contents:
    """What a cluster has to have, by what was asked for."""
    charts = {"rke2-coredns", "rke2-metrics-server", "rke2-runtimeclasses"}
    charts |= {"rke2-snapshot-controller", "rke2-snapshot-controller-crd"}
    workloads = {
        f"Deployment kube-system/{name}"
        for name in (
            *("rke2-coredns-rke2-coredns", "rke2-coredns-rke2-coredns-autoscaler"),
            *("rke2-metrics-server", "rke2-snapshot-controller"),
        )
    } | set(CNI_WORKLOADS[choice.cni])
    namespaces = {"default", "kube-system", "kube-public", "kube-node-lease"}
    configs = {f"rke2-{choice.cni}"} - {"rke2-none"}
    charts |= configs
    if choice.cni == "calico":
        charts |= {"rke2-calico-crd"}
        namespaces |= {"tigera-operator", "calico-system"}
    if choice.multus:
        charts |= {"rke2-multus"}
        configs |= {"rke2-multus"}
        workloads |= {"DaemonSet kube-system/rke2-multus"}
    if choice.longhorn:
        charts |= {"one-longhorn"}
        namespaces |= {"longhorn-system"}
        workloads |= {f"DaemonSet longhorn-system/longhorn-{one}" for one in LONGHORN_DAEMONS}
        workloads |= {f"Deployment longhorn-system/longhorn-{one}" for one in LONGHORN_PODS}
    if choice.traefik:
        charts |= {"one-traefik"}
        namespaces |= {"traefik-system"}
        workloads |= {"Deployment traefik-system/one-traefik"}
    if choice.metallb:
        charts |= {"one-metallb"}
        namespaces |= {"metallb-system"}
        workloads |= {"Deployment metallb-system/metallb-controller"}
        workloads |= {"DaemonSet metallb-system/metallb-speaker"}
    return Contents(
        frozenset(charts),
        frozenset(configs),
        frozenset(namespaces),
        frozenset(workloads),
        frozenset({"longhorn", "longhorn-retain"} if choice.longhorn else ()),
        frozenset({"one-cleaner"} if choice.cleaner else ()),
    )


LONGHORN_DAEMONS, LONGHORN_PODS = ("manager", "csi-plugin"), ("driver-deployer", "ui")


# --- all pairs -----------------------------------------------------------------------------------

CNIS = ("canal", "cilium", "calico", "flannel", "none")
VALUES: Mapping[str, Sequence[object]] = {
    "cni": CNIS,
    **{name: (False, True) for name in SWITCHES},
}
Pair = tuple[tuple[str, object], tuple[str, object]]


def pairs_of(choice: Choice) -> set[Pair]:
    """The pairs of values that a choice has."""
    values = [(name, getattr(choice, name)) for name in VALUES]
    return set(combinations(values, 2))


def every_choice() -> list[Choice]:
    """All combinations."""
    switches = product((False, True), repeat=len(SWITCHES))
    made = (
        Choice(cni, **dict(zip(SWITCHES, on, strict=True))) for cni, on in product(CNIS, switches)
    )
    return [choice for choice in made if choice.is_possible]


def all_pairs() -> list[Choice]:
    """Choices that have every pair of values, each the one that adds most; nothing comes first."""
    every = every_choice()
    chosen = [BARE, OLDER]
    left = set().union(*map(pairs_of, every)).difference(*map(pairs_of, chosen))
    while left:
        best = max(every, key=lambda one: len(pairs_of(one) & left))
        chosen.append(best)
        left -= pairs_of(best)
    return chosen


CHOICES = every_choice() if os.environ.get("ONEKE_EVERY_CHOICE") == "1" else all_pairs()
ADDRESSES = 40
"""Addresses of masters, taken in turn: at most two are there at a time."""


# --- clusters ------------------------------------------------------------------------------------


class Cluster:
    """A cluster, and what is in it."""

    def __init__(self, master: Rke2) -> None:
        self.master = master

    def all_of(self, kind: str, *words: str) -> list[dict[str, Any]]:
        told = self.master.kubectl("get", kind, "-A", "-o", "json", *words)
        items: list[dict[str, Any]] = json.loads(told)["items"]
        return items

    def names(self, kind: str) -> frozenset[str]:
        return frozenset(one["metadata"]["name"] for one in self.all_of(kind))

    def values_of(self, chart: str) -> Any:
        """The values of a chart's settings."""
        [found] = [
            one for one in self.all_of("helmchartconfigs") if one["metadata"]["name"] == chart
        ]
        return yaml.safe_load(found["spec"]["valuesContent"])

    def contents(self) -> Contents:
        workloads = {
            f"{kind} {one['metadata']['namespace']}/{one['metadata']['name']}"
            for kind in ("Deployment", "DaemonSet", "StatefulSet")
            for one in self.all_of(kind)
        }
        return Contents(
            self.names("helmcharts"),
            self.names("helmchartconfigs"),
            self.names("namespaces"),
            frozenset(workloads),
            self.names("storageclasses"),
            self.names("cronjobs"),
        )

    def open_ends(self) -> list[str]:
        """What is not done yet: files that are not applied, jobs, and pods that do not run."""
        ends = [
            f"addon {one['metadata']['name']}"
            for one in self.all_of("addons")
            if not one["spec"].get("checksum")
        ]
        ends += [
            f"chart {one['metadata']['name']}"
            for one in self.all_of("helmcharts")
            if not one.get("status", {}).get("jobName")
        ]
        ends += [f"pod {name}" for name in self.waiting_pods()]
        return ends

    def waiting_pods(self) -> list[str]:
        """Pods that neither run nor have done what they are for."""
        return [
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            for pod in self.all_of("pods")
            if pod["status"]["phase"] not in ("Running", "Succeeded")
        ]

    def places(self, name: str) -> list[str]:
        """The nodes with a pod of a workload that runs."""
        found = [
            str(pod["spec"]["nodeName"])
            for pod in self.all_of("pods")
            if pod["metadata"]["name"].startswith(f"{name}-")
            and pod["status"]["phase"] == "Running"
        ]
        return sorted(found)

    def wait_settled(self, choice: Choice) -> None:
        """Wait until all there is to be is there, and done; of Traefik one pod has no node."""
        wanted = expected(choice)

        def settled() -> bool:
            ends = self.open_ends()
            spare = [end for end in ends if choice.traefik and end.startswith(SPARE)]
            if len(ends) > len(spare[:1]):
                raise LabError(", ".join(ends))
            seen = self.contents()
            lacking = {
                one.name: sorted(getattr(wanted, one.name) - getattr(seen, one.name))
                for one in fields(wanted)
            }
            if any(lacking.values()):
                raise LabError(f"lacks {lacking}")
            return True

        self.master.node.wait_until(settled, SETTLES_S, f"a cluster with {choice}")


SPARE = "pod traefik-system/one-traefik-"
POOLS = "/apis/metallb.io/v1beta1/namespaces/metallb-system/ipaddresspools"
CILIUM_POOLS = "/apis/cilium.io/v2/ciliumloadbalancerippools"


class TestChoices:
    """Clusters that the agent founds, one after the other."""

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, lab_image: Image) -> Iterator[Lab]:
        with Lab(lab_image) as made:
            made.add_service([("vnf", 1)])
            made.vnf("vnf0", 0).wait_running()
            yield made

    @pytest.fixture(scope="class")
    @classmethod
    def helpers(cls, lab: Lab) -> dict[str, Rke2]:
        """A worker and a storage node, that join whoever needs them."""
        return boot_bare(lab, HELPERS)

    @pytest.fixture(scope="class")
    @classmethod
    def masters(cls, lab: Lab, request: pytest.FixtureRequest) -> Masters:
        """Masters for those choices that are tried at all, whichever are selected."""
        specs = [one.callspec for one in request.session.items if hasattr(one, "callspec")]
        return Masters(lab, [one.params["choice"] for one in specs if "choice" in one.params])

    @pytest.mark.parametrize("choice", CHOICES, ids=str)
    def test_a_cluster_has_what_was_chosen_and_nothing_else(
        self, masters: Masters, helpers: dict[str, Rke2], choice: Choice
    ) -> None:
        cluster = Cluster(masters.take(choice))
        for name, rke2 in helpers.items():
            join(rke2, name, cluster.master)
        cluster.wait_settled(choice)
        assert cluster.contents() == expected(choice)
        assert_in_place(cluster, choice)
        masters.give_back(choice)


class Masters:
    """Masters of clusters of their own; the next one comes up meanwhile."""

    def __init__(self, lab: Lab, choices: Sequence[Choice]) -> None:
        self._lab = lab
        self._choices = choices
        self._made: dict[Choice, Node] = {}

    def take(self, choice: Choice) -> Rke2:
        """The master of a cluster, when it is ready."""
        self._start(choice)
        following = self._choices[self._choices.index(choice) + 1 :][:1]
        for one in following:
            self._start(one)
        node = self._made[choice]

        def ready() -> bool:
            assert node.vm_id is not None
            told = self._lab.onegate.user_template(node.vm_id)
            if told.get("READY") != "YES":
                words = (told.get(f"ONEKE_{key}", "") for key in ("STATE", "STEP", "ERROR"))
                raise LabError(" ".join(str(word) for word in words))
            return True

        node.wait_until(ready, COMES_UP_S, f"the master with {choice}")
        return Rke2(node)

    def _start(self, choice: Choice) -> None:
        if choice in self._made:
            return
        number = self._choices.index(choice)
        service_id = self._lab.add_service([("master", 1)], name=f"OneKE {number}")
        address = f"172.20.0.{120 + number % ADDRESSES}"
        values = role_context("master") | nic_context(0, PRIVATE, address)
        changes = {
            "SERVICE_ID": service_id,
            # The gateway balances for another service.
            "ONEAPP_RKE2_SUPERVISOR_EP": f"{address}:9345",
            "ONEAPP_K8S_CONTROL_PLANE_EP": f"{address}:6443",
            **choice.context,
        }
        vm = {
            "role": "master",
            "service_id": service_id,
            "nics": [nic_attributes(PRIVATE, address)],
        }
        node = self._lab.node(
            f"m{number}",
            context=override(values, changes),
            vm=vm,
            nics=PRIVATE_NIC,
            start=False,
        )
        Rke2(node).turn(**QUICK)
        node.start()
        self._made[choice] = node

    def give_back(self, choice: Choice) -> None:
        """End a cluster that nobody looks at any more."""
        node = self._made[choice]
        assert node.vm_id is not None
        node.close()
        self._lab.onegate.remove_vm(node.vm_id)


def join(rke2: Rke2, name: str, master: Rke2) -> None:
    """Have a node in a cluster, whatever it was in before."""
    rke2.wipe()
    rke2.turn(**QUICK)
    address = master.node.run(["hostname", "-I"]).stdout.split()[0]
    config: dict[str, object] = {
        "server": f"https://{address}:9345",
        "token": master.token("agent-token"),
        "node-name": name,
        "node-ip": HELPERS[name],
    }
    if name == "store":
        config |= {"node-label": [STORAGE], "node-taint": [f"{STORAGE}:NoSchedule"]}
    rke2.configure(config)
    rke2.start("agent")
    rke2.wait_active("agent")


def assert_in_place(cluster: Cluster, choice: Choice) -> None:
    """Pods are where they belong, and objects of the components' own kinds are there."""
    nodes = sorted(cluster.master.get_nodes())
    proxies = cluster.places("kube-proxy")
    assert proxies == ([] if choice.cni == "cilium" else nodes)
    if choice.longhorn:
        for one in LONGHORN_PODS:
            assert set(cluster.places(f"longhorn-{one}")) == {"store"}
        for one in LONGHORN_DAEMONS:
            assert {"store", "worker"} <= set(cluster.places(f"longhorn-{one}"))
    if choice.traefik:
        assert cluster.places("one-traefik") == ["worker"]
        [service] = [
            one for one in cluster.all_of("services") if one["metadata"]["name"] == "one-traefik"
        ]
        ports = {port["name"]: port["nodePort"] for port in service["spec"]["ports"]}
        assert ports == {"web": 32080, "websecure": 32443}
    status, text = cluster.master.ask_as_admin(POOLS)
    assert status == (200 if choice.metallb else 404)
    if choice.metallb:
        addresses = [pool["spec"]["addresses"] for pool in json.loads(text)["items"]]
        assert addresses == [[METALLB_RANGE]]
        assert "store" not in cluster.places("metallb-speaker")
    status, text = cluster.master.ask_as_admin(CILIUM_POOLS)
    assert status == (200 if choice.cni == "cilium" else 404)
    if choice.cni == "cilium":
        blocks = [pool["spec"]["blocks"] for pool in json.loads(text)["items"]]
        assert blocks == ([[{"cidr": CILIUM_RANGE}]] if choice.bgp else [])
        assert cluster.values_of("rke2-cilium")["bgpControlPlane"] == {"enabled": choice.bgp}


def test_all_pairs_of_choices_are_among_the_clusters() -> None:
    wanted = {
        ((first, one), (second, other))
        for first, second in combinations(VALUES, 2)
        for one, other in product(VALUES[first], VALUES[second])
        if (first, second) != ("cni", "bgp") or one == "cilium" or not other
    }
    assert set().union(*map(pairs_of, CHOICES)) == wanted


class TestOlderTemplates:
    """The contexts of the 1.24 generation, as they were recorded."""

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, lab_image: Image) -> Iterator[Lab]:
        with Lab(lab_image) as made:
            yield made

    def test_they_lead_to_the_components_of_that_generation(self, lab: Lab) -> None:
        service = lab.service(generation="1.24")
        service.wait_running(COMES_UP_S)
        cluster = Cluster(Rke2(service.nodes("master")[0]))
        cluster.wait_settled(OLDER)
        assert cluster.contents() == expected(OLDER)
        status, text = cluster.master.ask_as_admin(POOLS)
        assert status == 200
        addresses = [pool["spec"]["addresses"] for pool in json.loads(text)["items"]]
        assert addresses == [["172.20.0.87-172.20.0.88"]]
