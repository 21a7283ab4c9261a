"""The area `external_ipv4s`: which of the VM's addresses, as OneGate knows them, its links have.

No node asks this: it takes its addresses from the context, and waits until its links have them
(`roles.common.prerequisites`). The area is due all the same, so what answers it is here, where no
node has it. Of a node's own code only the reading of OneGate's and the kernel's answers is run.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Any

from appliance.errors import OneGateUnavailable, OnekeError
from appliance.system.network import Link, parse_links
from appliance.system.onegate import VmNic, parse_vm
from tests.conformance.vectors import Inputs


def decide_external_ipv4s(inputs: Inputs) -> dict[str, Any]:
    """Tell the VM's own addresses that are really configured."""
    document = inputs.onegate.get("vm")
    if not document:
        raise OneGateUnavailable("no answer about this VM")
    links = parse_links(inputs.call.get("ip_addr") or [])
    found = configured_addresses(parse_vm(document).nics, links)
    if not found:
        raise OnekeError("no own address is configured")
    return {"ipv4s": [str(address) for address in found]}


def configured_addresses(nics: Iterable[VmNic], links: Iterable[Link]) -> tuple[IPv4Address, ...]:
    """Return the VM's own addresses that are really configured, in the order of its NICs.

    A NIC is found by its hardware address; virtual addresses on the same link are not its own.
    """
    by_mac: dict[str, list[Link]] = {}
    for link in links:
        if link.mac and link.name != "lo":
            by_mac.setdefault(link.mac.lower(), []).append(link)
    found = [
        own.ip
        for nic in nics
        for link in by_mac.get(nic.mac.lower(), ())
        for own in link.addresses
        if str(own.ip) == nic.ip
    ]
    return tuple(dict.fromkeys(found))
