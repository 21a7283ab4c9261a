"""What does not fit together in the parameters of components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml

from appliance.component import Component, Field
from appliance.errors import Problem
from appliance.role import Findings
from appliance.service import Service
from appliance.values import AddressRange, range_of
from roles.common.components import (
    RANGES,
    ComponentParams,
    components_on,
    entry_of,
    entry_of_own,
    find_components,
    own_text,
    ranges_of,
    value_of,
)

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_components(params: ComponentParams, services: Mapping[str, Service]) -> Findings:
    """Find what is wrong or doubtful about the parameters of components."""
    problems: list[Problem] = []
    warnings: list[str] = []
    on = components_on(params, services)
    for name, component in find_components(services).items():
        if name not in params.components:
            continue
        if name not in on:
            warnings += _without_effect(name, component, params, services)
            continue
        problems += _check_ranges(name, params, services)
        problems += _check_own_texts(component, params, services)
        warnings += _doubts(name, component, params, services)
    return Findings(tuple(problems), tuple(warnings))


def _check_ranges(
    name: str, params: ComponentParams, services: Mapping[str, Service]
) -> Iterator[Problem]:
    for entry in services[name].entries:
        if entry.type != RANGES:
            continue
        for key, given in ranges_of(name, entry, params):
            for owner, taken, what in _taken(params):
                if given.overlaps(taken):
                    yield Problem(
                        key,
                        str(given),
                        f"overlaps {owner}={what}; addresses that are given out must be free",
                        depends_on=(owner,),
                    )


def _taken(params: ComponentParams) -> Iterator[tuple[str, AddressRange, str]]:
    """Yield what is in use, with the parameter that says so."""
    for (nic, index), vip in sorted(params.keepalived.vips.items()):
        address = AddressRange(vip.address, vip.address)
        yield f"ONEAPP_VROUTER_ETH{nic}_VIP{index}", address, str(vip.address)
    for key, networks in (
        ("ONEAPP_K8S_CLUSTER_CIDR", params.rke2.cluster_networks),
        ("ONEAPP_K8S_SERVICE_CIDR", params.rke2.service_networks),
    ):
        for network in networks:
            yield key, range_of(network), str(network)


def _check_own_texts(
    component: Component, params: ComponentParams, services: Mapping[str, Service]
) -> Iterator[Problem]:
    for manifest in component.manifests:
        text = own_text(manifest, params)
        wrong = _what_is_wrong_with(text, component) if text else None
        if wrong:
            # It may hold secrets, and is not shown.
            yield Problem(entry_of_own(manifest, services).name, None, wrong)


def _what_is_wrong_with(text: str, component: Component) -> str | None:
    expected = "expected resources of Kubernetes in YAML"
    try:
        documents = [one for one in yaml.load_all(text, Loader=_LOADER) if one is not None]
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        return f"{expected}; this is no YAML{place}"
    if not documents:
        return f"{expected}; there is none"
    for document in documents:
        if not isinstance(document, dict):
            return f"{expected}, each a mapping"
        for refused in component.refused:
            if refused.matches(document):
                return refused.because
        wrong = _missing_in(document)
        if wrong:
            return f"{expected}, each with apiVersion, kind and metadata.name; {wrong}"
    return None


def _missing_in(document: Mapping[object, object]) -> str | None:
    for key in ("apiVersion", "kind"):
        if not isinstance(document.get(key), str):
            return f"one has no {key}"
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) and not str(document["kind"]).endswith("List"):
        return f"one of kind {document['kind']} has no name"
    return None


def _without_effect(
    name: str, component: Component, params: ComponentParams, services: Mapping[str, Service]
) -> Iterator[str]:
    if component.switch is None:
        return
    given = [
        entry.name
        for entry in services[name].entries
        if entry.default is None and params.components[name][entry.field] not in (None, {})
    ]
    switch = entry_of(component.switch, services).name
    turned = f"{switch} is not {component.equals or 'YES'}"
    yield from (f"{one} has no effect: {turned}" for one in given)


def _doubts(
    name: str, component: Component, params: ComponentParams, services: Mapping[str, Service]
) -> Iterator[str]:
    def name_of(field: Field) -> str:
        return entry_of(field, services).name

    for field, needed in component.needs:
        if value_of(field, params) and not value_of(needed, params):
            yield f"{name_of(field)} has no effect: {name_of(needed)} is not on"
    if component.wants and not any(value_of(field, params) for field in component.wants):
        wanted = " nor ".join(map(name_of, component.wants))
        yield f"{name} has nothing to work with: neither {wanted} is given"
