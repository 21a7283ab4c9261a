"""Lets time pass for oned and OneFlow while the emulator runs as a process."""

from __future__ import annotations

import threading

from tests.lab.oneflow.flow import OneFlow
from tests.lab.oneflow.machines import Machines
from tests.lab.onegate.faults import FaultKind, Faults

_TICK_S = 0.05


class Ticker:
    """Steps both again and again, but not what a fault says is down."""

    def __init__(self, faults: Faults, machines: Machines, flow: OneFlow) -> None:
        """Step these."""
        self._faults = faults
        self._machines = machines
        self._flow = flow
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_S):
            is_oned_down = self._faults.has(FaultKind.ONED_DOWN)
            self._flow.set_down(is_oned_down or self._faults.has(FaultKind.ONEFLOW_DOWN))
            if not is_oned_down:
                self._machines.step()
            self._flow.step()
