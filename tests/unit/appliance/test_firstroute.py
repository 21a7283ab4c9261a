"""The way to OneGate before the role is known."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from appliance.context import Context
from appliance.firstroute import build_first_route
from appliance.networkactions import RuntimeDefaultRoute
from tests.fakes import make_link

PRIVATE = make_link("eth0", "172.20.0.101/24")
PUBLIC = make_link("eth1", "10.2.11.200/24")
LINKS = [make_link("lo", "127.0.0.1/8"), PRIVATE]
BASE = {
    "ONEGATE_ENDPOINT": "http://203.0.113.40:5030",
    "ETH0_IP": "172.20.0.101",
    "ETH0_GATEWAY": "",
    "ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.86",
}
ROUTE = RuntimeDefaultRoute(IPv4Address("172.20.0.86"), "eth0")
FALLBACK = RuntimeDefaultRoute(IPv4Address("172.20.0.1"), "eth0")


@pytest.mark.parametrize(
    ("changes", "route"),
    [
        ({}, ROUTE),
        ({"ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.86/24"}, ROUTE),
        ({"ONEGATE_ENDPOINT": "http://onegate.example:5030"}, ROUTE),
        ({"ONEGATE_ENDPOINT": "https://203.0.113.40"}, ROUTE),
        # The context names a gateway.
        ({"ETH0_GATEWAY": "172.20.0.1"}, None),
        ({"ETH7_GATEWAY": "10.0.0.1"}, None),
        ({"ETH0_GATEWAY6": "fe80::1", "XETH0_GATEWAY": "10.0.0.1"}, ROUTE),
        # OneGate is on-link, on this machine, or nowhere.
        ({"ONEGATE_ENDPOINT": "http://172.20.0.40:5030"}, None),
        ({"ONEGATE_ENDPOINT": "http://127.0.0.1:5030"}, None),
        ({"ONEGATE_ENDPOINT": ""}, None),
        ({"ONEGATE_ENDPOINT": "http://[::1"}, ROUTE),
        # The private virtual address is in no network of this VM, or it is its own.
        ({"ONEAPP_VROUTER_ETH1_VIP0": "172.21.0.86"}, None),
        ({"ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.101"}, None),
        # Where there is none, the fallback gateway is taken.
        ({"ONEAPP_VROUTER_ETH1_VIP0": "", "FALLBACK_GW": "172.20.0.1"}, FALLBACK),
        ({"FALLBACK_GW": "172.20.0.1"}, ROUTE),
        ({"ONEAPP_VROUTER_ETH1_VIP0": "", "FALLBACK_GW": "192.0.2.1"}, None),
        ({"ONEAPP_VROUTER_ETH1_VIP0": ""}, None),
        ({"ONEAPP_VROUTER_ETH1_VIP0": "nonsense"}, None),
        # The older name of the private virtual address.
        ({"ONEAPP_VROUTER_ETH1_VIP0": "", "ETH1_VROUTER_IP": "172.20.0.86"}, ROUTE),
    ],
)
def test_a_route_is_set_only_where_nothing_else_leads_to_onegate(
    changes: dict[str, str], route: RuntimeDefaultRoute | None
) -> None:
    context = Context({**BASE, **changes}, "file")
    assert build_first_route(context, LINKS) == route


def test_the_link_is_the_one_whose_network_holds_the_virtual_address() -> None:
    route = build_first_route(Context(BASE, "file"), [PUBLIC, PRIVATE])
    assert route == ROUTE


def test_a_machine_without_addresses_gets_no_route() -> None:
    assert build_first_route(Context(BASE, "file"), [make_link("eth0")]) is None
