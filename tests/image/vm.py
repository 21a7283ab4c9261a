"""A whole virtual machine under QEMU, with its cables in the lab's switch.

It does for the lab what a node does, with a kernel, udev, a firmware and a CONTEXT disc of its own.
What it writes goes to a layer over the boot disk that lives in the box. A power cut loses what the
guest had not flushed to its disk, as on a real machine.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from tests.image.disk import BootDisk
from tests.image.monitor import GuestAgent, Monitor
from tests.image.qemu import AGENT, CONSOLE, LAYER, MONITOR, qemu_argv
from tests.lab.basics import CommandFailed, LabError, run, wait_until
from tests.lab.box import STATE
from tests.lab.context import context_text
from tests.lab.disk import Disk
from tests.lab.network import SWITCH, Switch, ip
from tests.lab.node import cable_name

BOOT_S = 600
"""Software emulation on a loaded machine takes minutes for what a processor does in seconds."""

_NICE = -10
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Nic:
    """A NIC: in which network of the lab it is, and its MAC."""

    network: str
    mac: str


def _prefer(pid: int) -> None:
    """Have a process and its session come before others; it must be its session's first.

    Nodes, which mostly wait, hardly notice, and what is emulated does not take many times as long.
    Source: sched(7), the nice value and group scheduling.
    """
    with suppress(PermissionError, FileNotFoundError):
        os.setpriority(os.PRIO_PROCESS, pid, _NICE)
        Path(f"/proc/{pid}/autogroup").write_text(str(_NICE))


class Vm:
    """One machine; made switched off.

    Attributes:
        name: As the lab calls it.
        vm_id: Its id in OpenNebula, or None.
        token: Its OneGate token, or None.
        boots: How often it has been switched on or rebooted.
        powered_at: When it was switched on last, as `time.time()`.
    """

    def __init__(
        self,
        name: str,
        boot_disk: BootDisk,
        switch: Switch,
        nics: Sequence[Nic],
        *,
        disks: Sequence[Disk] = (),
        memory_mib: int = 768,
        vm_id: int | None = None,
        token: str | None = None,
    ) -> None:
        self.name = name
        self.vm_id = vm_id
        self.token = token
        self.boots = 0
        self.powered_at = 0.0
        self._boot_disk = boot_disk
        self._switch = switch
        self._nics = list(nics)
        self._disks = tuple(disks)
        self._memory_mib = memory_mib
        self._folder = STATE / "vms" / name
        self._folder.mkdir(parents=True)
        (self._folder / "qemu.log").touch()
        self._discs = 0
        self._monitor = Monitor(self._folder / MONITOR)
        self._agent = GuestAgent(self._folder / AGENT)
        self._talking = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        layer = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", boot_disk.form]
        run([*layer, "-b", str(boot_disk.image), str(self._folder / LAYER)])

    @property
    def is_closed(self) -> bool:
        """Whether its disk is gone."""
        return not self._folder.exists()

    # --- power ----------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether it is switched on."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 60) -> None:
        """Switch it on; the guest is not waited for.

        Raises:
            LabError: It is on already, or QEMU does not start, with what it said.
        """
        if self.is_running:
            raise LabError(f"{self.name}: already switched on")
        for index in range(len(self._nics)):
            self._lay_cable(index)
        cables = [cable_name(self.name, f"eth{index}") for index in range(len(self._nics))]
        argv = qemu_argv(
            self._folder,
            self._boot_disk,
            disc=self._disc,
            disks=[(str(disk.device), disk.serial or disk.name) for disk in self._disks],
            nics=[(cable, nic.mac) for cable, nic in zip(cables, self._nics, strict=True)],
            memory_mib=self._memory_mib,
        )
        with (self._folder / "qemu.log").open("ab") as said:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _prefer(self._process.pid)
        self.powered_at = time.time()
        self.boots += 1
        self.wait_until(self._is_emulated, timeout_s, "QEMU to run")

    def stop(self, timeout_s: float = BOOT_S) -> None:
        """Press the power button, as OpenNebula does, and wait until it is off.

        The button is pressed anew now and then: nothing hears it while the guest is starting.
        """
        deadline = time.monotonic() + timeout_s
        while self.is_running:
            if time.monotonic() >= deadline:
                raise LabError(
                    f"waited {timeout_s:g} s for {self.name} to be off; {self._console_end()}"
                )
            try:
                self._monitor.execute("system_powerdown")
                self._wait_off(10)
            except (LabError, subprocess.TimeoutExpired):
                continue
        self._take_cables()

    def kill(self, timeout_s: float = 20) -> None:
        """Cut its power: what the guest had not flushed is lost."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._wait_off(timeout_s)
        self._take_cables()

    def reboot(self, timeout_s: float = BOOT_S) -> None:
        """Ask it to reboot and return when it answers again."""
        before = self.read(_BOOT_ID)
        self.powered_at = time.time()
        try:
            self.run(["systemctl", "--no-block", "reboot"])
        except CommandFailed:
            raise
        except LabError:
            pass  # the guest agent was ended before it could answer
        self.wait_until(lambda: self.read(_BOOT_ID) != before, timeout_s, "the next boot")
        self.boots += 1

    def close(self) -> None:
        """Cut its power and forget its disk; a second time nothing happens."""
        self.kill()
        run(["rm", "-rf", str(self._folder)])

    # --- hardware -------------------------------------------------------------------------------

    def set_context(self, values: Mapping[str, str], token: str | None = None) -> None:
        """Put another CONTEXT disc in.

        Args:
            values: What context.sh says. NICs are set up by systemd-networkd, unless it says
                otherwise: they may come up later than the contextualization runs.
            token: Content of token.txt; None for a disc without.
        """
        self._discs += 1
        content = self._folder / "context"
        content.mkdir(exist_ok=True)
        text = context_text({"NETCFG_TYPE": "networkd", **values})
        (content / "context.sh").write_text(text)
        if token is not None:
            (content / "token.txt").write_text(f"{token}\n")
        disc = self._disc
        run(["genisoimage", "-quiet", "-V", "CONTEXT", "-J", "-R", "-o", str(disc), str(content)])
        if self.is_running:
            medium = {"id": "disc", "filename": str(disc), "format": "raw"}
            self._monitor.execute("blockdev-change-medium", force=True, **medium)

    def attach_nic(self, nic: Nic) -> None:
        """Plug a NIC into the running machine."""
        index = len(self._nics)
        self._nics.append(nic)
        cable = self._lay_cable(index)
        network = {"type": "tap", "id": f"net{index}", "ifname": cable, "script": "no"}
        self._monitor.execute("netdev_add", downscript="no", **network)
        device = {"driver": "virtio-net-pci", "netdev": f"net{index}", "mac": nic.mac}
        self._monitor.execute("device_add", id=f"nic{index}", **device)

    # --- inside the guest -----------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = 120,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root.

        Raises:
            CommandFailed: On a status other than 0, with `check`.
            LabError: If the machine is off or does not answer.
        """
        if not self.is_running:
            raise LabError(f"{self.name}: is switched off; `{' '.join(argv)}` was not run")
        limit = ["timeout", "--kill-after=5", f"{timeout_s:g}"]
        with self._talking:
            try:
                done = self._agent.run([*limit, *argv], input, timeout_s + 20)
            except LabError as error:
                raise LabError(f"{self.name}: {error}") from None
        if check and done.status != 0:
            raise CommandFailed(argv, done.status, done.stdout, done.stderr, self.name)
        return subprocess.CompletedProcess(list(argv), done.status, done.stdout, done.stderr)

    def read(self, path: str) -> str:
        """Text of a file of the running machine."""
        return self.run(["cat", path]).stdout

    def exists(self, path: str) -> bool:
        """Whether the running machine has such a file."""
        return self.run(["test", "-e", path], check=False).returncode == 0

    def journal(self, unit: str | None = None) -> str:
        """Messages of a unit, or of all, of this boot; empty if the machine can not be asked."""
        options = ["--output=cat", f"--unit={unit}"] if unit else ["--output=short-precise"]
        try:
            argv = ["journalctl", "--no-pager", "--boot=0", *options]
            return self.run(argv, check=False).stdout
        except LabError:
            return ""

    def console(self) -> str:
        """All that its serial console has shown, over all boots."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    # --- waiting --------------------------------------------------------------------------------

    def wait_until(self, predicate: Callable[[], _T | None], timeout_s: float, what: str) -> _T:
        """Ask `predicate` until it answers something true; see `basics.wait_until`.

        Raises:
            LabError: Also when the machine goes off.
        """
        what = f"{self.name}: {what}"
        answer: _T | Literal["off"] = wait_until(
            lambda: predicate() if self.is_running else "off", timeout_s, what, every_s=0.5
        )
        if answer == "off":
            said = (self._folder / "qemu.log").read_text(errors="replace")
            raise LabError(f"{what}: it went off; {said[-1500:]}{self._console_end()}")
        return answer

    def wait_answering(self, timeout_s: float = BOOT_S) -> None:
        """Wait until commands can be run in it."""
        self.wait_until(lambda: self.run(["true"]).returncode == 0, timeout_s, "its guest agent")

    # --- inside ---------------------------------------------------------------------------------

    @property
    def _console(self) -> Path:
        return self._folder / CONSOLE

    @property
    def _disc(self) -> Path:
        return self._folder / f"context-{self._discs}.iso"

    def _console_end(self) -> str:
        return f"end of the console: {self.console()[-1500:]}"

    def _is_emulated(self) -> bool:
        return bool(self._monitor.execute("query-status")["running"])

    def _wait_off(self, timeout_s: float) -> None:
        if self._process is not None:
            self._process.wait(timeout_s)

    def _lay_cable(self, index: int) -> str:
        cable = cable_name(self.name, f"eth{index}")
        ip("tuntap", "add", cable, "mode", "tap", namespace=SWITCH)
        self._switch.connect(cable, self._nics[index].network)
        return cable

    def _take_cables(self) -> None:
        names = {cable_name(self.name, f"eth{index}") for index in range(len(self._nics))}
        for cable in names & self._switch.cables():
            ip("link", "del", cable, namespace=SWITCH)
