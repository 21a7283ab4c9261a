"""What the emulated cloud knows: virtual machines, services, virtual routers and networks."""

from __future__ import annotations

import base64
import copy
import enum
import ipaddress
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.lab.onegate import template
from tests.lab.onegate.template import UserTemplate, Value, Version


class FlowState(enum.IntEnum):
    """States of a service and of a role."""

    PENDING = 0
    DEPLOYING = 1
    RUNNING = 2
    UNDEPLOYING = 3
    WARNING = 4
    DONE = 5
    FAILED_UNDEPLOYING = 6
    FAILED_DEPLOYING = 7
    SCALING = 8
    FAILED_SCALING = 9
    COOLDOWN = 10


class VmState(enum.IntEnum):
    """States of a VM."""

    PENDING = 1
    ACTIVE = 3
    DONE = 6
    POWEROFF = 8


class LcmState(enum.IntEnum):
    """What an active VM is doing; the rest have INIT."""

    INIT = 0
    PROLOG = 1
    BOOT = 2
    RUNNING = 3
    SHUTDOWN = 12
    CLEANUP_RESUBMIT = 15
    UNKNOWN = 16
    SHUTDOWN_POWEROFF = 18
    BOOT_POWEROFF = 20
    BOOT_FAILURE = 36


class StateError(ValueError):
    """A state is asked for that cannot exist, such as a VM in a role its service does not have."""


@dataclass(frozen=True)
class Owner:
    """The user and group a VM belongs to."""

    uid: int = 2
    gid: int = 1
    user_name: str = "oneke"
    group_name: str = "users"

    def may_use_vms_of(self, other: Owner) -> bool:
        """Tell whether VMs of the other are readable: administrators read all."""
        return self.uid == other.uid or self.gid == 0


USER = Owner()
SERVERADMIN = Owner(uid=1, gid=0, user_name="serveradmin", group_name="oneadmin")


@dataclass
class Nic:
    """A network interface or an alias; every attribute is a string, as in oned.

    Attributes:
        attributes: IP, MAC, NETWORK and whatever else is set (IP6_GLOBAL, GATEWAY, PARENT, ...).
    """

    attributes: dict[str, str]


@dataclass
class Placement:
    """Where and when a VM was started; a pending VM has none.

    Attributes:
        started_at: When its disks began to be prepared.
        booted_at: When it began to boot.
    """

    host_id: int = 0
    host_name: str = "host0"
    started_at: int = 0
    booted_at: int = 0
    action_id: int = 0


@dataclass
class Hardware:
    """What only the extended answer shows of a VM's size and origin."""

    cpu: str = "2"
    memory: str = "4096"
    vcpu: str = "2"
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    template_id: int = 0


@dataclass
class Vm:
    """A virtual machine.

    Attributes:
        created_at: Seconds since the epoch; STIME.
        polled_at: When the hypervisor was last asked; 0 for never.
        vrouter_id: The virtual router the VM is a part of.
        ready_at: When the first update arrived that OneFlow takes for READY.
    """

    vm_id: int
    name: str
    token: str
    owner: Owner = USER
    state: int = VmState.ACTIVE
    lcm_state: int = LcmState.RUNNING
    user_template: UserTemplate = field(default_factory=dict)
    nics: list[Nic] = field(default_factory=list)
    aliases: list[Nic] = field(default_factory=list)
    context: dict[str, str] = field(default_factory=dict)
    created_at: int = 0
    polled_at: int = 0
    monitoring: dict[str, str] = field(default_factory=dict)
    placement: Placement | None = None
    hardware: Hardware = field(default_factory=Hardware)
    vrouter_id: int | None = None
    ready_at: float | None = None


@dataclass(frozen=True)
class Node:
    """A VM as its service remembers it: what was known when it was created, never refreshed."""

    vm_id: int
    name: str
    owner: Owner


@dataclass
class Role:
    """A role of a service; `created` counts the VMs it ever had, from which their names follow."""

    name: str
    cardinality: int
    state: int = FlowState.PENDING
    nodes: list[Node] = field(default_factory=list)
    created: int = 0


@dataclass
class Service:
    """A OneFlow service."""

    service_id: int
    name: str
    roles: list[Role]
    state: int = FlowState.DEPLOYING

    def find_role(self, name: str) -> Role:
        """Return the role of that name.

        Raises:
            StateError: The service has no such role.
        """
        for role in self.roles:
            if role.name == name:
                return role
        known = ", ".join(role.name for role in self.roles)
        raise StateError(f"service {self.service_id} has no role {name}, only {known}")

    def vm_ids(self) -> list[int]:
        """List the VMs of all roles."""
        return [node.vm_id for role in self.roles for node in role.nodes]


@dataclass
class VirtualRouter:
    """A virtual router; its interfaces have the attributes of oned, NETWORK_ID among them."""

    vrouter_id: int
    name: str
    vm_ids: list[int]
    nics: list[dict[str, str]]
    template_id: int = 0


@dataclass
class Lease:
    """A used address; `holder` is the kind, VM or VROUTER, and its id."""

    ip: str
    mac: str
    holder: tuple[str, int]


@dataclass
class AddressRange:
    """A run of addresses; leases in ascending order."""

    first_ip: str
    first_mac: str
    size: int
    leases: list[Lease] = field(default_factory=list)
    next_index: int = 0

    def allocate(self, holder: tuple[str, int]) -> Lease | None:
        """Lease the next free address after the one leased last; None if all are used.

        So an address that is given back is not given out again at once.
        """
        used = {lease.ip for lease in self.leases}
        for step in range(self.size):
            index = (self.next_index + step) % self.size
            ip = str(ipaddress.ip_address(self.first_ip) + index)
            if ip not in used:
                self.next_index = (index + 1) % self.size
                lease = Lease(ip, _add_to_mac(self.first_mac, index), holder)
                self.leases.append(lease)
                self.leases.sort(key=lambda found: ipaddress.ip_address(found.ip))
                return lease
        return None

    def last_ip(self) -> str:
        """Return the last address of the range."""
        return str(ipaddress.ip_address(self.first_ip) + self.size - 1)

    def last_mac(self) -> str:
        """Return the hardware address that goes with the last address."""
        return _add_to_mac(self.first_mac, self.size - 1)


@dataclass
class VirtualNetwork:
    """A virtual network; `attributes` is its template (NETWORK_ADDRESS, DNS, ...)."""

    network_id: int
    name: str
    ranges: list[AddressRange] = field(default_factory=list)
    vrouter_ids: list[int] = field(default_factory=list)
    parent_id: int | None = None
    attributes: dict[str, str] = field(default_factory=dict)

    def allocate(self, holder: tuple[str, int]) -> Lease:
        """Lease an address of the first range that has one.

        Raises:
            StateError: There is none left.
        """
        for found in self.ranges:
            lease = found.allocate(holder)
            if lease is not None:
                return lease
        raise StateError(f"network {self.name} has no free address")

    def release(self, holder: tuple[str, int]) -> None:
        """Take all leases of a holder back."""
        for found in self.ranges:
            found.leases = [lease for lease in found.leases if lease.holder != holder]


# (service id, role name, decoded JSON value of `cardinality`) -> whether OneFlow carries it out
Scaler = Callable[[int, str, object], bool]


@dataclass
class Cloud:
    """Everything there is. Hold `lock` while reading or changing more than one thing.

    Attributes:
        scaler: Carries out PUT /service/role/ROLE; without one every scaling is refused.
        clock: Tells the time, in seconds since the epoch.
    """

    vms: dict[int, Vm] = field(default_factory=dict)
    services: dict[int, Service] = field(default_factory=dict)
    vrouters: dict[int, VirtualRouter] = field(default_factory=dict)
    networks: dict[int, VirtualNetwork] = field(default_factory=dict)
    scaler: Scaler | None = None
    clock: Callable[[], float] = time.time
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def snapshot(self) -> Cloud:
        """Copy the whole state as it is now; the copy does not scale."""
        with self.lock:
            return Cloud(
                vms=copy.deepcopy(self.vms),
                services=copy.deepcopy(self.services),
                vrouters=copy.deepcopy(self.vrouters),
                networks=copy.deepcopy(self.networks),
            )

    def add_service(
        self,
        name: str,
        roles: Iterable[tuple[str, int]],
        *,
        service_id: int | None = None,
        state: int = FlowState.DEPLOYING,
    ) -> Service:
        """Create a service whose roles have a cardinality but no VM yet."""
        with self.lock:
            number = _next_id(self.services, first=1) if service_id is None else service_id
            if number in self.services:
                raise StateError(f"service {number} exists already")
            service = Service(number, name, [Role(role, count) for role, count in roles], state)
            self.services[number] = service
            return service

    def add_vm(
        self,
        *,
        role: str | None = None,
        service_id: int | None = None,
        vm_id: int | None = None,
        token: str | None = None,
        name: str | None = None,
        owner: Owner = USER,
        nics: Sequence[Nic] = (),
        aliases: Sequence[Nic] = (),
        user_template: Mapping[str, Value] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Vm:
        """Create a running VM, in a role of a service or outside any.

        Raises:
            StateError: The id is taken, or there is no such service or role.
        """
        with self.lock:
            number = self.next_vm_id() if vm_id is None else vm_id
            if number in self.vms:
                raise StateError(f"VM {number} exists already")
            if (role is None) != (service_id is None):
                raise StateError("a role and a service id are given together or not at all")
            now = int(self.clock())
            vm = Vm(
                vm_id=number,
                name=name or f"vm-{number}",
                token=token or base64.b64encode(secrets.token_bytes(16)).decode(),
                owner=owner,
                user_template=dict(user_template or {}),
                nics=self._complete_nics(nics, "_NIC"),
                aliases=self._complete_nics(aliases, "_NIC_ALIAS"),
                context=dict(context or {}),
                created_at=now,
                placement=Placement(started_at=now, booted_at=now),
            )
            if role is not None and service_id is not None:
                self._join_role(vm, self.find_service(service_id), role, has_name=name is not None)
            self.vms[number] = vm
            return vm

    def next_vm_id(self) -> int:
        """Return the id that the next VM gets."""
        return _next_id(self.vms, first=0)

    def find_service(self, service_id: int) -> Service:
        """Return a service.

        Raises:
            StateError: There is none of that id.
        """
        if service_id not in self.services:
            raise StateError(f"there is no service {service_id}")
        return self.services[service_id]

    def find_vm(self, vm_id: int) -> Vm:
        """Return a VM.

        Raises:
            StateError: There is none of that id.
        """
        if vm_id not in self.vms:
            raise StateError(f"there is no VM {vm_id}")
        return self.vms[vm_id]

    def find_network(self, name: str) -> VirtualNetwork | None:
        """Return the network of a name, if there is one."""
        return next((found for found in self.networks.values() if found.name == name), None)

    def add_network(
        self,
        name: str,
        ranges: Iterable[AddressRange] = (),
        attributes: Mapping[str, str] | None = None,
    ) -> VirtualNetwork:
        """Create a virtual network.

        Raises:
            StateError: There is one of that name.
        """
        with self.lock:
            if self.find_network(name) is not None:
                raise StateError(f"network {name} exists already")
            number = _next_id(self.networks, first=0)
            made = VirtualNetwork(number, name, list(ranges), attributes=dict(attributes or {}))
            self.networks[number] = made
            return made

    def remove_vm(self, vm_id: int) -> None:
        """Let a VM be DONE as if terminated outside OneFlow: its role drops it and shrinks.

        Its token goes on opening /vm. Source: recordings 327, 328, 331.
        """
        with self.lock:
            vm = self.find_vm(vm_id)
            vm.state, vm.lcm_state = VmState.DONE, LcmState.INIT
            for service in self.services.values():
                for role in service.roles:
                    kept = [node for node in role.nodes if node.vm_id != vm_id]
                    role.cardinality -= len(role.nodes) - len(kept)
                    role.nodes = kept

    def update_vm(self, vm_id: int, quoted: str, version: Version) -> None:
        """Merge an update the server has quoted into a VM's user template.

        Raises:
            TemplateRefusedError: oned refuses it; nothing is stored.
        """
        attributes = template.parse_update(quoted, version)
        with self.lock:
            vm = self.find_vm(vm_id)
            vm.user_template = template.merge(vm.user_template, attributes)
            self._note_ready(vm, quoted)

    def replace_user_template(self, vm_id: int, user_template: UserTemplate) -> None:
        """Write a whole user template back, as the server does after an erase."""
        with self.lock:
            vm = self.find_vm(vm_id)
            vm.user_template = user_template
            self._note_ready(vm, template.render_template(user_template))

    def _note_ready(self, vm: Vm, update_text: str) -> None:
        if vm.ready_at is None and template.reports_ready(update_text):
            vm.ready_at = self.clock()

    def _join_role(self, vm: Vm, service: Service, role_name: str, *, has_name: bool) -> None:
        role = service.find_role(role_name)
        if not has_name:
            vm.name = f"{role.name}_{role.created}_(service_{service.service_id})"
        vm.user_template.setdefault("ROLE_NAME", role.name)
        vm.user_template.setdefault("SERVICE_ID", str(service.service_id))
        role.created += 1
        role.nodes.append(Node(vm.vm_id, vm.name, vm.owner))
        role.cardinality = max(role.cardinality, len(role.nodes))
        role.state = role.state or FlowState.DEPLOYING

    def _complete_nics(self, nics: Sequence[Nic], prefix: str) -> list[Nic]:
        complete: list[Nic] = []
        for index, nic in enumerate(nics):
            attributes = {"NAME": f"{prefix}{index}", "NIC_ID": str(index), **nic.attributes}
            if "NETWORK" in attributes and "NETWORK_ID" not in attributes:
                network = self.find_network(attributes["NETWORK"]) or self.add_network(
                    attributes["NETWORK"]
                )
                attributes["NETWORK_ID"] = str(network.network_id)
            complete.append(Nic(attributes))
        return complete


def _next_id(taken: Mapping[int, object], *, first: int) -> int:
    return max(taken, default=first - 1) + 1


def _add_to_mac(mac: str, number: int) -> str:
    return (int(mac.replace(":", ""), 16) + number).to_bytes(6, "big").hex(":")
