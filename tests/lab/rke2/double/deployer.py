"""The add-on deployer: what is in `server/manifests` becomes objects of the cluster.

Source: k3s, pkg/deploy/controller.go.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .client import Api, Refused, Unreachable
from .journal import error, event, info
from .knobs import Knobs
from .kubectlfiles import NoMatch, UsageError, apply_object, documents, find_path
from .store import Object, timestamp

ADDONS = "/apis/k3s.cattle.io/v1/namespaces/kube-system/addons"
APPLIED = "objectset.rio.cattle.io/applied"
OWNER = "objectset.rio.cattle.io/owner-name"
OWNED = "rke2-double/objects"
"""Annotation of an AddOn with what it has applied, by which it knows what is to be pruned."""

_SUFFIXES = (".yaml", ".yml", ".json")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class Deployer:
    """Scans the own folder of this server, again and again."""

    def __init__(self, folder: Path, disabled: Sequence[str], api: Api, knobs: Knobs) -> None:
        self._folder = folder
        self._disabled = frozenset(disabled)
        self._api = api
        self._knobs = knobs
        self._deployed: dict[Path, int] = {}
        self._is_first = True

    def run(self) -> None:
        """Go on for ever."""
        while True:
            self.scan()
            time.sleep(self._knobs.interval("manifest_scan"))

    def scan(self) -> None:
        """Look at all files once; in the first scan all of them are applied."""
        files = sorted(_walk(self._folder))
        skipped = {file.name.removesuffix(".skip") for file in files if file.suffix == ".skip"}
        is_first, self._is_first = self._is_first, False
        for file in files:
            try:
                if self._is_disabled(file):
                    self._remove(file)
                elif _is_manifest(file) and file.name not in skipped:
                    self._look_at(file, force=is_first)
            except (Unreachable, Refused, UsageError, OSError) as trouble:
                error(f"Failed to process config: failed to process {file}: {_words(trouble)}")

    def _is_disabled(self, file: Path) -> bool:
        parts = file.relative_to(self._folder).parts
        if any("/".join(parts[:depth]) in self._disabled for depth in range(1, len(parts))):
            return True
        base = file.name
        for suffix in _SUFFIXES:
            base = base.removesuffix(suffix)
        return base in self._disabled

    def _look_at(self, file: Path, *, force: bool) -> None:
        # Of a link the time of the link counts: what it leads to may change unnoticed.
        changed = file.lstat().st_mtime_ns
        if not force and self._deployed.get(file) == changed:
            return
        self._deploy(file, compare=not force)
        self._deployed[file] = changed

    # --- one file ---------------------------------------------------------------------------

    def _deploy(self, file: Path, *, compare: bool) -> None:
        addon = self._addon(file)
        content = file.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        if compare and addon["spec"].get("checksum") == checksum:
            return
        try:
            objects = list(documents(content.decode()))
        except (UsageError, UnicodeDecodeError) as trouble:
            words = f'Parse manifest at "{file}" failed: {trouble}'
            self._tell(addon, "Warning", "ParseManifestFailed", words)
            raise UsageError(words) from None
        self._tell(addon, "Normal", "ApplyingManifest", f'Applying manifest at "{file}"')
        placed, troubles = self._apply_all(addon, objects)
        if troubles:
            words = f'Applying manifest at "{file}" failed: {"; ".join(troubles)}'
            self._tell(addon, "Warning", "ApplyManifestFailed", words)
            event("addon.failed", addon=addon["metadata"]["name"], reason="; ".join(troubles))
            raise UsageError("; ".join(troubles))
        self._prune(addon, placed)
        self._note(addon, file, checksum, placed)
        self._tell(addon, "Normal", "AppliedManifest", f'Applied manifest at "{file}"')
        event("addon.applied", addon=addon["metadata"]["name"])

    def _addon(self, file: Path) -> Object:
        """The AddOn of a file, named after it."""
        name = file.name.partition(".")[0]
        if not _NAME.fullmatch(name):
            raise UsageError(
                f'Addon.k3s.cattle.io "{name}" is invalid: metadata.name: Invalid value: "{name}": '
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters"
            )
        found: Object | None = self._api.find(f"{ADDONS}/{name}")
        if found is None:
            fresh = {"metadata": {"name": name}, "spec": {"source": str(file), "checksum": ""}}
            found = self._api.create(ADDONS, fresh)
        return found or {}

    def _apply_all(self, addon: Object, objects: Sequence[Object]) -> tuple[list[str], list[str]]:
        """Apply what can be; the paths of all, and what was wrong with some."""
        placed, troubles = [], []
        for obj in objects:
            try:
                path, place = find_path(self._api, obj)
                marked = json.loads(json.dumps(obj))
                marks = marked["metadata"].setdefault("annotations", {}) or {}
                marked["metadata"]["annotations"] = marks | {OWNER: addon["metadata"]["name"]}
                done = apply_object(self._api, path, marked, place, APPLIED)
                placed.append(place)
                if done != "unchanged":
                    event("object.applied", kind=obj["kind"], object=obj["metadata"]["name"])
            except (Refused, NoMatch, KeyError) as trouble:
                troubles.append(_words(trouble))
        return placed, list(dict.fromkeys(troubles))

    def _prune(self, addon: Object, placed: Sequence[str]) -> None:
        """Remove what an earlier version of the file brought."""
        marks = addon["metadata"].get("annotations") or {}
        for place in json.loads(marks.get(OWNED, "[]")):
            if place not in placed:
                self._delete(place)

    def _delete(self, place: str) -> None:
        try:
            self._api.delete(place)
        except Refused as refused:
            if refused.status != 404:
                raise
        else:
            event("object.pruned", path=place)

    def _note(self, addon: Object, file: Path, checksum: str, placed: Sequence[str]) -> None:
        patch = {
            "metadata": {"annotations": {OWNED: json.dumps(list(placed))}},
            "spec": {"source": str(file), "checksum": checksum},
        }
        self._api.merge(f"{ADDONS}/{addon['metadata']['name']}", patch)

    def _remove(self, file: Path) -> None:
        """Take away all that a disabled file brought, then the file."""
        if not _is_manifest(file):
            file.unlink()
            return
        name = file.name.partition(".")[0]
        addon: Object | None = self._api.find(f"{ADDONS}/{name}")
        if addon is not None:
            self._prune(addon, [])
            self._delete(f"{ADDONS}/{name}")
        file.unlink()
        info(f"Deleted disabled manifest {file}")
        event("addon.removed", addon=name)

    def _tell(self, addon: Object, kind: str, reason: str, message: str) -> None:
        """Write an Event on an AddOn; one that was there before is counted on."""
        metadata = addon["metadata"]
        digest = hashlib.sha256(f"{metadata['uid']} {reason} {message}".encode()).hexdigest()[:16]
        path = "/api/v1/namespaces/kube-system/events"
        name = f"{metadata['name']}.{digest}"
        old: Object | None = self._api.find(f"{path}/{name}")
        if old is not None:
            fresh = {"count": int(old["count"]) + 1, "lastTimestamp": timestamp()}
            self._api.merge(f"{path}/{name}", fresh)
            return
        told = {
            "metadata": {"name": name},
            "type": kind,
            "reason": reason,
            "message": message,
            "involvedObject": {
                "kind": "Addon",
                "apiVersion": "k3s.cattle.io/v1",
                "name": metadata["name"],
                "namespace": "kube-system",
                "uid": metadata["uid"],
            },
            "source": {"component": "deploy"},
            "count": 1,
            "firstTimestamp": timestamp(),
            "lastTimestamp": timestamp(),
        }
        self._api.create(path, told)


def _walk(folder: Path) -> Iterator[Path]:
    """All files, those in linked folders as well."""
    for path in folder.iterdir() if folder.is_dir() else []:
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _is_manifest(file: Path) -> bool:
    return not file.name.startswith(".") and file.name.lower().endswith(_SUFFIXES)


def _words(trouble: Any) -> str:
    if isinstance(trouble, Refused):
        try:
            return str(json.loads(trouble.body)["message"])
        except (ValueError, KeyError, TypeError):
            return trouble.body
    return str(trouble)
