"""Who a node is, and by which addresses its cluster is reached."""

from __future__ import annotations

import pytest

from appliance.errors import ParameterProblems
from roles.common.endpoints import (
    build_endpoints,
    build_node,
    build_tls_sans,
    find_node_nic,
)
from tests.unit.roles.nodes import params_of

NO_GATEWAY = {"ONEAPP_VROUTER_ETH0_VIP0": None, "ONEAPP_VROUTER_ETH1_VIP0": None}


def ends(first_master: str = "", /, **changes: str | None) -> list[str]:
    found = build_endpoints(params_of(**changes), first_master)
    return [str(found.supervisor), str(found.control_plane)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["10.2.11.86:9345", "10.2.11.86:6443"]),
        (
            {
                "ONEAPP_VNF_HAPROXY_LB0_PORT": "19345",
                "ONEAPP_VNF_HAPROXY_LB1_PORT": "16443",
            },
            ["10.2.11.86:19345", "10.2.11.86:16443"],
        ),
        (
            {
                "ONEAPP_RKE2_SUPERVISOR_EP": "ep0.eth0.vr:9345",
                "ONEAPP_K8S_CONTROL_PLANE_EP": "https://api.example.org:8443/",
            },
            ["ep0.eth0.vr:9345", "api.example.org:8443"],
        ),
        (
            {"ONEAPP_RKE2_SUPERVISOR_EP": "ep0.eth0.vr", "ONEAPP_VNF_HAPROXY_LB0_PORT": "19345"},
            ["ep0.eth0.vr:19345", "10.2.11.86:6443"],
        ),
        (
            {"ONEAPP_K8S_CONTROL_PLANE_EP": "[2001:db8::1]:6443"},
            ["10.2.11.86:9345", "[2001:db8::1]:6443"],
        ),
        (
            {"ONEAPP_VNF_HAPROXY_LB1_IP": "10.2.11.87"},
            ["10.2.11.86:9345", "10.2.11.86:6443"],
        ),
        (
            {
                "ONEAPP_VROUTER_ETH0_VIP0": None,
                "ONEAPP_VNF_HAPROXY_LB0_IP": "10.2.11.90",
                "ONEAPP_VNF_HAPROXY_LB1_IP": "<ETH1_EP0>",
            },
            ["10.2.11.90:9345", "172.20.0.86:6443"],
        ),
        ({"ONEAPP_VROUTER_ETH0_VIP0": "10.2.11.88/24"}, ["10.2.11.88:9345", "10.2.11.88:6443"]),
        (
            {"ONEAPP_VROUTER_ETH0_VIP0": None, "ONEAPP_VNF_LB0_IP": "10.2.11.99:7443"},
            ["10.2.11.99:9345", "10.2.11.99:7443"],
        ),
        (
            {**NO_GATEWAY, "ONEAPP_K8S_ADDRESS": "172.20.0.9", "ONEAPP_K8S_PORT": "7443"},
            ["172.20.0.9:9345", "172.20.0.9:7443"],
        ),
        (NO_GATEWAY, ["None", "None"]),
    ],
)
def test_what_is_given_wins_then_the_gateway_then_a_master(
    changes: dict[str, str | None], expected: list[str]
) -> None:
    assert ends(**changes) == expected


def test_without_a_gateway_the_first_master_is_the_endpoint() -> None:
    assert ends("172.20.0.101", **NO_GATEWAY) == ["172.20.0.101:9345", "172.20.0.101:6443"]
    assert ends("172.20.0.101") == ["10.2.11.86:9345", "10.2.11.86:6443"]


def test_a_placeholder_of_the_gateways_own_address_tells_a_node_nothing() -> None:
    changes = {**NO_GATEWAY, "ONEAPP_VNF_HAPROXY_LB0_IP": "<ETH0_EP0>"}
    assert ends(**changes) == ["None", "None"]
    balancer = build_endpoints(params_of(**changes)).balancers[0]
    assert (str(balancer.address), balancer.port) == ("<ETH0_EP0>", 9345)


def test_every_balancer_has_an_address_and_a_port() -> None:
    found = build_endpoints(params_of(ONEAPP_VNF_HAPROXY_LB2_PORT="8443"))
    assert [(one.number, str(one.address), one.port) for one in found.balancers] == [
        (0, "10.2.11.86", 9345),
        (1, "10.2.11.86", 6443),
        (2, "10.2.11.86", 8443),
        (3, "10.2.11.86", 80),
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("localhost", "127.0.0.1", "10.2.11.86")),
        (
            {
                "ONEAPP_K8S_EXTRA_SANS": "k8s.example.org, ,10.2.11.86 *.apps.example.org",
                "ONEAPP_RKE2_SUPERVISOR_EP": "sup.example.org:9345",
                "ONEAPP_K8S_CONTROL_PLANE_EP": "api.example.org:6443",
            },
            (
                "k8s.example.org",
                "10.2.11.86",
                "*.apps.example.org",
                "api.example.org",
                "sup.example.org",
            ),
        ),
        (NO_GATEWAY, ("localhost", "127.0.0.1")),
    ],
)
def test_the_certificate_holds_the_hosts_of_both_endpoints_each_once(
    changes: dict[str, str | None], expected: tuple[str, ...]
) -> None:
    params = params_of("master", **changes)
    assert build_tls_sans(params, build_endpoints(params)) == expected


# --- the node's own address -----------------------------------------------------------------------

TWO_NICS = {"ETH0_IP": "198.51.100.7", "ETH1_IP": "172.20.0.101", "ETH1_MASK": "255.255.255.0"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "eth0 172.20.0.101/24"),
        (TWO_NICS, "eth1 172.20.0.101/24"),
        ({**TWO_NICS, "ONEAPP_K8S_NODE_NIC": "eth0"}, "eth0 198.51.100.7/24"),
        (
            {**TWO_NICS, "ONEAPP_VROUTER_ETH1_VIP0": None, "FALLBACK_GW": "172.20.0.1"},
            "eth1 172.20.0.101/24",
        ),
        ({**TWO_NICS, "ONEAPP_VROUTER_ETH1_VIP0": None}, "eth0 198.51.100.7/24"),
        ({**TWO_NICS, "ONEAPP_VROUTER_ETH1_VIP0": "10.9.9.9"}, "eth0 198.51.100.7/24"),
        (
            {**TWO_NICS, "ONEAPP_VROUTER_ETH1_VIP0": None, "ETH0_VROUTER_MANAGEMENT": "YES"},
            "eth1 172.20.0.101/24",
        ),
        (
            {**TWO_NICS, "ONEAPP_VROUTER_ETH1_VIP0": None, "ETH0_EXTERNAL": "YES"},
            "eth1 172.20.0.101/24",
        ),
        ({**TWO_NICS, "ETH0_IP": "", "ONEAPP_VROUTER_ETH1_VIP0": None}, "eth1 172.20.0.101/24"),
        ({"ETH0_VROUTER_MANAGEMENT": "YES"}, "eth0 172.20.0.101/24"),
        ({**TWO_NICS, "ETH1_MASK": None}, "eth0 198.51.100.7/24"),
        ({**TWO_NICS, "ETH1_MASK": None, "ETH1_NETWORK": "172.20.0.0"}, "eth1 172.20.0.101/16"),
    ],
)
def test_the_nic_is_the_named_one_else_that_of_the_private_network_else_the_first(
    changes: dict[str, str | None], expected: str
) -> None:
    found = find_node_nic(params_of(**changes))
    assert f"{found.name} {found.address}" == expected


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"ONEAPP_K8S_NODE_NIC": "eth7"}, "ONEAPP_K8S_NODE_NIC", "this VM has eth0"),
        ({"ETH0_IP": ""}, "ETH<nic>_IP", "missing"),
        ({"ETH0_EXTERNAL": "YES"}, "ETH<nic>_IP", "missing"),
    ],
)
def test_a_node_without_an_address_is_refused(
    changes: dict[str, str | None], key: str, words: str
) -> None:
    with pytest.raises(ParameterProblems) as refused:
        find_node_nic(params_of(**changes))
    (problem,) = refused.value.problems
    assert problem.key == key
    assert words in problem.accepted


def test_a_node_is_named_after_its_address_unless_it_has_a_name() -> None:
    assert build_node(params_of()).node_name == "oneke-ip-172-20-0-101"
    assert build_node(params_of(ONEAPP_K8S_NODENAME="Rack7-A")).node_name == "rack7-a"
    moved = build_node(params_of(ETH0_IP="172.20.0.150"), node_name="oneke-ip-172-20-0-101")
    assert moved.node_name == "oneke-ip-172-20-0-101"
    assert str(moved.address) == "172.20.0.150"
