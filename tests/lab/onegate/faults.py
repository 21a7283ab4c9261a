"""Faults that can be switched on while the emulator runs, and the log of what was asked."""

from __future__ import annotations

import enum
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.onegate.messages import Request
from tests.lab.onegate.state import Cloud


class FaultKind(enum.StrEnum):
    """What can go wrong.

    DOWN refuses connections; SLOW waits before it works; HANGING accepts and never answers; STATUS
    and GARBAGE answer without working; TRUNCATED works and cuts the answer short; STALE reads from
    the state as it was when the fault was set; UNREADABLE makes one VM unreadable for its peers;
    ONED_DOWN and ONEFLOW_DOWN are what OneGate makes of the absence of its own back end.
    """

    DOWN = "down"
    SLOW = "slow"
    HANGING = "hanging"
    STATUS = "status"
    GARBAGE = "garbage"
    TRUNCATED = "truncated"
    STALE = "stale"
    UNREADABLE = "unreadable"
    ONED_DOWN = "oned_down"
    ONEFLOW_DOWN = "oneflow_down"


class FaultError(ValueError):
    """A fault is described in a way that makes no sense."""


@dataclass
class Fault:
    """One fault and the requests it is limited to.

    Attributes:
        path: Only requests whose path begins so.
        method: Only requests with this method.
        vm_id: Only requests of this VM; for UNREADABLE the VM that cannot be read.
        count: Requests after which the fault heals; None for never.
        seconds: How slow SLOW is.
        status: The status of STATUS.
        text: The body of STATUS or GARBAGE.
        extended: Only /service with the extended flag (True) or everything else (False).
    """

    kind: FaultKind
    path: str = "/"
    method: str | None = None
    vm_id: int | None = None
    count: int | None = None
    seconds: float = 0.0
    status: int = 500
    text: str | None = None
    extended: bool | None = None
    snapshot: Cloud | None = None

    def __post_init__(self) -> None:
        """Check the combination.

        Raises:
            FaultError: It makes no sense.
        """
        self.kind = FaultKind(self.kind)
        limits = (self.path != "/", self.method, self.vm_id, self.count, self.extended)
        if self.kind is FaultKind.DOWN and any(limit not in (None, False) for limit in limits):
            raise FaultError(
                "down is for everybody: it takes no path, method, vm_id, count, extended"
            )
        if self.kind is FaultKind.UNREADABLE and self.vm_id is None:
            raise FaultError("unreadable needs the vm_id of the VM that cannot be read")
        if self.kind is FaultKind.SLOW and self.seconds <= 0:
            raise FaultError("slow needs seconds")

    def concerns(self, request: Request) -> bool:
        """Tell whether the fault strikes a request."""
        if self.extended is not None and self.extended != is_extended(request):
            return False
        is_sender = self.kind is FaultKind.UNREADABLE or self.vm_id in (None, request.vm_id)
        is_method = self.method in (None, request.method)
        return is_sender and is_method and request.path.startswith(self.path)


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        """Begin with none."""
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Put a fault in force, beside those there are."""
        with self._lock:
            self._faults.append(fault)

    def heal(self, kind: FaultKind | None = None) -> None:
        """Take away all faults, or those of one kind."""
        with self._lock:
            self._faults = [fault for fault in self._faults if kind not in (None, fault.kind)]

    def has(self, kind: FaultKind) -> bool:
        """Tell whether a fault of a kind is in force."""
        with self._lock:
            return find_fault(self._faults, kind) is not None

    def is_in_force(self, fault: Fault) -> bool:
        """Tell whether a fault that struck a request has not been healed since."""
        with self._lock:
            return any(other is fault for other in self._faults)

    def strike(self, request: Request) -> list[Fault]:
        """Return the faults that strike a request, and count it."""
        with self._lock:
            striking = [fault for fault in self._faults if fault.concerns(request)]
            for fault in striking:
                if fault.count is not None:
                    fault.count -= 1
            self._faults = [
                fault for fault in self._faults if fault.count is None or fault.count > 0
            ]
            return striking


@dataclass(frozen=True)
class Entry:
    """A request that was dealt with; tokens, queries and bodies are not kept.

    Attributes:
        time: Seconds since the epoch when it had been received.
        vmid: Who the sender said it is.
        extended: Whether it asked for the extended answer.
        status: 0 if it got no answer.
    """

    time: float
    method: str
    path: str
    vmid: str | None
    extended: bool
    status: int
    duration_s: float


class RequestLog:
    """What was asked, oldest first; also as JSON lines in a file if one is given."""

    def __init__(self, log_path: Path | None = None) -> None:
        """Begin empty; a file that exists is continued."""
        self._entries: list[Entry] = []
        self._log_path = log_path
        self._lock = threading.Lock()

    def note(self, request: Request, status: int, received_at: float) -> None:
        """Add a request that was answered, or left without an answer, just now."""
        entry = Entry(
            time=received_at,
            method=request.method,
            path=request.path,
            vmid=request.headers.get("x-onegate-vmid"),
            extended=is_extended(request),
            status=status,
            duration_s=round(time.time() - received_at, 6),
        )
        with self._lock:
            self._entries.append(entry)
            if self._log_path is not None:
                with self._log_path.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(asdict(entry)) + "\n")

    def list_entries(self) -> list[Entry]:
        """Return what was noted so far."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Forget what was noted; the file stays."""
        with self._lock:
            self._entries.clear()


def is_extended(request: Request) -> bool:
    """Tell whether a request carries the extended flag, whatever its value."""
    return request.read_parameters().get("extended") is not None


def find_fault(faults: Iterable[Fault], kind: FaultKind) -> Fault | None:
    """Return the newest fault of a kind."""
    return next((fault for fault in reversed(list(faults)) if fault.kind is kind), None)
