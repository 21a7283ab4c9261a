"""The turn to leave: a Lease that one master holds while it is taken out of etcd.

Who looks at the members while another one goes may count wrongly. The Lease is changed only by who
knows it as it is, so that of two that take it at once one does. One that is not renewed for its
time, as seen on the own clock, belongs to a master that was cut off, and is taken over.
"""

from __future__ import annotations

from dataclasses import replace

from appliance.errors import KubernetesConflict
from appliance.system import System
from appliance.system.kubernetes import Access, Lease

NAMESPACE, NAME = "kube-system", "oneke-leaving"
DURATION_S = 30.0
"""Longer than a look for dead masters takes, except where OneGate is very slow."""
_LONGEST_S = 60.0
_TAKEN = "another master takes its turn to leave just now"
_LOST = "its turn to leave passed on while it looked"


class Turn:
    """One master's claim to the turn."""

    def __init__(self, system: System, holder: str) -> None:
        """Claim it for a node."""
        self._system = system
        self._holder = holder
        self._seen = ""
        self._seen_at = 0.0
        self._held: Lease | None = None
        self._is_unsure = False

    def take(self, access: Access) -> str:
        """Take the turn, or keep it.

        Returns:
            Why it can not be had now; empty where it is had.

        Raises:
            KubernetesError: The API server did not do it.
        """
        found = self._system.kubernetes.lease(access, NAMESPACE, NAME)
        if found is not None and not self._may_take(found):
            self._held = None
            return f"{found.holder} leaves the cluster just now, and masters leave one at a time"
        lease = found or Lease(NAMESPACE, NAME, "", 0, None)
        return "" if self._claim(access, lease) else _TAKEN

    def keep(self, access: Access) -> str:
        """Renew the turn that was taken, where nobody else had it since.

        Returns:
            Why it is lost, and what was seen in it may not be so any more; empty where it is kept.

        Raises:
            KubernetesError: The API server did not do it.
        """
        held, found = self._held, self._system.kubernetes.lease(access, NAMESPACE, NAME)
        if held and found and held.resource_version == found.resource_version:
            return "" if self._claim(access, found) else _LOST
        self._held = None
        return _LOST

    def _claim(self, access: Access, lease: Lease) -> bool:
        now_s = self._system.clock.now()
        claim = replace(lease, holder=self._holder, duration_s=DURATION_S, renewed_s=now_s)
        # A claim whose answer does not come may have been heard.
        self._is_unsure = True
        try:
            self._held = self._system.kubernetes.put_lease(access, claim)
        except KubernetesConflict:
            self._held = None
        self._is_unsure = False
        return self._held is not None

    def _may_take(self, lease: Lease) -> bool:
        if lease.holder in ("", self._holder):
            return True
        now = self._system.clock.monotonic()
        if self._seen != lease.resource_version:
            self._seen, self._seen_at = lease.resource_version, now
        duration_s = lease.duration_s if 0 < lease.duration_s <= _LONGEST_S else DURATION_S
        return now - self._seen_at > duration_s

    def release(self, access: Access) -> None:
        """Give the turn to whoever comes next, where it was had.

        Raises:
            KubernetesError: The API server did not do it; the turn ends by itself then.
        """
        held, self._held = self._held, None
        try:
            self._give(access, self._own(access) if self._is_unsure else held)
        except KubernetesConflict:
            # A claim whose answer did not come in time may be heard as late as now.
            self._give(access, self._own(access))

    def _own(self, access: Access) -> Lease | None:
        found = self._system.kubernetes.lease(access, NAMESPACE, NAME)
        return found if found and found.holder == self._holder else None

    def _give(self, access: Access, lease: Lease | None) -> None:
        if lease is not None:
            self._system.kubernetes.delete_lease(access, lease)
