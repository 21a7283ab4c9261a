"""The lab's contexts against recorded ones."""

from __future__ import annotations

import pytest

from tests.lab.context import Generation, role_context
from tests.lab.service import node_name, service_template
from tests.unit.lab.recordings import read_context

OWN = ("VMID", "ONEGATE_ENDPOINT")


@pytest.mark.parametrize(
    ("name", "role"), [("001-context-and-token-vnf", "vnf"), ("002-context-master", "master")]
)
def test_a_context_of_the_older_generation_is_the_recorded_one(name: str, role: str) -> None:
    recorded, _ = read_context("7.4", f"{name}.txt")
    made = role_context(role, "1.24")
    assert {key: made[key] for key in made if key not in OWN} == {
        key: recorded[key] for key in recorded if key not in OWN and not key.startswith("ETH")
    }
    assert role_context("worker", "1.24") == role_context("storage", "1.24") == made


@pytest.mark.parametrize("generation", ["current", "1.24"])
def test_roles_have_gateways_as_parents_and_what_is_overridden(generation: Generation) -> None:
    template = service_template(
        {"vnf": 2, "master": 1, "storage": 1},
        generation=generation,
        context={"ONEAPP_K8S_EXTRA_SANS": None, "ALL": 1},
        role_contexts={"master": {"MINE": "x"}},
    )
    vnf, master, storage = template.roles
    assert (vnf.parents, master.parents, storage.parents) == ((), ("vnf",), ("vnf",))
    assert (vnf.vm.networks, master.vm.networks) == (("Public", "Private"), ("Private",))
    assert "ONEAPP_K8S_EXTRA_SANS" not in master.vm.context
    assert (master.vm.context["ALL"], master.vm.context["MINE"]) == ("1", "x")
    assert "MINE" not in storage.vm.context
    assert storage.vm.attributes["ONEAPP_STORAGE_DEVICE"] == "/dev/vdb"


def test_nodes_are_called_by_role_and_number() -> None:
    assert node_name("master_12_(service_3)") == "master12"
