"""Takes a snapshot of the cluster's database, and lists those there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from appliance.logs import Logger
from appliance.role import TaskLine, TaskResult
from appliance.system import System
from appliance.system.kubernetes import Access, EtcdSnapshot
from roles.common.localprobes import RKE2

ON_DEMAND = "on-demand"
"""What the names of snapshots begin with that nobody named otherwise; RKE2 says it so."""

_SAVE_TIMEOUT_S = 600.0
_MIB = 1024 * 1024


@dataclass(frozen=True)
class SnapshotTaking:
    """The task: one snapshot of this master, now.

    Attributes:
        access: This master's own API server.
        node: The name of its own node.
        name: What the snapshot's name begins with.
    """

    system: System
    access: Access
    node: str
    name: str
    log: Logger

    def run(self, *, dry_run: bool) -> TaskResult:
        """Take it, and say where it is; see `Task.run`.

        Raises:
            CommandError: RKE2 could not take it.
            KubernetesError: This master does not serve, so that RKE2 can not either.
        """
        before = {one.key for one in self._own()}
        if dry_run:
            return TaskResult((TaskLine(self.name, "to take", f"of etcd on {self.node}"),))
        argv = (RKE2, "etcd-snapshot", "save", "--name", self.name)
        self.system.commands.run(argv, timeout_s=_SAVE_TIMEOUT_S)
        taken = [one for one in self._own() if one.key not in before]
        self.log.info("snapshot.taken", node=self.node, names=[one.name for one in taken])
        lines = tuple(describe_snapshot(one, "taken") for one in taken)
        return TaskResult(lines or (_untold(self.name),), _trouble(taken))

    def _own(self) -> list[EtcdSnapshot]:
        """List what was taken on this master under this name; one may be in several places."""
        every = self.system.kubernetes.etcd_snapshots(self.access)
        return [one for one in every if one.name.startswith(f"{self.name}-{self.node}-")]


@dataclass(frozen=True)
class SnapshotListing:
    """The task: the snapshots of all masters, and those in the object store.

    Attributes:
        access: This master's own API server.
    """

    system: System
    access: Access

    def run(self, *, dry_run: bool) -> TaskResult:
        """List them, the newest first; see `Task.run`.

        Raises:
            KubernetesError: This master does not serve.
        """
        found = self.system.kubernetes.etcd_snapshots(self.access)
        newest_first = sorted(found, key=lambda one: (-(one.created_s or 0.0), one.key))
        lines = tuple(describe_snapshot(one, "there") for one in newest_first)
        if not lines:
            none = TaskLine("etcd", "none", "no snapshot was taken yet, or none is left")
            return TaskResult((none,))
        return TaskResult(lines)


def describe_snapshot(snapshot: EtcdSnapshot, verdict: str) -> TaskLine:
    """Describe a snapshot in a line: where it is, how large, when it was taken."""
    if not snapshot.is_good:
        return TaskLine(snapshot.name, "failed", snapshot.error or "RKE2 does not say why")
    created = snapshot.created_s
    when = "" if created is None else f", {datetime.fromtimestamp(created, UTC):%Y-%m-%d %H:%M:%S}Z"
    size = f"{snapshot.size_bytes / _MIB:.1f} MiB"
    return TaskLine(snapshot.name, verdict, f"{snapshot.location} of {snapshot.node}, {size}{when}")


def _untold(name: str) -> TaskLine:
    said = "RKE2 took it, and does not list it yet: oneke-agent etcd list"
    return TaskLine(name, "taken", said)


def _trouble(taken: list[EtcdSnapshot]) -> str:
    return "; ".join(f"{one.name}: {one.error or 'failed'}" for one in taken if not one.is_good)
