"""The effects of the stage `install`: artifacts in place as the lock has them, and no others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar

from appliance import paths
from appliance.artifact import (
    RECORDS_DIR,
    Artifact,
    Expected,
    Fetch,
    FetchFile,
    FetchImage,
    record_path,
    recorded_files,
)
from appliance.errors import ArtifactRefused, FileError, NotText, OnekeError, raise_all
from appliance.plan import Change
from appliance.system import System
from appliance.system.together import run_together

AT_ONCE = 4

T = TypeVar("T")

_IN_PLACE = paths.IMAGE_DIR / "in-place.json"
_MIB = 1024 * 1024
# What an image must have left when all is in place.
_SPARE_BYTES = 256 * _MIB


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
        recorded = [path for label in labels for path in recorded_files(system, label)]
        others = [one for one in (*files, *recorded) if str(one) not in wanted["files"]]
        return [one for one in others if system.files.state(one) is not None]

    def find_freed(self, system: System) -> dict[int, int]:
        """Return how many bytes their removal will free, by the disk they are on."""
        freed: dict[int, int] = {}
        for path in set(self._others(system)):
            device = system.bulk.room(path.parent).device
            freed[device] = freed.get(device, 0) + system.bulk.size(path)
        return freed

    def apply(self, system: System) -> None:
        """Remove them, then their records, then remember what is there."""
        wanted = self._wanted
        for path in self._others(system):
            system.files.remove(path)
        for label in self._remembered(system).get("records", ()):
            if label not in wanted["records"]:
                system.files.remove(record_path(label))
        system.files.write(_IN_PLACE, json.dumps(wanted, indent=1) + "\n", mode=0o600)


@dataclass(frozen=True)
class FetchAll:
    """Artifacts, some at a time: an action of a plan.

    Everything that is missing is asked for before anything is fetched, and every problem is told.

    Attributes:
        others: What the plan removes before.
    """

    fetches: tuple[Fetch, ...]
    at_once: int = AT_ONCE
    others: ForgetOthers | None = None

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
        freed = self.others.find_freed(system) if self.others else {}
        raise_all([*errors, *_find_no_room(system, expected, freed)])

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


def _find_no_room(
    system: System, expected: Sequence[Expected], freed: Mapping[int, int]
) -> list[FileError]:
    """Add up what goes to the same disk; downloads pass through a folder that may be elsewhere."""
    passed = system.bulk.room(paths.DOWNLOADS_DIR)
    needed: dict[int, int] = {}
    folders: dict[int, PurePosixPath] = {}
    for one in expected:
        device = system.bulk.room(one.folder).device
        folders.setdefault(device, one.folder)
        kept_bytes = min(one.kept_bytes, one.download_bytes)
        in_place = one.download_bytes * one.times
        is_passed = device == passed.device
        rest = in_place - kept_bytes if is_passed else in_place
        needed[device] = needed.get(device, _SPARE_BYTES) + rest
        if not is_passed:
            folders.setdefault(passed.device, paths.DOWNLOADS_DIR)
            rest = one.download_bytes - kept_bytes
            needed[passed.device] = needed.get(passed.device, 0) + rest
    needed = {device: size - freed.get(device, 0) for device, size in needed.items()}
    return [
        FileError(
            f"{folder}: {free // _MIB} MiB are free, and the artifacts take about"
            f" {needed[device] // _MIB} MiB",
            hint="make the disk larger",
        )
        for device, folder in folders.items()
        if (free := system.bulk.room(folder).free_bytes) < needed[device]
    ]


def _remove_unfinished(system: System) -> None:
    """Remove what a run that was cut left of its records: the files beside them."""
    for folder in (paths.IMAGE_DIR, RECORDS_DIR):
        for name in system.bulk.list_names(folder):
            if name.startswith("."):
                system.files.remove(folder / name)
