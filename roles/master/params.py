"""The typed view of a master's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from roles.common.clusternode import ClusterNodeParams
from roles.common.components import StoragePlace, Values
from roles.common.snapshots import SnapshotParams


@dataclass(frozen=True)
class MasterParams(ClusterNodeParams):
    """What every node of the cluster reads, and what is said of the cluster's components.

    Attributes:
        components: Component to field to value.
    """

    storage: StoragePlace
    snapshots: SnapshotParams
    components: Values
