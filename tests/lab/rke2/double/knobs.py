"""The knobs of the double: its clock, its version, and what is to go wrong.

Read anew whenever a file changes, so that they can be turned while everything runs.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import paths

DELAYS: dict[str, float] = {
    "bootstrap": 0.0,
    "images": 0.3,
    "etcd": 0.0,
    "apiserver": 0.0,
    "hooks": 0.1,
    "core": 0.2,
    "cni": 0.8,
    "ccm": 0.3,
    "agent": 0.1,
    "pod": 0.2,
    "job": 0.3,
}
"""Seconds that each phase takes on top of the work that is really done."""

INTERVALS: dict[str, float] = {
    "ca_retry": 1.0,  # 2 s
    "config_retry": 1.5,  # 5 to 10 s
    "http_timeout": 3.0,  # 10 s
    "etcd_test": 1.0,  # 5 s
    "learner_retry": 0.5,  # 1 s
    "learner_tick": 1.0,  # 15 s
    "learner_eviction": 20.0,  # 5 min
    "heartbeat": 2.0,  # 10 s
    "node_grace": 7.0,  # 40 s
    "controller_lease": 3.0,  # 15 s
    "controller_tick": 0.5,
    "endpoints": 3.0,
    "workload_tick": 0.5,
    "pod_sync": 1.0,  # at once, by a watch
    "pod_eviction": 30.0,  # 300 s, or as pods say
    "job_backoff": 1.0,  # 10 s
    "minute": 60.0,  # of schedules
    "manifest_scan": 1.5,  # 15 s
    "helm_busy": 0.3,
    "helm_tick": 2.0,
}
"""Seconds between tries, and until patience ends; behind each what the real one takes."""

VERSIONS: dict[str, str] = {
    "1.33": "v1.33.13+rke2r2",
    "1.34": "v1.34.10+rke2r1",
    "1.35": "v1.35.7+rke2r1",
    "1.36": "v1.36.3+rke2r1",
}

MODES = (
    *("wrong-token", "agent-token-as-server", "ca-mismatch", "unreachable", "lb-eof", "blackhole"),
    *("stuck-start", "learner-conflict", "learner-stalled", "duplicate-member", "node-password"),
    *("readyz-flap", "core-not-ready", "config-mismatch", "crash-after-ready", "quorum-loss"),
    *("stale-db-other-token", "cni-missing", "ccm-stuck", "disk-full", "image-missing"),
    *("slow-start", "kubeconfig-early", "not-a-member"),
    *("clock-off", "manifest-crd-missing", "helm-job-fail"),
)
"""Failures that are switched on by name; the others of the contract are brought about for real."""


class Knobs:
    """The knobs as they are now."""

    def __init__(self, files: Sequence[Path] = paths.KNOBS) -> None:
        self._files = tuple(files)
        self._seen: tuple[object, ...] | None = None
        self._values: dict[str, Any] = {}
        self._lock = threading.Lock()

    def values(self) -> Mapping[str, Any]:
        """All that the files say; a later file wins key by key."""
        with self._lock:
            seen = tuple(_identity(path) for path in self._files)
            if seen != self._seen:
                merged: dict[str, Any] = {}
                for path in self._files:
                    _merge(merged, _parse(path))
                self._values, self._seen = merged, seen
            return self._values

    def get(self, name: str, default: Any = None) -> Any:
        """A knob of the first level."""
        value = self.values().get(name)
        return default if value is None else value

    def delay(self, phase: str) -> float:
        """Seconds that a phase takes."""
        delay = float(_section(self.values(), "delays").get(phase, DELAYS[phase]))
        slow = self.mode("slow-start")
        if isinstance(slow, Mapping) and phase in slow:
            delay = float(slow[phase])
        if phase == "apiserver" and self.mode("kubeconfig-early"):
            return 86400.0
        return delay * self._scale()

    def interval(self, name: str) -> float:
        """Seconds of an interval."""
        value = _section(self.values(), "intervals").get(name, INTERVALS[name])
        return max(0.05, float(value) * self._scale())

    def mode(self, name: str) -> Any:
        """What a failure mode is set to; None while it is off."""
        if name not in MODES:
            raise KeyError(name)
        value = _section(self.values(), "modes").get(name)
        return None if value is False else value

    def version(self) -> tuple[str, str]:
        """Profile (`1.35`) and full version."""
        profile = str(self.get("version", "1.35"))
        return profile, VERSIONS.get(profile, f"v{profile}.0+rke2r1")

    def minor(self) -> int:
        """Minor version of Kubernetes."""
        return int(self.version()[0].partition(".")[2])

    def pass_phase(self, phase: str) -> None:
        """Let the time of a phase go by; shortening the delay meanwhile shortens it."""
        started = time.monotonic()
        while (left := started + self.delay(phase) - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))

    def wait_while(self, mode: str) -> None:
        """Wait until a failure mode is off."""
        while self.mode(mode):
            time.sleep(0.25)

    def _scale(self) -> float:
        return float(self.get("scale", 1))


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError:
        return {}
    if not text.strip():
        return {}
    try:
        parsed = json.loads(text)
    except ValueError:
        import yaml  # it costs more to load than all the rest here

        parsed = yaml.safe_load(text)
    return parsed if isinstance(parsed, dict) else {}


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            target[key] = target[key] | dict(value)
        else:
            target[key] = value
