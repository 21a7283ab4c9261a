"""The gateway's resolver, strangers on its wire, and NICs that come late."""

from __future__ import annotations

import pytest

from tests.lab.basics import wait_until
from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP
from tests.lab.gateway_node import agent, holder_of, wait_moved, wait_ready
from tests.lab.lab import Lab
from tests.lab.network import Host

pytestmark = pytest.mark.lab

FOLLOW = {"ONEAPP_VNF_HAPROXY_ONEGATE_ENABLED": "YES", "ONEAPP_VNF_HAPROXY_REFRESH_RATE": "1"}

ASK = """
import socket, struct, sys
name, server = sys.argv[1:3]
question = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\\0"
packet = struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + question + struct.pack(">HH", 1, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
    asker.settimeout(2)
    asker.sendto(packet, (server, 53))
    answer = asker.recv(512)
print(answer[3] & 15, ".".join(map(str, answer[-4:])))
"""

RESOLVER = """
import socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("198.51.100.1", 53))
    while True:
        question, peer = server.recvfrom(512)
        end = question.index(b"\\0", 12) + 5
        head = question[:2] + b"\\x81\\x80" + b"\\0\\1\\0\\1\\0\\0\\0\\0"
        answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + bytes([192, 0, 2, 7])
        server.sendto(head + question[12:end] + answer, peer)
"""


def ask(host: Host, name: str) -> str:
    """Ask the virtual address for a name and return the status and the address."""
    return wait_until(
        lambda: host.run(["python3", "-c", ASK, name, PRIVATE_VIP]).stdout.strip(),
        20,
        f"an answer for {name}",
    )


def test_the_pair_answers_names_on_its_virtual_address_also_after_a_failover(lab: Lab) -> None:
    resolver = {
        "ONEAPP_VNF_DNS_ENABLED": "YES",
        "ONEAPP_VNF_DNS_INTERFACES": "eth1",
        "ONEAPP_VNF_DNS_NAMESERVERS": "198.51.100.1",
    }
    lab.internet.start("-c", RESOLVER, what="a name server")
    nodes = [lab.vnf(f"vnf{index}", index, **resolver) for index in range(2)]
    for node in nodes:
        wait_ready(lab, node)
    client = lab.host("client", network="private", address="172.20.0.150/24", gateway=PRIVATE_VIP)
    assert ask(client, "ep0.eth0.vr") == f"0 {PUBLIC_VIP}"
    assert ask(client, "vip0.eth1.vr") == f"0 {PRIVATE_VIP}"
    assert ask(client, "anything.example") == "0 192.0.2.7"
    holder = next(node for node in nodes if f"{PRIVATE_VIP}/24" in str(node.addresses("eth1")))
    holder.stop()
    assert ask(client, "ep0.eth0.vr") == f"0 {PUBLIC_VIP}"
    assert ask(client, "other.example") == "0 192.0.2.7"


def test_a_stranger_with_the_same_router_id_is_noticed_and_reported(lab: Lab) -> None:
    shared = {"ONEAPP_VNF_KEEPALIVED_VRID": "9", **FOLLOW}
    node = lab.vnf("vnf0", 0, **shared)
    wait_ready(lab, node)
    other = {
        "ONEAPP_VROUTER_ETH0_VIP0": "10.2.11.99",
        "ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.99",
        "ONEAPP_VNF_KEEPALIVED_PRIORITY": "150",
    }
    stranger = lab.vnf("stranger", 5, **shared | other)
    words = "another router uses virtual router id 9 on eth0"
    node.wait_until(lambda: words in agent(node, "status").stdout, 60, "status to tell")
    known = lab.onegate.user_template
    node.wait_until(
        lambda: words in str(known(node.vm_id)["ONEKE_ERROR"]), 60, "OneGate to be told"
    )
    stranger.kill()
    node.wait_until(
        lambda: known(node.vm_id)["ONEKE_ERROR"] == "", 60, "OneGate to be told that it is over"
    )


def test_a_nic_that_comes_late_is_waited_for(lab: Lab) -> None:
    node = lab.vnf("vnf0", 0, agent=False)
    node.wait_contextualized()
    node.run(["ip", "link", "set", "eth1", "down"])
    node.run(["ip", "link", "set", "eth1", "name", "later0"])
    node.run(["systemctl", "start", "--no-block", "oneke.target"])
    known = lab.onegate.user_template
    node.wait_until(
        lambda: "eth1 is not there" in str(known(node.vm_id).get("ONEKE_STEP")), 30, "it to wait"
    )
    assert "READY" not in known(node.vm_id)
    node.run(["ip", "link", "set", "later0", "name", "eth1"])
    node.run(["ip", "link", "set", "eth1", "up"])
    node.run(["ip", "address", "replace", "172.20.0.100/24", "dev", "eth1"])
    wait_ready(lab, node)


def test_adverts_of_a_fraction_of_a_second_move_the_addresses_too(lab: Lab) -> None:
    often = {"ONEAPP_VNF_KEEPALIVED_INTERVAL": "0.2"}
    nodes = [lab.vnf(f"vnf{index}", index, **often) for index in range(2)]
    for node in nodes:
        wait_ready(lab, node)
    holder, other = holder_of(nodes)
    assert "vrrp_version 3" in holder.read("/etc/keepalived/keepalived.conf")
    holder.kill()
    wait_moved(holder, other, timeout_s=6)


def test_a_gateway_that_is_switched_off_in_order_hands_its_addresses_over(lab: Lab) -> None:
    nodes = [lab.vnf(f"vnf{index}", index) for index in range(2)]
    for node in nodes:
        wait_ready(lab, node)
    holder, other = holder_of(nodes)
    holder.stop()
    wait_moved(holder, other, timeout_s=6)
    said = other.journal("keepalived")
    assert "Entering MASTER STATE" in said


def test_two_gateways_agree_on_a_router_id_that_only_onegate_tells(lab: Lab) -> None:
    untold = {"SERVICE_ID": None, "ONEAPP_VNF_KEEPALIVED_VRID": None}
    nodes = [lab.vnf(f"vnf{index}", index, **untold) for index in range(2)]
    for node in nodes:
        wait_ready(lab, node)
    holder_of(nodes)
    ids = {
        line.split()[1]
        for node in nodes
        for line in node.read("/etc/keepalived/keepalived.conf").splitlines()
        if "virtual_router_id" in line
    }
    assert ids == {str(lab.service_id % 255 + 1)}
