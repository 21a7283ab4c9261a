"""The typed view of a storage node's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from roles.common.clusternode import ClusterNodeParams
from roles.common.disk import StorageParams


@dataclass(frozen=True)
class StorageNodeParams(ClusterNodeParams):
    """What every node of the cluster reads, and what is said of the disk."""

    storage: StorageParams
