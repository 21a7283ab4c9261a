"""The user's own text in place of a chart's settings, and what it leaves of them.

RKE2 takes the settings of a chart it brings from the HelmChartConfig of that chart's name; a
drop-in writes it to `rke2-<chart>-config.yaml`. Where it puts values there, the chart does not do
here without: Cilium takes the place of kube-proxy, and finds the API in no other way. The settings
of a network plug-in must be there before RKE2 starts for the first time, and RKE2 does not apply a
file as a whole while a kind in it is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import yaml

from appliance.component import Manifest
from appliance.errors import Problem
from appliance.render import to_yaml
from appliance.service import Service
from appliance.yamltext import parse_yaml
from roles.common.components import (
    ComponentParams,
    build_manifests,
    entry_of,
    entry_of_own,
    find_components,
    own_text,
)
from roles.common.owntext import Document, flattened, read_documents

_FILE = re.compile(r"(rke2-.+)-config\.yaml")
_NAMESPACE = "kube-system"
_KIND = "HelmChartConfig"
# Groups of Kubernetes itself with a dot. Source: its API reference, 1.33 to 1.37.
_OF_KUBERNETES = frozenset(
    f"{name}.k8s.io"
    for name in (
        *("admissionregistration", "apiextensions", "apiregistration", "authentication"),
        *("authorization", "certificates", "coordination", "discovery", "events", "lifecycle"),
        *("flowcontrol.apiserver", "internal.apiserver", "networking", "node", "resource"),
        *("rbac.authorization", "scheduling", "storage", "storagemigration"),
    )
)
# RKE2 makes these kinds before it applies any file.
_OF_RKE2 = frozenset({"helm.cattle.io", "k3s.cattle.io"})


@dataclass(frozen=True)
class OwnSettings:
    """A user's own text where the settings of a chart would be.

    Attributes:
        key: The parameter that holds it.
        chart: The chart, as RKE2 calls it.
        switches: The parameters that choose the chart.
        documents: Those of the text, each with apiVersion, kind and name.
        replaced: What would be there, by the path of each value; empty where the chart does
            without.
    """

    key: str
    chart: str
    switches: tuple[str, ...]
    documents: Sequence[Document]
    replaced: Mapping[str, object]


def own_settings(
    name: str, params: ComponentParams, services: Mapping[str, Service]
) -> Iterator[OwnSettings]:
    """Yield the settings of charts that a user's own texts are, each well formed.

    Args:
        name: The component.
        params: Of the master.
        services: The drop-ins.
    """
    component = find_components(services)[name]
    for manifest in component.manifests:
        text, chart = own_text(manifest, params), chart_of(manifest)
        if text and chart:
            yield OwnSettings(
                key=entry_of_own(manifest, services).name,
                chart=chart,
                switches=(entry_of(component.switch, services).name,) if component.switch else (),
                documents=tuple(flattened(read_documents(text))),
                replaced=_replaced_settings(name, manifest, chart, params, services),
            )


def _replaced_settings(
    name: str,
    manifest: Manifest,
    chart: str,
    params: ComponentParams,
    services: Mapping[str, Service],
) -> Mapping[str, object]:
    """Return the settings that a user's own text stands in place of; none of what is secret."""
    if manifest.is_secret:
        return {}
    component = find_components(services)[name]
    kept = tuple(replace(one, replaced_by=None) for one in component.manifests if one.template)
    service = replace(services[name], component=replace(component, manifests=kept))
    made = build_manifests(params, {**services, name: service})
    texts = [file.text for file in made if file.name == manifest.file]
    return settings_in([one for text in texts for one in read_documents(text)], chart) or {}


def chart_of(manifest: Manifest) -> str | None:
    """Return the chart of RKE2 whose settings a file holds; None where it holds other things."""
    found = _FILE.fullmatch(manifest.file)
    return found.group(1) if found else None


def is_known_from_the_start(document: Document) -> bool:
    """Say whether the API server knows a document's kind before any chart is installed."""
    group = _group_of(document)
    return "." not in group or group in _OF_KUBERNETES or group in _OF_RKE2


def settings_in(documents: Sequence[Document], chart: str) -> dict[str, object] | None:
    """Return the values that are set for a chart, by path; None where there are no settings."""
    configs = [one for one in documents if _is_config_of(one, chart)]
    if not configs:
        return None
    return {path: value for one in configs for path, value in _values_of(one.get("spec"))}


def check_own_settings(own: OwnSettings) -> Iterator[Problem]:
    """Find what keeps settings away that the chart does not do without."""
    if not own.replaced:
        return
    if settings_in(own.documents, own.chart) is None:
        by = "".join(f"; {key} chooses the chart" for key in own.switches)
        yield Problem(
            own.key,
            None,
            f"expected a HelmChartConfig {own.chart} in namespace {_NAMESPACE}, without which the"
            f" chart does not come up here; found {_named(own.documents)}{by}",
            depends_on=own.switches,
        )
    late = _late(own.documents)
    if late:
        yield Problem(
            own.key,
            None,
            f"expected HelmChartConfigs and what Kubernetes has of its own; found {_named(late)},"
            f" of a kind that comes with a chart: the settings of {own.chart} would wait for it,"
            " and the chart does not come up without them; apply it once the cluster runs",
            depends_on=own.switches,
        )


def doubts_about_own_settings(own: OwnSettings) -> Iterator[str]:
    """Say what of a chart's settings is not there, or comes late."""
    settings = settings_in(own.documents, own.chart)
    if settings is None and not own.replaced:
        yield (
            f"{own.key} sets nothing for {own.chart}: expected a HelmChartConfig of this name in"
            f" namespace {_NAMESPACE}, found {_named(own.documents)}"
        )
    late = _late(own.documents)
    if late and not own.replaced:
        yield (
            f"{own.key}: settings of {own.chart} may come late, for they are in one text with"
            f" {_named(late)}, of a kind that comes with a chart"
        )
    if settings is None or any(map(_has_secret_values, own.documents)):
        return
    missed = _missed(settings, own.replaced)
    if missed:
        yield (
            f"{own.key} is given in place of what the other parameters set; it leaves out or turns"
            f" round {', '.join(missed)}"
        )


def _missed(settings: Mapping[str, object], replaced: Mapping[str, object]) -> list[str]:
    """List what is not set, and switches that are set the other way; other values may differ."""
    return [
        f"{path}: {to_yaml(value)}"
        for path, value in replaced.items()
        if (path in settings and _is_turned_round(settings[path], value))
        or (path not in settings and not _is_off(path, value))
    ]


def _is_turned_round(own: object, replaced: object) -> bool:
    return isinstance(replaced, bool) and str(own).lower() != str(replaced).lower()


def _is_off(path: str, value: object) -> bool:
    """Say whether a value leaves a feature of a chart off, as it is where nobody sets it."""
    return value is False and path.endswith(".enabled")


def _has_secret_values(document: Document) -> bool:
    spec = document.get("spec")
    return isinstance(spec, dict) and bool(spec.get("valuesSecrets"))


def _is_config_of(document: Document, chart: str) -> bool:
    metadata = document.get("metadata")
    return (
        _group_of(document) == "helm.cattle.io"
        and document.get("kind") == _KIND
        and isinstance(metadata, dict)
        and (metadata.get("name"), metadata.get("namespace")) == (chart, _NAMESPACE)
    )


def _values_of(spec: object) -> Iterator[tuple[str, object]]:
    """Yield the values of a HelmChartConfig, whichever way they are written."""
    if not isinstance(spec, dict):
        return
    yield from _leaves(spec.get("values"))
    try:
        content = parse_yaml(str(spec.get("valuesContent") or ""))
    except (yaml.YAMLError, ValueError):
        return  # it sets nothing
    yield from _leaves(content)


def _leaves(values: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, values


def _late(documents: Sequence[Document]) -> list[Document]:
    return [one for one in documents if not is_known_from_the_start(one)]


def _group_of(document: Document) -> str:
    return str(document.get("apiVersion")).rpartition("/")[0]


def _named(documents: Sequence[Document]) -> str:
    return ", ".join(map(_name_of, documents))


def _name_of(document: Document) -> str:
    metadata = document.get("metadata")
    found = metadata if isinstance(metadata, dict) else {}
    namespace = f"{found.get('namespace', 'default')}/" if document.get("kind") == _KIND else ""
    return f"{document.get('kind')} {namespace}{found.get('name')}"
