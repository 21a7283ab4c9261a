"""Who owns what: references of objects to what made them, and what is to go with their owners."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .store import Object

HASH_LABEL = "pod-template-hash"
_API = {
    "Deployment": "apps/v1",
    "ReplicaSet": "apps/v1",
    "DaemonSet": "apps/v1",
    "StatefulSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
    "HelmChart": "helm.cattle.io/v1",
    "Addon": "k3s.cattle.io/v1",
}


def reference(kind: str, owner: Object) -> dict[str, Any]:
    """How an object names what made it."""
    return {
        "apiVersion": _API[kind],
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owner_of(obj: Object) -> Mapping[str, Any]:
    """The controller of an object; empty if it has none."""
    references = obj["metadata"].get("ownerReferences") or []
    return next((one for one in references if one.get("controller")), {})


def owned(objects: Iterable[Object], owner: Object) -> list[Object]:
    """Those of some objects that are an owner's, the oldest first."""
    uid = owner["metadata"]["uid"]
    mine = [obj for obj in objects if owner_of(obj).get("uid") == uid]
    return sorted(
        mine, key=lambda obj: (obj["metadata"]["creationTimestamp"], obj["metadata"]["name"])
    )


def template_hash(template: Mapping[str, Any]) -> str:
    """What tells one pod template from another."""
    text = json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def pod_of(template: Mapping[str, Any], kind: str, owner: Object, name: str, **spec: Any) -> Object:
    """A pod as a controller makes it of a template."""
    copied: Object = json.loads(json.dumps(template))
    metadata = copied.get("metadata") or {}
    return {
        "metadata": {
            "name": name,
            "labels": metadata.get("labels") or {},
            "annotations": metadata.get("annotations") or {},
            "ownerReferences": [reference(kind, owner)],
        },
        "spec": copied["spec"] | spec,
    }


def orphans(dependents: Sequence[Object], living: Iterable[str]) -> list[Object]:
    """Those whose owners are gone.

    Args:
        dependents: Objects that may have owners.
        living: The uids of all that may own something.
    """
    there = set(living)
    return [obj for obj in dependents if owner_of(obj) and owner_of(obj)["uid"] not in there]
