"""A node: the baked image booted with systemd in a container that behaves like a VM.

The node's changes live in an overlay in memory. They stay when it is switched off, so that the same
node can be booted again; what a real machine would lose in a power cut because it was not synced
stays too.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.lab.bake import Image
from tests.lab.basics import LabError, run, wait_until
from tests.lab.box import STATE, hierarchies, node_argv, remove_cgroup
from tests.lab.disk import Disk
from tests.lab.network import INTERFACE_NAME_MAX, SWITCH, Switch

REBOOT_STATUS = 133
CONTEXT_FOLDER = "/var/lib/lab-context"
DISK_LINKS = "/dev/disk/by-id"
REPORT_READY = "/etc/one-context.d/net-99-report-ready"
REPORT_READY_DIVERTED = "/usr/lib/oneke/one-context.diverted/net-99-report-ready"

_JOIN_AND_EXEC = 'for g in $1; do echo $$ > "$g/cgroup.procs"; done; shift; exec "$@"'

_T = TypeVar("_T")


@dataclass(frozen=True)
class Bind:
    """A file, folder or block device of this machine that a node sees."""

    source: str
    target: str
    read_only: bool = False


def cable_name(node: str, nic: str) -> str:
    """Name of the switch's end of a node's cable.

    Raises:
        LabError: If it is too long for an interface.
    """
    name = f"{node}-{nic}"
    if len(name) > INTERFACE_NAME_MAX:
        raise LabError(
            f"node {node}: the cable name {name} has more than {INTERFACE_NAME_MAX} characters; "
            "choose a shorter node name"
        )
    return name


def nspawn_argv(
    name: str, root: Path, nics: Sequence[str], binds: Sequence[Bind] = ()
) -> list[str]:
    """The command that boots a node; it runs until the node is off.

    Its cables end in the switch's namespace, because that is where it is started.
    """
    return [
        *("nsenter", f"--net=/run/netns/{SWITCH}", "--"),
        *("systemd-nspawn", "--quiet", f"--directory={root}", f"--machine={name}", "--boot"),
        *("--register=no", "--keep-unit", "--console=read-only", "--timezone=off"),
        *("--resolv-conf=off", "--link-journal=no"),
        # A VM's first process may open as many files as it likes; here the machine sets the end.
        f"--rlimit=NOFILE=1024:{resource.getrlimit(resource.RLIMIT_NOFILE)[1]}",
        *(f"--network-veth-extra={cable_name(name, nic)}:{nic}" for nic in nics),
        *(f"--bind{'-ro' if bind.read_only else ''}={bind.source}:{bind.target}" for bind in binds),
    ]


class Node:
    """One node; made switched off.

    Attributes:
        name: Its host name.
        vm_id: Id of the VM it plays, or None.
        token: The VM's OneGate token, or None.
        boots: How often it has been switched on or rebooted.
        disks: The disks that are plugged in, by name.
    """

    def __init__(
        self,
        name: str,
        image: Image,
        switch: Switch,
        nics: Sequence[tuple[str, str]],
        *,
        binds: Sequence[Bind] = (),
        disks: Sequence[Disk] = (),
        vm_id: int | None = None,
        token: str | None = None,
    ) -> None:
        self.name = name
        self.vm_id = vm_id
        self.token = token
        self.boots = 0
        self.root = STATE / "nodes" / name / "root"
        self._folder = STATE / "nodes" / name
        self._image = image
        self._switch = switch
        self._networks = dict(nics)
        self._faulty: dict[str, str] = {}
        self._binds = tuple(binds)
        self.disks: dict[str, Disk] = {}
        self._bound: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stay_off = threading.Event()
        self._trouble = ""
        box = os.environ.get("ONEKE_LAB_BOX_ID", "0")
        self._groups = [tree / f"lab-{box}-{name}" for tree in hierarchies()]
        for nic in self._networks:
            cable_name(name, nic)
        for part in ("upper", "work", "root", "disk-links"):
            (self._folder / part).mkdir(parents=True)
        parts = f"lowerdir={image.lowerdir},upperdir={self._folder}/upper"
        parts += f",workdir={self._folder}/work"
        run(["mount", "-t", "overlay", "overlay", "-o", parts, str(self.root)])
        for disk in disks:
            self.plug_disk(disk)

    @property
    def is_closed(self) -> bool:
        """Whether its disk is gone."""
        return not self._folder.exists()

    # --- power ------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether it is switched on."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, timeout_s: float = 30) -> None:
        """Switch it on and return when its first process runs and its cables are plugged.

        Raises:
            LabError: If it is on already, or does not start in time; with the console's end.
        """
        if self.is_running:
            raise LabError(f"{self.name}: already switched on")
        self._stay_off.clear()
        self._trouble = ""
        self._wait_for_boot(timeout_s, self._switch_on)

    def stop(self, timeout_s: float = 60) -> None:
        """Shut it down in good order and wait until it is off."""
        self._stay_off.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._wait_off(timeout_s)

    def kill(self, timeout_s: float = 20) -> None:
        """Cut its power: nothing in it gets to say anything any more."""
        self._stay_off.set()
        if self.is_running:
            # nspawn forks its way to the first process; in the first milliseconds there is none.
            os.kill(wait_until(self._init, 5, f"{self.name}'s first process"), signal.SIGKILL)
        self._wait_off(timeout_s)

    def reboot(self, timeout_s: float = 60) -> None:
        """Ask it to reboot and return when its new first process runs."""
        self._wait_for_boot(timeout_s, lambda: self.run(["systemctl", "--no-block", "reboot"]))

    def close(self) -> None:
        """Cut its power and forget its disk; a second time nothing happens."""
        if self.is_running:
            self.kill()
        if self.is_closed:
            return
        wait_until(
            lambda: run(["umount", str(self.root)], check=False).returncode == 0,
            10,
            f"{self.name}'s disk to be unmounted",
        )
        for group in self._groups:
            remove_cgroup(group)
        run(["rm", "-rf", str(self._folder)])

    # --- cables -----------------------------------------------------------------------------

    def unplug(self, nic: str) -> None:
        """Pull the cable: the node sees that there is no carrier. It stays out over reboots."""
        self._faulty[nic] = "unplugged"
        self._plug(nic)

    def isolate(self, nic: str) -> None:
        """Let nothing through the cable while the node sees a carrier."""
        self._faulty[nic] = "isolated"
        self._plug(nic)

    def plug(self, nic: str) -> None:
        """Undo `unplug` or `isolate`."""
        self._faulty.pop(nic, None)
        self._plug(nic)

    # --- disks ------------------------------------------------------------------------------

    def plug_disk(self, disk: Disk, name: str | None = None) -> None:
        """Give it a disk; a running node finds the device at once.

        Args:
            disk: One that is in no node.
            name: What the node calls it from now on; as the disk says if None.

        Raises:
            LabError: If there is a disk of this name.
        """
        disk.name = name or disk.name
        if disk.name in self.disks:
            raise LabError(f"{self.name}: has a disk {disk.name} already")
        self.disks[disk.name] = disk
        if disk.serial is not None:
            self._disk_link(disk.serial).symlink_to(f"../../{disk.name}")
        if self.is_running:
            device = disk.device.stat().st_rdev
            number = [str(os.major(device)), str(os.minor(device))]
            self.run(["mknod", "-m", "660", f"/dev/{disk.name}", "b", *number])

    def pull_disk(self, name: str) -> Disk:
        """Take a disk away and return it, with all that is on it.

        A running node loses the device file. What it has open or mounted goes on working, unlike on
        a real machine.

        Raises:
            LabError: If there is no disk of this name.
        """
        if name not in self.disks:
            raise LabError(f"{self.name}: has no disk {name}")
        disk = self.disks.pop(name)
        if disk.serial is not None:
            self._disk_link(disk.serial).unlink()
        if self.is_running:
            if name in self._bound:
                self.run(["umount", f"/dev/{name}"])
            self.run(["rm", f"/dev/{name}"])
        self._bound.discard(name)
        return disk

    def _disk_link(self, serial: str) -> Path:
        return self._folder / "disk-links" / f"virtio-{serial}"

    def _disk_binds(self) -> list[Bind]:
        """What the boot has to show of the disks: there is no udev to make devices and links."""
        links = Bind(str(self._folder / "disk-links"), DISK_LINKS, read_only=True)
        devices = [Bind(str(disk.device), f"/dev/{name}") for name, disk in self.disks.items()]
        return [links, *devices]

    # --- commands and files -----------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = 60,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node, as root, outside its units.

        Raises:
            CommandFailed: On a status other than 0 (with `check`) or when the time is over; the
                command is ended then.
            LabError: If the node is off.
        """
        init = self._init()
        if init is None:
            raise LabError(f"{self.name}: is switched off; `{' '.join(argv)}` was not run")
        # The killing of nsenter would leave the command running, so the time is kept in the node.
        limit = ["timeout", "--kill-after=5", f"{timeout_s:g}"]
        return run(
            [*node_argv(init), *limit, *argv],
            check=check,
            timeout_s=timeout_s + 10,
            input=input,
            where=self.name,
            shown=argv,
        )

    def run_in_unit(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node as a unit of its own, so that it is in the node's cgroups."""
        unit = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--"]
        return self.run([*unit, *argv], check=check, timeout_s=timeout_s)

    def read(self, path: str) -> str:
        """Text of a file of the node, whether it is on or off.

        Raises:
            LabError: If there is no such file.
        """
        if self.is_running:
            return self.run(["cat", path]).stdout
        try:
            return self._outside(path).read_text(errors="replace")
        except OSError as error:
            raise LabError(f"{self.name}: {path}: {error.strerror}") from None

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the node, whether it is on or off; missing folders are made."""
        if self.is_running:
            script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
            self.run(["sh", "-c", script, "write", path, f"{mode:o}"], input=text)
            return
        target = self._outside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    def exists(self, path: str) -> bool:
        """Whether the node has such a file."""
        if self.is_running:
            return self.run(["test", "-e", path], check=False).returncode == 0
        return self._outside(path).exists()

    # --- context ----------------------------------------------------------------------------

    def set_context(self, text: str, token: str | None = None, *, is_watched: bool = False) -> None:
        """Change what is on the VM's CONTEXT disc; a running node is told as a hook of the VM is.

        Args:
            text: Content of context.sh.
            token: Content of token.txt; None for a disc without.
            is_watched: Whether a running node converges by itself then, as it does outside tests;
                else it is left to the test to run the agent, from now on.
        """
        self.write(f"{CONTEXT_FOLDER}/context.sh", text, mode=0o600)
        if token is not None:
            self.write(f"{CONTEXT_FOLDER}/token.txt", f"{token}\n", mode=0o600)
        if self.is_running:
            if not is_watched:
                self.run(["systemctl", "stop", "oneke-context.path"])
            self.run(["systemctl", "start", "one-context-reconfigure.service"])

    def report_ready_early(self) -> None:
        """Put the script back that reports READY as soon as the network is up."""
        self.write(REPORT_READY, self.read(REPORT_READY_DIVERTED), mode=0o755)

    def disable_agent(self) -> None:
        """Keep the agent from starting at boot; only for a node that is off."""
        self._outside("/etc/systemd/system/multi-user.target.wants/oneke.target").unlink(
            missing_ok=True
        )

    # --- waiting and looking ----------------------------------------------------------------

    def wait_until(self, predicate: Callable[[], _T | None], timeout_s: float, what: str) -> _T:
        """Ask `predicate` until it answers something true; see `basics.wait_until`."""
        return wait_until(predicate, timeout_s, f"{self.name}: {what}", every_s=0.2)

    def wait_contextualized(self, timeout_s: float = 30) -> None:
        """Wait until the NICs have their addresses and one_env is written."""
        self._wait_unit("one-context-local.service", timeout_s)

    def wait_running(self, timeout_s: float = 60) -> str:
        """Wait until all start-up jobs are done, the agent's run included.

        Returns:
            `running`, or `degraded` if a unit failed.
        """

        def state() -> str:
            told = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
            if told not in ("running", "degraded"):
                jobs = self.run(["systemctl", "list-jobs", "--no-legend", "--plain"], check=False)
                raise LabError(f"{told or 'no answer'}; jobs: {jobs.stdout.strip()}")
            return told

        return self.wait_until(state, timeout_s, "start-up to be finished")

    def failed_units(self) -> list[str]:
        """Names of the units that failed."""
        listed = self.run(["systemctl", "list-units", "--failed", "--no-legend", "--plain"]).stdout
        return [line.split()[0] for line in listed.splitlines() if line.strip()]

    def ordering_cycles(self) -> list[str]:
        """What systemd said on the console about ordering cycles; it drops a job for each.

        They are found before the journal runs, so that only the console has them.
        """
        return [line.strip() for line in self.console().splitlines() if "ordering cycle" in line]

    def addresses(self, nic: str) -> list[str]:
        """IPv4 addresses of a NIC as `address/prefix`, in the kernel's order."""
        listed = self.run(["ip", "-4", "-o", "address", "show", "dev", nic]).stdout
        return [line.split()[3] for line in listed.splitlines()]

    def journal(self, unit: str | None = None, *, all_boots: bool = False) -> str:
        """Messages of a unit, or of all, of this boot; read from the disk if the node is off."""
        options = ["--output=cat" if unit else "--output=short-precise", "--no-pager"]
        options += [f"--unit={unit}"] if unit else []
        options += [] if all_boots else ["--boot=0"]
        if self.is_running:
            return self.run(["journalctl", *options], check=False).stdout
        folder = self._outside("/var/log/journal")
        return run(["journalctl", f"--directory={folder}", *options], check=False).stdout

    def console(self) -> str:
        """All that its console has shown, over all boots."""
        log = self._folder / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    # --- inside -----------------------------------------------------------------------------

    def _switch_on(self) -> None:
        self._thread = threading.Thread(target=self._supervise, name=self.name, daemon=True)
        self._thread.start()

    def _supervise(self) -> None:
        """Keep the node on: play each reboot it asks for until it is off."""
        try:
            while self._boot() == REBOOT_STATUS and not self._stay_off.is_set():
                pass
        except (LabError, OSError) as error:
            self._trouble = str(error)

    def _boot(self) -> int:
        """One boot, from power on to power off or reboot; returns nspawn's exit status."""
        cables = {nic: cable_name(self.name, nic) for nic in self._networks}
        # The kernel takes the cables of the last boot away in its own time.
        wait_until(
            lambda: not self._switch.cables() & set(cables.values()),
            20,
            f"{self.name}: the cables of the last boot to be gone",
            every_s=0.02,
        )
        for group in self._groups:
            group.mkdir(exist_ok=True)
        self._bound = set(self.disks)
        binds = [*self._binds, *self._disk_binds()]
        argv = nspawn_argv(self.name, self.root, tuple(cables), binds)
        groups = " ".join(str(group) for group in self._groups)
        environment = {"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with (self._folder / "console.log").open("ab") as console:
            process = subprocess.Popen(
                ["bash", "-c", _JOIN_AND_EXEC, "join", groups, *argv],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._process = process
        try:
            self._plug_all(process, cables)
        except LabError:
            process.terminate()
            raise
        finally:
            status = process.wait()
            (self._folder / "init.pid").unlink(missing_ok=True)
        return status

    def _plug_all(self, process: subprocess.Popen[bytes], cables: Mapping[str, str]) -> None:
        """Plug each cable as soon as it is there; then the node counts as booted once more."""
        wait_until(
            lambda: set(cables.values()) <= self._switch.cables() or process.poll() is not None,
            20,
            f"{self.name}: its cables to appear",
            every_s=0.02,
        )
        if process.poll() is not None:
            return
        for nic in cables:
            self._plug(nic)
        wait_until(
            lambda: self._init() is not None or process.poll() is not None,
            20,
            f"{self.name}: its first process",
            every_s=0.02,
        )
        init = self._init()
        if init is not None:
            (self._folder / "init.pid").write_text(str(init))
            self.boots += 1

    def _plug(self, nic: str) -> None:
        cable = cable_name(self.name, nic)
        if cable not in self._switch.cables():
            return
        fault = self._faulty.get(nic)
        if fault == "unplugged":
            self._switch.disconnect(cable)
            return
        self._switch.connect(cable, self._networks[nic])
        if fault == "isolated":
            self._switch.isolate(cable)

    def _wait_for_boot(self, timeout_s: float, cause: Callable[[], object]) -> None:
        before = self.boots
        cause()

        def booted() -> bool:
            if self.boots > before:
                return True
            if not self.is_running:
                raise LabError(f"it went off {self._trouble}; console: {self.console()[-1500:]}")
            return False

        wait_until(booted, timeout_s, f"{self.name} to boot", every_s=0.02)

    def _wait_off(self, timeout_s: float) -> None:
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise LabError(
                f"waited {timeout_s:g} s for {self.name} to be off; console: "
                f"{self.console()[-1500:]}"
            )
        self._thread = None

    def _wait_unit(self, unit: str, timeout_s: float) -> None:
        def active() -> bool:
            asked = ["systemctl", "show", "--property=ActiveState", "--value", unit]
            state = self.run(asked, check=False).stdout.strip()
            if state != "active":
                raise LabError(f"{state or 'no answer'}; {self.journal(unit)[-1000:]}")
            return True

        self.wait_until(active, timeout_s, f"{unit} to be active")

    def _init(self) -> int | None:
        """Process id of the node's first process as the box sees it, or None."""
        process = self._process
        if process is None or process.poll() is not None:
            return None
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children:
                # Until it is systemd, it is a helper of nspawn on its way there.
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        except OSError:
            return None
        return None

    def _outside(self, path: str) -> Path:
        return self.root / path.lstrip("/")
