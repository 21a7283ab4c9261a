"""Image archives in `agent/images`, as `docker save` writes them, and their unpacked roots."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import paths

FOLDER = paths.DATA / "agent" / "images"
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.zst", ".tzst")
_ZSTD = (".tar.zst", ".tzst")
_known: dict[tuple[str, int, int], list[dict[str, Any]]] = {}


@dataclass(frozen=True)
class Image:
    """One image in an archive.

    Attributes:
        archive: The file.
        layers: Names of its layers in it, the lowest first.
        config: What it is to be run with: `Entrypoint`, `Cmd`, `Env`, `WorkingDir`, `User`.
    """

    archive: Path
    layers: tuple[str, ...]
    config: dict[str, Any]


def full_name(name: str) -> str:
    """An image's name with registry and tag."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    last = name.rpartition("/")[2]
    return name if ":" in last or "@" in last else f"{name}:latest"


def find_image(name: str) -> Image | None:
    """The image of a name, if one of the archives has it."""
    wanted = full_name(name)
    for archive in sorted(FOLDER.glob("*")) if FOLDER.is_dir() else []:
        if not archive.name.endswith(_ARCHIVES) or not archive.is_file():
            continue
        for told in _manifest(archive):
            if wanted in [full_name(tag) for tag in told.get("RepoTags") or []]:
                config = (_read_json(archive, told["Config"]) or {}).get("config") or {}
                return Image(archive, tuple(told["Layers"]), config)
    return None


def unpack(image: Image, root: Path) -> None:
    """Make a root of an image's layers.

    Raises:
        OSError: If the archive can not be read.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        for layer in image.layers:
            file = Path(folder) / "layer"
            _extract(image.archive, layer, file)
            _tar(["-xf", str(file), "-C", str(root), "--numeric-owner"])
            _apply_whiteouts(root)


def _apply_whiteouts(root: Path) -> None:
    for mark in root.rglob(".wh.*"):
        gone = mark.with_name(mark.name.removeprefix(".wh."))
        mark.unlink()
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone)
        else:
            gone.unlink(missing_ok=True)


def _manifest(archive: Path) -> list[dict[str, Any]]:
    status = archive.stat()
    key = (str(archive), status.st_mtime_ns, status.st_size)
    if key not in _known:
        told = _read_json(archive, "manifest.json")
        _known[key] = told if isinstance(told, list) else []
    return _known[key]


def _read_json(archive: Path, name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "content"
        try:
            _extract(archive, name, file)
            return json.loads(file.read_text())
        except (OSError, ValueError):
            return None


def _extract(archive: Path, name: str, target: Path) -> None:
    if archive.name.endswith(_ZSTD):
        done = _tar(["--zstd", "-xOf", str(archive), name])
        target.write_bytes(done)
        return
    try:
        with tarfile.open(archive) as opened:
            member = opened.extractfile(name)
            if member is None:
                raise OSError(f"{archive}: {name} is no file")
            with target.open("wb") as file:
                shutil.copyfileobj(member, file)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise OSError(f"{archive}: {error}") from None


def _tar(arguments: list[str]) -> bytes:
    done = subprocess.run(
        ["tar", *arguments], capture_output=True, check=False, env={"PATH": os.defpath}
    )
    if done.returncode != 0:
        raise OSError(done.stderr.decode(errors="replace").strip())
    return done.stdout
