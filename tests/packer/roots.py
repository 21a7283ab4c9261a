"""Roots to try the image's scripts in: baked layers with a throw-away one on top."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.lab.bake import CHROOT, Image, acquire_settings, isolated
from tests.lab.basics import REPOSITORY, run

SCRIPTS = REPOSITORY / "packer" / "scripts"

# For bash: every path with its kind, mode, owner and target, and every content; not the times.
DESCRIBE = r"""
describe() (
    cd /
    find . -xdev -printf '%P %y %m %U:%G %l\n' | sort
    find . -xdev -type f -print0 | sort --zero-terminated | xargs -0 sha256sum
)
"""
RUN_ALL = """
for script in /run/oneke-build/scripts/[0-9][0-9]-*.sh; do
    bash "$script"
done
"""

_FOLDERS = ("fs", "work", "root", "build")


class Root:
    """A root made of an image's layers; what is changed in it stays apart from them."""

    def __init__(self, image: Image, folder: Path) -> None:
        self._image = image
        self._folder = folder

    def run(self, script: str, *, files: Sequence[Path] = ()) -> str:
        """Run a script in the root, which is as the layers have it, and return all it said.

        Args:
            script: Text for bash.
            files: Files and folders that it finds in /run/oneke-build.

        Raises:
            CommandFailed: It ended with another status than 0.
        """
        shutil.rmtree(self._folder, ignore_errors=True)
        folders = [self._folder / name for name in _FOLDERS]
        for folder in folders:
            folder.mkdir(parents=True)
        build, log = folders[-1], self._folder / "log"
        for path in files:
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, build / path.name)
        (build / "step.sh").write_text(script)
        settings = run(["apt-config", "dump", "Acquire"]).stdout
        (build / "apt.conf").write_text(acquire_settings(settings))
        isolated(["bash", str(CHROOT), self._image.lowerdir, *map(str, folders)], log, "script")
        return log.read_text(errors="replace")
