"""A cluster's API server in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from appliance.errors import KubernetesConflict, KubernetesError, KubernetesUnavailable
from appliance.system.kubernetes import Access, Condition, Health, Node, Taint
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
    )


class FakeKubernetes:
    """The nodes of a cluster, and how well its API server is; it is down until told otherwise.

    Attributes:
        members: Name to node; may be changed, as nodes come and go.
        says: What the API server says of itself.
        held: Names of nodes that something holds: deleted, they stay, and are going.
        asked: What was asked, call by call.
    """

    def __init__(self, nodes: Iterable[Node] = (), *, tape: Tape | None = None) -> None:
        """Begin with some nodes; if there is one, the API server is up."""
        self.tape = tape or Tape()
        self.members = {node.name: node for node in nodes}
        self.says = Health(is_ok=True)
        self.held: set[str] = set()
        self.asked: list[str] = []
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
            raise KubernetesConflict(
                f"Kubernetes DELETE /api/v1/nodes/{node.name}: status 409: Precondition failed",
                status=409,
            )
        self.tape.note(f"kubernetes.delete {node.name}")
        if node.name in self.held:
            self.put(replace(found, is_going=True))
        else:
            del self.members[node.name]
        return True

    def _answer(self, access: Access, question: str) -> None:
        assert access.server.startswith("https://"), "the API server speaks TLS"
        self.asked.append(question)
        if self._is_down is not None:
            raise self._is_down
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
