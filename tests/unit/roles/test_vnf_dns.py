"""The resolver's decisions."""

from __future__ import annotations

import pytest

from appliance.errors import ParameterProblems
from roles.common.addresses import build_address_book
from roles.vnf.dns import UnboundConf, build_resolver
from tests.contexts import decide_gateway


def resolver(**changes: str | None) -> UnboundConf:
    params = decide_gateway(ONEAPP_VNF_DNS_ENABLED="YES", **changes).params
    book = build_address_book(params.opennebula, params.keepalived.vips)
    return build_resolver(params.dns, params.opennebula, book)


def listeners(conf: UnboundConf) -> list[str]:
    return [f"{one.address}@{one.port}" for one in conf.listeners]


def asked(conf: UnboundConf) -> list[str]:
    return [f"{one.address}@{one.port}" for one in conf.forwarders]


def test_it_answers_on_own_and_virtual_addresses_of_the_chosen_interface() -> None:
    conf = resolver(ONEAPP_VNF_DNS_INTERFACES="eth1")
    assert listeners(conf) == ["172.20.0.100@53", "172.20.0.86@53"]
    assert [str(network) for network in conf.allowed_networks] == ["172.20.0.0/24"]


def test_an_address_and_a_port_restrict_where_it_answers() -> None:
    conf = resolver(ONEAPP_VNF_DNS_INTERFACES="172.20.0.86@5353")
    assert listeners(conf) == ["172.20.0.86@5353"]


def test_an_administration_interface_is_left_out() -> None:
    conf = resolver(ETH0_VROUTER_MANAGEMENT="YES", ONEAPP_VNF_HAPROXY_ENABLED="NO")
    assert all(one.startswith("172.20.0.") for one in listeners(conf))


def test_own_virtual_and_endpoint_names_are_answered() -> None:
    records = {record.name: str(record.address) for record in resolver().records}
    assert records == {
        "ip0.eth0.vr": "10.2.11.200",
        "vip0.eth0.vr": "10.2.11.86",
        "ep0.eth0.vr": "10.2.11.86",
        "ip0.eth1.vr": "172.20.0.100",
        "vip0.eth1.vr": "172.20.0.86",
        "ep0.eth1.vr": "172.20.0.86",
    }


def test_without_a_virtual_address_the_endpoint_is_the_own_one() -> None:
    conf = resolver(
        ONEAPP_VROUTER_ETH0_VIP0=None,
        ONEAPP_VNF_NAT4_PORT_FWD1=None,
        ONEAPP_VNF_DNS_CLUSTER_DOMAIN="gw.example",
    )
    assert ("ep0.eth0.gw.example", "10.2.11.200") in {
        (record.name, str(record.address)) for record in conf.records
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ONEAPP_VNF_DNS_NAMESERVERS": "1.1.1.1,8.8.8.8@5353"}, ["1.1.1.1@53", "8.8.8.8@5353"]),
        (
            {"ETH0_DNS": "10.2.11.40 9.9.9.9", "ETH1_DNS": "9.9.9.9"},
            ["10.2.11.40@53", "9.9.9.9@53"],
        ),
        ({"ETH0_DNS": "10.2.11.40", "ONEAPP_VNF_DNS_USE_ROOTSERVERS": "YES"}, []),
        (
            {"ONEAPP_VNF_DNS_NAMESERVERS": "1.1.1.1", "ONEAPP_VNF_DNS_USE_ROOTSERVERS": "YES"},
            ["1.1.1.1@53"],
        ),
        ({"ETH1_DNS": "172.20.0.86 172.20.0.100 2001:db8::1"}, []),
        ({}, []),
    ],
)
def test_named_servers_are_asked_else_those_of_the_context_but_never_itself(
    changes: dict[str, str | None], expected: list[str]
) -> None:
    assert asked(resolver(**changes)) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ONEAPP_VNF_DNS_NAMESERVERS", "1.1.1.1,dns.example"),
        ("ONEAPP_VNF_DNS_NAMESERVERS", "1.1.1.1@70000"),
        ("ONEAPP_VNF_DNS_ALLOWED_NETWORKS", "172.20.0.5/24"),
        ("ONEAPP_VNF_DNS_CLUSTER_DOMAIN", 'vr" static'),
        ("ONEAPP_VNF_DNS_MAX_CACHE_TTL", "-1"),
    ],
)
def test_what_is_no_setting_is_refused(key: str, value: str) -> None:
    with pytest.raises(ParameterProblems) as caught:
        resolver(**{key: value})
    assert [problem.key for problem in caught.value.problems] == [key]


def test_without_a_way_out_and_without_servers_nobody_is_asked() -> None:
    params = decide_gateway(ONEAPP_VNF_DNS_ENABLED="YES", ETH0_DNS=None, ETH1_DNS=None).params
    book = build_address_book(params.opennebula, params.keepalived.vips)
    for is_airgapped in (False, True):
        conf = build_resolver(params.dns, params.opennebula, book, is_airgapped=is_airgapped)
        assert (conf.forwarders, conf.is_closed) == ((), is_airgapped)


def test_servers_that_are_named_are_asked_though_there_is_no_way_out() -> None:
    params = decide_gateway(ONEAPP_VNF_DNS_ENABLED="YES", ETH0_DNS="10.2.11.40").params
    book = build_address_book(params.opennebula, params.keepalived.vips)
    conf = build_resolver(params.dns, params.opennebula, book, is_airgapped=True)
    assert (asked(conf), conf.is_closed) == (["10.2.11.40@53"], False)
