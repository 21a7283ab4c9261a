"""A cluster of fake machines: one OneGate, one API server, and an RKE2 that is up at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from appliance import paths
from appliance.agent import RunResult, run
from appliance.options import Options
from appliance.system import System
from appliance.system.kubernetes import Node
from appliance.system.onegate import VmNic
from appliance.system.units import UnitState
from roles.common.clusterstate import ETCD_DATA, NODE_TOKEN, password_of
from tests.fakes import (
    Call,
    FakeClock,
    FakeCommands,
    FakeFiles,
    FakeKubernetes,
    FakeLog,
    FakeNetwork,
    FakeOneGate,
    FakeSupervisor,
    FakeUnits,
    Serving,
    Tape,
    make_link,
    make_node,
    make_system,
)
from tests.unit.appliance.machine import ONE_ENV, write_one_env

SERVER, AGENT = "rke2-server.service", "rke2-agent.service"
CA_HASH = "c" * 64
VIP, SUPERVISOR = "10.2.11.86", ("10.2.11.86", 9345)
CONFIG = "/etc/rancher/rke2/config.yaml.d/50-oneke.yaml"
_INSTALLED = UnitState("loaded", "inactive", "dead", "success", "disabled")


class Cloud:
    """What the machines of a service share.

    Attributes:
        supervisor: Who answers where nodes join.
        kubernetes: The API server of the cluster, once there is one.
        founded: How often a cluster was founded.
    """

    def __init__(self) -> None:
        """Begin without any machine."""
        self.onegate = FakeOneGate(60, {"ROLE_NAME": "vnf"})
        self.supervisor = FakeSupervisor()
        self.kubernetes = FakeKubernetes()
        self.founded = 0

    def see(self, vm_id: int, role: str, address: str) -> FakeOneGate:
        """Add a VM, and return OneGate as it sees it."""
        nic = VmNic(address, "02:00:ac:14:00:65", "Private")
        seen = FakeOneGate(vm_id)
        seen.vms, seen._role_of = self.onegate.vms, self.onegate._role_of
        seen.add_vm(vm_id, {"ROLE_NAME": role, "SERVICE_ID": "23"}, nics=[nic])
        return seen


class Machine:
    """A VM of the service that was just started for the first time.

    Attributes:
        while_starting: What happens instead of RKE2 coming up, where something does.
        seen_as: What the cluster makes of its node.
    """

    def __init__(self, cloud: Cloud, role: str, vm_id: int, **changes: str) -> None:
        """Put it into the service."""
        self.cloud = cloud
        self.role, self.vm_id = role, vm_id
        self.address = f"172.20.0.{vm_id}"
        self.name = f"oneke-ip-172-20-0-{vm_id}"
        values = {
            "VMID": str(vm_id),
            "SERVICE_ID": "23",
            "ONEGATE_ENDPOINT": "http://203.0.113.40:5030",
            "TOKENTXT": "dG9rZW4tb2YtdGhlLXZtIQ==",
            "REPORT_READY": "YES",
            "ETH0_IP": self.address,
            "ETH0_MASK": "255.255.255.0",
            "ONEAPP_VROUTER_ETH0_VIP0": VIP,
            "ONEAPP_VROUTER_ETH1_VIP0": "172.20.0.86",
            "SET_HOSTNAME": self.name,
            "ONEAPP_RKE2_START_TIMEOUT": "30",
            **changes,
        }
        self.tape = Tape()
        self.files = FakeFiles({ONE_ENV: write_one_env(values)}, tape=self.tape)
        self.units = FakeUnits({SERVER: _INSTALLED, AGENT: _INSTALLED}, tape=self.tape)
        self.network = FakeNetwork(
            [make_link("lo", "127.0.0.1/8"), make_link("eth0", f"{self.address}/24")],
            tape=self.tape,
        )
        self.commands = FakeCommands(standing={"/usr/local/bin/rke2": Call((), 127)})
        self.clock = FakeClock()
        self.onegate = cloud.see(vm_id, role, self.address)
        self.log = FakeLog()
        self.told: list[str] = []
        self.while_starting: Callable[[], None] | None = None
        self.seen_as: Callable[[Node], Node] = lambda node: node
        self.units.whenever_loaded(SERVER, self._serve)
        self.units.whenever_loaded(AGENT, self._join)

    @property
    def system(self) -> System:
        """The machine as the agent is handed it."""
        return make_system(
            commands=self.commands,
            files=self.files,
            units=self.units,
            network=self.network,
            clock=self.clock,
            kubernetes=self.cloud.kubernetes,
            supervisor=self.cloud.supervisor,
            onegate=self.onegate,
        )

    def run(self, **options: Any) -> RunResult:
        """Run the agent once."""
        asked = {"service_folders": (paths.packaged_services(),), **options}
        return run(self.system, Options(**asked), self.log, self.told.append)

    def published(self, key: str) -> str:
        """Return what OneGate holds of this VM."""
        return str(self.onegate.own.get(key, ""))

    def restart(self) -> None:
        """Restart the machine; RKE2 is not started by itself."""
        one_env = self.files.text(ONE_ENV)
        self.files.restart()
        self.files.put(ONE_ENV, one_env)
        self.units.states = {SERVER: _INSTALLED, AGENT: _INSTALLED}

    def say(self, unit: str, words: str) -> None:
        """Have RKE2's unit say something in its journal."""
        self.units.words[unit] = words

    def _serve(self) -> None:
        if self.while_starting is not None:
            self.while_starting()
            return
        config = self.files.text(CONFIG)
        secret = password_of(self.files.text("/var/lib/oneke/server-token"))
        if "server:" not in config and str(ETCD_DATA) not in self.files.texts():
            self.cloud.founded += 1
        self.files.put(ETCD_DATA, "")
        self.files.put(NODE_TOKEN, f"K10{CA_HASH}::server:{secret}\n", mode=0o600)
        self.cloud.supervisor.serving[SUPERVISOR] = Serving()
        self._come_up(SERVER, voter="True")

    def _join(self) -> None:
        if self.while_starting is not None:
            self.while_starting()
            return
        self._come_up(AGENT, voter=None)

    def _come_up(self, unit: str, *, voter: str | None) -> None:
        state = self.units.states[unit]
        self.units.states[unit] = replace(state, active="active", sub="running")
        self.cloud.kubernetes.go_down(None)
        self.cloud.kubernetes.put(self.seen_as(make_node(self.name, voter=voter)))
