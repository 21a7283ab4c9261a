"""Gateway and resolver of a private node: what is decided, and what a run makes of it."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import PurePosixPath

import pytest

from appliance.system.network import (
    DEFAULT_HALVES,
    IFUPDOWN,
    NETWORKD,
    LinkManager,
    Route,
    route_in_force,
)
from appliance.waiting import NotYet, Ready
from roles.common.nameserver import RESOLV_CONF, AnswersQuestions, build_query, is_answer
from roles.common.nodenetwork import (
    CONTEXT_HOOK,
    DHCLIENT_HOOK,
    GIVEN,
    IF_UP_HOOK,
    NETWORKD_UNIT,
    RESOLVED_CONF,
    RESOLVED_UNIT,
    SCRIPT,
    LinkManagers,
    await_gateway_link,
    build_node_network,
    check_node_network,
    describe_node_network,
    node_network_facts,
    plan_node_network,
)
from tests.fakes import FakeNetwork, PowerCut
from tests.fakes.units import STOPPED
from tests.unit.roles.networknode import (
    DROP_IN,
    NETPLAN,
    RUNNING,
    SERVICES,
    STUB,
    VIP,
    Machine,
    Params,
    answer,
    params,
)


def decided(**changes: str | None) -> tuple[str, str]:
    wanted = params(**changes)
    network = build_node_network(wanted, Machine().answers().facts(wanted))
    return str(network.gateway), str(network.nameserver)


# --- what is decided ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (VIP, VIP)),
        ({"ONEAPP_VROUTER_ETH1_VIP0": f"{VIP}/24"}, (VIP, VIP)),
        ({"ONEAPP_VROUTER_ETH1_VIP0": None, "ETH1_VROUTER_IP": VIP}, (VIP, VIP)),
        ({"ONEAPP_VNF_DNS_ENABLED": "YES"}, (VIP, VIP)),
        ({"ONEAPP_VNF_DNS_ENABLED": "NO"}, (VIP, "None")),
        ({"FALLBACK_GW": "172.20.0.1", "FALLBACK_DNS": "172.20.0.2"}, (VIP, VIP)),
        ({"ONEAPP_VROUTER_ETH1_VIP0": "", "FALLBACK_GW": "172.20.0.1"}, ("172.20.0.1", "None")),
        ({"ONEAPP_VROUTER_ETH1_VIP0": None, "FALLBACK_DNS": "1.1.1.1"}, ("None", "1.1.1.1")),
        (
            {
                "ONEAPP_VROUTER_ETH1_VIP0": None,
                "FALLBACK_DNS": "1.1.1.1",
                "ONEAPP_VNF_DNS_ENABLED": "NO",
            },
            ("None", "None"),
        ),
        ({"ONEAPP_VROUTER_ETH1_VIP0": None}, ("None", "None")),
    ],
)
def test_gateway_and_name_server_come_from_the_virtual_address_or_the_fallbacks(
    changes: dict[str, str | None], expected: tuple[str, str]
) -> None:
    assert decided(**changes) == expected


def test_a_virtual_address_that_does_not_answer_is_gateway_and_no_name_server() -> None:
    network = build_node_network(params(), Machine().facts(params()))
    assert (str(network.gateway), network.nameserver) == (VIP, None)


def test_a_name_server_that_was_asked_for_is_looked_at_every_time_else_once_a_run() -> None:
    probe = AnswersQuestions(IPv4Address(VIP))
    assert node_network_facts(params()).lasting == (probe,)
    assert probe in node_network_facts(params(ONEAPP_VNF_DNS_ENABLED="YES")).probes
    off = node_network_facts(params(ONEAPP_VNF_DNS_ENABLED="NO"))
    assert (off.lasting, off.probes) == ((), (LinkManagers(),))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"ONEAPP_VROUTER_ETH1_VIP0": "10.9.9.9"}, "ONEAPP_VROUTER_ETH1_VIP0"),
        ({"ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.101"}, "ONEAPP_VROUTER_ETH1_VIP0"),
        ({"ONEAPP_VROUTER_ETH1_VIP0": None, "FALLBACK_GW": "10.9.9.9"}, "FALLBACK_GW"),
    ],
)
def test_a_gateway_that_can_not_be_one_is_a_problem(
    changes: dict[str, str | None], key: str
) -> None:
    (problem,) = check_node_network(params(**changes)).problems
    assert problem.key == key


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ONEAPP_VROUTER_ETH1_VIP0": None},
        {"ETH0_IP": "", "ONEAPP_VROUTER_ETH1_VIP0": "10.9.9.9"},
        {"ETH1_MAC": "02:00:00:00:00:01", "ONEAPP_VROUTER_ETH1_VIP0": "10.9.9.9"},
        {"ETH1_IP": "10.9.9.8", "ONEAPP_VROUTER_ETH1_VIP0": "10.9.9.9"},
    ],
)
def test_a_gateway_that_may_be_one_is_none(changes: dict[str, str | None]) -> None:
    assert check_node_network(params(**changes)).problems == ()


def test_a_gateway_vm_named_beside_a_virtual_address_is_as_the_usual_templates_have_it() -> None:
    found = check_node_network(params(FALLBACK_GW="172.20.0.1", FALLBACK_DNS="1.1.1.1"))
    assert (found.problems, found.warnings) == ((), ())


def test_a_gateway_is_awaited_until_a_link_is_in_its_network() -> None:
    machine = Machine()
    machine.network.remove_address("eth0", "172.20.0.101/24")
    assert isinstance(await_gateway_link(params(), machine.facts(params())), NotYet)
    assert plan_node_network(params(), machine.facts(params()), SERVICES) == ()
    machine.network.add_address("eth0", "172.20.0.101/24")
    assert await_gateway_link(params(), machine.facts(params())) == Ready()
    without = params(ONEAPP_VROUTER_ETH1_VIP0=None)
    assert await_gateway_link(without, machine.facts(without)) == Ready()


# --- questions to a name server -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "counts"), [(0x80, True), (0x83, True), (0x82, False), (0x85, False)]
)
def test_an_answer_counts_and_a_refusal_or_failure_does_not(code: int, counts: bool) -> None:
    query = build_query(7)
    assert is_answer(query, query[:2] + bytes([0x81, code]) + query[4:]) is counts


def test_another_answer_an_echo_and_a_stub_do_not_count() -> None:
    query = build_query(7)
    assert not is_answer(query, answer(build_query(8)))
    assert not is_answer(query, query)
    assert not is_answer(query, b"\x00\x07\x81")


def test_a_question_that_was_lost_is_asked_again() -> None:
    machine = Machine()
    asked: list[bytes] = []

    def second_time(query: bytes) -> bytes:
        asked.append(query)
        return answer(query) if len(asked) == 2 else b""

    machine.sockets.servers[VIP, 53] = second_time
    assert AnswersQuestions(IPv4Address(VIP)).look(machine.system)


# --- a run ----------------------------------------------------------------------------------------

STACKS = {
    "nobody": None,
    "ifupdown": LinkManager(IFUPDOWN),
    "netplan": NETPLAN,
}


def machine_of(stack: str, resolv_conf: str | None = None) -> Machine:
    machine = Machine() if resolv_conf is None else Machine(resolv_conf)
    manager = STACKS[stack]
    return machine.managed_by(manager) if manager else machine


EVERY_STACK = pytest.mark.parametrize("stack", STACKS)


@EVERY_STACK
def test_a_run_sets_gateway_and_name_server_and_a_second_one_changes_nothing(stack: str) -> None:
    machine = machine_of(stack).answers()
    machine.run(params())
    assert machine.default_routes() == [VIP]
    assert "nameserver 172.20.0.86\nsearch lab\n" in machine.resolver()
    assert "10.2.11.1" not in machine.resolver()
    assert machine.changed(params()) == []


@EVERY_STACK
def test_what_is_taken_from_the_context_is_taken_from_the_machine(stack: str) -> None:
    machine = machine_of(stack).answers()
    untouched = machine.files.texts()
    machine.run(params())
    without = params(ONEAPP_VROUTER_ETH1_VIP0=None)
    machine.run(without)
    assert machine.default_routes() == []
    left = {k: v for k, v in machine.files.texts().items() if not k.startswith("/var/lib/oneke")}
    assert left == untouched
    assert machine.changed(without) == []


@EVERY_STACK
def test_another_virtual_address_takes_the_place_of_the_former(stack: str) -> None:
    machine = machine_of(stack).answers().answers("172.20.0.87")
    machine.run(params())
    other = params(ONEAPP_VROUTER_ETH1_VIP0="172.20.0.87")
    machine.run(other)
    assert machine.default_routes() == ["172.20.0.87"]
    assert "172.20.0.87" in machine.resolver()
    assert VIP not in machine.resolver()
    assert machine.changed(other) == []


@EVERY_STACK
@pytest.mark.parametrize("resolv_conf", [STUB, "nameserver 10.2.11.1\n"], ids=["stub", "file"])
def test_a_run_that_is_cut_anywhere_is_made_good_by_the_next(stack: str, resolv_conf: str) -> None:
    whole = machine_of(stack, resolv_conf).answers()
    whole.run(params())
    count = len(whole.tape.changes)
    for wanted in (params(), params(ONEAPP_VROUTER_ETH1_VIP0=None)):
        for cut in range(count + 1):
            machine = machine_of(stack, resolv_conf).answers()
            machine.run(params(ONEAPP_VROUTER_ETH1_VIP0="172.20.0.87"))
            machine.tape.cut_before = len(machine.tape.changes) + cut
            try:
                machine.run(wanted)
            except PowerCut:
                machine.tape.cut_before = None
            machine.tape.cut_before = None
            before = len(machine.tape.changes)
            machine.run(wanted)
            vip = wanted.keepalived.vips.get((1, 0))
            assert machine.default_routes() == ([str(vip)] if vip else [])
            assert machine.changed(wanted) == []
            assert len(machine.tape.changes) >= before


def test_the_gateway_of_the_network_gets_the_route_back() -> None:
    machine = Machine()
    machine.run(params(ETH0_GATEWAY="172.20.0.1"))
    assert machine.default_routes() == [VIP]
    machine.run(params(ETH0_GATEWAY="172.20.0.1", ONEAPP_VROUTER_ETH1_VIP0=None))
    assert machine.default_routes() == ["172.20.0.1"]


def test_a_route_that_is_none_of_ours_stays() -> None:
    machine = Machine()
    machine.network.replace_default_route(IPv4Address("172.20.0.1"), "eth0")
    assert machine.changed(params(ONEAPP_VROUTER_ETH1_VIP0=None)) == []
    assert machine.default_routes() == ["172.20.0.1"]


def test_the_route_that_was_set_before_the_role_was_known_is_kept() -> None:
    machine = Machine().managed_by(NETPLAN)
    machine.network.replace_default_route(IPv4Address(VIP), "eth0")
    machine.run(params())
    assert machine.default_routes() == [VIP]


def test_networkd_is_reloaded_for_its_file_and_only_then() -> None:
    machine = Machine().managed_by(NETPLAN)
    machine.run(params())
    assert "Gateway=172.20.0.86\n" in machine.files.text(DROP_IN)
    assert machine.tape.find("units.") == [f"units.reload {NETWORKD_UNIT}"]
    machine.run(params())
    assert machine.tape.find("units.") == [f"units.reload {NETWORKD_UNIT}"]


def test_a_route_that_networkd_does_not_set_is_set_by_hand() -> None:
    machine = Machine().managed_by(NETPLAN)
    machine.units.whenever_loaded(NETWORKD_UNIT, lambda: None)
    machine.run(params())
    assert machine.default_routes() == [VIP]


def test_the_gateway_of_an_interface_does_not_come_before_that_of_the_pair() -> None:
    machine = Machine().managed_by(NETPLAN)
    machine.run(params(ETH0_GATEWAY="172.20.0.1"))
    for half in DEFAULT_HALVES:
        assert f"Destination={half}\nGateway={VIP}\n" in machine.files.text(DROP_IN)
    machine.run(params(ETH0_GATEWAY=VIP))
    assert f"Destination=0.0.0.0/0\nGateway={VIP}\n" in machine.files.text(DROP_IN)


def test_the_route_in_force_is_that_of_two_halves_or_of_the_lowest_metric() -> None:
    own, pair = IPv4Address("172.20.0.1"), IPv4Address(VIP)
    routes = [Route("default", own, "eth0"), Route("default", pair, "eth0", 100)]
    assert route_in_force(routes) == routes[0]
    low, high = (Route(half, pair, "eth0") for half in DEFAULT_HALVES)
    assert route_in_force([*routes, low]) == routes[0]
    assert route_in_force([*routes, low, high]) == low
    assert route_in_force([]) is None


def test_the_drop_in_follows_the_file_of_the_link() -> None:
    machine = Machine().managed_by(NETPLAN)
    machine.run(params())
    machine.managed_by(LinkManager(NETWORKD, "eth0.network"))
    machine.run(params())
    assert machine.files.state(DROP_IN) is None
    other = PurePosixPath("/etc/systemd/network/eth0.network.d/60-oneke.conf")
    assert "Gateway=172.20.0.86\n" in machine.files.text(other)


def test_a_drop_in_outlives_a_moment_without_networkd() -> None:
    machine = Machine().managed_by(NETPLAN)
    machine.run(params())
    machine.network.managed.clear()
    machine.units.states[NETWORKD_UNIT] = STOPPED
    machine.run(params(ETH0_GATEWAY="172.20.0.1"))
    assert "Destination=0.0.0.0/1" in machine.files.text(DROP_IN)
    assert machine.units.states[NETWORKD_UNIT] == STOPPED
    assert machine.changed(params(ETH0_GATEWAY="172.20.0.1")) == []
    machine.managed_by(NETPLAN).units.states[NETWORKD_UNIT] = RUNNING
    machine.run(params())
    assert "Destination=0.0.0.0/0" in machine.files.text(DROP_IN)
    assert machine.default_routes() == [VIP]


def test_networkd_is_not_started_for_what_it_was_told_once() -> None:
    machine = Machine().managed_by(NETPLAN)
    machine.run(params())
    machine.managed_by(LinkManager(IFUPDOWN)).units.states[NETWORKD_UNIT] = STOPPED
    machine.run(params(ONEAPP_VROUTER_ETH1_VIP0=None))
    assert machine.files.state(DROP_IN) is None
    assert machine.units.states[NETWORKD_UNIT] == STOPPED


def test_a_lease_of_a_lower_rank_does_not_matter() -> None:
    machine = Machine().managed_by(NETPLAN)
    machine.run(params())
    machine.network = FakeNetwork(
        machine.network.links(),
        [*machine.network.routes(), Route("default", IPv4Address("172.20.0.1"), "eth0", 1024)],
        tape=machine.tape,
    )
    machine.managed_by(NETPLAN)
    assert machine.changed(params()) == []


def test_hooks_are_there_for_who_calls_them() -> None:
    bare, interfaces = Machine(), Machine().managed_by(LinkManager(IFUPDOWN))
    for machine in (bare, interfaces):
        machine.run(params())
    assert bare.files.state(CONTEXT_HOOK) is not None
    assert bare.files.state(IF_UP_HOOK) is None
    for path in (CONTEXT_HOOK, IF_UP_HOOK, DHCLIENT_HOOK):
        assert str(SCRIPT) in interfaces.files.text(path)
    assert "ip route replace default via 172.20.0.86 dev eth0" in bare.files.text(SCRIPT)


# --- the resolver ---------------------------------------------------------------------------------


def test_resolved_is_told_and_told_off() -> None:
    machine = Machine(STUB).answers()
    machine.run(params())
    assert "DNS=172.20.0.86\nDomains=~.\n" in machine.files.text(RESOLVED_CONF)
    assert machine.resolver() == STUB
    assert machine.tape.find("units.") == [f"units.restart {RESOLVED_UNIT}"]
    off = params(ONEAPP_VNF_DNS_ENABLED="NO")
    machine.run(off)
    assert machine.files.state(RESOLVED_CONF) is None
    assert machine.tape.find("units.") == [f"units.restart {RESOLVED_UNIT}"] * 2
    assert machine.changed(off) == []


def test_a_resolver_that_is_not_wanted_is_not_touched() -> None:
    machine = Machine(STUB)
    machine.run(params())
    assert machine.tape.find("units.") == []
    assert machine.resolver() == STUB


def test_a_name_server_that_falls_silent_gives_way_to_that_of_the_network() -> None:
    machine = Machine().answers()
    machine.run(params())
    machine.sockets.servers.clear()
    machine.run(params())
    assert machine.resolver() == "nameserver 10.2.11.1\nsearch lab\n"


@pytest.mark.parametrize("resolv_conf", [STUB, "search lab\n"], ids=["stub", "file"])
def test_a_name_server_that_falls_silent_stays_where_there_is_no_other(resolv_conf: str) -> None:
    alone = params(ETH0_DNS=None)
    machine = Machine(resolv_conf).answers()
    machine.run(alone)
    machine.sockets.servers.clear()
    assert machine.changed(alone) == []


def test_what_others_wrote_comes_back_where_the_context_names_none() -> None:
    machine = Machine("nameserver 172.20.0.9\noptions timeout:1\n").answers()
    wanted = params(ETH0_DNS=None)
    machine.run(wanted)
    assert machine.files.text(GIVEN) == "nameserver 172.20.0.9\noptions timeout:1\n"
    machine.run(params(ETH0_DNS=None, ONEAPP_VNF_DNS_ENABLED="NO"))
    assert machine.resolver() == "nameserver 172.20.0.9\noptions timeout:1\n"


def test_a_resolv_conf_that_became_a_file_of_its_own_is_written_itself() -> None:
    machine = Machine(STUB).answers()
    machine.run(params())
    machine.files.put(RESOLV_CONF, "nameserver 10.2.11.1\n")
    machine.run(params())
    assert machine.files.state(RESOLVED_CONF) is None
    assert "nameserver 172.20.0.86\n" in machine.resolver()


# --- for people -----------------------------------------------------------------------------------


def described(machine: Machine, wanted: Params) -> list[tuple[str, str, bool, bool]]:
    lines = describe_node_network(wanted, machine.facts(wanted))
    return [(line.subject, line.state, line.is_well, line.is_vital) for line in lines]


def test_a_node_is_described() -> None:
    machine = Machine().answers()
    assert described(machine, params()) == [
        ("gateway", f"expected {VIP}, the default route is none", False, True),
        ("resolver", f"expected {VIP}, which is not in force", False, False),
    ]
    machine.run(params())
    assert described(machine, params()) == [
        ("gateway", f"{VIP} on eth0", True, True),
        ("resolver", VIP, True, False),
    ]


def test_a_node_without_gateway_pair_is_described() -> None:
    machine = Machine()
    machine.network.replace_default_route(IPv4Address("172.20.0.1"), "eth0")
    assert described(machine, params(ONEAPP_VROUTER_ETH1_VIP0=None)) == [
        ("gateway", "that of the network: 172.20.0.1 on eth0", True, False),
        ("resolver", "that of the network", True, False),
    ]
    silent = described(machine, params())[1]
    assert silent[1] == f"that of the network; {VIP} does not answer there"
