"""Reads what the API server writes, and writes what it reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from appliance.errors import KubernetesMalformed
from appliance.system.kubernetes import Condition, EtcdSnapshot, Lease, Node, Pod, Taint

_INTERNAL = "InternalIP"
_MIRROR = "kubernetes.io/config.mirror"

_QUANTITY = re.compile(r"(?P<number>[0-9]{1,18})(?:(?P<unit>[kKMGT])(?P<binary>i)?)?\Z")
_UNITS = ("", "K", "M", "G", "T")

T = TypeVar("T")


def parse_node(document: object) -> Node:
    """Read a node.

    Raises:
        KubernetesMalformed: It is none, or lacks what tells it from others.
    """
    body = _mapping(document)
    metadata, spec, status = (_mapping(body.get(key)) for key in ("metadata", "spec", "status"))
    name, uid, version = (_text(metadata.get(key)) for key in ("name", "uid", "resourceVersion"))
    if not (name and uid and version):
        raise KubernetesMalformed("the answer holds a node without name, uid or resourceVersion")
    return Node(
        name=name,
        uid=uid,
        resource_version=version,
        labels=_texts(metadata.get("labels")),
        annotations=_texts(metadata.get("annotations")),
        taints=tuple(
            Taint(_text(one.get("key")), _text(one.get("value")), _text(one.get("effect")))
            for one in _mappings(spec.get("taints"))
        ),
        conditions=tuple(
            Condition(
                _text(one.get("type")),
                _text(one.get("status")),
                _text(one.get("reason")),
                _text(one.get("message")),
                _seconds(one.get("lastTransitionTime")),
            )
            for one in _mappings(status.get("conditions"))
        ),
        created_s=_seconds(metadata.get("creationTimestamp")),
        is_going=metadata.get("deletionTimestamp") is not None,
        is_cordoned=spec.get("unschedulable") is True,
        addresses=tuple(
            _text(one.get("address"))
            for one in _mappings(status.get("addresses"))
            if one.get("type") == _INTERNAL and _text(one.get("address"))
        ),
        version=_text(_mapping(status.get("nodeInfo")).get("kubeletVersion")),
    )


def parse_nodes(document: object) -> tuple[tuple[Node, ...], str]:
    """Read a page of the list of nodes.

    Returns:
        The nodes, and what to ask the next page with; empty after the last.

    Raises:
        KubernetesMalformed: It is no list of nodes.
    """
    return _parse_page(document, "Node", parse_node)


def parse_pod(document: object) -> Pod:
    """Read a pod.

    Raises:
        KubernetesMalformed: It is none, or lacks what tells it from others.
    """
    body = _mapping(document)
    metadata, status = _mapping(body.get("metadata")), _mapping(body.get("status"))
    namespace, name, uid = (_text(metadata.get(key)) for key in ("namespace", "name", "uid"))
    if not (namespace and name and uid):
        raise KubernetesMalformed("the answer holds a pod without namespace, name or uid")
    owners = _mappings(metadata.get("ownerReferences"))
    controllers = (_text(one.get("kind")) for one in owners if one.get("controller") is True)
    return Pod(
        namespace=namespace,
        name=name,
        uid=uid,
        phase=_text(status.get("phase")),
        controller=next(controllers, ""),
        is_mirror=_MIRROR in _texts(metadata.get("annotations")),
        is_going=metadata.get("deletionTimestamp") is not None,
    )


def parse_pods(document: object) -> tuple[tuple[Pod, ...], str]:
    """Read a page of a list of pods; see `parse_nodes`."""
    return _parse_page(document, "Pod", parse_pod)


def parse_snapshot(document: object) -> EtcdSnapshot:
    """Read what RKE2 keeps about a snapshot of etcd.

    Source: k3s-io/k3s, pkg/apis/k3s.cattle.io/v1/types.go (ETCDSnapshotFile).

    Raises:
        KubernetesMalformed: It is none, or lacks what tells it from others.
    """
    body = _mapping(document)
    metadata, spec, status = (_mapping(body.get(key)) for key in ("metadata", "spec", "status"))
    key, name = _text(metadata.get("name")), _text(spec.get("snapshotName"))
    if not (key and name):
        raise KubernetesMalformed("the answer holds a snapshot without a name")
    return EtcdSnapshot(
        key=key,
        name=name,
        node=_text(spec.get("nodeName")),
        location=_text(spec.get("location")),
        created_s=_seconds(status.get("creationTime")),
        size_bytes=_quantity(status.get("size")),
        is_good=status.get("readyToUse") is True,
        error=_text(_mapping(status.get("error")).get("message")),
    )


def parse_snapshots(document: object) -> tuple[tuple[EtcdSnapshot, ...], str]:
    """Read a page of a list of snapshots; see `parse_nodes`."""
    return _parse_page(document, "ETCDSnapshotFile", parse_snapshot)


def _parse_page(
    document: object, kind: str, parse: Callable[[object], T]
) -> tuple[tuple[T, ...], str]:
    body = _mapping(document)
    items = body.get("items")
    if body.get("kind") != f"{kind}List" or not isinstance(items, list | None):
        raise KubernetesMalformed(f"the answer is no list of {kind.lower()}s")
    more = _text(_mapping(body.get("metadata")).get("continue"))
    return tuple(parse(item) for item in items or ()), more


def parse_lease(document: object) -> Lease:
    """Read a lease.

    Raises:
        KubernetesMalformed: It is none, or lacks what tells it from others.
    """
    body = _mapping(document)
    metadata, spec = _mapping(body.get("metadata")), _mapping(body.get("spec"))
    keys = ("namespace", "name", "uid", "resourceVersion")
    namespace, name, uid, version = (_text(metadata.get(key)) for key in keys)
    if not (namespace and name and uid and version):
        raise KubernetesMalformed("the answer holds a lease without name, uid or resourceVersion")
    duration = spec.get("leaseDurationSeconds")
    return Lease(
        namespace=namespace,
        name=name,
        holder=_text(spec.get("holderIdentity")),
        duration_s=duration if isinstance(duration, int) and duration > 0 else 0,
        renewed_s=_seconds(spec.get("renewTime")),
        uid=uid,
        resource_version=version,
    )


def write_lease(lease: Lease) -> dict[str, Any]:
    """Write a lease, with its resource version where it is to be still the same."""
    metadata = {"namespace": lease.namespace, "name": lease.name}
    if lease.resource_version:
        metadata |= {"uid": lease.uid, "resourceVersion": lease.resource_version}
    spec: dict[str, Any] = {
        "holderIdentity": lease.holder,
        "leaseDurationSeconds": int(lease.duration_s),
    }
    if lease.renewed_s is not None:
        # Source: a MicroTime has six digits behind the seconds, no fewer.
        renewed = datetime.fromtimestamp(lease.renewed_s, UTC)
        spec["renewTime"] = renewed.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": spec,
    }


def write_eviction(pod: Pod) -> dict[str, Any]:
    """Write what asks for a pod to end, that very pod and none that bears its name by then."""
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": pod.namespace, "name": pod.name},
        "deleteOptions": {"preconditions": {"uid": pod.uid}},
    }


def write_deletion(uid: str, resource_version: str) -> dict[str, Any]:
    """Write what deletes an object that is still just as it was."""
    return {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid, "resourceVersion": resource_version},
    }


def parse_failing_checks(text: str) -> tuple[str, ...]:
    """Read which checks fail out of what /readyz says beside a 500: `[-]etcd failed: ...`."""
    failing = (line[3:].split() for line in text.splitlines() if line.startswith("[-]"))
    return tuple(words[0] for words in failing if words)


def _quantity(value: object) -> int:
    """Read a whole number of Kubernetes' such as 5492768, "5492768", "5k" or "6Mi"; else 0."""
    found = _QUANTITY.match(str(value))
    if not found:
        return 0
    base = 1024 if found["binary"] else 1000
    size: int = int(found["number"]) * base ** _UNITS.index((found["unit"] or "").upper())
    return size


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict):
            yield one


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> dict[str, str]:
    return {key: text for key, text in _mapping(value).items() if isinstance(text, str)}


def _seconds(value: object) -> float | None:
    """Read a time such as 2026-11-21T07:00:00Z; one without its zone tells nothing."""
    try:
        time = datetime.fromisoformat(_text(value))
    except ValueError:
        return None
    return time.timestamp() if time.tzinfo else None
