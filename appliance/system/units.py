"""Systemd units, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.system.commands import Commands

_PROPERTIES = (
    *("LoadState", "ActiveState", "SubState", "Result", "UnitFileState"),
    *("NRestarts", "Job"),
)
_START_TIMEOUT_S = 100


@dataclass(frozen=True)
class UnitState:
    """A unit as systemd sees it, in systemd's own words.

    Attributes:
        load: loaded, not-found, masked.
        active: active, inactive, failed, activating, deactivating, reloading.
        sub: running, exited, dead and the like.
        result: success, or how it failed.
        enabled: enabled, disabled, static; empty where there is no unit file.
        restarts: How often systemd restarted it by itself since it was last started.
        job: The number of the queued job; 0 or empty for none.
    """

    load: str
    active: str
    sub: str
    result: str
    enabled: str
    restarts: str = "0"
    job: str = ""

    @property
    def is_coming_up(self) -> bool:
        """Whether it is on its way up, a start that is still queued included."""
        return self.active == "activating" or self.job not in ("", "0")

    @property
    def is_active(self) -> bool:
        """Whether it runs."""
        return self.active in ("active", "reloading")

    @property
    def is_enabled(self) -> bool:
        """Whether it is started at boot."""
        return self.enabled in ("enabled", "enabled-runtime", "static", "alias")


class Units(Protocol):
    """Asks and tells the service manager."""

    def show(self, name: str) -> UnitState:
        """Return the state of a unit; one that does not exist has load not-found."""

    def show_all(self, names: Sequence[str]) -> dict[str, UnitState]:
        """Return the states of several units, by name, for the price of one."""

    def start(self, name: str) -> None:
        """Start and wait until it is up."""

    def begin(self, name: str, *, anew: bool = False) -> None:
        """Have it start, or restart with `anew`, without waiting until it is up."""

    def stop(self, name: str) -> None:
        """Stop and wait until it is down."""

    def reload(self, name: str) -> None:
        """Reload its configuration."""

    def restart(self, name: str) -> None:
        """Stop and start it, for what a reload does not change."""

    def enable(self, name: str) -> None:
        """Have it started at boot."""

    def disable(self, name: str) -> None:
        """Have it not started at boot."""

    def reset_failed(self, name: str) -> None:
        """Forget earlier failures, which would count against a start."""

    def last_words(self, name: str) -> str:
        """Return the end of what the unit's processes said in this boot."""

    def recent_words(self, name: str, seconds: float) -> str:
        """Return what the unit's processes said in the last seconds."""


class RealUnits:
    """systemctl."""

    def __init__(self, commands: Commands) -> None:
        """Run systemctl through `commands`."""
        self._commands = commands

    def show(self, name: str) -> UnitState:
        """Return the state of a unit."""
        return self.show_all((name,))[name]

    def show_all(self, names: Sequence[str]) -> dict[str, UnitState]:
        """Return the states of several units, by name."""
        if not names:
            return {}
        argv = ("systemctl", "show", *names, f"--property={','.join(_PROPERTIES)}")
        # One block of lines a unit, in the order they were asked for, a blank line between.
        blocks = self._commands.run(argv).stdout.split("\n\n")
        return {name: _parse_state(block) for name, block in zip(names, blocks, strict=True)}

    def start(self, name: str) -> None:
        """Start and wait until it is up."""
        self._systemctl("start", name)

    def begin(self, name: str, *, anew: bool = False) -> None:
        """Have it start, or restart with `anew`, without waiting until it is up."""
        self._systemctl("restart" if anew else "start", "--no-block", name)

    def stop(self, name: str) -> None:
        """Stop and wait until it is down."""
        self._systemctl("stop", name)

    def reload(self, name: str) -> None:
        """Reload its configuration."""
        self._systemctl("reload", name)

    def restart(self, name: str) -> None:
        """Stop and start it, for what a reload does not change."""
        self._systemctl("restart", name)

    def enable(self, name: str) -> None:
        """Have it started at boot."""
        self._systemctl("enable", "--quiet", name)

    def disable(self, name: str) -> None:
        """Have it not started at boot."""
        self._systemctl("disable", "--quiet", name)

    def reset_failed(self, name: str) -> None:
        """Forget earlier failures."""
        self._systemctl("reset-failed", name)

    def last_words(self, name: str) -> str:
        """Return the end of what the unit's processes said in this boot."""
        argv = ("journalctl", "--unit", name, "--boot", "--lines=20", "--output=cat", "--no-pager")
        return self._commands.run(argv, check=False).stdout

    def recent_words(self, name: str, seconds: float) -> str:
        """Return what the unit's processes said in the last seconds."""
        since = f"--since=-{seconds:.0f}s"
        argv = ("journalctl", "--unit", name, since, "--output=cat", "--no-pager")
        return self._commands.run(argv, check=False).stdout

    def _systemctl(self, *arguments: str) -> None:
        self._commands.run(("systemctl", *arguments), timeout_s=_START_TIMEOUT_S)


def _parse_state(block: str) -> UnitState:
    found = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    return UnitState(*(found.get(name, "") for name in _PROPERTIES))
