"""A pair of gateways in service: what it does, how it is changed, and what it survives.

All tests share one pair; each leaves it as it found it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.lab.bake import Image
from tests.lab.basics import CommandFailed, LabError, wait_until
from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP
from tests.lab.gateway_node import (
    PEER_URL,
    ArgumentWatch,
    Echo,
    Talk,
    agent,
    answers,
    changes_of,
    configured,
    give_context,
    held,
    holder_of,
    machine_state,
    main_pids,
    previewed,
    published,
    server_states,
    state_differences,
    unit_property,
    wait_fetch,
    wait_moved,
    wait_ready,
    wait_servers,
    world_readable_files_with,
)
from tests.lab.lab import Lab
from tests.lab.network import Host, Process
from tests.lab.node import Node

pytestmark = pytest.mark.lab

INGRESS_PORT = 32080
ECHO_PORT = 7000
BALANCERS = {
    "ONEAPP_VNF_HAPROXY_LB1_SERVER0_HOST": "172.20.0.60",
    "ONEAPP_VNF_HAPROXY_LB1_SERVER0_PORT": "6443",
    "ONEAPP_VNF_HAPROXY_LB3_SERVER0_HOST": "172.20.0.60",
    "ONEAPP_VNF_HAPROXY_LB3_SERVER0_PORT": str(INGRESS_PORT),
    "ONEAPP_VNF_HAPROXY_LB3_SERVER1_HOST": "172.20.0.61",
    "ONEAPP_VNF_HAPROXY_LB3_SERVER1_PORT": str(INGRESS_PORT),
    "ONEAPP_VNF_HAPROXY_LB4_IP": "<ETH0_EP0>",
    "ONEAPP_VNF_HAPROXY_LB4_PORT": str(ECHO_PORT),
    "ONEAPP_VNF_HAPROXY_LB4_SERVER0_HOST": "172.20.0.60",
    "ONEAPP_VNF_HAPROXY_LB4_SERVER0_PORT": str(ECHO_PORT),
}
INGRESS_URL = f"http://{PUBLIC_VIP}/"


@dataclass
class Pair:
    """The gateways and what stands around them."""

    lab: Lab
    nodes: tuple[Node, Node]
    inside: Host
    outside: Host
    servers: tuple[Host, Host]
    second_ingress: Process

    def give(self, node: Node, **changes: object) -> None:
        """Give a gateway its usual context with changes."""
        index = self.nodes.index(node)
        give_context(self.lab, node, index, **(BALANCERS | changes))

    def restore(self, node: Node) -> None:
        """Give a gateway its usual context back and converge it."""
        self.give(node)
        configured(node)


@pytest.fixture(scope="module")
def lab(lab_image: Image) -> Iterator[Lab]:
    """One lab for all tests of this file."""
    with Lab(lab_image) as made:
        yield made


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Pair:
    """The pair, switched on; the first test waits for it."""
    nodes = (lab.vnf("vnf0", 0, **BALANCERS), lab.vnf("vnf1", 1, **BALANCERS))
    inside = lab.host("inside", network="private", address="172.20.0.150/24", gateway=PRIVATE_VIP)
    outside = lab.host("outside", network="public", address="10.2.11.50/24", gateway="10.2.11.1")
    servers = tuple(
        lab.host(
            f"server{number}",
            network="private",
            address=f"172.20.0.{60 + number}/24",
            gateway=PRIVATE_VIP,
        )
        for number in range(2)
    )
    servers[0].serve(6443, tls=True, statuses={"/readyz": 401})
    servers[0].serve(INGRESS_PORT)
    second = servers[1].serve(INGRESS_PORT)
    Echo(servers[0], ECHO_PORT)
    return Pair(lab, nodes, inside, outside, (servers[0], servers[1]), second)


# --- up by themselves -----------------------------------------------------------------------------


def test_two_gateways_come_from_power_on_to_ready_by_themselves(pair: Pair) -> None:
    for node in pair.nodes:
        known = wait_ready(pair.lab, node)
        assert known["ONEKE_ERROR"] == ""
        assert known["ONEKE_STEP"] == ""
        assert known["ONEKE_AGENT_VERSION"]
        assert node.wait_running() == "running", node.failed_units()
        assert node.ordering_cycles() == []
        assert "OneKE vnf: READY" in node.console()
        assert "OneKE vnf: READY" in node.read("/etc/issue.d/50-oneke.issue")


def test_all_virtual_addresses_are_on_one_gateway(pair: Pair) -> None:
    holder, other = holder_of(pair.nodes)
    assert held(holder) == [PUBLIC_VIP, PRIVATE_VIP]
    assert held(other) == []


def test_a_private_client_reaches_the_internet_through_the_pair(pair: Pair) -> None:
    holder, _ = holder_of(pair.nodes)
    assert pair.inside.fetch(PEER_URL) == f"10.2.11.{200 + pair.nodes.index(holder)}"


def test_clients_inside_and_outside_reach_the_backends_through_the_virtual_address(
    pair: Pair,
) -> None:
    for host in (pair.inside, pair.outside):
        wait_fetch(host, INGRESS_URL)
        assert answers(host, INGRESS_URL, 4) == {"server0", "server1"}
        assert wait_fetch(host, f"https://{PUBLIC_VIP}:6443/") == "server0"


def test_every_declared_balancer_is_bound_on_both_gateways_with_or_without_servers(
    pair: Pair,
) -> None:
    for node in pair.nodes:
        listening = node.run(["ss", "-Hltn"]).stdout
        for port in (9345, 6443, 443, 80, ECHO_PORT):
            assert f" {PUBLIC_VIP}:{port} " in listening


def test_a_second_run_changes_nothing_and_says_so(pair: Pair) -> None:
    for node in pair.nodes:
        before = machine_state(node)
        pids = main_pids(node)
        said = agent(node, "configure")
        assert said.returncode == 0, said.stderr
        assert said.stdout.splitlines()[-1] == "vnf: 0 changes; ready"
        assert state_differences(before, machine_state(node)) == []
        assert main_pids(node) == pids


def test_a_person_reads_in_status_that_all_is_well(pair: Pair) -> None:
    holder, other = holder_of(pair.nodes)
    for node in pair.nodes:
        done = agent(node, "status")
        assert done.returncode == 0, done.stdout
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        assert not [line for line in lines if line.startswith("!")]
        assert "role vnf" in lines
        assert f"vm {node.vm_id}" in lines
        assert "last run READY" in lines
        assert "routing between eth0, eth1" in lines
        assert any(line.startswith("nat masquerading on eth0") for line in lines)
        assert "node ready" in lines
    assert f"MASTER, holds {PUBLIC_VIP}" in agent(holder, "status").stdout
    assert f"BACKUP, another node holds {PUBLIC_VIP}" in agent(other, "status").stdout


# --- changes --------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing_and_tells_what_the_run_then_does(pair: Pair) -> None:
    node = pair.nodes[0]
    pair.give(
        node,
        ONEAPP_VNF_NAT4_PORT_FWD0="8080:172.20.0.61:32080",
        ONEAPP_VNF_KEEPALIVED_PRIORITY="90",
        ONEAPP_VNF_HAPROXY_LB5_IP="<ETH1_IP0>",
        ONEAPP_VNF_HAPROXY_LB5_PORT="7001",
    )
    before = machine_state(node)
    told = previewed(node)
    assert state_differences(before, machine_state(node)) == []
    assert changes_of(told)
    done = configured(node)
    assert changes_of(done) == changes_of(told)
    assert configured(node)["changes"] == 0
    pair.restore(node)
    assert state_differences(before, machine_state(node)) == []


def test_a_changed_parameter_reloads_and_keeps_processes_and_connections(pair: Pair) -> None:
    holder, _ = holder_of(pair.nodes)
    wait_servers(holder, {"lb4_172.20.0.60_7000": "UP"})
    pids = main_pids(holder)
    talk = Talk(pair.outside, PUBLIC_VIP, ECHO_PORT)
    assert talk.says("before") == "before"
    pair.give(
        holder, ONEAPP_VNF_HAPROXY_LB3_SERVER1_HOST=None, ONEAPP_VNF_HAPROXY_LB3_SERVER1_PORT=None
    )
    changed = changes_of(configured(holder))
    assert changed["unit haproxy.service"] == "reload"
    assert "unit keepalived.service" not in changed
    assert "lb3_172.20.0.61_32080" not in server_states(holder)
    assert talk.says("while reloaded") == "while reloaded"
    pair.give(holder, ONEAPP_VNF_KEEPALIVED_PRIORITY="120")
    assert changes_of(configured(holder))["unit keepalived.service"] == "reload"
    assert main_pids(holder) == pids
    assert talk.says("after") == "after"
    assert held(holder) == [PUBLIC_VIP, PRIVATE_VIP]
    pair.restore(holder)
    assert main_pids(holder) == pids
    assert talk.says("in the end") == "in the end"
    talk.close()


def test_a_forwarded_port_is_reached_from_outside_and_leaves_no_rule_when_removed(
    pair: Pair,
) -> None:
    holder, _ = holder_of(pair.nodes)
    foreign = "table inet somebody {\n\tchain input {\n\t\tip saddr 192.0.2.1 drop\n\t}\n}\n"
    holder.run(["nft", "-f", "-"], input=foreign)
    pair.give(
        holder,
        ONEAPP_VNF_NAT4_PORT_FWD0=f"8080:172.20.0.61:{INGRESS_PORT}",
        ONEAPP_VNF_NAT4_PORT_FWD1=f"{PUBLIC_VIP}:{INGRESS_PORT}:172.20.0.60",
    )
    configured(holder)
    address = f"10.2.11.{200 + pair.nodes.index(holder)}"
    for target in (PUBLIC_VIP, address):
        assert wait_fetch(pair.outside, f"http://{target}:8080/") == "server1"
    assert wait_fetch(pair.outside, f"http://{PUBLIC_VIP}:{INGRESS_PORT}/") == "server0"
    pair.give(holder, ONEAPP_VNF_NAT4_ENABLED="NO")
    configured(holder)
    tables = holder.run(["nft", "list", "tables"]).stdout.splitlines()
    assert tables == ["table inet somebody"]
    assert holder.run(["nft", "list", "table", "inet", "somebody"]).stdout == foreign
    assert answers(pair.inside, PEER_URL, 1) == {"nothing"}
    pair.restore(holder)
    assert "dnat" not in holder.run(["nft", "list", "ruleset"]).stdout
    assert wait_fetch(pair.inside, PEER_URL) == address
    holder.run(["nft", "delete", "table", "inet", "somebody"])


def test_the_journal_is_not_filled_by_checks(pair: Pair) -> None:
    holder, _ = holder_of(pair.nodes)
    wait_servers(holder, {"lb4_172.20.0.60_7000": "UP"})
    assert "(oneke_health/" not in holder.journal("haproxy")


def test_a_rule_that_somebody_changed_by_hand_is_put_right(pair: Pair) -> None:
    node = pair.nodes[1]
    node.run(["nft", "flush", "table", "ip", "oneke"])
    node.run(["sysctl", "-q", "-w", "net.ipv4.conf.eth1.forwarding=0"])
    changed = changes_of(configured(node))
    assert set(changed) == {"packet filter table ip oneke", "kernel settings"}
    assert "masquerade" in node.run(["nft", "list", "table", "ip", "oneke"]).stdout


def test_haproxy_switched_off_is_stopped_and_disabled_and_the_addresses_stay(pair: Pair) -> None:
    holder, other = holder_of(pair.nodes)
    pair.give(holder, ONEAPP_VNF_HAPROXY_ENABLED="NO")
    configured(holder)
    assert unit_property(holder, "haproxy", "ActiveState") == "inactive"
    assert unit_property(holder, "haproxy", "UnitFileState") == "disabled"
    assert holder_of(pair.nodes) == (holder, other)
    assert configured(holder)["changes"] == 0
    pair.restore(holder)
    assert unit_property(holder, "haproxy", "ActiveState") == "active"
    wait_fetch(pair.outside, INGRESS_URL)


# --- a user's own configuration -------------------------------------------------------------------


def test_a_users_own_haproxy_configuration_is_served_beside_the_generated_one(pair: Pair) -> None:
    node = pair.nodes[0]
    own = "listen mine\n mode http\n bind 172.20.0.100:8404\n http-request return status 200\n"
    pair.give(node, ONEAPP_VNF_HAPROXY_CONFIG=own)
    pids = main_pids(node)
    assert changes_of(configured(node))["unit haproxy.service"] == "reload"
    assert wait_fetch_status(pair.inside, "http://172.20.0.100:8404/") == "200"
    assert main_pids(node) == pids
    pair.restore(node)


def test_a_wrong_own_configuration_is_refused_in_haproxys_words_and_nothing_is_touched(
    pair: Pair,
) -> None:
    node = pair.nodes[0]
    pair.give(
        node,
        ONEAPP_VNF_HAPROXY_CONFIG="listen mine\n    bind 172.20.0.100:8404\n    sing a song\n",
        ONEAPP_VNF_NAT4_ENABLED="NO",
    )
    before, pids = machine_state(node), main_pids(node)
    done = agent(node, "configure")
    assert done.returncode == 78
    assert "unknown keyword 'sing'" in done.stderr
    assert "look at ONEAPP_VNF_HAPROXY_CONFIG" in done.stderr
    assert "Traceback" not in done.stderr
    known = published(pair.lab, node)
    assert known["ONEKE_STATE"] == "FAILED"
    assert "unknown keyword 'sing'" in known["ONEKE_ERROR"]
    assert state_differences(before, machine_state(node)) == []
    assert main_pids(node) == pids
    pair.restore(node)
    assert published(pair.lab, node)["ONEKE_STATE"] == "READY"
    assert published(pair.lab, node)["ONEKE_ERROR"] == ""


def wait_fetch_status(host: Host, url: str) -> str:
    """HTTP status of a URL, once there is one."""

    def asked() -> str:
        argv = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "2", url]
        return host.run(argv).stdout

    return wait_until(asked, 10, f"{url} to answer")


# --- secrets --------------------------------------------------------------------------------------


def configured_at_once(nodes: Sequence[Node]) -> list[str]:
    """Converge both gateways side by side, so that they soon agree; returns all they said."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        runs = list(pool.map(lambda node: agent(node, "configure", "--json"), nodes))
    assert [done.returncode for done in runs] == [0] * len(runs), runs
    return [said for done in runs for said in (done.stdout, done.stderr)]


def test_secrets_are_in_no_open_file_no_argument_no_journal_and_no_plan(pair: Pair) -> None:
    password = "Pw4vrrp!"
    texts = []
    with ArgumentWatch() as watch:
        for node in pair.nodes:
            pair.give(node, ONEAPP_VNF_KEEPALIVED_PASSWORD=password)
        for node in pair.nodes:
            texts.append(agent(node, "plan").stdout)
            texts.append(agent(node, "configure", "--dry-run", "--json").stdout)
        texts += configured_at_once(pair.nodes)
        holder_of(pair.nodes)
        for node in pair.nodes:
            texts += [agent(node, *verb).stdout for verb in (["status"], ["status", "--json"])]
    assert watch.naming("oneke-agent")
    for node in pair.nodes:
        assert f'auth_pass "{password}"' in node.read("/etc/keepalived/keepalived.conf")
        texts += [node.journal(all_boots=True), node.console()]
        texts += list(map(str, published(pair.lab, node).values()))
        for secret in (password, str(node.token)):
            assert watch.naming(secret) == []
            assert world_readable_files_with(node, secret) == []
            assert not [text for text in texts if secret in text]
    for node in pair.nodes:
        pair.give(node)
        assert password not in agent(node, "plan").stdout
    assert not [said for said in configured_at_once(pair.nodes) if password in said]
    holder_of(pair.nodes)


def test_the_plan_that_removes_an_own_configuration_does_not_show_it(pair: Pair) -> None:
    node = pair.nodes[1]
    own = "listen mine\n    mode http\n    bind 127.0.0.1:8404\n    stats auth me:S3same0pen\n"
    pair.give(node, ONEAPP_VNF_HAPROXY_CONFIG=own)
    configured(node)
    pair.give(node)
    for argv in (["plan"], ["configure", "--dry-run", "--json"], ["configure"]):
        done = agent(node, *argv)
        assert done.returncode == 0, done.stderr
        assert "S3same0pen" not in done.stdout + done.stderr
    assert configured(node)["changes"] == 0


# --- faults ---------------------------------------------------------------------------------------


def test_a_dead_server_is_noticed_and_passed_over_until_it_is_back(pair: Pair) -> None:
    holder, _ = holder_of(pair.nodes)
    name = f"lb3_172.20.0.61_{INGRESS_PORT}"
    wait_servers(holder, {name: "UP"})
    pair.second_ingress.stop()
    wait_servers(holder, {name: "DOWN"})
    assert answers(pair.outside, INGRESS_URL, 4) == {"server0"}
    pair.second_ingress = pair.servers[1].serve(INGRESS_PORT)
    wait_servers(holder, {name: "UP"})
    assert answers(pair.outside, INGRESS_URL, 4) == {"server0", "server1"}


def test_a_stopped_haproxy_moves_the_addresses_and_status_says_what_is_wrong(pair: Pair) -> None:
    holder, other = holder_of(pair.nodes)
    holder.run(["systemctl", "stop", "haproxy"])
    wait_moved(holder, other)
    wait_fetch(pair.outside, INGRESS_URL)
    assert wait_fetch(pair.inside, PEER_URL) == f"10.2.11.{200 + pair.nodes.index(other)}"
    done = agent(holder, "status")
    assert done.returncode == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "! haproxy not running (inactive): journalctl -u haproxy.service tells why" in lines
    assert any(line.startswith("! vrrp ETH0 in FAULT") for line in lines)
    assert changes_of(configured(holder)) == {"unit haproxy.service": "start"}
    assert agent(holder, "status").returncode == 0
    assert holder_of(pair.nodes) == (other, holder)


def test_a_hanging_haproxy_moves_the_addresses(pair: Pair) -> None:
    holder, other = holder_of(pair.nodes)
    group = ["systemctl", "kill", "haproxy", "--kill-who=all"]
    holder.run([*group, "--signal=SIGSTOP"])
    try:
        wait_moved(holder, other)
        wait_fetch(pair.outside, INGRESS_URL)
        wait_fetch(pair.inside, PEER_URL)
    finally:
        holder.run([*group, "--signal=SIGCONT"])
    holder.wait_until(lambda: agent(holder, "status").returncode == 0, 20, "to be well again")
    assert holder_of(pair.nodes) == (other, holder)


def test_a_killed_keepalived_leaves_no_address_on_two_gateways(pair: Pair) -> None:
    holder, other = holder_of(pair.nodes)
    holder.run(["systemctl", "kill", "--kill-who=all", "--signal=SIGKILL", "keepalived"])
    wait_moved(holder, other)
    wait_fetch(pair.inside, PEER_URL)
    holder.wait_until(lambda: agent(holder, "status").returncode == 0, 20, "to be well again")


def test_a_power_cut_of_the_holder_moves_the_addresses_and_it_comes_back_as_the_other(
    pair: Pair,
) -> None:
    holder, other = holder_of(pair.nodes)
    holder.kill()
    wait_moved(holder, other)
    assert wait_fetch(pair.inside, PEER_URL) == f"10.2.11.{200 + pair.nodes.index(other)}"
    wait_fetch(pair.outside, INGRESS_URL)
    holder.start()
    assert holder.wait_running() == "running", holder.failed_units()
    assert agent(holder, "status").returncode == 0
    assert holder_of(pair.nodes) == (other, holder)
    assert configured(holder)["changes"] == 0
    assert published(pair.lab, holder)["READY"] == "YES"


def test_a_pulled_cable_of_the_holder_moves_all_addresses_together(pair: Pair) -> None:
    holder, other = holder_of(pair.nodes)
    holder.unplug("eth1")
    try:
        wait_moved(holder, other)
        assert wait_fetch(pair.inside, PEER_URL) == f"10.2.11.{200 + pair.nodes.index(other)}"
        assert agent(holder, "status").returncode == 1
    finally:
        holder.plug("eth1")
    holder.wait_until(lambda: agent(holder, "status").returncode == 0, 30, "to be well again")
    with pytest.raises((LabError, CommandFailed)):
        wait_moved(other, holder, timeout_s=0)
