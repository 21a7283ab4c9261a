"""What RKE2 understands in its configuration file, and what of that is not the user's to set.

A wrong key never fails: RKE2 warns about it in its log, skips it and starts. So keys are checked
here, against what the installed program says about itself, else against a list.
Source: rancher/rke2, pkg/cli/cmds/{server,agent,root}.go; rke2-docs, docs/reference.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

# An option's line in the help text: `   --token value, -t value   (cluster) ...`.
_OPTION_LINE = re.compile(r"\s+(?:-[A-Za-z](?: \S+)?, )?--[a-z0-9]")
_OPTION = re.compile(r"--([a-z0-9][a-z0-9-]*)")
_NEAR = 0.8

_COMPONENTS = (
    *("kube-apiserver", "kube-scheduler", "kube-controller-manager", "kube-proxy", "etcd"),
    "cloud-controller-manager",
)
_IMAGES = (*_COMPONENTS, "pause", "runtime")

_AGENT_KEYS = frozenset(
    {
        *("config", "debug", "data-dir", "token", "token-file", "server"),
        *("node-name", "with-node-id", "node-label", "node-taint", "node-ip", "node-external-ip"),
        *("node-internal-dns", "node-external-dns", "bind-address", "resolv-conf"),
        *("image-credential-provider-bin-dir", "image-credential-provider-config"),
        *("selinux", "lb-server-port", "protect-kernel-defaults", "profile"),
        *("container-runtime-endpoint", "default-runtime", "snapshotter", "private-registry"),
        *("system-default-registry", "airgap-extra-registry", "disable-default-registry-endpoint"),
        *("kubelet-arg", "kube-proxy-arg", "kubelet-path", "enable-pprof"),
        *("control-plane-resource-requests", "control-plane-resource-limits"),
        *("control-plane-probe-configuration", "cloud-provider-name", "cloud-provider-config"),
        *("audit-policy-file", "pod-security-admission-config-file"),
        *(f"{name}-extra-mount" for name in _COMPONENTS),
        *(f"{name}-extra-env" for name in _COMPONENTS),
        *(f"{name}-image" for name in _IMAGES),
    }
)

_SERVER_KEYS = frozenset(
    {
        *_AGENT_KEYS,
        *("advertise-address", "tls-san", "tls-san-security", "agent-token", "agent-token-file"),
        *("cluster-cidr", "service-cidr", "service-node-port-range", "cluster-dns"),
        *("cluster-domain", "egress-selector-mode", "servicelb-namespace", "enable-servicelb"),
        *("cni", "ingress-controller", "disable", "disable-scheduler", "disable-kube-proxy"),
        *("disable-cloud-controller", "disable-apiserver", "disable-controller-manager"),
        *("disable-etcd", "cluster-reset", "cluster-reset-restore-path"),
        *("write-kubeconfig", "write-kubeconfig-mode", "write-kubeconfig-group"),
        *("write-kubeconfig-name", "helm-job-image", "helm-controller-arg"),
        *("secrets-encryption", "secrets-encryption-provider", "embedded-registry"),
        *("supervisor-metrics", "etcd-expose-metrics", "etcd-arg"),
        *("kube-apiserver-arg", "kube-controller-manager-arg", "kube-scheduler-arg"),
        "kube-cloud-controller-manager-arg",
        *("datastore-endpoint", "datastore-cafile", "datastore-certfile", "datastore-keyfile"),
        *("etcd-disable-snapshots", "etcd-snapshot-name", "etcd-snapshot-schedule-cron"),
        *("etcd-snapshot-retention", "etcd-snapshot-dir", "etcd-snapshot-compress"),
        *("etcd-snapshot-reconcile-interval", "etcd-s3", "etcd-s3-endpoint"),
        *("etcd-s3-endpoint-ca", "etcd-s3-skip-ssl-verify", "etcd-s3-access-key"),
        *("etcd-s3-secret-key", "etcd-s3-session-token", "etcd-s3-bucket"),
        *("etcd-s3-bucket-lookup-type", "etcd-s3-region", "etcd-s3-folder"),
        *("etcd-s3-retention", "etcd-s3-proxy", "etcd-s3-config-secret", "etcd-s3-insecure"),
        "etcd-s3-timeout",
    }
)

# What the agent's own work rests on: who the node is, how it joins, and what its state is read
# from. Beside the key stands why.
_JOINING = "the agent decides how this node joins"
_NAMING = "the agent pins the node's name; give ONEAPP_K8S_NODENAME"
_ELECTION = "the agent founds and joins clusters whose servers all run etcd and the API"
_OWNED = {
    **dict.fromkeys(("server", "token", "token-file", "agent-token", "agent-token-file"), _JOINING),
    **dict.fromkeys(("node-name", "with-node-id"), _NAMING),
    "node-ip": "the agent takes it from the node's interface; give ONEAPP_K8S_NODE_NIC",
    **dict.fromkeys(
        ("cluster-reset", "cluster-reset-restore-path"),
        "a reset is done once, by hand, never by a configuration file",
    ),
    **dict.fromkeys(
        ("data-dir", "config", "write-kubeconfig", "write-kubeconfig-name"),
        "the agent reads RKE2's files where they usually are",
    ),
    **dict.fromkeys(("disable-etcd", "disable-apiserver", "disable-agent"), _ELECTION),
    **dict.fromkeys(
        ("datastore-endpoint", "datastore-cafile", "datastore-certfile", "datastore-keyfile"),
        _ELECTION,
    ),
}

_HOLDS_SECRET = re.compile(
    r"(?:access|secret|private)-key$|session-token$|s3-proxy$|-extra-env$|password|passphrase"
)


@dataclass(frozen=True)
class KnownKeys:
    """The keys that servers and agents understand."""

    server: frozenset[str]
    agent: frozenset[str]

    @property
    def every(self) -> frozenset[str]:
        """The keys that either understands."""
        return self.server | self.agent


LISTED_KEYS = KnownKeys(_SERVER_KEYS, _AGENT_KEYS)


def parse_help(text: str) -> frozenset[str]:
    """Return the options that a help text lists, without dashes; none where it lists none."""
    found: set[str] = set()
    for line in text.splitlines():
        if _OPTION_LINE.match(line):
            # What a description may mention stands behind two blanks.
            names = re.split(r"\s{2,}", line.strip(), maxsplit=1)[0]
            found.update(_OPTION.findall(names))
    return frozenset(found - {"help"})


def known_keys(server_help: str = "", agent_help: str = "") -> KnownKeys:
    """Return the keys that the installed RKE2 understands.

    Args:
        server_help: What `rke2 server --help` prints; empty where it was not asked.
        agent_help: What `rke2 agent --help` prints, likewise.
    """
    return KnownKeys(
        parse_help(server_help) or LISTED_KEYS.server, parse_help(agent_help) or LISTED_KEYS.agent
    )


def near_key(key: str, known: Iterable[str]) -> str | None:
    """Return the known key that a key looks like; None where it is like none."""
    plain = key.strip().lstrip("-").replace("_", "-").lower()
    near = difflib.get_close_matches(plain, sorted(known), n=1, cutoff=_NEAR)
    return near[0] if near else None


def why_owned(key: str) -> str | None:
    """Say why a key is not the user's to set; None where it is."""
    return _OWNED.get(key)


def may_hold_secret(key: str) -> bool:
    """Say whether a key's value may be a secret, so that the file must not be shown."""
    return bool(_HOLDS_SECRET.search(key))
