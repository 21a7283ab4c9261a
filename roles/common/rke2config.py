"""RKE2's configuration on a node: what is in it and how it is written.

The file holds no secret of the agent's: tokens are named by the files they are in.
Source: rancher/rke2 and k3s-io/k3s, pkg/configfilearg (how files are merged and translated).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import yaml

from roles.common.clusterstate import AGENT_TOKEN, SERVER_TOKEN
from roles.common.endpoints import ClusterNode, build_tls_sans
from roles.common.registries import settings_of
from roles.common.rke2extra import Config, items_of, merge_extra_config, parse_extra_config
from roles.common.rke2keys import LISTED_KEYS, KnownKeys, may_hold_secret
from roles.common.rke2params import NodeParams, RunningParams

VM_LABEL = "oneke.opennebula.io/vm-id"
SERVICE_LABEL = "oneke.opennebula.io/service-id"
NO_SERVICE = "none"
"""What the label of a VM outside of OneFlow says, so that it is not taken for an older agent's."""
MASTER_TAINT = "CriticalAddonsOnly=true:NoExecute"
STORAGE_LABEL = "node.longhorn.io/create-default-disk=true"
STORAGE_TAINT = "node.longhorn.io/create-default-disk=true:NoSchedule"

_HEADER = """\
# Written by oneke-agent; local changes will be overwritten. Own settings belong into
# ONEAPP_RKE2_EXTRA_CONFIG, or into a file with a higher number beside this one.
"""
SENSITIVE_MARK = "# A setting below may hold a secret."
_PACKAGED_INGRESS = "rke2-ingress-nginx"
# From this version on a new cluster gets an ingress controller unless it asks for none.
_WITH_TRAEFIK = (1, 36)


def parse_version(text: str) -> tuple[int, int] | None:
    """Read major and minor version out of what `rke2 --version` prints; None where it has none."""
    found = re.search(r"\bv?([0-9]{1,3})\.([0-9]{1,3})\.[0-9]", text)
    return (int(found[1]), int(found[2])) if found else None


def build_server_config(
    params: RunningParams,
    node: ClusterNode,
    *,
    server: str,
    has_agent_token: bool = True,
    version: str = "",
    more: Mapping[str, object] = MappingProxyType({}),
) -> Config:
    """Decide a master's settings.

    Args:
        params: Of the node.
        node: Who it is.
        server: The supervisor it joins by, as host and port; empty where it founds the cluster.
        has_agent_token: Whether workers and storage nodes join with a token of their own.
        version: What `rke2 --version` prints; empty where it is not known.
        more: What masters alone have a say in, such as snapshots.
    """
    rke2 = params.rke2
    taints = [MASTER_TAINT] if rke2.masters_tainted else []
    config = {
        **_of_any_node(params, node, server, labels=[], taints=taints),
        "token-file": str(SERVER_TOKEN),
        **({"agent-token-file": str(AGENT_TOKEN)} if has_agent_token else {}),
        "tls-san": list(build_tls_sans(params, node.endpoints)),
        "cni": [*(["multus"] if rke2.multus_enabled else []), rke2.cni_plugin],
        "cluster-cidr": ",".join(map(str, rke2.cluster_networks)),
        "service-cidr": ",".join(map(str, rke2.service_networks)),
        "disable-kube-proxy": rke2.cni_plugin == "cilium",
        "disable-cloud-controller": not rke2.cloud_controller_enabled,
        "disable": [_PACKAGED_INGRESS],
        **settings_of(params.registries, is_server=True, is_airgapped=params.airgap.enabled),
        **more,
    }
    if (parse_version(version) or (0, 0)) >= _WITH_TRAEFIK:
        config["ingress-controller"] = "none"
    return merge_extra_config(config, parse_extra_config(rke2.extra_config or ""))


def build_agent_config(
    params: RunningParams,
    node: ClusterNode,
    *,
    server: str,
    is_storage: bool = False,
    known: KnownKeys = LISTED_KEYS,
) -> Config:
    """Decide the settings of a worker or a storage node.

    Args:
        params: Of the node.
        node: Who it is.
        server: The supervisor it joins by, as host and port.
        is_storage: Whether Longhorn keeps its data here, and ordinary pods stay away.
        known: What RKE2 understands; of the user's settings, those of servers are left out.
    """
    labels, taints = ([STORAGE_LABEL], [STORAGE_TAINT]) if is_storage else ([], [])
    config = {
        **_of_any_node(params, node, server, labels=labels, taints=taints),
        "token-file": str(AGENT_TOKEN),
        **settings_of(params.registries, is_server=False, is_airgapped=params.airgap.enabled),
    }
    only_servers = known.server - known.agent
    return merge_extra_config(
        config, parse_extra_config(params.rke2.extra_config or ""), only_servers
    )


def _of_any_node(
    params: NodeParams,
    node: ClusterNode,
    server: str,
    *,
    labels: Sequence[str],
    taints: Sequence[str],
) -> Config:
    lists = {
        "node-label": [*_own_labels(params), *labels, *(params.rke2.node_labels or ())],
        "node-taint": [*taints, *(params.rke2.node_taints or ())],
    }
    return {
        **({"server": f"https://{server}"} if server else {}),
        "node-name": node.node_name,
        "node-ip": str(node.address),
        **{key: list(items_of(items)) for key, items in lists.items() if items},
    }


def _own_labels(params: NodeParams) -> list[str]:
    """Return the labels by which the cleaner knows whose node it is."""
    vm_id, service_id = params.opennebula.vm_id, params.opennebula.service_id
    if vm_id is None:
        return []
    service = NO_SERVICE if service_id is None else service_id
    return [f"{VM_LABEL}={vm_id}", f"{SERVICE_LABEL}={service}"]


def render_config(config: Mapping[str, object]) -> str:
    """Write the settings as the text of RKE2's configuration file."""
    header = f"{_HEADER}{SENSITIVE_MARK}\n" if holds_secret(config) else _HEADER
    return header + yaml.safe_dump(
        dict(config), default_flow_style=False, sort_keys=False, allow_unicode=True, width=10_000
    )


def holds_secret(config: Mapping[str, object]) -> bool:
    """Say whether a user's settings may hold a secret, so that the file must not be shown."""
    return any(may_hold_secret(key) for key in config)


def published_kubeconfig(text: str, node: ClusterNode) -> str:
    """Return the administrator's kubeconfig for use from outside.

    RKE2 writes it for use on the master itself. The server becomes the control plane's endpoint as
    it is given, so that a name stays one.

    Args:
        text: RKE2's own.
        node: The master.
    """
    endpoint = node.endpoints.control_plane
    if endpoint is None:
        return text
    return re.sub(r"^(\s*server:\s*).*$", rf"\g<1>{endpoint.url}", text, flags=re.MULTILINE)
