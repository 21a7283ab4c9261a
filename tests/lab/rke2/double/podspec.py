"""Pods as values: defaults, tolerations, where they may run, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .objects import matches_selector, meets
from .store import Conflict, NotFound, Object, Store, condition, set_condition, timestamp

HOSTNAME = "kubernetes.io/hostname"
GRACE_S = 30
LATER_S = 300
"""How long pods stay on a node that is not ready, unless they say otherwise."""


def default_pod(pod: Object) -> Object:
    """A pod with what the API server adds to it."""
    fresh: Object = json.loads(json.dumps(pod))
    spec = fresh.setdefault("spec", {})
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", GRACE_S)
    spec.setdefault("serviceAccountName", "default")
    tolerations = spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        taint = {"key": key, "effect": "NoExecute"}
        if not any(tolerates(each, taint) for each in tolerations):
            later = {"operator": "Exists", "tolerationSeconds": LATER_S}
            tolerations.append(taint | later)
    fresh["status"] = {"phase": "Pending"}
    return fresh


def is_finished(pod: Object) -> bool:
    """Whether its containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_ready(pod: Object) -> bool:
    """Whether it serves."""
    return condition(pod, "Ready") == "True" and not pod["metadata"].get("deletionTimestamp")


def end_gently(store: Store, pod: Object, grace_s: int | None) -> Object:
    """Tell a pod to end; one that no kubelet has, or that has ended, goes at once.

    Returns:
        The pod as it was last; it has a `deletionTimestamp` if it is still there.
    """
    metadata = pod["metadata"]
    namespace, name = metadata["namespace"], metadata["name"]
    wanted = pod.get("spec", {}).get("terminationGracePeriodSeconds", GRACE_S)
    seconds = int(wanted if grace_s is None else grace_s)
    at_once = seconds == 0 or not pod.get("spec", {}).get("nodeName") or is_finished(pod)
    if at_once:
        return store.delete("pods", namespace, name, {"uid": metadata["uid"]})

    def mark(old: Object) -> Object | None:
        if old["metadata"]["uid"] != metadata["uid"] or old["metadata"].get("deletionTimestamp"):
            return None
        marks = {"deletionTimestamp": timestamp(), "deletionGracePeriodSeconds": seconds}
        return old | {"metadata": old["metadata"] | marks}

    return store.change("pods", namespace, name, mark)


# --- scheduling ----------------------------------------------------------------------------------


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Whether a toleration is for a taint."""
    if toleration.get("effect") and toleration["effect"] != taint["effect"]:
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint["key"]:
        return False
    return toleration.get("operator", "Equal") == "Exists" or (toleration.get("value") or "") == (
        taint.get("value") or ""
    )


def untolerated(
    pod: Object, taints: Iterable[Mapping[str, Any]], effects: Sequence[str]
) -> Mapping[str, Any] | None:
    """The first taint of these effects that keeps a pod away."""
    tolerations = pod.get("spec", {}).get("tolerations") or []
    for taint in taints:
        if taint["effect"] in effects and not any(tolerates(one, taint) for one in tolerations):
            return taint
    return None


def patience_s(pod: Object, taint: Mapping[str, Any]) -> float | None:
    """How long a pod stays on a node with a taint `NoExecute`; None for ever."""
    matching = [one for one in pod["spec"].get("tolerations") or [] if tolerates(one, taint)]
    if not matching:
        return 0
    limits = [one["tolerationSeconds"] for one in matching if "tolerationSeconds" in one]
    return min(limits) if limits else None


def why_not(pod: Object, node: Object, pods: Sequence[Object]) -> str:
    """Why a pod can not run on a node, in the scheduler's words; empty if it can.

    Args:
        pod: Which.
        node: Where.
        pods: All that there are, for those it does not want beside it.
    """
    spec, labels = pod.get("spec", {}), node["metadata"].get("labels") or {}
    taints = list(node.get("spec", {}).get("taints") or [])
    taint = untolerated(pod, taints, ("NoSchedule", "NoExecute"))
    if node.get("spec", {}).get("unschedulable"):
        own = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        if untolerated(pod, [own], ("NoSchedule",)):
            return "node(s) were unschedulable"
    if taint is not None:
        return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value') or ''}}}"
    if not fits_labels(spec, labels):
        return "node(s) didn't match Pod's node affinity/selector"
    if _is_shunned(pod, labels, pods):
        return "node(s) didn't match pod anti-affinity rules"
    return ""


def fits_labels(spec: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels are what a pod's selector and affinity ask for."""
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if not affinity:
        return True
    return any(
        all(meets(labels, each) for each in term.get("matchExpressions") or [])
        for term in affinity["nodeSelectorTerms"]
    )


def _is_shunned(pod: Object, labels: Mapping[str, str], pods: Sequence[Object]) -> bool:
    terms = ((pod["spec"].get("affinity") or {}).get("podAntiAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or []
    here = labels.get(HOSTNAME)
    beside = [
        other
        for other in pods
        if other.get("spec", {}).get("nodeName") == here
        and other["metadata"].get("namespace") == pod["metadata"].get("namespace")
        and other["metadata"]["uid"] != pod["metadata"].get("uid")
        and not is_finished(other)
    ]
    return any(
        term.get("topologyKey") == HOSTNAME and matches_selector(other, term["labelSelector"])
        for term in terms
        for other in beside
    )


def bind(store: Store, pod: Object, node: str) -> None:
    """Give a pod to a node."""

    def edit(old: Object) -> Object | None:
        if old["spec"].get("nodeName") or old["metadata"]["uid"] != pod["metadata"]["uid"]:
            return None
        fresh = old | {"spec": old["spec"] | {"nodeName": node}}
        set_condition(fresh, "PodScheduled", "True", "", "")
        return fresh

    _change(store, pod, edit)


def tell_unschedulable(store: Store, pod: Object, message: str) -> None:
    """Note why no node takes a pod."""

    def edit(old: Object) -> Object:
        set_condition(old, "PodScheduled", "False", "Unschedulable", message)
        return old

    told = [one.get("message") for one in pod.get("status", {}).get("conditions") or []]
    if message not in told:
        _change(store, pod, edit)


def _change(store: Store, pod: Object, edit: Any) -> None:
    metadata = pod["metadata"]
    try:
        store.change("pods", metadata["namespace"], metadata["name"], edit)
    except (NotFound, Conflict):
        return
