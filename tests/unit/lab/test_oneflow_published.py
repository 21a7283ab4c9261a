"""The templates that are published, instantiated by the emulators of OneFlow and oned."""

from __future__ import annotations

import pytest

from tests.lab.oneflow.published import parse_attributes, read_published
from tests.lab.oneflow.template import ServiceTemplate, parse_service
from tests.lab.onegate.state import StateError, Vm
from tests.lab.published import published_template
from tests.unit.lab.oneflow_world import World

ROLES = ("vnf", "master", "worker", "storage")


@pytest.fixture
def world() -> World:
    return World()


def deploy(world: World, template: ServiceTemplate) -> dict[str, Vm]:
    """Deploy a service whose VMs report ready at once; role to its first VM."""
    # As it goes over the wire.
    service_id = world.bring_up(parse_service(template.to_json()))
    service = world.cloud.services[service_id]
    return {role.name: world.cloud.vms[role.nodes[0].vm_id] for role in service.roles}


@pytest.mark.parametrize("form", ["oneflow", "oneflow-7"])
def test_a_service_of_all_roles_comes_up(world: World, form: str) -> None:
    vms = deploy(world, published_template(form, ONEAPP_VROUTER_ETH1_VIP0="172.20.0.86"))
    assert list(vms) == list(ROLES)
    for role, vm in vms.items():
        assert vm.context["SERVICE_ID"] == vm.user_template["SERVICE_ID"]
        assert vm.context["ONEAPP_VROUTER_ETH1_VIP0"] == "172.20.0.86"
        assert {vm.context[key] for key in ("TOKEN", "REPORT_READY")} == {"YES"}
        assert ("ETH1_IP" in vm.context) == (role == "vnf")
        assert not [key for key, text in vm.context.items() if "$" in text]
    assert vms["storage"].context["ONEAPP_STORAGE_DEVICE"] == "/dev/vdb"


@pytest.mark.parametrize("form", ["oneflow", "oneflow-7"])
def test_nodes_are_told_the_way_through_a_gateway(world: World, form: str) -> None:
    vms = deploy(world, published_template(form))
    gateway = vms["vnf"].context["ETH1_IP"]
    assert gateway.startswith("172.20.0.")
    for role in ROLES[1:]:
        assert vms[role].context["FALLBACK_GW"] == gateway
        assert vms[role].context["FALLBACK_DNS"] == gateway


def test_gateways_come_first_and_roles_keep_their_least_size() -> None:
    template = published_template("oneflow")
    told = {role.name: (role.parents, role.min_vms) for role in template.roles}
    assert told == {
        "vnf": ((), 1),
        "master": (("vnf",), 1),
        "worker": (("vnf",), None),
        "storage": (("vnf",), 1),
    }
    assert template.is_straight
    assert template.is_gated


def test_an_answer_is_put_in_as_text_also_where_a_longer_name_begins_so() -> None:
    """What the templates must keep clear of, as OneFlow up to 6.10 does it."""
    service = {
        "name": "s",
        "deployment": "straight",
        "ready_status_gate": True,
        "networks": {"Net": "M|network|||id:"},
        "custom_attrs": {"A": "O|text|||", "A_B": "O|text|||"},
        "roles": [
            {
                "name": "one",
                "cardinality": 1,
                "vm_template": 0,
                "vm_template_contents": 'NIC = [NETWORK_ID = "$Net"]\nA = "$A"\nA_B = "$A_B"\n',
            }
        ],
    }
    values = {
        "networks_values": [{"Net": {"id": "0"}}],
        "custom_attrs_values": {"A": "x", "A_B": "y"},
    }
    made = read_published(service, ['CONTEXT = [ B = "$A_B" ]'], values, {"0": "Public"})
    assert made.roles[0].vm.context["B"] == "x_B"


@pytest.mark.parametrize("text", ['A = "x', "A = x", 'A = [ B = "x" C = "y" ]', '= "x"'])
def test_a_malformed_vm_template_is_refused(text: str) -> None:
    with pytest.raises(StateError, match="template: no"):
        parse_attributes(text)


def test_vectors_of_one_name_are_kept_apart() -> None:
    found = parse_attributes('A = "x"\nNIC = [ N = "[0]", M = "a,b" ]\nNIC = [\n  N = "1" ]\n')
    assert found.texts == {"A": "x"}
    assert found.vectors["NIC"] == [{"N": "[0]", "M": "a,b"}, {"N": "1"}]
