"""`rke2 agent`: never gives up, never ends by itself."""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import paths, pki
from .balancer import Balancer
from .client import Api, Refused, Unreachable, fetch, off_clock
from .journal import error, event, fatal, info
from .kubelet import Kubelet, NodeSettings, double_argv, node_addresses, node_annotations
from .nodefiles import write_kubelet_kubeconfig, write_pod_manifest
from .start import Start, host_port, notify_ready, pass_images, prepare_node, read_start, stage
from .tokens import Token, TokenError, ca_hash, parse_token


class Agent:
    """One run of the process."""

    def __init__(self, start: Start, token: Token) -> None:
        self.start = start
        self.knobs = start.knobs
        self.token = token
        seed = host_port(start.server)
        port = int(str(start.values["lb-server-port"]))
        self.supervisors = Balancer("agent", port, seed)
        api_seed = f"{seed.rpartition(':')[0]}:6443"
        self.api_servers = Balancer("api-server-agent", 6443, api_seed)
        self._context: ssl.SSLContext | None = None

    def run(self) -> None:
        """Come up, say so, and go on until told to end."""
        prepare_node()
        self.supervisors.start()
        self._connect()
        config = self._retry(
            "config_retry",
            "Waiting to retrieve agent configuration; server is not ready: {}",
            self._get_configuration,
            write=info,
        )
        write_kubelet_kubeconfig("https://127.0.0.1:6443")
        self.knobs.wait_while("stuck-start")
        stage(self.knobs, double_argv()[-1])
        pass_images(self.knobs)
        self.api_servers.start()
        threading.Thread(target=self._follow_servers, daemon=True).start()
        write_pod_manifest("kube-proxy", wanted=not config.get("disable-kube-proxy"))
        kubelet = self._start_kubelet(config)
        kubelet.registered.wait()
        self.knobs.pass_phase("agent")
        info("rke2 agent is up and running")
        notify_ready()
        event("ready", role="agent", node=self.start.name)
        crash = self.knobs.mode("crash-after-ready")
        if crash:
            time.sleep(float(crash))
            fatal("rke2 exited: crash after ready")
        threading.Event().wait()

    # --- the supervisor ---------------------------------------------------------------------

    def _connect(self) -> None:
        """Find a server whose CA is the right one."""

        def validate() -> None:
            try:
                pem = self._fetch("/cacerts", pki.client_context(None))
            except (Unreachable, Refused) as trouble:
                raise Unreachable(f"failed to get CA certs: {trouble}") from None
            if self.token.ca_hash and self.token.ca_hash != ca_hash(pem):
                raise Unreachable(
                    "token CA hash does not match the Cluster CA certificate hash: "
                    f"{self.token.ca_hash} != {ca_hash(pem)}"
                )
            self._context = pki.client_context(pem)

        line = f"Failed to validate connection to cluster at {self.start.server}: {{}}"
        self._retry("ca_retry", line, validate, write=error, jitter=False)

    def _get_configuration(self) -> dict[str, Any]:
        """Get settings and certificates."""
        try:
            config: dict[str, Any] = json.loads(self._fetch("/v1-rke2/config"))
        except (Unreachable, Refused) as trouble:
            words = f"failed to retrieve configuration from server: {_words(trouble)}"
            raise Unreachable(words) from None
        agent = paths.DATA / "agent"
        for file in ("client-ca.crt", "server-ca.crt"):
            paths.write(agent / file, self._fetch(f"/v1-rke2/{file}"), 0o644)
        for file in ("serving-kubelet.crt", "client-kubelet.crt", "client-kube-proxy.crt"):
            _check_key((agent / file).with_suffix(".key"))
            try:
                pem = self._fetch(f"/v1-rke2/{file}")
            except Refused as refused:
                if refused.status == 403:
                    words = (
                        "Node password rejected, duplicate hostname or contents of "
                        "'/etc/rancher/node/password' may not match server node-passwd entry, try "
                        "enabling a unique node name with the --with-node-id flag"
                    )
                    raise Unreachable(words) from None
                raise
            _write_pair(agent / file, pem)
        event("agent.configured", node=self.start.name)
        return config

    def _fetch(self, path: str, context: ssl.SSLContext | None = None) -> bytes:
        if context is None and self.knobs.mode("clock-off"):
            raise off_clock(f"{self.start.server}{path}")
        chosen = context or self._context or pki.client_context(None)
        password = paths.NODE_PASSWORD.read_text().strip()
        headers = {
            "Rke2-Node-Name": self.start.name,
            "Rke2-Node-Password": password,
            "Rke2-Node-Ip": ",".join(self.start.addresses),
        }
        return fetch(
            f"{self.start.server}{path}",
            chosen,
            timeout_s=self.knobs.interval("http_timeout"),
            user=None if path == "/cacerts" else ("node", self.token.password),
            headers=headers if path.endswith(".crt") else {},
            dial=self.supervisors.candidates(),
            on_unreachable=self.supervisors.distrust,
            name="127.0.0.1",  # the real one goes through its own balancer on loopback
        )

    def _retry(
        self,
        interval: str,
        line: str,
        attempt: Callable[[], Any],
        *,
        write: Callable[[str], None],
        jitter: bool = True,
    ) -> Any:
        while True:
            try:
                return attempt()
            except (Unreachable, Refused) as trouble:
                write(line.format(_words(trouble)))
                event("agent.waiting", reason=_words(trouble))
            pause = self.knobs.interval(interval)
            time.sleep(pause * random.uniform(1, 2) if jitter else pause)

    def _follow_servers(self) -> None:
        """Keep the balancers' lists as the servers tell them."""
        while True:
            try:
                told = [str(each) for each in json.loads(self._fetch("/v1-rke2/apiservers"))]
                self.api_servers.update(told)
                self.supervisors.update([each.replace(":6443", ":9345") for each in told])
            except (Unreachable, Refused, ValueError):
                pass
            time.sleep(self.knobs.interval("endpoints"))

    # --- the node ---------------------------------------------------------------------------

    def _start_kubelet(self, config: dict[str, Any]) -> Kubelet:
        agent = paths.DATA / "agent"
        context = pki.client_context(agent / "server-ca.crt", agent / "client-kubelet.crt")
        start = self.start
        settings = NodeSettings(
            name=start.name,
            role="agent",
            addresses=node_addresses(
                start.addresses, start.entries("node-external-ip"), start.name
            ),
            labels=tuple(start.entries("node-label")),
            taints=tuple(start.entries("node-taint")),
            annotations=node_annotations(start.values, start.addresses, start.name),
            finalizers=(),
            external_cloud=not config.get("disable-cloud-controller"),
        )
        kubelet = Kubelet(settings, Api("https://127.0.0.1:6443", context), self.knobs)
        threading.Thread(target=kubelet.run, daemon=True).start()
        return kubelet


def run(arguments: Sequence[str]) -> None:
    """Be `rke2 agent`."""
    start = read_start("agent", arguments)
    if not start.token:
        fatal("--token is required")
    if not start.server:
        fatal("--server is required")
    try:
        token = parse_token(start.token)
    except TokenError as trouble:
        fatal(str(trouble))
    Agent(start, token).run()


def _words(trouble: Exception) -> str:
    if isinstance(trouble, Refused) and trouble.status == 401:
        return "not authorized"
    if isinstance(trouble, Refused) and trouble.status == 403:
        return "forbidden"
    return str(trouble)


def _check_key(key: Path) -> None:
    """Stumble over a key that is there and empty, as the real one does: one that is not, it makes.

    Source: rancher/dynamiclistener, cert/io.go, LoadOrGenerateKeyFile.
    """
    if key.exists() and not key.read_bytes():
        raise Unreachable(f"error loading key from {key}: <nil>")


def _write_pair(crt: Path, pem: bytes) -> None:
    """Part a certificate from the key that came with it."""
    certificate, separator, key = pem.partition(b"-----BEGIN PRIVATE KEY-----")
    paths.write(crt, certificate, 0o644)
    paths.write(crt.with_suffix(".key"), separator + key)
