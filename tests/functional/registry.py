"""A registry of the distribution's package, with images for two kinds of machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class LocalRegistry:
    """A registry that runs.

    Attributes:
        address: `HOST:PORT`.
        storage: Where it keeps what it has.
    """

    address: str
    storage: Path

    def push(self, reference: str, texts: Mapping[str, str], folder: Path) -> str:
        """Put an image there, with a file `content` that differs by architecture.

        Args:
            reference: `NAME:TAG`.
            texts: Architecture to content.
            folder: Where the image is put together.

        Returns:
            Its digest.
        """
        digest = _write_layout(folder, texts)
        subprocess.run(
            [
                *("skopeo", "--insecure-policy", "copy", "--all", "--quiet"),
                *("--dest-tls-verify=false", f"oci:{folder}:image"),
                f"docker://{self.address}/{reference}",
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return digest

    def blob(self, digest: str) -> Path:
        """Return where it keeps a blob."""
        kind, _, value = digest.partition(":")
        blobs = self.storage / "docker/registry/v2/blobs"
        return blobs / kind / value[:2] / value / "data"

    def layer_of(self, digest: str, arch: str) -> Path:
        """Return where it keeps the layer of an image."""
        index = json.loads(self.blob(digest).read_text())
        wanted = next(
            one["digest"] for one in index["manifests"] if one["platform"]["architecture"] == arch
        )
        manifest = json.loads(self.blob(wanted).read_text())
        return self.blob(manifest["layers"][0]["digest"])


@contextmanager
def running_registry(folder: Path) -> Iterator[LocalRegistry]:
    """Run a registry until the end."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    storage = folder / "storage"
    settings = folder / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error}\nstorage:\n"
        f"  filesystem: {{rootdirectory: {storage}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(settings)], stdout=log, stderr=log
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/v2/")
            yield LocalRegistry(f"127.0.0.1:{port}", storage)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


def _write_layout(folder: Path, texts: Mapping[str, str]) -> str:
    """Write an OCI layout of one image."""
    manifests = [
        {**_write_image(folder, arch, text), "platform": {"os": "linux", "architecture": arch}}
        for arch, text in texts.items()
    ]
    index = _write_json(
        folder, _INDEX, {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests}
    )
    named = {**index, "annotations": {"org.opencontainers.image.ref.name": "image"}}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    return str(index["digest"])


def _write_image(folder: Path, arch: str, text: str) -> dict[str, object]:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        member = tarfile.TarInfo("content")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
    difference = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": arch,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{difference}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _write_json(folder, _CONFIG, config),
        "layers": [_write(folder, _LAYER, gzip.compress(layer.getvalue(), mtime=0))],
    }
    return _write_json(folder, _MANIFEST, manifest)


def _write_json(folder: Path, media_type: str, document: object) -> dict[str, object]:
    return _write(folder, media_type, json.dumps(document).encode())


def _write(folder: Path, media_type: str, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    path = folder / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}
