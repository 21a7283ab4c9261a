"""Which nodes are members of etcd, and how many of them it can do without: purely.

Etcd works only while a majority of its members does, the dead ones counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from appliance.system.kubernetes import Node

CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"

_ETCD_LABEL = "node-role.kubernetes.io/etcd"
_ETCD_ANNOTATION = "etcd.rke2.cattle.io/node-name"
_VOTER = "EtcdIsVoter"
# Source: reasons of EtcdIsVoter; whoever has one of these does not count in etcd's quorum.
_NO_VOTERS = frozenset({"MemberIsLearner", "NotAMember"})


@dataclass(frozen=True)
class Members:
    """The members that count in etcd's quorum.

    Attributes:
        every: Their nodes, dead ones included.
        healthy: Those of them that are well.
    """

    every: tuple[Node, ...]
    healthy: tuple[Node, ...]

    @property
    def needed(self) -> int:
        """How many have to be well."""
        return len(self.every) // 2 + 1

    @property
    def has_quorum(self) -> bool:
        """Whether enough are well; without it no member can be taken out."""
        return len(self.healthy) >= self.needed

    def without(self, name: str) -> Members:
        """Return what is left when a node is not a member any more."""
        return Members(
            tuple(node for node in self.every if node.name != name),
            tuple(node for node in self.healthy if node.name != name),
        )

    def __str__(self) -> str:
        """Say how many are well, and how many have to be."""
        found = f"{len(self.healthy)} of {len(self.every)} members are well"
        return f"{found}, and {self.needed} are needed"


def find_members(nodes: Iterable[Node], silent: Collection[str] = ()) -> Members:
    """Find the members among the nodes of a cluster; none where etcd is elsewhere.

    Args:
        nodes: All nodes of the cluster.
        silent: The names of those that do not answer, whatever the cluster still tells of them.
    """
    every = tuple(node for node in nodes if is_voter(node))
    well = (node for node in every if node.is_ready and node.is_true(_VOTER))
    return Members(every, tuple(node for node in well if node.name not in silent))


def is_server(node: Node) -> bool:
    """Say whether it is a server: one that runs the control plane, or etcd, or both."""
    return CONTROL_PLANE_LABEL in node.labels or _is_member(node)


def _is_member(node: Node) -> bool:
    return (
        _ETCD_LABEL in node.labels
        or _ETCD_ANNOTATION in node.annotations
        or node.condition(_VOTER) is not None
    )


def is_voter(node: Node) -> bool:
    """Say whether it counts in etcd's quorum; one of which nobody can tell does."""
    voter = node.condition(_VOTER)
    is_known_not_to = voter is not None and voter.status != "True" and voter.reason in _NO_VOTERS
    return _is_member(node) and not is_known_not_to
