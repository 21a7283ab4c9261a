"""Block devices: what they are, what is on them, who uses them; and the one way to format one.

Nothing but `format` changes a byte. What udev knows is not asked for, as it may be late: signatures
are read from the device itself, everything else from the kernel.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from appliance.errors import CommandError, FileError
from appliance.system.commands import Commands

_IDS = Path("/dev/disk/by-id")
_NUMBERS = Path("/sys/dev/block")
_MOUNTS = Path("/proc/self/mountinfo")
_SWAPS = Path("/proc/swaps")
_PEEK = Path(__file__).with_name("peek.py")
_PEEK_PLACE = Path("/run/oneke/peek")

# Memory disks, floppies and optical drives: never somebody's data disk, and slow to ask.
_NO_DISKS = frozenset({1, 2, 11})
_SECTOR_BYTES = 512
_EDGE_BYTES = 1024 * 1024
_FORMAT_TIMEOUT_S = 600
# Exit statuses. Source: blkid(8), mount(8).
_NOTHING_FOUND, _AMBIVALENT = 2, 8
_MOUNT_FAILED = 32

# Mounting with these changes nothing on the device, not even after a power cut: no log is replayed.
# Source: xfs(5), norecovery and nouuid; ext4(5), noload.
_LOOK_ONLY = {"xfs": "ro,norecovery,nouuid", "ext4": "ro,noload"}


# What is found although libblkid finds nothing, and wipefs has nothing to wipe.
BOOT_SECTOR = "boot sector"
DAMAGED_GPT = "damaged gpt"


@dataclass(frozen=True)
class Signature:
    """Something that a device is marked as.

    Attributes:
        kind: In libblkid's words: xfs, ext4, LVM2_member, crypto_LUKS, gpt; or one of those above.
        usage: filesystem, raid, crypto, other; empty for a partition table.
    """

    kind: str
    usage: str = ""
    label: str = ""
    uuid: str = ""


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


@dataclass(frozen=True)
class Mount:
    """A mounted file system.

    Attributes:
        number: That of the device; its major is 0 where there is none.
        source: What it was mounted from, as it was said.
    """

    place: PurePosixPath
    number: str
    source: str
    kind: str
    is_read_only: bool


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
            if entry.is_symlink() or not _is_disk(Path(entry.path)):
                continue
            disk = self.examine(PurePosixPath(entry.path))
            if disk is not None and disk.is_whole and disk.size_bytes:
                found.setdefault(disk.number, disk)
        return tuple(found.values())

    def examine(self, path: PurePosixPath) -> Disk | None:
        """Look at the device a path leads to; see `Disks.examine`."""
        node = Path(os.path.realpath(path))
        number = _number_of(node)
        if number is None or not (_NUMBERS / number).exists():
            return None
        return self._examine(node, number, is_busy=_is_busy(node))

    def mounts(self) -> tuple[Mount, ...]:
        """Return what is mounted, the newest last."""
        return parse_mounts(_read(_MOUNTS))

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
            number = _text_number(status.st_rdev) if stat.S_ISBLK(status.st_mode) else ""
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

    def _examine(self, node: Path, number: str, *, is_busy: bool = False) -> Disk:
        kernel = _NUMBERS / number
        parts = _partitions(kernel)
        own = {number, *parts.values()}
        signatures, trouble = self._signatures(node)
        return Disk(
            path=PurePosixPath(node),
            number=number,
            size_bytes=int(_read(kernel / "size").strip() or 0) * _SECTOR_BYTES,
            serial=_serial(kernel),
            ids=tuple(sorted(_ids(number))),
            is_whole=not any((kernel / part).exists() for part in ("partition", "dm", "md")),
            is_system=bool({number, _disk_of(number)} & self._system_numbers()),
            is_read_only=_read(kernel / "ro").strip() == "1",
            is_swap=any(_number_of(path) in own for path in parse_swaps(_read(_SWAPS))),
            is_busy=is_busy,
            partitions=tuple(sorted(parts)),
            holders=tuple(sorted({name for one in own for name in _entries(one, "holders")})),
            mounted_at=tuple(
                mount.place
                for mount in self.mounts()
                if mount.number in own or _number_of(Path(mount.source)) in own
            ),
            signatures=signatures,
            trouble=trouble,
        )

    def _system_numbers(self) -> set[str]:
        """Return the devices below the root file system, down to the disks."""
        sources = [m.source for m in self.mounts() if m.place == PurePosixPath(self._root)]
        numbers = {_text_number(self._root.stat().st_dev), *map(_number_of, map(Path, sources))}
        return {below for number in numbers if number for below in _all_below(number)}

    def _signatures(self, node: Path) -> tuple[tuple[Signature, ...], str]:
        """Return what is found on a device, and why it could not be read to its end."""
        try:
            edges = _read_edges(node)
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


# --- texts ---------------------------------------------------------------------------------------


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """Read /proc/self/mountinfo.

    Source: proc(5); optional fields stand before a lone hyphen.
    """
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        columns, tail = before.split(" "), after.split(" ")
        if len(columns) < 6 or len(tail) < 3:
            continue
        words = {*columns[5].split(","), *tail[2].split(",")}
        found.append(
            Mount(
                PurePosixPath(_unescape(columns[4])),
                columns[2],
                _unescape(tail[1]),
                tail[0],
                "ro" in words,
            )
        )
    return tuple(found)


def parse_swaps(text: str) -> tuple[Path, ...]:
    """Read /proc/swaps; its first line is a heading."""
    return tuple(Path(_unescape(line.split()[0])) for line in text.splitlines()[1:] if line)


def parse_wipefs(text: str) -> tuple[Signature, ...]:
    """Read what `wipefs --json` prints, which is nothing where there is nothing."""
    document = json.loads(text) if text.strip() else {}
    return tuple(
        Signature(
            kind=one.get("type") or "unknown",
            usage=_usage(one.get("usage")),
            label=one.get("label") or "",
            uuid=one.get("uuid") or "",
        )
        for one in document.get("signatures", ())
    )


def parse_blkid(text: str) -> tuple[Signature, ...]:
    """Read what `blkid --probe --output export` prints: a file system, a table, both or nothing."""
    values: Mapping[str, str] = dict(
        line.split("=", 1) for line in text.splitlines() if "=" in line
    )
    found = []
    if "TYPE" in values:
        label = re.sub(r"\\(.)", r"\1", values.get("LABEL", ""))
        usage = _usage(values.get("USAGE"))
        found.append(Signature(values["TYPE"], usage, label, values.get("UUID", "")))
    if "PTTYPE" in values:
        found.append(Signature(values["PTTYPE"], "", "", values.get("PTUUID", "")))
    return tuple(found)


def _usage(words: str | None) -> str:
    return "" if words in (None, "partition-table") else str(words)


def _unescape(text: str) -> str:
    """Undo what the kernel does to blanks and the like."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _has_kind(found: Sequence[Signature], kind: str) -> bool:
    return any(one.kind == kind for one in found)


# --- the device itself ---------------------------------------------------------------------------


def _read_edges(node: Path) -> tuple[bytes, bytes]:
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


def _own_look(head: bytes, tail: bytes) -> Iterator[Signature]:
    """Find marks of a partition table that is too damaged for others to call it one."""
    if head[510:512] == b"\x55\xaa":
        yield Signature(BOOT_SECTOR)
    places = (head[512:520], head[4096:4104], tail[-512:-504], tail[-4096:-4088])
    if b"EFI PART" in places:
        yield Signature(DAMAGED_GPT)


def _is_busy(node: Path) -> bool:
    """Say whether somebody has it for himself; it is held for a moment only.

    A device that can not be opened at all is not busy; the look at its content tells.
    """
    try:
        os.close(os.open(node, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


# --- what the kernel tells -----------------------------------------------------------------------


def _is_disk(node: Path) -> bool:
    try:
        status = node.stat()
    except OSError:
        return False
    return stat.S_ISBLK(status.st_mode) and os.major(status.st_rdev) not in _NO_DISKS


def _number_of(node: Path) -> str | None:
    """Return the number of the block device a path leads to."""
    try:
        status = node.stat()
    except (OSError, ValueError):
        return None
    return _text_number(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def _text_number(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _entries(number: str, folder: str) -> list[str]:
    with suppress(OSError):
        return [entry.name for entry in (_NUMBERS / number / folder).iterdir()]
    return []


def _partitions(kernel: Path) -> dict[str, str]:
    """Return the partitions of a disk: name to number."""
    found = {}
    with suppress(OSError):
        for entry in kernel.iterdir():
            if (entry / "partition").exists():
                found[entry.name] = _read(entry / "dev").strip()
    return found


def _disk_of(number: str) -> str:
    """Return the disk a partition is on, or the number itself."""
    kernel = _NUMBERS / number
    if not (kernel / "partition").exists():
        return number
    return _read(Path(os.path.realpath(kernel)).parent / "dev").strip() or number


def _all_below(number: str) -> Iterator[str]:
    """Yield a device, the disk it is on, and what it is made of."""
    yield number
    if (disk := _disk_of(number)) != number:
        yield disk
    for name in _entries(number, "slaves"):
        below = _read(_NUMBERS / number / "slaves" / name / "dev").strip()
        if below:
            yield from _all_below(below)


def _ids(number: str) -> Iterator[str]:
    with suppress(OSError):
        for link in _IDS.iterdir():
            if _number_of(link) == number:
                yield link.name


def _serial(kernel: Path) -> str:
    """Return a serial number: that of virtio, of NVMe, or of page 0x80 of SCSI."""
    for name in ("serial", "device/serial"):
        if text := _read(kernel / name).strip():
            return text
    with suppress(OSError):
        # Source: SPC-4, unit serial number page: four bytes of header, then the text.
        page = (kernel / "device" / "vpd_pg80").read_bytes()
        return page[4:].decode("ascii", errors="replace").strip("\0 ")
    return ""
