"""What the API server does with a request whose sender is known: objects in, objects out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import eviction
from .access import Asked, authorize, restrict_node
from .journal import event
from .kinds import KINDS, ApiError, Kind, Target
from .objects import (
    apply_patch,
    check_precondition,
    field_terms,
    keep_apart,
    matches_fields,
    matches_labels,
)
from .podspec import default_pod, end_gently
from .store import Conflict, Object, Store, timestamp
from .webhooks import call_webhooks

_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_ALWAYS_THERE = ("default", "kube-system", "kube-public", "kube-node-lease")
SUBRESOURCES = ("", "status", "eviction", "log", "scale", "finalize", "binding")


@dataclass(frozen=True)
class Sender:
    """Who asks."""

    user: str
    groups: tuple[str, ...]


class Requests:
    """Does what is asked for, if who asks may have it.

    Raises:
        ApiError, NotFound, Conflict, EtcdError: From `perform`.
    """

    def __init__(self, store: Store, ask_kubelet: Callable[[str, str], str]) -> None:
        self.store = store
        self._ask_kubelet = ask_kubelet

    def perform(
        self,
        sender: Sender,
        method: str,
        target: Target,
        query: Mapping[str, list[str]],
        body: Any,
        content: str,
    ) -> tuple[int, Any]:
        """Answer with a status and an object."""
        selector = ",".join(query.get("fieldSelector", []))
        asked = Asked(sender.user, sender.groups, method, target, field_terms(selector))
        authorize(asked, self.store)
        if target.subresource not in SUBRESOURCES:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        if method == "POST":
            return 201, self._evict(asked, body) if target.subresource else self._create(
                asked, body
            )
        if not target.name:
            if method == "DELETE":
                return 200, self._delete_all(asked, query, body)
            if method in ("GET", "HEAD"):
                return 200, self._list(target, query)
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method")
        if method in ("GET", "HEAD"):
            if target.subresource == "log":
                return 200, self._log(target, query)
            return 200, self._typed(target.kind, self._get(target))
        if method == "DELETE":
            return 200, self._delete(asked, body or {})
        if method == "PUT":
            return self._put(asked, body)
        return 200, self._patch(asked, body, content)

    # --- reading ----------------------------------------------------------------------------

    def _get(self, target: Target) -> Object:
        return self.store.get(target.kind.resource, target.namespace, target.name)

    def _list(self, target: Target, query: Mapping[str, list[str]]) -> Object:
        found = self.store.all(target.kind.resource, target.namespace)
        chosen = [self._typed(target.kind, obj) for obj in self._choose(found, query)]
        newest = max((int(obj["metadata"]["resourceVersion"]) for obj in found), default=1)
        return {
            "kind": f"{target.kind.name}List",
            "apiVersion": target.kind.api_version,
            "metadata": {"resourceVersion": str(newest)},
            "items": chosen,
        }

    def _choose(self, found: list[Object], query: Mapping[str, list[str]]) -> list[Object]:
        labels, fields = (
            ",".join(query.get(key, [])) for key in ("labelSelector", "fieldSelector")
        )
        return [obj for obj in found if matches_labels(obj, labels) and matches_fields(obj, fields)]

    def _log(self, target: Target, query: Mapping[str, list[str]]) -> str:
        """What a container said: its kubelet is asked."""
        pod = self._get(target)
        node = self.store.find("nodes", "", str(pod["spec"].get("nodeName"))) or {}
        addresses = (node.get("status") or {}).get("addresses") or []
        where = next((each["address"] for each in addresses if each["type"] == "InternalIP"), "")
        named = (query.get("container") or [""])[0] or pod["spec"]["containers"][0]["name"]
        metadata = pod["metadata"]
        path = f"/containerLogs/{metadata['namespace']}/{metadata['name']}/{named}"
        text = self._ask_kubelet(where, path) if where else ""
        tail = int((query.get("tailLines") or ["0"])[0])
        return "".join(text.splitlines(keepends=True)[-tail:]) if tail else text

    @staticmethod
    def _typed(kind: Kind, obj: Object) -> Object:
        return {"kind": kind.name, "apiVersion": kind.api_version, **obj}

    # --- writing ----------------------------------------------------------------------------

    def _create(self, asked: Asked, body: Object) -> Object:
        kind, namespace = asked.target.kind, asked.target.namespace
        self._check_body(asked.target, body)
        metadata = body.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + f"{time.time_ns():x}"[-5:]
        for key in ("resourceVersion", "uid", "deletionTimestamp"):
            metadata.pop(key, None)
        if not metadata.get("name"):
            raise ApiError(422, "Invalid", "metadata.name: Required value")
        self._check_namespace(kind, namespace)
        if "spec" in body:
            metadata["generation"] = 1
        fresh = default_pod(body) if kind.resource == "pods" else body
        restrict_node(asked, None, fresh)
        self._check(kind, fresh)
        stored = {key: value for key, value in fresh.items() if key not in ("kind", "apiVersion")}
        return self._typed(kind, self.store.create(kind.resource, namespace, stored))

    def _put(self, asked: Asked, body: Object) -> tuple[int, Object]:
        target, store = asked.target, self.store
        resource = target.kind.resource
        self._check_body(target, body)
        is_lease = resource.startswith("leases.")
        if is_lease and store.find(resource, target.namespace, target.name) is None:
            return 201, self._create(asked, body)  # they may be made by an update
        old = self._get(target)
        if is_lease and not body["metadata"].get("resourceVersion"):
            raise ApiError(
                422,
                "Invalid",
                f'{resource} "{target.name}" is invalid: metadata.resourceVersion: Invalid value: '
                "0x0: must be specified for an update",
            )
        check_precondition(old, body)
        kept = ("uid", "creationTimestamp", "deletionTimestamp", "resourceVersion", "generation")
        metadata = {**body["metadata"]}
        metadata |= {key: old["metadata"][key] for key in kept if key in old["metadata"]}
        content = {key: value for key, value in body.items() if key not in ("kind", "apiVersion")}
        new = self._next(asked, old, content | {"metadata": metadata})
        return 200, self._typed(target.kind, store.replace(resource, target.namespace, new))

    def _patch(self, asked: Asked, body: Any, content: str) -> Object:
        target = asked.target

        def edit(old: Object) -> Object:
            new = apply_patch(old, body, content)
            check_precondition(old, body if isinstance(body, dict) else {})
            return self._next(asked, old, new)

        store = self.store
        changed = store.change(target.kind.resource, target.namespace, target.name, edit)
        return self._typed(target.kind, changed)

    def _next(self, asked: Asked, old: Object, new: Object) -> Object:
        """The object as an update makes it, if the update is allowed."""
        sub = "status" if asked.target.subresource == "status" else ""
        merged = keep_apart(old, new, sub)
        if merged.get("spec") != old.get("spec"):
            generation = int(old["metadata"].get("generation", 1)) + 1
            merged["metadata"] = {**merged["metadata"], "generation": generation}
        restrict_node(asked, old, merged)
        if not sub:
            self._check(asked.target.kind, merged)
        return merged

    # --- removing ---------------------------------------------------------------------------

    def _evict(self, asked: Asked, body: Any) -> Object:
        target = asked.target
        if target.kind.resource != "pods" or target.subresource != "eviction":
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method")
        if (body or {}).get("metadata", {}).get("name") != target.name:
            message = "name in URL does not match name in Eviction object"
            raise ApiError(400, "BadRequest", message)
        pod = self._get(target)
        restrict_node(asked, pod, None)
        options = (body or {}).get("deleteOptions") or {}
        check_precondition(pod, {"metadata": options.get("preconditions") or {}})
        eviction.ask_budgets(self.store, pod)
        self._remove(target, options)
        event("pod.evicted", pod=target.name, by=asked.user)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _delete(self, asked: Asked, options: Object) -> Object:
        target = asked.target
        old = self._get(target)
        check_precondition(old, {"metadata": options.get("preconditions") or {}})
        restrict_node(asked, old, None)
        if target.kind.resource == "namespaces":
            self._empty_namespace(target.name)
        removed = self._remove(target, options)
        event("object.deleted", resource=target.kind.resource, object=target.name)
        if removed["metadata"].get("deletionTimestamp"):
            return self._typed(target.kind, removed)
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Success",
            "details": {"name": target.name, "uid": removed["metadata"]["uid"]},
        }

    def _remove(self, target: Target, options: Object) -> Object:
        """Remove an object; a pod that a kubelet has is only told to end."""
        if target.kind.resource != "pods":
            resource = target.kind.resource
            return self.store.delete(
                resource, target.namespace, target.name, options.get("preconditions") or {}
            )
        return end_gently(self.store, self._get(target), options.get("gracePeriodSeconds"))

    def _delete_all(self, asked: Asked, query: Mapping[str, list[str]], body: Any) -> Object:
        target = asked.target
        found = self.store.all(target.kind.resource, target.namespace)
        for obj in self._choose(found, query):
            metadata = obj["metadata"]
            one = Target(target.kind, metadata.get("namespace", ""), metadata["name"], "")
            self._remove(one, body or {})
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _empty_namespace(self, name: str) -> None:
        if name in _ALWAYS_THERE:
            message = f'namespaces "{name}" is forbidden: this namespace may not be deleted'
            raise ApiError(403, "Forbidden", message)
        kinds = [kind.resource for kind in KINDS.values() if kind.namespaced]
        for crd in self.store.all("customresourcedefinitions.apiextensions.k8s.io"):
            if crd["spec"]["scope"] == "Namespaced":
                kinds.append(str(crd["metadata"]["name"]))
        for resource in kinds:
            for obj in self.store.all(resource, name):
                self.store.delete(resource, name, str(obj["metadata"]["name"]))

    # --- what is refused --------------------------------------------------------------------

    def _check_body(self, target: Target, body: Any) -> None:
        """Refuse what is no object of the kind the path names."""
        if not isinstance(body, dict):
            raise ApiError(400, "BadRequest", "the body of the request is no object")
        for key, wanted in (("kind", target.kind.name), ("apiVersion", target.kind.api_version)):
            if body.get(key, wanted) != wanted:
                message = (
                    f"the {key} in the data ({body[key]}) does not match the expected {wanted}"
                )
                raise ApiError(400, "BadRequest", message)
        metadata = body.get("metadata") or {}
        if target.name and metadata.get("name", target.name) != target.name:
            message = "the name of the object does not match the name on the URL"
            raise ApiError(400, "BadRequest", message)
        if metadata.get("namespace", target.namespace) != target.namespace:
            message = (
                "the namespace of the provided object does not match the namespace sent on the "
                "request"
            )
            raise ApiError(400, "BadRequest", message)

    def _check_namespace(self, kind: Kind, namespace: str) -> None:
        if kind.namespaced != bool(namespace):
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        known = not namespace or namespace in _ALWAYS_THERE
        if not known and self.store.find("namespaces", "", namespace) is None:
            raise ApiError(404, "NotFound", f'namespaces "{namespace}" not found')

    def _check(self, kind: Kind, obj: Object) -> None:
        if kind.resource.startswith("leases."):
            _check_lease(obj)
        call_webhooks(self.store, kind, obj)


def _check_lease(lease: Object) -> None:
    """Refuse a lease the real API would: its times have microseconds, its numbers are positive."""
    spec = lease.get("spec") or {}
    for key in ("renewTime", "acquireTime"):
        if spec.get(key) is not None and not _MICRO_TIME.fullmatch(str(spec[key])):
            message = f'parsing time "{spec[key]}" as "2006-01-02T15:04:05.000000Z07:00"'
            raise ApiError(400, "BadRequest", message)
    name = lease["metadata"]["name"]
    for key, least in (("leaseDurationSeconds", 1), ("leaseTransitions", 0)):
        value = spec.get(key)
        if value is not None and (not isinstance(value, int) or value < least):
            message = f'Lease.coordination.k8s.io "{name}" is invalid: spec.{key}: Invalid value'
            raise ApiError(422, "Invalid", message)


def make_namespaces(store: Store) -> None:
    """Make the namespaces that are always there."""
    for name in _ALWAYS_THERE:
        if store.find("namespaces", "", name) is None:
            try:
                store.create(
                    "namespaces",
                    "",
                    {
                        "metadata": {"name": name, "creationTimestamp": timestamp()},
                        "status": {"phase": "Active"},
                    },
                )
            except Conflict:
                continue
