"""The cluster's API server: what is asked of it, and its answers as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol


@dataclass(frozen=True)
class Access:
    """Who asks which API server.

    Attributes:
        server: Base URL.
        ca: File of the certificates that vouch for the server.
        certificate: File of the certificate that is shown.
        key: File of its key.
        longest_s: The longest an answer may take; None for as long as is usual.
        until_s: Up to when answers are waited for, on the monotonic scale; None for no such point.
    """

    server: str
    ca: PurePosixPath
    certificate: PurePosixPath
    key: PurePosixPath
    longest_s: float | None = None
    until_s: float | None = None


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
        is_cordoned: Whether no new pods come to it.
        addresses: Those it has inside the cluster.
        version: What its kubelet says of its version; empty where it does not.
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
    is_cordoned: bool = False
    addresses: tuple[str, ...] = ()
    version: str = ""

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


@dataclass(frozen=True)
class Pod:
    """A pod of a node.

    Attributes:
        uid: Differs from that of an earlier pod of the same name.
        phase: Pending, Running, Succeeded, Failed or Unknown.
        controller: The kind of what made it and would make it anew; empty for nothing.
        is_mirror: Whether it only shows what a kubelet runs by itself.
        is_going: Whether it was deleted, and ends.
    """

    namespace: str
    name: str
    uid: str
    phase: str
    controller: str = ""
    is_mirror: bool = False
    is_going: bool = False

    def __str__(self) -> str:
        """Name it as people do."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Lease:
    """A lease: who holds it, and until when if it is not renewed.

    Attributes:
        holder: Empty for nobody.
        duration_s: For how long a renewal holds.
        renewed_s: When it was renewed, in seconds since 1970; None where it does not tell.
        uid: Empty for one that is yet to be made; `resource_version` likewise.
        resource_version: Changes with every change of the lease.
    """

    namespace: str
    name: str
    holder: str
    duration_s: float
    renewed_s: float | None
    uid: str = ""
    resource_version: str = ""


@dataclass(frozen=True)
class EtcdSnapshot:
    """A snapshot of the cluster's database, in one place.

    Attributes:
        key: Differs from that of the same snapshot in another place.
        node: The server it was taken on.
        location: Where it is, as a URL.
        created_s: Seconds since 1970; None where it does not tell.
        is_good: Whether a cluster could be restored from it.
        error: Why it is not; empty where nobody says so.
    """

    key: str
    name: str
    node: str
    location: str
    created_s: float | None
    size_bytes: int
    is_good: bool
    error: str = ""


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

    def cordon(self, access: Access, name: str) -> None:
        """Let no new pods come to a node.

        Raises:
            KubernetesRefused: The bearer of the certificate may not do this, or there is no such
                node.
        """

    def pods(self, access: Access, node: str) -> tuple[Pod, ...]:
        """Return all pods of a node, none left out."""

    def evict(self, access: Access, pod: Pod) -> bool:
        """Ask for a pod to end, so that what made it makes it anew elsewhere.

        Returns:
            Whether it has to end: False where it was gone already.

        Raises:
            KubernetesUnavailable: With status 429 where a budget for disruptions does not let it
                go now.
            KubernetesConflict: Another pod of that name is there now.
        """

    def lease(self, access: Access, namespace: str, name: str) -> Lease | None:
        """Return a lease, or None where there is none of that name."""

    def put_lease(self, access: Access, lease: Lease) -> Lease:
        """Make a lease, or change one if it is still just as it was when it was read.

        Returns:
            The lease as it is then.

        Raises:
            KubernetesConflict: It changed, or somebody else has made it.
        """

    def delete_lease(self, access: Access, lease: Lease) -> bool:
        """Delete a lease if it is still just as it was when it was read; see `delete_node`."""

    def etcd_snapshots(self, access: Access) -> tuple[EtcdSnapshot, ...]:
        """Return what RKE2 knows of snapshots, on all servers and in the object store."""
