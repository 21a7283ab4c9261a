"""Masters leave one at a time: who has the turn, how it ends, and who takes it over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.errors import KubernetesUnavailable
from appliance.system.kubernetes import Access, Lease
from roles.common.probes import ADMIN
from roles.common.turn import DURATION_S, NAME, Turn
from tests.fakes import FakeClock, FakeKubernetes, make_node, make_system


class Masters:
    """Masters with one API server and clocks that go alike."""

    def __init__(self) -> None:
        self.kubernetes, self.clock = FakeKubernetes([make_node("m1")]), FakeClock()
        self.system = make_system(kubernetes=self.kubernetes, clock=self.clock)

    def turn(self, name: str) -> Turn:
        return Turn(self.system, name)

    @property
    def holder(self) -> str:
        lease = self.kubernetes.leases.get(NAME)
        return lease.holder if lease else ""


@pytest.fixture
def masters() -> Masters:
    return Masters()


def test_one_has_the_turn_and_the_other_is_told_who(masters: Masters) -> None:
    first, second = masters.turn("m1"), masters.turn("m2")
    assert first.take(ADMIN) == ""
    assert second.take(ADMIN).startswith("m1 leaves the cluster just now")
    assert masters.holder == "m1"


def test_the_turn_is_kept_for_as_long_as_it_is_renewed(masters: Masters) -> None:
    first, second = masters.turn("m1"), masters.turn("m2")
    for _ in range(10):
        assert first.take(ADMIN) == ""
        masters.clock.pass_time(DURATION_S - 1)
        assert second.take(ADMIN) != ""


def test_a_turn_that_is_kept_does_not_end(masters: Masters) -> None:
    first, second = masters.turn("m1"), masters.turn("m2")
    first.take(ADMIN)
    for _ in range(3):
        masters.clock.pass_time(DURATION_S - 1)
        assert second.take(ADMIN) != ""
        assert first.keep(ADMIN) == ""
    first.release(ADMIN)
    assert masters.kubernetes.leases == {}


@pytest.mark.parametrize("is_given_back", [False, True])
def test_a_turn_that_another_one_had_meanwhile_is_lost(
    masters: Masters, is_given_back: bool
) -> None:
    first, second = masters.turn("m1"), masters.turn("m2")
    first.take(ADMIN)
    second.take(ADMIN)
    masters.clock.pass_time(DURATION_S + 1)
    assert second.take(ADMIN) == ""
    if is_given_back:
        second.release(ADMIN)
    assert first.keep(ADMIN) == "its turn to leave passed on while it looked"
    first.release(ADMIN)
    assert masters.holder == ("" if is_given_back else "m2")


def test_a_turn_that_was_never_taken_is_not_kept(masters: Masters) -> None:
    assert masters.turn("m1").keep(ADMIN) != ""
    assert masters.kubernetes.leases == {}


def test_a_turn_is_not_kept_by_two_at_once(
    masters: Masters, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = masters.turn("m1"), masters.turn("m2")
    first.take(ADMIN)
    second.take(ADMIN)
    masters.clock.pass_time(DURATION_S + 1)
    honest = masters.kubernetes.put_lease

    def be_late(access: Access, lease: Lease) -> Lease:
        monkeypatch.setattr(masters.kubernetes, "put_lease", honest)
        assert second.take(ADMIN) == ""
        return honest(access, lease)

    monkeypatch.setattr(masters.kubernetes, "put_lease", be_late)
    assert first.keep(ADMIN) != ""
    assert masters.holder == "m2"


def test_a_turn_that_is_given_back_leaves_nothing_behind(masters: Masters) -> None:
    first, second = masters.turn("m1"), masters.turn("m2")
    first.take(ADMIN)
    first.release(ADMIN)
    assert masters.kubernetes.leases == {}
    assert second.take(ADMIN) == ""


def test_who_has_no_turn_gives_none_back(masters: Masters) -> None:
    first, second = masters.turn("m1"), masters.turn("m2")
    first.take(ADMIN)
    second.take(ADMIN)
    second.release(ADMIN)
    assert masters.holder == "m1"


def test_the_turn_of_one_that_was_cut_off_is_taken_over_by_the_own_clock(masters: Masters) -> None:
    masters.turn("m1").take(ADMIN)
    second = masters.turn("m2")
    assert second.take(ADMIN) != ""
    masters.clock.pass_time(DURATION_S)
    assert second.take(ADMIN) != ""
    masters.clock.pass_time(1)
    assert second.take(ADMIN) == ""
    assert masters.holder == "m2"


def test_what_the_lease_says_of_its_time_is_not_believed(masters: Masters) -> None:
    """Clocks differ: one that looks old may have been renewed a moment ago."""
    masters.turn("m1").take(ADMIN)
    masters.clock.pass_time(1000)
    assert masters.turn("m2").take(ADMIN) != ""


def test_one_that_begins_again_has_its_turn_still(masters: Masters) -> None:
    masters.turn("m1").take(ADMIN)
    assert masters.turn("m1").take(ADMIN) == ""


def test_of_two_that_take_it_at_once_one_has_it(
    masters: Masters, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = masters.kubernetes.put_lease
    rival = masters.turn("m2")

    def be_late(access: object, lease: object) -> object:
        monkeypatch.setattr(masters.kubernetes, "put_lease", honest)
        assert rival.take(ADMIN) == ""
        return honest(access, lease)

    monkeypatch.setattr(masters.kubernetes, "put_lease", be_late)
    assert masters.turn("m1").take(ADMIN) == "another master takes its turn to leave just now"
    assert masters.holder == "m2"


def test_a_turn_is_given_back_though_it_could_not_be_renewed(masters: Masters) -> None:
    turn = masters.turn("m1")
    turn.take(ADMIN)
    masters.kubernetes.fail(KubernetesUnavailable("no answer in time"))
    with pytest.raises(KubernetesUnavailable):
        turn.take(ADMIN)
    turn.release(ADMIN)
    assert masters.kubernetes.leases == {}


def test_a_turn_is_given_back_whose_taking_was_heard_and_not_answered(
    masters: Masters, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = masters.kubernetes.put_lease

    def hear(access: Access, lease: Lease) -> Lease:
        honest(access, lease)
        raise KubernetesUnavailable("no answer in time")

    turn = masters.turn("m1")
    with monkeypatch.context() as silent:
        silent.setattr(masters.kubernetes, "put_lease", hear)
        with pytest.raises(KubernetesUnavailable):
            turn.take(ADMIN)
    assert masters.holder == "m1"
    turn.release(ADMIN)
    assert masters.kubernetes.leases == {}


@pytest.mark.parametrize(("heard_of", "left"), [("m1", ""), ("m2", "m2")])
def test_of_a_lease_that_changes_as_it_is_given_back_only_the_own_goes(
    masters: Masters, monkeypatch: pytest.MonkeyPatch, heard_of: str, left: str
) -> None:
    turn, honest = masters.turn("m1"), masters.kubernetes.delete_lease
    turn.take(ADMIN)

    def hear_before(access: Access, lease: Lease) -> bool:
        monkeypatch.setattr(masters.kubernetes, "delete_lease", honest)
        # A claim that was sent earlier arrives now, and the lease is another one than was read.
        claim = replace(masters.kubernetes.leases[NAME], holder=heard_of)
        masters.kubernetes.put_lease(access, claim)
        return honest(access, lease)

    monkeypatch.setattr(masters.kubernetes, "delete_lease", hear_before)
    turn.release(ADMIN)
    assert masters.holder == left
