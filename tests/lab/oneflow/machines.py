"""oned: VMs from pending to done, their addresses, contexts and states.

States follow the recordings 311 to 333: 1/0 pending, 3/2 while a VM boots, 3/3 running, 3/12 while
it shuts down, 3/18 while it is powered off, 8/0 off, 3/20 while it is resumed, 6/0 at the end.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from tests.lab.context import Network, nic_context
from tests.lab.oneflow.driver import Driver, Happening, Verb
from tests.lab.oneflow.template import VmTemplate
from tests.lab.onegate.state import (
    Cloud,
    LcmState,
    Nic,
    Owner,
    Placement,
    StateError,
    VirtualNetwork,
    Vm,
    VmState,
)


@dataclass
class Pace:
    """How long the front-end takes; may be changed at any time.

    Attributes:
        schedule_s: From pending to the begin of booting.
        notice_s: Until the monitoring tells that a machine went off by itself.
        react_s: OneFlow, from the report that a VM is ready to what follows from it.
        poll_s: OneFlow, from look to look at VMs whose reports it missed.
        cooldown_s: OneFlow, after scaling.
        instantiate_s: OneFlow, for each VM a scaling makes or stops.
        answer_limit_s: How long OneGate waits for a scaling before it answers that it failed.
    """

    schedule_s: float = 0.5
    notice_s: float = 5.0
    react_s: float = 1.0
    poll_s: float = 30.0
    cooldown_s: float = 20.0
    instantiate_s: float = 0.13
    answer_limit_s: float = 30.0


@dataclass(order=True)
class _Timer:
    due: float
    number: int
    action: Callable[[], None] = field(compare=False)


class Machines:
    """Makes and ends the VMs of a cloud and keeps their states; may be used from many threads."""

    def __init__(self, cloud: Cloud, driver: Driver, pace: Pace) -> None:
        """Have machines run by a driver."""
        self.cloud = cloud
        self._driver = driver
        self._pace = pace
        self._timers: list[_Timer] = []
        self._numbers = count()
        self._templates: dict[int, VmTemplate] = {}
        self._off: set[int] = set()

    # --- what an operator or OneFlow asks for ----------------------------------------------------

    def create(
        self, template: VmTemplate, *, name: str, attributes: Mapping[str, str], owner: Owner
    ) -> Vm:
        """Instantiate a VM; it is pending when this returns.

        Raises:
            StateError: A network does not exist or has no address left.
        """
        with self.cloud.lock:
            number = self.cloud.next_vm_id()
            nics = []
            for network_name in template.networks:
                network = self._find_network(network_name)
                lease = network.allocate(("VM", number))
                nics.append(Nic({"IP": lease.ip, "MAC": lease.mac, "NETWORK": network.name}))
            vm = self.cloud.add_vm(
                vm_id=number,
                name=name,
                owner=owner,
                nics=nics,
                user_template={**template.attributes, **attributes},
            )
            vm.context = self._build_context(vm, template)
            self._templates[number] = template
            self._wait_for_host(vm)
            return vm

    def adopt(self, vm_id: int, template: VmTemplate) -> None:
        """Take charge of a VM that runs already."""
        with self.cloud.lock:
            self.cloud.find_vm(vm_id)
            self._templates[vm_id] = template

    def terminate(self, vm_id: int, *, hard: bool = False) -> None:
        """End a VM: in good order, or by force. One that is not running is gone at once."""
        with self.cloud.lock:
            vm = self.cloud.find_vm(vm_id)
            if vm.state == VmState.DONE or vm.lcm_state == LcmState.SHUTDOWN:
                return
            if vm.state == VmState.ACTIVE and vm.lcm_state != LcmState.BOOT_FAILURE:
                vm.lcm_state = LcmState.SHUTDOWN
                self._driver.begin(Verb.DESTROY if hard else Verb.STOP, vm_id)
                return
            self._finish(vm)
            self._driver.begin(Verb.DESTROY, vm_id)

    def power_off(self, vm_id: int, *, hard: bool = False) -> None:
        """Switch a running VM off and keep it.

        Raises:
            StateError: It is not running.
        """
        with self.cloud.lock:
            vm = self._expect(vm_id, VmState.ACTIVE, LcmState.RUNNING)
            vm.lcm_state = LcmState.SHUTDOWN_POWEROFF
            self._driver.begin(Verb.CUT if hard else Verb.STOP, vm_id)

    def resume(self, vm_id: int) -> None:
        """Switch a VM on again.

        Raises:
            StateError: It is not off.
        """
        with self.cloud.lock:
            vm = self._expect(vm_id, VmState.POWEROFF, LcmState.INIT)
            vm.state, vm.lcm_state = VmState.ACTIVE, LcmState.BOOT_POWEROFF
            self._driver.begin(Verb.START, vm_id)

    def reboot(self, vm_id: int) -> None:
        """Ask a VM's guest to reboot, which its states do not show.

        Raises:
            StateError: It is not running.
        """
        with self.cloud.lock:
            self._expect(vm_id, VmState.ACTIVE, LcmState.RUNNING)
            self._driver.begin(Verb.REBOOT, vm_id)

    def recreate(self, vm_id: int) -> None:
        """Make a VM anew: same id, addresses, token and user template, but a fresh disk.

        Raises:
            StateError: It is gone.
        """
        with self.cloud.lock:
            vm = self.cloud.find_vm(vm_id)
            if vm.state == VmState.DONE:
                raise StateError(f"VM {vm_id} is gone")
            vm.state, vm.lcm_state = VmState.ACTIVE, LcmState.CLEANUP_RESUBMIT
            self._driver.begin(Verb.DESTROY, vm_id)

    # --- what the driver reports -----------------------------------------------------------------

    def report(self, vm_id: int, happening: Happening) -> None:
        """Take note of what happened to a machine."""
        with self.cloud.lock:
            vm = self.cloud.find_vm(vm_id)
            if happening is Happening.OFF:
                self._off.add(vm_id)
                self._note_off(vm)
                return
            self._off.discard(vm_id)
            if happening is Happening.FAILED:
                self._note_failed(vm)
            else:
                self._note_running(vm)

    def step(self) -> None:
        """Do what is due by now."""
        with self.cloud.lock:
            now = self.cloud.clock()
            while self._timers and self._timers[0].due <= now:
                heapq.heappop(self._timers).action()

    # --- inside ----------------------------------------------------------------------------------

    def _note_off(self, vm: Vm) -> None:
        if vm.lcm_state == LcmState.SHUTDOWN:
            self._finish(vm)
        elif vm.lcm_state == LcmState.SHUTDOWN_POWEROFF:
            vm.state, vm.lcm_state = VmState.POWEROFF, LcmState.INIT
        elif vm.lcm_state == LcmState.CLEANUP_RESUBMIT:
            self._wait_for_host(vm)
        elif vm.state == VmState.ACTIVE:
            self._later(self._pace.notice_s, lambda: self._notice_off(vm))

    def _notice_off(self, vm: Vm) -> None:
        """The monitoring finds a machine off that nobody switched off."""
        running = (LcmState.RUNNING, LcmState.UNKNOWN)
        if vm.vm_id in self._off and vm.state == VmState.ACTIVE and vm.lcm_state in running:
            vm.state, vm.lcm_state = VmState.POWEROFF, LcmState.INIT

    def _note_running(self, vm: Vm) -> None:
        booting = (LcmState.BOOT, LcmState.BOOT_POWEROFF, LcmState.UNKNOWN)
        if vm.state == VmState.POWEROFF or vm.lcm_state in booting:
            vm.state, vm.lcm_state = VmState.ACTIVE, LcmState.RUNNING

    def _note_failed(self, vm: Vm) -> None:
        if vm.lcm_state == LcmState.BOOT:
            vm.lcm_state = LcmState.BOOT_FAILURE
        elif vm.lcm_state == LcmState.BOOT_POWEROFF:
            vm.state, vm.lcm_state = VmState.POWEROFF, LcmState.INIT

    def _wait_for_host(self, vm: Vm) -> None:
        vm.state, vm.lcm_state, vm.placement = VmState.PENDING, LcmState.INIT, None
        self._later(self._pace.schedule_s, lambda: self._boot(vm))

    def _boot(self, vm: Vm) -> None:
        if vm.state != VmState.PENDING:
            return
        now = int(self.cloud.clock())
        vm.placement = Placement(started_at=now, booted_at=now)
        vm.state, vm.lcm_state = VmState.ACTIVE, LcmState.BOOT
        self._driver.begin(Verb.CREATE, vm.vm_id)

    def _finish(self, vm: Vm) -> None:
        vm.state, vm.lcm_state = VmState.DONE, LcmState.INIT
        for network in self.cloud.networks.values():
            network.release(("VM", vm.vm_id))

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        due = self.cloud.clock() + delay_s
        heapq.heappush(self._timers, _Timer(due, next(self._numbers), action))

    def _expect(self, vm_id: int, state: VmState, lcm_state: LcmState) -> Vm:
        vm = self.cloud.find_vm(vm_id)
        if (vm.state, vm.lcm_state) != (state, lcm_state):
            raise StateError(
                f"VM {vm_id} is in state {vm.state}/{vm.lcm_state}, expected {state}/{lcm_state}"
            )
        return vm

    def _find_network(self, name: str) -> VirtualNetwork:
        network = self.cloud.find_network(name)
        if network is None:
            raise StateError(f"there is no network {name}")
        return network

    def _build_context(self, vm: Vm, template: VmTemplate) -> dict[str, str]:
        values = {**template.context, "VMID": str(vm.vm_id)}
        for index, nic in enumerate(vm.nics):
            told = self._find_network(nic.attributes["NETWORK"])
            values |= nic_context(index, describe_network(told), nic.attributes["IP"])
        return values


def describe_network(network: VirtualNetwork) -> Network:
    """What a VM's context tells of a network."""
    told = network.attributes
    return Network(
        name=network.name,
        subnet=ipaddress.IPv4Network(f"{told['NETWORK_ADDRESS']}/{told['NETWORK_MASK']}"),
        gateway=told.get("GATEWAY", ""),
        dns=told.get("DNS", ""),
    )
