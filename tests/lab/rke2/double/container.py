"""A container that is really run: an image's root in namespaces of its own, as root or a user.

Three processes: a keeper that outlives the kubelet and notes how it ended, `unshare`, and what
becomes the container's first process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from . import paths
from .images import Image, unpack

CONTAINERS = paths.RUN / "containers"
START_FAILED = 128

CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT"),
    *("SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD"),
    *("LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)
"""By their numbers in the kernel."""

USUAL = (
    *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
    *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
)
"""What a container has unless it says otherwise. Source: containerd, oci/spec.go."""

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def granted(security: Mapping[str, Any]) -> tuple[str, ...]:
    """Capabilities that a security context leads to."""
    if security.get("privileged"):
        return CAPABILITIES
    asked = security.get("capabilities") or {}
    drop, add = (
        [str(name).upper().removeprefix("CAP_") for name in asked.get(key) or []]
        for key in ("drop", "add")
    )
    kept = () if "ALL" in drop else tuple(name for name in USUAL if name not in drop)
    return CAPABILITIES if "ALL" in add else tuple(dict.fromkeys([*kept, *add]))


def settings_of(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    image: Image,
    volumes: Mapping[str, str],
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """What the processes have to know.

    Args:
        pod: The pod.
        container: The one of it that is to run.
        image: Its image.
        volumes: Host path of each volume, by its name.
        environment: What the container's own variables come to.
    """
    uid, spec = str(pod["metadata"]["uid"]), pod["spec"]
    security = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
    config = image.config
    entry = container.get("command") or config.get("Entrypoint") or []
    own = container.get("args") or ([] if container.get("command") else config.get("Cmd") or [])
    inherited = dict(line.split("=", 1) for line in config.get("Env") or [])
    return {
        "archive": str(image.archive),
        "layers": list(image.layers),
        "folder": str(CONTAINERS / uid),
        "argv": [*entry, *own],
        "environment": {"PATH": os.defpath, "HOSTNAME": pod["metadata"]["name"]}
        | inherited
        | dict(environment),
        "directory": container.get("workingDir") or config.get("WorkingDir") or "/",
        "mounts": [
            {
                "source": volumes[mount["name"]] + _below(mount.get("subPath", "")),
                "target": mount["mountPath"],
                "read_only": bool(mount.get("readOnly")),
            }
            for mount in container.get("volumeMounts") or []
        ],
        "own_pids": not spec.get("hostPID"),
        "own_network": not spec.get("hostNetwork"),
        "read_only": bool(security.get("readOnlyRootFilesystem")),
        "no_new_privileges": security.get("allowPrivilegeEscalation") is False,
        "user": security.get("runAsUser"),
        "group": security.get("runAsGroup"),
        "capabilities": list(granted(security)),
    }


def _below(path: str) -> str:
    return f"/{path}" if path else ""


# --- the keeper ----------------------------------------------------------------------------------


def keep(settings_file: str, program: Sequence[str]) -> int:
    """Run a container to its end and note how that was.

    Args:
        settings_file: Made of `settings_of`.
        program: The command that becomes the first process of the container.
    """
    settings = json.loads(Path(settings_file).read_text())
    folder = Path(settings["folder"])
    result: dict[str, Any] = {"started": time.time()}
    paths.write(folder / "result.json", json.dumps(result))
    try:
        image = Image(Path(settings["archive"]), tuple(settings["layers"]), {})
        unpack(image, folder / "root")
    except OSError as error:
        print(f"failed to create containerd container: {error}", file=sys.stderr)
        status = START_FAILED
    else:
        status = _run(settings, [*program, settings_file])
    result |= {"ended": time.time(), "status": status}
    paths.write(folder / "result.json", json.dumps(result))
    return 0


def _run(settings: Mapping[str, Any], program: Sequence[str]) -> int:
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]
    argv += ["--pid"] if settings["own_pids"] else []
    argv += ["--net", "--uts", "--ipc"] if settings["own_network"] else []
    process = subprocess.Popen([*argv, "--fork", "--kill-child=KILL", "--", *program])

    def pass_on(number: int, _: FrameType | None) -> None:
        for line in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(line), number)

    signal.signal(signal.SIGTERM, pass_on)
    status = process.wait()
    return 128 - status if status < 0 else status


# --- the first process ---------------------------------------------------------------------------


def become(settings_file: str) -> int:
    """Set the mounts up and become what the container is to run."""
    settings = json.loads(Path(settings_file).read_text())
    root = Path(settings["folder"]) / "root"
    try:
        _mount_all(settings, root)
        os.chroot(root)
        os.chdir(settings["directory"])
        _drop(settings)
        os.execvpe(settings["argv"][0], settings["argv"], settings["environment"])
    except (OSError, IndexError) as error:
        print(f"failed to start container: {error}", file=sys.stderr, flush=True)
    return START_FAILED


def _mount_all(settings: Mapping[str, Any], root: Path) -> None:
    _mount("--bind", str(root), str(root))
    for name in ("proc", "sys", "dev", "etc"):
        (root / name).mkdir(exist_ok=True)
    _mount("-t", "proc", "proc", str(root / "proc"))
    _mount("--rbind", "/sys", str(root / "sys"))
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root / "dev"))
    for name in _DEVICES:
        _bind(Path("/dev") / name, root / "dev" / name)
    if not settings["own_network"]:
        for name in ("hosts", "resolv.conf"):
            if Path("/etc", name).exists():
                _bind(Path("/etc", name), root / "etc" / name)
    for mount in settings["mounts"]:
        _bind(
            Path(mount["source"]),
            root / mount["target"].lstrip("/"),
            read_only=mount["read_only"],
        )
    if settings["read_only"]:
        _mount("-o", "remount,bind,ro", str(root))


def _bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount("--rbind", str(source), str(target))
    if read_only:
        _mount("-o", "remount,bind,ro", str(target))


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"mount {' '.join(arguments)}: {done.stderr.strip()}")


def _drop(settings: Mapping[str, Any]) -> None:
    """Give up what the security context does not grant."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number, name in enumerate(CAPABILITIES):
        if name not in settings["capabilities"]:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # unknown to an older kernel: not there
    if settings["group"] is not None:
        os.setgroups([])
        os.setgid(int(settings["group"]))
    if settings["user"] is not None:
        os.setuid(int(settings["user"]))
    if settings["no_new_privileges"] and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
