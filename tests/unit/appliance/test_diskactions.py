"""Formatting as an action: noted down first, only on what was judged, and safe to be cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from appliance import paths
from appliance.diskactions import RECORD, DiskRecord, FormatDisk, record_of
from appliance.errors import FileError
from appliance.system.disks import Disk, Signature
from tests.fakes import FakeDisks, FakeFiles, PowerCut, Tape, make_disk, make_system

NOTHING: frozenset[PurePosixPath] = frozenset()
MADE = Signature("xfs", "filesystem", "STORAGE", "6f6e656b-6500-8000-8000-000000000001")


class Machine:
    def __init__(self, disk: Disk, *, cut_before: int | None = None) -> None:
        self.tape = Tape(cut_before)
        self.files = FakeFiles(tape=self.tape)
        self.disks = FakeDisks([disk], tape=self.tape)
        self.system = make_system(files=self.files, disks=self.disks, tape=self.tape)


def test_a_disk_is_formatted_once() -> None:
    disk = make_disk()
    machine = Machine(disk)
    action = FormatDisk(disk, MADE)
    change = action.check(machine.system, NOTHING)
    assert change is not None
    assert change.summary == "format as xfs"
    action.preflight(machine.system)
    action.apply(machine.system)
    assert action.check(machine.system, NOTHING) is None
    record = machine.files.kept[RECORD]
    assert record.mode == 0o600
    assert DiskRecord.from_text(record.data.decode()) == record_of(disk, MADE)


def test_what_is_begun_is_noted_before_and_what_is_made_after() -> None:
    machine = Machine(make_disk())
    FormatDisk(make_disk(), MADE).apply(machine.system)
    assert machine.tape.changes == [
        f"files.folder {paths.STATE_DIR}",
        f"files.write {RECORD}",
        "disks.format /dev/vdb xfs",
        "disks.formatted /dev/vdb xfs",
        f"files.write {RECORD}",
    ]


@pytest.mark.parametrize(("cut_before", "is_noted"), [(1, False), (2, True), (3, True), (4, True)])
def test_a_cut_leaves_a_note_of_what_was_begun(cut_before: int, is_noted: bool) -> None:
    machine = Machine(make_disk(), cut_before=cut_before)
    action = FormatDisk(make_disk(), MADE)
    with pytest.raises(PowerCut):
        action.apply(machine.system)
    text = machine.system.files.read(RECORD)
    assert (text is not None) is is_noted
    if text is not None:
        assert DiskRecord.from_text(text).is_made is False
    assert action.check(machine.system, NOTHING) is not None


def test_what_was_not_finished_is_said_to_be_formatted_again() -> None:
    half = make_disk(signatures=(MADE,))
    machine = Machine(half)
    change = FormatDisk(half, MADE).check(machine.system, NOTHING)
    assert change is not None
    assert change.summary == "format as xfs again, as it was not finished"


@pytest.mark.parametrize(
    "now",
    [
        make_disk(signatures=(Signature("ext4", "filesystem"),)),
        make_disk(serial="another"),
        make_disk(size_gib=5),
        make_disk(mounted_at=(PurePosixPath("/mnt"),)),
    ],
)
def test_a_disk_that_is_not_as_it_was_judged_is_not_written(now: Disk) -> None:
    machine = Machine(now)
    with pytest.raises(FileError, match="nothing was written"):
        FormatDisk(make_disk(), MADE).apply(machine.system)
    assert machine.tape.find("disks.") == []


def test_a_disk_that_is_gone_is_not_written() -> None:
    machine = Machine(make_disk("/dev/vdc"))
    with pytest.raises(FileError):
        FormatDisk(make_disk(), MADE).apply(machine.system)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"uuid": "x"}',
        record_of(make_disk(), MADE).to_text().replace("true", '"yes"'),
        record_of(make_disk(), MADE).to_text().replace('"serial"', '"unknown"'),
    ],
)
def test_a_note_that_is_none_is_told_from_one(text: str) -> None:
    with pytest.raises(ValueError):
        DiskRecord.from_text(text)


def test_a_note_is_read_as_it_was_written() -> None:
    record = replace(record_of(make_disk(serial='"x"'), MADE), is_made=False)
    assert DiskRecord.from_text(record.to_text()) == record
