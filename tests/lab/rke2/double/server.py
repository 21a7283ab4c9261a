"""`rke2 server`: founds a cluster, joins one, or comes back to its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from . import charts, paths, pki, pods
from .apiserver import kubeconfig
from .client import Api, Refused, Unreachable, fetch, off_clock
from .controllers import ETCD_NODE_ADDRESS, ETCD_NODE_NAME, EtcdController
from .deployer import Deployer
from .etcd import Etcd, EtcdError, Member, answers, member_argv
from .helm import HelmController
from .journal import Fatal, error, event, fatal, info, warning
from .kubelet import Kubelet, NodeSettings, double_argv, node_addresses, node_annotations
from .nodefiles import write_kubelet_kubeconfig, write_pod_manifest
from .reset import reset
from .snapshots import SnapshotError, Snapshots
from .start import (
    Start,
    notify_ready,
    pass_images,
    prepare_node,
    read_start,
    stage,
)
from .store import ETCD_FINALIZER, Conflict, Store, timestamp
from .supervisor import Supervisor, keep_node_password, serve
from .tokens import Token, TokenError, ca_hash, long_token, parse_token

CRITICAL = (
    *("cluster-cidr", "service-cidr", "cluster-dns", "cluster-domain", "disable-cloud-controller"),
    *("enable-servicelb", "secrets-encryption", "secrets-encryption-provider"),
    *("embedded-registry", "egress-selector-mode", "supervisor-metrics"),
)
"""Settings that have to be the same on all servers, and are compared."""


ROTATED = "/rke2/bootstrap"
"""Key of the bootstrap data after the token was rotated."""


class Server:
    """One run of the process."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.knobs = start.knobs
        self.folder = paths.DATA / "server"
        self.tls = self.folder / "tls"
        self.db = self.folder / "db" / "etcd"
        self.store = Store(Etcd())
        self.password = ""
        self.settings = compared_settings(start)
        self.snapshots = Snapshots(start, self.store, self.knobs)

    def run(self) -> None:
        """Come up, say so, and go on until told to end.

        Raises:
            Fatal: If there is a reason to end; systemd starts the process again.
        """
        prepare_node()
        if self.start.values.get("cluster-reset"):
            reset(self.start, _check_value)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self._bury_removed_member()
        joins = bool(self.start.server) and not self._has_data()
        self._bootstrap(joins)
        shared = self._open_supervisor()
        self.knobs.pass_phase("bootstrap")
        self._write_access_files()
        shared.attached = True
        self.knobs.wait_while("stuck-start")
        stage(self.knobs, double_argv()[-1])
        pass_images(self.knobs)
        self._start_etcd(joins)
        self._start_api_server()
        kubelet = self._start_kubelet()
        self._wait_for_api()
        threading.Thread(target=self._keep_pods, daemon=True).start()
        self.knobs.pass_phase("hooks")
        (self.folder / "db" / "reset-flag").unlink(missing_ok=True)
        info("rke2 is up and running")
        notify_ready()
        event("ready", role="server", node=self.start.name)
        self._start_addons()
        threading.Thread(target=self._finish, args=(shared, kubelet), daemon=True).start()
        controller = EtcdController(self.store, self.knobs, self._own_id())
        threading.Thread(target=controller.run, daemon=True).start()
        self._go_on()

    # --- CAs and tokens ---------------------------------------------------------------------

    def _has_data(self) -> bool:
        return (self.db / "member" / "wal").is_dir()

    def _bury_removed_member(self) -> None:
        """Put the data of a member that was removed aside, so that it joins afresh."""
        if (self.db / "tombstone").exists():
            aside = self.db.with_name(f"etcd-backup-{int(time.time())}")
            pods.stop("etcd")
            self.db.rename(aside)
            info(f"etcd data was moved to {aside.name}: this node had been removed")

    def _bootstrap(self, joins: bool) -> None:
        text = self.start.token or self._token_of_last_run()
        if self.start.server and not text:
            fatal("token is required to join a cluster")
        try:
            token = parse_token(text) if text else Token(secrets.token_hex(16))
        except TokenError as trouble:
            fatal(f"starting kubernetes: preparing server: failed to normalize token: {trouble}")
        self.password = token.password
        if joins:
            self._download(token)
        elif self._has_data():
            self._open_own_data(token)
        else:
            if token.ca_hash and not (self.tls / "server-ca.crt").exists():
                fatal(
                    "starting kubernetes: preparing server: failed to normalize server token; "
                    "must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>"
                )
            self._found(token)
        self._issue_certificates()

    def _token_of_last_run(self) -> str:
        try:
            return (self.folder / "token").read_text().strip()
        except OSError:
            return ""

    def _found(self, token: Token) -> None:
        if not (self.tls / "server-ca.crt").exists():
            info("Generating the CAs of a new cluster")
        elif token.ca_hash:
            self._check_hash(token, (self.tls / "server-ca.crt").read_bytes())
        pki.make_cluster(self.tls)  # also what a power cut left unmade
        self._keep_bootstrap()
        event("cluster.founded", node=self.start.name)

    def _open_own_data(self, token: Token) -> None:
        """Check the token against what the data were encrypted with; bring lost CAs back."""
        kept = _read_json(self.db / "bootstrap.json")
        if self.knobs.mode("stale-db-other-token") or (
            kept and kept["check"] != _check_value(kept["salt"], token.password)
        ):
            fatal(
                "starting kubernetes: preparing server: bootstrap data already found and encrypted "
                "with different token"
            )
        if not (self.tls / "server-ca.crt").exists():
            self._write_cas(kept["data"])
        if token.ca_hash:
            self._check_hash(token, (self.tls / "server-ca.crt").read_bytes())

    def _rotate_token(self, shared: Supervisor, new: str) -> None:
        """Take another token for this server at once, and for the data of all."""
        try:
            self.password = parse_token(new).password
        except TokenError as trouble:
            raise SnapshotError(str(trouble)) from None
        if shared.agent_password == shared.password:
            shared.agent_password = self.password
        shared.password = self.password
        self._keep_bootstrap()
        self.store.etcd.put(ROTATED, (self.db / "bootstrap.json").read_text())
        pem = (self.tls / "server-ca.crt").read_bytes()
        paths.write(self.folder / "token", f"{long_token(pem, 'server', self.password)}\n")
        event("token.rotated", node=self.start.name)

    def _follow_rotation(self) -> None:
        """Keep the own copy of what the data are encrypted with as the others have it."""
        entry = self.store.etcd.get(ROTATED)
        own = self.db / "bootstrap.json"
        if entry is not None and own.exists() and own.read_text() != entry.value:
            paths.write(own, entry.value)
            event("token.followed", node=self.start.name)

    def _keep_bootstrap(self) -> None:
        """Keep the CAs with the data; their passphrase is the token."""
        salt = secrets.token_hex(8)
        data = {
            key: {"Content": b64encode((self.tls / file).read_bytes()).decode()}
            for key, file in pki.CA_FILES.items()
        }
        kept = {"salt": salt, "check": _check_value(salt, self.password), "data": data}
        self.db.mkdir(parents=True, exist_ok=True, mode=0o700)
        paths.write(self.db / "bootstrap.json", json.dumps(kept))

    def _download(self, token: Token) -> None:
        """Get the CAs from the server to join at, and compare its settings with the own ones."""
        url, timeout_s = self.start.server, self.knobs.interval("http_timeout")
        begin = "starting kubernetes: preparing server: "
        try:
            pem = fetch(f"{url}/cacerts", pki.client_context(None), timeout_s=timeout_s)
        except (Unreachable, Refused) as trouble:
            fatal(f"{begin}failed to validate token: failed to get CA certs: {trouble}")
        self._check_hash(token, pem)
        context = pki.client_context(pem)
        user = ("server", token.password)
        path = f"{url}/v1-rke2/server-bootstrap"
        begin += "failed to bootstrap cluster data: failed to check if bootstrap data has been "
        begin += "initialized: failed to validate server configuration: "
        try:
            if self.knobs.mode("clock-off"):
                raise off_clock(path)
            data = json.loads(fetch(path, context, timeout_s=timeout_s, user=user))
        except (Unreachable, Refused) as trouble:
            fatal(f"{begin.removesuffix('failed to validate server configuration: ')}{trouble}")
        self._compare(url, context, token)
        self._write_cas(data)
        self._keep_bootstrap()
        event("bootstrap.downloaded", server=url)

    def _compare(self, url: str, context: Any, token: Token) -> None:
        password = parse_token(self.start.agent_token or token.password).password
        try:
            theirs = json.loads(
                fetch(
                    f"{url}/v1-rke2/config",
                    context,
                    timeout_s=self.knobs.interval("http_timeout"),
                    user=("node", password),
                )
            )
        except (Unreachable, Refused) as trouble:
            warning(f"Failed to get remote configuration for comparison: {trouble}")
            return
        different = [key for key in CRITICAL if theirs.get(key) != self.settings.get(key)]
        for key in different:
            warning(f"critical configuration mismatched: {key}")
        if different:
            fatal(
                "starting kubernetes: preparing server: failed to validate server configuration: "
                "critical configuration value mismatch between servers"
            )

    def _check_hash(self, token: Token, pem: bytes) -> None:
        if token.ca_hash and token.ca_hash != ca_hash(pem):
            fatal(
                "starting kubernetes: preparing server: failed to validate token: token CA hash "
                "does not match the Cluster CA certificate hash: "
                f"{token.ca_hash} != {ca_hash(pem)}"
            )

    def _write_cas(self, data: dict[str, dict[str, str]]) -> None:
        for key, file in pki.CA_FILES.items():
            mode = 0o600 if file.endswith(".key") else 0o644
            paths.write(self.tls / file, b64decode(data[key]["Content"]), mode)

    # --- certificates, supervisor, files ----------------------------------------------------

    def _names(self) -> list[str]:
        first = ip_network(self.start.entries("service-cidr")[0])[1]
        domain = self.start.values["cluster-domain"]
        return [
            *("localhost", "127.0.0.1", "::1", self.start.name, *self.start.addresses, str(first)),
            *("kubernetes", "kubernetes.default", "kubernetes.default.svc"),
            *(f"kubernetes.default.svc.{domain}", *self.start.entries("node-external-ip")),
            *self.start.entries("tls-san"),
        ]

    def _issue_certificates(self) -> None:
        server, client = self.tls / "server-ca.crt", self.tls / "client-ca.crt"
        agent = paths.DATA / "agent"
        masters = "system:masters"
        clients = (
            (self.tls / "client-admin.crt", "system:admin", masters),
            (self.tls / "client-supervisor.crt", "system:rke2-supervisor", masters),
            (self.tls / "client-kube-apiserver.crt", "kube-apiserver", masters),
            (self.tls / "client-controller.crt", "system:kube-controller-manager", ""),
            (agent / "client-kubelet.crt", f"system:node:{self.start.name}", "system:nodes"),
        )
        for crt, name, group in clients:
            if not _is_issued(crt, client):
                pki.issue(crt, client, name, organization=group)
                paths.write(crt.with_suffix(".issuer"), ca_hash(client.read_bytes()), 0o644)
        names = self._names()
        api, own = self.tls / "serving-kube-apiserver.crt", paths.RUN / "tls" / "supervisor.crt"
        pki.issue(api, server, "kube-apiserver", names=names, server=True)
        pki.issue(own, server, "rke2", names=names, server=True)
        paths.write(self.tls / "dynamic-cert.json", pki.supervisor_secret(own, names))
        kubelet = agent / "serving-kubelet.crt"
        kubelet_names = [self.start.name, "127.0.0.1", *self.start.addresses]
        pki.issue(kubelet, server, self.start.name, names=kubelet_names, server=True)
        for file in ("client-ca.crt", "server-ca.crt"):
            paths.write(agent / file, (self.tls / file).read_bytes(), 0o644)
        write_kubelet_kubeconfig("https://127.0.0.1:6443")

    def _open_supervisor(self) -> Supervisor:
        try:
            agents = parse_token(self.start.agent_token).password if self.start.agent_token else ""
        except TokenError as trouble:
            fatal(f"starting kubernetes: preparing server: agent token: {trouble}")
        shared = Supervisor(
            node=self.start.name,
            knobs=self.knobs,
            tls=self.tls,
            password=self.password,
            agent_password=agents or self.password,
            settings=self.settings,
            store=self.store,
            snapshots=self.snapshots,
            rotate=lambda new: self._rotate_token(shared, new),
        )
        serve(shared, str(self.start.values["bind-address"]), paths.RUN / "tls" / "supervisor.crt")
        return shared

    def _write_access_files(self) -> None:
        """Write tokens and the administrator's kubeconfig: long before the API answers."""
        pem = (self.tls / "server-ca.crt").read_bytes()
        paths.write(self.folder / "token", f"{long_token(pem, 'server', self.password)}\n")
        paths.link(self.folder / "node-token", str(self.folder / "token"))
        if self.start.agent_token:
            agents = parse_token(self.start.agent_token).password
            own = self.folder / "agent-token"
            own.unlink(missing_ok=True)
            paths.write(own, f"{long_token(pem, 'node', agents)}\n")
        else:
            paths.link(self.folder / "agent-token", str(self.folder / "token"))
        cred = self.folder / "cred"
        cred.mkdir(exist_ok=True, mode=0o700)
        url = f"https://{self.start.address}:9345"
        info(f"To join server node to cluster: rke2 server -s {url} -t ${{SERVER_NODE_TOKEN}}")
        target = Path(str(self.start.values.get("write-kubeconfig") or paths.ADMIN_KUBECONFIG))
        name = str(self.start.values.get("write-kubeconfig-name") or "default")
        text = kubeconfig(
            "https://127.0.0.1:6443",
            self.tls / "server-ca.crt",
            self.tls / "client-admin.crt",
            name,
        )
        mode = str(self.start.values.get("write-kubeconfig-mode") or "600")
        try:
            bits = int(mode, 8)
        except ValueError:
            error(f"Failed to set {target} to mode {mode}")
            bits = 0o600
        paths.write(target, text, bits)
        info(f"Wrote kubeconfig {target}")
        event("files.written")

    # --- etcd -------------------------------------------------------------------------------

    def _start_etcd(self, joins: bool) -> None:
        self.knobs.pass_phase("etcd")
        url = f"http://{self.start.address}:2380"
        name_file = self.db / "name"
        self.db.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not name_file.exists():
            paths.write(name_file, f"{self.start.name}-{secrets.token_hex(4)}")
        name = name_file.read_text().strip()
        cluster = [(name, url)]
        if joins:
            cluster = self._join_etcd(name, url)
        self._run_etcd(name, cluster, joins=joins)
        self._wait_for_etcd(name, url)

    def _run_etcd(self, name: str, cluster: Sequence[tuple[str, str]], *, joins: bool) -> None:
        argv = member_argv(name, self.db, self.start.address, cluster, joins=joins)
        noted = _read_json(paths.RUN / "etcd.json")
        # Where the cluster was at its first start is of no consequence later on.
        if (
            noted
            and pods.is_alive("etcd")
            and _without_cluster(noted["argv"]) == _without_cluster(argv)
        ):
            return
        paths.write(paths.RUN / "etcd.json", json.dumps({"argv": argv}))
        write_pod_manifest("etcd")
        pods.ensure("etcd", argv)
        info("Started etcd static pod")
        event("etcd.started", member=name)

    def _join_etcd(self, name: str, url: str) -> list[tuple[str, str]]:
        """Be announced as a learner; others may be before this one."""
        conflicts = 0
        last = ""
        while True:
            try:
                members = self._ask_members()
                self._refuse_duplicate(name, members)
                wanted = self.knobs.mode("learner-conflict") or 0
                if wanted is True or conflicts < wanted:
                    conflicts += 1
                    raise EtcdError("etcdserver: too many learner members in cluster")
                if not any(member.peer_url == url for member in members):
                    if not all(answers(each) for each in members if not each.is_learner):
                        raise EtcdError("etcdserver: unhealthy cluster")
                    self._of(members).add_learner(url)
                    event("etcd.learner", member=name)
                    members = self._ask_members()
                self.knobs.wait_while("learner-stalled")
                return [(member.name or name, member.peer_url) for member in members]
            except EtcdError as trouble:
                words = f"Waiting for other members to finish joining etcd cluster: {trouble}"
                if "too many learner" not in str(trouble):
                    words = f"etcd cluster join failed: {trouble}"
            except (Unreachable, Refused) as trouble:
                words = f"failed to get etcd MemberList from server: {trouble}"
            if words != last or "Waiting" in words:
                info(words)
                event("etcd.waiting", reason=words)
            last = words
            time.sleep(self.knobs.interval("learner_retry"))

    def _ask_members(self) -> list[Member]:
        """The members as the server to join at tells them."""
        told = json.loads(
            fetch(
                f"{self.start.server}/db/info",
                pki.client_context(self.tls / "server-ca.crt"),
                timeout_s=self.knobs.interval("http_timeout"),
                user=("server", self.password),
            )
        )
        return [
            Member(
                int(each["ID"]),
                each["name"],
                each["peerURLs"][0],
                each["clientURLs"][0],
                each["isLearner"],
            )
            for each in told["members"]
        ]

    def _of(self, members: Sequence[Member]) -> Etcd:
        return Etcd([each.client_url for each in members if each.client_url], 5)

    def _refuse_duplicate(self, name: str, members: Sequence[Member]) -> None:
        taken = any(
            member.name.rpartition("-")[0] == self.start.name and member.name != name
            for member in members
        )
        if taken or self.knobs.mode("duplicate-member"):
            (self.db / "name").unlink(missing_ok=True)
            fatal(
                "starting kubernetes: preparing server: start managed database: etcd cluster join "
                "failed: duplicate node name found, please use a unique name for this node"
            )

    def _wait_for_etcd(self, name: str, url: str) -> None:
        """Wait until this is a healthy, voting member."""
        deadline = 0.0
        while True:
            trouble = self._test_etcd(name, url)
            if not trouble:
                event("etcd.voting", member=name)
                return
            if time.monotonic() >= deadline:
                info(f"Failed to test etcd connection: {trouble}")
                deadline = time.monotonic() + self.knobs.interval("etcd_test")
            time.sleep(0.1)

    def _test_etcd(self, name: str, url: str) -> str:
        """What keeps this from being a healthy, voting member; empty if nothing does."""
        if self.knobs.mode("quorum-loss"):
            return "etcdserver: no leader"
        try:
            status = self.store.etcd.status()
            if not status.leader:
                return "failed to get etcd status: etcdserver: no leader"
            if status.is_learner:
                return "etcd learner is not yet promoted to voting member"
            members = self.store.etcd.members()
            self.store.etcd.get("/rke2/health")
        except EtcdError as error_:
            if _was_removed():
                return (
                    "this server is a not a member of the etcd cluster: the member has been "
                    "permanently removed from the cluster"
                )
            return f"context deadline exceeded: {error_}"
        found = [f"{member.name}={member.peer_url}" for member in members]
        if f"{name}={url}" not in found or self.knobs.mode("not-a-member"):
            return (
                "this server is a not a member of the etcd cluster. "
                f"Found {found}, expect: {name}={url}"
            )
        return ""

    # --- the rest of the node ---------------------------------------------------------------

    def _start_api_server(self) -> None:
        settings = {
            "certificate": str(self.tls / "serving-kube-apiserver.crt"),
            "client_ca": str(self.tls / "client-ca.crt"),
            "address": str(self.start.values["bind-address"]),
            "node": self.start.name,
        }
        # Another set of names makes another command, and so a new process.
        names = hashlib.sha256(json.dumps([self._names(), settings]).encode()).hexdigest()[:12]
        file = paths.RUN / f"apiserver-{names}.json"
        paths.write(file, json.dumps(settings))
        for pod in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
            write_pod_manifest(pod)
        for pod, switch in (
            ("cloud-controller-manager", "disable-cloud-controller"),
            ("kube-proxy", "disable-kube-proxy"),
        ):
            write_pod_manifest(pod, wanted=not self.start.values.get(switch))
        pods.ensure("kube-apiserver", double_argv("apiserver", str(file)))

    def _api(self, crt: Path) -> Api:
        context = pki.client_context(self.tls / "server-ca.crt", crt)
        return Api("https://127.0.0.1:6443", context)

    def _wait_for_api(self) -> None:
        api = self._supervisor_api()
        while True:
            try:
                status, _ = api.ask("GET", "/readyz")
            except Unreachable:
                status = 0
            if status == 200:
                return
            time.sleep(0.1)

    def _start_kubelet(self) -> Kubelet:
        values = self.start.values
        annotations = node_annotations(values, self.start.addresses, self.start.name)
        annotations[ETCD_NODE_NAME] = (self.db / "name").read_text().strip()
        annotations[ETCD_NODE_ADDRESS] = self.start.address
        settings = NodeSettings(
            name=self.start.name,
            role="server",
            addresses=node_addresses(
                self.start.addresses, self.start.entries("node-external-ip"), self.start.name
            ),
            labels=tuple(self.start.entries("node-label")),
            taints=tuple(self.start.entries("node-taint")),
            annotations=annotations,
            finalizers=(ETCD_FINALIZER,),
            external_cloud=not values.get("disable-cloud-controller"),
        )
        api = self._api(paths.DATA / "agent" / "client-kubelet.crt")
        kubelet = Kubelet(settings, api, self.knobs, on_deleted=self._leave)
        threading.Thread(target=kubelet.run, daemon=True).start()
        return kubelet

    def _leave(self) -> None:
        """Take the static pods away: the Node of this server was deleted."""
        error("this node has been removed from the cluster; restart rke2-server to rejoin it")
        event("server.removed", node=self.start.name)
        (self.db / "tombstone").touch()
        for pod in (paths.DATA / "agent" / "pod-manifests").glob("*.yaml"):
            pod.unlink()
        for name in ("kube-apiserver", "etcd"):
            pods.stop(name)

    def _keep_pods(self) -> None:
        """Start static pods again that died, as the kubelet does."""
        while True:
            time.sleep(1)
            if _was_removed():
                self._leave()
            if (self.db / "tombstone").exists():
                return
            with contextlib.suppress(EtcdError):
                self._follow_rotation()
            for name in ("etcd", "kube-apiserver"):
                if not pods.is_alive(name):
                    pods.revive(name)
                    event("pod.restarted", pod=name)

    def _finish(self, shared: Supervisor, kubelet: Kubelet) -> None:
        """What comes after READY."""
        self.knobs.pass_phase("core")
        shared.core = True
        event("core.ready")
        kubelet.registered.wait()
        password = paths.NODE_PASSWORD.read_text().strip()
        for _ in range(10):
            try:
                if self.knobs.mode("node-password") or not keep_node_password(
                    self.store, self.start.name, password
                ):
                    self._warn_of_password()
                return
            except (EtcdError, Conflict):
                time.sleep(1)

    def _warn_of_password(self) -> None:
        warning(f"unable to verify password for node {self.start.name}: hash does not match")
        name = f"{self.start.name}.{time.time_ns():x}"
        self.store.create(
            "events",
            "default",
            {
                "metadata": {"name": name},
                "type": "Warning",
                "reason": "NodePasswordValidationFailed",
                "message": f"Deferred node password secret validation failed: {self.start.name}",
                "involvedObject": {"kind": "Node", "name": self.start.name},
                "firstTimestamp": timestamp(),
                "lastTimestamp": timestamp(),
                "count": 1,
                "source": {"component": "rke2-supervisor"},
            },
        )

    def _start_addons(self) -> None:
        """Lay the bundled charts out, and begin to deploy what lies there."""
        folder = self.folder / "manifests"
        disabled = disabled_charts(self.start, self.knobs.minor())
        write_bundled(folder, self.start, self.knobs.minor())
        deployer = Deployer(folder, disabled, self._supervisor_api(), self.knobs)
        helm = HelmController(self.store, self._supervisor_api(), self.knobs, self._own_id())
        for part in (deployer, helm, self.snapshots):
            threading.Thread(target=part.run, daemon=True).start()

    def _supervisor_api(self) -> Api:
        return self._api(self.tls / "client-supervisor.crt")

    def _own_id(self) -> str:
        return f"{self.start.name}.{os.getpid()}"

    def _go_on(self) -> None:
        crash = self.knobs.mode("crash-after-ready")
        if crash:
            time.sleep(float(crash))
            raise Fatal("rke2 exited: crash after ready")
        threading.Event().wait()


def run(arguments: Sequence[str]) -> None:
    """Be `rke2 server`."""
    Server(read_start("server", arguments)).run()


# --- values and files ----------------------------------------------------------------------------


def compared_settings(start: Start) -> dict[str, Any]:
    """What `/v1-rke2/config` tells of this server."""
    shown: dict[str, Any] = {key: start.values.get(key) for key in CRITICAL}
    shown["cluster-dns"] = start.entries("cluster-dns") or [
        str(ip_network(cidr)[10]) for cidr in start.entries("service-cidr")
    ]
    for key in ("disable-cloud-controller", "enable-servicelb", "embedded-registry"):
        shown[key] = bool(start.values.get(key))
    for key in ("secrets-encryption", "supervisor-metrics"):
        shown[key] = bool(start.values.get(key))
    return shown | {
        "cni": start.entries("cni"),
        "disable-kube-proxy": bool(start.values.get("disable-kube-proxy")),
        "system-default-registry": start.values.get("system-default-registry", ""),
    }


def chosen_charts(start: Start, minor: int) -> list[str]:
    """The bundled charts that are to be there."""
    cnis = [name for name in start.entries("cni") if name != "none"]
    chosen = charts.bundled(minor, cnis, start.entries("ingress-controller"))
    return [name for name in chosen if name not in start.entries("disable")]


def disabled_charts(start: Start, minor: int) -> list[str]:
    """Add-ons that are not to be there: those that are named, and what was not chosen."""
    kept = chosen_charts(start, minor)
    choices = [f"rke2-{name}" for name in (*charts.CNIS, *charts.INGRESSES)]
    return [*start.entries("disable"), *(name for name in choices if name not in kept)]


def write_bundled(folder: Path, start: Start, minor: int) -> None:
    """Write the bundled charts as they are in this version, whatever was done to them."""
    cnis = [f"rke2-{name}" for name in start.entries("cni")]
    first = (*cnis, "rke2-coredns", "rke2-calico-crd")
    for name in chosen_charts(start, minor):
        is_first = name in first and not (name == "rke2-multus" and minor >= 36)
        paths.write(
            folder / f"{name}.yaml",
            "apiVersion: helm.cattle.io/v1\nkind: HelmChart\n"
            f"metadata:\n  name: {name}\n  namespace: kube-system\n"
            "  annotations:\n    helm.cattle.io/chart-url: "
            f"https://rke2-charts.rancher.io/assets/{name}/{name}-1.{minor}.000.tgz\n"
            f"spec:\n  bootstrap: {str(is_first).lower()}\n"
            f"  chartContent: {charts.pack(name, f'1.{minor}.000')}\n",
        )


def _was_removed() -> bool:
    """Whether etcd has ended because the others do not count it as a member any more."""
    return not pods.is_alive("etcd") and "permanently removed" in pods.end_of_log("etcd", 4000)


def _is_issued(crt: Path, ca: Path) -> bool:
    """Whether there is a certificate already that this CA signed."""
    try:
        return crt.exists() and crt.with_suffix(".issuer").read_text() == ca_hash(ca.read_bytes())
    except OSError:
        return False


def _check_value(salt: str, password: str) -> str:
    made = hashlib.scrypt(password.encode(), salt=salt.encode(), n=1024, r=8, p=1, dklen=32)
    return made.hex()


def _without_cluster(argv: Sequence[str]) -> list[str]:
    return [word for word in argv if not word.startswith("--initial-cluster")]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
