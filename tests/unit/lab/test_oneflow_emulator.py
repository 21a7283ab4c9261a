"""OneFlow and oned beyond the recordings: what fails, who is made anew, addresses, the wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.context import PRIVATE, mac_of
from tests.lab.oneflow.control import FlowControl
from tests.lab.oneflow.driver import Happening, Verb
from tests.lab.oneflow.flow import read_cardinality
from tests.lab.oneflow.operations import FlowOperations
from tests.lab.oneflow.template import RoleTemplate, ServiceTemplate, VmTemplate, parse_service
from tests.lab.oneflow.ticker import Ticker
from tests.lab.onegate.control import ControlError, ControlServer
from tests.lab.onegate.faults import Fault, FaultKind
from tests.lab.onegate.operations import Operations
from tests.lab.onegate.server import Emulator
from tests.lab.onegate.state import Cloud, FlowState, LcmState, StateError, VmState
from tests.unit.lab.oneflow_world import World, add_network, oneke
from tests.unit.lab.recordings import read_context

RUNNING = (VmState.ACTIVE, LcmState.RUNNING)
OFF = (VmState.POWEROFF, LcmState.INIT)


@pytest.fixture
def world() -> World:
    return World()


def states(world: World, vm_id: int) -> tuple[int, int]:
    vm = world.cloud.vms[vm_id]
    return vm.state, vm.lcm_state


def service_state(world: World, service_id: int) -> int:
    return world.cloud.services[service_id].state


# --- deploying ----------------------------------------------------------------------------------


def test_a_vm_goes_from_pending_over_boot_to_running(world: World) -> None:
    world.flow.instantiate(oneke())
    seen = []
    world.watchers.append(lambda: seen.append(states(world, 0)))
    assert states(world, 0) == (VmState.PENDING, LcmState.INIT)
    world.advance(10)
    assert list(dict.fromkeys(seen)) == [(1, 0), (3, 2), RUNNING]


def test_roles_wait_for_all_vms_of_their_parents(world: World) -> None:
    service_id = world.flow.instantiate(oneke(vnf=2, master=1)).service_id
    world.advance(20)
    world.report_ready([0])
    world.advance(60)
    assert world.role_vms(service_id, "master") == []
    world.report_ready([1])
    world.advance(1.2)
    assert world.role_vms(service_id, "master") == [2]


def test_a_report_before_the_vm_runs_counts_when_it_does(world: World) -> None:
    service_id = world.flow.instantiate(oneke(vnf=1)).service_id
    world.report_ready([0])
    world.advance(5)
    assert world.role_vms(service_id, "master") == []
    world.advance(5)
    assert world.role_vms(service_id, "master") == [1, 2, 3]


def test_without_gate_or_order_vms_only_have_to_run(world: World) -> None:
    told = oneke()
    template = ServiceTemplate("Free", told.roles, is_straight=False, is_gated=False)
    service_id = world.flow.instantiate(template).service_id
    assert len(world.cloud.services[service_id].vm_ids()) == 8
    world.advance(10)
    assert service_state(world, service_id) == FlowState.RUNNING


def test_a_vm_that_does_not_boot_fails_the_service_until_it_is_made_anew(world: World) -> None:
    service_id = world.flow.instantiate(oneke(vnf=1, master=1)).service_id
    world.advance(1)
    world.machines.report(0, Happening.FAILED)
    world.advance(1)
    assert service_state(world, service_id) == FlowState.FAILED_DEPLOYING
    assert states(world, 0) == (VmState.ACTIVE, LcmState.BOOT_FAILURE)
    world.flow.recover(service_id)
    world.advance(12)
    assert states(world, 0) == RUNNING
    world.report_ready([0])
    world.advance(2)
    assert world.role_vms(service_id, "master") == [1]


def test_too_few_addresses_fail_the_deployment(world: World) -> None:
    network = world.cloud.find_network("Private")
    assert network is not None
    network.ranges[0].size = 3
    service_id = world.flow.instantiate(oneke(vnf=2, master=2)).service_id
    world.advance(12)
    world.report_ready([0, 1])
    world.advance(2)
    assert service_state(world, service_id) == FlowState.FAILED_DEPLOYING


def test_unknown_parents_and_networks_are_refused(world: World) -> None:
    lost = RoleTemplate("a", 1, VmTemplate(("Private",)), parents=("b",))
    with pytest.raises(StateError, match="parents that are no role: b"):
        world.flow.instantiate(ServiceTemplate("x", (lost,)))
    nowhere = ServiceTemplate("x", (RoleTemplate("a", 1, VmTemplate(("Storage",))),))
    assert world.flow.instantiate(nowhere).state == FlowState.FAILED_DEPLOYING


def test_a_template_survives_json() -> None:
    assert parse_service(oneke().to_json()) == oneke()


# --- contexts and addresses ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"), [("001-context-and-token-vnf", "vnf"), ("002-context-master", "master")]
)
def test_a_context_is_written_as_recorded(world: World, name: str, role: str) -> None:
    recorded, _ = read_context("7.4", f"{name}.txt")
    own = {key: value for key, value in recorded.items() if key != "VMID" and key[:3] != "ETH"}
    for network, nic in (("Public", "ETH0"), ("Private", "ETH1" if role == "vnf" else "ETH0")):
        if found := world.cloud.find_network(network):
            found.attributes["DNS"] = recorded[f"{nic}_DNS"]
            index = int(recorded[f"{nic}_IP"].rpartition(".")[2])
            found.ranges[0].next_index = index - (200 if network == "Public" else 100)
    networks = ("Public", "Private") if role == "vnf" else ("Private",)
    world.use_up_ids(int(recorded["VMID"]))
    template = ServiceTemplate("x", (RoleTemplate(role, 1, VmTemplate(networks, own)),))
    [vm_id] = world.flow.instantiate(template).vm_ids()
    assert world.cloud.vms[vm_id].context == recorded


def test_addresses_are_leased_in_turn_and_given_back(world: World) -> None:
    service_id = world.bring_up(oneke(vnf=1, master=1, worker=1, storage=1))
    addresses = [world.cloud.vms[vm_id].nics[-1].attributes["IP"] for vm_id in range(4)]
    assert addresses == [f"172.20.0.{100 + index}" for index in range(4)]
    world.machines.terminate(2)
    world.advance(15)
    network = world.cloud.find_network("Private")
    assert network is not None
    assert [lease.ip for lease in network.ranges[0].leases] == [addresses[i] for i in (0, 1, 3)]
    assert world.flow.scale(service_id, "worker", 1)
    assert world.cloud.vms[4].nics[0].attributes["IP"] == "172.20.0.104"


# --- what happens to VMs ------------------------------------------------------------------------


def test_a_machine_that_went_off_is_noticed_after_a_while(world: World) -> None:
    service_id = world.bring_up(oneke())
    world.machines.report(3, Happening.OFF)
    world.advance(2)
    assert states(world, 3) == RUNNING
    world.advance(4)
    assert states(world, 3) == OFF
    assert service_state(world, service_id) == FlowState.WARNING
    assert not world.flow.scale(service_id, "worker", 3)
    world.machines.resume(3)
    world.advance(10)
    assert service_state(world, service_id) == FlowState.RUNNING


def test_a_machine_that_is_back_at_once_was_never_off(world: World) -> None:
    service_id = world.bring_up(oneke())
    world.machines.report(3, Happening.OFF)
    world.machines.report(3, Happening.RUNNING)
    world.advance(10)
    assert states(world, 3) == RUNNING
    assert service_state(world, service_id) == FlowState.RUNNING


def test_a_vm_made_anew_keeps_all_but_its_disk(world: World) -> None:
    world.bring_up(oneke())
    before = world.get(3, "/vm")
    world.machines.recreate(3)
    assert states(world, 3) == (VmState.ACTIVE, LcmState.CLEANUP_RESUBMIT)
    world.advance(0.2)
    assert states(world, 3) == (VmState.PENDING, LcmState.INIT)
    world.advance(10)
    assert world.get(3, "/vm") == before


def test_a_vm_that_is_off_is_gone_at_once_when_terminated(world: World) -> None:
    world.bring_up(oneke())
    world.machines.power_off(3, hard=True)
    world.advance(1)
    assert states(world, 3) == OFF
    world.machines.terminate(3)
    assert states(world, 3) == (VmState.DONE, LcmState.INIT)
    world.machines.terminate(3)
    with pytest.raises(StateError, match="VM 3 is gone"):
        world.machines.recreate(3)


def test_actions_that_do_not_fit_the_state_are_refused(world: World) -> None:
    world.flow.instantiate(oneke())
    with pytest.raises(StateError, match="VM 0 is in state 1/0, expected 3/3"):
        world.machines.power_off(0)
    with pytest.raises(StateError, match="expected 8/0"):
        world.machines.resume(0)


# --- scaling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "cardinality"),
    [(3, 3), ("3", 3), (2.7, 2), ("three", 0), (None, 0), (-1, -1), ([3], None), (True, None)],
)
def test_cardinalities_are_read_as_ruby_reads_them(wish: object, cardinality: int | None) -> None:
    assert read_cardinality(wish) == cardinality


def test_scaling_fails_with_a_vm_and_goes_on_when_it_is_made_anew(world: World) -> None:
    service_id = world.bring_up(oneke(vnf=1, master=1))
    before = world.role_vms(service_id, "master")
    assert world.flow.scale(service_id, "master", 2)
    [new] = [vm_id for vm_id in world.role_vms(service_id, "master") if vm_id not in before]
    world.advance(1)
    world.machines.report(new, Happening.FAILED)
    world.advance(1)
    assert service_state(world, service_id) == FlowState.FAILED_SCALING
    world.flow.recover(service_id)
    world.advance(12)
    world.report_ready([new])
    world.advance(2)
    assert service_state(world, service_id) == FlowState.COOLDOWN


def test_a_new_vm_ended_behind_oneflows_back_is_not_waited_for(world: World) -> None:
    service_id = world.bring_up(oneke())
    assert world.flow.scale(service_id, "worker", 4)
    first, second = world.role_vms(service_id, "worker")[2:]
    world.advance(10)
    world.machines.terminate(first)
    world.report_ready([second])
    world.advance(20)
    assert world.cloud.services[service_id].find_role("worker").cardinality == 3
    assert service_state(world, service_id) == FlowState.COOLDOWN


def test_a_service_that_is_changing_is_not_taken_down(world: World) -> None:
    service_id = world.flow.instantiate(oneke()).service_id
    with pytest.raises(StateError, match="is changing"):
        world.flow.undeploy(service_id)
    with pytest.raises(StateError, match="has not failed"):
        world.flow.recover(service_id)
    with pytest.raises(StateError, match="was not instantiated through OneFlow"):
        world.flow.undeploy(99)


def test_a_service_made_by_hand_is_not_scaled() -> None:
    world = World()
    service = world.cloud.add_service("OneKE", [("vnf", 1)], state=FlowState.RUNNING)
    world.cloud.add_vm(role="vnf", service_id=service.service_id)
    answer = world.ask(0, "PUT", "/service/role/vnf", '{"cardinality": 2}')
    assert answer.status == 400


# --- the wire -----------------------------------------------------------------------------------


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FlowControl]:
    """A running OneFlow whose machines the test plays."""
    cloud = Cloud()
    add_network(cloud, PRIVATE, "172.20.0.100")
    emulator = Emulator(cloud)
    operations = FlowOperations(cloud)
    server = ControlServer(tmp_path / "control", Operations(emulator), operations)
    ticker = Ticker(emulator.faults, operations.machines, operations.flow)
    server.start()
    ticker.start()
    client = FlowControl(tmp_path / "control")
    client.set_pace(schedule_s=0, react_s=0, cooldown_s=0, instantiate_s=0, notice_s=0)
    yield client
    ticker.stop()
    server.stop()


PLAIN = ServiceTemplate(
    "Plain", (RoleTemplate("a", 1, VmTemplate(("Private",), {"KEY": "text"}), min_vms=1),)
)


def wait_for_state(control: FlowControl, service_id: int, state: FlowState) -> None:
    for _ in range(100):
        if control.service(service_id)["state"] == state:
            return
        control.orders(after=1_000_000, timeout_s=0.05)
    pytest.fail(f"{control.service(service_id)}, expected {state.name}")


def test_a_driver_fetches_orders_and_reports(control: FlowControl) -> None:
    service_id = control.instantiate(PLAIN)
    [order] = control.orders(after=0, timeout_s=5)
    assert (order.verb, order.vm_id) == (Verb.CREATE, 0)
    machine = control.machine(order.vm_id)
    assert (machine["role"], machine["networks"]) == ("a", ["Private"])
    assert machine["context"]["KEY"] == "text"
    assert machine["context"]["ETH0_IP"] == "172.20.0.100"
    control.report(0, Happening.RUNNING)
    control.set_vm(0, ready=1.0)
    wait_for_state(control, service_id, FlowState.RUNNING)
    assert control.scale(service_id, "a", 2)
    assert not control.scale(service_id, "a", 3)
    assert [(o.verb, o.vm_id) for o in control.orders(after=1, timeout_s=5)] == [(Verb.CREATE, 1)]
    control.act(1, "terminate-hard")
    assert control.orders(after=2, timeout_s=5)[0].verb == Verb.DESTROY
    control.report(1, Happening.OFF)
    wait_for_state(control, service_id, FlowState.RUNNING)
    control.undeploy(service_id)
    assert control.orders(after=3, timeout_s=5)[0].verb == Verb.STOP
    control.report(0, Happening.OFF)
    assert control.vm(0)["state"] == VmState.DONE


def test_an_address_can_be_chosen(control: FlowControl) -> None:
    control.set_next_address("Private", "172.20.0.150")
    control.instantiate(PLAIN)
    assert control.machine(0)["context"]["ETH0_IP"] == "172.20.0.150"
    assert control.machine(0)["context"]["ETH0_MAC"] == mac_of("172.20.0.150")
    with pytest.raises(ControlError, match=r"has no address 10\.0\.0\.1"):
        control.set_next_address("Private", "10.0.0.1")


def test_oneflow_does_nothing_while_it_is_down(control: FlowControl) -> None:
    service_id = control.instantiate(PLAIN)
    control.orders(after=0, timeout_s=5)
    control.fault("oneflow_down")
    control.report(0, Happening.RUNNING)
    control.set_vm(0, ready=1.0)
    assert control.orders(after=1, timeout_s=0.3) == []
    assert control.service(service_id)["state"] == FlowState.DEPLOYING
    control.heal()
    wait_for_state(control, service_id, FlowState.RUNNING)


def test_wrong_calls_are_refused_with_a_reason(control: FlowControl) -> None:
    with pytest.raises(ControlError, match="unknown paces: lunch_s"):
        control.set_pace(lunch_s=1)
    with pytest.raises(ControlError, match="unknown action dance, expected one of terminate"):
        control.act(0, "dance")
    with pytest.raises(ControlError, match="there is no VM 7"):
        control.act(7, "terminate")
    with pytest.raises(ControlError, match="network Private exists already"):
        control.add_network(
            "Private", first_ip="10.0.0.1", first_mac="02:00:00:00:00:01", size=1, attributes={}
        )


def test_faults_know_what_is_in_force() -> None:
    emulator = Emulator(Cloud())
    emulator.set_fault(Fault(FaultKind.ONEFLOW_DOWN))
    assert emulator.faults.has(FaultKind.ONEFLOW_DOWN)
    assert not emulator.faults.has(FaultKind.ONED_DOWN)
