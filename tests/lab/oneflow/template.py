"""What a service is made of: the templates an operator instantiates, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class VmTemplate:
    """What the VMs of a role have in common.

    Attributes:
        networks: Network of each NIC, by name.
        context: What the context holds beside VMID and the keys of the NICs.
        attributes: What the user template holds beside ROLE_NAME and SERVICE_ID.
    """

    networks: tuple[str, ...]
    context: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RoleTemplate:
    """A role.

    Attributes:
        parents: Roles that have to run before this one is deployed.
        min_vms: Smallest cardinality it can be scaled to; None for no limit.
    """

    name: str
    cardinality: int
    vm: VmTemplate
    parents: tuple[str, ...] = ()
    min_vms: int | None = None


@dataclass(frozen=True)
class ServiceTemplate:
    """A service.

    Attributes:
        is_straight: Whether roles wait for their parents (deployment `straight`).
        is_gated: Whether a VM counts as running only when it has reported READY.
    """

    name: str
    roles: tuple[RoleTemplate, ...]
    is_straight: bool = True
    is_gated: bool = True

    def find_role(self, name: str) -> RoleTemplate | None:
        """Return the role of that name, if there is one."""
        return next((role for role in self.roles if role.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Turn into plain values that `parse_service` takes back."""
        return asdict(self)


def parse_service(values: Mapping[str, Any]) -> ServiceTemplate:
    """Make a template of plain values as JSON brings them.

    Raises:
        TypeError: A key is missing or unknown.
    """
    roles = tuple(_parse_role(role) for role in values["roles"])
    return ServiceTemplate(**{**values, "roles": roles})


def _parse_role(values: Mapping[str, Any]) -> RoleTemplate:
    vm = VmTemplate(**{**values["vm"], "networks": tuple(values["vm"]["networks"])})
    return RoleTemplate(**{**values, "vm": vm, "parents": tuple(values["parents"])})
