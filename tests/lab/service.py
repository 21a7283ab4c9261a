"""A whole service in the lab: deployed by OneFlow, its VMs booted as nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.lab.basics import LabError, wait_until
from tests.lab.context import PRIVATE, PUBLIC, Generation, override, role_context
from tests.lab.driver import NodeDriver
from tests.lab.node import Node
from tests.lab.oneflow.control import FlowControl
from tests.lab.oneflow.template import RoleTemplate, ServiceTemplate, VmTemplate
from tests.lab.onegate.control import ControlError
from tests.lab.onegate.state import FlowState, LcmState, VmState

NETWORKS = {"vnf": (PUBLIC.name, PRIVATE.name)}
MIN_VMS = {"vnf": 1, "master": 1, "storage": 1}
RUNNING_S = 300
OFF_S = 90

_TOLD = ("ONEKE_STATE", "ONEKE_STEP", "ONEKE_ERROR")
_FAILED = (FlowState.FAILED_DEPLOYING, FlowState.FAILED_SCALING, FlowState.FAILED_UNDEPLOYING)


@dataclass(frozen=True)
class ServiceVm:
    """A VM of a service as the front-end sees it.

    Attributes:
        name: Name of its node.
        address: Its address in the private network.
        attributes: Its user template.
        node: The node that plays it; None while it is pending.
    """

    vm_id: int
    role: str
    name: str
    state: int
    lcm_state: int
    address: str
    attributes: Mapping[str, Any]
    node: Node | None

    @property
    def state_name(self) -> str:
        """What it is doing, in a word."""
        if self.state == VmState.ACTIVE:
            return LcmState(self.lcm_state).name
        return VmState(self.state).name


class Service:
    """A service that was instantiated.

    Attributes:
        service_id: Its id.
    """

    def __init__(self, service_id: int, control: FlowControl, driver: NodeDriver) -> None:
        self.service_id = service_id
        self._control = control
        self._driver = driver

    # --- looking --------------------------------------------------------------------------------

    @property
    def state(self) -> FlowState:
        """What it is doing; DONE when it is gone."""
        try:
            return FlowState(self._control.service(self.service_id)["state"])
        except ControlError:
            return FlowState.DONE

    def vms(self, role: str | None = None) -> list[ServiceVm]:
        """Its VMs as OneFlow lists them, leaving ones included; of one role, or of all."""
        try:
            roles = self._control.service(self.service_id)["roles"]
        except ControlError:
            return []
        return [
            self._describe(told["name"], int(vm_id))
            for told in roles
            if role in (None, told["name"])
            for vm_id in told["vm_ids"]
        ]

    def vm(self, vm_id: int) -> ServiceVm:
        """One VM, also one that has left."""
        attributes = self._control.user_template(vm_id)
        return self._describe(str(attributes.get("ROLE_NAME", "")), vm_id)

    def node(self, vm_id: int) -> Node:
        """The node of a VM.

        Raises:
            LabError: If it was never booted.
        """
        if vm_id not in self._driver.nodes:
            raise LabError(f"VM {vm_id} was not booted; {self._driver.troubles.get(vm_id, '')}")
        return self._driver.nodes[vm_id]

    def nodes(self, role: str | None = None) -> list[Node]:
        """The nodes of its VMs, in the order of the VMs."""
        return [vm.node for vm in self.vms(role) if vm.node is not None]

    def describe(self) -> str:
        """Its state and that of each VM, with what the agents published, in lines."""
        lines = [f"service {self.service_id} {self.state.name}"]
        for vm in self.vms():
            told = [
                str(vm.attributes.get(f"ONEKE_{key}", "")) for key in ("STATE", "STEP", "ERROR")
            ]
            lines.append(f"  {vm.name} (VM {vm.vm_id}) {vm.state_name} {' '.join(told)}".rstrip())
        lines += [f"  VM {vm_id}: {text}" for vm_id, text in self._driver.troubles.items()]
        return "\n".join(lines)

    # --- waiting --------------------------------------------------------------------------------

    def wait_running(self, timeout_s: float = RUNNING_S) -> None:
        """Wait until it is RUNNING; one that failed is not waited for.

        Raises:
            LabError: With the state of each VM.
        """
        self.wait_state(FlowState.RUNNING, timeout_s)

    def wait_state(self, wanted: FlowState, timeout_s: float = RUNNING_S) -> None:
        """Wait until it is in a state; see `wait_running`."""
        deadline = time.monotonic() + timeout_s
        while (state := self.state) != wanted:
            if state in _FAILED or time.monotonic() >= deadline:
                raise LabError(
                    f"waited {timeout_s:g} s for service {self.service_id} to be {wanted.name}; "
                    f"{self.describe()}"
                )
            time.sleep(0.1)

    def wait_until(self, predicate: Callable[[], bool | None], timeout_s: float, what: str) -> None:
        """Ask `predicate` until it is true; see `basics.wait_until`."""

        def asked() -> bool:
            if predicate():
                return True
            raise LabError(self.describe())

        wait_until(asked, timeout_s, what)

    # --- changing it ----------------------------------------------------------------------------

    def scale(self, role: str, cardinality: int) -> None:
        """Scale a role; the new VMs are not waited for.

        Raises:
            LabError: OneFlow refuses.
        """
        if not self._control.scale(self.service_id, role, cardinality):
            raise LabError(f"{role} was not scaled to {cardinality}: {self.describe()}")

    def delete(self, timeout_s: float = RUNNING_S) -> None:
        """Take it down, children first, and wait until it is gone."""
        self._control.undeploy(self.service_id)
        self.wait_state(FlowState.DONE, timeout_s)

    def recover(self) -> None:
        """Make the VMs anew that failed, and go on."""
        self._control.recover(self.service_id)

    # --- what happens to single VMs -------------------------------------------------------------

    def terminate(self, vm_id: int, *, hard: bool = False) -> None:
        """End a VM behind OneFlow's back, in good order or by force; it is not waited for."""
        self._control.act(vm_id, "terminate-hard" if hard else "terminate")

    def cut_power(self, vm_id: int) -> None:
        """Let a VM's machine fail; the front-end notices after a while and shows it as off."""
        self.node(vm_id).kill()

    def power_off(self, vm_id: int, *, hard: bool = False) -> None:
        """Switch a VM off through the front-end, and wait until it shows so."""
        self._control.act(vm_id, "poweroff-hard" if hard else "poweroff")
        self._wait_vm(vm_id, VmState.POWEROFF)

    def resume(self, vm_id: int) -> None:
        """Switch a VM on that is off, also after `cut_power`; its guest is not waited for."""
        self._wait_vm(vm_id, VmState.POWEROFF)
        self._control.act(vm_id, "resume")
        self._wait_vm(vm_id, VmState.ACTIVE, LcmState.RUNNING)

    def recreate(self, vm_id: int) -> None:
        """Make a VM anew: same id, address, token and user template, but fresh disks."""
        self._control.act(vm_id, "recreate")

    def replace(self, vm_id: int) -> None:
        """End a VM by force and scale back up: the new VM has another id and the same address.

        Returns when the new VM is made; it is not waited for.
        """
        leaver = self.vm(vm_id)
        cardinality = len(self.vms(leaver.role))
        self.terminate(vm_id, hard=True)
        self.wait_until(
            lambda: len(self.vms(leaver.role)) < cardinality and self.state == FlowState.RUNNING,
            OFF_S,
            f"VM {vm_id} to leave",
        )
        network = NETWORKS.get(leaver.role, (PRIVATE.name,))[-1]
        self._control.set_next_address(network, leaver.address)
        self.scale(leaver.role, cardinality)

    def reboot_all(self, *, hard: bool = False, timeout_s: float = OFF_S) -> None:
        """Reboot all nodes at once and return when the first process of each runs again.

        Args:
            hard: Whether their power is cut; else each shuts down in good order.
            timeout_s: How long each may take.
        """

        def reboot(node: Node) -> None:
            if hard:
                node.kill()
                node.start()
            else:
                node.reboot(timeout_s)

        run_at_once(reboot, self.nodes())

    # --- inside ---------------------------------------------------------------------------------

    def _describe(self, role: str, vm_id: int) -> ServiceVm:
        told = self._control.vm(vm_id)
        return ServiceVm(
            vm_id=vm_id,
            role=role,
            name=node_name(told["name"]),
            state=int(told["state"]),
            lcm_state=int(told["lcm_state"]),
            address=str(told["nics"][-1]["IP"]),
            attributes=dict(told["user_template"]),
            node=self._driver.nodes.get(vm_id),
        )

    def _wait_vm(self, vm_id: int, state: VmState, lcm_state: LcmState = LcmState.INIT) -> None:
        def reached() -> bool:
            vm = self.vm(vm_id)
            return (vm.state, vm.lcm_state) == (state, lcm_state)

        self.wait_until(reached, OFF_S, f"VM {vm_id} to be in state {state}/{lcm_state}")


def service_template(
    roles: Mapping[str, int],
    *,
    name: str = "OneKE",
    generation: Generation = "current",
    context: Mapping[str, object] | None = None,
    role_contexts: Mapping[str, Mapping[str, object]] | None = None,
) -> ServiceTemplate:
    """The service template of OneKE.

    Args:
        roles: Cardinality of each role, in order; every role but vnf has the parent vnf, if there
            is one.
        name: What the service is called.
        generation: Whose templates.
        context: Context keys to set for all roles, or to take away where the value is None.
        role_contexts: The same for single roles.
    """
    return ServiceTemplate(
        name,
        tuple(
            RoleTemplate(
                name=role,
                cardinality=cardinality,
                vm=_vm_template(
                    role, generation, [context or {}, (role_contexts or {}).get(role, {})]
                ),
                parents=("vnf",) if role != "vnf" and "vnf" in roles else (),
                min_vms=MIN_VMS.get(role),
            )
            for role, cardinality in roles.items()
        ),
    )


def node_name(vm_name: str) -> str:
    """Name of a VM's node: `master_0_(service_1)` is master0."""
    role, number, _ = vm_name.split("_", 2)
    return f"{role}{number}"


def run_at_once(work: Callable[[Node], None], nodes: Iterable[Node]) -> None:
    """Do something to several nodes side by side.

    Raises:
        LabError: If it failed for some, with what they said.
    """
    errors: list[str] = []

    def attempt(node: Node) -> None:
        try:
            work(node)
        except LabError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=attempt, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise LabError("\n".join(errors))


def _vm_template(
    role: str, generation: Generation, changes: Sequence[Mapping[str, object]]
) -> VmTemplate:
    context = role_context(role, generation)
    for change in changes:
        context = override(context, change)
    inputs = {key: value for key, value in context.items() if key.startswith("ONEAPP_")}
    return VmTemplate(NETWORKS.get(role, (PRIVATE.name,)), context, inputs)
