"""OneGate: typed answers, and updates that are stored as they were sent or refused before sending.

Facts about OneGate come from recordings of OpenNebula 6.4 and 7.4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.errors import OneGateMalformed, OneGateRefused

# oned stores these unharmed between the quotes OneGate puts around a value; see docs/decisions.
_HARMFUL = re.compile(r'[,"\[\]\\\x00-\x08\x0a-\x1f\x7f]|[^\x00-\uffff]')
_KEY = re.compile(r"[A-Z_][A-Z0-9_]*\Z")
_RESTRICTED = frozenset({"ROLE_NAME", "SERVICE_ID"})
_READABLE = str.maketrans({",": ";", '"': "'", "[": "(", "]": ")", "\\": "/", "=": ":"})
_READABLE_LENGTH = 200


@dataclass(frozen=True)
class VmNic:
    """A NIC as OpenNebula knows it.

    Texts are empty where the answer holds none.
    """

    ip: str
    mac: str
    network: str


@dataclass(frozen=True)
class Vm:
    """A virtual machine as OneGate shows it.

    Attributes:
        state: OpenNebula's STATE (3 is active); None where the answer does not tell.
        lcm_state: OpenNebula's LCM_STATE (3 running, 12 being shut down); None likewise.
        attributes: The user template, names to texts (or lists and mappings where oned holds
            those). Any sibling may have written them; they are input to check.
    """

    vm_id: int
    name: str
    state: int | None
    lcm_state: int | None
    attributes: Mapping[str, object] = field(repr=False)
    nics: tuple[VmNic, ...]

    def text(self, name: str) -> str | None:
        """Return an attribute that is one non-empty text, else None."""
        value = self.attributes.get(name)
        return value if isinstance(value, str) and value else None


@dataclass(frozen=True)
class ServiceRole:
    """A role of the service.

    Attributes:
        vm_ids: Its VMs in OneFlow's order, the oldest first.
        vms: Those of them that could be read.
        is_clear: Whether it says how many VMs there should be, and each entry of its list names
            one. What is left out of `vm_ids` can not be known where it does not.
    """

    name: str
    cardinality: int
    state: int | None
    vm_ids: tuple[int, ...]
    vms: tuple[Vm, ...]
    is_clear: bool = True


@dataclass(frozen=True)
class Service:
    """The OneFlow service this VM belongs to.

    Attributes:
        complete: Whether every VM of every role asked for could be read, and there are as many as
            there should be. Only a complete answer may be taken for the whole truth.
    """

    service_id: int
    name: str
    state: int | None
    roles: tuple[ServiceRole, ...]
    complete: bool

    def role(self, name: str) -> ServiceRole | None:
        """Return a role by name."""
        return next((role for role in self.roles if role.name == name), None)


@dataclass(frozen=True)
class Lease:
    """An address of a virtual router's network that is given to somebody.

    Attributes:
        attributes: What the lease says; input to check, like a VM's user template.
    """

    network_id: int
    ip: str
    attributes: Mapping[str, object] = field(repr=False)


class OneGate(Protocol):
    """Asks and tells OneGate."""

    def own_vm(self) -> Vm:
        """Return this VM.

        Raises:
            OneGateError: One of its kinds; `retryable` tells whether trying again may help.
        """

    def vm(self, vm_id: int) -> Vm:
        """Return a VM of the same service."""

    def service(self, roles: Iterable[str] = ()) -> Service:
        """Return the service with its VMs' attributes.

        One extended request shows them all. If one VM that can not be read spoils it, the VMs of
        `roles` are asked for one by one and the answer counts as incomplete.
        """

    def leases(self) -> tuple[Lease, ...]:
        """Return the leases of the networks of the virtual router this VM belongs to.

        Networks that leases of those are reserved from are followed.
        """

    def update(self, values: Mapping[str, str]) -> None:
        """Store attributes of this VM, all of them or none.

        Raises:
            OneGateRefused: A key or value would not be stored as it is; nothing was sent.
        """


def encode_update(values: Mapping[str, str]) -> str:
    """Write attributes as OneGate wants them, one `KEY=value` a line.

    What would be changed or lost on the way is refused.

    Raises:
        OneGateRefused: A key or value would not be stored as it is, or the text would make OneFlow
            take this VM for ready although READY is not among the keys.
    """
    lines = []
    for key, value in values.items():
        if not _KEY.match(key) or key in _RESTRICTED:
            raise OneGateRefused(f"{key}: not a key that OneGate stores for a VM")
        if key.endswith("READY") and key != "READY":
            raise OneGateRefused(
                f"{key}: OneFlow would take a key that ends in READY for the VM's READY"
            )
        harmful = _HARMFUL.search(value)
        if harmful or value != value.strip():
            found = repr(harmful[0]) if harmful else "a blank at its end"
            raise OneGateRefused(
                f"{key}: OneGate does not store {found} unharmed; encode the value"
            )
        lines.append(f"{key}={value}" if value else f'{key}=""')
    text = "\n".join(lines)
    others = "\n".join(line for line in lines if not line.startswith("READY="))
    if "READY=YES" in re.sub(r'["\s]', "", others).upper():
        raise OneGateRefused("a value holds READY=YES, which OneFlow would take for the VM's READY")
    return text


def readable(text: str) -> str:
    """Change a text for people so that OneGate stores it, and it can not be taken for READY=YES."""
    line = " ".join(text.translate(_READABLE).split())
    return "".join(c for c in line if c.isprintable() and c <= "\uffff")[:_READABLE_LENGTH].strip()


def parse_vm(document: Mapping[str, Any]) -> Vm:
    """Read the answer to GET /vm or /vms/ID, or a `vm_info` of the service.

    Raises:
        OneGateMalformed: It has no VM with an id.
    """
    vm = document.get("VM")
    if not isinstance(vm, dict):
        raise OneGateMalformed("the answer holds no VM")
    vm_id = _integer(vm.get("ID"))
    if vm_id is None:
        raise OneGateMalformed("the answer holds a VM without an id")
    attributes = vm.get("USER_TEMPLATE")
    template = vm.get("TEMPLATE")
    nics = template.get("NIC") if isinstance(template, dict) else None
    return Vm(
        vm_id=vm_id,
        name=str(vm.get("NAME", "")),
        state=_integer(vm.get("STATE")),
        lcm_state=_integer(vm.get("LCM_STATE")),
        attributes=attributes if isinstance(attributes, dict) else {},
        nics=tuple(
            VmNic(
                str(nic.get("IP", "")), str(nic.get("MAC", "")).lower(), str(nic.get("NETWORK", ""))
            )
            for nic in _listed(nics)
        ),
    )


def parse_service(document: Mapping[str, Any]) -> Service:
    """Read the answer to GET /service, extended or not.

    Raises:
        OneGateMalformed: It has no service with an id.
    """
    service = document.get("SERVICE")
    if not isinstance(service, dict):
        raise OneGateMalformed("the answer holds no service")
    service_id = _integer(service.get("id"))
    if service_id is None:
        raise OneGateMalformed("the answer holds a service without an id")
    roles = tuple(_parse_role(role) for role in _listed(service.get("roles")))
    complete = all(role.cardinality <= len(role.vm_ids) == len(role.vms) for role in roles)
    return Service(
        service_id, str(service.get("name", "")), _integer(service.get("state")), roles, complete
    )


def _parse_role(role: Mapping[str, Any]) -> ServiceRole:
    vm_ids, vms = [], []
    is_clear = _integer(role.get("cardinality")) is not None and _holds_objects(role.get("nodes"))
    for node in _listed(role.get("nodes")):
        info = node.get("vm_info")
        info = info if isinstance(info, dict) else {}
        found = info.get("VM")
        shown_id = _integer(found.get("ID")) if isinstance(found, dict) else None
        deployed_id = _integer(node.get("deploy_id"))
        vm_id = deployed_id if shown_id is None else shown_id
        is_clear = is_clear and vm_id is not None and deployed_id in (None, vm_id)
        if vm_id is None:
            continue
        vm_ids.append(vm_id)
        # Only the extended answer shows a user template; the plain one is frozen at creation.
        if (
            isinstance(found, dict)
            and "USER_TEMPLATE" in found
            and _integer(found.get("ID")) is not None
        ):
            vms.append(parse_vm(info))
    return ServiceRole(
        str(role.get("name", "")),
        _integer(role.get("cardinality")) or 0,
        _integer(role.get("state")),
        tuple(vm_ids),
        tuple(vms),
        is_clear,
    )


def parse_virtual_router(document: Mapping[str, Any]) -> tuple[int, ...]:
    """Read the answer to GET /vrouter and return the ids of its networks.

    Raises:
        OneGateMalformed: It has no virtual router.
    """
    router = document.get("VROUTER")
    if not isinstance(router, dict):
        raise OneGateMalformed("the answer holds no virtual router")
    template = router.get("TEMPLATE")
    nics = _listed(template.get("NIC") if isinstance(template, dict) else None)
    ids = [_integer(nic.get("NETWORK_ID")) for nic in nics]
    return tuple(dict.fromkeys(one for one in ids if one is not None))


def parse_network(document: Mapping[str, Any]) -> tuple[Lease, ...]:
    """Read the answer to GET /vnet/ID and return its leases.

    Raises:
        OneGateMalformed: It has no network with an id.
    """
    network = document.get("VNET")
    network_id = _integer(network.get("ID")) if isinstance(network, dict) else None
    if not isinstance(network, dict) or network_id is None:
        raise OneGateMalformed("the answer holds no network")
    pool = network.get("AR_POOL")
    leases: list[Mapping[str, Any]] = []
    for ranges in _listed(pool.get("AR") if isinstance(pool, dict) else None):
        given = ranges.get("LEASES")
        leases += _listed(given.get("LEASE") if isinstance(given, dict) else None)
    return tuple(Lease(network_id, str(lease.get("IP", "")), lease) for lease in leases)


def reserved_networks(leases: Iterable[Lease]) -> tuple[int, ...]:
    """Return the ids of the networks that leases were reserved for."""
    ids = [_integer(lease.attributes.get("VNET")) for lease in leases]
    return tuple(dict.fromkeys(one for one in ids if one is not None))


def _listed(value: object) -> tuple[Mapping[str, Any], ...]:
    """Take an object for a list of one, as some answers write lists, and nothing for none."""
    if isinstance(value, dict):
        return (value,) if value else ()
    if isinstance(value, list):
        return tuple(one for one in value if isinstance(one, dict))
    return ()


def _holds_objects(value: object) -> bool:
    """Say whether `_listed` leaves nothing out."""
    items = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(one, dict) for one in items)


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    return None
