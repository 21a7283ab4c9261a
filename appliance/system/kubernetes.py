"""The cluster's API server: what is asked of it, and its answers as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Protocol

from appliance.errors import KubernetesMalformed


@dataclass(frozen=True)
class Access:
    """Who asks which API server.

    Attributes:
        server: Base URL.
        ca: File of the certificates that vouch for the server.
        certificate: File of the certificate that is shown.
        key: File of its key.
    """

    server: str
    ca: PurePosixPath
    certificate: PurePosixPath
    key: PurePosixPath


@dataclass(frozen=True)
class Health:
    """What the API server says of itself.

    Attributes:
        failing: The names of its checks that fail.
    """

    is_ok: bool
    failing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True)
class Condition:
    """One thing the cluster says of a node.

    Attributes:
        kind: Ready, EtcdIsVoter and the like.
        status: True, False or Unknown, as texts.
        since_s: Since when, in seconds since 1970; None where it does not tell.
    """

    kind: str
    status: str
    reason: str = ""
    message: str = ""
    since_s: float | None = None


@dataclass(frozen=True)
class Node:
    """A node as the cluster sees it.

    Attributes:
        uid: Differs from that of an earlier node of the same name.
        resource_version: Changes with every change of the node.
        created_s: Seconds since 1970; None where it does not tell.
        is_going: Whether it was deleted and something still holds it.
    """

    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    taints: tuple[Taint, ...]
    conditions: tuple[Condition, ...]
    created_s: float | None
    is_going: bool = False

    def condition(self, kind: str) -> Condition | None:
        """Return a condition by its kind."""
        return next((one for one in self.conditions if one.kind == kind), None)

    def is_true(self, kind: str) -> bool:
        """Say whether a condition holds; one that nobody knows does not."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"

    @property
    def is_ready(self) -> bool:
        """Whether its kubelet does its job."""
        return self.is_true("Ready")


class Kubernetes(Protocol):
    """Asks and tells the API server."""

    def health(self, access: Access) -> Health:
        """Ask whether it is ready to serve.

        Raises:
            KubernetesError: One of its kinds; `retryable` tells whether trying again may help.
        """

    def node(self, access: Access, name: str) -> Node | None:
        """Return a node, or None where the cluster has none of that name."""

    def nodes(self, access: Access) -> tuple[Node, ...]:
        """Return all nodes of the cluster, none left out."""

    def delete_node(self, access: Access, node: Node) -> bool:
        """Delete a node if it is still just as it was when it was read.

        Returns:
            Whether it had to be deleted: False where it was gone already.

        Raises:
            KubernetesConflict: It changed, or another node of that name is there now.
        """


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
    )


def parse_nodes(document: object) -> tuple[tuple[Node, ...], str]:
    """Read a page of the list of nodes.

    Returns:
        The nodes, and what to ask the next page with; empty after the last.

    Raises:
        KubernetesMalformed: It is no list of nodes.
    """
    body = _mapping(document)
    items = body.get("items")
    if body.get("kind") != "NodeList" or not isinstance(items, list | None):
        raise KubernetesMalformed("the answer is no list of nodes")
    more = _text(_mapping(body.get("metadata")).get("continue"))
    return tuple(parse_node(item) for item in items or ()), more


def parse_failing_checks(text: str) -> tuple[str, ...]:
    """Read which checks fail out of what /readyz says beside a 500: `[-]etcd failed: ...`."""
    failing = (line[3:].split() for line in text.splitlines() if line.startswith("[-]"))
    return tuple(words[0] for words in failing if words)


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
