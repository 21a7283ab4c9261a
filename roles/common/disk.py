"""The disk of a storage node: what is looked at, what is planned, what is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from appliance.actions import RunUnit, WriteFile
from appliance.diskactions import RECORD, DiskRecord, FormatDisk, record_of
from appliance.errors import NotText, Problem
from appliance.facts import Facts
from appliance.plan import Action, GiveUp, Pause
from appliance.role import Findings, StatusLine
from appliance.system import System
from appliance.waiting import Failed, NotYet, Readiness, Ready
from roles.common.diskchoice import (
    DEVICE_KEY,
    REPLICA_MARK,
    Absent,
    DiskSight,
    Mounted,
    Refused,
    Request,
    ToFormat,
    ToMount,
    Verdict,
    judge,
    parse_selector,
    size_words,
    worth_a_look,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LATE_DISK_TIMEOUT_S = 300.0

_WHAT = "the storage disk"
_SUBJECT = "storage disk"
_MOUNTPOINT_KEY = "ONEAPP_STORAGE_MOUNTPOINT"
_UNIT_DIR = PurePosixPath("/etc/systemd/system")
_AGENT_DROP_IN = _UNIT_DIR / "rke2-agent.service.d" / "50-oneke-storage.conf"
_MACHINE_ID = PurePosixPath("/etc/machine-id")
_MOUNTPOINT = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9_.@-]*)+\Z")
# A disk there would hide what the machine itself needs.
_NOT_THERE = (
    *("/home", "/media", "/mnt", "/opt", "/root", "/srv", "/var", "/var/lib", "/var/log"),
    *("/var/lib/rancher", "/var/lib/kubelet", "/var/lib/oneke", "/var/cache", "/var/spool"),
)
_NOT_BELOW = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys"),
    *("/tmp", "/usr", "/var/run", "/var/tmp"),  # noqa: S108  # names to refuse
)


@dataclass(frozen=True)
class StorageParams:
    """Drop-in `storage`."""

    device: str | None
    filesystem: str
    mountpoint: str
    label: str


@dataclass(frozen=True)
class MountUnit:
    """Model of storage.mount.j2."""

    uuid: str
    kind: str
    mountpoint: str


@dataclass(frozen=True)
class AgentDropIn:
    """Model of 50-oneke-storage.conf.j2."""

    mountpoint: str


@dataclass(frozen=True)
class DiskProbe:
    """Looks at all disks, and into one that might hold replicas; changes nothing."""

    request: Request

    def look(self, system: System) -> DiskSight:
        """Look once; a disk that is not there yet is simply not seen."""
        sight = self._look_at(system)
        roots = {
            disk.path: system.disks.names_in(disk, found.kind)
            for disk, found in worth_a_look(self.request, sight)
        }
        return replace(sight, roots=roots)

    def _look_at(self, system: System) -> DiskSight:
        mountpoint = self.request.mountpoint
        record, is_broken = _read_record(system)
        disks, path = system.disks.all(), self.request.selector.path
        named = system.disks.examine(path) if path is not None else None
        if named is not None:
            disks = (*(disk for disk in disks if disk.path != named.path), named)
        at_place = [mount for mount in system.disks.mounts() if mount.place == mountpoint]
        mark = mountpoint / REPLICA_MARK
        return DiskSight(
            disks=tuple(sorted(disks, key=lambda disk: disk.path)),
            named=named,
            mount=at_place[-1] if at_place else None,
            record=record,
            is_record_broken=is_broken,
            hides_replicas=not at_place and system.files.state(mark) is not None,
            machine_id=(system.files.read(_MACHINE_ID) or "").strip(),
        )


def _read_record(system: System) -> tuple[DiskRecord | None, bool]:
    try:
        text = system.files.read(RECORD)
        return (None if text is None else DiskRecord.from_text(text)), False
    except (NotText, ValueError):
        return None, True


# --- what is wanted ------------------------------------------------------------------------------


def disk_request(params: StorageParams) -> Request | None:
    """Return what is asked for; None where no disk is to be prepared."""
    selector = parse_selector(params.device) if params.device else None
    if selector is None:
        return None
    mountpoint = PurePosixPath(params.mountpoint)
    return Request(selector, params.filesystem, params.label, mountpoint)


def disk_probes(params: StorageParams) -> tuple[DiskProbe, ...]:
    """Return what is to be looked at, for `FactsWanted.probes`."""
    request = disk_request(params)
    return () if request is None else (DiskProbe(request),)


def check_disk(params: StorageParams) -> Findings:
    """Find what does not fit, or is doubtful, before any disk is looked at."""
    problems = []
    if params.device and parse_selector(params.device) is None:
        accepted = "expected a path such as /dev/vdb, by-id:NAME, serial:TEXT or size:100G"
        problems.append(Problem(DEVICE_KEY, params.device, accepted))
    if not _is_sound(params.mountpoint):
        accepted = (
            "expected a path such as /var/lib/longhorn, of letters, digits and . _ @ -, that hides"
            " nothing of the system"
        )
        problems.append(Problem(_MOUNTPOINT_KEY, params.mountpoint, accepted))
    unset = f"{DEVICE_KEY} is not set: no disk is prepared, and Longhorn writes to the root disk"
    return Findings(tuple(problems), () if params.device else (unset,))


def _is_sound(mountpoint: str) -> bool:
    below = any(mountpoint == tree or mountpoint.startswith(f"{tree}/") for tree in _NOT_BELOW)
    return bool(_MOUNTPOINT.match(mountpoint)) and not below and mountpoint not in _NOT_THERE


def mount_unit_name(mountpoint: str) -> str:
    """Return the name systemd wants for the mount unit of a place.

    Source: systemd.unit(5), string escaping for inclusion in unit names.
    """
    parts = mountpoint.strip("/").encode()
    escaped = "".join(
        "-" if c == 0x2F else chr(c) if re.match(rb"[A-Za-z0-9:_.]", bytes([c])) else f"\\x{c:02x}"
        for c in parts
    )
    return f"{escaped}.mount"


# --- what is done --------------------------------------------------------------------------------


def plan_disk(
    params: StorageParams, facts: Facts, render: Callable[[str, DataclassInstance], str]
) -> tuple[Action, ...]:
    """Have the disk formatted if it is empty, mounted, and RKE2 kept from starting without it.

    Args:
        params: The drop-in's.
        facts: With what `disk_probes` asks for.
        render: Turns a template of the drop-in and its model into text.
    """
    verdict = disk_verdict(params, facts)
    if verdict is None:
        return ()
    return tuple(_actions(params, verdict, render))


def _actions(
    params: StorageParams, verdict: Verdict, render: Callable[[str, DataclassInstance], str]
) -> Iterator[Action]:
    drop_in = AgentDropIn(params.mountpoint)
    yield WriteFile(_AGENT_DROP_IN, render("50-oneke-storage.conf.j2", drop_in))
    if isinstance(verdict, Absent | Refused):
        return
    if isinstance(verdict, ToFormat):
        found = verdict.made
        yield FormatDisk(verdict.disk, found)
    else:
        found = verdict.found
        yield WriteFile(RECORD, record_of(verdict.disk, found).to_text(), mode=0o600)
    unit = mount_unit_name(params.mountpoint)
    model = MountUnit(found.uuid, found.kind, params.mountpoint)
    yield WriteFile(_UNIT_DIR / unit, render("storage.mount.j2", model))
    yield RunUnit(unit)


def disk_verdict(params: StorageParams, facts: Facts) -> Verdict | None:
    """Return what is so and may be done; None where no disk is to be prepared."""
    request = disk_request(params)
    return None if request is None else judge(request, facts.found(DiskProbe(request)))


def disk_pause(params: StorageParams, facts: Facts) -> Pause | GiveUp | None:
    """Say what the disk's plan has to wait for, if anything, for `Plan.then`."""
    verdict = disk_verdict(params, facts)
    if isinstance(verdict, Absent):
        return Pause(_WHAT, verdict.reason, LATE_DISK_TIMEOUT_S)
    return GiveUp(_WHAT, verdict.reason) if isinstance(verdict, Refused) else None


# --- what is told --------------------------------------------------------------------------------


def disk_readiness(params: StorageParams, facts: Facts) -> Readiness:
    """Ready means: mounted where it belongs, and writable; or no disk is wanted."""
    verdict = disk_verdict(params, facts)
    if verdict is None or (isinstance(verdict, Mounted) and not verdict.is_read_only):
        return Ready()
    said = f"{_SUBJECT}: {_describe(params, verdict)}"
    is_lost = isinstance(verdict, Refused | Mounted)
    return Failed(said) if is_lost else NotYet(said)


def describe_disk(params: StorageParams, facts: Facts) -> tuple[StatusLine, ...]:
    """Describe the disk for a person."""
    verdict = disk_verdict(params, facts)
    if verdict is None:
        state = f"none is prepared, as {DEVICE_KEY} is not set; Longhorn writes to the root disk"
        return (StatusLine(_SUBJECT, state),)
    state = _describe(params, verdict)
    is_well = isinstance(disk_readiness(params, facts), Ready)
    return (StatusLine(_SUBJECT, state, is_well),)


def _describe(params: StorageParams, verdict: Verdict) -> str:
    if isinstance(verdict, Refused):
        return f"failed: {verdict.reason}"
    if isinstance(verdict, Absent):
        return verdict.reason
    disk = f"{verdict.disk.path} ({size_words(verdict.disk.size_bytes)})"
    if isinstance(verdict, ToFormat):
        return f"{disk} is empty and will be formatted as {verdict.made.kind}"
    if isinstance(verdict, ToMount):
        return f"{disk} is not mounted at {params.mountpoint}"
    if verdict.is_read_only:
        return (
            f"failed: {disk} at {params.mountpoint} is read-only, as after an error of the disk:"
            " dmesg tells"
        )
    return f"{disk}, {verdict.found.kind}, at {params.mountpoint}"
