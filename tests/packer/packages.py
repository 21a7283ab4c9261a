"""Debian packages that tests make: of files that are there, with the fields they need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.lab.basics import REPOSITORY, run

STAND_IN = REPOSITORY / "tests" / "lab" / "context" / "root"

# Only what nodes without udev and without disks of their own need.
_OF_CONTAINERS = ("lab-disk-links*", "var-lib-longhorn.mount.d")

# Source: OpenNebula's one-apps, context-linux/targets.sh (deb); of what it depends on, what the
# stand-in and the tests have a use for.
_CONTEXT_FIELDS = {
    "Depends": (
        "util-linux, bash, curl, gawk, ifupdown | ifupdown2, sudo, passwd, dbus, openssh-server,"
        " qemu-guest-agent"
    ),
    "Replaces": "cloud-init",
    "Conflicts": "cloud-init, one-context-ec2",
}
# Source: context-linux/pkg/postinstall. What set NICs before would compete with the context.
_CONTEXT_POSTINST = """\
#!/bin/sh
set -e
rm -rf /etc/netplan/* /etc/network/interfaces.d
printf 'auto lo\\niface lo inet loopback\\n' > /etc/network/interfaces
systemctl --quiet enable one-context-local.service one-context-online.service one-context.service
"""


def build_package(
    root: Path, target: Path, name: str, fields: Mapping[str, str] | None = None
) -> Path:
    """Pack a folder, which may have scripts of the package in DEBIAN, and return the package.

    Args:
        root: What it holds; its control file is written there.
        target: Folder for the package.
        name: Of the package; its version is 9.9.
        fields: Of its control file, beside those that every package has.
    """
    control = {
        "Package": name,
        "Version": "9.9",
        "Architecture": "all",
        "Maintainer": "Nobody <nobody@example.com>",
        **(fields or {}),
        "Description": "stand-in",
    }
    (root / "DEBIAN").mkdir(exist_ok=True)
    lines = "".join(f"{field}: {value}\n" for field, value in control.items())
    (root / "DEBIAN" / "control").write_text(lines)
    package = target / f"{name}.deb"
    run(["dpkg-deb", "--root-owner-group", "--build", str(root), str(package)])
    return package


def build_context_package(folder: Path) -> Path:
    """Pack the lab's stand-in for the contextualization package."""
    root = folder / "one-context"
    shutil.copytree(STAND_IN, root, ignore=shutil.ignore_patterns(*_OF_CONTAINERS))
    (root / "DEBIAN").mkdir()
    postinst = root / "DEBIAN" / "postinst"
    postinst.write_text(_CONTEXT_POSTINST)
    postinst.chmod(0o755)
    return build_package(root, folder, "one-context", _CONTEXT_FIELDS)
