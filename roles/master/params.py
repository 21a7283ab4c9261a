"""The typed view of a master's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from roles.common.clusternode import ClusterNodeParams
from roles.common.components import StoragePlace
from roles.common.snapshots import SnapshotParams


@dataclass(frozen=True)
class MasterParams(ClusterNodeParams):
    """What every node of the cluster reads, and what is said of what masters keep."""

    storage: StoragePlace
    snapshots: SnapshotParams
