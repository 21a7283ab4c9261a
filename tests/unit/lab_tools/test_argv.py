"""The commands that open the box and boot a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.__main__ import main
from tests.lab.basics import CommandFailed, LabError
from tests.lab.box import box_argv, node_argv
from tests.lab.lab import Lab
from tests.lab.node import Bind, cable_name, nspawn_argv


def test_the_box_ends_with_its_opener_and_has_namespaces_of_its_own() -> None:
    argv = box_argv(["true"])
    assert argv[:3] == ["setpriv", "--pdeathsig", "KILL"]
    for option in ("--mount", "--net", "--pid", "--kill-child=SIGKILL"):
        assert option in argv
    assert argv[-1] == "true"


def test_a_node_is_started_in_the_switch_and_unknown_to_the_hosts_systemd() -> None:
    argv = nspawn_argv("gw0", Path("/r"), ["eth0", "eth1"], [Bind("/a", "/b", read_only=True)])
    assert argv[:2] == ["nsenter", "--net=/run/netns/lab-sw"]
    assert "--register=no" in argv
    assert "--keep-unit" in argv
    assert "--network-veth-extra=gw0-eth1:eth1" in argv
    assert "--bind-ro=/a:/b" in argv


def test_a_command_in_a_node_gets_a_clean_environment() -> None:
    argv = node_argv(42)
    assert argv[:3] == ["nsenter", "-t", "42"]
    assert argv[argv.index("env") + 1] == "-i"


def test_a_name_too_long_for_a_cable_is_refused() -> None:
    assert cable_name("storage-10", "eth0") == "storage-10-eth0"
    with pytest.raises(LabError, match="choose a shorter node name"):
        cable_name("storage-100", "eth0")


def test_outside_the_box_the_lab_says_how_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEKE_LAB_BOX", raising=False)
    with pytest.raises(LabError, match=r"python3 -m tests\.lab box --"), Lab():
        pass


def test_a_box_in_a_box_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONEKE_LAB_BOX", "1")
    assert main(["box", "--", "true"]) == 1
    assert "already is the inside of a box" in capsys.readouterr().err


def test_a_failed_command_tells_both_outputs() -> None:
    error = CommandFailed(["false", "-x"], 3, "out\n", "err\n", "gw0")
    assert str(error) == "gw0: `false -x` ended with status 3\nstdout: out\nstderr: err"
