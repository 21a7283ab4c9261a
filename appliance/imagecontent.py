"""What a drop-in needs in the image that nodes boot from, as its image.yaml declares it.

An image.yaml has `releases` (what is fetched by version), `files` (fetched by address), `images`
and `lists` of images (fetched from registries), `links` (to what is there later), `image_folder`
(below which archives of images are kept, said by one drop-in for all; those of a drop-in lie in a
folder of its name), `nodes` (what kinds of nodes need its archives) and `needs` (what packages must
have brought). The sums are not here: the lock has them. In an address `{version}` is that of the
release, and `{arch}` the machine's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath
from string import Formatter
from typing import Any
from urllib.parse import quote

from appliance.errors import ServiceDefinitionError
from appliance.shape import checked_each, checked_mapping, checked_texts

FILE = "image.yaml"
ARCHES = ("amd64", "arm64")

_KEYS = frozenset(
    {"releases", "files", "images", "lists", "links", "image_folder", "nodes", "needs"}
)
_FILE_KEYS = frozenset({"name", "release", "url", "sums", "unpack", "into", "pick", "flavors"})
_IMAGE_KEYS = frozenset({"release", "reference"})
_LIST_KEYS = frozenset({"release", "url"})
_NEED_KEYS = frozenset({"programs", "units", "enabled", "modules", "files"})
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*\Z")
_URL = re.compile(r"https?://[^\s/@]+/\S+\Z")
_REFERENCE = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._{}-]+)+:[A-Za-z0-9._{}-]+\Z")
_IN_PLACE = frozenset({"version", "arch"})


class NodeKind(Enum):
    """What a node is to the pods of a component.

    Attributes:
        MASTER: A master, whatever it keeps off.
        OPEN_MASTER: A master that ordinary pods may come to.
    """

    MASTER = "master"
    OPEN_MASTER = "open-master"
    WORKER = "worker"
    STORAGE = "storage"

    @property
    def role(self) -> str:
        """The role of such a node."""
        return NodeKind.MASTER.value if self is NodeKind.OPEN_MASTER else self.value


class Flavor(Enum):
    """What an image brings along.

    Attributes:
        CE: Programs and charts; nodes fetch the images of containers when they need them.
        EE: All images of containers as well.
    """

    CE = "ce"
    EE = "ee"


@dataclass(frozen=True)
class FileArtifact:
    """A file that is fetched by its address.

    Attributes:
        name: What the lock calls it.
        release: What its version is that of.
        url: Where it is.
        sums: Where its sum is published: a list of sums with names, or one sum.
        into: The folder it goes to, or whose content it holds.
        is_archive: Whether it is unpacked there.
        picked: Of an archive, the only members to take with the names they get; empty for all.
        flavors: The images it belongs to.
    """

    name: str
    release: str
    url: str
    sums: str
    into: PurePosixPath
    is_archive: bool
    picked: tuple[tuple[str, str], ...]
    flavors: tuple[Flavor, ...]


@dataclass(frozen=True)
class ImageArtifact:
    """An image of containers that is fetched from its registry, for images of flavor EE."""

    release: str
    reference: str


@dataclass(frozen=True)
class ImageList:
    """A published list of a release's images, one a line, read when the lock is written."""

    release: str
    url: str


@dataclass(frozen=True)
class Needs:
    """What packages must have brought.

    Attributes:
        programs: By name; they are looked for where the agent's commands are.
        units: Of systemd, whether they are on or off.
        enabled: Of systemd, on at boot.
        modules: Of the kernel, built in or loadable.
        files: By path, whatever they hold.
    """

    programs: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    enabled: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageContent:
    """What one drop-in needs in the image.

    Attributes:
        releases: Name to version.
        links: Names to where they lead, which may be there only on some nodes, and later.
        image_folder: Below which archives of images are kept; None where another drop-in says so.
        nodes: The kinds of nodes that need its archives.
    """

    releases: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FileArtifact, ...] = ()
    images: tuple[ImageArtifact, ...] = ()
    lists: tuple[ImageList, ...] = ()
    links: Mapping[PurePosixPath, PurePosixPath] = field(default_factory=dict)
    image_folder: PurePosixPath | None = None
    nodes: tuple[NodeKind, ...] = tuple(NodeKind)
    needs: Needs = field(default_factory=Needs)

    def used_releases(self) -> frozenset[str]:
        """Return the releases that anything here is of."""
        every: tuple[FileArtifact | ImageArtifact | ImageList, ...]
        every = (*self.files, *self.images, *self.lists)
        return frozenset(one.release for one in every)


def parse_image_content(document: object, where: str) -> ImageContent:
    """Read an image.yaml.

    Raises:
        ServiceDefinitionError: It is not well formed.
    """
    found = checked_mapping(document, _KEYS, where)
    folder = found.get("image_folder")
    return ImageContent(
        releases=_releases(found.get("releases", {}), where),
        files=checked_each(found, "files", where, lambda one: _file(one, where)),
        images=checked_each(found, "images", where, lambda one: _image(one, where)),
        lists=checked_each(found, "lists", where, lambda one: _list(one, where)),
        links=_links(found.get("links", {}), f"{where}: links"),
        image_folder=None if folder is None else _absolute(folder, f"{where}: image_folder"),
        nodes=_nodes(found, where),
        needs=_needs(found.get("needs", {}), f"{where}: needs"),
    )


def fill_url(template: str, version: str, arch: str) -> str:
    """Return an address: a plus in a version is a blank to some servers unless it is quoted."""
    return template.format(version=quote(version, safe=""), arch=arch)


def fill_name(template: str, version: str, arch: str) -> str:
    """Return a name with a version in it as it is."""
    return template.format(version=version, arch=arch)


def find_image_folder(contents: Iterable[ImageContent]) -> PurePosixPath | None:
    """Return the folder below which archives of images are kept, as one of the drop-ins says."""
    return next((one.image_folder for one in contents if one.image_folder), None)


def brings_images(content: ImageContent, folder: PurePosixPath | None) -> bool:
    """Say whether a drop-in has archives in an image that has all of them.

    Args:
        content: What it needs in the image.
        folder: Below which archives are kept; None for nowhere.
    """
    files = (file.into for file in content.files)
    is_kept = folder is not None and any(into.is_relative_to(folder) for into in files)
    return is_kept or bool(content.images) or bool(content.lists)


def _nodes(found: Mapping[str, Any], where: str) -> tuple[NodeKind, ...]:
    try:
        nodes = tuple(NodeKind(one) for one in found.get("nodes", list(NodeKind)))
    except (TypeError, ValueError):
        nodes = ()
    if not nodes:
        known = ", ".join(kind.value for kind in NodeKind)
        raise ServiceDefinitionError(f"{where}: nodes must be a list of {known}")
    return nodes


def _releases(item: object, where: str) -> dict[str, str]:
    if not isinstance(item, dict) or not all(
        isinstance(name, str) and _NAME.match(name) and isinstance(version, str) and version
        for name, version in item.items()
    ):
        raise ServiceDefinitionError(f"{where}: releases must map names to quoted versions")
    return dict(item)


def _file(item: object, where: str) -> FileArtifact:
    found = checked_mapping(item, _FILE_KEYS, f"{where}: files")
    name = _text(found, "name", _NAME, where)
    where = f"{where}: {name}"
    if ("unpack" in found) == ("into" in found):
        raise ServiceDefinitionError(f"{where}: expected either unpack or into")
    is_archive = "unpack" in found
    picked = found.get("pick", {})
    if not isinstance(picked, dict) or (picked and not is_archive):
        raise ServiceDefinitionError(f"{where}: pick must map members of an archive to names")
    for member, given in picked.items():
        _refuse_other_places(str(member), where)
        if PurePosixPath(str(given)).is_absolute() or ".." in PurePosixPath(str(given)).parts:
            raise ServiceDefinitionError(
                f"{where}: pick: {given}: expected a name below the folder"
            )
    return FileArtifact(
        name=name,
        release=_text(found, "release", _NAME, where),
        url=_text(found, "url", _URL, where),
        sums=_text(found, "sums", _URL, where),
        into=_absolute(found.get("unpack", found.get("into")), where),
        is_archive=is_archive,
        picked=tuple((str(member), str(given)) for member, given in picked.items()),
        flavors=_flavors(found, where),
    )


def _flavors(found: Mapping[str, Any], where: str) -> tuple[Flavor, ...]:
    listed = found.get("flavors", [flavor.value for flavor in Flavor])
    try:
        flavors = tuple(Flavor(one) for one in listed)
    except (TypeError, ValueError):
        flavors = ()
    if not flavors:
        raise ServiceDefinitionError(f"{where}: flavors must be a list of ce and ee")
    return flavors


def _image(item: object, where: str) -> ImageArtifact:
    found = checked_mapping(item, _IMAGE_KEYS, f"{where}: images")
    return ImageArtifact(
        _text(found, "release", _NAME, where), _text(found, "reference", _REFERENCE, where)
    )


def _list(item: object, where: str) -> ImageList:
    found = checked_mapping(item, _LIST_KEYS, f"{where}: lists")
    return ImageList(_text(found, "release", _NAME, where), _text(found, "url", _URL, where))


def _links(item: object, where: str) -> dict[PurePosixPath, PurePosixPath]:
    if not isinstance(item, dict):
        raise ServiceDefinitionError(f"{where}: expected a mapping, found {item!r}")
    return {_absolute(path, where): _absolute(target, where) for path, target in item.items()}


def _needs(item: object, where: str) -> Needs:
    found = checked_mapping(item, _NEED_KEYS, where)
    return Needs(**{key: checked_texts(found, key, where) for key in found})


def _absolute(item: object, where: str) -> PurePosixPath:
    if not isinstance(item, str) or not PurePosixPath(item).is_absolute():
        raise ServiceDefinitionError(f"{where}: expected an absolute path, found {item!r}")
    return PurePosixPath(item)


def _text(found: Mapping[str, Any], key: str, form: re.Pattern[str], where: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not form.match(value):
        raise ServiceDefinitionError(f"{where}: {key}: {value!r} is not of the form expected")
    _refuse_other_places(value, f"{where}: {key}")
    return value


def _refuse_other_places(template: str, where: str) -> None:
    """Refuse what would not be filled in later."""
    try:
        places = [place[1:] for place in Formatter().parse(template) if place[1] is not None]
    except ValueError as error:
        raise ServiceDefinitionError(f"{where}: {template!r}: {error}") from error
    if any(name not in _IN_PLACE or form or conversion for name, form, conversion in places):
        raise ServiceDefinitionError(f"{where}: {template!r}: only version and arch are filled in")


def check_image_contents(contents: Mapping[str, ImageContent], charts: Mapping[str, str]) -> None:
    """Check what drop-ins say of the same things.

    Args:
        contents: By the name of their drop-in.
        charts: The releases that are charts, to their drop-in.

    Raises:
        ServiceDefinitionError: A release is nobody's or two's, or an artifact has two homes: two
            would remove each other's in turn.
    """
    _refuse_two("release", [*charts.items(), *_pairs(contents, lambda one: tuple(one.releases))])
    _refuse_two("file", _pairs(contents, lambda one: tuple(file.name for file in one.files)))
    _refuse_two("link", _pairs(contents, lambda one: tuple(map(str, one.links))))
    _refuse_two("images of release", _pairs(contents, _releases_of_images))
    versions = dict(pair for one in contents.values() for pair in one.releases.items())
    _refuse_two("image", _pairs(contents, lambda one: _references(one, versions)))
    folders = [name for name, one in contents.items() if one.image_folder]
    if len(folders) > 1:
        raise ServiceDefinitionError(f"image_folder: said by {' and by '.join(folders)}")
    known = {*charts, *(release for one in contents.values() for release in one.releases)}
    for name, content in contents.items():
        unknown = sorted(content.used_releases() - known)
        if unknown:
            raise ServiceDefinitionError(f"{name}: {FILE}: no release {', '.join(unknown)}")
        if (content.images or content.lists) and not folders:
            raise ServiceDefinitionError(f"{name}: {FILE}: no drop-in says an image_folder")


def _releases_of_images(content: ImageContent) -> tuple[str, ...]:
    """Return the releases whose images go to the folder of one drop-in, all of them."""
    every: tuple[ImageArtifact | ImageList, ...] = (*content.images, *content.lists)
    return tuple(sorted({one.release for one in every}))


def _references(content: ImageContent, versions: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is declared; the versions of charts are nothing to compare by here."""
    return tuple(
        fill_name(one.reference, versions.get(one.release, f"({one.release})"), "")
        for one in content.images
    )


def _pairs(
    contents: Mapping[str, ImageContent], names: Callable[[ImageContent], Sequence[str]]
) -> list[tuple[str, str]]:
    return [(one, name) for name, content in contents.items() for one in names(content)]


def _refuse_two(what: str, pairs: Sequence[tuple[str, str]]) -> None:
    owner: dict[str, str] = {}
    for one, name in pairs:
        if one in owner:
            raise ServiceDefinitionError(f"{what} {one}: declared by {owner[one]} and by {name}")
        owner[one] = name
