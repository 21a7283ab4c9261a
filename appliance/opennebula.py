"""What an operator loads into OpenNebula: service template, VM templates, values, marketplace.

Service templates come in two forms. OpenNebula up to 6.10 knows the older one; 7 takes it too and
turns it into its own. Source: OpenNebula one, src/flow/lib/models/service_template.rb; OpenNebula
marketplace, README.md, for the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from appliance import __version__
from appliance.flowshape import RoleShape
from appliance.imagecontent import Flavor
from appliance.oneflow import Blueprint, build_blueprint
from appliance.service import Service
from appliance.yamltext import PlainDumper

_PARTICULAR: Mapping[Flavor, str] = {
    Flavor.CE: "Fetches the images of its containers when they are needed.",
    Flavor.EE: "Brings the images of its containers, for networks without access to others.",
}
_PUBLISHER = "OneKE"
_ABOUT = (
    "Kubernetes (RKE2) as a OneFlow service: gateways, control plane, workers and storage nodes."
)


class _Text(str):
    """A text of several lines, written so."""

    __slots__ = ()


class _Dumper(PlainDumper):
    """Writes texts of several lines as blocks."""


_Dumper.add_representer(
    _Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)


def product(blueprint: Blueprint, flavor: Flavor) -> str:
    """Name what is loaded."""
    return f"OneKE {blueprint.shape.kubernetes} {flavor.name}"


def to_service_template(services: Iterable[Service], role: str | None, flavor: Flavor) -> str:
    """Write a service template that OpenNebula 6.2 and later take."""
    blueprint = build_blueprint(services)
    document = _service(blueprint, flavor)
    for number, one in enumerate(document["roles"]):
        one["vm_template"] = number
    return _json(document)


def to_service_template_7(services: Iterable[Service], role: str | None, flavor: Flavor) -> str:
    """Write a service template in the form of OpenNebula 7, which passes answers on by itself."""
    blueprint = build_blueprint(services)
    document = _service(blueprint, flavor)
    document["user_inputs"] = document.pop("custom_attrs")
    for number, (one, shape) in enumerate(
        zip(document["roles"], blueprint.shape.roles, strict=True)
    ):
        del one["vm_template_contents"]
        one |= {"type": "vm", "template_id": number}
        one["template_contents"] = {"NIC": _nics(shape), **shape.attributes}
    return _json(document)


def to_values(services: Iterable[Service], role: str | None, flavor: Flavor) -> str:
    """Write what `oneflow-template instantiate` reads: all questions answered, networks 0 and 1.

    OpenNebula 7 reads the answers under the second name, those before it under the first.
    """
    blueprint = build_blueprint(services)
    answers = {one.name: one.value for one in blueprint.inputs}
    networks = [{name: {"id": str(number)}} for number, name in enumerate(blueprint.shape.networks)]
    return _json(
        {
            "name": "OneKE/1",
            "networks_values": networks,
            "custom_attrs_values": answers,
            "user_inputs_values": answers,
        }
    )


def to_vm_template(services: Iterable[Service], role: str | None, flavor: Flavor) -> str:
    """Write a role's VM template, as `onetemplate create` reads it."""
    blueprint = build_blueprint(services)
    name = product(blueprint, flavor)
    shape = blueprint.find_role(role)
    lines = [_assignment("NAME", f"{name} {shape.name}")]
    for key, value in _vm_attributes(blueprint, shape).items():
        lines.append(_assignment(key, value))
    lines += [_assignment("DISK", {"IMAGE": disk}) for disk in _disks(name, shape)]
    return "\n".join(lines) + "\n"


def to_marketplace(services: Iterable[Service], role: str | None, flavor: Flavor) -> str:
    """Write the metadata of a marketplace, a document for each thing that is published.

    Where an image is, its size and sums, and when it was made are known to its build alone, so
    they are not here.
    """
    blueprint = build_blueprint(services)
    name = product(blueprint, flavor)
    documents = [
        _market_service(blueprint, name, flavor),
        *(_market_vm(blueprint, name, shape, flavor) for shape in blueprint.shape.roles),
        *(_market_image(disk, flavor) for disk in _all_disks(name)),
    ]
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=100)


TEMPLATES: Mapping[str, Callable[[Iterable[Service], str | None, Flavor], str]] = {
    "oneflow": to_service_template,
    "oneflow-7": to_service_template_7,
    "oneflow-values": to_values,
    "vm-template": to_vm_template,
    "marketplace": to_marketplace,
}
"""Forms of the templates: the drop-ins, the role that is asked for, the flavor, to text."""


# --- services -------------------------------------------------------------------------------------


def _service(blueprint: Blueprint, flavor: Flavor) -> dict[str, Any]:
    shape = blueprint.shape
    return {
        "name": f"Service {product(blueprint, flavor)}",
        "description": _ABOUT,
        "deployment": "straight",
        "ready_status_gate": True,
        "networks": {
            name: f"M|network|{description}||id:" for name, description in shape.networks.items()
        },
        "custom_attrs": {one.name: one.text for one in blueprint.inputs},
        "roles": [_role(blueprint, role) for role in shape.roles],
    }


def _role(blueprint: Blueprint, role: RoleShape) -> dict[str, Any]:
    lines = [_assignment("NIC", nic, in_lines=False) for nic in _nics(role)]
    lines += [_assignment(key, value) for key, value in role.attributes.items()]
    lines += [_assignment(one.name, f"${one.name}") for one in blueprint.inputs_of(role)]
    return {
        "name": role.name,
        "cardinality": role.cardinality,
        **({} if role.min_vms is None else {"min_vms": role.min_vms}),
        **({"parents": list(role.parents)} if role.parents else {}),
        "vm_template_contents": "\n".join(lines) + "\n",
        "elasticity_policies": [],
        "scheduled_policies": [],
    }


def _nics(role: RoleShape) -> list[dict[str, str]]:
    return [
        {"NAME": f"NIC{number}", "NETWORK_ID": f"${network}"}
        for number, network in enumerate(role.networks)
    ]


# --- VMs ------------------------------------------------------------------------------------------


def _vm_attributes(blueprint: Blueprint, role: RoleShape) -> dict[str, str | dict[str, str]]:
    return {
        "DESCRIPTION": f"A {role.name} node of a OneKE service",
        "CPU": str(role.cpu),
        "VCPU": str(role.vcpu),
        "MEMORY": str(role.memory_mb),
        "OS": {"ARCH": "x86_64"},
        "GRAPHICS": {"LISTEN": "0.0.0.0", "TYPE": "VNC"},  # noqa: S104  # what OpenNebula advises
        "NIC_DEFAULT": {"MODEL": "virtio"},
        "CONTEXT": dict(blueprint.contexts[role.name]),
    }


def _disks(name: str, role: RoleShape) -> tuple[str, ...]:
    return _all_disks(name) if role.has_data_disk else _all_disks(name)[:1]


def _all_disks(name: str) -> tuple[str, str]:
    return f"{name} OS disk", f"{name} Storage disk"


# --- marketplace ----------------------------------------------------------------------------------


def _market_service(blueprint: Blueprint, name: str, flavor: Flavor) -> dict[str, Any]:
    template = _service(blueprint, flavor)
    for one in template["roles"]:
        one["vm_template_contents"] = _Text(one["vm_template_contents"])
    return {
        **_market(f"Service {name}", _ABOUT, flavor, _PARTICULAR[flavor]),
        "type": "SERVICE_TEMPLATE",
        "roles": {role.name: f"{name} {role.name}" for role in blueprint.shape.roles},
        "opennebula_template": template,
        "images": [],
    }


def _market_vm(blueprint: Blueprint, name: str, role: RoleShape, flavor: Flavor) -> dict[str, Any]:
    attributes = _vm_attributes(blueprint, role)
    about = str(attributes.pop("DESCRIPTION"))
    return {
        **_market(f"{name} {role.name}", f"{about}.", flavor),
        "type": "VMTEMPLATE",
        "opennebula_template": {key.lower(): value for key, value in attributes.items()},
        "disks": list(_disks(name, role)),
    }


def _market_image(disk: str, flavor: Flavor) -> dict[str, Any]:
    is_system = disk.endswith("OS disk")
    image = {
        "name": disk.lower().replace(" ", "_"),
        "type": "OS" if is_system else "DATABLOCK",
        "dev_prefix": "vd",
        "driver": "qcow2",
    }
    about, more = "An empty disk for replicas of volumes.", ""
    if is_system:
        about, more = "The system of every node.", _PARTICULAR[flavor]
    return {**_market(disk, about, flavor, more), "images": [image]}


def _market(name: str, about: str, flavor: Flavor, more: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "version": __version__,
        "publisher": _PUBLISHER,
        "description": f"{about} {more}".strip(),
        "short_description": about,
        "tags": ["kubernetes", "rke2", "service", flavor.value],
        "format": "qcow2",
        "os-id": "Ubuntu",
        "os-release": "24.04 LTS",
        "os-arch": "x86_64",
        "hypervisor": "KVM",
        "opennebula_version": "6.4, 6.6, 6.8, 6.10, 7.0, 7.4",
        "logo": "kubernetes.png",
    }


# --- texts ----------------------------------------------------------------------------------------


def _assignment(key: str, value: str | Mapping[str, str], *, in_lines: bool = True) -> str:
    """Write an attribute as OpenNebula's templates have it: a text, or a vector of texts."""
    if isinstance(value, str):
        return f'{key} = "{value}"'
    before, between, after = ("[\n  ", ",\n  ", " ]") if in_lines else ("[", ",", "]")
    members = between.join(f'{name} = "{text}"' for name, text in value.items())
    return f"{key} = {before}{members}{after}"


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
