"""The effect on a disk: an empty one gets a file system, in a way that may be cut anywhere.

What is about to be done is written down first. A file system that carries the identity of that note
is one that this machine began, so a run after a power cut takes it up again, and never another's.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from appliance import paths
from appliance.plan import Change
from appliance.system import System
from appliance.system.disks import Disk, Signature

RECORD = paths.STATE_DIR / "disk.json"


@dataclass(frozen=True)
class DiskRecord:
    """The data disk of this machine, as it is remembered over restarts.

    Attributes:
        uuid: Of its file system; what it is found by, whatever it is called.
        kind: The kind of its file system.
        label: The label that file system was made with; empty for one that was adopted.
        is_made: False from before the file system is begun until it is finished.
        size_bytes: Of the device.
        serial: Of the device, or empty.
        path: What the device was called then, for messages.
    """

    uuid: str
    kind: str
    label: str
    is_made: bool
    size_bytes: int
    serial: str
    path: str

    def to_text(self) -> str:
        """Write it as the file holds it."""
        return f"{json.dumps(asdict(self), indent=2)}\n"

    @classmethod
    def from_text(cls, text: str) -> DiskRecord:
        """Read it.

        Raises:
            ValueError: It is not what `to_text` writes.
        """
        try:
            document = json.loads(text)
            record = cls(**document)
        except TypeError as error:
            raise ValueError(str(error)) from error
        wanted = {name: type(value) for name, value in asdict(_EXAMPLE).items()}
        if {name: type(value) for name, value in document.items()} != wanted:
            raise ValueError("a value is of another type")
        return record


_EXAMPLE = DiskRecord("", "", "", is_made=True, size_bytes=0, serial="", path="")


def record_of(disk: Disk, made: Signature, *, is_made: bool = True) -> DiskRecord:
    """Return what is to be remembered of a disk and its file system."""
    return DiskRecord(
        made.uuid, made.kind, made.label, is_made, disk.size_bytes, disk.serial, str(disk.path)
    )


@dataclass(frozen=True)
class FormatDisk:
    """A file system on a disk that held nothing, or only what an earlier run did not finish.

    Attributes:
        disk: The device exactly as it was judged: if it is not so any more, nothing is written.
        made: The file system as it is found afterwards.
    """

    disk: Disk
    made: Signature

    @property
    def name(self) -> str:
        """The device."""
        return f"disk {self.disk.path}"

    def preflight(self, system: System) -> None:
        """It was judged already, and is looked at once more directly before it is written to."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether the file system is there and was finished."""
        now = system.disks.examine(self.disk.path)
        is_there = now is not None and now.signatures == (self.made,)
        if is_there and system.files.read(RECORD) == record_of(self.disk, self.made).to_text():
            return None
        anew = " again, as it was not finished" if self.disk.signatures else ""
        return Change(f"format as {self.made.kind}{anew}", f"UUID {self.made.uuid}")

    def apply(self, system: System) -> None:
        """Note it down, make it, note that it is made."""
        begun = record_of(self.disk, self.made, is_made=False)
        system.files.ensure_folder(paths.STATE_DIR, mode=0o700)
        system.files.write(RECORD, begun.to_text(), mode=0o600)
        system.disks.format(self.disk, self.made.kind, self.made.label, self.made.uuid)
        system.files.write(RECORD, record_of(self.disk, self.made).to_text(), mode=0o600)
