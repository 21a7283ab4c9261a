"""What keeps a node's gateway and resolver: the script of the image, real sockets and files."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from appliance.errors import SocketError
from appliance.system.network import (
    IFUPDOWN,
    NETWORKD,
    LinkManager,
    parse_ifstate,
    parse_networkd,
)
from appliance.system.sockets import RealSockets
from roles.common.nameserver import RESOLV_CONF, build_query, is_answer
from roles.common.nodenetwork import DHCLIENT_HOOK, GIVEN, SCRIPT
from tests.unit.roles.networknode import Machine, answer, params

pytestmark = pytest.mark.functional

LOOPBACK = IPv4Address("127.0.0.1")


def script_run(machine: Machine, tmp_path: Path, found: str) -> str:
    """Let the real script loose on a resolv.conf, and return what it makes of it."""
    file, given = tmp_path / "resolv.conf", tmp_path / "given"
    file.write_text(found)
    text = machine.files.text(SCRIPT)
    text = text.replace(str(RESOLV_CONF), str(file)).replace(str(GIVEN), str(given))
    route = [line for line in text.splitlines() if line.lstrip().startswith("ip ")]
    assert len(route) == 1
    text = text.replace(route[0].strip(), f"echo set >> {tmp_path}/route")
    subprocess.run(["sh", "-u", "-c", text], check=True, timeout=20)
    return file.read_text()


@pytest.mark.parametrize(
    "found", ["nameserver 9.9.9.9\nsearch a b\n", "", "options timeout:1\ndomain x\n#search y\n"]
)
def test_the_script_makes_what_a_run_makes(found: str, tmp_path: Path) -> None:
    machine = Machine(found).answers()
    machine.run(params())
    assert script_run(machine, tmp_path, found) == machine.resolver()
    assert (tmp_path / "route").read_text() == "set\n"


def test_the_script_leaves_alone_what_is_right_and_keeps_what_was_given(tmp_path: Path) -> None:
    machine = Machine().answers()
    machine.run(params())
    assert script_run(machine, tmp_path, machine.resolver()) == machine.resolver()
    assert not (tmp_path / "given").exists()
    script_run(machine, tmp_path, "nameserver 9.9.9.9\n")
    assert (tmp_path / "given").read_text() == "nameserver 9.9.9.9\n"


@pytest.mark.parametrize(("reason", "runs"), [("RENEW", True), ("BOUND", True), ("STOP", False)])
def test_a_new_lease_runs_the_script_for_its_link(reason: str, runs: bool, tmp_path: Path) -> None:
    machine = Machine().answers().managed_by(LinkManager(IFUPDOWN))
    machine.run(params())
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho $IFACE > {tmp_path}/ran\n")
    script.chmod(0o755)
    hook = machine.files.text(DHCLIENT_HOOK).replace(str(SCRIPT), str(script))
    environment = {"reason": reason, "interface": "eth0", "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-eu", "-c", hook], check=True, timeout=20, env=environment)
    assert (tmp_path / "ran").exists() is runs
    assert not runs or (tmp_path / "ran").read_text() == "eth0\n"


@pytest.fixture
def server() -> Iterator[int]:
    """A name server's port on the loopback; it answers every question."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                query, peer = listening.recvfrom(512)
                if not query:
                    return
                listening.sendto(answer(query), peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.sendto(b"", listening.getsockname())
        thread.join(5)


def test_a_question_gets_its_answer(server: int) -> None:
    query = build_query(1)
    assert is_answer(query, RealSockets().exchange(LOOPBACK, server, query))


def test_a_silent_port_and_a_closed_one_are_errors() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(SocketError, match="no answer in time"):
            RealSockets().exchange(LOOPBACK, port, b"x", timeout_s=0.05)
    with pytest.raises(SocketError, match="refused"):
        RealSockets().exchange(LOOPBACK, port, b"x")


def test_who_manages_a_link_is_read_as_the_tools_write_it() -> None:
    listed = """{"Interfaces": [
        {"Name": "lo", "AdministrativeState": "unmanaged"},
        {"Name": "eth0", "AdministrativeState": "configuring",
         "NetworkFile": "/run/systemd/network/10-netplan-eth0.network"},
        {"Name": "eth1", "AdministrativeState": "unmanaged", "NetworkFile": "/etc/x.network"}]}"""
    assert parse_networkd(listed) == {"eth0": LinkManager(NETWORKD, "10-netplan-eth0.network")}
    assert parse_networkd("") == parse_networkd("[]") == parse_networkd("{}") == {}
    assert parse_ifstate("lo=lo\neth0=eth0\n") == ("lo", "eth0")
