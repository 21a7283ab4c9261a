"""Block devices in memory: they are plugged in, renamed, mounted and formatted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from appliance.errors import FileError
from appliance.system.disks import Disk, Mount, Signature
from tests.fakes.tape import Tape

GIB = 1024**3


def make_disk(path: str = "/dev/vdb", size_gib: float = 100, **changes: object) -> Disk:
    """Return an empty disk that nobody uses, but for what is changed."""
    disk = Disk(PurePosixPath(path), f"252:{16 * (ord(path[-1]) - ord('a'))}", int(size_gib * GIB))
    return replace(disk, **changes)  # type: ignore[arg-type]  # the fields are checked at run time


class FakeDisks:
    """Disks of which the file systems are known by their UUIDs.

    Attributes:
        plugged: Path to disk.
        links: Other paths that lead to disks.
        roots: UUID of a file system to the names in its root; one that is not in it can not be
            mounted.
        looked_into: The devices that were mounted to look, in order.
    """

    def __init__(self, disks: Iterable[Disk] = (), *, tape: Tape | None = None) -> None:
        """Begin with some disks."""
        self.tape = tape or Tape()
        self.plugged: dict[PurePosixPath, Disk] = {}
        self.links: dict[PurePosixPath, PurePosixPath] = {}
        self.roots: dict[str, tuple[str, ...]] = {}
        self.looked_into: list[PurePosixPath] = []
        self._mounts: list[Mount] = []
        for disk in disks:
            self.plug(disk)

    # --- what others do -------------------------------------------------------------------------

    def plug(self, disk: Disk) -> None:
        """Have a disk there, or have one changed."""
        self.plugged[disk.path] = disk

    def pull(self, path: str) -> Disk:
        """Take a disk away."""
        return self.plugged.pop(PurePosixPath(path))

    def put_filesystem(self, path: str, signature: Signature, *names: str) -> None:
        """Have a file system on a disk, with these names in its root."""
        self.plug(replace(self.plugged[PurePosixPath(path)], signatures=(signature,)))
        self.roots[signature.uuid] = names

    def mount(self, path: str, place: str, *, is_read_only: bool = False) -> None:
        """Mount a disk."""
        disk = self.plugged[PurePosixPath(path)]
        at = PurePosixPath(place)
        self.plug(replace(disk, mounted_at=(*disk.mounted_at, at), is_busy=True))
        kind = disk.signatures[0].kind
        self._mounts.append(Mount(at, disk.number, path, kind, is_read_only))

    def mount_other(self, place: str, source: str = "tmpfs") -> None:
        """Mount something that is on none of the disks."""
        self._mounts.append(Mount(PurePosixPath(place), "0:99", source, "tmpfs", False))

    def restart(self) -> None:
        """Lose what a restart of the machine loses."""
        self._mounts.clear()
        for disk in self.plugged.values():
            self.plug(replace(disk, mounted_at=(), is_busy=False))

    # --- what the agent does --------------------------------------------------------------------

    def all(self) -> tuple[Disk, ...]:
        """Return every whole disk, by path."""
        return tuple(disk for _, disk in sorted(self.plugged.items()) if disk.is_whole)

    def examine(self, path: PurePosixPath) -> Disk | None:
        """Look at the device a path leads to."""
        return self.plugged.get(self.links.get(path, path))

    def mounts(self) -> tuple[Mount, ...]:
        """Return what is mounted."""
        return tuple(self._mounts)

    def names_in(self, disk: Disk, kind: str) -> tuple[str, ...] | None:
        """List the root of a file system nobody uses."""
        assert not disk.is_busy and not disk.mounted_at, f"{disk.path} is in use"
        self.looked_into.append(disk.path)
        found = [one.uuid for one in disk.signatures if one.kind == kind]
        return self.roots.get(found[0]) if found else None

    def format(self, disk: Disk, kind: str, label: str, uuid: str) -> None:
        """Make a file system, in two steps between which the power may fail."""
        if self.plugged.get(disk.path) != disk:
            raise FileError(f"{disk.path}: is not what it was a moment ago; nothing was written")
        if disk.is_busy or disk.is_read_only:
            raise FileError(f"{disk.path}: can not be written")
        self.tape.note(f"disks.format {disk.path} {kind}")
        self.roots.pop(uuid, None)
        self.plug(replace(disk, signatures=(Signature(kind, "filesystem", label, uuid),)))
        self.tape.note(f"disks.formatted {disk.path} {kind}")
        self.roots[uuid] = () if kind == "xfs" else ("lost+found",)
