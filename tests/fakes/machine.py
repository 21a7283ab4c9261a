"""A whole machine made of fakes."""

from __future__ import annotations

from appliance.system import System
from appliance.system.bulk import Bulk
from appliance.system.clock import Clock
from appliance.system.commands import Commands
from appliance.system.disks import Disks
from appliance.system.download import Downloads
from appliance.system.files import Files
from appliance.system.kubernetes import Kubernetes
from appliance.system.network import Network
from appliance.system.onegate import OneGate
from appliance.system.packetfilter import PacketFilter
from appliance.system.registry import Registry
from appliance.system.sockets import Sockets
from appliance.system.supervisor import Supervisor
from appliance.system.units import Units
from tests.fakes.artifacts import FakeBulk, FakeDownloads, FakeRegistry
from tests.fakes.clock import FakeClock
from tests.fakes.commands import FakeCommands
from tests.fakes.disks import FakeDisks
from tests.fakes.files import FakeFiles
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.network import FakeNetwork
from tests.fakes.packetfilter import FakePacketFilter
from tests.fakes.sockets import FakeSockets
from tests.fakes.supervisor import FakeSupervisor
from tests.fakes.tape import Tape
from tests.fakes.units import FakeUnits


def make_system(
    *,
    tape: Tape | None = None,
    commands: Commands | None = None,
    files: Files | None = None,
    units: Units | None = None,
    network: Network | None = None,
    packet_filter: PacketFilter | None = None,
    clock: Clock | None = None,
    sockets: Sockets | None = None,
    disks: Disks | None = None,
    kubernetes: Kubernetes | None = None,
    supervisor: Supervisor | None = None,
    downloads: Downloads | None = None,
    registry: Registry | None = None,
    bulk: Bulk | None = None,
    onegate: OneGate | None = None,
) -> System:
    """Return a system of the parts given and empty fakes for the others, all on one tape."""
    tape = tape or Tape()
    files = files or FakeFiles(tape=tape)
    return System(
        commands=commands or FakeCommands(),
        files=files,
        units=units or FakeUnits(tape=tape),
        network=network or FakeNetwork(tape=tape),
        packet_filter=packet_filter or FakePacketFilter(tape=tape),
        clock=clock or FakeClock(),
        sockets=sockets or FakeSockets(),
        disks=disks or FakeDisks(tape=tape),
        kubernetes=kubernetes or FakeKubernetes(tape=tape),
        supervisor=supervisor or FakeSupervisor(),
        downloads=downloads or FakeDownloads(files),
        registry=registry or FakeRegistry(files),
        bulk=bulk or FakeBulk(files),
        onegate=onegate,
    )
