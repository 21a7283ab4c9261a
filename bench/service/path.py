"""The critical path of a service that came up: intervals without gaps, each somebody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.service.recording import (
    AGENT,
    KEEPALIVED,
    SERVER,
    WORKER,
    Entry,
    Record,
    Recording,
    Request,
)
from tests.lab.basics import LabError

_PUBLISHED = "ONEGATE_K8S_TOKEN"


class Party(StrEnum):
    """Whose time it is."""

    AGENTS = "agents"
    BOOT = "node boot"
    ONEFLOW = "OneFlow"
    VRRP = "VRRP election"
    RKE2 = "RKE2"
    ONEGATE = "OneGate"


@dataclass(frozen=True)
class Interval:
    """A part of the path.

    Attributes:
        what: Names it, the same in every run; several intervals may have one name.
    """

    party: Party
    what: str
    seconds: float


class _Path:
    """Puts intervals one after the other, from the instantiation on."""

    def __init__(self, recording: Recording) -> None:
        self.intervals: list[Interval] = []
        self._requests = recording.requests
        self._now = recording.begun

    def go(self, party: Party, what: str, until: float, *vm_ids: int) -> None:
        """Go on to a point in time; one that has passed already takes nothing.

        Args:
            party: Whose time it is.
            what: Names the interval.
            until: Where it ends.
            vm_ids: Of agents: their VMs, while whose requests it is OneGate's time.
        """
        if until <= self._now:
            return
        waited = _covered(self._requests, vm_ids, self._now, until)
        if waited:
            self.intervals.append(Interval(Party.ONEGATE, "all its answers", waited))
        self.intervals.append(Interval(party, what, until - self._now - waited))
        self._now = until


def find_path(recording: Recording) -> list[Interval]:
    """Account for the whole time from the instantiation to RUNNING.

    The node that was READY last ends the path; before it there are the master that it joins, and
    the gateway that all roles wait for.
    """
    path = _Path(recording)
    vnf, master = recording.nodes["vnf"], recording.nodes["master"]
    last = max(recording.nodes.values(), key=lambda record: record.ready_at)
    _add_gateway(path, vnf)
    path.go(Party.ONEFLOW, "notices the gateway, makes the other VMs", recording.made["master"])
    _add_master(path, master, recording.requests)
    if last is master:
        path.go(Party.RKE2, "the master's node to be Ready", _node_ready(master, master))
    else:
        _add_joining(path, last, master, vnf)
    path.go(Party.AGENTS, f"{_kind(last)}: notices it, says READY", last.ready_at, last.vm_id)
    path.go(Party.ONEFLOW, "notices the last node, shows RUNNING", recording.running)
    return path.intervals


def _add_gateway(path: _Path, vnf: Record) -> None:
    path.go(Party.BOOT, "gateway", vnf.units[AGENT].begun)
    _add_run_start(path, vnf)
    _add_units(path, vnf)
    path.go(Party.AGENTS, "gateway: files, kernel, NAT", vnf.units[KEEPALIVED].begun, vnf.vm_id)
    elected = [at for at, said in vnf.words if "Entering MASTER STATE" in said]
    path.go(Party.VRRP, "no other gateway speaks", max(elected, default=0.0))
    path.go(Party.AGENTS, "gateway: notices it, says READY", vnf.ready_at, vnf.vm_id)


def _add_run_start(path: _Path, record: Record) -> None:
    began = _first(record.steps, lambda step: step["event"] == "run.start")
    what = f"{_kind(record)}: interpreter, context, role"
    path.go(Party.AGENTS, what, float(began["time"]), record.vm_id)


def _add_units(path: _Path, record: Record) -> None:
    """Split off what each unit took to start; what comes up during the election costs nothing."""
    started = f"{_kind(record)}: looks, plans"
    over = record.units[KEEPALIVED].begun
    for step in record.steps:
        name = str(step.get("action", ""))
        if float(step["time"]) >= over:
            return
        if step["event"] == "action.start":
            path.go(Party.AGENTS, started, float(step["time"]), record.vm_id)
            started = f"{_kind(record)}: files, kernel, NAT"
        what = f"{_kind(record)}: starts {name.removeprefix('unit ').removesuffix('.service')}"
        if step["event"] == "action.end" and name.startswith("unit "):
            path.go(Party.AGENTS, what, float(step["time"]), record.vm_id)


def _add_master(path: _Path, master: Record, requests: Sequence[Request]) -> None:
    path.go(Party.BOOT, "master", master.units[AGENT].begun)
    _add_run_start(path, master)
    configured = _first(master.log, lambda entry: entry.get("event") == "stage.ended")
    vm_id = master.vm_id
    path.go(Party.AGENTS, "master: network, host name", float(configured["at"]), vm_id)
    path.go(Party.AGENTS, "master: election, tokens, settings", master.units[SERVER].begun, vm_id)
    path.go(Party.RKE2, "server, from its start to being up", master.units[SERVER].up)
    told = _published_at(master, requests)
    path.go(Party.AGENTS, "master: notices it, publishes", told, vm_id)


def _add_joining(path: _Path, last: Record, master: Record, vnf: Record) -> None:
    kind = _kind(last)
    path.go(Party.BOOT, kind, last.units[AGENT].begun)
    added = _first(vnf.log, lambda entry: "add lb0_" in str(entry.get("changed", "")))
    path.go(Party.AGENTS, "gateway: takes the master as a server", float(added["at"]), vnf.vm_id)
    joins = f"{kind}: token, supervisor, settings"
    path.go(Party.AGENTS, joins, last.units[WORKER].begun, last.vm_id)
    ready = _node_ready(last, master)
    path.go(Party.RKE2, "agent, from its start to its node being Ready", ready)


def _published_at(master: Record, requests: Sequence[Request]) -> float:
    """When OneGate had what the master tells the others."""
    begun = _first(
        master.steps,
        lambda step: step["event"] == "action.start" and _PUBLISHED in str(step.get("change")),
    )
    return next(
        one.ended
        for one in requests
        if one.vm_id == master.vm_id and one.method == "PUT" and one.begun >= begun["time"]
    )


def _node_ready(record: Record, master: Record) -> float:
    """When a node was up, Ready, and initialized by the cloud controller."""
    unit = record.units[SERVER if record is master else WORKER]
    name = _first(record.rke2, lambda event: event["event"] == "process.started")["node"]
    known = [*record.rke2, *(master.rke2 if record is not master else ())]
    marks = [
        float(event["at"])
        for event in known
        if event.get("node") == name and event["event"] in ("node.reported", "node.initialized")
    ]
    return max(unit.up, *marks)


def _first(entries: Sequence[Entry], is_it: Callable[[Entry], bool]) -> Entry:
    for entry in entries:
        if is_it(entry):
            return entry
    raise LabError(f"what should be in every record is not in this: {list(entries)[-5:]}")


def _kind(record: Record) -> str:
    """What a node is called where worker and storage node may take turns in being last."""
    return {"vnf": "gateway", "master": "master"}.get(record.role, "last node")


def _covered(
    requests: Sequence[Request], vm_ids: Sequence[int], begun: float, ended: float
) -> float:
    """How much of a time there was a request of these VMs at OneGate."""
    return sum(end - start for start, end in _merged(requests, vm_ids, begun, ended))


def _merged(
    requests: Sequence[Request], vm_ids: Sequence[int], begun: float, ended: float
) -> Iterator[tuple[float, float]]:
    done = begun
    for one in sorted(requests, key=lambda one: one.begun):
        start, end = max(done, one.begun), min(ended, one.ended)
        if one.vm_id in vm_ids and end > start:
            yield start, end
            done = end
