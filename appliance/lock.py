"""The lock: which release of each artifact an image gets, from where, and with which sum.

The file is YAML, written by `install --lock` and read by `install`. A sum that is not known is
empty there, and `install` refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from appliance.errors import LockFileError

FILE = "artifacts.lock.yaml"

_HEADER = """\
# Which releases an image gets. Written by `oneke-agent install --lock` on a machine that reaches
# where they are published; what could not be read there is empty, and `install` refuses it.
"""
_KEYS = frozenset({"releases", "files", "charts", "images"})
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_URL = re.compile(r"https?://[^\s/@]+/\S+\Z")
_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?"
_PREFIX = re.compile(rf"{_HOST}(?:/[^\s@?#]+)?\Z")
_MIRROR = re.compile(rf"(?:https?://)?{_HOST}(?:/[^\s@?#]*)?\Z")


@dataclass(frozen=True)
class Pin:
    """Where a file is and what its sum is; each is empty where it is not known."""

    url: str
    sha256: str


@dataclass(frozen=True)
class Lock:
    """What is pinned.

    Attributes:
        releases: Name to version.
        files: Name to architecture to pin.
        charts: Name to pin.
        images: Release to reference to digest; a digest is empty where it is not known, and a
            release has no reference where its list could not be read.
    """

    releases: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Pin]] = field(default_factory=dict)
    charts: Mapping[str, Pin] = field(default_factory=dict)
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def parse_lock(text: str, where: str) -> Lock:
    """Read a lock.

    Args:
        text: YAML.
        where: How a message names the file.

    Raises:
        LockFileError: It is not well formed.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise LockFileError(f"{where}: {' '.join(str(error).split())}") from error
    found = _mapping(document, where)
    unknown = sorted(str(key) for key in found if key not in _KEYS)
    if unknown:
        raise LockFileError(f"{where}: {', '.join(unknown)} not understood")
    parts = {key: _mapping(found.get(key) or {}, f"{where}: {key}") for key in _KEYS}
    return Lock(
        releases={
            name: _text(version, None, f"{where}: {name}")
            for name, version in parts["releases"].items()
        },
        files={
            name: {
                arch: _pin(pin, f"{where}: {name}: {arch}")
                for arch, pin in _mapping(pins, f"{where}: {name}").items()
            }
            for name, pins in parts["files"].items()
        },
        charts={name: _pin(pin, f"{where}: {name}") for name, pin in parts["charts"].items()},
        images={
            release: {
                reference: _text(digest, _DIGEST, f"{where}: {reference}")
                for reference, digest in _mapping(images or {}, f"{where}: {release}").items()
            }
            for release, images in parts["images"].items()
        },
    )


def render_lock(lock: Lock) -> str:
    """Return the text of a lock: equal locks have equal texts."""
    document = {
        "releases": dict(lock.releases),
        "files": {
            name: {arch: _rendered(pin) for arch, pin in pins.items()}
            for name, pins in lock.files.items()
        },
        "charts": {name: _rendered(pin) for name, pin in lock.charts.items()},
        "images": {release: dict(images) for release, images in lock.images.items()},
    }
    return _HEADER + yaml.safe_dump(document, sort_keys=True, width=1000)


def _rendered(pin: Pin) -> dict[str, str]:
    return {"url": pin.url, "sha256": pin.sha256}


def _pin(item: object, where: str) -> Pin:
    found = _mapping(item, where)
    return Pin(
        _text(found.get("url", ""), _URL, f"{where}: url"),
        _text(found.get("sha256", ""), _SHA256, f"{where}: sha256"),
    )


def _mapping(item: object, where: str) -> Mapping[str, Any]:
    if not isinstance(item, dict) or not all(isinstance(key, str) for key in item):
        raise LockFileError(f"{where}: expected a mapping, found {item!r}")
    return item


def _text(item: object, form: re.Pattern[str] | None, where: str) -> str:
    """Return a text of some form; an empty one is one that is not known."""
    if not isinstance(item, str) or (form and item and not form.match(item)):
        raise LockFileError(f"{where}: {item!r} is not of the form expected")
    return item


@dataclass(frozen=True)
class Sources:
    """Mirrors that stand in for what the lock names.

    Attributes:
        mirrors: A host, or a host with the beginning of a path, to the address that replaces it.
    """

    mirrors: Mapping[str, str] = field(default_factory=dict)

    def url(self, url: str) -> str:
        """Return where a file is to be fetched from."""
        found = self._find(url.partition("://")[2])
        if found is None:
            return url
        return found if "://" in found else f"https://{found}"

    def image(self, reference: str) -> tuple[str, bool]:
        """Return where an image is to be fetched from, and whether without TLS."""
        found = self._find(reference) or reference
        return found.partition("://")[2] or found, found.startswith("http://")

    def _find(self, address: str) -> str | None:
        fitting = [
            prefix
            for prefix in self.mirrors
            if address == prefix or address.startswith(f"{prefix}/")
        ]
        if not fitting:
            return None
        prefix = max(fitting, key=len)
        return self.mirrors[prefix] + address[len(prefix) :]


def parse_sources(texts: Iterable[str]) -> Sources:
    """Read what a caller gives as `PREFIX=ADDRESS`.

    Raises:
        LockFileError: One is of another form.
    """
    mirrors: dict[str, str] = {}
    for text in texts:
        prefix, _, address = text.partition("=")
        prefix = prefix.rstrip("/")
        if not _PREFIX.match(prefix) or not _MIRROR.match(address):
            raise LockFileError(
                "a source: expected PREFIX=ADDRESS, such as"
                " github.com=https://mirror.example/github or docker.io=registry.example/hub",
                hint="credentials belong into ~/.netrc, or for registries into a file that"
                " REGISTRY_AUTH_FILE names",
            )
        mirrors[prefix] = address.rstrip("/")
    return Sources(mirrors)
