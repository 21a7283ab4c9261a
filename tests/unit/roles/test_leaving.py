"""A node takes its place behind the balancers back only where its VM is being removed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.agent import begin_task
from appliance.errors import OneGateUnavailable, UnknownRole
from appliance.options import Options
from appliance.role import TaskResult
from tests.unit.roles.cluster import Cloud, Machine

KEY = "ONEGATE_HAPROXY_LB1_IP"
REMOVED = 12


def leave(machine: Machine, *, dry_run: bool = False) -> TaskResult:
    return begin_task(machine.system, Options(), "leave", machine.log, machine.told.append).run(
        dry_run=dry_run
    )


def remove(machine: Machine) -> None:
    vms = machine.cloud.onegate.vms
    vms[machine.vm_id] = replace(vms[machine.vm_id], lcm_state=REMOVED)


@pytest.fixture
def master() -> Machine:
    made = Machine(Cloud(), "master", 101)
    made.run()
    return made


def test_a_vm_that_reboots_keeps_its_place(master: Machine) -> None:
    before = dict(master.onegate.own)
    assert leave(master).lines[0].verdict == "kept"
    assert dict(master.onegate.own) == before


def test_a_vm_that_is_removed_withdraws_and_the_cluster_stays_known(master: Machine) -> None:
    remove(master)
    assert leave(master).lines[0].verdict == "withdrawn"
    assert master.published(KEY) == "0.0.0.0"
    assert master.published("ONEKE_CLUSTER_ID")


def test_a_dry_run_withdraws_nothing(master: Machine) -> None:
    remove(master)
    before = dict(master.onegate.own)
    leave(master, dry_run=True)
    assert dict(master.onegate.own) == before


def test_onegate_that_is_down_holds_a_shutdown_up_only_shortly(master: Machine) -> None:
    master.onegate.go_down(OneGateUnavailable("OneGate GET /vm: Connection refused"))
    started = master.clock.monotonic()
    with pytest.raises(OneGateUnavailable):
        leave(master)
    assert master.clock.monotonic() - started <= 20


def test_who_never_registered_withdraws_nothing() -> None:
    cloud = Cloud()
    worker = Machine(cloud, "worker", 111)
    worker.onegate.update({"READY": "NO"})
    worker.files.put("/var/lib/oneke/identity.json", '{"vm_id": 111, "role": "worker"}')
    remove(worker)
    leave(worker)
    assert "ONEGATE_HAPROXY_LB3_IP" not in worker.onegate.own


def test_a_role_without_such_a_task_says_which_it_has(master: Machine) -> None:
    with pytest.raises(UnknownRole, match="clean and leave"):
        begin_task(master.system, Options(), "dance", master.log, master.told.append)
