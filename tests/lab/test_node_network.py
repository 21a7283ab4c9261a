"""Gateway and resolver of private nodes, whoever manages their links.

A gateway with a resolver, and a worker for each way of configuring a network. None finds a cluster
to join: what is looked at is what the first stage of its agent's run does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.bake import Image
from tests.lab.basics import LabError
from tests.lab.context import (
    PRIVATE,
    PRIVATE_VIP,
    common_context,
    context_text,
    nic_attributes,
    nic_context,
    override,
    vnf_addresses,
)
from tests.lab.gateway_node import AGENT_UNIT, PEER_URL, wait_ready
from tests.lab.lab import PRIVATE_NIC, Lab
from tests.lab.network import PEER_SERVER, Process
from tests.lab.node import Node

pytestmark = pytest.mark.lab

GATEWAY_ADDRESS, FALLBACK_GATEWAY = vnf_addresses(0)
NAME, ANSWER = "vip0.eth1.vr", PRIVATE_VIP
OWN_RESOLVER = "172.20.0.53"
ROUTER = "172.20.0.1"
EFFECT_S = 40
RENEWALS = 3

# Node to what differs in its context, and whether resolv.conf is systemd-resolved's.
STACKS: dict[str, tuple[dict[str, str], bool]] = {
    "bare": ({}, False),
    "plan": ({"NETCFG_TYPE": "netplan"}, False),
    "planres": ({"NETCFG_TYPE": "netplan", "ETH0_DNS": ""}, True),
    "planown": ({"NETCFG_TYPE": "netplan", "ETH0_GATEWAY": ROUTER}, False),
    "netd": ({"NETCFG_TYPE": "networkd", "ETH0_DNS": ""}, True),
    "ifup": ({"NETCFG_TYPE": "interfaces", "ETH0_GATEWAY": ROUTER}, False),
    "ifdhcp": (
        {"NETCFG_TYPE": "interfaces", "ETH0_METHOD": "dhcp", "ETH0_DNS": ""},
        False,
    ),
    "pldhcp": (
        {"NETCFG_TYPE": "netplan", "ETH0_METHOD": "dhcp", "ETH0_DNS": ""},
        True,
    ),
}


class Nodes:
    """The workers, with the gateway and the DHCP server beside them."""

    def __init__(self, lab: Lab) -> None:
        """Switch everything on."""
        self.lab = lab
        lab.add_service([("vnf", 1), ("worker", len(STACKS))])
        self.gateway = lab.vnf("gw", 0, ONEAPP_VNF_DNS_ENABLED="YES")
        host = lab.host("dhcp", network="private", address="172.20.0.2/24")
        self.dhcp: Process = host.start(
            [
                *(sys.executable, "-m", "tests.lab.dhcp", "--own", host.address),
                *("--router", ROUTER, "--resolver", OWN_RESOLVER),
            ]
        )
        self.dhcp.wait_ready()
        # The network's own way out, which leads on through the gateway, but not by its address.
        router = lab.host(
            "router", network="private", address=f"{ROUTER}/24", gateway=FALLBACK_GATEWAY
        )
        for setting in ("ip_forward=1", "conf.all.send_redirects=0", "conf.eth0.send_redirects=0"):
            router.run(["sysctl", "-q", "-w", f"net.ipv4.{setting}"])
        wait_ready(lab, self.gateway)
        self.contexts: dict[str, dict[str, str]] = {}
        self.nodes = {
            stack: self._add(stack, 120 + number, *STACKS[stack])
            for number, stack in enumerate(STACKS)
        }

    def _add(self, stack: str, number: int, changes: dict[str, str], has_resolved: bool) -> Node:
        address = f"172.20.0.{number}"
        values = common_context(self.lab.service_id) | nic_context(0, PRIVATE, address)
        values |= {"ONEAPP_VROUTER_ETH1_VIP0": PRIVATE_VIP, "ETH0_DNS": OWN_RESOLVER}
        values = override(values, changes)
        vm = {
            "role": "worker",
            "service_id": self.lab.service_id,
            "nics": [nic_attributes(PRIVATE, address)],
        }
        node = self.lab.node(stack, context=values, vm=vm, nics=PRIVATE_NIC, start=False)
        self.contexts[stack] = values | {"VMID": str(node.vm_id)}
        if has_resolved:
            give_resolved(node)
        node.start()
        return node

    def give_context(self, stack: str, **changes: object) -> None:
        """Change a node's context, for good where it is on."""
        self.contexts[stack] = override(self.contexts[stack], changes)
        self.nodes[stack].set_context(context_text(self.contexts[stack]), self.nodes[stack].token)


def give_resolved(node: Node) -> None:
    """Have systemd-resolved answer on a node that is off, as cloud images do."""
    conf = node.root / "etc/resolv.conf"
    conf.unlink()
    conf.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    wants = node.root / "etc/systemd/system/multi-user.target.wants"
    unit = "systemd-resolved.service"
    (wants / unit).symlink_to(f"/lib/systemd/system/{unit}")


@pytest.fixture(scope="module")
def nodes(lab_image: Image) -> Iterator[Nodes]:
    """All of them, switched on."""
    with Lab(lab_image) as lab:
        yield Nodes(lab)


# --- what is so on a node -------------------------------------------------------------------------


def network_of(node: Node) -> str:
    """What a person would look at first."""
    script = "ip -4 route; cat /etc/resolv.conf; resolvectl dns 2> /dev/null"
    return node.run(["bash", "-c", script], check=False).stdout


def reaches_world_through(node: Node, gateway: str) -> bool:
    """Say whether this gateway is the way out, and a way."""
    chosen = node.run(["ip", "-4", "route", "get", PEER_SERVER], check=False).stdout
    fetched = node.run(["curl", "-sS", "--max-time", "3", PEER_URL], check=False)
    return f"via {gateway} " in chosen and fetched.stdout.strip() == GATEWAY_ADDRESS


def reaches_through_pair(node: Node) -> bool:
    return reaches_world_through(node, PRIVATE_VIP)


def resolves_at_pair(node: Node) -> bool:
    """Say whether the gateway's resolver is the one that is asked."""
    return ANSWER in node.run(["getent", "ahostsv4", NAME], check=False, timeout_s=30).stdout


def names_servers(node: Node, server: str) -> bool:
    """Say whether this is the only name server, wherever the node keeps them."""
    text = node.read("/etc/resolv.conf")
    if "127.0.0.53" in text:
        text = node.read("/run/systemd/resolve/resolv.conf")
    named = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver")]
    return named == [server]


def uses_pair(node: Node) -> bool:
    return reaches_through_pair(node) and resolves_at_pair(node)


def wait_for(node: Node, what: str, predicate: Callable[[Node], bool]) -> None:
    """Wait for an effect.

    Raises:
        LabError: It does not come; with the node's network and the agent's last words.
    """

    def seen() -> bool:
        if predicate(node):
            return True
        raise LabError(f"{network_of(node)}{node.journal(AGENT_UNIT)[-1500:]}")

    node.wait_until(seen, EFFECT_S, what)


def run_agent(node: Node) -> None:
    """Have the agent begin anew; it goes on to wait for a cluster, which is of no interest here."""
    node.run(["systemctl", "reset-failed", AGENT_UNIT], check=False)
    node.run(["systemctl", "restart", "--no-block", AGENT_UNIT])


def configure_changes(node: Node) -> list[str]:
    """What the first stage of a run would change now."""
    done = node.run(["oneke-agent", "configure", "--dry-run", "--json"])
    (stage, *_) = json.loads(done.stdout)["stages"]
    return [action["action"] for action in stage["actions"] if action["change"]]


# --- the tests build upon each other --------------------------------------------------------------


def each(nodes: Nodes, act: Callable[[str, Node], None], stacks: Iterable[str] = STACKS) -> None:
    """Do the same to all nodes side by side.

    Raises:
        LabError: It did not do on some; all of them are named.
    """
    with ThreadPoolExecutor(len(STACKS)) as pool:
        done = {stack: pool.submit(act, stack, nodes.nodes[stack]) for stack in stacks}
    errors = [f"{stack}: {one.exception()}" for stack, one in done.items() if one.exception()]
    if errors:
        raise LabError("\n".join(errors))


def wait_settled(node: Node) -> None:
    """Wait until a run would change nothing any more."""
    node.wait_until(lambda: configure_changes(node) == [], EFFECT_S, "nothing to be left to do")


def test_nodes_find_their_way_and_a_second_run_changes_nothing(nodes: Nodes) -> None:
    def act(stack: str, node: Node) -> None:
        wait_for(node, "the way through the pair", uses_pair)
        wait_settled(node)

    each(nodes, act)


def test_gateway_and_resolver_outlive_a_new_context_without_the_agent(nodes: Nodes) -> None:
    def act(stack: str, node: Node) -> None:
        node.run(["systemctl", "stop", AGENT_UNIT])
        nodes.give_context(stack, SSH_PUBLIC_KEY="ssh-ed25519 changed")
        wait_for(node, "the way through the pair", uses_pair)

    each(nodes, act)


def test_gateway_and_resolver_outlive_a_reboot_without_the_agent(nodes: Nodes) -> None:
    def act(stack: str, node: Node) -> None:
        node.run(["systemctl", "disable", "oneke.target"])
        node.reboot()
        wait_for(node, "the way through the pair", uses_pair)
        state = node.run(["systemctl", "is-active", AGENT_UNIT], check=False).stdout
        assert state.strip() == "inactive"

    each(nodes, act)


def test_gateway_and_resolver_outlive_new_leases(nodes: Nodes) -> None:
    def act(stack: str, node: Node) -> None:
        address = nodes.contexts[stack]["ETH0_IP"]
        before = nodes.dhcp.output.splitlines().count(address)

        def renewed() -> bool:
            return nodes.dhcp.output.splitlines().count(address) >= before + RENEWALS

        node.wait_until(renewed, 60, f"{RENEWALS} renewals")
        # The client writes what the lease says before it calls its hooks.
        wait_for(node, "the way through the pair", uses_pair)

    each(nodes, act, ["ifdhcp", "pldhcp"])


def test_a_resolver_that_is_silent_gives_way_and_comes_back(nodes: Nodes) -> None:
    def fall_back(stack: str, node: Node) -> None:
        run_agent(node)
        wait_for(node, "the route", reaches_through_pair)
        # systemd-resolved goes on to name that of the lease beside one that is kept.
        if stack != "pldhcp":
            kept = OWN_RESOLVER if nodes.contexts[stack]["ETH0_DNS"] else PRIVATE_VIP
            wait_for(node, f"{kept} to be asked", lambda it: names_servers(it, kept))

    def come_back(stack: str, node: Node) -> None:
        run_agent(node)
        wait_for(node, "the way through the pair", uses_pair)

    nodes.gateway.run(["systemctl", "stop", "unbound"])
    try:
        each(nodes, fall_back)
    finally:
        nodes.gateway.run(["systemctl", "start", "unbound"])
    each(nodes, come_back)


def test_what_leaves_the_context_leaves_the_node(nodes: Nodes) -> None:
    def act(stack: str, node: Node) -> None:
        node.run(["systemctl", "stop", AGENT_UNIT])
        nodes.give_context(stack, ONEAPP_VROUTER_ETH1_VIP0=None, FALLBACK_GW=FALLBACK_GATEWAY)
        run_agent(node)
        wait_for(node, "the other gateway", lambda it: reaches_world_through(it, FALLBACK_GATEWAY))
        assert PRIVATE_VIP not in node.run(["ip", "-4", "route"]).stdout
        wait_for(node, "the former resolver to be gone", lambda it: not resolves_at_pair(it))
        wait_settled(node)

    each(nodes, act)


def test_no_node_has_a_failed_unit_of_its_network(nodes: Nodes) -> None:
    names = ("networkd", "resolved", "networking", "one-context")
    failed = {
        node.name: [unit for unit in node.failed_units() if any(one in unit for one in names)]
        for node in nodes.nodes.values()
    }
    assert not any(failed.values()), failed
