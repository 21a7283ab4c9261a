"""What watches over the cluster: dead nodes, new nodes, and etcd's members."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from typing import Any

from .etcd import Etcd, EtcdError, Member, lacks_quorum
from .journal import event, info, warning
from .knobs import Knobs
from .store import (
    ETCD_FINALIZER,
    Conflict,
    Election,
    NotFound,
    Object,
    Store,
    condition,
    set_condition,
    timestamp,
)

UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
ETCD_NODE_NAME = "etcd.rke2.cattle.io/node-name"
ETCD_NODE_ADDRESS = "etcd.rke2.cattle.io/node-address"
ETCD_REMOVE = "etcd.rke2.cattle.io/remove"
ETCD_REMOVED = "etcd.rke2.cattle.io/removed-node-name"
_LEASES = "leases.coordination.k8s.io"


def each_tick(knobs: Knobs, interval: str, tick: Callable[[], None]) -> None:
    """Do something again and again, whatever etcd and others make of it."""
    while True:
        time.sleep(knobs.interval(interval))
        try:
            tick()
        except (EtcdError, Conflict, NotFound):
            continue
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # An object that makes no sense; whoever wrote it finds this among the events.
            event("controller.confused", interval=interval, reason=repr(error))


class NodeControllers:
    """The controller manager's share: NotReady for who is silent, and initialized by the CCM."""

    def __init__(self, store: Store, knobs: Knobs, identity: str) -> None:
        self._store = store
        self._knobs = knobs
        self._office = Election(store, "kube-controller-manager", identity)
        self._heard: dict[str, tuple[str, float]] = {}
        self._fresh: dict[str, float] = {}

    def run(self) -> None:
        """Go on for ever."""
        each_tick(self._knobs, "controller_tick", self._tick)

    def _tick(self) -> None:
        if not self._office.holds(self._knobs.interval("controller_lease")):
            self._heard.clear()
            return
        held = self._store.all(_LEASES, "kube-node-lease")
        leases = {
            str(lease["metadata"]["name"]): str(lease["spec"].get("renewTime")) for lease in held
        }
        nodes = self._store.all("nodes")
        self._collect(held, {str(node["metadata"]["uid"]) for node in nodes})
        for node in nodes:
            name = str(node["metadata"]["name"])
            silent = self._is_silent(name, leases.get(name, ""))
            initialize = self._is_due(node)

            def edit(node: Object, silent: bool = silent, initialize: bool = initialize) -> Object:
                if initialize:
                    _initialize(node)
                return _with_lifecycle(node, silent)

            if edit(_copy(node)) != node:
                changed = self._store.change("nodes", "", name, edit)
                if initialize:
                    event("node.initialized", node=name)
                if condition(changed, "Ready") != condition(node, "Ready"):
                    event("node.ready", node=name, status=condition(changed, "Ready"))

    def _collect(self, leases: Iterable[Object], living: Container[str]) -> None:
        """Delete the leases of nodes that are gone; they were read before the nodes."""
        for lease in leases:
            metadata = lease["metadata"]
            owners = [one["uid"] for one in metadata.get("ownerReferences") or []]
            if owners and not any(uid in living for uid in owners):
                with suppress(NotFound):
                    self._store.delete(_LEASES, "kube-node-lease", str(metadata["name"]))

    def _is_silent(self, name: str, renewed: str) -> bool:
        """Whether a node's lease has not moved for the time of grace."""
        now = time.monotonic()
        known = self._heard.get(name)
        if known is None or known[0] != renewed:
            self._heard[name] = (renewed, now)
            return False
        return now - known[1] > self._knobs.interval("node_grace")

    def _is_due(self, node: Object) -> bool:
        """Whether the cloud controller gets to a new node now."""
        name = str(node["metadata"]["name"])
        if not any(taint["key"] == UNINITIALIZED for taint in taints(node)):
            self._fresh.pop(name, None)
            return False
        since = self._fresh.setdefault(name, time.monotonic())
        waited = time.monotonic() - since >= self._knobs.delay("ccm")
        return waited and not self._knobs.mode("ccm-stuck")


def taints(node: Object) -> list[dict[str, Any]]:
    """The taints of a node."""
    return list(node.get("spec", {}).get("taints") or [])


def _initialize(node: Object) -> None:
    spec = node.setdefault("spec", {})
    spec["providerID"] = f"rke2://{node['metadata']['name']}"
    _set_taints(node, [taint for taint in taints(node) if taint["key"] != UNINITIALIZED])


def _with_lifecycle(node: Object, silent: bool) -> Object:
    """The node with the taints that go with its readiness, which is unknown once it is silent."""
    if silent and condition(node, "Ready") != "Unknown":
        for each in node.get("status", {}).get("conditions", []):
            if each["type"] in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure"):
                each["status"] = "Unknown"
                each["reason"] = "NodeStatusUnknown"
                each["message"] = "Kubelet stopped posting node status."
                each["lastTransitionTime"] = timestamp()
    wanted = {"False": NOT_READY, "Unknown": UNREACHABLE}.get(condition(node, "Ready"))
    own = (NOT_READY, UNREACHABLE, UNSCHEDULABLE)
    kept = [taint for taint in taints(node) if taint["key"] not in own]
    pairs = [(wanted, "NoSchedule"), (wanted, "NoExecute")] if wanted else []
    pairs += [(UNSCHEDULABLE, "NoSchedule")] if node.get("spec", {}).get("unschedulable") else []
    have = {(taint["key"], taint["effect"]): taint for taint in taints(node)}
    for key, effect in pairs:
        fresh = {"key": key, "effect": effect, "timeAdded": timestamp()}
        kept.append(have.get((key, effect), fresh))
    _set_taints(node, kept)
    return node


def _set_taints(node: Object, wanted: list[dict[str, Any]]) -> None:
    spec = node.setdefault("spec", {})
    if wanted:
        spec["taints"] = wanted
    else:
        spec.pop("taints", None)


class EtcdController:
    """The share of `rke2 server`: learners, members of nodes that are deleted, `EtcdIsVoter`."""

    def __init__(self, store: Store, knobs: Knobs, identity: str) -> None:
        self._store = store
        self._knobs = knobs
        self._office = Election(store, "rke2-etcd", identity)
        self._learners: dict[int, tuple[int, float]] = {}

    def run(self) -> None:
        """Go on for ever."""
        each_tick(self._knobs, "learner_tick", self._tick)

    def _tick(self) -> None:
        if not self._office.holds(self._knobs.interval("controller_lease")):
            self._learners.clear()
            return
        members = self._store.etcd.members()
        for member in members:
            if member.is_learner:
                self._manage_learner(member)
        nodes = [node for node in self._store.all("nodes") if _is_server(node)]
        for node in nodes:
            self._manage_node(node, members)

    def _manage_learner(self, member: Member) -> None:
        """Promote a learner that has caught up; take out one that makes no progress."""
        now = time.monotonic()
        progress, since = self._learners.get(member.id, (-1, now))
        try:
            applied = Etcd([member.client_url], 1).status().applied if member.client_url else -1
        except EtcdError:
            applied = -1
        if applied > progress:
            progress, since = applied, now
        self._learners[member.id] = (progress, since)
        if member.name:
            try:
                self._store.etcd.promote(member.id)
            except EtcdError:
                pass
            else:
                info(f"Learner {member.name} has been promoted to etcd member")
                event("etcd.promoted", member=member.name)
                return
        if now - since > self._knobs.interval("learner_eviction"):
            who = member.name or member.peer_url
            warning(f"Removing etcd member {who} due to learner stalled")
            self._store.etcd.remove(member.id)
            event("etcd.evicted", member=who)

    def _manage_node(self, node: Object, members: list[Member]) -> None:
        metadata = node["metadata"]
        annotations = metadata.get("annotations") or {}
        own = str(annotations.get(ETCD_NODE_NAME, ""))
        name = str(metadata["name"])
        member = next((each for each in members if own and each.name == own), None)
        dying = metadata.get("deletionTimestamp") and ETCD_FINALIZER in (
            metadata.get("finalizers") or []
        )
        if dying or (annotations.get(ETCD_REMOVE) == "true" and member is not None):
            if member is not None:
                if not member.is_learner and lacks_quorum(members, without=member.id):
                    warning(f"Failed to remove etcd member {member.name}: unhealthy cluster")
                    return
                info(f"Removing name={member.name} id={member.id} from etcd")
                self._store.etcd.remove(member.id)
                event("etcd.removed", member=member.name)
            self._store.change("nodes", "", name, _release if dying else _note_removal)
            return
        status, reason = _voter(member)
        if condition(node, "EtcdIsVoter") != status:
            message = "Node is a voting member of the etcd cluster" if status == "True" else reason

            def edit(node: Object) -> Object:
                set_condition(node, "EtcdIsVoter", status, reason, message)
                return node

            self._store.change("nodes", "", name, edit)


def _is_server(node: Object) -> bool:
    return "node-role.kubernetes.io/etcd" in (node["metadata"].get("labels") or {})


def _voter(member: Member | None) -> tuple[str, str]:
    if member is None:
        return "False", "NotAMember"
    return ("False", "MemberIsLearner") if member.is_learner else ("True", "MemberNotLearner")


def _release(node: Object) -> Object:
    kept = [each for each in node["metadata"]["finalizers"] if each != ETCD_FINALIZER]
    node["metadata"]["finalizers"] = kept
    return node


def _note_removal(node: Object) -> Object:
    annotations = node["metadata"]["annotations"]
    annotations[ETCD_REMOVED] = annotations.pop(ETCD_NODE_NAME, "")
    annotations.pop(ETCD_REMOVE, None)
    set_condition(node, "EtcdIsVoter", "False", "NotAMember", "NotAMember")
    return node


def _copy(node: Object) -> Object:
    copied: Object = json.loads(json.dumps(node))
    return copied
