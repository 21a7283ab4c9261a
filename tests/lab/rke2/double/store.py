"""The cluster's objects: JSON in etcd, with resource versions and finalizers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .etcd import Entry, Etcd

Object = dict[str, Any]

ETCD_FINALIZER = "wrangler.cattle.io/managed-etcd-controller"


class NotFound(Exception):
    """There is no such object."""


class Conflict(Exception):
    """The object is another by now, or there already."""


class Store:
    """Objects by resource (`nodes`, `leases.coordination.k8s.io`), namespace and name."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd

    def get(self, resource: str, namespace: str, name: str) -> Object:
        """One object.

        Raises:
            NotFound: If there is none.
        """
        entry = self.etcd.get(_key(resource, namespace, name))
        if entry is None:
            raise NotFound(name)
        return _object(entry)

    def find(self, resource: str, namespace: str, name: str) -> Object | None:
        """One object, or None."""
        try:
            return self.get(resource, namespace, name)
        except NotFound:
            return None

    def all(self, resource: str, namespace: str = "") -> list[Object]:
        """All objects of a resource, or those of one namespace."""
        prefix = f"/registry/{resource}/" + (f"{namespace}/" if namespace else "")
        return [_object(entry) for entry in self.etcd.below(prefix)]

    def all_of(self, resources: Sequence[str]) -> list[list[Object]]:
        """All objects of each of several resources, in one request."""
        found = self.etcd.below_each([f"/registry/{resource}/" for resource in resources])
        return [[_object(entry) for entry in entries] for entries in found]

    def create(self, resource: str, namespace: str, obj: Object) -> Object:
        """Add an object.

        Raises:
            Conflict: If there is one of that name.
        """
        metadata = obj.setdefault("metadata", {})
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", timestamp())
        if namespace:
            metadata["namespace"] = namespace
        name = str(metadata["name"])
        return self._write(resource, namespace, name, obj, 0)

    def replace(self, resource: str, namespace: str, obj: Object) -> Object:
        """Write an object that was read before; a dying one that nothing holds goes for good.

        Raises:
            Conflict: If it changed since it was read.
        """
        metadata = obj["metadata"]
        revision = int(metadata["resourceVersion"])
        name = str(metadata["name"])
        held = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp") and not held:
            self._remove(resource, namespace, name, revision)
            return obj
        return self._write(resource, namespace, name, obj, revision)

    def change(
        self, resource: str, namespace: str, name: str, edit: Callable[[Object], Object | None]
    ) -> Object:
        """Edit an object, anew if somebody else was faster.

        Args:
            resource: Kind of thing.
            namespace: Empty for what has none.
            name: Which.
            edit: Takes the object and returns it changed, or None to leave it.

        Raises:
            NotFound: If there is none.
        """
        while True:
            obj = self.get(resource, namespace, name)
            edited = edit(json.loads(json.dumps(obj)))
            if edited is None or edited == obj:
                return obj
            try:
                return self.replace(resource, namespace, edited)
            except Conflict:
                time.sleep(0.01)

    def delete(
        self, resource: str, namespace: str, name: str, wanted: Mapping[str, str] | None = None
    ) -> Object:
        """Remove an object, or mark it as dying while it has finalizers.

        Args:
            resource: Kind of thing.
            namespace: Empty for what has none.
            name: Which.
            wanted: `uid` and `resourceVersion` it has to have.

        Raises:
            NotFound: If there is none.
            Conflict: If it is another than was wanted.
        """
        while True:
            obj = self.get(resource, namespace, name)
            metadata = obj["metadata"]
            if any(metadata.get(key) != value for key, value in (wanted or {}).items() if value):
                raise Conflict(name)
            try:
                if not metadata.get("finalizers"):
                    self._remove(resource, namespace, name, int(metadata["resourceVersion"]))
                    return obj
                if metadata.get("deletionTimestamp"):
                    return obj
                metadata["deletionTimestamp"] = timestamp()
                return self.replace(resource, namespace, obj)
            except Conflict:
                time.sleep(0.01)

    # --- inside -----------------------------------------------------------------------------

    def _write(
        self, resource: str, namespace: str, name: str, obj: Object, revision: int
    ) -> Object:
        metadata = {key: v for key, v in obj["metadata"].items() if key != "resourceVersion"}
        text = json.dumps(obj | {"metadata": metadata}, separators=(",", ":"))
        written = self.etcd.put(_key(resource, namespace, name), text, revision)
        if written is None:
            raise Conflict(name)
        return obj | {"metadata": metadata | {"resourceVersion": str(written)}}

    def _remove(self, resource: str, namespace: str, name: str, revision: int) -> None:
        if self.etcd.delete(_key(resource, namespace, name), revision) is None:
            raise Conflict(name)
        if resource == "nodes":
            # Controllers do this in a real cluster; nobody can tell the difference.
            self.etcd.delete(_key("secrets", "kube-system", f"{name}.node-password.rke2"))
            self.etcd.delete(_key("leases.coordination.k8s.io", "kube-node-lease", name))


class Election:
    """One of several processes holds the office; another takes it when nothing is heard of it."""

    def __init__(self, store: Store, office: str, identity: str) -> None:
        self._store = store
        self._key = f"/rke2/office/{office}"
        self._identity = identity
        self._seen: tuple[int, float] = (0, 0.0)
        self._holds = False
        self._asks_at = 0.0

    def holds(self, patience_s: float) -> bool:
        """Renew or take the office; whether this process holds it now.

        Nobody takes it before the time of patience, so that a third of that goes by unasked.
        """
        now = time.monotonic()
        if now >= self._asks_at:
            self._holds = self._ask(now, patience_s)
            self._asks_at = now + patience_s / 3
        return self._holds

    def _ask(self, now: float, patience_s: float) -> bool:
        entry = self._store.etcd.get(self._key)
        if entry is not None and entry.value != self._identity:
            if entry.revision != self._seen[0]:
                self._seen = (entry.revision, now)
            if now - self._seen[1] < patience_s:
                return False
        revision = 0 if entry is None else entry.revision
        return self._store.etcd.put(self._key, self._identity, revision) is not None


def timestamp(now: float | None = None) -> str:
    """A time as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


def set_condition(obj: Object, kind: str, status: str, reason: str, message: str) -> None:
    """Set a condition of an object's status; its transition time moves when the status does."""
    conditions = obj.setdefault("status", {}).setdefault("conditions", [])
    fresh = {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": timestamp(),
    }
    for index, old in enumerate(conditions):
        if old["type"] == kind:
            if old["status"] == status:
                fresh["lastTransitionTime"] = old.get("lastTransitionTime", timestamp())
            conditions[index] = fresh
            return
    conditions.append(fresh)


def condition(obj: Object, kind: str) -> str:
    """Status of a condition; empty if it is not there."""
    conditions = obj.get("status", {}).get("conditions", [])
    return next((str(each["status"]) for each in conditions if each["type"] == kind), "")


def _key(resource: str, namespace: str, name: str) -> str:
    return f"/registry/{resource}/" + (f"{namespace}/" if namespace else "") + name


def _object(entry: Entry) -> Object:
    obj: Object = json.loads(entry.value)
    obj["metadata"]["resourceVersion"] = str(entry.revision)
    return obj
