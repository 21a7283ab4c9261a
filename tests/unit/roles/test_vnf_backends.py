"""Backends that follow OneGate: registrations in, commands for HAProxy out."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.system.onegate import Lease, Service, ServiceRole, Vm
from roles.common.addresses import AddressBook, build_address_book
from roles.vnf import haproxy
from roles.vnf.backends import (
    Registrations,
    RunningServer,
    Seen,
    from_text,
    merge,
    parse_statistics,
    plan_transition,
    read_leases,
    read_service,
    to_text,
    with_registrations,
)
from roles.vnf.haproxy import BalancerModel, build_balancers
from tests.contexts import decide_gateway


def declared(**changes: str | None) -> tuple[BalancerModel, AddressBook]:
    params = decide_gateway(ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED="YES", **changes).params
    book = build_address_book(params.opennebula, params.keepalived.vips)
    return build_balancers(params.haproxy, book), book


MODEL, BOOK = declared()


def registration(balancer: int = 3, port: str = "80", **changes: str | None) -> dict[str, str]:
    """What a worker writes to be behind a balancer, with keys changed or left out."""
    keys: dict[str, str | None] = {
        "IP": "10.2.11.86",
        "PORT": port,
        "SERVER_HOST": "172.20.0.110",
        "SERVER_PORT": "32080",
        **changes,
    }
    return {f"ONEGATE_HAPROXY_LB{balancer}_{k}": v for k, v in keys.items() if v is not None}


def vm(vm_id: int, attributes: Mapping[str, object], lcm_state: int = 3) -> Vm:
    return Vm(vm_id, f"worker_{vm_id}", 3, lcm_state, attributes, ())


def service(
    *vms: Vm, cardinality: int | None = None, unread: tuple[int, ...] = (), complete: bool = True
) -> Service:
    """A service with this gateway (VM 365) and some workers, some of which could not be read."""
    gateway = ServiceRole("vnf", 1, 2, (365,), (vm(365, {}),))
    ids = (*(one.vm_id for one in vms), *unread)
    workers = ServiceRole("worker", cardinality or len(ids), 2, ids, vms)
    return Service(23, "OneKE", 2, (gateway, workers), complete and not unread)


def seen(found: Service, identity: str = "23") -> Seen:
    return read_service(found, 365, MODEL, BOOK, identity)


def servers_of(registrations: Registrations, name: str = "lb3_80") -> list[str]:
    model = with_registrations(MODEL, registrations)
    (balancer,) = (one for one in model.balancers if one.name == name)
    return [f"{server.host}:{server.port}" for server in balancer.servers]


STATIC = "172.20.0.102:32080"


def test_a_registered_server_stands_behind_the_static_ones() -> None:
    found = seen(service(vm(110, registration())))
    assert servers_of(found.registrations) == [STATIC, "172.20.0.110:32080"]
    assert found.is_whole
    assert found.complaints == ()


def test_a_placeholder_stands_for_the_balancers_address() -> None:
    found = seen(service(vm(110, registration(IP="<ETH0_EP0>"))))
    assert servers_of(found.registrations)[1:] == ["172.20.0.110:32080"]


@pytest.mark.parametrize(
    "attributes",
    [
        registration(IP="10.2.11.99"),
        registration(PORT="8080"),
        registration(balancer=4),
        registration(ID="99"),
        {**registration(SERVER_HOST="", SERVER_PORT="")},
        {},
    ],
    ids=[
        "another address",
        "another port",
        "another number",
        "another gateway",
        "withdrawn",
        "none",
    ],
)
def test_a_registration_for_another_balancer_is_none_of_ours(attributes: dict[str, str]) -> None:
    found = seen(service(vm(110, attributes)))
    assert servers_of(found.registrations) == [STATIC]
    assert found.complaints == ()


def test_a_registration_limited_to_this_service_counts() -> None:
    found = seen(service(vm(110, registration(ID="23"))))
    assert servers_of(found.registrations)[1:] == ["172.20.0.110:32080"]


def test_the_same_server_counts_once_whoever_registers_it() -> None:
    static = registration(SERVER_HOST="172.20.0.102")
    found = seen(service(vm(110, registration()), vm(111, registration()), vm(112, static)))
    assert servers_of(found.registrations) == [STATIC, "172.20.0.110:32080"]


GARBAGE = {
    "a newline": {"SERVER_HOST": "a 172.20.0.110:32080\n    option srvtcpka\n    #"},
    "a blank": {"SERVER_HOST": "172.20.0.110 backup"},
    "a name": {"SERVER_HOST": "worker.example"},
    "nothing beside a port": {"SERVER_HOST": ""},
    "a megabyte": {"SERVER_HOST": "x" * 1_048_576},
    "port 99999": {"SERVER_PORT": "99999"},
    "a word for a port": {"SERVER_PORT": "http"},
    "no port": {"SERVER_PORT": None},
    "everything": {"SERVER_HOST": "0.0.0.0"},
    "loopback": {"SERVER_HOST": "127.0.0.1"},
    "a group": {"SERVER_HOST": "224.0.0.18"},
    "the balancer itself": {"SERVER_HOST": "10.2.11.86", "SERVER_PORT": "80"},
    "no balancer": {"IP": None, "PORT": None},
    "a balancer that is a word": {"IP": "gateway"},
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_costs_only_its_own_server_and_is_reported_by_name(case: str) -> None:
    found = seen(service(vm(110, registration(**GARBAGE[case])), vm(111, registration())))
    assert servers_of(found.registrations) == [STATIC, "172.20.0.110:32080"]
    (complaint,) = found.complaints
    assert complaint.startswith("VM 110 (worker_110): ONEGATE_HAPROXY_LB3_")
    assert "\n" not in complaint
    assert len(complaint) < 300


@given(host=st.text(max_size=60), port=st.text(max_size=12), address=st.text(max_size=40))
def test_no_text_of_a_sibling_becomes_syntax(host: str, port: str, address: str) -> None:
    texts = registration(SERVER_HOST=host, SERVER_PORT=port, IP=address)
    for attributes in (texts, registration(SERVER_HOST=host, SERVER_PORT=port)):
        found = seen(service(vm(110, attributes)))
        model = with_registrations(MODEL, found.registrations)
        steps = plan_transition(
            model,
            (),
            frozenset(one.name for one in model.balancers),
            frozenset(),
            server_options=haproxy.SERVER_OPTIONS,
        ).steps
        for command in (command for step in steps for command in step.commands):
            assert set(command) <= set("abcdefghijklmnopqrstuvwxyz0123456789_./: -"), command


def test_attributes_that_are_no_text_are_passed_over() -> None:
    attributes = {**registration(), "ONEGATE_HAPROXY_LB3_SERVER_HOST": ["172.20.0.110", "x"]}
    found = seen(service(vm(110, attributes)))
    assert servers_of(found.registrations) == [STATIC]


def test_a_vm_that_is_shut_down_is_gone() -> None:
    found = seen(service(vm(110, registration(), lcm_state=12)))
    assert servers_of(found.registrations) == [STATIC]


KNOWN: Registrations = {
    "110": ((3, "172.20.0.110", 32080),),
    "111": ((3, "172.20.0.111", 32080),),
}


def test_a_whole_answer_replaces_what_was_known() -> None:
    merged = merge(KNOWN, seen(service(vm(110, registration()))))
    assert servers_of(merged) == [STATIC, "172.20.0.110:32080"]


@pytest.mark.parametrize(
    "found",
    [
        service(vm(110, registration()), unread=(111,)),
        service(vm(110, registration()), cardinality=2, complete=False),
        Service(23, "OneKE", 2, (), True),
        Service(23, "OneKE", 2, (ServiceRole("worker", 0, 2, (), ()),), True),
    ],
    ids=["one VM unreadable", "fewer VMs than there should be", "no roles", "this VM missing"],
)
def test_an_answer_that_is_not_whole_takes_nobody_away(found: Service) -> None:
    merged = merge(KNOWN, seen(found))
    assert servers_of(merged) == [STATIC, "172.20.0.110:32080", "172.20.0.111:32080"]


def test_a_vm_that_can_be_read_is_believed_even_in_an_answer_that_is_not_whole() -> None:
    moved = registration(SERVER_HOST="172.20.0.115")
    merged = merge(KNOWN, seen(service(vm(110, moved), unread=(111,))))
    assert servers_of(merged) == [STATIC, "172.20.0.111:32080", "172.20.0.115:32080"]


def test_leases_of_a_virtual_router_register_too() -> None:
    attributes = {"BACKEND": "YES", **registration(ID="31")}
    leases = [
        Lease(9, "10.77.2.64", attributes),
        Lease(9, "10.77.2.65", {**attributes, "BACKEND": "NO"}),
        Lease(9, "10.77.2.66", registration(SERVER_HOST="172.20.0.120")),
    ]
    found = read_leases(leases, MODEL, BOOK, "31")
    assert servers_of(found.registrations) == [STATIC, "172.20.0.110:32080"]


def test_what_is_known_survives_a_restart() -> None:
    assert from_text(to_text(KNOWN)) == KNOWN


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"registrations": 3}',
        '{"registrations": {"1": [[3, "a b", 80]]}}',
        '{"registrations": {"1": [[3, "10.0.0.1", 99999]]}}',
        json.dumps({"registrations": {"1": [3]}}),
    ],
)
def test_a_broken_memory_is_an_empty_one(text: str | None) -> None:
    assert from_text(text) == {}


# ---- What HAProxy runs, and the way to what it should

STATISTICS = """# pxname,svname,qcur,scur,status,type,check_status,last_chk,addr,
lb3_80,FRONTEND,,2,OPEN,0,,,,
lb3_80,lb3_172.20.0.102_32080,0,1,UP,2,L4OK,,172.20.0.102:32080,
lb3_80,lb3_172.20.0.111_32080,0,0,DOWN,2,* L4CON,Connection refused,172.20.0.111:32080,
lb3_80,BACKEND,0,1,UP,1,,,,
"""


def test_statistics_tell_each_server_with_its_health() -> None:
    first, second = parse_statistics(STATISTICS)
    assert (first.name, first.sessions, first.is_up) == ("lb3_172.20.0.102_32080", 1, True)
    assert (second.status, second.check) == ("DOWN", "L4CON Connection refused")
    assert not second.is_up


def test_an_answer_that_is_no_statistics_tells_no_server() -> None:
    assert parse_statistics("") == ()


def running(host: str, status: str = "UP", sessions: int = 0) -> RunningServer:
    return RunningServer("lb3_80", f"lb3_{host}_32080", f"{host}:32080", status, sessions, "")


def commands(
    registrations: Registrations, *servers: RunningServer, overdue: tuple[str, ...] = ()
) -> list[str]:
    transition = plan_transition(
        with_registrations(MODEL, registrations),
        (running("172.20.0.102"), *servers),
        frozenset({"lb3_80"}),
        frozenset(overdue),
        server_options=haproxy.SERVER_OPTIONS,
    )
    return [command for step in transition.steps for command in step.commands]


def test_a_new_server_is_added_checked_and_enabled() -> None:
    added = commands({"110": ((3, "172.20.0.110", 32080),)})
    assert [command.split(" ")[:3] for command in added] == [
        ["add", "server", "lb3_80/lb3_172.20.0.110_32080"],
        ["enable", "health", "lb3_80/lb3_172.20.0.110_32080"],
        ["enable", "server", "lb3_80/lb3_172.20.0.110_32080"],
    ]
    assert added[0].endswith(f"172.20.0.110:32080 {haproxy.SERVER_OPTIONS['tcp']}")


def test_what_runs_as_it_should_needs_no_command() -> None:
    assert commands({"110": ((3, "172.20.0.110", 32080),)}, running("172.20.0.110")) == []


WHERE = "lb3_80/lb3_172.20.0.110_32080"


def test_a_server_is_drained_first_and_deleted_in_a_later_pass_if_nothing_holds_it() -> None:
    assert commands({}, running("172.20.0.110")) == [f"set server {WHERE} state drain"]
    assert commands({}, running("172.20.0.110", "DRAIN")) == [
        f"set server {WHERE} state maint",
        f"del server {WHERE}",
    ]


def test_a_server_that_is_held_by_connections_is_only_drained() -> None:
    assert commands({}, running("172.20.0.110", sessions=2)) == [f"set server {WHERE} state drain"]
    assert commands({}, running("172.20.0.110", "DRAIN", sessions=2)) == []


def test_after_a_stated_time_its_sessions_are_closed() -> None:
    assert commands({}, running("172.20.0.110", "DRAIN", sessions=2), overdue=(WHERE,)) == [
        f"set server {WHERE} state maint",
        f"shutdown sessions server {WHERE}",
        f"del server {WHERE}",
    ]


def test_a_server_that_comes_back_while_it_leaves_is_taken_back() -> None:
    known = {"110": ((3, "172.20.0.110", 32080),)}
    assert commands(known, running("172.20.0.110", "DRAIN", sessions=2)) == [
        f"set server {WHERE} state ready"
    ]


def test_a_backend_that_haproxy_lacks_is_named_and_left_alone() -> None:
    transition = plan_transition(
        with_registrations(MODEL, KNOWN),
        (),
        frozenset(),
        frozenset(),
        server_options=haproxy.SERVER_OPTIONS,
    )
    assert transition.unknown == ("lb0_9345", "lb1_6443", "lb3_80")
    assert transition.steps == ()


def test_who_is_not_even_listed_any_more_is_gone_although_another_can_not_be_read() -> None:
    found = seen(service(vm(112, registration(SERVER_HOST="172.20.0.112")), unread=(111,)))
    merged = merge(KNOWN, found)
    assert servers_of(merged) == [STATIC, "172.20.0.111:32080", "172.20.0.112:32080"]


def test_a_registration_can_not_close_a_loop_through_another_balancer() -> None:
    found = seen(service(vm(110, registration(SERVER_HOST="10.2.11.86", SERVER_PORT="6443"))))
    assert servers_of(found.registrations) == [STATIC]
    assert "is a balancer itself" in found.complaints[0]


def test_a_siblings_port_does_not_change_how_others_are_checked() -> None:
    odd = registration(balancer=1, port="6443", SERVER_PORT="6444")
    model = with_registrations(MODEL, seen(service(vm(110, odd))).registrations)
    assert [one.check for one in model.balancers] == ["supervisor", "api", "tcp"]
