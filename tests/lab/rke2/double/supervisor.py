"""The supervisor on 9345: what other nodes ask a server before they have a cluster."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import socket
import tempfile
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import paths, pki
from .etcd import EtcdError
from .https import Handler, TlsServer
from .journal import error, event, info
from .knobs import Knobs
from .snapshots import SnapshotError, Snapshots
from .store import Conflict, Store

SERVER, NODE = "rke2:server", "rke2:agent"
_NODE_PATHS = ("config", "apiservers", "client-ca.crt", "server-ca.crt")
_CERTIFICATES = (
    *("serving-kubelet.crt", "client-kubelet.crt", "client-kube-proxy.crt"),
    "client-rke2-controller.crt",
)


@dataclass
class Supervisor:
    """What the supervisor knows; changes while the server comes up."""

    node: str
    knobs: Knobs
    tls: Path
    password: str
    agent_password: str
    settings: Mapping[str, Any]
    store: Store
    snapshots: Snapshots
    rotate: Callable[[str], None]
    attached: bool = False
    core: bool = False
    held: list[socket.socket] = field(default_factory=list)


class SupervisorHandler(Handler):
    """Answers one request after the other."""

    server: SupervisorServer

    def respond(self) -> None:
        """Read, or ask for a certificate the old way."""
        body = self.body()
        try:
            status, answer = self._respond(self.path.partition("?")[0], body)
        except EtcdError as trouble:
            status, answer = 503, f"etcdserver: {trouble}"
        if isinstance(answer, (str, bytes)):
            self.answer(status, answer)
        else:
            self.answer_json(status, answer)

    def _respond(self, path: str, body: bytes) -> tuple[int, Any]:
        shared = self.server.shared
        if not shared.attached:
            return 503, "starting\n"
        if path == "/ping":
            return 200, "pong"
        if path == "/cacerts":
            return 200, self.server.ca_pem()
        if path == "/db/info":
            return self._for(SERVER, self._db_info)
        if path == "/db/snapshot":
            return self._for(SERVER, lambda: self._snapshot(json.loads(body or b"{}")))
        if path == "/v1-rke2/token":
            return self._for(SERVER, lambda: self._rotate(json.loads(body or b"{}")))
        if not path.startswith("/v1-rke2/"):
            return 404, "404 page not found\n"
        name = path.removeprefix("/v1-rke2/")
        if name == "readyz":
            return self._for("", self._readyz)
        if name == "server-bootstrap":
            return self._for(SERVER, self._bootstrap)
        if name in _NODE_PATHS:
            return self._for(NODE, lambda: self._node_path(name))
        if name in _CERTIFICATES:
            return self._for(NODE, lambda: self._certificate(name, body))
        return 404, "404 page not found\n"

    # --- who asks ---------------------------------------------------------------------------

    def _for(self, role: str, answer: Any) -> tuple[int, Any]:
        """Answer who has a role; 401 for strangers, 403 for who has another one."""
        roles = self._roles()
        if not roles:
            return 401, "Unauthorized\n"
        if role and role not in roles:
            return 403, "Forbidden\n"
        told: tuple[int, Any] = answer()
        return told

    def _roles(self) -> set[str]:
        shared = self.server.shared
        if shown := self.certificate():
            if "system:nodes" in shown[1]:
                return {NODE}
            return {NODE, SERVER} if "system:masters" in shown[1] else set()
        given = self.basic()
        if given is None:
            return set()
        user, password = given
        if not shared.knobs.mode("wrong-token"):
            is_server = secrets.compare_digest(password, shared.password)
            is_agent = secrets.compare_digest(password, shared.agent_password)
            if user == "server" and is_server:
                return {NODE if shared.knobs.mode("agent-token-as-server") else SERVER}
            if (user == "node" and (is_server or is_agent)) or (user == "server" and is_agent):
                return {NODE}
        error(
            f"Sending HTTP 401 response to {self.client_address[0]}: invalid "
            "username/password combination"
        )
        return set()

    # --- answers ----------------------------------------------------------------------------

    def _readyz(self) -> tuple[int, str]:
        if not self._has_core() or self._flaps():
            return 503, "runtime core not ready\n"
        return 200, "ok"

    def _has_core(self) -> bool:
        shared = self.server.shared
        return shared.core and not shared.knobs.mode("core-not-ready")

    def _flaps(self) -> bool:
        pattern = self.server.shared.knobs.mode("readyz-flap")
        if not pattern:
            return False
        steps = pattern.split(",") if isinstance(pattern, str) else list(pattern)
        return str(steps[int(time.monotonic()) % len(steps)]).strip() != "200"

    def _bootstrap(self) -> tuple[int, Any]:
        shared = self.server.shared
        if shared.knobs.mode("core-not-ready"):
            return 503, "runtime core not ready\n"
        return 200, read_bootstrap(shared.tls)

    def _db_info(self) -> tuple[int, Any]:
        if not self._has_core():
            return 503, "runtime core not ready\n"
        members = self.server.shared.store.etcd.members()
        return 200, {
            "members": [
                {
                    "ID": member.id,
                    "name": member.name,
                    "peerURLs": [member.peer_url],
                    "clientURLs": [member.client_url],
                    "isLearner": member.is_learner,
                }
                for member in members
            ]
        }

    def _snapshot(self, asked: Mapping[str, Any]) -> tuple[int, Any]:
        """Do with snapshots what the command line wants."""
        kept, name = self.server.shared.snapshots, str(asked.get("name", ""))
        try:
            if asked.get("operation") == "save":
                return 200, {"name": kept.save(name)}
            if asked.get("operation") == "delete":
                kept.delete(name)
                return 200, {}
            if asked.get("operation") == "prune":
                return 200, {"removed": kept.prune(name, int(asked["retention"]))}
            return 200, {"items": kept.listed()}
        except (SnapshotError, OSError) as trouble:
            return 500, f"{trouble}\n"

    def _rotate(self, asked: Mapping[str, Any]) -> tuple[int, Any]:
        """Take another token from now on."""
        new = str(asked.get("newToken") or "")
        if not new:
            return 400, "new token is required\n"
        try:
            self.server.shared.rotate(new)
        except SnapshotError as trouble:
            return 400, f"{trouble}\n"
        return 200, {}

    def _node_path(self, name: str) -> tuple[int, Any]:
        shared = self.server.shared
        if name == "config":
            settings = dict(shared.settings)
            wrong = shared.knobs.mode("config-mismatch")
            if wrong:
                settings[str(wrong)] = "mismatched"
            return 200, settings
        if name == "apiservers":
            return 200, list_api_servers(shared.store)
        return 200, (shared.tls / name).read_bytes()

    def _certificate(self, name: str, body: bytes) -> tuple[int, Any]:
        shared = self.server.shared
        node = self.headers.get("Rke2-Node-Name") or ""
        password = self.headers.get("Rke2-Node-Password") or ""
        addresses = self.headers.get("Rke2-Node-Ip") or ""
        kubelet = "kubelet" in name
        if kubelet and not (node and password):
            return 400, "node name and password not set\n"
        if node != shared.node and not self._has_core():
            return 503, "runtime core not ready\n"
        if kubelet and not self._may_be(node, password):
            error(
                f"Sending HTTP 403 response to {self.client_address[0]}: unable to verify "
                f"password for node {node}: hash does not match"
            )
            return 403, "Forbidden\n"
        ca = shared.tls / ("server-ca.crt" if name.startswith("serving") else "client-ca.crt")
        with tempfile.TemporaryDirectory(dir=paths.RUN) as folder:
            crt = Path(folder) / "made.crt"
            if name == "serving-kubelet.crt":
                names = [node, "localhost", "127.0.0.1", *filter(None, addresses.split(","))]
                pki.issue(crt, ca, node, names=names, server=True)
            elif name == "client-kubelet.crt":
                pki.issue(crt, ca, f"system:node:{node}", organization="system:nodes")
            else:
                user = name.removeprefix("client-").removesuffix(".crt")
                pki.issue(crt, ca, f"system:{user}", organization="")
            return 200, crt.read_bytes() + crt.with_suffix(".key").read_bytes()

    def _may_be(self, node: str, password: str) -> bool:
        """Whether who asks proves to be the node of this name; the first to ask is."""
        shared = self.server.shared
        if node == shared.node:
            return password == paths.NODE_PASSWORD.read_text().strip()
        if shared.knobs.mode("node-password"):
            return False
        return keep_node_password(shared.store, node, password)


class SupervisorServer(TlsServer):
    """The server with what its handlers share."""

    def __init__(self, shared: Supervisor, address: str, crt: Path) -> None:
        self.shared = shared
        context = pki.server_context(crt, shared.tls / "client-ca.crt")
        super().__init__((address, 9345), SupervisorHandler, context, self._let_in)

    def ca_pem(self) -> bytes:
        """The CA as everybody sees it."""
        pem = (self.shared.tls / "server-ca.crt").read_bytes()
        return pem + b"\n" if self.shared.knobs.mode("ca-mismatch") else pem

    def _let_in(self, connection: socket.socket) -> bool:
        if self.shared.knobs.mode("lb-eof"):
            connection.close()
            return False
        if self.shared.knobs.mode("blackhole"):
            self.shared.held.append(connection)
            return False
        return True


def serve(shared: Supervisor, address: str, crt: Path) -> None:
    """Listen from now on, but not while `unreachable` is on; returns when 9345 is open."""
    opened = threading.Event()

    def run() -> None:
        while True:
            shared.knobs.wait_while("unreachable")
            try:
                server = SupervisorServer(shared, address, crt)
            except OSError:
                time.sleep(0.2)
                continue
            opened.set()
            event("supervisor.listening")
            serving = threading.Thread(target=server.serve_forever, args=(2,), daemon=True)
            serving.start()
            while not shared.knobs.mode("unreachable"):
                time.sleep(0.5)
            server.shutdown()
            server.server_close()
            for held in shared.held:
                with contextlib.suppress(OSError):
                    held.close()

    threading.Thread(target=run, daemon=True).start()
    opened.wait()
    info("Cluster supervisor listening on :9345")


def read_bootstrap(tls: Path) -> dict[str, dict[str, str]]:
    """What a joining server gets: the CAs with their keys."""
    return {
        key: {"Content": b64encode((tls / file).read_bytes()).decode()}
        for key, file in pki.CA_FILES.items()
    }


def list_api_servers(store: Store) -> list[str]:
    """Address and port of every API server."""
    found = []
    for node in store.all("nodes"):
        if "node-role.kubernetes.io/control-plane" not in (node["metadata"].get("labels") or {}):
            continue
        addresses = node.get("status", {}).get("addresses", [])
        inside = [each["address"] for each in addresses if each["type"] == "InternalIP"]
        found += [f"{inside[0]}:6443"] if inside else []
    return sorted(found)


def keep_node_password(store: Store, node: str, password: str) -> bool:
    """Check a node's password against the one kept of it, or keep this one.

    Returns:
        Whether it is the node's.
    """
    name = f"{node}.node-password.rke2"
    kept = store.find("secrets", "kube-system", name)
    if kept is None:
        salt = secrets.token_hex(8)
        value = f"$1:{salt}:{_hash(salt, password)}"
        secret = {
            "metadata": {"name": name},
            "type": "rke2.cattle.io/node-password",
            "immutable": True,
            "data": {"hash": b64encode(value.encode()).decode()},
        }
        with contextlib.suppress(Conflict):
            store.create("secrets", "kube-system", secret)
            return True
        return keep_node_password(store, node, password)
    _, salt, digest = b64decode(kept["data"]["hash"]).decode().split(":")
    return secrets.compare_digest(digest, _hash(salt, password))


def _hash(salt: str, password: str) -> str:
    made = hashlib.scrypt(password.encode(), salt=salt.encode(), n=1024, r=8, p=1, dklen=32)
    return made.hex()
