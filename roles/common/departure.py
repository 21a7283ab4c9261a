"""How a node is taken out of the cluster; workers and storage nodes take themselves out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

from appliance.errors import KubernetesConflict, KubernetesError
from appliance.system import System
from appliance.system.kubernetes import Access
from appliance.system.onegate import Service
from appliance.waiting import Failed, NotYet, Readiness, Ready
from roles.common.cleaner import taken_by
from roles.common.drain import Silence
from roles.common.probes import KUBELET
from roles.common.removal import Going, Gone, Removal, Remove

LONGEST_ANSWER_S = 5.0
"""A shutdown has little time, and none for an API server that takes longer."""
CHANGED = "its node changed while it was looked at"
_FORBIDDEN = 403


class Departure(Protocol):
    """Takes a node out of the cluster; to be looked at again and again.

    Attributes:
        node: The name of the node.
        access: Whom it asks about its own pods.
        hint: What a person can do where it stays in.
        vm_id: The VM whose node it is; None where it is not known. A node of that name that names
            another VM is left alone.
        outcome: What is told when it is out.
        lingers: What is told where it was deleted, which can not be taken back, and was not seen to
            be gone; empty before that.
    """

    node: str
    access: Access
    hint: str
    vm_id: int | None
    outcome: str
    lingers: str

    def learn(self, service: Service) -> None:
        """Note what others of the service publish of themselves."""

    def look(self, left_s: float = math.inf) -> Readiness:
        """Do what can be done in the time that is left, and say whether it is out."""

    def preview(self) -> Removal:
        """Say what would become of its node now; change nothing.

        Raises:
            KubernetesError: Nobody could be asked.
        """

    def end(self) -> None:
        """Let go of what others wait for."""


class AgentDeparture:
    """A worker or storage node deletes its own Node object, which masters allow it.

    Source: NodeRestriction lets a kubelet touch no other node than its own.
    """

    access = replace(KUBELET, longest_s=LONGEST_ANSWER_S)
    hint = "oneke-agent clean on a master deletes it when its VM is gone"

    def __init__(self, system: System, node: str, vm_id: int | None) -> None:
        """Prepare to take the node of a VM out."""
        self.node, self.vm_id = node, vm_id
        self.outcome, self.lingers = outcome_of(node), ""
        self._kubernetes, self._clock = system.kubernetes, system.clock
        self._silence = Silence(system)

    def learn(self, service: Service) -> None:
        """Nothing of that is needed: its API is reached through any master."""

    def look(self, left_s: float = math.inf) -> Readiness:
        """Delete it; see `Departure.look`."""
        try:
            return self._delete(left_s)
        except KubernetesConflict:
            return NotYet(CHANGED)
        except KubernetesError as error:
            if error.status == _FORBIDDEN:
                return Failed("its node may not delete itself; the masters' cleaner does it")
            return self._silence.lasts(error)

    def _delete(self, left_s: float) -> Readiness:
        access = timed(self.access, self._clock.monotonic() + left_s)
        found = self._decide(access)
        self._silence.end()
        if isinstance(found, Gone):
            self.outcome = found.reason or self.outcome
            return Ready()
        if isinstance(found, Remove) and not self._kubernetes.delete_node(access, found.node):
            return Ready()
        self.lingers = lingers_of(self.node, "something holds it still")
        return NotYet("its node is being deleted")

    def _decide(self, access: Access) -> Removal:
        found = self._kubernetes.node(access, self.node)
        taken = taken_by(found, self.vm_id) if found else ""
        if found is None or taken:
            return Gone(taken)
        return Going() if found.is_going else Remove(found)

    def preview(self) -> Removal:
        """Say whose its node is, for nothing keeps it in; see `Departure.preview`."""
        return self._decide(self.access)

    def end(self) -> None:
        """Nobody waits for it."""


def timed(access: Access, until_s: float) -> Access:
    """Return an access that ends by then at the latest; infinity is never."""
    return access if math.isinf(until_s) else replace(access, until_s=until_s)


def outcome_of(node: str) -> str:
    """Say that a node is out."""
    return f"the cluster knows {node} no more"


def lingers_of(node: str, why: str) -> str:
    """Say that a node was deleted and is not gone."""
    return f"its node is deleted; {why}: look with kubectl get node {node} on a master"
