"""Links, addresses, routes, listening sockets and kernel settings, read as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any, Protocol

from appliance.errors import CommandError, FileError
from appliance.system.commands import Commands

_PROC_SYS = Path("/proc/sys")
# Source: RuntimeDirectory= of systemd-networkd.service; nobody has to be asked where it is missing.
# Source: sd-network; one file a link, while networkd runs. The folder itself is always there.
_NETWORKD_LINKS = Path("/run/systemd/netif/links")
# Source: ifup(8): link=configuration, a line each.
_IFUPDOWN_STATE = Path("/run/network/ifstate")

# Together they are every address, and each is nearer than the default route.
DEFAULT_HALVES = ("0.0.0.0/1", "128.0.0.0/1")

NETWORKD = "networkd"
IFUPDOWN = "ifupdown"


@dataclass(frozen=True)
class Link:
    """A network interface with its IPv4 addresses.

    Attributes:
        mac: The hardware address in lower case; None for links that have none (tunnels).
        is_up: Whether it was told to be up.
    """

    name: str
    mac: str | None
    is_up: bool
    addresses: tuple[IPv4Interface, ...]


@dataclass(frozen=True)
class Route:
    """An IPv4 route of the main table.

    Attributes:
        destination: `default` or a network in text.
        gateway: None for what is on-link.
        metric: Of several routes to one destination the one with the lowest is in force.
    """

    destination: str
    gateway: IPv4Address | None
    link: str | None
    metric: int = 0


@dataclass(frozen=True)
class LinkManager:
    """Who gives a link its addresses and routes.

    Attributes:
        name: `networkd` or `ifupdown`.
        network_file: The name of the .network file that is in force (networkd).
    """

    name: str
    network_file: str | None = None


class Network(Protocol):
    """Looks at the network and changes single things of it."""

    def links(self) -> tuple[Link, ...]:
        """Return every link, by kernel index."""

    def routes(self) -> tuple[Route, ...]:
        """Return the IPv4 routes of the main table."""

    def listening(self) -> frozenset[tuple[str, int]]:
        """Return what TCP sockets listen on, as address (0.0.0.0 for any) and port."""

    def set_up(self, link: str) -> None:
        """Bring a link up."""

    def replace_default_route(self, gateway: IPv4Address, link: str) -> None:
        """Set the default route until the next boot."""

    def remove_default_route(self, gateway: IPv4Address, link: str) -> None:
        """Take a default route away; one that is not there is fine."""

    def managers(self) -> Mapping[str, LinkManager]:
        """Tell who manages which link; a link that nobody manages is not in it."""

    def read_setting(self, key: str) -> str | None:
        """Return a kernel setting such as net.ipv4.ip_forward, or None if there is none."""

    def write_setting(self, key: str, value: str) -> None:
        """Change a kernel setting until the next boot.

        Raises:
            FileError: The kernel does not take it.
        """


class RealNetwork:
    """Iproute2 and /proc/sys."""

    def __init__(self, commands: Commands) -> None:
        """Run ip and ss through `commands`."""
        self._commands = commands

    def links(self) -> tuple[Link, ...]:
        """Return every link, by kernel index."""
        return parse_links(self._ip("address", "show"))

    def routes(self) -> tuple[Route, ...]:
        """Return the IPv4 routes of the main table."""
        return tuple(
            Route(
                one["dst"],
                IPv4Address(one["gateway"]) if one.get("gateway") else None,
                one.get("dev"),
                int(one.get("metric", 0)),
            )
            for one in self._ip("-4", "route", "show")
        )

    def listening(self) -> frozenset[tuple[str, int]]:
        """Return what TCP sockets listen on."""
        found = set()
        completed = self._commands.run(("ss", "--no-header", "--listening", "--tcp", "--numeric"))
        for line in completed.stdout.splitlines():
            columns = line.split()
            if len(columns) >= 4:
                address, _, port = columns[3].rpartition(":")
                bare = address.partition("%")[0].strip("[]")
                if port.isdecimal():
                    found.add(("0.0.0.0" if bare in ("*", "::") else bare, int(port)))  # noqa: S104  # read, not bound
        return frozenset(found)

    def set_up(self, link: str) -> None:
        """Bring a link up."""
        self._commands.run(("ip", "link", "set", "dev", link, "up"))

    def replace_default_route(self, gateway: IPv4Address, link: str) -> None:
        """Set the default route until the next boot."""
        self._commands.run(("ip", "route", "replace", "default", "via", str(gateway), "dev", link))

    def remove_default_route(self, gateway: IPv4Address, link: str) -> None:
        """Take a default route away; one that is not there is fine."""
        argv = ("ip", "route", "delete", "default", "via", str(gateway), "dev", link)
        if any(
            (route.destination, route.gateway, route.link) == ("default", gateway, link)
            for route in self.routes()
        ):
            self._commands.run(argv)

    def managers(self) -> Mapping[str, LinkManager]:
        """Tell who manages which link; what networkd manages is its alone."""
        found = dict.fromkeys(parse_ifstate(_read(_IFUPDOWN_STATE)), LinkManager(IFUPDOWN))
        if _NETWORKD_LINKS.is_dir() and any(_NETWORKD_LINKS.iterdir()):
            argv = ("networkctl", "--json=short", "list")
            found |= parse_networkd(self._commands.run(argv, check=False).stdout)
        return found

    def read_setting(self, key: str) -> str | None:
        """Return a kernel setting, or None if there is none."""
        try:
            return _setting_path(key).read_text(encoding="ascii").strip()
        except OSError:
            return None

    def write_setting(self, key: str, value: str) -> None:
        """Change a kernel setting until the next boot."""
        try:
            _setting_path(key).write_text(value, encoding="ascii")
        except OSError as error:
            raise FileError(f"{key}={value}: the kernel refuses it: {error.strerror}") from error

    def _ip(self, *arguments: str) -> list[dict[str, Any]]:
        argv = ("ip", "-json", *arguments)
        output = self._commands.run(argv).stdout
        try:
            found = json.loads(output or "[]")
        except json.JSONDecodeError as error:
            raise CommandError(argv, 0, output, "", "did not print JSON") from error
        return found if isinstance(found, list) else []


def parse_links(documents: list[dict[str, Any]]) -> tuple[Link, ...]:
    """Read what `ip -json address show` prints.

    Entries without a name and addresses without text are passed over.
    """
    return tuple(
        Link(
            name=one["ifname"],
            mac=str(one["address"]).lower() if one.get("address") else None,
            is_up="UP" in one.get("flags", ()),
            addresses=tuple(
                IPv4Interface(f"{info['local']}/{info.get('prefixlen', 32)}")
                for info in one.get("addr_info") or ()
                if info.get("family") == "inet" and info.get("local")
            ),
        )
        for one in documents
        if one.get("ifname")
    )


def link_towards(address: IPv4Address, links: Iterable[Link]) -> str | None:
    """Return the link in whose network an address of another machine is."""
    return next(
        (
            link.name
            for link in links
            if any(address in own.network and address != own.ip for own in link.addresses)
        ),
        None,
    )


def route_in_force(routes: Iterable[Route]) -> Route | None:
    """Return the default route that is used: of the lowest metric, or in two halves."""
    by_metric = sorted(routes, key=lambda route: route.metric)
    first = {route.destination: route for route in reversed(by_metric)}
    low, high = (first.get(half) for half in DEFAULT_HALVES)
    if low and high and (low.gateway, low.link) == (high.gateway, high.link):
        return low
    return first.get("default")


def parse_networkd(output: str) -> dict[str, LinkManager]:
    """Read from what `networkctl --json=short list` prints which links networkd manages.

    Nothing where it is not JSON: networkd does not run.
    """
    try:
        listed = json.loads(output)["Interfaces"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return {}
    return {
        one["Name"]: LinkManager(NETWORKD, str(one["NetworkFile"]).rpartition("/")[2])
        for one in listed
        if one.get("NetworkFile") and one.get("AdministrativeState") != "unmanaged"
    }


def parse_ifstate(text: str) -> tuple[str, ...]:
    """Read which links ifupdown brought up."""
    return tuple(found[1] for found in re.finditer(r"^([^=\s]+)=", text, re.MULTILINE))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _setting_path(key: str) -> Path:
    # An interface name may hold a dot; sysctl writes that one as a slash.
    return _PROC_SYS / key.replace(".", "\0").replace("/", ".").replace("\0", "/")
