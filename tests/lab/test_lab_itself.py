"""What other tests take for granted: nodes boot, networks carry, faults bite, nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.lab.basics import CommandFailed, LabError, wait_until
from tests.lab.box import CGROUPS, hierarchies
from tests.lab.context import (
    ONEGATE_ENDPOINT,
    override,
    vnf_context,
)
from tests.lab.lab import Lab
from tests.lab.node import Node

pytestmark = pytest.mark.lab

PEER_URL = "http://198.51.100.1/"


def plain_node(lab: Lab, name: str, index: int, **changes: object) -> Node:
    """A node with a gateway's two addresses that does nothing by itself."""
    return lab.node(name, context=override(vnf_context(index, None), changes), agent=False)


def test_a_node_boots_without_a_failed_unit(lab: Lab) -> None:
    node = plain_node(lab, "n0", 0)
    assert node.wait_running(60) == "running", node.failed_units()
    assert node.run(["hostname"]).stdout == "n0\n"
    assert "\n0::/system.slice/" in "\n" + node.run_in_unit(["cat", "/proc/self/cgroup"]).stdout


def test_the_agents_units_close_no_ordering_cycle_with_the_contextualization(lab: Lab) -> None:
    node = lab.vnf("vnf0", 0)
    node.wait_contextualized()
    assert node.ordering_cycles() == []


def test_daemons_of_single_roles_are_off_on_an_unconfigured_node(lab: Lab) -> None:
    node = plain_node(lab, "n0", 0)
    node.wait_running(60)
    for unit in ("haproxy", "keepalived", "nftables", "rpcbind", "iscsid"):
        assert node.run(["systemctl", "is-enabled", unit], check=False).stdout.strip() in (
            "disabled",
            "",
        )
        assert node.run(["systemctl", "is-active", unit], check=False).stdout.strip() == "inactive"
    listening = node.run(["ss", "-Hltnu"]).stdout
    assert {line.split()[4].rpartition(":")[2] for line in listening.splitlines()} == {"22"}


def test_nodes_have_identities_of_their_own(lab: Lab) -> None:
    nodes = [plain_node(lab, f"n{index}", index) for index in range(2)]
    for node in nodes:
        node.wait_running(60)
    assert len({node.read("/etc/machine-id") for node in nodes}) == 2
    assert len({node.read("/etc/ssh/ssh_host_ed25519_key.pub") for node in nodes}) == 2


def test_two_nodes_reach_each_other_over_both_networks(lab: Lab) -> None:
    first, second = (plain_node(lab, f"n{index}", index) for index in range(2))
    for node in (first, second):
        node.wait_contextualized()
    for address in ("10.2.11.201", "172.20.0.101"):
        first.run(["ping", "-c1", "-W3", address])
    assert first.addresses("eth0") == ["10.2.11.200/24"]
    assert second.read("/sys/class/net/eth1/address") == "02:00:ac:14:00:65\n"
    assert first.read("/etc/resolv.conf") == "nameserver 10.2.11.1\nnameserver 10.2.11.1\n"


def test_a_nic_without_an_address_is_left_down(lab: Lab) -> None:
    node = plain_node(lab, "n0", 0, ETH1_IP="")
    node.wait_contextualized()
    assert node.addresses("eth1") == []
    assert "state DOWN" in node.run(["ip", "link", "show", "eth1"]).stdout


def test_a_private_node_reaches_onegate_through_address_translation_only(lab: Lab) -> None:
    router = plain_node(lab, "router", 0)
    router.wait_contextualized()
    inside = lab.host(
        "inside", network="private", address="172.20.0.150/24", gateway="172.20.0.100"
    )
    with pytest.raises(CommandFailed):
        inside.fetch(PEER_URL, timeout_s=1)
    for nic in ("eth0", "eth1"):
        router.run(["sysctl", "-q", f"net.ipv4.conf.{nic}.forwarding=1"])
    with pytest.raises(CommandFailed):
        inside.fetch(PEER_URL, timeout_s=1)
    rules = 'table ip t { chain c { type nat hook postrouting priority srcnat; oifname "eth0" '
    router.run(["nft", "-f", "-"], input=rules + "masquerade; }; }\n")
    assert inside.fetch(PEER_URL) == "10.2.11.200"
    refused = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{ONEGATE_ENDPOINT}/vm"]
    assert inside.run(refused).stdout == "401"


def test_onegate_knows_the_vm_a_gateway_plays(lab: Lab) -> None:
    node = lab.vnf("vnf0", 0, agent=False)
    node.wait_contextualized()
    script = (
        '. /run/one-context/one_env; curl -sf -H "X-ONEGATE-TOKEN: $TOKENTXT" '
        '-H "X-ONEGATE-VMID: $VMID" "$ONEGATE_ENDPOINT/vm"'
    )
    assert '"IP":"172.20.0.100"' in node.run(["bash", "-c", script]).stdout


def test_ready_is_reported_early_only_where_asked_for(lab: Lab) -> None:
    quiet = lab.vnf("quiet", 0, agent=False)
    hasty = lab.vnf("hasty", 1, agent=False, report_ready_early=True)
    for node in (quiet, hasty):
        node.wait_running(60)
    assert lab.onegate.user_template(hasty.vm_id)["READY"] == "YES"
    assert "READY" not in lab.onegate.user_template(quiet.vm_id)
    assert "Reported READY" in hasty.journal("one-context.service")


def test_one_env_holds_each_value_unescaped_between_double_quotes(lab: Lab) -> None:
    value = "two 'words'\n\"quoted\" \\ $HOME `id` #"
    context = override(vnf_context(0, None), {"VMID": "7", "ZZ_TEXT": value, "ETH1_IP": ""})
    node = lab.node("n0", context=context, token="c2VjcmV0", agent=False)
    node.wait_contextualized()
    text = node.read("/run/one-context/one_env")
    head = 'export TOKENTXT="c2VjcmV0"\nexport VMID="7"\nexport ONEGATE_ENDPOINT="http://203.0'
    assert text.startswith(head)
    assert f'\nexport ZZ_TEXT="{value}"\n' in text
    assert '\nexport ETH1_IP=""\n' in text
    stat = node.run(["stat", "-c", "%a %U", "/run/one-context/one_env"])
    assert stat.stdout == "400 root\n"
    assert "ZZ_TEXT='two '\\''words" in node.read("/run/one-context/context.sh")


def test_a_changed_context_reaches_a_running_node(lab: Lab) -> None:
    node = plain_node(lab, "n0", 0, ETH1_IP="")
    node.wait_running(60)
    text = node.read("/var/lib/lab-context/context.sh")
    node.set_context(text.replace("ETH1_IP=''", "ETH1_IP='172.20.0.100'"))
    assert node.addresses("eth1") == ["172.20.0.100/24"]
    assert 'export ETH1_IP="172.20.0.100"' in node.read("/run/one-context/one_env")


def test_a_pulled_cable_takes_the_carrier_and_an_isolated_one_does_not(lab: Lab) -> None:
    first, second = (plain_node(lab, f"n{index}", index) for index in range(2))
    for node in (first, second):
        node.wait_contextualized()

    def carrier() -> bool:
        return first.read("/sys/class/net/eth1/carrier") == "1\n"

    def reaches() -> bool:
        argv = ["ping", "-c1", "-W1", "172.20.0.101"]
        return first.run(argv, check=False).returncode == 0

    first.wait_until(reaches, 10, "n1 to answer")
    first.isolate("eth1")
    assert carrier()
    assert not reaches()
    first.unplug("eth1")
    first.wait_until(lambda: not carrier(), 5, "the carrier to be gone")
    first.reboot()
    first.wait_contextualized()
    assert not carrier()
    first.plug("eth1")
    first.wait_until(reaches, 10, "n1 to answer again")


def test_a_power_cut_keeps_the_disk_and_says_nothing(lab: Lab) -> None:
    node = plain_node(lab, "n0", 0)
    node.wait_running(60)
    node.write("/var/lib/kept", "before\n")
    node.write("/run/gone", "before\n")
    boot_id = node.read("/proc/sys/kernel/random/boot_id")
    node.kill()
    assert not node.is_running
    assert node.read("/var/lib/kept") == "before\n"
    with pytest.raises(LabError, match="switched off"):
        node.run(["true"])
    node.start()
    node.wait_running(60)
    assert node.boots == 2
    assert node.read("/var/lib/kept") == "before\n"
    assert not node.exists("/run/gone")
    assert boot_id
    assert "Reached target reboot" not in node.journal(all_boots=True)


def test_an_orderly_stop_and_a_reboot_run_the_stop_jobs(lab: Lab) -> None:
    node = plain_node(lab, "n0", 0)
    node.wait_running(60)
    node.write(
        "/etc/systemd/system/witness.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n"
        "ExecStop=sh -c 'echo stopped >> /var/lib/witness'\n",
    )
    node.run(["systemctl", "start", "witness"])
    node.reboot()
    node.wait_running(60)
    assert node.read("/var/lib/witness") == "stopped\n"
    node.run(["systemctl", "start", "witness"])
    node.stop()
    assert node.read("/var/lib/witness") == "stopped\nstopped\n"


def test_a_wait_that_fails_says_what_it_waited_for_and_the_last_state() -> None:
    with pytest.raises(LabError, match=r"waited 0.2 s for tea; last state: it is cold"):
        wait_until(_refuse, 0.2, "tea")


def test_a_plain_host_says_its_name_also_over_tls(lab: Lab) -> None:
    server = lab.host("server", network="private", address="172.20.0.60/24")
    client = lab.host("client", network="private", address="172.20.0.61/24")
    server.serve(80)
    server.serve(6443, tls=True, statuses={"/readyz": 401})
    assert client.fetch("http://172.20.0.60/") == "server"
    code = ["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}"]
    assert client.run([*code, "https://172.20.0.60:6443/readyz"]).stdout == "401"


def test_a_closed_node_leaves_nothing_behind(lab: Lab) -> None:
    node = plain_node(lab, "n0", 0)
    node.wait_contextualized()
    assert f"{node.root} " in Path("/proc/mounts").read_text()
    node.close()
    assert str(node.root) not in Path("/proc/mounts").read_text()
    assert not node.root.exists()
    wait_until(lambda: not lab.switch.cables() & {"n0-eth0", "n0-eth1"}, 10, "the cables to go")
    assert [group for tree in hierarchies() for group in tree.glob(_groups("n0"))] == []
    running = [path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")]
    assert "systemd" not in running
    assert "systemd-nspawn" not in running


def test_a_killed_box_takes_its_nodes_along() -> None:
    boots_a_node = textwrap.dedent("""
        import time
        from tests.lab.context import vnf_context
        from tests.lab.lab import Lab
        with Lab() as lab:
            node = lab.node("victim", context=vnf_context(0, None), agent=False)
            node.wait_running(60)
            print("booted", flush=True)
            time.sleep(600)
    """)
    environment = {key: value for key, value in os.environ.items() if key != "ONEKE_LAB_BOX"}
    box = [sys.executable, "-m", "tests.lab", "box", "--", sys.executable, "-c", boots_a_node]
    with subprocess.Popen(box, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "booted\n"
        groups = list(CGROUPS.glob(f"*/lab-*.{process.pid}-victim")) or list(
            CGROUPS.glob(f"lab-*.{process.pid}-victim")
        )
        assert any(_members(group) for group in groups)
        process.kill()
    wait_until(
        lambda: not any(_members(group) for group in groups), 10, "the node's processes to be gone"
    )
    for group in groups:
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()


def _refuse() -> str:
    raise LabError("it is cold")


def _groups(node: str) -> str:
    return f"lab-{os.environ['ONEKE_LAB_BOX_ID']}-{node}"


def _members(group: Path) -> list[str]:
    return [pid for procs in group.rglob("cgroup.procs") for pid in procs.read_text().split()]
