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
DURATION_S = 20.0
_LONGEST_S = 60.0


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
        kubernetes, clock = self._system.kubernetes, self._system.clock
        found = kubernetes.lease(access, NAMESPACE, NAME)
        if found is not None and not self._may_take(found):
            self._held = None
            return f"{found.holder} leaves the cluster just now, and masters leave one at a time"
        lease = found or Lease(NAMESPACE, NAME, "", 0, None)
        claim = replace(lease, holder=self._holder, duration_s=DURATION_S, renewed_s=clock.now())
        # A claim whose answer does not come may have been heard.
        self._is_unsure = True
        try:
            self._held = kubernetes.put_lease(access, claim)
            self._is_unsure = False
        except KubernetesConflict:
            self._held, self._is_unsure = None, False
            return "another master takes its turn to leave just now"
        return ""

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
        kubernetes = self._system.kubernetes
        if self._is_unsure:
            found = kubernetes.lease(access, NAMESPACE, NAME)
            held = found if found and found.holder == self._holder else None
        if held is not None:
            kubernetes.delete_lease(access, held)
