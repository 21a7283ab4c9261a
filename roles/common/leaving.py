"""What a node does when OneFlow removes its VM: it leaves nothing behind in the cluster.

It takes its place behind the balancers back, its pods go to other nodes, and it is taken out of the
cluster, step by step, each with a share of the time a shutdown has. What can not be done in that is
told, and is the cleaner's, once the VM is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from appliance.errors import KubernetesError, NotReady, OneGateError
from appliance.logs import Logger
from appliance.report import CONFIGURING, WAITING, Reporter
from appliance.role import TaskLine, TaskResult
from appliance.system import System
from appliance.system.onegate import OneGate, Service, Vm
from appliance.waiting import Deadline, retry, wait_until
from roles.common.departure import Departure
from roles.common.drain import Drain, pods_to_move, shown
from roles.common.election import MASTER_ROLE
from roles.common.registration import withdrawn
from roles.common.removal import Going, Gone, Hold, Removal

# The stop job is given 110 s, see oneke-leave.service: all is done or given up in the whole time,
# and after it only the turn is given back and the last word told. Pods may go while gateways
# notice; what they do not need is the removal's. Source: OpenNebula's KVM driver gives a shutdown
# 180 s before it destroys the VM (SHUTDOWN_TIMEOUT in kvmrc), older ones 300 s, and 120 s where
# nothing is set.
WHOLE_S = 90.0
ASKING_S = 10.0
DRAINING_S = 40.0
REMOVAL_S = 55.0
# With less left of a share OneGate, which may be slow, is not told of progress.
_TELLING_PODS_S = 10.0
_TELLING_REMOVAL_S = 35.0
# Gateways look at OneGate every 30 s, as long as they do not know that anything changes; those that
# are told to look less often find out by HAProxy's checks.
NOTICED_S = 32.0

# Source: LCM_STATE of a VM that is shut down for good; a reboot from inside shows none.
_REMOVED = 12
# Source: states of a OneFlow service that goes as a whole: undeploying, failed in that, and its
# networks undeploying.
_UNDEPLOYING = frozenset({3, 6, 12})
_EVERY_S = 0.5

BALANCERS, PODS, NODE = "balancers", "pods", "node"
KEPT, WITHDRAWN, MOVED, LEFT, REMOVED = "kept", "withdrawn", "moved", "left", "removed"
# Of a node: deleted, and not seen to be gone; and gone before anything was done.
DELETED, GONE = "deleted", "gone"
_UNDONE = (KEPT, LEFT, DELETED)
TO_WITHDRAW, TO_MOVE, TO_REMOVE = "to withdraw", "to move", "to remove"


@dataclass(frozen=True)
class Leaving:
    """The task: run by a stop job at every shutdown, it works only where the VM is removed.

    It may be cut anywhere and begun again: every step finds out what is left to do.

    Attributes:
        registration: What the node published to stand behind balancers.
        departure: How it is taken out of the cluster; None for who is in none.
        deadline: When all of it has to be over; also of another run of it that is on, such as one
            by hand as the VM is shut down.
    """

    system: System
    registration: Mapping[str, str]
    departure: Departure | None
    reporter: Reporter
    log: Logger
    deadline: Deadline

    def run(self, *, dry_run: bool) -> TaskResult:
        """Leave, or tell what leaving would do; see `Task.run`.

        Raises:
            OneGateError: OneGate did not answer in the little time a shutdown has.
        """
        onegate = self.system.onegate
        if onegate is None:
            return _only(BALANCERS, KEPT, "the context names no OneGate to tell")
        whole = self.deadline
        deadline = whole.share(ASKING_S)
        own = retry("asking whether this VM is removed", onegate.own_vm, deadline, log=self.log)
        if own.lcm_state != _REMOVED:
            said = f"this VM is not being removed (LCM_STATE {own.lcm_state})"
            return _only(BALANCERS, KEPT, said)
        values = self._values_to_withdraw(own)
        refusal = "" if dry_run else self._withdraw(onegate, values, deadline)
        noticed = whole.share(NOTICED_S if self._stood_behind_one(own) else 0)
        balancers = self._about_balancers(refusal, dry_run=dry_run)
        lines = [
            balancers,
            *self._leave_cluster(onegate, whole, noticed, balancers, dry_run=dry_run),
        ]
        undone = [f"{line.subject}: {line.reason}" for line in lines if _is_undone(line)]
        return TaskResult(tuple(lines), "; ".join(undone))

    def _stood_behind_one(self, own: Vm) -> bool:
        """Say whether gateways may know it: a run before this one may just have withdrawn it."""
        return any(own.text(key) for key in withdrawn(self.registration))

    def _values_to_withdraw(self, own: Vm) -> dict[str, str]:
        return {
            key: value
            for key, value in withdrawn(self.registration).items()
            if (own.text(key) or value) != value
        }

    def _withdraw(self, onegate: OneGate, values: Mapping[str, str], deadline: Deadline) -> str:
        """Take its place behind balancers back; say why it can not, for it goes all the same."""
        if not values:
            return ""
        try:
            retry("withdrawing", lambda: onegate.update(values), deadline, log=self.log)
        except OneGateError as error:
            return f"gateways could not be told: {error}"
        return ""

    def _about_balancers(self, refusal: str, *, dry_run: bool) -> TaskLine:
        if refusal:
            return TaskLine(
                BALANCERS, KEPT, refusal, "gateways leave it out once it does not answer"
            )
        drained = "gateways would drain it" if dry_run else "gateways drain it now"
        told = drained if self.registration else "it stands behind none"
        verdict = TO_WITHDRAW if dry_run else WITHDRAWN
        return TaskLine(BALANCERS, verdict, f"this VM is being removed; {told}")

    def _leave_cluster(
        self,
        onegate: OneGate,
        whole: Deadline,
        noticed: Deadline,
        balancers: TaskLine,
        *,
        dry_run: bool,
    ) -> Iterator[TaskLine]:
        departure = self.departure
        if departure is None:
            return
        service = _service(onegate)
        if service and service.state in _UNDEPLOYING:
            said = "the whole service is taken down, and its cluster with it"
            yield TaskLine(NODE, "forgotten", said)
            return
        if service:
            departure.learn(service)
        if dry_run:
            yield from self._preview(departure)
            return
        for line in self._steps(departure, whole, noticed, balancers):
            self.log.info(
                "leaving.step", subject=line.subject, verdict=line.verdict, reason=line.reason
            )
            yield line

    # ---- the steps

    def _steps(
        self, departure: Departure, whole: Deadline, noticed: Deadline, balancers: TaskLine
    ) -> Iterator[TaskLine]:
        pods = self._drain(departure, whole.share(DRAINING_S))
        yield pods
        if noticed.remaining_s():
            self._tell(WAITING, "gateways notice that this node goes", noticed, _TELLING_PODS_S)
            self.system.clock.sleep(noticed.remaining_s())
        node = self._remove(departure, whole.share(REMOVAL_S))
        yield node
        self._tell_end(node, pods, balancers)

    def _tell_end(self, node: TaskLine, *others: TaskLine) -> None:
        undone = "".join(f"; {one.reason}" for one in others if _is_undone(one))
        if node.verdict == REMOVED:
            self.reporter.progress(CONFIGURING, f"left the cluster{undone}")
            return
        stays = ", and its node stays in the cluster" if node.verdict == KEPT else ""
        self.reporter.failed(f"leaves{stays}: {node.reason}{undone}")

    def _drain(self, departure: Departure, deadline: Deadline) -> TaskLine:
        self._tell(CONFIGURING, "pods go to other nodes", deadline, _TELLING_PODS_S)
        access = replace(departure.access, until_s=deadline.at)
        drain = Drain(self.system, access, departure.node, departure.vm_id, self.log)
        try:
            wait_until(
                "pods to go to other nodes",
                lambda: drain.look(deadline),
                deadline,
                every_s=_EVERY_S,
                log=self.log,
                on_reason=lambda said: self._tell(WAITING, said, deadline, _TELLING_PODS_S),
            )
        except NotReady as ended:
            unseen = f"its pods could not be moved: {ended.reason}"
            return TaskLine(PODS, LEFT, drain.tell_left(ended.reason) if drain.left else unseen)
        count = len(drain.moved)
        return TaskLine(PODS, MOVED, f"{count} of them" if count else "there were none to move")

    def _remove(self, departure: Departure, deadline: Deadline) -> TaskLine:
        step = "its node is taken out of the cluster"
        self._tell(CONFIGURING, step, deadline, _TELLING_REMOVAL_S)
        try:
            wait_until(
                "its node to be taken out of the cluster",
                lambda: departure.look(deadline.remaining_s()),
                deadline,
                every_s=_EVERY_S,
                log=self.log,
                on_reason=lambda said: self._tell(WAITING, said, deadline, _TELLING_REMOVAL_S),
            )
        except NotReady as ended:
            if departure.lingers:
                return TaskLine(NODE, DELETED, departure.lingers)
            return TaskLine(NODE, KEPT, ended.reason, departure.hint)
        finally:
            departure.end()
        return TaskLine(NODE, REMOVED, departure.outcome)

    def _tell(self, state: str, step: str, deadline: Deadline, needed_s: float) -> None:
        """Tell how far it is; OneGate only where its answer costs nothing that is needed."""
        is_late = deadline.remaining_s() < needed_s
        self.reporter.progress(state, f"leaving: {step}", only_here=is_late)

    def _preview(self, departure: Departure) -> Iterator[TaskLine]:
        try:
            found = departure.preview()
            if not isinstance(found, Gone):
                pods = pods_to_move(self.system.kubernetes.pods(departure.access, departure.node))
                yield TaskLine(PODS, TO_MOVE, shown(pods) or "there are none to move")
        except KubernetesError as error:
            yield TaskLine(NODE, KEPT, str(error), departure.hint)
            return
        yield _foreseen(departure, found)


def _foreseen(departure: Departure, found: Removal) -> TaskLine:
    """Say what would become of a node, by what was decided of it."""
    if isinstance(found, Gone):
        return TaskLine(NODE, GONE, found.reason or departure.outcome)
    if isinstance(found, Going):
        return TaskLine(NODE, DELETED, f"{departure.node} is deleted already, and not gone yet")
    if isinstance(found, Hold):
        return TaskLine(NODE, KEPT, found.reason, departure.hint)
    return TaskLine(NODE, TO_REMOVE, f"{departure.node} can go")


def begin_leaving(
    system: System,
    registration: Mapping[str, str],
    departure: Departure | None,
    reporter: Reporter,
    log: Logger,
) -> Leaving:
    """Return the task, whose time begins now."""
    deadline = Deadline.after(system.clock, WHOLE_S)
    return Leaving(system, registration, departure, reporter, log, deadline)


def _service(onegate: OneGate) -> Service | None:
    """Return what OneGate tells of the service; asked once, for a shutdown can not wait."""
    try:
        return onegate.service((MASTER_ROLE,))
    except OneGateError:
        return None


def _is_undone(line: TaskLine) -> bool:
    return line.verdict in _UNDONE


def _only(subject: str, verdict: str, reason: str) -> TaskResult:
    return TaskResult((TaskLine(subject, verdict, reason),))
