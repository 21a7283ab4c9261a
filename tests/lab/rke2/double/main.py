"""The command `rke2`, and the parts of the double that run as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from . import journal, pods
from .flags import render_help
from .journal import Fatal, event, log
from .knobs import Knobs

USAGE = """NAME:
   rke2 - Rancher Kubernetes Engine 2

USAGE:
   rke2 [global options] command [command options]

COMMANDS:
   server         Run management server
   agent          Run node agent
   etcd-snapshot  Manage etcd snapshots
   certificate    Manage RKE2 certificates
   token          Manage tokens

GLOBAL OPTIONS:
   --debug        (logging) Turn on debug logs [$RKE2_DEBUG]
   --help, -h     show help
   --version, -v  print the version
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    if command in ("--version", "-v"):
        print(f"rke2 version {Knobs().version()[1]} (double)\ngo version go1.25.6")
        return 0
    if command in ("server", "agent"):
        if rest[:1] in (["--help"], ["-h"]):
            print(render_help(command), end="")
            return 0
        return run_role(command, rest)
    if command == "apiserver":
        from . import apiserver

        return apiserver.run(rest[0])
    if command == "ingress":
        from . import ingress

        return ingress.run(rest[0])
    if command in ("container", "container-init"):
        from . import container
        from .kubelet import double_argv

        if command == "container-init":
            return container.become(rest[0])
        return container.keep(rest[0], double_argv("container-init"))
    if command in ("etcd-snapshot", "token", "certificate"):
        from . import admin

        return admin.run(command, rest)
    if command in ("kubectl", "crictl"):
        from . import tools

        return tools.run(command, rest)
    print(USAGE, end="")
    return 0 if command in ("--help", "-h", "help") else 1


def run_role(role: str, arguments: Sequence[str]) -> int:
    """Be a server or an agent; servers end with status 1 where the real ones do."""
    signal.signal(signal.SIGTERM, lambda *_: _stop())
    signal.signal(signal.SIGINT, lambda *_: _end(0))
    os.umask(0o022)
    try:
        if role == "server":
            from . import server

            server.run(arguments)
        else:
            from . import agent

            agent.run(arguments)
    except Fatal as error:
        log("fatal", str(error))
        event("process.fatal", role=role, message=str(error))
        _end(1)
    return 0


def _stop() -> None:
    """End; where the whole machine goes down the pods are not kept waiting for."""
    argv = ["systemctl", "is-system-running"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        told = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=3)
        if told.stdout.strip() == "stopping":
            for name in ("kube-apiserver", "etcd", "ingress"):
                pods.stop(name, timeout_s=0)
    _end(0)


def _end(status: int) -> None:
    """End at once; threads of servers are not waited for."""
    journal.event("process.ended", status=status)
    sys.stdout.flush()
    time.sleep(0.02)
    os._exit(status)
