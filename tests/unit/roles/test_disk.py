"""A storage node's disk: what is formatted, what is mounted, and all that is left alone."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import partial
from pathlib import PurePosixPath

import pytest

from appliance.actions import RunUnit, WriteFile
from appliance.context import Context
from appliance.diskactions import RECORD, DiskRecord, FormatDisk
from appliance.facts import Facts, FactsWanted, gather_facts
from appliance.parameters import parse_parameters
from appliance.plan import Action, GiveUp, Pause
from appliance.render import render
from appliance.service import Service
from appliance.system import System
from appliance.system.disks import Disk, Signature
from appliance.waiting import Failed, NotYet, Ready
from roles.common.disk import (
    StorageParams,
    check_disk,
    describe_disk,
    disk_pause,
    disk_probes,
    disk_readiness,
    disk_verdict,
    mount_unit_name,
    plan_disk,
)
from roles.common.diskchoice import (
    Absent,
    Mounted,
    Refused,
    ToFormat,
    ToMount,
    Verdict,
    own_uuid,
)
from tests.fakes import FakeDisks, FakeFiles, FakeUnits, PowerCut, Tape, make_disk, make_system
from tests.fakes.units import STOPPED

PARAMS = StorageParams("/dev/vdb", "xfs", "/var/lib/longhorn", "STORAGE")
PLACE, UNIT = "/var/lib/longhorn", "var-lib-longhorn.mount"
MACHINE_ID = "0123456789abcdef0123456789abcdef"
ROOT_DISK = make_disk(
    "/dev/vda",
    10,
    is_system=True,
    is_busy=True,
    partitions=("vda1",),
    mounted_at=(PurePosixPath("/"),),
    signatures=(Signature("gpt"),),
)
OURS = Signature("xfs", "filesystem", "STORAGE", own_uuid(MACHINE_ID, make_disk()))
FOREIGN = Signature("xfs", "filesystem", "data", "11111111-2222-4333-8444-555555555555")
FOREIGN_EXT4 = replace(FOREIGN, kind="ext4")


class Machine:
    """A storage node made of fakes: the root disk, and /dev/vdb if there is one."""

    def __init__(self, *disks: Disk, params: StorageParams = PARAMS) -> None:
        self.params = params
        self.tape = Tape()
        self.files = FakeFiles({"/etc/machine-id": f"{MACHINE_ID}\n"}, tape=self.tape)
        self.disks = FakeDisks((ROOT_DISK, *disks), tape=self.tape)
        self.units = FakeUnits({UNIT: STOPPED}, tape=self.tape)
        self.units.whenever_loaded(UNIT, self._mount)

    @property
    def system(self) -> System:
        return make_system(files=self.files, disks=self.disks, units=self.units, tape=self.tape)

    def facts(self) -> Facts:
        return gather_facts(self.system, FactsWanted(probes=disk_probes(self.params)))

    def verdict(self) -> Verdict:
        verdict = disk_verdict(self.params, self.facts())
        assert verdict is not None
        return verdict

    def plan(self, services: dict[str, Service]) -> tuple[Action, ...]:
        turn = partial(render, services["storage"].folders)
        return plan_disk(self.params, self.facts(), turn)

    def converge(self, services: dict[str, Service]) -> int:
        """Carry out the plan, and return how many changes that took."""
        changed = 0
        for action in self.plan(services):
            if action.check(self.system, frozenset()) is not None:
                action.apply(self.system)
                assert action.check(self.system, frozenset()) is None
                changed += 1
        return changed

    def restart(self) -> None:
        """Switch it off and on; the mount unit is tried again if it was enabled."""
        self.files.restart()
        self.disks.restart()
        state = self.units.states[UNIT]
        self.units.states[UNIT] = replace(state, active="inactive", sub="dead")

    def remember(self, **changes: object) -> None:
        """Have the note of a disk that was made before."""
        record = DiskRecord(OURS.uuid, "xfs", "STORAGE", True, make_disk().size_bytes, "", "")
        self.files.put(RECORD, replace(record, **changes).to_text())

    def _mount(self) -> None:
        """Do what systemd and mount(8) do with the unit."""
        found = re.search(r"by-uuid/(\S+)", self.files.text(f"/etc/systemd/system/{UNIT}"))
        assert found
        (disk,) = (
            disk
            for disk in self.disks.plugged.values()
            if any(one.uuid == found[1] for one in disk.signatures)
        )
        self.disks.mount(str(disk.path), PLACE)


def params(**changes: str | None) -> StorageParams:
    return replace(PARAMS, **changes)


# --- an empty disk --------------------------------------------------------------------------------


def test_an_empty_disk_is_formatted_and_mounted_and_a_second_run_changes_nothing(
    services: dict[str, Service],
) -> None:
    machine = Machine(make_disk())
    assert isinstance(machine.verdict(), ToFormat)
    assert isinstance(disk_readiness(PARAMS, machine.facts()), NotYet)
    assert machine.converge(services) == 4
    assert isinstance(machine.verdict(), Mounted)
    assert isinstance(disk_readiness(PARAMS, machine.facts()), Ready)
    assert machine.converge(services) == 0
    assert machine.tape.find("disks.") == [
        "disks.format /dev/vdb xfs",
        "disks.formatted /dev/vdb xfs",
    ]


def test_the_file_system_carries_label_and_mark(services: dict[str, Service]) -> None:
    machine = Machine(make_disk(), params=params(filesystem="ext4", label="DATA"))
    machine.converge(services)
    (made,) = machine.disks.plugged[PurePosixPath("/dev/vdb")].signatures
    assert (made.kind, made.label) == ("ext4", "DATA")
    assert re.fullmatch(r"6f6e656b-65\w\w-8\w{3}-[89ab]\w{3}-\w{12}", made.uuid)


def test_the_mount_unit_is_by_uuid_and_before_rke2_which_needs_it(
    services: dict[str, Service],
) -> None:
    machine = Machine(make_disk())
    machine.converge(services)
    unit = machine.files.text(f"/etc/systemd/system/{UNIT}")
    assert f"What=/dev/disk/by-uuid/{OURS.uuid}\n" in unit
    assert "Options=nofail\n" in unit
    assert "Before=rke2-agent.service\n" in unit
    drop_in = "/etc/systemd/system/rke2-agent.service.d/50-oneke-storage.conf"
    assert f"RequiresMountsFor={PLACE}\n" in machine.files.text(drop_in)
    assert machine.units.states[UNIT].enabled == "enabled"


def test_the_same_machine_plans_the_same_uuid_and_another_one_another() -> None:
    disk = make_disk()
    assert own_uuid("a", disk) == own_uuid("a", disk)
    others = {own_uuid("b", disk), own_uuid("a", replace(disk, serial="x")), own_uuid("a", disk, 1)}
    assert len(others | {own_uuid("a", disk)}) == 4


def test_a_uuid_that_another_disk_carries_is_not_given_twice() -> None:
    machine = Machine(make_disk(), make_disk("/dev/vdc", signatures=(OURS,)))
    verdict = machine.verdict()
    assert isinstance(verdict, ToFormat)
    assert verdict.made.uuid not in ("", OURS.uuid)


def test_without_a_device_no_disk_is_looked_at_or_prepared(services: dict[str, Service]) -> None:
    machine = Machine(make_disk(), params=params(device=None))
    assert disk_probes(machine.params) == ()
    assert machine.plan(services) == ()
    assert isinstance(disk_readiness(machine.params, Facts()), Ready)
    (line,) = describe_disk(machine.params, Facts())
    assert "none is prepared" in line.state
    assert check_disk(machine.params).warnings


# --- what is mounted as it is ---------------------------------------------------------------------


def test_templates_of_the_1_24_generation_have_their_disk_at_vdb(
    services: dict[str, Service],
) -> None:
    entries = {"storage": services["storage"].entries}
    for given in ({}, {"ONEAPP_STORAGE_DEVICE": ""}):
        context = Context(given, "test")
        before = parse_parameters(entries, context, legacy=True).values["storage"]
        today = parse_parameters(entries, context, legacy=False).values["storage"]
        assert (before["device"], today["device"]) == ("/dev/vdb", None)
        assert (today["filesystem"], today["mountpoint"]) == ("xfs", "/var/lib/longhorn")


def test_our_own_file_system_is_mounted_as_it_is_on_a_rebuilt_machine(
    services: dict[str, Service],
) -> None:
    machine = Machine(make_disk())
    machine.disks.put_filesystem("/dev/vdb", OURS, "replicas")
    assert isinstance(machine.verdict(), ToMount)
    machine.converge(services)
    assert isinstance(machine.verdict(), Mounted)
    assert machine.tape.find("disks.") == []


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_disk_with_longhorns_mark_is_adopted(kind: str, services: dict[str, Service]) -> None:
    machine = Machine(make_disk(), params=params(filesystem=kind))
    machine.disks.put_filesystem("/dev/vdb", replace(FOREIGN, kind=kind), "longhorn-disk.cfg")
    machine.converge(services)
    assert isinstance(machine.verdict(), Mounted)
    assert machine.tape.find("disks.") == []
    machine.restart()
    machine.disks.roots[FOREIGN.uuid] = ()
    assert isinstance(machine.verdict(), ToMount), "it is known by now"
    assert machine.converge(services) == 1


def test_longhorns_mark_on_another_kind_than_asked_for_is_no_reason_to_adopt() -> None:
    machine = Machine(make_disk())
    machine.disks.put_filesystem("/dev/vdb", FOREIGN_EXT4, "longhorn-disk.cfg")
    verdict = machine.verdict()
    assert isinstance(verdict, Refused)
    assert "ONEAPP_STORAGE_FILESYSTEM=xfs" in verdict.reason
    assert "set it to ext4" in verdict.reason


@pytest.mark.parametrize(
    "almost",
    [
        replace(OURS, label="OTHER"),
        replace(OURS, uuid=FOREIGN.uuid),
        replace(OURS, uuid=OURS.uuid[:14] + "4" + OURS.uuid[15:]),
    ],
)
def test_a_label_or_a_uuid_alone_does_not_make_it_ours(almost: Signature) -> None:
    machine = Machine(make_disk())
    machine.disks.put_filesystem("/dev/vdb", almost, "somebody's data")
    assert isinstance(machine.verdict(), Refused)


def test_what_an_administrator_mounted_there_is_taken_over(services: dict[str, Service]) -> None:
    machine = Machine(make_disk())
    machine.disks.put_filesystem("/dev/vdb", FOREIGN)
    machine.disks.mount("/dev/vdb", PLACE)
    assert isinstance(machine.verdict(), Mounted)
    machine.units.states[UNIT] = replace(STOPPED, active="active", enabled="enabled")
    machine.converge(services)
    assert FOREIGN.uuid in machine.files.text(RECORD)


# --- what is refused ------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Disk, str, str]] = {
    "foreign xfs": (make_disk(signatures=(FOREIGN,)), "foreign xfs file system", "xfs_admin -L"),
    "foreign ext4": (make_disk(signatures=(FOREIGN_EXT4,)), "an ext4 file system", "set it to"),
    "ntfs": (
        make_disk(signatures=(replace(FOREIGN, kind="ntfs"),)),
        "foreign ntfs file system",
        "wipefs -a",
    ),
    "dos": (make_disk(signatures=(Signature("dos"),)), "a partition table (dos)", "wipefs -a"),
    "gpt": (
        make_disk(signatures=(Signature("gpt"), Signature("PMBR")), partitions=("vdb1", "vdb2")),
        "a partition table (gpt)",
        "wipefs -a",
    ),
    "lvm": (
        make_disk(signatures=(Signature("LVM2_member", "raid"),)),
        "a physical volume of LVM",
        "wipefs -a",
    ),
    "raid": (
        make_disk(signatures=(Signature("linux_raid_member", "raid"),)),
        "a member of a RAID array (linux_raid_member)",
        "wipefs -a",
    ),
    "swap": (make_disk(signatures=(Signature("swap", "other"),)), "swap space", "wipefs -a"),
    "luks": (make_disk(signatures=(Signature("crypto_LUKS", "crypto"),)), "LUKS", "wipefs -a"),
    "zfs": (
        make_disk(signatures=(Signature("zfs_member", "filesystem"),)),
        "a member of a ZFS pool",
        "wipefs -a",
    ),
    "two at once": (
        make_disk(signatures=(FOREIGN, Signature("LVM2_member", "raid"))),
        "foreign xfs file system, label data and a physical volume of LVM",
        "wipefs -a",
    ),
    "mounted": (
        make_disk(signatures=(OURS,), mounted_at=(PurePosixPath("/srv/data"),)),
        "is mounted at /srv/data",
        "umount /srv/data",
    ),
    "root disk": (make_disk(is_system=True), "the disk this machine runs from", "another one"),
    "partition": (make_disk(is_whole=False), "is a partition", "a whole disk"),
    "swap in use": (make_disk(is_swap=True), "swap space in use", "swapoff"),
    "held": (make_disk(holders=("dm-0",)), "in use by dm-0", "LVM"),
    "busy": (make_disk(is_busy=True), "in use by another program", "nobody else"),
    "read-only": (make_disk(is_read_only=True), "can not be written", "read-only"),
    "unreadable": (make_disk(trouble="Input/output error"), "can not be read", "Input/output"),
    "too small": (make_disk(size_gib=0.25), "too small: 256 MiB", "300 MiB"),
}


@pytest.mark.parametrize(("disk", "found", "way_out"), REFUSED.values(), ids=REFUSED)
def test_anything_else_is_refused_with_what_was_found_and_what_to_do(
    disk: Disk, found: str, way_out: str, services: dict[str, Service]
) -> None:
    machine = Machine(disk)
    verdict = machine.verdict()
    assert isinstance(verdict, Refused)
    assert found in verdict.reason
    assert way_out in verdict.reason
    assert "/dev/vdb" in verdict.reason
    assert len(verdict.reason) <= 200
    assert "\n" not in verdict.reason
    machine.converge(services)
    assert [one.removeprefix("files.write ") for one in machine.tape.changes] == [
        "/etc/systemd/system/rke2-agent.service.d/50-oneke-storage.conf"
    ], "RKE2 is kept from starting, and nothing else is done"
    assert isinstance(disk_pause(PARAMS, machine.facts()), GiveUp)
    readiness = disk_readiness(PARAMS, machine.facts())
    assert isinstance(readiness, Failed)
    assert verdict.reason in readiness.reason
    (line,) = describe_disk(PARAMS, machine.facts())
    assert line.state.startswith("failed: ")
    assert not line.is_well


@pytest.mark.parametrize(("disk", "found", "way_out"), REFUSED.values(), ids=REFUSED)
def test_only_a_file_system_nobody_uses_is_looked_into(
    disk: Disk, found: str, way_out: str
) -> None:
    machine = Machine(disk)
    machine.facts()
    assert machine.disks.looked_into == ([disk.path] if disk.signatures == (FOREIGN,) else [])


def test_what_is_known_to_be_ours_is_not_looked_into() -> None:
    machine = Machine(make_disk(signatures=(OURS,)))
    machine.facts()
    machine.remember()
    machine.facts()
    assert machine.disks.looked_into == []
    machine.remember(is_made=False)
    machine.facts()
    assert machine.disks.looked_into == [PurePosixPath("/dev/vdb")]


def test_the_command_that_adopts_makes_it_ours() -> None:
    machine = Machine(make_disk())
    machine.disks.put_filesystem("/dev/vdb", FOREIGN, "data")
    verdict = machine.verdict()
    assert isinstance(verdict, Refused)
    command = re.search(r"`xfs_admin -L (\S+) -U (\S+) /dev/vdb`", verdict.reason)
    assert command
    machine.disks.put_filesystem("/dev/vdb", replace(FOREIGN, label=command[1], uuid=command[2]))
    assert isinstance(machine.verdict(), ToMount)


def test_two_disks_with_the_same_file_system_are_refused() -> None:
    machine = Machine(make_disk(), make_disk("/dev/vdc"))
    machine.disks.put_filesystem("/dev/vdb", OURS)
    machine.disks.put_filesystem("/dev/vdc", OURS)
    for with_record in (False, True):
        if with_record:
            machine.remember()
        verdict = machine.verdict()
        assert isinstance(verdict, Refused)
        assert "/dev/vdb and /dev/vdc carry the same file system" in verdict.reason


@pytest.mark.parametrize("signatures", [(), (OURS,)])
def test_replicas_on_the_root_disk_are_not_hidden(signatures: tuple[Signature, ...]) -> None:
    machine = Machine(make_disk(signatures=signatures))
    machine.files.put(f"{PLACE}/longhorn-disk.cfg", "{}")
    verdict = machine.verdict()
    assert isinstance(verdict, Refused)
    assert "would hide" in verdict.reason


def test_a_place_where_something_else_is_mounted_is_refused() -> None:
    machine = Machine(make_disk(), make_disk("/dev/vdc", signatures=(FOREIGN,)))
    machine.disks.mount_other(PLACE)
    verdict = machine.verdict()
    assert isinstance(verdict, Refused)
    assert verdict.reason == f"{PLACE} is taken: tmpfs is mounted there"
    machine.disks.mount("/dev/vdc", PLACE)
    verdict = machine.verdict()
    assert isinstance(verdict, Refused)
    assert verdict.reason == f"{PLACE} is taken by /dev/vdc, which is not /dev/vdb"


def test_a_disk_that_is_mounted_read_only_is_no_disk_to_be_ready_with() -> None:
    machine = Machine(make_disk(signatures=(OURS,)))
    machine.disks.mount("/dev/vdb", PLACE, is_read_only=True)
    readiness = disk_readiness(PARAMS, machine.facts())
    assert isinstance(readiness, Failed)
    assert "read-only" in readiness.reason


# --- restarts -------------------------------------------------------------------------------------


def test_a_disk_that_is_called_otherwise_after_a_restart_is_the_same_disk(
    services: dict[str, Service],
) -> None:
    machine = Machine(make_disk())
    machine.converge(services)
    machine.restart()
    renamed = replace(machine.disks.pull("/dev/vdb"), path=PurePosixPath("/dev/vdc"))
    machine.disks.plug(replace(renamed, number="252:32"))
    machine.disks.plug(make_disk())
    verdict = machine.verdict()
    assert isinstance(verdict, ToMount)
    assert verdict.disk.path == PurePosixPath("/dev/vdc"), "and not the empty /dev/vdb"
    before = len(machine.tape.find("disks."))
    machine.converge(services)
    assert isinstance(machine.verdict(), Mounted)
    assert len(machine.tape.find("disks.")) == before


def test_no_other_disk_is_taken_in_place_of_one_that_is_missing(
    services: dict[str, Service],
) -> None:
    machine = Machine(make_disk())
    machine.converge(services)
    machine.restart()
    machine.disks.plug(replace(machine.disks.pull("/dev/vdb"), signatures=()))
    verdict = machine.verdict()
    assert isinstance(verdict, Absent)
    assert OURS.uuid in verdict.reason
    assert "rm /var/lib/oneke/disk.json" in verdict.reason
    assert isinstance(disk_pause(PARAMS, machine.facts()), Pause)
    machine.files.remove(RECORD)
    assert isinstance(machine.verdict(), ToFormat)


def test_a_disk_of_which_the_log_is_being_replayed_is_waited_for() -> None:
    machine = Machine(make_disk(signatures=(OURS,), is_busy=True))
    machine.remember()
    assert isinstance(machine.verdict(), Absent)
    assert isinstance(disk_pause(PARAMS, machine.facts()), Pause)
    assert isinstance(disk_readiness(PARAMS, machine.facts()), NotYet)


def test_a_foreign_disk_under_the_old_name_is_not_mounted_for_ours() -> None:
    machine = Machine(make_disk())
    machine.remember()
    machine.disks.put_filesystem("/dev/vdb", FOREIGN, "longhorn-disk.cfg")
    assert isinstance(machine.verdict(), Absent)


def test_a_note_that_can_not_be_read_stops_everything_but_what_is_mounted_already() -> None:
    for text in ("", "{}", "[]", '{"uuid": 1}', b"\xff", "null"):
        machine = Machine(make_disk())
        machine.files.put(RECORD, text)
        verdict = machine.verdict()
        assert isinstance(verdict, Refused)
        assert str(RECORD) in verdict.reason
        machine.disks.put_filesystem("/dev/vdb", OURS)
        machine.disks.mount("/dev/vdb", PLACE)
        assert isinstance(machine.verdict(), Mounted)


def test_a_late_disk_is_waited_for(services: dict[str, Service]) -> None:
    machine = Machine()
    pause = disk_pause(PARAMS, machine.facts())
    assert isinstance(pause, Pause)
    assert "/dev/vdb is not there" in pause.reason
    assert isinstance(disk_readiness(PARAMS, machine.facts()), NotYet)
    machine.converge(services)
    machine.disks.plug(make_disk())
    assert disk_pause(PARAMS, machine.facts()) is None
    machine.converge(services)
    assert isinstance(machine.verdict(), Mounted)


# --- a power cut ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_run_that_is_cut_anywhere_is_taken_up_again(
    kind: str, services: dict[str, Service]
) -> None:
    for cut_before in range(20):
        machine = Machine(make_disk(), params=params(filesystem=kind))
        machine.tape.cut_before = cut_before
        try:
            machine.converge(services)
        except PowerCut:
            machine.tape.cut_before = None
            machine.restart()
            machine.converge(services)
            assert isinstance(machine.verdict(), Mounted)
            assert machine.converge(services) == 0
        else:
            assert cut_before > 6
            return
    pytest.fail("it takes fewer than twenty changes")


def half_made(machine: Machine) -> None:
    """Cut the power in the middle of formatting."""
    machine.remember(is_made=False)
    disk = machine.disks.plugged[PurePosixPath("/dev/vdb")]
    machine.disks.plug(replace(disk, signatures=(OURS,)))


def test_a_file_system_of_which_only_a_part_was_written_is_made_anew() -> None:
    machine = Machine(make_disk())
    half_made(machine)
    verdict = machine.verdict()
    assert isinstance(verdict, ToFormat)
    assert verdict.made == OURS


def test_a_file_system_that_was_begun_is_made_anew_under_another_name_too() -> None:
    machine = Machine(make_disk())
    half_made(machine)
    renamed = replace(machine.disks.pull("/dev/vdb"), path=PurePosixPath("/dev/vdc"))
    machine.disks.plug(renamed)
    machine.disks.plug(make_disk(signatures=(FOREIGN,)))
    verdict = machine.verdict()
    assert isinstance(verdict, ToFormat)
    assert verdict.disk.path == PurePosixPath("/dev/vdc")


def test_a_foreign_disk_is_never_taken_for_one_that_was_begun() -> None:
    machine = Machine(make_disk())
    machine.remember(is_made=False)
    machine.disks.plug(make_disk(signatures=(FOREIGN,)))
    assert isinstance(machine.verdict(), Refused)


@pytest.mark.parametrize(
    "changes",
    [
        {"size_bytes": 5 * 1024**3},
        {"serial": "another"},
        {"is_read_only": True},
        {"is_busy": True},
        {"signatures": (OURS, Signature("dos"))},
    ],
)
def test_a_copy_of_what_was_begun_on_another_disk_is_left_alone(
    changes: dict[str, object],
) -> None:
    machine = Machine(make_disk())
    half_made(machine)
    machine.disks.plug(make_disk(**{"signatures": (OURS,), **changes}))
    assert isinstance(machine.verdict(), Refused)


def test_a_file_system_that_was_begun_and_holds_something_is_kept() -> None:
    """The note may be older than the disk: the machine's own disk was set back to a snapshot."""
    machine = Machine(make_disk())
    machine.remember(is_made=False)
    machine.disks.put_filesystem("/dev/vdb", OURS, "lost+found", "replicas")
    assert isinstance(machine.verdict(), ToMount)
    machine.disks.put_filesystem("/dev/vdb", OURS, "lost+found")
    assert isinstance(machine.verdict(), ToFormat)


# --- how a disk is named --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "vdb",
        "virtio-x",
        "/dev/",
        "/dev/../etc/passwd",
        "/dev/vd b",
        "/mnt/disk",
        "by-id:",
        "by-id:../sda",
        "by-id:..",
        "serial:",
        "size:0G",
        "size:10",
        "size:G",
        "size:1.5G",
        "uuid:x",
    ],
)
def test_what_names_no_disk_is_refused_before_anything_is_looked_at(text: str) -> None:
    (problem,) = check_disk(params(device=text)).problems
    assert problem.key == "ONEAPP_STORAGE_DEVICE"
    assert "size:100G" in problem.accepted
    assert disk_probes(params(device=text)) == ()


def test_a_disk_is_found_by_its_id() -> None:
    machine = Machine(make_disk("/dev/vdc"), params=params(device="by-id:virtio-data"))
    link = PurePosixPath("/dev/disk/by-id/virtio-data")
    assert isinstance(machine.verdict(), Absent)
    machine.disks.links[link] = PurePosixPath("/dev/vdc")
    verdict = machine.verdict()
    assert isinstance(verdict, ToFormat)
    assert verdict.disk.path == PurePosixPath("/dev/vdc")


@pytest.mark.parametrize(
    "disk",
    [
        make_disk("/dev/vdc", serial="replicas-of-node-12"),
        make_disk("/dev/vdc", serial="replicas-of-node-123"[:20]),
        make_disk("/dev/vdc", ids=("virtio-replicas-of-node-12",)),
        make_disk("/dev/vdc", ids=("scsi-0QEMU_QEMU_HARDDISK_replicas-of-node-12",)),
    ],
)
def test_a_disk_is_found_by_its_serial_number(disk: Disk) -> None:
    serial = disk.serial or "replicas-of-node-12"
    machine = Machine(make_disk(), disk, params=params(device=f"serial:{serial}"))
    verdict = machine.verdict()
    assert isinstance(verdict, ToFormat)
    assert verdict.disk == disk


def test_a_serial_number_that_is_longer_than_what_virtio_tells_is_found() -> None:
    serial = "replicas-of-node-123456"
    disk = make_disk(serial=serial[:20])
    assert isinstance(Machine(disk, params=params(device=f"serial:{serial}")).verdict(), ToFormat)
    machine = Machine(make_disk(), params=params(device="serial:x"))
    assert isinstance(machine.verdict(), Absent), "no serial number is not every one"


def test_a_disk_is_found_by_its_size_if_it_is_the_only_one() -> None:
    machine = Machine(make_disk(), make_disk("/dev/vdc", 10), params=params(device="size:100g"))
    verdict = machine.verdict()
    assert isinstance(verdict, ToFormat)
    assert verdict.disk.path == PurePosixPath("/dev/vdb")
    machine.disks.plug(make_disk("/dev/vdd", 95))
    ambiguous = machine.verdict()
    assert isinstance(ambiguous, Refused)
    assert "/dev/vdb (100 GiB) and /dev/vdd (95 GiB)" in ambiguous.reason


def test_a_disk_of_about_the_size_that_is_in_use_is_not_meant() -> None:
    machine = Machine(make_disk("/dev/vdc", 50), params=params(device="size:10G"))
    verdict = machine.verdict()
    assert isinstance(verdict, Absent), "the root disk is of that size"
    assert "/dev/vda (10 GiB), /dev/vdc (50 GiB)" in verdict.reason


def test_a_disk_found_by_its_size_is_known_once_it_is_mounted(services: dict[str, Service]) -> None:
    machine = Machine(make_disk(), params=params(device="size:100G"))
    machine.converge(services)
    assert isinstance(machine.verdict(), Mounted)
    machine.files.remove(RECORD)
    assert isinstance(machine.verdict(), Mounted)


# --- small things ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["longhorn", "/", "/var/lib", "/usr/share/x", "/a//b", "/a/../b", "/a/", "/run/x", "/a b", ""],
)
def test_a_place_that_would_hide_the_system_is_refused(place: str) -> None:
    (problem,) = check_disk(params(mountpoint=place)).problems
    assert problem.key == "ONEAPP_STORAGE_MOUNTPOINT"


@pytest.mark.parametrize("place", ["/var/lib/longhorn", "/data", "/mnt/disk-1", "/srv/a_b/c.d"])
def test_other_places_are_sound(place: str) -> None:
    assert check_disk(params(mountpoint=place)).problems == ()


@pytest.mark.parametrize(
    ("place", "unit"),
    [
        ("/var/lib/longhorn", "var-lib-longhorn.mount"),
        ("/data", "data.mount"),
        ("/mnt/disk-1", "mnt-disk\\x2d1.mount"),
        ("/srv/a@b", "srv-a\\x40b.mount"),
    ],
)
def test_a_mount_unit_is_named_as_systemd_wants_it(place: str, unit: str) -> None:
    assert mount_unit_name(place) == unit


def test_the_plan_is_pure(services: dict[str, Service]) -> None:
    machine = Machine(make_disk())
    facts = machine.facts()
    turn = partial(render, services["storage"].folders)
    plan = plan_disk(PARAMS, facts, turn)
    assert plan == plan_disk(PARAMS, facts, turn)
    assert [type(action) for action in plan] == [WriteFile, FormatDisk, WriteFile, RunUnit]


def test_the_view_has_a_field_for_each_parameter(services: dict[str, Service]) -> None:
    assert {one.name for one in fields(StorageParams)} == {
        entry.field for entry in services["storage"].entries
    }
