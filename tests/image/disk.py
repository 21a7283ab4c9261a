"""The disk a machine boots from, made of the same layers as lab nodes, with a kernel among them.

The provisioning scripts of the image run on a bare system with the distribution's kernel. Disks are
kept beside the lab's layers under a key made of theirs, so that a change of anything in them makes
a new one.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.bake import Cache, Extra, Image, bake, layer_key, working_tree_steps
from tests.lab.basics import REPOSITORY, LabError, run

SIZE = "3G"
KEPT_DISKS = 3

_HERE = Path(__file__).parent
_SCRIPT = _HERE / "disk.sh"
_MACHINE = "x86_64"
EXTRAS = (
    Extra("image-kernel", _HERE / "provision" / "kernel.sh", after="10-packages.sh"),
    Extra("image-machine", _HERE / "provision" / "machine.sh", after="lab-context"),
)
"""What a machine of its own has more, and less, than a node of the lab."""


@dataclass(frozen=True)
class Kernel:
    """What a machine is started with whose disk has no boot loader."""

    image: Path
    initrd: Path


@dataclass(frozen=True)
class BootDisk:
    """What a machine boots from; nothing in it is changed by that.

    Attributes:
        image: The disk.
        form: `raw` or `qcow2`.
        kernel: None where the disk has a boot loader of its own.
    """

    image: Path
    form: str = "raw"
    kernel: Kernel | None = None

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return self.image.parent


def kept_disk(folder: Path) -> BootDisk:
    """The disk of a folder that `disk.sh` filled."""
    kernel = Kernel(folder / "vmlinuz", folder / "initrd.img")
    return BootDisk(folder / "disk.img", kernel=kernel)


def disk_key(topmost: str) -> str:
    """Key of the disk that is made of the layers up to the one with this key."""
    return layer_key("disk", topmost.encode(), SIZE.encode(), _SCRIPT.read_bytes())


def current_disk(repository: Path = REPOSITORY, cache: Cache | None = None) -> BootDisk:
    """The disk of the working tree, or the one that `ONEKE_IMAGE_DISK` names.

    Raises:
        LabError: It was not made since the last change. With `ONEKE_LAB_STALE=1` in the environment
            the newest disk is taken instead.
    """
    folder = _disks(cache or Cache.default())
    if pinned := os.environ.get("ONEKE_IMAGE_DISK"):
        return kept_disk(folder / pinned)
    disk = kept_disk(folder / disk_key(working_tree_steps(repository, EXTRAS)[-1].key))
    if disk.folder.exists():
        return disk
    known = _newest_first(folder)
    if known and os.environ.get("ONEKE_LAB_STALE") == "1":
        return kept_disk(known[0])
    raise LabError(
        "no disk of this working tree was made; run `python3 -m tests.image bake` outside the box "
        "first, or set ONEKE_LAB_STALE=1 to take the newest one as it is"
    )


def bake_disk(repository: Path = REPOSITORY, cache: Cache | None = None) -> BootDisk:
    """Make the disk of the working tree if it is not there yet.

    Raises:
        LabError: If this machine is of another kind than the emulated one, or a step fails.
    """
    if platform.machine() != _MACHINE:
        raise LabError(f"disks are made on {_MACHINE} only; this machine is {platform.machine()}")
    cache = cache or Cache.default()
    # Held from before the bake, so that no other one prunes the layers while they are copied.
    held = cache.hold()
    try:
        image = bake(repository, cache, EXTRAS)
        disk = kept_disk(_disks(cache) / disk_key(image.layers[-1].name))
        if not disk.folder.exists():
            _make(image, disk, cache)
    finally:
        os.close(held)
    os.utime(disk.folder)
    for old in _newest_first(disk.folder.parent)[KEPT_DISKS:]:
        # A machine that boots from it has the file open and keeps it.
        shutil.rmtree(old)
    return disk


def _make(image: Image, disk: BootDisk, cache: Cache) -> None:
    started = time.monotonic()
    partial = cache.root / f"disk-{os.getpid()}.partial"
    root = partial / "root"
    root.mkdir(parents=True)
    try:
        isolated = ["unshare", "--mount", "--propagation", "private", "--", "bash", str(_SCRIPT)]
        run([*isolated, image.lowerdir, str(root), SIZE, str(partial)], timeout_s=600)
        root.rmdir()
        disk.folder.parent.mkdir(exist_ok=True)
        partial.rename(disk.folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    took = time.monotonic() - started
    print(f"bake: disk: made {disk.folder.name} in {took:.1f} s", file=sys.stderr, flush=True)


def _disks(cache: Cache) -> Path:
    return cache.root / "disks"


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
