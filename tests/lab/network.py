"""The lab's networks: a switch with two bridges, the Internet, and plain hosts.

    10.2.11.0/24 public    br-pub   gateway 10.2.11.1 (the Internet)
    172.20.0.0/24 private  br-priv  no gateway but what the gateway nodes provide

OneGate (203.0.113.40:5030), a server that tells who is asking (198.51.100.1:80) and the name server
of both networks (10.2.11.1:53) are in the Internet. It has no route to the private network: a
private node reaches them through address translation only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.basics import REPOSITORY, LabError, run, wait_until

SWITCH = "lab-sw"
INTERNET = "lab-inet"
BRIDGES = {"public": "br-pub", "private": "br-priv"}

PUBLIC_GATEWAY = "10.2.11.1"
PEER_SERVER = "198.51.100.1"
ONEGATE_ADDRESS = "203.0.113.40"
ONEGATE_PORT = 5030
NAMES = {"peer.example": PEER_SERVER}
"""What the name server knows; of any other name it knows that there is none."""

INTERFACE_NAME_MAX = 15


def ip(*arguments: str, namespace: str | None = None, check: bool = True) -> str:
    """Run ip(8), in a named namespace if one is given, and return what it prints."""
    where = ["-n", namespace] if namespace else []
    return run(["ip", *where, *arguments], check=check).stdout


def enter_argv(namespace: str) -> list[str]:
    """What to put before a command that is to run in a named network namespace."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


class Process:
    """A program of the lab that runs beside the nodes; what it prints is kept."""

    def __init__(self, argv: Sequence[str], what: str) -> None:
        self.what = what
        self.output = ""
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=REPOSITORY,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def wait_ready(self, timeout_s: float = 20) -> None:
        """Wait until it has printed the line `ready`.

        Raises:
            LabError: If it ends before, or the time is over.
        """

        def ready() -> bool:
            if "ready" in self.output.splitlines():
                return True
            if not self.is_running:
                raise LabError(f"it ended with status {self._process.returncode}: {self.output}")
            return False

        wait_until(ready, timeout_s, f"{self.what} to be ready", every_s=0.02)

    def stop(self, timeout_s: float = 10) -> None:
        """End it: asked first, then forced."""
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is not None:
            with stdout:
                for line in stdout:
                    self.output += line


class Switch:
    """The bridges, in a network namespace of their own."""

    def __init__(self) -> None:
        ip("netns", "add", SWITCH)
        for bridge in BRIDGES.values():
            # No snooping: there is no multicast querier, and VRRP must get through from the start.
            ip(
                *("link", "add", bridge, "type", "bridge"),
                *("forward_delay", "0", "mcast_snooping", "0"),
                namespace=SWITCH,
            )
            ip("link", "set", bridge, "up", namespace=SWITCH)

    def close(self) -> None:
        """Remove the namespace and so every bridge and cable in it."""
        ip("netns", "del", SWITCH)

    def cables(self) -> set[str]:
        """Names of the cable ends that are in the switch now."""
        return {link["ifname"] for link in json.loads(ip("-j", "link", "show", namespace=SWITCH))}

    def connect(self, cable: str, network: str) -> None:
        """Put a cable end into the bridge of a network and switch it on."""
        ip("link", "set", cable, "master", BRIDGES[network], "up", namespace=SWITCH)

    def disconnect(self, cable: str) -> None:
        """Take the carrier away, as a pulled cable does."""
        ip("link", "set", cable, "down", namespace=SWITCH)

    def isolate(self, cable: str) -> None:
        """Let nothing through while the carrier stays, as a broken network does."""
        ip("link", "set", cable, "nomaster", namespace=SWITCH)

    def add_cable(self, cable: str, namespace: str, network: str) -> None:
        """Lay a cable from the switch to a namespace, where it becomes eth0."""
        if len(cable) > INTERFACE_NAME_MAX:
            raise LabError(f"{cable}: interface names have at most {INTERFACE_NAME_MAX} characters")
        ip(
            *("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace),
            namespace=SWITCH,
        )
        self.connect(cable, network)


class Host:
    """A plain machine on one network: a namespace with an address, and perhaps servers.

    Attributes:
        name: As it was asked for.
        address: Without prefix length.
    """

    def __init__(
        self, switch: Switch, name: str, network: str, address: str, gateway: str | None
    ) -> None:
        self.name = name
        self.address = address.partition("/")[0]
        self.namespace = f"lab-h-{name}"
        self._servers: list[Process] = []
        ip("netns", "add", self.namespace)
        switch.add_cable(f"h-{name}", self.namespace, network)
        ip("link", "set", "lo", "up", namespace=self.namespace)
        ip("address", "add", address, "brd", "+", "dev", "eth0", namespace=self.namespace)
        ip("link", "set", "eth0", "up", namespace=self.namespace)
        if gateway:
            ip("route", "add", "default", "via", gateway, namespace=self.namespace)

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine in the host's network.

        Raises:
            CommandFailed: On a status other than 0 (with `check`) or when the time is over.
        """
        return run(
            [*enter_argv(self.namespace), *argv],
            check=check,
            timeout_s=timeout_s,
            where=self.name,
            shown=argv,
        )

    def start(self, argv: Sequence[str]) -> Process:
        """Run a command in the host's network in the background; the lab's end stops it."""
        process = Process([*enter_argv(self.namespace), *argv], f"{argv[0]} on {self.name}")
        self._servers.append(process)
        return process

    def fetch(self, url: str, *, timeout_s: float = 5) -> str:
        """Body of a URL without its last line end.

        Raises:
            CommandFailed: If there is no answer in time, or one with a status of 400 or more.
        """
        limit = f"{timeout_s:g}"
        argv = ["curl", "-sS", "--insecure", "--fail", "--max-time", limit, url]
        return self.run(argv, timeout_s=timeout_s + 5).stdout.rstrip("\n")

    def serve(
        self,
        port: int,
        answer: str | None = None,
        *,
        address: str = "0.0.0.0",
        statuses: Mapping[str, int] | None = None,
        tls: bool = False,
    ) -> Process:
        """Start an HTTP server that answers with the host's name, and return it when it listens.

        Args:
            port: Where to listen.
            answer: Another text than the name; `"peer"` tells who is asking.
            address: Where to listen.
            statuses: HTTP statuses other than 200, by path.
            tls: Whether to speak TLS, with a certificate that nobody has signed.
        """
        argv = [sys.executable, "-m", "tests.lab.web", "--listen", f"{address}:{port}"]
        argv += ["--answer", answer or self.name, "--statuses", json.dumps(dict(statuses or {}))]
        if tls:
            argv += ["--tls", str(_certificate())]
        server = self.start(argv)
        server.wait_ready()
        return server

    def close(self) -> None:
        """Stop the servers and remove the host."""
        for server in self._servers:
            server.stop()
        ip("netns", "del", self.namespace)


class Internet:
    """The world beyond the public network's gateway; private addresses mean nothing to it."""

    def __init__(self, switch: Switch) -> None:
        ip("netns", "add", INTERNET)
        switch.add_cable("inet", INTERNET, "public")
        ip("link", "set", "lo", "up", namespace=INTERNET)
        ip("link", "set", "eth0", "up", namespace=INTERNET)
        ip("address", "add", f"{PUBLIC_GATEWAY}/24", "dev", "eth0", namespace=INTERNET)
        for address in (PEER_SERVER, ONEGATE_ADDRESS):
            ip("address", "add", f"{address}/32", "dev", "lo", namespace=INTERNET)
        peer = ("-m", "tests.lab.web", "--listen", f"{PEER_SERVER}:80")
        names = ("-m", "tests.lab.names", "--listen", f"{PUBLIC_GATEWAY}:53")
        self._processes = [
            self.start(*peer, what="peer server"),
            self.start(*names, "--names", json.dumps(NAMES), what="name server"),
        ]
        for process in self._processes:
            process.wait_ready()

    def start(self, *arguments: str, what: str) -> Process:
        """Run a Python program in the Internet; the caller stops it."""
        return Process([*enter_argv(INTERNET), sys.executable, *arguments], what)

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine in the Internet."""
        argv_there = [*enter_argv(INTERNET), *argv]
        return run(argv_there, check=check, timeout_s=timeout_s, where="Internet", shown=argv)

    def close(self) -> None:
        """Stop the servers and remove the namespace."""
        for process in self._processes:
            process.stop()
        ip("netns", "del", INTERNET)


def _certificate() -> Path:
    """A file with a key and a certificate for it; made on first use."""
    path = Path("/run/oneke-lab/server.pem")
    if not path.exists():
        made = run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"),
                *("ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "-", "-days", "30"),
                *("-subj", "/CN=lab"),
            ]
        )
        path.write_text(made.stdout)
    return path
