"""Single runs of the agent on a gateway: wrong parameters, and runs that are killed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.context import context_text
from tests.lab.gateway_node import (
    agent,
    changes_of,
    configured,
    gateway_context,
    held,
    machine_state,
    previewed,
    published,
    state_differences,
)
from tests.lab.lab import Lab
from tests.lab.node import Node

pytestmark = pytest.mark.lab

CONTEXT = "/root/context.sh"
MACHINES = 4
# An election takes a moment instead of seconds, so that a run does.
QUICK = {"ONEAPP_VNF_KEEPALIVED_INTERVAL": "0.1"}

# For each type what is not of it; a text may be anything.
WRONG = {
    "boolean": "perhaps",
    "integer": "seven",
    "seconds": "soon",
    "port": "70000",
    "ipv4": "10.0.0.256",
    "ipv4_with_prefix": "10.0.0.1/33",
    "ipv4_or_placeholder": "<ETH0>",
    "netmask": "255.0.255.0",
    "host": "not a host",
    "url": "ftp://somewhere",
    "choice": "neither",
    "secret": 'pass"word',
    "interface_list": "eth0@70000",
    "port_forward": "8080",
}
EXAMPLE_OF_FAMILY = {"<nic>": "0", "<index>": "0", "<balancer>": "4", "<server>": "0"}


@dataclass
class Machine:
    """A gateway whose agent runs only when it is told to."""

    lab: Lab
    node: Node
    index: int

    def context(self, **changes: object) -> str:
        """Text of its context with changes; without token, so that OneGate is left alone."""
        values = gateway_context(self.lab, self.node, self.index, **own_router(self.index))
        return context_text(values | {key: str(value) for key, value in changes.items()})

    def run_with(self, text: str) -> tuple[int, str]:
        """Run with a context; returns exit status and what was complained."""
        self.node.write(CONTEXT, text, mode=0o600)
        done = agent(self.node, "configure", "--role", "vnf", "--context", CONTEXT)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr


def own_router(index: int) -> dict[str, str]:
    """Parameters that keep a gateway apart from the other of the lab."""
    return QUICK | {
        "ONEAPP_VROUTER_ETH0_VIP0": f"10.2.11.{91 + index}",
        "ONEAPP_VROUTER_ETH1_VIP0": f"172.20.0.{91 + index}",
        "ONEAPP_VNF_KEEPALIVED_VRID": str(91 + index),
    }


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    """One lab for all tests of this file."""
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def machines(lab: Lab) -> list[Machine]:
    """Fresh gateways."""
    lab.add_service([("vnf", MACHINES)])
    nodes = [lab.vnf(f"vnf{n}", n, agent=False, **own_router(n)) for n in range(MACHINES)]
    for node in nodes:
        node.wait_running()
    return [Machine(lab, node, number) for number, node in enumerate(nodes)]


@pytest.fixture
def machine(machines: list[Machine]) -> Machine:
    """The first of them."""
    return machines[0]


def complaints(said: str) -> list[str]:
    """The messages, one a line, without the agent's log and the hint."""
    return [line for line in said.splitlines() if line.startswith("oneke-agent: ")]


# --- wrong parameters -----------------------------------------------------------------------------

ONE_BY_ONE = {
    "a VRID of 300": (
        {"ONEAPP_VNF_KEEPALIVED_VRID": "300"},
        r"ONEAPP_VNF_KEEPALIVED_VRID=300: .*from 1 to 255",
    ),
    "an address on a NIC that is not there": (
        {"ONEAPP_VROUTER_ETH7_VIP0": "10.9.9.9"},
        r"ONEAPP_VROUTER_ETH7_VIP0=10\.9\.9\.9: .*eth7.*eth0, eth1",
    ),
    "a port of 70000": (
        {"ONEAPP_VNF_HAPROXY_LB1_PORT": "70000"},
        r"ONEAPP_VNF_HAPROXY_LB1_PORT=70000: .*from 1 to 65535",
    ),
    "two balancers on one address and port": (
        {"ONEAPP_VNF_HAPROXY_LB4_IP": "<ETH0_EP0>", "ONEAPP_VNF_HAPROXY_LB4_PORT": "6443"},
        r"ONEAPP_VNF_HAPROXY_LB4_PORT=6443: 10\.2\.11\.91:6443 is balancer 1's already",
    ),
    "masquerading on an interface that is not there": (
        {"ONEAPP_VNF_NAT4_INTERFACES_OUT": "eth0 eth3"},
        r"ONEAPP_VNF_NAT4_INTERFACES_OUT=.*eth3: expected an interface of this VM",
    ),
    "a forward of the same port to two places": (
        {
            "ONEAPP_VNF_NAT4_PORT_FWD0": "8080:172.20.0.60",
            "ONEAPP_VNF_NAT4_PORT_FWD1": "8080:172.20.0.61",
        },
        r"ONEAPP_VNF_NAT4_PORT_FWD1=8080: .*ONEAPP_VNF_NAT4_PORT_FWD0",
    ),
    "a balancer on an address of somebody else": (
        {"ONEAPP_VNF_HAPROXY_LB1_IP": "10.2.11.1"},
        r"ONEAPP_VNF_HAPROXY_LB1_IP=10\.2\.11\.1: .*own or virtual address",
    ),
}


@pytest.mark.parametrize("case", ONE_BY_ONE)
def test_a_wrong_parameter_is_told_in_one_message_and_nothing_is_touched(
    machine: Machine, case: str
) -> None:
    changes, expected = ONE_BY_ONE[case]
    before = machine_state(machine.node)
    text = machine.context(**changes)
    status, said = machine.run_with(text)
    assert status == 78
    assert len(complaints(said)) == 1, said
    assert re.search(expected, complaints(said)[0]), said
    assert "hint: " in said
    machine.node.run(["rm", CONTEXT])
    assert state_differences(before, machine_state(machine.node)) == []


def wrong_parameters(node: Node) -> dict[str, str]:
    """For every parameter a gateway reads, a value of the wrong type."""
    argv = ["oneke-agent", "params", "--format", "json", "--role", "vnf"]
    found = {}
    for entry in json.loads(node.run(argv).stdout):
        name = str(entry["name"])
        for family, example in EXAMPLE_OF_FAMILY.items():
            name = name.replace(family, example)
        wrong = WRONG.get(entry["type"], "?*" if entry.get("pattern") else None)
        if entry.get("type") == "secret" and not entry.get("pattern"):
            continue
        if wrong is not None and not entry.get("ignored"):
            found[name] = wrong
    return found


def test_every_parameter_with_a_value_of_the_wrong_type_is_named_once(machine: Machine) -> None:
    wrong = wrong_parameters(machine.node)
    assert len(wrong) > 40, sorted(wrong)
    before = machine_state(machine.node)
    status, said = machine.run_with(machine.context(**wrong))
    machine.node.run(["rm", CONTEXT])
    assert status == 78
    named = [re.split(r"[=:]", line.removeprefix("oneke-agent: "))[0] for line in complaints(said)]
    assert sorted(named) == sorted(wrong)
    assert 'pass"word' not in said
    assert state_differences(before, machine_state(machine.node)) == []


def test_each_parameter_with_a_value_of_the_wrong_type_gives_one_message(machine: Machine) -> None:
    wrong = wrong_parameters(machine.node)
    node = machine.node
    for name, value in wrong.items():
        node.write(f"/root/wrong/{name}", machine.context(**{name: value}), mode=0o600)
    script = (
        "cd /root/wrong && for name in *; do"
        ' oneke-agent validate --role vnf --context "$PWD/$name" > /root/said 2>&1;'
        ' printf "%s %s %s\\n" "$name" "$?" "$(grep -c "^oneke-agent: " /root/said)";'
        ' grep -q "^oneke-agent: $name[=:]" /root/said || cat /root/said; done'
    )
    told = node.run(["bash", "-c", script], timeout_s=240).stdout.splitlines()
    node.run(["rm", "-r", "/root/wrong", "/root/said"])
    assert told == [f"{name} 78 1" for name in sorted(wrong)]


def test_no_run_sets_an_address_of_the_machine(machine: Machine) -> None:
    before = machine.node.addresses("eth1")
    machine.node.write(CONTEXT, machine.context(ETH1_IP="172.20.0.199"), mode=0o600)
    told = previewed(machine.node, "--role", "vnf", "--context", CONTEXT)
    machine.node.run(["rm", CONTEXT])
    assert changes_of(told)
    assert "172.20.0.199" not in json.dumps(told)
    assert machine.node.addresses("eth1") == before


def test_a_role_that_is_not_known_is_refused_and_not_remembered(machine: Machine) -> None:
    done = agent(machine.node, "configure", "--role", "router")
    assert done.returncode == 78
    assert "router" in complaints(done.stderr)[0]
    known = published(machine.lab, machine.node)
    assert known["ONEKE_STATE"] == "FAILED"
    assert previewed(machine.node)["role"] == "vnf"


# --- killed runs ----------------------------------------------------------------------------------

# Runs the agent and kills it before the n-th effect it has on the machine. Its journal is written
# through the same calls, so this is every boundary between actions, between an action and its note
# in the journal, and between the effects inside an action. Left out are what only people look at
# and the files that daemons judge beforehand.
KILLER = """
import os
import signal
import sys

from appliance import cli
from appliance.system import clock, commands, files, network, packetfilter, units

EFFECTS = {
    files.RealFiles: ("write", "append", "remove"),
    units.RealUnits: (
        "start", "stop", "reload", "enable", "disable", "reset_failed", "daemon_reload",
    ),
    packetfilter.RealPacketFilter: ("load",),
    network.RealNetwork: ("write_setting", "set_up", "replace_default_route"),
}
LEFT_OUT = ("/etc/issue.d", "/etc/motd.d", "/run/oneke/progress.json", "/run/oneke/candidate")
last, seen = int(sys.argv[1]), 0


def watched(effect):
    def call(self, *arguments, **options):
        global seen
        if not str(arguments[0] if arguments else "").startswith(LEFT_OUT):
            seen += 1
            if seen == last:
                print(f"{effect.__qualname__} {arguments[:1]}", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        return effect(self, *arguments, **options)

    return call


for owner, names in EFFECTS.items():
    for name in names:
        if hasattr(owner, name):
            setattr(owner, name, watched(getattr(owner, name)))
sys.exit(cli.main(["configure"]))
"""
RESET = r"""
systemctl kill --signal=KILL oneke-backends 2> /dev/null
systemctl disable --now --quiet haproxy keepalived oneke-backends 2> /dev/null
systemctl reset-failed haproxy keepalived oneke-backends 2> /dev/null
nft flush ruleset
rm -rf /var/lib/oneke/* /run/oneke /run/keepalived/* /usr/local/lib/oneke
rm -f /etc/sysctl.d/60-oneke.conf /etc/keepalived/keepalived.conf
rm -f /etc/issue.d/50-oneke.issue /etc/motd.d/50-oneke
[ -e /root/haproxy.cfg ] || cp -p /etc/haproxy/haproxy.cfg /root/haproxy.cfg
cp -p /root/haproxy.cfg /etc/haproxy/haproxy.cfg
sysctl -q -w net.ipv4.ip_forward=0 net.ipv4.conf.eth0.forwarding=0 net.ipv4.conf.eth1.forwarding=0 \
    net.ipv4.ip_nonlocal_bind=0
true
"""


def reset(node: Node) -> None:
    """Make a gateway what it was before the first run."""
    node.run(["bash", "-c", RESET])


def killed_at(machine: Machine, boundary: int) -> str | None:
    """Kill a run at a boundary; returns which it was, or None if there are not that many."""
    argv = ["/opt/oneke/bin/python", "/root/killer.py", str(boundary)]
    done = machine.node.run(argv, check=False, timeout_s=120)
    if done.returncode == 0:
        return None
    if done.returncode not in (-9, 137):
        raise LabError(f"boundary {boundary}: {done.returncode}: {done.stderr[-2000:]}")
    return done.stderr.splitlines()[-1]


def differences(machine: Machine, expected: dict[str, list[str]]) -> list[str]:
    """Kill runs of a fresh machine at each boundary that is its share, and tell what they leave
    different."""
    found = []
    for boundary in range(machine.index + 1, 500, MACHINES):
        reset(machine.node)
        where = killed_at(machine, boundary)
        if where is None:
            assert boundary > 30, f"only {boundary} boundaries"
            return found
        configured(machine.node)
        odd = state_differences(expected, machine_state(machine.node))
        if odd:
            found.append(f"{boundary}, before {where}: {odd}")
    raise LabError("500 boundaries, and no run survived")


def test_a_run_killed_at_any_boundary_is_taken_up_to_the_same_end_state(
    machines: list[Machine],
) -> None:
    expected = []
    for machine in machines:
        machine.node.write("/root/killer.py", KILLER)
        reset(machine.node)
        fresh = machine_state(machine.node)
        configured(machine.node)
        expected.append(machine_state(machine.node))
        vips = list(own_router(machine.index).values())[1:3]
        assert held(machine.node, vips) == vips
        reset(machine.node)
        assert state_differences(fresh, machine_state(machine.node)) == []
    with ThreadPoolExecutor(MACHINES) as pool:
        jobs = list(pool.map(differences, machines, expected))
    assert [found for job in jobs for found in job] == []
