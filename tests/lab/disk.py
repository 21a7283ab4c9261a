"""Dedicated disks of nodes: loop devices over files in the box's memory.

A disk is one block device from its making to its closing, so that it can be plugged into a node,
pulled out, and read in between. The kernel takes it away by itself with the last process that holds
it, also when the lab is killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from tests.lab.basics import LabError, run, wait_until
from tests.lab.box import STATE

MIB = 1024 * 1024
FOLDER = STATE / "disks"

_CONTROL = "/dev/loop-control"
_LOOP_MAJOR = 7
_SECTOR_BYTES = 512
# Source: linux/loop.h.
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_AUTOCLEAR = 4
_CONFIG = struct.Struct("=II 40x IIII 64x 64x 32x 16x 64x")

_numbers = count()


class Disk:
    """A disk, zeroed, that a node may see as /dev/NAME.

    Attributes:
        name: What the node calls it, without /dev/; may be changed while it is in no node.
        serial: Its serial number; the node then has /dev/disk/by-id/virtio-SERIAL.
        size_bytes: How large it is.
        device: Its device node on this machine, in the box only.
    """

    def __init__(self, size_mib: int = 600, name: str = "vdb", serial: str | None = None) -> None:
        """Make the disk; XFS wants 300 MiB or more.

        Raises:
            LabError: If the kernel gives no loop device.
        """
        self.name = name
        self.serial = serial
        self.size_bytes = size_mib * MIB
        stem = f"disk{next(_numbers)}"
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.device = FOLDER / stem
        self._image = FOLDER / f"{stem}.img"
        with self._image.open("xb") as image:
            image.truncate(self.size_bytes)
        self._handle: int | None = wait_until(self._configure, 10, "a free loop device")

    def close(self) -> None:
        """Let go of it; a second time nothing happens. It lasts while something has it mounted."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
        self.device.unlink(missing_ok=True)
        self._image.unlink(missing_ok=True)

    # --- what is on it --------------------------------------------------------------------------

    def run(self, *argv: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine with the device as its last argument, as mkfs wants it."""
        return run([*argv, str(self.device)], timeout_s=timeout_s)

    def write(self, data: bytes, offset: int = 0) -> None:
        """Write bytes; an offset below 0 counts from the end."""
        handle = self._held()
        os.pwrite(handle, data, offset if offset >= 0 else self.size_bytes + offset)
        os.fsync(handle)

    def read(self, size: int, offset: int = 0) -> bytes:
        """Read bytes; an offset below 0 counts from the end."""
        return os.pread(self._held(), size, offset if offset >= 0 else self.size_bytes + offset)

    def checksum(self) -> str:
        """SHA-256 of what is on it, of equal value for equal bytes only."""
        os.fsync(self._held())
        digest = hashlib.sha256(b"%d" % self.size_bytes)
        for offset, block in self._blocks():
            digest.update(b"\n%d " % offset)
            digest.update(block)
        return digest.hexdigest()

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Give each MiB that is not all zero, with its offset."""
        zeros = bytes(MIB)
        with self._image.open("rb") as image:
            offset = 0
            while offset < self.size_bytes:
                try:
                    offset = os.lseek(image.fileno(), offset, os.SEEK_DATA) // MIB * MIB
                except OSError:
                    return
                block = os.pread(image.fileno(), MIB, offset)
                if block != zeros:
                    yield offset, block
                offset += MIB

    def _held(self) -> int:
        if self._handle is None:
            raise LabError(f"disk {self.name}: is closed")
        return self._handle

    def _configure(self) -> int | None:
        """Take the next free loop device; None if another process was faster."""
        with Path(_CONTROL).open("rb") as control:
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        self.device.unlink(missing_ok=True)
        os.mknod(self.device, 0o600 | stat.S_IFBLK, os.makedev(_LOOP_MAJOR, number))
        image = os.open(self._image, os.O_RDWR | os.O_CLOEXEC)
        handle = os.open(self.device, os.O_RDWR | os.O_CLOEXEC)
        try:
            settings = _CONFIG.pack(image, _SECTOR_BYTES, number, 0, 0, _LO_FLAGS_AUTOCLEAR)
            fcntl.ioctl(handle, _LOOP_CONFIGURE, settings)
        except OSError:
            os.close(handle)
            return None
        finally:
            os.close(image)
        return handle
