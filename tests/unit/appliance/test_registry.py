"""From a role's name to its handler."""

from __future__ import annotations

import pytest

from appliance.errors import UnknownRole
from appliance.registry import known_roles, make_role
from appliance.service import Service


def test_every_known_role_can_be_made(services: dict[str, Service]) -> None:
    assert "vnf" in known_roles()
    assert "common" not in known_roles()
    for name in known_roles():
        assert make_role(name, services).ready_timeout_s > 0


@pytest.mark.parametrize(
    "name", ["butler", "", "common", "VNF", "vnf.role", "../vnf", "os", "__init__"]
)
def test_a_name_without_a_handler_is_an_unknown_role(
    name: str, services: dict[str, Service]
) -> None:
    with pytest.raises(UnknownRole, match="this agent has no handler") as caught:
        make_role(name, services)
    assert "vnf" in str(caught.value)
    assert caught.value.exit_code == 78
