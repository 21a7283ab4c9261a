"""The typed view of a worker's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from roles.common.clusternode import ClusterNodeParams


@dataclass(frozen=True)
class WorkerParams(ClusterNodeParams):
    """Everything a worker reads: what every node of the cluster does."""
