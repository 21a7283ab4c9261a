"""systemd units in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from appliance.errors import CommandError
from appliance.system.units import UnitState
from tests.fakes.tape import Tape

MISSING = UnitState("not-found", "inactive", "dead", "success", "")
STOPPED = UnitState("loaded", "inactive", "dead", "success", "disabled")
RUNNING = UnitState("loaded", "active", "running", "success", "enabled")


class FakeUnits:
    """Units that start, stop and reload at once.

    Attributes:
        states: Name to state; a unit that is not in it does not exist.
        words: Name to what its processes said.
    """

    def __init__(
        self, states: Mapping[str, UnitState] | None = None, *, tape: Tape | None = None
    ) -> None:
        """Begin with some units."""
        self.tape = tape or Tape()
        self.states = dict(states or {})
        self.words: dict[str, str] = {}
        self._failing: dict[tuple[str, str], str] = {}
        self._daemons: dict[str, Callable[[], None]] = {}

    def fail(self, verb: str, name: str, words: str) -> None:
        """Let a verb fail for a unit, which says why."""
        self._failing[verb, name] = words

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._failing.clear()

    def whenever_loaded(self, name: str, happens: Callable[[], None]) -> None:
        """Have something happen at every successful start and reload, as a daemon would do it."""
        self._daemons[name] = happens

    def show(self, name: str) -> UnitState:
        """Return the state of a unit."""
        return self.states.get(name, MISSING)

    def show_all(self, names: Sequence[str]) -> dict[str, UnitState]:
        """Return the states of several units."""
        return {name: self.show(name) for name in names}

    def start(self, name: str) -> None:
        """Start."""
        self._do("start", name)
        self.states[name] = replace(
            self.states[name], active="active", sub="running", result="success"
        )
        self._daemons.get(name, lambda: None)()

    def begin(self, name: str, *, anew: bool = False) -> None:
        """Begin to start or restart; a unit that nothing was arranged for stays on its way up."""
        self._do("restart" if anew else "start", name)
        self.states[name] = replace(
            self.states[name], active="activating", sub="start", result="success"
        )
        self._daemons.get(name, lambda: None)()

    def stop(self, name: str) -> None:
        """Stop; stopping a unit that does not run is no change."""
        if self.show(name).active == "inactive":
            return
        self._do("stop", name)
        self.states[name] = replace(self.states[name], active="inactive", sub="dead")

    def reload(self, name: str) -> None:
        """Reload a unit, which must be active."""
        if not self.show(name).is_active:
            raise CommandError(
                ("systemctl", "reload", name),
                1,
                "",
                f"{name} is not active, cannot reload.",
                "exit status 1",
            )
        self._do("reload", name)
        self._daemons.get(name, lambda: None)()

    def restart(self, name: str) -> None:
        """Start a unit anew, whether it is active or not."""
        self._do("restart", name)
        self._daemons.get(name, lambda: None)()

    def enable(self, name: str) -> None:
        """Enable."""
        self._do("enable", name)
        self.states[name] = replace(self.states[name], enabled="enabled")

    def disable(self, name: str) -> None:
        """Disable."""
        self._do("disable", name)
        self.states[name] = replace(self.states[name], enabled="disabled")

    def reset_failed(self, name: str) -> None:
        """Forget failures."""
        self._do("reset-failed", name)
        self.states[name] = replace(self.states[name], active="inactive", sub="dead")

    def recent_words(self, name: str, seconds: float) -> str:
        """Return what a unit was made to say."""
        return self.words.get(name, "")

    def last_words(self, name: str) -> str:
        """Return what the unit said."""
        return self.words.get(name, "")

    def _do(self, verb: str, name: str) -> None:
        argv = ("systemctl", verb, name)
        if name not in self.states:
            raise CommandError(argv, 5, "", f"Unit {name} not found.", "exit status 5")
        self.tape.note(f"units.{verb} {name}")
        if (verb, name) in self._failing:
            self.words[name] = self._failing[verb, name]
            if verb == "start":
                self.states[name] = replace(
                    self.states[name], active="failed", sub="failed", result="exit-code"
                )
            said = f"Job for {name} failed because the control process exited with error code."
            raise CommandError(argv, 1, "", said, "exit status 1")
