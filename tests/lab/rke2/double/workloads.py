"""What keeps pods: Deployments, DaemonSets, StatefulSets, the scheduler, budgets and evictions."""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .batch import BatchControllers
from .controllers import UNINITIALIZED, each_tick, taints
from .eviction import BUDGETS
from .journal import event
from .knobs import Knobs
from .objects import matches_selector
from .owners import HASH_LABEL, orphans, owned, owner_of, pod_of, reference, template_hash
from .podspec import (
    LATER_S,
    bind,
    default_pod,
    end_gently,
    fits_labels,
    is_finished,
    is_ready,
    patience_s,
    tell_unschedulable,
    untolerated,
    why_not,
)
from .store import Conflict, Election, NotFound, Object, Store, condition, set_condition

SETS = {
    "Deployment": "deployments.apps",
    "ReplicaSet": "replicasets.apps",
    "DaemonSet": "daemonsets.apps",
    "StatefulSet": "statefulsets.apps",
    "Job": "jobs.batch",
    "CronJob": "cronjobs.batch",
    "HelmChart": "helmcharts.helm.cattle.io",
    "Addon": "addons.k3s.cattle.io",
}
_DAEMON_TAINTS = (
    *("not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure"),
    *("unschedulable", "network-unavailable"),
)


class WorkloadControllers:
    """The share of controller manager and scheduler that has to do with pods."""

    def __init__(self, store: Store, knobs: Knobs, identity: str) -> None:
        self._store = store
        self._knobs = knobs
        self._office = Election(store, "kube-scheduler", identity)
        self._batch = BatchControllers(store, knobs)
        self._tainted: dict[tuple[str, str], float] = {}

    def run(self) -> None:
        """Go on for ever."""
        each_tick(self._knobs, "workload_tick", self.tick)

    def tick(self) -> None:
        """Look at everything once, if this is who does it."""
        if not self._office.holds(self._knobs.interval("controller_lease")):
            return
        store = self._store
        *sets, pods, nodes, budgets = store.all_of([*SETS.values(), "pods", "nodes", BUDGETS])
        found = dict(zip(SETS, sets, strict=True))
        gone = self._collect(found, pods, nodes)
        pods = [pod for pod in pods if pod["metadata"]["uid"] not in gone]
        for deployment in found["Deployment"]:
            self._keep_deployment(deployment, owned(found["ReplicaSet"], deployment))
        for kind in ("ReplicaSet", "StatefulSet"):
            for one in found[kind]:
                self._keep_replicas(kind, one, owned(pods, one))
        for one in found["DaemonSet"]:
            self._keep_daemons(one, owned(pods, one), nodes)
        self._batch.tick(found["CronJob"], found["Job"], pods)
        self._keep_budgets(budgets, pods, found)
        pods = store.all("pods")
        self._doubt_silent(pods, nodes)
        self._schedule(pods, nodes)
        self._evict_from_tainted(pods, nodes)

    # --- what is left over ------------------------------------------------------------------

    def _collect(
        self, found: Mapping[str, Sequence[Object]], pods: Sequence[Object], nodes: Sequence[Object]
    ) -> set[str]:
        """Remove what has lost its owner or its node; the uids of the pods among it."""
        living = [str(obj["metadata"]["uid"]) for many in found.values() for obj in many]
        for kind in ("ReplicaSet", "Job"):
            lonely = [obj for obj in found[kind] if owner_of(obj).get("kind") in SETS]
            for obj in orphans(lonely, living):
                self._store.delete(
                    SETS[kind], obj["metadata"]["namespace"], obj["metadata"]["name"]
                )
        names = {str(node["metadata"]["name"]) for node in nodes}
        gone = set()
        for pod in pods:
            bound = pod.get("spec", {}).get("nodeName")
            lost = bool(bound) and bound not in names
            if lost or (owner_of(pod).get("kind") in SETS and orphans([pod], living)):
                self._end(pod, 0 if lost else None)
                gone.add(str(pod["metadata"]["uid"]))
        return gone

    # --- sets of pods -----------------------------------------------------------------------

    def _keep_deployment(self, deployment: Object, sets: Sequence[Object]) -> None:
        metadata, spec = deployment["metadata"], deployment["spec"]
        digest = template_hash(spec["template"])
        name = f"{metadata['name']}-{digest}"
        current = next((one for one in sets if one["metadata"]["name"] == name), None)
        wanted = int(spec.get("replicas", 1))
        if current is None:
            template = {**spec["template"]}
            labels = (template.get("metadata") or {}).get("labels") or {}
            template["metadata"] = {
                **(template.get("metadata") or {}),
                "labels": {**labels, HASH_LABEL: digest},
            }
            fresh = {
                "metadata": {
                    "name": name,
                    "labels": {**labels, HASH_LABEL: digest},
                    "ownerReferences": [reference("Deployment", deployment)],
                    "generation": 1,
                },
                "spec": {"replicas": wanted, "template": template, "selector": spec["selector"]},
            }
            self._store.create(SETS["ReplicaSet"], metadata["namespace"], fresh)
        for one in sets:
            replicas = wanted if one is current else 0
            if one["spec"].get("replicas") != replicas:
                self._scale(one, replicas)
        ready = sum(int((one.get("status") or {}).get("readyReplicas", 0)) for one in sets)
        self._tell(
            "Deployment",
            deployment,
            _counts(wanted, ready) | {"conditions": [_available(ready >= max(wanted, 1))]},
        )

    def _scale(self, one: Object, replicas: int) -> None:
        metadata = one["metadata"]
        self._store.change(
            SETS["ReplicaSet"],
            metadata["namespace"],
            metadata["name"],
            lambda old: old | {"spec": old["spec"] | {"replicas": replicas}},
        )

    def _keep_replicas(self, kind: str, one: Object, pods: Sequence[Object]) -> None:
        name, wanted = str(one["metadata"]["name"]), int(one["spec"].get("replicas", 1))
        serving = [
            pod
            for pod in pods
            if not is_finished(pod) and not pod["metadata"].get("deletionTimestamp")
        ]
        taken = {str(pod["metadata"]["name"]) for pod in pods}
        numbered = [f"{name}-{number}" for number in range(wanted)]
        for pod in pods:
            if is_finished(pod):
                self._end(pod, 0)
        if kind == "StatefulSet":
            for free in [each for each in numbered if each not in taken]:
                self._make(one, kind, free)
        else:
            for _ in range(wanted - len(serving)):
                self._make(one, kind, f"{name}-{secrets.token_hex(3)[:5]}")
        for pod in serving[wanted:]:
            self._end(pod)
        self._tell(kind, one, _counts(wanted, sum(is_ready(pod) for pod in serving)))

    def _keep_daemons(self, one: Object, pods: Sequence[Object], nodes: Sequence[Object]) -> None:
        template = one["spec"]["template"]
        spec = {**template["spec"], "tolerations": _daemon_tolerations(template["spec"])}
        chosen = [str(node["metadata"]["name"]) for node in nodes if _takes(spec, node)]
        kept = [str(node["metadata"]["name"]) for node in nodes if _takes(spec, node, stays=True)]
        digest = template_hash(template)
        have: Counter[str] = Counter()
        for pod in pods:
            where = str(pod["spec"].get("nodeName"))
            have[where] += 1
            outdated = (pod["metadata"].get("labels") or {}).get(HASH_LABEL) != digest
            if is_finished(pod) or where not in kept or outdated or have[where] > 1:
                self._end(pod, 0 if is_finished(pod) else None)
        for node in [each for each in chosen if not have[each]]:
            fresh = pod_of(
                template,
                "DaemonSet",
                one,
                f"{one['metadata']['name']}-{secrets.token_hex(3)[:5]}",
                nodeName=node,
                tolerations=spec["tolerations"],
            )
            fresh["metadata"]["labels"][HASH_LABEL] = digest
            self._store.create("pods", one["metadata"]["namespace"], default_pod(fresh))
        ready = sum(is_ready(pod) for pod in pods)
        counts = {"desiredNumberScheduled": len(chosen), "numberReady": ready}
        counts |= {"currentNumberScheduled": len(pods), "numberAvailable": ready}
        self._tell("DaemonSet", one, counts)

    def _make(self, owner: Object, kind: str, name: str) -> None:
        fresh = pod_of(owner["spec"]["template"], kind, owner, name)
        try:
            self._store.create("pods", owner["metadata"]["namespace"], default_pod(fresh))
        except Conflict:
            return

    def _tell(self, kind: str, obj: Object, status: Mapping[str, Any]) -> None:
        """Write a status if it is news."""
        generation = int(obj["metadata"].get("generation", 1))
        fresh = {"observedGeneration": generation, **status}
        old = obj.get("status") or {}
        if any(old.get(key) != value for key, value in fresh.items()):
            metadata = obj["metadata"]
            self._store.change(
                SETS[kind],
                metadata["namespace"],
                metadata["name"],
                lambda old: old | {"status": (old.get("status") or {}) | fresh},
            )

    def _end(self, pod: Object, grace_s: int | None = None) -> None:
        if grace_s != 0 and pod["metadata"].get("deletionTimestamp"):
            return
        try:
            end_gently(self._store, pod, grace_s)
        except (NotFound, Conflict):
            return

    def _doubt_silent(self, pods: Sequence[Object], nodes: Sequence[Object]) -> None:
        """Count pods as not ready whose node is silent."""
        silent = {
            str(node["metadata"]["name"]) for node in nodes if condition(node, "Ready") == "Unknown"
        }

        def doubt(old: Object) -> Object:
            set_condition(old, "Ready", "False", "NodeNotReady", "")
            return old

        for pod in pods:
            if pod.get("spec", {}).get("nodeName") in silent and condition(pod, "Ready") == "True":
                metadata = pod["metadata"]
                self._store.change("pods", metadata["namespace"], metadata["name"], doubt)

    # --- where pods run ---------------------------------------------------------------------

    def _schedule(self, pods: Sequence[Object], nodes: Sequence[Object]) -> None:
        if all(any(one["key"] == UNINITIALIZED for one in taints(node)) for node in nodes):
            return  # the scheduler is not started before one of the nodes is there for good
        placed = [pod for pod in pods if pod["spec"].get("nodeName") and not is_finished(pod)]
        load = Counter(str(pod["spec"]["nodeName"]) for pod in placed)
        beside = Counter((_owner(pod), str(pod["spec"]["nodeName"])) for pod in placed)
        for pod in pods:
            if pod.get("spec", {}).get("nodeName") or pod["metadata"].get("deletionTimestamp"):
                continue
            reasons: Counter[str] = Counter()
            fitting = []
            for node in nodes:
                if reason := why_not(pod, node, pods):
                    reasons[reason] += 1
                else:
                    fitting.append(str(node["metadata"]["name"]))
            if not fitting:
                words = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
                message = f"0/{len(nodes)} nodes are available: {words}."
                tell_unschedulable(self._store, pod, message)
                continue
            owner = _owner(pod)
            chosen = min(fitting, key=lambda name: (beside[owner, name], load[name], name))
            load[chosen] += 1
            beside[owner, chosen] += 1
            bind(self._store, pod, chosen)
            pod["spec"]["nodeName"] = chosen
            event("pod.scheduled", pod=pod["metadata"]["name"], node=chosen)

    def _evict_from_tainted(self, pods: Sequence[Object], nodes: Sequence[Object]) -> None:
        """End pods on nodes with a taint `NoExecute`, when their patience ends."""
        scale = self._knobs.interval("pod_eviction") / LATER_S
        now = time.monotonic()
        hard = {
            str(node["metadata"]["name"]): [
                taint for taint in taints(node) if taint["effect"] == "NoExecute"
            ]
            for node in nodes
        }
        seen = set()
        for pod in pods:
            if is_finished(pod) or pod["metadata"].get("deletionTimestamp"):
                continue
            for taint in hard.get(str(pod.get("spec", {}).get("nodeName")), []):
                limit = patience_s(pod, taint)
                key = (str(pod["metadata"]["uid"]), str(taint["key"]))
                seen.add(key)
                since = self._tainted.setdefault(key, now)
                if limit is not None and now - since >= limit * scale:
                    self._end(pod)
                    event("pod.evicted", pod=pod["metadata"]["name"], by=taint["key"])
                    break
        self._tainted = {key: since for key, since in self._tainted.items() if key in seen}

    # --- budgets ----------------------------------------------------------------------------

    def _keep_budgets(
        self,
        budgets: Sequence[Object],
        pods: Sequence[Object],
        found: Mapping[str, Sequence[Object]],
    ) -> None:
        for budget in budgets:
            metadata, spec = budget["metadata"], budget["spec"]
            mine = [
                pod
                for pod in pods
                if pod["metadata"]["namespace"] == metadata["namespace"]
                and matches_selector(pod, spec.get("selector") or {}, empty=False)
                and not is_finished(pod)
            ]
            old = budget.get("status") or {}
            there = {str(pod["metadata"]["name"]) for pod in mine}
            going = {
                name: at for name, at in (old.get("disruptedPods") or {}).items() if name in there
            }
            healthy = sum(is_ready(pod) and pod["metadata"]["name"] not in going for pod in mine)
            expected = _expected(mine, found)
            wanted = _desired(spec, expected)
            fresh = {
                "observedGeneration": int(metadata.get("generation", 1)),
                "expectedPods": expected,
                "desiredHealthy": wanted,
                "currentHealthy": healthy,
                "disruptionsAllowed": max(0, healthy - wanted),
                "disruptedPods": going,
            }
            if fresh != old:

                def edit(now: Object, seen: Object = old, fresh: Object = fresh) -> Object | None:
                    # An eviction meanwhile counts: it is looked at again in the next round.
                    return now | {"status": fresh} if (now.get("status") or {}) == seen else None

                self._store.change(BUDGETS, metadata["namespace"], metadata["name"], edit)


def _owner(pod: Object) -> str:
    """Whose pod it is, so that those of one owner are spread."""
    return str(owner_of(pod).get("uid") or pod["metadata"]["uid"])


def _expected(pods: Sequence[Object], found: Mapping[str, Sequence[Object]]) -> int:
    """How many pods there are to be: what their controllers want."""
    wanted = {
        str(one["metadata"]["uid"]): int(one["spec"].get("replicas", 1))
        for kind in ("ReplicaSet", "StatefulSet")
        for one in found[kind]
    }
    owners = {str(owner_of(pod).get("uid")) for pod in pods}
    loose = sum(str(owner_of(pod).get("uid")) not in wanted for pod in pods)
    return loose + sum(wanted[uid] for uid in owners if uid in wanted)


def _desired(spec: Mapping[str, Any], expected: int) -> int:
    if "maxUnavailable" in spec:
        return max(0, expected - _share(spec["maxUnavailable"], expected))
    return _share(spec.get("minAvailable", 1), expected)


def _share(value: int | str, whole: int) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return math.ceil(int(value[:-1]) * whole / 100)
    return int(value)


def _daemon_tolerations(spec: Mapping[str, Any]) -> list[Any]:
    """Tolerations that pods of DaemonSets get on top of their own."""
    own = list(spec.get("tolerations") or [])
    for name in _DAEMON_TAINTS:
        if name == "network-unavailable" and not spec.get("hostNetwork"):
            continue
        effect = "NoExecute" if name in ("not-ready", "unreachable") else "NoSchedule"
        own.append({"key": f"node.kubernetes.io/{name}", "operator": "Exists", "effect": effect})
    return own


def _takes(spec: Mapping[str, Any], node: Object, *, stays: bool = False) -> bool:
    """Whether a daemon is to come to a node, or may stay on it."""
    if not fits_labels(spec, node["metadata"].get("labels") or {}):
        return False
    effects = ("NoExecute",) if stays else ("NoSchedule", "NoExecute")
    return untolerated({"spec": spec}, taints(node), effects) is None


def _counts(wanted: int, ready: int) -> dict[str, int]:
    return {"replicas": wanted, "readyReplicas": ready, "availableReplicas": ready}


def _available(is_available: bool) -> dict[str, str]:
    word = "Available" if is_available else "Unavailable"
    reason = f"MinimumReplicas{word}"
    return {"type": "Available", "status": str(is_available), "reason": reason}
