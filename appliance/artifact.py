"""One artifact of an image: how it is told whether it is in place, and how it gets there.

What is fetched goes to `paths.DOWNLOADS_DIR` first, and to its place when it is whole and proved.
A file that is as it was fetched is its own proof; of what was unpacked or put together there is a
record in `RECORDS_DIR`, with the sum of every file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from appliance import paths
from appliance.errors import NotText
from appliance.system import System
from appliance.system.part import part_of

RECORDS_DIR = paths.IMAGE_DIR / "artifacts"

# Archives of programs are about a third of what they hold; layers of images, half.
_UNPACKED = 4
_UNCOMPRESSED = 3


@dataclass(frozen=True)
class Expected:
    """What fetching will take.

    Attributes:
        folder: Where it ends up.
        download_bytes: How much comes, as far as servers tell.
        times: How many times as much that is in its place.
        kept_bytes: How much of it a run that was cut left: it is gone on with, or thrown away.
    """

    folder: PurePosixPath
    download_bytes: int
    times: int = 1
    kept_bytes: int = 0


class Fetch(Protocol):
    """One artifact."""

    @property
    def name(self) -> str:
        """What it is about."""

    def check(self, system: System) -> str:
        """Return why it has to be fetched; empty where it is in place."""

    def look(self, system: System) -> Expected:
        """Ask its server for it, without fetching it.

        Raises:
            OnekeError: It is not to be had.
        """

    def apply(self, system: System) -> None:
        """Fetch it and put it in place."""


@dataclass(frozen=True)
class FetchFile:
    """A file as it is published."""

    url: str
    sha256: str
    path: PurePosixPath

    @property
    def name(self) -> str:
        """The file."""
        return f"file {self.path}"

    def check(self, system: System) -> str:
        """Compare its sum."""
        found = system.bulk.sha256(self.path)
        if found is None:
            return "fetch"
        return "" if found == self.sha256 else f"fetch again: expected {self.sha256}, found {found}"

    def look(self, system: System) -> Expected:
        """Ask how large it is."""
        size = system.downloads.look(self.url) or 0
        kept_bytes = _kept_bytes(system, _kept_path(self.url, self.sha256))
        return Expected(self.path.parent, size, kept_bytes=kept_bytes)

    def apply(self, system: System) -> None:
        """Fetch it beside, then move it."""
        kept = _fetch(system, self.url, self.sha256)
        system.bulk.move(kept, self.path, mode=0o644)


@dataclass(frozen=True)
class FetchArchive:
    """What an archive holds, or some of it.

    Attributes:
        label: What the lock calls it.
        picked: The only members to take, with the names they get; empty for all.
    """

    label: str
    url: str
    sha256: str
    into: PurePosixPath
    picked: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """What the lock calls it, and where it is."""
        return f"{self.label} in {self.into}"

    @property
    def _pin(self) -> str:
        return f"{self.sha256} {self.into} {self.picked}"

    def check(self, system: System) -> str:
        """Compare every file with the record of how it was unpacked."""
        return _check_record(system, self.label, self._pin)

    def look(self, system: System) -> Expected:
        """Ask how large it is."""
        size = system.downloads.look(self.url) or 0
        kept_bytes = _kept_bytes(system, _kept_path(self.url, self.sha256))
        return Expected(self.into, size, _UNPACKED, kept_bytes)

    def apply(self, system: System) -> None:
        """Fetch, unpack, remember."""
        kept = _fetch(system, self.url, self.sha256)
        files = system.bulk.unpack(kept, self.into, dict(self.picked))
        _write_record(system, self.label, self._pin, files)
        system.files.remove(kept)


@dataclass(frozen=True)
class FetchImage:
    """An image of containers as an archive that the nodes' runtime imports at its start.

    Attributes:
        reference: What clusters call it.
        source: Where it is, `HOST/NAME`.
        is_plain: Whether that is spoken to without TLS.
    """

    reference: str
    source: str
    is_plain: bool
    digest: str
    arch: str
    path: PurePosixPath

    @property
    def name(self) -> str:
        """What clusters call it."""
        return f"image {self.reference}"

    @property
    def label(self) -> str:
        """What its record is called."""
        return self.path.name

    @property
    def _kept(self) -> PurePosixPath:
        return paths.DOWNLOADS_DIR / self.path.name

    @property
    def _pin(self) -> str:
        return f"{self.digest} {self.arch} {self.path}"

    def check(self, system: System) -> str:
        """Compare the archive with the record of how it was written."""
        return _check_record(system, self.label, self._pin)

    def look(self, system: System) -> Expected:
        """Ask how large it is."""
        reference = f"{self.source}@{self.digest}"
        size = system.registry.size(reference, self.arch, is_plain=self.is_plain)
        return Expected(self.path.parent, size, _UNCOMPRESSED, _kept_bytes(system, self._kept))

    def apply(self, system: System) -> None:
        """Save it beside, move it, remember."""
        kept = self._kept
        system.registry.save(
            f"{self.source}@{self.digest}", self.arch, kept, self.reference, is_plain=self.is_plain
        )
        sha256 = system.bulk.sha256(kept) or ""
        system.bulk.move(kept, self.path, mode=0o644)
        _write_record(system, self.label, self._pin, {self.path: sha256})


Artifact = FetchFile | FetchArchive | FetchImage


def _kept_path(url: str, sha256: str) -> PurePosixPath:
    """Return where a download is until it is in its place: a name of its very content."""
    return paths.DOWNLOADS_DIR / f"{sha256[:16]}-{PurePosixPath(url.partition('?')[0]).name}"


def _kept_bytes(system: System, kept: PurePosixPath) -> int:
    return system.bulk.size(kept) + system.bulk.size(part_of(kept))


def _fetch(system: System, url: str, sha256: str) -> PurePosixPath:
    """Have a file in the folder of downloads."""
    kept = _kept_path(url, sha256)
    if system.bulk.sha256(kept) != sha256:
        system.downloads.fetch(url, kept, sha256)
    return kept


def record_path(label: str) -> PurePosixPath:
    """Return where the record of an artifact is."""
    return RECORDS_DIR / f"{label}.json"


def _write_record(system: System, label: str, pin: str, files: Mapping[PurePosixPath, str]) -> None:
    """Remember what is in place, when what was before and is of it no more is removed."""
    for path in recorded_files(system, label):
        if path not in files:
            system.files.remove(path)
    document = {"pin": pin, "files": {str(path): files[path] for path in sorted(files)}}
    system.files.write(record_path(label), json.dumps(document, indent=1) + "\n", mode=0o600)


def recorded_files(system: System, label: str) -> list[PurePosixPath]:
    """Return the files of an artifact; none where its record tells nothing."""
    try:
        document = json.loads(system.files.read(record_path(label)) or "{}")
        return [PurePosixPath(path) for path in dict(document.get("files") or {})]
    except (NotText, ValueError, AttributeError, TypeError):
        return []


def _check_record(system: System, label: str, pin: str) -> str:
    try:
        document = json.loads(system.files.read(record_path(label)) or "{}")
        recorded, files = document.get("pin"), dict(document.get("files") or {})
    except (NotText, ValueError, AttributeError, TypeError):
        return "fetch again: its record is damaged"
    if recorded is None:
        return "fetch"
    if recorded != pin:
        return "fetch: another one is wanted"
    for path, sha256 in files.items():
        found = system.bulk.sha256(PurePosixPath(path))
        if found != sha256:
            return f"fetch again: {path}: expected {sha256}, found {found or 'no such file'}"
    return "" if files else "fetch again: its record is empty"
