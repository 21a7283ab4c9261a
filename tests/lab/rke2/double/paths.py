"""Where the double keeps what the real RKE2 keeps there, and its own few files."""

from __future__ import annotations

import os
from pathlib import Path

CONFIG = Path("/etc/rancher/rke2/config.yaml")
ADMIN_KUBECONFIG = Path("/etc/rancher/rke2/rke2.yaml")
NODE_PASSWORD = Path("/etc/rancher/node/password")
NODE_ID = Path("/etc/rancher/node/id")
DATA = Path("/var/lib/rancher/rke2")
CNI_CONFIG = Path("/etc/cni/net.d/10-canal.conflist")

KNOBS = (Path("/etc/rke2-double.yaml"), Path("/run/rke2-double.yaml"))
EVENTS = Path("/var/log/rke2-double.jsonl")
RUN = Path("/run/rke2-double")
EFFECTIVE_CONFIG = RUN / "config.json"
ETCD = Path("/usr/local/lib/rke2-double/etcd")
POD_LOGS = Path("/var/log/pods")


def write(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Write a file so that it is there at once and with its final mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
    fresh.replace(path)


def link(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`, whatever it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
