"""How a node is taken out of the cluster: by itself, or for a master by one that stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Protocol

from appliance.errors import KubernetesConflict, KubernetesError, OnekeError
from appliance.logs import Logger
from appliance.system import System
from appliance.system.kubernetes import Access, Node
from appliance.system.onegate import Service, Vm
from appliance.waiting import Failed, NotYet, Readiness, Ready
from roles.common.cleaner import taken_by
from roles.common.cleaning import Cleaning
from roles.common.drain import Silence
from roles.common.election import MASTER_KEY, MASTER_ROLE
from roles.common.endpoints import API_PORT, ClusterEndpoint
from roles.common.etcdmembers import is_server
from roles.common.probes import ADMIN, KUBELET
from roles.common.removal import (
    Gone,
    Hold,
    Removal,
    Remove,
    dead_servers,
    decide_removal,
    members_to_ask,
    servers_to_ask,
)
from roles.common.turn import Turn

LONGEST_ANSWER_S = 5.0
"""A shutdown has little time, and none for an API server that takes longer."""
WELL_ANSWER_S = 2.0
"""Who is well says so at once; whoever needs longer is not counted on."""
CLEAN_EVERY_S = 10.0
CLEANING_S = 25.0
"""What looking for dead masters may take: two answers of OneGate, and the time between them."""
_FORBIDDEN = 403
_CHANGED = "its node changed while it was looked at"


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

    def preview(self) -> Readiness:
        """Say whether it could be taken out now; change nothing.

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
        self.outcome, self.lingers = _outcome(node), ""
        self._kubernetes, self._clock = system.kubernetes, system.clock
        self._silence = Silence(system)

    def learn(self, service: Service) -> None:
        """Nothing of that is needed: its API is reached through any master."""

    def look(self, left_s: float = math.inf) -> Readiness:
        """Delete it; see `Departure.look`."""
        try:
            return self._delete(left_s)
        except KubernetesConflict:
            return NotYet(_CHANGED)
        except KubernetesError as error:
            if error.status == _FORBIDDEN:
                return Failed("its node may not delete itself; the masters' cleaner does it")
            return self._silence.lasts(error)

    def _delete(self, left_s: float) -> Readiness:
        access = _timed(self.access, self._clock.monotonic() + left_s)
        found = self._kubernetes.node(access, self.node)
        self._silence.end()
        taken = taken_by(found, self.vm_id) if found else ""
        self.outcome = taken or self.outcome
        if found is None or taken:
            return Ready()
        if not found.is_going and not self._kubernetes.delete_node(access, found):
            return Ready()
        self.lingers = _lingers(self.node, "something holds it still")
        return NotYet("its node is being deleted")

    def preview(self) -> Readiness:
        """Say that nothing keeps it in; see `Departure.preview`."""
        self._kubernetes.node(self.access, self.node)
        return Ready()

    def end(self) -> None:
        """Nobody waits for it."""


class ServerDeparture:
    """A master is taken out of etcd and the cluster, one at a time, where quorum survives.

    Its own API server ends with its member, and so another one is asked, whose certificate is
    signed by the same CA and holds its own address.
    """

    access = replace(ADMIN, longest_s=LONGEST_ANSWER_S)
    hint = (
        "bring back the masters that are down; when its VM is gone, oneke-agent clean on one that"
        " serves deletes its node"
    )

    def __init__(
        self,
        system: System,
        node: str,
        vm_id: int | None,
        endpoint: ClusterEndpoint | None,
        make_cleaning: Callable[[Access], Cleaning],
        log: Logger,
    ) -> None:
        """Prepare to take a master out.

        Args:
            system: Its machine.
            node: The name of its node.
            vm_id: Its VM.
            endpoint: Where the cluster's API is reached, for where it has none itself any more.
            make_cleaning: Makes the task that deletes dead servers, asking through an access.
            log: Where data goes.
        """
        self.node, self.vm_id = node, vm_id
        self.outcome, self.lingers = _outcome(node), ""
        self._system = system
        self._make_cleaning = make_cleaning
        self._log = log
        self._turn = Turn(system, node)
        elsewhere = [replace(self.access, server=endpoint.url)] if endpoint else []
        self._doors = [self.access, *elsewhere]
        self._asked: Access | None = None
        self._turn_taken_by: Access | None = None
        self._next_clean = 0.0
        self._until_s = math.inf

    def learn(self, service: Service) -> None:
        """Note where other masters say that they serve; see `Departure.learn`."""
        role = service.role(MASTER_ROLE)
        for vm in role.vms if role else ():
            address = _address_of(vm) if vm.vm_id != self.vm_id else None
            if address:
                self._add_doors([self._access_to(address)])

    # ---- a look

    def look(self, left_s: float = math.inf) -> Readiness:
        """Take it out as soon as that is safe; see `Departure.look`."""
        self._until_s = self._system.clock.monotonic() + left_s
        try:
            if self._asked is None:
                found = self._find_server()
                if not isinstance(found, Access):
                    return found
                self._asked = found
            return self._go_on(self._asked, left_s)
        except KubernetesConflict:
            return NotYet(_CHANGED)
        except KubernetesError as error:
            self._asked = None
            return NotYet(str(error)) if error.retryable else Failed(str(error))

    def _go_on(self, access: Access, left_s: float) -> Readiness:
        self._turn_taken_by = access
        access = _timed(access, self._until_s)
        other = self._turn.take(access)
        if other:
            return NotYet(other)
        nodes = self._system.kubernetes.nodes(access)
        found = decide_removal(nodes, self.node, self.vm_id)
        if isinstance(found, Gone):
            return self._readiness_of(found)
        may_clean = left_s >= CLEANING_S and self._system.clock.monotonic() >= self._next_clean
        if may_clean and dead_servers(nodes, self.node):
            self._clean(access)
            # That took its time, in which much may have changed.
            return NotYet("masters that may be dead go first")
        found = self._decide(nodes)
        if isinstance(found, Remove):
            # It took its time to ask the others: another one may have the turn by now.
            lost = self._turn.keep(access)
            if lost:
                return NotYet(lost)
            self._system.kubernetes.delete_node(access, found.node)
        return self._readiness_of(found)

    def _decide(self, nodes: tuple[Node, ...]) -> Removal:
        """Decide; before it is removed, those who are counted on have to answer."""
        found = decide_removal(nodes, self.node, self.vm_id)
        if not isinstance(found, Remove):
            return found
        asked = members_to_ask(nodes, self.node)
        silent = frozenset(node.name for node in asked if not self._is_well(node))
        return decide_removal(nodes, self.node, self.vm_id, silent=silent)

    def _is_well(self, node: Node) -> bool:
        if not node.addresses:
            return False
        return self._serves(replace(self._access_to(node.addresses[0]), longest_s=WELL_ANSWER_S))

    def _clean(self, access: Access) -> None:
        """Delete dead servers, as long as it has its turn."""
        cleaning = replace(self._make_cleaning(access), ask_first=lambda: self._turn.keep(access))
        try:
            for line in cleaning.run(dry_run=False).lines:
                self._log.info("leaving.looked", node=line.subject, reason=line.reason)
        except OnekeError as error:
            self._log.warning("leaving.not_looked", reason=str(error))
        self._next_clean = self._system.clock.monotonic() + CLEAN_EVERY_S

    def _readiness_of(self, removal: Removal) -> Readiness:
        if isinstance(removal, Gone):
            self.outcome = removal.reason or self.outcome
            return Ready()
        if isinstance(removal, Hold):
            return Failed(removal.reason) if removal.is_final else NotYet(removal.reason)
        self.lingers = _lingers(self.node, "etcd has not let go of its member yet")
        return NotYet("etcd lets go of its member")

    # ---- whom to ask

    def _find_server(self) -> Access | Readiness:
        """Find another master that serves; what is to be said where there is none."""
        nodes = self._nodes()
        others = [self._access_to(node.addresses[0]) for node in servers_to_ask(nodes, self.node)]
        self._add_doors(others)
        if not any(is_server(node) and node.name != self.node for node in nodes):
            return self._readiness_of(decide_removal(nodes, self.node, self.vm_id))
        serving = (one for one in others if self._serves(one))
        return next(serving, None) or NotYet("no other master serves")

    def _nodes(self) -> tuple[Node, ...]:
        """Return the nodes as the first one tells who answers."""
        *doors, last = self._doors
        for door in doors:
            try:
                return self._system.kubernetes.nodes(_timed(door, self._until_s))
            except KubernetesError as error:
                self._log.info("leaving.unanswered", reason=str(error))
        return self._system.kubernetes.nodes(_timed(last, self._until_s))

    def _add_doors(self, doors: Sequence[Access]) -> None:
        self._doors += [door for door in doors if door not in self._doors]

    def _access_to(self, address: str) -> Access:
        return replace(self.access, server=ClusterEndpoint(address, API_PORT).url)

    def _serves(self, access: Access) -> bool:
        try:
            return self._system.kubernetes.health(_timed(access, self._until_s)).is_ok
        except KubernetesError as error:
            self._log.info("leaving.unanswered", reason=str(error))
            return False

    # ---- before and after

    def preview(self) -> Readiness:
        """Say whether it could be taken out now; see `Departure.preview`."""
        found = self._decide(self._nodes())
        return Ready() if isinstance(found, Remove) else self._readiness_of(found)

    def end(self) -> None:
        """Give the turn to the next one; see `Departure.end`."""
        if self._turn_taken_by is None:
            return
        try:
            self._turn.release(self._turn_taken_by)
        except KubernetesError as error:
            self._log.warning("leaving.turn_not_given", reason=str(error))


def _address_of(vm: Vm) -> str:
    """Return where a master says that it serves; empty where that is no address."""
    try:
        return str(ip_address(vm.text(MASTER_KEY) or ""))
    except ValueError:
        return ""


def _timed(access: Access, until_s: float) -> Access:
    return access if math.isinf(until_s) else replace(access, until_s=until_s)


def _outcome(node: str) -> str:
    return f"the cluster knows {node} no more"


def _lingers(node: str, why: str) -> str:
    return f"its node is deleted; {why}: look with kubectl get node {node} on a master"
