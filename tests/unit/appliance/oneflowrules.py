"""What OneFlow demands of a service template before it takes it, said anew.

Of both forms: that of OpenNebula up to 6.10, and that of 7, which also turns the older one into its
own. Source: OpenNebula one, src/flow/lib/models/service_template.rb (SCHEMA, ROLE_SCHEMA,
VM_ROLE_SCHEMA, validate_values, convert_template).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """What is demanded of one key."""

    kind: type
    is_required: bool = False
    words: tuple[str, ...] = ()
    pattern: str | None = None
    at_least: int | None = None


_ENDINGS = ("terminate", "terminate-hard", "shutdown", "shutdown-hard")
_SERVICE: Mapping[str, Key] = {
    "name": Key(str, is_required=True),
    "deployment": Key(str, words=("none", "straight")),
    "description": Key(str),
    "shutdown_action": Key(str, words=_ENDINGS),
    "roles": Key(list, is_required=True),
    "ready_status_gate": Key(bool),
    "automatic_deletion": Key(bool),
    "networks": Key(dict),
    "networks_values": Key(list),
    "on_hold": Key(bool),
}
_ROLE: Mapping[str, Key] = {
    "name": Key(str, is_required=True, pattern=r"\w+"),
    "cardinality": Key(int, at_least=0),
    "parents": Key(list),
    "shutdown_action": Key(str, words=_ENDINGS),
    "min_vms": Key(int, at_least=0),
    "max_vms": Key(int, at_least=0),
    "cooldown": Key(int, at_least=0),
    "on_hold": Key(bool),
    "elasticity_policies": Key(list),
    "scheduled_policies": Key(list),
}
SERVICE_6 = {**_SERVICE, "custom_attrs": Key(dict), "custom_attrs_values": Key(dict)}
SERVICE_7 = {**_SERVICE, "user_inputs": Key(dict), "user_inputs_values": Key(dict)}
ROLE_6 = {
    **_ROLE,
    "vm_template": Key(int, is_required=True),
    "vm_template_contents": Key(str),
    "custom_attrs": Key(dict),
    "custom_attrs_values": Key(dict),
}
ROLE_7 = {
    **_ROLE,
    "type": Key(str, is_required=True, words=("vm", "vr")),
    "template_id": Key(int, is_required=True),
    "template_contents": Key(dict),
    "user_inputs": Key(dict),
    "user_inputs_values": Key(dict),
}


def complaints_6(template: Mapping[str, Any]) -> list[str]:
    """What OneFlow up to 6.10 finds wrong."""
    return list(_complaints(template, SERVICE_6, ROLE_6))


def complaints_7(template: Mapping[str, Any]) -> list[str]:
    """What OneFlow since 7 finds wrong, of its own form."""
    return list(_complaints(template, SERVICE_7, ROLE_7))


def _complaints(
    template: Mapping[str, Any], service: Mapping[str, Key], role: Mapping[str, Key]
) -> Iterator[str]:
    yield from _judge(template, service, "service")
    roles = template.get("roles", [])
    names = [one.get("name") for one in roles]
    for one in roles:
        where = f"role {one.get('name')}"
        yield from _judge(one, role, where)
        if names.count(one.get("name")) > 1:
            yield f"{where}: is there twice"
        if one.get("min_vms", 0) > one.get("cardinality", 0):
            yield f"{where}: fewer VMs than min_vms"
        if one.get("max_vms", one.get("cardinality", 0)) < one.get("cardinality", 0):
            yield f"{where}: more VMs than max_vms"
        for parent in one.get("parents", []):
            if parent not in names:
                yield f"{where}: parent {parent} is no role"


def _judge(values: Mapping[str, Any], keys: Mapping[str, Key], where: str) -> Iterator[str]:
    for name in values.keys() - keys.keys():
        yield f"{where}: {name} is unknown"
    for name, key in keys.items():
        if name not in values:
            if key.is_required:
                yield f"{where}: {name} is missing"
            continue
        value = values[name]
        if type(value) is not key.kind:
            yield f"{where}: {name} is no {key.kind.__name__}"
        elif key.words and value not in key.words:
            yield f"{where}: {name} is none of {key.words}"
        elif key.pattern and not re.fullmatch(key.pattern, value):
            yield f"{where}: {name} is malformed"
        elif key.at_least is not None and value < key.at_least:
            yield f"{where}: {name} is below {key.at_least}"


def to_form_7(old: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the older form into that of 7, as OneFlow does when it is given the older one."""
    new = {key: value for key, value in old.items() if key not in ("roles", "custom_attrs")}
    new["user_inputs"] = old["custom_attrs"]
    new["roles"] = []
    for role in old["roles"]:
        one = {k: v for k, v in role.items() if k not in ("vm_template", "vm_template_contents")}
        one |= {"template_id": role["vm_template"], "type": "vm"}
        one["template_contents"] = _contents_7(role["vm_template_contents"])
        new["roles"].append(one)
    return new


def _contents_7(text: str) -> dict[str, Any]:
    """Read lines, of which none may end inside brackets; quotes are dropped, whatever they hold."""
    found: dict[str, Any] = {}
    for line in re.split(r"\n(?![^\[]*\])", text):
        if "=" not in line:
            continue
        key, value = (part.strip() for part in line.split("=", 1))
        value = value.replace('"', "")
        if value.startswith("[") and value.endswith("]"):
            members = (member.split("=", 1) for member in re.split(r"\s*,\s*", value[1:-1]))
            found.setdefault(key, []).append({name.strip(): of.strip() for name, of in members})
        else:
            assert key not in found, f"{key} is there twice"
            found[key] = value
    return found
