"""`oneke-agent clean`: what it prints, and the status it ends with."""

from __future__ import annotations

import json

import pytest

import appliance.agent
import appliance.system
from appliance.cli import main
from appliance.options import Options
from appliance.role import TaskLine, TaskResult
from appliance.system import System
from tests.unit.appliance.machine import Gateway

Captured = pytest.CaptureFixture[str]

LINES = (
    TaskLine("oneke-ip-172-20-0-1", "kept", "is Ready", is_usual=True),
    TaskLine("w9", "deleted", "VM 9 is gone"),
    TaskLine("x", "kept", "carries no label", "kubectl delete node x"),
)


class Task:
    """A task that did something, and remembers how it was asked to."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble = trouble
        self.lines = LINES
        self.asked: list[bool] = []

    def run(self, *, dry_run: bool) -> TaskResult:
        self.asked.append(dry_run)
        return TaskResult(self.lines, self.trouble)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """The task that the node's role has."""
    task = Task()

    def run_task(system: System, options: Options, *args: object) -> TaskResult:
        return task.run(dry_run=options.dry_run)

    monkeypatch.setattr(appliance.agent, "run_task", run_task)
    return task


def test_every_node_is_shown_with_its_reason(task: Task, capsys: Captured) -> None:
    assert main(["clean"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "kept     oneke-ip-172-20-0-1  is Ready",
        "deleted  w9                   VM 9 is gone",
        "kept     x                    carries no label",
        "                              hint: kubectl delete node x",
    ]
    assert err == ""
    assert task.asked == [False]


def test_what_is_as_it_should_be_is_left_out_quietly(task: Task, capsys: Captured) -> None:
    assert main(["clean", "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "deleted  w9  VM 9 is gone",
        "kept     x   carries no label",
        "             hint: kubectl delete node x",
    ]
    task.lines = LINES[:1]
    assert main(["clean", "--quiet"]) == 0
    assert capsys.readouterr().out == "nothing to do: all 1 are as they should be\n"


def test_the_same_as_json(task: Task, capsys: Captured) -> None:
    assert main(["clean", "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["dry_run"] is True
    assert document["lines"][1] == {
        "subject": "w9",
        "verdict": "deleted",
        "reason": "VM 9 is gone",
        "hint": "",
        "is_usual": False,
    }
    assert task.asked == [True]


@pytest.mark.parametrize("given", [[], ["--json"]])
def test_trouble_is_worth_another_try(task: Task, capsys: Captured, given: list[str]) -> None:
    task.trouble = "OneGate does not answer"
    assert main(["clean", *given]) == 75
    out, err = capsys.readouterr()
    assert "OneGate does not answer" in (out if given else err)


def test_a_gateway_has_nothing_to_clean(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    machine = Gateway()
    monkeypatch.setattr(appliance.system, "real_system", lambda: machine.system)
    assert main(["clean", "--role", "vnf"]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert "a gateway has no task 'clean'" in err
    assert "on a master" in err
