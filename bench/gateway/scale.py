"""What a cycle of the daemon costs, by the number of VMs of the service."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.common.table import Row, Section
from bench.gateway.farm import show_way, start_farm
from bench.gateway.processes import ProcessOf, daemon_of
from bench.gateway.service import (
    FOLLOW,
    RUNNING,
    Workers,
    server_statistics,
    versions_of,
    wait_well,
)
from tests.lab.basics import LabError, wait_until
from tests.lab.context import ONEGATE_ENDPOINT
from tests.lab.gateway_node import wait_ready
from tests.lab.lab import Lab
from tests.lab.node import Node

SIZES = (8, 50, 200, 1000)
_BOUND_AT, _BOUND_MS = 200, 50.0
_IDLE_MIB = 40.0
_LOOKS, _CHANGES = 10, 2
# Growth counts as linear if a further VM costs at most so many times as much in a big service.
_STEEPEST = 1.25
_CYCLE = "run/oneke/backends-cycle.json"


@dataclass
class Found:
    """What was found at one size; lists hold one value of each repetition."""

    steady_ms: list[float] = field(default_factory=list)
    changing_ms: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    children_ms: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    pss_mib: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    answer_bytes: int = 0
    first_sight_s: float = 0.0

    @property
    def steady(self) -> float:
        """Median of the processor time of a cycle without changes, in ms."""
        return statistics.median(self.steady_ms)


def measure(repeat: int) -> Section:
    """Let the service grow from size to size and watch the daemon at each."""
    found: dict[int, Found] = {}
    with Lab() as lab:
        lab.add_service([("vnf", 1), ("worker", 0)])
        gateway = lab.vnf("vnf0", 0, **FOLLOW)
        start_farm(lab)
        wait_ready(lab, gateway)
        show_way(gateway)
        wait_well([gateway])
        lab.onegate.set_service(lab.service_id, state=RUNNING)
        watch = Watch(lab, gateway, Workers(lab), daemon_of(gateway))
        for size in SIZES:
            found[size] = watch.at_size(size, repeat)
            print(f"  {size} VMs: {found[size].steady:.1f} ms of CPU a cycle", flush=True)
        versions = versions_of(gateway)
    return Section(
        "Size of the service: what a cycle costs",
        (
            "One gateway and workers that exist in OneGate only, with user templates and contexts"
            " as big as real ones; each is behind balancers 2 and 3, on a server that answers"
            " health checks. The service is RUNNING and looked at every second, or more rarely"
            " where OneGate answers slowly. A cycle is one look at OneGate and all that follows"
            " until the next. CPU is the processor time of the daemon itself over"
            f" {_LOOKS} cycles, divided by their number; a repetition is such a series. In a cycle"
            " with a change one worker leaves or comes back; a repetition is the mean of"
            f" {2 * _CHANGES} of these.",
            "Memory is PSS, with nothing else in the node to share with. Linear: a further VM costs"
            f" from 200 to 1000 at most {_STEEPEST:g} times as much as from 50 to 200.",
        ),
        tuple(_rows(found)),
        tuple(_notes(found)),
        versions,
    )


@dataclass
class Watch:
    """The daemon, and the service it follows."""

    lab: Lab
    gateway: Node
    workers: Workers
    daemon: ProcessOf

    def at_size(self, size: int, repeat: int) -> Found:
        """Let the service have this many VMs and measure."""
        found = Found()
        found.first_sight_s = self._grow(size)
        found.answer_bytes = self._answer_bytes()
        for _ in range(2):
            self._next_look()
        for _ in range(repeat):
            self._steady(found)
            found.changing_ms.append(self._changing())
            found.pss_mib.append(self.daemon.pss_mib())
        found.peak_mib = self.daemon.peak_rss_mib()
        return found

    def _grow(self, size: int) -> float:
        """Return how long HAProxy took to have all servers, from the last of the new VMs on."""
        for number in range(len(self.workers.vms), size - 1):
            self.workers.add(number)
        added = time.monotonic()
        wanted = 2 * (size - 1)

        def all_up() -> bool:
            found = server_statistics(self.gateway)
            up = sum(status.startswith("UP") for status, _ in found.values())
            if (len(found), up) != (wanted, wanted):
                raise LabError(f"{len(found)} servers, {up} of them up, not {wanted}")
            return True

        wait_until(all_up, 180, f"HAProxy to have the servers of {size} VMs", every_s=0.5)
        return time.monotonic() - added

    def _steady(self, found: Found) -> None:
        self._next_look()
        self.lab.onegate.clear_requests()
        spent, by_children = self.daemon.cpu_s(), self.daemon.children_cpu_s()
        passes = sum(self._next_look() for _ in range(_LOOKS))
        found.steady_ms.append((self.daemon.cpu_s() - spent) / _LOOKS * 1000)
        children_s = self.daemon.children_cpu_s() - by_children
        found.children_ms.append(children_s / _LOOKS * 1000)
        found.passes.append(passes / _LOOKS)
        requests = [
            request
            for request in self.lab.onegate.requests()
            if request["vmid"] == str(self.gateway.vm_id)
        ]
        found.requests.append(len(requests) / _LOOKS)
        found.answer_s.append(statistics.median(float(r["duration_s"]) for r in requests))

    def _changing(self) -> float:
        """Return the processor time of a cycle in which one worker leaves or comes back, in ms."""
        last = len(self.workers.vms) - 1
        spent = 0.0
        for step in (self.workers.withdraw, self.workers.register) * _CHANGES:
            self._next_look()
            before = self.daemon.cpu_s()
            step(last)
            self._next_look()
            spent += self.daemon.cpu_s() - before
        return spent / (2 * _CHANGES) * 1000

    def _next_look(self) -> int:
        """Wait until a cycle with another look at OneGate is over; return the passes it took."""
        first = self._cycle()
        times = {first["time"]}

        def looked() -> bool:
            now = self._cycle()
            times.add(now["time"])
            if now["error"] or now["onegate_error"]:
                raise LabError(f"the daemon failed: {now}")
            return bool(now["onegate_seen"] != first["onegate_seen"])

        wait_until(looked, 60, "the daemon to look at OneGate", every_s=0.005)
        return len(times) - 1

    def _cycle(self) -> Mapping[str, object]:
        """What the daemon left of its last pass; read without a process in the node."""
        return dict(json.loads(Path(f"/proc/{self.daemon.outside}/root/{_CYCLE}").read_text()))

    def _answer_bytes(self) -> int:
        headers = (
            f"X-ONEGATE-TOKEN: {self.gateway.token}",
            f"X-ONEGATE-VMID: {self.gateway.vm_id}",
        )
        options = [word for header in headers for word in ("--header", header)]
        url = f"{ONEGATE_ENDPOINT}/service?extended=true"
        shown = ["--silent", "--output", "/dev/null", "--write-out", "%{size_download}"]
        return int(self.lab.internet.run(["curl", *shown, *options, url]).stdout)


def _rows(found: Mapping[int, Found]) -> list[Row]:
    rows = []
    for size, one in found.items():
        bound = _BOUND_MS if size == _BOUND_AT else None
        smallest = size == min(found)
        answer = tuple(seconds * 1000 for seconds in one.answer_s)
        rows += [
            Row(f"{size} VMs: requests a cycle", "", tuple(one.requests)),
            Row(f"{size} VMs: CPU, steady", "ms", tuple(one.steady_ms), bound, digits=1),
            Row(f"{size} VMs: CPU, with a change", "ms", tuple(one.changing_ms), bound, digits=1),
            Row(f"{size} VMs: OneGate's answer (the lab's)", "ms", answer, digits=0),
            Row(
                f"{size} VMs: memory{' (idle)' if smallest else ''}",
                "MiB",
                tuple(one.pss_mib),
                _IDLE_MIB if smallest else None,
                digits=1,
            ),
        ]
    if {50, 200, 1000} <= set(found):
        slopes = [_per_vm(found, 50, 200), _per_vm(found, 200, 1000)]
        bound_from = f"{_STEEPEST:g} x {slopes[0]:.3f}"
        rows.append(
            Row(
                "a further VM from 200 to 1000",
                "ms",
                (slopes[1],),
                _STEEPEST * slopes[0],
                bound_from,
                3,
            )
        )
    return rows


def _per_vm(found: Mapping[int, Found], small: int, big: int) -> float:
    return (found[big].steady - found[small].steady) / (big - small)


def _notes(found: Mapping[int, Found]) -> list[str]:
    return [
        f"{size} VMs: an answer of {one.answer_bytes / 1024:.0f} KiB; "
        f"{statistics.median(one.passes):.1f} passes a cycle (one with a look, the others at"
        f" HAProxy only); {statistics.mean(one.children_ms):.1f} ms a cycle in children"
        f" (journalctl, every 15 s); all servers up {one.first_sight_s:.1f} s after the VMs came;"
        f" at most {one.peak_mib:.0f} MiB resident"
        for size, one in found.items()
    ]
