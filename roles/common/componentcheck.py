"""What does not fit together in the parameters of components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_interface
from typing import Any

import yaml

from appliance.component import Addresses, Component, Field, Manifest
from appliance.errors import Problem
from appliance.role import Findings
from appliance.service import Service
from appliance.values import AddressRange, Rejected, parse_address_range, range_of
from roles.common.chartsettings import (
    check_own_settings,
    doubts_about_own_settings,
    own_settings,
)
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
from roles.common.owntext import EXPECTED, flattened, read_documents, what_is_wrong_with


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
        wrong = list(_check_own_texts(component, params, services))
        own = () if wrong else tuple(own_settings(name, params, services))
        problems += [*wrong, *(problem for one in own for problem in check_own_settings(one))]
        warnings += _doubts(name, component, params, services)
        warnings += [doubt for one in own for doubt in doubts_about_own_settings(one)]
    return Findings(tuple(problems), tuple(warnings))


def _check_ranges(
    name: str, params: ComponentParams, services: Mapping[str, Service]
) -> Iterator[Problem]:
    for entry in services[name].entries:
        if entry.type != RANGES:
            continue
        for key, given in ranges_of(name, entry, params):
            for owner, overlap in _overlaps(given, params):
                yield Problem(key, str(given), overlap, depends_on=(owner,))


def _overlaps(given: AddressRange, params: ComponentParams) -> Iterator[tuple[str, str]]:
    """Yield each parameter that takes an address of a range, with what is wrong about that."""
    for owner, taken, what in _taken(params):
        if given.overlaps(taken):
            yield owner, f"overlaps {owner}={what}; addresses that are given out must be free"


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
        if text:
            key = entry_of_own(manifest, services).name
            yield from _check_own_text(key, text, component, params)


def _check_own_text(
    key: str, text: str, component: Component, params: ComponentParams
) -> Iterator[Problem]:
    # It may hold secrets, and is not shown; addresses are none.
    try:
        documents = read_documents(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        yield Problem(key, None, f"{EXPECTED}; this is no YAML{place}")
        return
    wrong = what_is_wrong_with(documents, component)
    if wrong:
        yield Problem(key, None, wrong)
        return
    for document in flattened(documents):
        for place_of in component.addresses:
            yield from _check_addresses(key, document, place_of, params)


def _check_addresses(
    key: str, document: Mapping[str, Any], place: Addresses, params: ComponentParams
) -> Iterator[Problem]:
    listed = place.listed_in(document)
    if listed is None:
        return
    metadata = document.get("metadata")
    whose = f"{place.kind} {metadata.get('name') if isinstance(metadata, dict) else ''}".rstrip()
    for text in listed if isinstance(listed, list) else [listed]:
        try:
            given = _read_range(text)
        except (Rejected, ValueError) as error:
            yield Problem(key, None, f"{whose}: {'.'.join(place.at)}: {error}")
            continue
        for owner, overlap in _overlaps(given, params):
            yield Problem(key, None, f"{whose}: {given} {overlap}", depends_on=(owner,))


def _read_range(text: object) -> AddressRange:
    """Read addresses as a component does, which takes any address of a network for the network."""
    if not isinstance(text, str):
        raise Rejected("expected a list of texts such as 198.51.100.32/27")
    if "/" in text:
        return range_of(ip_interface(text.strip()).network)
    return parse_address_range(text.strip())


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
    yield from _replaced(component, params, services)
    if component.wants and not any(value_of(field, params) for field in component.wants):
        wanted = " nor ".join(map(name_of, component.wants))
        yield f"{name} has nothing to work with: neither {wanted} is given"


def _replaced(
    component: Component, params: ComponentParams, services: Mapping[str, Service]
) -> Iterator[str]:
    """Name what only a template reads in whose place there is the user's own text."""

    def is_replaced(manifest: Manifest) -> bool:
        return bool(own_text(manifest, params))

    read = {field for one in component.manifests if not is_replaced(one) for field in one.when} | {
        component.switch
    }
    for manifest in filter(is_replaced, component.manifests):
        own = entry_of_own(manifest, services).name
        for field in manifest.when:
            if field not in read and value_of(field, params):
                for key in _keys_of(field, params, services):
                    yield f"{key} has no effect: {own} is given"


def _keys_of(
    field: Field, params: ComponentParams, services: Mapping[str, Service]
) -> tuple[str, ...]:
    """Return the names a parameter is given by; a family has one for each member."""
    entry = entry_of(field, services)
    if entry.type != RANGES:
        return (entry.name,)
    return tuple(dict.fromkeys(key for key, _ in ranges_of(field.service, entry, params)))
