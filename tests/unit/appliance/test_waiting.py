"""Waiting: bounded, quiet, and given up early where it is of no use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from appliance.errors import (
    FileError,
    NotReady,
    OneGateError,
    OneGateMalformed,
    OneGatePassing,
    OneGateRefused,
    OneGateUnavailable,
)
from appliance.waiting import (
    LOOK_EVERY_S,
    Deadline,
    Failed,
    NotYet,
    Readiness,
    Ready,
    retry,
    wait_until,
)
from tests.fakes import FakeClock, FakeLog


def probe_of(*answers: Readiness) -> Callable[[], Readiness]:
    """Return a probe that gives these answers, the last one for ever."""
    left: Iterator[Readiness] = iter(answers)
    return lambda: next(left, answers[-1])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


# --- wait_until -----------------------------------------------------------------------------------


def test_what_is_ready_is_not_waited_for(clock: FakeClock, log: FakeLog) -> None:
    deadline = Deadline.after(clock, 0)
    assert wait_until("it", probe_of(Ready()), deadline, every_s=1, log=log) == 0
    assert clock.slept == []
    assert log.lines == []


def test_it_is_looked_again_until_it_is_ready(clock: FakeClock, log: FakeLog) -> None:
    probe = probe_of(NotYet("a"), NotYet("a"), NotYet("b"), Ready())
    assert wait_until("it", probe, Deadline.after(clock, 60), every_s=2, log=log) == 6
    assert clock.slept == [2, 2, 2]


def test_what_takes_long_is_looked_at_less_often_and_noticed_within_a_second(
    clock: FakeClock, log: FakeLog
) -> None:
    looks: list[float] = []

    def probe() -> Readiness:
        looks.append(clock.monotonic() - began_s)
        return Ready() if looks[-1] >= 60 else NotYet("it comes")

    began_s = clock.monotonic()
    took_s = wait_until("it", probe, Deadline.after(clock, 600), log=log)
    assert 60 <= took_s <= 61
    pauses = clock.slept
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (LOOK_EVERY_S, 1.0)
    # A twentieth of a wait is what it may get longer by.
    bounds = [max(LOOK_EVERY_S, at_s / 20) + 0.001 for at_s in looks]
    assert all(pause <= bound for pause, bound in zip(pauses, bounds, strict=False))


def test_a_reason_is_told_when_it_changes_and_not_at_every_look(
    clock: FakeClock, log: FakeLog
) -> None:
    told: list[str] = []
    reasons = [NotYet("a")] * 50 + [NotYet("b")] * 50 + [Ready()]
    wait_until(
        "it",
        probe_of(*reasons),
        Deadline.after(clock, 1000),
        every_s=1,
        log=log,
        on_reason=told.append,
    )
    assert told == ["a", "b"]
    assert [line["reason"] for line in log.find("wait.reason")] == ["a", "b"]
    (ended,) = log.find("wait.ended")
    assert ended["attempt"] == 101


@pytest.mark.parametrize("every_s", [0.5, 1, 7, 30, 100])
@pytest.mark.parametrize("looking_s", [0, 0.3])
def test_the_deadline_is_never_overrun_by_waiting(
    clock: FakeClock, log: FakeLog, every_s: float, looking_s: float
) -> None:
    begun = clock.monotonic()

    def probe() -> Readiness:
        clock.pass_time(looking_s)
        return NotYet("the moon")

    with pytest.raises(NotReady) as caught:
        wait_until("it", probe, Deadline.after(clock, 30), every_s=every_s, log=log)
    assert clock.monotonic() - begun <= 30 + looking_s
    error = caught.value
    assert (error.what, error.reason) == ("it", "the moon")
    assert error.attempts == len(clock.slept) + 1
    assert str(error).startswith("the moon (time ran out waiting for it after ")
    assert str(error).endswith(" tries)")
    assert error.exit_code == 75


def test_what_has_failed_is_not_waited_for(clock: FakeClock, log: FakeLog) -> None:
    probe = probe_of(NotYet("a"), Failed("it is broken"))
    with pytest.raises(NotReady, match=r"it is broken \(gave up waiting for it after 1 s .*"):
        wait_until("it", probe, Deadline.after(clock, 600), every_s=1, log=log)
    assert clock.slept == [1]


def test_what_a_probe_raises_is_not_taken_for_later(clock: FakeClock, log: FakeLog) -> None:
    def probe() -> Readiness:
        raise FileError("disk")

    with pytest.raises(FileError):
        wait_until("it", probe, Deadline.after(clock, 600), every_s=1, log=log)
    assert clock.slept == []


def test_a_deadline_that_has_passed_leaves_nothing(clock: FakeClock) -> None:
    deadline = Deadline.after(clock, 10)
    assert deadline.remaining_s() == 10
    clock.pass_time(4)
    assert deadline.remaining_s() == 6
    clock.pass_time(400)
    assert deadline.remaining_s() == 0


# --- retry ----------------------------------------------------------------------------------------

DOWN = OneGateUnavailable("refused")


def calls_of(*outcomes: Exception | str) -> Callable[[], str]:
    """Return a call that raises or returns these, the last one for ever."""
    left = iter(outcomes)

    def call() -> str:
        outcome = next(left, outcomes[-1])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return call


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        OneGatePassing("401", status=401),
        OneGatePassing("404", status=404),
        OneGateMalformed("no JSON"),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(clock: FakeClock, log: FakeLog, error: OneGateError) -> None:
    call = calls_of(error, error, "done")
    assert retry("asking", call, Deadline.after(clock, 60), log=log) == "done"
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    "error", [OneGateRefused("400", status=400), FileError("disk"), KeyError()]
)
def test_what_will_not_pass_is_raised_at_once(
    clock: FakeClock, log: FakeLog, error: Exception
) -> None:
    with pytest.raises(type(error)):
        retry("asking", calls_of(error), Deadline.after(clock, 60), log=log)
    assert clock.slept == []


@pytest.mark.parametrize("asking_s", [0.0, 2.5])
@pytest.mark.parametrize("limit_s", [0, 5, 60, 600])
def test_trying_again_ends_before_the_deadline(
    clock: FakeClock, log: FakeLog, limit_s: float, asking_s: float
) -> None:
    begun = clock.monotonic()

    def call() -> str:
        clock.pass_time(asking_s)
        raise DOWN

    with pytest.raises(OneGateUnavailable) as caught:
        retry("asking", call, Deadline.after(clock, limit_s), log=log)
    assert caught.value is DOWN
    assert clock.monotonic() - begun <= limit_s + asking_s


def test_pauses_grow_and_are_bounded(clock: FakeClock, log: FakeLog) -> None:
    with pytest.raises(OneGateUnavailable):
        retry("asking", calls_of(DOWN), Deadline.after(clock, 600), log=log)
    assert 0.5 <= clock.slept[0] <= 1
    assert clock.slept[3] > clock.slept[0]
    assert max(clock.slept) <= 15
    assert len(clock.slept) < 60


def test_the_same_reason_is_logged_once(clock: FakeClock, log: FakeLog) -> None:
    told: list[str] = []
    other = OneGateUnavailable("timed out")
    call = calls_of(DOWN, DOWN, other, other, "done")
    deadline = Deadline.after(clock, 600)
    retry("asking", call, deadline, log=log, on_reason=told.append)
    assert [line["reason"] for line in log.find("onegate.retried")] == ["refused", "timed out"]
    assert told == ["refused", "timed out"]
