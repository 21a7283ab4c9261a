"""Files that are too large to be read as a whole: sums, moves, archives, room."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from appliance.errors import ArtifactRefused, FileError
from appliance.system.files import Files

if TYPE_CHECKING:
    import tarfile

_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Room:
    """How much fits where a folder is, or will be.

    Attributes:
        device: Equal for folders that share the room.
    """

    device: int
    free_bytes: int


class Bulk(Protocol):
    """Handles large files; several threads may use it at once."""

    def sha256(self, path: PurePosixPath) -> str | None:
        """Return the sum of a file's content, None if there is no such file.

        Raises:
            FileError: It can not be read.
        """

    def size(self, path: PurePosixPath) -> int:
        """Return how many bytes a file has, 0 if there is no such file.

        Raises:
            FileError: It can not be told.
        """

    def room(self, folder: PurePosixPath) -> Room:
        """Return how much fits in a folder, whether it is there yet or not."""

    def move(self, source: PurePosixPath, target: PurePosixPath, *, mode: int) -> None:
        """Give a file another name, in place of what has it, at once even on another disk.

        Raises:
            FileError: It can not be done; what was there is unharmed.
        """

    def unpack(
        self, archive: PurePosixPath, into: PurePosixPath, picked: Mapping[str, str]
    ) -> dict[PurePosixPath, str]:
        """Unpack a tar archive, compressed or not, each file in place at once.

        Args:
            archive: Where it is.
            into: The folder that its names are below.
            picked: The only members to take, by the name each is to have; empty for all.

        Returns:
            Every file that was written, with its sum.

        Raises:
            ArtifactRefused: It is no archive, lacks what is picked, or holds what is neither a file
                nor a folder below it.
            FileError: It can not be written.
        """

    def list_names(self, folder: PurePosixPath) -> tuple[str, ...]:
        """Return the names of what is in a folder, sorted; none where there is no folder."""

    def remove_folder(self, folder: PurePosixPath) -> None:
        """Remove a folder that has nothing in it; one that has is left as it is."""


class RealBulk:
    """Handles large files of this machine, or of the root that `files` has."""

    def __init__(self, files: Files) -> None:
        """Place everything under the root of `files`."""
        self._files = files

    def _at(self, path: PurePosixPath) -> Path:
        return Path(self._files.real(path))

    def sha256(self, path: PurePosixPath) -> str | None:
        """Return the sum of a file's content; see `Bulk.sha256`."""
        try:
            with self._at(path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise FileError(f"{path}: can not be read: {error.strerror}") from error

    def size(self, path: PurePosixPath) -> int:
        """Return how many bytes a file has; see `Bulk.size`."""
        try:
            return self._at(path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except OSError as error:
            raise FileError(f"{path}: can not be read: {error.strerror}") from error

    def room(self, folder: PurePosixPath) -> Room:
        """Return how much fits in a folder; see `Bulk.room`."""
        at = self._at(folder)
        while not at.exists():
            at = at.parent
        status = os.statvfs(at)
        return Room(at.stat().st_dev, status.f_bavail * status.f_frsize)

    def move(self, source: PurePosixPath, target: PurePosixPath, *, mode: int) -> None:
        """Give a file another name; see `Bulk.move`."""
        old, new = self._at(source), self._at(target)
        beside = new.with_name(f".{new.name}.new")
        try:
            new.parent.mkdir(parents=True, exist_ok=True)
            if old.stat().st_dev == new.parent.stat().st_dev:
                old.chmod(mode)
                old.replace(new)
                return
            shutil.copyfile(old, beside)
            _finish(beside, new, mode)
            old.unlink()
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise FileError(f"{target}: can not be written: {error.strerror}") from error

    def unpack(
        self, archive: PurePosixPath, into: PurePosixPath, picked: Mapping[str, str]
    ) -> dict[PurePosixPath, str]:
        """Unpack a tar archive; see `Bulk.unpack`."""
        import tarfile  # with zlib and others: only an image's build unpacks anything
        import zlib

        written: dict[PurePosixPath, str] = {}
        try:
            with tarfile.open(self._at(archive)) as tar:
                for member, name in _wanted(tar, archive, picked):
                    written[into / name] = self._write(tar, member, into / name)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ArtifactRefused(f"{archive}: is no whole tar archive: {error}") from error
        except OSError as error:
            raise FileError(f"{into}: can not be written: {error.strerror}") from error
        missing = sorted(set(picked.values()) - {str(path.relative_to(into)) for path in written})
        if missing:
            raise ArtifactRefused(f"{archive}: does not hold {', '.join(missing)}")
        return written

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, to: PurePosixPath) -> str:
        at = self._at(to)
        beside = at.with_name(f".{at.name}.new")
        content = tar.extractfile(member)
        if content is None:
            raise ArtifactRefused(f"{member.name}: is neither a file nor a folder")
        at.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with content, beside.open("wb") as file:
                while data := content.read(_BLOCK):
                    digest.update(data)
                    file.write(data)
            _finish(beside, at, 0o755 if member.mode & 0o100 else 0o644)
        finally:
            beside.unlink(missing_ok=True)
        return digest.hexdigest()

    def list_names(self, folder: PurePosixPath) -> tuple[str, ...]:
        """Return the names of what is in a folder; see `Bulk.list_names`."""
        at = self._at(folder)
        return tuple(sorted(one.name for one in at.iterdir())) if at.is_dir() else ()

    def remove_folder(self, folder: PurePosixPath) -> None:
        """Remove a folder that has nothing in it; see `Bulk.remove_folder`."""
        at = self._at(folder)
        if at.is_dir() and not any(at.iterdir()):
            at.rmdir()


def _wanted(
    tar: tarfile.TarFile, archive: PurePosixPath, picked: Mapping[str, str]
) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield the files to take with the names they are to have; others' names are never trusted."""
    for member in tar:
        name = str(PurePosixPath(member.name))
        if member.isdir() or (picked and name not in picked):
            continue
        path = PurePosixPath(picked.get(name, name))
        if not member.isreg() or path.is_absolute() or ".." in path.parts:
            raise ArtifactRefused(
                f"{archive}: {member.name}: expected files and folders below the archive's own"
            )
        yield member, str(path)


def _finish(beside: Path, at: Path, mode: int) -> None:
    beside.chmod(mode)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(at)
