"""Watching the service in OneGate: gently, and knowing how fresh the picture is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from appliance.errors import OneGateError, OneGateMalformed, OneGatePassing, OneGateUnavailable
from appliance.siblings import Siblings, SiblingWatch
from tests.fakes import FakeClock, FakeOneGate, make_system

DOWN = OneGateUnavailable("OneGate GET /service: Connection refused")


class Watched:
    """A master that watches a service of two masters and a worker."""

    def __init__(self, *, vm_id: int | None = 10, jitter: float = 0.0) -> None:
        self.clock = FakeClock()
        self.onegate = FakeOneGate(10, {"ROLE_NAME": "master"})
        self.onegate.add_vm(11, {"ROLE_NAME": "master"})
        self.onegate.add_vm(20, {"ROLE_NAME": "worker"})
        system = make_system(clock=self.clock, onegate=self.onegate)
        self.watch = SiblingWatch(
            system, vm_id, ("master",), jitter=lambda low, high: low + jitter * (high - low)
        )

    def look(self) -> Siblings:
        return self.watch.look()

    def look_after(self, seconds: float) -> Siblings:
        self.clock.pass_time(seconds)
        return self.watch.look()

    def asked_during(self, seconds: float, *, every_s: float = 0.1) -> list[float]:
        """Look again and again; return when OneGate was asked."""
        started, asked = self.clock.monotonic(), []
        while (now := self.clock.monotonic() - started) < seconds:
            before = self.onegate.asked
            self.watch.look()
            if self.onegate.asked > before:
                asked.append(round(now, 1))
            self.clock.pass_time(every_s)
        return asked


# --- what is told ---------------------------------------------------------------------------------


def test_the_service_and_the_vm_itself_come_from_one_answer() -> None:
    watched = Watched()
    siblings = watched.look()
    assert watched.onegate.asked == 1
    assert siblings.service is not None
    assert siblings.own is not None
    assert siblings.own.vm_id == 10
    assert siblings.error == ""


@pytest.mark.parametrize("vm_id", [None, 99])
def test_who_is_not_among_the_vms_is_told_nothing_of_itself(vm_id: int | None) -> None:
    siblings = Watched(vm_id=vm_id).look()
    assert siblings.own is None
    assert siblings.service is not None


def test_without_onegate_there_is_a_reason_instead() -> None:
    siblings = SiblingWatch(make_system(), 10, ("master",)).look()
    assert siblings.service is None
    assert "OneGate" in siblings.error


@pytest.mark.parametrize("error", [DOWN, OneGatePassing("404"), OneGateMalformed("cut short")])
def test_what_was_told_last_is_kept_with_the_reason_why_it_is_old(error: OneGateError) -> None:
    watched = Watched()
    before = watched.look()
    watched.onegate.go_down(error)
    siblings = watched.look_after(5)
    assert siblings.service == before.service
    assert siblings.own == before.own
    assert siblings.error == str(error)
    watched.onegate.go_down(None)
    assert watched.look_after(60).error == ""


def test_before_the_first_answer_there_is_only_the_error() -> None:
    watched = Watched()
    watched.onegate.go_down(DOWN)
    assert watched.look() == Siblings(error=str(DOWN))


def test_no_attribute_is_shown_when_it_is_printed() -> None:
    watched = Watched()
    watched.onegate.publish(11, ONEGATE_K8S_TOKEN="K10abc::server:pl4nt3d")
    assert "pl4nt3d" not in repr(watched.look())


# --- how often it is asked ------------------------------------------------------------------------


def test_onegate_is_asked_about_once_a_second_while_it_answers_at_once() -> None:
    assert Watched().asked_during(3.0) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("took_s", [0.5, 2.0, 8.0, 20.0])
def test_onegate_is_left_alone_for_several_times_what_the_last_answer_took(took_s: float) -> None:
    watched = Watched()
    watched.onegate.answered = lambda: watched.clock.pass_time(took_s)
    watched.look()
    answered_at = watched.clock.monotonic()
    while watched.onegate.asked == 1:
        watched.look()
        watched.clock.pass_time(0.1)
    assert watched.clock.monotonic() - answered_at - took_s >= 3 * took_s


def test_looks_are_spread() -> None:
    most = Watched(jitter=1.0).asked_during(10.0)
    least = Watched(jitter=0.0).asked_during(10.0)
    assert len(most) < len(least)
    assert len(most) >= 5


def test_while_onegate_fails_it_is_asked_less_and_less_up_to_a_bound() -> None:
    watched = Watched()
    watched.onegate.go_down(DOWN)
    asked = watched.asked_during(120.0, every_s=0.5)
    pauses = [round(after - before, 1) for before, after in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 2
    assert 10 <= pauses[-1] <= 20


def test_an_answer_ends_the_growing_pauses() -> None:
    watched = Watched()
    watched.onegate.go_down(DOWN)
    watched.asked_during(60.0)
    watched.onegate.go_down(None)
    watched.look_after(60)
    assert watched.asked_during(3.0)[:2] == pytest.approx([1, 2], abs=0.3)


def test_between_looks_the_same_is_told_without_asking() -> None:
    watched = Watched()
    first = watched.look()
    assert watched.look_after(0.5) is first
    assert watched.onegate.asked == 1


def test_after_something_was_published_the_next_look_is_fresh() -> None:
    watched = Watched()
    watched.look()
    watched.onegate.update({"ONEKE_FOUNDER": "YES"})
    assert watched.look().own != replace(watched.onegate.vms[10])
    watched.watch.forget()
    own = watched.look().own
    assert own is not None
    assert own.text("ONEKE_FOUNDER") == "YES"


# --- how long a VM has said nothing ---------------------------------------------------------------


def test_a_vm_is_quiet_from_when_its_attributes_last_changed() -> None:
    watched = Watched()
    assert watched.look().quiet_s == {10: 0, 11: 0, 20: 0}
    watched.look_after(100)
    watched.onegate.publish(11, ONEKE_STEP="etcd")
    assert watched.look_after(100).quiet_s == {10: 200, 11: 0, 20: 200}
    assert watched.look_after(50).quiet_s == {10: 250, 11: 50, 20: 250}


def test_a_vm_that_comes_later_is_quiet_from_then_on_and_one_that_is_gone_is_forgotten() -> None:
    watched = Watched()
    watched.look()
    watched.onegate.add_vm(12, {"ROLE_NAME": "master"})
    watched.onegate.forget(11)
    assert watched.look_after(100).quiet_s == {10: 100, 12: 0, 20: 100}
    watched.onegate.add_vm(11, {"ROLE_NAME": "master"})
    assert watched.look_after(100).quiet_s[11] == 0


def test_nobody_is_taken_for_stalled_because_onegate_was_away() -> None:
    watched = Watched()
    watched.look()
    watched.look_after(100)
    watched.onegate.go_down(DOWN)
    assert watched.look_after(10).quiet_s[11] == 100
    watched.look_after(3600)
    watched.onegate.go_down(None)
    assert watched.look_after(60).quiet_s[11] == 100
    assert watched.look_after(5).quiet_s[11] == 105
