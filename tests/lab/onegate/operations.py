"""What can be done to an emulator from outside: plain values in and out, they travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from tests.lab.onegate.faults import Fault, FaultError, FaultKind
from tests.lab.onegate.server import Emulator
from tests.lab.onegate.state import (
    SERVERADMIN,
    USER,
    FlowState,
    Nic,
    Placement,
    Vm,
)
from tests.lab.onegate.template import UserTemplate, Value

_FAULT_OPTIONS = frozenset(option.name for option in fields(Fault)) - {"kind", "snapshot"}


class Operations:
    """What `tests.lab.onegate.control.Control` offers.

    Attributes:
        calls: Names of the operations.
    """

    calls = frozenset(
        {"add_service", "set_service", "service", "services", "add_vm", "vm", "set_vm", "remove_vm"}
        | {"user_template", "set_user_template", "requests", "clear_requests"}
        | {"fault", "heal", "info"}
    )

    def __init__(self, emulator: Emulator) -> None:
        """Operate an emulator."""
        self._emulator = emulator
        self._cloud = emulator.cloud

    def load(self, description: Mapping[str, Any]) -> None:
        """Add the services and VMs of a state file: {"services": [{...}], "vms": [{...}]}.

        Each object holds the arguments of `add_service` or `add_vm`.
        """
        for service in description.get("services", []):
            self.add_service(**service)
        for vm in description.get("vms", []):
            self.add_vm(**vm)

    def info(self) -> dict[str, str]:
        """Tell version and address."""
        return {"version": self._emulator.version, "base_url": self._emulator.base_url}

    def add_service(
        self,
        name: str,
        roles: Sequence[tuple[str, int]],
        service_id: int | None = None,
        state: int = FlowState.DEPLOYING,
    ) -> int:
        """Create a service."""
        pairs = [(role, cardinality) for role, cardinality in roles]
        return self._cloud.add_service(name, pairs, service_id=service_id, state=state).service_id

    def set_service(
        self,
        service_id: int,
        state: int | None = None,
        roles: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Change states and cardinalities."""
        with self._cloud.lock:
            service = self._cloud.find_service(int(service_id))
            service.state = service.state if state is None else state
            for name, changes in (roles or {}).items():
                role = service.find_role(name)
                role.state = changes.get("state", role.state)
                role.cardinality = changes.get("cardinality", role.cardinality)

    def services(self) -> list[int]:
        """List the services there are."""
        return list(self._cloud.services)

    def service(self, service_id: int) -> dict[str, Any]:
        """Describe a service."""
        with self._cloud.lock:
            service = self._cloud.find_service(int(service_id))
            roles = [
                {
                    "name": role.name,
                    "state": role.state,
                    "cardinality": role.cardinality,
                    "vm_ids": [str(node.vm_id) for node in role.nodes],
                }
                for role in service.roles
            ]
            return {"id": service.service_id, "state": service.state, "roles": roles}

    def add_vm(
        self,
        role: str | None = None,
        service_id: int | None = None,
        nics: Sequence[Mapping[str, str]] = (),
        user_template: Mapping[str, Value] | None = None,
        context: Mapping[str, str] | None = None,
        vm_id: int | str | None = None,
        token: str | None = None,
        unreadable: bool = False,
        name: str | None = None,
        aliases: Sequence[Mapping[str, str]] = (),
        state: int = 3,
        lcm_state: int = 3,
    ) -> dict[str, str]:
        """Create a VM."""
        with self._cloud.lock:
            vm = self._cloud.add_vm(
                role=role,
                service_id=None if service_id is None else int(service_id),
                vm_id=None if vm_id is None else int(vm_id),
                token=token,
                name=name,
                owner=SERVERADMIN if unreadable else USER,
                nics=[Nic(dict(nic)) for nic in nics],
                aliases=[Nic(dict(nic)) for nic in aliases],
                user_template=user_template,
                context=context,
            )
            self.set_vm(vm.vm_id, state=state, lcm_state=lcm_state)
            return {"id": str(vm.vm_id), "token": vm.token}

    def vm(self, vm_id: int | str) -> dict[str, Any]:
        """Describe a VM."""
        with self._cloud.lock:
            return _describe_vm(self._cloud.find_vm(int(vm_id)))

    def set_vm(
        self,
        vm_id: int | str,
        state: int | None = None,
        lcm_state: int | None = None,
        ready: float | None = None,
    ) -> None:
        """Change the states of a VM; a state before active (3) takes its placement away."""
        with self._cloud.lock:
            vm = self._cloud.find_vm(int(vm_id))
            vm.state = vm.state if state is None else state
            vm.lcm_state = vm.lcm_state if lcm_state is None else lcm_state
            vm.ready_at = vm.ready_at if ready is None else ready
            if vm.state < 3:
                vm.placement = None
            elif vm.placement is None:
                vm.placement = Placement(started_at=vm.created_at, booted_at=vm.created_at)

    def remove_vm(self, vm_id: int | str, forget: bool = False) -> None:
        """Let a VM be DONE, or be as if it had never been."""
        with self._cloud.lock:
            self._cloud.remove_vm(int(vm_id))
            if forget:
                del self._cloud.vms[int(vm_id)]

    def user_template(self, vm_id: int | str) -> UserTemplate:
        """Return the user template of a VM, hidden keys included."""
        with self._cloud.lock:
            return dict(self._cloud.find_vm(int(vm_id)).user_template)

    def set_user_template(
        self, vm_id: int | str, values: Mapping[str, Value | None], replace: bool = False
    ) -> None:
        """Set keys of a user template, as the front-end could."""
        with self._cloud.lock:
            vm = self._cloud.find_vm(int(vm_id))
            merged: dict[str, Value | None] = {**({} if replace else vm.user_template), **values}
            vm.user_template = {key: value for key, value in merged.items() if value is not None}

    def requests(self) -> list[dict[str, Any]]:
        """List the requests so far."""
        return [asdict(entry) for entry in self._emulator.log.list_entries()]

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._emulator.log.clear()

    def fault(self, kind: str, **options: Any) -> None:
        """Put a fault in force."""
        unknown = set(options) - _FAULT_OPTIONS
        if unknown:
            raise FaultError(f"unknown options of a fault: {', '.join(sorted(unknown))}")
        if options.get("vm_id") is not None:
            options["vm_id"] = int(options["vm_id"])
        self._emulator.set_fault(Fault(FaultKind(kind), **options))

    def heal(self, kind: str | None = None) -> None:
        """Take faults away."""
        self._emulator.heal(None if kind is None else FaultKind(kind))


def _describe_vm(vm: Vm) -> dict[str, Any]:
    return {
        "id": str(vm.vm_id),
        "name": vm.name,
        "state": vm.state,
        "lcm_state": vm.lcm_state,
        "user_template": dict(vm.user_template),
        "nics": [dict(nic.attributes) for nic in vm.nics],
        "aliases": [dict(nic.attributes) for nic in vm.aliases],
        "ready": vm.ready_at,
    }
