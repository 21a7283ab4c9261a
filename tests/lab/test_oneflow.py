"""Whole services: OneFlow deploys them, and their VMs boot as nodes.

Most tests are about VMs and not about what their agents do, so these are off and the tests report
READY in their place.
"""

from __future__ import annotations

import pytest

from tests.lab.basics import LabError, wait_until
from tests.lab.context import Generation
from tests.lab.lab import Lab
from tests.lab.onegate.state import FlowState, LcmState
from tests.lab.service import Service

pytestmark = pytest.mark.lab

READY_S = 60


def report_ready(lab: Lab, service: Service, role: str) -> None:
    """Report in the place of a role's agents as soon as their nodes are up."""
    for vm in service.vms(role):
        wait_for_boot(service, vm.vm_id)
        service.node(vm.vm_id).wait_contextualized()
        lab.onegate.set_vm(vm.vm_id, ready=1.0)


def wait_for_boot(service: Service, vm_id: int) -> None:
    """Wait until a VM runs, as the front-end sees it."""

    def boots() -> bool:
        vm = service.vm(vm_id)
        return vm.node is not None and vm.lcm_state == LcmState.RUNNING

    service.wait_until(boots, READY_S, f"VM {vm_id} to boot")


def bring_up(lab: Lab, *, worker: int = 0) -> Service:
    """Deploy a gateway, a master and some workers whose agents are off."""
    service = lab.service(agent=False, worker=worker, storage=0)
    for role, cardinality in (("vnf", 1), ("master", 1), ("worker", worker)):
        wait_for_vms(service, role, cardinality)
        report_ready(lab, service, role)
    service.wait_running(10)
    return service


def wait_for_vms(service: Service, role: str, cardinality: int = 1) -> None:
    """Wait until OneFlow has made the VMs of a role."""
    service.wait_until(lambda: len(service.vms(role)) == cardinality, READY_S, f"VMs of {role}")


def test_a_service_boots_role_by_role_with_contexts_addresses_and_a_disk(lab: Lab) -> None:
    service = lab.service(agent=False)
    [gateway] = service.vms("vnf")
    wait_for_boot(service, gateway.vm_id)
    service.node(gateway.vm_id).wait_running(READY_S)
    assert service.state == FlowState.DEPLOYING
    assert service.vms("master") == []
    report_ready(lab, service, "vnf")
    for role in ("master", "worker", "storage"):
        wait_for_vms(service, role)
        report_ready(lab, service, role)
    service.wait_running(10)
    addresses = {vm.name: vm.address for vm in service.vms()}
    assert addresses == {
        "vnf0": "172.20.0.100",
        "master0": "172.20.0.101",
        "worker0": "172.20.0.102",
        "storage0": "172.20.0.103",
    }
    [storage] = service.nodes("storage")
    assert storage.addresses("eth0") == ["172.20.0.103/24"]
    assert not storage.exists("/sys/class/net/eth1")
    assert "ONEAPP_STORAGE_DEVICE='/dev/vdb'" in storage.read("/run/one-context/context.sh")
    assert storage.run(["blockdev", "--getsize64", "/dev/vdb"]).stdout == f"{600 * 2**20}\n"
    [worker] = service.nodes("worker")
    assert not worker.exists("/dev/vdb")


def test_scaling_boots_the_new_and_shuts_down_the_oldest(lab: Lab) -> None:
    service = bring_up(lab, worker=1)
    [old] = service.vms("worker")
    assert old.node is not None
    old.node.write(
        "/etc/systemd/system/witness.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n"
        "ExecStop=sh -c 'echo stopped >> /var/lib/witness'\n",
    )
    old.node.run(["systemctl", "start", "witness"])
    service.scale("worker", 3)
    assert service.state == FlowState.SCALING
    report_ready(lab, service, "worker")
    service.wait_running(30)
    service.scale("worker", 2)
    assert service.vm(old.vm_id).state_name == "SHUTDOWN"
    assert old.vm_id in [vm.vm_id for vm in service.vms("worker")]
    service.wait_running(60)
    assert [vm.name for vm in service.vms("worker")] == ["worker1", "worker2"]
    assert service.vm(old.vm_id).state_name == "DONE"
    assert not old.node.is_running
    assert old.node.read("/var/lib/witness") == "stopped\n"
    with pytest.raises(LabError, match="was not scaled"):
        service.scale("master", 0)


def test_a_power_cut_is_noticed_and_the_vm_resumed(lab: Lab) -> None:
    service = bring_up(lab)
    [master] = service.vms("master")
    service.cut_power(master.vm_id)
    service.wait_state(FlowState.WARNING, 20)
    assert service.vm(master.vm_id).state_name == "POWEROFF"
    service.resume(master.vm_id)
    service.wait_running(20)
    service.node(master.vm_id).wait_contextualized()
    service.power_off(master.vm_id)
    assert not service.node(master.vm_id).is_running
    service.resume(master.vm_id)
    service.wait_running(20)


def test_all_nodes_reboot_at_once(lab: Lab) -> None:
    service = bring_up(lab)
    for hard in (False, True):
        before = [node.boots for node in service.nodes()]
        service.reboot_all(hard=hard)
        assert [node.boots for node in service.nodes()] == [boots + 1 for boots in before]
    assert {vm.state_name for vm in service.vms()} == {"RUNNING"}


def test_a_vm_made_anew_keeps_id_and_address_and_a_replaced_one_the_address(lab: Lab) -> None:
    service = bring_up(lab, worker=1)
    [worker] = service.vms("worker")
    service.node(worker.vm_id).write("/var/lib/kept", "before\n")
    first = service.node(worker.vm_id)
    service.recreate(worker.vm_id)
    service.wait_until(
        lambda: service.node(worker.vm_id) is not first, READY_S, "the VM to be made anew"
    )
    wait_for_boot(service, worker.vm_id)
    assert not service.node(worker.vm_id).exists("/var/lib/kept")
    assert service.vm(worker.vm_id).address == worker.address
    service.replace(worker.vm_id)
    [new] = service.vms("worker")
    assert new.vm_id != worker.vm_id
    assert new.address == worker.address
    report_ready(lab, service, "worker")
    service.wait_running(30)


def test_a_service_is_taken_down_children_first(lab: Lab) -> None:
    service = bring_up(lab)
    nodes = service.nodes()
    service.delete()
    assert service.state == FlowState.DONE
    assert service.vms() == []
    assert not any(node.is_running for node in nodes)


@pytest.mark.parametrize("generation", ["current", "1.24"])
def test_a_whole_service_of_either_generation_runs_without_a_hand(
    lab: Lab, generation: Generation
) -> None:
    service = lab.service(generation=generation)
    service.wait_running()
    assert {vm.attributes["ONEKE_STATE"] for vm in service.vms()} == {"READY"}
    [master] = service.nodes("master")
    listed = master.run(["bash", "-lc", "kubectl get nodes --no-headers"]).stdout.splitlines()
    assert {line.split()[0]: line.split()[1] for line in listed} == {
        f"oneke-ip-172-20-0-{number}": "Ready" for number in (101, 102, 103)
    }
    client = lab.host("client", network="public", address="10.2.11.50/24", gateway="10.2.11.1")
    page = wait_until(lambda: client.fetch("http://10.2.11.86/", timeout_s=2), 30, "the ingress")
    assert page == "oneke-ip-172-20-0-102"
