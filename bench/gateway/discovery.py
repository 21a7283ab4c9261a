"""How long it takes from a registration in OneGate to the first byte of the new server."""

from __future__ import annotations

import random
import time

from bench.common.table import Row, Section
from bench.gateway.farm import server_address, show_way, start_farm
from bench.gateway.probe import Probe, probing
from bench.gateway.service import (
    DEPLOYING,
    Workers,
    server_statistics,
    versions_of,
    wait_well,
)
from tests.lab.basics import LabError, wait_until
from tests.lab.context import PUBLIC_VIP
from tests.lab.gateway_node import wait_ready
from tests.lab.lab import Lab
from tests.lab.node import Node

_BOUND_S = 2.0
_EVERY_S, _TIMEOUT_S = 0.02, 1.0
# What services of some 40 and 200 VMs cost OneGate, at 10 to 15 ms a VM.
_ANSWERS = {"quick": 0.0, "answering in 0.5 s": 0.5, "answering in 2.5 s": 2.5}


def measure(repeat: int) -> Section:
    """Let a worker register and withdraw, so many times with a quick and with a slow OneGate."""
    with Lab() as lab:
        lab.add_service([("vnf", 1), ("worker", 1)])
        gateway = lab.vnf("vnf0", 0)
        start_farm(lab)
        client = lab.host("client", network="public", address="10.2.11.50/24", gateway="10.2.11.1")
        workers = Workers(lab)
        workers.add(0, registered={})
        wait_ready(lab, gateway)
        show_way(gateway)
        wait_well([gateway])
        lab.onegate.set_service(lab.service_id, state=DEPLOYING)
        rows: list[Row] = []
        with probing(client, PUBLIC_VIP, 80, every_s=_EVERY_S, timeout_s=_TIMEOUT_S) as probe:
            for label, seconds in _ANSWERS.items():
                if seconds:
                    lab.onegate.fault("slow", path="/service", seconds=seconds)
                found = []
                for _ in range(repeat):
                    # Any moment of the daemon's cycle, which follows OneGate's pace.
                    time.sleep(random.uniform(0, 2 + 5 * seconds))
                    found.append(_register(lab, workers, gateway, probe))
                rows += _rows(label, found)
        lab.onegate.heal()
        versions = versions_of(gateway)
    return Section(
        "Discovery: from a registration to the first byte",
        (
            "One gateway, the service DEPLOYING. A worker's VM gets its ONEGATE_HAPROXY_LB3_* keys"
            " at a random moment; a client asks the virtual address every"
            f" {_EVERY_S * 1000:.0f} ms. The time runs from the change in OneGate to the end of the"
            " first answer from the new server, HAProxy's first health check included; OneGate's"
            " own part is the time from the change on in which it worked at the answer that told of"
            " it, by its request log.",
            "The pause between two looks is 1 s while the service deploys, and three times what the"
            " last answer took, but at most 1.5 s, where OneGate is slow; chance adds up to 30 %.",
        ),
        tuple(rows),
        versions=versions,
    )


def _rows(label: str, found: list[tuple[float, float]]) -> list[Row]:
    without = tuple(whole - answer for whole, answer in found)
    return [
        Row(f"OneGate {label}: to the first byte", "s", tuple(whole for whole, _ in found)),
        Row(f"OneGate {label}: its own part of that", "s", tuple(a for _, a in found)),
        Row(f"OneGate {label}: without its own part", "s", without, _BOUND_S),
    ]


def _register(lab: Lab, workers: Workers, gateway: Node, probe: Probe) -> tuple[float, float]:
    """Return the time to the first byte, and OneGate's part of it."""
    lab.onegate.clear_requests()
    changed, changed_clock = time.monotonic(), time.time()
    workers.register(0, balancers=[3])
    name = f"{server_address(0)}:32080"

    def first() -> float:
        ends = [one.end for one in probe.tries() if one.is_ok and one.begin > changed]
        if not ends:
            raise LabError(f"the last try: {probe.tries()[-1:]}")
        return min(ends)

    whole = wait_until(first, 40, f"{name} to answer") - changed
    request = next(
        one
        for one in lab.onegate.requests()
        if one["extended"] and one["time"] + one["duration_s"] >= changed_clock
    )
    # A change may come while OneGate is about to answer; the time before it does not count.
    answered = float(request["time"]) + float(request["duration_s"])
    answer = min(float(request["duration_s"]), answered - changed_clock)
    workers.withdraw(0)
    gateway.wait_until(lambda: not server_statistics(gateway), 60, "HAProxy without servers")
    return whole, answer
