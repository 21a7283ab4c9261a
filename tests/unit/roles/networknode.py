"""A private node made of fakes, as far as its network goes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from ipaddress import IPv4Address
from pathlib import PurePosixPath

from appliance.apply import Outcome, apply, open_journal
from appliance.context import Context
from appliance.decision import parse_for_role
from appliance.facts import Facts, gather_facts
from appliance.parameters import build_view
from appliance.paths import packaged_services
from appliance.plan import Plan, Stage
from appliance.service import load_services
from appliance.system import System
from appliance.system.network import NETWORKD, LinkManager
from appliance.system.units import UnitState
from roles.common.nameserver import RESOLV_CONF
from roles.common.nodenetwork import (
    NETWORKD_UNIT,
    RESOLVED_UNIT,
    NetworkParams,
    NodeDnsParams,
    node_network_facts,
    plan_node_network,
)
from roles.common.opennebula import OpenNebulaParams
from roles.common.rke2params import VipParams
from tests.fakes import (
    FakeFiles,
    FakeLog,
    FakeNetwork,
    FakeSockets,
    FakeUnits,
    Tape,
    make_link,
    make_system,
)

SERVICES = load_services((packaged_services(),))
RUNNING = UnitState("loaded", "active", "running", "success", "enabled")
VIP = "172.20.0.86"
NODE = {
    "ETH0_IP": "172.20.0.101",
    "ETH0_MASK": "255.255.255.0",
    "ETH0_MAC": "02:00:ac:14:00:65",
    "ETH0_DNS": "10.2.11.1",
    "ONEAPP_VROUTER_ETH1_VIP0": VIP,
}
NETPLAN = LinkManager(NETWORKD, "10-netplan-eth0.network")
DROP_IN = PurePosixPath("/etc/systemd/network/10-netplan-eth0.network.d/60-oneke.conf")
STUB = "# This file is managed by man:systemd-resolved(8). Do not edit.\nnameserver 127.0.0.53\n"


@dataclass(frozen=True)
class Params:
    opennebula: OpenNebulaParams
    keepalived: VipParams
    dns: NodeDnsParams
    network: NetworkParams


def params(**changes: str | None) -> Params:
    values = {k: v for k, v in {**NODE, **changes}.items() if v is not None}
    parsed, _ = parse_for_role("master", Context(values, "test"), SERVICES)
    assert parsed.problems == ()
    return build_view(Params, {f.name: parsed.values[f.name] for f in fields(Params)})


def answer(query: bytes) -> bytes:
    """What a resolver says: the number, that it is an answer, and no error."""
    return query[:2] + b"\x81\x80" + query[4:]


class Machine:
    """A private node, as far as its network goes."""

    def __init__(self, resolv_conf: str = "nameserver 10.2.11.1\nsearch lab\n") -> None:
        self.tape = Tape()
        self.files = FakeFiles({str(RESOLV_CONF): resolv_conf}, tape=self.tape)
        self.units = FakeUnits({NETWORKD_UNIT: RUNNING, RESOLVED_UNIT: RUNNING}, tape=self.tape)
        self.network = FakeNetwork([make_link("eth0", "172.20.0.101/24")], tape=self.tape)
        self.sockets = FakeSockets()
        self.units.whenever_loaded(NETWORKD_UNIT, self._networkd)

    def answers(self, server: str = VIP) -> Machine:
        self.sockets.servers[server, 53] = answer
        return self

    def managed_by(self, manager: LinkManager) -> Machine:
        self.network.managed["eth0"] = manager
        return self

    def _networkd(self) -> None:
        """Set the routes of the drop-in, and no others."""
        for route in self.network.routes():
            if route.destination == "default" and route.gateway and route.link:
                self.network.remove_default_route(route.gateway, route.link)
        if self.files.state(DROP_IN) and "/0\n" in self.files.text(DROP_IN):
            gateway = self.files.text(DROP_IN).rpartition("Gateway=")[2].strip()
            self.network.replace_default_route(IPv4Address(gateway), "eth0")

    @property
    def system(self) -> System:
        return make_system(
            tape=self.tape,
            files=self.files,
            units=self.units,
            network=self.network,
            sockets=self.sockets,
        )

    def facts(self, wanted: Params) -> Facts:
        return gather_facts(self.system, node_network_facts(wanted))

    def run(self, wanted: Params) -> Outcome:
        actions = plan_node_network(wanted, self.facts(wanted), SERVICES)
        journal, _ = open_journal(self.system, "test")
        return apply(Plan(Stage.CONFIGURE, actions), self.system, journal, FakeLog())

    def changed(self, wanted: Params) -> list[str]:
        return [action.name for action, _ in self.run(wanted).changes]

    def default_routes(self) -> list[str]:
        return [str(r.gateway) for r in self.network.routes() if r.destination == "default"]

    def resolver(self) -> str:
        return self.files.text(RESOLV_CONF)
