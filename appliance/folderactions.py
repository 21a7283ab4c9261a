"""Effects on folders that others look through: links to files, and files that others fill."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from appliance.plan import Change
from appliance.system import System


@dataclass(frozen=True)
class SymbolicLink:
    """A symbolic link, whether what it leads to is there or not."""

    path: PurePosixPath
    target: PurePosixPath

    @property
    def name(self) -> str:
        """The link."""
        return f"link {self.path}"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare where it leads."""
        if system.files.link_target(self.path) == self.target:
            return None
        return Change(f"lead to {self.target}", paths=(self.path,))

    def apply(self, system: System) -> None:
        """Make it, in place of what has its name."""
        system.files.link(self.path, self.target)


@dataclass(frozen=True)
class LinkFiles:
    """A symbolic link in a folder to each of some files, and none to others of the same store.

    What else has a name there is left alone, be it that of one of the files.

    Attributes:
        folder: Where the links are.
        store: What all of the files are below; a link to something below it is the agent's own.
        targets: The files.
    """

    folder: PurePosixPath
    store: PurePosixPath
    targets: tuple[PurePosixPath, ...]

    @property
    def name(self) -> str:
        """The folder."""
        return f"links in {self.folder}"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare the agent's own links with those that should be."""
        gone, missing = self._gone(system), self._missing(system)
        if not gone and not missing:
            return None
        counts = ((len(missing), "add"), (len(gone), "remove"))
        lines = [f"+{path.name}" for path in missing] + [f"-{path.name}" for path in gone]
        summary = ", ".join(f"{verb} {number}" for number, verb in counts if number)
        return Change(summary, "\n".join(lines), (*missing, *gone))

    @property
    def _wanted(self) -> dict[PurePosixPath, PurePosixPath]:
        return {self.folder / target.name: target for target in self.targets}

    def _own(self, system: System) -> dict[PurePosixPath, PurePosixPath]:
        """Return the agent's own links, with where they lead."""
        names = system.bulk.list_names(self.folder)
        found = {self.folder / name: system.files.link_target(self.folder / name) for name in names}
        return {
            path: target
            for path, target in found.items()
            if target is not None and target.is_relative_to(self.store)
        }

    def _gone(self, system: System) -> tuple[PurePosixPath, ...]:
        return tuple(path for path in self._own(system) if path not in self._wanted)

    def _missing(self, system: System) -> dict[PurePosixPath, PurePosixPath]:
        own, names = self._own(system), system.bulk.list_names(self.folder)
        return {
            path: target
            for path, target in self._wanted.items()
            if own.get(path) != target and (path in own or path.name not in names)
        }

    def apply(self, system: System) -> None:
        """Remove what is not wanted any more, then add what is missing."""
        for path in self._gone(system):
            system.files.remove(path)
        for path, target in self._missing(system).items():
            system.files.link(path, target)


@dataclass(frozen=True)
class StartFile:
    """A file that is empty when it is new, and then somebody else's."""

    path: PurePosixPath
    mode: int = 0o600

    @property
    def name(self) -> str:
        """The file."""
        return f"file {self.path}"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """See whether it is there."""
        if system.files.state(self.path) is not None:
            return None
        return Change(f"make, empty, {self.mode:04o}", paths=(self.path,))

    def apply(self, system: System) -> None:
        """Make it."""
        system.files.write(self.path, "", mode=self.mode)
