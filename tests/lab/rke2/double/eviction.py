"""The subresource `pods/eviction`, which asks the budgets before a pod goes.

Source: kubernetes, pkg/registry/core/pod/storage/eviction.go.
"""

from __future__ import annotations

from typing import Any

from .kinds import ApiError
from .objects import matches_selector
from .store import Object, Store, condition, timestamp

BUDGETS = "poddisruptionbudgets.policy"


def ask_budgets(store: Store, pod: Object) -> None:
    """Count an eviction against the pod's budget.

    Raises:
        ApiError: 429 while the budget does not allow it, 500 if there are two of them.
    """
    status = pod.get("status", {})
    if status.get("phase", "Pending") in ("Pending", "Succeeded", "Failed"):
        return
    if pod["metadata"].get("deletionTimestamp"):
        return
    budgets = [
        budget
        for budget in store.all(BUDGETS, pod["metadata"]["namespace"])
        if matches_selector(pod, budget.get("spec", {}).get("selector") or {}, empty=False)
    ]
    if len(budgets) > 1:
        raise ApiError(
            500,
            "InternalError",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does "
            "not support.",
        )
    if budgets:
        _ask(store, budgets[0], pod)


def _ask(store: Store, budget: Object, pod: Object) -> None:
    told: dict[str, Any] = budget.get("status") or {}
    healthy, wanted = int(told.get("currentHealthy", 0)), int(told.get("desiredHealthy", 0))
    policy = budget["spec"].get("unhealthyPodEvictionPolicy", "IfHealthyBudget")
    if condition(pod, "Ready") != "True" and (policy == "AlwaysAllow" or healthy >= wanted > 0):
        return
    metadata = budget["metadata"]
    name = str(metadata["name"])

    def take(old: Object) -> Object:
        status = old.get("status") or {}
        if int(status.get("observedGeneration", 0)) < int(old["metadata"].get("generation", 1)):
            raise _too_many(
                f"The disruption budget {name} is still being processed by the server.", 10
            )
        if int(status.get("disruptionsAllowed", 0)) <= 0:
            raise _too_many(
                f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy "
                f"pods and has {status.get('currentHealthy', 0)} currently"
            )
        gone = {**(status.get("disruptedPods") or {}), pod["metadata"]["name"]: timestamp()}
        fresh = {"disruptionsAllowed": status["disruptionsAllowed"] - 1, "disruptedPods": gone}
        return old | {"status": status | fresh}

    store.change(BUDGETS, metadata["namespace"], name, take)


def _too_many(cause: str, retry_after_s: int = 0) -> ApiError:
    details: dict[str, Any] = {"causes": [{"reason": "DisruptionBudget", "message": cause}]}
    if retry_after_s:
        details["retryAfterSeconds"] = retry_after_s
    message = "Cannot evict pod as it would violate the pod's disruption budget."
    return ApiError(429, "TooManyRequests", message, details)
