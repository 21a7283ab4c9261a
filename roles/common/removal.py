"""Whether a master may be taken out of etcd now: decided from what the cluster tells, purely.

With a member that goes, the majority that etcd needs may go too, and nothing brings that back but a
person. So a member goes only where etcd has its majority before and after, and one at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from appliance.system.kubernetes import Node
from roles.common.cleaner import taken_by
from roles.common.etcdmembers import CONTROL_PLANE_LABEL, Members, find_members, is_server


@dataclass(frozen=True)
class Gone:
    """The cluster has no such node any more.

    Attributes:
        reason: Whose the node of its name is; empty where there is none.
    """

    reason: str = ""


@dataclass(frozen=True)
class Going:
    """Its node is deleted, and stays until its member is out of etcd."""


@dataclass(frozen=True)
class Remove:
    """Delete its node."""

    node: Node


@dataclass(frozen=True)
class Hold:
    """It has to stay for now.

    Attributes:
        is_final: Whether waiting is of no use.
    """

    reason: str
    is_final: bool = False


Removal = Gone | Going | Remove | Hold


def decide_removal(
    nodes: Sequence[Node], name: str, vm_id: int | None, *, silent: Collection[str] = ()
) -> Removal:
    """Say what is to become of the node of a master that leaves.

    Args:
        nodes: All nodes of the cluster.
        name: Of its own.
        vm_id: Its VM; None where it is not known.
        silent: The names of masters that do not answer: a node counts as Ready for most of a minute
            after its VM was cut.
    """
    own = next((node for node in nodes if node.name == name), None)
    taken = taken_by(own, vm_id) if own else ""
    if own is None or taken:
        return Gone(taken)
    if own.is_going:
        return Going()
    going = [node.name for node in nodes if node.is_going and is_server(node)]
    if going:
        return Hold(f"members of etcd go one at a time, and {min(going)} still does")
    if not any(is_server(node) and node.name != name for node in nodes):
        return Hold(_reason_of_last(own), is_final=True)
    return _judge(find_members(nodes, silent), own)


def _reason_of_last(own: Node) -> str:
    if find_members([own]).every:
        return "it is the last member of etcd, and the cluster would end with it"
    return "it is the last server; its node stays in the cluster"


def _judge(members: Members, own: Node) -> Removal:
    if not members.every:
        return Remove(own)
    if not members.has_quorum:
        reason = f"etcd has no quorum to let a member go: {members}"
        return Hold(f"{reason}{_who_is_not(members)}")
    left = members.without(own.name)
    if not left.every:
        return Hold("it is the last member of etcd, and the cluster would end with it", True)
    if not left.has_quorum:
        reason = f"etcd would lose its quorum without it: {left} then"
        return Hold(f"{reason}{_who_is_not(members)}")
    return Remove(own)


def _who_is_not(members: Members) -> str:
    unwell = sorted({node.name for node in members.every if node not in members.healthy})
    return f"; not well: {', '.join(unwell)}" if unwell else ""


def members_to_ask(nodes: Sequence[Node], name: str) -> tuple[Node, ...]:
    """Return the other members that count as well, and are to show that they are."""
    return find_members(nodes).without(name).healthy


def dead_servers(nodes: Sequence[Node], name: str) -> tuple[Node, ...]:
    """Return the other servers that are not well, and so may be dead for good."""
    members = find_members(nodes)
    return tuple(
        node
        for node in nodes
        if is_server(node)
        and node.name != name
        and not node.is_going
        and (not node.is_ready or (node in members.every and node not in members.healthy))
    )


def servers_to_ask(nodes: Sequence[Node], name: str) -> tuple[Node, ...]:
    """Return the other masters that serve, those first that do not leave as well."""
    serving = [
        node
        for node in nodes
        if CONTROL_PLANE_LABEL in node.labels
        and node.name != name
        and node.is_ready
        and not node.is_going
        and node.addresses
    ]
    return tuple(sorted(serving, key=lambda node: (node.is_cordoned, node.name)))
