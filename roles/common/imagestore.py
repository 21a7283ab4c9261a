"""What the image that this machine booted from has for RKE2, and what of it a node is offered.

RKE2 imports every archive of images that it finds in its folder, at each of its starts and before
its kubelet; where a file of a certain name is there too, only those that it has not imported yet.
Charts go into the cluster as a part of the objects that ask for them.
Source: rke2-docs, docs/install/airgap.md and docs/add-ons/import-images.md; k3s-io/k3s,
pkg/agent/containerd; k3s-io/helm-controller, pkg/apis/helm.cattle.io/v1.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from appliance import paths
from appliance.errors import FileError, NotText
from appliance.folderactions import LinkFiles, StartFile
from appliance.imagecontent import NodeKind, brings_images, find_image_folder
from appliance.plan import Action
from appliance.service import Service
from appliance.system import System
from roles.common.components import ComponentsView, needs_service

AGENT_IMAGES = PurePosixPath("/var/lib/rancher/rke2/agent/images")
IMPORT_CACHE = AGENT_IMAGES / ".cache.json"
LARGEST_CHART = 720 * 1024
"""In bytes: an object may have 1 MiB, in base64 and with its values."""

# The first release of each minor version that knows the cache of imports.
_KNOWS_CACHE = {30: 13, 31: 9, 32: 5, 33: 1}
_VERSION = re.compile(r"v1\.([0-9]{1,3})\.([0-9]{1,3})\b")


@dataclass(frozen=True)
class StoredChart:
    """A chart of the image.

    Attributes:
        content: The archive in base64; empty where it is too large for an object.
    """

    content: str


@dataclass(frozen=True)
class Stored:
    """What the image has.

    Attributes:
        archives: Drop-in to the names of its archives of images.
        charts: Name of a chart's file to the chart.
        rke2: The version of RKE2 that it was made with; empty where nobody wrote it down.
    """

    archives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    charts: Mapping[str, StoredChart] = field(default_factory=dict)
    rke2: str = ""


@dataclass(frozen=True)
class ImageStore:
    """A look at what the image has.

    Attributes:
        folder: Below which archives of images are; None for nowhere.
        drop_ins: Whose archives are looked for.
        charts: The names of files of charts to read.
    """

    folder: PurePosixPath | None
    drop_ins: tuple[str, ...]
    charts: tuple[str, ...] = ()

    def look(self, system: System) -> Stored:
        """Look once."""
        names = {one: self._archives_of(one, system) for one in self.drop_ins}
        charts = {name: _read_chart(name, system) for name in self.charts}
        return Stored(
            archives={one: found for one, found in names.items() if found},
            charts={name: found for name, found in charts.items() if found},
            rke2=_read_version(system),
        )

    def _archives_of(self, drop_in: str, system: System) -> tuple[str, ...]:
        return system.bulk.list_names(self.folder / drop_in) if self.folder else ()


def _read_chart(name: str, system: System) -> StoredChart | None:
    path = paths.CHARTS_DIR / name
    if system.files.state(path) is None:
        return None
    try:
        data = system.files.read_bytes(path, limit=LARGEST_CHART)
    except FileError:
        return StoredChart("")
    return StoredChart(base64.b64encode(data or b"").decode())


def _read_version(system: System) -> str:
    try:
        record = json.loads(system.files.read(paths.IMAGE_RECORD) or "null")
        return str(record["releases"]["rke2"])
    except (NotText, ValueError, KeyError, TypeError):
        return ""


# ---- decisions


def image_store(services: Mapping[str, Service], charts: Sequence[str] = ()) -> ImageStore:
    """Name what is looked at: the archives of all drop-ins, and these charts."""
    folder = find_image_folder(one.image for one in services.values())
    names = tuple(name for name, one in services.items() if brings_images(one.image, folder))
    return ImageStore(folder, names, tuple(charts))


def kinds_of_node(role: str, *, is_tainted: bool) -> frozenset[NodeKind]:
    """Say what a node is to the pods of components.

    Args:
        role: Of the node.
        is_tainted: Whether masters keep ordinary pods off.
    """
    kinds = {NodeKind(role)}
    if role == NodeKind.MASTER.value and not is_tainted:
        kinds.add(NodeKind.OPEN_MASTER)
    return frozenset(kinds)


def drop_ins_needed(
    params: ComponentsView, services: Mapping[str, Service], kinds: frozenset[NodeKind]
) -> tuple[str, ...]:
    """Name the drop-ins whose images this node has to have."""
    folder = find_image_folder(one.image for one in services.values())
    return tuple(
        name
        for name, service in services.items()
        if brings_images(service.image, folder)
        and kinds & set(service.image.nodes)
        and needs_service(service, params)
    )


def plan_archives(needed: Sequence[str], store: ImageStore, stored: Stored) -> Iterator[Action]:
    """Offer RKE2 the archives of these drop-ins, and of no others."""
    if store.folder is None:
        return
    targets = [
        store.folder / name / archive
        for name in needed
        for archive in stored.archives.get(name, ())
    ]
    yield LinkFiles(AGENT_IMAGES, store.folder, tuple(targets))
    if targets and knows_import_cache(stored.rke2):
        yield StartFile(IMPORT_CACHE)


def knows_import_cache(version: str) -> bool:
    """Say whether this RKE2 remembers what it has imported."""
    found = _VERSION.match(version)
    if not found:
        return False
    minor, patch = int(found[1]), int(found[2])
    return minor > max(_KNOWS_CACHE) or patch >= _KNOWS_CACHE.get(minor, patch + 1)
