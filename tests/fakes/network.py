"""Links, routes, sockets and kernel settings in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

from appliance.errors import CommandError, FileError
from appliance.system.network import Link, LinkManager, Route
from tests.fakes.tape import Tape


def make_link(name: str, *addresses: str, mac: str | None = None, is_up: bool = True) -> Link:
    """Return a link with these addresses, written as in 10.0.0.1/24."""
    return Link(name, mac, is_up, tuple(IPv4Interface(address) for address in addresses))


class FakeNetwork:
    """A network that changes as the kernel's would.

    Attributes:
        settings: Key to value; one that is not in it does not exist.
        managed: Link to who manages it; may be changed.
    """

    def __init__(
        self,
        links: Iterable[Link] = (),
        routes: Iterable[Route] = (),
        settings: Mapping[str, str] | None = None,
        *,
        tape: Tape | None = None,
    ) -> None:
        """Begin with some links and routes; every link has the settings that links have."""
        self.tape = tape or Tape()
        self._links = {link.name: link for link in links}
        self._routes = list(routes)
        self._listening: set[tuple[str, int]] = set()
        self._broken = False
        self.managed: dict[str, LinkManager] = {}
        self.settings = {
            "net.ipv4.ip_forward": "0",
            "net.ipv4.ip_nonlocal_bind": "0",
            **{
                f"net.ipv4.conf.{name}.forwarding": "0" for name in ("all", "default", *self._links)
            },
            **(settings or {}),
        }

    def add_address(self, link: str, address: str) -> None:
        """Put an address on a link, unless it is there."""
        found, wanted = self._links[link], IPv4Interface(address)
        if wanted not in found.addresses:
            self._links[link] = replace(found, addresses=(*found.addresses, wanted))

    def remove_address(self, link: str, address: str) -> None:
        """Take an address off a link."""
        found, unwanted = self._links[link], IPv4Interface(address)
        kept = tuple(own for own in found.addresses if own != unwanted)
        self._links[link] = replace(found, addresses=kept)

    def listen(self, address: str, port: int) -> None:
        """Have something listen."""
        self._listening.add((address, port))

    def break_down(self) -> None:
        """Let every look at links fail."""
        self._broken = True

    def restart(self) -> None:
        """Lose what a restart of the machine loses."""
        self._listening.clear()
        self._routes.clear()
        self.settings = dict.fromkeys(self.settings, "0")

    def links(self) -> tuple[Link, ...]:
        """Return every link."""
        if self._broken:
            raise CommandError(("ip", "-json", "address", "show"), 1, "", "", "exit status 1")
        return tuple(self._links.values())

    def routes(self) -> tuple[Route, ...]:
        """Return the routes."""
        return tuple(self._routes)

    def listening(self) -> frozenset[tuple[str, int]]:
        """Return what sockets listen on."""
        return frozenset(self._listening)

    def set_up(self, link: str) -> None:
        """Bring a link up."""
        self.tape.note(f"network.up {link}")
        self._links[link] = replace(self._links[link], is_up=True)

    def replace_default_route(self, gateway: IPv4Address, link: str) -> None:
        """Set the default route."""
        self.tape.note(f"network.route default via {gateway} dev {link}")
        self._routes = [
            route for route in self._routes if (route.destination, route.metric) != ("default", 0)
        ]
        self._routes.append(Route("default", gateway, link))

    def remove_default_route(self, gateway: IPv4Address, link: str) -> None:
        """Take a default route away; one that is not there is no change."""
        unwanted = [r for r in self._routes if r == Route("default", gateway, link, r.metric)]
        if unwanted:
            self.tape.note(f"network.no-route default via {gateway} dev {link}")
            self._routes = [route for route in self._routes if route not in unwanted]

    def managers(self) -> Mapping[str, LinkManager]:
        """Return who manages which link."""
        return dict(self.managed)

    def read_setting(self, key: str) -> str | None:
        """Return a setting."""
        return self.settings.get(key)

    def write_setting(self, key: str, value: str) -> None:
        """Change a setting; the general switch of forwarding sets those of the links too."""
        if key not in self.settings:
            raise FileError(f"{key}={value}: the kernel refuses it: No such file or directory")
        self.tape.note(f"network.setting {key}={value}")
        self.settings[key] = value
        if key in ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"):
            for other in self.settings:
                if other.endswith(".forwarding") or other == "net.ipv4.ip_forward":
                    self.settings[other] = value
