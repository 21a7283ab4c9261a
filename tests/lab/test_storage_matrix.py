"""The disk of a storage node on real devices: not one byte of a refused device changes.

The disks are loop devices of the box, looked at and formatted by the agent's own edge. Only the
service manager is played: it mounts what the unit says.
"""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import pytest

from appliance.diskactions import RECORD, DiskRecord, FormatDisk, record_of
from appliance.errors import CommandError, FileError
from appliance.facts import Facts, FactsWanted, gather_facts
from appliance.plan import Action
from appliance.render import render
from appliance.service import Service
from appliance.system import System
from appliance.system.commands import Completed, RealCommands
from appliance.system.disks import RealDisks, Signature
from appliance.system.files import RealFiles
from roles.common.disk import StorageParams, disk_probes, disk_verdict, mount_unit_name, plan_disk
from roles.common.diskchoice import (
    Absent,
    Mounted,
    Refused,
    ToFormat,
    ToMount,
    Verdict,
    own_uuid,
)
from tests.fakes import FakeUnits, make_system
from tests.fakes.units import STOPPED
from tests.lab.basics import inside_box, run
from tests.lab.disk import MIB, Disk

pytestmark = pytest.mark.lab

NODES = Path("/dev/shm")
MACHINE_ID = "0123456789abcdef0123456789abcdef"
MARK = "longhorn-disk.cfg"
KINDS = ("xfs", "ext4")
BOTH_KINDS = pytest.mark.parametrize("kind", KINDS)


# --- a machine that has the disks of the box ------------------------------------------------------


class Machine:
    """The agent's edge over real disks, and a service manager that mounts.

    Attributes:
        place: Where the disk is to be mounted.
        files: The folder of the machine's own files.
        commands: What runs blkid, mount and mkfs.
        root: The folder that the machine is said to run from.
    """

    def __init__(self, folder: Path, services: dict[str, Service], kind: str = "xfs") -> None:
        self.place = folder / "longhorn"
        self.files = folder / "files"
        self.commands: RealCommands = RealCommands()
        self.root = "/"
        self.kind = kind
        self._templates = services["storage"].folders
        self._unit = mount_unit_name(str(self.place))
        self._units = FakeUnits({self._unit: STOPPED})
        self._units.whenever_loaded(self._unit, self._mount)
        (self.files / "etc").mkdir(parents=True)
        (self.files / "etc/machine-id").write_text(f"{MACHINE_ID}\n")

    @property
    def params(self) -> StorageParams:
        return StorageParams(str(NODES / "vdb"), self.kind, str(self.place), "STORAGE")

    @property
    def system(self) -> System:
        return make_system(
            files=RealFiles(str(self.files)),
            disks=RealDisks(self.commands, root=self.root, nodes=str(NODES)),
            units=self._units,
        )

    def facts(self) -> Facts:
        return gather_facts(self.system, FactsWanted(probes=disk_probes(self.params)))

    def verdict(self) -> Verdict:
        verdict = disk_verdict(self.params, self.facts())
        assert verdict is not None
        return verdict

    def plan(self) -> tuple[Action, ...]:
        return plan_disk(self.params, self.facts(), partial(render, self._templates))

    def converge(self) -> int:
        """Carry out the plan; return how many changes it took."""
        changed = 0
        for action in self.plan():
            if action.check(self.system, frozenset()) is not None:
                action.apply(self.system)
                assert action.check(self.system, frozenset()) is None
                changed += 1
        return changed

    def remember(self, record: DiskRecord) -> None:
        RealFiles(str(self.files)).write(RECORD, record.to_text(), mode=0o600)

    def restart(self) -> None:
        """Unmount, as a shutdown does."""
        run(["umount", str(self.place)])
        stopped = replace(self._units.states[self._unit], active="inactive", sub="dead")
        self._units.states[self._unit] = stopped

    def close(self) -> None:
        run(["umount", str(self.place)], check=False)

    def _mount(self) -> None:
        text = (self.files / "etc/systemd/system" / self._unit).read_text()
        found = dict(re.findall(r"^(What|Where|Type)=(.*)$", text, re.MULTILINE))
        uuid = found["What"].removeprefix("/dev/disk/by-uuid/")
        (node,) = (one for one in NODES.iterdir() if blkid(one, "UUID") == uuid)
        Path(found["Where"]).mkdir(exist_ok=True)
        run(["mount", "-t", found["Type"], str(node), found["Where"]])


@pytest.fixture
def nodes() -> Iterator[Path]:
    """An empty folder below /dev, of the box alone."""
    if not inside_box():
        pytest.fail("it needs the lab's box: python3 -m tests.lab box -- .venv/bin/pytest -m lab")
    run(["mount", "-t", "tmpfs", "tmpfs", str(NODES)])
    yield NODES
    run(["umount", "--lazy", str(NODES)])


@pytest.fixture
def disks(nodes: Path) -> Iterator[list[Disk]]:
    """The disks of a test, closed at its end."""
    made: list[Disk] = []
    yield made
    for disk in made:
        disk.close()


MakeDisk = Callable[..., Disk]


@pytest.fixture
def make(disks: list[Disk]) -> MakeDisk:
    """Make a disk and plug it in."""

    def make_disk(name: str = "vdb", size_mib: int = 300) -> Disk:
        disk = Disk(size_mib, name)
        disks.append(disk)
        plug(disk, name)
        return disk

    return make_disk


@pytest.fixture
def machine(tmp_path: Path, services: dict[str, Service], nodes: Path) -> Iterator[Machine]:
    made = Machine(tmp_path, services)
    yield made
    made.close()


def plug(disk: Disk, name: str) -> None:
    """Have a disk there under a name."""
    os.mknod(NODES / name, 0o600 | 0o60000, disk.device.stat().st_rdev)


def pull(name: str) -> None:
    """Have a name lead nowhere."""
    (NODES / name).unlink()


def blkid(node: Path | str, tag: str) -> str:
    argv = ["blkid", "--probe", "--output", "value", "--match-tag", tag, str(node)]
    return run(argv, check=False).stdout.strip()


def uuid_for(machine: Machine, name: str = "vdb") -> str:
    """The UUID the machine would give the file system of a disk."""
    disk = machine.system.disks.examine(PurePosixPath(NODES / name))
    assert disk is not None
    return own_uuid(MACHINE_ID, disk)


def mkfs(disk: Disk, kind: str, label: str = "", uuid: str | None = None) -> None:
    options = ["-q", "-L", label] if label else ["-q"]
    if uuid is not None:
        options += ["-m", f"uuid={uuid}"] if kind == "xfs" else ["-U", uuid]
    disk.run(f"mkfs.{kind}", *options)


@contextmanager
def mounted(disk: Disk, place: Path) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    run(["mount", str(disk.device), str(place)])
    try:
        yield place
    finally:
        run(["umount", str(place)])


def leave_dirty(disk: Disk, place: Path, *names: str) -> None:
    """Write files and lose the power, so that the log is to be replayed by the next mount."""
    with mounted(disk, place):
        for name in names:
            (place / name).write_text("{}\n")
        run(["xfs_io", "-x", "-c", "shutdown -f", str(place)])


def assert_sound(disk: Disk, kind: str) -> None:
    """Have the file system checked by its own tool; it must be unmounted."""
    if kind == "xfs":
        disk.run("xfs_repair", "-n")
    else:
        disk.run("e2fsck", "-f", "-n")


# --- what others leave on a disk, as bytes: their tools need what this kernel has not ----------


def partition_table(disk: Disk) -> None:
    """One Linux partition over the whole disk. Source: MBR, four entries at 446."""
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\xff\xff\xff", 2048, 100_000)
    disk.write(entry + bytes(48) + b"\x55\xaa", 446)


def empty_partition_table(disk: Disk) -> None:
    disk.write(struct.pack("<I", 0x12345678) + bytes(66) + b"\x55\xaa", 440)


def boot_sector(disk: Disk) -> None:
    """Code without a table that makes sense."""
    disk.write(b"\xeb\x3c" * 255 + b"\x55\xaa", 0)


def gpt(disk: Disk, *, damaged: bool = False) -> None:
    """A header and its copy, without partitions. Source: UEFI 2.10, 5.3."""
    last = disk.size_bytes // 512 - 1
    entries = bytes(128 * 128)

    def header(own: int, other: int, table: int) -> bytes:
        guid = bytes(range(16))
        fields = (own, other, 34, last - 33, guid, table, 128, 128, zlib.crc32(entries))
        fixed = struct.pack("<8sIIII", b"EFI PART", 0x10000, 92, 0, 0)
        rest = struct.pack("<QQQQ16sQIII", *fields)
        checksum = 0 if damaged else zlib.crc32(fixed + rest)
        return struct.pack("<8sIIII", b"EFI PART", 0x10000, 92, checksum, 0) + rest

    disk.write(header(1, last, 2), 512)
    disk.write(header(last, 1, last - 32), last * 512)


def protected_gpt(disk: Disk) -> None:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, 0xFFFFFFFF)
    disk.write(entry + bytes(48) + b"\x55\xaa", 446)
    gpt(disk)


def lvm(disk: Disk) -> None:
    """The label of a physical volume. Source: LVM2, lib/format_text/layout.h; CRC of lib/misc."""
    content = struct.pack("<I8s32s", 32, b"LVM2 001", b"0123456789abcdef0123456789abcdef")
    content += struct.pack("<Q", disk.size_bytes)
    content = content.ljust(512 - 20, b"\0")
    crc = zlib.crc32(content, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    disk.write(b"LABELONE" + struct.pack("<QI", 1, crc) + content, 512)


def raid(disk: Disk) -> None:
    """A superblock of version 1.2. Source: linux/raid/md_p.h, struct mdp_superblock_1."""
    block = struct.pack("<IIII16s32s", 0xA92B4EFC, 1, 0, 0, bytes(range(16)), b"node:0")
    block += struct.pack("<QIIQIIII", 0, 1, 0, 1000, 0, 2, 0, 0)
    block = block.ljust(128, b"\0") + struct.pack("<QQQQ", 2048, 1000, 8, 0)
    block = block.ljust(216, b"\0")
    total = sum(struct.unpack("<54I", block))
    checksum = (total & 0xFFFFFFFF) + (total >> 32)
    disk.write(block + struct.pack("<II", checksum & 0xFFFFFFFF, 0), 4096)


def luks(disk: Disk) -> None:
    """A header. Source: LUKS1 on-disk format, figure 1."""
    header = struct.pack(">6sH32s32s32sII", b"LUKS\xba\xbe", 1, b"aes", b"xts", b"sha256", 4096, 64)
    header = header.ljust(168, b"\0") + b"11111111-2222-4333-8444-555555555555"
    disk.write(header, 0)


def zfs(disk: Disk) -> None:
    """Uberblocks in the four labels. Source: ZFS on-disk specification, 1.3."""
    uberblock = struct.pack("<QQQQQ", 0x00BAB10C, 5000, 10, 12345, 1700000000).ljust(1024, b"\0")
    end = disk.size_bytes // (256 * 1024) * 256 * 1024
    for label in (0, 256 * 1024, end - 512 * 1024, end - 256 * 1024):
        disk.write(uberblock * 32, label + 128 * 1024)


def two_at_once(disk: Disk) -> None:
    mkfs(disk, "ext4")
    lvm(disk)


def foreign(kind: str, label: str = "") -> Callable[[Disk], None]:
    return lambda disk: mkfs(disk, kind, label)


def swap(disk: Disk) -> None:
    disk.run("mkswap")


FOREIGN: dict[str, tuple[Callable[[Disk], None], str]] = {
    "xfs": (foreign("xfs"), "foreign xfs file system"),
    "xfs with our label": (foreign("xfs", "STORAGE"), "foreign xfs file system, label STORAGE"),
    "ext4": (foreign("ext4"), "holds an ext4 file system while ONEAPP_STORAGE_FILESYSTEM=xfs"),
    "ext2": (lambda disk: disk.run("mkfs.ext2", "-q"), "foreign ext2 file system"),
    "dos partitions": (partition_table, "a partition table (dos)"),
    "dos without partitions": (empty_partition_table, "a partition table (dos)"),
    "gpt": (protected_gpt, "a partition table (gpt)"),
    "gpt of which the first sector is lost": (gpt, "a partition table (gpt)"),
    "gpt that is damaged": (partial(gpt, damaged=True), "a partition table (damaged gpt)"),
    "a boot sector": (boot_sector, "a boot sector"),
    "LVM": (lvm, "a physical volume of LVM"),
    "RAID member": (raid, "a member of a RAID array (linux_raid_member)"),
    "swap": (swap, "swap space"),
    "LUKS": (luks, "encrypted data (LUKS)"),
    "ZFS": (zfs, "a member of a ZFS pool"),
    "two at once": (two_at_once, "a physical volume of LVM"),
}


def refuse(machine: Machine, disks: Sequence[Disk], found: str) -> None:
    """Let the agent do all it does, and prove that it left the disks alone."""
    before = [disk.checksum() for disk in disks]
    verdict = machine.verdict()
    assert isinstance(verdict, Refused), verdict
    assert found in verdict.reason
    machine.converge()
    machine.verdict()
    assert [disk.checksum() for disk in disks] == before
    assert not any(Path("/run/oneke/peek").iterdir()) if Path("/run/oneke/peek").exists() else True
    assert not (machine.files / RECORD.relative_to("/")).exists()


# --- empty ----------------------------------------------------------------------------------------


@BOTH_KINDS
def test_an_empty_disk_becomes_ours_once(machine: Machine, make: MakeDisk, kind: str) -> None:
    machine.kind = kind
    disk = make()
    assert isinstance(machine.verdict(), ToFormat)
    assert machine.converge() == 4
    assert isinstance(machine.verdict(), Mounted)
    (machine.place / "replica").write_text("data")
    assert machine.converge() == 0
    assert blkid(NODES / "vdb", "LABEL") == "STORAGE"
    assert blkid(NODES / "vdb", "TYPE") == kind
    machine.restart()
    assert_sound(disk, kind)
    assert isinstance(machine.verdict(), ToMount)
    assert machine.converge() == 1
    assert (machine.place / "replica").read_text() == "data"


def test_a_disk_that_was_cleared_as_told_is_empty(machine: Machine, make: MakeDisk) -> None:
    for leave, _ in FOREIGN.values():
        disk = make()
        leave(disk)
        verdict = machine.verdict()
        assert isinstance(verdict, Refused)
        command = re.search(r"`((?:wipefs -a|blkdiscard -z) \S+)`", verdict.reason)
        assert command, verdict.reason
        run(command[1].split())
        assert isinstance(machine.verdict(), ToFormat), verdict.reason
        pull("vdb")
        disk.close()


# --- ours, and what is adopted --------------------------------------------------------------------


@BOTH_KINDS
def test_our_file_system_is_mounted_as_it_is(
    machine: Machine, make: MakeDisk, tmp_path: Path, kind: str
) -> None:
    machine.kind = kind
    disk = make()
    mkfs(disk, kind, "STORAGE", uuid_for(machine))
    leave_dirty(disk, tmp_path / "before", "replica")
    before = disk.checksum()
    assert isinstance(machine.verdict(), ToMount)
    assert disk.checksum() == before
    machine.converge()
    assert isinstance(machine.verdict(), Mounted)
    assert (machine.place / "replica").exists()


@BOTH_KINDS
def test_a_disk_with_longhorns_mark_is_adopted_and_looking_changes_nothing(
    machine: Machine, make: MakeDisk, tmp_path: Path, kind: str
) -> None:
    machine.kind = kind
    disk = make()
    mkfs(disk, kind)
    with mounted(disk, tmp_path / "before") as place:
        (place / MARK).write_text("{}\n")
    leave_dirty(disk, tmp_path / "before", "replica")
    before = disk.checksum()
    verdict = machine.verdict()
    assert isinstance(verdict, ToMount), verdict
    assert disk.checksum() == before, "no log was replayed"
    machine.converge()
    assert isinstance(machine.verdict(), Mounted)
    assert (machine.place / "replica").exists()
    assert machine.converge() == 0


@BOTH_KINDS
def test_a_foreign_file_system_with_a_log_to_replay_is_left_alone(
    machine: Machine, make: MakeDisk, tmp_path: Path, kind: str
) -> None:
    machine.kind = kind
    disk = make()
    mkfs(disk, kind)
    leave_dirty(disk, tmp_path / "before", "data")
    refuse(machine, [disk], f"a foreign {kind} file system")


@BOTH_KINDS
def test_the_command_that_is_told_adopts_a_foreign_file_system(
    machine: Machine, make: MakeDisk, tmp_path: Path, kind: str
) -> None:
    machine.kind = kind
    disk = make()
    mkfs(disk, kind)
    with mounted(disk, tmp_path / "before") as place:
        (place / "data").write_text("kept")
    verdict = machine.verdict()
    assert isinstance(verdict, Refused)
    command = re.search(r"`((?:xfs_admin|tune2fs) [^`]+)`", verdict.reason)
    assert command, verdict.reason
    run(command[1].split())
    assert isinstance(machine.verdict(), ToMount)
    machine.converge()
    assert (machine.place / "data").read_text() == "kept"


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leave", "found"), FOREIGN.values(), ids=FOREIGN)
def test_a_disk_that_holds_something_is_left_alone(
    machine: Machine, make: MakeDisk, leave: Callable[[Disk], None], found: str
) -> None:
    disk = make()
    leave(disk)
    refuse(machine, [disk], found)


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_mounted_disk_is_left_alone(
    machine: Machine, make: MakeDisk, tmp_path: Path, kind: str
) -> None:
    disk = make()
    mkfs(disk, kind, "STORAGE", uuid_for(machine))
    with mounted(disk, tmp_path / "elsewhere") as place:
        refuse(machine, [disk], f"is mounted at {place}")


def test_a_disk_that_is_mounted_in_another_namespace_only_is_left_alone(
    machine: Machine, make: MakeDisk, tmp_path: Path
) -> None:
    disk = make()
    mkfs(disk, "xfs", "STORAGE", uuid_for(machine))
    script = f"mount {disk.device} {tmp_path} && echo done && exec sleep 60"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"done\n"
        refuse(machine, [disk], "is in use by another program or container")
        other.kill()


def test_the_disk_the_machine_runs_from_is_left_alone(
    machine: Machine, make: MakeDisk, tmp_path: Path
) -> None:
    disk = make()
    mkfs(disk, "xfs", "STORAGE", uuid_for(machine))
    with mounted(disk, tmp_path / "system"):
        machine.root = str(tmp_path / "system")
        refuse(machine, [disk], "is the disk this machine runs from, or a part of it")


def test_the_disk_of_this_very_machine_is_known_as_such() -> None:
    root = PurePosixPath("/")
    for disk in RealDisks(RealCommands()).all():
        assert disk.is_system or root not in disk.mounted_at


def test_a_disk_that_is_too_small_is_left_alone(machine: Machine, make: MakeDisk) -> None:
    refuse(machine, [make(size_mib=299)], "is too small: 299 MiB")


def test_a_disk_of_the_least_size_is_formatted(machine: Machine, make: MakeDisk) -> None:
    make(size_mib=300)
    machine.converge()
    assert isinstance(machine.verdict(), Mounted)


@pytest.mark.parametrize("holds", [None, "xfs"])
def test_a_disk_that_can_not_be_written_is_left_alone(
    machine: Machine, make: MakeDisk, holds: str | None
) -> None:
    disk = make()
    if holds:
        mkfs(disk, holds, "STORAGE", uuid_for(machine))
    disk.run("blockdev", "--setro")
    try:
        refuse(machine, [disk], "is attached read-only")
    finally:
        # A loop device keeps that for whoever gets it next.
        disk.run("blockdev", "--setrw")


def test_a_disk_that_can_not_be_read_to_its_end_is_left_alone(
    machine: Machine, make: MakeDisk
) -> None:
    disk = make()
    os.truncate(disk.device.with_suffix(".img"), disk.size_bytes // 2)
    refuse(machine, [disk], "can not be read: Input/output error")


def test_a_disk_that_somebody_has_for_himself_is_left_alone(
    machine: Machine, make: MakeDisk
) -> None:
    disk = make()
    handle = os.open(disk.device, os.O_RDONLY | os.O_EXCL)
    try:
        refuse(machine, [disk], "is in use by another program or container")
    finally:
        os.close(handle)
    assert isinstance(machine.verdict(), ToFormat)


def test_two_copies_of_one_file_system_are_left_alone(machine: Machine, make: MakeDisk) -> None:
    disks = [make(), make("vdc")]
    for disk in disks:
        mkfs(disk, "xfs", "STORAGE", "6f6e656b-6500-8000-8000-000000000001")
    refuse(machine, disks, "carry the same file system")


# --- what changes between the look and the act ----------------------------------------------------


def test_a_disk_that_vanishes_before_it_is_formatted_is_an_error_that_passes(
    machine: Machine, make: MakeDisk
) -> None:
    disk = make()
    plan = machine.plan()
    pull("vdb")
    disk.close()
    (formatting,) = (action for action in plan if isinstance(action, FormatDisk))
    with pytest.raises(FileError, match="nothing was written"):
        formatting.apply(machine.system)
    assert isinstance(machine.verdict(), Absent)
    make()
    machine.converge()
    assert isinstance(machine.verdict(), Mounted)


def test_a_disk_of_which_only_the_node_is_left_is_no_disk(machine: Machine, make: MakeDisk) -> None:
    make().close()
    verdict = machine.verdict()
    assert isinstance(verdict, Absent | Refused)


@pytest.mark.parametrize(
    "happens", ["somebody formats it", "another takes its name", "somebody holds it", "mounted"]
)
def test_what_happens_after_the_look_is_seen_before_the_first_byte_is_written(
    machine: Machine, make: MakeDisk, tmp_path: Path, happens: str
) -> None:
    disk = make()
    (formatting,) = (action for action in machine.plan() if isinstance(action, FormatDisk))
    victim, handle = disk, -1
    if happens == "another takes its name":
        pull("vdb")
        victim = make("vdb", size_mib=301)
    elif happens == "somebody holds it":
        handle = os.open(disk.device, os.O_RDONLY | os.O_EXCL)
    else:
        mkfs(disk, "ext4")
    if happens == "mounted":
        (tmp_path / "before").mkdir()
        run(["mount", str(disk.device), str(tmp_path / "before")])
    before = victim.checksum()
    with pytest.raises(FileError, match="nothing was written"):
        formatting.apply(machine.system)
    assert victim.checksum() == before
    if happens == "mounted":
        run(["umount", str(tmp_path / "before")])
    if handle >= 0:
        os.close(handle)


def test_a_disk_that_is_renamed_between_boots_is_the_same_disk(
    machine: Machine, make: MakeDisk
) -> None:
    disk = make()
    machine.converge()
    (machine.place / "replica").write_text("data")
    machine.restart()
    pull("vdb")
    plug(disk, "vdd")
    empty = make("vdb")
    before = empty.checksum()
    machine.converge()
    verdict = machine.verdict()
    assert isinstance(verdict, Mounted)
    assert verdict.disk.path == PurePosixPath(NODES / "vdd")
    assert (machine.place / "replica").read_text() == "data"
    assert empty.checksum() == before


def test_no_other_disk_takes_the_place_of_one_that_is_missing(
    machine: Machine, make: MakeDisk
) -> None:
    make()
    machine.converge()
    machine.restart()
    pull("vdb")
    other = make("vdb")
    before = other.checksum()
    assert isinstance(machine.verdict(), Absent)
    machine.converge()
    assert other.checksum() == before


# --- a power cut in the middle of formatting ------------------------------------------------------


class Killer(RealCommands):
    """Kills mkfs a while after it began, as a power cut would."""

    def __init__(self, after_s: float) -> None:
        super().__init__()
        self.after_s = after_s
        self.was_killed = False

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 30,
        stdin: str | None = None,
        check: bool = True,
    ) -> Completed:
        if not argv[0].startswith("mkfs."):
            return super().run(argv, timeout_s=timeout_s, stdin=stdin, check=check)
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
            time.sleep(self.after_s)
            process.kill()
            self.was_killed = process.wait() != 0
        raise CommandError(argv, None, "", "", "the power was cut")


@BOTH_KINDS
def test_mkfs_killed_at_any_moment_is_taken_up_again(
    machine: Machine, make: MakeDisk, kind: str
) -> None:
    machine.kind = kind
    killed = 0
    for moment in range(12):
        disk = make()
        machine.commands = killer = Killer(moment * 0.002)
        with pytest.raises(CommandError):
            machine.converge()
        killed += killer.was_killed
        machine.commands = RealCommands()
        assert isinstance(machine.verdict(), ToFormat)
        machine.converge()
        assert isinstance(machine.verdict(), Mounted)
        machine.restart()
        assert_sound(disk, kind)
        pull("vdb")
        disk.close()
        (machine.files / RECORD.relative_to("/")).unlink()
    assert killed, "some of them were killed before they ended"


@BOTH_KINDS
@pytest.mark.parametrize("seed", range(8))
def test_whatever_part_of_a_file_system_reached_the_disk_it_is_made_anew(
    machine: Machine, make: MakeDisk, kind: str, seed: int
) -> None:
    """A disk may write in any order: some of the blocks of a whole file system are there."""
    machine.kind = kind
    whole, half = make("vdc"), make("vdb")
    blank = machine.system.disks.examine(PurePosixPath(NODES / "vdb"))
    assert blank is not None
    made = Signature(kind, "filesystem", "STORAGE", own_uuid(MACHINE_ID, blank))
    mkfs(whole, kind, "STORAGE", made.uuid)
    copy_some_blocks(whole, half, random.Random(seed), share=(seed + 1) / 9)
    pull("vdc")
    machine.remember(record_of(blank, made, is_made=False))
    verdict = machine.verdict()
    assert isinstance(verdict, ToFormat), verdict
    machine.converge()
    assert isinstance(machine.verdict(), Mounted)
    assert list(machine.place.iterdir()) in ([], [machine.place / "lost+found"])
    machine.restart()
    assert_sound(half, kind)


def copy_some_blocks(whole: Disk, part: Disk, chance: random.Random, share: float) -> None:
    """Copy each written block or not; the first, which tells what it is, always."""
    size, handle = 4096, os.open(part.device, os.O_WRONLY)
    for offset in range(0, whole.size_bytes, MIB):
        data = whole.read(MIB, offset)
        for start in range(0, MIB if any(data) else 0, size):
            block = data[start : start + size]
            if any(block) and (offset + start == 0 or chance.random() < share):
                os.pwrite(handle, block, offset + start)
    os.fsync(handle)
    os.close(handle)


@BOTH_KINDS
def test_a_file_system_that_was_begun_and_is_in_use_by_now_is_kept(
    machine: Machine, make: MakeDisk, tmp_path: Path, kind: str
) -> None:
    machine.kind = kind
    disk = make()
    blank = machine.system.disks.examine(PurePosixPath(NODES / "vdb"))
    assert blank is not None
    made = Signature(kind, "filesystem", "STORAGE", own_uuid(MACHINE_ID, blank))
    mkfs(disk, kind, "STORAGE", made.uuid)
    leave_dirty(disk, tmp_path / "before", "first")
    with mounted(disk, tmp_path / "before") as place:
        (place / "replica").write_text("data")
    machine.remember(record_of(blank, made, is_made=False))
    assert isinstance(machine.verdict(), ToMount)
    machine.converge()
    assert (machine.place / "replica").read_text() == "data"


def test_a_foreign_disk_under_the_name_of_one_that_was_begun_is_left_alone(
    machine: Machine, make: MakeDisk
) -> None:
    disk = make()
    blank = machine.system.disks.examine(PurePosixPath(NODES / "vdb"))
    assert blank is not None
    made = Signature("xfs", "filesystem", "STORAGE", own_uuid(MACHINE_ID, blank))
    machine.remember(record_of(blank, made, is_made=False))
    mkfs(disk, "xfs", "STORAGE")
    before = disk.checksum()
    assert isinstance(machine.verdict(), Refused)
    machine.converge()
    assert disk.checksum() == before
