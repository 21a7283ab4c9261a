"""OneFlow: services whose roles come up in order, are scaled and undeployed.

It looks at the VMs again and again and does what follows, so that nothing is lost when it was down.
Source: the recordings 029, 252, 270 and 300 to 345.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from tests.lab.oneflow.machines import Machines, Pace
from tests.lab.oneflow.template import RoleTemplate, ServiceTemplate, VmTemplate
from tests.lab.onegate.messages import to_integer
from tests.lab.onegate.state import (
    SERVERADMIN,
    USER,
    FlowState,
    LcmState,
    Node,
    Owner,
    Role,
    Service,
    StateError,
    Vm,
    VmState,
)

# As a role's contents name what a VM of its parents has.
_OF_OTHER_VM = re.compile(r"\$\{(?P<role>\w+)\.TEMPLATE\.CONTEXT\.(?P<key>\w+)\}")
_IN_TROUBLE = (LcmState.UNKNOWN, LcmState.BOOT_FAILURE)
_WATCHED = (FlowState.RUNNING, FlowState.WARNING)
_FAILED = {
    FlowState.FAILED_DEPLOYING: FlowState.DEPLOYING,
    FlowState.FAILED_SCALING: FlowState.SCALING,
}
_STAYS = (*_WATCHED, *_FAILED)


@dataclass
class _Watch:
    """What OneFlow keeps in mind of a service beyond what it shows.

    Attributes:
        owner: Who owns the VMs that it makes.
        fresh: VMs that scaling up waits for.
        leaving: VMs that scaling down waits for.
        found_ready: VMs that a look found ready whose report was not noticed.
        is_busy: Whether a call for scaling is being carried out.
    """

    template: ServiceTemplate
    next_poll: float
    owner: Owner = USER
    fresh: set[int] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    found_ready: set[int] = field(default_factory=set)
    cooldown_until: float = 0.0
    is_busy: bool = False


@dataclass(frozen=True)
class _Scaling:
    """A scaling that was found to be allowed."""

    service: Service
    role: Role
    template: RoleTemplate
    cardinality: int


class OneFlow:
    """Runs the services that were instantiated through it; may be used from many threads."""

    def __init__(
        self, machines: Machines, pace: Pace, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Work on a cloud, and let its OneGate scale."""
        self._machines = machines
        self._cloud = machines.cloud
        self._pace = pace
        self._sleep = sleep
        self._watches: dict[int, _Watch] = {}
        self._is_down = False
        self._cloud.scaler = self.scale

    # --- what an operator asks for ---------------------------------------------------------------

    def instantiate(self, template: ServiceTemplate) -> Service:
        """Begin to deploy a service.

        Raises:
            StateError: A parent is no role of the service.
        """
        names = {role.name for role in template.roles}
        strangers = {parent for role in template.roles for parent in role.parents} - names
        if strangers:
            raise StateError(f"parents that are no role: {', '.join(sorted(strangers))}")
        with self._cloud.lock:
            pairs = [(role.name, role.cardinality) for role in template.roles]
            service = self._cloud.add_service(template.name, pairs)
            self._watch(service, template)
            self.step()
            return service

    def adopt(self, service_id: int, template: ServiceTemplate) -> None:
        """Take charge of a service that exists already, VMs included."""
        with self._cloud.lock:
            service = self._cloud.find_service(service_id)
            for role in service.roles:
                told = template.find_role(role.name)
                if told is not None:
                    for node in role.nodes:
                        self._machines.adopt(node.vm_id, told.vm)
            self._watch(service, template)

    def undeploy(self, service_id: int) -> None:
        """Begin to take a service down.

        Raises:
            StateError: It is changing, or not run by this.
        """
        with self._cloud.lock:
            service = self._find(service_id)
            if service.state not in _STAYS or self._watches[service_id].is_busy:
                raise StateError(f"service {service_id} is changing: {service.state}")
            service.state = FlowState.UNDEPLOYING
            self.step()

    def recover(self, service_id: int) -> None:
        """Make the VMs anew that failed, and go on.

        Raises:
            StateError: The service has not failed.
        """
        with self._cloud.lock:
            service = self._find(service_id)
            if service.state not in _FAILED:
                raise StateError(f"service {service_id} has not failed: {service.state}")
            service.state = _FAILED[FlowState(service.state)]
            for role in service.roles:
                if role.state in _FAILED:
                    role.state = service.state
                    for vm in self._vms(role):
                        if vm.lcm_state in _IN_TROUBLE:
                            self._machines.recreate(vm.vm_id)

    def scale(self, service_id: int, role_name: str, wish: object) -> bool:
        """Scale a role and tell whether OneGate says that it worked.

        The call lasts until every VM is made or told to stop; when that takes too long the answer
        is a failure although the work goes on.
        """
        with self._cloud.lock:
            scaling = self._judge(service_id, role_name, wish)
            if scaling is None:
                return False
            self._watches[service_id].is_busy = True
        work = threading.Thread(
            target=self._carry_out, args=(scaling,), name=f"scaling {role_name}", daemon=True
        )
        work.start()
        work.join(self._pace.answer_limit_s)
        return not work.is_alive()

    # --- OneFlow itself --------------------------------------------------------------------------

    def set_down(self, is_down: bool) -> None:
        """Stop OneFlow, or start it again: then it looks for all that it missed.

        What it deploys of a service that was deploying belongs to serveradmin then. Source:
        recordings 260 to 264.
        """
        with self._cloud.lock:
            if self._is_down and not is_down:
                for service_id, watch in self._watches.items():
                    watch.next_poll = self._cloud.clock()
                    if self._cloud.services[service_id].state == FlowState.DEPLOYING:
                        watch.owner = SERVERADMIN
            self._is_down = is_down

    def step(self) -> None:
        """Do what follows from the state of the VMs as they are now."""
        with self._cloud.lock:
            if self._is_down:
                return
            for service_id, watch in list(self._watches.items()):
                if not watch.is_busy:
                    self._step_service(self._cloud.services[service_id], watch)

    def _step_service(self, service: Service, watch: _Watch) -> None:
        self._poll(service, watch)
        if service.state == FlowState.UNDEPLOYING:
            self._step_undeploying(service, watch)
            return
        self._drop_done(service, watch)
        if service.state == FlowState.DEPLOYING:
            self._step_deploying(service, watch)
        elif service.state == FlowState.SCALING:
            self._step_scaling(service, watch)
        elif service.state == FlowState.COOLDOWN and self._cloud.clock() >= watch.cooldown_until:
            self._move(service, FlowState.COOLDOWN, FlowState.RUNNING)
        if service.state in _WATCHED:
            self._step_watching(service)

    def _step_deploying(self, service: Service, watch: _Watch) -> None:
        for role in service.roles:
            if role.state == FlowState.DEPLOYING:
                vms = self._vms(role)
                if any(vm.lcm_state == LcmState.BOOT_FAILURE for vm in vms):
                    role.state = service.state = FlowState.FAILED_DEPLOYING
                    return
                if all(self._counts_as_running(vm, watch) for vm in vms):
                    role.state = FlowState.RUNNING
        running = {role.name for role in service.roles if role.state == FlowState.RUNNING}
        for role in service.roles:
            told = watch.template.find_role(role.name)
            if role.state != FlowState.PENDING or told is None:
                continue
            if not watch.template.is_straight or set(told.parents) <= running:
                self._deploy(service, role, told, watch)
        if all(role.state == FlowState.RUNNING for role in service.roles):
            service.state = FlowState.RUNNING

    def _deploy(self, service: Service, role: Role, told: RoleTemplate, watch: _Watch) -> None:
        role.state = FlowState.DEPLOYING
        watch.next_poll = self._cloud.clock() + self._pace.poll_s
        try:
            for _ in range(role.cardinality):
                role.nodes.append(self._instantiate(service, role, told, watch.owner))
        except StateError:
            role.state = service.state = FlowState.FAILED_DEPLOYING

    def _step_scaling(self, service: Service, watch: _Watch) -> None:
        waited_for = watch.fresh | watch.leaving
        vms = [vm for role in service.roles for vm in self._vms(role) if vm.vm_id in waited_for]
        if any(vm.lcm_state == LcmState.BOOT_FAILURE for vm in vms):
            self._move(service, FlowState.SCALING, FlowState.FAILED_SCALING)
            return
        if any(vm.vm_id in watch.leaving and vm.state != VmState.DONE for vm in vms):
            return
        if not all(self._counts_as_running(vm, watch) for vm in vms if vm.vm_id in watch.fresh):
            return
        for role in service.roles:
            role.nodes = [node for node in role.nodes if node.vm_id not in watch.leaving]
        watch.fresh, watch.leaving = set(), set()
        watch.cooldown_until = self._cloud.clock() + self._pace.cooldown_s
        self._move(service, FlowState.SCALING, FlowState.COOLDOWN)

    def _step_watching(self, service: Service) -> None:
        for role in service.roles:
            vms = self._vms(role)
            if any(_is_in_trouble(vm) for vm in vms):
                role.state = FlowState.WARNING
            elif all(vm.lcm_state == LcmState.RUNNING for vm in vms):
                role.state = FlowState.RUNNING
        is_worried = any(role.state == FlowState.WARNING for role in service.roles)
        service.state = FlowState.WARNING if is_worried else FlowState.RUNNING

    def _step_undeploying(self, service: Service, watch: _Watch) -> None:
        """Take roles down that nobody depends on any more, so the children first."""
        for role in reversed(service.roles):
            children = {told.name for told in watch.template.roles if role.name in told.parents}
            waits = any(
                other.state != FlowState.DONE for other in service.roles if other.name in children
            )
            if waits and watch.template.is_straight:
                continue
            if role.state not in (FlowState.UNDEPLOYING, FlowState.DONE):
                role.state = FlowState.UNDEPLOYING
                for node in role.nodes:
                    self._machines.terminate(node.vm_id)
            if all(vm.state == VmState.DONE for vm in self._vms(role)):
                role.state, role.nodes = FlowState.DONE, []
        if all(role.state == FlowState.DONE for role in service.roles):
            del self._cloud.services[service.service_id], self._watches[service.service_id]

    def _drop_done(self, service: Service, watch: _Watch) -> None:
        """Forget VMs that were ended behind OneFlow's back."""
        for role in service.roles:
            gone = [
                vm.vm_id
                for vm in self._vms(role)
                if vm.state == VmState.DONE and vm.vm_id not in watch.leaving
            ]
            role.nodes = [node for node in role.nodes if node.vm_id not in gone]
            role.cardinality -= len(gone)
            watch.fresh -= set(gone)

    def _poll(self, service: Service, watch: _Watch) -> None:
        """Look now and then for VMs that are ready without a report that was understood."""
        if self._cloud.clock() < watch.next_poll:
            return
        watch.next_poll = self._cloud.clock() + self._pace.poll_s
        for role in service.roles:
            for vm in self._vms(role):
                if vm.ready_at is not None or vm.user_template.get("READY") == "YES":
                    watch.found_ready.add(vm.vm_id)

    def _counts_as_running(self, vm: Vm, watch: _Watch) -> bool:
        if vm.lcm_state != LcmState.RUNNING:
            return False
        if not watch.template.is_gated or vm.vm_id in watch.found_ready:
            return True
        ready_at = math.inf if vm.ready_at is None else vm.ready_at
        return self._cloud.clock() >= ready_at + self._pace.react_s

    # --- scaling ---------------------------------------------------------------------------------

    def _judge(self, service_id: int, role_name: str, wish: object) -> _Scaling | None:
        """Find out what a wish means; None if it is refused."""
        watch = self._watches.get(service_id)
        if watch is None or watch.is_busy or self._is_down:
            return None
        service, told = self._cloud.services[service_id], watch.template.find_role(role_name)
        cardinality = read_cardinality(wish)
        if service.state != FlowState.RUNNING or told is None or cardinality is None:
            return None
        role = service.find_role(role_name)
        if cardinality == role.cardinality or cardinality < (told.min_vms or 0):
            return None
        return _Scaling(service, role, told, cardinality)

    def _carry_out(self, scaling: _Scaling) -> None:
        service, role = scaling.service, scaling.role
        watch = self._watches[service.service_id]
        made: list[Node] = []
        state = FlowState.SCALING
        try:
            for _ in range(scaling.cardinality - len(role.nodes)):
                self._sleep(self._pace.instantiate_s)
                with self._cloud.lock:
                    made.append(self._instantiate(service, role, scaling.template, watch.owner))
        except StateError:
            state = FlowState.FAILED_SCALING
        leaving = [
            node.vm_id for node in role.nodes[: max(len(role.nodes) - scaling.cardinality, 0)]
        ]
        for vm_id in leaving:
            self._sleep(self._pace.instantiate_s)
            self._machines.terminate(vm_id)
        with self._cloud.lock:
            role.nodes += made
            role.cardinality = scaling.cardinality
            watch.fresh, watch.leaving = {node.vm_id for node in made}, set(leaving)
            watch.next_poll = self._cloud.clock() + self._pace.poll_s
            service.state = role.state = state
            watch.is_busy = False

    # --- inside ----------------------------------------------------------------------------------

    def _watch(self, service: Service, template: ServiceTemplate) -> None:
        self._watches[service.service_id] = _Watch(
            template, next_poll=self._cloud.clock() + self._pace.poll_s
        )

    def _find(self, service_id: int) -> Service:
        if service_id not in self._watches:
            raise StateError(f"service {service_id} was not instantiated through OneFlow")
        return self._cloud.find_service(service_id)

    def _instantiate(self, service: Service, role: Role, told: RoleTemplate, owner: Owner) -> Node:
        name = f"{role.name}_{role.created}_(service_{service.service_id})"
        attributes = {"ROLE_NAME": role.name, "SERVICE_ID": str(service.service_id)}
        template = self._put_in(told.vm, service)
        vm = self._machines.create(template, name=name, attributes=attributes, owner=owner)
        role.created += 1
        return Node(vm.vm_id, vm.name, vm.owner)

    def _put_in(self, template: VmTemplate, service: Service) -> VmTemplate:
        """Put in what is known of a service now: its id, and what its VMs were given."""

        def put_in(text: str) -> str:
            text = text.replace("$SERVICE_ID", str(service.service_id))
            return _OF_OTHER_VM.sub(of_first_vm, text)

        def of_first_vm(reference: re.Match[str]) -> str:
            vms = self._vms(service.find_role(reference["role"]))
            return vms[0].context.get(reference["key"], "") if vms else reference[0]

        return replace(
            template,
            context={key: put_in(text) for key, text in template.context.items()},
            attributes={key: put_in(text) for key, text in template.attributes.items()},
        )

    def _vms(self, role: Role) -> list[Vm]:
        return [self._cloud.find_vm(node.vm_id) for node in role.nodes]

    @staticmethod
    def _move(service: Service, before: FlowState, after: FlowState) -> None:
        """Move a service on, and those of its roles that are in the same state."""
        changed: Iterable[Service | Role] = [service, *service.roles]
        for part in changed:
            if part.state == before:
                part.state = after


def read_cardinality(wish: object) -> int | None:
    """Read a wished cardinality as OneFlow does; None where it makes no sense of it.

    Nothing and words are 0, fractions are cut off. Source: recordings 305 to 308.
    """
    if wish is None:
        return 0
    if isinstance(wish, str):
        return to_integer(wish)
    if isinstance(wish, int | float) and not isinstance(wish, bool):
        return int(wish)
    return None


def _is_in_trouble(vm: Vm) -> bool:
    return vm.state == VmState.POWEROFF or vm.lcm_state in _IN_TROUBLE
