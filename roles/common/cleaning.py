"""Deletes the nodes whose VMs are gone: looks at cluster and OneGate, decides, deletes, tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.errors import (
    KubernetesConflict,
    KubernetesError,
    KubernetesUnavailable,
    OneGateError,
    OneGateUnavailable,
)
from appliance.logs import Logger
from appliance.role import TaskLine, TaskResult
from appliance.system import System
from appliance.system.kubernetes import Access, Node
from appliance.system.onegate import Service
from appliance.waiting import Deadline, retry
from roles.common import cleaner
from roles.common.cleaner import Cleaner, Finding, Look, Verdict
from roles.common.etcdmembers import is_server

KEPT, DELETED, TO_DELETE, FAILED = "kept", "deleted", "to delete", "failed"
# An extended answer costs the server 10-15 ms a VM: it is left alone for several times as long.
_GENTLE = 3.0
_ONEGATE_TIMEOUT_S = 60.0
_HURRIED_ONEGATE_TIMEOUT_S = 5.0
LONGEST_ONEGATE_ANSWER_S = 8.0
"""What a shutdown waits for one answer of OneGate."""
_NODE_ROLES = ("master", "worker", "storage")
_NOT_HERE = "clean works on a master that serves: kubectl get nodes shows which do"


@dataclass(frozen=True)
class Cleaning:
    """The task: one pass over the nodes, on a master that serves.

    Attributes:
        access: This master's own API server.
        node: The name of its own node.
        vm_id: Its own VM.
        service_id: Its own service; None where it is not known.
        only_servers: Whether others than servers are left alone.
        is_hurried: Whether there is little time: OneGate is not waited for long, nor spared, and
            nodes are not long left alone.
        ask_first: Asked before each deletion; says what forbids it by now, or nothing.
    """

    system: System
    access: Access
    node: str
    vm_id: int | None
    service_id: int | None
    log: Logger
    only_servers: bool = False
    is_hurried: bool = False
    ask_first: Callable[[], str] = lambda: ""

    def run(self, *, dry_run: bool) -> TaskResult:
        """Delete what is dead for good, or tell what would be deleted; see `Task.run`.

        Raises:
            KubernetesUnavailable: This master does not serve.
        """
        self._ensure_serving()
        before = self._nodes()
        # A dry run tells nobody anything.
        mark = "" if dry_run else f"{self.system.clock.now() * 1e6:.0f}"
        looks = self._look_around(before, mark)
        # Read last, for the deletion holds only for nodes that are still as they were then.
        nodes = self._nodes()
        us = self._us(mark)
        lines = [
            self._carry_out(finding, dry_run=dry_run)
            for finding in cleaner.decide(nodes, looks, us, before)
        ]
        trouble = cleaner.trouble_with_onegate(looks, us) if looks else ""
        troubles = [trouble] if trouble else []
        troubles += [f"{one.subject}: {one.reason}" for one in lines if one.verdict == FAILED]
        return TaskResult(tuple(lines), "; ".join(troubles))

    def _us(self, mark: str = "") -> Cleaner:
        now_s = self.system.clock.now()
        grace_s = cleaner.HURRIED_GRACE_S if self.is_hurried else cleaner.GRACE_S
        return Cleaner(self.node, self.vm_id, self.service_id, now_s, mark, grace_s)

    def _ensure_serving(self) -> None:
        try:
            health = self.system.kubernetes.health(self.access)
        except KubernetesError as error:
            raise KubernetesUnavailable(
                f"this master does not serve: {error}", hint=_NOT_HERE
            ) from error
        if not health.is_ok:
            failing = ", ".join(health.failing)
            raise KubernetesUnavailable(
                f"this master does not serve: its API server is not ready: {failing}",
                hint=_NOT_HERE,
            )

    def _nodes(self) -> tuple[Node, ...]:
        nodes = self.system.kubernetes.nodes(self.access)
        return tuple(node for node in nodes if is_server(node) or not self.only_servers)

    def _look_around(self, nodes: Sequence[Node], mark: str) -> tuple[Look, ...]:
        """Look at OneGate where that matters, and again where a node is to be deleted then."""
        if not cleaner.needs_onegate(nodes, self._us()):
            return ()
        first = self._look()
        if not cleaner.has_suspects(nodes, first, self._us()):
            return (first,)
        took_s = 0.0 if self.is_hurried else first.answered_s - first.asked_s
        self.system.clock.sleep(max(cleaner.APART_S, _GENTLE * took_s))
        return (first, self._look(mark))

    def _look(self, mark: str = "") -> Look:
        """Ask which VMs there are.

        Args:
            mark: What is published before.
        """
        clock, onegate = self.system.clock, self.system.onegate
        asked_s = clock.monotonic()

        def ask() -> Service:
            nonlocal asked_s
            if onegate is None:
                raise OneGateUnavailable("the context names no OneGate, or holds no token")
            if mark:
                onegate.update({cleaner.MARK_KEY: mark})
            asked_s = clock.monotonic()
            return onegate.service(_NODE_ROLES)

        usual_s = _HURRIED_ONEGATE_TIMEOUT_S if self.is_hurried else _ONEGATE_TIMEOUT_S
        deadline = Deadline.after(clock, usual_s if onegate else 0)
        if self.access.until_s is not None:
            answers_s = (2 if mark else 1) * LONGEST_ONEGATE_ANSWER_S
            last = Deadline(clock, self.access.until_s - answers_s)
            if not last.remaining_s():
                return Look(None, "no time is left to ask it", asked_s, asked_s)
            deadline = last.share(deadline.remaining_s())
        try:
            service = retry("which VMs there are", ask, deadline, log=self.log)
        except OneGateError as error:
            return Look(None, str(error), asked_s, clock.monotonic())
        return Look(service, "", asked_s, clock.monotonic())

    def _carry_out(self, finding: Finding, *, dry_run: bool) -> TaskLine:
        name = finding.node.name
        if finding.verdict is Verdict.KEEP:
            return TaskLine(name, KEPT, finding.reason, finding.hint, finding.node.is_ready)
        if dry_run:
            return TaskLine(name, TO_DELETE, finding.reason)
        try:
            forbidden = self.ask_first()
            if forbidden:
                return TaskLine(name, KEPT, forbidden)
            was_there = self.system.kubernetes.delete_node(self.access, finding.node)
        except KubernetesConflict:
            changed = "changed while it was looked at, and may live; look again"
            self.log.warning("node.kept", node=name, reason=changed)
            return TaskLine(name, KEPT, changed)
        except KubernetesError as error:
            self.log.error("node.not_deleted", node=name, reason=str(error))
            return TaskLine(name, FAILED, str(error))
        if was_there:
            self.log.info("node.deleted", node=name, reason=finding.reason)
        return TaskLine(name, DELETED, finding.reason)
