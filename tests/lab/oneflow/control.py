"""The client of a running emulator that can do what an operator of the cloud can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.lab.oneflow.driver import Happening, Order, Verb
from tests.lab.oneflow.template import ServiceTemplate
from tests.lab.onegate.control import Control


class FlowControl(Control):
    """Instantiates and changes services, acts on VMs, and serves whoever runs the machines."""

    # --- an operator's part ----------------------------------------------------------------------

    def instantiate(self, template: ServiceTemplate) -> int:
        """Begin to deploy a service and return its id."""
        return int(self._call("instantiate", template=template.to_json()))

    def scale(self, service_id: int, role: str, cardinality: int) -> bool:
        """Scale a role; false if it is refused, or takes longer than OneGate waits."""
        return bool(self._call("scale", service_id=service_id, role=role, cardinality=cardinality))

    def undeploy(self, service_id: int) -> None:
        """Begin to take a service down: children first."""
        self._call("undeploy", service_id=service_id)

    def recover(self, service_id: int) -> None:
        """Make the VMs anew that failed, and go on."""
        self._call("recover", service_id=service_id)

    def act(self, vm_id: int | str, action: str) -> None:
        """Do something to a VM.

        Args:
            vm_id: Which.
            action: `terminate`, `poweroff` (both also with `-hard`), `resume`, `reboot`, or
                `recreate` (same id, address, token and user template, but a fresh disk).
        """
        self._call("act", vm_id=vm_id, action=action)

    def add_network(
        self, name: str, *, first_ip: str, first_mac: str, size: int, attributes: Mapping[str, str]
    ) -> int:
        """Create a virtual network with one range of addresses.

        Args:
            name: Its name.
            first_ip: The first address; addresses are leased in turn.
            first_mac: The hardware address that goes with it; it is counted up as well.
            size: How many.
            attributes: NETWORK_ADDRESS, NETWORK_MASK and, where there are any, GATEWAY and DNS.
        """
        return int(
            self._call(
                "add_network",
                name=name,
                first_ip=first_ip,
                first_mac=first_mac,
                size=size,
                attributes=dict(attributes),
            )
        )

    def set_next_address(self, network: str, ip: str) -> None:
        """Choose the address that is leased next, if it is free by then."""
        self._call("set_next_address", network=network, ip=ip)

    def set_pace(self, **changes: float) -> None:
        """Change how long the front-end takes; see `tests.lab.oneflow.machines.Pace`."""
        self._call("set_pace", **changes)

    # --- the driver's part -----------------------------------------------------------------------

    def machine(self, vm_id: int | str) -> dict[str, Any]:
        """Return `id`, `name`, `role`, `token`, `context` and `networks` (one for each NIC)."""
        return dict(self._call("machine", vm_id=vm_id))

    def orders(self, after: int, timeout_s: float) -> list[Order]:
        """Return the orders with a higher number, as soon as there are any or time is over."""
        return [
            Order(order["number"], Verb(order["verb"]), order["vm_id"])
            for order in self._call("orders", after=after, timeout_s=timeout_s)
        ]

    def report(self, vm_id: int | str, happening: Happening) -> None:
        """Tell what happened to a machine."""
        self._call("report", vm_id=vm_id, happening=happening)
