"""Gateways at power on: whatever context, disc or OneGate they find.

Nodes that do not get in each other's way boot side by side, each in a virtual router of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.lab.bake import Image
from tests.lab.basics import REPOSITORY, LabError, run
from tests.lab.box import STATE
from tests.lab.context import (
    PRIVATE,
    PRIVATE_VIP,
    common_context,
    context_text,
    nic_attributes,
    nic_context,
    vnf_context,
)
from tests.lab.gateway_node import (
    AGENT_UNIT,
    PEER_URL,
    agent,
    gateway_context,
    held,
    holder_of,
    published,
    unit_property,
    wait_ready,
)
from tests.lab.lab import PRIVATE_NIC, Lab
from tests.lab.node import Bind, Node

pytestmark = pytest.mark.lab

RECORDING = REPOSITORY / "tests/data/onegate-recordings/7.4/001-context-and-token-vnf.txt"
RECORDED_VM = 365
HEALS_S = 120

FORWARD_ONEGATE = """\
[Unit]
Description=OneGate at the address that the recorded context names
After=one-context-local.service one-context-online.service
[Service]
ExecStart=/usr/bin/socat TCP-LISTEN:15030,bind=127.0.0.1,fork,reuseaddr TCP:203.0.113.40:5030
[Install]
WantedBy=multi-user.target
"""
SET_ADDRESSES = """\
[Unit]
Description=The addresses, where no contextualization package sets them
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip link set eth0 up
ExecStart=/usr/sbin/ip link set eth1 up
ExecStart=/usr/sbin/ip address replace 10.2.11.200/24 dev eth0
ExecStart=/usr/sbin/ip address replace 172.20.0.100/24 dev eth1
ExecStart=/usr/sbin/ip route replace default via 10.2.11.1
[Install]
WantedBy=network-online.target
"""


def own_router(number: int) -> dict[str, str]:
    """Parameters that keep a gateway apart from the others of the lab."""
    return {
        "ONEAPP_VROUTER_ETH0_VIP0": f"10.2.11.{100 + number}",
        "ONEAPP_VROUTER_ETH1_VIP0": f"172.20.0.{180 + number}",
        "ONEAPP_VNF_KEEPALIVED_VRID": str(20 + number),
    }


def own_vips(number: int) -> list[str]:
    return list(own_router(number).values())[:2]


def add_unit(node: Node, name: str, text: str, target: str) -> None:
    """Give a node that is off a unit that is started at boot."""
    folder = node.root / "etc/systemd/system"
    (folder / name).write_text(text)
    wants = folder / f"{target}.wants"
    wants.mkdir(exist_ok=True)
    (wants / name).symlink_to(f"/etc/systemd/system/{name}")


def said_on_console(node: Node, text: str, timeout_s: float) -> None:
    """Wait until the console shows a text."""

    def shown() -> bool:
        if text in node.console():
            return True
        raise LabError(f"the console ends with {node.console()[-600:]!r}")

    node.wait_until(shown, timeout_s, f"the console to say {text!r}")


def said_in_journal(node: Node, text: str, timeout_s: float) -> None:
    """Wait until the agent's journal holds a text."""

    def logged() -> bool:
        journal = node.journal(AGENT_UNIT)
        if text in journal:
            return True
        raise LabError(f"the journal ends with {journal[-1000:]!r}")

    node.wait_until(logged, timeout_s, f"the journal to say {text!r}")


# --- contexts -------------------------------------------------------------------------------------


def test_the_recorded_context_of_1_24_boots_into_what_is_documented(lab: Lab) -> None:
    text, _, tail = RECORDING.read_text().partition("# token.txt")
    token = tail.splitlines()[1].strip()
    node = lab.node(
        "vnf365",
        context_text=text,
        token=token,
        vm={"role": "vnf", "service_id": lab.service_id, "vm_id": RECORDED_VM},
        start=False,
    )
    add_unit(node, "lab-onegate.service", FORWARD_ONEGATE, "multi-user.target")
    node.start()
    known = wait_ready(lab, node)
    assert known["ONEKE_ERROR"] == ""
    assert set(node.addresses("eth0")) == {"10.2.11.205/24", "10.2.11.86/24"}
    assert set(node.addresses("eth1")) == {"172.20.0.121/24", "172.20.0.86/24"}
    rules = node.run(["nft", "--stateless", "list", "ruleset"]).stdout
    masquerading = [line.split() for line in rules.splitlines() if "masquerade" in line]
    assert [words[:2] for words in masquerading] == [["oifname", '"eth0"']]
    for nic in ("eth0", "eth1"):
        assert node.read(f"/proc/sys/net/ipv4/conf/{nic}/forwarding") == "1\n"
    listening = node.run(["ss", "-Hltn"]).stdout.splitlines()
    bound = {line.split()[3] for line in listening}
    assert {f"10.2.11.86:{port}" for port in (9345, 6443, 443, 80)} <= bound
    assert "virtual_router_id 1\n" in node.read("/etc/keepalived/keepalived.conf")
    assert "1.24 generation" in node.journal(AGENT_UNIT)
    client = lab.host("client", network="private", address="172.20.0.150/24", gateway=PRIVATE_VIP)
    # What leaves has the address that the kernel takes for its own: not the virtual one.
    assert client.fetch(PEER_URL) == "10.2.11.205"
    assert agent(node, "configure").stdout.splitlines()[-1] == "vnf: 0 changes; ready"


def test_a_context_disc_is_read_and_unmounted_where_there_is_no_contextualization(
    lab: Lab,
) -> None:
    made = lab.onegate.add_vm("vnf", lab.service_id)
    values = vnf_context(0, lab.service_id) | {"VMID": made["id"]}
    disc, device = _make_disc({"context.sh": context_text(values), "token.txt": made["token"]})
    node = lab.node(
        "disc",
        context_text="",
        binds=[Bind(device, device)],
        start=False,
    )
    node.vm_id = int(made["id"])
    for unit in ("", "-local", "-online"):
        (node.root / f"etc/systemd/system/one-context{unit}.service").symlink_to("/dev/null")
    add_unit(node, "lab-addresses.service", SET_ADDRESSES, "network-online.target")
    digest = hashlib.sha256(disc.read_bytes()).hexdigest()
    try:
        node.start()
        wait_ready(lab, node, 60)
        assert agent(node, "status").returncode == 0
        assert f"context {device}" in " ".join(agent(node, "status").stdout.split())
        mounts = [line.split() for line in node.read("/proc/mounts").splitlines()]
        assert not [mount for mount in mounts if mount[0] == device or "/context" in mount[1]]
        assert str(made["token"]) not in node.journal()
        node.stop()
        run(["blockdev", "--flushbufs", device])
        assert hashlib.sha256(disc.read_bytes()).hexdigest() == digest
    finally:
        node.close()
        run(["losetup", "--detach", device])


def _make_disc(files: Mapping[str, str]) -> tuple[Path, str]:
    """An ext4 file system labelled CONTEXT in a file, and the loop device that shows it."""
    folder = STATE / "disc"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    disc = STATE / "disc.img"
    run(["truncate", "--size=4M", str(disc)])
    run(["mkfs.ext4", "-q", "-L", "CONTEXT", "-d", str(folder), str(disc)])
    device = run(["losetup", "--find", "--show", str(disc)]).stdout.strip()
    return disc, device


# --- OneGate in trouble ---------------------------------------------------------------------------

TROUBLES: dict[str, tuple[str, dict[str, object], str]] = {
    # What OneGate does, with what options, and what the agent calls it.
    "slow": ("slow", {"seconds": 4}, ""),
    "hanging": ("hanging", {}, "no answer in time"),
    "refuses": ("oned_down", {}, "status 401"),
    "breaks": ("status", {"status": 500, "text": "Internal server error"}, "status 500"),
    "babbles": ("garbage", {"text": "<html>proxy</html>"}, "not JSON"),
}
NUMBERS = {name: number for number, name in enumerate(TROUBLES)}


class Troubled:
    """Gateways that boot while OneGate is in trouble with each of them in its own way."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.add_service([("vnf", len(TROUBLES) + 3)])
        self.nodes: dict[str, Node] = {}
        for name, (kind, options, _) in TROUBLES.items():
            node = lab.vnf(name, NUMBERS[name], start=False, **own_router(NUMBERS[name]))
            lab.onegate.fault(kind, vm_id=node.vm_id, **options)
            self.nodes[name] = node
        for node in self.nodes.values():
            node.start()

    def heal(self, name: str) -> None:
        """Let OneGate serve this node; no two are troubled in the same way."""
        self.lab.onegate.heal(TROUBLES[name][0])


@pytest.fixture(scope="class")
def troubled(lab_image: Image) -> Iterator[Troubled]:
    """All of them at once."""
    with Lab(lab_image) as made:
        yield Troubled(made)


class TestOneGateInTrouble:
    @pytest.mark.parametrize("name", ["breaks", "refuses", "babbles", "slow", "hanging"])
    def test_the_node_says_what_it_waits_for_and_heals_by_itself(
        self, troubled: Troubled, name: str
    ) -> None:
        node = troubled.nodes[name]
        _, _, words = TROUBLES[name]
        if words:
            said_on_console(node, words, 30)
            said_in_journal(node, words, 5)
            assert "READY" not in published(troubled.lab, node)
            assert words in agent(node, "status").stdout
            troubled.heal(name)
        known = wait_ready(troubled.lab, node, HEALS_S)
        assert known["ONEKE_ERROR"] == ""
        assert held(node, own_vips(NUMBERS[name])) == own_vips(NUMBERS[name])
        assert str(node.token) not in node.journal() + node.console()


# --- no OneGate at all ----------------------------------------------------------------------------


def test_a_node_that_converged_once_reboots_without_onegate_and_a_fresh_one_waits(
    lab: Lab,
) -> None:
    old = lab.vnf("old", 0, **own_router(0))
    wait_ready(lab, old)
    old.wait_running()
    lab.onegate.fault("down")
    old.reboot()
    fresh = lab.vnf("fresh", 1, **own_router(1))
    assert old.wait_running() == "running", old.failed_units()
    assert held(old, own_vips(0)) == own_vips(0)
    done = agent(old, "status")
    assert done.returncode == 0, done.stdout
    assert "role vnf" in " ".join(done.stdout.split())
    assert published(lab, old)["READY"] == "YES"
    said_on_console(fresh, "Connection refused", 30)
    said_in_journal(fresh, "Connection refused", 5)
    status = agent(fresh, "status")
    assert status.returncode == 1
    assert "role is not known yet" in status.stdout
    lab.onegate.heal("down")
    wait_ready(lab, fresh, HEALS_S)
    assert agent(old, "configure").stdout.splitlines()[-1] == "vnf: 0 changes; ready"
    assert published(lab, old)["ONEKE_STATE"] == "READY"


def test_a_private_node_reaches_onegate_through_the_gateway_and_says_that_it_has_no_handler(
    lab: Lab,
) -> None:
    service = lab.add_service([("vnf", 1), ("butler", 1)])
    address = "172.20.0.170"
    context = common_context(service) | nic_context(0, PRIVATE, address)
    context |= {"ONEAPP_VROUTER_ETH1_VIP0": PRIVATE_VIP}
    vm = {"role": "butler", "service_id": service, "nics": [nic_attributes(PRIVATE, address)]}
    # It is on first, so it has to wait for its way out.
    butler = lab.node("butler", context=context, vm=vm, nics=PRIVATE_NIC)
    lab.vnf("vnf0", 0)

    def failed() -> bool:
        known = published(lab, butler)
        if known.get("ONEKE_STATE") != "FAILED":
            raise LabError(f"OneGate knows {known}; {butler.journal(AGENT_UNIT)[-1000:]}")
        return True

    butler.wait_until(failed, HEALS_S, "FAILED")
    assert "butler" in published(lab, butler)["ONEKE_ERROR"]
    assert "READY" not in published(lab, butler)
    assert "FAILED" in butler.console()
    routes = butler.run(["ip", "-4", "route", "show", "default"]).stdout
    assert routes.startswith(f"default via {PRIVATE_VIP} dev eth0")
    assert butler.wait_running() == "degraded"
    assert butler.failed_units() == [AGENT_UNIT]
    assert unit_property(butler, AGENT_UNIT, "ExecMainStatus") == "78"
    assert unit_property(butler, AGENT_UNIT, "SubState") == "failed"
    assert unit_property(butler, AGENT_UNIT, "NRestarts") == "0"


# --- the unit -------------------------------------------------------------------------------------


class AtBoot:
    """Gateways with something odd about them, each for itself."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.add_service([("vnf", 4)])
        odd = 'x"\nexport ONEAPP_VNF_NAT4_ENABLED="NO"\nexport ZZ_MORE="y'
        self.ambiguous = lab.vnf("ambiguous", 0, ZZ_TEXT=odd, **own_router(0))
        slow = {"ONEAPP_VNF_KEEPALIVED_INTERVAL": "3"}
        self.killed = lab.vnf("killed", 1, **own_router(1) | slow)
        wrong = {"ONEAPP_VNF_KEEPALIVED_VRID": "300"}
        self.wrong = lab.vnf("wrong", 2, **own_router(2) | wrong)
        self.hasty = lab.vnf("hasty", 3, report_ready_early=True, **own_router(3) | wrong)


@pytest.fixture(scope="class")
def at_boot(lab_image: Image) -> Iterator[AtBoot]:
    """All of them at once."""
    with Lab(lab_image) as made:
        yield AtBoot(made)


class TestAtBoot:
    def test_a_run_that_is_killed_is_taken_up_again(self, at_boot: AtBoot) -> None:
        node = at_boot.killed

        def waiting() -> bool:
            return published(at_boot.lab, node).get("ONEKE_STATE") == "WAITING"

        node.wait_until(waiting, 60, "WAITING")
        node.run(["systemctl", "kill", "--signal=SIGKILL", AGENT_UNIT])
        wait_ready(at_boot.lab, node)
        assert unit_property(node, AGENT_UNIT, "NRestarts") == "1"
        assert "the run before was cut" in node.journal(AGENT_UNIT)
        assert held(node, own_vips(1)) == own_vips(1)

    def test_an_ambiguous_one_env_is_decided_by_the_context_sh_beside_it(
        self, at_boot: AtBoot
    ) -> None:
        node = at_boot.ambiguous
        wait_ready(at_boot.lab, node)
        assert "masquerade" in node.run(["nft", "list", "ruleset"]).stdout
        assert "context.sh was taken instead of /run/one-context/one_env" in node.journal(
            AGENT_UNIT
        )
        assert "context /run/one-context/context.sh" in " ".join(
            agent(node, "status").stdout.split()
        )

    def test_a_wrong_parameter_ends_the_run_for_good_until_it_is_corrected(
        self, at_boot: AtBoot
    ) -> None:
        node = at_boot.wrong
        assert node.wait_running() == "degraded"
        assert node.failed_units() == [AGENT_UNIT]
        assert unit_property(node, AGENT_UNIT, "ExecMainStatus") == "78"
        assert unit_property(node, AGENT_UNIT, "NRestarts") == "0"
        known = published(at_boot.lab, node)
        assert known["ONEKE_STATE"] == "FAILED"
        assert "ONEAPP_VNF_KEEPALIVED_VRID:300" in known["ONEKE_ERROR"]
        assert "from 1 to 255" in known["ONEKE_ERROR"]
        assert "READY" not in known
        assert "ONEAPP_VNF_KEEPALIVED_VRID=300" in node.console()
        status = agent(node, "status")
        assert status.returncode == 1
        assert "ONEAPP_VNF_KEEPALIVED_VRID=300" in status.stdout
        context = gateway_context(at_boot.lab, node, 2, **own_router(2))
        node.set_context(context_text(context), node.token, is_watched=True)
        wait_ready(at_boot.lab, node)
        assert published(at_boot.lab, node)["ONEKE_ERROR"] == ""

    def test_a_contextualization_that_reports_ready_early_is_what_the_image_prevents(
        self, at_boot: AtBoot
    ) -> None:
        hasty, wrong = at_boot.hasty, at_boot.wrong
        hasty.wait_running()
        known = published(at_boot.lab, hasty)
        assert (known["ONEKE_STATE"], known.get("READY")) == ("FAILED", "YES")
        assert not wrong.exists("/etc/one-context.d/net-99-report-ready")


# --- failover of a boot ---------------------------------------------------------------------------


def test_both_gateways_rebooting_at_once_come_back_by_themselves(lab: Lab) -> None:
    nodes = [lab.vnf(f"vnf{index}", index) for index in range(2)]
    for node in nodes:
        wait_ready(lab, node)
        node.wait_running()
    for node in nodes:
        node.kill()
    for node in nodes:
        node.start()
    for node in nodes:
        assert node.wait_running() == "running", node.failed_units()
        assert agent(node, "status").returncode == 0
    holder_of(nodes)
