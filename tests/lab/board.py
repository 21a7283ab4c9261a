"""The live board: what a service is doing, one line for each VM."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

from tests.lab.onegate.state import FlowState
from tests.lab.service import ServiceVm

_HEADS = ("role", "VM", "node", "machine", "agent", "what it is doing, or waits for")
_CLEAR_BELOW = "\x1b[J"
_UP = "\x1b[{}A"


@dataclass(frozen=True)
class Row:
    """A VM on the board.

    Attributes:
        machine: What the front-end says.
        agent: What its agent says: CONFIGURING, WAITING, READY or FAILED; empty before it reported.
        step: What it is doing, or waits for, or why it failed.
    """

    role: str
    vm_id: int
    node: str
    machine: str
    agent: str
    step: str

    def cells(self) -> tuple[str, ...]:
        """Its texts, in the order of the columns."""
        return (self.role, str(self.vm_id), self.node, self.machine, self.agent, self.step)

    def tell(self) -> str:
        """It in a sentence, for a log."""
        if self.machine != "RUNNING":
            return f"{self.node}: {self.machine.lower()}"
        return f"{self.node}: {self.agent or 'booting'}{': ' if self.step else ''}{self.step}"


def describe_vm(vm: ServiceVm) -> Row:
    """Put a VM on the board."""
    told = {key: str(vm.attributes.get(f"ONEKE_{key}", "")) for key in ("STATE", "STEP", "ERROR")}
    is_ready = told["STATE"] == "READY"
    step = told["ERROR"] or ("" if is_ready else told["STEP"])
    return Row(vm.role, vm.vm_id, vm.name, vm.state_name, told["STATE"], step)


def draw(title: str, rows: Sequence[Row], width: int) -> list[str]:
    """Draw the board: a title, the heads, and a line for each VM, none longer than `width`."""
    table = [_HEADS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_HEADS) - 1)]
    lines = [title]
    for cells in table:
        fixed = "  ".join(cell.ljust(size) for cell, size in zip(cells[:-1], widths, strict=True))
        lines.append(_cut(f"  {fixed}  {cells[-1]}".rstrip(), width))
    return lines


class Shown(Protocol):
    """What can be shown: a `tests.lab.service.Service`."""

    @property
    def state(self) -> FlowState:
        """What it is doing."""

    def vms(self) -> Sequence[ServiceVm]:
        """Its VMs."""


class Board:
    """Shows a service: redrawn in place on a terminal, else one line for each change."""

    def __init__(self, service: Shown, started: float, output: TextIO = sys.stdout) -> None:
        """Show a service.

        Args:
            service: Which.
            started: When its demonstration began, by the monotonic clock.
            output: Where to.
        """
        self._service = service
        self._started = started
        self._output = output
        self._is_terminal = output.isatty()
        self._height = 0
        self._shown: dict[str, str] = {}

    def say(self, text: str) -> None:
        """Print something above the board."""
        self._erase()
        print(f"[{self._elapsed()}] {text}", file=self._output, flush=True)

    def show_until(self, is_over: Callable[[FlowState], bool], every_s: float = 0.25) -> FlowState:
        """Show the service until it is in a certain state, and return that state."""
        while True:
            state = self._show()
            if is_over(state):
                return state
            time.sleep(every_s)

    def _show(self) -> FlowState:
        state = self._service.state
        rows = [describe_vm(vm) for vm in self._service.vms()]
        if self._is_terminal:
            title = f"service {state.name}, {self._elapsed().strip()}"
            self._redraw(draw(title, rows, shutil.get_terminal_size().columns - 1))
        else:
            told = {"service": f"service {state.name}"}
            told |= {row.node: row.tell() for row in rows}
            told |= {name: f"{name}: gone" for name in self._shown if name not in told}
            for name, text in told.items():
                if self._shown.get(name) != text:
                    self._shown[name] = text
                    self.say(text)
        return state

    def _redraw(self, lines: Sequence[str]) -> None:
        self._erase()
        print("\n".join(lines), file=self._output, flush=True)
        self._height = len(lines)

    def _erase(self) -> None:
        if self._height:
            print(_UP.format(self._height) + _CLEAR_BELOW, end="", file=self._output)
            self._height = 0

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._started:6.1f} s"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 1, 0)].rstrip()}…"
