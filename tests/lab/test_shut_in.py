"""Daemons of a gateway: they do their work with the few rights that their units leave them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.lab.context import PRIVATE_VIP, PUBLIC_VIP
from tests.lab.gateway_node import unit_property, wait_ready
from tests.lab.lab import Lab
from tests.lab.node import Node

pytestmark = pytest.mark.lab

# Numbers of capabilities. Source: capability.h of Linux.
_NET_ADMIN, _NET_RAW, _SYS_MODULE, _SYS_PTRACE, _SYS_ADMIN, _MKNOD = 12, 13, 16, 19, 21, 27
NEVER = (_SYS_MODULE, _SYS_PTRACE, _SYS_ADMIN, _MKNOD)
DAEMONS: Mapping[str, tuple[int, ...]] = {
    "haproxy.service": (*NEVER, _NET_ADMIN, _NET_RAW),
    "keepalived.service": NEVER,
    "unbound.service": (*NEVER, _NET_ADMIN),
    "oneke-backends.service": (*NEVER, _NET_ADMIN, _NET_RAW),
}


@pytest.fixture
def silent(lab: Lab) -> Node:
    """A gateway whose agent is off."""
    node = lab.vnf("vnf0", 0, agent=False)
    node.wait_running()
    return node


def status_of(node: Node, unit: str) -> dict[str, str]:
    """What the kernel tells of a unit's main process."""
    pid = unit_property(node, unit, "MainPID")
    lines = node.run(["cat", f"/proc/{pid}/status"]).stdout.splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def test_a_gateways_daemons_work_without_the_rights_they_do_not_need(lab: Lab) -> None:
    node = lab.vnf("vnf0", 0, ONEAPP_VNF_DNS_ENABLED="YES", ONEAPP_VNF_DNS_NAMESERVERS="10.2.11.1")
    wait_ready(lab, node)
    for unit, lacking in DAEMONS.items():
        told = status_of(node, unit)
        bounds = int(told["CapBnd"], 16)
        assert not [number for number in lacking if bounds >> number & 1], unit
        assert (told["Seccomp"], told["NoNewPrivs"]) == ("2", "1"), unit
    asked = ["getent", "ahostsv4", "ep0.eth0.vr"]
    node.write("/etc/resolv.conf", f"nameserver {PRIVATE_VIP}\n")
    assert node.run(asked).stdout.split()[0] == PUBLIC_VIP


def test_systemd_has_nothing_to_say_about_the_units_of_the_image(silent: Node) -> None:
    folders = ["/usr/lib/systemd/system", "/etc/systemd/system"]
    found = silent.run(["find", *folders, "-maxdepth", "1", "-type", "f", "-name", "oneke*"])
    ours = found.stdout.split()
    assert len(ours) >= 6
    done = silent.run(["systemd-analyze", "verify", "--man=no", *ours, *DAEMONS], check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_host_key_that_a_power_cut_left_empty_is_made_anew_and_no_other(silent: Node) -> None:
    key, other = "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key.pub"
    before = silent.read(other)
    silent.write(key, "")
    silent.run(["systemctl", "restart", "oneke-ssh-host-keys.service"])
    made = silent.run(["ssh-keygen", "-y", "-f", key]).stdout
    assert made.split()[:2] == silent.read(f"{key}.pub").split()[:2]
    modes = silent.run(["stat", "--format", "%a", key, f"{key}.pub"]).stdout.split()
    assert modes == ["600", "644"]
    assert silent.read(other) == before != ""


def test_presets_applied_anew_change_nothing(silent: Node) -> None:
    listing = ["systemctl", "list-unit-files", "--no-legend", "--plain", "--state=enabled"]
    before = silent.run(listing).stdout
    assert "oneke.target" not in before, "it was disabled to keep the agent off"
    units = ["haproxy", "keepalived", "unbound", "rpcbind", "iscsid", "oneke-ssh-host-keys"]
    silent.run(["systemctl", "preset", *units])
    assert silent.run(listing).stdout == before
    silent.run(["systemctl", "preset", "oneke.target"])
    assert silent.run(["systemctl", "is-enabled", "oneke.target"]).stdout == "enabled\n"
