"""Whose the time is in which a service comes up."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from bench.common.table import Row, Section
from bench.service.path import Interval, Party, find_path
from bench.service.recording import record_service

_BOUND_S = 5.0
_METHOD = (
    "One gateway, one master, one worker and one storage node, instantiated through OneFlow in a"
    " cold lab with the double of RKE2, from the call to RUNNING. The path is cut into intervals"
    " without gaps at times that systemd, the agents (journal of the run, log), the double,"
    " keepalived, OneGate (log of requests) and OneFlow (states, looked at every 0.02 s) wrote"
    " down; all have one clock.",
    "The last node is the worker or the storage node, whichever was READY later. Node boot reaches"
    " from the VM's making to the start of oneke-agent.service. OneGate's part of an agent's"
    " interval is the time in which a request of that VM was being worked at. RKE2's part of a node"
    " ends when it is up, Ready and initialized. All the rest is the agents', the interpreter's"
    " start, pauses between looks, and the start of what keepalived has to wait for included.",
)


def measure(repeat: int) -> Section:
    """Let a service come up again and again, and account for each time."""
    runs = []
    for number in range(1, repeat + 1):
        runs.append(find_path(record_service()))
        shown = ", ".join(f"{party} {_of(runs[-1], party):.2f}" for party in Party)
        print(f"bench: run {number}: {_whole(runs[-1]):.2f} s: {shown}", file=sys.stderr)
    rows = [
        Row("whole: from the instantiation to RUNNING", "s", tuple(map(_whole, runs))),
        *(_party_row(party, runs) for party in Party),
        *(_interval_row(party, what, runs) for party, what in _names(runs)),
    ]
    return Section(
        "Service: from its instantiation to RUNNING", _METHOD, tuple(rows), tuple(_notes(runs))
    )


def _party_row(party: Party, runs: Sequence[Sequence[Interval]]) -> Row:
    values = tuple(_of(run, party) for run in runs)
    bound = _BOUND_S if party is Party.AGENTS else None
    return Row(f"whole: {party}", "s", values, bound)


def _interval_row(party: Party, what: str, runs: Sequence[Sequence[Interval]]) -> Row:
    return Row(f"{party}: {what}", "s", tuple(_of(run, party, what) for run in runs))


def _names(runs: Sequence[Sequence[Interval]]) -> list[tuple[Party, str]]:
    """The intervals in the order of the path; runs differ at most in some that are missing."""
    longest = max(runs, key=len)
    every = [*longest, *(interval for run in runs for interval in run)]
    return list(dict.fromkeys((interval.party, interval.what) for interval in every))


def _notes(runs: Sequence[Sequence[Interval]]) -> list[str]:
    middle = statistics.median_low(map(_whole, runs))
    run = next(run for run in runs if _whole(run) == middle)
    parts = " + ".join(f"{_of(run, party):.2f} ({party})" for party in Party)
    agents = [(party, what) for party, what in _names([run]) if party is Party.AGENTS]
    agents.sort(key=lambda name: -_of(run, *name))
    biggest = "; ".join(f"{what} {_of(run, party, what):.2f} s" for party, what in agents[:5])
    return [
        f"the run with the median whole: {parts} = {middle:.2f} s",
        f"the biggest parts of the agents' share of it: {biggest}",
    ]


def _whole(run: Sequence[Interval]) -> float:
    return sum(interval.seconds for interval in run)


def _of(run: Sequence[Interval], party: Party, what: str | None = None) -> float:
    return sum(
        interval.seconds
        for interval in run
        if interval.party is party and what in (None, interval.what)
    )
