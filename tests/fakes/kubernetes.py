"""A cluster's API server in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from appliance.errors import (
    KubernetesConflict,
    KubernetesError,
    KubernetesRefused,
    KubernetesUnavailable,
)
from appliance.system.kubernetes import (
    Access,
    Condition,
    EtcdSnapshot,
    Health,
    Lease,
    Node,
    Pod,
    Taint,
)
from tests.fakes.tape import Tape

DOWN = KubernetesUnavailable("Kubernetes GET /readyz: https://127.0.0.1:6443: Connection refused")


def make_node(
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    ready: str | None = "True",
    ready_since_s: float | None = 0.0,
    voter: str | None = None,
    voter_reason: str = "",
    taints: Iterable[Taint] = (),
    created_s: float | None = 0.0,
    is_going: bool = False,
    is_cordoned: bool = False,
    addresses: Iterable[str] = (),
) -> Node:
    """Return a node.

    Args:
        name: Its name; uid and resource version are made of it.
        labels: Its labels.
        annotations: Its annotations.
        ready: The status of its Ready condition; None for no such condition.
        ready_since_s: Since when that is so.
        voter: The status of its EtcdIsVoter condition; None for no such condition.
        voter_reason: Why that is so.
        taints: Its taints.
        created_s: When it registered.
        is_going: Whether it was deleted and something holds it.
        is_cordoned: Whether no new pods come to it.
        addresses: Those it has inside the cluster.
    """
    conditions = []
    if ready is not None:
        conditions.append(Condition("Ready", ready, "KubeletReady", "", ready_since_s))
    if voter is not None:
        conditions.append(Condition("EtcdIsVoter", voter, voter_reason, "", 0.0))
    return Node(
        name=name,
        uid=f"uid-of-{name}",
        resource_version="1",
        labels=dict(labels or {}),
        annotations=dict(annotations or {}),
        taints=tuple(taints),
        conditions=tuple(conditions),
        created_s=created_s,
        is_going=is_going,
        is_cordoned=is_cordoned,
        addresses=tuple(addresses),
    )


def make_pod(
    name: str,
    *,
    namespace: str = "default",
    phase: str = "Running",
    controller: str = "ReplicaSet",
    is_mirror: bool = False,
    is_going: bool = False,
) -> Pod:
    """Return a pod; its uid is made of its name."""
    return Pod(namespace, name, f"uid-of-{name}", phase, controller, is_mirror, is_going)


class FakeKubernetes:
    """The nodes of a cluster, and how well its API server is; it is down until told otherwise.

    Attributes:
        members: Name to node; may be changed, as nodes come and go.
        says: What the API server says of itself.
        held: Names of nodes that something holds: deleted, they stay, and are going.
        pods_of: Node to its pods by name; may be changed, as pods come and go.
        guarded: Names of pods that no budget lets go now.
        lingering: Names of pods that take their time to end; `end` ends them.
        leases: Name to lease.
        snapshots: What RKE2 knows of snapshots of etcd.
        unreachable: Hosts of servers that do not answer.
        forbidden: What whoever asks may not do, such as `delete`.
        asked: What was asked, call by call.
        hosts: Whom, call by call.
        answered: What happens while an answer is on its way, such as time passing.
    """

    def __init__(self, nodes: Iterable[Node] = (), *, tape: Tape | None = None) -> None:
        """Begin with some nodes; if there is one, the API server is up."""
        self.tape = tape or Tape()
        self.members = {node.name: node for node in nodes}
        self.says = Health(is_ok=True)
        self.held: set[str] = set()
        self.pods_of: dict[str, dict[str, Pod]] = {}
        self.guarded: set[str] = set()
        self.lingering: set[str] = set()
        self.leases: dict[str, Lease] = {}
        self.snapshots: list[EtcdSnapshot] = []
        self.unreachable: set[str] = set()
        self.forbidden: set[str] = set()
        self.asked: list[str] = []
        self.hosts: list[str] = []
        self.answered: Callable[[Access], None] = lambda access: None
        self._is_down: KubernetesError | None = None if self.members else DOWN
        self._failures: list[KubernetesError | None] = []

    def put(self, node: Node) -> None:
        """Have a node there, in the place of one of that name."""
        before = self.members.get(node.name)
        version = str(int(before.resource_version) + 1) if before else "1"
        self.members[node.name] = replace(node, resource_version=version)

    def go_down(self, error: KubernetesError | None = DOWN) -> None:
        """Let every call fail from now on; None ends that."""
        self._is_down = error

    def fail(self, *failures: KubernetesError | None) -> None:
        """Let the next calls fail, one each; None lets one pass."""
        self._failures.extend(failures)

    def health(self, access: Access) -> Health:
        """Say how well it is."""
        self._answer(access, "health")
        return self.says

    def node(self, access: Access, name: str) -> Node | None:
        """Return a node, or None."""
        self._answer(access, f"node {name}")
        return self.members.get(name)

    def nodes(self, access: Access) -> tuple[Node, ...]:
        """Return all nodes."""
        self._answer(access, "nodes")
        return tuple(self.members.values())

    def delete_node(self, access: Access, node: Node) -> bool:
        """Delete a node that is just as it was read."""
        self._answer(access, f"delete {node.name}")
        found = self.members.get(node.name)
        if found is None:
            return False
        if (found.uid, found.resource_version) != (node.uid, node.resource_version):
            raise _conflict(f"DELETE /api/v1/nodes/{node.name}", "Precondition failed")
        self.tape.note(f"kubernetes.delete {node.name}")
        if node.name in self.held:
            self.put(replace(found, is_going=True))
        else:
            del self.members[node.name]
        return True

    def place(self, node: str, *pods: Pod) -> None:
        """Have pods on a node."""
        self.pods_of.setdefault(node, {}).update({pod.name: pod for pod in pods})

    def end(self, name: str) -> None:
        """Let a pod end."""
        for pods in self.pods_of.values():
            pods.pop(name, None)

    def cordon(self, access: Access, name: str) -> None:
        """Let no new pods come to a node."""
        self._answer(access, f"cordon {name}")
        found = self.members.get(name)
        if found is None:
            raise KubernetesRefused(
                f'Kubernetes PATCH /api/v1/nodes/{name}: status 404: nodes "{name}" not found',
                status=404,
            )
        if not found.is_cordoned:
            self.tape.note(f"kubernetes.cordon {name}")
            self.put(replace(found, is_cordoned=True))

    def pods(self, access: Access, node: str) -> tuple[Pod, ...]:
        """Return the pods of a node."""
        self._answer(access, f"pods {node}")
        return tuple(self.pods_of.get(node, {}).values())

    def evict(self, access: Access, pod: Pod) -> bool:
        """Ask for a pod to end."""
        self._answer(access, f"evict {pod.name}")
        pods = next((pods for pods in self.pods_of.values() if pod.name in pods), {})
        found = pods.get(pod.name)
        if found is None:
            return False
        if found.uid != pod.uid:
            raise _conflict(f"POST {pod}/eviction", "the UID in the precondition does not match")
        if pod.name in self.guarded:
            raise KubernetesUnavailable(
                f"Kubernetes POST {pod}/eviction: status 429: Cannot evict pod as it would violate"
                " the pod's disruption budget.",
                status=429,
            )
        self.tape.note(f"kubernetes.evict {pod.name}")
        if pod.name in self.lingering:
            pods[pod.name] = replace(found, is_going=True)
        else:
            del pods[pod.name]
        return True

    def lease(self, access: Access, namespace: str, name: str) -> Lease | None:
        """Return a lease, or None."""
        self._answer(access, f"lease {name}")
        return self.leases.get(name)

    def put_lease(self, access: Access, lease: Lease) -> Lease:
        """Make or change a lease."""
        self._answer(access, f"put lease {lease.name}")
        found = self.leases.get(lease.name)
        if (found.resource_version if found else "") != lease.resource_version:
            raise _conflict(f"PUT {lease.name}", "the object has been modified")
        version = str(int(lease.resource_version or "0") + 1)
        uid = lease.uid or f"uid-of-{lease.name}"
        self.leases[lease.name] = replace(lease, uid=uid, resource_version=version)
        self.tape.note(f"kubernetes.lease {lease.holder}")
        return self.leases[lease.name]

    def delete_lease(self, access: Access, lease: Lease) -> bool:
        """Delete a lease that is just as it was read."""
        self._answer(access, f"delete lease {lease.name}")
        found = self.leases.get(lease.name)
        if found is None:
            return False
        if found.resource_version != lease.resource_version:
            raise _conflict(f"DELETE {lease.name}", "Precondition failed")
        self.tape.note("kubernetes.lease released")
        del self.leases[lease.name]
        return True

    def etcd_snapshots(self, access: Access) -> tuple[EtcdSnapshot, ...]:
        """Return the snapshots."""
        self._answer(access, "snapshots")
        return tuple(self.snapshots)

    def _answer(self, access: Access, question: str) -> None:
        assert access.server.startswith("https://"), "the API server speaks TLS"
        host = access.server.removeprefix("https://").rpartition(":")[0]
        self.asked.append(question)
        self.hosts.append(host)
        self.answered(access)
        if self._is_down is not None:
            raise self._is_down
        if host in self.unreachable:
            raise KubernetesUnavailable(f"Kubernetes: {access.server}: Connection refused")
        if question.partition(" ")[0] in self.forbidden:
            raise KubernetesRefused(f"Kubernetes {question}: status 403: forbidden", status=403)
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure


def _conflict(what: str, why: str) -> KubernetesConflict:
    return KubernetesConflict(f"Kubernetes {what}: status 409: {why}", status=409)
