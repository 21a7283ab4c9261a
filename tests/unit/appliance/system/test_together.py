"""Calls side by side: every one is made, every error is kept, an interrupt ends them."""

from __future__ import annotations

from threading import Barrier, Lock

import pytest

from appliance.errors import FileError
from appliance.system.together import run_together


def nobody() -> None:
    """Stop nothing."""


def test_results_come_in_the_order_of_the_calls() -> None:
    calls = [lambda number=number: number * number for number in range(20)]
    assert run_together(calls, 3, stop=nobody) == [number * number for number in range(20)]
    assert run_together([], 3, stop=nobody) == []


def test_as_many_as_may_be_run_at_once_do_and_no_more() -> None:
    meeting, counted, now, most = Barrier(4, timeout=30), Lock(), 0, 0

    def call() -> None:
        nonlocal now, most
        with counted:
            now += 1
            most = max(most, now)
        meeting.wait()
        with counted:
            now -= 1

    run_together([call] * 8, 4, stop=nobody)
    assert most == 4


def test_an_error_is_a_result_and_the_others_are_made_all_the_same() -> None:
    def fail() -> int:
        raise FileError("no")

    found = run_together([fail, lambda: 1, fail, lambda: 2], 1, stop=nobody)
    assert [str(one) for one in found] == ["no", "1", "no", "2"]


def test_a_bug_is_raised_and_what_was_not_begun_is_left() -> None:
    made = []
    stopped = []

    def bug() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_together([bug, *[lambda: made.append(1)] * 50], 1, stop=lambda: stopped.append(1))
    assert stopped == [1]
