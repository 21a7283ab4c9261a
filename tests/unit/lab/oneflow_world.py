"""A cloud whose time passes only when a test lets it, with machines that are none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote_plus

from tests.lab.context import PRIVATE, PUBLIC, Network, mac_of
from tests.lab.oneflow.driver import TimedDriver
from tests.lab.oneflow.flow import OneFlow
from tests.lab.oneflow.machines import Machines, Pace
from tests.lab.oneflow.template import RoleTemplate, ServiceTemplate, VmTemplate
from tests.lab.onegate.gate import Gate
from tests.lab.onegate.messages import FORM_TYPE, Answer, Request
from tests.lab.onegate.state import AddressRange, Cloud, FlowState
from tests.lab.onegate.template import Version

STEP_S = 0.1

FIRST_ADDRESSES = {PUBLIC: "10.2.11.200", PRIVATE: "172.20.0.100"}


class World:
    """All parts, put together over one clock that starts at 0."""

    def __init__(self, version: Version = Version.V7_4) -> None:
        self.now = 0.0
        self.cloud = Cloud(clock=lambda: self.now)
        for network, first in FIRST_ADDRESSES.items():
            add_network(self.cloud, network, first)
        self.pace = Pace()
        self.driver = TimedDriver(lambda: self.now)
        self.machines = Machines(self.cloud, self.driver, self.pace)
        self.flow = OneFlow(self.machines, self.pace, sleep=self.advance)
        self.gate = Gate(self.cloud, version)
        self.watchers: list[Callable[[], None]] = []

    def advance(self, seconds: float) -> None:
        """Let time pass; watchers look after each step."""
        end = self.now + seconds
        while self.now < end - 1e-6:
            self.now = min(end, self.now + STEP_S)
            self.driver.report_due(self.machines.report)
            self.machines.step()
            self.flow.step()
            for watcher in self.watchers:
                watcher()

    def advance_until(self, state: FlowState, service_id: int, limit_s: float = 600) -> None:
        """Let time pass until a service is in a state."""
        end = self.now + limit_s
        while self.cloud.services[service_id].state != state:
            assert self.now < end, f"service in state {self.cloud.services[service_id].state}"
            self.advance(STEP_S)

    def use_up_ids(self, first_free: int) -> None:
        """Let the next VM have this id, as VMs outside the service had those below."""
        if self.cloud.next_vm_id() < first_free:
            self.cloud.add_vm(vm_id=first_free - 1)

    # --- what VMs ask ---------------------------------------------------------------------------

    def ask(self, vm_id: int, method: str, path: str, body: str = "") -> Answer:
        """Send a request of a VM."""
        headers = {
            "x-onegate-vmid": str(vm_id),
            "x-onegate-token": self.cloud.vms[vm_id].token,
            "content-type": FORM_TYPE,
        }
        path, _, query = path.partition("?")
        return self.gate.answer(Request(method, path, query, headers, body.encode()))

    def put(self, vm_id: int, text: str) -> int:
        """Send an update of a VM and return the status."""
        return self.ask(vm_id, "PUT", "/vm", f"data={quote_plus(text)}").status

    def get(self, vm_id: int, path: str) -> Any:
        """Send a request of a VM that has to be answered well."""
        answer = self.ask(vm_id, "GET", path)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def report_ready(self, vm_ids: Sequence[int]) -> None:
        """Let VMs report READY."""
        for vm_id in vm_ids:
            assert self.put(vm_id, "READY=YES") == 200

    def role_vms(self, service_id: int, role: str) -> list[int]:
        """Ids of the VMs of a role."""
        return [node.vm_id for node in self.cloud.services[service_id].find_role(role).nodes]

    def bring_up(self, template: ServiceTemplate) -> int:
        """Instantiate a service, let every VM report, and return its id when it runs."""
        service_id = self.flow.instantiate(template).service_id
        while self.cloud.services[service_id].state != FlowState.RUNNING:
            self.advance(1)
            self.report_ready(self.cloud.services[service_id].vm_ids())
        return service_id


class Timeline:
    """What a VM sees of its service and of single VMs, on each change, in the recorder's words.

    Attributes:
        lines: One for each change: the service, then each VM.
    """

    def __init__(self, world: World, observer: int, vm_ids: Sequence[int] = ()) -> None:
        """Look from now on, after each step of the world."""
        self.lines: list[tuple[str, ...]] = []
        self._world = world
        self._observer = observer
        self._vm_ids = vm_ids
        world.watchers.append(self.look)
        self.look()

    def look(self) -> None:
        """Note what there is now, if it is something else than before."""
        line = (self._describe_service(), *(self._describe_vm(vm_id) for vm_id in self._vm_ids))
        if not self.lines or self.lines[-1] != line:
            self.lines.append(line)

    def _describe_service(self) -> str:
        answer = self._world.ask(self._observer, "GET", "/service")
        if answer.status != 200:
            return f"HTTP {answer.status} {answer.body.decode()}"
        service = json.loads(answer.body)["SERVICE"]
        parts = [f"service {_describe_state(service)}"]
        for role in service["roles"]:
            nodes = ",".join(_describe_node(node) for node in role["nodes"])
            told = f"{role['name']} {_describe_state(role)} card={role['cardinality']}"
            parts.append(f"{told} nodes=[{nodes}]")
        return "; ".join(parts)

    def _describe_vm(self, vm_id: int) -> str:
        answer = self._world.ask(self._observer, "GET", f"/vms/{vm_id}")
        if answer.status != 200:
            return f"/vms/{vm_id}: HTTP {answer.status} {answer.body.decode()}"
        vm = json.loads(answer.body)["VM"]
        return f"/vms/{vm_id}: STATE={vm['STATE']} LCM_STATE={vm['LCM_STATE']}"


def read_timeline(text: str) -> list[tuple[float, tuple[str, ...]]]:
    """Read a recorded timeline: seconds of the day, and service and VMs at that time."""
    found = []
    for hours, minutes, seconds, line in re.findall(
        r"^(\d\d):(\d\d):(\d\d) \+ +[\d.]+s (.*)$", text, re.MULTILINE
    ):
        at = int(hours) * 3600 + int(minutes) * 60 + int(seconds)
        parts = [part.strip().rstrip(";") for part in line.split(" | ")]
        found.append((float(at), tuple(parts)))
    return found


def add_network(cloud: Cloud, network: Network, first_ip: str, size: int = 400) -> None:
    """Add one of the lab's networks to a cloud."""
    attributes = {
        "NETWORK_ADDRESS": str(network.subnet.network_address),
        "NETWORK_MASK": str(network.subnet.netmask),
        "GATEWAY": network.gateway,
        "DNS": network.dns,
    }
    ranges = [AddressRange(first_ip, mac_of(first_ip), size)]
    cloud.add_network(network.name, ranges, attributes)


def oneke(
    *, vnf: int = 2, master: int = 3, worker: int = 2, storage: int = 1, name: str = "OneKE/2"
) -> ServiceTemplate:
    """The recorded service: min_vms and parents as there."""
    gateway, node = VmTemplate(("Public", "Private")), VmTemplate(("Private",))
    return ServiceTemplate(
        name,
        (
            RoleTemplate("vnf", vnf, gateway, min_vms=1),
            RoleTemplate("master", master, node, ("vnf",), min_vms=1),
            RoleTemplate("worker", worker, node, ("vnf",)),
            RoleTemplate("storage", storage, node, ("vnf",), min_vms=1),
        ),
    )


def _describe_state(part: dict[str, Any]) -> str:
    return f"{part['state']} {FlowState(part['state']).name}"


def _describe_node(node: dict[str, Any]) -> str:
    return f"{node['deploy_id']}(running={json.dumps(node['running'])},vm_info=set)"
