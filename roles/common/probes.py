"""Looks at the cluster that several roles share, as values; what is not there yet is a result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath

from appliance.errors import KubernetesError
from appliance.secret import Secret
from appliance.system import System
from appliance.system.kubernetes import Access, Node
from appliance.system.supervisor import Admission, Answer
from roles.common.endpoints import SUPERVISOR_PORT

_RKE2 = PurePosixPath("/var/lib/rancher/rke2")
_SERVER = "https://127.0.0.1:6443"

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
    """

    access: Access
    times: int = 3
    apart_s: float = 0.5

    def look(self, system: System) -> ApiSeen:
        """Ask until it is not ready, or was so often enough."""
        for number in range(self.times):
            if number:
                system.clock.sleep(self.apart_s)
            try:
                health = system.kubernetes.health(self.access)
            except KubernetesError as error:
                return ApiSeen(is_steady=False, reason=str(error))
            if not health.is_ok:
                return ApiSeen(False, f"the API server is not ready: {', '.join(health.failing)}")
        return ApiSeen(is_steady=True)


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


class Entry(Enum):
    """What would become of a node that joins with a token."""

    OPEN = "the token is accepted"
    NOT_YET = "it can not be told yet"
    WRONG_TOKEN = "the server does not accept the token"  # noqa: S105  # words, no token
    WRONG_CLUSTER = "the token is of another cluster"


@dataclass(frozen=True)
class EntrySeen:
    """What a server says to a token, in words where it does not accept it."""

    entry: Entry
    reason: str = ""


@dataclass(frozen=True)
class TokenOpens:
    """Whether a token would be accepted, asked before RKE2 starts and never exits over it.

    Attributes:
        user: `server` or `node`: as what the node is to join.
        digest: What the token pins the cluster's certificates by; empty for a token that pins
            none, with which whoever answers is trusted.
        password: The last part of the token.
    """

    host: str
    user: str
    digest: str
    password: Secret
    port: int = SUPERVISOR_PORT

    def look(self, system: System) -> EntrySeen:
        """Ask once; the password is sent only to a server of the cluster it belongs to."""
        supervisor = system.supervisor
        try:
            authority = supervisor.authority(self.host, self.port)
            if self.digest not in ("", authority.digest):
                return EntrySeen(
                    Entry.WRONG_CLUSTER,
                    f"the token pins the CA {self.digest[:12]}..., and {self.host}:{self.port}"
                    f" has {authority.digest[:12]}...",
                )
            admission = supervisor.admission(
                self.host, self.port, authority, self.user, self.password
            )
        except KubernetesError as error:
            return EntrySeen(Entry.NOT_YET, str(error))
        if admission is Admission.ADMITTED:
            return EntrySeen(Entry.OPEN)
        if admission is Admission.NOT_YET:
            return EntrySeen(Entry.NOT_YET, f"{self.host}:{self.port} is not ready to tell")
        return EntrySeen(
            Entry.WRONG_TOKEN, f"{self.host}:{self.port} does not accept it: {admission.value}"
        )
