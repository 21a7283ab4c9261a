"""The verbs `etcd` and `upgrade plan`: what is asked of the task, and what is printed where."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from appliance import agent, cli
from appliance import system as systems
from tests.manifests.plans import shape
from tests.unit.roles.cluster import Cloud, Machine


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A master that runs, and whose agent the command line is."""
    machine = Machine(Cloud(), "master", 101)
    machine.run()
    monkeypatch.setattr(systems, "real_system", lambda: machine.system)
    # OneGate is there already.
    monkeypatch.setattr(agent, "connect", lambda system, base, log, longest_s=None: system)
    return machine


def put(master: Machine, **shaped: Any) -> None:
    """Have a cluster of this shape."""
    master.cloud.kubernetes.members.clear()
    for node in shape(**shaped):
        master.cloud.kubernetes.put(node)


def test_plans_go_to_standard_output_and_words_to_the_other(
    master: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    put(master, masters=3, workers=1)
    assert cli.main(["upgrade", "plan", "--to", "v1.36.3+rke2r1"]) == 0
    printed = capsys.readouterr()
    plans = list(yaml.safe_load_all(printed.out))
    assert [one["kind"] for one in plans] == ["Plan", "Plan"]
    assert "planned: agents: worker0" in printed.err


def test_a_refusal_is_for_a_person_to_correct(
    master: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    put(master, masters=1, version="v1.34.1+rke2r1")
    assert cli.main(["upgrade", "plan", "--to", "v1.36.3+rke2r1"]) == 78
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "leaves out v1.35" in printed.err


def test_where_all_is_done_no_plan_is_printed(
    master: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    put(master, masters=1, version="v1.36.3+rke2r1")
    assert cli.main(["upgrade", "plan", "--to", "1.36.3+rke2r1"]) == 0
    assert "kind" not in capsys.readouterr().out


def test_a_list_without_snapshots_says_so(
    master: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["etcd", "list"]) == 0
    assert "no snapshot was taken yet" in capsys.readouterr().out


def test_a_snapshot_is_taken_under_the_name_that_is_given(
    master: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["etcd", "snapshot", "--name", "before-upgrade", "--dry-run"]) == 0
    assert "before-upgrade" in capsys.readouterr().out
    assert cli.main(["etcd", "snapshot", "--dry-run"]) == 0
    assert "on-demand" in capsys.readouterr().out
    assert not any("etcd-snapshot" in call for call in master.commands.ran)


@pytest.mark.parametrize(
    "argv",
    [
        ["etcd"],
        ["etcd", "restore"],
        ["etcd", "snapshot", "--name", "a b"],
        ["etcd", "snapshot", "--name", "../x"],
        ["upgrade"],
        ["upgrade", "plan"],
    ],
)
def test_wrong_usage_ends_with_64(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 64
