"""A disk like the one that Debian publishes for clouds, for a build to begin with.

Cloud images are published where tests do not reach, so a stand-in is made of packages: the smallest
system that the lab has anyway, what makes it a cloud image, partitions, and a boot loader that a
machine of its own installs. It is kept beside the lab's layers.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.lab.bake import (
    Cache,
    Image,
    acquire_settings,
    bake,
    layer_key,
    this_release,
    working_tree_steps,
)
from tests.lab.basics import REPOSITORY, LabError, run
from tests.packer.roots import Root

CODENAME = "bookworm"
SIZE_MIB = 3072

_HERE = Path(__file__).with_name("base")
_PACKAGES, _DISK, _LOADER = (_HERE / name for name in ("packages.sh", "disk.sh", "loader.sh"))
_DONE = "loader.sh: status 0"
_COPY_S = 600
_LOADER_S = 900
_COMMAND_LINE = "rw init=/loader.sh console=ttyS0 no_timer_check panic=-1 mitigations=off"


def base_disk(cache: Cache | None = None) -> Path:
    """Return the disk as qcow2; it is made if it is not there yet.

    Raises:
        LabError: On a machine of another release, whose packages are others; or if a step fails.
    """
    if this_release().codename != CODENAME:
        raise LabError(f"the base is made of the packages of {CODENAME}, on a machine that has it")
    cache = cache or Cache.default()
    # Held from before the bake, so that no other one prunes the layer while it is copied.
    held = cache.hold()
    try:
        layer = cache.layer(working_tree_steps(REPOSITORY)[0])
        if not layer.exists():
            bake(cache=cache)
        disk = cache.root / "packer-base" / f"{_key(layer)}.qcow2"
        if not disk.exists():
            _make(layer, disk, cache)
    finally:
        os.close(held)
    return disk


def _key(layer: Path) -> str:
    settings = acquire_settings(run(["apt-config", "dump", "Acquire"]).stdout)
    scripts = [path.read_bytes() for path in (_PACKAGES, _DISK, _LOADER)]
    return layer_key(layer.name, b"packer-base", settings.encode(), b"%d" % SIZE_MIB, *scripts)


def _make(layer: Path, disk: Path, cache: Cache) -> None:
    started = time.monotonic()
    # Not below the machine's folder for such: that may lie on an overlay, where no other can.
    with tempfile.TemporaryDirectory(dir=cache.root, prefix="packer-base-") as name:
        folder = Path(name)
        upper = folder / "packages"
        Root(Image((layer,)), upper).run(_PACKAGES.read_text(), files=[_LOADER])
        _lay_out(f"{upper / 'fs'}:{layer / 'fs'}", folder)
        _install_loader(folder)
        raw, done = folder / "disk.raw", folder / "disk.qcow2"
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(done)]
        run(convert, timeout_s=_COPY_S)
        shutil.rmtree(disk.parent, ignore_errors=True)
        disk.parent.mkdir()
        done.rename(disk)
    took = time.monotonic() - started
    print(f"packer: base: made {disk.name} in {took:.0f} s", file=sys.stderr, flush=True)


def _lay_out(lower: str, folder: Path) -> None:
    """Make partitions with the layers on them, and lay kernel and initial file system beside."""
    mounted = folder / "mounted"
    mounted.mkdir()
    isolated = ["unshare", "--mount", "--propagation", "private", "--", "bash", str(_DISK)]
    run([*isolated, lower, str(mounted), str(SIZE_MIB), str(folder)], timeout_s=_COPY_S)


def _install_loader(folder: Path) -> None:
    """Have a machine of its own install the boot loader on the disk."""
    fstab = (folder / "packages/fs/etc/fstab").read_text()
    console = folder / "console.log"
    argv = [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]
    argv += ["-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024", "-device", "virtio-rng-pci"]
    argv += ["-kernel", f"{folder}/vmlinuz", "-initrd", f"{folder}/initrd.img"]
    argv += ["-append", f"root={fstab.split()[0]} {_COMMAND_LINE}", "-serial", f"file:{console}"]
    # Whoever cuts it gets no disk.
    argv += ["-drive", f"if=virtio,format=raw,cache=unsafe,file={folder}/disk.raw"]
    try:
        run(["setpriv", "--pdeathsig", "KILL", *argv], timeout_s=_LOADER_S)
    finally:
        said = console.read_text(errors="replace") if console.exists() else ""
    if _DONE not in said:
        raise LabError(f"the boot loader was not installed: {said[-3000:]}")
