"""Orders to whoever runs the machines, and what it reports about them.

An order is only begun by the driver; that it is done, or that something happened without an order,
the driver reports to `tests.lab.oneflow.machines.Machines.report`.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Verb(enum.StrEnum):
    """What a machine is to do.

    CREATE boots a fresh machine, START boots it again with the disk it has, STOP shuts it down in
    good order (within a time of the driver's choice, then by force), CUT takes its power away,
    REBOOT asks its guest to reboot, and DESTROY cuts the power and throws the disk away.
    """

    CREATE = "create"
    START = "start"
    STOP = "stop"
    CUT = "cut"
    REBOOT = "reboot"
    DESTROY = "destroy"


class Happening(enum.StrEnum):
    """What a driver reports; of a machine that is running the guest need not be up yet."""

    RUNNING = "running"
    OFF = "off"
    FAILED = "failed"


@dataclass(frozen=True)
class Order:
    """One order; numbers rise."""

    number: int
    verb: Verb
    vm_id: int


class Driver(Protocol):
    """Runs machines."""

    def begin(self, verb: Verb, vm_id: int) -> None:
        """Begin with an order and return at once."""


Report = Callable[[int, Happening], None]


class OrderBook:
    """A driver at the other end of a wire: it keeps the orders until they are fetched."""

    def __init__(self) -> None:
        """Begin without orders."""
        self._orders: list[Order] = []
        self._changed = threading.Condition()

    def begin(self, verb: Verb, vm_id: int) -> None:
        """Note an order."""
        with self._changed:
            self._orders.append(Order(len(self._orders) + 1, verb, vm_id))
            self._changed.notify_all()

    def wait(self, after: int, timeout_s: float) -> list[Order]:
        """Return the orders with a higher number, as soon as there are any or time is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._orders) > after, timeout_s)
            return self._orders[after:]


class TimedDriver:
    """A driver without machines: what is ordered is done after some time by the given clock.

    Attributes:
        boot_s: How long booting takes.
        shutdown_s: How long shutting down takes.
        boot_of: How long booting takes for single VMs.
        shutdown_of: How long shutting down takes for single VMs.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Take 8 s for booting and 12 s for shutting down, as the recorded front-ends did."""
        self.boot_s, self.shutdown_s = 8.0, 12.0
        self.boot_of: dict[int, float] = {}
        self.shutdown_of: dict[int, float] = {}
        self._clock = clock
        self._under_way: list[tuple[float, int, Happening]] = []

    def begin(self, verb: Verb, vm_id: int) -> None:
        """Begin with an order; a new one takes the place of what is under way for the VM."""
        if verb in (Verb.CREATE, Verb.START, Verb.REBOOT):
            duration_s, happening = self.boot_of.get(vm_id, self.boot_s), Happening.RUNNING
        elif verb is Verb.STOP:
            duration_s, happening = self.shutdown_of.get(vm_id, self.shutdown_s), Happening.OFF
        else:
            duration_s, happening = 0.0, Happening.OFF
        self._under_way = [entry for entry in self._under_way if entry[1] != vm_id]
        self._under_way.append((self._clock() + duration_s, vm_id, happening))

    def report_due(self, report: Report) -> None:
        """Report what is done by now, in order of time."""
        now = self._clock()
        due = sorted(entry for entry in self._under_way if entry[0] <= now)
        self._under_way = [entry for entry in self._under_way if entry[0] > now]
        for _, vm_id, happening in due:
            report(vm_id, happening)
