"""The typed view of a master's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from roles.common.clusternode import ClusterNodeParams


@dataclass(frozen=True)
class MasterParams(ClusterNodeParams):
    """Everything a master reads: what every node of the cluster does."""
