"""Looks at the cluster that several roles share, as values; what is not there yet is a result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from appliance.errors import KubernetesError
from appliance.system import System
from appliance.system.kubernetes import Access, Health, Node
from appliance.system.supervisor import Answer
from roles.common.endpoints import SUPERVISOR_PORT

_RKE2 = PurePosixPath("/var/lib/rancher/rke2")
_SERVER = "https://127.0.0.1:6443"
_ETCD = "etcd"
"""How the names of the API server's own checks of etcd begin."""
_MAJORITY = "etcd answers only while a majority of the masters runs: bring back those that are down"

ADMIN = Access(
    _SERVER,
    ca=_RKE2 / "server/tls/server-ca.crt",
    certificate=_RKE2 / "server/tls/client-admin.crt",
    key=_RKE2 / "server/tls/client-admin.key",
)
"""A master asks its own API server, as administrator."""

KUBELET = Access(
    _SERVER,
    ca=_RKE2 / "agent/server-ca.crt",
    certificate=_RKE2 / "agent/client-kubelet.crt",
    key=_RKE2 / "agent/client-kubelet.key",
)
"""A worker asks through RKE2's own balancer, as its kubelet."""


@dataclass(frozen=True)
class NodeSeen:
    """A node, or why there is none to be seen.

    Attributes:
        reason: Empty where there is a node.
        is_answered: Whether the API server answered, be it that there is no such node.
    """

    node: Node | None
    reason: str = ""
    is_answered: bool = True


@dataclass(frozen=True)
class OwnNode:
    """The node of this machine as the API server sees it."""

    access: Access
    name: str

    def look(self, system: System) -> NodeSeen:
        """Look once."""
        try:
            node = system.kubernetes.node(self.access, self.name)
        except KubernetesError as error:
            return NodeSeen(None, str(error), is_answered=False)
        if node is None:
            return NodeSeen(None, f"the cluster knows no node {self.name}")
        return NodeSeen(node)


@dataclass(frozen=True)
class ApiSeen:
    """How well an API server is.

    Attributes:
        is_steady: Whether it was ready at every one of some looks in a row.
        reason: Why it is not.
    """

    is_steady: bool
    reason: str = ""


@dataclass(frozen=True)
class ApiHealth:
    """Whether the API server is ready, and stays so.

    It may go back and forth while servers join and etcd chooses its leader.

    Attributes:
        times: How often in a row it is asked.
        apart_s: The pause between.
        unit: What it runs in: nobody is asked before that is up.
    """

    access: Access
    times: int = 3
    apart_s: float = 0.5
    unit: str = ""

    def look(self, system: System) -> ApiSeen:
        """Ask until it is not ready, or was so often enough."""
        if self.unit and not system.units.show(self.unit).is_active:
            return ApiSeen(is_steady=False, reason=f"{self.unit} is not up")
        for number in range(self.times):
            if number:
                system.clock.sleep(self.apart_s)
            try:
                health = system.kubernetes.health(self.access)
            except KubernetesError as error:
                return ApiSeen(is_steady=False, reason=str(error))
            if not health.is_ok:
                return ApiSeen(False, _not_ready(health))
        return ApiSeen(is_steady=True)


def _not_ready(health: Health) -> str:
    said = f"the API server is not ready: {', '.join(health.failing)}"
    if any(check.startswith(_ETCD) for check in health.failing):
        return f"{said}; {_MAJORITY}"
    return said


@dataclass(frozen=True)
class SupervisorSeen:
    """Whether a supervisor serves, in words where it does not."""

    answer: Answer
    reason: str = ""

    @property
    def serves(self) -> bool:
        """Whether it can be joined."""
        return self.answer is Answer.PONG


@dataclass(frozen=True)
class SupervisorAnswers:
    """Whether a server's supervisor answers, there or behind a balancer."""

    host: str
    port: int = SUPERVISOR_PORT

    def look(self, system: System) -> SupervisorSeen:
        """Ask once."""
        ping = system.supervisor.ping(self.host, self.port)
        reasons = {
            Answer.PONG: "",
            Answer.STARTING: f"the supervisor at {self.host}:{self.port} is starting",
            Answer.NONE: f"the supervisor does not answer: {ping.cause}",
        }
        return SupervisorSeen(ping.answer, reasons[ping.answer])
