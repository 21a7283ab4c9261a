"""What does not fit together in a node's parameters for RKE2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from appliance.errors import ParameterProblems, Problem
from roles.common.addresses import build_address_book
from roles.common.endpoints import build_endpoints, find_node_nic
from roles.common.rke2config import SERVICE_LABEL, VM_LABEL
from roles.common.rke2extra import EXTRA_CONFIG_KEY, check_extra_config, parse_extra_config
from roles.common.rke2keys import LISTED_KEYS, KnownKeys
from roles.common.rke2params import NodeParams, Rke2Params

_LABELS_KEY = "ONEAPP_RKE2_NODE_LABELS"
_TAINTS_KEY = "ONEAPP_RKE2_NODE_TAINTS"
_CLUSTER_KEY = "ONEAPP_K8S_CLUSTER_CIDR"
_SERVICE_KEY = "ONEAPP_K8S_SERVICE_CIDR"
_NETWORK_KEYS = (_CLUSTER_KEY, "ONEAPP_K8S_PODS_NETWORK", _SERVICE_KEY)

_DNS = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)*"
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_QUALIFIED = rf"(?:(?P<prefix>{_DNS})/)?{_NAME}"
_LABEL = re.compile(rf"{_QUALIFIED}=(?:{_NAME})?\Z")
_TAINT = re.compile(rf"{_QUALIFIED}(?:=(?:{_NAME})?)?:(?:NoSchedule|PreferNoSchedule|NoExecute)\Z")

# A kubelet may give itself labels of Kubernetes' own domains only where they are in here.
# Source: kubernetes, staging/src/k8s.io/kubelet/pkg/apis/well_known_labels.go.
_RESERVED = re.compile(r"(?:.+\.)?(?:kubernetes\.io|k8s\.io)\Z")
_ALLOWED = re.compile(
    r"(?:(?:.+\.)?(?:kubelet|node)\.kubernetes\.io/.+"
    r"|kubernetes\.io/(?:hostname|os|arch)|beta\.kubernetes\.io/(?:os|arch|instance-type)"
    r"|(?:topology|failure-domain\.beta)\.kubernetes\.io/(?:region|zone))\Z"
)


def check_rke2(
    params: NodeParams, known: KnownKeys | None = LISTED_KEYS
) -> tuple[list[Problem], list[str]]:
    """Find what is wrong with a node's parameters for RKE2: problems and warnings.

    Args:
        params: Of the node.
        known: What RKE2 understands; None before the installed one was asked.
    """
    rke2 = params.rke2
    extra_problems, warnings = check_extra_config(rke2.extra_config, known)
    problems = [
        *_check_nic(params),
        *_check_networks(rke2),
        *_check_labels(rke2),
        *_check_taints(rke2),
        *(extra_problems or _check_extra_labels(rke2)),
        *_check_joining(params),
    ]
    return problems, [*warnings, *_doubts(params)]


def _check_nic(params: NodeParams) -> tuple[Problem, ...]:
    try:
        find_node_nic(params)
    except ParameterProblems as wrong:
        return wrong.problems
    return ()


def _check_networks(rke2: Rke2Params) -> Iterator[Problem]:
    pods, services = rke2.cluster_networks, rke2.service_networks
    if {network.version for network in pods} != {network.version for network in services}:
        yield Problem(
            _SERVICE_KEY,
            ",".join(map(str, services)),
            f"expected the same kinds of addresses as {_CLUSTER_KEY} has"
            f" ({','.join(map(str, pods))}): IPv4, IPv6, or both",
            depends_on=_NETWORK_KEYS,
        )
    for service in services:
        for pod in pods:
            if _overlap(pod, service):
                yield Problem(
                    _SERVICE_KEY,
                    str(service),
                    f"overlaps {_CLUSTER_KEY}={pod}; pods and services need networks of their own",
                    depends_on=_NETWORK_KEYS,
                )


def _overlap(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def _check_labels(rke2: Rke2Params) -> Iterator[Problem]:
    for label in rke2.node_labels or ():
        wrong = _what_is_wrong_with_label(label)
        if wrong:
            yield Problem(_LABELS_KEY, label, wrong)


def _what_is_wrong_with_label(label: str) -> str | None:
    found = _LABEL.match(label)
    key = label.partition("=")[0]
    if not found:
        return "expected a label such as example.org/rack=r7"
    if key in (VM_LABEL, SERVICE_LABEL):
        return "is the agent's own label, which tells whose node it is"
    if _RESERVED.match(found["prefix"] or "") and not _ALLOWED.match(key):
        return "a node may not give itself this label of Kubernetes' own; RKE2 would not start"
    return None


def _check_taints(rke2: Rke2Params) -> Iterator[Problem]:
    for taint in rke2.node_taints or ():
        if not _TAINT.match(taint):
            yield Problem(
                _TAINTS_KEY,
                taint,
                "expected a taint such as example.org/gpu=true:NoSchedule, with effect NoSchedule,"
                " PreferNoSchedule or NoExecute",
            )


def _check_extra_labels(rke2: Rke2Params) -> Iterator[Problem]:
    extra = parse_extra_config(rke2.extra_config or "")
    for key in ("node-label", "node-label+"):
        value = extra.get(key, [])
        for label in value if isinstance(value, list) else [value]:
            wrong = _what_is_wrong_with_label(str(label))
            if wrong:
                yield Problem(EXTRA_CONFIG_KEY, None, f"{key}: {label}: {wrong}")


def _check_joining(params: NodeParams) -> Iterator[Problem]:
    rke2 = params.rke2
    if rke2.join_token and build_endpoints(params).supervisor is None:
        yield Problem(
            "ONEAPP_K8S_ADDRESS",
            None,
            "missing: ONEAPP_K8S_TOKEN alone does not tell where to join, and there is no gateway",
            depends_on=("ONEAPP_K8S_TOKEN",),
        )
    if rke2.join_hash and not rke2.join_token:
        yield Problem(
            "ONEAPP_K8S_TOKEN",
            None,
            "missing: ONEAPP_K8S_HASH alone lets no node join",
            depends_on=("ONEAPP_K8S_HASH",),
        )


def _doubts(params: NodeParams) -> Iterator[str]:
    rke2 = params.rke2
    if rke2.no_proxy and not (rke2.http_proxy or rke2.https_proxy):
        yield "ONEAPP_K8S_NO_PROXY has no effect: no proxy is given"
    yield from _overlaps_with_own(params)


def _overlaps_with_own(params: NodeParams) -> Iterator[str]:
    """Warn about a cluster network that holds the VM's own; a guessed mask tells nothing."""
    given = params.opennebula.nic_masks
    for nic in build_address_book(params.opennebula, {}).nics:
        if nic.address is None or nic.number not in given:
            continue
        for key, networks in (
            (_CLUSTER_KEY, params.rke2.cluster_networks),
            (_SERVICE_KEY, params.rke2.service_networks),
        ):
            for network in networks:
                if _overlap(network, nic.address.network):
                    yield (
                        f"{key}={network} overlaps {nic.address.network}, the network of"
                        f" {nic.name}: pods will not reach what is there"
                    )
