"""Validating webhooks: kinds that can only be written while what checks them runs."""

from __future__ import annotations

from typing import Any

from .kinds import ApiError, Kind
from .objects import matches_selector
from .store import Object, Store, condition

WEBHOOKS = "validatingwebhookconfigurations.admissionregistration.k8s.io"


def call_webhooks(store: Store, kind: Kind, obj: Object) -> None:
    """Let the webhooks of a kind look at an object; none of them finds anything wrong.

    Raises:
        ApiError: 500 if a webhook that has to be asked does not answer.
    """
    plural, _, group = kind.resource.partition(".")
    if "." not in group:
        return
    for configuration in store.all(WEBHOOKS):
        for hook in configuration.get("webhooks") or []:
            rules = hook.get("rules") or []
            if any(group in rule["apiGroups"] and _names(rule, plural) for rule in rules):
                _call(store, hook, obj)


def _names(rule: dict[str, Any], plural: str) -> bool:
    return plural in rule["resources"] or "*" in rule["resources"]


def _call(store: Store, hook: dict[str, Any], obj: Object) -> None:
    service = hook["clientConfig"]["service"]
    namespace, name = service["namespace"], service["name"]
    selector = (store.find("services", namespace, name) or {}).get("spec", {}).get("selector")
    answers = any(
        condition(pod, "Ready") == "True" and matches_selector(pod, {"matchLabels": selector})
        for pod in (store.all("pods", namespace) if selector else [])
    )
    if not answers and hook.get("failurePolicy", "Fail") == "Fail":
        url = f"https://{name}.{namespace}.svc:443{service.get('path', '')}?timeout=10s"
        raise ApiError(
            500,
            "InternalError",
            f'Internal error occurred: failed calling webhook "{hook["name"]}": failed to call '
            f'webhook: Post "{url}": no endpoints available for service "{name}"',
        )
