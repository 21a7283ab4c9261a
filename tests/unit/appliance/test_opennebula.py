"""The templates an operator loads: what OneFlow, oned and a marketplace take, and what VMs get."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from appliance.context import Context
from appliance.decision import Decided, decide
from appliance.imagecontent import Flavor
from appliance.oneflow import Blueprint, build_blueprint
from appliance.opennebula import TEMPLATES
from appliance.registry import known_roles
from appliance.service import Service, find_legacy_mark
from tests.lab.oneflow.published import parse_attributes, read_published
from tests.lab.onegate.state import StateError
from tests.lab.published import NETWORKS, published_template
from tests.unit.appliance.oneflowrules import complaints_6, complaints_7, to_form_7

ROLES = ("vnf", "master", "worker", "storage")
# Source: OpenNebula one, src/cli/one_helper.rb, parse_user_inputs.
EMPTY_ANSWERS = ("text", "text64", "password")
KINDS = (*EMPTY_ANSWERS, "number", "number-float", "range", "list", "boolean")
OF_NICS: Mapping[str, Mapping[str, str]] = {
    "vnf": {"ETH0_IP": "10.2.11.200", "ETH1_IP": "172.20.0.100"},
    **{role: {"ETH0_IP": "172.20.0.101"} for role in ROLES[1:]},
}
OWN = {"VMID": "7", "SERVICE_ID": "1", "TOKENTXT": "dG9rZW4="}


@pytest.fixture
def blueprint(services: dict[str, Service]) -> Blueprint:
    return build_blueprint(services.values())


def text_of(
    services: dict[str, Service], form: str, role: str = "", flavor: Flavor = Flavor.CE
) -> str:
    """Write a form."""
    return TEMPLATES[form](services.values(), role or None, flavor)


def document_of(
    services: dict[str, Service], form: str, flavor: Flavor = Flavor.CE
) -> dict[str, Any]:
    """Write a form and read it back."""
    document: dict[str, Any] = json.loads(text_of(services, form, flavor=flavor))
    return document


def decided(services: dict[str, Service], context: Mapping[str, str], role: str) -> Decided:
    """Have a role's context judged by the agent."""
    seen = {**context, **OWN, **OF_NICS[role]}
    for key, text in seen.items():
        if text.startswith("${vnf."):
            seen[key] = OF_NICS["vnf"]["ETH1_IP"]
    return decide(role, Context(seen, "test"), services)


# --- OneFlow --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavor", Flavor)
def test_oneflow_takes_the_service_template(services: dict[str, Service], flavor: Flavor) -> None:
    assert complaints_6(document_of(services, "oneflow", flavor)) == []
    assert complaints_7(document_of(services, "oneflow-7", flavor)) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("deployment",), "strait", "deployment is none of"),
        (("ready_status_gate",), "YES", "ready_status_gate is no bool"),
        (("roles", 1, "vm_template"), "1", "vm_template is no int"),
        (("roles", 1, "name"), "vnf", "is there twice"),
        (("roles", 1, "cardinality"), 0, "fewer VMs than min_vms"),
        (("roles", 1, "parents"), ["router"], "is no role"),
        (("roles", 1, "vm_template_content"), "", "is unknown"),
    ],
)
def test_a_wrong_service_template_would_be_refused(
    services: dict[str, Service], path: tuple[Any, ...], value: object, complaint: str
) -> None:
    document = copy.deepcopy(document_of(services, "oneflow"))
    inner: Any = document
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    assert any(complaint in found for found in complaints_6(document))


def test_opennebula_7_makes_its_own_form_of_the_older_one(services: dict[str, Service]) -> None:
    own, made = document_of(services, "oneflow-7"), to_form_7(document_of(services, "oneflow"))
    assert complaints_7(made) == []
    for of_made in made["roles"]:
        # What is asked for is passed on by OneFlow 7 itself; said twice it is the same.
        passed = [name for name in of_made["template_contents"] if name in own["user_inputs"]]
        for name in passed:
            assert of_made["template_contents"].pop(name) == f"${name}"
    assert made == own


def test_every_question_can_be_answered_on_the_command_line(blueprint: Blueprint) -> None:
    for one in blueprint.inputs:
        mandatory, kind, description, options, value = one.text.split("|")
        assert mandatory in ("M", "O")
        assert kind in KINDS
        assert description.endswith(".")
        assert value or kind in EMPTY_ANSWERS, f"{one.name}: nothing would be passed on"
        if kind == "boolean":
            assert value in ("YES", "NO")
        if kind == "list":
            assert value in options.split(",")
        if kind == "range":
            first, last = (int(bound) for bound in options.split(".."))
            assert first <= int(value) <= last


def test_no_secret_has_a_default(blueprint: Blueprint) -> None:
    assert [one.value for one in blueprint.inputs if one.kind == "password"] == [""]


def test_the_values_answer_every_question_under_either_name(services: dict[str, Service]) -> None:
    values, template = (document_of(services, form) for form in ("oneflow-values", "oneflow"))
    assert list(values["custom_attrs_values"]) == list(template["custom_attrs"])
    assert values["user_inputs_values"] == values["custom_attrs_values"]
    asked = [set(pair) for pair in values["networks_values"]]
    assert asked == [{name} for name in template["networks"]]


def test_a_question_left_open_has_oneflow_refuse_the_service(services: dict[str, Service]) -> None:
    values = document_of(services, "oneflow-values")
    del values["custom_attrs_values"]["ONEAPP_STORAGE_DEVICE"]
    vm_templates = [text_of(services, "vm-template", role) for role in ROLES]
    with pytest.raises(StateError, match="ONEAPP_STORAGE_DEVICE"):
        read_published(document_of(services, "oneflow"), vm_templates, values, NETWORKS)


# --- what VMs get ---------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("form", ["oneflow", "oneflow-7"])
def test_every_role_gets_a_context_that_its_agent_takes(
    services: dict[str, Service], form: str, role: str
) -> None:
    made = published_template(
        form,
        ONEAPP_VROUTER_ETH0_VIP0="10.2.11.86",
        ONEAPP_VROUTER_ETH1_VIP0="172.20.0.86",
    ).find_role(role)
    assert made is not None
    assert decided(services, made.vm.context, role).warnings == ()
    seen = Context(made.vm.context, "test")
    assert find_legacy_mark(services.values(), seen, role) is None


@pytest.mark.parametrize("role", ROLES)
def test_without_virtual_addresses_it_is_sound_as_well(
    services: dict[str, Service], role: str
) -> None:
    made = published_template("oneflow").find_role(role)
    assert made is not None
    assert decided(services, made.vm.context, role).warnings == ()


@pytest.mark.parametrize("form", ["oneflow", "oneflow-7"])
def test_an_answer_reaches_the_roles_that_act_on_it(
    services: dict[str, Service], form: str
) -> None:
    made = published_template(form, ONEAPP_K8S_METALLB_RANGE="172.20.0.87-172.20.0.88")
    for name in ROLES:
        role = made.find_role(name)
        assert role is not None
        found = role.vm.context.get("ONEAPP_K8S_METALLB_RANGE", "")
        if name == "master":
            assert found == "172.20.0.87-172.20.0.88"
        elif form == "oneflow":
            assert found == ""


def test_gateways_run_the_balancers_without_being_asked(services: dict[str, Service]) -> None:
    gateway = published_template("oneflow").find_role("vnf")
    assert gateway is not None
    params = decided(services, gateway.vm.context, "vnf").params
    assert params.haproxy.enabled
    assert params.haproxy.discovery
    assert set(params.haproxy.balancer_addresses) == {0, 1, 2, 3}
    assert gateway.vm.networks == ("Public", "Private")


def test_what_is_not_asked_for_can_be_given_all_the_same(blueprint: Blueprint) -> None:
    asked = {one.name for one in blueprint.inputs}
    for role, name in (
        ("worker", "ONEAPP_RKE2_NODE_LABELS"),
        ("master", "ONEAPP_RKE2_EXTRA_CONFIG"),
        ("vnf", "ONEAPP_VNF_DNS_CONFIG"),
    ):
        assert name not in asked
        assert blueprint.contexts[role][name] == f"${name}"


def test_a_context_has_nothing_that_is_refused_or_another_roles(
    services: dict[str, Service], blueprint: Blueprint
) -> None:
    refused = {entry.name for one in services.values() for entry in one.entries if entry.refused}
    assert refused
    for role in known_roles():
        assert not refused & set(blueprint.contexts[role])
    assert "ONEAPP_VNF_NAT4_ENABLED" not in blueprint.contexts["worker"]
    assert "ONEAPP_STORAGE_DEVICE" not in blueprint.contexts["worker"]


# --- VM templates and marketplace -----------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_vm_template_has_what_a_vm_needs(services: dict[str, Service], role: str) -> None:
    template = parse_attributes(text_of(services, "vm-template", role))
    assert template.texts["NAME"] == f"OneKE 1.35 CE {role}"
    assert int(template.texts["MEMORY"]) >= 512
    [context] = template.vectors["CONTEXT"]
    # Without TOKEN and REPORT_READY a service never gets beyond its first role.
    assert {context[key] for key in ("NETWORK", "TOKEN", "REPORT_READY")} == {"YES"}
    assert context["SSH_PUBLIC_KEY"] == "$USER[SSH_PUBLIC_KEY]"
    disks = [disk["IMAGE"] for disk in template.vectors["DISK"]]
    assert disks[0] == "OneKE 1.35 CE OS disk"
    assert len(disks) == (2 if role == "storage" else 1)


def test_every_answer_is_used_by_a_vm_template(
    services: dict[str, Service], blueprint: Blueprint
) -> None:
    texts = "".join(text_of(services, "vm-template", role) for role in ROLES)
    for one in blueprint.inputs:
        assert f'{one.name} = "${one.name}"' in texts


@pytest.mark.parametrize("flavor", Flavor)
def test_what_a_marketplace_offers_fits_together(
    services: dict[str, Service], flavor: Flavor
) -> None:
    documents = list(yaml.safe_load_all(text_of(services, "marketplace", flavor=flavor)))
    named = {document["name"]: document for document in documents}
    assert len(named) == len(documents) == 7
    service = named[f"Service OneKE 1.35 {flavor.name}"]
    assert list(service["roles"]) == list(ROLES)
    for vm in service["roles"].values():
        for disk in named[vm]["disks"]:
            assert named[disk]["images"]
    for role in service["opennebula_template"]["roles"]:
        role["vm_template"] = 0
    assert complaints_6(service["opennebula_template"]) == []


def test_a_marketplace_is_told_no_sum_that_nobody_took(services: dict[str, Service]) -> None:
    text = text_of(services, "marketplace")
    assert not re.search(r"checksum|md5|sha256|url:", text)
