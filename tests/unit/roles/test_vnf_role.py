"""The gateway's decisions: (parameters, facts) in, plan, readiness and problems out."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import PurePosixPath

import pytest

from appliance.actions import ReplaceTable, RunUnit, StopUnit, WriteFile
from appliance.errors import ParameterProblems
from appliance.facts import Facts
from appliance.networkactions import BringUp, KernelSettings
from appliance.plan import Stage
from appliance.system.network import Link
from appliance.system.units import UnitState
from appliance.waiting import Failed, NotYet, Ready
from roles.vnf.haproxy import STATISTICS
from tests.contexts import decide_gateway

RUNNING = UnitState("loaded", "active", "running", "success", "enabled")
DEAD = UnitState("loaded", "failed", "failed", "exit-code", "enabled")
STATE_FILE = PurePosixPath("/run/keepalived/oneke-INSTANCE-ETH0.state")

STAT = "# pxname,svname,scur,status,type,addr,check_status,last_chk,\n"

SETTINGS = {
    "net.ipv4.ip_forward": "0",
    "net.ipv4.conf.all.forwarding": "0",
    "net.ipv4.conf.default.forwarding": "0",
    "net.ipv4.conf.eth0.forwarding": "1",
    "net.ipv4.conf.eth1.forwarding": "1",
    "net.ipv4.ip_nonlocal_bind": "1",
}


def link(name: str, *addresses: str) -> Link:
    return Link(name, "02:00:00:00:00:01", True, tuple(map(IPv4Interface, addresses)))


def healthy(state: str = "MASTER", since: float = 0.0) -> Facts:
    """Facts of a gateway on which everything is as it should be."""
    vips = (("10.2.11.86/24",), ("172.20.0.86/24",)) if state == "MASTER" else ((), ())
    return Facts(
        links=(
            link("eth0", "10.2.11.200/24", *vips[0]),
            link("eth1", "172.20.0.100/24", *vips[1]),
        ),
        listening=frozenset({("10.2.11.86", port) for port in (9345, 6443, 80)}),
        units={"haproxy.service": RUNNING, "keepalived.service": RUNNING},
        files={STATE_FILE: f"{state} {since}\n"},
        tables={("ip", "oneke"): "oifname eth0 counter packets 7 bytes 420 masquerade"},
        settings=SETTINGS,
        answers={STATISTICS: STAT},
        uptime_s=100.0,
    )


def readiness(facts: Facts, **changes: str | None) -> object:
    decided = decide_gateway(**changes)
    return decided.role.readiness(decided.params, facts)


def plan(**changes: str | None) -> list[object]:
    decided = decide_gateway(**changes)
    return list(decided.role.plan(Stage.CONFIGURE, decided.params, Facts()).actions)


def test_a_plan_takes_virtual_addresses_when_kernel_nat_and_balancers_are_ready() -> None:
    kinds = [(type(action).__name__, action.name) for action in plan()]
    assert kinds == [
        ("WriteFile", "file /etc/sysctl.d/60-oneke.conf"),
        ("KernelSettings", "kernel settings"),
        ("ReplaceTable", "packet filter table ip oneke"),
        ("WriteFile", "file /etc/haproxy/haproxy.cfg"),
        ("RunUnit", "unit haproxy.service"),
        ("WriteFile", "file /usr/local/lib/oneke/vrrp-state"),
        ("WriteFile", "file /etc/keepalived/keepalived.conf"),
        ("RunUnit", "unit keepalived.service"),
        ("StopUnit", "unit oneke-backends.service"),
        ("StopUnit", "unit unbound.service"),
        ("RemoveFile", "file /etc/unbound/unbound.conf.d/50-oneke.conf"),
    ]


def test_the_same_input_gives_the_same_plan() -> None:
    assert plan() == plan()


def test_bootstrap_needs_no_sibling() -> None:
    decided = decide_gateway()
    assert decided.role.plan(Stage.BOOTSTRAP, decided.params, Facts()).actions == ()


def test_the_sysctl_file_keeps_what_is_set_now() -> None:
    actions = plan()
    (settings,) = (a for a in actions if isinstance(a, KernelSettings))
    (conf,) = (a for a in actions if isinstance(a, WriteFile) and a.path.name == "60-oneke.conf")
    assert dict(settings.wanted) == SETTINGS
    for key, value in settings.wanted:
        assert f"{key} = {value}\n" in conf.text


def test_what_is_switched_off_is_stopped_and_taken_away() -> None:
    actions = plan(
        ONEAPP_VNF_HAPROXY_ENABLED="NO",
        ONEAPP_VNF_NAT4_ENABLED="NO",
        ONEAPP_VNF_KEEPALIVED_ENABLED="NO",
        ONEAPP_VNF_ROUTER4_ENABLED="NO",
    )
    assert [a.unit for a in actions if isinstance(a, StopUnit)] == [
        "oneke-backends.service",
        "haproxy.service",
        "keepalived.service",
        "unbound.service",
    ]
    assert not any(isinstance(a, RunUnit) for a in actions)
    (table,) = (a for a in actions if isinstance(a, ReplaceTable))
    assert table.rules == ""
    (settings,) = (a for a in actions if isinstance(a, KernelSettings))
    assert {v for k, v in settings.wanted if k.endswith("forwarding")} == {"0"}


def test_a_link_without_address_is_brought_up_before_keepalived_starts() -> None:
    actions = plan(ETH0_IP="", ONEAPP_VROUTER_ETH0_VIP0="10.2.11.86/24")
    names = [a.name for a in actions]
    assert BringUp("eth0") in actions
    assert names.index("link eth0") < names.index("unit keepalived.service")


def text_of(name: str, **changes: str | None) -> str:
    (file,) = (a for a in plan(**changes) if isinstance(a, WriteFile) and a.path.name == name)
    return file.text


def test_a_gateway_route_of_a_bare_interface_moves_with_the_addresses() -> None:
    text = text_of("keepalived.conf", ETH0_IP="", ONEAPP_VROUTER_ETH0_VIP0="10.2.11.86/24")
    assert "0.0.0.0/0 via 10.2.11.1 dev eth0" in text
    assert "interface eth1" in text


def test_without_haproxy_keepalived_checks_no_haproxy() -> None:
    assert "vrrp_script" in text_of("keepalived.conf")
    assert "haproxy" not in text_of("keepalived.conf", ONEAPP_VNF_HAPROXY_ENABLED="NO")


def test_a_password_is_quoted_and_cut_where_keepalived_cuts_it() -> None:
    text = text_of("keepalived.conf", ONEAPP_VNF_KEEPALIVED_PASSWORD="two words and more")
    assert 'auth_pass "two word"\n' in text


def test_a_fraction_of_a_second_selects_vrrp_3_without_a_password() -> None:
    text = text_of("keepalived.conf", ONEAPP_VNF_KEEPALIVED_INTERVAL="0.25")
    assert "vrrp_version 3" in text
    assert "advert_int 0.25" in text
    assert "auth_pass" not in text


@pytest.mark.parametrize(
    ("balancer", "expected"),
    [
        (0, "option httpchk GET /ping"),
        (1, "option httpchk GET /readyz"),
    ],
)
def test_known_services_are_checked_above_tcp(balancer: int, expected: str) -> None:
    backend = text_of("haproxy.cfg").split(f"\nbackend lb{balancer}_")[1].split("frontend")[0]
    assert expected in backend


def test_an_unknown_port_is_checked_by_a_connection() -> None:
    text = text_of("haproxy.cfg", ONEAPP_VNF_HAPROXY_LB1_SERVER0_PORT="7443")
    backend = text.split("\nbackend lb1_6443")[1].split("frontend")[0]
    assert "httpchk" not in backend
    assert "server lb1_172.20.0.101_7443 172.20.0.101:7443 check inter 2s" in backend
    assert "check-ssl" not in backend


def test_a_declared_balancer_is_bound_without_any_server() -> None:
    assert "bind 10.2.11.86:9345" in text_of("haproxy.cfg")


def test_a_forward_without_address_does_not_touch_transit_traffic() -> None:
    (table,) = (a for a in plan() if isinstance(a, ReplaceTable))
    assert "fib daddr type local tcp dport 2222 counter dnat to 172.20.0.101:22" in table.rules
    assert "ip daddr 10.2.11.86 udp dport 8443 counter dnat to 172.20.0.102" in table.rules


PROBLEMS: list[tuple[str, dict[str, str | None], list[tuple[str, str]]]] = [
    (
        "a virtual router id of 300",
        {"ONEAPP_VNF_KEEPALIVED_VRID": "300"},
        [("ONEAPP_VNF_KEEPALIVED_VRID", "expected an integer from 1 to 255")],
    ),
    (
        "a virtual address on an interface that is not there",
        {"ONEAPP_VROUTER_ETH5_VIP0": "10.9.9.9"},
        [("ONEAPP_VROUTER_ETH5_VIP0", "this VM has no eth5 (its interfaces: eth0, eth1)")],
    ),
    (
        "a port of 70000",
        {"ONEAPP_VNF_HAPROXY_LB3_PORT": "70000"},
        [("ONEAPP_VNF_HAPROXY_LB3_PORT", "expected a port from 1 to 65535")],
    ),
    (
        "two balancers on one address and port",
        {"ONEAPP_VNF_HAPROXY_LB3_PORT": "6443"},
        [("ONEAPP_VNF_HAPROXY_LB3_PORT", "10.2.11.86:6443 is balancer 1's already")],
    ),
    (
        "a balancer on a foreign address",
        {"ONEAPP_VNF_HAPROXY_LB3_IP": "198.51.100.7"},
        [("ONEAPP_VNF_HAPROXY_LB3_IP", "expected an own or virtual address of this gateway")],
    ),
    (
        "a placeholder that stands for nothing",
        {"ONEAPP_VNF_HAPROXY_LB3_IP": "<ETH0_VIP7>"},
        [("ONEAPP_VNF_HAPROXY_LB3_IP", "stands for nothing here")],
    ),
    (
        "a balancer of its own without an address",
        {"ONEAPP_VNF_HAPROXY_LB9_PORT": "9000"},
        [("ONEAPP_VNF_HAPROXY_LB9_IP", "missing: balancer 9 needs an address")],
    ),
    (
        "half a server",
        {"ONEAPP_VNF_HAPROXY_LB3_SERVER1_HOST": "172.20.0.103"},
        [("ONEAPP_VNF_HAPROXY_LB3_SERVER1_PORT", "missing")],
    ),
    (
        "two forwards of one port",
        {"ONEAPP_VNF_NAT4_PORT_FWD5": "2222:172.20.0.103"},
        [("ONEAPP_VNF_NAT4_PORT_FWD5", "forwarded by ONEAPP_VNF_NAT4_PORT_FWD0 already")],
    ),
    (
        "an interface that is not there",
        {"ONEAPP_VNF_NAT4_INTERFACES_OUT": "eth0 eth7"},
        [("ONEAPP_VNF_NAT4_INTERFACES_OUT", "eth7: expected an interface of this VM")],
    ),
    (
        "a misspelt exclusion",
        {"ONEAPP_VNF_HAPROXY_INTERFACES": "!eht0"},
        [("ONEAPP_VNF_HAPROXY_INTERFACES", "!eht0: expected an interface of this VM")],
    ),
    (
        "a service that is not built",
        {"ONEAPP_VNF_DHCP4_ENABLED": "YES", "ONEAPP_VNF_WG_ENABLED": "YES"},
        [
            ("ONEAPP_VNF_DHCP4_ENABLED", "is not part of this agent"),
            ("ONEAPP_VNF_WG_ENABLED", "is not part of this agent"),
        ],
    ),
]


@pytest.mark.parametrize(
    ("changes", "expected"), [case[1:] for case in PROBLEMS], ids=[case[0] for case in PROBLEMS]
)
def test_bad_input_gives_one_clear_problem_each(
    changes: dict[str, str | None], expected: list[tuple[str, str]]
) -> None:
    with pytest.raises(ParameterProblems) as caught:
        decide_gateway(**changes)
    found = [(problem.key, problem.accepted) for problem in caught.value.problems]
    assert [key for key, _ in found] == [key for key, _ in expected]
    for (_, accepted), (_, words) in zip(found, expected, strict=True):
        assert words in accepted


def test_all_problems_are_told_at_once_and_consequences_are_not() -> None:
    with pytest.raises(ParameterProblems) as caught:
        decide_gateway(
            ONEAPP_VROUTER_ETH0_VIP0="10.2.11",
            ONEAPP_VNF_KEEPALIVED_PRIORITY="much",
            ONEAPP_VNF_ROUTER4_ENABLED="perhaps",
        )
    assert [problem.key for problem in caught.value.problems] == [
        "ONEAPP_VNF_KEEPALIVED_PRIORITY",
        "ONEAPP_VNF_ROUTER4_ENABLED",
        "ONEAPP_VROUTER_ETH0_VIP0",
    ]


def test_a_password_is_never_part_of_a_problem() -> None:
    with pytest.raises(ParameterProblems) as caught:
        decide_gateway(ONEAPP_VNF_KEEPALIVED_PASSWORD='planted"secret')
    assert "planted" not in str(caught.value)


def test_a_gateway_that_holds_its_addresses_is_ready() -> None:
    assert readiness(healthy("MASTER")) == Ready()


def test_a_backup_is_ready_once_it_has_heard_a_master_for_longer_than_an_election() -> None:
    facts = healthy("BACKUP", since=97.0)
    assert isinstance(readiness(facts), NotYet)
    assert readiness(replace(facts, uptime_s=103.0)) == Ready()


UNREADY: dict[str, tuple[Facts, type, str]] = {
    "HAProxy is dead": (
        replace(healthy(), units={"haproxy.service": DEAD, "keepalived.service": RUNNING}),
        Failed,
        "haproxy: failed",
    ),
    "keepalived is dead": (
        replace(healthy(), units={"haproxy.service": RUNNING, "keepalived.service": DEAD}),
        Failed,
        "vrrp: failed",
    ),
    "a balancer does not listen": (
        replace(healthy(), listening=frozenset({("10.2.11.86", 9345), ("10.2.11.86", 80)})),
        NotYet,
        "balancer 1: 10.2.11.86:6443 not listening",
    ),
    "the table is gone": (replace(healthy(), tables={}), NotYet, "is not loaded"),
    "forwarding is off": (
        replace(healthy(), settings={**SETTINGS, "net.ipv4.conf.eth1.forwarding": "0"}),
        NotYet,
        "net.ipv4.conf.eth1.forwarding",
    ),
    "a master misses an address": (
        replace(healthy(), links=(link("eth0", "10.2.11.200/24", "10.2.11.86/24"),)),
        NotYet,
        "MASTER, and 172.20.0.86 not there yet",
    ),
    "a backup still has one": (
        replace(healthy(), files={STATE_FILE: "BACKUP 0"}),
        NotYet,
        "still there",
    ),
    "keepalived sees a fault": (
        replace(healthy(), files={STATE_FILE: "FAULT 0"}),
        NotYet,
        "in FAULT",
    ),
    "keepalived has said nothing": (
        replace(healthy(), files={STATE_FILE: None}),
        NotYet,
        "not told",
    ),
    "the state file is torn": (
        replace(healthy(), files={STATE_FILE: "MASTER\n"}),
        NotYet,
        "not told",
    ),
}


@pytest.mark.parametrize("case", UNREADY)
def test_what_is_missing_is_named(case: str) -> None:
    facts, kind, words = UNREADY[case]
    found = readiness(facts)
    assert isinstance(found, kind)
    assert words in found.reason


def test_an_address_that_nobody_can_hold_is_never_ready_and_warned_about() -> None:
    changes: dict[str, str | None] = {
        "ETH0_IP": "",
        "ETH1_IP": None,
        "ONEAPP_VROUTER_ETH0_VIP0": "10.2.11.86/24",
        "ONEAPP_VROUTER_ETH1_VIP0": None,
        "ONEAPP_VNF_ROUTER4_INTERFACES": None,
    }
    decided = decide_gateway(**changes)
    assert any("nobody will hold 10.2.11.86" in warning for warning in decided.warnings)
    found = decided.role.readiness(decided.params, healthy())
    assert isinstance(found, NotYet | Failed)


def test_a_virtual_router_forwards_without_being_told() -> None:
    decided = decide_gateway(ONEAPP_VNF_ROUTER4_ENABLED=None, VROUTER_ID="31")
    plan = decided.role.plan(Stage.CONFIGURE, decided.params, Facts())
    (settings,) = (a for a in plan.actions if isinstance(a, KernelSettings))
    assert ("net.ipv4.conf.eth0.forwarding", "1") in settings.wanted


def prerequisites(facts: Facts, **changes: str | None) -> object:
    decided = decide_gateway(**changes)
    return decided.role.prerequisites(decided.params, facts)


def test_links_and_addresses_that_others_set_are_waited_for() -> None:
    assert prerequisites(healthy()) == Ready()
    late = prerequisites(replace(healthy(), links=(link("eth0", "10.2.11.200/24"),)))
    assert late == NotYet("eth1 is not there: is the NIC attached?")
    bare = prerequisites(replace(healthy(), links=(link("eth0", "10.2.11.200/24"), link("eth1"))))
    assert isinstance(bare, NotYet)
    assert "eth1 has no address 172.20.0.100 yet" in bare.reason


def test_an_address_that_is_known_outside_only_is_not_waited_for() -> None:
    facts = replace(healthy(), links=(link("eth0"), link("eth1", "172.20.0.100/24")))
    assert isinstance(prerequisites(facts), NotYet)
    assert prerequisites(facts, ETH0_EXTERNAL="YES") == Ready()
