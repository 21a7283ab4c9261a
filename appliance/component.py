"""Components: what runs inside the cluster, as a drop-in describes it in its service.yaml.

A drop-in is a component where its service.yaml has `component`. That names the parameter that turns
it on, and the manifests that RKE2 is to deploy then; without such a parameter it is always on. A
parameter is named by its field: `enabled` for an own one, `rke2.cni_plugin` for that of another
drop-in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.errors import ServiceDefinitionError
from appliance.shape import checked_each, checked_mapping, checked_text

COMPONENTS = "components"
"""The field of a role's view that holds the values of all components, by name."""

_KEYS = frozenset(
    {"switch", "equals", "chart", "manifests", "refused", "addresses", "needs", "wants"}
)
_CHART_KEYS = frozenset({"name", "repo", "version"})
_MANIFEST_KEYS = frozenset({"file", "template", "when", "replaced_by", "secret"})
_REFUSED_KEYS = frozenset({"kind", "key", "because"})
_ADDRESSES_KEYS = frozenset({"kind", "at"})
# RKE2 names its record of a file after it, and that name must be one Kubernetes takes; its own
# files are called rke2-<chart>.yaml and written anew at every start.
_FILE = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?\.yaml\Z")
_OF_RKE2 = re.compile(r"rke2-.*(?<!-config)\.yaml\Z")


@dataclass(frozen=True)
class Field:
    """A parameter, by the drop-in that declares it and its field there."""

    service: str
    name: str

    def __str__(self) -> str:
        """Write it as a drop-in does."""
        return f"{self.service}.{self.name}"


@dataclass(frozen=True)
class Chart:
    """The Helm chart of a component.

    Attributes:
        version: The parameter that holds its version.
    """

    name: str
    repo: str
    version: Field


@dataclass(frozen=True)
class Manifest:
    """A file that RKE2 deploys.

    Attributes:
        file: Its name.
        template: What it is rendered from; None where only the user's own text fills it.
        when: The file is there only where each of these parameters is on, or holds something.
        replaced_by: The parameter with the user's own text, which wins over the template.
        is_secret: Whether what is rendered must not be shown.
    """

    file: str
    template: str | None
    when: tuple[Field, ...] = ()
    replaced_by: Field | None = None
    is_secret: bool = False


@dataclass(frozen=True)
class Refused:
    """A document that the user's own text must not hold: one of a kind, or one with a key."""

    kind: str | None
    key: str | None
    because: str

    def matches(self, document: Mapping[Any, Any]) -> bool:
        """Say whether a document is one of these."""
        is_kind = self.kind is not None and document.get("kind") == self.kind
        return is_kind or (self.key is not None and self.key in document)


@dataclass(frozen=True)
class Addresses:
    """Where the user's own text lists addresses that are given out.

    Attributes:
        kind: The kind of document.
        at: The keys that lead to the list in it.
    """

    kind: str
    at: tuple[str, ...]

    def listed_in(self, document: Mapping[Any, Any]) -> object:
        """Return what is there; None where there is nothing, or the document is of another kind."""
        found: object = document if document.get("kind") == self.kind else None
        for key in self.at:
            found = found.get(key) if isinstance(found, dict) else None
        return found


@dataclass(frozen=True)
class Component:
    """What a drop-in says of the component it is.

    Attributes:
        switch: The parameter that turns it on; None for what is always on.
        equals: The value that turns it on; None for a switch.
        chart: Its Helm chart; None where it has none, or RKE2 brings it.
        manifests: Its files, in the order they are written.
        refused: What the user's own text must not hold.
        addresses: Where it lists addresses, which must be as free as those of parameters.
        needs: A parameter to the switch without which it has no effect.
        wants: Parameters of which one should hold something.
    """

    switch: Field | None
    equals: str | None
    chart: Chart | None
    manifests: tuple[Manifest, ...]
    refused: tuple[Refused, ...] = ()
    addresses: tuple[Addresses, ...] = ()
    needs: tuple[tuple[Field, Field], ...] = ()
    wants: tuple[Field, ...] = ()

    def fields(self) -> Iterator[Field]:
        """Yield every parameter it names."""
        if self.switch:
            yield self.switch
        if self.chart:
            yield self.chart.version
        for manifest in self.manifests:
            yield from manifest.when
            if manifest.replaced_by:
                yield manifest.replaced_by
        for pair in self.needs:
            yield from pair
        yield from self.wants


def parse_component(service: str, described: object, where: str) -> Component:
    """Read what a service.yaml has under `component`.

    Args:
        service: The name of the drop-in.
        described: What is there.
        where: How a message names the place.

    Raises:
        ServiceDefinitionError: It is not well formed.
    """
    found = checked_mapping(described, _KEYS, where)

    def field_of(text: object) -> Field:
        return _field(service, text, where)

    needs = found.get("needs") or {}
    if not isinstance(needs, dict):
        raise ServiceDefinitionError(f"{where}: needs must be a mapping of fields to switches")
    equals = found.get("equals")
    if equals is not None and not isinstance(equals, str):
        raise ServiceDefinitionError(f"{where}: equals must be a text")
    if equals is not None and "switch" not in found:
        raise ServiceDefinitionError(f"{where}: equals needs a switch")
    manifests = checked_each(found, "manifests", where, lambda one: _manifest(one, field_of, where))
    if not manifests:
        raise ServiceDefinitionError(f"{where}: has no manifests")
    return Component(
        switch=field_of(found["switch"]) if "switch" in found else None,
        equals=equals,
        chart=_chart(found["chart"], field_of, where) if "chart" in found else None,
        manifests=manifests,
        refused=checked_each(found, "refused", where, lambda one: _refused(one, where)),
        addresses=checked_each(found, "addresses", where, lambda one: _addresses(one, where)),
        needs=tuple((field_of(one), field_of(other)) for one, other in needs.items()),
        wants=checked_each(found, "wants", where, field_of),
    )


def _field(service: str, text: object, where: str) -> Field:
    if not isinstance(text, str) or not text.strip("."):
        raise ServiceDefinitionError(f"{where}: expected a field of a parameter, found {text!r}")
    owner, _, name = text.rpartition(".")
    return Field(owner or service, name)


def _chart(item: object, field_of: Callable[[object], Field], where: str) -> Chart:
    found = checked_mapping(item, _CHART_KEYS, f"{where}: chart")
    return Chart(
        checked_text(found, "name", where),
        checked_text(found, "repo", where),
        field_of(found.get("version")),
    )


def _manifest(item: object, field_of: Callable[[object], Field], where: str) -> Manifest:
    found = checked_mapping(item, _MANIFEST_KEYS, f"{where}: manifests")
    file = checked_text(found, "file", where)
    if not _FILE.match(file) or _OF_RKE2.match(file):
        raise ServiceDefinitionError(
            f"{where}: file {file!r}: expected a name in lower case with digits and dashes, ending"
            " in .yaml; one that begins with rke2- ends in -config.yaml, all others are RKE2's own"
        )
    template = checked_text(found, "template", where) if "template" in found else None
    replaced_by = field_of(found["replaced_by"]) if "replaced_by" in found else None
    if template is None and replaced_by is None:
        raise ServiceDefinitionError(f"{where}: {file}: has neither template nor replaced_by")
    is_secret = found.get("secret", False)
    if not isinstance(is_secret, bool):
        raise ServiceDefinitionError(f"{where}: {file}: secret must be true or false")
    when = checked_each(found, "when", where, field_of)
    return Manifest(file, template, when, replaced_by, is_secret)


def _refused(item: object, where: str) -> Refused:
    found = checked_mapping(item, _REFUSED_KEYS, f"{where}: refused")
    kind, key = (
        checked_text(found, one, where) if one in found else None for one in ("kind", "key")
    )
    if (kind is None) == (key is None):
        raise ServiceDefinitionError(f"{where}: refused: expected either kind or key")
    return Refused(kind, key, checked_text(found, "because", where))


def _addresses(item: object, where: str) -> Addresses:
    found = checked_mapping(item, _ADDRESSES_KEYS, f"{where}: addresses")
    return Addresses(
        checked_text(found, "kind", where), tuple(checked_text(found, "at", where).split("."))
    )


def check_components(
    components: Mapping[str, Component], declared: Mapping[str, Sequence[str]]
) -> None:
    """Check what components say of other drop-ins, and of the same files.

    Args:
        components: By the name of their drop-in.
        declared: The fields of every drop-in.

    Raises:
        ServiceDefinitionError: A parameter is named that nobody declares, or two write one file.
    """
    writers: dict[str, str] = {}
    for name, component in components.items():
        for field in component.fields():
            if field.name not in declared.get(field.service, ()):
                raise ServiceDefinitionError(
                    f"{name}: component: {field}: no drop-in declares such a field"
                )
        for manifest in component.manifests:
            if writers.setdefault(manifest.file, name) != name:
                raise ServiceDefinitionError(
                    f"{manifest.file}: written by {writers[manifest.file]} and by {name}"
                )
