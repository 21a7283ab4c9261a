"""Looks at this machine that several roles share, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from appliance.system import System
from roles.common.rke2keys import KnownKeys, known_keys

RKE2 = "/usr/local/bin/rke2"
_ANSWER_TIMEOUT_S = 120
"""A program of 100 MB on a cold disk takes its time."""


@dataclass(frozen=True)
class IsThere:
    """Whether there is a file or folder of this name."""

    path: PurePosixPath

    def look(self, system: System) -> bool:
        """Look once."""
        return system.files.state(self.path) is not None


@dataclass(frozen=True)
class WordsWhileDown:
    """What a unit said lately, as long as it is not up; a unit that runs is not asked."""

    unit: str
    seconds: float

    def look(self, system: System) -> str:
        """Read the journal, which costs a process, only where it can explain something."""
        if system.units.show(self.unit).is_active:
            return ""
        return system.units.recent_words(self.unit, self.seconds)


@dataclass(frozen=True)
class Rke2Program:
    """The installed RKE2: what it says of its version and of the settings it knows.

    Every node asks for those of servers and agents, for all get the same settings of the user's.

    Attributes:
        tells_version: Whether the version matters.
        tells_settings: Whether the settings do, of which there may be some of the user's.
    """

    tells_version: bool
    tells_settings: bool

    def look(self, system: System) -> Rke2Installed:
        """Ask it what matters; empty texts where it is not installed."""
        kinds = ("server", "agent") if self.tells_settings else ()
        version = _said(system, "--version") if self.tells_version else ""
        helps = {kind: _said(system, kind, "--help") for kind in kinds}
        return Rke2Installed(version, helps.get("server", ""), helps.get("agent", ""))


@dataclass(frozen=True)
class Rke2Installed:
    """What an installed RKE2 says of itself."""

    version: str
    server_help: str
    agent_help: str

    @property
    def known(self) -> KnownKeys:
        """The settings it understands."""
        return known_keys(self.server_help, self.agent_help)


def _said(system: System, *arguments: str) -> str:
    """Ask the program; where it is there it has to answer, for settings depend on that."""
    if system.files.state(PurePosixPath(RKE2)) is None:
        return ""
    return system.commands.run((RKE2, *arguments), timeout_s=_ANSWER_TIMEOUT_S).stdout
