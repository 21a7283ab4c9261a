"""The service's other VMs, asked of OneGate again and again, at a pace that leaves it time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from appliance.errors import OneGateError
from appliance.system import System
from appliance.system.onegate import Service, Vm

_EVERY_S = 1.0
_LONGEST_S = 15.0
# An extended answer costs the server 10-15 ms a VM: it is left alone for several times as long.
_GENTLE = 3.0
# So that nodes which booted at once do not ask at once for ever.
_JITTER = 0.3


@dataclass(frozen=True)
class Siblings:
    """What OneGate told about the service.

    Attributes:
        service: As told last; None where it was never told in this run.
        own: This VM, from the same answer.
        error: Why the last look failed; empty where it did not.
        quiet_s: VM id to how long nothing that it publishes has changed, as far as this run saw;
            while OneGate did not answer nobody could be seen, nor publish anything.
    """

    service: Service | None = None
    own: Vm | None = None
    error: str = ""
    quiet_s: Mapping[int, float] = field(default_factory=dict)


class _Seen(NamedTuple):
    attributes: Mapping[str, object]
    since: float


class SiblingWatch:
    """Asks for the service, not more often than is good for OneGate."""

    def __init__(
        self,
        system: System,
        vm_id: int | None,
        roles: Iterable[str],
        *,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Ask about these roles, VM by VM where one VM spoils the answer for all."""
        self._system = system
        self._jitter = jitter
        self._vm_id = vm_id
        self._roles = tuple(roles)
        self._last = Siblings()
        self._seen: dict[int, _Seen] = {}
        self._next_look = 0.0
        self._failures = 0
        self._answered_at = 0.0

    def look(self) -> Siblings:
        """Return what is known, asked anew where enough time has passed."""
        clock, onegate = self._system.clock, self._system.onegate
        if onegate is None:
            return Siblings(error="the context names no OneGate, or holds no token")
        started = clock.monotonic()
        if started < self._next_look:
            return self._last
        try:
            service = onegate.service(self._roles)
        except OneGateError as error:
            self._failures += 1
            self._last = Siblings(
                self._last.service, self._last.own, str(error), self._last.quiet_s
            )
            pause = min(_LONGEST_S, _EVERY_S * 2 ** min(self._failures, 4))
        else:
            self._last = self._understand(service)
            self._failures = 0
            self._answered_at = clock.monotonic()
            pause = max(_EVERY_S, _GENTLE * (self._answered_at - started))
        self._next_look = clock.monotonic() + self._jitter(pause, (1 + _JITTER) * pause)
        return self._last

    @property
    def due_in_s(self) -> float:
        """How long it is until the next look is due; 0 where it is."""
        return max(0.0, self._next_look - self._system.clock.monotonic())

    def forget(self) -> None:
        """Look at once when asked next, as after something of our own was published."""
        self._next_look = 0.0

    def _understand(self, service: Service) -> Siblings:
        now = self._system.clock.monotonic()
        blind_s = now - self._answered_at if self._failures else 0.0
        every = {vm.vm_id: vm for role in service.roles for vm in role.vms}
        for vm_id, vm in every.items():
            known = self._seen.get(vm_id)
            if known is None or known.attributes != vm.attributes:
                self._seen[vm_id] = _Seen(vm.attributes, now)
            else:
                self._seen[vm_id] = known._replace(since=known.since + blind_s)
        self._seen = {vm_id: seen for vm_id, seen in self._seen.items() if vm_id in every}
        quiet = {vm_id: now - seen.since for vm_id, seen in self._seen.items()}
        own = None if self._vm_id is None else every.get(self._vm_id)
        return Siblings(service, own, "", quiet)
