"""What can be done to oned and OneFlow from outside: plain values in and out, as JSON."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from tests.lab.oneflow.driver import Happening, OrderBook
from tests.lab.oneflow.flow import OneFlow
from tests.lab.oneflow.machines import Machines, Pace
from tests.lab.oneflow.template import parse_service
from tests.lab.onegate.state import AddressRange, Cloud, StateError

_PACES = frozenset(option.name for option in fields(Pace))


class FlowOperations:
    """What `tests.lab.oneflow.control.FlowControl` offers beyond OneGate's own.

    Attributes:
        calls: Names of the operations.
        machines: Makes and ends VMs; its orders wait to be fetched.
        flow: Runs services.
    """

    calls = frozenset(
        {"add_network", "set_next_address", "set_pace", "instantiate", "scale", "undeploy"}
        | {"recover", "act", "machine", "orders", "report"}
    )

    def __init__(self, cloud: Cloud) -> None:
        """Operate a cloud."""
        self._cloud = cloud
        self._pace = Pace()
        self._orders = OrderBook()
        self.machines = Machines(cloud, self._orders, self._pace)
        self.flow = OneFlow(self.machines, self._pace)

    def set_pace(self, **changes: float) -> None:
        """Change how long the front-end takes."""
        unknown = set(changes) - _PACES
        if unknown:
            raise StateError(f"unknown paces: {', '.join(sorted(unknown))}")
        for name, seconds in changes.items():
            setattr(self._pace, name, seconds)

    def add_network(
        self, name: str, first_ip: str, first_mac: str, size: int, attributes: Mapping[str, str]
    ) -> int:
        """Create a virtual network with one range of addresses."""
        ranges = [AddressRange(first_ip, first_mac, size)]
        return self._cloud.add_network(name, ranges, attributes).network_id

    def set_next_address(self, network: str, ip: str) -> None:
        """Choose the address that is leased next, if it is free."""
        with self._cloud.lock:
            found = self._cloud.find_network(network)
            for part in found.ranges if found else []:
                index = int(ipaddress.ip_address(ip)) - int(ipaddress.ip_address(part.first_ip))
                if 0 <= index < part.size:
                    part.next_index = index
                    return
        raise StateError(f"network {network} has no address {ip}")

    def instantiate(self, template: Mapping[str, Any]) -> int:
        """Begin to deploy a service."""
        return self.flow.instantiate(parse_service(template)).service_id

    def scale(self, service_id: int, role: str, cardinality: int) -> bool:
        """Scale a role."""
        return self.flow.scale(service_id, role, cardinality)

    def undeploy(self, service_id: int) -> None:
        """Begin to take a service down."""
        self.flow.undeploy(service_id)

    def recover(self, service_id: int) -> None:
        """Go on with a service that failed."""
        self.flow.recover(service_id)

    def act(self, vm_id: int | str, action: str) -> None:
        """Do something to a VM as its owner."""
        number, machines = int(vm_id), self.machines
        actions = {
            "terminate": lambda: machines.terminate(number),
            "terminate-hard": lambda: machines.terminate(number, hard=True),
            "poweroff": lambda: machines.power_off(number),
            "poweroff-hard": lambda: machines.power_off(number, hard=True),
            "resume": lambda: machines.resume(number),
            "reboot": lambda: machines.reboot(number),
            "recreate": lambda: machines.recreate(number),
        }
        if action not in actions:
            raise StateError(f"unknown action {action}, expected one of {', '.join(actions)}")
        actions[action]()

    def machine(self, vm_id: int | str) -> dict[str, Any]:
        """Describe what a driver has to know of a VM."""
        with self._cloud.lock:
            vm = self._cloud.find_vm(int(vm_id))
            return {
                "id": vm.vm_id,
                "name": vm.name,
                "role": vm.user_template.get("ROLE_NAME"),
                "token": vm.token,
                "context": dict(vm.context),
                "networks": [nic.attributes["NETWORK"] for nic in vm.nics],
            }

    def orders(self, after: int, timeout_s: float) -> list[dict[str, Any]]:
        """Fetch orders."""
        return [asdict(order) for order in self._orders.wait(after, timeout_s)]

    def report(self, vm_id: int | str, happening: str) -> None:
        """Take note of what happened to a machine."""
        self.machines.report(int(vm_id), Happening(happening))
