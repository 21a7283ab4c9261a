"""Runs the VMs of a service as nodes: does what oned orders and tells it what becomes of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tests.lab.basics import LabError
from tests.lab.oneflow.control import FlowControl
from tests.lab.oneflow.driver import Happening, Order, Verb
from tests.lab.onegate.control import ControlError

# Source: SHUTDOWN_TIMEOUT of OpenNebula's KVM driver, after which a machine is destroyed.
SHUTDOWN_LIMIT_S = 180
_WATCH_S = 0.2


class Machine(Protocol):
    """What plays a VM; see `tests.lab.node.Node` for what each of these does."""

    name: str
    boots: int

    @property
    def is_running(self) -> bool: ...
    @property
    def is_closed(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self, timeout_s: float) -> None: ...
    def kill(self) -> None: ...
    def reboot(self) -> None: ...
    def close(self) -> None: ...
    def journal(self) -> str: ...
    def console(self) -> str: ...


MakeNode = Callable[[Mapping[str, Any]], Machine]


class NodeDriver:
    """Carries out orders, those of one VM in turn and those of several side by side.

    A node that goes off or on without an order is reported as well, as a hypervisor is asked for
    its machines now and then.

    Attributes:
        nodes: The node of each VM that was ever booted; one that was shut down for good is off.
        troubles: Why an order could not be carried out, by VM.
    """

    def __init__(self, control: FlowControl, make_node: MakeNode) -> None:
        """Work for the oned behind a control socket.

        Args:
            control: Its client.
            make_node: Makes a node, switched off, from what `FlowControl.machine` tells.
        """
        self.nodes: dict[int, Machine] = {}
        self.troubles: dict[int, str] = {}
        self._control = control
        self._make_node = make_node
        self._told: dict[int, Happening] = {}
        self._waiting: dict[int, queue.SimpleQueue[Order | None]] = {}
        self._busy: dict[int, int] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to take orders."""
        self._start_thread(self._take_orders, "orders")

    def stop(self) -> None:
        """Take no more orders and wait for those under way."""
        self._stopping.set()
        for waiting in self._waiting.values():
            waiting.put(None)
        for thread in self._threads:
            thread.join()

    # --- inside ---------------------------------------------------------------------------------

    def _take_orders(self) -> None:
        last = 0
        while not self._stopping.is_set():
            try:
                for order in self._control.orders(after=last, timeout_s=_WATCH_S):
                    last = order.number
                    self._hand_on(order)
                self._watch()
            except ControlError:  # the emulator is restarting, or the lab ends
                self._stopping.wait(_WATCH_S)

    def _hand_on(self, order: Order) -> None:
        with self._lock:
            self._busy[order.vm_id] = self._busy.get(order.vm_id, 0) + 1
        if order.vm_id not in self._waiting:
            waiting: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
            self._waiting[order.vm_id] = waiting
            self._start_thread(lambda: self._serve(waiting), f"VM {order.vm_id}")
        self._waiting[order.vm_id].put(order)

    def _serve(self, waiting: queue.SimpleQueue[Order | None]) -> None:
        while (order := waiting.get()) is not None and not self._stopping.is_set():
            try:
                happening = self._carry_out(order)
            except (LabError, ControlError, OSError) as error:
                self.troubles[order.vm_id] = f"{order.verb}: {error}"
                happening = Happening.FAILED
            self._tell(order.vm_id, happening)
            with self._lock:
                self._busy[order.vm_id] -= 1

    def _carry_out(self, order: Order) -> Happening:
        node = self.nodes.get(order.vm_id)
        if order.verb is Verb.CREATE:
            node = self._make_node(self._control.machine(order.vm_id))
            self.nodes[order.vm_id] = node
            node.start()
        elif node is None:
            return Happening.OFF
        elif order.verb is Verb.START:
            node.start()
        elif order.verb is Verb.REBOOT:
            node.reboot()
        elif order.verb is Verb.STOP:
            shut_down(node)
        else:
            node.kill()
            if order.verb is Verb.DESTROY:
                node.close()
        return Happening.RUNNING if node.is_running else Happening.OFF

    def _watch(self) -> None:
        with self._lock:
            quiet = [vm_id for vm_id in self.nodes if not self._busy.get(vm_id)]
        for vm_id in quiet:
            is_running = self.nodes[vm_id].is_running
            if is_running != (self._told.get(vm_id) is Happening.RUNNING):
                self._tell(vm_id, Happening.RUNNING if is_running else Happening.OFF)

    def _tell(self, vm_id: int, happening: Happening) -> None:
        self._told[vm_id] = happening
        self._control.report(vm_id, happening)

    def _start_thread(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()


def shut_down(node: Machine, limit_s: float = SHUTDOWN_LIMIT_S) -> None:
    """Shut a node down in good order; when that takes too long its power is cut."""
    try:
        node.stop(limit_s)
    except LabError:
        node.kill()
