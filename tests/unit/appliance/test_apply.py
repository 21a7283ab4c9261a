"""The loop that performs actions, and its journal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pytest

from appliance import paths
from appliance.actions import RunUnit, WriteFile
from appliance.apply import apply, open_journal, preflight, preview, read_journal
from appliance.errors import ConfigurationRefused, FileError, StillDifferent
from appliance.plan import Change, Plan, Stage, describe, diff_texts
from appliance.system import System
from appliance.system.units import UnitState
from tests.fakes import FakeClock, FakeFiles, FakeLog, FakeUnits, PowerCut, make_system

CONF = PurePosixPath("/etc/thing.conf")
UNIT = "thing.service"


@dataclass
class Toy:
    """An action that is done once it was applied, unless it is told otherwise."""

    name: str = "toy"
    works: bool = True
    error: Exception | None = None
    done: bool = False
    refused: bool = False
    applied: list[str] = field(default_factory=list)

    def preflight(self, system: System) -> None:
        """Refuse, if told so."""
        if self.refused:
            raise ConfigurationRefused(f"{self.name}: refused")

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Say whether it was done."""
        return None if self.done else Change("play")

    def apply(self, system: System) -> None:
        """Do it."""
        self.applied.append(self.name)
        if self.error:
            raise self.error
        self.done = self.works


def plan(*actions: Toy) -> Plan:
    """Return a plan of toys."""
    return Plan(Stage.CONFIGURE, actions)


@pytest.fixture
def files() -> FakeFiles:
    return FakeFiles()


@pytest.fixture
def machine(files: FakeFiles) -> System:
    return make_system(files=files)


def events(system: System) -> list[str]:
    """Return the names of the journal's events."""
    return [event["event"] for event in read_journal(system)]


# --- the loop -------------------------------------------------------------------------------------


def test_only_what_differs_is_done(machine: System) -> None:
    one, two, log = Toy("one", done=True), Toy("two"), FakeLog()
    journal, _ = open_journal(machine, "run-1")
    outcome = apply(plan(one, two), machine, journal, log)
    assert (one.applied, two.applied) == ([], ["two"])
    assert [action.name for action, _ in outcome.changes] == ["two"]
    assert log.events() == ["action.done"]
    assert apply(plan(one, two), machine, journal, log).changes == ()


def test_every_action_is_journaled_with_start_end_and_change(machine: System) -> None:
    journal, _ = open_journal(machine, "run-1")
    apply(plan(Toy("one"), Toy("two", done=True)), machine, journal, FakeLog())
    start, end = read_journal(machine)
    assert (start["event"], start["action"], start["change"]) == ("action.start", "one", "play")
    assert (end["event"], end["action"], end["run"]) == ("action.end", "one", "run-1")
    assert start["stage"] == "configure"
    assert {"time", "elapsed_s"} <= end.keys()


def test_a_difference_that_survives_is_an_error(machine: System) -> None:
    journal, _ = open_journal(machine, "run-1")
    two = Toy("two")
    with pytest.raises(StillDifferent, match="one: done, and still: play"):
        apply(plan(Toy("one", works=False), two), machine, journal, FakeLog())
    assert two.applied == []
    assert events(machine) == ["action.start", "action.failed"]


def test_an_action_that_fails_ends_the_run_and_is_journaled(machine: System) -> None:
    journal, _ = open_journal(machine, "run-1")
    two = Toy("two")
    with pytest.raises(FileError):
        apply(plan(Toy("one", error=FileError("disk full")), two), machine, journal, FakeLog())
    assert two.applied == []
    assert read_journal(machine)[-1]["error"] == "disk full"


def test_a_preview_looks_at_what_earlier_actions_are_about_to_change() -> None:
    running = UnitState("loaded", "active", "running", "success", "enabled")
    files, units = FakeFiles({str(CONF): "old\n"}), FakeUnits({UNIT: running})
    system = make_system(files=files, units=units)
    RunUnit(UNIT, (CONF,)).apply(system)
    files.tape.changes.clear()
    actions = (WriteFile(CONF, "new\n", loaded_by=(UNIT,)), RunUnit(UNIT, (CONF,)))
    outcome = preview(Plan(Stage.CONFIGURE, actions), system)
    assert [change.summary for _, change in outcome.changes] == ["write", "reload"]
    assert files.tape.changes == []


def test_a_refusal_of_any_action_comes_before_the_first_is_done(machine: System) -> None:
    one, two = Toy("one"), Toy("two", refused=True)
    with pytest.raises(ConfigurationRefused, match="two"):
        preflight((one, two), machine)
    assert one.applied == []


# --- the journal ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "cut_in"),
    [
        ([], None),
        ([{"event": "run.start"}, {"event": "run.end"}], None),
        ([{"event": "run.start"}], "between actions"),
        (
            [{"event": "run.start"}, {"event": "action.start", "action": "file /etc/x"}],
            "file /etc/x",
        ),
        (
            [
                {"event": "action.start", "action": "a"},
                {"event": "action.end", "action": "a"},
            ],
            "between actions",
        ),
        (
            [
                {"event": "action.start", "action": "a"},
                {"event": "action.end", "action": "a"},
                {"event": "action.start", "action": "b"},
            ],
            "b",
        ),
        ([{"event": "action.failed", "action": "a"}, {"event": "run.end"}], None),
    ],
)
def test_a_run_that_was_cut_is_noticed_by_the_next(
    files: FakeFiles, machine: System, last: list[dict[str, str]], cut_in: str | None
) -> None:
    text = "".join(f"{json.dumps(event)}\n" for event in last)
    if text:
        files.put(paths.JOURNAL, text)
    assert open_journal(machine, "run-2")[1] == cut_in


@pytest.mark.parametrize("torn", ['{"event": "run.e', '{"event": "run.end"', "\0\0\0\0", "{", '"'])
def test_a_torn_last_line_costs_nothing_but_itself(
    files: FakeFiles, machine: System, torn: str
) -> None:
    start = json.dumps({"event": "action.start", "action": "file /etc/x"})
    files.put(paths.JOURNAL, f"{start}\n{torn}")
    journal, cut_in = open_journal(machine, "run-2")
    assert cut_in == "file /etc/x"
    journal.record("run.start")
    assert events(machine) == ["action.start", "run.start"]


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"\n\n", b"[1]\n5\nnull\n", b""])
def test_a_journal_that_tells_nothing_is_begun_anew(
    files: FakeFiles, machine: System, text: bytes
) -> None:
    files.put(paths.JOURNAL, text)
    journal, cut_in = open_journal(machine, "run-2")
    assert cut_in is None
    journal.record("run.start")
    assert events(machine) == ["run.start"]


def test_a_long_journal_loses_its_older_half_and_stays_readable(
    files: FakeFiles, machine: System
) -> None:
    lines = [json.dumps({"event": "action.end", "n": n, "x": "y" * 1000}) for n in range(1000)]
    files.put(paths.JOURNAL, "\n".join(lines) + '\n{"event": "torn')
    journal, _ = open_journal(machine, "run-2")
    journal.record("run.start")
    kept = read_journal(machine)
    assert [event.get("n") for event in kept] == [*range(500, 1000), None]
    assert files.kept[paths.JOURNAL].mode == 0o600
    size = len(files.kept[paths.JOURNAL].data)
    open_journal(machine, "run-3")
    assert len(files.kept[paths.JOURNAL].data) <= size


def test_the_journal_is_for_root_only(files: FakeFiles, machine: System) -> None:
    journal, _ = open_journal(machine, "run-1")
    journal.record("run.start")
    assert files.kept[paths.JOURNAL].mode == 0o600
    assert files.folders[paths.STATE_DIR] == 0o700


def test_a_run_cut_in_an_action_says_in_which() -> None:
    files = FakeFiles()
    system = make_system(files=files, clock=FakeClock())
    journal, _ = open_journal(system, "run-1")
    with pytest.raises(PowerCut):
        apply(plan(Toy("one"), Toy("two", error=PowerCut())), system, journal, FakeLog())
    assert open_journal(system, "run-2")[1] == "two"


# --- what a person sees ---------------------------------------------------------------------------


def test_a_plan_is_shown_with_changes_and_what_is_so_already(machine: System) -> None:
    outcome = preview(plan(Toy("one", done=True), Toy("two")), machine)
    assert list(describe(outcome.steps)) == ["= one", "~ two: play"]
    assert list(describe(outcome.steps, unchanged=False)) == ["~ two: play"]


def test_a_long_difference_is_cut() -> None:
    shown = diff_texts("", "\n".join(map(str, range(1000)))).splitlines()
    assert len(shown) == 201
    assert shown[-1] == "... and 801 more lines"
