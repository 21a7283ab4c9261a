"""The effects of the stage `install`: artifacts in place, as the lock has them.

What is fetched goes to `paths.DOWNLOADS_DIR` first, and to its place when it is whole and proved.
A file that is as it was fetched is its own proof; of what was unpacked or put together there is a
record in `paths.IMAGE_DIR`, with the sum of every file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol, TypeVar

from appliance import paths
from appliance.errors import ArtifactRefused, FileError, NotText, OnekeError, raise_all
from appliance.plan import Change
from appliance.system import System
from appliance.system.together import run_together

AT_ONCE = 4

_RECORDS = "artifacts"
_IN_PLACE = paths.IMAGE_DIR / "in-place.json"

T = TypeVar("T")

_MIB = 1024 * 1024
# What an image must have left when all is in place.
_SPARE_BYTES = 256 * _MIB
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
    """

    folder: PurePosixPath
    download_bytes: int
    times: int = 1


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
        return Expected(self.path.parent, system.downloads.look(self.url) or 0)

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
        return Expected(self.into, system.downloads.look(self.url) or 0, _UNPACKED)

    def apply(self, system: System) -> None:
        """Fetch, unpack, remember."""
        kept = _fetch(system, self.url, self.sha256)
        files = system.bulk.unpack(kept, self.into, dict(self.picked))
        for path in _recorded_files(system, self.label):
            if path not in files:
                system.files.remove(path)
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
    def _pin(self) -> str:
        return f"{self.digest} {self.arch} {self.path}"

    def check(self, system: System) -> str:
        """Compare the archive with the record of how it was written."""
        return _check_record(system, self.label, self._pin)

    def look(self, system: System) -> Expected:
        """Ask how large it is."""
        reference = f"{self.source}@{self.digest}"
        size = system.registry.size(reference, self.arch, is_plain=self.is_plain)
        return Expected(self.path.parent, size, _UNCOMPRESSED)

    def apply(self, system: System) -> None:
        """Save it beside, move it, remember."""
        kept = paths.DOWNLOADS_DIR / self.path.name
        system.registry.save(
            f"{self.source}@{self.digest}", self.arch, kept, self.reference, is_plain=self.is_plain
        )
        sha256 = system.bulk.sha256(kept) or ""
        system.bulk.move(kept, self.path, mode=0o644)
        _write_record(system, self.label, self._pin, {self.path: sha256})


Artifact = FetchFile | FetchArchive | FetchImage


@dataclass(frozen=True)
class ForgetOthers:
    """Nothing in place that was fetched for another lock or flavor, and is of no use any more.

    What is in place is remembered, so that files of others in the same folders are left alone.
    """

    fetches: tuple[Artifact, ...]

    @property
    def name(self) -> str:
        """What is not there."""
        return "artifacts of before"

    def preflight(self, system: System) -> None:
        """Nothing can refuse."""

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare with what was remembered."""
        others = self._others(system)
        if others:
            return Change(f"remove {len(others)}", "\n".join(map(str, others)))
        return (
            None if self._remembered(system) == self._wanted else Change("remember what is there")
        )

    @property
    def _wanted(self) -> dict[str, list[str]]:
        """The single files, and the labels of the records."""
        files = sorted(str(one.path) for one in self.fetches if isinstance(one, FetchFile))
        labels = sorted(one.label for one in self.fetches if not isinstance(one, FetchFile))
        return {"files": files, "records": labels}

    def _remembered(self, system: System) -> dict[str, list[str]]:
        try:
            document = json.loads(system.files.read(_IN_PLACE) or "{}")
            return {key: [str(one) for one in document.get(key, ())] for key in self._wanted}
        except (NotText, ValueError, AttributeError, TypeError):
            return {}

    def _others(self, system: System) -> list[PurePosixPath]:
        wanted, remembered = self._wanted, self._remembered(system)
        files = [PurePosixPath(one) for one in remembered.get("files", ())]
        labels = [one for one in remembered.get("records", ()) if one not in wanted["records"]]
        recorded = [path for label in labels for path in _recorded_files(system, label)]
        others = [one for one in (*files, *recorded) if str(one) not in wanted["files"]]
        return [one for one in others if system.files.state(one) is not None]

    def apply(self, system: System) -> None:
        """Remove them, then their records, then remember what is there."""
        wanted = self._wanted
        for path in self._others(system):
            system.files.remove(path)
        for label in self._remembered(system).get("records", ()):
            if label not in wanted["records"]:
                system.files.remove(_record_path(label))
        system.files.write(_IN_PLACE, json.dumps(wanted, indent=1) + "\n", mode=0o600)


@dataclass(frozen=True)
class FetchAll:
    """Artifacts, some at a time: an action of a plan.

    Everything that is missing is asked for before anything is fetched, and every problem is told.
    """

    fetches: tuple[Fetch, ...]
    at_once: int = AT_ONCE

    @property
    def name(self) -> str:
        """All of them at once."""
        return "artifacts"

    def preflight(self, system: System) -> None:
        """See whether all that is missing is to be had, and has room."""
        missing = [fetch for fetch, _ in self._differing(system)]
        if (
            any(isinstance(one, FetchImage) for one in missing)
            and not system.registry.has_program()
        ):
            raise ArtifactRefused(
                "skopeo, which fetches images from registries, is not installed",
                hint="apt-get install skopeo; the finished image needs it no more",
            )
        expected, errors = _sort(
            run_together(
                [partial(one.look, system) for one in missing],
                self.at_once,
                stop=lambda: _stop(system),
            )
        )
        raise_all([*errors, *_find_no_room(system, expected)])

    def check(self, system: System, pending: frozenset[PurePosixPath]) -> Change | None:
        """Compare each."""
        differing = self._differing(system)
        if not differing:
            left = system.bulk.list_names(paths.DOWNLOADS_DIR)
            return Change("remove what is left of downloads", "\n".join(left)) if left else None
        detail = "\n".join(f"{fetch.name}: {why}" for fetch, why in differing)
        return Change(f"{len(differing)} of {len(self.fetches)} to fetch", detail)

    def _differing(self, system: System) -> list[tuple[Fetch, str]]:
        found, errors = _sort(
            run_together(
                [partial(one.check, system) for one in self.fetches],
                self.at_once,
                stop=lambda: None,
            )
        )
        raise_all(errors)
        return [(one, why) for one, why in zip(self.fetches, found, strict=True) if why]

    def apply(self, system: System) -> None:
        """Fetch what is missing; what fails does not keep the others from being fetched."""
        _remove_unfinished(system)
        missing = [fetch for fetch, _ in self._differing(system)]
        _, errors = _sort(
            run_together(
                [partial(one.apply, system) for one in missing],
                self.at_once,
                stop=lambda: _stop(system),
            )
        )
        raise_all(errors)
        for name in system.bulk.list_names(paths.DOWNLOADS_DIR):
            system.files.remove(paths.DOWNLOADS_DIR / name)
        system.bulk.remove_folder(paths.DOWNLOADS_DIR)


def _stop(system: System) -> None:
    system.downloads.stop()
    system.registry.stop()


def _sort(results: Sequence[T | OnekeError]) -> tuple[list[T], list[OnekeError]]:
    errors = [one for one in results if isinstance(one, OnekeError)]
    return [one for one in results if not isinstance(one, OnekeError)], errors


def _find_no_room(system: System, expected: Sequence[Expected]) -> list[FileError]:
    """Add up what goes to the same disk; downloads pass through a folder that may be elsewhere."""
    passed = system.bulk.room(paths.DOWNLOADS_DIR)
    needed: dict[int, int] = {}
    folders: dict[int, PurePosixPath] = {}
    for one in expected:
        device = system.bulk.room(one.folder).device
        folders.setdefault(device, one.folder)
        needed[device] = needed.get(device, _SPARE_BYTES) + one.download_bytes * one.times
        if device != passed.device:
            folders.setdefault(passed.device, paths.DOWNLOADS_DIR)
            needed[passed.device] = needed.get(passed.device, 0) + one.download_bytes
    return [
        FileError(
            f"{folder}: {free // _MIB} MiB are free, and the artifacts take about"
            f" {needed[device] // _MIB} MiB",
            hint="make the disk larger; nothing was fetched yet",
        )
        for device, folder in folders.items()
        if (free := system.bulk.room(folder).free_bytes) < needed[device]
    ]


def _fetch(system: System, url: str, sha256: str) -> PurePosixPath:
    """Have a file in the folder of downloads, under a name of its very content."""
    kept = paths.DOWNLOADS_DIR / f"{sha256[:16]}-{PurePosixPath(url.partition('?')[0]).name}"
    if system.bulk.sha256(kept) != sha256:
        system.downloads.fetch(url, kept, sha256)
    return kept


def _remove_unfinished(system: System) -> None:
    """Remove what a run that was cut left of its records: the files beside them."""
    for folder in (paths.IMAGE_DIR, paths.IMAGE_DIR / _RECORDS):
        for name in system.bulk.list_names(folder):
            if name.startswith("."):
                system.files.remove(folder / name)


def _record_path(label: str) -> PurePosixPath:
    return paths.IMAGE_DIR / _RECORDS / f"{label}.json"


def _write_record(system: System, label: str, pin: str, files: Mapping[PurePosixPath, str]) -> None:
    document = {"pin": pin, "files": {str(path): files[path] for path in sorted(files)}}
    system.files.write(_record_path(label), json.dumps(document, indent=1) + "\n", mode=0o600)


def _recorded_files(system: System, label: str) -> list[PurePosixPath]:
    try:
        document = json.loads(system.files.read(_record_path(label)) or "{}")
        return [PurePosixPath(path) for path in dict(document.get("files") or {})]
    except (NotText, ValueError, AttributeError, TypeError):
        return []


def _check_record(system: System, label: str, pin: str) -> str:
    try:
        document = json.loads(system.files.read(_record_path(label)) or "{}")
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
