"""How a master is taken out of the cluster: by one that stays, and only where quorum survives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from appliance.errors import KubernetesConflict, KubernetesError, KubernetesUnavailable, OnekeError
from appliance.logs import Logger
from appliance.system import System
from appliance.system.kubernetes import Access, Node
from appliance.system.onegate import Service, Vm
from appliance.waiting import Failed, NotYet, Readiness, Ready
from roles.common.cleaning import Cleaning
from roles.common.departure import CHANGED, LONGEST_ANSWER_S, lingers_of, outcome_of, timed
from roles.common.election import MASTER_KEY, MASTER_ROLE
from roles.common.endpoints import API_PORT, ClusterEndpoint
from roles.common.etcdmembers import is_server
from roles.common.probes import ADMIN
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

WELL_ANSWER_S = 2.0
"""Who is well says so at once; whoever needs longer is not counted on."""
CLEAN_EVERY_S = 10.0
CLEANING_S = 25.0
"""What looking for dead masters may take: two answers of OneGate, and the time between them."""
TELLING_S = 10.0
"""For so long what was seen last tells more than that nobody answers just now."""


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
        self.outcome, self.lingers = outcome_of(node), ""
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
        self._seen: NotYet | None = None
        self._seen_at = 0.0

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
        clock = self._system.clock
        self._until_s = clock.monotonic() + left_s
        try:
            found = self._look(left_s)
        except KubernetesConflict:
            return self._unless_seen(CHANGED)
        except KubernetesError as error:
            self._asked = None
            return self._unless_seen(str(error)) if error.retryable else Failed(str(error))
        if not isinstance(found, NotYet):
            return found
        if not (self._is_cut() and self._seen):
            self._seen, self._seen_at = found, clock.monotonic()
        return self._seen

    def _look(self, left_s: float) -> Readiness:
        if self._asked is None:
            found = self._find_server()
            if not isinstance(found, Access):
                return found
            self._asked = found
        return self._go_on(self._asked, left_s)

    def _unless_seen(self, trouble: str) -> NotYet:
        """Say what keeps it, as seen last; what troubled this look where that was long ago."""
        is_fresh = self._system.clock.monotonic() - self._seen_at < TELLING_S
        return self._seen if self._seen and (is_fresh or self._is_cut()) else NotYet(trouble)

    def _is_cut(self) -> bool:
        """Say whether the time ended as it looked: who is asked then can not answer."""
        return self._system.clock.monotonic() >= self._until_s

    def _go_on(self, access: Access, left_s: float) -> Readiness:
        self._turn_taken_by = access
        access = timed(access, self._until_s)
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
        self.lingers = lingers_of(self.node, "etcd has not let go of its member yet")
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
        found = next(serving, None)
        if found is None:
            raise KubernetesUnavailable("no other master serves")
        return found

    def _nodes(self) -> tuple[Node, ...]:
        """Return the nodes as the first one tells who answers."""
        *doors, last = self._doors
        for door in doors:
            try:
                return self._system.kubernetes.nodes(timed(door, self._until_s))
            except KubernetesError as error:
                self._log.info("leaving.unanswered", reason=str(error))
        return self._system.kubernetes.nodes(timed(last, self._until_s))

    def _add_doors(self, doors: Sequence[Access]) -> None:
        self._doors += [door for door in doors if door not in self._doors]

    def _access_to(self, address: str) -> Access:
        return replace(self.access, server=ClusterEndpoint(address, API_PORT).url)

    def _serves(self, access: Access) -> bool:
        try:
            return self._system.kubernetes.health(timed(access, self._until_s)).is_ok
        except KubernetesError as error:
            self._log.info("leaving.unanswered", reason=str(error))
            return False

    # ---- before and after

    def preview(self) -> Removal:
        """Say whether it could be taken out now; see `Departure.preview`."""
        return self._decide(self._nodes())

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
