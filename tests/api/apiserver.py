"""A real API server with its etcd while tests run, and what is asked of it by hand."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from appliance.system.kubernetes import Access
from tests.lab.rke2.double.pki import issue, make_ca

START_TIMEOUT_S = 300.0
_TIMEOUT_S = 60.0
# Documents of kinds that this old server has in an earlier version only, of the same shape.
_EARLIER = {("batch/v1", "CronJob"): "batch/v1beta1"}


@dataclass(frozen=True)
class Reply:
    """An answer of the API server."""

    status: int
    body: Mapping[str, Any]

    @property
    def message(self) -> str:
        """What it says of a failure."""
        return str(self.body.get("message", ""))


@dataclass(frozen=True)
class ApiServer:
    """A running one.

    Attributes:
        folder: Where its certificates are.
    """

    url: str
    folder: Path

    def access(self, user: str, group: str = "") -> Access:
        """Return how a user gets in, with a certificate that is made for the first time."""
        certificate = self.folder / f"{user.replace(':', '-')}.crt"
        if not certificate.exists():
            issue(certificate, self.folder / "ca.crt", user, organization=group)
        ca, crt, key = (
            PurePosixPath(path)
            for path in (self.folder / "ca.crt", certificate, certificate.with_suffix(".key"))
        )
        return Access(self.url, ca, crt, key)

    @property
    def admin(self) -> Access:
        """The administrator, as on a master."""
        return self.access("system:admin", "system:masters")

    def kubelet(self, node: str) -> Access:
        """The kubelet of a node, as on a worker."""
        return self.access(f"system:node:{node}", "system:nodes")

    def ask(
        self,
        access: Access,
        method: str,
        path: str,
        body: object = None,
        kind: str = "application/json",
    ) -> Reply:
        """Ask once."""
        context = ssl.create_default_context(cafile=str(access.ca))
        context.load_cert_chain(access.certificate, access.key)
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind, "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, context=context, timeout=_TIMEOUT_S) as reply:
                return Reply(reply.status, _document(reply.read()))
        except urllib.error.HTTPError as error:
            return Reply(error.code, _document(error.read()))

    def put(self, document: Mapping[str, Any]) -> Reply:
        """Have a document as it is: made, or in the place of what there was."""
        version = (document["apiVersion"], document["kind"])
        wanted = {**document, "apiVersion": _EARLIER.get(version, version[0])}
        path = self.path_of(wanted)
        before = self.ask(self.admin, "GET", path)
        if before.status == 404:
            return self.ask(self.admin, "POST", path.rpartition("/")[0], wanted)
        number = before.body["metadata"]["resourceVersion"]
        metadata = {**wanted["metadata"], "resourceVersion": number}
        return self.ask(self.admin, "PUT", path, {**wanted, "metadata": metadata})

    def path_of(self, document: Mapping[str, Any]) -> str:
        """Find out where an object is."""
        version, kind = document["apiVersion"], document["kind"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        found = self.ask(self.admin, "GET", base)
        assert found.status == 200, f"{version}: {found.message or found.status}"
        one = next(
            (r for r in found.body["resources"] if r["kind"] == kind and "/" not in r["name"]), None
        )
        assert one is not None, f"{version} has no {kind}"
        metadata = document["metadata"]
        namespace = f"/namespaces/{metadata.get('namespace', 'default')}"
        return f"{base}{namespace if one['namespaced'] else ''}/{one['name']}/{metadata['name']}"

    def define(self, definition: Mapping[str, Any]) -> None:
        """Have a kind of a custom resource, and wait until it is served."""
        reply = self.put(definition)
        assert reply.status in (200, 201), f"{definition['metadata']['name']}: {reply.message}"
        path = self.path_of(definition)
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            status = self.ask(self.admin, "GET", path).body.get("status") or {}
            said = {one["type"]: one["status"] for one in status.get("conditions") or ()}
            if said.get("Established") == "True":
                return
            time.sleep(0.1)
        raise AssertionError(f"{path}: not established in {_TIMEOUT_S:g} s")


def _document(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {"message": content.decode(errors="replace")}
    return found if isinstance(found, dict) else {}


def whole_definition(short: Mapping[str, Any], *, namespaced: bool) -> dict[str, Any]:
    """Return a short definition of a kind with all that a server asks for."""
    spec = short["spec"]
    kind, group = spec["names"]["kind"], spec["group"]
    plural = spec["names"].get("plural", f"{kind.lower()}s")
    versions = [
        {"storage": number == 0, **one, "schema": {"openAPIV3Schema": _object(one)}}
        for number, one in enumerate(spec["versions"])
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "scope": "Namespaced" if namespaced else "Cluster",
            **spec,
            "names": {"plural": plural, "singular": kind.lower(), **spec["names"]},
            "versions": versions,
        },
    }


def _object(version: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", **version["schema"]["openAPIV3Schema"]}


def read_definitions(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the definitions of custom resources in a folder, short or whole."""
    for path in sorted(folder.glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if one:
                yield one


@contextmanager
def running(program: Path, folder: Path) -> Iterator[ApiServer]:
    """Run etcd and an API server with the authorizers and admission that RKE2's has."""
    etcd = shutil.which("etcd")
    assert etcd, "etcd is missing: apt-get install etcd-server"
    make_ca(folder / "ca.crt", "test")
    issue(folder / "server.crt", folder / "ca.crt", "api", names=["127.0.0.1"], server=True)
    client_port, peer_port, port = (_free_port() for _ in range(3))
    store = f"http://127.0.0.1:{client_port}"
    peer = f"http://127.0.0.1:{peer_port}"
    with ExitStack() as stack:
        stack.enter_context(
            _process(
                folder / "etcd.log",
                *(etcd, "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"),
                *("--listen-client-urls", store, "--advertise-client-urls", store),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
            )
        )
        process = stack.enter_context(
            _process(folder / "api.log", str(program), *_options(folder, store, port))
        )
        server = ApiServer(f"https://127.0.0.1:{port}", folder)
        _wait_until_ready(server, process)
        yield server


def _options(folder: Path, store: str, port: int) -> Iterator[str]:
    yield f"--etcd-servers={store}"
    yield f"--secure-port={port}"
    yield "--bind-address=127.0.0.1"
    # No client is to use it; a loopback address would be refused.
    yield "--advertise-address=192.0.2.1"
    yield "--service-cluster-ip-range=10.43.0.0/16"
    yield f"--tls-cert-file={folder / 'server.crt'}"
    yield f"--tls-private-key-file={folder / 'server.key'}"
    yield f"--client-ca-file={folder / 'ca.crt'}"
    yield "--authorization-mode=Node,RBAC"
    yield "--enable-admission-plugins=NodeRestriction"
    # Nobody makes service accounts here, without which no pod would be let in.
    yield "--disable-admission-plugins=ServiceAccount"
    yield "--service-account-issuer=https://kubernetes.default.svc"
    yield f"--service-account-key-file={folder / 'server.crt'}"
    yield f"--service-account-signing-key-file={folder / 'server.key'}"


@contextmanager
def _process(log: Path, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def _wait_until_ready(server: ApiServer, process: subprocess.Popen[bytes]) -> None:
    log = server.folder / "api.log"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the API server ended:\n{log.read_text()[-3000:]}"
        try:
            # Its own rights and namespaces are made after it listens.
            ready = server.ask(server.admin, "GET", "/readyz").status == 200
            there = server.ask(server.admin, "GET", "/api/v1/namespaces/kube-system")
            if ready and there.status == 200:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.5)
    raise AssertionError(f"not ready in {START_TIMEOUT_S:g} s:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
