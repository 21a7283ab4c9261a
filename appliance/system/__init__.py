"""The edge: the only package that touches processes, sockets, sleep and the machine's files.

What the agent itself is made of is no such file: `service.py` reads drop-ins, `render.py` their
templates, `install.py` the lock, and none of them writes.
Everyone else is handed a `System`, one frozen set of small protocols, and can be handed a fake one.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.system.bulk import Bulk, RealBulk
from appliance.system.clock import Clock, RealClock
from appliance.system.commands import Commands, RealCommands
from appliance.system.disks import Disks, RealDisks
from appliance.system.download import Downloads, HttpDownloads
from appliance.system.files import Files, RealFiles
from appliance.system.kubernetes import Kubernetes
from appliance.system.kuberneteshttp import HttpKubernetes
from appliance.system.network import Network, RealNetwork
from appliance.system.onegate import OneGate
from appliance.system.packetfilter import PacketFilter, RealPacketFilter
from appliance.system.registry import Registry, SkopeoRegistry
from appliance.system.sockets import RealSockets, Sockets
from appliance.system.supervisor import Supervisor
from appliance.system.supervisorhttp import HttpSupervisor
from appliance.system.units import RealUnits, Units
from appliance.system.watch import Watch

# Whoever builds an image may have to go through a proxy, and to say who they are.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_OF_THE_BUILDER = (*_PROXIES, "REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HOME")

__all__ = ["RealClock", "System", "real_system"]


@dataclass(frozen=True)
class System:
    """Every effect the agent may have.

    Attributes:
        onegate: None until the context has told where OneGate is, or where there is none.
    """

    commands: Commands
    files: Files
    units: Units
    network: Network
    packet_filter: PacketFilter
    clock: Clock
    sockets: Sockets
    disks: Disks
    kubernetes: Kubernetes
    supervisor: Supervisor
    downloads: Downloads
    registry: Registry
    bulk: Bulk
    onegate: OneGate | None = None


def real_system(root: str = "/", *, watch: Watch | None = None) -> System:
    """Return the machine itself.

    Args:
        root: The folder that all files are placed under.
        watch: Who is told how far downloads are.
    """
    commands = RealCommands()
    files = RealFiles(root)
    return System(
        commands=commands,
        files=files,
        units=RealUnits(commands),
        network=RealNetwork(commands),
        packet_filter=RealPacketFilter(commands),
        clock=RealClock(),
        sockets=RealSockets(),
        disks=RealDisks(commands),
        kubernetes=HttpKubernetes(files),
        supervisor=HttpSupervisor(),
        downloads=HttpDownloads(files, watch),
        registry=SkopeoRegistry(RealCommands(_OF_THE_BUILDER), files, watch),
        bulk=RealBulk(files),
    )
