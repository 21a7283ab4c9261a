"""Snapshots on demand, and the list of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.errors import CommandError, KubernetesUnavailable
from appliance.system import System
from appliance.system.kubernetes import EtcdSnapshot
from roles.common.probes import ADMIN
from roles.common.snapshotting import SnapshotListing, SnapshotTaking
from tests.fakes import Call, FakeCommands, FakeKubernetes, FakeLog, make_node, make_system

NODE = "master0"
SAVE = ("/usr/local/bin/rke2", "etcd-snapshot", "save", "--name", "on-demand")
LOCAL = EtcdSnapshot(
    "local-on-demand-master0-1795000000-abcdef",
    "on-demand-master0-1795000000",
    NODE,
    "file:///var/lib/rancher/rke2/server/db/snapshots/on-demand-master0-1795000000",
    1795000000.0,
    5 * 1024 * 1024,
    is_good=True,
)
IN_STORE = replace(LOCAL, key="s3-on-demand-master0-abcdef", location="s3://backup/oneke/23/x")


class SavingCommands(FakeCommands):
    """An RKE2 that takes the snapshots it is told to."""

    def __init__(self, kubernetes: FakeKubernetes, *taken: EtcdSnapshot, rc: int = 0) -> None:
        """Say what is taken at the first call."""
        super().__init__([Call(SAVE, rc, stderr="level=fatal msg=why" if rc else "")])
        self._kubernetes, self._taken = kubernetes, taken

    def run(self, *args: object, **kwargs: object) -> object:
        """Take them."""
        self._kubernetes.snapshots += self._taken
        return super().run(*args, **kwargs)


def machine(*taken: EtcdSnapshot, rc: int = 0) -> System:
    kubernetes = FakeKubernetes([make_node(NODE)])
    earlier = replace(LOCAL, key="local-on-demand-master0-17-abcdef", name="on-demand-master0-17")
    kubernetes.snapshots.append(earlier)
    return make_system(kubernetes=kubernetes, commands=SavingCommands(kubernetes, *taken, rc=rc))


def taking(system: System) -> SnapshotTaking:
    return SnapshotTaking(system, ADMIN, NODE, "on-demand", FakeLog())


def test_a_snapshot_is_told_with_every_place_it_is_in() -> None:
    result = taking(machine(LOCAL, IN_STORE)).run(dry_run=False)
    assert [line.verdict for line in result.lines] == ["taken", "taken"]
    assert "file:///var/lib" in result.lines[0].reason
    assert "5.0 MiB, 2026-11-18" in result.lines[0].reason
    assert "s3://backup" in result.lines[1].reason
    assert result.trouble == ""


def test_a_copy_that_failed_is_trouble_and_told_why() -> None:
    failed = replace(IN_STORE, is_good=False, error="bucket backup does not exist")
    result = taking(machine(LOCAL, failed)).run(dry_run=False)
    assert [line.verdict for line in result.lines] == ["taken", "failed"]
    assert "bucket backup does not exist" in result.trouble


def test_one_that_is_not_listed_yet_is_said_to_be_taken() -> None:
    (line,) = taking(machine()).run(dry_run=False).lines
    assert line.verdict == "taken"
    assert "does not list it yet" in line.reason


def test_what_rke2_refuses_is_an_error() -> None:
    with pytest.raises(CommandError, match="msg=why"):
        taking(machine(rc=1)).run(dry_run=False)


def test_a_dry_run_takes_nothing() -> None:
    system = machine(LOCAL)
    (line,) = taking(system).run(dry_run=True).lines
    assert line.verdict == "to take"
    assert len(system.kubernetes.etcd_snapshots(ADMIN)) == 1


def test_on_a_master_that_does_not_serve_nothing_is_tried() -> None:
    system = make_system(kubernetes=FakeKubernetes(), commands=FakeCommands())
    with pytest.raises(KubernetesUnavailable):
        taking(system).run(dry_run=False)


def test_the_list_is_of_all_masters_and_the_newest_comes_first() -> None:
    kubernetes = FakeKubernetes([make_node(NODE)])
    other = replace(LOCAL, key="k", name="etcd-snapshot-master1-18", node="master1")
    kubernetes.snapshots += [replace(LOCAL, created_s=None), other, replace(other, created_s=1.0)]
    lines = SnapshotListing(make_system(kubernetes=kubernetes), ADMIN).run(dry_run=False).lines
    assert [line.subject for line in lines] == [other.name, other.name, LOCAL.name]
    assert "of master1, 5.0 MiB, 2026" in lines[0].reason


def test_where_there_is_none_the_list_says_so() -> None:
    system = make_system(kubernetes=FakeKubernetes([make_node(NODE)]))
    (line,) = SnapshotListing(system, ADMIN).run(dry_run=False).lines
    assert line.verdict == "none"
