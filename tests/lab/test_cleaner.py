"""The cluster cleans itself: its CronJob runs the agent of a master, with the rights it asks for.

The tests share a service and take it in the state that the ones before left it in. Only the clock
of schedules is quicker than in life.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.lab.bake import Image
from tests.lab.basics import CommandFailed, LabError, wait_until
from tests.lab.lab import Lab
from tests.lab.onegate.state import LcmState
from tests.lab.rke2.control import Rke2
from tests.lab.test_cluster import COMES_UP_S, HEALS_S, VM_LABEL, Cluster, node_name
from tests.lab.test_leaving import LEAVES_S, LeavingCluster, Repeated

pytestmark = pytest.mark.lab

MINUTE_S = 4
SERVICE_LABEL = "oneke.opennebula.io/service-id"
ARCHIVE = "/var/lib/rancher/rke2/agent/images/oneke-busybox.tar"


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> LeavingCluster:
    """A service that is up, and whose minutes are short from then on."""
    made = LeavingCluster(lab, lab.service(worker=2))
    made.service.wait_running(COMES_UP_S)
    made.wait_healthy()
    shorten_minutes(made)
    return made


def shorten_minutes(cluster: Cluster) -> None:
    """Have the masters that there are now go by short minutes."""
    for node in cluster.service.nodes("master"):
        Rke2(node).turn(intervals={"minute": MINUTE_S})


def jobs(cluster: Cluster) -> list[dict[str, Any]]:
    """The cleaner's jobs, the newest first."""
    told = json.loads(cluster.master().kubectl("get", "jobs", "-n", "kube-system", "-o", "json"))
    found = [
        job
        for job in told["items"]
        if any(owner["name"] == "one-cleaner" for owner in job["metadata"]["ownerReferences"])
    ]
    return sorted(found, key=lambda job: str(job["metadata"]["creationTimestamp"]), reverse=True)


def log_of(cluster: Cluster, job: dict[str, Any]) -> str:
    """What a job said so far; nothing where it is gone or has not begun."""
    try:
        return cluster.master().kubectl(
            "logs", "-n", "kube-system", f"job/{job['metadata']['name']}"
        )
    except CommandFailed:
        return ""


def wait_said(cluster: Cluster, text: str, ended: str = "Complete") -> str:
    """Wait until a job that ended so said a text; all that it said."""

    def said() -> str:
        seen = []
        for job in jobs(cluster):
            how = [each["type"] for each in job.get("status", {}).get("conditions", [])]
            log = log_of(cluster, job)
            seen.append(f"{how}: {log}")
            if ended in how and text in log:
                return log
        raise LabError("\n".join(seen))

    return wait_until(said, HEALS_S, f"{text!r} in the log of a {ended} job", every_s=0.5)


class JobLogs(Repeated):
    """Reads what the cleaner's jobs say, for a run is soon forgotten.

    Attributes:
        found: The log of each job, by its name.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster
        self.found: dict[str, str] = {}

    def look(self) -> None:
        # The master that was asked may just be leaving.
        with suppress(CommandFailed, LabError, ValueError):
            for job in jobs(self._cluster):
                name = job["metadata"]["name"]
                self.found[name] = log_of(self._cluster, job) or self.found.get(name, "")


def lose(cluster: Cluster, name: str) -> None:
    """Have a node not Ready for longer than it is given."""
    cluster.wait_not_ready(name)
    cluster.let_time_pass(name)


def test_it_runs_on_a_master_and_says_that_there_is_nothing_to_do(cluster: Cluster) -> None:
    master = cluster.master()
    assert master.modes_of(ARCHIVE) == {ARCHIVE: "644"}
    assert wait_said(cluster, "nothing") == "nothing to do: all 4 are as they should be\n"
    told = json.loads(master.kubectl("get", "pods", "-n", "kube-system", "-o", "json"))
    name = "app.kubernetes.io/name"
    ran = [pod for pod in told["items"] if pod["metadata"]["labels"].get(name) == "one-cleaner"]
    masters = {node_name(vm) for vm in cluster.service.vms("master")}
    assert {pod["spec"]["nodeName"] for pod in ran} <= masters
    assert ran


def test_nodes_carry_the_labels_it_goes_by(cluster: Cluster) -> None:
    labels = {name: node["metadata"]["labels"] for name, node in cluster.kube_nodes().items()}
    vms = [vm for vm in cluster.service.vms() if vm.role != "vnf"]
    for vm in vms:
        found = labels[node_name(vm)]
        assert (found[VM_LABEL], found[SERVICE_LABEL]) == (
            str(vm.vm_id),
            str(cluster.service.service_id),
        )


def test_a_vm_that_is_switched_off_keeps_its_node(cluster: Cluster) -> None:
    off = cluster.service.vms("worker")[0]
    cluster.service.power_off(off.vm_id, hard=True)
    lose(cluster, node_name(off))
    log = wait_said(cluster, "is powered off")
    assert log.splitlines() == [
        f"kept  {node_name(off)}  VM {off.vm_id} is powered off; its node stays for when it comes"
        " back"
    ]
    assert node_name(off) in cluster.kube_nodes()


def test_nothing_is_deleted_while_onegate_does_not_tell_what_there_is(cluster: Cluster) -> None:
    [off] = [vm for vm in cluster.service.vms("worker") if vm.lcm_state != LcmState.RUNNING]
    cluster.lab.onegate.fault("garbage", text="{}", path="/service")
    log = wait_said(cluster, "OneGate does not tell which VMs there are", ended="Failed")
    assert f"kept  {node_name(off)}" in log
    assert node_name(off) in cluster.kube_nodes()
    cluster.lab.onegate.heal("garbage")
    cluster.service.resume(off.vm_id)
    cluster.wait_healthy()


def test_a_new_worker_with_the_name_of_a_dead_one_comes_in_without_a_hand(
    cluster: Cluster,
) -> None:
    before = cluster.service.vms("worker")
    dead = before[0]
    cluster.service.replace(dead.vm_id)
    new = cluster.new_vm("worker", before)
    assert node_name(new) == node_name(dead)
    cluster.wait_told(new.vm_id, "ONEKE_BLOCKED_BY", node_name(dead))
    lose(cluster, node_name(dead))
    log = wait_said(cluster, f"deleted  {node_name(dead)}")
    assert f"VM {dead.vm_id} is not in the service any more; VM {new.vm_id} waits" in log
    cluster.wait_healthy()
    assert wait_said(cluster, "nothing") == "nothing to do: all 4 are as they should be\n"


def test_a_master_leaves_by_itself_while_the_cleaner_deletes_a_dead_worker(
    cluster: LeavingCluster,
) -> None:
    cluster.service.scale("master", 3)
    cluster.service.wait_running(COMES_UP_S)
    cluster.wait_healthy()
    shorten_minutes(cluster)
    dead = cluster.service.vms("worker")[0]
    cluster.service.terminate(dead.vm_id, hard=True)
    cluster.service.wait_until(
        lambda: len(cluster.service.vms("worker")) == 1, HEALS_S, "OneFlow to drop the dead one"
    )
    cluster.service.wait_running(HEALS_S)
    [leaver] = cluster.leavers("master", 2)
    with JobLogs(cluster) as logs:
        cluster.service.scale("master", 2)
        # It waits for gateways now, half a minute.
        lose(cluster, node_name(dead))
        cluster.service.wait_until(
            lambda: len(cluster.service.vms("master")) == 2, LEAVES_S, "2 masters"
        )
        cluster.wait_healthy()
    assert sum(f"deleted  {node_name(dead)}" in log for log in logs.found.values()) == 1
    assert not [log for log in logs.found.values() if f"deleted  {node_name(leaver)}" in log]
    cluster.assert_left_by_itself(leaver)
    masters = [node_name(vm) for vm in cluster.service.vms("master")]
    assert cluster.members() == sorted(masters)
