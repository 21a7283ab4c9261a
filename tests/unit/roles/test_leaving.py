"""A node leaves only where its VM is being removed: balancers, pods, cluster, in a bounded time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import paths
from appliance.agent import begin_task, run_task
from appliance.errors import (
    AlreadyRunning,
    KubernetesUnavailable,
    OneGateError,
    OneGateRefused,
    OneGateUnavailable,
    UnknownRole,
)
from appliance.options import Options
from appliance.role import TaskResult
from appliance.system.kubernetes import Access, Lease, Node
from roles.common.cleaning import LONGEST_ONEGATE_ANSWER_S
from roles.common.departure import LONGEST_ANSWER_S
from roles.common.leaving import ASKING_S, DRAINING_S, NOTICED_S, REMOVAL_S, WHOLE_S
from roles.common.rke2config import VM_LABEL
from roles.common.turn import NAME
from tests.fakes import PowerCut, Tape, make_node, make_pod
from tests.unit.roles.cluster import VIP, Cloud, Machine

KEY = "ONEGATE_HAPROXY_LB1_IP"
INGRESS_KEY = "ONEGATE_HAPROXY_LB3_IP"
REMOVED, UNDEPLOYING = 12, 3
SERVER = {"node-role.kubernetes.io/etcd": "true", "node-role.kubernetes.io/control-plane": "true"}
DOWN = KubernetesUnavailable("https://127.0.0.1:6443: Connection refused")
HELD = (
    "default/db could not be moved: a budget for disruptions does not let go of it; it ends with"
    " the VM"
)
UNIT = Path(__file__).parents[3] / "systemd" / "oneke-leave.service"
SHUTDOWN_S = 120
"""The least that OpenNebula's KVM driver gives a shutdown, where nothing is set."""


def leave(machine: Machine, *, dry_run: bool = False) -> TaskResult:
    task = begin_task(machine.system, Options(), "leave", machine.log, machine.told.append)
    return task.run(dry_run=dry_run)


def run_leave(machine: Machine) -> TaskResult:
    return run_task(machine.system, Options(), "leave", machine.log, machine.told.append)


def verdicts(result: TaskResult) -> dict[str, str]:
    return {line.subject: line.verdict for line in result.lines}


def remove(machine: Machine) -> None:
    vms = machine.cloud.onegate.vms
    vms[machine.vm_id] = replace(vms[machine.vm_id], lcm_state=REMOVED)


def as_server(machine: Machine) -> Callable[[Node], Node]:
    """Return what the cluster makes of a master's node."""
    return lambda node: replace(node, labels=SERVER, addresses=(machine.address,))


def start(cloud: Cloud, role: str, vm_id: int) -> Machine:
    """Return a machine of a role that came into the cluster."""
    machine = Machine(cloud, role, vm_id)
    if role == "master":
        machine.seen_as = as_server(machine)
    machine.run()
    machine.onegate.tape = cloud.kubernetes.tape
    machine.told.clear()
    cloud.kubernetes.asked.clear()
    return machine


def server(number: int) -> Node:
    """Return the node of a master that is well."""
    return make_node(f"m{number}", labels=SERVER, voter="True", addresses=[f"172.20.0.{number}"])


def a_worker(cloud: Cloud) -> Machine:
    """Return a worker that came into the cluster, and registered, without much ado."""
    worker = Machine(cloud, "worker", 111)
    cloud.kubernetes.go_down(None)
    cloud.kubernetes.put(make_node(worker.name))
    worker.files.put("/var/lib/oneke/identity.json", '{"vm_id": 111, "role": "worker"}')
    worker.files.put("/var/lib/oneke/cluster.json", f'{{"node_name": "{worker.name}"}}')
    worker.onegate.update({INGRESS_KEY: VIP})
    return worker


def stop_job_s() -> float:
    """Return what the unit gives the stop job."""
    (found,) = re.findall(r"^TimeoutStopSec=([0-9]+)s$", UNIT.read_text(), re.MULTILINE)
    return float(found)


@pytest.fixture
def master() -> Machine:
    return start(Cloud(), "master", 101)


@pytest.fixture
def worker() -> Machine:
    cloud = Cloud()
    start(cloud, "master", 101)
    return start(cloud, "worker", 111)


@pytest.fixture
def masters() -> list[Machine]:
    cloud = Cloud()
    return [start(cloud, "master", vm_id) for vm_id in (101, 102, 103)]


# --- whether --------------------------------------------------------------------------------------


def test_a_vm_that_reboots_keeps_its_place(master: Machine) -> None:
    before = dict(master.onegate.own)
    assert verdicts(leave(master)) == {"balancers": "kept"}
    assert dict(master.onegate.own) == before
    assert master.cloud.kubernetes.asked == []
    assert master.told == []


def test_onegate_that_is_down_holds_a_shutdown_up_only_shortly(master: Machine) -> None:
    master.onegate.go_down(OneGateUnavailable("OneGate GET /vm: Connection refused"))
    started = master.clock.monotonic()
    with pytest.raises(OneGateUnavailable):
        leave(master)
    assert master.clock.monotonic() - started <= ASKING_S
    assert master.cloud.kubernetes.asked == []


@pytest.mark.parametrize(
    "error",
    [
        OneGateRefused("OneGate PUT /vm: status 500: oned refuses", status=500),
        OneGateUnavailable("OneGate PUT /vm: no answer in time"),
    ],
)
def test_a_node_that_can_not_withdraw_goes_all_the_same_and_says_so(
    worker: Machine, monkeypatch: pytest.MonkeyPatch, error: OneGateError
) -> None:
    remove(worker)
    kubernetes = worker.cloud.kubernetes
    kubernetes.place(worker.name, make_pod("web"))
    honest = worker.onegate.update

    def refuse(values: Mapping[str, str]) -> None:
        if INGRESS_KEY in values:
            raise error
        honest(values)

    monkeypatch.setattr(worker.onegate, "update", refuse)
    started = worker.clock.monotonic()
    result = leave(worker)
    assert verdicts(result) == {"balancers": "kept", "pods": "moved", "node": "removed"}
    assert result.trouble == f"balancers: gateways could not be told: {error}"
    assert worker.name not in kubernetes.members
    assert (
        worker.published("ONEKE_STEP") == f"left the cluster; gateways could not be told: {error}"
    )
    assert worker.clock.monotonic() - started < stop_job_s()


def test_a_dry_run_changes_nothing(masters: list[Machine]) -> None:
    first = masters[0]
    remove(first)
    first.cloud.kubernetes.place(first.name, make_pod("web"))
    before = dict(first.onegate.own)
    changes = list(first.cloud.kubernetes.tape.changes)
    result = leave(first, dry_run=True)
    assert verdicts(result) == {
        "balancers": "to withdraw",
        "pods": "to move",
        "node": "to remove",
    }
    assert result.lines[0].reason == "this VM is being removed; gateways would drain it"
    assert dict(first.onegate.own) == before
    assert first.cloud.kubernetes.tape.changes == changes
    assert first.told == []


def test_a_dry_run_tells_what_keeps_a_master_in(master: Machine) -> None:
    remove(master)
    line = leave(master, dry_run=True).lines[-1]
    assert (line.subject, line.verdict) == ("node", "kept")
    assert "last member of etcd" in line.reason


@pytest.mark.parametrize("role", ["master", "worker"])
def test_a_dry_run_leaves_a_node_alone_that_names_another_vm(role: str) -> None:
    cloud = Cloud()
    start(cloud, "master", 101)
    machine = start(cloud, role, 111)
    remove(machine)
    kubernetes = cloud.kubernetes
    node = kubernetes.members[machine.name]
    kubernetes.put(replace(node, labels={**node.labels, VM_LABEL: "112"}))
    kubernetes.place(machine.name, make_pod("web"))
    found = leave(machine, dry_run=True)
    assert verdicts(found) == {"balancers": "to withdraw", "node": "gone"}
    assert found.lines[-1].reason == "its name is VM 112's now"
    assert found.trouble == ""
    assert leave(machine).lines[-1].reason == "its name is VM 112's now"
    assert machine.name in kubernetes.members
    assert "web" in kubernetes.pods_of[machine.name]


def test_a_role_without_such_a_task_says_which_it_has(master: Machine) -> None:
    with pytest.raises(UnknownRole, match="clean and leave"):
        begin_task(master.system, Options(), "dance", master.log, master.told.append)


def test_a_service_that_goes_as_a_whole_takes_its_cluster_with_it(worker: Machine) -> None:
    remove(worker)
    worker.onegate.state = UNDEPLOYING
    worker.cloud.kubernetes.place(worker.name, make_pod("web"))
    result = leave(worker)
    assert verdicts(result) == {"balancers": "withdrawn", "node": "forgotten"}
    assert worker.published(INGRESS_KEY) == "0.0.0.0"
    assert worker.cloud.kubernetes.asked == []


# --- a worker -------------------------------------------------------------------------------------


def test_a_worker_leaves_nothing_behind(worker: Machine) -> None:
    remove(worker)
    kubernetes = worker.cloud.kubernetes
    kubernetes.place(worker.name, make_pod("web"), make_pod("proxy", controller="DaemonSet"))
    result = leave(worker)
    assert verdicts(result) == {"balancers": "withdrawn", "pods": "moved", "node": "removed"}
    assert result.trouble == ""
    assert worker.published(INGRESS_KEY) == "0.0.0.0"
    assert worker.name not in kubernetes.members
    done = kubernetes.tape.find("kubernetes.")
    assert done == [
        f"kubernetes.cordon {worker.name}",
        "kubernetes.evict web",
        f"kubernetes.delete {worker.name}",
    ]


def note_deletions(machine: Machine) -> list[float]:
    """Have it noted when nodes are deleted, on the monotonic scale."""
    deleted_at = []
    kubernetes = machine.cloud.kubernetes
    honest = kubernetes.delete_node

    def note(access: Access, node: Node) -> bool:
        deleted_at.append(machine.clock.monotonic())
        return honest(access, node)

    kubernetes.delete_node = note
    return deleted_at


def test_gateways_have_time_to_notice_before_a_node_goes(worker: Machine) -> None:
    remove(worker)
    started = worker.clock.monotonic()
    deleted_at = note_deletions(worker)
    leave(worker)
    assert deleted_at[0] - started == pytest.approx(NOTICED_S)


def test_gateways_have_time_to_notice_also_where_it_was_cut_as_it_had_withdrawn(
    worker: Machine,
) -> None:
    remove(worker)
    deleted_at = note_deletions(worker)
    worker.onegate.tape = worker.cloud.kubernetes.tape = worker.files.tape = Tape(1)
    with pytest.raises(PowerCut):
        leave(worker)
    assert worker.published(INGRESS_KEY) == "0.0.0.0"
    assert deleted_at == []
    worker.onegate.tape = worker.cloud.kubernetes.tape = worker.files.tape = Tape()
    began = worker.clock.monotonic()
    leave(worker)
    assert deleted_at[0] - began == pytest.approx(NOTICED_S)


def test_a_storage_node_is_behind_no_balancer_and_waits_for_no_gateway() -> None:
    cloud = Cloud()
    start(cloud, "master", 101)
    storage = Machine(cloud, "storage", 121, ONEAPP_STORAGE_DEVICE="")
    cloud.kubernetes.put(make_node(storage.name))
    storage.files.put("/var/lib/oneke/identity.json", '{"vm_id": 121, "role": "storage"}')
    storage.files.put("/var/lib/oneke/cluster.json", f'{{"node_name": "{storage.name}"}}')
    remove(storage)
    started = storage.clock.monotonic()
    result = leave(storage)
    assert result.lines[0].reason == "this VM is being removed; it stands behind none"
    assert verdicts(result)["node"] == "removed"
    assert storage.clock.monotonic() - started < 5
    assert storage.name not in cloud.kubernetes.members


def test_each_step_is_told_in_onegate_and_on_the_console(worker: Machine) -> None:
    remove(worker)
    kubernetes = worker.cloud.kubernetes
    kubernetes.place(worker.name, make_pod("db"))
    kubernetes.guarded = {"db"}
    before = len(worker.onegate.updates)
    leave(worker)
    steps = [told["ONEKE_STEP"] for told in worker.onegate.updates[before:] if "ONEKE_STEP" in told]
    assert steps == [
        "leaving: pods go to other nodes",
        "leaving: a budget for disruptions does not let go of default/db",
        "leaving: its node is taken out of the cluster",
        "leaving: its node is being deleted",
        f"left the cluster; {HELD}",
    ]
    assert worker.told[0].endswith("leaving: pods go to other nodes")
    assert len(worker.told) == len(steps)
    assert worker.published("READY") == "YES"
    states = {told.get("ONEKE_STATE") for told in worker.onegate.updates[before:]}
    assert states <= {"CONFIGURING", "WAITING", None}
    logged = [line["subject"] for line in worker.log.find("leaving.step")]
    assert logged == ["pods", "node"]


def test_pods_that_no_budget_lets_go_are_left_and_told(worker: Machine) -> None:
    remove(worker)
    kubernetes = worker.cloud.kubernetes
    kubernetes.place(worker.name, make_pod("db"), make_pod("web"))
    kubernetes.guarded = {"db"}
    started = worker.clock.monotonic()
    result = leave(worker)
    assert verdicts(result) == {"balancers": "withdrawn", "pods": "left", "node": "removed"}
    assert result.trouble == f"pods: {HELD}"
    assert worker.clock.monotonic() - started >= DRAINING_S - 1


def test_a_worker_that_may_not_delete_its_node_says_who_will(worker: Machine) -> None:
    remove(worker)
    worker.cloud.kubernetes.forbidden = {"delete"}
    result = leave(worker)
    assert verdicts(result)["node"] == "kept"
    assert "the masters' cleaner does it" in result.trouble
    assert "oneke-agent clean" in result.lines[-1].hint
    assert worker.published("ONEKE_STATE") == "FAILED"
    assert "cleaner does it" in worker.published("ONEKE_ERROR")


@pytest.mark.parametrize("role", ["master", "worker", "storage"])
def test_who_never_came_into_the_cluster_has_nothing_to_leave(role: str) -> None:
    cloud = Cloud()
    machine = Machine(cloud, role, 111, ONEAPP_STORAGE_DEVICE="")
    machine.onegate.update({"READY": "NO"})
    machine.files.put("/var/lib/oneke/identity.json", f'{{"vm_id": 111, "role": "{role}"}}')
    remove(machine)
    assert verdicts(leave(machine)) == {"balancers": "withdrawn"}
    assert not any(key.startswith("ONEGATE_HAPROXY") for key in machine.onegate.own)
    assert cloud.kubernetes.asked == []


def test_a_gateway_is_in_no_cluster() -> None:
    cloud = Cloud()
    gateway = Machine(cloud, "vnf", 60, ETH1_IP="172.20.0.60", ETH1_MASK="255.255.255.0")
    gateway.files.put("/var/lib/oneke/identity.json", '{"vm_id": 60, "role": "vnf"}')
    remove(gateway)
    assert verdicts(leave(gateway)) == {"balancers": "withdrawn"}
    assert cloud.kubernetes.asked == []


# --- a master -------------------------------------------------------------------------------------


def test_the_founder_leaves_and_the_cluster_stays_known(masters: list[Machine]) -> None:
    first, second, _ = masters
    remove(first)
    result = leave(first)
    assert verdicts(result) == {"balancers": "withdrawn", "pods": "moved", "node": "removed"}
    assert sorted(first.cloud.kubernetes.members) == [one.name for one in masters[1:]]
    assert first.published(KEY) == "0.0.0.0"
    assert first.published("ONEKE_CLUSTER_ID")
    assert second.published(KEY) == "10.2.11.86"
    assert first.cloud.kubernetes.leases == {}


def test_a_master_whose_own_api_is_gone_hears_from_onegate_whom_to_ask(
    masters: list[Machine],
) -> None:
    first = masters[0]
    remove(first)
    first.cloud.kubernetes.unreachable |= {"127.0.0.1", VIP}
    assert verdicts(leave(first))["node"] == "removed"


def test_masters_leave_until_one_is_left(masters: list[Machine]) -> None:
    for machine in masters:
        remove(machine)
    found = [verdicts(leave(machine))["node"] for machine in masters]
    assert found == ["removed", "removed", "kept"]
    assert list(masters[0].cloud.kubernetes.members) == [masters[2].name]


def test_a_master_whose_going_would_cost_the_majority_says_why(masters: list[Machine]) -> None:
    first, second, third = masters
    off = make_node(third.name, labels=SERVER, ready="Unknown", voter="False")
    first.cloud.kubernetes.put(replace(off, addresses=(third.address,)))
    remove(first)
    result = leave(first)
    assert verdicts(result)["node"] == "kept"
    assert "etcd would lose its quorum without it" in result.trouble
    assert third.name in result.trouble
    assert first.published("ONEKE_STATE") == "FAILED"
    assert "etcd would lose its quorum" in first.published("ONEKE_ERROR")
    assert first.name in first.cloud.kubernetes.members
    assert second.name in first.cloud.kubernetes.members
    assert first.cloud.kubernetes.leases == {}


@pytest.mark.parametrize("is_left_alone", [False, True])
def test_a_master_that_is_deleted_and_not_gone_yet_does_not_say_that_it_stays(
    masters: list[Machine], is_left_alone: bool
) -> None:
    """Its own API ends with its member; the others may be gone as well when etcd lets go of it."""
    first = masters[0]
    remove(first)
    kubernetes = first.cloud.kubernetes
    kubernetes.held.add(first.name)
    kubernetes.place(first.name, make_pod("db"))
    kubernetes.guarded = {"db"}
    if is_left_alone:
        honest = kubernetes.delete_node

        def fall_silent(access: Access, node: Node) -> bool:
            was_there = honest(access, node)
            kubernetes.go_down(DOWN)
            return was_there

        kubernetes.delete_node = fall_silent
    result = leave(first)
    found = (
        "its node is deleted; etcd has not let go of its member yet: look with kubectl get node"
        f" {first.name} on a master"
    )
    assert verdicts(result)["node"] == "deleted"
    assert result.lines[-1].reason == found
    assert result.lines[-1].hint == ""
    assert result.trouble == f"pods: {HELD}; node: {found}"
    told = f"leaves: {found}; default/db could not be moved: a budget"
    assert first.published("ONEKE_ERROR").startswith(told)
    assert verdicts(leave(first, dry_run=True))["node"] == ("kept" if is_left_alone else "deleted")


def test_a_worker_whose_node_something_holds_says_that_it_is_deleted(worker: Machine) -> None:
    remove(worker)
    worker.cloud.kubernetes.held.add(worker.name)
    result = leave(worker)
    assert verdicts(result)["node"] == "deleted"
    assert result.lines[-1].reason.startswith("its node is deleted; something holds it still")
    assert worker.published("ONEKE_ERROR").startswith("leaves: its node is deleted")


def test_where_a_node_stays_the_pods_that_are_left_are_told_too(master: Machine) -> None:
    remove(master)
    kubernetes = master.cloud.kubernetes
    kubernetes.place(master.name, make_pod("db"))
    kubernetes.guarded = {"db"}
    leave(master)
    told = master.published("ONEKE_ERROR")
    assert told.startswith("leaves; and its node stays in the cluster: it is the last member")
    assert "; default/db could not be moved: a budget for disruptions" in told


def test_a_master_whose_turn_does_not_come_stays_in(masters: list[Machine]) -> None:
    first, second, _ = masters
    remove(first)
    kubernetes = first.cloud.kubernetes
    honest = kubernetes.lease

    def renewed(access: Access, namespace: str, name: str) -> Lease | None:
        """Let the other one renew its turn for ever."""
        kubernetes.leases.setdefault(NAME, Lease(namespace, name, second.name, 20, None, "u", "1"))
        lease = kubernetes.leases[NAME]
        kubernetes.leases[NAME] = replace(lease, resource_version=lease.resource_version + "1")
        return honest(access, namespace, name)

    kubernetes.lease = renewed
    result = leave(first)
    assert verdicts(result)["node"] == "kept"
    assert f"{second.name} leaves the cluster just now" in result.trouble


# --- within its time ------------------------------------------------------------------------------


def slow(machine: Machine, answer_s: float) -> Callable[[Access], None]:
    """Return an API server that takes its time, which whoever asks may not wait for."""

    def pass_time(access: Access) -> None:
        until_s = math.inf if access.until_s is None else access.until_s
        patience_s = min(access.longest_s or math.inf, until_s - machine.clock.monotonic())
        machine.clock.pass_time(max(0.0, min(patience_s, answer_s)))
        if patience_s < answer_s:
            raise KubernetesUnavailable("no answer in time")

    return pass_time


@pytest.mark.parametrize("onegate_s", [1.5, 4, 7.5])
@pytest.mark.parametrize("api_s", [0, 1, 4.9])
@pytest.mark.parametrize("role", ["master", "worker"])
def test_whatever_hangs_the_stop_job_ends_in_its_time(
    role: str, api_s: float, onegate_s: float
) -> None:
    cloud = Cloud()
    first = start(cloud, "master", 101)
    machine = start(cloud, "master", 102) if role == "master" else start(cloud, "worker", 111)
    kubernetes = cloud.kubernetes
    kubernetes.place(machine.name, make_pod("db"))
    kubernetes.guarded = {"db"}
    kubernetes.unreachable.add(first.address)
    kubernetes.held.add(machine.name)
    remove(machine)
    machine.onegate.answered = lambda: machine.clock.pass_time(onegate_s)
    kubernetes.answered = slow(machine, api_s)
    started = machine.clock.monotonic()
    leave(machine)
    assert machine.clock.monotonic() - started < stop_job_s()
    assert kubernetes.leases == {}


@pytest.mark.parametrize("onegate_s", [1.5, 4, 7.5])
@pytest.mark.parametrize("api_s", [0, 1, 4.9])
def test_a_master_among_the_dead_ends_in_its_time(
    masters: list[Machine], api_s: float, onegate_s: float
) -> None:
    first, _, third = masters
    kubernetes = first.cloud.kubernetes
    labels = {**SERVER, VM_LABEL: str(third.vm_id)}
    since_s = first.clock.now() - 30
    off = make_node(third.name, labels=labels, ready="Unknown", ready_since_s=since_s, voter="True")
    kubernetes.put(replace(off, addresses=(third.address,)))
    kubernetes.unreachable.add(third.address)
    kubernetes.held = set(kubernetes.members)
    remove(first)
    first.onegate.forget(third.vm_id)
    first.onegate.answered = lambda: first.clock.pass_time(onegate_s)
    kubernetes.answered = slow(first, api_s)
    started = first.clock.monotonic()
    leave(first)
    assert first.clock.monotonic() - started < stop_job_s()
    assert kubernetes.leases == {}


def test_the_shares_of_the_time_and_what_overruns_them_fit_into_that_of_the_stop_job() -> None:
    """After the whole time the turn is given back, and OneGate is told the last word."""
    assert max(ASKING_S, NOTICED_S) < DRAINING_S < REMOVAL_S < WHOLE_S
    overrun_s = LONGEST_ONEGATE_ANSWER_S + 2 * LONGEST_ANSWER_S
    assert WHOLE_S + overrun_s <= stop_job_s() < SHUTDOWN_S


def test_a_cluster_that_is_gone_is_not_waited_for_long() -> None:
    cloud = Cloud()
    start(cloud, "master", 101)
    worker = start(cloud, "worker", 111)
    remove(worker)
    cloud.kubernetes.go_down(DOWN)
    started = worker.clock.monotonic()
    result = leave(worker)
    assert verdicts(result) == {"balancers": "withdrawn", "pods": "left", "node": "kept"}
    assert "Connection refused" in result.trouble
    assert worker.clock.monotonic() - started < 60


def test_a_shutdown_waits_for_a_run_by_hand_that_is_on(worker: Machine) -> None:
    remove(worker)
    lock = paths.RUN_DIR / "leave.lock"
    worker.files.locked.add(lock)
    worker.clock.after(20, lambda: worker.files.locked.discard(lock))
    started = worker.clock.monotonic()
    result = run_leave(worker)
    assert verdicts(result)["node"] == "removed"
    assert worker.clock.monotonic() - started >= 20


def test_a_shutdown_waits_for_a_run_by_hand_within_its_time(worker: Machine) -> None:
    remove(worker)
    lock = paths.RUN_DIR / "leave.lock"
    worker.files.locked.add(lock)
    started = worker.clock.monotonic()
    with pytest.raises(AlreadyRunning):
        run_leave(worker)
    assert worker.clock.monotonic() - started == pytest.approx(WHOLE_S, abs=1)
    worker.files.locked.clear()
    started = worker.clock.monotonic()
    worker.files.locked.add(lock)
    worker.clock.after(WHOLE_S - 10, lambda: worker.files.locked.discard(lock))
    worker.cloud.kubernetes.held.add(worker.name)
    run_leave(worker)
    assert worker.clock.monotonic() - started <= WHOLE_S + 1


def test_a_task_that_does_not_wait_is_refused_where_it_is_being_done(master: Machine) -> None:
    master.files.locked.add(paths.RUN_DIR / "clean.lock")
    started = master.clock.monotonic()
    with pytest.raises(AlreadyRunning):
        run_task(master.system, Options(), "clean", master.log, master.told.append)
    assert master.clock.monotonic() - started < 1


# --- cut and begun again --------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["master", "worker"])
def test_cut_before_any_of_its_changes_and_begun_again_it_comes_to_the_same(role: str) -> None:
    cut_before, is_cut = 0, True
    others = [server(number) for number in (1, 2)]
    while is_cut:
        cloud = Cloud()
        machine = start(cloud, role, 103) if role == "master" else a_worker(cloud)
        for node in others:
            cloud.kubernetes.put(node)
        cloud.kubernetes.place(machine.name, make_pod("web"), make_pod("db"))
        remove(machine)
        tape = Tape(cut_before)
        cloud.kubernetes.tape = machine.onegate.tape = machine.files.tape = tape
        is_cut = False
        try:
            leave(machine)
        except PowerCut:
            is_cut = True
        tape.cut_before = None
        result = leave(machine)
        assert verdicts(result)["node"] == "removed", cut_before
        assert set(cloud.kubernetes.members) == {node.name for node in others}, cut_before
        assert cloud.kubernetes.pods_of[machine.name] == {}, cut_before
        assert cloud.kubernetes.leases == {}, cut_before
        key = KEY if role == "master" else INGRESS_KEY
        assert machine.published(key) == "0.0.0.0", cut_before
        cut_before += 1
    assert cut_before > 5
