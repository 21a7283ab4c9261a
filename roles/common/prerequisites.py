"""What others have to do before a role can: NICs that are attached and have their addresses."""

from __future__ import annotations

from appliance.facts import Facts
from appliance.waiting import NotYet, Readiness, Ready
from roles.common.addresses import build_address_book
from roles.common.opennebula import OpenNebulaParams


def await_addresses(params: OpenNebulaParams, facts: Facts) -> Readiness:
    """Wait for the links of the context, and for the addresses that others put on them."""
    for nic in build_address_book(params, {}).nics:
        link = facts.link(nic.name)
        if link is None:
            return NotYet(f"{nic.name} is not there: is the NIC attached?")
        expected = None if nic.is_external else nic.address
        if expected and not facts.has_address(nic.name, expected):
            return NotYet(
                f"{nic.name} has no address {expected.ip} yet: the contextualization"
                " package sets it"
            )
    return Ready()
