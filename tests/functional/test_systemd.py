"""The units of the image, judged by systemd itself, in a root of their own.

`systemd-analyze verify` ends well on some mistakes that it only writes down, so whatever it writes
fails a test.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path

import pytest

pytestmark = pytest.mark.functional

UNITS = Path(__file__).parents[2] / "systemd"
SYSTEM_UNITS = Path("/usr/lib/systemd/system")
ETC = "etc/systemd/system"
# What the image has and units may start. The other programs of its machine are not there.
COMMANDS = (
    "usr/local/bin/oneke-agent",
    "usr/bin/systemctl",
    "usr/bin/ssh-keygen",
    "bin/true",
    "bin/kill",
)
NAMES = sorted(path.name for path in UNITS.iterdir() if path.is_file() and path.suffix != ".preset")
# Daemons of the distribution, of which ours say more in drop-ins.
DAEMONS = sorted(path.name.removesuffix(".d") for path in UNITS.glob("*.service.d"))
SERVICES = [name for name in NAMES if name.endswith(".service")]
# All but the one that sets up the machine, as root, are shut in.
MOST_EXPOSURE: Mapping[str, float] = {
    "oneke-backends.service": 2.2,
    "oneke-context.service": 1.3,
    "oneke-leave.service": 2.5,
    "oneke-ssh-host-keys.service": 1.3,
    # As Debian has them: 9.6 each.
    "haproxy.service": 3.9,
    "keepalived.service": 3.5,
    "unbound.service": 4.0,
}

_EXPOSURE = re.compile(r"Overall exposure level for (?P<unit>\S+): (?P<level>[0-9.]+)")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with systemd's own units, ours, and the commands that ours name."""
    made = tmp_path / "root"
    shutil.copytree(SYSTEM_UNITS, made / "usr/lib/systemd/system", symlinks=True)
    for name in ("lib", "bin"):
        (made / "usr" / name).mkdir(exist_ok=True)
        (made / name).symlink_to(f"usr/{name}")
    for command in COMMANDS:
        path = made / command
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    shutil.copytree(UNITS, made / ETC)
    return made


def told(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command and keep all that it says."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=60, env=environment
    )


def verified(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Have a unit of the root judged, with all that it pulls in."""
    path = root / ETC / name
    return told("systemd-analyze", "verify", "--man=no", f"--root={root}", str(path))


def verified_boot(root: Path) -> str:
    """Have all judged that a boot of the root starts, and return what is said."""
    target = root / "usr/lib/systemd/system/multi-user.target"
    return told("systemd-analyze", "verify", "--man=no", f"--root={root}", str(target)).stderr


def want(root: Path, target: str, name: str) -> None:
    """Enable a unit in a root, for one target."""
    wants = root / ETC / f"{target}.wants"
    wants.mkdir(exist_ok=True)
    (wants / name).symlink_to(f"../{name}")


def settings(name: str) -> ConfigParser:
    """Read a unit; a key that is there several times keeps its last value."""
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes="#")
    parser.optionxform = str  # as its documentation says
    parser.read(UNITS / name)
    return parser


@pytest.mark.parametrize("name", NAMES)
def test_systemd_has_nothing_to_say_about_a_unit(root: Path, name: str) -> None:
    done = verified(root, name)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[Service]\nExecStart=/usr/bin/no-such-command\n", "not executable"),
        ("[Service]\nExecStart=/bin/true\nRestrictNamespace=yes\n", "Unknown key"),
        ("[Service]\nExecStart=/bin/true\nType=oneshoot\n", "Failed to parse"),
    ],
)
def test_what_is_wrong_in_a_unit_would_be_told(root: Path, line: str, complaint: str) -> None:
    (root / ETC / "oneke-wrong.service").write_text(line)
    assert complaint in verified(root, "oneke-wrong.service").stderr


def test_no_unit_waits_for_itself(root: Path) -> None:
    """With the contextualization package's units, of which one comes after multi-user.target.

    Source: OpenNebula addon-context-linux, src/usr/lib/systemd/system.
    """
    units = {
        "one-context-local.service": "DefaultDependencies=no\nBefore=network-pre.target\n",
        "one-context-online.service": "After=one-context-local.service\n"
        "Before=network-online.target\n",
        "one-context.service": "Requires=one-context-local.service\n"
        "After=multi-user.target one-context-local.service\n",
    }
    for name, lines in units.items():
        text = f"[Unit]\n{lines}[Service]\nType=oneshot\nExecStart=/bin/true\n"
        (root / ETC / name).write_text(text)
    want(root, "multi-user.target", "one-context.service")
    want(root, "multi-user.target", "oneke.target")
    want(root, "multi-user.target", "oneke-ssh-host-keys.service")
    want(root, "network-online.target", "one-context-online.service")
    said = verified_boot(root)
    assert "cycle" not in said
    assert "oneke" not in said


@pytest.fixture
def started_by_socket(root: Path) -> Path:
    """The root with ssh as Ubuntu 24.04 starts it, and with host keys made at boot.

    Source: openssh of Ubuntu 24.04, debian/systemd/ssh.socket and ssh.service.
    """
    (root / ETC / "ssh.socket").write_text(
        "[Unit]\nBefore=sockets.target ssh.service\n[Socket]\nListenStream=22\n"
    )
    (root / ETC / "ssh.service").write_text(
        "[Unit]\nAfter=network.target\nRequires=ssh.socket\n"
        "[Service]\nType=notify\nExecStart=/bin/true\n"
    )
    want(root, "sockets.target", "ssh.socket")
    want(root, "multi-user.target", "oneke-ssh-host-keys.service")
    return root


def test_ssh_comes_where_its_socket_starts_it(started_by_socket: Path) -> None:
    assert "cycle" not in verified_boot(started_by_socket)


def test_keys_made_before_that_socket_would_be_told_as_a_cycle(started_by_socket: Path) -> None:
    more = started_by_socket / ETC / "oneke-ssh-host-keys.service.d"
    more.mkdir()
    (more / "early.conf").write_text("[Unit]\nBefore=ssh.socket\n")
    said = verified_boot(started_by_socket)
    assert "ordering cycle" in said
    assert "ssh.socket" in said


def test_keys_are_there_before_ssh_and_made_by_one_at_a_time() -> None:
    unit = settings("oneke-ssh-host-keys.service")["Unit"]
    assert unit["Before"] == "ssh.service"
    # The contextualization package makes host keys as well.
    assert unit["After"] == "one-context-local.service"


@pytest.mark.parametrize("name", MOST_EXPOSURE)
def test_a_unit_that_can_be_shut_in_is(root: Path, name: str) -> None:
    done = told("systemd-analyze", "security", "--offline=yes", f"--root={root}", name)
    found = _EXPOSURE.search(done.stdout)
    assert found is not None, done.stderr
    assert found["unit"] == name
    assert float(found["level"]) <= MOST_EXPOSURE[name]


@pytest.mark.parametrize("name", DAEMONS)
def test_systemd_understands_what_is_added_to_a_daemon(root: Path, name: str) -> None:
    daemon = root / "usr/lib/systemd/system" / name
    daemon.write_text("[Service]\nType=notify\nExecStart=/bin/true\n")
    done = told("systemd-analyze", "verify", "--man=no", f"--root={root}", str(daemon))
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("name", ["rke2-server.service", "rke2-agent.service"])
def test_the_iscsi_initiator_is_there_where_rke2_runs(name: str) -> None:
    unit = settings(f"{name}.d/10-oneke-iscsi.conf")["Unit"]
    assert (unit["Wants"], unit["After"]) == ("iscsid.socket", "iscsid.socket")


@pytest.mark.parametrize("name", ["rke2-server.service", "rke2-agent.service"])
def test_what_a_power_cut_left_empty_is_removed_before_rke2_starts(
    name: str, tmp_path: Path
) -> None:
    said = settings(f"{name}.d/20-oneke-empty-files.conf")["Service"]["ExecStartPre"]
    # As systemd reads it: no status counts, and a percent sign is written twice.
    assert said.startswith("-")
    argv = shlex.split(said[1:].replace("%%", "%"))
    folder = tmp_path / "agent"
    argv[-1] = argv[-1].replace("/var/lib/rancher/rke2/agent", str(folder))
    assert told(*argv).stderr == ""
    (folder / "containerd").mkdir(parents=True)
    for file in ("client-kubelet.key", "client-kubelet.crt", "containerd/hosts"):
        (folder / file).touch()
    (folder / "serving-kubelet.key").write_text("key\n")
    done = told(*argv)
    lines = [f"removed, as it is empty: client-kubelet.{kind}" for kind in ("crt", "key")]
    assert (sorted(done.stdout.splitlines()), done.stderr) == (lines, "")
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == ["containerd/hosts", "serving-kubelet.key"]


def test_a_gateway_gives_its_addresses_away_before_its_daemons_stop() -> None:
    said = settings("keepalived.service.d/10-oneke-gateway.conf")
    # Stopping goes the other way round.
    assert set(said["Unit"]["After"].split()) == {"haproxy.service", "unbound.service"}
    assert said["Service"]["Restart"] == "on-failure"


@pytest.mark.parametrize("name", SERVICES)
def test_what_runs_for_long_is_shut_in(name: str) -> None:
    is_daemon = settings(name)["Service"]["Type"] != "oneshot"
    assert name in MOST_EXPOSURE or not is_daemon


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_unit_says_is_found_under_its_name(name: str) -> None:
    service = settings(name)["Service"]
    assert service["SyslogIdentifier"] == name.removesuffix(".service")
    assert service["UMask"] == "0077"


@pytest.mark.parametrize("name", ["oneke-agent.service", "oneke-leave.service"])
def test_people_at_the_console_see_what_a_run_does(name: str) -> None:
    service = settings(name)["Service"]
    assert service["StandardOutput"] == "journal+console"
    assert service["StandardError"] == "journal"


def test_a_node_leaves_before_what_it_needs_for_that_is_stopped() -> None:
    text = (UNITS / "oneke-leave.service").read_text(encoding="utf-8")
    after = " ".join(re.findall(r"^After=(.*)$", text, re.MULTILINE)).split()
    needed = {"rke2-server.service", "rke2-agent.service", "network-online.target"}
    assert {*needed, "nss-lookup.target", "remote-fs.target"} <= set(after)
    # A run of the agent that goes on would take back what leaving does.
    assert settings("oneke-leave.service")["Unit"]["Before"] == "oneke-agent.service"


def test_presets_leave_the_roles_daemons_to_the_agent(root: Path) -> None:
    presets = root / "usr/lib/systemd/system-preset"
    presets.mkdir(exist_ok=True)
    for preset in UNITS.glob("*.preset"):
        shutil.copy(preset, presets)
    daemon = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    quiet = ("haproxy", "keepalived", "unbound", "rke2-server", "rke2-agent", "iscsid", "rpcbind")
    for name in (*quiet, "ssh"):
        (root / ETC / f"{name}.service").write_text(daemon)
    told("systemctl", f"--root={root}", "preset-all")
    listed = told("systemctl", f"--root={root}", "list-unit-files", "--no-legend", "--plain")
    states = {line.split()[0]: line.split()[1] for line in listed.stdout.splitlines() if line}
    assert {states[f"{name}.service"] for name in quiet} == {"disabled"}
    assert states["oneke.target"] == "enabled"
    # What is nobody's business here stays as the distribution has it.
    assert states["ssh.service"] == "enabled"
    assert states["oneke-ssh-host-keys.service"] == "enabled"
    by_themselves = {"oneke.target", "oneke-ssh-host-keys.service"}
    ours = {name: states[name] for name in NAMES if name not in by_themselves}
    assert set(ours.values()) == {"static"}, "what the target wants, or the agent starts"
