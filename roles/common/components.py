"""Components: which of them a cluster has, and the manifests that RKE2 deploys for them.

Nothing here knows a component by name: what is to be known is in its drop-in. RKE2 applies every
file of its manifest folder on the server that has it, so all masters write the same ones, from what
the context says alone. A file that goes takes nothing with it: what it brought stays there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, make_dataclass, replace
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Protocol

from appliance.actions import EnsureFolder, RemoveFile, WriteFile
from appliance.component import Component, Field, Manifest
from appliance.errors import ServiceDefinitionError
from appliance.parameters import Entry
from appliance.plan import Action
from appliance.render import render
from appliance.service import Service
from appliance.values import AddressRange
from roles.common.endpoints import API_PORT, ClusterEndpoint, build_endpoints
from roles.common.opennebula import OpenNebulaParams
from roles.common.rke2config import MASTER_TAINT
from roles.common.rke2params import BalancerParams, NodeParams, Rke2Params, VipParams

MANIFESTS = PurePosixPath("/var/lib/rancher/rke2/server/manifests")

_SERVER = MANIFESTS.parent
_MARK = "Written by oneke-agent"
_OWN_MARK = f"{_MARK}; what follows is the cluster's own"
# Source: rke2-docs, server roles and high availability: how control planes are kept to themselves.
_MASTER_TAINTS = (
    MASTER_TAINT.partition("=")[0],
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/etcd",
)
RANGES = "address_ranges"
_LOCALHOST = "127.0.0.1"
_STAYS = (
    "what it brought stays in the cluster until it is deleted there: kubectl -n kube-system get"
    " helmcharts"
)

Values = Mapping[str, Mapping[str, object]]
Charts = Mapping[str, str]
NO_CHARTS: Charts = MappingProxyType({})


@dataclass(frozen=True)
class StoragePlace:
    """Drop-in `storage`, as far as a master reads it."""

    mountpoint: str


class ComponentsView(NodeParams, Protocol):
    """What says which components there are."""

    @property
    def components(self) -> Values:
        """Component to field to value, as far as the role reads them."""


class ComponentParams(ComponentsView, Protocol):
    """What components need of a master's parameters."""

    @property
    def storage(self) -> StoragePlace:
        """Where storage nodes keep their replicas."""


@dataclass(frozen=True)
class ChartSource:
    """Where Helm finds a chart.

    Attributes:
        chart: Its name in the repository.
        repo: The repository.
        version: Its version.
        content: The archive itself in base64, where the image has it: nothing is fetched then.
    """

    chart: str
    repo: str
    version: str
    content: str = ""

    @property
    def file(self) -> str:
        """What the archive is called in the image."""
        return f"{self.chart}-{self.version}.tgz"


@dataclass(frozen=True)
class ClusterFacts:
    """What a component's templates may know of the cluster; the same on all masters.

    Attributes:
        api_host: Where pods of the nodes' network reach the API: the balanced endpoint, else the
            node itself, where RKE2 answers everywhere.
        has_ipv6: Whether pods get IPv6 addresses.
        components: The names of all that are on.
        settings: Their own parameters, component to field to value.
        storage_path: Where storage nodes keep their replicas.
        master_taints: The keys of the taints that masters may have of us, of the user, or of
            whoever keeps ordinary pods off a control plane.
    """

    api_host: str
    api_port: int
    pod_networks: tuple[str, ...]
    service_networks: tuple[str, ...]
    has_ipv6: bool
    virtual_addresses: tuple[str, ...]
    components: tuple[str, ...]
    settings: Values
    storage_path: str
    master_taints: tuple[str, ...]


@dataclass(frozen=True)
class ComponentModel:
    """Model of a component's templates.

    Attributes:
        own: Its parameters by field; those that hold ranges as one list, overlaps joined.
        chart: None where it has none.
    """

    own: Any
    chart: ChartSource | None
    cluster: ClusterFacts


@dataclass(frozen=True)
class ManifestFile:
    """A file as all masters have it.

    Attributes:
        is_secret: Whether it must not be shown: the user's own text may hold secrets, too.
    """

    component: str
    name: str
    text: str
    is_secret: bool


# ---- which there are


def find_components(services: Mapping[str, Service]) -> dict[str, Component]:
    """Return the drop-ins that are components, by name."""
    found = {name: service.component for name, service in services.items()}
    return {name: component for name, component in found.items() if component is not None}


def needs_service(service: Service, params: ComponentsView) -> bool:
    """Say whether the cluster has what a drop-in is: a component that is on, or no component."""
    return service.component is None or _is_on(service.component, params)


def charts_on(params: ComponentsView, services: Mapping[str, Service]) -> dict[str, ChartSource]:
    """Return the charts of the components that the parameters turn on, by drop-in."""
    found = {
        name: _chart_source(services[name].component, params, {})
        for name in components_on(params, services)
    }
    return {name: chart for name, chart in found.items() if chart is not None}


def components_on(params: ComponentsView, services: Mapping[str, Service]) -> tuple[str, ...]:
    """Return the names of the components that the parameters turn on."""
    return tuple(
        name
        for name, component in find_components(services).items()
        if name in params.components and _is_on(component, params)
    )


def _is_on(component: Component, params: ComponentsView) -> bool:
    if component.switch is None:
        return True
    value = value_of(component.switch, params)
    return bool(value == component.equals if component.equals is not None else value is True)


def value_of(field: Field, params: ComponentsView) -> object:
    """Return the value of a parameter.

    Raises:
        ServiceDefinitionError: The role does not read it.
    """
    if field.service in params.components:
        return params.components[field.service][field.name]
    view = getattr(params, field.service, None)
    if not hasattr(view, field.name):
        raise ServiceDefinitionError(f"component: {field}: this role does not read it")
    return getattr(view, field.name)


def entry_of(field: Field, services: Mapping[str, Service]) -> Entry:
    """Return the declaration of a parameter."""
    return next(one for one in services[field.service].entries if one.field == field.name)


# ---- what is written


def plan_components(
    params: ComponentParams, services: Mapping[str, Service], charts: Charts = NO_CHARTS
) -> tuple[Action, ...]:
    """Write the manifests of what is on, and take away those of what is not.

    Args:
        params: Of the master.
        services: The drop-ins.
        charts: Name of a file to its content in base64, of the charts that the image has.
    """
    files = build_manifests(params, services, charts)
    names = {file.name for file in files}
    others = (
        manifest.file
        for component in find_components(services).values()
        for manifest in component.manifests
        if manifest.file not in names
    )
    # RKE2 keeps its folder for itself, and takes it as it finds it.
    folders = (EnsureFolder(_SERVER, 0o700), EnsureFolder(MANIFESTS, 0o700)) if files else ()
    return (
        *folders,
        *(
            WriteFile(
                MANIFESTS / file.name,
                file.text,
                mode=0o600,
                is_secret=file.is_secret,
                sensitive_mark=_OWN_MARK,
            )
            for file in files
        ),
        *(RemoveFile(MANIFESTS / name, own_mark=_MARK, note=_STAYS) for name in others),
    )


def build_manifests(
    params: ComponentParams, services: Mapping[str, Service], charts: Charts = NO_CHARTS
) -> tuple[ManifestFile, ...]:
    """Render the manifests of every component that is on."""
    on = components_on(params, services)
    cluster = _build_cluster(params, on)
    components = find_components(services)
    return tuple(
        file
        for name in on
        for manifest in components[name].manifests
        for file in _build_file(name, manifest, params, services, cluster, charts)
    )


def _build_file(
    name: str,
    manifest: Manifest,
    params: ComponentParams,
    services: Mapping[str, Service],
    cluster: ClusterFacts,
    charts: Charts,
) -> Iterator[ManifestFile]:
    own = own_text(manifest, params)
    if own:
        header = f"# {_OWN_MARK}, from {entry_of_own(manifest, services).name}.\n"
        yield ManifestFile(name, manifest.file, f"{header}{own.rstrip()}\n", is_secret=True)
    elif manifest.template and all(value_of(field, params) for field in manifest.when):
        model = build_model(name, params, services, cluster, charts)
        text = render(services[name].folders, manifest.template, model)
        yield ManifestFile(name, manifest.file, text, manifest.is_secret)


def own_text(manifest: Manifest, params: ComponentParams) -> str:
    """Return the user's own text for a file; empty where there is none."""
    if manifest.replaced_by is None:
        return ""
    text = value_of(manifest.replaced_by, params)
    return text if isinstance(text, str) and text.strip() else ""


def entry_of_own(manifest: Manifest, services: Mapping[str, Service]) -> Entry:
    """Return the declaration of the parameter that holds the user's own text."""
    assert manifest.replaced_by is not None  # noqa: S101  # there is own text
    return entry_of(manifest.replaced_by, services)


def build_model(
    name: str,
    params: ComponentParams,
    services: Mapping[str, Service],
    cluster: ClusterFacts,
    charts: Charts = NO_CHARTS,
) -> ComponentModel:
    """Put together what a component's templates see."""
    values = {
        entry.field: (
            join_ranges(one for _, one in ranges_of(name, entry, params))
            if entry.type == RANGES
            else params.components[name][entry.field]
        )
        for entry in services[name].entries
    }
    view = make_dataclass("Own", values, frozen=True)
    component = services[name].component
    return ComponentModel(view(**values), _chart_source(component, params, charts), cluster)


def _chart_source(
    component: Component | None, params: ComponentsView, charts: Charts
) -> ChartSource | None:
    """Say where the chart is, and what it is where the image has that very version."""
    if component is None or component.chart is None:
        return None
    chart = component.chart
    source = ChartSource(chart.name, chart.repo, str(value_of(chart.version, params)))
    return replace(source, content=charts.get(source.file, ""))


def _build_cluster(params: ComponentParams, on: tuple[str, ...]) -> ClusterFacts:
    api = _balanced_api(params)
    pods, services = params.rke2.cluster_networks, params.rke2.service_networks
    return ClusterFacts(
        api_host=api.host if api else _LOCALHOST,
        api_port=api.port if api else API_PORT,
        pod_networks=tuple(map(str, pods)),
        service_networks=tuple(map(str, services)),
        has_ipv6=any(network.version == 6 for network in pods),
        virtual_addresses=tuple(str(vip.address) for vip in params.keepalived.vips.values()),
        components=on,
        settings={name: params.components[name] for name in on},
        storage_path=params.storage.mountpoint,
        master_taints=_taints_of_masters(params.rke2),
    )


def _taints_of_masters(rke2: Rke2Params) -> tuple[str, ...]:
    """Return the keys, those first that a master may still have of earlier days."""
    given = (re.split("[=:]", taint)[0] for taint in rke2.node_taints or ())
    return tuple(dict.fromkeys((*_MASTER_TAINTS, *given)))


@dataclass(frozen=True)
class _Founder:
    """What a master's parameters say without what only some masters are told: whom to join."""

    opennebula: OpenNebulaParams
    keepalived: VipParams
    haproxy: BalancerParams
    rke2: Rke2Params


def _balanced_api(params: ComponentParams) -> ClusterEndpoint | None:
    rke2 = replace(params.rke2, join_address=None)
    founder = _Founder(params.opennebula, params.keepalived, params.haproxy, rke2)
    return build_endpoints(founder).control_plane


# ---- ranges of addresses


def join_ranges(ranges: Iterable[AddressRange]) -> tuple[AddressRange, ...]:
    """Join ranges that share addresses, for no controller takes an address twice.

    Args:
        ranges: In the order they are to come in.
    """
    joined: list[AddressRange] = []
    for new in ranges:
        sharing = [old for old in joined if old.overlaps(new)]
        if not sharing:
            joined.append(new)
            continue
        place = joined.index(sharing[0])
        joined = [old for old in joined if old not in sharing]
        joined.insert(place, _hull((*sharing, new)))
    return tuple(joined)


def _hull(ranges: tuple[AddressRange, ...]) -> AddressRange:
    first = min((one.first for one in ranges), key=int)
    last = max((one.last for one in ranges), key=int)
    same = (one for one in ranges if (one.first, one.last) == (first, last))
    return next(same, AddressRange(first, last))


def ranges_of(
    name: str, entry: Entry, params: ComponentParams
) -> Iterator[tuple[str, AddressRange]]:
    """Yield every range with the key it was given by, by name."""
    value = params.components[name][entry.field]
    if entry.is_family and isinstance(value, Mapping):
        members = {entry.name.replace("<any>", str(index)): of for index, of in value.items()}
        for key in sorted(members):
            for one in members[key]:
                yield key, one
    elif isinstance(value, tuple):
        for one in value:
            yield entry.name, one
