"""The adapters of the areas `metallb` and `cilium`: what the manifests of these components say.

Whether a component is switched on does not change what it would be told, so each is switched on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import yaml

from appliance.component import COMPONENTS
from appliance.context import Context
from appliance.decision import parse_for_role, values_for
from appliance.errors import ParameterProblems
from appliance.parameters import build_view
from appliance.paths import packaged_services
from appliance.service import Service, load_services
from roles.common.componentcheck import check_components
from roles.common.components import StoragePlace, Values, build_manifests
from roles.common.opennebula import OpenNebulaParams
from roles.common.rke2params import BalancerParams, Rke2Params, VipParams
from tests.conformance.vectors import Inputs

_SETTINGS = "HelmChartConfig"
_POOL = "IPAddressPool"


@dataclass(frozen=True)
class _Params:
    opennebula: OpenNebulaParams
    keepalived: VipParams
    haproxy: BalancerParams
    rke2: Rke2Params
    storage: StoragePlace
    components: Values


@cache
def _services(component: str) -> dict[str, Service]:
    used = {field.name for field in fields(_Params)} - {COMPONENTS} | {component}
    services = load_services([packaged_services()])
    return {name: service for name, service in services.items() if name in used}


def _documents(component: str, context: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    services = _services(component)
    parsed, _ = parse_for_role("master", Context(context, "vector"), services)
    params = build_view(_Params, values_for(_Params, parsed, services))
    problems = (*parsed.problems, *check_components(params, services).problems)
    if problems:
        raise ParameterProblems(problems)
    for file in build_manifests(params, services):
        yield from yaml.safe_load_all(file.text)


def decide_metallb(inputs: Inputs) -> dict[str, Any]:
    """Tell the pools, and which of them are announced in the nodes' network."""
    context = {**inputs.context, "ONEAPP_K8S_METALLB_ENABLED": "YES"}
    documents = list(_documents("metallb", context))
    pools = [one for one in documents if one["kind"] == _POOL]
    return {
        "pools": [
            {"name": one["metadata"]["name"], "addresses": one["spec"]["addresses"]}
            for one in pools
        ],
        "l2_advertised": [
            name
            for one in documents
            if one["kind"] == "L2Advertisement"
            for name in one["spec"]["ipAddressPools"]
        ],
    }


def decide_cilium(inputs: Inputs) -> dict[str, Any]:
    """Tell the plug-in's settings, and the blocks of its pool."""
    context = {**inputs.context, "ONEAPP_K8S_CNI_PLUGIN": "cilium"}
    documents = list(_documents("cilium", context))
    (settings,) = (one for one in documents if one["kind"] == _SETTINGS)
    values = yaml.safe_load(settings["spec"]["valuesContent"])
    blocks = [block for one in documents if one is not settings for block in one["spec"]["blocks"]]
    announces = values["bgpControlPlane"]["enabled"]
    return {
        "k8s_service_host": values["k8sServiceHost"],
        "k8s_service_port": values["k8sServicePort"],
        "kube_proxy_replacement": values["kubeProxyReplacement"],
        "bgp_enabled": announces,
        "pool_blocks": list(map(_block, blocks)) if announces else None,
    }


def _block(block: Mapping[str, str]) -> str:
    return block["cidr"] if "cidr" in block else f"{block['start']}-{block['stop']}"
