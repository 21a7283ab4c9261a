"""A storage node with its disk: found again whatever it is called, and no RKE2 without it."""

from __future__ import annotations

import json
import os
from itertools import count

import pytest

from tests.lab.basics import wait_until
from tests.lab.context import PRIVATE, nic_context, override, role_context
from tests.lab.disk import Disk
from tests.lab.lab import PRIVATE_NIC, Lab
from tests.lab.node import Node

pytestmark = pytest.mark.lab

PLACE = "/var/lib/longhorn"
UNIT = "var-lib-longhorn.mount"
RECORD = "/var/lib/oneke/disk.json"

_runs = count()


def storage_node(lab: Lab, *disks: Disk, **changes: object) -> Node:
    """Boot a storage node that has no OneGate and no cluster, whose agent is not started."""
    context = role_context("storage") | nic_context(0, PRIVATE, "172.20.0.110")
    alone = {"ONEGATE_ENDPOINT": None, "TOKEN": None, "REPORT_READY": "NO", "VMID": "7"}
    made = override(context, alone | changes)
    node = lab.node("s0", context=made, nics=PRIVATE_NIC, disks=disks, agent=False)
    node.wait_contextualized()
    return node


def start_agent(node: Node) -> str:
    """Start a run, which will wait for a cluster in the end; return its unit."""
    unit = f"run{next(_runs)}"
    node.run(
        ["systemd-run", "--quiet", f"--unit={unit}", "oneke-agent", "configure", "--role=storage"]
    )
    return unit


def is_mounted(node: Node) -> bool:
    return node.run(["mountpoint", "--quiet", PLACE], check=False).returncode == 0


def wait_mounted(node: Node, unit: str) -> None:
    """Wait until the disk is mounted; the run goes on to look for a cluster and is ended."""
    node.wait_until(lambda: is_mounted(node), 30, f"the disk mounted; {node.journal(unit)[-800:]}")
    node.run(["systemctl", "stop", unit])


def source(node: Node) -> str:
    return node.run(["findmnt", "--noheadings", "--output", "SOURCE", PLACE]).stdout.strip()


def status_line(node: Node) -> str:
    told = node.run(["oneke-agent", "status", "--role=storage", "--json"], check=False).stdout
    lines = {line["subject"]: line["state"] for line in json.loads(told)["lines"]}
    return str(lines["storage disk"])


def rke2_starts(node: Node) -> tuple[bool, str]:
    """Try to start RKE2, and stop it again; return whether it started, and what was said."""
    unit = "rke2-agent.service"
    node.run(["systemctl", "start", "--no-block", unit])

    def outcome() -> str | None:
        show = ["systemctl", "show", "--property=Job,ActiveState,SubState", unit]
        told = dict(line.split("=", 1) for line in node.run(show).stdout.splitlines())
        is_over = told.get("Job", "0") in ("", "0") and told["ActiveState"] in (
            "inactive",
            "failed",
        )
        is_running = told["ActiveState"] in ("activating", "active")
        return "started" if is_running else "not started" if is_over else None

    started = node.wait_until(outcome, 30, "RKE2 to be started or not") == "started"
    node.run(["systemctl", "stop", unit])
    return started, node.journal(unit)


def test_a_disk_is_prepared_once_and_found_again_under_another_name(lab: Lab) -> None:
    disk, other = Disk(serial="replicas"), Disk(name="vdb")
    node = storage_node(lab, disk)
    wait_mounted(node, start_agent(node))
    node.write(f"{PLACE}/replica", "data\n")
    assert status_line(node) == f"/dev/vdb (600 MiB), xfs, at {PLACE}"
    node.reboot()
    assert node.wait_running(60) == "running"
    assert node.read(f"{PLACE}/replica") == "data\n", "it is mounted at boot, without the agent"
    node.stop()
    node.plug_disk(node.pull_disk("vdb"), "vdd")
    node.plug_disk(other)
    before = other.checksum()
    node.start()
    assert node.wait_running(60) == "running"
    assert source(node) == "/dev/vdd"
    unit = start_agent(node)
    node.wait_until(lambda: "stage.ended" in node.journal(unit), 30, "the disk looked at")
    node.run(["systemctl", "stop", unit])
    assert "disk /dev" not in node.journal(unit), "nothing was formatted"
    assert status_line(node) == f"/dev/vdd (600 MiB), xfs, at {PLACE}"
    assert other.checksum() == before
    other.close()


def test_rke2_does_not_start_without_the_disk_and_does_when_it_is_back(lab: Lab) -> None:
    disk = Disk()
    node = storage_node(lab, disk)
    wait_mounted(node, start_agent(node))
    started, _ = rke2_starts(node)
    assert started
    node.stop()
    node.pull_disk("vdb")
    node.start()
    node.wait_running(60)
    assert not is_mounted(node)
    started, words = rke2_starts(node)
    assert not started
    assert "Dependency failed for rke2-agent.service" in words
    assert "this node's disk is not there: xfs, UUID 6f6e656b-65" in status_line(node)
    unit = start_agent(node)
    node.wait_until(lambda: "not there" in node.journal(unit), 30, "the agent to miss it")
    node.plug_disk(disk)
    wait_mounted(node, unit)
    started, _ = rke2_starts(node)
    assert started


def test_rke2_does_not_start_where_the_mount_unit_is_masked(lab: Lab) -> None:
    node = storage_node(lab, Disk())
    wait_mounted(node, start_agent(node))
    node.run(["systemctl", "stop", UNIT])
    node.run(["rm", f"/etc/systemd/system/{UNIT}"])
    node.run(["systemctl", "mask", "--quiet", UNIT])
    started, words = rke2_starts(node)
    assert not started, words
    assert "Assertion failed for rke2-agent.service" in words or "Dependency failed" in words


@pytest.mark.parametrize("device", ["/dev/vdb", "serial:replicas", "by-id:virtio-replicas"])
def test_a_disk_that_comes_late_is_waited_for(lab: Lab, device: str) -> None:
    node = storage_node(lab, ONEAPP_STORAGE_DEVICE=device)
    unit = start_agent(node)
    node.wait_until(
        lambda: (
            "is it attached" in node.journal(unit) or "is the disk attached" in node.journal(unit)
        ),
        30,
        "the agent to miss it",
    )
    disk = Disk(serial="replicas")
    node.plug_disk(disk)
    wait_mounted(node, unit)
    assert source(node) == "/dev/vdb"
    node.stop()
    node.pull_disk("vdb").close()


def test_a_foreign_disk_is_refused_where_a_person_looks(lab: Lab) -> None:
    disk = Disk()
    disk.run("mkfs.xfs", "-q", "-L", "data")
    node = storage_node(lab, disk)
    before = disk.checksum()
    unit = start_agent(node)

    def ended() -> bool:
        state = node.run(["systemctl", "is-active", unit], check=False).stdout.strip()
        return state in ("failed", "inactive")

    node.wait_until(ended, 30, "the run to give up")
    said = node.journal(unit)
    assert "/dev/vdb holds a foreign xfs file system, label data" in said
    assert "`wipefs -a /dev/vdb` clears it" in said
    assert "holds a foreign xfs file system" in status_line(node)
    node.run(["systemctl", "daemon-reload"])
    started, _ = rke2_starts(node)
    assert not started
    assert disk.checksum() == before


def test_the_1_24_generation_has_its_disk_at_vdb(lab: Lab) -> None:
    disk = Disk()
    context = role_context("storage", "1.24") | nic_context(0, PRIVATE, "172.20.0.110")
    alone = {"ONEGATE_ENDPOINT": None, "TOKEN": None, "REPORT_READY": "NO", "VMID": "7"}
    changed = override(context, alone | {"ONEAPP_STORAGE_DEVICE": None})
    node = lab.node("s0", context=changed, nics=PRIVATE_NIC, disks=[disk], agent=False)
    node.wait_contextualized()
    wait_mounted(node, start_agent(node))
    assert source(node) == "/dev/vdb"


@pytest.mark.parametrize(
    "after",
    [
        "/etc/systemd/system/rke2-agent.service.d/50-oneke-storage.conf",
        RECORD,
        f"/etc/systemd/system/{UNIT}",
        f"/etc/systemd/system/local-fs.target.wants/{UNIT}",
    ],
)
def test_a_power_cut_in_the_first_run_is_made_good(lab: Lab, after: str) -> None:
    disk = Disk()
    node = storage_node(lab, disk)
    start_agent(node)
    written = node.root / after.lstrip("/")
    wait_until(lambda: os.path.lexists(written), 30, f"{after} to be written", every_s=0.001)
    node.kill()
    node.start()
    node.wait_contextualized()
    wait_mounted(node, start_agent(node))
    assert json.loads(node.read(RECORD))["is_made"] is True
    node.stop()
    disk.run("xfs_repair", "-n")
