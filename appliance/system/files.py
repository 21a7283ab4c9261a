"""Files under a root: read as a whole, written beside and renamed, never half."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from appliance.errors import AlreadyRunning, FileError, NotText


@dataclass(frozen=True)
class FileState:
    """What can be seen of a file without reading it.

    Attributes:
        mode: The permission bits.
        owner: The name or, where it has none, the number of its user.
        group: Likewise of its group.
    """

    mode: int
    owner: str
    group: str


class Files(Protocol):
    """Reads and writes files; every path is absolute and placed under a root."""

    def read(self, path: PurePosixPath, *, limit: int | None = None) -> str | None:
        """Return a file's text, or None if there is no such file.

        Raises:
            NotText: It is no UTF-8 text.
            FileError: It can not be read, or is larger than `limit` bytes.
        """

    def read_bytes(self, path: PurePosixPath, *, limit: int | None = None) -> bytes | None:
        """Return what a file holds, or None if there is no such file.

        Raises:
            FileError: It can not be read, or is larger than `limit` bytes.
        """

    def state(self, path: PurePosixPath) -> FileState | None:
        """Return mode and owner, or None if there is no such file."""

    def link(self, path: PurePosixPath, target: PurePosixPath) -> None:
        """Have a symbolic link there, in place of what has the name; missing folders are made.

        Raises:
            FileError: It can not be made; what was there is unharmed.
        """

    def link_target(self, path: PurePosixPath) -> PurePosixPath | None:
        """Return where a symbolic link leads, or None if there is no such link."""

    def write(
        self,
        path: PurePosixPath,
        text: str,
        *,
        mode: int = 0o644,
        owner: str = "root",
        group: str = "root",
    ) -> None:
        """Write beside, sync, rename; folders that are missing are made (0755).

        Raises:
            FileError: It can not be written; the old file is unharmed.
        """

    def append(self, path: PurePosixPath, line: str, *, mode: int = 0o600) -> None:
        """Add a line and sync it."""

    def remove(self, path: PurePosixPath) -> bool:
        """Remove a file; False if there was none."""

    def ensure_folder(self, path: PurePosixPath, *, mode: int = 0o755) -> None:
        """Make a folder, with this mode if it is new."""

    def lock(self, path: PurePosixPath) -> AbstractContextManager[None]:
        """Return a lock to enter; it ends with the process.

        Raises:
            AlreadyRunning: On entering, if another process holds it.
        """

    def real(self, path: PurePosixPath) -> str:
        """Return the path as commands see it."""


class RealFiles:
    """The files of this machine, or those under a folder that stands for its root."""

    def __init__(self, root: str = "/") -> None:
        """Place everything under `root`."""
        self._root = Path(root)

    def _at(self, path: PurePosixPath) -> Path:
        return self._root / path.relative_to("/")

    def real(self, path: PurePosixPath) -> str:
        """Return the path as commands see it."""
        return str(self._at(path))

    def read(self, path: PurePosixPath, *, limit: int | None = None) -> str | None:
        """Return a file's text, or None if there is no such file; see `Files.read`."""
        data = self.read_bytes(path, limit=limit)
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NotText(f"{path}: is not UTF-8 text: {error.reason}") from error

    def read_bytes(self, path: PurePosixPath, *, limit: int | None = None) -> bytes | None:
        """Return what a file holds, or None if there is no such file; see `Files.read_bytes`."""
        try:
            with self._at(path).open("rb") as file:
                data = file.read() if limit is None else file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            hint = "run it as root" if isinstance(error, PermissionError) else None
            raise FileError(f"{path}: can not be read: {error.strerror}", hint=hint) from error
        if limit is not None and len(data) > limit:
            raise FileError(f"{path}: larger than {limit} bytes")
        return data

    def state(self, path: PurePosixPath) -> FileState | None:
        """Return mode and owner, or None if there is no such file."""
        at = self._at(path)
        try:
            status = at.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        owner, group = str(status.st_uid), str(status.st_gid)
        with suppress(KeyError):
            owner = at.owner()
        with suppress(KeyError):
            group = at.group()
        return FileState(status.st_mode & 0o7777, owner, group)

    def link(self, path: PurePosixPath, target: PurePosixPath) -> None:
        """Have a symbolic link there; see `Files.link`."""
        at = self._at(path)
        beside = at.with_name(f".{at.name}.new")
        try:
            _make_folders(at.parent)
            beside.unlink(missing_ok=True)
            beside.symlink_to(target)
            beside.replace(at)
            _sync_folder(at.parent)
        except OSError as error:
            raise FileError(f"{path}: can not be linked: {error.strerror}") from error

    def link_target(self, path: PurePosixPath) -> PurePosixPath | None:
        """Return where a symbolic link leads; see `Files.link_target`."""
        at = self._at(path)
        return PurePosixPath(at.readlink()) if at.is_symlink() else None

    def write(
        self,
        path: PurePosixPath,
        text: str,
        *,
        mode: int = 0o644,
        owner: str = "root",
        group: str = "root",
    ) -> None:
        """Write beside, sync, rename; see `Files.write`."""
        at = self._at(path)
        beside: str | None = None
        try:
            _make_folders(at.parent)
            handle, beside = tempfile.mkstemp(prefix=f".{at.name}.", dir=at.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                shutil.chown(beside, owner, group)
                os.fchmod(file.fileno(), mode)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).replace(at)
            beside = None
            _sync_folder(at.parent)
        except OSError as error:
            raise FileError(f"{path}: can not be written: {error.strerror}") from error
        except LookupError as error:
            raise FileError(f"{path}: no such owner or group: {owner}:{group}") from error
        finally:
            if beside is not None:
                Path(beside).unlink(missing_ok=True)

    def append(self, path: PurePosixPath, line: str, *, mode: int = 0o600) -> None:
        """Add a line and sync it."""
        at = self._at(path)
        try:
            at.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
            try:
                os.write(handle, f"{line}\n".encode())
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise FileError(f"{path}: can not be written: {error.strerror}") from error

    def remove(self, path: PurePosixPath) -> bool:
        """Remove a file; False if there was none."""
        try:
            self._at(path).unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise FileError(f"{path}: can not be removed: {error.strerror}") from error
        return True

    def ensure_folder(self, path: PurePosixPath, *, mode: int = 0o755) -> None:
        """Make a folder, with this mode if it is new."""
        at = self._at(path)
        try:
            if not at.is_dir():
                at.mkdir(parents=True, exist_ok=True)
                at.chmod(mode)
        except OSError as error:
            raise FileError(f"{path}: can not be made: {error.strerror}") from error

    @contextmanager
    def lock(self, path: PurePosixPath) -> Iterator[None]:
        """Hold a lock that ends with the process; see `Files.lock`."""
        at = self._at(path)
        try:
            at.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(at, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FileError(f"{path}: can not be made: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(
                    f"{path} is held: another run of oneke-agent is changing this machine",
                    hint="wait for it to end: journalctl -fu oneke-agent, or oneke-agent status",
                ) from None
            yield
        finally:
            os.close(handle)


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it, 0755 whatever the umask: daemons read what is in there."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        one.chmod(0o755)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
