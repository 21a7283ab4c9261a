"""What a build to its end made: the files beside each other, and a machine that boots of them.

The machine is a gateway, whose role needs nothing of what the stand-ins stand for. It boots as a
VM of OpenNebula does: by the boot loader of its disk.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import appliance
from tests.image.disk import BootDisk
from tests.image.gateway import make_gateway
from tests.image.test_boot import CONTEXTS, failed_units
from tests.image.vm import BOOT_S, Vm
from tests.lab.basics import LabError, run
from tests.lab.gateway_node import VIPS, held, wait_ready
from tests.lab.lab import Lab
from tests.packer.build import FLAVOR, RELEASE, Build, durations, last_build

pytestmark = pytest.mark.packer

NAME = f"oneke-{appliance.__version__}-{FLAVOR}-{RELEASE}-amd64"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
# What only the build needed, and what cloud images have that a node must not.
LEFTOVERS = (
    "/etc/ssh/sshd_config.d/00-oneke-build.conf",
    "/root/.ssh/authorized_keys",
    "/run/oneke-build",
    "/var/lib/oneke-borrowed-packages",
    "/var/lib/cloud",
    "/etc/cloud",
    "/usr/sbin/policy-rc.d",
)
GONE = ("cloud-init", "cloud-initramfs-growroot", "unattended-upgrades", "skopeo")


@pytest.fixture(scope="session")
def built() -> Build:
    try:
        return last_build()
    except LabError as error:
        pytest.fail(str(error), pytrace=False)


def told_of(disk: Path) -> dict[str, object]:
    return dict(json.loads(run(["qemu-img", "info", "--output=json", str(disk)]).stdout))


def test_the_build_leaves_the_files_that_are_promised(built: Build) -> None:
    for step, took_s in durations(built.log.read_text(errors="replace")):
        print(f"{took_s:6.0f} s  {step}")
    names = {path.name for path in built.result.iterdir()}
    images = {f"{NAME}.qcow2", f"{NAME}-storage.qcow2"}
    assert names == images | {"SHA256SUMS", "manifest.json"}
    listed = (built.result / "SHA256SUMS").read_text()
    assert {line.split()[1] for line in listed.splitlines()} == images
    run(["env", "-C", str(built.result), "sha256sum", "--strict", "--check", "SHA256SUMS"])


def test_the_manifest_says_what_was_built(built: Build) -> None:
    manifest = json.loads((built.result / "manifest.json").read_text())
    [build] = manifest["builds"]
    custom = build["custom_data"]
    assert custom.pop("base").startswith("file:///")
    assert custom == {
        "agent": appliance.__version__,
        "flavor": FLAVOR,
        "release": RELEASE,
        "arch": "amd64",
    }
    sizes = {one["name"]: one["size"] for one in build["files"]}
    for name in (f"{NAME}.qcow2", f"{NAME}-storage.qcow2"):
        assert sizes[name] == (built.result / name).stat().st_size


def test_the_image_is_whole_and_compressed(built: Build) -> None:
    checked = run(["qemu-img", "check", "--output=json", str(built.disk)], timeout_s=600)
    found = json.loads(checked.stdout)
    print(f"{built.disk.stat().st_size >> 20} MiB, {found}")
    assert found["check-errors"] == found.get("corruptions", 0) == found.get("leaks", 0) == 0
    assert found["compressed-clusters"] > 0.9 * found["allocated-clusters"]
    told = told_of(built.disk)
    assert (told["format"], told["virtual-size"]) == ("qcow2", 20 << 30)
    assert "backing-filename" not in told


def test_the_storage_disk_is_empty(built: Build) -> None:
    disk = built.result / f"{NAME}-storage.qcow2"
    assert told_of(disk)["virtual-size"] == 10 << 30
    mapped = json.loads(run(["qemu-img", "map", "--output=json", str(disk)]).stdout)
    assert not any(part["data"] for part in mapped)


def test_the_console_of_the_build_was_kept(built: Build) -> None:
    # Of the base, which says it there; of the image, the screen is the console.
    assert "Linux version" in built.console.read_text(errors="replace")


def check_gateway(vm: Vm) -> None:
    """What holds after each boot, however the one before ended."""
    assert failed_units(vm) == ""
    assert vm.run(["systemctl", "is-system-running"], check=False).stdout == "running\n"
    active = vm.run(["systemctl", "is-active", *CONTEXTS, "ssh.service", "haproxy", "keepalived"])
    assert set(active.stdout.split()) == {"active"}
    assert sorted(held(vm)) == sorted(VIPS)
    # Nobody handed the kernel to QEMU: it is told what the boot loader's file says.
    line = vm.read("/proc/cmdline")
    assert "BOOT_IMAGE=" in line
    assert line.endswith("net.ifnames=0 biosdevname=0 console=ttyS0,115200n8 console=tty0\n")
    kernel = vm.run(["journalctl", "--dmesg", "--output=cat", "--no-pager"]).stdout
    assert "EXT4-fs error" not in kernel


def test_the_image_boots_by_its_own_loader_as_a_gateway_and_again_after_a_power_cut(
    lab: Lab, built: Build
) -> None:
    vm = make_gateway(lab, BootDisk(built.disk, "qcow2"), "public", "private")
    wait_ready(lab, vm, BOOT_S)
    wait_booted(vm)
    check_gateway(vm)
    check_nothing_of_the_build_is_left(vm)
    checked = vm.run(["oneke-agent", "check", "image", "--flavor", FLAVOR], timeout_s=300)
    print(checked.stdout)
    print(vm.run(["systemd-analyze", "time"]).stdout)
    identity = vm.read("/etc/machine-id"), vm.read(HOST_KEY)
    assert re.fullmatch(r"[0-9a-f]{32}\n", identity[0])
    vm.kill()
    vm.start()
    vm.wait_answering()
    wait_booted(vm)
    check_gateway(vm)
    assert (vm.read("/etc/machine-id"), vm.read(HOST_KEY)) == identity


def wait_booted(vm: Vm) -> None:
    """Wait until nothing is left to be started."""

    def is_over() -> bool:
        state = vm.run(["systemctl", "is-system-running"], check=False).stdout.strip()
        return state in ("running", "degraded")

    vm.wait_until(is_over, BOOT_S, "the boot to be over")


def check_nothing_of_the_build_is_left(vm: Vm) -> None:
    """Nobody comes in as the build did, and what it brought is gone."""
    assert [path for path in LEFTOVERS if vm.exists(path)] == []
    asked = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *GONE]
    # Of a package that another one conflicts with, the name is known all the same.
    known = vm.run(asked, check=False).stdout.splitlines()
    assert [line for line in known if not line.endswith(" not-installed")] == []
    shadow = vm.run(["getent", "shadow", "root"]).stdout.split(":")
    assert shadow[1] == "*"
    settings = vm.run(["sshd", "-T"]).stdout.splitlines()
    assert {"passwordauthentication no", "permitrootlogin without-password"} <= set(settings)
    size = vm.run(["findmnt", "--noheadings", "--bytes", "--output=SIZE", "/"]).stdout
    assert int(size) > 18 << 30, "the root was not grown to the disk"
