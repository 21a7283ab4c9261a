"""One service that comes up, as everybody who took part wrote it down.

All nodes and the emulators run on one machine, so that their times are of one clock.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.oneflow.control import FlowControl
from tests.lab.onegate.state import FlowState
from tests.lab.service import Service, ServiceVm

AGENT = "oneke-agent.service"
KEEPALIVED = "keepalived.service"
SERVER, WORKER = "rke2-server.service", "rke2-agent.service"
_FOLLOWER = "oneke-backends.service"
_UNITS = (AGENT, KEEPALIVED, SERVER, WORKER)
_EVERY_S = 0.02

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class UnitTimes:
    """When systemd began to start a unit, and when it was up; 0 for never."""

    begun: float
    up: float


@dataclass(frozen=True)
class Request:
    """One request to OneGate, from its arrival to its answer."""

    vm_id: int
    method: str
    begun: float
    ended: float


@dataclass(frozen=True)
class Record:
    """What one node wrote down.

    Attributes:
        units: Of the agent, and of what it waits for.
        steps: The journal of the agent's runs.
        log: The structured log of agent and daemon, `at` being the time.
        words: What keepalived said, and when.
        rke2: The events of the double.
        ready_at: When OneGate got its READY.
    """

    role: str
    vm_id: int
    units: Mapping[str, UnitTimes]
    steps: Sequence[Entry]
    log: Sequence[Entry]
    words: Sequence[tuple[float, str]]
    rke2: Sequence[Entry]
    ready_at: float


@dataclass(frozen=True)
class Recording:
    """One service that came up.

    Attributes:
        begun: When OneFlow was asked to instantiate it.
        running: When it was RUNNING.
        made: When OneFlow had made the VMs of each role.
        nodes: By role, as there is one VM of each.
    """

    begun: float
    running: float
    made: Mapping[str, float]
    requests: Sequence[Request]
    nodes: Mapping[str, Record]


def record_service() -> Recording:
    """Let a service of one VM of each role come up in a cold lab.

    Raises:
        LabError: It does not.
    """
    with Lab() as lab:
        begun = time.time()
        service = lab.service()
        with _watching(lab.onegate, service.service_id) as seen:
            service.wait_running()
        requests = [
            Request(int(one["vmid"]), one["method"], one["time"], one["time"] + one["duration_s"])
            for one in lab.onegate.requests()
            if one["vmid"] is not None
        ]
        nodes = {vm.role: _record_node(lab.onegate, service, vm) for vm in service.vms()}
        return Recording(begun, seen.running, seen.made, requests, nodes)


@dataclass
class _Seen:
    running: float = 0.0
    made: dict[str, float] = field(default_factory=dict)

    def look(self, told: Entry, now: float) -> None:
        """Take note of what is there for the first time."""
        for role in told["roles"]:
            if role["vm_ids"]:
                self.made.setdefault(role["name"], now)
        if told["state"] == FlowState.RUNNING and not self.running:
            self.running = now


@contextmanager
def _watching(control: FlowControl, service_id: int) -> Iterator[_Seen]:
    """Look at OneFlow's states until the with block ends, and once more then."""
    seen, over = _Seen(), threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_S):
            seen.look(control.service(service_id), time.time())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    seen.look(control.service(service_id), time.time())


def _record_node(control: FlowControl, service: Service, vm: ServiceVm) -> Record:
    node = service.node(vm.vm_id)
    return Record(
        role=vm.role,
        vm_id=vm.vm_id,
        units={unit: _unit_times(node, unit) for unit in _UNITS},
        steps=_json_lines(node, "/var/lib/oneke/journal.jsonl"),
        log=sorted(_structured_log(node), key=lambda entry: float(entry["at"])),
        words=_words(node, KEEPALIVED),
        rke2=_json_lines(node, "/var/log/rke2-double.jsonl"),
        ready_at=float(control.vm(vm.vm_id)["ready"]),
    )


def _unit_times(node: Node, unit: str) -> UnitTimes:
    names = ("InactiveExitTimestamp", "ActiveEnterTimestamp")
    argv = ["systemctl", "show", unit, "--timestamp=us+utc", f"--property={','.join(names)}"]
    told = dict(line.split("=", 1) for line in node.run(argv).stdout.splitlines())
    begun, up = (_parse_time(told[name]) for name in names)
    return UnitTimes(begun, up)


def _parse_time(text: str) -> float:
    """Read systemd's `Sat 2026-11-21 08:08:35.791750 UTC`; nothing is 0."""
    if not text:
        return 0.0
    return datetime.strptime(f"{text}+0000", "%a %Y-%m-%d %H:%M:%S.%f UTC%z").timestamp()


def _structured_log(node: Node) -> Iterator[Entry]:
    for at, message in (*_words(node, AGENT), *_words(node, _FOLLOWER)):
        if message.startswith("{"):
            entry = json.loads(message)
            said = entry.get("timestamp")
            yield {"at": datetime.fromisoformat(said).timestamp() if said else at, **entry}


def _words(node: Node, unit: str) -> list[tuple[float, str]]:
    argv = ["journalctl", f"--unit={unit}", "--boot", "--output=json", "--no-pager"]
    entries = [json.loads(line) for line in node.run(argv).stdout.splitlines()]
    return [
        (int(entry["__REALTIME_TIMESTAMP"]) / 1e6, entry["MESSAGE"])
        for entry in entries
        if isinstance(entry.get("MESSAGE"), str)
    ]


def _json_lines(node: Node, path: str) -> list[Entry]:
    text = node.run(["cat", path], check=False).stdout
    return [json.loads(line) for line in text.splitlines()]
