"""The image of the cleaner's pods: made of the distribution's package, equal every time."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.functional

SCRIPT = Path(__file__).parents[2] / "packer" / "scripts" / "50-busybox-image.sh"
PROGRAM = b"#!/bin/sh\necho a stand-in\n"


class Build:
    """A machine's package manager that has one package, and the folder the archive goes to."""

    def __init__(self, folder: Path, place: str) -> None:
        self._folder, self.images = folder, folder / "images"
        tree = folder / "tree"
        program = tree / place
        program.parent.mkdir(parents=True)
        program.write_bytes(PROGRAM)
        control = tree / "DEBIAN" / "control"
        control.parent.mkdir()
        control.write_text(
            "Package: busybox-static\nVersion: 1\nArchitecture: all\n"
            "Maintainer: Nobody <nobody@example.org>\nDescription: a stand-in\n"
        )
        package = folder / "busybox-static_1_all.deb"
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", tree, package],
            check=True,
            capture_output=True,
        )
        (folder / "bin").mkdir()
        fetch = folder / "bin" / "apt-get"
        fetch.write_text(f'#!/bin/sh\nset -e\ncase "$*" in *download*) cp {package} . ;; esac\n')
        fetch.chmod(0o755)

    def run(self, umask: int = 0o022) -> str:
        """Run the script, and return what it says."""
        path = f"{self._folder / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", SCRIPT],
            env={**os.environ, "PATH": path, "ONEKE_IMAGES": str(self.images)},
            umask=umask,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout

    @property
    def archive(self) -> Path:
        """The one archive there is."""
        (archive,) = self.images.iterdir()
        return archive


def skopeo(*words: str) -> str:
    """Ask a tool that reads images."""
    done = subprocess.run(
        ["skopeo", *words], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("place", ["bin/busybox", "usr/bin/busybox"])
def test_it_is_an_image_of_this_machine_that_holds_the_program_alone(
    tmp_path: Path, place: str
) -> None:
    build = Build(tmp_path, place)
    assert "localhost/oneke/busybox:static" in build.run()
    source = f"docker-archive:{build.archive}:localhost/oneke/busybox:static"
    found = json.loads(skopeo("inspect", source))
    machine = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert (found["Architecture"], found["Os"]) == (machine, "linux")
    # Copied, so that every digest in it is compared with what it is of.
    skopeo("copy", source, f"dir:{tmp_path / 'copy'}")
    layer = tmp_path / "copy" / found["Layers"][0].removeprefix("sha256:")
    listed = subprocess.run(
        ["tar", "--list", "--verbose", "--file", layer], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert [line.split()[0] + " " + line.split()[-1] for line in listed] == [
        "drwxr-xr-x bin/",
        "-rwxr-xr-x bin/busybox",
    ]
    content = subprocess.run(
        ["tar", "--extract", "--to-stdout", "--file", layer, "bin/busybox"],
        check=True,
        capture_output=True,
    ).stdout
    assert content == PROGRAM


def test_equal_input_gives_equal_bytes_and_a_second_run_touches_nothing(tmp_path: Path) -> None:
    build = Build(tmp_path, "bin/busybox")
    build.run()
    before = build.archive.read_bytes()
    os.utime(build.archive, (1, 1))
    assert build.run() == ""
    assert build.archive.stat().st_mtime == 1
    build.archive.unlink()
    build.run(umask=0o077)
    assert build.archive.read_bytes() == before
    assert build.archive.stat().st_mode & 0o777 == 0o644


def test_an_archive_that_was_cut_is_made_anew(tmp_path: Path) -> None:
    build = Build(tmp_path, "bin/busybox")
    build.run()
    before = build.archive.read_bytes()
    build.archive.write_bytes(before[:1000])
    assert "bytes" in build.run()
    assert build.archive.read_bytes() == before
