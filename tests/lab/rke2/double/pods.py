"""Static pods: processes that go on when the unit is stopped, as containers do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from . import paths

_FOLDER = paths.RUN / "pods"


def ensure(name: str, argv: Sequence[str], log: Path | None = None) -> bool:
    """Start a pod unless it runs already with the very same command; whether it was started."""
    note = _FOLDER / f"{name}.json"
    known = _read(note)
    if known is not None and _is_running(known) and known["argv"] == list(argv):
        return False
    stop(name)
    log = log or paths.POD_LOGS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            cwd="/",
            start_new_session=True,
        )
    started = {"pid": process.pid, "since": _since(process.pid), "argv": list(argv)}
    paths.write(note, json.dumps(started))
    return True


def revive(name: str) -> None:
    """Start a pod again that has died."""
    known = _read(_FOLDER / f"{name}.json")
    if known is not None and isinstance(known["argv"], list):
        ensure(name, known["argv"])


def is_alive(name: str) -> bool:
    """Whether a pod runs."""
    known = _read(_FOLDER / f"{name}.json")
    return known is not None and _is_running(known)


def stop(name: str, timeout_s: float = 5) -> None:
    """End a pod: asked first, then forced."""
    note = _FOLDER / f"{name}.json"
    known = _read(note)
    if known is None:
        return
    pid = int(str(known["pid"]))
    deadline = time.monotonic() + timeout_s
    force = False
    while _is_running(known):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if force else signal.SIGTERM)
        force = time.monotonic() > deadline
        time.sleep(0.05)
    note.unlink(missing_ok=True)


def end_of_log(name: str, characters: int = 300) -> str:
    """What a pod said last."""
    try:
        return (paths.POD_LOGS / f"{name}.log").read_text(errors="replace")[-characters:].strip()
    except OSError:
        return ""


def _read(note: Path) -> dict[str, object] | None:
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _is_running(known: dict[str, object]) -> bool:
    pid = int(str(known["pid"]))
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return _since(pid) == known["since"]


def _since(pid: int) -> str:
    """When a process was started; empty if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
