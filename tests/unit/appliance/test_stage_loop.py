"""A stage that pauses and plans anew: on a machine made of fakes, with a role made for the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pytest

from appliance.actions import BeginUnit, EnsureSecret, Publish, WriteFile
from appliance.agent import RunResult
from appliance.errors import (
    NotReady,
    OneGateRefused,
    OneGateUnavailable,
    StillDifferent,
)
from appliance.facts import Facts, FactsWanted
from appliance.plan import Action, GiveUp, Pause, Plan, Stage
from appliance.system import System
from appliance.waiting import NotYet, Readiness, Ready
from roles.vnf.role import VnfRole
from tests.fakes import PowerCut, Tape
from tests.unit.appliance.machine import BOOKKEEPING, Gateway

DOWN = OneGateUnavailable("OneGate GET /vm: Connection refused")
UNIT = "unbound.service"
CONF, STONE = PurePosixPath("/etc/thing.conf"), PurePosixPath("/etc/stone")
TURN = Pause("this node's turn", "VM 364 is before", 600)
Decide = Callable[[Facts], Plan]


def plan(*actions: Action, then: Pause | GiveUp | None = None) -> Plan:
    return Plan(Stage.BOOTSTRAP, actions, then)


@dataclass(frozen=True)
class Looks:
    """A probe that counts its looks."""

    name: str
    looks: list[float] = field(default_factory=list, compare=False, repr=False)

    def look(self, system: System) -> int:
        self.looks.append(system.clock.monotonic())
        return len(self.looks)


class Node:
    """A machine whose role decides as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, tape: Tape | None = None) -> None:
        self.gateway = Gateway(tape=tape)
        self.wanted = FactsWanted()
        self.configure: tuple[Action, ...] = ()
        self.decide: Decide = lambda facts: plan()
        self.readiness: Readiness = Ready()
        self.rounds: list[float] = []
        self.known_at_first = Facts()
        node = self

        class Scripted(VnfRole):
            """The gateway's parameters, and nothing else of its role."""

            ready_timeout_s = 10.0

            def facts_wanted(self, params: Any) -> FactsWanted:
                return node.wanted

            def prerequisites(self, params: Any, facts: Facts) -> Readiness:
                return Ready()

            def plan(self, stage: Stage, params: Any, facts: Facts) -> Plan:
                if stage is Stage.CONFIGURE:
                    node.known_at_first = facts
                    return Plan(stage, node.configure)
                if node.wanted.siblings and facts.siblings is None:
                    return plan()  # nothing can be decided without them
                node.rounds.append(node.gateway.clock.monotonic())
                return node.decide(facts)

            def readiness(self, params: Any, facts: Facts) -> Readiness:
                return node.readiness

        monkeypatch.setattr(
            "appliance.decision.make_role", lambda name, services: Scripted(services)
        )

    def run(self, **options: Any) -> RunResult:
        return self.gateway.run(**options)

    @property
    def said(self) -> list[str]:
        """What was published of the steps, in order."""
        updates = self.gateway.onegate.updates
        return [update["ONEKE_STEP"] for update in updates if update.get("ONEKE_STEP")]


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


def until_the_stone_is_there(facts: Facts) -> Plan:
    return plan() if facts.files[STONE] is not None else plan(then=TURN)


# --- pausing --------------------------------------------------------------------------------------


def test_a_stage_pauses_until_something_has_happened_elsewhere(node: Node) -> None:
    node.wanted = FactsWanted(files=(STONE,))
    node.decide = until_the_stone_is_there
    node.gateway.clock.after(30, lambda: node.gateway.files.put(STONE, "here"))
    result = node.run()
    assert result.readiness == Ready()
    assert result.changes == 0
    assert node.rounds[-1] - node.rounds[0] == pytest.approx(30, abs=1)
    assert node.gateway.onegate.own["READY"] == "YES"


def test_what_is_waited_for_is_told_in_onegate_and_the_log_when_it_changes(node: Node) -> None:
    reasons = iter(["one", "one", "two", "two", "two", "one"])

    def decide(facts: Facts) -> Plan:
        reason = next(reasons, None)
        return plan(then=Pause("a turn", reason, 600)) if reason else plan()

    node.decide = decide
    node.run()
    assert node.said == ["one", "two", "one"]
    logged = node.gateway.log.find("wait.reason")
    assert [line["reason"] for line in logged] == ["one", "two", "one"]
    assert {line["what"] for line in logged} == {"a turn"}
    assert node.gateway.onegate.own["ONEKE_STEP"] == ""


def test_every_round_looks_anew_and_what_lasts_is_looked_at_once(node: Node) -> None:
    fresh, lasting, outside = Looks("fresh"), Looks("lasting"), Looks("outside")
    seen = []

    def decide(facts: Facts) -> Plan:
        seen.append((facts.found(fresh), facts.found(lasting), facts.seen.get(outside)))
        return plan(then=TURN) if len(seen) < 5 else plan()

    node.wanted = FactsWanted(probes=(fresh,), lasting=(lasting,), outside=(outside,))
    node.decide = decide
    node.run()
    first = seen[0][0]
    # Others are asked at once in the first round, with what was just seen here.
    assert [one[:2] for one in seen] == [(first + at, 1) for at in (0, 0, 1, 2, 3)]
    assert [one[2] for one in seen] == [None, 1, 2, 3, 4]
    assert len(lasting.looks) == 1


def test_what_needs_nobody_else_is_done_before_anybody_else_is_asked(node: Node) -> None:
    outside = Looks("outside")
    done_before = []

    def decide(facts: Facts) -> Plan:
        if facts.seen.get(outside) is not None:
            done_before.append(facts.files[CONF])
        return plan(WriteFile(CONF, "conf\n"))

    node.wanted = FactsWanted(files=(CONF,), outside=(outside,))
    node.decide = decide
    node.run()
    assert done_before in ([], ["conf\n"])


def test_a_new_run_looks_anew_at_what_lasts_too(node: Node) -> None:
    lasting = Looks("lasting")
    node.wanted = FactsWanted(lasting=(lasting,))
    node.run()
    node.run()
    assert len(lasting.looks) == 2


def test_the_actions_of_every_round_are_carried_out_and_counted(node: Node) -> None:
    node.wanted = FactsWanted(files=(CONF, STONE))

    def decide(facts: Facts) -> Plan:
        if facts.files[CONF] is None:
            return plan(WriteFile(CONF, "conf\n"), then=TURN)
        if facts.files[STONE] is None:
            return plan(WriteFile(CONF, "conf\n"), WriteFile(STONE, "stone\n"), then=TURN)
        return plan(WriteFile(CONF, "conf\n"), WriteFile(STONE, "stone\n"))

    node.decide = decide
    assert node.run().changes == 2
    # After a change the next look comes soon.
    assert node.rounds[-1] - node.rounds[0] < 0.5
    assert node.run().changes == 0


def test_after_something_was_published_the_next_round_sees_it(node: Node) -> None:
    node.wanted = FactsWanted(siblings=True)
    seen = []

    def decide(facts: Facts) -> Plan:
        assert facts.siblings is not None
        assert facts.siblings.own is not None
        seen.append(facts.siblings.own.text("ONEKE_FOUNDER"))
        return plan() if seen[-1] else plan(Publish((("ONEKE_FOUNDER", "YES"),)), then=TURN)

    node.decide = decide
    node.run()
    assert seen == [None, "YES"]


def test_siblings_are_not_asked_about_before_the_stage_that_needs_them(node: Node) -> None:
    node.wanted = FactsWanted(siblings=True)
    node.gateway.onegate.go_down(DOWN)
    told = []

    def decide(facts: Facts) -> Plan:
        told.append(facts.siblings.error if facts.siblings else "not asked")
        node.gateway.onegate.go_down(None)
        return plan()

    node.decide = decide
    node.run(role="vnf")
    assert node.known_at_first.siblings is None
    assert told == [str(DOWN)]


# --- ending ---------------------------------------------------------------------------------------


def test_giving_up_ends_the_run_at_once_and_says_what_to_do(node: Node) -> None:
    node.decide = lambda facts: plan(then=GiveUp("this node's turn", "two clusters", "keep one"))
    with pytest.raises(NotReady, match="two clusters") as caught:
        node.run()
    assert "gave up waiting for this node's turn" in str(caught.value)
    assert caught.value.hint == "keep one"
    assert caught.value.exit_code == 75
    assert len(node.rounds) == 1
    assert node.gateway.onegate.own["ONEKE_STATE"] == "FAILED"
    assert "two clusters" in str(node.gateway.onegate.own["ONEKE_ERROR"])
    assert "READY" not in node.gateway.onegate.own


def test_what_comes_with_giving_up_is_done_before(node: Node) -> None:
    node.decide = lambda facts: plan(WriteFile(CONF, "x\n"), then=GiveUp("it", "no", None))
    with pytest.raises(NotReady):
        node.run()
    assert node.gateway.files.text(CONF) == "x\n"


def test_a_pause_ends_at_its_deadline_with_the_last_reason(node: Node) -> None:
    node.decide = lambda facts: plan(
        then=Pause("a turn", "early" if len(node.rounds) < 10 else "late", 60)
    )
    with pytest.raises(NotReady, match="late") as caught:
        node.run()
    assert 58 <= node.rounds[-1] - node.rounds[0] <= 60
    assert "waiting for a turn" in str(caught.value)
    assert caught.value.attempts == len(node.rounds)
    assert "late" in str(node.gateway.onegate.own["ONEKE_ERROR"])


def test_each_thing_that_is_waited_for_has_its_own_time(node: Node) -> None:
    def decide(facts: Facts) -> Plan:
        waited = node.rounds[-1] - node.rounds[0]
        if waited < 50:
            return plan(then=Pause("a turn", "others", 60))
        return plan(then=Pause("RKE2", "starting", 60)) if waited < 100 else plan()

    node.decide = decide
    assert node.run().readiness == Ready()


def test_two_waits_that_take_turns_end_too(node: Node) -> None:
    node.decide = lambda facts: plan(
        then=Pause("one" if len(node.rounds) % 2 else "other", "it flaps", 60)
    )
    with pytest.raises(NotReady):
        node.run()
    assert node.rounds[-1] - node.rounds[0] <= 125


def test_a_stage_that_finds_something_to_do_every_time_ends_and_says_what_it_waited_for(
    node: Node,
) -> None:
    node.decide = lambda facts: plan(
        WriteFile(CONF, f"{len(node.rounds)}\n"), then=Pause("RKE2", "the unit was skipped", 600)
    )
    with pytest.raises(StillDifferent, match="the unit was skipped"):
        node.run()
    assert node.rounds[-1] - node.rounds[0] < 60


def test_a_unit_whose_start_is_skipped_again_and_again_ends_the_run_with_its_reason(
    node: Node,
) -> None:
    units = node.gateway.units
    skipped = replace(units.states[UNIT], result="exec-condition")
    units.whenever_loaded(UNIT, lambda: units.states.update({UNIT: skipped}))
    node.decide = lambda facts: plan(
        BeginUnit(UNIT, "conf"), then=Pause("RKE2", "the unit was skipped", 60)
    )
    with pytest.raises(NotReady, match="the unit was skipped"):
        node.run()


def test_a_node_that_is_not_ready_after_the_stage_has_its_own_deadline(node: Node) -> None:
    node.readiness = NotYet("the node is not Ready")
    with pytest.raises(NotReady, match="the node is not Ready"):
        node.run()


# --- OneGate --------------------------------------------------------------------------------------

TOLD = Publish((("ONEGATE_K8S_MASTER", "172.20.0.101"),))


def test_onegate_that_fails_in_the_stage_is_waited_for(node: Node) -> None:
    def decide(facts: Facts) -> Plan:
        if len(node.rounds) == 1:
            node.gateway.onegate.go_down(DOWN)
            node.gateway.clock.after(100, lambda: node.gateway.onegate.go_down(None))
        return plan(TOLD)

    node.decide = decide
    assert node.run().readiness == Ready()
    assert node.gateway.onegate.own["ONEGATE_K8S_MASTER"] == "172.20.0.101"
    reasons = [line["reason"] for line in node.gateway.log.find("wait.reason")]
    assert reasons == [str(DOWN)]


def test_onegate_that_fails_is_asked_less_and_less(node: Node) -> None:
    def decide(facts: Facts) -> Plan:
        node.gateway.onegate.go_down(DOWN)
        return plan(TOLD)

    node.decide = decide
    with pytest.raises(NotReady, match="OneGate to answer"):
        node.run()
    assert 850 <= node.rounds[-1] - node.rounds[0] <= 901
    assert len(node.rounds) < 100


def test_onegate_that_fails_now_and_then_does_not_prolong_another_wait(node: Node) -> None:
    def decide(facts: Facts) -> Plan:
        node.gateway.onegate.go_down(DOWN if len(node.rounds) % 5 == 0 else None)
        return plan(TOLD, then=Pause("a turn", "VM 364 is before", 60))

    node.decide = decide
    with pytest.raises(NotReady, match="a turn"):
        node.run()
    assert node.rounds[-1] - node.rounds[0] < 120


@pytest.mark.parametrize("error", [OneGateRefused("403: no"), OneGateRefused("not a key")])
def test_what_onegate_will_not_do_ends_the_run(node: Node, error: OneGateRefused) -> None:
    def decide(facts: Facts) -> Plan:
        node.gateway.onegate.go_down(error)
        return plan(TOLD)

    node.decide = decide
    with pytest.raises(OneGateRefused):
        node.run()
    assert len(node.rounds) == 1


def test_a_stage_that_needs_no_siblings_does_not_wait_for_onegate(node: Node) -> None:
    node.configure = (TOLD,)
    node.gateway.onegate.go_down(DOWN)
    started = node.gateway.clock.monotonic()
    with pytest.raises(OneGateUnavailable):
        node.run(role="vnf")
    assert node.gateway.clock.monotonic() - started < 1


# --- cut, and taken up again ----------------------------------------------------------------------


def joining(facts: Facts) -> Plan:
    """Announce, make up a secret, begin a unit, tell of it: one after the other, as nodes do."""
    assert facts.siblings is not None
    own = facts.siblings.own
    if own is None or not own.text("ONEKE_FOUNDER"):
        return plan(Publish((("ONEKE_FOUNDER", "YES"),)), then=TURN)
    actions = (EnsureSecret(STONE), WriteFile(CONF, "conf\n", mode=0o600), BeginUnit(UNIT, "conf"))
    unit = facts.units[UNIT]
    if not unit.is_active:
        return plan(*actions, then=Pause("the unit", "it starts", 600))
    return plan(*actions, Publish((("ONEKE_FOUNDER", ""), ("ONEGATE_K8S_MASTER", "here"))))


def joined(monkeypatch: pytest.MonkeyPatch, cut_before: int | None = None) -> Node:
    node = Node(monkeypatch, tape=Tape(cut_before))
    node.wanted = FactsWanted(units=(UNIT,), siblings=True)
    node.decide = joining_until_told
    units, clock = node.gateway.units, node.gateway.clock

    def comes_up() -> None:
        clock.after(20, lambda: units.states.update({UNIT: _up(units.states[UNIT])}))

    units.whenever_loaded(UNIT, comes_up)
    return node


def joining_until_told(facts: Facts) -> Plan:
    own = facts.siblings.own if facts.siblings else None
    return plan() if own is not None and own.text("ONEGATE_K8S_MASTER") else joining(facts)


def _up(state: Any) -> Any:
    return replace(state, active="active", sub="running", job="")


def test_a_stage_cut_before_any_of_its_changes_is_taken_up_and_ends_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = joined(monkeypatch)
    whole.run()
    changes = list(whole.gateway.tape.changes)
    assert changes.count(f"units.start {UNIT}") == 1
    for cut_before, change in enumerate(changes):
        if change.startswith(BOOKKEEPING):
            continue
        node = joined(monkeypatch, cut_before)
        with pytest.raises(PowerCut):
            node.run()
        node.gateway.tape.cut_before = None
        node.gateway.files.locked.clear()
        assert node.run().readiness == Ready(), f"cut before {change}"
        assert node.gateway.files.text(CONF) == "conf\n"
        assert node.gateway.files.kept[STONE].mode == 0o600
        assert node.gateway.units.states[UNIT].is_active, f"cut before {change}"
        assert node.gateway.onegate.own["ONEGATE_K8S_MASTER"] == "here"
        assert not node.gateway.onegate.own["ONEKE_FOUNDER"]
        begun = node.gateway.tape.find("units.")
        assert begun == [f"units.start {UNIT}"], f"cut before {change}"
        assert node.run().changes == 0
