"""Files in memory, with modes, owners and a lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from appliance.errors import AlreadyRunning, FileError, NotText
from appliance.system.files import FileState
from tests.fakes.tape import Tape


@dataclass(frozen=True)
class Kept:
    """A file."""

    data: bytes
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"


class FakeFiles:
    """A file tree; a restart of the machine empties what is in /run.

    Attributes:
        kept: Path to file.
        folders: The folders that were made, with their modes.
        links: The symbolic links, with where they lead.
        locked: The locks that are held.
    """

    def __init__(
        self, texts: Mapping[str, str | bytes] | None = None, *, tape: Tape | None = None
    ) -> None:
        """Begin with some files, all of them 0644 root:root."""
        self.tape = tape or Tape()
        self.kept: dict[PurePosixPath, Kept] = {}
        self.folders: dict[PurePosixPath, int] = {}
        self.links: dict[PurePosixPath, PurePosixPath] = {}
        self.locked: set[PurePosixPath] = set()
        self._failing: dict[PurePosixPath, str] = {}
        for path, text in (texts or {}).items():
            self.put(path, text)

    def put(
        self,
        path: str | PurePosixPath,
        text: str | bytes,
        *,
        mode: int = 0o644,
        owner: str = "root",
        group: str = "root",
    ) -> None:
        """Have a file there, as somebody else than the agent would."""
        data = text.encode() if isinstance(text, str) else text
        self.kept[PurePosixPath(path)] = Kept(data, mode, owner, group)

    def change_mode(self, path: str | PurePosixPath, mode: int) -> None:
        """Change a mode, as somebody else than the agent would."""
        self.kept[PurePosixPath(path)] = replace(self.kept[PurePosixPath(path)], mode=mode)

    def fail(self, path: str | PurePosixPath, reason: str = "Input/output error") -> None:
        """Let everything that is done with a path fail."""
        self._failing[PurePosixPath(path)] = reason

    def restart(self) -> None:
        """Lose what a restart of the machine loses."""
        self.kept = {p: kept for p, kept in self.kept.items() if not p.is_relative_to("/run")}
        self.folders = {p: mode for p, mode in self.folders.items() if not p.is_relative_to("/run")}
        self.locked.clear()

    def text(self, path: str | PurePosixPath) -> str:
        """Return the text of a file that must be there."""
        return self.kept[PurePosixPath(path)].data.decode()

    def texts(self) -> dict[str, str]:
        """Return every file's text."""
        return {str(path): kept.data.decode(errors="replace") for path, kept in self.kept.items()}

    def _refuse(self, path: PurePosixPath, verb: str) -> None:
        if not path.is_absolute():
            raise AssertionError(f"{path}: a path is absolute")
        if path in self._failing:
            raise FileError(f"{path}: can not be {verb}: {self._failing[path]}")

    def real(self, path: PurePosixPath) -> str:
        """Return the path as commands see it."""
        return str(path)

    def read(self, path: PurePosixPath, *, limit: int | None = None) -> str | None:
        """Return a file's text, or None."""
        data = self.read_bytes(path, limit=limit)
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NotText(f"{path}: is not UTF-8 text: {error.reason}") from error

    def read_bytes(self, path: PurePosixPath, *, limit: int | None = None) -> bytes | None:
        """Return what a file holds, or None."""
        self._refuse(path, "read")
        if path in self.folders:
            raise FileError(f"{path}: can not be read: Is a directory")
        kept = self.kept.get(self.links.get(path, path))
        if kept is None:
            return None
        if limit is not None and len(kept.data) > limit:
            raise FileError(f"{path}: larger than {limit} bytes")
        return kept.data

    def link(self, path: PurePosixPath, target: PurePosixPath) -> None:
        """Have a symbolic link there."""
        self._refuse(path, "linked")
        self.tape.note(f"files.link {path}")
        self.kept.pop(path, None)
        self.links[path] = target

    def link_target(self, path: PurePosixPath) -> PurePosixPath | None:
        """Return where a symbolic link leads, or None."""
        return self.links.get(path)

    def state(self, path: PurePosixPath) -> FileState | None:
        """Return mode and owner, or None."""
        self._refuse(path, "read")
        if path in self.folders:
            return FileState(self.folders[path], "root", "root")
        kept = self.kept.get(self.links.get(path, path))
        return None if kept is None else FileState(kept.mode, kept.owner, kept.group)

    def write(
        self,
        path: PurePosixPath,
        text: str,
        *,
        mode: int = 0o644,
        owner: str = "root",
        group: str = "root",
    ) -> None:
        """Write a file, all of it or nothing."""
        self._refuse(path, "written")
        self.tape.note(f"files.write {path}")
        self.links.pop(path, None)
        self.kept[path] = Kept(text.encode("utf-8"), mode, owner, group)

    def append(self, path: PurePosixPath, line: str, *, mode: int = 0o600) -> None:
        """Add a line."""
        self._refuse(path, "written")
        self.tape.note(f"files.append {path}")
        old = self.kept.get(path, Kept(b"", mode))
        self.kept[path] = replace(old, data=old.data + f"{line}\n".encode())

    def remove(self, path: PurePosixPath) -> bool:
        """Remove a file; removing one that is not there is no change."""
        self._refuse(path, "removed")
        if path not in self.kept and path not in self.links:
            return False
        self.tape.note(f"files.remove {path}")
        self.links.pop(path, None)
        self.kept.pop(path, None)
        return True

    def ensure_folder(self, path: PurePosixPath, *, mode: int = 0o755) -> None:
        """Make a folder; making one that is there is no change."""
        self._refuse(path, "made")
        if path not in self.folders:
            self.tape.note(f"files.folder {path}")
            self.folders[path] = mode

    @contextmanager
    def lock(self, path: PurePosixPath) -> Iterator[None]:
        """Hold a lock."""
        self._refuse(path, "made")
        if path in self.locked:
            raise AlreadyRunning(f"{path} is held")
        self.locked.add(path)
        try:
            yield
        finally:
            self.locked.discard(path)
