"""Writing the lock: what is published about releases is read, and nothing is made up.

What can not be read keeps the sum that was pinned for the very same address, else it is empty. What
was published anew under its old name keeps the old sum, too: to accept it is a person's decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import yaml

from appliance.component import Chart
from appliance.errors import ArtifactRefused, LockFileError, OnekeError
from appliance.fetch import AT_ONCE
from appliance.imagecontent import ARCHES, FileArtifact, ImageList, fill_name, fill_url
from appliance.lock import Lock, Pin, Sources
from appliance.service import Service
from appliance.system import System
from appliance.system.together import run_together
from appliance.yamltext import parse_yaml

_SUMS_LIMIT = 1024 * 1024
_INDEX_LIMIT = 64 * 1024 * 1024
_SUM = re.compile(r"(?P<sum>[0-9a-fA-F]{64})(?:\s+[ *]?(?P<name>\S+))?\s*\Z")
_REFERENCE = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?(?:/[A-Za-z0-9._-]+)*:[A-Za-z0-9._-]+\Z")

READ = "read"
KEPT = "kept"
EMPTY = "empty"
CHANGED = "changed"

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What became of one pin.

    Attributes:
        verdict: `READ`; `KEPT` where it could not be read and was known; `EMPTY` where it was not
            known either; `CHANGED` where something else is published than is pinned, and the pin
            was kept.
        reason: Why it could not be read, or what is published in place of what is pinned.
    """

    subject: str
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Locked:
    """A lock with what became of each of its pins.

    Attributes:
        plain: The hosts that were asked without TLS: what they say is nobody's word but theirs.
    """

    lock: Lock
    findings: tuple[Finding, ...]
    plain: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is empty."""
        return all(one.verdict != EMPTY for one in self.findings)

    @property
    def is_in_doubt(self) -> bool:
        """Whether something was published anew, which a person has to judge."""
        return any(one.verdict == CHANGED for one in self.findings)


def find_releases(services: Mapping[str, Service], chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the version of every release: what drop-ins say, unless another is chosen.

    Raises:
        LockFileError: A release is chosen that nobody declares.
    """
    releases: dict[str, str] = {}
    for service in services.values():
        releases |= service.image.releases
        if service.component and service.component.chart:
            releases[service.component.chart.name] = service.chart_version
    unknown = sorted(set(chosen) - set(releases))
    if unknown:
        raise LockFileError(
            f"no release {', '.join(unknown)}; there are {', '.join(sorted(releases))}"
        )
    return {**releases, **chosen}


class LockWriter:
    """Reads what is published, several things at a time."""

    def __init__(self, system: System, sources: Sources, old: Lock) -> None:
        """Read through mirrors, and keep what is known."""
        self._system = system
        self._sources = sources
        self._old = old
        self._findings: list[Finding] = []
        self._texts: dict[str, str | OnekeError] = {}
        self._plain: set[str] = set()

    def write(self, services: Mapping[str, Service], releases: Mapping[str, str]) -> Locked:
        """Return the lock of some releases."""
        self._findings, self._plain = [], set()
        self._read_ahead(services, releases)
        files = [file for service in services.values() for file in service.image.files]
        charts = [
            service.component.chart
            for service in services.values()
            if service.component and service.component.chart
        ]
        lock = Lock(
            releases=dict(releases),
            files={
                file.name: {
                    arch: self._pin_file(file, releases[file.release], arch) for arch in ARCHES
                }
                for file in files
            },
            charts={chart.name: self._pin_chart(chart, releases) for chart in charts},
            images=self._pin_images(services, releases),
        )
        return Locked(lock, tuple(self._findings), tuple(sorted(self._plain)))

    def _read_ahead(self, services: Mapping[str, Service], releases: Mapping[str, str]) -> None:
        """Read every text that tells sums or images, each once, some at a time."""
        limits: dict[str, int] = {}
        for service in services.values():
            for file in service.image.files:
                for arch in ARCHES:
                    limits[fill_url(file.sums, releases[file.release], arch)] = _SUMS_LIMIT
            for listed in service.image.lists:
                limits[fill_url(listed.url, releases[listed.release], "")] = _SUMS_LIMIT
            if service.component and service.component.chart:
                limits[_index_of(service.component.chart)] = _INDEX_LIMIT
        found = run_together(
            [partial(self._read_text, url, limit) for url, limit in limits.items()],
            AT_ONCE,
            stop=self._system.downloads.stop,
        )
        self._texts = dict(zip(limits, found, strict=True))

    def _read_text(self, url: str, limit: int) -> str:
        source = self._sources.url(url)
        if source.startswith("http://"):
            self._plain.add(urlsplit(source).netloc)
        data = self._system.downloads.read(source, limit=limit)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactRefused(f"{url}: is no text") from error

    def _text(self, url: str) -> str:
        text = self._texts[url]
        if isinstance(text, OnekeError):
            raise text
        return text

    def _pin_file(self, file: FileArtifact, version: str, arch: str) -> Pin:
        url = fill_url(file.url, version, arch)
        sums = fill_url(file.sums, version, arch)
        old = self._old.files.get(file.name, {}).get(arch, Pin("", ""))

        def read() -> Pin:
            return Pin(url, find_sum(self._text(sums), url.rpartition("/")[2], sums))

        kept = old if old.url == url else Pin("", "")
        found = self._try(f"{file.name} for {arch}", read, kept)
        return found if found.url else Pin(url, "")

    def _pin_chart(self, chart: Chart, releases: Mapping[str, str]) -> Pin:
        version = releases[chart.name]
        index_url = _index_of(chart)
        is_same = self._old.releases.get(chart.name) == version

        def read() -> Pin:
            return find_chart(self._text(index_url), chart.name, version, index_url)

        kept = self._old.charts.get(chart.name, Pin("", "")) if is_same else Pin("", "")
        return self._try(f"chart {chart.name} {version}", read, kept)

    def _pin_images(
        self, services: Mapping[str, Service], releases: Mapping[str, str]
    ) -> dict[str, dict[str, str]]:
        images: dict[str, dict[str, str]] = {}
        for service in services.values():
            for one in service.image.images:
                reference = fill_name(one.reference, releases[one.release], "")
                images.setdefault(one.release, {})[reference] = ""
            for listed in service.image.lists:
                version = releases[listed.release]
                found = self._read_list(listed, version, set(images.get(listed.release, {})))
                images.setdefault(listed.release, {}).update(found)
        return {release: self._pin_digests(release, found) for release, found in images.items()}

    def _read_list(self, listed: ImageList, version: str, others: set[str]) -> dict[str, str]:
        """Return what is listed, with the images of the release that are declared left out."""
        url = fill_url(listed.url, version, "")
        is_same = self._old.releases.get(listed.release) == version
        known = self._old.images.get(listed.release, {}) if is_same else {}
        kept = {reference: "" for reference in known if reference not in others}

        def read() -> dict[str, str]:
            found = find_references(self._text(url), url)
            return {reference: "" for reference in found if reference not in others}

        return self._try(f"images of {listed.release} {version}", read, kept)

    def _pin_digests(self, release: str, references: Mapping[str, str]) -> dict[str, str]:
        names = sorted(references)
        found = run_together(
            [partial(self._read_digest, name) for name in names],
            AT_ONCE,
            stop=self._system.registry.stop,
        )
        known = self._old.images.get(release, {})
        return {
            name: self._judge(f"image {name}", digest, known.get(name, ""))
            for name, digest in zip(names, found, strict=True)
        }

    def _read_digest(self, reference: str) -> str:
        source, is_plain = self._sources.image(reference)
        if is_plain:
            self._plain.add(source.partition("/")[0])
        return self._system.registry.digest(source, is_plain=is_plain)

    def _try(self, subject: str, read: Callable[[], T], kept: T) -> T:
        found: T | OnekeError
        try:
            found = read()
        except OnekeError as error:
            found = error
        return self._judge(subject, found, kept)

    def _judge(self, subject: str, found: T | OnekeError, kept: T) -> T:
        """Take what was found unless something else is known, and say what became of it."""
        is_known = bool(kept.sha256 if isinstance(kept, Pin) else kept)
        if isinstance(found, OnekeError):
            self._findings.append(Finding(subject, KEPT if is_known else EMPTY, str(found)))
            return kept
        if is_known and _content_of(found) != _content_of(kept):
            reason = f"published is {_shown(found)}, pinned is {_shown(kept)}"
            self._findings.append(Finding(subject, CHANGED, reason))
            return kept
        self._findings.append(Finding(subject, READ))
        return found


def _index_of(chart: Chart) -> str:
    return f"{chart.repo.rstrip('/')}/index.yaml"


def _content_of(pinned: object) -> object:
    """Return what vouches for a content: the same sum at another address is the same content."""
    return pinned.sha256 if isinstance(pinned, Pin) else pinned


def _shown(pinned: object) -> str:
    if isinstance(pinned, Pin):
        return pinned.sha256
    return ", ".join(pinned) if isinstance(pinned, dict) else str(pinned)


def find_sum(text: str, name: str, where: str) -> str:
    """Return the sum of a file in a published list of sums, or the only sum there is.

    Raises:
        ArtifactRefused: It is not in there.
    """
    found = [match for line in text.splitlines() if (match := _SUM.match(line.strip()))]
    named = [one for one in found if (one["name"] or "").rpartition("/")[2] == name]
    bare = [one for one in found if one["name"] is None] if len(found) == 1 else []
    sums = {one["sum"].lower() for one in (named or bare)}
    if len(sums) != 1:
        raise ArtifactRefused(f"{where}: has {len(sums) or 'no'} sums of {name}")
    return sums.pop()


def find_chart(text: str, name: str, version: str, where: str) -> Pin:
    """Return address and sum of a chart in the index of its repository.

    Raises:
        ArtifactRefused: It is not in there, or the index is none.
    """
    try:
        index = parse_yaml(text)
        listed = index["entries"][name]
        wanted = version.removeprefix("v")
        entry = next(one for one in listed if str(one["version"]).removeprefix("v") == wanted)
        url, digest = str(entry["urls"][0]), str(entry.get("digest") or "")
    except StopIteration as error:
        raise ArtifactRefused(f"{where}: has no {name} {version}") from error
    except (yaml.YAMLError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ArtifactRefused(f"{where}: is no index of charts that holds {name}") from error
    match = _SUM.match(digest.removeprefix("sha256:"))
    if not match:
        raise ArtifactRefused(f"{where}: has no digest of {name} {version}")
    address = urljoin(where, url)
    if not address.startswith(("https://", "http://")):
        raise ArtifactRefused(f"{where}: {name} {version} is at {address}, which is not HTTP")
    return Pin(address, match["sum"].lower())


def find_references(text: str, where: str) -> Iterator[str]:
    """Yield the images of a published list, each with its registry.

    Raises:
        ArtifactRefused: It is no such list.
    """
    lines = [line.strip() for line in text.splitlines()]
    named = [line for line in lines if line and not line.startswith("#")]
    if not named or not all(map(_REFERENCE.match, named)):
        raise ArtifactRefused(f"{where}: is no list of images")
    for line in named:
        host, slash, _ = line.partition("/")
        has_host = slash and ("." in host or ":" in host or host == "localhost")
        # What Docker leaves out: its own registry, and there its own library.
        yield line if has_host else f"docker.io/{line if slash else f'library/{line}'}"
