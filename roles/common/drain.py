"""Moves the pods of a node that leaves to other nodes, as far as their budgets let them go.

What `kubectl drain` does, with no more than a node's own rights: it may evict the pods it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from appliance.errors import KubernetesConflict, KubernetesError, KubernetesRefused
from appliance.logs import Logger
from appliance.system import System
from appliance.system.kubernetes import Access, Pod
from appliance.waiting import Deadline, Failed, NotYet, Readiness, Ready
from roles.common.cleaner import taken_by

SILENT_S = 15.0
"""An API server that says nothing for so long is not waited for any longer."""

_STAYING = frozenset({"DaemonSet", "Node"})
_ENDED = frozenset({"Succeeded", "Failed"})
_HELD_BACK = 429
_BUDGET = "a budget for disruptions does not let go of"
_MOST_SHOWN = 5


def pods_to_move(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    """Return the pods that are to be gone before their node is.

    What runs on every node belongs to the node, a mirror of what a kubelet runs by itself can not
    be moved, and what has ended is not moved either.
    """
    return tuple(
        pod
        for pod in pods
        if not (pod.is_mirror or pod.controller in _STAYING or pod.phase in _ENDED)
    )


class Silence:
    """How long somebody has not answered."""

    def __init__(self, system: System) -> None:
        """Nobody was asked yet."""
        self._clock = system.clock
        self._since: float | None = None

    def end(self) -> None:
        """Note an answer."""
        self._since = None

    def lasts(self, error: KubernetesError) -> Readiness:
        """Note that there was none, and say whether waiting is of use."""
        now = self._clock.monotonic()
        self._since = now if self._since is None else self._since
        is_over = not error.retryable or now - self._since >= SILENT_S
        return Failed(str(error)) if is_over else NotYet(str(error))


class Drain:
    """Evicts until no pod is left; to be looked at again and again.

    Attributes:
        moved: The pods that were asked to end.
        left: The pods that were still there at the last look.
        held_back: The pods that were not let go when they were asked last, by their names, and why;
            nothing where a budget for disruptions is why.
    """

    def __init__(
        self, system: System, access: Access, node: str, vm_id: int | None, log: Logger
    ) -> None:
        """Drain the node of one VM, and leave it alone where it is another's."""
        self._system = system
        self._access = access
        self._node = node
        self._vm_id = vm_id
        self._log = log
        self._silence = Silence(system)
        self._is_cordoned = False
        self.moved: set[str] = set()
        self.left: tuple[Pod, ...] = ()
        self.held_back: dict[str, str] = {}

    def look(self, deadline: Deadline) -> Readiness:
        """Evict what is still there, and say whether all is gone."""
        try:
            self._evict_all(deadline)
        except KubernetesRefused as refused:
            return Ready() if refused.status == 404 else Failed(str(refused))
        except KubernetesError as error:
            return self._silence.lasts(error)
        self._silence.end()
        if not self.left:
            return Ready()
        return NotYet(self._why_held_back() or "its pods are ending")

    def _why_held_back(self) -> str:
        guarded = [pod for pod, reason in self.held_back.items() if not reason]
        parts = [f"{_BUDGET} {shown(guarded)}"] if guarded else []
        # Of those that can not be evicted at all the first one's reason has to do.
        refused = [pod for pod, reason in self.held_back.items() if reason]
        why = [f"{shown(refused)} held back, because {self.held_back[pod]}" for pod in refused[:1]]
        return "; ".join([*parts, *why])

    def tell_left(self, ended: str) -> str:
        """Say which pods are left, what keeps them, and what becomes of them.

        Args:
            ended: Why no more could be done: what keeps those that nobody could ask to end.
        """
        ending = [pod for pod in self.left if pod.is_going or str(pod) in self.moved]
        kept: dict[str, list[Pod]] = {}
        for pod in self.left:
            if pod not in ending:
                kept.setdefault(self.held_back.get(str(pod), ended), []).append(pod)
        parts = [
            f"{shown(pods)} could not be moved: {why or f'{_BUDGET} {_them(pods)}'}"
            for why, pods in kept.items()
        ]
        parts += [f"{shown(ending)} {'is' if len(ending) == 1 else 'are'} ending"] if ending else []
        end = "it ends" if len(self.left) == 1 else "they end"
        return "; ".join([*parts, f"{end} with the VM"])

    def _evict_all(self, deadline: Deadline) -> None:
        kubernetes = self._system.kubernetes
        if not self._is_cordoned:
            found = kubernetes.node(self._access, self._node)
            if found is None or taken_by(found, self._vm_id):
                return
            kubernetes.cordon(self._access, self._node)
            self._is_cordoned = True
        self.left = pods_to_move(kubernetes.pods(self._access, self._node))
        waiting = [pod for pod in self.left if not pod.is_going]
        names = {str(pod) for pod in waiting}
        self.held_back = {pod: why for pod, why in self.held_back.items() if pod in names}
        for pod in waiting:
            if deadline.remaining_s():
                self._evict(pod)
            else:
                self.held_back.setdefault(str(pod), "no time is left to ask")
        if waiting:
            self.left = pods_to_move(kubernetes.pods(self._access, self._node))

    def _evict(self, pod: Pod) -> None:
        """Ask one pod to end, and note where it is not let go: others may be.

        Raises:
            KubernetesError: Nobody answered.
        """
        name = str(pod)
        try:
            self._system.kubernetes.evict(self._access, pod)
        except KubernetesConflict:
            self.held_back.pop(name, None)  # another one bears its name by now
        except KubernetesError as error:
            if error.status is None:
                raise
            self.held_back[name] = "" if error.status == _HELD_BACK else str(error)
        else:
            self.held_back.pop(name, None)
            self.moved.add(name)
            self._log.info("pod.evicted", pod=name)


def _them(pods: Sequence[Pod]) -> str:
    return "it" if len(pods) == 1 else "them"


def shown(pods: Iterable[Pod | str]) -> str:
    """Name some pods, the first few if there are many."""
    names = [str(pod) for pod in pods]
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return f"{', '.join(names[:_MOST_SHOWN])}{more}"
