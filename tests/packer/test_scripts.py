"""The scripts in a chroot: what they leave behind, and that a second run changes nothing."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from tests.lab.basics import CommandFailed
from tests.packer.packages import build_package
from tests.packer.roots import DESCRIBE, RUN_ALL, SCRIPTS, Root

pytestmark = pytest.mark.bake


def test_a_second_run_of_all_scripts_changes_nothing(root: Root, wheels: Path) -> None:
    script = f"""set -euo pipefail
        {DESCRIBE}
        describe > /tmp/before
        {RUN_ALL}
        describe > /tmp/after
        wc --lines < /tmp/before
        diff /tmp/before /tmp/after
    """
    said = root.run(script, files=[SCRIPTS, wheels])
    described = int(said.split()[-1])
    assert described > 10_000


def test_the_comparison_sees_a_changed_byte(root: Root) -> None:
    script = f"""
        {DESCRIBE}
        describe > /tmp/before
        printf x >> /etc/modules-load.d/oneke.conf
        rm /etc/multipath/conf.d/oneke-longhorn.conf
        describe > /tmp/after
        diff /tmp/before /tmp/after
    """
    with pytest.raises(CommandFailed) as failed:
        root.run(script)
    assert "> " in failed.value.stdout
    assert "< etc/multipath/conf.d/oneke-longhorn.conf" in failed.value.stdout


def test_an_installation_that_was_cut_is_made_anew(root: Root, wheels: Path) -> None:
    script = """set -euo pipefail
        rm -rf /opt/oneke/lib /opt/oneke/installed-from
        install -D /dev/null /opt/oneke/share/oneke/charts/kept.tgz
        bash /run/oneke-build/scripts/80-agent.sh
        oneke-agent --version
        ls /usr/share/oneke/charts
    """
    said = root.run(script, files=[SCRIPTS, wheels])
    assert re.search(r"^oneke-agent \d+\.\d+\.\d+$", said, re.MULTILINE)
    assert said.split()[-1] == "kept.tgz"


def test_a_wheel_that_differs_from_the_lock_is_refused(
    root: Root, wheels: Path, tmp_path: Path
) -> None:
    altered = tmp_path / "wheels"
    shutil.copytree(wheels, altered)
    victim = next(altered.glob("tenacity-*.whl"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    script = "rm /opt/oneke/installed-from; bash /run/oneke-build/scripts/80-agent.sh"
    with pytest.raises(CommandFailed) as failed:
        root.run(script, files=[SCRIPTS, altered])
    assert "DO NOT MATCH THE HASHES" in failed.value.stdout
    assert victim.name in failed.value.stdout


def test_a_contextualization_package_without_digest_is_refused(root: Root) -> None:
    script = """
        export ONEKE_CONTEXT_URL=http://192.0.2.1/one-context.deb
        bash /run/oneke-build/scripts/60-contextualization.sh
    """
    with pytest.raises(CommandFailed, match="ONEKE_CONTEXT_SHA256 is empty"):
        root.run(script, files=[SCRIPTS])


@pytest.fixture
def context_package(tmp_path: Path) -> Path:
    """A contextualization package with one script, which would report READY=YES."""
    scripts = tmp_path / "tree" / "etc" / "one-context.d"
    scripts.mkdir(parents=True)
    (scripts / "net-99-report-ready-too").write_text("#!/bin/sh\n")
    return build_package(tmp_path / "tree", tmp_path, "one-context")


INSTALL_CONTEXT = """set -euo pipefail
    export ONEKE_CONTEXT_URL=file:///run/oneke-build/one-context.deb
    bash /run/oneke-build/scripts/60-contextualization.sh
"""


def test_a_contextualization_package_is_installed_and_kept_from_reporting(
    root: Root, context_package: Path
) -> None:
    digest = hashlib.sha256(context_package.read_bytes()).hexdigest()
    script = f"""
        export ONEKE_CONTEXT_SHA256={digest}
        {INSTALL_CONTEXT}
        ls /etc/one-context.d /usr/lib/oneke/one-context.diverted
        dpkg-query --show one-context
    """
    said = root.run(script, files=[SCRIPTS, context_package])
    listed = said[said.index("/etc/one-context.d:") :]
    own, diverted = listed.split("/usr/lib/oneke/one-context.diverted:")
    assert "report-ready" not in own
    assert "net-99-report-ready-too" in diverted
    assert "one-context\t9.9" in said


def test_another_contextualization_package_than_the_pinned_one_is_refused(
    root: Root, context_package: Path
) -> None:
    script = f"""
        export ONEKE_CONTEXT_SHA256={"0" * 64}
        {INSTALL_CONTEXT}
    """
    with pytest.raises(CommandFailed, match=r"expected sha256 0{64}, found [0-9a-f]{64}"):
        root.run(script, files=[SCRIPTS, context_package])


def test_a_base_that_has_the_contextualization_package_loses_cloud_init_too(
    root: Root, tmp_path: Path
) -> None:
    packages = []
    for name in ("one-context", "cloud-init", "cloud-initramfs-growroot"):
        (tmp_path / name / "etc" / name).mkdir(parents=True)
        (tmp_path / name / "etc" / name / "set").touch()
        (tmp_path / name / "DEBIAN").mkdir()
        (tmp_path / name / "DEBIAN" / "conffiles").write_text(f"/etc/{name}/set\n")
        packages.append(build_package(tmp_path / name, tmp_path, name))
    script = r"""set -euo pipefail
        dpkg --install /run/oneke-build/*.deb > /dev/null
        # One that is there whole, and one that another way of installing left the settings of.
        dpkg --remove cloud-initramfs-growroot > /dev/null
        # apt says that it has no terminal to write its log from.
        script=/run/oneke-build/scripts/60-contextualization.sh
        bash $script > /tmp/said 2>&1 || { cat /tmp/said; exit 1; }
        dpkg-query --show 'cloud-init*' 2> /dev/null || true
        ls -d /etc/cloud-init* /etc/one-context/set 2> /dev/null || true
    """
    said = root.run(script, files=[SCRIPTS, *packages])
    assert said.split() == ["/etc/one-context/set"]


# An agent that fetches nothing, and is cut or fails where it is told to.
BORROWING = r"""set -euo pipefail
    installed() { dpkg-query --show --showformat='${Package} ${db:Status-Abbrev}\n' | sort; }
    if command -v skopeo > /dev/null; then
        apt-get -qq purge --yes skopeo > /dev/null
    fi
    printf '#!/bin/sh\ncommand -v skopeo\neval "$THEN"\n' > /usr/local/bin/oneke-agent.new
    chmod 0755 /usr/local/bin/oneke-agent.new
    mv -f /usr/local/bin/oneke-agent.new /usr/local/bin/oneke-agent
    export ONEKE_FLAVOR=ee
    installed > /tmp/before
"""


@pytest.mark.parametrize(
    "then", ["true", "exit 1", "kill -TERM $PPID", "kill -KILL $PPID"], ids=lambda text: text[:10]
)
def test_what_was_borrowed_for_the_images_is_given_back_and_nothing_else(
    root: Root, then: str
) -> None:
    script = f"""{BORROWING}
        THEN='{then}' bash /run/oneke-build/scripts/85-artifacts.sh > /tmp/log 2>&1 || true
        grep -x /usr/bin/skopeo /tmp/log
        # Only a run that is killed can not do it; the next one does.
        case '{then}' in
            *KILL*) ! cmp --quiet /tmp/before <(installed)
                THEN=true bash /run/oneke-build/scripts/85-artifacts.sh > /dev/null ;;
        esac
        diff /tmp/before <(installed)
        ls -d /var/lib/oneke-borrowed-packages 2> /dev/null || echo given back
    """
    assert root.run(script, files=[SCRIPTS]).split("\n")[-2:] == ["given back", ""]


def test_ssh_takes_keys_only_whatever_the_cloud_image_says(root: Root) -> None:
    script = """set -euo pipefail
        echo 'PasswordAuthentication yes' > /etc/ssh/sshd_config.d/60-cloudimg-settings.conf
        ssh-keygen -q -t ed25519 -N '' -f /tmp/key
        mkdir -p /run/sshd
        sshd -T -h /tmp/key
    """
    told = set(root.run(script).splitlines())
    assert {
        "passwordauthentication no",
        "kbdinteractiveauthentication no",
        "permitrootlogin without-password",
        "x11forwarding no",
        "allowagentforwarding yes",
    } <= told


def test_time_servers_of_the_build_are_the_only_ones(root: Root) -> None:
    script = """set -euo pipefail
        export ONEKE_NTP_SERVERS='10.0.0.1 ntp.example.com'
        bash /run/oneke-build/scripts/20-system.sh
        cat /etc/systemd/timesyncd.conf.d/50-oneke.conf
    """
    said = root.run(script, files=[SCRIPTS])
    assert said == "[Time]\nNTP=10.0.0.1 ntp.example.com\nFallbackNTP=\n"


def test_the_boot_line_is_set_where_there_is_a_boot_loader(root: Root) -> None:
    script = """set -euo pipefail
        printf '#!/bin/sh\necho updated\n' > /usr/sbin/update-grub
        chmod 0755 /usr/sbin/update-grub
        bash /run/oneke-build/scripts/35-kernel.sh
        bash /run/oneke-build/scripts/35-kernel.sh
        grep console= /etc/default/grub.d/90-oneke.cfg
    """
    said = root.run(script, files=[SCRIPTS])
    assert re.fullmatch(
        r'updated\nGRUB_CMDLINE_LINUX_DEFAULT="console=tty\w+(,115200n8)? console=tty0"\n', said
    )


@pytest.mark.parametrize("end", ["exit 1", "kill -KILL $PPID"])
def test_a_boot_line_that_was_not_set_to_its_end_is_set_by_the_next_run(
    root: Root, end: str
) -> None:
    script = f"""set -euo pipefail
        printf '#!/bin/sh\necho updated\n[ -e /tmp/again ] || {{ : > /tmp/again; {end}; }}\n' \
            > /usr/sbin/update-grub
        chmod 0755 /usr/sbin/update-grub
        ! (bash /run/oneke-build/scripts/35-kernel.sh; exit $?) > /tmp/first 2>&1
        grep updated /tmp/first
        for run in second third; do
            echo "$run"
            bash /run/oneke-build/scripts/35-kernel.sh
        done
        ls /etc/default/grub.d | grep oneke
    """
    said = root.run(script, files=[SCRIPTS]).split()
    assert said == ["updated", "second", "updated", "third", "90-oneke.cfg"]


def test_nothing_in_the_image_tells_one_vm_from_another(root: Root) -> None:
    script = r"""set -euo pipefail
        wc --bytes < /etc/machine-id
        cat /etc/iscsi/initiatorname.iscsi
        find /etc/ssh -name 'ssh_host_*' -o -name '*build*'
        find /var/log /var/lib/apt/lists /var/cache/apt -type f -not -name lock
        find /usr/share/doc -type f -not -name copyright
        find /usr/share/man -type f
    """
    assert root.run(script) == "0\nGenerateName=yes\n"


def test_units_of_the_image(root: Root) -> None:
    script = """
        systemctl is-enabled oneke.target oneke-ssh-host-keys.service systemd-timesyncd.service
        systemctl is-enabled iscsid.socket iscsid.service open-iscsi.service
        systemctl is-enabled haproxy keepalived unbound apt-daily.timer
        cat /usr/lib/systemd/system/rke2-agent.service.d/10-oneke-iscsi.conf | grep -v '^#'
    """
    said = root.run(script).split()
    assert said[:3] == ["enabled"] * 3
    assert said[3:10] == ["disabled"] * 7
    assert said[10:] == ["[Unit]", "Wants=iscsid.socket", "After=iscsid.socket"]
