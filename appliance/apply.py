"""The only loop that performs actions, and the journal it keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from appliance import paths
from appliance.errors import NotText, OnekeError, StillDifferent
from appliance.logs import Logger
from appliance.plan import Action, Change, Plan, Stage, Step
from appliance.system import System

_LONGEST_JOURNAL = 512 * 1024


class Journal:
    """One line of JSON per event, synced, in the state directory.

    Events are run.start, action.start, action.end, action.failed and run.end. A run without its end
    was cut.
    """

    def __init__(self, system: System, run_id: str, path: PurePosixPath = paths.JOURNAL) -> None:
        """Write for one run."""
        self._system = system
        self._run_id = run_id
        self._path = path

    def record(self, event: str, **data: Any) -> None:
        """Add an event."""
        line = {
            "time": round(self._system.clock.now(), 3),
            "run": self._run_id,
            "event": event,
            **data,
        }
        self._system.files.append(self._path, json.dumps(line))


def read_journal(system: System) -> list[dict[str, Any]]:
    """Return the journal's events, the oldest first.

    A line that was cut short by a power loss is passed over.
    """
    events = []
    for line in _journal_text(system).splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _journal_text(system: System) -> str:
    """Return the journal; what a power loss made unreadable tells nothing."""
    try:
        return system.files.read(paths.JOURNAL) or ""
    except NotText:
        return ""


def open_journal(system: System, run_id: str) -> tuple[Journal, str | None]:
    """Start a run's journal, dropping the older half of a long one.

    Returns:
        The journal, and what the run before was doing if it was cut: an action's name, or
        `starting`.
    """
    system.files.ensure_folder(paths.STATE_DIR, mode=0o700)
    events = read_journal(system)
    text = _journal_text(system)
    if len(text) > _LONGEST_JOURNAL:
        kept = events[len(events) // 2 :]
        system.files.write(
            paths.JOURNAL, "".join(f"{json.dumps(event)}\n" for event in kept), mode=0o600
        )
    elif text and not text.endswith("\n"):
        # A line that was cut must not swallow the next one.
        system.files.append(paths.JOURNAL, "")
    elif not text:
        system.files.remove(paths.JOURNAL)
    return Journal(system, run_id), _cut_in(events)


def _cut_in(events: list[dict[str, Any]]) -> str | None:
    if not events or events[-1].get("event") == "run.end":
        return None
    started = [event for event in events if event.get("event") == "action.start"]
    last = events[-1].get("event")
    return (
        str(started[-1].get("action")) if started and last == "action.start" else "between actions"
    )


@dataclass(frozen=True)
class Outcome:
    """What applying a plan did.

    Attributes:
        steps: Every action, with the change it made, if any.
    """

    stage: Stage
    steps: tuple[Step, ...]

    @property
    def changes(self) -> tuple[tuple[Action, Change], ...]:
        """Only those that changed something."""
        return tuple((step.action, step.change) for step in self.steps if step.change is not None)


def preview(plan: Plan, system: System) -> Outcome:
    """Find out what applying would change, and change nothing."""
    steps = []
    pending: frozenset[PurePosixPath] = frozenset()
    for action in plan.actions:
        change = action.check(system, pending)
        pending |= frozenset(change.paths if change else ())
        steps.append(Step(action, change))
    return Outcome(plan.stage, tuple(steps))


def preflight(actions: Iterable[Action], system: System) -> None:
    """Have everything judged that can be, before anything is changed."""
    for action in actions:
        action.preflight(system)


def apply(plan: Plan, system: System, journal: Journal, log: Logger) -> Outcome:
    """Carry out a plan: check, act where needed, check again.

    Raises:
        StillDifferent: An action's effect is not there although it did not fail.
        OnekeError: What an action failed with; the journal tells which.
    """
    steps = []
    for action in plan.actions:
        change = action.check(system, frozenset())
        steps.append(Step(action, change))
        if change is not None:
            _act(action, change, plan.stage, system, journal, log)
    return Outcome(plan.stage, tuple(steps))


def _act(
    action: Action, change: Change, stage: Stage, system: System, journal: Journal, log: Logger
) -> None:
    started = system.clock.monotonic()
    journal.record("action.start", stage=stage.value, action=action.name, change=change.summary)
    try:
        action.apply(system)
        left = action.check(system, frozenset())
        if left is not None:
            raise StillDifferent(f"{action.name}: done, and still: {left.summary}")
    except OnekeError as error:
        journal.record("action.failed", action=action.name, error=str(error))
        raise
    elapsed = round(system.clock.monotonic() - started, 3)
    journal.record("action.end", action=action.name, elapsed_s=elapsed)
    log.info("action.done", action=action.name, changed=change.summary, elapsed_s=elapsed)
