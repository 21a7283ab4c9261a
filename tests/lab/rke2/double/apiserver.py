"""The API server: objects over HTTPS for those who show a certificate.

Plays the static pods kube-apiserver, kube-controller-manager and cloud-controller-manager in one
process that survives a stop of the unit.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from . import pki
from .client import Refused, Unreachable, fetch
from .controllers import NodeControllers
from .etcd import Etcd, EtcdError
from .https import Handler, TlsServer
from .journal import event
from .kinds import KINDS, ApiError, Kind, parse_path
from .knobs import Knobs
from .requests import Requests, Sender, make_namespaces
from .store import Conflict, NotFound, Store
from .workloads import WorkloadControllers

HEALTH = ("/readyz", "/livez", "/healthz")


class ApiHandler(Handler):
    """Answers one request after the other."""

    server: ApiServer

    def respond(self) -> None:
        """Do what is asked for."""
        body = self.body()
        split = urlsplit(self.path)
        try:
            status, answer = self._respond(split.path, parse_qs(split.query), body)
        except ApiError as error:
            status = error.status
            answer = {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": str(error),
                "reason": error.reason,
                "details": error.details,
                "code": status,
            }
        if status == 0:
            self.drop()
        elif isinstance(answer, str):
            self.answer(status, answer)
        else:
            self.answer_json(status, answer)

    def _respond(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        shown = self.certificate()
        if path in HEALTH and (forced := self.server.forced_health()):
            if forced == "refused":
                return 0, ""
            if forced != "200":
                return int(forced), f"[-]forced failed\n{path[1:]} check failed\n"
        if shown is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if path in HEALTH:
            return self._health(path[1:])
        if path == "/version":
            version = self.server.knobs.version()[1]
            major, minor = version[1:].split(".")[:2]
            return 200, {"major": major, "minor": minor, "gitVersion": version}
        try:
            self.server.check_quorum()
            target = parse_path(path, self.server.find_kind)
            parsed = json.loads(body) if body else None
            content = (self.headers.get("Content-Type") or "").partition(";")[0]
            sender = Sender(*shown)
            requests = self.server.requests
            return requests.perform(sender, self.command, target, query, parsed, content)
        except NotFound as error:
            found = path.rstrip("/").split("/")
            raise ApiError(
                404, "NotFound", f'{found[-2] if len(found) > 1 else ""} "{error}" not found'
            ) from None
        except Conflict as error:
            if self.command == "POST" and not target.subresource:
                message = f'{target.kind.resource} "{error}" already exists'
                raise ApiError(409, "AlreadyExists", message) from None
            message = (
                f'Operation cannot be fulfilled on {target.kind.resource} "{error}": the object '
                "has been modified; please apply your changes to the latest version and try again"
            )
            raise ApiError(409, "Conflict", message) from None
        except EtcdError as error:
            raise ApiError(500, "InternalError", f"etcdserver: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ApiError(400, "BadRequest", f"{type(error).__name__}: {error}") from None

    def _health(self, name: str) -> tuple[int, str]:
        try:
            self.server.check_quorum()
            self.server.probe.get("/rke2/health")
        except EtcdError:
            reason = "[-]etcd failed: reason withheld"
            return 500, f"[+]ping ok\n[+]log ok\n{reason}\n{name} check failed\n"
        return 200, "ok"


class ApiServer(TlsServer):
    """The server with what its handlers share."""

    def __init__(self, settings: Mapping[str, Any], knobs: Knobs) -> None:
        crt = Path(settings["certificate"])
        context = pki.server_context(crt, Path(settings["client_ca"]))
        self.knobs = knobs
        self.store = Store(Etcd(timeout_s=3))
        self.probe = Etcd(timeout_s=2)
        self._tls = crt.parent
        self.requests = Requests(self.store, self._ask_kubelet)
        self._flap = 0
        self._lock = threading.Lock()
        super().__init__((settings["address"], 6443), ApiHandler, context)

    def forced_health(self) -> str:
        """The next answer of a flapping server; empty if it is to tell the truth."""
        pattern = self.knobs.mode("readyz-flap")
        if not pattern:
            return ""
        steps = pattern.split(",") if isinstance(pattern, str) else [str(each) for each in pattern]
        with self._lock:
            self._flap += 1
            return str(steps[(self._flap - 1) % len(steps)]).strip()

    def _ask_kubelet(self, address: str, path: str) -> str:
        crt = self._tls / "client-kube-apiserver.crt"
        context = pki.client_context(self._tls / "server-ca.crt", crt)
        try:
            return fetch(f"https://{address}:10250{path}", context, timeout_s=5).decode()
        except (Unreachable, Refused) as error:
            raise ApiError(500, "InternalError", str(error)) from None

    def check_quorum(self) -> None:
        """Fail as etcd does without quorum, where that is asked for."""
        if self.knobs.mode("quorum-loss"):
            raise EtcdError("no leader")

    def find_kind(self, resource: str, version: str) -> Kind | None:
        """A kind that is built in, or that a CRD brought."""
        if kind := KINDS.get(resource):
            return kind if kind.api_version.rpartition("/")[2] == version else None
        crd = self.store.find("customresourcedefinitions.apiextensions.k8s.io", "", resource)
        if crd is None:
            return None
        spec = crd["spec"]
        if version not in [each["name"] for each in spec.get("versions", [])]:
            return None
        api_version = f"{spec['group']}/{version}"
        return Kind(spec["names"]["kind"], resource, spec["scope"] == "Namespaced", api_version)


# --- the process ---------------------------------------------------------------------------------


def run(settings_path: str) -> int:
    """Be the API server until told to end."""
    settings = json.loads(Path(settings_path).read_text())
    knobs = Knobs()
    knobs.pass_phase("apiserver")
    etcd = Etcd(timeout_s=3)
    while not _answers(etcd):
        time.sleep(0.2)
    server = ApiServer(settings, knobs)
    make_namespaces(server.store)
    for controllers in (NodeControllers, WorkloadControllers):
        of_cluster = controllers(server.store, knobs, settings["node"])
        threading.Thread(target=of_cluster.run, daemon=True).start()
    event("apiserver.listening")
    server.serve_forever(poll_interval=5)
    return 0


def _answers(etcd: Etcd) -> bool:
    try:
        etcd.get("/rke2/health")
    except EtcdError:
        return False
    return True


def kubeconfig(server: str, ca: Path, crt: Path, name: str = "default") -> str:
    """A kubeconfig with everything in it."""
    encoded = {
        key: b64encode(path.read_bytes()).decode()
        for key, path in (("ca", ca), ("crt", crt), ("key", crt.with_suffix(".key")))
    }
    return (
        "apiVersion: v1\nclusters:\n- cluster:\n"
        f"    certificate-authority-data: {encoded['ca']}\n    server: {server}\n  name: {name}\n"
        f"contexts:\n- context:\n    cluster: {name}\n    user: {name}\n  name: {name}\n"
        f"current-context: {name}\nkind: Config\npreferences: {{}}\nusers:\n- name: {name}\n"
        f"  user:\n    client-certificate-data: {encoded['crt']}\n"
        f"    client-key-data: {encoded['key']}\n"
    )
