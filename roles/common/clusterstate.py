"""What a node keeps about the cluster it belongs to, and where RKE2 keeps its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from appliance import paths
from appliance.actions import WriteFile
from appliance.facts import Facts, read_if_text
from appliance.secret import Secret
from appliance.system import System

CLUSTER = paths.STATE_DIR / "cluster.json"
SERVER_TOKEN = paths.STATE_DIR / "server-token"
AGENT_TOKEN = paths.STATE_DIR / "agent-token"

_RKE2 = PurePosixPath("/var/lib/rancher/rke2")
ETCD_DATA = _RKE2 / "server/db/etcd/member/wal"
NODE_TOKEN = _RKE2 / "server/node-token"
NODE_AGENT_TOKEN = _RKE2 / "server/agent-token"
TOKENS = (SERVER_TOKEN, AGENT_TOKEN, NODE_TOKEN, NODE_AGENT_TOKEN)
NODE_PASSWORD = PurePosixPath("/etc/rancher/node/password")
KUBECONFIG = PurePosixPath("/etc/rancher/rke2/rke2.yaml")
CONFIG = PurePosixPath("/etc/rancher/rke2/config.yaml.d/50-oneke.yaml")

FOUNDER, JOINED = "founder", "joined"


@dataclass(frozen=True)
class ClusterState:
    """What outlasts a boot.

    Attributes:
        node_name: The node's name, pinned when it first began to join.
        kind: `founder` or `joined`; empty before either was begun.
        server: The address of the supervisor it joins by, as host and port; empty for none.
        is_member: Whether it was a part of the cluster once: then it is only started again.
        published: A digest of what was published for siblings last; empty for nothing.
    """

    node_name: str = ""
    kind: str = ""
    server: str = ""
    is_member: bool = False
    published: str = ""


def read_cluster_state(facts: Facts) -> ClusterState:
    """Return what is kept; an empty state where nothing readable is."""
    return _parse(facts.files.get(CLUSTER))


def _parse(text: str | None) -> ClusterState:
    try:
        kept = json.loads(text or "{}")
    except ValueError:
        return ClusterState()
    if not isinstance(kept, Mapping):
        return ClusterState()
    known = {
        name: kept[name]
        for name, default in asdict(ClusterState()).items()
        if isinstance(kept.get(name), type(default))
    }
    return ClusterState(**known)


def read_pinned_name(system: System) -> str:
    """Return the name this node joined with; empty before it has."""
    return _parse(read_if_text(system, CLUSTER)).node_name


def keep_cluster_state(state: ClusterState) -> WriteFile:
    """Return the action that keeps it."""
    return WriteFile(CLUSTER, f"{json.dumps(asdict(state), indent=1)}\n", mode=0o600)


def password_of(token: str) -> str:
    """Return the secret part of a token, without the CA's hash and the user before it.

    Source: K10<hash>::<user>:<password>.
    """
    return token.strip().rpartition("::")[2].partition(":")[2] or token.strip()


def read_server_token(facts: Facts) -> Secret:
    """Return the servers' token: the agent's copy, else RKE2's; empty before there is any."""
    return Secret(facts.files.get(SERVER_TOKEN) or facts.files.get(NODE_TOKEN) or "")


def read_agent_token(facts: Facts) -> Secret:
    """Return the separate token of workers, likewise; empty where they join with the servers'."""
    kept = facts.files.get(AGENT_TOKEN)
    if kept:
        return Secret(kept)
    password = password_of(facts.files.get(NODE_AGENT_TOKEN) or "")
    is_servers = password == password_of(facts.files.get(NODE_TOKEN) or "")
    return Secret("" if is_servers else password)


def cluster_id_of(node_token: str) -> str:
    """Return the hash of the CA in a pinned token; empty where there is none."""
    head, separator, _ = node_token.strip().partition("::")
    return head.removeprefix("K10") if separator and head.startswith("K10") else ""
