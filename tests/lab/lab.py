"""The lab: networks, OneGate and nodes of one cloud, built up in the box and taken down again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from tests.lab.bake import Image, current_image
from tests.lab.basics import LabError, inside_box
from tests.lab.box import STATE
from tests.lab.context import (
    PRIVATE,
    PUBLIC,
    Generation,
    context_text,
    mac_of,
    nic_attributes,
    override,
    vnf_addresses,
    vnf_context,
)
from tests.lab.disk import Disk
from tests.lab.driver import Machine, MakeNode, NodeDriver
from tests.lab.network import (
    ONEGATE_ADDRESS,
    ONEGATE_PORT,
    Host,
    Internet,
    Process,
    Switch,
)
from tests.lab.node import Bind, Node
from tests.lab.oneflow.control import FlowControl
from tests.lab.oneflow.template import ServiceTemplate
from tests.lab.service import Service, node_name, service_template

ONEGATE_SOCKET = STATE / "onegate.sock"

BOTH_NICS = (("eth0", "public"), ("eth1", "private"))
PRIVATE_NIC = (("eth0", "private"),)

LEASES = {PUBLIC: "10.2.11.200", PRIVATE: "172.20.0.100"}
"""First of the 50 addresses of each network that VMs of a service get, in turn."""

FRONT_END_PACE = {"schedule_s": 0.2, "notice_s": 2.0, "cooldown_s": 3.0}
"""A front-end with nothing else to do; see `tests.lab.oneflow.machines.Pace`."""


class Lab:
    """Owns everything that is made in it; leaving it cuts the power of every node.

    Attributes:
        image: What nodes boot from.
        nodes: The nodes, by name.
        onegate: Client of the OneGate and OneFlow emulator.
    """

    def __init__(self, image: Image | None = None, *, onegate_version: str = "7.4") -> None:
        """Make an empty lab; nothing happens before it is entered.

        Args:
            image: What nodes boot from; the one baked of this working tree if None.
            onegate_version: Which OneGate the emulator is like.
        """
        self.nodes: dict[str, Machine] = {}
        self._image = image
        self._version = onegate_version
        self.onegate = FlowControl(ONEGATE_SOCKET)
        self._service_id: int | None = None
        self._driver: NodeDriver | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Build the networks and start OneGate.

        Raises:
            LabError: Outside the box, or if the image is not baked.
        """
        if not inside_box():
            raise LabError(
                "the lab runs in its box only: python3 -m tests.lab box -- "
                f"{' '.join(sys.orig_argv) or 'CMD'}"
            )
        with ExitStack() as stack:
            self.image = self._image or current_image()
            self.switch = Switch()
            stack.callback(self.switch.close)
            self.internet = Internet(self.switch)
            stack.callback(self.internet.close)
            self._emulator = self._start_onegate()
            stack.callback(self._emulator.stop)
            self.onegate.wait_until_up(20)
            self._set_up_cloud()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take everything down."""
        if self._driver is not None:
            self._driver.stop()
        self._stack.close()
        self.nodes.clear()

    # --- OneGate ----------------------------------------------------------------------------

    @property
    def service_id(self) -> int:
        """Id of the service; one with a gateway pair is made if there is none yet."""
        if self._service_id is None:
            self.add_service([("vnf", 2)])
        if self._service_id is None:
            raise LabError("no service was made")
        return self._service_id

    def add_service(self, roles: Sequence[tuple[str, int]], name: str = "OneKE") -> int:
        """Make the service that VMs are added to from now on, and return its id."""
        self._service_id = self.onegate.add_service(name=name, roles=list(roles))
        return self._service_id

    def service(
        self,
        *,
        vnf: int = 1,
        master: int = 1,
        worker: int = 1,
        storage: int = 1,
        generation: Generation = "current",
        template: ServiceTemplate | None = None,
        role_contexts: Mapping[str, Mapping[str, object]] | None = None,
        disks: Callable[[], Sequence[Disk]] = lambda: [Disk()],
        machines: Mapping[str, MakeNode] | None = None,
        agent: bool = True,
        report_ready_early: bool = False,
        **overrides: object,
    ) -> Service:
        """Instantiate a service through OneFlow; its nodes boot by themselves, none is waited for.

        Args:
            vnf: How many gateways.
            master: How many masters.
            worker: How many workers.
            storage: How many storage nodes.
            generation: Whose templates.
            template: What to instantiate instead of what is made of the other arguments.
            role_contexts: Context keys of single roles to set, or to take away where None.
            disks: Makes the disks of a new storage node.
            machines: By role, what makes something else than nodes of its VMs.
            agent: See `node`.
            report_ready_early: See `node`.
            overrides: Context keys of all roles to set, or to take away where the value is None.
        """
        if self._driver is not None:
            raise LabError("there is a service already: its nodes have the names of another's")

        def make_node(machine: Mapping[str, Any]) -> Machine:
            if make_other := (machines or {}).get(machine["role"]):
                return self.adopt(make_other(machine))
            is_storage = machine["role"] == "storage"
            return self.node(
                node_name(machine["name"]),
                context=machine["context"],
                token=machine["token"],
                nics=_nics(machine["networks"]),
                disks=disks() if is_storage else (),
                report_ready_early=report_ready_early,
                agent=agent,
                start=False,
            )

        self._driver = NodeDriver(self.onegate, make_node)
        self._driver.start()
        roles = {"vnf": vnf, "master": master, "worker": worker, "storage": storage}
        template = template or service_template(
            roles, generation=generation, context=overrides, role_contexts=role_contexts
        )
        self._service_id = self.onegate.instantiate(template)
        return Service(self._service_id, self.onegate, self._driver)

    # --- machines ---------------------------------------------------------------------------

    def node(
        self,
        name: str,
        *,
        context: Mapping[str, str] | None = None,
        context_text: str | None = None,
        vm: Mapping[str, Any] | None = None,
        token: str | None = None,
        nics: Sequence[tuple[str, str]] = BOTH_NICS,
        binds: Sequence[Bind] = (),
        disks: Sequence[Disk] = (),
        report_ready_early: bool = False,
        agent: bool = True,
        start: bool = True,
    ) -> Node:
        """Make a node and, unless told otherwise, switch it on; it is not waited for.

        Args:
            name: Its name, short enough for `NAME-eth0` to be an interface.
            context: What its context says; VMID is put in where `vm` is given.
            context_text: The text of context.sh instead, used as it is.
            vm: Arguments for `Control.add_vm`, to make the VM in OneGate that the node plays.
            token: Content of token.txt; that of the VM if None.
            nics: Name in the node and network (`public`, `private`) of each NIC.
            binds: What of this machine the node sees.
            disks: Its disks beside the one it boots from; the lab closes them at its end.
            report_ready_early: Whether the contextualization reports READY=YES by itself, as in
                an image that was not made by `60-contextualization.sh`.
            agent: Whether the agent is started at boot; else `systemctl start oneke.target` does.
            start: Whether to switch it on.

        Returns:
            The node, with `vm_id` and `token` set where they are known.
        """
        if name in self.nodes and not self.nodes[name].is_closed:
            raise LabError(f"there is a node {name} already")
        values = dict(context or {})
        vm_id = int(values["VMID"]) if values.get("VMID", "").isdigit() else None
        if vm is not None:
            arguments = {"context": values} | dict(vm)
            if token is not None:
                arguments["token"] = token
            made = self.onegate.add_vm(**arguments)
            vm_id, token = int(made["id"]), made["token"]
            values.setdefault("VMID", str(vm_id))
        for disk in disks:
            self._stack.callback(disk.close)
        node = Node(
            name,
            self.image,
            self.switch,
            nics,
            binds=binds,
            disks=disks,
            vm_id=vm_id,
            token=token,
        )
        self._stack.callback(node.close)
        self.nodes[name] = node
        node.set_context(_text(values) if context_text is None else context_text, token)
        if report_ready_early:
            node.report_ready_early()
        if not agent:
            node.disable_agent()
        if start:
            node.start()
        return node

    def vnf(
        self,
        name: str,
        index: int,
        *,
        report_ready_early: bool = False,
        agent: bool = True,
        start: bool = True,
        user_template: Mapping[str, Any] | None = None,
        **overrides: object,
    ) -> Node:
        """Make a gateway node of the service, as a VM in OneGate and with a realistic context.

        Args:
            name: Its name.
            index: Its number, from 0: it has 10.2.11.200 and 172.20.0.100 plus this.
            report_ready_early: See `node`.
            agent: See `node`.
            start: Whether to switch it on.
            user_template: Further keys of the VM's user template.
            overrides: Context keys to set, or to take away where the value is None.
        """
        public, private = vnf_addresses(index)
        vm = {
            "role": "vnf",
            "service_id": self.service_id,
            "nics": [nic_attributes(PUBLIC, public), nic_attributes(PRIVATE, private)],
            "user_template": dict(user_template or {}),
        }
        return self.node(
            name,
            context=override(vnf_context(index, self.service_id), overrides),
            vm=vm,
            report_ready_early=report_ready_early,
            agent=agent,
            start=start,
        )

    def adopt(self, machine: Machine) -> Machine:
        """Own a machine that was made elsewhere: it ends with the lab, which tells of it."""
        self._stack.callback(machine.close)
        self.nodes[machine.name] = machine
        return machine

    def host(self, name: str, *, network: str, address: str, gateway: str | None = None) -> Host:
        """Make a plain machine on a network: cheap, without systemd.

        Args:
            name: Short enough for `h-NAME` to be an interface.
            network: `public` or `private`.
            address: With prefix length.
            gateway: Its default gateway, if it has one.
        """
        host = Host(self.switch, name, network, address, gateway)
        self._stack.callback(host.close)
        return host

    def diagnose(self, lines: int = 60) -> str:
        """What a person wants to see of each node after a failure."""
        parts = []
        for node in self.nodes.values():
            state = "on" if node.is_running else "off"
            parts.append(f"=== {node.name} ({state}, {node.boots} boots): end of the journal ===")
            parts += node.journal().splitlines()[-lines:]
            parts.append(f"=== {node.name}: end of the console ===")
            parts += node.console().splitlines()[-10:]
        if self._emulator.output.strip():
            parts += ["=== OneGate ===", *self._emulator.output.splitlines()[-lines:]]
        parts.append("=== OneGate: last requests ===")
        parts += [_request_line(request) for request in self.onegate.requests()[-20:]]
        return "\n".join(parts)

    def _set_up_cloud(self) -> None:
        for network, first_ip in LEASES.items():
            attributes = {
                "NETWORK_ADDRESS": str(network.subnet.network_address),
                "NETWORK_MASK": str(network.subnet.netmask),
                "GATEWAY": network.gateway,
                "DNS": network.dns,
            }
            self.onegate.add_network(
                network.name,
                first_ip=first_ip,
                first_mac=mac_of(first_ip),
                size=50,
                attributes=attributes,
            )
        self.onegate.set_pace(**FRONT_END_PACE)

    def _start_onegate(self) -> Process:
        return self.internet.start(
            *("-m", "tests.lab.onegate", "--listen", f"{ONEGATE_ADDRESS}:{ONEGATE_PORT}"),
            *("--control", str(ONEGATE_SOCKET), "--version", self._version),
            what="OneGate",
        )


def _nics(networks: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"eth{index}", name.lower()) for index, name in enumerate(networks)]


def _text(values: Mapping[str, str]) -> str:
    return context_text(values)


def _request_line(request: Mapping[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(float(request["time"])))
    return (
        f"{at} VM {request['vmid']} {request['method']} {request['path']} "
        f"{'extended ' if request['extended'] else ''}-> {request['status']}"
    )
