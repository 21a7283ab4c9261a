"""`rke2 server --cluster-reset`: one member is left, with its own data or a snapshot's."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import paths, pods
from .etcd import Etcd, EtcdError, member_argv
from .journal import event, fatal, info
from .snapshots import DEFAULT_FOLDER, SnapshotError, load
from .start import Start
from .tokens import TokenError, parse_token

DB = paths.DATA / "server" / "db"
FLAG = DB / "reset-flag"
_PATIENCE_S = 30


def reset(start: Start, check: Any) -> None:
    """Reset the cluster's membership to this server; it has to be started again afterwards.

    Args:
        start: What it was started with.
        check: Says what the kept value of a token has to be, from salt and password.

    Raises:
        Fatal: If it can not be done.
    """
    if start.server:
        fatal(
            "starting kubernetes: preparing server: cannot perform cluster-reset while server URL "
            "is set - remove server from configuration before resetting"
        )
    if FLAG.exists():
        fatal(
            "starting kubernetes: preparing server: Managed etcd cluster membership has been reset "
            f"already, restart without --cluster-reset flag now; delete {FLAG} to reset again"
        )
    check_source(start)
    if _is_running():
        fatal("listen tcp :9345: bind: address already in use: stop rke2-server first")
    for name in ("kube-apiserver", "etcd"):
        pods.stop(name)
    path = str(start.values.get("cluster-reset-restore-path") or "")
    keys = _read_snapshot(start, path, check) if path else _read_own(start)
    _run_alone(start, lambda etcd: _write(etcd, start, keys))
    FLAG.touch()
    event("cluster.reset", restored=path)
    info(
        "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. "
        "Backup and delete ${datadir}/server/db on each peer etcd server and rejoin the nodes"
    )


def check_source(start: Start) -> None:
    """Refuse a restore that would read a Secret of the cluster, which is down.

    Source: k3s-io/k3s, pkg/etcd/etcd.go: with `etcd-s3` any path is one in the bucket.

    Raises:
        Fatal: If the bucket is told by a Secret alone.
    """
    values = start.values
    is_told = values.get("etcd-s3-bucket") or not values.get("etcd-s3-config-secret")
    if values.get("cluster-reset-restore-path") and values.get("etcd-s3") and not is_told:
        fatal(
            "starting kubernetes: preparing server: start managed database: cannot use S3 config "
            "secret when restoring snapshot; configuration must be set in CLI or config file"
        )


def _read_snapshot(start: Start, path: str, check: Any) -> dict[str, str]:
    """The keys of a snapshot, for which room is made."""
    file = Path(path) if "/" in path else DEFAULT_FOLDER / path
    try:
        bootstrap, keys = load(file)
    except SnapshotError as trouble:
        fatal(f"starting kubernetes: preparing server: {trouble}")
    kept = json.loads(bootstrap)
    try:
        password = parse_token(start.token or _own_token()).password
    except TokenError as trouble:
        fatal(f"starting kubernetes: preparing server: {trouble}")
    if kept["check"] != check(kept["salt"], password):
        fatal(
            "starting kubernetes: preparing server: bootstrap data already found and encrypted "
            "with different token"
        )
    _make_room(bootstrap, f"{start.name}-{int(time.time()):08x}")
    return keys


def _read_own(start: Start) -> dict[str, str]:
    """The keys of the own data, for which room is made anew.

    What etcd makes of the data of a member that was killed has another history than its keys tell
    (it forgets what it has applied, where the log does not say that this was agreed on), and who
    joins would get that history.
    """
    if not (DB / "etcd" / "member" / "wal").is_dir():
        fatal("starting kubernetes: preparing server: cluster-reset needs the data of a member")
    keys: dict[str, str] = {}

    def read(etcd: Etcd) -> None:
        keys.update((entry.key, entry.value) for entry in etcd.below("/registry/"))

    _run_alone(start, read, "--force-new-cluster")
    bootstrap, name = ((DB / "etcd" / file).read_text() for file in ("bootstrap.json", "name"))
    _make_room(bootstrap, name.strip())
    return keys


def _make_room(bootstrap: str, name: str) -> None:
    """Put the data aside, if there are any, and begin with none."""
    etcd = DB / "etcd"
    if etcd.exists():
        etcd.rename(DB / f"etcd-old-{int(time.time())}")
    etcd.mkdir(parents=True, mode=0o700)
    paths.write(etcd / "bootstrap.json", bootstrap)
    paths.write(etcd / "name", name)


def _write(etcd: Etcd, start: Start, keys: dict[str, str]) -> None:
    for key, value in keys.items():
        etcd.put(key, value)
    # This server has to prove anew who it is.
    etcd.delete(f"/registry/secrets/kube-system/{start.name}.node-password.rke2")


def _own_token() -> str:
    try:
        return (paths.DATA / "server" / "token").read_text().strip()
    except OSError:
        return ""


def _run_alone(start: Start, act: Callable[[Etcd], None], *options: str) -> None:
    """Run etcd for a while as the only member there is, and do something meanwhile."""
    name = (DB / "etcd" / "name").read_text().strip()
    cluster = [(name, f"http://{start.address}:2380")]
    argv = member_argv(name, DB / "etcd", start.address, cluster, joins=False)
    log = paths.POD_LOGS / "etcd-reset.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen([*argv, *options], stdout=output, stderr=output)
    try:
        act(_wait(process, log))
    finally:
        process.terminate()
        process.wait(timeout=_PATIENCE_S)
    (paths.RUN / "etcd.json").unlink(missing_ok=True)


def _wait(process: subprocess.Popen[bytes], log: Path) -> Etcd:
    """Wait until etcd is up with one member.

    Raises:
        Fatal: If it does not come up.
    """
    etcd = Etcd(timeout_s=5)
    deadline = time.monotonic() + _PATIENCE_S
    while not _is_alone(etcd):
        if time.monotonic() > deadline or process.poll() is not None:
            fatal(f"etcd did not come up alone: {log.read_text(errors='replace')[-300:]}")
        time.sleep(0.2)
    return etcd


def _is_alone(etcd: Etcd) -> bool:
    try:
        etcd.get("/rke2/health")
        return len(etcd.members()) == 1 and etcd.status().leader != 0
    except EtcdError:
        return False


def _is_running() -> bool:
    """Whether the supervisor of this node listens."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", 9345)) == 0
