"""A whole machine, from its kernel on: a first boot that is cut, one that ends, and a reboot.

The machine is the storage node of a service whose other nodes are the lab's.
"""

from __future__ import annotations

import pytest

from tests.image.cluster import AGENT, ImageService
from tests.image.disk import BootDisk
from tests.image.vm import BOOT_S, Vm
from tests.lab.lab import Lab

pytestmark = pytest.mark.lab

PLACE = "/var/lib/longhorn"
CONTEXTS = (
    "one-context-local.service",
    "one-context-online.service",
    "one-context.service",
)


def failed_units(vm: Vm) -> str:
    return vm.run(["systemctl", "list-units", "--failed", "--no-legend", "--plain"]).stdout.strip()


def mounted(vm: Vm) -> str:
    """Device, file system and UUID of what is mounted as Longhorn's disk."""
    wanted = ["--noheadings", "--output", "SOURCE,FSTYPE,UUID"]
    return " ".join(vm.run(["findmnt", *wanted, PLACE]).stdout.split())


def check_health(vm: Vm) -> None:
    """What holds after each boot, however the one before ended."""
    assert failed_units(vm) == ""
    active = vm.run(["systemctl", "is-active", *CONTEXTS, "ssh.service", "rke2-agent.service"])
    assert set(active.stdout.split()) == {"active"}
    kernel = vm.run(["journalctl", "--dmesg", "--output=cat", "--no-pager"]).stdout
    assert "EXT4-fs error" not in kernel
    assert "Corruption" not in kernel
    assert "ordering cycle" not in vm.console()


def test_a_machine_boots_after_a_power_cut_and_boots_again(lab: Lab, boot_disk: BootDisk) -> None:
    image = ImageService(lab, boot_disk)
    vm = image.machine()
    vm.wait_until(
        lambda: "CONFIGURING: bootstrap" in vm.console(), BOOT_S, "the first run to be half done"
    )
    assert image.published("READY") != "YES"
    vm.kill()
    vm.start()
    print("after the power cut:", image.wait_ready())
    check_health(vm)
    # The context came from the disc, which udev found by its label.
    assert vm.run(["readlink", "--canonicalize", "/dev/disk/by-label/CONTEXT"]).stdout == (
        "/dev/sr0\n"
    )
    assert vm.read("/etc/hostname").startswith("oneke-ip-172-20-0-")
    first = mounted(vm)
    assert first.startswith("/dev/vdb xfs ")
    vm.run(["sh", "-c", f"echo data > {PLACE}/replica && sync"])
    vm.reboot()
    print("reboot:", image.wait_ready())
    check_health(vm)
    assert (mounted(vm), vm.read(f"{PLACE}/replica")) == (first, "data\n")
    changes = [line for line in vm.journal(AGENT).splitlines() if line.startswith("~ ")]
    assert changes == ["~ unit rke2-agent.service: start, without waiting for it"]
    image.service.wait_running()
