"""OneGate in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from appliance.errors import OneGateError, OneGatePassing
from appliance.system.onegate import Lease, Service, ServiceRole, Vm, VmNic, encode_update
from tests.fakes.tape import Tape

_ACTIVE, _RUNNING = 3, 3


class FakeOneGate:
    """The VMs of one service, as one of them sees them.

    Attributes:
        own_id: The VM that asks; where several do, each sets it before.
        vms: By id.
        given_leases: The leases of the virtual router's networks.
        updates: What was stored, update by update.
        state: OneFlow's number for the state of the service; 1 is DEPLOYING.
        cardinalities: Role to how many VMs it should have; by default as many as it has.
        answered: What happens while an answer is on its way, such as time passing.
        asked: How often it was asked or told anything, whatever came of it.
    """

    def __init__(
        self,
        vm_id: int = 0,
        attributes: Mapping[str, str] | None = None,
        *,
        nics: Iterable[VmNic] = (),
        tape: Tape | None = None,
    ) -> None:
        """Begin with the VM that asks."""
        self.tape = tape or Tape()
        self.own_id = vm_id
        self.vms: dict[int, Vm] = {}
        self._role_of: dict[int, str] = {}
        self.given_leases: list[Lease] = []
        self.updates: list[dict[str, str]] = []
        self.asked = 0
        self.state = 1
        self.cardinalities: dict[str, int] = {}
        self.answered: Callable[[], None] = lambda: None
        self._failures: list[OneGateError | None] = []
        self._is_down: OneGateError | None = None
        self.add_vm(vm_id, attributes or {}, nics=nics)

    def add_vm(
        self, vm_id: int, attributes: Mapping[str, str], *, nics: Iterable[VmNic] = ()
    ) -> None:
        """Add a running VM; ROLE_NAME among its attributes puts it into that role."""
        name = f"vm-{vm_id}"
        self.vms[vm_id] = Vm(vm_id, name, _ACTIVE, _RUNNING, dict(attributes), tuple(nics))
        if "ROLE_NAME" in attributes:
            self._role_of[vm_id] = attributes["ROLE_NAME"]

    def publish(self, vm_id: int, **attributes: str) -> None:
        """Let another VM publish something."""
        vm = self.vms[vm_id]
        self.vms[vm_id] = replace(vm, attributes={**vm.attributes, **attributes})

    def forget(self, vm_id: int) -> None:
        """Let a VM be gone, from its role too."""
        self.vms.pop(vm_id, None)
        self._role_of.pop(vm_id, None)

    @property
    def own(self) -> Mapping[str, object]:
        """What is stored of the VM that asks."""
        return self.vms[self.own_id].attributes

    def fail(self, *failures: OneGateError | None) -> None:
        """Let the next calls fail, one each; None lets one pass."""
        self._failures.extend(failures)

    def go_down(self, error: OneGateError | None) -> None:
        """Let every call fail from now on; None ends that."""
        self._is_down = error

    def own_vm(self) -> Vm:
        """Return the VM that asks."""
        self._answer()
        return self.vms[self.own_id]

    def vm(self, vm_id: int) -> Vm:
        """Return a VM."""
        self._answer()
        if vm_id not in self.vms:
            raise OneGatePassing(f"OneGate GET /vms/{vm_id}: status 404: gone", status=404)
        return self.vms[vm_id]

    def service(self, roles: Iterable[str] = ()) -> Service:
        """Return the service with all its VMs."""
        self._answer()
        shown = tuple(self._role(name) for name in dict.fromkeys(self._role_of.values()))
        complete = all(role.cardinality <= len(role.vm_ids) == len(role.vms) for role in shown)
        return Service(1, "OneKE/1", self.state, shown, complete)

    def _role(self, name: str) -> ServiceRole:
        vm_ids = tuple(vm_id for vm_id, role in sorted(self._role_of.items()) if role == name)
        vms = tuple(self.vms[vm_id] for vm_id in vm_ids)
        return ServiceRole(name, self._cardinality(name), 1, vm_ids, vms)

    def _cardinality(self, name: str) -> int:
        return self.cardinalities.get(name, list(self._role_of.values()).count(name))

    def leases(self) -> tuple[Lease, ...]:
        """Return the leases of the virtual router's networks."""
        self._answer()
        return tuple(self.given_leases)

    def update(self, values: Mapping[str, str]) -> None:
        """Store attributes of the VM that asks."""
        encode_update(values)
        self._answer()
        self.tape.note(f"onegate.update {' '.join(sorted(values))}")
        own = self.vms[self.own_id]
        self.vms[self.own_id] = replace(own, attributes={**own.attributes, **values})
        self.updates.append(dict(values))

    def _answer(self) -> None:
        self.asked += 1
        self.answered()
        if self._is_down is not None:
            raise self._is_down
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
