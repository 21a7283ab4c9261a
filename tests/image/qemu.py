"""The command that is a machine: its hardware, as options of QEMU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.image.disk import BootDisk
from tests.lab.network import SWITCH, enter_argv

MONITOR = "monitor.sock"
AGENT = "agent.sock"
CONSOLE = "console.log"
LAYER = "disk.qcow2"
"""What a machine's folder holds: two sockets, what its serial port said, what it wrote."""

_COMMAND_LINE = (
    "root=LABEL=rootfs rw console=ttyS0 net.ifnames=0 quiet mitigations=off no_timer_check"
)
"""Kernels test early whether ticks of the timer come on time, and give up if they do not: emulated
on a loaded machine they may not. On real acceleration a guest's kernel leaves that test out itself.
"""
_AGENT_PORT = "org.qemu.guest_agent.0"


def qemu_argv(
    folder: Path,
    boot_disk: BootDisk,
    *,
    disc: Path,
    disks: Sequence[tuple[str, str]],
    nics: Sequence[tuple[str, str]],
    memory_mib: int,
) -> list[str]:
    """Return the command; it ends when the machine is off.

    Args:
        folder: Of the machine.
        boot_disk: What the machine's layer lies over.
        disc: The CONTEXT disc that is in the drive.
        disks: File and serial number of each further disk.
        nics: Name of the tap device and MAC of each NIC.
        memory_mib: How much memory it has.
    """
    argv = [*enter_argv(SWITCH), "qemu-system-x86_64", "-nodefaults", "-no-user-config"]
    # Hardware acceleration may be there and yet not work; what is tested is the same without.
    argv += ["-accel", "tcg,thread=multi", "-smp", "2", "-m", str(memory_mib), "-display", "none"]
    argv += ["-device", "virtio-rng-pci"]
    if kernel := boot_disk.kernel:
        argv += ["-kernel", str(kernel.image), "-initrd", str(kernel.initrd)]
        argv += ["-append", _COMMAND_LINE]
    argv += ["-chardev", f"file,id=console,append=on,path={folder / CONSOLE}"]
    argv += ["-serial", "chardev:console"]
    argv += ["-qmp", f"unix:{folder / MONITOR},server=on,wait=off"]
    argv += ["-chardev", f"socket,id=agent,path={folder / AGENT},server=on,wait=off"]
    argv += ["-device", "virtio-serial-pci"]
    argv += ["-device", f"virtserialport,chardev=agent,name={_AGENT_PORT}"]
    argv += _disk("disk0", str(folder / LAYER), "qcow2", "rootdisk")
    for index, (file, serial) in enumerate(disks, start=1):
        argv += _disk(f"disk{index}", file, "raw", serial)
    argv += ["-drive", f"if=none,id=medium,media=cdrom,readonly=on,format=raw,file={disc}"]
    argv += ["-device", "ide-cd,id=disc,drive=medium"]
    for index, (cable, mac) in enumerate(nics):
        argv += ["-netdev", f"tap,id=net{index},ifname={cable},script=no,downscript=no"]
        # No boot over the network, which would be tried first.
        argv += ["-device", f"virtio-net-pci,id=nic{index},netdev=net{index},mac={mac},romfile="]
    return argv


def _disk(name: str, file: str, form: str, serial: str) -> list[str]:
    # What the guest flushes is flushed: else the layer's own tables are lost in a power cut.
    drive = f"if=none,id={name},format={form},cache=writeback,discard=unmap,file={file}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={serial}"]
