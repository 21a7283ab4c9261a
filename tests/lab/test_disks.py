"""Disks of nodes: seen under their names, kept over boots, gone with the lab."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.lab.basics import LabError, run, wait_until
from tests.lab.context import override, vnf_context
from tests.lab.disk import MIB, Disk
from tests.lab.lab import Lab
from tests.lab.node import Node

pytestmark = pytest.mark.lab

SERIAL = "lab-disk-1"
BY_ID = f"/dev/disk/by-id/virtio-{SERIAL}"


def disk_node(lab: Lab, *disks: Disk) -> Node:
    """Boot a node with disks whose agent is not started."""
    context = override(vnf_context(0, None), {"VMID": "7"})
    node = lab.node("n0", context=context, disks=disks, agent=False)
    node.wait_running(60)
    return node


@pytest.mark.parametrize("make", [("mkfs.xfs", "-q"), ("mkfs.ext4", "-q")])
def test_a_disk_is_formatted_and_mounted_and_kept_over_boots(
    lab: Lab, make: tuple[str, ...]
) -> None:
    disk = Disk(serial=SERIAL)
    empty = disk.checksum()
    node = disk_node(lab, disk)
    assert node.run(["readlink", "-f", BY_ID]).stdout == "/dev/vdb\n"
    assert node.run(["blockdev", "--getsize64", "/dev/vdb"]).stdout == f"{disk.size_bytes}\n"
    node.run([*make, "/dev/vdb"])
    node.run(["mount", "--mkdir", "/dev/vdb", "/srv/data"])
    node.write("/srv/data/kept", "before\n")
    node.reboot()
    node.wait_running(60)
    node.run(["mount", BY_ID, "/srv/data"])
    assert node.read("/srv/data/kept") == "before\n"
    node.run(["umount", "/srv/data"])
    assert disk.checksum() != empty


def test_a_disk_may_come_late_leave_and_come_back_under_another_name(lab: Lab) -> None:
    disk, other = Disk(size_mib=16, serial=SERIAL), Disk(size_mib=16, name="vdc")
    node = disk_node(lab, disk)
    before = disk.checksum()
    node.plug_disk(other)
    node.run(["sh", "-c", "printf here > /dev/vdc"])
    assert other.read(4) == b"here"
    assert node.pull_disk("vdb") is disk
    assert not node.exists("/dev/vdb")
    assert not node.exists(BY_ID)
    node.pull_disk("vdc")
    assert not node.exists("/dev/vdc")
    node.stop()
    node.plug_disk(disk, "vdc")
    node.start()
    node.wait_running(60)
    assert node.run(["readlink", "-f", BY_ID]).stdout == "/dev/vdc\n"
    assert not node.exists("/dev/vdb")
    assert disk.checksum() == before
    with pytest.raises(LabError, match="has a disk vdc already"):
        node.plug_disk(other)


def test_what_is_written_on_either_side_is_seen_on_the_other(lab: Lab) -> None:
    disk = Disk(size_mib=16)
    node = disk_node(lab, disk)
    before = disk.checksum()
    disk.write(b"from outside", offset=-512)
    shown = node.run(["sh", "-c", "tail -c 512 /dev/vdb | head -c 12"]).stdout
    assert shown == "from outside"
    assert disk.checksum() != before
    node.run(["sh", "-c", "head -c 12 /dev/zero | dd of=/dev/vdb bs=1 seek=$((16777216 - 512))"])
    assert disk.checksum() == before


def test_closed_disks_leave_no_loop_device() -> None:
    disks = [Disk(size_mib=1, name=f"vd{letter}") for letter in "bcdefghijkl"]
    assert len(_attached()) >= len(disks)
    for disk in disks:
        disk.close()
        disk.close()
    assert not _attached() & {str(disk.device) + ".img" for disk in disks}
    with pytest.raises(LabError, match="is closed"):
        disks[0].read(1)


def test_a_killed_box_leaves_no_loop_device_even_of_a_mounted_disk() -> None:
    size_mib = 613  # nobody else's
    script = textwrap.dedent(f"""
        import time
        from tests.lab.context import vnf_context
        from tests.lab.disk import Disk
        from tests.lab.lab import Lab
        with Lab() as lab:
            disk = Disk(size_mib={size_mib})
            node = lab.node("victim", context=vnf_context(0, None), disks=[disk], agent=False)
            node.run(["mkfs.ext4", "-q", "/dev/vdb"])
            node.run(["mount", "--mkdir", "/dev/vdb", "/srv/data"])
            print("mounted", flush=True)
            time.sleep(600)
    """)
    environment = {key: value for key, value in os.environ.items() if key != "ONEKE_LAB_BOX"}
    box = [sys.executable, "-m", "tests.lab", "box", "--", sys.executable, "-c", script]

    def is_there() -> bool:
        sizes = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/size")]
        return str(size_mib * MIB // 512) in sizes

    with subprocess.Popen(box, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mounted\n"
        assert is_there()
        process.kill()
    wait_until(lambda: not is_there(), 10, "the loop device to be gone")


def _attached() -> set[str]:
    listed = run(["losetup", "--list", "--noheadings", "--output", "BACK-FILE"]).stdout
    return set(listed.split())
