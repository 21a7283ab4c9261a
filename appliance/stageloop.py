"""One stage of a run, round by round: look, plan, apply, wait, and again until nothing is left.

A round plans on what is so now. What has to happen elsewhere first is waited for, with a deadline
for each thing that is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance import paths
from appliance.apply import Journal, Outcome, apply, preflight, preview
from appliance.decision import Decided
from appliance.errors import NotReady, OneGateError, StillDifferent
from appliance.facts import Facts, gather_facts, look_outside
from appliance.logs import Logger
from appliance.plan import Action, GiveUp, Pause, Plan, Stage, Step
from appliance.report import CONFIGURING, WAITING, Reporter
from appliance.siblings import SiblingWatch
from appliance.system import System
from appliance.waiting import LOOK_EVERY_S, Deadline, Readiness, hold_lock, look_every_s

_AFTER_CHANGE_S = 0.1
_SHORTEST_PAUSE_S = 0.05
# A snapshot this old is looked at again without a new one, unless something was changed since.
_FRESH_S = 0.2
_MOST_ROUNDS_ON_END = 50
_ONEGATE_TIMEOUT_S = 900
_ONEGATE_LONGEST_PAUSE_S = 15.0
_ONEGATE = "OneGate to answer"
_CHANGE_LOCK_TIMEOUT_S = 60


class Lookout:
    """Looks at the machine and, at OneGate's pace, at the service, for as long as a run takes."""

    def __init__(self, system: System, decided: Decided) -> None:
        """Look for one role."""
        self._system = system
        self._decided = decided
        vm_id = decided.params.opennebula.vm_id
        self._watch = SiblingWatch(system, vm_id, decided.role.sibling_roles)
        self._last: Facts | None = None
        self._fresh_until = 0.0

    def facts(self, *, outside: bool = False) -> Facts:
        """Return what is so now, here and, where that matters, outside."""
        wanted = self._decided.role.facts_wanted(self._decided.params)
        clock = self._system.clock
        facts = self._last
        if facts is None or clock.monotonic() >= self._fresh_until:
            facts = gather_facts(self._system, wanted, known=facts.seen if facts else None)
            self._fresh_until = clock.monotonic() + _FRESH_S
        if outside:
            siblings = self._watch.look() if wanted.siblings else None
            facts = look_outside(self._system, wanted, facts, siblings)
        self._last = facts
        return facts

    @property
    def next_look_s(self) -> float:
        """How long it is until others are asked again."""
        return self._watch.due_in_s

    def has_changed(self) -> None:
        """Look at this machine anew next time: something was just done to it."""
        self._fresh_until = 0.0

    @property
    def has_outside(self) -> bool:
        """Whether the role looks at other machines at all."""
        wanted = self._decided.role.facts_wanted(self._decided.params)
        return wanted.siblings or bool(wanted.outside)

    def plan(self, stage: Stage, *, outside: bool) -> Plan:
        """Return what the role decides now."""
        facts = self.facts(outside=outside)
        plan: Plan = self._decided.role.plan(stage, self._decided.params, facts)
        return plan

    def readiness(self) -> Readiness:
        """Say how ready the node is right now."""
        facts = self.facts()
        readiness: Readiness = self._decided.role.readiness(self._decided.params, facts)
        return readiness

    def prerequisites(self) -> Readiness:
        """Say whether others did what the role builds upon."""
        facts = self.facts()
        readiness: Readiness = self._decided.role.prerequisites(self._decided.params, facts)
        return readiness

    def has_published(self) -> None:
        """Look at the service anew next time: this node has just told it something."""
        self._watch.forget()


@dataclass
class _Waited:
    """How long something was waited for so far, and how often it was looked."""

    seconds: float = 0.0
    looks: int = 0


class StageRun:
    """One stage: plan, apply, and where something has to happen elsewhere first, plan anew."""

    def __init__(
        self,
        system: System,
        lookout: Lookout,
        stage: Stage,
        journal: Journal,
        reporter: Reporter,
        log: Logger,
    ) -> None:
        """Run one stage of one role."""
        self._system = system
        self._stage = stage
        self._journal = journal
        self._reporter = reporter
        self._log = log.bind(stage=stage.value)
        self._lookout = lookout
        self._pause: Pause | None = None
        self._told = ("", "")
        self._is_first_round = True
        self._paused_at = 0.0
        # What comes up again goes on where it was: two waits that take turns end as well.
        self._waited: dict[str, _Waited] = {}
        self._failures = 0
        self._changes: list[Step] = []
        self._rounds_on_end = 0

    def run(self) -> Outcome:
        """Go on until the plan says that nothing is left to do or to wait for.

        Raises:
            NotReady: What was waited for did not happen in time, or can not happen any more.
            OnekeError: What an action failed with.
        """
        while True:
            try:
                then, steps = self._round()
            except OneGateError as error:
                if not error.retryable or self._stage is not Stage.BOOTSTRAP:
                    raise
                self._failures += 1
                then, steps = Pause(_ONEGATE, str(error), _ONEGATE_TIMEOUT_S), ()
            else:
                self._failures = 0
                self._waited.pop(_ONEGATE, None)
            changed = [step for step in steps if step.change]
            self._changes += changed
            if then is None:
                unchanged = [step for step in steps if not step.change]
                return Outcome(self._stage, (*self._changes, *unchanged))
            if isinstance(then, GiveUp):
                raise self._not_ready(then.what, then.reason, final=True, hint=then.hint)
            self._wait(then, has_changed=bool(changed))

    def _round(self) -> tuple[Pause | GiveUp | None, tuple[Step, ...]]:
        system = self._system
        # A daemon that changes the same things holds the lock while it does.
        deadline = Deadline.after(system.clock, _CHANGE_LOCK_TIMEOUT_S)
        with hold_lock(system, paths.CHANGE_LOCK, deadline):
            plan, differing = self._plan()
            if differing:
                preflight(differing, system)
                step = f"{self._stage.value}: {len(differing)} of {len(plan.actions)} to do"
                self._reporter.progress(CONFIGURING, step)
                self._lookout.has_published()
            outcome = apply(plan, system, self._journal, self._log)
            if outcome.changes:
                self._lookout.has_changed()
        return plan.then, outcome.steps

    def _plan(self) -> tuple[Plan, list[Action]]:
        """Plan; in the first round what needs nobody else is done before anybody is asked."""
        asks = self._stage is Stage.BOOTSTRAP and self._lookout.has_outside
        if not asks or self._is_first_round:
            self._is_first_round = False
            plan = self._lookout.plan(self._stage, outside=False)
            differing = self._find_differing(plan)
            if differing or not asks:
                return plan, differing
        plan = self._lookout.plan(self._stage, outside=True)
        return plan, self._find_differing(plan)

    def _find_differing(self, plan: Plan) -> list[Action]:
        return [step.action for step in preview(plan, self._system).steps if step.change]

    def _wait(self, pause: Pause, *, has_changed: bool) -> None:
        clock = self._system.clock
        if self._pause is not None and self._pause.what in self._waited:
            self._waited[self._pause.what].seconds += clock.monotonic() - self._paused_at
        waited = self._waited.setdefault(pause.what, _Waited())
        waited.looks += 1
        self._pause, self._paused_at = pause, clock.monotonic()
        # After a change the reason is of the time before it; the next round, at once, knows better.
        if not has_changed and self._told != (pause.what, pause.reason):
            self._told = (pause.what, pause.reason)
            elapsed = round(waited.seconds, 1)
            self._log.info("wait.reason", what=pause.what, reason=pause.reason, elapsed_s=elapsed)
            self._reporter.progress(WAITING, pause.reason)
        if waited.seconds + look_every_s(waited.seconds) >= pause.timeout_s:
            raise self._not_ready(pause.what, pause.reason, final=False)
        self._rounds_on_end = self._rounds_on_end + 1 if has_changed else 0
        if self._rounds_on_end > _MOST_ROUNDS_ON_END:
            raise StillDifferent(
                f"stage {self._stage.value}: finds something to do every time: {pause.reason}"
            )
        clock.sleep(self._pause_s(waited.seconds, has_changed=has_changed))

    def _pause_s(self, waited_s: float, *, has_changed: bool) -> float:
        if has_changed:
            return _AFTER_CHANGE_S
        if self._failures:
            return min(LOOK_EVERY_S * 2.0 ** min(self._failures, 10), _ONEGATE_LONGEST_PAUSE_S)
        longest_s = look_every_s(waited_s)
        due_s = self._lookout.next_look_s or longest_s
        return max(_SHORTEST_PAUSE_S, min(longest_s, due_s))

    def _not_ready(
        self, what: str, reason: str, *, final: bool, hint: str | None = None
    ) -> NotReady:
        waited = self._waited.get(what, _Waited())
        error = NotReady(what, reason, elapsed_s=waited.seconds, attempts=waited.looks, final=final)
        error.hint = hint
        return error
