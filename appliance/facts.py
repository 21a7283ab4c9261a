"""Facts: what the machine looks like now, as one frozen snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from appliance.errors import NotText, SocketError
from appliance.system import System
from appliance.system.network import Link, Route
from appliance.system.units import UnitState

if TYPE_CHECKING:
    from appliance.siblings import Siblings

T_co = TypeVar("T_co", covariant=True)


class Probe(Protocol[T_co]):
    """One more look at the machine, as a value; roles say which they need."""

    def look(self, system: System) -> T_co:
        """Look once; what is not there yet is a result, not an error."""


@dataclass(frozen=True)
class FactsWanted:
    """What a role wants to know beyond links and routes.

    Attributes:
        units: systemd units.
        files: Small files, such as those a daemon leaves its state in.
        tables: nftables tables as family and name.
        settings: Kernel settings.
        questions: Control sockets and what to ask them.
        words: Units, and of how many seconds their log is wanted.
        probes: Whatever else a role looks at.
        lasting: Likewise, where one look a run is enough: what an image has.
        outside: Looks at other machines, taken only where a stage deals with these.
        siblings: Whether the other VMs of the service matter; likewise.
    """

    units: tuple[str, ...] = ()
    files: tuple[PurePosixPath, ...] = ()
    tables: tuple[tuple[str, str], ...] = ()
    settings: tuple[str, ...] = ()
    questions: tuple[tuple[PurePosixPath, str], ...] = ()
    words: tuple[tuple[str, float], ...] = ()
    probes: tuple[Probe[object], ...] = ()
    lasting: tuple[Probe[object], ...] = ()
    outside: tuple[Probe[object], ...] = ()
    siblings: bool = False

    def also(self, *, probes: tuple[Probe[object], ...]) -> FactsWanted:
        """Return the same with more probes."""
        return replace(self, probes=(*self.probes, *probes))


@dataclass(frozen=True)
class Facts:
    """A snapshot; what was not asked for is not in it.

    Attributes:
        listening: Address (0.0.0.0 for any) and port of every listening TCP socket.
        files: Path to text; None where there is no such file.
        tables: Family and name of the tables that are loaded, to what nft lists with counters.
        answers: Socket and question to answer; None where nobody answered in time.
        words: Unit to what it said lately.
        seen: Probe to what it found.
        siblings: The service's VMs as OneGate told of them last; None where it was not asked.
        uptime_s: Seconds since boot, to compare with times that daemons leave in files.
        now_s: Seconds since 1970, likewise.
    """

    links: tuple[Link, ...] = ()
    routes: tuple[Route, ...] = ()
    listening: frozenset[tuple[str, int]] = frozenset()
    units: Mapping[str, UnitState] = field(default_factory=dict)
    files: Mapping[PurePosixPath, str | None] = field(default_factory=dict)
    tables: Mapping[tuple[str, str], str] = field(default_factory=dict)
    settings: Mapping[str, str | None] = field(default_factory=dict)
    answers: Mapping[tuple[PurePosixPath, str], str | None] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    seen: Mapping[Probe[object], object] = field(default_factory=dict)
    siblings: Siblings | None = None
    uptime_s: float = 0.0
    now_s: float = 0.0

    def link(self, name: str) -> Link | None:
        """Return a link by name."""
        return next((link for link in self.links if link.name == name), None)

    def found(self, probe: Probe[T_co]) -> T_co:
        """Return what a probe found, which must have been asked for."""
        return cast("T_co", self.seen[probe])

    def has_address(self, link_name: str, address: IPv4Interface) -> bool:
        """Say whether a link carries an address, whatever its prefix length."""
        link = self.link(link_name)
        return link is not None and any(own.ip == address.ip for own in link.addresses)


def gather_facts(
    system: System,
    wanted: FactsWanted,
    *,
    known: Mapping[Probe[object], object] | None = None,
) -> Facts:
    """Look at the machine; changes nothing.

    Args:
        system: The machine.
        wanted: What to look at.
        known: What an earlier look in the same run found.
    """
    return Facts(
        links=system.network.links(),
        routes=system.network.routes(),
        listening=system.network.listening(),
        units=system.units.show_all(wanted.units),
        files={path: read_if_text(system, path) for path in wanted.files},
        tables={
            table: listed
            for table in wanted.tables
            if (listed := system.packet_filter.list_table(*table, counters=True)) is not None
        },
        settings={key: system.network.read_setting(key) for key in wanted.settings},
        answers={question: _ask(system, *question) for question in wanted.questions},
        words={unit: system.units.recent_words(unit, seconds) for unit, seconds in wanted.words},
        seen=_look(system, wanted, known or {}),
        uptime_s=system.clock.uptime(),
        now_s=system.clock.now(),
    )


def _look(
    system: System, wanted: FactsWanted, known: Mapping[Probe[object], object]
) -> Mapping[Probe[object], object]:
    lasting = {
        probe: known[probe] if probe in known else probe.look(system) for probe in wanted.lasting
    }
    return {**lasting, **{probe: probe.look(system) for probe in wanted.probes}}


def look_outside(
    system: System, wanted: FactsWanted, facts: Facts, siblings: Siblings | None
) -> Facts:
    """Add to a snapshot what other machines say.

    Args:
        system: The machine.
        wanted: What to look at.
        facts: The snapshot.
        siblings: What OneGate told, where it was asked.
    """
    seen = {probe: probe.look(system) for probe in wanted.outside}
    return replace(facts, siblings=siblings, seen={**facts.seen, **seen})


def read_if_text(system: System, path: PurePosixPath) -> str | None:
    """Return a file's text, or None where there is none or a disk error left no text of it."""
    try:
        return system.files.read(path)
    except NotText:
        return None


def _ask(system: System, path: PurePosixPath, question: str) -> str | None:
    try:
        return system.sockets.ask(path, question)
    except SocketError:
        return None
