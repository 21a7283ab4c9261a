"""A service of the lab one of whose VMs is a whole machine, and how long its boots take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.image.disk import BootDisk
from tests.image.vm import BOOT_S, Nic, Vm
from tests.lab.basics import LabError
from tests.lab.disk import Disk
from tests.lab.lab import Lab
from tests.lab.service import Service, node_name

AGENT = "oneke-agent.service"
_MICROSECONDS = 1e6


@dataclass(frozen=True)
class BootTimes:
    """Seconds from power on (or from the order to reboot) to three moments of a boot."""

    kernel_s: float
    agent_s: float
    ready_s: float

    def __str__(self) -> str:
        """All of it, in words."""
        return (
            f"kernel after {self.kernel_s:.0f} s, agent's start after {self.agent_s:.0f} s, "
            f"READY {self.ready_s - self.agent_s:.0f} s later"
        )


class ImageService:
    """A service whose storage node is a machine of its own; the other nodes are those of the lab.

    Attributes:
        service: The service.
        disk: The machine's second disk.
    """

    def __init__(self, lab: Lab, boot_disk: BootDisk, **overrides: object) -> None:
        """Instantiate it; nothing is waited for.

        Args:
            lab: The lab.
            boot_disk: What the machine boots from.
            overrides: Context keys of all roles to set, or to take away where the value is None.
        """
        self._lab = lab
        self._boot_disk = boot_disk
        self.disk = Disk(serial="replicas")
        self.service: Service = lab.service(machines={"storage": self._make}, **overrides)

    def machine(self, timeout_s: float = BOOT_S) -> Vm:
        """Wait until OneFlow had it made and switched on, and return it."""

        def is_on() -> bool:
            nodes = self.service.nodes("storage")
            return bool(nodes) and nodes[0].boots > 0

        self.service.wait_until(is_on, timeout_s, "the storage node to be switched on")
        return self.service.nodes("storage")[0]

    def wait_ready(self, timeout_s: float = BOOT_S) -> BootTimes:
        """Wait until the agent of this boot says that the node is ready; return what it took."""
        vm = self.machine()

        def is_ready() -> bool:
            if (self.published("READY"), self.published("ONEKE_STATE")) != ("YES", "READY"):
                raise LabError(self.service.describe())
            # Of the last boot it may still be published; the unit is active after this boot's run.
            return vm.run(["systemctl", "is-active", "--quiet", AGENT]).returncode == 0

        vm.wait_until(is_ready, timeout_s, "the node to be ready")
        return boot_times(vm)

    def published(self, key: str) -> str:
        """What the machine's agent published under a key of OneGate."""
        [vm] = self.service.vms("storage")
        return str(vm.attributes.get(key, ""))

    def _make(self, machine: Mapping[str, Any]) -> Vm:
        context = machine["context"]
        nics = [
            Nic(network.lower(), context[f"ETH{index}_MAC"])
            for index, network in enumerate(machine["networks"])
        ]
        vm = Vm(
            node_name(machine["name"]),
            self._boot_disk,
            self._lab.switch,
            nics,
            disks=[self.disk],
            vm_id=int(machine["id"]),
            token=machine["token"],
        )
        vm.set_context(context, machine["token"])
        return vm


def boot_times(vm: Vm) -> BootTimes:
    """What the last boot took, by the guest's own clock since its kernel started."""
    kernel_at = time.time() - float(vm.read("/proc/uptime").split()[0])
    wanted = "ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic"
    told = vm.run(["systemctl", "show", "--property", wanted, AGENT]).stdout
    moments = dict(line.split("=", 1) for line in told.splitlines())
    kernel_s = kernel_at - vm.powered_at
    agent_s, ready_s = (kernel_s + int(moments[key]) / _MICROSECONDS for key in wanted.split(","))
    return BootTimes(kernel_s, agent_s, ready_s)
