"""Block devices: what they are, what is on them, who uses them; and the one way to format one.

Nothing but `format` changes a byte. What udev knows is not asked for, as it may be late: signatures
are read from the device itself, everything else from the kernel.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from appliance.errors import CommandError, FileError
from appliance.system.blockdevice import (
    NUMBERS,
    all_below,
    disk_of,
    entries,
    ids_of,
    is_busy,
    is_disk,
    number_of,
    partitions_of,
    read_edges,
    read_text,
    serial_of,
    text_number,
)
from appliance.system.commands import Commands
from appliance.system.disktexts import (
    BOOT_SECTOR,
    DAMAGED_GPT,
    Mount,
    Signature,
    parse_blkid,
    parse_mounts,
    parse_swaps,
    parse_wipefs,
)

__all__ = ["BOOT_SECTOR", "DAMAGED_GPT", "Disk", "Disks", "Mount", "RealDisks", "Signature"]

_MOUNTS = Path("/proc/self/mountinfo")
_SWAPS = Path("/proc/swaps")
_PEEK = Path(__file__).with_name("peek.py")
_PEEK_PLACE = Path("/run/oneke/peek")

_SECTOR_BYTES = 512
_FORMAT_TIMEOUT_S = 600
# Exit statuses. Source: blkid(8), mount(8).
_NOTHING_FOUND, _AMBIVALENT = 2, 8
_MOUNT_FAILED = 32
# Another look at the device, by oneke-agent status for example, has it for a moment.
_BUSY_LOOKS, _BUSY_PAUSE_S = 10, 0.05

# Mounting with these changes nothing on the device, not even after a power cut: no log is replayed.
# Source: xfs(5), norecovery and nouuid; ext4(5), noload.
_LOOK_ONLY = {"xfs": "ro,norecovery,nouuid", "ext4": "ro,noload"}


@dataclass(frozen=True)
class Disk:
    """A block device as it is right now.

    Two looks that are equal found the same device in the same state.

    Attributes:
        path: Its node, links resolved.
        number: Major and minor, such as 252:16; it may be another one after a restart.
        serial: What it says its serial number is, or empty.
        ids: Its names below /dev/disk/by-id.
        is_whole: Whether it is a disk, not a partition nor a volume made of other devices.
        is_system: Whether the root file system is on it, or on the disk that it is a part of.
        is_read_only: Whether the kernel takes no writes.
        is_swap: Whether it, or a partition of it, is used as swap space.
        is_busy: Whether somebody has it for himself, in whatever mount namespace.
        partitions: The names of the partitions the kernel sees.
        holders: The names of devices that are made of it or its partitions (LVM, RAID, LUKS).
        mounted_at: Where it or a partition of it is mounted.
        signatures: All that can be found; none for an empty disk.
        trouble: Why it could not be read; empty if all was read.
    """

    path: PurePosixPath
    number: str
    size_bytes: int
    serial: str = ""
    ids: tuple[str, ...] = ()
    is_whole: bool = True
    is_system: bool = False
    is_read_only: bool = False
    is_swap: bool = False
    is_busy: bool = False
    partitions: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    mounted_at: tuple[PurePosixPath, ...] = ()
    signatures: tuple[Signature, ...] = ()
    trouble: str = ""

    @property
    def is_used(self) -> bool:
        """Whether the machine uses it, or a part of it, as far as can be seen."""
        return bool(self.is_system or self.is_swap or self.mounted_at or self.holders)


class Disks(Protocol):
    """Looks at block devices, and makes file systems on those that hold nothing."""

    def all(self) -> tuple[Disk, ...]:
        """Return every whole disk that has a node in /dev, by path."""

    def examine(self, path: PurePosixPath) -> Disk | None:
        """Look at the device a path leads to, whole disk or not; None if it leads to none."""

    def mounts(self) -> tuple[Mount, ...]:
        """Return what is mounted, the newest last."""

    def names_in(self, disk: Disk, kind: str) -> tuple[str, ...] | None:
        """List the root of a file system nobody uses, without changing a byte of it.

        Returns:
            None if it can not be mounted so.

        Raises:
            CommandError: Something else than mounting failed.
        """

    def format(self, disk: Disk, kind: str, label: str, uuid: str) -> None:
        """Make a file system on a disk that is as it was when it was looked at.

        Args:
            disk: What the look found; what is on it will be lost.
            kind: xfs or ext4.
            label: At most 12 characters.
            uuid: The new file system's.

        Raises:
            FileError: It changed in the meantime, or is used; nothing was written.
            CommandError: It could not be made; the device may hold a part of it.
        """


class RealDisks:
    """The devices of this machine."""

    def __init__(self, commands: Commands, *, root: str = "/", nodes: str = "/dev") -> None:
        """Run blkid, wipefs, mount and mkfs through `commands`.

        Args:
            commands: Runs them.
            root: The folder whose file system counts as the machine's own.
            nodes: The folder in which the nodes of disks are.
        """
        self._commands = commands
        self._root = Path(root)
        self._nodes = Path(nodes)

    def all(self) -> tuple[Disk, ...]:
        """Return every whole disk that has a node in /dev, by path."""
        found: dict[str, Disk] = {}
        for entry in sorted(os.scandir(self._nodes), key=lambda entry: entry.name):
            if entry.is_symlink() or not is_disk(Path(entry.path)):
                continue
            disk = self.examine(PurePosixPath(entry.path))
            if disk is not None and disk.is_whole and disk.size_bytes:
                found.setdefault(disk.number, disk)
        return tuple(found.values())

    def examine(self, path: PurePosixPath) -> Disk | None:
        """Look at the device a path leads to; see `Disks.examine`."""
        node = Path(os.path.realpath(path))
        number = number_of(node)
        if number is None or not (NUMBERS / number).exists():
            return None
        for _ in range(_BUSY_LOOKS):
            disk = self._examine(node, number, taken=is_busy(node))
            if not disk.is_busy or disk.is_used:
                break
            time.sleep(_BUSY_PAUSE_S)
        return disk

    def mounts(self) -> tuple[Mount, ...]:
        """Return what is mounted, the newest last."""
        return parse_mounts(read_text(_MOUNTS))

    def names_in(self, disk: Disk, kind: str) -> tuple[str, ...] | None:
        """List the root of a file system nobody uses; see `Disks.names_in`.

        It is mounted in a mount namespace of its own, which ends with the process that looks:
        nobody else sees it, and however that ends, nothing stays mounted.
        """
        if kind not in _LOOK_ONLY or disk.is_busy or disk.mounted_at:
            return None
        _PEEK_PLACE.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = f"{_LOOK_ONLY[kind]},nodev,nosuid,noexec"
        argv = (
            *("unshare", "--mount", "--propagation", "private", "--"),
            *(sys.executable, "-I", str(_PEEK)),
            *(kind, options, str(disk.path), str(_PEEK_PLACE)),
        )
        completed = self._commands.run(argv, check=False)
        if completed.rc == _MOUNT_FAILED:
            return None
        if completed.rc != 0:
            reason = f"exit status {completed.rc}"
            raise CommandError(argv, completed.rc, completed.stdout, completed.stderr, reason)
        return tuple(json.loads(completed.stdout))

    def format(self, disk: Disk, kind: str, label: str, uuid: str) -> None:
        """Make a file system on a disk that is as it was; see `Disks.format`."""
        with self._same_and_unused(disk):
            # mkfs wants the device for itself. What has the node open keeps its name from going to
            # another device meanwhile.
            self._commands.run(_mkfs_argv(disk, kind, label, uuid), timeout_s=_FORMAT_TIMEOUT_S)

    @contextmanager
    def _same_and_unused(self, disk: Disk) -> Iterator[None]:
        """Have it for ourselves while looking once more, then keep it open."""
        try:
            alone = os.open(disk.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise FileError(
                f"{disk.path}: is gone or used by now, nothing was written: {error.strerror}"
            ) from error
        try:
            status = os.fstat(alone)
            number = text_number(status.st_rdev) if stat.S_ISBLK(status.st_mode) else ""
            if number != disk.number or self._examine(Path(disk.path), number) != disk:
                raise FileError(
                    f"{disk.path}: is not what it was a moment ago; nothing was written"
                )
            kept = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(alone)
        try:
            yield
        finally:
            os.close(kept)

    def _examine(self, node: Path, number: str, *, taken: bool = False) -> Disk:
        kernel = NUMBERS / number
        parts = partitions_of(kernel)
        own = {number, *parts.values()}
        signatures, trouble = self._signatures(node)
        return Disk(
            path=PurePosixPath(node),
            number=number,
            size_bytes=int(read_text(kernel / "size").strip() or 0) * _SECTOR_BYTES,
            serial=serial_of(kernel),
            ids=tuple(sorted(ids_of(number))),
            is_whole=not any((kernel / part).exists() for part in ("partition", "dm", "md")),
            is_system=bool({number, disk_of(number)} & self._system_numbers()),
            is_read_only=read_text(kernel / "ro").strip() == "1",
            is_swap=any(number_of(path) in own for path in parse_swaps(read_text(_SWAPS))),
            is_busy=taken,
            partitions=tuple(sorted(parts)),
            holders=tuple(sorted({name for one in own for name in entries(one, "holders")})),
            mounted_at=tuple(
                mount.place
                for mount in self.mounts()
                if mount.number in own or number_of(Path(mount.source)) in own
            ),
            signatures=signatures,
            trouble=trouble,
        )

    def _system_numbers(self) -> set[str]:
        """Return the devices below the root file system, down to the disks."""
        sources = [m.source for m in self.mounts() if m.place == PurePosixPath(self._root)]
        numbers = {text_number(self._root.stat().st_dev), *map(number_of, map(Path, sources))}
        return {below for number in numbers if number for below in all_below(number)}

    def _signatures(self, node: Path) -> tuple[tuple[Signature, ...], str]:
        """Return what is found on a device, and why it could not be read to its end."""
        try:
            edges = read_edges(node)
            found = list(self._ask_wipefs(node))
            found += [one for one in self._ask_blkid(node) if not _has_kind(found, one.kind)]
        except OSError as error:
            return (), error.strerror or str(error)
        except CommandError as error:
            return (), str(error)
        if not found:
            found = list(_own_look(*edges))
        return tuple(found), ""

    def _ask_wipefs(self, node: Path) -> Iterable[Signature]:
        """List all signatures; it names each copy of a partition table once more."""
        columns = "TYPE,USAGE,LABEL,UUID"
        argv = ("wipefs", "--no-act", "--json", "--output", columns, str(node))
        return dict.fromkeys(parse_wipefs(self._commands.run(argv).stdout))

    def _ask_blkid(self, node: Path) -> Iterable[Signature]:
        """List what the low-level probe finds, which knows kinds that wipefs could not wipe."""
        argv = ("blkid", "--probe", "--output", "export", str(node))
        completed = self._commands.run(argv, check=False)
        if completed.rc == _AMBIVALENT:
            return (Signature("several kinds at once", "other"),)
        if completed.rc not in (0, _NOTHING_FOUND):
            reason = f"exit status {completed.rc}"
            raise CommandError(argv, completed.rc, completed.stdout, completed.stderr, reason)
        return parse_blkid(completed.stdout)


def _mkfs_argv(disk: Disk, kind: str, label: str, uuid: str) -> tuple[str, ...]:
    """Return the command; without force mkfs itself refuses a device that holds something.

    Nothing is discarded first: there is nothing on it, and on a large thin volume it takes minutes.
    """
    force = bool(disk.signatures)
    if kind == "xfs":
        options = ("-q", "-K", *(("-f",) if force else ()), "-L", label, "-m", f"uuid={uuid}")
    else:
        options = ("-q", *(("-F",) if force else ()), "-E", "nodiscard", "-L", label, "-U", uuid)
    return (f"mkfs.{kind}", *options, str(disk.path))


def _own_look(head: bytes, tail: bytes) -> Iterator[Signature]:
    """Find marks of a partition table that is too damaged for others to call it one."""
    if head[510:512] == b"\x55\xaa":
        yield Signature(BOOT_SECTOR)
    places = (head[512:520], head[4096:4104], tail[-512:-504], tail[-4096:-4088])
    if b"EFI PART" in places:
        yield Signature(DAMAGED_GPT)


def _has_kind(found: Sequence[Signature], kind: str) -> bool:
    return any(one.kind == kind for one in found)
