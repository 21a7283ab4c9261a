"""One block device: what the kernel tells of it in /sys, and what its node itself does."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NUMBERS = Path("/sys/dev/block")

_IDS = Path("/dev/disk/by-id")
# Memory disks, floppies and optical drives: never somebody's data disk, and slow to ask.
_NO_DISKS = frozenset({1, 2, 11})
_EDGE_BYTES = 1024 * 1024


def is_disk(node: Path) -> bool:
    """Say whether a node is that of a device that may be a disk."""
    try:
        status = node.stat()
    except OSError:
        return False
    if not stat.S_ISBLK(status.st_mode) or os.major(status.st_rdev) in _NO_DISKS:
        return False
    return not Path(os.path.realpath(NUMBERS / text_number(status.st_rdev))).name.startswith("zram")


def number_of(node: Path) -> str | None:
    """Return the number of the block device a path leads to."""
    try:
        status = node.stat()
    except (OSError, ValueError):
        return None
    return text_number(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def text_number(number: int) -> str:
    """Write a device number as the kernel does."""
    return f"{os.major(number)}:{os.minor(number)}"


def read_text(path: Path) -> str:
    """Return a small file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def entries(number: str, folder: str) -> list[str]:
    """List a folder of a device in /sys."""
    with suppress(OSError):
        return [entry.name for entry in (NUMBERS / number / folder).iterdir()]
    return []


def partitions_of(kernel: Path) -> dict[str, str]:
    """Return the partitions of a disk: name to number."""
    found = {}
    with suppress(OSError):
        for entry in kernel.iterdir():
            if (entry / "partition").exists():
                found[entry.name] = read_text(entry / "dev").strip()
    return found


def disk_of(number: str) -> str:
    """Return the disk a partition is on, or the number itself."""
    kernel = NUMBERS / number
    if not (kernel / "partition").exists():
        return number
    return read_text(Path(os.path.realpath(kernel)).parent / "dev").strip() or number


def all_below(number: str) -> Iterator[str]:
    """Yield a device, the disk it is on, and what it is made of."""
    yield number
    if (disk := disk_of(number)) != number:
        yield disk
    for name in entries(number, "slaves"):
        below = read_text(NUMBERS / number / "slaves" / name / "dev").strip()
        if below:
            yield from all_below(below)


def ids_of(number: str) -> Iterator[str]:
    """Yield the names of a device below /dev/disk/by-id."""
    with suppress(OSError):
        for link in _IDS.iterdir():
            if number_of(link) == number:
                yield link.name


def serial_of(kernel: Path) -> str:
    """Return a serial number: that of virtio, of NVMe, or of page 0x80 of SCSI."""
    for name in ("serial", "device/serial"):
        if text := read_text(kernel / name).strip():
            return text
    with suppress(OSError):
        # Source: SPC-4, unit serial number page: four bytes of header, then the text.
        page = (kernel / "device" / "vpd_pg80").read_bytes()
        return page[4:].decode("ascii", errors="replace").strip("\0 ")
    return ""


def read_edges(node: Path) -> tuple[bytes, bytes]:
    """Return the first and the last MiB; what can not be read must not be taken for empty."""
    handle = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.lseek(handle, 0, os.SEEK_END)
        length = min(_EDGE_BYTES, size)
        head, tail = os.pread(handle, length, 0), os.pread(handle, length, size - length)
    finally:
        os.close(handle)
    if min(len(head), len(tail)) < length:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return head, tail


def is_busy(node: Path) -> bool:
    """Say whether somebody has it for himself; it is held for a moment only.

    A device that can not be opened at all is not busy; the look at its content tells.
    """
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False
