"""The resolver of a gateway: where it answers, for whom, what it knows itself, whom it asks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import PurePosixPath

from appliance.errors import Problem
from roles.common.addresses import (
    ADDRESS_KEYS,
    AddressBook,
    SelectedInterface,
    select_interfaces,
)
from roles.common.opennebula import OpenNebulaParams
from roles.vnf.params import DnsParams

UNIT = "unbound.service"
CONF = PurePosixPath("/etc/unbound/unbound.conf.d/50-oneke.conf")
INTERFACES_KEY = "ONEAPP_VNF_DNS_INTERFACES"

_PORT = 53
_PLACEHOLDER = re.compile(r"ETH(\d+)_(IP|VIP|EP)(\d+)\Z")


@dataclass(frozen=True)
class SocketAddress:
    """An address and port."""

    address: IPv4Address
    port: int


@dataclass(frozen=True)
class Record:
    """A name the gateway answers for itself, without the final dot."""

    name: str
    address: IPv4Address


@dataclass(frozen=True)
class UnboundConf:
    """The model of unbound's drop-in.

    Attributes:
        forwarders: Whom it asks; empty to resolve from the root servers.
        is_closed: Whether it knows only what it is told here, and asks nobody.
    """

    listeners: tuple[SocketAddress, ...]
    allowed_networks: tuple[IPv4Network, ...]
    records: tuple[Record, ...]
    cluster_domain: str
    forwarders: tuple[SocketAddress, ...]
    is_closed: bool
    max_cache_ttl: int
    upstream_timeout: int
    tcp_disabled: bool
    udp_disabled: bool
    own_config: str


def build_resolver(
    params: DnsParams,
    opennebula: OpenNebulaParams,
    book: AddressBook,
    *,
    is_airgapped: bool = False,
) -> UnboundConf:
    """Decide what the resolver does.

    Args:
        params: Of the resolver.
        opennebula: What OpenNebula says.
        book: The gateway's addresses.
        is_airgapped: Whether the root servers are out of reach.
    """
    forwarders = tuple(_forwarders(params, opennebula, book))
    selection = select_interfaces(params.interfaces, book)
    links = selection.links(book)
    mentions = [mention for mention in selection.mentions if mention.link in links]
    listeners = dict.fromkeys(one for m in mentions for one in _listeners_of(m, book))
    networks = dict.fromkeys(
        nic.address.network for nic in book.nics if nic.address and nic.name in links
    )
    return UnboundConf(
        listeners=tuple(listeners),
        allowed_networks=params.allowed_networks or tuple(networks),
        records=tuple(_records(book, params.cluster_domain)),
        cluster_domain=params.cluster_domain,
        forwarders=forwarders,
        is_closed=is_airgapped and not forwarders,
        max_cache_ttl=params.max_cache_ttl,
        upstream_timeout=params.upstream_timeout,
        tcp_disabled=params.tcp_disabled,
        udp_disabled=params.udp_disabled,
        own_config=(params.own_config or "").strip(),
    )


def _listeners_of(mention: SelectedInterface, book: AddressBook) -> Iterator[SocketAddress]:
    port = mention.port or _PORT
    if mention.address is not None:
        if _is_on_link(mention, book):
            yield SocketAddress(IPv4Address(mention.address), port)
        return
    nic = book.nic(mention.link)
    if nic and nic.address:
        yield SocketAddress(nic.address.ip, port)
    for vip in book.vips:
        if vip.link == mention.link:
            yield SocketAddress(vip.address.ip, port)


def _records(book: AddressBook, domain: str) -> Iterator[Record]:
    for placeholder, address in sorted(book.placeholders().items()):
        parts = _PLACEHOLDER.match(placeholder)
        if parts:
            name = f"{parts[2].lower()}{parts[3]}.eth{parts[1]}.{domain}"
            yield Record(name, address.ip)


def _forwarders(
    params: DnsParams, opennebula: OpenNebulaParams, book: AddressBook
) -> Iterator[SocketAddress]:
    """Yield whom to ask: named servers, else those of the context, but never this gateway."""
    if params.nameservers:
        for server in params.nameservers:
            yield SocketAddress(server.address, server.port or _PORT)
        return
    if params.use_root_servers:
        return
    words = (w for text in opennebula.nic_nameservers.values() for w in re.split(r"[\s,;]+", text))
    for word in dict.fromkeys(words):
        try:
            address = IPv4Address(word)
        except AddressValueError:
            continue
        if not book.links_of(address):
            yield SocketAddress(address, _PORT)


def _is_on_link(mention: SelectedInterface, book: AddressBook) -> bool:
    try:
        return mention.link in book.links_of(IPv4Address(mention.address or ""))
    except AddressValueError:
        return False


def check_resolver(
    params: DnsParams, opennebula: OpenNebulaParams, book: AddressBook
) -> tuple[list[Problem], list[str]]:
    """Find what does not fit together: problems and warnings."""
    problems = [
        Problem(
            INTERFACES_KEY,
            f"{mention.link}/{mention.address}",
            f"expected an own or virtual address of {mention.link} behind the slash",
            depends_on=ADDRESS_KEYS,
        )
        for mention in select_interfaces(params.interfaces, book).mentions
        if mention.address is not None and not _is_on_link(mention, book)
    ]
    return problems, list(_warn(params, build_resolver(params, opennebula, book)))


def _warn(params: DnsParams, conf: UnboundConf) -> Iterator[str]:
    if not params.enabled:
        return
    if not conf.listeners:
        yield f"ONEAPP_VNF_DNS_ENABLED is on and {INTERFACES_KEY} leaves no address to answer on"
    if params.tcp_disabled and params.udp_disabled:
        yield "ONEAPP_VNF_DNS_TCP_DISABLED and _UDP_DISABLED leave the resolver no way to answer"
    if params.use_root_servers is False and not conf.forwarders:
        yield (
            "ONEAPP_VNF_DNS_USE_ROOTSERVERS is NO and no other server is known: the root servers"
            " are asked all the same"
        )
    if params.use_root_servers and conf.forwarders:
        yield "ONEAPP_VNF_DNS_USE_ROOTSERVERS is without effect beside ONEAPP_VNF_DNS_NAMESERVERS"
