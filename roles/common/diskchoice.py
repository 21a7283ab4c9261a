"""Which disk is meant, and what may be done with it: a disk is never guessed.

`judge` is the whole of it, and pure: a disk is formatted only if it is whole, unused and empty; it
is mounted if its file system is known to be Longhorn's or this agent's; anything else is refused in
one sentence that says what was found and what would adopt or clear it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import PurePosixPath

from appliance.diskactions import RECORD, DiskRecord
from appliance.system.disks import BOOT_SECTOR, DAMAGED_GPT, Disk, Mount, Signature

KINDS = ("xfs", "ext4")
REPLICA_MARK = "longhorn-disk.cfg"
"""What Longhorn leaves in the root of a disk that it uses."""

# Source: mkfs.xfs(8) since xfsprogs 5.19: smaller file systems are refused.
LEAST_BYTES = 300 * 1024**2

DEVICE_KEY = "ONEAPP_STORAGE_DEVICE"
KIND_KEY = "ONEAPP_STORAGE_FILESYSTEM"

_BY_ID = PurePosixPath("/dev/disk/by-id")
_UNITS = {"M": 1024**2, "G": 1024**3, "T": 1024**4}
_SIZE_TOLERANCE = 0.1
_PATH = re.compile(r"/dev(?:/[A-Za-z0-9._:+@=,-]+)+\Z")
_WORD = re.compile(r"[!-~]+\Z")
_SIZE = re.compile(r"([1-9][0-9]{0,6})([MGT])\Z")
# "oneke" in a UUID of version 8, which is left to applications. Source: RFC 9562, 5.8.
_MARK = "6f6e656b-65"
_EMPTY_ROOT = frozenset({"lost+found"})


@dataclass(frozen=True)
class Selector:
    """How a disk is named; one of these is set.

    Attributes:
        path: A device node, or a link to one.
        serial: Its serial number.
        size_bytes: About how large it is.
    """

    text: str
    path: PurePosixPath | None = None
    serial: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class DiskSight:
    """All that was seen of disks.

    Attributes:
        disks: Every whole disk, and what the parameter names if it is another device.
        named: The device that the parameter's path leads to; None if it leads to none.
        mount: What is mounted where the disk belongs.
        record: The disk this machine has already, or had begun to make; None if there was none.
        is_record_broken: Whether that note is there and can not be read.
        roots: Path of each device that was looked into, to the names in the root of its file
            system; None where it could not be mounted.
        hides_replicas: Whether the folder below the mount point holds replicas on the root disk.
        machine_id: What makes this machine's file systems differ from those of others.
    """

    disks: tuple[Disk, ...] = ()
    named: Disk | None = None
    mount: Mount | None = None
    record: DiskRecord | None = None
    is_record_broken: bool = False
    roots: Mapping[PurePosixPath, tuple[str, ...] | None] = field(default_factory=dict)
    hides_replicas: bool = False
    machine_id: str = ""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    selector: Selector
    kind: str
    label: str
    mountpoint: PurePosixPath


@dataclass(frozen=True)
class Absent:
    """The disk is not there or not free, and that may pass."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """The disk is not touched, and a person has to act."""

    reason: str


@dataclass(frozen=True)
class ToFormat:
    """The disk is to get a file system, which is to be mounted then."""

    disk: Disk
    made: Signature


@dataclass(frozen=True)
class ToMount:
    """The disk is to be mounted as it is."""

    disk: Disk
    found: Signature


@dataclass(frozen=True)
class Mounted:
    """The disk is where it belongs."""

    disk: Disk
    found: Signature
    is_read_only: bool


Verdict = Absent | Refused | ToFormat | ToMount | Mounted


# --- which one -----------------------------------------------------------------------------------


def parse_selector(text: str) -> Selector | None:
    """Read a path below /dev, by-id:NAME, serial:TEXT or size:100G; None if it is none of them."""
    word, colon, rest = text.strip().partition(":")
    if _PATH.match(text.strip()) and ".." not in text:
        return Selector(text.strip(), path=PurePosixPath(text.strip()))
    if not colon or not _WORD.match(rest):
        return None
    if word == "by-id" and "/" not in rest and not rest.startswith("."):
        return Selector(text.strip(), path=_BY_ID / rest)
    if word == "serial":
        return Selector(text.strip(), serial=rest)
    if word == "size" and (size := _SIZE.match(rest.upper())):
        return Selector(text.strip(), size_bytes=int(size[1]) * _UNITS[size[2]])
    return None


def candidates(selector: Selector, sight: DiskSight) -> tuple[Disk, ...]:
    """List the disks that are meant; more than one where the selector is ambiguous."""
    if selector.path is not None:
        return (sight.named,) if sight.named is not None else ()
    if selector.serial is not None:
        return tuple(disk for disk in sight.disks if _has_serial(disk, selector.serial))
    return tuple(disk for disk in sight.disks if _fits(disk, selector) and not _is_used(disk))


def _has_serial(disk: Disk, serial: str) -> bool:
    """Compare with what the disk says, and with the names udev makes of it.

    Source: virtio gives a serial number of at most 20 bytes; udev puts it at the end of a name.
    """
    ends = (f"-{serial}", f"_{serial}")
    said = disk.serial in (serial, serial[:20])
    return bool(disk.serial and said) or any(name.endswith(ends) for name in disk.ids)


def _fits(disk: Disk, selector: Selector) -> bool:
    wanted = selector.size_bytes or 0
    return abs(disk.size_bytes - wanted) <= wanted * _SIZE_TOLERANCE


def _is_used(disk: Disk) -> bool:
    return disk.is_used or bool(disk.partitions) or any(map(_is_table, disk.signatures))


def is_idle(disk: Disk) -> bool:
    """Say whether nobody uses a disk, so that one may look into it."""
    return not (_is_used(disk) or disk.is_busy or disk.trouble)


def worth_a_look(request: Request, sight: DiskSight) -> tuple[tuple[Disk, Signature], ...]:
    """List the disks of which the verdict depends on what is in the root of their file system."""
    if sight.mount is not None:
        return ()
    record = sight.record
    begun = record.uuid if record is not None and not record.is_made else None
    meant = () if record is not None and record.is_made else candidates(request.selector, sight)

    def matters(disk: Disk, found: Signature) -> bool:
        if found.uuid == begun:
            return found.kind in KINDS
        is_asked_for = disk in meant and found.kind == request.kind
        return is_asked_for and not is_own(found, request.label)

    return tuple(
        (disk, disk.signatures[0])
        for disk in sight.disks
        if is_idle(disk) and len(disk.signatures) == 1 and matters(disk, disk.signatures[0])
    )


# --- whose it is ---------------------------------------------------------------------------------


def own_uuid(machine_id: str, disk: Disk, attempt: int = 0) -> str:
    """Return a UUID that this machine gives the file system of a disk.

    It tells whose the file system is, also to another machine that gets the disk, and it is the
    same whenever it is asked for, so that a plan can name it.
    """
    known = (machine_id, disk.serial, disk.size_bytes, disk.path, attempt)
    seed = "\0".join(map(str, known))
    digits = hashlib.blake2b(seed.encode(), digest_size=11).hexdigest()
    variant = "89ab"[int(digits[5], 16) % 4]
    return f"{_MARK}{digits[:2]}-8{digits[2:5]}-{variant}{digits[6:9]}-{digits[9:21]}"


def is_own(signature: Signature, label: str) -> bool:
    """Say whether a file system was made by an agent, this machine's or another's.

    A label alone would not do: others may call a disk STORAGE too.
    """
    return (
        signature.uuid[:11] == _MARK and signature.uuid[14:15] == "8" and signature.label == label
    )


# --- what may be done ----------------------------------------------------------------------------


def judge(request: Request, sight: DiskSight) -> Verdict:
    """Decide what may be done; of what is not certain the answer is nothing."""
    if sight.mount is not None:
        return _judge_mounted(request, sight, sight.mount)
    if sight.is_record_broken:
        return Refused(
            f"{RECORD} can not be read, which tells this node's disk: if it has none yet,"
            f" `rm {RECORD}` lets one be prepared"
        )
    if sight.record is not None:
        bearers = _bearers(sight, sight.record.uuid)
        if len(bearers) > 1:
            return _refuse_twins(bearers)
        if sight.record.is_made:
            return _judge_known(bearers, sight.record)
        if bearers:
            return _judge_begun(bearers[0], sight.record, sight)
    found = candidates(request.selector, sight)
    if not found:
        return Absent(_absence(request.selector, sight))
    if len(found) > 1:
        names = " and ".join(f"{disk.path} ({size_words(disk.size_bytes)})" for disk in found)
        return Refused(
            f"{DEVICE_KEY}={request.selector.text} fits {names}: name one by path, by-id or serial"
        )
    return _judge_new(request, sight, found[0])


def _bearers(sight: DiskSight, uuid: str) -> list[Disk]:
    return [disk for disk in sight.disks if any(one.uuid == uuid for one in disk.signatures)]


def _refuse_twins(disks: Sequence[Disk]) -> Refused:
    names = " and ".join(str(disk.path) for disk in disks)
    return Refused(
        f"{names} carry the same file system, one being a copy: detach the one that is not meant"
    )


def _judge_mounted(request: Request, sight: DiskSight, mount: Mount) -> Verdict:
    """Something is mounted already: by our unit at boot, or by somebody else."""
    disk = next((one for one in sight.disks if one.number == mount.number), None)
    if disk is None or len(disk.signatures) != 1:
        return Refused(f"{mount.place} is taken: {mount.source} is mounted there")
    found = disk.signatures[0]
    record = sight.record
    is_known = record is not None and record.is_made
    if is_known and record is not None and found.uuid != record.uuid:
        return Refused(
            f"{mount.place} is taken by {disk.path}, while this node's disk is the {record.kind}"
            f" file system {record.uuid}"
        )
    if not is_known and not _is_meant(request, sight, disk):
        return Refused(
            f"{mount.place} is taken by {disk.path}, which is not {request.selector.text}"
        )
    if not is_known and found.kind != request.kind:
        return Refused(_other_kind(disk, found, request))
    return Mounted(disk, found, mount.is_read_only)


def _is_meant(request: Request, sight: DiskSight, disk: Disk) -> bool:
    if request.selector.size_bytes is not None:
        return _fits(disk, request.selector)
    return disk in candidates(request.selector, sight)


def _judge_known(bearers: Sequence[Disk], record: DiskRecord) -> Verdict:
    """This node has a disk: that one is mounted, whatever it is called by now, and no other."""
    if not bearers:
        serial = f", serial {record.serial}" if record.serial else ""
        return Absent(
            f"this node's disk is not there: {record.kind}, UUID {record.uuid},"
            f" {size_words(record.size_bytes)}{serial}; only `rm {RECORD}` gives it up for another"
        )
    disk = bearers[0]
    if disk.is_busy and not disk.is_used:
        # After a power cut its log is replayed for a while before it shows as mounted.
        return Absent(f"{disk.path} is being mounted, or is in use by another program or container")
    if (reason := _obstacle(disk)) is not None:
        return Refused(reason)
    if len(disk.signatures) != 1:
        return Refused(_foreign(disk))
    return ToMount(disk, disk.signatures[0])


def _judge_begun(disk: Disk, record: DiskRecord, sight: DiskSight) -> Verdict:
    """A run that was cut began this very file system: it is begun anew if nothing is in it."""
    if (reason := _obstacle(disk)) is not None:
        return Refused(reason)
    found = disk.signatures[0]
    same = (disk.size_bytes, disk.serial) == (record.size_bytes, record.serial)
    if not same or found.kind != record.kind or disk.path not in sight.roots:
        return Refused(_foreign(disk))
    names = sight.roots[disk.path]
    if names is not None and not _EMPTY_ROOT.issuperset(names):
        return ToMount(disk, found)
    return ToFormat(disk, Signature(record.kind, "filesystem", record.label, record.uuid))


def _judge_new(request: Request, sight: DiskSight, disk: Disk) -> Verdict:
    if (reason := _obstacle(disk)) is not None:
        return Refused(reason)
    if not disk.signatures:
        return _judge_empty(request, sight, disk)
    found = disk.signatures[0]
    if len(disk.signatures) > 1 or found.kind not in KINDS:
        return Refused(_foreign(disk))
    if found.kind != request.kind:
        return Refused(_other_kind(disk, found, request))
    names = sight.roots.get(disk.path)
    if not is_own(found, request.label) and REPLICA_MARK not in (names or ()):
        return Refused(_not_ours(disk, found, request, sight))
    if len(twins := _bearers(sight, found.uuid)) > 1:
        return _refuse_twins(twins)
    return _unless_hiding(request, sight, ToMount(disk, found))


def _judge_empty(request: Request, sight: DiskSight, disk: Disk) -> Verdict:
    uuids = (own_uuid(sight.machine_id, disk, attempt) for attempt in count())
    uuid = next(uuid for uuid in uuids if not _bearers(sight, uuid))
    made = Signature(request.kind, "filesystem", request.label, uuid)
    return _unless_hiding(request, sight, ToFormat(disk, made))


def _unless_hiding(request: Request, sight: DiskSight, verdict: ToFormat | ToMount) -> Verdict:
    if not sight.hides_replicas:
        return verdict
    return Refused(
        f"{request.mountpoint} holds replicas on the root disk, which {verdict.disk.path} would"
        f" hide: move them, or `rm {request.mountpoint / REPLICA_MARK}` if they are not needed"
    )


# --- in words ------------------------------------------------------------------------------------


def _obstacle(disk: Disk) -> str | None:
    """Say what keeps a disk from being used at all, whatever is on it."""
    path = disk.path
    if disk.is_system:
        return f"{path} is the disk this machine runs from, or a part of it: another one is needed"
    if not disk.is_whole:
        return (
            f"{path} is a partition, or a volume made of other devices: a whole disk of its own is"
            " needed"
        )
    if disk.mounted_at:
        places = " and ".join(map(str, disk.mounted_at))
        return f"{path} is mounted at {places}: `umount {disk.mounted_at[0]}` frees it"
    if disk.is_swap:
        return f"{path} is swap space in use: `swapoff {path}` and `wipefs -a {path}` clear it"
    if disk.holders:
        return f"{path} is in use by {', '.join(disk.holders)} (LVM, RAID or encryption)"
    if disk.trouble:
        return f"{path} can not be read: {disk.trouble}"
    if disk.is_busy:
        return f"{path} is in use by another program or container, nobody else may have it"
    if disk.is_read_only:
        return f"{path} can not be written, as it is attached read-only"
    if disk.size_bytes < LEAST_BYTES:
        small, least = size_words(disk.size_bytes), size_words(LEAST_BYTES)
        return f"{path} is too small: {small}, and at least {least} are needed"
    return None


def _foreign(disk: Disk) -> str:
    """Say what is on a disk that is neither empty nor a file system that could be adopted."""
    found = " and ".join(dict.fromkeys(map(_describe, disk.signatures)))
    if disk.partitions:
        found += f" (partitions {', '.join(disk.partitions)})"
    unknown = any(one.kind in (BOOT_SECTOR, DAMAGED_GPT) for one in disk.signatures)
    clear = "blkdiscard -z" if unknown else "wipefs -a"
    return f"{disk.path} holds {found}: `{clear} {disk.path}` clears it if it is not needed"


def _describe(one: Signature) -> str:
    if _is_table(one):
        return "a boot sector" if one.kind == BOOT_SECTOR else f"a partition table ({one.kind})"
    if one.usage == "raid":
        known = {"LVM2_member": "a physical volume of LVM", "zfs_member": "a member of a ZFS pool"}
        return known.get(one.kind, f"a member of a RAID array ({one.kind})")
    known = {
        "swap": "swap space",
        "crypto_LUKS": "encrypted data (LUKS)",
        "zfs_member": "a member of a ZFS pool",
    }
    label = f", label {one.label[:16]}" if one.label else ""
    what = "file system" if one.usage == "filesystem" else "signature"
    return known.get(one.kind, f"a foreign {one.kind} {what}{label}")


def _other_kind(disk: Disk, found: Signature, request: Request) -> str:
    return (
        f"{disk.path} holds {_article(found.kind)} file system while {KIND_KEY}={request.kind}: set"
        f" it to {found.kind} to adopt it, or clear it with `wipefs -a {disk.path}`"
    )


def _not_ours(disk: Disk, found: Signature, request: Request, sight: DiskSight) -> str:
    """Name both ways out; the UUID is what makes the file system ours."""
    uuid = own_uuid(sight.machine_id, disk)
    tool = "xfs_admin" if found.kind == "xfs" else "tune2fs"
    return (
        f"{disk.path} holds {_describe(found)}: `{tool} -L {request.label} -U {uuid} {disk.path}`"
        f" adopts it, `wipefs -a {disk.path}` clears it"
    )


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiox" else f"a {kind}"


def _absence(selector: Selector, sight: DiskSight) -> str:
    if selector.path is not None:
        return f"{selector.path} is not there, or is no block device: is the disk attached?"
    what = (
        f"with the serial number {selector.serial}"
        if selector.serial is not None
        else f"of about {size_words(selector.size_bytes or 0)} that is not in use"
    )
    there = (
        ", ".join(f"{disk.path} ({size_words(disk.size_bytes)})" for disk in sight.disks) or "none"
    )
    return f"there is no disk {what}: is it attached? Those there are: {there}"


def _is_table(one: Signature) -> bool:
    return not one.usage


def size_words(size_bytes: int) -> str:
    """Say how large a disk is."""
    for unit, words in ((1024**4, "TiB"), (1024**3, "GiB")):
        if size_bytes >= unit:
            return f"{size_bytes / unit:.4g} {words}"
    return f"{size_bytes / 1024**2:.4g} MiB"
