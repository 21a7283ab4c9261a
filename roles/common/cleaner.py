"""Which nodes of the cluster are dead for good: decided from what cluster and OneGate tell, purely.

A node that is deleted although its VM lives is torn out of the cluster with all that runs on it, so
that doubt means no deletion. Every node gets a verdict with its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from appliance.system.kubernetes import Node
from appliance.system.onegate import Service, ServiceRole, Vm
from roles.common.election import BLOCKED_KEY
from roles.common.etcdmembers import find_members, is_server
from roles.common.registration import NODE_NAME_KEY
from roles.common.rke2config import NO_SERVICE, SERVICE_LABEL, STORAGE_LABEL, VM_LABEL

MARK_KEY = "ONEKE_CLEANER_MARK"
"""What a cleaner publishes before it asks, to know an answer that is older than its question."""
GRACE_S = 60.0
"""A node that stopped being Ready may come back: it is left alone for so long."""
HURRIED_GRACE_S = 3.0
"""The same for who has little time: that its VM is gone is told by OneGate, twice, anyway."""
APART_S = 5.0
"""The second answer of OneGate is asked for so long after the first has come."""

_GATEWAY_ROLE = "vnf"
_RUNNING, _POWEROFF, _SHUTDOWN = 3, 8, 12
_DONE = 6
"""STATE of a VM that is gone for good; OneFlow lists it until others of its role are gone too."""
_CAME_LATER = "came while OneGate was asked"
_STORAGE_LABEL = STORAGE_LABEL.partition("=")[0]


@dataclass(frozen=True)
class Look:
    """One look at OneGate.

    Attributes:
        service: The answer; None where there was none.
        error: Why there was none.
        asked_s: When it was asked, on the monotonic scale.
        answered_s: When the answer was there, likewise.
    """

    service: Service | None
    error: str = ""
    asked_s: float = 0.0
    answered_s: float = 0.0


@dataclass(frozen=True)
class Cleaner:
    """Who decides.

    Attributes:
        node: The name of its own node.
        vm_id: Its own VM.
        service_id: Its own service; None where it is not known.
        now_s: Seconds since 1970.
        mark: What it published before the last look; empty where that was nothing.
        grace_s: How long a node that stopped being Ready is left alone.
    """

    node: str
    vm_id: int | None
    service_id: int | None
    now_s: float
    mark: str = ""
    grace_s: float = GRACE_S


class Verdict(Enum):
    """What is to become of a node."""

    DELETE = "delete"
    KEEP = "keep"


@dataclass(frozen=True)
class Finding:
    """A verdict on a node.

    Attributes:
        hint: What a person can do about it; empty where nothing needs to be done.
    """

    node: Node
    verdict: Verdict
    reason: str
    hint: str = ""


def needs_onegate(nodes: Iterable[Node], us: Cleaner) -> bool:
    """Say whether any verdict depends on what OneGate tells."""
    return any(not _own_reason(node, us) for node in nodes)


def has_suspects(nodes: Sequence[Node], look: Look, us: Cleaner) -> bool:
    """Say whether one answer would have a node deleted, so that another one is worth its price."""
    doubts = (_doubt_about_nodes(nodes, us) or _doubt_about_look(look, us), "")
    found = (_judge(node, (look,), us, doubts) for node in nodes)
    return any(finding.verdict is Verdict.DELETE for finding in found)


def decide(
    nodes: Sequence[Node], looks: Sequence[Look], us: Cleaner, before: Sequence[Node] | None = None
) -> tuple[Finding, ...]:
    """Give every node its verdict, in the order of their names.

    Args:
        nodes: All nodes of the cluster.
        looks: The last looks at OneGate, in their order; none where `needs_onegate` says so.
        us: Who decides.
        before: The nodes before OneGate was asked; None where these are they. The VM of one that
            came later may be younger than the answers, and a clock that is wrong hides that.
    """
    doubt = _doubt_about_nodes(nodes, us) or _doubt_about_any(looks, us)
    late = _doubt_about_order(looks, us)
    known = {node.uid for node in (nodes if before is None else before)}
    found = [
        _judge(node, looks, us, (doubt, late if node.uid in known else late or _CAME_LATER))
        for node in sorted(nodes, key=lambda one: one.name)
    ]
    return tuple(_mention_waiting(one, looks) for one in _spare_servers(found))


# ---- one node


def _judge(node: Node, looks: Sequence[Look], us: Cleaner, doubts: tuple[str, str]) -> Finding:
    """Give a node its verdict.

    Args:
        node: The node.
        looks: What OneGate told.
        us: Who decides.
        doubts: About the answers each by itself, and about what they are together.
    """
    own = _own_reason(node, us)
    if own:
        return Finding(node, Verdict.KEEP, own)
    vm_id = labelled_vm(node)
    if vm_id is None:
        return _judge_unlabelled(node)
    if node.labels.get(SERVICE_LABEL) == NO_SERVICE:
        return _judge_without_service(node, vm_id)
    reason = _foreign_reason(node, us) or _presence(node, vm_id, looks) or doubts[0]
    reason = reason or _doubt_about_its_role(node, looks) or doubts[1]
    if reason:
        return Finding(node, Verdict.KEEP, reason)
    since = _not_ready_since(node)
    quiet_s = us.now_s - (us.now_s if since is None else since)
    return Finding(
        node,
        Verdict.DELETE,
        f"not Ready for {quiet_s:.0f} s, and VM {vm_id} is not in the service any more",
    )


def labelled_vm(node: Node) -> int | None:
    """Return the VM whose node it is by its label; None where that tells of none."""
    text = node.labels.get(VM_LABEL, "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def taken_by(node: Node, vm_id: int | None) -> str:
    """Say whose a node is that bears the name of a VM's node; empty where it is that VM's.

    Args:
        node: The node.
        vm_id: The VM; None where it is not known.
    """
    named = labelled_vm(node)
    is_taken = None not in (vm_id, named) and vm_id != named
    return f"its name is VM {named}'s now" if is_taken else ""


def _own_reason(node: Node, us: Cleaner) -> str:
    """Say what speaks against deleting a node, whatever its VM."""
    if node.name == us.node:
        return "is this very node"
    if node.is_going:
        return "is deleted already, and goes when etcd has let go of it"
    if node.is_ready:
        return "is Ready"
    since = _not_ready_since(node)
    if since is None:
        return "is not Ready, and does not tell since when"
    if us.now_s - since < us.grace_s:
        return f"is not Ready since {us.now_s - since:.0f} s; it is given {us.grace_s:.0f} s"
    return ""


def _not_ready_since(node: Node) -> float | None:
    condition = node.condition("Ready")
    return condition.since_s if condition else node.created_s


def _judge_unlabelled(node: Node) -> Finding:
    return Finding(
        node,
        Verdict.KEEP,
        f"is not Ready, and carries no label {VM_LABEL} that names its VM: such a node is never"
        " deleted by itself",
        f"see with kubectl get node {node.name} -o wide which VM it was; if OpenNebula has no VM"
        f" of that address any more: kubectl delete node {node.name}",
    )


def _judge_without_service(node: Node, vm_id: int) -> Finding:
    return Finding(
        node,
        Verdict.KEEP,
        f"is not Ready, and its VM {vm_id} is in no service, so that OneGate tells nothing of it:"
        " such a node is never deleted by itself",
        f"if OpenNebula has no VM {vm_id} any more: kubectl delete node {node.name}",
    )


def _foreign_reason(node: Node, us: Cleaner) -> str:
    service = node.labels.get(SERVICE_LABEL)
    if service is not None and service != str(us.service_id):
        return f"belongs to service {_shown(service)}, of which this one is told nothing"
    return ""


def _doubt_about_its_role(node: Node, looks: Sequence[Look]) -> str:
    """Find that its role is missing from an answer, and with that all of the role's VMs."""
    role = "storage" if _STORAGE_LABEL in node.labels else "worker"
    role = "master" if is_server(node) else role
    services = (look.service for look in looks if look.service)
    is_told = all(service.role(role) for service in services)
    return "" if is_told else f"may be a VM of role {role}, of which OneGate tells nothing"


def _presence(node: Node, vm_id: int, looks: Sequence[Look]) -> str:
    """Say what the answers tell of its VM; empty where both of them know none."""
    services = [look.service for look in looks if look.service]
    listed = [service for service in services if vm_id in _listed(service) - _done(service)]
    if listed:
        last = listed[-1]
        vm = next((vm for vm in _vms(last) if vm.vm_id == vm_id), None)
        state = _describe(vm) if last is services[-1] else "was in the service a moment ago"
        return f"VM {vm_id} {state}"
    for vm in (vm for service in services for vm in _vms(service) if vm.state != _DONE):
        if vm.text(NODE_NAME_KEY) == node.name and vm.text(BLOCKED_KEY) != node.name:
            return f"VM {vm.vm_id} says that it is this node"
    return ""


def _describe(vm: Vm | None) -> str:
    if vm is None:
        return "is in the service"
    if vm.lcm_state == _SHUTDOWN:
        return "is being shut down; its node goes when it is gone"
    if vm.state == _POWEROFF:
        return "is powered off; its node stays for when it comes back"
    if vm.lcm_state == _RUNNING:
        return "runs; see what its oneke-agent status says"
    return f"is in the service (STATE {vm.state}, LCM_STATE {vm.lcm_state})"


# ---- doubts that concern every node


def _doubt_about_nodes(nodes: Sequence[Node], us: Cleaner) -> str:
    own = next((node for node in nodes if node.name == us.node), None)
    if own is None:
        return f"this master's own node {us.node} is not among the nodes"
    if not own.is_ready:
        return f"this master's own node {us.node} is not Ready"
    return ""


def doubt_about_onegate(looks: Sequence[Look], us: Cleaner) -> str:
    """Say why the answers may not be the whole truth; empty where they are, twice in a row."""
    return _doubt_about_any(looks, us) or _doubt_about_order(looks, us)


def _doubt_about_any(looks: Sequence[Look], us: Cleaner) -> str:
    return next(filter(None, (_doubt_about_look(look, us) for look in looks)), "")


def _doubt_about_order(looks: Sequence[Look], us: Cleaner) -> str:
    if len(looks) < 2:
        return "OneGate was not asked twice"
    first, second = looks[-2:]
    if second.asked_s - first.answered_s < APART_S:
        return "OneGate's second answer is not newer than its first"
    if us.mark and not _shows_mark(second, us):
        return "OneGate's second answer is older than its question"
    return ""


def trouble_with_onegate(looks: Sequence[Look], us: Cleaner) -> str:
    """Say what is wrong with the answers there are; a single one may have been enough."""
    return _doubt_about_look(looks[0], us) if len(looks) == 1 else doubt_about_onegate(looks, us)


def _shows_mark(look: Look, us: Cleaner) -> bool:
    vms = _vms(look.service) if look.service else ()
    return any(vm.vm_id == us.vm_id and vm.text(MARK_KEY) == us.mark for vm in vms)


def _doubt_about_look(look: Look, us: Cleaner) -> str:
    service = look.service
    if service is None:
        return f"OneGate does not tell which VMs there are: {look.error or 'no answer'}"
    if us.service_id is not None and service.service_id != us.service_id:
        return f"OneGate tells of service {service.service_id}, and this VM is in {us.service_id}"
    if us.vm_id is None or us.vm_id not in _listed(service):
        return "OneGate does not list this very VM, so that others may be missing too"
    doubts = (_doubt_about_role(role) for role in service.roles if role.name != _GATEWAY_ROLE)
    doubt = next(filter(None, doubts), "") or _doubt_about_ids(service)
    if doubt:
        return doubt
    return "" if service.complete else "OneGate's answer is not complete"


def _doubt_about_role(role: ServiceRole) -> str:
    if not role.is_clear:
        return f"OneGate does not tell clearly which VMs role {_shown(role.name)} has"
    unread = sorted(set(role.vm_ids) - {vm.vm_id for vm in role.vms})
    if unread:
        return f"OneGate does not show VM {unread[0]}"
    # While a role is scaled down its leaving VMs are listed on top of those there should be. More
    # can not make a dead node of a living one; fewer can.
    staying = [vm for vm in role.vms if vm.lcm_state != _SHUTDOWN and vm.state != _DONE]
    if len(staying) < role.cardinality:
        return (
            f"OneGate lists {len(staying)} VMs of role {_shown(role.name)} that are not being shut"
            f" down, and there should be {role.cardinality}: the service is changing"
        )
    return ""


def _doubt_about_ids(service: Service) -> str:
    """Find a VM that is listed twice: another may be missing in its place."""
    counts = Counter(vm_id for role in service.roles for vm_id in role.vm_ids)
    twice = sorted(vm_id for vm_id, count in counts.items() if count > 1)
    return f"OneGate lists VM {twice[0]} twice" if twice else ""


def _listed(service: Service) -> frozenset[int]:
    return frozenset(vm_id for role in service.roles for vm_id in role.vm_ids)


def _done(service: Service) -> frozenset[int]:
    return frozenset(vm.vm_id for vm in _vms(service) if vm.state == _DONE)


def _vms(service: Service) -> tuple[Vm, ...]:
    return tuple(vm for role in service.roles for vm in role.vms)


# ---- servers: etcd must keep its quorum


def _spare_servers(found: Sequence[Finding]) -> list[Finding]:
    """Let at most one server go, and none where etcd could not do without it."""
    dead = [one for one in found if one.verdict is Verdict.DELETE and is_server(one.node)]
    if not dead:
        return list(found)
    reason = _quorum_doubt([one.node for one in found])
    first = min(dead, key=lambda one: (_not_ready_since(one.node) or 0.0, one.node.name))
    spared = {one.node.name: reason for one in dead if reason or one is not first}
    later = f"is dead, and servers go one at a time: {first.node.name} first"
    return [
        replace(one, verdict=Verdict.KEEP, reason=spared[one.node.name] or later)
        if one.node.name in spared
        else one
        for one in found
    ]


def _quorum_doubt(nodes: Sequence[Node]) -> str:
    going = [node.name for node in nodes if node.is_going and is_server(node)]
    if going:
        return f"is dead, and servers go one at a time: {going[0]} is still being removed"
    members = find_members(nodes)
    if not members.has_quorum:
        return f"is dead, and etcd has no quorum to let it go: {members}"
    return ""


# ---- VMs that wait for a name


def _mention_waiting(finding: Finding, looks: Sequence[Look]) -> Finding:
    """Name the VM that waits for a node's name."""
    service = looks[-1].service if looks else None
    waiting = (
        [vm.vm_id for vm in _vms(service) if vm.text(BLOCKED_KEY) == finding.node.name]
        if service
        else []
    )
    if not waiting:
        return finding
    hint = finding.hint
    if labelled_vm(finding.node) in waiting and finding.verdict is Verdict.KEEP:
        # Its VM is still there, so that it is never deleted by itself.
        hint = f"if that very VM was made anew: kubectl delete node {finding.node.name}"
    reason = f"{finding.reason}; VM {waiting[0]} waits for its name"
    return replace(finding, reason=reason, hint=hint)


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:60])
