"""The VRRP side of a gateway: which instance runs on which interface and what it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import PurePosixPath

from appliance.errors import Problem
from roles.common.addresses import AddressBook, Nic, Vip, select_interfaces
from roles.common.opennebula import OpenNebulaParams
from roles.vnf.params import KeepalivedParams

UNIT = "keepalived.service"
CONF = PurePosixPath("/etc/keepalived/keepalived.conf")
STATE_SCRIPT = PurePosixPath("/usr/local/lib/oneke/vrrp-state")
STATE_DIR = PurePosixPath("/run/keepalived")
SYNC_GROUP = "VRouter"

_VRIDS = 255
_DEFAULT_VRID = 1
# Source: keepalived.conf(5), auth_pass: only the first 8 characters are used.
_PASSWORD_LENGTH = 8
# Source: RFC 5798, 5.2.7: the interval of VRRP 3 has 12 bits of centiseconds.
_LONGEST_VERSION_3_INTERVAL_S = 40.95

# How long back a stranger's advertisement is of interest: several of the usual intervals.
STRANGER_WINDOW_S = 15.0

INTERFACES_KEY = "ONEAPP_VNF_KEEPALIVED_INTERFACES"


@dataclass(frozen=True)
class VirtualRoute:
    """A default route that moves with the virtual addresses."""

    via: IPv4Address
    link: str


@dataclass(frozen=True)
class VrrpInstance:
    """One VRRP instance.

    Attributes:
        name: The interface's name in upper case.
        link: Where it speaks.
        password: What is put into the file; None for none.
        tracked: Further links it holds addresses on, whose loss must move them too.
    """

    name: str
    link: str
    vrid: int
    priority: int
    interval: float
    password: str | None
    vips: tuple[Vip, ...]
    routes: tuple[VirtualRoute, ...]
    tracked: tuple[str, ...]


@dataclass(frozen=True)
class VrrpModel:
    """What keepalived is to do.

    Attributes:
        links_to_raise: Links that have no address of their own and so are not brought up by anyone
            else.
        unheld: Virtual addresses that no instance can carry.
    """

    router_name: str
    instances: tuple[VrrpInstance, ...]
    links_to_raise: tuple[str, ...]
    unheld: tuple[Vip, ...]

    @property
    def version(self) -> int:
        """VRRP 3 where an interval has a fraction of a second, else 2."""
        return 2 if all(instance.interval.is_integer() for instance in self.instances) else 3

    @property
    def vips(self) -> tuple[Vip, ...]:
        """Every virtual address that an instance carries."""
        return tuple(vip for instance in self.instances for vip in instance.vips)


def build_vrrp(
    params: KeepalivedParams, opennebula: OpenNebulaParams, book: AddressBook
) -> VrrpModel:
    """Decide on the VRRP instances.

    Interfaces of one virtual router id share an instance, which speaks on the first of them that
    has an address of its own and holds the virtual addresses of all.
    """
    links = select_interfaces(params.interfaces, book).links(book)
    nics = [nic for nic in book.nics if nic.name in links]
    bare = [nic for nic in nics if nic.address is None]
    route = next((VirtualRoute(nic.gateway, nic.name) for nic in bare if nic.gateway), None)
    taking_part = [nic for nic in nics if not params.nic_skipped.get(nic.number, False)]
    groups = _group_by_vrid(taking_part, params, default_vrid(params, opennebula))
    instances = tuple(_build_instances(groups, params, book, route))
    held = {vip for instance in instances for vip in instance.vips}
    wanted = {nic.number for nic in taking_part}
    return VrrpModel(
        router_name=f"oneke-{opennebula.vm_id or 0}",
        instances=instances,
        links_to_raise=tuple(nic.name for nic in bare),
        unheld=tuple(vip for vip in book.vips if vip.nic in wanted and vip not in held),
    )


def default_vrid(params: KeepalivedParams, opennebula: OpenNebulaParams) -> int:
    """Return the virtual router id of interfaces that have none of their own."""
    if params.vrid is not None:
        return params.vrid
    for identity in (opennebula.service_id, opennebula.vm_id):
        if identity is not None:
            return identity % _VRIDS + 1
    return _DEFAULT_VRID


def _group_by_vrid(
    nics: Sequence[Nic], params: KeepalivedParams, default: int
) -> dict[int, list[Nic]]:
    groups: dict[int, list[Nic]] = {}
    for nic in nics:
        groups.setdefault(params.nic_vrids.get(nic.number, default), []).append(nic)
    return groups


def _build_instances(
    groups: Mapping[int, Sequence[Nic]],
    params: KeepalivedParams,
    book: AddressBook,
    route: VirtualRoute | None,
) -> Iterator[VrrpInstance]:
    for vrid, nics in groups.items():
        speaker = next((nic for nic in nics if nic.address is not None), None)
        if speaker is None:
            continue
        members = [nic.name for nic in nics]
        vips = tuple(vip for vip in book.vips if vip.link in members)
        password = params.nic_passwords.get(speaker.number, params.password)
        routes = (route,) if route and route.link in members else ()
        yield VrrpInstance(
            name=speaker.name.upper(),
            link=speaker.name,
            vrid=vrid,
            priority=params.nic_priorities.get(speaker.number, params.priority),
            interval=params.nic_intervals.get(speaker.number, params.interval),
            password=password.reveal() if password else None,
            vips=vips,
            routes=routes,
            tracked=tuple(
                name for name in members if name != speaker.name and _is_used(name, vips, routes)
            ),
        )


def _is_used(link: str, vips: Sequence[Vip], routes: Sequence[VirtualRoute]) -> bool:
    return any(vip.link == link for vip in vips) or any(route.link == link for route in routes)


def check_vrrp(
    params: KeepalivedParams, opennebula: OpenNebulaParams, book: AddressBook
) -> tuple[list[Problem], list[str]]:
    """Find what does not fit together: problems and warnings."""
    problems = []
    nic_names = ", ".join(nic.name for nic in book.nics) or "none"
    for vip in book.vips:
        if book.nic(vip.link) is None:
            given = params.vips[vip.nic, vip.index]
            problems.append(
                Problem(
                    vip.key,
                    str(given),
                    f"this VM has no {vip.link} (its interfaces: {nic_names})",
                    depends_on=(f"ETH{vip.nic}_IP",),
                )
            )
    model = build_vrrp(params, opennebula, book)
    for instance in model.instances:
        if model.version == 3 and instance.interval > _LONGEST_VERSION_3_INTERVAL_S:
            problems.append(
                Problem(
                    "ONEAPP_VNF_KEEPALIVED_INTERVAL",
                    f"{instance.interval:g}",
                    "expected at most 40 seconds where another interval has a fraction of a second",
                )
            )
    return problems, list(_warn(params, model, book))


def _warn(params: KeepalivedParams, model: VrrpModel, book: AddressBook) -> Iterator[str]:
    seen: dict[IPv4Address, Vip] = {}
    for vip in book.vips:
        address = vip.address.ip
        if any(nic.address and nic.address.ip == address for nic in book.nics):
            yield f"{vip.key}: {address} is an own address of this gateway, and not a virtual one"
        if seen.setdefault(address, vip) is not vip:
            yield f"{vip.key}: {address} is {seen[address].key} already"
    for vip in model.unheld:
        yield (
            f"{vip.key}: nobody will hold {vip.address.ip}: no interface of its virtual router id"
            " has an address of its own to speak VRRP on"
        )
    if any(len(i.password or "") > _PASSWORD_LENGTH for i in model.instances):
        yield "ONEAPP_VNF_KEEPALIVED_PASSWORD: keepalived uses the first 8 characters only"
    if model.version == 3 and any(instance.password for instance in model.instances):
        yield (
            "ONEAPP_VNF_KEEPALIVED_PASSWORD: VRRP 3, which an interval with a fraction needs, knows"
            " no password"
        )
    speakers = {instance.link for instance in model.instances}
    sharing = {name for instance in model.instances for name in instance.tracked}
    for nic in book.nics:
        own = (params.nic_intervals, params.nic_priorities, params.nic_passwords)
        if nic.name in sharing - speakers and any(nic.number in settings for settings in own):
            yield (
                f"ONEAPP_VNF_KEEPALIVED_ETH{nic.number}_*: without effect, {nic.name} shares the"
                " instance of another interface; give it a VRID of its own"
            )


@dataclass(frozen=True)
class KeepalivedConf:
    """The model of keepalived.conf.

    Attributes:
        check_haproxy: Whether a balancer that is gone or hangs moves the virtual addresses.
    """

    router_name: str
    version: int
    sync_group: str
    instances: tuple[VrrpInstance, ...]
    check_haproxy: bool
    health_socket: str
    state_script: str
    password_length: int = _PASSWORD_LENGTH


def state_file(kind: str, name: str) -> PurePosixPath:
    """Return the file that keepalived's notify script leaves a state in."""
    return STATE_DIR / f"oneke-{kind}-{name}.state"


@dataclass(frozen=True)
class VrrpState:
    """What the notify script left.

    Attributes:
        name: MASTER, BACKUP, FAULT or STOP; empty where keepalived has not told yet.
        since_s: Uptime at which it began.
    """

    name: str
    since_s: float


def read_state(text: str | None) -> VrrpState:
    """Read what the notify script wrote."""
    words = (text or "").split()
    try:
        return VrrpState(words[0], float(words[1]))
    except (IndexError, ValueError):
        return VrrpState("", 0.0)


# Source: keepalived 2.2, vrrp.c, vrrp_check_packet: what it says of advertisements that carry its
# virtual router id and are none of its pair's.
_STRANGER = re.compile(
    r"^\((?P<instance>\w+)\) .*"
    r"(associated with VRID \d+ not present|invalid passwd|auth, expecting|number of VIPs"
    r"|interval mismatch)",
    re.MULTILINE,
)


def find_strangers(words: str) -> frozenset[str]:
    """Return the instances that hear a router which uses their id and is not of their pair."""
    return frozenset(found["instance"] for found in _STRANGER.finditer(words))


# How a text about a stranger begins.
STRANGER_SIGN = "another router uses virtual router id"


def describe_stranger(vrid: int, link: str) -> str:
    """Say what a stranger means, and what to do."""
    return (
        f"{STRANGER_SIGN} {vrid} on {link} with other addresses or password: give this service a"
        " ONEAPP_VNF_KEEPALIVED_VRID of its own, or configure the other gateway of the pair alike"
    )


def election_s(instance: VrrpInstance) -> float:
    """Return how long a node that hears no master stays BACKUP before it becomes MASTER itself.

    A node that has been BACKUP for longer hears one.

    Source: RFC 3768, 6.1, Master_Down_Interval: three intervals and a skew of up to a second (up to
    an interval in RFC 5798); a second is added for the scripts.
    """
    return 3 * instance.interval + max(1.0, instance.interval) + 1.0
