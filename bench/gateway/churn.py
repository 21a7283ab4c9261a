"""A thousand changes of servers under load, with connections held open all the while."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.common.table import Row, Section
from bench.gateway.farm import server_address, show_way, start_farm
from bench.gateway.probe import Probe, probing
from bench.gateway.processes import ProcessOf, daemon_of, haproxy_of, names_of
from bench.gateway.service import (
    DEPLOYING,
    Workers,
    server_statistics,
    versions_of,
    wait_well,
)
from tests.lab.basics import LabError
from tests.lab.context import PUBLIC_VIP
from tests.lab.gateway_node import Talk, wait_ready
from tests.lab.lab import Lab
from tests.lab.network import Host
from tests.lab.node import Node

CHANGES = 1000
HELD = 50
# Workers that stay, and that come and go; so many of these hold connections when they leave, the
# others really are removed from HAProxy and added anew.
_STAYING, _MOVING, _HOLDING = 10, 60, 15
_BATCH = 20
_LOAD_EVERY_S, _LOAD_TIMEOUT_S = 0.02, 5.0
# Warm are the caches and pools after so many changes; from then on memory has to be flat.
_WARM = 200
_FLAT_MIB = 1.0
_BALANCER = 3
_STEPS = {
    "add": "servers added",
    "drain": "servers drained",
    "delete": "servers deleted",
    "take back": "drained servers taken back",
}
# Come and go with the daemon's questions and keepalived's checks.
_PASSING = frozenset({"journalctl", "curl", "sh", "bash", "timeout", "readlink", "systemctl"})


@dataclass
class Memory:
    """How much memory a program had, after how many changes."""

    samples: dict[int, float] = field(default_factory=dict)

    def growth(self) -> float:
        """From warm to the end; the medians of as many changes as warming takes."""
        last = max(self.samples)
        early = [mib for n, mib in self.samples.items() if _WARM <= n < 2 * _WARM]
        late = [mib for n, mib in self.samples.items() if n > last - _WARM]
        return statistics.median(late) - statistics.median(early)


@dataclass
class Churn:
    """What is measured, and with what."""

    lab: Lab
    gateway: Node
    workers: Workers
    client: Host
    daemon: ProcessOf
    haproxies: list[ProcessOf]
    memories: dict[str, Memory]
    done: int = 0

    def change(self, leave: Sequence[int], come: Sequence[int]) -> None:
        """Let workers leave and come, and wait until HAProxy has followed."""
        for number in leave:
            self.workers.withdraw(number)
        for number in come:
            self.workers.register(number, balancers=[_BALANCER])
        gone = {_name(number) for number in leave}
        here = {_name(number) for number in come}

        def followed() -> bool:
            found = server_statistics(self.gateway)
            taken = {name for name, (status, _) in found.items() if status.startswith("UP")}
            if gone & taken or not here <= taken:
                raise LabError(f"{sorted(gone & taken)} still, {sorted(here - taken)} not yet")
            return True

        self.gateway.wait_until(followed, 60, "HAProxy to follow")
        self.done += len(leave) + len(come)
        self.look()

    def look(self) -> None:
        """Note how much memory daemon and HAProxy have now."""
        self.memories["daemon"].samples[self.done] = self.daemon.own_mib()
        whole = sum(process.own_mib() for process in self.haproxies)
        self.memories["HAProxy"].samples[self.done] = whole


def measure(repeat: int) -> Section:
    """Make the changes; once, however often the others are repeated."""
    with Lab() as lab:
        churn = _prepare(lab)
        before = _state(churn.gateway)
        names_before = names_of(churn.gateway)
        load = {"every_s": _LOAD_EVERY_S, "timeout_s": _LOAD_TIMEOUT_S}
        with probing(churn.client, PUBLIC_VIP, 80, **load) as probe:
            talks = [Talk(churn.client, PUBLIC_VIP, 80) for _ in range(HELD)]
            homes = [_home(talk) for talk in talks]
            churn.change([], range(_STAYING + _HOLDING, _STAYING + _MOVING))
            churn.done = 0
            churn.look()
            steps_before = _steps(churn.gateway)
            started = time.monotonic()
            _change_all(churn)
            took_s = time.monotonic() - started
            churn.change(range(_STAYING, _STAYING + _MOVING), [])
            lost = sum(_home(talk) != home for talk, home in zip(talks, homes, strict=True))
            on_removed = sum(_is_removed(home) for home in homes)
            draining = _draining(churn.gateway)
            failures, asked = _failures(probe)
            steps = _steps(churn.gateway) - steps_before
        after = _state(churn.gateway)
        closed = time.monotonic()
        for talk in talks:
            talk.close()
        churn.gateway.wait_until(
            lambda: len(server_statistics(churn.gateway)) == _STAYING, 60, "the rest to be swept"
        )
        swept_s = time.monotonic() - closed
        left_over = _left_over(churn.gateway, names_before)
        wait_well([churn.gateway])
        versions = versions_of(churn.gateway)
    rows = (
        Row("changes of servers", "", (float(churn.done),), digits=0),
        *(
            Row(f"done for that: {words}", "", (float(steps[step]),), digits=0)
            for step, words in _STEPS.items()
        ),
        Row("time for one change", "ms", (took_s / CHANGES * 1000,), digits=0),
        Row("new connections, all", "", (float(asked),), digits=0),
        Row("new connections that failed", "", (float(len(failures)),), 0.0, digits=0),
        Row("connections held", "", (float(HELD),), digits=0),
        Row("of these on servers that were removed", "", (float(on_removed),), digits=0),
        Row("held connections that were cut", "", (float(lost),), 0.0, digits=0),
        Row("held servers still draining at the end", "", (float(draining),), digits=0),
        Row("time to sweep these when their connections end", "s", (swept_s,), digits=1),
        Row("reloads or restarts of HAProxy", "", (float(before != after),), 0.0, digits=0),
        Row("processes left over", "", (float(sum(left_over.values())),), 0.0, digits=0),
        *(row for name, memory in churn.memories.items() for row in _memory_rows(name, memory)),
    )
    notes = [f"failed: {said}, {count} times" for said, count in Counter(failures).most_common(5)]
    notes += [f"left over: {dict(left_over)}"] if left_over else []
    notes += [f"HAProxy before {before}, after {after}"] if before != after else []
    return Section(
        f"Churn: {CHANGES} changes of servers under load",
        (
            f"One gateway, {_STAYING} workers that stay and {_MOVING} that come and go through"
            f" OneGate behind balancer {_BALANCER}, the service DEPLOYING; every change is one"
            f" server that appears or disappears, {_BATCH} of them at a time, and HAProxy is waited"
            f" for each time. A client begins a new connection with an HTTP request every"
            f" {_LOAD_EVERY_S * 1000:.0f} ms; {HELD} connections are held all the while, on the"
            f" servers that stay and on {_HOLDING} that move. In the end every worker that moves is"
            " removed while they are held; each has to answer once more from the server it began"
            " on. Run once.",
            "A reload is another id of HAProxy's main process or worker, or a younger worker. Flat"
            f" is memory that grows by at most {_FLAT_MIB:g} MiB from the second"
            f" {_WARM} changes to the last {_WARM}, by the medians; what counts is memory without a"
            " file behind it.",
        ),
        rows,
        tuple(notes),
        versions,
    )


def _prepare(lab: Lab) -> Churn:
    lab.add_service([("vnf", 1), ("worker", _STAYING + _MOVING)])
    gateway = lab.vnf("vnf0", 0)
    start_farm(lab)
    client = lab.host("client", network="public", address="10.2.11.50/24", gateway="10.2.11.1")
    workers = Workers(lab)
    for number in range(_STAYING + _MOVING):
        workers.add(number, registered={})
    wait_ready(lab, gateway)
    show_way(gateway)
    lab.onegate.set_service(lab.service_id, state=DEPLOYING)
    memories = {"daemon": Memory(), "HAProxy": Memory()}
    wait_well([gateway])
    churn = Churn(lab, gateway, workers, client, daemon_of(gateway), haproxy_of(gateway), memories)
    churn.change([], range(_STAYING + _HOLDING))
    return churn


def _change_all(churn: Churn) -> None:
    """Let half a batch leave and the half that left before come back, round and round."""
    moving = list(range(_STAYING, _STAYING + _MOVING))
    half = _BATCH // 2
    out: list[int] = []
    while churn.done < CHANGES:
        leave, moving = moving[:half], moving[half:]
        churn.change(leave, out)
        moving, out = moving + out, leave
    churn.change([], out)


def _name(number: int) -> str:
    return f"lb{_BALANCER}_80/lb{_BALANCER}_{server_address(number)}_32080"


def _home(talk: Talk) -> str:
    """The server at the other end of a held connection, or what went wrong."""
    return talk.says("who\n").partition(" ")[0]


def _is_removed(home: str) -> bool:
    return home in {
        f"{server_address(number)}:32080" for number in range(_STAYING, _STAYING + _MOVING)
    }


def _steps(node: Node) -> Counter[str]:
    """How often the daemon has added, drained and taken back a server, by its journal."""
    words = node.journal("oneke-backends.service")
    return Counter({step: words.count(f'"{step} lb{_BALANCER}_') for step in _STEPS})


def _draining(node: Node) -> int:
    return sum(status.startswith("DRAIN") for status, _ in server_statistics(node).values())


def _failures(probe: Probe) -> tuple[list[str], int]:
    tries = probe.tries()
    return [one.said for one in tries if not one.is_ok], len(tries)


def _state(node: Node) -> tuple[tuple[int, ...], str]:
    """HAProxy's processes, and when its worker was started, to the second."""
    ask = ["socat", "-t5", "-", "/run/haproxy/admin.sock"]
    told = node.run(ask, input="show info\n").stdout
    facts = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
    pids = tuple(process.inside for process in haproxy_of(node))
    return pids, f"worker {facts['Pid']}, started {facts.get('Start_time_sec', '')}"


def _left_over(node: Node, before: Counter[str]) -> Counter[str]:
    """Processes that there are more of than before, for longer than a moment."""
    found: Counter[str] = Counter()

    def none() -> bool:
        found.clear()
        found.update(names_of(node) - before)
        for name in _PASSING:
            found.pop(name, None)
        return not found

    try:
        node.wait_until(none, 10, "no process left over")
    except LabError:
        return found
    return Counter()


def _memory_rows(name: str, memory: Memory) -> list[Row]:
    first, last = min(memory.samples), max(memory.samples)
    shown = f"{name}: memory"
    return [
        Row(f"{shown} before the first change", "MiB", (memory.samples[first],), digits=1),
        Row(f"{shown} after the last", "MiB", (memory.samples[last],), digits=1),
        Row(f"{shown} grows by, once warm", "MiB", (memory.growth(),), _FLAT_MIB),
    ]
