"""What the stage `install` is to bring about: from drop-ins and lock to a plan, purely."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from appliance import paths
from appliance.actions import WriteFile
from appliance.artifact import Artifact, FetchArchive, FetchFile, FetchImage
from appliance.errors import LockFileError, raise_all
from appliance.fetch import FetchAll, ForgetOthers
from appliance.folderactions import SymbolicLink
from appliance.imagecontent import (
    FileArtifact,
    Flavor,
    fill_name,
    fill_url,
    find_image_folder,
)
from appliance.lock import Lock, Pin, Sources
from appliance.plan import Plan, Stage
from appliance.service import Service

_HINT = (
    "oneke-agent install --lock, on a machine that reaches where it is published, fills the lock in"
)


@dataclass(frozen=True)
class Build:
    """Which image is built.

    Attributes:
        arch: Of the machines that boot it, as Debian calls it.
        sources: The mirrors to fetch from.
    """

    flavor: Flavor
    arch: str
    sources: Sources


def build_install_plan(services: Mapping[str, Service], lock: Lock, build: Build) -> Plan:
    """Decide what is to be in place.

    Raises:
        LockFileError: The lock lacks something; a SeveralErrors where it lacks more than one.
    """
    fetches, errors = find_fetches(services, lock, build)
    raise_all(errors)
    record = {"flavor": build.flavor.value, "arch": build.arch, "releases": dict(lock.releases)}
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    record_file = WriteFile(paths.IMAGE_RECORD, text, mode=0o644)
    others = ForgetOthers(fetches)
    fetching = FetchAll(fetches, others=others)
    return Plan(Stage.INSTALL, (others, fetching, *find_links(services), record_file))


def build_links_plan(services: Mapping[str, Service]) -> Plan:
    """Decide what is to be in place of an image whose artifacts come another way."""
    return Plan(Stage.INSTALL, find_links(services))


def find_links(services: Mapping[str, Service]) -> tuple[SymbolicLink, ...]:
    """Return the links of an image, whatever else it carries."""
    every = (service.image.links for service in services.values())
    return tuple(SymbolicLink(path, target) for links in every for path, target in links.items())


def find_fetches(
    services: Mapping[str, Service], lock: Lock, build: Build
) -> tuple[tuple[Artifact, ...], tuple[LockFileError, ...]]:
    """Return every artifact of an image, and what the lock lacks of others."""
    folder = find_image_folder(one.image for one in services.values()) or paths.DOWNLOADS_DIR
    found = [
        one for service in services.values() for one in _of_service(service, lock, build, folder)
    ]
    fetches = tuple(one for one in found if not isinstance(one, LockFileError))
    missing = (one for one in found if isinstance(one, LockFileError))
    return fetches, (*missing, *_find_images_of_two(fetches))


def _find_images_of_two(fetches: Iterable[Artifact]) -> Iterator[LockFileError]:
    """Tell what no drop-in by itself does: an image of two lists, or listed and declared."""
    homes: dict[str, str] = {}
    for one in fetches:
        if not isinstance(one, FetchImage):
            continue
        home = one.path.parent.name
        other = homes.setdefault(one.reference, home)
        if other != home:
            yield LockFileError(
                f"image {one.reference}: the lock has it for {other} and for {home}",
                hint="an image has one home: leave it out of the image.yaml of one of them",
            )


def _of_service(
    service: Service, lock: Lock, build: Build, image_folder: PurePosixPath
) -> Iterator[Artifact | LockFileError]:
    for file in service.image.files:
        if build.flavor in file.flavors:
            yield _file(file, lock, build)
    if service.component and service.component.chart:
        yield _chart(service.component.chart.name, service.chart_version, lock, build)
    if build.flavor is Flavor.EE:
        yield from _images(service, lock, build, image_folder / service.name)


def _file(file: FileArtifact, lock: Lock, build: Build) -> Artifact | LockFileError:
    pin = lock.files.get(file.name, {}).get(build.arch, Pin("", ""))
    version = lock.releases.get(file.release, "")
    published = fill_url(file.sums, version, build.arch) if version else "its release"
    missing = _find_missing(f"{file.name} for {build.arch}", pin, version, published)
    if missing:
        return missing
    url = build.sources.url(pin.url)
    if not file.is_archive:
        return FetchFile(url, pin.sha256, file.into / PurePosixPath(pin.url).name)
    picked = tuple((fill_name(member, version, build.arch), given) for member, given in file.picked)
    return FetchArchive(file.name, url, pin.sha256, file.into, picked)


def _chart(name: str, wanted: str, lock: Lock, build: Build) -> Artifact | LockFileError:
    pin = lock.charts.get(name, Pin("", ""))
    version = lock.releases.get(name, "")
    missing = _find_missing(f"chart {name}", pin, version, "the chart's repository")
    if missing:
        return missing
    if version != wanted:
        return LockFileError(
            f"chart {name}: the lock has {version}, and masters deploy {wanted}", hint=_HINT
        )
    url = build.sources.url(pin.url)
    return FetchFile(url, pin.sha256, paths.CHARTS_DIR / f"{name}-{version}.tgz")


def _find_missing(what: str, pin: Pin, version: str, published: str) -> LockFileError | None:
    pairs = (("version", version), ("url", pin.url), ("sha256", pin.sha256))
    missing = [key for key, value in pairs if not value]
    if not missing:
        return None
    return LockFileError(
        f"{what}: the lock has no {' and no '.join(missing)} (see {published})", hint=_HINT
    )


def _images(
    service: Service, lock: Lock, build: Build, folder: PurePosixPath
) -> Iterator[Artifact | LockFileError]:
    listed = {one.release for one in service.image.lists}
    releases = sorted({one.release for one in service.image.images} | listed)
    for release in releases:
        images = lock.images.get(release, {})
        if not images:
            yield LockFileError(f"images of {release}: the lock has none", hint=_HINT)
        for reference, digest in sorted(images.items()):
            if digest:
                yield _image(reference, digest, build, folder)
            else:
                yield LockFileError(f"image {reference}: the lock has no digest", hint=_HINT)


def _image(reference: str, digest: str, build: Build, folder: PurePosixPath) -> FetchImage:
    source, is_plain = build.sources.image(reference)
    name = reference.replace("/", "_").replace(":", "_")
    return FetchImage(
        reference=reference,
        source=_without_tag(source),
        is_plain=is_plain,
        digest=digest,
        arch=build.arch,
        path=folder / f"{name}.tar",
    )


def _without_tag(reference: str) -> str:
    """Return `HOST:PORT/NAME` of `HOST:PORT/NAME:TAG`."""
    path, slash, last = reference.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"
