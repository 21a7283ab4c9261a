"""What nodes publish, and that gateways take it as it is meant."""

from __future__ import annotations

import pytest

from appliance.system.onegate import Service, ServiceRole, Vm, encode_update
from roles.common.addresses import build_address_book
from roles.common.endpoints import build_node
from roles.common.registration import (
    registration_of_node,
    registration_of_server,
    registration_of_worker,
    withdrawn,
)
from roles.vnf.backends import read_service
from roles.vnf.haproxy import build_balancers
from tests.contexts import decide_gateway
from tests.unit.roles.nodes import node_of, params_of

_FOLLOWING = {
    "ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": "YES",
    "ONEAPP_VNF_HAPROXY_LB2_IP": "<ETH0_EP0>",
}


def taken(attributes: dict[str, str]) -> list[tuple[int, str, int]]:
    """Return what a gateway of the same service makes of a VM's attributes."""
    gateway = decide_gateway(**_FOLLOWING).params
    book = build_address_book(gateway.opennebula, gateway.keepalived.vips)
    vm = Vm(367, "master_0", 3, 3, attributes, ())
    service = Service(23, "oneke", 2, (ServiceRole("master", 1, 2, (367,), (vm,)),), True)
    seen = read_service(service, None, build_balancers(gateway.haproxy, book), book, "23")
    assert seen.complaints == ()
    return list(seen.registrations["367"])


def test_a_node_publishes_its_name() -> None:
    assert registration_of_node(node_of()) == {"ONEGATE_K8S_NODE_NAME": "oneke-ip-172-20-0-101"}


def test_a_master_stands_behind_the_supervisors_and_the_apis_balancer() -> None:
    assert registration_of_server(node_of("master")) == {
        "ONEGATE_HAPROXY_LB0_IP": "10.2.11.86",
        "ONEGATE_HAPROXY_LB0_PORT": "9345",
        "ONEGATE_HAPROXY_LB0_SERVER_HOST": "172.20.0.101",
        "ONEGATE_HAPROXY_LB0_SERVER_PORT": "9345",
        "ONEGATE_HAPROXY_LB1_IP": "10.2.11.86",
        "ONEGATE_HAPROXY_LB1_PORT": "6443",
        "ONEGATE_HAPROXY_LB1_SERVER_HOST": "172.20.0.101",
        "ONEGATE_HAPROXY_LB1_SERVER_PORT": "6443",
    }


def test_a_worker_stands_behind_the_balancers_of_the_ingress() -> None:
    assert registration_of_worker(node_of()) == {
        "ONEGATE_HAPROXY_LB2_IP": "10.2.11.86",
        "ONEGATE_HAPROXY_LB2_PORT": "443",
        "ONEGATE_HAPROXY_LB2_SERVER_HOST": "172.20.0.101",
        "ONEGATE_HAPROXY_LB2_SERVER_PORT": "32443",
        "ONEGATE_HAPROXY_LB3_IP": "10.2.11.86",
        "ONEGATE_HAPROXY_LB3_PORT": "80",
        "ONEGATE_HAPROXY_LB3_SERVER_HOST": "172.20.0.101",
        "ONEGATE_HAPROXY_LB3_SERVER_PORT": "32080",
    }


def test_a_node_serves_on_its_own_ports_whatever_port_the_balancer_has() -> None:
    ports = {f"ONEAPP_VNF_HAPROXY_LB{n}_PORT": f"1{n}000" for n in range(4)}
    node = node_of(**ports)
    registered = {**registration_of_server(node), **registration_of_worker(node)}
    assert [registered[f"ONEGATE_HAPROXY_LB{n}_PORT"] for n in range(4)] == list(ports.values())
    served = [registered[f"ONEGATE_HAPROXY_LB{n}_SERVER_PORT"] for n in range(4)]
    assert served == ["9345", "6443", "32443", "32080"]


def test_a_placeholder_is_published_for_the_gateway_to_resolve() -> None:
    node = node_of(ONEAPP_VNF_HAPROXY_LB0_IP="<ETH0_EP0>", ONEAPP_VROUTER_ETH0_VIP0=None)
    registered = registration_of_server(node)
    assert registered["ONEGATE_HAPROXY_LB0_IP"] == "<ETH0_EP0>"
    assert encode_update(registered)
    assert taken(registered) == [(0, "172.20.0.101", 9345)]


def test_without_a_gateway_nothing_is_registered() -> None:
    params = params_of("master", ONEAPP_VROUTER_ETH0_VIP0=None)
    assert registration_of_server(build_node(params, first_master="172.20.0.101")) == {}


@pytest.mark.parametrize(
    ("registered", "expected"),
    [
        (
            registration_of_server(node_of()),
            [(0, "172.20.0.101", 9345), (1, "172.20.0.101", 6443)],
        ),
        (
            registration_of_worker(node_of()),
            [(2, "172.20.0.101", 32443), (3, "172.20.0.101", 32080)],
        ),
    ],
)
def test_a_gateway_takes_a_registration_and_drops_a_withdrawn_one(
    registered: dict[str, str], expected: list[tuple[int, str, int]]
) -> None:
    assert taken(registered) == expected
    assert taken({**registered, **withdrawn(registered)}) == []
    assert encode_update(withdrawn(registered))
