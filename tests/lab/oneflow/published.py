"""What an operator loads and instantiates, read as OneFlow and oned read it.

Service templates of either form, VM templates, and the answers of `oneflow-template instantiate`
become what the emulator deploys. Source: OpenNebula one, src/flow/lib/models/service.rb
(resolve_networks and resolve_attributes, since 7 generate_template_contents) and oneflow-server.rb
(instantiate); the reference of virtual machine templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.lab.context import ONEGATE_ENDPOINT
from tests.lab.oneflow.template import RoleTemplate, ServiceTemplate, VmTemplate
from tests.lab.onegate.state import StateError

Texts = Mapping[str, str]

_ATTRIBUTE = re.compile(
    r'\s*(?P<key>\w+)\s*=\s*(?:\[(?P<vector>(?:[^\]"]|"[^"]*")*)\]|"(?P<text>[^"]*)")'
)
_MEMBER = re.compile(r'\s*(?P<key>\w+)\s*=\s*"(?P<text>[^"]*)"\s*(?:,|$)')
# But for the service's id, which is known when a VM is made.
_REFERENCE = re.compile(r"\$(?!SERVICE_ID\b)(\w+)\b(?!\[)")
_OF_TEMPLATE = frozenset({"NAME", "CPU", "VCPU", "MEMORY"})
_OF_USER = re.compile(r"\$USER\[\w+\]")


@dataclass
class Attributes:
    """A template of a VM: texts, and vectors of which there may be several of one name."""

    texts: dict[str, str] = field(default_factory=dict)
    vectors: dict[str, list[dict[str, str]]] = field(default_factory=dict)


def parse_attributes(text: str) -> Attributes:
    """Read `KEY = "text"` and `KEY = [ KEY = "text", ... ]`.

    Raises:
        StateError: It is not well formed.
    """
    found, position = Attributes(), 0
    while text[position:].strip():
        match = _ATTRIBUTE.match(text, position)
        if match is None:
            raise StateError(f"template: no attribute at {text[position:][:40]!r}")
        position = match.end()
        if match["vector"] is None:
            found.texts[match["key"]] = match["text"]
        else:
            members = _parse_vector(match["vector"])
            found.vectors.setdefault(match["key"], []).append(members)
    return found


def _parse_vector(text: str) -> dict[str, str]:
    members, position = {}, 0
    while text[position:].strip():
        match = _MEMBER.match(text, position)
        if match is None:
            raise StateError(f"template: no member at {text[position:][:40]!r}")
        members[match["key"]], position = match["text"], match.end()
    return members


def read_published(
    service: Mapping[str, Any],
    vm_templates: Sequence[str],
    values: Mapping[str, Any],
    networks: Texts,
) -> ServiceTemplate:
    """Instantiate a service template.

    Args:
        service: What `oneflow-template create` was given, of either form.
        vm_templates: The VM templates; their places are their ids.
        values: What `oneflow-template instantiate` was given.
        networks: Name of each virtual network by its id.

    Raises:
        StateError: OneFlow would refuse it.
    """
    is_new = all("template_id" in role for role in service["roles"])
    answers = dict(values.get("user_inputs_values" if is_new else "custom_attrs_values", {}))
    asked = service.get("user_inputs" if is_new else "custom_attrs", {})
    if missing := sorted(set(asked) - set(answers)):
        raise StateError(f"no values for {', '.join(missing)}")
    chosen = _choose_networks(service, values, networks)
    roles = tuple(
        _read_role(
            role,
            _contents_7(role, answers) if is_new else _contents_6(role, answers),
            parse_attributes(vm_templates[role["template_id" if is_new else "vm_template"]]),
            chosen,
        )
        for role in service["roles"]
    )
    return ServiceTemplate(
        values.get("name", service["name"]),
        roles,
        is_straight=service["deployment"] == "straight",
        is_gated=service["ready_status_gate"],
    )


def _choose_networks(
    service: Mapping[str, Any], values: Mapping[str, Any], networks: Texts
) -> dict[str, str]:
    ids = {name: told["id"] for pair in values["networks_values"] for name, told in pair.items()}
    if missing := sorted(set(service["networks"]) - set(ids)):
        raise StateError(f"no network for {', '.join(missing)}")
    return {name: networks[ids[name]] for name in service["networks"]}


def _contents_6(role: Mapping[str, Any], answers: Texts) -> Attributes:
    """Put answers in for their names wherever these are in the text, also inside longer names."""
    text = role["vm_template_contents"]
    for name in _REFERENCE.findall(text):
        if name in answers:
            text = text.replace(f"${name}", answers[name])
    return parse_attributes(text)


def _contents_7(role: Mapping[str, Any], answers: Texts) -> Attributes:
    """Give every role every answer, as an attribute and in its context."""
    contents = dict(role["template_contents"])
    found = Attributes(vectors={"NIC": contents.pop("NIC", [])})
    found.texts = {**contents, **answers}
    found.vectors["CONTEXT"] = [{name: f"${name}" for name in answers}]
    return found


def _read_role(
    role: Mapping[str, Any], contents: Attributes, vm: Attributes, networks: Texts
) -> RoleTemplate:
    given = {**vm.texts, **contents.texts}
    context: dict[str, str] = {"DISK_ID": "1", "TARGET": "hda"}
    for vector in vm.vectors.get("CONTEXT", []) + contents.vectors.get("CONTEXT", []):
        context |= _fill(vector, given)
    if context.get("TOKEN") == "YES":
        context["ONEGATE_ENDPOINT"] = ONEGATE_ENDPOINT
    nics = [nic["NETWORK_ID"].removeprefix("$") for nic in contents.vectors["NIC"]]
    return RoleTemplate(
        name=role["name"],
        cardinality=role["cardinality"],
        vm=VmTemplate(
            tuple(networks[name] for name in nics),
            context,
            {key: text for key, text in given.items() if key not in _OF_TEMPLATE},
        ),
        parents=tuple(role.get("parents", ())),
        min_vms=role.get("min_vms"),
    )


def _fill(context: Texts, attributes: Texts) -> dict[str, str]:
    """Put attributes of the VM in; what it has not is empty. What is of other VMs comes later."""
    return {
        key: _OF_USER.sub("", _REFERENCE.sub(lambda name: attributes.get(name[1], ""), text))
        for key, text in context.items()
    }
