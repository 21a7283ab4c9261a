"""What OneFlow asks an operator, and what a service is made of, as the drop-ins say.

A drop-in may have an `oneflow.yaml`: which of its parameters are asked for when a service is
instantiated (`inputs`), and which are set without asking (`fixed`). That of the drop-in
`opennebula` also says of which roles and networks a service is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import ServiceDefinitionError
from appliance.shape import check_keys, checked_each, checked_mapping, checked_texts

_KEYS = frozenset({"inputs", "fixed", "kubernetes", "networks", "roles", "order"})
_INPUT_KEYS = frozenset({"name", "value", "description"})
_WORDS: Mapping[type, str] = {
    bool: "true or false",
    dict: "a mapping",
    int: "a whole number",
    str: "a text",
}
_ROLE_KEYS = frozenset(
    {"name", "networks", "parents", "attributes", "cardinality", "min_vms"}
    | {"cpu", "vcpu", "memory_mb", "has_data_disk"}
)


@dataclass(frozen=True)
class Offer:
    """A parameter, or a member of a family, that is asked for.

    Attributes:
        value: What it is unless the operator says otherwise; None for the declared default.
        description: What it is, for a member of a family; None for what is declared.
    """

    name: str
    value: str | None = None
    description: str | None = None


@dataclass(frozen=True)
class RoleShape:
    """A role of a service.

    Attributes:
        networks: The network of each NIC.
        attributes: What else its VMs are given.
        min_vms: The fewest VMs it may be scaled to; None for any number.
        cpu: Share of a processor that is reserved.
        has_data_disk: Whether its VMs have a disk beside that of the system.
    """

    name: str
    networks: tuple[str, ...]
    cpu: int
    vcpu: int
    memory_mb: int
    parents: tuple[str, ...]
    attributes: Mapping[str, str]
    cardinality: int
    min_vms: int | None
    has_data_disk: bool


@dataclass(frozen=True)
class Shape:
    """What a service is made of.

    Attributes:
        kubernetes: Its version, as people say it.
        networks: Name to what it is.
        order: The drop-ins whose parameters are asked for first.
    """

    kubernetes: str
    networks: Mapping[str, str]
    roles: tuple[RoleShape, ...]
    order: tuple[str, ...]


@dataclass(frozen=True)
class Flow:
    """What one drop-in has to say."""

    offers: tuple[Offer, ...]
    fixed: Mapping[str, str]
    shape: Shape | None


def parse_flow(document: Mapping[str, Any], where: str) -> Flow:
    """Read an oneflow.yaml.

    Raises:
        ServiceDefinitionError: It is not well formed.
    """
    check_keys(document, _KEYS, where)
    offers = checked_each(document, "inputs", where, lambda one: _offer(one, f"{where}: inputs"))
    fixed = _texts(document, "fixed", where)
    shape = _shape(document, where) if "roles" in document else None
    return Flow(offers, fixed, shape)


def _offer(item: object, where: str) -> Offer:
    values = checked_mapping(item, _INPUT_KEYS, where)
    if not all(isinstance(value, str) for value in values.values()) or "name" not in values:
        raise ServiceDefinitionError(f"{where}: expected a name and texts, found {item!r}")
    return Offer(values["name"], values.get("value"), values.get("description"))


def _shape(document: Mapping[str, Any], where: str) -> Shape:
    networks = _texts(document, "networks", where)
    roles = checked_each(document, "roles", where, lambda one: _role(one, networks, where))
    known = [role.name for role in roles]
    for role in roles:
        for parent in role.parents:
            if parent not in known or parent == role.name:
                raise ServiceDefinitionError(
                    f"{where}: role {role.name}: parent {parent} is no other role"
                )
    return Shape(
        _take(document, "kubernetes", str, None, where),
        networks,
        roles,
        checked_texts(document, "order", where),
    )


def _role(item: object, networks: Mapping[str, str], where: str) -> RoleShape:
    values = checked_mapping(item, _ROLE_KEYS, f"{where}: roles")
    where = f"{where}: role {values.get('name')}"
    own = checked_texts(values, "networks", where)
    if strangers := sorted(set(own) - set(networks)):
        raise ServiceDefinitionError(
            f"{where}: {', '.join(strangers)} is no network of the service"
        )
    return RoleShape(
        name=_take(values, "name", str, None, where),
        networks=own,
        cpu=_take(values, "cpu", int, None, where),
        vcpu=_take(values, "vcpu", int, None, where),
        memory_mb=_take(values, "memory_mb", int, None, where),
        parents=checked_texts(values, "parents", where),
        attributes=_texts(values, "attributes", where),
        cardinality=_take(values, "cardinality", int, 1, where),
        min_vms=_take(values, "min_vms", int, None, where) if "min_vms" in values else None,
        has_data_disk=_take(values, "has_data_disk", bool, False, where),
    )


def _take(values: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    value = values.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ServiceDefinitionError(f"{where}: {key}: expected {_WORDS[kind]}, found {value!r}")
    return value


def _texts(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, str]:
    found = _take(values, key, dict, {}, where)
    if not all(isinstance(one, str) for pair in found.items() for one in pair):
        raise ServiceDefinitionError(f"{where}: {key}: expected texts by name")
    return dict(found)
