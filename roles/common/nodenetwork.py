"""The network of a node beside the gateway pair: default gateway and resolver, kept for good.

The gateway is the first virtual address of the private side, else FALLBACK_GW. It is put where it
outlives a reboot, a new lease and a new context: a drop-in where systemd-networkd manages the link
(netplan writes for networkd too), else a script that runs after whoever sets routes.

The resolver is the same virtual address if it answers, else whatever the network has, or
FALLBACK_DNS. It goes to systemd-resolved where resolv.conf is that daemon's, else to resolv.conf.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath
from typing import Protocol

from appliance import paths
from appliance.actions import RemoveFile, RunUnit, WriteFile
from appliance.errors import Problem
from appliance.facts import Facts, FactsWanted, Probe
from appliance.networkactions import DefaultRoute, NoDefaultRoute
from appliance.plan import Action
from appliance.render import render
from appliance.role import Findings, StatusLine
from appliance.service import Service
from appliance.system import System
from appliance.system.network import (
    DEFAULT_HALVES,
    IFUPDOWN,
    NETWORKD,
    LinkManager,
    link_towards,
    route_in_force,
)
from appliance.waiting import NotYet, Readiness, Ready
from roles.common.addresses import ADDRESS_KEYS, AddressBook, build_address_book
from roles.common.nameserver import (
    MARK,
    RESOLV_CONF,
    AnswersQuestions,
    is_marked,
    is_of_resolved,
    nameservers_of,
    read_addresses,
    with_nameserver,
    without_mark,
)
from roles.common.opennebula import OpenNebulaParams
from roles.common.rke2params import VipParams

NETWORKD_UNIT = "systemd-networkd.service"
NETWORKD_FOLDER = PurePosixPath("/etc/systemd/network")
DROP_IN = "60-oneke.conf"
RESOLVED_UNIT = "systemd-resolved.service"
RESOLVED_CONF = PurePosixPath("/etc/systemd/resolved.conf.d/60-oneke.conf")
SCRIPT = PurePosixPath("/usr/local/lib/oneke/node-network")
# After loc-10-network, which writes resolv.conf, and loc-11-dns of older packages.
CONTEXT_HOOK = PurePosixPath("/etc/one-context.d/loc-17-oneke-network")
IF_UP_HOOK = PurePosixPath("/etc/network/if-up.d/oneke-network")
DHCLIENT_HOOK = PurePosixPath("/etc/dhcp/dhclient-exit-hooks.d/oneke-network")
GIVEN = paths.STATE_DIR / "resolv.conf.given"

VIP_KEY = "ONEAPP_VROUTER_ETH1_VIP0"
FALLBACK_KEY = "FALLBACK_GW"

_VIP = (1, 0)
# networkd sets up a link anew in the background.
_NETWORKD_PATIENCE_S = 10.0
_KEPT_GATEWAY = re.compile(r"^# Default gateway: (\S+) on (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class NodeDnsParams:
    """Drop-in `dns`, as nodes that are no gateway read it.

    Attributes:
        enabled: None where nothing was said, which means yes.
    """

    enabled: bool | None


@dataclass(frozen=True)
class NetworkParams:
    """Drop-in `network`."""

    fallback_nameserver: IPv4Address | None
    nameservers: str | None


class NodeNetworkParams(Protocol):
    """What the parameters of a role must have for its node's network."""

    @property
    def opennebula(self) -> OpenNebulaParams:
        """Drop-in `opennebula`."""

    @property
    def keepalived(self) -> VipParams:
        """Drop-in `keepalived`."""

    @property
    def dns(self) -> NodeDnsParams:
        """Drop-in `dns`."""

    @property
    def network(self) -> NetworkParams:
        """Drop-in `network`."""


@dataclass(frozen=True)
class LinkManagers:
    """Who manages which link."""

    def look(self, system: System) -> Mapping[str, LinkManager]:
        """Look once."""
        return system.network.managers()


@dataclass(frozen=True)
class NodeNetwork:
    """What a node's network should be; None for what is left to others."""

    gateway: IPv4Address | None
    nameserver: IPv4Address | None


@dataclass(frozen=True)
class NetworkdDropIn:
    """The model of networkd's drop-in.

    Attributes:
        destinations: Where the route leads: everywhere, in one or in two halves.
    """

    gateway: IPv4Address
    destinations: tuple[str, ...]


@dataclass(frozen=True)
class ResolvedConf:
    """The model of systemd-resolved's drop-in."""

    nameserver: IPv4Address


@dataclass(frozen=True)
class NodeNetworkScript:
    """The model of the script that puts gateway and name server back.

    Attributes:
        link: Where the gateway is.
        is_managed: Whether networkd sets the route.
        file: The resolv.conf.
        given: Where the resolv.conf of others is kept.
    """

    gateway: IPv4Address | None
    link: str | None
    is_managed: bool
    nameserver: IPv4Address | None
    mark: str = MARK
    file: str = str(RESOLV_CONF)
    given: str = str(GIVEN)


@dataclass(frozen=True)
class NodeNetworkHook:
    """The model of what calls the script."""

    script: str = str(SCRIPT)


# --- the decision ---------------------------------------------------------------------------------


def build_node_network(params: NodeNetworkParams, facts: Facts) -> NodeNetwork:
    """Decide on gateway and name server."""
    return NodeNetwork(_gateway(params), _nameserver(params, facts))


def _virtual_address(params: NodeNetworkParams) -> IPv4Address | None:
    vip = params.keepalived.vips.get(_VIP)
    return vip.address if vip else None


def _gateway(params: NodeNetworkParams) -> IPv4Address | None:
    return _virtual_address(params) or params.opennebula.fallback_gateway


def _nameserver(params: NodeNetworkParams, facts: Facts) -> IPv4Address | None:
    if params.dns.enabled is False:
        return None
    probe = _nameserver_probe(params)
    if probe is None:
        return params.network.fallback_nameserver
    if facts.found(probe):
        return probe.server
    # One that is silent now, as after a power cut, is better than none.
    is_kept = probe.server in _nameservers_in_force(facts) and not _other_nameservers(params)
    return probe.server if is_kept else None


def _nameserver_probe(params: NodeNetworkParams) -> AnswersQuestions | None:
    """Return the look at the name server that has to answer before it is used."""
    address = _virtual_address(params)
    return AnswersQuestions(address) if address and params.dns.enabled is not False else None


def _other_nameservers(params: NodeNetworkParams) -> tuple[str, ...]:
    """Return the name servers that the context gives."""
    texts = (params.network.nameservers or "", *params.opennebula.nic_nameservers.values())
    return tuple(str(address) for address in read_addresses(texts))


def _nameservers_in_force(facts: Facts) -> tuple[IPv4Address, ...]:
    """Return the name servers that a run of ours has put in force."""
    text = facts.files.get(RESOLV_CONF) or ""
    if is_of_resolved(text):
        settings = re.findall(r"^DNS=(.*)$", facts.files.get(RESOLVED_CONF) or "", re.MULTILINE)
        found = read_addresses(settings)
    else:
        found = read_addresses(nameservers_of(text) if is_marked(text) else ())
    return tuple(address for address in found if isinstance(address, IPv4Address))


def node_network_facts(params: NodeNetworkParams) -> FactsWanted:
    """Name what the functions below look at, for a role to add to its own."""
    probe = _nameserver_probe(params)
    # A resolver that was asked for by name may come late; else one look a run has to do.
    every_time: tuple[Probe[object], ...] = (probe,) if probe and params.dns.enabled else ()
    once: tuple[Probe[object], ...] = (probe,) if probe and not params.dns.enabled else ()
    marks = (paths.LOADED_DIR / NETWORKD_UNIT, paths.LOADED_DIR / RESOLVED_UNIT)
    return FactsWanted(
        units=(NETWORKD_UNIT, RESOLVED_UNIT),
        files=(RESOLV_CONF, RESOLVED_CONF, GIVEN, SCRIPT, *marks, *_usual_drop_ins(params)),
        probes=(LinkManagers(), *every_time),
        lasting=once,
    )


def _usual_drop_ins(params: NodeNetworkParams) -> tuple[PurePosixPath, ...]:
    """Return where a drop-in of ours may be, under the names that the usual tools give."""
    names = [nic.name for nic in _book(params).nics]
    return tuple(
        _drop_in(file)
        for name in names
        for file in (f"10-netplan-{name}.network", f"{name}.network")
    )


def _drop_in(network_file: str) -> PurePosixPath:
    return NETWORKD_FOLDER / f"{network_file}.d" / DROP_IN


def _book(params: NodeNetworkParams) -> AddressBook:
    return build_address_book(params.opennebula, {})


def check_node_network(params: NodeNetworkParams) -> Findings:
    """Find what does not fit together."""
    return Findings(tuple(_problems(params)))


def _problems(params: NodeNetworkParams) -> Iterator[Problem]:
    gateway = _gateway(params)
    nics = _book(params).nics
    if gateway is None:
        return
    key = VIP_KEY if _virtual_address(params) else FALLBACK_KEY
    own = [nic.name for nic in nics if nic.address and nic.address.ip == gateway]
    if own:
        yield Problem(
            key,
            str(gateway),
            f"expected an address of another machine: {own[0]} has this one",
            depends_on=ADDRESS_KEYS,
        )
    networks = [nic.address.network for nic in nics if nic.address]
    # What a DHCP server will say is not known yet.
    is_known = bool(networks) and len(networks) == len(
        {*(nic.number for nic in nics), *params.opennebula.nic_macs}
    )
    if is_known and not any(gateway in network for network in networks):
        yield Problem(
            key,
            str(gateway),
            f"expected an address in a network of this VM: {', '.join(map(str, networks))}",
            depends_on=ADDRESS_KEYS,
        )


def await_gateway_link(params: NodeNetworkParams, facts: Facts) -> Readiness:
    """Wait until a link has an address in the gateway's network."""
    gateway = _gateway(params)
    if gateway is None or link_towards(gateway, facts.links):
        return Ready()
    return NotYet(
        f"no interface has an address in the network of the gateway {gateway} yet: the"
        " contextualization package sets it"
    )


# --- the plan -------------------------------------------------------------------------------------


def plan_node_network(
    params: NodeNetworkParams, facts: Facts, services: Mapping[str, Service]
) -> tuple[Action, ...]:
    """Put gateway and name server in place, and take away those of an earlier run."""
    network = build_node_network(params, facts)
    link = link_towards(network.gateway, facts.links) if network.gateway else None
    if network.gateway and link is None:
        return ()  # nothing can be said before the link is there; see await_gateway_link
    folders = services["network"].folders
    manager = facts.found(LinkManagers()).get(link or "")
    script = NodeNetworkScript(
        network.gateway,
        link,
        manager is not None and manager.name == NETWORKD,
        network.nameserver,
    )
    return (
        *_plan_route(params, facts, script, manager, folders),
        *_plan_resolver(params, facts, network, folders),
        # Last: the script tells the next run which route was ours.
        *_plan_hooks(script, manager, folders),
    )


def _plan_hooks(
    script: NodeNetworkScript, manager: LinkManager | None, folders: Sequence[Path]
) -> Iterator[Action]:
    """Have a script run after whoever sets routes and name servers."""
    if script.gateway is None and script.nameserver is None:
        for path in (CONTEXT_HOOK, IF_UP_HOOK, DHCLIENT_HOOK, SCRIPT):
            yield RemoveFile(path)
        return
    hook = NodeNetworkHook()
    yield WriteFile(SCRIPT, render(folders, "node-network.j2", script), mode=0o755)
    text = render(folders, "loc-17-oneke-network.j2", hook)
    yield WriteFile(CONTEXT_HOOK, text, mode=0o755)
    if manager is not None and manager.name == IFUPDOWN:
        yield WriteFile(IF_UP_HOOK, text, mode=0o755)
        yield WriteFile(DHCLIENT_HOOK, render(folders, "dhclient-exit-oneke-network.j2", hook))
    else:
        yield RemoveFile(IF_UP_HOOK)
        yield RemoveFile(DHCLIENT_HOOK)


def _plan_route(
    params: NodeNetworkParams,
    facts: Facts,
    wanted: NodeNetworkScript,
    manager: LinkManager | None,
    folders: Sequence[Path],
) -> Iterator[Action]:
    file = manager.network_file if manager and wanted.is_managed else None
    chosen = _drop_in(file) if file else None
    yield from _plan_drop_ins(params, facts, wanted, chosen, folders)
    former = _KEPT_GATEWAY.search(facts.files.get(SCRIPT) or "")
    if former and former[1] != str(wanted.gateway):
        yield NoDefaultRoute(IPv4Address(former[1]), former[2])
    if wanted.gateway and wanted.link:
        patience_s = _NETWORKD_PATIENCE_S if chosen else 0.0
        yield DefaultRoute(wanted.gateway, wanted.link, patience_s)
    elif former:
        yield from _plan_route_of_context(params, facts)


def _plan_drop_ins(
    params: NodeNetworkParams,
    facts: Facts,
    wanted: NodeNetworkScript,
    chosen: PurePosixPath | None,
    folders: Sequence[Path],
) -> Iterator[Action]:
    """Have networkd's drop-ins say what is so now; a former one stays while none is chosen.

    networkd may be away for a moment, as the contextualization package starts it anew.
    """
    usual = _usual_drop_ins(params)
    found = {path for path in usual if facts.files.get(path) is not None}
    written: set[PurePosixPath] = set()
    if wanted.gateway:
        written = {chosen} if chosen else found
        model = NetworkdDropIn(wanted.gateway, _destinations(params, wanted.gateway))
        text = render(folders, f"{DROP_IN}.j2", model)
        for path in sorted(written):
            yield WriteFile(path, text, loaded_by=(NETWORKD_UNIT,))
    for path in sorted(found - written):
        yield RemoveFile(path)
    has_been_told = facts.files.get(paths.LOADED_DIR / NETWORKD_UNIT) is not None
    if chosen or ((has_been_told or found) and facts.units[NETWORKD_UNIT].is_active):
        yield RunUnit(NETWORKD_UNIT, tuple(sorted({*usual, *written})), at_boot=None)


def _destinations(params: NodeNetworkParams, gateway: IPv4Address) -> tuple[str, ...]:
    """Say what the route is for, so that it is used beside that of a NIC's own gateway.

    networkd sets both, that of the NIC first, and none can have a lower metric.
    """
    is_contested = any(own != gateway for own in params.opennebula.nic_gateways.values())
    return DEFAULT_HALVES if is_contested else ("0.0.0.0/0",)


def _plan_route_of_context(params: NodeNetworkParams, facts: Facts) -> Iterator[Action]:
    """Give the default route back to the gateway of a NIC's network."""
    for nic in _book(params).nics:
        if nic.gateway and facts.link(nic.name):
            yield DefaultRoute(nic.gateway, nic.name)
            return


def _plan_resolver(
    params: NodeNetworkParams, facts: Facts, wanted: NodeNetwork, folders: Sequence[Path]
) -> Iterator[Action]:
    text = facts.files.get(RESOLV_CONF) or ""
    is_there = facts.files.get(RESOLVED_CONF) is not None
    has_been_told = facts.files.get(paths.LOADED_DIR / RESOLVED_UNIT) is not None
    # It keeps its servers at a reload.
    resolved = RunUnit(RESOLVED_UNIT, (RESOLVED_CONF,), restarts=True, at_boot=None)
    if not is_of_resolved(text):
        if is_there:
            yield RemoveFile(RESOLVED_CONF)
        if has_been_told and facts.units[RESOLVED_UNIT].is_active:
            yield resolved
        yield from _plan_resolv_conf(params, facts, wanted, text)
        return
    if wanted.nameserver:
        conf = render(folders, "resolved.conf.j2", ResolvedConf(wanted.nameserver))
        yield WriteFile(RESOLVED_CONF, conf, loaded_by=(RESOLVED_UNIT,))
    elif is_there:
        yield RemoveFile(RESOLVED_CONF)
    if wanted.nameserver or is_there or has_been_told:
        yield resolved


def _plan_resolv_conf(
    params: NodeNetworkParams, facts: Facts, wanted: NodeNetwork, text: str
) -> Iterator[Action]:
    if wanted.nameserver:
        if text and not is_marked(text):
            yield WriteFile(GIVEN, text, mode=0o600)
        yield WriteFile(RESOLV_CONF, with_nameserver(text, wanted.nameserver))
    elif is_marked(text):
        servers = _other_nameservers(params) or nameservers_of(facts.files.get(GIVEN) or "")
        yield WriteFile(RESOLV_CONF, without_mark(text, servers))


# --- for people -----------------------------------------------------------------------------------


def describe_node_network(params: NodeNetworkParams, facts: Facts) -> Iterator[StatusLine]:
    """Describe gateway and resolver; the gateway is vital, the resolver is not."""
    wanted = build_node_network(params, facts)
    yield _describe_gateway(wanted.gateway, facts)
    yield _describe_resolver(params, wanted.nameserver, facts)


def _describe_gateway(gateway: IPv4Address | None, facts: Facts) -> StatusLine:
    found = route_in_force(facts.routes)
    shown = f"{found.gateway or 'no gateway'} on {found.link}" if found else "none"
    if gateway is None:
        return StatusLine("gateway", f"that of the network: {shown}", is_vital=False)
    is_well = found is not None and found.gateway == gateway
    state = shown if is_well else f"expected {gateway}, the default route is {shown}"
    return StatusLine("gateway", state, is_well=is_well)


def _describe_resolver(
    params: NodeNetworkParams, nameserver: IPv4Address | None, facts: Facts
) -> StatusLine:
    probe = _nameserver_probe(params)
    if nameserver is None:
        why = f"; {probe.server} does not answer there" if probe else ""
        return StatusLine("resolver", f"that of the network{why}", is_vital=False)
    if nameserver not in _nameservers_in_force(facts):
        state = f"expected {nameserver}, which is not in force"
        return StatusLine("resolver", state, is_well=False, is_vital=False)
    if probe and not facts.found(probe):
        state = f"{nameserver}, which does not answer; there is no other"
        return StatusLine("resolver", state, is_well=False, is_vital=False)
    return StatusLine("resolver", str(nameserver), is_vital=False)
