"""Effects on the network of this machine as it is in force: settings, name, links and routes."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import PurePosixPath

from appliance import paths
from appliance.errors import FileError
from appliance.plan import Change
from appliance.system import System
from appliance.system.network import route_in_force

_ROUTE_EVERY_S = 0.1


@dataclass(frozen=True)
class KernelSettings:
    """Kernel settings in force now; a file in /etc/sysctl.d keeps them for the next boot.

    Attributes:
        wanted: Key and value, in the order they are written: net.ipv4.ip_forward resets those of
            the links.
    """

    wanted: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """All of them at once."""
        return "kernel settings"

    def preflight(self, system: System) -> None:
        """A setting that the kernel does not have can not be written later either."""
        missing = [key for key, _ in self.wanted if system.network.read_setting(key) is None]
        if missing:
            raise FileError(
                f"{', '.join(missing)}: the kernel has no such setting",
                hint="is the interface there? ip link shows those that are",
            )

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare each."""
        different = [
            f"{key}={value} (was {found})"
            for key, value in self.wanted
            if (found := system.network.read_setting(key)) != value
        ]
        return Change(f"set {len(different)}", "\n".join(different)) if different else None

    def apply(self, system: System) -> None:
        """Write those that differ, in order."""
        for key, value in self.wanted:
            if system.network.read_setting(key) != value:
                system.network.write_setting(key, value)


@dataclass(frozen=True)
class SetHostName:
    """The machine's host name, for this boot and the next ones."""

    host_name: str

    @property
    def name(self) -> str:
        """What it is about."""
        return "host name"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare with the name kept and the name in force."""
        kept = (system.files.read(paths.HOST_NAME) or "").strip()
        in_force = system.network.read_setting("kernel.hostname")
        if (kept, in_force) == (self.host_name, self.host_name):
            return None
        return Change(f"set {self.host_name} (was {in_force})", paths=(paths.HOST_NAME,))

    def apply(self, system: System) -> None:
        """Set both; the file first, which a broken hostnamed does not keep from the next boot."""
        system.files.write(paths.HOST_NAME, f"{self.host_name}\n")
        system.commands.run(("hostname", "--", self.host_name))


@dataclass(frozen=True)
class BringUp:
    """A link that is up, although it has no address of its own."""

    link: str

    @property
    def name(self) -> str:
        """The link."""
        return f"link {self.link}"

    def preflight(self, system: System) -> None:
        """A link that is not there can not be brought up later either."""
        if not any(link.name == self.link for link in system.network.links()):
            raise FileError(f"{self.link}: no such link", hint="ip link shows those that are")

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether it is up."""
        up = any(link.is_up for link in system.network.links() if link.name == self.link)
        return None if up else Change("bring up")

    def apply(self, system: System) -> None:
        """Bring it up."""
        system.network.set_up(self.link)


@dataclass(frozen=True)
class RuntimeDefaultRoute:
    """A default route until the next boot, where there is none."""

    gateway: IPv4Address
    link: str

    @property
    def name(self) -> str:
        """The route."""
        return "default route"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether there is any default route."""
        if any(route.destination == "default" for route in system.network.routes()):
            return None
        return Change(f"via {self.gateway} on {self.link}, until the next boot")

    def apply(self, system: System) -> None:
        """Set it."""
        system.network.replace_default_route(self.gateway, self.link)


@dataclass(frozen=True)
class DefaultRoute:
    """The default route that is in force.

    Attributes:
        patience_s: How long whoever manages the link is given to set it; then it is set by hand.
    """

    gateway: IPv4Address
    link: str
    patience_s: float = 0.0

    @property
    def name(self) -> str:
        """The route."""
        return "default route"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare with the one of the lowest metric."""
        found = route_in_force(system.network.routes())
        if found and (found.gateway, found.link) == (self.gateway, self.link):
            return None
        was = f" (was via {found.gateway} on {found.link})" if found else ""
        return Change(f"via {self.gateway} on {self.link}{was}")

    def apply(self, system: System) -> None:
        """Wait for it to come, or set it."""
        end = system.clock.monotonic() + self.patience_s
        while system.clock.monotonic() < end:
            if self.check(system, frozenset()) is None:
                return
            system.clock.sleep(_ROUTE_EVERY_S)
        system.network.replace_default_route(self.gateway, self.link)


@dataclass(frozen=True)
class NoDefaultRoute:
    """No default route through a gateway that is not to be used any more."""

    gateway: IPv4Address
    link: str

    @property
    def name(self) -> str:
        """The route that was."""
        return f"default route via {self.gateway}"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether it is there."""
        is_there = any(
            (route.destination, route.gateway, route.link) == ("default", self.gateway, self.link)
            for route in system.network.routes()
        )
        return Change("remove") if is_there else None

    def apply(self, system: System) -> None:
        """Remove it."""
        system.network.remove_default_route(self.gateway, self.link)
