"""What both roles do first: read the configuration, know the node, tell systemd."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from . import paths
from .config import (
    ConfigError,
    Value,
    as_list,
    check,
    config_files,
    merge_files,
    parse_arguments,
    resolve,
    to_flags,
)
from .fetching import want_image
from .journal import component, event, fatal, info, warning
from .knobs import Knobs

TOOL = """#!/bin/sh
exec {program} {name} "$@"
"""


@dataclass(frozen=True)
class Start:
    """What a process was started with.

    Attributes:
        role: `server` or `agent`.
        values: Every flag that is set or has a default.
        token: The join token, stripped; empty if none was given.
        agent_token: The agents' own, stripped; empty if none was given.
        name: Of the node.
        addresses: Internal ones of the node, at least one.
    """

    role: str
    knobs: Knobs
    values: Mapping[str, Value]
    token: str
    agent_token: str
    name: str
    addresses: tuple[str, ...]

    @property
    def address(self) -> str:
        """The node's first address."""
        return self.addresses[0]

    @property
    def server(self) -> str:
        """URL to join at; empty if there is none."""
        return str(self.values.get("server") or "").rstrip("/")

    def entries(self, name: str) -> list[str]:
        """The entries of a list flag."""
        return as_list(self.values.get(name))


def read_start(role: str, arguments: Sequence[str]) -> Start:
    """Read files, command line and environment.

    Raises:
        Fatal: If RKE2 would not start with them.
    """
    knobs = Knobs()
    info(f"Starting rke2 {role} {knobs.version()[1]}")
    start, unknown, files = read_settings(role, arguments, knobs)
    _record(start, unknown, files)
    return start


def read_settings(
    role: str, arguments: Sequence[str], knobs: Knobs
) -> tuple[Start, list[str], list[Path]]:
    """What a process is to be started with, the keys it does not know, and the files it is from.

    Raises:
        Fatal: If RKE2 would not start with them.
    """
    try:
        given = parse_arguments(role, arguments)
        base = Path(dict(given).get("config") or os.environ.get("RKE2_CONFIG_FILE") or paths.CONFIG)
        files = config_files(base)
        merged = merge_files([(str(path), path.read_text()) for path in files])
        values, unknown = resolve(role, to_flags(merged), given, os.environ)
        for name in unknown:
            warning(f"Unknown flag --{name} found in {base.name}, skipping")
        check(role, values)
    except ConfigError as error:
        fatal(str(error))
    token, agent_token = (_secret(values, name) for name in ("token", "agent-token"))
    name = str(values.get("node-name") or socket.gethostname()).lower()
    if values.get("with-node-id"):
        name += "-" + _kept(paths.NODE_ID, secrets.token_hex(4))
    addresses = tuple(as_list(values.get("node-ip"))) or (_own_address(),)
    return Start(role, knobs, values, token, agent_token, name, addresses), unknown, files


def prepare_node() -> None:
    """Make what every node has before it talks to anybody."""
    paths.RUN.mkdir(parents=True, exist_ok=True, mode=0o755)
    _kept(paths.NODE_PASSWORD, secrets.token_hex(16))
    for folder in ("images", "pod-manifests", "etc", "logs", "containerd"):
        (paths.DATA / "agent" / folder).mkdir(parents=True, exist_ok=True)


def stage(knobs: Knobs, program: str) -> None:
    """Unpack the runtime image: from now on its tools are there."""
    digest = hashlib.sha256(knobs.version()[1].encode()).hexdigest()[:12]
    name = f"{knobs.version()[1].replace('+', '-')}-{digest}"
    folder = paths.DATA / "data" / name / "bin"
    for tool in ("kubectl", "crictl"):
        text = TOOL.format(program=program, name=tool)
        if not (folder / tool).exists() or (folder / tool).read_text() != text:
            paths.write(folder / tool, text, 0o755)
    paths.link(paths.DATA / "bin", str(folder))
    paths.write(
        paths.DATA / "agent" / "etc" / "crictl.yaml",
        "runtime-endpoint: unix:///run/k3s/containerd/containerd.sock\n",
        0o644,
    )
    event("staged")


def pass_images(knobs: Knobs) -> None:
    """Let the time of importing images go by; a full disk or a missing image ends it here."""
    want_image(knobs, f"rancher/rke2-runtime:{knobs.version()[1].replace('+', '-')}")
    knobs.pass_phase("images")
    for mode in ("image-missing", "disk-full"):
        if knobs.mode(mode):
            reason = "no space left on device" if mode == "disk-full" else "not found"
            component("kubelet", f"Failed to pull image rancher/rke2-runtime: {reason}")
            knobs.wait_while(mode)


def notify_ready() -> None:
    """Tell systemd, as a service of type notify does."""
    target = os.environ.get("NOTIFY_SOCKET")
    if not target:
        return
    if target.startswith("@"):
        target = "\0" + target[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(b"READY=1\n", target)


def host_port(url: str, default: int = 9345) -> str:
    """`host:port` of a URL."""
    split = urlsplit(url)
    return f"{split.hostname}:{split.port or default}"


def _secret(values: Mapping[str, Value], name: str) -> str:
    if text := str(values.get(name) or "").strip():
        return text
    file = str(values.get(f"{name}-file") or "")
    if not file:
        return ""
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        fatal(f"failed to read {name} from {file}: {error.strerror}")


def _kept(path: Path, fresh: str) -> str:
    """Content of a file that is made once and stays."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        paths.write(path, f"{fresh}\n")
        return fresh


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            pass
    argv = ["ip", "-4", "-o", "address", "show", "scope", "global"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    found = [line.split()[3].partition("/")[0] for line in listed.splitlines()]
    return found[0] if found else fatal("unable to select an IP from default routes")


def _record(start: Start, unknown: Sequence[str], files: Sequence[Path]) -> None:
    """Note the effective configuration for whoever tests; of secrets only their hash."""
    hidden = {
        name: hashlib.sha256(text.encode()).hexdigest()
        for name, text in (("token", start.token), ("agent-token", start.agent_token))
        if text
    }
    shown = {key: value for key, value in start.values.items() if key not in hidden}
    noted = {
        "role": start.role,
        "config": shown,
        "secrets_sha256": hidden,
        "unknown": list(unknown),
        "files": [str(path) for path in files],
        "proxies": {key: value for key, value in os.environ.items() if "proxy" in key.lower()},
        "node": start.name,
        "addresses": list(start.addresses),
    }
    paths.RUN.mkdir(parents=True, exist_ok=True)
    paths.write(paths.EFFECTIVE_CONFIG, json.dumps(noted, indent=1))
    event("process.started", role=start.role, node=start.name)
