"""What a node does when OneFlow removes its VM: it takes its place behind the balancers back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.logs import Logger
from appliance.role import TaskLine, TaskResult
from appliance.system import System
from appliance.waiting import Deadline, retry
from roles.common.registration import withdrawn

# Source: LCM_STATE of a VM that is shut down for good; a reboot from inside shows none.
_REMOVED = 12
_TIMEOUT_S = 10.0
_SUBJECT = "balancers"


@dataclass(frozen=True)
class Leaving:
    """The task: run by a stop job at every shutdown, it works only where the VM is removed.

    Attributes:
        registration: What the node published to stand behind balancers.
    """

    system: System
    registration: Mapping[str, str]
    log: Logger

    def run(self, *, dry_run: bool) -> TaskResult:
        """Withdraw the registration, so that gateways drain this node; see `Task.run`.

        Raises:
            OneGateError: OneGate did not answer in the little time a shutdown has.
        """
        onegate = self.system.onegate
        if onegate is None:
            return _told("kept", "the context names no OneGate to tell")
        deadline = Deadline.after(self.system.clock, _TIMEOUT_S)
        own = retry("asking whether this VM is removed", onegate.own_vm, deadline, log=self.log)
        if own.lcm_state != _REMOVED:
            return _told("kept", f"this VM is not being removed (LCM_STATE {own.lcm_state})")
        values = {
            key: value
            for key, value in withdrawn(self.registration).items()
            if (own.text(key) or value) != value
        }
        if values and not dry_run:
            retry("withdrawing", lambda: onegate.update(values), deadline, log=self.log)
        return _told("withdrawn", "this VM is being removed; gateways drain it now")


def _told(verdict: str, reason: str) -> TaskResult:
    return TaskResult((TaskLine(_SUBJECT, verdict, reason),))
