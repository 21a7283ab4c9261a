"""The effects a plan may consist of.

Each compares before it acts, so that a second run changes nothing, and each may be cut at any point
and run again. What a running daemon has loaded is remembered as a digest of its files
(`paths.LOADED_DIR`); the memory is dropped before such a file is changed, so that a run that is cut
between writing and reloading is made good by the next one.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from appliance import paths
from appliance.errors import (
    CommandError,
    ConfigurationRefused,
    NotText,
    StillDifferent,
    UnitFailed,
)
from appliance.plan import Change, diff_texts
from appliance.system import System
from appliance.system.onegate import encode_update
from appliance.system.units import UnitState

_ENABLED = ("enabled", "enabled-runtime")
_JUST_BEGUN_S = 2.0

# What HAProxy says after the lines that tell what is wrong.
_SUMMARY = re.compile(r"Error\(s\) found in configuration file|Fatal errors found in configuration")


@dataclass(frozen=True)
class Judge:
    """A command that says whether a daemon would take a file.

    Attributes:
        argv: The command; `{file}` stands for the candidate, `{log}` for a file it writes its words
            to.
        blame: The parameters a refusal most likely comes from, for the message.
    """

    argv: tuple[str, ...]
    blame: str


@dataclass(frozen=True)
class WriteFile:
    """A file with this text, mode and owner.

    Attributes:
        is_secret: Whether its text must not be shown.
        sensitive_mark: What an old text holds that must not be shown either.
        loaded_by: The units that have to load it anew when it changes.
        judge: Asked before anything is changed, if the file would change.
    """

    path: PurePosixPath
    text: str
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    is_secret: bool = False
    sensitive_mark: str = ""
    loaded_by: tuple[str, ...] = ()
    judge: Judge | None = None

    @property
    def name(self) -> str:
        """The file."""
        return f"file {self.path}"

    def preflight(self, system: System) -> None:
        """Let the judge see the text in a private file."""
        if self.judge is None or _holds(system, self.path, self.text):
            return
        candidate = paths.CANDIDATE_DIR / self.path.name
        log = paths.CANDIDATE_DIR / f"{self.path.name}.log"
        places = {"{file}": system.files.real(candidate), "{log}": system.files.real(log)}
        argv = [places.get(word, word) for word in self.judge.argv]
        system.files.ensure_folder(paths.CANDIDATE_DIR, mode=0o700)
        system.files.write(candidate, self.text, mode=0o600)
        try:
            completed = system.commands.run(argv, check=False)
            said = completed.stdout + completed.stderr + (system.files.read(log) or "")
        finally:
            system.files.remove(candidate)
            system.files.remove(log)
        if completed.rc < 0:
            # It was killed, which says nothing about the file.
            reason = f"ended by signal {-completed.rc}"
            raise CommandError(argv, completed.rc, "", completed.stderr, reason)
        if completed.rc != 0:
            raise ConfigurationRefused(
                f"{self.path}: {argv[0]} refuses it: {_first_complaint(said, places['{file}'])}",
                hint=f"look at {self.judge.blame}",
            )

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare text, mode and owner."""
        try:
            old = system.files.read(self.path)
        except NotText:
            return Change("write", "(what is there is no text)", (self.path,))
        state = system.files.state(self.path)
        if old is None or state is None:
            return Change(f"write, new, {self.mode:04o}", self._shown(None), (self.path,))
        if old != self.text:
            return Change("write", self._shown(old), (self.path,))
        if (state.mode, state.owner, state.group) != (self.mode, self.owner, self.group):
            found = f"{state.mode:04o} {state.owner}:{state.group}"
            return Change(f"set {self.mode:04o} {self.owner}:{self.group} (was {found})")
        return None

    def _shown(self, old: str | None) -> str:
        if self.is_secret or (self.sensitive_mark and self.sensitive_mark in (old or "")):
            return "(content not shown: it may hold a secret)"
        return diff_texts(old, self.text)

    def apply(self, system: System) -> None:
        """Drop the memory of what is loaded, then write."""
        if not _holds(system, self.path, self.text):
            for unit in self.loaded_by:
                system.files.remove(_loaded_path(unit))
        system.files.write(self.path, self.text, mode=self.mode, owner=self.owner, group=self.group)


@dataclass(frozen=True)
class EnsureSecret:
    """A file with a secret that nobody else knows yet; one that is there is kept."""

    path: PurePosixPath
    size_bytes: int = 32

    @property
    def name(self) -> str:
        """The file."""
        return f"file {self.path}"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether it is there, holds something, and is for root only."""
        state = system.files.state(self.path)
        if state is None or not self._kept(system):
            return Change("write, new, 0600", "(a new secret)", (self.path,))
        if (state.mode, state.owner, state.group) != (0o600, "root", "root"):
            found = f"{state.mode:04o} {state.owner}:{state.group}"
            return Change(f"set 0600 root:root (was {found})")
        return None

    def _kept(self, system: System) -> str:
        text = system.files.read(self.path) or ""
        return text if text.strip() else ""

    def apply(self, system: System) -> None:
        """Make it up, or keep it."""
        text = self._kept(system) or f"{secrets.token_hex(self.size_bytes)}\n"
        system.files.write(self.path, text, mode=0o600)


@dataclass(frozen=True)
class RemoveFile:
    """No file of this name.

    Attributes:
        own_mark: What a file of the agent's holds, where others may have one of this name: theirs
            is left alone.
        note: What a person has to know about it.
    """

    path: PurePosixPath
    loaded_by: tuple[str, ...] = ()
    own_mark: str = ""
    note: str = ""

    @property
    def name(self) -> str:
        """The file."""
        return f"file {self.path}"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether it is there, and ours."""
        if system.files.state(self.path) is None or not self._is_own(system):
            return None
        return Change(f"remove{f'; {self.note}' if self.note else ''}", paths=(self.path,))

    def _is_own(self, system: System) -> bool:
        try:
            return not self.own_mark or self.own_mark in (system.files.read(self.path) or "")
        except NotText:
            return False

    def apply(self, system: System) -> None:
        """Drop the memory of what is loaded, then remove."""
        for unit in self.loaded_by:
            system.files.remove(_loaded_path(unit))
        system.files.remove(self.path)


@dataclass(frozen=True)
class EnsureFolder:
    """A folder; one that is there is left as it is."""

    path: PurePosixPath
    mode: int

    @property
    def name(self) -> str:
        """The folder."""
        return f"folder {self.path}"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether it is there."""
        if system.files.state(self.path) is not None:
            return None
        return Change(f"make, {self.mode:04o}", paths=(self.path,))

    def apply(self, system: System) -> None:
        """Make it."""
        system.files.ensure_folder(self.path, mode=self.mode)


@dataclass(frozen=True)
class ReplaceTable:
    """One nftables table of our own, replaced as a whole in one transaction.

    Other tables are not touched.

    Attributes:
        rules: The table's block, `table ip NAME { ... }`; empty for no table at all.
    """

    family: str
    table: str
    rules: str

    @property
    def name(self) -> str:
        """The table."""
        return f"packet filter table {self.family} {self.table}"

    @property
    def _record(self) -> PurePosixPath:
        return paths.RUN_DIR / f"table-{self.family}-{self.table}.json"

    @property
    def _transaction(self) -> str:
        # Adding it first makes the deletion succeed whether the table is there or not.
        head = f"table {self.family} {self.table}\ndelete table {self.family} {self.table}\n"
        return head + self.rules

    def preflight(self, system: System) -> None:
        """Let nft judge the table."""
        try:
            system.packet_filter.check(self._transaction)
        except CommandError as error:
            if error.rc is None or error.rc < 0:
                raise
            raise ConfigurationRefused(f"{self.name}: nft refuses it: {error}") from error

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare what nft lists with what it listed after this very table was loaded."""
        listed = system.packet_filter.list_table(self.family, self.table)
        if not self.rules:
            return None if listed is None else Change("delete", diff_texts(listed, ""))
        if listed is not None and _holds(system, self._record, self._remembered(listed)):
            return None
        return Change("replace" if listed else "load", diff_texts(listed, self.rules))

    def _remembered(self, listed: str) -> str:
        return json.dumps({"rules": self.rules, "listed": listed})

    def apply(self, system: System) -> None:
        """Load it, then remember how nft lists it."""
        system.packet_filter.load(self._transaction)
        if not self.rules:
            return
        listed = system.packet_filter.list_table(self.family, self.table)
        if listed is None:
            raise StillDifferent(f"{self.name}: loaded without complaint, and not there")
        system.files.write(self._record, self._remembered(listed), mode=0o600)


@dataclass(frozen=True)
class RunUnit:
    """A unit that is active and has loaded these files as they are.

    Attributes:
        files: The files it reads at start and at reload.
        restarts: Whether it takes a restart to read them anew.
        at_boot: Whether the service manager starts it at boot; else each boot's run of the agent
            does, once all that it builds upon is there. None where that is nobody's business here.
    """

    unit: str
    files: tuple[PurePosixPath, ...] = ()
    restarts: bool = False
    at_boot: bool | None = True

    @property
    def name(self) -> str:
        """The unit."""
        return f"unit {self.unit}"

    def preflight(self, system: System) -> None:
        """Nothing but its files can be judged, and they are."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare what it does and what it has loaded."""
        wanted = self._missing(system, system.units.show(self.unit), pending)
        return Change(" and ".join(wanted)) if wanted else None

    def _missing(
        self, system: System, state: UnitState, pending: frozenset[PurePosixPath]
    ) -> list[str]:
        wanted = []
        if self.at_boot and not state.is_enabled:
            wanted.append("enable")
        if self.at_boot is False and state.enabled in _ENABLED:
            wanted.append("disable")
        if not state.is_active:
            wanted.append("start")
        elif pending & set(self.files) or not self._has_loaded(system):
            wanted.append("restart" if self.restarts else "reload")
        return wanted

    def _has_loaded(self, system: System) -> bool:
        if not self.files:
            return True
        try:
            return system.files.read(_loaded_path(self.unit)) == digest_of(system, self.files)
        except NotText:  # the record, or one of the files
            return False

    def apply(self, system: System) -> None:
        """Enable, start or reload, then remember what is loaded."""
        state = system.units.show(self.unit)
        digest = digest_of(system, self.files)
        if state.load in ("not-found", "masked"):
            raise StillDifferent(
                f"{self.unit}: {state.load}",
                hint="the image lacks the package, or somebody masked the unit",
            )
        if self.at_boot and not state.is_enabled:
            system.units.enable(self.unit)
        if self.at_boot is False and state.enabled in _ENABLED:
            system.units.disable(self.unit)
        try:
            self._start_or_reload(system, state)
        except CommandError as error:
            newest_first = reversed(system.units.last_words(self.unit).splitlines())
            said = _first_complaint("\n".join(newest_first), "")
            verb = "reload" if state.is_active else "start"
            raise UnitFailed(
                f"{self.unit} did not {verb}: {said}",
                hint=f"journalctl -u {self.unit} tells more",
            ) from error
        if self.files:
            mark_loaded(system, self.unit, digest)

    def _start_or_reload(self, system: System, state: UnitState) -> None:
        if state.is_active:
            if not self._has_loaded(system):
                bring = system.units.restart if self.restarts else system.units.reload
                bring(self.unit)
            return
        if state.active == "failed":
            system.units.reset_failed(self.unit)
        system.units.start(self.unit)


@dataclass(frozen=True)
class BeginUnit:
    """A unit that was told to run with these settings; whether it comes up shows later.

    For units whose start may take minutes, or for ever.

    Attributes:
        settings: What it is to run with, as one digest; with other settings it is started anew.
    """

    unit: str
    settings: str

    @property
    def name(self) -> str:
        """The unit."""
        return f"unit {self.unit}"

    def preflight(self, system: System) -> None:
        """A unit that is not there can not be started later either."""
        state = system.units.show(self.unit)
        if state.load in ("not-found", "masked"):
            raise StillDifferent(
                f"{self.unit}: {state.load}",
                hint="the image lacks RKE2, or somebody masked the unit",
            )

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare what it does, and what it was started with.

        One that ends at once, or whose start is skipped, was begun all the same; it is not begun
        again in the same breath.
        """
        state = system.units.show(self.unit)
        if not state.is_active and not state.is_coming_up:
            if self._was_just_begun(system):
                return None
            return Change("start, without waiting for it")
        has_settings = _holds(system, _loaded_path(self.unit), self.settings)
        return None if has_settings else Change("restart, with other settings")

    def _was_just_begun(self, system: System) -> bool:
        try:
            begun = float(system.files.read(self._record) or "-inf")
        except (NotText, ValueError):
            return False
        return 0 <= system.clock.uptime() - begun < _JUST_BEGUN_S

    @property
    def _record(self) -> PurePosixPath:
        return paths.RUN_DIR / f"begun-{self.unit}"

    def _begin(self, system: System, *, anew: bool) -> None:
        system.units.begin(self.unit, anew=anew)
        system.files.write(self._record, f"{system.clock.uptime()}\n", mode=0o600)

    def apply(self, system: System) -> None:
        """Have it started, so that a cut anywhere ends in a unit that runs with the settings.

        What runs already is restarted before that is remembered; else the settings are remembered
        first, so that a cut between the two ends in one start, not in a restart.
        """
        state = system.units.show(self.unit)
        if state.is_active or state.is_coming_up:
            self._begin(system, anew=True)
            mark_loaded(system, self.unit, self.settings)
            return
        mark_loaded(system, self.unit, self.settings)
        if state.active == "failed":
            system.units.reset_failed(self.unit)
        self._begin(system, anew=False)


@dataclass(frozen=True)
class Publish:
    """Attributes of this VM in OneGate, for its siblings; secret values are never shown."""

    values: tuple[tuple[str, str], ...] = field(repr=False)

    @property
    def name(self) -> str:
        """All of them at once."""
        return "attributes in OneGate"

    def preflight(self, system: System) -> None:
        """Refuse what OneGate would not store as it is."""
        encode_update(dict(self.values))

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare with what OneGate holds."""
        if system.onegate is None:
            return None
        held = system.onegate.own_vm().attributes
        different = [key for key, value in self.values if held.get(key, "") != value]
        return Change(f"publish {', '.join(different)}") if different else None

    def apply(self, system: System) -> None:
        """Store those that differ, all in one update."""
        if system.onegate is None:
            return
        held = system.onegate.own_vm().attributes
        system.onegate.update({k: v for k, v in self.values if held.get(k, "") != v})


@dataclass(frozen=True)
class StopUnit:
    """A unit that is neither active nor enabled; one that does not exist is fine."""

    unit: str

    @property
    def name(self) -> str:
        """The unit."""
        return f"unit {self.unit}"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether it runs or would run at the next boot."""
        state = system.units.show(self.unit)
        wanted = []
        if state.is_active or state.active == "activating":
            wanted.append("stop")
        if state.enabled in _ENABLED:
            wanted.append("disable")
        return Change(" and ".join(wanted)) if wanted else None

    def apply(self, system: System) -> None:
        """Disable, then stop."""
        if system.units.show(self.unit).enabled in _ENABLED:
            system.units.disable(self.unit)
        system.units.stop(self.unit)
        system.files.remove(_loaded_path(self.unit))


def mark_loaded(system: System, unit: str, digest: str) -> None:
    """Remember what a unit runs with, as `digest_of` told it before the unit read it."""
    system.files.ensure_folder(paths.STATE_DIR, mode=0o700)
    system.files.write(_loaded_path(unit), digest, mode=0o600)


def _holds(system: System, path: PurePosixPath, text: str) -> bool:
    """Say whether a file holds this very text."""
    try:
        return system.files.read(path) == text
    except NotText:
        return False


def _loaded_path(unit: str) -> PurePosixPath:
    return paths.LOADED_DIR / unit


def digest_of(system: System, files: Sequence[PurePosixPath]) -> str:
    """Return one digest over the names and texts of files, as they are now."""
    digest = hashlib.sha256()
    for path in files:
        text = system.files.read(path)
        digest.update(f"{path}\0{'absent' if text is None else len(text)}\0{text or ''}\0".encode())
    return digest.hexdigest()


def _first_complaint(said: str, candidate: str) -> str:
    """Pick the line that tells what is wrong, without the name of the private candidate file."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    alerts = [line for line in lines if "ALERT" in line and not _SUMMARY.search(line)]
    errors = [line for line in lines if "error" in line.lower()]
    chosen = next(iter(alerts or errors or lines), "it gave no reason")
    return chosen.replace(candidate, "the file") if candidate else chosen
