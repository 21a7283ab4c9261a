"""`oneke-agent clean` from end to end, on nodes of a cluster made of fakes."""

from __future__ import annotations

import json

import pytest

import appliance.system
from appliance import paths
from appliance.cli import main
from appliance.system import System
from roles.common.cleaner import APART_S
from roles.common.rke2config import VM_LABEL
from tests.fakes import FakeClock, FakeFiles, FakeKubernetes, FakeOneGate, make_node, make_system
from tests.unit.appliance.machine import ONE_ENV, write_one_env
from tests.unit.roles.nodes import NODE

OWN, OTHER = "oneke-ip-172-20-0-101", "oneke-ip-172-20-0-102"
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    """The master of the usual context, which serves, and a worker's node whose VM is gone."""
    own = make_node(OWN, labels={VM_LABEL: NODE["VMID"]}, voter="True")
    gone = make_node(OTHER, labels={VM_LABEL: "368"}, ready="Unknown", ready_since_s=0.0)
    onegate = FakeOneGate(int(NODE["VMID"]), {"ROLE_NAME": "master"})
    onegate.add_vm(400, {"ROLE_NAME": "worker"})
    context = {**NODE, "SERVICE_ID": "1"}
    system = make_system(
        files=FakeFiles({ONE_ENV: write_one_env(context)}),
        clock=FakeClock(),
        kubernetes=FakeKubernetes([own, gone]),
        onegate=onegate,
    )
    monkeypatch.setattr(appliance.system, "real_system", lambda: system)
    return system


def test_a_master_cleans(system: System, capsys: Captured) -> None:
    assert main(["clean", "--role", "master", "--json", "--dry-run"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(line["subject"], line["verdict"]) for line in document["lines"]] == [
        (OWN, "kept"),
        (OTHER, "to delete"),
    ]
    assert isinstance(system.clock, FakeClock)
    assert system.clock.slept == [APART_S]
    assert main(["clean", "--role", "master"]) == 0
    assert f"deleted  {OTHER}" in capsys.readouterr().out
    assert isinstance(system.kubernetes, FakeKubernetes)
    assert list(system.kubernetes.members) == [OWN]


def test_it_is_quiet_where_there_is_nothing_to_do(system: System, capsys: Captured) -> None:
    main(["clean", "--role", "master", "--quiet"])
    assert OWN not in capsys.readouterr().out
    assert main(["clean", "--role", "master", "--quiet"]) == 0
    assert capsys.readouterr() == ("nothing to do: all 1 are as they should be\n", "")


def test_it_is_not_done_twice_at_once(system: System, capsys: Captured) -> None:
    with system.files.lock(paths.RUN_DIR / "clean.lock"):
        assert main(["clean", "--role", "master"]) == 75
        assert "clean.lock is held" in capsys.readouterr().err
        assert main(["clean", "--role", "master", "--dry-run"]) == 0
    assert isinstance(system.kubernetes, FakeKubernetes)
    assert OTHER in system.kubernetes.members


def test_a_master_that_does_not_serve_says_where_to_clean(system: System, capsys: Captured) -> None:
    assert isinstance(system.kubernetes, FakeKubernetes)
    system.kubernetes.go_down()
    assert main(["clean", "--role", "master"]) == 75
    err = capsys.readouterr().err
    assert "this master does not serve" in err
    assert "hint: clean works on a master that serves" in err


@pytest.mark.parametrize("role", ["worker", "storage"])
def test_other_nodes_do_not_clean(system: System, capsys: Captured, role: str) -> None:
    assert main(["clean", "--role", role]) == 78
    assert "has no task 'clean'" in capsys.readouterr().err
