"""Renders the manifests of every combination of switches, the way a master does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import yaml

from appliance.context import Context
from appliance.decision import decide
from roles.common.components import ManifestFile, build_manifests, charts_on
from tests.contexts import SERVICES
from tests.unit.roles.nodes import NODE

_K8S = "ONEAPP_K8S_"
_VALUES: Mapping[str, tuple[str, ...]] = {
    "CNI_PLUGIN": ("cilium", "calico", "canal", "flannel", "none"),
    "MULTUS_ENABLED": ("NO", "YES"),
    "LONGHORN_ENABLED": ("NO", "YES"),
    "TRAEFIK_ENABLED": ("NO", "YES"),
    "METALLB_ENABLED": ("NO", "YES"),
    "CILIUM_BGP_ENABLED": ("NO", "YES"),
    "CLEANER_ENABLED": ("NO", "YES"),
}
_RANGES: tuple[Mapping[str, str], ...] = (
    {},
    {
        "METALLB_RANGE": "198.51.100.40-198.51.100.60, 2001:db8::/112",
        "METALLB_RANGE_A": "198.51.100.7",
        "CILIUM_RANGE0": "203.0.113.0/28",
        "CILIUM_RANGE1": "203.0.113.32-203.0.113.40;203.0.113.50",
        "CLUSTER_CIDR": "10.42.0.0/16,fd42::/56",
        "SERVICE_CIDR": "10.43.0.0/16,fd43::/112",
    },
)
_OLDER: tuple[Mapping[str, str], ...] = (
    {"LOADBALANCER_RANGE": "198.51.100.40-198.51.100.60"},
    {"LOADBALANCER_CONFIG": ""},
)
_S3 = "ONEAPP_RKE2_SNAPSHOT_S3_"
_SNAPSHOTS: tuple[Mapping[str, str], ...] = (
    {f"{_S3}BUCKET": "backup"},
    {
        f"{_S3}BUCKET": "backup",
        f"{_S3}ENDPOINT": "s3.example.org:9000",
        f"{_S3}REGION": "eu-west-1",
        f"{_S3}FOLDER": "oneke/23",
        f"{_S3}ACCESS_KEY": "yes: #1",
        f"{_S3}SECRET_KEY": 'a"b',
        f"{_S3}CA": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        f"{_S3}TLS_ENABLED": "NO",
    },
)


@dataclass(frozen=True)
class Combination:
    """A choice of parameters, with the files it leads to."""

    name: str
    files: tuple[ManifestFile, ...]


@dataclass(frozen=True)
class Document:
    """A document of a file."""

    combination: str
    file: str
    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Its API version and kind."""
        return f"{self.content.get('apiVersion')} {self.content.get('kind')}"


def files_of(**changes: str) -> tuple[ManifestFile, ...]:
    """Return what a master writes whose context differs so from the usual one."""
    decided = decide("master", Context({**NODE, **changes}, "test"), SERVICES)
    return build_manifests(decided.params, SERVICES)


@cache
def combinations() -> tuple[Combination, ...]:
    """Return every combination of switches, with and without ranges, and the older names."""
    return tuple(_make_combinations())


def _make_combinations() -> Iterator[Combination]:
    for words in product(*_VALUES.values()):
        for ranges in _RANGES:
            yield _combination({**dict(zip(_VALUES, words, strict=True)), **ranges})
    yield from map(_combination, _OLDER)
    yield from map(_combination, _SNAPSHOTS)
    yield _combination({})
    yield _with_charts_of_the_image()


def _with_charts_of_the_image() -> Combination:
    switches = {f"{_K8S}{name}_ENABLED": "YES" for name in ("LONGHORN", "METALLB", "TRAEFIK")}
    params = decide("master", Context({**NODE, **switches}, "test"), SERVICES).params
    charts = {source.file: "dGd6" for source in charts_on(params, SERVICES).values()}
    files = build_manifests(params, SERVICES, charts)
    assert sum("chartContent: " in file.text for file in files) == len(charts)
    return Combination("charts of the image", files)


def _combination(values: Mapping[str, str]) -> Combination:
    name = " ".join(f"{key}={text}" for key, text in values.items()) or "nothing"
    named = {
        key if key.startswith("ONEAPP_") else f"{_K8S}{key}": text for key, text in values.items()
    }
    return Combination(name, files_of(**named))


def documents(found: Iterable[Combination]) -> Iterator[Document]:
    """Yield the documents of all files."""
    for one in found:
        for file in one.files:
            for content in _contents(file.text):
                yield Document(one.name, file.name, content)


@cache
def _contents(text: str) -> tuple[Mapping[str, Any], ...]:
    """Parse a file; most combinations have most of them in common."""
    return tuple(yaml.safe_load_all(text))
