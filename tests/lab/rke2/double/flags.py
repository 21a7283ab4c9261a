"""The flags of `rke2 server` and `rke2 agent`: which there are, of what kind, and the help."""

from __future__ import annotations

from dataclasses import dataclass

BOTH = ("server", "agent")
SERVER = ("server",)
COMPONENTS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kube-proxy", "cloud-controller-manager"),
)


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        kind: `text`, `list`, `bool`, `int` or `duration`.
        roles: Subcommands that know it.
        splits: Whether commas separate entries of the list.
    """

    name: str
    kind: str = "text"
    roles: tuple[str, ...] = BOTH
    default: str = ""
    help: str = ""
    env: str = ""
    short: str = ""
    splits: bool = False


def _flags(kind: str, roles: tuple[str, ...], names: str, *, splits: bool = False) -> list[Flag]:
    return [Flag(name, kind, roles, splits=splits) for name in names.split()]


FLAGS: tuple[Flag, ...] = (
    Flag(
        "config",
        default="/etc/rancher/rke2/config.yaml",
        help="(config) Load configuration from FILE",
        env="RKE2_CONFIG_FILE",
        short="c",
    ),
    Flag("debug", "bool", help="(logging) Turn on debug logs", env="RKE2_DEBUG"),
    Flag("data-dir", default="/var/lib/rancher/rke2", short="d", env="RKE2_DATA_DIR"),
    Flag("token", help="(cluster) Shared secret used to join", env="RKE2_TOKEN", short="t"),
    Flag("token-file", help="(cluster) File containing the token", env="RKE2_TOKEN_FILE"),
    Flag("server", help="(cluster) Server to connect to", env="RKE2_URL", short="s"),
    Flag("agent-token", roles=SERVER, env="RKE2_AGENT_TOKEN"),
    Flag("agent-token-file", roles=SERVER, env="RKE2_AGENT_TOKEN_FILE"),
    Flag("node-name", help="(agent/node) Node name", env="RKE2_NODE_NAME"),
    Flag("with-node-id", "bool", help="(agent/node) Append id to node name"),
    Flag("write-kubeconfig", roles=SERVER, short="o", env="RKE2_KUBECONFIG_OUTPUT"),
    Flag("write-kubeconfig-mode", roles=SERVER, env="RKE2_KUBECONFIG_MODE"),
    Flag("cluster-cidr", "list", SERVER, "10.42.0.0/16", splits=True),
    Flag("service-cidr", "list", SERVER, "10.43.0.0/16", splits=True),
    Flag("cluster-domain", roles=SERVER, default="cluster.local"),
    Flag("service-node-port-range", roles=SERVER, default="30000-32767"),
    Flag("cni", "list", SERVER, "canal", splits=True),
    Flag("egress-selector-mode", roles=SERVER, default="agent"),
    Flag("bind-address", default="0.0.0.0"),
    Flag("tls-san-security", "bool", SERVER, "true"),
    Flag("servicelb-namespace", roles=SERVER, default="kube-system"),
    Flag("lb-server-port", "int", default="6444", env="RKE2_LB_SERVER_PORT"),
    Flag("etcd-snapshot-schedule-cron", roles=SERVER, default="0 */12 * * *"),
    Flag("etcd-snapshot-retention", "int", SERVER, "5"),
    Flag("etcd-snapshot-name", roles=SERVER, default="etcd-snapshot"),
    Flag("etcd-snapshot-reconcile-interval", "duration", SERVER, "10m0s"),
    Flag("etcd-s3-endpoint", roles=SERVER, default="s3.amazonaws.com"),
    Flag("etcd-s3-region", roles=SERVER, default="us-east-1"),
    Flag("etcd-s3-timeout", "duration", SERVER, "5m0s"),
    Flag("etcd-s3-retention", "int", SERVER, "5"),
    *_flags("list", SERVER, "tls-san disable cluster-dns ingress-controller", splits=True),
    *_flags("list", BOTH, "node-ip node-external-ip", splits=True),
    *_flags(
        "list",
        BOTH,
        "node-label node-taint node-internal-dns node-external-dns kubelet-arg kube-proxy-arg "
        "airgap-extra-registry "
        "image-credential-provider-bin-dir control-plane-resource-requests "
        "control-plane-resource-limits control-plane-probe-configuration "
        + " ".join(f"{name}-extra-{kind}" for name in COMPONENTS for kind in ("mount", "env")),
    ),
    *_flags(
        "list",
        SERVER,
        "etcd-arg kube-apiserver-arg kube-controller-manager-arg kube-scheduler-arg "
        "kube-cloud-controller-manager-arg helm-controller-arg",
    ),
    *_flags(
        "bool",
        SERVER,
        "disable-cloud-controller disable-kube-proxy disable-apiserver disable-etcd "
        "disable-scheduler disable-controller-manager enable-servicelb secrets-encryption "
        "embedded-registry supervisor-metrics etcd-expose-metrics etcd-disable-snapshots "
        "etcd-snapshot-compress etcd-s3 etcd-s3-insecure etcd-s3-skip-ssl-verify cluster-reset",
    ),
    *_flags(
        "bool",
        BOTH,
        "protect-kernel-defaults selinux enable-pprof disable-default-registry-endpoint",
    ),
    *_flags(
        "text",
        SERVER,
        "advertise-address write-kubeconfig-group write-kubeconfig-name "
        "secrets-encryption-provider "
        "datastore-endpoint datastore-cafile datastore-certfile datastore-keyfile "
        "etcd-snapshot-dir etcd-s3-bucket etcd-s3-folder etcd-s3-access-key etcd-s3-secret-key "
        "etcd-s3-endpoint-ca etcd-s3-proxy etcd-s3-config-secret etcd-s3-session-token "
        "etcd-s3-bucket-lookup-type cluster-reset-restore-path helm-job-image",
    ),
    *_flags(
        "text",
        BOTH,
        "system-default-registry private-registry snapshotter default-runtime resolv-conf "
        "container-runtime-endpoint cloud-provider-name cloud-provider-config profile "
        "image-credential-provider-config kubelet-path pause-image runtime-image "
        "audit-policy-file pod-security-admission-config-file "
        + " ".join(f"{name}-image" for name in COMPONENTS),
    ),
)


def known_flags(role: str) -> dict[str, Flag]:
    """Flags of a subcommand, by name."""
    return {flag.name: flag for flag in FLAGS if role in flag.roles}


def render_help(role: str) -> str:
    """What `rke2 ROLE --help` prints."""
    usage = {"server": "Run management server", "agent": "Run node agent"}[role]
    lines = ["NAME:", f"   rke2 {role} - {usage}", "", "USAGE:", f"   rke2 {role} [OPTIONS]", ""]
    lines += ["OPTIONS:"]
    for flag in known_flags(role).values():
        value = "FILE" if flag.name == "config" else "value"
        left = f"--{flag.name}" if flag.kind == "bool" else f"--{flag.name} {value}"
        if flag.short:
            left += f", -{flag.short}" + ("" if flag.kind == "bool" else f" {value}")
        if flag.kind == "list":
            left += f" [ --{flag.name} {value} ]"
        right = flag.help or "(components) " + flag.name.replace("-", " ")
        if flag.default:
            quoted = f'"{flag.default}"' if flag.kind in ("text", "list") else flag.default
            right += f" (default: {quoted})"
        if flag.env:
            right += f" [${flag.env}]"
        lines.append(f"   {left:<64} {right}")
    lines.append(f"   {'--help, -h':<64} show help")
    return "\n".join(lines) + "\n"
