"""Snapshots of etcd: files of all keys, and an ETCDSnapshotFile for each.

The files are JSON of the double's own, so that a restore needs nothing but etcd itself.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import threading
import time
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import paths
from .cron import last_due, parse_schedule
from .etcd import Etcd, EtcdError
from .journal import error, event, info
from .knobs import Knobs
from .start import Start
from .store import Conflict, NotFound, Object, Store, timestamp

FILES = "etcdsnapshotfiles.k3s.cattle.io"
DEFAULT_FOLDER = paths.DATA / "server" / "db" / "snapshots"
BOOTSTRAP = paths.DATA / "server" / "db" / "etcd" / "bootstrap.json"
_SECRET_KEYS = ("etcd-s3-bucket", "etcd-s3-endpoint", "etcd-s3-region", "etcd-s3-folder")


class SnapshotError(Exception):
    """A snapshot can not be made, found or removed; the text says why."""


class Snapshots:
    """The snapshots of one server."""

    def __init__(self, start: Start, store: Store, knobs: Knobs) -> None:
        self._start = start
        self._store = store
        self._knobs = knobs
        self._lock = threading.Lock()

    @property
    def folder(self) -> Path:
        """Where they are."""
        return Path(str(self._start.values.get("etcd-snapshot-dir") or DEFAULT_FOLDER))

    def run(self) -> None:
        """Make them as they are due, for ever."""
        text = str(self._start.values.get("etcd-snapshot-schedule-cron") or "")
        if self._start.values.get("etcd-disable-snapshots") or not text:
            return
        schedule = parse_schedule(text)
        seen = int(time.time() / self._knobs.interval("minute"))
        while True:
            time.sleep(min(1.0, self._knobs.interval("minute") / 2))
            now = int(time.time() / self._knobs.interval("minute"))
            due = last_due(schedule, min(seen, now), now)
            seen = now
            if due is not None:
                self._make_scheduled()

    def _make_scheduled(self) -> None:
        name = str(self._start.values.get("etcd-snapshot-name") or "etcd-snapshot")
        try:
            self.save(name)
            self.prune(name, int(str(self._start.values.get("etcd-snapshot-retention", 5))))
        except (SnapshotError, EtcdError, OSError) as trouble:
            error(f"Failed to save snapshot: {trouble}")

    # --- what can be asked ------------------------------------------------------------------

    def save(self, name: str) -> str:
        """Make one now; its name.

        Raises:
            SnapshotError: If it can not be made.
        """
        with self._lock:
            made = f"{name}-{self._start.name}-{int(time.time())}"
            zipped = bool(self._start.values.get("etcd-snapshot-compress"))
            file = self.folder / (f"{made}.zip" if zipped else made)
            if file.exists():
                raise SnapshotError(f"snapshot {file.name} exists already")
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            data = dump(self._store.etcd)
            paths.write(file, gzip.compress(data) if zipped else data)
            self._note(file.name, f"file://{file}", len(data), None)
            if self._start.values.get("etcd-s3"):
                self._upload(file.name, len(data))
        info(f"Saved etcd snapshot {file.name}")
        event("snapshot.saved", snapshot=file.name)
        return file.name

    def listed(self) -> list[Object]:
        """All that the cluster knows of, of any server."""
        return sorted(self._store.all(FILES), key=lambda one: str(one["spec"]["snapshotName"]))

    def delete(self, name: str) -> None:
        """Remove one.

        Raises:
            SnapshotError: If there is none of that name on this server.
        """
        file = self.folder / name
        if not file.is_file() or not file.resolve().is_relative_to(self.folder.resolve()):
            raise SnapshotError(f"snapshot {name} not found")
        file.unlink()
        for place in ("local", "s3"):
            with contextlib.suppress(NotFound):
                self._store.delete(FILES, "", _object_name(place, name))
        info(f"Snapshot {name} deleted.")
        event("snapshot.deleted", snapshot=name)

    def prune(self, name: str, kept: int) -> list[str]:
        """Remove the oldest of this name and server but so many; the names of those removed."""
        prefix = f"{name}-{self._start.name}-"
        files = [file for file in self.folder.glob(f"{prefix}*") if file.is_file()]
        files.sort(key=lambda file: int(file.name.removeprefix(prefix).removesuffix(".zip")))
        gone = [file.name for file in files[: max(0, len(files) - kept)]]
        for each in gone:
            self.delete(each)
        return gone

    # --- inside -----------------------------------------------------------------------------

    def _upload(self, name: str, size: int) -> None:
        """Tell of the copy in an object store; nothing is sent anywhere."""
        told, source = self._bucket()
        spec = {key.removeprefix("etcd-s3-"): str(told.get(key, "")) for key in _SECRET_KEYS}
        trouble = "" if spec["bucket"] else "s3 bucket name was not set"
        location = f"s3://{spec['bucket']}/{name}"
        self._note(name, location, size, spec, trouble)
        event("snapshot.uploaded", snapshot=name, source=source, error=trouble, **spec)

    def _bucket(self) -> tuple[Mapping[str, Any], str]:
        """Where copies go: by the configuration, else by the Secret it names."""
        values = self._start.values
        secret_name = str(values.get("etcd-s3-config-secret") or "")
        if values.get("etcd-s3-bucket") or not secret_name:
            return values, "config"
        secret = self._store.find("secrets", "kube-system", secret_name) or {}
        data = secret.get("data") or {}
        return {key: b64decode(value).decode() for key, value in data.items()}, "secret"

    def _note(
        self, name: str, location: str, size: int, s3: Mapping[str, str] | None, trouble: str = ""
    ) -> None:
        now = timestamp()
        obj: Object = {
            "metadata": {"name": _object_name("s3" if s3 else "local", name)},
            "spec": {
                "snapshotName": name,
                "nodeName": "s3" if s3 else self._start.name,
                "location": location,
                **({"s3": dict(s3)} if s3 else {}),
            },
            "status": {"creationTime": now, "size": str(size), "readyToUse": not trouble},
        }
        if trouble:
            obj["status"]["error"] = {"time": now, "message": trouble}
        with contextlib.suppress(Conflict):
            self._store.create(FILES, "", obj)


def dump(etcd: Etcd) -> bytes:
    """All keys of a cluster, and what its CAs are kept with."""
    keys = {entry.key: entry.value for entry in etcd.below("/registry/")}
    return json.dumps({"bootstrap": BOOTSTRAP.read_text(), "keys": keys}).encode()


def load(file: Path) -> tuple[str, dict[str, str]]:
    """The bootstrap data and the keys of a snapshot.

    Raises:
        SnapshotError: If the file is none.
    """
    try:
        data = file.read_bytes()
        told = json.loads(gzip.decompress(data) if file.suffix == ".zip" else data)
        return str(told["bootstrap"]), dict(told["keys"])
    except FileNotFoundError:
        raise SnapshotError(f"etcd: snapshot path does not exist: {file}") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as trouble:
        raise SnapshotError(f"{file} is not a valid etcd snapshot: {trouble}") from None


def _object_name(place: str, name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{place}-{name.lower().replace('_', '-')}-{digest}"
