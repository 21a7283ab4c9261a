"""A little world that has all that an image's build fetches: releases, charts, and images.

It is laid out as the real ones are, on a mirror and in a registry of this machine.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from appliance.imagecontent import ARCHES
from appliance.lock import Lock, Sources, parse_sources
from appliance.locking import Locked, LockWriter, find_releases
from appliance.service import Service
from appliance.system import System
from tests.functional.mirror import Mirror, running_mirror
from tests.functional.registry import LocalRegistry, running_registry

RKE2 = "/github.com/rancher/rke2/releases/download/v1.35.7+rke2r1"
_HERE = "127.0.0.1"
IMAGES = ("core", "canal", "calico", "cilium", "flannel", "multus")
PROXY_IMAGE = "docker.io/library/traefik:v3.5.1"
LONGHORN = ("longhornio/longhorn-manager:v1.9.1", "longhornio/csi-attacher:v4.9.0")
OTHERS = (
    PROXY_IMAGE,
    "quay.io/metallb/controller:v0.15.2",
    "quay.io/metallb/speaker:v0.15.2",
    "quay.io/frrouting/frr:9.1.0",
)


@dataclass(frozen=True)
class Upstream:
    """Where all of it is."""

    mirror: Mirror
    registry: LocalRegistry

    @property
    def sources(self) -> Sources:
        """What a builder on this machine gives as --source."""
        return parse_sources(self.sources_at(_HERE))

    def sources_at(self, address: str) -> list[str]:
        """What a builder gives who has this machine at an address."""
        hosts = ("github.com", "get.helm.sh", "raw.githubusercontent.com", "charts.longhorn.io")
        others = ("metallb.github.io", "traefik.github.io")
        mirrors = [f"{host}={self.mirror.url}/{host}" for host in (*hosts, *others)]
        registries = [
            f"{host}=http://{self.registry.address}/{host}" for host in ("docker.io", "quay.io")
        ]
        return [text.replace(_HERE, address) for text in (*mirrors, *registries)]

    def lock(
        self, system: System, services: Mapping[str, Service], old: Lock | None = None
    ) -> Locked:
        """Write the lock of it."""
        writer = LockWriter(system, self.sources, old or Lock())
        return writer.write(services, find_releases(services, {}))


@contextmanager
def running_upstream(folder: Path) -> Iterator[Upstream]:
    """Run all of it until the end."""
    (folder / "registry").mkdir()
    with running_mirror() as mirror, running_registry(folder / "registry") as registry:
        _publish_rke2(mirror)
        _publish_helm(mirror)
        _publish_charts(mirror)
        lines = "".join(f"{reference}\n" for reference in LONGHORN)
        path = "/raw.githubusercontent.com/longhorn/longhorn/v1.9.1/deploy/longhorn-images.txt"
        mirror.files[path] = lines.encode()
        for number, reference in enumerate((*OTHERS, *(f"docker.io/{one}" for one in LONGHORN))):
            layout = folder / f"image-{number}"
            layout.mkdir()
            registry.push(reference, {arch: f"{reference} {arch}\n" for arch in ARCHES}, layout)
        yield Upstream(mirror, registry)


def make_archive(members: Mapping[str, tuple[str, int]]) -> bytes:
    """Make a compressed archive of texts with modes; folders come before what is in them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        folders = sorted({str(parent) for name in members for parent in Path(name).parents} - {"."})
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(entry)
        for name, (text, mode) in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), mode
            tar.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(packed.getvalue(), mtime=0)


def _publish_rke2(mirror: Mirror) -> None:
    for arch in ARCHES:
        files = {
            f"rke2.linux-{arch}.tar.gz": make_archive(
                {
                    "bin/rke2": (f"rke2 for {arch}\n" * 5000, 0o755),
                    "bin/rke2-killall.sh": ("#!/bin/sh\n", 0o755),
                    "lib/systemd/system/rke2-server.service": ("[Unit]\n", 0o644),
                    "share/rke2/LICENSE.txt": ("...\n", 0o644),
                }
            )
        }
        for name in IMAGES:
            text = f"images of {name} for {arch}\n" * 20_000
            files[f"rke2-images-{name}.linux-{arch}.tar.zst"] = text.encode()
        sums = "".join(f"{sum_of(data)}  {name}\n" for name, data in files.items())
        # The list has files that nobody fetches here as well.
        files[f"sha256sum-{arch}.txt"] = (sums + f"{'0' * 64}  rke2.exe\n").encode()
        mirror.files |= {f"{RKE2}/{name}": data for name, data in files.items()}


def _publish_helm(mirror: Mirror) -> None:
    for arch in ARCHES:
        name = f"helm-v3.18.6-linux-{arch}.tar.gz"
        data = make_archive(
            {
                f"linux-{arch}/helm": (f"helm for {arch}\n", 0o755),
                f"linux-{arch}/README.md": ("Read me\n", 0o644),
            }
        )
        mirror.files[f"/get.helm.sh/{name}"] = data
        mirror.files[f"/get.helm.sh/{name}.sha256sum"] = f"{sum_of(data)}  {name}\n".encode()


def _publish_charts(mirror: Mirror) -> None:
    # Some repositories keep archives beside the index, some elsewhere.
    charts = (
        (
            "charts.longhorn.io",
            "longhorn",
            "1.9.1",
            "https://github.com/longhorn/charts/longhorn.tgz",
        ),
        (
            "metallb.github.io/metallb",
            "metallb",
            "0.15.2",
            "https://github.com/metallb/metallb.tgz",
        ),
        ("traefik.github.io/charts", "traefik", "37.1.0", "traefik/traefik-37.1.0.tgz"),
    )
    for repository, name, version, url in charts:
        data = make_archive({f"{name}/Chart.yaml": (f"name: {name}\nversion: {version}\n", 0o644)})
        entry = {"name": name, "version": version, "urls": [url], "digest": sum_of(data)}
        older = {"name": name, "version": "0.0.1", "urls": ["old.tgz"], "digest": "f" * 64}
        index = {"apiVersion": "v1", "entries": {name: [entry, older], "other": []}}
        mirror.files[f"/{repository}/index.yaml"] = yaml.safe_dump(index).encode()
        is_absolute = url.startswith("https://")
        path = url.removeprefix("https:/") if is_absolute else f"/{repository}/{url}"
        mirror.files[path] = data


def sum_of(data: bytes) -> str:
    """Return the sum of some bytes."""
    return hashlib.sha256(data).hexdigest()
