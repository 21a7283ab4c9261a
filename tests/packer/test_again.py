"""Scripts run again on what the base of a build has and the lab's nodes have not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packer.roots import DESCRIBE, RUN_ALL, SCRIPTS, Root

pytestmark = pytest.mark.bake

# A contextualization package that knows cloud-init by name, as the real one does.
CONTEXT_PACKAGE = r"""set -euo pipefail
    mkdir -p /tmp/made/DEBIAN /tmp/made/etc/one-context.d
    printf '%s\n' 'Package: one-context' 'Version: 9.9' 'Architecture: all' \
        'Conflicts: cloud-init' \
        'Maintainer: Nobody <nobody@example.com>' 'Description: stand-in' > /tmp/made/DEBIAN/control
    printf '#!/bin/sh\n' > /tmp/made/etc/one-context.d/net-99-report-ready
    dpkg-deb --root-owner-group --build /tmp/made /tmp/one-context.deb > /dev/null
    export ONEKE_CONTEXT_URL=file:///tmp/one-context.deb
    ONEKE_CONTEXT_SHA256=$(sha256sum < /tmp/one-context.deb | cut -c -64)
    export ONEKE_CONTEXT_SHA256
"""
# A boot loader, and an agent that says what it is asked for and fetches nothing.
STAND_INS = r"""
    printf '#!/bin/sh\necho the boot line is set\n' > /usr/sbin/update-grub
    printf '#!/bin/sh\necho agent "$@"; command -v skopeo || true\n' > /opt/oneke/bin/oneke-agent
    chmod 0755 /usr/sbin/update-grub /opt/oneke/bin/oneke-agent
    export ONEKE_FLAVOR=ee ONEKE_KERNEL=yes
"""


def test_a_second_run_changes_nothing_where_everything_is_in_the_image(
    root: Root, wheels: Path
) -> None:
    script = f"""{CONTEXT_PACKAGE}
        {DESCRIBE}
        {STAND_INS}
        run_all() {{
            {RUN_ALL}
        }}
        run_all > /tmp/first 2>&1 || {{ cat /tmp/first; exit 1; }}
        describe > /tmp/before
        run_all > /tmp/second 2>&1 || {{ cat /tmp/second; exit 1; }}
        describe > /tmp/after
        diff /tmp/before /tmp/after
        for run in first second; do
            echo "== $run"
            grep -xE 'agent .*|/usr/bin/skopeo|the boot line is set' "/tmp/$run"
        done
    """
    said = root.run(script, files=[SCRIPTS, wheels])
    asked = ["agent install --flavor ee", "/usr/bin/skopeo", "agent check image --flavor ee"]
    assert said.splitlines() == ["== first", "the boot line is set", *asked, "== second", *asked]


def test_nothing_is_purged_where_cloud_init_is_known_by_name_only(root: Root) -> None:
    script = f"""{CONTEXT_PACKAGE}
        dpkg --install /tmp/one-context.deb > /dev/null
        dpkg-query --show --showformat='${{Package}} ${{db:Status-Status}}\\n' 'cloud-init*'
        mkdir /tmp/programs
        printf '#!/bin/sh\necho apt-get "$@"\n' > /tmp/programs/apt-get
        chmod 0755 /tmp/programs/apt-get
        PATH=/tmp/programs:$PATH bash /run/oneke-build/scripts/60-contextualization.sh
    """
    known, *said = root.run(script, files=[SCRIPTS]).splitlines()
    assert known == "cloud-init not-installed"
    assert said
    assert not [line for line in said if line.startswith("apt-get")]
