"""Own addresses, virtual addresses and endpoints of a VM, and what names stand for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from appliance.values import AddressWithPrefix, InterfaceItem, Placeholder
from roles.common.opennebula import OpenNebulaParams

# Whatever an address of this VM may come from: a wrong one of these makes findings about addresses
# mere consequences.
ADDRESS_KEYS = (
    "ETH<nic>_IP",
    "ETH<nic>_MASK",
    "ETH<nic>_NETWORK",
    "ETH<nic>_VROUTER_IP",
    "ONEAPP_VROUTER_ETH<nic>_VIP<index>",
    "ONEAPP_VNF_LB0_IP",
)

_FALLBACK_PREFIX = 24
_PRIVATE_CLASSES = (
    (IPv4Network("10.0.0.0/8"), 8),
    (IPv4Network("172.16.0.0/12"), 16),
    (IPv4Network("192.168.0.0/16"), 24),
)


@dataclass(frozen=True)
class Nic:
    """An interface of the context.

    Attributes:
        address: None where the context gives the interface none.
        gateway: The gateway of its network, if given.
        is_management: Whether it is for administration only.
        is_external: Whether its address is known outside only, so that nobody configures it here.
    """

    number: int
    address: IPv4Interface | None
    gateway: IPv4Address | None
    is_management: bool
    is_external: bool = False

    @property
    def name(self) -> str:
        """The kernel's name for it."""
        return f"eth{self.number}"


@dataclass(frozen=True)
class Vip:
    """A virtual address: number `index` of interface `nic`."""

    nic: int
    index: int
    address: IPv4Interface

    @property
    def key(self) -> str:
        """The parameter it comes from."""
        return f"ONEAPP_VROUTER_ETH{self.nic}_VIP{self.index}"

    @property
    def link(self) -> str:
        """The link it is put on."""
        return f"eth{self.nic}"


@dataclass(frozen=True)
class AddressBook:
    """Every address this VM has or may hold.

    Attributes:
        nics: By number.
        vips: By interface, then index.
    """

    nics: tuple[Nic, ...]
    vips: tuple[Vip, ...]

    def nic(self, name: str) -> Nic | None:
        """Return an interface by name."""
        return next((nic for nic in self.nics if nic.name == name), None)

    def placeholders(self) -> dict[str, IPv4Interface]:
        """Map every placeholder name to its address.

        ETH<n>_IP0 is the own address, ETH<n>_VIP<m> a virtual one, and ETH<n>_EP<m> the endpoint:
        the virtual address of that index where there is one, else the own address.
        """
        own = {f"ETH{nic.number}_IP0": nic.address for nic in self.nics if nic.address}
        virtual = {f"ETH{vip.nic}_VIP{vip.index}": vip.address for vip in self.vips}
        endpoints = {name.replace("_IP", "_EP"): address for name, address in own.items()}
        endpoints |= {name.replace("_VIP", "_EP"): address for name, address in virtual.items()}
        return {**own, **virtual, **endpoints}

    def resolve(self, wanted: AddressWithPrefix | Placeholder | IPv4Address) -> IPv4Address | None:
        """Return the address meant, or None for a placeholder that stands for nothing."""
        if isinstance(wanted, AddressWithPrefix):
            return wanted.address
        if isinstance(wanted, IPv4Address):
            return wanted
        found = self.placeholders().get(wanted.name)
        return found.ip if found else None

    def links_of(self, address: IPv4Address) -> tuple[str, ...]:
        """Return the links that have this address as their own, else as a virtual one."""
        own = tuple(nic.name for nic in self.nics if nic.address and nic.address.ip == address)
        return own or tuple(dict.fromkeys(v.link for v in self.vips if v.address.ip == address))


def build_address_book(
    params: OpenNebulaParams, vips: Mapping[tuple[int, int], AddressWithPrefix]
) -> AddressBook:
    """Put together own and virtual addresses, inferring prefix lengths that were not given.

    Args:
        params: What OpenNebula says.
        vips: Interface number and index to virtual address.
    """
    nics = tuple(
        Nic(
            number,
            _with_inferred_prefix(address, number, params) if address else None,
            params.nic_gateways.get(number),
            params.nic_management.get(number, False),
            params.nic_external.get(number, False),
        )
        for number, address in sorted(params.nic_addresses.items())
    )
    virtual = tuple(
        Vip(nic, index, _with_inferred_prefix(address, nic, params))
        for (nic, index), address in sorted(vips.items())
    )
    return AddressBook(nics, virtual)


def _with_inferred_prefix(
    given: AddressWithPrefix, nic: int, params: OpenNebulaParams
) -> IPv4Interface:
    return IPv4Interface(f"{given.address}/{_prefix_of(given, nic, params) or 32}")


def _prefix_of(given: AddressWithPrefix, nic: int, params: OpenNebulaParams) -> int:
    """Infer a prefix length: given, mask, network's trailing zero octets, private class, 24."""
    if given.prefix is not None:
        return given.prefix
    if nic in params.nic_masks:
        return params.nic_masks[nic]
    if nic in params.nic_networks:
        octets = params.nic_networks[nic].packed
        return 8 * len(octets.rstrip(b"\0"))
    for network, prefix in _PRIVATE_CLASSES:
        if given.address in network:
            return prefix
    return _FALLBACK_PREFIX


@dataclass(frozen=True)
class SelectedInterface:
    """One mention of an interface in a list.

    Attributes:
        address: The address it was restricted to, as written; None for all.
        port: The port it was given; None for the default.
    """

    link: str
    address: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Selection:
    """What an interface list comes to.

    Attributes:
        mentions: By interface number, those of one interface in the order given.
        unknown: Items that name neither an interface nor an own or virtual address.
    """

    mentions: tuple[SelectedInterface, ...]
    unknown: tuple[InterfaceItem, ...] = ()

    def links(self, book: AddressBook) -> tuple[str, ...]:
        """Return the links that are left without those for administration, each once."""
        management = {nic.name for nic in book.nics if nic.is_management}
        links = dict.fromkeys(mention.link for mention in self.mentions)
        return tuple(link for link in links if link not in management)


def select_interfaces(items: Sequence[InterfaceItem] | None, book: AddressBook) -> Selection:
    """Resolve an interface list.

    None stands for no interface. A list without inclusions stands for every interface of the
    context but the excluded ones. A bare address stands for the interfaces that have it.
    """
    if items is None:
        return Selection(())
    included: list[SelectedInterface] = []
    excluded: set[str] = set()
    unknown: list[InterfaceItem] = []
    for item in items:
        mentions = list(_mentions(item, book))
        if not mentions:
            unknown.append(item)
        if item.excluded:
            excluded.update(mention.link for mention in mentions)
        else:
            included.extend(mentions)
    if all(item.excluded for item in items):
        included = [SelectedInterface(nic.name) for nic in book.nics]
    kept = [mention for mention in included if mention.link not in excluded]
    return Selection(tuple(sorted(kept, key=_link_number)), tuple(unknown))


def _mentions(item: InterfaceItem, book: AddressBook) -> Iterator[SelectedInterface]:
    if item.name is not None:
        yield SelectedInterface(item.name, item.address, item.port)
        return
    try:
        address = IPv4Address(item.address or "")
    except ValueError:
        return
    for link in book.links_of(address):
        yield SelectedInterface(link, item.address, item.port)


def _link_number(mention: SelectedInterface) -> int:
    return int(mention.link.removeprefix("eth"))


def missing_links(selection: Selection, book: AddressBook) -> tuple[str, ...]:
    """Return the interfaces that a list names and the context does not have."""
    known = {nic.name for nic in book.nics}
    return tuple(dict.fromkeys(m.link for m in selection.mentions if m.link not in known))
