"""The Debian package: what it holds, what lintian says, and what becomes of it in a chroot."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from tests.lab.basics import REPOSITORY, run
from tests.packer.roots import Root

pytestmark = pytest.mark.bake

UNIT = PurePosixPath("/lib/systemd/system/oneke.target")
BUILDER = {
    "DEBFULLNAME": "Jane Doe",
    "DEBEMAIL": "jane@opennebula.io",
    "SOURCE_DATE_EPOCH": "1700000000",
}


def build(target: Path, wheels: Path, builder: Mapping[str, str] = BUILDER) -> Path:
    others = {name: value for name, value in os.environ.items() if name not in BUILDER}
    environment = {**others, **builder, "ONEKE_WHEELS": str(wheels)}
    run(["bash", f"{REPOSITORY}/packer/deb.sh", str(target)], env=environment, timeout_s=300)
    (package,) = target.glob("oneke-agent_*.deb")
    return package


@pytest.fixture(scope="module")
def package(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb"), wheels)


def test_lintian_has_nothing_to_say_that_is_not_explained(package: Path) -> None:
    said = run(["lintian", "--allow-root", "--fail-on", "none", "-I", str(package)], timeout_s=300)
    found = [line for line in said.stdout.splitlines() if not line.startswith("I: ")]
    assert found == []
    assert "unused-override" not in said.stdout


def test_the_same_wheels_make_the_same_package(package: Path, wheels: Path, tmp_path: Path) -> None:
    assert build(tmp_path, wheels).read_bytes() == package.read_bytes()


def test_a_machine_without_a_name_of_its_own_makes_a_package_that_names_none(
    wheels: Path, tmp_path: Path
) -> None:
    (tmp_path / "hostname").write_text("#!/bin/sh\necho 'name not known' >&2\nexit 1\n")
    (tmp_path / "hostname").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    package = build(tmp_path / "deb", wheels, {"PATH": path})
    field = run(["dpkg-deb", "--field", str(package), "Maintainer"]).stdout.strip()
    assert field == "oneke-agent maintainers <oneke-agent@oneke.invalid>"


def test_the_package_holds_what_the_image_has(root: Root, package: Path) -> None:
    script = r"""set -euo pipefail
        dpkg-deb --extract /run/oneke-build/*.deb /tmp/package
        rm -r /tmp/package/opt/oneke/share/oneke/image-scripts
        paths=(opt/oneke usr/local/bin/oneke-agent usr/share/oneke)
        list() (
            cd "$1"
            paths+=(usr/lib/systemd/system/{oneke*,*.service.d/*-oneke-*})
            find "${paths[@]}" -printf '%p %y %m %l\n' | sort
            find "${paths[@]}" -type f -exec sha256sum {} + | sort
        )
        list / > /tmp/image.list
        list /tmp/package > /tmp/package.list
        diff /tmp/image.list /tmp/package.list
        wc --lines < /tmp/image.list
    """
    assert int(root.run(script, files=[package])) > 500


@pytest.fixture
def installed(root: Root, package: Path) -> str:
    script = r"""set -euo pipefail
        # As a machine without the agent.
        systemctl --quiet disable oneke.target oneke-ssh-host-keys.service
        rm -rf /opt/oneke /usr/local/bin/oneke-agent /usr/share/oneke /var/lib/oneke /etc/oneke
        rm -rf /usr/lib/systemd/system/oneke* /usr/lib/systemd/system-preset/80-oneke.preset
        apt_quietly() {
            apt-get -qq --yes --no-install-recommends "$@" > /tmp/apt.log 2>&1 || cat /tmp/apt.log
        }
        apt_quietly update
        apt_quietly install /run/oneke-build/*.deb
        oneke-agent --version
        systemctl is-enabled oneke.target oneke-ssh-host-keys.service
        readlink /etc/systemd/system/multi-user.target.wants/oneke.target
        ls /usr/share/oneke
        # The image takes no documentation from packages.
        dpkg --verify oneke-agent | grep -v ' /usr/share/' || true
        echo == again, disabled by hand
        systemctl --quiet disable oneke.target
        apt_quietly install --reinstall /run/oneke-build/*.deb
        systemctl is-enabled oneke.target || true
        echo == purged
        apt_quietly purge oneke-agent
        ls -d /opt/oneke /var/lib/oneke /usr/local/bin/oneke-agent 2>/dev/null || true
        find /etc/systemd /usr/lib/systemd \( -name 'oneke.target*' -o -name 'oneke-ssh*' \)
    """
    return root.run(script, files=[package])


def test_the_package_is_installed_and_removed(installed: str) -> None:
    first, again, purged = re.split(r"^== .*\n", installed, flags=re.MULTILINE)
    version, state, keys, link, *carried = first.splitlines()
    assert re.fullmatch(r"oneke-agent \d+\.\d+\.\d+", version)
    assert (state, keys) == ("enabled", "enabled")
    assert PurePosixPath(link).parts[-4:] == UNIT.parts[-4:]
    assert carried == ["image-scripts", "service.d", "systemd"]
    assert again.split()[-1] == "disabled"
    assert purged.strip() == ""


def test_the_scripts_that_it_carries_are_those_of_the_image(package: Path, tmp_path: Path) -> None:
    run(["dpkg-deb", "--extract", str(package), str(tmp_path)])
    carried = tmp_path / "opt/oneke/share/oneke/image-scripts"
    for script in (REPOSITORY / "packer" / "scripts").iterdir():
        assert (carried / script.name).read_bytes() == script.read_bytes()
    shutil.rmtree(tmp_path / "opt")
