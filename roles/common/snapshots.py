"""Snapshots of etcd: what RKE2 is told about them, and what does not fit together.

Address and keys of an object store are in a Secret that the component's manifest brings; RKE2's
settings name it, and nothing else about the store, for it would not be looked at then.
Source: k3s-io/k3s, pkg/etcd/s3/s3.go (GetClient) and config_secret.go; pkg/etcd/snapshot.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.errors import Problem
from appliance.secret import Secret
from appliance.values import HostAndPort
from roles.common.registries import is_pem
from roles.common.rke2extra import EXTRA_CONFIG_KEY

S3_SECRET = "one-etcd-s3"  # noqa: S105  # a name, no secret

_PREFIX = "ONEAPP_RKE2_SNAPSHOT_"
_SCHEDULE = f"{_PREFIX}SCHEDULE"
_S3 = f"{_PREFIX}S3_"
_BESIDE = ("etcd-s3-config-secret", "etcd-s3-retention")

_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
# Field to its lowest and highest number, and the names of numbers from the lowest on.
# Source: robfig/cron v3, spec.go and parser.go (the standard parser, which has no seconds).
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day", 1, 31, ()),
    ("month", 1, 12, tuple(_MONTHS)),
    ("day of the week", 0, 6, tuple(_DAYS)),
)
_NAMED = re.compile(r"@(?:yearly|annually|monthly|weekly|daily|midnight|hourly)\Z")
_EVERY = re.compile(r"@every (?:[0-9]+(?:\.[0-9]+)?[hms])+\Z")
_PART = re.compile(r"(?P<first>\*|\?|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>[0-9]{1,4}))?\Z")


@dataclass(frozen=True)
class SnapshotParams:
    """Drop-in `snapshots`."""

    enabled: bool
    schedule: str | None
    retention: int | None
    compressed: bool
    s3_bucket: str | None
    s3_endpoint: HostAndPort | None
    s3_region: str | None
    s3_folder: str | None
    s3_access_key: Secret | None
    s3_secret_key: Secret | None
    s3_ca: str | None
    s3_tls_enabled: bool


def snapshot_settings(params: SnapshotParams) -> dict[str, object]:
    """Decide what RKE2's settings on a master say of snapshots; nothing where it is as usual."""
    if not params.enabled:
        return {"etcd-disable-snapshots": True}
    return {
        **({"etcd-snapshot-schedule-cron": params.schedule} if params.schedule else {}),
        **({"etcd-snapshot-retention": params.retention} if params.retention else {}),
        **({"etcd-snapshot-compress": True} if params.compressed else {}),
        **({"etcd-s3": True, "etcd-s3-config-secret": S3_SECRET} if params.s3_bucket else {}),
    }


def check_snapshots(params: SnapshotParams) -> Iterator[Problem]:
    """Find what is wrong with the parameters for snapshots."""
    if params.schedule:
        wrong = what_is_wrong_with_schedule(params.schedule)
        if wrong:
            yield Problem(_SCHEDULE, params.schedule, wrong)
    if params.s3_ca and not is_pem(params.s3_ca):
        yield Problem(f"{_S3}CA", None, "expected certificates in PEM")
    keys = {f"{_S3}ACCESS_KEY": params.s3_access_key, f"{_S3}SECRET_KEY": params.s3_secret_key}
    missing = [key for key, value in keys.items() if not value]
    if len(missing) == 1:
        other = next(key for key in keys if key not in missing)
        wrong = f"missing: {other} alone lets nobody in"
        yield Problem(missing[0], None, wrong, depends_on=(other,))
    yield from _check_bucket(params)


def doubts_about_snapshots(params: SnapshotParams, extra_keys: Iterable[str]) -> Iterator[str]:
    """Find what has no effect beside the user's own settings of RKE2."""
    said = sorted(key for key in extra_keys if key.startswith("etcd-s3-") and key not in _BESIDE)
    if params.enabled and params.s3_bucket and said:
        yield (
            f"{_S3}BUCKET: {EXTRA_CONFIG_KEY} has {said[0]}, and RKE2 looks at the Secret with the"
            " object store only where no setting says anything of it"
        )


def _check_bucket(params: SnapshotParams) -> Iterator[Problem]:
    given = {
        "ENDPOINT": params.s3_endpoint,
        "FOLDER": params.s3_folder,
        "ACCESS_KEY": params.s3_access_key,
        "SECRET_KEY": params.s3_secret_key,
    }
    needing = [f"{_S3}{name}" for name, value in given.items() if value]
    if needing and not params.s3_bucket:
        yield Problem(
            f"{_S3}BUCKET",
            None,
            f"missing: {needing[0]} alone does not say where snapshots go",
            depends_on=tuple(needing),
        )


def what_is_wrong_with_schedule(text: str) -> str | None:
    """Say what is wrong with a schedule, which RKE2 would not start with; None if nothing is."""
    expected = "expected a schedule as in cron, such as 0 */6 * * *"
    if _NAMED.match(text) or _EVERY.match(text):
        return None
    words = text.split()
    if len(words) != len(_FIELDS):
        return f"{expected}: minute, hour, day, month, day of the week"
    for word, (name, lowest, highest, names) in zip(words, _FIELDS, strict=True):
        for part in word.split(","):
            if not _is_part(part, lowest, highest, names):
                return f"{expected}; {part!r} is no {name} ({lowest} to {highest})"
    return None


def _is_part(part: str, lowest: int, highest: int, names: tuple[str, ...]) -> bool:
    found = _PART.match(part)
    if not found or found["step"] == "0" or (found["first"] in "*?" and found["last"]):
        return False
    numbers = [
        _number(found[key], lowest, names)
        for key in ("first", "last")
        if found[key] not in ("*", "?", None)
    ]
    known = [number for number in numbers if number is not None]
    is_within = all(lowest <= number <= highest for number in known)
    return len(known) == len(numbers) and is_within and known == sorted(known)


def _number(word: str, lowest: int, names: tuple[str, ...]) -> int | None:
    if word.isascii() and word.isdigit():
        return int(word)
    return names.index(word.lower()) + lowest if word.lower() in names else None
