"""Services that are scaled down: nodes leave the cluster by themselves, and leave nothing behind.

No cleaner runs in these clusters: what is gone in the end is what the nodes did as they left.
"""

from __future__ import annotations

import json
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.context import PUBLIC_VIP
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.rke2.control import DATA, Rke2
from tests.lab.service import ServiceVm
from tests.lab.test_cluster import (
    COMES_UP_S,
    HEALS_S,
    Cluster,
    condition,
    node_name,
)

pytestmark = pytest.mark.lab

WITHOUT_CLEANER = {"ONEAPP_K8S_CLEANER_ENABLED": "NO"}
LEAVE_UNIT = "oneke-leave.service"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/oneke-leaving"
# A leaving node waits 32 s for gateways to notice, and may need 90 s in all.
LEAVES_S = 240
ELECTION_S, LONGEST_ELECTION_S = 3.5, 5.0
"""What electing another leader takes etcd, one with another and at most.

The double's members wait for 1.2 to 2.4 s, then they vote. The rest is a loaded machine's: two of
3.8 and 1.9 s were seen on two cores at a load of 22.
"""
ELECTING = re.compile("timed out|^50[034] ")
"""What is heard while etcd has no leader: nothing, or that there is none."""
PATIENT_S = 20
"""How long a silent node counts as Ready where a busy machine must not matter; else it is 7 s."""
SPARE, REPLICAS = 2, 8
REMOVED, RUNNING = 12, 3
KILLED = -9


class LeavingCluster(Cluster):
    """A cluster that nodes leave."""

    def ask(self, path: str) -> tuple[int, Any]:
        """What a master that serves answers an administrator."""
        status, text = self.master().ask_as_admin(path)
        return status, json.loads(text)

    def listed(self, path: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        status, document = self.ask(path)
        if status != 200:
            raise LabError(f"{path}: {status} {document}")
        return list(document["items"])

    def create(self, path: str, document: dict[str, Any]) -> None:
        """Make an object."""
        kind = ("-X", "POST", "-H", "Content-Type: application/json")
        status, text = self.master().ask_as_admin(path, *kind, "--data", json.dumps(document))
        if status != 201:
            raise LabError(f"{path}: {status} {text}")

    def deploy(self, name: str, replicas: int, spare: int) -> None:
        """Have pods run on workers, of which so many may be missing at a time."""
        labels = {"app": name}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "web", "image": "example.org/web:1"}]},
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        self.create(
            "/apis/apps/v1/namespaces/default/deployments",
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name},
                "spec": spec,
            },
        )
        self.create(
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": {"name": name},
                "spec": {"maxUnavailable": spare, "selector": {"matchLabels": labels}},
            },
        )

    def pods(self, name: str) -> dict[str, str]:
        """The pods of an application that are ready, with their nodes."""
        found = self.listed(f"/api/v1/namespaces/default/pods?labelSelector=app%3D{name}")
        return {
            pod["metadata"]["name"]: pod["spec"].get("nodeName", "")
            for pod in found
            if any(
                each["type"] == "Ready" and each["status"] == "True"
                for each in pod.get("status", {}).get("conditions", [])
            )
        }

    def wait_pods(self, name: str, count: int) -> dict[str, str]:
        """Wait until so many pods of an application are ready."""
        self.service.wait_until(
            lambda: len(self.pods(name)) == count, HEALS_S, f"{count} pods of {name}"
        )
        return self.pods(name)

    def members(self) -> list[str]:
        """The nodes whose etcd is a member, as etcd itself tells."""
        url, empty = "http://127.0.0.1:2379/v3/cluster/member/list", ("-X", "POST", "-d", "{}")
        _, text = self.master().ask(url, *empty)
        # A member is called after its node, with eight digits behind.
        return sorted(each["name"].rpartition("-")[0] for each in json.loads(text)["members"])

    def assert_nothing_is_left(self) -> None:
        """Everything in the cluster that belongs to a node belongs to one that is there."""
        names = {node_name(vm) for vm in self.service.vms() if vm.role != "vnf"}
        assert set(self.kube_nodes()) == names
        masters = {node_name(vm) for vm in self.service.vms("master")}
        assert set(self.members()) == masters
        secrets = self.listed("/api/v1/namespaces/kube-system/secrets")
        found = (each["metadata"]["name"].partition(".node-password") for each in secrets)
        assert {name for name, mark, _ in found if mark} <= names
        leases = self.listed("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
        assert {lease["metadata"]["name"] for lease in leases} <= names
        pods = self.listed("/api/v1/pods")
        assert {pod["spec"].get("nodeName", "") for pod in pods} <= {*names, ""}
        assert self.ask(LEASE)[0] == 404

    def assert_left_by_itself(self, vm: ServiceVm) -> None:
        """A VM that is gone took leave of balancers, pods and cluster, and said so."""
        said = self.service.node(vm.vm_id).journal(LEAVE_UNIT, all_boots=True)
        assert re.search(r"withdrawn +balancers", said), said
        count = len(self.evicted_by(vm))
        moved = f"{count} of them" if count else "there were none to move"
        assert re.search(rf"moved +pods +{moved}", said), said
        assert re.search(rf"removed +node +the cluster knows {node_name(vm)} no more", said), said
        assert self.told(vm.vm_id, "ONEKE_STEP") == "left the cluster"
        for number in range(4):
            assert self.told(vm.vm_id, f"ONEGATE_HAPROXY_LB{number}_IP") in ("", "0.0.0.0")

    def evicted_by(self, vm: ServiceVm) -> set[str]:
        """The pods that API servers evicted because a VM asked for it as it left.

        A master asks its own, as an administrator; any may be asked by the others, as kubelets.
        """
        is_master = vm.role == "master"
        nodes = [self.service.node(vm.vm_id)] if is_master else self.service.nodes("master")
        asks = "system:admin" if is_master else f"system:node:{node_name(vm)}"
        events = [event for node in nodes for event in Rke2(node).events("pod.evicted")]
        return {event["pod"] for event in events if event["by"] == asks}

    def leavers(self, role: str, left: int) -> Sequence[ServiceVm]:
        """The VMs that go when a role is scaled down: the oldest."""
        vms = sorted(self.service.vms(role), key=lambda vm: vm.vm_id)
        return vms[: len(vms) - left]

    def scale_down(self, role: str, left: int) -> Sequence[ServiceVm]:
        """Scale a role down, and wait until OneFlow is done with it."""
        leavers = self.leavers(role, left)
        self.service.scale(role, left)
        self.service.wait_until(
            lambda: len(self.service.vms(role)) == left, LEAVES_S, f"{left} VMs of role {role}"
        )
        self.service.wait_running(LEAVES_S)
        return leavers

    def set_lcm_state(self, vm_id: int, lcm_state: int) -> None:
        """Have the front-end tell another state of a VM that runs on."""
        self.lab.onegate.set_vm(vm_id, lcm_state=lcm_state)


@pytest.fixture(scope="class")
def lab(lab_image: Image) -> Iterator[Lab]:
    """A lab for all tests of a class."""
    with Lab(lab_image) as made:
        yield made


class Repeated(ABC):
    """Looks at something again and again, from its beginning to its end."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._stopping.wait(0.05):
            self.look()

    @abstractmethod
    def look(self) -> None:
        """Look once."""


class Prober(Repeated):
    """Has the API read the nodes from etcd, through the virtual address.

    Attributes:
        answers: How often it did.
        failures: When it did not, in seconds since the beginning, and what curl said.
        outages: From answer to answer, in seconds, where it failed in between.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        """Ask as an administrator does, whose files are put into a folder."""
        super().__init__()
        tls = f"{DATA}/server/tls"
        pair = {"--cert": f"{tls}/client-admin.crt", "--key": f"{tls}/client-admin.key"}
        for path in pair.values():
            (folder / Path(path).name).write_text(cluster.master().node.read(path))
        shown = [
            word for key, path in pair.items() for word in (key, f"{folder}/{Path(path).name}")
        ]
        url = f"https://{PUBLIC_VIP}:6443/api/v1/nodes?limit=1"
        seen = ("-o", "/dev/null", "-w", "%{http_code} %{errormsg}", "-m", "2")
        self._argv = ["curl", "-sk", *shown, *seen, url]
        self._client = cluster.client
        self._began = self._last = time.monotonic()
        self._is_failing = False
        self.answers = 0
        self.failures: dict[float, str] = {}
        self.outages: list[float] = []

    def look(self) -> None:
        said = self._client.run(self._argv, check=False).stdout
        now = time.monotonic()
        if not said.startswith("200"):
            self.failures[round(now - self._began, 1)] = said
            self._is_failing = True
            return
        self.answers += 1
        if self._is_failing:
            self.outages.append(now - self._last)
        self._is_failing, self._last = False, now

    def assert_reachable_but_for_elections(self, elections: int) -> None:
        """The API answered all along, but while another member came to lead, so many times."""
        found = f"{self.answers} answers; outages {self.outages}; failures {self.failures}"
        assert self.answers > 50, found
        assert not self._is_failing, found
        assert max(self.outages, default=0) < LONGEST_ELECTION_S, found
        assert sum(self.outages) < elections * ELECTION_S, found
        assert all(ELECTING.search(said) for said in self.failures.values()), found


class Counter(Repeated):
    """Counts the pods of an application that are ready.

    Attributes:
        counts: How many there were, at each look that was answered.
    """

    def __init__(self, cluster: LeavingCluster, name: str) -> None:
        super().__init__()
        self._cluster, self._name = cluster, name
        self.counts: list[int] = []

    def look(self) -> None:
        # A loaded master may not answer in time.
        with suppress(LabError, ValueError):
            self.counts.append(len(self._cluster.pods(self._name)))


def leave(node: Node, *, limit_s: float = 120) -> tuple[int, str]:
    """Take leave by hand, killed after a time; status and what it said."""
    argv = ["timeout", "-s", "KILL", f"{limit_s:g}", "oneke-agent", "leave"]
    done = node.run(argv, check=False, timeout_s=limit_s + 20)
    return done.returncode, f"{done.stdout}{done.stderr}"


class TestScalingDown:
    """A gateway, three masters, four workers and two storage nodes become one of each."""

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, lab: Lab) -> LeavingCluster:
        counts = {"vnf": 1, "master": 3, "worker": 4, "storage": 2}
        return LeavingCluster(lab, lab.service(**counts, **WITHOUT_CLEANER))

    def test_it_comes_up_and_has_something_to_do(self, cluster: LeavingCluster) -> None:
        cluster.service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        cluster.deploy("web", replicas=REPLICAS, spare=SPARE)
        assert len(set(cluster.wait_pods("web", 8).values())) > 1
        cluster.assert_nothing_is_left()

    def test_a_reboot_is_no_leaving(self, cluster: LeavingCluster) -> None:
        vm = cluster.service.vms("worker")[-1]
        name, node = node_name(vm), cluster.service.node(vm.vm_id)
        before = cluster.kube_nodes()[name]["metadata"]["uid"]
        node.reboot()
        cluster.wait_healthy()
        after = cluster.kube_nodes()[name]
        assert after["metadata"]["uid"] == before
        assert "unschedulable" not in after["spec"]
        said = node.journal(LEAVE_UNIT, all_boots=True)
        assert "this VM is not being removed (LCM_STATE 3)" in said

    def test_cut_anywhere_and_begun_again_it_comes_to_its_end(
        self, cluster: LeavingCluster
    ) -> None:
        vm = cluster.service.vms("worker")[-1]
        name, node = node_name(vm), cluster.service.node(vm.vm_id)
        cluster.set_lcm_state(vm.vm_id, REMOVED)
        statuses = [leave(node, limit_s=limit_s)[0] for limit_s in (0.5, 0.8, 1.1, 1.5, 2)]
        assert KILLED in statuses
        status, said = leave(node)
        assert (status, name in cluster.kube_nodes()) == (0, False), said
        cluster.service.wait_until(
            lambda: len(cluster.pods("web")) == 8, HEALS_S, "the pods to be elsewhere"
        )
        assert name not in cluster.pods("web").values()
        # Whoever is alive after all comes back as a new node.
        cluster.set_lcm_state(vm.vm_id, RUNNING)
        for unit in ("rke2-agent.service", "oneke-agent.service"):
            node.run(["systemctl", "restart", unit], timeout_s=HEALS_S)
        cluster.wait_healthy()
        assert "unschedulable" not in cluster.kube_nodes()[name]["spec"]

    def test_workers_are_scaled_from_four_to_one(self, cluster: LeavingCluster) -> None:
        before = cluster.pods("web")
        with Counter(cluster, "web") as ready:
            leavers = cluster.scale_down("worker", 1)
            cluster.wait_healthy()
        cluster.assert_nothing_is_left()
        for vm in leavers:
            cluster.assert_left_by_itself(vm)
            placed = {pod for pod, node in before.items() if node == node_name(vm)}
            assert placed <= cluster.evicted_by(vm)
        assert set(before.values()) & {node_name(vm) for vm in leavers}
        assert len(ready.counts) > 20
        assert min(ready.counts) >= REPLICAS - SPARE
        [stays] = cluster.service.vms("worker")
        assert set(cluster.wait_pods("web", 8).values()) == {node_name(stays)}

    def test_storage_nodes_are_scaled_from_two_to_one(self, cluster: LeavingCluster) -> None:
        [leaver] = cluster.scale_down("storage", 1)
        cluster.wait_healthy()
        cluster.assert_nothing_is_left()
        cluster.assert_left_by_itself(leaver)

    def test_masters_are_scaled_from_three_to_one_the_founder_first(
        self, cluster: LeavingCluster, tmp_path: Path
    ) -> None:
        founder = cluster.founders()[0]
        with Prober(cluster, tmp_path) as prober:
            leavers = cluster.scale_down("master", 1)
            cluster.wait_healthy()
        assert founder == leavers[0].name
        prober.assert_reachable_but_for_elections(2)
        cluster.assert_nothing_is_left()
        for vm in leavers:
            cluster.assert_left_by_itself(vm)
        [stays] = cluster.service.vms("master")
        [node] = [cluster.kube_nodes()[node_name(stays)]]
        assert condition(node, "EtcdIsVoter")["status"] == "True"
        assert len(cluster.pods("web")) == 8

    def test_the_one_that_is_left_lets_others_in_again(self, cluster: LeavingCluster) -> None:
        cluster.service.scale("master", 3)
        cluster.service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        cluster.assert_nothing_is_left()
        assert len(cluster.members()) == 3

    def test_the_whole_service_goes_without_ado(self, cluster: LeavingCluster) -> None:
        vms = cluster.service.vms()
        cluster.service.delete(timeout_s=LEAVES_S)
        for vm in vms:
            if vm.role != "vnf":
                said = cluster.service.node(vm.vm_id).journal(LEAVE_UNIT, all_boots=True)
                assert "the whole service is taken down" in said, said


class TestScalingDownWithADeadMaster:
    """Of three masters the founder is dead, and one of the others is to go as well."""

    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, lab: Lab) -> LeavingCluster:
        counts = {"vnf": 1, "master": 3, "worker": 1, "storage": 0}
        return LeavingCluster(lab, lab.service(**counts, **WITHOUT_CLEANER))

    def test_it_comes_up(self, cluster: LeavingCluster) -> None:
        cluster.service.wait_running(COMES_UP_S)
        cluster.wait_healthy()
        # A master that is busy is not to be taken for a dead one as well.
        for node in cluster.service.nodes("master"):
            Rke2(node).turn(intervals={"node_grace": PATIENT_S})

    def test_who_would_cost_the_majority_stays_a_member_and_says_why(
        self, cluster: LeavingCluster
    ) -> None:
        dead, leaver, _ = sorted(cluster.service.vms("master"), key=lambda vm: vm.vm_id)
        cluster.service.cut_power(dead.vm_id)
        cluster.wait_not_ready(node_name(dead))
        # The other one is not shut down: what it does is looked at while it is there.
        cluster.set_lcm_state(leaver.vm_id, REMOVED)
        status, said = leave(cluster.service.node(leaver.vm_id))
        cluster.set_lcm_state(leaver.vm_id, RUNNING)
        assert status == 75, said
        why = "etcd would lose its quorum without it: 1 of 2 members are well, and 2 are needed"
        assert why in said
        told = cluster.told(leaver.vm_id, "ONEKE_ERROR")
        # OneGate stores no comma.
        assert why.replace(",", ";") in told
        assert node_name(dead) in told
        assert cluster.told(leaver.vm_id, "ONEKE_STATE") == "FAILED"
        assert len(cluster.members()) == 3
        assert cluster.ask(LEASE)[0] == 404

    def test_the_dead_one_goes_before_the_one_that_leaves(
        self, cluster: LeavingCluster, tmp_path: Path
    ) -> None:
        dead, leaver, stays = sorted(cluster.service.vms("master"), key=lambda vm: vm.vm_id)
        cluster.let_time_pass(node_name(dead))
        # While one of its VMs is off OneFlow scales nothing; its operator gives the dead one up.
        cluster.service.terminate(dead.vm_id, hard=True)
        cluster.service.wait_until(
            lambda: len(cluster.service.vms("master")) == 2, HEALS_S, "OneFlow to drop the dead one"
        )
        cluster.service.wait_running(HEALS_S)
        with Prober(cluster, tmp_path) as prober:
            cluster.scale_down("master", 1)
            cluster.wait_healthy()
        prober.assert_reachable_but_for_elections(1)
        cluster.assert_nothing_is_left()
        cluster.assert_left_by_itself(leaver)
        assert cluster.members() == [node_name(stays)]
        log = cluster.service.node(leaver.vm_id).journal(LEAVE_UNIT, all_boots=True)
        assert f'"node": "{node_name(dead)}"' in log
        assert '"event": "node.deleted"' in log
